// SPDX-License-Identifier: Apache-2.0
//! The only way to touch a path of a container. Every look-up is one `openat2(2)` with RESOLVE_IN_ROOT and
//! RESOLVE_NO_MAGICLINKS on a descriptor of the root, every inode is made by its last component in a directory that is
//! held open, and the callers go on with the descriptor. There is no fallback for kernels without `openat2`: fallbacks
//! are where the holes were (CVE-2021-30465, CVE-2024-45310, CVE-2026-41579).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::stat::{FileStat, Mode, fstat, mkdirat};

use crate::error::{ResultExt, errno_of};
use crate::plan::filesystem::InRoot;
use crate::sys::fd::{Resolve, openat2};
use crate::sys::mount::failed;

/// How many dangling links one path may go through while its missing parts are made.
const MOST_LINKS: u32 = 8;

/// The flags that let only a directory itself be opened.
const NO_LINK: libc::c_int = libc::O_DIRECTORY | libc::O_NOFOLLOW;

/// One directory entry of a directory that is held open; no link of any kind is followed, no mount crossed.
const ENTRY: Resolve = Resolve::BENEATH;

/// The root directory of a container.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// Takes the descriptor of the root directory, which may be O_PATH.
    pub fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The directory itself.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Opens what is at `path` with O_PATH, links resolved inside the root. `None` if nothing is there.
    pub fn find(&self, path: &InRoot) -> Result<Option<OwnedFd>> {
        match openat2(self.fd(), &c_string(path.as_str())?, libc::O_PATH, 0, Resolve::IN_ROOT) {
            Ok(fd) => Ok(Some(fd)),
            Err(e) if matches!(e.errno, Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Opens the directory at `path` with O_PATH, and makes it and its parents with mode 0755 (less the umask) if they
    /// are missing.
    pub fn directory(&self, path: &InRoot) -> Result<OwnedFd> {
        self.make_directory(path.as_str(), 0)
    }

    /// As [`Root::directory`], but the last component must not be a link: for proc and sysfs, since an image whose /proc
    /// is a link could otherwise have the runtime's later writes land in files of its choice (CVE-2019-19921).
    pub fn real_directory(&self, path: &InRoot) -> Result<OwnedFd> {
        let flags = libc::O_PATH | NO_LINK;
        match openat2(self.fd(), &c_string(path.as_str())?, flags, 0, Resolve::IN_ROOT) {
            Ok(fd) => Ok(fd),
            Err(e) if e.errno == Errno::ENOENT => self.directory(path),
            Err(e) => Err(e).hint_if(Errno::ENOTDIR, format!("{path} must be a directory, not a link or a file")),
        }
    }

    /// Opens what is at `path`, and makes an empty file of mode 0644 (less the umask) if nothing is there.
    pub fn file(&self, path: &InRoot) -> Result<OwnedFd> {
        self.make_file(path.as_str(), 0)
    }

    /// Opens what is at `path` with O_PATH, and makes what is missing: directories, and last a file unless `directory`.
    /// Unlike [`Root::directory`] it can be taken back, and makes nothing where a dangling link leads. Without `follow` the
    /// last component must be a directory, and no link.
    pub fn place(&self, path: &InRoot, directory: bool, follow: bool) -> Result<Place> {
        let mut missing = Vec::new();
        let mut there = path.as_str();
        let mut target = loop {
            let last = missing.is_empty();
            let flags = if last { 0 } else { libc::O_DIRECTORY } | if last && !follow { NO_LINK } else { 0 };
            let name = if there.is_empty() { "/" } else { there };
            match openat2(self.fd(), &c_string(name)?, libc::O_PATH | flags, 0, Resolve::IN_ROOT) {
                Ok(fd) => break fd,
                Err(e) if e.errno == Errno::ENOENT => {
                    let (parent, name) = there.rsplit_once('/').with_context(|| format!("{path}"))?;
                    missing.push(name);
                    there = parent;
                }
                Err(e) => {
                    return Err(e).hint_if(Errno::ENOTDIR, format!("{there} of the root filesystem is no directory"));
                }
            }
        };
        let mut made: Vec<(OwnedFd, String)> = Vec::new();
        let result = (|| -> Result<()> {
            while let Some(name) = missing.pop() {
                let flags = if directory || !missing.is_empty() {
                    let made = mkdirat(&target, name, Mode::from_bits_truncate(0o755));
                    explain(made.map_err(failed(format!("mkdirat({name:?})"))))?;
                    libc::O_DIRECTORY
                } else {
                    drop(make_file_in(target.as_fd(), name, 0o644)?);
                    0
                };
                made.push((target.try_clone().context("duplicate a descriptor")?, name.to_string()));
                let flags = libc::O_PATH | libc::O_NOFOLLOW | flags;
                target = openat2(target.as_fd(), &c_string(name)?, flags, 0, ENTRY)?;
            }
            Ok(())
        })();
        let place = Place { target, made };
        match result {
            Ok(()) => Ok(place),
            Err(e) => {
                place.take_back();
                Err(e).hint_if(Errno::EEXIST, "a dangling link is in the way, or the container has just made it")
            }
        }
    }

    /// The directory that holds the last component of `path`, made if it is missing, and that component's name. `path`
    /// must not be `/`.
    pub fn entry<'a>(&self, path: &'a InRoot) -> Result<(OwnedFd, &'a str)> {
        let (parent, name) = split(path.as_str())?;
        Ok((self.make_directory(parent, 0)?, name))
    }

    fn make_directory(&self, path: &str, links: u32) -> Result<OwnedFd> {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        match openat2(self.fd(), &c_string(path)?, flags, 0, Resolve::IN_ROOT) {
            Ok(fd) => return Ok(fd),
            Err(e) if e.errno == Errno::ENOENT => {}
            Err(e) => return Err(e).hint_if(Errno::ENOTDIR, format!("{path} of the root filesystem is no directory")),
        }
        let (parent, name) = split(path)?;
        let dir = self.make_directory(parent, links)?;
        match make_directory_in(dir.as_fd(), name) {
            Ok(fd) => Ok(fd),
            Err(e) => match link_target(dir.as_fd(), name)? {
                Some(target) => self.make_directory(&join(parent, &target), count(links, path)?),
                None => Err(e),
            },
        }
    }

    fn make_file(&self, path: &str, links: u32) -> Result<OwnedFd> {
        match openat2(self.fd(), &c_string(path)?, libc::O_PATH, 0, Resolve::IN_ROOT) {
            Ok(fd) => return Ok(fd),
            Err(e) if e.errno == Errno::ENOENT => {}
            Err(e) => return Err(e.into()),
        }
        let (parent, name) = split(path)?;
        let dir = self.make_directory(parent, links)?;
        match make_file_in(dir.as_fd(), name, 0o644) {
            Ok(fd) => Ok(fd),
            Err(e) if errno_of(&e) == Some(Errno::EEXIST) => match link_target(dir.as_fd(), name)? {
                Some(target) => self.make_file(&join(parent, &target), count(links, path)?),
                None => Err(e),
            },
            Err(e) => Err(e),
        }
    }
}

/// Where something is to be mounted, and what was made for it.
#[derive(Debug)]
pub struct Place {
    pub target: OwnedFd,
    /// The directory and the name of each, outermost first.
    made: Vec<(OwnedFd, String)>,
}

impl Place {
    /// Whether the mount point was not there before.
    pub fn is_new(&self) -> bool {
        !self.made.is_empty()
    }

    /// Removes what was made. What the container has filled or replaced meanwhile stays: it is the container's.
    pub fn take_back(self) {
        use nix::unistd::{UnlinkatFlags, unlinkat};
        // Each of them is what the next was made in.
        let own = self.made.iter().skip(1).map(|(dir, _)| dir).chain([&self.target]);
        let made: Vec<_> = self.made.iter().zip(own).collect();
        for ((dir, name), own) in made.into_iter().rev() {
            let there = open_entry(dir.as_fd(), name).ok().flatten();
            let there = there.and_then(|fd| stat(fd.as_fd()).ok()).zip(stat(own.as_fd()).ok());
            let Some((there, _)) = there.filter(|(a, b)| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)) else {
                continue;
            };
            let flag = match there.st_mode & libc::S_IFMT {
                libc::S_IFDIR => UnlinkatFlags::RemoveDir,
                libc::S_IFREG if there.st_size == 0 => UnlinkatFlags::NoRemoveDir,
                _ => continue,
            };
            let _filled = unlinkat(dir, name.as_str(), flag);
        }
    }
}

