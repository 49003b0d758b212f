// SPDX-License-Identifier: Apache-2.0
//! The parent: from a plan to a container in the state `created`.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::unistd::Pid;

use crate::error::ResultExt;
use crate::host::Host;
use crate::kernel::cgroup::{self, Handle};
use crate::kernel::mount::CgroupMounts;
use crate::kernel::net_device::Devices;
use crate::kernel::procfs::{self, Identity, Proc};
use crate::kernel::seccomp::Supervisor;
use crate::kernel::signal::Interrupts;
use crate::kernel::{console, hook, idmap, namespace, resctrl, rootfs, scheduling};
use crate::plan::Plan;
use crate::plan::namespaces::{Kind, Shape};
use crate::plan::resctrl::Resctrl;
use crate::plan::systemd::Remembered;
use crate::process::channel::{Channel, Message, pair};
use crate::process::destroy;
use crate::process::init::{self, Inherited};
use crate::process::step::Progress;
use crate::process::watch::Watcher;
use crate::seccomp::Listener;
use crate::state::{Intent, Lock, START_SOCKET, State, StateDir, Status, hook_state};
use crate::sys::call;
use crate::sys::clone::{Child, Clone, clone3};
use crate::sys::memory::SharedWord;
use crate::sys::process::{Exit, pidfd_send_signal, prlimit, wait};
use crate::trace::{self, Lane, Phase, mark};

/// Where the master of the container's terminal goes.
pub enum Console {
    /// There is no terminal.
    None,
    /// To the receiver connected here (`--console-socket`).
    Socket(OwnedFd),
    /// To the caller (`run` in the foreground).
    Keep,
}

/// What the caller of [`create`] wants beside the container itself.
pub struct Wishes {
    pub console: Console,
    /// A connection that gets a pidfd of init (`--pidfd-socket`).
    pub pidfd_socket: Option<OwnedFd>,
    pub pid_file: Option<PathBuf>,
    /// Who answers for a filter that notifies and has no listener of its own.
    pub watcher: Option<Watcher>,
    /// Init waits for a `start` that is some time away.
    pub waits: bool,
}

/// A container in the state `created`.
pub struct Created {
    pub dir: StateDir,
    pub state: State,
    /// Init, a child of this process.
    pub child: Child,
    /// The terminal's master, if it was to be kept.
    pub master: Option<OwnedFd>,
    pub watcher: Option<Watcher>,
}

/// Makes the container whose id `dir` has reserved. On failure nothing is left: no process, cgroup, mount or file, and
/// the id is free again.
pub fn create(
    plan: &Plan,
    host: &Host,
    config: &[u8],
    (dir, lock): (StateDir, Lock),
    wishes: Wishes,
    interrupts: &Interrupts,
) -> Result<Created> {
    let mut undo = Undo::default();
    let made = make(plan, host, config, (&dir, &lock), &wishes, interrupts, &mut undo);
    match made {
        Ok((state, child, master)) => {
            drop(lock);
            Ok(Created { dir, state, child, master, watcher: wishes.watcher })
        }
        Err(e) => {
            undo.unwind(plan, &dir, interrupts);
            if let Some(watcher) = &wishes.watcher {
                // What the filter refused may be why.
                watcher.finish();
            }
            Err(e)
        }
    }
}

