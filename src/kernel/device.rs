// SPDX-License-Identifier: Apache-2.0
//! Device nodes and the links of /dev. Nodes are made in, or bound to, an entry of a directory that is held open, and
//! are verified by descriptor: neither a link at /dev nor a wrong node at /dev/null leads anywhere (CVE-2026-41579,
//! CVE-2025-31133).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, Mode, SFlag, makedev, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};

use super::path::{self, Root, c_string};
use crate::error::ResultExt;
use crate::plan::devices::{Device, DeviceKind};
use crate::plan::filesystem::InRoot;
use crate::sys::mount::{self, Attr, failed};

impl Device {
    fn file_type(&self) -> libc::mode_t {
        match self.kind {
            DeviceKind::Char => libc::S_IFCHR,
            DeviceKind::Block => libc::S_IFBLK,
            DeviceKind::Fifo => libc::S_IFIFO,
        }
    }

    fn numbers(&self) -> libc::dev_t {
        makedev(self.major.into(), self.minor.into())
    }

    fn matches(&self, stat: &FileStat) -> bool {
        path::is(stat, self.file_type()) && (self.kind == DeviceKind::Fifo || stat.st_rdev == self.numbers())
    }
}

/// The host's null device, verified, as a detached mount to put over masked files. Read-only and so on, since otherwise
/// the container's root could change the mode of the host's node through a masked path.
///
/// # Errors
/// If `/dev/null` of the host is not the character device 1:3.
pub fn host_null() -> Result<OwnedFd> {
    let fd = mount::clone_tree(nix::fcntl::AT_FDCWD, c"/dev/null", false)?;
    let stat = path::stat(fd.as_fd())?;
    if !path::is(&stat, libc::S_IFCHR) || stat.st_rdev != makedev(1, 3) {
        bail!("/dev/null of the host is not the null device (character device 1:3)");
    }
    let set = crate::plan::mount_options::attr::RDONLY
        | crate::plan::mount_options::attr::NOSUID
        | crate::plan::mount_options::attr::NOEXEC;
    let propagation = libc::MS_PRIVATE;
    mount::set_attr(fd.as_fd(), &Attr { set, propagation, ..Attr::default() }, false)?;
    Ok(fd)
}

/// The host's node for `device` as a detached mount, verified.
///
/// # Errors
/// If there is no such node, or another one at its path.
pub fn host_node(device: &Device) -> Result<OwnedFd> {
    let path = c_string(device.path.as_str())?;
    let fd = mount::clone_tree(nix::fcntl::AT_FDCWD, &path, false).hint_if(
        Errno::ENOENT,
        "in a user namespace the host's device nodes are bound, as mknod(2) is not permitted; the host has none here",
    )?;
    if !device.matches(&path::stat(fd.as_fd())?) {
        bail!("the host's {} is not the device {}:{}", device.path, device.major, device.minor);
    }
    let propagation = libc::MS_PRIVATE;
    mount::set_attr(fd.as_fd(), &Attr { propagation, ..Attr::default() }, false)?;
    Ok(fd)
}

/// Makes every device in the root, or binds `nodes[i]` where the plan says so. The umask must be 0.
pub fn all(root: &Root, devices: &[Device], nodes: &[Option<OwnedFd>]) -> Result<()> {
    // Nearly all are in /dev, so that its descriptor is kept from one to the next.
    let mut last: Option<(&str, OwnedFd)> = None;
    for (i, device) in devices.iter().enumerate() {
        let parent = device.path.as_str().rsplit_once('/').map_or("", |(parent, _)| parent);
        if last.as_ref().is_none_or(|(path, _)| *path != parent) {
            last = Some((parent, root.entry(&device.path).with_context(|| device.name())?.0));
        }
        let Some((_, dir)) = &last else { continue };
        let name = device.path.as_str().rsplit('/').next().unwrap_or_default();
        match nodes.get(i).and_then(Option::as_ref) {
            Some(node) => bind(dir.as_fd(), name, node.as_fd()),
            None => make(dir.as_fd(), name, device),
        }
        .with_context(|| device.name())?;
    }
    Ok(())
}

