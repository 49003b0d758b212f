// SPDX-License-Identifier: Apache-2.0
//! `--trace`: the file is what trace viewers read, has the phases of both processes in their order, and nothing is lost when
//! it cannot be written.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::harness::{Bundle, Output, runtime};
use crate::orlop_only;

/// A call with `--trace FILE`.
fn traced(bundle: &Bundle, file: &Path, words: &[&str]) -> Output {
    let root = bundle.state_root();
    let before = ["--root", root.to_str().unwrap(), "--trace", file.to_str().unwrap()];
    runtime::Call::new(&runtime::program(), &bundle.dir, bundle.layer)
        .env("ORLOP_IT", &bundle.id)
        .args(before.iter().chain(words))
        .output()
}

/// The names of the phases of the parent and of the child, each in order, after a check of the whole.
#[track_caller]
fn lanes(file: &Path) -> [Vec<String>; 2] {
    let trace: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let of = |kind: &str| events.iter().filter(|e| e["ph"] == kind).cloned().collect::<Vec<_>>();
    let (complete, names) = (of("X"), of("M"));
    assert_eq!(complete.len() + names.len(), events.len(), "{trace}");
    assert!(names.iter().all(|e| e["name"] == "thread_name" && e["args"]["name"].is_string()), "{trace}");
    let parent = complete[0]["pid"].as_i64().unwrap();
    let lane = |is_parent: bool| {
        let mut end = 0.0;
        let own = complete.iter().filter(|e| (e["tid"].as_i64().unwrap() == parent) == is_parent);
        own.map(|event| {
            let (from, span) = (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
            assert!(from >= end - 0.01 && span >= 0.0, "{event} begins before {end}");
            end = from + span;
            event["name"].as_str().unwrap().to_string()
        })
        .collect()
    };
    [lane(true), lane(false)]
}

/// Fails unless the words are among the phases, in this order.
#[track_caller]
fn has(phases: &[String], words: &[&str]) {
    let mut rest = phases.iter();
    for word in words {
        assert!(rest.any(|phase| phase.contains(word)), "no {word:?} in its place in {phases:#?}");
    }
}

const OF_PARENT: [&str; 9] = [
    "start of the program",
    "host",
    "config.json",
    "plan",
    "state directory",
    "cgroup",
    "clone3",
    "wait for",
    "write the state",
];
const OF_CHILD: [&str; 7] =
    ["first steps", "id maps", "mounts", "pivot_root", "masked", "user and capabilities", "wait for start"];

#[test]
fn run_has_the_phases_of_both_processes() {
    orlop_only!("has --trace");
    let bundle = Bundle::new().with_config(include_str!("bundles/docker.json")).args(["/probe", "echo", "x"]);
    bundle.write_config();
    let file = bundle.dir.join("trace.json");
    traced(&bundle, &file, &["run", "--bundle", bundle.dir.to_str().unwrap(), &bundle.id]).ok();
    let [parent, child] = lanes(&file);
    has(&parent, &OF_PARENT);
    has(&parent, &["write the state", "execve", "the program runs", "remove the cgroup", "remove the state directory"]);
    has(&child, &OF_CHILD);
    has(&child, &["wait for start", "execve"]);
    assert!(child.iter().any(|phase| phase == "load the seccomp filter"), "{child:?}");
    bundle.check_clean();
}

#[test]
fn each_command_has_its_own() {
    orlop_only!("has --trace");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.write_config();
    let file = |name: &str| bundle.dir.join(format!("{name}.json"));
    let id = bundle.id.as_str();
    let pid_file = bundle.pid_file();
    let to = ["--pid-file", pid_file.to_str().unwrap()];
    let words = [&["create", "--bundle", bundle.dir.to_str().unwrap()][..], &to, &[id]].concat();
    traced(&bundle, &file("create"), &words).ok();
    let [parent, child] = lanes(&file("create"));
    has(&parent, &OF_PARENT);
    has(&child, &OF_CHILD);
    // Of an init that was cloned by a command with a trace, and by one without.
    traced(&bundle, &file("start"), &["start", id]).ok();
    let [parent, child] = lanes(&file("start"));
    has(&parent, &["start of the program", "read the state", "connect to init", "wait for its execve"]);
    assert_eq!(child, ["execve"]);
    traced(&bundle, &file("exec"), &["exec", id, "/probe", "echo", "x"]).ok();
    let [parent, child] = lanes(&file("exec"));
    has(&parent, &["read the state", "plan", "clone3", "execve", "the program runs"]);
    has(&child, &["first steps", "enter namespaces", "user and capabilities", "execve"]);
    traced(&bundle, &file("kill"), &["kill", id, "KILL"]).ok();
    lanes(&file("kill"));
    bundle.wait_stopped();
    traced(&bundle, &file("delete"), &["delete", id]).ok();
    has(&lanes(&file("delete"))[0], &["read the state", "remove the cgroup", "remove the state directory"]);
    bundle.check_clean();
}

#[test]
fn start_hears_from_an_init_that_knows_of_no_trace() {
    orlop_only!("has --trace");
    let bundle = Bundle::new().args(["/probe", "echo", "x"]);
    bundle.create().ok();
    let file = bundle.dir.join("start.json");
    traced(&bundle, &file, &["start", &bundle.id]).ok();
    assert_eq!(lanes(&file)[1], ["execve"]);
    bundle.wait_stopped();
    bundle.delete().ok();
}

#[test]
fn a_command_that_fails_has_its_phases_too() {
    orlop_only!("has --trace");
    let bundle = Bundle::new().args(["/there/is/no/such/program"]);
    bundle.write_config();
    let file = bundle.dir.join("trace.json");
    traced(&bundle, &file, &["run", "--bundle", bundle.dir.to_str().unwrap(), &bundle.id]).fails();
    let [parent, child] = lanes(&file);
    has(&parent, &["plan", "clone3", "wait for"]);
    has(&child, &["mounts", "user and capabilities"]);
    bundle.check_clean();
}

#[test]
fn a_trace_that_cannot_be_written_is_a_warning() {
    orlop_only!("has --trace");
    let bundle = Bundle::new().args(["/probe", "echo", "x"]);
    bundle.write_config();
    let nowhere = bundle.dir.join("missing/trace.json");
    let out = traced(&bundle, &nowhere, &["run", "--bundle", bundle.dir.to_str().unwrap(), &bundle.id]).ok();
    assert!(out.stderr.contains("warning: --trace") && out.stderr.contains("(ENOENT)"), "{out}");
    assert_eq!(out.jsons()[0]["echo"][0], "x");
    bundle.check_clean();
}

#[test]
fn the_variable_may_name_a_directory_for_the_traces_of_several_commands() {
    orlop_only!("has --trace");
    let bundle = Bundle::new().args(["/probe", "echo", "x"]);
    bundle.write_config();
    let into = bundle.dir.join("traces");
    fs::create_dir(&into).unwrap();
    for words in [&["create", "--bundle", bundle.dir.to_str().unwrap()][..], &["start"], &["delete", "--force"]] {
        let call = bundle.call(words.iter().copied().chain([bundle.id.as_str()]));
        call.env("ORLOP_TRACE", into.to_str().unwrap()).output().ok();
    }
    let mut names: Vec<_> = fs::read_dir(&into).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    assert_eq!(names.len(), 3, "{names:?}");
    for (path, command) in names.iter().zip(["create", "delete", "start"]) {
        assert!(path.to_str().unwrap().contains(&format!("/orlop-{command}-")), "{names:?}");
        lanes(path);
    }
    bundle.check_clean();
}

#[test]
fn a_phase_may_last_longer_than_32_bits_of_nanoseconds() {
    orlop_only!("has the flag");
    let bundle = Bundle::new().args(["/probe", "sleep", "5"]);
    bundle.write_config();
    let file = bundle.dir.join("trace.json");
    traced(&bundle, &file, &["run", "--bundle", bundle.dir.to_str().unwrap(), &bundle.id]).ok();
    let trace: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let ends =
        trace["traceEvents"].as_array().unwrap().iter().filter_map(|e| Some(e["ts"].as_f64()? + e["dur"].as_f64()?));
    let longest = trace["traceEvents"].as_array().unwrap().iter().filter_map(|e| e["dur"].as_f64()).fold(0.0, f64::max);
    assert!(longest >= 4_900_000.0, "{longest}");
    assert!(ends.fold(0.0, f64::max) > longest, "what comes after it is after it");
}
