// SPDX-License-Identifier: Apache-2.0
//! Bad input: one clear line for each fault, exit 1, nothing left behind.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Bundle, Flavor, flavor, runtime};
use crate::{orlop_only, peer_differs};

/// Fails the test unless creating it fails with exit 1, in these words, without a trace.
#[track_caller]
fn refused(bundle: &Bundle, words: &[&str]) -> crate::harness::Output {
    let out = bundle.try_create(&[]).fails_with(words);
    assert_eq!(out.code(), 1, "{out}");
    assert!(out.stdout.is_empty(), "errors go to stderr: {out}");
    bundle.check_clean();
    out
}

#[test]
fn a_missing_config() {
    let bundle = Bundle::new();
    let dir = bundle.dir.to_str().unwrap();
    bundle.call(["create", "--bundle", dir, &bundle.id]).output().fails_with(&["config.json"]);
    bundle.call(["create", "--bundle", "/no/such/bundle", &bundle.id]).output().fails_with(&["/no/such/bundle"]);
    bundle.check_clean();
}

#[test]
fn broken_json_is_shown_with_line_column_and_caret() {
    orlop_only!("shows the line");
    let bundle = Bundle::new().raw_config("{\n  \"ociVersion\": \"1.0.2\",\n  \"process\": {,}\n}\n");
    let out = refused(&bundle, &["config.json:3:15"]);
    let lines: Vec<&str> = out.stderr.lines().collect();
    let at = lines.iter().position(|l| l.contains("\"process\": {,}")).unwrap_or_else(|| panic!("{out}"));
    let caret = lines[at + 1].find('^').unwrap_or_else(|| panic!("{out}"));
    assert_eq!(caret, lines[at].find(",}").unwrap(), "{out}");
}

#[test]
fn broken_json_is_refused() {
    for text in
        ["", "{", "null", "[]", "{\"ociVersion\": ", "\u{0}", "{}", "\"x\"", "{\"ociVersion\": \"1.0.2\"} trailing"]
    {
        if flavor() != Flavor::Orlop && ["null", "{}", "[]"].contains(&text) {
            continue; // Older peers crash or go on.
        }
        let bundle = Bundle::new().raw_config(text);
        bundle.try_create(&[]).fails();
        bundle.delete_force().ok();
        bundle.check_clean();
    }
}

#[test]
fn a_wrong_type_is_shown_with_line_and_column() {
    orlop_only!("shows the line");
    let bundle = Bundle::new().set("/process/cwd", 7);
    refused(&bundle, &["config.json:", "invalid type", "string", "^"]);
    let bundle = Bundle::new().set("/process/user/uid", "root");
    refused(&bundle, &["config.json:", "invalid type", "root", "^"]);
}

#[test]
fn wrong_types_are_refused() {
    for (pointer, value) in [
        ("/process/args", json!("echo")),
        ("/process/user/uid", json!("root")),
        ("/process/user/uid", json!(-1)),
        ("/process/user/uid", json!(4_294_967_296u64)),
        ("/root", json!("rootfs")),
        ("/mounts", json!({})),
        ("/linux/namespaces", json!("pid")),
        ("/process/noNewPrivileges", json!("yes")),
        ("/process/capabilities/bounding", json!("CAP_KILL")),
        ("/linux/resources", json!([])),
    ] {
        if flavor() == Flavor::Crun {
            crate::skip_expected!("crun differs: 1.8 takes several of them as absent");
        }
        let bundle = Bundle::new().set(pointer, value.clone());
        let out = bundle.try_create(&[]);
        assert!(!out.status.success(), "{pointer} = {value}: {out}");
        out.fails();
        bundle.check_clean();
    }
}

