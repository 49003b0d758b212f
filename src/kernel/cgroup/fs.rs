// SPDX-License-Identifier: Apache-2.0
//! The cgroup file system by descriptor: every path is resolved beneath an open directory, without links or mounts.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::plan::cgroup::Version;
use crate::sys::fd::{Resolve, openat2};
use crate::sys::{self, Result, call};

/// Opens the root of a mounted hierarchy and tells which version it is; ENODEV if it is no cgroup file system.
pub(super) fn open_root(mount_point: &Path) -> Result<(OwnedFd, Version)> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let root = call!("open({mount_point:?}, O_PATH)" => open(mount_point, flags, Mode::empty()))?;
    let kind = call!("fstatfs({mount_point:?})" => fstatfs(&root))?.filesystem_type();
    let version = match kind {
        CGROUP2_SUPER_MAGIC => Version::V2,
        CGROUP_SUPER_MAGIC => Version::V1,
        _ => return Err(sys::Error { call: format!("cgroup file system at {mount_point:?}"), errno: Errno::ENODEV }),
    };
    Ok((root, version))
}

/// Opens the directory `path`, relative and not empty, below `dir`: to name it or files in it.
pub(super) fn open_dir(dir: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    openat2(dir, &name(path)?, libc::O_PATH | libc::O_DIRECTORY, 0, Resolve::BENEATH)
}

/// A path as a C string; EINVAL if it holds a NUL byte.
pub(super) fn name(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| sys::Error { call: format!("{path:?}"), errno: Errno::EINVAL })
}

pub(super) fn open_file(dir: BorrowedFd<'_>, file: &str, flags: libc::c_int) -> Result<OwnedFd> {
    openat2(dir, &name(Path::new(file))?, flags, 0, Resolve::BENEATH)
}

/// Reads a control file.
pub(super) fn read(dir: BorrowedFd<'_>, file: &str) -> Result<String> {
    let fd = open_file(dir, file, libc::O_RDONLY)?;
    call!("read({file:?})" => read_record(&fd))
}

/// Reads a file that the kernel makes in one piece, as all here but lists of processes: a read that does not fill the
/// buffer was the last, which spares the calls of `read_to_string`.
pub(super) fn read_record(fd: &OwnedFd) -> std::result::Result<String, Errno> {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = nix::unistd::read(fd, &mut buffer)?;
        text.extend_from_slice(buffer.get(..length).unwrap_or_default());
        if length < buffer.len() {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
    }
}

/// Reads a list of processes or threads, which comes in pieces.
fn read_list(dir: BorrowedFd<'_>, file: &str) -> Result<String> {
    let mut text = String::new();
    let mut opened = File::from(open_file(dir, file, libc::O_RDONLY)?);
    call!("read({file:?})" => opened.read_to_string(&mut text).map_err(sys::errno))?;
    Ok(text)
}

/// Writes a control file in one `write(2)`, which is how the kernel takes a setting.
pub(super) fn write(dir: BorrowedFd<'_>, file: &str, value: &str) -> Result<()> {
    write_open(&open_file(dir, file, libc::O_WRONLY)?, file, value)
}

/// As [`write`], on an open file.
pub(super) fn write_open(fd: &OwnedFd, file: &str, value: &str) -> Result<()> {
    call!("write({file:?}, {value:?})" => nix::unistd::write(fd, value.as_bytes()))?;
    Ok(())
}

/// Makes a directory; whether it is new.
pub(super) fn make_dir(parent: BorrowedFd<'_>, name: &CStr) -> Result<bool> {
    match mkdirat(parent, name, Mode::from_bits_truncate(0o755)) {
        Err(Errno::EEXIST) => Ok(false),
        made => call!("mkdirat({}, {name:?})", parent.as_raw_fd() => made).map(|()| true),
    }
}

