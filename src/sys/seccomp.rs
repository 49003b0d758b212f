// SPDX-License-Identifier: Apache-2.0
//! `seccomp(2)`: loading a filter. seccompiler's `apply_filter` sets no_new_privs unconditionally and takes no flags,
//! so it cannot load the filter of a container whose config says `noNewPrivileges: false`.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::Pid;
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

// linux/seccomp.h; the structures have had their sizes since Linux 5.0.
const SECCOMP_IOCTL_NOTIF_RECV: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
const SECCOMP_IOCTL_NOTIF_SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;
const SECCOMP_IOCTL_NOTIF_ID_VALID: libc::Ioctl = 0x4008_2102;
const SECCOMP_IOCTL_NOTIF_SET_FLAGS: libc::Ioctl = 0x4008_2104;

/// A call that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub struct Notification {
    pub id: u64,
    /// The thread, in the caller's PID namespace.
    pub pid: Pid,
    /// As in `struct seccomp_data`.
    pub arch: u32,
    pub number: u32,
    pub args: [u64; 6],
}

/// Receives the next call. ENOENT: its process was killed meanwhile.
pub fn next_notification(listener: BorrowedFd<'_>) -> Result<Notification> {
    // SAFETY: the structure is plain data, zeroed as the kernel demands, and lives through the call.
    let (value, call) = unsafe {
        let mut call: libc::seccomp_notif = std::mem::zeroed();
        (libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_RECV, &raw mut call), call)
    };
    call!("ioctl(SECCOMP_IOCTL_NOTIF_RECV)" => check(value.into()))?;
    Ok(Notification {
        id: call.id,
        pid: Pid::from_raw(call.pid.cast_signed()),
        arch: call.data.arch,
        number: call.data.nr.cast_unsigned(),
        args: call.data.args,
    })
}

/// Whether the call waits still, so that its pid has not become another process's.
pub fn is_pending(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the pointer leads to a number that lives through the call.
    unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0 }
}

/// Lets the call fail with `errno` (0: return 0), or go on without one. ENOENT: its process was killed meanwhile.
pub fn answer(listener: BorrowedFd<'_>, id: u64, errno: Option<u16>) -> Result<()> {
    const CONTINUE: u32 = 1;
    let flags = if errno.is_none() { CONTINUE } else { 0 };
    let mut reply = libc::seccomp_notif_resp { id, val: 0, error: -i32::from(errno.unwrap_or(0)), flags };
    // SAFETY: the structure has the kernel's layout and lives through the call.
    let value = unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_SEND, &raw mut reply) };
    call!("ioctl(SECCOMP_IOCTL_NOTIF_SEND)" => check(value.into())).map(drop)
}

/// Hints to the scheduler that caller and supervisor take turns (SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP, Linux 6.6), which
/// halves the cost of a call. An older kernel goes without.
pub fn wake_synchronously(listener: BorrowedFd<'_>) {
    const SYNC_WAKE_UP: libc::c_ulong = 1;
    // SAFETY: the argument is a number.
    unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
}
