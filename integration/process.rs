// SPDX-License-Identifier: Apache-2.0
//! The `process` object: what the program gets.

use std::fs;

use serde_json::json;

use crate::harness::{Bundle, Flavor, flavor, has};
use crate::peer_differs;

#[test]
fn args_and_env_arrive_as_written() {
    let bundle = Bundle::new().set("/process/env", json!(["PATH=/bin", "A=1", "B=two words", "EMPTY=", "Ü=ß"]));
    let seen = bundle.run(["/probe"]).json();
    assert_eq!(seen["args"], json!(["/probe"]));
    let env = seen["env"].as_array().unwrap();
    for word in ["PATH=/bin", "A=1", "B=two words", "EMPTY=", "Ü=ß"] {
        assert!(env.contains(&json!(word)), "{word}: {env:?}");
    }
    // HOME may be added, nothing else of the runtime's own environment.
    let known = ["PATH=", "A=", "B=", "EMPTY=", "Ü=", "HOME="];
    assert!(env.iter().all(|e| known.iter().any(|k| e.as_str().unwrap().starts_with(k))), "{env:?}");
    let out = bundle.run(["/probe", "echo", "", "a b", "-x", "ü"]);
    assert_eq!(out.json()["echo"], json!(["", "a b", "-x", "ü"]));
}

#[test]
fn home_comes_from_passwd_when_unset() {
    peer_differs!("runc", "1.1.5 does so too, but from the passwd of the rootfs read before the user switch");
    let bundle = Bundle::new()
        .file("/etc/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/var/www:/bin/sh\n", 0o644)
        .set("/process/user", json!({"uid": 33, "gid": 33}));
    assert!(has(&bundle.report()["env"], "HOME=/var/www"));
}

#[test]
fn the_program_is_looked_up_in_the_container_s_path() {
    let bundle = Bundle::new().dir_in_rootfs("/opt/bin", 0o755);
    fs::hard_link(bundle.rootfs().join("probe"), bundle.rootfs().join("opt/bin/tool")).unwrap();
    let bundle = bundle.set("/process/env", json!(["PATH=/nowhere:/opt/bin"]));
    assert_eq!(bundle.run(["tool", "echo", "found"]).json()["echo"][0], "found");
}

#[test]
fn a_missing_program_is_a_create_error() {
    let bundle = Bundle::new().args(["nosuchprogram"]);
    bundle.try_create(&[]).fails_with(&["nosuchprogram", "not found"]);
    bundle.check_clean();
    let bundle = Bundle::new().args(["/no/such/program"]);
    bundle.try_create(&[]).fails_with(&["/no/such/program", "no such file"]);
    bundle.check_clean();
}

#[test]
fn a_missing_program_reads_as_with_runc() {
    peer_differs!("crun", "has words of its own");
    let bundle = Bundle::new().args(["x"]);
    bundle.try_create(&[]).fails_with(&["exec: \"x\": executable file not found in $PATH"]);
}

#[test]
fn a_program_without_execute_permission_is_named() {
    let bundle = Bundle::new().file("/plain", "text", 0o644).args(["/plain"]);
    let out = bundle.try_create(&[]).fails_with(&["permission denied"]);
    assert!(out.stderr.contains("/plain") || flavor() == Flavor::Crun, "{out}");
    bundle.check_clean();
}

#[test]
fn an_exec_format_error_is_reported_by_start() {
    peer_differs!("runc", "the FIFO loses the errno of the exec");
    peer_differs!("crun", "the FIFO loses the errno of the exec");
    let bundle = Bundle::new().file("/garbage", "\x01\x02\x03 no program", 0o755).args(["/garbage"]);
    bundle.create();
    bundle.command("start").fails_with(&["/garbage", "exec format error"]);
    bundle.delete_force().ok();
    bundle.check_clean();
}

#[test]
fn a_script_with_a_missing_interpreter_fails_in_start() {
    peer_differs!("runc", "the FIFO loses the errno of the exec");
    peer_differs!("crun", "the FIFO loses the errno of the exec");
    let bundle = Bundle::new().file("/script", "#!/no/interpreter\n", 0o755).args(["/script"]);
    bundle.create();
    bundle.command("start").fails_with(&["/script", "no such file"]);
}

#[test]
fn run_of_a_bad_program_fails_and_leaves_nothing() {
    let bundle = Bundle::new().file("/garbage", "\x01\x02\x03 no program", 0o755);
    bundle.try_run(["/garbage"]).fails();
    bundle.check_clean();
}

#[test]
fn cwd_is_entered_and_made_when_missing() {
    let bundle = Bundle::new().dir_in_rootfs("/srv/here", 0o755).set("/process/cwd", "/srv/here");
    assert_eq!(bundle.report()["cwd"], "/srv/here");
    let bundle = Bundle::new().set("/process/cwd", "/made/for/me");
    assert_eq!(bundle.report()["cwd"], "/made/for/me");
    assert!(bundle.rootfs().join("made/for/me").is_dir());
}

