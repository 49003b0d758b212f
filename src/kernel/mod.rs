// SPDX-License-Identifier: Apache-2.0

pub mod cgroup;

pub mod console;
pub mod device;
pub mod mount;
pub mod path;
pub mod rootfs;
