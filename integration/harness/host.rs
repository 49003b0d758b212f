// SPDX-License-Identifier: Apache-2.0
//! What the machine has: cgroup hierarchies, capabilities, programs.

use std::fs;
use std::path::{Path, PathBuf};

/// The mount points of the cgroup v1 hierarchies, with the name of their first controller.
pub fn v1_hierarchies() -> Vec<(String, PathBuf)> {
    mounts("cgroup").into_iter().filter(|(p, _)| p.exists()).map(|(p, opts)| (controller(&opts), p)).collect()
}

/// The cgroup2 mount point: /sys/fs/cgroup on a v2 machine, /sys/fs/cgroup/unified on a hybrid one.
pub fn v2_root() -> Option<PathBuf> {
    mounts("cgroup2").into_iter().map(|(p, _)| p).find(|p| p.exists())
}

/// True when the machine's own layout is pure v2.
pub fn is_v2() -> bool {
    v2_root().is_some_and(|p| p == Path::new("/sys/fs/cgroup"))
}

/// The machine's hierarchy for a controller, v1 or v2. A controller of v2 is one that groups at the top can have.
pub fn hierarchy_of(controller: &str) -> Option<PathBuf> {
    if let Some((_, root)) = v1_hierarchies().into_iter().find(|(name, _)| name == controller) {
        return Some(root);
    }
    let root = v2_root()?;
    let all = fs::read_to_string(root.join("cgroup.controllers")).unwrap();
    all.split_whitespace().any(|name| name == controller).then_some(root)
}

/// Every directory called `name` at the top of any hierarchy.
pub fn cgroups_named(name: &str) -> Vec<PathBuf> {
    v1_hierarchies().into_iter().map(|(_, p)| p).chain(v2_root()).map(|p| p.join(name)).filter(|p| p.exists()).collect()
}

fn mounts(fstype: &str) -> Vec<(PathBuf, String)> {
    fs::read_to_string("/proc/self/mounts")
        .unwrap()
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            (words[2] == fstype).then(|| (PathBuf::from(words[1]), words[3].to_string()))
        })
        .collect()
}

fn controller(options: &str) -> String {
    let known = ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb"];
    options.split(',').find(|o| known.contains(o) || o.starts_with("name=")).unwrap_or("other").to_string()
}

/// True when the harness has the capability number `number` in its bounding set.
pub fn has_capability(number: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("CapBnd:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap() & (1 << number) != 0
}

/// The mount table of the harness, for "nothing changed" checks: the lines that name `path`.
pub fn mounts_under(path: &Path) -> Vec<String> {
    let needle = path.to_str().unwrap();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|l| l.contains(needle)).map(String::from).collect()
}

/// Processes whose initial environment has `marker`, as those have that were started with it and those they forked.
pub fn processes_marked(marker: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        let Ok(environ) = fs::read(path.join("environ")) else { continue };
        if environ.split(|b| *b == 0).any(|word| word == marker.as_bytes()) {
            let cmdline = fs::read(path.join("cmdline")).unwrap_or_default();
            found.push(format!("{} {}", path.display(), String::from_utf8_lossy(&cmdline).replace('\0', " ")));
        }
    }
    found
}

/// The first of the usual places that has `program`.
pub fn find_program(program: &str) -> Option<PathBuf> {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.exists())
}
