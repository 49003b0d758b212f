// SPDX-License-Identifier: Apache-2.0
//! Loading the compiled filter (seccomp(2)), and handing its listener to a supervisor (seccomp_unotify(2)).

use std::io::{IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::error::ResultExt;
use crate::seccomp::{Compiled, FilterFlag, Listener};
use crate::sys::call;
use crate::sys::memory::SharedWord;
use crate::sys::process::pidfd_getfd;
use crate::sys::seccomp::{set_mode_filter, set_mode_filter_with_listener};

/// How long a supervisor's socket or a filtered process may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a filtered process looks whether its listener has been taken: some ten seconds. It must not ask a clock,
/// which could be a system call.
const LOOKS: u64 = 200_000_000;

/// Loads the filter into the calling process. Without no_new_privs this needs CAP_SYS_ADMIN in the user namespace.
pub fn load(filter: &Compiled) -> Result<()> {
    load_before(filter)?;
    load_with(filter, |flags| set_mode_filter(&filter.program, flags))
}

/// Loads a filter that notifies, and waits until the runtime has taken the listener, without a system call: any of them
/// may be one that the filter stops until the supervisor answers. The listener has the lowest free number, which the
/// runtime has been told; execve closes it here.
pub fn load_and_wait(filter: &Compiled, taken: &SharedWord) -> Result<()> {
    load_before(filter)?;
    let listener = load_with(filter, |flags| {
        // A process with one thread has nothing to synchronise, and the kernel takes the two flags together only with a
        // third.
        let tsync = libc::c_ulong::from(FilterFlag::Tsync.bit());
        set_mode_filter_with_listener(&filter.program, flags & !tsync)
    })?;
    // Dropping it would be a system call.
    std::mem::forget(listener);
    for _ in 0..LOOKS {
        if taken.get().load(Ordering::Acquire) != 0 {
            return Ok(());
        }
        std::hint::spin_loop();
    }
    bail!("linux.seccomp.listenerPath: nobody has taken the listener")
}

/// The filters below the one that may notify. They want no listener, so that not every flag is theirs.
fn load_before(filter: &Compiled) -> Result<()> {
    let listener = libc::c_ulong::from(FilterFlag::WaitKillableRecv.bit());
    filter.before.iter().try_for_each(|program| load_with(filter, |flags| set_mode_filter(program, flags & !listener)))
}

fn load_with<T>(filter: &Compiled, load: impl Fn(libc::c_ulong) -> crate::sys::Result<T>) -> Result<T> {
    let bits = |flags: &[FilterFlag]| flags.iter().fold(0, |bits, flag| bits | libc::c_ulong::from(flag.bit()));
    let flags = bits(&filter.flags);
    let without = flags & !libc::c_ulong::from(FilterFlag::SpecAllow.bit());
    load(flags)
        .or_else(|e| match e.errno {
            // SPEC_ALLOW is the default where the config names no flags, and newer than the rest (Linux 4.17).
            Errno::EINVAL if flags != without => load(without),
            _ => Err(e),
        })
        .or_else(|e| match e.errno {
            // The runtime's own wish, not the config's, and newer still (Linux 5.19).
            Errno::EINVAL if filter.is_watched() => {
                load(without & !libc::c_ulong::from(FilterFlag::WaitKillableRecv.bit()))
            }
            _ => Err(e),
        })
        .hint_if(Errno::EINVAL, "the kernel lacks CONFIG_SECCOMP_FILTER or one of linux.seccomp.flags")
        .hint_if(Errno::ENOMEM, "all filters of a process together may have 32768 instructions")
        .hint_if(Errno::EBUSY, "a filter of the caller has a listener already, and a process can have one only")
        .context("linux.seccomp")
}

/// The number that the next descriptor of the calling process will get.
pub fn next_descriptor() -> Result<i32> {
    let copy = call!("dup(0)" => nix::unistd::dup(crate::sys::fd::stdio(0)))?;
    Ok(copy.as_raw_fd())
}

/// A connection to the supervisor at `listenerPath`.
pub struct Supervisor(UnixStream);

impl Supervisor {
    /// Connects, before the filter is loaded: a supervisor that is not there is an early error.
    pub fn connect(listener: &Listener) -> Result<Self> {
        let stream =
            UnixStream::connect(&listener.path).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)));
        let stream = call!("connect({:?})", listener.path => stream)
            .hint("a supervisor for SCMP_ACT_NOTIFY must listen there before the container is made")
            .context("linux.seccomp.listenerPath")?;
        stream.set_write_timeout(Some(PATIENCE)).context("linux.seccomp.listenerPath")?;
        Ok(Self(stream))
    }

    /// Takes descriptor number `fd` of the process behind `pidfd` as soon as it is there, sends it with `state` in one
    /// message (config-linux.md#seccomp: a state per connection, closed afterwards), and tells the process.
    pub fn hand_over(self, pidfd: BorrowedFd<'_>, fd: i32, state: &[u8], taken: &SharedWord) -> Result<()> {
        let listener = take(pidfd, fd)?;
        let fds = [listener.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        let sent = sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(state)], &rights, MsgFlags::MSG_NOSIGNAL, None);
        let sent = call!("sendmsg({} bytes)", state.len() => sent).context("linux.seccomp.listenerPath")?;
        // A stream may take less than everything; the descriptor went with the first byte.
        let rest = state.get(sent..).unwrap_or_default();
        (&self.0).write_all(rest).context("linux.seccomp.listenerPath")?;
        taken.get().store(1, Ordering::Release);
        Ok(())
    }
}

/// Descriptor number `fd` of the process behind `pidfd`, as soon as it is there.
pub fn take(pidfd: BorrowedFd<'_>, fd: i32) -> Result<OwnedFd> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match pidfd_getfd(pidfd.as_fd(), fd) {
            // Not loaded yet.
            Err(e) if e.errno == Errno::EBADF && Instant::now() < deadline && !has_ended(pidfd) => {
                std::thread::sleep(Duration::from_micros(20));
            }
            taken => return taken.context("take the listener of linux.seccomp"),
        }
    }
}

fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    poll(&mut [PollFd::new(pidfd, PollFlags::POLLIN)], PollTimeout::ZERO).is_ok_and(|n| n > 0)
}
