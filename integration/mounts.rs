// SPDX-License-Identifier: Apache-2.0
//! The root filesystem: mounts of each type, their options and order, propagation.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{Bundle, Flavor, Layer, flavor, has, host, mount_at};
use crate::{orlop_only, peer_differs};

/// A bundle with a directory on the host to bind: `volume/file` and `volume/sub`.
fn with_volume() -> (Bundle, PathBuf) {
    let bundle = Bundle::new();
    let volume = bundle.dir.join("volume");
    fs::create_dir_all(volume.join("sub")).unwrap();
    fs::write(volume.join("file"), "data").unwrap();
    (bundle, volume)
}

#[test]
fn the_usual_types_are_mounted() {
    let bundle = Bundle::new()
        .mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=1m"])
        .mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])
        .mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]);
    let seen = bundle.report();
    for (dest, fstype) in [
        ("/proc", "proc"),
        ("/dev", "tmpfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
        ("/dev/mqueue", "mqueue"),
        ("/sys", "sysfs"),
    ] {
        assert_eq!(mount_at(&seen, dest)["fstype"], fstype, "{dest}");
    }
    for option in ["nosuid", "noexec", "nodev", "ro"] {
        assert!(has(&mount_at(&seen, "/sys")["options"], option), "{option}");
    }
    assert!(has(&mount_at(&seen, "/dev/shm")["super"], "size=1024k"), "{}", mount_at(&seen, "/dev/shm"));
    assert!(has(&mount_at(&seen, "/dev/pts")["super"], "ptmxmode=666"));
    assert!(has(&mount_at(&seen, "/dev/pts")["super"], "mode=620"));
}

#[test]
fn nothing_of_the_host_is_mounted() {
    let seen = Bundle::new().report();
    let mounts = seen["mounts"].as_array().unwrap();
    let dests: Vec<&str> = mounts.iter().map(|m| m["dest"].as_str().unwrap()).collect();
    assert_eq!(dests, ["/", "/proc", "/dev", "/dev/pts"]);
}

#[test]
fn mounts_are_made_in_order() {
    // The second hides the first; the third lands in the second.
    let bundle = Bundle::new()
        .mount("/mnt", "tmpfs", "one", &["size=64k"])
        .mount("/mnt", "tmpfs", "two", &["size=128k"])
        .mount("/mnt/sub", "tmpfs", "three", &["size=256k"]);
    let seen = bundle.report();
    assert_eq!(mount_at(&seen, "/mnt")["source"], "two");
    assert_eq!(mount_at(&seen, "/mnt/sub")["source"], "three");
    assert_eq!(mount_at(&seen, "/mnt/sub")["parent"], mount_at(&seen, "/mnt")["id"]);
}

#[test]
fn bind_shows_the_host_directory() {
    let (bundle, volume) = with_volume();
    let bundle = bundle.mount("/data", "bind", volume.to_str().unwrap(), &["bind"]);
    let out = bundle.run(["/probe", "read", "/data/file", ",", "write", "/data/new", "x"]);
    assert_eq!(out.jsons()[0]["content"], "data");
    assert_eq!(fs::read_to_string(volume.join("new")).unwrap(), "x");
}

#[test]
fn a_bind_needs_no_type_and_takes_a_relative_source() {
    let (bundle, _) = with_volume();
    let bundle = bundle.mount("/data", "", "volume", &["rbind"]).mount("/other", "none", "volume", &["bind", "ro"]);
    let out = bundle.run(["/probe", "read", "/data/file", ",", "read", "/other/file"]);
    assert_eq!(out.jsons()[0]["content"], "data", "{out}");
    assert_eq!(out.jsons()[1]["content"], "data", "{out}");
}

