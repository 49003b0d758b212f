use serde_json::{Value, json};

use super::*;
use crate::host::Hierarchy;

fn host() -> Host {
    let hierarchy = Hierarchy {
        mount_point: "/sys/fs/cgroup".into(),
        controllers: ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"].map(String::from).to_vec(),
        own: "/system.slice/engine.service".into(),
    };
    Host {
        euid: 0,
        egid: 0,
        initial_user_namespace: true,
        may_clone_mounts: true,
        may_set_groups: true,
        permitted: 0,
        bounding: 0,
        ignored_signals: 0,
        cgroups: CgroupLayout::Unified(hierarchy),
    }
}

fn manager(version: u32) -> Manager {
    Manager { version, user: false, control_group: PathBuf::new() }
}

fn planned(linux: Value, annotations: &[(&str, &str)], manager: &Manager) -> (Cgroup, Problems) {
    let linux: Linux = serde_json::from_value(linux).unwrap();
    let annotations = annotations.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let mut problems = Problems::default();
    let cgroup = plan(&linux, &annotations, "web", &host(), manager, &mut problems);
    (cgroup, problems)
}

fn unit(linux: Value, annotations: &[(&str, &str)], version: u32) -> Unit {
    let (cgroup, problems) = planned(linux, annotations, &manager(version));
    assert_eq!(problems.errors, []);
    cgroup.driver.unit().unwrap().clone()
}

fn texts(list: &[Property]) -> Vec<String> {
    list.iter().map(|property| format!("{}={}", property.name, property.value)).collect()
}

/// The limits of `resources` but for devices.
fn limits(resources: Value, version: u32) -> Vec<String> {
    let mut unit = unit(json!({"resources": resources}), &[], version);
    unit.limits.retain(|property| !property.is_of_devices());
    let mut texts = texts(&unit.limits);
    texts.sort();
    texts
}

#[test]
fn a_slice_lies_in_those_that_its_name_begins_with() {
    for (slice, path) in [
        ("system.slice", Some("system.slice")),
        ("a-b-c.slice", Some("a.slice/a-b.slice/a-b-c.slice")),
        ("-.slice", Some("")),
        ("a--b.slice", None),
        ("-a.slice", None),
        ("a-.slice", None),
        (".slice", None),
        ("a.scope", None),
    ] {
        assert_eq!(expand(slice), path.map(PathBuf::from), "{slice}");
    }
}

#[test]
fn a_path_names_slice_and_unit() {
    for (path, user, slice, unit, cgroup) in [
        ("", false, "system.slice", "orlop-web.scope", "system.slice/orlop-web.scope"),
        ("", true, "user.slice", "orlop-web.scope", "u@1.service/user.slice/orlop-web.scope"),
        (":docker:1", false, "system.slice", "docker-1.scope", "system.slice/docker-1.scope"),
        ("a-b.slice:cri:1", false, "a-b.slice", "cri-1.scope", "a.slice/a-b.slice/cri-1.scope"),
        ("-.slice:x:y", false, "-.slice", "x-y.scope", "x-y.scope"),
        ("a.slice::a-b.slice", false, "a.slice", "a-b.slice", "a.slice/a-b.slice"),
    ] {
        let control_group = if user { "u@1.service".into() } else { PathBuf::new() };
        let manager = Manager { version: 252, user, control_group };
        let linux = if path.is_empty() { json!({}) } else { json!({"cgroupsPath": path}) };
        let (planned, problems) = planned(linux, &[], &manager);
        assert_eq!(problems.errors, [], "{path}");
        assert_eq!(planned.places[0].path, PathBuf::from(cgroup), "{path}");
        let made = planned.driver.unit().unwrap();
        assert_eq!(made.name, unit, "{path}");
        let key = if unit.ends_with(".slice") { format!("Wants=['{slice}']") } else { format!("Slice='{slice}'") };
        assert!(texts(&made.properties).contains(&key), "{path}: {:?}", made.properties);
    }
}

