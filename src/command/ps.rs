// SPDX-License-Identifier: Apache-2.0
//! `orlop ps`.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::cli::{Format, Ps};
use crate::command::print;
use crate::error::ResultExt;
use crate::kernel::cgroup::Existing;
use crate::kernel::procfs::Proc;
use crate::state::{Root, State};

/// Lists the processes in the container's cgroup: their host pids as JSON, or the rows of ps(1) about them.
pub fn ps(root: &Root, args: &Ps) -> Result<u8> {
    let id = args.id.id.as_str();
    let listed = || -> Result<()> {
        let state = root.container(id)?.complete_state()?;
        let cgroups = Existing::open(&state.cgroups)?;
        let mut pids: Vec<i32> = match state.cgroups.is_empty() {
            true => without_cgroup(&state)?,
            false => cgroups.pids()?.into_iter().map(nix::unistd::Pid::as_raw).collect(),
        };
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

/// An ordinary user's container may have no cgroup: its processes are those in init's PID namespace then, or init alone if
/// that is not the container's own.
fn without_cgroup(state: &State) -> Result<Vec<i32>> {
    if Proc::open()?.find(&state.init)?.is_none_or(|found| found.stat.has_ended()) {
        return Ok(Vec::new());
    }
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let (init, ours) = (state.init.pid, namespace(state.init.pid));
    if !state.private_pid_namespace || ours.is_none() {
        return Ok(vec![init]);
    }
    let entries = std::fs::read_dir("/proc").context("read /proc")?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    Ok(pids.filter(|pid| namespace(*pid) == ours).collect())
}

fn rows(pids: &[i32], options: &[OsString]) -> Result<String> {
    let default = [OsString::from("-ef")];
    let options = if options.is_empty() { &default } else { options };
    let output = Command::new("ps").args(options).output();
    let output = output
        .map_err(|e| anyhow!("ps(1): {}", crate::sys::describe_io(&e)))
        .hint("the table is ps(1)'s, of the package procps; --format json needs no other program")?;
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
