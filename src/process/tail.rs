// SPDX-License-Identifier: Apache-2.0
//! The way from a process inside its container to its program: init and every process of `exec` take it, so that they
//! are confined alike.

use std::ffi::{CString, OsStr};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat, umask};
use nix::unistd::{Pid, chdir, setsid};

use crate::error::ResultExt;
use crate::kernel::console::{self, Console};
use crate::kernel::procfs::Proc;
use crate::kernel::{capability, executable, lsm, scheduling, seccomp};
use crate::plan::Plan;
use crate::plan::process::Process;
use crate::process::channel::{Channel, Failure, Message};
use crate::seccomp::Compiled;
use crate::sys::clone::exit;
use crate::sys::fd::{Resolve, close_range, duplicate_onto, openat2, set_close_on_exec, stdio};
use crate::sys::memory::SharedWord;
use crate::sys::process::{
    execve, join_session_keyring, prlimit, set_dumpable, set_no_new_privileges, set_parent_death_signal,
    set_session_keyring_permissions,
};
use crate::sys::{self, call};
use crate::trace::{Phase, mark};

/// What is left when only execve is missing.
pub struct Tail {
    /// Init's listening socket for `start`.
    pub start: Option<OwnedFd>,
    program: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

/// Reports the error and ends. Does not return.
pub fn fail(channel: &Channel, error: &anyhow::Error) -> ! {
    // If the runtime is gone there is nobody to tell.
    drop(channel.send(&Message::Failed(Failure::from(error))));
    exit(1)
}

/// What a process that an ordinary user has made does to itself: once it is not dumpable, its /proc entries belong to
/// root, so that he cannot write them. Children inherit it.
pub fn set_own_oom_score(plan: &Plan, proc: &Proc) -> Result<()> {
    let Some(score) = plan.process.oom_score_adj.filter(|_| plan.ordinary_user) else { return Ok(()) };
    proc.write_own("oom_score_adj", &score.to_string())
        .hint_if(Errno::EACCES, "lowering it below the caller's own needs CAP_SYS_RESOURCE")
        .context("process.oomScoreAdj")
}

/// Not dumpable before anything else: in a shared PID namespace processes of the container could otherwise trace this one
/// and take its descriptors (CVE-2016-9962). The death of the runtime kills a half-made process. A change of user clears
/// the latter, and makes the former what fs.suid_dumpable says.
pub fn first_steps() -> Result<()> {
    set_dumpable(false)?;
    set_parent_death_signal(libc::SIGKILL)?;
    Ok(())
}

/// Closes the parent's own descriptors, by number: their owners live in its frames of the stack, which never return here.
pub fn close_parents(fds: &[RawFd]) {
    for fd in fds {
        // close_range(2) fails for bad arguments only.
        drop(close_range(fd.unsigned_abs(), fd.unsigned_abs()));
    }
}

/// A session of its own, so that it cannot push keys into the caller's terminal (CVE-2017-5226).
pub fn new_session() -> Result<()> {
    match call!("setsid()" => setsid()) {
        // It leads a process group, and thus its session, already.
        Err(e) if e.errno == Errno::EPERM => Ok(()),
        done => Ok(done.map(drop)?),
    }
}

/// The root directory of the process.
pub fn open_root() -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(call!("open(\"/\")" => open("/", flags, Mode::empty()))?)
}

/// Labels, limits of privilege, user, capabilities and working directory, in the order that the kernel forces. The caller
/// is in the container's namespaces and root.
///
/// `taken`: where the runtime says that it has the listener of a filter that notifies.
pub fn confine(
    plan: &Plan,
    proc: Proc,
    start: Option<OwnedFd>,
    channel: &mut Channel,
    taken: &SharedWord,
) -> Result<Tail> {
    let process = &plan.process;
    let env = environment(plan)?;
    umask(Mode::from_bits_truncate(process.umask));
    scheduling::set_own(&process.scheduling)?;
    lsm::set_exec_labels(&proc, process)?;
    if process.no_new_privileges {
        set_no_new_privileges()?;
    }
    give_stdio(process.uid)?;
    capability::drop_bounding(process.capabilities.bounding)?;
    // No descriptor of a directory survives: a created container holds its root and nothing else (CVE-2024-21626).
    drop(proc);
    let filter_early = plan.seccomp.as_ref().filter(|_| !process.no_new_privileges);
    let start = keep_only(start, channel, plan.preserve_fds)?;
    // As root first, since WORKDIR is often a directory that only root may enter; `enter_cwd` checks where it led.
    let entered = chdir(&process.cwd).is_ok();
    if let Some(filter) = filter_early {
        // Without no_new_privs loading is privileged, so it comes before the capabilities go.
        load_filter(filter, channel, taken)?;
    }
    mark(Phase::Credentials);
    capability::become_user(process)?;
    first_steps()?; // the change of user has undone them
    capability::verify(process, filter_early.is_some())?;
    enter_cwd(plan, entered)?;
    let program = executable::find(process)?;
    let c_string = |text: &String| CString::new(text.as_bytes()).context("an argument contains a NUL byte");
    let args = process.args.iter().map(c_string).collect::<Result<_>>()?;
    let env = env.iter().map(c_string).collect::<Result<_>>()?;
    Ok(Tail { start, program, args, env })
}

