// SPDX-License-Identifier: Apache-2.0
//! What the fuzz targets do with an input, and what must hold for every one. The suite replays the inputs that were found
//! with the same functions.
#![allow(dead_code, reason = "each fuzz target is a program of its own that uses one of them")]

use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::runtime::LinuxSeccomp;
use orlop::host::{CgroupLayout, Hierarchy, Host};
use orlop::plan::config::Spec;
use orlop::plan::filesystem::Facts;
use orlop::plan::lease::{Lease, Span, free, lowest};
use orlop::plan::mount_options::Options;
use orlop::plan::mounts;
use orlop::plan::problem::Problems;
use orlop::plan::{Plan, Request};
use orlop::policy::decide::{self, apply, decide};
use orlop::policy::model::{Policy, Profile};
use orlop::policy::record::Held;
use orlop::seccomp::arch::Arch;
use orlop::seccomp::policy::{Action, Data};
use orlop::seccomp::{self, denials, explain, lint, listing, simulate};
use orlop::spec::examine::{Examination, Severity};
use orlop::state::{Intent, State};
use orlop::{lease, spec};
use serde_json::{Value, json};

/// Root on a cgroup v2 host, root on a hybrid one, and an ordinary user on a host without cgroups.
fn hosts() -> [Host; 3] {
    let hierarchy = |point: &str, controllers: &[&str]| Hierarchy {
        mount_point: Path::new("/sys/fs/cgroup").join(point),
        controllers: controllers.iter().map(|name| name.to_string()).collect(),
        own: "/user.slice".into(),
    };
    let root = Host {
        euid: 0,
        egid: 0,
        initial_user_namespace: true,
        may_clone_mounts: true,
        may_set_groups: true,
        permitted: 0x1ff_feff_ffff,
        bounding: 0x1ff_feff_ffff,
        ignored_signals: 0,
        cgroups: CgroupLayout::Unified(hierarchy("", &["cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma"])),
    };
    let hybrid = CgroupLayout::Legacy {
        hierarchies: vec![
            hierarchy("cpu,cpuacct", &["cpu", "cpuacct"]),
            hierarchy("memory", &["memory"]),
            hierarchy("devices", &["devices"]),
            hierarchy("pids", &["pids"]),
            hierarchy("systemd", &["name=systemd"]),
        ],
        unified: Some(hierarchy("unified", &["hugetlb"])),
    };
    let user = Host {
        euid: 1000,
        egid: 1000,
        initial_user_namespace: false,
        may_clone_mounts: false,
        may_set_groups: false,
        permitted: 0,
        cgroups: CgroupLayout::None,
        ..root.clone()
    };
    [root.clone(), Host { cgroups: hybrid, ..root }, user]
}

fn request() -> Request {
    Request { id: "fuzz".into(), bundle: "/bundle".into(), ..Request::default() }
}

/// No string that the kernel gets ends early.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(list) => list.iter().any(has_nul),
        Value::Object(map) => map.values().any(has_nul),
        _ => false,
    }
}

fn plan(spec: &Spec, host: &Host) -> (Option<Plan>, Problems) {
    let (plan, problems) = Plan::from_spec(spec, host, &request());
    assert_eq!(plan.is_none(), !problems.errors.is_empty(), "no plan without an error, and none with: {problems:?}");
    if let Some(plan) = &plan {
        let mut value = serde_json::to_value(plan).unwrap();
        // These go to readers of JSON.
        value.as_object_mut().unwrap().remove("annotations");
        if let Some(listener) = value.pointer_mut("/seccomp/listener/metadata") {
            listener.take();
        }
        assert!(!has_nul(&value), "a NUL in the plan: {value}");
    }
    (plan, problems)
}

/// config.json as `create`, `check` and `--userns=auto` read it.
pub fn config(data: &[u8]) {
    let kernel = spec::kernel_version().unwrap();
    let parsed = spec::parse(data.to_vec());
    // One of them, for speed.
    let host = &hosts()[data.len() % 3];
    let refused = match &parsed {
        Ok(config) => plan(&config.spec, host).0.is_none(),
        Err(e) => {
            assert!(!format!("{e:#}").is_empty());
            true
        }
    };
    let mut examination = Examination::new(data, kernel).unwrap();
    if let Some(spec) = examination.spec.clone() {
        examination.add(plan(&spec, host).1);
    }
    let findings = examination.finish();
    let faulty = findings.iter().any(|finding| finding.severity == Severity::Error);
    assert!(faulty || !refused, "create refuses what check finds no fault in: {:?} {findings:?}", parsed.err());
    if let Ok(config) = &parsed
        && config.spec.linux.is_some()
        // Not so if what nobody reads has half a surrogate pair in it.
        && serde_json::from_slice::<Value>(data).is_ok()
        && lease::check(&config.spec).is_ok()
    {
        let span = Span { first: 100_000, size: 65_536 };
        let leased = lease::add_to(&config.bytes, &Lease { uid: span, gid: span });
        spec::parse(leased.unwrap()).unwrap();
    }
}

