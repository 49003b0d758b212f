// SPDX-License-Identifier: Apache-2.0
//! Releasing init, and hearing whether its execve worked: runc's FIFO cannot say.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::unistd::Pid;

use crate::error::ResultExt;
use crate::kernel::hook;
use crate::kernel::procfs::{self, Proc};
use crate::kernel::signal::Interrupts;
use crate::process::channel::{Channel, Message};
use crate::process::create::hand_over;
use crate::process::destroy;
use crate::process::watch::Watcher;
use crate::state::{START_SOCKET, State, StateDir, Status, hook_state};
use crate::sys::call;
use crate::sys::memory::SharedWord;
use crate::trace::{self, Phase, mark};

/// Starts the container's program and runs the poststart hooks. Returns when the program runs.
/// With `interrupts` a signal ends the wait for it; `watcher` answers for its filter.
pub fn start(
    dir: &StateDir,
    state: &State,
    proc: &Proc,
    interrupts: Option<&Interrupts>,
    watcher: Option<&Watcher>,
) -> Result<()> {
    match state.status(proc)? {
        Status::Created => {}
        Status::Running => bail!("cannot start an already running container"),
        Status::Paused => bail!("cannot start a paused container"),
        Status::Stopped => bail!("cannot start a container that has stopped"),
        Status::Creating => bail!("cannot start a container that is being created"),
    }
    release(dir, state, proc, interrupts, watcher)?;
    mark(Phase::End);
    if state.poststart.is_empty() {
        return Ok(());
    }
    mark(Phase::PoststartHooks);
    let text = hook_state(&state.id, Status::Running, state.init.pid, &state.bundle, &state.annotations);
    hook::run_all("poststart", &state.poststart, &text, interrupts).inspect_err(|_| {
        // runtime.md#lifecycle: a failing poststart hook stops the container. It has stopped when this command ends.
        if let Err(e) = destroy::kill_and_wait(proc, &state.init) {
            crate::log::warn(&crate::error::one_line(&e));
        }
    })
}

fn release(
    dir: &StateDir,
    state: &State,
    proc: &Proc,
    interrupts: Option<&Interrupts>,
    watcher: Option<&Watcher>,
) -> Result<()> {
    mark(Phase::Release);
    trace::process(trace::Lane::Child, Pid::from_raw(state.init.pid));
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket =
        call!("socket(AF_UNIX, SOCK_SEQPACKET)" => socket(AddressFamily::Unix, SockType::SeqPacket, flags, None))?;
    let path = procfs::path_of(dir.fd(), START_SOCKET);
    let address = UnixAddr::new(&path).context("start socket")?;
    call!("connect({path:?})" => connect(socket.as_raw_fd(), &address))
        .hint_if(Errno::ECONNREFUSED, "init does not listen any more: it has died or has been started")
        .context("start socket")?;
    let channel = Channel::from(socket);
    // Init may load a filter whose listener is to be handed on, and cannot say so afterwards.
    let hands_over = state.listener.is_some() || watcher.is_some();
    let (go, taken) = match trace::memory() {
        Some(memory) => (Message::GoTraced, Some((SharedWord::from_memfd(memory.as_fd())?, memory))),
        None => (Message::Go, hands_over.then(SharedWord::new_memfd).transpose()?),
    };
    channel.send_with(&go, taken.as_ref().map(|(_, memfd)| memfd.as_fd())).context("init has died")?;
    mark(Phase::WaitForExec);
    loop {
        if let Some(interrupts) = interrupts {
            interrupts.wait_for([channel.fd()])?;
        }
        match (channel.receive()?, &state.listener, &taken) {
            (Some((Message::Listener(number), _)), None, Some((word, _))) => {
                let watcher = watcher.context("init announced a seccomp listener that nobody wants")?;
                let found = proc.find(&state.init)?.context("init has died")?;
                watcher.take_listener(number, Pid::from_raw(state.init.pid), found.pidfd.as_fd(), &channel, word)?;
            }
            (Some((Message::Listener(number), _)), Some(listener), Some((word, _))) => {
                let found = proc.find(&state.init)?.context("init has died")?;
                let pid = state.init.pid;
                let text = hook_state(&state.id, Status::Created, pid, &state.bundle, &state.annotations);
                hand_over(listener, number, pid, &text, found.pidfd.as_fd(), &channel, word)?;
            }
            (Some((Message::Failed(failure), _)), ..) => return Err(failure.into()),
            (Some((other, _)), ..) => bail!("init answered {other:?}"),
            (None, ..) => return died_before_execve(state, proc),
        }
    }
}

/// End of file means that execve has closed the connection, or that init died on the way to it.
fn died_before_execve(state: &State, proc: &Proc) -> Result<()> {
    match proc.find(&state.init)? {
        Some(found) if found.stat.has_not_execed() => {
            let error: Result<()> = Err(anyhow!("the container's init died before its program ran"));
            error.hint("a seccomp profile that kills execve, or a memory limit, does that")
        }
        _ => Ok(()),
    }
}

/// The state directory of a container that is to be changed, locked, with its state.
pub fn open_locked(root: &crate::state::Root, id: &str) -> Result<(StateDir, crate::state::Lock)> {
    let dir = root.container(id)?;
    let lock = dir.lock()?;
    if !dir.exists()? {
        bail!("container {id} does not exist");
    }
    Ok((dir, lock))
}
