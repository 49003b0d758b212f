// SPDX-License-Identifier: Apache-2.0
//! Running the hooks of config.md#posix-platform-hooks.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::kernel::signal::Interrupts;
use crate::plan::hooks::Hook;
use crate::sys::process::{NoPipeSignal, pidfd_open};

/// How much of a hook's output an error quotes.
const OUTPUT_LIMIT: usize = 4096;

/// Runs the hooks of one kind in order and stops at the first that fails:
/// `error running createRuntime hook #0: exit status 1, stderr: ..` (callers grep for these words).
///
/// A signal of `interrupts` ends the wait: the hook is killed, and that is the error.
pub fn run_all(kind: &str, hooks: &[Hook], state: &str, interrupts: Option<&Interrupts>) -> Result<()> {
    for (i, hook) in hooks.iter().enumerate() {
        run(hook, state, interrupts).with_context(|| format!("error running {kind} hook #{i}"))?;
    }
    Ok(())
}

/// Runs one hook with `state` on its stdin. It gets the environment of its config entry and nothing else, is the leader
/// of a process group of its own, and inherits no descriptor but its three streams. After its timeout, or when a signal
/// interrupts the command, the group is killed.
pub fn run(hook: &Hook, state: &str, interrupts: Option<&Interrupts>) -> Result<()> {
    let mut command = Command::new(&hook.path);
    command.env_clear().process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some((name, arguments)) = hook.args.split_first() {
        command.arg0(name).args(arguments);
    }
    // A hook must not outlive a runtime that is killed: nobody would enforce its timeout.
    crate::sys::process::die_with_parent(&mut command);
    command.envs(hook.env.iter().filter_map(|entry| entry.split_once('=')));
    // A hook need not read its stdin, and init takes signals as its program would.
    let _ignored = NoPipeSignal::hold();
    let mut child = command.spawn().with_context(|| format!("execve({:?})", hook.path))?;
    let done = converse(&mut child, state, hook.timeout.map(Duration::from_secs), interrupts);
    if done.is_err() {
        kill(&mut child);
    }
    let output = done?;
    let status = child.wait().context("wait for the hook")?;
    if status.success() {
        return Ok(());
    }
    let ended = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended".to_string(),
    };
    bail!("{ended}, output: {}", String::from_utf8_lossy(&output).trim_end())
}

fn kill(child: &mut Child) {
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    // The hook may have ended just now; it is reaped either way.
    let _ignored = killpg(group, Signal::SIGKILL);
    drop(child.wait());
}

/// Feeds stdin and collects stdout and stderr until the hook ends. A hook that does not read its stdin, or fills its
/// output, must not block: every descriptor is non-blocking and polled.
fn converse(
    child: &mut Child,
    state: &str,
    timeout: Option<Duration>,
    interrupts: Option<&Interrupts>,
) -> Result<Vec<u8>> {
    let pidfd = pidfd_open(Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX)))?;
    let deadline = timeout.map(|t| Instant::now() + t);
    let mut input = child.stdin.take();
    let mut outputs: Vec<std::fs::File> =
        [child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from)]
            .into_iter()
            .flatten()
            .map(std::fs::File::from)
            .collect();
    if let Some(input) = &input {
        set_nonblocking(input)?;
    }
    for output in &outputs {
        set_nonblocking(output)?;
    }
    let mut unsent = state.as_bytes();
    let mut collected = Vec::new();
    loop {
        let wait = match deadline.map(|d| d.saturating_duration_since(Instant::now())) {
            None => PollTimeout::NONE,
            Some(Duration::ZERO) => {
                return Err(anyhow!("hook ran past specified timeout of {:?}", timeout.unwrap_or_default()));
            }
            Some(left) => PollTimeout::try_from(left.min(Duration::from_secs(3600)) + Duration::from_millis(1))
                .unwrap_or(PollTimeout::MAX),
        };
        let mut fds = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        fds.extend(outputs.iter().map(|o| PollFd::new(o.as_fd(), PollFlags::POLLIN)));
        if let Some(input) = &input {
            fds.push(PollFd::new(input.as_fd(), PollFlags::POLLOUT));
        }
        fds.extend(interrupts.map(|interrupts| PollFd::new(interrupts.fd(), PollFlags::POLLIN)));
        match poll(&mut fds, wait) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e).context("poll the hook"),
        }
        let ended = fds.first().and_then(PollFd::any).unwrap_or(false);
        drop(fds);
        interrupts.map_or(Ok(()), Interrupts::check)?;
        if let Some(pipe) = &mut input {
            match pipe.write(unsent) {
                Ok(n) => unsent = unsent.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(_) => unsent = &[], // it closed its stdin: it does not care for the state
            }
            if unsent.is_empty() {
                input = None;
            }
        }
        outputs.retain_mut(|output| collect(output, &mut collected));
        if ended {
            return Ok(collected);
        }
    }
}

/// Reads what is there; false once the stream has ended.
fn collect(output: &mut std::fs::File, collected: &mut Vec<u8>) -> bool {
    let mut buffer = [0; OUTPUT_LIMIT];
    loop {
        match output.read(&mut buffer) {
            Ok(0) => return false,
            Ok(n) => {
                let room = OUTPUT_LIMIT.saturating_sub(collected.len()).min(n);
                collected.extend_from_slice(buffer.get(..room).unwrap_or_default());
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
            Err(_) => return false,
        }
    }
}

fn set_nonblocking(fd: impl AsFd) -> Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop).context("fcntl(O_NONBLOCK)")
}
