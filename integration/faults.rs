// SPDX-License-Identifier: Apache-2.0
//! A fault at an exactly chosen point. A tracer (ptrace(2)) counts the system calls of every process of a command; at
//! the N-th call of the K-th process it kills that process or makes the call fail. strace's `inject=CALL:when=N` counts
//! each process apart too, but hits whichever comes there first, so most points of init stay out of its reach.
//!
//! After a kill one `delete --force` must leave nothing and free the id. After a failed call the command itself must
//! leave nothing. Neither may hang, panic or abort.
//!
//! A selection of the points runs with the suite; the `full_*` tests try each one and take minutes:
//! `[EVERY_ERRNO=1] cargo test --features integration -- --ignored full_`. Each call fails with one of the four errnos
//! in turn, or with all of them.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Bundle, Call, Layer, Running, host, runtime};
use crate::{orlop_only, skip_expected};

/// How long a command may take that has been disturbed.
const LIMIT: Duration = Duration::from_secs(10);

/// What is done to a process at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Error(i32),
}

/// A system call of a command: the index of the process in order of appearance, and of the call in it.
#[derive(Debug, Clone, Copy)]
struct Point {
    process: usize,
    call: usize,
    number: u64,
}

/// A command that ended under the tracer.
struct Traced {
    points: Vec<Point>,
    status: libc::c_int,
    hung: bool,
    stderr: String,
}

impl Traced {
    fn succeeded(&self) -> bool {
        libc::WIFEXITED(self.status) && libc::WEXITSTATUS(self.status) == 0
    }
}

struct Tracee {
    pid: i32,
    calls: usize,
    fails_with: Option<i32>,
}

/// Runs `call` to the end of its first process. The others are let go then, as the tracing thread ends.
fn traced(call: Call, fault: Option<(Point, Fault)>) -> Traced {
    let (tell_pid, pid) = mpsc::channel();
    let (tell_end, end) = mpsc::channel();
    let tracer = thread::spawn(move || {
        // SAFETY: one system call without pointers.
        let call = unsafe {
            call.pre_exec(|| {
                libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
                Ok(())
            })
        };
        let running = call.start();
        tell_pid.send(running.pid()).unwrap();
        let (points, status) = follow(&running, fault);
        tell_end.send(()).unwrap();
        (points, status, running.stderr_text())
    });
    let pid: i32 = pid.recv().unwrap();
    let hung = end.recv_timeout(LIMIT).is_err();
    if hung {
        // SAFETY: no pointers; the tracer has not seen its end, so the pid is still its own.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    let (points, status, stderr) = tracer.join().unwrap();
    Traced { points, status, hung, stderr }
}

/// What PTRACE_GET_SYSCALL_INFO says (linux/ptrace.h), as far as it is of use here.
#[repr(C)]
struct SyscallInfo {
    op: u8,
    rest: [u8; 23],
    number: u64,
    arguments: [u64; 8],
}

#[cfg(target_arch = "x86_64")]
mod registers {
    pub const NUMBER: usize = 15 * 8;
    pub const RESULT: usize = 10 * 8;
}

fn follow(running: &Running, fault: Option<(Point, Fault)>) -> (Vec<Point>, libc::c_int) {
    let main = running.pid();
    let mut status = 0;
    let options = libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEEXEC;
    // SAFETY: status is valid for writes, and the other calls take no pointers. The child stops at its execve.
    unsafe {
        libc::waitpid(main, &raw mut status, libc::__WALL);
        libc::ptrace(libc::PTRACE_SETOPTIONS, main, 0, options);
        libc::ptrace(libc::PTRACE_SYSCALL, main, 0, 0);
    }
    let mut tracees = vec![Tracee { pid: main, calls: 0, fails_with: None }];
    let mut points = Vec::new();
    loop {
        // SAFETY: as above. Without __WNOTHREAD this would take the children of other tests.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        assert!(pid > 0, "the main process ends last or is waited for first");
        if !libc::WIFSTOPPED(status) {
            if pid == main {
                return (points, status);
            }
            continue;
        }
        let index = tracees.iter().position(|t| t.pid == pid).unwrap_or_else(|| {
            tracees.push(Tracee { pid, calls: 0, fails_with: None });
            tracees.len() - 1
        });
        let mut deliver = 0;
        match (libc::WSTOPSIG(status), status >> 16) {
            (signal, _) if signal == libc::SIGTRAP | 0x80 => {
                if let Some(point) = at_call(index, &mut tracees[index], fault) {
                    points.push(point);
                }
            }
            (_, libc::PTRACE_EVENT_EXEC) if index > 0 => {
                // The container's program, or that of a hook, is not under test.
                // SAFETY: no pointers.
                unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, 0, 0) };
                continue;
            }
            // The first stop of a new process, and the other events.
            (libc::SIGSTOP | libc::SIGTRAP, _) => {}
            (signal, _) => deliver = signal,
        }
        // SAFETY: no pointers. ESRCH: it has just been killed.
        unsafe { libc::ptrace(libc::PTRACE_SYSCALL, pid, 0, deliver) };
    }
}