#[test]
fn cwd_that_only_the_user_may_enter_works() {
    let bundle = Bundle::new().dir_in_rootfs("/home/u", 0o700).set("/process/user", json!({"uid": 1000, "gid": 1000}));
    std::os::unix::fs::chown(bundle.rootfs().join("home/u"), Some(1000), Some(1000)).unwrap();
    assert_eq!(bundle.set("/process/cwd", "/home/u").report()["cwd"], "/home/u");
}

#[test]
fn user_group_and_additional_groups() {
    let bundle =
        Bundle::new().set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [10, 1001, 70000]}));
    let seen = bundle.report();
    assert_eq!(seen["uid"], json!([1000, 1000, 1000, 1000]));
    assert_eq!(seen["gid"], json!([1001, 1001, 1001, 1001]));
    assert_eq!(seen["groups"], json!([10, 1001, 70000]));
}

#[test]
fn no_additional_groups_means_none_of_the_caller_s() {
    let seen = Bundle::new().report();
    let groups = seen["groups"].as_array().unwrap();
    assert!(groups.is_empty() || groups == &[json!(0)], "{groups:?}");
}

#[test]
fn umask_is_set_and_is_022_by_default() {
    assert_eq!(Bundle::new().set("/process/user/umask", 0o077).report()["umask"], "0077");
    assert_eq!(Bundle::new().set("/process/user/umask", 0).report()["umask"], "0000");
    assert_eq!(Bundle::new().report()["umask"], "0022");
}

