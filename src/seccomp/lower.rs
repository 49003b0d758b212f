// SPDX-License-Identifier: Apache-2.0
//! Turns a profile into a policy: finds the rules of each system call number on each architecture, settles which of
//! them counts, and tells of those that cannot do what they say.

use std::collections::BTreeSet;

use super::arch::{ARM_PRIVATE, Arch, Call, X32_BIT};
use super::policy::{Action, Bound, Chain, Condition, Decision, Machine, Policy, Range, Reason, Test};
use super::profile::{Profile, Rule};
use crate::plan::problem::Problems;

/// Turns a profile into a policy. Contradictions become faults, rules that cannot do what they say warnings.
pub fn lower(profile: &Profile, problems: &mut Problems) -> Policy {
    lower_with(profile, problems, true)
}

/// [`lower`], with a range for each reason instead of the fewest: the policy answers alike, and tells why. What there is
/// to report [`lower`] has reported.
pub fn lower_apart(profile: &Profile) -> Policy {
    lower_with(profile, &mut Problems::default(), false)
}

fn lower_with(profile: &Profile, problems: &mut Problems, merge: bool) -> Policy {
    let mut lowering =
        Lowering { profile, problems, merge, reported: BTreeSet::new(), contradictions: BTreeSet::new() };
    let mut machines: Vec<Machine> = Vec::with_capacity(profile.arches.len());
    for &arch in &profile.arches {
        if machines.iter().all(|machine| machine.audit != arch.audit()) {
            machines.push(Machine { audit: arch.audit(), ranges: lowering.machine(arch.audit()) });
        }
    }
    lowering.dropped();
    Policy { machines }
}

struct Lowering<'a> {
    profile: &'a Profile,
    problems: &'a mut Problems,
    /// Neighbouring numbers with equal decisions share a range.
    merge: bool,
    /// Pairs of entries already reported, which would recur for each name and architecture.
    reported: BTreeSet<(usize, usize)>,
    contradictions: BTreeSet<(usize, usize)>,
}

/// A number that a call of a rule has. Sorting brings those of a number together, in the profile's order.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Hit {
    number: u32,
    /// The index in `profile.rules`.
    rule: u32,
    call: Call,
    /// The number is a multiplexer's.
    multiplexed: bool,
}

