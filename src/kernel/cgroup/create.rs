// SPDX-License-Identifier: Apache-2.0
//! Makes the container's cgroup in every hierarchy, limited before a process enters it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{Uid, fchownat};

use super::freezer;
use super::fs::{self, make_dir, name, open_dir, open_file, open_root};
use super::handle::{Directory, Handle};
use crate::error::{ResultExt, errno_of};
use crate::kernel::systemd;
use crate::plan::cgroup::{Cgroup, Driver, Missing, Place, Version, Write};
use crate::plan::device_filter;
use crate::sys::call;
use crate::{log, sys};

/// The directories that [`create`] makes the container's own, absolute: to be recorded before anything is made.
pub fn directories(plan: &Cgroup) -> Vec<PathBuf> {
    plan.places.iter().map(|place| place.mount_point.join(&place.path)).collect()
}

/// Makes the directories, or the unit that systemd makes them for, with their ancestors, lets v2 controllers through to them, and applies limits and device
/// rules. If that fails, what it made is removed. Where the plan says that the cgroup is optional, a caller that may
/// not make it gets a handle of none.
///
/// # Errors
/// If the cgroup exists and holds a process or is frozen: it belongs to someone else. Otherwise what the kernel
/// refused, with the JSON path of the limit.
pub fn create(plan: &Cgroup) -> anyhow::Result<Handle> {
    let mut made = Made::default();
    let mut started = None;
    let mut result = match &plan.driver {
        Driver::Cgroupfs => build(plan, |place| make(place, &mut made)),
        Driver::Systemd(unit) => systemd::start(unit).and_then(|unit| {
            started = Some(unit);
            build(plan, find)
        }),
    };
    match &mut result {
        Ok(handle) => handle.started = started.into(),
        Err(_) => {
            made.remove();
            if let Some(unit) = started {
                unit.take_back();
            }
        }
    }
    match result {
        Err(e) if plan.optional && matches!(errno_of(&e), Some(Errno::EACCES | Errno::EPERM | Errno::EROFS)) => {
            let text = format!("going on without a cgroup: {e:#}");
            if plan.writes.is_empty() {
                log::debug(&text)
            } else {
                log::warn(&format!("{text}; no limit holds"))
            }
            Ok(Handle::default())
        }
        result => result,
    }
}

fn build(plan: &Cgroup, mut make: impl FnMut(&Place) -> anyhow::Result<OwnedFd>) -> anyhow::Result<Handle> {
    let mut handle = Handle::default();
    for place in &plan.places {
        let path = place.mount_point.join(&place.path);
        let fd = make(place).with_context(|| format!("cgroup {}", path.display()))?;
        handle.directories.push(Directory { version: place.version, path, fd });
    }
    let mut file = None;
    for write in &plan.writes {
        apply(write, plan, &handle, &mut file)?;
    }
    if !plan.devices.is_empty() {
        restrict_devices(&plan.devices, &handle)?;
    }
    if let Some(uid) = plan.owner {
        for directory in handle.directories.iter().filter(|d| d.version == Version::V2) {
            delegate(directory, uid)
                .with_context(|| format!("linux.cgroupsPath: give {} to uid {uid}", directory.path.display()))?;
        }
    }
    Ok(handle)
}

/// Gives a v2 cgroup to a user: the directory and the files that the kernel names for this (cgroup-v2.rst, "Model of
/// Delegation"), not the limits.
fn delegate(directory: &Directory, uid: u32) -> sys::Result<()> {
    // Before Linux 4.15 the kernel did not say.
    const FILES: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";
    let listed = std::fs::read_to_string("/sys/kernel/cgroup/delegate");
    let dir = directory.fd.as_fd();
    for file in std::iter::once("").chain(listed.as_deref().unwrap_or(FILES).split_whitespace()) {
        let name = name(Path::new(file))?;
        let flags = if file.is_empty() { AtFlags::AT_EMPTY_PATH } else { AtFlags::AT_SYMLINK_NOFOLLOW };
        match fchownat(dir, name.as_c_str(), Some(Uid::from_raw(uid)), None, flags) {
            // A list for every controller, in use here or not.
            Err(Errno::ENOENT) => {}
            given => call!("fchownat({:?}, {uid})", directory.path.join(file) => given)?,
        }
    }
    Ok(())
}

/// What has been made so far, in order, to be unmade.
#[derive(Default)]
struct Made(Vec<(PathBuf, PathBuf)>);

impl Made {
    fn note(&mut self, place: &Place, path: &Path) {
        self.0.push((place.mount_point.clone(), path.to_path_buf()));
    }

