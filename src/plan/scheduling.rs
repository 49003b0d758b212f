// SPDX-License-Identifier: Apache-2.0
//! How the kernel runs the process: `process.scheduler`, `process.ioPriority`, `process.execCPUAffinity`,
//! `linux.personality` and `linux.memoryPolicy`.

use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxIOPriority, LinuxPersonality, LinuxPersonalityDomain, MemoryPolicyFlagType,
    MemoryPolicyModeType,
};
use serde::Serialize;

use super::config::{self, Process};
use super::problem::Problems;

/// `struct sched_attr` of sched_setattr(2), without its size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Scheduler {
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    /// Nanoseconds, as `deadline` and `period`.
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// The memory policy of set_mempolicy(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryPolicy {
    /// `MPOL_*` mode and flags.
    pub mode: u32,
    /// Bit N of word N / 64 for node N.
    pub nodes: Vec<u64>,
}

/// Everything of this kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Scheduling {
    pub scheduler: Option<Scheduler>,
    /// The value of ioprio_set(2): class << 13 | level.
    pub io_priority: Option<u32>,
    /// The processors for `exec`, before and after it enters the container: bit N of word N / 64 for processor N.
    pub exec_affinity: (Option<Vec<u64>>, Option<Vec<u64>>),
    /// The value of personality(2).
    pub personality: Option<u64>,
    pub memory_policy: Option<MemoryPolicy>,
}

const SCHED_OTHER: u32 = 0;
const SCHED_FIFO: u32 = 1;
const SCHED_RR: u32 = 2;
const SCHED_BATCH: u32 = 3;
const SCHED_IDLE: u32 = 5;
const SCHED_DEADLINE: u32 = 6;

const POLICIES: [(&str, u32); 6] = [
    ("SCHED_OTHER", SCHED_OTHER),
    ("SCHED_FIFO", SCHED_FIFO),
    ("SCHED_RR", SCHED_RR),
    ("SCHED_BATCH", SCHED_BATCH),
    ("SCHED_IDLE", SCHED_IDLE),
    ("SCHED_DEADLINE", SCHED_DEADLINE),
];

