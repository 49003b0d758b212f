// SPDX-License-Identifier: Apache-2.0
//! The mount calls that take descriptors: `fsopen(2)`, `fspick(2)`, `fsconfig(2)`, `fsmount(2)`, `open_tree(2)`, `move_mount(2)`,
//! `mount_setattr(2)`; and `pivot_root(2)`, `umount2(2)` of the working directory. None takes a path of a container.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::fd::owned;
use super::{Error, Result, call, check};

// linux/mount.h; the libc crate has none of these.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSCONFIG_CMD_RECONFIGURE: libc::c_uint = 7;
const FSPICK_CLOEXEC: libc::c_uint = 0x01;
const FSPICK_EMPTY_PATH: libc::c_uint = 0x08;
const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC.unsigned_abs();
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;

/// Longest value that `fsconfig(2)` takes as a string, in bytes: the kernel copies at most 256 with the NUL.
pub const LONGEST_STRING: usize = 255;

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attr {
    /// `MOUNT_ATTR_*` bits to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` bits to clear, before `set` is applied.
    pub clear: u64,
    /// One of `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`, or 0 to leave it.
    pub propagation: u64,
    /// The user namespace of an idmapped mount.
    pub userns_fd: u64,
}

/// `fsopen(2)`: a configuration context for a new file system of type `fstype`. Fails with ENODEV if the kernel does
/// not know the type.
pub fn fsopen(fstype: &CStr) -> Result<OwnedFd> {
    // SAFETY: fstype is NUL-terminated.
    let fd = call!("fsopen({fstype:?})" => check(unsafe {
        libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC)
    }))?;
    Ok(owned(fd))
}

/// `fsconfig(2)` with FSCONFIG_SET_FLAG: an option without a value, e.g. `newinstance`.
pub fn set_flag(context: BorrowedFd<'_>, key: &CStr) -> Result<()> {
    call!("fsconfig({}, SET_FLAG, {key:?})", context.as_raw_fd() =>
        configure(context, FSCONFIG_SET_FLAG, Some(key), None))
}

/// `fsconfig(2)` with FSCONFIG_SET_STRING: an option with a value of at most [`LONGEST_STRING`] bytes.
pub fn set_string(context: BorrowedFd<'_>, key: &CStr, value: &CStr) -> Result<()> {
    call!("fsconfig({}, SET_STRING, {key:?}, {value:?})", context.as_raw_fd() =>
        configure(context, FSCONFIG_SET_STRING, Some(key), Some(value)))
}

/// `fsconfig(2)` with FSCONFIG_CMD_CREATE: makes the superblock.
pub fn create(context: BorrowedFd<'_>) -> Result<()> {
    call!("fsconfig({}, CMD_CREATE)", context.as_raw_fd() => configure(context, FSCONFIG_CMD_CREATE, None, None))
}

/// `fspick(2)`: a configuration context to change the file system of a mount; `mount` must be its root.
pub fn fspick(mount: BorrowedFd<'_>) -> Result<OwnedFd> {
    // SAFETY: the path is NUL-terminated.
    let fd = call!("fspick({})", mount.as_raw_fd() => check(unsafe {
        libc::syscall(libc::SYS_fspick, mount.as_raw_fd(), c"".as_ptr(), FSPICK_EMPTY_PATH | FSPICK_CLOEXEC)
    }))?;
    Ok(owned(fd))
}

/// `fsconfig(2)` with FSCONFIG_CMD_RECONFIGURE: applies the options to the superblock that was picked.
pub fn reconfigure(context: BorrowedFd<'_>) -> Result<()> {
    call!("fsconfig({}, CMD_RECONFIGURE)", context.as_raw_fd() =>
        configure(context, FSCONFIG_CMD_RECONFIGURE, None, None))
}

