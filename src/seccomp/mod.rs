// SPDX-License-Identifier: Apache-2.0
//! Compiles `linux.seccomp` to a BPF program. Pure: it makes no system call and loads nothing.
//!
//! ```text
//!  LinuxSeccomp ──profile──▶ Profile ──lower──▶ Policy ──codegen──▶ program
//!            members checked        meaning settled │                 │
//!                                                   └───▶ check ◀─────┘ simulate
//! ```
//!
//! The meaning of a profile is libseccomp's where profiles in use depend on it, and what the specification says where
//! libseccomp has defects; each such place says so.

pub mod arch;
pub mod cells;
pub mod codegen;
pub mod denials;
pub mod diff;
pub mod docker;
pub mod explain;
pub mod lint;
pub mod listing;
pub mod lower;
pub mod policy;
pub mod profile;
pub mod record;
pub mod simulate;
mod table;
pub mod words;

use std::path::PathBuf;

use oci_spec::runtime::LinuxSeccomp;
use serde::{Deserialize, Serialize, Serializer};

use crate::plan::problem::{Problem, Problems};
use arch::Arch;
use policy::{Action, Data, Policy};
use profile::Profile;

/// One BPF instruction, laid out as the kernel's `struct sock_filter`.
pub type Instruction = seccompiler::sock_filter;

/// A filter ready to be loaded.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compiled {
    /// 1 to 4096 instructions, for `struct sock_fprog`. A process may load it only with no_new_privs or CAP_SYS_ADMIN
    /// (seccomp(2)).
    #[serde(serialize_with = "words")]
    pub program: Vec<Instruction>,
    /// Filters to be loaded before it, in this order: those of stacked profiles whose intersection is too long for one
    /// program. Each lets seccomp(2) pass and none notifies.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "all_words")]
    pub before: Vec<Vec<Instruction>>,
    /// Without duplicates. An absent `flags` member asks for [`FilterFlag::SpecAllow`] where the kernel has it, so the
    /// loader may drop that one on EINVAL.
    pub flags: Vec<FilterFlag>,
    /// `listenerPath` and `listenerMetadata`.
    pub listener: Option<Listener>,
    /// The program can answer SECCOMP_RET_USER_NOTIF: it must be loaded with SECCOMP_FILTER_FLAG_NEW_LISTENER, or
    /// these calls fail with ENOSYS. Then `listener` is there.
    pub notifies: bool,
}

impl Compiled {
    /// The runtime itself answers for the calls that the filter notifies.
    pub fn is_watched(&self) -> bool {
        self.notifies && self.listener.is_none()
    }

    /// Whether one of these system calls, by their numbers on this machine, would end the process (for some arguments,
    /// perhaps not for those of 0 that are tried here).
    pub fn ends_for(&self, calls: &[libc::c_long]) -> bool {
        let ends = |program: &[Instruction], call: libc::c_long| {
            let Ok(number) = u32::try_from(call) else { return false };
            let data = Data { arch: Arch::NATIVE.audit(), number, args: [0; 6] };
            let code = simulate::run(program, &data).map_or(libc::SECCOMP_RET_KILL_PROCESS, |outcome| outcome.code);
            let action = code & libc::SECCOMP_RET_ACTION_FULL;
            [libc::SECCOMP_RET_KILL_PROCESS, libc::SECCOMP_RET_KILL_THREAD, libc::SECCOMP_RET_TRAP].contains(&action)
        };
        let mut programs = self.before.iter().chain([&self.program]);
        programs.any(|program| calls.iter().any(|call| ends(program, *call)))
    }
}

/// A flag of seccomp(2), named as in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum FilterFlag {
    #[serde(rename = "SECCOMP_FILTER_FLAG_LOG")]
    Log,
    #[serde(rename = "SECCOMP_FILTER_FLAG_SPEC_ALLOW")]
    SpecAllow,
    #[serde(rename = "SECCOMP_FILTER_FLAG_TSYNC")]
    Tsync,
    #[serde(rename = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")]
    WaitKillableRecv,
}

impl FilterFlag {
    /// The bit in seccomp(2)'s `flags`, linux/seccomp.h.
    pub fn bit(self) -> u32 {
        match self {
            FilterFlag::Tsync => 1,
            FilterFlag::Log => 1 << 1,
            FilterFlag::SpecAllow => 1 << 2,
            FilterFlag::WaitKillableRecv => 1 << 5,
        }
    }
}

