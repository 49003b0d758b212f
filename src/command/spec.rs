// SPDX-License-Identifier: Apache-2.0
//! `orlop spec`.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Result, anyhow};
use nix::unistd::{getegid, geteuid};
use serde_json::{Value, json};

use crate::cli::SpecArgs;
use crate::error::ResultExt;
use crate::spec::OCI_VERSION;

/// Writes a config.json to begin with: a shell on a terminal, confined as runc's `spec` has it.
pub fn spec(args: &SpecArgs) -> Result<u8> {
    let path = args.bundle.as_deref().unwrap_or(Path::new(".")).join("config.json");
    let mut config = default();
    if args.rootless {
        make_rootless(&mut config);
    }
    let text = serde_json::to_string_pretty(&config)?;
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o666)
        .open(&path)
        .and_then(|mut file| file.write_all(format!("{text}\n").as_bytes()))
        .map_err(|e| anyhow!("spec: {}: {}", path.display(), crate::sys::describe_io(&e)))
        .hint("orlop spec writes into an existing directory and overwrites nothing")?;
    Ok(0)
}

fn default() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "orlop",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "cgroup"}
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

/// Only the caller's own id can be mapped without help, a group without a mapping cannot own the terminals, and sysfs and
/// cgroups are the host's.
fn make_rootless(config: &mut Value) {
    let own = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    if let Some(linux) = config.get_mut("linux").and_then(Value::as_object_mut) {
        linux.remove("resources");
        linux.insert("uidMappings".into(), own(geteuid().as_raw()));
        linux.insert("gidMappings".into(), own(getegid().as_raw()));
        if let Some(namespaces) = linux.get_mut("namespaces").and_then(Value::as_array_mut) {
            namespaces.retain(|entry| entry.get("type") != Some(&json!("network")));
            namespaces.push(json!({"type": "user"}));
        }
    }
    if let Some(mounts) = config.get_mut("mounts").and_then(Value::as_array_mut) {
        mounts.retain(|mount| mount.get("destination") != Some(&json!("/sys/fs/cgroup")));
        for mount in mounts {
            if mount.get("destination") == Some(&json!("/sys")) {
                *mount = json!({"destination": "/sys", "type": "none", "source": "/sys",
                    "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
            } else if let Some(options) = mount.get_mut("options").and_then(Value::as_array_mut) {
                options.retain(|option| option != &json!("gid=5"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_configs_fit_the_specification() {
        let mut config = default();
        serde_json::from_value::<crate::plan::config::Spec>(config.clone()).unwrap();
        make_rootless(&mut config);
        let spec = serde_json::from_value::<crate::plan::config::Spec>(config).unwrap();
        assert_eq!(spec.linux.as_ref().unwrap().uid_mappings().as_ref().unwrap().len(), 1);
    }
}
