// SPDX-License-Identifier: Apache-2.0
//! Removing a container, from whatever state it or its `create` was left in.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::kernel::cgroup::Existing;
use crate::kernel::procfs::{Identity, Proc};
use crate::kernel::signal::Interrupts;
use crate::kernel::{hook, resctrl, systemd};
use crate::plan::hooks::Hook;
use crate::plan::systemd::Remembered;
use crate::state::{Intent, State, StateDir, Status, hook_state};
use crate::sys::process::pidfd_send_signal;
use crate::trace::{Phase, mark};

/// How long a killed process may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Removes cgroups, state and id, and runs the poststop hooks. What is missing counts as removed. The container's
/// processes must have ended or be killed by the loss of their cgroups: whatever is in those is killed here.
pub fn destroy(
    dir: &StateDir,
    state: Option<&State>,
    intent: Option<&Intent>,
    interrupts: Option<&Interrupts>,
) -> Result<()> {
    let cgroups = state.map(|s| &s.cgroups).or(intent.map(|i| &i.cgroups));
    mark(Phase::RemoveCgroup);
    if let Some(cgroups) = cgroups {
        let unit = state.map(|s| &s.systemd).or(intent.map(|i| &i.systemd));
        clear_cgroups(cgroups, unit.and_then(Option::as_ref))?;
    }
    resctrl::remove(state.map(|s| &s.resctrl).or(intent.map(|i| &i.resctrl)).map_or(&[], Vec::as_slice))?;
    mark(Phase::RemoveState);
    dir.remove()?;
    mark(Phase::PoststopHooks);
    if let Some(state) = state {
        let text = hook_state(&state.id, Status::Stopped, 0, &state.bundle, &state.annotations);
        poststop(&state.poststop, &text, interrupts);
    }
    mark(Phase::End);
    Ok(())
}

/// Kills what is left in the cgroups, stops the unit that they are of, and removes them.
pub fn clear_cgroups(cgroups: &[PathBuf], unit: Option<&Remembered>) -> Result<()> {
    let existing = Existing::open(cgroups)?;
    existing.kill_all(libc::SIGKILL)?;
    if let Some(unit) = unit
        && let Err(e) = systemd::stop(unit)
    {
        // It lets go of a scope without processes by itself.
        crate::log::warn(&crate::error::one_line(&e));
    }
    existing.destroy()
}

/// runtime.md#lifecycle: a failing poststop hook is a warning, and the remaining ones run.
pub fn poststop(hooks: &[Hook], state: &str, interrupts: Option<&Interrupts>) {
    for (i, hook) in hooks.iter().enumerate() {
        if let Err(e) = hook::run(hook, state, interrupts).with_context(|| format!("error running poststop hook #{i}"))
        {
            crate::log::warn(&crate::error::one_line(&e));
        }
    }
}

/// Kills a recorded process, if it is still the same, and waits until it has ended.
pub fn kill_and_wait(proc: &Proc, identity: &Identity) -> Result<()> {
    let Some(found) = proc.find(identity)? else { return Ok(()) };
    if found.stat.has_ended() {
        return Ok(());
    }
    mark(Phase::Kill);
    match pidfd_send_signal(found.pidfd.as_fd(), libc::SIGKILL) {
        Err(e) if e.errno == nix::errno::Errno::ESRCH => return Ok(()),
        sent => sent?,
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(found.pidfd.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(0) => anyhow::bail!("process {} does not end: it was killed {PATIENCE:?} ago", identity.pid),
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e).context("poll a pidfd"),
        }
    }
}
