// SPDX-License-Identifier: Apache-2.0
//! `linux.sysctl`: only kernel parameters that belong to one of the container's own namespaces
//! (config-linux.md#sysctl, namespaces(7)).

use std::path::PathBuf;

use oci_spec::runtime::Linux;
use serde::Serialize;

use super::namespaces::{Kind, Namespaces};
use super::problem::Problems;

/// A write to a file of /proc/sys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sysctl {
    /// The key as config.json has it.
    pub key: String,
    /// The file below /proc/sys.
    pub path: PathBuf,
    pub value: String,
    /// The kind of namespace that it belongs to.
    #[serde(skip)]
    pub owner: Kind,
}

/// System V IPC parameters of ipc_namespaces(7).
const IPC: [&str; 8] = ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];

/// Reads `linux.sysctl`, sorted by key.
pub fn from_spec(linux: &Linux, namespaces: &Namespaces, problems: &mut Problems) -> Vec<Sysctl> {
    let mut entries: Vec<_> = linux.sysctl().iter().flatten().collect();
    entries.sort();
    let mut writes = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let at = format!("linux.sysctl.{key}");
        let path = path(key);
        problems.no_nul(&at, key);
        problems.no_nul(&at, value);
        let parts: Vec<&str> = path.split('/').collect();
        if parts.iter().any(|part| part.is_empty() || *part == "." || *part == "..") {
            problems.error(at, "is not the name of a kernel parameter");
            continue;
        }
        match owner(&parts) {
            Ok(owner) if namespaces.is_separate(owner) => {
                writes.push(Sysctl { key: key.clone(), path: PathBuf::from(path), value: value.clone(), owner });
            }
            Ok(kind) => problems.error(at, format!("needs a \"{}\" entry in linux.namespaces", kind.name())),
            Err(message) => problems.error(at, message),
        }
    }
    writes
}

/// `net.ipv4.conf.eth0/1.forwarding` -> `net/ipv4/conf/eth0.1/forwarding`; a key whose first separator is a slash is a
/// path already (sysctl(8)).
fn path(key: &str) -> String {
    if key.find('.').unwrap_or(usize::MAX) < key.find('/').unwrap_or(usize::MAX) {
        key.chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect()
    } else {
        key.to_string()
    }
}

/// The kind of namespace that a parameter belongs to.
fn owner(parts: &[&str]) -> Result<Kind, &'static str> {
    match parts {
        ["kernel", "hostname"] => Err("is refused: set hostname instead"),
        ["kernel", "domainname"] => Ok(Kind::Uts),
        ["kernel", name] if IPC.contains(name) => Ok(Kind::Ipc),
        ["fs", "mqueue", _, ..] => Ok(Kind::Ipc),
        ["net", _, ..] => Ok(Kind::Network),
        ["user", _] => Ok(Kind::User),
        _ => Err("is refused: the parameter belongs to no namespace, a change would reach the host"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parameters_of_the_containers_own_namespaces_pass() {
        let linux: Linux = serde_json::from_value(serde_json::json!({
            "namespaces": [{"type": "network"}, {"type": "ipc"}],
            "sysctl": {
                "net.ipv4.ip_forward": "1", "net/ipv4/conf/eno2.100/forwarding": "1", "net.ipv4.conf.eno2/100.mtu": "1",
                "kernel.shmmax": "1", "fs.mqueue.msg_max": "5", "kernel.domainname": "d", "kernel.hostname": "h",
                "user.max_user_namespaces": "1", "vm.swappiness": "1", "net.ipv4...x": "1", "kernel/../vm": "2"
            }
        }))
        .unwrap();
        let mut problems = Problems::default();
        let namespaces = Namespaces::from_spec(&linux, &mut problems);
        let writes = from_spec(&linux, &namespaces, &mut problems);
        let mut refused: Vec<_> = problems.errors.iter().map(|p| p.path.as_str()).collect();
        refused.sort_unstable();
        assert_eq!(
            refused,
            [
                "linux.sysctl.kernel.domainname",
                "linux.sysctl.kernel.hostname",
                "linux.sysctl.kernel/../vm",
                "linux.sysctl.net.ipv4...x",
                "linux.sysctl.user.max_user_namespaces",
                "linux.sysctl.vm.swappiness"
            ]
        );
        let path = |key: &str| writes.iter().find(|w| w.key == key).unwrap().path.to_str().unwrap().to_string();
        assert_eq!(path("net/ipv4/conf/eno2.100/forwarding"), "net/ipv4/conf/eno2.100/forwarding");
        assert_eq!(path("net.ipv4.conf.eno2/100.mtu"), "net/ipv4/conf/eno2.100/mtu");
    }
}
