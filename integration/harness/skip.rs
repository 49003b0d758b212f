// SPDX-License-Identifier: Apache-2.0
//! Tests that cannot run here say so and why. libtest counts them as passed, so each also adds a line to the file
//! named by `SKIP_LOG`, which `integration/run` counts. With `STRICT=1` a skip that was not declared fails.

use std::fs::OpenOptions;
use std::io::Write as _;

/// Records a skip. `declared` says that the suite's authors expect it on this kind of machine or runtime.
#[track_caller]
pub fn record(declared: bool, reason: &str) {
    let name = std::thread::current().name().unwrap_or("?").to_string();
    let strict = std::env::var("STRICT").is_ok_and(|v| v == "1");
    assert!(declared || !strict, "{name}: skipped without a declared reason: {reason}");
    let line = format!("SKIP {name}: {reason}\n");
    // Not eprint!, which libtest would capture and throw away: a skip is to be seen.
    drop(std::io::stderr().write_all(line.as_bytes()));
    if let Some(path) = std::env::var_os("SKIP_LOG") {
        let mut log = OpenOptions::new().append(true).create(true).open(path).unwrap();
        log.write_all(line.as_bytes()).unwrap();
    }
}

/// Skips the rest of the test: something that a machine fit for the suite has is missing here.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::harness::skip::record(false, &format!($($reason)*));
        return;
    }};
}

/// Skips the rest of the test for a reason that is expected on some machines (a container host without v1, …).
#[macro_export]
macro_rules! skip_expected {
    ($($reason:tt)*) => {{
        $crate::harness::skip::record(true, &format!($($reason)*));
        return;
    }};
}

/// Skips the rest of the test on the named peer, which is known to behave otherwise. With `DIFFERING=1` it runs all the
/// same, to see a test fail.
#[macro_export]
macro_rules! peer_differs {
    ($peer:literal, $reason:literal) => {
        if $crate::harness::flavor().name() == $peer && std::env::var_os("DIFFERING").is_none() {
            $crate::skip_expected!("{} differs: {}", $peer, $reason);
        }
    };
}

/// Skips the rest of the test on every peer: it is about what only orlop has.
#[macro_export]
macro_rules! orlop_only {
    ($reason:literal) => {
        if $crate::harness::flavor() != $crate::harness::Flavor::Orlop {
            $crate::skip_expected!("only orlop {}", $reason);
        }
    };
}
