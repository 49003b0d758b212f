// SPDX-License-Identifier: Apache-2.0
//! The systemd cgroup driver: `linux.cgroupsPath` of the form `slice:prefix:name`, the unit that it names, and the unit's
//! properties (systemd.resource-control(5), systemd.scope(5)). Limits go to systemd as well as into the files, since
//! systemd writes what it knows whenever it likes, as at `systemctl daemon-reload`.

mod variant;

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::Linux;
use serde::{Deserialize, Serialize};

use super::cgroup::{Cgroup, Driver, Missing, Write};
use super::device_filter::{self, Rule};
use super::problem::Problems;
use crate::host::{CgroupLayout, Host};
pub use variant::Variant;

const FIELD: &str = "linux.cgroupsPath";
/// Annotations that set a property of the unit.
const ANNOTATION: &str = "org.systemd.property.";
/// `infinity` of systemd's numbers, and of its times.
const INFINITY: u64 = u64::MAX;

/// The systemd that is asked: as it was when the container was created, since later commands must not ask another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manager {
    /// The first number of its version, e.g. 252.
    pub version: u32,
    /// The manager of a user's services and not the system's.
    pub user: bool,
    /// The cgroup that it manages, relative to the mount point: empty, or e.g. `user.slice/user-1000.slice/user@1000.service`.
    pub control_group: PathBuf,
}

/// What later commands need to know of a container's unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remembered {
    pub manager: Manager,
    pub unit: String,
}

/// A transient unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unit {
    pub name: String,
    #[serde(skip)]
    pub manager: Manager,
    /// What it is made with, but for its processes and limits.
    pub properties: Vec<Property>,
    /// What `update` changes, too.
    pub limits: Vec<Property>,
}

impl Unit {
    /// Whether the unit is made of processes: a slice begins without any.
    pub fn is_scope(&self) -> bool {
        self.name.ends_with(".scope")
    }

    /// The limits that differ from those of `old`.
    pub fn changes(&self, old: &Unit) -> Vec<Property> {
        // The list of devices is emptied before it is filled: all of it, or nothing.
        let devices = |unit: &Unit| unit.limits.iter().filter(|p| p.is_of_devices()).cloned().collect::<Vec<_>>();
        let same = devices(self) == devices(old);
        let stays = |p: &Property| if p.is_of_devices() { same } else { old.limits.contains(p) };
        self.limits.iter().filter(|p| !stays(p)).cloned().collect()
    }
}

impl Remembered {
    pub fn of(unit: &Unit) -> Remembered {
        Remembered { manager: unit.manager.clone(), unit: unit.name.clone() }
    }
}

/// A property of a unit, as on D-Bus. Serialised `MemoryMax=uint64 67108864`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    pub name: String,
    pub value: Variant,
}

impl Property {
    pub fn new(name: &str, value: Variant) -> Property {
        Property { name: name.into(), value }
    }

    fn is_of_devices(&self) -> bool {
        self.name.starts_with("Device")
    }
}

impl Serialize for Property {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}={}", self.name, self.value))
    }
}

