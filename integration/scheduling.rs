// SPDX-License-Identifier: Apache-2.0
//! How the kernel runs the process: scheduler, I/O priority, processors, personality, memory policy; for init and for a
//! process of `exec` in the same container. And the labels of Linux security modules that the host does not have.

use std::path::Path;

use serde_json::{Value, json};

use crate::exec::{exec, exec_failing};
use crate::harness::{Bundle, Output, host};
use crate::{orlop_only, peer_differs};

const CAP_SYS_NICE: u32 = 23;

/// What init and a process of `exec` report.
#[track_caller]
fn both(bundle: Bundle) -> [Value; 2] {
    let bundle = bundle.args(["/probe", "report", ",", "wait"]);
    bundle.create();
    bundle.start();
    let init = bundle.wait_printed(2)[0].clone();
    [init, exec(&bundle, &[], &["/probe"]).ok().json()]
}

/// Fails the test unless creating the container fails with exit 1, in these words, without a trace.
#[track_caller]
fn refused(pointer: &str, value: Value, words: &[&str]) -> Output {
    let bundle = Bundle::new().set(pointer, value);
    let out = bundle.try_create(&[]).fails_with(words);
    assert_eq!(out.code(), 1, "{out}");
    bundle.check_clean();
    out
}

#[test]
fn batch_and_idle_policies_with_a_nice_value() {
    peer_differs!("runc", "1.1.5 does not have process.scheduler");
    peer_differs!("crun", "1.8.1 does not have process.scheduler");
    for seen in both(Bundle::new().set("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 5}))) {
        assert_eq!(seen["scheduler"], json!([libc::SCHED_BATCH, 5]));
    }
    for seen in both(Bundle::new().set("/process/scheduler", json!({"policy": "SCHED_IDLE"}))) {
        assert_eq!(seen["scheduler"][0], libc::SCHED_IDLE);
    }
    for seen in both(Bundle::new().set("/process/scheduler", json!({"policy": "SCHED_OTHER", "nice": 3}))) {
        assert_eq!(seen["scheduler"], json!([libc::SCHED_OTHER, 3]));
    }
}

#[test]
fn a_nice_value_in_a_user_namespace() {
    peer_differs!("runc", "1.1.5 does not have process.scheduler");
    peer_differs!("crun", "1.8.1 does not have process.scheduler");
    let scheduler = json!({"policy": "SCHED_OTHER", "nice": -3});
    for seen in both(Bundle::new().userns(0, 100_000, 65_536).set("/process/scheduler", scheduler)) {
        assert_eq!(seen["scheduler"], json!([libc::SCHED_OTHER, -3]));
    }
}

#[test]
fn real_time_policies() {
    peer_differs!("runc", "1.1.5 does not have process.scheduler");
    peer_differs!("crun", "1.8.1 does not have process.scheduler");
    // SAFETY: no pointers but to an initialised structure; the thread gets its policy back.
    let permitted = unsafe {
        let (fifo, other) = (libc::sched_param { sched_priority: 1 }, libc::sched_param { sched_priority: 0 });
        let set = libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const fifo) == 0;
        libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const other);
        set
    };
    if !permitted {
        crate::skip_expected!("no real-time policy for the tests themselves: {}", std::io::Error::last_os_error());
    }
    // On v1 a new cgroup may have no real-time budget and refuse; v2 knows none.
    for (name, number) in [("SCHED_FIFO", libc::SCHED_FIFO), ("SCHED_RR", libc::SCHED_RR)] {
        let bundle = Bundle::v2().set("/process/scheduler", json!({"policy": name, "priority": 7}));
        for seen in both(bundle) {
            assert_eq!(seen["scheduler"][0], number, "{name}");
        }
    }
    let flags = json!({"policy": "SCHED_RR", "priority": 7, "flags": ["SCHED_RESET_ON_FORK"]});
    for seen in both(Bundle::v2().set("/process/scheduler", flags)) {
        assert_eq!(seen["scheduler"][0], libc::SCHED_RR | 0x4000_0000);
    }
}

