// SPDX-License-Identifier: Apache-2.0
//! What `create` will do, decided before anything is done. Pure: no system call, no file, no clock.

pub mod capabilities;
pub mod cgroup;
pub mod config;
pub mod device_filter;
pub mod devices;
pub mod filesystem;
pub mod hooks;
pub mod idmap;
pub mod lease;
pub mod mount_options;
pub mod mounts;
pub mod namespaces;
pub mod net_devices;
pub mod problem;
pub mod process;
pub mod resctrl;
pub mod rootless;
pub mod scheduling;
pub mod sysctl;
pub mod systemd;

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{Linux, LinuxSeccomp};
use serde::Serialize;

use crate::host::{CgroupLayout, Host};
use crate::seccomp;
use capabilities::Set;
use cgroup::Cgroup;
use config::Spec;
use filesystem::Filesystem;
use hooks::Hooks;
use idmap::IdMap;
use mount_options::attr;
use namespaces::{Kind, Namespace, Namespaces, Shape};
use net_devices::NetDevice;
use problem::Problems;
use process::Process;
use resctrl::Resctrl;
use sysctl::Sysctl;

/// What the caller asks for beside config.json: names and switches of the command line.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub id: String,
    /// Absolute.
    pub bundle: PathBuf,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    /// How many descriptors from 3 on the container's process keeps, behind those of `listen_fds`.
    pub preserve_fds: u32,
    /// How many the caller has passed from 3 on by sd_listen_fds(3), to be passed on.
    pub listen_fds: u32,
    /// `--cgroup-manager disabled`: the container stays in the caller's cgroup.
    pub no_cgroup: bool,
    /// `--userns=auto`: the root and the bind mounts are idmapped with the container's mapping.
    pub idmap_all: bool,
    /// `--rootless`: whether a cgroup that may not be made or limited is done without. None: if nothing asks for it.
    pub tolerate_cgroups: Option<bool>,
    /// `--systemd-cgroup`: the systemd that makes the cgroup. None: orlop does.
    pub systemd: Option<systemd::Manager>,
    /// Seccomp profiles of the operator, which bind the container beside its own.
    pub extra_seccomp: Vec<LinuxSeccomp>,
    /// For each of them where the operator has named it.
    pub extra_seccomp_names: Vec<String>,
}

/// Everything `create` will do. Plain data: no descriptors, nothing of the spec's types.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    pub id: String,
    pub bundle: PathBuf,
    pub namespaces: Namespaces,
    pub shape: Shape,
    /// Some exactly if a new user namespace is made.
    pub idmap: Option<IdMap>,
    pub filesystem: Filesystem,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub sysctl: Vec<Sysctl>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub net_devices: Vec<NetDevice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resctrl: Option<Resctrl>,
    pub cgroup: Cgroup,
    pub process: Process,
    pub seccomp: Option<seccomp::Compiled>,
    pub hooks: Hooks,
    pub annotations: BTreeMap<String, String>,
    pub no_pivot: bool,
    pub new_keyring: bool,
    /// How many descriptors from 3 on the process keeps.
    pub preserve_fds: u32,
    /// How many of them, the first, are announced by LISTEN_FDS and LISTEN_PID.
    #[serde(skip_serializing_if = "is_zero")]
    pub listen_fds: u32,
    /// The caller is not root: what only root can do to a process is done by the process itself, or not at all.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ordinary_user: bool,
    /// Only the child can clone the host's mounts, in the copy of them that its mount namespace begins with.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mounts_inside: bool,
}

