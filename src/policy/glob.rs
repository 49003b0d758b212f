// SPDX-License-Identifier: Apache-2.0
//! Patterns of paths: `*` and `?` stand for characters other than `/`, `**` for any.

/// Whether all of `text` matches.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    // row[j]: whether what was read of the pattern matches the first j characters.
    let mut row = vec![false; text.len() + 1];
    if let Some(first) = row.first_mut() {
        *first = true;
    }
    let mut rest = pattern.iter().peekable();
    while let Some(symbol) = rest.next() {
        let any = *symbol == '*' && rest.next_if(|next| **next == '*').is_some();
        let mut next = Vec::with_capacity(row.len());
        for (j, matched) in row.iter().enumerate() {
            let before = j.checked_sub(1);
            let last = before.and_then(|i| text.get(i)).copied();
            let consumed = |row: &[bool]| before.and_then(|i| row.get(i)).copied().unwrap_or(false);
            next.push(match symbol {
                '*' => *matched || (consumed(&next) && (any || last != Some('/'))),
                '?' => consumed(&row) && last != Some('/'),
                literal => consumed(&row) && last == Some(*literal),
            });
        }
        row = next;
    }
    row.last().copied().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stays_in_its_directory() {
        for (pattern, text, expected) in [
            ("/run/netns/*", "/run/netns/a", true),
            ("/run/netns/*", "/run/netns/a/b", false),
            ("/run/**", "/run/netns/a", true),
            ("/proc/*/ns/*", "/proc/12/ns/net", true),
            ("/proc/?/ns/net", "/proc/12/ns/net", false),
            ("/a", "/a", true),
            ("/a", "/ab", false),
            ("", "", true),
            ("*", "", true),
            ("/x*y*z", "/xyyz", true),
            ("**/b", "/a/c/b", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
        // Exponential in a matcher that backtracks.
        assert!(!matches(&"*a".repeat(40), &"a".repeat(39)));
    }
}
