// SPDX-License-Identifier: Apache-2.0
//! Real clients: containerd, Docker, podman, buildah. `clients/run` gives every case to runc and to orlop in a throw-away machine of
//! Debian packages, and fails when something passes with runc alone. Here each client is one test.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use crate::harness::runtime;
use crate::{orlop_only, skip_expected};

/// `EX_TEMPFAIL` of sysexits.h: there is no tree, and no mirror to build one from.
const NO_TREE: i32 = 75;

fn cases(client: &str) -> Result<(), String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/clients/run");
    let out = Command::new(script).arg(client).env("ORLOP", runtime::program()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    if out.status.code() == Some(NO_TREE) {
        return Err(said.lines().last().unwrap_or("no tree").to_string());
    }
    let table = String::from_utf8_lossy(&out.stdout);
    // The table is to be seen when all is well, too; in one piece, since tests run beside each other.
    drop(std::io::stderr().write_all(format!("\n{table}{said}").as_bytes()));
    assert!(out.status.success(), "{client}: see the table");
    assert!(table.lines().any(|line| line.ends_with("pass     pass")), "{client}: nothing passed, so nothing is shown");
    Ok(())
}

macro_rules! client {
    ($name:ident) => {
        #[test]
        fn $name() {
            orlop_only!("is compared: the cases run with runc too");
            if let Err(why) = cases(stringify!($name)) {
                skip_expected!("{why}");
            }
        }
    };
}

client!(containerd);
client!(cri);
client!(docker);
client!(podman);
client!(rootless);
client!(buildah);