fn make(
    plan: &Plan,
    host: &Host,
    config: &[u8],
    (dir, lock): (&StateDir, &Lock),
    wishes: &Wishes,
    interrupts: &Interrupts,
    undo: &mut Undo,
) -> Result<(State, Child, Option<OwnedFd>)> {
    // A supervisor that is not there is known before anything is made, even if `start` is to connect again.
    let listener = plan.seccomp.as_ref().and_then(|seccomp| seccomp.listener.as_ref());
    let supervisor = listener.map(Supervisor::connect).transpose()?;
    let proc = Proc::open()?;
    let cgroups = cgroup::directories(&plan.cgroup);
    // What is wrong with the maps of an ordinary user is known before there is a process.
    let writers = plan.idmap.as_ref().map(|map| idmap::Writers::new(map, host)).transpose()?.unwrap_or_default();
    let rdt = plan.resctrl.as_ref().map(|plan| Rdt::new(&proc, plan)).transpose()?;
    dir.save_intent(&Intent {
        id: plan.id.clone(),
        bundle: plan.bundle.clone(),
        cgroups: cgroups.clone(),
        systemd: plan.cgroup.driver.unit().map(Remembered::of),
        resctrl: rdt.as_ref().map(|rdt| rdt.missing.clone()).unwrap_or_default(),
        creator: proc.identify(Pid::this())?,
    })?;
    dir.save(crate::state::CONFIG, config)?;
    mark(Phase::Cgroup);
    let cgroup = cgroup::create(&plan.cgroup)?;
    mark(Phase::Sources);
    // A cgroup that was not made belongs to someone else if it is there.
    let cgroups = if cgroup.is_none() { Vec::new() } else { cgroups };
    undo.cgroups.clone_from(&cgroups);
    undo.systemd = plan.cgroup.driver.unit().filter(|_| !cgroup.is_none()).map(Remembered::of);
    if let Some(rdt) = &rdt {
        resctrl::create(&rdt.root, rdt.plan, &rdt.missing, &mut undo.resctrl)?;
    }
    let cgroup_mounts = cgroup_mounts(plan, host, &cgroup);
    let joined = namespace::open_joined(&plan.namespaces)?;
    refuse_changes_of_the_host(plan, &joined)?;
    let user = joined.iter().find(|joined| joined.kind == Kind::User).map(|joined| joined.fd.as_fd());
    let mut mapper = idmap::Mapper::new(&proc, plan.idmap.as_ref(), user)?;
    let rootfs = if plan.mounts_inside {
        None
    } else {
        let mut rootfs = rootfs::prepare(&plan.filesystem, Some(&mut mapper))?;
        rootfs.open_cgroups(&plan.filesystem, &cgroup_mounts)?;
        Some(rootfs)
    };

    let network = match joined.iter().find(|joined| joined.kind == Kind::Network && !plan.net_devices.is_empty()) {
        Some(joined) => Some(joined.fd.try_clone().context("duplicate a namespace")?),
        None => None,
    };
    let progress = Progress::new()?;
    let (ours, theirs) = pair()?;
    let inherited = Inherited {
        rootfs,
        cgroup: &cgroup,
        cgroup_mounts,
        ignored_signals: host.ignored_signals,
        joined,
        start: listen_for_start(dir)?,
        waits: wishes.waits,
        proc: proc.try_clone()?,
        parents: [ours.fd().as_raw_fd(), interrupts.fd().as_raw_fd(), lock.raw_fd()]
            .into_iter()
            .chain(dir.raw_fds())
            .chain(cgroup.raw_fds())
            .collect(),
    };
    mark(Phase::Clone);
    let (first, inside) = spawn(plan, &cgroup, inherited, theirs, &progress)?;
    trace::process(if plan.shape == Shape::Direct { Lane::Child } else { Lane::Stager }, first.pid);
    undo.child = Some(first);
    if inside {
        cgroup.entered(None)?;
    }
    let mut parent = Parent {
        plan,
        host,
        dir,
        proc: &proc,
        writers: &writers,
        mapper,
        cgroup: &cgroup,
        interrupts,
        rdt,
        network,
        progress: &progress,
        supervisor: supervisor.filter(|_| !plan.process.no_new_privileges),
    };
    let (master, limits) = parent.converse(&ours, wishes, undo)?;
    let Some(child) = undo.child.as_ref() else { bail!("init is gone") };
    mark(Phase::Record);
    let state = parent.record(child, &limits, cgroups)?;
    announce(child, wishes, &mut undo.pid_file)?;
    mark(Phase::HandOver);
    ours.send(&Message::Go).context("init died when it was ready")?;
    // Init closes the channel when the death of this process no longer kills it: not before may this process end.
    ours.receive()?;
    // The last chance to obey a signal; one that comes later is too late, as it would be after the end of this process.
    interrupts.check()?;
    mark(Phase::End);
    let child = undo.child.take().context("init is gone")?;
    Ok((state, child, master))
}

