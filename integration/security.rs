// SPDX-License-Identifier: Apache-2.0
//! Attacks of hostile images and bundles, after the advisories that taught them. Labels: A for paths of the rootfs,
//! B for mounts and sources, C for descriptors. What is at stake is the canary directory outside the rootfs.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use serde_json::json;

use crate::harness::{Bundle, Flavor, flavor, host};
use crate::{orlop_only, peer_differs};

/// A bundle whose rootfs has a link to the canary directory at `link`.
fn hostile(link: &str) -> Bundle {
    let bundle = Bundle::new();
    let canary = bundle.canary();
    bundle.link_in_rootfs(link, canary.to_str().unwrap())
}

/// Runs the bundle, whatever comes of it, and checks the canary and that nothing is left.
#[track_caller]
fn canary_survives(bundle: &Bundle) {
    let out = bundle.try_run(["/probe", "echo", "x"]);
    assert!(out.code() < 128 || out.code() == 255, "{out}");
    bundle.check_canary();
    drop(bundle.delete_force());
    if flavor() != Flavor::Crun {
        bundle.check_clean();
    }
}

/// Replaces a directory of the rootfs by something else.
fn without_dir(bundle: &Bundle, name: &str) {
    fs::remove_dir_all(bundle.rootfs().join(name)).unwrap();
}

#[test]
fn a01_cve_2021_30465_mount_destination_is_a_link() {
    let bundle = hostile("/evil").mount("/evil", "tmpfs", "tmpfs", &[]);
    canary_survives(&bundle);
    let out = bundle.try_run(["/probe", "report"]);
    if out.status.success() {
        // It is where the link leads inside the root, and not on the directory outside, which nobody would see.
        crate::harness::mount_at(&out.json(), bundle.canary().to_str().unwrap());
    }
}

#[test]
fn a02_cve_2024_45310_missing_directory_below_a_link() {
    canary_survives(&hostile("/evil").mount("/evil/made/here", "tmpfs", "tmpfs", &[]));
}

#[test]
fn a03_cve_2024_45310_missing_file_below_a_link() {
    canary_survives(&hostile("/evil").mount("/evil/file", "bind", "/dev/null", &["bind"]));
}

#[test]
fn a04_relative_links_that_climb() {
    let bundle = Bundle::new();
    let canary = bundle.canary();
    let up = format!("{}{}", "../".repeat(20), canary.to_str().unwrap().trim_start_matches('/'));
    canary_survives(&bundle.link_in_rootfs("/evil", &up).mount("/evil/made", "tmpfs", "tmpfs", &[]));
}

#[test]
fn a05_dots_in_the_destination() {
    let bundle = Bundle::new();
    let canary = bundle.canary();
    let destination = format!("/{}{}", "../".repeat(20), canary.join("made").to_str().unwrap().trim_start_matches('/'));
    canary_survives(&bundle.mount(&destination, "tmpfs", "tmpfs", &[]));
}

#[test]
fn a06_cve_2026_41579_dev_is_a_link_and_nothing_is_mounted_there() {
    peer_differs!("runc", "1.1.5 is before the fix");
    peer_differs!("crun", "1.8 is before the fix");
    let bundle = Bundle::new().remove("/mounts/2").remove("/mounts/1");
    without_dir(&bundle, "dev");
    symlink(bundle.canary(), bundle.rootfs().join("dev")).unwrap();
    canary_survives(&bundle);
}

#[test]
fn a07_configured_device_below_a_link() {
    let bundle = hostile("/evil").set(
        "/linux/devices",
        json!([
            {"path": "/evil/null", "type": "c", "major": 1, "minor": 3},
            {"path": "/evil/deep/null", "type": "c", "major": 1, "minor": 3}
        ]),
    );
    canary_survives(&bundle);
}

#[test]
fn a08_dev_shm_and_pts_are_links() {
    let bundle =
        Bundle::new().remove("/mounts/2").remove("/mounts/1").mount("/dev/pts", "devpts", "devpts", &["newinstance"]);
    let canary = bundle.canary();
    for name in ["pts", "ptmx", "fd", "null", "console"] {
        symlink(canary.join(name), bundle.rootfs().join("dev").join(name)).unwrap();
    }
    if flavor() != Flavor::Orlop {
        crate::skip_expected!("Debian's peers are before the fixes of this class");
    }
    canary_survives(&bundle);
}

