// SPDX-License-Identifier: Apache-2.0
//! The `criu` program, driven through its service protocol: `criu swrk FD` answers protocol buffers, one a datagram, on a
//! socket pair. The messages and their field numbers are those of CRIU's `rpc.proto`; only what orlop says and hears is
//! here.

use std::ffi::CString;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::{Child, Command};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, chroot, fchdir};

use super::host_mounts::unescape;
use super::path::{host_path, open_host};
use super::signal::Interrupts;
use crate::error::ResultExt;
use crate::sys::call;
use crate::sys::clone::{setns, unshare};
use crate::sys::fd::set_close_on_exec;
use crate::sys::mount::{self, Attr, failed};
use crate::sys::process::pidfd_open;
use crate::sys::socket::{receive, send, seqpacket_pair};

/// The longest answer.
const LIMIT: usize = 64 * 1024;
/// The oldest version that knows external namespaces and the terminal's master by notification, as major * 10000 +
/// minor * 100.
const OLDEST: u64 = 31500;

/// `criu_req_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Notify = 6,
    FeatureCheck = 9,
    Version = 10,
}

/// The members of `criu_opts` that orlop sets.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub enum Opt {
    ImagesDirFd = 1,
    Pid = 2,
    LeaveRunning = 3,
    ExtUnixSk = 4,
    TcpEstablished = 5,
    ShellJob = 7,
    FileLocks = 8,
    LogLevel = 9,
    LogFile = 10,
    PageServer = 11,
    NotifyScripts = 12,
    Root = 13,
    ParentImage = 14,
    TrackMemory = 15,
    AutoDedup = 16,
    WorkDirFd = 17,
    LinkRemap = 18,
    ManageCgroups = 24,
    CgroupRoot = 25,
    RestoreSibling = 26,
    InheritFd = 27,
    ManageCgroupsMode = 34,
    External = 37,
    EmptyNamespaces = 38,
    JoinNamespace = 39,
    FreezeCgroup = 44,
    TcpSkipInFlight = 46,
    LazyPages = 48,
    StatusFd = 49,
    OrphanPtsMaster = 50,
    ConfigFile = 51,
    TcpClose = 52,
    LsmProfile = 53,
    LsmMountContext = 63,
    NetworkLock = 64,
}

/// A protocol buffer in the making.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push((value & 0x7f) as u8);
    }

    /// A member that is a number, a truth value or an enumeration. A negative number takes its 64-bit form.
    pub fn number(&mut self, field: u32, value: i64) {
        self.varint(u64::from(field) << 3);
        self.varint(value.cast_unsigned());
    }

    /// A member that is a string or a message.
    pub fn bytes(&mut self, field: u32, value: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }
}

/// `criu_opts` in the making.
#[derive(Debug, Default)]
pub struct Options(Message);

impl Options {
    pub fn number(&mut self, option: Opt, value: i64) {
        self.0.number(option as u32, value);
    }

    /// Sets a switch that is on.
    pub fn switch(&mut self, option: Opt, on: bool) {
        if on {
            self.number(option, 1);
        }
    }

    pub fn text(&mut self, option: Opt, value: &str) {
        self.0.bytes(option as u32, value.as_bytes());
    }

    /// A pair of strings: `ext_mount_map`, `join_namespace`, `cgroup_root`. An empty first one is left out.
    pub fn pair(&mut self, option: Opt, first: &str, second: &str) {
        let mut message = Message::default();
        if !first.is_empty() {
            message.bytes(1, first.as_bytes());
        }
        message.bytes(2, second.as_bytes());
        self.0.bytes(option as u32, &message.0);
    }

    /// A string and a number: `inherit_fd`, `criu_page_server_info`.
    pub fn text_and_number(&mut self, option: Opt, text: &str, number: i64) {
        let mut message = Message::default();
        message.bytes(1, text.as_bytes());
        message.number(2, number);
        self.0.bytes(option as u32, &message.0);
    }
}

/// A member of a message that was received: wire types 0 and 2, which are all that `criu_resp` has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The members of a message in their order; None if it is damaged.
fn members(mut bytes: &[u8]) -> Option<Vec<(u64, Value<'_>)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(take_varint(&mut bytes)?),
            2 => {
                let length = usize::try_from(take_varint(&mut bytes)?).ok()?;
                let (value, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Value::Bytes(value)
            }
            _ => return None,
        };
        found.push((key >> 3, value));
    }
    Some(found)
}

/// What is of interest in a `criu_resp`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Response {
    kind: u64,
    success: bool,
    errno: i32,
    message: String,
    /// `notify.script`.
    script: String,
    /// `restore.pid` or `notify.pid`.
    pid: i32,
    /// As [`OLDEST`] counts.
    version: u64,
    /// Features: memory tracking and lazy pages.
    features: [bool; 2],
}

