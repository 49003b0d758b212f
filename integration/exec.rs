// SPDX-License-Identifier: Apache-2.0
//! `exec`: its flags, and containers of every kind to run it in. What fails is in `exec_failures.rs`; that the process is
//! as confined as init, in `exec_parity.rs`.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Bundle, Call, Flavor, Output, eventually, flavor, has, host, own_ns, runtime};
use crate::tty::{Receiver, read_all, receive_fd};
use crate::{orlop_only, peer_differs};

/// The container of `bundle` with an init that waits.
#[track_caller]
pub fn running(bundle: Bundle) -> Bundle {
    let bundle = bundle.args(["/probe", "wait"]);
    bundle.create();
    bundle.start();
    bundle.wait_printed(1);
    bundle
}

/// A call of `exec` with these options and this program.
pub fn call(bundle: &Bundle, options: &[&str], program: &[&str]) -> Call {
    bundle.call([&["exec"], options, &[bundle.id.as_str()], program].concat())
}

#[track_caller]
pub fn exec(bundle: &Bundle, options: &[&str], program: &[&str]) -> Output {
    call(bundle, options, program).output()
}

/// Fails the test unless `exec` fails as errors before the program do: with 255; crun has 1 for some of them.
#[track_caller]
pub fn exec_failing(bundle: &Bundle, options: &[&str], program: &[&str]) -> Output {
    let out = exec(bundle, options, program).fails();
    assert!(out.code() == 255 || flavor() == Flavor::Crun, "{out}");
    out
}

/// Fails the test unless init is the only process of the container, and no process of the runtime is left.
#[track_caller]
pub fn only_init_is_left(bundle: &Bundle) {
    let init = bundle.pid().to_string();
    let pids = || -> Vec<String> {
        let read = |dir: PathBuf| fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        let all: String = host::cgroups_named(&bundle.id).into_iter().map(read).collect();
        let mut pids: Vec<String> = all.lines().map(String::from).collect();
        pids.sort();
        pids.dedup();
        pids
    };
    eventually("only init is left", || pids() == [init.as_str()]);
    let marked = || host::processes_marked(&format!("ORLOP_IT={}", bundle.id));
    eventually("no process of the runtime is left", || {
        marked().iter().all(|m| m.starts_with(&format!("/proc/{init} ")))
    });
}

/// A process object in a file of the bundle's directory.
fn process_file(bundle: &Bundle, process: &Value) -> String {
    let path = bundle.dir.join("process.json");
    fs::write(&path, process.to_string()).unwrap();
    path.to_str().unwrap().into()
}

#[test]
fn cwd_environment_user_and_groups() {
    peer_differs!("crun", "1.8.1 takes none of the config's environment when there is any on the command line");
    let bundle = Bundle::new()
        .dir_in_rootfs("/srv/here", 0o755)
        .set("/process/env", json!(["PATH=/bin:/", "A=init", "B=init"]))
        .set("/process/user", json!({"uid": 0, "gid": 3, "additionalGids": [5]}));
    let bundle = running(bundle);
    let options = ["--cwd", "/srv/here", "-e", "A=exec", "-e", "C=two words", "-u", "1000:1001"];
    let seen = exec(&bundle, &options, &["/probe"]).ok().json();
    assert_eq!(seen["cwd"], "/srv/here");
    for word in ["A=exec", "B=init", "C=two words"] {
        assert!(has(&seen["env"], word), "{word}: {}", seen["env"]);
    }
    assert!(!has(&seen["env"], "A=init"), "the last of several wins: {}", seen["env"]);
    assert_eq!(seen["uid"], json!([1000, 1000, 1000, 1000]));
    assert_eq!(seen["gid"], json!([1001, 1001, 1001, 1001]));
    assert_eq!(seen["groups"], json!([5]));
    assert_eq!(seen["args"], json!(["/probe"]));
}

#[test]
fn a_user_without_a_group_keeps_init_s_group() {
    peer_differs!("crun", "1.8.1 takes group 0");
    let bundle = running(Bundle::new().set("/process/user", json!({"uid": 0, "gid": 3})));
    let seen = exec(&bundle, &["--user", "1000"], &["/probe"]).ok().json();
    assert_eq!((&seen["uid"][0], &seen["gid"][0]), (&json!(1000), &json!(3)));
}

