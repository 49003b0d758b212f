// SPDX-License-Identifier: Apache-2.0
//! The child, from its clone to its execve. It is a fork of the runtime: the plan and every descriptor are simply there.
//! It opens no path of the host but, in a user namespace, those of the root and of bind mounts once more
//! (`Prepared::lock`); or, for a caller who may not clone mounts, all of them (`prepare_inside`).

use std::os::fd::{AsFd, OwnedFd, RawFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{SockFlag, accept4};

use crate::kernel::cgroup::Handle;
use crate::kernel::mount::CgroupMounts;
use crate::kernel::namespace::{self, Joined};
use crate::kernel::procfs::Proc;
use crate::kernel::rootfs::Prepared;
use crate::kernel::{hook, idmap, rootfs, scheduling};
use crate::plan::Plan;
use crate::plan::namespaces::{Kind, Shape};
use crate::process::channel::{Channel, Message};
use crate::process::step::{Progress, Step};
use crate::process::tail::{self, Tail};
use crate::state::{Status, hook_state};
use crate::sys;
use crate::sys::clone::{Clone, PARENT, clone3, exit};
use crate::sys::memory::{SharedWord, give_back};
use crate::sys::process::{reset_signals, set_parent_death_signal};
use crate::trace::{self, Lane, Phase, mark};

/// What the parent has opened for init before the clone.
pub struct Inherited<'a> {
    pub cgroup: &'a Handle,
    pub proc: Proc,
    pub joined: Vec<Joined>,
    /// None if the parent could not: see [`Plan::mounts_inside`].
    pub rootfs: Option<Prepared>,
    pub cgroup_mounts: CgroupMounts,
    /// As in [`crate::host::Host`].
    pub ignored_signals: u64,
    /// The listening socket of `start`.
    pub start: OwnedFd,
    /// `start` is some time away: what is not needed meanwhile is given back.
    pub waits: bool,
    /// The parent's descriptors that a child must not keep: the lock of the state directory would outlive its holder,
    /// and the parent's end of the channel would hide its death.
    pub parents: Vec<RawFd>,
}

/// First process after the clone if [`Shape::Staged`]: joins what takes effect on children only, clones init as its
/// sibling and ends. Does not return.
pub fn stage(plan: &Plan, inherited: Inherited<'_>, channel: Channel, progress: &Progress) -> ! {
    trace::is(Lane::Stager);
    tail::close_parents(&inherited.parents);
    match stage_and_clone(plan, &inherited) {
        Ok(Clone::Child) => init(plan, inherited, channel, progress),
        Ok(Clone::Parent(child)) => {
            let sent = channel.send_with(&Message::Cloned { pid: child.pid.as_raw() }, Some(child.pidfd.as_fd()));
            exit(i32::from(sent.is_err()))
        }
        Err(e) => tail::fail(&channel, &e),
    }
}

fn stage_and_clone(plan: &Plan, inherited: &Inherited<'_>) -> Result<Clone> {
    begin(plan, &inherited.proc)?;
    inherited.cgroup.join_self()?;
    if plan.ordinary_user {
        // What he may join belongs to the user namespace that is joined with it.
        namespace::join_user(&inherited.joined, plan.process.keeps_groups)?;
    }
    namespace::join_others(&inherited.joined)?;
    if !plan.namespaces.time_offsets.is_empty() {
        namespace::unshare_time(&plan.namespaces, &inherited.proc)?;
    }
    // The PID namespace before the user namespace: its owner may be the host's. Both take CAP_SYS_ADMIN over the target,
    // which the host's root has over every descendant.
    namespace::join_pid(&inherited.joined)?;
    if !plan.ordinary_user {
        namespace::join_user(&inherited.joined, plan.process.keeps_groups)?;
    }
    let mut flags = plan.namespaces.clone_flags();
    if !plan.namespaces.time_offsets.is_empty() {
        flags &= !sys::clone::NEWTIME; // the namespace exists, and the child enters it
    }
    Ok(clone3(flags | PARENT, None)?)
}

