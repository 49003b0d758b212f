// SPDX-License-Identifier: Apache-2.0
//! How a failure reaches the user: context is added where the object is known, a hint where the errno is understood,
//! and the chain is printed once, by [`report`].

use std::fmt;

use nix::errno::Errno;

/// An error with advice. Its `Display` is the wrapped error's, so that the hint stays out of the one-line message
/// which containerd and podman match; [`hints`] collects the advice from a chain.
#[derive(Debug)]
struct Hinted {
    inner: anyhow::Error,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.inner)
    }
}

impl std::error::Error for Hinted {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.chain().nth(1)
    }
}

/// Adds advice to a failing result.
pub trait ResultExt<T> {
    /// Attaches `hint` whatever the error is.
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T>;
    /// Attaches `hint` only if the chain holds a system call that failed with `errno`.
    fn hint_if(self, errno: Errno, hint: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> ResultExt<T> for Result<T, E> {
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|e| anyhow::Error::new(Hinted { inner: e.into(), hint: hint.into() }))
    }

    fn hint_if(self, errno: Errno, hint: impl Into<String>) -> anyhow::Result<T> {
        match self {
            Ok(value) => Ok(value),
            Err(e) => {
                let e = e.into();
                if errno_of(&e) == Some(errno) { Err(e).hint(hint) } else { Err(e) }
            }
        }
    }
}

/// The errno of the system call that a chain of errors began with, if it did.
pub fn errno_of(error: &anyhow::Error) -> Option<Errno> {
    error.chain().find_map(|e| {
        e.downcast_ref::<crate::sys::Error>()
            .map(|e| e.errno)
            .or_else(|| e.downcast_ref::<Hinted>().and_then(|h| errno_of(&h.inner)))
            .or_else(|| e.downcast_ref::<crate::process::channel::Remote>().and_then(|remote| remote.errno()))
            .or_else(|| e.downcast_ref::<Errno>().copied())
            .or_else(|| e.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error).map(Errno::from_raw))
    })
}

/// `EPERM` for 1; the number itself if it has no name.
pub fn errno_name(number: u16) -> String {
    match Errno::from_raw(i32::from(number)) {
        Errno::UnknownErrno => number.to_string(),
        errno => format!("{errno:?}"),
    }
}

/// The chain on one line, outermost first: `create web: mounts[3] /sys: fsmount(..): operation not permitted (EPERM)`.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&cause.to_string());
    }
    line
}

/// The advice attached to a chain, outermost first.
pub fn hints(error: &anyhow::Error) -> Vec<String> {
    let mut found = Vec::new();
    for cause in error.chain() {
        // One around another is no cause of it: the chain has the outer one only.
        let mut hinted = cause.downcast_ref::<Hinted>();
        while let Some(one) = hinted {
            found.push(one.hint.clone());
            hinted = one.inner.chain().next().and_then(|inner| inner.downcast_ref());
        }
    }
    found
}

/// Prints a failed command once: the chain to stderr and, as exactly one `error` entry, to the log; hints on lines of
/// their own on stderr only, because containerd shows the log's message to its user as it is.
pub fn report(error: &anyhow::Error) {
    let line = one_line(error);
    crate::log::error(&line);
    for hint in hints(error) {
        crate::log::stderr_line(&format!("  hint: {hint}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_hint_stays_out_of_the_line_and_is_found_in_the_chain() {
        let failed: Result<(), _> = Err(crate::sys::Error { call: "mount(\"sysfs\")".into(), errno: Errno::EPERM });
        let error = failed
            .hint_if(Errno::EPERM, "needs a new network namespace")
            .hint_if(Errno::EINVAL, "never")
            .context("mounts[3] /sys")
            .unwrap_err();
        assert_eq!(one_line(&error), "mounts[3] /sys: mount(\"sysfs\"): operation not permitted (EPERM)");
        assert_eq!(hints(&error), ["needs a new network namespace"]);
        assert_eq!(errno_of(&error), Some(Errno::EPERM));
    }

    #[test]
    fn several_hints_for_one_error_are_all_found() {
        let failed: Result<(), _> = Err(anyhow::anyhow!("no"));
        let failed = failed.hint("first").hint("second").context("step").hint("third").hint("fourth");
        assert_eq!(hints(&failed.unwrap_err()), ["fourth", "third", "second", "first"]);
    }
}
