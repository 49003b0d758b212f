// SPDX-License-Identifier: Apache-2.0
//! The root filesystem, in four steps: [`prepare`] (parent), [`build`], [`enter`] and [`finish`] (child). The parent
//! opens what needs a name of the host; the child goes on with descriptors, and makes no name of the host mean anything
//! but, in [`build`], the place of the root directory itself.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chroot, fchdir};

use super::console::Console;
use super::idmap::Mapper;
use super::mount::{self as mounts, CgroupMounts, Source};
use super::path::{self, Root, host_path};
use super::{device, host_mounts};
use crate::error::ResultExt;
use crate::plan::filesystem::{Filesystem, InRoot};
use crate::plan::mount_options::{PropagationType, attr};
use crate::plan::mounts::{Kind, Mount};
use crate::sys::mount::{self, Attr, failed};

/// What the parent opened for the child. All descriptors are close-on-exec, and are gone after [`finish`].
#[derive(Debug)]
pub struct Prepared {
    root: Root,
    /// The sources of bind mounts, by their place in `Filesystem::mounts`.
    sources: Vec<Option<Source>>,
    /// The host's device nodes to bind, by their place in `Filesystem::devices`.
    nodes: Vec<Option<OwnedFd>>,
    /// The host's null device, if files may have to be masked.
    null: Option<OwnedFd>,
    cgroups: Vec<OwnedFd>,
    /// The host's /proc, for `--no-pivot`.
    host_proc: Option<OwnedFd>,
    /// Mounts that become read-only in the end.
    read_only_at_end: Vec<OwnedFd>,
}

/// PARENT, before the clone: opens the root directory, once, and everything else that has a name on the host.
///
/// # Errors
/// If `root.path` or the source of a bind mount is missing, or a device of the host is not what its name says.
pub fn prepare(fs: &Filesystem, mut mapper: Option<&mut Mapper<'_>>) -> Result<Prepared> {
    let root = open_root(fs, mapper.as_deref_mut()).with_context(|| format!("root.path {}", fs.root.display()))?;
    let mut prepared = Prepared {
        root: Root::new(root),
        sources: Vec::new(),
        nodes: Vec::new(),
        null: None,
        cgroups: Vec::new(),
        host_proc: None,
        read_only_at_end: Vec::new(),
    };
    if !fs.mount_namespace {
        return Ok(prepared);
    }
    mounts::check_label(fs)?;
    for mount in &fs.mounts {
        prepared.sources.push(mounts::open_source(mount, fs, mapper.as_deref_mut())?);
    }
    for device in &fs.devices {
        let node = if device.bind { Some(device::host_node(device).with_context(|| device.name())?) } else { None };
        prepared.nodes.push(node);
    }
    if !fs.masked.is_empty() {
        prepared.null = Some(device::host_null()?);
    }
    if fs.no_pivot {
        prepared.host_proc = Some(path::open_host(c"/proc", libc::O_DIRECTORY)?);
    }
    Ok(prepared)
}

fn open_root(fs: &Filesystem, mapper: Option<&mut Mapper<'_>>) -> Result<OwnedFd> {
    let path = host_path(&fs.root)?;
    if !fs.mount_namespace {
        return Ok(path::open_host(&path, libc::O_DIRECTORY)?);
    }
    let fd = mount::clone_tree(nix::fcntl::AT_FDCWD, &path, true)
        .hint_if(Errno::ENOENT, "the bundle has no such directory")
        .hint_if(Errno::EINVAL, "the directory is on an unbindable mount, or in another mount namespace")?;
    if !path::is(&path::stat(fd.as_fd())?, libc::S_IFDIR) {
        bail!("not a directory");
    }
    mounts::idmap(fd.as_fd(), fs.root_idmap.as_ref(), mapper)?;
    detach_from_host(fs, &fd)?;
    Ok(fd)
}

/// Shared would make the container's mounts appear on the host; it is set after the pivot.
fn detach_from_host(fs: &Filesystem, root: &OwnedFd) -> Result<()> {
    let propagation = match fs.propagation.to {
        PropagationType::Slave => libc::MS_SLAVE,
        PropagationType::Private | PropagationType::Shared | PropagationType::Unbindable => libc::MS_PRIVATE,
    };
    Ok(mount::set_attr(root.as_fd(), &Attr { propagation, ..Attr::default() }, true)?)
}