/// Sets the limits last, since they could hinder all that comes before, and gives those back that it could not set.
/// Anybody may lower limits; to raise one takes the runtime's CAP_SYS_RESOURCE, and without that the runtime may not even
/// lower those of a process with another user id.
pub fn set_limits(process: &Process) -> Vec<usize> {
    let limits = process.rlimits.iter().enumerate();
    limits.filter(|(_, l)| prlimit(Pid::from_raw(0), l.resource, l.soft, l.hard).is_err()).map(|(i, _)| i).collect()
}

/// Waits until the runtime has done its part: from here on the process lives without it.
pub fn commit(channel: &Channel) -> Result<()> {
    channel.expect_go()?;
    set_parent_death_signal(0)?;
    Ok(())
}

/// The late filter, and execve. The channel is the only descriptor beside stdio and the preserved ones, and execve
/// closes it: its end of file says that the program runs. Returns only on failure.
pub fn exec(plan: &Plan, tail: Tail, channel: &Channel, taken: &SharedWord) -> anyhow::Error {
    match close_all(plan, channel).and_then(|()| load_late_filter(plan, channel, taken)) {
        Err(e) => e,
        Ok(()) => execute(plan, tail),
    }
}

/// As [`exec`], for a process that has loaded the late filter already.
pub fn exec_filtered(plan: &Plan, tail: Tail, channel: &Channel) -> anyhow::Error {
    match close_all(plan, channel) {
        Err(e) => e,
        Ok(()) => execute(plan, tail),
    }
}

fn execute(plan: &Plan, tail: Tail) -> anyhow::Error {
    mark(Phase::Execute);
    let error = execve(&tail.program, &tail.args, &tail.env);
    let path = Path::new(OsStr::from_bytes(tail.program.as_bytes()));
    // The filter is in force: an error that says less is better than the end that it may have for the look.
    let look = plan.seccomp.as_ref().is_none_or(|filter| !filter.ends_for(&executable::LOOK));
    let (context, hint) = executable::explain(path, error.errno, look);
    let failed: Result<()> = Err(anyhow::Error::from(error).context(context));
    match hint {
        Some(hint) => failed.hint(hint),
        None => failed,
    }
    .err()
    .unwrap_or_else(|| anyhow::anyhow!("execve returned without an error"))
}

fn close_all(plan: &Plan, channel: &Channel) -> Result<()> {
    let first = 3 + plan.preserve_fds;
    for fd in 3..first {
        set_close_on_exec(fd.cast_signed(), false).with_context(|| format!("--preserve-fds: descriptor {fd}"))?;
    }
    let kept = channel.fd().as_raw_fd().unsigned_abs();
    let below = if kept > first { close_range(first, kept - 1) } else { Ok(()) };
    let closed = below.and_then(|()| close_range(kept + 1, u32::MAX));
    match closed {
        // A filter that is loaded already may not know the call. `keep_only` has closed everything before it was loaded.
        Err(e) if plan.seccomp.is_some() && matches!(e.errno, Errno::ENOSYS | Errno::EPERM) => Ok(()),
        other => Ok(other?),
    }
}

/// The filter of a process with no_new_privs.
pub fn load_late_filter(plan: &Plan, channel: &Channel, taken: &SharedWord) -> Result<()> {
    match plan.seccomp.as_ref().filter(|_| plan.process.no_new_privileges) {
        Some(filter) => load_filter(filter, channel, taken),
        None => Ok(()),
    }
}

fn load_filter(filter: &Compiled, channel: &Channel, taken: &SharedWord) -> Result<()> {
    mark(Phase::Seccomp);
    if !filter.notifies {
        return seccomp::load(filter);
    }
    channel.send(&Message::Listener(seccomp::next_descriptor()?))?;
    channel.expect_go()?;
    seccomp::load_and_wait(filter, taken)
}

/// Closes every descriptor but stdio, the preserved ones and those that are needed still, and moves these to the lowest
/// numbers behind: the socket of `start`, if there is one, then the channel.
fn keep_only(start: Option<OwnedFd>, channel: &mut Channel, preserved: u32) -> Result<Option<OwnedFd>> {
    let first = (3 + preserved).cast_signed();
    crate::log::silence();
    // They move out of the way first, and their owners are gone before another takes the number: dropping one later
    // would close a stranger.
    let high = |fd: BorrowedFd<'_>| -> sys::Result<OwnedFd> {
        let moved = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(first + 16));
        call!("fcntl(F_DUPFD_CLOEXEC, {})", first + 16 => moved).map(|fd| sys::fd::owned(fd.into()))
    };
    *channel = Channel::from(high(channel.fd())?);
    let high_start = start.as_ref().map(|start| high(start.as_fd())).transpose()?;
    drop(start);
    let start = high_start.as_ref().map(|start| duplicate_onto(start.as_fd(), first)).transpose()?;
    drop(high_start);
    *channel = Channel::from(duplicate_onto(channel.fd(), first + 1)?);
    if start.is_none() {
        close_range(first.unsigned_abs(), first.unsigned_abs())?;
    }
    close_range((first + 2).unsigned_abs(), u32::MAX)?;
    Ok(start)
}

