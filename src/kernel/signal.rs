// SPDX-License-Identifier: Apache-2.0
//! Signals that end a command are turned into events (signalfd(2)), so that the command can clear up first.
//! They stay blocked to its end: one that comes when the work is done must not make a success look like a failure.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::sys::call;

/// SIGINT, SIGTERM and SIGHUP, blocked.
#[derive(Debug)]
pub struct Interrupts {
    fd: SignalFd,
}

impl Interrupts {
    /// Blocks the signals. One that the caller ignores (nohup(1)) stays ignored.
    pub fn block() -> Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            if !crate::sys::process::is_ignored(signal as i32) {
                set.add(signal);
            }
        }
        call!("sigprocmask(SIG_BLOCK, INT|TERM|HUP)" => sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None))?;
        let fd = call!("signalfd(INT|TERM|HUP)" => SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK))?;
        Ok(Self { fd })
    }

    /// Readable when a signal waits.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Fails if a signal waits.
    pub fn check(&self) -> Result<()> {
        match self.next() {
            Some(signal) => bail!("interrupted by {signal}"),
            None => Ok(()),
        }
    }

    /// Waits until one of `fds` is readable, and tells which are; fails if a signal comes first. One that is there as
    /// well stays pending: what was waited for has happened, and the signal may be meant for what comes next.
    pub fn wait_for<const N: usize>(&self, fds: [BorrowedFd<'_>; N]) -> Result<[bool; N]> {
        loop {
            let mut polled = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).to_vec();
            polled.push(PollFd::new(self.fd(), PollFlags::POLLIN));
            match poll(&mut polled, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                other => call!("poll()" => other)?,
            };
            let mut readable = polled.iter().map(|fd| fd.any().unwrap_or(false));
            let ready = [(); N].map(|()| readable.next().unwrap_or(false));
            if !ready.contains(&true) {
                self.check()?;
            }
            return Ok(ready);
        }
    }

    /// The name of a signal that waits, and takes it.
    fn next(&self) -> Option<String> {
        let info = self.fd.read_signal().ok().flatten()?;
        let signal = Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()?;
        Some(signal.to_string())
    }
}
