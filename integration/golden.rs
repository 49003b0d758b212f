// SPDX-License-Identifier: Apache-2.0
//! What `plan` decides for each example is a checked-in file: a change of meaning shows in review. `UPDATE_GOLDEN=1`
//! writes the files anew. Values that depend on the machine or the checkout are replaced by words.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::Bundle;
use crate::orlop_only;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Replaces the path of the checkout and drops what describes the machine.
fn normalise(value: &mut Value) {
    match value {
        Value::String(text) => *text = text.replace(root().to_str().unwrap(), "$REPO"),
        Value::Array(list) => list.iter_mut().for_each(normalise),
        Value::Object(map) => {
            // Where the caller's own cgroup is, and what the mounted hierarchies control.
            map.remove("places");
            map.values_mut().for_each(normalise);
        }
        _ => {}
    }
}

/// Compares the plan of `bundle` with `integration/golden/<name>.json`.
fn compare(name: &str, bundle: &Path) -> Result<(), String> {
    let caller = Bundle::v2();
    // In the v2 layer, so that the layout of the machine's cgroups does not show.
    let out = caller.call(["plan", "--bundle", bundle.to_str().unwrap()]).output();
    if !out.status.success() {
        return Err(format!("{name}: {out}"));
    }
    let mut plan: Value = serde_json::from_str(&out.stdout).map_err(|e| format!("{name}: {e}: {out}"))?;
    normalise(&mut plan);
    let text = format!("{plan:#}\n");
    let path = root().join("integration/golden").join(format!("{name}.json"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &text).unwrap();
        return Ok(());
    }
    let golden =
        fs::read_to_string(&path).map_err(|e| format!("{}: {e}; UPDATE_GOLDEN=1 writes it", path.display()))?;
    if golden == text {
        return Ok(());
    }
    let differing = golden.lines().zip(text.lines()).enumerate().find(|(_, (a, b))| a != b);
    Err(format!("{name}: the plan differs from {} at {differing:?}; UPDATE_GOLDEN=1 if it is meant", path.display()))
}

#[test]
fn the_plans_of_the_examples() {
    orlop_only!("has plan");
    let mut faults = Vec::new();
    let mut names: Vec<String> = fs::read_dir(root().join("examples"))
        .unwrap()
        .flatten()
        .filter(|e| e.path().join("config.json").exists())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(!names.is_empty());
    for name in names {
        faults.extend(compare(&name, &root().join("examples").join(&name)).err());
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_plans_of_the_bundles() {
    orlop_only!("has plan");
    let mut faults = Vec::new();
    for name in ["default", "docker", "userns", "minimal"] {
        // A bundle needs its rootfs and a path that is the same on every machine once normalised.
        let text = fs::read_to_string(root().join(format!("integration/bundles/{name}.json"))).unwrap();
        let bundle = Bundle::new();
        fs::write(bundle.dir.join("config.json"), text).unwrap();
        let out = bundle.call(["plan", "--bundle", bundle.dir.to_str().unwrap()]).output();
        let first: Result<Value, _> = serde_json::from_str(&out.stdout);
        let again = bundle.call(["plan", "--bundle", bundle.dir.to_str().unwrap()]).output();
        if !out.status.success() || first.is_err() || out.stdout != again.stdout {
            faults.push(format!("{name}: not one JSON document, twice the same: {out}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
