// SPDX-License-Identifier: Apache-2.0
//! `orlop update`: what becomes of the limits of a container that runs. Pure.
//!
//! A field that is absent, or whose value stands for "not set", leaves the container as it is; so do the defaults of the
//! other fields of its section. What holds at the end is a config, by which `exec` and `audit` go.

use serde_json::{Map, Value};

use super::{Cgroup, Missing, Version, Write};
use crate::plan::device_filter::Rule;

const RESOURCES: &str = "linux.resources.";

/// Fields whose zero (or empty text) stands for "not set" (config-linux.md, and runc).
const UNSET: [&str; 14] = [
    "memory.limit",
    "memory.swap",
    "memory.reservation",
    "memory.kernel",
    "memory.kernelTCP",
    "cpu.shares",
    "cpu.quota",
    "cpu.period",
    "cpu.realtimeRuntime",
    "cpu.realtimePeriod",
    "cpu.cpus",
    "cpu.mems",
    "blockIO.weight",
    "network.classID",
];

/// What tells the elements of a list apart; an element with the same replaces the old one.
const KEYS: [(&str, &[&str]); 7] = [
    ("blockIO.weightDevice", &["major", "minor"]),
    ("blockIO.throttleReadBpsDevice", &["major", "minor"]),
    ("blockIO.throttleWriteBpsDevice", &["major", "minor"]),
    ("blockIO.throttleReadIOPSDevice", &["major", "minor"]),
    ("blockIO.throttleWriteIOPSDevice", &["major", "minor"]),
    ("network.priorities", &["name"]),
    ("hugepageLimits", &["pageSize"]),
];

/// What to do to a container's cgroup.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// In the order in which the kernel takes them.
    pub writes: Vec<Write>,
    /// v1: the device list as it was, whole.
    pub old_devices: Vec<Write>,
    /// v2: the rules as they were and as they are to be; none if they stay.
    pub devices: Option<(Vec<Rule>, Vec<Rule>)>,
    /// The limit of memory, in bytes, that must not be below what is in use (`memory.checkBeforeUpdate`).
    pub not_below_usage: Option<u64>,
}

/// Puts `asked`, an object as `linux.resources`, over `old`. Gives the result and the paths of what was asked for, such
/// as `memory.limit` or `unified.memory.high`.
pub fn merge(old: &Value, asked: &Value, version: Version) -> (Value, Vec<String>) {
    let mut merged = old.as_object().cloned().unwrap_or_default();
    let mut paths = Vec::new();
    for (name, section) in asked.as_object().into_iter().flatten() {
        match section {
            Value::Object(section) => {
                for (key, value) in section {
                    let path = format!("{name}.{key}");
                    if is_unset(&path, value) {
                        continue;
                    }
                    let target = merged.entry(name).or_insert(Value::Null);
                    if !target.is_object() {
                        *target = Value::Object(Map::new());
                    }
                    if let Some(target) = target.as_object_mut() {
                        put(target, key, value, &path);
                        paths.push(path);
                    }
                }
            }
            // A rule replaces none in particular: the list is one thing.
            Value::Array(list) if !list.is_empty() => {
                put(&mut merged, name, section, name);
                paths.push(name.clone());
            }
            _ => {}
        }
    }
    let number = |path: &str, of: &Value| of.pointer(path).and_then(Value::as_i64).unwrap_or(0);
    let (limit, swap) = (number("/memory/limit", asked), number("/memory/swap", asked));
    if limit != 0
        && swap == 0
        && let Some(memory) = merged.get_mut("memory").and_then(Value::as_object_mut)
    {
        let (old_limit, old_swap) = (number("/memory/limit", old), number("/memory/swap", old));
        if limit == -1 {
            // Without a limit of memory the sum cannot have one.
            memory.insert("swap".into(), (-1).into());
        } else if version == Version::V2 && old_limit > 0 && old_swap > 0 {
            // v2 limits swap by itself, and nobody has asked for another amount of it.
            memory.insert("swap".into(), limit.saturating_add(old_swap - old_limit).into());
        }
    }
    (Value::Object(merged), paths)
}

fn is_unset(path: &str, value: &Value) -> bool {
    value.is_null()
        || value.as_array().is_some_and(Vec::is_empty)
        || UNSET.contains(&path) && (value.as_i64() == Some(0) || value.as_str() == Some(""))
}