/// Makes the directory `name` with mode 0755 (less the umask) in `dir`, unless it is there, and opens it with O_PATH.
/// A link in its place is an error.
pub fn make_directory_in(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    match mkdirat(dir, name, Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(e) => return explain(Err(failed(format!("mkdirat({name:?})"))(e))),
    }
    Ok(openat2(dir, &c_string(name)?, libc::O_PATH | NO_LINK, 0, ENTRY)?)
}

/// Makes the empty file `name` in `dir`; fails with EEXIST if anything is there, be it a dangling link.
pub fn make_file_in(dir: BorrowedFd<'_>, name: &str, mode: u32) -> Result<OwnedFd> {
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY | libc::O_NOCTTY;
    explain(openat2(dir, &c_string(name)?, flags, mode, ENTRY))
}

/// Opens the entry `name` of `dir` itself with O_PATH, even if it is a link or a mount point. `None` if there is none.
pub fn open_entry(dir: BorrowedFd<'_>, name: &str) -> Result<Option<OwnedFd>> {
    let beneath = Resolve(libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS);
    match openat2(dir, &c_string(name)?, libc::O_PATH | libc::O_NOFOLLOW, 0, beneath) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if e.errno == Errno::ENOENT => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// `fstat(2)`, which works on O_PATH descriptors.
pub fn stat(fd: BorrowedFd<'_>) -> Result<FileStat> {
    Ok(fstat(fd).map_err(failed("fstat"))?)
}

/// Whether the mode has the file type `kind`, an `S_IF*` value.
pub fn is(stat: &FileStat, kind: libc::mode_t) -> bool {
    stat.st_mode & libc::S_IFMT == kind
}

/// The string for a system call. Planned paths have no NUL.
pub fn c_string(text: &str) -> Result<CString> {
    CString::new(text).with_context(|| format!("{text:?}"))
}

/// The same for a path of the host, which need not be UTF-8.
pub fn host_path(path: &std::path::Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).with_context(|| path.display().to_string())
}

