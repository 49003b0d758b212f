// SPDX-License-Identifier: Apache-2.0
//! A further process in a container, confined exactly as init is: it goes through the same plan, made from the config as
//! it was at create, and through the same last steps.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::{Pid, chroot, fchdir};

use crate::error::{ResultExt, errno_of};
use crate::host::Host;
use crate::kernel::capability::setgroups_if_allowed;
use crate::kernel::cgroup::{Existing, Handle, SubCgroup, unified_of};
use crate::kernel::path::Root;
use crate::kernel::procfs::{Found, Proc};
use crate::kernel::{console, idmap, rootfs, scheduling, systemd};
use crate::plan::Plan;
use crate::plan::namespaces::Kind;
use crate::process::channel::{Channel, Message, pair};
use crate::process::create::{Console, Wishes, hand_over, limit, write_pid_file};
use crate::process::foreground::Signals;
use crate::process::tail::{self, Tail};
use crate::state::{State, Status, hook_state};
use crate::sys::call;
use crate::sys::clone::{Child, Clone, PARENT, clone3, exit, setns};
use crate::sys::memory::SharedWord;
use crate::sys::process::{pidfd_send_signal, set_dumpable, wait};
use crate::trace::{self, Lane, Phase, mark};

/// A process in a container.
pub struct Executed {
    /// A child of this process.
    pub child: Child,
    /// The terminal's master, if it was to be kept.
    pub master: Option<OwnedFd>,
    /// Blocked from the moment on from which the process would outlive this one.
    pub signals: Signals,
}

/// What the child has when it begins.
struct Inherited<'a> {
    init: &'a Found,
    /// Init's root directory, for a container without a mount namespace of its own.
    root: Option<OwnedFd>,
    cgroup: &'a Handle,
    proc: Proc,
    ignored_signals: u64,
    taken: &'a SharedWord,
    parents: Vec<RawFd>,
}

/// Runs the process of `plan` in the container of `state`, whose init is `found`. Returns when its program runs;
/// `foreground`: the caller will wait for it and pass signals on.
pub fn exec(
    plan: &Plan,
    host: &Host,
    state: &State,
    found: &Found,
    wishes: &Wishes,
    sub: &[SubCgroup],
    foreground: bool,
) -> Result<Executed> {
    mark(Phase::Cgroup);
    let proc = Proc::open()?;
    let cgroup = Existing::open(&state.cgroups)?.handle(sub)?;
    // The child is in view of the container's processes as soon as it exists (CVE-2016-9962, CVE-2019-5736).
    if !plan.ordinary_user {
        set_dumpable(false)?;
    }
    scheduling::set_affinity(plan.process.scheduling.exec_affinity.0.as_ref(), "initial")?;
    if plan.namespaces.is_separate(Kind::Pid) && !plan.ordinary_user {
        // Takes effect on the next child.
        setns(found.pidfd.as_fd(), Kind::Pid.flag()).context("join the container's PID namespace")?;
    }
    let (ours, theirs) = pair()?;
    let taken = SharedWord::new()?;
    let root = if plan.namespaces.is_separate(Kind::Mount) { None } else { Some(proc.root_of(&state.init)?) };
    let inherited = Inherited {
        init: found,
        root,
        cgroup: &cgroup,
        proc: proc.try_clone()?,
        ignored_signals: host.ignored_signals,
        taken: &taken,
        parents: vec![ours.fd().as_raw_fd()],
    };
    mark(Phase::Clone);
    let mut cloned = clone_into(&cgroup, &proc, state, sub);
    // An ordinary user may not clone into his own unit from another, as of his session.
    let unit = state.systemd.as_ref().filter(|_| matches!(&cloned, Err(e) if errno_of(e) == Some(Errno::EACCES)));
    if unit.is_some() {
        cloned = clone3(0, None).context("clone the process");
    }
    let child = match cloned? {
        Clone::Parent(child) => child,
        Clone::Child => {
            if unit.is_some() {
                tail::close_parents(&inherited.parents);
                if theirs.expect_go().is_err() {
                    exit(1);
                }
            }
            if plan.ordinary_user { stage(plan, inherited, theirs) } else { run(plan, inherited, theirs) }
        }
    };
    drop(theirs);
    if let Some(unit) = unit {
        // If that fails, the process sees the end of this one and ends.
        let sub = sub.iter().find(|sub| sub.controllers.is_empty()).map(|sub| sub.path.as_path());
        systemd::attach(unit, sub, child.pid)?;
        ours.send(&Message::Go)?;
    }
    let child = if plan.ordinary_user { after_stager(&ours, child)? } else { child };
    trace::process(Lane::Child, child.pid);
    let parent = Parent { plan, state, proc: &proc, child: &child, taken: &taken, foreground };
    let done = parent.converse(&ours, wishes);
    if done.is_err() {
        // Dead already is as good.
        drop(pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL));
        drop(wait(child.pidfd.as_fd(), true));
    }
    let (master, signals) = done?;
    Ok(Executed { child, master, signals })
}

