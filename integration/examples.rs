// SPDX-License-Identifier: Apache-2.0
//! The examples run, and print what their READMEs promise.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::harness::{Bundle, Flavor, Output, flavor, runtime};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// One root filesystem of busybox, made as the examples make it, or why there is none.
pub fn busybox() -> &'static Result<PathBuf, String> {
    static ROOTFS: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    ROOTFS.get_or_init(|| {
        let dir = runtime::base().join("busybox");
        let out = Command::new(examples().join("make-rootfs")).arg(&dir).output().map_err(|e| e.to_string())?;
        if out.status.success() { Ok(dir) } else { Err(String::from_utf8_lossy(&out.stderr).into_owned()) }
    })
}

/// A copy of directories and links, with the programs themselves shared.
pub fn copy(rootfs: &Path, bundle: &Bundle) {
    let copy =
        Command::new("cp").args(["-a", "-l"]).arg(format!("{}/.", rootfs.display())).arg(bundle.rootfs()).output();
    assert!(copy.unwrap().status.success());
}

/// Runs an example as it is, on busybox.
fn run(name: &str) -> Option<(Bundle, Output)> {
    let rootfs = busybox().as_ref().ok()?;
    let text = fs::read_to_string(examples().join(name).join("config.json")).unwrap();
    let bundle = Bundle::new().with_config(&text);
    copy(rootfs, &bundle);
    // crun 1.8 knows no version after 1.0.
    let bundle = if flavor() == Flavor::Crun { bundle.set("/ociVersion", "1.0.2") } else { bundle };
    let out = bundle.call_new("run", &[]).output().ok();
    Some((bundle, out))
}

macro_rules! example {
    ($name:literal) => {
        match run($name) {
            Some(result) => result,
            None => crate::skip!("no busybox: {:?}", busybox()),
        }
    };
}

#[track_caller]
fn prints(out: &Output, lines: &[&str]) {
    for line in lines {
        assert!(out.stdout.lines().any(|l| l.trim() == *line), "no line {line:?}: {out}");
    }
}

#[test]
fn hello() {
    let (_bundle, out) = example!("hello");
    prints(
        &out,
        &[
            "Hello from inside. I am process 1 on host hello.",
            "CapEff: 00000000000004e1",
            "CapBnd: 00000000000004e1",
            "CapInh: 0000000000000000",
            "NoNewPrivs: 1",
            "Seccomp: 2",
            "0::/",
        ],
    );
    for kind in ["pid", "mnt", "uts", "ipc", "net", "cgroup"] {
        let own = crate::harness::own_ns(kind);
        assert!(!out.stdout.contains(&own), "{kind} is the caller's: {out}");
    }
}

#[test]
fn userns() {
    let (_bundle, out) = example!("userns");
    prints(
        &out,
        &[
            "uid inside: 0, mapped (inside outside count): 0 100000 65536",
            "a file of mine: owner 0:0",
            "a file of the host's root: owner 65534:65534",
            "mounting in my own mount namespace: allowed",
            "chroot: refused, CAP_SYS_CHROOT is not in the set",
            "mknod of a disk: refused, a mapped root never may",
        ],
    );
}

#[test]
fn seccomp() {
    let (_bundle, out) = example!("seccomp");
    prints(
        &out,
        &[
            "Seccomp: 2, filters: 1",
            "chmod 700 /tmp/d: allowed",
            "chmod 4755 /tmp/d: chmod: /tmp/d: Operation not permitted",
            "unshare -m true: unshare: unshare(0x20000): Operation not supported",
            "chroot / true: Bad system call",
        ],
    );
}

#[test]
fn hooks() {
    let (bundle, out) = example!("hooks");
    let log = fs::read_to_string(bundle.dir.join("hooks.log")).unwrap();
    let kinds: Vec<&str> = log.lines().map(|l| l.split(':').next().unwrap()).collect();
    assert_eq!(kinds, ["createRuntime", "createContainer", "poststart", "poststop"], "{log}");
    assert!(log.lines().all(|l| l.contains("GREETING=hello")), "{log}");
    assert!(out.stdout.contains("startContainer: "), "{out}");
    assert!(out.stdout.contains("GREETING=hello, on hooks"), "{out}");
}

/// The script of a CI user: two containers at once, steps, their output, and one that is killed when its time is over.
#[test]
fn ci() {
    crate::peer_differs!("crun", "1.8 cannot run its own spec here");
    let Ok(rootfs) = busybox() else {
        crate::skip!("no busybox: {:?}", busybox());
    };
    let bundle = Bundle::new();
    let out = runtime::Call::new(&examples().join("ci/ci"), &bundle.dir, bundle.layer)
        .env("ORLOP", runtime::program().to_str().unwrap())
        .env("ROOTFS", rootfs.to_str().unwrap())
        .env("JOB", &bundle.id)
        .env("ORLOP_IT", &bundle.id)
        .output();
    assert_eq!(out.code(), 1, "{out}");
    let expected = [
        "[test] building",
        "[test] tested",
        "[slow] begun",
        "test: passed",
        "slow: killed after 2 seconds",
        "1 of 2 jobs did not pass",
    ];
    prints(&out, &expected);
    let readme = fs::read_to_string(examples().join("ci/README.md")).unwrap();
    assert!(expected.iter().all(|line| readme.contains(line)), "the README promises something else");
    bundle.check_clean();
}

#[test]
fn every_example_has_a_readme_and_is_in_this_file() {
    let own = include_str!("examples.rs");
    for entry in fs::read_dir(examples()).unwrap().flatten().filter(|e| e.path().join("config.json").exists()) {
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(entry.path().join("README.md").exists(), "{name}");
        assert!(own.contains(&format!("example!(\"{name}\")")), "{name} is not run here");
    }
}
