// SPDX-License-Identifier: Apache-2.0
//! One short file for each command: load, plan, act, print. Each returns the exit status.

pub mod create;
pub mod delete;
pub mod exec;
pub mod features;
pub mod kill;
pub mod list;
pub mod plan;
pub mod ps;
pub mod record;
pub mod run;
pub mod seccomp;
pub mod spec;
pub mod start;
pub mod state;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::error::ResultExt;
use crate::host::Host;
use crate::plan::problem::Problems;
use crate::plan::{Plan, Request};
use crate::spec::Config;
use crate::state::Root;

/// `--root`, made absolute, or the default: /run/orlop, for a caller that is not the host's root
/// `$XDG_RUNTIME_DIR/orlop`.
pub fn state_root(flag: Option<&Path>) -> Result<Root> {
    let path = match flag {
        Some(path) => std::path::absolute(path).with_context(|| format!("--root {path:?}"))?,
        None => default_root(),
    };
    if path == Path::new("/") {
        anyhow::bail!("--root must not be the root directory of the file system");
    }
    Ok(Root { path })
}

fn default_root() -> PathBuf {
    let is_root = nix::unistd::geteuid().is_root();
    match std::env::var_os("XDG_RUNTIME_DIR") {
        // podman sets the variable for root too, so it only counts for others.
        Some(directory) if !is_root && !directory.is_empty() => Path::new(&directory).join("orlop"),
        _ => PathBuf::from("/run/orlop"),
    }
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

/// Only the host's root can do what a container needs.
pub fn require_root(host: &Host) -> Result<()> {
    if host.euid == 0 {
        return Ok(());
    }
    let refused: Result<()> = Err(anyhow::anyhow!("must be run as root: uid is {}", host.euid));
    refused.hint("containers of ordinary users (rootless) are not carried out yet")
}
