// SPDX-License-Identifier: Apache-2.0
//! A process of `exec` is as confined as the container's init: both report what they see of themselves, and every member
//! has to be equal. For the peers the members that differ are recorded, so that the comparison is known to notice.

use serde_json::{Value, json};

use crate::exec::{exec, running};
use crate::harness::{Bundle, Flavor, Layer, flavor, host};

const DOCKER: &str = include_str!("bundles/docker.json");
const DOCKER_NNP: &str = include_str!("bundles/docker-nnp.json");
const USERNS: &str = include_str!("bundles/userns.json");

/// What confines a process, as the probe's report names it.
const MEMBERS: [&str; 29] = [
    "uid",
    "gid",
    "groups",
    "umask",
    "caps",
    "no_new_privs",
    "seccomp",
    "seccomp_filters",
    "sigblk",
    "sigign",
    "sigcgt",
    "cpus",
    "uid_map",
    "gid_map",
    "setgroups",
    "oom_score_adj",
    "cgroup",
    "ns",
    "rlimits",
    "cwd",
    "env",
    "hostname",
    "dumpable",
    "pdeathsig",
    "keepcaps",
    "securebits",
    "personality",
    "scheduler",
    "ioprio",
];

/// The members whose values differ. Namespaces, limits and capability sets are compared one by one.
fn differences(init: &Value, other: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for member in MEMBERS {
        match (&init[member], &other[member]) {
            (Value::Object(a), Value::Object(b)) if a.len() == b.len() => {
                found.extend(a.keys().filter(|k| a[*k] != b[*k]).map(|k| format!("{member}.{k}")));
                // runc 1.1.5 sets it in a race with the Go runtime, which sets it too.
                found.retain(|k| flavor() != Flavor::Runc || k != "rlimits.RLIMIT_NOFILE");
            }
            (a, b) if a == b => {}
            _ => found.push(member.to_string()),
        }
    }
    found
}

/// Runs the bundle and compares its init with a process of `exec`.
fn compare(text: &str, layer: Layer) {
    let mut bundle = confined(text);
    if layer == Layer::V2 {
        bundle.layer = layer;
    }
    let bundle = bundle.args(["/probe", "report", ",", "keyring", ",", "wait"]);
    bundle.create();
    bundle.start();
    let printed = bundle.wait_printed(3);
    let out = exec(&bundle, &[], &["/probe", "report", ",", "keyring"]).ok();
    let seen = out.jsons();
    let expected = match flavor() {
        Flavor::Orlop => Vec::new(),
        Flavor::Runc => RUNC.to_vec(),
        Flavor::Crun => {
            let no_new_privs = bundle.config["process"]["noNewPrivileges"] == true;
            CRUN.iter().copied().filter(|member| no_new_privs || *member != "no_new_privs").collect()
        }
    };
    assert_eq!(differences(&printed[0], &seen[0]), expected);
    // Nothing of it is empty: the report was really made.
    for member in ["bounding", "effective"] {
        assert_ne!(seen[0]["caps"][member], "0000000000000000", "{member}");
    }
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
        assert!(seen[0]["ns"][kind].is_string(), "{kind}: {}", seen[0]["ns"]);
    }
    let filtered = usize::from(bundle.config["linux"].get("seccomp").is_some());
    assert_eq!(seen[0]["seccomp_filters"], filtered);
    // A session of its own, of which it is the leader.
    if flavor() != Flavor::Crun {
        assert_eq!(seen[0]["sid"], seen[0]["pid"]);
    }
    assert_eq!(seen[0]["threads"], 1);
    let descriptors: Vec<&String> = seen[0]["fds"].as_object().unwrap().keys().collect();
    assert_eq!(descriptors, ["0", "1", "2"], "{}", seen[0]["fds"]);
    // The same session keyring, by its serial number; Docker's profile denies the question. runc 1.1.5 looks for it from
    // outside the user namespace, and crun not at all.
    if flavor() == Flavor::Orlop {
        assert_eq!(printed[1], seen[1]);
    }
}