#[test]
fn a_file_is_bound_on_a_new_or_an_old_file() {
    let (bundle, volume) = with_volume();
    let source = volume.join("file");
    let bundle = bundle
        .file("/etc/old", "image", 0o644)
        .mount("/etc/old", "bind", source.to_str().unwrap(), &["bind", "ro"])
        .mount("/etc/deep/new", "bind", source.to_str().unwrap(), &["bind", "ro"]);
    let out = bundle.run(["/probe", "read", "/etc/old", ",", "read", "/etc/deep/new"]);
    assert_eq!(out.jsons()[0]["content"], "data");
    assert_eq!(out.jsons()[1]["content"], "data");
    assert!(bundle.rootfs().join("etc/deep/new").is_file());
    assert_eq!(fs::read_to_string(bundle.rootfs().join("etc/old")).unwrap(), "image");
}

#[test]
fn bind_options_are_in_force() {
    let (bundle, volume) = with_volume();
    let options = ["bind", "ro", "nosuid", "nodev", "noexec"];
    let bundle = bundle.mount("/data", "bind", volume.to_str().unwrap(), &options);
    let seen = bundle.report();
    for option in &options[1..] {
        assert!(has(&mount_at(&seen, "/data")["options"], option), "{option}: {}", mount_at(&seen, "/data"));
    }
    assert_eq!(bundle.run(["/probe", "write", "/data/x", "y"]).json()["errno"], libc::EROFS);
}

#[test]
fn a_read_only_bind_gets_no_mount_points_in_its_source() {
    // B22: a mount point that is missing below a read-only bind would have to be made in the host's directory.
    let (bundle, volume) = with_volume();
    let bundle = bundle.mount("/data", "bind", volume.to_str().unwrap(), &["bind", "ro"]).mount(
        "/data/made",
        "tmpfs",
        "tmpfs",
        &[],
    );
    if flavor() == Flavor::Crun {
        crate::skip_expected!("crun differs: 1.8 has another policy here");
    }
    bundle.try_run(["/probe"]).fails();
    assert!(!volume.join("made").exists());
    bundle.check_clean();
}

#[test]
fn rbind_takes_submounts_and_rro_makes_them_read_only() {
    peer_differs!("runc", "1.1.5 takes rro for data when mount_setattr is newer than its list");
    let (bundle, volume) = with_volume();
    // The submount is made inside the container by an earlier entry, so that the host's table stays as it is.
    let bundle = bundle
        .mount("/outer", "tmpfs", "outer", &["size=64k"])
        .mount("/outer/inner", "tmpfs", "inner", &["size=64k"])
        .mount("/data", "bind", volume.to_str().unwrap(), &["rbind", "rro"]);
    let seen = bundle.report();
    assert!(has(&mount_at(&seen, "/data")["options"], "ro"), "{}", mount_at(&seen, "/data"));
}

#[test]
fn option_words_set_and_clear_flags() {
    peer_differs!("crun", "1.8 does not let a later word clear an earlier one");
    let bundle = Bundle::new()
        .mount("/a", "tmpfs", "tmpfs", &["noatime", "nodev", "dev", "nosuid"])
        .mount("/b", "tmpfs", "tmpfs", &["nodiratime", "relatime", "sync"])
        .mount("/c", "tmpfs", "tmpfs", &["strictatime", "noexec", "exec"]);
    let seen = bundle.report();
    let options = |dest: &str| mount_at(&seen, dest)["options"].clone();
    assert!(has(&options("/a"), "noatime") && has(&options("/a"), "nosuid") && !has(&options("/a"), "nodev"));
    assert!(has(&options("/b"), "nodiratime") && has(&options("/b"), "relatime"), "{}", options("/b"));
    assert!(has(&mount_at(&seen, "/b")["super"], "sync") || has(&options("/b"), "sync"));
    assert!(!has(&options("/c"), "relatime") && !has(&options("/c"), "noexec"), "{}", options("/c"));
}

#[test]
fn defaults_is_no_option() {
    peer_differs!("runc", "1.1.5 hands it to the filesystem");
    let seen = Bundle::new().mount("/a", "tmpfs", "tmpfs", &["defaults", "size=64k"]).report();
    assert!(has(&mount_at(&seen, "/a")["super"], "size=64k"));
}

