// SPDX-License-Identifier: Apache-2.0
//! `orlop create`.

use anyhow::{Context, Result, anyhow};

use crate::cli::{Create, Receivers};
use crate::command::policy::{Governed, govern, keep};
use crate::command::{bundle, make_plan};
use crate::error::ResultExt;
use crate::host::Host;
use crate::kernel::signal::Interrupts;
use crate::kernel::{console, systemd};
use crate::lease;
use crate::plan::{Plan, Request};
use crate::process::create::{Console, Created, Wishes};
use crate::process::notify;
use crate::process::watch::Watcher;
use crate::spec::{self, Config};
use crate::state::{Root, check_id};
use crate::trace::{Phase, mark};

/// Creates a container and leaves it in the state `created`.
pub fn create(root: &Root, args: &Create, tolerate_cgroups: Option<bool>) -> Result<u8> {
    let attended = Attended { detached: true, waits: true, watch: &|_, _, _| Ok(None) };
    make(root, args, &attended, tolerate_cgroups, &Interrupts::block()?).map(|_| 0)
}

/// Puts a watched filter in the place of a plan's and gives its watcher.
pub type Watch<'a> = dyn Fn(&mut Plan, &Config, &Request) -> Result<Option<Watcher>> + 'a;

/// Who stays with a container.
pub struct Attended<'a> {
    /// Nobody stays to relay its terminal.
    pub detached: bool,
    /// It is started by another command, some time.
    pub waits: bool,
    pub watch: &'a Watch<'a>,
}

/// Creates a container. `tolerate_cgroups`: see [`Request`].
pub fn make(
    root: &Root,
    args: &Create,
    attended: &Attended<'_>,
    tolerate_cgroups: Option<bool>,
    interrupts: &Interrupts,
) -> Result<Created> {
    let id = args.id.id.as_str();
    check_id(id)?;
    let made = || -> Result<Created> {
        let bundle = bundle(args.bundle.as_deref())?;
        mark(Phase::Host);
        let host = Host::detect()?;
        mark(Phase::Config);
        let config = spec::load(&bundle)?;
        mark(Phase::Policy);
        let event = Some(("create", id));
        let governed = govern(args.policy.as_deref(), config, &bundle, args.userns.is_some(), event)?;
        let lease = args.userns.or(governed.record.as_ref().and_then(|record| record.lease));
        let request = Request {
            id: id.into(),
            bundle,
            no_pivot: args.no_pivot,
            no_new_keyring: args.no_new_keyring,
            preserve_fds: args.preserve_fds,
            listen_fds: listen_fds(),
            no_cgroup: args.no_cgroup,
            idmap_all: lease.is_some(),
            tolerate_cgroups,
            systemd: if args.systemd_cgroup { Some(systemd::manager().context("--systemd-cgroup")?) } else { None },
            extra_seccomp: governed.stack.clone(),
            extra_seccomp_names: governed.record.as_ref().map(|r| r.stack_names.clone()).unwrap_or_default(),
        };
        if lease.is_some() || notify::wanted().is_some() {
            return amended(root, args, attended, &request, &host, &governed, lease, interrupts);
        }
        let config = &governed.config;
        let (plan, wishes) = prepare(args, &request, config, &host, attended)?;
        mark(Phase::StateDirectory);
        let reserved = root.create(id)?;
        keep(&reserved.0, governed.record.as_ref(), &config.bytes).inspect_err(|_| {
            // The directory is all there is; the error that is reported is the one that matters.
            drop(reserved.0.remove());
        })?;
        crate::process::create::create(&plan, &host, &config.bytes, reserved, wishes, interrupts)
    };
    made().with_context(|| format!("create {id}"))
}

/// Everything that is checked before anything is made.
fn prepare(
    args: &Create,
    request: &Request,
    config: &Config,
    host: &Host,
    attended: &Attended<'_>,
) -> Result<(Plan, Wishes)> {
    mark(Phase::Plan);
    let mut plan = make_plan(config, host, request)?;
    let mut wishes = wishes(&plan, &args.receivers, attended.detached)?;
    wishes.waits = attended.waits;
    wishes.watcher = (attended.watch)(&mut plan, config, request)?;
    Ok((plan, wishes))
}