/// The bundle with everything set that a bundle can set, so that equal defaults do not hide a difference.
fn confined(text: &str) -> Bundle {
    let bundle = Bundle::new().with_config(text);
    let bundle = if flavor() == Flavor::Crun { bundle.set("/ociVersion", "1.0.2") } else { bundle };
    let bundle = if flavor() == Flavor::Crun && !host::has_capability(24) {
        // crun 1.8 raises RLIMIT_MEMLOCK for them.
        bundle.remove("/linux/resources/devices")
    } else {
        bundle
    };
    bundle
        .set("/process/user/umask", 0o027)
        .set("/process/user/additionalGids", json!([5, 6]))
        .set("/process/oomScoreAdj", 222)
        .set("/process/cwd", "/tmp")
        .set(
            "/process/rlimits",
            json!([
                {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                {"type": "RLIMIT_NPROC", "soft": 300, "hard": 300}
            ]),
        )
}

macro_rules! parity {
    ($host:ident, $v2:ident, $text:ident) => {
        #[test]
        fn $host() {
            compare($text, Layer::usual());
        }

        #[test]
        fn $v2() {
            compare($text, Layer::V2);
        }
    };
}

/// runc 1.1.5 does not set the umask of a further process.
const RUNC: &[&str] = &["umask"];

/// What crun 1.8.1 does not take from the config for a further process; noNewPrivileges comes on top where it is true.
const CRUN: &[&str] = &[
    "groups",
    "umask",
    "no_new_privs",
    "oom_score_adj",
    "rlimits.RLIMIT_CORE",
    "rlimits.RLIMIT_NOFILE",
    "rlimits.RLIMIT_NPROC",
    "cwd",
];

parity!(exec_equals_init_in_docker, exec_equals_init_in_docker_on_v2, DOCKER);
parity!(exec_equals_init_in_docker_nnp, exec_equals_init_in_docker_nnp_on_v2, DOCKER_NNP);
parity!(exec_equals_init_in_userns, exec_equals_init_in_userns_on_v2, USERNS);

#[test]
fn a_user_other_than_root_is_confined_alike() {
    // Ambient capabilities are the only ones that survive the execve of another user.
    let names = json!(["CAP_NET_BIND_SERVICE", "CAP_KILL"]);
    let bundle = Bundle::new()
        .set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [7]}))
        .set(
            "/process/capabilities",
            json!({"bounding": names, "effective": names, "permitted": names,
            "inheritable": names, "ambient": names}),
        )
        .args(["/probe", "report", ",", "keyring", ",", "wait"]);
    bundle.create();
    bundle.start();
    let printed = bundle.wait_printed(3);
    let out = exec(&bundle, &[], &["/probe", "report", ",", "keyring"]).ok().jsons();
    let seen = &out[0];
    // crun 1.8.1 runs it as root, and without no_new_privs.
    let expected: &[&str] = if flavor() == Flavor::Crun { &["uid", "gid", "groups", "no_new_privs"] } else { &[] };
    assert_eq!(differences(&printed[0], seen), expected);
    assert_eq!(seen["caps"]["ambient"], "0000000000000420");
    if flavor() != Flavor::Crun {
        assert_eq!(printed[1], out[1], "the session keyring");
    }
}

#[test]
fn every_kind_of_namespace_is_joined() {
    let kinds = ["user", "time"].iter().filter(|k| flavor() == Flavor::Orlop || **k == "user");
    let bundle = kinds.fold(Bundle::new().userns(0, 100_000, 65_536), |b, kind| {
        if *kind == "time" { b.push("/linux/namespaces", json!({"type": "time"})) } else { b }
    });
    let bundle = running(bundle.args(["/probe", "wait"]));
    let seen = exec(&bundle, &[], &["/probe"]).ok().json();
    for (kind, link) in seen["ns"].as_object().unwrap() {
        let of_init = std::fs::read_link(format!("/proc/{}/ns/{kind}", bundle.pid())).unwrap();
        assert_eq!(link, of_init.to_str().unwrap(), "{kind}");
        if kind != "time" || flavor() == Flavor::Orlop {
            assert_ne!(link, crate::harness::own_ns(kind).as_str(), "{kind} is the caller's");
        }
    }
}
