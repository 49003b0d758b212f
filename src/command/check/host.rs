// SPDX-License-Identifier: Apache-2.0
//! What a bundle needs of this host and of its own root filesystem: found out by looking, so that it is known before
//! `create` fails on the first of it. Works on what is left of a config with faults, too.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, stat};
use nix::sys::statfs::{FsType, fstatfs};

use crate::error::{hints, one_line};
use crate::host::{CgroupLayout, Host};
use crate::kernel::idmap::Mapper;
use crate::kernel::mount::check_label;
use crate::kernel::netlink::Socket;
use crate::kernel::path::{Root, host_path, open_host};
use crate::kernel::procfs::Proc;
use crate::kernel::program::{Found, Tree, User};
use crate::kernel::{resctrl, subid};
use crate::plan::Plan;
use crate::plan::cgroup::Version;
use crate::plan::config::Spec;
use crate::plan::filesystem::InRoot;
use crate::plan::idmap::{Range, to_host};
use crate::plan::mount_options::Options;
use crate::plan::mounts::Kind;
use crate::plan::namespaces;
use crate::plan::problem::{Problem, Problems};
use crate::plan::process::search_path;
use crate::plan::rootless::is_own;
use crate::sys::mount::clone_tree;

/// Looks for everything that the bundle names.
pub fn check(spec: &Spec, plan: Option<&Plan>, bundle: &Path, host: &Host, problems: &mut Problems) -> Result<()> {
    let tree = root(spec, bundle, problems)?;
    sources(spec, bundle, problems);
    if let Some(tree) = &tree {
        program(spec, tree, problems)?;
    }
    hooks(spec, tree.as_ref(), problems)?;
    joined_namespaces(spec, problems);
    listener(spec, problems);
    if let Some(plan) = plan {
        cgroup(plan, host, problems);
        devices_and_classes(plan, problems)?;
        subordinate_ids(plan, host, problems);
        idmapped_mounts(plan, host, problems)?;
        mount_label(plan, host, problems);
    }
    Ok(())
}

/// Network devices to move, and the resctrl file system.
fn devices_and_classes(plan: &Plan, problems: &mut Problems) -> Result<()> {
    if !plan.net_devices.is_empty() {
        let links = Socket::open()?;
        for device in &plan.net_devices {
            if links.link(&device.host)?.is_none() {
                let at = format!("linux.netDevices.{}", device.host);
                problems.error(at, "the runtime's network namespace has no such device");
            }
        }
    }
    if plan.resctrl.is_some()
        && let Err(e) = resctrl::mount_point(&Proc::open()?)
    {
        problems.error_hint("linux.intelRdt", one_line(&e), hints(&e).join("; "));
    }
    Ok(())
}

/// `ENOENT` and so on in words.
fn why(path: &Path, errno: nix::errno::Errno) -> String {
    format!("{}: {}", path.display(), crate::sys::describe(errno))
}

fn root(spec: &Spec, bundle: &Path, problems: &mut Problems) -> Result<Option<Tree>> {
    let Some(path) = spec.root.as_ref().map(|root| root.path()).filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(None);
    };
    let path = bundle.join(path);
    let Ok(name) = host_path(&path) else { return Ok(None) };
    match open_host(&name, libc::O_DIRECTORY) {
        Ok(fd) => Ok(Some(Tree { root: Root::new(fd), covers: covers(spec, bundle), inside: false })),
        Err(e) => {
            problems.error("root.path", why(&path, e.errno));
            Ok(None)
        }
    }
}

/// What the mounts put in the place of parts of the root filesystem.
fn covers(spec: &Spec, bundle: &Path) -> Vec<(InRoot, Option<Root>)> {
    let one = |mount: &oci_spec::runtime::Mount| {
        // A remount covers nothing.
        if options(mount).remount {
            return None;
        }
        let at = InRoot::new("", &mount.destination().to_string_lossy(), &mut Problems::default())?;
        let source = bind_source(mount, bundle).and_then(|source| open_host(&host_path(&source).ok()?, 0).ok());
        Some((at, source.map(Root::new)))
    };
    spec.mounts.iter().flatten().filter_map(one).collect()
}

