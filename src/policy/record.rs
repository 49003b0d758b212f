// SPDX-License-Identifier: Apache-2.0
//! What a policy decided, kept with the container: `policy.json` in the state directory. Pure.
//!
//! It holds the text of every file of the policy instead of a digest of them: an auditor needs the text to know what it
//! said, and no crate of this program has a hash that would be worth the name.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::decide::{Decision, ProcessRules};

/// The record's file in the state directory.
pub const POLICY: &str = "policy.json";

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    pub sources: Vec<KeptSource>,
    pub decisions: Vec<Decision>,
    /// One for each policy, in the order in which they decided.
    pub process: Vec<ProcessRules>,
    /// Seccomp profiles beside `linux.seccomp`.
    pub stack: Vec<Value>,
    /// Where audit lines go.
    pub audit: Vec<String>,
    /// How many ids the policy has had leased.
    pub lease: Option<u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeptSource {
    pub path: String,
    pub text: String,
}
