// SPDX-License-Identifier: Apache-2.0
//! Loading the compiled filter (seccomp(2)).

use anyhow::{Context, Result};
use nix::errno::Errno;

use crate::error::ResultExt;
use crate::seccomp::{Compiled, FilterFlag};
use crate::sys::seccomp::set_mode_filter;

/// Loads the filter into the calling process. Without no_new_privs this needs CAP_SYS_ADMIN in the user namespace.
pub fn load(filter: &Compiled) -> Result<()> {
    let bits = |flags: &[FilterFlag]| flags.iter().fold(0, |bits, flag| bits | libc::c_ulong::from(flag.bit()));
    let flags = bits(&filter.flags);
    let without = flags & !libc::c_ulong::from(FilterFlag::SpecAllow.bit());
    set_mode_filter(&filter.program, flags)
        .or_else(|e| match e.errno {
            // SPEC_ALLOW is the default where the config names no flags, and newer than the rest (Linux 4.17).
            Errno::EINVAL if flags != without => set_mode_filter(&filter.program, without),
            _ => Err(e),
        })
        .hint_if(Errno::EINVAL, "the kernel lacks CONFIG_SECCOMP_FILTER or one of linux.seccomp.flags")
        .hint_if(Errno::ENOMEM, "all filters of a process together may have 32768 instructions")
        .context("linux.seccomp")
}
