// SPDX-License-Identifier: Apache-2.0
//! `process`: what runs, as whom, with which limits (config.md#process).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, PosixRlimit, PosixRlimitType};
use serde::Serialize;

use super::capabilities::{self, Set, Sets};
use super::config::Spec;
use super::idmap::{IdMap, Range, to_host};
use super::problem::Problems;
use super::scheduling::{self, Scheduling};

/// The umask of a process whose config names none. The spec would leave the caller's in place; runc and crun set this
/// one, and images rely on it.
const DEFAULT_UMASK: u32 = 0o022;

/// A resource limit of getrlimit(2), in the unit of its resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` and so on.
    pub name: String,
    #[serde(skip)]
    pub resource: libc::c_uint,
    pub soft: u64,
    pub hard: u64,
}

/// The container's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    pub args: Vec<String>,
    /// `NAME=VALUE`, each name once (the last of config.json).
    pub env: Vec<String>,
    pub cwd: PathBuf,
    pub terminal: bool,
    /// Rows and columns of the terminal.
    pub console_size: Option<(u16, u16)>,
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    /// The caller may not change his supplementary groups, and the container cannot either: they stay.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keeps_groups: bool,
    pub umask: u32,
    pub no_new_privileges: bool,
    pub apparmor_profile: Option<String>,
    pub selinux_label: Option<String>,
    pub oom_score_adj: Option<i32>,
    pub rlimits: Vec<Rlimit>,
    /// When the program is executed.
    pub capabilities: Sets,
    /// After that, unless its file has set-user-ID bits or capabilities of its own.
    pub capabilities_after_execve: Sets,
    pub scheduling: Scheduling,
}

/// Reads `process`; None if it is missing, which is a fault.
pub fn from_spec(spec: &Spec, idmap: Option<&IdMap>, available: Set, problems: &mut Problems) -> Option<Process> {
    let Some(process) = &spec.process else {
        problems.error("process", "is missing: there is nothing to run");
        return None;
    };
    let args = process.args.clone().unwrap_or_default();
    match args.first() {
        None => problems.error("process.args", "must not be empty"),
        Some(program) if program.is_empty() => problems.error("process.args[0]", "must not be empty"),
        Some(_) => {}
    }
    for (i, arg) in args.iter().enumerate() {
        problems.no_nul(format!("process.args[{i}]"), arg);
    }
    let cwd = process.cwd.clone();
    if !cwd.is_absolute() {
        problems.error("process.cwd", format!("must be an absolute path, is {cwd:?}"));
    }
    problems.no_nul("process.cwd", &cwd.to_string_lossy());
    let user = &process.user;
    let additional_gids = user.additional_gids().clone().unwrap_or_default();
    if let Some(idmap) = idmap {
        check_mapped(idmap, user.uid(), user.gid(), &additional_gids, problems);
    }
    let umask = user.umask().unwrap_or(DEFAULT_UMASK);
    if umask > 0o777 {
        problems.error("process.user.umask", format!("must be at most 0777 (511), is {umask}"));
    }
    let oom_score_adj = process.oom_score_adj;
    if let Some(score) = oom_score_adj
        && !(-1000..=1000).contains(&score)
    {
        problems.error("process.oomScoreAdj", format!("must be from -1000 to 1000, is {score}"));
    }
    let terminal = process.terminal.unwrap_or(false);
    let console_size = process.console_size.as_ref().filter(|_| terminal).and_then(|size| {
        let side = |name: &str, value: u64, problems: &mut Problems| {
            u16::try_from(value)
                .map_err(|_| problems.error(format!("process.consoleSize.{name}"), "must be below 65536"))
        };
        Some((side("height", size.height(), problems).ok()?, side("width", size.width(), problems).ok()?))
    });
    let capabilities = capabilities::from_spec(process, available, problems);
    let no_new_privileges = process.no_new_privileges.unwrap_or(false);
    Some(Process {
        env: environment(process.env.as_deref().unwrap_or_default(), problems),
        rlimits: rlimits(process.rlimits.as_deref().unwrap_or_default(), problems),
        capabilities_after_execve: capabilities::after_execve(&capabilities, user.uid(), no_new_privileges),
        capabilities,
        scheduling: scheduling::from_spec(process, spec.linux.as_ref().unwrap_or(&Linux::default()), problems),
        args,
        cwd,
        terminal,
        console_size: console_size.filter(|(rows, columns)| *rows != 0 && *columns != 0),
        uid: user.uid(),
        gid: user.gid(),
        additional_gids,
        keeps_groups: false,
        umask,
        no_new_privileges,
        apparmor_profile: label("apparmorProfile", process.apparmor_profile.as_ref(), problems),
        selinux_label: label("selinuxLabel", process.selinux_label.as_ref(), problems),
        oom_score_adj,
    })
}

fn label(member: &str, value: Option<&String>, problems: &mut Problems) -> Option<String> {
    let value = value.filter(|value| !value.is_empty())?;
    problems.no_nul(format!("process.{member}"), value);
    Some(value.clone())
}