fn put(target: &mut Map<String, Value>, name: &str, value: &Value, path: &str) {
    let keys = KEYS.iter().find(|(list, _)| *list == path).map(|(_, keys)| *keys);
    let (Some(keys), Some(new), Some(old)) =
        (keys, value.as_array(), target.get_mut(name).and_then(Value::as_array_mut))
    else {
        target.insert(name.to_string(), value.clone());
        return;
    };
    for element in new {
        let same = |other: &&mut Value| keys.iter().all(|key| other.get(*key) == element.get(*key));
        match old.iter_mut().find(same) {
            Some(found) => *found = element.clone(),
            None => old.push(element.clone()),
        }
    }
}

/// Takes out of `resources.unified` the files that a newer limit is written to: the map has the last word, which was that
/// of an older config. `asked` are the writes that `asked` alone makes.
pub fn drop_overruled(resources: &mut Value, asked: &[Write], paths: &[String]) {
    let Some(unified) = resources.get_mut("unified").and_then(Value::as_object_mut) else { return };
    unified.retain(|file, _| {
        paths.iter().any(|path| path.strip_prefix("unified.") == Some(file.as_str()))
            || !asked.iter().any(|write| write.file == *file)
    });
}

/// The difference between two plans for a container. `paths` is what was asked for, which is written though the config
/// says it already: what the kernel has may have been changed by others.
pub fn difference(old: &Cgroup, new: &Cgroup, paths: &[String]) -> Update {
    let is_asked = |write: &Write| {
        let field = write.field.strip_prefix(RESOURCES).unwrap_or_default();
        paths.iter().any(|path| {
            field.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '.']))
        })
    };
    let mut writes: Vec<Write> = new
        .writes
        .iter()
        .filter(|write| !is_device(write) && (is_asked(write) || !old.writes.contains(write)))
        .cloned()
        .collect();
    if old.writes.iter().any(|write| write.file == "memory.oom_control")
        && !new.writes.iter().any(|write| write.file == "memory.oom_control")
        && let Some(write) = old.writes.iter().find(|write| write.file == "memory.oom_control")
    {
        writes.push(Write { value: "0".into(), ..write.clone() });
    }
    let list = |plan: &Cgroup| plan.writes.iter().filter(|write| is_device(write)).cloned().collect::<Vec<_>>();
    let (old_devices, new_devices) = (list(old), list(new));
    writes.extend(device_writes(&old_devices, &new_devices));
    Update {
        writes,
        old_devices,
        devices: (old.devices != new.devices).then(|| (old.devices.clone(), new.devices.clone())),
        not_below_usage: None,
    }
}

fn is_device(write: &Write) -> bool {
    write.controller == "devices"
}

/// From one v1 device list to another. Of two with the same default only the exceptions that differ are written, so that
/// what both allow is allowed all the time.
fn device_writes(old: &[Write], new: &[Write]) -> Vec<Write> {
    if old == new {
        return Vec::new();
    }
    let everything = |file: &str, like: &Write| Write { file: file.into(), value: "a".into(), ..like.clone() };
    match (old.split_first(), new.split_first()) {
        (Some((first, old)), Some((same, new))) if first == same => {
            let gone = old.iter().filter(|write| !new.contains(write)).map(opposite);
            let added = new.iter().filter(|write| !old.contains(write)).cloned();
            gone.chain(added).collect()
        }
        // No list: everything is allowed.
        (Some((first, _)), None) => vec![everything("devices.allow", first)],
        _ => new.to_vec(),
    }
}

/// What undoes a change of a v1 device list.
fn opposite(write: &Write) -> Write {
    let file = if write.file == "devices.allow" { "devices.deny" } else { "devices.allow" };
    Write { file: file.into(), missing: Missing::Fail, ..write.clone() }
}

