// SPDX-License-Identifier: Apache-2.0
//! Attacks, continued from `security.rs`: sources that are not what they look like, the process of a container that lies
//! in wait for the runtime, and what a disk or a memory that is full brings about. `specs/attacks.tsv` lists them all.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use serde_json::json;

use crate::harness::{Bundle, Call, Flavor, Running, eventually, flavor, host, runtime};
use crate::tty::Receiver;
use crate::{orlop_only, peer_differs};

/// No mount on /dev: what the image has there is what there is.
fn bare_dev() -> Bundle {
    Bundle::new().remove("/mounts/2").remove("/mounts/1")
}

fn c_string(path: &Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}

#[test]
fn a17_cve_2026_41579_the_host_s_ptmx_is_not_removed() {
    peer_differs!("runc", "1.1.5 is before the fix");
    peer_differs!("crun", "1.8 is before the fix");
    let bundle = bare_dev();
    let outside = bundle.dir.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("ptmx"), "the host's").unwrap();
    fs::remove_dir(bundle.rootfs().join("dev")).unwrap();
    symlink(&outside, bundle.rootfs().join("dev")).unwrap();
    let bundle = bundle.mount("/dev/pts", "devpts", "devpts", &["newinstance"]);
    drop(bundle.try_run(["/probe", "echo", "x"]));
    let names: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["ptmx"]);
    assert_eq!(fs::read_to_string(outside.join("ptmx")).unwrap(), "the host's");
    drop(bundle.delete_force());
}

/// The masked file must read as empty, or the container must be refused.
#[track_caller]
fn stays_hidden(bundle: &Bundle) {
    let out = bundle.try_run(["/probe", "read", "/secret"]);
    if out.status.success() {
        assert_eq!(out.json()["content"], "", "{out}");
    }
    drop(bundle.delete_force());
}

#[test]
fn b04_cve_2025_31133_another_device_as_null() {
    peer_differs!("runc", "1.1.5 is before the fix");
    let bundle = bare_dev()
        .file("/secret", "secret", 0o644)
        .set("/linux/maskedPaths", json!(["/secret"]))
        .set("/linux/devices", json!([]));
    // 1:5 gives zeroes without end. The image cannot have made it, but a volume may hold one.
    let node = c_string(&bundle.rootfs().join("dev/null"));
    // SAFETY: a NUL-terminated string.
    let made = unsafe { libc::mknod(node.as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(1, 5)) };
    if made != 0 {
        crate::skip_expected!("no device nodes can be made here");
    }
    stays_hidden(&bundle);
}

#[test]
fn b05_cve_2025_31133_a_bound_file_as_null() {
    peer_differs!("runc", "1.1.5 is before the fix");
    peer_differs!("crun", "1.8 is before the fix");
    let bundle = Bundle::new();
    let fake = bundle.dir.join("fake");
    fs::write(&fake, "not null").unwrap();
    let bundle = bundle.file("/secret", "secret", 0o644).set("/linux/maskedPaths", json!(["/secret"])).mount(
        "/dev/null",
        "bind",
        fake.to_str().unwrap(),
        &["bind"],
    );
    stays_hidden(&bundle);
}

#[test]
fn b06_cve_2025_52565_a_console_of_the_image() {
    peer_differs!("runc", "1.1.5 is before the fix");
    peer_differs!("crun", "1.8 has another policy here");
    // A directory that looks like a devpts, whose entries lead to the canary.
    let bundle = bare_dev().set("/process/terminal", true);
    let canary = bundle.canary();
    let pts = bundle.rootfs().join("dev/pts");
    fs::create_dir(&pts).unwrap();
    for name in ["ptmx", "0", "1"] {
        symlink(canary.join("keep"), pts.join(name)).unwrap();
    }
    let receiver = Receiver::new(&bundle);
    bundle.try_create(&["--console-socket", &receiver.path]).fails();
    bundle.check_canary();
    bundle.check_clean();
}

