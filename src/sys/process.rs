// SPDX-License-Identifier: Apache-2.0
//! Processes: pidfds, waiting, `prctl(2)`, credentials, resource limits.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::fd::owned;
use super::{Result, call, check};

/// `pidfd_open(2)`: a handle on a process that stays its own when the pid is reused.
pub fn pidfd_open(pid: Pid) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    let value = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) });
    call!("pidfd_open({pid})" => value).map(owned)
}

/// `pidfd_send_signal(2)`. ESRCH: the process has ended.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: libc::c_int) -> Result<()> {
    // SAFETY: a null siginfo makes the call behave as kill(2); no other pointers.
    let value = check(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    });
    call!("pidfd_send_signal({}, {signal})", pidfd.as_raw_fd() => value).map(drop)
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It called exit with this status.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl Exit {
    /// The status a shell reports: the code, or 128 + the signal's number.
    pub fn status(self) -> u8 {
        let value = match self {
            Self::Code(code) => code & 0xff,
            Self::Signal(signal) => 128 + signal,
        };
        u8::try_from(value).unwrap_or(255)
    }
}

/// `waitid(P_PIDFD)`: reaps the child behind `pidfd`. None if it runs still and `block` is false.
/// ECHILD: it is not a child of this process, or has been reaped.
pub fn wait(pidfd: BorrowedFd<'_>, block: bool) -> Result<Option<Exit>> {
    // SAFETY: siginfo_t is plain data for which all zeroes is valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::__WALL | if block { 0 } else { libc::WNOHANG };
    let value = loop {
        // SAFETY: info is valid for writes for the duration of the call; a null rusage is allowed.
        let value = check(unsafe {
            libc::syscall(
                libc::SYS_waitid,
                libc::P_PIDFD,
                pidfd.as_raw_fd(),
                &raw mut info,
                options,
                std::ptr::null::<libc::rusage>(),
            )
        });
        if value != Err(Errno::EINTR) {
            break value;
        }
    };
    call!("waitid(P_PIDFD, {})", pidfd.as_raw_fd() => value)?;
    // SAFETY: waitid filled the SIGCHLD members, or left the zeroes.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    Ok(Some(if info.si_code == libc::CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) }))
}

fn prctl(name: &str, option: libc::c_int, argument: libc::c_ulong, more: libc::c_ulong) -> Result<libc::c_long> {
    // SAFETY: none of the options used here takes a pointer.
    let value = check(unsafe { libc::syscall(libc::SYS_prctl, option, argument, more, 0, 0) });
    call!("prctl({name}, {argument:#x}, {more})" => value)
}

/// PR_SET_DUMPABLE: a process that is not dumpable cannot be ptraced, nor its /proc/PID/{exe,fd,..} opened, by
/// processes of the container (CVE-2016-9962).
pub fn set_dumpable(dumpable: bool) -> Result<()> {
    prctl("PR_SET_DUMPABLE", libc::PR_SET_DUMPABLE, dumpable.into(), 0).map(drop)
}

/// PR_SET_PDEATHSIG: `signal` when the parent ends, 0 for none. A change of credentials clears it.
pub fn set_parent_death_signal(signal: libc::c_int) -> Result<()> {
    prctl("PR_SET_PDEATHSIG", libc::PR_SET_PDEATHSIG, libc::c_ulong::from(signal.unsigned_abs()), 0).map(drop)
}

