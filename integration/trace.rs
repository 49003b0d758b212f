// SPDX-License-Identifier: Apache-2.0
//! W1: under strace, no path of the rootfs is touched by name after it was opened once, and nothing is changed by path
//! between the clone and the exec. It is the test of "there is no function that takes a path".

use std::fs;

use crate::harness::{Bundle, host, runtime};
use crate::orlop_only;

/// System calls that change something and take a path. With an absolute or a relative one they are a fault.
const BY_PATH: [&str; 12] = [
    "mount(", "mkdir(", "mknod(", "symlink(", "chmod(", "chown(", "lchown(", "link(", "rename(", "rmdir(", "unlink(",
    "creat(",
];

/// The trace of a create, start and delete, one system call a line, or None without strace.
fn trace(bundle: &Bundle) -> Option<Vec<String>> {
    let strace = host::find_program("strace")?;
    bundle.write_config();
    let log = bundle.dir.join("trace");
    let (root, dir) = (bundle.state_root(), bundle.dir.to_str().unwrap());
    let out = runtime::Call::new(&strace, &bundle.dir, bundle.layer)
        .env("ORLOP_IT", &bundle.id)
        .args(["-f", "-s", "300", "-o", log.to_str().unwrap()])
        .args([runtime::program().to_str().unwrap(), "--root", root.to_str().unwrap()])
        .args(["run", "--bundle", dir, &bundle.id])
        .output();
    assert!(out.status.success(), "{out}");
    Some(fs::read_to_string(&log).unwrap().lines().map(String::from).collect())
}

/// The line without its pid.
fn call(line: &str) -> &str {
    line.split_once(' ').map_or(line, |(_, call)| call.trim_start())
}

macro_rules! traced {
    ($bundle:expr) => {
        match trace($bundle) {
            Some(lines) => lines,
            None => crate::skip!("strace is not installed"),
        }
    };
}

/// A bundle with something of each kind.
fn rich() -> Bundle {
    let config = include_str!("bundles/docker.json");
    let bundle = Bundle::new().with_config(config);
    bundle.args(["/probe", "echo", "x"]).set("/process/cwd", "/made/for/me").set("/root/readonly", false)
}

#[test]
fn w1_the_rootfs_is_opened_once_and_never_named_again() {
    orlop_only!("is built so");
    let bundle = rich();
    let lines = traced!(&bundle);
    let rootfs = format!("\"{}", bundle.rootfs().display());
    let naming: Vec<&String> = lines
        .iter()
        .filter(|l| l.contains(&rootfs) && !call(l).starts_with("write") && !call(l).starts_with("execve"))
        .collect();
    let opens =
        |l: &&&String| ["open", "open_tree", "openat", "openat2"].iter().any(|c| call(l).starts_with(&format!("{c}(")));
    let others: Vec<_> = naming.iter().filter(|l| !opens(l)).collect();
    assert!(others.is_empty(), "{others:#?}");
    let below = format!("{rootfs}/");
    let deeper: Vec<_> = naming.iter().filter(|l| l.contains(&below)).collect();
    assert!(deeper.is_empty(), "{deeper:#?}");
}

#[test]
fn w1_nothing_is_changed_by_path_between_clone_and_exec() {
    orlop_only!("is built so");
    let bundle = rich();
    let lines = traced!(&bundle);
    // The child is the process whose second execve... it never re-executes: it is whoever runs the probe.
    let exec = lines.iter().position(|l| call(l).starts_with("execve(\"/probe\"")).expect("the exec of the program");
    let child = lines[exec].split(' ').next().unwrap();
    let by_path: Vec<_> = lines[..exec]
        .iter()
        .filter(|l| l.split(' ').next() == Some(child))
        .filter(|l| BY_PATH.iter().any(|c| call(l).starts_with(c)))
        // Changing the propagation of "/" and making "." the root take constants, not paths of the image.
        .filter(|l| !call(l).starts_with("mount(NULL, \"/\"") && !call(l).starts_with("mount(\"\", \"/\""))
        .collect();
    assert!(by_path.is_empty(), "{by_path:#?}");
    let at_cwd: Vec<_> = lines[..exec]
        .iter()
        .filter(|l| l.split(' ').next() == Some(child))
        .filter(|l| {
            ["mkdirat(", "mknodat(", "symlinkat(", "fchmodat(", "fchownat(", "unlinkat("]
                .iter()
                .any(|c| call(l).starts_with(c))
        })
        .filter(|l| call(l).contains("AT_FDCWD"))
        .collect();
    assert!(at_cwd.is_empty(), "{at_cwd:#?}");
}

#[test]
fn w1_the_last_calls_of_init_close_everything_and_execute() {
    orlop_only!("is built so");
    let bundle = rich();
    let lines = traced!(&bundle);
    let exec = lines.iter().position(|l| call(l).starts_with("execve(\"/probe\"")).expect("the exec of the program");
    let child = lines[exec].split(' ').next().unwrap();
    let own: Vec<&str> = lines[..exec].iter().filter(|l| l.split(' ').next() == Some(child)).map(|l| call(l)).collect();
    let last = &own[own.len().saturating_sub(2)..];
    assert!(own.iter().rev().take(3).any(|l| l.starts_with("close_range(")), "{last:#?}");
    assert!(last.iter().all(|l| ["close_range(", "seccomp("].iter().any(|c| l.starts_with(c))), "{last:#?}");
}

#[test]
fn w1_one_thread_only() {
    orlop_only!("is built so");
    let bundle = rich();
    let lines = traced!(&bundle);
    let threads: Vec<_> = lines.iter().filter(|l| l.contains("CLONE_THREAD")).collect();
    assert!(threads.is_empty(), "{threads:#?}");
}