/// Entry to a system call or exit from one; entries are points.
fn at_call(index: usize, tracee: &mut Tracee, fault: Option<(Point, Fault)>) -> Option<Point> {
    const GET_SYSCALL_INFO: libc::c_uint = 0x420e;
    // SAFETY: SyscallInfo is plain data, and the kernel writes at most the size that it is given.
    let info = unsafe {
        let mut info: SyscallInfo = std::mem::zeroed();
        libc::ptrace(GET_SYSCALL_INFO, tracee.pid, size_of::<SyscallInfo>(), &raw mut info);
        info
    };
    if info.op == 2 {
        if let Some(errno) = tracee.fails_with.take() {
            // SAFETY: writes a register of the stopped tracee.
            unsafe { libc::ptrace(libc::PTRACE_POKEUSER, tracee.pid, registers::RESULT, -i64::from(errno)) };
        }
        return None;
    }
    let point = Point { process: index, call: tracee.calls, number: info.number };
    tracee.calls += 1;
    match fault {
        Some((at, Fault::Kill)) if (at.process, at.call) == (point.process, point.call) => {
            // SAFETY: no pointers; a traced process keeps its pid.
            unsafe { libc::kill(tracee.pid, libc::SIGKILL) };
        }
        Some((at, Fault::Error(errno))) if (at.process, at.call) == (point.process, point.call) => {
            // The call with the number -1 does nothing; its result is written at its exit.
            tracee.fails_with = Some(errno);
            // SAFETY: writes a register of the stopped tracee.
            unsafe { libc::ptrace(libc::PTRACE_POKEUSER, tracee.pid, registers::NUMBER, -1_i64) };
        }
        _ => {}
    }
    Some(point)
}

fn name(number: u64) -> String {
    syscalls::x86_64::Sysno::new(usize::try_from(number).unwrap()).map_or(number.to_string(), |s| s.to_string())
}

/// What is disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Create,
    Run,
    Start,
    Exec,
    Delete,
}

impl Subject {
    /// Brings the container to where the command begins.
    fn set_up(self, bundle: &Bundle) {
        if matches!(self, Self::Start | Self::Exec | Self::Delete) {
            bundle.create();
        }
        if matches!(self, Self::Exec | Self::Delete) {
            bundle.start();
        }
    }

    fn call(self, bundle: &Bundle) -> Call {
        match self {
            Self::Create => bundle.call_new("create", &[]),
            Self::Run => bundle.call_new("run", &["--detach"]),
            Self::Start => bundle.call(["start", &bundle.id]),
            Self::Exec => {
                let pid_file = exec_pid_file(bundle);
                bundle.call(["exec", "-d", "--pid-file", pid_file.to_str().unwrap(), &bundle.id, "/probe", "wait"])
            }
            Self::Delete => bundle.call(["delete", "--force", &bundle.id]),
        }
    }
}