/// A number of bytes as docker and runc take it: digits, perhaps with a fraction, and one of k, m, g, t, p (powers of
/// 1024), perhaps followed by b or ib, in any case; -1 stands for no limit. None for anything else.
pub fn bytes(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(split)?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let shift = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit) {
        "" if !unit.starts_with('i') => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let scale = 1i128 << shift;
    let mut total = i128::from(whole.parse::<i64>().ok()?) * scale;
    if digits.contains('.') {
        let thousandths = fraction.get(..9).unwrap_or(fraction);
        let numerator = i128::from(thousandths.parse::<u32>().ok()?);
        total += numerator * scale / 10i128.pow(u32::try_from(thousandths.len()).ok()?);
    }
    i64::try_from(total).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(old: Value, asked: Value) -> Value {
        merge(&old, &asked, Version::V2).0
    }

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("4096", Some(4096)),
            ("64M", Some(64 << 20)),
            ("64MiB", Some(64 << 20)),
            ("1.5g", Some(3 << 29)),
            ("1 kB", Some(1024)),
            ("7b", Some(7)),
            ("2t", Some(2 << 40)),
            ("1p", Some(1 << 50)),
            ("", None),
            ("-2", None),
            ("M", None),
            ("1ib", None),
            ("1.", None),
            ("1.x", None),
            ("1x", None),
            ("1mm", None),
            ("0x10", None),
            ("9999999999g", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_asked_for_stays() {
        let old =
            json!({"memory": {"limit": 100, "reservation": 7}, "cpu": {"quota": 5, "period": 9}, "pids": {"limit": 3}});
        let (new, paths) = merge(
            &old,
            &json!({"memory": {"limit": 200, "swap": 0}, "cpu": {"period": 0, "quota": 6, "cpus": ""}, "pids": null, "blockIO": {}}),
            Version::V2,
        );
        assert_eq!(
            new,
            json!({"memory": {"limit": 200, "reservation": 7}, "cpu": {"quota": 6, "period": 9}, "pids": {"limit": 3}})
        );
        assert_eq!(paths, ["cpu.quota", "memory.limit"]);
        // Zeros that mean something.
        let new = merged(json!({}), json!({"pids": {"limit": 0}, "cpu": {"idle": 0, "burst": 0}}));
        assert_eq!(new, json!({"pids": {"limit": 0}, "cpu": {"idle": 0, "burst": 0}}));
    }

    #[test]
    fn swap_follows_the_limit_of_memory() {
        let old = json!({"memory": {"limit": 100, "swap": 150}});
        let asked = |limit: i64| json!({"memory": {"limit": limit}});
        assert_eq!(merged(old.clone(), asked(200))["memory"], json!({"limit": 200, "swap": 250}));
        assert_eq!(merge(&old, &asked(120), Version::V1).0["memory"], json!({"limit": 120, "swap": 150}));
        assert_eq!(merge(&old, &asked(-1), Version::V1).0["memory"], json!({"limit": -1, "swap": -1}));
        assert_eq!(merged(json!({}), asked(200))["memory"], json!({"limit": 200}));
    }

    #[test]
    fn elements_of_lists_are_replaced_by_their_keys() {
        let device = |minor: u32, rate: u32| json!({"major": 8, "minor": minor, "rate": rate});
        let old = json!({"blockIO": {"throttleReadBpsDevice": [device(0, 1), device(1, 2)]}});
        let asked = json!({"blockIO": {"throttleReadBpsDevice": [device(1, 3), device(2, 4)]}});
        let new = merged(old, asked);
        assert_eq!(new["blockIO"]["throttleReadBpsDevice"], json!([device(0, 1), device(1, 3), device(2, 4)]));
        let new = merged(json!({"unified": {"a.b": "1"}}), json!({"unified": {"c.d": "2"}}));
        assert_eq!(new["unified"], json!({"a.b": "1", "c.d": "2"}));
    }

    #[test]
    fn a_newer_limit_overrules_an_older_file() {
        let mut resources = json!({"unified": {"memory.max": "1", "memory.high": "2"}});
        let write = |file: &str| Write {
            field: String::new(),
            controller: "memory".into(),
            file: file.into(),
            value: "3".into(),
            missing: Missing::Fail,
        };
        drop_overruled(&mut resources, &[write("memory.max"), write("memory.high")], &["unified.memory.high".into()]);
        assert_eq!(resources, json!({"unified": {"memory.high": "2"}}));
    }

    #[test]
    fn devices_that_both_lists_allow_are_allowed_all_the_time() {
        let write = |file: &str, value: &str| Write {
            field: "linux.resources.devices".into(),
            controller: "devices".into(),
            file: format!("devices.{file}"),
            value: value.into(),
            missing: Missing::Fail,
        };
        let old = [write("deny", "a"), write("allow", "c 1:3 rwm"), write("allow", "c 1:5 rwm")];
        let new = [write("deny", "a"), write("allow", "c 1:3 rwm"), write("allow", "c 7:1 r")];
        assert_eq!(device_writes(&old, &new), [write("deny", "c 1:5 rwm"), write("allow", "c 7:1 r")]);
        assert_eq!(device_writes(&old, &old), []);
        assert_eq!(device_writes(&old, &[]), [write("allow", "a")]);
        assert_eq!(device_writes(&[], &new), new);
    }
}
