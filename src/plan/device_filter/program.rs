// SPDX-License-Identifier: Apache-2.0
//! Device rules as a `BPF_PROG_TYPE_CGROUP_DEVICE` program (linux/bpf.h, `struct bpf_cgroup_dev_ctx`).
//!
//! The program keeps the requested access in a register and walks the rules from the last to the first. A rule that
//! denies any of it ends the walk; a rule that allows takes its letters out, and once none is left the access is
//! allowed. So a request for "rw" is denied if the last match for "w" denies, even though that rule says nothing of
//! "r". (runc's and crun's programs skip a rule that covers only part of the request.)

use super::{Access, Kind, Rule, effective};

/// One eBPF instruction (`struct bpf_insn`), in the byte order of the host.
pub type Instruction = [u8; 8];

/// Opcodes of the kernel's Documentation/bpf/standardization/instruction-set.rst.
const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const MOVE: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const COPY: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
const AND: u8 = 0x57; // BPF_ALU64 | BPF_AND | BPF_K
const SHIFT_RIGHT: u8 = 0x77; // BPF_ALU64 | BPF_RSH | BPF_K
const JUMP_UNLESS_EQUAL: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const JUMP_IF_SET: u8 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const JUMP: u8 = 0x05; // BPF_JMP | BPF_JA
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const ACCESS: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const BPF_DEVCG_DEV_BLOCK: i32 = 1;
const BPF_DEVCG_DEV_CHAR: i32 = 2;

fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    let [o0, o1] = offset.to_ne_bytes();
    let [i0, i1, i2, i3] = immediate.to_ne_bytes();
    // A bit field of two nibbles, whose order follows the byte order.
    let registers = if cfg!(target_endian = "little") { source << 4 | destination } else { destination << 4 | source };
    [code, registers, o0, o1, i0, i1, i2, i3]
}

/// The program for the rules; `None` if they are too many for the 16 bits of a jump, some thousands.
///
/// Between two changes of verdict the order of rules does not matter, so there they are grouped by kind and major
/// number and each is compared once: the kernel's verifier takes time for every branch, on every start.
pub fn program(rules: &[Rule]) -> Option<Vec<Instruction>> {
    let mut rules = effective(rules);
    let mut otherwise = false;
    if let Some((first, rest)) = rules.split_first().filter(|(first, _)| first.is_total()) {
        // As an instruction it would make the end unreachable, which the verifier refuses.
        (otherwise, rules) = (first.allow, rest);
    }
    let mut code = vec![
        instruction(LOAD_WORD, ACCESS, CONTEXT, 0, 0),
        instruction(COPY, KIND, ACCESS, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for run in rules.chunk_by(|a, b| a.allow == b.allow).rev() {
        code.extend(by_kind(run)?);
    }
    code.push(instruction(MOVE, RESULT, 0, 0, otherwise.into()));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    Some(code)
}

/// Rules of one verdict, grouped by kind.
fn by_kind(run: &[Rule]) -> Option<Vec<Instruction>> {
    let mut run = run.to_vec();
    // "Any" last and full access after that, so that nothing follows an unconditional exit: the verifier refuses
    // instructions that cannot be reached.
    run.sort_by_key(|rule| {
        let node = rule.node;
        (node.kind, node.major.is_none(), node.major, node.minor.is_none(), node.minor, rule.access)
    });
    run.dedup();
    let mut code = Vec::new();
    for group in run.chunk_by(|a, b| a.node.kind == b.node.kind) {
        let mut inner = Vec::new();
        for group in group.chunk_by(|a, b| a.node.major == b.node.major) {
            let mut rules = Vec::new();
            for rule in group {
                rules.extend(unless(MINOR, number(rule.node.minor), verdict(rule))?);
            }
            let major = group.first().and_then(|rule| number(rule.node.major));
            inner.extend(unless(MAJOR, major, rules)?);
        }
        let kind = group.first().map_or(Kind::Any, |rule| rule.node.kind);
        code.extend(unless(KIND, kind_number(kind), inner)?);
    }
    Some(code)
}

/// Runs `then` if the register holds the value, or always if there is none.
fn unless(register: u8, value: Option<i32>, then: Vec<Instruction>) -> Option<Vec<Instruction>> {
    let Some(value) = value else { return Some(then) };
    let mut code = vec![instruction(JUMP_UNLESS_EQUAL, register, 0, i16::try_from(then.len()).ok()?, value)];
    code.extend(then);
    Some(code)
}

/// What a rule does once its node matches.
fn verdict(rule: &Rule) -> Vec<Instruction> {
    let finish = [instruction(MOVE, RESULT, 0, 0, rule.allow.into()), instruction(EXIT, 0, 0, 0, 0)];
    let bits = i32::from(rule.access.bits());
    let test: &[Instruction] = match (rule.allow, rule.access) {
        (_, Access::ALL) => &[],
        (false, _) => &[instruction(JUMP_IF_SET, ACCESS, 0, 1, bits), instruction(JUMP, 0, 0, 2, 0)],
        (true, _) => &[instruction(AND, ACCESS, 0, 0, !bits), instruction(JUMP_UNLESS_EQUAL, ACCESS, 0, 2, 0)],
    };
    [test, &finish].concat()
}

fn kind_number(kind: Kind) -> Option<i32> {
    match kind {
        Kind::Any => None,
        Kind::Block => Some(BPF_DEVCG_DEV_BLOCK),
        Kind::Character => Some(BPF_DEVCG_DEV_CHAR),
    }
}

/// Numbers are at most `LARGEST_NUMBER`, so they fit.
fn number(number: Option<u32>) -> Option<i32> {
    number.map(|n| i32::try_from(n).unwrap_or(i32::MAX))
}
