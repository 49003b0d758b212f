// SPDX-License-Identifier: Apache-2.0
//! The eight kinds of namespaces: new, inherited, joined by path, and mixes of these.

use std::fs;

use serde_json::json;

use crate::harness::{Bundle, own_ns};
use crate::{orlop_only, peer_differs};

/// config.json's name and /proc's name of each kind.
const KINDS: [(&str, &str); 8] = [
    ("pid", "pid"),
    ("mount", "mnt"),
    ("uts", "uts"),
    ("ipc", "ipc"),
    ("network", "net"),
    ("cgroup", "cgroup"),
    ("user", "user"),
    ("time", "time"),
];

/// A container that stays and whose namespaces others can join.
fn holder(bundle: Bundle) -> Bundle {
    let bundle = bundle.args(["/probe", "wait"]);
    bundle.create();
    bundle
}

/// The path of a namespace of a running container.
fn path_of(bundle: &Bundle, kind: &str) -> String {
    format!("/proc/{}/ns/{kind}", bundle.pid())
}

fn link(path: &str) -> String {
    fs::read_link(path).unwrap().to_str().unwrap().to_string()
}

#[test]
fn listed_kinds_are_new_and_the_others_inherited() {
    let seen = Bundle::new().report();
    for (_, kind) in &KINDS[..6] {
        assert_ne!(seen["ns"][kind], own_ns(kind).as_str(), "{kind} is not new");
    }
    for (_, kind) in &KINDS[6..] {
        assert_eq!(seen["ns"][kind], own_ns(kind).as_str(), "{kind} is not the caller's");
    }
    assert_eq!(seen["pid"], 1);
}

#[test]
fn each_kind_can_be_inherited_alone() {
    for (name, kind) in [("pid", "pid"), ("uts", "uts"), ("ipc", "ipc"), ("network", "net"), ("cgroup", "cgroup")] {
        let seen = Bundle::new().without_ns(name).report();
        assert_eq!(seen["ns"][kind], own_ns(kind).as_str(), "{kind}");
        for other in ["pid", "uts", "ipc", "net", "cgroup"].iter().filter(|k| **k != kind) {
            assert_ne!(seen["ns"][other], own_ns(other).as_str(), "{other} without {kind}");
        }
    }
}

#[test]
fn only_a_mount_namespace() {
    let bundle = ["pid", "uts", "ipc", "network", "cgroup"].iter().fold(Bundle::new(), |b, k| b.without_ns(k));
    let seen = bundle.report();
    assert_ne!(seen["ns"]["mnt"], own_ns("mnt").as_str());
    for kind in ["pid", "uts", "ipc", "net", "cgroup", "user"] {
        assert_eq!(seen["ns"][kind], own_ns(kind).as_str(), "{kind}");
    }
}

#[test]
fn each_kind_can_be_joined_by_path() {
    let held = holder(Bundle::new());
    for (name, kind) in [("uts", "uts"), ("ipc", "ipc"), ("network", "net"), ("cgroup", "cgroup"), ("pid", "pid")] {
        let path = path_of(&held, kind);
        let seen = Bundle::new().join_ns(name, &path).report();
        assert_eq!(seen["ns"][kind], link(&path).as_str(), "{kind}");
        if kind == "pid" {
            assert_ne!(seen["pid"], 1);
        }
    }
}

#[test]
fn several_kinds_are_joined_at_once_as_in_a_pod() {
    let pod = holder(Bundle::new().set("/hostname", "pod"));
    let mut bundle = Bundle::new();
    for (name, kind) in [("uts", "uts"), ("ipc", "ipc"), ("network", "net")] {
        bundle = bundle.join_ns(name, &path_of(&pod, kind));
    }
    let seen = bundle.report();
    for kind in ["uts", "ipc", "net"] {
        assert_eq!(seen["ns"][kind], link(&path_of(&pod, kind)).as_str(), "{kind}");
    }
    assert_eq!(seen["hostname"], "pod");
    assert_eq!(seen["pid"], 1);
    assert_ne!(seen["ns"]["pid"], link(&path_of(&pod, "pid")).as_str());
}

#[test]
fn pid_joined_with_everything_else_new() {
    let held = holder(Bundle::new());
    let path = path_of(&held, "pid");
    let bundle = Bundle::new().join_ns("pid", &path).args(["/probe"]);
    let out = bundle.create_start_wait();
    let seen: serde_json::Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!(seen["ns"]["pid"], link(&path).as_str());
    for kind in ["uts", "ipc", "net", "mnt"] {
        assert_ne!(seen["ns"][kind], own_ns(kind).as_str());
    }
}

