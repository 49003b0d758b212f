// SPDX-License-Identifier: Apache-2.0
//! `linux.resources` in the files of cgroup v1 (the kernel's Documentation/admin-guide/cgroup-v1).

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNetwork, LinuxResources};

use super::{Missing, Writes, block_weight, memory_limits, plan_common, plan_hugepages};
use crate::plan::device_filter::{self, Rule};

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
    if let Some(network) = resources.network() {
        plan_network(network, writes);
    }
    plan_common(resources, writes);
    if resources.unified().as_ref().is_some_and(|u| !u.is_empty()) {
        writes.error("unified", "holds files of cgroup v2, but this host mounts its controllers as cgroup v1");
    }
}

/// config-linux.md#memory. The sum is at least the limit at any time, so the limit is lowered first.
fn plan_memory(memory: &LinuxMemory, writes: &mut Writes) {
    let limits = memory_limits(memory, writes);
    if limits.limit != 0 {
        writes.add("memory.limit", "memory", "memory.limit_in_bytes", limits.limit);
    }
    let sum = if limits.limit == -1 && limits.memory_and_swap == 0 { -1 } else { limits.memory_and_swap };
    if sum != 0 {
        // Without swap accounting there is no such file, and nothing to lift.
        let missing = if sum == -1 { Missing::Skip } else { Missing::Fail };
        let field = if limits.memory_and_swap == 0 { "memory.limit" } else { "memory.swap" };
        writes.add_or(field, "memory", "memory.memsw.limit_in_bytes", sum, missing);
    }
    if limits.reservation != 0 {
        writes.add("memory.reservation", "memory", "memory.soft_limit_in_bytes", limits.reservation);
    }
    match memory.swappiness() {
        Some(swappiness @ 0..=100) => writes.add("memory.swappiness", "memory", "memory.swappiness", swappiness),
        Some(swappiness) => writes.error("memory.swappiness", format!("{swappiness} is not within 0 to 100")),
        None => {}
    }
    if memory.disable_oom_killer() == Some(true) {
        writes.add("memory.disableOOMKiller", "memory", "memory.oom_control", 1);
    }
}

/// config-linux.md#cpu. A runtime is at most its period, so periods come first; a burst is at most the quota.
fn plan_cpu(cpu: &LinuxCpu, writes: &mut Writes) {
    let unsigned = |number: Option<u64>| number.filter(|&n| n != 0).map(|n| n.to_string());
    let signed = |number: Option<i64>| number.filter(|&n| n != 0).map(|n| n.to_string());
    let list = |list: &Option<String>| list.clone().filter(|l| !l.is_empty());
    // The kernel refuses shares for an idle cgroup.
    let idle = cpu.idle().is_some_and(|idle| idle != 0);
    for (field, controller, file, value) in [
        ("cpu.realtimePeriod", "cpu", "cpu.rt_period_us", unsigned(cpu.realtime_period())),
        ("cpu.realtimeRuntime", "cpu", "cpu.rt_runtime_us", signed(cpu.realtime_runtime())),
        ("cpu.idle", "cpu", "cpu.idle", cpu.idle().map(|idle| idle.to_string())),
        ("cpu.shares", "cpu", "cpu.shares", unsigned(cpu.shares()).filter(|_| !idle)),
        ("cpu.period", "cpu", "cpu.cfs_period_us", unsigned(cpu.period())),
        ("cpu.quota", "cpu", "cpu.cfs_quota_us", signed(cpu.quota())),
        ("cpu.burst", "cpu", "cpu.cfs_burst_us", unsigned(cpu.burst())),
        ("cpu.cpus", "cpuset", "cpuset.cpus", list(cpu.cpus())),
        ("cpu.mems", "cpuset", "cpuset.mems", list(cpu.mems())),
    ] {
        if let Some(value) = value {
            writes.add(field, controller, file, value);
        }
    }
}