/// What a mount of type `cgroup` binds: the container's own cgroups, or the caller's if it has none.
pub(super) fn cgroup_mounts(plan: &Plan, host: &Host, cgroup: &Handle) -> CgroupMounts {
    CgroupMounts::new(&host.cgroups, |hierarchy| match cgroup.is_none() {
        true => hierarchy.mount_point.join(hierarchy.own.strip_prefix("/").unwrap_or(&hierarchy.own)),
        false => plan.cgroup.directory_in(hierarchy),
    })
}

/// A namespace that is joined by its path can still be the host's, and must not be changed then.
fn refuse_changes_of_the_host(plan: &Plan, joined: &[namespace::Joined]) -> Result<()> {
    let sysctls = plan.sysctl.iter().map(|sysctl| (format!("linux.sysctl.{}", sysctl.key), sysctl.owner));
    let names = [("hostname", plan.hostname.is_some()), ("domainname", plan.domainname.is_some())];
    let names = names.into_iter().filter(|(_, set)| *set).map(|(name, _)| (name.to_string(), Kind::Uts));
    let devices = (!plan.net_devices.is_empty()).then(|| ("linux.netDevices".to_string(), Kind::Network));
    for (field, owner) in sysctls.chain(names).chain(devices) {
        for namespace in joined.iter().filter(|j| j.kind == owner) {
            if namespace.is_the_callers()? {
                bail!("{field}: the \"{}\" namespace to join is the host's", owner.name());
            }
        }
    }
    Ok(())
}

/// The one clone, or that of the stager, and whether it is in the cgroup. In the child this does not return.
fn spawn(
    plan: &Plan,
    cgroup: &Handle,
    inherited: Inherited<'_>,
    theirs: Channel,
    progress: &Progress,
) -> Result<(Child, bool)> {
    let flags = match plan.shape {
        Shape::Direct => plan.namespaces.clone_flags(),
        Shape::Staged => 0,
    };
    let mut cloned = clone3(flags, cgroup.clone_into());
    if matches!(&cloned, Err(e) if e.errno == Errno::EOPNOTSUPP)
        && !plan.cgroup.needs_domain()
        && cgroup.make_threaded().context("linux.cgroupsPath")?
    {
        cloned = clone3(flags, cgroup.clone_into());
    }
    let outside =
        matches!(&cloned, Err(e) if matches!(e.errno, Errno::EACCES | Errno::EAGAIN)) && cgroup.is_held_open();
    if outside {
        cloned = clone3(flags, None);
    }
    let cloned = cloned
        .hint_if(
            Errno::EOPNOTSUPP,
            "linux.cgroupsPath lies below a threaded cgroup, where only limits of cpu, cpuset and pids can be",
        )
        .hint_if(Errno::ENOSPC, "a limit on namespaces: see /proc/sys/user/max_*_namespaces and cgroup pids.max")
        .hint_if(Errno::EAGAIN, "a limit on processes: RLIMIT_NPROC, pids.max or /proc/sys/kernel/pid_max")
        .hint_if(Errno::EPERM, "new namespaces need CAP_SYS_ADMIN")
        .context("clone the container's first process")?;
    match (cloned, plan.shape) {
        (Clone::Parent(child), _) => Ok((child, !outside)),
        (Clone::Child, Shape::Direct) => init::run(plan, inherited, theirs, progress),
        (Clone::Child, Shape::Staged) => init::stage(plan, inherited, theirs, progress),
    }
}

