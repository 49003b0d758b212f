// SPDX-License-Identifier: Apache-2.0
//! `tmpcopyup`: fills a new tmpfs with what the directory that it is going to cover holds. Both trees are walked by
//! descriptor; links are copied, never followed; devices, sockets and other mounts are left out.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fchmod, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

use super::path;
use crate::sys::mount::failed;

/// Directories may be nested this deep; deeper ones are an error, as each level holds two descriptors open.
const DEEPEST: u32 = 64;

/// Copies the contents of the directory `from` (which may be O_PATH) into the empty directory `to`, with modes, owners
/// and times. The umask must be 0.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    copy_directory(from, to, 0)
}

fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: u32) -> Result<()> {
    if depth > DEEPEST {
        bail!("directories are nested deeper than {DEEPEST}");
    }
    // "." turns an O_PATH descriptor into one that can be listed.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut dir = Dir::openat(from, c".", flags, Mode::empty()).map_err(failed("openat(\".\")"))?;
    let to = openat(to, c".", flags, Mode::empty()).map_err(failed("openat(\".\")"))?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let name = entry.map_err(failed("getdents64"))?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            names.push(name);
        }
    }
    let device = path::stat(dir.as_fd())?.st_dev;
    for name in names {
        copy_entry(dir.as_fd(), to.as_fd(), &name, device, depth)
            .with_context(|| name.to_string_lossy().into_owned())?;
    }
    Ok(())
}

fn copy_entry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    device: libc::dev_t,
    depth: u32,
) -> Result<()> {
    let Some(source) = path::open_entry(from, &name.to_string_lossy())? else { return Ok(()) };
    let stat = path::stat(source.as_fd())?;
    if stat.st_dev != device {
        return Ok(());
    }
    let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            mkdirat(to, name, Mode::S_IRWXU).map_err(failed("mkdirat"))?;
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let made = openat(to, name, flags, Mode::empty()).map_err(failed("openat"))?;
            copy_directory(source.as_fd(), made.as_fd(), depth + 1)?;
            own(to, name, &stat)?;
            fchmod(&made, mode).map_err(failed("fchmod"))?;
        }
        libc::S_IFREG => {
            let made = copy_file(from, to, name)?;
            own(to, name, &stat)?;
            // After the change of owner, which clears the set-user-ID bit.
            fchmod(&made, mode).map_err(failed("fchmod"))?;
        }
        libc::S_IFLNK => {
            let target = readlinkat(from, name).map_err(failed("readlinkat"))?;
            symlinkat(target.as_os_str(), to, name).map_err(failed("symlinkat"))?;
            own(to, name, &stat)?;
        }
        _ => return Ok(()),
    }
    let at = |seconds, nanoseconds| TimeSpec::new(seconds, nanoseconds);
    let (accessed, changed) = (at(stat.st_atime, stat.st_atime_nsec), at(stat.st_mtime, stat.st_mtime_nsec));
    let nofollow = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
    Ok(utimensat(to, name, &accessed, &changed, nofollow).map_err(failed("utimensat"))?)
}

fn copy_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<OwnedFd> {
    let read = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let mut source = File::from(openat(from, name, read, Mode::empty()).map_err(failed("openat"))?);
    let write = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut made = File::from(openat(to, name, write, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed("openat"))?);
    std::io::copy(&mut source, &mut made)?;
    Ok(made.into())
}

/// Gives the entry its owner. Owners without a mapping in the user namespace (EINVAL) are left to be the caller, since
/// such an inode could not be made at all.
fn own(to: BorrowedFd<'_>, name: &std::ffi::CStr, stat: &FileStat) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    match fchownat(to, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(()) | Err(nix::errno::Errno::EINVAL) => Ok(()),
        Err(e) => Err(failed("fchownat")(e).into()),
    }
}
