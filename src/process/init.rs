// SPDX-License-Identifier: Apache-2.0
//! The child, from its clone to its execve. It is a fork of the runtime: the plan and every descriptor are simply there.
//! It opens no path of the host.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat, umask};
use nix::unistd::{chdir, setsid};

use crate::error::ResultExt;
use crate::kernel::cgroup::Handle;
use crate::kernel::console::Console;
use crate::kernel::mount::CgroupMounts;
use crate::kernel::namespace::{self, Joined};
use crate::kernel::procfs::Proc;
use crate::kernel::rootfs::Prepared;
use crate::kernel::{capability, console, executable, hook, idmap, rootfs, seccomp};
use crate::plan::Plan;
use crate::plan::namespaces::{Kind, Shape};
use crate::process::channel::{Channel, Failure, Message};
use crate::process::step::{Progress, Step};
use crate::state::{Status, hook_state};
use crate::sys::clone::{Clone, PARENT, clone3, exit};
use crate::sys::fd::{Resolve, close_range, duplicate_onto, openat2, set_close_on_exec, stdio};
use crate::sys::process::{
    execve, join_session_keyring, reset_signals, set_dumpable, set_no_new_privileges, set_parent_death_signal,
};
use crate::sys::{self, call};

/// What the parent has opened for init before the clone.
pub struct Inherited<'a> {
    pub cgroup: &'a Handle,
    pub proc: Proc,
    pub joined: Vec<Joined>,
    pub rootfs: Prepared,
    pub cgroup_mounts: CgroupMounts,
    /// The listening socket of `start`.
    pub start: OwnedFd,
    /// The parent's descriptors that a child must not keep: the lock of the state directory would outlive its holder,
    /// and the parent's end of the channel would hide its death.
    pub parents: Vec<RawFd>,
}

/// First process after the clone if [`Shape::Staged`]: joins what takes effect on children only, clones init as its
/// sibling and ends. Does not return.
pub fn stage(plan: &Plan, inherited: Inherited<'_>, channel: Channel, progress: &Progress) -> ! {
    close_parents(&inherited.parents);
    match stage_and_clone(plan, &inherited) {
        Ok(Clone::Child) => init(plan, inherited, channel, progress),
        Ok(Clone::Parent(child)) => {
            let sent = channel.send_with(&Message::Cloned { pid: child.pid.as_raw() }, Some(child.pidfd.as_fd()));
            exit(i32::from(sent.is_err()))
        }
        Err(e) => fail(&channel, &e),
    }
}

fn stage_and_clone(plan: &Plan, inherited: &Inherited<'_>) -> Result<Clone> {
    first_steps()?;
    join_cgroup(inherited.cgroup)?;
    namespace::join_others(&inherited.joined)?;
    if !plan.namespaces.time_offsets.is_empty() {
        namespace::unshare_time(&plan.namespaces, &inherited.proc)?;
    }
    // The PID namespace before the user namespace: its owner may be the host's. Both take CAP_SYS_ADMIN over the target,
    // which the host's root has over every descendant.
    namespace::join_one(&inherited.joined, Kind::Pid)?;
    namespace::join_one(&inherited.joined, Kind::User)?;
    let mut flags = plan.namespaces.clone_flags();
    if !plan.namespaces.time_offsets.is_empty() {
        flags &= !sys::clone::NEWTIME; // the namespace exists, and the child enters it
    }
    Ok(clone3(flags | PARENT, None)?)
}

/// Not dumpable before anything else: in a shared PID namespace processes of the container could otherwise trace this one
/// and take its descriptors (CVE-2016-9962). The death of the runtime kills a half-made container.
fn first_steps() -> Result<()> {
    set_dumpable(false)?;
    set_parent_death_signal(libc::SIGKILL)?;
    Ok(())
}

/// The v1 hierarchies, into which no clone leads. A process that moves itself need not wait for an RCU grace period.
fn join_cgroup(cgroup: &Handle) -> Result<()> {
    cgroup.join_self()
}

fn close_parents(fds: &[RawFd]) {
    for fd in fds {
        // close_range(2) fails for bad arguments only.
        drop(close_range(fd.unsigned_abs(), fd.unsigned_abs()));
    }
}

/// First process after the clone if [`Shape::Direct`]. Does not return.
pub fn run(plan: &Plan, inherited: Inherited<'_>, channel: Channel, progress: &Progress) -> ! {
    close_parents(&inherited.parents);
    init(plan, inherited, channel, progress)
}

fn init(plan: &Plan, inherited: Inherited<'_>, mut channel: Channel, progress: &Progress) -> ! {
    match prepare(plan, inherited, &mut channel, progress) {
        Err(e) => fail(&channel, &e),
        Ok(ready) => {
            if let Err(e) = commit(&channel) {
                fail(&channel, &e);
            }
            // From here on errors go to whoever runs `start`.
            drop(channel);
            wait_and_exec(plan, ready)
        }
    }
}

