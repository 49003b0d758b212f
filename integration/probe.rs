// SPDX-License-Identifier: Apache-2.0
//! The program in the test rootfs. Without arguments it prints one JSON object of what it sees of its confinement;
//! with a command it tries something and prints the outcome, one JSON line a command. Commands are separated by `,`:
//! `probe stat /dev , write /x text`. It judges nothing: assertions stay in the tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    reason = "a test program: it runs alone inside a container and fails by panicking"
)]

#[path = "probe/act.rs"]
mod act;
#[path = "probe/files.rs"]
mod files;
#[path = "probe/hunt.rs"]
mod hunt;
#[path = "probe/report.rs"]
mod report;

use std::io::Write as _;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.len() < 2 {
        say(&report::all());
        return;
    }
    for command in args[1..].split(|word| word == ",") {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let outcome = match words.first() {
            Some(&"report") => report::all(),
            Some(&"hunt") => hunt::hunt(),
            Some(_) => files::run(&words).unwrap_or_else(|| act::run(&words)),
            None => continue,
        };
        say(&outcome);
    }
}

/// Prints one line. A closed stdout is not worth a panic: some tests close it on purpose.
fn say(value: &serde_json::Value) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{value}").and_then(|()| out.flush()));
}
