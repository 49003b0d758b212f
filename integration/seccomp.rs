// SPDX-License-Identifier: Apache-2.0
//! Seccomp as a process meets it: each action, argument rules, architectures, and the order with no_new_privs.

use serde_json::{Value, json};

use crate::harness::{Bundle, Flavor, Layer, flavor};
use crate::{orlop_only, peer_differs};

/// getppid, which nothing needs.
const NR: &str = "110";

fn profile(action: &str, more: Value) -> Value {
    let mut rule = json!({"names": ["getppid"], "action": action});
    for (key, value) in more.as_object().unwrap() {
        rule[key] = value.clone();
    }
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
}

fn bundle(action: &str, more: Value) -> Bundle {
    Bundle::new().set("/linux/seccomp", profile(action, more))
}

#[test]
fn the_filter_is_on() {
    let seen = bundle("SCMP_ACT_ERRNO", json!({})).report();
    assert_eq!(seen["seccomp"], 2);
    assert_eq!(seen["seccomp_filters"], 1);
    let seen = Bundle::new().report();
    assert_eq!(seen["seccomp"], 0);
}

#[test]
fn errno_is_eperm_or_as_given() {
    assert_eq!(bundle("SCMP_ACT_ERRNO", json!({})).run(["/probe", "syscall", NR]).json()["errno"], 1);
    assert_eq!(bundle("SCMP_ACT_ERRNO", json!({"errnoRet": 71})).run(["/probe", "syscall", NR]).json()["errno"], 71);
    // 0 means: succeed without doing it.
    let out = bundle("SCMP_ACT_ERRNO", json!({"errnoRet": 0})).run(["/probe", "syscall", NR]);
    assert_eq!(out.json()["ret"], 0);
}

#[test]
fn kill_process_reads_as_sigsys() {
    for action in ["SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL"] {
        assert_eq!(bundle(action, json!({})).try_run(["/probe", "syscall", NR]).code(), 128 + libc::SIGSYS, "{action}");
    }
}

#[test]
fn trap_sends_sigsys() {
    // Init of a pid namespace does not die of a signal that it does not handle, unless the kernel forces it.
    let out = bundle("SCMP_ACT_TRAP", json!({})).try_run(["/probe", "syscall", NR]);
    assert_eq!(out.code(), 128 + libc::SIGSYS, "{out}");
}

#[test]
fn log_and_trace_and_allow() {
    let out = bundle("SCMP_ACT_LOG", json!({})).run(["/probe", "syscall", NR]);
    assert_eq!(out.json()["ok"], true);
    let out = bundle("SCMP_ACT_TRACE", json!({"errnoRet": 7})).run(["/probe", "syscall", NR]);
    assert_eq!(out.json()["errno"], libc::ENOSYS, "no tracer: {out}");
}

#[test]
fn a_default_action_with_errno_and_a_list_of_what_is_allowed() {
    let mut profile = docker_profile();
    profile["defaultErrnoRet"] = json!(72);
    let bundle = Bundle::new().set("/linux/seccomp", profile);
    // kexec_load is in no profile.
    let out = bundle.run(["/probe", "syscall", "246", ",", "report"]);
    assert_eq!(out.jsons()[0]["errno"], 72, "{out}");
    assert_eq!(out.jsons()[1]["seccomp"], 2);
}

/// The profile of the `docker` bundle.
fn docker_profile() -> Value {
    let config: Value = serde_json::from_str(include_str!("bundles/docker.json")).unwrap();
    config["linux"]["seccomp"].clone()
}

#[test]
fn syscalls_newer_than_the_profile_are_unknown() {
    peer_differs!("crun", "gives the default action");
    let bundle = Bundle::new().set("/linux/seccomp", docker_profile());
    let out = bundle.run(["/probe", "syscall", "1000", ",", "syscall", "246"]);
    assert_eq!(out.jsons()[0]["errno"], libc::ENOSYS, "{out}");
    assert_eq!(out.jsons()[1]["errno"], libc::EPERM, "{out}");
}

