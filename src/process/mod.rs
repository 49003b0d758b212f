// SPDX-License-Identifier: Apache-2.0
//! The scripts: what parent and child do, top to bottom, to make, start and remove a container. Their order is their
//! content.

pub mod channel;
pub mod checkpoint;
pub mod create;
pub mod destroy;
pub mod exec;
pub mod foreground;
pub mod init;
pub mod mounts;
pub mod notify;
pub mod restore;
pub mod start;
pub mod step;
pub mod tail;
pub mod watch;
