// SPDX-License-Identifier: Apache-2.0
//! The six kinds of hooks: when they run, where, with what state, and what their failure means.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{Bundle, Flavor, flavor, own_ns, runtime};
use crate::{orlop_only, peer_differs};

/// All six with the file that each records itself to. Those of the container's side write below its root.
struct Recorded {
    bundle: Bundle,
}

/// A hook that records how it was called. `path` is in the file system that the hook sees.
fn hook(program: &str, record: &str, more: &[&str]) -> Value {
    let mut args = vec!["record", "hook", record];
    args.extend(more);
    json!({"path": program, "args": args, "env": ["HOOK_ENV=yes"]})
}

/// The probe on the host's side.
fn host_probe() -> String {
    runtime::base().join("probe").to_str().unwrap().to_string()
}

impl Recorded {
    fn new() -> Self {
        let bundle = Bundle::new();
        let records = bundle.dir.join("records");
        fs::create_dir(&records).unwrap();
        let mut recorded = Self { bundle };
        for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
            recorded = recorded.add(kind, &[]);
        }
        recorded.add("startContainer", &[])
    }

    fn add(mut self, kind: &str, more: &[&str]) -> Self {
        let value = if kind == "startContainer" {
            hook("/probe", &format!("/tmp/{kind}"), more)
        } else {
            hook(&host_probe(), self.bundle.dir.join("records").join(kind).to_str().unwrap(), more)
        };
        self.bundle = self.bundle.push(&format!("/hooks/{kind}"), value);
        self
    }

    fn path(&self, kind: &str) -> PathBuf {
        if kind == "startContainer" {
            self.bundle.rootfs().join("tmp").join(kind)
        } else {
            self.bundle.dir.join("records").join(kind)
        }
    }

    /// The record of the only call of `kind`.
    #[track_caller]
    fn of(&self, kind: &str) -> Value {
        let path = self.path(kind);
        let all = runtime::lines(&fs::read_to_string(&path).unwrap_or_else(|e| panic!("{kind}: {e}")));
        assert_eq!(all.len(), 1, "{kind} ran {} times", all.len());
        all[0].clone()
    }

    fn ran(&self, kind: &str) -> bool {
        self.path(kind).exists()
    }
}

#[test]
fn each_runs_once_at_its_time() {
    peer_differs!("runc", "1.1.5 runs poststart within create");
    let recorded = Recorded::new();
    let bundle = &recorded.bundle;
    bundle.write_config();
    let out = bundle.call_new("create", &[]).output();
    out.ok();
    for kind in ["prestart", "createRuntime", "createContainer"] {
        assert!(recorded.ran(kind), "{kind} after create");
    }
    for kind in ["startContainer", "poststart", "poststop"] {
        assert!(!recorded.ran(kind), "{kind} before start");
    }
    bundle.start();
    bundle.wait_stopped();
    for kind in ["startContainer", "poststart"] {
        assert!(recorded.ran(kind), "{kind} after start");
    }
    assert!(!recorded.ran("poststop"));
    bundle.delete().ok();
    assert!(recorded.ran("poststop"));
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        recorded.of(kind);
    }
}

#[test]
fn the_state_on_stdin() {
    peer_differs!("runc", "1.1.5 runs poststart within create");
    let recorded = Recorded::new();
    let bundle = &recorded.bundle;
    bundle.create();
    let pid = bundle.pid();
    bundle.start();
    bundle.wait_stopped();
    bundle.delete().ok();
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        let state = recorded.of(kind)["stdin"].clone();
        assert_eq!(state["id"], bundle.id, "{kind}");
        if flavor() != Flavor::Crun {
            // 1.8 gives the container's root to startContainer.
            assert_eq!(state["bundle"], bundle.dir.to_str().unwrap(), "{kind}");
        }
        assert!(state["ociVersion"].is_string(), "{kind}");
    }
    let state = |kind: &str| recorded.of(kind)["stdin"].clone();
    for kind in ["prestart", "createRuntime"] {
        assert_eq!(state(kind)["pid"], pid, "{kind}");
    }
    let status = |kind: &str| state(kind)["status"].as_str().unwrap().to_string();
    if flavor() != Flavor::Crun {
        // crun 1.8 has words of its own for the early ones.
        for kind in ["prestart", "createRuntime", "createContainer"] {
            assert_eq!(status(kind), "creating", "{kind}");
        }
        assert_eq!(status("startContainer"), "created");
    }
    assert_eq!(status("poststart"), "running");
    assert_eq!(state("poststart")["pid"], pid);
    assert_eq!(status("poststop"), "stopped");
}

#[test]
fn the_environment_is_the_hook_s_own() {
    // CVE-2025-23266 was a hook that ran with the variables of the image.
    let recorded = Recorded::new();
    let bundle = &recorded.bundle;
    let mut config = bundle.config.clone();
    config["process"]["env"] = json!(["PATH=/bin", "LD_PRELOAD=/evil.so", "FROM_THE_IMAGE=1"]);
    fs::write(bundle.dir.join("config.json"), config.to_string()).unwrap();
    let dir = bundle.dir.to_str().unwrap();
    bundle
        .call(["create", "--bundle", dir, "--pid-file", bundle.pid_file().to_str().unwrap(), &bundle.id])
        .output()
        .ok();
    bundle.start();
    bundle.wait_stopped();
    bundle.delete().ok();
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        assert_eq!(recorded.of(kind)["env"], json!(["HOOK_ENV=yes"]), "{kind}");
    }
}