/// Who answers for the calls with SCMP_ACT_NOTIFY.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// A Unix socket.
    pub path: PathBuf,
    /// Passed on as it is.
    pub metadata: Option<String>,
}

/// Compiles `linux.seccomp` (config-linux.md#seccomp) for the architecture orlop was built for. Faults and warnings go
/// to `problems` with their JSON paths; None if there was a fault.
pub fn compile(section: &LinuxSeccomp, problems: &mut Problems) -> Option<Compiled> {
    compile_for(Arch::NATIVE, section, problems)
}

/// [`compile`] for a kernel of the architecture `native`.
fn compile_for(native: Arch, section: &LinuxSeccomp, problems: &mut Problems) -> Option<Compiled> {
    let (profile, _, program) = stages(native, section, problems)?;
    let notifies = notifies(&program);
    Some(Compiled { program, before: Vec::new(), flags: profile.flags, listener: profile.listener, notifies })
}

/// Compiles profiles that hold together, the first one being the first to be loaded (an operator's before the bundle's):
/// for every call the verdict is what the kernel makes of separate filters, which is the strictest, and of two alike that
/// of the later profile. Faults of all but the last profile have paths that begin with `stack[N]`. None if there was a
/// fault, or no profile.
pub fn compile_stacked(profiles: &[&LinuxSeccomp], problems: &mut Problems) -> Option<Compiled> {
    stack(Arch::NATIVE, profiles, codegen::MAX_INSTRUCTIONS, problems)
}

/// [`compile_stacked`] for a kernel that takes programs of `limit` instructions.
fn stack(native: Arch, profiles: &[&LinuxSeccomp], limit: usize, problems: &mut Problems) -> Option<Compiled> {
    if let [only] = profiles {
        return compile_for(native, only, problems);
    }
    let faults = problems.errors.len();
    let mut members = Vec::with_capacity(profiles.len());
    for (i, section) in profiles.iter().enumerate() {
        let mut own = Problems::default();
        members.push(stages(native, section, &mut own));
        for (to, problem) in [(&mut problems.errors, own.errors), (&mut problems.warnings, own.warnings)] {
            to.extend(
                problem
                    .into_iter()
                    .map(|problem| Problem { path: member_path(&problem.path, i, profiles.len()), ..problem }),
            );
        }
    }
    let members: Vec<_> = members.into_iter().collect::<Option<_>>()?;
    let (last, earlier) = members.split_last()?;
    let listeners: Vec<usize> = (0..).zip(&members).filter(|(_, m)| notifies(&m.2)).map(|(i, _)| i).collect();
    if let [first, second, ..] = listeners.as_slice() {
        let path = |member| member_path("linux.seccomp", member, members.len());
        problems.error(
            path(*second),
            format!("SCMP_ACT_NOTIFY is in {} too, and a process can have one listener only", path(*first)),
        );
        return None;
    }
    let mut compiled = Compiled {
        program: Vec::new(),
        before: Vec::new(),
        flags: flags(&members),
        listener: listeners.first().and_then(|i| members.get(*i)).and_then(|m| m.0.listener.clone()),
        notifies: false,
    };
    let merged = earlier
        .iter()
        .rev()
        .fold(None, |newer: Option<Policy>, member| Some(member.1.intersect(newer.as_ref().unwrap_or(&last.1))))?;
    match codegen::emit(&merged) {
        Ok(program) if program.len() <= limit => {
            if let Err(e) = codegen::check(&merged, &program) {
                problems.error("linux.seccomp", format!("the merged filter is not what the profiles say, a bug: {e}"));
                return None;
            }
            compiled.program = program;
        }
        // Too long for one program: the kernel combines them for every call, at the price of executing them all.
        _ => {
            for (i, (_, _, program)) in earlier.iter().enumerate() {
                let path = member_path("linux.seccomp", i, members.len());
                if notifies(program) {
                    problems.error(
                        path,
                        "with SCMP_ACT_NOTIFY it must be merged with the others, which is too long for one filter",
                    );
                } else if !lets_load(native, program) {
                    problems.error_hint(
                        path,
                        "must allow seccomp(2), since the profiles are too long together for one filter",
                        "or the next one cannot be loaded",
                    );
                }
            }
            compiled.before = earlier.iter().map(|member| member.2.clone()).collect();
            compiled.program = last.2.clone();
        }
    }
    compiled.notifies = notifies(&compiled.program);
    (problems.errors.len() == faults).then_some(compiled)
}

