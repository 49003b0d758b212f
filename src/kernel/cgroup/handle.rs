// SPDX-License-Identifier: Apache-2.0
//! The cgroup of a container that is being made: how a process gets into it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use anyhow::Context;
use nix::errno::Errno;
use nix::unistd::Pid;

use super::fs;
use crate::error::ResultExt;
use crate::plan::cgroup::Version;

/// The open directories of one container's cgroup; none if the host has no cgroups or the caller may not make any.
#[derive(Debug, Default)]
pub struct Handle {
    pub(super) directories: Vec<Directory>,
}

#[derive(Debug)]
pub(super) struct Directory {
    pub(super) version: Version,
    pub(super) path: PathBuf,
    pub(super) fd: OwnedFd,
}

impl Handle {
    /// The directory for `CLONE_INTO_CGROUP` (clone(2)) if that alone does it: where v2 is alone. A process born there
    /// costs nothing; one that is moved waits for an RCU grace period, some milliseconds.
    pub fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        match self.directories.as_slice() {
            [only] if only.version == Version::V2 => Some(only.fd.as_fd()),
            _ => None,
        }
    }

    /// Moves the process `pid` with all its threads into the cgroup, in every hierarchy.
    ///
    /// # Errors
    /// ESRCH if it has ended; EACCES if the caller may not write `cgroup.procs`; ENOSPC on a v1 cpuset without
    /// processors; EOPNOTSUPP below a threaded v2 cgroup.
    pub fn join(&self, pid: Pid) -> anyhow::Result<()> {
        self.write_all("cgroup.procs", &pid.to_string())
    }

    /// Moves the calling thread, which must be the only one of its process, into the cgroup, in every hierarchy. On v1
    /// this spares the grace period of [`Handle::join`], as the kernel does not lock the thread group to move `current`
    /// alone (`cgroup_procs_write_start` in kernel/cgroup/cgroup.c).
    ///
    /// # Errors
    /// As [`Handle::join`].
    pub fn join_self(&self) -> anyhow::Result<()> {
        self.write_all("tasks", "0")
    }

    fn write_all(&self, v1_file: &str, value: &str) -> anyhow::Result<()> {
        for directory in &self.directories {
            let file = if directory.version == Version::V1 { v1_file } else { "cgroup.procs" };
            fs::write(directory.fd.as_fd(), file, value)
                .hint_if(Errno::EOPNOTSUPP, "the cgroup above is threaded, see cgroup.type in cgroups(7)")
                .with_context(|| format!("join cgroup {}", directory.path.display()))?;
        }
        Ok(())
    }

    /// How many processes the OOM killer has killed in the cgroup; `None` without the memory controller.
    pub fn oom_kills(&self) -> Option<u64> {
        self.directories.iter().find_map(|d| oom_kills(d.fd.as_fd(), d.version))
    }
}

pub(super) fn oom_kills(dir: BorrowedFd<'_>, version: Version) -> Option<u64> {
    let file = match version {
        Version::V1 => "memory.oom_control",
        Version::V2 => "memory.events",
    };
    fs::read(dir, file).ok().and_then(|text| fs::keyed(&text, "oom_kill"))
}
