// SPDX-License-Identifier: Apache-2.0
//! A process of a container that lies in wait for the runtime: it looks at every process that it can see, as fast as it
//! can, until the file `/stop` exists.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use serde_json::{Value, json};

use crate::say;

/// Inode of a file, unmistakable.
type Id = (u64, u64);

fn id(meta: &fs::Metadata) -> Id {
    (meta.dev(), meta.ino())
}

/// Prints `ready`, hunts, and tells what it got: programs that are not its own (`programs`), which of them it could open
/// for writing (`writable`), at once or through a descriptor that it had kept when nothing ran from them any more; and
/// directories that other processes held, or had as their root, and that are not its own root (`directories`).
pub fn hunt() -> Value {
    let own = id(&fs::metadata("/proc/self/exe").unwrap());
    let root = id(&fs::metadata("/").unwrap());
    let mut kept: Vec<(Id, File)> = Vec::new();
    let (mut programs, mut writable, mut directories) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut processes = BTreeSet::new();
    say(&json!({"ready": true}));
    while !Path::new("/stop").exists() {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if pid.parse::<u32>().is_err() || pid == std::process::id().to_string() {
                continue;
            }
            processes.insert(pid);
            let dir = entry.path();
            let path = dir.join("exe");
            // O_PATH does not open the file, and so is always worth a try.
            if let Ok(file) = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&path)
                && let Ok(meta) = file.metadata()
                && id(&meta) != own
            {
                programs.insert(id(&meta));
                if OpenOptions::new().write(true).open(&path).is_ok() {
                    writable.insert(id(&meta));
                }
                if kept.iter().all(|(known, _)| *known != id(&meta)) {
                    kept.push((id(&meta), file));
                }
            }
            for held in fs::read_dir(dir.join("fd")).into_iter().flatten().flatten() {
                note_directory(&held.path(), root, &mut directories);
            }
            note_directory(&dir.join("root"), root, &mut directories);
            note_directory(&dir.join("cwd"), root, &mut directories);
        }
        for (id, file) in &kept {
            if OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd())).is_ok() {
                writable.insert(*id);
            }
        }
    }
    for (id, file) in &kept {
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        if OpenOptions::new().write(true).open(again).is_ok() || loosened(file) {
            writable.insert(*id);
        }
    }
    json!({"programs": programs.len(), "writable": writable.len(), "processes": processes.len(),
        "directories": directories})
}

fn note_directory(path: &Path, root: Id, found: &mut BTreeSet<String>) {
    if let Ok(meta) = fs::metadata(path)
        && meta.is_dir()
        && id(&meta) != root
        && let Ok(name) = fs::read_link(path)
    {
        found.insert(name.display().to_string());
    }
}

/// Tries to take the read-only flag off the mount that a file is on, and off a copy of that mount.
fn loosened(file: &File) -> bool {
    // struct mount_attr: set, clear, propagation, userns_fd.
    let attr = [0_u64, libc::MOUNT_ATTR_RDONLY, 0, 0];
    let loosen = |fd: i32| {
        // SAFETY: an empty path and a mount_attr of the given size.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                fd,
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                attr.as_ptr(),
                size_of_val(&attr),
            )
        };
        result == 0 && OpenOptions::new().write(true).open(format!("/proc/self/fd/{fd}")).is_ok()
    };
    // SAFETY: an empty path; OPEN_TREE_CLONE is 1.
    let copy = unsafe { libc::syscall(libc::SYS_open_tree, file.as_raw_fd(), c"".as_ptr(), 1 | libc::AT_EMPTY_PATH) };
    loosen(file.as_raw_fd()) || (copy >= 0 && loosen(copy as i32))
}
