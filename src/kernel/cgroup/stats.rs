// SPDX-License-Identifier: Apache-2.0
//! What a container has used, in the JSON of `runc events`: its members, units and names, for v1 and v2 alike. What the
//! kernel does not count is 0 or absent, as there.

use serde_json::{Map, Value, json};

use super::Existing;
use crate::plan::cgroup::Version;

/// The ticks of `cpuacct.stat` (USER_HZ, which is 100 on every architecture that orlop knows).
const NANOSECONDS_A_TICK: u64 = 10_000_000;

impl Existing {
    /// Reads every counter that the container's cgroup has.
    pub fn statistics(&self) -> Value {
        let files = Files(self);
        let v2 = self.directories().all(|(_, version)| version == Version::V2);
        let (cpu, memory, blkio) = if v2 {
            (cpu_v2(&files), memory_v2(&files), io_v2(&files))
        } else {
            (cpu_v1(&files), memory_v1(&files), blkio_v1(&files))
        };
        let mut statistics = json!({
            "cpu": cpu,
            "cpuset": if v2 { cpuset(&Files(&Existing::none())) } else { cpuset(&files) },
            "memory": memory,
            "pids": self.pids_statistics(&files),
            "blkio": blkio,
            "hugetlb": hugetlb(&files),
            "intel_rdt": {},
            "network_interfaces": null,
        });
        let rdma = rdma(&files);
        if let (false, Some(all)) = (rdma.is_empty(), statistics.as_object_mut()) {
            all.insert("rdma".into(), Value::Object(rdma));
        }
        statistics
    }

    fn pids_statistics(&self, files: &Files<'_>) -> Value {
        let mut pids = Map::new();
        // Without the controller the processes can still be counted.
        let counted = || self.pids().map_or(0, |pids| u64::try_from(pids.len()).unwrap_or(0));
        put(&mut pids, "current", files.number("pids.current").unwrap_or_else(counted));
        put(&mut pids, "limit", files.number("pids.max").filter(|max| *max != u64::MAX).unwrap_or(0));
        Value::Object(pids)
    }
}

/// The control files of a container, of whichever hierarchy has them.
struct Files<'a>(&'a Existing);

impl Files<'_> {
    fn text(&self, file: &str) -> Option<String> {
        self.0.directories().find_map(|(dir, _)| super::fs::read(dir, file).ok())
    }

    /// A file of one number; the largest for `max`.
    fn number(&self, file: &str) -> Option<u64> {
        match self.text(file)?.trim() {
            "max" => Some(u64::MAX),
            // v1 has -1 in some.
            number => number.parse().ok(),
        }
    }

    fn or_zero(&self, file: &str) -> u64 {
        self.number(file).unwrap_or(0)
    }

    /// A file of lines `KEY NUMBER`.
    fn keyed(&self, file: &str) -> Map<String, Value> {
        let text = self.text(file).unwrap_or_default();
        let pair = |line: &str| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_string(), value.trim().parse::<u64>().ok()?.into()))
        };
        text.lines().filter_map(pair).collect()
    }

    /// A pressure file (Documentation/accounting/psi.rst); None where the kernel has no accounting of it.
    fn pressure(&self, file: &str) -> Option<Value> {
        let text = self.text(file)?;
        let mut all = Map::new();
        for line in text.lines() {
            let mut words = line.split(' ');
            let Some(kind) = words.next() else { continue };
            let mut averages = Map::new();
            for (key, value) in words.filter_map(|word| word.split_once('=')) {
                let number = match key {
                    "total" => value.parse::<u64>().ok()?.into(),
                    _ => value.parse::<f64>().ok()?.into(),
                };
                averages.insert(key.to_string(), number);
            }
            all.insert(kind.to_string(), Value::Object(averages));
        }
        Some(Value::Object(all))
    }
}

/// Members that are zero are left out of most objects, as runc does.
fn put(map: &mut Map<String, Value>, key: &str, value: u64) {
    if value != 0 {
        map.insert(key.into(), value.into());
    }
}

