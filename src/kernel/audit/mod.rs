// SPDX-License-Identifier: Apache-2.0
//! What a plan asked for against what the kernel says now of the container's init. Reads only; each difference is one
//! [`Drift`], whoever made it: the payload, an administrator, or a fault of orlop's.

mod cgroup;
mod mounts;
mod process;
mod values;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::procfs::{Found, Identity, Proc};
use crate::plan::Plan;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// The object: `/proc/123/status CapEff`, `/sys/fs/cgroup/x/pids.max`.
    pub what: String,
    /// The JSON path in config.json that asked for it.
    pub path: String,
    pub asked: String,
    pub now: String,
}

/// Everything that was compared.
#[derive(Debug, Default)]
pub struct Report {
    pub compared: usize,
    pub drift: Vec<Drift>,
    /// What could not be compared, and why.
    pub notes: Vec<String>,
}

impl Report {
    /// Counts a comparison, and records it if the two differ.
    fn compare(&mut self, what: impl Into<String>, path: &str, asked: impl Into<String>, now: impl Into<String>) {
        let (asked, now) = (asked.into(), now.into());
        self.judge(asked == now, what, path, asked, now);
    }

    /// As [`Report::compare`], for what is the same though it reads differently.
    fn judge(
        &mut self,
        same: bool,
        what: impl Into<String>,
        path: &str,
        asked: impl Into<String>,
        now: impl Into<String>,
    ) {
        self.compared += 1;
        if !same {
            let path = path.to_string();
            self.drift.push(Drift { what: what.into(), path, asked: asked.into(), now: now.into() });
        }
    }

    fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }
}

/// The container to look at.
pub struct Subject<'a> {
    pub plan: &'a Plan,
    pub init: &'a Identity,
    pub found: &'a Found,
    /// The root filesystem on the host, as it was at create.
    pub rootfs: &'a Path,
    /// The container's cgroups, as they were made.
    pub cgroups: &'a [PathBuf],
}

/// Compares everything. The caller must be in the namespaces that `create` was called in.
///
/// # Errors
/// If init ends meanwhile, or the kernel does not answer.
pub fn audit(subject: &Subject<'_>, proc: &Proc) -> Result<Report> {
    let mut report = Report::default();
    if subject.found.stat.has_not_execed() {
        report.note("the program has not been started: ids, capabilities, filters and limits are not compared");
    } else {
        process::credentials(subject, proc, &mut report).context("/proc/PID/status")?;
        process::limits(subject, proc, &mut report).context("/proc/PID/limits")?;
    }
    process::maps(subject, proc, &mut report).context("id maps")?;
    process::namespaces(subject, &mut report).context("namespaces")?;
    mounts::audit(subject, proc, &mut report).context("mounts")?;
    cgroup::audit(subject, &mut report).context("cgroup")?;
    process::names(subject, &mut report).context("host name")?;
    // All of it was about the same process only if that still exists.
    proc.find(subject.init)?.context("the container's init has ended meanwhile")?;
    Ok(report)
}
