// SPDX-License-Identifier: Apache-2.0
//! Profiles in the format of Docker, Podman and containerd: `linux.seccomp` with entries that hold only for some
//! capabilities, architectures and kernels. They are resolved into `linux.seccomp` as moby resolves them.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::arch::Arch;
use crate::plan::capabilities;
use crate::plan::problem::Problems;

/// What the entries are resolved for.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The container's bounding set, `CAP_*`.
    pub capabilities: BTreeSet<String>,
    /// The kernel's architecture.
    pub arch: Arch,
    /// The first two numbers of the kernel's version.
    pub kernel: (u32, u32),
}

/// A profile without conditions.
#[derive(Debug)]
pub struct Resolved {
    /// `linux.seccomp`.
    pub section: Value,
    /// For each of its entries the index it had.
    pub origins: Vec<usize>,
    pub left_out: Vec<LeftOut>,
}

/// An entry that does not hold in the environment.
#[derive(Debug, PartialEq, Eq)]
pub struct LeftOut {
    pub entry: usize,
    pub names: Vec<String>,
    /// When it would: `only with CAP_BPF`.
    pub holds: String,
}

/// Whether a profile has anything that `linux.seccomp` has not. Without resolving it, a runtime would take entries for
/// some capabilities as entries for all.
pub fn is_docker(profile: &Value) -> bool {
    let entries = profile.get("syscalls").and_then(Value::as_array);
    profile.get("archMap").is_some()
        || entries
            .into_iter()
            .flatten()
            .any(|entry| ["includes", "excludes", "minKernel", "name"].iter().any(|member| entry.get(member).is_some()))
}

/// The first two numbers of a kernel's version: `6.1` or `6.1.0-18-amd64`.
pub fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?;
    let end = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
    Some((major, minor.get(..end)?.parse().ok()?))
}

/// How Go, and so `includes.arches`, names the architecture.
fn go_name(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "amd64",
        Arch::X86 => "x86",
        Arch::X32 => "x32",
        Arch::Aarch64 => "arm64",
        Arch::Arm => "arm",
        Arch::Riscv64 => "riscv64",
        Arch::Ppc64le => "ppc64le",
        Arch::Loongarch64 => "loong64",
    }
}

/// Resolves a profile. Faults go to `problems`; members that `linux.seccomp` has too are left for its parser to check.
pub fn resolve(profile: &Value, environment: &Environment, problems: &mut Problems) -> Resolved {
    let mut section = profile.as_object().cloned().unwrap_or_default();
    let map = section.remove("archMap").unwrap_or(Value::Null);
    let listed = section.get("architectures").and_then(Value::as_array).is_some_and(|listed| !listed.is_empty());
    if map.as_array().is_some_and(|map| !map.is_empty()) && listed {
        problems.error("linux.seccomp.archMap", "and architectures exclude each other");
    } else if !map.is_null() {
        section.insert("architectures".into(), architectures(&map, environment.arch, problems));
    }
    let mut resolved = Resolved { section: Value::Null, origins: Vec::new(), left_out: Vec::new() };
    if let Some(Value::Array(entries)) = section.get_mut("syscalls") {
        let all = std::mem::take(entries);
        for (i, mut entry) in all.into_iter().enumerate() {
            if let Some(members) = entry.as_object_mut()
                && let Some(holds) = take_conditions(i, members, environment, problems)
            {
                let names = members.get("names").and_then(Value::as_array).into_iter().flatten();
                let names = names.filter_map(Value::as_str).map(str::to_string).collect();
                resolved.left_out.push(LeftOut { entry: i, names, holds });
                continue;
            }
            resolved.origins.push(i);
            entries.push(entry);
        }
    }
    resolved.section = Value::Object(section);
    resolved
}

