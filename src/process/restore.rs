// SPDX-License-Identifier: Apache-2.0
//! Making a container from a checkpoint: CRIU makes the processes, in the cgroup and with the mounts of the config.
//!
//! CRIU mounts by path, and follows the links of a root filesystem that may be another's since the checkpoint. So every
//! mount point must be where the checkpoint has it, and no link on the way, before CRIU gets to see it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::unistd::Pid;

use crate::error::ResultExt;
use crate::host::Host;
use crate::kernel::cgroup::{self, Existing, Handle};
use crate::kernel::criu::{Criu, Event, Opt, Options, Request, in_private_mounts, text_of};
use crate::kernel::mount::CgroupMounts;
use crate::kernel::path::{self, Root};
use crate::kernel::procfs::Proc;
use crate::kernel::signal::Interrupts;
use crate::kernel::{console, hook, namespace};
use crate::plan::Plan;
use crate::plan::filesystem::InRoot;
use crate::plan::idmap::to_host;
use crate::plan::mounts::Kind;
use crate::plan::namespaces::{Kind as NamespaceKind, Namespace};
use crate::process::checkpoint::{
    DESCRIPTORS, Images, MOUNTS, NULL_KEY, Point, name_config_file, namespace_key, refuse_what_criu_cannot,
};
use crate::process::create::{Console, Created, Undo, Wishes, announce, cgroup_mounts, state_of};
use crate::state::{Intent, Lock, State, StateDir, Status, hook_state};
use crate::sys::clone::Child;
use crate::sys::fd::{Resolve, openat2};
use crate::sys::process::pidfd_open;

/// What a `restore` asks for.
#[derive(Debug)]
pub struct Order {
    pub images: Images,
    pub options: Options,
}