const FLAGS: [(&str, u64); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

/// Reads all of them.
pub fn from_spec(process: &Process, linux: &Linux, problems: &mut Problems) -> Scheduling {
    let affinity = process.exec_cpu_affinity.as_ref();
    let mut cpus = |member: &str, list: Option<&String>| {
        let list = list.filter(|list| !list.is_empty())?;
        bits(&format!("process.execCPUAffinity.{member}"), list, problems)
    };
    let exec_affinity = (
        cpus("initial", affinity.and_then(|a| a.initial.as_ref())),
        cpus("final", affinity.and_then(|a| a.last.as_ref())),
    );
    Scheduling {
        scheduler: process.scheduler.as_ref().map(|s| scheduler(s, problems)),
        io_priority: process.io_priority.as_ref().map(|p| io_priority(p, problems)),
        exec_affinity,
        personality: linux.personality().as_ref().map(|p| personality(p, problems)),
        memory_policy: linux.memory_policy().as_ref().map(|p| {
            let nodes = p.nodes().as_deref().unwrap_or_default();
            let nodes = if nodes.is_empty() { None } else { bits("linux.memoryPolicy.nodes", nodes, problems) };
            memory_policy(p.mode(), p.flags().as_deref().unwrap_or_default(), nodes.unwrap_or_default(), problems)
        }),
    }
}

/// config.md#process: nice is for SCHED_OTHER and SCHED_BATCH, priority for SCHED_FIFO and SCHED_RR, the three times for
/// SCHED_DEADLINE.
fn scheduler(spec: &config::Scheduler, problems: &mut Problems) -> Scheduler {
    let at = |member: &str| format!("process.scheduler.{member}");
    let policy = POLICIES.iter().find(|(name, _)| *name == spec.policy).map(|(_, number)| *number);
    if policy.is_none() {
        let known: Vec<&str> = POLICIES.iter().map(|(name, _)| *name).collect();
        problems.error(at("policy"), format!("unknown value {:?}, expected {}", spec.policy, known.join(", ")));
    }
    let policy = policy.unwrap_or(SCHED_OTHER);
    let mut flags = 0;
    for (i, name) in spec.flags.iter().flatten().enumerate() {
        // The specification's name for the first flag lacks the FLAG of the kernel's.
        let wanted = if name == "SCHED_RESET_ON_FORK" { "SCHED_FLAG_RESET_ON_FORK" } else { name };
        match FLAGS.iter().find(|(known, _)| *known == wanted) {
            Some((_, bit)) => flags |= bit,
            None => problems.error(format!("{}[{i}]", at("flags")), format!("unknown flag {name:?}")),
        }
    }
    let nice = spec.nice.unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        problems.error(at("nice"), format!("must be from -20 to 19, is {nice}"));
    }
    if nice != 0 && ![SCHED_OTHER, SCHED_BATCH].contains(&policy) {
        problems.error(at("nice"), format!("is for SCHED_OTHER and SCHED_BATCH, not {}", spec.policy));
    }
    let priority = spec.priority.unwrap_or(0);
    let real_time = [SCHED_FIFO, SCHED_RR].contains(&policy);
    if real_time && !(1..=99).contains(&priority) {
        problems.error(at("priority"), format!("must be from 1 to 99, is {priority}"));
    } else if priority != 0 && !real_time {
        problems.error(at("priority"), format!("is for SCHED_FIFO and SCHED_RR, not {}", spec.policy));
    }
    for (member, value) in [("runtime", spec.runtime), ("deadline", spec.deadline), ("period", spec.period)] {
        if value.unwrap_or(0) != 0 && policy != SCHED_DEADLINE {
            problems.error(at(member), format!("is for SCHED_DEADLINE, not {}", spec.policy));
        }
    }
    Scheduler {
        policy,
        flags,
        nice,
        priority: u32::try_from(priority).unwrap_or(0),
        runtime: spec.runtime.unwrap_or(0),
        deadline: spec.deadline.unwrap_or(0),
        period: spec.period.unwrap_or(0),
    }
}

fn io_priority(spec: &LinuxIOPriority, problems: &mut Problems) -> u32 {
    let class = match spec.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = u32::try_from(spec.priority()).ok().filter(|level| *level <= 7);
    if level.is_none() {
        problems.error("process.ioPriority.priority", format!("must be from 0 to 7, is {}", spec.priority()));
    }
    class << 13 | level.unwrap_or(0)
}

fn personality(spec: &LinuxPersonality, problems: &mut Problems) -> u64 {
    for (i, flag) in spec.flags().iter().flatten().enumerate() {
        // config-linux.md#personality: "Currently no flag values are supported".
        problems.error(format!("linux.personality.flags[{i}]"), format!("{flag:?}: no flag is defined"));
    }
    match spec.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }
}

