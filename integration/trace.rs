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

#[test]
fn w1_init_names_nothing_of_proc() {
    orlop_only!("is built so");
    let bundle = rich().set("/linux/sysctl", serde_json::json!({"kernel.msgmax": "4444"}));
    let lines = traced!(&bundle);
    let exec = lines.iter().position(|l| call(l).starts_with("execve(\"/probe\"")).expect("the exec of the program");
    let child = lines[exec].split(' ').next().unwrap();
    let naming: Vec<_> = lines[..exec]
        .iter()
        .filter(|l| l.split(' ').next() == Some(child) && l.contains("\"/proc"))
        // Paths of the container, looked up in its root, and what the links of /dev say.
        .filter(|l| !call(l).starts_with("symlinkat(") && !l.contains("RESOLVE_IN_ROOT"))
        .collect();
    assert!(naming.is_empty(), "{naming:#?}");
}

/// Where the sources may have a path of /proc in a string, and why it is no way into a procfs of the container's making.
const OF_PROC: [(&str, &str); 20] = [
    ("src/kernel/procfs.rs", "the one handle"),
    ("src/sealed.rs", "the start of the program, before there is a container"),
    ("src/sys/entry.rs", "the same"),
    ("src/kernel/criu.rs", "the caller's own namespace, to come back to it"),
    ("src/kernel/systemd.rs", "whether systemd is of the caller's own user namespace, in the parent"),
    ("src/host.rs", "a message"),
    ("src/sys/clone.rs", "how many threads this process has; a wrong answer only refuses"),
    ("src/kernel/cgroup/layout.rs", "the caller's cgroups and mounts, in the parent before the clone"),
    ("src/kernel/namespace.rs", "the caller's own namespace, in the parent before the clone"),
    ("src/kernel/rootfs.rs", "the host's /proc, in the parent before the clone"),
    ("src/kernel/mount.rs", "a destination, and a message"),
    ("src/kernel/idmap.rs", "a message"),
    ("src/kernel/host_mounts.rs", "a message"),
    ("src/kernel/device.rs", "what the links of /dev say, and a path of the container"),
    ("src/kernel/program.rs", "orlop check, which makes no container"),
    ("src/kernel/audit/", "messages, and the caller's own namespaces"),
    ("src/process/", "messages; and the watcher, which looks at the host's /proc for a log line"),
    ("src/plan/", "destinations of mounts, as text"),
    ("src/policy/", "paths of configs, as text; and the policy's own file, before there is a container"),
    ("src/command/", "host-side commands: ps, spec, the caller's user namespace"),
];

#[test]
fn i3_the_sources_name_proc_only_where_it_is_the_host_s() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut todo = vec![root.join("src")];
    let (mut strays, mut used) = (Vec::new(), std::collections::BTreeSet::new());
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_string();
        let text = fs::read_to_string(&path).unwrap_or_default();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in code.lines().filter(|l| !l.trim_start().starts_with("//") && l.contains("/proc")) {
            // Not /process: a member of the config.
            if !line.replace("/process", "").contains("/proc") {
                continue;
            }
            match OF_PROC.iter().find(|(allowed, _)| name.starts_with(allowed)) {
                Some((allowed, _)) => drop(used.insert(*allowed)),
                None => strays.push(format!("{name}: {}", line.trim())),
            }
        }
    }
    assert!(strays.is_empty(), "procfs is reached through kernel::procfs::Proc: {strays:#?}");
    let idle: Vec<_> = OF_PROC.iter().filter(|(allowed, _)| !used.contains(allowed)).collect();
    assert!(idle.is_empty(), "not needed any more: {idle:?}");
}