/// Sends the terminal's master out, and makes the other end the standard streams.
pub fn hand_over_terminal(plan: &Plan, channel: &Channel, terminal: Console) -> Result<()> {
    if let Some((rows, columns)) = plan.process.console_size {
        terminal.set_size(rows, columns)?;
    }
    terminal.give_to(plan.process.uid)?;
    channel.send_with(&Message::Console(terminal.name), Some(terminal.master.as_fd()))?;
    console::attach(terminal.slave)
}

/// A new keyring's permissions, and its owner's to find it by name: everything for those who possess it; view, read and
/// link for its owner is what the kernel gives.
const FOUND_BY_NAME: u32 = 0x3f1b_0000;

/// Lets the processes of `exec` find the keyring of init, instead of each making one of the same name.
pub fn share_keyring() -> Result<()> {
    match set_session_keyring_permissions(FOUND_BY_NAME) {
        Err(e) if e.errno == Errno::ENOSYS => Ok(()),
        done => Ok(done.context("session keyring")?),
    }
}

/// A session keyring of its own: the container must not see the caller's keys.
pub fn new_keyring(plan: &Plan, channel: &Channel) -> Result<()> {
    let name = CString::new(format!("_ses.{}", plan.id)).context("keyring name")?;
    match join_session_keyring(&name) {
        Err(e) if matches!(e.errno, Errno::ENOSYS) => {
            channel.send(&Message::Warning("the kernel has no keyrings: the caller's session keyring is kept".into()))
        }
        joined => {
            joined.hint_if(Errno::EDQUOT, "see /proc/sys/kernel/keys; --no-new-keyring keeps the caller's").map(drop)
        }
    }
}

/// Changes the directory, unless root has `entered` it, and makes sure that it is below the root: `/proc/self/fd/N` could
/// lead out (CVE-2024-21626).
fn enter_cwd(plan: &Plan, entered: bool) -> Result<()> {
    let cwd = &plan.process.cwd;
    if !entered {
        call!("chdir({cwd:?})" => chdir(cwd)).context("process.cwd")?;
    }
    let mut buffer = [0_u8; 4096];
    match sys::fd::getcwd(&mut buffer) {
        Ok(path) if path.first() == Some(&b'/') => Ok(()),
        Ok(path) => bail!("process.cwd: {cwd:?} leads outside the root filesystem ({})", String::from_utf8_lossy(path)),
        // An early filter may deny the question; without descriptors of directories there is no way out.
        Err(e) if plan.seccomp.is_some() && matches!(e.errno, Errno::EPERM | Errno::ENOSYS) => Ok(()),
        Err(e) => Err(e).context("process.cwd"),
    }
}

/// The environment, with a HOME from the container's /etc/passwd if it has none.
fn environment(plan: &Plan) -> Result<Vec<String>> {
    let mut env = plan.process.env.clone();
    if plan.listen_fds > 0 {
        env.retain(|entry| !entry.starts_with("LISTEN_FDS=") && !entry.starts_with("LISTEN_PID="));
        // sd_listen_fds(3) of the program compares the pid with its own, which is the one that it sees itself.
        env.extend([format!("LISTEN_FDS={}", plan.listen_fds), format!("LISTEN_PID={}", std::process::id())]);
    }
    if env.iter().any(|entry| entry.starts_with("HOME=") && entry.len() > 5) {
        return Ok(env);
    }
    env.retain(|entry| !entry.starts_with("HOME="));
    let root = open_root()?;
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let passwd = openat2(root.as_fd(), c"etc/passwd", flags, 0, Resolve::IN_ROOT);
    let mut contents = Vec::new();
    if let Ok(file) = passwd
        && fstat(&file).is_ok_and(|s| s.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits())
    {
        // An unreadable file is as good as none.
        drop(std::fs::File::from(file).take(1 << 20).read_to_end(&mut contents));
    }
    let home = executable::home(&contents, plan.process.uid);
    env.push(format!("HOME={}", String::from_utf8_lossy(home.as_os_str().as_bytes())));
    Ok(env)
}

/// Makes the pipes of stdio belong to the container's user, who could not open /dev/stdout otherwise. Files of the host
/// keep their owner: their descriptors work without.
fn give_stdio(uid: u32) -> Result<()> {
    for number in 0..3 {
        let stream = stdio(number);
        let Ok(found) = fstat(stream) else { continue };
        let is_pipe = found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFIFO.bits();
        if !is_pipe || found.st_uid == uid {
            continue;
        }
        match nix::unistd::fchown(stream, Some(uid.into()), None) {
            // A pipe of the host has no owner that the user namespace knows.
            Ok(()) | Err(Errno::EPERM | Errno::EINVAL | Errno::EROFS) => {}
            Err(errno) => return call!("fchown({number}, {uid})" => Err(errno)).context("stdio"),
        }
    }
    Ok(())
}
