// SPDX-License-Identifier: Apache-2.0
//! `orlop create`.

use anyhow::{Context, Result, anyhow};

use crate::cli::{Create, Receivers};
use crate::command::{bundle, make_plan, require_root};
use crate::error::ResultExt;
use crate::host::Host;
use crate::kernel::console;
use crate::kernel::signal::Interrupts;
use crate::plan::{Plan, Request};
use crate::process::create::{Console, Created, Wishes};
use crate::process::watch::Watcher;
use crate::spec::{self, Config};
use crate::state::{Root, check_id};

/// Creates a container and leaves it in the state `created`.
pub fn create(root: &Root, args: &Create) -> Result<u8> {
    make(root, args, true, &Interrupts::block()?, &|_, _, _| Ok(None)).map(|_| 0)
}

/// Puts a watched filter in the place of a plan's and gives its watcher.
pub type Watch<'a> = dyn Fn(&mut Plan, &Config, &Request) -> Result<Option<Watcher>> + 'a;

/// Creates a container; `detached`: nobody stays to relay its terminal.
pub fn make(root: &Root, args: &Create, detached: bool, interrupts: &Interrupts, watch: &Watch<'_>) -> Result<Created> {
    let id = args.id.id.as_str();
    check_id(id)?;
    let made = || -> Result<Created> {
        let bundle = bundle(args.bundle.as_deref())?;
        let config = spec::load(&bundle)?;
        let host = Host::detect()?;
        require_root(&host)?;
        let request = Request {
            id: id.into(),
            bundle,
            no_pivot: args.no_pivot,
            no_new_keyring: args.no_new_keyring,
            preserve_fds: args.preserve_fds,
            ..Request::default()
        };
        let mut plan = make_plan(&config, &host, &request)?;
        let mut wishes = wishes(&plan, &args.receivers, detached)?;
        wishes.watcher = watch(&mut plan, &config, &request)?;
        let reserved = root.create(id)?;
        crate::process::create::create(&plan, &host, &config.bytes, reserved, wishes, interrupts)
    };
    made().with_context(|| format!("create {id}"))
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
    Ok(Wishes { console, pidfd_socket, pid_file, watcher: None })
}

/// Whether the descriptors of `--preserve-fds` are there. To be called before this process opens anything that lasts: what
/// took the number of a descriptor that the caller did not pass would be passed in its place.
pub fn check_preserved(count: u32) -> Result<()> {
    for i in 3..3 + u64::from(count) {
        let open = i32::try_from(i).is_ok_and(crate::sys::fd::is_open);
        if !open {
            return Err(anyhow!(
                "--preserve-fds: unable to stat preserved-fd {} (of {count}): descriptor {i} is not open",
                i - 3
            ));
        }
    }
    Ok(())
}
