// SPDX-License-Identifier: Apache-2.0
//! What an operator's policy makes of real containers. Policies come by `--policy`, so that nothing of the machine is
//! changed; the system's files are read by the same code.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::config::CAPS;
use crate::harness::{Bundle, Call, Output, host, runtime};
use crate::orlop_only;

/// CAP_KILL, CAP_NET_BIND_SERVICE and CAP_AUDIT_WRITE, those of the base configuration.
const BASE: u64 = 1 << 5 | 1 << 10 | 1 << 29;
const CHOWN: u64 = 1;

/// Writes a policy into a directory of its own, which is root's.
fn policy(bundle: &Bundle, text: &str) -> PathBuf {
    let dir = bundle.dir.join("policy");
    if !dir.exists() {
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let file = dir.join("policy.toml");
    fs::write(&file, format!("version = 1\n{text}")).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    file
}

/// `create` or `run` under the policy that [`policy`] wrote.
fn call(bundle: &Bundle, command: &str) -> Call {
    bundle.write_config();
    let (file, pid) = (bundle.dir.join("policy/policy.toml"), bundle.pid_file());
    let (file, dir, pid) = (file.to_str().unwrap(), bundle.dir.to_str().unwrap(), pid.to_str().unwrap());
    bundle.call(["--policy", file, command, "--bundle", dir, "--pid-file", pid, &bundle.id])
}

#[track_caller]
fn run(bundle: &Bundle, text: &str) -> Output {
    policy(bundle, text);
    call(bundle, "run").output()
}

fn test(bundle: &Bundle) -> Output {
    bundle.write_config();
    let file = bundle.dir.join("policy/policy.toml");
    let words = ["--policy", file.to_str().unwrap(), "policy", "test", "--format", "json", "--bundle"];
    bundle.call(words.into_iter().chain([bundle.dir.to_str().unwrap()])).output()
}

/// The sets of a process, from /proc: bounding, effective.
fn sets(pid: i32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let set = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(value.trim(), 16).unwrap()
    };
    (set("CapBnd:"), set("CapEff:"))
}

/// A bundle that asks for what the base configuration has and for CAP_CHOWN.
fn greedy() -> Bundle {
    let names: Vec<&str> = CAPS.into_iter().chain(["CAP_CHOWN"]).collect();
    Bundle::new()
        .set("/process/capabilities", json!({"bounding": names, "effective": names, "permitted": names}))
        .args(["/probe", "wait"])
}

const CEILING: &str = "[capabilities]\nceiling = [\"AUDIT_WRITE\", \"KILL\", \"NET_BIND_SERVICE\"]\n";

#[test]
fn above_the_ceiling_is_refused_clamped_or_warned_of() {
    orlop_only!("has policies");
    let bundle = greedy();
    for text in [CEILING.to_string(), format!("{CEILING}on_excess = \"reject\"")] {
        let place = format!("{}:3", policy(&bundle, &text).display());
        let words = ["process.capabilities.bounding", "CAP_CHOWN", &place, "CAP_KILL"];
        call(&bundle, "create").output().fails_with(&words);
        bundle.check_clean();
        let out = test(&bundle);
        assert_eq!(out.code(), 1, "{out}");
        let shown: Value = serde_json::from_str(&out.stdout).unwrap();
        assert_eq!(shown["decisions"][0]["asked"], "CAP_CHOWN");
    }
    for (mode, expected, code) in [("clamp", BASE, 3), ("warn", BASE | CHOWN, 0)] {
        let bundle = greedy();
        policy(&bundle, &format!("{CEILING}on_excess = \"{mode}\""));
        assert_eq!(test(&bundle).code(), code);
        let running = call(&bundle, "create").start();
        let out = running.output().ok();
        assert!(out.stderr.contains("CAP_CHOWN"), "{out}");
        bundle.start();
        crate::harness::eventually("the program runs", || sets(bundle.pid()) == (expected, expected));
        // exec gets no higher, whatever happens to the policy meanwhile.
        policy(&bundle, "");
        let exec = bundle.call(["exec", "--cap", "CAP_SYS_ADMIN", &bundle.id, "/probe"]).output();
        if mode == "clamp" {
            assert_eq!(exec.ok().json()["caps"]["bounding"], format!("{expected:016x}"));
        } else {
            exec.fails_with(&["CAP_SYS_ADMIN", "bounding"]);
        }
        assert!(bundle.state_root().join(&bundle.id).join("policy.json").exists());
        bundle.delete_force().ok();
    }
}

