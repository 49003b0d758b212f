// SPDX-License-Identifier: Apache-2.0
//! The five capability sets, field by field.

use serde_json::{Value, json};

use crate::harness::config::CAPS;
use crate::harness::{Bundle, host};
use crate::{orlop_only, peer_differs};

/// Numbers of the capabilities the tests use (capabilities(7)).
const NUMBERS: [(&str, u32); 8] = [
    ("CAP_CHOWN", 0),
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_KILL", 5),
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
    ("CAP_NET_BIND_SERVICE", 10),
    ("CAP_NET_RAW", 13),
    ("CAP_AUDIT_WRITE", 29),
];

/// The set as /proc/self/status prints it.
fn hex(names: &[&str]) -> Value {
    let bit = |name: &&str| 1u64 << NUMBERS.iter().find(|(n, _)| n == name).unwrap().1;
    json!(format!("{:016x}", names.iter().map(bit).fold(0, |a, b| a | b)))
}

const NONE: &str = "0000000000000000";

#[test]
fn five_sets_as_configured() {
    let bundle = Bundle::new()
        .set(
            "/process/capabilities",
            json!({
                "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SETUID"],
                "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
                "effective": ["CAP_CHOWN", "CAP_KILL"],
                "inheritable": ["CAP_CHOWN"],
                "ambient": ["CAP_CHOWN"]
            }),
        )
        .set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let caps = &bundle.report()["caps"];
    // A user other than root keeps only the ambient ones over the exec (capabilities(7)).
    assert_eq!(caps["bounding"], hex(&["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SETUID"]));
    for set in ["permitted", "effective", "inheritable", "ambient"] {
        assert_eq!(caps[set], hex(&["CAP_CHOWN"]), "{set}");
    }
}

#[test]
fn root_gets_permitted_from_the_bounding_set() {
    let caps = &Bundle::new().report()["caps"];
    for set in ["permitted", "effective", "bounding"] {
        assert_eq!(caps[set], hex(&CAPS), "{set}");
    }
    assert_eq!(caps["inheritable"], NONE);
    assert_eq!(caps["ambient"], NONE);
}

#[test]
fn a_user_without_ambient_has_nothing() {
    let caps = &Bundle::new().set("/process/user", json!({"uid": 1000, "gid": 1000})).report()["caps"];
    assert_eq!(caps["permitted"], NONE);
    assert_eq!(caps["effective"], NONE);
    assert_eq!(caps["bounding"], hex(&CAPS));
}

#[test]
fn empty_sets_mean_none() {
    let empty = json!({"bounding": [], "permitted": [], "effective": [], "inheritable": [], "ambient": []});
    let caps = Bundle::new().set("/process/capabilities", empty).report()["caps"].clone();
    for set in ["permitted", "effective", "bounding", "inheritable", "ambient"] {
        assert_eq!(caps[set], NONE, "{set}");
    }
}

#[test]
fn no_capabilities_object_means_none() {
    peer_differs!("runc", "keeps all capabilities of the caller");
    let caps = Bundle::new().remove("/process/capabilities").report()["caps"].clone();
    for set in ["permitted", "effective", "bounding", "inheritable", "ambient"] {
        assert_eq!(caps[set], NONE, "{set}");
    }
}

#[test]
fn an_unknown_name_is_warned_about_and_ignored() {
    let bundle = Bundle::new().push("/process/capabilities/bounding", "CAP_FLY");
    let out = bundle.run(["/probe"]).ok();
    assert_eq!(out.json()["caps"]["bounding"], hex(&CAPS));
    assert!(out.stderr.contains("CAP_FLY") || crate::harness::flavor() == crate::harness::Flavor::Crun, "{out}");
}

#[test]
fn effective_beyond_permitted_is_named() {
    peer_differs!("runc", "fails later, in the kernel's words");
    peer_differs!("crun", "fails later, in the kernel's words");
    let bundle = Bundle::new().push("/process/capabilities/effective", "CAP_CHOWN");
    bundle.try_run(["/probe"]).fails_with(&["process.capabilities.effective", "CAP_CHOWN", "permitted"]);
    bundle.check_clean();
}

#[test]
fn ambient_needs_permitted_and_inheritable() {
    orlop_only!("checks the subset rules before it acts");
    let bundle = Bundle::new().set("/process/capabilities/ambient", json!(["CAP_KILL"]));
    bundle.try_run(["/probe"]).fails_with(&["process.capabilities.ambient", "CAP_KILL", "inheritable"]);
    bundle.check_clean();
}

#[test]
fn a_capability_that_the_runtime_lacks_is_named() {
    peer_differs!("runc", "reports operation not permitted without a name");
    peer_differs!("crun", "reports operation not permitted without a name");
    if host::has_capability(24) {
        crate::skip_expected!("root has CAP_SYS_RESOURCE here, so there is nothing that it lacks");
    }
    let bundle = Bundle::new();
    let bundle = ["bounding", "permitted", "effective"]
        .iter()
        .fold(bundle, |b, set| b.push(&format!("/process/capabilities/{set}"), "CAP_SYS_RESOURCE"));
    bundle.try_run(["/probe"]).fails_with(&["CAP_SYS_RESOURCE"]);
    bundle.check_clean();
}

#[test]
fn ambient_capabilities_work() {
    let caps = json!(["CAP_DAC_OVERRIDE"]);
    let bundle = Bundle::new().file("/secret", "s", 0o600).set("/process/user", json!({"uid": 1000, "gid": 1000})).set(
        "/process/capabilities",
        json!({"bounding": caps, "permitted": caps, "effective": caps,
            "inheritable": caps, "ambient": caps}),
    );
    assert_eq!(bundle.run(["/probe", "read", "/secret"]).json()["content"], "s");
    let bundle = bundle.set("/process/capabilities/ambient", json!([]));
    assert_eq!(bundle.run(["/probe", "read", "/secret"]).json()["errno"], libc::EACCES);
}

#[test]
fn securebits_and_keepcaps_are_clear() {
    let seen = Bundle::new().set("/process/user", json!({"uid": 1000, "gid": 1000})).report();
    assert_eq!(seen["keepcaps"], 0);
    assert_eq!(seen["securebits"], 0);
}

#[test]
fn the_plan_foretells_the_sets_after_execve() {
    orlop_only!("has plan");
    let sets = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL"]
    });
    for (uid, no_new_privileges) in [(0, false), (0, true), (1000, false), (1000, true)] {
        let bundle = Bundle::new()
            .set("/process/capabilities", sets.clone())
            .set("/process/user", json!({"uid": uid, "gid": uid}))
            .set("/process/noNewPrivileges", no_new_privileges);
        bundle.write_config();
        let plan = bundle.call(["plan", "--bundle", bundle.dir.to_str().unwrap()]).output().json();
        let seen = bundle.report();
        for set in ["bounding", "permitted", "effective", "inheritable", "ambient"] {
            let names: Vec<&str> = plan["process"]["capabilities_after_execve"][set]
                .as_array()
                .unwrap()
                .iter()
                .map(|name| name.as_str().unwrap())
                .collect();
            assert_eq!(seen["caps"][set], hex(&names), "{set} uid {uid} nnp {no_new_privileges}");
        }
    }
}