#[test]
fn a16_cve_2026_88264_console_is_a_link_to_the_host_and_there_is_a_terminal() {
    peer_differs!("crun", "1.8 is before the fix");
    // A devpts, but /dev is the image's, with a dangling link where the console goes.
    let bundle = Bundle::new().remove("/mounts/1").set("/process/terminal", true);
    let canary = bundle.canary();
    fs::create_dir(bundle.rootfs().join("dev/pts")).unwrap();
    symlink(canary.join("console"), bundle.rootfs().join("dev/console")).unwrap();
    let receiver = Receiver::new(&bundle);
    drop(bundle.try_create(&["--console-socket", &receiver.path]));
    bundle.check_canary();
    drop(bundle.delete_force());
}

#[test]
fn b08_cve_2023_27561_sysctl_with_a_proc_that_is_a_link() {
    let bundle = Bundle::new().set("/linux/sysctl", json!({"kernel.msgmax": "4444"}));
    let fake = bundle.canary().join("sys/kernel");
    fs::create_dir_all(&fake).unwrap();
    fs::write(fake.join("msgmax"), "untouched").unwrap();
    fs::remove_dir(bundle.rootfs().join("proc")).unwrap();
    symlink(bundle.canary(), bundle.rootfs().join("proc")).unwrap();
    drop(bundle.try_run(["/probe", "echo", "x"]));
    assert_eq!(fs::read_to_string(fake.join("msgmax")).unwrap(), "untouched");
    fs::remove_dir_all(bundle.canary().join("sys")).unwrap();
    bundle.check_canary();
    drop(bundle.delete_force());
}

#[test]
fn b09_cve_2019_16884_a_tmpfs_on_proc() {
    peer_differs!("crun", "has another policy here");
    let bundle = Bundle::new().set("/mounts/0", json!({"destination": "/proc", "type": "tmpfs", "source": "tmpfs"}));
    bundle.try_run(["/probe", "echo", "x"]).fails_with(&["/proc"]);
    bundle.check_clean();
}

#[test]
fn b14_cve_2023_25809_a_cgroup_mount_without_a_cgroup_namespace() {
    peer_differs!("crun", "is not asked here");
    let bundle = Bundle::v2().without_ns("cgroup").mount(
        "/sys/fs/cgroup",
        "cgroup",
        "cgroup",
        &["nosuid", "noexec", "nodev", "ro"],
    );
    fs::create_dir_all(bundle.rootfs().join("sys/fs/cgroup")).unwrap();
    let out = bundle.run(["/probe", "set", "/sys/fs/cgroup/cgroup.procs", "1", ",", "mkdir", "/sys/fs/cgroup/mine"]);
    for outcome in out.jsons() {
        assert_eq!(outcome["errno"], libc::EROFS, "{out}");
    }
}

#[test]
fn b21_without_a_mount_namespace_the_host_s_propagation_stays() {
    peer_differs!("runc", "1.1.5 changes it");
    let bundle = Bundle::new().without_ns("mount").remove("/mounts").remove("/linux/maskedPaths");
    let bundle = bundle.args(["/probe", "echo", "x"]);
    bundle.write_config();
    let table = bundle.dir.join("table");
    // The whole in a mount namespace of its own, all of it shared: what changes there would have changed on the host.
    let script = r#"grep -c shared: /proc/self/mountinfo >"$1.before"; t="$1"; shift; "$@"; s=$?;
        grep -c shared: /proc/self/mountinfo >"$t.after"; exit $s"#;
    let (root, dir) = (bundle.state_root(), bundle.dir.to_str().unwrap());
    let call = Call::new(Path::new("/bin/sh"), &bundle.dir, bundle.layer)
        .env("ORLOP_IT", &bundle.id)
        .args(["-c", script, "sh", table.to_str().unwrap(), runtime::program().to_str().unwrap()])
        .args(["--root", root.to_str().unwrap(), "run", "--bundle", dir, &bundle.id]);
    // SAFETY: the closure makes only system calls, on constants.
    let call = unsafe {
        call.pre_exec(|| {
            let none = std::ptr::null();
            libc::unshare(libc::CLONE_NEWNS);
            libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast());
            libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_SHARED, none.cast());
            Ok(())
        })
    };
    drop(call.output());
    let count = |which: &str| fs::read_to_string(bundle.dir.join(format!("table.{which}"))).unwrap();
    assert_ne!(count("before").trim(), "0");
    assert_eq!(count("after"), count("before"));
    drop(bundle.delete_force());
}