/// An ordinary user can write the maps of his child only as long as it is dumpable. It has joined nothing by then.
fn begin(plan: &Plan, proc: &Proc) -> Result<()> {
    tail::set_own_oom_score(plan, proc)?;
    if plan.ordinary_user && plan.idmap.is_some() {
        return Ok(set_parent_death_signal(libc::SIGKILL)?);
    }
    tail::first_steps()
}

/// First process after the clone if [`Shape::Direct`]. Does not return.
pub fn run(plan: &Plan, inherited: Inherited<'_>, channel: Channel, progress: &Progress) -> ! {
    tail::close_parents(&inherited.parents);
    init(plan, inherited, channel, progress)
}

fn init(plan: &Plan, inherited: Inherited<'_>, mut channel: Channel, progress: &Progress) -> ! {
    trace::is(Lane::Child);
    let waits = inherited.waits;
    match prepare(plan, inherited, &mut channel, progress) {
        Err(e) => tail::fail(&channel, &e),
        Ok(tail) => {
            if let Err(e) = tail::commit(&channel) {
                tail::fail(&channel, &e);
            }
            // From here on errors go to whoever runs `start`.
            drop(channel);
            wait_and_exec(plan, tail, waits)
        }
    }
}

/// Everything up to the point where only `start` is missing.
fn prepare(plan: &Plan, mut inherited: Inherited<'_>, channel: &mut Channel, progress: &Progress) -> Result<Tail> {
    crate::log::detach();
    begin(plan, &inherited.proc)?;
    if plan.shape == Shape::Direct {
        inherited.cgroup.join_self()?;
    }
    scheduling::reset_affinity()?;
    reset_signals(inherited.ignored_signals);
    progress.reached(Step::Start);
    channel.send(&Message::NeedIdMap)?;
    channel.expect_go()?;
    if plan.ordinary_user {
        tail::first_steps()?;
    }

    progress.reached(Step::Namespaces);
    if plan.shape == Shape::Direct && plan.ordinary_user {
        namespace::join_user(&inherited.joined, plan.process.keeps_groups)?;
        namespace::join_others(&inherited.joined)?;
    } else if plan.shape == Shape::Direct {
        namespace::join_others(&inherited.joined)?;
        namespace::join_user(&inherited.joined, plan.process.keeps_groups)?;
    }
    inherited.joined.clear();
    if plan.namespaces.is_separate(Kind::User) {
        if let Some(rootfs) = &mut inherited.rootfs {
            rootfs.lock(&plan.filesystem, |mount, clone| {
                channel.send_with(&Message::Idmap { mount }, Some(clone))?;
                channel.expect_go()
            })?;
        }
        idmap::become_root(plan.process.keeps_groups)?;
        tail::first_steps()?; // the change of user has undone them
    }
    if plan.namespaces.is_new(Kind::Cgroup) {
        namespace::unshare_cgroup()?;
    }
    tail::new_session()?;
    if plan.new_keyring {
        tail::new_keyring(plan, channel)?;
        tail::share_keyring()?;
    }
    if plan.namespaces.is_new(Kind::Network) {
        mark(Phase::Loopback);
        namespace::loopback_up()?;
    }

    progress.reached(Step::RootFilesystem);
    let mut rootfs = match inherited.rootfs.take() {
        Some(prepared) => prepared,
        None => prepare_inside(plan, &inherited.cgroup_mounts)?,
    };
    if let Some(terminal) = rootfs::build(&plan.filesystem, &mut rootfs, &inherited.cgroup_mounts)? {
        progress.reached(Step::Console);
        tail::hand_over_terminal(plan, channel, terminal)?;
    }
    channel.send(&Message::MountsDone)?;
    channel.expect_go()?;

    progress.reached(Step::CreateContainerHooks);
    let state =
        |status| hook_state(&plan.id, status, std::process::id().cast_signed(), &plan.bundle, &plan.annotations);
    if !plan.hooks.create_container.is_empty() {
        rootfs::visit(&rootfs)?;
        hook::run_all("createContainer", &plan.hooks.create_container, &state(Status::Creating), None)?;
    }

    progress.reached(Step::PivotRoot);
    rootfs::enter(&plan.filesystem, &rootfs)?;

    progress.reached(Step::Finish);
    let Inherited { proc, start, waits, .. } = inherited;
    rootfs::finish(&plan.filesystem, rootfs)?;
    mark(Phase::Sysctls);
    for sysctl in &plan.sysctl {
        proc.write_sysctl(&sysctl.path, &sysctl.value).with_context(|| format!("linux.sysctl.{}", sysctl.key))?;
    }
    namespace::set_names(plan.hostname.as_deref(), plan.domainname.as_deref())?;
    progress.reached(Step::Credentials);
    if waits && filtered_early(plan) {
        give_back();
    }
    let tail = tail::confine(plan, proc, Some(start), channel, progress.taken())?;
    progress.reached(Step::WaitForStart);
    channel.send(&Message::Ready { limits: tail::set_limits(&plan.process) })?;
    Ok(tail)
}

