// SPDX-License-Identifier: Apache-2.0
//! One call of a program: how long it took, the CPU time and memory of it and of what it reaped or left to be reaped.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A program that is measured.
#[derive(Clone)]
pub struct Contender {
    pub name: &'static str,
    pub program: PathBuf,
}

/// One measurement; the memory is the largest resident set of the process, in KB.
#[derive(Clone, Copy)]
pub struct Sample {
    pub wall: Duration,
    pub cpu: Duration,
    pub memory: i64,
}

/// The memory of a process, in KB.
#[derive(Clone, Copy, Default)]
pub struct Memory {
    pub resident: u64,
    pub proportional: u64,
    pub anonymous: u64,
}

impl Memory {
    pub fn of(pid: i32) -> Self {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let find = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
            line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
        };
        Self { resident: find("Rss:"), proportional: find("Pss:"), anonymous: find("Anonymous:") }
    }
}

/// The command, with the state root of that runtime below `states`.
pub fn command(contender: &Contender, states: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(&contender.program);
    if contender.name != "floor" {
        command.arg("--root").arg(states.join(contender.name));
    }
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Runs one command to its end.
pub fn call(contender: &Contender, states: &Path, args: &[&str]) -> Result<Sample, String> {
    let errors = states.join("errors");
    let begin = Instant::now();
    let mut command = command(contender, states, args);
    let child = command.stderr(fs::File::create(&errors).unwrap()).spawn();
    let child = child.map_err(|e| format!("{}: {e}", contender.program.display()))?;
    let (code, cpu, memory) = wait4(i32::try_from(child.id()).unwrap(), 0).expect("the runtime's end");
    let wall = begin.elapsed();
    let sample = Sample { wall, cpu: cpu + reap(None), memory };
    if code == 0 {
        return Ok(sample);
    }
    let text = fs::read_to_string(&errors).unwrap_or_default();
    Err(format!("{} {}: {}", contender.name, args[0], text.trim()))
}

/// Waits for a process: its exit status word, the CPU time of it and of what it waited for, and its memory.
fn wait4(pid: i32, flags: i32) -> Option<(i32, Duration, i64)> {
    let mut status = 0;
    // SAFETY: rusage is plain numbers; both places are valid.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::wait4(pid, &raw mut status, flags, &raw mut usage) <= 0 {
            return None;
        }
        let time = |t: libc::timeval| {
            Duration::from_micros(u64::try_from(t.tv_sec).unwrap() * 1_000_000 + u64::try_from(t.tv_usec).unwrap())
        };
        Some((status, time(usage.ru_utime) + time(usage.ru_stime), usage.ru_maxrss))
    }
}

/// Reaps what was left to this process, waiting for `init` if given; returns the CPU time of all of them but `init`.
pub fn reap(init: Option<i32>) -> Duration {
    init.and_then(|init| wait4(init, 0));
    let mut sum = Duration::ZERO;
    while let Some((_, cpu, _)) = wait4(-1, libc::WNOHANG) {
        sum += cpu;
    }
    sum
}

/// The CPU time of a living process, which schedstat gives in nanoseconds.
pub fn cpu_so_far(pid: i32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|w| w.parse().ok()).unwrap_or(0))
}

/// cgroup2 alone on /sys/fs/cgroup, seen by this process and its children; and what they leave comes to this process.
pub fn enter_layer() -> io::Result<()> {
    let check = |result: i32| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // SAFETY: system calls on constant strings.
    unsafe {
        let none = std::ptr::null();
        check(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1))?;
        check(libc::unshare(libc::CLONE_NEWNS))?;
        check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, std::ptr::null()))?;
        let (fs, at) = (c"cgroup2".as_ptr(), c"/sys/fs/cgroup".as_ptr());
        check(libc::mount(fs, at, fs, 0, std::ptr::null()))
    }
}

/// How many system calls a command makes with all its processes, as strace counts them; None without strace.
pub fn system_calls(contender: &Contender, states: &Path, args: &[&str]) -> Option<usize> {
    let log = states.join("strace");
    let inner = command(contender, states, args);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o"]).arg(&log).arg(inner.get_program()).args(inner.get_args());
    strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = strace.status().ok()?;
    reap(None);
    let text = fs::read_to_string(&log).ok()?;
    let made = |line: &&str| !line.contains("resumed>") && !line.contains(" --- ") && !line.contains(" +++ ");
    status.success().then(|| text.lines().filter(made).count())
}
