// SPDX-License-Identifier: Apache-2.0
//! What the kernel itself needs for a container: the system calls that make the one of a bundle of the benchmark, from data
//! that is in the program, and nothing else. No C library is started, nothing is read, checked or allocated. A runtime can
//! hardly be faster; this one is no runtime, since it makes that one container only and no mistake is noticed but by a
//! failing call.
//!
//! ```text
//! floor minimal|default|docker|userns ROOTFS CGROUP STATE-DIRECTORY STATE-FILE [SECCOMP-FILTER]
//! ```
//! The exit status is the program's, or the number of the step that failed.
#![no_main]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    clippy::undocumented_unsafe_blocks,
    static_mut_refs,
    reason = "raw system calls on constants, in a program that is nothing else"
)]

use std::arch::{asm, global_asm};
use std::ffi::CStr;

// At entry the stack pointer is aligned to 16 bytes and points to argc (System V ABI).
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "mov rdi, rsp", "call {main}", main = sym main);

fn call(number: libc::c_long, a: usize, b: usize, c: usize, d: usize, e: usize) -> isize {
    let value: isize;
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => value, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            in("r8") e, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    value
}

fn exit(status: usize) -> ! {
    loop {
        call(libc::SYS_exit_group, status, 0, 0, 0, 0);
    }
}

/// A step that must work: its value.
fn must(step: usize, value: isize) -> usize {
    if value < 0 {
        exit(step);
    }
    value as usize
}

fn text(text: &CStr) -> usize {
    text.as_ptr() as usize
}

const HERE: usize = libc::AT_FDCWD as usize;
const EMPTY: usize = libc::AT_EMPTY_PATH as usize;
const NONE: &CStr = c"";

const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
const STRICTATIME: u64 = libc::MOUNT_ATTR_STRICTATIME;

/// Where, type, options, attributes.
type Mount = (&'static CStr, &'static CStr, &'static [(&'static CStr, &'static CStr)], u64);

static FEW: [Mount; 2] =
    [(c"proc", c"proc", &[], 0), (c"dev", c"tmpfs", &[(c"mode", c"755"), (c"size", c"65536k")], NOSUID | STRICTATIME)];
static MORE: [Mount; 5] = [
    (c"dev/pts", c"devpts", &[(c"ptmxmode", c"0666"), (c"mode", c"0620"), (c"gid", c"5")], NOSUID | NOEXEC),
    (c"dev/shm", c"tmpfs", &[(c"mode", c"1777"), (c"size", c"65536k")], NOSUID | NOEXEC | NODEV),
    (c"dev/mqueue", c"mqueue", &[], NOSUID | NOEXEC | NODEV),
    (c"sys", c"sysfs", &[], NOSUID | NOEXEC | NODEV | RDONLY),
    (c"sys/fs/cgroup", c"cgroup2", &[], NOSUID | NOEXEC | NODEV | RDONLY),
];
static DIRECTORIES: [&CStr; 3] = [c"dev/pts", c"dev/shm", c"dev/mqueue"];
/// Name and device number: major << 8 | minor.
static NODES: [(&CStr, &CStr, usize); 6] = [
    (c"dev/null", c"/dev/null", 0x103),
    (c"dev/zero", c"/dev/zero", 0x105),
    (c"dev/full", c"/dev/full", 0x107),
    (c"dev/random", c"/dev/random", 0x108),
    (c"dev/urandom", c"/dev/urandom", 0x109),
    (c"dev/tty", c"/dev/tty", 0x500),
];
static LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"dev/fd"),
    (c"/proc/self/fd/0", c"dev/stdin"),
    (c"/proc/self/fd/1", c"dev/stdout"),
    (c"/proc/self/fd/2", c"dev/stderr"),
    (c"pts/ptmx", c"dev/ptmx"),
];
static READ_ONLY: [&CStr; 5] = [c"proc/bus", c"proc/fs", c"proc/irq", c"proc/sys", c"proc/sysrq-trigger"];
static MASKED_FILES: [&CStr; 6] =
    [c"proc/kcore", c"proc/keys", c"proc/latency_stats", c"proc/timer_list", c"proc/timer_stats", c"proc/sched_debug"];
static MASKED_DIRECTORIES: [&CStr; 4] = [c"proc/acpi", c"proc/asound", c"sys/firmware", c"proc/scsi"];

