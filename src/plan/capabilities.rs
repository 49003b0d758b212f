// SPDX-License-Identifier: Apache-2.0
//! `process.capabilities`: five sets, checked against the rules of capset(2), prctl(2) and capabilities(7) before anything
//! is done, so that the user reads which name breaks which rule instead of EPERM.

use std::str::FromStr;

use oci_spec::runtime::{Capabilities, LinuxCapabilities};
use serde::{Serialize, Serializer};

use super::config::Process;
use super::problem::Problems;

/// A set of capabilities, bit N for capability number N of `linux/capability.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Set(pub u64);

impl Set {
    /// The members' numbers, ascending.
    pub fn numbers(self) -> impl Iterator<Item = u32> {
        (0..64).filter(move |n| self.0 >> n & 1 == 1)
    }

    /// The members that `other` lacks.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The members that `other` has too.
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members' names, separated by commas.
    pub fn names(self) -> String {
        self.numbers().map(name).collect::<Vec<_>>().join(", ")
    }
}

impl Serialize for Set {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.numbers().map(name))
    }
}

/// `CAP_CHOWN` for 0; `CAP_41`-like for a number newer than the crate's list.
pub fn name(number: u32) -> String {
    caps::all()
        .into_iter()
        .find(|c| u32::from(c.index()) == number)
        .map_or_else(|| format!("CAP_{number}"), |c| c.to_string())
}

/// The five sets of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Sets {
    pub bounding: Set,
    pub effective: Set,
    pub permitted: Set,
    pub inheritable: Set,
    pub ambient: Set,
}

/// Reads `process.capabilities`. A missing object means no capabilities at all: nothing is implicit.
///
/// `available` is what the container can have (the caller's permitted set; everything in a user namespace of its own).
pub fn from_spec(process: &Process, available: Set, problems: &mut Problems) -> Sets {
    let Some(sets) = asked(process) else { return Sets::default() };
    check_subsets(&sets, problems);
    check_available(&sets, available, problems);
    let uid = process.user.uid();
    let after = after_execve(&sets, uid, process.no_new_privileges == Some(true));
    let lost = sets.effective.without(after.effective);
    if uid != 0 && !lost.is_empty() {
        problems.warn(
            "process.capabilities.ambient",
            format!(
                "{} lost at execve, because user.uid is {uid} and only ambient capabilities survive it",
                lost.names()
            ),
        );
    }
    sets
}

/// The sets as `process.capabilities` has them; None if it is missing.
pub fn asked(process: &Process) -> Option<Sets> {
    let spec = process.capabilities.as_ref()?;
    let set = |names: &Option<Capabilities>| Set(names.iter().flatten().fold(0, |bits, c| bits | bit(&c.to_string())));
    Some(Sets {
        bounding: set(spec.bounding()),
        effective: set(spec.effective()),
        permitted: set(spec.permitted()),
        inheritable: set(spec.inheritable()),
        ambient: set(spec.ambient()),
    })
}

/// The set of one capability, by its name with or without `CAP_`, in any case.
pub fn parse(name: &str) -> Option<Set> {
    Some(Set(bit(&name.to_uppercase()))).filter(|set| !set.is_empty())
}

/// The bounding set of a process: the ceiling of what any process of its container may have.
pub fn bounding(process: &Process) -> Set {
    let names = process.capabilities.as_ref().and_then(|c| c.bounding().as_ref());
    Set(names.into_iter().flatten().fold(0, |bits, c| bits | bit(&c.to_string())))
}

/// The sets after the execve of a program without set-user-ID bit and file capabilities (capabilities(7),
/// "Transformation of capabilities during execve()"): root gets what the bounding set allows, any other user keeps the
/// ambient set only; under no_new_privs nothing is gained.
pub fn after_execve(sets: &Sets, uid: u32, no_new_privileges: bool) -> Sets {
    let gained = if uid == 0 { Set(sets.bounding.0 | sets.inheritable.0) } else { sets.ambient };
    let permitted = if no_new_privileges { Set(gained.0 & sets.permitted.0) } else { gained };
    Sets { permitted, effective: permitted, ..*sets }
}