fn put_list(map: &mut Map<String, Value>, key: &str, list: Vec<Value>) {
    if !list.is_empty() {
        map.insert(key.into(), list.into());
    }
}

fn of(map: &Map<String, Value>, key: &str) -> u64 {
    map.get(key).and_then(Value::as_u64).unwrap_or(0)
}

/// Adds the pressure of a resource.
fn with_pressure(mut object: Map<String, Value>, files: &Files<'_>, file: &str) -> Value {
    if let Some(pressure) = files.pressure(file) {
        object.insert("psi".into(), pressure);
    }
    Value::Object(object)
}

fn throttling(stat: &Map<String, Value>, time: u64) -> Value {
    let mut throttling = Map::new();
    put(&mut throttling, "periods", of(stat, "nr_periods"));
    put(&mut throttling, "throttledPeriods", of(stat, "nr_throttled"));
    put(&mut throttling, "throttledTime", time);
    Value::Object(throttling)
}

fn cpu_v1(files: &Files<'_>) -> Value {
    let (stat, ticks) = (files.keyed("cpu.stat"), files.keyed("cpuacct.stat"));
    let mut usage = Map::new();
    put(&mut usage, "total", files.or_zero("cpuacct.usage"));
    usage.insert("user".into(), (of(&ticks, "user") * NANOSECONDS_A_TICK).into());
    usage.insert("kernel".into(), (of(&ticks, "system") * NANOSECONDS_A_TICK).into());
    let numbers =
        |text: String| text.split_whitespace().filter_map(|n| n.parse::<u64>().ok()).map(Value::from).collect();
    put_list(&mut usage, "percpu", files.text("cpuacct.usage_percpu").map(numbers).unwrap_or_default());
    // `cpu user system`, after a line of titles.
    let table = files.text("cpuacct.usage_all").unwrap_or_default();
    for (name, column) in [("percpu_user", 1), ("percpu_kernel", 2)] {
        let cells = table.lines().skip(1).filter_map(|line| line.split(' ').nth(column)?.parse::<u64>().ok());
        put_list(&mut usage, name, cells.map(Value::from).collect());
    }
    json!({"usage": usage, "throttling": throttling(&stat, of(&stat, "throttled_time"))})
}

fn cpu_v2(files: &Files<'_>) -> Value {
    let stat = files.keyed("cpu.stat");
    let nanoseconds = |key: &str| of(&stat, key).saturating_mul(1000);
    let mut usage = Map::new();
    put(&mut usage, "total", nanoseconds("usage_usec"));
    usage.insert("user".into(), nanoseconds("user_usec").into());
    usage.insert("kernel".into(), nanoseconds("system_usec").into());
    let mut cpu = Map::new();
    cpu.insert("usage".into(), Value::Object(usage));
    cpu.insert("throttling".into(), throttling(&stat, nanoseconds("throttled_usec")));
    with_pressure(cpu, files, "cpu.pressure")
}

fn cpuset(files: &Files<'_>) -> Value {
    let mut all = Map::new();
    for (name, file) in [("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")] {
        put_list(&mut all, name, members(&files.text(file).unwrap_or_default()));
    }
    for name in [
        "cpu_exclusive",
        "mem_hardwall",
        "mem_exclusive",
        "memory_migrate",
        "memory_spread_page",
        "memory_spread_slab",
        "memory_pressure",
        "sched_load_balance",
    ] {
        all.insert(name.into(), files.or_zero(&format!("cpuset.{name}")).into());
    }
    let level = files.text("cpuset.sched_relax_domain_level").and_then(|text| text.trim().parse::<i64>().ok());
    all.insert("sched_relax_domain_level".into(), level.unwrap_or(0).into());
    Value::Object(all)
}

/// `0-2,5` as its members, as far as there can be so many.
fn members(list: &str) -> Vec<Value> {
    let mut all = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
            all.extend((first..=last).map(Value::from));
        }
    }
    all
}

