// SPDX-License-Identifier: Apache-2.0
//! Masked and read-only paths, and sysctls.

use std::fs;

use serde_json::json;

use crate::harness::{Bundle, Flavor, flavor, has, mount_at};
use crate::peer_differs;

#[test]
fn masked_files_are_empty_and_directories_too() {
    let bundle = Bundle::new().file("/secret", "s", 0o644).file("/secrets/a", "s", 0o644).set(
        "/linux/maskedPaths",
        json!(["/secret", "/secrets", "/proc/timer_list", "/proc/kcore", "/no/such", "/secret"]),
    );
    let out = bundle.run([
        "/probe",
        "read",
        "/secret",
        ",",
        "ls",
        "/secrets",
        ",",
        "write",
        "/secrets/b",
        "x",
        ",",
        "read",
        "/proc/timer_list",
        ",",
        "stat",
        "/no/such",
    ]);
    assert_eq!(out.jsons()[0]["content"], "", "{out}");
    assert_eq!(out.jsons()[1], json!({}));
    assert!(out.jsons()[2]["errno"] == libc::EROFS, "{out}");
    assert_eq!(out.jsons()[3]["content"], "");
    assert_eq!(out.jsons()[4]["errno"], libc::ENOENT);
}

#[test]
fn readonly_paths_cannot_be_written() {
    let bundle = Bundle::new()
        .file("/conf/a", "s", 0o644)
        .set("/linux/readonlyPaths", json!(["/conf", "/proc/sys", "/proc/sysrq-trigger", "/no/such"]));
    let out = bundle.run([
        "/probe",
        "write",
        "/conf/a",
        "x",
        ",",
        "set",
        "/proc/sys/net/ipv4/ip_forward",
        "1",
        ",",
        "set",
        "/proc/sysrq-trigger",
        "h",
        ",",
        "read",
        "/conf/a",
    ]);
    // Not every kernel has sysrq.
    for outcome in &out.jsons()[..3] {
        assert!(outcome["errno"] == libc::EROFS || outcome["errno"] == libc::ENOENT, "{out}");
    }
    assert_eq!(out.jsons()[3]["content"], "s");
}

#[test]
fn readonly_paths_keep_the_flags_of_their_mount() {
    peer_differs!("crun", "1.8 sets read-only alone");
    let bundle = Bundle::new();
    let volume = bundle.dir.join("volume");
    fs::create_dir_all(volume.join("sub")).unwrap();
    let bundle = bundle
        .mount("/data", "bind", volume.to_str().unwrap(), &["bind", "nosuid", "nodev", "noexec"])
        .set("/linux/readonlyPaths", json!(["/data/sub"]));
    let seen = bundle.report();
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(has(&mount_at(&seen, "/data/sub")["options"], option), "{option}: {}", mount_at(&seen, "/data/sub"));
    }
}

#[test]
fn sysctls_are_written_in_the_container_only() {
    let read = || fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    let before = read();
    let bundle = Bundle::new().set("/linux/sysctl", json!({"kernel.msgmax": "4444", "net.ipv4.ip_forward": "1"}));
    let out = bundle.run(["/probe", "read", "/proc/sys/kernel/msgmax", ",", "read", "/proc/sys/net/ipv4/ip_forward"]);
    assert_eq!(out.jsons()[0]["content"], "4444\n");
    assert_eq!(out.jsons()[1]["content"], "1\n");
    assert_eq!(read(), before);
}

#[test]
fn sysctls_of_the_host_are_refused() {
    let before = fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    for (key, value) in [("kernel.panic", "7"), ("vm.swappiness", "7"), ("kernel.hostname", "x")] {
        if flavor() == Flavor::Crun && key == "kernel.hostname" {
            continue; // crun 1.8 allows it in a uts namespace.
        }
        let bundle = Bundle::new().set("/linux/sysctl", json!({key: value}));
        bundle.try_run(["/probe"]).fails_with(&[key]);
    }
    for (without, key) in [("ipc", "kernel.msgmax"), ("network", "net.ipv4.ip_forward")] {
        let bundle = Bundle::new().without_ns(without).set("/linux/sysctl", json!({key: "1"}));
        bundle.try_run(["/probe"]).fails_with(&[key]);
    }
    assert_eq!(fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(), before);
}
