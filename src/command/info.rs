// SPDX-License-Identifier: Apache-2.0
//! `orlop info`: what the host has, and what it keeps orlop from doing. Everything is asked of this kernel as this caller;
//! nothing is made.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use serde::Serialize;

use crate::cli::TextFormat;
use crate::command::{print, print_json};
use crate::host::{CgroupLayout, Host};
use crate::plan::capabilities::Set;
use crate::spec::OCI_VERSION;
use crate::state::Root;

/// The answer, as `--format json` prints it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    version: &'static str,
    oci_version: &'static str,
    /// Where the state of containers is kept.
    root: String,
    /// Release and architecture, as uname(2) has them.
    kernel: String,
    architecture: String,
    euid: u32,
    initial_user_namespace: bool,
    /// Those that the caller lacks, of all that the kernel knows.
    missing_capabilities: Vec<String>,
    /// `none`, `v1`, `hybrid` or `v2`.
    cgroups: &'static str,
    /// Each controller with the version of the hierarchy that has it.
    controllers: BTreeMap<String, &'static str>,
    /// Each kind with how many there may be.
    namespaces: BTreeMap<&'static str, Option<u64>>,
    /// Actions of the kernel's seccomp(2).
    seccomp_actions: Vec<String>,
    /// Security modules.
    lsm: Vec<String>,
    abilities: Vec<Ability>,
}

/// Something that a host can keep orlop from.
#[derive(Debug, Serialize)]
struct Ability {
    name: &'static str,
    able: bool,
    /// Why not, or how.
    why: String,
}

/// Prints it.
pub fn info(root: &Root, format: TextFormat) -> Result<u8> {
    let info = gather(root)?;
    match format {
        TextFormat::Json => print_json(&info)?,
        TextFormat::Text => text(&info),
    }
    Ok(0)
}

fn gather(root: &Root) -> Result<Info> {
    let host = Host::detect()?;
    let name = nix::sys::utsname::uname().context("uname")?;
    let last = words("/proc/sys/kernel/cap_last_cap").first().and_then(|last| last.parse().ok()).unwrap_or(40);
    let missing = Set(u64::MAX >> (63 - u32::min(last, 63))).without(Set(host.permitted));
    let mut controllers = BTreeMap::new();
    let (layout, unified) = match &host.cgroups {
        CgroupLayout::None => ("none", None),
        CgroupLayout::Unified(unified) => ("v2", Some(unified)),
        CgroupLayout::Legacy { hierarchies, unified } => {
            for controller in hierarchies.iter().flat_map(|hierarchy| &hierarchy.controllers) {
                controllers.insert(controller.clone(), "v1");
            }
            (if unified.is_some() { "hybrid" } else { "v1" }, unified.as_ref())
        }
    };
    for controller in unified.iter().flat_map(|unified| &unified.controllers) {
        controllers.insert(controller.clone(), "v2");
    }
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    let there = kinds.into_iter().filter(|kind| Path::new(&format!("/proc/self/ns/{kind}")).exists());
    let limit = |kind: &str| words(&format!("/proc/sys/user/max_{kind}_namespaces")).first()?.parse().ok();
    let mut info = Info {
        version: env!("CARGO_PKG_VERSION"),
        oci_version: OCI_VERSION,
        root: root.path.display().to_string(),
        kernel: name.release().to_string_lossy().into_owned(),
        architecture: name.machine().to_string_lossy().into_owned(),
        euid: host.euid,
        initial_user_namespace: host.initial_user_namespace,
        missing_capabilities: missing.numbers().map(crate::plan::capabilities::name).collect(),
        cgroups: layout,
        controllers,
        namespaces: there.map(|kind| (kind, limit(kind))).collect(),
        seccomp_actions: words("/proc/sys/kernel/seccomp/actions_avail"),
        lsm: read("/sys/kernel/security/lsm")
            .trim()
            .split(',')
            .filter(|lsm| !lsm.is_empty())
            .map(str::to_string)
            .collect(),
        abilities: Vec::new(),
    };
    info.abilities = abilities(&info, &host);
    Ok(info)
}

