// SPDX-License-Identifier: Apache-2.0
//! `run --explain-denials`, which must change nothing but what is told, and `seccomp record`.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Bundle, Output};
use crate::orlop_only;

/// Docker's: keyctl and unshare are not in it.
fn allow_list() -> Value {
    serde_json::from_str(include_str!("../specs/vectors/docker-seccomp.json")).unwrap()
}

fn deny_list(names: &[&str], errno: u32) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["getppid"], "action": "SCMP_ACT_ALLOW"},
        {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno}]})
}

fn explained(bundle: &Bundle, options: &[&str]) -> Output {
    let all: Vec<&str> = ["--explain-denials"].iter().chain(options).copied().collect();
    bundle.call_new("run", &all).output()
}

fn denials(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.contains("denied: ")).collect()
}

#[test]
fn each_refused_call_is_explained_once_and_fails_as_without() {
    orlop_only!("a flag of orlop");
    for no_new_privileges in [true, false] {
        for (profile, decided) in [
            (allow_list(), "decided by: linux.seccomp.defaultAction"),
            (deny_list(&["keyctl", "unshare"], 71), "decided by: linux.seccomp.syscalls[1]"),
        ] {
            let bundle = Bundle::new()
                .set("/process/noNewPrivileges", no_new_privileges)
                .set("/linux/seccomp", profile)
                .args(["/probe", "syscall", "250", "0xb", "7"]);
            let without = bundle.call_new("run", &[]).output();
            let with = explained(&bundle, &[]);
            assert_eq!((&with.stdout, with.code()), (&without.stdout, without.code()), "{with}");
            assert_eq!(with.json()["errno"], without.json()["errno"]);
            let told = denials(&with.stderr);
            assert_eq!(told.len(), 1, "{with}");
            assert!(told[0].contains("keyctl(operation=0xb, arg2=0x7)"), "{with}");
            assert!(told[0].contains("(probe, /probe)"), "{with}");
            assert!(with.stderr.contains(decided), "{with}");
        }
    }
}

/// The patch that is printed is tried: with it the call is made.
#[test]
fn the_patch_allows_the_call() {
    orlop_only!("a flag of orlop");
    for profile in [
        allow_list(),
        deny_list(&["unshare", "keyctl"], 71),
        deny_list(&["unshare"], 71),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["unshare"], "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 0, "value": 0x2000_0000, "op": "SCMP_CMP_MASKED_EQ", "valueTwo": 0x2000_0000}]}]}),
    ] {
        // unshare(CLONE_NEWPID), which changes nothing for the process itself.
        let bundle =
            Bundle::new().set("/linux/seccomp", profile.clone()).args(["/probe", "syscall", "272", "0x20000000"]);
        let out = explained(&bundle, &[]);
        assert_eq!(denials(&out.stderr).len(), 1, "{out}");
        let patch = out.stderr.lines().find_map(|line| line.trim().strip_prefix("to allow it: ")).unwrap();
        let mut patched = bundle.config.clone();
        for step in serde_json::from_str::<Value>(patch).unwrap().as_array().unwrap() {
            let (parent, last) = step["path"].as_str().unwrap().rsplit_once('/').unwrap();
            let list = patched.pointer_mut(parent).unwrap().as_array_mut().unwrap();
            match step["op"].as_str().unwrap() {
                "add" => list.push(step["value"].clone()),
                "remove" => drop(list.remove(last.parse().unwrap())),
                other => panic!("{other}"),
            }
        }
        let section = patched["linux"]["seccomp"].clone();
        let bundle = Bundle::new().set("/linux/seccomp", section).args(["/probe", "syscall", "272", "0x20000000"]);
        let out = explained(&bundle, &[]);
        assert!(denials(&out.stderr).is_empty(), "{patch}: {out}");
    }
}

/// Shows 6 of issue 4.
#[test]
fn a_shell_that_is_refused_three_calls_gets_three_explanations() {
    orlop_only!("a flag of orlop");
    let Ok(rootfs) = crate::examples::busybox() else { crate::skip!("no busybox") };
    for no_new_privileges in [true, false] {
        let bundle = Bundle::new();
        crate::examples::copy(rootfs, &bundle);
        let script = "/probe syscall 250 0 0; unshare -U true; mount -t tmpfs none /tmp; mount -t tmpfs none /tmp; \
            echo end; exit 7";
        let bundle = bundle
            .set("/process/noNewPrivileges", no_new_privileges)
            .set("/linux/seccomp", deny_list(&["keyctl", "unshare", "mount"], 1))
            .set("/process/env", json!(["PATH=/bin"]))
            .args(["/bin/sh", "-c", script]);
        let without = bundle.call_new("run", &[]).output();
        assert_eq!(without.code(), 7, "{without}");
        let with = explained(&bundle, &[]);
        assert_eq!((&with.stdout, with.code()), (&without.stdout, 7), "{with}");
        let calls: Vec<&str> =
            denials(&with.stderr).iter().map(|line| line.split(['(', ' ']).nth(2).unwrap()).collect();
        assert_eq!(calls, ["keyctl", "unshare", "mount"], "{with}");
        assert!(with.stderr.contains("unshare(flags=CLONE_NEWUSER)"), "{with}");
        // The container's own messages are the same too.
        let own = |out: &Output| -> Vec<String> {
            let lines = out.stderr.lines().filter(|line| !line.starts_with("orlop: denied") && !line.starts_with("  "));
            lines.map(str::to_string).collect()
        };
        assert_eq!(own(&with), own(&without));
    }
}