#[test]
fn a_default_is_for_those_who_do_not_ask() {
    orlop_only!("has policies");
    let text = "[capabilities]\ndefault = [\"KILL\"]\nambient = \"non-root\"\n[no_new_privs]\nforce = true\n";
    let bundle = Bundle::new()
        .remove("/process/capabilities")
        .remove("/process/noNewPrivileges")
        .set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let seen = run(&bundle, text).ok().json();
    for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        assert_eq!(seen["caps"][set], format!("{:016x}", 1 << 5), "{set}");
    }
    assert_eq!(seen["no_new_privs"], 1, "{seen}");
    let asks = bundle.set("/process/capabilities", json!({}));
    assert_eq!(run(&asks, text).ok().json()["caps"]["bounding"], "0000000000000000");
}

#[test]
fn a_plain_bundle_gets_a_user_namespace_with_ids_of_its_own() {
    orlop_only!("has policies");
    let text = "[user_namespace]\nrequire = \"always\"\nmap = \"subid:auto\"\n";
    let args = ["/probe", "write", "/tmp/new", "x", ",", "stat", "/tmp/new", ",", "wait"];
    let first = Bundle::new().args(args);
    let second = Bundle::new().args(args);
    let state = first.state_root();
    let subid = first.dir.join("subid");
    fs::write(&subid, "containers:3000000:131072\n").unwrap();
    let mut maps = Vec::new();
    for bundle in [&first, &second] {
        bundle.write_config();
        let file = policy(bundle, text);
        let (dir, pid) = (bundle.dir.to_str().unwrap(), bundle.pid_file());
        let words =
            ["--policy", file.to_str().unwrap(), "create", "--bundle", dir, "--pid-file", pid.to_str().unwrap()];
        // One state root for both, since leases are of a root.
        let words = ["--root", state.to_str().unwrap()].into_iter().chain(words).chain([bundle.id.as_str()]);
        let call = Call::new(&runtime::program(), &bundle.dir, bundle.layer).env("ORLOP_IT", &bundle.id).args(words);
        let call = crate::rootless::private_files(call, &[(&subid, "/etc/subuid"), (&subid, "/etc/subgid")]);
        call.output().ok();
        let map = fs::read_to_string(format!("/proc/{}/uid_map", bundle.pid())).unwrap();
        maps.push(map.split_whitespace().map(|word| word.parse().unwrap()).collect::<Vec<u32>>());
    }
    assert_eq!(maps, [[0, 3_000_000, 65_536], [0, 3_065_536, 65_536]]);
    for (bundle, map) in [(&first, &maps[0]), (&second, &maps[1])] {
        let here = |words: &[&str]| {
            let call = Call::new(&runtime::program(), &bundle.dir, bundle.layer).env("ORLOP_IT", &bundle.id);
            call.args(["--root", state.to_str().unwrap()]).args(words).output()
        };
        here(&["start", &bundle.id]).ok();
        let new = bundle.rootfs().join("tmp/new");
        crate::harness::eventually("the program has written", || new.exists());
        // Idmapped: the tree keeps root's ids, while the process is of the leased range.
        assert_eq!(fs::metadata(&new).unwrap().uid(), 0);
        assert_eq!(fs::metadata(format!("/proc/{}", bundle.pid())).unwrap().uid(), map[1]);
        assert_eq!(here(&["exec", &bundle.id, "/probe"]).json()["uid_map"], json!([map]));
        here(&["delete", "--force", &bundle.id]).ok();
    }
    // One that brings no mapping is refused where the policy has none to give; --userns=auto brings one.
    let bundle = Bundle::new();
    run(&bundle, "[user_namespace]\nrequire = \"always\"").fails_with(&["linux.namespaces", "user namespace", ":3"]);
    run(&bundle.userns(0, 100_000, 65_536), "[user_namespace]\nforbid_host_ids = [\"100005-100006\"]")
        .fails_with(&["linux.uidMappings[0].hostID", "100005 to 100006"]);
}

