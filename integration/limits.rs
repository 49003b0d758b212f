// SPDX-License-Identifier: Apache-2.0
//! Every field of `linux.resources` on a real container: a row for each field and version of cgroups says what its file
//! reads after `create`, and after an `update`. A layer runs the rows of its version whose controller and file it has.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Bundle, Flavor, Layer, flavor, host};

/// One field: its controller, the resources at create and those of the update, and the words of a line of the file after
/// each.
struct Row {
    field: &'static str,
    controller: &'static str,
    /// The first of them that the kernel has.
    files: &'static [&'static str],
    created: (Value, &'static str),
    updated: (Value, &'static str),
    /// Whether Debian's runc and crun set and update it too.
    peers: bool,
}

fn row(
    field: &'static str,
    controller: &'static str,
    files: &'static [&'static str],
    created: (Value, &'static str),
    updated: (Value, &'static str),
) -> Row {
    Row { field, controller, files, created, updated, peers: false }
}

/// A row that the peers run too.
fn common(
    field: &'static str,
    controller: &'static str,
    files: &'static [&'static str],
    created: (Value, &'static str),
    updated: (Value, &'static str),
) -> Row {
    Row { peers: true, ..row(field, controller, files, created, updated) }
}

/// `DISK` stands for the number of a disk in expected text; `disk` is it. Kernels differ where it has a `|`.
fn v1_rows(disk: (u64, u64)) -> Vec<Row> {
    let rate = |field: &str, rate: u64| json!({"blockIO": {field: [{"major": disk.0, "minor": disk.1, "rate": rate}]}});
    let weight =
        |weight: u64| json!({"blockIO": {"weightDevice": [{"major": disk.0, "minor": disk.1, "weight": weight}]}});
    let huge = |limit: u64| json!({"hugepageLimits": [{"pageSize": "2MB", "limit": limit}]});
    let device = |minor: u64| json!({"devices": [{"allow": false}, {"allow": true, "type": "c", "major": 77, "minor": minor, "access": "r"}]});
    vec![
        common(
            "memory.limit",
            "memory",
            &["memory.limit_in_bytes"],
            (json!({"memory": {"limit": 67_108_864}}), "67108864"),
            (json!({"memory": {"limit": 134_217_728}}), "134217728"),
        ),
        common(
            "memory.swap",
            "memory",
            &["memory.memsw.limit_in_bytes"],
            (json!({"memory": {"limit": 67_108_864, "swap": 100_663_296}}), "100663296"),
            (json!({"memory": {"limit": 134_217_728, "swap": 201_326_592}}), "201326592"),
        ),
        common(
            "memory.swap lowered",
            "memory",
            &["memory.memsw.limit_in_bytes"],
            (json!({"memory": {"limit": 134_217_728, "swap": 201_326_592}}), "201326592"),
            (json!({"memory": {"limit": 67_108_864, "swap": 100_663_296}}), "100663296"),
        ),
        common(
            "memory.limit lifted",
            "memory",
            &["memory.memsw.limit_in_bytes"],
            (json!({"memory": {"limit": 67_108_864, "swap": 100_663_296}}), "100663296"),
            (json!({"memory": {"limit": -1}}), "9223372036854771712"),
        ),
        common(
            "memory.reservation",
            "memory",
            &["memory.soft_limit_in_bytes"],
            (json!({"memory": {"reservation": 33_554_432}}), "33554432"),
            (json!({"memory": {"reservation": 16_777_216}}), "16777216"),
        ),
        row(
            "memory.swappiness",
            "memory",
            &["memory.swappiness"],
            (json!({"memory": {"swappiness": 7}}), "7"),
            (json!({"memory": {"swappiness": 0}}), "0"),
        ),
        row(
            "memory.disableOOMKiller",
            "memory",
            &["memory.oom_control"],
            (json!({"memory": {"disableOOMKiller": true}}), "oom_kill_disable 1"),
            (json!({"memory": {"disableOOMKiller": false}}), "oom_kill_disable 0"),
        ),
        common(
            "cpu.shares",
            "cpu",
            &["cpu.shares"],
            (json!({"cpu": {"shares": 512}}), "512"),
            (json!({"cpu": {"shares": 2048}}), "2048"),
        ),
        common(
            "cpu.quota",
            "cpu",
            &["cpu.cfs_quota_us"],
            (json!({"cpu": {"quota": 50_000}}), "50000"),
            (json!({"cpu": {"quota": -1}}), "-1"),
        ),
        common(
            "cpu.period",
            "cpu",
            &["cpu.cfs_period_us"],
            (json!({"cpu": {"period": 200_000, "quota": 100_000}}), "200000"),
            (json!({"cpu": {"period": 300_000}}), "300000"),
        ),
        row(
            "cpu.burst",
            "cpu",
            &["cpu.cfs_burst_us"],
            (json!({"cpu": {"quota": 50_000, "burst": 20_000}}), "20000"),
            // The burst must not be more than the quota at any time.
            (json!({"cpu": {"quota": 10_000, "burst": 5_000}}), "5000"),
        ),
        row("cpu.idle", "cpu", &["cpu.idle"], (json!({"cpu": {"idle": 1}}), "1"), (json!({"cpu": {"idle": 0}}), "0")),
        row(
            "cpu.idle given up",
            "cpu",
            &["cpu.shares"],
            (json!({"cpu": {"idle": 1, "shares": 512}}), "3"),
            (json!({"cpu": {"idle": 0}}), "512"),
        ),
        row(
            "cpu.realtimePeriod",
            "cpu",
            &["cpu.rt_period_us"],
            (json!({"cpu": {"realtimePeriod": 500_000}}), "500000"),
            (json!({"cpu": {"realtimePeriod": 600_000}}), "600000"),
        ),
        row(
            "cpu.realtimeRuntime",
            "cpu",
            &["cpu.rt_runtime_us"],
            (json!({"cpu": {"realtimePeriod": 500_000, "realtimeRuntime": 1000}}), "1000"),
            (json!({"cpu": {"realtimeRuntime": 2000}}), "2000"),
        ),
        common(
            "cpu.cpus",
            "cpuset",
            &["cpuset.cpus"],
            (json!({"cpu": {"cpus": "0"}}), "0"),
            (json!({"cpu": {"cpus": "0-1"}}), "0-1"),
        ),
        common(
            "cpu.mems",
            "cpuset",
            &["cpuset.mems"],
            (json!({"cpu": {"mems": "0"}}), "0"),
            (json!({"cpu": {"mems": "0"}}), "0"),
        ),
        common(
            "pids.limit",
            "pids",
            &["pids.max"],
            (json!({"pids": {"limit": 33}}), "33"),
            (json!({"pids": {"limit": -1}}), "max"),
        ),
        row(
            "pids.limit 0",
            "pids",
            &["pids.max"],
            (json!({"pids": {"limit": 33}}), "33"),
            (json!({"pids": {"limit": 0}}), "1"),
        ),
        row("pids without a limit", "pids", &["pids.max"], (json!({"pids": {}}), "max"), (json!({"pids": {}}), "max")),
        common(
            "blockIO.weight",
            "blkio",
            &["blkio.weight", "blkio.bfq.weight"],
            (json!({"blockIO": {"weight": 500}}), "500"),
            (json!({"blockIO": {"weight": 700}}), "700"),
        ),
        row(
            "blockIO.leafWeight",
            "blkio",
            &["blkio.leaf_weight"],
            (json!({"blockIO": {"leafWeight": 500}}), "500"),
            (json!({"blockIO": {"leafWeight": 700}}), "700"),
        ),
        row(
            "blockIO.weightDevice",
            "blkio",
            &["blkio.weight_device", "blkio.bfq.weight_device"],
            (weight(500), "DISK 500"),
            (weight(700), "DISK 700"),
        ),
        row(
            "blockIO.throttleReadBpsDevice",
            "blkio",
            &["blkio.throttle.read_bps_device"],
            (rate("throttleReadBpsDevice", 1_000_000), "DISK 1000000"),
            (rate("throttleReadBpsDevice", 2_000_000), "DISK 2000000"),
        ),
        row(
            "blockIO.throttleWriteBpsDevice",
            "blkio",
            &["blkio.throttle.write_bps_device"],
            (rate("throttleWriteBpsDevice", 1_000_000), "DISK 1000000"),
            (rate("throttleWriteBpsDevice", 2_000_000), "DISK 2000000"),
        ),
        row(
            "blockIO.throttleReadIOPSDevice",
            "blkio",
            &["blkio.throttle.read_iops_device"],
            (rate("throttleReadIOPSDevice", 1000), "DISK 1000"),
            (rate("throttleReadIOPSDevice", 2000), "DISK 2000"),
        ),
        row(
            "blockIO.throttleWriteIOPSDevice",
            "blkio",
            &["blkio.throttle.write_iops_device"],
            (rate("throttleWriteIOPSDevice", 1000), "DISK 1000"),
            (rate("throttleWriteIOPSDevice", 2000), "DISK 2000"),
        ),
        row(
            "hugepageLimits",
            "hugetlb",
            &["hugetlb.2MB.limit_in_bytes"],
            (huge(4_194_304), "4194304"),
            (huge(2_097_152), "2097152"),
        ),
        row(
            "network.classID",
            "net_cls",
            &["net_cls.classid"],
            (json!({"network": {"classID": 1_048_577}}), "1048577"),
            (json!({"network": {"classID": 1_048_578}}), "1048578"),
        ),
        row(
            "network.priorities",
            "net_prio",
            &["net_prio.ifpriomap"],
            (json!({"network": {"priorities": [{"name": "lo", "priority": 5}]}}), "lo 5"),
            (json!({"network": {"priorities": [{"name": "lo", "priority": 6}]}}), "lo 6"),
        ),
        row("devices", "devices", &["devices.list"], (device(1), "c 77:1 r"), (device(2), "c 77:2 r")),
    ]
}

fn v2_rows(disk: (u64, u64)) -> Vec<Row> {
    let rate = |field: &str, rate: u64| json!({"blockIO": {field: [{"major": disk.0, "minor": disk.1, "rate": rate}]}});
    let weight =
        |weight: u64| json!({"blockIO": {"weightDevice": [{"major": disk.0, "minor": disk.1, "weight": weight}]}});
    let huge = |limit: u64| json!({"hugepageLimits": [{"pageSize": "2MB", "limit": limit}]});
    vec![
        common(
            "memory.limit",
            "memory",
            &["memory.max"],
            (json!({"memory": {"limit": 67_108_864}}), "67108864"),
            (json!({"memory": {"limit": 134_217_728}}), "134217728"),
        ),
        common(
            "memory.swap",
            "memory",
            &["memory.swap.max"],
            (json!({"memory": {"limit": 67_108_864, "swap": 100_663_296}}), "33554432"),
            (json!({"memory": {"limit": 134_217_728, "swap": 201_326_592}}), "67108864"),
        ),
        // runc keeps the sum, and refuses a limit above it.
        row(
            "memory.swap stays",
            "memory",
            &["memory.swap.max"],
            (json!({"memory": {"limit": 67_108_864, "swap": 100_663_296}}), "33554432"),
            (json!({"memory": {"limit": 134_217_728}}), "33554432"),
        ),
        common(
            "memory.limit lifted",
            "memory",
            &["memory.swap.max"],
            (json!({"memory": {"limit": 67_108_864, "swap": 67_108_864}}), "0"),
            (json!({"memory": {"limit": -1}}), "max"),
        ),
        common(
            "memory.reservation",
            "memory",
            &["memory.low"],
            (json!({"memory": {"reservation": 33_554_432}}), "33554432"),
            (json!({"memory": {"reservation": 16_777_216}}), "16777216"),
        ),
        row(
            "cpu.shares",
            "cpu",
            &["cpu.weight"],
            (json!({"cpu": {"shares": 512}}), "59"),
            (json!({"cpu": {"shares": 1024}}), "100"),
        ),
        common(
            "cpu.quota",
            "cpu",
            &["cpu.max"],
            (json!({"cpu": {"quota": 50_000}}), "50000 100000"),
            (json!({"cpu": {"quota": -1}}), "max 100000"),
        ),
        common(
            "cpu.period",
            "cpu",
            &["cpu.max"],
            (json!({"cpu": {"period": 200_000, "quota": 100_000}}), "100000 200000"),
            (json!({"cpu": {"period": 300_000}}), "100000 300000"),
        ),
        row(
            "cpu.burst",
            "cpu",
            &["cpu.max.burst"],
            (json!({"cpu": {"quota": 50_000, "burst": 20_000}}), "20000"),
            (json!({"cpu": {"quota": 10_000, "burst": 5_000}}), "5000"),
        ),
        row("cpu.idle", "cpu", &["cpu.idle"], (json!({"cpu": {"idle": 1}}), "1"), (json!({"cpu": {"idle": 0}}), "0")),
        row(
            "cpu.idle given up",
            "cpu",
            &["cpu.weight"],
            (json!({"cpu": {"idle": 1, "shares": 512}}), "0|1"),
            (json!({"cpu": {"idle": 0}}), "59"),
        ),
        common(
            "cpu.cpus",
            "cpuset",
            &["cpuset.cpus"],
            (json!({"cpu": {"cpus": "0"}}), "0"),
            (json!({"cpu": {"cpus": "0-1"}}), "0-1"),
        ),
        common(
            "cpu.mems",
            "cpuset",
            &["cpuset.mems"],
            (json!({"cpu": {"mems": "0"}}), "0"),
            (json!({"cpu": {"mems": "0"}}), "0"),
        ),
        common(
            "pids.limit",
            "pids",
            &["pids.max"],
            (json!({"pids": {"limit": 33}}), "33"),
            (json!({"pids": {"limit": -1}}), "max"),
        ),
        row(
            "pids.limit 0",
            "pids",
            &["pids.max"],
            (json!({"pids": {"limit": 33}}), "33"),
            (json!({"pids": {"limit": 0}}), "1"),
        ),
        row(
            "blockIO.weight of bfq",
            "io",
            &["io.bfq.weight"],
            (json!({"blockIO": {"weight": 500}}), "default 500"),
            (json!({"blockIO": {"weight": 700}}), "default 700"),
        ),
        row(
            "blockIO.weight without bfq",
            "io",
            &["io.weight"],
            (json!({"blockIO": {"weight": 500}}), "default 4950"),
            (json!({"blockIO": {"weight": 700}}), "default 6970"),
        ),
        row("blockIO.weightDevice", "io", &["io.bfq.weight", "io.weight"], (weight(10), "DISK"), (weight(700), "DISK")),
        row(
            "blockIO.throttleReadBpsDevice",
            "io",
            &["io.max"],
            (rate("throttleReadBpsDevice", 1_000_000), "DISK rbps=1000000"),
            (rate("throttleReadBpsDevice", 2_000_000), "DISK rbps=2000000"),
        ),
        row(
            "blockIO.throttleWriteBpsDevice",
            "io",
            &["io.max"],
            (rate("throttleWriteBpsDevice", 1_000_000), "DISK wbps=1000000"),
            (rate("throttleWriteBpsDevice", 2_000_000), "DISK wbps=2000000"),
        ),
        row(
            "blockIO.throttleReadIOPSDevice",
            "io",
            &["io.max"],
            (rate("throttleReadIOPSDevice", 1000), "DISK riops=1000"),
            (rate("throttleReadIOPSDevice", 2000), "DISK riops=2000"),
        ),
        row(
            "blockIO.throttleWriteIOPSDevice",
            "io",
            &["io.max"],
            (rate("throttleWriteIOPSDevice", 1000), "DISK wiops=1000"),
            (rate("throttleWriteIOPSDevice", 2000), "DISK wiops=2000"),
        ),
        row(
            "hugepageLimits",
            "hugetlb",
            &["hugetlb.2MB.max"],
            (huge(4_194_304), "4194304"),
            (huge(2_097_152), "2097152"),
        ),
        row(
            "hugepageLimits, reserved",
            "hugetlb",
            &["hugetlb.2MB.rsvd.max"],
            (huge(4_194_304), "4194304"),
            (huge(2_097_152), "2097152"),
        ),
        row(
            "unified",
            "hugetlb",
            &["hugetlb.2MB.max"],
            (json!({"unified": {"hugetlb.2MB.max": "4194304"}}), "4194304"),
            (json!({"unified": {"hugetlb.2MB.max": "max"}}), "max"),
        ),
        row(
            "unified, overruled",
            "hugetlb",
            &["hugetlb.2MB.max"],
            (json!({"unified": {"hugetlb.2MB.max": "4194304"}}), "4194304"),
            (huge(2_097_152), "2097152"),
        ),
        row(
            "unified memory.oom.group",
            "memory",
            &["memory.oom.group"],
            (json!({"unified": {"memory.oom.group": "1"}}), "1"),
            (json!({"unified": {"memory.oom.group": "0"}}), "0"),
        ),
        row(
            "unified memory.high",
            "memory",
            &["memory.high"],
            (json!({"unified": {"memory.high": "67108864"}}), "67108864"),
            (json!({"unified": {"memory.high": "134217728"}}), "134217728"),
        ),
        row(
            "unified cgroup.max.depth",
            "cgroup",
            &["cgroup.max.depth"],
            (json!({"unified": {"cgroup.max.depth": "3"}}), "3"),
            (json!({"unified": {"cgroup.max.depth": "5"}}), "5"),
        ),
    ]
}

/// A disk that is there.
fn disk() -> Option<(u64, u64)> {
    let number = |dir: PathBuf| {
        let sectors: u64 = fs::read_to_string(dir.join("size")).ok()?.trim().parse().ok()?;
        let text = fs::read_to_string(dir.join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        (sectors > 0).then_some((major.parse().ok()?, minor.parse().ok()?))
    };
    fs::read_dir("/sys/block").ok()?.flatten().find_map(|entry| number(entry.path()))
}

/// Only then does a weight for the disk count, and only then is it accepted.
fn is_scheduled_by_bfq(disk: &str) -> bool {
    let path = format!("/sys/dev/block/{disk}/queue/scheduler");
    fs::read_to_string(path).is_ok_and(|text| text.contains("[bfq]"))
}

/// Without the bfq scheduler it is the cost model that weights are for, which is off unless somebody turns it on.
fn has_cost_model(disk: &str) -> bool {
    let text = host::v2_root().and_then(|root| fs::read_to_string(root.join("io.cost.qos")).ok()).unwrap_or_default();
    text.lines().any(|line| line.starts_with(&format!("{disk} ")) && line.contains("enable=1"))
}

/// The files of a new cgroup in a hierarchy.
fn files_of(root: &Path, unified: bool, name: &str) -> Vec<String> {
    if unified {
        let all = fs::read_to_string(root.join("cgroup.controllers")).unwrap();
        for controller in all.split_whitespace() {
            // One that cannot be passed on has no files below.
            drop(fs::write(root.join("cgroup.subtree_control"), format!("+{controller}")));
        }
    }
    let dir = root.join(name);
    fs::create_dir(&dir).unwrap();
    let files = fs::read_dir(&dir).unwrap().flatten().map(|e| e.file_name().into_string().unwrap()).collect();
    fs::remove_dir(&dir).unwrap();
    files
}

fn has_line(text: &str, expected: &str) -> bool {
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.any(|words| expected.split(' ').all(|word| words.contains(&word)))
}

/// Runs the rows, and fails with all that differ.
fn check(layer: Layer, rows: &[Row], disk: (u64, u64)) {
    let unified = layer == Layer::V2 || host::is_v2();
    let hierarchy = |controller: &str| -> Option<PathBuf> {
        if unified {
            let root = host::v2_root()?;
            let all = fs::read_to_string(root.join("cgroup.controllers")).unwrap();
            return (controller == "cgroup" || all.split_whitespace().any(|c| c == controller)).then_some(root);
        }
        let (_, path) = host::v1_hierarchies().into_iter().find(|(name, _)| name == controller)?;
        Some(path)
    };
    let disk = format!("{}:{}", disk.0, disk.1);
    let (mut faults, mut left_out, mut checked) = (Vec::new(), Vec::new(), 0);
    for row in rows.iter().filter(|row| row.peers || flavor() == Flavor::Orlop) {
        let Some(root) = hierarchy(row.controller) else {
            left_out.push(format!("{}: this layer has no controller {}", row.field, row.controller));
            continue;
        };
        let mut bundle = Bundle::new().set("/linux/resources", row.created.0.clone()).args(["/probe", "wait"]);
        bundle.layer = layer;
        let here = files_of(&root, unified, &format!("{}-x", bundle.id));
        let Some(file) = row.files.iter().find(|file| here.iter().any(|name| name == *file)) else {
            left_out.push(format!("{}: this kernel has no {}", row.field, row.files.join(" or ")));
            continue;
        };
        let path = root.join(&bundle.id).join(file);
        if file.contains("bfq") && row.field.ends_with("weightDevice") && !is_scheduled_by_bfq(&disk) {
            left_out.push(format!("{}: no bfq scheduler for {disk}", row.field));
            continue;
        }
        if *file == "io.weight" && row.field.ends_with("weightDevice") && !has_cost_model(&disk) {
            left_out.push(format!("{}: no cost model for {disk}", row.field));
            continue;
        }
        if row.field.ends_with("without bfq") && here.iter().any(|name| name == "io.bfq.weight") {
            left_out.push(format!("{}: this kernel has bfq", row.field));
            continue;
        }
        let mut judge = |when: &str, expected: &str| {
            let text = fs::read_to_string(&path).unwrap();
            if !expected.split('|').any(|either| has_line(&text, &either.replace("DISK", &disk))) {
                faults.push(format!("{} {when}: {} reads {text:?}, not {expected:?}", row.field, path.display()));
            }
        };
        let created = bundle.try_create(&[]);
        if flavor() != Flavor::Orlop && !created.status.success() {
            left_out.push(format!("{}: {} differs: {}", row.field, flavor().name(), created.stderr.trim()));
            continue;
        }
        created.ok();
        judge("at create", row.created.1);
        checked += 1;
        let update = bundle.dir.join("update.json");
        fs::write(&update, row.updated.0.to_string()).unwrap();
        bundle.call(["update", "--resources", update.to_str().unwrap(), &bundle.id]).output().ok();
        judge("after the update", row.updated.1);
        if flavor() == Flavor::Orlop {
            let audit = bundle.command("audit");
            if !audit.status.success() {
                faults.push(format!("{}: {}", row.field, audit.stdout));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    if checked == 0 {
        crate::skip_expected!("{}", left_out.join("; "));
    }
    // Not eprint!, which libtest would capture and throw away.
    let text = left_out.iter().map(|reason| format!("left out: {reason}\n")).collect::<String>();
    drop(std::io::stderr().write_all(text.as_bytes()));
}

#[test]
fn every_field_of_v1_is_set_and_updated() {
    if host::is_v2() || flavor() == Flavor::Crun {
        crate::skip_expected!("no v1 hierarchies in this layer");
    }
    let Some(disk) = disk() else { crate::skip!("no disk in /sys/block") };
    check(Layer::Host, &v1_rows(disk), disk);
}

#[test]
fn every_field_of_v2_is_set_and_updated() {
    let Some(disk) = disk() else { crate::skip!("no disk in /sys/block") };
    check(Layer::V2, &v2_rows(disk), disk);
}
