// SPDX-License-Identifier: Apache-2.0
//! One short file for each command: load, plan, act, print. Each returns the exit status.

pub mod audit;
pub mod check;
pub mod checkpoint;
pub mod completions;
pub mod create;
pub mod delete;
pub mod events;
pub mod exec;
pub mod features;
pub mod info;
pub mod kill;
pub mod list;
pub mod mounts;
pub mod pause;
pub mod plan;
pub mod policy;
pub mod ps;
pub mod record;
pub mod resume;
pub mod run;
pub mod seccomp;
pub mod spec;
pub mod start;
pub mod state;
pub mod update;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::error::ResultExt;
use crate::host::Host;
use crate::plan::problem::Problems;
use crate::plan::{Plan, Request};
use crate::spec::Config;
use crate::state::Root;

/// `--root`, made absolute, or the default: /run/orlop; for a caller who is not the host's root `$XDG_RUNTIME_DIR/orlop`,
/// or where that would be.
pub fn state_root(flag: Option<&Path>) -> Result<Root> {
    let path = match flag {
        Some(path) => std::path::absolute(path).with_context(|| format!("--root {path:?}"))?,
        None => default_root()?,
    };
    if path == Path::new("/") {
        anyhow::bail!("--root must not be the root directory of the file system");
    }
    Ok(Root { path })
}

fn default_root() -> Result<PathBuf> {
    let euid = nix::unistd::geteuid();
    // podman sets the variable for root too, so that it counts for others only. Root of a user namespace is one of them:
    // /run may be the host's.
    let directory = std::env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty()).map(PathBuf::from);
    if euid.is_root() && (directory.is_none() || in_initial_user_namespace()) {
        return Ok(PathBuf::from("/run/orlop"));
    }
    // What pam_systemd(8) sets the variable to.
    let usual = PathBuf::from(format!("/run/user/{euid}"));
    match directory.or_else(|| usual.is_dir().then_some(usual)) {
        Some(directory) => Ok(directory.join("orlop")),
        None => Err(anyhow::anyhow!("there is no place for the state of containers: XDG_RUNTIME_DIR is not set"))
            .hint("set it to a directory of yours that a reboot empties, or give --root DIR"),
    }
}

fn in_initial_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]))
}

/// Prints a line on stdout. A closed stdout is the reader's choice.
pub fn print(line: &str) {
    drop(std::io::stdout().write_all(format!("{line}\n").as_bytes()));
}

/// Prints a value as indented JSON.
pub fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// The bundle as an absolute path.
pub fn bundle(flag: Option<&Path>) -> Result<PathBuf> {
    let path = flag.unwrap_or(Path::new("."));
    let absolute = std::path::absolute(path).with_context(|| format!("--bundle {path:?}"))?;
    // `absolute` keeps `..`; the current directory has no such parts.
    Ok(if flag.is_none() { std::env::current_dir().context("the current directory")? } else { absolute })
}

/// Turns a config into a plan. Warnings are logged, faults are one error with a line each.
pub fn make_plan(config: &Config, host: &Host, request: &Request) -> Result<Plan> {
    let (plan, problems) = Plan::from_spec(&config.spec, host, request);
    for warning in config.warnings.warnings.iter().chain(&problems.warnings) {
        crate::log::warn(&warning.to_string());
    }
    plan.ok_or_else(|| Problems { warnings: Vec::new(), ..problems }.into())
}

/// Whether output on stdout may have colours: it is a terminal, and nobody has set NO_COLOR (no-color.org).
pub fn colours() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !unwanted && nix::unistd::isatty(crate::sys::fd::stdio(1)).unwrap_or(false)
}
