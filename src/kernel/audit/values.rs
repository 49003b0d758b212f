// SPDX-License-Identifier: Apache-2.0
//! What was written to a cgroup file against what it reads: the kernel rounds, clamps, sorts and adds. Pure.

use crate::plan::cgroup::Missing;

/// One write of the plan.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub path: &'a str,
    pub file: &'a str,
    pub value: &'a str,
    pub missing: &'a Missing,
}

/// The writes without those that a later one overrides: of the same file, and of the same line of it.
pub fn merge<'a>(writes: impl Iterator<Item = Asked<'a>>) -> Vec<Asked<'a>> {
    let mut last: Vec<Asked<'a>> = Vec::new();
    for write in writes {
        last.retain(|other| other.file != write.file || key(other.file, other.value) != key(write.file, write.value));
        last.push(write);
    }
    last
}

/// Files with a line for each device or interface, which begins with its name.
fn is_keyed(file: &str, value: &str) -> bool {
    let first = value.split_whitespace().next().unwrap_or_default();
    let device = first.split_once(':').is_some_and(|(major, minor)| {
        !minor.is_empty() && major.bytes().chain(minor.bytes()).all(|b| b.is_ascii_digit())
    });
    value.trim().contains(' ') && (device || matches!(file, "rdma.max" | "net_prio.ifpriomap"))
}

/// What a further write to the file must repeat to override this one. `io.max` has several settings in a line.
fn key(file: &str, value: &str) -> Option<String> {
    let mut words = value.split_whitespace();
    is_keyed(file, value).then(|| {
        let device = words.next().unwrap_or_default();
        let setting = words.next().and_then(|word| word.split_once('=')).map_or("", |(name, _)| name);
        format!("{device} {setting}")
    })
}

/// Whether a file that reads `text` is as `asked` made it.
pub fn is_in_force(file: &str, asked: &str, text: &str) -> bool {
    let (asked, text) = (asked.trim(), text.trim());
    if asked == text {
        return true;
    }
    if is_keyed(file, asked) {
        let (device, settings) = asked.split_once(' ').unwrap_or((asked, ""));
        let line = text.lines().find_map(|line| line.strip_prefix(device)?.strip_prefix(' '));
        let now: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
        // A device without a limit has no line, or none of the setting.
        let is_no_limit = |word: &str| word.ends_with("=max") || word == "0";
        return settings.split_whitespace().all(|word| now.contains(&word) || line.is_none() && is_no_limit(word));
    }
    match file {
        "cpuset.cpus" | "cpuset.mems" => list(asked).is_some_and(|asked| Some(asked) == list(text)),
        // Switches are written as a list of changes.
        "cgroup.subtree_control" => asked.split_whitespace().all(|word| {
            let on = text.split_whitespace().any(|name| name == word.trim_start_matches(['+', '-']));
            on != word.starts_with('-')
        }),
        "memory.oom_control" => text.lines().any(|line| line == format!("oom_kill_disable {asked}")),
        "cpu.max" => {
            let words: Vec<&str> = text.split_whitespace().collect();
            asked.split_whitespace().enumerate().all(|(i, word)| words.get(i) == Some(&word))
        }
        "io.weight" | "io.bfq.weight" => text.lines().any(|line| line.strip_prefix("default ") == Some(asked)),
        "cpu.shares" => number(asked).map(|shares| shares.clamp(2, 262_144)) == number(text),
        _ => match (number(asked), number(text)) {
            (Some(asked), Some(now)) => same_number(file, asked, now),
            _ => false,
        },
    }
}

/// The largest multiple of a page that v1 counts: its way to say "no limit" (PAGE_COUNTER_MAX).
const NO_LIMIT: i128 = 0x7fff_ffff_ffff_f000;

/// Equal, but for rounding down to pages.
fn same_number(file: &str, asked: i128, now: i128) -> bool {
    let unlimited = |n: i128| !(0..NO_LIMIT - 0xf000).contains(&n);
    if unlimited(asked) || unlimited(now) {
        return unlimited(asked) == unlimited(now);
    }
    let page = match file.strip_prefix("hugetlb.").and_then(|rest| rest.split_once('.')) {
        Some((size, _)) => number(size.trim_end_matches('B')).unwrap_or(1),
        None if file.starts_with("memory.") && is_size(file) => page_size(),
        None => 1,
    };
    asked - asked % page.max(1) == now
}

