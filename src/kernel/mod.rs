// SPDX-License-Identifier: Apache-2.0
//! Effects, one file for each of the kernel's nouns: small functions that take plan data and make system calls.

pub mod audit;
pub mod capability;
pub mod cgroup;
pub mod console;
pub mod copy_up;
pub mod device;
pub mod executable;
pub mod hook;
pub mod host_mounts;
pub mod idmap;
pub mod lsm;
pub mod mount;
pub mod namespace;
pub mod path;
pub mod procfs;
pub mod program;
pub mod rootfs;
pub mod scheduling;
pub mod seccomp;
pub mod signal;
pub mod subid;
pub mod systemd;