#[test]
fn a_deadline_policy_is_set_or_the_kernel_s_answer_named() {
    orlop_only!("names the field");
    let times =
        json!({"policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 50_000_000, "period": 100_000_000});
    let bundle = Bundle::new().set("/process/scheduler", times);
    let out = bundle.run(["/probe"]);
    if out.status.success() {
        assert_eq!(out.json()["scheduler"][0], 6);
    } else {
        out.fails_with(&["process.scheduler", "sched_setattr"]);
        bundle.check_clean();
    }
}

#[test]
fn bad_schedulers_are_named() {
    orlop_only!("checks the scheduler's members");
    let at = "/process/scheduler";
    refused(at, json!({"policy": "SCHED_NONSENSE"}), &["process.scheduler.policy", "SCHED_NONSENSE", "SCHED_BATCH"]);
    refused(at, json!({"policy": "SCHED_OTHER", "nice": 20}), &["process.scheduler.nice", "20"]);
    refused(at, json!({"policy": "SCHED_FIFO"}), &["process.scheduler.priority"]);
    refused(at, json!({"policy": "SCHED_FIFO", "priority": 100}), &["process.scheduler.priority", "100"]);
    refused(at, json!({"policy": "SCHED_BATCH", "flags": ["SCHED_X"]}), &["process.scheduler.flags[0]", "SCHED_X"]);
    let runtime = json!({"policy": "SCHED_OTHER", "runtime": 1, "deadline": 1, "period": 1});
    refused(at, runtime, &["process.scheduler.runtime", "process.scheduler.deadline", "process.scheduler.period"]);
}

#[test]
fn io_priority_is_set() {
    peer_differs!("runc", "1.1.5 does not have process.ioPriority");
    peer_differs!("crun", "1.8.1 does not have process.ioPriority");
    for (class, number) in [("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)] {
        for seen in both(Bundle::new().set("/process/ioPriority", json!({"class": class, "priority": 6}))) {
            assert_eq!(seen["ioprio"], (number << 13) | 6, "{class}");
        }
    }
    if host::has_capability(CAP_SYS_NICE) {
        for seen in both(Bundle::new().set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_RT", "priority": 0}))) {
            assert_eq!(seen["ioprio"], 1 << 13);
        }
    }
}

#[test]
fn bad_io_priorities_are_named() {
    orlop_only!("checks the priority");
    let at = "/process/ioPriority";
    refused(at, json!({"class": "IOPRIO_CLASS_BE", "priority": 8}), &["process.ioPriority.priority", "8"]);
    refused(at, json!({"class": "IOPRIO_CLASS_X", "priority": 1}), &["process.ioPriority.class", "IOPRIO_CLASS_X"]);
}

#[test]
fn personality_linux32() {
    peer_differs!("runc", "1.1.5 does not have linux.personality");
    for seen in both(Bundle::new().set("/linux/personality", json!({"domain": "LINUX32"}))) {
        assert_eq!(seen["machine"], "i686");
        assert_eq!(seen["personality"], 8);
    }
    for seen in both(Bundle::new().set("/linux/personality", json!({"domain": "LINUX"}))) {
        assert_eq!(seen["personality"], 0);
    }
}

#[test]
fn bad_personalities_are_named() {
    orlop_only!("checks the personality");
    refused("/linux/personality", json!({"domain": "LINUX64"}), &["linux.personality.domain", "LINUX64"]);
    let flags = json!({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]});
    refused("/linux/personality", flags, &["linux.personality.flags[0]", "ADDR_NO_RANDOMIZE"]);
}

#[test]
fn memory_policy_binds_to_a_node() {
    peer_differs!("runc", "1.1.5 does not have linux.memoryPolicy");
    peer_differs!("crun", "1.8.1 does not have linux.memoryPolicy");
    if !Path::new("/proc/self/numa_maps").exists() {
        crate::skip_expected!("the kernel has no NUMA policies");
    }
    let maps = ["/probe", "read", "/proc/self/numa_maps", ",", "wait"];
    let policy = json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
    let bundle = Bundle::new().set("/linux/memoryPolicy", policy).args(maps);
    bundle.create();
    bundle.start();
    let init = bundle.wait_printed(2)[0].clone();
    let other = exec(&bundle, &[], &maps[..3]).ok().json();
    for seen in [init, other] {
        assert!(seen["content"].as_str().unwrap().contains(" bind=static:0 "), "{seen}");
    }
}

#[test]
fn bad_memory_policies_are_named() {
    orlop_only!("checks the policy");
    let at = "/linux/memoryPolicy";
    refused(at, json!({"mode": "MPOL_BIND", "nodes": ""}), &["linux.memoryPolicy.nodes", "MPOL_BIND"]);
    refused(at, json!({"mode": "MPOL_LOCAL", "nodes": "0"}), &["linux.memoryPolicy.nodes", "MPOL_LOCAL"]);
    refused(at, json!({"mode": "MPOL_BIND", "nodes": "0-x"}), &["linux.memoryPolicy.nodes", "0-x"]);
    refused(at, json!({"mode": "MPOL_NONSENSE", "nodes": "0"}), &["linux.memoryPolicy.mode", "MPOL_NONSENSE"]);
    let flags = json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_X"]});
    refused(at, flags, &["linux.memoryPolicy.flags[0]", "MPOL_F_X"]);
    // A node that the machine does not have is the kernel's to refuse.
    let node = json!({"mode": "MPOL_BIND", "nodes": "1000"});
    refused(at, node, &["linux.memoryPolicy", "set_mempolicy"]);
}

#[test]
fn exec_cpu_affinity_is_for_exec_alone() {
    peer_differs!("runc", "1.1.5 does not have process.execCPUAffinity");
    peer_differs!("crun", "1.8.1 does not have process.execCPUAffinity");
    let all = std::fs::read_to_string("/proc/self/status").unwrap();
    let all = all.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_string();
    if !all.contains('1') {
        crate::skip_expected!("the tests may not use processor 1: {all}");
    }
    let [init, other] = both(Bundle::new().set("/process/execCPUAffinity", json!({"initial": "0", "final": "1"})));
    assert_eq!(init["cpus"], all.as_str());
    assert_eq!(other["cpus"], "1");
    let [_, other] = both(Bundle::new().set("/process/execCPUAffinity", json!({"initial": "1"})));
    assert_eq!(other["cpus"], "1");
}

#[test]
fn bad_processors_are_named() {
    orlop_only!("checks the lists");
    let at = "/process/execCPUAffinity";
    let both_bad = json!({"initial": "x", "final": "3-1"});
    refused(at, both_bad, &["process.execCPUAffinity.initial", "process.execCPUAffinity.final", "3-1"]);
    // A processor that is not there shows when exec asks for it.
    let bundle = Bundle::new().set(at, json!({"final": "8000"})).args(["/probe", "wait"]);
    bundle.create();
    bundle.start();
    exec_failing(&bundle, &[], &["/probe"]).fails_with(&["process.execCPUAffinity.final", "sched_setaffinity"]);
}

#[test]
fn labels_need_their_security_module() {
    orlop_only!("names the field");
    if Path::new("/sys/kernel/security/apparmor").exists() || Path::new("/sys/module/apparmor").exists() {
        crate::skip_expected!("this host has AppArmor");
    }
    if Path::new("/sys/fs/selinux/enforce").exists() {
        crate::skip_expected!("this host has SELinux");
    }
    refused("/process/apparmorProfile", json!("some-profile"), &["process.apparmorProfile", "some-profile"]);
    refused("/process/selinuxLabel", json!("a:b:c:d"), &["process.selinuxLabel", "a:b:c:d"]);
    let bundle = crate::exec::running(Bundle::new());
    exec_failing(&bundle, &["--apparmor", "other"], &["/probe"]).fails_with(&["process.apparmorProfile", "other"]);
    exec_failing(&bundle, &["--process-label", "e:f:g:h"], &["/probe"])
        .fails_with(&["process.selinuxLabel", "e:f:g:h"]);
    crate::exec::only_init_is_left(&bundle);
}
