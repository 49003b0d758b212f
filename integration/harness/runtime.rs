// SPDX-License-Identifier: Apache-2.0
//! The runtime under test and one call of it: which program, in which cgroup layout, with which descriptors, and a
//! bounded wait for its end. Output goes to files, not pipes: a detached container inherits the streams, and a pipe
//! that it holds open would make the harness wait for the container instead of for the runtime.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::host;

/// No command of a runtime takes this long unless it hangs; slow machines and `strace` are allowed for.
/// `ORLOP_PATIENCE_MS` shortens it where commands are meant to hang.
pub fn patience_ms() -> i32 {
    std::env::var("ORLOP_PATIENCE_MS").map_or(60_000, |text| text.parse().unwrap())
}

/// Which runtime the suite drives. Peers keep the tests honest: a test that they all fail is a wrong test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    Orlop,
    Runc,
    Crun,
}

impl Flavor {
    pub fn name(self) -> &'static str {
        match self {
            Self::Orlop => "orlop",
            Self::Runc => "runc",
            Self::Crun => "crun",
        }
    }
}

/// The runtime named by `RUNTIME_UNDER_TEST`, orlop by default.
pub fn flavor() -> Flavor {
    match std::env::var("RUNTIME_UNDER_TEST").as_deref() {
        Err(_) | Ok("" | "orlop") => Flavor::Orlop,
        Ok("runc") => Flavor::Runc,
        Ok("crun") => Flavor::Crun,
        Ok(other) => panic!("RUNTIME_UNDER_TEST={other}: expected orlop, runc or crun"),
    }
}

/// The program to run.
pub fn program() -> PathBuf {
    match flavor() {
        // `integration/mutate` puts a weakened one in its place.
        Flavor::Orlop => std::env::var_os("ORLOP_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_orlop").into()).into(),
        peer => ["/usr/local/sbin", "/usr/sbin", "/usr/local/bin", "/usr/bin"]
            .iter()
            .map(|dir| Path::new(dir).join(peer.name()))
            .find(|path| path.exists())
            .unwrap_or_else(|| panic!("{} is not installed", peer.name())),
    }
}

/// The cgroup layout a call of the runtime sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Whatever the machine has: v1, hybrid or v2.
    Host,
    /// A private mount namespace with only cgroup2 on /sys/fs/cgroup. On a hybrid machine that hierarchy has few
    /// controllers, but everything of the v2 core works: cgroup.kill, cgroup.events, the device program.
    V2,
}

impl Layer {
    /// The layer tests use unless they say otherwise; crun refuses a hybrid host.
    pub fn usual() -> Self {
        if flavor() == Flavor::Crun { Self::V2 } else { Self::Host }
    }
}

/// What a finished call left.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub call: String,
}

impl Output {
    /// The exit code, with 128 + signal for a runtime that was itself killed.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Fails the test unless the call succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }

    /// Fails the test unless the call failed in an orderly way: exit 1, one message, neither a signal nor a panic.
    #[track_caller]
    pub fn fails(self) -> Self {
        assert!(!self.status.success(), "expected a failure: {self}");
        assert!(self.status.signal().is_none(), "died of a signal: {self}");
        assert!(!self.stderr.contains("panicked at") && !self.stderr.contains("goroutine "), "panicked: {self}");
        assert!(!self.stderr.trim().is_empty(), "failed without a word: {self}");
        self
    }

    /// Fails the test unless the call failed and said all of `words` (letters compared without case).
    #[track_caller]
    pub fn fails_with(self, words: &[&str]) -> Self {
        let out = self.fails();
        // runc's text log escapes quotes.
        let text = out.stderr.to_lowercase().replace("\\\"", "\"");
        for word in words {
            assert!(text.contains(&word.to_lowercase()), "no {word:?} in: {out}");
        }
        out
    }

    /// The probe's report: the only line of the output.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert!(self.status.success(), "{self}");
        serde_json::from_str(self.stdout.trim()).unwrap_or_else(|e| panic!("not JSON ({e}): {self}"))
    }

    /// One value for each line of the output.
    #[track_caller]
    pub fn jsons(&self) -> Vec<Value> {
        lines(&self.stdout)
    }
}

/// Each non-empty line of `text` as JSON.
#[track_caller]
pub fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .filter(|l| !l.trim().is_empty())
        .map(|l| serde_json::from_str(l.trim()).unwrap_or_else(|e| panic!("not JSON ({e}): {text}")))
        .collect()
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n{}\nstdout: {}\nstderr: {}", self.call, self.status, self.stdout, self.stderr)
    }
}

/// A call of a program that is being put together.
pub struct Call {
    command: Command,
    out: PathBuf,
    err: PathBuf,
    text: String,
}