#[test]
fn several_faults_are_reported_at_once_with_their_paths() {
    orlop_only!("reports all of them");
    let bundle = Bundle::new()
        .without_ns("uts")
        .set("/hostname", "box")
        .set("/process/cwd", "relative")
        .push("/linux/namespaces", json!({"type": "nonsense"}))
        .push("/linux/namespaces", json!({"type": "pid"}))
        .set("/process/rlimits", json!([{"type": "RLIMIT_NONSENSE", "soft": 1, "hard": 1}]));
    let out = bundle.try_create(&[]).fails();
    assert_eq!(out.code(), 1);
    let one_pass = ["hostname", "process.cwd"].iter().all(|p| out.stderr.contains(p));
    // Words that serde refuses come first and alone; the rest is one pass.
    if one_pass {
        assert!(out.stderr.lines().filter(|l| l.contains("config.json")).count() >= 3, "{out}");
    } else {
        assert!(out.stderr.contains("nonsense"), "{out}");
    }
    bundle.check_clean();
    let bundle = Bundle::new()
        .without_ns("uts")
        .set("/hostname", "box")
        .set("/process/cwd", "relative")
        .push("/process/capabilities/effective", "CAP_CHOWN")
        .push("/linux/namespaces", json!({"type": "pid"}));
    let out = bundle.try_create(&[]).fails();
    for path in ["hostname", "process.cwd", "process.capabilities.effective", "linux.namespaces"] {
        assert!(out.stderr.lines().any(|l| l.contains(path)), "no line for {path}: {out}");
    }
    assert!(out.stderr.lines().filter(|l| l.contains("config.json: ")).count() >= 4, "one line each: {out}");
    bundle.check_clean();
}

#[test]
fn unknown_words_are_named() {
    peer_differs!("crun", "1.8 does not clean up after this failure");
    for (word, bundle) in [
        ("nonsense", Bundle::new().push("/linux/namespaces", json!({"type": "nonsense"}))),
        (
            "RLIMIT_NONSENSE",
            Bundle::new().set("/process/rlimits", json!([{"type": "RLIMIT_NONSENSE", "soft": 1, "hard": 1}])),
        ),
    ] {
        refused(&bundle, &[word]);
    }
}

#[test]
fn an_unknown_mount_option_on_a_bind_is_named() {
    peer_differs!("runc", "1.1.5 ignores it");
    peer_differs!("crun", "1.8 ignores it");
    let bundle = Bundle::new().mount("/data", "bind", "/tmp", &["bind", "nonsense"]);
    refused(&bundle, &["mounts[3]", "nonsense"]);
}

#[test]
fn relative_and_empty_paths_are_named() {
    orlop_only!("gives the JSON path");
    refused(&Bundle::new().set("/process/cwd", "relative"), &["process.cwd", "absolute"]);
    refused(&Bundle::new().set("/process/cwd", ""), &["process.cwd"]);
    refused(&Bundle::new().set("/process/args", json!([])), &["process.args"]);
    refused(&Bundle::new().set("/root/path", ""), &["root.path"]);
    refused(&Bundle::new().remove("/process"), &["process"]);
    refused(&Bundle::new().remove("/root"), &["root"]);
}

#[test]
fn a_nul_byte_is_refused_wherever_it_stands() {
    peer_differs!("crun", "1.8 cuts the string");
    for pointer in
        ["/process/cwd", "/process/args/0", "/process/env/0", "/root/path", "/mounts/0/destination", "/hostname"]
    {
        if pointer == "/hostname" && flavor() == Flavor::Runc {
            continue; // 1.1.5 cuts this one.
        }
        let bundle = Bundle::new().set("/hostname", "box").set(pointer, "/a\u{0}b=c");
        let out = bundle.try_create(&[]);
        assert!(!out.status.success(), "{pointer}: {out}");
        bundle.delete_force().ok();
        bundle.check_clean();
    }
}

#[test]
fn a_newer_major_version_is_refused() {
    orlop_only!("looks at ociVersion");
    refused(&Bundle::new().set("/ociVersion", "2.0.0"), &["ociVersion", "2.0.0"]);
    refused(&Bundle::new().set("/ociVersion", "nonsense"), &["ociVersion"]);
}

#[test]
fn unknown_members_are_allowed() {
    let bundle = Bundle::new().set("/x-vendor", json!({"a": 1})).set("/process/novelty", true).set("/linux/novelty", 1);
    let out = bundle.run(["/probe", "echo", "x"]).ok();
    assert!(out.stderr.is_empty(), "{out}");
}