impl Lowering<'_> {
    fn machine(&mut self, audit: u32) -> Vec<Range> {
        let mut ranges = Vec::with_capacity(256);
        if audit == Arch::X86_64.audit() {
            // The kernel tells x32 from x86_64 by a bit of the number alone, so without this gate x32 numbers would
            // pass between the rules of a list that denies.
            for (arch, start, end) in [(Arch::X86_64, 0, X32_BIT), (Arch::X32, X32_BIT, u32::MAX)] {
                if self.profile.arches.contains(&arch) {
                    self.segment(arch, start, end, &mut ranges);
                } else {
                    push(&mut ranges, start, Decision::Fixed(Policy::BAD_ARCH, Reason::Unlisted), self.merge);
                }
            }
        } else if let Some(&arch) = self.profile.arches.iter().find(|arch| arch.audit() == audit) {
            self.segment(arch, 0, u32::MAX, &mut ranges);
        }
        // A tracer sets the number to -1 to skip a call (ptrace(2)): neither x32 nor newer than the profile.
        push(&mut ranges, u32::MAX, Decision::Fixed(self.profile.default, Reason::Skipped), self.merge);
        ranges
    }

    /// The numbers from `start` to before `end`, which belong to `arch`.
    fn segment(&mut self, arch: Arch, start: u32, end: u32, ranges: &mut Vec<Range>) {
        let profile = self.profile;
        let mut hits = Vec::with_capacity(512);
        let mut newest = None;
        for (rule, index) in profile.rules.iter().zip(0..) {
            for &call in &rule.calls {
                let number = arch.number(call);
                if number.is_some_and(|number| arch.in_sequence(number)) {
                    newest = newest.max(number);
                }
                if rule.effective {
                    let mut hit = |number, multiplexed| hits.push(Hit { number, rule: index, call, multiplexed });
                    number.into_iter().for_each(|number| hit(number, false));
                    arch.multiplexed(call).into_iter().for_each(|(number, _)| hit(number, true));
                }
            }
        }
        hits.sort_unstable();

        // A call newer than every name in the profile gets ENOSYS, whatever the default, so that a C library falls back
        // to an older one instead of failing (runc's "enosys" stub). Permissive defaults leave it to the kernel.
        let newer = match newest {
            Some(newest) if !matches!(profile.default, Action::Allow | Action::Log | Action::Trace(_)) => newest + 1,
            _ => end,
        };
        let merge = self.merge;
        let sequence_end = if arch == Arch::Arm { ARM_PRIVATE } else { end };
        let gap = |ranges: &mut Vec<Range>, from: u32, to: u32| {
            for (first, last, action, reason) in [
                (from, to.min(newer), profile.default, Reason::Default),
                (from.max(newer), to.min(sequence_end), Action::Errno(ENOSYS), Reason::Newer),
                (from.max(newer).max(sequence_end), to, profile.default, Reason::Default),
            ] {
                if first < last {
                    push(ranges, first, Decision::Fixed(action, reason), merge);
                }
            }
        };
        let mut next = start;
        for group in hits.chunk_by(|a, b| a.number == b.number) {
            let Some(number) = group.first().map(|hit| hit.number) else { continue };
            gap(ranges, next, number);
            let decision = self.decision(arch, group);
            push(ranges, number, decision, merge);
            next = number + 1;
        }
        gap(ranges, next, end);
    }

    /// What the rules of one number amount to.
    fn decision(&mut self, arch: Arch, hits: &[Hit]) -> Decision {
        let profile = self.profile;
        let rule = |hit: &Hit| usize::try_from(hit.rule).ok().and_then(|index| profile.rules.get(index));
        if let [hit @ Hit { multiplexed: false, .. }] = hits
            && let Some(rule) = rule(hit)
            && rule.conditions.is_empty()
        {
            return Decision::Fixed(rule.action, Reason::Entry(rule.origin));
        }
        let wide = arch.is_64();
        let mut rules: Vec<Bound> = Vec::new();
        for hit in hits {
            let subcode = arch.multiplexed(hit.call).filter(|_| hit.multiplexed).map(|(_, subcode)| subcode);
            if let Some(rule) = rule(hit) {
                bind(rule, subcode, wide, &mut rules);
            }
        }
        let name = hits.first().map_or("", |hit| hit.call.name());
        // A rule without conditions beats all that have some, wherever it stands; of two the first one counts.
        if let Some(rule) = rules.iter().find(|rule| rule.conditions.is_empty()) {
            for other in rules.iter().filter(|other| other.exact && other.action != rule.action) {
                self.report(rule, other, |rule| {
                    format!("never applies to {name}: syscalls[{rule}] decides it whatever the arguments are")
                });
            }
            return Decision::Fixed(rule.action, Reason::Entry(rule.origin));
        }
        for hit in hits.iter().filter(|hit| hit.multiplexed) {
            let Some(rule) = rule(hit).filter(|rule| rule.conditions.iter().any(|c| c.index == 0)) else { continue };
            if self.reported.insert((rule.origin, rule.origin)) {
                self.problems.warn(
                    format!("linux.seccomp.syscalls[{}].args", rule.origin),
                    format!(
                        "the condition on argument 0 of {} does not bind the same call made through socketcall(2) or \
                         ipc(2) on {arch:?}, where that argument is the subcode",
                        hit.call.name()
                    ),
                );
            }
        }
        rules.sort_by(Bound::order);
        rules.dedup_by(|later, first| {
            let same = later.conditions == first.conditions;
            if same && later.action != first.action {
                self.contradict(first, later, name);
            }
            same
        });
        self.overlaps(&rules, wide, name);
        Decision::Rules(Box::new(Chain { wide, rules, otherwise: self.profile.default }))
    }

    /// Two rules with the same conditions and different actions. If the conditions became the same by cutting or
    /// multiplexing, the profile is not to blame and the first rule counts.
    fn contradict(&mut self, first: &Bound, later: &Bound, name: &str) {
        if first.exact && later.exact && self.contradictions.insert((first.origin, later.origin)) {
            self.problems.error(
                format!("linux.seccomp.syscalls[{}]", later.origin),
                format!("has the same conditions for {name} as syscalls[{}] but another action", first.origin),
            );
        }
    }

    /// Warns of rules with different actions that can match the same call.
    fn overlaps(&mut self, rules: &[Bound], wide: bool, name: &str) {
        // The pairs grow with the square; a profile with more rules for one call was not written by hand.
        if rules.len() > 64 || rules.iter().all(|rule| rules.first().is_some_and(|first| first.action == rule.action)) {
            return;
        }
        for (i, winner) in rules.iter().enumerate() {
            for loser in rules.iter().skip(i + 1) {
                if winner.action != loser.action && winner.exact && loser.exact && winner.overlaps(loser, wide) {
                    self.report(winner, loser, |winner| {
                        format!("overlaps with syscalls[{winner}] for {name}; where both match, that one decides")
                    });
                }
            }
        }
    }

    fn report(&mut self, winner: &Bound, loser: &Bound, message: impl Fn(usize) -> String) {
        if self.reported.insert((winner.origin, loser.origin)) {
            self.problems.warn(format!("linux.seccomp.syscalls[{}]", loser.origin), message(winner.origin));
        }
    }

    /// Warns of entries that were dropped for having the default action although another entry covers the call.
    fn dropped(&mut self) {
        let profile = self.profile;
        if profile.rules.iter().all(|rule| rule.effective) {
            return;
        }
        let mut owner: [Option<usize>; Call::COUNT] = [None; Call::COUNT];
        for rule in profile.rules.iter().filter(|rule| rule.effective) {
            for call in &rule.calls {
                if let Some(slot) = owner.get_mut(call.index()) {
                    slot.get_or_insert(rule.origin);
                }
            }
        }
        for rule in profile.rules.iter().filter(|rule| !rule.effective) {
            let covered = rule.calls.iter().find_map(|c| Some((c, owner.get(c.index()).copied().flatten()?)));
            if let Some((call, owner)) = covered {
                self.problems.warn(
                    format!("linux.seccomp.syscalls[{}]", rule.origin),
                    format!(
                        "is ignored, since its action is the default one; it makes no exception from syscalls[{owner}] \
                         for {}",
                        call.name()
                    ),
                );
            }
        }
    }
}