fn bind_source(mount: &oci_spec::runtime::Mount, bundle: &Path) -> Option<PathBuf> {
    let options = options(mount);
    let bind = options.bind.is_some() || matches!(mount.typ().as_deref(), Some("bind" | "rbind"));
    let source = mount.source().as_ref().filter(|source| !source.as_os_str().is_empty())?;
    (bind && !options.remount).then(|| bundle.join(source))
}

fn options(mount: &oci_spec::runtime::Mount) -> Options {
    Options::parse(mount.options().as_deref().unwrap_or_default())
}

fn sources(spec: &Spec, bundle: &Path, problems: &mut Problems) {
    for (i, mount) in spec.mounts.iter().flatten().enumerate() {
        let Some(source) = bind_source(mount, bundle) else { continue };
        if let Err(errno) = stat(&source) {
            problems.error_hint(
                format!("mounts[{i}].source"),
                why(&source, errno),
                "the source of a bind mount must exist; a relative one is relative to the bundle",
            );
        }
    }
}

/// `process.args[0]`, as the container's user finds it in the container's root.
fn program(spec: &Spec, tree: &Tree, problems: &mut Problems) -> Result<()> {
    const AT: &str = "process.args[0]";
    let Some(process) = &spec.process else { return Ok(()) };
    let Some(name) = process.args.as_ref().and_then(|args| args.first()).filter(|name| !name.is_empty()) else {
        return Ok(());
    };
    let env = process.env.clone().unwrap_or_default();
    let below = |directory: &Path| process.cwd.join(directory).to_string_lossy().into_owned();
    let candidates: Vec<String> = if name.contains('/') {
        vec![below(Path::new(name))]
    } else {
        search_path(&env).map(|directory| below(&directory.join(name))).collect()
    };
    match tree.search(&candidates)? {
        None if name.contains('/') => problems.error(AT, format!("{name:?} is not in the root filesystem")),
        None => {
            let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH="));
            let searched =
                path.map_or_else(|| "there is no PATH in process.env".into(), |path| format!("PATH is {path}"));
            problems.error(AT, format!("{name:?} is not in the root filesystem: {searched}"));
        }
        Some((path, found)) => report(AT, tree.inspect(&path, found, &user(spec))?, problems),
    }
    Ok(())
}

fn report(at: &str, faults: Vec<crate::kernel::program::Fault>, problems: &mut Problems) {
    for fault in faults {
        let problem = Problem { path: at.to_string(), message: fault.message, hint: fault.hint };
        if fault.certain { problems.errors.push(problem) } else { problems.warnings.push(problem) }
    }
}

/// The container's user in ids of the host.
fn user(spec: &Spec) -> User {
    let ranges = |mappings: Option<&Vec<oci_spec::runtime::LinuxIdMapping>>| -> Vec<Range> {
        let range = |m: &oci_spec::runtime::LinuxIdMapping| Range {
            container: m.container_id(),
            host: m.host_id(),
            size: m.size(),
        };
        mappings.into_iter().flatten().map(range).collect()
    };
    let linux = spec.linux.as_ref();
    let uids = ranges(linux.and_then(|linux| linux.uid_mappings().as_ref()));
    let gids = ranges(linux.and_then(|linux| linux.gid_mappings().as_ref()));
    let map = |ranges: &[Range], id: u32| if ranges.is_empty() { id } else { to_host(ranges, id).unwrap_or(u32::MAX) };
    let user = spec.process.as_ref().map(|process| process.user.clone()).unwrap_or_default();
    let groups = std::iter::once(user.gid()).chain(user.additional_gids().iter().flatten().copied());
    User {
        is_root: user.uid() == 0,
        uid: map(&uids, user.uid()),
        groups: groups.map(|group| map(&gids, group)).collect(),
    }
}

