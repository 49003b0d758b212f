// SPDX-License-Identifier: Apache-2.0
//! What a policy decided, kept with the container: `policy.json` in the state directory. Pure.
//!
//! It holds the text of every file of the policy instead of a digest of them: an auditor needs the text to know what it
//! said, `exec` is held to what it reads there again, and no crate of this program has a hash that would be worth the name.

use serde::Serialize;
use serde_json::Value;

use super::decide::Decision;
use super::model::{Policy, Source, Tables};

/// The record's file in the state directory.
pub const POLICY: &str = "policy.json";

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// In the order in which they decided.
    pub policies: Vec<Kept>,
    pub decisions: Vec<Decision>,
    /// Seccomp profiles beside `linux.seccomp`.
    pub stack: Vec<Value>,
    /// For each of them the policy's line and the profile's file.
    pub stack_names: Vec<String>,
    /// Where audit lines go.
    pub audit: Vec<String>,
    /// How many ids the policy has had leased.
    pub lease: Option<u32>,
}

impl Record {
    /// What is kept of it: all, and the [`digest`] of the effective `config`.
    pub fn to_json(&self, config: &[u8]) -> serde_json::Result<Vec<u8>> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct WithDigest<'a> {
            #[serde(flatten)]
            record: &'a Record,
            config_digest: String,
        }
        serde_json::to_vec(&WithDigest { record: self, config_digest: digest(config) })
    }
}

/// The SHA-256 of a config in hexadecimal.
pub fn digest(config: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(config).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One policy.
#[derive(Debug, Serialize)]
pub struct Kept {
    pub sources: Vec<Source>,
    /// The rules that select the container, by their places.
    pub rules: Vec<usize>,
}

/// What `exec` reads of a record.
#[derive(Debug)]
pub struct Held {
    pub tables: Vec<Tables>,
    pub stack: Vec<Value>,
    pub audit: Vec<String>,
    config_digests: Vec<String>,
}

/// A record with the digest of a changed config. That of the former holds too: of the two files one is written first, and
/// who writes may die between.
pub fn with_config(record: &[u8], old: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    let mut record: Value = serde_json::from_slice(record).ok()?;
    let members = record.as_object_mut()?;
    members.insert("configDigest".into(), digest(new).into());
    members.insert("formerConfigDigest".into(), digest(old).into());
    serde_json::to_vec(&record).ok()
}

impl Held {
    /// Whether a config is the one that was allowed.
    pub fn allows(&self, config: &[u8]) -> bool {
        self.config_digests.contains(&digest(config))
    }

    /// None if it is no record.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let record: Value = serde_json::from_slice(bytes).ok()?;
        let mut tables = Vec::new();
        for kept in record.get("policies")?.as_array()? {
            let mut policy = Policy::default();
            let mut faults = Vec::new();
            for source in kept.get("sources")?.as_array()? {
                let member = |name: &str| source.get(name)?.as_str();
                policy.add(member("path")?, member("text")?.to_string(), &mut faults);
            }
            let places = kept.get("rules")?.as_array()?;
            let rules: Option<Vec<usize>> = places.iter().map(|place| usize::try_from(place.as_u64()?).ok()).collect();
            if !faults.is_empty() {
                return None;
            }
            tables.push(policy.with_rules(&rules?));
        }
        let audit = record.get("audit")?.as_array()?.iter().map(|file| file.as_str().map(str::to_string));
        let config_digest = record.get("configDigest")?.as_str()?;
        let former = record.get("formerConfigDigest").and_then(Value::as_str);
        Some(Self {
            config_digests: std::iter::once(config_digest).chain(former).map(str::to_string).collect(),
            tables,
            stack: record.get("stack")?.as_array()?.clone(),
            audit: audit.collect::<Option<_>>()?,
        })
    }
}
