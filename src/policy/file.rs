// SPDX-License-Identifier: Apache-2.0
//! Reads policies and looks at what they speak of. The files are root's, or the caller's own if named with `--policy`, and
//! nobody else can write them or any directory on the way: otherwise whoever can would be the operator.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, fstat, lstat, stat};
use oci_spec::runtime::LinuxSeccomp;
use serde_json::Value;

use super::decide::{Facts, resolve, sources};
use super::model::{Policy, Profile, Tables};
use super::read::{ALL, At, Fault};
use crate::error::ResultExt;
use crate::plan::capabilities::name;
use crate::plan::config::Spec;
use crate::plan::namespaces::Kind;
use crate::plan::problem::Problems;
use crate::seccomp;
use crate::seccomp::arch::Arch;
use crate::seccomp::docker::Environment;
use crate::sys::call;
use crate::sys::fd::{Resolve, openat2};

/// Where the system's policy is.
pub const SYSTEM: &str = "/etc/orlop";
/// A file of a policy larger than this is none.
const SIZE_LIMIT: u64 = 16 << 20;

/// The policies that hold, the system's first: a config must satisfy all of them, so that `--policy` only ever tightens.
/// None at all if there is no file; that costs one failed open.
pub fn load(flag: Option<&Path>) -> Result<Vec<Policy>> {
    let mut policies = Vec::new();
    if let Some(policy) = directory(Path::new(SYSTEM), 0)? {
        policies.push(policy);
    }
    if let Some(path) = flag {
        policies.push(named(path)?);
    }
    Ok(policies)
}

/// `--policy PATH`: a file, or a directory laid out as the system's.
fn named(path: &Path) -> Result<Policy> {
    let path = std::path::absolute(path).with_context(|| format!("--policy {path:?}"))?;
    let owner = nix::unistd::geteuid().as_raw();
    if path.is_dir() {
        return directory(&path, owner)?.with_context(|| format!("--policy {path:?}: has no policy.toml"));
    }
    let mut faults = Vec::new();
    let mut policy = Policy::default();
    let file = open_file(&path)?.with_context(|| format!("--policy {path:?}: no such file"))?;
    trusted(&file, &path, owner)?;
    policy.add(&path.display().to_string(), text(file, &path)?, &mut faults);
    finish(policy, faults, Some(owner))
}

/// A file that is only looked at: whose it is does not matter.
pub fn check(path: Option<&Path>) -> Result<Option<Policy>> {
    let Some(path) = path else { return directory(Path::new(SYSTEM), 0) };
    let path = std::path::absolute(path)?;
    if path.is_dir() {
        return directory(&path, nix::unistd::geteuid().as_raw());
    }
    let file = open_file(&path)?.with_context(|| format!("{path:?}: no such file"))?;
    let mut faults = Vec::new();
    let mut policy = Policy::default();
    policy.add(&path.display().to_string(), text(file, &path)?, &mut faults);
    finish(policy, faults, None).map(Some)
}

fn open_file(path: &Path) -> Result<Option<OwnedFd>> {
    match open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => call!("open({path:?})" => Err(errno)).map_err(Into::into),
    }
}

/// `DIR/policy.toml` and `DIR/policy.d/*.toml` in the order of their names.
fn directory(path: &Path, owner: u32) -> Result<Option<Policy>> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let dir = match open(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return call!("open({path:?})" => Err(errno)).map_err(Into::into),
    };
    let mut files = Vec::new();
    if let Some(file) = open_in(dir.as_fd(), "policy.toml", path)? {
        files.push((path.join("policy.toml"), file));
    }
    let below = path.join("policy.d");
    match openat(&dir, "policy.d", flags, Mode::empty()) {
        Ok(fd) => {
            directory_is_trusted(fd.as_fd(), &below, owner)?;
            let again = call!("dup({below:?})" => fd.try_clone().map_err(crate::sys::errno))?;
            let mut entries = nix::dir::Dir::from_fd(again).with_context(|| format!("read {below:?}"))?;
            let mut names = BTreeSet::new();
            for entry in entries.iter() {
                let entry = entry.with_context(|| format!("read {below:?}"))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.ends_with(".toml") && !name.starts_with('.') {
                    names.insert(name);
                }
            }
            for name in names {
                if let Some(file) = open_in(fd.as_fd(), &name, &below)? {
                    files.push((below.join(&name), file));
                }
            }
        }
        Err(Errno::ENOENT) => {}
        Err(errno) => return call!("openat({below:?})" => Err(errno)).map_err(Into::into),
    }
    if files.is_empty() {
        return Ok(None);
    }
    let mut policy = Policy::default();
    let mut faults = Vec::new();
    for (path, file) in files {
        trusted(&file, &path, owner)?;
        policy.add(&path.display().to_string(), text(file, &path)?, &mut faults);
    }
    finish(policy, faults, Some(owner)).map(Some)
}

