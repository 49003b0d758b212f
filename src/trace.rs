// SPDX-License-Identifier: Apache-2.0
//! `--trace FILE`: when each phase of a command began, in this process and in the one that it clones, as a file that trace
//! viewers open (the JSON of Chrome's about:tracing). Both write into memory that they share, the file is written by the
//! parent at the end. Without the flag a mark is one branch.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::sys;
use crate::sys::memory::shared_words;

/// The variable with the file of commands that are called without `--trace`, through an engine say.
pub const VARIABLE: &str = "ORLOP_TRACE";

/// Who marks a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// The process that was called.
    Runtime,
    /// The container's init, or the process of `exec`.
    Child,
    /// The process that clones it, if it has to be a child of one that has joined namespaces.
    Stager,
}

const LANES: [(Lane, &str); 3] =
    [(Lane::Runtime, "orlop"), (Lane::Child, "the container's process"), (Lane::Stager, "stager")];

macro_rules! phases {
    ($($phase:ident $name:literal),+ $(,)?) => {
        /// What a process does from a mark on until its next one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Phase { $($phase),+ }

        const PHASES: &[(Phase, &str)] = &[$((Phase::$phase, $name)),+];
    };
}

phases! {
    Arguments "look at the arguments",
    Host "look at the host",
    Config "read config.json",
    Policy "apply the operator's policy",
    Plan "plan, and compile the seccomp filter",
    StateDirectory "make the state directory",
    Cgroup "make the cgroup",
    DeviceRules "load the device rules (bpf)",
    Sources "open namespaces and sources of mounts",
    Clone "clone3",
    WaitForInit "wait for the container's process",
    OutsideWork "write id maps for it",
    HostHooks "prestart and createRuntime hooks",
    Record "set limits, write the state",
    HandOver "let it go",
    Release "connect to init",
    WaitForExec "wait for its execve",
    PoststartHooks "poststart hooks",
    WaitForProgram "the program runs",
    FindContainer "read the state",
    Kill "kill init and wait for its end",
    RemoveCgroup "remove the cgroup",
    RemoveState "remove the state directory",
    PoststopHooks "poststop hooks",
    End "the rest",
    ChildStart "first steps",
    IdMaps "wait for its id maps",
    Namespaces "enter namespaces",
    Loopback "bring lo up",
    Mounts "mounts",
    Devices "devices",
    Console "terminal",
    ContainerHooks "createContainer hooks",
    PivotRoot "pivot_root, leave the host's tree",
    MaskPaths "masked and read-only paths",
    Sysctls "sysctls and names",
    Credentials "user and capabilities",
    Seccomp "load the seccomp filter",
    WaitForStart "wait for start",
    StartHooks "startContainer hooks",
    Execute "execve",
}

/// What is shared: the first word is that of `start` (`sys::memory::SharedWord`), the second counts the marks. A mark has
/// two words: the time in ns of the monotonic clock, then the lane and the phase.
const MARKS: usize = 2;
const WORDS: usize = 2048;

static ON: AtomicBool = AtomicBool::new(false);
static TRACE: Mutex<Option<Trace>> = Mutex::new(None);

struct Trace {
    words: &'static [AtomicU64],
    memfd: Option<OwnedFd>,
    lane: Lane,
    file: PathBuf,
    command: &'static str,
    /// When the process was started and when [`enable`] was called, in ns.
    begin: [u64; 2],
    pids: [i32; 3],
}

/// In ns, since a time that does not change.
fn now(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    u64::try_from(time.tv_sec() * 1_000_000_000 + time.tv_nsec()).unwrap_or(0)
}

/// Begins a trace that goes to `file`. What a process shares cannot be made before the caller's descriptors were looked at.
/// A failure is a warning.
pub fn enable(file: PathBuf, command: &'static str) {
    let end = now(ClockId::CLOCK_MONOTONIC);
    // How long the process has been there is known in hundredths of a second only. It has waited for nothing yet.
    let begin = end.saturating_sub(now(ClockId::CLOCK_PROCESS_CPUTIME_ID));
    let shared = || -> sys::Result<_> {
        let memfd = sys::memory::memfd_of(WORDS * size_of::<u64>())?;
        Ok((shared_words(memfd.as_fd(), WORDS)?, memfd))
    };
    match shared() {
        Ok((words, memfd)) => {
            let pids = [std::process::id().cast_signed(), 0, 0];
            let trace =
                Trace { words, memfd: Some(memfd), lane: Lane::Runtime, file, command, begin: [begin, end], pids };
            put_in_place(trace);
            mark(Phase::Arguments);
        }
        Err(e) => crate::log::warn(&format!("--trace: {e}")),
    }
}

fn put_in_place(trace: Trace) {
    if let Ok(mut place) = TRACE.lock() {
        *place = Some(trace);
        ON.store(true, Ordering::Relaxed);
    }
}

/// The phase begins, and the one before it in this process ends.
#[inline]
pub fn mark(phase: Phase) {
    if ON.load(Ordering::Relaxed) {
        with(|trace| trace.put(phase));
    }
}

#[cold]
fn with(act: impl FnOnce(&mut Trace)) {
    if let Ok(mut trace) = TRACE.lock()
        && let Some(trace) = trace.as_mut()
    {
        act(trace);
    }
}

/// In a new process: it is this one from here on.
pub fn is(lane: Lane) {
    if ON.load(Ordering::Relaxed) {
        with(|trace| {
            trace.lane = lane;
            // By its owner, before all descriptors are closed by number.
            drop(trace.memfd.take());
            trace.put(Phase::ChildStart);
        });
    }
}