#[test]
fn arguments_are_compared_with_64_bits() {
    let arg = |op: &str, value: u64| json!({"errnoRet": 71, "args": [{"index": 0, "op": op, "value": value}]});
    let errno = |more: Value, value: &str| {
        bundle("SCMP_ACT_ERRNO", more).run(["/probe", "syscall", NR, value]).json()["errno"] == 71
    };
    assert!(errno(arg("SCMP_CMP_EQ", 5), "5"));
    assert!(!errno(arg("SCMP_CMP_EQ", 5), "0x100000005"));
    assert!(errno(arg("SCMP_CMP_NE", 5), "6"));
    assert!(errno(arg("SCMP_CMP_GT", 5), "0x100000000"));
    assert!(!errno(arg("SCMP_CMP_GT", 5), "5"));
    assert!(errno(arg("SCMP_CMP_GE", 5), "5"));
    assert!(errno(arg("SCMP_CMP_LT", 5), "4"));
    assert!(errno(arg("SCMP_CMP_LE", 5), "5"));
    let masked =
        json!({"errnoRet": 71, "args": [{"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 0xf0, "valueTwo": 0x10}]});
    assert!(errno(masked.clone(), "0x1f"));
    assert!(!errno(masked, "0x2f"));
}

#[test]
fn a_32_bit_call_meets_its_own_rules() {
    if !int80_works() {
        crate::skip_expected!("the kernel has no 32-bit entry");
    }
    let mut listed = profile("SCMP_ACT_ERRNO", json!({"errnoRet": 71}));
    listed["architectures"] = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
    let out = Bundle::new().set("/linux/seccomp", listed.clone()).run(["/probe", "syscall32", "64"]);
    assert_eq!(out.json()["errno"], 71, "getppid is 64 on i386: {out}");
    listed["architectures"] = json!(["SCMP_ARCH_X86_64"]);
    let out = Bundle::new().set("/linux/seccomp", listed).try_run(["/probe", "syscall32", "64"]);
    assert_eq!(out.code(), 128 + libc::SIGSYS, "an architecture that is not listed: {out}");
}

/// Whether the kernel still has the 32-bit entry.
pub fn int80_works() -> bool {
    Bundle::new().try_run(["/probe", "syscall32", "20"]).status.success()
}

#[test]
fn x32_numbers_do_not_slip_through() {
    let out = bundle("SCMP_ACT_ERRNO", json!({"errnoRet": 71})).try_run(["/probe", "syscall", "1073741934"]);
    assert!(out.code() == 128 + libc::SIGSYS || out.json()["errno"].is_number(), "{out}");
}

#[test]
fn without_no_new_privileges_the_filter_is_loaded_too() {
    let bundle = Bundle::new().set("/process/noNewPrivileges", false).set(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["getpgrp"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71}]
        }),
    );
    let out = bundle.run(["/probe", "syscall", "111", ",", "report"]);
    assert_eq!(out.jsons()[0]["errno"], 71);
    assert_eq!(out.jsons()[1]["no_new_privs"], 0);
    assert_eq!(out.jsons()[1]["caps"]["effective"], "0000000020000420");
}

#[test]
fn a_user_without_capabilities_gets_the_filter() {
    for nnp in [true, false] {
        let bundle = Bundle::new()
            .set("/process/noNewPrivileges", nnp)
            .set("/process/user", json!({"uid": 1000, "gid": 1000}))
            .set("/process/capabilities", json!({"bounding": [], "permitted": [], "effective": []}))
            .set("/linux/seccomp", docker_profile());
        assert_eq!(bundle.report()["seccomp"], 2, "noNewPrivileges {nnp}");
    }
}

#[test]
fn a_strict_profile_does_not_break_the_runtime_itself() {
    // Only what the probe itself needs; with noNewPrivileges the filter is loaded just before the exec.
    let bundle = Bundle::new().set("/linux/seccomp", json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"action": "SCMP_ACT_ALLOW", "names": [
            "execve", "brk", "mmap", "munmap", "mprotect", "arch_prctl", "set_tid_address", "set_robust_list", "rseq",
            "prlimit64", "getrandom", "readlink", "poll", "rt_sigaction", "rt_sigprocmask", "sigaltstack", "write",
            "exit_group", "futex", "sched_getaffinity", "gettid", "clone3", "read", "close", "fstat", "newfstatat",
            "openat", "lseek", "ioctl"
        ]}]
    }));
    if flavor() != Flavor::Orlop {
        crate::skip_expected!("peers need more calls after the filter is loaded");
    }
    assert_eq!(bundle.run(["/probe", "echo", "x"]).json()["echo"][0], "x");
}

#[test]
fn killing_the_runtime_s_own_calls_is_reported_not_hung() {
    let bundle = Bundle::new().set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_KILL_PROCESS"}));
    let out = bundle.try_run(["/probe"]);
    assert!(!out.status.success(), "{out}");
    if flavor() != Flavor::Crun {
        bundle.delete_force().ok();
        bundle.check_clean();
    }
}

#[test]
fn unknown_words_are_refused() {
    for (what, pointer, value) in [
        ("SCMP_ACT_NONSENSE", "/linux/seccomp/defaultAction", json!("SCMP_ACT_NONSENSE")),
        ("SCMP_ACT_NONSENSE", "/linux/seccomp/syscalls/0/action", json!("SCMP_ACT_NONSENSE")),
        ("SCMP_ARCH_PDP11", "/linux/seccomp/architectures", json!(["SCMP_ARCH_PDP11"])),
        (
            "SCMP_CMP_SORT_OF",
            "/linux/seccomp/syscalls/0/args",
            json!([{"index": 0, "op": "SCMP_CMP_SORT_OF", "value": 1}]),
        ),
    ] {
        let bundle = bundle("SCMP_ACT_ERRNO", json!({})).set(pointer, value);
        let out = bundle.try_run(["/probe"]).fails();
        if flavor() == Flavor::Orlop {
            out.fails_with(&[what]);
        }
        bundle.delete_force().ok();
    }
}

#[test]
fn an_unknown_syscall_name_is_ignored() {
    let bundle = bundle("SCMP_ACT_ERRNO", json!({"names": ["getppid", "nosuchcall"], "errnoRet": 71}));
    assert_eq!(bundle.run(["/probe", "syscall", NR]).json()["errno"], 71);
}

#[test]
fn notify_is_carried_out_or_refused_by_name() {
    orlop_only!("promises that no field is ignored");
    let bundle = bundle("SCMP_ACT_NOTIFY", json!({})).set("/linux/seccomp/listenerPath", "/no/such.sock");
    bundle.try_run(["/probe"]).fails_with(&["listenerPath"]);
    bundle.check_clean();
}

#[test]
fn the_docker_profile_in_both_layers() {
    for layer in [Layer::usual(), Layer::V2] {
        let mut bundle = Bundle::new();
        bundle.layer = layer;
        let bundle = bundle.set("/linux/seccomp", docker_profile());
        // mount, unshare(NEWUSER), kexec_load, keyctl: what the profile is there to refuse.
        let out = bundle.run([
            "/probe",
            "syscall",
            "165",
            ",",
            "syscall",
            "272",
            "0x10000000",
            ",",
            "syscall",
            "246",
            ",",
            "syscall",
            "250",
            "0",
        ]);
        for outcome in out.jsons() {
            assert_eq!(outcome["errno"], libc::EPERM, "{out}");
        }
    }
}
