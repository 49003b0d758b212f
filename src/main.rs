// SPDX-License-Identifier: Apache-2.0
#![no_main]

use std::ffi::{c_char, c_int};

/// What the C library calls. Rust's own start is left out: a dozen system calls for the guard page of a stack that has
/// one, and for a report of its overflow, before every command. The standard library finds the arguments without it.
#[unsafe(no_mangle)]
#[allow(unsafe_code, reason = "the name is the C library's, and nothing else in the program has it")]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    c_int::from(orlop::cli::main())
}
