// SPDX-License-Identifier: Apache-2.0
//! The validation cases of opencontainers/runtime-tools. `specs/runtime-tools.tsv` has a row for each: the tests here that
//! do the same, or why there is none. Those that other modules did not have are below, by the name of the case.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::harness::{Bundle, Flavor, flavor, host};
use crate::{orlop_only, peer_differs};

#[test]
fn every_case_names_a_test_that_exists_or_a_reason() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("specs/runtime-tools.tsv")).unwrap();
    let functions = crate::specs::functions();
    let (mut faults, mut seen) = (Vec::new(), BTreeSet::new());
    for (number, line) in text.lines().enumerate().skip(1) {
        let mut fault = |what: &str| faults.push(format!("specs/runtime-tools.tsv:{}: {what}: {line}", number + 1));
        let [case, tests, note] = line.split('\t').collect::<Vec<_>>()[..] else {
            fault("needs three columns");
            continue;
        };
        if !seen.insert(case) {
            fault("stands twice");
        }
        if tests == "-" && note.len() < 20 {
            fault("has neither a test nor a reason");
        }
        for name in tests.split(' ').filter(|name| *name != "-") {
            if !functions.contains(name) {
                fault(&format!("names the test {name}, which is not there"));
            }
        }
    }
    assert!(seen.len() > 55, "{} cases", seen.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn runtime_tools_create() {
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.write_config();
    let dir = bundle.dir.to_str().unwrap();
    bundle.call(["create", "--bundle", dir]).output().fails();
    bundle.create();
    let pid = bundle.pid();
    // The same id again is an error, and has no effect.
    bundle.call(["create", "--bundle", dir, &bundle.id]).output().fails();
    assert_eq!(bundle.state()["status"], "created");
    assert_eq!(bundle.state()["pid"], pid);
}

#[test]
fn runtime_tools_start() {
    let bundle = Bundle::new().args(["/probe", "exit", "0"]);
    bundle.call(["start"]).output().fails();
    bundle.call(["start", "nosuch"]).output().fails();
    bundle.create();
    bundle.start();
    bundle.wait_stopped();
    // Of a container that is not created: an error without effect.
    bundle.command("start").fails();
    assert_eq!(bundle.state()["status"], "stopped");
    bundle.delete().ok();
    peer_differs!("crun", "1.8 creates a container without a process");
    bundle.remove("/process").try_create(&[]).fails();
}

#[test]
fn runtime_tools_kill_and_kill_no_effect() {
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.call(["kill"]).output().fails();
    bundle.call(["kill", "nosuch", "KILL"]).output().fails();
    bundle.create();
    bundle.kill("KILL").ok();
    bundle.wait_stopped();
    if flavor() != Flavor::Crun {
        bundle.kill("KILL").fails();
    }
    assert_eq!(bundle.state()["status"], "stopped");
    bundle.delete().ok();
    bundle.kill("KILL").fails();
}

#[test]
fn runtime_tools_delete() {
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.call(["delete"]).output().fails();
    bundle.call(["delete", "nosuch"]).output().fails();
    bundle.create();
    bundle.start();
    bundle.delete().fails();
    assert_eq!(bundle.state()["status"], "running");
    bundle.kill("KILL").ok();
    bundle.wait_stopped();
    bundle.delete().ok();
    bundle.command("state").fails();
}

#[test]
fn runtime_tools_state() {
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.call(["state"]).output().fails();
    bundle.call(["state", "nosuch"]).output().fails();
    bundle.create();
    let state = bundle.state();
    assert_eq!((&state["id"], &state["status"]), (&json!(bundle.id), &json!("created")));
    assert!(state["ociVersion"].is_string() && state["bundle"] == bundle.dir.to_str().unwrap());
}

/// A cgroup that the container did not make is left, though its process has been moved there.
#[test]
fn runtime_tools_delete_only_create_resources() {
    let roots = host::v1_hierarchies().into_iter().find(|(name, _)| name == "pids").map(|(_, path)| path);
    let Some(root) = roots.or_else(host::v2_root) else {
        crate::skip_expected!("no cgroups");
    };
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    // Not by the bundle's id, which the harness takes for a leftover.
    let other = root.join(format!("foreign-{}", std::process::id()));
    fs::create_dir(&other).unwrap();
    fs::write(other.join("cgroup.procs"), bundle.pid().to_string()).unwrap();
    bundle.start();
    bundle.kill("KILL").ok();
    bundle.wait_stopped();
    bundle.delete().ok();
    let still_there = other.is_dir();
    crate::harness::eventually("the foreign cgroup can be removed", || {
        !other.exists() || fs::remove_dir(&other).is_ok()
    });
    assert!(still_there, "delete has removed a cgroup that it did not make");
}

#[test]
fn runtime_tools_delete_resources() {
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    assert!(!host::cgroups_named(&bundle.id).is_empty());
    bundle.kill("KILL").ok();
    bundle.wait_stopped();
    bundle.delete().ok();
    assert_eq!(host::cgroups_named(&bundle.id), Vec::<PathBuf>::new());
}

#[test]
fn runtime_tools_misc_props() {
    let bundle = Bundle::new().set("/annotations", json!({"org.nobody.knows": ""})).set("/unknown", "unknown");
    assert_eq!(bundle.report()["pid"], 1);
    // runc 1.1 and crun 1.8 take any version.
    orlop_only!("looks at the version");
    bundle.set("/ociVersion", "invalid").try_create(&[]).fails_with(&["ociVersion"]);
}

#[test]
fn runtime_tools_root_readonly_true_and_false() {
    for read_only in [true, false] {
        let seen = Bundle::new().set("/root/readonly", read_only).run(["/probe", "write", "/new", "x"]).json();
        assert_eq!(seen["ok"] == true, !read_only, "{seen}");
        if read_only {
            assert_eq!(seen["errno"], libc::EROFS);
        }
    }
}

/// The directory of `controller` that a path of the config begins at: with a relative one the runtime's own cgroup.
fn start_of(controller: &str, relative: bool) -> Option<PathBuf> {
    let (_, root) = host::v1_hierarchies().into_iter().find(|(name, _)| name == controller)?;
    if !relative {
        return Some(root);
    }
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = own.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|name| name == controller).then_some(path)
    })?;
    Some(root.join(path.trim_start_matches('/')))
}

