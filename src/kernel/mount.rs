// SPDX-License-Identifier: Apache-2.0
//! The container's mounts. Each is made detached, gets its attributes and propagation there, and is attached to the
//! inode that the look-up of its destination gave: nothing is reachable before its options are in force, nothing
//! read-only is writable for a moment, and nothing is resolved twice.

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use serde::{Deserialize, Serialize};

use super::copy_up;
use super::idmap::Mapper;
use super::path::{self, Place, Root, c_string, host_path};
use super::procfs::Proc;
use crate::error::ResultExt;
use crate::host::{CgroupLayout, Hierarchy};
use crate::plan::filesystem::{Filesystem, InRoot};
use crate::plan::idmap::MountMap;
use crate::plan::mount_options::{Attrs, Propagation, PropagationType, attr, names};
use crate::plan::mounts::{Kind, Mount, layers, may_cover_proc};
use crate::sys::fd::{Resolve, openat2};
use crate::sys::mount::{self, Attr, failed};

/// An option of a file system: key, and value if the option has one.
type Parameter = (String, Option<String>);

/// A bind mount that waits for its place.
#[derive(Debug)]
pub struct Source {
    mount: OwnedFd,
    is_dir: bool,
}

/// What a mount of type `cgroup` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupMounts {
    /// The host has no cgroup file system.
    None,
    /// cgroup v2 alone.
    Unified(CgroupMount),
    /// One directory per hierarchy; v2 among them in the hybrid layout.
    Legacy(Vec<CgroupMount>),
}

/// One cgroup hierarchy as the container sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupMount {
    /// Whether it is v2.
    pub unified: bool,
    /// The directory below the destination, e.g. `cpu,cpuacct`.
    pub name: String,
    /// v1: the controllers, or `name=systemd`.
    pub controllers: Vec<String>,
    /// The container's cgroup on the host, absolute. Only used without a cgroup namespace.
    pub directory: PathBuf,
}

impl CgroupMounts {
    /// What the host has; `directory` gives the container's cgroup in a hierarchy as an absolute path on the host.
    pub fn new(layout: &CgroupLayout, directory: impl Fn(&Hierarchy) -> PathBuf) -> Self {
        let one = |unified: bool, hierarchy: &Hierarchy| CgroupMount {
            unified,
            name: hierarchy.mount_point.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            controllers: hierarchy.controllers.clone(),
            directory: directory(hierarchy),
        };
        match layout {
            CgroupLayout::None => Self::None,
            CgroupLayout::Unified(hierarchy) => Self::Unified(one(true, hierarchy)),
            CgroupLayout::Legacy { hierarchies, unified } => Self::Legacy(
                hierarchies.iter().map(|h| one(false, h)).chain(unified.iter().map(|h| one(true, h))).collect(),
            ),
        }
    }

    /// All hierarchies.
    pub fn all(&self) -> &[CgroupMount] {
        match self {
            Self::None => &[],
            Self::Unified(one) => std::slice::from_ref(one),
            Self::Legacy(all) => all,
        }
    }
}

/// PARENT: clones the source of a bind mount, with attributes and propagation set. `None` for other mounts.
///
/// The host's name is resolved here, with the host's privileges: a child in a user namespace could not reach a source
/// in a directory of mode 0700.
pub fn open_source(mount: &Mount, fs: &Filesystem, mapper: Option<&mut Mapper<'_>>) -> Result<Option<Source>> {
    let Kind::Bind { source, recursive } = &mount.kind else { return Ok(None) };
    let opened = clone_source(mount, source, *recursive, fs, mapper)
        .with_context(|| format!("mounts[{}].source {}", mount.index, source.display()))?;
    Ok(Some(opened))
}