// Memory that would be on the stack goes through memset, which is the C library's.
static mut CLONE: [u64; 11] = [0; 11];
static mut ATTRIBUTES: [u64; 4] = [0; 4];
static mut FILTER: [u64; 4096] = [0; 4096];
static mut PROGRAM: [usize; 2] = [0; 2];
static mut INTERFACE: [u64; 5] = [0; 5];
static mut STATE: [u8; 600] = [b'x'; 600];
static HEADER: [u32; 2] = [0x2008_0522, 0];
static KEPT: [u32; 6] = [0x2000_0420, 0x2000_0420, 0, 0, 0, 0];
static LIMIT: [u64; 2] = [1024, 1024];
static ID_MAP: &CStr = c"0 100000 65536\n";

struct Plan {
    minimal: bool,
    userns: bool,
    rootfs: usize,
    cgroup: usize,
    state: usize,
    file: usize,
    filter: usize,
}

extern "C" fn main(stack: *const usize) -> ! {
    let argument = |at: usize| unsafe { *stack.add(1 + at) };
    let kind = unsafe { *(argument(1) as *const u8) };
    let plan = Plan {
        minimal: kind == b'm',
        userns: kind == b'u',
        rootfs: argument(2),
        cgroup: argument(3),
        state: argument(4),
        file: argument(5),
        filter: argument(6),
    };
    must(100, call(libc::SYS_mkdir, plan.state, 0o700, 0, 0, 0));
    must(101, call(libc::SYS_mkdir, plan.cgroup, 0o755, 0, 0, 0));
    let cgroup = must(102, call(libc::SYS_open, plan.cgroup, (libc::O_PATH | libc::O_CLOEXEC) as usize, 0, 0, 0));
    // What the program becomes has the filter in its memory; reading it stands for a compiler that costs nothing.
    let mut length = 0;
    if plan.filter != 0 {
        let file = must(103, call(libc::SYS_open, plan.filter, libc::O_CLOEXEC as usize, 0, 0, 0));
        length = must(104, call(libc::SYS_read, file, (&raw mut FILTER) as usize, 32768, 0, 0));
        call(libc::SYS_close, file, 0, 0, 0, 0);
    }
    let few = libc::CLONE_NEWPID | libc::CLONE_NEWNS;
    let more = libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
    let mut flags = few as u64;
    if !plan.minimal {
        flags |= more as u64;
    }
    if plan.userns {
        flags |= libc::CLONE_NEWUSER as u64;
    }
    let mut ends = [0_i32; 2];
    if plan.userns {
        must(105, call(libc::SYS_pipe2, (&raw mut ends) as usize, libc::O_CLOEXEC as usize, 0, 0, 0));
    }
    unsafe {
        CLONE[0] = flags | 0x2_0000_0000;
        CLONE[4] = libc::SIGCHLD as u64;
        CLONE[10] = cgroup as u64;
    }
    let pid = must(106, call(libc::SYS_clone3, (&raw const CLONE) as usize, 88, 0, 0, 0));
    if pid == 0 {
        if plan.userns {
            call(libc::SYS_close, ends[1] as usize, 0, 0, 0, 0);
            call(libc::SYS_read, ends[0] as usize, (&raw mut ends) as usize, 1, 0, 0);
        }
        child(&plan, length);
    }
    if plan.userns {
        map(pid, b"uid_map");
        map(pid, b"gid_map");
        call(libc::SYS_close, ends[1] as usize, 0, 0, 0, 0);
    }
    let flags = (libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC) as usize;
    let file = must(107, call(libc::SYS_open, plan.file, flags, 0o600, 0, 0));
    must(108, call(libc::SYS_write, file, (&raw const STATE) as usize, 600, 0, 0));
    call(libc::SYS_close, file, 0, 0, 0, 0);
    let mut status = 0_i32;
    must(109, call(libc::SYS_wait4, pid, (&raw mut status) as usize, 0, 0, 0));
    // The last process may be on its way out of the cgroup still.
    while call(libc::SYS_rmdir, plan.cgroup, 0, 0, 0, 0) == -(libc::EBUSY as isize) {}
    must(111, call(libc::SYS_unlink, plan.file, 0, 0, 0, 0));
    must(112, call(libc::SYS_rmdir, plan.state, 0, 0, 0, 0));
    exit(((status >> 8) & 0xff) as usize | usize::from(status & 0x7f != 0))
}

