// SPDX-License-Identifier: Apache-2.0
//! namespaces(7): opening those to be joined, entering them, and what a fresh one needs before it is of use.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::error::ResultExt;
use crate::kernel::procfs::Proc;
use crate::plan::namespaces::{Kind, Namespaces};
use crate::sys::call;
use crate::sys::clone::setns;

/// A namespace to be joined, opened while the host's paths are in reach.
#[derive(Debug)]
pub struct Joined {
    pub kind: Kind,
    pub fd: OwnedFd,
    path: String,
}

/// Opens every namespace of `linux.namespaces` that has a path. The kind is checked by setns(2) itself.
pub fn open_joined(namespaces: &Namespaces) -> Result<Vec<Joined>> {
    namespaces
        .joined()
        .map(|(kind, path)| {
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
            let fd = call!("open({path:?})" => open(path, flags, Mode::empty()))
                .with_context(|| format!("linux.namespaces \"{}\"", kind.name()))?;
            Ok(Joined { kind, fd, path: path.display().to_string() })
        })
        .collect()
}

impl Joined {
    /// Whether it is the caller's own namespace, by another name.
    pub fn is_the_callers(&self) -> Result<bool> {
        let path = format!("/proc/self/ns/{}", self.kind.file());
        let own = call!("stat({path:?})" => nix::sys::stat::stat(path.as_str()))?;
        let this = call!("fstat({:?})", self.path => nix::sys::stat::fstat(&self.fd))?;
        Ok((own.st_dev, own.st_ino) == (this.st_dev, this.st_ino))
    }

    /// setns(2); for a PID namespace it takes effect on the next child.
    pub fn enter(&self) -> Result<()> {
        setns(self.fd.as_fd(), self.kind.flag())
            .hint_if(
                Errno::EINVAL,
                format!("{} is no {} namespace, or this process is in it already", self.path, self.kind.name()),
            )
            .with_context(|| format!("join the {} namespace {}", self.kind.name(), self.path))
    }
}

/// Joins all but the user and PID namespace: with the host's capabilities, which are gone once a user namespace has been
/// entered.
pub fn join_others(joined: &[Joined]) -> Result<()> {
    joined.iter().filter(|j| !matches!(j.kind, Kind::User | Kind::Pid)).try_for_each(Joined::enter)
}

/// Joins the PID namespace, if one is to be joined.
pub fn join_pid(joined: &[Joined]) -> Result<()> {
    joined.iter().filter(|j| j.kind == Kind::Pid).try_for_each(Joined::enter)
}

/// Joins the user namespace, if one is to be joined, without the caller's groups: inside, setgroups(2) may be denied.
pub fn join_user(joined: &[Joined], keeps_groups: bool) -> Result<()> {
    let Some(user) = joined.iter().find(|j| j.kind == Kind::User) else { return Ok(()) };
    crate::kernel::capability::setgroups_if_allowed(&[], keeps_groups)?;
    user.enter()
}

/// A new cgroup namespace, whose root is the cgroup the caller sits in (cgroup_namespaces(7)).
pub fn unshare_cgroup() -> Result<()> {
    call!("unshare(CLONE_NEWCGROUP)" => nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP)).map_err(Into::into)
}

/// Makes a time namespace for the children of the caller and sets its clocks, which is possible only until a process is
/// in it (time_namespaces(7)).
pub fn unshare_time(namespaces: &Namespaces, proc: &Proc) -> Result<()> {
    crate::sys::clone::unshare(Kind::Time.flag())?;
    let mut lines = String::new();
    for (clock, (seconds, nanoseconds)) in &namespaces.time_offsets {
        lines.push_str(&format!("{clock} {seconds} {nanoseconds}\n"));
    }
    proc.write(&format!("{}/timens_offsets", Pid::this()), &lines)
        .hint_if(Errno::ERANGE, "a clock with its offset must not become negative nor reach half of its range")
        .context("linux.timeOffsets")
}

/// Brings up the loopback device of a new network namespace.
pub fn loopback_up() -> Result<()> {
    crate::sys::net::loopback_up().context("bring up lo in the new network namespace")
}

/// Host name and NIS domain name of the container's UTS namespace (uts_namespaces(7)).
pub fn set_names(hostname: Option<&str>, domainname: Option<&str>) -> Result<()> {
    if let Some(name) = hostname {
        call!("sethostname({name:?})" => nix::unistd::sethostname(name)).context("hostname")?;
    }
    if let Some(name) = domainname {
        crate::sys::net::setdomainname(name).context("domainname")?;
    }
    Ok(())
}
