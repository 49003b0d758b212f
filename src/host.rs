// SPDX-License-Identifier: Apache-2.0
//! What the host is and can do, asked once and passed to the planner as plain data.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::kernel::procfs::Proc;

/// Facts about the host and about the process that runs orlop.
#[derive(Debug, Clone, Serialize)]
pub struct Host {
    /// Effective user id of the caller, as seen in its own user namespace.
    pub euid: u32,
    /// Effective group id, likewise.
    pub egid: u32,
    /// Whether the caller is in the initial user namespace (its uid_map maps everything onto itself).
    pub initial_user_namespace: bool,
    /// Whether the caller may clone the mounts that it sees: CAP_SYS_ADMIN in the user namespace that owns its mount
    /// namespace. Otherwise only a child in a new mount namespace can.
    pub may_clone_mounts: bool,
    /// Whether the caller may change supplementary groups: setgroups(2) can be denied in a user namespace.
    pub may_set_groups: bool,
    /// Capabilities that the caller may pass on: its permitted set, bit N for capability number N (capabilities(7)).
    pub permitted: u64,
    /// Capabilities that may enter a bounding set: the caller's own bounding set.
    pub bounding: u64,
    /// The signals that this process ignores, bit N-1 for signal N: execve hands them on (signal(7)).
    pub ignored_signals: u64,
    /// How cgroups are mounted on /sys/fs/cgroup.
    pub cgroups: CgroupLayout,
}

/// How the host presents cgroups(7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum CgroupLayout {
    /// No cgroup file system at /sys/fs/cgroup.
    None,
    /// cgroup v2 alone.
    Unified(Hierarchy),
    /// cgroup v1, one hierarchy or more; in the hybrid layout also v2, without the controllers that v1 uses.
    Legacy { hierarchies: Vec<Hierarchy>, unified: Option<Hierarchy> },
}

/// A mounted cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hierarchy {
    /// Where it is mounted, e.g. `/sys/fs/cgroup/memory`.
    pub mount_point: PathBuf,
    /// v1: the controllers of the mount (`["cpu", "cpuacct"]`), or `["name=systemd"]` for a named hierarchy.
    /// v2: the contents of the root's `cgroup.controllers`.
    pub controllers: Vec<String>,
    /// The cgroup of the calling process in it, relative to the mount point, `/` for its root.
    pub own: PathBuf,
}

impl Host {
    /// Asks the kernel.
    pub fn detect() -> Result<Self> {
        let proc = Proc::open()?;
        let own = nix::unistd::Pid::this();
        let status = proc.read(&format!("{own}/status"))?;
        let set = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap_or_default();
            u64::from_str_radix(value, 16).with_context(|| format!("/proc/{own}/status has no {name}"))
        };
        let map = proc.read(&format!("{own}/uid_map"))?;
        let initial_user_namespace = map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
        let euid = nix::unistd::geteuid().as_raw();
        Ok(Self {
            euid,
            egid: nix::unistd::getegid().as_raw(),
            initial_user_namespace,
            may_set_groups: euid == 0
                && (initial_user_namespace || proc.read(&format!("{own}/setgroups"))?.trim() == "allow"),
            // Root of a user namespace may or may not have a mount namespace that belongs to it: the kernel knows. All of
            // it, as it does not take apart what it has locked together.
            may_clone_mounts: euid == 0
                && (initial_user_namespace || crate::sys::mount::clone_tree(nix::fcntl::AT_FDCWD, c"/", true).is_ok()),
            permitted: set("CapPrm:")?,
            bounding: set("CapBnd:")?,
            ignored_signals: set("SigIgn:")?,
            cgroups: crate::kernel::cgroup::detect()?,
        })
    }
}