/// Binds the socket through the state directory's descriptor: the path of a socket may have 107 bytes, that of the
/// directory more.
fn listen_for_start(dir: &StateDir) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket =
        call!("socket(AF_UNIX, SOCK_SEQPACKET)" => socket(AddressFamily::Unix, SockType::SeqPacket, flags, None))?;
    let path = procfs::path_of(dir.fd(), START_SOCKET);
    let address = UnixAddr::new(&path).context("start socket")?;
    call!("bind({path:?})" => bind(socket.as_raw_fd(), &address)).context("start socket")?;
    let backlog = Backlog::new(1).context("start socket")?;
    call!("listen({path:?})" => listen(&socket, backlog)).context("start socket")?;
    Ok(socket)
}

/// `linux.intelRdt` on this host.
struct Rdt<'a> {
    plan: &'a Resctrl,
    /// Where the file system is mounted.
    root: PathBuf,
    /// The directories that are not there yet, and will be the container's own.
    missing: Vec<PathBuf>,
}

impl<'a> Rdt<'a> {
    fn new(proc: &Proc, plan: &'a Resctrl) -> Result<Self> {
        let root = resctrl::mount_point(proc).context("linux.intelRdt")?;
        Ok(Self { plan, missing: resctrl::missing(&root, plan), root })
    }
}

/// The parent's side of the conversation with init.
struct Parent<'a> {
    plan: &'a Plan,
    host: &'a Host,
    dir: &'a StateDir,
    proc: &'a Proc,
    writers: &'a idmap::Writers,
    mapper: idmap::Mapper<'a>,
    cgroup: &'a Handle,
    interrupts: &'a Interrupts,
    progress: &'a Progress,
    rdt: Option<Rdt<'a>>,
    /// The network namespace that init is going to join, if it gets devices.
    network: Option<OwnedFd>,
    /// Some until the listener has been handed over, if init loads a filter that notifies before it is ready.
    supervisor: Option<Supervisor>,
}