/// Opens a path of the host with O_PATH; links are followed, as the path is the administrator's.
pub fn open_host(path: &CStr, flags: libc::c_int) -> crate::sys::Result<OwnedFd> {
    openat2(nix::fcntl::AT_FDCWD, path, libc::O_PATH | flags, 0, Resolve(0))
}

/// What to do when a mount point, or another place, could not be made.
fn explain<T>(made: crate::sys::Result<T>) -> Result<T> {
    made.hint_if(Errno::EROFS, "it is missing and cannot be made on a read-only mount; make it beforehand")
        .hint_if(Errno::EACCES, UNMAPPED)
        .hint_if(Errno::EOVERFLOW, UNMAPPED)
}

const UNMAPPED: &str = "it is missing and the container's root may not make it: in a user namespace the root filesystem \
    should belong to a mapped user; or make it beforehand";

/// Parent and last component. A path that ends in `..` has neither: what `..` of a missing directory is, nobody knows.
fn split(path: &str) -> Result<(&str, &str)> {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some((_, "" | "." | "..")) | None => bail!("{path:?} of the root filesystem cannot be made"),
        Some(("", name)) => Ok(("/", name)),
        Some((parent, name)) => Ok((parent, name)),
    }
}

/// Where a link in the directory `parent` leads. The kernel resolves the result; nothing is cleaned by its words, which
/// would get `..` after a link wrong.
fn join(parent: &str, target: &str) -> String {
    if target.starts_with('/') { target.to_string() } else { format!("{}/{target}", parent.trim_end_matches('/')) }
}

fn count(links: u32, path: &str) -> Result<u32> {
    if links >= MOST_LINKS {
        bail!("{path:?} of the root filesystem leads through too many dangling links");
    }
    Ok(links + 1)
}

fn link_target(dir: BorrowedFd<'_>, name: &str) -> Result<Option<String>> {
    match nix::fcntl::readlinkat(dir, name) {
        Ok(target) => Ok(Some(target.to_string_lossy().into_owned())),
        Err(Errno::EINVAL | Errno::ENOENT) => Ok(None),
        Err(e) => Err(failed(format!("readlinkat({name:?})"))(e).into()),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own directory")]
mod tests {
    use super::*;
    use crate::plan::problem::Problems;
    use std::fs;

    #[test]
    fn what_was_replaced_or_filled_is_not_taken_back() {
        let dir = std::env::temp_dir().join(format!("orlop-path-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let root = Root::new(fs::File::open(&dir).unwrap().into());
        let at = |path: &str| dir.join(path);
        let place = |path: &str, directory: bool| {
            root.place(&InRoot::new("", path, &mut Problems::default()).unwrap(), directory, true).unwrap()
        };
        for (path, directory) in [("/a/b/file", false), ("/a/b/directory", true)] {
            let made = place(path, directory);
            assert!(at(path.trim_start_matches('/')).exists());
            made.take_back();
            assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "{path}");
        }
        let made = [place("/a/file", false), place("/b/c", true), place("/c/filled", false)];
        fs::rename(at("a/file"), at("moved")).unwrap();
        fs::write(at("a/file"), "").unwrap();
        fs::rename(at("b"), at("moved-too")).unwrap();
        fs::create_dir(at("b")).unwrap();
        fs::write(at("c/filled"), "x").unwrap();
        made.into_iter().for_each(Place::take_back);
        let left = ["a/file", "b", "c/filled", "moved", "moved-too"].map(|path| at(path).exists());
        let inner = at("moved-too/c").exists();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!((left, inner), ([true; 5], false));
    }
}
