// SPDX-License-Identifier: Apache-2.0
//! What execve(2) would make of a program in a root filesystem, found out by reading: whether it is there, may be
//! executed, is for this machine, and has its interpreter. Nothing is executed, and links resolve inside the root.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use anyhow::{Context, Result};
use nix::sys::stat::FileStat;
use nix::sys::statvfs::FsFlags;

use super::path::{self, Root};
use crate::plan::filesystem::InRoot;
use crate::plan::problem::Problems;

/// A root filesystem with what will be mounted over parts of it.
#[derive(Debug)]
pub struct Tree {
    pub root: Root,
    /// Destination and content, in the order of the mounts; None if what will be there is not known.
    pub covers: Vec<(InRoot, Option<Root>)>,
    /// Whether it is the caller's own root: files are opened by their paths then, since there may be no /proc, and mounts
    /// count as they are.
    pub inside: bool,
}

/// Why execve(2) has refused a program to the caller, who is in its root already and has its ids: as far as its files say.
/// The first fault is the nearest.
pub fn explain(program: &std::path::Path) -> Vec<Fault> {
    let explained = || -> Result<Vec<Fault>> {
        let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC;
        let root = Root::new(nix::fcntl::open("/", flags, nix::sys::stat::Mode::empty())?);
        let tree = Tree { root, covers: Vec::new(), inside: true };
        let mut groups = crate::sys::process::getgroups()?;
        groups.push(nix::unistd::getegid().as_raw());
        let euid = nix::unistd::geteuid();
        let user = User { is_root: euid.is_root(), uid: euid.as_raw(), groups };
        let path = std::path::absolute(program)?;
        let path = path.to_str().context("not UTF-8")?;
        tree.inspect(path, tree.look_up(path)?, &user)
    };
    // A file that may be executed need not be readable: then there is nothing to say.
    explained().unwrap_or_default()
}

/// As whom the program runs, in ids of the host.
#[derive(Debug, Clone)]
pub struct User {
    /// Root of the container: any x bit will do.
    pub is_root: bool,
    pub uid: u32,
    pub groups: Vec<u32>,
}

/// What is wrong with a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub message: String,
    pub hint: Option<String>,
    /// Whether it surely fails.
    pub certain: bool,
}

/// What is at a path.
#[derive(Debug)]
pub enum Found {
    Inode(OwnedFd, FileStat),
    Nothing,
    /// Something will be mounted there.
    Unknown,
}

/// The kernel follows this many interpreters (fs/exec.c).
const MOST_INTERPRETERS: usize = 5;
/// And looks for `#!` and its line in this many bytes (BINPRM_BUF_SIZE).
const HEAD: usize = 256;

impl Tree {
    /// What the container's process would find at an absolute path.
    pub fn look_up(&self, path: &str) -> Result<Found> {
        let Some(path) = InRoot::new("", path, &mut Problems::default()) else { return Ok(Found::Nothing) };
        let over = self.covers.iter().rev().find(|(at, _)| *at == path || path.is_below(at));
        let found = match over {
            None => self.root.find(&path)?,
            Some((_, None)) => return Ok(Found::Unknown),
            Some((at, Some(root))) => match path.as_str().strip_prefix(at.as_str()) {
                None | Some("") => Some(root.fd().try_clone_to_owned().context("dup")?),
                Some(rest) => match InRoot::new("", rest, &mut Problems::default()) {
                    Some(rest) => root.find(&rest)?,
                    None => None,
                },
            },
        };
        Ok(match found {
            None => Found::Nothing,
            Some(fd) => {
                let stat = path::stat(fd.as_fd())?;
                Found::Inode(fd, stat)
            }
        })
    }

    /// Looks for a program as execvp(3) does; the paths that were tried, and the first that is a file.
    pub fn search(&self, candidates: &[String]) -> Result<Option<(String, Found)>> {
        let mut unknown = None;
        for candidate in candidates {
            match self.look_up(candidate)? {
                Found::Nothing => {}
                Found::Inode(_, stat) if path::is(&stat, libc::S_IFDIR) && candidates.len() > 1 => {}
                Found::Unknown => unknown = unknown.or(Some((candidate.clone(), Found::Unknown))),
                found => return Ok(Some((candidate.clone(), found))),
            }
        }
        Ok(unknown)
    }

    /// Everything that keeps the file at `path` from being executed.
    pub fn inspect(&self, path: &str, found: Found, user: &User) -> Result<Vec<Fault>> {
        let mut faults = Vec::new();
        self.inspect_one(path, found, user, 0, &mut faults)?;
        Ok(faults)
    }

