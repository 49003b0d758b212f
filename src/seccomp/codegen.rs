// SPDX-License-Identifier: Apache-2.0
//! Turns a policy into a BPF program: a search tree over the system call numbers, with seccompiler's code for the
//! conditions on arguments linked in at its leaves.
//!
//! Up to an unconditional answer a program reads the architecture and the number only, so that the kernel can find
//! out at load time which calls it need not ask about (`seccomp_cache_prepare`, kernel/seccomp.c).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use seccompiler::{BpfProgram, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule, sock_filter};

use super::policy::{Action, Chain, Condition, Data, Decision, Policy, Range, Test};
use super::simulate::{self, ARCH, IF_EQ, IF_GE, IF_GT, IF_SET, JUMP, LOAD, NUMBER, RETURN};

/// The longest program the kernel takes (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Emits the program. The error tells how many instructions it would have, or that seccompiler refused a rule.
pub fn emit(policy: &Policy) -> Result<BpfProgram, String> {
    let mut code = Reversed::default();
    let mut next = code.answer(Policy::BAD_ARCH);
    // The native architecture is tested first, so emitted last.
    for machine in policy.machines.iter().rev() {
        let tree = code.tree(&machine.ranges)?;
        let tree = code.step(LOAD, NUMBER, tree);
        next = code.branch(IF_EQ, machine.audit, tree, next);
    }
    code.step(LOAD, ARCH, next);
    let length = code.instructions.len();
    if length > MAX_INSTRUCTIONS {
        return Err(format!("needs {length} BPF instructions; the kernel takes {MAX_INSTRUCTIONS} (BPF_MAXINSNS)"));
    }
    code.instructions.reverse();
    Ok(code.instructions)
}

/// The place of an instruction, counted from the end of the program. Execution goes from higher places to lower ones.
type Place = usize;

/// Emits what follows an action.
type Leaf<'a> = dyn FnMut(&mut Reversed, Action) -> Result<Place, String> + 'a;

/// A program that grows at its front: since BPF jumps only forward, an instruction's targets exist before it does.
/// Equal instructions with equal targets are emitted once.
#[derive(Default)]
struct Reversed {
    instructions: Vec<sock_filter>,
    /// Operation, operand and the two targets.
    known: HashMap<(u16, u32, Place, Place), Place, BuildHasherDefault<Mix>>,
    /// The last copy of, or jump to, a place that conditional jumps could not reach.
    near: HashMap<Place, Place, BuildHasherDefault<Mix>>,
}

impl Reversed {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Place {
        self.instructions.push(sock_filter { code, jt, jf, k });
        self.instructions.len() - 1
    }

    fn answer(&mut self, action: Action) -> Place {
        let key = (RETURN, action.code(), 0, 0);
        if let Some(&place) = self.known.get(&key) {
            return place;
        }
        let place = self.push(RETURN, 0, 0, action.code());
        self.known.insert(key, place);
        place
    }

    /// An instruction after which execution goes on at `next`.
    fn step(&mut self, code: u16, k: u32, next: Place) -> Place {
        let key = (code, k, next, next);
        if let Some(&place) = self.known.get(&key) {
            return place;
        }
        self.reachable(next, 0);
        let place = self.push(code, 0, 0, k);
        self.known.insert(key, place);
        place
    }

    /// A conditional jump.
    fn branch(&mut self, code: u16, k: u32, yes: Place, no: Place) -> Place {
        if yes == no {
            return yes;
        }
        let key = (code, k, yes, no);
        if let Some(&place) = self.known.get(&key) {
            return place;
        }
        // What makes `yes` reachable may take `no` one further away.
        self.reachable(no, u8::MAX - 1);
        let jt = self.reachable(yes, u8::MAX);
        let jf = self.reachable(no, u8::MAX);
        let place = self.push(code, jt, jf, k);
        self.known.insert(key, place);
        place
    }

    /// The distance to `target` for an instruction that is emitted next, no more than `limit`: if need be to a copy of
    /// an answer or over a jump, which is emitted now.
    fn reachable(&mut self, target: Place, limit: u8) -> u8 {
        let distance = |from: usize, to: Place| u8::try_from(from - 1 - to).ok().filter(|&distance| distance <= limit);
        let here = self.instructions.len();
        let near = self.near.get(&target).copied().unwrap_or(target);
        if let Some(distance) = distance(here, target).or_else(|| distance(here, near)) {
            return distance;
        }
        match self.instructions.get(target) {
            Some(answer) if answer.code == RETURN => self.instructions.push(answer.clone()),
            // The distance fits, since programs have 4096 instructions; a longer one is refused in the end.
            _ => self.instructions.push(sock_filter {
                code: JUMP,
                jt: 0,
                jf: 0,
                k: u32::try_from(here - 1 - target).unwrap_or(u32::MAX),
            }),
        }
        self.near.insert(target, here);
        0
    }

