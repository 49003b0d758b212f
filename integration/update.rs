// SPDX-License-Identifier: Apache-2.0
//! `update`: by flags and by file, all or nothing, under the policy, and what `audit` and `exec` make of it. The fields
//! one by one are in `limits.rs`.

use std::fs::{self, File};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{Bundle, Flavor, Output, flavor, host};
use crate::{orlop_only, peer_differs};

macro_rules! requires_v1 {
    () => {
        if host::is_v2() || flavor() == Flavor::Crun {
            crate::skip_expected!("no v1 hierarchies in this layer");
        }
    };
}

fn created(resources: Value) -> Bundle {
    let bundle = Bundle::new().set("/linux/resources", resources).args(["/probe", "wait"]);
    bundle.create();
    bundle
}

fn update(bundle: &Bundle, flags: &[&str]) -> Output {
    bundle.call(["update"].iter().chain(flags).copied().chain([bundle.id.as_str()])).output()
}

/// `--resources=-` as containerd's shim calls it.
fn update_by(bundle: &Bundle, resources: &Value) -> Output {
    let path = bundle.dir.join("update.json");
    fs::write(&path, resources.to_string()).unwrap();
    bundle.call(["update", "--resources=-", &bundle.id]).stdin(File::open(path).unwrap()).output()
}

fn read(bundle: &Bundle, controller: &str, file: &str) -> String {
    let (_, root) = host::v1_hierarchies().into_iter().find(|(name, _)| name == controller).unwrap();
    let path: PathBuf = root.join(&bundle.id).join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_string()
}

#[test]
fn flags_set_what_they_name_and_nothing_else() {
    requires_v1!();
    let bundle = created(json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 20}, "cpu": {"shares": 512}}));
    bundle.start();
    update(&bundle, &["--memory", "128M", "--memory-reservation", "64m", "--cpu-share=256", "--cpuset-cpus", "0"]).ok();
    update(&bundle, &["--cpu-quota", "50000"]).ok();
    update(&bundle, &["--cpu-period", "200000"]).ok();
    for (controller, file, expected) in [
        ("memory", "memory.limit_in_bytes", "134217728"),
        ("memory", "memory.soft_limit_in_bytes", "67108864"),
        ("cpu", "cpu.shares", "256"),
        ("cpuset", "cpuset.cpus", "0"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("cpu", "cpu.cfs_period_us", "200000"),
        ("pids", "pids.max", "20"),
    ] {
        assert_eq!(read(&bundle, controller, file), expected, "{file}");
    }
    update(&bundle, &["--pids-limit", "-1", "--memory", "-1", "--cpu-quota", "-1"]).ok();
    assert_eq!(read(&bundle, "pids", "pids.max"), "max");
    assert_eq!(read(&bundle, "cpu", "cpu.cfs_quota_us"), "-1");
    assert!(read(&bundle, "memory", "memory.limit_in_bytes").parse::<u64>().unwrap() > 1 << 60);
    if flavor() == Flavor::Orlop {
        bundle.command("audit").ok();
    }
}

#[test]
fn resources_come_from_a_file_or_from_stdin() {
    requires_v1!();
    let bundle = created(json!({"pids": {"limit": 20}}));
    update_by(&bundle, &json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 30}})).ok();
    assert_eq!(read(&bundle, "pids", "pids.max"), "30");
    let path = bundle.dir.join("file.json");
    fs::write(&path, json!({"pids": {"limit": 31}}).to_string()).unwrap();
    update(&bundle, &["-r", path.to_str().unwrap()]).ok();
    assert_eq!(read(&bundle, "pids", "pids.max"), "31");
    assert_eq!(read(&bundle, "memory", "memory.limit_in_bytes"), "67108864");
    let out = bundle.call(["update", "--resources", "/nowhere", &bundle.id]).output().fails();
    assert!(out.stderr.contains("/nowhere"), "{out}");
}

#[test]
fn an_update_happens_as_a_whole_or_not_at_all() {
    requires_v1!();
    let bundle = created(json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 20}}));
    let before = |file: &str| read(&bundle, "memory", file);
    let (limit, soft) = (before("memory.limit_in_bytes"), before("memory.soft_limit_in_bytes"));
    // The last part is impossible.
    let impossible = ["--memory", "128M", "--memory-reservation", "64M", "--pids-limit", "30", "--cpuset-cpus", "4000"];
    update(&bundle, &impossible).fails_with(&["cpuset.cpus"]);
    assert_eq!(read(&bundle, "pids", "pids.max"), "20");
    assert_eq!((before("memory.limit_in_bytes"), before("memory.soft_limit_in_bytes")), (limit, soft));
    if flavor() == Flavor::Orlop {
        bundle.command("audit").ok();
        // Nor is it kept: the next update does not bring it back.
        update(&bundle, &["--pids-limit", "21"]).ok();
        assert_eq!(before("memory.limit_in_bytes"), "67108864");
        bundle.command("audit").ok();
    }
}

