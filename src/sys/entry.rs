// SPDX-License-Identifier: Apache-2.0
//! Where the kernel enters the `orlop` binary (build.rs names [`orlop_entry`] to the linker). The commands that the
//! binary must be sealed for (`sealed.rs`) execute it a second time; doing so here, before the C library has begun,
//! spares the start that would be thrown away: a static glibc alone executes CPUID some forty times, which a hypervisor
//! traps. What cannot be done here is left to [`crate::sealed::ensure`], which says why it fails.
//!
//! No C library means no thread-local storage, no resolved IFUNC (so no memcpy or memcmp, hence the volatile reads that
//! the compiler cannot turn into one) and no panic.

use std::arch::{asm, global_asm};
use std::mem::MaybeUninit;
use std::ptr;

/// The commands that are sealed before anything else, as words of the command line. A word that is not the command does
/// no harm.
pub(crate) const SEALED_COMMANDS: [&str; 6] = ["create", "run", "exec", "record", "restore", "mounts"];

// psABI: at entry the stack pointer is aligned to 16 bytes and points to argc. Everything is as it was when `_start`
// begins: rdx holds what atexit is to call.
global_asm!(
    ".globl orlop_entry",
    "orlop_entry:",
    "xor ebp, ebp",
    "push rdx",
    "push rdx",
    "lea rdi, [rsp + 16]",
    "call {seal}",
    "pop rdx",
    "pop rdx",
    "jmp _start",
    seal = sym seal,
);

fn syscall(number: libc::c_long, a: usize, b: usize, c: usize, d: usize, e: usize) -> libc::c_long {
    let value: libc::c_long;
    // SAFETY: the callers below pass arguments that are valid for the call; no other register or memory is changed.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => value,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    value
}

/// Executes a read-only clone of the binary if the command line asks for it and it is not read-only already; returns
/// if there is nothing to do or something fails.
extern "C" fn seal(stack: *const usize) {
    // SAFETY: `stack` is the initial one: argc, argv with a null pointer at its end, then the environment with one.
    unsafe {
        let count = ptr::read(stack);
        let arguments = stack.wrapping_add(1);
        let environment = arguments.wrapping_add(count.wrapping_add(1));
        let mut index = 1;
        while index < count {
            if is_sealed_command(ptr::read(arguments.wrapping_add(index)) as *const u8) {
                execute_clone(arguments, environment);
                return;
            }
            index = index.wrapping_add(1);
        }
    }
}

/// SAFETY: `word` ends with a NUL.
unsafe fn is_sealed_command(word: *const u8) -> bool {
    let mut which = 0;
    while which < SEALED_COMMANDS.len() {
        // SAFETY: `which` is below the length.
        let command = unsafe { *SEALED_COMMANDS.as_ptr().wrapping_add(which) };
        let mut at = 0;
        loop {
            // SAFETY: all bytes before this one are equal, so neither string has ended before it.
            let byte = unsafe { ptr::read_volatile(word.wrapping_add(at)) };
            if at == command.len() {
                if byte == 0 {
                    return true;
                }
                break;
            }
            // SAFETY: `at` is below the length.
            if byte != unsafe { ptr::read_volatile(command.as_ptr().wrapping_add(at)) } {
                break;
            }
            at = at.wrapping_add(1);
        }
        which = which.wrapping_add(1);
    }
    false
}

/// As `sealed::ensure` does with its clone, which see.
fn execute_clone(arguments: *const usize, environment: *const usize) {
    const PATH: usize = (libc::O_PATH | libc::O_CLOEXEC) as usize;
    const EMPTY_PATH: usize = libc::AT_EMPTY_PATH as usize;
    const CLONE: usize = (libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC) as usize | EMPTY_PATH;
    let open = syscall(libc::SYS_open, c"/proc/self/exe".as_ptr() as usize, PATH, 0, 0, 0);
    let Ok(exe) = usize::try_from(open) else { return };
    let empty = c"".as_ptr() as usize;
    let mut filesystem = MaybeUninit::<libc::statfs>::uninit();
    let found = syscall(libc::SYS_fstatfs, exe, filesystem.as_mut_ptr() as usize, 0, 0, 0);
    // f_flags, which libc keeps to itself, is the eleventh of statfs's words (statfs(2)).
    let flags = filesystem.as_ptr().cast::<libc::c_ulong>().wrapping_add(10);
    // SAFETY: the structure has fifteen words, and the call has filled them.
    if found == 0 && unsafe { ptr::read_volatile(flags) } & libc::ST_RDONLY == 0 {
        let clone = syscall(libc::SYS_open_tree, exe, empty, CLONE, 0, 0);
        if let Ok(tree) = usize::try_from(clone) {
            let attributes =
                libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
            let size = size_of::<libc::mount_attr>();
            if syscall(libc::SYS_mount_setattr, tree, empty, EMPTY_PATH, &raw const attributes as usize, size) == 0 {
                syscall(libc::SYS_execveat, tree, empty, arguments as usize, environment as usize, EMPTY_PATH);
            }
            syscall(libc::SYS_close, tree, 0, 0, 0, 0);
        }
    }
    syscall(libc::SYS_close, exe, 0, 0, 0, 0);
}
