// SPDX-License-Identifier: Apache-2.0
//! User namespaces: mappings, setgroups, and what has to work inside one.

use serde_json::json;

use crate::harness::{Bundle, Layer, has, mount_at, own_ns};
use crate::{orlop_only, peer_differs};

#[test]
fn a_new_user_namespace_maps_root() {
    let seen = Bundle::new().userns(0, 100_000, 65_536).report();
    assert_eq!(seen["uid_map"], json!([[0, 100_000, 65_536]]));
    assert_eq!(seen["gid_map"], json!([[0, 100_000, 65_536]]));
    assert_eq!(seen["uid"], json!([0, 0, 0, 0]));
    assert_ne!(seen["ns"]["user"], own_ns("user").as_str());
    assert_eq!(seen["setgroups"], "allow");
}

#[test]
fn several_mappings_in_order() {
    let map = json!([
        {"containerID": 0, "hostID": 200_000, "size": 1000},
        {"containerID": 1000, "hostID": 100_000, "size": 1},
        {"containerID": 2000, "hostID": 300_000, "size": 500}
    ]);
    let bundle = Bundle::new().userns(0, 0, 1).set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    let seen = bundle.report();
    let expected = json!([[0, 200_000, 1000], [1000, 100_000, 1], [2000, 300_000, 500]]);
    assert_eq!(seen["uid_map"], expected);
    assert_eq!(seen["gid_map"], expected);
}

#[test]
fn three_hundred_mappings_arrive_exactly() {
    // The kernel takes one page in one write, and 340 ranges.
    let map: Vec<_> = (0..300).map(|i| json!({"containerID": i * 10, "hostID": 10_000 + i * 10, "size": 7})).collect();
    let bundle =
        Bundle::new().userns(0, 10_000, 1).set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    let seen = bundle.report();
    let got = seen["uid_map"].as_array().unwrap();
    assert_eq!(got.len(), 300);
    assert_eq!(got[299], json!([2990, 12_990, 7]));
}

#[test]
fn too_many_mappings_are_refused_cleanly() {
    peer_differs!("crun", "1.8 does not clean up after this failure");
    let map: Vec<_> =
        (0..4000).map(|i| json!({"containerID": i * 10, "hostID": 1_000_000 + i * 20, "size": 7})).collect();
    let bundle = Bundle::new().userns(0, 0, 1).set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    bundle.try_run(["/probe"]).fails();
    bundle.check_clean();
}

#[test]
fn a_mapped_user_with_groups() {
    let bundle = Bundle::new()
        .userns(0, 100_000, 65_536)
        .set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6]}));
    let seen = bundle.report();
    assert_eq!(seen["uid"][1], 1000);
    assert_eq!(seen["gid"][1], 1001);
    assert_eq!(seen["groups"], json!([5, 6]));
}

#[test]
fn an_unmapped_user_is_refused() {
    peer_differs!("crun", "1.8 does not clean up after this failure");
    let bundle = Bundle::new().userns(0, 100_000, 1000).set("/process/user", json!({"uid": 2000, "gid": 0}));
    bundle.try_run(["/probe"]).fails();
    bundle.check_clean();
}

#[test]
fn files_belong_to_the_mapped_root() {
    let bundle = Bundle::new().userns(0, 100_000, 65_536);
    let out = bundle.run(["/probe", "write", "/tmp/new", "x", ",", "stat", "/tmp/new", ",", "stat", "/probe"]).ok();
    assert_eq!(out.jsons()[1]["uid"], 0);
    // The probe belongs to the host's root, who is nobody inside.
    assert_eq!(out.jsons()[2]["uid"], 65_534);
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(bundle.rootfs().join("tmp/new")).unwrap().uid(), 100_000);
}

#[test]
fn default_devices_work_inside() {
    let bundle = Bundle::new().userns(0, 100_000, 65_536);
    let seen = bundle.report();
    for (name, rdev) in
        [("null", "1:3"), ("zero", "1:5"), ("full", "1:7"), ("random", "1:8"), ("urandom", "1:9"), ("tty", "5:0")]
    {
        assert_eq!(seen["dev"][name]["rdev"], rdev, "{name}: {}", seen["dev"][name]);
    }
    let out = bundle.run([
        "/probe",
        "write",
        "/dev/null",
        "x",
        ",",
        "open",
        "/dev/zero",
        "r",
        ",",
        "open",
        "/dev/ptmx",
        "rw",
    ]);
    for outcome in out.jsons() {
        assert_eq!(outcome["ok"], true, "{out}");
    }
}

