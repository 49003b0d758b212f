// SPDX-License-Identifier: Apache-2.0
//! Writing a container to a directory: CRIU dumps the processes, and orlop adds what CRIU does not know of them. Two files
//! stand beside CRIU's own: `descriptors.json`, runc's, with what init's standard streams are, and `orlop.json`, with the
//! mount points and the keys of those whose contents come from the host.
//!
//! A key is an index in the config (`m17`), never a path: whatever stands for a name in CRIU's protocol is parsed by it
//! (CVE-2026-119101, CVE-2026-115520, CVE-2026-119614).

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, fchown};
use serde::{Deserialize, Serialize};

use crate::error::ResultExt;
use crate::kernel::cgroup::Existing;
use crate::kernel::criu::{self, Criu, Event, MountEntry, Opt, Options, Request, mount_entries, text_of};
use crate::kernel::path::{self, Root};
use crate::kernel::procfs::Proc;
use crate::plan::Plan;
use crate::plan::filesystem::InRoot;
use crate::plan::mounts::Kind;
use crate::plan::namespaces::{Kind as NamespaceKind, Namespace};
use crate::plan::problem::Problems;
use crate::state::State;
use crate::sys::call;
use crate::sys::mount::{failed, is_mount_root, mount_id};

/// What init's standard streams are, as /proc/PID/fd has it: runc's file.
pub const DESCRIPTORS: &str = "descriptors.json";
/// The mount points.
pub const MOUNTS: &str = "orlop.json";
/// The key of the host's null device, which covers masked files.
pub const NULL_KEY: &str = "null";
/// A file of an image that is larger than this is not one of ours.
const SIZE_LIMIT: u64 = 16 << 20;

/// A mount of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Where it is, links resolved.
    pub path: String,
    pub directory: bool,
    /// For CRIU, if the contents come from the host.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<String>,
    /// What of the config that is, by its destination; of a cgroup mount, the hierarchy.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub destination: Option<String>,
}

impl Point {
    /// The path, which must be clean.
    pub fn in_root(&self) -> Result<InRoot> {
        InRoot::new(MOUNTS, &self.path, &mut Problems::default())
            .filter(|path| path.as_str() == self.path)
            .with_context(|| format!("{MOUNTS}: {:?} is not the path of a mount", self.path))
    }
}

/// The directories of an image.
#[derive(Debug)]
pub struct Images {
    /// `--image-path`.
    pub images: OwnedFd,
    /// `--work-path`, where CRIU's log is.
    pub work: OwnedFd,
    paths: (PathBuf, PathBuf),
    /// The name of that log.
    pub log: &'static str,
}

impl Images {
    /// Opens the directories; `make`: they are made, with mode 0700, if they are missing. Without a work path it is the
    /// image path.
    pub fn open(images: &Path, work: Option<&Path>, make: bool, log: &'static str) -> Result<Self> {
        let directory = |path: &Path, make: bool| -> Result<OwnedFd> {
            let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            if make {
                let parents: Vec<&Path> = path.ancestors().collect();
                for directory in parents.iter().rev() {
                    match nix::unistd::mkdir(*directory, Mode::S_IRWXU) {
                        Ok(()) | Err(Errno::EEXIST | Errno::EROFS) => {}
                        Err(errno) => return call!("mkdir({directory:?})" => Err(errno)).map_err(Into::into),
                    }
                }
            }
            Ok(call!("open({path:?})" => open(path, flags, Mode::empty()))?)
        };
        let opened = directory(images, make).context("--image-path")?;
        let paths = (images.to_path_buf(), work.unwrap_or(images).to_path_buf());
        let work = directory(&paths.1, true).context("--work-path")?;
        Ok(Self { images: opened, work, paths, log })
    }

    /// The same directories in the mount namespace that the caller is in now.
    pub fn again(&self) -> Result<Self> {
        Self::open(&self.paths.0, Some(&self.paths.1), false, self.log)
    }