fn abilities(info: &Info, host: &Host) -> Vec<Ability> {
    let mut list = Vec::new();
    let mut add = |name, able, yes: &str, no: &str| {
        list.push(Ability { name, able, why: if able { yes } else { no }.to_string() });
    };
    let root = host.euid == 0 && host.initial_user_namespace;
    let kernel = |major, minor| {
        let mut parts = info.kernel.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (major, minor)
    };
    let mounts = crate::sys::mount::fsopen(c"proc").map(drop).map_err(|e| e.errno);
    add(
        "mount API",
        mounts != Err(Errno::ENOSYS) && kernel(5, 12),
        "",
        "needs Linux 5.12: fsopen(2), mount_setattr(2)",
    );
    let (able, why) = user_namespaces(info, host);
    add("user namespaces", able, "", &why);
    add("idmapped mounts", root && kernel(5, 12), "if the file system allows it", "need root, and Linux 5.12");
    let leases = ["/etc/subuid", "/etc/subgid"].map(read);
    let leases = leases.iter().all(|text| text.lines().any(|l| l.starts_with("containers:") || l.starts_with("root:")));
    add(
        "--userns=auto",
        root && leases,
        "",
        "needs root, and an entry of containers or root in /etc/subuid and /etc/subgid",
    );
    let newuidmap = in_path("newuidmap") && in_path("newgidmap");
    add(
        "ranges of ids for ordinary users",
        newuidmap,
        "",
        "newuidmap and newgidmap, of the package uidmap, are not in PATH",
    );
    let time = info.namespaces.contains_key("time");
    add("time namespaces", time, "", "need Linux 5.6 with CONFIG_TIME_NS");
    for (name, names) in [
        ("limits of memory", &["memory"][..]),
        ("limits of CPU time", &["cpu"]),
        ("processor sets", &["cpuset"]),
        ("limits of processes", &["pids"]),
        ("limits of block I/O", &["io", "blkio"]),
        ("limits of huge pages", &["hugetlb"]),
        ("limits of RDMA", &["rdma"]),
    ] {
        let found = names.iter().find_map(|name| info.controllers.get(*name));
        let no = format!("no hierarchy of cgroups has the controller {}", names.join(" or "));
        add(name, found.is_some(), &format!("cgroup {}", found.copied().unwrap_or_default()), &no);
    }
    let devices = root && info.cgroups != "none";
    add("device rules", devices, "", "need root, and cgroups");
    let seccomp = |action: &str| info.seccomp_actions.iter().any(|known| known == action);
    add("seccomp", seccomp("errno"), "", "the kernel is built without CONFIG_SECCOMP_FILTER");
    add("seccomp notification", root && seccomp("user_notif"), "", "needs root, and Linux 5.0");
    let lsm = |name: &str| info.lsm.iter().any(|lsm| lsm == name);
    let apparmor = lsm("apparmor") || read("/sys/module/apparmor/parameters/enabled").trim() == "Y";
    add("AppArmor", apparmor, "", "the kernel runs without it");
    let selinux = lsm("selinux") || Path::new("/sys/fs/selinux/enforce").exists();
    add("SELinux", selinux, "", "the kernel runs without it");
    let resource = !info.missing_capabilities.iter().any(|name| name == "CAP_SYS_RESOURCE");
    add("raising hard limits", resource, "", "needs CAP_SYS_RESOURCE");
    add("criu", in_path("criu"), "", "the program is not in PATH");
    add(
        "ps as a table",
        in_path("ps"),
        "",
        "ps(1), of the package procps, is not in PATH; ps --format json works without",
    );
    list
}

/// Whether the caller can make one, and what forbids it.
fn user_namespaces(info: &Info, host: &Host) -> (bool, String) {
    let set_to = |path: &str, value: &str| read(path).trim() == value;
    let no = |why: &str| (false, why.to_string());
    match info.namespaces.get("user") {
        None => no("the kernel is built without CONFIG_USER_NS"),
        Some(Some(0)) => no("/proc/sys/user/max_user_namespaces is 0"),
        _ if host.euid == 0 => (true, String::new()),
        _ if set_to("/proc/sys/kernel/unprivileged_userns_clone", "0") => {
            no("/proc/sys/kernel/unprivileged_userns_clone is 0: only root may make one")
        }
        _ if set_to("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") => no(
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns is 1: orlop needs an AppArmor profile with userns",
        ),
        _ => (true, String::new()),
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn words(path: &str) -> Vec<String> {
    read(path).split_ascii_whitespace().map(str::to_string).collect()
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn text(info: &Info) {
    let list = |items: Vec<String>| if items.is_empty() { "none".to_string() } else { items.join(" ") };
    let namespaces = info.namespaces.iter().map(|(kind, limit)| match limit {
        Some(limit) => format!("{kind} (at most {limit})"),
        None => (*kind).to_string(),
    });
    let controllers = info.controllers.iter().map(|(name, version)| format!("{name} ({version})"));
    let user = match (info.euid, info.initial_user_namespace) {
        (0, true) => "root".to_string(),
        (0, false) => "root of a user namespace".to_string(),
        (uid, _) => format!("uid {uid}"),
    };
    for (name, value) in [
        ("orlop", format!("{}, for version {} of the specification", info.version, info.oci_version)),
        ("kernel", format!("{} {}", info.kernel, info.architecture)),
        ("state", info.root.clone()),
        ("caller", user),
        ("lacks", list(info.missing_capabilities.clone())),
        ("cgroups", info.cgroups.to_string()),
        ("controllers", list(controllers.collect())),
        ("namespaces", list(namespaces.collect())),
        ("seccomp", list(info.seccomp_actions.clone())),
        ("modules", list(info.lsm.clone())),
    ] {
        print(&format!("{name:13}{value}"));
    }
    let paint = super::colours();
    for ability in &info.abilities {
        let (word, colour) = if ability.able { ("yes", "32") } else { ("no ", "31") };
        let word = if paint { format!("\x1b[{colour}m{word}\x1b[0m") } else { word.to_string() };
        print(format!("{word}  {:34}{}", ability.name, ability.why).trim_end());
    }
}