fn hooks(spec: &Spec, tree: Option<&Tree>, problems: &mut Problems) -> Result<()> {
    let Some(hooks) = &spec.hooks else { return Ok(()) };
    for (kind, list) in crate::plan::hooks::lists(hooks) {
        for (i, hook) in list.iter().flatten().enumerate() {
            let (at, path) = (format!("hooks.{kind}[{i}].path"), hook.path());
            // A relative path is a fault of its own.
            if !path.is_absolute() {
                continue;
            }
            if kind == "startContainer" {
                let Some(tree) = tree else { continue };
                let name = path.to_string_lossy();
                match tree.look_up(&name)? {
                    Found::Nothing => problems.error(at, format!("{name:?} is not in the root filesystem")),
                    found => report(&at, tree.inspect(&name, found, &user(spec))?, problems),
                }
                continue;
            }
            match stat(path) {
                Err(errno) => problems.error(at, why(path, errno)),
                Ok(found) if found.st_mode & libc::S_IFMT != libc::S_IFREG => {
                    problems.error(at, format!("{} is not a regular file", path.display()));
                }
                Ok(found) if found.st_mode & 0o111 == 0 => {
                    let message =
                        format!("{} may not be executed: its mode is {:04o}", path.display(), found.st_mode & 0o7777);
                    problems.error_hint(at, message, "chmod +x it");
                }
                Ok(_) => {}
            }
        }
    }
    Ok(())
}

/// The file system of namespaces (NSFS_MAGIC of linux/magic.h).
const NSFS: FsType = FsType(0x6e73_6673);

fn joined_namespaces(spec: &Spec, problems: &mut Problems) {
    let list = spec.linux.as_ref().and_then(|linux| linux.namespaces().as_ref());
    for (i, namespace) in list.into_iter().flatten().enumerate() {
        let Some(path) = namespace.path().as_ref().filter(|path| path.is_absolute()) else { continue };
        let (at, wanted) = (format!("linux.namespaces[{i}].path"), namespaces::Kind::from(namespace.typ()));
        // Looked at by itself first: to open a device could have effects.
        let found = stat(path).and_then(|found| {
            let regular = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
            if regular { open(path, flags, Mode::empty()).map(Some) } else { Ok(None) }
        });
        let is_namespace = |fd: &std::os::fd::OwnedFd| fstatfs(fd).is_ok_and(|fs| fs.filesystem_type() == NSFS);
        match found {
            Err(errno) => problems.error(at, why(path, errno)),
            Ok(Some(fd)) if is_namespace(&fd) => match crate::sys::clone::namespace_kind(fd.as_fd()) {
                Ok(kind) if kind != wanted.flag() => {
                    let other = namespaces::Kind::of_flag(kind).map_or("another", namespaces::Kind::name);
                    let message =
                        format!("{} is a namespace of the kind {other}, not {}", path.display(), wanted.name());
                    problems.error(at, message);
                }
                _ => {}
            },
            Ok(_) => problems.error(at, format!("{} is no namespace", path.display())),
        }
    }
}

fn listener(spec: &Spec, problems: &mut Problems) {
    let seccomp = spec.linux.as_ref().and_then(|linux| linux.seccomp().as_ref());
    let Some(path) = seccomp.and_then(|seccomp| seccomp.listener_path().as_ref()) else { return };
    const AT: &str = "linux.seccomp.listenerPath";
    match stat(path) {
        Err(errno) => {
            problems.error_hint(AT, why(path, errno), "whoever answers for the calls must listen before create")
        }
        Ok(found) if found.st_mode & libc::S_IFMT != libc::S_IFSOCK => {
            problems.error(AT, format!("{} is no socket", path.display()));
        }
        Ok(_) => {}
    }
}