fn exec_pid_file(bundle: &Bundle) -> PathBuf {
    bundle.dir.join("exec.pid")
}

/// A container with nothing special: init is cloned once.
fn plain(layer: Layer) -> Bundle {
    let mut bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.layer = layer;
    bundle
}

/// One whose init is cloned by a stager.
fn staged(layer: Layer) -> Bundle {
    plain(layer)
        .push("/linux/namespaces", json!({"type": "time"}))
        .set("/linux/timeOffsets", json!({"boottime": {"secs": 100}}))
}

/// One with a user namespace, another user, limits, hooks of every kind, a read-only root, masked paths, a sysctl.
fn rich(layer: Layer) -> Bundle {
    let probe = runtime::base().join("probe");
    let host = json!([{"path": probe.to_str().unwrap(), "args": ["x", "exit", "0"]}]);
    let mut bundle = plain(layer)
        .userns(0, 100_000, 65_536)
        .set("/process/user", json!({"uid": 1000, "gid": 1000, "additionalGids": [5]}))
        .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}]))
        .set("/process/oomScoreAdj", 100)
        .set("/root/readonly", true)
        .set("/linux/maskedPaths", json!(["/proc/kcore", "/proc/keys"]))
        .set("/linux/readonlyPaths", json!(["/proc/sys"]))
        .set("/linux/resources", json!({"devices": [{"allow": false, "access": "rwm"}]}))
        .set("/hostname", "rich");
    for kind in ["createRuntime", "createContainer", "poststart", "poststop"] {
        bundle = bundle.set(&format!("/hooks/{kind}"), host.clone());
    }
    bundle.set("/hooks/startContainer", json!([{"path": "/probe", "args": ["x", "exit", "0"]}]))
}

/// Memory runs out by abort in every Rust program; the others do not fail in a way that matters.
const CANNOT_FAIL: [i64; 13] = [
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_brk,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigreturn,
    libc::SYS_getrandom,
    libc::SYS_umask,
    libc::SYS_recvfrom, // how the standard library hears of a spawned program: it takes no error there
    libc::SYS_close,    // fails, if at all, after the descriptor is gone
];

/// The points of a command: its calls in an undisturbed run from the beginning of main on.
fn points(subject: Subject, bundle: &Bundle) -> Vec<Point> {
    subject.set_up(bundle);
    let run = traced(subject.call(bundle), None);
    assert!(run.succeeded() && !run.hung, "{subject:?} undisturbed: {}", run.stderr);
    bundle.delete_force().ok();
    bundle.check_clean();
    let after = |from: usize, call: i64| {
        let found = run.points[from..].iter().position(|p| p.number == u64::try_from(call).unwrap());
        found.map_or(from, |i| from + i)
    };
    // std's start-up (poll, sigaction, sigaltstack) aborts when it fails, which is before main.
    let begin = after(after(0, libc::SYS_execveat), libc::SYS_sigaltstack);
    run.points[begin..].to_vec()
}

