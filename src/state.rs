// SPDX-License-Identifier: Apache-2.0
//! The state directory: `ROOT/ID/` holds what later commands need to know of a container.
//!
//! The protocol survives SIGKILL at any point. Making the directory is exclusive: that reserves the id. `intent.json`
//! names the cgroups, and the unit of systemd if there is to be one, before they exist. `state.json` is renamed into place once init is ready; it is written by the
//! parent only. `config.json` is the config as it was at create: what happens to the bundle later has no effect. Whoever
//! changes the directory holds a lock (flock(2)) on it, which the kernel releases when its holder dies. The root is a
//! tmpfs and a reboot ends every container, so nothing is synced to disk.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::ResultExt;
use crate::kernel::procfs::{Identity, Proc};
use crate::plan::Request;
use crate::plan::hooks::Hook;
use crate::plan::systemd::Remembered;
use crate::seccomp::Listener;
use crate::sys::{self, call};

const INTENT: &str = "intent.json";
const STATE: &str = "state.json";
/// The config as it was at create.
pub const CONFIG: &str = "config.json";
/// The socket on which init waits for `start`.
pub const START_SOCKET: &str = "start.sock";
/// The directory that is mounted at /run/notify, if the caller of `create` has a NOTIFY_SOCKET.
pub const NOTIFY: &str = "notify";
/// The socket in it.
pub const NOTIFY_SOCKET: &str = "notify/notify.sock";
/// A state file larger than this is not one of ours.
const SIZE_LIMIT: u64 = 16 << 20;

/// Written before anything is made: what a dead `create` may have left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    pub id: String,
    pub bundle: PathBuf,
    /// Absolute paths of the cgroups that are going to be made.
    pub cgroups: Vec<PathBuf>,
    /// The unit that is going to be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systemd: Option<Remembered>,
    /// Directories of the resctrl file system that are going to be made, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resctrl: Vec<PathBuf>,
    /// The process that runs `create`.
    pub creator: Identity,
}

/// Written when init is ready: the container as later commands see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub id: String,
    pub oci_version: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// RFC 3339.
    pub created: String,
    pub annotations: BTreeMap<String, String>,
    /// The uid of the caller of `create`.
    pub owner: u32,
    pub init: Identity,
    pub cgroups: Vec<PathBuf>,
    /// The unit that they are of, if systemd has made them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systemd: Option<Remembered>,
    /// The directories of the resctrl file system that are the container's own, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resctrl: Vec<PathBuf>,
    /// Who supervises the calls that the seccomp filter notifies of.
    pub listener: Option<Listener>,
    /// Whether processes get the container's session keyring (not so with `--no-new-keyring`).
    pub new_keyring: bool,
    /// Whether init is the first process of a PID namespace of its own, so that its end is the end of all.
    pub private_pid_namespace: bool,
    /// Whether init comes from a checkpoint: it has never called execve, and runs nevertheless.
    #[serde(default)]
    pub restored: bool,
    pub poststart: Vec<Hook>,
    pub poststop: Vec<Hook>,
}

impl State {
    /// What the plan of the container needs to know beside its config.
    pub fn request(&self) -> Request {
        Request {
            id: self.id.clone(),
            bundle: self.bundle.clone(),
            no_new_keyring: !self.new_keyring,
            systemd: self.systemd.as_ref().map(|unit| unit.manager.clone()),
            ..Request::default()
        }
    }
}

/// The states of runtime.md#state, and runc's `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    /// The word in `state` and in hooks.
    pub fn word(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// The JSON of runtime.md#state that hooks read from stdin.
pub fn hook_state(id: &str, status: Status, pid: i32, bundle: &Path, annotations: &BTreeMap<String, String>) -> String {
    let mut state = serde_json::json!({
        "ociVersion": crate::spec::OCI_VERSION, "id": id, "status": status.word(), "pid": pid, "bundle": bundle,
    });
    if let (false, Some(object)) = (annotations.is_empty(), state.as_object_mut()) {
        object.insert("annotations".into(), serde_json::json!(annotations));
    }
    if let (Status::Stopped, Some(object)) = (status, state.as_object_mut()) {
        object.remove("pid");
    }
    state.to_string()
}

/// Refuses ids that could leave the root or confuse a reader: `[A-Za-z0-9_+.-]{1,255}`, but not `.` or `..`.
pub fn check_id(id: &str) -> Result<()> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"_+.-".contains(&b);
    if id.is_empty() || id.len() > 255 || id == "." || id == ".." || !id.bytes().all(fine) {
        let error: Result<()> = Err(anyhow!("invalid container ID format: {id:?}"));
        return error.hint("an id has 1 to 255 letters, digits and _ + . -, and is not . or ..");
    }
    Ok(())
}