/// config-linux.md#block-io. The weight's file is the block scheduler's: cfq's up to Linux 4.20, bfq's since.
fn plan_block_io(block_io: &LinuxBlockIo, writes: &mut Writes) {
    let bfq = |file: &str, value: &str| Missing::Instead { file: file.into(), value: value.into() };
    if let Some(weight) = block_weight("blockIO.weight", block_io.weight(), writes) {
        let missing = bfq("blkio.bfq.weight", &weight.to_string());
        writes.add_or("blockIO.weight", "blkio", "blkio.weight", weight, missing);
    }
    if let Some(weight) = block_weight("blockIO.leafWeight", block_io.leaf_weight(), writes) {
        writes.add("blockIO.leafWeight", "blkio", "blkio.leaf_weight", weight);
    }
    for (i, device) in block_io.weight_device().iter().flatten().enumerate() {
        let number = format!("{}:{}", device.major(), device.minor());
        let field = format!("blockIO.weightDevice[{i}].weight");
        if let Some(weight) = block_weight(&field, device.weight(), writes) {
            let value = format!("{number} {weight}");
            let missing = bfq("blkio.bfq.weight_device", &value);
            writes.add_or(&field, "blkio", "blkio.weight_device", value, missing);
        }
        let field = format!("blockIO.weightDevice[{i}].leafWeight");
        if let Some(weight) = block_weight(&field, device.leaf_weight(), writes) {
            writes.add(&field, "blkio", "blkio.leaf_weight_device", format!("{number} {weight}"));
        }
    }
    for (field, file, devices) in [
        ("throttleReadBpsDevice", "read_bps", block_io.throttle_read_bps_device()),
        ("throttleWriteBpsDevice", "write_bps", block_io.throttle_write_bps_device()),
        ("throttleReadIOPSDevice", "read_iops", block_io.throttle_read_iops_device()),
        ("throttleWriteIOPSDevice", "write_iops", block_io.throttle_write_iops_device()),
    ] {
        for (i, device) in devices.iter().flatten().enumerate() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            let file = format!("blkio.throttle.{file}_device");
            writes.add(&format!("blockIO.{field}[{i}]"), "blkio", &file, value);
        }
    }
}

/// config-linux.md#network. Class 0 is the kernel's "no class".
fn plan_network(network: &LinuxNetwork, writes: &mut Writes) {
    if let Some(class) = network.class_id().filter(|&class| class != 0) {
        writes.add("network.classID", "net_cls", "net_cls.classid", class);
    }
    for (i, priority) in network.priorities().iter().flatten().enumerate() {
        let field = format!("network.priorities[{i}]");
        if priority.name().is_empty() || priority.name().contains(char::is_whitespace) {
            writes.error(&format!("{field}.name"), "is not the name of a network interface");
            continue;
        }
        let value = format!("{} {}", priority.name(), priority.priority());
        writes.add(&field, "net_prio", "net_prio.ifpriomap", value);
    }
}

/// The device rules as the devices controller takes them: a default and exceptions of it
/// (Documentation/admin-guide/cgroup-v1/devices.rst).
pub(super) fn devices(rules: &[Rule], writes: &mut Writes) {
    if rules.is_empty() {
        return;
    }
    match device_filter::exceptions(rules) {
        Ok(list) => {
            let (everything, others) =
                if list.allow { ("devices.allow", "devices.deny") } else { ("devices.deny", "devices.allow") };
            if !writes.offers("linux.resources.devices", "devices") {
                return;
            }
            writes.add("devices", "devices", everything, "a");
            for exception in list.exceptions {
                writes.add("devices", "devices", others, exception);
            }
        }
        Err(hole) => {
            let user_rules = rules.len() - device_filter::default_rules().len();
            let field = if hole.rule < user_rules { format!("devices[{}]", hole.rule) } else { "devices".to_string() };
            writes.error(
                &field,
                format!(
                    "cgroup v1 cannot {} \"{}\" after an earlier rule {} \"{}\"",
                    if hole.allow { "allow" } else { "deny" },
                    hole.wanted,
                    if hole.allow { "denies" } else { "allows" },
                    hole.inside
                ),
            );
        }
    }
}