#[test]
fn the_arguments_are_the_hook_s_own() {
    let recorded = Recorded::new();
    recorded.bundle.create();
    let args = recorded.of("createRuntime")["args"].clone();
    assert_eq!(args[0], "record");
    assert_eq!(args[1], "hook");
}

#[test]
fn each_runs_in_its_namespaces() {
    let recorded = Recorded::new();
    let bundle = &recorded.bundle;
    bundle.create();
    bundle.start();
    bundle.wait_stopped();
    bundle.delete().ok();
    let ns = |kind: &str, of: &str| recorded.of(kind)["ns"][of].clone();
    for kind in ["prestart", "createRuntime", "poststart", "poststop"] {
        for of in ["net", "uts", "pid"] {
            assert_eq!(ns(kind, of), own_ns(of).as_str(), "{kind} {of}");
        }
    }
    assert_ne!(ns("createContainer", "net"), own_ns("net").as_str());
    assert_ne!(ns("createContainer", "mnt"), own_ns("mnt").as_str());
    // createContainer runs before the pivot: its record went to the host's file system, as its program came from it.
    assert!(recorded.of("createContainer")["root"].get("probe").is_none());
    assert!(recorded.of("startContainer")["root"].get("probe").is_some());
    assert_eq!(ns("startContainer", "net"), ns("createContainer", "net"));
}

#[test]
fn create_container_hooks_run_in_the_root_s_directory() {
    peer_differs!("crun", "1.8 leaves them in the bundle");
    let recorded = Recorded::new();
    recorded.bundle.create();
    // By its name on the host, as the hook has the host's root.
    assert_eq!(recorded.of("createContainer")["cwd"], recorded.bundle.rootfs().to_str().unwrap());
}

#[test]
fn hooks_get_no_descriptor_of_the_runtime() {
    let recorded = Recorded::new();
    let bundle = &recorded.bundle;
    bundle.create();
    bundle.start();
    bundle.wait_stopped();
    bundle.delete().ok();
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        let fds = recorded.of(kind)["fds"].clone();
        let beyond: Vec<_> = fds.as_object().unwrap().iter().filter(|(n, _)| n.parse::<u32>().unwrap() > 2).collect();
        if flavor() == Flavor::Orlop {
            assert!(beyond.is_empty(), "{kind}: {beyond:?}");
        }
    }
}

#[test]
fn several_of_a_kind_run_in_order() {
    let bundle = Bundle::new();
    let record = bundle.dir.join("records");
    let mut bundle = bundle;
    for name in ["first", "second", "third"] {
        let value = json!({"path": host_probe(), "args": [name, "hook", record.to_str().unwrap()]});
        bundle = bundle.push("/hooks/createRuntime", value);
    }
    bundle.create();
    let names: Vec<Value> =
        runtime::lines(&fs::read_to_string(&record).unwrap()).iter().map(|r| r["args"][0].clone()).collect();
    assert_eq!(names, ["first", "second", "third"]);
}

#[test]
fn a_failing_hook_fails_the_create_and_leaves_nothing() {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        if flavor() == Flavor::Crun && kind != "createRuntime" {
            continue;
        }
        let recorded = Recorded::new();
        let bundle = Recorded { bundle: recorded.bundle.remove(&format!("/hooks/{kind}")) }
            .add(kind, &["fail", "the hook's own words"])
            .bundle;
        let out = bundle.try_create(&[]).fails();
        if flavor() != Flavor::Crun {
            // What callers look for.
            assert!(out.stderr.contains("error running"), "{kind}: {out}");
            assert!(out.stderr.contains("the hook's own words"), "{kind}: {out}");
        }
        bundle.check_clean();
    }
}

#[test]
fn the_message_names_kind_and_number() {
    peer_differs!("runc", "1.1.5 gives the number alone");
    peer_differs!("crun", "1.8 gives the path alone");
    let bundle = Bundle::new();
    let record = bundle.dir.join("records");
    let (fine, bad) = (
        hook(&host_probe(), record.to_str().unwrap(), &[]),
        hook(&host_probe(), record.to_str().unwrap(), &["fail", "x"]),
    );
    let bundle = bundle.push("/hooks/createRuntime", fine).push("/hooks/createRuntime", bad);
    bundle.try_create(&[]).fails_with(&["error running createRuntime hook #1", "exit status 3"]);
    bundle.check_clean();
}

#[test]
fn poststop_runs_after_a_failed_create() {
    peer_differs!("crun", "1.8 does not");
    peer_differs!("runc", "1.1.5 does not for a failing hook");
    let recorded = Recorded::new();
    let recorded =
        Recorded { bundle: recorded.bundle.remove("/hooks/createRuntime") }.add("createRuntime", &["fail", "x"]);
    recorded.bundle.try_create(&[]).fails();
    assert!(recorded.ran("poststop"));
    assert!(!recorded.ran("startContainer"));
}

