// SPDX-License-Identifier: Apache-2.0
//! create, start, state, kill, delete, run, list, spec, features: what the commands do and print.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Bundle, Call, Flavor, eventually, flavor, host, runtime};
use crate::{orlop_only, peer_differs};

/// Fails the test unless the output says that there is no such container, in the words that containerd looks for.
#[track_caller]
fn unknown(out: &crate::harness::Output) {
    let words = if flavor() == Flavor::Crun { "no such file" } else { "does not exist" };
    assert!(!out.status.success() && out.stderr.to_lowercase().contains(words), "{out}");
}

#[test]
fn run_prints_and_exits_with_the_container_s_code() {
    let bundle = Bundle::new();
    let out = bundle.run(["/probe", "echo", "hi", ",", "exit", "7"]);
    assert_eq!(out.code(), 7, "{out}");
    assert_eq!(out.jsons()[0]["echo"][0], "hi");
    bundle.check_clean();
}

#[test]
fn run_exits_with_128_and_the_signal() {
    let bundle = Bundle::new().without_ns("pid");
    assert_eq!(bundle.run(["/probe", "signal", "9"]).code(), 137);
    let bundle = Bundle::new().without_ns("pid");
    assert_eq!(bundle.run(["/probe", "signal", "15"]).code(), 143);
}

#[test]
fn run_passes_stdin_through() {
    let bundle = Bundle::new().args(["/probe", "stdin"]);
    fs::write(bundle.dir.join("in"), "from outside").unwrap();
    let stdin = fs::File::open(bundle.dir.join("in")).unwrap();
    assert_eq!(bundle.call_new("run", &[]).stdin(stdin).output().json()["content"], "from outside");
}

#[test]
fn run_with_keep_leaves_a_stopped_container() {
    peer_differs!("crun", "1.8 has no --keep");
    let bundle = Bundle::new().args(["/probe", "exit", "0"]);
    bundle.call_new("run", &["--keep"]).output().ok();
    assert_eq!(bundle.state()["status"], "stopped");
    bundle.delete().ok();
    bundle.check_clean();
}

#[test]
fn run_detached_returns_while_the_container_runs() {
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.call_new("run", &["--detach"]).output().ok();
    assert_eq!(bundle.state()["status"], "running");
    bundle.kill("KILL").ok();
    bundle.wait_stopped();
    bundle.delete().ok();
    bundle.check_clean();
}

#[test]
fn run_forwards_signals_to_the_container() {
    let bundle = Bundle::new().args(["/probe", "catch"]);
    let running = bundle.call_new("run", &[]).start();
    let path = running.stdout_path().to_path_buf();
    eventually("the container is ready", || fs::read_to_string(&path).unwrap().contains("ready"));
    // SAFETY: no pointers; the child has not been waited for.
    unsafe { libc::kill(running.pid(), libc::SIGUSR2) };
    let out = running.output().ok();
    assert_eq!(out.jsons()[1]["signal"], libc::SIGUSR2, "{out}");
}

#[test]
fn the_states_are_created_running_stopped() {
    let bundle = Bundle::new().args(["/probe", "catch"]);
    bundle.create();
    let created = bundle.state();
    assert_eq!(created["status"], "created");
    assert_eq!(created["pid"], bundle.pid());
    assert!(bundle.printed().is_empty(), "the program ran before start");
    bundle.start();
    bundle.wait_printed(1);
    let running = bundle.state();
    assert_eq!(running["status"], "running");
    assert_eq!(running["pid"], created["pid"]);
    bundle.kill("TERM").ok();
    bundle.wait_stopped();
    assert_eq!(bundle.wait_printed(2)[1]["signal"], libc::SIGTERM);
    let stopped = bundle.state();
    assert!(stopped["pid"].is_null() || stopped["pid"] == 0, "{stopped}");
    bundle.delete().ok();
    bundle.check_clean();
    unknown(&bundle.command("state"));
}

