// SPDX-License-Identifier: Apache-2.0
//! Tests of the real binary on real bundles, as root. The same tests run on Debian's runc and crun with
//! `RUNTIME_UNDER_TEST=runc|crun`: a test that the peers fail is suspect, and says why when it is right.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, works on its own directories and is not a container"
)]

mod apparmor;
mod attacks;
mod audit;
mod budget;
mod bundles;
mod capabilities;
mod cgroup;
mod check;
mod checkpoint;
mod cli;
mod clients;
mod controllers;
mod denials;
mod devices;
mod errors;
mod events;
mod examples;
mod exec;
mod exec_failures;
mod exec_parity;
mod faults;
mod flags;
mod fuzz;
mod golden;
mod harness;
mod hooks;
mod idmap;
mod leaks;
mod lifecycle;
mod limits;
mod live_mounts;
mod mount_options;
mod mounts;
mod namespaces;
mod net_devices;
mod notify;
mod paths;
mod pause;
mod peers;
mod policy;
mod process;
mod races;
mod robustness;
mod rootless;
mod runtime_tools;
mod scheduling;
mod seccomp;
mod seccomp_tools;
mod security;
mod specs;
mod stack;
mod systemd;
mod timeline;
mod trace;
mod tty;
mod update;
mod userns;
mod vectors;
