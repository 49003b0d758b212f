// SPDX-License-Identifier: Apache-2.0
//! `seccomp(2)`: loading a filter. seccompiler's `apply_filter` sets no_new_privs unconditionally and takes no flags,
//! so it cannot load the filter of a container whose config says `noNewPrivileges: false`.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use seccompiler::sock_filter;

use super::fd::owned;
use super::{Error, Result, call, check};

#[repr(C)]
struct Program {
    length: libc::c_ushort,
    filter: *const sock_filter,
}

/// The same with SECCOMP_FILTER_FLAG_NEW_LISTENER (seccomp_unotify(2)): the descriptor on which a supervisor receives the
/// calls that the filter answers with SECCOMP_RET_USER_NOTIF. EBUSY: a filter of the process has a listener already.
pub fn set_mode_filter_with_listener(filter: &[sock_filter], flags: libc::c_ulong) -> Result<OwnedFd> {
    set_mode(filter, flags | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER).map(owned)
}

/// SECCOMP_SET_MODE_FILTER with `flags` (`SECCOMP_FILTER_FLAG_*`). EACCES: neither no_new_privs nor CAP_SYS_ADMIN.
pub fn set_mode_filter(filter: &[sock_filter], flags: libc::c_ulong) -> Result<()> {
    set_mode(filter, flags).map(drop)
}

fn set_mode(filter: &[sock_filter], flags: libc::c_ulong) -> Result<libc::c_long> {
    let length = libc::c_ushort::try_from(filter.len())
        .map_err(|_| Error { call: format!("seccomp with {} instructions", filter.len()), errno: Errno::EINVAL })?;
    let program = Program { length, filter: filter.as_ptr() };
    // SAFETY: program points to `length` valid instructions and lives through the call.
    let value =
        check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) });
    call!("seccomp(SET_MODE_FILTER, {flags:#x}, {length} instructions)" => value)
}
