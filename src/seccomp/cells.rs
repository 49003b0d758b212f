// SPDX-License-Identifier: Apache-2.0
//! Cuts the arguments of a system call into cells on which a set of conditions does not change its mind, and finds one
//! value in each. What holds for these values holds for all, so that questions about all calls (which rule can decide,
//! do two profiles differ) have exact answers.

use std::collections::BTreeSet;

use super::policy::{Condition, LOW, Test, first_masked};

/// The most cells that are tried for one system call. Profiles in use have a dozen; the number grows exponentially with
/// masks on one argument and with arguments that are tested.
pub const MOST: usize = 1 << 16;

/// There are more cells than [`MOST`], or to tell them apart takes too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

/// Calls `visit` with one set of arguments of every cell that `conditions` make. Values are the smallest of their cell.
pub fn each(conditions: &[Condition], wide: bool, mut visit: impl FnMut(&[u64; 6])) -> Result<(), TooMany> {
    let mut budget = MOST * 16;
    let mut values: [Vec<u64>; 6] = Default::default();
    let mut cells = 1_usize;
    for (index, slot) in (0_u8..).zip(&mut values) {
        let own: Vec<Condition> = conditions.iter().filter(|c| c.index == index).copied().collect();
        *slot = representatives(&own, wide, &mut budget)?;
        cells = cells.checked_mul(slot.len()).filter(|&cells| cells <= MOST).ok_or(TooMany)?;
    }
    for cell in 0..cells {
        // The cell's number in a mixed radix is the choice of each argument's value.
        let mut rest = cell;
        let mut args = [0; 6];
        for (arg, values) in args.iter_mut().zip(&values) {
            *arg = values.get(rest % values.len().max(1)).copied().unwrap_or(0);
            rest /= values.len().max(1);
        }
        visit(&args);
    }
    Ok(())
}

/// One value for each way in which the conditions on one argument can hold or not.
fn representatives(conditions: &[Condition], wide: bool, budget: &mut usize) -> Result<Vec<u64>, TooMany> {
    let limit = if wide { u64::MAX } else { LOW };
    // Comparisons cut the values into intervals; masks are told apart within each.
    let mut starts = BTreeSet::from([0]);
    let mut masks: Vec<(u64, u64)> = Vec::new();
    for condition in conditions {
        let value = condition.value;
        let above = value.checked_add(1);
        match condition.test {
            Test::Eq | Test::Ne => starts.extend([Some(value), above].into_iter().flatten()),
            Test::Lt | Test::Ge => starts.extend([value]),
            Test::Le | Test::Gt => starts.extend(above),
            Test::Masked(mask) if masks.contains(&(mask, value)) => {}
            Test::Masked(mask) => masks.push((mask, value)),
        }
    }
    let starts: Vec<u64> = starts.into_iter().filter(|&start| start <= limit).collect();
    let ends = starts.iter().skip(1).map(|start| start - 1).chain([limit]);
    let mut found = Vec::new();
    for (&low, high) in starts.iter().zip(ends) {
        let mut search = Search { low, high, avoid: Vec::new(), found: &mut found, budget };
        search.split(0, 0, &masks)?;
    }
    Ok(found)
}

struct Search<'a> {
    low: u64,
    high: u64,
    /// Masks whose values must not match.
    avoid: Vec<(u64, u64)>,
    found: &'a mut Vec<u64>,
    budget: &'a mut usize,
}

