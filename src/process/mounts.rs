// SPDX-License-Identifier: Apache-2.0
//! Mounts of a container that exists. The parent opens the sources, with their attributes and mappings in force; a child
//! that nobody may trace enters the container's namespaces by init's pidfd, finds the destinations below the container's
//! root, and attaches. It runs nothing of the container.

use std::os::fd::{AsFd, BorrowedFd, RawFd};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};

use crate::error::ResultExt;
use crate::kernel::capability::setgroups_if_allowed;
use crate::kernel::idmap;
use crate::kernel::mount::{self, Added, MountId, Source};
use crate::kernel::path::Root;
use crate::kernel::procfs::Proc;
use crate::plan::Plan;
use crate::plan::filesystem::InRoot;
use crate::plan::mounts::Kind as MountKind;
use crate::plan::namespaces::Kind;
use crate::process::channel::{Channel, Message, pair};
use crate::process::tail;
use crate::state::State;
use crate::sys::clone::{Clone, clone3, exit, setns};
use crate::sys::process::{set_dumpable, wait};

/// A container to enter.
pub struct Target<'a> {
    pub proc: &'a Proc,
    /// With the mounts to add as those of the container.
    pub plan: &'a Plan,
    pub state: &'a State,
    /// Descriptors that the child must not keep.
    pub parents: Vec<RawFd>,
}

/// Makes the mounts of the plan. `record` is told of each before it is attached, by its place in the plan. On failure
/// nothing of them is left in the container.
pub fn add(target: &Target<'_>, mut record: impl FnMut(usize, MountId) -> Result<()>) -> Result<()> {
    let Target { proc, plan, state, .. } = target;
    let fs = &plan.filesystem;
    let user = match fs.user_namespace {
        true => Some(proc.open_namespace(nix::unistd::Pid::from_raw(state.init.pid), Kind::User)?),
        false => None,
    };
    // Only if it is still the same process was that its namespace.
    let init = proc.find(&state.init)?.context("the container's init has ended")?;
    let mut mapper = idmap::Mapper::new(proc, None, user.as_ref().map(AsFd::as_fd))?;
    let mut sources: Vec<Option<Source>> = Vec::with_capacity(fs.mounts.len());
    for mount in &fs.mounts {
        sources.push(match user {
            Some(_) => mount::open_source(&mount::to_lock(mount), fs, Some(&mut mapper))?,
            None => mount::open_source(mount, fs, Some(&mut mapper))?,
        });
    }
    let mut place = 0;
    in_container(
        target,
        |channel| attach_all(target, init.pidfd.as_fd(), sources, channel),
        |id| {
            place += 1;
            record(place - 1, id)
        },
    )
}

/// Unmounts the mounts `known` at their destinations, if those and nothing else is there. Gives those of which it was not
/// so.
pub fn remove(target: &Target<'_>, known: &[(InRoot, MountId)]) -> Result<Vec<MountId>> {
    let init = target.proc.find(&target.state.init)?.context("the container's init has ended")?;
    let mut others = Vec::new();
    let act = |channel: &Channel| -> Result<()> {
        enter(target, init.pidfd.as_fd(), &mut [])?;
        let root = Root::new(tail::open_root()?);
        for (destination, id) in known {
            if !mount::remove(target.proc, &root, destination, *id).with_context(|| destination.to_string())? {
                channel.send(&Message::Mount(*id))?;
                channel.expect_go()?;
            }
        }
        Ok(())
    };
    in_container(target, act, |id| {
        others.push(id);
        Ok(())
    })?;
    Ok(others)
}