#[test]
fn a_limit_below_the_usage_is_refused_with_both_numbers() {
    requires_v1!();
    let bundle = created(json!({}));
    bundle.start();
    bundle.wait_printed(1);
    update(&bundle, &["--memory", "4096"]).fails_with(&["unable to set memory limit to 4096", "current usage: "]);
    if flavor() == Flavor::Orlop {
        // On v2, where the kernel would not refuse, this is what does.
        update_by(&bundle, &json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}}))
            .fails_with(&["linux.resources.memory.limit: 4096 bytes are fewer than", "uses now"]);
    }
    assert_eq!(bundle.state()["status"], "running");
}

#[test]
fn what_is_no_limit_is_refused_by_name() {
    orlop_only!("names the flag or the JSON path in these words");
    requires_v1!();
    let bundle = created(json!({"pids": {"limit": 20}}));
    for (flags, words) in [
        (&["--memory", "12Q"][..], &["invalid value for memory", "12Q"][..]),
        (&["--memory", "64M", "--memory-swap", "32M"], &["linux.resources.memory.swap"]),
        (&["--blkio-weight", "5"], &["linux.resources.blockIO.weight", "10 to 1000"]),
        (&["--cpu-idle", "3"], &["cpu-idle"]),
        (&["--l3-cache-schema", "L3:0=f"], &["--l3-cache-schema", "Intel RDT"]),
        (&["--mem-bw-schema", "MB:0=50"], &["--mem-bw-schema", "Intel RDT"]),
        (&["--cpu-share", "many"], &["--cpu-share"]),
        (&["--memory", "1M", "--resources", "-"], &["--resources"]),
    ] {
        update(&bundle, flags).fails_with(words);
    }
    for (resources, words) in [
        (json!({"memory": {"limit": "64M"}}), &["invalid type"][..]),
        (json!({"unified": {"memory.high": "1"}}), &["linux.resources.unified", "cgroup v1"]),
        (json!({"rdma": {"mlx5": {"hcaHandles": 1}}}), &["linux.resources.rdma.mlx5", "rdma"]),
        (json!([]), &["no object"]),
    ] {
        update_by(&bundle, &resources).fails_with(words);
    }
    let out = update(&bundle, &["--kernel-memory", "64M"]).ok();
    assert!(out.stderr.contains("--kernel-memory is ignored"), "{out}");
    assert_eq!(read(&bundle, "pids", "pids.max"), "20");
    bundle.command("audit").ok();
}

#[test]
fn only_a_container_that_has_not_stopped_is_updated() {
    peer_differs!("crun", "1.8 says which file is not there");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    update(&bundle, &["--pids-limit", "5"]).fails_with(&["does not exist"]);
    bundle.create();
    bundle.start();
    bundle.kill("KILL").ok();
    bundle.wait_stopped();
    update(&bundle, &["--pids-limit", "5"]).fails_with(&["container not running"]);
}

#[test]
fn a_paused_container_is_updated_and_stays_paused() {
    requires_v1!();
    let bundle = created(json!({}));
    bundle.command("pause").ok();
    update(&bundle, &["--pids-limit", "44"]).ok();
    assert_eq!(read(&bundle, "pids", "pids.max"), "44");
    assert_eq!(bundle.state()["status"], "paused");
}

fn opens(bundle: &Bundle, minor: u32) -> Value {
    let out = bundle.call(["exec", &bundle.id, "/probe", "open", &format!("/tmp/{minor}"), "r"]).output();
    out.json()["errno"].clone()
}