/// Makes the container whose id `dir` has reserved from a checkpoint. It runs when this returns. On failure nothing is
/// left, as of a `create`.
pub fn restore(
    plan: &Plan,
    host: &Host,
    config: &[u8],
    (dir, lock): (StateDir, Lock),
    wishes: &Wishes,
    order: Order,
    interrupts: &Interrupts,
) -> Result<Created> {
    let mut undo = Undo::default();
    match make(plan, host, config, &dir, wishes, order, interrupts, &mut undo) {
        Ok((state, child, master)) => {
            drop(lock);
            Ok(Created { dir, state, child, master, watcher: None })
        }
        Err(e) => {
            undo.unwind(plan, &dir, interrupts);
            Err(e)
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "all of `restore`, and what to undo")]
fn make(
    plan: &Plan,
    host: &Host,
    config: &[u8],
    dir: &StateDir,
    wishes: &Wishes,
    mut order: Order,
    interrupts: &Interrupts,
    undo: &mut Undo,
) -> Result<(State, Child, Option<OwnedFd>)> {
    refuse_what_criu_cannot(plan)?;
    let points: Vec<Point> = order.images.load(MOUNTS)?;
    let streams: Vec<String> = order.images.load(DESCRIPTORS)?;
    let proc = Proc::open()?;
    let cgroups = cgroup::directories(&plan.cgroup);
    dir.save_intent(&Intent {
        resctrl: Vec::new(),
        id: plan.id.clone(),
        bundle: plan.bundle.clone(),
        cgroups: cgroups.clone(),
        systemd: None,
        creator: proc.identify(Pid::this())?,
    })?;
    dir.save(crate::state::CONFIG, config)?;
    let joined = namespace::open_joined(&plan.namespaces)?;
    prepare_points(plan, &points)?;
    let cgroup = cgroup::create(&plan.cgroup)?;
    let cgroups = if cgroup.is_none() { Vec::new() } else { cgroups };
    undo.cgroups.clone_from(&cgroups);

    let options = &mut order.options;
    options.text(Opt::Root, &text_of(&plan.filesystem.root)?);
    for switch in [Opt::NotifyScripts, Opt::RestoreSibling, Opt::OrphanPtsMaster, Opt::ManageCgroups] {
        options.switch(switch, true);
    }
    name_config_file(&plan.annotations, options);
    let cgroup_mounts = cgroup_mounts(plan, host, &cgroup);
    name_mounts(plan, &points, &cgroup_mounts, options)?;
    name_namespaces(plan, &joined, options)?;
    for (number, name) in streams.iter().enumerate().take(3) {
        // A terminal of the container is in the image.
        if ["pipe:", "file[", "tty["].iter().any(|kind| name.starts_with(kind)) {
            options.text_and_number(Opt::InheritFd, name, i64::try_from(number)?);
        }
    }
    let inherit: Vec<_> = joined.iter().map(|namespace| namespace.fd.as_fd()).collect();
    let (criu, images) =
        in_private_mounts(&plan.filesystem.root, || Ok((Criu::start(&inherit)?, order.images.again()?)))?;
    images.name_to(options);
    cgroup.join(criu.pid())?;
    let root_group = plan.idmap.as_ref().and_then(|map| to_host(&map.gid, 0));
    let admission = root_group.map(|gid| images.admit(gid)).transpose()?;
    name_cgroups(&proc, &criu, host, options)?;
    let mut restoring =
        Restoring { plan, host, dir, proc: &proc, cgroups, wishes, interrupts, undo, state: None, master: None };
    let done = restoring.converse(&criu, &order);
    if done.is_err() {
        criu.abandon();
    } else {
        drop(criu);
    }
    drop(admission);
    done?;
    let Restoring { state, master, cgroups, .. } = restoring;
    let state = state.context("criu has restored no process")?;
    let child = undo.child.as_ref().context("criu has restored no process")?;
    keep_in_cgroup(&cgroup, &cgroups, child.pid)?;
    announce(child, wishes, &mut undo.pid_file)?;
    interrupts.check()?;
    let child = undo.child.take().context("init is gone")?;
    Ok((state, child, master))
}

/// CRIU moves processes where they were; the cgroup of the container may have another name now.
fn keep_in_cgroup(cgroup: &Handle, cgroups: &[PathBuf], init: Pid) -> Result<()> {
    if cgroup.is_none() || Existing::open(cgroups)?.in_all(init)? { Ok(()) } else { cgroup.join(init) }
}

/// While CRIU works.
struct Restoring<'a> {
    plan: &'a Plan,
    host: &'a Host,
    dir: &'a StateDir,
    proc: &'a Proc,
    cgroups: Vec<PathBuf>,
    wishes: &'a Wishes,
    interrupts: &'a Interrupts,
    undo: &'a mut Undo,
    state: Option<State>,
    master: Option<OwnedFd>,
}