    /// The decision among `ranges` by the number in the accumulator.
    fn tree(&mut self, ranges: &[Range]) -> Result<Place, String> {
        match ranges {
            [] => Ok(self.answer(Policy::BAD_ARCH)),
            [range] => self.decision(&range.decision),
            // One number that differs from its surroundings.
            [before, one, after] if after.start - one.start == 1 && before.decision == after.decision => {
                let other = self.decision(&before.decision)?;
                let one_place = self.decision(&one.decision)?;
                Ok(self.branch(IF_EQ, one.start, one_place, other))
            }
            _ => {
                let (left, right) = ranges.split_at(ranges.len() / 2);
                let start = right.first().map_or(0, |range| range.start);
                let right = self.tree(right)?;
                let left = self.tree(left)?;
                Ok(self.branch(IF_GE, start, right, left))
            }
        }
    }

    fn decision(&mut self, decision: &Decision) -> Result<Place, String> {
        self.leading_to(decision, &mut |code, action| Ok(code.answer(action)))
    }

    /// A decision that does not answer, but goes on at what `leaf` makes for each of its actions.
    fn leading_to(&mut self, decision: &Decision, leaf: &mut Leaf<'_>) -> Result<Place, String> {
        match decision {
            Decision::Fixed(action, _) => leaf(self, *action),
            Decision::Rules(chain) => {
                // Once for each action; the code behind it may be long.
                let mut places: Vec<(Action, Place)> = Vec::new();
                let mut place = |code: &mut Self, action: Action| -> Result<Place, String> {
                    if let Some((_, place)) = places.iter().find(|(known, _)| *known == action) {
                        return Ok(*place);
                    }
                    let place = leaf(code, action)?;
                    places.push((action, place));
                    Ok(place)
                };
                let mut miss = place(self, chain.otherwise)?;
                for rule in chain.rules.iter().rev() {
                    let hit = place(self, rule.action)?;
                    miss = self.conditions(&rule.conditions, chain.wide, hit, miss)?;
                }
                Ok(miss)
            }
            // Behind each answer of the older stands the newer whole, with what is less strict raised to it. Equal
            // parts are emitted once.
            Decision::Both(both) => self.leading_to(&both.0, &mut |code, older| {
                code.leading_to(&both.1, &mut |code, newer| leaf(code, Action::strictest(older, newer)))
            }),
        }
    }

    /// Links in what seccompiler makes of a rule: two jumps, which make a rule one in a list and are left out here,
    /// and the conditions. Behind these follows, one instruction long, what to do if they hold, and then what to do
    /// if not.
    fn conditions(&mut self, conditions: &[Condition], wide: bool, hit: Place, miss: Place) -> Result<Place, String> {
        let conditions: Result<Vec<_>, _> = conditions.iter().map(|c| translate(*c, wide)).collect();
        let rule = conditions.and_then(SeccompRule::new).map_err(|e| format!("seccompiler: {e}"))?;
        let block = BpfProgram::from(rule);
        let body = block.get(2..).unwrap_or_default();
        // Where each instruction of the block went, last first.
        let mut places = Vec::with_capacity(body.len() + 2);
        places.extend([miss, hit]);
        for instruction in body.iter().rev() {
            let last = places.len() - 1;
            let ahead = |distance: usize| {
                let place = last.checked_sub(distance).and_then(|i| places.get(i)).copied();
                place.ok_or_else(|| "seccompiler: a rule jumps out of its block".to_string())
            };
            let (code, k) = (instruction.code, instruction.k);
            places.push(match code {
                JUMP => ahead(usize::try_from(k).unwrap_or(usize::MAX))?,
                IF_EQ | IF_GT | IF_GE | IF_SET => {
                    let (yes, no) = (ahead(usize::from(instruction.jt))?, ahead(usize::from(instruction.jf))?);
                    self.branch(code, k, yes, no)
                }
                _ => {
                    let next = ahead(0)?;
                    self.step(code, k, next)
                }
            });
        }
        Ok(places.last().copied().unwrap_or(hit))
    }
}

fn translate(condition: Condition, wide: bool) -> Result<SeccompCondition, seccompiler::BackendError> {
    let length = if wide { SeccompCmpArgLen::Qword } else { SeccompCmpArgLen::Dword };
    let operator = match condition.test {
        Test::Eq => SeccompCmpOp::Eq,
        Test::Ne => SeccompCmpOp::Ne,
        Test::Lt => SeccompCmpOp::Lt,
        Test::Le => SeccompCmpOp::Le,
        Test::Gt => SeccompCmpOp::Gt,
        Test::Ge => SeccompCmpOp::Ge,
        Test::Masked(mask) => SeccompCmpOp::MaskedEq(mask),
    };
    SeccompCondition::new(condition.index, length, operator, condition.value)
}