/// No driver has these numbers: the rules decide first (EPERM), then the driver is missed (ENXIO).
#[test]
fn device_rules_are_replaced_while_the_container_runs() {
    orlop_only!("replaces device rules");
    let rules = |minors: &[u32]| {
        let allow = |minor: &u32| json!({"allow": true, "type": "c", "major": 77, "minor": minor, "access": "r"});
        let all: Vec<Value> = std::iter::once(json!({"allow": false})).chain(minors.iter().map(allow)).collect();
        json!({"devices": all})
    };
    for bundle in [Bundle::new(), Bundle::v2()] {
        let bundle = ["bounding", "permitted", "effective"]
            .iter()
            .fold(bundle, |b, set| b.push(&format!("/process/capabilities/{set}"), "CAP_MKNOD"));
        let bundle = bundle.set("/linux/resources", rules(&[1, 2])).args([
            "/probe", "mknod", "/tmp/1", "c", "77", "1", ",", "mknod", "/tmp/2", "c", "77", "2", ",", "mknod",
            "/tmp/3", "c", "77", "3", ",", "wait",
        ]);
        bundle.create();
        bundle.start();
        bundle.wait_printed(4);
        assert_eq!([opens(&bundle, 1), opens(&bundle, 2), opens(&bundle, 3)], [libc::ENXIO, libc::ENXIO, libc::EPERM]);
        update_by(&bundle, &rules(&[2, 3])).ok();
        assert_eq!([opens(&bundle, 1), opens(&bundle, 2), opens(&bundle, 3)], [libc::EPERM, libc::ENXIO, libc::ENXIO]);
        bundle.command("audit").ok();
        // Everything, and back.
        update_by(&bundle, &json!({"devices": [{"allow": true, "access": "rwm"}]})).ok();
        assert_eq!([opens(&bundle, 1), opens(&bundle, 3)], [libc::ENXIO, libc::ENXIO]);
        bundle.command("audit").ok();
        update_by(&bundle, &rules(&[1])).ok();
        assert_eq!([opens(&bundle, 1), opens(&bundle, 3)], [libc::ENXIO, libc::EPERM]);
        bundle.command("audit").ok();
        // The list of the config, as containerd sends it with every update, takes nothing away that a hook let in.
        if bundle.layer != crate::harness::Layer::V2 && !host::is_v2() {
            let (_, root) = host::v1_hierarchies().into_iter().find(|(name, _)| name == "devices").unwrap();
            fs::write(root.join(&bundle.id).join("devices.allow"), "c 77:3 r").unwrap();
            update_by(&bundle, &rules(&[1])).ok();
            assert_eq!(opens(&bundle, 3), libc::ENXIO);
        }
    }
}

#[test]
fn the_policy_refuses_or_clamps_and_is_told_of() {
    orlop_only!("has a policy");
    requires_v1!();
    for (mode, refused) in [("reject", true), ("clamp", false)] {
        let bundle = Bundle::new().set("/linux/resources", json!({"pids": {"limit": 20}})).args(["/probe", "wait"]);
        let (policy, audit) = (bundle.dir.join("policy.toml"), bundle.dir.join("audit.jsonl"));
        let text = format!(
            "version = 1\n[cgroups]\nceilings = {{ pids = 100, memory = \"64M\" }}\non_excess = \"{mode}\"\n[audit]\nfile = {audit:?}\n"
        );
        fs::write(&policy, text).unwrap();
        bundle.write_config();
        let (dir, pid) = (bundle.dir.to_str().unwrap(), bundle.pid_file());
        let create = ["create", "--bundle", dir, "--pid-file", pid.to_str().unwrap(), &bundle.id];
        bundle.call(["--policy", policy.to_str().unwrap()].into_iter().chain(create)).output().ok();
        update(&bundle, &["--pids-limit", "50"]).ok();
        assert_eq!(read(&bundle, "pids", "pids.max"), "50");
        let out = update(&bundle, &["--pids-limit", "500"]);
        if refused {
            out.fails_with(&["refused by the policy", "linux.resources.pids.limit", "500", "policy.toml:3"]);
        } else {
            out.ok();
        }
        assert_eq!(read(&bundle, "pids", "pids.max"), if refused { "50" } else { "100" });
        let lines = fs::read_to_string(&audit).unwrap();
        let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
        assert_eq!((&last["event"], &last["id"]), (&json!("update"), &json!(bundle.id)), "{lines}");
        assert_eq!(last["outcome"], if refused { "refused" } else { "clamped" }, "{lines}");
        // The record goes with the config: exec still finds the one that was allowed.
        bundle.start();
        bundle.call(["exec", &bundle.id, "/probe", "echo", "x"]).output().ok();
        bundle.command("audit").ok();
        // And what was changed behind the policy's back is not updated either.
        let config = bundle.state_root().join(&bundle.id).join("config.json");
        let mut bytes = fs::read(&config).unwrap();
        bytes.push(b' ');
        fs::write(&config, bytes).unwrap();
        update(&bundle, &["--pids-limit", "40"]).fails_with(&["digest"]);
    }
}

#[test]
fn v2_files_by_name_are_updated() {
    orlop_only!("names what this layer lacks");
    let bundle = Bundle::v2().args(["/probe", "wait"]);
    bundle.create();
    let path = host::v2_root().unwrap().join(&bundle.id);
    let read = |file: &str| fs::read_to_string(path.join(file)).unwrap().trim().to_string();
    update_by(&bundle, &json!({"unified": {"cgroup.max.depth": "7", "cgroup.max.descendants": "9"}})).ok();
    assert_eq!((read("cgroup.max.depth"), read("cgroup.max.descendants")), ("7".into(), "9".into()));
    update_by(&bundle, &json!({"unified": {"cgroup.max.depth": "8", "cgroup.nothing": "1"}}))
        .fails_with(&["linux.resources.unified.cgroup.nothing"]);
    assert_eq!(read("cgroup.max.depth"), "7");
    bundle.command("audit").ok();
    for bad in ["cgroup.procs", "../x", "memory", "misc.max"] {
        update_by(&bundle, &json!({"unified": {bad: "1"}})).fails_with(&["linux.resources.unified"]);
    }
}