/// Adds capabilities to the bounding, permitted and effective sets, and to the ambient set of a process that has
/// inheritable ones, as `runc exec --cap` does; the ambient ones must then be inheritable, too.
///
/// # Errors
/// The first name that is unknown.
pub fn add(process: &mut Process, names: &[String]) -> Result<(), String> {
    if names.is_empty() {
        return Ok(());
    }
    let mut added = Capabilities::new();
    for name in names {
        let upper = name.to_uppercase();
        let known: Option<oci_spec::runtime::Capability> =
            upper.strip_prefix("CAP_").unwrap_or(&upper).parse().ok().filter(|_| is_known(&upper));
        added.insert(known.ok_or_else(|| name.clone())?);
    }
    let sets = process.capabilities.get_or_insert_with(|| {
        let mut none = LinuxCapabilities::default();
        none.set_bounding(None).set_effective(None).set_permitted(None).set_inheritable(None).set_ambient(None);
        none
    });
    let with = |set: &Option<Capabilities>| Some(set.iter().flatten().chain(&added).copied().collect::<Capabilities>());
    let (bounding, effective, permitted) = (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
    let inheritable = sets.inheritable().as_ref().is_some_and(|set| !set.is_empty());
    let (more_inheritable, ambient) = (with(sets.inheritable()), with(sets.ambient()));
    sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    if inheritable {
        sets.set_inheritable(more_inheritable).set_ambient(ambient);
    }
    Ok(())
}

/// The bit of a name with or without `CAP_`, 0 if the crate does not know it (config parsing has reported it).
fn bit(name: &str) -> u64 {
    let full = if name.starts_with("CAP_") { name.to_string() } else { format!("CAP_{name}") };
    caps::Capability::from_str(&full).map_or(0, |c| 1 << c.index())
}

/// Whether config.json may use `name` (`CAP_CHOWN` or `CHOWN`, in upper case).
pub fn is_known(name: &str) -> bool {
    bit(name) != 0
}

fn check_subsets(sets: &Sets, problems: &mut Problems) {
    for (name, set, of_name, of) in [
        ("effective", sets.effective, "permitted", sets.permitted),
        ("permitted", sets.permitted, "bounding", sets.bounding),
        ("inheritable", sets.inheritable, "bounding", sets.bounding),
        ("ambient", sets.ambient, "permitted", sets.permitted),
        ("ambient", sets.ambient, "inheritable", sets.inheritable),
    ] {
        let excess = set.without(of);
        if !excess.is_empty() {
            problems.error(
                format!("process.capabilities.{name}"),
                format!("{} not in process.capabilities.{of_name}", excess.names()),
            );
        }
    }
}

fn check_available(sets: &Sets, available: Set, problems: &mut Problems) {
    for (name, set) in [("bounding", sets.bounding), ("permitted", sets.permitted), ("inheritable", sets.inheritable)] {
        let missing = set.without(available);
        if !missing.is_empty() {
            problems.error_hint(
                format!("process.capabilities.{name}"),
                format!("{} cannot be given: orlop itself lacks it", missing.names()),
                "grep Cap /proc/self/status shows the caller's sets; leave the capability out or run orlop with it",
            );
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Set = Set((1 << 41) - 1);

    fn check(uid: u32, sets: serde_json::Value, available: Set) -> (Sets, Problems) {
        let mut problems = Problems::default();
        let process: Process = serde_json::from_value(serde_json::json!({
            "user": {"uid": uid, "gid": 0}, "cwd": "/", "capabilities": sets
        }))
        .unwrap();
        (from_spec(&process, available, &mut problems), problems)
    }

    #[test]
    fn each_subset_rule_is_named_with_the_offending_capability() {
        let (_, problems) = check(
            0,
            serde_json::json!({
                "bounding": ["CAP_KILL"], "permitted": ["CAP_CHOWN"], "effective": ["CAP_FOWNER"],
                "inheritable": ["CAP_MKNOD"], "ambient": ["CAP_SYSLOG"]
            }),
            ALL,
        );
        let lines: Vec<_> = problems.errors.iter().map(|p| format!("{}: {}", p.path, p.message)).collect();
        assert_eq!(
            lines,
            [
                "process.capabilities.effective: CAP_FOWNER not in process.capabilities.permitted",
                "process.capabilities.permitted: CAP_CHOWN not in process.capabilities.bounding",
                "process.capabilities.inheritable: CAP_MKNOD not in process.capabilities.bounding",
                "process.capabilities.ambient: CAP_SYSLOG not in process.capabilities.permitted",
                "process.capabilities.ambient: CAP_SYSLOG not in process.capabilities.inheritable",
            ]
        );
    }

    #[test]
    fn a_capability_that_the_runtime_lacks_is_named() {
        let all = serde_json::json!(["CAP_SYS_RESOURCE", "CAP_KILL"]);
        let json = serde_json::json!({"bounding": all, "permitted": all, "effective": all});
        let (_, problems) = check(0, json, ALL.without(Set(1 << 24)));
        assert_eq!(problems.errors.len(), 1);
        assert!(problems.errors[0].message.contains("CAP_SYS_RESOURCE"), "{problems}");
    }

    #[test]
    fn losing_capabilities_at_execve_is_announced() {
        let some = serde_json::json!(["CAP_NET_BIND_SERVICE", "CAP_KILL"]);
        let json = serde_json::json!({"bounding": some, "permitted": some, "effective": some,
            "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]});
        let (sets, problems) = check(1000, json.clone(), ALL);
        assert_eq!(sets.effective, Set(1 << 10 | 1 << 5));
        assert!(problems.errors.is_empty());
        assert!(problems.warnings[0].message.starts_with("CAP_NET_BIND_SERVICE lost"), "{:?}", problems.warnings);
        assert!(check(0, json, ALL).1.warnings.is_empty());
    }

    #[test]
    fn execve_gives_root_the_bounding_set_and_others_the_ambient_one() {
        let sets = Sets {
            bounding: Set(0b1111),
            permitted: Set(0b0011),
            effective: Set(0b0001),
            ambient: Set(0b0010),
            inheritable: Set(0b0010),
        };
        for (uid, no_new_privileges, expected) in
            [(0, false, 0b1111), (0, true, 0b0011), (1000, false, 0b0010), (1000, true, 0b0010)]
        {
            let after = after_execve(&sets, uid, no_new_privileges);
            assert_eq!((after.permitted.0, after.effective.0), (expected, expected), "{uid} {no_new_privileges}");
            assert_eq!((after.bounding, after.ambient), (sets.bounding, sets.ambient));
        }
    }

    #[test]
    fn names_are_those_of_capabilities_7() {
        assert_eq!(name(0), "CAP_CHOWN");
        assert_eq!(name(40), "CAP_CHECKPOINT_RESTORE");
        assert!(is_known("CAP_KILL") && is_known("KILL") && !is_known("CAP_FOO") && !is_known("cap_kill"));
    }
}
