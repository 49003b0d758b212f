// SPDX-License-Identifier: Apache-2.0
//! `mounts add`, `mounts remove` and `mounts list`: mounts of a container that exists.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Bundle, Output, eventually, mount_at};
use crate::orlop_only;

/// A directory of the host with one file.
fn volume(bundle: &Bundle, name: &str) -> PathBuf {
    let volume = bundle.dir.join(name);
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("file"), name).unwrap();
    volume
}

/// A container whose program waits.
#[track_caller]
fn running(bundle: Bundle) -> Bundle {
    let bundle = bundle.args(["/probe", "wait"]);
    bundle.create();
    bundle.start();
    bundle.wait_printed(1);
    bundle
}

#[track_caller]
fn add(bundle: &Bundle, args: &[&str]) -> Output {
    bundle.call([&["mounts", "add"], args].concat().into_iter().chain([bundle.id.as_str()])).output()
}

/// `--bind` of a volume.
#[track_caller]
fn add_bind(bundle: &Bundle, source: &Path, rest: &str) -> Output {
    add(bundle, &["--bind", &format!("{}:{rest}", source.display())])
}

#[track_caller]
fn remove(bundle: &Bundle, destination: &str) -> Output {
    bundle.call(["mounts", "remove", &bundle.id, destination]).output()
}

#[track_caller]
fn listed(bundle: &Bundle) -> Value {
    bundle.call(["mounts", "list", "--format", "json", &bundle.id]).output().json()
}

#[track_caller]
fn exec(bundle: &Bundle, words: &[&str]) -> Vec<Value> {
    bundle.call([&["exec", bundle.id.as_str(), "/probe"], words].concat()).output().jsons()
}

/// The container's mounts, without their ids.
fn table(bundle: &Bundle) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{}/mountinfo", bundle.pid())).unwrap();
    text.lines().map(|line| line.split(' ').skip(2).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn a_directory_a_file_and_a_tmpfs_come_and_go() {
    orlop_only!("mounts into a container that exists");
    let bundle = running(Bundle::new());
    let before = table(&bundle);
    let host = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let volume = volume(&bundle, "volume");
    add_bind(&bundle, &volume, "/new/deep:ro,nosuid").ok();
    add_bind(&bundle, &volume.join("file"), "/etc/file").ok();
    let tmpfs =
        json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "noexec"]});
    add(&bundle, &["--mount", &tmpfs.to_string()]).ok();
    let seen = exec(
        &bundle,
        &[
            "read",
            "/new/deep/file",
            ",",
            "write",
            "/new/deep/x",
            "y",
            ",",
            "read",
            "/etc/file",
            ",",
            "write",
            "/scratch/x",
            "y",
            ",",
            "report",
        ],
    );
    assert_eq!((&seen[0]["content"], &seen[2]["content"]), (&json!("volume"), &json!("volume")));
    assert_eq!((&seen[1]["errno"], &seen[3]["ok"]), (&json!(libc::EROFS), &json!(true)));
    let report = &seen[4];
    for (destination, word) in [("/new/deep", "nosuid"), ("/scratch", "noexec"), ("/etc/file", "rw")] {
        assert!(mount_at(report, destination).to_string().contains(word), "{}", mount_at(report, destination));
    }
    assert_eq!(listed(&bundle).as_array().unwrap().len(), 3);
    for destination in ["/scratch", "/etc/file", "/new/deep"] {
        remove(&bundle, destination).ok();
    }
    assert_eq!(table(&bundle), before);
    assert_eq!(listed(&bundle), json!([]));
    assert_eq!(fs::read_to_string(volume.join("file")).unwrap(), "volume");
    // The machine's table may change meanwhile, but not by this.
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&bundle.id), "{host}");
}

#[test]
fn a_created_container_too_and_several_from_a_file() {
    orlop_only!("mounts into a container that exists");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    let volume = volume(&bundle, "volume");
    add_bind(&bundle, &volume, "/one").ok();
    bundle.start();
    bundle.wait_printed(1);
    let mount = |destination: &str| json!({"destination": destination, "source": volume, "options": ["bind"]});
    let file = bundle.dir.join("mounts.json");
    // The second is inside the first.
    let tmpfs = json!({"destination": "/two", "type": "tmpfs", "options": ["ro"]});
    fs::write(&file, json!([tmpfs, mount("/two/in")]).to_string()).unwrap();
    bundle.call(["mounts", "add", &bundle.id, file.to_str().unwrap()]).output().ok();
    let seen = exec(&bundle, &["read", "/one/file", ",", "read", "/two/in/file", ",", "write", "/two/x", "y"]);
    assert_eq!((&seen[0]["content"], &seen[1]["content"]), (&json!("volume"), &json!("volume")));
    assert_eq!(seen[2]["errno"], libc::EROFS);
    let shown = bundle.call(["mounts", "list", &bundle.id]).output().ok().stdout;
    let at = shown.find("TYPE").unwrap();
    let types: Vec<&str> = shown.lines().map(|line| line[at..].split(' ').next().unwrap()).collect();
    assert_eq!(types, ["TYPE", "bind", "tmpfs", "-"], "{shown}");
    // Both in one call, the upper first.
    bundle.call(["mounts", "remove", &bundle.id, "/two/in", "/two"]).output().ok();
    assert_eq!(listed(&bundle).as_array().unwrap().len(), 1);
}