#[test]
fn every_usual_mount_works_inside() {
    let bundle = Bundle::new()
        .userns(0, 100_000, 65_536)
        .mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"])
        .mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])
        .mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
        .mount("/run", "tmpfs", "tmpfs", &["nosuid", "size=1m"]);
    let seen = bundle.report();
    for (dest, fstype) in [
        ("/proc", "proc"),
        ("/dev/shm", "tmpfs"),
        ("/dev/mqueue", "mqueue"),
        ("/sys", "sysfs"),
        ("/run", "tmpfs"),
        ("/dev/pts", "devpts"),
    ] {
        assert_eq!(mount_at(&seen, dest)["fstype"], fstype, "{dest}");
    }
    assert!(has(&mount_at(&seen, "/sys")["options"], "ro"));
}

#[test]
fn a_bind_source_that_the_mapped_root_cannot_reach() {
    peer_differs!("runc", "1.1.5 opens the source inside the user namespace");
    let bundle = Bundle::new().userns(0, 100_000, 65_536);
    let hidden = bundle.dir.join("hidden");
    std::fs::create_dir_all(hidden.join("volume")).unwrap();
    std::fs::write(hidden.join("volume/file"), "data").unwrap();
    std::fs::set_permissions(&hidden, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let source = hidden.join("volume");
    let bundle = bundle.mount("/mnt", "bind", source.to_str().unwrap(), &["rbind", "ro"]);
    assert_eq!(bundle.run(["/probe", "read", "/mnt/file"]).json()["content"], "data");
}

#[test]
fn the_rootfs_can_be_read_only_inside() {
    let bundle = Bundle::new().userns(0, 100_000, 65_536).set("/root/readonly", true);
    assert_eq!(bundle.run(["/probe", "write", "/x", "y"]).json()["errno"], libc::EROFS);
}

#[test]
fn masked_and_readonly_paths_work_inside() {
    let bundle = Bundle::new()
        .userns(0, 100_000, 65_536)
        .set("/linux/maskedPaths", json!(["/proc/kcore", "/proc/acpi", "/proc/timer_list"]))
        .set("/linux/readonlyPaths", json!(["/proc/sys", "/proc/bus"]));
    // Without it the kernel refuses the write before it looks at the mount.
    let bundle = ["bounding", "permitted", "effective"]
        .iter()
        .fold(bundle, |b, set| b.push(&format!("/process/capabilities/{set}"), "CAP_NET_ADMIN"));
    let out = bundle.run(["/probe", "read", "/proc/timer_list", ",", "set", "/proc/sys/net/ipv4/ip_forward", "1"]);
    assert_eq!(out.jsons()[0]["content"], "");
    assert_eq!(out.jsons()[1]["errno"], libc::EROFS);
}

#[test]
fn sysctls_of_its_own_namespaces() {
    let bundle = Bundle::new()
        .userns(0, 100_000, 65_536)
        .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}));
    let out = bundle.run([
        "/probe",
        "read",
        "/proc/sys/net/ipv4/ip_forward",
        ",",
        "read",
        "/proc/sys/kernel/shm_rmid_forced",
    ]);
    assert_eq!(out.jsons()[0]["content"], "1\n");
    assert_eq!(out.jsons()[1]["content"], "1\n");
}

#[test]
fn rlimits_and_oom_score_reach_inside() {
    let bundle = Bundle::new()
        .userns(0, 100_000, 65_536)
        .set("/process/oomScoreAdj", 200)
        .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}]));
    let seen = bundle.report();
    assert_eq!(seen["oom_score_adj"], "200");
    assert_eq!(seen["rlimits"]["RLIMIT_NOFILE"], json!([64, 128]));
}

#[test]
fn capabilities_are_those_of_the_config() {
    let seen = Bundle::new().userns(0, 100_000, 65_536).report();
    assert_eq!(seen["caps"]["effective"], "0000000020000420");
    assert_eq!(seen["caps"]["bounding"], "0000000020000420");
}