/// `ROOT`, where every container has a directory.
#[derive(Debug)]
pub struct Root {
    pub path: PathBuf,
}

impl Root {
    fn open(&self) -> Result<Option<OwnedFd>> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        match open(&self.path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => call!("open({:?})", self.path => Err(errno)).context("--root"),
        }
    }

    /// Opens the root, and makes it (mode 0700, sticky for an ordinary user) with missing parents (mode 0755) if it is not there.
    fn make(&self) -> Result<OwnedFd> {
        if let Some(fd) = self.open()? {
            return Ok(fd);
        }
        // Sticky, so that what clears $XDG_RUNTIME_DIR of old files leaves it alone (XDG base directory specification).
        let own = if nix::unistd::geteuid().is_root() { 0o700 } else { 0o1700 };
        let parents: Vec<&Path> = self.path.ancestors().collect();
        for (depth, directory) in parents.iter().rev().enumerate() {
            let mode = if depth + 1 == parents.len() { own } else { 0o755 };
            match nix::unistd::mkdir(*directory, Mode::from_bits_truncate(mode)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return call!("mkdir({directory:?})" => Err(errno)).context("--root"),
            }
        }
        self.open()?.with_context(|| format!("--root {:?} cannot be made", self.path))
    }

    /// Waits for the lock on the root itself, which must exist: for what concerns several containers.
    pub fn lock(&self) -> Result<Lock> {
        let directory = self.open()?.with_context(|| format!("--root {:?} does not exist", self.path))?;
        sys::fd::lock(directory.as_fd()).with_context(|| format!("lock {:?}", self.path))?;
        Ok(Lock(directory))
    }

    /// Reserves `id`: exactly one of several callers gets the directory, and the right to fill it.
    pub fn create(&self, id: &str) -> Result<(StateDir, Lock)> {
        check_id(id)?;
        let root = self.make()?;
        match mkdirat(&root, id, Mode::S_IRWXU) {
            Ok(()) => {}
            Err(Errno::EEXIST) => {
                let error: Result<(StateDir, Lock)> = Err(anyhow!("container with given ID already exists: {id}"));
                return error.hint(format!("orlop state {id} shows it; orlop delete --force {id} removes it"));
            }
            Err(errno) => return call!("mkdirat({:?}, {id:?})", self.path => Err(errno)).context("--root"),
        }
        let reserved = || -> Result<Option<(StateDir, Lock)>> {
            let again = call!("dup({:?})", self.path => root.try_clone().map_err(sys::errno))?;
            let Some(dir) = StateDir::open(again, &self.path, id)? else { return Ok(None) };
            let lock = dir.lock()?;
            // The directory that was made may be gone and another have its name: not if that is a container by now.
            if dir.has(INTENT)? {
                bail!("container with given ID already exists: {id}");
            }
            Ok(if dir.exists()? { Some((dir, lock)) } else { None })
        };
        // If there is none any more, a `delete --force` got the lock first, and the id may be someone else's.
        reserved()
            .inspect_err(|_| {
                // That error is the one to report. A directory that is a container by now is not empty, and stays.
                let _ignored = unlinkat(&root, id, UnlinkatFlags::RemoveDir);
            })?
            .context("the state directory has been removed by another process")
    }

    /// The directory of a container; None if there is no such container.
    pub fn find(&self, id: &str) -> Result<Option<StateDir>> {
        check_id(id)?;
        let Some(root) = self.open()? else { return Ok(None) };
        StateDir::open(root, &self.path, id)
    }

    /// The directory of a container.
    pub fn container(&self, id: &str) -> Result<StateDir> {
        self.find(id)?.with_context(|| format!("container {id} does not exist"))
    }

    /// The ids of all containers, sorted. None if there is no root.
    pub fn ids(&self) -> Result<Option<Vec<String>>> {
        let Some(root) = self.open()? else { return Ok(None) };
        let mut directory = nix::dir::Dir::from_fd(root).context("--root")?;
        let mut ids = Vec::new();
        for entry in directory.iter() {
            let entry = entry.context("read --root")?;
            let is_directory = entry.file_type().is_none_or(|t| t == nix::dir::Type::Directory);
            if let (true, Ok(name)) = (is_directory, entry.file_name().to_str())
                && check_id(name).is_ok()
            {
                ids.push(name.to_string());
            }
        }
        ids.sort_unstable();
        Ok(Some(ids))
    }
}

