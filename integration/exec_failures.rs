// SPDX-License-Identifier: Apache-2.0
//! `exec` that fails: its exit status and words, and that nothing is left; and states of the container in which it may
//! or may not run.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::exec::{call, exec, exec_failing, only_init_is_left, running};
use crate::harness::{Bundle, Flavor, Layer, eventually, flavor, host, runtime};
use crate::{orlop_only, peer_differs};

#[test]
fn the_exit_status_is_the_program_s() {
    let bundle = running(Bundle::new());
    for code in [0, 1, 7, 255] {
        assert_eq!(exec(&bundle, &[], &["/probe", "exit", &code.to_string()]).code(), code);
    }
    for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGABRT] {
        assert_eq!(exec(&bundle, &[], &["/probe", "signal", &signal.to_string()]).code(), 128 + signal);
    }
    only_init_is_left(&bundle);
}

#[test]
fn signals_are_passed_on() {
    let bundle = running(Bundle::new());
    let running = call(&bundle, &[], &["/probe", "catch"]).start();
    let path = running.stdout_path().to_path_buf();
    eventually("the program is ready", || fs::read_to_string(&path).unwrap().contains("ready"));
    // SAFETY: no pointers; the child has not been waited for.
    unsafe { libc::kill(running.pid(), libc::SIGUSR2) };
    assert_eq!(running.output().ok().jsons()[1]["signal"], libc::SIGUSR2);
}

#[test]
fn stdin_is_passed_on() {
    let bundle = running(Bundle::new());
    fs::write(bundle.dir.join("in"), "from outside").unwrap();
    let stdin = fs::File::open(bundle.dir.join("in")).unwrap();
    let out = call(&bundle, &[], &["/probe", "stdin"]).stdin(stdin).output();
    assert_eq!(out.json()["content"], "from outside");
}

#[test]
fn programs_that_cannot_be_run() {
    let bundle = Bundle::new().file("/plain", "text", 0o644).file("/garbage", "\x01\x02\x03 no program", 0o755).file(
        "/script",
        "#!/no/interpreter\n",
        0o755,
    );
    let bundle = running(bundle);
    let words = if flavor() == Flavor::Crun { "not found" } else { "exec: \"x\": executable file not found in $PATH" };
    exec_failing(&bundle, &[], &["x"]).fails_with(&[words]);
    exec_failing(&bundle, &[], &["/no/such/program"]).fails_with(&["no such file"]);
    exec_failing(&bundle, &[], &["/plain"]).fails_with(&["permission denied"]);
    exec_failing(&bundle, &[], &["/tmp"]).fails();
    if flavor() == Flavor::Orlop {
        // The peers' process has cut the line to the runtime by then, and its own status is all there is.
        exec_failing(&bundle, &[], &["/garbage"]).fails_with(&["exec format error"]);
        exec_failing(&bundle, &[], &["/script"]).fails_with(&["no such file"]);
    }
    only_init_is_left(&bundle);
}

#[test]
fn a_pid_file_is_not_written_for_a_program_that_does_not_run() {
    let bundle = running(Bundle::new());
    let file = bundle.dir.join("exec.pid");
    exec_failing(&bundle, &["-d", "--pid-file", file.to_str().unwrap()], &["/no/such/program"]);
    assert!(!file.exists());
    let words = &["-d", "--pid-file", "/no/such/dir/pid"];
    if flavor() != Flavor::Crun {
        exec_failing(&bundle, words, &["/probe", "wait"]).fails_with(&["/no/such/dir"]);
        only_init_is_left(&bundle);
    }
}

#[test]
fn working_directories_that_cannot_be_entered() {
    let bundle = running(Bundle::new().file("/file", "x", 0o644).dir_in_rootfs("/closed", 0o700));
    exec_failing(&bundle, &["--cwd", "/file"], &["/probe"]).fails_with(&["/file"]);
    if flavor() == Flavor::Orlop {
        exec_failing(&bundle, &["--cwd", "relative"], &["/probe"]).fails_with(&["process.cwd", "absolute"]);
        exec_failing(&bundle, &["--cwd", "/missing"], &["/probe"]).fails_with(&["process.cwd", "no such file"]);
    }
    only_init_is_left(&bundle);
}

#[test]
fn a_working_directory_of_the_host_is_refused() {
    // CVE-2024-21626: a descriptor that the caller leaked, or one of the runtime's own.
    peer_differs!("crun", "1.8.1 enters the caller's directory");
    let bundle = running(Bundle::new());
    let held = fs::File::open("/etc").unwrap();
    for number in 3..12 {
        let cwd = format!("/proc/self/fd/{number}");
        let out = call(&bundle, &["--cwd", &cwd], &["/probe", "ls", "."]).fd(&held, 7).fd(&held, 8).output();
        out.fails();
    }
    // Preserved on purpose it is the program's, but no way out for the runtime.
    if flavor() == Flavor::Orlop {
        let options = ["--preserve-fds", "1", "--cwd", "/proc/self/fd/3"];
        let out = call(&bundle, &options, &["/probe", "ls", "."]).fd(&held, 3).output();
        out.fails_with(&["process.cwd", "outside"]);
    }
    only_init_is_left(&bundle);
}

