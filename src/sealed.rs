// SPDX-License-Identifier: Apache-2.0
//! A container must never get a writable path to the runtime's own binary (CVE-2019-5736). A process of the container that
//! can open /proc/PID/exe of the runtime or of its init, or whose program is `/proc/self/exe` itself, finds a read-only
//! copy there.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::sys::statfs::fstatfs;
use nix::sys::statvfs::FsFlags;

use crate::sys::mount::{Attr, clone_tree, set_attr};
use crate::sys::process::fexecve;
use crate::sys::{self, call};

const SELF: &str = "/proc/self/exe";

/// Makes sure that this process runs from a file that cannot be written through /proc/PID/exe: one on a detached read-only
/// clone of its mount, or a sealed memfd. Otherwise executes itself again from such a clone (nothing is copied, and no
/// mount namespace ever sees it), or from a sealed copy in memory where mounting is not allowed.
///
/// The execve closes the last descriptor of the clone, which dissolves it: it is in no mount namespace then, and the
/// kernel refuses to change its flags or to clone it, whatever the capabilities of whoever finds it.
pub fn ensure(arguments: &[OsString]) -> Result<()> {
    let exe = call!("open({SELF:?})" => open(SELF, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()))?;
    if is_sealed(&exe)? {
        return Ok(());
    }
    let sealed = match read_only_clone() {
        Err(e) if matches!(e.errno, Errno::EPERM | Errno::ENOSYS | Errno::EINVAL) => copy(exe)?,
        clone => clone?,
    };
    let c_string = |text: &OsString| CString::new(text.as_bytes()).context("an argument contains a NUL byte");
    let args = arguments.iter().map(c_string).collect::<Result<Vec<_>>>()?;
    let variable = |(name, value): (OsString, OsString)| {
        let mut entry = name.into_vec();
        entry.push(b'=');
        entry.extend_from_slice(value.as_bytes());
        CString::new(entry).context("an environment variable contains a NUL byte")
    };
    let env = std::env::vars_os().map(variable).collect::<Result<Vec<_>>>()?;
    Err(fexecve(sealed.as_fd(), &args, &env)).context("execute the sealed binary")
}

fn is_sealed(exe: &OwnedFd) -> Result<bool> {
    if call!("fstatfs({SELF:?})" => fstatfs(exe))?.flags().contains(FsFlags::ST_RDONLY) {
        // A mount of the host is no seal, as the host can make it writable; the clone is that of a single file, and is
        // mounted nowhere, so that its path is `/` (proc(5) marks a file that has been replaced).
        let path = call!("readlink({SELF:?})" => nix::fcntl::readlink(SELF))?;
        return Ok(path == "/" || path == "/ (deleted)");
    }
    let sealed = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
    // EINVAL: not a memfd.
    Ok(fcntl(exe, FcntlArg::F_GET_SEALS).is_ok_and(|seals| SealFlag::from_bits_truncate(seals).contains(sealed)))
}

fn read_only_clone() -> sys::Result<OwnedFd> {
    let path = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let exe = call!("open({SELF:?}, O_PATH)" => open(SELF, path, Mode::empty()))?;
    let clone = clone_tree(exe.as_fd(), c"", false)?;
    set_attr(clone.as_fd(), &Attr { set: libc::MOUNT_ATTR_RDONLY, ..Attr::default() }, false)?;
    Ok(clone)
}

fn copy(exe: OwnedFd) -> Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // MFD_EXEC (Linux 6.3): where vm.memfd_noexec is set, a memfd cannot be executed without it.
    let executable = MFdFlags::from_bits_retain(0x10);
    let made = memfd_create(c"orlop", flags | executable).or_else(|errno| match errno {
        Errno::EINVAL => memfd_create(c"orlop", flags),
        other => Err(other),
    });
    let memfd = call!("memfd_create(\"orlop\")" => made)?;
    let mut to = std::fs::File::from(memfd);
    std::io::copy(&mut std::fs::File::from(exe), &mut to).context("copy the binary into memory")?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    call!("fcntl(F_ADD_SEALS)" => fcntl(&to, FcntlArg::F_ADD_SEALS(seals)))?;
    Ok(to.into())
}