impl Prepared {
    /// PARENT, once the cgroup exists and before the clone: opens what a mount of type `cgroup` binds in a container
    /// without a cgroup namespace. Does nothing if there is no such mount.
    pub fn open_cgroups(&mut self, fs: &Filesystem, cgroups: &CgroupMounts) -> Result<()> {
        if fs.mount_namespace && !fs.cgroup_namespace {
            // Each mount binds clones of its own, as a clone has one place.
            for _ in fs.mounts.iter().filter(|m| m.kind == Kind::Cgroup) {
                self.cgroups.extend(mounts::open_cgroup_sources(cgroups)?);
            }
        }
        Ok(())
    }

    /// CHILD in a user namespace, before it becomes root there: exchanges the clones that the parent made of the host's
    /// mounts for ones with the kernel's locks, see [`mounts::lock_source`]. Before anything is mounted, so that the
    /// names still mean what they meant to the parent.
    ///
    /// `idmap` idmaps a clone of the mount with that place in `Filesystem::mounts`, None for the root, in the parent.
    pub fn lock(
        &mut self,
        fs: &Filesystem,
        mut idmap: impl FnMut(Option<usize>, BorrowedFd<'_>) -> Result<()>,
    ) -> Result<()> {
        if !fs.mount_namespace {
            return Ok(());
        }
        let root = mounts::locked_clone(&fs.root, self.root.fd(), true)
            .with_context(|| format!("root.path {}", fs.root.display()))?;
        if let Some(root) = root {
            if fs.root_idmap.is_some() {
                idmap(None, root.as_fd()).with_context(|| format!("root.path {}", fs.root.display()))?;
            }
            detach_from_host(fs, &root)?;
            self.root = Root::new(root);
        }
        for (i, (mount, source)) in fs.mounts.iter().zip(&mut self.sources).enumerate() {
            if let Some(parents) = source.take() {
                *source = Some(mounts::lock_source(mount, parents, fs, |copy| idmap(Some(i), copy))?);
            }
        }
        Ok(())
    }

    /// The root directory, to look up paths of the container until [`finish`].
    pub fn root(&self) -> &Root {
        &self.root
    }
}

/// CHILD, before the createContainer hooks: makes everything in the new mount namespace, without entering it. The
/// returned terminal is to be sent off, and attached.
///
/// The caller must already be in the container's namespaces, the cgroup one too, and be root in its user namespace.
pub fn build(fs: &Filesystem, prepared: &mut Prepared, cgroups: &CgroupMounts) -> Result<Option<Console>> {
    // Modes are as planned. The process's own umask is set later.
    let old = umask(Mode::empty());
    let built = if fs.mount_namespace { build_here(fs, prepared, cgroups) } else { console_of_root(fs, prepared) };
    umask(old);
    built
}

fn build_here(fs: &Filesystem, prepared: &mut Prepared, cgroups: &CgroupMounts) -> Result<Option<Console>> {
    separate_from_host(fs)?;
    attach_root(fs, &prepared.root).with_context(|| format!("root.path {}", fs.root.display()))?;
    let mut pts = None;
    let mut sources = std::mem::take(&mut prepared.sources).into_iter();
    let mut cgroup_sources = prepared.cgroups.chunks(cgroups.all().len().max(1));
    // What later entries change, by its place in the list.
    let changes = |m: &Mount| if let Kind::Remount { of } = m.kind { of } else { None };
    let changed: Vec<usize> = fs.mounts.iter().filter_map(changes).collect();
    let mut held: Vec<(usize, OwnedFd)> = Vec::new();
    for (i, mount) in fs.mounts.iter().enumerate() {
        let source = sources.next().flatten();
        if let Kind::Remount { of } = mount.kind {
            let mounted = held.iter().find(|(i, _)| Some(*i) == of).map(|(_, fd)| fd.as_fd());
            let at_end = of.and_then(|of| fs.mounts.get(of)).is_some_and(|m| m.read_only_at_end);
            mounts::remount(mount, mounted, &prepared.root, at_end).with_context(|| mount.name())?;
            continue;
        }
        let clones = if mount.kind == Kind::Cgroup { cgroup_sources.next().unwrap_or_default() } else { &[] };
        let made = mounts::attach(mount, &prepared.root, source, cgroups, clones, fs).with_context(|| mount.name())?;
        if let Some(made) = &made
            && changed.contains(&i)
        {
            held.push((i, made.try_clone()?));
        }
        if mount.kind == Kind::Devpts && mount.destination.as_str() == "/dev/pts" {
            pts = made;
        } else if mount.read_only_at_end {
            prepared.read_only_at_end.extend(made);
        }
    }
    crate::trace::mark(crate::trace::Phase::Devices);
    device::all(&prepared.root, &fs.devices, &prepared.nodes)?;
    prepared.nodes.clear();
    prepared.cgroups.clear();
    let console = populate_dev(fs, &prepared.root, pts)?;
    if !fs.cwd.is_root() {
        prepared.root.directory(&fs.cwd).with_context(|| format!("process.cwd {}", fs.cwd))?;
    }
    Ok(console)
}

/// Makes the copy of the host's tree receive mounts at most: what the child mounts and detaches must never reach the
/// host. `linux.rootfsPropagation` decides only whether it still receives.
fn separate_from_host(fs: &Filesystem) -> Result<()> {
    let propagation = match fs.propagation.to {
        PropagationType::Slave | PropagationType::Shared => libc::MS_SLAVE,
        PropagationType::Private | PropagationType::Unbindable => libc::MS_PRIVATE,
    };
    Ok(mount::set_attr_of_root(&Attr { propagation, ..Attr::default() })?)
}

/// Puts the root over its own directory, where hooks expect to find the container.
///
/// A child in a user namespace may be unable to reach that directory. Its root then goes on top of "/", where nothing
/// finds it by name (but `/..`, which only a hook could look up); `pivot_root(2)` does not care.
fn attach_root(fs: &Filesystem, root: &Root) -> Result<()> {
    let place = match path::open_host(&host_path(&fs.root)?, libc::O_DIRECTORY) {
        Ok(place) => place,
        Err(e) if e.errno == Errno::EACCES && fs.user_namespace => return Ok(mount::attach_on_root(root.fd())?),
        Err(e) => return Err(e.into()),
    };
    let (there, cloned) = (path::stat(place.as_fd())?, path::stat(root.fd())?);
    if (there.st_dev, there.st_ino) != (cloned.st_dev, cloned.st_ino) {
        bail!("the directory was replaced while the container was made");
    }
    Ok(mount::attach(root.fd(), place.as_fd())?)
}

fn populate_dev(fs: &Filesystem, root: &Root, pts: Option<OwnedFd>) -> Result<Option<Console>> {
    if !fs.populate_dev && !fs.terminal {
        return Ok(None);
    }
    let Some(path) = in_root("/dev") else { return Ok(None) };
    let dev = root.directory(&path).context("/dev")?;
    if fs.populate_dev {
        device::links(root, dev.as_fd())?;
    }
    if !fs.terminal {
        return Ok(None);
    }
    let console = match pts {
        Some(pts) => Console::open(pts.as_fd())?,
        None => open_console(root)?,
    };
    console.bind(dev.as_fd(), fs.populate_dev)?;
    Ok(Some(console))
}

fn in_root(path: &str) -> Option<InRoot> {
    InRoot::new("", path, &mut crate::plan::problem::Problems::default())
}

fn console_of_root(fs: &Filesystem, prepared: &Prepared) -> Result<Option<Console>> {
    if fs.terminal { open_console(&prepared.root).map(Some) } else { Ok(None) }
}

/// A terminal of whatever is mounted on /dev/pts in `root`. For `exec`, too.
pub fn open_console(root: &Root) -> Result<Console> {
    let found = match in_root("/dev/pts") {
        Some(path) => root.find(&path)?,
        None => None,
    };
    let pts = found
        .ok_or_else(|| anyhow!("process.terminal needs a devpts on /dev/pts of the container"))
        .hint("add a mount of type devpts with the destination /dev/pts")?;
    Console::open(pts.as_fd())
}

/// CHILD, before the createContainer hooks: makes the built tree their working directory, as runc does. They still have
/// the host's root, and get there without a name of it.
pub fn visit(prepared: &Prepared) -> Result<()> {
    Ok(fchdir(prepared.root.fd()).map_err(failed("fchdir(root)"))?)
}

/// CHILD, after the createContainer hooks: makes the built tree the root and the working directory, and detaches the
/// host's.
pub fn enter(fs: &Filesystem, prepared: &Prepared) -> Result<()> {
    let root = prepared.root.fd();
    if fs.mount_namespace && fs.no_pivot {
        host_mounts::hide(root, prepared.host_proc.as_ref())?;
    }
    fchdir(root).map_err(failed("fchdir(root)"))?;
    if fs.mount_namespace && !fs.no_pivot {
        mount::pivot_to_cwd().hint_if(
            Errno::EINVAL,
            "pivot_root(2) cannot leave an initramfs; use --no-pivot if that is the host's root",
        )?;
        // The old root is on top of the new one now.
        return Ok(mount::detach_cwd()?);
    }
    if fs.mount_namespace {
        mount::attach_on_root(root).context("--no-pivot")?;
    }
    Ok(chroot(c".").map_err(failed("chroot(\".\")"))?)
}

/// CHILD, after [`enter`] and before anything of the container runs: read-only and masked paths, read-only mounts, and
/// the root's own propagation. Nothing remains open.
pub fn finish(fs: &Filesystem, prepared: Prepared) -> Result<()> {
    if !fs.mount_namespace {
        return Ok(());
    }
    let root = &prepared.root;
    for path in &fs.read_only_paths {
        make_read_only(root, path).with_context(|| format!("linux.readonlyPaths {path}"))?;
    }
    let mut masks = Masks { fs, null: prepared.null.as_ref(), null_used: false, empty: None };
    for path in &fs.masked {
        masks.put(root, path).with_context(|| format!("linux.maskedPaths {path}"))?;
    }
    for mount in &prepared.read_only_at_end {
        mounts::set_read_only(mount.as_fd(), false)?;
    }
    if fs.read_only {
        mounts::set_read_only(root.fd(), false).context("root.readonly")?;
    }
    if matches!(fs.propagation.to, PropagationType::Shared | PropagationType::Unbindable) {
        let propagation = mounts::propagation_flag(fs.propagation.to);
        mount::set_attr(root.fd(), &Attr { propagation, ..Attr::default() }, fs.propagation.recursive)
            .context("linux.rootfsPropagation")?;
    }
    Ok(())
}

/// Binds what is at `path` over itself, read-only; its other attributes stay. A missing path is nothing to protect.
fn make_read_only(root: &Root, path: &InRoot) -> Result<()> {
    let Some(target) = root.find(path)? else { return Ok(()) };
    let copy = mount::clone_tree(target.as_fd(), c"", true)?;
    mounts::set_read_only(copy.as_fd(), false)?;
    Ok(mount::attach(copy.as_fd(), target.as_fd())?)
}

/// The two things that masked paths are covered with. Each is made once and cloned from its first place, which costs
/// the kernel no new superblock.
struct Masks<'a> {
    fs: &'a Filesystem,
    null: Option<&'a OwnedFd>,
    null_used: bool,
    empty: Option<OwnedFd>,
}

