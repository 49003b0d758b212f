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

use crate::plan::process::{Process, search_path};

/// The path to give to execve(2). Errors: `exec: "x": executable file not found in $PATH`,
/// `exec: "/x": stat /x: no such file or directory`, `exec: "/x": permission denied`.
pub fn find(process: &Process) -> Result<CString> {
    let name = process.args.first().map(String::as_str).unwrap_or_default();
    let quoted = |message: &str| anyhow!("exec: {name:?}: {message}");
    if name.contains('/') {
        check(Path::new(name)).map_err(|errno| match errno {
            Errno::EACCES => quoted("permission denied"),
            other => quoted(&format!("stat {name}: {}", crate::sys::describe(other))),
        })?;
        return c_path(Path::new(name));
    }
    let mut denied = false;
    for directory in search_path(&process.env) {
        let candidate = directory.join(name);
        match check(&candidate) {
            Ok(()) => return c_path(&candidate),
            Err(Errno::EACCES) => denied = true,
            Err(_) => {}
        }
    }
    Err(quoted(if denied { "permission denied" } else { "executable file not found in $PATH" }))
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