#[test]
fn a_policy_s_profile_confines() {
    orlop_only!("has policies");
    let profile = |bundle: &Bundle, name: &str, call: &str, errno: u32| {
        let dir = bundle.dir.join("policy");
        fs::create_dir_all(&dir).unwrap();
        let text = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": [call], "action": "SCMP_ACT_ERRNO", "errnoRet": errno}]
        });
        fs::write(dir.join(name), text.to_string()).unwrap();
        format!("[seccomp]\nconfig_dir = {:?}\n", dir.to_str().unwrap())
    };
    let bundle = Bundle::new().args(["/probe", "mkdir", "/tmp/d"]);
    let head = profile(&bundle, "a.json", "mkdir", 77);
    let head = head.replace("[seccomp]", "[seccomp]\nallow_unconfined = false");
    run(&bundle, &head).fails_with(&["linux.seccomp", "unconfined", "policy.toml:3"]);
    let seen = run(&bundle, &format!("{head}default = \"a.json\"")).ok().json();
    assert!(seen.to_string().contains("77"), "{seen}");
    let own = bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"}));
    let replaced = format!("{head}default = \"a.json\"\nbundle_profile = \"ignore\"");
    assert!(run(&own, &replaced).ok().json().to_string().contains("77"));
    run(&own, &format!("{head}bundle_profile = \"forbid\"\ndefault = \"a.json\"")).fails_with(&["linux.seccomp", ":5"]);
}

#[test]
fn mounts_and_limits_are_tightened() {
    orlop_only!("has policies");
    let bundle = Bundle::new().mount("/mnt", "bind", "/usr", &["rbind"]);
    let text = "[mounts]\nrequire_options = {bind = [\"nosuid\", \"nodev\", \"ro\"]}\nforbid_sources = [\"/etc\"]\n";
    let seen = run(&bundle, text).ok().json();
    let options = &crate::harness::mount_at(&seen, "/mnt").to_string();
    for option in ["nosuid", "nodev", "\"ro"] {
        assert!(options.contains(option), "{option} in {options}");
    }
    let link = bundle.dir.join("link");
    symlink("/etc", &link).unwrap();
    let bad = bundle.mount("/tmp", "bind", link.to_str().unwrap(), &["rbind"]);
    run(&bad, text).fails_with(&["mounts[4].source", "which is /etc", "policy.toml:4"]);
}

#[test]
fn a_namespace_of_the_host_by_another_name_is_found() {
    orlop_only!("has policies");
    let path = format!("/proc/{}/ns/net", std::process::id());
    let bundle = Bundle::new().join_ns("network", &path);
    run(&bundle, "[namespaces]\nforbid_host = [\"network\"]").fails_with(&["linux.namespaces", "policy.toml:3"]);
}

#[test]
fn every_decision_leaves_a_line() {
    orlop_only!("has policies");
    let bundle = greedy();
    let log = bundle.dir.join("audit.jsonl");
    let audit = format!("[audit]\nfile = {:?}\n", log.to_str().unwrap());
    policy(&bundle, &format!("{audit}{CEILING}"));
    call(&bundle, "create").output().fails();
    policy(&bundle, &format!("{audit}{CEILING}on_excess = \"clamp\""));
    call(&bundle, "create").output().ok();
    bundle.start();
    bundle.call(["exec", &bundle.id, "/probe"]).output().ok();
    let lines = runtime::lines(&fs::read_to_string(&log).unwrap());
    let words: Vec<(&str, &str)> =
        lines.iter().map(|l| (l["event"].as_str().unwrap(), l["outcome"].as_str().unwrap())).collect();
    assert_eq!(words, [("create", "refused"), ("create", "clamped"), ("exec", "accepted")], "{lines:?}");
    assert_eq!(lines[0]["id"], bundle.id.as_str());
    assert_eq!(fs::metadata(&log).unwrap().mode() & 0o777, 0o600);
    bundle.delete_force().ok();
    // What cannot be audited does not happen.
    let target = bundle.dir.join("elsewhere");
    fs::remove_file(&log).unwrap();
    symlink(&target, &log).unwrap();
    call(&bundle, "create").output().fails_with(&["audit"]);
    assert!(!target.exists());
    bundle.check_clean();
}

