// SPDX-License-Identifier: Apache-2.0
//! The ioctls of a pseudo-terminal: ioctl_tty(2).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::fd::owned;
use super::{Result, call, check};

/// TIOCSPTLCK with 0: lets the peer be opened.
pub fn unlock_peer(master: BorrowedFd<'_>) -> Result<()> {
    let off: libc::c_int = 0;
    // SAFETY: the argument is a pointer to an int that the kernel reads.
    let value = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const off) };
    call!("ioctl({}, TIOCSPTLCK, 0)", master.as_raw_fd() => check(value.into())).map(drop)
}

/// TIOCGPTPEER: opens the other end without any look-up of `/dev/pts/N` (CVE-2025-52565).
pub fn open_peer(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the argument is a number.
    let value = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    let fd = call!("ioctl({}, TIOCGPTPEER)", master.as_raw_fd() => check(value.into()))?;
    Ok(owned(fd))
}

/// TIOCGPTN: the number N of `/dev/pts/N`.
pub fn number(master: BorrowedFd<'_>) -> Result<u32> {
    let mut n: libc::c_uint = 0;
    // SAFETY: the argument is a pointer to an unsigned int that the kernel writes.
    let value = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut n) };
    call!("ioctl({}, TIOCGPTN)", master.as_raw_fd() => check(value.into()))?;
    Ok(n)
}

/// TIOCSWINSZ: `rows` and `columns` are in characters.
pub fn set_size(tty: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the argument is a pointer to a winsize that the kernel reads.
    let value = unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    call!("ioctl({}, TIOCSWINSZ, {rows}x{columns})", tty.as_raw_fd() => check(value.into())).map(drop)
}

/// TIOCGWINSZ and TIOCSWINSZ: gives `to` the size of `from`.
pub fn copy_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: winsize is plain data for which all zeroes is valid.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the argument is a pointer to a winsize that the kernel writes.
    let value = unsafe { libc::ioctl(from.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    call!("ioctl({}, TIOCGWINSZ)", from.as_raw_fd() => check(value.into()))?;
    set_size(to, size.ws_row, size.ws_col)
}

/// TIOCSCTTY: makes `tty` the controlling terminal of the calling session leader.
pub fn control(tty: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the argument is a number.
    let value = unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSCTTY, 0) };
    call!("ioctl({}, TIOCSCTTY)", tty.as_raw_fd() => check(value.into())).map(drop)
}