/// First process of an ordinary user, who has capabilities in the container's user namespace alone: it joins all
/// namespaces, clones the process as its sibling, since the PID namespace takes effect on children only, and ends.
fn stage(plan: &Plan, mut inherited: Inherited<'_>, channel: Channel) -> ! {
    trace::is(Lane::Stager);
    tail::close_parents(&std::mem::take(&mut inherited.parents));
    let cloned = || -> Result<Clone> {
        tail::set_own_oom_score(plan, &inherited.proc)?;
        tail::first_steps()?;
        inherited.cgroup.join_self()?;
        join(plan, inherited.init)?;
        Ok(clone3(PARENT, None)?)
    };
    match cloned() {
        Err(e) => tail::fail(&channel, &e),
        Ok(Clone::Child) => {
            // The stager's word comes first: the parent knows no other process until then.
            match channel.expect_go() {
                Ok(()) => run(plan, inherited, channel),
                Err(_) => exit(1),
            }
        }
        Ok(Clone::Parent(child)) => {
            let sent = channel.send_with(&Message::Cloned { pid: child.pid.as_raw() }, Some(child.pidfd.as_fd()));
            exit(i32::from(sent.is_err()))
        }
    }
}

/// PARENT: the process that the stager has made in its place.
fn after_stager(channel: &Channel, stager: Child) -> Result<Child> {
    let said = channel.receive();
    drop(wait(stager.pidfd.as_fd(), true));
    match said? {
        Some((Message::Cloned { pid }, Some(pidfd))) => {
            channel.send(&Message::Go)?;
            Ok(Child { pid: Pid::from_raw(pid), pidfd })
        }
        Some((Message::Failed(failure), _)) => Err(failure.into()),
        Some((other, _)) => bail!("the stager sent {other:?}"),
        None => bail!("the stager has died"),
    }
}

/// The container's cgroup, or where init is if that has moved: a cgroup that passes controllers on holds no processes
/// (cgroups(7), "no internal processes"). One that was asked for by name is taken or refused.
fn clone_into(cgroup: &Handle, proc: &Proc, state: &State, sub: &[SubCgroup]) -> Result<Clone> {
    match clone3(0, cgroup.clone_into()) {
        Err(e) if e.errno == Errno::EBUSY && cgroup.clone_into().is_some() && sub.is_empty() => {
            let text = proc.read(&format!("{}/cgroup", state.init.pid))?;
            let moved = unified_of(&text).context("init has no v2 cgroup")?;
            Ok(clone3(0, Existing::open(&[moved])?.handle(&[])?.clone_into())?)
        }
        cloned => cloned
            .hint_if(Errno::EAGAIN, "a limit on processes: pids.max of the container's cgroup")
            .hint_if(Errno::EBUSY, "the cgroup passes controllers on to others below it: those can hold processes"),
    }
    .context("clone the process")
}

/// The parent's side of the conversation.
struct Parent<'a> {
    plan: &'a Plan,
    state: &'a State,
    proc: &'a Proc,
    child: &'a Child,
    taken: &'a SharedWord,
    foreground: bool,
}