#[test]
fn a09_cwd_below_a_link_is_made_inside() {
    let bundle = hostile("/evil").set("/process/cwd", "/evil/made/cwd");
    canary_survives(&bundle);
}

#[test]
fn a10_cve_2019_19921_proc_is_a_link() {
    let bundle = Bundle::new();
    without_dir(&bundle, "proc");
    symlink("/tmp", bundle.rootfs().join("proc")).unwrap();
    let out = bundle.try_run(["/probe"]);
    // Refused, or mounted where the kernel's proc really is /proc.
    if out.status.success() {
        assert!(out.json()["ns"]["pid"].is_string(), "{out}");
    }
    if flavor() == Flavor::Orlop {
        assert!(!out.status.success(), "{out}");
        out.fails_with(&["/proc"]);
    }
    bundle.delete_force().ok();
}

#[test]
fn a11_cve_2019_16884_something_else_is_mounted_on_proc() {
    let bundle = Bundle::new();
    let fake = bundle.dir.join("fake");
    fs::create_dir_all(fake.join("self/attr")).unwrap();
    let bundle = bundle.set(
        "/mounts/0",
        json!({"destination": "/proc", "type": "bind", "source": fake.to_str().unwrap(), "options": ["bind"]}),
    );
    let out = bundle.try_run(["/probe", "echo", "x"]);
    if flavor() != Flavor::Crun {
        assert!(!out.status.success(), "{out}");
    }
    bundle.delete_force().ok();
}

#[test]
fn a12_a_mount_over_a_part_of_proc() {
    peer_differs!("runc", "1.1.5 has another policy here");
    peer_differs!("crun", "1.8 has another policy here");
    let bundle = Bundle::new().mount("/proc/self/attr", "tmpfs", "tmpfs", &[]);
    bundle.try_run(["/probe", "echo", "x"]).fails_with(&["/proc"]);
    bundle.check_clean();
}

#[test]
fn a13_cve_2021_30465_links_that_change_during_the_start() {
    peer_differs!("runc", "1.1.5 is before the fix of CVE-2024-45310");
    // A directory and a link to the canary swap places all the while, as a second container with the volume would do.
    let bundle = Bundle::new();
    let canary = bundle.canary();
    let volume = bundle.rootfs().join("volume");
    fs::create_dir_all(volume.join("a")).unwrap();
    symlink(&canary, volume.join("b")).unwrap();
    let bundle =
        bundle.mount("/volume/a/made", "tmpfs", "tmpfs", &[]).mount("/volume/a/other/deep", "tmpfs", "tmpfs", &[]);
    let (a, b) = (
        CString::new(volume.join("a").to_str().unwrap()).unwrap(),
        CString::new(volume.join("b").to_str().unwrap()).unwrap(),
    );
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // SAFETY: two NUL-terminated strings.
                unsafe {
                    libc::syscall(
                        libc::SYS_renameat2,
                        libc::AT_FDCWD,
                        a.as_ptr(),
                        libc::AT_FDCWD,
                        b.as_ptr(),
                        libc::RENAME_EXCHANGE,
                    );
                }
            }
        });
        for _ in 0..15 {
            drop(bundle.try_run(["/probe", "echo", "x"]));
            drop(bundle.delete_force());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    bundle.check_canary();
    if flavor() == Flavor::Crun {
        // Its failed creates leave cgroups.
        for left in host::cgroups_named(&bundle.id) {
            drop(fs::remove_dir(left));
        }
    }
}

#[test]
fn a15_masked_and_readonly_paths_through_links() {
    let bundle = hostile("/evil")
        .set("/linux/maskedPaths", json!(["/evil", "/evil/keep"]))
        .set("/linux/readonlyPaths", json!(["/evil"]));
    canary_survives(&bundle);
}

#[test]
fn a18_the_rootfs_itself_is_a_link() {
    // Allowed, as engines do it, or refused; it must not put anything beside the target.
    let bundle = Bundle::new();
    symlink("rootfs", bundle.dir.join("link")).unwrap();
    let bundle = bundle.set("/root/path", "link");
    let out = bundle.try_run(["/probe", "echo", "x"]);
    if flavor() == Flavor::Orlop {
        out.ok();
    } else if !out.status.success() {
        out.fails();
    }
    assert_eq!(fs::read_link(bundle.dir.join("link")).unwrap(), std::path::Path::new("rootfs"));
    bundle.delete_force().ok();
    bundle.check_clean();
}

