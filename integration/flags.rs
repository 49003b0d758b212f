// SPDX-License-Identifier: Apache-2.0
//! Flags and commands that only some callers use: ps, --pidfd-socket, --systemd-cgroup, --rootless, the log.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use crate::harness::{Bundle, Flavor, flavor, runtime};
use crate::{orlop_only, peer_differs};

#[test]
fn ps_lists_the_processes_as_a_table_and_as_json() {
    let bundle = Bundle::new().args(["/probe", "fork", "2", ",", "wait"]);
    bundle.create();
    bundle.start();
    bundle.wait_printed(2);
    let all: Value = bundle.call(["ps", "--format", "json", &bundle.id]).output().json();
    let pids = all.as_array().unwrap();
    assert_eq!(pids.len(), 3, "{all}");
    assert!(pids.contains(&json!(bundle.pid())), "{all}");
    let table = bundle.call(["ps", &bundle.id]).output().ok().stdout;
    let mut lines = table.lines();
    assert!(lines.next().unwrap().contains("PID"), "{table}");
    assert_eq!(lines.count(), 3, "{table}");
}

#[test]
fn ps_of_nothing_fails() {
    Bundle::new().call(["ps", "--format", "json", "nosuch"]).output().fails();
}

#[test]
fn the_pidfd_socket_gets_a_descriptor_of_init() {
    peer_differs!("runc", "1.1.5 has no --pidfd-socket");
    peer_differs!("crun", "has no --pidfd-socket");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    let path = bundle.dir.join("pidfd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let out = bundle.try_create(&["--pidfd-socket", path.to_str().unwrap()]);
    if out.stderr.contains("--pidfd-socket") || out.stderr.contains("pidfd-socket") {
        // Not carried out, and said so.
        out.fails_with(&["pidfd-socket"]);
        bundle.check_clean();
        return;
    }
    out.ok();
    listener.set_nonblocking(true).unwrap();
    let (stream, _) = listener.accept().expect("the runtime did not connect");
    let (fd, _) = crate::tty::receive_fd(stream.as_raw_fd());
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
    let pid = info.lines().find_map(|l| l.strip_prefix("Pid:")).unwrap_or_else(|| panic!("no pidfd: {info}"));
    assert_eq!(pid.trim(), bundle.pid().to_string());
}

#[test]
fn rootless_takes_three_words() {
    peer_differs!("crun", "1.8 has the flag for compatibility only");
    for word in ["true", "false", "auto"] {
        Bundle::new().call([&format!("--rootless={word}"), "list"]).output().ok();
    }
    peer_differs!("runc", "1.1.5 looks at the word only where it matters");
    Bundle::new().call(["--rootless=perhaps", "list"]).output().fails_with(&["--rootless"]);
}

#[test]
fn debug_tells_more_and_nothing_else_changes() {
    let bundle = Bundle::new().args(["/probe", "echo", "x"]);
    bundle.write_config();
    let (log, dir) = (bundle.dir.join("log"), bundle.dir.to_str().unwrap());
    let out = bundle
        .call(["--debug", "--log", log.to_str().unwrap(), "--log-format", "json", "run", "--bundle", dir, &bundle.id])
        .output();
    assert_eq!(out.json()["echo"][0], "x");
    let entries = runtime::lines(&fs::read_to_string(&log).unwrap_or_default());
    if flavor() == Flavor::Orlop {
        assert!(entries.iter().any(|e| e["level"] == "debug"), "{entries:?}");
        assert!(entries.iter().all(|e| e["level"] != "error"), "{entries:?}");
        for entry in &entries {
            assert!(entry["time"].as_str().is_some_and(|t| t.contains('T')) && entry["msg"].is_string(), "{entry}");
        }
    }
}

#[test]
fn the_log_is_appended_to() {
    let bundle = Bundle::new();
    let log = bundle.dir.join("log");
    fs::write(&log, "{\"earlier\": true}\n").unwrap();
    bundle.call(["--log", log.to_str().unwrap(), "--log-format", "json", "state", "nosuch"]).output().fails();
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.starts_with("{\"earlier\": true}\n") && text.lines().count() >= 2, "{text}");
}

#[test]
fn notify_socket_does_not_hang_or_leak() {
    orlop_only!("is told that nobody listens");
    let bundle = Bundle::new().args(["/probe"]);
    let seen = bundle.call_new("run", &[]).env("NOTIFY_SOCKET", "/no/such.sock").output();
    assert!(!seen.json()["env"].to_string().contains("/no/such.sock"));
    assert!(seen.stderr.contains("NOTIFY_SOCKET") && seen.stderr.contains("no such file"), "{seen}");
}

#[test]
fn two_containers_of_one_bundle_live_side_by_side() {
    let bundle = Bundle::new().args(["/probe", "wait"]).remove("/linux/cgroupsPath");
    bundle.create();
    let dir = bundle.dir.to_str().unwrap();
    let second = format!("{}-b", bundle.id);
    bundle.call(["create", "--bundle", dir, &second]).output().ok();
    let ids = bundle.call(["list", "-q"]).output().ok().stdout;
    assert_eq!(ids.lines().count(), 2, "{ids}");
    bundle.call(["delete", "--force", &second]).output().ok();
    assert_eq!(bundle.state()["status"], "created");
}

#[test]
fn the_state_root_is_closed_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let bundle = Bundle::new().args(["/probe", "wait"]);
    let root = bundle.dir.join("own-root");
    bundle.write_config();
    let call = |args: &[&str]| {
        runtime::Call::new(&runtime::program(), &bundle.dir, bundle.layer)
            .env("ORLOP_IT", &bundle.id)
            .args(["--root", root.to_str().unwrap()])
            .args(args)
    };
    call(&["create", "--bundle", bundle.dir.to_str().unwrap(), &bundle.id]).output().ok();
    let mode = fs::metadata(&root).unwrap().permissions().mode() & 0o777;
    call(&["delete", "--force", &bundle.id]).output().ok();
    assert_eq!(mode & 0o022, 0, "writable for others: {mode:o}");
    if flavor() != Flavor::Crun {
        assert_eq!(mode, 0o700);
    }
}