#[test]
fn state_has_the_members_of_runc() {
    let bundle = Bundle::new().args(["/probe", "wait"]).set("/annotations", json!({"org.example.key": "value"}));
    bundle.create();
    let state = bundle.state();
    assert_eq!(state["id"], bundle.id);
    assert_eq!(state["bundle"], bundle.dir.to_str().unwrap());
    if flavor() != Flavor::Crun {
        assert_eq!(state["rootfs"], bundle.rootfs().to_str().unwrap());
    }
    assert_eq!(state["annotations"]["org.example.key"], "value");
    assert!(state["ociVersion"].as_str().unwrap().starts_with("1."), "{state}");
    assert!(state["owner"].is_string());
    let created = state["created"].as_str().unwrap();
    assert!(created.len() >= 20 && created.as_bytes()[10] == b'T', "RFC 3339: {created}");
}

#[test]
fn the_pid_file_has_the_number_and_no_newline() {
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    let text = fs::read_to_string(bundle.pid_file()).unwrap();
    assert_eq!(text, bundle.state()["pid"].to_string());
    assert!(Path::new("/proc").join(text).exists());
}

/// The call with the bundle as its working directory.
fn in_the_bundle(bundle: &Bundle, call: Call) -> Call {
    let path = std::ffi::CString::new(bundle.dir.to_str().unwrap()).unwrap();
    // SAFETY: chdir is async-signal-safe; the path was made before the fork.
    unsafe {
        call.pre_exec(move || match libc::chdir(path.as_ptr()) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    }
}

#[test]
fn the_current_directory_is_the_default_bundle() {
    let bundle = Bundle::new().args(["/probe", "echo", "x"]);
    bundle.write_config();
    in_the_bundle(&bundle, bundle.call(["run", &bundle.id])).output().ok();
    in_the_bundle(&bundle, bundle.call(["run", "--bundle", ".", &bundle.id])).output().ok();
}

#[test]
fn short_and_joined_flags_are_accepted() {
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.write_config();
    let dir = bundle.dir.to_str().unwrap();
    bundle
        .call(["run", "-d", "-b", dir, &format!("--pid-file={}", bundle.pid_file().display()), &bundle.id])
        .output()
        .ok();
    bundle.delete_force().ok();
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.write_config();
    bundle.call(["create", &format!("--bundle={}", bundle.dir.display()), &bundle.id]).output().ok();
}

#[test]
fn kill_takes_names_and_numbers() {
    for signal in ["USR1", "SIGUSR1", "usr1", "10"] {
        if signal == "usr1" && flavor() == Flavor::Crun {
            continue; // crun 1.8 knows upper case only.
        }
        let bundle = Bundle::new().args(["/probe", "catch"]);
        bundle.create();
        bundle.start();
        bundle.wait_printed(1);
        bundle.kill(signal).ok();
        assert_eq!(bundle.wait_printed(2)[1]["signal"], libc::SIGUSR1, "{signal}");
        bundle.wait_stopped();
    }
}

#[test]
fn kill_without_a_signal_sends_term() {
    let bundle = Bundle::new().args(["/probe", "catch"]);
    bundle.create();
    bundle.start();
    bundle.wait_printed(1);
    bundle.command("kill").ok();
    assert_eq!(bundle.wait_printed(2)[1]["signal"], libc::SIGTERM);
    bundle.wait_stopped();
}

#[test]
fn kill_refuses_a_stopped_container_and_a_bad_signal() {
    peer_differs!("crun", "1.8 takes an unknown signal for 0");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    bundle.kill("NOSUCH").fails_with(&["signal"]);
    bundle.kill("KILL").ok();
    bundle.wait_stopped();
    let out = bundle.kill("TERM").fails();
    let text = out.stderr.to_lowercase();
    // What containerd's shim looks for.
    assert!(["not running", "no such process"].iter().any(|m| text.contains(m)), "{out}");
}

#[test]
fn kill_all_reaches_every_process() {
    peer_differs!("crun", "1.8 kill --all leaves the init of a frozen-less cgroup2 layer without kill file support");
    let bundle = Bundle::new().without_ns("pid").args(["/probe", "fork", "5", ",", "wait"]);
    bundle.create();
    bundle.start();
    bundle.wait_printed(2);
    bundle.call(["kill", "--all", &bundle.id, "KILL"]).output().ok();
    bundle.wait_stopped();
    for cgroup in host::cgroups_named(&bundle.id) {
        eventually("all processes have ended", || {
            fs::read_to_string(cgroup.join("cgroup.procs")).is_ok_and(|pids| pids.is_empty())
        });
    }
    bundle.delete().ok();
    bundle.check_clean();
}

#[test]
fn deleting_with_a_shared_pid_namespace_kills_what_is_left() {
    let bundle = Bundle::new().without_ns("pid").args(["/probe", "fork", "5", ",", "exit", "0"]);
    bundle.create();
    bundle.start();
    bundle.wait_stopped();
    bundle.delete_force().ok();
    bundle.check_clean();
}

#[test]
fn delete_refuses_a_running_container_and_force_takes_it() {
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    bundle.start();
    bundle.delete().fails();
    assert_eq!(bundle.state()["status"], "running");
    bundle.delete_force().ok();
    bundle.check_clean();
}

#[test]
fn delete_takes_a_created_container() {
    peer_differs!("crun", "1.8 wants --force for a created container");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    bundle.delete().ok();
    bundle.check_clean();
}

#[test]
fn delete_of_an_unknown_id_fails_unless_forced() {
    let bundle = Bundle::new();
    unknown(&bundle.delete());
    bundle.delete_force().ok();
}

#[test]
fn an_id_can_be_used_again_after_delete() {
    let bundle = Bundle::new().args(["/probe", "wait"]);
    for _ in 0..3 {
        bundle.create();
        bundle.delete_force().ok();
    }
}

#[test]
fn start_twice_fails_and_the_container_goes_on() {
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    bundle.start();
    bundle.command("start").fails();
    assert_eq!(bundle.state()["status"], "running");
}

#[test]
fn an_init_that_died_before_start_reads_as_stopped() {
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    // SAFETY: no pointers; the pid is of this test's container.
    unsafe { libc::kill(bundle.pid(), libc::SIGKILL) };
    bundle.wait_stopped();
    bundle.command("start").fails();
    bundle.delete().ok();
    bundle.check_clean();
}

#[test]
fn list_shows_a_table_json_and_ids() {
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    let table = bundle.call(["list"]).output().ok().stdout;
    let head = table.lines().next().unwrap();
    for column in ["PID", "STATUS", "BUNDLE", "CREATED", "OWNER"] {
        assert!(head.contains(column), "{table}");
    }
    let row = table.lines().nth(1).unwrap();
    assert!(row.starts_with(&bundle.id) && row.contains("created") && row.contains("root"), "{table}");
    assert_eq!(bundle.call(["list", "-q"]).output().ok().stdout.trim(), bundle.id);
    let all: Value = bundle.call(["list", "--format", "json"]).output().json();
    assert_eq!(all[0]["id"], bundle.id);
    assert_eq!(all[0]["status"], "created");
    assert_eq!(all[0]["pid"], bundle.pid());
}

#[test]
fn list_of_nothing_is_empty() {
    let bundle = Bundle::new();
    assert_eq!(bundle.call(["list", "-q"]).output().ok().stdout.trim(), "");
    let out = bundle.call(["list", "-f", "json"]).output().ok();
    let parsed: Value = serde_json::from_str(out.stdout.trim()).unwrap();
    assert!(parsed.is_null() || parsed == json!([]), "{out}");
}

#[test]
fn spec_writes_a_config_that_runs() {
    peer_differs!("crun", "1.8 raises RLIMIT_MEMLOCK for the device rules, which needs CAP_SYS_RESOURCE");
    let bundle = Bundle::new();
    in_the_bundle(&bundle, bundle.call(["spec"])).output().ok();
    let text = fs::read_to_string(bundle.dir.join("config.json")).unwrap();
    let bundle = bundle.with_config(&text).set("/process/terminal", false).remove("/process/rlimits");
    let seen = bundle.run(["/probe"]).json();
    assert_eq!(seen["pid"], 1);
}

#[test]
fn features_names_what_there_is() {
    peer_differs!("crun", "1.8 has no features command");
    peer_differs!("runc", "1.1.5 has a features command of the older draft");
    let bundle = Bundle::new();
    let features = bundle.call(["features"]).output().json();
    assert!(features["ociVersionMin"].as_str().unwrap().starts_with("1."));
    for kind in ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"] {
        assert!(crate::harness::has(&features["linux"]["namespaces"], kind), "{kind}: {features}");
    }
    assert!(crate::harness::has(&features["hooks"], "createRuntime"));
    assert!(crate::harness::has(&features["mountOptions"], "rro"));
    assert!(crate::harness::has(&features["linux"]["capabilities"], "CAP_SYS_ADMIN"));
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
}

