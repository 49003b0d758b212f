// SPDX-License-Identifier: Apache-2.0
//! The cgroup of a container that is being made: how a process gets into it.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use anyhow::Context;
use nix::errno::Errno;
use nix::unistd::Pid;

use super::fs;
use crate::error::ResultExt;
use crate::kernel::systemd::Started;
use crate::plan::cgroup::Version;
use crate::sys;

/// The open directories of one container's cgroup; none if the host has no cgroups or the caller may not make any.
#[derive(Debug, Default)]
pub struct Handle {
    pub(super) directories: Vec<Directory>,
    /// The unit that systemd has made it for, until a process of the container is in it.
    pub(super) started: RefCell<Option<Started>>,
}

#[derive(Debug)]
pub(super) struct Directory {
    pub(super) version: Version,
    pub(super) path: PathBuf,
    pub(super) fd: OwnedFd,
}

impl Handle {
    /// The v2 directory, for `CLONE_INTO_CGROUP` (clone(2), Linux 5.7): a process born there costs nothing, one that is
    /// moved waits for an RCU grace period, some milliseconds. On the hybrid layout too; there the child completes it by
    /// [`Handle::join_self`]. `None` on v1 alone.
    pub fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        self.directories.iter().find(|d| d.version == Version::V2).map(|d| d.fd.as_fd())
    }

    /// Makes the v2 cgroup one of threads, which is what it can be below a cgroup that is threaded (cgroups(7),
    /// "Threaded mode"): until then it takes no process (EOPNOTSUPP). Whether it was not one before.
    ///
    /// # Errors
    /// EOPNOTSUPP if the cgroups above do not allow it.
    pub fn make_threaded(&self) -> sys::Result<bool> {
        let Some(dir) = self.clone_into() else { return Ok(false) };
        if fs::read(dir, "cgroup.type")?.trim() != "domain invalid" {
            return Ok(false);
        }
        fs::write(dir, "cgroup.type", "threaded").map(|()| true)
    }

    /// Whether systemd can move a process in that may not be cloned into it, or not at a limit of processes that what
    /// holds the scope open has met.
    pub fn is_held_open(&self) -> bool {
        self.started.borrow().is_some()
    }

    /// What holds the scope open has done its work: a process of the container is in it, or, with `moved`, is now moved.
    pub fn entered(&self, moved: Option<Pid>) -> anyhow::Result<()> {
        match (self.started.borrow_mut().take(), moved) {
            (Some(mut started), Some(pid)) => started.attach(pid),
            _ => Ok(()),
        }
    }

    /// Descriptors that a clone must not keep.
    pub fn raw_fds(&self) -> Vec<RawFd> {
        self.started.borrow().as_ref().map(Started::raw_fds).unwrap_or_default()
    }

    /// Whether there is no cgroup: the host has none, or the caller may not make any.
    pub fn is_none(&self) -> bool {
        self.directories.is_empty()
    }

    /// Moves the calling thread, the only one of its process and born in [`Handle::clone_into`] if there is one, into
    /// the cgroup of every v1 hierarchy. Spares the RCU grace period of a write to `cgroup.procs` from outside, as the
    /// kernel does not lock thread groups to move `current` alone (`cgroup_procs_write_start` in
    /// kernel/cgroup/cgroup.c). Nothing to do on v2.
    ///
    /// # Errors
    /// EACCES if the caller may not write `tasks`; ENOSPC on a v1 cpuset without processors.
    pub fn join_self(&self) -> anyhow::Result<()> {
        self.directories.iter().filter(|d| d.version == Version::V1).try_for_each(|d| d.write("tasks", "0"))
    }

    /// Moves the process `pid` into the cgroup of every hierarchy.
    pub fn join(&self, pid: nix::unistd::Pid) -> anyhow::Result<()> {
        self.directories.iter().try_for_each(|d| d.write("cgroup.procs", &pid.to_string()))
    }

    /// How many processes the OOM killer has killed in the cgroup; `None` without the memory controller.
    pub fn oom_kills(&self) -> Option<u64> {
        self.directories.iter().find_map(|d| oom_kills(d.fd.as_fd(), d.version))
    }
}

impl Directory {
    fn write(&self, file: &str, value: &str) -> anyhow::Result<()> {
        fs::write(self.fd.as_fd(), file, value)
            .hint_if(Errno::EOPNOTSUPP, "the cgroup above is threaded, see cgroup.type in cgroups(7)")
            .with_context(|| format!("join cgroup {}", self.path.display()))
    }
}

pub(super) fn oom_kills(dir: BorrowedFd<'_>, version: Version) -> Option<u64> {
    let file = match version {
        Version::V1 => "memory.oom_control",
        Version::V2 => "memory.events",
    };
    fs::read(dir, file).ok().and_then(|text| fs::keyed(&text, "oom_kill"))
}