/// PR_SET_NO_NEW_PRIVS: execve grants nothing any more (set-user-ID bits, file capabilities).
pub fn set_no_new_privileges() -> Result<()> {
    prctl("PR_SET_NO_NEW_PRIVS", libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// PR_SET_KEEPCAPS: whether the permitted set survives a change away from user id 0.
pub fn set_keep_capabilities(keep: bool) -> Result<()> {
    prctl("PR_SET_KEEPCAPS", libc::PR_SET_KEEPCAPS, keep.into(), 0).map(drop)
}

/// PR_SET_CHILD_SUBREAPER: orphaned descendants become children of the caller.
pub fn set_child_subreaper() -> Result<()> {
    prctl("PR_SET_CHILD_SUBREAPER", libc::PR_SET_CHILD_SUBREAPER, 1, 0).map(drop)
}

/// PR_CAPBSET_READ: whether capability `number` is in the bounding set; EINVAL beyond the kernel's last.
pub fn bounding_has(number: u32) -> Result<bool> {
    prctl("PR_CAPBSET_READ", libc::PR_CAPBSET_READ, number.into(), 0).map(|value| value == 1)
}

/// PR_CAPBSET_DROP: removes capability `number` from the bounding set for good. Needs CAP_SETPCAP.
pub fn bounding_drop(number: u32) -> Result<()> {
    prctl("PR_CAPBSET_DROP", libc::PR_CAPBSET_DROP, number.into(), 0).map(drop)
}

/// PR_CAP_AMBIENT_CLEAR_ALL.
pub fn ambient_clear() -> Result<()> {
    prctl("PR_CAP_AMBIENT", libc::PR_CAP_AMBIENT, ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL), 0).map(drop)
}

/// PR_CAP_AMBIENT_RAISE: EPERM unless capability `number` is both permitted and inheritable.
pub fn ambient_raise(number: u32) -> Result<()> {
    prctl("PR_CAP_AMBIENT", libc::PR_CAP_AMBIENT, ambient(libc::PR_CAP_AMBIENT_RAISE), number.into()).map(drop)
}

/// PR_CAP_AMBIENT_IS_SET; EINVAL beyond the kernel's last capability.
pub fn ambient_has(number: u32) -> Result<bool> {
    prctl("PR_CAP_AMBIENT", libc::PR_CAP_AMBIENT, ambient(libc::PR_CAP_AMBIENT_IS_SET), number.into())
        .map(|value| value == 1)
}

/// `getgroups(2)`: the supplementary groups of the caller. That of nix asks sysconf(3) for the most there can be, which reads
/// a file of /proc by its name: the container's /proc by then, where a FIFO would make the caller wait for ever.
pub fn getgroups() -> std::result::Result<Vec<u32>, Errno> {
    // SAFETY: a size of 0 only asks for the number.
    let count = check(unsafe { libc::getgroups(0, std::ptr::null_mut()) }.into())?;
    let mut groups = vec![0; usize::try_from(count).unwrap_or(0)];
    if let Ok(size) = libc::c_int::try_from(count)
        && size > 0
    {
        // SAFETY: groups has room for `size` ids, and this process, which has one thread, gets no more meanwhile.
        check(unsafe { libc::getgroups(size, groups.as_mut_ptr()) }.into())?;
    }
    Ok(groups)
}

fn ambient(operation: libc::c_int) -> libc::c_ulong {
    libc::c_ulong::from(operation.unsigned_abs())
}

/// The three sets of capget(2) and capset(2), bit N for capability number N.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapabilitySets {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

/// _LINUX_CAPABILITY_VERSION_3: 64-bit sets as two words each.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// `capset(2)` on the calling thread: the three sets at once, so that no order of steps can fail.
pub fn capset(sets: CapabilitySets) -> Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let words = |set: u64| [(set & 0xffff_ffff) as u32, (set >> 32) as u32];
    let [e, p, i] = [words(sets.effective), words(sets.permitted), words(sets.inheritable)];
    let data: [u32; 6] = [e[0], p[0], i[0], e[1], p[1], i[1]];
    // SAFETY: header and data have the layout of version 3 and live through the call.
    let value = check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) });
    call!("capset({:#x}, {:#x}, {:#x})", sets.effective, sets.permitted, sets.inheritable => value).map(drop)
}

/// `capget(2)` of the calling thread.
pub fn capget() -> Result<CapabilitySets> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [0_u32; 6];
    // SAFETY: header and data have the layout of version 3; data is valid for writes through the call.
    let value = check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) });
    call!("capget()" => value)?;
    let [e0, p0, i0, e1, p1, i1] = data;
    let set = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok(CapabilitySets { effective: set(e0, e1), permitted: set(p0, p1), inheritable: set(i0, i1) })
}

/// `setgroups(2)`.
pub fn setgroups(groups: &[u32]) -> Result<()> {
    // SAFETY: the pointer and length are those of a slice of gid_t.
    let value = check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) });
    call!("setgroups({groups:?})" => value).map(drop)
}

/// `setresgid(2)` with all three ids the same.
pub fn setgid(gid: u32) -> Result<()> {
    // SAFETY: no pointers.
    let value = check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) });
    call!("setresgid({gid}, {gid}, {gid})" => value).map(drop)
}

/// `setresuid(2)` with all three ids the same.
pub fn setuid(uid: u32) -> Result<()> {
    // SAFETY: no pointers.
    let value = check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) });
    call!("setresuid({uid}, {uid}, {uid})" => value).map(drop)
}

/// `prlimit(2)`: sets `soft` and `hard` of `resource` (`RLIMIT_*`) on another process.
pub fn prlimit(pid: Pid, resource: libc::c_uint, soft: u64, hard: u64) -> Result<()> {
    let new = [soft, hard];
    // SAFETY: new has the layout of struct rlimit64 and lives through the call; a null old limit is allowed.
    let value = check(unsafe {
        libc::syscall(libc::SYS_prlimit64, pid.as_raw(), resource, new.as_ptr(), std::ptr::null_mut::<u64>())
    });
    call!("prlimit({pid}, {resource}, {soft}, {hard})" => value).map(drop)
}

/// An array of C strings as execve(2) takes it; valid as long as `strings` is.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

/// `execve(2)`. Returns only on failure.
pub fn execve(path: &std::ffi::CStr, args: &[CString], env: &[CString]) -> super::Error {
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: path is NUL-terminated; argv and envp are null-terminated arrays of C strings that live through the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    super::Error { call: format!("execve({path:?})"), errno: Errno::last() }
}

