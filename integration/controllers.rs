// SPDX-License-Identifier: Apache-2.0
//! The controllers of cgroup v2 at work: that a limit is in force and not only in its file (`limits.rs` reads those). They
//! need a machine with all of them on v2, as that of `vm/` is.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Bundle, Flavor, eventually, flavor, host};

macro_rules! requires {
    ($($controller:literal),*) => {
        $(
            if !host::is_v2() || host::hierarchy_of($controller).is_none() {
                crate::skip_expected!("{} is not on v2 here", $controller);
            }
        )*
    };
}

fn group(bundle: &Bundle) -> PathBuf {
    host::v2_root().unwrap().join(&bundle.id)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_string()
}

/// The number after `key` in a file of `key number` lines.
fn number(path: &Path, key: &str) -> u64 {
    let text = read(path);
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
        .unwrap_or_else(|| panic!("no {key} in {text}"))
}

fn with(resources: Value) -> Bundle {
    Bundle::new().set("/linux/resources", resources)
}

#[test]
fn the_memory_limit_kills_and_the_killer_is_named() {
    requires!("memory");
    let bundle = with(json!({"memory": {"limit": 16_777_216, "swap": 16_777_216}}));
    let out = bundle.try_run(["/probe", "allocate", "64"]);
    assert_eq!(out.code(), 137, "{out}");
    if flavor() == Flavor::Orlop {
        assert!(out.stderr.contains("killed by the OOM killer"), "{out}");
    }
    bundle.check_clean();
    // What fits is not killed.
    let out = with(json!({"memory": {"limit": 67_108_864}})).run(["/probe", "allocate", "16"]);
    assert_eq!(out.json()["allocated"], 16, "{out}");
}

#[test]
fn a_fork_bomb_is_held_by_the_pids_limit_and_can_be_removed() {
    requires!("pids");
    let bundle = with(json!({"pids": {"limit": 20}})).args(["/probe", "fork-bomb"]);
    bundle.create();
    bundle.start();
    let group = group(&bundle);
    eventually("forks are refused", || number(&group.join("pids.events"), "max") > 100);
    let peak = read(&group.join("pids.peak"));
    assert_eq!(peak, "20", "the limit was not reached, or exceeded");
    assert_eq!(bundle.state()["status"], "running");
    bundle.delete_force().ok();
    bundle.check_clean();
}

#[test]
fn without_a_pid_namespace_a_fork_bomb_can_be_removed_too() {
    requires!("pids");
    let bundle = with(json!({"pids": {"limit": 20}})).without_ns("pid").args(["/probe", "fork-bomb"]);
    bundle.create();
    bundle.start();
    let group = group(&bundle);
    eventually("forks are refused", || number(&group.join("pids.events"), "max") > 100);
    bundle.delete_force().ok();
    bundle.check_clean();
}

#[test]
fn forks_beyond_the_pids_limit_fail() {
    requires!("pids");
    let seen = with(json!({"pids": {"limit": 10}})).run(["/probe", "fork", "50"]).json();
    assert_eq!(seen["errno"], libc::EAGAIN, "{seen}");
    assert_eq!(seen["made"], 9, "{seen}");
}

/// The share of one processor that the group gets in some seconds.
fn share(group: &Path) -> f64 {
    let used = || number(&group.join("cpu.stat"), "usage_usec") as f64;
    let (before, start) = (used(), Instant::now());
    std::thread::sleep(Duration::from_secs(4));
    let (after, elapsed) = (used(), start.elapsed());
    (after - before) / elapsed.as_secs_f64() / 1e6
}