#[test]
fn a_policy_that_is_not_to_be_trusted_starts_nothing() {
    orlop_only!("has policies");
    let bundle = Bundle::new();
    let refused = |words: &[&str]| {
        call(&bundle, "run").output().fails_with(words);
        bundle.check_clean();
    };
    let file = policy(&bundle, "");
    let dir = file.parent().unwrap();
    call(&bundle, "run").output().ok();
    let mode = |path: &std::path::Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    for (path, good) in [(file.as_path(), 0o644), (dir, 0o755), (bundle.dir.as_path(), 0o755)] {
        for bad in [good | 0o020, good | 0o002] {
            mode(path, bad);
            refused(&["writable", path.to_str().unwrap()]);
            mode(path, good);
        }
        chown(path, Some(1000), None).unwrap();
        refused(&["belongs to uid 1000", path.to_str().unwrap()]);
        chown(path, Some(0), None).unwrap();
    }
    for (text, words) in [
        ("[capabilities", &["policy.toml:2", "unclosed"][..]),
        ("capabilities.celing = []", &["policy.toml:2", "did you mean ceiling"]),
        ("capabilities.ceiling = []\ncapabilities.default = [\"KILL\"]", &["policy.toml:3", "CAP_KILL"]),
        ("seccomp.config_dir = \"/nowhere\"\nseccomp.default = \"a\"", &["policy.toml:3", "/nowhere"]),
        ("seccomp.config_dir = \"DIR\"\nseccomp.default = \"a.json\"", &["policy.toml:3", "a.json", "ENOENT"]),
        ("seccomp.config_dir = \"DIR\"\nseccomp.stack = [\"../config.json\"]", &["policy.toml:3", "EXDEV"]),
        ("seccomp.config_dir = \"DIR\"\nseccomp.default = \"/etc/passwd\"", &["policy.toml:3", "EXDEV"]),
        ("seccomp.config_dir = \"DIR\"\nseccomp.default = \"link\"", &["policy.toml:3", "ELOOP"]),
        ("seccomp.config_dir = \"DIR\"\nseccomp.default = \"policy.toml\"", &["policy.toml:3", "seccomp.default"]),
        ("seccomp.config_dir = \"DIR\"\nseccomp.default = \"odd.json\"", &["policy.toml:3", "SCMP_ACT_FLY"]),
    ] {
        policy(&bundle, &text.replace("DIR", dir.to_str().unwrap()));
        let link = dir.join("link");
        if !link.exists() {
            symlink("policy.toml", &link).unwrap();
            fs::write(dir.join("odd.json"), "{\"defaultAction\": \"SCMP_ACT_FLY\"}").unwrap();
        }
        refused(words);
    }
    fs::write(&file, b"version = 1\n# \xff\n").unwrap();
    refused(&["policy.toml:2", "UTF-8"]);
    fs::remove_file(&file).unwrap();
    refused(&["no such file"]);
}

#[test]
fn a_directory_of_files_is_read_in_order() {
    orlop_only!("has policies");
    let bundle = greedy().args(["/probe"]);
    let file = policy(&bundle, CEILING);
    let below = file.parent().unwrap().join("policy.d");
    fs::create_dir(&below).unwrap();
    fs::write(below.join("10-a.toml"), "version = 1\ncapabilities.on_excess = \"clamp\"\n").unwrap();
    fs::write(below.join("20-b.toml"), "version = 1\n[capabilities]\nceiling = [\"KILL\"]\n").unwrap();
    fs::write(below.join("notes"), "not a policy").unwrap();
    bundle.write_config();
    let dir = file.parent().unwrap().to_str().unwrap();
    let run = || bundle.call(["--policy", dir, "run", "--bundle", bundle.dir.to_str().unwrap(), &bundle.id]).output();
    assert_eq!(run().ok().json()["caps"]["bounding"], format!("{:016x}", 1 << 5));
    let shown = bundle.call(["--policy", dir, "policy", "show"]).output().ok();
    assert!(shown.stdout.contains("capabilities.ceiling = [\"CAP_KILL\"]"), "{shown}");
    assert!(shown.stdout.contains("20-b.toml:3"), "{shown}");
    fs::write(below.join("15-c.toml"), "x = 1\n").unwrap();
    run().fails_with(&["15-c.toml:1"]);
    fs::set_permissions(&below, PermissionsExt::from_mode(0o777)).unwrap();
    run().fails_with(&["policy.d", "writable"]);
}

