// SPDX-License-Identifier: Apache-2.0
//! A container's cgroup found again by the paths in its state: signalling, freezing and removing it. What is missing
//! counts as done, so that a delete that was interrupted can be repeated.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::unistd::Pid;

use super::fs::{self, is_gone, open_root};
use super::{create, freezer, handle, layout};
use crate::error::{ResultExt, errno_of};
use crate::plan::cgroup::Version;
use crate::sys;

/// How long [`Existing::kill_all`] and [`Existing::destroy`] wait for processes to end.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The directories that still exist.
#[derive(Debug)]
pub struct Existing {
    found: Vec<Found>,
}

/// A cgroup below a container's own (`exec --cgroup`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubCgroup {
    /// Those of v1 whose hierarchies have it; none: every hierarchy.
    pub controllers: Vec<String>,
    pub path: PathBuf,
}

impl SubCgroup {
    /// A v1 hierarchy is mounted on a directory that is called by its controllers (cgroups(7)).
    fn is_of(&self, found: &Found) -> bool {
        let mount = found.path.strip_prefix(layout::MOUNT_POINT).ok().and_then(|below| below.iter().next());
        let has = |name: &str| self.controllers.iter().any(|controller| controller == name);
        self.controllers.is_empty()
            || found.version == Version::V1 && mount.is_some_and(|m| m.to_string_lossy().split(',').any(has))
    }
}

#[derive(Debug)]
struct Found {
    version: Version,
    path: PathBuf,
    /// The only descriptor held for it: a `create` that ran out of them needs this for each hierarchy to clear up.
    fd: OwnedFd,
}

impl Existing {
    /// Opens those of `directories` that exist, as recorded from [`super::directories`]. Needs no [`super::detect`]:
    /// the file system says which version it is.
    ///
    /// # Errors
    /// If a path is not one below a cgroup mount (the state was tampered with), or cannot be opened.
    pub fn open(directories: &[PathBuf]) -> anyhow::Result<Existing> {
        let mut found = Vec::new();
        for path in directories {
            let opened = Found::open(path).with_context(|| format!("cgroup {}", path.display()))?;
            found.extend(opened);
        }
        Ok(Existing { found })
    }

    /// The way into the cgroup for a further process; with `subs`, relative paths without `..`, into cgroups that the
    /// container has made below its own.
    ///
    /// # Errors
    /// ENOENT if one is nowhere.
    pub fn handle(&self, subs: &[SubCgroup]) -> anyhow::Result<handle::Handle> {
        let mut directories = Vec::with_capacity(self.found.len());
        let mut used = vec![false; subs.len()];
        for found in &self.found {
            let chosen = subs.iter().zip(&mut used).find(|(sub, _)| sub.is_of(found));
            let (path, fd) = match chosen {
                None => (found.path.clone(), found.fd.try_clone().with_context(|| found.context())?),
                Some((sub, used)) => {
                    let path = found.path.join(&sub.path);
                    match fs::open_dir(found.fd.as_fd(), &sub.path) {
                        Ok(fd) => {
                            *used = true;
                            (path, fd)
                        }
                        // On v1 a container makes its cgroups in one hierarchy at a time: the others have none.
                        Err(e)
                            if e.errno == Errno::ENOENT
                                && found.version == Version::V1
                                && sub.controllers.is_empty() =>
                        {
                            continue;
                        }
                        Err(e) => return Err(e).with_context(|| format!("cgroup {}", path.display())),
                    }
                }
            };
            directories.push(handle::Directory { version: found.version, path, fd });
        }
        if let Some((sub, _)) = subs.iter().zip(used).find(|(_, used)| !used) {
            bail!("the container has no cgroup {:?} of {:?} below its own", sub.path, sub.controllers);
        }
        Ok(handle::Handle { directories, ..handle::Handle::default() })
    }