#[test]
fn users_are_numbers() {
    peer_differs!("crun", "1.8.1 reads a name as 0");
    let bundle = running(Bundle::new());
    for user in ["root", "1000:users", "-1", "4294967295"] {
        exec_failing(&bundle, &[&format!("--user={user}")], &["/probe"]);
    }
    let bundle = running(Bundle::new().userns(0, 100_000, 10));
    let out = exec_failing(&bundle, &["--user", "10"], &["/probe"]);
    if flavor() == Flavor::Orlop {
        out.fails_with(&["process.user.uid", "10", "linux.uidMappings"]);
    }
    only_init_is_left(&bundle);
}

#[test]
fn a_program_is_needed() {
    let bundle = running(Bundle::new());
    exec(&bundle, &[], &[]).fails();
}

#[test]
fn an_unknown_container() {
    let bundle = Bundle::new();
    let words = if flavor() == Flavor::Crun { "no such" } else { "does not exist" };
    exec_failing(&bundle, &[], &["/probe"]).fails_with(&[words]);
}

#[test]
fn a_stopped_container() {
    let bundle = Bundle::new().args(["/probe", "exit", "0"]);
    bundle.create_start_wait();
    let out = exec_failing(&bundle, &[], &["/probe"]);
    if flavor() != Flavor::Crun {
        out.fails_with(&["cannot exec in a stopped container"]);
    }
}

#[test]
fn a_created_container() {
    peer_differs!("crun", "1.8.1 refuses");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    let seen = exec(&bundle, &[], &["/probe"]).ok().json();
    assert_ne!(seen["pid"], 1);
    assert_eq!(bundle.state()["status"], "created");
    let link = fs::read_link(format!("/proc/{}/ns/mnt", bundle.pid())).unwrap();
    assert_eq!(seen["ns"]["mnt"], link.to_str().unwrap());
    bundle.start();
    bundle.wait_printed(1);
}

/// Freezes or thaws the container by hand; false if the layer cannot.
fn freeze(bundle: &Bundle, frozen: bool) -> bool {
    let (file, word, done): (PathBuf, _, &str) = if bundle.layer == Layer::V2 {
        (host::v2_root().unwrap().join(&bundle.id).join("cgroup.freeze"), ["0", "1"], "frozen ")
    } else {
        let Some((_, root)) = host::v1_hierarchies().into_iter().find(|(name, _)| name == "freezer") else {
            return false;
        };
        (root.join(&bundle.id).join("freezer.state"), ["THAWED", "FROZEN"], "")
    };
    if !file.exists() {
        return false;
    }
    fs::write(&file, word[usize::from(frozen)]).unwrap();
    eventually("the freezer has done it", || {
        if done.is_empty() {
            return fs::read_to_string(&file).unwrap().trim() == word[usize::from(frozen)];
        }
        let events = fs::read_to_string(file.with_file_name("cgroup.events")).unwrap();
        events.contains(&format!("{done}{}", u8::from(frozen)))
    });
    true
}

fn a_paused_container(bundle: Bundle) {
    let bundle = running(bundle);
    if !freeze(&bundle, true) {
        crate::skip_expected!("no freezer in this layer");
    }
    let out = exec_failing(&bundle, &[], &["/probe"]);
    if flavor() != Flavor::Crun {
        out.fails_with(&["cannot exec in a paused container (use --ignore-paused to override)"]);
        let waiting = call(&bundle, &["--ignore-paused"], &["/probe", "echo", "at last"]).start();
        std::thread::sleep(Duration::from_millis(300));
        assert!(fs::read_to_string(waiting.stdout_path()).unwrap().is_empty(), "it ran in a frozen cgroup");
        freeze(&bundle, false);
        assert_eq!(waiting.output().ok().json()["echo"][0], "at last");
    } else {
        freeze(&bundle, false);
    }
    only_init_is_left(&bundle);
}

#[test]
fn a_paused_container_on_v1() {
    if host::is_v2() || flavor() == Flavor::Crun {
        crate::skip_expected!("no v1 hierarchies in this layer");
    }
    a_paused_container(Bundle::new());
}

#[test]
fn a_paused_container_on_v2() {
    a_paused_container(Bundle::v2());
}

