// SPDX-License-Identifier: Apache-2.0
//! A word of memory that parent and child share across a clone.

use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use nix::errno::Errno;

use super::{Error, Result};

/// An `AtomicU32` in a page mapped `MAP_SHARED | MAP_ANONYMOUS` (mmap(2)); unmapped by execve.
pub struct SharedWord(NonNull<AtomicU32>);

impl SharedWord {
    /// Maps the page; the word is 0.
    pub fn new() -> Result<Self> {
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no existing memory.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<AtomicU32>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
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
