// SPDX-License-Identifier: Apache-2.0
//! `specs/fields.tsv` has a row for each field of the runtime specification: what becomes of it, where, and which test
//! shows it. A row that claims more than there is fails here.

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