/// How much of a kind of memory: limit, in use, at most so far, how often the limit was met.
fn amount(limit: u64, usage: u64, max: u64, failures: u64) -> Value {
    let mut amount = Map::new();
    amount.insert("limit".into(), limit.into());
    amount.insert("failcnt".into(), failures.into());
    put(&mut amount, "usage", usage);
    put(&mut amount, "max", max);
    Value::Object(amount)
}

fn memory_v1(files: &Files<'_>) -> Value {
    let stat = files.keyed("memory.stat");
    let kind = |name: &str| {
        let file = |what: &str| files.or_zero(&format!("memory.{name}{what}"));
        amount(file("limit_in_bytes"), file("usage_in_bytes"), file("max_usage_in_bytes"), file("failcnt"))
    };
    let mut memory = Map::new();
    put(&mut memory, "cache", of(&stat, "cache"));
    for (name, prefix) in [("usage", ""), ("swap", "memsw."), ("kernel", "kmem."), ("kernelTCP", "kmem.tcp.")] {
        memory.insert(name.into(), kind(prefix));
    }
    if !stat.is_empty() {
        memory.insert("raw".into(), Value::Object(stat));
    }
    Value::Object(memory)
}

fn memory_v2(files: &Files<'_>) -> Value {
    let stat = files.keyed("memory.stat");
    let (limit, usage) = (files.or_zero("memory.max"), files.or_zero("memory.current"));
    let mut memory = Map::new();
    put(&mut memory, "cache", of(&stat, "file"));
    let met = of(&files.keyed("memory.events"), "max");
    memory.insert("usage".into(), amount(limit, usage, files.or_zero("memory.peak"), met));
    // Memory and swap together, as v1 counts it and every reader expects.
    let (swap_limit, swap) = (files.or_zero("memory.swap.max"), files.or_zero("memory.swap.current"));
    let failures = of(&files.keyed("memory.swap.events"), "fail");
    memory.insert("swap".into(), amount(swap_limit.saturating_add(limit), swap.saturating_add(usage), 0, failures));
    for name in ["kernel", "kernelTCP"] {
        memory.insert(name.into(), amount(0, 0, 0, 0));
    }
    if !stat.is_empty() {
        memory.insert("raw".into(), Value::Object(stat));
    }
    with_pressure(memory, files, "memory.pressure")
}

fn entry(device: &str, op: &str, value: u64) -> Option<Value> {
    let (major, minor) = device.split_once(':')?;
    let mut entry = Map::new();
    put(&mut entry, "major", major.parse().ok()?);
    put(&mut entry, "minor", minor.parse().ok()?);
    put(&mut entry, "value", value);
    if !op.is_empty() {
        entry.insert("op".into(), op.into());
    }
    Some(Value::Object(entry))
}

/// The tables of v1, of the first scheduler that keeps any.
fn blkio_v1(files: &Files<'_>) -> Value {
    const TABLES: [(&str, &str); 8] = [
        ("ioServiceBytesRecursive", "io_service_bytes_recursive"),
        ("ioServicedRecursive", "io_serviced_recursive"),
        ("ioQueueRecursive", "io_queued_recursive"),
        ("ioServiceTimeRecursive", "io_service_time_recursive"),
        ("ioWaitTimeRecursive", "io_wait_time_recursive"),
        ("ioMergedRecursive", "io_merged_recursive"),
        ("ioTimeRecursive", "time_recursive"),
        ("sectorsRecursive", "sectors_recursive"),
    ];
    let mut blkio = Map::new();
    for scheduler in ["blkio.bfq.", "blkio.", "blkio.throttle."] {
        for (name, file) in TABLES {
            let text = files.text(&format!("{scheduler}{file}")).unwrap_or_default();
            put_list(&mut blkio, name, text.lines().filter_map(blkio_line).collect());
        }
        if !blkio.is_empty() {
            break;
        }
    }
    Value::Object(blkio)
}

/// `8:0 Read 5` or `8:0 5`; not the total of all devices.
fn blkio_line(line: &str) -> Option<Value> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [device, op, value] => entry(device, op, value.parse().ok()?),
        [device, value] => entry(device, "", value.parse().ok()?),
        _ => None,
    }
}

