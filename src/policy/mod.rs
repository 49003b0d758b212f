// SPDX-License-Identifier: Apache-2.0
//! What the operator allows and adds, whatever a bundle asks for.
//!
//! ```text
//!  /etc/orlop/policy.toml ──file──▶ text ──read──▶ Policy ──decide──▶ edits of config.json + decisions, or refusals
//!  (root's alone)                          pure             pure  ▲
//!                                                     Spec, Facts ┘
//! ```
//!
//! A decision is made on the config before it is planned, so that the plan, `exec` and the copy in the state directory
//! see nothing but what the policy made of it. Without a policy file nothing here runs.

pub mod decide;
pub mod file;
pub mod glob;
pub mod mesos;
pub mod model;
pub mod read;
pub mod record;

#[cfg(test)]
mod tests;