/// A program that was started and not waited for.
pub struct Running {
    pub child: Child,
    out: PathBuf,
    err: PathBuf,
    text: String,
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

impl Call {
    /// A call of `program`; `dir` takes the files with its output.
    pub fn new(program: &Path, dir: &Path, layer: Layer) -> Self {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let (out, err) = (dir.join(format!("out.{serial}")), dir.join(format!("err.{serial}")));
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        // The layer is there already where cgroup2 is all that the machine has; the kernel refuses a second mount of it.
        if layer == Layer::V2 && !host::is_v2() {
            // SAFETY: the closure makes only system calls, on constants.
            unsafe { command.pre_exec(enter_v2) };
        }
        Self { command, out, err, text: format!("{}", program.display()) }
    }

    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        for arg in args {
            self.text.push_str(&format!(" {}", arg.as_ref().to_string_lossy()));
            self.command.arg(arg);
        }
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.command.env(key, value);
        self
    }

    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.command.stdin(stdin);
        self
    }

    /// Makes `fd` of the harness the descriptor `number` of the runtime, as a careless caller would leak it.
    pub fn fd(mut self, fd: &impl AsRawFd, number: RawFd) -> Self {
        let raw = fd.as_raw_fd();
        // SAFETY: the closure makes only system calls; `raw` is open until `start` returns, because the caller lends it.
        unsafe { self.command.pre_exec(move || dup_to(raw, number)) };
        self
    }

    /// Runs `hook` in the child between fork and exec.
    ///
    /// # Safety
    /// As for [`CommandExt::pre_exec`]: async-signal-safe code only.
    pub unsafe fn pre_exec(mut self, hook: impl FnMut() -> io::Result<()> + Send + Sync + 'static) -> Self {
        // SAFETY: the caller's promise.
        unsafe { self.command.pre_exec(hook) };
        self
    }

    pub fn start(mut self) -> Running {
        let child = self.command.spawn().unwrap_or_else(|e| panic!("{}: {e}", self.text));
        Running { child, out: self.out, err: self.err, text: self.text }
    }

    /// Runs it to its end, or fails the test when there is none.
    #[track_caller]
    pub fn output(self) -> Output {
        self.start().output()
    }
}

impl Running {
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub fn stdout_path(&self) -> &Path {
        &self.out
    }

    /// What it has printed on stderr so far.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.err).unwrap_or_default()).into_owned()
    }

    /// Waits for the end, at most [`patience_ms`].
    #[track_caller]
    pub fn output(mut self) -> Output {
        let ended = wait_for_end(self.pid(), patience_ms());
        if !ended {
            drop(self.child.kill());
        }
        let status = self.child.wait().unwrap();
        let read = |p: &Path| String::from_utf8_lossy(&fs::read(p).unwrap_or_default()).into_owned();
        let out = Output { status, stdout: read(&self.out), stderr: read(&self.err), call: self.text.clone() };
        assert!(ended, "hangs: {out}");
        out
    }
}

/// Waits until the process `pid` has ended (it may remain a zombie). True at once for one that does not exist.
pub fn wait_for_end(pid: i32, timeout_ms: i32) -> bool {
    // SAFETY: no pointers.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let Ok(raw) = RawFd::try_from(raw) else { return true };
    if raw < 0 {
        return true;
    }
    // SAFETY: just opened, owned by nobody else.
    let pidfd = unsafe { OwnedFd::from_raw_fd(raw) };
    let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&raw mut poll, 1, timeout_ms) == 1 }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn dup_to(fd: RawFd, number: RawFd) -> io::Result<()> {
    // SAFETY: no pointers. dup2 onto itself would keep CLOEXEC.
    check(unsafe { if fd == number { libc::fcntl(fd, libc::F_SETFD, 0) } else { libc::dup2(fd, number) } })
}

/// Enters a private mount namespace where /sys/fs/cgroup is a cgroup2 mount and nothing else.
fn enter_v2() -> io::Result<()> {
    // SAFETY: system calls on constant strings.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        let none = std::ptr::null();
        check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, std::ptr::null()))?;
        let (fs, at) = (c"cgroup2".as_ptr(), c"/sys/fs/cgroup".as_ptr());
        check(libc::mount(fs, at, fs, libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC, std::ptr::null()))
    }
}

/// A name for everything of this test process. The pid alone would do for what is alive; the time keeps it apart from
/// what an earlier run with the same pid (in a container, say) may have left when it was killed.
pub fn run_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        format!("orlop-it-{}-{:x}", std::process::id(), now.as_micros() % 0x100_0000)
    })
}

/// A directory of this test process, removed at its exit, with the static programs that rootfs are made of.
pub fn base() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        // SAFETY: no arguments.
        assert_eq!(unsafe { libc::geteuid() }, 0, "the integration tests need root: see integration/run");
        let base = std::env::temp_dir().join(run_name());
        fs::create_dir(&base).unwrap();
        // Mapped users of a user namespace have to get to the rootfs below.
        fs::set_permissions(&base, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        copy_program(Path::new(env!("CARGO_BIN_EXE_probe")), &base.join("probe"));
        // SAFETY: registers a function that takes nothing and may run at exit.
        unsafe { libc::atexit(remove_base) };
        base
    })
}

extern "C" fn remove_base() {
    drop(fs::remove_dir_all(std::env::temp_dir().join(run_name())));
}

/// Copies a program that is to be executed. Another process does it: a descriptor for writing in this one would be
/// inherited by whatever the other tests fork meanwhile, and make execve fail with ETXTBSY.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(copied.success(), "cp {from:?} {to:?}: {copied}");
}