#[test]
fn other_paths_are_refused_at_their_field() {
    for (path, word) in [
        ("/a/b", "expected cgroupsPath to be of format \"slice:prefix:name\""),
        ("a:b", "slice:prefix:name"),
        ("a:b:c:d", "slice:prefix:name"),
        ("a.slice:b:c/d", "is not the name of a unit"),
        ("a.slice:b:../c", "is not the name of a unit"),
        ("a.slice:b:c d", "is not the name of a unit"),
        ("a/b.slice:b:c", "is not the name of a unit"),
        ("a:b:c", "is not the name of a slice"),
        ("a--b.slice:b:c", "is not the name of a slice"),
        ("a.slice:x:b.slice", "does not lie in"),
    ] {
        let (_, problems) = planned(json!({"cgroupsPath": path}), &[], &manager(252));
        assert_eq!(problems.errors.len(), 1, "{path}: {problems}");
        assert_eq!(problems.errors[0].path, "linux.cgroupsPath", "{path}");
        assert!(problems.errors[0].message.contains(word), "{path}: {problems}");
    }
}

#[test]
fn without_cgroup_v2_the_driver_is_refused() {
    let host = Host { cgroups: CgroupLayout::Legacy { hierarchies: Vec::new(), unified: None }, ..host() };
    let mut problems = Problems::default();
    plan(&Linux::default(), &BTreeMap::new(), "web", &host, &manager(252), &mut problems);
    assert!(problems.to_string().contains("needs cgroup v2"), "{problems}");
}

#[test]
fn limits_become_properties() {
    for (resources, expected) in [
        (
            json!({"memory": {"limit": 100, "swap": 150, "reservation": 50}}),
            &["MemoryLow=uint64 50", "MemoryMax=uint64 100", "MemorySwapMax=uint64 50"][..],
        ),
        (
            json!({"memory": {"limit": -1, "swap": -1}}),
            &["MemoryMax=uint64 18446744073709551615", "MemorySwapMax=uint64 18446744073709551615"],
        ),
        (json!({"pids": {"limit": 0}}), &["TasksMax=uint64 1"]),
        (json!({"pids": {"limit": -1}}), &["TasksMax=uint64 18446744073709551615"]),
        (json!({"cpu": {"shares": 1024}}), &["CPUWeight=uint64 100"]),
        (json!({"cpu": {"idle": 1, "shares": 1024}}), &["CPUWeight=uint64 0"]),
        // A third of a processor is 333.33 ms a second, and becomes 34 %.
        (json!({"cpu": {"quota": 33_333}}), &["CPUQuotaPerSecUSec=uint64 340000", "CPUQuotaPeriodUSec=uint64 100000"]),
        (
            json!({"cpu": {"quota": -1}}),
            &["CPUQuotaPerSecUSec=uint64 18446744073709551615", "CPUQuotaPeriodUSec=uint64 100000"],
        ),
        (
            json!({"cpu": {"quota": 400_000, "period": 200_000}}),
            &["CPUQuotaPerSecUSec=uint64 2000000", "CPUQuotaPeriodUSec=uint64 200000"],
        ),
        (
            json!({"cpu": {"cpus": "0-2,9", "mems": "0"}}),
            &["AllowedCPUs=[byte 7, byte 2]", "AllowedMemoryNodes=[byte 1]"],
        ),
        (json!({"blockIO": {"weight": 1000}}), &["IOWeight=uint64 10000"]),
        (
            json!({"unified": {"memory.high": "64M", "memory.min": "max", "io.weight": "default 77"}}),
            &["IOWeight=uint64 77", "MemoryHigh=uint64 67108864", "MemoryMin=uint64 18446744073709551615"],
        ),
        // The later word counts, in the files and here.
        (json!({"memory": {"limit": 100}, "unified": {"memory.max": "200"}}), &["MemoryMax=uint64 200"]),
        (
            json!({"unified": {"cpu.max": "50000 100000"}}),
            &["CPUQuotaPerSecUSec=uint64 500000", "CPUQuotaPeriodUSec=uint64 100000"],
        ),
    ] {
        assert_eq!(limits(resources.clone(), 262), expected, "{resources}");
    }
}