impl Response {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut response = Self::default();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let number = |value: u64| i32::try_from(value.cast_signed()).unwrap_or(0);
        for (field, value) in members(bytes)? {
            match (field, value) {
                (1, Value::Number(kind)) => response.kind = kind,
                (2, Value::Number(success)) => response.success = success != 0,
                (7, Value::Number(errno)) => response.errno = number(errno).saturating_abs(),
                (9, Value::Bytes(message)) => response.message = text(message),
                (4 | 5 | 8 | 10, Value::Bytes(inner)) => {
                    for inner in members(inner)? {
                        match (field, inner) {
                            (4, (1, Value::Number(pid))) | (5, (2, Value::Number(pid))) => response.pid = number(pid),
                            (5, (1, Value::Bytes(script))) => response.script = text(script),
                            (8, (which @ 1..=2, Value::Number(value))) => {
                                let [first, second] = &mut response.features;
                                *(if which == 1 { first } else { second }) = value != 0;
                            }
                            (10, (which @ 1..=2, Value::Number(value))) => {
                                response.version += value.min(1000) * if which == 1 { 10000 } else { 100 };
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Some(response)
    }
}

/// What CRIU says in the course of a request.
#[derive(Debug)]
pub enum Event {
    /// It has come to the point `script`, and waits for [`Criu::answer`]. `pid`: of the restored init.
    Notify { script: String, pid: i32, fd: Option<OwnedFd> },
    /// The request has been carried out.
    Done { pid: i32 },
    /// It has not. With what CRIU itself says of that.
    Failed { errno: i32, message: String },
}

/// A running `criu swrk`.
#[derive(Debug)]
pub struct Criu {
    child: Child,
    socket: Option<OwnedFd>,
}

impl Criu {
    /// Starts `criu`, which is looked for on PATH. It inherits the descriptors `inherit` with their numbers.
    ///
    /// # Errors
    /// If there is no such program or it is too old.
    pub fn start(inherit: &[BorrowedFd<'_>]) -> Result<Self> {
        let (ours, theirs) = seqpacket_pair()?;
        let mut command = Command::new("criu");
        // Out of reach of a terminal's Ctrl-C: it would leave processes stopped half-way.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.arg("swrk").arg(theirs.as_raw_fd().to_string());
        let passed: Vec<RawFd> = inherit.iter().chain([&theirs.as_fd()]).map(AsRawFd::as_raw_fd).collect();
        passed.iter().try_for_each(|fd| set_close_on_exec(*fd, false))?;
        let spawned = command.spawn();
        passed.iter().filter(|fd| **fd > 2).try_for_each(|fd| set_close_on_exec(*fd, true))?;
        let child = match spawned {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let missing: Result<Self> = Err(anyhow!("the program criu is not on PATH"));
                return missing.hint("checkpoint and restore are done by CRIU, version 3.15 or later: install it");
            }
            spawned => spawned.context("start criu")?,
        };
        // The end of criu is to be seen as the end of the file.
        drop(theirs);
        let criu = Self { child, socket: Some(ours) };
        criu.check_version()?;
        Ok(criu)
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn check_version(&self) -> Result<()> {
        let version = self.ask(Request::Version, None)?.version;
        if version < OLDEST {
            let old: Result<()> = Err(anyhow!("criu is version {}.{}", version / 10000, version / 100 % 100));
            return old.hint("3.15 is the oldest that orlop can use");
        }
        Ok(())
    }

    /// Whether the kernel and CRIU can track which memory changes (`--pre-dump`), and serve memory late
    /// (`--lazy-pages`).
    pub fn features(&self) -> Result<[bool; 2]> {
        let mut wanted = Message::default();
        wanted.number(1, 1);
        wanted.number(2, 1);
        Ok(self.ask(Request::FeatureCheck, Some(&wanted))?.features)
    }

    /// A question after which CRIU waits for more.
    fn ask(&self, kind: Request, features: Option<&Message>) -> Result<Response> {
        const KEEP_OPEN: u32 = 4;
        let mut message = Message::default();
        message.number(1, kind as i64);
        message.number(KEEP_OPEN, 1);
        if let Some(features) = features {
            message.bytes(5, &features.0);
        }
        self.send(&message)?;
        let (response, _) = self.receive()?;
        if !response.success {
            bail!("criu does not answer {kind:?}: {}", response.message);
        }
        Ok(response)
    }

    fn socket(&self) -> Result<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd).context("criu is gone")
    }

    fn send(&self, message: &Message) -> Result<()> {
        send(self.socket()?, &message.0, None).context("criu has died")
    }

    fn receive(&self) -> Result<(Response, Option<OwnedFd>)> {
        let (bytes, fd) = match receive(self.socket()?, LIMIT) {
            // It died with a message of ours unread.
            Err(e) if e.errno == Errno::ECONNRESET => (Vec::new(), None),
            received => received?,
        };
        if bytes.is_empty() {
            bail!("criu has died");
        }
        let response = Response::read(&bytes).context("criu answers in another protocol")?;
        Ok((response, fd))
    }

    /// Begins a dump or a restore; [`Criu::next`] tells how it goes.
    pub fn request(&self, kind: Request, options: &Options) -> Result<()> {
        let mut message = Message::default();
        message.number(1, kind as i64);
        message.bytes(2, &options.0.0);
        self.send(&message)
    }

    /// What happens next. With `interrupts` a signal is an error; without, it waits until the request is done.
    pub fn next(&self, interrupts: Option<&Interrupts>) -> Result<Event> {
        if let Some(interrupts) = interrupts {
            interrupts.wait_for([self.socket()?])?;
        }
        let (response, fd) = self.receive()?;
        Ok(match response {
            Response { kind, script, pid, .. } if kind == Request::Notify as u64 => Event::Notify { script, pid, fd },
            Response { success: true, pid, .. } => Event::Done { pid },
            Response { errno, message, .. } => Event::Failed { errno, message },
        })
    }

    /// Answers a notification: CRIU goes on, or fails if it may not.
    pub fn answer(&self, may: bool) -> Result<()> {
        let mut message = Message::default();
        message.number(1, Request::Notify as i64);
        message.number(3, may.into());
        self.send(&message)
    }
}

impl Criu {
    /// Has it undo what it has begun, and ends it if it takes too long for that: the caller clears up.
    pub fn abandon(mut self) {
        const PATIENCE_MS: u16 = 10_000;
        self.socket = None;
        if let Ok(pidfd) = pidfd_open(self.pid()) {
            let mut ended = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ended, PollTimeout::from(PATIENCE_MS)).is_ok_and(|n| n > 0) {
                return;
            }
        }
        // One that has ended is as good.
        drop(self.child.kill());
    }
}

impl Drop for Criu {
    /// A CRIU that loses its caller undoes what it has begun and ends.
    fn drop(&mut self) {
        self.socket = None;
        drop(self.child.wait());
    }
}

/// Does `work` in a mount namespace of its own, where the directory `root` is a mount, as CRIU wants of a root, and
/// returns from it: what `work` has started stays there, and nothing of that can be left behind on the host. A descriptor
/// that CRIU is to mount below must be opened by `work`.
pub fn in_private_mounts<T>(root: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let hosts = call!("open(\"/proc/self/ns/mnt\")" =>
        open("/proc/self/ns/mnt", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()))?;
    let [own_root, directory] = ["/", "."].map(|path| call!("open({path:?})" => open(path, flags, Mode::empty())));
    let (own_root, directory) = (own_root?, directory?);
    unshare(libc::CLONE_NEWNS)?;
    let begin = || -> Result<()> {
        mount::set_attr_of_root(&Attr { propagation: libc::MS_SLAVE, ..Attr::default() })?;
        let path = host_path(root)?;
        let copy = mount::clone_tree(nix::fcntl::AT_FDCWD, &path, true)
            .hint_if(Errno::ENOENT, "the bundle has no such directory")?;
        // Not private: CRIU restores a mount that was a slave of the host's as one of the root that it finds here.
        mount::set_attr(copy.as_fd(), &Attr { propagation: libc::MS_SLAVE, ..Attr::default() }, true)?;
        Ok(mount::attach(copy.as_fd(), open_host(&path, libc::O_DIRECTORY)?.as_fd())?)
    };
    let done = begin().with_context(|| format!("root.path {}", root.display())).and_then(|()| work());
    setns(hosts.as_fd(), libc::CLONE_NEWNS).context("return to the host's mounts")?;
    // setns(2) has changed both.
    fchdir(&own_root)
        .and_then(|()| chroot(c"."))
        .and_then(|()| fchdir(&directory))
        .map_err(failed("fchdir, chroot"))?;
    done
}

/// The last lines of CRIU's log that tell of an error, for a message: at most three.
pub fn errors_in_log(log: &str) -> String {
    // Said by one that may not raise its limit, whatever becomes of it.
    let noise = |line: &str| line.contains("Can't setup RLIMIT_NOFILE");
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("Error (") && !noise(line)).collect();
    let from = lines.len().saturating_sub(3);
    let last = lines.get(from..).unwrap_or_default();
    let words = last.iter().map(|line| line.find("Error (").and_then(|at| line.get(at..)).unwrap_or(line).trim());
    words.collect::<Vec<_>>().join("; ")
}

/// A mount in the container as /proc/PID/mountinfo shows it (proc(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    pub id: u64,
    /// As seen by the process, with octal escapes undone.
    pub point: String,
    pub fstype: String,
}

/// Parses /proc/PID/mountinfo. A line that is none, or a mount point that is no UTF-8, is an error.
pub fn mount_entries(mountinfo: &[u8]) -> Result<Vec<MountEntry>> {
    let mut entries = Vec::new();
    for line in mountinfo.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        let shown = String::from_utf8_lossy(line);
        let entry = || -> Option<MountEntry> {
            let text = std::str::from_utf8(line).ok()?;
            let (mount, filesystem) = text.split_once(" - ")?;
            let words: Vec<&str> = mount.split(' ').collect();
            let point = unescape(words.get(4)?)?.into_os_string().into_string().ok()?;
            let fstype = filesystem.split(' ').next()?.to_string();
            Some(MountEntry { id: words.first()?.parse().ok()?, point, fstype })
        };
        entries.push(entry().with_context(|| format!("a mount of the container cannot be named: {shown:?}"))?);
    }
    Ok(entries)
}