#[test]
fn further_groups_are_added() {
    peer_differs!("crun", "1.8.1 has no --additional-gids");
    let bundle = running(Bundle::new().set("/process/user", json!({"uid": 0, "gid": 0, "additionalGids": [5]})));
    let seen = exec(&bundle, &["-g", "8", "-g", "9"], &["/probe"]).ok().json();
    assert_eq!(seen["groups"], json!([5, 8, 9]));
}

#[test]
fn what_follows_the_id_is_the_program_s() {
    let bundle = running(Bundle::new());
    let words = ["/probe", "echo", "-t", "--user", "5", "--", "-e", "X=1"];
    assert_eq!(exec(&bundle, &[], &words).ok().json()["echo"], json!(words[2..]));
}

#[test]
fn a_capability_below_the_bounding_set_is_added() {
    peer_differs!("crun", "replaces the sets");
    // kill and net_bind_service are 5 and 10.
    let bundle = Bundle::new()
        .set("/process/capabilities/effective", json!(["CAP_KILL"]))
        .set("/process/capabilities/permitted", json!(["CAP_KILL"]));
    let bundle = running(bundle);
    let init = exec(&bundle, &[], &["/probe"]).ok().json();
    // As root every capability of the bounding set is there after execve; the user is what shows the sets.
    assert_eq!(init["caps"]["bounding"], "0000000020000420");
    let seen = exec(&bundle, &["--cap", "CAP_NET_BIND_SERVICE", "-u", "1000"], &["/probe"]).ok().json();
    assert_eq!(seen["caps"]["bounding"], init["caps"]["bounding"]);
    assert_eq!(seen["caps"]["effective"], "0000000000000000", "without ambient nothing survives: {}", seen["caps"]);
    let names = json!(["CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let some = json!(["CAP_KILL"]);
    let bundle = running(Bundle::new().set("/process/user/uid", 1000).set(
        "/process/capabilities",
        json!({"bounding": names, "permitted": some, "effective": some, "inheritable": some, "ambient": some}),
    ));
    let seen = exec(&bundle, &["-c", "CAP_NET_BIND_SERVICE"], &["/probe"]).ok().json();
    if flavor() == Flavor::Orlop {
        for set in ["effective", "permitted", "ambient", "inheritable"] {
            assert_eq!(seen["caps"][set], "0000000000000420", "{set}");
        }
    }
}

#[test]
fn a_capability_beyond_the_bounding_set_is_refused() {
    peer_differs!("runc", "gives it");
    peer_differs!("crun", "gives it");
    let bundle = running(Bundle::new());
    exec_failing(&bundle, &["--cap", "CAP_SYS_ADMIN"], &["/probe"]).fails_with(&["CAP_SYS_ADMIN", "bounding"]);
    exec_failing(&bundle, &["--cap", "CAP_NONSENSE"], &["/probe"]).fails_with(&["--cap", "CAP_NONSENSE"]);
    let all = json!(["CAP_KILL", "CAP_SYS_ADMIN"]);
    let capabilities = json!({"bounding": all, "permitted": all, "effective": all});
    let process = json!({"args": ["/probe"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "capabilities": capabilities});
    let file = process_file(&bundle, &process);
    exec_failing(&bundle, &["--process", &file], &[]).fails_with(&["CAP_SYS_ADMIN", "bounding"]);
    only_init_is_left(&bundle);
}

#[test]
fn a_whole_process_from_a_file() {
    let bundle = running(Bundle::new().dir_in_rootfs("/srv", 0o755));
    let some = json!(["CAP_KILL"]);
    let process = json!({
        "args": ["/probe", "report"], "cwd": "/srv", "env": ["PATH=/bin", "X=file"],
        "user": {"uid": 0, "gid": 0, "additionalGids": [8], "umask": 0o077},
        "capabilities": {"bounding": some, "permitted": some, "effective": some},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}],
        "oomScoreAdj": 300, "noNewPrivileges": true
    });
    let seen = exec(&bundle, &["-p", &process_file(&bundle, &process)], &[]).ok().json();
    assert_eq!(seen["cwd"], "/srv");
    assert!(has(&seen["env"], "X=file"), "{}", seen["env"]);
    assert_eq!(seen["groups"], json!([8]));
    assert_eq!(seen["caps"]["bounding"], "0000000000000020");
    assert_eq!(seen["rlimits"]["RLIMIT_NOFILE"], json!([64, 64]));
    if flavor() == Flavor::Orlop {
        assert_eq!(seen["oom_score_adj"], "300");
        assert_eq!(seen["umask"], "0077");
    }
}

#[test]
fn what_the_file_leaves_out_is_as_init_has_it() {
    peer_differs!("runc", "leaves it out");
    peer_differs!("crun", "leaves most of it out");
    let bundle = running(
        Bundle::new()
            .set("/process/user/umask", 0o027)
            .set("/process/env", json!(["PATH=/bin:/", "FROM=init"]))
            .set("/process/oomScoreAdj", 123)
            .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 65}])),
    );
    let process = json!({"args": ["probe"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
    let seen = exec(&bundle, &["-p", &process_file(&bundle, &process)], &[]).ok().json();
    assert_eq!(seen["umask"], "0027");
    assert_eq!(seen["oom_score_adj"], "123");
    assert_eq!(seen["rlimits"]["RLIMIT_NOFILE"], json!([64, 65]));
    assert_eq!(seen["caps"]["bounding"], "0000000020000420");
    assert_eq!(seen["no_new_privs"], 1);
    assert!(has(&seen["env"], "FROM=init"), "{}", seen["env"]);
    // What it must have is named, with the place.
    for member in ["args", "cwd", "user"] {
        let mut process = process.clone();
        process.as_object_mut().unwrap().remove(member);
        exec_failing(&bundle, &["-p", &process_file(&bundle, &process)], &[]).fails_with(&[member]);
    }
    fs::write(bundle.dir.join("process.json"), "{\n  \"args\": 7\n}").unwrap();
    let file = bundle.dir.join("process.json");
    exec_failing(&bundle, &["-p", file.to_str().unwrap()], &[]).fails_with(&["process.json", "2:"]);
    exec_failing(&bundle, &["-p", "/no/such/file"], &[]).fails_with(&["/no/such/file"]);
}

#[test]
fn no_new_privileges_cannot_be_cleared() {
    peer_differs!("runc", "takes the file's word");
    peer_differs!("crun", "takes the file's word");
    let bundle = running(Bundle::new());
    let process = json!({"args": ["/probe"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "noNewPrivileges": false});
    let seen = exec(&bundle, &["-p", &process_file(&bundle, &process)], &[]).ok().json();
    assert_eq!(seen["no_new_privs"], 1);
}

#[test]
fn flags_beside_a_file_are_refused_and_not_ignored() {
    orlop_only!("refuses what it would ignore");
    let bundle = running(Bundle::new());
    let process = json!({"args": ["/probe"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
    let file = process_file(&bundle, &process);
    for flag in [&["--no-new-privs"][..], &["-u", "5"], &["--cap", "CAP_KILL"], &["-e", "A=1"], &["--cwd", "/"]] {
        let out = exec(&bundle, &[&["-p", file.as_str()], flag].concat(), &[]);
        out.fails_with(&["cannot be used with", "--process"]);
    }
    exec(&bundle, &["-p", &file], &["/probe"]).fails_with(&["cannot be used with"]);
}

#[test]
fn no_new_privs_can_be_set() {
    peer_differs!("runc", "1.1.5 loads the filter early and denies calls to itself: those numbered above getppid");
    // It also moves the filter behind the change of user.
    let bundle = Bundle::new().set("/process/noNewPrivileges", false).set("/linux/seccomp", filter());
    let bundle = running(bundle);
    let program = ["/probe", "report", ",", "syscall", "110"];
    for (options, set) in [(&[][..], 0), (&["--no-new-privs"], 1)] {
        let seen = exec(&bundle, options, &program).ok().jsons();
        assert_eq!(seen[0]["no_new_privs"], set);
        assert_eq!(seen[0]["seccomp"], 2);
        assert_eq!(seen[1]["errno"], 71);
    }
    let bundle = running(Bundle::new().set("/linux/seccomp", filter()));
    let seen = exec(&bundle, &[], &program).ok().jsons();
    if flavor() == Flavor::Crun {
        return; // 1.8.1 does not inherit it.
    }
    assert_eq!((&seen[0]["no_new_privs"], &seen[0]["seccomp"]), (&json!(1), &json!(2)));
    assert_eq!(seen[1]["errno"], 71);
}

/// getppid gives 71.
fn filter() -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71}]})
}

#[test]
fn a_terminal_through_the_console_socket() {
    let bundle = running(Bundle::new());
    let receiver = Receiver::new(&bundle);
    exec(&bundle, &["-t", "-d", "--console-socket", &receiver.path], &["/probe"]).ok();
    let (master, _) = receiver.receive();
    let seen = &runtime::lines(&read_all(master))[0];
    assert_eq!(seen["tty"]["isatty"], json!([true, true, true]));
    assert_eq!(seen["tty"]["controlling"], true);
    assert_eq!(seen["sid"], seen["pid"]);
    let fds: Vec<&String> = seen["fds"].as_object().unwrap().keys().collect();
    assert_eq!(fds, ["0", "1", "2"], "{}", seen["fds"]);
}

#[test]
fn a_terminal_of_the_file_s_size() {
    peer_differs!("crun", "1.8.1 ignores the size");
    let bundle = running(Bundle::new().userns(0, 100_000, 65_536));
    let process = json!({"args": ["/probe"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "terminal": true,
        "consoleSize": {"height": 33, "width": 111}});
    let file = process_file(&bundle, &process);
    let receiver = Receiver::new(&bundle);
    exec(&bundle, &["-t", "-d", "--console-socket", &receiver.path, "-p", &file], &[]).ok();
    let (master, _) = receiver.receive();
    let seen = &runtime::lines(&read_all(master))[0];
    assert_eq!((&seen["tty"]["rows"], &seen["tty"]["cols"]), (&json!(33), &json!(111)));
}

#[test]
fn a_terminal_in_the_foreground() {
    peer_differs!("crun", "1.8.1 now and then breaks the line");
    let Some(script) = host::find_program("script") else {
        crate::skip_expected!("script(1) of bsdutils is not installed");
    };
    let bundle = running(Bundle::new());
    let (program, root) = (runtime::program(), bundle.state_root());
    let command =
        format!("{} --root {} exec -t {} /probe report , exit 5", program.display(), root.display(), bundle.id);
    let log = bundle.dir.join("typescript");
    let out = Call::new(&script, &bundle.dir, bundle.layer)
        .args(["-q", "-e", "-c", &command, log.to_str().unwrap()])
        .output();
    let start = out.stdout.find('{').unwrap_or_else(|| panic!("{out}"));
    let seen: Value = serde_json::from_str(out.stdout[start..].lines().next().unwrap().trim()).unwrap();
    assert_eq!(seen["tty"]["isatty"], json!([true, true, true]));
    assert_eq!(out.code(), 5, "{out}");
}

#[test]
fn the_config_s_terminal_is_init_s_alone() {
    let bundle = Bundle::new().set("/process/terminal", true).args(["/probe", "wait"]);
    let receiver = Receiver::new(&bundle);
    bundle.try_create(&["--console-socket", &receiver.path]).ok();
    let (_master, _) = receiver.receive();
    bundle.start();
    assert_eq!(exec(&bundle, &[], &["/probe"]).ok().json()["tty"]["isatty"], json!([false, false, false]));
}

#[test]
fn terminals_and_console_sockets_go_together() {
    peer_differs!("crun", "1.8.1 ignores the one or the other");
    let bundle = running(Bundle::new());
    exec_failing(&bundle, &["-t", "-d"], &["/probe"]).fails_with(&["console socket"]);
    let receiver = Receiver::new(&bundle);
    exec_failing(&bundle, &["-d", "--console-socket", &receiver.path], &["/probe"]).fails_with(&["console socket"]);
    exec_failing(&bundle, &["-t", "-d", "--console-socket", "/no/such/socket"], &["/probe"]);
    only_init_is_left(&bundle);
}

#[test]
fn detached_with_a_pid_file() {
    let bundle = running(Bundle::new());
    let file = bundle.dir.join("exec.pid");
    let out = exec(&bundle, &["--detach", "--pid-file", file.to_str().unwrap()], &["/probe", "wait"]).ok();
    assert!(out.stderr.is_empty(), "{out}");
    let text = fs::read_to_string(&file).unwrap();
    let pid: i32 = text.parse().unwrap_or_else(|_| panic!("not a number alone: {text:?}"));
    let parent = |pid: i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find_map(|l| l.strip_prefix("PPid:")).unwrap().trim().to_string()
    };
    // Both are handed to the caller, who may be a subreaper, with no process of the runtime in between.
    assert_eq!(parent(pid), parent(bundle.pid()));
    let cgroup = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(cgroup(pid), cgroup(bundle.pid()), "in every hierarchy");
    bundle.kill("KILL").ok();
    assert!(runtime::wait_for_end(pid, runtime::patience_ms()), "it dies with init of its PID namespace");
}

#[test]
fn the_pidfd_is_sent() {
    peer_differs!("runc", "1.1.5 has no --pidfd-socket");
    peer_differs!("crun", "1.8.1 has no --pidfd-socket");
    let bundle = running(Bundle::new());
    let (path, file) = (bundle.dir.join("pidfd.sock"), bundle.dir.join("exec.pid"));
    let listener = UnixListener::bind(&path).unwrap();
    let (path, pid_file) = (path.to_str().unwrap(), file.to_str().unwrap());
    exec(&bundle, &["-d", "--pidfd-socket", path, "--pid-file", pid_file], &["/probe", "wait"]).ok();
    listener.set_nonblocking(true).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let (pidfd, text) = receive_fd(std::os::fd::AsRawFd::as_raw_fd(&stream));
    assert_eq!(text, "setns");
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(&pidfd))).unwrap();
    let pid = fs::read_to_string(file).unwrap();
    assert!(info.lines().any(|l| l.split_whitespace().eq(["Pid:", &pid])), "{info}");
}

