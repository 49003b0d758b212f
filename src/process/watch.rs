// SPDX-License-Identifier: Apache-2.0
//! A process beside `run` that answers the calls which a container's filter notifies: to tell of those that are refused,
//! or to record all (seccomp_unotify(2)).
//!
//! A process of its own, since the calls may come while `run` waits for something else: for init, for a hook, for a
//! reader of the container's output. It ends with the last process that has the filter.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::Pid;

use crate::kernel::procfs::Proc;
use crate::kernel::seccomp::take;
use crate::process::channel::{Channel, Message};
use crate::seccomp::denials::{Answer, Caller, Stack, Watched, report};
use crate::seccomp::policy::Data;
use crate::seccomp::record::Recording;
use crate::sys::call;
use crate::sys::clone::{Child, Clone, clone3, exit};
use crate::sys::fd::{close_range, duplicate_onto, owned};
use crate::sys::memory::SharedWord;
use crate::sys::seccomp::{Notification, answer, is_pending, next_notification, wake_synchronously};

/// How long the watcher may go on when the container has ended: it has seen everything, and has to say it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most refused calls that are told apart. A program that runs through all numbers would fill the log.
const MOST: usize = 1000;

/// Who watches, and what for.
pub struct Watcher {
    watched: Watched,
    task: Task,
    child: OnceCell<Child>,
}

/// What a watcher does with the calls.
pub enum Task {
    /// Writes each distinct call that the profiles refuse.
    Explain { stack: Stack, output: File },
    /// Writes a [`Recording`] at the end.
    Record { output: File },
}

impl Watcher {
    /// A watcher that has yet to begin.
    pub fn new(watched: Watched, task: Task) -> Self {
        Self { watched, task, child: OnceCell::new() }
    }

    /// Answers a process that is about to load the filter: takes the listener and begins. `pid` is init's.
    pub fn take_listener(
        &self,
        number: i32,
        pid: Pid,
        pidfd: BorrowedFd<'_>,
        channel: &Channel,
        taken: &SharedWord,
    ) -> Result<()> {
        channel.send(&Message::Go)?;
        let listener = take(pidfd, number)?;
        match clone3(0, None).context("clone the process that answers for the seccomp filter")? {
            Clone::Parent(child) => {
                // There is one listener, so one beginning.
                drop(self.child.set(child));
                taken.get().store(1, Ordering::Release);
                Ok(())
            }
            // The frames of the parent own descriptors that are closed here, so that none may be left.
            Clone::Child => exit(i32::from(self.watch(&listener, pid).is_err())),
        }
    }

    /// Waits until the watcher has said everything, at most [`PATIENCE`]: processes that outlive the container's init
    /// keep it.
    pub fn finish(&self) {
        let Some(child) = self.child.get() else { return };
        let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::NONE);
        let mut fds = [PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN)];
        while poll(&mut fds, patience) == Err(Errno::EINTR) {}
        // It may have been reaped as an orphan.
        drop(crate::sys::process::wait(child.pidfd.as_fd(), false));
    }

    /// What was recorded. To be called when the container has ended.
    pub fn recording(&self) -> Result<Recording> {
        self.finish();
        let Task::Record { output } = &self.task else { return Ok(Recording::default()) };
        let mut output = output;
        let mut text = Vec::new();
        output.seek(SeekFrom::Start(0)).and_then(|_| output.read_to_end(&mut text)).context("the recording")?;
        serde_json::from_slice(&text).context("no recording: the process that answers for the filter has died")
    }

    /// The watcher's life.
    fn watch(&self, listener: &OwnedFd, init: Pid) -> Result<()> {
        // Signals of the terminal are meant for the container, which needs its calls answered to obey.
        call!("sigprocmask(SIG_BLOCK)" => sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None))?;
        crate::log::silence();
        let (Task::Explain { output, .. } | Task::Record { output }) = &self.task;
        // Nothing of the parent's is kept: a lock or an end of a socket would outlive it.
        let high = |fd: BorrowedFd<'_>| call!("fcntl(F_DUPFD_CLOEXEC, 16)" => fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(16)));
        let (listener, output) = {
            let [listener, output] = [high(listener.as_fd())?, high(output.as_fd())?].map(|fd| owned(fd.into()));
            (duplicate_onto(listener.as_fd(), 3)?, duplicate_onto(output.as_fd(), 4)?)
        };
        close_range(5, u32::MAX)?;
        let proc = Proc::open()?;
        wake_synchronously(listener.as_fd());
        let mut session = Session { watched: &self.watched, proc, init: Some(init), output: File::from(output) };
        match &self.task {
            Task::Explain { stack, .. } => session.explain(listener.as_fd(), stack),
            Task::Record { .. } => session.record(listener.as_fd()),
        }
    }
}

