// SPDX-License-Identifier: Apache-2.0
//! Prints a program as assembler, in the form of libseccomp's `scmp_bpf_disasm`, with what it compares spelt out.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::Instruction;
use super::arch::Arch;
use super::simulate::{AND, ARCH, IF_EQ, IF_GE, IF_GT, IF_SET, JUMP, LOAD, NUMBER, RETURN};
use crate::error::errno_name;

/// What the accumulator can hold when an instruction is reached: a word of `struct seccomp_data`, under an audit value if
/// that was compared before.
type Context = (Option<u32>, Option<u32>);

/// The program, an instruction a line.
pub fn listing(program: &[Instruction]) -> String {
    // BPF jumps forward only, so one pass meets every way to an instruction before the instruction.
    let mut contexts: Vec<BTreeSet<Context>> = vec![BTreeSet::new(); program.len()];
    let mut text = String::from(" line  code jt   jf   k\n");
    contexts.iter_mut().take(1).for_each(|first| *first = BTreeSet::from([(None, None)]));
    for (at, instruction) in program.iter().enumerate() {
        let here = contexts.get(at).cloned().unwrap_or_default();
        let Instruction { code, jt, jf, k } = instruction.clone();
        let target = |distance: u8| at + 1 + usize::from(distance);
        let mut reach = |to: usize, with: &mut dyn FnMut(Context) -> Context| {
            if let Some(there) = contexts.get_mut(to) {
                there.extend(here.iter().map(|context| with(*context)));
            }
        };
        let (operation, comment) = match code {
            LOAD => {
                reach(at + 1, &mut |(_, audit)| (Some(k), audit));
                (format!("ld  [{k}]"), field(k))
            }
            AND => {
                reach(at + 1, &mut |context| context);
                (format!("and {k:#x}"), String::new())
            }
            JUMP => {
                let to = usize::try_from(k).map_or(usize::MAX, |k| (at + 1).saturating_add(k));
                reach(to, &mut |context| context);
                (format!("jmp {to:04}"), String::new())
            }
            IF_EQ | IF_GT | IF_GE | IF_SET => {
                let word = match code {
                    IF_EQ => "jeq",
                    IF_GT => "jgt",
                    IF_GE => "jge",
                    _ => "jset",
                };
                reach(target(jt), &mut |(held, audit)| {
                    (held, if code == IF_EQ && held == Some(ARCH) { Some(k) } else { audit })
                });
                reach(target(jf), &mut |context| context);
                (format!("{word} {k:#x} true:{:04} false:{:04}", target(jt), target(jf)), compared(&here, k))
            }
            RETURN => (format!("ret {}", answer(k)), String::new()),
            _ => ("?".to_string(), String::new()),
        };
        // Writing to a String cannot fail.
        let _infallible = match comment.as_str() {
            "" => writeln!(text, " {at:04}: 0x{code:02x} 0x{jt:02x} 0x{jf:02x} 0x{k:08x}  {operation}"),
            comment => {
                writeln!(text, " {at:04}: 0x{code:02x} 0x{jt:02x} 0x{jf:02x} 0x{k:08x}  {operation:<36} ; {comment}")
            }
        };
    }
    text
}

/// The member of `struct seccomp_data` at an offset.
fn field(offset: u32) -> String {
    match offset {
        NUMBER => "nr".into(),
        ARCH => "arch".into(),
        8 | 12 => "instruction_pointer".into(),
        _ => {
            format!(
                "args[{}], {} half",
                offset.saturating_sub(16) / 8,
                if offset.is_multiple_of(8) { "lower" } else { "upper" }
            )
        }
    }
}

/// What the constant of a comparison stands for.
fn compared(contexts: &BTreeSet<Context>, k: u32) -> String {
    let mut names = BTreeSet::new();
    for (held, audit) in contexts {
        match held {
            Some(ARCH) => {
                let arches: Vec<&str> =
                    Arch::ALL.into_iter().filter(|arch| arch.audit() == k).map(|arch| arch.name()).collect();
                names.insert(arches.join(", "));
            }
            Some(NUMBER) => {
                let arches = Arch::ALL.into_iter().filter(|arch| Some(arch.audit()) == *audit);
                names.extend(arches.filter_map(|arch| Some(format!("{} {}", arch.name(), arch.call(k)?.name()))));
            }
            _ => {}
        }
    }
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// A return value as profiles and strace spell it.
fn answer(code: u32) -> String {
    let data = u16::try_from(code & libc::SECCOMP_RET_DATA).unwrap_or(0);
    match code & libc::SECCOMP_RET_ACTION_FULL {
        libc::SECCOMP_RET_KILL_PROCESS => "KILL_PROCESS".into(),
        libc::SECCOMP_RET_KILL_THREAD => "KILL_THREAD".into(),
        libc::SECCOMP_RET_TRAP => "TRAP".into(),
        libc::SECCOMP_RET_ERRNO => format!("ERRNO({})", errno_name(data)),
        libc::SECCOMP_RET_USER_NOTIF => "NOTIFY".into(),
        libc::SECCOMP_RET_TRACE => format!("TRACE({data})"),
        libc::SECCOMP_RET_LOG => "LOG".into(),
        libc::SECCOMP_RET_ALLOW => "ALLOW".into(),
        other => format!("{other:#x}"),
    }
}

impl super::policy::Action {
    /// The action as profiles spell it, without `SCMP_ACT_`: `ERRNO(EPERM)`.
    pub fn text(self) -> String {
        answer(self.code())
    }
}