#[test]
fn a_failed_add_leaves_nothing() {
    orlop_only!("mounts into a container that exists");
    let bundle = running(Bundle::new().link_in_rootfs("/dangling", "/nowhere/else").file("/plain", "x", 0o644));
    let volume = volume(&bundle, "volume");
    let (before, files) = (table(&bundle), names(&bundle.rootfs()));
    let good = json!({"destination": "/good/deep", "source": volume, "options": ["bind"]}).to_string();
    for (bad, says) in [
        (json!({"destination": "/x", "source": "/nonexistent", "options": ["bind"]}), "mounts[1].source"),
        (json!({"destination": "/plain/x", "source": volume, "options": ["bind"]}), "ENOTDIR"),
        (json!({"destination": "/plain", "source": volume, "options": ["bind"]}), "mounts[1] /plain"),
        (json!({"destination": "/dangling/x", "source": volume, "options": ["bind"]}), "dangling link"),
        (json!({"destination": "/x/y", "type": "tmpfs", "options": ["size=bad"]}), "size"),
        (json!({"destination": "/x", "type": "nosuchfs"}), "nosuchfs"),
        (json!({"destination": "/", "source": volume, "options": ["bind"]}), "root file system itself"),
        (json!({"destination": "/proc", "source": volume, "options": ["bind"]}), "procfs"),
        (json!({"destination": "/proc/sys", "source": volume, "options": ["bind"]}), "mounts[1].destination"),
        (json!({"destination": "/proc", "type": "proc"}), "mounts[1].type"),
        (json!({"destination": "/x", "type": "cgroup"}), "mounts[1].type"),
        (json!({"destination": "/proc", "type": "proc"}), "a mount of this type cannot be added"),
        (json!({"destination": "/x", "options": ["remount", "ro"]}), "mounts[1].options"),
        (json!({"destination": "/good/deep", "options": ["remount", "bind", "ro"]}), "mounts of config.json only"),
        (json!({"destination": "/x", "source": volume, "options": ["bind", "nosuchword"]}), "nosuchword"),
        (json!({"source": volume, "options": ["bind"]}), "destination"),
        (json!([]), "mounts[1]"),
    ] {
        let out = add(&bundle, &["--mount", &good, "--mount", &bad.to_string()]).fails();
        assert!(out.stderr.contains(says), "{bad}: {out}");
        assert_eq!(out.code(), 1, "{out}");
        assert_eq!(table(&bundle), before, "{bad}");
        assert_eq!(names(&bundle.rootfs()), files, "{bad}");
        assert_eq!(listed(&bundle), json!([]), "{bad}");
    }
    for args in [&[][..], &["--bind", "x"], &["--bind", "/a:b"], &["--mount", "{"]] {
        add(&bundle, args).fails();
    }
    assert_eq!(table(&bundle), before);
}

/// All files of a directory.
fn names(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            found.extend(names(&entry.path()));
        }
    }
    found.sort();
    found
}

#[test]
fn wrong_states_and_names() {
    orlop_only!("mounts into a container that exists");
    let bundle = Bundle::new();
    let volume = volume(&bundle, "volume");
    for command in [&["mounts", "remove", &bundle.id, "/x"][..], &["mounts", "list", &bundle.id]] {
        assert!(bundle.call(command.iter().copied()).output().fails().stderr.contains("does not exist"));
    }
    assert!(add_bind(&bundle, &volume, "/x").fails().stderr.contains("does not exist"));
    let bundle = running(bundle);
    // A mount of the config, a masked path, and nothing at all are not its to remove.
    for destination in ["/dev", "/proc", "/x", "/"] {
        let out = remove(&bundle, destination).fails();
        assert!(out.stderr.contains("mounts add has mounted nothing there"), "{out}");
    }
    bundle.kill("KILL").ok();
    bundle.wait_stopped();
    assert!(add_bind(&bundle, &volume, "/x").fails().stderr.contains("stopped"));
    assert!(remove(&bundle, "/x").fails().stderr.contains("stopped"));
    let host = running(Bundle::new().without_ns("mount").remove("/mounts"));
    let out = add_bind(&host, &volume, "/x").fails();
    assert!(out.stderr.contains("need a new mount namespace"), "{out}");
}

