// SPDX-License-Identifier: Apache-2.0
//! Writing the maps of a new user namespace, from outside, while its first process waits (user_namespaces(7)).

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::unistd::Pid;

use crate::error::ResultExt;
use crate::kernel::capability::setgroups_if_allowed;
use crate::kernel::procfs::Proc;
use crate::plan::idmap::{IdMap, render};
use crate::sys::process::{setgid, setuid};

/// Writes gid_map and uid_map of `pid`. `setgroups` stays allowed: the writer has CAP_SETGID on the host.
pub fn write(proc: &Proc, pid: Pid, map: &IdMap) -> Result<()> {
    for (file, name, ranges) in [("gid_map", "gidMappings", &map.gid), ("uid_map", "uidMappings", &map.uid)] {
        proc.write(&format!("{pid}/{file}"), &render(ranges))
            .hint_if(Errno::EPERM, "the caller needs CAP_SETUID and CAP_SETGID over every host id of the map")
            .with_context(|| format!("linux.{name}"))?;
    }
    Ok(())
}

/// Takes id 0 of the user namespace, so that what init makes belongs to the container's root and not to nobody.
pub fn become_root() -> Result<()> {
    setgroups_if_allowed(&[]).context("become root of the user namespace")?;
    setgid(0)
        .and_then(|()| setuid(0))
        .hint_if(Errno::EINVAL, "linux.uidMappings and linux.gidMappings must map id 0 of the container")
        .context("become root of the user namespace")
}
