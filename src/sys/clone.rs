// SPDX-License-Identifier: Apache-2.0
//! `clone3(2)` and `setns(2)`.
//!
//! After-fork law. The process has one thread when it clones ([`clone3`] asserts it, in release builds too), so no lock
//! can be held and the child may allocate, format and log. The child leaves only by `execve` or [`exit`], never by
//! `std::process::exit`, which would run atexit handlers and flush the parent's stdio buffers.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::fd::owned;
use super::{Error, Result, call, check};

/// Flags for [`clone3`]; `CLONE_NEWTIME` is only valid there, since in clone(2) it overlaps the exit signal.
pub const NEWTIME: u64 = 0x80;
const CLONE_PIDFD: u64 = 0x1000;
/// The new process is a sibling of the caller (CLONE_PARENT of clone(2)).
pub const PARENT: u64 = 0x8000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A process made by [`clone3`], seen from its parent.
#[derive(Debug)]
pub struct Child {
    pub pid: Pid,
    pub pidfd: OwnedFd,
}

/// Which side of the clone is running.
pub enum Clone {
    Parent(Child),
    Child,
}

/// `struct clone_args` of clone3(2), version 2 (Linux 5.7).
#[repr(C)]
#[derive(Default)]
struct Args {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks into the namespaces of `flags` (`CLONE_NEW*`), and with `cgroup` straight into that cgroup v2
/// (CLONE_INTO_CGROUP: writing `cgroup.procs` afterwards waits for an RCU grace period of some 10 ms).
///
/// Fails as clone3(2) does; also with EBUSY if this process has more than one thread.
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Clone> {
    if threads() != 1 {
        return Err(Error { call: "clone3 in a process with threads".into(), errno: Errno::EBUSY });
    }
    let mut pidfd: RawFd = -1;
    let mut args = Args { flags: flags | CLONE_PIDFD, pidfd: (&raw mut pidfd) as u64, ..Args::default() };
    if flags & PARENT == 0 {
        // With CLONE_PARENT the kernel gives the child the caller's own exit signal and refuses another.
        args.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    }
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).unwrap_or_default();
    }
    // SAFETY: args is a valid clone_args of the given size and pidfd outlives the call. Without CLONE_VM and without a
    // new stack the call returns twice like fork(2); this process has one thread, so the child's copy is consistent.
    let value = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<Args>()) });
    let pid = call!("clone3({:#x}, cgroup {})", args.flags, args.cgroup => value)?;
    if pid == 0 {
        return Ok(Clone::Child);
    }
    let pid = Pid::from_raw(i32::try_from(pid).unwrap_or(-1));
    Ok(Clone::Parent(Child { pid, pidfd: owned(pidfd.into()) }))
}

/// How many threads this process has: the entries of /proc/self/task, or 1 where there is no procfs to ask.
fn threads() -> u64 {
    use std::os::unix::fs::MetadataExt;
    // A directory of procfs has 2 links more than it has subdirectories: one stat instead of a readdir.
    std::fs::metadata("/proc/self/task").map_or(1, |m| m.nlink().saturating_sub(2).max(1))
}

/// `setns(2)`: moves the caller (for a PID or time namespace: its children) into the namespace `fd`, which must be of
/// the kind `kind` (`CLONE_NEW*`).
pub fn setns(fd: BorrowedFd<'_>, kind: libc::c_int) -> Result<()> {
    // SAFETY: no pointers.
    let value = check(unsafe { libc::syscall(libc::SYS_setns, fd.as_raw_fd(), kind) });
    call!("setns({}, {kind:#x})", fd.as_raw_fd() => value).map(drop)
}

/// `NS_GET_NSTYPE` of ioctl_ns(2): the kind of a namespace, `CLONE_NEW*`. `fd` must be a file of the kernel's nsfs.
pub fn namespace_kind(fd: BorrowedFd<'_>) -> Result<libc::c_int> {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: the request takes no argument.
    let value = check(unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) }.into());
    call!("ioctl({}, NS_GET_NSTYPE)", fd.as_raw_fd() => value).map(|kind| libc::c_int::try_from(kind).unwrap_or(0))
}

/// `unshare(2)`.
pub fn unshare(flags: libc::c_int) -> Result<()> {
    // SAFETY: no pointers.
    let value = check(unsafe { libc::syscall(libc::SYS_unshare, flags) });
    call!("unshare({flags:#x})" => value).map(drop)
}

/// `_exit(2)`: no atexit handler, no flush. The only way out of a child that does not reach `execve`.
pub fn exit(status: i32) -> ! {
    // SAFETY: never returns and touches nothing of this process.
    unsafe { libc::_exit(status) }
}
