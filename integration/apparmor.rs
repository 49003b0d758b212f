// SPDX-License-Identifier: Apache-2.0
//! AppArmor: the profile of the config is that of the program and of each `exec`, and one that is not there is refused.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Bundle, Flavor, flavor, host};

/// A profile that is loaded while this lives.
struct Profile {
    name: String,
    text: String,
}

impl Profile {
    /// Everything is allowed but to read /tmp/secret, and what `rules` deny.
    fn load(name: &str, rules: &str) -> Self {
        let text = format!(
            "profile {name} flags=(attach_disconnected,mediate_deleted) {{\n  file,\n  capability,\n  mount,\n  umount,\n  \
             pivot_root,\n  ptrace,\n  signal,\n  unix,\n  network,\n  deny /tmp/secret r,\n  {rules}\n}}\n"
        );
        let profile = Self { name: name.to_string(), text };
        profile.parser("--replace");
        profile
    }

    fn parser(&self, action: &str) {
        let program = host::find_program("apparmor_parser").unwrap();
        let mut parser = Command::new(program).args(["--skip-cache", action]).stdin(Stdio::piped()).spawn().unwrap();
        parser.stdin.take().unwrap().write_all(self.text.as_bytes()).unwrap();
        assert!(parser.wait().unwrap().success(), "apparmor_parser {action}: {}", self.text);
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.parser("--remove");
    }
}

macro_rules! requires_apparmor {
    () => {
        let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
        if enabled.trim() != "Y" || !Path::new("/sys/kernel/security/apparmor/.load").exists() {
            crate::skip_expected!("this host has no AppArmor");
        }
        if host::find_program("apparmor_parser").is_none() {
            crate::skip_expected!("apparmor_parser is not installed");
        }
    };
}

/// The label of the process that prints it, and what happens to the secret.
const LOOK: [&str; 6] = ["/probe", "read", "/proc/self/attr/current", ",", "read", "/tmp/secret"];

fn confined(profile: &Profile) -> Bundle {
    Bundle::new().file("/tmp/secret", "secret", 0o644).set("/process/apparmorProfile", profile.name.as_str())
}

#[test]
fn the_profile_is_in_force_and_can_be_read_back() {
    requires_apparmor!();
    let profile = Profile::load("orlop-it-enforced", "");
    for bundle in [confined(&profile), confined(&profile).userns(0, 100_000, 65_536)] {
        let out = bundle.run(LOOK);
        let seen = out.jsons();
        assert_eq!(seen[0]["content"].as_str().map(str::trim), Some("orlop-it-enforced (enforce)"), "{out}");
        assert_eq!(seen[1]["errno"], libc::EACCES, "{out}");
    }
    // Without it, the secret can be read.
    let out = Bundle::new().file("/tmp/secret", "secret", 0o644).run(LOOK);
    assert_eq!(out.jsons()[0]["content"].as_str().map(str::trim), Some("unconfined"), "{out}");
    assert_eq!(out.jsons()[1]["content"], "secret", "{out}");
}

#[test]
fn the_profile_binds_without_no_new_privileges_too() {
    requires_apparmor!();
    let profile = Profile::load("orlop-it-nnp", "");
    let out = confined(&profile).set("/process/noNewPrivileges", false).run(LOOK);
    assert_eq!(out.jsons()[0]["content"].as_str().map(str::trim), Some("orlop-it-nnp (enforce)"), "{out}");
    assert_eq!(out.jsons()[1]["errno"], libc::EACCES, "{out}");
}

#[test]
fn exec_has_the_profile_of_init_or_the_one_that_is_asked_for() {
    requires_apparmor!();
    let (profile, other) = (Profile::load("orlop-it-init", ""), Profile::load("orlop-it-exec", "deny /mnt/** w,"));
    let bundle = crate::exec::running(confined(&profile));
    let label = |options: &[&str]| {
        let out = crate::exec::exec(&bundle, options, &LOOK).ok();
        assert_eq!(out.jsons()[1]["errno"], libc::EACCES, "{out}");
        out.jsons()[0]["content"].as_str().unwrap().trim().to_string()
    };
    assert_eq!(label(&[]), "orlop-it-init (enforce)");
    assert_eq!(label(&["--apparmor", &other.name]), "orlop-it-exec (enforce)");
    let out = crate::exec::exec_failing(&bundle, &["--apparmor", "orlop-it-no-such"], &["/probe"]);
    if flavor() == Flavor::Orlop {
        out.fails_with(&["process.apparmorProfile", "orlop-it-no-such"]);
    }
    assert_eq!(bundle.state()["status"], "running");
}

#[test]
fn a_profile_that_is_not_loaded_is_refused_and_nothing_is_left() {
    requires_apparmor!();
    let bundle = Bundle::new().set("/process/apparmorProfile", "orlop-it-no-such");
    let out = bundle.try_run(["/probe"]).fails_with(&["apparmor"]);
    if flavor() == Flavor::Orlop {
        assert_eq!(out.code(), 1);
        out.fails_with(&["process.apparmorProfile", "orlop-it-no-such", "not loaded"]);
    }
    bundle.check_clean();
}

#[test]
fn the_container_s_own_proc_cannot_swallow_the_label() {
    // CVE-2019-16884, CVE-2023-28642: a /proc of the image's making, or none.
    requires_apparmor!();
    let profile = Profile::load("orlop-it-proc", "");
    let bundle = confined(&profile)
        .set("/mounts/0", serde_json::json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"}))
        .dir_in_rootfs("/proc/self/attr", 0o777)
        .file("/proc/self/attr/exec", "", 0o666)
        .file("/proc/self/attr/current", "", 0o666);
    let out = bundle.try_run(LOOK);
    if out.status.success() {
        assert_eq!(out.jsons()[1]["errno"], libc::EACCES, "it runs unconfined: {out}");
    }
}
