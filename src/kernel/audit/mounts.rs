// SPDX-License-Identifier: Apache-2.0
//! The mounts that init sees: each path is resolved in init's own root, and the mount found there is looked up in its
//! mountinfo by id, so that links of the image cannot lead the comparison astray.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Result;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::{Report, Subject};
use crate::kernel::path::{self, Root, host_path, open_host};
use crate::kernel::procfs::Proc;
use crate::plan::filesystem::InRoot;
use crate::plan::mount_options::{Attrs, attr, names};
use crate::plan::mounts::{Kind, Mount, change_of};
use crate::sys::call;
use crate::sys::mount::{is_mount_root, mount_id};

/// A line of mountinfo (proc_pid_mountinfo(5)).
struct Listed<'t> {
    options: Vec<&'t str>,
    fstype: &'t str,
}

/// The bits that are compared: access time modes are the kernel's business where nothing is asked.
const COMPARED: u64 = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;

pub fn audit(subject: &Subject<'_>, proc: &Proc, report: &mut Report) -> Result<()> {
    let pid = subject.init.pid;
    let root = Root::new(proc.root_of(subject.init)?);
    root_directory(subject, &root, report)?;
    let fs = &subject.plan.filesystem;
    if !fs.mount_namespace {
        return Ok(());
    }
    let text = proc.read(&format!("{pid}/mountinfo"))?;
    let table: HashMap<u64, Listed<'_>> = text.lines().filter_map(parse).collect();
    let cwd = format!("{pid}/cwd");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = call!("openat(\"/proc/{cwd}\")" => openat(proc, cwd.as_str(), flags, Mode::empty()))?;
    // mountinfo has the mounts below the root only: a directory of the host's would be on none of them (CVE-2024-21626).
    let inside = table.contains_key(&mount_id(directory.as_fd())?);
    report.judge(inside, format!("/proc/{cwd}"), "process.cwd", "a directory below the root", "one outside of it");
    let place = |path: &InRoot| format!("mount {path}");
    if fs.read_only {
        let listed = table.get(&mount_id(root.fd())?);
        let read_only = listed.is_some_and(|mount| mount.options.contains(&"ro"));
        report.judge(read_only, "mount /", "root.readonly", "ro", "rw");
    }
    for (i, mount) in fs.mounts.iter().enumerate() {
        let hidden = |path: &InRoot| *path == mount.destination || mount.destination.is_below(path);
        // The remount of an entry hides nothing: it is part of what is asked for that entry.
        let is_change = |mount: &&Mount| matches!(mount.kind, Kind::Remount { of: Some(_) });
        let mut later = fs.mounts.iter().skip(i + 1).filter(|later| !is_change(later));
        if is_change(&mount) || later.any(|later| hidden(&later.destination)) || fs.masked.iter().any(hidden) {
            continue;
        }
        let at = format!("mounts[{}]", mount.index);
        let asked = change_of(&fs.mounts, i);
        match mounted(&root, &mount.destination, &table)? {
            Some(listed) => attributes(mount, asked, listed, &at, report),
            None => {
                report.judge(false, place(&mount.destination), &at, words(mount, asked), "nothing is mounted there");
            }
        }
    }
    for (i, path) in fs.read_only_paths.iter().enumerate() {
        let Some(fd) = root.find(path)? else { continue };
        // What was mounted over it afterwards counts, as do masks.
        let listed = table.get(&mount_id(fd.as_fd())?);
        let read_only = listed.is_some_and(|mount| mount.options.contains(&"ro")) || is_null(fd.as_fd())?;
        report.judge(read_only, place(path), &format!("linux.readonlyPaths[{i}]"), "ro", "rw");
    }
    for (i, path) in fs.masked.iter().enumerate() {
        let Some(fd) = root.find(path)? else { continue };
        let covered = is_null(fd.as_fd())?
            || is_mount_root(fd.as_fd())?
                && table.get(&mount_id(fd.as_fd())?).is_some_and(|m| m.fstype == "tmpfs" && m.options.contains(&"ro"));
        report.judge(covered, place(path), &format!("linux.maskedPaths[{i}]"), "masked", "in view");
    }
    Ok(())
}

/// Init's root directory is the bundle's.
fn root_directory(subject: &Subject<'_>, root: &Root, report: &mut Report) -> Result<()> {
    let pid = subject.init.pid;
    match open_host(&host_path(subject.rootfs)?, libc::O_DIRECTORY) {
        Ok(host) => {
            let (asked, now) = (path::stat(host.as_fd())?, path::stat(root.fd())?);
            let same = (asked.st_dev, asked.st_ino) == (now.st_dev, now.st_ino);
            let asked = subject.rootfs.display().to_string();
            report.judge(same, format!("/proc/{pid}/root"), "root.path", asked, "another directory");
        }
        Err(e) => report.note(format!("root.path is not compared: {e}")),
    }
    Ok(())
}

fn parse(line: &str) -> Option<(u64, Listed<'_>)> {
    let (place, kind) = line.split_once(" - ")?;
    let mut fields = place.split(' ');
    let id = fields.next()?.parse().ok()?;
    let options = fields.nth(4)?.split(',').collect();
    Some((id, Listed { options, fstype: kind.split(' ').next()? }))
}

/// The mount whose root is at `path`; None if that is just a part of another mount, or missing.
fn mounted<'m, 't>(root: &Root, path: &InRoot, table: &'m HashMap<u64, Listed<'t>>) -> Result<Option<&'m Listed<'t>>> {
    let Some(fd) = root.find(path)? else { return Ok(None) };
    Ok(if is_mount_root(fd.as_fd())? { table.get(&mount_id(fd.as_fd())?) } else { None })
}

fn is_null(fd: BorrowedFd<'_>) -> Result<bool> {
    let stat = path::stat(fd)?;
    Ok(path::is(&stat, libc::S_IFCHR) && stat.st_rdev == libc::makedev(1, 3))
}

/// The type that mountinfo shows, where it is certain.
fn fstype(kind: &Kind) -> Option<&str> {
    match kind {
        Kind::Proc => Some("proc"),
        Kind::Sysfs => Some("sysfs"),
        Kind::Tmpfs { .. } => Some("tmpfs"),
        Kind::Devpts => Some("devpts"),
        Kind::Mqueue => Some("mqueue"),
        Kind::Other { fstype } => Some(fstype),
        Kind::Bind { .. } | Kind::Cgroup | Kind::Remount { .. } => None,
    }
}

fn words(mount: &Mount, asked: Attrs) -> String {
    let kind = fstype(&mount.kind).unwrap_or("a mount");
    [&[kind], names(asked.set & COMPARED).as_slice()].concat().join(" ")
}

fn attributes(mount: &Mount, asked: Attrs, listed: &Listed<'_>, at: &str, report: &mut Report) {
    let has = |name: &&str| listed.options.contains(name);
    let same = fstype(&mount.kind).is_none_or(|fstype| fstype == listed.fstype)
        && names(asked.set & COMPARED).iter().all(has)
        && !names(asked.clear & COMPARED).iter().any(has);
    let kept: Vec<&str> = names(COMPARED).into_iter().filter(|name| has(name)).collect();
    let now = [&[listed.fstype], kept.as_slice()].concat().join(" ");
    report.judge(same, format!("mount {}", mount.destination), at, words(mount, asked), now);
}
