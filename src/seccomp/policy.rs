// SPDX-License-Identifier: Apache-2.0
//! What a profile means, without BPF: for each architecture the system call numbers cut into ranges, each with a
//! decision. [`Policy::decide`] is the reference that emitted programs are tested against.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeSet;

/// What the kernel does with a call, seccomp(2) "Filter return values".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    KillProcess,
    KillThread,
    Trap,
    Errno(u16),
    Notify,
    /// The tracer sees the number as the event's message.
    Trace(u16),
    Log,
    Allow,
}

impl Action {
    /// The filter's return value.
    pub fn code(self) -> u32 {
        match self {
            Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Action::Trap => libc::SECCOMP_RET_TRAP,
            Action::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
            Action::Notify => libc::SECCOMP_RET_USER_NOTIF,
            Action::Trace(message) => libc::SECCOMP_RET_TRACE | u32::from(message),
            Action::Log => libc::SECCOMP_RET_LOG,
            Action::Allow => libc::SECCOMP_RET_ALLOW,
        }
    }

    /// Lower is stricter (`ACTION_ONLY` of `seccomp_run_filters`, kernel/seccomp.c). Numbers do not count.
    fn strictness(self) -> u8 {
        match self {
            Action::KillProcess => 0,
            Action::KillThread => 1,
            Action::Trap => 2,
            Action::Errno(_) => 3,
            Action::Notify => 4,
            Action::Trace(_) => 5,
            Action::Log => 6,
            Action::Allow => 7,
        }
    }

    /// What the kernel does if one filter answers `older` and one that was loaded after it `newer`: the stricter
    /// action, and of two alike the newer's number, since the kernel asks the newest filter first.
    pub fn strictest(older: Action, newer: Action) -> Action {
        if older.beats(newer) { older } else { newer }
    }

    /// Whether an older filter's answer counts before a newer one's.
    pub fn beats(self, newer: Action) -> bool {
        self.strictness() < newer.strictness()
    }
}

/// What in a profile led to an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The entry of `linux.seccomp.syscalls` with this index.
    Entry(usize),
    /// `defaultAction`: no entry applies.
    Default,
    /// The number is above that of every call the profile names.
    Newer,
    /// The architecture is not in the profile.
    Unlisted,
    /// The number is -1, which is no call.
    Skipped,
}

/// A comparison of an argument with the condition's value, unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// The argument's bits in the mask equal the value, which has no others.
    Masked(u64),
}

/// One test of one argument. `index` is 0..=5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    pub index: u8,
    pub test: Test,
    pub value: u64,
}

impl Condition {
    fn matches(self, args: &[u64; 6], wide: bool) -> bool {
        let arg = args.get(usize::from(self.index)).map_or(0, |&arg| if wide { arg } else { arg & LOW });
        match self.test {
            Test::Eq => arg == self.value,
            Test::Ne => arg != self.value,
            Test::Lt => arg < self.value,
            Test::Le => arg <= self.value,
            Test::Gt => arg > self.value,
            Test::Ge => arg >= self.value,
            Test::Masked(mask) => arg & mask == self.value,
        }
    }

    /// The condition on an architecture whose arguments have 32 bits, and in its simplest form.
    pub fn narrowed(self, wide: bool) -> Condition {
        let limit = if wide { u64::MAX } else { LOW };
        let value = self.value & limit;
        match self.test {
            Test::Masked(mask) if mask & limit == limit => Condition { test: Test::Eq, value, ..self },
            Test::Masked(mask) => Condition { test: Test::Masked(mask & limit), value: value & mask, ..self },
            _ => Condition { value, ..self },
        }
    }

    /// Where the condition stands in the order in which rules are tried; see [`Bound::order`].
    pub fn rank(self) -> (Reverse<u8>, u8, u64, u8, u64) {
        let (class, value, kind, mask) = match self.test {
            Test::Eq => (0, !self.value, 0, 0),
            Test::Masked(mask) => (0, !self.value, 1, !mask),
            Test::Ne => (0, !self.value, 2, 0),
            Test::Lt => (1, self.value, 0, 0),
            Test::Le => (1, self.value, 1, 0),
            Test::Gt => (2, !self.value, 0, 0),
            Test::Ge => (2, !self.value, 1, 0),
        };
        (Reverse(self.index), class, value, kind, mask)
    }