fn make(dir: BorrowedFd<'_>, name: &str, device: &Device) -> Result<()> {
    match node(dir, name, device) {
        Ok(()) => {}
        Err(Errno::EEXIST) => {
            let Some(found) = path::open_entry(dir, name)? else { bail!("{name} vanished while it was made") };
            let stat = path::stat(found.as_fd())?;
            if !device.matches(&stat) {
                bail!("the root filesystem has another file there (config-linux.md#devices)");
            }
            if (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid) == (device.mode, device.uid, device.gid) {
                return Ok(());
            }
            // The mode of an O_PATH descriptor cannot be changed before Linux 6.6, and opening a device acts on it.
            match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
                Ok(()) => {}
                // The configuration binds the right node there, whose mode is the host's.
                Err(Errno::EBUSY) => return Ok(()),
                Err(e) => return Err(failed(format!("unlinkat({name:?})"))(e).into()),
            }
            node(dir, name, device).map_err(failed(format!("mknodat({name:?})")))?;
        }
        Err(e) => {
            return Err(failed(format!("mknodat({name:?})"))(e))
                .hint_if(Errno::EPERM, "mknod(2) needs CAP_MKNOD in the initial user namespace");
        }
    }
    let Some(made) = path::open_entry(dir, name)? else { bail!("{name} vanished after it was made") };
    let stat = path::stat(made.as_fd())?;
    if !device.matches(&stat) || stat.st_mode & 0o7777 != device.mode {
        bail!("{name} was replaced, or got the mode {:o}, while it was made", stat.st_mode & 0o7777);
    }
    if (stat.st_uid, stat.st_gid) != (device.uid, device.gid) {
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        fchownat(&made, c"", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)
            .map_err(failed(format!("fchownat({name:?}, {uid}, {gid})")))
            .hint_if(Errno::EINVAL, "the id has no mapping in the container's user namespace")?;
    }
    Ok(())
}

fn node(dir: BorrowedFd<'_>, name: &str, device: &Device) -> nix::Result<()> {
    let kind = SFlag::from_bits_truncate(device.file_type());
    mknodat(dir, name, kind, Mode::from_bits_truncate(device.mode), device.numbers())
}

/// Binds a verified detached mount of a node to the entry `name`, on an empty file if nothing is there.
pub fn bind(dir: BorrowedFd<'_>, name: &str, node: BorrowedFd<'_>) -> Result<()> {
    let target = match path::open_entry(dir, name)? {
        Some(found) => found,
        None => path::make_file_in(dir, name, 0o666)?,
    };
    let found = path::stat(target.as_fd())?;
    let wanted = path::stat(node)?;
    let same_node = (found.st_mode & libc::S_IFMT, found.st_rdev) == (wanted.st_mode & libc::S_IFMT, wanted.st_rdev);
    let placeholder = path::is(&found, libc::S_IFREG) && found.st_size == 0;
    if !same_node && !placeholder {
        bail!("the root filesystem has another file there (config-linux.md#devices)");
    }
    Ok(mount::attach(node, target.as_fd())?)
}

/// The links of /dev: config-linux.md#dev-symbolic-links, and `core` as runc makes it. What is there already stays,
/// except `ptmx`, which must be that of the container's own devpts.
pub fn links(root: &Root, dev: BorrowedFd<'_>) -> Result<()> {
    for (target, name) in [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ] {
        link(dev, target, name)?;
    }
    let kcore = InRoot::new("", "/proc/kcore", &mut Default::default());
    if let Some(kcore) = kcore
        && root.find(&kcore)?.is_some()
    {
        link(dev, "/proc/kcore", "core")?;
    }
    let target = "pts/ptmx";
    if !link(dev, target, "ptmx")? && nix::fcntl::readlinkat(dev, "ptmx").ok().is_none_or(|found| found != target) {
        unlinkat(dev, "ptmx", UnlinkatFlags::NoRemoveDir).map_err(failed("unlinkat(\"/dev/ptmx\")"))?;
        link(dev, target, "ptmx")?;
    }
    Ok(())
}

/// Whether the link was made; false if something is there.
fn link(dev: BorrowedFd<'_>, target: &str, name: &str) -> Result<bool> {
    match symlinkat(target, dev, name) {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST) => Ok(false),
        Err(e) => Err(failed(format!("symlinkat({target:?}, {name:?})"))(e).into()),
    }
}