    /// The first directory found: for whoever opened one alone.
    pub fn directory(&self) -> Option<BorrowedFd<'_>> {
        self.found.first().map(|found| found.fd.as_fd())
    }

    /// A control file of that directory.
    pub fn read(&self, file: &str) -> sys::Result<String> {
        match self.directory() {
            Some(dir) => fs::read(dir, file),
            None => Err(sys::Error { call: format!("read({file:?})"), errno: Errno::ENOENT }),
        }
    }

    /// No directory at all.
    pub(super) fn none() -> Existing {
        Existing { found: Vec::new() }
    }

    /// Every directory found.
    pub(super) fn directories(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Version)> {
        self.found.iter().map(|found| (found.fd.as_fd(), found.version))
    }

    /// Whether no directory was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The processes in the cgroup and in those below it, as far as the caller's pid namespace shows them; none if it
    /// is gone.
    pub fn pids(&self) -> anyhow::Result<Vec<Pid>> {
        let mut all = Vec::new();
        for found in &self.found {
            all.extend(fs::pids(found.fd.as_fd()).with_context(|| found.context())?);
        }
        all.sort_unstable();
        all.dedup();
        Ok(all.into_iter().map(Pid::from_raw).collect())
    }

    /// Signals every process, none escaping by a fork: by `cgroup.kill` (v2, Linux 5.14) for SIGKILL, otherwise with
    /// the cgroup frozen. SIGKILL also thaws a paused cgroup, and returns once it has no processes or after ten
    /// seconds; other signals wait in a paused cgroup.
    ///
    /// # Errors
    /// EPERM for a process that the caller may not signal.
    pub fn kill_all(&self, signal: libc::c_int) -> anyhow::Result<()> {
        if signal != libc::SIGKILL {
            return self.signal_each(signal);
        }
        for found in self.found.iter().filter(|f| f.version == Version::V2) {
            match fs::write(found.fd.as_fd(), "cgroup.kill", "1") {
                Err(e) if is_gone(e.errno) || e.errno == Errno::EOPNOTSUPP => {}
                other => other.with_context(|| found.context())?,
            }
        }
        let deadline = Instant::now() + TIMEOUT;
        let mut pause = Duration::from_micros(500);
        // cgroup.kill says nothing of v1 hierarchies, older kernels do not have it, and the dying take a moment.
        for round in 0.. {
            if round == 1 || self.only_v1() {
                self.signal_each(signal)?;
            }
            if self.pids()?.is_empty() || Instant::now() >= deadline {
                break;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        Ok(())
    }

    fn only_v1(&self) -> bool {
        self.found.iter().all(|f| f.version == Version::V1)
    }

    fn signal_each(&self, signal: libc::c_int) -> anyhow::Result<()> {
        let was_frozen = self.is_frozen()?;
        // Without a freezer the caller's loop catches up with forks.
        let frozen = was_frozen || self.freezer()?.is_some() && self.freeze().is_ok();
        let mut result = Ok(());
        for pid in self.pids()?.into_iter().filter(|&pid| pid != Pid::this()) {
            match crate::sys::process::kill(pid, signal) {
                Err(e) if e.errno == Errno::ESRCH => {}
                // The others must still be signalled and thawed.
                sent => result = result.and(sent),
            }
        }
        if frozen && (signal == libc::SIGKILL || !was_frozen) {
            self.thaw()?;
        }
        Ok(result?)
    }

    /// Stops every process and waits until all have stopped.
    ///
    /// # Errors
    /// If there is no freezer or it takes more than ten seconds (the cgroup is then thawed).
    pub fn freeze(&self) -> anyhow::Result<()> {
        let Some(found) = self.freezer()? else {
            if self.found.is_empty() {
                return Ok(());
            }
            return Err(anyhow::anyhow!("the container's cgroup has no freezer"))
                .hint("on cgroup v1 the freezer controller must be mounted");
        };
        match freezer::freeze(found.fd.as_fd()) {
            Err(e) if is_gone(e.errno) => Ok(()),
            other => other.with_context(|| format!("freeze {}", found.context())),
        }
    }

    /// Lets the processes go on.
    pub fn thaw(&self) -> anyhow::Result<()> {
        let Some(found) = self.freezer()? else { return Ok(()) };
        match freezer::thaw(found.fd.as_fd()) {
            Err(e) if is_gone(e.errno) => Ok(()),
            other => other.with_context(|| format!("thaw {}", found.context())),
        }
    }

    /// Whether the cgroup is frozen or about to be.
    pub fn is_frozen(&self) -> anyhow::Result<bool> {
        let Some(found) = self.freezer()? else { return Ok(false) };
        freezer::is_frozen(found.fd.as_fd()).with_context(|| found.context())
    }

    /// The directory with the freezer: v1's where that is mounted, as its processes are surely in it.
    fn freezer(&self) -> anyhow::Result<Option<&Found>> {
        for found in &self.found {
            if freezer::has_freezer(found.fd.as_fd()).with_context(|| found.context())? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Whether the process is in the cgroup, or one below it, of every hierarchy.
    pub fn in_all(&self, pid: Pid) -> anyhow::Result<bool> {
        for found in &self.found {
            if !fs::pids(found.fd.as_fd()).with_context(|| found.context())?.contains(&pid.as_raw()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The directory with the freezer, if there is one.
    pub fn freezer_path(&self) -> anyhow::Result<Option<PathBuf>> {
        Ok(self.freezer()?.map(|found| found.path.clone()))
    }

    /// How many processes the OOM killer has killed; `None` without the memory controller.
    pub fn oom_kills(&self) -> Option<u64> {
        self.found.iter().find_map(|f| handle::oom_kills(f.fd.as_fd(), f.version))
    }

    /// Removes the directories with those that the container made in them; ancestors stay, others may use them. Waits
    /// up to ten seconds for dying processes to leave, but kills none.
    ///
    /// # Errors
    /// If processes remain, with their ids. The other hierarchies' directories are removed even then.
    pub fn destroy(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        let mut result = Ok(());
        for found in &self.found {
            result = result.and(found.remove(deadline).with_context(|| format!("remove {}", found.context())));
        }
        result
    }
}

impl Found {
    fn open(path: &Path) -> anyhow::Result<Option<Found>> {
        let gone = |e: &anyhow::Error| errno_of(e).is_some_and(is_gone);
        let opened = open_parent(path).and_then(|(parent, version, name)| {
            let fd = fs::open_dir(parent.as_fd(), Path::new(&name))?;
            Ok(Found { version, path: path.to_path_buf(), fd })
        });
        match opened {
            Err(e) if gone(&e) => Ok(None),
            opened => opened.map(Some),
        }
    }

    fn context(&self) -> String {
        format!("cgroup {}", self.path.display())
    }

    fn remove(&self, deadline: Instant) -> anyhow::Result<()> {
        let mut pause = Duration::from_millis(1);
        loop {
            if self.try_remove()? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let pids = fs::pids(self.fd.as_fd())?;
                let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
                return Err(anyhow::anyhow!(
                    "still in use by: {}",
                    if pids.is_empty() { "?".into() } else { pids.join(", ") }
                ))
                .hint("processes that do not die of SIGKILL wait for a device or a file system, see their wchan");
            }
            self.wait_for_exit(pause)?;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Removes the directory, and what is below it if need be; `false` if processes hold it.
    fn try_remove(&self) -> anyhow::Result<bool> {
        let remove = |parent: BorrowedFd<'_>, name: &std::ffi::CStr| match fs::remove_dir(parent, name) {
            Err(e) if matches!(e.errno, Errno::EBUSY | Errno::ENOTEMPTY) => Ok(false),
            other => other.map(|()| true),
        };
        let (parent, _, name) = match open_parent(&self.path) {
            Err(e) if errno_of(&e).is_some_and(is_gone) => return Ok(true),
            opened => opened?,
        };
        let name = fs::name(Path::new(&name))?;
        if remove(parent.as_fd(), &name)? {
            return Ok(true);
        }
        fs::walk(self.fd.as_fd(), &mut |_| Ok(()), &mut |parent, name| remove(parent, name).map(|_| ()))?;
        Ok(remove(parent.as_fd(), &name)?)
    }

    /// v2 tells when the last process has left, v1 does not.
    fn wait_for_exit(&self, pause: Duration) -> sys::Result<()> {
        if self.version == Version::V2
            && let Ok(mut events) = freezer::Events::open(self.fd.as_fd())
            && events.value("populated")? == Some(1)
        {
            return events.wait(Duration::from_millis(100));
        }
        std::thread::sleep(pause);
        Ok(())
    }
}

/// Opens the directory above that of a recorded path, and tells the name in it.
fn open_parent(path: &Path) -> anyhow::Result<(OwnedFd, Version, OsString)> {
    let below = path.strip_prefix(layout::MOUNT_POINT).ok();
    let Some(below) = below.filter(|b| b.components().all(|c| matches!(c, Component::Normal(_)))) else {
        bail!("is not a path below {}", layout::MOUNT_POINT);
    };
    let (root, version, below) = open_hierarchy(below)?;
    let Some(name) = below.file_name() else { bail!("is the root of a hierarchy") };
    Ok((create::open_parent(root, &below)?, version, name.to_os_string()))
}

/// Opens the hierarchy of a path below the mount point and tells what is left of the path; ENODEV or ENOENT if none is
/// mounted.
fn open_hierarchy(below: &Path) -> sys::Result<(OwnedFd, Version, PathBuf)> {
    let top = Path::new(layout::MOUNT_POINT);
    match open_root(top) {
        // A tmpfs, and each hierarchy a directory in it.
        Err(e) if e.errno == Errno::ENODEV => {
            let mut components = below.components();
            let first = components.next().map(|c| top.join(c)).unwrap_or_default();
            let (root, version) = open_root(&first)?;
            Ok((root, version, components.as_path().to_path_buf()))
        }
        opened => opened.map(|(root, version)| (root, version, below.to_path_buf())),
    }
}