/// The directory of one container.
#[derive(Debug)]
pub struct StateDir {
    root: OwnedFd,
    fd: OwnedFd,
    pub path: PathBuf,
    pub id: String,
}

/// The right to change a container's directory; released when dropped, if no clone of this process has kept a copy.
#[derive(Debug)]
pub struct Lock(OwnedFd);

impl Lock {
    /// The descriptor that a clone must not keep.
    pub fn raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl StateDir {
    fn open(root: OwnedFd, root_path: &Path, id: &str) -> Result<Option<Self>> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(&root, id, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { root, fd, path: root_path.join(id), id: id.to_string() })),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => call!("openat({:?})", root_path.join(id) => Err(errno)).map_err(Into::into),
        }
    }

    /// Waits for the lock. After a wait the container may be gone: the caller reads the state afterwards.
    pub fn lock(&self) -> Result<Lock> {
        let directory = self.open_to_lock()?;
        sys::fd::lock(directory.as_fd()).with_context(|| format!("lock {:?}", self.path))?;
        Ok(Lock(directory))
    }

    /// As [`StateDir::lock`], for a limited time: None if another command holds the lock still.
    pub fn lock_within(&self, patience: Duration) -> Result<Option<Lock>> {
        let directory = self.open_to_lock()?;
        let deadline = Instant::now() + patience;
        while !sys::fd::try_lock(directory.as_fd()).with_context(|| format!("lock {:?}", self.path))? {
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Some(Lock(directory)))
    }

    fn open_to_lock(&self) -> sys::Result<OwnedFd> {
        call!("openat({:?})", self.path =>
            openat(&self.fd, ".", OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()))
    }

    /// The directory's descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Descriptors that a clone must not keep.
    pub fn raw_fds(&self) -> [i32; 2] {
        [self.root.as_raw_fd(), self.fd.as_raw_fd()]
    }

    /// The record of a `create` in progress or dead, None if there is none.
    pub fn intent(&self) -> Result<Option<Intent>> {
        self.load(INTENT)
    }

    /// The record of a container, None as long as `create` has not finished.
    pub fn state(&self) -> Result<Option<State>> {
        self.load(STATE)
    }

    /// `linux.cgroupsPath` of the config as it was at create, for a container that has lost its other records.
    pub fn cgroups_path(&self) -> Option<String> {
        let config: serde_json::Value = self.load(CONFIG).ok().flatten()?;
        Some(config.pointer("/linux/cgroupsPath")?.as_str()?.to_string())
    }

    /// Writes `intent.json`.
    pub fn save_intent(&self, intent: &Intent) -> Result<()> {
        self.save(INTENT, &serde_json::to_vec(intent)?)
    }

    /// Writes `state.json`.
    pub fn save_state(&self, state: &State) -> Result<()> {
        self.save(STATE, &serde_json::to_vec(state)?)
    }

    /// Keeps a file, such as the config, in the directory.
    pub fn save(&self, name: &str, contents: &[u8]) -> Result<()> {
        let temporary = format!("{name}.tmp");
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = call!("openat({:?}/{temporary})", self.path =>
            openat(&self.fd, temporary.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR))?;
        std::fs::File::from(file)
            .write_all(contents)
            .with_context(|| format!("write {:?}", self.path.join(&temporary)))?;
        call!("renameat({:?}/{temporary})", self.path => renameat(&self.fd, temporary.as_str(), &self.fd, name))?;
        Ok(())
    }

    /// The contents of a file of the directory.
    pub fn load_bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => std::fs::File::from(fd),
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return call!("openat({:?}/{name})", self.path => Err(errno)).map_err(Into::into),
        };
        let mut bytes = Vec::with_capacity(2048);
        let read = file.take(SIZE_LIMIT).read_to_end(&mut bytes);
        read.with_context(|| format!("read {:?}", self.path.join(name)))?;
        Ok(Some(bytes))
    }

    /// The config as it was at create, or as the last `update` left it.
    ///
    /// # Errors
    /// It cannot be read, or is not there.
    pub fn config(&self) -> Result<Vec<u8>> {
        self.load_bytes(CONFIG)?.context("the state directory has lost the container's config")
    }

    fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some(bytes) = self.load_bytes(name)? else { return Ok(None) };
        serde_json::from_slice(&bytes)
            .map(Some)
            .with_context(|| format!("{:?} is damaged", self.path.join(name)))
            .hint(format!("orlop delete --force {} removes the container", self.id))
    }

    /// The container's state, or the error that says that it does not exist or is not complete.
    pub fn complete_state(&self) -> Result<State> {
        match self.state()? {
            Some(state) => Ok(state),
            None => {
                let error: Result<State> = Err(anyhow!("container {} is not completely created", self.id));
                error.hint(format!("if its create has died, orlop delete --force {} removes it", self.id))
            }
        }
    }

    /// Removes everything; last the directory, which frees the id. What is missing counts as removed.
    pub fn remove(&self) -> Result<()> {
        let mut directory = nix::dir::Dir::openat(
            &self.fd,
            ".",
            OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .with_context(|| format!("read {:?}", self.path))?;
        let names: Vec<CString> = directory.iter().flatten().map(|entry| entry.file_name().to_owned()).collect();
        // The state goes last: a delete that dies half-way can be repeated.
        let (records, others): (Vec<_>, Vec<_>) = names
            .into_iter()
            .filter(|name| !matches!(name.to_bytes(), b"." | b".."))
            .partition(|name| matches!(name.to_bytes(), b"intent.json" | b"state.json"));
        for name in others.iter().chain(&records) {
            if name.to_bytes() == NOTIFY.as_bytes() {
                self.remove_notify()?;
                continue;
            }
            match unlinkat(&self.fd, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(Errno::EISDIR | Errno::EPERM) => bail!("{:?} holds {name:?}, which orlop did not make", self.path),
                Err(errno) => return call!("unlinkat({:?}, {name:?})", self.path => Err(errno)).map_err(Into::into),
            }
        }
        if !self.exists()? {
            return Ok(()); // the name may be another container's by now
        }
        match unlinkat(&self.root, self.id.as_str(), UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => call!("rmdir({:?})", self.path => Err(errno)).map_err(Into::into),
        }
    }

    /// Whether there is a file of this name, whatever it holds.
    fn has(&self, name: &str) -> Result<bool> {
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => Ok(false),
            found => Ok(call!("fstatat({:?}, {name:?})", self.path => found).map(|_| true)?),
        }
    }

    /// Makes the directory of the notify socket. Whoever is in the container may pass it.
    pub fn make_notify(&self) -> Result<PathBuf> {
        call!("mkdirat({:?}/{NOTIFY})", self.path => mkdirat(&self.fd, NOTIFY, Mode::from_bits_truncate(0o755)))?;
        // Whatever the umask says.
        let mode = Mode::from_bits_truncate(0o755);
        call!("fchmodat({NOTIFY:?})" => fchmodat(&self.fd, NOTIFY, mode, FchmodatFlags::NoFollowSymlink))?;
        Ok(self.path.join(NOTIFY))
    }

    fn remove_notify(&self) -> Result<()> {
        for (name, flag) in [(NOTIFY_SOCKET, UnlinkatFlags::NoRemoveDir), (NOTIFY, UnlinkatFlags::RemoveDir)] {
            match unlinkat(&self.fd, name, flag) {
                Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(errno) => return call!("unlinkat({:?}/{name})", self.path => Err(errno)).map_err(Into::into),
            }
        }
        Ok(())
    }

    /// Whether the directory is still the container's: a command that waited for the lock may hold a removed one.
    pub fn exists(&self) -> Result<bool> {
        let held = call!("fstat({:?})", self.path => fstat(&self.fd))?;
        match fstatat(&self.root, self.id.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => Ok(false),
            named => {
                let named = call!("fstatat({:?})", self.path => named)?;
                Ok((held.st_dev, held.st_ino) == (named.st_dev, named.st_ino))
            }
        }
    }
}

impl State {
    /// What the container is doing now. It is asked of the kernel and never read from disk.
    pub fn status(&self, proc: &Proc) -> Result<Status> {
        let Some(found) = proc.find(&self.init)? else { return Ok(Status::Stopped) };
        if found.stat.has_ended() {
            return Ok(Status::Stopped);
        }
        if crate::kernel::cgroup::Existing::open(&self.cgroups)?.is_frozen()? {
            return Ok(Status::Paused);
        }
        Ok(if found.stat.has_not_execed() && !self.restored { Status::Created } else { Status::Running })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_cannot_leave_the_root() {
        for id in ["web", "a.b-c_d+e", "0", "...", &"x".repeat(255)] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", "a/b", "../x", "a b", "é", "a\0", &"x".repeat(256)] {
            assert!(check_id(id).is_err(), "{id}");
        }
    }

    #[test]
    fn a_stopped_container_has_no_pid_for_its_hooks() {
        let none = BTreeMap::new();
        let text = hook_state("web", Status::Stopped, 0, Path::new("/b"), &none);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["status"], "stopped");
        assert!(value.get("pid").is_none() && value.get("annotations").is_none());
    }
}