    fn inspect_one(&self, path: &str, found: Found, user: &User, depth: usize, faults: &mut Vec<Fault>) -> Result<()> {
        let mut fault = |certain: bool, message: String, hint: Option<&str>| {
            faults.push(Fault { message, hint: hint.map(str::to_string), certain });
        };
        let Found::Inode(fd, stat) = found else { return Ok(()) };
        if !path::is(&stat, libc::S_IFREG) {
            fault(true, format!("{path} is not a regular file"), None);
            return Ok(());
        }
        if !user.may_execute(&stat) {
            let message = format!("{path} may not be executed: its mode is {:04o}", stat.st_mode & 0o7777);
            fault(true, message, Some("chmod +x it; its owner and mode are those on the host"));
        }
        if self.inside && nix::sys::statfs::fstatfs(&fd)?.flags().contains(FsFlags::ST_NOEXEC) {
            fault(
                true,
                format!("{path} is on a mount with noexec"),
                Some("remove noexec from the options of that mount"),
            );
        }
        let file = if self.inside { open_again(path)? } else { reopen(&fd)? };
        let mut head = [0; HEAD];
        let length = read(&file, &mut head, 0)?;
        let head = head.get(..length).unwrap_or_default();
        let interpreter = if let Some(line) = head.strip_prefix(b"#!") {
            match script(line) {
                Ok(interpreter) => interpreter,
                Err(message) => {
                    let hint = "save it with line ends of Unix (sed -i 's/\\r$//')";
                    fault(true, format!("{path}: {message}"), message.contains("CR").then_some(hint));
                    return Ok(());
                }
            }
        } else if head.starts_with(b"\x7fELF") {
            let elf = Elf::read(&file, head)?;
            match elf {
                Some(elf) if !elf.is_native() => {
                    let certain = !elf.is_emulated();
                    let message = format!("{path} is a program for {}, this machine is {}", elf.name(), NATIVE.1);
                    fault(certain, message, Some("an image of this architecture, or qemu-user by binfmt_misc"));
                    return Ok(());
                }
                Some(Elf { interpreter: Some(interpreter), .. }) => interpreter,
                Some(_) => return Ok(()),
                None => {
                    fault(true, format!("{path} is a damaged ELF file"), None);
                    return Ok(());
                }
            }
        } else {
            let what = if head.is_empty() { "is empty" } else { "is neither an ELF file nor a script with #!" };
            fault(true, format!("{path} {what}, so that execve(2) refuses it"), None);
            return Ok(());
        };
        if depth == MOST_INTERPRETERS {
            fault(true, format!("{path}: one interpreter calls for another more than {depth} times"), None);
            return Ok(());
        }
        match self.look_up(&interpreter)? {
            Found::Nothing => {
                let hint = "execve(2) would say \"no such file or directory\" of the program, though that is there";
                fault(true, format!("{path}: its interpreter {interpreter} is not in the root filesystem"), Some(hint));
                Ok(())
            }
            found => self.inspect_one(&interpreter, found, user, depth + 1, faults),
        }
    }
}

impl User {
    fn may_execute(&self, stat: &FileStat) -> bool {
        let bits = if self.is_root {
            0o111
        } else if stat.st_uid == self.uid {
            0o100
        } else if self.groups.contains(&stat.st_gid) {
            0o010
        } else {
            0o001
        };
        stat.st_mode & bits != 0
    }
}

/// Opens it by its name, in the root of the container. What has taken its place meanwhile, a FIFO perhaps, is not waited for.
fn open_again(path: &str) -> Result<File> {
    let mut options = File::options();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    file.context("open the program to read it")
}

/// Opens the very inode for reading.
fn reopen(fd: &OwnedFd) -> Result<File> {
    File::open(format!("/proc/self/fd/{}", fd.as_raw_fd())).context("open the program to read it")
}

/// As many bytes as there are.
fn read(file: &File, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + length as u64).context("read the program")? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

/// The interpreter of a line after `#!`, as fs/binfmt_script.c reads it.
fn script(head: &[u8]) -> std::result::Result<String, String> {
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let text = String::from_utf8_lossy(line);
    let word = text.trim_start_matches([' ', '\t']).split([' ', '\t']).next().unwrap_or_default();
    if text.ends_with('\r') {
        let name = text.trim_start_matches([' ', '\t']);
        return Err(format!("its #! line ends in CR LF, so that the kernel is asked for {name:?}"));
    }
    if word.is_empty() { Err("its #! line names no interpreter".into()) } else { Ok(word.to_string()) }
}

/// What of an ELF header (elf(5)) matters.
#[derive(Debug, PartialEq, Eq)]
struct Elf {
    machine: u16,
    interpreter: Option<String>,
}

/// Machine numbers (linux/elf-em.h), their names, and the name that qemu-user registers with binfmt_misc.
const MACHINES: [(u16, &str, &str); 10] = [
    (3, "x86", "i386"),
    (8, "mips", "mips"),
    (20, "ppc", "ppc"),
    (21, "ppc64", "ppc64le"),
    (22, "s390x", "s390x"),
    (40, "arm", "arm"),
    (62, "x86_64", "x86_64"),
    (183, "aarch64", "aarch64"),
    (243, "riscv", "riscv64"),
    (258, "loongarch", "loongarch64"),
];