#[test]
fn a_hook_that_hangs_is_killed_after_its_timeout() {
    let bundle = Bundle::new();
    let record = bundle.dir.join("records");
    let mut value = hook(&host_probe(), record.to_str().unwrap(), &["hang"]);
    value["timeout"] = json!(1);
    let bundle = bundle.push("/hooks/createRuntime", value);
    bundle.try_create(&[]).fails();
    assert!(record.exists());
    bundle.check_clean();
}

#[test]
fn a_failing_start_container_hook_fails_the_start() {
    peer_differs!("runc", "the FIFO loses the error of init");
    peer_differs!("crun", "the FIFO loses the error of init");
    let recorded = Recorded::new();
    let recorded = Recorded { bundle: recorded.bundle.remove("/hooks/startContainer") }
        .add("startContainer", &["fail", "not today"]);
    recorded.bundle.create();
    recorded.bundle.command("start").fails_with(&["startContainer hook #0"]);
    recorded.bundle.delete_force().ok();
    recorded.bundle.check_clean();
}

#[test]
fn a_failing_poststart_hook_stops_the_container() {
    peer_differs!("runc", "1.1.5 runs poststart within create");
    peer_differs!("crun", "1.8 only warns");
    let recorded = Recorded::new();
    let bundle = Recorded { bundle: recorded.bundle.remove("/hooks/poststart") }
        .add("poststart", &["fail", "not today"])
        .bundle
        .args(["/probe", "wait"]);
    bundle.create();
    bundle.command("start").fails();
    // runtime-spec 1.3: the container is stopped, and may be gone.
    let state = bundle.command("state");
    assert!(!state.status.success() || state.json()["status"] != "running", "{state}");
}

#[test]
fn a_failing_poststop_hook_is_a_warning_and_the_others_run() {
    peer_differs!("runc", "1.1.5 stops at the first");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    let record = bundle.dir.join("records");
    let path = record.to_str().unwrap();
    let bundle = bundle
        .push("/hooks/poststop", hook(&host_probe(), path, &["fail", "never mind"]))
        .push("/hooks/poststop", hook(&host_probe(), path, &[]));
    bundle.create();
    let out = bundle.delete_force().ok();
    if flavor() == Flavor::Orlop {
        assert!(out.stderr.contains("poststop hook #0"), "{out}");
    }
    assert_eq!(fs::read_to_string(&record).unwrap().lines().count(), 2);
    bundle.check_clean();
}

#[test]
fn hooks_of_a_container_that_ran_in_the_foreground() {
    let recorded = Recorded::new();
    recorded.bundle.run(["/probe", "echo", "x"]).ok();
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        recorded.of(kind);
    }
}

#[test]
fn bad_hooks_are_named() {
    orlop_only!("gives the JSON path");
    let bundle = Bundle::new().push("/hooks/createRuntime", json!({"path": "relative/path"}));
    bundle.try_create(&[]).fails_with(&["hooks.createRuntime[0].path", "absolute"]);
    bundle.check_clean();
    let bundle = Bundle::new().push("/hooks/createRuntime", json!({"path": "/bin/true", "timeout": 0}));
    bundle.try_create(&[]).fails_with(&["hooks.createRuntime[0].timeout"]);
    bundle.check_clean();
    let bundle = Bundle::new().push("/hooks/createRuntime", json!({"path": "/no/such/hook"}));
    bundle.try_create(&[]).fails_with(&["createRuntime hook #0", "/no/such/hook", "no such file"]);
    bundle.check_clean();
}

#[test]
fn start_container_hooks_are_confined_by_the_filter() {
    peer_differs!("crun", "1.8 has another policy here");
    for no_new_privileges in [true, false] {
        let bundle = Bundle::new()
            .set("/process/noNewPrivileges", no_new_privileges)
            .set(
                "/linux/seccomp",
                json!({"defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["getpgrp"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71}]}),
            )
            .push("/hooks/startContainer", json!({"path": "/probe", "args": ["hook", "syscall", "111"]}))
            .push("/hooks/startContainer", hook("/probe", "/tmp/record", &[]));
        bundle.run(["/probe", "echo", "x"]).ok();
        let record = fs::read_to_string(bundle.rootfs().join("tmp/record")).unwrap();
        let seen: Value = serde_json::from_str(record.trim()).unwrap();
        assert_eq!(seen["seccomp"], 2, "noNewPrivileges {no_new_privileges}: {seen}");
    }
}

#[test]
fn a_hook_that_does_not_read_its_stdin_does_not_kill_init() {
    peer_differs!("crun", "1.8 takes the closed pipe for a failure");
    // A state larger than a pipe, in a PID namespace whose first process init is not: there SIGPIPE would end it.
    let bundle = Bundle::new()
        .without_ns("pid")
        .set("/annotations", json!({"long": "x".repeat(300_000)}))
        .push("/hooks/createContainer", json!({"path": host_probe(), "args": ["hook", "echo", "x"]}));
    bundle.run(["/probe", "echo", "x"]).ok();
}
