// SPDX-License-Identifier: Apache-2.0
//! Where the container's cgroup lies and what is written into it, in order. Decides everything that cgroups(7) and
//! config-linux.md#control-groups leave to the runtime; opens and writes nothing.
//!
//! A limit that the host's layout cannot carry out is an error at its JSON path, never a silent omission. Fields that
//! the kernel itself has dropped are warnings, because engines still send them.

mod path;
pub mod update;
mod v1;
mod v2;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxMemory, LinuxResources};
use serde::Serialize;

use super::device_filter::{self, Rule};
use super::problem::Problems;
use super::systemd::Unit;
use crate::host::{CgroupLayout, Hierarchy, Host};

/// The container's cgroup: one directory in every hierarchy, and what limits it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Cgroup {
    /// One for cgroup v2 alone; otherwise one for each v1 hierarchy and, last, one for the hybrid layout's v2.
    pub places: Vec<Place>,
    /// Limits, in the order in which the kernel takes them.
    pub writes: Vec<Write>,
    /// v2: what the device program enforces, the last matching rule wins; empty when everything is allowed. On v1 the
    /// rules are among `writes`.
    pub devices: Vec<Rule>,
    /// Who makes it.
    #[serde(rename = "systemd", skip_serializing_if = "Driver::is_cgroupfs", serialize_with = "Driver::unit_only")]
    pub driver: Driver,
    /// Whether to go on without a cgroup if the caller may not make one: it is not root and asks for no limit.
    pub optional: bool,
    /// The host's uid that the v2 cgroup is delegated to, so that the container can make cgroups in its own
    /// (config-linux.md#cgroup-ownership).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<u32>,
}

/// Who makes cgroups, moves processes into them and removes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Driver {
    /// orlop, in the mounted cgroup file systems.
    #[default]
    Cgroupfs,
    /// systemd, by a transient unit (`--systemd-cgroup`).
    Systemd(Box<Unit>),
}

impl Driver {
    fn is_cgroupfs(&self) -> bool {
        self.unit().is_none()
    }

    /// The unit that the container's cgroup is of.
    pub fn unit(&self) -> Option<&Unit> {
        match self {
            Driver::Cgroupfs => None,
            Driver::Systemd(unit) => Some(unit),
        }
    }

    fn unit_only<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.unit().serialize(serializer)
    }
}

/// The cgroup's directory in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    pub version: Version,
    /// Where the hierarchy is mounted, e.g. `/sys/fs/cgroup/memory`.
    pub mount_point: PathBuf,
    /// What the hierarchy controls, e.g. `["cpu", "cpuacct"]`.
    pub controllers: Vec<String>,
    /// Below the mount point: at least one component, no `.` or `..`.
    pub path: PathBuf,
}

/// The interface of a hierarchy, see cgroups(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Version {
    V1,
    V2,
}

/// One `write(2)` of a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Write {
    /// The JSON path in config.json that asked for it.
    pub field: String,
    pub controller: String,
    /// A file of the cgroup's directory, no `/`.
    pub file: String,
    pub value: String,
    pub missing: Missing,
}

/// What to do where the kernel has no such file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Missing {
    Fail,
    /// The kernel's default is what was asked for, or the file refines another one.
    Skip,
    /// Another file does the same, e.g. `io.weight` where the bfq scheduler is not built in.
    Instead {
        file: String,
        value: String,
    },
}

impl Cgroup {
    /// The container's directory in `hierarchy`, absolute; the mount point itself if it has none there.
    pub fn directory_in(&self, hierarchy: &Hierarchy) -> PathBuf {
        let place = self.places.iter().find(|place| place.mount_point == hierarchy.mount_point);
        place.map_or_else(|| hierarchy.mount_point.clone(), |place| place.mount_point.join(&place.path))
    }

    /// Whether the cgroup must be one that can hold a whole process with all that it uses: a limit of it needs a
    /// controller that does not count threads (cgroups(7), "Threaded controllers").
    pub fn needs_domain(&self) -> bool {
        let threaded = |write: &Write| {
            matches!(write.controller.as_str(), "cpu" | "cpuset" | "pids" | "perf_event" | "cgroup" | "devices")
        };
        !self.writes.iter().all(threaded)
    }