impl Masks<'_> {
    fn put(&mut self, root: &Root, path: &InRoot) -> Result<()> {
        let Some(target) = root.find(path)? else { return Ok(()) };
        if path::is(&path::stat(target.as_fd())?, libc::S_IFDIR) {
            return self.hide_directory(target);
        }
        let Some(null) = self.null else { bail!("the null device was not opened") };
        if self.null_used {
            let copy = mount::clone_tree(null.as_fd(), c"", false)?;
            return Ok(mount::attach(copy.as_fd(), target.as_fd())?);
        }
        mount::attach(null.as_fd(), target.as_fd())?;
        self.null_used = true;
        Ok(())
    }

    fn hide_directory(&mut self, target: OwnedFd) -> Result<()> {
        if let Some(empty) = &self.empty {
            let copy = mount::clone_tree(empty.as_fd(), c"", false)?;
            return Ok(mount::attach(copy.as_fd(), target.as_fd())?);
        }
        // One inode for the root directory; a second, since some kernels of Ubuntu need it (runc issue 4122).
        let limits = [("nr_blocks", "1"), ("nr_inodes", "2"), ("mode", "755")];
        let limits = limits.map(|(key, value)| (key.to_string(), Some(value.to_string())));
        let attributes = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        let limits = mounts::with_label(&limits, self.fs);
        let empty = mounts::new_filesystem("tmpfs", Some("tmpfs"), &limits, attributes)?;
        mount::attach(empty.as_fd(), target.as_fd())?;
        self.empty = Some(empty);
        Ok(())
    }
}
