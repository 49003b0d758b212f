// SPDX-License-Identifier: Apache-2.0
//! `--no-pivot` leaves the host's tree in the mount namespace, out of reach behind a `chroot(2)`. The kernel would then
//! take the host's whole procfs and sysfs as leave to mount new ones without masks (user_namespaces(7)), so that these
//! are taken out of the namespace first, as runc does.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::unistd::fchdir;

use super::mount::new_filesystem;
use super::path::{host_path, open_host};
use crate::plan::mount_options::attr;
use crate::sys::fd::{Resolve, openat2};
use crate::sys::mount::{self, failed};

/// Detaches, or covers, every whole procfs and sysfs that is not part of the container's tree, whose root directory is
/// `root`. `host_proc` is the host's /proc.
pub fn hide(root: BorrowedFd<'_>, host_proc: Option<&OwnedFd>) -> Result<()> {
    let Some(host_proc) = host_proc else { bail!("--no-pivot: /proc was not opened") };
    let listing = openat2(host_proc.as_fd(), c"self/mountinfo", libc::O_RDONLY, 0, Resolve(libc::RESOLVE_IN_ROOT))?;
    let mut text = Vec::new();
    std::fs::File::from(listing).read_to_end(&mut text).context("read mountinfo")?;
    // Later mounts are on top of earlier ones.
    for point in whole(&String::from_utf8_lossy(&text), mount::mount_id(root)?).iter().rev() {
        hide_one(point).with_context(|| format!("--no-pivot: hide {}", point.display()))?;
    }
    Ok(())
}

fn hide_one(point: &Path) -> Result<()> {
    // Covered by another mount, or out of the caller's reach, and thus out of the container's.
    let Ok(place) = open_host(&host_path(point)?, libc::O_DIRECTORY | libc::O_NOFOLLOW) else { return Ok(()) };
    fchdir(&place).map_err(failed("fchdir"))?;
    if mount::detach_cwd().is_ok() {
        return Ok(());
    }
    // Locked together with its parent by a user namespace.
    let empty = new_filesystem("tmpfs", Some("tmpfs"), &[], attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC)?;
    Ok(mount::attach(empty.as_fd(), place.as_fd())?)
}

/// The mount points of procfs and sysfs in a mountinfo (proc_pid_mountinfo(5)) whose root is `/`, without those in the
/// tree of the mount `container`.
fn whole(mountinfo: &str, container: u64) -> Vec<PathBuf> {
    let mounts: Vec<Listed> = mountinfo.lines().filter_map(Listed::parse).collect();
    let parents: HashMap<u64, u64> = mounts.iter().map(|m| (m.id, m.parent)).collect();
    let in_container = |mut id: u64| {
        // No tree is deeper than it has mounts; a listing that was read in pieces could have a loop.
        (0..=mounts.len()).any(|_| {
            let found = id == container;
            id = parents.get(&id).copied().unwrap_or(0);
            found
        })
    };
    mounts.iter().filter(|m| m.whole && !in_container(m.id)).map(|m| m.point.clone()).collect()
}

struct Listed {
    id: u64,
    parent: u64,
    point: PathBuf,
    /// Whether it is a procfs or sysfs from its root on.
    whole: bool,
}

impl Listed {
    fn parse(line: &str) -> Option<Self> {
        let (place, kind) = line.split_once(" - ")?;
        let mut fields = place.split(' ');
        let (id, parent) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let within = fields.nth(1)?;
        let point = unescape(fields.next()?)?;
        let whole = within == "/" && matches!(kind.split(' ').next()?, "proc" | "sysfs");
        Some(Self { id, parent, point, whole })
    }
}

/// A path of mountinfo, which has `\040` for a blank, and so on (proc_pid_mountinfo(5)). None if that is no such text.
pub(super) fn unescape(field: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(3)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?);
        rest = tail;
    }
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_proc_and_sysfs_outside_the_root_are_found() {
        let mountinfo = "22 27 0:21 / /proc rw,relatime shared:1 - proc proc rw\n\
            23 27 0:22 / /sys rw - sysfs sysfs rw\n\
            24 27 0:22 /fs /a rw - sysfs sysfs rw\n\
            25 27 0:23 / /my\\040proc rw - proc proc rw\n\
            26 30 0:24 / /c/proc rw - proc proc rw\n\
            30 27 254:0 /c /c rw - ext4 /dev/vda rw\n\
            27 1 254:0 / / rw - ext4 /dev/vda rw\n";
        let found = whole(mountinfo, 30);
        assert_eq!(found, [Path::new("/proc"), Path::new("/sys"), Path::new("/my proc")]);
    }
}