    /// The places alone, for a container of which only the id and perhaps `linux.cgroupsPath` are known.
    pub fn of_id(id: &str, cgroups_path: Option<&str>, host: &Host) -> Cgroup {
        let cgroups_path = cgroups_path.map(Path::new);
        let location = path::Location::parse(cgroups_path, id, &mut Problems::default());
        Cgroup { places: places(&host.cgroups, &location), ..Cgroup::default() }
    }

    /// Plans `linux.cgroupsPath` and `linux.resources` for the cgroupfs driver. `id`, the container's, names the cgroup
    /// if `cgroupsPath` does not. Device rules are enforced even if none are given: like runc, everything is denied
    /// that neither the rules nor [`device_filter::default_rules`] allow.
    pub fn from_spec(linux: &Linux, id: &str, host: &Host, problems: &mut Problems) -> Cgroup {
        let resources = linux.resources().clone().unwrap_or_default();
        let location = path::Location::parse(linux.cgroups_path().as_deref(), id, problems);
        let mut cgroup = Cgroup { places: places(&host.cgroups, &location), ..Cgroup::default() };
        // A process in a user namespace, or without root, cannot change device access; nor can it make device nodes.
        let admin = host.euid == 0 && host.initial_user_namespace;
        let rules = if admin { device_rules(&resources, problems) } else { Vec::new() };
        if !admin && resources.devices().as_ref().is_some_and(|d| !d.is_empty()) {
            problems.warn(
                "linux.resources.devices",
                "is not enforced: the caller may not change device access, and in its user namespace nobody can make device nodes",
            );
        }

        let version = if matches!(host.cgroups, CgroupLayout::Legacy { .. }) { Version::V1 } else { Version::V2 };
        let mut writes = Writes { version, places: &cgroup.places, list: Vec::new(), problems };
        match &host.cgroups {
            CgroupLayout::None => no_cgroups(linux, &resources, &rules, writes.problems),
            CgroupLayout::Unified(_) => v2::plan(&resources, &mut writes),
            CgroupLayout::Legacy { .. } => {
                v1::plan(&resources, &mut writes);
                v1::devices(&rules, &mut writes);
            }
        }
        cgroup.writes = writes.list;
        if matches!(host.cgroups, CgroupLayout::Unified(_)) {
            cgroup.devices = rules;
        }
        cgroup.optional = !admin && linux.cgroups_path().is_none() && cgroup.writes.is_empty();
        cgroup
    }
}

/// Lays the location out in every hierarchy of the host.
fn places(layout: &CgroupLayout, location: &path::Location) -> Vec<Place> {
    let place = |version, hierarchy: &Hierarchy, path| Place {
        version,
        mount_point: hierarchy.mount_point.clone(),
        controllers: hierarchy.controllers.clone(),
        path,
    };
    match layout {
        CgroupLayout::None => Vec::new(),
        CgroupLayout::Unified(h) => vec![place(Version::V2, h, location.beside(&h.own))],
        CgroupLayout::Legacy { hierarchies, unified } => {
            let v1 = hierarchies.iter().map(|h| place(Version::V1, h, location.below(&h.own)));
            v1.chain(unified.iter().map(|h| place(Version::V2, h, location.below(&h.own)))).collect()
        }
    }
}

/// The user's rules and then the defaults, or nothing if together they allow everything.
fn device_rules(resources: &LinuxResources, problems: &mut Problems) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (i, rule) in resources.devices().iter().flatten().enumerate() {
        rules.extend(Rule::from_spec(rule, &format!("linux.resources.devices[{i}]"), problems));
    }
    rules.extend(device_filter::default_rules());
    if device_filter::allows_everything(&rules) { Vec::new() } else { rules }
}

/// Everything that needs a cgroup is an error where there is none.
fn no_cgroups(linux: &Linux, resources: &LinuxResources, rules: &[Rule], problems: &mut Problems) {
    let limits = LinuxResources::default();
    let mut without_devices = resources.clone();
    without_devices.set_devices(None);
    let message = "no cgroup file system is mounted at /sys/fs/cgroup";
    if linux.cgroups_path().is_some() {
        problems.error("linux.cgroupsPath", message);
    }
    if without_devices != limits {
        problems.error("linux.resources", message);
    }
    if !rules.is_empty() {
        problems.error_hint(
            "linux.resources.devices",
            format!("cannot be enforced: {message}"),
            "devices are restricted even if no rule is given; a rule that allows all of them lifts that",
        );
    }
}

