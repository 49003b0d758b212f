// SPDX-License-Identifier: Apache-2.0
//! `linux.seccomp` with every member checked and every system call looked up. What the members mean together is
//! [`super::policy`]'s business.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall};

use super::arch::{Arch, Call};
use super::policy::{Action, Condition, Test};
use super::{FilterFlag, Listener};
use crate::plan::problem::Problems;

#[derive(Debug)]
pub struct Profile {
    pub default: Action,
    /// Without duplicates, the native one first.
    pub arches: Vec<Arch>,
    pub rules: Vec<Rule>,
    pub flags: Vec<FilterFlag>,
    pub listener: Option<Listener>,
}

/// An entry of `linux.seccomp.syscalls`.
#[derive(Debug)]
pub struct Rule {
    /// The index of the entry.
    pub origin: usize,
    pub calls: Vec<Call>,
    pub conditions: Vec<Condition>,
    /// One condition suffices.
    pub any: bool,
    pub action: Action,
    /// False if the action is the default one. libseccomp drops such a rule, so that it makes no exception from
    /// another one; its names still count as known to the profile.
    pub effective: bool,
}

/// Linux' highest error number (`MAX_ERRNO`): beyond it the kernel would return another one in silence.
const MAX_ERRNO: u32 = 4095;
const EPERM: u16 = 1;

impl Profile {
    /// Checks a section for a runtime built for `native`. Faults go to `problems`; the profile is then of no use.
    pub fn from_oci(section: &LinuxSeccomp, native: Arch, problems: &mut Problems) -> Profile {
        let errno = section.default_errno_ret();
        let default = action(section.default_action(), errno, "linux.seccomp", "defaultErrnoRet", problems);
        let entries = section.syscalls().as_deref().unwrap_or_default();
        let rules = entries.iter().enumerate().map(|(i, entry)| rule(i, entry, default, problems)).collect();
        let notifies = default == Action::Notify
            || entries.iter().any(|entry| entry.action() == LinuxSeccompAction::ScmpActNotify);
        let listener = listener(section, entries, notifies, problems);
        Profile {
            default,
            arches: arches(section, native, problems),
            rules,
            flags: flags(section, notifies, problems),
            listener,
        }
    }
}

fn arches(section: &LinuxSeccomp, native: Arch, problems: &mut Problems) -> Vec<Arch> {
    // The native architecture always counts as listed: without it the container's first call would kill it.
    let mut arches = vec![native];
    for (i, &listed) in section.architectures().iter().flatten().enumerate() {
        match Arch::from_oci(listed) {
            Some(arch) if arches.contains(&arch) => {}
            // "Native" was taken to be the build's; this differs only in tests.
            Some(_) if listed == oci_spec::runtime::Arch::ScmpArchNative => {}
            Some(arch) => arches.push(arch),
            // Big-endian and other foreign ones occur in lists meant for every host. The kernel under this binary
            // never reports them, so that to leave them out changes nothing: an unlisted one is killed.
            None => problems.warn(
                format!("linux.seccomp.architectures[{i}]"),
                format!("{listed} is ignored: no kernel that runs this build of orlop has it"),
            ),
        }
    }
    arches
}

fn rule(i: usize, entry: &LinuxSyscall, default: Action, problems: &mut Problems) -> Rule {
    // The path is made only if there is something to report.
    let path = |member: &str| format!("linux.seccomp.syscalls[{i}]{member}");
    let mut calls = Vec::with_capacity(entry.names().len());
    for (n, name) in entry.names().iter().enumerate() {
        match Call::find_behind(calls.last().copied(), name) {
            Some(call) => calls.push(call),
            None => problems.warn(path(&format!(".names[{n}]")), format!("ignored: no system call is named {name:?}")),
        }
    }
    if entry.names().is_empty() {
        problems.error(path(".names"), "must name at least one system call");
    }

    let mut conditions: Vec<Condition> = Vec::new();
    let mut any = false;
    for (a, arg) in entry.args().iter().flatten().enumerate() {
        let Some(index) = u8::try_from(arg.index()).ok().filter(|&index| index <= 5) else {
            problems.error(
                path(&format!(".args[{a}].index")),
                format!("a system call has no argument {}: indices are 0 to 5", arg.index()),
            );
            continue;
        };
        let (test, value) = match arg.op() {
            LinuxSeccompOperator::ScmpCmpEq => (Test::Eq, arg.value()),
            LinuxSeccompOperator::ScmpCmpNe => (Test::Ne, arg.value()),
            LinuxSeccompOperator::ScmpCmpLt => (Test::Lt, arg.value()),
            LinuxSeccompOperator::ScmpCmpLe => (Test::Le, arg.value()),
            LinuxSeccompOperator::ScmpCmpGt => (Test::Gt, arg.value()),
            LinuxSeccompOperator::ScmpCmpGe => (Test::Ge, arg.value()),
            // Here `value` is the mask and `valueTwo` what is compared.
            LinuxSeccompOperator::ScmpCmpMaskedEq => {
                (Test::Masked(arg.value()), arg.value_two().unwrap_or(0) & arg.value())
            }
        };
        any |= conditions.iter().any(|c| c.index == index);
        conditions.push(Condition { index, test, value });
    }
    if any {
        problems.warn(
            path(".args"),
            "names an argument twice, so that any one of the conditions suffices, as in runc: a lower and an upper \
             bound together match everything",
        );
    }
    let origin = path("");
    let action = action(entry.action(), entry.errno_ret(), &origin, "errnoRet", problems);
    Rule { origin: i, calls, conditions, any, action, effective: action != default }
}