fn open_in(dir: BorrowedFd<'_>, name: &str, path: &Path) -> Result<Option<OwnedFd>> {
    match openat(dir, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => call!("openat({:?})", path.join(name) => Err(errno)).map_err(Into::into),
    }
}

fn text(file: OwnedFd, path: &Path) -> Result<String> {
    let bytes = bytes(file, path)?;
    String::from_utf8(bytes).map_err(|e| {
        let valid = e.as_bytes().get(..e.utf8_error().valid_up_to()).unwrap_or_default();
        let line = valid.iter().filter(|b| **b == b'\n').count() + 1;
        anyhow!("{}:{line}: is not UTF-8", path.display())
    })
}

fn bytes(file: OwnedFd, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::from(file)
        .take(SIZE_LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| anyhow!("{}: {}", path.display(), crate::sys::describe_io(&e)))?;
    if bytes.len() as u64 > SIZE_LIMIT {
        bail!("{}: larger than {SIZE_LIMIT} bytes", path.display());
    }
    Ok(bytes)
}

/// Who could change this file, or put another in its place.
fn trusted(file: &OwnedFd, path: &Path, owner: u32) -> Result<()> {
    let stat = call!("fstat({path:?})" => fstat(file))?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        bail!("{}: is not a regular file", path.display());
    }
    is_owners(&stat, path, owner)?;
    // Where the file really is, links resolved.
    let real = real_path(file.as_fd())?;
    for (depth, parent) in real.ancestors().skip(1).enumerate() {
        let stat = call!("lstat({parent:?})" => lstat(parent))?;
        // In a directory like /tmp nobody can replace what is not theirs.
        let sticky = depth > 0 && stat.st_mode & libc::S_ISVTX != 0 && stat.st_uid == 0;
        if !sticky {
            is_owners(&stat, parent, owner)?;
        }
    }
    Ok(())
}

fn directory_is_trusted(dir: BorrowedFd<'_>, path: &Path, owner: u32) -> Result<()> {
    is_owners(&call!("fstat({path:?})" => fstat(dir))?, path, owner)
}

fn is_owners(stat: &FileStat, path: &Path, owner: u32) -> Result<()> {
    let shown = path.display();
    if stat.st_uid != 0 && stat.st_uid != owner {
        let refused: Result<()> = Err(anyhow!("{shown}: belongs to uid {}, a policy must be root's", stat.st_uid));
        return refused.hint(format!("chown root {shown}"));
    }
    if stat.st_mode & 0o022 != 0 {
        let refused: Result<()> = Err(anyhow!(
            "{shown}: has mode {:04o}, a policy must be writable by its owner only",
            stat.st_mode & 0o7777
        ));
        return refused.hint(format!("chmod go-w {shown}"));
    }
    Ok(())
}

fn real_path(fd: BorrowedFd<'_>) -> Result<PathBuf> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    std::fs::read_link(&link).with_context(|| format!("readlink {link}"))
}

