// SPDX-License-Identifier: Apache-2.0
#![no_main]

#[path = "../bodies.rs"]
mod bodies;
mod json;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::config(data));
libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    json::mutate(data, size, max_size, seed)
});