    /// The options that name them.
    pub fn name_to(&self, options: &mut Options) {
        options.number(Opt::ImagesDirFd, self.images.as_raw_fd().into());
        options.number(Opt::WorkDirFd, self.work.as_raw_fd().into());
        options.text(Opt::LogFile, self.log);
        options.number(Opt::LogLevel, 4);
    }

    /// Lets the group `gid` look up names in the image path as long as the result lives: CRIU opens a part of the images
    /// as root of the container's user namespace. Their contents stay out of reach of everybody else.
    pub fn admit(&self, gid: u32) -> Result<Admission<'_>> {
        let stat = path::stat(self.images.as_fd())?;
        fchown(&self.images, None, Some(Gid::from_raw(gid))).map_err(failed("fchown(--image-path)"))?;
        let admission = Admission { images: &self.images, gid: stat.st_gid, mode: stat.st_mode };
        let mode = Mode::from_bits_truncate(stat.st_mode | libc::S_IXGRP);
        fchmod(&self.images, mode).map_err(failed("fchmod(--image-path)"))?;
        Ok(admission)
    }

    fn save(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = call!("openat(--image-path, {name:?})" =>
            openat(&self.images, name, flags, Mode::S_IRUSR | Mode::S_IWUSR))?;
        std::fs::File::from(file).write_all(&serde_json::to_vec(value)?).with_context(|| format!("write {name}"))
    }

    /// Reads a file of the image.
    pub fn load<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = call!("openat(--image-path, {name:?})" => openat(&self.images, name, flags, Mode::empty()))
            .hint_if(Errno::ENOENT, "the directory does not hold a checkpoint that orlop has made")?;
        let mut bytes = Vec::new();
        std::fs::File::from(file).take(SIZE_LIMIT).read_to_end(&mut bytes).with_context(|| format!("read {name}"))?;
        serde_json::from_slice(&bytes).with_context(|| format!("{name} of the checkpoint is damaged"))
    }

    /// The error for a request that CRIU has not carried out.
    pub fn failure(&self, what: &str, errno: i32, message: &str) -> anyhow::Error {
        let mut log = String::new();
        let opened =
            openat(&self.work, self.log, OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty());
        if let Ok(file) = opened {
            let mut bytes = Vec::new();
            // Half of a log says more than none.
            drop(std::fs::File::from(file).take(SIZE_LIMIT).read_to_end(&mut bytes));
            log = criu::errors_in_log(&String::from_utf8_lossy(&bytes));
        }
        let number =
            if errno == 0 { String::new() } else { format!(": {}", crate::sys::describe(Errno::from_raw(errno))) };
        // What CRIU sends along is the first of its errors, which need not be the cause.
        let said = if log.is_empty() { message.trim() } else { &log };
        anyhow!("criu failed: {what}{number}: {said} (see {} in the work path)", self.log)
    }
}

/// See [`Images::admit`].
#[derive(Debug)]
pub struct Admission<'a> {
    images: &'a OwnedFd,
    gid: u32,
    mode: libc::mode_t,
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        // What could be changed can be changed back.
        let _ignored = fchmod(self.images, Mode::from_bits_truncate(self.mode));
        let _ignored = fchown(self.images, None, Some(Gid::from_raw(self.gid)));
    }
}

/// What a `checkpoint` asks for beside what the options say already.
#[derive(Debug)]
pub struct Order {
    pub images: Images,
    pub options: Options,
    /// Memory only, of processes that go on.
    pub pre_dump: bool,
    pub lazy_pages: bool,
    /// Where CRIU says that it serves memory.
    pub status_fd: Option<RawFd>,
}

