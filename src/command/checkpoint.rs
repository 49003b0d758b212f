// SPDX-License-Identifier: Apache-2.0
//! `orlop checkpoint` and `orlop restore`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use crate::cli::{Checkpoint, CriuFlags, EmptyNamespace, Restore};
use crate::command::create::wishes;
use crate::command::policy::govern;
use crate::command::run::remove;
use crate::command::{bundle, make_plan};
use crate::error::ResultExt;
use crate::host::Host;
use crate::kernel::criu::{Opt, Options};
use crate::kernel::procfs::Proc;
use crate::kernel::signal::Interrupts;
use crate::plan::{Plan, Request};
use crate::process::checkpoint::{Images, Order};
use crate::process::destroy::destroy;
use crate::process::{foreground, restore as restoring, start};
use crate::spec;
use crate::state::{Root, Status, check_id};
use crate::sys::process::set_child_subreaper;

/// Writes a container to a directory and, unless it is to go on, removes it.
pub fn checkpoint(root: &Root, args: &Checkpoint) -> Result<u8> {
    write(root, args).with_context(|| format!("checkpoint {}", args.id.id))?;
    Ok(0)
}

fn write(root: &Root, args: &Checkpoint) -> Result<()> {
    let (dir, _lock) = start::open_locked(root, &args.id.id)?;
    let state = dir.complete_state()?;
    let proc = Proc::open()?;
    match state.status(&proc)? {
        Status::Running | Status::Paused => {}
        status => bail!("Container cannot be checkpointed in {} state", status.word()),
    }
    let host = Host::detect()?;
    let config = spec::parse(dir.config()?)?;
    let (plan, problems) = Plan::from_spec(&config.spec, &host, &state.request());
    let plan = plan.ok_or(problems)?;
    if host.euid != 0 {
        crate::log::warn("checkpoint by an ordinary user is up to CRIU, which needs CAP_CHECKPOINT_RESTORE");
    }
    let image_path = image_path(&args.criu)?;
    let images = Images::open(&image_path, work_path(&args.criu)?.as_deref(), true, "dump.log")?;
    let mut options = Options::default();
    common(&args.criu, &mut options);
    options.switch(Opt::LeaveRunning, args.leave_running);
    options.switch(Opt::TcpSkipInFlight, args.tcp_skip_in_flight);
    options.switch(Opt::LinkRemap, args.link_remap);
    options.switch(Opt::TrackMemory, args.pre_dump || args.parent_path.is_some());
    if let Some(parent) = &args.parent_path {
        options.text(Opt::ParentImage, parent_path(&image_path, parent)?);
    }
    if let Some(server) = &args.page_server {
        let (address, port) = page_server(server)?;
        options.text_and_number(Opt::PageServer, address, port.into());
    }
    let order =
        Order { images, options, pre_dump: args.pre_dump, lazy_pages: args.criu.lazy_pages, status_fd: args.status_fd };
    let interrupts = Interrupts::block()?;
    crate::process::checkpoint::checkpoint(&plan, &state, &proc, order)?;
    if args.leave_running || args.pre_dump {
        return Ok(());
    }
    destroy(&dir, Some(&state), None, Some(&interrupts))
}

/// Makes a container from a directory that `checkpoint` has written. In the foreground the exit status is the program's.
pub fn restore(root: &Root, args: &Restore, tolerate_cgroups: Option<bool>) -> Result<u8> {
    make(root, args, tolerate_cgroups).with_context(|| format!("restore {}", args.id.id))
}