/// Leftovers that stay.
fn left(bundle: &Bundle, patience: Duration) -> Vec<String> {
    let end = Instant::now() + patience;
    loop {
        let left = bundle.leftovers();
        if left.is_empty() || Instant::now() > end {
            return left;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// How long what is to vanish by itself may take: the exit of a process waits for locks that all namespaces of a busy
/// machine share.
const PATIENCE: Duration = Duration::from_secs(20);

/// The processes of the container.
fn marked(bundle: &Bundle) -> Vec<i32> {
    let marked = host::processes_marked(&format!("ORLOP_IT={}", bundle.id));
    marked.iter().map(|line| line.split(['/', ' ']).nth(2).unwrap().parse().unwrap()).collect()
}

/// A process that was cloned just now and has lost its tracer is left in the stop with which tracing begins.
fn resume(bundle: &Bundle) {
    for pid in marked(bundle) {
        // SAFETY: no pointers; the process carries this test's mark.
        unsafe { libc::kill(pid, libc::SIGCONT) };
    }
}

/// Disturbs the command at a point, and tells what is wrong afterwards. `thorough`: makes the container once more.
fn disturb(subject: Subject, bundle: &Bundle, at: Point, fault: Fault, thorough: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    subject.set_up(bundle);
    for file in [bundle.pid_file(), exec_pid_file(bundle)] {
        if subject != Subject::Exec || file != bundle.pid_file() {
            drop(std::fs::remove_file(file));
        }
    }
    let run = traced(subject.call(bundle), Some((at, fault)));
    resume(bundle);
    if run.hung {
        wrong.push("hangs".to_string());
    }
    let signal = if libc::WIFSIGNALED(run.status) { libc::WTERMSIG(run.status) } else { 0 };
    if run.stderr.contains("panicked") || ![0, libc::SIGKILL].contains(&signal) {
        wrong.push(format!("ends by signal {signal}: {}", run.stderr));
    }
    let killed = signal == libc::SIGKILL;
    let makes = matches!(subject, Subject::Create | Subject::Run);
    if makes && killed && !bundle.state_root().join(&bundle.id).join("state.json").exists() {
        // The death of the runtime kills init without anyone's help.
        let end = Instant::now() + PATIENCE;
        while !marked(bundle).is_empty() && Instant::now() < end {
            resume(bundle);
            thread::sleep(Duration::from_millis(2));
        }
        wrong.extend(marked(bundle).into_iter().map(|pid| format!("outlives the runtime: {}", doing(pid))));
    }
    if makes && !killed && !run.succeeded() {
        wrong.extend(left(bundle, PATIENCE).into_iter().map(|l| format!("left by itself: {l}")));
        if bundle.pid_file().exists() {
            wrong.push("left by itself: the pid file".into());
        }
    }
    if run.succeeded() && subject != Subject::Delete && !wrong.is_empty() {
        wrong.push("(it succeeded)".into());
    }
    if run.succeeded() && subject == Subject::Delete {
        wrong.extend(left(bundle, PATIENCE).into_iter().map(|l| format!("left by success: {l}")));
    }
    if run.succeeded() && matches!(fault, Fault::Error(_)) {
        // A failure that was passed over must not have cost the container anything.
        let want = match subject {
            Subject::Create => "\"created\"",
            Subject::Run | Subject::Start | Subject::Exec => "\"running\"",
            Subject::Delete => "",
        };
        let out = bundle.command("state");
        if !out.stdout.contains(want) {
            wrong.push(format!("succeeds, but is not {want}: {out}"));
        }
    }
    if subject == Subject::Exec {
        wrong.extend(after_exec(bundle, killed, run.succeeded()));
    }
    let deleted = bundle.delete_force();
    if !deleted.status.success() {
        wrong.push(format!("delete --force: {deleted}"));
    }
    wrong.extend(left(bundle, Duration::from_secs(3)));
    if thorough && wrong.is_empty() {
        let again = || -> Result<(), String> {
            for out in [bundle.try_create(&[]), bundle.command("start"), bundle.delete_force()] {
                if !out.status.success() {
                    return Err(format!("the id is not usable: {out}"));
                }
            }
            Ok(())
        };
        wrong.extend(again().err());
        wrong.extend(left(bundle, Duration::from_secs(3)));
    }
    wrong
}

/// What is wrong after an `exec`: the container runs on, a process that was not finished is gone, and the next one works.
fn after_exec(bundle: &Bundle, killed: bool, succeeded: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let init = bundle.pid();
    let recorded = std::fs::read_to_string(exec_pid_file(bundle)).ok().and_then(|text| text.trim().parse::<i32>().ok());
    // Of the container's processes have their own environment those whose program runs.
    let unfinished = || -> Vec<i32> {
        let all = host::cgroups_named(&bundle.id).into_iter().flat_map(|cgroup| {
            let pids = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
            pids.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>()
        });
        let waits =
            |pid: i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"/probe\0wait\0");
        let mut pids: Vec<i32> =
            all.chain(marked(bundle)).filter(|pid| *pid != init && !(killed && waits(*pid))).collect();
        pids.retain(|pid| !succeeded || recorded != Some(*pid));
        pids
    };
    let end = Instant::now() + PATIENCE;
    while !unfinished().is_empty() && Instant::now() < end {
        resume(bundle);
        thread::sleep(Duration::from_millis(2));
    }
    wrong.extend(unfinished().iter().map(|pid| format!("outlives exec: {}", doing(*pid))));
    if succeeded && recorded.is_none() {
        wrong.push("succeeds without a pid file".into());
    }
    if !succeeded && !killed && recorded.is_some() {
        wrong.push("leaves the pid file".into());
    }
    for out in [bundle.command("state"), bundle.call(["exec", &bundle.id, "/probe", "exit", "0"]).output()] {
        if !out.status.success() || out.call.contains(" state ") && !out.stdout.contains("\"running\"") {
            wrong.push(format!("the container suffers: {out}"));
        }
    }
    wrong
}

/// A process, what state it is in, and where in the kernel it waits.
fn doing(pid: i32) -> String {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let status = read("status");
    let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or("it has just ended");
    format!("{pid}: {}: {state}\n{}", read("comm").trim(), read("stack"))
}

/// Disturbs the command at each of `count` points, spread evenly, or at all. Fails with the list of what went wrong.
fn campaign(subject: Subject, bundle: &Bundle, modes: &[&[i32]], count: Option<usize>) {
    if !cfg!(target_arch = "x86_64") {
        skip_expected!("the tracer knows the registers of x86_64 only");
    }
    let all = points(subject, bundle);
    let every_errno = std::env::var_os("EVERY_ERRNO").is_some();
    let mut report = String::new();
    let (mut kills, mut errors, mut bad) = (0, 0, 0);
    for errnos in modes {
        let fit: Vec<Point> = all
            .iter()
            .filter(|p| errnos.is_empty() || !CANNOT_FAIL.contains(&i64::try_from(p.number).unwrap()))
            .copied()
            .collect();
        let step = count.map_or(1, |count| (fit.len() / count).max(1));
        // The lock has its own point: a release that failed has panicked once.
        let chosen =
            |i: usize, at: &Point| i % step == step / 2 || at.number == u64::try_from(libc::SYS_flock).unwrap();
        for (i, &at) in fit.iter().enumerate().filter(|(i, at)| chosen(*i, at)) {
            let faults: Vec<Fault> = match (errnos.len(), count) {
                (0, _) => vec![Fault::Kill],
                (_, None) if every_errno => errnos.iter().map(|&e| Fault::Error(e)).collect(),
                (n, _) => vec![Fault::Error(errnos[i % n])],
            };
            for fault in faults {
                *(if fault == Fault::Kill { &mut kills } else { &mut errors }) += 1;
                let thorough = fault == Fault::Kill && i % 8 == 0;
                let wrong = disturb(subject, bundle, at, fault, thorough);
                if !wrong.is_empty() {
                    bad += 1;
                    let call = name(at.number);
                    writeln!(report, "{fault:?} at process {} call {} {call}: {wrong:#?}", at.process, at.call)
                        .unwrap();
                    tidy(bundle);
                }
            }
        }
    }
    let (of, layer) = (all.len(), bundle.layer);
    let summary = format!("faults: {subject:?} {layer:?}: {of} points, {kills} kills, {errors} errors, {bad} bad");
    // Not eprint!, which libtest would capture.
    drop(std::io::Write::write_all(&mut std::io::stderr(), format!("{summary}\n").as_bytes()));
    assert!(bad == 0, "{summary}\n{report}");
}

/// So that one fault is not reported at each point after it.
fn tidy(bundle: &Bundle) {
    for pid in marked(bundle) {
        // SAFETY: as above.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        runtime::wait_for_end(pid, 5_000);
    }
    for cgroup in host::cgroups_named(&bundle.id) {
        drop(std::fs::remove_dir(cgroup));
    }
    #[allow(clippy::disallowed_methods)]
    drop(std::fs::remove_dir_all(bundle.state_root().join(&bundle.id)));
}

const KILL: &[i32] = &[];
const ERRNOS: &[i32] = &[libc::ENOSPC, libc::EMFILE, libc::EPERM, libc::ENOMEM];

#[test]
fn a_create_that_is_killed_anywhere_is_cleared_by_delete_force() {
    orlop_only!("records a container before it makes it");
    campaign(Subject::Create, &plain(Layer::Host), &[KILL], Some(40));
    campaign(Subject::Create, &staged(Layer::V2), &[KILL], Some(20));
}

#[test]
fn a_create_notices_the_death_of_its_stager() {
    orlop_only!("has a stager");
    if !cfg!(target_arch = "x86_64") {
        skip_expected!("the tracer knows the registers of x86_64 only");
    }
    let bundle = staged(Layer::Host);
    let all = points(Subject::Create, &bundle);
    // Its last calls: init lives then, and nobody but the stager knows its pid.
    for at in all.into_iter().filter(|p| p.process == 1).rev().take(6) {
        let wrong = disturb(Subject::Create, &bundle, at, Fault::Kill, false);
        assert!(wrong.is_empty(), "{at:?}: {wrong:#?}");
    }
}

#[test]
fn a_create_whose_calls_fail_clears_up_by_itself() {
    orlop_only!("undoes a failed create wherever it fails");
    campaign(Subject::Create, &plain(Layer::Host), &[ERRNOS], Some(40));
    campaign(Subject::Create, &rich(Layer::V2), &[ERRNOS], Some(20));
}

#[test]
fn a_start_or_delete_that_is_disturbed_can_be_cleared() {
    orlop_only!("promises it");
    campaign(Subject::Start, &plain(Layer::Host), &[KILL, ERRNOS], Some(10));
    campaign(Subject::Delete, &plain(Layer::Host), &[KILL, ERRNOS], Some(10));
}

#[test]
fn an_exec_that_is_disturbed_leaves_the_container_as_it_was() {
    orlop_only!("promises it");
    campaign(Subject::Exec, &plain(Layer::Host), &[KILL, ERRNOS], Some(15));
    campaign(Subject::Exec, &rich(Layer::V2), &[KILL, ERRNOS], Some(10));
}

macro_rules! full {
    ($($test:ident: $subject:ident $bundle:ident $layer:ident;)*) => {$(
        #[test]
        #[ignore = "full campaign, minutes"]
        fn $test() {
            campaign(Subject::$subject, &$bundle(Layer::$layer), &[KILL, ERRNOS], None);
        }
    )*};
}

full! {
    full_create_plain_host: Create plain Host;
    full_create_plain_v2: Create plain V2;
    full_create_staged_host: Create staged Host;
    full_create_staged_v2: Create staged V2;
    full_create_rich_host: Create rich Host;
    full_create_rich_v2: Create rich V2;
    full_run_plain_host: Run plain Host;
    full_run_rich_v2: Run rich V2;
    full_run_plain_v2: Run plain V2;
    full_exec_plain_host: Exec plain Host;
    full_exec_plain_v2: Exec plain V2;
    full_exec_rich_host: Exec rich Host;
    full_exec_rich_v2: Exec rich V2;
    full_start_plain_host: Start plain Host;
    full_start_rich_host: Start rich Host;
    full_start_rich_v2: Start rich V2;
    full_delete_plain_host: Delete plain Host;
    full_delete_rich_host: Delete rich Host;
    full_delete_rich_v2: Delete rich V2;
}