fn clone_source(
    mount: &Mount,
    source: &std::path::Path,
    recursive: bool,
    fs: &Filesystem,
    mapper: Option<&mut Mapper<'_>>,
) -> Result<Source> {
    let fd = mount::clone_tree(nix::fcntl::AT_FDCWD, &host_path(source)?, recursive)
        .hint_if(Errno::ENOENT, "the source of a bind mount must exist; a relative one is relative to the bundle")
        .hint_if(Errno::EINVAL, "the source is on an unbindable mount, or in another mount namespace; or the caller is not root, who can bind a \
             directory with mounts below it only by rbind")?;
    let stat = path::stat(fd.as_fd())?;
    if mount.destination.as_str() == "/proc" {
        let kind = fstatfs(&fd).map_err(failed("fstatfs"))?.filesystem_type();
        // The root of every procfs is inode 1 (fs/proc/root.c).
        if kind != PROC_SUPER_MAGIC || stat.st_ino != 1 {
            bail!("only a procfs may be bound to /proc (CVE-2019-19921)");
        }
    }
    if fs.user_namespace {
        let is_this = |of: Option<usize>| of.and_then(|of| fs.mounts.get(of)).is_some_and(|m| m.index == mount.index);
        let remounts = fs.mounts.iter().filter(|m| matches!(m.kind, Kind::Remount { of } if is_this(of)));
        for change in std::iter::once(mount).chain(remounts) {
            check_locked(fd.as_fd(), change.change())?;
        }
    }
    idmap(fd.as_fd(), mount.idmap.as_ref(), mapper)?;
    let default = inherited_propagation(fs);
    apply(fd.as_fd(), mount.attrs, mount.recursive, default, &mount.propagation)?;
    Ok(Source { mount: fd, is_dir: path::is(&stat, libc::S_IFDIR) })
}

/// Maps the ids of a detached mount, if the plan says so.
pub fn idmap(fd: BorrowedFd<'_>, map: Option<&MountMap>, mapper: Option<&mut Mapper<'_>>) -> Result<()> {
    match (map, mapper) {
        (None, _) => Ok(()),
        (Some(map), Some(mapper)) => mapper.apply(fd, map),
        (Some(_), None) => bail!("an idmapped mount needs a caller that may clone the host's mounts"),
    }
}

/// CHILD in a user namespace, while its user id is still that of the host's root: the same source, cloned from its own
/// copy of the host's mounts. In that copy the kernel has locked what the host set (read-only, nosuid, and which mount
/// covers what); in the parent's clone the container's root could undo it (mount_namespaces(7)).
///
/// Such a clone can be idmapped by the host's root alone: `idmap` has the parent do it.
///
/// A source that only CAP_DAC_OVERRIDE on the host can reach stays the parent's clone.
pub fn lock_source(
    mount: &Mount,
    source: Source,
    fs: &Filesystem,
    idmap: impl FnOnce(BorrowedFd<'_>) -> Result<()>,
) -> Result<Source> {
    let Kind::Bind { source: path, recursive } = &mount.kind else { return Ok(source) };
    let Some(copy) = locked_clone(path, source.mount.as_fd(), *recursive)
        .with_context(|| format!("mounts[{}].source {}", mount.index, path.display()))?
    else {
        return Ok(source);
    };
    if mount.idmap.is_some() {
        idmap(copy.as_fd()).with_context(|| format!("mounts[{}].source {}", mount.index, path.display()))?;
    }
    apply(copy.as_fd(), mount.attrs, mount.recursive, inherited_propagation(fs), &mount.propagation)?;
    Ok(Source { mount: copy, ..source })
}

/// A clone of what is at `path` in the caller's mount namespace, which must be what `known` refers to. None if the
/// caller may not look there.
pub fn locked_clone(path: &std::path::Path, known: BorrowedFd<'_>, recursive: bool) -> Result<Option<OwnedFd>> {
    let copy = match mount::clone_tree(nix::fcntl::AT_FDCWD, &host_path(path)?, recursive) {
        Err(e) if e.errno == Errno::EACCES => return Ok(None),
        cloned => cloned.hint_if(
            Errno::EINVAL,
            "mounts of the host cover a part of it, which a user namespace must not uncover: use rbind",
        )?,
    };
    let (here, there) = (path::stat(copy.as_fd())?, path::stat(known)?);
    if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino) {
        bail!("it was replaced while the container was made");
    }
    Ok(Some(copy))
}