impl Restoring<'_> {
    fn converse(&mut self, criu: &Criu, order: &Order) -> Result<()> {
        criu.request(Request::Restore, &order.options)?;
        loop {
            match criu.next(Some(self.interrupts))? {
                Event::Notify { script, pid, fd } => {
                    let done = self.notified(&script, pid, fd);
                    criu.answer(done.is_ok())?;
                    done?;
                }
                Event::Done { pid } => return self.record(pid),
                Event::Failed { errno, message } => return Err(order.images.failure("restore", errno, &message)),
            }
        }
    }

    fn notified(&mut self, script: &str, pid: i32, fd: Option<OwnedFd>) -> Result<()> {
        match script {
            "setup-namespaces" => {
                self.adopt(pid)?;
                let hooks = &self.plan.hooks;
                self.undo.hooks_ran = true;
                let state = hook_state(&self.plan.id, Status::Creating, pid, &self.plan.bundle, &self.plan.annotations);
                hook::run_all("prestart", &hooks.prestart, &state, Some(self.interrupts))?;
                hook::run_all("createRuntime", &hooks.create_runtime, &state, Some(self.interrupts))
            }
            // The processes are there, but stopped still: the record is on disk before they go on.
            "post-restore" => self.record(pid),
            "orphan-pts-master" => {
                let master = fd.context("criu sent no terminal")?;
                match &self.wishes.console {
                    // The name that runc gives; CRIU tells none.
                    Console::Socket(socket) => console::send_master(socket.as_fd(), master.as_fd(), "/dev/pts/ptmx"),
                    Console::Keep => {
                        self.master = Some(master);
                        Ok(())
                    }
                    Console::None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Init is a child of this process, as CRIU has cloned it as its own sibling.
    fn adopt(&mut self, pid: i32) -> Result<()> {
        if self.undo.child.is_none() && pid > 0 {
            let pid = Pid::from_raw(pid);
            self.undo.child = Some(Child { pid, pidfd: pidfd_open(pid)? });
        }
        Ok(())
    }

    fn record(&mut self, pid: i32) -> Result<()> {
        if self.state.is_some() {
            return Ok(());
        }
        self.adopt(pid)?;
        let child = self.undo.child.as_ref().context("criu does not say which process it has restored")?;
        let init = self.proc.identify(child.pid)?;
        let state = State { restored: true, ..state_of(self.plan, self.host, init, self.cgroups.clone()) };
        self.dir.save_state(&state)?;
        self.state = Some(state);
        Ok(())
    }
}

/// The directory of the host that `point` is made in, and its path there: the root filesystem, or the source of the bind
/// mount that holds it. None if that is a file system which CRIU fills itself.
fn holder<'a>(plan: &'a Plan, points: &[Point], point: &InRoot) -> Result<Option<(&'a std::path::Path, InRoot)>> {
    let mut innermost: Option<(InRoot, &Point)> = None;
    for other in points {
        let path = other.in_root()?;
        if !path.is_root()
            && point.is_below(&path)
            && innermost.as_ref().is_none_or(|(inner, _)| path.is_below(inner) || path == *inner)
        {
            innermost = Some((path, other));
        }
    }
    let Some((path, other)) = innermost else { return Ok(Some((&plan.filesystem.root, point.clone()))) };
    let Some(source) = bind_source(plan, other) else { return Ok(None) };
    let below = point.as_str().strip_prefix(path.as_str()).unwrap_or_default();
    let below = InRoot::new(MOUNTS, below, &mut crate::plan::problem::Problems::default());
    Ok(Some((source, below.context("a mount point")?)))
}

/// The source in the config of what was bound at `point`.
fn bind_source<'a>(plan: &'a Plan, point: &Point) -> Option<&'a std::path::Path> {
    point.key.as_ref().filter(|key| key.starts_with('m'))?;
    let destination = point.destination.as_deref()?;
    plan.filesystem.mounts.iter().rev().filter(|m| m.destination.as_str() == destination).find_map(|m| match &m.kind {
        Kind::Bind { source, .. } => Some(source.as_path()),
        _ => None,
    })
}

/// Makes the mount points that are missing, and makes sure that no link leads from one anywhere else.
fn prepare_points(plan: &Plan, points: &[Point]) -> Result<()> {
    for point in points {
        let path = point.in_root()?;
        if path.is_root() {
            continue;
        }
        let Some((directory, path)) = holder(plan, points, &path)? else { continue };
        let root = path::open_host(&path::host_path(directory)?, libc::O_DIRECTORY);
        let root = Root::new(root.with_context(|| format!("open {directory:?}"))?);
        prepare_point(&root, &path, point.directory).with_context(|| format!("mount point {}", point.path))?;
    }
    Ok(())
}

