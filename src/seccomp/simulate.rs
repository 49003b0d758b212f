// SPDX-License-Identifier: Apache-2.0
//! The classic BPF machine, as far as seccomp admits it (`seccomp_check_filter`, kernel/seccomp.c) and orlop emits it.

use seccompiler::sock_filter;

use super::policy::Data;

/// What a program did with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The filter's return value: action and data.
    pub code: u32,
    /// Instructions executed, the return included.
    pub executed: u32,
    /// The answer may depend on arguments. If not, the kernel does not run the filter for this number again
    /// (`seccomp_is_const_allow`).
    pub reads_arguments: bool,
}

// linux/bpf_common.h, class and operation in one.
pub const LOAD: u16 = 0x20;
pub const AND: u16 = 0x54;
pub const JUMP: u16 = 0x05;
pub const IF_EQ: u16 = 0x15;
pub const IF_GT: u16 = 0x25;
pub const IF_GE: u16 = 0x35;
pub const IF_SET: u16 = 0x45;
pub const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`, bytes.
pub const NUMBER: u32 = 0;
pub const ARCH: u32 = 4;

/// Runs a program on a call. None if it leaves the program or `seccomp_data`, or has an instruction not named above:
/// the kernel would refuse it.
pub fn run(program: &[sock_filter], data: &Data) -> Option<Outcome> {
    let mut accumulator = 0;
    let mut at = 0_usize;
    let mut executed = 0;
    let mut reads_arguments = false;
    loop {
        let instruction = program.get(at)?;
        let k = instruction.k;
        executed += 1;
        let jump = |condition: bool| usize::from(if condition { instruction.jt } else { instruction.jf });
        at += 1 + match instruction.code {
            LOAD => {
                accumulator = load(data, k)?;
                reads_arguments |= k > ARCH;
                0
            }
            AND => {
                accumulator &= k;
                0
            }
            JUMP => usize::try_from(k).ok()?,
            IF_EQ => jump(accumulator == k),
            IF_GT => jump(accumulator > k),
            IF_GE => jump(accumulator >= k),
            IF_SET => jump(accumulator & k != 0),
            RETURN => return Some(Outcome { code: k, executed, reads_arguments }),
            _ => return None,
        };
    }
}

/// A word of `struct seccomp_data`. Nothing reads the instruction pointer.
fn load(data: &Data, offset: u32) -> Option<u32> {
    match offset {
        NUMBER => Some(data.number),
        ARCH => Some(data.arch),
        _ if offset.is_multiple_of(4) => {
            let word = usize::try_from(offset.checked_sub(16)? / 4).ok()?;
            let arg = data.args.get(word / 2)?;
            let half = if word % 2 == 0 { arg & 0xffff_ffff } else { arg >> 32 };
            u32::try_from(half).ok()
        }
        _ => None,
    }
}