#[test]
fn descriptors_are_preserved_by_number_and_no_others() {
    let bundle = running(Bundle::new());
    let three = bundle.dir.join("three");
    fs::write(&three, "x").unwrap();
    let (three, other) = (fs::File::open(three).unwrap(), fs::File::open("/etc").unwrap());
    let program = &["/probe"][..];
    let out = call(&bundle, &["--preserve-fds", "1"], program).fd(&three, 3).fd(&other, 4).fd(&other, 9).output();
    let fds = &out.json()["fds"];
    let numbers: Vec<&String> = fds.as_object().unwrap().keys().collect();
    assert_eq!(numbers, ["0", "1", "2", "3"], "{fds}");
    assert!(fds["3"].as_str().unwrap().ends_with("three"), "{fds}");
    let fds = &call(&bundle, &[], program).fd(&three, 3).fd(&other, 9).output().json()["fds"];
    let numbers: Vec<&String> = fds.as_object().unwrap().keys().collect();
    assert_eq!(numbers, ["0", "1", "2"], "{fds}");
    if flavor() == Flavor::Orlop {
        exec_failing(&bundle, &["--preserve-fds", "5"], program).fails_with(&["--preserve-fds"]);
    }
}

/// The directories that `sub` is made in: one v1 hierarchy and the v2 one, or this alone.
fn make_sub(bundle: &Bundle, hierarchies: &[PathBuf]) -> Vec<PathBuf> {
    let made: Vec<PathBuf> = hierarchies.iter().map(|root| root.join(&bundle.id).join("sub")).collect();
    made.iter().for_each(|dir| fs::create_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())));
    made
}

