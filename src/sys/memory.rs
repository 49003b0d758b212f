// SPDX-License-Identifier: Apache-2.0
//! A word of memory that parent and child share across a clone.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use nix::errno::Errno;

use super::fd::owned;
use super::{Error, Result, call, check};

/// A file without a name, in memory (memfd_create(2)).
pub fn memfd() -> Result<OwnedFd> {
    // SAFETY: a constant C string.
    let value = check(unsafe { libc::memfd_create(c"orlop".as_ptr(), libc::MFD_CLOEXEC) }.into());
    call!("memfd_create(\"orlop\")" => value).map(owned)
}

/// A file as [`memfd`] makes, of so many bytes, all zero.
pub fn memfd_of(bytes: usize) -> Result<OwnedFd> {
    let memfd = memfd()?;
    let size = libc::off_t::try_from(bytes).unwrap_or(0);
    // SAFETY: no pointers.
    let value = check(unsafe { libc::ftruncate(memfd.as_raw_fd(), size) }.into());
    call!("ftruncate({bytes})" => value)?;
    Ok(memfd)
}

/// Maps the first `count` words of such a file (`MAP_SHARED`), for good. To touch one that the file does not have is death by
/// SIGBUS.
pub fn shared_words(memfd: BorrowedFd<'_>, count: usize) -> Result<&'static [AtomicU64]> {
    let words = map(memfd.as_raw_fd(), 0, count * size_of::<AtomicU64>())?;
    // SAFETY: the mapping is page-aligned, valid for reads and writes, has that many words, and is never unmapped. Every
    // access is atomic, and every pattern of bits a number.
    Ok(unsafe { std::slice::from_raw_parts(words.cast().as_ptr(), count) })
}

fn map(fd: RawFd, flags: libc::c_int, size: usize) -> Result<NonNull<libc::c_void>> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), size, access, libc::MAP_SHARED | flags, fd, 0) };
    let failed = || Error { call: "mmap(MAP_SHARED)".into(), errno: Errno::last() };
    if page == libc::MAP_FAILED {
        return Err(failed());
    }
    NonNull::new(page).ok_or_else(failed)
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
        let memfd = memfd_of(4096)?;
        Ok((Self::from_memfd(memfd.as_fd())?, memfd))
    }

    /// Maps the word of [`SharedWord::new_memfd`]. The descriptor is needed no more.
    pub fn from_memfd(memfd: BorrowedFd<'_>) -> Result<Self> {
        Self::map(memfd.as_raw_fd(), 0)
    }

    fn map(fd: RawFd, flags: libc::c_int) -> Result<Self> {
        map(fd, flags, size_of::<AtomicU32>()).map(|page| Self(page.cast()))
    }

    /// The word.
    pub fn get(&self) -> &AtomicU32 {
        // SAFETY: the mapping is page-aligned, zeroed, valid for reads and writes, and lives until the process ends.
        unsafe { self.0.as_ref() }
    }
}

/// Gives the kernel what this process will hardly touch again: what is free in the heap, the stack below the caller's
/// frame, and the pages of the binary, which are the page cache's and come back when they are needed. Nothing is lost,
/// and a failure costs memory only (madvise(2), malloc_trim(3)).
pub fn give_back() {
    const PAGE: usize = 4096;
    const STACK: usize = 1 << 20;
    let drop_pages = |start: usize, end: usize| {
        let (start, end) = (start & !(PAGE - 1), end.next_multiple_of(PAGE));
        // SAFETY: file pages are read from the file again; the stack's are below every frame in use.
        unsafe {
            libc::madvise(std::ptr::without_provenance_mut(start), end.saturating_sub(start), libc::MADV_DONTNEED)
        };
    };
    // SAFETY: no argument; the process has one thread.
    unsafe { libc::malloc_trim(0) };
    let here = 0_u8;
    // The red zone, and what the calls from here on use, are in the page that is spared.
    let below = (&raw const here).addr().saturating_sub(2 * PAGE) & !(PAGE - 1);
    drop_pages(below.saturating_sub(STACK), below);
    // SAFETY: takes a number.
    let (headers, count) = unsafe { (libc::getauxval(libc::AT_PHDR), libc::getauxval(libc::AT_PHNUM)) };
    let headers = std::ptr::with_exposed_provenance::<libc::Elf64_Phdr>(usize::try_from(headers).unwrap_or(0));
    if headers.is_null() {
        return;
    }
    // SAFETY: the kernel has put the address and the number of the program headers there (getauxval(3)). The binary is
    // not position independent, so that its segments are where their headers say.
    let headers = unsafe { std::slice::from_raw_parts(headers, usize::try_from(count).unwrap_or(0)) };
    for segment in headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0) {
        let address = |value: u64| usize::try_from(value).unwrap_or(0);
        drop_pages(address(segment.p_vaddr), address(segment.p_vaddr) + address(segment.p_memsz));
    }
}
