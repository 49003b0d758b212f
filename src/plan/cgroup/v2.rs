// SPDX-License-Identifier: Apache-2.0
//! `linux.resources` in the files of cgroup v2 (the kernel's Documentation/admin-guide/cgroup-v2.rst).

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::{Missing, Writes, block_weight, memory_limits, plan_common, plan_hugepages};

pub(super) fn plan(resources: &LinuxResources, writes: &mut Writes) {
    if let Some(memory) = resources.memory() {
        plan_memory(memory, writes);
    }
    if let Some(cpu) = resources.cpu() {
        plan_cpu(cpu, writes);
    }
    if let Some(block_io) = resources.block_io() {
        plan_block_io(block_io, writes);
    }
    plan_hugepages(resources, writes);
    plan_common(resources, writes);
    if let Some(network) = resources.network() {
        let instead = "cgroup v2 has no network controller; use iptables or tc with a match of the cgroup path";
        if network.class_id().is_some_and(|class| class != 0) {
            writes.error("network.classID", instead);
        }
        if network.priorities().as_ref().is_some_and(|p| !p.is_empty()) {
            writes.error("network.priorities", instead);
        }
    }
    plan_unified(resources, writes);
}

/// config-linux.md#memory.
fn plan_memory(memory: &LinuxMemory, writes: &mut Writes) {
    let limits = memory_limits(memory, writes);
    // Swap first: with it still unlimited, a lower memory.max would push pages of a full cgroup out to swap.
    if let Some(swap) = limits.swap_only {
        // Without swap accounting there is no such file, and no swap to limit.
        let missing = if swap <= 0 { Missing::Skip } else { Missing::Fail };
        let field = if limits.memory_and_swap == 0 { "memory.limit" } else { "memory.swap" };
        writes.add_or(field, "memory", "memory.swap.max", bytes(swap), missing);
    }
    if limits.limit != 0 {
        writes.add("memory.limit", "memory", "memory.max", bytes(limits.limit));
    }
    if limits.reservation != 0 {
        writes.add("memory.reservation", "memory", "memory.low", bytes(limits.reservation));
    }
    if memory.swappiness().is_some() {
        writes.warn("memory.swappiness", "ignored: cgroup v2 has no swappiness of its own");
    }
    if memory.disable_oom_killer() == Some(true) {
        writes.warn("memory.disableOOMKiller", "ignored: cgroup v2 cannot switch the OOM killer off");
    }
}

fn bytes(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

/// config-linux.md#cpu.
fn plan_cpu(cpu: &LinuxCpu, writes: &mut Writes) {
    for (field, set) in [
        ("cpu.realtimeRuntime", cpu.realtime_runtime().is_some_and(|v| v != 0)),
        ("cpu.realtimePeriod", cpu.realtime_period().is_some_and(|v| v != 0)),
    ] {
        if set {
            writes.error(field, "cgroup v2 has no real-time bandwidth control");
        }
    }
    if let Some(idle) = cpu.idle() {
        writes.add("cpu.idle", "cpu", "cpu.idle", idle);
    }
    // The kernel refuses a weight for an idle cgroup.
    let idle = cpu.idle().is_some_and(|idle| idle != 0);
    if let Some(shares) = cpu.shares().filter(|&shares| shares != 0 && !idle) {
        writes.add("cpu.shares", "cpu", "cpu.weight", weight_of_shares(shares));
    }
    let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
    if quota != 0 || period != 0 {
        let field = if quota != 0 { "cpu.quota" } else { "cpu.period" };
        let quota = if quota > 0 { quota.to_string() } else { "max".into() };
        let period = if period > 0 { period } else { 100_000 };
        writes.add(field, "cpu", "cpu.max", format!("{quota} {period}"));
    }
    // A burst is at most the quota, so it comes after it.
    if let Some(burst) = cpu.burst() {
        let missing = if burst == 0 { Missing::Skip } else { Missing::Fail };
        writes.add_or("cpu.burst", "cpu", "cpu.max.burst", burst, missing);
    }
    for (field, file, list) in [("cpu.cpus", "cpuset.cpus", cpu.cpus()), ("cpu.mems", "cpuset.mems", cpu.mems())] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            writes.add(field, "cpuset", file, list);
        }
    }
}