/// The call with another /etc, in a mount namespace of its own, whose orlop/policy.toml is `text`.
fn with_system_policy(bundle: &Bundle, call: Call, text: &str) -> Call {
    let etc = bundle.dir.join("etc");
    fs::create_dir_all(etc.join("orlop")).unwrap();
    fs::write(etc.join("orlop/policy.toml"), format!("version = 1\n{text}")).unwrap();
    crate::rootless::private_files(call, &[(&etc, "/etc")])
}

#[test]
fn a_second_policy_only_tightens() {
    orlop_only!("has policies");
    let bundle = greedy().args(["/probe"]);
    let run = |bundle: &Bundle, system: &str, own: &str| {
        policy(bundle, own);
        with_system_policy(bundle, call(bundle, "run"), system).output()
    };
    let clamp = format!("{CEILING}on_excess = \"clamp\"\ninheritable = \"empty\"\n");
    let bounding =
        |out: Output| u64::from_str_radix(out.ok().json()["caps"]["bounding"].as_str().unwrap(), 16).unwrap();
    assert_eq!(bounding(run(&bundle, &clamp, "capabilities.ceiling = [\"@all\"]")), BASE);
    let less = "capabilities.ceiling = [\"KILL\"]\ncapabilities.on_excess = \"clamp\"";
    assert_eq!(bounding(run(&bundle, &clamp, less)), 1 << 5);
    run(&bundle, &clamp, "capabilities.inheritable = \"bounding\"")
        .fails_with(&["contradict", "/etc/orlop/policy.toml:5"]);
    run(&bundle, CEILING, "").fails_with(&["CAP_CHOWN", "/etc/orlop/policy.toml:3"]);
    let plain = bundle.remove("/process/capabilities");
    run(&plain, CEILING, "capabilities.default = [\"CHOWN\"]").fails_with(&["CAP_CHOWN", "/etc/orlop/policy.toml:3"]);
    run(&plain, "x = 1", "").fails_with(&["/etc/orlop/policy.toml:2", "unknown key"]);
    plain.check_clean();
}

#[test]
fn the_system_s_policy_holds_without_a_flag() {
    orlop_only!("has policies");
    let bundle = greedy();
    with_system_policy(&bundle, bundle.call_new("run", &[]), CEILING).output().fails_with(&["CAP_CHOWN"]);
    let words = ["policy", "test", "--bundle", bundle.dir.to_str().unwrap()];
    let out = with_system_policy(&bundle, bundle.call(words), CEILING).output();
    assert_eq!(out.code(), 1, "{out}");
    assert!(out.stdout.starts_with("refused\n"), "{out}");
    // And plan shows what create would do under it.
    let clamp = format!("{CEILING}on_excess = \"clamp\"");
    let words = ["plan", "--bundle", bundle.dir.to_str().unwrap()];
    let plan = with_system_policy(&bundle, bundle.call(words), &clamp).output().json();
    assert_eq!(plan["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 3);
}

#[test]
fn flags_of_a_mesos_agent_become_a_policy() {
    orlop_only!("has policies");
    let bundle = Bundle::new().remove("/process/capabilities").set("/process/user", json!({"uid": 9, "gid": 9}));
    let out = bundle.call([
        "policy",
        "import-mesos",
        "--effective_capabilities",
        "{\"capabilities\": [\"KILL\"]}",
        "--bounding_capabilities={\"capabilities\": [\"KILL\", \"NET_BIND_SERVICE\"]}",
    ]);
    let text = out.output().ok().stdout.replace("version = 1\n", "");
    let seen = run(&bundle, &text).ok().json();
    let (kill, both) = (format!("{:016x}", 1 << 5), format!("{:016x}", 1 << 5 | 1 << 10));
    for (set, expected) in
        [("effective", &kill), ("permitted", &kill), ("ambient", &kill), ("bounding", &both), ("inheritable", &both)]
    {
        assert_eq!(&seen["caps"][set], expected, "{set}");
    }
    run(&greedy(), &text).fails_with(&["CAP_CHOWN"]);
}

#[test]
fn stacked_profiles_bind_init_and_exec() {
    orlop_only!("has policies");
    let deny = |call: &str, errno: u32| {
        json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": [call], "action": "SCMP_ACT_ERRNO", "errnoRet": errno}]
        })
    };
    let bundle = Bundle::new().set("/linux/seccomp", deny("mkdir", 71));
    let file = policy(&bundle, "");
    let dir = file.parent().unwrap();
    for (name, call, errno) in [("a.json", "chmod", 72), ("b.json", "symlink", 73)] {
        fs::write(dir.join(name), deny(call, errno).to_string()).unwrap();
    }
    let text = format!("[seccomp]\nconfig_dir = {:?}\nstack = [\"a.json\", \"b.json\"]\n", dir.to_str().unwrap());
    policy(&bundle, &text);
    let bundle = bundle.args(["/probe", "wait"]);
    let out = call(&bundle, "create").output().ok();
    assert!(out.stderr.contains("a.json and"), "{out}");
    bundle.start();
    // A change of the policy's files changes nothing for a container that exists.
    fs::remove_dir_all(dir).unwrap();
    for (program, errno) in
        [(&["mkdir", "/tmp/x"][..], 71), (&["chmod", "600", "/tmp"], 72), (&["symlink", "/x", "/tmp/y"], 73)]
    {
        let words = ["exec", &bundle.id, "/probe"].into_iter().chain(program.iter().copied());
        assert_eq!(bundle.call(words).output().json()["errno"], errno, "{program:?}");
    }
    let seen = bundle.call(["exec", &bundle.id, "/probe"]).output().json();
    assert_eq!(seen["seccomp"], 2, "{seen}");
}

