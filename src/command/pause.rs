// SPDX-License-Identifier: Apache-2.0
//! `orlop pause`.

use anyhow::{Context, Result, anyhow, bail};

use crate::error::ResultExt;
use crate::kernel::cgroup::Existing;
use crate::kernel::procfs::Proc;
use crate::state::{Root, Status};

/// Stops every process of a container, and returns when all have stopped. After a failure they run.
pub fn pause(root: &Root, id: &str) -> Result<u8> {
    let paused = || -> Result<()> {
        // Without the container's lock: a command that waits for a process of the container would hold it.
        let state = root.container(id)?.complete_state()?;
        match state.status(&Proc::open()?)? {
            Status::Running | Status::Created => {}
            Status::Paused => bail!("container not running: it is paused already"),
            Status::Stopped | Status::Creating => bail!("container not running"),
        }
        let cgroups = Existing::open(&state.cgroups)?;
        if cgroups.is_empty() {
            let refused: Result<()> = Err(anyhow!("the container has no cgroup, by which it could be paused"));
            return refused.hint("an ordinary user needs a cgroup that is delegated to him");
        }
        cgroups.freeze()
    };
    paused().with_context(|| format!("pause {id}"))?;
    Ok(0)
}