impl Search<'_> {
    /// Adds a value for each choice of which of `masks` match, given that the bits in `mask` are those of `value`.
    fn split(&mut self, mask: u64, value: u64, masks: &[(u64, u64)]) -> Result<(), TooMany> {
        let Some(witness) = self.solve(mask, value)? else { return Ok(()) };
        let Some((&(m, v), rest)) = masks.split_first() else {
            self.found.push(witness);
            return if self.found.len() > MOST { Err(TooMany) } else { Ok(()) };
        };
        if (value ^ v) & mask & m == 0 {
            self.split(mask | m, value | v, rest)?;
        }
        self.avoid.push((m, v));
        let without = self.split(mask, value, rest);
        self.avoid.pop();
        without
    }

    /// A value between `low` and `high` that has the bits of `value` in `mask` and matches none of `avoid`, if one is.
    fn solve(&mut self, mask: u64, value: u64) -> Result<Option<u64>, TooMany> {
        *self.budget = self.budget.checked_sub(1).ok_or(TooMany)?;
        let Some(candidate) = first_masked(self.low, mask, value).filter(|&candidate| candidate <= self.high) else {
            return Ok(None);
        };
        let Some(&(m, v)) = self.avoid.iter().find(|(m, v)| candidate & m == *v) else { return Ok(Some(candidate)) };
        // Some bit of m that is still free must differ. Each attempt fixes the bits before it, so none is made twice.
        let free = m & !mask;
        let (mut mask, mut value) = (mask, value);
        for bit in (0..64).map(|i| 1_u64 << i).filter(|bit| free & bit != 0) {
            if let Some(found) = self.solve(mask | bit, value | (bit & !v))? {
                return Ok(Some(found));
            }
            mask |= bit;
            value |= bit & v;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::policy::{Action, Bound, Chain};

    /// The rules, each alone, that match the arguments.
    fn signature(conditions: &[Condition], args: &[u64; 6], wide: bool) -> Vec<bool> {
        let alone = |c: &Condition| Bound { conditions: vec![*c], action: Action::Trap, origin: 0, exact: true };
        let chain = |c| Chain { wide, rules: vec![alone(c)], otherwise: Action::Allow };
        conditions.iter().map(|c| chain(c).hit(args).is_some()).collect()
    }

    #[test]
    fn every_cell_is_found_once_and_no_other() {
        let tests = [Test::Eq, Test::Ne, Test::Lt, Test::Le, Test::Gt, Test::Ge];
        let masks = [0, 1, 5, 6, 10, 15];
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..2000 {
            let conditions: Vec<Condition> = (0..random(5))
                .map(|_| {
                    let index = u8::try_from(random(2)).unwrap();
                    let value = random(16);
                    if random(2) == 0 {
                        let mask = masks[usize::try_from(random(6)).unwrap()];
                        Condition { index, test: Test::Masked(mask), value: value & mask }
                    } else {
                        Condition { index, test: tests[usize::try_from(random(6)).unwrap()], value }
                    }
                })
                .collect();
            // Values from 32 on behave like those from 16 on.
            let domain: Vec<[u64; 6]> = (0..32).flat_map(|a| (0..32).map(move |b| [a, b, 0, 0, 0, 0])).collect();
            let expected: BTreeSet<_> = domain.iter().map(|args| signature(&conditions, args, false)).collect();
            let mut found = BTreeSet::new();
            let mut visits = BTreeSet::new();
            let done = each(&conditions, false, |args| {
                found.insert(signature(&conditions, args, false));
                assert!(visits.insert(*args), "twice: {args:?}");
            });
            assert_eq!(done, Ok(()));
            assert_eq!(found, expected, "{conditions:?}");
        }
    }

    #[test]
    fn more_cells_than_can_be_tried_are_refused() {
        let conditions: Vec<Condition> =
            (0..20).map(|i| Condition { index: 0, test: Test::Masked(1 << i), value: 0 }).collect();
        assert_eq!(each(&conditions, true, |_| {}), Err(TooMany));
        assert_eq!(each(&conditions[..15], true, |_| {}), Ok(()));
        let conditions: Vec<Condition> = (0..6)
            .flat_map(|index| (0..5).map(move |i| Condition { index, test: Test::Eq, value: 10 * i + 5 }))
            .collect();
        assert_eq!(each(&conditions, true, |_| {}), Err(TooMany));
    }
}