#[test]
fn a_kept_config_that_was_changed_is_not_used() {
    orlop_only!("has policies");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    policy(&bundle, "[no_new_privs]\nforce = true\n");
    call(&bundle, "create").output().ok();
    bundle.start();
    bundle.call(["exec", &bundle.id, "/probe"]).output().ok();
    let kept = bundle.state_root().join(&bundle.id).join("config.json");
    let text = fs::read_to_string(&kept).unwrap();
    fs::write(&kept, text.replace("\"noNewPrivileges\": true", "\"noNewPrivileges\": false") + "\n").unwrap();
    bundle.call(["exec", &bundle.id, "/probe"]).output().fails_with(&["config.json", "digest"]);
}

/// Otherwise what the digest was compared with need not be what is used.
#[test]
fn the_kept_config_is_read_once() {
    orlop_only!("has policies");
    let Some(strace) = host::find_program("strace") else { crate::skip!("strace is not installed") };
    let bundle = Bundle::new().args(["/probe", "wait"]);
    policy(&bundle, "[no_new_privs]\nforce = true\n");
    call(&bundle, "create").output().ok();
    bundle.start();
    let mount = json!({"destination": "/scratch", "type": "tmpfs"}).to_string();
    for words in [&["exec", &bundle.id, "/probe"][..], &["mounts", "add", "--mount", &mount, &bundle.id]] {
        let (log, root) = (bundle.dir.join("calls"), bundle.state_root());
        runtime::Call::new(&strace, &bundle.dir, bundle.layer)
            .args(["-qq", "-e", "trace=openat", "-o", log.to_str().unwrap(), runtime::program().to_str().unwrap()])
            .args(["--root", root.to_str().unwrap()])
            .args(words.iter().copied())
            .output()
            .ok();
        let calls = fs::read_to_string(&log).unwrap();
        assert_eq!(calls.matches("\"config.json\"").count(), 1, "{words:?}: {calls}");
    }
}

#[test]
fn a_denial_by_the_policy_names_its_line_and_profile() {
    orlop_only!("has policies");
    let bundle = Bundle::new().set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"}));
    let profiles = bundle.dir.join("policy");
    policy(&bundle, &format!("[seccomp]\nconfig_dir = {:?}\nstack = [\"deny.json\"]\n", profiles.to_str().unwrap()));
    let deny = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["keyctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71}]});
    fs::write(profiles.join("deny.json"), deny.to_string()).unwrap();
    let bundle = bundle.args(["/probe", "syscall", "250", "0", "0"]);
    bundle.write_config();
    let policy = profiles.join("policy.toml");
    let words = ["--policy", policy.to_str().unwrap(), "run", "--explain-denials", "--bundle"];
    let words = words.into_iter().chain([bundle.dir.to_str().unwrap(), bundle.id.as_str()]);
    let out = bundle.call(words).output().ok();
    assert_eq!(out.json()["errno"], 71);
    for word in ["keyctl", "policy.toml:", "deny.json", "syscalls[0]"] {
        assert!(out.stderr.contains(word), "{word} in {}", out.stderr);
    }
}
