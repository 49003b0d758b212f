// SPDX-License-Identifier: Apache-2.0
//! `orlop ps`.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cli::{Format, Ps};
use crate::command::print;
use crate::kernel::cgroup::Existing;
use crate::state::Root;

/// Lists the processes in the container's cgroup: their host pids as JSON, or the rows of ps(1) about them.
pub fn ps(root: &Root, args: &Ps) -> Result<u8> {
    let id = args.id.id.as_str();
    let listed = || -> Result<()> {
        let state = root.container(id)?.complete_state()?;
        let mut pids: Vec<i32> =
            Existing::open(&state.cgroups)?.pids()?.into_iter().map(nix::unistd::Pid::as_raw).collect();
        pids.sort_unstable();
        match args.format {
            Format::Json => print(&serde_json::to_string(&pids)?),
            Format::Table => print(&rows(&pids, &args.options)?),
        }
        Ok(())
    };
    listed().with_context(|| format!("ps {id}"))?;
    Ok(0)
}

fn rows(pids: &[i32], options: &[OsString]) -> Result<String> {
    let default = [OsString::from("-ef")];
    let options = if options.is_empty() { &default } else { options };
    let output = Command::new("ps").args(options).output().context("run ps(1)")?;
    if !output.status.success() {
        bail!("ps(1): {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let column =
        head.split_whitespace().position(|title| title == "PID").context("the output of ps(1) has no PID column")?;
    let ours = |line: &&str| {
        line.split_whitespace()
            .nth(column)
            .and_then(|pid| pid.parse::<i32>().ok())
            .is_some_and(|pid| pids.contains(&pid))
    };
    Ok(std::iter::once(head).chain(lines.filter(ours)).collect::<Vec<_>>().join("\n"))
}