/// Loads the profiles, and fails with every fault at once. `owner` None: whose files they are does not matter.
fn finish(mut policy: Policy, mut faults: Vec<Fault>, owner: Option<u32>) -> Result<Policy> {
    if faults.is_empty() {
        faults.extend(policy.contradictions());
        for tables in policy.variants() {
            load_profiles(&mut policy, &tables, owner, &mut faults);
        }
    }
    if faults.is_empty() {
        return Ok(policy);
    }
    let mut lines: Vec<String> = Vec::new();
    for line in faults.iter().map(ToString::to_string) {
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    Err(anyhow!("{}", lines.join("\n"))).hint("no container starts under a policy that has faults: orlop policy check")
}

fn load_profiles(policy: &mut Policy, tables: &Tables, owner: Option<u32>, faults: &mut Vec<Fault>) {
    let rules = &tables.seccomp;
    let Some(dir) = &rules.config_dir else { return };
    let default = rules.default.iter().map(|found| (&found.at, &found.value, "default"));
    let stack = rules.stack.iter().flat_map(|found| found.value.iter().map(|name| (&found.at, name, "stack")));
    for (at, name, key) in default.chain(stack) {
        let id = (dir.value.clone(), name.clone());
        if policy.profiles.contains_key(&id) {
            continue;
        }
        match load_profile(&dir.value, name, owner) {
            Ok(profile) => drop(policy.profiles.insert(id, profile)),
            Err(e) => faults.push(fault(at, key, name, &e)),
        }
    }
}

fn fault(at: &At, key: &str, name: &str, error: &anyhow::Error) -> Fault {
    Fault { at: at.clone(), message: format!("seccomp.{key}: {name:?}: {}", crate::error::one_line(error)) }
}

/// A name stays in the directory: no `..`, no link, no other file system.
fn load_profile(dir: &str, name: &str, owner: Option<u32>) -> Result<Profile> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let path = Path::new(dir).join(name);
    let fd = call!("open({dir:?})" => open(dir, flags, Mode::empty())).context("seccomp.config_dir")?;
    let file = openat2(fd.as_fd(), &CString::new(name)?, libc::O_RDONLY | libc::O_NONBLOCK, 0, Resolve::BENEATH)
        .hint_if(Errno::EXDEV, "a profile is a file in seccomp.config_dir")?;
    if let Some(owner) = owner {
        trusted(&file, &path, owner)?;
    }
    let value: Value = serde_json::from_slice(&bytes(file, &path)?)?;
    let profile = Profile { path: path.display().to_string(), value };
    let environment = Environment {
        capabilities: ALL.numbers().map(name_of).collect(),
        arch: Arch::NATIVE,
        kernel: crate::spec::kernel_version()?,
    };
    let section = resolve(&profile, &environment).map_err(|e| anyhow!(e))?;
    let section: LinuxSeccomp = serde_json::from_slice(&serde_json::to_vec(&section)?)?;
    let mut problems = Problems::default();
    if seccomp::compile(&section, &mut problems).is_none() {
        let lines: Vec<String> = problems.errors.iter().map(|p| format!("{}: {}", p.path, p.message)).collect();
        bail!("{}", lines.join("; "));
    }
    Ok(profile)
}

fn name_of(number: u32) -> String {
    name(number)
}

/// Looks at what a config names.
pub fn facts(spec: &Spec, bundle: &Path) -> Result<Facts> {
    let cwd = std::env::current_dir().context("the current directory")?;
    let kernel = crate::spec::kernel_version()?;
    let mut facts = Facts { kernel, bundle: bundle.to_path_buf(), cwd, ..Facts::default() };
    for (path, source) in sources(spec, &facts) {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        // What is not there cannot be mounted either, and is named where that fails.
        if let Ok(fd) = open(&source, flags, Mode::empty()) {
            facts.real.insert(path, real_path(fd.as_fd())?);
        }
    }
    let namespaces = spec.linux.as_ref().and_then(|linux| linux.namespaces().as_ref());
    for (i, entry) in namespaces.into_iter().flatten().enumerate() {
        let Some(path) = entry.path().as_ref().filter(|path| !path.as_os_str().is_empty()) else { continue };
        let file = Kind::from(entry.typ()).file();
        let same = |own: &str| match (stat(path), stat(format!("/proc/{own}/ns/{file}").as_str())) {
            (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
            _ => false,
        };
        if same("self") || same("1") {
            facts.host_namespaces.insert(i);
        }
    }
    Ok(facts)
}
