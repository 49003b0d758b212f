// SPDX-License-Identifier: Apache-2.0
//! Loading the compiled filter (seccomp(2)).

use anyhow::{Context, Result};
use nix::errno::Errno;

use crate::error::ResultExt;
use crate::seccomp::Compiled;
use crate::sys::seccomp::set_mode_filter;

/// Loads the filter into the calling process. Without no_new_privs this needs CAP_SYS_ADMIN in the user namespace.
pub fn load(filter: &Compiled) -> Result<()> {
    set_mode_filter(&filter.program, filter.flags.bits().into())
        .hint_if(Errno::EINVAL, "the kernel lacks CONFIG_SECCOMP_FILTER or one of linux.seccomp.flags")
        .hint_if(Errno::ENOMEM, "all filters of a process together may have 32768 instructions")
        .context("linux.seccomp")
}
