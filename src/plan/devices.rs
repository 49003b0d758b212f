// SPDX-License-Identifier: Apache-2.0
//! Device nodes: the default ones (config-linux.md#default-devices) and `linux.devices[]`.

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use serde::Serialize;

use super::filesystem::InRoot;
use super::problem::Problems;

/// What kind of node a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    Char,
    Block,
    Fifo,
}

/// A device node of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Its index in `linux.devices[]`; none for a default device.
    pub index: Option<usize>,
    pub path: InRoot,
    pub kind: DeviceKind,
    pub major: u32,
    pub minor: u32,
    /// Permission bits, exactly: the umask does not apply.
    pub mode: u32,
    /// Owner inside the container.
    pub uid: u32,
    /// Group inside the container.
    pub gid: u32,
    /// Bind the host's node instead of making one, since `mknod(2)` needs CAP_MKNOD in the initial user namespace.
    pub bind: bool,
}

impl Device {
    /// How a message names it: `linux.devices[0] /dev/fuse`.
    pub fn name(&self) -> String {
        match self.index {
            Some(i) => format!("linux.devices[{i}] {}", self.path),
            None => format!("default device {}", self.path),
        }
    }
}

const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// The largest numbers that the kernel's `dev_t` holds: 12 bits of major, 20 of minor.
const LARGEST: (i64, i64) = (0xfff, 0xf_ffff);

/// The nodes to make: the configured ones, then the defaults whose path is not configured. Problems name
/// `linux.devices[i]` and the field.
pub fn plan(configured: &[LinuxDevice], bind: bool, problems: &mut Problems) -> Vec<Device> {
    let mut devices: Vec<Device> = Vec::with_capacity(configured.len() + DEFAULTS.len());
    for (i, device) in configured.iter().enumerate() {
        let Some(device) = plan_one(i, device, bind, problems) else { continue };
        if let Some(first) = devices.iter().find(|d| d.path == device.path) {
            let at = format!("linux.devices[{i}].path");
            let same = (first.kind, first.major, first.minor) == (device.kind, device.major, device.minor);
            match (same, first.name()) {
                (true, first) => problems.warn(at, format!("is given twice; {first} counts")),
                (false, first) => problems.error(at, format!("is another device than {first}")),
            }
        } else {
            devices.push(device);
        }
    }
    for (path, major, minor) in DEFAULTS {
        let Some(path) = InRoot::new("linux.devices", path, problems) else { continue };
        if !devices.iter().any(|d| d.path == path) {
            let kind = DeviceKind::Char;
            devices.push(Device { index: None, path, kind, major, minor, mode: 0o666, uid: 0, gid: 0, bind });
        }
    }
    devices
}

fn plan_one(i: usize, device: &LinuxDevice, bind: bool, problems: &mut Problems) -> Option<Device> {
    let at = |field: &str| format!("linux.devices[{i}].{field}");
    let text = device.path().to_string_lossy();
    let path = InRoot::new(at("path"), &text, problems);
    if !text.starts_with('/') || path.as_ref().is_some_and(InRoot::is_root) {
        problems.error(at("path"), format!("{text:?} is not the absolute path of a device"));
        return None;
    }
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::P => DeviceKind::Fifo,
        LinuxDeviceType::A => {
            problems.error(at("type"), "must be one of c, u, b, p");
            return None;
        }
    };
    let mut number = |field: &str, value: i64, largest: i64| match u32::try_from(value) {
        _ if kind == DeviceKind::Fifo => Some(0),
        Ok(number) if value <= largest => Some(number),
        _ => {
            problems.error(at(field), format!("{value} is not between 0 and {largest}"));
            None
        }
    };
    let (major, minor) = (number("major", device.major(), LARGEST.0), number("minor", device.minor(), LARGEST.1));
    Some(Device {
        index: Some(i),
        path: path?,
        kind,
        major: major?,
        minor: minor?,
        // Callers copy st_mode whole, with the bits of the file type.
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
        bind: bind && kind != DeviceKind::Fifo,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn planned(devices: Value, bind: bool) -> (Vec<Device>, Problems) {
        let devices: Vec<LinuxDevice> = serde_json::from_value(devices).unwrap();
        let mut problems = Problems::default();
        let devices = plan(&devices, bind, &mut problems);
        (devices, problems)
    }

    #[test]
    fn the_defaults_are_always_there_and_can_be_replaced() {
        let (devices, problems) = planned(json!([]), false);
        assert_eq!(devices.len(), 6);
        assert!(devices.iter().all(|d| d.mode == 0o666 && d.index.is_none() && !d.bind));
        assert_eq!(problems, Problems::default());
        let (devices, _) =
            planned(json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 8624}]), true);
        assert_eq!(devices.len(), 6);
        assert_eq!((devices[0].index, devices[0].mode, devices[0].bind), (Some(0), 0o660, true));
    }

    #[test]
    fn types() {
        let (devices, _) = planned(
            json!([
                {"path": "/dev/a", "type": "u", "major": 10, "minor": 229},
                {"path": "/dev/b", "type": "b", "major": 8, "minor": 0, "uid": 1, "gid": 2},
                {"path": "/dev/p", "type": "p"},
            ]),
            true,
        );
        assert_eq!(devices[0].kind, DeviceKind::Char);
        assert_eq!((devices[1].kind, devices[1].uid, devices[1].gid), (DeviceKind::Block, 1, 2));
        assert_eq!((devices[2].kind, devices[2].bind), (DeviceKind::Fifo, false));
    }

    #[test]
    fn faults_have_their_json_path() {
        for (device, path) in [
            (json!({"path": "dev/x", "type": "c", "major": 1, "minor": 3}), "linux.devices[0].path"),
            (json!({"path": "/", "type": "c", "major": 1, "minor": 3}), "linux.devices[0].path"),
            (json!({"path": "/dev/\u{0}", "type": "c", "major": 1, "minor": 3}), "linux.devices[0].path"),
            (json!({"path": "/dev/x", "type": "a", "major": 1, "minor": 3}), "linux.devices[0].type"),
            (json!({"path": "/dev/x", "type": "c", "major": -1, "minor": 3}), "linux.devices[0].major"),
            (json!({"path": "/dev/x", "type": "b", "major": 1, "minor": 1 << 20}), "linux.devices[0].minor"),
        ] {
            let (_, problems) = planned(json!([device]), false);
            assert_eq!(problems.errors[0].path, path, "{device}");
        }
    }

    #[test]
    fn one_path_is_one_device() {
        let one = json!({"path": "/dev/x", "type": "c", "major": 1, "minor": 3});
        let (devices, problems) = planned(json!([one, one]), false);
        assert_eq!((devices.len(), problems.errors.len(), problems.warnings.len()), (7, 0, 1));
        let zero = json!({"path": "/dev/./x", "type": "c", "major": 1, "minor": 5});
        let (_, problems) = planned(json!([one, zero]), false);
        assert_eq!(problems.errors[0].path, "linux.devices[1].path");
    }
}
