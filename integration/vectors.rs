// SPDX-License-Identifier: Apache-2.0
//! The seccomp vectors of `specs/vectors/seccomp.json`, performed by a container: each call's outcome has to be what
//! the table expects. The same table runs through a simulator in the unit tests.

use serde_json::{Value, json};

use crate::harness::{Bundle, Flavor, flavor};

const VECTORS: &str = include_str!("../specs/vectors/seccomp.json");

/// Peers on which the table's own notes say that they differ from the expectation.
fn peer_agrees(call: &Value) -> bool {
    let oracle = match flavor() {
        Flavor::Orlop => return true,
        Flavor::Runc => "runc 1.1.5 live",
        Flavor::Crun => "crun 1.8.1 live",
    };
    call["oracles"].get(oracle).is_none_or(|o| o["agrees_with_expected"] == true)
}

/// The profile of a vector; those that need it get a list of calls that a program cannot do without.
fn profile(vector: &Value) -> Value {
    let mut profile = vector["profile"].clone();
    if vector["needs_base_allowlist"] == true {
        let config: Value = serde_json::from_str(include_str!("bundles/docker.json")).unwrap();
        let names: Vec<Value> = config["linux"]["seccomp"]["syscalls"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|rule| {
                rule["action"] == "SCMP_ACT_ALLOW"
                    && rule.get("args").is_none_or(|a| a.as_array().is_none_or(Vec::is_empty))
            })
            .flat_map(|rule| rule["names"].as_array().unwrap().clone())
            .collect();
        profile["syscalls"].as_array_mut().unwrap().push(json!({"names": names, "action": "SCMP_ACT_ALLOW"}));
    }
    profile
}

/// What is wrong with the outcome of one call, if anything.
fn fault(vector: &Value, call: &Value) -> Option<String> {
    let bundle = Bundle::new().set("/linux/seccomp", profile(vector));
    let verb = if call["arch"] == "x86" { "syscall32" } else { "syscall" };
    let mut args = vec!["/probe".to_string(), verb.into(), call["nr"].to_string()];
    args.extend(call["args"].as_array().unwrap().iter().map(|a| a.as_str().unwrap().to_string()));
    let out = bundle.try_run(args);
    let expected = call["expected"].as_str().unwrap();
    let got = || serde_json::from_str::<Value>(out.stdout.trim()).unwrap_or(Value::Null);
    let right = match expected {
        "CREATE_FAILS" => !out.status.success() && out.stdout.is_empty() && !out.stderr.is_empty(),
        "KILL_THREAD" | "KILL_PROCESS" | "TRAP" => out.code() == 128 + libc::SIGSYS,
        // Performed: the call itself may fail, but not with the number that the profile gives.
        "ALLOW" | "LOG" => {
            out.status.success() && got()["errno"] != 71 && got()["errno"] != 72 && got()["errno"] != libc::EPERM
        }
        word if word.starts_with("TRACE") => got()["errno"] == libc::ENOSYS,
        word => {
            let errno = word.strip_prefix("ERRNO(").and_then(|w| w.strip_suffix(')')).expect(word);
            got()["errno"] == errno.parse::<i32>().unwrap()
        }
    };
    if matches!(expected, "CREATE_FAILS") {
        drop(bundle.delete_force());
    }
    (!right).then(|| format!("{} {:?} expected {expected}: {out}", vector["id"], args_of(call)))
}

fn args_of(call: &Value) -> String {
    format!("{} {} {}", call["arch"], call["nr"], call["args"])
}

#[test]
fn every_vector_that_a_container_can_perform() {
    let int80 = crate::seccomp::int80_works();
    let vectors: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
    let (mut done, mut left_out, mut faults) = (0, 0, Vec::new());
    for vector in &vectors {
        for call in vector["calls"].as_array().unwrap() {
            if (call["arch"] == "x86" && !int80) || !peer_agrees(call) {
                left_out += 1;
                continue;
            }
            done += 1;
            faults.extend(fault(vector, call));
        }
    }
    assert!(faults.is_empty(), "{} of {done} calls:\n{}", faults.len(), faults.join("\n"));
    assert!(done >= 60, "only {done} calls were performed, {left_out} left out");
}
