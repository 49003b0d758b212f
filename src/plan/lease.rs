// SPDX-License-Identifier: Apache-2.0
//! Subordinate ids (subuid(5), subgid(5)) as arithmetic: which ranges a user has, and which part of them is free.

use serde::{Deserialize, Serialize};

use super::idmap::{IdMap, Range};

/// The ids from `first` on. Wide, so that no sum of two members overflows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    pub first: u64,
    pub size: u64,
}

impl Span {
    fn end(self) -> u64 {
        // A lease is read from a file: a damaged one must not wrap round, which would free what it takes.
        self.first.saturating_add(self.size)
    }
}

/// The ids that `--userns=auto` has given to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub uid: Span,
    pub gid: Span,
}

impl Lease {
    /// The mapping of the container: its ids from 0 on are the leased ones.
    pub fn map(&self) -> IdMap {
        // Spans come from `spans`, which keeps within 32 bits.
        let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let ranges = |span: Span| vec![Range { container: 0, host: number(span.first), size: number(span.size) }];
        IdMap { uid: ranges(self.uid), gid: ranges(self.gid) }
    }
}

/// The ranges that the text of /etc/subuid or /etc/subgid gives to one of `names` (a login name, or an id in digits),
/// sorted, and joined where they meet. Lines that are not of the form `name:first:count` count for nothing, as with
/// newuidmap(1).
pub fn spans(text: &str, names: &[&str]) -> Vec<Span> {
    let line = |line: &str| {
        let mut parts = line.trim().split(':');
        let (name, first, size) = (parts.next()?, parts.next()?.parse::<u32>().ok()?, parts.next()?.parse().ok()?);
        let size: u32 = size;
        // The id 4294967295 means "no id".
        let size = u64::from(size).min(u64::from(u32::MAX) - u64::from(first));
        (names.contains(&name) && size > 0 && parts.next().is_none()).then_some(Span { first: first.into(), size })
    };
    joined(text.lines().filter_map(line).collect())
}

fn joined(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut all: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match all.last_mut() {
            Some(last) if span.first <= last.end() => last.size = span.end().max(last.end()) - last.first,
            _ => all.push(span),
        }
    }
    all
}

/// What is left of `spans` without `taken`.
pub fn free(spans: &[Span], taken: &[Span]) -> Vec<Span> {
    let taken = joined(taken.to_vec());
    let mut free = Vec::new();
    for span in spans {
        let mut from = span.first;
        for hole in taken.iter().filter(|hole| hole.first < span.end() && hole.end() > span.first) {
            if hole.first > from {
                free.push(Span { first: from, size: hole.first - from });
            }
            from = from.max(hole.end());
        }
        if from < span.end() {
            free.push(Span { first: from, size: span.end() - from });
        }
    }
    free
}

/// The lowest free range of `size` ids in one piece.
pub fn lowest(free: &[Span], size: u32) -> Option<Span> {
    let size = u64::from(size);
    free.iter().find(|span| span.size >= size).map(|span| Span { first: span.first, size })
}

/// Whether all of the range is in one of `spans`.
pub fn covers(spans: &[Span], first: u32, size: u32) -> bool {
    let wanted = Span { first: first.into(), size: size.into() };
    spans.iter().any(|span| span.first <= wanted.first && span.end() >= wanted.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: u64, size: u64) -> Span {
        Span { first, size }
    }

    #[test]
    fn entries_are_those_of_the_user_sorted_and_joined() {
        let text = "containers:200000:100\nbob:1:2\n# containers:1:1\ncontainers:100:50\n0:7:1\ncontainers:150:10\n\
            containers:x:1\ncontainers:5\ncontainers:9:1:2\ncontainers:1:0\n";
        assert_eq!(spans(text, &["containers"]), [span(100, 60), span(200_000, 100)]);
        assert_eq!(spans(text, &["root", "0"]), [span(7, 1)]);
        assert_eq!(spans(text, &["alice"]), []);
        // Nothing beyond the last id, and nothing wraps.
        assert_eq!(spans("c:4294967290:100\nc:4294967295:1\n", &["c"]), [span(4_294_967_290, 5)]);
    }

    #[test]
    fn the_lowest_hole_that_is_large_enough_is_taken() {
        let all = [span(100, 100), span(1000, 300)];
        for (taken, size, found) in [
            (vec![], 100, Some(100)),
            (vec![], 101, Some(1000)),
            (vec![span(100, 50)], 50, Some(150)),
            (vec![span(100, 50)], 51, Some(1000)),
            (vec![span(100, 100)], 1, Some(1000)),
            // Fragmented: 50 free at 100, 50 at 1000, 100 at 1100, 50 at 1250.
            (vec![span(150, 50), span(1050, 50), span(1200, 50)], 50, Some(100)),
            (vec![span(1050, 50), span(150, 50), span(1200, 50)], 60, Some(1100)),
            (vec![span(150, 50), span(1050, 50), span(1200, 50)], 101, None),
            // Leases that overlap the edge, or lie outside (the file was edited since).
            (vec![span(50, 60), span(0, 10)], 90, Some(110)),
            (vec![span(0, 10_000)], 1, None),
        ] {
            assert_eq!(lowest(&free(&all, &taken), size).map(|s| s.first), found, "{taken:?} {size}");
        }
    }

    #[test]
    fn a_thousand_leases_never_overlap() {
        let all = spans("c:100000:65536\nc:300000:1000000\n", &["c"]);
        let mut taken: Vec<Span> = Vec::new();
        // Sizes that do not divide anything, and every third lease goes back.
        for i in 0..1000_u32 {
            let Some(new) = lowest(&free(&all, &taken), 500 + i % 700) else { break };
            assert!(taken.iter().all(|t| new.end() <= t.first || t.end() <= new.first), "{new:?} in {taken:?}");
            assert!(covers(&all, u32::try_from(new.first).unwrap(), u32::try_from(new.size).unwrap()));
            taken.push(new);
            if i % 3 == 0 {
                taken.swap_remove(usize::try_from(i).unwrap() * 7 % taken.len());
            }
        }
        assert!(taken.len() > 600, "{}", taken.len());
    }

    #[test]
    fn a_damaged_lease_takes_more_rather_than_less() {
        let pool = [span(100_000, 1 << 24)];
        assert_eq!(free(&pool, &[span(100_000, u64::MAX)]), []);
        assert_eq!(free(&pool, &[span(u64::MAX, u64::MAX)]), pool);
    }

    #[test]
    fn covered_means_all_of_it() {
        let all = [span(100, 100)];
        assert!(covers(&all, 100, 100) && covers(&all, 150, 1));
        assert!(!covers(&all, 99, 2) && !covers(&all, 150, 51) && !covers(&all, u32::MAX, 1));
    }
}