/// Removes an empty cgroup; one that is gone is fine.
pub(super) fn remove_dir(parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
        // ENODEV: the cgroup above is being removed too.
        Err(Errno::ENOENT | Errno::ENODEV) => Ok(()),
        removed => call!("unlinkat({}, {name:?}, AT_REMOVEDIR)", parent.as_raw_fd() => removed),
    }
}

/// Visits `top` and every cgroup below it, parents first; `leave` gets each one but `top`, as a name in its parent,
/// after all below it. Holds one descriptor whatever the depth, because a container that may make cgroups chooses it.
pub(super) fn walk(
    top: BorrowedFd<'_>,
    visit: &mut dyn FnMut(BorrowedFd<'_>) -> Result<()>,
    leave: &mut dyn FnMut(BorrowedFd<'_>, &CStr) -> Result<()>,
) -> Result<()> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let mut current = match openat2(top, c".", flags, 0, Resolve::BENEATH) {
        Err(e) if is_gone(e.errno) => return Ok(()),
        opened => opened?,
    };
    visit(current.as_fd())?;
    // Names still to be visited of each level, and the name by which each but the first was entered.
    let mut levels = vec![children(current.as_fd())?];
    let mut names: Vec<CString> = Vec::new();
    while let Some(rest) = levels.last_mut() {
        if let Some(name) = rest.pop() {
            match openat2(current.as_fd(), &name, flags, 0, Resolve::BENEATH) {
                Err(e) if is_gone(e.errno) => continue,
                opened => current = opened?,
            }
            visit(current.as_fd())?;
            levels.push(children(current.as_fd())?);
            names.push(name);
        } else {
            levels.pop();
            let Some(name) = names.pop() else { break };
            // A cgroup never moves to another parent (rename is refused on v2 and stays in the directory on v1).
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            current =
                call!("openat({}, \"..\")", current.as_raw_fd() => openat(&current, c"..", flags, Mode::empty()))?;
            leave(current.as_fd(), &name)?;
        }
    }
    Ok(())
}

/// The cgroups directly below; none if the directory is gone.
fn children(dir: BorrowedFd<'_>) -> Result<Vec<CString>> {
    let listed = openat2(dir, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0, Resolve::BENEATH);
    let mut dir = match listed {
        Err(e) if is_gone(e.errno) => return Ok(Vec::new()),
        fd => call!("fdopendir()" => Dir::from_fd(fd?))?,
    };
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = match entry {
            Err(e) if is_gone(e) => break,
            entry => call!("getdents64()" => entry)?,
        };
        let is_dir = entry.file_type() == Some(nix::dir::Type::Directory);
        if is_dir && entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// The process ids in a cgroup and those below it, each once.
pub(super) fn pids(top: BorrowedFd<'_>) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    // A threaded cgroup's processes are listed by the domain above it (cgroups(7)). If that is not the container's, only
    // the threads tell; kill(2) takes any thread for its process.
    let (mut file, mut first) = ("cgroup.procs", true);
    let mut visit = |dir: BorrowedFd<'_>| {
        let mut text = read_list(dir, file);
        if first && matches!(&text, Err(e) if e.errno == Errno::EOPNOTSUPP) {
            file = "cgroup.threads";
            text = read_list(dir, file);
        }
        first = false;
        match text {
            Err(e) if is_gone(e.errno) || e.errno == Errno::EOPNOTSUPP => {}
            // 0 stands for a process outside the caller's pid namespace, which no signal can reach.
            text => found.extend(text?.lines().filter_map(|line| line.parse().ok()).filter(|&pid: &i32| pid > 0)),
        }
        Ok(())
    };
    walk(top, &mut visit, &mut |_, _| Ok(()))?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The errors of files and directories of a cgroup that has been removed.
pub(super) fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ENODEV)
}

/// The number after `key` in a flat-keyed file such as `memory.events`.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::keyed;

    #[test]
    fn a_key_is_matched_whole() {
        assert_eq!(keyed("oom 1\noom_kill 3\noom_kill_group 4\n", "oom_kill"), Some(3));
        assert_eq!(keyed("", "oom_kill"), None);
    }
}