#[test]
fn version_names_the_program_and_the_spec() {
    let bundle = Bundle::new();
    let text = bundle.call(["--version"]).output().ok().stdout;
    assert!(text.starts_with(&format!("{} version ", flavor().name())), "{text}");
    assert!(text.contains("spec: 1."), "{text}");
}

#[test]
fn global_flags_are_accepted() {
    let bundle = Bundle::new();
    let log = bundle.dir.join("log");
    bundle.call(["--debug", "--log", log.to_str().unwrap(), "--log-format", "json", "list"]).output().ok();
}

#[test]
fn the_json_log_has_one_error_with_level_msg_and_time() {
    let bundle = Bundle::new();
    let log = bundle.dir.join("log");
    bundle.call(["--log", log.to_str().unwrap(), "--log-format", "json", "state", &bundle.id]).output().fails();
    let entries = runtime::lines(&fs::read_to_string(&log).unwrap());
    let errors: Vec<&Value> = entries.iter().filter(|e| e["level"] == "error").collect();
    if flavor() != Flavor::Crun {
        assert_eq!(errors.len(), 1, "{entries:?}");
        assert!(errors[0]["time"].as_str().unwrap().contains('T'));
        assert!(entries.last().unwrap()["msg"].as_str().unwrap().contains("not exist"), "{entries:?}");
    }
}

#[test]
fn plan_prints_json_and_does_nothing() {
    orlop_only!("has plan");
    let bundle = Bundle::new();
    bundle.write_config();
    let plan = bundle.call(["plan", "-b", bundle.dir.to_str().unwrap()]).output().json();
    assert!(plan.is_object());
    bundle.check_clean();
    assert!(!bundle.state_root().join(&bundle.id).exists());
}

#[test]
fn config_changes_after_create_have_no_effect() {
    let bundle = Bundle::new().args(["/probe", "echo", "before"]);
    bundle.create();
    fs::write(bundle.dir.join("config.json"), "{}").unwrap();
    bundle.start();
    bundle.wait_stopped();
    assert!(bundle.printed().contains("before"));
}

#[test]
fn the_init_of_a_created_container_is_not_a_child_of_a_runtime_process() {
    // containerd reaps init itself: no runtime process may stay between.
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    let status = fs::read_to_string(format!("/proc/{}/status", bundle.pid())).unwrap();
    let parent = status.lines().find_map(|l| l.strip_prefix("PPid:")).unwrap().trim().to_string();
    let exe = fs::read_link(format!("/proc/{parent}/exe")).unwrap_or_default();
    assert_ne!(exe, runtime::program(), "parent {parent}");
}