#[test]
fn a_cgroup_below_the_container_s() {
    peer_differs!("crun", "1.8.1 makes it");
    let v1 = host::v1_hierarchies().into_iter().find(|(name, _)| name == "pids" && !host::is_v2());
    for bundle in [Bundle::new(), Bundle::v2()] {
        if flavor() == Flavor::Runc && bundle.layer == runtime::Layer::Host {
            continue; // 1.1.5 wants it in every hierarchy.
        }
        let bundle = running(bundle);
        let v1 = v1.iter().filter(|_| bundle.layer == runtime::Layer::Host).map(|(_, path)| path.clone());
        let made = make_sub(&bundle, &v1.chain(host::v2_root()).collect::<Vec<_>>());
        let file = bundle.dir.join("exec.pid");
        let options = ["-d", "--cgroup", "sub", "--pid-file", file.to_str().unwrap()];
        exec(&bundle, &options, &["/probe", "wait"]).ok();
        let pid = fs::read_to_string(file).unwrap();
        for dir in made {
            assert_eq!(fs::read_to_string(dir.join("cgroup.procs")).unwrap().trim(), pid, "{}", dir.display());
        }
        exec_failing(&bundle, &["--cgroup", "../other"], &["/probe"]).fails_with(&["sub cgroup path"]);
        exec_failing(&bundle, &["--cgroup", "missing"], &["/probe"]).fails_with(&["missing"]);
        bundle.delete_force().ok();
        bundle.check_clean();
    }
}

