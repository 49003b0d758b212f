// SPDX-License-Identifier: Apache-2.0
//! create, start, state, kill, delete, run, list, spec, features: what the commands do and print.

use crate::harness::{Bundle, eventually, runtime};
use crate::{orlop_only, peer_differs};

#[test]
fn run_prints_and_exits_with_the_container_s_code() {
    let bundle = Bundle::new();
    let out = bundle.run(["/probe", "echo", "hi", ",", "exit", "7"]);
    assert_eq!(out.code(), 7, "{out}");
    assert_eq!(out.jsons()[0]["echo"][0], "hi");
    bundle.check_clean();
}