#[test]
fn a_wait_for_a_paused_container_can_be_broken_off() {
    peer_differs!("crun", "always refuses");
    peer_differs!("runc", "1.1.5 passes the signal to a process that is not there yet");
    for bundle in [Bundle::new(), Bundle::v2()] {
        let bundle = running(bundle);
        if !freeze(&bundle, true) {
            continue;
        }
        let waiting = call(&bundle, &["--ignore-paused"], &["/probe", "wait"]).start();
        std::thread::sleep(Duration::from_millis(300));
        // SAFETY: no pointers; the child has not been waited for.
        unsafe { libc::kill(waiting.pid(), libc::SIGTERM) };
        let began = Instant::now();
        assert!(!waiting.output().status.success());
        assert!(began.elapsed() < Duration::from_secs(10));
        freeze(&bundle, false);
        only_init_is_left(&bundle);
    }
}

#[test]
fn the_bundle_does_not_matter_any_more() {
    peer_differs!("runc", "reads config.json of the bundle again");
    let bundle = running(Bundle::new().set("/process/env", json!(["PATH=/bin:/", "WHO=config"])));
    let all = json!(["CAP_SYS_ADMIN", "CAP_KILL"]);
    let mut config = bundle.config.clone();
    config["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    config["process"]["noNewPrivileges"] = json!(false);
    config["process"]["env"] = json!(["PATH=/bin:/", "WHO=intruder"]);
    config["linux"]["namespaces"] = json!([]);
    fs::write(bundle.dir.join("config.json"), config.to_string()).unwrap();
    let seen = exec(&bundle, &[], &["/probe"]).ok().json();
    assert!(crate::harness::has(&seen["env"], "WHO=config"), "{}", seen["env"]);
    let link = fs::read_link(format!("/proc/{}/ns/mnt", bundle.pid())).unwrap();
    assert_eq!(seen["ns"]["mnt"], link.to_str().unwrap());
    if flavor() == Flavor::Orlop {
        assert_eq!(seen["caps"]["bounding"], "0000000020000420");
        assert_eq!(seen["no_new_privs"], 1);
    }
    fs::remove_file(bundle.dir.join("config.json")).unwrap();
    exec(&bundle, &[], &["/probe"]).ok();
}

#[test]
fn time_offsets_are_seen() {
    peer_differs!("runc", "1.1.5 has no time namespaces");
    peer_differs!("crun", "1.8 cannot set the offsets on Linux 6.18");
    let bundle = Bundle::new()
        .push("/linux/namespaces", json!({"type": "time"}))
        .set("/linux/timeOffsets", json!({"boottime": {"secs": 8_640_000}}));
    let bundle = running(bundle);
    let out = exec(&bundle, &[], &["/probe", "report", ",", "read", "/proc/uptime"]).ok().jsons();
    let link = fs::read_link(format!("/proc/{}/ns/time", bundle.pid())).unwrap();
    assert_eq!(out[0]["ns"]["time"], link.to_str().unwrap());
    let uptime: f64 = out[1]["content"].as_str().unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(uptime > 8_640_000.0, "{uptime}");
}

#[test]
fn twenty_at_once() {
    let bundle = running(Bundle::new());
    let names: Vec<String> = (0..20).map(|i| i.to_string()).collect();
    let all: Vec<_> =
        names.iter().map(|i| call(&bundle, &[], &["/probe", "echo", i, ",", "exit", i]).start()).collect();
    for (i, running) in all.into_iter().enumerate() {
        let out = running.output();
        assert_eq!(out.code(), i32::try_from(i).unwrap(), "{out}");
        assert_eq!(out.jsons()[0]["echo"][0], names[i]);
    }
    only_init_is_left(&bundle);
}

#[test]
fn a_killed_exec_takes_an_unfinished_process_with_it_and_leaves_a_running_one() {
    orlop_only!("promises it");
    let bundle = running(Bundle::new());
    let program = call(&bundle, &[], &["/probe", "wait"]).start();
    let path = program.stdout_path().to_path_buf();
    eventually("the program is ready", || fs::read_to_string(&path).unwrap().contains("ready"));
    // SAFETY: no pointers; the child has not been waited for.
    unsafe { libc::kill(program.pid(), libc::SIGKILL) };
    assert_eq!(program.output().code(), 137);
    // The container's processes do not die of the death of whoever waits for one.
    let pids = bundle.call(["ps", "--format", "json", &bundle.id]).output().json();
    assert_eq!(pids.as_array().unwrap().len(), 2, "{pids}");
    // As early as can be, again and again: nothing is left but that.
    for micros in (0..40).map(|i| i * 500) {
        let mut child = std::process::Command::new(runtime::program())
            .args(["--root", bundle.state_root().to_str().unwrap(), "exec", &bundle.id, "/probe", "exit", "0"])
            .process_group(0)
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(micros));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let count = || bundle.call(["ps", "--format", "json", &bundle.id]).output().json().as_array().unwrap().len();
    eventually("the unfinished ones are gone", || count() == 2);
}