impl Parent<'_> {
    /// Answers init until it is ready. A signal that ends the command is an error like any other, and clears up.
    /// Returns the terminal's master, and which limits are left to set.
    fn converse(
        &mut self,
        channel: &Channel,
        wishes: &Wishes,
        undo: &mut Undo,
    ) -> Result<(Option<OwnedFd>, Vec<usize>)> {
        let mut master = None;
        let mut mapped_late = false;
        let mut staged = self.plan.shape == Shape::Staged;
        loop {
            mark(Phase::WaitForInit);
            if staged && let Some(stager) = &undo.child {
                // Init would keep the channel open though nobody knows its pid. The stager is looked at first: what it
                // said before its end is seen then.
                let [_, spoken] = self.interrupts.wait_for([stager.pidfd.as_fd(), channel.fd()])?;
                if !spoken {
                    return Err(self.death(undo));
                }
            } else {
                self.interrupts.wait_for([channel.fd()])?;
            }
            let Some((message, fd)) = channel.receive()? else { return Err(self.death(undo)) };
            match message {
                Message::Cloned { pid } => {
                    let pidfd = fd.context("the stager sent no pidfd")?;
                    trace::process(Lane::Child, Pid::from_raw(pid));
                    let stager = undo.child.replace(Child { pid: Pid::from_raw(pid), pidfd });
                    if let Some(stager) = stager {
                        wait(stager.pidfd.as_fd(), true)?;
                    }
                    staged = false;
                    if mapped_late {
                        self.outside(undo)?;
                        channel.send(&Message::Go)?;
                    }
                }
                // Init may speak before the stager has said who it is.
                Message::NeedIdMap if staged => mapped_late = true,
                Message::NeedIdMap => {
                    self.outside(undo)?;
                    channel.send(&Message::Go)?;
                }
                Message::Idmap { mount } => {
                    let fd = fd.context("init sent no mount")?;
                    let fs = &self.plan.filesystem;
                    let map = match mount {
                        None => fs.root_idmap.as_ref(),
                        Some(i) => fs.mounts.get(i).and_then(|mount| mount.idmap.as_ref()),
                    };
                    self.mapper.apply(fd.as_fd(), map.context("init sent a mount that is not to be idmapped")?)?;
                    channel.send(&Message::Go)?;
                }
                Message::Console(name) => {
                    let fd = fd.context("init sent no terminal")?;
                    match &wishes.console {
                        Console::Socket(socket) => console::send_master(socket.as_fd(), fd.as_fd(), &name)?,
                        Console::Keep => master = Some(fd),
                        Console::None => {}
                    }
                }
                Message::Listener(number) => self.hand_over_listener(number, channel, wishes.watcher.as_ref(), undo)?,
                Message::MountsDone => {
                    undo.hooks_ran = true;
                    self.host_hooks(undo)?;
                    channel.send(&Message::Go)?;
                }
                Message::Ready { limits } => return Ok((master, limits)),
                Message::Warning(text) => crate::log::warn(&text),
                Message::Failed(failure) => return Err(failure.into()),
                other @ (Message::Go | Message::GoTraced | Message::Mount(_)) => bail!("init sent {other:?}"),
            }
        }
    }

    /// What needs the host's privileges is done here, by pid, while init waits.
    fn outside(&self, undo: &mut Undo) -> Result<()> {
        mark(Phase::OutsideWork);
        let Some(child) = &undo.child else { bail!("init is gone") };
        // Only if it is not in the cgroup yet is there a unit that waits for it.
        self.cgroup.entered(Some(child.pid)).context("linux.cgroupsPath")?;
        if let Some(map) = &self.plan.idmap {
            self.writers.write(self.proc, child.pid, map)?;
        }
        if let Some(rdt) = &self.rdt {
            resctrl::join(&rdt.root, rdt.plan, child.pid)?;
        }
        if self.plan.net_devices.is_empty() {
            return Ok(());
        }
        let there = match &self.network {
            Some(joined) => joined.try_clone().context("duplicate a namespace")?,
            None => self.proc.open_namespace(child.pid, Kind::Network)?,
        };
        let here = self.proc.open_namespace(Pid::this(), Kind::Network)?;
        undo.devices.insert(Devices::new(here, there)?).take(&self.plan.net_devices)
    }

    fn hand_over_listener(
        &mut self,
        number: i32,
        channel: &Channel,
        watcher: Option<&Watcher>,
        undo: &Undo,
    ) -> Result<()> {
        let Some(child) = &undo.child else { bail!("init is gone") };
        if let Some(watcher) = watcher {
            return watcher.take_listener(number, child.pid, child.pidfd.as_fd(), channel, self.progress.taken());
        }
        let Some(listener) = self.plan.seccomp.as_ref().and_then(|s| s.listener.as_ref()) else {
            bail!("init announced a seccomp listener that is not in the plan")
        };
        let pid = child.pid.as_raw();
        let state = hook_state(&self.plan.id, Status::Creating, pid, &self.plan.bundle, &self.plan.annotations);
        let supervisor = self.supervisor.take().context("init announced a second seccomp listener")?;
        channel.send(&Message::Go)?;
        let state = supervised_state(listener, pid, &state)?;
        supervisor.hand_over(child.pidfd.as_fd(), number, &state, self.progress.taken())
    }

    fn host_hooks(&self, undo: &Undo) -> Result<()> {
        let hooks = &self.plan.hooks;
        if hooks.prestart.is_empty() && hooks.create_runtime.is_empty() {
            return Ok(());
        }
        mark(Phase::HostHooks);
        let pid = undo.child.as_ref().map_or(0, |child| child.pid.as_raw());
        let state = hook_state(&self.plan.id, Status::Creating, pid, &self.plan.bundle, &self.plan.annotations);
        hook::run_all("prestart", &hooks.prestart, &state, Some(self.interrupts))?;
        hook::run_all("createRuntime", &hooks.create_runtime, &state, Some(self.interrupts))
    }

    /// The error for a child that is gone without a word.
    fn death(&self, undo: &mut Undo) -> anyhow::Error {
        let doing = self.progress.describe();
        let exit = undo.child.take().and_then(|child| {
            // The end of file can be seen a moment before the exit is.
            wait(child.pidfd.as_fd(), true).ok().flatten()
        });
        let how = match exit {
            Some(Exit::Signal(signal)) => {
                let name = Signal::try_from(signal).map_or_else(|_| signal.to_string(), |s| s.to_string());
                format!("was killed by {name}")
            }
            Some(Exit::Code(code)) => format!("exited with status {code}"),
            None => "died".to_string(),
        };
        let error: Result<()> = Err(anyhow!("the container's init {how} while {doing}"));
        let error = match exit {
            Some(Exit::Signal(libc::SIGKILL)) if self.cgroup.oom_kills().is_some_and(|n| n > 0) => {
                error.hint("the kernel's OOM killer did it: raise linux.resources.memory.limit")
            }
            Some(Exit::Signal(libc::SIGSYS)) => error.hint(
                "the seccomp profile kills a call that init needs after it is loaded; with noNewPrivileges it is loaded last",
            ),
            _ => error,
        };
        error.err().unwrap_or_else(|| anyhow!("init died"))
    }

    /// Init is ready: its limits, which could have hindered the set-up, and then the record of it, which is on disk before
    /// init is told to go on.
    fn record(&self, child: &Child, limits: &[usize], cgroups: Vec<PathBuf>) -> Result<State> {
        limit(self.plan, self.proc, child, limits)?;
        let mut state = state_of(self.plan, self.host, self.proc.identify(child.pid)?, cgroups);
        state.resctrl = self.rdt.as_ref().map(|rdt| rdt.missing.clone()).unwrap_or_default();
        self.dir.save_state(&state)?;
        Ok(state)
    }
}