#[test]
fn tmpfs_takes_the_mode_of_the_directory_or_its_own() {
    let bundle = Bundle::new().dir_in_rootfs("/keep", 0o711).mount("/keep", "tmpfs", "tmpfs", &[]).mount(
        "/own",
        "tmpfs",
        "tmpfs",
        &["mode=1750"],
    );
    let out = bundle.run(["/probe", "stat", "/keep", ",", "stat", "/own"]);
    assert_eq!(out.jsons()[1]["mode"], "1750");
    if flavor() != Flavor::Crun {
        assert_eq!(out.jsons()[0]["mode"], "0711");
    }
}

#[test]
fn a_read_only_tmpfs_still_gets_its_mount_points() {
    let bundle = Bundle::new().mount("/run", "tmpfs", "tmpfs", &["ro", "size=64k"]).mount(
        "/run/inner",
        "tmpfs",
        "tmpfs",
        &["size=64k"],
    );
    if flavor() == Flavor::Crun {
        crate::skip_expected!("crun differs: 1.8 mounts it read-only at once");
    }
    let out = bundle.run(["/probe", "write", "/run/x", "y", ",", "write", "/run/inner/x", "y"]);
    assert_eq!(out.jsons()[0]["errno"], libc::EROFS, "{out}");
    assert_eq!(out.jsons()[1]["ok"], true, "{out}");
}

#[test]
fn tmpcopyup_copies_the_image_s_directory() {
    let bundle = Bundle::new().file("/etc/app/conf", "from the image", 0o640);
    let bundle = bundle.mount("/etc/app", "tmpfs", "tmpfs", &["tmpcopyup"]);
    let out = bundle.try_run(["/probe", "read", "/etc/app/conf", ",", "stat", "/etc/app/conf"]);
    if flavor() == Flavor::Orlop && !out.status.success() {
        out.fails_with(&["tmpcopyup"]);
        return;
    }
    assert_eq!(out.jsons()[0]["content"], "from the image", "{out}");
    assert_eq!(out.jsons()[1]["mode"], "0640");
    assert_eq!(fs::read_to_string(bundle.rootfs().join("etc/app/conf")).unwrap(), "from the image");
}

#[test]
fn propagation_words_apply_to_the_mount() {
    peer_differs!("crun", "1.8 applies them before a private");
    let bundle = Bundle::new()
        .mount("/s", "tmpfs", "tmpfs", &["shared"])
        .mount("/p", "tmpfs", "tmpfs", &["private"])
        .mount("/u", "tmpfs", "tmpfs", &["unbindable"]);
    let seen = bundle.report();
    assert!(mount_at(&seen, "/s")["propagation"][0].as_str().unwrap().starts_with("shared:"));
    assert_eq!(mount_at(&seen, "/p")["propagation"], json!([]));
    assert_eq!(mount_at(&seen, "/u")["propagation"], json!(["unbindable"]));
}

#[test]
fn rootfs_propagation_is_applied() {
    let at = |kind: &str| {
        let seen = Bundle::new().set("/linux/rootfsPropagation", kind).report();
        mount_at(&seen, "/")["propagation"].clone()
    };
    for word in ["private", "rprivate", "slave", "rslave"] {
        assert_eq!(at(word), json!([]), "{word}");
    }
    if flavor() != Flavor::Runc {
        // 1.1.5 cannot bind the root on itself once it is unbindable.
        assert_eq!(at("unbindable"), json!(["unbindable"]));
        assert_eq!(at("runbindable"), json!(["unbindable"]));
        // Nor does it share what the host keeps private.
        assert!(at("shared")[0].as_str().unwrap().starts_with("shared:"));
        assert!(at("rshared")[0].as_str().unwrap().starts_with("shared:"));
    }
    peer_differs!("crun", "1.8 takes any word");
    let bundle = Bundle::new().set("/linux/rootfsPropagation", "sideways");
    bundle.try_run(["/probe"]).fails_with(&["sideways"]);
    bundle.check_clean();
}