#[test]
fn the_cpu_quota_is_kept_within_a_tenth() {
    requires!("cpu");
    let bundle = with(json!({"cpu": {"quota": 20_000, "period": 100_000}})).args(["/probe", "burn"]);
    bundle.create();
    bundle.start();
    bundle.wait_printed(1);
    let group = group(&bundle);
    // A machine that is busy with something else may give less than the quota for a while, but never more.
    let shares: Vec<f64> = (0..5).map(|_| share(&group)).collect();
    assert!(shares.iter().all(|share| *share < 0.22), "of 0.2 processors: {shares:?}");
    assert!(shares.iter().any(|share| *share > 0.18), "of 0.2 processors: {shares:?}");
    assert!(number(&group.join("cpu.stat"), "nr_throttled") > 0);
    // The update is in force, too.
    if flavor() != Flavor::Crun {
        bundle.call(["update", "--cpu-quota", "40000", &bundle.id]).output().ok();
        let shares: Vec<f64> = (0..5).map(|_| share(&group)).collect();
        assert!(shares.iter().all(|share| *share < 0.44), "of 0.4 processors: {shares:?}");
        assert!(shares.iter().any(|share| *share > 0.36), "of 0.4 processors: {shares:?}");
    }
}

#[test]
fn the_processors_are_those_of_the_list() {
    requires!("cpuset");
    let bundle = with(json!({"cpu": {"cpus": "1"}})).args(["/probe", "wait"]);
    bundle.create();
    let status = fs::read_to_string(format!("/proc/{}/status", bundle.pid())).unwrap();
    assert!(status.contains("Cpus_allowed_list:\t1\n"), "{status}");
}

/// A directory on a disk, and the disk's number. (A partition has no limits of its own.)
fn on_disk() -> Option<(PathBuf, (u32, u32))> {
    ["/var/lib", "/root", "/srv"].iter().find_map(|dir| {
        let device = fs::metadata(dir).ok()?.dev();
        let disk = (libc::major(device), libc::minor(device));
        let whole = format!("/sys/dev/block/{}:{}/queue", disk.0, disk.1);
        Path::new(&whole).exists().then(|| (PathBuf::from(dir), disk))
    })
}

#[test]
fn the_rate_of_writes_to_a_disk_is_kept() {
    requires!("io");
    let Some((parent, (major, minor))) = on_disk() else { crate::skip_expected!("no file system on a whole disk") };
    let bundle =
        with(json!({"blockIO": {"throttleWriteBpsDevice": [{"major": major, "minor": minor, "rate": 1 << 20}]}}));
    let dir = parent.join(&bundle.id);
    fs::create_dir(&dir).unwrap();
    let bundle = bundle.mount("/mnt", "bind", dir.to_str().unwrap(), &["bind", "rw"]).args([
        "/probe",
        "write-direct",
        "/mnt/file",
        "4096",
        ",",
        "wait",
    ]);
    bundle.create();
    bundle.start();
    let seen = bundle.wait_printed(2);
    let counted = read(&group(&bundle).join("io.stat"));
    bundle.delete_force().ok();
    fs::remove_dir_all(&dir).unwrap();
    // The first blocks are free; a slow machine can only take longer.
    assert!(seen[0]["ms"].as_u64().is_some_and(|ms| ms > 2500), "4 MiB at 1 MiB/s: {seen:?}");
    let written = counted.split_whitespace().find_map(|word| word.strip_prefix("wbytes=")?.parse::<u64>().ok());
    assert!(written.is_some_and(|bytes| bytes >= 4 << 20), "{counted}");
}

#[test]
fn flags_of_update_set_what_they_name() {
    requires!("memory", "cpu", "pids", "cpuset");
    if flavor() == Flavor::Crun {
        crate::skip_expected!("crun differs: it has other flags");
    }
    let bundle = with(json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 20}})).args(["/probe", "wait"]);
    bundle.create();
    let update = |flags: &[&str]| {
        bundle.call(["update"].iter().chain(flags).copied().chain([bundle.id.as_str()])).output().ok();
    };
    update(&["--memory", "134217728", "--memory-reservation", "67108864", "--cpuset-cpus", "0"]);
    update(&["--cpu-quota", "50000"]);
    update(&["--cpu-period", "200000"]);
    update(&["--pids-limit", "30"]);
    let group = group(&bundle);
    for (file, expected) in [
        ("memory.max", "134217728"),
        ("memory.low", "67108864"),
        ("cpuset.cpus", "0"),
        ("cpu.max", "50000 200000"),
        ("pids.max", "30"),
    ] {
        assert_eq!(read(&group.join(file)), expected, "{file}");
    }
}