fn memory_policy(
    mode: MemoryPolicyModeType,
    flags: &[MemoryPolicyFlagType],
    nodes: Vec<u64>,
    problems: &mut Problems,
) -> MemoryPolicy {
    use MemoryPolicyModeType as Mode;
    let number = match mode {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let bits = flags.iter().fold(0, |bits, flag| {
        bits | match flag {
            MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
            MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
            MemoryPolicyFlagType::MpolFStaticNodes => 1_u32 << 15,
        }
    });
    let needs_nodes = !matches!(mode, Mode::MpolDefault | Mode::MpolLocal | Mode::MpolPreferred);
    if needs_nodes && nodes.is_empty() {
        problems.error("linux.memoryPolicy.nodes", format!("must not be empty for {mode}"));
    }
    if matches!(mode, Mode::MpolDefault | Mode::MpolLocal) && !nodes.is_empty() {
        problems.error("linux.memoryPolicy.nodes", format!("must be empty for {mode}"));
    }
    MemoryPolicy { mode: number | bits, nodes }
}

/// A list such as `0-3,7` (the "List format" of cpuset(7)) as a bit set.
fn bits(at: &str, list: &str, problems: &mut Problems) -> Option<Vec<u64>> {
    let mut words: Vec<u64> = Vec::new();
    for part in list.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = first.trim().parse::<usize>().ok().zip(last.trim().parse::<usize>().ok());
        // 8192 is the most processors that Linux can be built for.
        let Some((first, last)) = range.filter(|(first, last)| first <= last && *last < 8192) else {
            problems.error(at, format!("{list:?} is no list such as \"0-3,7\""));
            return None;
        };
        for number in first..=last {
            if words.len() <= number / 64 {
                words.resize(number / 64 + 1, 0);
            }
            if let Some(word) = words.get_mut(number / 64) {
                *word |= 1 << (number % 64);
            }
        }
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(process: serde_json::Value, linux: serde_json::Value) -> (Scheduling, Vec<String>) {
        let mut json = serde_json::json!({"user": {"uid": 0, "gid": 0}, "cwd": "/"});
        json.as_object_mut().unwrap().extend(process.as_object().unwrap().clone());
        let process: Process = serde_json::from_value(json).unwrap();
        let linux: Linux = serde_json::from_value(linux).unwrap();
        let mut problems = Problems::default();
        let scheduling = from_spec(&process, &linux, &mut problems);
        (scheduling, problems.errors.iter().map(|p| p.path.clone()).collect())
    }

    #[test]
    fn each_policy_takes_its_own_members_only() {
        for (scheduler, faults) in [
            (serde_json::json!({"policy": "SCHED_BATCH", "nice": 5, "flags": ["SCHED_FLAG_DL_OVERRUN"]}), &[][..]),
            (serde_json::json!({"policy": "SCHED_FIFO", "priority": 10, "flags": ["SCHED_RESET_ON_FORK"]}), &[]),
            (serde_json::json!({"policy": "SCHED_FIFO"}), &["priority"]),
            (serde_json::json!({"policy": "SCHED_RR", "priority": 1, "nice": 1}), &["nice"]),
            (serde_json::json!({"policy": "SCHED_OTHER", "priority": 1, "runtime": 1}), &["priority", "runtime"]),
            (serde_json::json!({"policy": "SCHED_OTHER", "nice": 20}), &["nice"]),
            (serde_json::json!({"policy": "SCHED_ISO", "flags": ["X"]}), &["policy", "flags[0]"]),
        ] {
            let (_, found) = plan(serde_json::json!({"scheduler": scheduler}), serde_json::json!({}));
            let expected: Vec<String> = faults.iter().map(|f| format!("process.scheduler.{f}")).collect();
            assert_eq!(found, expected, "{scheduler}");
        }
    }

    #[test]
    fn lists_become_bit_sets() {
        let mut problems = Problems::default();
        assert_eq!(bits("x", "0-2,64", &mut problems), Some(vec![7, 1]));
        for list in ["", "a", "3-1", "1,", "8192"] {
            assert_eq!(bits("x", list, &mut problems), None, "{list}");
        }
    }

    #[test]
    fn io_priority_personality_and_memory_policy() {
        let (found, faults) = plan(
            serde_json::json!({"ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 3}}),
            serde_json::json!({"personality": {"domain": "LINUX32"},
                "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}}),
        );
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(found.io_priority, Some(3 << 13 | 3));
        assert_eq!(found.personality, Some(8));
        assert_eq!(found.memory_policy, Some(MemoryPolicy { mode: 1 << 15 | 2, nodes: vec![1] }));
        let (_, faults) = plan(
            serde_json::json!({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8},
                "execCPUAffinity": {"initial": "x"}}),
            serde_json::json!({"personality": {"domain": "LINUX", "flags": ["F"]}, "memoryPolicy": {"mode": "MPOL_BIND"}}),
        );
        assert_eq!(
            faults,
            [
                "process.execCPUAffinity.initial",
                "process.ioPriority.priority",
                "linux.personality.flags[0]",
                "linux.memoryPolicy.nodes"
            ]
        );
    }
}