#[test]
fn a_read_only_root() {
    let bundle = Bundle::new().set("/root/readonly", true);
    let out = bundle.run(["/probe", "write", "/x", "y", ",", "write", "/dev/x", "y", ",", "write", "/tmp/x", "y"]);
    assert_eq!(out.jsons()[0]["errno"], libc::EROFS);
    assert_eq!(out.jsons()[1]["ok"], true);
    assert_eq!(out.jsons()[2]["errno"], libc::EROFS);
    assert!(!bundle.rootfs().join("x").exists());
}

#[test]
fn the_old_root_is_gone() {
    let bundle = Bundle::new();
    let outside = bundle.dir.to_str().unwrap().to_string();
    let out = bundle.run([
        "/probe",
        "stat",
        &outside,
        ",",
        "stat",
        "/proc/1/root/etc/passwd",
        ",",
        "stat",
        "/../../etc/passwd",
    ]);
    for outcome in out.jsons() {
        assert_eq!(outcome["errno"], libc::ENOENT, "{out}");
    }
}

#[test]
fn no_pivot_confines_too() {
    let bundle = Bundle::new().args(["/probe", "stat", "/etc/passwd", ",", "ls", "/", ",", "report"]);
    let out = bundle.call_new("run", &["--no-pivot"]).output().ok();
    assert_eq!(out.jsons()[0]["errno"], libc::ENOENT, "{out}");
    assert!(out.jsons()[1].get("probe").is_some());
    assert_eq!(out.jsons()[2]["pid"], 1);
    bundle.check_clean();
}

#[test]
fn the_cgroup_mount_on_v2_shows_only_its_own() {
    let mut bundle = Bundle::new();
    bundle.layer = Layer::V2;
    let bundle = bundle.mount("/sys", "sysfs", "sysfs", &["ro"]).mount(
        "/sys/fs/cgroup",
        "cgroup",
        "cgroup",
        &["nosuid", "noexec", "nodev", "relatime", "ro"],
    );
    let out = bundle.run([
        "/probe",
        "report",
        ",",
        "read",
        "/sys/fs/cgroup/cgroup.procs",
        ",",
        "set",
        "/sys/fs/cgroup/cgroup.procs",
        "1",
    ]);
    let seen = &out.jsons()[0];
    assert_eq!(mount_at(seen, "/sys/fs/cgroup")["fstype"], "cgroup2");
    assert!(has(&mount_at(seen, "/sys/fs/cgroup")["options"], "ro"));
    assert_eq!(out.jsons()[1]["content"], "1\n");
    assert_eq!(out.jsons()[2]["errno"], libc::EROFS);
}

#[test]
fn the_cgroup_mount_on_v1_has_a_directory_for_each_controller() {
    if host::is_v2() || flavor() == Flavor::Crun {
        crate::skip_expected!("no v1 hierarchies in this layer");
    }
    let bundle = Bundle::new().mount("/sys", "sysfs", "sysfs", &["ro"]).mount(
        "/sys/fs/cgroup",
        "cgroup",
        "cgroup",
        &["nosuid", "noexec", "nodev", "relatime", "ro"],
    );
    let out = bundle.run([
        "/probe",
        "ls",
        "/sys/fs/cgroup",
        ",",
        "read",
        "/sys/fs/cgroup/memory/cgroup.procs",
        ",",
        "mkdir",
        "/sys/fs/cgroup/memory/x",
    ]);
    for controller in ["memory", "pids", "devices", "freezer"] {
        assert!(out.jsons()[0].get(controller).is_some(), "{controller}: {out}");
    }
    assert_eq!(out.jsons()[1]["content"], "1\n");
    assert_eq!(out.jsons()[2]["errno"], libc::EROFS);
}

