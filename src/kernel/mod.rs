// SPDX-License-Identifier: Apache-2.0

pub mod cgroup;

pub mod console;
pub mod copy_up;
pub mod device;
pub mod host_mounts;
pub mod mount;
pub mod path;
pub mod rootfs;