    /// The values that pass as an interval, a mask with its value, and a hole.
    fn set(self) -> (u64, u64, u64, u64, Option<u64>) {
        match self.test {
            Test::Eq => (self.value, self.value, 0, 0, None),
            Test::Ne => (0, u64::MAX, 0, 0, Some(self.value)),
            // An empty interval for "below zero" and "above the maximum".
            Test::Lt => self.value.checked_sub(1).map_or((1, 0, 0, 0, None), |last| (0, last, 0, 0, None)),
            Test::Le => (0, self.value, 0, 0, None),
            Test::Gt => self.value.checked_add(1).map_or((1, 0, 0, 0, None), |first| (first, u64::MAX, 0, 0, None)),
            Test::Ge => (self.value, u64::MAX, 0, 0, None),
            Test::Masked(mask) => (0, u64::MAX, mask, self.value, None),
        }
    }

    /// Whether some value of the argument passes both.
    fn meets(self, other: Condition, wide: bool) -> bool {
        let (a, b) = (self.set(), other.set());
        let (low, high) = (a.0.max(b.0), a.1.min(b.1).min(if wide { u64::MAX } else { LOW }));
        if (a.3 ^ b.3) & a.2 & b.2 != 0 {
            return false;
        }
        let mut next = first_masked(low, a.2 | b.2, a.3 | b.3);
        // There are at most two holes to step over.
        for _ in 0..3 {
            match next {
                Some(value) if value > high => return false,
                Some(value) if Some(value) == a.4 || Some(value) == b.4 => {
                    next = value.checked_add(1).and_then(|low| first_masked(low, a.2 | b.2, a.3 | b.3));
                }
                found => return found.is_some(),
            }
        }
        false
    }
}

pub(super) const LOW: u64 = 0xffff_ffff;

/// The smallest number from `low` on whose bits in `mask` equal `value`.
pub(super) fn first_masked(low: u64, mask: u64, value: u64) -> Option<u64> {
    if low & mask == value {
        return Some(low);
    }
    // It keeps low's bits above some bit i, sets bit i, which low has not, and is as small as it can be below.
    (0..64).find_map(|i| {
        let bit = 1_u64 << i;
        let above = !(bit | (bit - 1));
        let fits = low & bit == 0 && (mask & bit == 0 || value & bit != 0) && (low ^ value) & mask & above == 0;
        fits.then_some(low & above | bit | value & (bit - 1))
    })
}

/// A rule for one system call on one architecture: the action is taken if all conditions hold.
#[derive(Debug, Clone)]
pub struct Bound {
    pub conditions: Vec<Condition>,
    pub action: Action,
    /// The index in `linux.seccomp.syscalls`.
    pub origin: usize,
    /// The conditions are as the profile states them: neither cut to 32 bits nor aimed at a multiplexer.
    pub exact: bool,
}

impl PartialEq for Bound {
    fn eq(&self, other: &Self) -> bool {
        self.action == other.action && self.conditions == other.conditions
    }
}

impl Bound {
    /// The order in which rules with different actions are tried: the highest argument first; then `==`, `!=` and masks
    /// before `<`, `<=` before `>`, `>=`; then the larger value, for `<` the smaller; the rule with fewer conditions
    /// before one that continues it. It is libseccomp's, on which profiles in use were tested.
    pub fn order(&self, other: &Bound) -> Ordering {
        self.conditions.iter().map(|c| c.rank()).cmp(other.conditions.iter().map(|c| c.rank()))
    }

    /// Whether some arguments match both rules.
    pub fn overlaps(&self, other: &Bound, wide: bool) -> bool {
        self.conditions.iter().all(|a| {
            let partner = other.conditions.iter().find(|b| a.index == b.index);
            partner.is_none_or(|b| a.meets(*b, wide))
        })
    }
}