impl Parent<'_> {
    /// Answers the process until its program runs.
    fn converse(&self, channel: &Channel, wishes: &Wishes) -> Result<(Option<OwnedFd>, Signals)> {
        let mut master = None;
        let mut signals = None;
        loop {
            mark(if signals.is_some() { Phase::WaitForExec } else { Phase::WaitForInit });
            let Some((message, fd)) = channel.receive()? else { break };
            match message {
                Message::Console(name) => {
                    let fd = fd.context("the process sent no terminal")?;
                    match &wishes.console {
                        Console::Socket(socket) => console::send_master(socket.as_fd(), fd.as_fd(), &name)?,
                        Console::Keep => master = Some(fd),
                        Console::None => {}
                    }
                }
                Message::Listener(number) => self.hand_over_listener(number, channel)?,
                Message::Warning(text) => crate::log::warn(&text),
                Message::Failed(failure) => return Err(failure.into()),
                Message::Ready { limits } => {
                    mark(Phase::Record);
                    limit(self.plan, self.proc, self.child, &limits)?;
                    // Until here a signal ends this process, and that kills the child: a wait for a paused container can
                    // be broken off.
                    signals = Some(Signals::block(self.foreground)?);
                    channel.send(&Message::Go).context("the process has died")?;
                }
                other => bail!("the process sent {other:?}"),
            }
        }
        let signals = signals.context("the process has died before its program ran")?;
        mark(Phase::End);
        // execve has closed the channel, or death.
        if self.proc.stat(self.child.pid)?.is_some_and(|stat| stat.has_not_execed()) {
            bail!("the process has died before its program ran");
        }
        if let Some(socket) = &wishes.pidfd_socket {
            // runc's payload for a process that is not init.
            crate::sys::socket::send(socket.as_fd(), b"setns", Some(self.child.pidfd.as_fd()))
                .context("--pidfd-socket")?;
        }
        if let Some(path) = &wishes.pid_file {
            write_pid_file(path, self.child.pid).with_context(|| format!("--pid-file {path:?}"))?;
        }
        Ok((master, signals))
    }

    fn hand_over_listener(&self, number: i32, channel: &Channel) -> Result<()> {
        let Some(listener) = self.plan.seccomp.as_ref().and_then(|s| s.listener.as_ref()) else {
            bail!("the process announced a seccomp listener that is not in the plan")
        };
        let (state, pid) = (self.state, self.child.pid.as_raw());
        let text = hook_state(&state.id, Status::Running, state.init.pid, &state.bundle, &state.annotations);
        hand_over(listener, number, pid, &text, self.child.pidfd.as_fd(), channel, self.taken)
    }
}

fn run(plan: &Plan, inherited: Inherited<'_>, mut channel: Channel) -> ! {
    trace::is(Lane::Child);
    tail::close_parents(&inherited.parents);
    crate::log::detach();
    let taken = inherited.taken;
    let tail = match enter(plan, inherited, &mut channel) {
        Ok(tail) => tail,
        Err(e) => tail::fail(&channel, &e),
    };
    let error = tail::exec(plan, tail, &channel, taken);
    tail::fail(&channel, &error)
}

fn enter(plan: &Plan, inherited: Inherited<'_>, channel: &mut Channel) -> Result<Tail> {
    tail::first_steps()?;
    if !plan.ordinary_user {
        inherited.cgroup.join_self()?;
    }
    match &plan.process.scheduling.exec_affinity {
        (None, None) => scheduling::reset_affinity()?,
        (_, last) => scheduling::set_affinity(last.as_ref(), "final")?,
    }
    crate::sys::process::reset_signals(inherited.ignored_signals);
    mark(Phase::Namespaces);
    if !plan.ordinary_user {
        join(plan, inherited.init)?;
    }
    if let Some(root) = inherited.root {
        call!("fchdir(root)" => fchdir(&root))?;
        call!("chroot(\".\")" => chroot(c".")).context("init's root directory")?;
    }
    if plan.namespaces.is_separate(Kind::User) {
        idmap::become_root(plan.process.keeps_groups)?;
        tail::first_steps()?; // the change of user has undone them
    }
    tail::new_session()?;
    if plan.new_keyring {
        tail::new_keyring(plan, channel)?;
    }
    if plan.process.terminal {
        let root = Root::new(tail::open_root()?);
        tail::hand_over_terminal(plan, channel, rootfs::open_console(&root)?)?;
    }
    mark(Phase::Credentials);
    let tail = tail::confine(plan, inherited.proc, None, channel, inherited.taken)?;
    channel.send(&Message::Ready { limits: tail::set_limits(&plan.process) })?;
    mark(Phase::WaitForStart);
    tail::commit(channel)?;
    Ok(tail)
}

/// All of init's namespaces at once, by its pidfd (setns(2), Linux 5.8): the user namespace goes first and the others are
/// entered with the capabilities on both sides.
fn join(plan: &Plan, init: &Found) -> Result<()> {
    let kinds = plan.namespaces.all().into_iter().map(|(kind, _)| kind);
    let flags = kinds
        .filter(|kind| (*kind != Kind::Pid || plan.ordinary_user) && plan.namespaces.is_separate(*kind))
        .fold(0, |flags, kind| flags | kind.flag());
    if plan.namespaces.is_separate(Kind::User) {
        // Inside, setgroups(2) may be denied.
        setgroups_if_allowed(&[], plan.process.keeps_groups)?;
    }
    if flags != 0 {
        setns(init.pidfd.as_fd(), flags)
            .hint_if(Errno::ESRCH, "init has ended")
            .hint_if(
                Errno::EPERM,
                "an ordinary user can enter a container of his once its program runs, not before orlop start",
            )
            .with_context(|| {
                format!("join the container's namespaces ({:?})", CloneFlags::from_bits_truncate(flags))
            })?;
    }
    Ok(())
}
