// SPDX-License-Identifier: Apache-2.0
//! `orlop resume`.

use anyhow::{Context, Result, bail};

use crate::kernel::cgroup::Existing;
use crate::kernel::procfs::Proc;
use crate::state::{Root, Status};

/// Lets the processes of a paused container go on.
pub fn resume(root: &Root, id: &str) -> Result<u8> {
    let resumed = || -> Result<()> {
        let state = root.container(id)?.complete_state()?;
        match state.status(&Proc::open()?)? {
            Status::Paused => {
                let cgroups = Existing::open(&state.cgroups)?;
                cgroups.thaw()?;
                if cgroups.is_frozen()? {
                    bail!("the processes do not go on: a cgroup above the container's is frozen");
                }
                Ok(())
            }
            status => bail!("container not paused: it is {}", status.word()),
        }
    };
    resumed().with_context(|| format!("resume {id}"))?;
    Ok(0)
}