/// `fsetxattr(2)` of `security.selinux`; `file` must not be O_PATH.
pub fn set_label(file: BorrowedFd<'_>, label: &CStr) -> Result<()> {
    let length = label.to_bytes_with_nul().len();
    // SAFETY: name and value are valid for the given lengths.
    let value =
        unsafe { libc::fsetxattr(file.as_raw_fd(), c"security.selinux".as_ptr(), label.as_ptr().cast(), length, 0) };
    call!("fsetxattr({}, \"security.selinux\", {label:?})", file.as_raw_fd() => check(value.into())).map(drop)
}

fn configure(
    context: BorrowedFd<'_>,
    command: libc::c_uint,
    key: Option<&CStr>,
    value: Option<&CStr>,
) -> std::result::Result<(), Errno> {
    let key = key.map_or(std::ptr::null(), CStr::as_ptr);
    let value = value.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: key and value are NULL or NUL-terminated for the duration of the call.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) }).map(drop)
}

/// `fsmount(2)`: a detached mount of a created superblock, with the `MOUNT_ATTR_*` bits `attributes` in force at once.
pub fn fsmount(context: BorrowedFd<'_>, attributes: u64) -> Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let fd = call!("fsmount({}, {attributes:#x})", context.as_raw_fd() => check(unsafe {
        libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes)
    }))?;
    Ok(owned(fd))
}

/// What the file system logged in a context since it was last read, e.g. `tmpfs: Bad value for 'size'`.
pub fn messages(context: BorrowedFd<'_>) -> Option<String> {
    let mut found = Vec::new();
    let mut buffer = [0; 512];
    // Each read gives one message, led by its level ("e ", "w ", "i "); ENODATA ends them.
    while let Ok(n) = nix::unistd::read(context, &mut buffer) {
        let message = String::from_utf8_lossy(buffer.get(..n).unwrap_or_default()).into_owned();
        found.push(message.get(2..).unwrap_or(&message).trim_end().to_string());
    }
    if found.is_empty() { None } else { Some(found.join("; ")) }
}

/// `open_tree(2)` with OPEN_TREE_CLONE: a detached copy of the mount at `path` below `dir` (of `dir` itself if `path`
/// is empty); of the mounts below it too if `recursive`. The original must be in the caller's mount namespace.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH.unsigned_abs();
    }
    if recursive {
        flags |= libc::AT_RECURSIVE.unsigned_abs();
    }
    // SAFETY: path is NUL-terminated.
    let fd = call!("open_tree({}, {path:?}, CLONE{})", dir.as_raw_fd(), if recursive { "|RECURSIVE" } else { "" } =>
        check(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) }))?;
    Ok(owned(fd))
}

/// `move_mount(2)`: attaches the mount `from` on the very inode that `to` refers to. No path is resolved, so nothing
/// can be swapped between the check of `to` and the mount (CVE-2021-30465).
pub fn attach(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    move_mount(from, to, c"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)
}

/// `move_mount(2)`: attaches the mount `from` on top of the caller's own root directory.
pub fn attach_on_root(from: BorrowedFd<'_>) -> Result<()> {
    move_mount(from, nix::fcntl::AT_FDCWD, c"/", MOVE_MOUNT_F_EMPTY_PATH)
}

fn move_mount(from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &CStr, flags: libc::c_uint) -> Result<()> {
    // SAFETY: both paths are NUL-terminated.
    call!("move_mount({}, \"\", {}, {path:?}, {flags:#x})", from.as_raw_fd(), to.as_raw_fd() => check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from.as_raw_fd(),
            c"".as_ptr(),
            to.as_raw_fd(),
            path.as_ptr(),
            flags,
        )
    }))
    .map(drop)
}

/// `mount_setattr(2)` on the mount that `mount` is the root of, and on all below it if `recursive`.
pub fn set_attr(mount: BorrowedFd<'_>, attr: &Attr, recursive: bool) -> Result<()> {
    mount_setattr(mount, c"", libc::AT_EMPTY_PATH, attr, recursive)
}

/// `mount_setattr(2)` on the caller's root directory, and on all mounts below it.
pub fn set_attr_of_root(attr: &Attr) -> Result<()> {
    mount_setattr(nix::fcntl::AT_FDCWD, c"/", 0, attr, true)
}