/// Compares a program with its policy at both ends of every range, between which the tree tells no numbers apart, and
/// for the conditions on arguments on, below and above each value. Where none matter the program must not read any.
/// The error names the first call they disagree on.
pub fn check(policy: &Policy, program: &[sock_filter]) -> Result<(), String> {
    let compare = |data: Data, expected: Action, fixed: bool| match simulate::run(program, &data) {
        Some(outcome) if outcome.code == expected.code() && !(fixed && outcome.reads_arguments) => Ok(()),
        outcome => Err(format!("{data:x?}: the program answers {outcome:x?}, the policy {expected:?}")),
    };
    compare(Data { arch: 0, ..Data::default() }, Policy::BAD_ARCH, true)?;
    for machine in &policy.machines {
        let ends = machine.ranges.iter().skip(1).map(|range| range.start - 1).chain([u32::MAX]);
        for (range, end) in machine.ranges.iter().zip(ends) {
            let data = |number, args| Data { arch: machine.audit, number, args };
            match &range.decision {
                Decision::Fixed(action, _) => {
                    compare(data(range.start, [0; 6]), *action, true)?;
                    compare(data(end, [u64::MAX; 6]), *action, true)?;
                }
                decision => {
                    let decide = |args: &[u64; 6]| decision.decide(args).0;
                    compare(data(range.start, [0; 6]), decide(&[0; 6]), false)?;
                    let chains = decision.chains();
                    for chain in &chains {
                        chain.probe(|args| compare(data(end, args), decide(&args), false))?;
                    }
                    probe_pairs(&chains, |args| compare(data(end, args), decide(&args), false))?;
                }
            }
        }
    }
    Ok(())
}

impl Condition {
    /// A value that it lets pass.
    fn passing(&self) -> u64 {
        match self.test {
            Test::Lt => self.value.wrapping_sub(1),
            Test::Gt | Test::Ne => self.value.wrapping_add(1),
            _ => self.value,
        }
    }
}

/// Calls `try_args` with arguments that pass a rule of one chain and one of another, where they do not contradict.
fn probe_pairs(chains: &[&Chain], mut try_args: impl FnMut([u64; 6]) -> Result<(), String>) -> Result<(), String> {
    for (i, first) in chains.iter().enumerate() {
        for second in chains.iter().skip(i + 1).filter(|second| first.rules.len() * second.rules.len() <= 4096) {
            for (a, b) in first.rules.iter().flat_map(|a| second.rules.iter().map(move |b| (a, b))) {
                for [one, other] in [[a, b], [b, a]] {
                    let mut args = [0; 6];
                    for condition in one.conditions.iter().chain(&other.conditions) {
                        if let Some(arg) = args.get_mut(usize::from(condition.index)) {
                            *arg = condition.passing();
                        }
                    }
                    try_args(args)?;
                }
            }
        }
    }
    Ok(())
}

impl Chain {
    /// Calls `try_args` with arguments on either side of every condition, those without one being zero or not.
    fn probe(&self, mut try_args: impl FnMut([u64; 6]) -> Result<(), String>) -> Result<(), String> {
        for (rule, rest) in self.rules.iter().flat_map(|rule| [(rule, 0), (rule, 0x5a5a_a5a5_a5a5_5a5a)]) {
            let mut hit = [rest; 6];
            for condition in &rule.conditions {
                if let Some(arg) = hit.get_mut(usize::from(condition.index)) {
                    *arg = condition.passing();
                }
            }
            try_args(hit)?;
            // The effort grows with the square; see `Lowering::overlaps`.
            let thorough = self.rules.len() <= 64;
            for condition in rule.conditions.iter().filter(|_| thorough) {
                let value = condition.value;
                let near = [value.wrapping_sub(1), value, value.wrapping_add(1), value ^ (1 << 32), !value];
                // A mask is tested bit by bit.
                let mask = if let Test::Masked(mask) = condition.test { mask } else { 0 };
                let bits = (0..64).map(|i| 1_u64 << i).filter(|bit| mask & bit != 0).map(|bit| value ^ bit);
                for other in near.into_iter().chain(bits).chain([value | !mask]) {
                    let mut args = hit;
                    if let Some(arg) = args.get_mut(usize::from(condition.index)) {
                        *arg = other;
                    }
                    try_args(args)?;
                }
            }
        }
        Ok(())
    }
}

/// A hasher for the small tables above: the standard one is made to resist attacks, which the limit on a program's
/// length rules out, and takes a third of the whole compilation.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u16(&mut self, word: u16) {
        self.write_u64(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn finish(&self) -> u64 {
        // The table picks its slot by the low bits, which multiplication mixes worst.
        self.0.rotate_left(26)
    }
}