/// What of `number` descriptors that the caller leaks the container sees.
fn leaky(call: Call) -> Call {
    let root = fs::File::open("/").unwrap();
    let call = call.fd(&root, 7).fd(&root, 8).fd(&root, 9).fd(&root, 15);
    // They have to be open until the call starts.
    std::mem::forget(root);
    call
}

#[test]
fn c01_cve_2024_21626_leaked_descriptors_do_not_arrive() {
    let bundle = Bundle::new().args(["/probe"]);
    let seen = leaky(bundle.call_new("run", &[])).output().ok().json();
    let fds: Vec<_> = seen["fds"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(fds, ["0", "1", "2"], "{seen}");
}

#[test]
fn c02_cve_2024_21626_nor_in_exec() {
    peer_differs!("crun", "1.8 is before the fix");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    bundle.start();
    let seen = leaky(bundle.call(["exec", &bundle.id, "/probe"])).output().ok().json();
    let fds: Vec<_> = seen["fds"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(fds, ["0", "1", "2"], "{seen}");
    for number in 3..16 {
        let cwd = format!("/proc/self/fd/{number}");
        let out = leaky(bundle.call(["exec", "--cwd", &cwd, &bundle.id, "/probe", "echo", "x"])).output();
        assert!(!out.status.success(), "{number}: {out}");
    }
}

/// A container whose process hunts, with these capabilities and without a user namespace.
fn hunter(caps: &[&str]) -> Bundle {
    let bundle = Bundle::new()
        .set("/process/capabilities", json!({"bounding": caps, "permitted": caps, "effective": caps}))
        .args(["/probe", "hunt"]);
    // A copy of the runtime: the attack is real, and nothing but the test's own may be lost to it.
    runtime::copy_program(&runtime::program(), &bundle.dir.join("runtime"));
    bundle
}

fn with_copy(bundle: &Bundle, owner: &Bundle, args: &[&str]) -> Call {
    Call::new(&owner.dir.join("runtime"), &bundle.dir, bundle.layer)
        .env("ORLOP_IT", &bundle.id)
        .args(["--root", bundle.state_root().to_str().unwrap()])
        .args(args)
}

/// Lets it hunt while a runtime runs 30 processes in it, of these `programs`, and `runs` containers in its PID namespace;
/// returns what it got.
fn hunt(bundle: &Bundle, programs: [&str; 3], runs: usize) -> serde_json::Value {
    let (pid_file, dir) = (bundle.pid_file(), bundle.dir.to_str().unwrap().to_string());
    bundle.write_config();
    let create = ["create", "--bundle", &dir, "--pid-file", pid_file.to_str().unwrap(), &bundle.id];
    let out = bundle.dir.join("hunted");
    let status = std::process::Command::new(bundle.dir.join("runtime"))
        .env("ORLOP_IT", &bundle.id)
        .args(["--root", bundle.state_root().to_str().unwrap()])
        .args(create)
        .stdin(std::process::Stdio::null())
        .stdout(fs::File::create(&out).unwrap())
        .status()
        .unwrap();
    assert!(status.success());
    with_copy(bundle, bundle, &["start", &bundle.id]).output().ok();
    eventually("the hunt begins", || fs::read_to_string(&out).unwrap().lines().count() == 1);
    let program = fs::read(bundle.dir.join("runtime")).unwrap();
    for command in programs.iter().cycle().take(30) {
        drop(with_copy(bundle, bundle, &["exec", &bundle.id, command, "echo", "x"]).output());
    }
    for _ in 0..runs {
        let other =
            Bundle::new().join_ns("pid", &format!("/proc/{}/ns/pid", bundle.pid())).args(["/probe", "echo", "x"]);
        other.write_config();
        let dir = other.dir.to_str().unwrap().to_string();
        with_copy(&other, bundle, &["run", "--bundle", &dir, &other.id]).output().ok();
    }
    fs::write(bundle.rootfs().join("stop"), "").unwrap();
    eventually("the hunt ends", || fs::read_to_string(&out).unwrap().lines().count() == 2);
    bundle.delete_force().ok();
    assert_eq!(fs::read(bundle.dir.join("runtime")).unwrap(), program, "the runtime's binary was overwritten");
    runtime::lines(&fs::read_to_string(&out).unwrap())[1].clone()
}

#[test]
fn c10_cve_2019_5736_a_hunter_with_cap_sys_ptrace_gets_no_writable_program() {
    orlop_only!("is copied for this, and only one that seals itself may be attacked");
    let bundle = hunter(&["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN"]);
    // The runtime's own program, too: an image may name it so.
    let got = hunt(&bundle, ["/probe", "/probe", "/proc/self/exe"], 15);
    assert!(got["programs"].as_u64().unwrap() > 0, "it saw nothing: {got}");
    assert_eq!(got["writable"], 0, "{got}");
}

#[test]
fn c10_cve_2016_9962_a_hunter_without_it_sees_no_program_and_no_directory() {
    orlop_only!("is copied for this, and only one that seals itself may be attacked");
    let bundle = hunter(&["CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN"]);
    let got = hunt(&bundle, ["/probe"; 3], 15);
    // It sees the processes, and of the other containers their programs and roots, which are what it has itself.
    assert!(got["processes"].as_u64().unwrap() >= 20, "{got}");
    assert_eq!(got["programs"], 0, "{got}");
    let directories: Vec<_> = got["directories"].as_array().unwrap().iter().filter(|d| **d != "/").collect();
    assert!(directories.is_empty(), "{got}");
}

#[test]
fn c13_the_seal_cannot_be_taken_off() {
    orlop_only!("seals itself so");
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    // The host's root holds more than any container does.
    let path = format!("/proc/{}/exe", bundle.pid());
    let exe = fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).unwrap();
    // struct mount_attr: set, clear, propagation, userns_fd.
    let attr = [0_u64, libc::MOUNT_ATTR_RDONLY, 0, 0];
    // SAFETY: an empty path and a mount_attr of the given size.
    let loosened = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            exe.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            attr.as_ptr(),
            size_of_val(&attr),
        )
    };
    assert_eq!((loosened, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EINVAL)));
    // SAFETY: an empty path; OPEN_TREE_CLONE is 1.
    let copy = unsafe { libc::syscall(libc::SYS_open_tree, exe.as_raw_fd(), c"".as_ptr(), 1 | libc::AT_EMPTY_PATH) };
    assert_eq!((copy, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EINVAL)));
}