/// `cpu.weight` (1 to 10000) for v1's shares (2 to 262144), as runc, crun and systemd convert since 2025: a curve
/// through the ends and through both defaults, 1024 and 100. The straight line used before made 1024 a weight of 39,
/// less than that of any process outside a container.
pub(super) fn weight_of_shares(shares: u64) -> u16 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        // Exact, whatever the C library's pow(3) makes of the last bit.
        1024 => 100,
        shares => {
            // Below 2^18, so the conversion to float is exact.
            let l = f64::from(u32::try_from(shares).unwrap_or(u32::MAX)).log2();
            let weight = 10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil();
            // 1 to 10000 by the bounds above.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let weight = weight as u16;
            weight.clamp(1, 10_000)
        }
    }
}

/// config-linux.md#block-io.
fn plan_block_io(block_io: &LinuxBlockIo, writes: &mut Writes) {
    if let Some(weight) = block_weight("blockIO.weight", block_io.weight(), writes) {
        let missing = Missing::Instead { file: "io.weight".into(), value: io_weight(weight).to_string() };
        writes.add_or("blockIO.weight", "io", "io.bfq.weight", weight, missing);
    }
    let leaf = "cgroup v2 has no leaf weights";
    if block_io.leaf_weight().is_some_and(|weight| weight != 0) {
        writes.error("blockIO.leafWeight", leaf);
    }
    for (i, device) in block_io.weight_device().iter().flatten().enumerate() {
        let number = format!("{}:{}", device.major(), device.minor());
        let field = format!("blockIO.weightDevice[{i}].weight");
        if let Some(weight) = block_weight(&field, device.weight(), writes) {
            let value = format!("{number} {}", io_weight(weight));
            let missing = Missing::Instead { file: "io.weight".into(), value };
            writes.add_or(&field, "io", "io.bfq.weight", format!("{number} {weight}"), missing);
        }
        if device.leaf_weight().is_some_and(|weight| weight != 0) {
            writes.error(&format!("blockIO.weightDevice[{i}].leafWeight"), leaf);
        }
    }
    for (field, key, devices) in [
        ("throttleReadBpsDevice", "rbps", block_io.throttle_read_bps_device()),
        ("throttleWriteBpsDevice", "wbps", block_io.throttle_write_bps_device()),
        ("throttleReadIOPSDevice", "riops", block_io.throttle_read_iops_device()),
        ("throttleWriteIOPSDevice", "wiops", block_io.throttle_write_iops_device()),
    ] {
        for (i, device) in devices.iter().flatten().enumerate() {
            // v1 lifts a limit with 0, v2 refuses that.
            let rate = if device.rate() == 0 { "max".into() } else { device.rate().to_string() };
            let value = format!("{}:{} {key}={rate}", device.major(), device.minor());
            writes.add(&format!("blockIO.{field}[{i}]"), "io", "io.max", value);
        }
    }
}

/// `io.weight` (1 to 10000) for a blkio weight (10 to 1000), as runc and crun convert.
pub(super) fn io_weight(weight: u16) -> u32 {
    1 + u32::from(weight.saturating_sub(10)) * 9999 / 990
}

/// config-linux.md#unified: files by name, after all else so that they have the last word.
fn plan_unified(resources: &LinuxResources, writes: &mut Writes) {
    let mut files: Vec<_> = resources.unified().iter().flatten().collect();
    files.sort();
    for (file, value) in files {
        let field = format!("unified.{file}");
        let Some((controller, rest)) = file.split_once('.') else {
            writes.error(&field, "is not the name of a cgroup file, controller.name");
            continue;
        };
        if rest.is_empty() || controller.is_empty() || file.contains(['/', '\0']) {
            writes.error(&field, "is not the name of a cgroup file, controller.name");
        } else if matches!(rest, "procs" | "threads" | "kill" | "freeze") && controller == "cgroup" {
            // Would move, kill or stop processes, on the host as well as in the container.
            writes.error(&field, "is not a limit");
        } else {
            for line in value.lines().filter(|line| !line.trim().is_empty()) {
                plan_unified_line(&field, controller, file, line, writes);
            }
        }
    }
}

/// Files named `cgroup.*` exist whatever controllers there are.
fn plan_unified_line(field: &str, controller: &str, file: &str, line: &str, writes: &mut Writes) {
    if controller == "cgroup" {
        writes.list.push(super::Write {
            field: format!("linux.resources.{field}"),
            controller: controller.into(),
            file: file.into(),
            value: line.into(),
            missing: Missing::Fail,
        });
    } else {
        writes.add(field, controller, file, line);
    }
}
