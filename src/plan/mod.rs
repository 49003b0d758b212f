// SPDX-License-Identifier: Apache-2.0

pub mod problem;

pub mod cgroup;
pub mod device_filter;

pub mod devices;
pub mod filesystem;
pub mod mount_options;
pub mod mounts;
