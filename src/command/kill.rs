// SPDX-License-Identifier: Apache-2.0
//! `orlop kill`.

use std::os::fd::AsFd;

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::cli::Kill;
use crate::error::ResultExt;
use crate::kernel::cgroup::Existing;
use crate::kernel::procfs::Proc;
use crate::state::{Root, State, Status};
use crate::sys::process::pidfd_send_signal;

/// Sends a signal to init, or with `--all` to every process of the container.
pub fn kill(root: &Root, args: &Kill) -> Result<u8> {
    let id = args.id.id.as_str();
    let sent = || -> Result<()> {
        let signal = parse(&args.signal)?;
        let state = root.container(id)?.complete_state()?;
        let proc = Proc::open()?;
        let stopped = state.status(&proc)? == Status::Stopped;
        if args.all {
            // Processes of a shared PID namespace outlive init.
            let cgroups = Existing::open(&state.cgroups)?;
            if !cgroups.is_empty() {
                return cgroups.kill_all(signal);
            }
        }
        if stopped {
            bail!("container not running");
        }
        to_init(&state, &proc, signal)
    };
    sent().with_context(|| format!("kill {id}"))?;
    Ok(0)
}

fn to_init(state: &State, proc: &Proc, signal: i32) -> Result<()> {
    if signal == libc::SIGKILL && !state.private_pid_namespace && !state.cgroups.is_empty() {
        // Without a PID namespace of its own init does not take the others with it.
        return Existing::open(&state.cgroups)?.kill_all(signal);
    }
    let found = proc.find(&state.init)?.context("container not running")?;
    match pidfd_send_signal(found.pidfd.as_fd(), signal) {
        Err(e) if e.errno == Errno::ESRCH => bail!("container not running"),
        sent => sent?,
    }
    if signal == libc::SIGKILL {
        // On cgroup v1 a frozen process does not die.
        let cgroups = Existing::open(&state.cgroups)?;
        if cgroups.is_frozen()? {
            cgroups.thaw()?;
        }
    }
    Ok(())
}

/// A signal by number (1 to 64) or by name, with or without SIG, in any case.
pub fn parse(text: &str) -> Result<i32> {
    if let Ok(number) = text.parse::<i32>() {
        if (1..=64).contains(&number) {
            return Ok(number);
        }
    } else {
        let upper = text.to_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let real_time = |base: &str| {
            name.strip_prefix(base).and_then(|rest| if rest.is_empty() { Some(0) } else { rest.parse::<i32>().ok() })
        };
        let number = match (name, real_time("RTMIN"), real_time("RTMAX")) {
            (_, Some(offset @ 0..=30), _) => Some(34 + offset),
            (_, _, Some(offset @ -30..=0)) => Some(64 + offset),
            ("CLD", ..) => Some(libc::SIGCHLD),
            ("POLL", ..) => Some(libc::SIGIO),
            ("IOT", ..) => Some(libc::SIGABRT),
            ("UNUSED", ..) => Some(libc::SIGSYS),
            _ => format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32),
        };
        if let Some(number) = number {
            return Ok(number);
        }
    }
    let error: Result<i32> = Err(anyhow!("unknown signal {text:?}"));
    error.hint("a number from 1 to 64, or a name of signal(7) such as TERM, SIGKILL, RTMIN+1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_number_and_name() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("64", 64),
            ("RTMIN", 34),
            ("rtmin+3", 37),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in ["0", "65", "-1", "", "SIG", "FOO", "SIGRTMIN+40"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
