// SPDX-License-Identifier: Apache-2.0
//! procfs, reached only through a handle on the host's own instance that is opened and verified before any mount of the
//! container exists (CVE-2019-16884, CVE-2025-52881: a /proc of the container's making leads writes astray).

use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::plan::namespaces::Kind;
use crate::sys::fd::{Resolve, openat2};
use crate::sys::process::pidfd_open;
use crate::sys::{self, call};

/// PF_FORKNOEXEC of `linux/sched.h`: the process was forked and has not called execve since.
const FORKED_NO_EXEC: u64 = 0x40;
/// The inode of a procfs root (PROC_ROOT_INO).
const ROOT_INODE: u64 = 1;

/// The host's procfs.
#[derive(Debug)]
pub struct Proc(OwnedFd);

impl Proc {
    /// Opens /proc and makes sure that it is the root of a procfs.
    pub fn open() -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let root = call!("open(\"/proc\")" => open("/proc", flags, Mode::empty()))?;
        let kind = call!("fstatfs(\"/proc\")" => fstatfs(&root))?.filesystem_type();
        let inode = call!("fstat(\"/proc\")" => fstat(&root))?.st_ino;
        if kind != PROC_SUPER_MAGIC || inode != ROOT_INODE {
            bail!("/proc is not the root of a procfs; orlop needs the host's, see proc(5)");
        }
        Ok(Self(root))
    }

    /// Another descriptor of the same instance, which needs no further look.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self(self.0.try_clone().context("duplicate the handle on /proc")?))
    }

    fn file(&self, path: &str, flags: libc::c_int) -> sys::Result<std::fs::File> {
        let name = CString::new(path)
            .map_err(|_| sys::Error { call: format!("openat2(proc, {path:?})"), errno: Errno::EINVAL })?;
        openat2(self.0.as_fd(), &name, flags | libc::O_NOCTTY, 0, Resolve::BENEATH).map(std::fs::File::from)
    }

    /// The contents of a file below /proc, which must not lead through a link: `123/stat`, not `self/stat`.
    pub fn read(&self, path: &str) -> Result<String> {
        let mut text = String::with_capacity(512);
        self.file(path, libc::O_RDONLY)?.read_to_string(&mut text).with_context(|| format!("read /proc/{path}"))?;
        Ok(text)
    }

    /// As [`Proc::read`], for a file that need not be UTF-8.
    pub fn read_bytes(&self, path: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(path, libc::O_RDONLY)?.read_to_end(&mut bytes).with_context(|| format!("read /proc/{path}"))?;
        Ok(bytes)
    }

    /// Writes `value` in one write(2).
    pub fn write(&self, path: &str, value: &str) -> Result<()> {
        let written = self.file(path, libc::O_WRONLY)?.write(value.as_bytes());
        let failed = written.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)));
        call!("write(\"/proc/{path}\", {value:?})" => failed)?;
        Ok(())
    }

    /// What /proc/PID/stat says of a process; None if there is none.
    pub fn stat(&self, pid: Pid) -> Result<Option<Stat>> {
        let mut text = String::with_capacity(512);
        let gone = |e: &Errno| matches!(e, Errno::ENOENT | Errno::ESRCH);
        match self.file(&format!("{pid}/stat"), libc::O_RDONLY) {
            Err(e) if gone(&e.errno) => return Ok(None),
            Err(e) => return Err(e.into()),
            Ok(mut file) => match file.read_to_string(&mut text) {
                Err(e) if e.raw_os_error().map(Errno::from_raw).as_ref().is_some_and(gone) => return Ok(None),
                Err(e) => return Err(e).with_context(|| format!("read /proc/{pid}/stat")),
                Ok(_) => {}
            },
        }
        Stat::parse(&text).map(Some).with_context(|| format!("/proc/{pid}/stat is not in the format of proc(5)"))
    }

    /// The identity of a live process.
    pub fn identify(&self, pid: Pid) -> Result<Identity> {
        let pidfd = pidfd_open(pid)?;
        let stat = self.stat(pid)?.with_context(|| format!("process {pid} has ended"))?;
        Ok(Identity {
            pid: pid.as_raw(),
            start_time: stat.start_time,
            pidfd_inode: call!("fstat(pidfd)" => fstat(&pidfd))?.st_ino,
            boot_id: self.boot_id()?,
        })
    }

    /// The kernel's name for this boot.
    pub fn boot_id(&self) -> Result<String> {
        Ok(self.read("sys/kernel/random/boot_id")?.trim_end().to_string())
    }

    /// The process that was recorded as `identity`, if it is provably the same: pids are reused (CVE class E15: killing
    /// an innocent process).
    pub fn find(&self, identity: &Identity) -> Result<Option<Found>> {
        let pid = Pid::from_raw(identity.pid);
        let pidfd = match pidfd_open(pid) {
            Ok(pidfd) => pidfd,
            Err(e) if e.errno == Errno::ESRCH || e.errno == Errno::EINVAL => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let Some(stat) = self.stat(pid)? else { return Ok(None) };
        let same = stat.start_time == identity.start_time
            && call!("fstat(pidfd)" => fstat(&pidfd))?.st_ino == identity.pidfd_inode
            && self.boot_id()? == identity.boot_id;
        Ok(same.then_some(Found { pidfd, stat }))
    }

    /// The root directory of a recorded process, which must still be the same.
    pub fn root_of(&self, identity: &Identity) -> Result<OwnedFd> {
        let path = format!("{}/root", identity.pid);
        // A magic link: openat2's refusal of these is not wanted here.
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root =
            call!("openat(\"/proc/{path}\")" => nix::fcntl::openat(&self.0, path.as_str(), flags, Mode::empty()))?;
        self.find(identity)?.context("the container's init has ended")?;
        Ok(root)
    }

    /// A namespace of a process that the caller knows to be alive: a child that it has not reaped.
    pub fn open_namespace(&self, pid: Pid, kind: Kind) -> Result<OwnedFd> {
        let path = format!("{pid}/ns/{}", kind.file());
        // A magic link: openat2's refusal of these is not wanted here.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        Ok(call!("openat(\"/proc/{path}\")" => nix::fcntl::openat(&self.0, path.as_str(), flags, Mode::empty()))?)
    }

    /// Writes to a file of the caller's own directory. Its number in this procfs is not its pid if the caller is in
    /// another PID namespace; the link `self` knows it.
    pub fn write_own(&self, path: &str, value: &str) -> Result<()> {
        let own = call!("readlinkat(\"/proc/self\")" => nix::fcntl::readlinkat(&self.0, "self"))?;
        self.write(&format!("{}/{path}", own.to_string_lossy()), value)
    }

    /// The directory of the caller's own descriptors.
    pub fn own_descriptors(&self) -> Result<OwnedFd> {
        let own = call!("readlinkat(\"/proc/self\")" => nix::fcntl::readlinkat(&self.0, "self"))?;
        let name = CString::new(format!("{}/fd", own.to_string_lossy())).context("/proc/self")?;
        Ok(openat2(self.0.as_fd(), &name, libc::O_PATH | libc::O_DIRECTORY, 0, Resolve::BENEATH)?)
    }

    /// Below `sys`: the file of a kernel parameter.
    pub fn write_sysctl(&self, path: &Path, value: &str) -> Result<()> {
        self.write(&format!("sys/{}", path.display()), value)
    }
}