struct Session<'a> {
    watched: &'a Watched,
    proc: Proc,
    /// Some as long as it has not executed the program.
    init: Option<Pid>,
    output: File,
}

impl Session<'_> {
    fn explain(&mut self, listener: BorrowedFd<'_>, stack: &Stack) -> Result<()> {
        let mut told = BTreeSet::new();
        while let Some((notification, data)) = next(listener)? {
            let verdict = self.watched.answer(&data);
            let new = told.len() < MOST && told.insert((data.arch, data.number, stack.tested(&data)));
            // The process waits for the answer, so that this is about it unless it was killed meanwhile.
            let caller = new.then(|| self.caller(notification.pid)).filter(|_| is_pending(listener, notification.id));
            reply(listener, &notification, verdict);
            if let Some(caller) = caller {
                let text = report(stack, &data, &caller);
                // The container goes on though nobody listens.
                drop(self.output.write_all(format!("orlop: {text}\n").as_bytes()));
            }
        }
        Ok(())
    }

    fn record(&mut self, listener: BorrowedFd<'_>) -> Result<()> {
        let mut recording = Recording::default();
        while let Some((notification, data)) = next(listener)? {
            let verdict = self.watched.answer(&data);
            let runtime = self.is_of_the_runtime(notification.pid);
            reply(listener, &notification, verdict);
            recording.add(&data, verdict, runtime);
        }
        self.output.write_all(&serde_json::to_vec(&recording)?)?;
        Ok(())
    }

    /// Whether the call is one of orlop's own in the process that becomes the container's program.
    fn is_of_the_runtime(&mut self, pid: Pid) -> bool {
        let Some(init) = self.init.filter(|init| *init == pid) else { return false };
        let waits = self.proc.stat(init).ok().flatten().is_some_and(|stat| stat.has_not_execed());
        if !waits {
            self.init = None;
        }
        waits
    }

    fn caller(&self, pid: Pid) -> Caller {
        let command = self.proc.read(&format!("{pid}/comm")).unwrap_or_default().trim_end().to_string();
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        // Both are the container's to choose, and go to a terminal.
        let plain = |text: &str| text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
        Caller { pid: pid.as_raw(), command: plain(&command), program: plain(&program.to_string_lossy()) }
    }
}

/// The next call that waits for an answer; None when no process has the filter any more.
fn next(listener: BorrowedFd<'_>) -> Result<Option<(Notification, Data)>> {
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => call!("poll()" => other)?,
        };
        if !fds.iter().any(|fd| fd.revents().is_some_and(|events| events.contains(PollFlags::POLLIN))) {
            return Ok(None);
        }
        match next_notification(listener) {
            Ok(n) => {
                let data = Data { arch: n.arch, number: n.number, args: n.args };
                return Ok(Some((n, data)));
            }
            // The caller was killed before its call could be read.
            Err(e) if matches!(e.errno, Errno::ENOENT | Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn reply(listener: BorrowedFd<'_>, notification: &Notification, verdict: Answer) {
    let errno = match verdict {
        Answer::Continue => None,
        Answer::Errno(errno) => Some(errno),
    };
    // ENOENT: the caller was killed meanwhile.
    drop(answer(listener, notification.id, errno));
}