    /// Removes it in reverse. An ancestor that others use by now stays, as it would after a success.
    fn remove(&self) {
        for (mount_point, path) in self.0.iter().rev() {
            let removed = open_root(mount_point).and_then(|(root, _)| open_parent(root, path)).and_then(|parent| {
                fs::remove_dir(parent.as_fd(), &name(Path::new(path.file_name().unwrap_or_default()))?)
            });
            if let Err(e) = removed {
                log::debug(&format!("remove cgroup {}: {e}", mount_point.join(path).display()));
            }
        }
    }
}

/// Opens the directory that holds the last component of `path`, beneath the root of its hierarchy.
pub(super) fn open_parent(root: OwnedFd, path: &Path) -> sys::Result<OwnedFd> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        None => Ok(root),
        Some(parent) => open_dir(root.as_fd(), parent),
    }
}

/// Makes one directory and those above it.
fn make(place: &Place, made: &mut Made) -> anyhow::Result<OwnedFd> {
    let (Some(above), Some(last)) = (place.path.parent(), place.path.file_name()) else {
        bail!("the root of the hierarchy cannot be the container's own cgroup");
    };
    let parent = match open_parent(open_root(&place.mount_point)?.0, &place.path) {
        Err(e) if e.errno == Errno::ENOENT => make_ancestors(place, above, made)?,
        parent => parent?,
    };
    if place.version == Version::V2 {
        pass_controllers(place, above, parent.as_fd());
    }
    let is_new = make_dir(parent.as_fd(), &name(Path::new(last))?)?;
    if is_new {
        made.note(place, &place.path);
    }
    let dir = open_dir(parent.as_fd(), Path::new(last))?;
    if !is_new {
        refuse_others(dir.as_fd())?;
    }
    if place.version == Version::V1 && place.controllers.iter().any(|c| c == "cpuset") {
        seed_cpuset(place)?;
    }
    Ok(dir)
}

/// Opens the directory that systemd has made. Of the controllers that it knows nothing of, such as hugetlb, the ones above
/// are let through as with [`make`].
fn find(place: &Place) -> anyhow::Result<OwnedFd> {
    let (root, _) = open_root(&place.mount_point)?;
    let opened = open_dir(root.as_fd(), &place.path).hint_if(
        Errno::ENOENT,
        "systemd has put the unit elsewhere: systemctl show --property ControlGroup says where",
    )?;
    let above = place.path.parent().unwrap_or(Path::new(""));
    pass_controllers(place, above, open_parent(root, &place.path)?.as_fd());
    Ok(opened)
}

fn make_ancestors(place: &Place, above: &Path, made: &mut Made) -> sys::Result<OwnedFd> {
    let (mut dir, _) = open_root(&place.mount_point)?;
    let mut path = PathBuf::new();
    for component in above {
        path.push(component);
        if make_dir(dir.as_fd(), &name(Path::new(component))?)? {
            made.note(place, &path);
        }
        dir = open_dir(dir.as_fd(), Path::new(component))?;
    }
    Ok(dir)
}

/// Another container, or a crashed one's leftovers, would share or escape the limits; runc refuses it since 1.2.
fn refuse_others(dir: BorrowedFd<'_>) -> anyhow::Result<()> {
    let pids = fs::pids(dir)?;
    if let Some(first) = pids.first() {
        let message = format!("container's cgroup is not empty: {} process(es) found, first {first}", pids.len());
        return Err(anyhow::anyhow!(message))
            .hint("give another linux.cgroupsPath, or delete the container that uses it");
    }
    if freezer::is_frozen(dir)? {
        bail!("container's cgroup unexpectedly frozen");
    }
    Ok(())
}

/// Enables the hierarchy's controllers for the children of every ancestor, which is what makes their files appear
/// (cgroup-v2.rst, "Controlling Controllers"). All of them, limit or not: engines read the statistics.
///
/// Nothing fails here: a cgroup above may hold processes or be someone else's. A limit that needed the controller will
/// say so.
fn pass_controllers(place: &Place, above: &Path, parent: BorrowedFd<'_>) {
    const FILE: &str = "cgroup.subtree_control";
    let passed = |text: &str| place.controllers.iter().all(|c| text.split_whitespace().any(|have| have == c));
    // The parent passes on only what its own ancestors do.
    if place.controllers.is_empty() || fs::read(parent, FILE).is_ok_and(|text| passed(&text)) {
        return;
    }
    let words: Vec<_> = place.controllers.iter().map(|c| format!("+{c}")).collect();
    let Ok((mut dir, _)) = open_root(&place.mount_point) else { return };
    let mut below = above.iter();
    loop {
        if fs::write(dir.as_fd(), FILE, &words.join(" ")).is_err() {
            // One that is refused must not take the others with it.
            for word in &words {
                if let Err(e) = fs::write(dir.as_fd(), FILE, word) {
                    log::debug(&format!("cgroup {}: {e}", place.mount_point.join(above).display()));
                }
            }
        }
        let Some(component) = below.next() else { return };
        match open_dir(dir.as_fd(), Path::new(component)) {
            Ok(next) => dir = next,
            Err(_) => return,
        }
    }
}

