// SPDX-License-Identifier: Apache-2.0
//! Nodes in /dev, default and configured.

use serde_json::json;

use crate::harness::{Bundle, Flavor, flavor};
use crate::{orlop_only, peer_differs};

#[test]
fn the_default_devices_and_links() {
    let seen = Bundle::new().report();
    for (name, rdev) in
        [("null", "1:3"), ("zero", "1:5"), ("full", "1:7"), ("random", "1:8"), ("urandom", "1:9"), ("tty", "5:0")]
    {
        let device = &seen["dev"][name];
        assert_eq!(
            (&device["type"], &device["rdev"], &device["mode"]),
            (&json!("c"), &json!(rdev), &json!("0666")),
            "{name}"
        );
        assert_eq!(device["uid"], 0, "{name}");
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        assert_eq!(seen["dev"][name]["target"], target, "{name}");
    }
}

#[test]
fn the_default_devices_work() {
    let out = Bundle::new().run([
        "/probe",
        "write",
        "/dev/null",
        "x",
        ",",
        "read",
        "/dev/null",
        ",",
        "write",
        "/dev/full",
        "x",
        ",",
        "open",
        "/dev/ptmx",
        "rw",
        ",",
        "open",
        "/dev/urandom",
        "r",
    ]);
    assert_eq!(out.jsons()[0]["ok"], true, "{out}");
    assert_eq!(out.jsons()[1]["content"], "");
    assert_eq!(out.jsons()[2]["errno"], libc::ENOSPC);
    assert_eq!(out.jsons()[3]["ok"], true);
    assert_eq!(out.jsons()[4]["ok"], true);
}

#[test]
fn configured_devices_have_their_mode_and_owner() {
    let bundle = Bundle::new().set(
        "/linux/devices",
        json!([
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 5, "gid": 6},
            {"path": "/dev/deep/disk", "type": "b", "major": 7, "minor": 0, "fileMode": 0o600, "uid": 0, "gid": 0},
            {"path": "/dev/pipe", "type": "p", "fileMode": 0o622}
        ]),
    );
    let out = bundle.run(["/probe", "stat", "/dev/fuse", ",", "stat", "/dev/deep/disk", ",", "stat", "/dev/pipe"]);
    let all = out.jsons();
    assert_eq!(all[0]["rdev"], "10:229", "{out}");
    assert_eq!((&all[0]["mode"], &all[0]["uid"], &all[0]["gid"]), (&json!("0640"), &json!(5), &json!(6)));
    assert_eq!((&all[1]["type"], &all[1]["rdev"], &all[1]["mode"]), (&json!("b"), &json!("7:0"), &json!("0600")));
    assert_eq!((&all[2]["type"], &all[2]["mode"]), (&json!("p"), &json!("0622")));
}

#[test]
fn a_configured_device_replaces_the_default() {
    let bundle = Bundle::new().set(
        "/linux/devices",
        json!([{"path": "/dev/full", "type": "c", "major": 1, "minor": 7, "fileMode": 0o600, "uid": 7, "gid": 0}]),
    );
    let device = &bundle.report()["dev"]["full"];
    if flavor() != Flavor::Crun {
        assert_eq!((&device["mode"], &device["uid"]), (&json!("0600"), &json!(7)));
    }
    assert_eq!(device["rdev"], "1:7");
}

#[test]
fn the_umask_of_the_caller_does_not_show() {
    let bundle = Bundle::new();
    // SAFETY: umask cannot fail and is async-signal-safe.
    let call = unsafe {
        bundle.call_new("run", &[]).pre_exec(|| {
            libc::umask(0o077);
            Ok(())
        })
    };
    assert_eq!(call.output().json()["dev"]["null"]["mode"], "0666");
}

#[test]
fn a_dev_that_is_bound_from_the_host_is_left_alone() {
    peer_differs!("crun", "1.8 makes nodes there, which is one reading of the spec");
    let bundle = Bundle::new();
    let dev = bundle.dir.join("dev");
    std::fs::create_dir(&dev).unwrap();
    let bundle =
        bundle.remove("/mounts/2").remove("/mounts/1").mount("/dev", "bind", dev.to_str().unwrap(), &["rbind"]);
    // Every runtime wants a null device for its own use.
    let null = std::ffi::CString::new(dev.join("null").to_str().unwrap()).unwrap();
    // SAFETY: a NUL-terminated string.
    assert_eq!(unsafe { libc::mknod(null.as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(1, 3)) }, 0);
    bundle.run(["/probe", "echo", "x"]).ok();
    assert_eq!(std::fs::read_dir(&dev).unwrap().count(), 1, "the runtime made nodes in a directory of the host");
}

#[test]
fn mknod_needs_the_capability() {
    let out = Bundle::new().run(["/probe", "mknod", "/tmp/disk", "b", "7", "0"]);
    assert_eq!(out.json()["errno"], libc::EPERM);
}

#[test]
fn a_bad_device_type_is_named() {
    orlop_only!("gives the JSON path");
    let bundle = Bundle::new().set("/linux/devices", json!([{"path": "/dev/x", "type": "z", "major": 1, "minor": 3}]));
    bundle.try_run(["/probe"]).fails_with(&["config.json", "z"]);
    bundle.check_clean();
    let bundle = Bundle::new().set("/linux/devices", json!([{"path": "dev/x", "type": "c", "major": 1, "minor": 3}]));
    bundle.try_run(["/probe"]).fails_with(&["linux.devices[0].path"]);
    bundle.check_clean();
}

#[test]
fn a_node_of_the_image_with_other_numbers_is_not_used() {
    peer_differs!("runc", "1.1.5 takes an existing node as it is");
    peer_differs!("crun", "1.8 takes an existing node as it is");
    // /dev is not mounted, so the image's own directory is used; its null is the disk driver's.
    let bundle = Bundle::new().remove("/mounts/2").remove("/mounts/1").dir_in_rootfs("/dev", 0o755);
    let path = std::ffi::CString::new(bundle.rootfs().join("dev/null").to_str().unwrap()).unwrap();
    // SAFETY: a NUL-terminated string.
    assert_eq!(unsafe { libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(1, 5)) }, 0);
    let out = bundle.try_run(["/probe", "stat", "/dev/null"]);
    if out.status.success() {
        assert_eq!(out.json()["rdev"], "1:3");
    } else {
        out.fails_with(&["null"]);
    }
}
