// SPDX-License-Identifier: Apache-2.0
//! `orlop audit`.

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::cli::{AuditArgs, TextFormat};
use crate::command::{print, print_json};
use crate::host::Host;
use crate::kernel::audit::{Drift, Report, Subject, audit as look};
use crate::kernel::procfs::Proc;
use crate::plan::Plan;
use crate::plan::problem::Problems;
use crate::spec;
use crate::state::{Root, State, StateDir, Status};

/// The exit status of a container that is not as it was asked for.
const DRIFT: u8 = 2;

/// The JSON of `audit`.
#[derive(Serialize)]
struct Audit<'a> {
    id: &'a str,
    pid: i32,
    status: &'static str,
    compared: usize,
    drift: &'a [Drift],
    notes: &'a [String],
}

/// Compares the container with its config as it was at create. Exit status 2 if they differ.
pub fn audit(root: &Root, args: &AuditArgs) -> Result<u8> {
    let id = &args.id.id;
    let (state, status, report) = compare(root, id).with_context(|| format!("audit {id}"))?;
    match args.format {
        TextFormat::Json => print_json(&Audit {
            id,
            pid: state.init.pid,
            status: status.word(),
            compared: report.compared,
            drift: &report.drift,
            notes: &report.notes,
        })?,
        TextFormat::Text => print(&text(id, &report)),
    }
    Ok(if report.drift.is_empty() { 0 } else { DRIFT })
}

fn compare(root: &Root, id: &str) -> Result<(State, Status, Report)> {
    let dir = root.container(id)?;
    let state = dir.complete_state()?;
    let proc = Proc::open()?;
    let status = state.status(&proc)?;
    if status == Status::Stopped {
        bail!("the container has stopped: there is nothing to compare");
    }
    let plan = plan(&dir, &state)?;
    let found = proc.find(&state.init)?.context("the container's init has ended")?;
    let subject =
        Subject { plan: &plan, init: &state.init, found: &found, rootfs: &state.rootfs, cgroups: &state.cgroups };
    let report = look(&subject, &proc)?;
    Ok((state, status, report))
}

/// The plan of the container, from the config as it was at create.
fn plan(dir: &StateDir, state: &State) -> Result<Plan> {
    let config = spec::parse(dir.config()?)?;
    let (plan, problems) = Plan::from_spec(&config.spec, &Host::detect()?, &state.request());
    Ok(plan.ok_or(Problems { warnings: Vec::new(), ..problems })?)
}

fn text(id: &str, report: &Report) -> String {
    let mut lines: Vec<String> = Vec::new();
    for Drift { what, path, asked, now } in &report.drift {
        lines.push(format!("{what}: {path}\n  asked: {asked}\n  now:   {now}"));
    }
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    lines.push(match report.drift.len() {
        0 => format!("{id}: no drift, {} facts compared", report.compared),
        count => format!("{id}: {count} of {} facts differ", report.compared),
    });
    lines.join("\n")
}
