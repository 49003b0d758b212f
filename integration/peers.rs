// SPDX-License-Identifier: Apache-2.0
//! What scripts parse: the JSON of orlop has the members and types of Debian's runc, which is asked in the same run.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{Bundle, Flavor, Output, flavor, host, runtime};
use crate::orlop_only;

/// A command whose output is compared.
struct Case {
    /// `ID` stands for the container's.
    words: &'static [&'static str],
    /// Members that only orlop has.
    ours: &'static [&'static str],
    /// Members of runc 1.1.5 that need not be there.
    absent: &'static [&'static str],
}

const fn case(words: &'static [&'static str]) -> Case {
    Case { words, ours: &[], absent: &[] }
}

/// What both leave out of the statistics while it is 0, which may be so for one of two containers.
const UNLESS_ZERO: [&str; 14] = [
    "/data/memory/cache",
    "/data/memory/usage/usage",
    "/data/memory/usage/max",
    "/data/memory/swap/usage",
    "/data/memory/swap/max",
    "/data/memory/kernel/usage",
    "/data/memory/kernel/max",
    "/data/memory/kernelTCP/usage",
    "/data/memory/kernelTCP/max",
    "/data/cpu/throttling/periods",
    "/data/cpu/throttling/throttledPeriods",
    "/data/cpu/throttling/throttledTime",
    "/data/cpu/usage/total",
    "/data/pids/limit",
];

/// One row for each command; one that this build does not have yet is left out.
const CASES: [Case; 4] = [
    case(&["state", "ID"]),
    case(&["list", "--format", "json"]),
    case(&["ps", "--format", "json", "ID"]),
    // What newer versions of runc add, what it does not read of a v2 hierarchy beside v1's, and what this kernel no longer
    // has.
    Case {
        words: &["events", "--stats", "ID"],
        ours: &[
            "/data/hugetlb",
            "/data/cpu/psi",
            "/data/memory/psi",
            "/data/blkio/psi",
            "/data/intel_rdt",
            "/data/network_interfaces",
        ],
        absent: &["/data/memory/raw"],
    },
];

/// One of the two runtimes, with a container that runs.
struct Side {
    bundle: Bundle,
    program: PathBuf,
    root: PathBuf,
}

impl Side {
    fn new(program: PathBuf) -> Self {
        let mut bundle =
            Bundle::new().args(["/probe", "wait"]).set("/annotations", json!({"org.example.key": "value"}));
        bundle.layer = runtime::Layer::Host;
        bundle.write_config();
        let root = bundle.dir.join("other-state");
        Self { bundle, program, root }
    }

    fn call(&self, words: &[&str]) -> Output {
        let words = words.iter().map(|word| if *word == "ID" { self.bundle.id.as_str() } else { word });
        runtime::Call::new(&self.program, &self.bundle.dir, self.bundle.layer)
            .env("ORLOP_IT", &self.bundle.id)
            .args(["--root", self.root.to_str().unwrap()])
            .args(words)
            .output()
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let out = self.call(&["delete", "--force", "ID"]);
        assert!(out.status.success() || std::thread::panicking(), "{out}");
    }
}

/// Each member by its JSON pointer, with its type; what an array holds is judged by its first element.
fn shape(value: &Value, at: &str, found: &mut BTreeMap<String, &'static str>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    found.insert(at.to_string(), kind);
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| shape(value, &format!("{at}/{name}"), found)),
        Value::Array(list) => list.iter().take(1).for_each(|value| shape(value, &format!("{at}/*"), found)),
        _ => {}
    }
}

fn shape_of(out: &Output) -> BTreeMap<String, &'static str> {
    let mut found = BTreeMap::new();
    shape(&out.json(), "", &mut found);
    found
}

/// What is wrong with our answer beside theirs.
fn differences(
    case: &Case,
    ours: &BTreeMap<String, &'static str>,
    theirs: &BTreeMap<String, &'static str>,
) -> Vec<String> {
    let below =
        |at: &str, list: &[&str]| list.iter().any(|member| at == *member || at.starts_with(&format!("{member}/")));
    // Sizes of huge pages, interfaces and the like are keys; and an empty array says nothing of its elements.
    let mut faults = Vec::new();
    for (at, kind) in theirs.iter().filter(|(at, _)| !below(at, case.absent) && !below(at, &UNLESS_ZERO)) {
        match ours.get(at) {
            Some(ours) if ours == kind || *ours == "null" || *kind == "null" => {}
            Some(ours) => faults.push(format!("{at} is {ours}, runc's is {kind}")),
            None if at.ends_with("/*") || at.contains("/*/") => {}
            None => faults.push(format!("{at} ({kind}) is missing")),
        }
    }
    let more = ours.keys().filter(|at| {
        !theirs.contains_key(*at) && !below(at, case.ours) && !below(at, &UNLESS_ZERO) && !at.contains("/*")
    });
    faults.extend(more.map(|at| format!("{at} is not in runc's")));
    faults
}

