// SPDX-License-Identifier: Apache-2.0
//! Control groups, cgroups(7): [`detect`] how the host mounts them, [`create`] the container's as planned, find it again
//! as [`Existing`]. Works by descriptors beneath the mounts and removes only what a container owns. The directories
//! are made here, or by [`super::systemd`].

mod create;
mod existing;
mod freezer;
mod fs;
mod handle;
mod layout;
mod oom;
mod stats;
pub mod update;

pub use create::{create, directories};
pub use existing::{Existing, SubCgroup};
pub use handle::Handle;
pub use layout::{MOUNT_POINT, detect, unified_of};
pub use oom::OomWatch;