/// Limits of each controller that this machine has, and the file of v1 that shows them.
const LIMITS: [(&str, &str, &str, &str); 9] = [
    ("blkio", "/linux/resources/blockIO/weight", "500", "blkio.weight"),
    ("blkio", "/linux/resources/blockIO/weight", "500", "blkio.bfq.weight"),
    ("cpu", "/linux/resources/cpu/shares", "1024", "cpu.shares"),
    ("cpu", "/linux/resources/cpu/period", "100000", "cpu.cfs_period_us"),
    ("cpuset", "/linux/resources/cpu/cpus", "\"0\"", "cpuset.cpus"),
    ("memory", "/linux/resources/memory/limit", "50593792", "memory.limit_in_bytes"),
    ("net_cls", "/linux/resources/network/classID", "255", "net_cls.classid"),
    (
        "hugetlb",
        "/linux/resources/hugepageLimits",
        r#"[{"pageSize": "2MB", "limit": 4194304}]"#,
        "hugetlb.2MB.limit_in_bytes",
    ),
    ("pids", "/linux/resources/pids/limit", "1000", "pids.max"),
];

/// Each limit that can be set here is read back; what cannot be set must have been said.
fn limits(relative: bool) {
    if host::v1_hierarchies().is_empty() {
        crate::skip_expected!("no v1 hierarchies");
    }
    peer_differs!("crun", "refuses the machine's layout");
    let mut set = 0;
    for (controller, pointer, value, file) in LIMITS {
        let value: serde_json::Value = serde_json::from_str(value).unwrap();
        let bundle = Bundle::new().args(["/probe", "wait"]).set(pointer, value.clone());
        let path = if relative { bundle.id.clone() } else { format!("/{}", bundle.id) };
        let bundle = bundle.set("/linux/cgroupsPath", path);
        let out = bundle.try_create(&[]);
        if !out.status.success() {
            out.fails();
            bundle.check_clean();
            continue;
        }
        let file = start_of(controller, relative).map(|start| start.join(&bundle.id).join(file));
        if let Some(Ok(found)) = file.map(fs::read_to_string) {
            let wanted = match &value {
                serde_json::Value::Array(list) => list[0]["limit"].to_string(),
                value => value.to_string().trim_matches('"').to_string(),
            };
            assert_eq!(found.trim(), wanted, "{pointer}");
            set += 1;
        }
        bundle.delete_force().ok();
        bundle.check_clean();
    }
    assert!(set >= 4, "{set} limits could be read back");
}

#[test]
fn runtime_tools_linux_cgroups() {
    limits(false);
}

#[test]
fn runtime_tools_linux_cgroups_relative() {
    limits(true);
}

#[test]
fn runtime_tools_process_rlimits_fail() {
    peer_differs!("crun", "1.8 leaves the cgroup then");
    let bundle = Bundle::new().set("/process/rlimits", json!([{"type": "RLIMIT_TEST", "hard": 1, "soft": 1}]));
    bundle.try_create(&[]).fails();
    bundle.check_clean();
}

#[test]
fn runtime_tools_process_capabilities_fail() {
    // The case wants an error; the specification since 1.1 wants a warning, and the rest to hold.
    let bundle = Bundle::new().push("/process/capabilities/bounding", "CAP_TEST");
    let out = bundle.try_run(["/probe"]);
    if flavor() != Flavor::Crun {
        assert_eq!(out.jsons()[0]["pid"], 1, "{out}");
        assert!(out.stderr.contains("CAP_TEST"), "{out}");
    }
}