/// Turns a controller on in `dir` for the cgroups below, which then alone may hold processes.
fn pass_on(dir: &Path) -> bool {
    let controllers = fs::read_to_string(dir.join("cgroup.controllers")).unwrap();
    controllers.split_whitespace().any(|c| fs::write(dir.join("cgroup.subtree_control"), format!("+{c}")).is_ok())
}

#[test]
fn a_cgroup_that_takes_no_processes_is_refused_and_init_s_is_followed() {
    peer_differs!("crun", "1.8.1 joins otherwise");
    let bundle = running(Bundle::v2());
    let root = host::v2_root().unwrap().join(&bundle.id);
    // As systemd in a container does: init moves down, and the controllers go with it.
    for sub in ["init", "full"] {
        fs::create_dir(root.join(sub)).unwrap();
    }
    fs::write(root.join("init/cgroup.procs"), bundle.pid().to_string()).unwrap();
    if !pass_on(&root) || !pass_on(&root.join("full")) {
        crate::skip_expected!("the v2 hierarchy has no controller to pass on");
    }
    let seen = exec(&bundle, &[], &["/probe"]).ok().json();
    assert!(has(&seen["cgroup"], "0::/init"), "{}", seen["cgroup"]);
    exec_failing(&bundle, &["--cgroup", "full"], &["/probe"]).fails_with(&["busy"]);
    only_init_is_left_in(&root.join("init"), &bundle);
}

