// SPDX-License-Identifier: Apache-2.0
//! orlop turns an OCI bundle into a confined process.
//!
//! ```text
//!  argv ──cli──▶ Command ──spec──▶ Spec ──plan──▶ Plan ──process──▶ container ──▶ state.json
//!         pure        reads 1 file   pure  ▲             │ calls
//!                     Host::detect ────────┘             ▼
//!                     (reads /proc once)        kernel/*  ──▶ sys/* (the only unsafe)
//! ```
//!
//! Imports go only rightwards. [`plan`] is total and deterministic: `(Spec, Host, Request) -> Plan | Problems`.
//! The library exists so that the binaries and tests share code; it is not a public interface.

#![deny(unsafe_code)]

pub mod cli;
pub mod command;
pub mod error;
pub mod host;
pub mod kernel;
pub mod lease;
pub mod log;
pub mod plan;
pub mod policy;
pub mod process;
pub mod sealed;
pub mod seccomp;
pub mod spec;
pub mod state;
pub mod sys;
pub mod time;
pub mod trace;
