// SPDX-License-Identifier: Apache-2.0
//! What is there before and after: everything that a container or a failed command could leave behind. It counts what is
//! in the namespaces of the harness, so that it is for a harness that has some to itself; see `leaks.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Bundle, runtime};

/// A line for each thing: mounts, cgroups, processes, keys, files, descriptors, network interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census(BTreeSet<String>);

/// How long what is to vanish by itself may take: the kernel frees the keys of a process some time after its end.
const PATIENCE: Duration = Duration::from_secs(20);

impl Census {
    /// Counts. `uid`: whose keys are counted beside those that carry the container's name.
    pub fn take(bundle: &Bundle, uid: u32) -> Self {
        reap();
        let mut found = BTreeSet::new();
        let read = |path: &str| fs::read_to_string(path).unwrap();
        found.extend(read("/proc/self/mountinfo").lines().map(|line| format!("mount {line}")));
        found.extend(read("/proc/net/dev").lines().filter_map(|l| Some(format!("interface {}", l.split_once(':')?.0))));
        // The serial number of a key that is made anew may differ, its description does not.
        let keys = read("/proc/keys");
        let named = keys.lines().filter_map(|line| line.split_once(" keyring ").or(line.split_once(" user ")));
        let ours = named.map(|(_, text)| text).filter(|text| text.contains(runtime::run_name()));
        found.extend(ours.map(|text| format!("key {text}")));
        let users = read("/proc/key-users");
        let user = users.lines().filter(|line| line.trim_start().starts_with(&format!("{uid}:")));
        found.extend(user.map(|line| format!("keys of {line}")));
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.bytes().all(|b| b.is_ascii_digit()) {
                let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
                found.insert(format!("process {name} {}", command.replace('\0', " ")));
            }
        }
        for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
            // That of this very directory is closed again.
            if let Ok(target) = fs::read_link(entry.path())
                && !target.ends_with("fd")
            {
                found.insert(format!("descriptor {} {}", entry.file_name().to_string_lossy(), target.display()));
            }
        }
        let mut cgroups = Vec::new();
        walk(Path::new("/sys/fs/cgroup"), &mut |path| {
            if path.is_dir() && path.to_string_lossy().contains(runtime::run_name()) {
                cgroups.push(format!("cgroup {}", path.display()));
            }
        });
        found.extend(cgroups);
        let harness_s = |path: &Path| {
            let name = path.strip_prefix(&bundle.dir).ok().and_then(|rest| rest.to_str()).unwrap_or_default();
            ["out.", "err.", "config.json"].iter().any(|prefix| name.starts_with(prefix))
        };
        for place in [bundle.dir.as_path(), Path::new("/run/orlop"), Path::new("/run/runc"), Path::new("/run/crun")] {
            walk(place, &mut |path| {
                if let (false, Ok(meta)) = (harness_s(path), fs::symlink_metadata(path)) {
                    // The size of a directory is the file system's affair.
                    let size = if meta.is_file() { meta.len() } else { 0 };
                    found.insert(format!("file {} {:o} {size}", path.display(), meta.permissions().mode()));
                }
            });
        }
        Self(found)
    }

    /// What is new and what is gone since `before`, once it has had time to settle. Keys and processes of an earlier
    /// container may go meanwhile, and descriptors.
    pub fn changes(before: &Self, bundle: &Bundle, uid: u32) -> Vec<String> {
        let end = Instant::now() + PATIENCE;
        loop {
            let changes = Self::changes_now(before, bundle, uid);
            if changes.is_empty() || Instant::now() > end {
                return changes;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What is new and what is gone since `before`.
    pub fn changes_now(before: &Self, bundle: &Bundle, uid: u32) -> Vec<String> {
        let now = Self::take(bundle, uid);
        let new = now.0.difference(&before.0).map(|line| format!("+ {line}"));
        let passing = ["key", "process", "descriptor"];
        let gone = before.0.difference(&now.0).filter(|line| !passing.iter().any(|kind| line.starts_with(kind)));
        new.chain(gone.map(|line| format!("- {line}"))).collect()
    }
}

/// Calls `visit` for everything below `path`, without following links or entering other processes' files.
fn walk(path: &Path, visit: &mut impl FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        let path: PathBuf = entry.path();
        visit(&path);
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, visit);
        }
    }
}

/// Takes the zombies that a harness that is init has been left.
fn reap() {
    // SAFETY: the status may be null.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
}

/// The ids of all BPF programs of the kernel (bpf(2), BPF_PROG_GET_NEXT_ID), None if that is not allowed.
pub fn bpf_programs() -> Option<BTreeSet<u32>> {
    const PROG_GET_NEXT_ID: libc::c_int = 11;
    let mut ids = BTreeSet::new();
    // start_id, next_id, open_flags
    let mut attr = [0_u32; 3];
    loop {
        // SAFETY: the kernel reads and writes at most the size that it is given.
        let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_GET_NEXT_ID, attr.as_mut_ptr(), size_of_val(&attr)) };
        if result < 0 {
            let error = std::io::Error::last_os_error().raw_os_error();
            return (error == Some(libc::ENOENT)).then_some(ids);
        }
        ids.insert(attr[1]);
        attr = [attr[1], 0, 0];
    }
}