#[test]
fn a_user_namespace_joined_with_all_others_of_the_same_container() {
    peer_differs!("runc", "1.1.5 wants mappings as well as the path");
    let pod = holder(Bundle::new().userns(0, 100_000, 65_536));
    let mut bundle = Bundle::new();
    for (name, kind) in [("user", "user"), ("uts", "uts"), ("ipc", "ipc"), ("network", "net")] {
        bundle = bundle.join_ns(name, &path_of(&pod, kind));
    }
    let seen = bundle.report();
    for kind in ["user", "uts", "ipc", "net"] {
        assert_eq!(seen["ns"][kind], link(&path_of(&pod, kind)).as_str(), "{kind}");
    }
    assert_eq!(seen["uid_map"], json!([[0, 100_000, 65_536]]));
    assert_eq!(seen["pid"], 1);
}

#[test]
fn a_joined_user_namespace_with_a_new_pid_namespace_owns_it() {
    peer_differs!("runc", "1.1.5 wants mappings as well as the path");
    let pod = holder(Bundle::new().userns(0, 100_000, 65_536));
    let bundle = Bundle::new().join_ns("user", &path_of(&pod, "user"));
    let seen = bundle.report();
    assert_eq!(seen["ns"]["user"], link(&path_of(&pod, "user")).as_str());
    // That proc could be mounted is the proof: it needs a pid namespace that the user namespace owns.
    assert_eq!(seen["pid"], 1);
    assert_eq!(seen["uid"], json!([0, 0, 0, 0]));
}

#[test]
fn a_new_user_namespace_with_a_network_of_the_host() {
    let net = own_ns("net");
    let bundle = Bundle::new().userns(0, 100_000, 65_536).join_ns("network", "/proc/self/ns/net");
    let path = format!("/proc/{}/ns/net", std::process::id());
    let seen = bundle.join_ns("network", &path).report();
    assert_eq!(seen["ns"]["net"], net.as_str());
    assert_eq!(seen["uid_map"], json!([[0, 100_000, 65_536]]));
}

#[test]
fn a_new_user_namespace_with_a_joined_pid_and_ipc() {
    peer_differs!("runc", "1.1.5 joins after the user namespace and gets EPERM");
    peer_differs!("crun", "1.8 joins after the user namespace and gets EPERM");
    let held = holder(Bundle::new());
    let bundle = Bundle::new()
        .userns(0, 100_000, 65_536)
        .join_ns("ipc", &path_of(&held, "ipc"))
        .join_ns("uts", &path_of(&held, "uts"));
    let seen = bundle.report();
    assert_eq!(seen["ns"]["ipc"], link(&path_of(&held, "ipc")).as_str());
    assert_eq!(seen["ns"]["uts"], link(&path_of(&held, "uts")).as_str());
    assert_ne!(seen["ns"]["user"], own_ns("user").as_str());
}

#[test]
fn a_mount_namespace_can_be_joined() {
    peer_differs!("crun", "1.8 pivots in the namespace that it joined, which is the holder's");
    peer_differs!("runc", "1.1.5 pivots in the namespace that it joined, which is the holder's");
    // Nothing is mounted there, so the container has no /proc to look into: it is seen from outside. The one who lives
    // there keeps its root and its mounts.
    let held = holder(Bundle::new());
    let table = || fs::read_to_string(format!("/proc/{}/mountinfo", held.pid())).unwrap();
    let before = table();
    let bundle = holder(Bundle::new().join_ns("mount", &path_of(&held, "mnt")).set("/mounts", json!([])));
    assert_eq!(link(&path_of(&bundle, "mnt")), link(&path_of(&held, "mnt")));
    assert_eq!(table(), before);
    held.start();
    assert_eq!(held.state()["status"], "running");
}

#[test]
fn a_path_of_another_kind_is_refused() {
    peer_differs!("crun", "1.8 does not clean up after this failure");
    let bundle = Bundle::new().join_ns("uts", "/proc/self/ns/net");
    bundle.try_run(["/probe"]).fails();
    bundle.check_clean();
    let bundle = Bundle::new().join_ns("network", "/etc/passwd");
    bundle.try_run(["/probe"]).fails();
    bundle.check_clean();
}

#[test]
fn a_missing_path_is_refused_and_named() {
    peer_differs!("crun", "1.8 does not clean up after this failure");
    let bundle = Bundle::new().join_ns("network", "/no/such/ns");
    bundle.try_run(["/probe"]).fails_with(&["/no/such/ns"]);
    bundle.check_clean();
}

#[test]
fn the_same_kind_twice_is_refused() {
    peer_differs!("crun", "1.8 accepts it");
    let bundle = Bundle::new().push("/linux/namespaces", json!({"type": "uts"}));
    bundle.try_run(["/probe"]).fails_with(&["uts"]);
    bundle.check_clean();
}