fn mount_setattr(dir: BorrowedFd<'_>, path: &CStr, mut flags: libc::c_int, attr: &Attr, recursive: bool) -> Result<()> {
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: path is NUL-terminated and attr is a valid mount_attr of the given size for the duration of the call.
    call!("mount_setattr({}, {path:?}, {flags:#x}, {attr:x?})", dir.as_raw_fd() => check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<Attr>(),
        )
    }))
    .map(drop)
}

/// `pivot_root(".", ".")`: the working directory becomes the root and the old root is stacked on it, where
/// [`detach_cwd`] finds it (pivot_root(2), "pivot_root(".", ".")").
pub fn pivot_to_cwd() -> Result<()> {
    // SAFETY: both paths are NUL-terminated.
    call!("pivot_root(\".\", \".\")" => check(unsafe {
        libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr())
    }))
    .map(drop)
}

/// `umount2(".", MNT_DETACH)`: detaches the topmost mount on the working directory and everything below it.
pub fn detach_cwd() -> Result<()> {
    // SAFETY: the path is NUL-terminated.
    let value = unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) };
    call!("umount2(\".\", MNT_DETACH)" => check(value.into())).map(drop)
}

/// `umount2(name, MNT_DETACH)` of an entry of the working directory, which is one of /proc/self/fd: the link there is the
/// descriptor's own mount, and no path is resolved.
pub fn detach_entry(name: &CStr) -> Result<()> {
    // SAFETY: the path is NUL-terminated.
    let value = unsafe { libc::umount2(name.as_ptr(), libc::MNT_DETACH) };
    call!("umount2({name:?}, MNT_DETACH)" => check(value.into())).map(drop)
}

/// `statx(2)` with STATX_MNT_ID_UNIQUE (Linux 6.8): an id that no other mount of this boot has or gets. The id of
/// [`mount_id`] on older kernels.
pub fn unique_mount_id(fd: BorrowedFd<'_>) -> Result<u64> {
    const STATX_MNT_ID_UNIQUE: libc::c_uint = 0x4000;
    // SAFETY: statx is plain data for which all zeroes is valid.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is NUL-terminated and found is a statx that the kernel writes.
    let value =
        unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, STATX_MNT_ID_UNIQUE, &raw mut found) };
    call!("statx({}, MNT_ID_UNIQUE)", fd.as_raw_fd() => check(value.into()))?;
    if found.stx_mask & STATX_MNT_ID_UNIQUE != 0 { Ok(found.stx_mnt_id) } else { mount_id(fd) }
}

/// `statx(2)` with STATX_MNT_ID: the id that mountinfo gives the mount `fd` is on.
pub fn mount_id(fd: BorrowedFd<'_>) -> Result<u64> {
    // SAFETY: statx is plain data for which all zeroes is valid.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is NUL-terminated and found is a statx that the kernel writes.
    let value =
        unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_MNT_ID, &raw mut found) };
    call!("statx({}, MNT_ID)", fd.as_raw_fd() => check(value.into()))?;
    Ok(found.stx_mnt_id)
}

/// `statx(2)`, STATX_ATTR_MOUNT_ROOT (Linux 5.8): whether `fd` is the root of a mount, and not just some inode on it.
pub fn is_mount_root(fd: BorrowedFd<'_>) -> Result<bool> {
    // SAFETY: statx is plain data for which all zeroes is valid.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is NUL-terminated and found is a statx that the kernel writes.
    let value =
        unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_TYPE, &raw mut found) };
    call!("statx({}, TYPE)", fd.as_raw_fd() => check(value.into()))?;
    let bit = u64::from(libc::STATX_ATTR_MOUNT_ROOT.unsigned_abs());
    Ok(found.stx_attributes & bit != 0)
}

/// The failure of a call that another crate made, in this crate's form.
pub fn failed(call: impl Into<String>) -> impl FnOnce(Errno) -> Error {
    let call = call.into();
    move |errno| Error { call, errno }
}