impl Plan {
    /// Turns a config into a plan, or into all its faults. The warnings come with either.
    pub fn from_spec(spec: &Spec, host: &Host, request: &Request) -> (Option<Self>, Problems) {
        let mut problems = Problems::default();
        version(&spec.oci_version, &mut problems);
        let absent = Linux::default();
        let linux = match &spec.linux {
            Some(linux) => linux,
            None => {
                problems.error("linux", "is missing: orlop runs Linux containers only");
                &absent
            }
        };
        let namespaces = Namespaces::from_spec(linux, &mut problems);
        let idmap = idmap::from_spec(linux, &namespaces, &mut problems);
        let available = if namespaces.is_separate(Kind::User) || host.euid != 0 {
            // The first process of a user namespace has every capability in it; an ordinary user needs one, and is told so.
            Set(u64::MAX)
        } else {
            Set(host.permitted & host.bounding)
        };
        let mut process = process::from_spec(spec, idmap.as_ref(), available, &mut problems);
        if let Some(process) = &mut process {
            process.keeps_groups = !host.may_set_groups;
        }
        let groups = process.as_ref().is_some_and(|process| !process.additional_gids.is_empty());
        rootless::check(linux, &namespaces, idmap.as_ref(), groups, host, &mut problems);
        let facts = filesystem::Facts {
            new_mount_ns: namespaces.is_new(Kind::Mount),
            new_user_ns: namespaces.is_new(Kind::User),
            joined_user_ns: matches!(namespaces.user, Namespace::Join(_)),
            new_net_ns: namespaces.is_new(Kind::Network),
            new_cgroup_ns: namespaces.is_new(Kind::Cgroup),
            terminal: process.as_ref().is_some_and(|p| p.terminal),
            no_pivot: request.no_pivot,
            idmap_all: request.idmap_all,
            ordinary_user: host.euid != 0,
        };
        let filesystem = Filesystem::from_spec(spec, &request.bundle, &facts, host, &mut problems);
        let plan = Self {
            id: request.id.clone(),
            bundle: request.bundle.clone(),
            shape: namespaces.shape(),
            filesystem,
            hostname: name("hostname", &spec.hostname, &namespaces, &mut problems),
            domainname: name("domainname", &spec.domainname, &namespaces, &mut problems),
            sysctl: sysctl::from_spec(linux, &namespaces, &mut problems),
            net_devices: net_devices::from_spec(linux, &namespaces, host.euid == 0, &mut problems),
            resctrl: resctrl::from_spec(linux, &request.id, &mut problems),
            cgroup: cgroup(linux, spec, host, request, &mut problems),
            seccomp: seccomp_section(linux, &request.extra_seccomp, &mut problems),
            hooks: hooks::from_spec(spec, &mut problems),
            annotations: spec.annotations.clone().unwrap_or_default().into_iter().collect(),
            no_pivot: request.no_pivot,
            new_keyring: !request.no_new_keyring,
            preserve_fds: request.preserve_fds + request.listen_fds,
            listen_fds: request.listen_fds,
            ordinary_user: host.euid != 0,
            mounts_inside: namespaces.is_new(Kind::Mount) && !host.may_clone_mounts,
            namespaces,
            idmap,
            process: match process {
                Some(process) => process,
                None => return (None, problems),
            },
        };
        let mut plan = plan;
        plan.cgroup.owner = cgroup_owner(host, &plan);
        if plan.ordinary_user && plan.seccomp.as_ref().is_some_and(|seccomp| seccomp.listener.is_some()) {
            problems.error_hint(
                "linux.seccomp.listenerPath",
                "an ordinary user cannot hand the listener over",
                "pidfd_getfd(2) takes it out of a process that is not dumpable, which only root may do",
            );
        }
        if plan.annotations.contains_key("") {
            problems.error("annotations", "a key must not be empty");
        }
        let plan = problems.errors.is_empty().then_some(plan);
        (plan, problems)
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The cgroup, or none with `--cgroup-manager disabled`; `--rootless` says whether it is done without where the caller may not make it.
fn cgroup(linux: &Linux, spec: &Spec, host: &Host, request: &Request, problems: &mut Problems) -> Cgroup {
    let planned = match &request.systemd {
        Some(manager) => {
            let annotations = spec.annotations.clone().unwrap_or_default().into_iter().collect();
            systemd::plan(linux, &annotations, &request.id, host, manager, problems)
        }
        None => Cgroup::from_spec(linux, &request.id, host, problems),
    };
    if request.no_cgroup {
        // The rules that keep device nodes shut are among them on v1, and a container that asks for no cgroup asks for none.
        for write in planned.writes.iter().filter(|write| !write.field.starts_with("linux.resources.devices")) {
            problems.error(&write.field, "cannot hold without a cgroup, and --cgroup-manager disabled asks for none");
        }
        return Cgroup::default();
    }
    Cgroup { optional: request.tolerate_cgroups.unwrap_or(planned.optional), ..planned }
}

/// config-linux.md#cgroup-ownership: whom the cgroup is delegated to. Only v2 can be, and only a container that sees its
/// own cgroup, to write, has a use for it.
fn cgroup_owner(host: &Host, plan: &Plan) -> Option<u32> {
    let mounts = &plan.filesystem.mounts;
    let mounted = mounts.iter().enumerate().any(|(i, mount)| {
        let is_cgroup = match &mount.kind {
            mounts::Kind::Cgroup => true,
            mounts::Kind::Other { fstype } => fstype == "cgroup2",
            _ => false,
        };
        is_cgroup
            && mount.destination.as_str() == "/sys/fs/cgroup"
            && mounts::change_of(mounts, i).set & attr::RDONLY == 0
    });
    if !matches!(host.cgroups, CgroupLayout::Unified(_)) || !plan.namespaces.is_new(Kind::Cgroup) || !mounted {
        return None;
    }
    let uid = plan.process.uid;
    let owner = match &plan.idmap {
        Some(map) => idmap::to_host(&map.uid, uid),
        // What a namespace maps that is joined is not in the config.
        None => (!plan.namespaces.is_separate(Kind::User)).then_some(uid),
    };
    owner.filter(|owner| *owner != host.euid && host.euid == 0)
}

/// `ociVersion`: SemVer of a 1.x specification.
fn version(version: &str, problems: &mut Problems) {
    let mut parts = version.split(['.', '-', '+']);
    let mut number = || parts.next().and_then(|part| part.parse::<u32>().ok());
    match (number(), number(), number()) {
        (Some(1), Some(minor), Some(_)) => {
            if minor > 3 {
                problems.warn("ociVersion", format!("{version} is newer than 1.3; members it adds are ignored"));
            }
        }
        _ if version.is_empty() => problems.error("ociVersion", "is missing, expected a version such as \"1.2.0\""),
        _ => problems.error("ociVersion", format!("must be a 1.x version, is {version:?}")),
    }
}

fn name(member: &str, value: &Option<String>, namespaces: &Namespaces, problems: &mut Problems) -> Option<String> {
    let value = value.as_ref().filter(|value| !value.is_empty())?;
    if !namespaces.is_separate(Kind::Uts) {
        problems.error(member, "needs a \"uts\" entry in linux.namespaces");
    }
    if value.len() > 64 {
        problems.error(member, format!("has {} bytes, the kernel takes at most 64", value.len()));
    }
    problems.no_nul(member, value);
    Some(value.clone())
}

fn seccomp_section(linux: &Linux, extra: &[LinuxSeccomp], problems: &mut Problems) -> Option<seccomp::Compiled> {
    let profiles: Vec<&LinuxSeccomp> = extra.iter().chain(linux.seccomp()).collect();
    seccomp::compile_stacked(&profiles, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layers of the design hold only as long as nothing imports against them.
    #[test]
    fn layers_import_only_rightwards() {
        for (directory, forbidden) in [
            ("src/plan", &["nix::", "crate::sys", "std::fs", "std::process", "crate::kernel"][..]),
            ("src/policy/decide.rs", &["nix::", "crate::sys", "std::fs", "std::process", "crate::kernel"][..]),
            ("src/policy/model.rs", &["nix::", "crate::sys", "std::fs", "std::process", "crate::kernel"][..]),
            ("src/policy/read.rs", &["nix::", "crate::sys", "std::fs", "std::process", "crate::kernel"][..]),
            ("src/policy/mesos.rs", &["nix::", "crate::sys", "std::fs", "std::process", "crate::kernel"][..]),
            ("src/seccomp", &["nix::", "crate::sys", "std::fs", "std::process", "crate::kernel"][..]),
            ("src/kernel", &["oci_spec", "crate::command", "crate::process"][..]),
            ("src/process", &["oci_spec", "crate::command"][..]),
        ] {
            for file in sources(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)) {
                let text = std::fs::read_to_string(&file).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap();
                for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
                    for word in forbidden {
                        assert!(!line.contains(word), "{}: {word} in {line:?}", file.display());
                    }
                }
            }
        }
    }

    fn sources(directory: PathBuf) -> Vec<PathBuf> {
        if directory.is_file() {
            return vec![directory];
        }
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files.extend(sources(path));
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
        files
    }

    #[test]
    fn versions_of_the_specification() {
        for (text, fine) in
            [("1.0.2-dev", true), ("1.3.0", true), ("1.9.0", true), ("2.0.0", false), ("", false), ("1.0", false)]
        {
            let mut problems = Problems::default();
            version(text, &mut problems);
            assert_eq!(problems.errors.is_empty(), fine, "{text}");
        }
    }
}
