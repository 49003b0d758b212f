// SPDX-License-Identifier: Apache-2.0
//! The configuration tests start from, and edits by JSON pointer.

use serde_json::{Value, json};

/// The capabilities of the base configuration. None of them is CAP_SYS_RESOURCE, which the machine may lack.
pub const CAPS: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

/// Six new namespaces, the usual mounts, few capabilities, no seccomp.
pub fn base(cgroup: &str) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/probe"],
            "env": ["PATH=/bin:/"],
            "cwd": "/",
            "capabilities": {"bounding": CAPS, "effective": CAPS, "permitted": CAPS},
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": false},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"},
                {"type": "cgroup"}
            ]
        }
    })
}

fn split(pointer: &str) -> (&str, &str) {
    pointer.rsplit_once('/').unwrap_or_else(|| panic!("{pointer}: a JSON pointer begins with a slash"))
}

/// The value at `pointer`, with empty objects made on the way.
fn entry<'a>(config: &'a mut Value, pointer: &str) -> &'a mut Value {
    let mut at = config;
    for key in pointer.split('/').skip(1) {
        at = match key.parse::<usize>() {
            Ok(index) if at.is_array() => &mut at[index],
            _ => {
                if at.is_null() {
                    *at = json!({});
                }
                &mut at[key]
            }
        };
    }
    at
}

pub fn set(config: &mut Value, pointer: &str, value: Value) {
    *entry(config, pointer) = value;
}

pub fn push(config: &mut Value, pointer: &str, value: Value) {
    let list = entry(config, pointer);
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut().unwrap().push(value);
}

pub fn remove(config: &mut Value, pointer: &str) {
    let (parent, key) = split(pointer);
    match entry(config, parent) {
        Value::Object(map) => {
            map.remove(key);
        }
        Value::Array(list) => {
            list.remove(key.parse().unwrap());
        }
        other => panic!("{pointer}: nothing to remove in {other}"),
    }
}