#[track_caller]
fn only_init_is_left_in(dir: &Path, bundle: &Bundle) {
    let procs = || fs::read_to_string(dir.join("cgroup.procs")).unwrap();
    eventually("only init is left", || procs().trim() == bundle.pid().to_string());
}

#[test]
fn namespaces_that_the_container_shares_or_joins() {
    for kind in ["pid", "mount", "network", "ipc", "uts", "cgroup"] {
        if kind == "mount" && flavor() != Flavor::Orlop {
            continue; // The peers need one.
        }
        let file = if kind == "mount" {
            "mnt"
        } else if kind == "network" {
            "net"
        } else {
            kind
        };
        let base = Bundle::new();
        let base = if kind == "mount" { base.set("/mounts", json!([])) } else { base };
        let bundle = running(base.without_ns(kind));
        if kind == "mount" {
            // Without /proc there is nothing to read but what the calls say.
            let out = exec(&bundle, &[], &["/probe", "ls", "/"]).ok().json();
            assert!(out.get("probe").is_some(), "init's root: {out}");
            continue;
        }
        let seen = exec(&bundle, &[], &["/probe"]).ok().json();
        assert_eq!(seen["ns"][file], own_ns(file).as_str(), "{kind}");
        assert_eq!(exec(&bundle, &[], &["/probe", "exit", "3"]).code(), 3);
        let holder = running(Bundle::new());
        let path = format!("/proc/{}/ns/{file}", holder.pid());
        let bundle = running(Bundle::new().join_ns(kind, &path));
        let link = fs::read_link(&path).unwrap();
        // The path is init's now: what becomes of the name has no effect.
        let seen = exec(&bundle, &[], &["/probe"]).ok().json();
        assert_eq!(seen["ns"][file], link.to_str().unwrap(), "{kind}");
    }
}
