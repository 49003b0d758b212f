// SPDX-License-Identifier: Apache-2.0
//! Finding the program of the container's process, as the container's user and inside its root, so that a missing one is
//! an error of `create` in the words that podman and containerd match.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use nix::errno::Errno;
use nix::sys::stat::{SFlag, stat};
use nix::unistd::{AccessFlags, access};

use crate::error::ResultExt;
use crate::kernel::program;
use crate::plan::process::{Process, search_path};

/// The path to give to execve(2). Errors: `exec: "x": executable file not found in $PATH`,
/// `exec: "/x": stat /x: no such file or directory`, `exec: "/x": permission denied`.
pub fn find(process: &Process) -> Result<CString> {
    let name = process.args.first().map(String::as_str).unwrap_or_default();
    let quoted = |message: &str| anyhow!("exec: {name:?}: {message}");
    let denied = |path: &Path| hinted(quoted("permission denied"), path);
    if name.contains('/') {
        check(Path::new(name)).map_err(|errno| match errno {
            Errno::EACCES => denied(Path::new(name)),
            other => quoted(&format!("stat {name}: {}", crate::sys::describe(other))),
        })?;
        return c_path(Path::new(name));
    }
    let mut refused = None;
    for directory in search_path(&process.env) {
        let candidate = directory.join(name);
        match check(&candidate) {
            Ok(()) => return c_path(&candidate),
            Err(Errno::EACCES) => refused = refused.or(Some(candidate)),
            Err(_) => {}
        }
    }
    Err(refused.map_or_else(|| quoted("executable file not found in $PATH"), |path| denied(&path)))
}

/// Adds what the file says about why it may not be executed.
fn hinted(error: anyhow::Error, path: &Path) -> anyhow::Error {
    // The nearest is added last, so that it is told first.
    program::explain(path).into_iter().rev().fold(error, |error, fault| {
        let text = fault.hint.map_or(fault.message.clone(), |hint| format!("{}: {hint}", fault.message));
        Err::<(), _>(error).hint(text).err().unwrap_or_else(|| anyhow!(fault.message))
    })
}

/// The system calls that [`explain`] makes to look at the file.
pub const LOOK: [libc::c_long; 11] = [
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_fstatfs,
    libc::SYS_getgroups,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getcwd,
    libc::SYS_pread64,
];

/// What to say of an execve(2) that failed: the context, which names what the kernel does not, and the advice. `look`:
/// whether the file may be looked at, which takes the calls of [`LOOK`].
pub fn explain(path: &Path, errno: Errno, look: bool) -> (String, Option<String>) {
    let general = match errno {
        Errno::ENOENT => {
            "the file exists: its interpreter (#! line or ELF loader) does not, inside the root filesystem"
        }
        Errno::ENOEXEC => "neither a program for this machine nor a script with a #! line",
        Errno::ETXTBSY => "another process has the file open for writing",
        Errno::E2BIG => {
            "the arguments and the environment are too long: a quarter of RLIMIT_STACK at most, and 128 KiB for each"
        }
        Errno::EAGAIN => "the user has more processes than RLIMIT_NPROC",
        _ => "",
    };
    let general = || Some(general.to_string()).filter(|text| !text.is_empty());
    let of_the_file = matches!(errno, Errno::ENOENT | Errno::ENOEXEC | Errno::EACCES | Errno::ELOOP);
    let faults = if of_the_file && look { program::explain(path) } else { Vec::new() };
    match faults.into_iter().find(|fault| fault.certain) {
        Some(fault) => (format!("exec: {}", fault.message), fault.hint),
        None => (format!("exec: {path:?}"), general()),
    }
}

/// Whether `path` is a file that may be executed. EACCES for a directory too, as exec(3) has it.
fn check(path: &Path) -> std::result::Result<(), Errno> {
    let found = stat(path)?;
    if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(Errno::EACCES);
    }
    match access(path, AccessFlags::X_OK) {
        // A seccomp filter that is in force already may not know the call: judge by the mode.
        Err(Errno::EPERM | Errno::ENOSYS) if found.st_mode & 0o111 != 0 => Ok(()),
        other => other,
    }
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| anyhow!("process.args[0] contains a NUL byte"))
}

/// The home directory of `uid` in the container's /etc/passwd (passwd(5)), or `/`.
pub fn home(passwd: &[u8], uid: u32) -> PathBuf {
    let line = passwd.split(|b| *b == b'\n').map(|line| line.split(|b| *b == b':').collect::<Vec<_>>());
    line.filter_map(|fields| match fields.as_slice() {
        [_, _, id, _, _, home, ..] if *id == uid.to_string().as_bytes() && !home.is_empty() => {
            Some(PathBuf::from(OsStr::from_bytes(home)))
        }
        _ => None,
    })
    .next()
    .unwrap_or_else(|| PathBuf::from("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_is_that_of_the_exact_uid() {
        let passwd = b"root:x:0:0::/root:/bin/sh\nbroken\nu:x:10:10::/home/u:/bin/sh\nv:x:1:1::/home/v:";
        assert_eq!(home(passwd, 0), Path::new("/root"));
        assert_eq!(home(passwd, 1), Path::new("/home/v"));
        assert_eq!(home(passwd, 7), Path::new("/"));
        assert_eq!(home(b"", 0), Path::new("/"));
    }
}