/// Plans the cgroup as [`Cgroup::from_spec`] does, and the unit that it is the cgroup of.
pub fn plan(
    linux: &Linux,
    annotations: &BTreeMap<String, String>,
    id: &str,
    host: &Host,
    manager: &Manager,
    problems: &mut Problems,
) -> Cgroup {
    if !matches!(host.cgroups, CgroupLayout::Unified(_)) {
        problems.error_hint(
            FIELD,
            "the systemd cgroup driver needs cgroup v2 alone, which is not what this host mounts on /sys/fs/cgroup",
            "boot with systemd.unified_cgroup_hierarchy=1, or do without --systemd-cgroup",
        );
        return Cgroup::default();
    }
    let text = linux.cgroups_path().as_deref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let Some(place) = Place::parse(&text, id, manager, problems) else { return Cgroup::default() };
    let mut moved = linux.clone();
    moved.set_cgroups_path(Some(PathBuf::from("/").join(&manager.control_group).join(&place.path)));
    let mut cgroup = Cgroup::from_spec(&moved, id, host, problems);
    round_quota(&mut cgroup.writes);
    let mut properties = place.properties(id);
    properties.extend(annotated(annotations, problems));
    let mut limits = Vec::new();
    if host.euid == 0 && host.initial_user_namespace {
        limits.extend(devices(&cgroup.devices, manager.version));
    }
    for write in &cgroup.writes {
        limit(write, manager.version, &mut limits);
    }
    // Set once only: it is none of the properties that a running unit takes.
    if let Some(write) = cgroup.writes.iter().rfind(|write| write.file == "memory.oom.group")
        && manager.version >= 253
    {
        let policy = if write.value.trim() == "1" { "kill" } else { "continue" };
        properties.push(Property::new("OOMPolicy", Variant::text(policy)));
    }
    // The caller has the last word.
    limits.retain(|limit| !properties.iter().any(|property| property.name == limit.name));
    cgroup.driver = Driver::Systemd(Box::new(Unit { name: place.unit, manager: manager.clone(), properties, limits }));
    cgroup
}

/// Where `slice:prefix:name` puts the container.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    slice: String,
    unit: String,
    /// The unit's cgroup below the manager's.
    path: PathBuf,
}

impl Place {
    fn parse(text: &str, id: &str, manager: &Manager, problems: &mut Problems) -> Option<Place> {
        let parts: Vec<&str> = if text.is_empty() { vec!["", "orlop", id] } else { text.split(':').collect() };
        let &[slice, prefix, name] = parts.as_slice() else {
            problems.error_hint(
                FIELD,
                format!(
                    "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {text:?} instead"
                ),
                "such as system.slice:orlop:web; or do without --systemd-cgroup",
            );
            return None;
        };
        let slice = match slice {
            "" if manager.user => "user.slice",
            "" => "system.slice",
            slice => slice,
        };
        // What systemd.unit(5) has in names, and what it makes of a name in a cgroup's.
        let fine = |b: u8| b.is_ascii_alphanumeric() || b"-_.\\@".contains(&b);
        let unit = if name.ends_with(".slice") { name.to_string() } else { format!("{prefix}-{name}.scope") };
        for unit in [slice, &unit] {
            if unit.len() > 255 || !unit.bytes().all(fine) {
                problems.error_hint(
                    FIELD,
                    format!("{unit:?} is not the name of a unit"),
                    "it has at most 255 letters, digits and - _ . @ \\: see systemd.unit(5)",
                );
                return None;
            }
        }
        let Some(mut path) = expand(slice) else {
            problems.error_hint(
                FIELD,
                format!("{slice:?} is not the name of a slice"),
                "it ends in .slice, and its parts are separated by one - each: see systemd.slice(5)",
            );
            return None;
        };
        if !unit.ends_with(".slice") {
            path.push(&unit);
        } else {
            let expanded = expand(&unit).filter(|expanded| expanded.parent() == Some(&path));
            path = expanded.or_else(|| {
                problems
                    .error(FIELD, format!("the slice {unit:?} does not lie in {slice:?}: its name says where it lies"));
                None
            })?;
        }
        Some(Place { slice: slice.into(), unit, path })
    }

    fn properties(&self, id: &str) -> Vec<Property> {
        let yes = |name| Property::new(name, Variant::bool(true));
        let mut list = vec![Property::new("Description", Variant::text(&format!("orlop container {id}")))];
        if self.unit.ends_with(".slice") {
            list.push(Property::new("Wants", Variant::texts(&[&self.slice])));
        } else {
            list.push(Property::new("Slice", Variant::text(&self.slice)));
            list.push(yes("Delegate"));
        }
        // Controllers count from the beginning, as they do with the cgroupfs driver.
        list.extend(["MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting"].map(yes));
        // The container neither waits for nor ends with what the system's own services do.
        list.push(Property::new("DefaultDependencies", Variant::bool(false)));
        list
    }
}

