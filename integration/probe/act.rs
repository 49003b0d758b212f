// SPDX-License-Identifier: Apache-2.0
//! Commands that make system calls, wait, fork, die, or record how they were called.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use serde_json::{Value, json};

use crate::{report, say};

/// Runs a command of this module.
pub fn run(words: &[&str]) -> Value {
    match words {
        ["syscall", nr, args @ ..] => syscall(nr, args),
        ["syscall32", nr, args @ ..] => syscall32(nr, args),
        ["echo", rest @ ..] => json!({"echo": rest}),
        ["stderr", text] => {
            drop(writeln!(std::io::stderr(), "{text}"));
            json!({"ok": true})
        }
        ["stdin"] => {
            let mut text = String::new();
            match std::io::stdin().read_to_string(&mut text) {
                Ok(_) => json!({"content": text}),
                Err(e) => failed(&e),
            }
        }
        // Prints first, so that the test knows that the program runs.
        ["wait"] => {
            say(&json!({"ready": true}));
            loop {
                // SAFETY: no arguments.
                unsafe { libc::pause() };
            }
        }
        // Counts up in a file for ever.
        ["count", path] => {
            for i in 1u64.. {
                // Always as long: criu refuses a file of another size than it was dumped with.
                let mut file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path).unwrap();
                file.write_all(format!("{i:020}").as_bytes()).unwrap();
                drop(file);
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            json!(null)
        }
        // Says every line of its input again.
        ["repeat"] => {
            say(&json!({"ready": true}));
            for line in std::io::stdin().lines().map_while(Result::ok) {
                say(&json!({"line": line}));
            }
            json!({"ended": true})
        }
        ["spin"] => loop {
            std::hint::spin_loop();
        },
        ["sleep", seconds] => {
            std::thread::sleep(std::time::Duration::from_secs(seconds.parse().unwrap()));
            json!({"ok": true})
        }
        ["catch"] => catch(),
        ["exit", code] => std::process::exit(code.parse().unwrap()),
        ["signal", number] => {
            // SAFETY: no pointers.
            unsafe { outcome(i64::from(libc::kill(libc::getpid(), number.parse().unwrap()))) }
        }
        // A process that is init of its pid namespace cannot die of its own signals: a child has to.
        ["child-signal", number] => child_signal(number.parse().unwrap()),
        ["fork", count] => fork(count.parse().unwrap()),
        // sd_notify(3).
        ["notify", text] => {
            let sent = std::os::unix::net::UnixDatagram::unbound()
                .and_then(|socket| socket.send_to(text.as_bytes(), std::env::var("NOTIFY_SOCKET").unwrap_or_default()));
            match sent {
                Ok(_) => json!({"ok": true}),
                Err(e) => failed(&e),
            }
        }
        ["fork-bomb"] => fork_bomb(),
        ["burn"] => {
            say(&json!({"ready": true}));
            #[allow(clippy::empty_loop, reason = "the processor's time is what is measured")]
            loop {}
        }
        ["write-direct", path, kilobytes] => match write_direct(path, kilobytes.parse().unwrap()) {
            Ok(elapsed) => json!({"ok": true, "ms": elapsed.as_millis()}),
            Err(e) => failed(&e),
        },
        ["setuid", uid] => {
            // SAFETY: no pointers.
            outcome(i64::from(unsafe { libc::setuid(uid.parse().unwrap()) }))
        }
        ["unshare", flags] => {
            // SAFETY: no pointers.
            outcome(i64::from(unsafe { libc::unshare(flags.parse().unwrap()) }))
        }
        ["allocate", megabytes] => allocate(megabytes.parse().unwrap()),
        ["exec", path, args @ ..] => failed(&Command::new(path).args(args).exec()),
        ["keyring"] => keyring(),
        ["hook", path, rest @ ..] => hook(path, rest),
        ["send-fds"] | [] => json!({"error": "not a command"}),
        other => panic!("probe: unknown command {other:?}"),
    }
}

/// The outcome of a system call that gives -1 and errno.
pub fn outcome(result: i64) -> Value {
    if result == -1 { failed(&std::io::Error::last_os_error()) } else { json!({"ok": true, "ret": result}) }
}

pub fn done(result: std::io::Result<()>) -> Value {
    match result {
        Ok(()) => json!({"ok": true}),
        Err(e) => failed(&e),
    }
}

pub fn failed(e: &std::io::Error) -> Value {
    json!({"errno": e.raw_os_error(), "error": e.to_string()})
}

fn numbers(args: &[&str]) -> [u64; 6] {
    let mut all = [0; 6];
    for (place, arg) in all.iter_mut().zip(args) {
        *place = arg.strip_prefix("0x").map_or_else(|| arg.parse(), |hex| u64::from_str_radix(hex, 16)).unwrap();
    }
    all
}

/// A raw system call: the kernel's own return value, without libc's errno.
fn syscall(nr: &str, args: &[&str]) -> Value {
    let (nr, [a, b, c, d, e, f]) = (numbers(&[nr])[0], numbers(args));
    let result: i64;
    // SAFETY: the tests pass calls that do not write to memory, or pass pointers that the kernel refuses.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") nr => result, in("rdi") a, in("rsi") b, in("rdx") c,
            in("r10") d, in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    raw(result)
}