/// `architectures` for a kernel: what `archMap` has for it, and nothing, which means the native one, if it has no such.
fn architectures(map: &Value, arch: Arch, problems: &mut Problems) -> Value {
    let Some(rows) = map.as_array() else {
        problems.error("linux.seccomp.archMap", "must be an array");
        return Value::Null;
    };
    let mut found = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let Some(name) = row.get("architecture").and_then(Value::as_str) else {
            problems.error(format!("linux.seccomp.archMap[{i}].architecture"), "must be a string");
            continue;
        };
        // moby takes the first row.
        if found.is_empty() && Arch::parse(name) == Some(arch) {
            found.push(Value::from(name));
            match row.get("subArchitectures").unwrap_or(&Value::Null) {
                Value::Array(others) => found.extend(others.iter().cloned()),
                Value::Null => {}
                _ => problems.error(format!("linux.seccomp.archMap[{i}].subArchitectures"), "must be an array"),
            }
        }
    }
    Value::Array(found)
}

/// Takes out of an entry what `linux.seccomp` does not have. Some with the reason if the entry does not hold.
fn take_conditions(
    entry: usize,
    members: &mut Map<String, Value>,
    environment: &Environment,
    problems: &mut Problems,
) -> Option<String> {
    let path = |member: &str| format!("linux.seccomp.syscalls[{entry}].{member}");
    if let Some(name) = members.remove("name").filter(|name| name.as_str() != Some("")) {
        // The format before Docker 1.12.
        let names = members.get("names").and_then(Value::as_array).is_some_and(|names| !names.is_empty());
        if names {
            problems.error(path("name"), "and names exclude each other");
        } else {
            members.insert("names".into(), Value::Array(vec![name]));
        }
    }
    // encoding/json takes null for absent.
    if members.get("args") == Some(&Value::Null) {
        members.remove("args");
    }
    members.remove("comment");
    let mut includes = members.remove("includes").unwrap_or(Value::Null);
    let excludes = members.remove("excludes").unwrap_or(Value::Null);
    if let Some(version) = members.remove("minKernel") {
        if includes.is_null() {
            includes = Value::Object(Map::new());
        }
        if let Some(includes) = includes.as_object_mut() {
            includes.entry("minKernel").or_insert(version);
        }
    }
    let mut why = None;
    for (member, filter, excluding) in [("excludes", excludes, true), ("includes", includes, false)] {
        let filter = match filter {
            Value::Null => continue,
            Value::Object(filter) => filter,
            _ => {
                problems.error(path(member), "must be an object");
                continue;
            }
        };
        let names = |what: &str, problems: &mut Problems| -> Vec<String> {
            match filter.get(what).unwrap_or(&Value::Null) {
                Value::Null => Vec::new(),
                Value::Array(names) if names.iter().all(Value::is_string) => {
                    names.iter().filter_map(Value::as_str).map(str::to_string).collect()
                }
                _ => {
                    problems.error(path(&format!("{member}.{what}")), "must be an array of strings");
                    Vec::new()
                }
            }
        };
        let arches = names("arches", problems);
        let is_ours = arches.iter().any(|arch| arch == go_name(environment.arch));
        let caps = names("caps", problems);
        for unknown in caps.iter().filter(|cap| !capabilities::is_known(cap)) {
            problems.warn(path(&format!("{member}.caps")), format!("{unknown} is no capability, so nobody has it"));
        }
        let newer = match filter.get("minKernel").unwrap_or(&Value::Null) {
            Value::Null => None,
            Value::String(text) if text.is_empty() => None,
            Value::String(text) if version(text).is_some() => version(text).map(|min| environment.kernel >= min),
            other => {
                problems
                    .error(path(&format!("{member}.minKernel")), format!("must be a version like \"4.8\", is {other}"));
                None
            }
        };
        let has = |cap: &&String| environment.capabilities.contains(cap.as_str());
        let reason = if excluding {
            let arch = is_ours.then(|| format!("not on {}", environment.arch.name()));
            let cap = || caps.iter().find(has).map(|cap| format!("not with {cap}"));
            let kernel = || newer.filter(|newer| *newer).map(|_| "not on a kernel this new".to_string());
            arch.or_else(cap).or_else(kernel)
        } else {
            let arch = (!arches.is_empty() && !is_ours).then(|| format!("only on {}", arches.join(", ")));
            let cap = || caps.iter().find(|cap| !has(cap)).map(|cap| format!("only with {cap}"));
            let kernel = || newer.filter(|newer| !newer).map(|_| "only on a newer kernel".to_string());
            arch.or_else(cap).or_else(kernel)
        };
        why = why.or(reason);
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn environment(caps: &[&str], arch: Arch, kernel: (u32, u32)) -> Environment {
        Environment { capabilities: caps.iter().map(ToString::to_string).collect(), arch, kernel }
    }

    #[test]
    fn versions() {
        for (text, expected) in [
            ("4.8", Some((4, 8))),
            ("6.1.0-18-amd64", Some((6, 1))),
            ("3.12-1-amd64", Some((3, 12))),
            ("6.18.44", Some((6, 18))),
            ("4", None),
            ("4.", None),
            ("a.b", None),
            ("", None),
        ] {
            assert_eq!(version(text), expected, "{text}");
        }
    }

    #[test]
    fn an_entry_holds_as_its_conditions_say() {
        let here = environment(&["CAP_SYS_ADMIN", "CAP_KILL"], Arch::X86_64, (6, 1));
        for (conditions, why) in [
            (json!({}), None),
            (json!({"includes": {}, "excludes": {}, "comment": "", "args": null}), None),
            (json!({"includes": null}), None),
            (json!({"includes": {"caps": ["CAP_SYS_ADMIN"]}}), None),
            (json!({"includes": {"caps": ["CAP_SYS_ADMIN", "CAP_KILL"]}}), None),
            // moby asks for all of them.
            (json!({"includes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}}), Some("only with CAP_BPF")),
            (json!({"excludes": {"caps": ["CAP_BPF", "CAP_KILL"]}}), Some("not with CAP_KILL")),
            (json!({"excludes": {"caps": ["CAP_BPF"]}}), None),
            (json!({"includes": {"arches": ["amd64", "x32"]}}), None),
            (json!({"includes": {"arches": ["s390x"]}}), Some("only on s390x")),
            (json!({"excludes": {"arches": ["amd64"]}}), Some("not on x86_64")),
            (json!({"excludes": {"arches": ["arm64"]}}), None),
            (json!({"includes": {"minKernel": "4.8"}}), None),
            (json!({"includes": {"minKernel": "6.1"}}), None),
            (json!({"includes": {"minKernel": "6.2"}}), Some("only on a newer kernel")),
            (json!({"includes": {"minKernel": "10.0"}}), Some("only on a newer kernel")),
            (json!({"includes": {"minKernel": ""}}), None),
            (json!({"excludes": {"minKernel": "6.0"}}), Some("not on a kernel this new")),
            (json!({"excludes": {"minKernel": "6.2"}}), None),
            (json!({"minKernel": "5.9"}), None),
            (json!({"minKernel": "6.9"}), Some("only on a newer kernel")),
            (
                json!({"includes": {"caps": ["CAP_KILL"]}, "excludes": {"caps": ["CAP_SYS_ADMIN"]}}),
                Some("not with CAP_SYS_ADMIN"),
            ),
        ] {
            let mut entry = json!({"names": ["read"], "action": "SCMP_ACT_ALLOW"});
            entry.as_object_mut().unwrap().extend(conditions.as_object().unwrap().clone());
            let plain = json!({"names": ["write"], "action": "SCMP_ACT_ALLOW"});
            let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "syscalls": [entry, plain]});
            let mut problems = Problems::default();
            let resolved = resolve(&profile, &here, &mut problems);
            assert_eq!(problems, Problems::default(), "{conditions}");
            let left_out: Vec<_> = resolved.left_out.iter().map(|l| (l.entry, l.holds.as_str())).collect();
            assert_eq!(left_out, why.map(|why| (0, why)).into_iter().collect::<Vec<_>>(), "{conditions}");
            let mut kept = vec![json!({"names": ["read"], "action": "SCMP_ACT_ALLOW"}), plain.clone()];
            kept.drain(..why.iter().count());
            let expected = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "syscalls": kept});
            assert_eq!(resolved.section, expected, "{conditions}");
            assert_eq!(resolved.origins, if why.is_some() { vec![1] } else { vec![0, 1] });
        }
    }

    #[test]
    fn the_map_s_row_for_the_kernel_becomes_the_list() {
        let map = json!([
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            {"architecture": "SCMP_ARCH_RISCV64", "subArchitectures": null},
        ]);
        for (arch, expected) in [
            (Arch::X86_64, json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"])),
            (Arch::Aarch64, json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"])),
            (Arch::Riscv64, json!(["SCMP_ARCH_RISCV64"])),
            (Arch::Ppc64le, json!([])),
        ] {
            let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "archMap": map, "architectures": []});
            assert!(is_docker(&profile));
            let mut problems = Problems::default();
            let resolved = resolve(&profile, &environment(&[], arch, (6, 1)), &mut problems);
            assert_eq!(resolved.section, json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": expected}));
            assert_eq!(problems, Problems::default());
        }
    }

    #[test]
    fn faults_of_the_format() {
        let entry = |extra: Value| {
            let mut entry = json!({"action": "SCMP_ACT_ALLOW"});
            entry.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [entry]})
        };
        for (profile, path) in [
            (json!({"archMap": {}}), "linux.seccomp.archMap"),
            (json!({"archMap": [{}]}), "linux.seccomp.archMap[0].architecture"),
            (
                json!({"archMap": [{"architecture": "SCMP_ARCH_X86_64"}], "architectures": ["SCMP_ARCH_X86"]}),
                "linux.seccomp.archMap",
            ),
            (
                json!({"archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": 1}]}),
                "linux.seccomp.archMap[0].subArchitectures",
            ),
            (entry(json!({"includes": []})), "linux.seccomp.syscalls[0].includes"),
            (entry(json!({"includes": {"caps": "CAP_KILL"}})), "linux.seccomp.syscalls[0].includes.caps"),
            (entry(json!({"excludes": {"arches": [1]}})), "linux.seccomp.syscalls[0].excludes.arches"),
            (entry(json!({"includes": {"minKernel": "four"}})), "linux.seccomp.syscalls[0].includes.minKernel"),
            (entry(json!({"excludes": {"minKernel": 4.8}})), "linux.seccomp.syscalls[0].excludes.minKernel"),
            (entry(json!({"name": "read", "names": ["write"]})), "linux.seccomp.syscalls[0].name"),
        ] {
            let mut problems = Problems::default();
            resolve(&profile, &environment(&[], Arch::X86_64, (6, 1)), &mut problems);
            let paths: Vec<_> = problems.errors.iter().map(|p| p.path.as_str()).collect();
            assert_eq!(paths, [path], "{profile}");
        }
        let mut problems = Problems::default();
        let profile = entry(json!({"name": "read", "includes": {"caps": ["CAP_TELEPORT"]}}));
        let resolved = resolve(&profile, &environment(&[], Arch::X86_64, (6, 1)), &mut problems);
        assert_eq!(problems.warnings[0].path, "linux.seccomp.syscalls[0].includes.caps");
        let expected = LeftOut { entry: 0, names: vec!["read".into()], holds: "only with CAP_TELEPORT".into() };
        assert_eq!(resolved.left_out, [expected]);
        let resolved = resolve(&entry(json!({"name": "read"})), &environment(&[], Arch::X86_64, (6, 1)), &mut problems);
        assert_eq!(resolved.section["syscalls"][0]["names"], json!(["read"]));
    }

    #[test]
    fn plain_profiles_are_not_taken_for_docker_s() {
        let plain = json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": [], "syscalls": [{"names": ["read"]}]});
        assert!(!is_docker(&plain) && !is_docker(&json!({})) && !is_docker(&json!([])));
        assert!(is_docker(&json!({"syscalls": [{"names": ["read"], "excludes": {}}]})));
    }
}