/// A mount: type, source, destination and options with commas between them, a line each.
pub fn mounts(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.splitn(4, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (kind, source, destination, words) = (line(), line(), line(), line());
    let words: Vec<String> = words.split(',').map(String::from).collect();
    let options = Options::parse(&words);
    for attrs in [options.attrs, options.recursive, options.attrs.then(options.recursive)] {
        assert_eq!(attrs.set & attrs.clear, 0, "{attrs:?}");
        // What mount_setattr(2) asks for.
        assert!(attrs.to_set() & attrs.to_clear() & !0x70 == 0, "{attrs:?}");
    }
    let places = options.superblock.iter().map(|(i, _)| i).chain(options.data.iter().map(|(i, _)| i));
    for i in places.chain(&options.copy_up) {
        assert!(*i < words.len());
    }
    let mut mount = json!({"destination": destination, "source": source, "options": words});
    if !kind.is_empty() {
        mount["type"] = json!(kind);
    }
    let mount: oci_spec::runtime::Mount = serde_json::from_value(mount).unwrap();
    // Twice: there are rules for what stands behind or below another.
    let list = [mount.clone(), mount];
    for bits in 0..16_u8 {
        let bit = |n: u8| bits & (1 << n) != 0;
        let facts = Facts {
            new_mount_ns: !bit(0),
            new_user_ns: bit(1),
            joined_user_ns: false,
            new_net_ns: !bit(0),
            new_cgroup_ns: bit(2),
            terminal: true,
            no_pivot: false,
            idmap_all: bit(3),
            ordinary_user: bit(1),
        };
        let mut problems = Problems::default();
        for planned in mounts::plan(&list, Path::new("/bundle"), &facts, &mut problems) {
            let value = serde_json::to_value(&planned).unwrap();
            assert!(!has_nul(&value), "a NUL: {value}");
            let inside = planned.destination.as_str();
            assert!(inside.starts_with('/') && !inside.split('/').any(|part| part == ".."), "{inside:?}");
        }
    }
}

/// The files of a state directory, and what `exec` is given.
pub fn state(data: &[u8]) {
    if let Ok(state) = serde_json::from_slice::<State>(data) {
        assert_eq!(serde_json::from_slice::<State>(&serde_json::to_vec(&state).unwrap()).unwrap(), state);
    }
    if let Ok(intent) = serde_json::from_slice::<Intent>(data) {
        assert_eq!(serde_json::from_slice::<Intent>(&serde_json::to_vec(&intent).unwrap()).unwrap(), intent);
    }
    if let Ok(lease) = serde_json::from_slice::<Lease>(data) {
        let pool = [Span { first: 100_000, size: 1 << 24 }];
        for taken in [lease.uid, lease.gid] {
            let found = lowest(&free(&pool, &[taken]), 65_536);
            // In numbers wide enough for any record.
            let (first, end) = (u128::from(taken.first), u128::from(taken.first) + u128::from(taken.size));
            if let Some(found) = found {
                let (begin, last) = (u128::from(found.first), u128::from(found.first + found.size));
                assert!(last <= first || end <= begin, "{found:?} is taken: {taken:?}");
            }
        }
        lease.map();
    }
    if let Ok(process) = spec::parse_process(data) {
        drop(process);
    }
    if let Some(held) = Held::read(data) {
        drop(format!("{held:?}"));
    }
}

/// Takes a small number from the input.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> usize {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        usize::from(*first)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.next() % from.len()]
    }

    /// A value at which comparisons go wrong, or a little beside it.
    fn value(&mut self) -> u64 {
        let base = *self.pick(&[
            0,
            1,
            0xff,
            0x8000,
            0x7fff_ffff,
            0xffff_ffff,
            1 << 32,
            0x1234_5678_9abc_def0,
            1 << 63,
            u64::MAX,
        ]);
        base.wrapping_add(self.next() as u64 % 5).wrapping_sub(2)
    }
}

