// SPDX-License-Identifier: Apache-2.0
//! Waiting for a container in the foreground: signals go to init, the terminal's bytes both ways, and its size follows
//! the caller's.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{Pid, isatty};

use crate::process::notify::Notify;
use crate::sys::call;
use crate::sys::clone::Child;
use crate::sys::fd::stdio;
use crate::sys::process::{Exit, pidfd_send_signal, wait as reap};
use crate::sys::tty::copy_size;

/// Every signal that can be caught, blocked as long as this lives.
#[derive(Debug)]
pub struct Signals {
    fd: Option<SignalFd>,
    before: SigSet,
}

impl Signals {
    /// Blocks the signals if `foreground`; a detaching command has nobody to pass them on to.
    pub fn block(foreground: bool) -> Result<Self> {
        let mut before = SigSet::empty();
        if !foreground {
            return Ok(Self { fd: None, before });
        }
        let mut set = SigSet::all();
        for signal in
            [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT, Signal::SIGTRAP]
        {
            set.remove(signal); // faults of this program
        }
        call!("sigprocmask(SIG_BLOCK)" => sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut before)))?;
        let fd = call!("signalfd()" => SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK))?;
        Ok(Self { fd: Some(fd), before })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        if self.fd.is_some() {
            let _ignored = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
        }
    }
}

/// Waits until `child` has ended and says how; `master` is its terminal's, if it has one. `notify`: where it says that it
/// is ready.
pub fn wait(child: &Child, master: Option<&OwnedFd>, signals: &Signals, mut notify: Option<Notify>) -> Result<Exit> {
    crate::log::settle();
    crate::trace::mark(crate::trace::Phase::WaitForProgram);
    let pidfd = child.pidfd.as_fd();
    let mut terminal = master.map(Terminal::attach).transpose()?;
    loop {
        let mut fds = vec![PollFd::new(pidfd, PollFlags::POLLIN)];
        if let Some(fd) = &signals.fd {
            fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN));
        }
        if let Some(terminal) = &terminal {
            fds.extend(terminal.polled());
        }
        fds.extend(notify.as_ref().map(|notify| PollFd::new(notify.fd(), PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => call!("poll()" => other)?,
        };
        drop(fds);
        if let Some(terminal) = &mut terminal {
            terminal.relay();
        }
        // The service manager's main process is this one.
        if let Some(told) = notify.take_if(|notify| readable(notify.fd()))
            && !told.relay(None)?
        {
            notify = Some(told);
        }
        for signal in pending(signals) {
            forward(child, signal, terminal.as_ref());
        }
        if let Some(exit) = reap(pidfd, false)? {
            if let Some(terminal) = &mut terminal {
                terminal.drain();
            }
            crate::trace::mark(crate::trace::Phase::End);
            return Ok(exit);
        }
    }
}

fn pending(signals: &Signals) -> Vec<i32> {
    let mut taken = Vec::new();
    while let Some(Ok(Some(info))) = signals.fd.as_ref().map(SignalFd::read_signal) {
        taken.push(i32::try_from(info.ssi_signo).unwrap_or(0));
    }
    taken
}

fn forward(init: &Child, signal: i32, terminal: Option<&Terminal>) {
    match signal {
        libc::SIGCHLD => reap_orphans(init.pid),
        libc::SIGWINCH if terminal.is_some() => {
            if let Some(terminal) = terminal {
                terminal.follow_size();
            }
        }
        // Init may have ended: the next round sees it.
        other => drop(pidfd_send_signal(init.pidfd.as_fd(), other)),
    }
}

/// As a subreaper this process inherits orphans of the container. Init itself is left to its pidfd.
fn reap_orphans(init: Pid) {
    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
    // A look without reaping first: init must stay for whoever asks for its status.
    while let Ok(status) = waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT) {
        let Some(pid) = status.pid() else { return };
        if status == WaitStatus::StillAlive || pid == init {
            return;
        }
        let _ignored = nix::sys::wait::waitpid(pid, Some(WaitPidFlag::WNOHANG));
    }
}

/// The caller's terminal, raw while this lives, and the container's.
struct Terminal<'a> {
    master: &'a OwnedFd,
    /// Whose size is followed: standard input, output or error, the first that is a terminal.
    sized: Option<BorrowedFd<'static>>,
    saved: Option<Termios>,
    input_open: bool,
    output_open: bool,
}

impl<'a> Terminal<'a> {
    fn attach(master: &'a OwnedFd) -> Result<Self> {
        let mut saved = None;
        if isatty(stdio(0)).unwrap_or(false) {
            let before = call!("tcgetattr(0)" => tcgetattr(stdio(0)))?;
            let mut raw = before.clone();
            cfmakeraw(&mut raw);
            call!("tcsetattr(0)" => tcsetattr(stdio(0), SetArg::TCSANOW, &raw)).context("make the terminal raw")?;
            saved = Some(before);
        }
        let sized = (0..3).map(stdio).find(|stream| isatty(stream).unwrap_or(false));
        let terminal = Self { master, sized, saved, input_open: true, output_open: true };
        terminal.follow_size();
        Ok(terminal)
    }

    fn follow_size(&self) {
        // Without a terminal on this side the container keeps the size of its config.
        if let Some(stream) = self.sized {
            drop(copy_size(stream, self.master.as_fd()));
        }
    }

    fn polled(&self) -> Vec<PollFd<'_>> {
        let mut fds = Vec::new();
        if self.output_open {
            fds.push(PollFd::new(self.master.as_fd(), PollFlags::POLLIN));
        }
        if self.input_open {
            fds.push(PollFd::new(stdio(0), PollFlags::POLLIN));
        }
        fds
    }

    /// Moves what can be moved without waiting.
    fn relay(&mut self) {
        if self.output_open && readable(self.master.as_fd()) {
            self.output_open = copy(self.master.as_fd(), stdio(1));
        }
        if self.input_open && readable(stdio(0)) {
            self.input_open = copy(stdio(0), self.master.as_fd());
            if !self.input_open {
                // The end of input is a key on a terminal.
                let _ignored = nix::unistd::write(self.master, &[4]);
            }
        }
    }

    /// What init's side wrote before it ended.
    fn drain(&mut self) {
        while self.output_open && readable(self.master.as_fd()) {
            self.output_open = copy(self.master.as_fd(), stdio(1));
        }
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            let _ignored = tcsetattr(stdio(0), SetArg::TCSANOW, saved);
        }
    }
}

fn readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

/// Copies one buffer. False at the end: EIO is how a terminal says that its other side is gone.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0; 8192];
    let Ok(mut source) = from.try_clone_to_owned().map(std::fs::File::from) else { return false };
    let Ok(mut target) = to.try_clone_to_owned().map(std::fs::File::from) else { return false };
    match source.read(&mut buffer) {
        Ok(0) => false,
        Ok(n) => target.write_all(buffer.get(..n).unwrap_or_default()).is_ok(),
        Err(e) => matches!(e.kind(), std::io::ErrorKind::Interrupted | std::io::ErrorKind::WouldBlock),
    }
}