#[test]
fn what_init_is_refused_before_its_program_runs_is_explained() {
    orlop_only!("a flag of orlop");
    for (no_new_privileges, call) in [(true, "execve"), (false, "capset"), (false, "execve")] {
        let bundle = Bundle::new()
            .set("/process/noNewPrivileges", no_new_privileges)
            .set("/linux/seccomp", deny_list(&[call], 1))
            .args(["/probe"]);
        let out = explained(&bundle, &[]);
        assert_eq!(out.code(), 1, "{out}");
        assert!(denials(&out.stderr)[0].contains(call), "{out}");
        bundle.check_clean();
    }
}

#[test]
fn a_detached_container_tells_a_file() {
    orlop_only!("a flag of orlop");
    let bundle = Bundle::new().set("/linux/seccomp", deny_list(&["keyctl"], 71)).args(["/probe", "wait"]);
    explained(&bundle, &["--detach"]).fails_with(&["--denials-log"]);
    let log = bundle.dir.join("denials");
    explained(&bundle, &["--detach", "--denials-log", log.to_str().unwrap()]).ok();
    // An exec has a filter of its own, which is not watched.
    let out = bundle.call(["exec", &bundle.id, "/probe", "syscall", "250", "0"]).output();
    assert_eq!(out.json()["errno"], 71);
    assert_eq!(fs::read_to_string(&log).unwrap(), "");
    bundle.delete_force().ok();
}

#[test]
fn profiles_that_leave_nothing_to_watch() {
    orlop_only!("a flag of orlop");
    let bundle = Bundle::new().args(["/probe"]);
    let out = explained(&bundle, &[]).ok();
    assert!(out.stderr.contains("no seccomp profile"), "{out}");
    let notify = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/nobody", "syscalls": [
        {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
    let bundle = Bundle::new().set("/linux/seccomp", notify).args(["/probe"]);
    explained(&bundle, &[]).fails_with(&["SCMP_ACT_NOTIFY", "one supervisor"]);
    let kill = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["keyctl"], "action": "SCMP_ACT_KILL_PROCESS"}]});
    let bundle = Bundle::new().set("/linux/seccomp", kill).args(["/probe"]);
    assert!(explained(&bundle, &[]).ok().stderr.contains("kernel's log"));
}

/// Whoever `run` waits for, the calls are answered: hooks inside, which the late filter binds, hooks outside, while which
/// the program runs already, and the maps of a user namespace.
#[test]
fn calls_are_answered_while_hooks_run() {
    orlop_only!("a flag of orlop");
    for no_new_privileges in [true, false] {
        for user in [true, false] {
            let bundle = Bundle::new()
                .set("/process/noNewPrivileges", no_new_privileges)
                .set("/linux/seccomp", deny_list(&["keyctl", "personality"], 71))
                .set("/hooks/startContainer", json!([{"path": "/probe", "args": ["/probe", "syscall", "250", "0"]}]))
                .set("/hooks/poststart", json!([{"path": "/bin/sleep", "args": ["sleep", "0.2"]}]))
                .args(["/probe", "syscall", "135", "8"]);
            let bundle = if user { bundle.userns(0, 100_000, 65_536) } else { bundle };
            let out = explained(&bundle, &[]).ok();
            let told = denials(&out.stderr);
            assert_eq!(told.len(), 2, "{out}");
            assert!(told[0].contains("keyctl(") && told[1].contains("personality(persona=0x8"), "{out}");
        }
    }
}

/// Many processes at once, and processes that are killed while their call waits.
#[test]
fn many_processes_are_answered() {
    orlop_only!("a flag of orlop");
    let Ok(rootfs) = crate::examples::busybox() else { crate::skip!("no busybox") };
    let bundle = Bundle::new();
    crate::examples::copy(rootfs, &bundle);
    let script = "n() { i=0; while [ $i -lt 25 ]; do mount -t tmpfs none /tmp 2>/dev/null && echo bad; i=$((i+1)); \
        timeout -s KILL 0.01 unshare -U sleep 1; done; }; n & n & n & n & wait; echo end";
    let bundle = bundle
        .set("/linux/seccomp", deny_list(&["keyctl", "unshare", "mount"], 1))
        .set("/process/env", json!(["PATH=/bin"]))
        .args(["/bin/sh", "-c", script]);
    let out = explained(&bundle, &[]).ok();
    assert_eq!(out.stdout, "end\n", "{out}");
    assert_eq!(denials(&out.stderr).len(), 2, "{out}");
}

fn record(bundle: &Bundle, options: &[&str]) -> (Output, Value) {
    bundle.write_config();
    let file = bundle.dir.join("recorded");
    let mut args = vec!["seccomp", "record", "-b", bundle.dir.to_str().unwrap(), "-o", file.to_str().unwrap()];
    args.extend(options);
    let out = bundle.call(args).output();
    let profile = fs::read_to_string(&file).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    (out, profile)
}