#[test]
fn all_capabilities_can_be_had_inside() {
    let names = ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_CHOWN", "CAP_MKNOD"];
    let bundle = Bundle::new()
        .userns(0, 100_000, 65_536)
        .set("/process/capabilities", json!({"bounding": names, "permitted": names, "effective": names}));
    let out = bundle.run([
        "/probe", "mkdir", "/tmp/m", ",", "mount", "none", "/tmp/m", "tmpfs", "", ",", "mknod", "/tmp/n", "c", "1", "3",
    ]);
    assert_eq!(out.jsons()[1]["ok"], true, "{out}");
    assert_eq!(out.jsons()[2]["errno"], libc::EPERM, "{out}");
}

#[test]
fn seccomp_without_no_new_privileges_inside() {
    let bundle = Bundle::new().userns(0, 100_000, 65_536).set("/process/noNewPrivileges", false).set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["getpgrp"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71}]}),
    );
    assert_eq!(bundle.run(["/probe", "syscall", "111"]).json()["errno"], 71);
}

#[test]
fn it_works_in_the_pure_v2_layer_too() {
    let mut bundle = Bundle::new().userns(0, 100_000, 65_536);
    bundle.layer = Layer::V2;
    let bundle = bundle.mount("/sys", "sysfs", "sysfs", &["ro"]).mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro"]);
    let seen = bundle.report();
    assert_eq!(mount_at(&seen, "/sys/fs/cgroup")["fstype"], "cgroup2");
    assert_eq!(seen["cgroup"].as_array().unwrap().last().unwrap(), "0::/");
}

#[test]
fn mappings_without_a_user_namespace_are_refused() {
    peer_differs!("runc", "1.1.5 ignores them");
    peer_differs!("crun", "1.8 ignores them");
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
    let bundle = Bundle::new().set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    bundle.try_run(["/probe"]).fails();
    bundle.check_clean();
}

#[test]
fn a_user_namespace_without_mappings_is_refused() {
    peer_differs!("crun", "1.8 makes a mapping of its own");
    let bundle = Bundle::new().push("/linux/namespaces", json!({"type": "user"}));
    bundle.try_run(["/probe"]).fails();
    bundle.check_clean();
}

#[test]
fn overlapping_and_empty_mappings_are_named() {
    orlop_only!("names the mapping");
    let bundle = Bundle::new()
        .userns(0, 100_000, 1000)
        .push("/linux/uidMappings", json!({"containerID": 500, "hostID": 200_000, "size": 1000}));
    bundle.try_run(["/probe"]).fails_with(&["linux.uidMappings[1]", "overlap"]);
    bundle.check_clean();
    let bundle = Bundle::new().userns(0, 100_000, 0);
    bundle.try_run(["/probe"]).fails_with(&["linux.uidMappings[0].size"]);
    bundle.check_clean();
}

#[test]
fn a_terminal_inside() {
    let bundle = Bundle::new().userns(0, 100_000, 65_536).args(["/probe", "stat", "/dev/console", ",", "report"]);
    let (out, _) = crate::tty::on_a_terminal(bundle.set("/process/terminal", true));
    assert_eq!(out[0]["type"], "c");
    assert_eq!(out[1]["tty"]["isatty"], json!([true, true, true]));
}

#[test]
fn a_joined_one_that_denies_setgroups() {
    orlop_only!("the peers ask for mappings of their own");
    // The caller has groups, which must not come in where nothing could drop them.
    let Some(unshare) = crate::harness::host::find_program("unshare") else {
        crate::skip!("unshare is not installed");
    };
    let bundle = Bundle::new();
    let mut holder = std::process::Command::new(unshare).args(["-Ur", "sleep", "60"]).spawn().unwrap();
    let proc = format!("/proc/{}", holder.id());
    crate::harness::eventually("it is in its namespace", || {
        std::fs::read_to_string(format!("{proc}/setgroups")).is_ok_and(|text| text.trim() == "deny")
            && !std::fs::read_to_string(format!("{proc}/gid_map")).unwrap_or_default().is_empty()
    });
    let bundle = bundle.join_ns("user", &format!("{proc}/ns/user")).args(["/probe"]);
    // SAFETY: the closure makes only a system call.
    let call = unsafe {
        bundle.call_new("run", &[]).pre_exec(|| {
            libc::setgroups(2, [4, 27].as_ptr());
            Ok(())
        })
    };
    let out = call.output();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(out.json()["groups"], json!([]));
}