#[test]
fn ids_that_are_paths_are_refused() {
    peer_differs!("crun", "1.8 allows most of them");
    let bundle = Bundle::new();
    bundle.write_config();
    let dir = bundle.dir.to_str().unwrap().to_string();
    for id in ["a/b", "..", ".", "", "../x", "/abs", "a b", "é", "x\ny"] {
        let out = bundle.call(["create", "--bundle", &dir, id]).output();
        assert!(!out.status.success(), "{id:?}: {out}");
        if flavor() == Flavor::Orlop {
            assert_eq!(out.code(), 1, "{id:?}: {out}");
        }
        for command in ["state", "delete", "start"] {
            let out = bundle.call([command, id]).output();
            assert!(!out.status.success(), "{command} {id:?}: {out}");
        }
        bundle.check_clean();
    }
    assert!(bundle.dir.join("config.json").exists());
}

#[test]
fn an_id_in_use_is_refused_and_the_container_lives_on() {
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    let pid = bundle.pid();
    let dir = bundle.dir.to_str().unwrap();
    let out = bundle.call(["create", "--bundle", dir, &bundle.id]).output().fails_with(&["exist"]);
    assert_eq!(out.code(), 1);
    assert_eq!(bundle.state()["pid"], pid);
    bundle.start();
    assert_eq!(bundle.state()["status"], "running");
}

#[test]
fn usage_errors_do_nothing() {
    let bundle = Bundle::new();
    for args in
        [vec!["nosuchcommand"], vec!["create", "--nosuchflag", "x"], vec!["create"], vec!["state"], vec!["kill"]]
    {
        let out = bundle.call(&args).output();
        if flavor() == Flavor::Runc && args[0] == "nosuchcommand" {
            continue; // It prints its help and exits 3.
        }
        assert!(!out.status.success(), "{out}");
    }
    bundle.check_clean();
}

#[test]
fn a_missing_rootfs_is_named() {
    let bundle = Bundle::new().set("/root/path", "nowhere");
    let out = bundle.try_create(&[]).fails_with(&["nowhere"]);
    assert_eq!(out.code(), 1);
    bundle.check_clean();
}

