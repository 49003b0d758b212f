// SPDX-License-Identifier: Apache-2.0
//! The inputs that fuzzing has found, replayed: `integration/fuzz/corpus/TARGET/*`, and the bundles of the repository. How
//! they are looked for is said in `integration/README.md`.

mod bodies;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::orlop_only;

/// The files below `directory`, sorted.
fn files(directory: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            files.push(path);
        } else if path.join("config.json").exists() {
            files.push(path.join("config.json"));
        }
    }
    files.sort();
    files
}

/// Gives each input to `body`. Fails with the names of those that it does not survive, or not in reasonable time.
fn replay(inputs: &[PathBuf], body: fn(&[u8])) {
    assert!(!inputs.is_empty());
    let mut bad = Vec::new();
    for path in inputs {
        let data = fs::read(path).unwrap();
        let begin = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| body(&data))).is_err() {
            bad.push(format!("{}: panics, see above", path.display()));
        }
        if begin.elapsed() > Duration::from_secs(20) {
            bad.push(format!("{}: takes {:?}", path.display(), begin.elapsed()));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn configs_that_fuzzing_has_found() {
    orlop_only!("has a library to call");
    let mut inputs = files("integration/fuzz/corpus/config");
    inputs.extend(files("examples").into_iter().chain(files("examples/broken")).filter(|f| f.ends_with("config.json")));
    inputs.extend(files("integration/bundles"));
    replay(&inputs, bodies::config);
}

#[test]
fn mounts_that_fuzzing_has_found() {
    orlop_only!("has a library to call");
    replay(&files("integration/fuzz/corpus/mounts"), bodies::mounts);
}

#[test]
fn state_files_that_fuzzing_has_found() {
    orlop_only!("has a library to call");
    replay(&files("integration/fuzz/corpus/state"), bodies::state);
}

#[test]
fn seccomp_profiles_that_fuzzing_has_found() {
    orlop_only!("has a library to call");
    replay(&files("integration/fuzz/corpus/seccomp"), bodies::seccomp);
}

#[test]
fn policies_that_fuzzing_has_found() {
    orlop_only!("has a library to call");
    replay(&files("integration/fuzz/corpus/policy"), bodies::policy);
}