/// setresuid(2) and its kin answer EINVAL for an id without a mapping; say which.
fn check_mapped(idmap: &IdMap, uid: u32, gid: u32, groups: &[u32], problems: &mut Problems) {
    let mut check = |at: String, ranges: &[Range], id: u32, name: &str| {
        if !ranges.is_empty() && to_host(ranges, id).is_none() {
            problems.error(at, format!("{id} has no mapping in linux.{name}"));
        }
    };
    check("process.user.uid".into(), &idmap.uid, uid, "uidMappings");
    check("process.user.gid".into(), &idmap.gid, gid, "gidMappings");
    for (i, group) in groups.iter().enumerate() {
        check(format!("process.user.additionalGids[{i}]"), &idmap.gid, *group, "gidMappings");
    }
}

fn environment(entries: &[String], problems: &mut Problems) -> Vec<String> {
    for (i, entry) in entries.iter().enumerate() {
        let at = format!("process.env[{i}]");
        problems.no_nul(&at, entry);
        match entry.split_once('=') {
            None => problems.error(at, format!("must be NAME=VALUE, is {entry:?}")),
            Some(("", _)) => problems.error(at, "has an empty name"),
            Some(_) => {}
        }
    }
    // The last of several entries with one name wins, in its place, as in runc.
    let name = |entry: &String| entry.split('=').next().unwrap_or_default().to_string();
    let mut seen = BTreeSet::new();
    let mut kept: Vec<String> = entries.iter().rev().filter(|entry| seen.insert(name(entry))).cloned().collect();
    kept.reverse();
    kept
}

fn rlimits(entries: &[PosixRlimit], problems: &mut Problems) -> Vec<Rlimit> {
    let mut limits: Vec<Rlimit> = Vec::with_capacity(entries.len());
    for (i, entry) in entries.iter().enumerate() {
        let name = entry.typ().to_string();
        let limit = Rlimit { resource: resource(entry.typ()), soft: entry.soft(), hard: entry.hard(), name };
        if limit.soft > limit.hard {
            problems.error(
                format!("process.rlimits[{i}].soft"),
                format!("{} is above the hard limit {}", limit.soft, limit.hard),
            );
        }
        if limits.iter().any(|other| other.resource == limit.resource) {
            problems.error(format!("process.rlimits[{i}].type"), format!("a second {}; each type once", limit.name));
        }
        limits.push(limit);
    }
    limits
}

fn resource(kind: PosixRlimitType) -> libc::c_uint {
    use PosixRlimitType as T;
    match kind {
        T::RlimitCpu => libc::RLIMIT_CPU,
        T::RlimitFsize => libc::RLIMIT_FSIZE,
        T::RlimitData => libc::RLIMIT_DATA,
        T::RlimitStack => libc::RLIMIT_STACK,
        T::RlimitCore => libc::RLIMIT_CORE,
        T::RlimitRss => libc::RLIMIT_RSS,
        T::RlimitNproc => libc::RLIMIT_NPROC,
        T::RlimitNofile => libc::RLIMIT_NOFILE,
        T::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        T::RlimitAs => libc::RLIMIT_AS,
        T::RlimitLocks => libc::RLIMIT_LOCKS,
        T::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        T::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        T::RlimitNice => libc::RLIMIT_NICE,
        T::RlimitRtprio => libc::RLIMIT_RTPRIO,
        T::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

/// Where a program without a slash is looked for: `PATH` of the process, in order.
pub fn search_path(env: &[String]) -> impl Iterator<Item = &Path> {
    env.iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or_default()
        .split(':')
        .map(|directory| if directory.is_empty() { Path::new(".") } else { Path::new(directory) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(process: serde_json::Value) -> (Option<Process>, Vec<String>) {
        let spec: Spec =
            serde_json::from_value(serde_json::json!({"ociVersion": "1.0.0", "process": process})).unwrap();
        let mut problems = Problems::default();
        let idmap = IdMap {
            uid: vec![Range { container: 0, host: 1000, size: 10 }],
            gid: vec![Range { container: 0, host: 1000, size: 10 }],
        };
        let process = from_spec(&spec, Some(&idmap), Set(u64::MAX), &mut problems);
        (process, problems.errors.iter().map(|p| p.path.clone()).collect())
    }

    #[test]
    fn every_fault_is_found_in_one_go() {
        let (_, errors) = plan(serde_json::json!({
            "user": {"uid": 10, "gid": 11, "additionalGids": [1, 12], "umask": 512},
            "args": [], "cwd": "home", "env": ["A", "=b"], "oomScoreAdj": 1001,
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1},
                {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1}
            ]
        }));
        for path in [
            "process.args",
            "process.cwd",
            "process.user.uid",
            "process.user.gid",
            "process.user.additionalGids[1]",
            "process.user.umask",
            "process.oomScoreAdj",
            "process.env[0]",
            "process.env[1]",
            "process.rlimits[0].soft",
            "process.rlimits[1].type",
        ] {
            assert!(errors.iter().any(|e| e == path), "{path} in {errors:?}");
        }
        assert_eq!(errors.len(), 11, "{errors:?}");
    }

    #[test]
    fn the_last_of_equal_names_wins_in_its_place() {
        let (process, _) = plan(serde_json::json!({
            "user": {"uid": 0, "gid": 0}, "args": ["x"], "cwd": "/", "env": ["A=1", "B=2", "A=3"]
        }));
        assert_eq!(process.unwrap().env, ["B=2", "A=3"]);
    }

    #[test]
    fn the_search_path_keeps_its_order_and_an_empty_part_is_the_cwd() {
        let env = ["PATH=/a::/b".to_string()];
        assert_eq!(search_path(&env).collect::<Vec<_>>(), [Path::new("/a"), Path::new("."), Path::new("/b")]);
    }
}