#[test]
fn a13_links_of_the_container_lead_nowhere_but_into_it() {
    orlop_only!("mounts into a container that exists");
    let bundle = Bundle::new();
    let canary = bundle.canary();
    let bundle = running(
        bundle
            .link_in_rootfs("/absolute", canary.to_str().unwrap())
            .link_in_rootfs("/up", &format!("../../../../../../..{}", canary.display()))
            .link_in_rootfs("/magic", "/proc/self/root/proc/1/root/mnt")
            .link_in_rootfs("/into-proc", "/proc/sys")
            .link_in_rootfs("/loop", "/loop")
            .link_in_rootfs("/fine", "/mnt"),
    );
    let volume = volume(&bundle, "volume");
    for destination in
        ["/absolute", "/absolute/x", "/up/x", "/magic", "/magic/x", "/into-proc", "/into-proc/x", "/loop/x"]
    {
        add_bind(&bundle, &volume, destination).fails();
    }
    bundle.check_canary();
    add_bind(&bundle, &volume, "/fine").ok();
    assert_eq!(exec(&bundle, &["read", "/mnt/file"])[0]["content"], "volume");
    // Led elsewhere, the link is no way to unmount something else.
    fs::remove_file(bundle.rootfs().join("fine")).unwrap();
    std::os::unix::fs::symlink("/dev", bundle.rootfs().join("fine")).unwrap();
    remove(&bundle, "/fine").fails();
    assert!(table(&bundle).iter().any(|line| line.contains(" /dev ")));
    assert_eq!(listed(&bundle).as_array().unwrap().len(), 1);
}

#[test]
fn what_lies_on_top_is_not_unmounted_in_its_place() {
    orlop_only!("mounts into a container that exists");
    let caps = json!(["CAP_SYS_ADMIN"]);
    let caps = json!({"bounding": caps, "effective": caps, "permitted": caps});
    let bundle = running(Bundle::new().set("/process/capabilities", caps));
    let volume = volume(&bundle, "volume");
    add_bind(&bundle, &volume, "/mnt").ok();
    assert_eq!(exec(&bundle, &["mount", "none", "/mnt", "tmpfs", ""])[0]["ok"], true);
    let before = table(&bundle);
    let out = remove(&bundle, "/mnt").fails();
    assert!(out.stderr.contains("is there no more"), "{out}");
    assert_eq!(table(&bundle), before);
    assert_eq!(exec(&bundle, &["umount", "/mnt"])[0]["ok"], true);
    remove(&bundle, "/mnt").ok();
    // One that the container has unmounted itself is forgotten.
    add_bind(&bundle, &volume, "/mnt").ok();
    assert_eq!(exec(&bundle, &["umount", "/mnt"])[0]["ok"], true);
    assert!(remove(&bundle, "/mnt").ok().stderr.contains("had unmounted it"));
    assert_eq!(listed(&bundle), json!([]));
}

#[test]
fn in_a_user_namespace_a_read_only_bind_stays_so() {
    orlop_only!("mounts into a container that exists");
    let caps = json!(["CAP_SYS_ADMIN"]);
    let caps = json!({"bounding": caps, "effective": caps, "permitted": caps});
    let bundle = Bundle::new().userns(0, 100_000, 65_536).set("/process/capabilities", caps);
    let volume = volume(&bundle, "volume");
    std::os::unix::fs::chown(&volume, Some(100_000), Some(100_000)).unwrap();
    let bundle = running(bundle);
    add_bind(&bundle, &volume, "/mnt:ro").ok();
    add_bind(&bundle, &volume.join("file"), "/tmp/file:ro").ok();
    add_bind(&bundle, &volume, "/new:idmap").ok();
    add(&bundle, &["--mount", r#"{"destination": "/scratch", "type": "tmpfs"}"#]).ok();
    let seen = exec(
        &bundle,
        &[
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
            "mount",
            "none",
            "/tmp/file",
            "none",
            "remount,bind",
            ",",
            "stat",
            "/new/file",
            ",",
            "write",
            "/scratch/x",
            "y",
        ],
    );
    assert_eq!(seen[0]["errno"], libc::EPERM, "ro was undone");
    assert_eq!(seen[1]["errno"], libc::EROFS);
    assert_eq!(seen[2]["errno"], libc::EPERM, "ro was undone");
    assert_eq!(seen[3]["uid"], 0, "the mapping of the container");
    assert_eq!(seen[4]["ok"], true);
    for destination in ["/mnt", "/tmp/file", "/new", "/scratch"] {
        remove(&bundle, destination).ok();
    }
    assert_eq!(listed(&bundle), json!([]));
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&bundle.id));
}

