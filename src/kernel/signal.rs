// SPDX-License-Identifier: Apache-2.0
//! Signals that end a command are turned into events (signalfd(2)), so that the command can clear up first.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Result;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::sys::call;

/// SIGINT, SIGTERM and SIGHUP, blocked as long as this lives.
#[derive(Debug)]
pub struct Interrupts {
    fd: SignalFd,
    before: SigSet,
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
        let mut before = SigSet::empty();
        call!("sigprocmask(SIG_BLOCK, INT|TERM|HUP)" => sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut before)))?;
        let fd = call!("signalfd(INT|TERM|HUP)" => SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK))?;
        Ok(Self { fd, before })
    }

    /// Readable when a signal waits.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The name of a signal that waits, and takes it.
    pub fn next(&self) -> Option<String> {
        let info = self.fd.read_signal().ok().flatten()?;
        let signal = Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()?;
        Some(signal.to_string())
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        // A signal that came meanwhile acts now.
        let _ignored = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}