#[test]
fn cgroup_mounts_without_a_cgroup_namespace_show_the_container_s_own() {
    peer_differs!("runc", "1.1.5 shows the host's whole tree on v2");
    peer_differs!("crun", "1.8 refuses hybrid hosts");
    for layer in [Layer::Host, Layer::V2] {
        let mut bundle = Bundle::new().without_ns("cgroup");
        bundle.layer = layer;
        // Twice, since a clone of the host's mount has one place only.
        let bundle = bundle.mount("/mnt/rw", "cgroup", "cgroup", &["nosuid", "noexec", "nodev"]).mount(
            "/mnt/ro",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "ro"],
        );
        let own = |at: &str| match layer {
            Layer::Host if !host::is_v2() => format!("{at}/pids"),
            _ => at.to_string(),
        };
        let (rw, ro) = (own("/mnt/rw"), own("/mnt/ro"));
        let read = format!("{ro}/cgroup.procs");
        let (made, refused) = (format!("{rw}/made"), format!("{ro}/made2"));
        let out =
            bundle.run(["/probe", "report", ",", "read", &read, ",", "mkdir", &made, ",", "mkdir", &refused]).ok();
        let told = out.jsons();
        assert_eq!(told[1]["content"], "1\n", "{out}");
        assert_eq!(told[2]["ok"], true, "{out}");
        assert_eq!(told[3]["errno"], libc::EROFS, "{out}");
        assert!(has(&mount_at(&told[0], &ro)["options"], "ro") && !has(&mount_at(&told[0], &rw)["options"], "ro"));
        assert!(mount_at(&told[0], &rw)["root"].as_str().unwrap().contains(&bundle.id), "{out}");
    }
}

#[test]
fn the_cgroup_mount_on_a_hybrid_host_has_the_unified_hierarchy_too() {
    peer_differs!("crun", "1.8 refuses hybrid hosts");
    if host::is_v2() || host::v2_root().is_none() {
        crate::skip_expected!("the host is not hybrid");
    }
    for namespace in [true, false] {
        let bundle = if namespace { Bundle::new() } else { Bundle::new().without_ns("cgroup") };
        let seen = bundle.mount("/mnt", "cgroup", "cgroup", &["ro", "rprivate"]).report();
        let name = host::v2_root().unwrap().file_name().unwrap().to_str().unwrap().to_string();
        peer_differs!("runc", "1.1.5 leaves it out");
        assert_eq!(mount_at(&seen, &format!("/mnt/{name}"))["fstype"], "cgroup2", "{namespace}");
        assert!(has(&mount_at(&seen, "/mnt")["options"], "ro"));
    }
}

#[test]
fn an_option_that_a_cgroup_mount_cannot_have_is_refused() {
    orlop_only!("ignores no option");
    let bundle = Bundle::v2().without_ns("cgroup").mount("/mnt", "cgroup", "cgroup", &["nsdelegate"]);
    bundle.try_run(["/probe"]).fails_with(&["mounts[3] /mnt", "option nsdelegate"]);
    bundle.check_clean();
}

#[test]
fn a_link_into_a_read_only_tmpfs_still_gets_its_mount_point() {
    peer_differs!("crun", "1.8 mounts it read-only at once");
    let bundle = Bundle::new()
        .link_in_rootfs("/var/run", "/run")
        .mount("/run", "tmpfs", "tmpfs", &["ro", "size=64k"])
        .mount("/var/run/secrets", "tmpfs", "tmpfs", &["size=64k"]);
    let out = bundle.run(["/probe", "write", "/run/x", "y", ",", "write", "/run/secrets/x", "y"]);
    assert_eq!(out.jsons()[0]["errno"], libc::EROFS, "{out}");
    assert_eq!(out.jsons()[1]["ok"], true, "{out}");
}