/// Every name that a profile allows.
fn allowed(profile: &Value) -> Vec<&str> {
    let entries = profile["syscalls"].as_array().unwrap().iter().filter(|e| e["action"] == "SCMP_ACT_ALLOW");
    let mut names: Vec<&str> =
        entries.flat_map(|e| e["names"].as_array().unwrap()).map(|name| name.as_str().unwrap()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The profile without one name.
fn without(profile: &Value, name: &str) -> Value {
    let mut profile = profile.clone();
    let entries = profile["syscalls"].as_array_mut().unwrap();
    for entry in entries.iter_mut() {
        entry["names"].as_array_mut().unwrap().retain(|n| n != name);
    }
    entries.retain(|entry| entry["names"] != json!([]));
    profile
}

/// Shows 6 of issue 4.
#[test]
fn hello_runs_with_its_recorded_profile_and_not_without_one_call() {
    orlop_only!("a command of orlop");
    let Ok(rootfs) = crate::examples::busybox() else { crate::skip!("no busybox") };
    for no_new_privileges in [true, false] {
        let text = include_str!("../examples/hello/config.json");
        let bundle = Bundle::new().with_config(text).set("/process/noNewPrivileges", no_new_privileges);
        crate::examples::copy(rootfs, &bundle);
        let before = bundle.call_new("run", &[]).output().ok();
        let (out, profile) = record(&bundle, &[]);
        let lines = |out: &Output| -> Vec<String> {
            // Namespaces have numbers of their own each time.
            out.stdout.lines().filter(|line| !line.contains(":[")).map(str::to_string).collect()
        };
        assert_eq!(lines(&out.ok()), lines(&before));
        let names = allowed(&profile);
        assert!((20..90).contains(&names.len()), "{names:?}");
        assert_eq!(names.contains(&"setresuid"), !no_new_privileges, "{names:?}");
        assert!(!names.contains(&"mount") && !names.contains(&"pivot_root"), "the runtime's: {names:?}");
        let bundle = bundle.set("/linux/seccomp", profile.clone());
        let after = bundle.call_new("run", &[]).output().ok();
        assert_eq!(lines(&after), lines(&before));
        assert!(!after.stderr.contains("ermitted"), "{after}");
        for name in ["wait4", "write", "execve", "readlink"] {
            assert!(names.contains(&name), "{name}: {names:?}");
            let less = Bundle::new().with_config(text).set("/process/noNewPrivileges", no_new_privileges);
            crate::examples::copy(rootfs, &less);
            let out = less.set("/linux/seccomp", without(&profile, name)).call_new("run", &[]).output();
            assert!(
                out.code() != 0
                    || out.stdout.lines().count() < before.stdout.lines().count()
                    || lines(&out) != lines(&before)
                    || !out.stderr.is_empty(),
                "without {name}: {out}"
            );
        }
    }
}

#[test]
fn several_recordings_make_one_profile() {
    orlop_only!("a command of orlop");
    let bundle = Bundle::new().args(["/probe", "syscall", "110"]);
    let (out, first) = record(&bundle, &[]);
    assert!(out.ok().stderr.contains("recorded "));
    assert!(allowed(&first).contains(&"getppid"));
    // socket(AF_UNIX, SOCK_STREAM)
    let bundle = bundle.args(["/probe", "syscall", "41", "1", "1"]);
    let file = bundle.dir.join("recorded");
    let (out, both) = record(&bundle, &["--merge", file.to_str().unwrap(), "--format", "docker"]);
    out.ok();
    assert!(allowed(&both).contains(&"getppid"), "{both}");
    assert_eq!(both["archMap"][0]["architecture"], "SCMP_ARCH_X86_64");
    let bundle = bundle.set("/linux/seccomp", both);
    for (args, errno) in [
        (&["/probe", "syscall", "41", "1", "1"][..], 0),
        (&["/probe", "syscall", "41", "2", "1"], 1),
        (&["/probe", "syscall", "110"], 0),
        (&["/probe", "syscall", "250", "0"], 1),
    ] {
        let out = bundle.run(args.iter().copied()).json();
        assert_eq!(out["errno"].as_i64().unwrap_or(0), errno, "{args:?} {out}");
    }
}

#[test]
fn what_the_bundle_s_profile_refuses_is_refused_in_a_recording_and_after() {
    orlop_only!("a command of orlop");
    let bundle =
        Bundle::new().set("/linux/seccomp", deny_list(&["keyctl"], 38)).args(["/probe", "syscall", "250", "0"]);
    let (out, profile) = record(&bundle, &[]);
    assert_eq!(out.json()["errno"], 38);
    assert!(!allowed(&profile).contains(&"keyctl"), "{profile}");
    let bundle = bundle.set("/linux/seccomp", profile);
    assert_eq!(bundle.run(["/probe", "syscall", "250", "0"]).json()["errno"], 38);
    let (out, _) = record(&bundle, &["--merge", "/no/such/file"]);
    out.fails_with(&["no/such/file"]);
}
