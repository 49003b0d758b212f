// SPDX-License-Identifier: Apache-2.0
//! `orlop run`: create, start, and in the foreground wait, passing signals and the terminal on.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, anyhow};
use oci_spec::runtime::LinuxSeccomp;

use crate::cli::Run;
use crate::command::create::{Attended, Watch, make};
use crate::error::ResultExt;
use crate::kernel::cgroup::Existing;
use crate::kernel::procfs::Proc;
use crate::kernel::signal::Interrupts;
use crate::plan::{Plan, Request};
use crate::process::create::Created;
use crate::process::destroy::{destroy, kill_and_wait};
use crate::process::foreground;
use crate::process::notify::Notify;
use crate::process::start;
use crate::process::watch::{Task, Watcher};
use crate::seccomp::arch::Arch;
use crate::seccomp::denials::{Stack, Watched};
use crate::spec::Config;
use crate::state::Root;
use crate::sys::fd::stdio;
use crate::sys::process::{Exit, set_child_subreaper};

/// Runs a container. In the foreground the exit status is the program's, or 128 + the number of the signal that killed
/// it, and the container is deleted afterwards unless `--keep`.
pub fn run(root: &Root, args: &Run, tolerate_cgroups: Option<bool>) -> Result<u8> {
    let watch = |plan: &mut Plan, config: &Config, request: &Request| explain(args, plan, config, request);
    run_watched(root, args, tolerate_cgroups, &watch).map(|(status, _)| status)
}

/// [`run`], with what has watched it.
pub fn run_watched(
    root: &Root,
    args: &Run,
    tolerate_cgroups: Option<bool>,
    watch: &Watch<'_>,
) -> Result<(u8, Option<Watcher>)> {
    let id = args.create.id.id.as_str();
    if !args.detach && !args.no_subreaper {
        set_child_subreaper()?;
    }
    let interrupts = Interrupts::block()?;
    let attended = Attended { detached: args.detach, waits: false, watch };
    let created = make(root, &args.create, &attended, tolerate_cgroups, &interrupts)?;
    let ran = finish(args, &created, &interrupts);
    if ran.is_err() {
        // The program never ran, or nobody would wait for it: nothing is left of the container.
        let proc = Proc::open()?;
        kill_and_wait(&proc, &created.state.init)?;
        drop(crate::sys::process::wait(created.child.pidfd.as_fd(), true));
        remove(&created, &interrupts)?;
        if let Some(path) = &args.create.receivers.pid_file {
            // As after a create that fails: it names a process that is gone.
            drop(std::fs::remove_file(path));
        }
    }
    if let Some(watcher) = created.watcher.as_ref().filter(|_| !args.detach || ran.is_err()) {
        watcher.finish();
    }
    Ok((ran.with_context(|| format!("run {id}"))?, created.watcher))
}

/// `--explain-denials`.
fn explain(args: &Run, plan: &mut Plan, config: &Config, request: &Request) -> Result<Option<Watcher>> {
    if !args.explain_denials {
        return Ok(None);
    }
    if args.detach && args.denials_log.is_none() {
        let refused: Result<_> = Err(anyhow!("--explain-denials of a detached container needs --denials-log FILE"));
        return refused.hint("nobody reads its standard error when this command has returned");
    }
    refuse_ordinary_user(plan).context("--explain-denials")?;
    let Some(compiled) = &plan.seccomp else {
        crate::log::warn("--explain-denials: there is no seccomp profile that could deny a call");
        return Ok(None);
    };
    let watched = Watched::new(compiled, false).map_err(|e| anyhow!("--explain-denials: {e}"))?;
    if !watched.filter.notifies {
        crate::log::warn("--explain-denials: the profile has no SCMP_ACT_ERRNO; the kernel's log has what it kills");
        return Ok(None);
    }
    let section = config.spec.linux.as_ref().and_then(|linux| linux.seccomp().as_ref());
    let profiles: Vec<&LinuxSeccomp> = request.extra_seccomp.iter().chain(section).collect();
    let stack = Stack::new(Arch::NATIVE, &profiles, &request.extra_seccomp_names)
        .context("--explain-denials: the profile does not compile")?;
    let output = match &args.denials_log {
        Some(path) => {
            let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
            opened.with_context(|| format!("--denials-log {path:?}"))?
        }
        None => File::from(stdio(2).try_clone_to_owned().context("standard error")?),
    };
    plan.seccomp = Some(watched.filter.clone());
    Ok(Some(Watcher::new(watched, Task::Explain { stack, output })))
}

/// pidfd_getfd(2) takes the listener out of a process that is not dumpable, which only root may do.
pub fn refuse_ordinary_user(plan: &Plan) -> Result<()> {
    if plan.ordinary_user { Err(anyhow!("needs root, to answer for a filter of the container")) } else { Ok(()) }
}

/// Removes the container, unless a `delete --force` has: its cgroups may be those of a new one with the same id.
pub fn remove(created: &Created, interrupts: &Interrupts) -> Result<()> {
    let _lock = created.dir.lock()?;
    if !created.dir.exists()? {
        return Ok(());
    }
    destroy(&created.dir, Some(&created.state), None, Some(interrupts))
}

/// SIGKILL does not say who has sent it.
fn tell_of_oom(created: &Created) {
    let kills = Existing::open(&created.state.cgroups).ok().and_then(|cgroups| cgroups.oom_kills());
    if let Some(kills) = kills.filter(|kills| *kills > 0) {
        crate::log::warn(&format!(
            "run {}: killed by the OOM killer: {kills} process(es) of the container's cgroup met linux.resources.memory.limit",
            created.state.id
        ));
    }
}

fn finish(args: &Run, created: &Created, interrupts: &Interrupts) -> Result<u8> {
    let proc = Proc::open()?;
    let lock = created.dir.lock()?;
    // Signals are collected from here on: none may kill this process between start and the wait.
    let signals = foreground::Signals::block(!args.detach)?;
    let notify = Notify::bind(&created.dir)?;
    start::start(&created.dir, &created.state, &proc, Some(interrupts), created.watcher.as_ref())?;
    drop(lock);
    if args.detach {
        if let Some(notify) = &notify {
            notify.wait(created.child.pid.as_raw(), &created.child.pidfd, Some(interrupts))?;
        }
        return Ok(0);
    }
    let exit = foreground::wait(&created.child, created.master.as_ref(), &signals, notify)?;
    drop(signals);
    if exit == Exit::Signal(libc::SIGKILL) {
        tell_of_oom(created);
    }
    if !args.keep {
        remove(created, interrupts)?;
    }
    Ok(exit.status())
}