#[test]
fn c13_a_read_only_file_system_of_the_host_is_no_seal() {
    orlop_only!("seals itself so");
    use std::os::unix::fs::OpenOptionsExt;
    // The host makes it writable later, as an update does, while the container keeps what it has found.
    let bundle = Bundle::new().args(["/probe", "wait"]);
    let (place, dir) = (bundle.dir.join("bin"), bundle.dir.to_str().unwrap().to_string());
    fs::create_dir(&place).unwrap();
    runtime::copy_program(&runtime::program(), &place.join("runtime"));
    bundle.write_config();
    let at = c_string(&place);
    let pid_file = bundle.pid_file();
    let call = Call::new(&place.join("runtime"), &bundle.dir, bundle.layer)
        .env("ORLOP_IT", &bundle.id)
        .args(["--root", bundle.state_root().to_str().unwrap(), "create", "--bundle", &dir])
        .args(["--pid-file", pid_file.to_str().unwrap(), &bundle.id]);
    // SAFETY: the closure makes only system calls.
    let call = unsafe {
        call.pre_exec(move || {
            let none = std::ptr::null();
            libc::unshare(libc::CLONE_NEWNS);
            libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast());
            libc::mount(at.as_ptr(), at.as_ptr(), none, libc::MS_BIND, none.cast());
            libc::mount(none, at.as_ptr(), none, libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY, none.cast());
            Ok(())
        })
    };
    call.output().ok();
    let exe = fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(format!("/proc/{}/exe", bundle.pid()));
    let link = fs::read_link(format!("/proc/{}/exe", bundle.pid())).unwrap();
    // A clone whose root is the file itself, and which is nowhere: the host's mount has a path.
    assert_eq!(link, Path::new("/"), "{exe:?}");
}