/// Dumps a container that runs. Unless the options ask to leave it running, its processes have ended afterwards.
///
/// A signal does not break it off: half a dump would leave processes stopped.
pub fn checkpoint(plan: &Plan, state: &State, proc: &Proc, mut order: Order) -> Result<()> {
    refuse_what_criu_cannot(plan)?;
    let root = Root::new(proc.root_of(&state.init)?);
    let options = &mut order.options;
    order.images.name_to(options);
    options.number(Opt::Pid, state.init.pid.into());
    options.text(Opt::Root, &text_of(&plan.filesystem.root)?);
    options.switch(Opt::NotifyScripts, true);
    options.switch(Opt::OrphanPtsMaster, true);
    options.switch(Opt::ManageCgroups, true);
    name_config_file(&plan.annotations, options);
    let cgroups = Existing::open(&state.cgroups)?;
    if let Some(freezer) = cgroups.freezer_path()? {
        options.text(Opt::FreezeCgroup, &text_of(&freezer)?);
    }
    for (kind, namespace) in
        [(NamespaceKind::Network, &plan.namespaces.network), (NamespaceKind::Pid, &plan.namespaces.pid)]
    {
        if matches!(namespace, Namespace::Join(_)) {
            let inode = nix::sys::stat::fstat(proc.open_namespace(nix::unistd::Pid::from_raw(state.init.pid), kind)?);
            let inode = call!("fstat(namespace)" => inode)?.st_ino;
            options.text(Opt::External, &format!("{}[{inode}]:{}", kind.file(), namespace_key(kind)));
        }
    }
    let entries = mount_entries(&proc.read_bytes(&format!("{}/mountinfo", state.init.pid))?)?;
    let points = points(plan, &root, &entries)?;
    for point in &points {
        if let Some(key) = &point.key {
            options.text(Opt::External, &format!("mnt[{}]:{key}", point.path));
        }
    }
    let streams = streams(proc, state.init.pid, &entries, options)?;
    let mut inherit = Vec::new();
    let status = order.status_fd.map(crate::sys::fd::inherited).transpose().context("--status-fd")?;
    if let Some(status) = &status {
        order.options.number(Opt::StatusFd, status.as_raw_fd().into());
        inherit.push(status.as_fd());
    }
    let criu = Criu::start(&inherit)?;
    if order.pre_dump || order.lazy_pages {
        let [tracks, serves] = criu.features()?;
        for (wanted, able, flag) in [(order.pre_dump, tracks, "--pre-dump"), (order.lazy_pages, serves, "--lazy-pages")]
        {
            if wanted && !able {
                bail!("{flag}: the kernel or criu cannot do that, see criu check --feature");
            }
        }
    }
    let frozen_before = cgroups.is_frozen()?;
    let kind = if order.pre_dump { Request::PreDump } else { Request::Dump };
    let dumped = dump(&criu, kind, &order);
    drop(criu);
    if dumped.is_err() {
        // A criu that died has not done it.
        if !frozen_before && cgroups.is_frozen().unwrap_or(false) {
            cgroups.thaw()?;
        }
        return dumped;
    }
    if !order.pre_dump {
        order.images.save(DESCRIPTORS, &streams)?;
        order.images.save(MOUNTS, &points)?;
    }
    Ok(())
}

fn dump(criu: &Criu, kind: Request, order: &Order) -> Result<()> {
    criu.request(kind, &order.options)?;
    loop {
        match criu.next(None)? {
            Event::Notify { .. } => criu.answer(true)?,
            Event::Done { .. } => return Ok(()),
            Event::Failed { errno, message } => return Err(order.images.failure("dump", errno, &message)),
        }
    }
}

/// What CRIU could dump but not restore, or nobody could name to it.
pub fn refuse_what_criu_cannot(plan: &Plan) -> Result<()> {
    let fs = &plan.filesystem;
    if !fs.mount_namespace {
        bail!("linux.namespaces: CRIU needs a container with a mount namespace of its own");
    }
    let idmapped = fs.mounts.iter().filter(|mount| mount.idmap.is_some()).map(|mount| mount.name());
    if let Some(name) = fs.root_idmap.as_ref().map(|_| "root".to_string()).into_iter().chain(idmapped).next() {
        bail!("{name}: CRIU does not know idmapped mounts");
    }
    if !plan.net_devices.is_empty() {
        bail!("linux.netDevices: CRIU does not restore devices that were moved from the host");
    }
    if plan.resctrl.is_some() {
        bail!("linux.intelRdt: CRIU does not restore the membership in a class of service");
    }
    Ok(())
}

