// SPDX-License-Identifier: Apache-2.0
//! Hearing of the OOM killer: `memory.events` of v2 (cgroup-v2.rst), an eventfd of v1
//! (Documentation/admin-guide/cgroup-v1/memory.rst, "OOM Control").

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::poll::PollFlags;

use super::fs::{self, is_gone};
use super::{Existing, handle};
use crate::plan::cgroup::Version;
use crate::sys::event::eventfd;
use crate::sys::{self, Result};

/// Watches a container's cgroup, which is not held by it.
#[derive(Debug)]
pub struct OomWatch {
    version: Version,
    dir: OwnedFd,
    /// v1: the eventfd. v2: `memory.events`, open.
    fd: OwnedFd,
    kills: u64,
}

impl OomWatch {
    /// None without the memory controller.
    ///
    /// # Errors
    /// On v1 EPERM or EACCES for a caller who may not write the cgroup's files.
    pub fn begin(cgroups: &Existing) -> Result<Option<OomWatch>> {
        for (dir, version) in cgroups.directories() {
            let Some(kills) = handle::oom_kills(dir, version) else { continue };
            let fd = match version {
                Version::V2 => fs::open_file(dir, "memory.events", libc::O_RDONLY)?,
                Version::V1 => {
                    let event = eventfd()?;
                    let control = fs::open_file(dir, "memory.oom_control", libc::O_RDONLY)?;
                    let both = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
                    fs::write(dir, "cgroup.event_control", &both)?;
                    event
                }
            };
            let dir = fs::open_dir(dir, std::path::Path::new("."))?;
            return Ok(Some(OomWatch { version, dir, fd, kills }));
        }
        Ok(None)
    }

    /// What to poll(2), and for what.
    pub fn polled(&self) -> (BorrowedFd<'_>, PollFlags) {
        let flags = if self.version == Version::V1 { PollFlags::POLLIN } else { PollFlags::POLLPRI };
        (self.fd.as_fd(), flags)
    }

    /// Whether the OOM killer has killed, or on v1 has been stopped from it, since the last call. To be called when poll(2)
    /// says so, and when the container has ended.
    pub fn happened(&mut self) -> Result<bool> {
        let mut buffer = [0; 512];
        let signalled = match self.version {
            Version::V1 => nix::unistd::read(&self.fd, &mut buffer).is_ok(),
            Version::V2 => {
                // A look at this very descriptor is what arms the next poll(2).
                let read = nix::sys::uio::pread(&self.fd, &mut buffer, 0);
                match read {
                    Err(errno) if is_gone(errno) => return Ok(false),
                    read => drop(sys::call!("pread(\"memory.events\")" => read)?),
                }
                false
            }
        };
        let kills = handle::oom_kills(self.dir.as_fd(), self.version);
        // v1 signals the removal of the cgroup too.
        let Some(kills) = kills else { return Ok(false) };
        let more = kills > self.kills;
        self.kills = kills;
        Ok(more || signalled)
    }
}