#[test]
fn members_and_types_are_those_of_runc() {
    orlop_only!("compares orlop with runc");
    let Some(runc) = host::find_program("runc") else {
        crate::skip_expected!("runc is not installed");
    };
    let (ours, theirs) = (Side::new(runtime::program()), Side::new(runc));
    let dir = |side: &Side| side.bundle.dir.to_str().unwrap().to_string();
    for side in [&ours, &theirs] {
        side.call(&["create", "--bundle", &dir(side), "ID"]).ok();
    }
    let mut compared = Vec::new();
    let mut compare = |when: &str| {
        for case in &CASES {
            if !ours.call(&[case.words[0], "--help"]).status.success() {
                assert_eq!(case.words[0], "events", "a command is gone");
                continue;
            }
            let (our, their) = (ours.call(case.words), theirs.call(case.words));
            if when == "stopped" && !their.status.success() {
                our.fails();
                continue;
            }
            let faults = differences(case, &shape_of(&our), &shape_of(&their));
            assert!(faults.is_empty(), "{when}: {:?}: {faults:#?}\n{our}\n{their}", case.words);
            compared.push(format!("{} {when}", case.words[0]));
        }
    };
    compare("created");
    for side in [&ours, &theirs] {
        side.call(&["start", "ID"]).ok();
    }
    compare("running");
    for side in [&ours, &theirs] {
        side.call(&["kill", "ID", "KILL"]).ok();
        crate::harness::eventually("it stops", || side.call(&["state", "ID"]).json()["status"] == "stopped");
    }
    compare("stopped");
    assert!(compared.len() >= 8, "{compared:?}");
}

#[test]
fn values_are_written_as_runc_s() {
    orlop_only!("compares orlop with runc");
    let Some(runc) = host::find_program("runc") else {
        crate::skip_expected!("runc is not installed");
    };
    let (ours, theirs) = (Side::new(runtime::program()), Side::new(runc));
    for side in [&ours, &theirs] {
        side.call(&["create", "--bundle", side.bundle.dir.to_str().unwrap(), "ID"]).ok();
    }
    for words in [&["state", "ID"][..], &["list", "--format", "json"]] {
        let value = |side: &Side| {
            let mut value = side.call(words).json();
            // The same place of the two bundles.
            let text = value.to_string().replace(&side.bundle.id, "ID");
            value = serde_json::from_str(&text).unwrap();
            let state = if value.is_array() { &mut value[0] } else { &mut value };
            assert!(state["pid"].as_i64().unwrap() > 1);
            let created = state["created"].take();
            assert!(created.as_str().is_some_and(|t| t.ends_with('Z') && t.contains('T') && t.len() > 20), "{created}");
            state["pid"].take();
            state["ociVersion"].take();
            value
        };
        assert_eq!(value(&ours), value(&theirs), "{words:?}");
    }
    let words = |side: &Side, words: &[&str]| {
        let text = side.call(words).ok().stdout.replace(&side.bundle.id, "ID");
        text.split_whitespace().map(str::to_string).collect::<Vec<_>>()
    };
    assert_eq!(words(&ours, &["list", "-q"]), words(&theirs, &["list", "-q"]));
    let (our, their) = (words(&ours, &["list"]), words(&theirs, &["list"]));
    assert_eq!(our[..6], their[..6], "the head of the table");
    assert_eq!((&our[6], &our[8], &our[11]), (&their[6], &their[8], &their[11]), "ID, STATUS, OWNER");
    let head = |side: &Side| side.call(&["ps", "ID"]).ok().stdout.lines().next().unwrap().to_string();
    assert_eq!(head(&ours), head(&theirs));
}

#[test]
fn the_comparison_notices_a_difference() {
    let shape_of = |value: Value| {
        let mut found = BTreeMap::new();
        shape(&value, "", &mut found);
        found
    };
    let theirs = shape_of(json!({"id": "x", "pid": 1, "list": [{"a": 1}]}));
    let faults = |value: Value| differences(&CASES[0], &shape_of(value), &theirs).len();
    assert_eq!(faults(json!({"id": "y", "pid": 2, "list": []})), 0);
    assert_eq!(faults(json!({"id": "y", "pid": "2", "list": [{"a": "1"}]})), 2);
    assert_eq!(faults(json!({"id": "y", "list": null, "more": 1})), 2);
}

#[test]
fn fifty_containers_at_once() {
    let bundle = Bundle::new().args(["/probe", "wait"]).remove("/linux/cgroupsPath");
    bundle.write_config();
    let (path, name, layer, root) = (&bundle.dir, &bundle.id, bundle.layer, bundle.state_root());
    let dir = path.to_str().unwrap();
    let call = |words: &[&str]| {
        let call = runtime::Call::new(&runtime::program(), path, layer).env("ORLOP_IT", name);
        call.args(["--root", root.to_str().unwrap()]).args(words).output()
    };
    let one = |number: usize| {
        let id = format!("{name}-{number}");
        let pid_file = path.join(format!("pid.{number}"));
        call(&["create", "--bundle", dir, "--pid-file", pid_file.to_str().unwrap(), &id]).ok();
        call(&["start", &id]).ok();
        let said = call(&["exec", &id, "/probe", "echo", &id]).json();
        assert_eq!(said["echo"][0], id.as_str());
        call(&["kill", &id, "KILL"]).ok();
        let pid = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        assert!(runtime::wait_for_end(pid, runtime::patience_ms()));
        call(&["delete", &id]).ok();
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..50)
            .map(|number| {
                scope.spawn({
                    let one = &one;
                    move || one(number)
                })
            })
            .collect();
        // Whoever lists meanwhile is not disturbed by those that come and go.
        while all.iter().any(|thread| !thread.is_finished()) {
            let listed = call(&["list", "--format", "json"]);
            // The peers' list fails if one goes just then.
            assert!(listed.status.success() || flavor() != Flavor::Orlop, "{listed}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        for thread in all {
            thread.join().unwrap();
        }
    });
    assert_eq!(call(&["list", "-q"]).ok().stdout.trim(), "");
    assert!(host::cgroups_named(&bundle.id).is_empty());
    bundle.check_clean();
}
