// SPDX-License-Identifier: Apache-2.0
//! `events`: runc's JSON, the OOM killer, and its end.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Bundle, Flavor, Layer, eventually, flavor, host, runtime};
use crate::{orlop_only, peer_differs};

macro_rules! requires_memory {
    () => {
        if host::hierarchy_of("memory").is_none() || (flavor() == Flavor::Crun && !host::is_v2()) {
            crate::skip_expected!("no memory controller in this layer");
        }
    };
}

/// The members of a value with the types of what they hold, as `/data/cpu/usage/total: number`.
fn shape(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| shape(value, &format!("{at}/{name}"), found)),
        Value::Array(list) => list.iter().for_each(|value| shape(value, &format!("{at}[]"), found)),
        Value::Null => drop(found.insert(format!("{at}: null"))),
        Value::Bool(_) => drop(found.insert(format!("{at}: bool"))),
        Value::Number(_) => drop(found.insert(format!("{at}: number"))),
        Value::String(_) => drop(found.insert(format!("{at}: string"))),
    }
}

#[test]
fn statistics_have_the_members_and_types_of_runc() {
    orlop_only!("is compared with runc");
    requires_memory!();
    let Some(runc) = host::find_program("runc") else { crate::skip_expected!("runc is not installed") };
    let bundle = Bundle::new().set("/linux/resources", json!({"pids": {"limit": 50}})).args(["/probe", "wait"]);
    bundle.create();
    let ours = bundle.call(["events", "--stats", &bundle.id]).output().json();

    // The same bundle, in a cgroup of its own.
    let other = Bundle::new().set("/linux/resources", json!({"pids": {"limit": 50}})).args(["/probe", "wait"]);
    other.write_config();
    let call = |args: &[&str]| {
        let root = other.state_root();
        let all = ["--root", root.to_str().unwrap()].into_iter().chain(args.iter().copied());
        runtime::Call::new(&runc, &other.dir, Layer::Host).args(all).output()
    };
    call(&["create", "--bundle", other.dir.to_str().unwrap(), &other.id]).ok();
    let theirs = call(&["events", "--stats", &other.id]);
    call(&["delete", "--force", &other.id]).ok();
    let theirs = theirs.json();

    assert_eq!((&ours["type"], &ours["id"]), (&json!("stats"), &json!(bundle.id)));
    let (mut here, mut there) = (BTreeSet::new(), BTreeSet::new());
    shape(&ours, "", &mut here);
    shape(&theirs, "", &mut there);
    // What is zero is left out, and some is zero by chance.
    let by_chance = |member: &&String| {
        ["cache", "max", "usage", "throttl", "/blkio/", "/hugetlb/"].iter().any(|word| member.contains(word))
    };
    let missing: Vec<&String> = there.difference(&here).filter(|member| !by_chance(member)).collect();
    let more: Vec<&String> = here.difference(&there).filter(|member| !by_chance(member)).collect();
    assert!(missing.is_empty() && more.is_empty(), "missing: {missing:?}; more: {more:?}");
    assert_eq!(ours["data"]["pids"], json!({"current": 1, "limit": 50}));
    assert!(ours["data"]["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{ours}");
    assert!(ours["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "{ours}");
}

#[test]
fn v2_statistics_have_the_same_members() {
    peer_differs!("crun", "has no events");
    let bundle = Bundle::v2().args(["/probe", "wait"]);
    bundle.create();
    bundle.start();
    let seen = bundle.call(["events", "--stats", &bundle.id]).output().json();
    let data = &seen["data"];
    for member in ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"] {
        assert!(data.get(member).is_some(), "{member}: {seen}");
    }
    assert!(data["cpu"]["usage"]["total"].as_u64().is_some_and(|total| total > 0), "{seen}");
    if flavor() == Flavor::Orlop {
        // Counted by the processes where there is no pids controller.
        assert_eq!(data["pids"]["current"], 1, "{seen}");
        let pressure = host::v2_root().unwrap().join(&bundle.id).join("cpu.pressure");
        match std::fs::read_to_string(pressure) {
            Ok(_) => assert!(data["cpu"]["psi"]["some"]["avg10"].is_f64(), "{seen}"),
            Err(_) => assert!(data["cpu"].get("psi").is_none(), "{seen}"),
        }
    }
}

#[test]
fn the_stream_has_statistics_and_ends_with_the_container() {
    peer_differs!("crun", "has no events");
    for bundle in [Bundle::new(), Bundle::v2()] {
        if flavor() == Flavor::Runc && bundle.layer == Layer::V2 {
            // It wants a memory controller, which this layer may not have.
            continue;
        }
        let bundle = bundle.args(["/probe", "wait"]);
        bundle.create();
        let events = bundle.call(["events", "--interval", "50ms", &bundle.id]).start();
        let lines = || std::fs::read_to_string(events.stdout_path()).unwrap_or_default();
        eventually("statistics of a created container", || lines().contains("\"stats\""));
        bundle.start();
        let before = lines().lines().count();
        eventually("more statistics", || lines().lines().count() > before + 2);
        bundle.kill("KILL").ok();
        bundle.wait_stopped();
        if flavor() != Flavor::Orlop {
            // runc goes on until the cgroup is gone.
            bundle.delete().ok();
        }
        let out = events.output().ok();
        assert!(out.jsons().iter().all(|event| event["id"] == json!(bundle.id)), "{out}");
        if flavor() == Flavor::Orlop {
            bundle.call(["events", &bundle.id]).output().fails_with(&["is not running"]);
            bundle.call(["events", "--stats", &bundle.id]).output().fails_with(&["is not running"]);
        }
    }
}

#[test]
fn a_kill_by_the_oom_killer_is_an_event() {
    requires_memory!();
    let limits = json!({"memory": {"limit": 16_777_216, "swap": 16_777_216}});
    let bundle = Bundle::new().set("/linux/resources", limits).args(["/probe", "allocate", "64"]);
    let created = bundle.try_create(&[]);
    if created.stderr.contains("memsw") {
        crate::skip_expected!("the kernel accounts no swap: {}", created.stderr.trim());
    }
    created.ok();
    let events = bundle.call(["events", "--interval", "50ms", &bundle.id]).start();
    let path = events.stdout_path().to_path_buf();
    eventually("the stream has begun", || std::fs::read_to_string(&path).is_ok_and(|text| text.contains("stats")));
    bundle.start();
    bundle.wait_stopped();
    if flavor() != Flavor::Orlop {
        bundle.delete().ok();
    }
    let out = events.output().ok();
    assert!(out.jsons().contains(&json!({"type": "oom", "id": bundle.id})), "{out}");
}

#[test]
fn run_says_that_it_was_the_oom_killer() {
    orlop_only!("says who has sent SIGKILL");
    requires_memory!();
    let limits = json!({"memory": {"limit": 16_777_216, "swap": 16_777_216}});
    let out = Bundle::new().set("/linux/resources", limits).try_run(["/probe", "allocate", "64"]);
    if out.stderr.contains("memsw") {
        crate::skip_expected!("the kernel accounts no swap: {}", out.stderr.trim());
    }
    assert_eq!(out.code(), 137, "{out}");
    assert!(out.stderr.contains("killed by the OOM killer"), "{out}");
    // Somebody else's SIGKILL is not taken for it.
    let bundle = Bundle::new().args(["/probe", "wait"]);
    let run = bundle.call_new("run", &[]).start();
    eventually("the program runs", || std::fs::read_to_string(run.stdout_path()).is_ok_and(|t| t.contains("ready")));
    bundle.kill("KILL").ok();
    let out = run.output();
    assert_eq!(out.code(), 137, "{out}");
    assert!(!out.stderr.contains("OOM"), "{out}");
}

#[test]
fn a_reader_that_goes_ends_the_stream() {
    peer_differs!("crun", "has no events");
    peer_differs!("runc", "goes on until it writes the next time, and then fails");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    let program = runtime::program();
    let root = bundle.state_root();
    let script = "\"$@\" | head -n 1";
    let mut reader = Command::new("sh");
    reader.args(["-c", script, "sh"]).arg(program).arg("--root").arg(root);
    let out = reader.args(["events", "--interval", "20ms", &bundle.id]).output().unwrap();
    assert!(out.status.success() && out.stdout.starts_with(b"{"), "{out:?}");
}

#[test]
fn bad_intervals_are_refused() {
    peer_differs!("crun", "has no events");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    for interval in ["0s", "-1s", "5", "soon"] {
        bundle.call(["events", &format!("--interval={interval}"), &bundle.id]).output().fails_with(&["interval"]);
    }
}