fn make(root: &Root, args: &Restore, tolerate_cgroups: Option<bool>) -> Result<u8> {
    let id = args.id.id.as_str();
    check_id(id)?;
    if !args.detach && !args.no_subreaper {
        set_child_subreaper()?;
    }
    let interrupts = Interrupts::block()?;
    let bundle = bundle(args.bundle.as_deref())?;
    let host = Host::detect()?;
    let governed = govern(args.policy.as_deref(), spec::load(&bundle)?, &bundle, false, Some(("restore", id)))?;
    if governed.record.is_some() {
        let refused: Result<u8> = Err(anyhow!("a container under a policy cannot be restored"));
        return refused.hint("what a restored process may do is in the image, where no policy can see or change it");
    }
    let config = governed.config;
    let request = Request {
        id: id.into(),
        bundle,
        no_pivot: args.no_pivot,
        no_new_keyring: args.no_new_keyring,
        tolerate_cgroups,
        ..Request::default()
    };
    let plan = make_plan(&config, &host, &request)?;
    let image_path = image_path(&args.criu)?;
    let images = Images::open(&image_path, work_path(&args.criu)?.as_deref(), false, "restore.log")?;
    let mut options = Options::default();
    common(&args.criu, &mut options);
    options.switch(Opt::TcpClose, args.tcp_close);
    for (option, value) in [(Opt::LsmProfile, &args.lsm_profile), (Opt::LsmMountContext, &args.lsm_mount_context)] {
        if let Some(value) = value {
            options.text(option, value);
        }
    }
    let wishes = wishes(&plan, &args.receivers, args.detach)?;
    let signals = foreground::Signals::block(!args.detach)?;
    let reserved = root.create(id)?;
    let order = restoring::Order { images, options };
    let restored = restoring::restore(&plan, &host, &config.bytes, reserved, &wishes, order, &interrupts)?;
    if args.detach {
        return Ok(0);
    }
    let exit = foreground::wait(&restored.child, restored.master.as_ref(), &signals, None)?;
    drop(signals);
    remove(&restored, &interrupts)?;
    Ok(exit.status())
}

/// The flags of both.
fn common(flags: &CriuFlags, options: &mut Options) {
    options.switch(Opt::TcpEstablished, flags.tcp_established);
    options.switch(Opt::ExtUnixSk, flags.ext_unix_sk);
    options.switch(Opt::ShellJob, flags.shell_job);
    options.switch(Opt::FileLocks, flags.file_locks);
    options.switch(Opt::LazyPages, flags.lazy_pages);
    options.switch(Opt::AutoDedup, flags.auto_dedup);
    if let Some(mode) = flags.manage_cgroups_mode {
        options.number(Opt::ManageCgroupsMode, mode as i64);
    }
    if let Some(lock) = flags.network_lock {
        options.number(Opt::NetworkLock, lock as i64);
    }
    if flags.empty_ns.contains(&EmptyNamespace::Network) {
        options.number(Opt::EmptyNamespaces, libc::CLONE_NEWNET.into());
    }
}

fn image_path(flags: &CriuFlags) -> Result<PathBuf> {
    let path = flags.image_path.as_deref().unwrap_or(Path::new("checkpoint"));
    std::path::absolute(path).with_context(|| format!("--image-path {path:?}"))
}

fn work_path(flags: &CriuFlags) -> Result<Option<PathBuf>> {
    flags.work_path.as_deref().map(std::path::absolute).transpose().context("--work-path")
}

/// CRIU wants the parent relative to the images.
fn parent_path<'a>(images: &Path, parent: &'a Path) -> Result<&'a str> {
    if parent.is_absolute() {
        bail!("--parent-path must be relative to --image-path, is {parent:?}");
    }
    let meant = images.join(parent);
    if !meant.is_dir() {
        bail!("--parent-path {parent:?}: {meant:?} is not a directory");
    }
    parent.to_str().with_context(|| format!("--parent-path {parent:?} is not UTF-8"))
}

fn page_server(text: &str) -> Result<(&str, u16)> {
    let parts = text.rsplit_once(':').and_then(|(address, port)| Some((address, port.parse().ok()?)));
    parts
        .filter(|(address, _)| !address.is_empty())
        .with_context(|| format!("--page-server {text:?}: expected ADDRESS:PORT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_server_has_an_address_and_a_port() {
        assert_eq!(page_server("127.0.0.1:27").unwrap(), ("127.0.0.1", 27));
        assert_eq!(page_server("::1:27").unwrap(), ("::1", 27));
        for bad in ["", "a", "a:", ":1", "a:65536", "a:x"] {
            assert!(page_server(bad).is_err(), "{bad}");
        }
    }
}
