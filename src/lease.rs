// SPDX-License-Identifier: Apache-2.0
//! `--userns=auto`: a range of ids that no other container of the state root has.
//!
//! The lease is a file in the container's own directory, written before anything uses the ids. It needs no release: it
//! goes with the directory, whichever way that goes (delete, delete --force, a failing create), and a crash cannot leave
//! one without a container. The lock is on the root's directory itself.

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::error::ResultExt;
use crate::plan::config::Spec;
use crate::plan::idmap::Range;
use crate::plan::lease::{Lease, Span, free, lowest, spans};
use crate::state::{Root, StateDir};

/// The lease in a container's directory.
const FILE: &str = "lease.json";
/// How many ids a container gets unless it is said: every id that /etc/passwd of an image may have.
pub const DEFAULT_SIZE: u32 = 65_536;

/// Leases `size` uids and as many gids for the container of `dir`.
pub fn take(root: &Root, dir: &StateDir, size: u32) -> Result<Lease> {
    let (uids, gids) = (Pool::read("/etc/subuid")?, Pool::read("/etc/subgid")?);
    let _lock = root.lock()?;
    let others = taken(root, dir)?;
    let lease = Lease {
        uid: uids.take(&others.iter().map(|lease| lease.uid).collect::<Vec<_>>(), size)?,
        gid: gids.take(&others.iter().map(|lease| lease.gid).collect::<Vec<_>>(), size)?,
    };
    dir.save(FILE, &serde_json::to_vec(&lease)?)?;
    Ok(lease)
}

/// Whether the container of `dir` has a lease.
pub fn is_held(dir: &StateDir) -> Result<bool> {
    Ok(dir.load_bytes(FILE)?.is_some())
}

/// The leases of all other containers.
fn taken(root: &Root, own: &StateDir) -> Result<Vec<Lease>> {
    let mut leases = Vec::new();
    for id in root.ids()?.unwrap_or_default() {
        // One that goes away meanwhile frees its ids.
        if id == own.id {
            continue;
        }
        let Ok(dir) = root.container(&id) else { continue };
        if let Some(bytes) = dir.load_bytes(FILE)? {
            let lease = serde_json::from_slice(&bytes)
                .with_context(|| format!("{:?} is damaged", dir.path.join(FILE)))
                .hint(format!("orlop delete --force {id} removes the container"))?;
            leases.push(lease);
        }
    }
    Ok(leases)
}

/// The ids to lease from: those of one user in one file.
struct Pool {
    file: &'static str,
    user: &'static str,
    spans: Vec<Span>,
}

impl Pool {
    /// The entries of the user `containers`, as podman has it, or else those of root.
    fn read(file: &'static str) -> Result<Self> {
        let text = match std::fs::read_to_string(file) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.with_context(|| file.to_string())?,
        };
        let pool = [("containers", &["containers"][..]), ("root", &["root", "0"])]
            .into_iter()
            .map(|(user, names)| Self { file, user, spans: spans(&text, names) })
            .find(|pool| !pool.spans.is_empty());
        pool.ok_or_else(|| anyhow!("{file} has no entry of the user containers or root")).hint(format!(
            "add a line such as containers:2147483648:16777216 to {file}, which is enough for 256 containers"
        ))
    }

    fn take(&self, taken: &[Span], size: u32) -> Result<Span> {
        let left = free(&self.spans, taken);
        let sum = |spans: &[Span]| spans.iter().map(|span| span.size).sum::<u64>();
        let largest = left.iter().map(|span| span.size).max().unwrap_or(0);
        lowest(&left, size)
            .ok_or_else(|| {
                anyhow!(
                    "no free range of {size} ids is left: {} gives {} ids to {}, of which {} are free, {largest} in one \
                     piece",
                    self.file,
                    sum(&self.spans),
                    self.user,
                    sum(&left)
                )
            })
            .hint(format!(
                "add a line such as {}:2147483648:16777216 to {}, delete containers, or ask for fewer ids with \
                 --userns=auto:size=N",
                self.user, self.file
            ))
    }
}

/// The config with a user namespace that has the lease's mapping: what every later step, `exec` too, goes by.
pub fn add_to(bytes: &[u8], lease: &Lease) -> Result<Vec<u8>> {
    let mut config: Value = serde_json::from_slice(bytes)?;
    let linux = config.get_mut("linux").context("config.json: linux: is missing")?;
    let linux = linux.as_object_mut().context("config.json: linux: is no object")?;
    let namespaces = linux.entry("namespaces").or_insert(Value::Null);
    if namespaces.is_null() {
        *namespaces = json!([]);
    }
    let namespaces = namespaces.as_array_mut().context("config.json: linux.namespaces: is no array")?;
    if !namespaces.iter().any(|entry| entry.get("type").is_some_and(|kind| kind == "user")) {
        namespaces.push(json!({"type": "user"}));
    }
    let map = lease.map();
    let list = |ranges: &[Range]| -> Value {
        let one = |r: &Range| json!({"containerID": r.container, "hostID": r.host, "size": r.size});
        ranges.iter().map(one).collect()
    };
    linux.insert("uidMappings".into(), list(&map.uid));
    linux.insert("gidMappings".into(), list(&map.gid));
    Ok(serde_json::to_vec(&config)?)
}

/// Refuses a config that says for itself which ids it wants.
pub fn check(spec: &Spec) -> Result<()> {
    let Some(linux) = &spec.linux else { return Ok(()) };
    for (name, mappings) in [("uidMappings", linux.uid_mappings()), ("gidMappings", linux.gid_mappings())] {
        if mappings.as_ref().is_some_and(|mappings| !mappings.is_empty()) {
            bail!("config.json: linux.{name}: the bundle has mappings of its own, so that there is nothing to lease");
        }
    }
    for (i, namespace) in linux.namespaces().iter().flatten().enumerate() {
        let path = namespace.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
        if namespace.typ() == oci_spec::runtime::LinuxNamespaceType::User && path {
            bail!("config.json: linux.namespaces[{i}].path: the bundle joins a user namespace, which has its mappings");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_config_has_the_namespace_once() {
        let span = |first| Span { first, size: 10 };
        let lease = Lease { uid: span(1000), gid: span(2000) };
        for config in [
            json!({"linux": {}}),
            json!({"linux": {"namespaces": [{"type": "user"}, {"type": "pid"}]}}),
            json!({"linux": {"namespaces": null, "sysctl": {"a": "b"}}}),
        ] {
            let bytes = add_to(config.to_string().as_bytes(), &lease).unwrap();
            let made: Value = serde_json::from_slice(&bytes).unwrap();
            let users = made["linux"]["namespaces"].as_array().unwrap().iter().filter(|n| n["type"] == "user").count();
            assert_eq!(users, 1, "{made}");
            assert_eq!(made["linux"]["uidMappings"], json!([{"containerID": 0, "hostID": 1000, "size": 10}]));
            assert_eq!(made["linux"]["gidMappings"][0]["hostID"], 2000);
            assert_eq!(made["linux"]["sysctl"], config["linux"]["sysctl"]);
        }
    }
}
