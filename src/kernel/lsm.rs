// SPDX-License-Identifier: Apache-2.0
//! Security labels for the next execve: AppArmor (apparmor(7)) and SELinux. They are written through the host's procfs: a
//! /proc of the container's making would swallow them (CVE-2019-16884).

use anyhow::{Context, Result};
use nix::errno::Errno;

use crate::error::{ResultExt, errno_of};
use crate::kernel::procfs::Proc;
use crate::plan::process::Process;

/// Sets the labels that the process will have from its execve on.
pub fn set_exec_labels(proc: &Proc, process: &Process) -> Result<()> {
    if let Some(profile) = &process.apparmor_profile {
        let text = format!("exec {profile}");
        proc.write_own("attr/apparmor/exec", &text)
            .or_else(|e| match errno_of(&e) {
                // Before Linux 5.8 AppArmor had no directory of its own.
                Some(Errno::ENOENT) => proc.write_own("attr/exec", &text),
                _ => Err(e),
            })
            .hint_if(Errno::ENOENT, "the profile is not loaded: see aa-status(8)")
            .hint_if(Errno::EINVAL, "AppArmor is not enabled on this host")
            .with_context(|| format!("process.apparmorProfile {profile:?}"))?;
    }
    if let Some(label) = &process.selinux_label {
        proc.write_own("attr/exec", label)
            .hint_if(Errno::EINVAL, "SELinux is not enabled on this host, or its policy does not know the label")
            .with_context(|| format!("process.selinuxLabel {label:?}"))?;
    }
    Ok(())
}