/// The cgroup of a slice below its manager's: `a-b.slice` is `a.slice/a-b.slice`, and `-.slice` the root
/// (systemd.slice(5)).
fn expand(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice")?;
    let mut path = PathBuf::new();
    if name == "-" {
        return Some(path);
    }
    for (end, _) in name.match_indices('-').chain([(name.len(), "")]) {
        let above = name.get(..end)?;
        if above.is_empty() || above.ends_with('-') {
            return None;
        }
        path.push(format!("{above}.slice"));
    }
    Some(path)
}

/// Properties from `org.systemd.property.NAME` annotations: GVariant text, and as runc has it `…Sec`, the name in unit files,
/// in place of `…USec`, the name on D-Bus.
fn annotated(annotations: &BTreeMap<String, String>, problems: &mut Problems) -> Vec<Property> {
    let mut list = Vec::new();
    for (key, text) in annotations {
        let Some(name) = key.strip_prefix(ANNOTATION) else { continue };
        let at = format!("annotations[{key:?}]");
        if name.len() < 3 || !name.bytes().all(|b| b.is_ascii_alphabetic()) {
            problems.error(at, format!("{name:?} is not the name of a property, three letters or more"));
            continue;
        }
        let value = match variant::parse(text) {
            Ok(value) => value,
            Err(message) => {
                problems.error_hint(
                    at,
                    format!("{text:?} is no GVariant text: {message}"),
                    "a string is 'text', a number has its type before it, as in uint64 5",
                );
                continue;
            }
        };
        let is_time = name.ends_with("Sec") && !name.ends_with("USec");
        list.push(match (is_time, name.strip_suffix("Sec"), value.microseconds()) {
            (true, Some(stem), Some(value)) => Property::new(&format!("{stem}USec"), value),
            (true, ..) => {
                problems.error(at, format!("{text:?} is not a number of seconds"));
                continue;
            }
            _ => Property::new(name, value),
        });
    }
    list
}

/// systemd rounds a quota up to whole hundredths of a processor: the file gets what systemd would write.
fn round_quota(writes: &mut [Write]) {
    for write in
        writes.iter_mut().filter(|write| write.file == "cpu.max" && write.field.starts_with("linux.resources.cpu"))
    {
        if let Some((Some(quota), period)) = cpu_max(&write.value) {
            let quota = u128::from(per_second(quota, period)) * u128::from(period) / 1_000_000;
            write.value = format!("{quota} {period}");
        }
    }
}

/// Quota (none: no limit) and period, in microseconds.
fn cpu_max(value: &str) -> Option<(Option<u64>, u64)> {
    let mut words = value.split_whitespace();
    let quota = match words.next()? {
        "max" => None,
        quota => Some(quota.parse().ok()?),
    };
    let period = words.next().map_or(Ok(100_000), str::parse).ok()?;
    (period != 0).then_some((quota, period))
}

/// Microseconds of processor time a second, in steps of a hundredth.
fn per_second(quota: u64, period: u64) -> u64 {
    let exact = u128::from(quota) * 1_000_000 / u128::from(period);
    u64::try_from(exact.div_ceil(10_000) * 10_000).unwrap_or(INFINITY)
}

