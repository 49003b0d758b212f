// SPDX-License-Identifier: Apache-2.0
//! `bpf(2)`: loading a device program and attaching it to a cgroup.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::fd::owned;
use super::{Result, call, check};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

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

/// The part of `union bpf_attr` that `BPF_PROG_ATTACH` reads.
#[repr(C)]
struct ProgAttach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
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
/// cgroups above (`BPF_F_ALLOW_MULTI`).
///
/// # Errors
/// EPERM without the capabilities for loading, or if a program above does not let others in.
pub fn attach_device_program(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>) -> Result<()> {
    let mut attributes = ProgAttach {
        target_fd: cgroup.as_raw_fd().unsigned_abs(),
        attach_bpf_fd: program.as_raw_fd().unsigned_abs(),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    call!("bpf(BPF_PROG_ATTACH, CGROUP_DEVICE, cgroup {})", cgroup.as_raw_fd() => bpf(BPF_PROG_ATTACH, &mut attributes))?;
    Ok(())
}

/// `T` is one of the structs above, laid out as the command's part of `union bpf_attr`.
fn bpf<T>(command: libc::c_int, attributes: &mut T) -> std::result::Result<libc::c_long, Errno> {
    // SAFETY: attributes is a live, initialised prefix of union bpf_attr of the given size; the pointers in it are to
    // instructions and a string that outlive the call, and the kernel only reads through them.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) })
}
