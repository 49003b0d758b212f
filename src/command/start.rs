// SPDX-License-Identifier: Apache-2.0
//! `orlop start`.

use anyhow::{Context, Result};

use crate::kernel::procfs::Proc;
use crate::process::notify::{self, Notify};
use crate::process::start;
use crate::state::{Root, Status};
use crate::trace::{Phase, mark};

/// Starts the program of a created container. An execve that fails is this command's error. With a
/// NOTIFY_SOCKET it returns when the program has said that it is ready.
pub fn start(root: &Root, id: &str) -> Result<u8> {
    let started = || -> Result<()> {
        mark(Phase::FindContainer);
        let (dir, lock) = start::open_locked(root, id)?;
        let state = dir.complete_state()?;
        let proc = Proc::open()?;
        // Of a container that runs, the socket is in use.
        let notify = match notify::wanted() {
            Some(_) if state.status(&proc)? == Status::Created => Notify::bind(&dir)?,
            _ => None,
        };
        let init = if notify.is_some() { proc.find(&state.init)? } else { None };
        start::start(&dir, &state, &proc, None, None)?;
        drop(lock);
        match (notify, init) {
            (Some(notify), Some(init)) => notify.wait(state.init.pid, &init.pidfd, None),
            _ => Ok(()),
        }
    };
    started().with_context(|| format!("start {id}"))?;
    Ok(0)
}
