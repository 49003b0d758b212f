// SPDX-License-Identifier: Apache-2.0
//! "Did you mean": the word of a list that a misspelt one is closest to.

/// The closest of `words`, if it is close enough to be meant: one that begins or ends with `found`, or at most a third of
/// its letters (and at least two) have to be changed, letter case and a common beginning such as `SCMP_ACT_` apart.
pub fn nearest<'a>(found: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = found.to_lowercase();
    let rated = words.into_iter().filter_map(|word| {
        let candidate = word.to_lowercase();
        let (mine, theirs) = without_common_words(&lower, &candidate);
        let (length, other) = (mine.chars().count(), theirs.chars().count());
        let changes = distance(mine, theirs);
        let contains = length >= 3 && (theirs.starts_with(mine) || theirs.ends_with(mine));
        // Of a word with three letters another can be made with two changes.
        let close = changes <= (length / 3).max(2) && changes < length.min(other);
        (contains || close).then_some((if contains { 0 } else { changes }, word))
    });
    rated.min_by_key(|(changes, _)| *changes).map(|(_, word)| word)
}

/// Both without the words, up to a `_`, that they begin with alike.
fn without_common_words<'t>(a: &'t str, b: &'t str) -> (&'t str, &'t str) {
    let same = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    let end = a.get(..same).and_then(|common| common.rfind('_')).map_or(0, |at| at + 1);
    (a.get(end..).unwrap_or(a), b.get(end..).unwrap_or(b))
}

/// How many letters have to be inserted, removed, replaced or swapped with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX / 2);
            let mut least = (at(&last, j) + usize::from(x != y)).min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            if i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x) {
                least = least.min(at(&before_last, j - 1) + 1);
            }
            row.push(least);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_word_is_meant() {
        let kinds = ["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"];
        for (found, expected) in [
            ("net", Some("network")),
            ("mnt", Some("mount")),
            ("usr", Some("user")),
            ("cgroups", Some("cgroup")),
            ("Network", Some("network")),
            ("pdi", Some("pid")),
            ("xyz", None),
            ("", None),
        ] {
            assert_eq!(nearest(found, kinds), expected, "{found}");
        }
        assert_eq!(nearest("NPROC", ["RLIMIT_NOFILE", "RLIMIT_NPROC"]), Some("RLIMIT_NPROC"));
        assert_eq!(nearest("SCMP_ACT_ALOW", ["SCMP_ACT_KILL", "SCMP_ACT_ALLOW"]), Some("SCMP_ACT_ALLOW"));
        assert_eq!(nearest("SCMP_ACT_DENY", ["SCMP_ACT_KILL", "SCMP_ACT_ALLOW"]), None);
        assert_eq!(nearest("noNewPriviliges", ["noNewPrivileges", "args"]), Some("noNewPrivileges"));
    }
}