/// This machine's numbers, the second being the 32-bit programs that its kernel usually runs.
const NATIVE: ([u16; 2], &str) = match () {
    () if cfg!(target_arch = "x86_64") => ([62, 3], "x86_64"),
    () if cfg!(target_arch = "aarch64") => ([183, 40], "aarch64"),
    () if cfg!(target_arch = "riscv64") => ([243, 243], "riscv64"),
    () if cfg!(target_arch = "powerpc64") => ([21, 20], "ppc64le"),
    () if cfg!(target_arch = "loongarch64") => ([258, 258], "loongarch64"),
    () => ([22, 22], "s390x"),
};

impl Elf {
    /// None if the header makes no sense.
    fn read(file: &File, head: &[u8]) -> Result<Option<Self>> {
        let (Some(class), Some(order)) = (head.get(4), head.get(5)) else { return Ok(None) };
        let (wide, big) = (*class == 2, *order == 2);
        let number = |bytes: &[u8], at: usize, size: usize| -> Option<u64> {
            let bytes = bytes.get(at..at + size)?;
            let value = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
            Some(if big { bytes.iter().fold(0, value) } else { bytes.iter().rev().fold(0, value) })
        };
        let fields = if wide { [(0x20, 8), (0x36, 2), (0x38, 2)] } else { [(0x1c, 4), (0x2a, 2), (0x2c, 2)] };
        let [offset, size, count] = fields.map(|(at, size)| number(head, at, size));
        let (Some(machine), Some(offset), Some(size), Some(count)) = (number(head, 18, 2), offset, size, count) else {
            return Ok(None);
        };
        let mut interpreter = None;
        for i in 0..count {
            let mut entry = [0; 56];
            let least = if wide { 56 } else { 32 };
            if read(file, &mut entry, offset.saturating_add(i * size))? < least {
                return Ok(None);
            }
            const PT_INTERP: u64 = 3;
            if number(&entry, 0, 4) != Some(PT_INTERP) {
                continue;
            }
            let (at, length) = if wide { ((8, 8), (32, 8)) } else { ((4, 4), (16, 4)) };
            let place = (number(&entry, at.0, at.1), number(&entry, length.0, length.1));
            let (Some(at), Some(length)) = place else { return Ok(None) };
            let mut name = vec![0; usize::try_from(length).unwrap_or(0).min(4096)];
            let length = read(file, &mut name, at)?;
            name.truncate(length);
            let name = name.split(|b| *b == 0).next().unwrap_or_default();
            interpreter = Some(String::from_utf8_lossy(name).into_owned());
        }
        Ok(Some(Self { machine: u16::try_from(machine).unwrap_or(0), interpreter }))
    }

    fn is_native(&self) -> bool {
        NATIVE.0.contains(&self.machine)
    }

    fn name(&self) -> String {
        let known = MACHINES.iter().find(|(machine, ..)| *machine == self.machine);
        known.map_or_else(|| format!("the machine number {}", self.machine), |(_, name, _)| (*name).to_string())
    }

    /// Whether binfmt_misc hands such programs to an emulator.
    fn is_emulated(&self) -> bool {
        let known = MACHINES.iter().find(|(machine, ..)| *machine == self.machine);
        known
            .is_some_and(|(.., qemu)| std::fs::exists(format!("/proc/sys/fs/binfmt_misc/qemu-{qemu}")).unwrap_or(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_of_a_script() {
        assert_eq!(script(b"/bin/sh\nx").unwrap(), "/bin/sh");
        assert_eq!(script(b" \t/usr/bin/env -S a\n").unwrap(), "/usr/bin/env");
        assert!(script(b"/bin/sh\r\nx").unwrap_err().contains("\"/bin/sh\\r\""));
        assert!(script(b"\n").is_err());
    }

    #[test]
    fn this_program_is_native() {
        let file = File::open("/proc/self/exe").unwrap();
        let mut head = [0; HEAD];
        read(&file, &mut head, 0).unwrap();
        let elf = Elf::read(&file, &head).unwrap().unwrap();
        assert!(elf.is_native() && elf.interpreter.is_none(), "{elf:?}: it is linked statically");
        assert_eq!(Elf::read(&file, b"\x7fELF").unwrap(), None);
    }

    #[test]
    fn the_mode_is_judged_as_the_user() {
        let mut stat = nix::sys::stat::stat("/").unwrap();
        (stat.st_uid, stat.st_gid, stat.st_mode) = (1, 2, 0o710);
        let user = |is_root, uid, group| User { is_root, uid, groups: vec![group] };
        for (user, may) in
            [(user(true, 0, 0), true), (user(false, 1, 9), true), (user(false, 7, 2), true), (user(false, 7, 9), false)]
        {
            assert_eq!(user.may_execute(&stat), may, "{user:?}");
        }
    }
}