#[test]
fn a_tmpfs_belongs_to_whom_its_options_say() {
    let options = ["uid=7", "gid=8", "mode=2770", "nr_inodes=10"];
    let out = Bundle::new().mount("/own", "tmpfs", "tmpfs", &options).run(["/probe", "stat", "/own"]);
    let seen = out.json();
    assert_eq!((&seen["uid"], &seen["gid"], &seen["mode"]), (&json!(7), &json!(8), &json!("2770")), "{out}");
}

#[test]
fn a_fifo_and_a_socket_are_bound_like_files() {
    let (bundle, volume) = with_volume();
    nix::unistd::mkfifo(&volume.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(volume.join("socket")).unwrap();
    let source = |name: &str| volume.join(name).to_str().unwrap().to_string();
    let bundle = bundle.mount("/run/fifo", "bind", &source("fifo"), &["bind"]).mount(
        "/run/socket",
        "bind",
        &source("socket"),
        &["rbind", "ro"],
    );
    let out = bundle.run(["/probe", "stat", "/run/fifo", ",", "stat", "/run/socket", ",", "connect", "/run/socket"]);
    assert_eq!(out.jsons()[0]["type"], "p", "{out}");
    assert_eq!(out.jsons()[1]["type"], "s", "{out}");
    assert_eq!(out.jsons()[2]["ok"], true, "{out}");
}

#[test]
fn links_on_the_way_to_a_destination() {
    peer_differs!("crun", "1.8 makes no directory through a dangling link");
    // A dangling one is made inside the root; one that leads in a circle leads nowhere.
    let bundle = Bundle::new().link_in_rootfs("/dangling", "/made/here").mount("/dangling/x", "tmpfs", "t", &[]);
    let canary = bundle.canary();
    assert_eq!(mount_at(&bundle.report(), "/made/here/x")["fstype"], "tmpfs");
    let bundle = bundle.link_in_rootfs("/outside", canary.to_str().unwrap()).mount("/outside/y", "tmpfs", "t", &[]);
    bundle.run(["/probe"]).ok();
    bundle.check_canary();
    let bundle = Bundle::new().link_in_rootfs("/loop", "/pool").link_in_rootfs("/pool", "/loop").mount(
        "/loop/x",
        "tmpfs",
        "tmpfs",
        &[],
    );
    let out = bundle.try_run(["/probe"]).fails();
    bundle.check_clean();
    if flavor() == Flavor::Orlop {
        out.fails_with(&["mounts[3] /loop/x", "destination", "symbolic links"]);
    }
}

#[test]
fn what_cannot_be_a_mount_is_refused_and_leaves_nothing() {
    let (bundle, volume) = with_volume();
    let volume = volume.to_str().unwrap();
    drop(bundle.file("/file", "", 0o644));
    for (destination, kind, source, options, words) in [
        ("/a\0b", "tmpfs", "t", &[][..], &["mounts[3].destination", "nul"][..]),
        ("/a", "tm\0pfs", "t", &[], &["mounts[3].type", "nul"]),
        ("/a", "", "/tmp\0x", &["bind"], &["mounts[3].source", "nul"]),
        ("/a", "tmpfs", "t", &["size=1\0"], &["mounts[3].options[0]", "nul"]),
        ("/..", "tmpfs", "t", &[], &["mounts[3].destination", "root file system itself"]),
        ("", "tmpfs", "t", &[], &["mounts[3].destination"]),
        ("/file/x", "tmpfs", "t", &[], &["mounts[3] /file/x", "destination", "no directory"]),
        ("/file", "tmpfs", "t", &[], &["mounts[3] /file"]),
        ("/a", "", "", &["bind"], &["mounts[3].source", "needs a source"]),
        ("/a", "", volume, &[], &["mounts[3].type", "missing"]),
        ("/a", "tmpfs", "t", &["mode=9"], &["mounts[3] /a", "mode"]),
        ("/tmp", "", "volume/file", &["bind"], &["mounts[3] /tmp", "a file on a file"]),
    ] {
        orlop_only!("names the field");
        let (bundle, _) = with_volume();
        let bundle = bundle.file("/file", "", 0o644).mount(destination, kind, source, options);
        let out = bundle.try_run(["/probe"]).fails_with(words);
        assert_eq!(out.code(), 1, "{out}");
        bundle.check_clean();
    }
}

#[test]
fn five_thousand_mounts() {
    let mut bundle = with_volume().0;
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    for i in 0..5000 {
        let source = if i % 2 == 0 { "volume/file" } else { "volume/sub" };
        mounts
            .push(json!({"destination": format!("/mnt/{}/{i}", i / 100), "source": source, "options": ["bind", "ro"]}));
    }
    let seen = bundle.report();
    assert_eq!(seen["mounts"].as_array().unwrap().len(), 5004);
    assert!(has(&mount_at(&seen, "/mnt/49/4999")["options"], "ro"));
}

#[test]
fn a_new_sysfs_in_a_user_namespace_needs_a_network_namespace() {
    orlop_only!("says what to do");
    let bundle =
        Bundle::new().userns(0, 100_000, 65_536).without_ns("network").mount("/sys", "sysfs", "sysfs", &["ro"]);
    bundle.try_run(["/probe"]).fails_with(&["mounts[3] /sys", "hint:", "network namespace"]);
    bundle.check_clean();
    // The host's instead, which needs an rbind: a user namespace must not uncover what is mounted on it.
    let bundle =
        Bundle::new().userns(0, 100_000, 65_536).without_ns("network").mount("/sys", "", "/sys", &["rbind", "rro"]);
    assert!(has(&mount_at(&bundle.report(), "/sys")["options"], "ro"));
}

#[test]
fn a_missing_bind_source_is_named() {
    let bundle = Bundle::new().mount("/data", "bind", "/no/such/source", &["bind"]);
    bundle.try_run(["/probe"]).fails_with(&["/no/such/source"]);
    bundle.check_clean();
}

#[test]
fn an_unknown_filesystem_or_option_is_refused() {
    let bundle = Bundle::new().mount("/data", "nosuchfs", "none", &[]);
    bundle.try_run(["/probe"]).fails_with(&["data", "no such device"]);
    bundle.check_clean();
    let bundle = Bundle::new().mount("/data", "tmpfs", "none", &["nosuchoption=1"]);
    bundle.try_run(["/probe"]).fails();
    bundle.check_clean();
}

#[test]
fn data_on_a_bind_is_refused() {
    peer_differs!("runc", "1.1.5 ignores it");
    peer_differs!("crun", "1.8 ignores it");
    let (bundle, volume) = with_volume();
    let bundle = bundle.mount("/data", "bind", volume.to_str().unwrap(), &["bind", "size=1m"]);
    bundle.try_run(["/probe"]).fails_with(&["mounts[3]", "size=1m"]);
    bundle.check_clean();
}

#[test]
fn a_mount_on_the_root_itself_is_refused() {
    peer_differs!("crun", "1.8 mounts over it");
    let bundle = Bundle::new().mount("/", "tmpfs", "tmpfs", &[]);
    bundle.try_run(["/probe"]).fails();
    bundle.check_clean();
}

#[test]
fn the_host_s_mount_table_is_untouched() {
    let count = || fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    let (before, propagation) = (count(), root_propagation());
    let (bundle, volume) = with_volume();
    let bundle = bundle.mount("/data", "bind", volume.to_str().unwrap(), &["rbind", "rshared"]);
    bundle.run(["/probe"]).ok();
    assert_eq!((count(), root_propagation()), (before, propagation));
}

fn root_propagation() -> Value {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let root = table.lines().find(|l| l.split(' ').nth(4) == Some("/")).unwrap();
    json!(root.split(" - ").next().unwrap().split(' ').skip(6).collect::<Vec<_>>())
}