/// In a user namespace the flags of the host's mounts are locked (mount_namespaces(7)). The clone is made outside of it,
/// where the kernel would allow to clear them, so that this must be refused here.
fn check_locked(fd: BorrowedFd<'_>, change: Attrs) -> Result<()> {
    let flags = fstatvfs(fd).map_err(failed("fstatvfs"))?.flags();
    let held = [
        (FsFlags::ST_RDONLY, attr::RDONLY),
        (FsFlags::ST_NOSUID, attr::NOSUID),
        (FsFlags::ST_NODEV, attr::NODEV),
        (FsFlags::ST_NOEXEC, attr::NOEXEC),
    ]
    .iter()
    .filter(|(flag, _)| flags.contains(*flag))
    .fold(0, |bits, (_, bit)| bits | bit);
    let locked = held & change.clear;
    if locked != 0 {
        Err(anyhow!("the host mounted it {}, which a user namespace cannot undo", names(locked).join(", ")))
            .hint("remove the option that clears it, or remount the source on the host")?;
    }
    Ok(())
}

/// The propagation that a clone of a host's mount gets first: what it would have if "/" had been changed as
/// `linux.rootfsPropagation` asks, and then been bound. Shared mounts stay peers of the host's then, and only then.
fn inherited_propagation(fs: &Filesystem) -> Option<PropagationType> {
    match fs.propagation.to {
        PropagationType::Slave => Some(PropagationType::Slave),
        PropagationType::Private | PropagationType::Unbindable => Some(PropagationType::Private),
        PropagationType::Shared => None,
    }
}

/// The `MS_*` value for `mount_setattr(2)`.
pub fn propagation_flag(to: PropagationType) -> u64 {
    match to {
        PropagationType::Private => libc::MS_PRIVATE,
        PropagationType::Slave => libc::MS_SLAVE,
        PropagationType::Shared => libc::MS_SHARED,
        PropagationType::Unbindable => libc::MS_UNBINDABLE,
    }
}

/// Changes a detached mount with as few calls as the changes allow.
fn apply(
    fd: BorrowedFd<'_>,
    attrs: Attrs,
    recursive: Attrs,
    default: Option<PropagationType>,
    propagation: &[Propagation],
) -> Result<()> {
    let change = |attrs: Attrs, to: Option<PropagationType>| Attr {
        set: attrs.to_set(),
        clear: attrs.to_clear(),
        propagation: to.map_or(0, propagation_flag),
        userns_fd: 0,
    };
    let set = |attrs: Attrs, to: Option<PropagationType>, recursive: bool| {
        let change = change(attrs, to);
        attributes(mount::set_attr(fd, &change, recursive).map_err(Into::into), change.set | change.clear)
    };
    // The first recursive word replaces the default unless it builds on it: slave, then shared, is both.
    let (first, rest) = match propagation.split_first() {
        Some((word, rest)) if word.recursive && word.to != PropagationType::Shared => (Some(word.to), rest),
        _ => (default, propagation),
    };
    if first.is_some() || !recursive.is_empty() {
        set(recursive, first, true)?;
    }
    if !attrs.is_empty() {
        set(attrs, None, false)?;
    }
    for word in rest {
        set(Attrs::default(), Some(word.to), word.recursive)?;
    }
    Ok(())
}

/// Adds what to do if the kernel is older than the youngest of the attributes `bits`.
fn attributes<T>(set: Result<T>, bits: u64) -> Result<T> {
    match bits & attr::NOSYMFOLLOW {
        0 => set,
        _ => set.hint_if(Errno::EINVAL, "the options symfollow and nosymfollow take Linux 5.14"),
    }
}

/// CHILD: puts a mount in its place in the root. Returns the mounts that [`Mount::read_only_at_end`] is about, or that
/// the caller needs otherwise.
pub fn attach(
    mount: &Mount,
    root: &Root,
    source: Option<Source>,
    cgroups: &CgroupMounts,
    cgroup_sources: &[OwnedFd],
    fs: &Filesystem,
) -> Result<Option<OwnedFd>> {
    let target = match (&mount.kind, &source) {
        (Kind::Bind { .. }, Some(source)) if !source.is_dir => root.file(&mount.destination),
        (Kind::Tmpfs { .. }, _) => {
            let covered = root.find(&mount.destination).context("destination")?;
            let is_new = covered.is_none();
            let target = match covered {
                Some(covered) => covered,
                None => root.directory(&mount.destination).context("destination")?,
            };
            let made = tmpfs(mount, target.as_fd(), is_new, fs)?;
            put(mount, made.as_fd(), target.as_fd())?;
            return Ok(Some(made));
        }
        (Kind::Cgroup, _) => return cgroup(mount, root, cgroups, cgroup_sources, fs),
        (Kind::Proc | Kind::Sysfs, _) => root.real_directory(&mount.destination),
        _ => root.directory(&mount.destination),
    }
    .context("destination")?;
    let made = match source {
        Some(source) => source.mount,
        None => new_mount(mount, fs)?,
    };
    put(mount, made.as_fd(), target.as_fd())?;
    Ok(Some(made))
}

