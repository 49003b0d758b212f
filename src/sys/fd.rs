// SPDX-License-Identifier: Apache-2.0
//! Descriptors: `close_range(2)`, close-on-exec, `openat2(2)`.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::{Result, call, check};

/// What `openat2(2)` may do with the path: `RESOLVE_*` of the manual page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolve(pub u64);

impl Resolve {
    /// `/` and `..` stop at the directory, links resolve inside it; magic links are refused.
    pub const IN_ROOT: Self = Self(libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS);
    /// Nothing leaves the directory, no link of any kind is followed, no mount is crossed: for procfs and cgroupfs.
    pub const BENEATH: Self =
        Self(libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS | libc::RESOLVE_NO_XDEV);
}

/// `openat2(2)` below `dir`. `O_CLOEXEC` is added. EAGAIN (a rename raced with the look-up of `..`) is retried 32 times.
pub fn openat2(dir: BorrowedFd<'_>, path: &CStr, flags: libc::c_int, mode: u32, resolve: Resolve) -> Result<OwnedFd> {
    // SAFETY: open_how is plain data for which all zeroes is valid.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((flags | libc::O_CLOEXEC).unsigned_abs());
    how.mode = u64::from(mode);
    how.resolve = resolve.0;
    let mut tries = 0;
    let opened = loop {
        // SAFETY: path is NUL-terminated and how is a valid open_how of the given size for the duration of the call.
        let value = check(unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        });
        match value {
            Err(Errno::EAGAIN) if tries < 32 => tries += 1,
            other => break other,
        }
    };
    let fd = call!("openat2({}, {path:?}, {:#o}, resolve {:#x})", dir.as_raw_fd(), flags, resolve.0 => opened)?;
    Ok(owned(fd))
}

/// Takes ownership of a descriptor number that a system call just returned.
pub(crate) fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel just returned this number for a new descriptor that nothing else owns; it fits a c_int.
    #[allow(clippy::cast_possible_truncation)]
    unsafe {
        OwnedFd::from_raw_fd(fd as RawFd)
    }
}

/// `close_range(2)` of `first..=last`, after giving the process a table of its own (CLOSE_RANGE_UNSHARE).
pub fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: only called where every owner of such a descriptor is gone or about to be replaced by execve.
    let value = check(unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_UNSHARE) });
    call!("close_range({first}, {last})" => value).map(drop)
}

/// Marks every descriptor from `first` on close-on-exec (CLOSE_RANGE_CLOEXEC, Linux 5.11).
pub fn close_on_exec_from(first: u32) -> Result<()> {
    // SAFETY: no descriptor is closed.
    let value = check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) });
    call!("close_range({first}, ~0, CLOEXEC)" => value).map(drop)
}

/// Sets or clears FD_CLOEXEC of a descriptor given by number: those of `--preserve-fds` come from the caller by number.
/// EBADF: there is no such descriptor.
pub fn set_close_on_exec(fd: RawFd, on: bool) -> Result<()> {
    // SAFETY: F_SETFD only changes the flag.
    let value = check(unsafe { libc::fcntl(fd, libc::F_SETFD, if on { libc::FD_CLOEXEC } else { 0 }) }.into());
    call!("fcntl({fd}, F_SETFD, {on})" => value).map(drop)
}

/// Whether descriptor number `fd` is open.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD only reads.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// A copy of the descriptor that the caller of the program has passed by number, with close-on-exec.
pub fn inherited(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    let value = check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) }.into());
    call!("fcntl({fd}, F_DUPFD_CLOEXEC)" => value).map(owned)
}

/// `dup3(2)` of `fd` onto the number `target`, with close-on-exec, closing what was there: nothing may own that.
pub fn duplicate_onto(fd: BorrowedFd<'_>, target: RawFd) -> Result<OwnedFd> {
    // SAFETY: the caller owns whatever `target` is, or nothing is open there.
    let value = check(unsafe { libc::dup3(fd.as_raw_fd(), target, libc::O_CLOEXEC) }.into());
    call!("dup3({}, {target})", fd.as_raw_fd() => value).map(owned)
}

/// `flock(2)`, exclusive: waits for whoever holds it. Released when the last copy of the descriptor is closed.
pub fn lock(fd: BorrowedFd<'_>) -> Result<()> {
    loop {
        // SAFETY: no pointers.
        match check(unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX) }.into()) {
            Err(Errno::EINTR) => {}
            locked => return call!("flock({}, LOCK_EX)", fd.as_raw_fd() => locked).map(drop),
        }
    }
}

/// As [`lock`], without waiting: false if another holds it.
pub fn try_lock(fd: BorrowedFd<'_>) -> Result<bool> {
    // SAFETY: no pointers.
    match check(unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }.into()) {
        Err(Errno::EWOULDBLOCK | Errno::EINTR) => Ok(false),
        locked => call!("flock({}, LOCK_EX|LOCK_NB)", fd.as_raw_fd() => locked).map(|_| true),
    }
}

/// Opens /dev/null on those of descriptors 0, 1 and 2 that are closed, so that no later descriptor can land there and
/// be taken for stdio by the container.
pub fn sanitise_stdio() -> Result<()> {
    loop {
        // SAFETY: a constant C string; the descriptor is checked below.
        let value = check(unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) }.into());
        let fd = call!("open(\"/dev/null\")" => value)?;
        if fd > 2 {
            drop(owned(fd));
            return Ok(());
        }
    }
}

/// The descriptor of stdin, stdout or stderr (0, 1, 2), which [`sanitise_stdio`] keeps open.
pub fn stdio(number: u8) -> BorrowedFd<'static> {
    // SAFETY: 0..=2 stay open for the whole life of the program.
    unsafe { BorrowedFd::borrow_raw(RawFd::from(number.min(2))) }
}

/// `getcwd(2)` as the kernel gives it: a path that does not begin with a slash (`(unreachable)/..`) is outside the root.
pub fn getcwd(buffer: &mut [u8]) -> Result<&[u8]> {
    // SAFETY: the pointer and length are those of a writable slice.
    let value = check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) });
    let length = call!("getcwd()" => value)?;
    // The length counts the terminating NUL.
    let end = usize::try_from(length).unwrap_or(0).saturating_sub(1);
    Ok(buffer.get(..end).unwrap_or_default())
}
