// SPDX-License-Identifier: Apache-2.0
//! `orlop delete`.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;

use crate::cli::Delete;
use crate::error::{ResultExt, errno_of};
use crate::host::Host;
use crate::kernel::cgroup::{self, Existing};
use crate::kernel::procfs::Proc;
use crate::plan::cgroup::Cgroup;
use crate::process::destroy::{destroy, kill_and_wait};
use crate::state::{Intent, Lock, Root, State, StateDir, Status};
use crate::sys::process::pidfd_send_signal;
use crate::trace::{Phase, mark};

/// How long `--force` waits for another command on the same container, each time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Removes a container: one that has stopped or was never started, or with `--force` any, whatever its create or delete
/// left behind.
pub fn delete(root: &Root, args: &Delete) -> Result<u8> {
    let id = args.id.id.as_str();
    let deleted = || -> Result<()> {
        mark(Phase::FindContainer);
        let dir = match root.find(id)? {
            None if args.force => return Ok(()),
            None => bail!("container {id} does not exist"),
            Some(dir) => dir,
        };
        // A create in progress holds the lock; a dead one has lost it.
        let _lock = if args.force { lock_by_force(&dir)? } else { dir.lock()? };
        if !dir.exists()? {
            return if args.force { Ok(()) } else { Err(anyhow!("container {id} does not exist")) };
        }
        if args.force { by_force(&dir) } else { in_order(&dir) }
    };
    deleted().with_context(|| format!("delete {id}"))?;
    Ok(0)
}

/// A create that hangs, in a hook say, holds the lock. It gets some time to end; then a signal, upon which it clears up
/// after itself; then one that it cannot survive, and neither can its init and its hook.
fn lock_by_force(dir: &StateDir) -> Result<Lock> {
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        if let Some(lock) = dir.lock_within(PATIENCE)? {
            return Ok(lock);
        }
        // A record that cannot be read names nobody.
        let complete = dir.state().is_ok_and(|state| state.is_some());
        if let Some(intent) = dir.intent().ok().flatten().filter(|_| !complete)
            && let Some(creator) = Proc::open()?.find(&intent.creator)?
        {
            crate::log::warn(&format!("delete {}: ending its create, process {}", dir.id, intent.creator.pid));
            match pidfd_send_signal(creator.pidfd.as_fd(), signal) {
                Err(e) if e.errno != Errno::ESRCH => return Err(e.into()),
                _ => {}
            }
        }
    }
    let lock = dir.lock_within(PATIENCE)?.context("another command holds the lock on the container, and does not end");
    lock.hint(format!("fuser {:?} shows which", dir.path))
}

fn in_order(dir: &StateDir) -> Result<()> {
    let state = dir.complete_state()?;
    let proc = Proc::open()?;
    match state.status(&proc)? {
        Status::Stopped => {}
        // The spec forbids it; runc, crun and every caller of theirs rely on it.
        Status::Created => kill_and_wait(&proc, &state.init)?,
        status => {
            let refused: Result<()> =
                Err(anyhow!("cannot delete container {} that is not stopped: {}", dir.id, status.word()));
            return refused.hint("orlop kill sends it a signal; orlop delete --force kills it first");
        }
    }
    destroy(dir, Some(&state), None, None)
}

/// Never fails because a part is missing or damaged.
fn by_force(dir: &StateDir) -> Result<()> {
    let state: Option<State> = unless_damaged(dir, dir.state())?;
    let intent: Option<Intent> = unless_damaged(dir, dir.intent())?;
    if let Some(state) = &state {
        let cgroups = Existing::open(&state.cgroups)?;
        if cgroups.is_frozen()? {
            // On cgroup v1 the frozen do not die; this thaws them.
            cgroups.kill_all(libc::SIGKILL)?;
        }
        kill_and_wait(&Proc::open()?, &state.init)?;
    }
    if state.is_none() && intent.is_none() {
        return by_config(dir);
    }
    destroy(dir, state.as_ref(), intent.as_ref(), None)
}

/// A damaged record is as good as none. One that cannot be read only now (too many open files) is not: without it the
/// container could be lost.
fn unless_damaged<T>(dir: &StateDir, record: Result<Option<T>>) -> Result<Option<T>> {
    match record {
        Err(e) if matches!(errno_of(&e), None | Some(Errno::ELOOP | Errno::EISDIR | Errno::ENXIO | Errno::EIO)) => {
            crate::log::warn(&format!("delete {}: going on without: {}", dir.id, crate::error::one_line(&e)));
            Ok(None)
        }
        record => record,
    }
}

/// Nothing says where the cgroups are: they can only be those that the config and the id give.
fn by_config(dir: &StateDir) -> Result<()> {
    let host = Host::detect()?;
    let guess = Cgroup::of_id(&dir.id, dir.cgroups_path().as_deref(), &host);
    let intent = Intent {
        id: dir.id.clone(),
        bundle: dir.path.clone(),
        cgroups: cgroup::directories(&guess),
        systemd: None,
        resctrl: Vec::new(),
        creator: Proc::open()?.identify(nix::unistd::Pid::this())?,
    };
    if intent.cgroups.is_empty() && host.cgroups != crate::host::CgroupLayout::None {
        bail!("the cgroups of container {} are not known", dir.id);
    }
    destroy(dir, None, Some(&intent), None)
}