const CALLS: [&str; 16] = [
    "read",
    "write",
    "getppid",
    "socket",
    "bind",
    "connect",
    "semop",
    "shmat",
    "personality",
    "clone",
    "clone3",
    "mmap",
    "mmap2",
    "keyctl",
    "seccomp",
    "no_such_call",
];
const ACTIONS: [&str; 9] = ["ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "TRAP", "TRACE", "LOG", "NOTIFY"];
const OPERATORS: [&str; 7] = ["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"];
const ARCHES: [&str; 6] = ["X86_64", "X86", "X32", "AARCH64", "PPC64LE", "MIPS"];

fn profile(bytes: &mut Bytes<'_>) -> Value {
    let action = |bytes: &mut Bytes<'_>| format!("SCMP_ACT_{}", bytes.pick(&ACTIONS));
    let mut syscalls = Vec::new();
    let mut values = Vec::new();
    for _ in 0..bytes.next() % 12 {
        let names: Vec<&str> = (0..1 + bytes.next() % 3).map(|_| *bytes.pick(&CALLS)).collect();
        let args: Vec<Value> = (0..bytes.next() % 4)
            .map(|_| {
                let (value, two) = (bytes.value(), bytes.value());
                values.extend([value, two]);
                let op = format!("SCMP_CMP_{}", bytes.pick(&OPERATORS));
                json!({"index": bytes.next() % 6, "value": value, "valueTwo": two, "op": op})
            })
            .collect();
        let mut entry = json!({"names": names, "action": action(bytes), "args": args});
        if bytes.next().is_multiple_of(4) {
            entry["errnoRet"] = json!(bytes.next() * 17);
        }
        syscalls.push(entry);
    }
    let arches: Vec<String> = (0..bytes.next() % 4).map(|_| format!("SCMP_ARCH_{}", bytes.pick(&ARCHES))).collect();
    json!({"defaultAction": action(bytes), "architectures": arches, "syscalls": syscalls, "listenerPath": "/l"})
}

/// One to three seccomp profiles: program, policy and what the watcher would answer agree on every call that is tried,
/// apart and stacked.
pub fn seccomp(data: &[u8]) {
    let mut bytes = Bytes(data);
    let values: Vec<Value> = (0..1 + bytes.next() % 3).map(|_| profile(&mut bytes)).collect();
    let sections: Vec<LinuxSeccomp> =
        values.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect();
    let references: Vec<&LinuxSeccomp> = sections.iter().collect();
    let mut problems = Problems::default();
    let stacked = seccomp::compile_stacked(&references, &mut problems);
    assert_eq!(stacked.is_none(), !problems.errors.is_empty(), "{problems:?}");
    let examined: Option<Vec<_>> =
        sections.iter().map(|section| seccomp::examine(Arch::NATIVE, section, &mut Problems::default())).collect();
    let Some(examined) = examined else {
        assert!(stacked.is_none(), "a stack of profiles of which one has faults");
        return;
    };
    for one in &examined {
        lint::lint(one, &mut Problems::default());
        assert!(!listing::listing(&one.program).is_empty());
    }
    let watched = denials::Stack::new(Arch::NATIVE, &references, &[]).unwrap();
    for _ in 0..24 {
        let arch = *bytes.pick(&Arch::ALL);
        let call = seccomp::arch::Call::find(bytes.pick::<&str>(&CALLS)).and_then(|call| arch.number(call));
        let number = call.unwrap_or_else(|| *bytes.pick(&[0, 102, 117, 500, 0x3fff_ffff, 0x4000_0000, u32::MAX]));
        let data = Data { arch: arch.audit(), number, args: std::array::from_fn(|_| bytes.value()) };
        let mut together = Action::Allow;
        for (i, one) in examined.iter().enumerate() {
            let action = one.apart.decide(&data);
            let code = simulate::run(&one.program, &data).map(|outcome| outcome.code);
            assert_eq!(code, Some(action.code()), "{data:x?}: the policy says {action:?}");
            let explained = explain::explain(one, arch, number, data.args).unwrap();
            assert_eq!(explained.action, action, "{data:x?}");
            together = if i == 0 { action } else { Action::strictest(together, action) };
        }
        assert_eq!(watched.decide(&data).action, together, "{data:x?}");
        let Some(stacked) = &stacked else { continue };
        let answers = stacked.before.iter().chain([&stacked.program]).map(|program| simulate::run(program, &data));
        let codes: Vec<u32> = answers.map(|answer| answer.unwrap().code).collect();
        if let [code] = codes.as_slice() {
            assert_eq!(*code, together.code(), "{data:x?}: the stack says {together:?}");
        }
    }
}

/// An operator's policy over three configs: what it makes of one, it must accept.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut policy = Policy::default();
    let mut faults = Vec::new();
    policy.add("policy.toml", text.to_string(), &mut faults);
    faults.extend(policy.contradictions());
    if !faults.is_empty() {
        assert!(faults.iter().all(|fault| !fault.to_string().is_empty()));
        return;
    }
    for tables in policy.variants() {
        let Some(dir) = &tables.seccomp.config_dir else { continue };
        let stack = tables.seccomp.stack.iter().flat_map(|names| &names.value);
        for name in tables.seccomp.default.iter().map(|name| &name.value).chain(stack) {
            let value = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"}]});
            let profile = Profile { path: format!("{}/{name}", dir.value), value };
            policy.profiles.insert((dir.value.clone(), name.clone()), profile);
        }
    }
    for text in [
        include_str!("../bundles/minimal.json"),
        include_str!("../bundles/docker.json"),
        include_str!("../bundles/userns.json"),
    ] {
        let config = spec::parse(text.as_bytes().to_vec()).unwrap();
        let facts = decide::Facts { kernel: (6, 1), bundle: "/bundle".into(), ..decide::Facts::default() };
        let real: BTreeMap<_, _> = decide::sources(&config.spec, &facts).into_iter().collect();
        let facts = decide::Facts { real, ..facts };
        let Ok(effective) = decide(&policy, &config.spec, &facts) else { continue };
        let made = apply(&effective.edits, text.as_bytes()).unwrap();
        let made = spec::parse(made).unwrap();
        let again = decide(&policy, &made.spec, &decide::Facts { decided_before: true, ..facts });
        let again = again.unwrap_or_else(|refusals| panic!("refuses what it has made itself: {refusals:?}"));
        assert_eq!(again.edits, [], "changes what it has made itself");
    }
}