/// Rules of one system call: the first that matches decides.
#[derive(Debug, Clone, PartialEq)]
pub struct Chain {
    /// Conditions compare 64 bits, otherwise the lower 32.
    pub wide: bool,
    pub rules: Vec<Bound>,
    pub otherwise: Action,
}

#[derive(Debug, Clone)]
pub enum Decision {
    Fixed(Action, Reason),
    Rules(Box<Chain>),
    /// What both say, as of two filters of which the second was loaded later. Only in intersections.
    Both(Box<(Decision, Decision)>),
}

/// Decisions are equal if they answer alike, for whatever reason: a program has one place for both.
impl PartialEq for Decision {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Decision::Fixed(a, _), Decision::Fixed(b, _)) => a == b,
            (Decision::Rules(a), Decision::Rules(b)) => a == b,
            (Decision::Both(a), Decision::Both(b)) => a == b,
            _ => false,
        }
    }
}

impl Decision {
    /// The action for a call with these arguments, and why.
    pub fn decide(&self, args: &[u64; 6]) -> (Action, Reason) {
        match self {
            Decision::Fixed(action, reason) => (*action, *reason),
            Decision::Rules(chain) => chain
                .hit(args)
                .and_then(|rule| chain.rules.get(rule))
                .map_or((chain.otherwise, Reason::Default), |rule| (rule.action, Reason::Entry(rule.origin))),
            Decision::Both(both) => {
                let (older, newer) = (both.0.decide(args), both.1.decide(args));
                if older.0.beats(newer.0) { older } else { newer }
            }
        }
    }

    /// The decision of two filters together.
    fn intersect(&self, newer: &Decision) -> Decision {
        match (self, newer) {
            (Decision::Fixed(older, reason), Decision::Fixed(action, _)) if older.beats(*action) => {
                Decision::Fixed(*older, *reason)
            }
            (Decision::Fixed(..), Decision::Fixed(..)) => newer.clone(),
            (Decision::Fixed(older, reason), Decision::Rules(chain)) => {
                chain.mapped(*reason, |action| Action::strictest(*older, action))
            }
            (Decision::Rules(chain), Decision::Fixed(action, reason)) => {
                chain.mapped(*reason, |older| Action::strictest(older, *action))
            }
            _ => Decision::Both(Box::new((self.clone(), newer.clone()))),
        }
    }

    /// The chains in it.
    pub fn chains(&self) -> Vec<&Chain> {
        match self {
            Decision::Fixed(..) => Vec::new(),
            Decision::Rules(chain) => vec![chain],
            Decision::Both(both) => both.0.chains().into_iter().chain(both.1.chains()).collect(),
        }
    }
}

/// System call numbers from `start` to the next range's start.
#[derive(Debug, Clone)]
pub struct Range {
    pub start: u32,
    pub decision: Decision,
}

/// What happens under one `seccomp_data.arch`. The ranges begin at 0 and ascend. Neighbours differ, unless the policy was
/// lowered to tell reasons apart.
#[derive(Debug, Clone)]
pub struct Machine {
    pub audit: u32,
    pub ranges: Vec<Range>,
}

#[derive(Debug, Clone)]
pub struct Policy {
    /// The native one first.
    pub machines: Vec<Machine>,
}

/// What the filter sees of a call: `struct seccomp_data` without the instruction pointer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Data {
    pub arch: u32,
    pub number: u32,
    pub args: [u64; 6],
}

impl Policy {
    /// The action for a call of an architecture that the profile does not list, as in libseccomp.
    pub const BAD_ARCH: Action = Action::KillThread;

    /// The action for a call.
    pub fn decide(&self, data: &Data) -> Action {
        self.explain(data).0
    }

