// SPDX-License-Identifier: Apache-2.0
//! `eventfd(2)`.

use std::os::fd::OwnedFd;

use super::fd::owned;
use super::{Result, call, check};

/// A counter that the kernel adds to and poll(2) watches; reading it (8 bytes) gives and clears it, and does not wait.
pub fn eventfd() -> Result<OwnedFd> {
    // SAFETY: no pointers.
    let value = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }.into());
    call!("eventfd(0)" => value).map(owned)
}
