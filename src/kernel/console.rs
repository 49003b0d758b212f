// SPDX-License-Identifier: Apache-2.0
//! The container's terminal: a pseudo-terminal of its own devpts. Neither end is ever looked up by a name that the
//! container could have made (CVE-2025-52565, CVE-2026-88264).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::stat::{major, makedev};
use nix::sys::statfs::{DEVPTS_SUPER_MAGIC, fstatfs};
use nix::unistd::{Uid, dup2_stderr, dup2_stdin, dup2_stdout, fchown, setsid};

use super::path;
use crate::error::ResultExt;
use crate::sys::fd::{Resolve, openat2};
use crate::sys::mount::{self, failed};
use crate::sys::tty;

/// A pseudo-terminal, both ends open.
#[derive(Debug)]
pub struct Console {
    /// The end for whoever runs the container.
    pub master: OwnedFd,
    /// The end for the container's process.
    pub slave: OwnedFd,
    /// The name of the slave in the container, `/dev/pts/N`.
    pub name: String,
}

impl Console {
    /// Makes a pseudo-terminal of the devpts whose root directory is `pts`, after a check that it is one.
    pub fn open(pts: BorrowedFd<'_>) -> Result<Self> {
        if fstatfs(pts).map_err(failed("fstatfs(/dev/pts)"))?.filesystem_type() != DEVPTS_SUPER_MAGIC {
            bail!("/dev/pts of the container is not a devpts file system");
        }
        // On a devpts every node is the kernel's, so that opening this one for writing does no harm.
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_NOFOLLOW;
        let master = openat2(pts, c"ptmx", flags, 0, Resolve::BENEATH).context("/dev/pts/ptmx")?;
        let stat = path::stat(master.as_fd())?;
        if !path::is(&stat, libc::S_IFCHR) || stat.st_rdev != makedev(5, 2) {
            bail!("/dev/pts/ptmx of the container is not the multiplexer of pseudo-terminals (5:2)");
        }
        tty::unlock_peer(master.as_fd())?;
        let slave = tty::open_peer(master.as_fd())?;
        let stat = path::stat(slave.as_fd())?;
        // Documentation/admin-guide/devices.txt: 136-143 are the slaves of Unix98 pseudo-terminals.
        if !path::is(&stat, libc::S_IFCHR) || !(136..=143).contains(&major(stat.st_rdev)) {
            bail!("the peer of /dev/pts/ptmx is not a pseudo-terminal");
        }
        let name = format!("/dev/pts/{}", tty::number(master.as_fd())?);
        Ok(Self { master, slave, name })
    }

    /// Binds the slave to the entry `console` of `dev`. The kernel finds the mount through the slave's own descriptor,
    /// which must be on a devpts of the caller's mount namespace. Without such an entry one is made if `make`; a /dev that
    /// is the host's stays as it is.
    pub fn bind(&self, dev: BorrowedFd<'_>, make: bool) -> Result<()> {
        let (target, found) = match path::open_entry(dev, "console")? {
            Some(fd) => {
                let stat = path::stat(fd.as_fd())?;
                (fd, Some(stat))
            }
            None if !make => return Ok(()),
            None => (path::make_file_in(dev, "console", 0o620).context("/dev/console")?, None),
        };
        // An image may bring the device 5:1 or a file; covering it does not touch it. Only a link would be odd.
        if found.is_some_and(|stat| !path::is(&stat, libc::S_IFCHR) && !path::is(&stat, libc::S_IFREG)) {
            bail!("/dev/console of the root filesystem is neither a file nor a character device");
        }
        let node = mount::clone_tree(self.slave.as_fd(), c"", false).context("/dev/console")?;
        mount::attach(node.as_fd(), target.as_fd()).context("/dev/console")
    }

    /// `process.consoleSize`.
    pub fn set_size(&self, rows: u16, columns: u16) -> Result<()> {
        Ok(tty::set_size(self.master.as_fd(), rows, columns)?)
    }

    /// Gives the slave to the user of the container's process, as login(1) does. The group stays that of the devpts.
    pub fn give_to(&self, uid: u32) -> Result<()> {
        fchown(&self.slave, Some(Uid::from_raw(uid)), None)
            .map_err(failed(format!("fchown({}, {uid})", self.name)))
            .hint_if(Errno::EINVAL, "the user id has no mapping in the container's user namespace")
    }
}

/// Makes `slave` the controlling terminal and the standard streams of the caller, in a new session unless the caller
/// leads one.
pub fn attach(slave: OwnedFd) -> Result<()> {
    match setsid() {
        // EPERM: the caller leads its process group, thus, as nobody else made one for it, its session.
        Ok(_) | Err(Errno::EPERM) => {}
        Err(e) => return Err(failed("setsid")(e).into()),
    }
    tty::control(slave.as_fd())?;
    dup2_stdin(&slave).map_err(failed("dup2(0)"))?;
    dup2_stdout(&slave).map_err(failed("dup2(1)"))?;
    dup2_stderr(&slave).map_err(failed("dup2(2)"))?;
    if slave.as_raw_fd() <= libc::STDERR_FILENO {
        // The slave was itself a standard stream, which must stay open.
        std::mem::forget(slave);
    }
    Ok(())
}

/// Connects to the socket of `--console-socket`. For the parent, before the clone: `path` is one of the host.
pub fn connect(path: &Path) -> Result<OwnedFd> {
    let socket =
        UnixStream::connect(path).with_context(|| format!("connect to --console-socket {}", path.display()))?;
    Ok(socket.into())
}

/// Sends the master over a connected socket, with the slave's name as payload (runc's docs/terminals.md).
pub fn send_master(socket: BorrowedFd<'_>, master: BorrowedFd<'_>, name: &str) -> Result<()> {
    crate::sys::socket::send(socket, name.as_bytes(), Some(master)).context("send the terminal to --console-socket")
}