fn prepare_point(root: &Root, path: &InRoot, directory: bool) -> Result<()> {
    // Not RESOLVE_NO_XDEV: the host may have mounts there.
    let strict = Resolve(libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS);
    let look =
        || openat2(root.fd(), &path::c_string(path.as_str())?, libc::O_PATH, 0, strict).map_err(anyhow::Error::from);
    let found = match look() {
        Err(e) if crate::error::errno_of(&e) == Some(Errno::ENOENT) => {
            // A dangling link is found to be one by the look below.
            if directory {
                root.directory(path)?
            } else {
                root.file(path)?
            };
            look()
        }
        found => found,
    };
    let found = found
        .hint_if(Errno::ELOOP, "a link is on the way, which was not there at the checkpoint; CRIU would follow it")
        .hint_if(Errno::ENOTDIR, "a file is on the way")?;
    if path::is(&path::stat(found.as_fd())?, libc::S_IFDIR) != directory {
        bail!("was {} at the checkpoint", if directory { "a directory" } else { "a file" });
    }
    Ok(())
}

/// Says for each key of the image what it is now.
fn name_mounts(plan: &Plan, points: &[Point], cgroups: &CgroupMounts, options: &mut Options) -> Result<()> {
    let mut nulls = false;
    for point in points {
        let (Some(key), Some(destination)) = (&point.key, &point.destination) else { continue };
        let missing = || format!("{}: the checkpoint has a mount there that config.json has not", point.path);
        let source = match key.get(..1) {
            _ if key == NULL_KEY => {
                if std::mem::replace(&mut nulls, true) {
                    continue; // one word for all
                }
                "/dev/null".to_string()
            }
            Some("m") => text_of(bind_source(plan, point).with_context(missing)?)?,
            Some("d") => {
                let device = plan.filesystem.devices.iter().find(|d| d.bind && d.path.as_str() == destination);
                device.with_context(missing)?.path.as_str().to_string()
            }
            Some("c") => {
                let found = cgroups.all().iter().find(|c| c.name == *destination || destination.is_empty());
                text_of(&found.with_context(missing)?.directory)?
            }
            _ => bail!("{MOUNTS}: {key:?} is not a key that orlop gives"),
        };
        if !key.bytes().all(|b| b.is_ascii_alphanumeric()) {
            bail!("{MOUNTS}: {key:?} is not a key that orlop gives");
        }
        options.text(Opt::External, &format!("mnt[{key}]:{source}"));
    }
    Ok(())
}

/// The namespaces that the container joins: the network's and the PID namespace by the word of the checkpoint, the others
/// by their path.
fn name_namespaces(plan: &Plan, joined: &[namespace::Joined], options: &mut Options) -> Result<()> {
    for namespace in joined {
        match namespace.kind {
            kind @ (NamespaceKind::Network | NamespaceKind::Pid) => {
                options.text_and_number(Opt::InheritFd, namespace_key(kind), namespace.fd.as_raw_fd().into());
            }
            kind @ (NamespaceKind::Mount | NamespaceKind::Cgroup | NamespaceKind::Time) => {
                bail!("linux.namespaces \"{}\": CRIU cannot join one by its path", kind.name());
            }
            kind => {
                let path = plan.namespaces.all().into_iter().find(|(other, _)| *other == kind);
                if let Some((_, Namespace::Join(path))) = path {
                    options.pair(Opt::JoinNamespace, kind.file(), &text_of(path)?);
                }
            }
        }
    }
    Ok(())
}

/// The root of what CRIU restores of cgroups is the container's own, where CRIU is by now.
fn name_cgroups(proc: &Proc, criu: &Criu, host: &Host, options: &mut Options) -> Result<()> {
    let unified = matches!(host.cgroups, crate::host::CgroupLayout::Unified(_));
    for line in proc.read(&format!("{}/cgroup", criu.pid()))?.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            return Err(anyhow!("/proc/{}/cgroup is not in the format of cgroups(7)", criu.pid()));
        };
        for controller in controllers.split(',').filter(|controller| !controller.is_empty() || unified) {
            options.pair(Opt::CgroupRoot, controller, path);
        }
    }
    Ok(())
}
