// SPDX-License-Identifier: Apache-2.0
//! Compares what two profiles mean: for every region of calls on which they differ, one call that shows it.

use std::collections::{BTreeMap, BTreeSet};

use super::arch::{Arch, X32_BIT};
use super::cells::{self, TooMany};
use super::policy::{Action, Condition, Decision, Policy, Reason};

/// Calls that two profiles answer differently: those of one system call that the same entries decide in both, a run of
/// numbers without names, or everything of an architecture that one of them does not list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub arch: Arch,
    /// The lowest and the highest number of the region; the witness has the lowest.
    pub first: u32,
    pub last: u32,
    /// Those of the witness.
    pub args: [u64; 6],
    /// The region is a part of the calls with this number: it depends on arguments.
    pub by_arguments: bool,
    pub a: (Action, Reason),
    pub b: (Action, Reason),
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Diff {
    pub differences: Vec<Difference>,
    /// System calls whose conditions are too many to compare, see [`cells::MOST`].
    pub unknown: Vec<(Arch, u32)>,
}

/// The architecture that a number belongs to under an audit value.
fn owner(audit: u32, number: u32) -> Option<Arch> {
    let x32 = number & X32_BIT != 0 && number != u32::MAX;
    Arch::ALL
        .into_iter()
        .find(|arch| arch.audit() == audit && (*arch == Arch::X32) == (x32 && audit == Arch::X86_64.audit()))
}

/// Compares two policies that were lowered to tell reasons apart; only the calls of `only`, if it is given.
pub fn diff(a: &Policy, b: &Policy, only: Option<Arch>) -> Diff {
    let mut diff = Diff::default();
    let audits: BTreeSet<u32> = a.machines.iter().chain(&b.machines).map(|machine| machine.audit).collect();
    for audit in audits {
        // Between two starts neither policy tells numbers apart. The x32 gate is a start if either has the machine.
        let of = |policy: &Policy| -> Vec<u32> {
            let machine = policy.machines.iter().find(|machine| machine.audit == audit);
            machine.into_iter().flat_map(|machine| &machine.ranges).map(|range| range.start).collect()
        };
        let starts: BTreeSet<u32> = of(a).into_iter().chain(of(b)).collect();
        let ends = starts.iter().skip(1).map(|start| start - 1).chain([u32::MAX]);
        for (&first, last) in starts.iter().zip(ends) {
            let Some(arch) = owner(audit, first).filter(|arch| only.is_none_or(|only| only == *arch)) else { continue };
            match compare(a.decision(audit, first), b.decision(audit, first)) {
                Ok(found) => {
                    for ((a, b), (args, by_arguments)) in found {
                        diff.add(Difference { arch, first, last, args, by_arguments, a, b });
                    }
                }
                Err(TooMany) => diff.unknown.push((arch, first)),
            }
        }
    }
    diff
}

type Answers = ((Action, Reason), (Action, Reason));

/// Where two decisions differ: a witness for each pair of answers.
fn compare(a: Option<&Decision>, b: Option<&Decision>) -> Result<BTreeMap<Answers, ([u64; 6], bool)>, TooMany> {
    let answer = |decision: Option<&Decision>, args: &[u64; 6]| {
        decision.map_or((Policy::BAD_ARCH, Reason::Unlisted), |decision| decision.decide(args))
    };
    let mut conditions: Vec<Condition> = Vec::new();
    let mut wide = true;
    for decision in [a, b].into_iter().flatten() {
        for chain in decision.chains() {
            wide = chain.wide;
            conditions.extend(chain.rules.iter().flat_map(|rule| &rule.conditions));
        }
    }
    let mut found = BTreeMap::new();
    cells::each(&conditions, wide, |args| {
        let answers = (answer(a, args), answer(b, args));
        if answers.0.0 != answers.1.0 {
            found.entry(answers).or_insert((*args, !conditions.is_empty()));
        }
    })?;
    Ok(found)
}

impl Diff {
    /// Adds a difference, or lengthens the region it belongs to.
    fn add(&mut self, new: Difference) {
        let unlisted = |d: &Difference| d.a.1 == Reason::Unlisted || d.b.1 == Reason::Unlisted;
        if unlisted(&new) {
            // Every call of the architecture differs for one reason; a line for each would bury the others.
            let same = |d: &&mut Difference| unlisted(d) && d.arch == new.arch && (d.a.0, d.b.0) == (new.a.0, new.b.0);
            if let Some(region) = self.differences.iter_mut().find(same) {
                region.last = new.last;
                return;
            }
        } else if let Some(previous) = self.differences.last_mut()
            && !previous.by_arguments
            && !new.by_arguments
            && (previous.arch, previous.a, previous.b) == (new.arch, new.a, new.b)
            && previous.last.checked_add(1) == Some(new.first)
            && [previous.first, new.first].iter().all(|&number| new.arch.call(number).is_none())
        {
            previous.last = new.last;
            return;
        }
        self.differences.push(new);
    }
}