#[test]
fn a_limit_below_the_usage_is_refused_if_the_config_says_so() {
    requires!("memory");
    let bundle = with(json!({"memory": {"limit": 67_108_864, "checkBeforeUpdate": true}})).args(["/probe", "wait"]);
    bundle.create();
    bundle.start();
    bundle.wait_printed(1);
    let file = bundle.dir.join("update.json");
    fs::write(&file, json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}}).to_string()).unwrap();
    let out = bundle.call(["update", "--resources", file.to_str().unwrap(), &bundle.id]).output().fails();
    if flavor() == Flavor::Orlop {
        let out = out.fails_with(&["linux.resources.memory.limit", "4096"]);
        assert_eq!(out.code(), 1);
    }
    assert_eq!(read(&group(&bundle).join("memory.max")), "67108864");
    assert_eq!(bundle.state()["status"], "running");
}

#[test]
fn a_controller_that_the_parent_cannot_pass_on_is_named() {
    requires!("memory");
    // A group with processes of its own passes no controller on.
    let bundle = Bundle::new();
    let parent = group(&bundle);
    fs::create_dir(&parent).unwrap();
    let mut guest = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(parent.join("cgroup.procs"), guest.id().to_string()).unwrap();
    let path = format!("/{}/leaf", bundle.id);
    let bundle =
        bundle.set("/linux/cgroupsPath", path).set("/linux/resources", json!({"memory": {"limit": 67_108_864}}));
    let out = bundle.try_run(["/probe"]);
    let left = parent.join("leaf").exists();
    drop(guest.kill());
    drop(guest.wait());
    // runc leaves its group.
    drop(fs::remove_dir(parent.join("leaf")));
    fs::remove_dir(&parent).unwrap();
    let out = out.fails();
    if flavor() == Flavor::Orlop {
        out.fails_with(&["linux.resources.memory", "memory"]);
        assert!(!left, "a group is left");
    }
}

#[test]
fn a_pod_s_groups_are_kept_and_its_limits_hold() {
    requires!("memory", "pids");
    // As the kubelet does with its cgroupfs driver: the pod's group is its own, with limits, and only the leaf the runtime's.
    let bundle = Bundle::new();
    let top = group(&bundle);
    let pod = top.join("burstable/pod1");
    fs::create_dir_all(&pod).unwrap();
    let root = host::v2_root().unwrap();
    for dir in [root.as_path(), top.as_path(), &top.join("burstable")] {
        fs::write(dir.join("cgroup.subtree_control"), "+memory +pids").unwrap();
    }
    fs::write(pod.join("memory.max"), "33554432").unwrap();
    fs::write(pod.join("memory.swap.max"), "0").unwrap();
    let path = format!("/{}/burstable/pod1/leaf", bundle.id);
    let bundle = bundle
        .set("/linux/cgroupsPath", path.clone())
        .set("/linux/resources", json!({"pids": {"limit": 50}, "memory": {"limit": 134_217_728}}))
        .args(["/probe", "allocate", "64"]);
    bundle.create();
    let table = fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).unwrap();
    assert!(table.lines().any(|line| line == format!("0::{path}")), "{table}");
    assert_eq!(read(&pod.join("leaf/memory.max")), "134217728");
    assert_eq!(read(&pod.join("leaf/pids.max")), "50");
    bundle.start();
    bundle.wait_stopped();
    // The pod's limit is below the container's own.
    assert_eq!(number(&pod.join("memory.events"), "oom_kill"), 1);
    assert_eq!(read(&pod.join("memory.max")), "33554432");
    bundle.delete().ok();
    assert!(!pod.join("leaf").exists() && pod.exists());
    for dir in [pod.as_path(), &top.join("burstable"), top.as_path()] {
        fs::remove_dir(dir).unwrap();
    }
}