/// A v1 cpuset begins empty and takes no process until it has processors and memory: takes those of the cgroup above
/// (Documentation/admin-guide/cgroup-v1/cpusets.rst).
fn seed_cpuset(place: &Place) -> sys::Result<()> {
    let (mut dir, _) = open_root(&place.mount_point)?;
    for component in &place.path {
        let child = open_dir(dir.as_fd(), Path::new(component))?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if fs::read(child.as_fd(), file)?.trim().is_empty() {
                fs::write(child.as_fd(), file, fs::read(dir.as_fd(), file)?.trim())?;
            }
        }
        dir = child;
    }
    Ok(())
}

/// The file of the last write: which directory's, its name, and it.
type LastFile = Option<(usize, String, OwnedFd)>;

/// Whether the place has the files of a write.
pub(super) fn holds(place: &Place, write: &Write) -> bool {
    place.controllers.contains(&write.controller) || write.controller == "cgroup" && place.version == Version::V2
}

/// Applies one limit. Consecutive writes to a file, as of device rules, open it once.
fn apply(write: &Write, plan: &Cgroup, handle: &Handle, last: &mut LastFile) -> anyhow::Result<()> {
    let index = plan.places.iter().position(|place| holds(place, write));
    let index = index.with_context(|| format!("{}: no such controller", write.field))?;
    let directory = handle.directories.get(index).with_context(|| format!("{}: no such cgroup", write.field))?;
    let mut set = |file: &str, value: &str| -> sys::Result<()> {
        if last.as_ref().is_none_or(|(i, name, _)| *i != index || name != file) {
            *last = Some((index, file.to_string(), open_file(directory.fd.as_fd(), file, libc::O_WRONLY)?));
        }
        last.as_ref().map_or(Ok(()), |(_, _, fd)| fs::write_open(fd, file, value))
    };
    let missing = |e: &sys::Error| e.errno == Errno::ENOENT;
    let result = match (set(&write.file, &write.value), &write.missing) {
        (Err(e), Missing::Skip) if missing(&e) => Ok(()),
        (Err(e), Missing::Instead { file, value }) if missing(&e) => set(file, value),
        (result, _) => result,
    };
    if result.is_ok() { Ok(()) } else { refused(result, write, directory) }
}

/// Says of a write that failed what it was for, and why there may be no such file.
pub(super) fn refused(result: sys::Result<()>, write: &Write, directory: &Directory) -> anyhow::Result<()> {
    let parent = directory.path.parent().unwrap_or(&directory.path).display();
    let kind = match directory.version {
        Version::V2 => fs::read(directory.fd.as_fd(), "cgroup.type").unwrap_or_default(),
        Version::V1 => String::new(),
    };
    let hint = match kind.trim() {
        "" | "domain" => format!(
            "the kernel lacks this file, or the controller \"{}\" is not passed on by {parent}/cgroup.subtree_control",
            write.controller
        ),
        kind => {
            format!("the cgroup is \"{kind}\", which only cpu, cpuset, pids and perf_event control: see cgroups(7)")
        }
    };
    result.hint_if(Errno::ENOENT, hint).with_context(|| format!("{}: cgroup {}", write.field, directory.path.display()))
}

/// Loads and attaches the device program. The kernel keeps it as long as the cgroup.
fn restrict_devices(rules: &[device_filter::Rule], handle: &Handle) -> anyhow::Result<()> {
    crate::trace::mark(crate::trace::Phase::DeviceRules);
    let program = load(rules)?;
    for directory in handle.directories.iter().filter(|d| d.version == Version::V2) {
        sys::bpf::attach_device_program(program.as_fd(), directory.fd.as_fd(), None)
            .with_context(|| format!("{DEVICES}: cgroup {}", directory.path.display()))?;
    }
    Ok(())
}

const DEVICES: &str = "linux.resources.devices";

/// Loads the program that enforces device rules.
pub(super) fn load(rules: &[device_filter::Rule]) -> anyhow::Result<OwnedFd> {
    let program = device_filter::program(rules).with_context(|| format!("{DEVICES}: too many rules"))?;
    sys::bpf::load_device_program(&program)
        .hint_if(
            Errno::EPERM,
            "needs CAP_SYS_ADMIN, or CAP_BPF and CAP_NET_ADMIN; before Linux 5.11 also RLIMIT_MEMLOCK",
        )
        .context(DEVICES)
}