/// Runs `act` in a child; `said` hears each mount that it names.
fn in_container(
    target: &Target<'_>,
    act: impl FnOnce(&Channel) -> Result<()>,
    mut said: impl FnMut(MountId) -> Result<()>,
) -> Result<()> {
    set_dumpable(false)?;
    let (ours, theirs) = pair()?;
    let child = match clone3(0, None).context("clone the process that mounts")? {
        Clone::Parent(child) => child,
        Clone::Child => {
            tail::close_parents(&target.parents);
            drop(ours);
            crate::log::detach();
            match tail::first_steps().and_then(|()| act(&theirs)) {
                Ok(()) => exit(0),
                Err(e) => tail::fail(&theirs, &e),
            }
        }
    };
    drop(theirs);
    let mut heard = || -> Result<()> {
        loop {
            match ours.receive()? {
                None => return Ok(()),
                Some((Message::Failed(failure), _)) => return Err(failure.into()),
                Some((Message::Mount(id), _)) => {
                    said(id)?;
                    ours.send(&Message::Go)?;
                }
                Some((other, _)) => bail!("the process that mounts sent {other:?}"),
            }
        }
    };
    let heard = heard();
    // Of a child that still waits for an answer this is the end, and it takes back what it has done.
    drop(ours);
    let ended = wait(child.pidfd.as_fd(), true)?;
    heard?;
    match ended {
        Some(crate::sys::process::Exit::Code(0)) => Ok(()),
        other => bail!("the process that mounts has died: {other:?}"),
    }
}

/// CHILD.
fn attach_all(
    target: &Target<'_>,
    init: BorrowedFd<'_>,
    mut sources: Vec<Option<Source>>,
    channel: &Channel,
) -> Result<()> {
    let fs = &target.plan.filesystem;
    enter(target, init, &mut sources)?;
    // Modes are as planned.
    umask(Mode::empty());
    let root = Root::new(tail::open_root()?);
    let mut done: Vec<Added> = Vec::new();
    let attached = (|| -> Result<()> {
        for (mount, source) in fs.mounts.iter().zip(sources) {
            let record = |id| {
                channel.send(&Message::Mount(id))?;
                channel.expect_go()
            };
            done.push(mount::add(mount, &root, source, fs, record).with_context(|| mount.name())?);
        }
        for (mount, added) in fs.mounts.iter().zip(&done).filter(|(mount, _)| mount.read_only_at_end) {
            mount::set_read_only(added.fd(), false).with_context(|| mount.name())?;
        }
        Ok(())
    })();
    if attached.is_err() {
        while let Some(last) = done.pop() {
            last.take_back(target.proc);
        }
    }
    attached
}

/// CHILD: enters the container's namespaces, all at once where that can be.
fn enter(target: &Target<'_>, init: BorrowedFd<'_>, sources: &mut [Option<Source>]) -> Result<()> {
    let namespaces = &target.plan.namespaces;
    let keeps_groups = target.plan.process.keeps_groups;
    let user = namespaces.is_separate(Kind::User);
    let enter_user = || -> Result<()> {
        // Inside, setgroups(2) may be denied.
        setgroups_if_allowed(&[], keeps_groups)?;
        Ok(setns(init, Kind::User.flag())?)
    };
    if user && sources.iter().any(Option::is_some) {
        mount::lock_sources(sources, &target.plan.filesystem, enter_user)?;
    } else if user {
        enter_user()?;
    }
    let flags = [Kind::Mount, Kind::Network, Kind::Ipc, Kind::Uts, Kind::Cgroup]
        .into_iter()
        .filter(|kind| namespaces.is_separate(*kind))
        .fold(0, |flags, kind| flags | kind.flag());
    setns(init, flags)
        .hint_if(Errno::ESRCH, "the container's init has ended")
        .context("join the container's namespaces")?;
    if user {
        idmap::become_root(keeps_groups)?;
        tail::first_steps()?; // the change of user has undone them
    }
    Ok(())
}

/// The member of a mount for whose sake it cannot be made in a container that exists, and why.
pub fn not_to_be_added(kind: &MountKind) -> Option<(&'static str, &'static str)> {
    match kind {
        // The process that mounts is not in the container's PID namespace and cgroup.
        MountKind::Proc | MountKind::Cgroup => {
            Some(("type", "a mount of this type cannot be added to a container that exists"))
        }
        MountKind::Remount { .. } => Some(("options", "remount changes mounts of config.json only")),
        _ => None,
    }
}
