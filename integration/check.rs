// SPDX-License-Identifier: Apache-2.0
//! `orlop check`: everything that is wrong with a bundle in one run, and none of it twice.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Bundle, Output};
use crate::orlop_only;

fn broken() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/broken")
}

/// The findings of `check --format json` as `severity path`, sorted.
fn found(out: &Output) -> Vec<String> {
    let findings: Value = serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out}"));
    let word = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_string();
    let mut found: Vec<String> =
        findings.as_array().unwrap().iter().map(|f| format!("{} {}", word(f, "severity"), word(f, "path"))).collect();
    found.sort();
    found
}

fn check(bundle: &Bundle, options: &[&str]) -> Output {
    bundle.write_config();
    let args = ["check", bundle.dir.to_str().unwrap()];
    bundle.call(args.iter().chain(options)).output()
}

#[test]
fn every_planted_fault_is_found_once() {
    orlop_only!("has check");
    let mut names: Vec<PathBuf> = fs::read_dir(broken()).unwrap().flatten().map(|e| e.path()).collect();
    names.retain(|path| path.is_dir());
    assert_eq!(names.len(), 12);
    for caller in [Bundle::new(), Bundle::v2()] {
        for name in &names {
            let table = fs::read_to_string(name.join("expected.tsv")).unwrap();
            let mut planted: Vec<String> = table.lines().skip(1).map(|line| line.replace('\t', " ")).collect();
            planted.sort();
            let out = caller.call(["check", "--format", "json", name.to_str().unwrap()]).output();
            assert_eq!(out.code(), 1, "{}: {out}", name.display());
            assert_eq!(found(&out), planted, "{}: {out}", name.display());
        }
    }
}

#[test]
fn findings_have_their_place_in_the_text() {
    orlop_only!("has check");
    let text = "{\"ociVersion\": \"1.2.0\", \"root\": {\"path\": \"rootfs\"},\n \"process\": {\"cwd\": \"/\", \"user\": \
                {\"uid\": 0, \"gid\": 0}, \"args\": [\"/probe\"]},\n \"linux\": {\n  \"namespaces\": [{\"type\": \"mnt\"}]}}";
    let bundle = Bundle::new().raw_config(text);
    let out = check(&bundle, &[]);
    assert_eq!(out.code(), 1, "{out}");
    let lines: Vec<&str> = out.stdout.lines().collect();
    assert!(lines[0].starts_with("config.json:4:27: error: linux.namespaces[0].type: unknown value \"mnt\""), "{out}");
    assert_eq!(lines[1..], ["  hint: did you mean \"mount\"?", "1 error, 0 warnings"], "{out}");
    let out = check(&bundle, &["--format", "json"]);
    let first = &serde_json::from_str::<Value>(&out.stdout).unwrap()[0];
    assert_eq!((&first["line"], &first["column"]), (&json!(4), &json!(27)), "{out}");
    assert_eq!(first["hint"], "did you mean \"mount\"?");
}

#[test]
fn a_bundle_that_runs_has_no_faults() {
    orlop_only!("has check");
    for bundle in [Bundle::new(), Bundle::v2()] {
        let out = check(&bundle, &[]).ok();
        assert_eq!(out.stdout, "0 errors, 0 warnings\n", "{out}");
        bundle.run(["/probe", "echo", "x"]).ok();
    }
    for text in [
        include_str!("bundles/default.json"),
        include_str!("bundles/docker.json"),
        include_str!("bundles/userns.json"),
        include_str!("bundles/minimal.json"),
    ] {
        let bundle = Bundle::new().with_config(text).args(["/probe"]);
        check(&bundle, &[]).ok();
    }
}

#[test]
fn warnings_are_faults_if_asked() {
    orlop_only!("has check");
    let bundle = Bundle::new().set("/linux/maskedPath", json!([]));
    let out = check(&bundle, &[]).ok();
    assert!(out.stdout.contains("did you mean \"maskedPaths\"?"), "{out}");
    assert_eq!(check(&bundle, &["--strict"]).code(), 1);
    assert_eq!(found(&check(&bundle, &["--strict", "--format", "json"])), ["error linux.maskedPath"]);
}

#[test]
fn the_program_is_judged_in_the_root_filesystem_and_as_the_user() {
    orlop_only!("has check");
    // The link leads out of the root filesystem by name, and inside it to the probe.
    let bundle = Bundle::new().link_in_rootfs("/bin/app", "../../../../probe").args(["app"]);
    check(&bundle, &[]).ok();
    // Nobody may execute it but its owner.
    let bundle = Bundle::new().file("/bin/app", "#!/probe\n", 0o700).args(["app"]).set("/process/user/uid", 1000);
    let bundle = bundle.remove("/process/capabilities");
    assert_eq!(found(&check(&bundle, &["--format", "json"])), ["error process.args[0]"]);
    fs::set_permissions(bundle.rootfs().join("bin/app"), PermissionsExt::from_mode(0o755)).unwrap();
    check(&bundle, &[]).ok();
    // It comes with a bind mount; what a tmpfs will hold is not known.
    let bundle = Bundle::new();
    fs::create_dir(bundle.dir.join("tools")).unwrap();
    fs::hard_link(bundle.rootfs().join("probe"), bundle.dir.join("tools/app")).unwrap();
    let bundle = bundle.mount("/opt", "", "tools", &["bind"]).args(["/opt/app"]);
    check(&bundle, &[]).ok();
    let bundle = bundle.args(["/opt/other"]);
    assert_eq!(found(&check(&bundle, &["--format", "json"])), ["error process.args[0]"]);
    let bundle = bundle.mount("/opt", "tmpfs", "tmpfs", &[]);
    check(&bundle, &[]).ok();
}

#[test]
fn check_changes_nothing() {
    orlop_only!("has check");
    let bundle = Bundle::new();
    check(&bundle, &[]).ok();
    assert_eq!(fs::read_dir(bundle.state_root()).unwrap().count(), 0);
    assert!(!bundle.rootfs().join("dev/pts").exists());
    let out = bundle.call(["check", "/nowhere"]).output();
    out.fails_with(&["config.json", "no such file"]);
}

#[test]
fn a_remount_covers_nothing_and_needs_no_source() {
    orlop_only!("has check");
    let bundle = Bundle::new().file("/opt/keep", "", 0o644);
    let volume = bundle.dir.join("volume");
    fs::create_dir(&volume).unwrap();
    fs::copy(bundle.rootfs().join("probe"), volume.join("probe")).unwrap();
    let bundle = bundle
        .mount("/opt", "bind", volume.to_str().unwrap(), &["bind"])
        .mount("/opt", "bind", "/nowhere", &["remount", "bind", "ro"])
        .args(["/opt/probe"]);
    bundle.write_config();
    let out = bundle.call(["check", bundle.dir.to_str().unwrap()]).output();
    assert_eq!(out.code(), 0, "{out}");
    bundle.run(["/opt/probe"]).ok();
}

#[test]
fn a_file_system_that_cannot_be_idmapped_is_named() {
    orlop_only!("has check");
    let bundle = Bundle::new().userns(0, 100_000, 65_536).mount("/mnt", "", "/sys", &["rbind", "idmap"]);
    let out = check(&bundle, &["--format", "json"]);
    assert_eq!(found(&out), ["error mounts[3].source"], "{out}");
    bundle.check_clean();
}