/// An ordinary user may map his own ids, and those that /etc/subuid and /etc/subgid give him.
fn subordinate_ids(plan: &Plan, host: &Host, problems: &mut Problems) {
    let Some(idmap) = plan.idmap.as_ref().filter(|_| host.euid != 0) else { return };
    for (side, ranges, own) in [(subid::UID, &idmap.uid, host.euid), (subid::GID, &idmap.gid, host.egid)] {
        if is_own(ranges, own) {
            continue;
        }
        if let Err(e) = side.check(ranges, host.euid, own) {
            let line = one_line(&e);
            // The field, and the range if it is about one, come first.
            let (path, message) = line.split_once(": ").unwrap_or((side.field, &line));
            let (path, message) = (path.to_string(), message.to_string());
            problems.errors.push(Problem { path, message, hint: hints(&e).into_iter().next() });
        }
    }
}

fn mount_label(plan: &Plan, host: &Host, problems: &mut Problems) {
    if host.euid == 0
        && host.may_clone_mounts
        && let Err(e) = check_label(&plan.filesystem)
    {
        let (message, hint) = (e.root_cause().to_string(), hints(&e).into_iter().next());
        problems.errors.push(Problem { path: "linux.mountLabel".to_string(), message, hint });
    }
}

/// Whether the file systems of idmapped mounts can be idmapped, which the kernel says only if it is tried: on a clone of
/// the mount that is attached nowhere.
fn idmapped_mounts(plan: &Plan, host: &Host, problems: &mut Problems) -> Result<()> {
    if host.euid != 0 || !host.may_clone_mounts {
        return Ok(());
    }
    let proc = Proc::open()?;
    let mut mapper = Mapper::new(&proc, plan.idmap.as_ref(), None)?;
    for mount in &plan.filesystem.mounts {
        let (Kind::Bind { source, recursive }, Some(map)) = (&mount.kind, &mount.idmap) else { continue };
        if map.own.is_none() && plan.idmap.is_none() {
            continue; // that of a namespace to be joined
        }
        let Ok(clone) = clone_tree(nix::fcntl::AT_FDCWD, &host_path(source)?, *recursive) else { continue };
        if let Err(e) = mapper.apply(clone.as_fd(), map) {
            let path = format!("mounts[{}].source", mount.index);
            problems.errors.push(Problem { path, message: one_line(&e), hint: hints(&e).into_iter().next() });
        }
    }
    Ok(())
}

/// Controllers that the host has, but not where the container's cgroup will be. Whether root can have them passed on is
/// seen only when it is done; whoever else calls has what was delegated.
fn cgroup(plan: &Plan, host: &Host, problems: &mut Problems) {
    if let CgroupLayout::None = host.cgroups {
        return;
    }
    for place in plan.cgroup.places.iter().filter(|place| place.version == Version::V2) {
        let path = place.mount_point.join(&place.path);
        let Some(above) = path.ancestors().skip(1).find(|above| above.join("cgroup.controllers").exists()) else {
            continue;
        };
        let words = |file: &str| std::fs::read_to_string(above.join(file)).unwrap_or_default();
        let (has, passes) = (words("cgroup.controllers"), words("cgroup.subtree_control"));
        let holds = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
        let occupied = above != place.mount_point && !words("cgroup.procs").trim().is_empty();
        for write in plan.cgroup.writes.iter().filter(|write| place.controllers.contains(&write.controller)) {
            let name = &write.controller;
            let message = if !holds(&has, name) && host.euid != 0 {
                format!("the cgroup controller \"{name}\" is not delegated to {}", above.display())
            } else if !holds(&passes, name) && occupied {
                format!(
                    "the cgroup {} holds processes, so that it cannot pass on the controller \"{name}\"",
                    above.display()
                )
            } else {
                continue;
            };
            problems.error(write.field.clone(), message);
        }
    }
}