/// Attaches, after a look at where the destination really is.
fn put(mount: &Mount, made: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    if !matches!(mount.kind, Kind::Proc | Kind::Sysfs) && !may_cover_proc(&mount.destination) {
        let there = fstatfs(target).map_err(failed("fstatfs"))?.filesystem_type();
        if there == PROC_SUPER_MAGIC {
            bail!("links of the root filesystem lead {} into /proc", mount.destination);
        }
    }
    mount::attach(made, target)
        .hint_if(Errno::EINVAL, "a directory can only be mounted on a directory, a file on a file")
}

fn new_mount(mount: &Mount, fs: &Filesystem) -> Result<OwnedFd> {
    let fstype = match &mount.kind {
        Kind::Proc => "proc",
        Kind::Sysfs => "sysfs",
        Kind::Devpts => "devpts",
        Kind::Mqueue => "mqueue",
        Kind::Other { fstype } => fstype,
        _ => bail!("not one new file system"),
    };
    let labelled = matches!(mount.kind, Kind::Devpts | Kind::Other { .. });
    let parameters = if labelled { with_label(&mount.parameters, fs) } else { Cow::Borrowed(&*mount.parameters) };
    let made = new_filesystem(fstype, mount.source.as_deref(), &parameters, mount.attrs.to_set());
    let made = match &mount.kind {
        Kind::Sysfs if fs.user_namespace && !fs.network_namespace => made.hint_if(
            Errno::EPERM,
            "a new sysfs needs a new network namespace owned by the same user namespace; bind-mount /sys or add \
             \"network\"",
        ),
        Kind::Proc | Kind::Sysfs => made.hint_if(
            Errno::EPERM,
            "in a user namespace a new one needs the caller's own to be fully visible: nothing mounted over parts of it \
             (user_namespaces(7)), and a process in the new pid or network namespace",
        ),
        Kind::Devpts => made.hint_if(
            Errno::EINVAL,
            "in a user namespace gid= and uid= must be mapped; gid=5 needs 6 or more mapped ids",
        ),
        _ => made,
    }?;
    if let (Kind::Mqueue, Some(label)) = (&mount.kind, &fs.label) {
        // It has no option for it.
        let root = openat2(made.as_fd(), c".", libc::O_RDONLY | libc::O_DIRECTORY, 0, Resolve::BENEATH)?;
        mount::set_label(root.as_fd(), &c_string(label)?).context("linux.mountLabel")?;
    }
    apply(made.as_fd(), Attrs::default(), Attrs::default(), None, &mount.propagation)?;
    Ok(made)
}

/// The options, and `linux.mountLabel` as one of them unless they have a context of their own.
pub fn with_label<'a>(parameters: &'a [Parameter], fs: &Filesystem) -> Cow<'a, [Parameter]> {
    match &fs.label {
        Some(label) if !parameters.iter().any(|(key, _)| key == "context") => {
            let mut all = parameters.to_vec();
            all.push(("context".to_string(), Some(label.clone())));
            Cow::Owned(all)
        }
        _ => Cow::Borrowed(parameters),
    }
}

/// `linux.mountLabel` without SELinux is an error of its own: a file system would call it an unknown option.
pub fn check_label(fs: &Filesystem) -> Result<()> {
    if fs.label.is_none() {
        return Ok(());
    }
    mount::fsopen(c"selinuxfs")
        .map(drop)
        .hint_if(Errno::ENODEV, "SELinux is not enabled on this host; remove the label")
        .context("linux.mountLabel")
}