/// A container that has more than its config says: the ids of a lease, for `--userns=auto` or a policy that wants the like,
/// or a NOTIFY_SOCKET. What is added is in the container's directory, so that comes first. The config that is planned, and
/// kept for `exec`, is the one with the addition.
#[allow(clippy::too_many_arguments, reason = "all of `make`, and the size")]
fn amended(
    root: &Root,
    args: &Create,
    attended: &Attended<'_>,
    request: &Request,
    host: &Host,
    governed: &Governed,
    lease: Option<u32>,
    interrupts: &Interrupts,
) -> Result<Created> {
    let config = &governed.config;
    if lease.is_some() {
        lease::check(&config.spec).context("--userns=auto")?;
        if host.euid != 0 {
            return Err(anyhow!("--userns=auto needs root"))
                .hint("the kernel lets only the host's root idmap a root filesystem; map ids in the config instead");
        }
    }
    let (dir, lock) = root.create(&args.id.id)?;
    let prepared = || -> Result<(Config, Plan, Wishes)> {
        let mut bytes = config.bytes.clone();
        if let Some(size) = lease {
            let lease = lease::take(root, &dir, size).context("--userns=auto")?;
            bytes = lease::add_to(&bytes, &lease)?;
        }
        if notify::wanted().is_some() {
            bytes = notify::add_to(&bytes, &dir.make_notify()?)?;
        }
        let config = spec::parse(bytes)?;
        keep(&dir, governed.record.as_ref(), &config.bytes)?;
        let (plan, wishes) = prepare(args, request, &config, host, attended)?;
        Ok((config, plan, wishes))
    };
    let (config, plan, wishes) = prepared().inspect_err(|_| {
        // The directory and the lease are all there is; the error that is reported is the one that matters.
        drop(dir.remove());
    })?;
    crate::process::create::create(&plan, host, &config.bytes, (dir, lock), wishes, interrupts)
}

/// Receivers are connected before anything is made: one that is not there is an early error. `detached`: nobody stays to
/// relay the terminal.
pub fn wishes(plan: &Plan, args: &Receivers, detached: bool) -> Result<Wishes> {
    let console = match (&args.console_socket, plan.process.terminal, detached) {
        (Some(path), true, true) => {
            Console::Socket(console::connect(path).with_context(|| format!("--console-socket {path:?}"))?)
        }
        (Some(_), ..) => {
            return Err(anyhow!("cannot use console socket if orlop will not detach or allocate tty"));
        }
        (None, true, true) => {
            let error: Result<Wishes> =
                Err(anyhow!("cannot allocate tty if orlop will detach without setting console socket"));
            return error.hint("process.terminal is true: pass --console-socket PATH, or set it to false");
        }
        (None, true, false) => Console::Keep,
        (None, false, _) => Console::None,
    };
    let pidfd_socket = match &args.pidfd_socket {
        Some(path) => Some(console::connect(path).with_context(|| format!("--pidfd-socket {path:?}"))?),
        None => None,
    };
    let pid_file = args.pid_file.as_deref().map(std::path::absolute).transpose().context("--pid-file")?;
    Ok(Wishes { console, pidfd_socket, pid_file, watcher: None, waits: false })
}

/// How many descriptors from 3 on the caller passes by sd_listen_fds(3): those that are meant for this very process.
pub fn listen_fds() -> u32 {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    number("LISTEN_FDS").filter(|_| number("LISTEN_PID") == Some(std::process::id())).unwrap_or(0)
}

/// Whether the descriptors of `--preserve-fds` and of the socket activation before them are there. To be called before this process opens anything that lasts: what
/// took the number of a descriptor that the caller did not pass would be passed in its place.
pub fn check_preserved(count: u32) -> Result<()> {
    let listen = u64::from(listen_fds());
    for i in 3..3 + listen + u64::from(count) {
        let open = i32::try_from(i).is_ok_and(crate::sys::fd::is_open);
        if !open && i < 3 + listen {
            return Err(anyhow!("LISTEN_FDS={listen}: descriptor {i} is not open"));
        }
        if !open {
            return Err(anyhow!(
                "--preserve-fds: unable to stat preserved-fd {} (of {count}): descriptor {i} is not open",
                i - 3 - listen
            ));
        }
    }
    Ok(())
}
