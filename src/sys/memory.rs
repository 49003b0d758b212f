// SPDX-License-Identifier: Apache-2.0
//! A word of memory that parent and child share across a clone.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use nix::errno::Errno;

use super::fd::owned;
use super::{Error, Result, call, check};

/// A file without a name, in memory (memfd_create(2)).
pub fn memfd() -> Result<OwnedFd> {
    // SAFETY: a constant C string.
    let value = check(unsafe { libc::memfd_create(c"orlop".as_ptr(), libc::MFD_CLOEXEC) }.into());
    call!("memfd_create(\"orlop\")" => value).map(owned)
}

/// An `AtomicU32` in a page mapped `MAP_SHARED` (mmap(2)); unmapped by execve.
#[derive(Debug)]
pub struct SharedWord(NonNull<AtomicU32>);

impl SharedWord {
    /// Maps the page; the word is 0.
    pub fn new() -> Result<Self> {
        Self::map(-1, libc::MAP_ANONYMOUS)
    }

    /// A word for a process that is not a child: the word is 0, and the descriptor gives it to whoever maps it.
    pub fn new_memfd() -> Result<(Self, OwnedFd)> {
        let memfd = memfd()?;
        // SAFETY: no pointers.
        let value = check(unsafe { libc::ftruncate(memfd.as_raw_fd(), 4096) }.into());
        call!("ftruncate(4096)" => value)?;
        Ok((Self::from_memfd(memfd.as_fd())?, memfd))
    }

    /// Maps the word of [`SharedWord::new_memfd`]. The descriptor is needed no more.
    pub fn from_memfd(memfd: BorrowedFd<'_>) -> Result<Self> {
        Self::map(memfd.as_raw_fd(), 0)
    }

    fn map(fd: RawFd, flags: libc::c_int) -> Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<AtomicU32>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | flags,
                fd,
                0,
            )
        };
        let failed = || Error { call: "mmap(MAP_SHARED)".into(), errno: Errno::last() };
        if page == libc::MAP_FAILED {
            return Err(failed());
        }
        NonNull::new(page.cast()).map(Self).ok_or_else(failed)
    }

    /// The word.
    pub fn get(&self) -> &AtomicU32 {
        // SAFETY: the mapping is page-aligned, zeroed, valid for reads and writes, and lives until the process ends.
        unsafe { self.0.as_ref() }
    }
}