const ENOSYS: u16 = 38;

/// The rules that an entry is for one number: one, or one for each condition if they are alternatives. A multiplexer's
/// `subcode` takes the place of what the entry demands of argument 0.
fn bind(rule: &Rule, subcode: Option<Condition>, wide: bool, rules: &mut Vec<Bound>) {
    let all = rule.conditions.as_slice();
    let mut add = |written: &[Condition]| {
        let mut conditions = Vec::with_capacity(written.len() + 1);
        let mut exact = subcode.is_none();
        for condition in written.iter().filter(|c| subcode.is_none() || c.index != 0).chain(&subcode) {
            let narrowed = condition.narrowed(wide);
            exact &= narrowed == condition.narrowed(true);
            // A mask of zero passes everything.
            if narrowed.test != Test::Masked(0) {
                conditions.push(narrowed);
            }
        }
        conditions.sort_unstable_by_key(|c| c.rank());
        rules.push(Bound { conditions, action: rule.action, origin: rule.origin, exact });
    };
    if rule.any { all.chunks(1).for_each(add) } else { add(all) }
}

/// Begins a range, unless the last one goes on.
fn push(ranges: &mut Vec<Range>, start: u32, decision: Decision, merge: bool) {
    if !merge || ranges.last().is_none_or(|last| last.decision != decision) {
        ranges.push(Range { start, decision });
    }
}