#[test]
fn b24_a_proc_of_the_image_does_not_make_the_runtime_wait() {
    peer_differs!("runc", "1.1.5 needs a /proc in the container");
    peer_differs!("crun", "is not asked here");
    // No proc is mounted, and everything that a C library likes to look at is a FIFO that nobody writes to.
    let mut bundle = Bundle::new().remove("/mounts/0");
    let names =
        ["sys/kernel/ngroups_max", "sys/kernel/cap_last_cap", "self/status", "self/stat", "self/attr/exec", "mounts"];
    for name in names.map(|name| format!("proc/{name}")).iter().map(String::as_str).chain(["etc/passwd", "etc/group"]) {
        let path = bundle.rootfs().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // SAFETY: a NUL-terminated string.
        assert_eq!(unsafe { libc::mkfifo(c_string(&path).as_ptr(), 0o666) }, 0);
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    }
    bundle = bundle.set("/process/user", json!({"uid": 1000, "gid": 1000, "additionalGids": [7, 8]}));
    bundle.run(["/probe", "echo", "x"]).ok();
    // Why a program may not be executed is found out in there, too.
    let bundle = bundle.file("/plain", "text", 0o644);
    bundle.try_run(["/plain"]).fails_with(&["permission denied", "its mode is 0644"]);
}

#[test]
fn d10_exec_is_under_the_device_rules() {
    peer_differs!("crun", "1.8 needs CAP_SYS_RESOURCE for these rules");
    let caps = json!(["CAP_MKNOD"]);
    for bundle in [Bundle::new(), Bundle::v2()] {
        let bundle = bundle
            .set("/process/capabilities", json!({"bounding": caps, "permitted": caps, "effective": caps}))
            .set("/linux/resources/devices", json!([{"allow": false, "access": "rwm"}]))
            .args(["/probe", "wait"]);
        bundle.create();
        bundle.start();
        let out = bundle
            .call(["exec", &bundle.id, "/probe", "mknod", "/tmp/mem", "c", "1", "1", ",", "open", "/tmp/mem"])
            .output()
            .ok();
        // To make the node is allowed; to open it is what the rules are about.
        assert_eq!(out.jsons()[1]["errno"], libc::EPERM, "{out}");
    }
}

#[test]
fn e28_a_full_state_root_is_an_error_and_leaves_nothing() {
    peer_differs!("crun", "1.8 leaves its cgroup");
    peer_differs!("runc", "1.1.5 writes less here");
    for options in ["size=4k,nr_inodes=2", "size=4k,nr_inodes=3", "size=4k,nr_inodes=5", "size=4k"] {
        let bundle = Bundle::new().args(["/probe", "wait"]);
        let (root, options) = (c_string(&bundle.state_root()), CString::new(options).unwrap());
        // SAFETY: the closure makes only system calls, on strings that it owns.
        let call = unsafe {
            bundle.call_new("create", &[]).pre_exec(move || {
                let none = std::ptr::null();
                libc::unshare(libc::CLONE_NEWNS);
                libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast());
                let tmpfs = c"tmpfs".as_ptr();
                match libc::mount(tmpfs, root.as_ptr(), tmpfs, 0, options.as_ptr().cast()) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            })
        };
        call.output().fails();
        assert!(!bundle.pid_file().exists());
        bundle.check_clean();
    }
}

#[test]
fn e33_exec_into_a_dying_container_is_an_error() {
    for round in 0..20 {
        let bundle = Bundle::new().args(["/probe", "wait"]);
        bundle.create();
        bundle.start();
        let execs: Vec<Running> =
            (0..3).map(|_| bundle.call(["exec", &bundle.id, "/probe", "echo", "x"]).start()).collect();
        std::thread::sleep(std::time::Duration::from_millis(round));
        // SAFETY: no pointers; the pid is of this test's container.
        unsafe { libc::kill(bundle.pid(), libc::SIGKILL) };
        for exec in execs {
            let out = exec.output();
            // It ran, or was killed with the container, or came too late.
            assert!([0, 1, 137, 255].contains(&out.code()), "{out}");
            assert!(!out.stderr.contains("panicked"), "{out}");
        }
    }
}