#[test]
fn propagation_words_hold_in_a_user_namespace_too() {
    orlop_only!("mounts into a container that exists");
    for bundle in [Bundle::new(), Bundle::new().userns(0, 100_000, 65_536)] {
        let bundle = running(bundle);
        let volume = volume(&bundle, "volume");
        for (destination, words, shown) in [
            ("/a", "shared", "shared:"),
            ("/b", "unbindable", "unbindable"),
            ("/c", "runbindable", "unbindable"),
            ("/d", "rshared", "shared:"),
            ("/e", "private", " - "),
        ] {
            add_bind(&bundle, &volume, &format!("{destination}:{words}")).ok();
            let table = table(&bundle);
            let line = table.iter().find(|line| line.contains(&format!(" {destination} "))).unwrap();
            // mountinfo: DEVICE ROOT POINT OPTIONS [PROPAGATION...] - ...
            let propagation = line.split(' ').skip(4).collect::<Vec<_>>().join(" ");
            assert!(format!(" {propagation}").contains(shown), "{words}: {line}");
            assert_eq!(propagation.starts_with("- "), words == "private", "{words}: {line}");
        }
    }
}

#[test]
fn the_policy_of_the_container_holds_for_its_later_mounts() {
    orlop_only!("mounts into a container that exists");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    let (volume, secret) = (volume(&bundle, "volume"), volume(&bundle, "secret"));
    let (policy, log) = (bundle.dir.join("policy.toml"), bundle.dir.join("audit.log"));
    let text = format!(
        "version = 1\n[mounts]\nforbid_sources = [{secret:?}]\nrequire_options = {{ bind = [\"nosuid\", \"nodev\"] }}\n\
         [audit]\nfile = {log:?}\n"
    );
    fs::write(&policy, text).unwrap();
    fs::set_permissions(&policy, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    bundle.write_config();
    let dir = bundle.dir.to_str().unwrap();
    let pid_file = bundle.pid_file();
    let create = ["--policy", policy.to_str().unwrap(), "create", "--bundle", dir, "--pid-file"];
    bundle.call([&create[..], &[pid_file.to_str().unwrap(), &bundle.id]].concat()).output().ok();
    let before = table(&bundle);
    let link = bundle.dir.join("link");
    std::os::unix::fs::symlink(&secret, &link).unwrap();
    for source in [&secret, &link] {
        let out = add_bind(&bundle, source, "/x").fails();
        assert!(out.stderr.contains("refused by the policy") && out.stderr.contains("mounts[0].source"), "{out}");
    }
    assert_eq!(table(&bundle), before);
    add_bind(&bundle, &volume, "/mnt:nosuid").ok();
    let line = table(&bundle).into_iter().find(|line| line.contains(" /mnt ")).unwrap();
    assert!(line.contains("nosuid,nodev"), "{line}");
    let log = fs::read_to_string(&log).unwrap();
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |outcome: &str| events.iter().filter(|e| e["event"] == "mounts add" && e["outcome"] == outcome).count();
    // Of each that is refused it is said, too, which options it lacks.
    assert_eq!((of("refused"), of("clamped")), (2, 3), "{log}");
}

/// While the container exchanges the directory of the destination with a link to a directory of the host, over and over.
#[test]
fn a14_a_destination_that_is_swapped_while_it_is_mounted() {
    orlop_only!("mounts into a container that exists");
    let bundle = running(Bundle::new().dir_in_rootfs("/swap/real", 0o755));
    let (volume, canary) = (volume(&bundle, "volume"), bundle.canary());
    let (real, other) = (bundle.rootfs().join("swap/real"), bundle.rootfs().join("swap/other"));
    std::os::unix::fs::symlink(&canary, &other).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let text = |path: &Path| std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let before = table(&bundle).len();
    let (mut added, mut swaps) = (0, 0_u64);
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let (a, b) = (text(&real), text(&other));
            let mut swaps = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // SAFETY: two NUL-terminated strings.
                let result = unsafe {
                    libc::renameat2(libc::AT_FDCWD, a.as_ptr(), libc::AT_FDCWD, b.as_ptr(), libc::RENAME_EXCHANGE)
                };
                swaps += u64::from(result == 0);
            }
            swaps
        });
        for _ in 0..100 {
            if add_bind(&bundle, &volume, "/swap/real/sub:ro").status.success() {
                added += 1;
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        swaps = swapper.join().unwrap();
    });
    println!("{added} of 100 added, {swaps} swaps");
    bundle.check_canary();
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&bundle.id), "a mount on the host");
    assert_eq!(table(&bundle).len(), before + added);
    assert_eq!(listed(&bundle).as_array().unwrap().len(), added);
    assert!(swaps > 0);
    eventually("the program goes on", || bundle.state()["status"] == "running");
}
