// SPDX-License-Identifier: Apache-2.0
//! The root filesystem as data: `root`, `mounts`, `linux.devices`, `linux.maskedPaths`, `linux.readonlyPaths`,
//! `linux.rootfsPropagation`. Decides everything that does not need the kernel's answer.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::config::Spec;
use super::devices::{self, Device};
use super::idmap::MountMap;
use super::mount_options::{Propagation, PropagationType};
use super::mounts::{self, Kind, Mount};
use super::problem::Problems;
use crate::host::Host;

/// What the rest of the plan decided, as far as the filesystem depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub new_mount_ns: bool,
    pub new_user_ns: bool,
    pub joined_user_ns: bool,
    pub new_net_ns: bool,
    pub new_cgroup_ns: bool,
    /// `process.terminal`.
    pub terminal: bool,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--userns=auto`: the root and every bind mount get the container's mapping.
    pub idmap_all: bool,
    /// The caller is not root, not even of a user namespace.
    pub ordinary_user: bool,
}

/// A path inside the container: absolute, without NUL, `.`, `..`, or double slashes. Its components may still be links
/// of the container, which is why only `kernel::path` turns it into a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct InRoot(String);

impl InRoot {
    /// Cleans `path` by its words alone, relative paths and `..` starting at the root. A NUL is a problem at `at`.
    pub fn new(at: impl Into<String>, path: &str, problems: &mut Problems) -> Option<Self> {
        problems.no_nul(at, path).then(|| {
            let mut parts: Vec<&str> = Vec::new();
            for part in path.split('/') {
                match part {
                    "" | "." => {}
                    ".." => drop(parts.pop()),
                    part => parts.push(part),
                }
            }
            Self(format!("/{}", parts.join("/")))
        })
    }

    /// The path, which begins with a slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is `/`.
    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }

    /// Whether it is inside `other`, and not `other` itself.
    pub fn is_below(&self, other: &Self) -> bool {
        other.is_root() && !self.is_root() || self.0.strip_prefix(&other.0).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl fmt::Display for InRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything about the root filesystem.
#[derive(Debug, Clone, Serialize)]
pub struct Filesystem {
    /// `root.path`, absolute on the host.
    pub root: PathBuf,
    /// Whether the root and all below it are idmapped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_idmap: Option<MountMap>,
    /// `root.readonly`.
    pub read_only: bool,
    /// `linux.rootfsPropagation`.
    pub propagation: Propagation,
    /// Whether there is a new mount namespace. Without one nothing is mounted or made: the container gets a `chroot(2)`.
    pub mount_namespace: bool,
    /// Whether the child is in a user namespace other than orlop's.
    pub user_namespace: bool,
    /// Whether the child has a network namespace of its own, which a new sysfs needs in a user namespace.
    pub network_namespace: bool,
    /// Whether the child has a cgroup namespace of its own.
    pub cgroup_namespace: bool,
    pub terminal: bool,
    /// `--no-pivot`: move the root and `chroot(2)`, for hosts whose root is the initramfs.
    pub no_pivot: bool,
    pub mounts: Vec<Mount>,
    /// `linux.mountLabel`: the SELinux context of all that is in the container's new file systems.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Whether /dev is orlop's to fill. Not so if the configuration binds another directory there, or the devtmpfs.
    pub populate_dev: bool,
    pub devices: Vec<Device>,
    /// `linux.maskedPaths`, without duplicates.
    pub masked: Vec<InRoot>,
    /// `linux.readonlyPaths`, without duplicates.
    pub read_only_paths: Vec<InRoot>,
    /// `process.cwd`, made if it is missing, as runc does.
    pub cwd: InRoot,
}

impl Filesystem {
    /// Plans the root filesystem of a bundle, whose path must be absolute. Problems carry the JSON path; the result is
    /// only meaningful without errors.
    pub fn from_spec(spec: &Spec, bundle: &Path, facts: &Facts, host: &Host, problems: &mut Problems) -> Self {
        let linux = spec.linux.as_ref();
        let user_namespace = facts.new_user_ns || facts.joined_user_ns;
        let mounts = mounts::plan(spec.mounts.as_deref().unwrap_or_default(), bundle, facts, problems);
        // A devtmpfs is the host's /dev as much as a bind of it: there is only one.
        let is_hosts = |kind: &Kind| match kind {
            Kind::Bind { .. } => true,
            Kind::Other { fstype } => fstype == "devtmpfs",
            _ => false,
        };
        let populate_dev =
            facts.new_mount_ns && !mounts.iter().any(|m| m.destination.as_str() == "/dev" && is_hosts(&m.kind));
        let configured = linux.and_then(|l| l.devices().as_deref()).unwrap_or_default();
        if !configured.is_empty() {
            needs_mount_namespace("linux.devices", facts, problems);
            if facts.new_mount_ns && !populate_dev {
                problems.warn("linux.devices", "ignored: /dev is the host's, by mounts[]");
            }
        }
        let devices = devices::plan(configured, user_namespace || !host.initial_user_namespace, problems);
        let label = linux.and_then(|l| l.mount_label().clone()).filter(|label| !label.is_empty());
        if let Some(label) = &label {
            problems.no_nul("linux.mountLabel", label);
            needs_mount_namespace("linux.mountLabel", facts, problems);
        }
        let masked = linux.and_then(|l| l.masked_paths().as_deref()).unwrap_or_default();
        let read_only_paths = linux.and_then(|l| l.readonly_paths().as_deref()).unwrap_or_default();
        let read_only = spec.root.as_ref().is_some_and(|root| root.readonly().unwrap_or(false));
        if read_only {
            needs_mount_namespace("root.readonly", facts, problems);
        }
        let cwd = spec.process.as_ref().map(|p| p.cwd.to_string_lossy()).unwrap_or_default();
        Self {
            root: root(spec, bundle, problems),
            root_idmap: facts.idmap_all.then_some(MountMap { own: None, recursive: true, lenient: false }),
            read_only,
            propagation: propagation(linux.and_then(|l| l.rootfs_propagation().as_deref()), facts, problems),
            mount_namespace: facts.new_mount_ns,
            user_namespace,
            network_namespace: facts.new_net_ns,
            cgroup_namespace: facts.new_cgroup_ns,
            terminal: facts.terminal,
            no_pivot: facts.no_pivot,
            mounts,
            label,
            populate_dev,
            devices: if populate_dev { devices } else { Vec::new() },
            masked: paths("linux.maskedPaths", masked, facts, problems),
            read_only_paths: paths("linux.readonlyPaths", read_only_paths, facts, problems),
            // The process's own plan reports what is wrong with cwd.
            cwd: InRoot::new("process.cwd", &cwd, &mut Problems::default()).unwrap_or(InRoot("/".to_string())),
        }
    }
}

fn needs_mount_namespace(at: &str, facts: &Facts, problems: &mut Problems) {
    if !facts.new_mount_ns {
        problems.error(at, "needs a new mount namespace: a \"mount\" entry without a path in linux.namespaces");
    }
}

fn root(spec: &Spec, bundle: &Path, problems: &mut Problems) -> PathBuf {
    let Some(root) = &spec.root else {
        problems.error("root", "is missing");
        return PathBuf::new();
    };
    let path = root.path();
    if path.as_os_str().is_empty() {
        problems.error("root.path", "is missing or empty");
    }
    problems.no_nul("root.path", &path.to_string_lossy());
    bundle.join(path)
}

fn propagation(word: Option<&str>, facts: &Facts, problems: &mut Problems) -> Propagation {
    let default = Propagation { to: PropagationType::Slave, recursive: true };
    let Some(word) = word.filter(|word| !word.is_empty()) else { return default };
    needs_mount_namespace("linux.rootfsPropagation", facts, problems);
    Propagation::parse(word).unwrap_or_else(|| {
        problems.error(
            "linux.rootfsPropagation",
            format!("{word:?} is not one of private, slave, shared, unbindable, or one of these after an r"),
        );
        default
    })
}

fn paths(at: &str, words: &[String], facts: &Facts, problems: &mut Problems) -> Vec<InRoot> {
    if !words.is_empty() {
        needs_mount_namespace(at, facts, problems);
    }
    let mut paths: Vec<InRoot> = Vec::with_capacity(words.len());
    for (i, word) in words.iter().enumerate() {
        let at = format!("{at}[{i}]");
        if !word.starts_with('/') {
            problems.error(at, format!("{word:?} is not absolute"));
        } else if let Some(path) = InRoot::new(&at, word, problems)
            && !paths.contains(&path)
        {
            paths.push(path);
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::CgroupLayout;
    use serde_json::{Value, json};

    const FACTS: Facts = Facts {
        new_mount_ns: true,
        new_user_ns: false,
        joined_user_ns: false,
        new_net_ns: true,
        new_cgroup_ns: true,
        terminal: false,
        no_pivot: false,
        idmap_all: false,
        ordinary_user: false,
    };

    fn planned(config: Value, facts: Facts) -> (Filesystem, Problems) {
        let spec: Spec = serde_json::from_value(config).unwrap();
        let host = Host {
            euid: 0,
            egid: 0,
            may_set_groups: true,
            may_clone_mounts: true,
            initial_user_namespace: true,
            permitted: 0,
            bounding: 0,
            ignored_signals: 0,
            cgroups: CgroupLayout::None,
        };
        let mut problems = Problems::default();
        let fs = Filesystem::from_spec(&spec, Path::new("/bundle"), &facts, &host, &mut problems);
        (fs, problems)
    }

    fn config(linux: Value) -> Value {
        json!({"ociVersion": "1.2.0", "root": {"path": "rootfs"}, "linux": linux})
    }

    #[test]
    fn a_small_configuration_gets_the_defaults() {
        let (fs, problems) = planned(config(json!({})), FACTS);
        assert_eq!(problems, Problems::default());
        assert_eq!(fs.root, Path::new("/bundle/rootfs"));
        assert!(!fs.read_only && fs.populate_dev);
        assert_eq!(fs.propagation, Propagation { to: PropagationType::Slave, recursive: true });
        assert_eq!(fs.devices.len(), 6);
        assert!(fs.cwd.is_root());
    }

    #[test]
    fn faults_have_their_json_path() {
        for (linux, path) in [
            (json!({"mountLabel": "a\u{0}b"}), "linux.mountLabel"),
            (json!({"rootfsPropagation": "open"}), "linux.rootfsPropagation"),
            (json!({"maskedPaths": ["/a", "b"]}), "linux.maskedPaths[1]"),
            (json!({"readonlyPaths": ["/a\u{0}"]}), "linux.readonlyPaths[0]"),
        ] {
            let (_, problems) = planned(config(linux.clone()), FACTS);
            assert_eq!(problems.errors[0].path, path, "{linux}");
        }
        let (_, problems) = planned(json!({"ociVersion": "1.2.0", "root": {"path": ""}}), FACTS);
        assert_eq!(problems.errors[0].path, "root.path");
        let (_, problems) = planned(json!({"ociVersion": "1.2.0", "root": {"path": "a\u{0}b"}}), FACTS);
        assert_eq!(problems.errors[0].path, "root.path");
    }

    #[test]
    fn without_a_mount_namespace_each_field_that_needs_one_is_named() {
        let mut config = config(json!({
            "maskedPaths": ["/a"], "readonlyPaths": ["/b"], "rootfsPropagation": "shared",
            "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}],
        }));
        config["root"]["readonly"] = json!(true);
        let (fs, problems) = planned(config, Facts { new_mount_ns: false, ..FACTS });
        let paths: Vec<&str> = problems.errors.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(
            paths,
            ["linux.devices", "root.readonly", "linux.rootfsPropagation", "linux.maskedPaths", "linux.readonlyPaths"]
        );
        assert!(fs.devices.is_empty());
    }

    #[test]
    fn a_bound_dev_is_left_alone() {
        let mut config = config(json!({}));
        config["mounts"] = json!([{"destination": "/dev/", "source": "/dev", "options": ["rbind"]}]);
        let (fs, _) = planned(config.clone(), FACTS);
        assert!(!fs.populate_dev && fs.devices.is_empty());
        config["mounts"] = json!([{"destination": "/dev", "type": "devtmpfs"}]);
        config["linux"]["devices"] = json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}]);
        let (fs, problems) = planned(config, FACTS);
        assert!(!fs.populate_dev && fs.devices.is_empty());
        assert_eq!(problems.warnings[0].path, "linux.devices");
    }

    #[test]
    fn in_a_user_namespace_devices_are_bound() {
        let (fs, _) = planned(config(json!({})), Facts { new_user_ns: true, ..FACTS });
        assert!(fs.user_namespace && fs.devices.iter().all(|d| d.bind));
    }

    #[test]
    fn paths_are_cleaned_and_unique() {
        let (fs, _) = planned(config(json!({"maskedPaths": ["/proc/kcore", "/proc//./kcore", "/../a"]})), FACTS);
        let masked: Vec<&str> = fs.masked.iter().map(InRoot::as_str).collect();
        assert_eq!(masked, ["/proc/kcore", "/a"]);
    }

    #[test]
    fn below_means_whole_components() {
        let path = |text| InRoot::new("", text, &mut Problems::default()).unwrap();
        assert!(path("/a/b").is_below(&path("/a")));
        assert!(path("/a").is_below(&path("/")));
        for (inner, outer) in [("/ab", "/a"), ("/a", "/a"), ("/", "/"), ("/", "/a")] {
            assert!(!path(inner).is_below(&path(outer)), "{inner} {outer}");
        }
    }
}