/// The path of a problem in profile number `i` of `count`.
fn member_path(path: &str, i: usize, count: usize) -> String {
    match path.strip_prefix("linux.seccomp") {
        Some(rest) if i + 1 < count => format!("stack[{i}]{rest}"),
        _ => path.to_string(),
    }
}

/// The flags of one filter in the place of several: it logs if one does, and is without the mitigation of Speculative
/// Store Bypass only if all are.
fn flags(members: &[(Profile, Policy, Vec<Instruction>)]) -> Vec<FilterFlag> {
    let mut flags = Vec::new();
    for flag in members.iter().flat_map(|member| &member.0.flags) {
        let everywhere = members.iter().all(|member| member.0.flags.contains(flag));
        if !flags.contains(flag) && (everywhere || *flag != FilterFlag::SpecAllow) {
            flags.push(*flag);
        }
    }
    flags
}

fn notifies(program: &[Instruction]) -> bool {
    program.iter().any(|i| i.code == simulate::RETURN && i.k == Action::Notify.code())
}

/// Whether a process with this filter can load another one: `SECCOMP_SET_MODE_FILTER`, whatever the flags.
fn lets_load(native: Arch, program: &[Instruction]) -> bool {
    let number = arch::Call::find("seccomp").and_then(|call| native.number(call)).unwrap_or(u32::MAX);
    let passes = [Action::Allow.code(), Action::Log.code()];
    [0, 1, 4, 8, 0x20].into_iter().all(|flags| {
        // The last argument is an address.
        let data = Data { arch: native.audit(), number, args: [1, flags, 0x7fff_ffff_0000, 0, 0, 0] };
        simulate::run(program, &data).is_some_and(|outcome| passes.contains(&outcome.code))
    })
}

/// A profile with everything that compiling made of it, for those who ask about it.
#[derive(Debug)]
pub struct Examined {
    pub profile: Profile,
    /// Lowered to tell reasons apart, so it is not the one that the program was emitted from.
    pub apart: Policy,
    pub program: Vec<Instruction>,
}

/// [`compile`] for a kernel of the architecture `native`, keeping the intermediate results.
pub fn examine(native: Arch, section: &LinuxSeccomp, problems: &mut Problems) -> Option<Examined> {
    let (profile, _, program) = stages(native, section, problems)?;
    let apart = lower::lower_apart(&profile);
    Some(Examined { profile, apart, program })
}

fn stages(
    native: Arch,
    section: &LinuxSeccomp,
    problems: &mut Problems,
) -> Option<(Profile, Policy, Vec<Instruction>)> {
    let before = problems.errors.len();
    let profile = Profile::from_oci(section, native, problems);
    if problems.errors.len() > before {
        return None;
    }
    let policy = lower::lower(&profile, problems);
    if problems.errors.len() > before {
        return None;
    }
    let program = match codegen::emit(&policy) {
        Ok(program) => program,
        Err(e) => {
            problems.error("linux.seccomp", e);
            return None;
        }
    };
    // A miscompiled filter would be a hole that nobody sees, and to look costs microseconds.
    if let Err(e) = codegen::check(&policy, &program) {
        problems.error("linux.seccomp", format!("the compiled filter is not what the profile says, a bug: {e}"));
        return None;
    }
    Some((profile, policy, program))
}

/// An instruction is 16 hexadecimal digits: code, jt, jf, k as in `struct sock_filter`.
#[derive(Serialize)]
struct Words {
    instructions: usize,
    words: String,
}

impl Words {
    fn of(program: &[Instruction]) -> Self {
        let words: Vec<String> =
            program.iter().map(|i| format!("{:04x}{:02x}{:02x}{:08x}", i.code, i.jt, i.jf, i.k)).collect();
        Self { instructions: program.len(), words: words.join(" ") }
    }
}

fn words<S: Serializer>(program: &[Instruction], serializer: S) -> Result<S::Ok, S::Error> {
    Words::of(program).serialize(serializer)
}

fn all_words<S: Serializer>(programs: &[Vec<Instruction>], serializer: S) -> Result<S::Ok, S::Error> {
    programs.iter().map(|program| Words::of(program)).collect::<Vec<_>>().serialize(serializer)
}

#[cfg(test)]
mod tests;