#[test]
fn older_versions_are_not_asked_for_what_they_do_not_know() {
    assert_eq!(limits(json!({"cpu": {"quota": 50_000}}), 241), ["CPUQuotaPerSecUSec=uint64 500000"]);
    assert_eq!(limits(json!({"cpu": {"cpus": "0"}}), 243), [""; 0]);
    assert_eq!(limits(json!({"cpu": {"idle": 1}}), 251), [""; 0]);
    let devices = json!({"resources": {"devices": [{"allow": false}]}});
    assert!(texts(&unit(devices.clone(), &[], 239).limits).contains(&"DevicePolicy='auto'".to_string()));
    assert!(texts(&unit(devices, &[], 240).limits).contains(&"DevicePolicy='strict'".to_string()));
}

#[test]
fn the_file_gets_the_quota_that_systemd_would_write() {
    let (cgroup, _) = planned(json!({"resources": {"cpu": {"quota": 33_333}}}), &[], &manager(252));
    assert_eq!(cgroup.writes.iter().find(|w| w.file == "cpu.max").unwrap().value, "34000 100000");
    let (cgroup, _) = planned(json!({"resources": {"unified": {"cpu.max": "33333 100000"}}}), &[], &manager(252));
    assert_eq!(cgroup.writes.iter().find(|w| w.file == "cpu.max").unwrap().value, "33333 100000");
}

/// systemd's program and orlop's both have to allow an access: what systemd cannot express it must allow.
#[test]
fn device_rules_for_systemd_allow_no_less() {
    let rule = |text: &str| -> Value {
        let words: Vec<&str> = text.split(' ').collect();
        let number = |text: &str| text.parse::<i64>().unwrap_or(-1);
        let (major, minor) = words[2].split_once(':').unwrap();
        json!({"allow": words[0] == "allow", "type": words[1], "major": number(major), "minor": number(minor),
            "access": words[3]})
    };
    for (rules, policy, entries) in [
        (vec!["deny a *:* rwm"], "strict", vec!["('char-*', 'm')", "('char-136', 'rwm')", "('/dev/char/1:3', 'rwm')"]),
        (vec!["deny a *:* rwm", "allow b 8:* r"], "strict", vec!["('block-8', 'r')"]),
        (vec!["allow a *:* rwm"], "auto", vec![]),
        (vec!["allow a *:* rwm", "deny c 7:7 r"], "auto", vec![]),
        // Any major number with one minor number.
        (vec!["deny a *:* rwm", "allow c *:3 r"], "auto", vec![]),
    ] {
        let list: Vec<Value> = rules.iter().map(|text| rule(text)).collect();
        let limits = texts(&unit(json!({"resources": {"devices": list}}), &[], 252).limits);
        assert_eq!(limits[0], format!("DevicePolicy='{policy}'"), "{rules:?}");
        assert_eq!(limits[1], "DeviceAllow=@a(ss) []", "{rules:?}");
        assert_eq!(limits.len(), if policy == "strict" { 3 } else { 2 }, "{rules:?}");
        for entry in entries {
            assert!(limits[2].contains(entry), "{rules:?}: {limits:?}");
        }
    }
}

#[test]
fn annotations_are_properties_and_have_the_last_word() {
    let made = unit(
        json!({"resources": {"memory": {"limit": 100}, "unified": {"memory.oom.group": "1"}}}),
        &[
            ("org.systemd.property.CollectMode", "'inactive-or-failed'"),
            ("org.systemd.property.TimeoutStopSec", "uint64 7"),
            ("org.systemd.property.RuntimeMaxSec", "1.5"),
            ("org.systemd.property.TimeoutStartUSec", "uint64 9"),
            ("org.systemd.property.MemoryMax", "uint64 5"),
            ("other", "x"),
        ],
        262,
    );
    let properties = texts(&made.properties);
    for expected in [
        "CollectMode='inactive-or-failed'",
        "TimeoutStopUSec=uint64 7000000",
        "RuntimeMaxUSec=uint64 1500000",
        "TimeoutStartUSec=uint64 9",
        "MemoryMax=uint64 5",
        "OOMPolicy='kill'",
        "Delegate=true",
        "DefaultDependencies=false",
    ] {
        assert!(properties.contains(&expected.to_string()), "{expected}: {properties:?}");
    }
    assert!(!made.limits.iter().any(|property| property.name == "MemoryMax"));
}