/// CHILD: changes what an earlier entry mounted, `mounted`, or else what is at the destination. Attributes that the
/// options do not name stay, so that those which the kernel has locked (mount_namespaces(7)) are no obstacle.
pub fn remount(mount: &Mount, mounted: Option<BorrowedFd<'_>>, root: &Root, at_end: bool) -> Result<()> {
    let found;
    let target = match mounted {
        Some(mounted) => mounted,
        None => {
            // The mount came with another, whose name the configuration knows: a link is no name.
            let resolve = Resolve(Resolve::IN_ROOT.0 | libc::RESOLVE_NO_SYMLINKS);
            found = openat2(root.fd(), &c_string(mount.destination.as_str())?, libc::O_PATH, 0, resolve)
                .hint_if(Errno::ELOOP, "the mount to change must be named without links")
                .context("destination")?;
            if !mount::is_mount_root(found.as_fd())? {
                Err(anyhow!("remount: nothing is mounted there")).hint("list the mount before its remount")?;
            }
            found.as_fd()
        }
    };
    if !mount.parameters.is_empty() {
        let context = mount::fspick(target)?;
        for (key, value) in &mount.parameters {
            parameter(context.as_fd(), key, value.as_deref())?;
        }
        explain(context.as_fd(), mount::reconfigure(context.as_fd()))?;
    }
    // As the tmpfs itself, which is filled first.
    let later = if at_end { attr::RDONLY } else { 0 };
    let change = |attrs: Attrs| Attrs { set: attrs.set & !later, ..attrs };
    apply(target, change(mount.attrs), change(mount.recursive), None, &mount.propagation).hint_if(
        Errno::EPERM,
        "the host mounted it with a flag that the option clears, which a user namespace cannot undo",
    )
}

/// A detached mount of a new file system with the `MOUNT_ATTR_*` bits `bits`. What the file system says about a
/// failure becomes part of the error.
pub fn new_filesystem(fstype: &str, source: Option<&str>, parameters: &[Parameter], bits: u64) -> Result<OwnedFd> {
    let context = mount::fsopen(&c_string(fstype)?)
        .hint_if(Errno::ENODEV, "the kernel has no such file system type; see /proc/filesystems")?;
    let context = context.as_fd();
    if let Some(source) = source {
        parameter(context, "source", Some(source))?;
    }
    for (key, value) in parameters {
        match value.as_deref() {
            Some(list) if fstype == "overlay" && key == "lowerdir" && list.len() > mount::LONGEST_STRING => {
                // Layer by layer (Linux 6.7).
                for (data, layer) in layers(list) {
                    add_layer(context, if data { "datadir+" } else { "lowerdir+" }, &layer)?;
                }
            }
            value => parameter(context, key, value)?,
        }
    }
    explain(context, mount::create(context))?;
    attributes(explain(context, mount::fsmount(context, bits)), bits)
}

fn add_layer(context: BorrowedFd<'_>, key: &str, layer: &str) -> Result<()> {
    parameter(context, key, Some(layer)).with_context(|| format!("lowerdir: layer {layer:?}")).hint_if(
        Errno::EINVAL,
        format!(
            "a lowerdir of more than {} bytes is given layer by layer, which takes Linux 6.7",
            mount::LONGEST_STRING
        ),
    )
}

fn parameter(context: BorrowedFd<'_>, key: &str, value: Option<&str>) -> Result<()> {
    let name = c_string(key)?;
    let set = match value {
        Some(value) if value.len() > mount::LONGEST_STRING => {
            bail!("option {key}: its value is longer than the {} bytes that the kernel takes", mount::LONGEST_STRING)
        }
        Some(value) => mount::set_string(context, &name, &c_string(value)?),
        None => match mount::set_flag(context, &name) {
            // A flag of mount(2) that only the file systems which count inode versions know as an option.
            Err(e) if key == "iversion" && e.errno == Errno::EINVAL => Ok(()),
            set => set,
        },
    };
    explain(context, set)
}

fn explain<T>(context: BorrowedFd<'_>, result: crate::sys::Result<T>) -> Result<T> {
    result.map_err(|e| match mount::messages(context) {
        Some(messages) => anyhow::Error::new(e).context(messages),
        None => e.into(),
    })
}

