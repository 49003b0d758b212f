// SPDX-License-Identifier: Apache-2.0
//! Credentials of the container's process, in the order that capabilities(7) forces.

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::unistd::{getresgid, getresuid};

use crate::error::ResultExt;
use crate::plan::capabilities::{Set, Sets, name};
use crate::plan::process::Process;
use crate::sys::process::{
    CapabilitySets, ambient_clear, ambient_has, ambient_raise, bounding_drop, bounding_has, capget, capset, getgroups,
    set_keep_capabilities, setgid, setgroups, setuid,
};

/// Removes from the bounding set whatever the container may not have, up to the kernel's last capability and not only
/// the last one known here. Needs CAP_SETPCAP, so it comes before the change of user.
pub fn drop_bounding(keep: Set) -> Result<()> {
    for number in 0..64 {
        if keep.0 >> number & 1 == 1 {
            continue;
        }
        match bounding_drop(number) {
            Ok(()) => {}
            Err(e) if e.errno == Errno::EINVAL => return Ok(()), // beyond the kernel's last capability
            Err(e) => return Err(e).context(format!("drop {} from the bounding set", name(number))),
        }
    }
    Ok(())
}

/// Becomes the user of the process and takes exactly the capabilities of its config: groups, gid, uid while the
/// capabilities are there, then the three sets at once, then ambient, which needs permitted and inheritable.
pub fn become_user(process: &Process) -> Result<()> {
    set_keep_capabilities(true)?;
    setgroups_if_allowed(&process.additional_gids, process.keeps_groups).context("process.user.additionalGids")?;
    setgid(process.gid)
        .hint_if(Errno::EINVAL, "the gid has no mapping in the user namespace")
        .context("process.user.gid")?;
    setuid(process.uid)
        .hint_if(Errno::EINVAL, "the uid has no mapping in the user namespace")
        .context("process.user.uid")?;
    set_keep_capabilities(false)?;
    let sets = &process.capabilities;
    capset(CapabilitySets {
        effective: sets.effective.0,
        permitted: sets.permitted.0,
        inheritable: sets.inheritable.0,
    })
    .context("process.capabilities")?;
    ambient_clear()?;
    for number in sets.ambient.numbers() {
        ambient_raise(number).with_context(|| format!("process.capabilities.ambient: {}", name(number)))?;
    }
    Ok(())
}

/// Sets the supplementary groups. A joined user namespace may deny setgroups(2); that is a fault only if there are groups
/// to set, or to drop.
///
/// `keep`: nor is it if the caller could not drop his groups in the first place.
pub fn setgroups_if_allowed(groups: &[u32], keep: bool) -> Result<()> {
    let none_to_drop = || keep || getgroups().is_ok_and(|now| now.is_empty());
    match setgroups(groups) {
        Err(e) if e.errno == Errno::EPERM && groups.is_empty() && none_to_drop() => Ok(()),
        result => Ok(result?),
    }
}

/// Reads everything back and compares. `filtered`: a seccomp filter is in force already and may deny the questions,
/// which then go unanswered; the sets were applied all the same.
pub fn verify(process: &Process, filtered: bool) -> Result<()> {
    let unanswered = |errno: Errno| filtered && matches!(errno, Errno::EPERM | Errno::EACCES | Errno::ENOSYS);
    let Sets { bounding, effective, permitted, inheritable, ambient } = process.capabilities;
    match capget() {
        Ok(now) => {
            let want = CapabilitySets { effective: effective.0, permitted: permitted.0, inheritable: inheritable.0 };
            if now != want {
                bail!("process.capabilities: the kernel reports {now:x?} instead of {want:x?}");
            }
        }
        Err(e) if unanswered(e.errno) => {}
        Err(e) => return Err(e.into()),
    }
    for number in 0..64 {
        match bounding_has(number) {
            Ok(has) if has != (bounding.0 >> number & 1 == 1) => {
                bail!(
                    "process.capabilities.bounding: {} is {} the bounding set",
                    name(number),
                    if has { "still in" } else { "not in" }
                );
            }
            Ok(_) => {}
            Err(e) if e.errno == Errno::EINVAL || unanswered(e.errno) => break,
            Err(e) => return Err(e.into()),
        }
    }
    // The kernel keeps the ambient set within the permitted and the inheritable one (capabilities(7)), which have been
    // read back: whatever is not in both need not be asked for.
    for number in Set(permitted.0 & inheritable.0).numbers() {
        match ambient_has(number) {
            Ok(has) if has != (ambient.0 >> number & 1 == 1) => {
                bail!(
                    "process.capabilities.ambient: the kernel reports another set than asked for, at {}",
                    name(number)
                );
            }
            Ok(_) => {}
            Err(e) if e.errno == Errno::EINVAL || unanswered(e.errno) => break,
            Err(e) => return Err(e.into()),
        }
    }
    match getgroups() {
        Ok(groups) => {
            let sorted = |mut ids: Vec<u32>| {
                ids.sort_unstable();
                ids.dedup();
                ids
            };
            let now = sorted(groups);
            if now != sorted(process.additional_gids.clone()) && !process.additional_gids.is_empty() {
                bail!("process.user.additionalGids: the kernel reports {now:?}");
            }
        }
        Err(e) if unanswered(e) => {}
        Err(errno) => return Err(crate::sys::Error { call: "getgroups()".into(), errno }.into()),
    }
    match (getresuid(), getresgid()) {
        (Ok(uid), Ok(gid)) => {
            let uids = [uid.real, uid.effective, uid.saved].map(nix::unistd::Uid::as_raw);
            let gids = [gid.real, gid.effective, gid.saved].map(nix::unistd::Gid::as_raw);
            if uids != [process.uid; 3] || gids != [process.gid; 3] {
                bail!("process.user: the kernel reports uids {uids:?} and gids {gids:?}");
            }
            Ok(())
        }
        (Err(e), _) | (_, Err(e)) if unanswered(e) => Ok(()),
        (Err(e), _) | (_, Err(e)) => Err(crate::sys::Error { call: "getresuid()".into(), errno: e }.into()),
    }
}
