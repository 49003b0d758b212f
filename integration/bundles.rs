// SPDX-License-Identifier: Apache-2.0
//! The bundles of `integration/bundles`, which are what engines really write, and what a process inside sees of each.

use serde_json::{Value, json};

use crate::harness::{Bundle, Flavor, flavor, host, own_ns};

const DEFAULT: &str = include_str!("bundles/default.json");
const DOCKER: &str = include_str!("bundles/docker.json");
const DOCKER_NNP: &str = include_str!("bundles/docker-nnp.json");
const USERNS: &str = include_str!("bundles/userns.json");
const MINIMAL: &str = include_str!("bundles/minimal.json");

fn bundle(text: &str) -> Bundle {
    let bundle = Bundle::new();
    let bundle = bundle.with_config(text);
    // crun 1.8 knows no version after 1.0.
    if flavor() == Flavor::Crun { bundle.set("/ociVersion", "1.0.2") } else { bundle }
}

/// The mask that /proc/self/status shows for a list of names.
fn mask(names: &Value) -> String {
    const ALL: [&str; 41] = [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ];
    let bit = |name: &Value| {
        let name = name.as_str().unwrap().strip_prefix("CAP_").unwrap();
        1u64 << ALL.iter().position(|n| *n == name).unwrap()
    };
    let bits = names.as_array().map_or(0, |list| list.iter().map(bit).fold(0, |a, b| a | b));
    format!("{bits:016x}")
}

/// Compares what is seen with the configuration, field by field.
fn agrees(bundle: &Bundle) {
    let config = &bundle.config;
    let seen = bundle.report();
    let process = &config["process"];
    for set in ["bounding", "effective", "permitted"] {
        assert_eq!(seen["caps"][set], mask(&process["capabilities"][set]), "{set}");
    }
    for set in ["inheritable", "ambient"] {
        assert_eq!(seen["caps"][set], mask(process["capabilities"].get(set).unwrap_or(&Value::Null)), "{set}");
    }
    assert_eq!(seen["no_new_privs"], i32::from(process["noNewPrivileges"] == true));
    assert_eq!(seen["seccomp"], if config["linux"].get("seccomp").is_some() { 2 } else { 0 });
    assert_eq!(seen["cwd"], process["cwd"]);
    for limit in process["rlimits"].as_array().unwrap_or(&Vec::new()) {
        let kind = limit["type"].as_str().unwrap();
        assert_eq!(seen["rlimits"][kind], json!([limit["soft"], limit["hard"]]), "{kind}");
    }
    if let Some(name) = config.get("hostname") {
        assert_eq!(&seen["hostname"], name);
    }
    for (name, kind) in [
        ("pid", "pid"),
        ("mount", "mnt"),
        ("uts", "uts"),
        ("ipc", "ipc"),
        ("network", "net"),
        ("cgroup", "cgroup"),
        ("user", "user"),
    ] {
        let new = config["linux"]["namespaces"].as_array().unwrap().iter().any(|ns| ns["type"] == name);
        assert_eq!(seen["ns"][kind] != own_ns(kind).as_str(), new, "{kind}");
    }
    let maps: Vec<Value> = config["linux"]["uidMappings"]
        .as_array()
        .unwrap_or(&Vec::new())
        .iter()
        .map(|m| json!([m["containerID"], m["hostID"], m["size"]]))
        .collect();
    if !maps.is_empty() {
        assert_eq!(seen["uid_map"], json!(maps));
    }
    for mount in config["mounts"].as_array().unwrap() {
        let dest = mount["destination"].as_str().unwrap();
        assert!(seen["mounts"].as_array().unwrap().iter().any(|m| m["dest"] == dest), "nothing at {dest}");
    }
    bundle.check_clean();
}

/// crun 1.8 raises a limit for device rules, which the machine may not allow.
fn crun_cannot(text: &str) -> bool {
    flavor() == Flavor::Crun && !host::has_capability(24) && text.contains("\"devices\"")
}

macro_rules! bundle_test {
    ($name:ident, $text:ident) => {
        #[test]
        fn $name() {
            if crun_cannot($text) {
                crate::skip_expected!("crun differs: 1.8 raises RLIMIT_MEMLOCK, which needs CAP_SYS_RESOURCE");
            }
            agrees(&bundle($text));
        }
    };
}

bundle_test!(default_as_runc_spec_emits_it, DEFAULT);
bundle_test!(docker_as_moby_writes_it, DOCKER);
bundle_test!(docker_with_no_new_privileges, DOCKER_NNP);
bundle_test!(minimal, MINIMAL);

#[test]
fn userns_with_65536_ids() {
    if crun_cannot(USERNS) {
        crate::skip_expected!("crun differs: 1.8 raises RLIMIT_MEMLOCK, which needs CAP_SYS_RESOURCE");
    }
    agrees(&bundle(USERNS));
}