/// A detached tmpfs. It takes over the mode of the directory that it covers, unless that `is_new` or it is given one,
/// and its contents with `tmpcopyup`.
fn tmpfs(mount: &Mount, target: BorrowedFd<'_>, is_new: bool, fs: &Filesystem) -> Result<OwnedFd> {
    let mut parameters = with_label(&mount.parameters, fs).into_owned();
    if !is_new && !parameters.iter().any(|(key, _)| key == "mode") {
        let mode = path::stat(target)?.st_mode & 0o7777;
        parameters.push(("mode".to_string(), Some(format!("{mode:o}"))));
    }
    let copy = matches!(mount.kind, Kind::Tmpfs { copy_up: true });
    let all = mount.attrs.to_set();
    let at_first = if mount.read_only_at_end || copy { all & !attr::RDONLY } else { all };
    let made = new_filesystem("tmpfs", mount.source.as_deref(), &parameters, at_first)?;
    if copy {
        copy_up::copy(target, made.as_fd()).context("tmpcopyup")?;
        if at_first != all && !mount.read_only_at_end {
            set_read_only(made.as_fd(), false)?;
        }
    }
    apply(made.as_fd(), Attrs::default(), Attrs::default(), None, &mount.propagation)?;
    Ok(made)
}

/// A further mount of a container that exists.
#[derive(Debug)]
pub struct Added {
    mount: OwnedFd,
    place: Place,
}

/// Which mount it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountId {
    /// As in mountinfo; free again once the mount is gone.
    pub id: u64,
    /// See [`mount::unique_mount_id`].
    pub unique: u64,
}

impl MountId {
    /// That of the mount which `fd` is on.
    pub fn of(fd: BorrowedFd<'_>) -> Result<Self> {
        Ok(Self { id: mount::mount_id(fd)?, unique: mount::unique_mount_id(fd)? })
    }
}

/// CHILD in a container that exists: makes a mount, and puts it in its place once `record` knows which one it is. On
/// failure nothing is left.
pub fn add(
    mount: &Mount,
    root: &Root,
    source: Option<Source>,
    fs: &Filesystem,
    record: impl FnOnce(MountId) -> Result<()>,
) -> Result<Added> {
    let directory = source.as_ref().is_none_or(|source| source.is_dir);
    // As for `attach`, links are followed but for proc and sysfs.
    let follow = !matches!(mount.kind, Kind::Proc | Kind::Sysfs);
    let place = root.place(&mount.destination, directory, follow).context("destination")?;
    let made = || -> Result<OwnedFd> {
        let target = place.target.as_fd();
        let made = match (&mount.kind, source) {
            (_, Some(source)) => source.mount,
            (Kind::Tmpfs { .. }, None) => tmpfs(mount, target, place.is_new(), fs)?,
            (_, None) => new_mount(mount, fs)?,
        };
        record(MountId::of(made.as_fd())?)?;
        put(mount, made.as_fd(), target)?;
        Ok(made)
    };
    match made() {
        Ok(mount) => Ok(Added { mount, place }),
        Err(e) => {
            place.take_back();
            Err(e)
        }
    }
}

impl Added {
    /// The mount itself.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }

    /// Unmounts it again.
    pub fn take_back(self, proc: &Proc) {
        // The error that is reported is the one that led here.
        drop(unmount(proc, self.mount.as_fd()));
        self.place.take_back();
    }
}

/// CHILD in a container that exists: detaches the mount that `fd` is the root of, and what is mounted below it. No path
/// is resolved: nothing can be swapped between the look at `fd` and the unmounting.
///
/// `proc`: the host's.
pub fn unmount(proc: &Proc, fd: BorrowedFd<'_>) -> Result<()> {
    use std::os::fd::AsRawFd;
    nix::unistd::fchdir(proc.own_descriptors()?).map_err(failed("fchdir(/proc/self/fd)"))?;
    Ok(mount::detach_entry(&c_string(&fd.as_raw_fd().to_string())?)?)
}