/// In the parent: the process that marks phases there.
pub fn process(lane: Lane, pid: nix::unistd::Pid) {
    if ON.load(Ordering::Relaxed) {
        with(|trace| {
            if let Some(place) = trace.pids.get_mut(lane as usize) {
                *place = pid.as_raw();
            }
        });
    }
}

/// The memory, for an init that another command has cloned; its first word is one of [`sys::memory::SharedWord`].
pub fn memory() -> Option<OwnedFd> {
    if !ON.load(Ordering::Relaxed) {
        return None;
    }
    TRACE.lock().ok()?.as_ref()?.memfd.as_ref()?.try_clone().ok()
}

/// In init: marks what it does in the memory of the `start` that releases it. A failure costs the trace only.
pub fn adopt(memfd: BorrowedFd<'_>) {
    if let Ok(words) = shared_words(memfd, WORDS) {
        let trace = Trace {
            words,
            memfd: None,
            lane: Lane::Child,
            file: PathBuf::new(),
            command: "",
            begin: [0; 2],
            pids: [0; 3],
        };
        put_in_place(trace);
    }
}

/// Writes the file, if there is a trace. A failure is a warning: the command has done its work.
pub fn finish() {
    if !ON.load(Ordering::Relaxed) {
        return;
    }
    with(|trace| {
        let mut file = trace.file.clone();
        if file.is_dir() {
            file.push(format!("orlop-{}-{}.json", trace.command, std::process::id()));
        }
        if let Err(e) = write(&file, trace.chrome().to_string().as_bytes()) {
            crate::log::warn(&format!("--trace {file:?}: {}", sys::describe_io(&e)));
        }
    });
}

fn write(file: &Path, text: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o644).custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK);
    options.open(file)?.write_all(text)
}

impl Trace {
    fn put(&mut self, phase: Phase) {
        let slot = usize::try_from(self.word(1).map_or(0, |count| count.fetch_add(1, Ordering::Relaxed))).unwrap_or(0);
        let at = MARKS + 2 * slot;
        // What does not fit is left out.
        if let (Some(time), Some(what)) = (self.word(at), self.word(at + 1)) {
            time.store(now(ClockId::CLOCK_MONOTONIC), Ordering::Relaxed);
            what.store(((self.lane as u64) << 32) | phase as u64, Ordering::Release);
        }
    }

    fn word(&self, at: usize) -> Option<&AtomicU64> {
        self.words.get(at)
    }

    /// All marks: when, by whom, what.
    fn marks(&self) -> Vec<(u64, usize, Phase)> {
        let load = |at: usize| self.word(at).map(|word| word.load(Ordering::Acquire));
        let count = usize::try_from(load(1).unwrap_or(0)).unwrap_or(0).min((WORDS - MARKS) / 2);
        let mut all = Vec::with_capacity(count);
        for at in (0..count).map(|slot| MARKS + 2 * slot) {
            let (Some(what), Some(time)) = (load(at + 1), load(at)) else { continue };
            let phase = PHASES.iter().find(|(phase, _)| *phase as u64 == what & 0xffff_ffff);
            // A process can have died between counting and writing.
            if let (Some((phase, _)), true) = (phase, time != 0) {
                all.push((time, usize::try_from(what >> 32).unwrap_or(0), *phase));
            }
        }
        all
    }

    /// The object format of the Trace Event Format: complete events (`X`) with times in µs, and names of processes.
    fn chrome(&self) -> Value {
        let end = now(ClockId::CLOCK_MONOTONIC);
        let marks = self.marks();
        let [begin, enabled] = self.begin;
        // The first mark of the parent after the execve of the child is when that closed the channel.
        let executed = marks
            .iter()
            .filter(|(_, _, phase)| *phase == Phase::Execute)
            .flat_map(|(time, ..)| marks.iter().find(|(later, lane, _)| *lane == 0 && later > time))
            .map(|(time, ..)| *time)
            .next();
        let pid = |lane: usize| self.pids.get(lane).copied().unwrap_or(0);
        let event = |name: &str, lane: usize, from: u64, to: u64| {
            let us = |ns: u64| Value::from(std::time::Duration::from_nanos(ns).as_secs_f64() * 1e6);
            let span = to.saturating_sub(from);
            json!({"name": name, "cat": "orlop", "ph": "X", "ts": us(from.saturating_sub(begin)), "dur": us(span),
                "pid": pid(0), "tid": pid(lane)})
        };
        let mut events = vec![event("start of the program (exec, seal, libc, command line)", 0, begin, enabled)];
        for (lane, name) in LANES {
            let lane = lane as usize;
            let mut own: Vec<_> = marks.iter().filter(|(_, of, _)| *of == lane).collect();
            own.dedup_by_key(|(_, _, phase)| *phase);
            if own.is_empty() {
                continue;
            }
            events.push(json!({"name": "thread_name", "ph": "M", "pid": pid(0), "tid": pid(lane),
                "args": {"name": if lane == 0 { format!("{name} {}", self.command) } else { name.to_string() }}}));
            for (i, (from, _, phase)) in own.iter().enumerate() {
                let last = if *phase == Phase::Execute { executed } else { None };
                let to = own.get(i + 1).map(|(time, ..)| *time).or(last).unwrap_or(end);
                let words = PHASES.iter().find(|(other, _)| other == phase).map_or("", |(_, words)| words);
                events.push(event(words, lane, *from, to));
            }
        }
        json!({"displayTimeUnit": "ms", "traceEvents": events})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_has_words_of_its_own() {
        for (i, (_, words)) in PHASES.iter().enumerate() {
            assert!(!words.is_empty());
            assert!(PHASES[..i].iter().all(|(_, other)| other != words), "{words}");
        }
    }
}
