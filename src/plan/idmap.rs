// SPDX-License-Identifier: Apache-2.0
//! `linux.uidMappings` and `linux.gidMappings` (user_namespaces(7), config-linux.md#user-namespace-mappings).

use std::fmt::Write;

use oci_spec::runtime::{Linux, LinuxIdMapping};
use serde::Serialize;

use super::namespaces::{Namespace, Namespaces};
use super::problem::Problems;

/// The kernel takes at most 340 lines in a map (UID_GID_MAP_MAX_EXTENTS, since Linux 4.15).
const MAX_EXTENTS: usize = 340;

/// A range of ids: `size` ids from `container` on in the namespace are `host` and following outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Range {
    pub container: u32,
    pub host: u32,
    pub size: u32,
}

/// The maps of a new user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IdMap {
    pub uid: Vec<Range>,
    pub gid: Vec<Range>,
}

/// How the ids of an idmapped mount are mapped (mount_setattr(2), "ID-mapped mounts").
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MountMap {
    /// The mount's own mappings; None for those of the container's user namespace.
    pub own: Option<IdMap>,
    /// Whether the mounts below are idmapped too.
    pub recursive: bool,
    /// Whether a file system without owners of its own, such as sysfs, is left as it is: nobody asked for this mount in
    /// particular.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lenient: bool,
}

/// The host's id for the container's `id`, None if unmapped.
pub fn to_host(ranges: &[Range], id: u32) -> Option<u32> {
    ranges
        .iter()
        .find(|r| id >= r.container && id - r.container < r.size)
        .and_then(|r| r.host.checked_add(id - r.container))
}

/// The contents of `/proc/PID/uid_map`.
pub fn render(ranges: &[Range]) -> String {
    let mut text = String::with_capacity(ranges.len() * 24);
    for range in ranges {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{} {} {}", range.container, range.host, range.size);
    }
    text
}

/// Reads the mappings. Some exactly if a new user namespace is asked for.
pub fn from_spec(linux: &Linux, namespaces: &Namespaces, problems: &mut Problems) -> Option<IdMap> {
    let mut read = |name: &str, entries: &Option<Vec<LinuxIdMapping>>| {
        let at = format!("linux.{name}");
        ranges(&at, entries.as_deref().unwrap_or_default(), problems)
    };
    let uid = read("uidMappings", linux.uid_mappings());
    let gid = read("gidMappings", linux.gid_mappings());
    match &namespaces.user {
        Namespace::New => {
            for (name, map) in [("uidMappings", &uid), ("gidMappings", &gid)] {
                if map.is_empty() {
                    problems.error(format!("linux.{name}"), "a new user namespace needs at least one range");
                }
            }
            Some(IdMap { uid, gid })
        }
        Namespace::Join(path) => {
            if !uid.is_empty() || !gid.is_empty() {
                // containerd and CRI-O pass both; the namespace's own maps stay in force.
                problems.warn(
                    "linux.uidMappings",
                    format!("ignored: the user namespace {} has its own mappings", path.display()),
                );
            }
            None
        }
        Namespace::Inherit => {
            for (name, map) in [("uidMappings", &uid), ("gidMappings", &gid)] {
                if !map.is_empty() {
                    problems.error(format!("linux.{name}"), "needs a \"user\" entry in linux.namespaces");
                }
            }
            None
        }
    }
}

/// Reads and checks one list of mappings that stands at the JSON path `at`.
pub(super) fn ranges(at: &str, entries: &[LinuxIdMapping], problems: &mut Problems) -> Vec<Range> {
    if entries.len() > MAX_EXTENTS {
        problems.error(at, format!("has {} ranges, the kernel takes at most {MAX_EXTENTS}", entries.len()));
    }
    let mut ranges: Vec<Range> = Vec::with_capacity(entries.len());
    for (i, entry) in entries.iter().enumerate() {
        let range = Range { container: entry.container_id(), host: entry.host_id(), size: entry.size() };
        if range.size == 0 {
            problems.error(format!("{at}[{i}].size"), "must be greater than 0");
        }
        for (member, first) in [("containerID", range.container), ("hostID", range.host)] {
            // The id 4294967295 means "no id" and cannot be mapped.
            if u64::from(first) + u64::from(range.size) > u64::from(u32::MAX) {
                problems.error(
                    format!("{at}[{i}].{member}"),
                    format!("{first} + size {} is beyond the last id 4294967294", range.size),
                );
            }
        }
        for (j, other) in ranges.iter().enumerate() {
            let meet = |a: u32, b: u32| {
                u64::from(a) < u64::from(b) + u64::from(other.size)
                    && u64::from(b) < u64::from(a) + u64::from(range.size)
            };
            if meet(range.container, other.container) {
                problems.error(format!("{at}[{i}].containerID"), format!("overlaps the range of {at}[{j}]"));
            }
            if meet(range.host, other.host) {
                problems.error(format!("{at}[{i}].hostID"), format!("overlaps the range of {at}[{j}]"));
            }
        }
        ranges.push(range);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(uid: serde_json::Value) -> Vec<String> {
        let mut problems = Problems::default();
        let linux: Linux = serde_json::from_value(serde_json::json!({
            "namespaces": [{"type": "user"}],
            "uidMappings": uid,
            "gidMappings": [{"containerID": 0, "hostID": 0, "size": 1}],
        }))
        .unwrap();
        let namespaces = Namespaces::from_spec(&linux, &mut problems);
        from_spec(&linux, &namespaces, &mut problems);
        problems.errors.iter().map(|p| p.path.clone()).collect()
    }

    #[test]
    fn what_the_kernel_would_refuse_is_named() {
        let range = |c: u32, h: u32, s: u32| serde_json::json!({"containerID": c, "hostID": h, "size": s});
        assert!(faults(serde_json::json!([range(0, 100_000, 65_536)])).is_empty());
        assert_eq!(faults(serde_json::json!([])), ["linux.uidMappings"]);
        assert_eq!(faults(serde_json::json!([range(0, 1, 0)])), ["linux.uidMappings[0].size"]);
        assert_eq!(faults(serde_json::json!([range(0, u32::MAX, 1)])), ["linux.uidMappings[0].hostID"]);
        assert_eq!(
            faults(serde_json::json!([range(0, 1000, 10), range(9, 2000, 10)])),
            ["linux.uidMappings[1].containerID"]
        );
        assert_eq!(
            faults(serde_json::json!([range(0, 1000, 10), range(10, 1009, 10)])),
            ["linux.uidMappings[1].hostID"]
        );
        let many: Vec<_> = (0..341).map(|i| range(i, 1000 + i, 1)).collect();
        assert_eq!(faults(serde_json::json!(many)), ["linux.uidMappings"]);
    }

    #[test]
    fn ids_translate_through_their_range() {
        let ranges = [Range { container: 0, host: 1000, size: 1 }, Range { container: 1, host: 100_000, size: 10 }];
        assert_eq!(to_host(&ranges, 0), Some(1000));
        assert_eq!(to_host(&ranges, 10), Some(100_009));
        assert_eq!(to_host(&ranges, 11), None);
        assert_eq!(render(&ranges), "0 1000 1\n1 100000 10\n");
    }
}
