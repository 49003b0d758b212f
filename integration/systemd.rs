// SPDX-License-Identifier: Apache-2.0
//! `--systemd-cgroup`: where systemd is PID 1, that the unit has the limits and goes with the container; anywhere else, that
//! a bus which is not there, or is none, is an error that leaves nothing.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::harness::{Bundle, host};
use crate::{orlop_only, skip_expected};

macro_rules! needs_systemd {
    () => {
        if !Path::new("/run/systemd/system").exists() || !host::is_v2() {
            skip_expected!("systemd is not PID 1 here with cgroup v2 alone");
        }
    };
}

/// A bundle whose unit is `orlop-ID.scope` in a slice of a slice.
fn bundle() -> Bundle {
    let bundle = Bundle::new().args(["/probe", "wait"]);
    let path = format!("orlopit-sub.slice:orlop:{}", bundle.id);
    bundle.set("/linux/cgroupsPath", path)
}

fn unit(bundle: &Bundle) -> String {
    format!("orlop-{}.scope", bundle.id)
}

fn cgroup(bundle: &Bundle) -> PathBuf {
    Path::new("/sys/fs/cgroup/orlopit.slice/orlopit-sub.slice").join(unit(bundle))
}

fn run(bundle: &Bundle) {
    bundle.write_config();
    let dir = bundle.dir.to_str().unwrap();
    bundle.call(["--systemd-cgroup", "run", "--detach", "--bundle", dir, &bundle.id]).output().ok();
}

fn show(unit: &str, property: &str) -> String {
    let out = Command::new("systemctl").args(["show", "--value", "--property", property, unit]).output().unwrap();
    String::from_utf8_lossy(&out.stdout).trim().to_string()
}

fn read(bundle: &Bundle, file: &str) -> String {
    fs::read_to_string(cgroup(bundle).join(file)).unwrap().trim().to_string()
}

/// Deletes the container; neither unit nor cgroup may be left.
fn delete(bundle: &Bundle) {
    bundle.call(["delete", "--force", &bundle.id]).output().ok();
    assert_eq!(show(&unit(bundle), "LoadState"), "not-found");
    assert!(!cgroup(bundle).exists());
}

#[test]
fn systemd_makes_the_unit_and_forgets_it() {
    orlop_only!("names its scopes so");
    needs_systemd!();
    let bundle = bundle()
        .set("/linux/resources/memory", json!({"limit": 67_108_864, "swap": 100_663_296}))
        .set("/linux/resources/pids", json!({"limit": 50}))
        .set("/linux/resources/cpu", json!({"shares": 512, "quota": 33_333}))
        .set("/annotations", json!({"org.systemd.property.TimeoutStopSec": "uint64 7"}));
    run(&bundle);
    let name = unit(&bundle);
    for (property, value) in [
        ("ActiveState", "active"),
        ("Slice", "orlopit-sub.slice"),
        ("Delegate", "yes"),
        ("DefaultDependencies", "no"),
        ("MemoryMax", "67108864"),
        ("MemorySwapMax", "33554432"),
        ("TasksMax", "50"),
        ("CPUWeight", "59"),
        ("CPUQuotaPerSecUSec", "340ms"),
        ("TimeoutStopUSec", "7s"),
        ("DevicePolicy", "strict"),
    ] {
        assert_eq!(show(&name, property), value, "{property}");
    }
    assert_eq!(read(&bundle, "cpu.max"), "34000 100000");
    // Init alone: what held the scope open is gone.
    assert_eq!(read(&bundle, "cgroup.procs").lines().count(), 1);
    assert!(Command::new("systemctl").arg("daemon-reload").status().unwrap().success());
    bundle.call(["audit", &bundle.id]).output().ok();
    bundle.call(["update", "--memory", "128M", "--pids-limit", "60", &bundle.id]).output().ok();
    assert_eq!((show(&name, "MemoryMax").as_str(), show(&name, "TasksMax").as_str()), ("134217728", "60"));
    assert_eq!(read(&bundle, "memory.max"), "134217728");
    bundle.call(["audit", &bundle.id]).output().ok();
    delete(&bundle);
}

#[test]
fn a_single_task_is_enough_of_a_limit() {
    orlop_only!("holds the scope open with a process of its own");
    needs_systemd!();
    let bundle = bundle().set("/linux/resources/pids", json!({"limit": 1}));
    run(&bundle);
    assert_eq!(read(&bundle, "pids.current"), "1");
    delete(&bundle);
}

#[test]
fn a_unit_in_use_is_left_alone() {
    orlop_only!("has these words");
    needs_systemd!();
    let (first, second) = (bundle(), bundle());
    run(&first);
    let path = first.config["linux"]["cgroupsPath"].clone();
    let second = second.set("/linux/cgroupsPath", path);
    second.write_config();
    let dir = second.dir.to_str().unwrap();
    second.call(["--systemd-cgroup", "create", "--bundle", dir, &second.id]).output().fails_with(&["UnitExists"]);
    second.check_clean();
    assert_eq!(show(&unit(&first), "ActiveState"), "active");
    delete(&first);
}

#[test]
fn a_property_that_systemd_does_not_know_leaves_nothing() {
    orlop_only!("has these words");
    needs_systemd!();
    let bundle = bundle().set("/annotations", json!({"org.systemd.property.NoSuchThing": "true"}));
    bundle.write_config();
    let dir = bundle.dir.to_str().unwrap();
    bundle.call(["--systemd-cgroup", "create", "--bundle", dir, &bundle.id]).output().fails_with(&["NoSuchThing"]);
    bundle.check_clean();
    assert_eq!(show(&unit(&bundle), "LoadState"), "not-found");
}

#[test]
fn no_bus_is_an_error_that_leaves_nothing() {
    orlop_only!("has these words");
    let bundle = bundle();
    bundle.write_config();
    let create = |address: &str| {
        let dir = bundle.dir.to_str().unwrap();
        let call = bundle.call(["--systemd-cgroup", "create", "--bundle", dir, &bundle.id]);
        call.env("DBUS_SYSTEM_BUS_ADDRESS", address).env("DBUS_SESSION_BUS_ADDRESS", address).output()
    };
    create("unix:path=/no/such/bus").fails_with(&["--systemd-cgroup", "/no/such/bus", "hint"]);
    create("tcp:host=localhost").fails_with(&["--systemd-cgroup", "no address of a UNIX socket"]);
    // One that lets nobody in, and one that speaks something else.
    for (said, word) in [("REJECTED EXTERNAL\r\n", "does not let uid"), ("HTTP/1.1 400\r\n", "does not let uid")] {
        let path = bundle.dir.join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::Builder::new()
            .spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut first = [0; 1];
                stream.read_exact(&mut first).unwrap();
                stream.write_all(said.as_bytes()).unwrap();
                // Until the other side has had enough.
                drop(stream.read_to_end(&mut Vec::new()));
            })
            .unwrap();
        create(&format!("unix:path={}", path.display())).fails_with(&["--systemd-cgroup", word]);
        server.join().unwrap();
        fs::remove_file(&path).unwrap();
    }
    bundle.check_clean();
}

#[test]
fn a_path_of_another_form_is_refused_with_the_flag() {
    orlop_only!("says what it expects at the field");
    needs_systemd!();
    let bundle = bundle().set("/linux/cgroupsPath", "/a/b");
    bundle.write_config();
    let dir = bundle.dir.to_str().unwrap();
    let out = bundle.call(["--systemd-cgroup", "create", "--bundle", dir, &bundle.id]).output();
    out.fails_with(&["linux.cgroupsPath", "slice:prefix:name"]);
    bundle.check_clean();
}
