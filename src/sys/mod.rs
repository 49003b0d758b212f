// SPDX-License-Identifier: Apache-2.0
//! System calls: the only module with unsafe code. Wrappers take `BorrowedFd`, return `OwnedFd`, always set
//! close-on-exec, and fail with the call as strace would print it.

#![allow(unsafe_code)]

pub mod bpf;
pub mod clone;
pub mod entry;
pub mod event;
pub mod fd;
pub mod memory;
pub mod mount;
pub mod net;
pub mod process;
pub mod scheduling;
pub mod seccomp;
pub mod socket;
pub mod tty;

use std::fmt;

use nix::errno::Errno;

/// A system call that failed: which one, on what, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The call in strace's notation, e.g. `openat2(7, "etc/passwd", IN_ROOT)`.
    pub call: String,
    pub errno: Errno,
}

impl fmt::Display for Error {
    /// `mount("proc"): operation not permitted (EPERM)`. The words begin in lower case as Go's do, since podman
    /// matches "permission denied" and "operation not permitted".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, describe(self.errno))
    }
}

impl std::error::Error for Error {}

pub type Result<T> = std::result::Result<T, Error>;

/// `operation not permitted (EPERM)`.
pub fn describe(errno: Errno) -> String {
    let mut words = errno.desc().to_string();
    if let Some(first) = words.get_mut(0..1) {
        first.make_ascii_lowercase();
    }
    format!("{words} ({errno:?})")
}

/// The same for an error of the standard library.
pub fn describe_io(error: &std::io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| describe(Errno::from_raw(number)))
}

/// Runs a call that yields `Result<T, Errno>` and, only if it failed, formats it: `call!("dup({old})" => dup(old))`.
/// Under `--debug` a success is logged too.
#[macro_export]
macro_rules! call {
    ($($format:expr),+ => $call:expr) => {
        match $call {
            Ok(value) => {
                if $crate::log::debugging() {
                    $crate::log::debug(&format!("{} = ok", format!($($format),+)));
                }
                Ok(value)
            }
            Err(errno) => Err($crate::sys::Error { call: format!($($format),+), errno }),
        }
    };
}
pub use call;

/// The errno in an error of std.
pub(crate) fn errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Turns the return value of a raw system call into a result.
pub(crate) fn check(value: libc::c_long) -> std::result::Result<libc::c_long, Errno> {
    if value < 0 { Err(Errno::last()) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_like_strace_with_go_s_lower_case_words() {
        let failed: std::result::Result<(), Errno> = Err(Errno::EACCES);
        let error = call!("openat2({}, {:?})", 7, "etc" => failed).unwrap_err();
        assert_eq!(error.to_string(), "openat2(7, \"etc\"): permission denied (EACCES)");
    }
}