/// The word for a namespace that is joined, the same at checkpoint and restore.
pub fn namespace_key(kind: NamespaceKind) -> &'static str {
    if kind == NamespaceKind::Network { "extRootNetNS" } else { "extRootPidNS" }
}

/// The annotation `org.criu.config` names a configuration file of CRIU, or none if it is empty. Otherwise it is the
/// host's, if there is one.
pub fn name_config_file(annotations: &std::collections::BTreeMap<String, String>, options: &mut Options) {
    const HOSTS: &str = "/etc/criu/runc.conf";
    match annotations.get("org.criu.config").map(String::as_str) {
        Some("") => {}
        Some(path) => options.text(Opt::ConfigFile, path),
        None if Path::new(HOSTS).exists() => options.text(Opt::ConfigFile, HOSTS),
        None => {}
    }
}

/// Every mount of the container, with the keys of those whose contents come from the host.
fn points(plan: &Plan, root: &Root, entries: &[MountEntry]) -> Result<Vec<Point>> {
    let mut keys = Keys { root, entries, found: Vec::new(), taken: BTreeSet::new() };
    let fs = &plan.filesystem;
    for mount in &fs.mounts {
        match &mount.kind {
            Kind::Bind { source, .. } => {
                let at = || mount.name();
                keys.add(&mount.destination, format!("m{}", mount.index), Some(source)).with_context(at)?;
            }
            Kind::Cgroup if !fs.cgroup_namespace => {
                keys.add_cgroups(&mount.destination).with_context(|| mount.name())?
            }
            _ => {}
        }
    }
    for (i, device) in fs.devices.iter().enumerate().filter(|(_, device)| device.bind) {
        keys.add(&device.path, format!("d{i}"), None).with_context(|| device.name())?;
    }
    for path in &fs.masked {
        keys.add_mask(path).with_context(|| format!("linux.maskedPaths {path}"))?;
    }
    let found = keys.found;
    let mut points = Vec::new();
    for entry in entries {
        let key = found.iter().find(|(id, ..)| *id == entry.id);
        if let Some((.., key, _)) = key
            && entry.point.contains("]:")
        {
            let refused: Result<()> = Err(anyhow!("mount {:?} cannot be checkpointed", entry.point));
            return refused
                .hint("CRIU would take a part of a name with \"]:\" for another mount")
                .map(|()| Vec::new())
                .with_context(|| key.clone());
        }
        let path = InRoot::new("", &entry.point, &mut Problems::default()).context("a mount point")?;
        let directory = match root.find(&path)? {
            Some(fd) => path::is(&path::stat(fd.as_fd())?, libc::S_IFDIR),
            None => continue, // hidden by a later mount
        };
        points.push(Point {
            path: entry.point.clone(),
            directory,
            key: key.map(|(_, key, _)| key.clone()),
            destination: key.map(|(.., destination)| destination.clone()),
        });
    }
    Ok(points)
}

/// The mounts from the host, found by the id of the mount that a destination leads to now.
struct Keys<'a> {
    root: &'a Root,
    entries: &'a [MountEntry],
    /// Mount id, key, destination.
    found: Vec<(u64, String, String)>,
    taken: BTreeSet<u64>,
}

