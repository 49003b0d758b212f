// SPDX-License-Identifier: Apache-2.0
use super::*;

fn examine(text: &str) -> (Option<Spec>, Vec<String>) {
    let examination = Examination::new(text.as_bytes(), (6, 1)).unwrap();
    let spec = examination.spec.clone();
    let line = |f: Finding| {
        format!("{}:{} {:?} {}: {}{}", f.line, f.column, f.severity, f.path, f.message, f.hint.unwrap_or_default())
    };
    (spec, examination.finish().into_iter().map(line).collect())
}

#[test]
fn faults_of_type_are_found_all_at_once() {
    let (spec, found) = examine(
        r#"{"ociVersion": 1,
 "root": {"path": 7, "readonly": "yes"},
 "process": {"cwd": "/", "args": ["a", 2], "user": {"uid": -1, "gid": 0}, "terminal": false},
 "linux": {"resources": [], "namespaces": [{"type": "net"}, {"type": "xyz"}, {"type": "pid", "path": 3}]},
 "mounts": [{"type": "proc"}, {"destination": "/x", "options": {}}]}"#,
    );
    assert_eq!(
        found,
        [
            "1:16 Error ociVersion: invalid type: integer `1`, expected a string",
            "2:19 Error root.path: invalid type: integer `7`, expected path string",
            "2:34 Error root.readonly: invalid type: string \"yes\", expected a boolean",
            "3:40 Error process.args[1]: invalid type: integer `2`, expected a string",
            "3:60 Error process.user.uid: invalid value: integer `-1`, expected u32",
            "4:25 Error linux.resources: invalid type: sequence, expected an object",
            "4:53 Error linux.namespaces[0].type: unknown value \"net\", expected pid, network, mount, ipc, uts, user, cgroup, timedid you mean \"network\"?",
            "4:70 Error linux.namespaces[1].type: unknown value \"xyz\", expected pid, network, mount, ipc, uts, user, cgroup, time",
            "4:102 Error linux.namespaces[2].path: invalid type: integer `3`, expected path string",
            "5:13 Error mounts[0].destination: is missing",
            "5:64 Error mounts[1].options: invalid type: map, expected a sequence",
        ]
    );
    let spec = spec.unwrap();
    assert_eq!(spec.linux.unwrap().namespaces().as_ref().unwrap().len(), 2);
    assert_eq!(spec.process.unwrap().args.unwrap(), ["a"]);
}

#[test]
fn later_findings_get_the_indices_of_the_text_and_none_twice() {
    let text = r#"{"ociVersion": "1.0.0", "root": {"path": "r"}, "mounts": [7, {"destination": "a"}]}"#;
    let mut examination = Examination::new(text.as_bytes(), (6, 1)).unwrap();
    let mut problems = Problems::default();
    problems.warn("mounts[0].destination", "is relative");
    problems.warn("mounts[0].destination", "is relative");
    problems.error("mounts", "follows from the element that was taken out");
    examination.add(problems);
    let found: Vec<_> = examination.finish().into_iter().map(|f| (f.path, f.column)).collect();
    assert_eq!(found, [("mounts[0]".to_string(), 59), ("mounts[1].destination".to_string(), 78)]);
}

#[test]
fn unknown_members_are_warned_of_with_what_was_meant() {
    let (_, found) = examine(
        "{\"ociVersion\": \"1.0.0\", \"rlimits\": [],\n \"linux\": {\"maskedPath\": [], \"x\": 1, \"cgroupsPath\": \"a\", \"cgroupsPath\": \"b\"}}",
    );
    assert_eq!(
        found,
        [
            "1:25 Warning rlimits: unknown member is ignoredthe specification has a member of that name: process.rlimits",
            "2:12 Warning linux.maskedPath: unknown member is ignoreddid you mean \"maskedPaths\"?",
            "2:30 Warning linux.x: unknown member is ignored",
            "2:58 Error linux.cgroupsPath: is there twice; the last one would be taken",
        ]
    );
}

#[test]
fn a_fault_of_syntax_is_the_only_one() {
    let (spec, found) = examine("{\n \"a\": ,}");
    assert!(spec.is_none());
    assert_eq!(found, ["2:7 Error : expected value"]);
    assert_eq!(examine("7").1.len(), 1);
}

/// Every value of a real config is replaced by one of another kind: what `create` would refuse to read has a fault here,
/// and what it reads has none.
#[test]
fn examine_and_parse_agree_on_what_can_be_read() {
    let text = include_str!("../../../integration/bundles/userns.json");
    let given: Value = serde_json::from_str(text).unwrap();
    let mut paths = Vec::new();
    collect(&given, "", &mut paths);
    assert!(paths.len() > 100);
    for path in paths {
        for other in [json!(7), json!("x"), json!([]), json!({}), json!(null), json!(-1), json!(true)] {
            let mut changed = given.clone();
            put(&mut changed, &path, Some(other.clone()));
            let bytes = serde_json::to_vec_pretty(&changed).unwrap();
            let examination = Examination::new(&bytes, (6, 1)).unwrap();
            let errors: Vec<_> = examination.finish().into_iter().filter(|f| f.severity == Severity::Error).collect();
            let parsed = crate::spec::parse(bytes);
            assert_eq!(parsed.is_err(), !errors.is_empty(), "{path} = {other}: {errors:?} {:?}", parsed.err());
            let paths: BTreeSet<&str> = errors.iter().map(|f| f.path.as_str()).collect();
            assert_eq!(paths.len(), errors.len(), "{path} = {other}: {errors:?}");
        }
        let mut changed = given.clone();
        put(&mut changed, &path, None);
        let bytes = serde_json::to_vec_pretty(&changed).unwrap();
        let found = Examination::new(&bytes, (6, 1)).unwrap().finish();
        assert_eq!(crate::spec::parse(bytes).is_err(), !found.is_empty(), "without {path}: {found:?}");
    }
}

fn collect(value: &Value, path: &str, paths: &mut Vec<String>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| {
            paths.push(join(path, name));
            collect(value, &join(path, name), paths);
        }),
        Value::Array(elements) => elements.iter().enumerate().for_each(|(i, value)| {
            paths.push(format!("{path}[{i}]"));
            collect(value, &format!("{path}[{i}]"), paths);
        }),
        _ => {}
    }
}