#[test]
fn rlimits_are_set() {
    let bundle = Bundle::new().set(
        "/process/rlimits",
        json!([
            {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            {"type": "RLIMIT_STACK", "soft": 1048576, "hard": 8388608},
            {"type": "RLIMIT_NPROC", "soft": 300, "hard": 301},
            {"type": "RLIMIT_AS", "soft": 4294967296u64, "hard": 4294967297u64}
        ]),
    );
    let seen = &bundle.report()["rlimits"];
    assert_eq!(seen["RLIMIT_NOFILE"], json!([100, 200]));
    assert_eq!(seen["RLIMIT_CORE"], json!([0, 0]));
    assert_eq!(seen["RLIMIT_STACK"], json!([1_048_576, 8_388_608]));
    assert_eq!(seen["RLIMIT_NPROC"], json!([300, 301]));
    assert_eq!(seen["RLIMIT_AS"], json!([4_294_967_296u64, 4_294_967_297u64]));
}

#[test]
fn a_rlimit_given_twice_is_refused() {
    peer_differs!("runc", "accepts duplicates against the spec");
    peer_differs!("crun", "accepts duplicates against the spec");
    let limit = json!({"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200});
    let bundle = Bundle::new().set("/process/rlimits", json!([limit, limit]));
    bundle.try_run(["/probe"]).fails_with(&["process.rlimits[1]", "RLIMIT_NOFILE"]);
    bundle.check_clean();
}

#[test]
fn oom_score_adj_is_set() {
    assert_eq!(Bundle::new().set("/process/oomScoreAdj", 321).report()["oom_score_adj"], "321");
    assert_eq!(Bundle::new().set("/process/oomScoreAdj", 0).report()["oom_score_adj"], "0");
}

#[test]
fn no_new_privileges_follows_the_config() {
    assert_eq!(Bundle::new().set("/process/noNewPrivileges", true).report()["no_new_privs"], 1);
    assert_eq!(Bundle::new().set("/process/noNewPrivileges", false).report()["no_new_privs"], 0);
    assert_eq!(Bundle::new().remove("/process/noNewPrivileges").report()["no_new_privs"], 0);
}

#[test]
fn signals_start_clean() {
    peer_differs!("runc", "the Go runtime's dispositions and a caller's ignored signals pass through");
    peer_differs!("crun", "a caller's ignored signals pass through");
    let bundle = Bundle::new();
    bundle.write_config();
    // A caller that ignores SIGINT and blocks SIGUSR1, as nohup and some daemons do.
    // SAFETY: both calls are async-signal-safe and get initialised memory.
    let call = unsafe {
        bundle.call_new("run", &[]).pre_exec(|| {
            libc::signal(libc::SIGINT, libc::SIG_IGN);
            let mut set = std::mem::zeroed::<libc::sigset_t>();
            libc::sigaddset(&raw mut set, libc::SIGUSR1);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            Ok(())
        })
    };
    let seen = call.output().json();
    assert_eq!(seen["sigblk"], "0000000000000000");
    // The probe's own Rust runtime ignores SIGPIPE, bit 12; the container must not add to it.
    assert_eq!(seen["sigign"], "0000000000001000");
}

#[test]
fn the_container_leads_its_own_session() {
    let seen = Bundle::new().report();
    assert_eq!(seen["sid"], 1, "{}", seen["sid"]);
    assert_eq!(seen["pgid"], 1);
}

#[test]
fn only_the_standard_streams_are_open() {
    let bundle = Bundle::new();
    bundle.write_config();
    let held = fs::File::open("/etc").unwrap();
    let out = bundle.call_new("run", &[]).fd(&held, 7).fd(&held, 8).fd(&held, 9).output();
    let seen = out.json();
    let fds: Vec<&String> = seen["fds"].as_object().unwrap().keys().collect();
    assert_eq!(fds, ["0", "1", "2"], "{}", seen["fds"]);
}

#[test]
fn preserved_descriptors_arrive_and_no_others() {
    let bundle = Bundle::new();
    let (three, four) = (bundle.dir.join("three"), bundle.dir.join("four"));
    for file in [&three, &four] {
        fs::write(file, "x").unwrap();
    }
    bundle.write_config();
    let (three, four) = (fs::File::open(three).unwrap(), fs::File::open(four).unwrap());
    let other = fs::File::open("/etc").unwrap();
    // Through high numbers, so that placing one cannot overwrite another.
    let out = bundle.call_new("run", &["--preserve-fds", "2"]).fd(&three, 3).fd(&four, 4).fd(&other, 9).output();
    let seen = out.json();
    let fds = &seen["fds"];
    assert!(fds["3"].as_str().unwrap().ends_with("three"), "{fds}");
    assert!(fds["4"].as_str().unwrap().ends_with("four"), "{fds}");
    assert!(fds.get("5").is_none() && fds.get("9").is_none(), "{fds}");
}

#[test]
fn preserve_fds_beyond_what_is_open_is_refused() {
    peer_differs!("crun", "1.8 passes what there is");
    let bundle = Bundle::new();
    bundle.call_new("run", &["--preserve-fds", "5"]).output().fails();
    bundle.check_clean();
}

#[test]
fn closed_standard_streams_do_not_leak_internals() {
    peer_differs!("crun", "1.8 does not clean up after this failure");
    let bundle = Bundle::new().args(["/probe", "write", "/out", "x", ",", "report"]);
    bundle.write_config();
    // SAFETY: close is async-signal-safe.
    let call = unsafe {
        bundle.call_new("run", &[]).pre_exec(|| {
            libc::close(0);
            Ok(())
        })
    };
    let out = call.output();
    if out.status.success() {
        let seen = &out.jsons()[1];
        let zero = seen["fds"]["0"].as_str().unwrap_or("closed");
        assert!(!zero.contains("state") && !zero.contains("socket") && !zero.contains("config"), "{}", seen["fds"]);
    }
}

#[test]
fn a_new_session_keyring_unless_told_otherwise() {
    let probe = |options: &[&str]| {
        let bundle = Bundle::new().args(["/probe", "keyring"]);
        let id = bundle.id.clone();
        let out = bundle.call_new("run", options).output().ok();
        (id, out.json())
    };
    let (id, seen) = probe(&[]);
    if seen["keyring"].is_null() {
        crate::skip_expected!("no session keyring inside: {seen}");
    }
    let name = if flavor() == Flavor::Crun { id } else { format!("_ses.{id}") };
    assert_eq!(seen["keyring"], name);
    let (id, seen) = probe(&["--no-new-keyring"]);
    assert!(!seen["keyring"].to_string().contains(&id), "{seen}");
}

#[test]
fn listen_fds_of_the_caller_are_not_taken_by_accident() {
    // LISTEN_PID is not the runtime's: the descriptors were meant for another process.
    peer_differs!("crun", "takes LISTEN_FDS without looking at LISTEN_PID");
    let bundle = Bundle::new();
    let file = fs::File::open("/etc").unwrap();
    let call = bundle.call_new("run", &[]).fd(&file, 3).env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    let seen = call.output().json();
    assert!(seen["fds"].get("3").is_none(), "{}", seen["fds"]);
}

#[test]
fn a_working_directory_that_only_root_may_enter() {
    let bundle = Bundle::new()
        .dir_in_rootfs("/root", 0o700)
        .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        .set("/process/cwd", "/root");
    assert_eq!(bundle.report()["cwd"], "/root");
}

#[test]
fn limits_of_a_user_do_not_need_cap_sys_resource() {
    // Whether this process has it or not; the limits are below those that it has.
    let bundle = Bundle::new()
        .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}]))
        .args(["/probe"]);
    // SAFETY: the closure makes only a system call: CAP_SYS_RESOURCE leaves the bounding set, and so execve's sets.
    let call = unsafe {
        bundle.call_new("run", &[]).pre_exec(|| {
            libc::prctl(libc::PR_CAPBSET_DROP, 24, 0, 0, 0);
            Ok(())
        })
    };
    assert_eq!(call.output().json()["rlimits"]["RLIMIT_NOFILE"], json!([64, 128]));
}
