// SPDX-License-Identifier: Apache-2.0
//! Leaves the tables for unwinding out of the release binary, a tenth of it: it aborts on a panic (`panic = "abort"`), and
//! backtraces, which read them too, are never taken (`sys::process::forbid_backtraces`). Tests do unwind, so this is for
//! the one binary in the one profile.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=release.ld");
    println!("cargo::rustc-link-arg-bin=orlop=-Wl,-e,orlop_entry");
    // The floor program of the benchmark starts no C library, which could not find its main either.
    println!("cargo::rustc-link-arg-bin=floor=-nostartfiles");
    if std::env::var("PROFILE").as_deref() == Ok("release") {
        let script = format!("{}/release.ld", std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default());
        for argument in ["--icf=all", "--no-eh-frame-hdr", &format!("--script={script}")] {
            println!("cargo::rustc-link-arg-bin=orlop=-Wl,{argument}");
        }
    }
}
