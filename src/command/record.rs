// SPDX-License-Identifier: Apache-2.0
//! `orlop seccomp record`.

use std::fs::File;

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use oci_spec::runtime::LinuxSeccomp;

use crate::cli::{Create, Id, Receivers, RecordFormat, Run, SeccompRecord, SeccompResolve};
use crate::command::run::{refuse_ordinary_user, run_watched};
use crate::command::seccomp::environment;
use crate::plan::Plan;
use crate::plan::problem::Problems;
use crate::process::watch::{Task, Watcher};
use crate::seccomp::arch::Arch;
use crate::seccomp::denials::Watched;
use crate::seccomp::record::Recording;
use crate::spec;
use crate::state::Root;

/// Runs a bundle in the foreground and writes the least profile with which it runs. The exit status is the program's.
pub fn record(
    root: &Root,
    args: &SeccompRecord,
    policy: Option<&Path>,
    tolerate_cgroups: Option<bool>,
    systemd_cgroup: bool,
) -> Result<u8> {
    // What cannot be used is known before the program has run for an hour.
    let earlier = args.merge.as_deref().map(load).transpose()?;
    let run = Run {
        detach: false,
        keep: false,
        no_subreaper: false,
        explain_denials: false,
        denials_log: None,
        create: Create {
            bundle: args.bundle.clone(),
            receivers: Receivers { pid_file: None, console_socket: None, pidfd_socket: None },
            no_pivot: false,
            no_new_keyring: false,
            preserve_fds: 0,
            userns: None,
            policy: policy.map(Path::to_path_buf),
            systemd_cgroup,
            no_cgroup: false,
            id: Id { id: format!("record-{}", std::process::id()) },
        },
    };
    let (status, watcher) = run_watched(root, &run, tolerate_cgroups, &|plan, _, _| watch(plan).map(Some))?;
    let mut recording = watcher.context("the container was not watched")?.recording()?;
    let (calls, distinct) = (recording.calls, recording.distinct());
    if let Some(earlier) = earlier {
        recording.merge(earlier);
    }
    for number in recording.unknown() {
        crate::log::warn(&format!("a call with the number {number} has no name here and is not in the profile"));
    }
    let text = serde_json::to_string_pretty(&recording.profile(args.format == RecordFormat::Docker))? + "\n";
    std::fs::write(&args.output, text).with_context(|| format!("--output {:?}", args.output))?;
    let all = recording.distinct();
    let merged = if all == distinct { String::new() } else { format!("; with earlier ones {all}") };
    crate::log::stderr_line(&format!("orlop: recorded {calls} calls of {distinct} system calls{merged}"));
    Ok(status)
}

/// What the bundle's own profile refuses stays refused.
fn watch(plan: &mut Plan) -> Result<Watcher> {
    refuse_ordinary_user(plan)?;
    let watched = match &plan.seccomp {
        Some(compiled) => Watched::new(compiled, true).map_err(|e| anyhow!("{e}"))?,
        None => Watched::everything(),
    };
    if !watched.filter.notifies {
        bail!("the bundle's profile lets no call pass");
    }
    plan.seccomp = Some(watched.filter.clone());
    let output = File::from(crate::sys::memory::memfd()?);
    Ok(Watcher::new(watched, Task::Record { output }))
}

/// `--merge`.
fn load(path: &Path) -> Result<Recording> {
    let environment = environment(&SeccompResolve { cap: Vec::new(), kernel: None }, None, Arch::NATIVE)?;
    let mut problems = Problems::default();
    let profile = spec::load_profile(path, &environment, &mut problems)?;
    let section: LinuxSeccomp = match profile {
        Some(profile) if problems.errors.is_empty() => profile.section,
        _ => return Err(anyhow!(problems).context(format!("--merge {path:?}"))),
    };
    Recording::of_profile(&section).map_err(|e| anyhow!("--merge {path:?}: {e}"))
}