/// `execveat(2)` of a descriptor. Returns only on failure.
pub fn fexecve(fd: BorrowedFd<'_>, args: &[CString], env: &[CString]) -> super::Error {
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: as in execve; the empty path with AT_EMPTY_PATH names the descriptor itself.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    super::Error { call: format!("execveat({})", fd.as_raw_fd()), errno: Errno::last() }
}

/// `keyctl(KEYCTL_SETPERM)` on the session keyring.
pub fn set_session_keyring_permissions(permissions: u32) -> Result<()> {
    const KEYCTL_SETPERM: libc::c_int = 5;
    const KEY_SPEC_SESSION_KEYRING: libc::c_int = -3;
    // SAFETY: no pointers.
    let value =
        check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, KEY_SPEC_SESSION_KEYRING, permissions) });
    call!("keyctl(SETPERM, {permissions:#x})" => value).map(drop)
}

/// `keyctl(KEYCTL_JOIN_SESSION_KEYRING, name)`: the session keyring of this name, if the caller may search it, or a new,
/// empty one, so that the container cannot read the caller's keys (keyrings(7)).
pub fn join_session_keyring(name: &std::ffi::CStr) -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: name is NUL-terminated and lives through the call.
    let value = check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) });
    call!("keyctl(JOIN_SESSION_KEYRING, {name:?})" => value).map(drop)
}

/// Resets the signals that are ignored (bit N-1 of `ignored` for signal N) to their default action and unblocks all: what
/// the caller ignored (Go programs and shells ignore SIGPIPE, SIGHUP, ..) would otherwise be inherited through `execve`,
/// which resets handlers but not this.
pub fn reset_signals(ignored: u64) {
    /// The kernel's own `struct sigaction`: libc's refuses the two signals that it keeps for itself (nptl(7)).
    #[repr(C)]
    struct Action {
        handler: usize,
        flags: libc::c_ulong,
        restorer: usize,
        mask: u64,
    }
    let default = Action { handler: libc::SIG_DFL, flags: 0, restorer: 0, mask: 0 };
    for signal in (1..=64).filter(|signal| ignored >> (signal - 1) & 1 == 1) {
        // SAFETY: the action has the kernel's layout and installs no handler; a null old action is allowed.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, std::ptr::null_mut::<Action>(), 8) };
    }
    let none = 0_u64;
    // SAFETY: the set has the kernel's size of 8 bytes; a null old set is allowed.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, std::ptr::null_mut::<u64>(), 8)
    };
}

/// A write to a pipe without reader is an error from here on, and not the end of the process.
pub fn ignore_pipe_signal() {
    // SAFETY: SIG_IGN is no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// SIGPIPE is ignored as long as this lives: a write to a pipe without reader is an error then, and not the end of the
/// process.
pub struct NoPipeSignal(libc::sighandler_t);

impl NoPipeSignal {
    pub fn hold() -> Self {
        // SAFETY: SIG_IGN is no handler.
        Self(unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) })
    }
}

impl Drop for NoPipeSignal {
    fn drop(&mut self) {
        if self.0 != libc::SIG_ERR {
            // SAFETY: what signal(2) returned was the disposition before.
            unsafe { libc::signal(libc::SIGPIPE, self.0) };
        }
    }
}

/// Whether the caller ignores `signal`.
pub fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: sigaction is plain data; a null new action only asks.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// `kill(2)`, with real-time signals too. Only for processes that a frozen cgroup keeps from ending: a pid alone may be
/// another process by now.
pub fn kill(pid: Pid, signal: libc::c_int) -> Result<()> {
    // SAFETY: no pointers.
    let value = check(unsafe { libc::kill(pid.as_raw(), signal) }.into());
    call!("kill({pid}, {signal})" => value).map(drop)
}

/// Makes the process of `command` get SIGKILL when the calling process ends.
pub fn die_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let parent = std::process::id();
    let set = move || -> std::io::Result<()> {
        // SAFETY: async-signal-safe calls without pointers, in a child of a process with one thread.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            // The parent may have ended before the call; then this process has another one by now.
            if u32::try_from(libc::getppid()) != Ok(parent) {
                libc::_exit(1);
            }
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(set) };
}

/// `pidfd_getfd(2)`: a copy of descriptor number `fd` of another process. EBADF: it has no such descriptor. Needs the
/// right to ptrace it, which CAP_SYS_PTRACE gives over a process that is not dumpable, too.
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, fd: std::os::fd::RawFd) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    let value = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) });
    call!("pidfd_getfd({}, {fd})", pidfd.as_raw_fd() => value).map(owned)
}

/// Makes sure that no backtrace is taken, whatever `RUST_BACKTRACE` and `RUST_LIB_BACKTRACE` say: the release binary has no
/// tables for unwinding (`build.rs`), and libgcc's unwinder aborts where it finds none. Called first of all.
pub fn forbid_backtraces() {
    for name in ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE"] {
        // SAFETY: the process has one thread, so nothing reads the environment meanwhile.
        unsafe { std::env::remove_var(name) };
    }
}