#[test]
fn an_annotation_that_cannot_be_meant_is_refused_at_its_key() {
    for (key, text) in [
        ("org.systemd.property.Up", "true"),
        ("org.systemd.property.A1B2", "true"),
        ("org.systemd.property.TimeoutStopSec", "'soon'"),
        ("org.systemd.property.TimeoutStopSec", "-5"),
        ("org.systemd.property.CollectMode", "inactive"),
    ] {
        let (_, problems) = planned(json!({}), &[(key, text)], &manager(252));
        assert_eq!(problems.errors.len(), 1, "{key} {text}");
        assert_eq!(problems.errors[0].path, format!("annotations[{key:?}]"));
    }
}

#[test]
fn gvariant_text() {
    for (text, expected) in [
        ("true", "true"),
        ("'it''s'", ""),
        ("'it\\'s'", "'it\\'s'"),
        ("\"a b\"", "'a b'"),
        ("5", "int32 5"),
        ("-5", "int32 -5"),
        ("0x10", "int32 16"),
        ("uint64 18446744073709551615", "uint64 18446744073709551615"),
        ("uint64 18446744073709551616", ""),
        ("uint32 -1", ""),
        ("byte 256", ""),
        ("int64 -9223372036854775808", "int64 -9223372036854775808"),
        ("1.5", "1.5"),
        ("double 2", "2.0"),
        ("@t 5", "uint64 5"),
        ("@as []", "@as []"),
        ("[]", ""),
        ("['a.service', 'b.service']", "['a.service', 'b.service']"),
        ("[1, 'a']", ""),
        ("@at [1, 2]", "[uint64 1, uint64 2]"),
        ("('/dev/sda', uint64 5)", "('/dev/sda', uint64 5)"),
        ("[('/dev/sda', uint64 5)]", "[('/dev/sda', uint64 5)]"),
        ("@a(st) [('/dev/sda', 5)]", "[('/dev/sda', uint64 5)]"),
        ("b'ab'", "[byte 97, byte 98, byte 0]"),
        ("objectpath '/a'", "'/a'"),
        ("", ""),
        ("true false", ""),
        ("{'a': 1}", ""),
        ("<5>", ""),
        ("@zz 5", ""),
        ("uint64 'a'", ""),
        ("[[[[[[[[[[1]]]]]]]]]]", ""),
        ("inactive", ""),
        ("'open", ""),
        ("é", ""),
    ] {
        let read = variant::parse(text);
        match read {
            Ok(value) => assert_eq!(value.to_string(), expected, "{text}"),
            Err(message) => assert_eq!(expected, "", "{text}: {message}"),
        }
    }
}

#[test]
fn an_update_sends_what_changes() {
    let of = |resources| unit(json!({"resources": resources}), &[], 252);
    let old = of(json!({"memory": {"limit": 100}, "pids": {"limit": 5}}));
    let new = of(json!({"memory": {"limit": 200}, "pids": {"limit": 5}}));
    assert_eq!(texts(&new.changes(&old)), ["MemoryMax=uint64 200"]);
    let new = of(json!({"memory": {"limit": 100}, "pids": {"limit": 5},
        "devices": [{"allow": false}, {"allow": true, "type": "b", "major": 8}]}));
    let changes = texts(&new.changes(&old));
    assert_eq!(changes.len(), 3, "{changes:?}");
    assert_eq!(changes[1], "DeviceAllow=@a(ss) []");
}