/// CHILD in a container that exists: unmounts the mount at `destination` if it is `known`. False if something else is
/// there, or nothing.
pub fn remove(proc: &Proc, root: &Root, destination: &InRoot, known: MountId) -> Result<bool> {
    // The container may put mounts of its own on top at any time; those go first then.
    for _ in 0..MOST_STACKED {
        let Some(found) = root.find(destination)? else { return Ok(false) };
        if !mount::is_mount_root(found.as_fd())? || mount::unique_mount_id(found.as_fd())? != known.unique {
            return Ok(false);
        }
        unmount(proc, found.as_fd())?;
        let again = root.find(destination)?;
        let again = again.map(|fd| mount::unique_mount_id(fd.as_fd())).transpose()?;
        if again != Some(known.unique) {
            return Ok(true);
        }
    }
    bail!("the container keeps mounting over it")
}

/// How many mounts that a container stacks on one while it is being unmounted are put up with.
const MOST_STACKED: u32 = 16;

/// CHILD, before it enters the user namespace of a container that exists: exchanges the parent's clones for copies that
/// the kernel has locked, as [`lock_source`] does for a new container. Here the attributes that were asked for are locked
/// with those of the host: a bind that was added `ro` stays so whatever the container's root may do
/// (mount_namespaces(7)).
///
/// A copy of the caller's mount namespace gets the mounts; a copy of that copy, made in the user namespace, has them
/// locked. `enter_user` enters that. The sources are those of [`to_lock`] for each mount of `fs`: propagation does not
/// survive this, and is set here.
pub fn lock_sources(
    sources: &mut [Option<Source>],
    fs: &Filesystem,
    enter_user: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let private = Attr { propagation: libc::MS_PRIVATE, ..Attr::default() };
    crate::sys::clone::unshare(libc::CLONE_NEWNS)?;
    mount::set_attr_of_root(&private)?;
    let stage = new_filesystem("tmpfs", Some("tmpfs"), &[("mode".to_string(), Some("755".to_string()))], 0)?;
    for (i, source) in sources.iter().enumerate() {
        let Some(source) = source else { continue };
        let name = i.to_string();
        let place = match source.is_dir {
            true => path::make_directory_in(stage.as_fd(), &name)?,
            false => path::make_file_in(stage.as_fd(), &name, 0o644)?,
        };
        mount::attach(source.mount.as_fd(), place.as_fd())?;
    }
    mount::attach_on_root(stage.as_fd())?;
    nix::unistd::fchdir(&stage).map_err(failed("fchdir(stage)"))?;
    drop(stage);
    enter_user()?;
    // The working directory goes with it.
    crate::sys::clone::unshare(libc::CLONE_NEWNS)?;
    for (i, (source, mount)) in sources.iter_mut().zip(&fs.mounts).enumerate() {
        if let Some(source) = source {
            source.mount = mount::clone_tree(nix::fcntl::AT_FDCWD, &c_string(&i.to_string())?, true)?;
            let (none, default) = (Attrs::default(), inherited_propagation(fs));
            apply(source.mount.as_fd(), none, none, default, &mount.propagation).with_context(|| mount.name())?;
        }
    }
    Ok(())
}

/// The mount whose source is for [`lock_sources`]. In a copy that belongs to a user namespace shared mounts are slaves
/// (mount_namespaces(7)), so that slaves lose nothing on the way, and an unbindable one could not be copied.
pub fn to_lock(mount: &Mount) -> Mount {
    let slave = Propagation { to: PropagationType::Slave, recursive: true };
    Mount { propagation: vec![slave], ..mount.clone() }
}

/// Makes a mount read-only, and all below it if `recursive`; its other attributes stay.
pub fn set_read_only(fd: BorrowedFd<'_>, recursive: bool) -> Result<()> {
    Ok(mount::set_attr(fd, &Attr { set: attr::RDONLY, ..Attr::default() }, recursive)?)
}

/// PARENT: what a mount of type `cgroup` binds if the container has no cgroup namespace: its own cgroup of every
/// hierarchy, in the order of [`CgroupMounts::all`]. The cgroups must exist.
pub fn open_cgroup_sources(cgroups: &CgroupMounts) -> Result<Vec<OwnedFd>> {
    cgroups
        .all()
        .iter()
        .map(|cgroup| {
            let fd = mount::clone_tree(nix::fcntl::AT_FDCWD, &host_path(&cgroup.directory)?, false)
                .with_context(|| format!("cgroup {}", cgroup.directory.display()))?;
            let propagation = libc::MS_PRIVATE;
            mount::set_attr(fd.as_fd(), &Attr { propagation, ..Attr::default() }, false)?;
            Ok(fd)
        })
        .collect()
}