/// An action with its number. The number of an error that is out of range or not the action's to have is a fault
/// (config-linux.md#seccomp: "the runtime MUST print and error and fail").
fn action(action: LinuxSeccompAction, errno: Option<u32>, path: &str, member: &str, problems: &mut Problems) -> Action {
    // The message to a tracer is no error number and has 16 bits.
    let limit = match action {
        LinuxSeccompAction::ScmpActErrno => Some(MAX_ERRNO),
        LinuxSeccompAction::ScmpActTrace => Some(u32::from(u16::MAX)),
        _ => None,
    };
    let number = match (errno, limit) {
        (None, _) => EPERM,
        (Some(_), None) => {
            problems.error(format!("{path}.{member}"), format!("{action} returns no error number"));
            EPERM
        }
        (Some(errno), Some(limit)) => u16::try_from(errno).ok().filter(|_| errno <= limit).unwrap_or_else(|| {
            problems.error(format!("{path}.{member}"), format!("{errno} is above {limit}, the highest for {action}"));
            EPERM
        }),
    };
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => Action::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => Action::KillProcess,
        LinuxSeccompAction::ScmpActTrap => Action::Trap,
        LinuxSeccompAction::ScmpActErrno => Action::Errno(number),
        LinuxSeccompAction::ScmpActNotify => Action::Notify,
        LinuxSeccompAction::ScmpActTrace => Action::Trace(number),
        LinuxSeccompAction::ScmpActLog => Action::Log,
        LinuxSeccompAction::ScmpActAllow => Action::Allow,
    }
}

fn flags(section: &LinuxSeccomp, notifies: bool, problems: &mut Problems) -> Vec<FilterFlag> {
    let Some(listed) = section.flags() else {
        // As crun: without it every filtered process pays for the mitigation of Speculative Store Bypass on kernels
        // before 5.16, which default to it. An empty list asks for no flags.
        return vec![FilterFlag::SpecAllow];
    };
    let mut flags = Vec::new();
    for (i, &flag) in listed.iter().enumerate() {
        let flag = match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => FilterFlag::Log,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => FilterFlag::Tsync,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FilterFlag::SpecAllow,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => FilterFlag::WaitKillableRecv,
        };
        if flag == FilterFlag::WaitKillableRecv && !notifies {
            // The kernel takes it only together with a listener (seccomp(2): EINVAL).
            problems.warn(format!("linux.seccomp.flags[{i}]"), "is ignored: no system call is SCMP_ACT_NOTIFY");
        } else if !flags.contains(&flag) {
            flags.push(flag);
        }
    }
    flags
}

fn listener(
    section: &LinuxSeccomp,
    entries: &[LinuxSyscall],
    notifies: bool,
    problems: &mut Problems,
) -> Option<Listener> {
    let metadata = section.listener_metadata().clone();
    // An empty path is how generators written in Go say "none".
    let Some(path) = section.listener_path().clone().filter(|path| !path.as_os_str().is_empty()) else {
        if notifies {
            let entry = entries.iter().position(|entry| entry.action() == LinuxSeccompAction::ScmpActNotify);
            problems.error_hint(
                entry.map_or("linux.seccomp.defaultAction".into(), |i| format!("linux.seccomp.syscalls[{i}].action")),
                "SCMP_ACT_NOTIFY needs linux.seccomp.listenerPath",
                "without a listener the kernel fails each of these calls with ENOSYS",
            );
        }
        if metadata.is_some_and(|metadata| !metadata.is_empty()) {
            problems.error("linux.seccomp.listenerMetadata", "is given without listenerPath");
        }
        return None;
    };
    let fine = problems.no_nul("linux.seccomp.listenerPath", &path.to_string_lossy());
    if !notifies {
        problems.warn("linux.seccomp.listenerPath", "is not used: no system call is SCMP_ACT_NOTIFY");
    }
    fine.then_some(Listener { path, metadata })
}
