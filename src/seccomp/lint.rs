// SPDX-License-Identifier: Apache-2.0
//! What compiling a profile does not look for, since a container's start does not wait for it: entries that decide
//! nothing, and values and architectures that mean something else than they seem to.

use std::collections::{BTreeMap, BTreeSet};

use super::Examined;
use super::arch::{Arch, Call};
use super::cells;
use super::policy::{Action, Chain, Condition, Decision, Reason};
use crate::plan::problem::Problems;

/// Adds warnings to those that compiling the profile gave.
pub fn lint(examined: &Examined, problems: &mut Problems) {
    dead(examined, problems);
    cut(examined, problems);
    unlisted(examined, problems);
}

/// Which entries decide some call with a number, or None if that would take too long to tell.
fn deciders(decision: &Decision) -> Option<BTreeSet<usize>> {
    match decision {
        Decision::Fixed(_, Reason::Entry(entry)) => Some(BTreeSet::from([*entry])),
        Decision::Fixed(..) => Some(BTreeSet::new()),
        Decision::Rules(chain) => live(chain),
        Decision::Both(_) => None,
    }
}

fn live(chain: &Chain) -> Option<BTreeSet<usize>> {
    let conditions: Vec<Condition> = chain.rules.iter().flat_map(|rule| &rule.conditions).copied().collect();
    let mut hit = BTreeSet::new();
    let done = cells::each(&conditions, chain.wide, |args| {
        hit.extend(chain.hit(args).and_then(|rule| chain.rules.get(rule)).map(|rule| rule.origin));
    });
    done.ok().map(|()| hit)
}

/// Warns of entries, and names in them, that decide no call on any architecture.
fn dead(examined: &Examined, problems: &mut Problems) {
    let profile = &examined.profile;
    let mut known: BTreeMap<(u32, u32), Option<BTreeSet<usize>>> = BTreeMap::new();
    for rule in &profile.rules {
        let entry = rule.origin;
        let path = format!("linux.seccomp.syscalls[{entry}]");
        if !rule.effective {
            let reported = problems.warnings.iter().any(|p| p.path == path && p.message.starts_with("is ignored"));
            if !reported {
                problems.warn(path, "has the default action: it decides nothing, its names only count as known");
            }
            continue;
        }
        let mut dead: Vec<(Call, BTreeSet<usize>)> = Vec::new();
        let mut alive = 0_usize;
        for &call in &rule.calls {
            let numbers = |&arch: &Arch| {
                let multiplexed = arch.multiplexed(call).map(|(number, _)| number);
                [arch.number(call), multiplexed].into_iter().flatten().map(move |number| (arch.audit(), number))
            };
            let mut others = BTreeSet::new();
            let mut decides = None;
            for (audit, number) in profile.arches.iter().flat_map(numbers) {
                let deciders = known
                    .entry((audit, number))
                    .or_insert_with(|| examined.apart.decision(audit, number).and_then(deciders));
                let own = deciders.as_ref().is_none_or(|deciders| deciders.contains(&entry));
                decides = Some(decides.unwrap_or(false) || own);
                others.extend(deciders.iter().flatten());
            }
            match decides {
                Some(true) => alive += 1,
                Some(false) => dead.push((call, others)),
                // None of the profile's architectures has the call: lists meant for all of them have such names.
                None => {}
            }
        }
        for (call, others) in &dead {
            let name = call.name();
            let reported = |text: &str| problems.warnings.iter().any(|p| p.path == path && p.message.starts_with(text));
            if reported(&format!("never applies to {name}:")) {
                continue;
            }
            let others: Vec<String> = others.iter().map(|other| format!("syscalls[{other}]")).collect();
            let who = match others.as_slice() {
                [] => "nothing can match it".into(),
                [one] => format!("{one} comes first"),
                several => format!("{} come first", several.join(", ")),
            };
            let what =
                if alive == 0 && dead.len() == 1 { "is dead".to_string() } else { format!("is dead for {name}") };
            problems.warn(&path, format!("{what}: it can never decide, {who}"));
        }
    }
    for ((audit, number), _) in known.iter().filter(|(_, deciders)| deciders.is_none()) {
        let arch = profile.arches.iter().find(|arch| arch.audit() == *audit && arch.call(*number).is_some());
        let name = arch.and_then(|arch| arch.call(*number)).map_or("", Call::name);
        problems
            .warn("linux.seccomp.syscalls", format!("{name}: too many conditions to tell which entries can decide"));
    }
}

/// Warns of values that do not fit an argument of 32 bits: there the lower half alone is compared.
fn cut(examined: &Examined, problems: &mut Problems) {
    let profile = &examined.profile;
    let narrow: Vec<Arch> = profile.arches.iter().filter(|arch| !arch.is_64()).copied().collect();
    for rule in &profile.rules {
        let applies: Vec<&str> = narrow
            .iter()
            .filter(|arch| rule.calls.iter().any(|call| arch.number(*call).is_some()))
            .map(|arch| arch.name())
            .collect();
        if applies.is_empty() {
            continue;
        }
        if let Some(condition) = rule.conditions.iter().find(|c| c.narrowed(false) != c.narrowed(true) && c.is_cut()) {
            problems.warn(
                format!("linux.seccomp.syscalls[{}].args", rule.origin),
                format!("{condition} is cut to 32 bits on {}, where arguments have no more", applies.join(", ")),
            );
        }
    }
}

/// Warns if a list of what to deny kills whole architectures.
fn unlisted(examined: &Examined, problems: &mut Problems) {
    let profile = &examined.profile;
    if !matches!(profile.default, Action::Allow | Action::Log) {
        return;
    }
    let siblings: &[Arch] = match profile.arches.first() {
        Some(Arch::X86_64) => &[Arch::X86, Arch::X32],
        Some(Arch::Aarch64) => &[Arch::Arm],
        _ => &[],
    };
    let missing: Vec<&str> =
        siblings.iter().filter(|arch| !profile.arches.contains(arch)).map(|arch| arch.name()).collect();
    if !missing.is_empty() {
        problems.warn(
            "linux.seccomp.architectures",
            format!(
                "{} not listed: a call there kills the thread, although the default action is to allow",
                missing.join(" and ") + if missing.len() == 1 { " is" } else { " are" }
            ),
        );
    }
}

impl Condition {
    /// Bits of the value or of the mask are above the lower 32.
    fn is_cut(&self) -> bool {
        let mask = if let super::policy::Test::Masked(mask) = self.test { mask } else { 0 };
        (self.value | mask) >> 32 != 0
    }
}