#[test]
fn e37_nobody_ever_reads_half_a_state() {
    peer_differs!("crun", "1.8 writes its state in place");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    let mut read = 0;
    for _ in 0..25 {
        let mut creating = bundle.call_new("create", &[]).start();
        while creating.child.try_wait().unwrap().is_none() {
            let out = bundle.command("state");
            if out.status.success() {
                assert!(out.json()["status"].is_string());
                read += 1;
            } else {
                let text = out.stderr.to_lowercase();
                assert!(text.contains("exist") || text.contains("created"), "{out}");
            }
            bundle.call(["list", "--format", "json"]).output().ok();
        }
        creating.output().ok();
        bundle.delete_force().ok();
    }
    println!("{read} reads of a state while it came into being");
}

#[test]
fn e45_little_memory_is_an_error_and_leaves_nothing() {
    peer_differs!("runc", "the Go runtime needs more to report anything");
    peer_differs!("crun", "1.8 does not clean up after this failure");
    for kilobytes in [3_000, 4_000, 5_000, 6_000, 8_000, 12_000, 60_000] {
        let bundle = Bundle::new().args(["/probe", "wait"]);
        // SAFETY: setrlimit is async-signal-safe and gets a valid pointer.
        let call = unsafe {
            bundle.call_new("create", &[]).pre_exec(move || {
                let value = libc::rlimit { rlim_cur: kilobytes << 10, rlim_max: kilobytes << 10 };
                libc::setrlimit(libc::RLIMIT_AS, &raw const value);
                Ok(())
            })
        };
        // A program that does not even fit is killed by the kernel; one that fails to allocate aborts.
        let out = call.output();
        assert!(!out.stderr.contains("panicked"), "{out}");
        bundle.delete_force().ok();
        bundle.check_clean();
    }
}

#[test]
fn no_file_of_the_state_follows_a_link() {
    orlop_only!("keeps these files");
    // Whoever can write in the state directory is root; but a link is never what orlop made.
    let bundle = Bundle::new().args(["/probe", "wait"]);
    let canary = bundle.canary();
    symlink(&canary, bundle.state_root().join(&bundle.id)).unwrap();
    bundle.try_create(&[]).fails();
    bundle.command("state").fails();
    bundle.delete_force().fails();
    bundle.check_canary();
    fs::remove_file(bundle.state_root().join(&bundle.id)).unwrap();
    bundle.create();
    let state = bundle.state_root().join(&bundle.id).join("state.json");
    let copy = canary.join("keep");
    fs::rename(&state, bundle.dir.join("moved")).unwrap();
    symlink(bundle.dir.join("moved"), &state).unwrap();
    bundle.command("state").fails();
    bundle.delete_force().ok();
    assert!(copy.exists() && fs::symlink_metadata(bundle.dir.join("moved")).unwrap().is_file());
}

#[test]
fn a07_a_fifo_or_socket_as_a_source_does_not_hang() {
    for kind in ["fifo", "socket"] {
        let bundle = Bundle::new();
        let source = bundle.dir.join(kind);
        let _listener;
        if kind == "fifo" {
            // SAFETY: a NUL-terminated string.
            assert_eq!(unsafe { libc::mkfifo(c_string(&source).as_ptr(), 0o600) }, 0);
        } else {
            _listener = std::os::unix::net::UnixListener::bind(&source).unwrap();
        }
        let bundle = bundle.mount("/tmp/there", "bind", source.to_str().unwrap(), &["bind"]);
        let out = bundle.try_run(["/probe", "stat", "/tmp/there"]);
        if flavor() == Flavor::Orlop {
            out.ok();
        }
        let meta = fs::symlink_metadata(&source).unwrap();
        assert!(meta.file_type().is_fifo() || meta.file_type().is_socket());
        assert_eq!(meta.uid(), 0);
        assert!(host::mounts_under(&source).is_empty());
    }
}
