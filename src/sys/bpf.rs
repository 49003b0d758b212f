// SPDX-License-Identifier: Apache-2.0
//! `bpf(2)`: loading a device program and attaching it to a cgroup.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::fd::owned;
use super::{Result, call, check};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_F_REPLACE: u32 = 4;

/// The part of `union bpf_attr` (linux/bpf.h) that `BPF_PROG_LOAD` reads; the kernel takes the rest for zero.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// The part of `union bpf_attr` that `BPF_PROG_ATTACH` and `BPF_PROG_DETACH` read.
#[repr(C)]
struct ProgAttach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// The part that `BPF_PROG_QUERY` reads and writes; Linux 6.17 writes its end whatever size it was told.
#[repr(C)]
struct ProgQuery {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    unused: u32,
    rest: [u64; 4],
}

/// The part that `BPF_OBJ_GET_INFO_BY_FD` reads.
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of `struct bpf_prog_info`.
#[repr(C)]
struct ProgInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
}

/// Loads a `BPF_PROG_TYPE_CGROUP_DEVICE` program. EAGAIN (a signal interrupted the verifier) is retried 8 times.
///
/// # Errors
/// EPERM without CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN) in the initial user namespace, or, before Linux 5.11,
/// above RLIMIT_MEMLOCK; EINVAL or EACCES for a program that the verifier refuses; E2BIG for one too long.
pub fn load_device_program(instructions: &[[u8; 8]]) -> Result<OwnedFd> {
    let mut attributes = ProgLoad {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
        insns: instructions.as_ptr().addr() as u64,
        license: c"Apache-2.0".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: *b"orlop_devices\0\0\0",
    };
    let mut tries = 0;
    let loaded = loop {
        match bpf(BPF_PROG_LOAD, &mut attributes) {
            Err(Errno::EAGAIN) if tries < 8 => tries += 1,
            other => break other,
        }
    };
    let fd = call!("bpf(BPF_PROG_LOAD, CGROUP_DEVICE, {} instructions)", instructions.len() => loaded)?;
    Ok(owned(fd))
}

/// Attaches a device program to a cgroup v2, beside those of others: an access must pass all of them, and those of the
/// cgroups above (`BPF_F_ALLOW_MULTI`). With `instead` it takes the place of that one in one step (Linux 5.6).
///
/// # Errors
/// EPERM without the capabilities for loading, or if a program above does not let others in; ENOENT if `instead` is not
/// attached there.
pub fn attach_device_program(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    instead: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let mut attributes = ProgAttach {
        target_fd: cgroup.as_raw_fd().unsigned_abs(),
        attach_bpf_fd: program.as_raw_fd().unsigned_abs(),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: if instead.is_some() { BPF_F_ALLOW_MULTI | BPF_F_REPLACE } else { BPF_F_ALLOW_MULTI },
        replace_bpf_fd: instead.map_or(0, |fd| fd.as_raw_fd().unsigned_abs()),
    };
    call!("bpf(BPF_PROG_ATTACH, CGROUP_DEVICE, cgroup {})", cgroup.as_raw_fd() => bpf(BPF_PROG_ATTACH, &mut attributes))?;
    Ok(())
}

/// Detaches a device program from a cgroup v2.
///
/// # Errors
/// EPERM without the capabilities for loading; ENOENT if it is not attached there.
pub fn detach_device_program(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>) -> Result<()> {
    let mut attributes = ProgAttach {
        target_fd: cgroup.as_raw_fd().unsigned_abs(),
        attach_bpf_fd: program.as_raw_fd().unsigned_abs(),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: 0,
        replace_bpf_fd: 0,
    };
    call!("bpf(BPF_PROG_DETACH, CGROUP_DEVICE, cgroup {})", cgroup.as_raw_fd() => bpf(BPF_PROG_DETACH, &mut attributes))?;
    Ok(())
}

/// The ids of the device programs attached to a cgroup v2 itself (`BPF_PROG_QUERY`).
///
/// # Errors
/// EPERM without CAP_NET_ADMIN or CAP_SYS_ADMIN.
pub fn attached_device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>> {
    // The kernel attaches at most 64 (BPF_CGROUP_MAX_PROGS).
    let mut ids = [0u32; 64];
    let mut attributes = ProgQuery {
        target_fd: cgroup.as_raw_fd().unsigned_abs(),
        attach_type: BPF_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr().expose_provenance() as u64,
        prog_cnt: 64,
        unused: 0,
        rest: [0; 4],
    };
    call!("bpf(BPF_PROG_QUERY, CGROUP_DEVICE, cgroup {})", cgroup.as_raw_fd() => bpf(BPF_PROG_QUERY, &mut attributes))?;
    Ok(ids.iter().copied().take(usize::try_from(attributes.prog_cnt).unwrap_or(0)).collect())
}

/// A program by its id.
pub fn program_by_id(id: u32) -> Result<OwnedFd> {
    let fd = call!("bpf(BPF_PROG_GET_FD_BY_ID, {id})" => bpf(BPF_PROG_GET_FD_BY_ID, &mut [id, 0, 0]))?;
    Ok(owned(fd))
}

/// The kernel's hash of a program's instructions.
pub fn program_tag(program: BorrowedFd<'_>) -> Result<[u8; 8]> {
    let mut info = ProgInfo { kind: 0, id: 0, tag: [0; 8] };
    let mut attributes = GetInfo {
        bpf_fd: program.as_raw_fd().unsigned_abs(),
        info_len: u32::try_from(size_of::<ProgInfo>()).unwrap_or(0),
        info: (&raw mut info).expose_provenance() as u64,
    };
    call!("bpf(BPF_OBJ_GET_INFO_BY_FD, {})", program.as_raw_fd() => bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes))?;
    Ok(info.tag)
}

/// `T` is one of the structs above, laid out as the command's part of `union bpf_attr`.
fn bpf<T>(command: libc::c_int, attributes: &mut T) -> std::result::Result<libc::c_long, Errno> {
    // SAFETY: attributes is a live, initialised prefix of union bpf_attr of the given size; the pointers in it are to
    // instructions and a string that outlive the call, and which the kernel only reads, or to a buffer of the caller's
    // whose size is in attributes.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) })
}
