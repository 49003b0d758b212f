// SPDX-License-Identifier: Apache-2.0
//! What a caller who is not root can have: his rights end at a user namespace of his own (user_namespaces(7)).

use oci_spec::runtime::Linux;

use super::idmap::{IdMap, Range};
use super::namespaces::{Kind, Namespace, Namespaces};
use super::problem::Problems;
use crate::host::Host;

/// Whether the mapping is the one that everybody may write: the caller's own id, alone.
pub fn is_own(ranges: &[Range], id: u32) -> bool {
    matches!(ranges, [Range { host, size: 1, .. }] if *host == id)
}

/// Reports what only root can do. `groups`: whether the process has additional ones.
pub fn check(
    linux: &Linux,
    namespaces: &Namespaces,
    idmap: Option<&IdMap>,
    groups: bool,
    host: &Host,
    problems: &mut Problems,
) {
    if host.euid == 0 {
        return;
    }
    if namespaces.user == Namespace::Inherit {
        problems.error_hint(
            "linux.namespaces",
            format!("an ordinary user (uid {}) needs a user namespace", host.euid),
            "be root, or add {\"type\": \"user\"} with linux.uidMappings and linux.gidMappings; orlop spec --rootless \
             writes such a config",
        );
        return;
    }
    if namespaces.user == Namespace::New {
        for (kind, path) in namespaces.joined() {
            problems.error(
                "linux.namespaces",
                format!(
                    "an ordinary user cannot join the {} namespace {} from a new user namespace: it belongs to another",
                    kind.name(),
                    path.display()
                ),
            );
        }
        if linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty()) {
            problems.error("linux.timeOffsets", "an ordinary user cannot set the clocks of a time namespace");
        }
    }
    if namespaces.mount == Namespace::Inherit && namespaces.is_new(Kind::User) {
        problems.warn("linux.namespaces", "without a new mount namespace the container sees the host's mounts");
    }
    if groups && idmap.is_some_and(|map| is_own(&map.gid, host.egid)) {
        problems.error_hint(
            "process.user.additionalGids",
            "cannot be set: with the caller's own gid as the only mapping the kernel denies setgroups(2)",
            "remove them, or map a range of subordinate gids in linux.gidMappings (subgid(5))",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn faults(linux: Value, groups: bool, euid: u32) -> Vec<String> {
        let host = Host {
            euid,
            egid: euid,
            initial_user_namespace: true,
            may_set_groups: true,
            may_clone_mounts: euid == 0,
            permitted: 0,
            bounding: 0,
            ignored_signals: 0,
            cgroups: crate::host::CgroupLayout::None,
        };
        let linux: Linux = serde_json::from_value(linux).unwrap();
        let mut problems = Problems::default();
        let namespaces = Namespaces::from_spec(&linux, &mut problems);
        let map = super::super::idmap::from_spec(&linux, &namespaces, &mut problems);
        check(&linux, &namespaces, map.as_ref(), groups, &host, &mut problems);
        problems.errors.iter().map(|p| p.path.clone()).collect()
    }

    #[test]
    fn what_only_root_can_do_is_named() {
        let own = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        let range = json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
        let with = |extra: Value, map: &Value| {
            let mut linux = json!({"namespaces": [{"type": "user"}, {"type": "mount"}],
                "uidMappings": map, "gidMappings": map});
            for (key, value) in extra.as_object().unwrap() {
                linux[key] = value.clone();
            }
            linux
        };
        assert!(faults(with(json!({}), &own), false, 1000).is_empty());
        assert!(faults(with(json!({}), &range), true, 1000).is_empty());
        assert_eq!(faults(with(json!({}), &own), true, 1000), ["process.user.additionalGids"]);
        assert_eq!(faults(json!({"namespaces": [{"type": "mount"}]}), false, 1000), ["linux.namespaces"]);
        assert!(faults(json!({"namespaces": [{"type": "mount"}]}), false, 0).is_empty());
        let joins = json!({"namespaces": [{"type": "user"}, {"type": "mount"}, {"type": "network", "path": "/n"}]});
        assert_eq!(faults(with(joins, &own), false, 1000), ["linux.namespaces"]);
        let offsets = json!({"namespaces": [{"type": "user"}, {"type": "mount"}, {"type": "time"}],
            "timeOffsets": {"monotonic": {"secs": 1}}});
        assert_eq!(faults(with(offsets, &own), false, 1000), ["linux.timeOffsets"]);
    }

    #[test]
    fn own_is_one_id_alone() {
        let range = |host, size| Range { container: 0, host, size };
        assert!(is_own(&[range(1000, 1)], 1000));
        assert!(!is_own(&[range(1000, 2)], 1000) && !is_own(&[range(1, 1)], 1000));
        assert!(!is_own(&[range(1000, 1), range(5, 1)], 1000) && !is_own(&[], 1000));
    }
}
