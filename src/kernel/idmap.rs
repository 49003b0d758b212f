// SPDX-License-Identifier: Apache-2.0
//! Writing the maps of a new user namespace, from outside, while its first process waits (user_namespaces(7)); and the
//! user namespaces that lend their maps to idmapped mounts (mount_setattr(2)).

use std::io::{PipeReader, PipeWriter, Read, pipe};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::sys::statfs::{FsType, fstatfs};
use nix::unistd::Pid;

use crate::error::{ResultExt, errno_of};
use crate::host::Host;
use crate::kernel::capability::setgroups_if_allowed;
use crate::kernel::path;
use crate::kernel::procfs::Proc;
use crate::kernel::subid::{self, Side};
use crate::plan::idmap::{IdMap, MountMap, Range, render};
use crate::plan::namespaces::Kind;
use crate::plan::rootless::is_own;
use crate::sys::clone::{Child, Clone, clone3, exit};
use crate::sys::mount::{self, Attr, failed};
use crate::sys::process::{pidfd_send_signal, set_parent_death_signal, setgid, setuid, wait};

/// Who writes the maps.
#[derive(Debug, Default)]
pub struct Writers {
    /// newuidmap and newgidmap, where they are needed.
    uid: Option<PathBuf>,
    gid: Option<PathBuf>,
    /// An ordinary user may write the map of his own gid only once setgroups(2) is denied: a group that takes rights
    /// away could be dropped otherwise (CVE-2014-8989).
    deny_setgroups: bool,
}

impl Writers {
    /// Decides, and finds the faults that can be found before there is a process.
    pub fn new(map: &IdMap, host: &Host) -> Result<Self> {
        if host.euid == 0 {
            return Ok(Self::default());
        }
        let of = |side: Side, ranges: &[Range], own: u32| {
            if is_own(ranges, own) { Ok(None) } else { side.check(ranges, host.euid, own).map(Some) }
        };
        let (uid, gid) = (of(subid::UID, &map.uid, host.euid)?, of(subid::GID, &map.gid, host.egid)?);
        Ok(Self { uid, deny_setgroups: gid.is_none(), gid })
    }

    /// Writes gid_map and uid_map of `pid`.
    pub fn write(&self, proc: &Proc, pid: Pid, map: &IdMap) -> Result<()> {
        if self.deny_setgroups {
            proc.write(&format!("{pid}/setgroups"), "deny").context(subid::GID.field)?;
        }
        for (side, program, ranges, file) in
            [(subid::GID, &self.gid, &map.gid, "gid_map"), (subid::UID, &self.uid, &map.uid, "uid_map")]
        {
            match program {
                Some(program) => side.write(program, pid, ranges)?,
                None => proc
                    .write(&format!("{pid}/{file}"), &render(ranges))
                    .hint_if(Errno::EPERM, "the caller needs CAP_SETUID and CAP_SETGID over every host id of the map")
                    .context(side.field)?,
            }
        }
        Ok(())
    }
}

/// Takes id 0 of the user namespace, so that what init makes belongs to the container's root and not to nobody.
///
/// `keeps_groups`: see [`Process`](crate::plan::process::Process).
pub fn become_root(keeps_groups: bool) -> Result<()> {
    setgroups_if_allowed(&[], keeps_groups).context("become root of the user namespace")?;
    setgid(0)
        .and_then(|()| setuid(0))
        .hint_if(Errno::EINVAL, "linux.uidMappings and linux.gidMappings must map id 0 of the container")
        .context("become root of the user namespace")
}

/// PARENT: idmaps mounts, with one user namespace for each distinct mapping.
pub struct Mapper<'a> {
    proc: &'a Proc,
    /// The mapping of the container's new user namespace.
    container: Option<&'a IdMap>,
    /// The user namespace that the container joins.
    joined: Option<OwnedFd>,
    made: Vec<(IdMap, OwnedFd)>,
}

impl<'a> Mapper<'a> {
    /// Makes nothing yet.
    pub fn new(proc: &'a Proc, container: Option<&'a IdMap>, joined: Option<BorrowedFd<'_>>) -> Result<Self> {
        let joined = joined.map(|fd| fd.try_clone_to_owned()).transpose().context("dup(user namespace)")?;
        Ok(Self { proc, container, joined, made: Vec::new() })
    }

    /// Idmaps the detached mount `mount`, which nobody may see yet.
    ///
    /// # Errors
    /// Names the file system if it cannot be idmapped.
    pub fn apply(&mut self, mount: BorrowedFd<'_>, map: &MountMap) -> Result<()> {
        if map.lenient && !has_owners(mount)? {
            return Ok(());
        }
        let namespace = match (&map.own, self.container, self.joined.is_some()) {
            (Some(own), ..) => self.namespace(own)?,
            (None, Some(container), _) => self.namespace(container)?,
            (None, None, true) => self.joined.as_ref().map(AsFd::as_fd).context("the user namespace is gone")?,
            (None, None, false) => return Err(anyhow!("the container has no user namespace whose mapping to use")),
        };
        let userns_fd = u64::try_from(namespace.as_raw_fd()).unwrap_or_default();
        let attr = Attr { set: libc::MOUNT_ATTR_IDMAP, userns_fd, ..Attr::default() };
        mount::set_attr(mount, &attr, map.recursive).map_err(Into::into).or_else(|e| explain(mount, map.recursive, e))
    }

    fn namespace(&mut self, map: &IdMap) -> Result<BorrowedFd<'_>> {
        let at = match self.made.iter().position(|(made, _)| made == map) {
            Some(at) => at,
            None => {
                self.made.push((map.clone(), new_namespace(self.proc, map)?));
                self.made.len() - 1
            }
        };
        let (_, fd) = self.made.get(at).context("the user namespace of the mapping is gone")?;
        Ok(fd.as_fd())
    }
}