    /// The action for a call, and why. The reason is the right one only if the policy was lowered to tell them apart.
    pub fn explain(&self, data: &Data) -> (Action, Reason) {
        let decision = self.decision(data.arch, data.number);
        decision.map_or((Self::BAD_ARCH, Reason::Unlisted), |decision| decision.decide(&data.args))
    }

    /// The policy of two filters together, `newer` having been loaded later: for every call the kernel's answer to both
    /// (seccomp(2), "Seccomp BPF filter return values").
    #[must_use]
    pub fn intersect(&self, newer: &Policy) -> Policy {
        let bad = Decision::Fixed(Self::BAD_ARCH, Reason::Unlisted);
        let audits = self.machines.iter().chain(&newer.machines).map(|machine| machine.audit);
        let mut machines: Vec<Machine> = Vec::new();
        for audit in audits {
            if machines.iter().any(|machine| machine.audit == audit) {
                continue;
            }
            let both = [self, newer].map(|policy| policy.machines.iter().find(|machine| machine.audit == audit));
            let starts: BTreeSet<u32> =
                both.iter().flatten().flat_map(|machine| &machine.ranges).map(|range| range.start).collect();
            let mut ranges: Vec<Range> = Vec::with_capacity(starts.len());
            for start in starts {
                let [older, later] = [self, newer].map(|policy| policy.decision(audit, start).unwrap_or(&bad));
                let decision = older.intersect(later);
                if ranges.last().is_none_or(|last| last.decision != decision) {
                    ranges.push(Range { start, decision });
                }
            }
            machines.push(Machine { audit, ranges });
        }
        Policy { machines }
    }

    /// The decision on a number. None if the architecture is not listed.
    pub fn decision(&self, audit: u32, number: u32) -> Option<&Decision> {
        let machine = self.machines.iter().find(|machine| machine.audit == audit)?;
        let range = machine.ranges.partition_point(|range| range.start <= number).checked_sub(1)?;
        machine.ranges.get(range).map(|range| &range.decision)
    }
}

impl Chain {
    /// The decision with every action replaced; fixed, for `reason`, if they become one.
    fn mapped(&self, reason: Reason, f: impl Fn(Action) -> Action) -> Decision {
        let mut chain = self.clone();
        chain.otherwise = f(chain.otherwise);
        chain.rules.iter_mut().for_each(|rule| rule.action = f(rule.action));
        if chain.rules.iter().all(|rule| rule.action == chain.otherwise) {
            return Decision::Fixed(chain.otherwise, reason);
        }
        Decision::Rules(Box::new(chain))
    }

    /// The action for a call with these arguments.
    pub fn decide(&self, args: &[u64; 6]) -> Action {
        self.hit(args).and_then(|rule| self.rules.get(rule)).map_or(self.otherwise, |rule| rule.action)
    }

    /// The index of the rule that decides, if any matches.
    pub fn hit(&self, args: &[u64; 6]) -> Option<usize> {
        self.rules.iter().position(|rule| rule.conditions.iter().all(|c| c.matches(args, self.wide)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_conditions_meet_exactly_if_a_small_value_passes_both() {
        // 4-bit values in the upper bits of 32, so that the interval ends and the mask test all matter.
        let tests = [Test::Eq, Test::Ne, Test::Lt, Test::Le, Test::Gt, Test::Ge, Test::Masked(5), Test::Masked(10)];
        let all = |f: &mut dyn FnMut(Condition)| {
            for test in tests {
                for value in 0..16 {
                    let value = if let Test::Masked(mask) = test { value & mask } else { value };
                    f(Condition { index: 0, test, value });
                }
            }
        };
        // All larger numbers behave like those from 1 << 20 on.
        let domain: Vec<u64> = (0..18).chain(1 << 20..(1 << 20) + 18).chain([LOW]).collect();
        all(&mut |a| {
            all(&mut |b| {
                let expected = domain.iter().any(|&v| {
                    let args = [v, 0, 0, 0, 0, 0];
                    a.matches(&args, false) && b.matches(&args, false)
                });
                assert_eq!(a.meets(b, false), expected, "{a:?} {b:?}");
            });
        });
    }
}