/// Files of the memory controller that hold a number of bytes.
fn is_size(file: &str) -> bool {
    file.ends_with("_in_bytes") || [".max", ".high", ".low", ".min"].iter().any(|end| file.ends_with(end))
}

fn page_size() -> i128 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().map_or(4096, i128::from)
}

/// A number as the kernel reads it (memparse); -1 for `max`.
fn number(text: &str) -> Option<i128> {
    if text == "max" {
        return Some(-1);
    }
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (text.get(..at)?, 10),
        Some((at, 'm' | 'M')) => (text.get(..at)?, 20),
        Some((at, 'g' | 'G')) => (text.get(..at)?, 30),
        Some((at, 't' | 'T')) => (text.get(..at)?, 40),
        _ => (text, 0),
    };
    digits.parse::<i64>().ok().map(|number| i128::from(number) << shift)
}

/// `0-2,5` as its members.
fn list(text: &str) -> Option<Vec<u32>> {
    let mut members = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse().ok()?, last.parse::<u32>().ok()?);
        members.extend(first..=last.min(1 << 16));
    }
    members.sort_unstable();
    members.dedup();
    Some(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_makes_of_a_value_is_no_drift() {
        for (file, asked, text, same) in [
            ("pids.max", "10", "10\n", true),
            ("pids.max", "10", "max\n", false),
            ("pids.max", "max", "max\n", true),
            ("memory.max", "67108865", "67108864\n", true),
            ("memory.max", "64M", "67108864\n", true),
            ("memory.max", "67108864", "134217728\n", false),
            ("memory.limit_in_bytes", "-1", "9223372036854771712\n", true),
            ("memory.limit_in_bytes", "67108864", "9223372036854771712\n", false),
            ("memory.swappiness", "61", "60\n", false),
            ("hugetlb.2MB.max", "2097153", "2097152\n", true),
            ("cpuset.cpus", "0,1,2", "0-2\n", true),
            ("cpuset.cpus", "0-2", "0-1\n", false),
            ("cpu.max", "50000 100000", "50000 100000\n", true),
            ("cpu.max", "50000", "50000 100000\n", true),
            ("cpu.max", "max 100000", "50000 100000\n", false),
            ("cpu.shares", "1", "2\n", true),
            ("cpu.cfs_quota_us", "-1", "-1\n", true),
            ("io.max", "8:0 rbps=1000", "8:0 rbps=1000 wbps=max riops=max wiops=max\n", true),
            ("io.max", "8:0 rbps=1000", "8:16 rbps=1000\n", false),
            ("io.max", "8:0 rbps=max", "", true),
            ("blkio.throttle.read_bps_device", "8:0 1000", "8:0 1000\n", true),
            ("blkio.throttle.read_bps_device", "8:0 1000", "8:0 2000\n", false),
            ("io.weight", "500", "default 500\n", true),
            ("net_prio.ifpriomap", "lo 3", "lo 3\neth0 0\n", true),
            ("memory.oom_control", "1", "oom_kill_disable 1\nunder_oom 0\n", true),
            ("memory.oom_control", "1", "oom_kill_disable 0\nunder_oom 0\n", false),
            ("cgroup.subtree_control", "+pids", "memory pids\n", true),
            ("memory.oom.group", "1", "0\n", false),
        ] {
            assert_eq!(is_in_force(file, asked, text), same, "{file} {asked:?} {text:?}");
        }
    }

    #[test]
    fn the_last_write_of_a_line_counts() {
        let asked = |file, value| Asked { path: "", file, value, missing: &Missing::Fail };
        let kept = merge(
            [
                asked("io.max", "8:0 rbps=1"),
                asked("io.max", "8:0 wbps=2"),
                asked("io.max", "8:0 rbps=3"),
                asked("pids.max", "1"),
                asked("pids.max", "2"),
            ]
            .into_iter(),
        );
        let kept: Vec<_> = kept.iter().map(|asked| asked.value).collect();
        assert_eq!(kept, ["8:0 wbps=2", "8:0 rbps=3", "2"]);
    }
}
