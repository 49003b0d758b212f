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
pub mod diff;
pub mod docker;
pub mod explain;
pub mod lint;
pub mod listing;
pub mod lower;
pub mod policy;
pub mod profile;
pub mod simulate;
mod table;
pub mod words;

use std::path::PathBuf;

use oci_spec::runtime::LinuxSeccomp;
use serde::{Deserialize, Serialize, Serializer};

use crate::plan::problem::Problems;
use arch::Arch;
use policy::{Action, Policy};
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
    /// Without duplicates. An absent `flags` member asks for [`FilterFlag::SpecAllow`] where the kernel has it, so the
    /// loader may drop that one on EINVAL.
    pub flags: Vec<FilterFlag>,
    /// `listenerPath` and `listenerMetadata`.
    pub listener: Option<Listener>,
    /// The program can answer SECCOMP_RET_USER_NOTIF: it must be loaded with SECCOMP_FILTER_FLAG_NEW_LISTENER, or
    /// these calls fail with ENOSYS. Then `listener` is there.
    pub notifies: bool,
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
    let (profile, program) = stages(native, section, problems)?;
    let notifies = program.iter().any(|i| i.code == simulate::RETURN && i.k == Action::Notify.code());
    Some(Compiled { program, flags: profile.flags, listener: profile.listener, notifies })
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
    let (profile, program) = stages(native, section, problems)?;
    let apart = lower::lower_apart(&profile);
    Some(Examined { profile, apart, program })
}

fn stages(native: Arch, section: &LinuxSeccomp, problems: &mut Problems) -> Option<(Profile, Vec<Instruction>)> {
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
    Some((profile, program))
}

/// An instruction is 16 hexadecimal digits: code, jt, jf, k as in `struct sock_filter`.
fn words<S: Serializer>(program: &[Instruction], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Words {
        instructions: usize,
        words: String,
    }
    let words: Vec<String> =
        program.iter().map(|i| format!("{:04x}{:02x}{:02x}{:08x}", i.code, i.jt, i.jf, i.k)).collect();
    Words { instructions: program.len(), words: words.join(" ") }.serialize(serializer)
}

#[cfg(test)]
mod tests;