#[test]
fn hostname_and_domainname_are_set() {
    assert_eq!(Bundle::new().set("/hostname", "box").report()["hostname"], "box");
    if crate::harness::flavor() != crate::harness::Flavor::Runc {
        // runc 1.1.5 does not know the member yet.
        assert_eq!(Bundle::new().set("/domainname", "example.org").report()["domainname"], "example.org");
    }
}

#[test]
fn hostname_without_a_uts_namespace_is_refused() {
    let host = Bundle::new().report()["hostname"].clone();
    let bundle = Bundle::new().without_ns("uts").set("/hostname", "box");
    bundle.try_run(["/probe"]).fails_with(&["hostname"]);
    bundle.check_clean();
    assert_ne!(host, "box");
}

#[test]
fn a_time_namespace_has_its_offsets() {
    peer_differs!("runc", "1.1.5 has no time namespaces");
    peer_differs!("crun", "1.8 fails with time namespaces on new kernels");
    if !std::path::Path::new("/proc/self/ns/time").exists() {
        crate::skip_expected!("the kernel has no time namespaces");
    }
    let bundle = Bundle::new()
        .push("/linux/namespaces", json!({"type": "time"}))
        .set("/linux/timeOffsets", json!({"monotonic": {"secs": 1000, "nanosecs": 5}, "boottime": {"secs": 86400}}));
    let seen = bundle.report();
    assert_ne!(seen["ns"]["time"], own_ns("time").as_str());
    let offsets: Vec<Vec<&str>> =
        seen["timens"].as_str().unwrap().lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(offsets, [["monotonic", "1000", "5"], ["boottime", "86400", "0"]]);
}

#[test]
fn a_time_namespace_without_offsets() {
    peer_differs!("runc", "1.1.5 has no time namespaces");
    peer_differs!("crun", "1.8 fails with time namespaces on new kernels");
    let bundle = Bundle::new().push("/linux/namespaces", json!({"type": "time"}));
    assert_ne!(bundle.report()["ns"]["time"], own_ns("time").as_str());
}

#[test]
fn time_offsets_with_a_user_namespace() {
    peer_differs!("runc", "1.1.5 has no time namespaces");
    peer_differs!("crun", "1.8 fails with time namespaces on new kernels");
    let bundle = Bundle::new()
        .userns(0, 100_000, 65_536)
        .push("/linux/namespaces", json!({"type": "time"}))
        .set("/linux/timeOffsets", json!({"boottime": {"secs": 7}}));
    let seen = bundle.report();
    assert!(seen["timens"].as_str().unwrap().contains('7'), "{}", seen["timens"]);
    assert_eq!(seen["uid_map"], json!([[0, 100_000, 65_536]]));
}

#[test]
fn time_offsets_without_a_time_namespace_are_refused() {
    orlop_only!("checks this one");
    let bundle = Bundle::new().set("/linux/timeOffsets", json!({"boottime": {"secs": 7}}));
    bundle.try_run(["/probe"]).fails_with(&["linux.timeOffsets", "time"]);
    bundle.check_clean();
}

#[test]
fn without_a_mount_namespace_the_host_s_table_stays() {
    peer_differs!("runc", "1.1.5 has another policy without a mount namespace");
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    let bundle = Bundle::new().without_ns("mount").set("/mounts", json!([]));
    let out = bundle.try_run(["/probe", "echo", "x"]);
    // runc and crun refuse some of it; what matters is that the host is as it was.
    drop(out);
    let under = crate::harness::host::mounts_under(&bundle.dir);
    assert!(under.is_empty(), "{under:?}");
    let after = fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    assert_eq!(before, after);
}

#[test]
fn the_loopback_of_a_new_network_is_up() {
    let out = Bundle::new().mount("/sys", "sysfs", "sysfs", &["ro", "nosuid", "nodev", "noexec"]).run([
        "/probe",
        "read",
        "/sys/class/net/lo/flags",
    ]);
    let flags = out.json()["content"].as_str().unwrap().trim().trim_start_matches("0x").to_string();
    let flags = u32::from_str_radix(&flags, 16).unwrap();
    if crate::harness::flavor() != crate::harness::Flavor::Crun {
        assert_eq!(flags & 1, 1, "IFF_UP: {flags:#x}");
    }
}

#[test]
fn the_host_is_not_renamed_through_a_joined_namespace() {
    peer_differs!("runc", "1.1.5 renames the namespace that it joined, whosever it is");
    peer_differs!("crun", "1.8 renames the namespace that it joined, whosever it is");
    let before = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let own = format!("/proc/{}/ns/uts", std::process::id());
    for field in ["hostname", "domainname"] {
        let bundle = Bundle::new().remove("/hostname").join_ns("uts", &own).set(&format!("/{field}"), "not-the-host");
        bundle.try_create(&[]).fails_with(&[field, "host's"]);
        bundle.check_clean();
    }
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), before);
}