/// Collects writes and refuses those whose controller the host does not offer.
struct Writes<'a> {
    /// Whose files are written.
    version: Version,
    places: &'a [Place],
    list: Vec<Write>,
    problems: &'a mut Problems,
}

impl Writes<'_> {
    /// A write for `linux.resources.{field}` that must succeed.
    fn add(&mut self, field: &str, controller: &str, file: &str, value: impl ToString) {
        self.add_or(field, controller, file, value, Missing::Fail);
    }

    fn add_or(&mut self, field: &str, controller: &str, file: &str, value: impl ToString, missing: Missing) {
        let field = format!("linux.resources.{field}");
        let value = value.to_string();
        // A second line would be a second, unseen setting; a NUL would end the first.
        if value.contains(['\n', '\0']) {
            self.problems.error(field, "contains a line break or a NUL byte");
        } else if self.offers(&field, controller) {
            self.list.push(Write { field, controller: controller.into(), file: file.into(), value, missing });
        }
    }

    /// Whether the host has the controller; if not, says so at `field` (a whole JSON path).
    fn offers(&mut self, field: &str, controller: &str) -> bool {
        let found = self.version_of(controller).is_some();
        if !found {
            let all = self.places.iter().flat_map(|p| &p.controllers);
            let names: Vec<_> = all.map(String::as_str).filter(|name| !name.contains('=')).collect();
            self.problems.error(
                field,
                format!("needs the cgroup controller \"{controller}\"; this host offers: {}", names.join(", ")),
            );
        }
        found
    }

    /// Which version's files control what `controller` does. The hybrid layout may leave controllers to v2; those whose
    /// files differ in more than the name are not used there.
    fn version_of(&self, controller: &str) -> Option<Version> {
        let alike = matches!(controller, "hugetlb" | "pids" | "rdma");
        let mut places = self.places.iter().filter(|p| p.version == self.version || alike);
        places.find(|p| p.controllers.iter().any(|c| c == controller)).map(|p| p.version)
    }

    fn error(&mut self, field: &str, message: impl Into<String>) {
        self.problems.error(format!("linux.resources.{field}"), message);
    }

    fn warn(&mut self, field: &str, message: impl Into<String>) {
        self.problems.warn(format!("linux.resources.{field}"), message);
    }
}

/// The limits of `memory`, in bytes, `-1` for none, `0` for "leave alone", after the checks that v1 and v2 share.
struct MemoryLimits {
    limit: i64,
    reservation: i64,
    /// Swap alone, as v2 counts it.
    swap_only: Option<i64>,
    /// Memory and swap together, as config.json and v1 count it.
    memory_and_swap: i64,
}

/// Checks `linux.resources.memory` (config-linux.md#memory) and warns of fields that no kernel honours any more.
fn memory_limits(memory: &LinuxMemory, writes: &mut Writes) -> MemoryLimits {
    let mut number = |field: &str, value: Option<i64>| {
        let value = value.unwrap_or(0);
        if value < -1 {
            writes.error(field, format!("{value} is neither a number of bytes nor -1 for no limit"));
        }
        value.max(-1)
    };
    let limit = number("memory.limit", memory.limit());
    let memory_and_swap = number("memory.swap", memory.swap());
    let reservation = number("memory.reservation", memory.reservation());
    let swap_only = match swap_alone(limit, memory_and_swap) {
        Ok(swap) => swap,
        Err(message) => {
            writes.error("memory.swap", message);
            None
        }
    };
    for (field, value) in [("memory.kernel", memory.kernel()), ("memory.kernelTCP", memory.kernel_tcp())] {
        if value.is_some_and(|v| v != 0) {
            writes.warn(field, "ignored: the kernel no longer limits kernel memory apart");
        }
    }
    if memory.use_hierarchy() == Some(false) {
        writes.warn("memory.useHierarchy", "ignored: memory is always accounted hierarchically since Linux 5.11");
    }
    MemoryLimits { limit, reservation, swap_only, memory_and_swap }
}