#[test]
fn numbers_that_are_left_out_are_not_zero() {
    orlop_only!("insists on them");
    let whole = json!({"containerID": 0, "hostID": 100_000, "size": 65_536});
    let device = json!({"path": "/dev/mine", "type": "c", "major": 1, "minor": 3});
    let limit = json!({"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20});
    for (pointer, value, members) in [
        ("/linux/uidMappings", &whole, &["containerID", "hostID", "size"][..]),
        ("/linux/gidMappings", &whole, &["containerID", "hostID", "size"]),
        ("/linux/devices", &device, &["path", "type", "major", "minor"]),
        ("/process/rlimits", &limit, &["type", "soft", "hard"]),
    ] {
        let fields = Bundle::new().userns(0, 100_000, 65_536).set(pointer, json!([value]));
        for member in members {
            let mut without = value.clone();
            without.as_object_mut().unwrap().remove(*member);
            let bundle = Bundle::new().userns(0, 100_000, 65_536).set(pointer, json!([without]));
            let path = format!("{}[0]: missing field `{member}`", pointer[1..].replace('/', "."));
            refused(&bundle, &[&path]);
        }
        if pointer != "/linux/devices" {
            fields.run(["/probe", "echo", "x"]).ok();
        }
    }
    // A mapping of a mount, and a FIFO, which has no numbers.
    let bundle = Bundle::new().userns(0, 100_000, 65_536).push(
        "/mounts",
        json!({"destination": "/mnt", "type": "bind", "source": "/tmp", "options": ["bind"],
            "uidMappings": [{"containerID": 0, "size": 1}], "gidMappings": [whole]}),
    );
    refused(&bundle, &["mounts[3].uidMappings[0]: missing field `hostID`"]);
    let bundle = Bundle::new().set("/linux/devices", json!([{"path": "/dev/fifo", "type": "p"}]));
    bundle.run(["/probe", "stat", "/dev/fifo"]).ok();
}

#[test]
fn a_pid_file_that_cannot_be_written_fails_the_create() {
    let bundle = Bundle::new();
    bundle.write_config();
    let dir = bundle.dir.to_str().unwrap();
    bundle.call(["create", "--bundle", dir, "--pid-file", "/no/such/dir/pid", &bundle.id]).output().fails();
    bundle.delete_force().ok();
    bundle.check_clean();
}

#[test]
fn a_read_only_state_root_fails_cleanly() {
    let bundle = Bundle::new();
    bundle.write_config();
    let dir = bundle.dir.to_str().unwrap();
    let call = runtime::Call::new(&runtime::program(), &bundle.dir, bundle.layer).env("ORLOP_IT", &bundle.id).args([
        "--root",
        "/proc/sys/orlop",
        "create",
        "--bundle",
        dir,
        &bundle.id,
    ]);
    call.output().fails();
    bundle.check_clean();
}

#[test]
fn every_message_is_one_line_with_the_command_and_id() {
    orlop_only!("words them so");
    let bundle = Bundle::new().mount("/data", "bind", "/no/such/source", &["bind"]);
    let out = bundle.try_create(&[]).fails();
    let errors: Vec<&str> = out.stderr.lines().filter(|l| !l.starts_with("  hint:")).collect();
    assert_eq!(errors.len(), 1, "{out}");
    assert!(errors[0].contains("create") && errors[0].contains(&bundle.id) && errors[0].contains("mounts[3]"), "{out}");
    assert!(errors[0].contains("ENOENT"), "{out}");
}

#[test]
fn an_error_with_a_json_log_reaches_both() {
    let bundle = Bundle::new().set("/root/path", "nowhere");
    bundle.write_config();
    let log = bundle.dir.join("log");
    let dir = bundle.dir.to_str().unwrap();
    let out = bundle
        .call(["--log", log.to_str().unwrap(), "--log-format", "json", "create", "--bundle", dir, &bundle.id])
        .output();
    assert!(!out.status.success());
    let entries = runtime::lines(&fs::read_to_string(&log).unwrap());
    let last: &Value = entries.iter().rev().find(|e| e["level"] == "error").unwrap();
    assert!(last["msg"].as_str().unwrap().contains("nowhere"), "{last}");
    if flavor() != Flavor::Crun {
        assert!(out.stderr.contains("nowhere"), "{out}");
    }
}

#[test]
fn fields_that_are_not_carried_out_are_refused_by_name() {
    orlop_only!("promises that no field is ignored");
    for (pointer, value) in [
        // Where there is no resctrl file system the class would not hold.
        ("/linux/intelRdt", json!({"closID": "x", "l3CacheSchema": "L3:0=f"})),
        ("/linux/intelRdt", json!({})),
        ("/linux/intelRdt", json!({"enableMonitoring": true})),
    ] {
        if pointer == "/linux/intelRdt" && fs::read_to_string("/proc/mounts").unwrap().contains(" resctrl ") {
            continue;
        }
        let name = pointer[1..].replace('/', ".");
        let bundle = Bundle::new().set(pointer, value);
        refused(&bundle, &[&name]);
    }
}

#[test]
fn huge_and_deep_configs_neither_crash_nor_hang() {
    // E16.
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    // What serde passes over, before and after a fault.
    let lacks = r#""linux": {"devices": [{"type": "c"}]}"#;
    for config in [deep.clone(), format!(r#"{{"x": {deep}, {lacks}}}"#), format!(r#"{{{lacks}, "x": {deep}}}"#)] {
        let bundle = Bundle::new().raw_config(config);
        bundle.try_create(&[]).fails();
        bundle.check_clean();
    }
    let bundle = Bundle::new()
        .set("/annotations", (0..20_000).map(|i| (format!("k{i}"), json!("v"))).collect::<serde_json::Map<_, _>>());
    bundle.run(["/probe", "echo", "x"]).ok();
}
