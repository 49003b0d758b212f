// SPDX-License-Identifier: Apache-2.0
//! `orlop events`.

use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use crate::cli::Events;
use crate::kernel::cgroup::{Existing, OomWatch};
use crate::kernel::procfs::Proc;
use crate::state::{Root, Status};
use crate::sys::call;

/// Prints an object a line: with `--stats` what the container has used until now; otherwise that at each interval, and an
/// event for each kill by the OOM killer, until the container has ended or nobody reads any more.
pub fn events(root: &Root, args: &Events) -> Result<u8> {
    let id = args.id.id.as_str();
    stream(root, id, args).with_context(|| format!("events {id}"))?;
    Ok(0)
}

fn stream(root: &Root, id: &str, args: &Events) -> Result<()> {
    let state = root.container(id)?.complete_state()?;
    let proc = Proc::open()?;
    if state.status(&proc)? == Status::Stopped {
        bail!("container with id {id} is not running");
    }
    let found = proc.find(&state.init)?.with_context(|| format!("container with id {id} is not running"))?;
    let cgroups = Existing::open(&state.cgroups)?;
    if cgroups.is_empty() {
        bail!("the container has no cgroup, which could count");
    }
    let statistics = || json!({"type": "stats", "id": id, "data": cgroups.statistics()});
    if args.stats {
        print(&statistics());
        return Ok(());
    }
    let mut oom = OomWatch::begin(&cgroups)?;
    let mut next = Instant::now() + args.interval;
    loop {
        let left = next.saturating_duration_since(Instant::now());
        let mut fds = vec![PollFd::new(found.pidfd.as_fd(), PollFlags::POLLIN)];
        if let Some(oom) = &oom {
            let (fd, flags) = oom.polled();
            fds.push(PollFd::new(fd, flags));
        }
        // Rounded up, so that the last millisecond is not spent on asking.
        let timeout =
            PollTimeout::try_from(left.saturating_add(Duration::from_micros(999))).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            other => call!("poll()" => other)?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty())).collect();
        let ended = ready.first() == Some(&true);
        let told = ready.get(1) == Some(&true) || ended;
        let happened = match &mut oom {
            Some(oom) if told => oom.happened()?,
            _ => false,
        };
        let mut heard = true;
        if happened {
            heard = print(&json!({"type": "oom", "id": id}));
        }
        if Instant::now() >= next && !ended {
            heard = heard && print(&statistics());
            next = Instant::now() + args.interval;
        }
        if ended || !heard {
            return Ok(());
        }
    }
}

/// Prints a line. False if nobody reads it.
fn print(value: &Value) -> bool {
    std::io::stdout().write_all(format!("{value}\n").as_bytes()).is_ok()
}