fn io_v2(files: &Files<'_>) -> Value {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in files.text("io.stat").unwrap_or_default().lines() {
        let mut words = line.split_whitespace();
        let Some(device) = words.next() else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            let (table, op) = match key {
                "rbytes" => (&mut bytes, "Read"),
                "wbytes" => (&mut bytes, "Write"),
                "dbytes" => (&mut bytes, "Discard"),
                "rios" => (&mut operations, "Read"),
                "wios" => (&mut operations, "Write"),
                "dios" => (&mut operations, "Discard"),
                _ => continue,
            };
            table.extend(entry(device, op, value));
        }
    }
    let mut io = Map::new();
    put_list(&mut io, "ioServiceBytesRecursive", bytes);
    put_list(&mut io, "ioServicedRecursive", operations);
    with_pressure(io, files, "io.pressure")
}

/// Of each size of huge pages that this kernel has.
fn hugetlb(files: &Files<'_>) -> Map<String, Value> {
    let mut all = Map::new();
    let Ok(sizes) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return all };
    for size in sizes.flatten() {
        let name = size.file_name();
        let kilobytes =
            name.to_str().and_then(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok());
        let Some(size) = kilobytes.map(page_size) else { continue };
        let file = |names: [&str; 3]| names.iter().find_map(|name| files.number(&format!("hugetlb.{size}.{name}")));
        let Some(usage) = file(["rsvd.current", "rsvd.usage_in_bytes", "usage_in_bytes"]).or(file(["current", "", ""]))
        else {
            continue;
        };
        let mut pages = Map::new();
        put(&mut pages, "usage", usage);
        put(&mut pages, "max", file(["rsvd.max_usage_in_bytes", "max_usage_in_bytes", ""]).unwrap_or(0));
        let failures = file(["rsvd.failcnt", "failcnt", ""]);
        let events = || of(&files.keyed(&format!("hugetlb.{size}.events")), "max");
        pages.insert("failcnt".into(), failures.unwrap_or_else(events).into());
        all.insert(size, Value::Object(pages));
    }
    all
}

/// The name of a page size in the controller's files: `2MB`.
fn page_size(kilobytes: u64) -> String {
    match kilobytes {
        kb if kb >= 1 << 20 => format!("{}GB", kb >> 20),
        kb if kb >= 1 << 10 => format!("{}MB", kb >> 10),
        kb => format!("{kb}KB"),
    }
}

/// Handles and objects of each RDMA device, in use and allowed (Documentation/admin-guide/cgroup-v1/rdma.rst). runc has no
/// such member, which is left out where there is no such device.
fn rdma(files: &Files<'_>) -> Map<String, Value> {
    let mut all = Map::new();
    for (name, file) in [("current", "rdma.current"), ("limit", "rdma.max")] {
        let mut devices = Map::new();
        for line in files.text(file).unwrap_or_default().lines() {
            let mut words = line.split_whitespace();
            let Some(device) = words.next() else { continue };
            let number = |value: &str| if value == "max" { Some(u64::from(u32::MAX)) } else { value.parse().ok() };
            let pairs = words.filter_map(|word| word.split_once('='));
            let counts: Map<String, Value> =
                pairs.filter_map(|(key, value)| Some((key.to_string(), number(value)?.into()))).collect();
            devices.insert(device.to_string(), Value::Object(counts));
        }
        if !devices.is_empty() {
            all.insert(name.to_string(), Value::Object(devices));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_become_entries() {
        assert_eq!(blkio_line("8:16 Read 5"), Some(json!({"major": 8, "minor": 16, "op": "Read", "value": 5})));
        assert_eq!(blkio_line("8:0 5"), Some(json!({"major": 8, "value": 5})));
        assert_eq!(blkio_line("Total 5"), None);
        assert_eq!(members("0-2,5\n"), [0, 1, 2, 5].map(Value::from));
        assert_eq!(members("\n"), Vec::<Value>::new());
        assert_eq!([4, 64, 2048, 1 << 20].map(page_size), ["4KB", "64KB", "2MB", "1GB"]);
    }
}
