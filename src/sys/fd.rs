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