/// The image's /dev has a null that is not the null device.
fn fake_null(make: impl FnOnce(&std::path::Path)) -> Bundle {
    let bundle = Bundle::new().remove("/mounts/2").remove("/mounts/1");
    make(&bundle.rootfs().join("dev/null"));
    bundle
}

#[test]
fn b01_cve_2025_31133_masking_with_a_fake_null_device() {
    peer_differs!("runc", "1.1.5 is before the fix");
    peer_differs!("crun", "1.8 is before the fix");
    let bundle = fake_null(|null| symlink("/fake", null).unwrap())
        .file("/fake", "not null", 0o666)
        .file("/secret", "secret", 0o644)
        .set("/linux/maskedPaths", json!(["/secret"]));
    let out = bundle.try_run(["/probe", "read", "/secret"]);
    if out.status.success() {
        assert_eq!(out.json()["content"], "", "{out}");
    }
    bundle.delete_force().ok();
}

#[test]
fn b02_cve_2025_31133_a_regular_file_as_null() {
    peer_differs!("runc", "1.1.5 is before the fix");
    peer_differs!("crun", "1.8 is before the fix");
    let bundle = fake_null(|null| fs::write(null, "not null").unwrap())
        .file("/secret", "secret", 0o644)
        .set("/linux/maskedPaths", json!(["/secret"]));
    let out = bundle.try_run(["/probe", "read", "/secret"]);
    if out.status.success() {
        assert_eq!(out.json()["content"], "", "{out}");
    }
    bundle.delete_force().ok();
}

#[test]
fn b07_cve_2019_16884_sysctl_with_a_fake_proc() {
    let bundle = Bundle::new();
    let fake = bundle.dir.join("fake");
    fs::create_dir_all(fake.join("sys/kernel")).unwrap();
    fs::write(fake.join("sys/kernel/msgmax"), "untouched").unwrap();
    let bundle = bundle
        .set(
            "/mounts/0",
            json!({"destination": "/proc", "type": "bind", "source": fake.to_str().unwrap(), "options": ["bind"]}),
        )
        .set("/linux/sysctl", json!({"kernel.msgmax": "4444"}));
    drop(bundle.try_run(["/probe", "echo", "x"]));
    assert_eq!(fs::read_to_string(fake.join("sys/kernel/msgmax")).unwrap(), "untouched");
    bundle.delete_force().ok();
}