/// A path for a string of CRIU's protocol.
pub fn text_of(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("{path:?} is not UTF-8, which CRIU's protocol needs"))?;
    CString::new(text).with_context(|| format!("{path:?}"))?;
    Ok(text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_protocol_buffers() {
        let mut options = Options::default();
        options.number(Opt::ImagesDirFd, 300);
        options.number(Opt::Pid, -1);
        options.text(Opt::LogFile, "a");
        options.pair(Opt::CgroupRoot, "", "/x");
        options.text_and_number(Opt::InheritFd, "k", 1);
        let minus_one = [0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        let mut expected = vec![0x08, 0xac, 0x02];
        expected.extend(minus_one);
        expected.extend(b"\x52\x01a\xca\x01\x04\x12\x02/x\xda\x01\x05\x0a\x01k\x10\x01");
        assert_eq!(options.0.0, expected);
        assert_eq!(members(b"\x08\xac\x02\x52\x01a").unwrap(), [(1, Value::Number(300)), (10, Value::Bytes(b"a"))]);
    }

    #[test]
    fn damaged_answers_are_refused() {
        for bytes in [
            &b"\x08"[..],
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x0a\x05ab",
            b"\x0d\x01\x02\x03\x04",
            b"\x2a\x02\x08",
        ] {
            assert_eq!(Response::read(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn answers_are_understood() {
        let notify = Response::read(b"\x08\x06\x10\x01\x2a\x07\x0a\x03abc\x10\x2a").unwrap();
        assert_eq!((notify.kind, notify.success, notify.script.as_str(), notify.pid), (6, true, "abc", 42));
        let version = Response::read(b"\x08\x0a\x10\x01\x52\x04\x08\x04\x10\x02").unwrap();
        assert_eq!(version.version, 40200);
        let failed = Response::read(b"\x08\x01\x10\x00\x38\x10\x4a\x02no").unwrap();
        assert_eq!((failed.success, failed.errno, failed.message.as_str()), (false, 16, "no"));
        let features = Response::read(b"\x08\x09\x10\x01\x42\x04\x08\x00\x10\x01").unwrap();
        assert_eq!(features.features, [false, true]);
    }

    #[test]
    fn mount_points_are_unescaped() {
        let text = b"36 35 0:9 / /a\\040b]:c rw - tmpfs tmpfs rw\n37 35 0:9 / / rw shared:1 - ext4 /dev/x rw\n";
        let entries = mount_entries(text).unwrap();
        assert_eq!((entries[0].id, entries[0].point.as_str(), entries[0].fstype.as_str()), (36, "/a b]:c", "tmpfs"));
        assert_eq!(entries[1].point, "/");
        for bad in [&b"x"[..], b"36 35 0:9 / /\xff rw - t t rw", b"36 35 0:9 / /a\\0 rw - t t rw"] {
            assert!(mount_entries(bad).is_err());
        }
    }

    #[test]
    fn the_end_of_the_log_names_the_cause() {
        let log =
            "(00.1) Error (a.c:1): one\n(00.2) fine\n(00.3) Error (b.c:2): two\nError (c.c:3): three\nError (d): four";
        assert_eq!(errors_in_log(log), "Error (b.c:2): two; Error (c.c:3): three; Error (d): four");
    }
}