fn fail(channel: &Channel, error: &anyhow::Error) -> ! {
    // If the runtime is gone there is nobody to tell.
    drop(channel.send(&Message::Failed(Failure::from(error))));
    exit(1)
}

/// What is left when init is ready.
struct Ready {
    start: OwnedFd,
    program: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

/// Everything up to the point where only `start` is missing.
fn prepare(plan: &Plan, mut inherited: Inherited<'_>, channel: &mut Channel, progress: &Progress) -> Result<Ready> {
    let process = &plan.process;
    crate::log::detach();
    first_steps()?;
    if plan.shape == Shape::Direct {
        join_cgroup(inherited.cgroup)?;
    }
    reset_signals();
    channel.send(&Message::NeedIdMap)?;
    channel.expect_go()?;

    progress.reached(Step::Namespaces);
    if plan.shape == Shape::Direct {
        namespace::join_others(&inherited.joined)?;
        namespace::join_one(&inherited.joined, Kind::User)?;
    }
    inherited.joined.clear();
    if plan.namespaces.is_separate(Kind::User) {
        idmap::become_root()?;
        // The change of user has cleared it.
        set_parent_death_signal(libc::SIGKILL)?;
    }
    if plan.namespaces.is_new(Kind::Cgroup) {
        namespace::unshare_cgroup()?;
    }
    call!("setsid()" => setsid())
        .or_else(|e| if e.errno == Errno::EPERM { Ok(nix::unistd::getpid()) } else { Err(e) })?;
    if plan.new_keyring {
        new_keyring(plan, channel)?;
    }
    if plan.namespaces.is_new(Kind::Network) {
        namespace::loopback_up()?;
    }

    progress.reached(Step::RootFilesystem);
    if let Some(terminal) = rootfs::build(&plan.filesystem, &mut inherited.rootfs, &inherited.cgroup_mounts)? {
        progress.reached(Step::Console);
        hand_over_terminal(plan, channel, terminal)?;
    }
    channel.send(&Message::MountsDone)?;
    channel.expect_go()?;

    progress.reached(Step::CreateContainerHooks);
    let state =
        |status| hook_state(&plan.id, status, std::process::id().cast_signed(), &plan.bundle, &plan.annotations);
    hook::run_all("createContainer", &plan.hooks.create_container, &state(Status::Creating), None)?;

    progress.reached(Step::PivotRoot);
    rootfs::enter(&plan.filesystem, &inherited.rootfs)?;

    progress.reached(Step::Finish);
    let Inherited { proc, rootfs, start, .. } = inherited;
    rootfs::finish(&plan.filesystem, rootfs)?;
    for sysctl in &plan.sysctl {
        proc.write_sysctl(&sysctl.path, &sysctl.value).with_context(|| format!("linux.sysctl.{}", sysctl.key))?;
    }
    namespace::set_names(plan.hostname.as_deref(), plan.domainname.as_deref())?;
    let env = environment(plan)?;
    umask(Mode::from_bits_truncate(process.umask));

    progress.reached(Step::Credentials);
    if process.no_new_privileges {
        set_no_new_privileges()?;
    }
    give_stdio(process.uid)?;
    capability::drop_bounding(process.capabilities.bounding)?;
    // No descriptor of a directory survives: a created container holds its root and nothing else (CVE-2024-21626).
    drop(proc);
    let filter_early = plan.seccomp.as_ref().filter(|_| !process.no_new_privileges);
    let start = keep_only(start, channel, plan.preserve_fds)?;
    if let Some(filter) = filter_early {
        // Without no_new_privs loading is privileged, so it comes before the capabilities go.
        progress.reached(Step::Seccomp);
        seccomp::load(filter)?;
        progress.reached(Step::Credentials);
    }
    capability::become_user(process)?;
    set_parent_death_signal(libc::SIGKILL)?;
    capability::verify(process, filter_early.is_some())?;
    enter_cwd(plan)?;
    let program = executable::find(process)?;
    let c_string = |text: &String| CString::new(text.as_bytes()).context("an argument contains a NUL byte");
    let args = process.args.iter().map(c_string).collect::<Result<_>>()?;
    let env = env.iter().map(c_string).collect::<Result<_>>()?;
    progress.reached(Step::WaitForStart);
    channel.send(&Message::Ready)?;
    Ok(Ready { start, program, args, env })
}

/// The runtime has saved the state: from here on the container lives without it.
fn commit(channel: &Channel) -> Result<()> {
    channel.expect_go()?;
    set_parent_death_signal(0)?;
    Ok(())
}

/// Waits for `start`, then becomes the container's program.
fn wait_and_exec(plan: &Plan, ready: Ready) -> ! {
    loop {
        let connection = match nix::sys::socket::accept4(&ready.start, nix::sys::socket::SockFlag::SOCK_CLOEXEC) {
            Ok(fd) => Channel::from(fd),
            Err(Errno::EINTR | Errno::ECONNABORTED) => continue,
            Err(_) => exit(1),
        };
        // A `start` that died before it said Go has started nothing: wait for the next one.
        if connection.expect_go().is_ok() {
            let error = start(plan, ready, &connection);
            drop(connection.send(&Message::Failed(Failure::from(&error))));
            exit(1)
        }
    }
}

/// startContainer hooks, the late filter, execve. The connection to `start` is the only descriptor beside stdio and the
/// preserved ones, and execve closes it: its end of file says that the program runs.
fn start(plan: &Plan, ready: Ready, connection: &Channel) -> anyhow::Error {
    let Ready { start, program, args, env } = ready;
    drop(start);
    match last_steps(plan, connection) {
        Err(e) => e,
        Ok(()) => {
            let error = execve(&program, &args, &env);
            let text = program.to_string_lossy().into_owned();
            let failed: sys::Result<()> = Err(error);
            let hint = match &failed {
                Err(e) if e.errno == Errno::ENOENT => Some(
                    "the file exists: its interpreter (#! line or ELF loader) does not, inside the root filesystem",
                ),
                Err(e) if e.errno == Errno::ENOEXEC => {
                    Some("neither a program for this machine nor a script with a #! line")
                }
                _ => None,
            };
            let failed = failed.with_context(|| format!("exec {text:?}"));
            match hint {
                Some(hint) => failed.hint(hint),
                None => failed,
            }
            .err()
            .unwrap_or_else(|| anyhow::anyhow!("execve returned without an error"))
        }
    }
}

fn last_steps(plan: &Plan, connection: &Channel) -> Result<()> {
    if !plan.hooks.start_container.is_empty() {
        let state =
            hook_state(&plan.id, Status::Created, std::process::id().cast_signed(), &plan.bundle, &plan.annotations);
        hook::run_all("startContainer", &plan.hooks.start_container, &state, None)?;
    }
    let first = 3 + plan.preserve_fds;
    for fd in 3..first {
        set_close_on_exec(fd.cast_signed(), false).with_context(|| format!("--preserve-fds: descriptor {fd}"))?;
    }
    let connection = connection.fd().as_raw_fd().unsigned_abs();
    let closed = close_range(first, connection.saturating_sub(1)).and_then(|()| close_range(connection + 1, u32::MAX));
    match closed {
        // An early filter may not know the call. `keep_only` has closed everything before it was loaded.
        Err(e) if plan.seccomp.is_some() && matches!(e.errno, Errno::ENOSYS | Errno::EPERM) => {}
        other => other?,
    }
    if let Some(filter) = plan.seccomp.as_ref().filter(|_| plan.process.no_new_privileges) {
        seccomp::load(filter)?;
    }
    Ok(())
}

/// Closes every descriptor but stdio, the preserved ones and the two that are needed still, and moves those to the
/// lowest numbers behind.
fn keep_only(start: OwnedFd, channel: &mut Channel, preserved: u32) -> Result<OwnedFd> {
    let first = (3 + preserved).cast_signed();
    // Both move out of the way first, and their owners are gone before another takes the number: dropping one later
    // would close a stranger.
    let high = |fd: BorrowedFd<'_>| -> sys::Result<OwnedFd> {
        let moved = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(first + 16));
        call!("fcntl(F_DUPFD_CLOEXEC, {})", first + 16 => moved).map(|fd| sys::fd::owned(fd.into()))
    };
    *channel = Channel::from(high(channel.fd())?);
    let high_start = high(start.as_fd())?;
    drop(start);
    let start = duplicate_onto(high_start.as_fd(), first)?;
    *channel = Channel::from(duplicate_onto(channel.fd(), first + 1)?);
    drop(high_start);
    close_range((first + 2).unsigned_abs(), u32::MAX)?;
    Ok(start)
}

/// Sends the terminal's master out, and makes the other end the standard streams.
fn hand_over_terminal(plan: &Plan, channel: &Channel, terminal: Console) -> Result<()> {
    if let Some((rows, columns)) = plan.process.console_size {
        terminal.set_size(rows, columns)?;
    }
    terminal.give_to(plan.process.uid)?;
    channel.send_with(&Message::Console(terminal.name), Some(terminal.master.as_fd()))?;
    console::attach(terminal.slave)
}

/// A session keyring of its own: the container must not see the caller's keys.
fn new_keyring(plan: &Plan, channel: &Channel) -> Result<()> {
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

/// Changes the directory and makes sure that it is below the root: `/proc/self/fd/N` could lead out (CVE-2024-21626).
fn enter_cwd(plan: &Plan) -> Result<()> {
    let cwd = &plan.process.cwd;
    call!("chdir({cwd:?})" => chdir(cwd)).context("process.cwd")?;
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
    if env.iter().any(|entry| entry.starts_with("HOME=") && entry.len() > 5) {
        return Ok(env);
    }
    env.retain(|entry| !entry.starts_with("HOME="));
    let root = call!("open(\"/\")" =>
        open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()))?;
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
