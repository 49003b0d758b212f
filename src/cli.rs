// SPDX-License-Identifier: Apache-2.0
/// Runs the program.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
