// SPDX-License-Identifier: Apache-2.0
//! `specs/fields.tsv` has a row for each field of the runtime specification: what becomes of it, where, and which test
//! shows it; `specs/attacks.tsv` one for each attack. A row that claims more than there is fails here.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The names of all test functions of the repository: `fn name` in src and integration.
pub fn functions() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut todo = vec![root().join("src"), root().join("integration")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                collect(&path, &mut names);
            }
        }
    }
    names
}

fn collect(path: &Path, names: &mut BTreeSet<String>) {
    for line in fs::read_to_string(path).unwrap().lines() {
        if let Some(rest) = line.trim_start().strip_prefix("fn ") {
            names.insert(rest.split(['(', '<']).next().unwrap().to_string());
        }
        // Tests that a macro of bundles.rs makes.
        if let Some(rest) = line.trim_start().strip_prefix("bundle_test!(") {
            names.insert(rest.split(',').next().unwrap().to_string());
        }
    }
}

#[test]
fn every_field_names_a_file_and_a_test_that_exist() {
    let path = root().join("specs/fields.tsv");
    let Ok(text) = fs::read_to_string(&path) else {
        crate::skip_expected!("specs/fields.tsv is not there yet");
    };
    let functions = functions();
    let mut faults = Vec::new();
    let mut rows = 0;
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') || line.starts_with("path\t") || line.starts_with("json path\t") {
            continue;
        }
        rows += 1;
        let columns: Vec<&str> = line.split('\t').collect();
        let mut fault = |what: &str| faults.push(format!("specs/fields.tsv:{}: {what}: {line}", number + 1));
        let [_, _, status, file, test] = columns[..] else {
            fault("needs five columns");
            continue;
        };
        if !["handled", "rejected", "ignored"].contains(&status) {
            fault("is neither handled nor rejected nor ignored");
        }
        // What is ignored may have neither: the members of other platforms, say.
        let may_be_absent = |column: &str| status == "ignored" && column == "-";
        if !may_be_absent(file) && !root().join(file).exists() {
            fault("names a file that is not there");
        }
        if !may_be_absent(test) {
            if test.trim().is_empty() {
                fault("has no test");
            }
            for name in test.split([' ', ',']).filter(|n| !n.is_empty()) {
                if !functions.contains(name.rsplit("::").next().unwrap()) {
                    fault(&format!("names the test {name}, which is not there"));
                }
            }
        }
    }
    if rows == 0 {
        crate::skip_expected!("specs/fields.tsv has no rows yet");
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The labels that have to be there, without the numbers that were never given.
const LABELS: [(char, &[u32]); 5] = [
    ('A', &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17, 18]),
    ('B', &[1, 2, 4, 5, 6, 7, 8, 9, 10, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24]),
    ('C', &[1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13]),
    ('D', &[1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 15, 16, 17]),
    (
        'E',
        &[
            1, 2, 4, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 25, 26, 27, 28, 29, 30, 33, 34, 35,
            37, 38, 39, 41, 42, 43, 44, 45, 46,
        ],
    ),
];

/// The bodies of the test functions below integration/, by name.
fn bodies() -> std::collections::BTreeMap<String, String> {
    let mut found = std::collections::BTreeMap::new();
    for entry in fs::read_dir(root().join("integration")).unwrap().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        for part in text.split("\nfn ").skip(1) {
            let name = part.split('(').next().unwrap().to_string();
            found.insert(name, part.split("\n}").next().unwrap().to_string());
        }
    }
    found
}

#[test]
fn every_attack_has_a_test_and_a_way_to_make_it_fail() {
    let text = fs::read_to_string(root().join("specs/attacks.tsv")).unwrap();
    let (functions, bodies) = (functions(), bodies());
    let mut faults = Vec::new();
    let (mut labels, mut named) = (BTreeSet::new(), BTreeSet::new());
    for (number, line) in text.lines().enumerate().skip(1) {
        let mut fault = |what: &str| faults.push(format!("specs/attacks.tsv:{}: {what}: {line}", number + 1));
        let [label, _, advisory, test, shown] = line.split('\t').collect::<Vec<_>>()[..] else {
            fault("needs five columns");
            continue;
        };
        labels.insert(label.to_string());
        // exec_parity makes its tests with a macro.
        if !functions.contains(test) && !test.starts_with("exec_equals_init_in_") {
            fault("names a test that is not there");
        }
        if advisory != "-" && !advisory.starts_with("CVE-") {
            fault("has no advisory");
        }
        match shown.split_once(' ') {
            Some(("mutant", mutant)) => {
                let patch = root().join(format!("integration/mutations/{mutant}.patch"));
                let patch = fs::read_to_string(patch).unwrap_or_default();
                if !patch.lines().any(|l| l.strip_prefix("# fails: ") == Some(test)) {
                    fault("names a mutant that does not name the test");
                }
                named.insert(format!("{mutant} {test}"));
            }
            None if shown == "peer" => {
                if !bodies.get(test).is_some_and(|body| body.contains("peer_differs!")) {
                    fault("no peer is known to fail it");
                }
            }
            Some(("none:", reason)) if !reason.is_empty() => {}
            _ => fault("does not say how the test was seen to fail"),
        }
    }
    for (letter, numbers) in LABELS {
        let missing = numbers.iter().map(|n| format!("{letter}{n:02}")).filter(|label| !labels.contains(label));
        faults.extend(missing.map(|label| format!("specs/attacks.tsv has no row for {label}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(named.len() > 50, "{named:?}");
}

#[test]
fn every_mutation_applies() {
    // What `integration/mutate` builds; that it builds and is noticed takes too long for the suite.
    let copy = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("mutations-{}", std::process::id()));
    let functions = functions();
    let mut faults = Vec::new();
    let mut patches = 0;
    for entry in fs::read_dir(root().join("integration/mutations")).unwrap().flatten() {
        let patch = fs::read_to_string(entry.path()).unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        let tests: Vec<&str> = patch.lines().filter_map(|l| l.strip_prefix("# fails: ")).collect();
        let known = |test: &str| functions.contains(test) || test.starts_with("exec_equals_init_in_");
        if tests.is_empty() || !tests.iter().all(|test| known(test)) {
            faults.push(format!("{name}: names no test, or one that is not there: {tests:?}"));
        }
        for file in patch.lines().filter_map(|l| l.strip_prefix("--- a/")) {
            fs::create_dir_all(copy.join(file).parent().unwrap()).unwrap();
            fs::copy(root().join(file), copy.join(file)).unwrap();
        }
        let applied = std::process::Command::new("patch")
            .args(["-p1", "-F3", "-s", "--dry-run", "-i", entry.path().to_str().unwrap(), "-d", copy.to_str().unwrap()])
            .output()
            .expect("patch(1) is installed");
        if !applied.status.success() {
            faults.push(format!("{name}: {}", String::from_utf8_lossy(&applied.stdout).trim()));
        }
        patches += 1;
    }
    fs::remove_dir_all(&copy).unwrap();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(patches > 70, "{patches}");
}