/// What the parent does for root: here for a caller who may not clone the host's mounts. The copy of them in the new
/// mount namespace belongs to this process's user namespace, and the host's paths lead to it still.
fn prepare_inside(plan: &Plan, cgroups: &CgroupMounts) -> Result<Prepared> {
    let mut rootfs = rootfs::prepare(&plan.filesystem, None)?;
    rootfs.open_cgroups(&plan.filesystem, cgroups)?;
    Ok(rootfs)
}

/// A filter that is loaded before init waits may deny the calls of [`give_back`], or kill for them.
fn filtered_early(plan: &Plan) -> bool {
    plan.seccomp.is_some() && !plan.process.no_new_privileges
}

/// Waits for `start`, then becomes the container's program.
fn wait_and_exec(plan: &Plan, mut tail: Tail, waits: bool) -> ! {
    let Some(start) = tail.start.take() else { exit(1) };
    if waits && !filtered_early(plan) {
        give_back();
    }
    loop {
        let connection = match accept4(&start, SockFlag::SOCK_CLOEXEC) {
            Ok(fd) => Channel::from(fd),
            Err(Errno::EINTR | Errno::ECONNABORTED) => continue,
            Err(_) => exit(1),
        };
        // A `start` that died before it said Go has started nothing: wait for the next one.
        let word = match connection.receive() {
            Ok(Some((Message::Go, word))) => word,
            Ok(Some((Message::GoTraced, Some(word)))) => {
                trace::adopt(word.as_fd());
                Some(word)
            }
            _ => continue,
        };
        drop(start);
        let error = taken_word(word).map_or_else(|e| e, |taken| run_program(plan, tail, &connection, &taken));
        tail::fail(&connection, &error)
    }
}

/// Where `start` says that it has the listener of a filter that notifies. Its memory comes with the Go if there is one.
fn taken_word(memfd: Option<OwnedFd>) -> Result<SharedWord> {
    Ok(match memfd {
        Some(memfd) => SharedWord::from_memfd(memfd.as_fd())?,
        None => SharedWord::new()?,
    })
}

/// The startContainer hooks, if there are any, and the program. Returns only on failure.
fn run_program(plan: &Plan, tail: Tail, connection: &Channel, taken: &SharedWord) -> anyhow::Error {
    let hooks = &plan.hooks.start_container;
    if hooks.is_empty() {
        return tail::exec(plan, tail, connection, taken);
    }
    mark(Phase::StartHooks);
    let pid = std::process::id().cast_signed();
    let state = hook_state(&plan.id, Status::Created, pid, &plan.bundle, &plan.annotations);
    // The hooks are programs of the image, and must not be able to do what its process cannot.
    let ran = tail::load_late_filter(plan, connection, taken)
        .and_then(|()| hook::run_all("startContainer", hooks, &state, None));
    match ran {
        Err(e) => e,
        Ok(()) => tail::exec_filtered(plan, tail, connection),
    }
}
