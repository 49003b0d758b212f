// SPDX-License-Identifier: Apache-2.0
//! `linux.namespaces`: for each of the eight kinds whether the container gets a new one, joins one, or keeps the caller's
//! (config-linux.md#namespaces, namespaces(7)).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespaceType};
use serde::Serialize;

use super::problem::Problems;

/// The kinds of namespaces of namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    User,
    Mount,
    Pid,
    Network,
    Uts,
    Ipc,
    Cgroup,
    Time,
}

impl Kind {
    pub const ALL: [Kind; 8] = KINDS;

    /// The kind's flag for clone3(2), unshare(2) and setns(2).
    pub fn flag(self) -> libc::c_int {
        match self {
            Self::User => libc::CLONE_NEWUSER,
            Self::Mount => libc::CLONE_NEWNS,
            Self::Pid => libc::CLONE_NEWPID,
            Self::Network => libc::CLONE_NEWNET,
            Self::Uts => libc::CLONE_NEWUTS,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::Cgroup => libc::CLONE_NEWCGROUP,
            Self::Time => 0x80,
        }
    }

    /// The kind with this flag.
    pub fn of_flag(flag: libc::c_int) -> Option<Self> {
        KINDS.into_iter().find(|kind| kind.flag() == flag)
    }

    /// Its name in config.json.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Mount => "mount",
            Self::Pid => "pid",
            Self::Network => "network",
            Self::Uts => "uts",
            Self::Ipc => "ipc",
            Self::Cgroup => "cgroup",
            Self::Time => "time",
        }
    }

    /// Its file in /proc/PID/ns.
    pub fn file(self) -> &'static str {
        match self {
            Self::Mount => "mnt",
            Self::Network => "net",
            other => other.name(),
        }
    }
}

impl From<LinuxNamespaceType> for Kind {
    fn from(kind: LinuxNamespaceType) -> Self {
        match kind {
            LinuxNamespaceType::User => Self::User,
            LinuxNamespaceType::Mount => Self::Mount,
            LinuxNamespaceType::Pid => Self::Pid,
            LinuxNamespaceType::Network => Self::Network,
            LinuxNamespaceType::Uts => Self::Uts,
            LinuxNamespaceType::Ipc => Self::Ipc,
            LinuxNamespaceType::Cgroup => Self::Cgroup,
            LinuxNamespaceType::Time => Self::Time,
        }
    }
}

/// What becomes of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    /// The caller's.
    Inherit,
    New,
    /// The one at this absolute path, e.g. `/proc/123/ns/net` or `/run/netns/blue`.
    Join(PathBuf),
}

/// The eight decisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Namespaces {
    pub user: Namespace,
    pub mount: Namespace,
    pub pid: Namespace,
    pub network: Namespace,
    pub uts: Namespace,
    pub ipc: Namespace,
    pub cgroup: Namespace,
    pub time: Namespace,
    /// Offsets of a new time namespace against the host's clocks, by clock name: seconds and nanoseconds
    /// (time_namespaces(7)).
    pub time_offsets: BTreeMap<String, (i64, u32)>,
}

/// How many processes it takes to put init into its namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// One clone with all the new namespaces.
    Direct,
    /// A stager joins or prepares namespaces that only take effect on children, then clones init as its sibling.
    Staged,
}

const KINDS: [Kind; 8] =
    [Kind::User, Kind::Mount, Kind::Pid, Kind::Network, Kind::Uts, Kind::Ipc, Kind::Cgroup, Kind::Time];

impl Namespaces {
    /// All kinds with what becomes of them; the user namespace first.
    pub fn all(&self) -> [(Kind, &Namespace); 8] {
        KINDS.map(|kind| (kind, self.of(kind)))
    }

    /// What becomes of `kind`.
    pub fn of(&self, kind: Kind) -> &Namespace {
        match kind {
            Kind::User => &self.user,
            Kind::Mount => &self.mount,
            Kind::Pid => &self.pid,
            Kind::Network => &self.network,
            Kind::Uts => &self.uts,
            Kind::Ipc => &self.ipc,
            Kind::Cgroup => &self.cgroup,
            Kind::Time => &self.time,
        }
    }

    /// Whether the container gets a new one of `kind`.
    pub fn is_new(&self, kind: Kind) -> bool {
        *self.of(kind) == Namespace::New
    }

    /// Whether the container leaves the caller's namespace of `kind`.
    pub fn is_separate(&self, kind: Kind) -> bool {
        *self.of(kind) != Namespace::Inherit
    }

    /// The kinds to be joined with their paths.
    pub fn joined(&self) -> impl Iterator<Item = (Kind, &Path)> {
        KINDS.into_iter().filter_map(|kind| match self.of(kind) {
            Namespace::Join(path) => Some((kind, path.as_path())),
            _ => None,
        })
    }

    /// The flags of clone3(2) for the new namespaces. A new cgroup namespace is not among them: its root is the cgroup
    /// the caller of unshare(2) sits in, so init makes it once it has been moved.
    pub fn clone_flags(&self) -> u64 {
        self.all()
            .into_iter()
            .filter(|(kind, namespace)| **namespace == Namespace::New && *kind != Kind::Cgroup)
            .map(|(kind, _)| u64::from(kind.flag().unsigned_abs()))
            .fold(0, |flags, flag| flags | flag)
    }