/// Writes an id map of the child.
fn map(mut pid: usize, name: &[u8; 7]) {
    let mut path = [0_u8; 24];
    let mut digits = 0;
    let mut scale = 1;
    while scale * 10 <= pid {
        scale *= 10;
    }
    let mut put = |byte: u8| {
        // Volatile, or it becomes a call of the C library.
        unsafe { (&raw mut path[digits]).write_volatile(byte) };
        digits += 1;
    };
    for byte in [b'/', b'p', b'r', b'o', b'c', b'/'] {
        put(byte);
    }
    while scale > 0 {
        put(b'0' + (pid / scale) as u8);
        pid %= scale;
        scale /= 10;
    }
    put(b'/');
    for byte in name {
        put(*byte);
    }
    let file = must(120, call(libc::SYS_open, (&raw const path) as usize, libc::O_WRONLY as usize, 0, 0, 0));
    must(121, call(libc::SYS_write, file, text(ID_MAP), 15, 0, 0));
    call(libc::SYS_close, file, 0, 0, 0, 0);
}

/// Changes a mount.
fn set(step: usize, fd: usize, recursive: bool, attributes: u64, propagation: u64) {
    unsafe {
        ATTRIBUTES[0] = attributes;
        ATTRIBUTES[2] = propagation;
    }
    let flags = if recursive { EMPTY | libc::AT_RECURSIVE as usize } else { EMPTY };
    must(step, call(libc::SYS_mount_setattr, fd, text(NONE), flags, (&raw const ATTRIBUTES) as usize, 32));
}

fn attach(step: usize, mount: usize, place: usize, name: &CStr) {
    // MOVE_MOUNT_F_EMPTY_PATH, and for an empty name MOVE_MOUNT_T_EMPTY_PATH.
    let flags = if name.is_empty() { 0x44 } else { 0x4 };
    must(step, call(libc::SYS_move_mount, mount, text(NONE), place, text(name), flags));
}

fn new(step: usize, kind: &CStr, options: &[(&CStr, &CStr)], attributes: u64) -> usize {
    let context = must(step, call(libc::SYS_fsopen, text(kind), 1, 0, 0, 0));
    let mut at = 0;
    while at < options.len() {
        must(step, call(libc::SYS_fsconfig, context, 1, text(options[at].0), text(options[at].1), 0));
        at += 1;
    }
    must(step, call(libc::SYS_fsconfig, context, 6, 0, 0, 0));
    let mount = must(step, call(libc::SYS_fsmount, context, 1, attributes as usize, 0, 0));
    call(libc::SYS_close, context, 0, 0, 0, 0);
    mount
}

fn clone(place: usize, name: &CStr, recursive: bool) -> isize {
    let mut flags = (libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC) as usize;
    if recursive {
        flags |= libc::AT_RECURSIVE as usize;
    }
    call(libc::SYS_open_tree, place, text(name), flags, 0, 0)
}