/// A user namespace with the mapping `map` and no process: it lives by the descriptor alone.
fn new_namespace(proc: &Proc, map: &IdMap) -> Result<OwnedFd> {
    let (ours, theirs) = {
        let (reader, writer) = pipe().context("pipe()")?;
        (writer, reader)
    };
    let cloned = clone3(u64::from(Kind::User.flag().unsigned_abs()), None)
        .hint_if(Errno::ENOSPC, "a limit on user namespaces: /proc/sys/user/max_user_namespaces")
        .context("make a user namespace for an idmapped mount")?;
    match cloned {
        Clone::Child => hold(ours, theirs),
        Clone::Parent(child) => {
            drop(theirs);
            let made = Writers::default()
                .write(proc, child.pid, map)
                .and_then(|()| proc.open_namespace(child.pid, Kind::User));
            end(&child);
            made
        }
    }
}

/// CHILD: keeps the namespace alive until it is killed, or the parent has died.
fn hold(ours: PipeWriter, mut theirs: PipeReader) -> ! {
    drop(ours);
    // Only for the case that the parent's end is open in a process it has made meanwhile, which it does not do.
    drop(set_parent_death_signal(libc::SIGKILL));
    drop(theirs.read(&mut [0]));
    exit(0)
}

fn end(child: &Child) {
    // Dead already is as good.
    drop(pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL));
    drop(wait(child.pidfd.as_fd(), true));
}

/// The f_type of statfs(2) and the name of the common file systems; whether their files have owners that are kept on
/// disk or in memory, so that a mapping means something.
const FILE_SYSTEMS: [(FsType, &str, bool); 31] = [
    (FsType(0x0000_ef53), "ext4", true),
    (FsType(0x5846_5342), "xfs", true),
    (FsType(0x9123_683e), "btrfs", true),
    (FsType(0x0102_1994), "tmpfs", true),
    (FsType(0x794c_7630), "overlay", true),
    (FsType(0x6573_5546), "fuse", true),
    (FsType(0x0000_6969), "nfs", true),
    (FsType(0xff53_4d42), "cifs", true),
    (FsType(0xfe53_4d42), "smb3", true),
    (FsType(0x0102_1997), "9p", true),
    (FsType(0x2fc1_2fc1), "zfs", true),
    (FsType(0xf2f5_2010), "f2fs", true),
    (FsType(0xe0f5_e1e2), "erofs", true),
    (FsType(0x7371_7368), "squashfs", true),
    (FsType(0x0000_4d44), "vfat", true),
    (FsType(0x2011_bab0), "exfat", true),
    (FsType(0x7366_746e), "ntfs3", true),
    (FsType(0x0000_9660), "iso9660", true),
    (FsType(0x00c3_6400), "ceph", true),
    (FsType(0x8584_58f6), "ramfs", true),
    (FsType(0x9584_58f6), "hugetlbfs", true),
    (FsType(0x0000_9fa0), "proc", false),
    (FsType(0x6265_6572), "sysfs", false),
    (FsType(0x0027_e0eb), "cgroup", false),
    (FsType(0x6367_7270), "cgroup2", false),
    (FsType(0x0000_1cd1), "devpts", false),
    (FsType(0x1980_0202), "mqueue", false),
    (FsType(0xcafe_4a11), "bpf", false),
    (FsType(0x7472_6163), "tracefs", false),
    (FsType(0x6462_6720), "debugfs", false),
    (FsType(0x7363_6673), "securityfs", false),
];

fn file_system(mount: BorrowedFd<'_>) -> Result<(FsType, Option<&'static str>, bool)> {
    let magic = fstatfs(mount).map_err(failed("fstatfs"))?.filesystem_type();
    let known = FILE_SYSTEMS.iter().find(|(number, ..)| *number == magic);
    Ok(known.map_or((magic, None, true), |(_, name, owners)| (magic, Some(*name), *owners)))
}

/// Not so for file systems of the kernel's own, and for device nodes, whose modes are the host's.
fn has_owners(mount: BorrowedFd<'_>) -> Result<bool> {
    let stat = path::stat(mount)?;
    let device = path::is(&stat, libc::S_IFCHR) || path::is(&stat, libc::S_IFBLK);
    Ok(!device && file_system(mount)?.2)
}

/// mount_setattr(2) says EINVAL for a file system that knows nothing of idmapped mounts, and EPERM for other reasons.
fn explain(mount: BorrowedFd<'_>, recursive: bool, error: anyhow::Error) -> Result<()> {
    let name = match file_system(mount) {
        Ok((_, Some(name), _)) => name.to_string(),
        Ok((magic, None, _)) => format!("of type {:#x}", magic.0),
        Err(_) => "of an unknown type".to_string(),
    };
    let below = if recursive { ", or one mounted below it," } else { "" };
    let release = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let errno = errno_of(&error);
    let error = error.context(format!("the file system {name}{below} cannot be idmapped"));
    match errno {
        Some(Errno::ENOSYS) => Err(error).hint(format!("idmapped mounts need Linux 5.12, this is {release}")),
        Some(Errno::EINVAL) => Err(error).hint(format!(
            "idmapped mounts need Linux 5.12 and a file system that supports them: ext4, xfs, vfat (5.12), btrfs (5.15), \
             f2fs (5.18), erofs (5.19), tmpfs (6.3), .., but not overlay itself; this is Linux {release}"
        )),
        Some(Errno::EPERM) => Err(error).hint(
            "it is idmapped already, or it was mounted in another user namespace, whose CAP_SYS_ADMIN the caller lacks",
        ),
        _ => Err(error),
    }
}