/// The record of a container whose init is `init`.
pub(super) fn state_of(plan: &Plan, host: &Host, init: Identity, cgroups: Vec<PathBuf>) -> State {
    State {
        resctrl: Vec::new(),
        id: plan.id.clone(),
        oci_version: crate::spec::OCI_VERSION.into(),
        bundle: plan.bundle.clone(),
        rootfs: plan.filesystem.root.clone(),
        created: crate::time::rfc3339(crate::time::now()),
        annotations: plan.annotations.clone(),
        owner: host.euid,
        init,
        systemd: plan.cgroup.driver.unit().filter(|_| !cgroups.is_empty()).map(Remembered::of),
        cgroups,
        listener: plan.seccomp.as_ref().and_then(|seccomp| seccomp.listener.clone()),
        new_keyring: plan.new_keyring,
        private_pid_namespace: plan.namespaces.is_new(Kind::Pid),
        restored: false,
        poststart: plan.hooks.poststart.clone(),
        poststop: plan.hooks.poststop.clone(),
    }
}

/// Tells the receivers of `wishes` who init is.
pub(super) fn announce(child: &Child, wishes: &Wishes, written: &mut Option<PathBuf>) -> Result<()> {
    if let Some(socket) = &wishes.pidfd_socket {
        // runc's payload for a container's init.
        crate::sys::socket::send(socket.as_fd(), b"standard", Some(child.pidfd.as_fd())).context("--pidfd-socket")?;
    }
    if let Some(path) = &wishes.pid_file {
        write_pid_file(path, child.pid).with_context(|| format!("--pid-file {path:?}"))?;
        *written = Some(path.clone());
    }
    Ok(())
}

/// What the supervisor of a process gets with the listener (config-linux.md#containerprocessstate).
fn supervised_state(listener: &Listener, pid: i32, state: &str) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(&serde_json::json!({
        "ociVersion": crate::spec::OCI_VERSION,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": listener.metadata.as_deref().unwrap_or_default(),
        "state": serde_json::from_str::<serde_json::Value>(state)?,
    }))?)
}