fn cgroup(
    mount: &Mount,
    root: &Root,
    cgroups: &CgroupMounts,
    sources: &[OwnedFd],
    fs: &Filesystem,
) -> Result<Option<OwnedFd>> {
    let target = root.directory(&mount.destination).context("destination")?;
    let unified = matches!(cgroups, CgroupMounts::Unified(_));
    if let (Some((key, _)), false) = (mount.parameters.first(), unified && fs.cgroup_namespace) {
        Err(anyhow!("option {key}: this cgroup mount is not one new file system that could have it"))
            .hint("options are for cgroup v2 in a cgroup namespace of the container's own")?;
    }
    let one = |i: usize, cgroup: &CgroupMount| -> Result<OwnedFd> {
        if fs.cgroup_namespace {
            let made = new_cgroup(mount, cgroup)?;
            apply(made.as_fd(), Attrs::default(), Attrs::default(), None, &mount.propagation)?;
            return Ok(made);
        }
        let Some(source) = sources.get(i) else { bail!("no cgroup to bind was opened for {}", cgroup.name) };
        let source = source.try_clone()?;
        apply(source.as_fd(), mount.attrs, Attrs::default(), None, &mount.propagation)?;
        Ok(source)
    };
    match cgroups {
        CgroupMounts::None => bail!("the host has no cgroup file system on /sys/fs/cgroup"),
        CgroupMounts::Unified(cgroup) => {
            let made = one(0, cgroup)?;
            put(mount, made.as_fd(), target.as_fd())?;
            Ok(Some(made))
        }
        CgroupMounts::Legacy(all) => {
            let attributes = mount.attrs.to_set() & !attr::RDONLY;
            let mode = [("mode".to_string(), Some("755".to_string()))];
            let made = new_filesystem("tmpfs", Some("tmpfs"), &with_label(&mode, fs), attributes)?;
            apply(made.as_fd(), Attrs::default(), Attrs::default(), None, &mount.propagation)?;
            put(mount, made.as_fd(), target.as_fd())?;
            for (i, cgroup) in all.iter().enumerate() {
                let dir = path::make_directory_in(made.as_fd(), &cgroup.name)?;
                mount::attach(one(i, cgroup).with_context(|| cgroup.name.clone())?.as_fd(), dir.as_fd())?;
                link_controllers(made.as_fd(), cgroup)?;
            }
            if mount.attrs.set & attr::RDONLY != 0 {
                set_read_only(made.as_fd(), false)?;
            }
            Ok(Some(made))
        }
    }
}

/// `cpu -> cpu,cpuacct` and so on, as on the host.
fn link_controllers(dir: BorrowedFd<'_>, cgroup: &CgroupMount) -> Result<()> {
    if cgroup.unified || cgroup.controllers.len() < 2 {
        return Ok(());
    }
    for controller in cgroup.controllers.iter().filter(|c| **c != cgroup.name) {
        match nix::unistd::symlinkat(cgroup.name.as_str(), dir, controller.as_str()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => return Err(failed(format!("symlinkat({controller:?})"))(e).into()),
        }
    }
    Ok(())
}

/// A hierarchy seen from inside a cgroup namespace, whose root is the container's cgroup (cgroup_namespaces(7)).
fn new_cgroup(mount: &Mount, cgroup: &CgroupMount) -> Result<OwnedFd> {
    let attributes = mount.attrs.to_set();
    if cgroup.unified {
        return new_filesystem("cgroup2", mount.source.as_deref(), &mount.parameters, attributes)
            .hint_if(Errno::EPERM, "the cgroup namespace must belong to the container's user namespace");
    }
    let mut parameters = Vec::new();
    for controller in &cgroup.controllers {
        if let Some(name) = controller.strip_prefix("name=") {
            parameters.push(("none".to_string(), None));
            parameters.push(("name".to_string(), Some(name.to_string())));
        } else {
            parameters.push((controller.clone(), None));
        }
    }
    new_filesystem("cgroup", Some("cgroup"), &parameters, attributes)
}