impl AsFd for Proc {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A path for calls that know no directory descriptor (bind(2) of a UNIX socket, whose path may have 107 bytes). Only for
/// the host's side, before anything of the container is mounted.
pub fn path_of(fd: impl AsRawFd, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", fd.as_raw_fd()))
}

/// The members of /proc/PID/stat that orlop uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub state: char,
    pub parent: i32,
    pub flags: u64,
    /// In clock ticks since boot.
    pub start_time: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The command name, in parentheses, may contain anything, parentheses included.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            flags: fields.get(6)?.parse().ok()?,
            start_time: fields.get(19)?.parse().ok()?,
        })
    }

    /// A zombie or dead process, which runs no more though its parent has not reaped it.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// Whether the process is a fork of the runtime still: true for init until its execve, whatever the state directory
    /// says, so that `created` and `running` cannot be mixed up by a crash.
    pub fn has_not_execed(&self) -> bool {
        self.flags & FORKED_NO_EXEC != 0
    }
}

/// What makes a process unmistakable across pid reuse and reboots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    pub pid: i32,
    /// In clock ticks since boot (proc(5), starttime).
    pub start_time: u64,
    /// Unique for each process of a boot where pidfds have a file system of their own (Linux 6.9).
    pub pidfd_inode: u64,
    pub boot_id: String,
}

/// A recorded process that still exists, as a zombie perhaps.
#[derive(Debug)]
pub struct Found {
    pub pidfd: OwnedFd,
    pub stat: Stat,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_cannot_forge_the_fields() {
        let text = "42 (a) Z 1 (x) S 7 42 42 0 -1 4194368 1 2 3 4 5 6 7 8 20 0 1 0 99887 0 0\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.parent, stat.start_time), ('S', 7, 99887));
        assert!(stat.has_not_execed() && !stat.has_ended());
        assert_eq!(Stat::parse("42 (x"), None);
    }
}