fn child(plan: &Plan, filter: usize) -> ! {
    let close = |fd: usize| call(libc::SYS_close, fd, 0, 0, 0, 0);
    call(libc::SYS_prctl, libc::PR_SET_DUMPABLE as usize, 0, 0, 0, 0);
    if plan.userns {
        must(1, call(libc::SYS_setresgid, 0, 0, 0, 0, 0));
        must(2, call(libc::SYS_setresuid, 0, 0, 0, 0, 0));
    }
    call(libc::SYS_setsid, 0, 0, 0, 0, 0);
    must(3, call(libc::SYS_keyctl, 1, text(c"_ses.floor"), 0, 0, 0));
    if !plan.minimal {
        unsafe {
            INTERFACE[0] = 0x6f6c; // lo
            INTERFACE[2] = libc::IFF_UP as u64;
        }
        let socket = must(4, call(libc::SYS_socket, libc::AF_INET as usize, libc::SOCK_DGRAM as usize, 0, 0, 0));
        must(5, call(libc::SYS_ioctl, socket, libc::SIOCSIFFLAGS as usize, (&raw const INTERFACE) as usize, 0, 0));
        close(socket);
        must(6, call(libc::SYS_sethostname, text(c"runc"), 4, 0, 0, 0));
    }
    unsafe { ATTRIBUTES[2] = libc::MS_SLAVE };
    let whole = libc::AT_RECURSIVE as usize;
    must(7, call(libc::SYS_mount_setattr, HERE, text(c"/"), whole, (&raw const ATTRIBUTES) as usize, 32));
    let name = unsafe { CStr::from_ptr(plan.rootfs as *const libc::c_char) };
    let root = must(8, clone(HERE, name, true));
    set(9, root, true, 0, libc::MS_SLAVE);
    attach(10, root, HERE, name);
    mounts(root, &FEW);
    if !plan.minimal {
        for directory in &DIRECTORIES {
            must(12, call(libc::SYS_mkdirat, root, text(directory), 0o755, 0, 0));
        }
        mounts(root, &MORE);
    }
    for (name, host, device) in &NODES {
        let mode = if plan.userns { libc::S_IFREG } else { libc::S_IFCHR } | 0o666;
        let device = if plan.userns { 0 } else { *device };
        must(13, call(libc::SYS_mknodat, root, text(name), mode as usize, device, 0));
        if plan.userns {
            let node = must(14, clone(HERE, host, false));
            attach(15, node, root, name);
            close(node);
        }
    }
    for (target, name) in &LINKS {
        must(16, call(libc::SYS_symlinkat, text(target), root, text(name), 0, 0));
    }
    must(17, call(libc::SYS_fchdir, root, 0, 0, 0, 0));
    must(18, call(libc::SYS_pivot_root, text(c"."), text(c"."), 0, 0, 0));
    must(19, call(libc::SYS_umount2, text(c"."), libc::MNT_DETACH as usize, 0, 0, 0));
    if !plan.minimal {
        hide(root);
    }
    set(27, root, false, RDONLY, 0);
    for number in 0..41 {
        if number != 5 && number != 10 && number != 29 {
            must(28, call(libc::SYS_prctl, libc::PR_CAPBSET_DROP as usize, number, 0, 0, 0));
        }
    }
    must(29, call(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE as usize, (&raw const LIMIT) as usize, 0, 0));
    must(30, call(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0));
    must(31, call(libc::SYS_capset, (&raw const HEADER) as usize, (&raw const KEPT) as usize, 0, 0, 0));
    must(32, call(libc::SYS_chdir, text(c"/"), 0, 0, 0, 0));
    must(33, call(libc::SYS_close_range, 3, u32::MAX as usize, 0, 0, 0));
    if filter != 0 {
        unsafe {
            PROGRAM[0] = filter / 8;
            PROGRAM[1] = (&raw const FILTER) as usize;
            must(34, call(libc::SYS_seccomp, 1, 0, (&raw const PROGRAM) as usize, 0, 0));
        }
    }
    static TRUE: &CStr = c"/bin/true";
    let arguments = [text(TRUE), 0];
    let environment =
        [text(c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), text(c"TERM=xterm"), 0];
    call(libc::SYS_execve, text(TRUE), (&raw const arguments) as usize, (&raw const environment) as usize, 0, 0);
    exit(35)
}

fn mounts(root: usize, all: &[Mount]) {
    let mut at = 0;
    while at < all.len() {
        let (place, kind, options, attributes) = &all[at];
        let mount = new(11, kind, options, *attributes);
        attach(11, mount, root, place);
        call(libc::SYS_close, mount, 0, 0, 0, 0);
        at += 1;
    }
}

/// Read-only and masked paths; what this kernel does not have is passed over.
fn hide(root: usize) {
    for path in &READ_ONLY {
        let copy = clone(root, path, true);
        if copy >= 0 {
            set(20, copy as usize, false, RDONLY, 0);
            attach(21, copy as usize, HERE, path);
            call(libc::SYS_close, copy as usize, 0, 0, 0, 0);
        }
    }
    let null = must(22, clone(root, c"dev/null", false));
    let mut first = null;
    for path in &MASKED_FILES {
        if call(libc::SYS_access, text(path), 0, 0, 0, 0) == 0 {
            let copy = if first == null {
                null
            } else {
                must(23, call(libc::SYS_open_tree, null, text(NONE), 1 | EMPTY, 0, 0))
            };
            attach(24, copy, HERE, path);
            first = 0;
        }
    }
    let limits: &[(&CStr, &CStr)] = &[(c"nr_blocks", c"1"), (c"nr_inodes", c"2"), (c"mode", c"755")];
    let mut empty = 0;
    for path in &MASKED_DIRECTORIES {
        if call(libc::SYS_access, text(path), 0, 0, 0, 0) != 0 {
            continue;
        }
        if empty == 0 {
            empty = new(25, c"tmpfs", limits, RDONLY | NOSUID | NODEV | NOEXEC);
            attach(25, empty, HERE, path);
        } else {
            let copy = must(26, call(libc::SYS_open_tree, empty, text(NONE), 1 | EMPTY, 0, 0));
            attach(26, copy, HERE, path);
        }
    }
}
