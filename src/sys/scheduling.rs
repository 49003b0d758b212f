// SPDX-License-Identifier: Apache-2.0
//! The calls behind [`crate::kernel::scheduling`].

use nix::unistd::Pid;

use super::{Result, call, check};

/// `struct sched_attr`, SCHED_ATTR_SIZE_VER0. Times are in nanoseconds.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes {
    /// Set by [`sched_setattr`].
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// `sched_setattr(2)`.
pub fn sched_setattr(pid: Pid, attributes: Attributes) -> Result<()> {
    let attributes = Attributes { size: 48, ..attributes };
    // SAFETY: the structure has the size that it says and lives through the call.
    let value = check(unsafe { libc::syscall(libc::SYS_sched_setattr, pid.as_raw(), &raw const attributes, 0) });
    call!("sched_setattr({pid}, {attributes:?})" => value).map(drop)
}

/// `ioprio_set(2)` of one process.
pub fn ioprio_set(pid: Pid, priority: u32) -> Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: no pointers.
    let value = check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, pid.as_raw(), priority) });
    call!("ioprio_set({pid}, {priority:#x})" => value).map(drop)
}

/// `personality(2)`.
pub fn personality(value: u64) -> Result<()> {
    // SAFETY: no pointers.
    let done = check(unsafe { libc::syscall(libc::SYS_personality, value) });
    call!("personality({value:#x})" => done).map(drop)
}

/// `set_mempolicy(2)`; bit N of word N / 64 stands for node N.
pub fn set_mempolicy(mode: u32, nodes: &[u64]) -> Result<()> {
    let pointer = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // The kernel reads one bit less than it is told.
    let bits = if nodes.is_empty() { 0 } else { nodes.len() * 64 + 1 };
    // SAFETY: the mask has the bits that are announced and lives through the call.
    let value = check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) });
    call!("set_mempolicy({mode:#x}, {nodes:x?})" => value).map(drop)
}

/// `sched_setaffinity(2)` of the caller; bit N of word N / 64 stands for processor N.
pub fn sched_setaffinity(cpus: &[u64]) -> Result<()> {
    // SAFETY: the mask has the bytes that are announced and lives through the call.
    let value = check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(cpus), cpus.as_ptr()) });
    call!("sched_setaffinity({cpus:x?})" => value).map(drop)
}