/// The properties that make systemd write the same. A later one takes the place of an earlier one. A file that systemd does
/// not know, or knows in a later version only, has none.
fn limit(write: &Write, version: u32, limits: &mut Vec<Property>) {
    let value = write.value.trim();
    let number = |name: &str| bytes(value).map(|number| Property::new(name, Variant::u64(number)));
    let set = |name: &str| Some(Property::new(name, Variant::Array("y".into(), bits(value)?)));
    let mut found = match write.file.as_str() {
        "memory.max" => number("MemoryMax"),
        "memory.high" => number("MemoryHigh"),
        "memory.low" => number("MemoryLow"),
        "memory.min" => number("MemoryMin"),
        "memory.swap.max" => number("MemorySwapMax"),
        "pids.max" => number("TasksMax"),
        "cpu.weight" => number("CPUWeight"),
        // systemd's word for idle is a weight of 0.
        "cpu.idle" if value == "1" && version >= 252 => Some(Property::new("CPUWeight", Variant::u64(0))),
        "cpuset.cpus" if version >= 244 => set("AllowedCPUs"),
        "cpuset.mems" if version >= 244 => set("AllowedMemoryNodes"),
        // The weight of bfq has another scale; systemd derives it from this one.
        "io.bfq.weight" => match &write.missing {
            Missing::Instead { value, .. } => {
                value.parse().ok().map(|weight| Property::new("IOWeight", Variant::u64(weight)))
            }
            _ => None,
        },
        "io.weight" => {
            let weight = value.strip_prefix("default ").unwrap_or(value).trim();
            weight.parse().ok().map(|weight| Property::new("IOWeight", Variant::u64(weight)))
        }
        _ => None,
    };
    if write.file == "cpu.max"
        && let Some((quota, period)) = cpu_max(value)
    {
        let quota = quota.map_or(INFINITY, |quota| per_second(quota, period));
        if version >= 242 {
            put(limits, Property::new("CPUQuotaPeriodUSec", Variant::u64(period)));
        }
        found = Some(Property::new("CPUQuotaPerSecUSec", Variant::u64(quota)));
    }
    if let Some(property) = found {
        put(limits, property);
    }
}

fn put(limits: &mut Vec<Property>, property: Property) {
    limits.retain(|other| other.name != property.name);
    limits.push(property);
}

/// A number as the kernel takes it for memory: `max`, or with a suffix K, M, G or T.
fn bytes(value: &str) -> Option<u64> {
    if value == "max" {
        return Some(INFINITY);
    }
    let digits = value.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match value.get(digits.len()..)?.to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A list such as `0-3,7` as bits, the lowest in the first byte.
fn bits(list: &str) -> Option<Vec<Variant>> {
    let mut bytes: Vec<u8> = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?);
        for number in first..=last {
            let index = usize::from(number / 8);
            if bytes.len() <= index {
                bytes.resize(index + 1, 0);
            }
            *bytes.get_mut(index)? |= 1 << (number % 8);
        }
    }
    (!bytes.is_empty()).then(|| bytes.into_iter().map(Variant::byte).collect())
}

/// The device rules for systemd, which allows and never denies: what it allows must be no less than what they do, as its
/// program and orlop's own both have to agree. What it cannot express it is told to allow.
fn devices(rules: &[Rule], version: u32) -> Vec<Property> {
    let list = |entries: Vec<(String, String)>| {
        let pair = |(node, access): &(String, String)| Variant::Tuple(vec![Variant::text(node), Variant::text(access)]);
        Property::new("DeviceAllow", Variant::Array("(ss)".into(), entries.iter().map(pair).collect()))
    };
    let policy = |policy| Property::new("DevicePolicy", Variant::text(policy));
    let entries = match device_filter::exceptions(rules) {
        Ok(list) if !list.allow && !rules.is_empty() => {
            list.exceptions.iter().map(|exception| device(exception, version)).collect::<Option<Vec<_>>>()
        }
        _ => None,
    };
    match entries {
        // An empty list first: a property of a list adds to it.
        Some(entries) => vec![policy("strict"), list(Vec::new()), list(entries)],
        None => vec![policy("auto"), list(Vec::new())],
    }
}

/// `c 1:3 rwm` as `/dev/char/1:3`, `char-136` for any minor number (systemd 240), `char-*` for all.
fn device(exception: &str, version: u32) -> Option<(String, String)> {
    let mut words = exception.split(' ');
    let kind = match words.next()? {
        "b" => "block",
        "c" => "char",
        _ => return None,
    };
    let (major, minor) = words.next()?.split_once(':')?;
    let node = match (major, minor) {
        ("*", "*") => format!("{kind}-*"),
        ("*", _) => return None,
        _ if version < 240 => return None,
        (major, "*") => format!("{kind}-{major}"),
        (major, minor) => format!("/dev/{kind}/{major}:{minor}"),
    };
    Some((node, words.next()?.to_string()))
}

#[cfg(test)]
mod tests;
