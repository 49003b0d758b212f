// SPDX-License-Identifier: Apache-2.0
//! The datagrams between `create` and init: one socket pair, JSON (readable in strace), descriptors by SCM_RIGHTS.
//!
//! ```text
//!   child                      parent
//!   Cloned + pidfd       ──▶   (from the stager, if there is one)
//!   NeedIdMap            ──▶   gid_map, uid_map
//!                        ◀──   Go
//!   Idmap + fd           ──▶   idmaps a clone that the child has made (in a user namespace)
//!                        ◀──   Go
//!   Console + fd         ──▶   hands the terminal's master on (process.terminal)
//!   Listener(number)     ──▶   connects to linux.seccomp.listenerPath
//!                        ◀──   Go, then takes the listener and says so in shared memory
//!   MountsDone           ──▶   runs prestart and createRuntime hooks
//!                        ◀──   Go
//!   Ready { .. }         ──▶   oom_score_adj, rlimits, scheduler; saves the state, writes the pid file
//!                        ◀──   Go
//!   end of file          ──▶   ends: init lives without it
//!   Warning { .. }             at any point
//!   Failed { .. }              at any point; then _exit(1)
//! ```
//!
//! `mounts add` is told of each mount (`Mount`) before it is attached, and answers `Go` when it is on record.
//!
//! End of file on either side means that the other one has died. `start` speaks the last three words on a connection of
//! its own: `Go` or `GoTraced` to init, then `Failed` back, or end of file when execve has closed it.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{self, ResultExt};
use crate::kernel::mount::MountId;
use crate::sys;
use crate::sys::socket::{receive, send, seqpacket_pair};

/// The longest datagram: an error chain is cut well below it.
const LIMIT: usize = 64 * 1024;

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    Cloned {
        pid: i32,
    },
    NeedIdMap,
    /// A clone of a mount that the parent is to idmap: its place in the plan, None for the root.
    Idmap {
        mount: Option<usize>,
    },
    /// The terminal's name in the container.
    Console(String),
    /// The filter is about to be loaded, and its listener will have this number.
    Listener(i32),
    MountsDone,
    /// A mount of `mounts add` that is about to be attached.
    Mount(MountId),
    /// With the indices in `process.rlimits` of the limits that the process itself may not set.
    Ready {
        limits: Vec<usize>,
    },
    Go,
    /// `Go`, from a `start` whose `--trace` wants to know what init does: the descriptor is its memory.
    GoTraced,
    Warning(String),
    Failed(Failure),
}

/// An error on its way from one process to another: nothing of the chain is flattened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Outermost first.
    chain: Vec<String>,
    hints: Vec<String>,
    errno: Option<i32>,
}

impl From<&anyhow::Error> for Failure {
    fn from(error: &anyhow::Error) -> Self {
        let cut = |text: String| text.chars().take(512).collect();
        Self {
            chain: error.chain().map(|cause| cut(cause.to_string())).take(12).collect(),
            hints: error::hints(error).into_iter().map(cut).take(8).collect(),
            errno: error::errno_of(error).map(|errno| errno as i32),
        }
    }
}

/// The innermost cause of an error that happened in another process.
#[derive(Debug)]
pub struct Remote {
    message: String,
    errno: Option<Errno>,
}

impl Remote {
    /// The errno of the system call that failed over there.
    pub fn errno(&self) -> Option<Errno> {
        self.errno
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Remote {}

impl From<Failure> for anyhow::Error {
    fn from(mut failure: Failure) -> Self {
        let message = failure.chain.pop().unwrap_or_else(|| "unknown error".into());
        let remote = Remote { message, errno: failure.errno.map(Errno::from_raw) };
        let chained = failure.chain.into_iter().rev().fold(anyhow!(remote), |e, context| e.context(context));
        failure.hints.into_iter().rev().fold(chained, |e, hint| {
            let wrapped: Result<()> = Err(e);
            wrapped.hint(hint).err().unwrap_or_else(|| anyhow!("unknown error"))
        })
    }
}

/// One end of the channel.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// Two connected ends.
pub fn pair() -> Result<(Channel, Channel)> {
    let (ours, theirs) = seqpacket_pair()?;
    Ok((Channel(ours), Channel(theirs)))
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl Channel {
    /// Sends a message. EPIPE: the other side has died.
    pub fn send(&self, message: &Message) -> Result<()> {
        self.send_with(message, None)
    }

    /// Sends a message with a copy of a descriptor.
    pub fn send_with(&self, message: &Message, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        Ok(send(self.0.as_fd(), &serde_json::to_vec(message)?, fd)?)
    }

    /// The next message and the descriptor that came with it; None at end of file.
    pub fn receive(&self) -> Result<Option<(Message, Option<OwnedFd>)>> {
        let (bytes, fd) = match receive(self.0.as_fd(), LIMIT) {
            // The other side died with a message of ours unread.
            Err(sys::Error { errno: Errno::ECONNRESET, .. }) => return Ok(None),
            received => received?,
        };
        if bytes.is_empty() {
            return Ok(None);
        }
        let message = serde_json::from_slice(&bytes).context("a message between create and init is damaged")?;
        Ok(Some((message, fd)))
    }

    /// Waits for `Go`.
    pub fn expect_go(&self) -> Result<()> {
        match self.receive()? {
            Some((Message::Go, _)) => Ok(()),
            Some((other, _)) => bail!("expected Go from the runtime, got {other:?}"),
            None => bail!("the runtime has died"),
        }
    }

    /// The socket, to poll or to keep open.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_crosses_with_its_chain_hint_and_errno() {
        let failed: Result<(), _> = Err(sys::Error { call: "move_mount(5, 6)".into(), errno: Errno::EPERM });
        let error = failed.context("mounts[3] /sys").hint("add \"network\"").unwrap_err();
        let bytes = serde_json::to_vec(&Message::Failed(Failure::from(&error))).unwrap();
        let Message::Failed(failure) = serde_json::from_slice(&bytes).unwrap() else { panic!("another message") };
        let rebuilt = anyhow::Error::from(failure).context("create web");
        assert_eq!(
            error::one_line(&rebuilt),
            "create web: mounts[3] /sys: move_mount(5, 6): operation not permitted (EPERM)"
        );
        assert_eq!(error::hints(&rebuilt), ["add \"network\""]);
        assert_eq!(error::errno_of(&rebuilt), Some(Errno::EPERM));
    }
}