/// The same through the 32-bit entry, which seccomp sees as another architecture.
fn syscall32(nr: &str, args: &[&str]) -> Value {
    let (nr, [a, b, c, d, e, _]) = (numbers(&[nr])[0], numbers(args));
    let result: u64;
    // SAFETY: as above. rbx belongs to LLVM, so it is swapped in and out.
    unsafe {
        std::arch::asm!("xchg rbx, {a}", "int 0x80", "xchg rbx, {a}", a = inout(reg) a => _,
            inlateout("rax") nr => result, in("rcx") b, in("rdx") c, in("rsi") d, in("rdi") e,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _);
    }
    raw(i64::from(result as u32 as i32))
}

fn raw(result: i64) -> Value {
    if (-4095..0).contains(&result) { json!({"errno": -result}) } else { json!({"ok": true, "ret": result}) }
}

/// Blocks every signal, says so, and prints the one that arrives.
fn catch() -> Value {
    // SAFETY: a sigset that sigfillset initialises, and a place for the answer.
    let (mut all, mut caught) = unsafe { (std::mem::zeroed::<libc::sigset_t>(), 0) };
    // SAFETY: as above.
    unsafe {
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
    say(&json!({"ready": true}));
    loop {
        // SAFETY: as above.
        unsafe { libc::sigwait(&raw const all, &raw mut caught) };
        // Noise of job control and of a Go parent is not what a test sends.
        if ![libc::SIGCHLD, libc::SIGCONT, libc::SIGURG].contains(&caught) {
            return json!({"signal": caught});
        }
    }
}

fn child_signal(number: i32) -> Value {
    // SAFETY: one thread; the child only kills itself.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::kill(libc::getpid(), number);
            libc::_exit(0);
        }
        let mut status = 0;
        libc::waitpid(child, &raw mut status, 0);
        json!({"signaled": libc::WIFSIGNALED(status), "signal": libc::WTERMSIG(status)})
    }
}

/// Forks up to `count` children that pause; prints how many there were and the error that ended it.
fn fork(count: u32) -> Value {
    let mut made = 0;
    for _ in 0..count {
        // SAFETY: one thread; the child only pauses.
        match unsafe { libc::fork() } {
            -1 => return json!({"made": made, "errno": std::io::Error::last_os_error().raw_os_error()}),
            0 => loop {
                // SAFETY: no arguments.
                unsafe { libc::pause() };
            },
            _ => made += 1,
        }
    }
    json!({"made": made})
}

/// Every process that there is forks for ever.
fn fork_bomb() -> ! {
    loop {
        // SAFETY: one thread; parent and child do the same.
        unsafe { libc::fork() };
    }
}

/// Writes to a disk past the page cache, 64 KiB at a time, and returns how long it took.
fn write_direct(path: &str, kilobytes: usize) -> std::io::Result<std::time::Duration> {
    use std::os::unix::fs::OpenOptionsExt as _;
    const BLOCK: usize = 64 << 10;
    let mut file = fs::OpenOptions::new().write(true).create(true).custom_flags(libc::O_DIRECT).open(path)?;
    let buffer = vec![1u8; BLOCK + 4096];
    // The kernel wants an address that is aligned to a sector.
    let block = &buffer[buffer.as_ptr().align_offset(4096)..][..BLOCK];
    let start = std::time::Instant::now();
    for _ in 0..(kilobytes << 10).div_ceil(BLOCK) {
        file.write_all(block)?;
    }
    Ok(start.elapsed())
}

fn allocate(megabytes: usize) -> Value {
    let block = vec![1u8; megabytes << 20];
    json!({"allocated": block.iter().step_by(4096).map(|b| usize::from(*b)).sum::<usize>() >> 8})
}

/// The name and the serial number of the session keyring.
fn keyring() -> Value {
    let mut buffer = [0u8; 256];
    // SAFETY: the kernel writes at most the given length.
    let length = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            6,  /* KEYCTL_DESCRIBE */
            -3, /* session */
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    };
    if length < 0 {
        return outcome(-1);
    }
    let text = String::from_utf8_lossy(&buffer[..length as usize]).trim_end_matches('\0').to_string();
    // SAFETY: no pointers.
    let serial = unsafe {
        libc::syscall(libc::SYS_keyctl, 0 /* KEYCTL_GET_KEYRING_ID */, -3, 0)
    };
    json!({"keyring": text.rsplit(';').next(), "serial": serial})
}

/// Appends a record of how a hook was called to the file `path`; then does what the remaining words say.
fn hook(path: &str, rest: &[&str]) -> Value {
    let mut stdin = String::new();
    drop(std::io::stdin().read_to_string(&mut stdin));
    let seen = report::all();
    let record = json!({
        "stdin": serde_json::from_str::<Value>(&stdin).unwrap_or(json!(stdin)),
        "env": seen["env"], "args": seen["args"], "ns": seen["ns"], "cwd": seen["cwd"], "fds": seen["fds"],
        "hostname": seen["hostname"], "root": report::directory("/"), "caps": seen["caps"],
        "seccomp": seen["seccomp"], "pgid_is_own": seen["pgid"] == seen["pid"],
    });
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).expect("the hook's record");
    file.write_all(format!("{record}\n").as_bytes()).unwrap();
    match rest {
        ["fail", message] => {
            eprintln!("{message}");
            std::process::exit(3)
        }
        ["hang"] => loop {
            // SAFETY: no arguments.
            unsafe { libc::pause() };
        },
        _ => std::process::exit(0),
    }
}