#[test]
fn b12_the_host_s_propagation_is_not_changed() {
    let table = || {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
        text.lines()
            .map(|l| l.split(" - ").next().unwrap().split(' ').skip(4).map(String::from).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    // Other tests may mount nothing on the host either, so the table is the same before and after.
    let before = table();
    Bundle::new().set("/linux/rootfsPropagation", "rslave").run(["/probe", "echo", "x"]).ok();
    assert_eq!(table(), before);
}

#[test]
fn b15_cgroups_path_with_dots_stays_inside() {
    peer_differs!("crun", "1.8 has another policy here");
    let bundle = Bundle::new();
    let out = bundle.dir.join("escaped");
    let path = format!("../../../../../../../..{}", out.display());
    let bundle = bundle.set("/linux/cgroupsPath", path);
    drop(bundle.try_run(["/probe", "echo", "x"]));
    assert!(!out.exists());
    let first = out.components().nth(1).unwrap().as_os_str().to_str().unwrap().to_string();
    for root in host::cgroups_named(&first) {
        remove_tree(&root);
    }
}

/// Removes a tree of empty cgroups.
fn remove_tree(dir: &std::path::Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
        remove_tree(&entry.path());
    }
    drop(fs::remove_dir(dir));
}

#[test]
fn b16_sysctl_keys_that_climb() {
    for key in [
        "kernel/../vm/swappiness",
        "net.../..kernel.panic",
        "net/../kernel/panic",
        "kernel.shm_rmid_forced/../../vm/swappiness",
    ] {
        if flavor() == Flavor::Crun || (flavor() == Flavor::Runc && key.starts_with("net")) {
            continue; // Older peers compare prefixes and write to the container's own files.
        }
        let bundle = Bundle::new().set("/linux/sysctl", json!({key: "7"}));
        bundle.try_run(["/probe", "echo", "x"]).fails();
        bundle.check_clean();
    }
}

#[test]
fn b18_cve_2026_88265_standard_streams_are_not_chowned_elsewhere() {
    peer_differs!("crun", "1.8 is before the fix");
    let bundle = Bundle::new().set("/process/user", json!({"uid": 1000, "gid": 1000})).args(["/probe", "echo", "x"]);
    let file = bundle.dir.join("hostfile");
    fs::write(&file, "x").unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let bundle = bundle.remove("/mounts/2").remove("/mounts/1");
    symlink(&file, bundle.rootfs().join("dev/null")).unwrap();
    drop(bundle.call_new("run", &[]).output());
    assert_eq!(fs::metadata(&file).unwrap().uid(), 0);
    drop(bundle.delete_force());
}

#[test]
fn b19_cve_2026_115521_a_proc_self_fd_of_the_image() {
    // No proc is mounted; the image has its own /proc/self/fd, whose entries lead elsewhere.
    let mut bundle = Bundle::new().remove("/mounts/0").set("/root/readonly", true);
    for number in 0..64 {
        bundle = bundle.link_in_rootfs(&format!("/proc/self/fd/{number}"), "/tmp");
    }
    let out = bundle.try_run(["/probe", "write", "/x", "y"]);
    if out.status.success() {
        assert_eq!(out.json()["errno"], libc::EROFS, "{out}");
    }
    bundle.delete_force().ok();
}

#[test]
fn b20_a_read_only_bind_is_never_writable() {
    let bundle = Bundle::new();
    let source = bundle.dir.join("source");
    fs::create_dir(&source).unwrap();
    let bundle = bundle.mount("/data", "bind", source.to_str().unwrap(), &["bind", "ro"]);
    let out = bundle.run(["/probe", "write", "/data/x", "y", ",", "mount", "none", "/data", "none", "remount,bind"]);
    assert_eq!(out.jsons()[0]["errno"], libc::EROFS);
    assert_eq!(out.jsons()[1]["errno"], libc::EPERM);
}

#[test]
fn c05_cve_2024_21626_cwd_through_a_leaked_descriptor() {
    peer_differs!("crun", "1.8 is before the fix");
    let root = fs::File::open("/").unwrap();
    for number in 3..16 {
        let bundle = Bundle::new().set("/process/cwd", format!("/proc/self/fd/{number}")).args(["/probe"]);
        let out = bundle.call_new("run", &[]).fd(&root, 7).fd(&root, 8).fd(&root, 9).output();
        if out.status.success() {
            // What it may be is a directory of the container.
            let seen = out.json();
            assert!(seen["cwd"].as_str().is_some_and(|c| c.starts_with('/')), "{number}: {seen}");
            panic!("cwd=/proc/self/fd/{number} was accepted: {}", seen["cwd"]);
        }
        drop(bundle.delete_force());
    }
}

#[test]
fn c06_cve_2024_21626_program_through_a_leaked_descriptor() {
    peer_differs!("crun", "1.8 is before the fix");
    let probe = fs::File::open(crate::harness::runtime::base().join("probe")).unwrap();
    for number in [3, 4, 5, 6, 7, 8, 10, 12] {
        let bundle = Bundle::new().args([format!("/proc/self/fd/{number}")]);
        let out = bundle.call_new("run", &[]).fd(&probe, 7).fd(&probe, 8).output();
        assert!(!out.status.success(), "{number}: {out}");
        drop(bundle.delete_force());
    }
}

#[test]
fn c08_cve_2016_9962_the_created_init_holds_no_directory() {
    peer_differs!("crun", "1.8 is before the fix");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    let proc = format!("/proc/{}", bundle.pid());
    for entry in fs::read_dir(format!("{proc}/fd")).unwrap().flatten() {
        let target = fs::read_link(entry.path()).unwrap();
        let Ok(meta) = fs::metadata(entry.path()) else { continue };
        assert!(!meta.is_dir(), "descriptor {} of init is the directory {}", entry.path().display(), target.display());
    }
    for link in ["root", "cwd"] {
        let here = fs::metadata(format!("{proc}/{link}")).unwrap();
        let rootfs = fs::metadata(bundle.rootfs()).unwrap();
        assert_eq!((here.dev(), here.ino()), (rootfs.dev(), rootfs.ino()), "{link}");
    }
}

#[test]
fn c09_the_created_init_is_not_dumpable() {
    orlop_only!("states it as a rule");
    let bundle = Bundle::new().userns(0, 100_000, 65_536).args(["/probe", "wait"]);
    bundle.create();
    // The files of a process that is not dumpable belong to the real root, not to the mapped one.
    let owner = fs::metadata(format!("/proc/{}/environ", bundle.pid())).unwrap().uid();
    assert_eq!(owner, 0);
}

/// A directory of the host that is mounted read-only, and holds a mount that covers something; only `call` sees it.
fn with_covered_source(bundle: &Bundle, call: crate::harness::Call) -> crate::harness::Call {
    let source = bundle.dir.join("source");
    fs::create_dir(&source).unwrap();
    let text = |path: &std::path::Path| CString::new(path.to_str().unwrap()).unwrap();
    let (top, sub, secret) = (text(&source), text(&source.join("sub")), text(&source.join("sub/secret")));
    let mount = |at: &CString, flags| {
        // SAFETY: constant or owned NUL-terminated strings.
        match unsafe { libc::mount(c"tmpfs".as_ptr(), at.as_ptr(), c"tmpfs".as_ptr(), flags, std::ptr::null()) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes only system calls.
    unsafe {
        call.pre_exec(move || {
            let none = std::ptr::null();
            libc::unshare(libc::CLONE_NEWNS);
            libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast());
            mount(&top, 0)?;
            libc::mkdir(sub.as_ptr(), 0o777);
            libc::mkdir(secret.as_ptr(), 0o777);
            mount(&sub, 0)?;
            mount(&top, libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | libc::MS_NODEV)
        })
    }
}

/// May mount in its user namespace.
fn mounting_root() -> Bundle {
    let caps = json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
    Bundle::new()
        .userns(0, 100_000, 65_536)
        .set("/process/capabilities", json!({"bounding": caps, "permitted": caps, "effective": caps}))
}

#[test]
fn b22_a_user_namespace_cannot_undo_what_the_host_mounted() {
    peer_differs!("crun", "1.8 clones the source outside of the user namespace");
    undo_what_the_host_mounted(&["rbind"]);
    if flavor() == Flavor::Orlop {
        // The parent idmaps it, but the clone is the child's all the same.
        undo_what_the_host_mounted(&["rbind", "ridmap"]);
    }
}

fn undo_what_the_host_mounted(options: &[&str]) {
    let bundle = mounting_root();
    let source = bundle.dir.join("source");
    let bundle = bundle.mount("/mnt", "bind", source.to_str().unwrap(), options).args([
        "/probe",
        "mount",
        "none",
        "/mnt",
        "none",
        "remount,bind",
        ",",
        "write",
        "/mnt/x",
        "y",
        ",",
        "umount",
        "/mnt/sub",
        ",",
        "stat",
        "/mnt/sub/secret",
    ]);
    let out = with_covered_source(&bundle, bundle.call_new("run", &[])).output().ok();
    assert_eq!(out.jsons()[0]["errno"], libc::EPERM, "{out}");
    assert_eq!(out.jsons()[1]["errno"], libc::EROFS, "{out}");
    assert_eq!(out.jsons()[2]["errno"], libc::EINVAL, "{out}");
    assert_eq!(out.jsons()[3]["errno"], libc::ENOENT, "{out}");
}

#[test]
fn b22_nor_can_it_undo_those_of_its_root() {
    let bundle = mounting_root();
    let rootfs = CString::new(bundle.rootfs().to_str().unwrap()).unwrap();
    let bundle = bundle.args(["/probe", "mount", "none", "/", "none", "remount,bind"]);
    // SAFETY: the closure makes only system calls.
    let call = unsafe {
        bundle.call_new("run", &[]).pre_exec(move || {
            let (none, at) = (std::ptr::null(), rootfs.as_ptr());
            libc::unshare(libc::CLONE_NEWNS);
            libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast());
            libc::mount(at, at, none, libc::MS_BIND, none.cast());
            libc::mount(none, at, none, libc::MS_REMOUNT | libc::MS_BIND | libc::MS_NODEV, none.cast());
            Ok(())
        })
    };
    let out = call.output().ok();
    assert_eq!(out.json()["errno"], libc::EPERM, "{out}");
}

#[test]
fn b22_a_plain_bind_does_not_uncover_what_the_host_covers() {
    peer_differs!("crun", "1.8 clones the source outside of the user namespace");
    let bundle = mounting_root();
    let source = bundle.dir.join("source");
    let bundle =
        bundle.mount("/mnt", "bind", source.to_str().unwrap(), &["bind"]).args(["/probe", "stat", "/mnt/sub/secret"]);
    let out = with_covered_source(&bundle, bundle.call_new("run", &[])).output().fails();
    if flavor() == Flavor::Orlop {
        out.fails_with(&["mounts[3].source", "rbind"]);
    }
    bundle.check_clean();
}

#[test]
fn b23_sysctls_of_a_joined_namespace_that_is_the_host_s() {
    peer_differs!("crun", "1.8 looks at the name of the namespace only");
    let file = "/proc/sys/net/ipv4/ip_default_ttl";
    let before = fs::read_to_string(file).unwrap();
    let value = before.trim().parse::<u32>().unwrap() - 1;
    let bundle = Bundle::new()
        .join_ns("network", "/proc/self/ns/net")
        .set("/linux/sysctl", json!({"net.ipv4.ip_default_ttl": value.to_string()}));
    let out = bundle.try_run(["/probe", "echo", "x"]);
    let after = fs::read_to_string(file).unwrap();
    fs::write(file, &before).unwrap();
    assert_eq!(after, before);
    out.fails_with(&["net.ipv4.ip_default_ttl", "host"]);
    bundle.check_clean();
}

#[test]
fn c11_cve_2019_5736_a_descriptor_of_the_binary_stays_read_only_when_nobody_runs_it() {
    orlop_only!("is the program whose file is compared");
    // What is kept open is opened again for writing once nothing runs from the file any more, which "text file busy"
    // protects until then: hence a copy of the binary that no other test runs.
    use std::os::fd::AsRawFd;
    let bundle = Bundle::new().args(["/probe", "wait"]);
    let program = bundle.dir.join("runtime");
    crate::harness::runtime::copy_program(&crate::harness::runtime::program(), &program);
    bundle.write_config();
    let (root, dir, pid_file) = (bundle.state_root(), bundle.dir.to_str().unwrap(), bundle.pid_file());
    let create =
        ["--root", root.to_str().unwrap(), "create", "--bundle", dir, "--pid-file", pid_file.to_str().unwrap()];
    let call = crate::harness::Call::new(&program, &bundle.dir, bundle.layer).args(create).args([&bundle.id]);
    call.output().ok();
    let kept = fs::File::open(format!("/proc/{}/exe", bundle.pid())).unwrap();
    let (own, seen) = (fs::metadata(&program).unwrap(), kept.metadata().unwrap());
    assert_eq!((seen.dev(), seen.ino()), (own.dev(), own.ino()), "a copy in memory would prove nothing");
    bundle.delete_force().ok();
    let again = fs::OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", kept.as_raw_fd()));
    assert_eq!(again.unwrap_err().raw_os_error(), Some(libc::EROFS));
}

#[test]
fn c12_preserve_fds_does_not_pass_the_log_in_the_place_of_a_missing_descriptor() {
    orlop_only!("has this log");
    let bundle = Bundle::new().args(["/probe"]);
    bundle.write_config();
    let log = bundle.dir.join("log");
    let dir = bundle.dir.to_str().unwrap();
    let call = ["--debug", "--log", log.to_str().unwrap(), "run", "--preserve-fds", "1", "--bundle", dir, &bundle.id];
    // SAFETY: the closure makes only a system call.
    let call = unsafe {
        bundle.call(call).pre_exec(|| {
            libc::close(3);
            Ok(())
        })
    };
    call.output().fails_with(&["preserve-fds"]);
    bundle.check_clean();
}

#[test]
fn c12_nor_does_exec_pass_the_state_directory() {
    peer_differs!("runc", "1.1.5 does not check the number");
    peer_differs!("crun", "1.8.1 does not check the number");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    bundle.start();
    // SAFETY: the closure makes only a system call.
    let call = unsafe {
        bundle.call(["exec", "--preserve-fds", "1", &bundle.id, "/probe"]).pre_exec(|| {
            libc::close(3);
            Ok(())
        })
    };
    call.output().fails_with(&["preserve"]);
}

#[test]
fn the_host_s_environment_does_not_come_in() {
    let bundle = Bundle::new();
    let seen = bundle.call_new("run", &[]).env("SECRET_OF_THE_HOST", "1").output().json();
    assert!(!seen["env"].to_string().contains("SECRET_OF_THE_HOST"));
}