/// Answers a process that is about to load a filter that notifies: its supervisor gets the listener.
pub fn hand_over(
    listener: &Listener,
    number: i32,
    pid: i32,
    state: &str,
    pidfd: BorrowedFd<'_>,
    channel: &Channel,
    taken: &SharedWord,
) -> Result<()> {
    let supervisor = Supervisor::connect(listener)?;
    channel.send(&Message::Go)?;
    supervisor.hand_over(pidfd, number, &supervised_state(listener, pid, state)?, taken)
}

/// What only the host's privileges can do to a process that is ready for its program: here, because the limits could have
/// hindered the set-up.
///
/// `limits`: those of `process.rlimits` that it could not set itself.
pub fn limit(plan: &Plan, proc: &Proc, child: &Child, limits: &[usize]) -> Result<()> {
    let process = &plan.process;
    // Of an ordinary user's process, /proc belongs to root by now: it has set its score itself.
    if let Some(score) = process.oom_score_adj.filter(|_| !plan.ordinary_user) {
        proc.write(&format!("{}/oom_score_adj", child.pid), &score.to_string())
            .hint_if(Errno::EACCES, "lowering it below the caller's own needs CAP_SYS_RESOURCE")
            .context("process.oomScoreAdj")?;
    }
    for (i, limit) in process.rlimits.iter().enumerate().filter(|(i, _)| limits.contains(i)) {
        prlimit(child.pid, limit.resource, limit.soft, limit.hard)
            .hint_if(Errno::EPERM, "raising a hard limit needs CAP_SYS_RESOURCE")
            .with_context(|| format!("process.rlimits[{i}] {}", limit.name))?;
    }
    scheduling::set_from_outside(child.pid, &process.scheduling)
}

/// The decimal pid without a newline (go-runc parses the whole file), in one rename: a reader never sees half of it.
pub fn write_pid_file(path: &Path, pid: Pid) -> Result<()> {
    let name = path.file_name().context("names no file")?;
    let temporary = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    // Of a runtime that was killed and had the same pid.
    drop(std::fs::remove_file(&temporary));
    let open = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o666)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(&temporary);
    let written = open?.write_all(pid.to_string().as_bytes()).and_then(|()| std::fs::rename(&temporary, path));
    written.inspect_err(|_| {
        // That error is the one to report.
        drop(std::fs::remove_file(&temporary));
    })?;
    Ok(())
}

/// What a failing `create` has to take back.
#[derive(Default)]
pub(super) struct Undo {
    pub(super) child: Option<Child>,
    pub(super) cgroups: Vec<PathBuf>,
    pub(super) systemd: Option<Remembered>,
    pub(super) resctrl: Vec<PathBuf>,
    pub(super) devices: Option<Devices>,
    pub(super) hooks_ran: bool,
    pub(super) pid_file: Option<PathBuf>,
}

impl Undo {
    pub(super) fn unwind(mut self, plan: &Plan, dir: &StateDir, interrupts: &Interrupts) {
        if let Some(devices) = &mut self.devices {
            // Before the network namespace goes, and with it what is virtual in it.
            devices.give_back();
        }
        if let Some(child) = &self.child {
            // Dead already is as good.
            drop(pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL));
            drop(wait(child.pidfd.as_fd(), true));
        }
        if let Some(path) = &self.pid_file {
            // It names a process that is gone.
            drop(std::fs::remove_file(path));
        }
        let cleared = destroy::clear_cgroups(&self.cgroups, self.systemd.as_ref())
            .and_then(|()| resctrl::remove(&self.resctrl))
            .and_then(|()| dir.remove());
        if let Err(e) = cleared {
            crate::log::warn(&format!("clearing up after the failure: {}", crate::error::one_line(&e)));
        }
        if self.hooks_ran {
            let state = hook_state(&plan.id, Status::Stopped, 0, &plan.bundle, &plan.annotations);
            destroy::poststop(&plan.hooks.poststop, &state, Some(interrupts));
        }
    }
}
