// SPDX-License-Identifier: Apache-2.0
//! `linux.netDevices` (config-linux.md#network-devices): devices of the runtime's network namespace that the container
//! gets.

use oci_spec::runtime::Linux;
use serde::Serialize;

use super::namespaces::{Kind, Namespaces};
use super::problem::Problems;

/// A device that moves into the container's network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetDevice {
    /// Its name in the runtime's network namespace.
    pub host: String,
    /// Its name in the container's.
    pub name: String,
}

/// Longest name of a device in bytes: the kernel's IFNAMSIZ is 16 with the NUL.
const LONGEST_NAME: usize = 15;

/// Reads `linux.netDevices`, sorted by the name on the host.
pub fn from_spec(linux: &Linux, namespaces: &Namespaces, root: bool, problems: &mut Problems) -> Vec<NetDevice> {
    let mut devices: Vec<NetDevice> = Vec::new();
    let mut entries: Vec<_> = linux.net_devices().iter().flatten().collect();
    entries.sort_by_key(|(host, _)| host.as_str());
    if entries.is_empty() {
        return devices;
    }
    if !namespaces.is_separate(Kind::Network) {
        problems.error("linux.netDevices", "needs a \"network\" entry in linux.namespaces");
    }
    if !root {
        problems.error("linux.netDevices", "an ordinary user cannot move devices of the host");
    }
    for (host, device) in entries {
        let at = format!("linux.netDevices.{host}");
        // An empty name is none, as Go's are.
        let name = device.name().as_ref().filter(|name| !name.is_empty()).unwrap_or(host);
        check(&at, host, problems);
        if name != host {
            check(&format!("{at}.name"), name, problems);
        }
        if let Some(other) = devices.iter().find(|other| other.name == *name) {
            let message = format!("{name:?} is the name of {:?} in the container already", other.host);
            problems.error(format!("{at}.name"), message);
        }
        devices.push(NetDevice { host: host.clone(), name: name.clone() });
    }
    devices
}

/// What the kernel takes for a name (dev_valid_name), less the patterns that it would fill in.
fn check(at: &str, name: &str, problems: &mut Problems) {
    let bad = |c: char| c == '/' || c == ':' || c == '%' || c == '\0' || c.is_whitespace();
    if name.is_empty() || name == "." || name == ".." || name.contains(bad) {
        let hint = "a name has no blank, no / : or %, and is not . or ..";
        problems.error_hint(at, format!("{name:?} is not the name of a network device"), hint);
    } else if name.len() > LONGEST_NAME {
        problems.error(at, format!("{name:?} has {} bytes, the kernel takes at most {LONGEST_NAME}", name.len()));
    } else if name == "lo" {
        problems.error(at, "the loopback device belongs to its network namespace; every namespace has its own");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn planned(devices: Value, namespaces: Value) -> (Vec<NetDevice>, Vec<String>) {
        let linux: Linux = serde_json::from_value(json!({"netDevices": devices, "namespaces": namespaces})).unwrap();
        let mut problems = Problems::default();
        let namespaces = Namespaces::from_spec(&linux, &mut Problems::default());
        let devices = from_spec(&linux, &namespaces, true, &mut problems);
        (devices, problems.errors.iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect())
    }

    #[test]
    fn a_device_keeps_its_name_unless_it_gets_one() {
        let (devices, faults) =
            planned(json!({"b": {}, "a": {"name": "eth0"}, "c": {"name": ""}}), json!([{"type": "network"}]));
        assert_eq!(faults, [""; 0]);
        let pairs: Vec<_> = devices.iter().map(|device| (device.host.as_str(), device.name.as_str())).collect();
        assert_eq!(pairs, [("a", "eth0"), ("b", "b"), ("c", "c")]);
        assert_eq!(planned(json!({}), json!([])), (vec![], vec![]));
    }

    #[test]
    fn faulty_devices_are_named() {
        for (devices, says) in [
            (json!({"a": {"name": "x/y"}}), "linux.netDevices.a.name: \"x/y\""),
            (json!({"a": {"name": "eth%d"}}), "linux.netDevices.a.name: \"eth%d\""),
            (json!({"a": {"name": "a b"}}), "linux.netDevices.a.name"),
            (json!({"": {"name": "x"}}), "linux.netDevices.: \"\" is not"),
            (json!({"..": {}}), "linux.netDevices...: \"..\""),
            (json!({"a": {"name": "0123456789abcdef"}}), "has 16 bytes, the kernel takes at most 15"),
            (json!({"0123456789abcdef": {"name": "x"}}), "linux.netDevices.0123456789abcdef: "),
            (json!({"lo": {"name": "x"}}), "loopback"),
            (json!({"a": {"name": "lo"}}), "loopback"),
            (json!({"a": {"name": "x"}, "b": {"name": "x"}}), "linux.netDevices.b.name: \"x\" is the name of \"a\""),
            (json!({"a": {"name": "b"}, "b": {}}), "linux.netDevices.b.name: \"b\" is the name of \"a\""),
        ] {
            let (_, faults) = planned(devices.clone(), json!([{"type": "network"}]));
            assert!(faults.len() == 1 && faults[0].contains(says), "{devices}: {faults:?}");
        }
        let (_, faults) = planned(json!({"a": {}}), json!([]));
        assert_eq!(faults, ["linux.netDevices: needs a \"network\" entry in linux.namespaces"]);
    }
}
