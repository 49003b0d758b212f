// SPDX-License-Identifier: Apache-2.0
//! `orlop start`.

use anyhow::{Context, Result};

use crate::kernel::procfs::Proc;
use crate::process::start;
use crate::state::Root;

/// Starts the program of a created container. An execve that fails is this command's error.
pub fn start(root: &Root, id: &str) -> Result<u8> {
    let started = || -> Result<()> {
        let (dir, _lock) = start::open_locked(root, id)?;
        let state = dir.complete_state()?;
        start::start(&dir, &state, &Proc::open()?, None, None)
    };
    started().with_context(|| format!("start {id}"))?;
    Ok(0)
}
