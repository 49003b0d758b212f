// SPDX-License-Identifier: Apache-2.0
//! Stopping every process of a cgroup at once: `cgroup.freeze` of v2, the freezer controller of v1 (cgroups(7)).

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::fs;
use crate::sys::{self, Result, call};

/// A process in an uninterruptible sleep cannot be frozen until it wakes.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whether the cgroup has a freezer, of either version.
pub(super) fn has_freezer(dir: BorrowedFd<'_>) -> Result<bool> {
    for file in ["cgroup.freeze", "freezer.state"] {
        match fs::open_file(dir, file, libc::O_PATH) {
            Ok(_) => return Ok(true),
            Err(e) if fs::is_gone(e.errno) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

/// Whether the cgroup is frozen or about to be; no if it has no freezer or is gone.
pub(super) fn is_frozen(dir: BorrowedFd<'_>) -> Result<bool> {
    match fs::read(dir, "cgroup.freeze") {
        Err(e) if fs::is_gone(e.errno) => {}
        text => return Ok(text?.trim() == "1"),
    }
    match fs::read(dir, "freezer.state") {
        Err(e) if fs::is_gone(e.errno) => Ok(false),
        text => Ok(text?.trim() != "THAWED"),
    }
}

/// Freezes and waits until all is still. After a failure the cgroup is thawed.
///
/// # Errors
/// ETIMEDOUT after ten seconds, ENOENT if the cgroup is gone.
pub(super) fn freeze(dir: BorrowedFd<'_>) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    let frozen = match fs::write(dir, "cgroup.freeze", "1") {
        Err(e) if e.errno == Errno::ENOENT => freeze_v1(dir, deadline),
        Err(e) => return Err(e),
        Ok(()) => wait_v2(dir, deadline),
    };
    if frozen.is_err()
        && let Err(e) = thaw(dir)
    {
        crate::log::debug(&format!("thaw after a failed freeze: {e}"));
    }
    frozen
}

/// Lets the processes go on; one that was not frozen is fine.
pub(super) fn thaw(dir: BorrowedFd<'_>) -> Result<()> {
    match fs::write(dir, "cgroup.freeze", "0") {
        Err(e) if e.errno == Errno::ENOENT => fs::write(dir, "freezer.state", "THAWED"),
        other => other,
    }
}

fn wait_v2(dir: BorrowedFd<'_>, deadline: Instant) -> Result<()> {
    let mut events = Events::open(dir)?;
    while events.value("frozen")? != Some(1) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(sys::Error { call: "wait for cgroup.events: frozen 1".into(), errno: Errno::ETIMEDOUT });
        }
        events.wait(left)?;
    }
    Ok(())
}

/// v1 stays FREEZING while the cgroup forks faster than it is frozen, or over a race with a signal; asking again helps,
/// and so does thawing now and then (runc and the kernel's freezer-subsystem.rst).
fn freeze_v1(dir: BorrowedFd<'_>, deadline: Instant) -> Result<()> {
    for attempt in 0u32.. {
        if attempt % 50 == 49 {
            fs::write(dir, "freezer.state", "THAWED")?;
            std::thread::sleep(Duration::from_millis(10));
        }
        fs::write(dir, "freezer.state", "FROZEN")?;
        if fs::read(dir, "freezer.state")?.trim() == "FROZEN" {
            return Ok(());
        }
        if Instant::now() >= deadline {
            break;
        }
        std::thread::sleep(Duration::from_millis(if attempt < 5 { 1 } else { 10 }));
    }
    Err(sys::Error { call: "wait for freezer.state: FROZEN".into(), errno: Errno::ETIMEDOUT })
}

/// `cgroup.events` of v2, which poll(2) reports as changed.
pub(super) struct Events(File);

impl Events {
    pub(super) fn open(dir: BorrowedFd<'_>) -> Result<Events> {
        Ok(Events(fs::open_file(dir, "cgroup.events", libc::O_RDONLY)?.into()))
    }

    /// The value of a key now; `None` if the cgroup is gone.
    pub(super) fn value(&mut self, key: &str) -> Result<Option<u64>> {
        let mut buffer = [0; 256];
        let length = match self.0.read_at(&mut buffer, 0).map_err(sys::errno) {
            Err(errno) if fs::is_gone(errno) => return Ok(None),
            read => call!("pread(\"cgroup.events\")" => read)?,
        };
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
        Ok(fs::keyed(&text, key))
    }

    /// Waits for a change since the last look, for at most `time`.
    pub(super) fn wait(&self, time: Duration) -> Result<()> {
        let timeout = PollTimeout::try_from(time.as_millis().max(1)).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLPRI)];
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => Ok(()),
            other => call!("poll(\"cgroup.events\")" => other).map(|_| ()),
        }
    }
}
