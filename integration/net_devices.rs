// SPDX-License-Identifier: Apache-2.0
//! `linux.netDevices`: devices move into the container, and come back if it is not made. Each test has a network namespace
//! of its own in the place of the host's.

use serde_json::{Value, json};

use crate::harness::{Bundle, Call, Output, host, runtime};
use crate::{orlop_only, skip};

/// A pair of devices, of which v0 has what is to be kept, and an address of link scope, which is not.
const PAIR: &str = "ip link add v0 mtu 1400 address 02:00:00:00:00:05 type veth peer name p0\n\
    ip link set p0 up\n\
    ip link set v0 up\n\
    ip addr add 192.0.2.5/24 brd 192.0.2.255 dev v0\n\
    ip addr add 198.51.100.1 peer 198.51.100.2/32 dev v0\n\
    ip addr add 2001:db8::5/64 dev v0 nodad\n\
    ip addr add 169.254.1.1/16 dev v0 scope link\n";

/// Runs a shell script in new network and mount namespaces, where `orlop` is the runtime and `create` makes the container.
fn script(bundle: &Bundle, text: &str) -> Output {
    bundle.write_config();
    let words = "orlop() { \"$ORLOP\" --root \"$STATE\" \"$@\"; }\n\
        create() { orlop create --bundle \"$BUNDLE\" --pid-file \"$BUNDLE/pid\" \"$ID\"; }\n\
        inside() { nsenter -n -t \"$(cat \"$BUNDLE/pid\")\" -- \"$@\"; }\n";
    let unshare = host::find_program("unshare").unwrap();
    Call::new(&unshare, &bundle.dir, bundle.layer)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("ORLOP_IT", &bundle.id)
        .env("ORLOP", runtime::program().to_str().unwrap())
        .env("STATE", bundle.state_root().to_str().unwrap())
        .env("BUNDLE", bundle.dir.to_str().unwrap())
        .env("ID", &bundle.id)
        .args(["-n", "-m", "--propagation", "private", "sh", "-ec", &format!("{words}{text}")])
        .output()
}

/// A bundle with these devices.
fn with(devices: Value) -> Bundle {
    Bundle::new().set("/linux/netDevices", devices)
}

/// The device of this name in a line of `ip -j addr`.
fn device(text: &str, name: &str) -> Option<Value> {
    let all: Value = serde_json::from_str(text).unwrap();
    all.as_array().unwrap().iter().find(|device| device["ifname"] == name).cloned()
}

/// Its addresses but for those that the kernel makes, as `ADDRESS/LENGTH`.
fn addresses(device: &Value) -> Vec<String> {
    let all = device["addr_info"].as_array().unwrap().iter();
    let mut found: Vec<String> = all
        .filter(|address| address["scope"] == "global")
        .map(|address| format!("{}/{}", address["local"].as_str().unwrap(), address["prefixlen"]))
        .collect();
    found.sort();
    found
}

#[track_caller]
fn check_equipped(device: &Value) {
    assert_eq!(addresses(device), ["192.0.2.5/24", "198.51.100.1/32", "2001:db8::5/64"], "{device}");
    let peer = device["addr_info"].as_array().unwrap().iter().find(|a| a["local"] == "198.51.100.1").unwrap();
    assert_eq!(peer["address"], "198.51.100.2");
    assert!(device["flags"].as_array().unwrap().contains(&json!("UP")), "{device}");
    assert_eq!((&device["mtu"], &device["address"]), (&json!(1400), &json!("02:00:00:00:00:05")));
}

macro_rules! needs_ip {
    () => {
        orlop_only!("moves devices into the container (runtime-spec 1.3)");
        if host::find_program("ip").is_none() {
            skip!("there is no ip(8)");
        }
    };
}

#[test]
fn a_device_moves_with_its_addresses_and_a_new_name() {
    needs_ip!();
    for bundle in [Bundle::new(), Bundle::new().userns(0, 100_000, 65_536)] {
        let bundle = bundle.set("/linux/netDevices", json!({"v0": {"name": "eth7"}, "w0": {}}));
        let text = format!("{PAIR}ip link add w0 type veth peer name q0\ncreate\ninside ip -j addr\nip -j addr");
        let out = script(&bundle, &text).ok();
        let lines: Vec<&str> = out.stdout.lines().collect();
        let moved = device(lines[0], "eth7").unwrap();
        check_equipped(&moved);
        assert!(!moved.to_string().contains("169.254.1.1"), "{moved}");
        assert!(device(lines[0], "w0").unwrap()["flags"].as_array().unwrap().contains(&json!("UP")));
        assert!(device(lines[0], "lo").unwrap()["flags"].as_array().unwrap().contains(&json!("UP")));
        assert!(device(lines[1], "v0").is_none() && device(lines[1], "p0").is_some(), "{out}");
    }
}

