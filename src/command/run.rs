// SPDX-License-Identifier: Apache-2.0
//! `orlop run`: create, start, and in the foreground wait, passing signals and the terminal on.

use std::os::fd::AsFd;

use anyhow::{Context, Result};

use crate::cli::Run;
use crate::command::create::make;
use crate::kernel::procfs::Proc;
use crate::kernel::signal::Interrupts;
use crate::process::create::Created;
use crate::process::destroy::{destroy, kill_and_wait};
use crate::process::foreground;
use crate::process::start;
use crate::state::Root;
use crate::sys::process::set_child_subreaper;

/// Runs a container. In the foreground the exit status is the program's, or 128 + the number of the signal that killed
/// it, and the container is deleted afterwards unless `--keep`.
pub fn run(root: &Root, args: &Run, tolerate_cgroups: Option<bool>) -> Result<u8> {
    let id = args.create.id.id.as_str();
    if !args.detach && !args.no_subreaper {
        set_child_subreaper()?;
    }
    let interrupts = Interrupts::block()?;
    let created = make(root, &args.create, args.detach, tolerate_cgroups, &interrupts)?;
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
    ran.with_context(|| format!("run {id}"))
}

/// Removes the container, unless a `delete --force` has: its cgroups may be those of a new one with the same id.
fn remove(created: &Created, interrupts: &Interrupts) -> Result<()> {
    let _lock = created.dir.lock()?;
    if !created.dir.exists()? {
        return Ok(());
    }
    destroy(&created.dir, Some(&created.state), None, Some(interrupts))
}

fn finish(args: &Run, created: &Created, interrupts: &Interrupts) -> Result<u8> {
    let proc = Proc::open()?;
    let lock = created.dir.lock()?;
    // Signals are collected from here on: none may kill this process between start and the wait.
    let signals = foreground::Signals::block(!args.detach)?;
    start::start(&created.dir, &created.state, &proc, Some(interrupts))?;
    drop(lock);
    if args.detach {
        return Ok(0);
    }
    let exit = foreground::wait(&created.child, created.master.as_ref(), &signals)?;
    drop(signals);
    if !args.keep {
        remove(created, interrupts)?;
    }
    Ok(exit.status())
}