    /// A joined PID namespace and time offsets apply to children only. A joined user namespace must own the new
    /// namespaces, and a new one must not be entered before the others are joined with the host's capabilities.
    pub fn shape(&self) -> Shape {
        let any_new = self.clone_flags() != 0;
        let joins = self.joined().next().is_some();
        let staged = matches!(self.pid, Namespace::Join(_))
            || (matches!(self.user, Namespace::Join(_)) && any_new)
            || (self.user == Namespace::New && joins)
            || !self.time_offsets.is_empty();
        if staged { Shape::Staged } else { Shape::Direct }
    }

    /// Reads `linux.namespaces` and `linux.timeOffsets`.
    pub fn from_spec(linux: &Linux, problems: &mut Problems) -> Self {
        let mut found: [Option<Namespace>; 8] = Default::default();
        for (i, entry) in linux.namespaces().iter().flatten().enumerate() {
            let kind = Kind::from(entry.typ());
            let at = format!("linux.namespaces[{i}]");
            let namespace = match entry.path() {
                Some(path) if path.as_os_str().is_empty() => Namespace::New,
                Some(path) if !path.is_absolute() => {
                    problems.error(format!("{at}.path"), format!("must be absolute, is {path:?}"));
                    continue;
                }
                Some(path) => {
                    problems.no_nul(format!("{at}.path"), &path.to_string_lossy());
                    Namespace::Join(path.clone())
                }
                None => Namespace::New,
            };
            let Some(slot) = found.get_mut(kind as usize) else { continue };
            if slot.is_some() {
                problems.error(format!("{at}.type"), format!("a second \"{}\" entry; each type once", kind.name()));
            }
            *slot = Some(namespace);
        }
        let [user, mount, pid, network, uts, ipc, cgroup, time] =
            found.map(|namespace| namespace.unwrap_or(Namespace::Inherit));
        let time_offsets = time_offsets(linux, &time, problems);
        Self { user, mount, pid, network, uts, ipc, cgroup, time, time_offsets }
    }
}

fn time_offsets(linux: &Linux, time: &Namespace, problems: &mut Problems) -> BTreeMap<String, (i64, u32)> {
    let mut offsets = BTreeMap::new();
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        let at = format!("linux.timeOffsets.{clock}");
        if clock != "monotonic" && clock != "boottime" {
            problems.error(&at, "unknown clock, expected \"monotonic\" or \"boottime\"");
        }
        let nanoseconds = offset.nanosecs().unwrap_or(0);
        if nanoseconds >= 1_000_000_000 {
            problems.error(format!("{at}.nanosecs"), format!("must be below 1000000000, is {nanoseconds}"));
        }
        offsets.insert(clock.clone(), (offset.secs().unwrap_or(0), nanoseconds));
    }
    if !offsets.is_empty() && *time != Namespace::New {
        problems.error("linux.timeOffsets", "needs a \"time\" entry without a path in linux.namespaces");
    }
    offsets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: serde_json::Value) -> (Namespaces, Vec<String>) {
        let mut problems = Problems::default();
        let linux: Linux = serde_json::from_value(json).unwrap();
        let namespaces = Namespaces::from_spec(&linux, &mut problems);
        (namespaces, problems.errors.iter().map(|p| p.path.clone()).collect())
    }

    fn shape(entries: &[(&str, Option<&str>)], offsets: bool) -> Shape {
        let entries: Vec<_> = entries.iter().map(|(t, p)| serde_json::json!({"type": t, "path": p})).collect();
        let mut json = serde_json::json!({ "namespaces": entries });
        if offsets {
            json["timeOffsets"] = serde_json::json!({"monotonic": {"secs": 1}});
        }
        let (namespaces, errors) = parse(json);
        assert!(errors.is_empty(), "{errors:?}");
        namespaces.shape()
    }

    #[test]
    fn one_clone_is_enough_unless_something_applies_to_children_only() {
        for (entries, offsets, expected) in [
            (vec![], false, Shape::Direct),
            (vec![("pid", None), ("mount", None), ("network", None)], false, Shape::Direct),
            (vec![("user", None), ("pid", None), ("mount", None)], false, Shape::Direct),
            (vec![("network", Some("/n")), ("mount", None)], false, Shape::Direct),
            (vec![("user", Some("/u"))], false, Shape::Direct),
            (vec![("pid", Some("/p"))], false, Shape::Staged),
            (vec![("user", Some("/u")), ("mount", None)], false, Shape::Staged),
            (vec![("user", None), ("network", Some("/n"))], false, Shape::Staged),
            (vec![("time", None)], false, Shape::Direct),
            (vec![("time", None)], true, Shape::Staged),
        ] {
            assert_eq!(shape(&entries, offsets), expected, "{entries:?} offsets {offsets}");
        }
    }

    #[test]
    fn faults_are_named_by_path() {
        let (_, errors) = parse(serde_json::json!({
            "namespaces": [{"type": "pid"}, {"type": "pid"}, {"type": "network", "path": "ns/net"}],
            "timeOffsets": {"realtime": {"secs": 1}, "monotonic": {"nanosecs": 1_000_000_000}},
        }));
        for path in [
            "linux.namespaces[1].type",
            "linux.namespaces[2].path",
            "linux.timeOffsets",
            "linux.timeOffsets.realtime",
            "linux.timeOffsets.monotonic.nanosecs",
        ] {
            assert!(errors.iter().any(|e| e == path), "{path} in {errors:?}");
        }
    }

    #[test]
    fn a_new_cgroup_namespace_is_left_to_init() {
        let (namespaces, _) = parse(serde_json::json!({"namespaces": [{"type": "cgroup"}, {"type": "uts"}]}));
        assert_eq!(namespaces.clone_flags(), 0x0400_0000);
    }
}