#[test]
fn devices_are_given_back_when_the_container_is_not_made() {
    needs_ip!();
    let hook = |bundle: &Bundle| json!([{"path": bundle.rootfs().join("probe"), "args": ["probe", "exit", "3"]}]);
    let missing = with(json!({"v0": {"name": "eth7"}, "zz": {}}));
    let program = with(json!({"v0": {"name": "eth7"}})).args(["/nonexistent"]);
    let bundle = with(json!({"v0": {"name": "eth7"}}));
    let hook = hook(&bundle);
    let failing_hook = bundle.set("/hooks/createRuntime", hook);
    for (bundle, says) in [
        (missing, "linux.netDevices.zz: the runtime's network namespace has no such device"),
        (program, "/nonexistent"),
        (failing_hook, "createRuntime"),
    ] {
        let out = script(&bundle, &format!("{PAIR}if create; then exit 9; fi\nip -j addr")).ok();
        assert!(out.stderr.contains(says) && !out.stderr.contains("not given back"), "{out}");
        check_equipped(&device(&out.stdout, "v0").unwrap());
        bundle.check_clean();
    }
    // One that was down comes back so.
    let bundle = with(json!({"v0": {"name": "eth7"}})).args(["/nonexistent"]);
    let out = script(&bundle, &format!("{PAIR}ip link set v0 down\nif create; then exit 9; fi\nip -j addr")).ok();
    assert!(!device(&out.stdout, "v0").unwrap()["flags"].as_array().unwrap().contains(&json!("UP")), "{out}");
}

#[test]
fn a_network_namespace_that_is_joined_gets_the_device_unless_the_name_is_taken() {
    needs_ip!();
    let joining = |devices: Value| {
        let bundle = with(devices);
        let path = bundle.dir.join("net").to_str().unwrap().to_string();
        bundle.join_ns("network", &path)
    };
    let joined = "touch \"$BUNDLE/net\"\n\
        unshare --net=\"$BUNDLE/net\" ip link add taken type veth peer name other\n";
    let bundle = joining(json!({"v0": {"name": "eth7"}}));
    let out = script(&bundle, &format!("{PAIR}{joined}create\nnsenter --net=\"$BUNDLE/net\" ip -j addr")).ok();
    check_equipped(&device(&out.stdout, "eth7").unwrap());
    let bundle = joining(json!({"v0": {"name": "taken"}}));
    let out = script(&bundle, &format!("{PAIR}{joined}if create; then exit 9; fi\nip -j addr")).ok();
    assert!(out.stderr.contains("linux.netDevices.v0: the container's network namespace has a device"), "{out}");
    check_equipped(&device(&out.stdout, "v0").unwrap());
    // The runtime's own namespace by a path is not the container's.
    let bundle = with(json!({"v0": {}})).join_ns("network", "/proc/self/ns/net");
    let out = script(&bundle, &format!("{PAIR}if create; then exit 9; fi\nip -j addr")).ok();
    assert!(out.stderr.contains("linux.netDevices: the \"network\" namespace to join is the host's"), "{out}");
    check_equipped(&device(&out.stdout, "v0").unwrap());
}

#[test]
fn devices_that_cannot_move_are_named() {
    needs_ip!();
    let long = "0123456789abcdef";
    for (bundle, says) in [
        (with(json!({"v0": {}})).without_ns("network"), "linux.netDevices: needs a \"network\" entry"),
        (with(json!({"v0": {"name": long}})), "linux.netDevices.v0.name"),
        (with(json!({"v0": {"name": "a/b"}})), "linux.netDevices.v0.name"),
        (with(json!({"lo": {"name": "x"}})), "linux.netDevices.lo"),
        (with(json!({"v0": {"name": "x"}, "p0": {"name": "x"}})), "linux.netDevices.v0.name"),
        (with(json!({"v0": []})), "expected an object"),
        (with(json!({"nothing": {}})), "no such device"),
    ] {
        let out = script(&bundle, &format!("{PAIR}if create; then exit 9; fi\nip -j addr")).ok();
        assert!(out.stderr.contains(says), "{out}");
        check_equipped(&device(&out.stdout, "v0").unwrap());
        bundle.check_clean();
    }
    let bundle = with(json!({"v9": {}}));
    let out = script(&bundle, "if orlop check \"$BUNDLE\"; then exit 9; fi").ok();
    assert!(out.stdout.contains("linux.netDevices.v9"), "{out}");
}