impl Keys<'_> {
    /// The mount at `destination`, if one is there still.
    fn mount_at(&self, destination: &InRoot) -> Result<Option<(OwnedFd, &MountEntry)>> {
        let Some(fd) = self.root.find(destination)? else { return Ok(None) };
        if !is_mount_root(fd.as_fd())? {
            return Ok(None);
        }
        let id = mount_id(fd.as_fd())?;
        Ok(self.entries.iter().find(|entry| entry.id == id).map(|entry| (fd, entry)))
    }

    /// Gives the mount at `destination` a key. It must be on the file system of its `source`: a container whose links
    /// have changed could have another mount taken for it.
    fn add(&mut self, destination: &InRoot, key: String, source: Option<&Path>) -> Result<()> {
        let Some((fd, entry)) = self.mount_at(destination)? else { return Ok(()) };
        let id = entry.id;
        if let Some(source) = source {
            let here = path::stat(fd.as_fd())?.st_dev;
            let there = path::stat(path::open_host(&path::host_path(source)?, 0)?.as_fd())?.st_dev;
            if here != there {
                bail!("is not what is mounted there now");
            }
        }
        if !self.taken.insert(id) {
            bail!("leads to the mount of another entry");
        }
        self.found.push((id, key, destination.as_str().to_string()));
        Ok(())
    }

    /// Every cgroup hierarchy at or below `destination`.
    fn add_cgroups(&mut self, destination: &InRoot) -> Result<()> {
        for entry in self.entries.iter().filter(|entry| entry.fstype.starts_with("cgroup")) {
            let path = InRoot::new("", &entry.point, &mut Problems::default()).context("a mount point")?;
            if (path == *destination || path.is_below(destination)) && self.taken.insert(entry.id) {
                let name = entry.point.strip_prefix(destination.as_str()).unwrap_or_default();
                self.found.push((entry.id, format!("c{}", entry.id), name.trim_start_matches('/').to_string()));
            }
        }
        Ok(())
    }

    fn add_mask(&mut self, path: &InRoot) -> Result<()> {
        let Some((fd, entry)) = self.mount_at(path)? else { return Ok(()) };
        let id = entry.id;
        if path::is(&path::stat(fd.as_fd())?, libc::S_IFCHR) && self.taken.insert(id) {
            self.found.push((id, NULL_KEY.into(), path.as_str().to_string()));
        }
        Ok(())
    }
}

/// What init's standard streams are. Those that are files of no mount of the container are named to CRIU as such: it
/// would not know where to open them again. Pipes it makes anew unless it inherits others in their place.
fn streams(proc: &Proc, pid: i32, entries: &[MountEntry], options: &mut Options) -> Result<Vec<String>> {
    let mut streams = Vec::new();
    for number in 0..3 {
        let path = format!("{pid}/fd/{number}");
        let link = match nix::fcntl::readlinkat(proc.as_fd(), path.as_str()) {
            Ok(link) => link.to_string_lossy().into_owned(),
            Err(Errno::ENOENT) => String::new(),
            Err(errno) => return call!("readlinkat(\"/proc/{path}\")" => Err(errno)).map_err(Into::into),
        };
        streams.push(if link.starts_with('/') {
            external_file(proc, pid, number, entries, options)?.unwrap_or(link)
        } else {
            link
        });
    }
    Ok(streams)
}

/// `file[MOUNT:INODE]`, CRIU's name of a file that it is not to look for.
fn external_file(
    proc: &Proc,
    pid: i32,
    number: i32,
    entries: &[MountEntry],
    options: &mut Options,
) -> Result<Option<String>> {
    let info = proc.read(&format!("{pid}/fdinfo/{number}"))?;
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse::<u64>().ok());
    let Some(mount) = mount.filter(|mount| entries.iter().all(|entry| entry.id != *mount)) else { return Ok(None) };
    // A magic link: the very file.
    let stat =
        nix::sys::stat::fstatat(proc.as_fd(), format!("{pid}/fd/{number}").as_str(), nix::fcntl::AtFlags::empty());
    let stat = call!("fstatat(\"/proc/{pid}/fd/{number}\")" => stat)?;
    let name = if path::is(&stat, libc::S_IFCHR) && nix::sys::stat::major(stat.st_rdev) == 136 {
        format!("tty[{:x}:{:x}]", stat.st_rdev, stat.st_dev)
    } else {
        format!("file[{mount:x}:{:x}]", stat.st_ino)
    };
    options.text(Opt::External, &name);
    Ok(Some(name))
}