/// What `memory.swap.max` has to be, in bytes, for a limit of memory and swap together; `None` to leave it alone.
fn swap_alone(limit: i64, memory_and_swap: i64) -> Result<Option<i64>, &'static str> {
    match (limit, memory_and_swap) {
        // v1 cannot lift the limit of memory and leave the sum limited, so neither does v2.
        (-1, 0) => Ok(Some(-1)),
        (_, 0) => Ok(None),
        (_, -1) => Ok(Some(-1)),
        (..=0, _) => Err("counts memory and swap together and so needs memory.limit"),
        (limit, sum) if sum < limit => Err("counts memory and swap together and so must not be less than memory.limit"),
        (limit, sum) => Ok(Some(sum - limit)),
    }
}

/// The largest number of tasks: runtime-spec 1.3 defines 0 as a limit, the least that the kernel takes for a cgroup
/// that is to hold a process is 1 (config-linux.md#pids).
fn pids_max(limit: i64) -> String {
    match limit {
        ..0 => "max".into(),
        0 => "1".into(),
        n => n.to_string(),
    }
}

/// Plans what v1 and v2 spell alike: `pids` and `rdma`.
fn plan_common(resources: &LinuxResources, writes: &mut Writes) {
    if let Some(pids) = resources.pids() {
        if pids.limit() == 0 {
            writes.warn("pids.limit", "0 allows a single task; -1 means no limit");
        }
        writes.add("pids.limit", "pids", "pids.max", pids_max(pids.limit()));
    }
    let mut devices: Vec<_> = resources.rdma().iter().flatten().collect();
    devices.sort_by_key(|(name, _)| name.as_str());
    for (name, limits) in devices {
        let field = format!("rdma.{name}");
        if name.is_empty() || name.contains(char::is_whitespace) {
            writes.error(&field, "is not the name of an RDMA device");
            continue;
        }
        let part = |key, value: Option<u32>| value.map(|v| format!(" {key}={v}")).unwrap_or_default();
        let limits = part("hca_handle", limits.hca_handles()) + &part("hca_object", limits.hca_objects());
        if !limits.is_empty() {
            writes.add(&field, "rdma", "rdma.max", format!("{name}{limits}"));
        }
    }
}

/// Plans `hugepageLimits`: a limit of pages in use, and the same one of reservations where the kernel counts those
/// (Linux 5.7), because a mapping without the latter is killed by SIGBUS rather than refused.
fn plan_hugepages(resources: &LinuxResources, writes: &mut Writes) {
    let (limit_file, none) = match writes.version_of("hugetlb") {
        Some(Version::V1) => ("limit_in_bytes", "-1"),
        Some(Version::V2) | None => ("max", "max"),
    };
    for (i, page) in resources.hugepage_limits().iter().flatten().enumerate() {
        let field = format!("hugepageLimits[{i}]");
        let size = page.page_size();
        // The size becomes part of a file name.
        let number = size.strip_suffix("KB").or(size.strip_suffix("MB")).or(size.strip_suffix("GB")).unwrap_or("");
        if number.is_empty() || number.starts_with('0') || !number.bytes().all(|b| b.is_ascii_digit()) {
            writes
                .error(&format!("{field}.pageSize"), format!("{size:?} is not a page size such as \"2MB\" or \"1GB\""));
            continue;
        }
        let field = format!("{field}.limit");
        let value = if page.limit() < 0 { none.to_string() } else { page.limit().to_string() };
        writes.add(&field, "hugetlb", &format!("hugetlb.{size}.{limit_file}"), &value);
        writes.add_or(&field, "hugetlb", &format!("hugetlb.{size}.rsvd.{limit_file}"), &value, Missing::Skip);
    }
}

/// Whether a blockIO weight is set and possible (config-linux.md#block-io).
fn block_weight(field: &str, weight: Option<u16>, writes: &mut Writes) -> Option<u16> {
    match weight {
        None | Some(0) => None,
        Some(weight @ 10..=1000) => Some(weight),
        Some(weight) => {
            writes.error(field, format!("{weight} is not within 10 to 1000"));
            None
        }
    }
}

#[cfg(test)]
mod tests;
