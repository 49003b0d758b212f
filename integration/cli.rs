// SPDX-License-Identifier: Apache-2.0
//! The command line as callers of runc and crun use it: words, environment, log, exit statuses.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::exec::running;
use crate::harness::{Bundle, Flavor, Output, eventually, flavor, host, runtime};
use crate::{orlop_only, peer_differs};

/// `run` with these options, at the end of global ones.
fn global(bundle: &Bundle, options: &[&str], command: &[&str]) -> Output {
    bundle.write_config();
    let mut words = options.to_vec();
    words.extend([command[0], "--bundle", bundle.dir.to_str().unwrap()]);
    words.extend(&command[1..]);
    words.push(&bundle.id);
    bundle.call(words).output()
}

#[test]
fn words_of_go_callers() {
    peer_differs!("crun", "reads one dash as short flags");
    let bundle = Bundle::new();
    let seen = global(&bundle, &["-rootless", "auto"], &["run", "-no-subreaper", "-preserve-fds=0"]).json();
    assert_eq!(seen["pid"], 1);
    let bundle = running(Bundle::new());
    let out = bundle.call(["exec", "--tty=false", &bundle.id, "/probe", "echo", "-tty", "--detach=true"]).output();
    assert_eq!(out.json()["echo"], json!(["-tty", "--detach=true"]));
}

#[test]
fn help_and_version_succeed_on_stdout() {
    let bundle = Bundle::new();
    let commands = ["create", "start", "state", "kill", "delete", "run", "exec", "list", "ps", "spec", "features"];
    for command in commands {
        if command == "features" && flavor() == Flavor::Crun {
            continue;
        }
        let out = bundle.call([command, "--help"]).output().ok();
        assert!(!out.stdout.is_empty() && out.stderr.is_empty(), "{out}");
    }
    bundle.call(["--help"]).output().ok();
    bundle.call(["-v"]).output().ok();
    orlop_only!("help stands before the command");
    let words = bundle.call(["help", "exec"]).output().ok().stdout;
    assert_eq!(words, bundle.call(["exec", "--help"]).output().ok().stdout);
    assert!(words.starts_with("Run a further process"), "{words}");
}

#[test]
fn the_version_has_the_name_that_the_caller_knows() {
    orlop_only!("peers have one name");
    let version = |name: &str| {
        let out = Command::new(runtime::program()).arg0(name).arg("--version").output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    assert!(version("/usr/bin/runc").starts_with(concat!("runc version ", env!("CARGO_PKG_VERSION"), "\n")));
    assert!(version("crun").starts_with("crun version "));
    assert!(version("crun").contains("program: orlop"));
    assert!(version("/x/orlop").starts_with("orlop version "));
}

/// What conmon of podman passes on.
#[test]
fn variables_of_conmon_stay_outside() {
    let bundle = Bundle::new().set("/hooks/createRuntime", json!([]));
    let names = ["_OCI_SYNCPIPE", "_OCI_STARTPIPE", "_OCI_ATTACHPIPE", "XDG_RUNTIME_DIR"];
    let call = names.iter().fold(bundle.call_new("run", &[]), |call, name| call.env(name, "3"));
    let seen = call.output().json();
    for name in names {
        assert!(!seen["env"].to_string().contains(name), "{}", seen["env"]);
    }
}

#[test]
fn no_cgroup_is_made_with_the_manager_disabled() {
    peer_differs!("runc", "has no --cgroup-manager");
    let bundle = Bundle::v2().args(["/probe", "wait"]).remove("/linux/cgroupsPath");
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let pid = bundle.pid_file();
    let flags = ["--cgroup-manager", "disabled"];
    global(&bundle, &flags, &["create", "--pid-file", pid.to_str().unwrap()]).ok();
    let theirs = fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).unwrap();
    assert_eq!(theirs, own);
    bundle.start();
    let pids = bundle.call(["ps", "--format", "json", &bundle.id]).output();
    if flavor() == Flavor::Orlop {
        assert_eq!(pids.json(), json!([bundle.pid()]));
        let text = bundle.call(["exec", &bundle.id, "/probe"]).output().ok();
        assert_eq!(text.json()["pid"], 2);
    }
    bundle.kill("KILL").ok();
    bundle.wait_stopped();
    bundle.delete().ok();
}

#[test]
fn limits_without_a_cgroup_are_refused() {
    orlop_only!("crun leaves them out");
    let bundle = Bundle::new().set("/linux/resources/pids/limit", 10).remove("/linux/cgroupsPath");
    let out = global(&bundle, &["--cgroup-manager", "disabled"], &["run"]);
    out.fails_with(&["linux.resources.pids.limit", "--cgroup-manager disabled"]);
    bundle.check_clean();
    global(&bundle, &["--cgroup-manager", "systemd"], &["run"]).fails();
}

/// Without a cgroup and a PID namespace of its own, init alone can be killed; it was not, once.
#[test]
fn kill_reaches_an_init_without_cgroup_and_pid_namespace() {
    peer_differs!("runc", "has no --cgroup-manager");
    peer_differs!("crun", "1.8 wants a cgroup then");
    let bundle = Bundle::new().args(["/probe", "wait"]).remove("/linux/cgroupsPath").without_ns("pid");
    let pid = bundle.pid_file();
    global(&bundle, &["--cgroup-manager", "disabled"], &["create", "--pid-file", pid.to_str().unwrap()]).ok();
    bundle.start();
    bundle.kill("KILL").ok();
    bundle.wait_stopped();
    bundle.delete().ok();
}

#[test]
fn listen_fds_are_passed_on() {
    peer_differs!("crun", "sets LISTEN_PID only if there is none");
    let file = fs::File::open("/etc/hostname").or_else(|_| fs::File::open("/etc/passwd")).unwrap();
    let bundle = Bundle::new();
    bundle.write_config();
    // sh knows its own pid, and exec keeps it.
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
    let (state, dir) = (bundle.state_root(), bundle.dir.clone());
    let sh = Path::new("/bin/sh");
    let call = runtime::Call::new(sh, &bundle.dir, bundle.layer)
        .env("ORLOP_IT", &bundle.id)
        .args(["-c", script, runtime::program().to_str().unwrap(), "--root", state.to_str().unwrap()])
        .args(["run", "--bundle", dir.to_str().unwrap(), "--preserve-fds", "1", &bundle.id])
        .fd(&file, 3)
        .fd(&file, 4)
        .fd(&file, 5);
    let seen = call.output().json();
    let env = seen["env"].to_string();
    assert!(env.contains("LISTEN_FDS=1") && env.contains("LISTEN_PID=1"), "{env}");
    let fds = seen["fds"].as_object().unwrap();
    assert!(fds.contains_key("3") && fds.contains_key("4") && !fds.contains_key("5"), "{fds:?}");
}

#[test]
fn a_listen_fd_that_is_not_open_is_an_error() {
    orlop_only!("runc takes whatever has the number");
    let bundle = Bundle::new();
    bundle.write_config();
    let (state, dir) = (bundle.state_root(), bundle.dir.clone());
    let call = runtime::Call::new(Path::new("/bin/sh"), &bundle.dir, bundle.layer)
        .args(["-c", "LISTEN_PID=$$ LISTEN_FDS=40 exec \"$0\" \"$@\"", runtime::program().to_str().unwrap()])
        .args(["--root", state.to_str().unwrap(), "run", "--bundle", dir.to_str().unwrap(), &bundle.id]);
    call.output().fails_with(&["LISTEN_FDS=40", "not open"]);
    bundle.check_clean();
}

/// A service manager that listens on a socket.
struct Manager {
    socket: UnixDatagram,
    path: String,
}

impl Manager {
    fn new(bundle: &Bundle) -> Self {
        let path = bundle.dir.join("manager.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(std::time::Duration::from_millis(runtime::patience_ms().unsigned_abs().into())))
            .unwrap();
        Self { socket, path: path.to_str().unwrap().to_string() }
    }

    /// The next message; a descriptor with it is closed, which a barrier waits for.
    fn receive(&self) -> String {
        let mut buffer = [0; 256];
        let length = self.socket.recv(&mut buffer).expect("no message");
        // runc's READY ends in a line break.
        String::from_utf8_lossy(&buffer[..length]).trim_end().to_string()
    }
}

fn notifies(bundle: Bundle) -> Bundle {
    bundle.args(["/probe", "notify", "STATUS=half\n", ",", "notify", "READY=1\nSTATUS=all", ",", "wait"])
}

#[test]
fn readiness_is_passed_on_by_start() {
    peer_differs!("crun", "1.8 sends no barrier");
    peer_differs!("runc", "1.1.5 sends no barrier");
    let bundle = notifies(Bundle::new());
    let manager = Manager::new(&bundle);
    bundle.call_new("create", &[]).env("NOTIFY_SOCKET", &manager.path).output().ok();
    let start = bundle.call(["start", &bundle.id]).env("NOTIFY_SOCKET", &manager.path).start();
    assert_eq!(manager.receive(), "READY=1");
    assert_eq!(manager.receive(), format!("MAINPID={}", bundle.pid()));
    assert_eq!(manager.receive(), "BARRIER=1");
    start.output().ok();
    assert_eq!(bundle.state()["status"], "running");
    // A second start finds the socket in use, and leaves it alone.
    bundle.call(["start", &bundle.id]).env("NOTIFY_SOCKET", &manager.path).output().fails();
    bundle.delete_force().ok();
    bundle.check_clean();
}

#[test]
fn readiness_is_passed_on_by_a_detached_run_and_in_the_foreground() {
    peer_differs!("crun", "1.8 does it in start alone");
    peer_differs!("runc", "1.1.5 sends no barrier");
    let bundle = notifies(Bundle::new()).dir_in_rootfs("/run/notify", 0o755).userns(0, 100_000, 65_536);
    let manager = Manager::new(&bundle);
    let run = bundle.call_new("run", &["-d"]).env("NOTIFY_SOCKET", &manager.path).start();
    assert_eq!(manager.receive(), "READY=1", "{}", run.stderr_text());
    assert_eq!(manager.receive(), format!("MAINPID={}", bundle.pid()));
    assert_eq!(manager.receive(), "BARRIER=1");
    run.output().ok();
    bundle.delete_force().ok();
    let bundle = notifies(Bundle::new());
    let manager = Manager::new(&bundle);
    let run = bundle.call_new("run", &[]).env("NOTIFY_SOCKET", &manager.path).start();
    assert_eq!(manager.receive(), "READY=1");
    assert_eq!(manager.receive(), "BARRIER=1", "the main process is the runtime");
    bundle.kill("KILL").ok();
    assert_eq!(run.output().code(), 128 + 9);
    bundle.check_clean();
}

#[test]
fn a_program_that_ends_before_it_is_ready_ends_the_wait() {
    peer_differs!("crun", "1.8 waits otherwise");
    let bundle = Bundle::new().args(["/probe"]);
    let manager = Manager::new(&bundle);
    bundle.call_new("create", &[]).env("NOTIFY_SOCKET", &manager.path).output().ok();
    bundle.call(["start", &bundle.id]).env("NOTIFY_SOCKET", &manager.path).output().ok();
    bundle.wait_stopped();
    bundle.delete().ok();
    bundle.check_clean();
}

#[test]
fn the_log_of_a_failed_command_is_one_object() {
    orlop_only!("runc logs its warnings before the error, and podman can read neither then");
    // A warning of the plan (deprecated), and an error when the program is looked up.
    let bundle = Bundle::new()
        .args(["/no/such/program"])
        .set("/linux/resources/memory/kernel", 1_000_000)
        .set("/ociVersion", "1.9.0");
    bundle.write_config();
    let log = bundle.dir.join("log");
    let flags = ["--log", log.to_str().unwrap(), "--log-format", "json"];
    let out = global(&bundle, &flags, &["run"]).fails();
    let entry: Value = serde_json::from_str(&fs::read_to_string(&log).unwrap()).expect("exactly one JSON object");
    assert_eq!(entry["level"], "error");
    let message = entry["msg"].as_str().unwrap();
    assert!(message.contains("/no/such/program") && out.stderr.contains(message), "{out}");
    assert!(out.stderr.contains("warning: config.json: ociVersion"), "{out}");
    // One that succeeds has them in its log.
    fs::remove_file(&log).unwrap();
    let bundle = bundle.args(["/probe"]);
    global(&bundle, &flags, &["run"]).ok();
    let entries = runtime::lines(&fs::read_to_string(&log).unwrap());
    assert!(!entries.is_empty() && entries.iter().all(|entry| entry["level"] == "warning"), "{entries:?}");
    // And one with nothing to say makes none.
    fs::remove_file(&log).unwrap();
    bundle.call(flags.iter().copied().chain(["list"])).output().ok();
    assert!(!log.exists());
}

/// What containerd's shim and podman look for.
#[test]
fn phrases_that_callers_match() {
    peer_differs!("crun", "has words of its own");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.call(["kill", "nosuch", "9"]).output().fails_with(&["does not exist"]);
    bundle.call(["delete", "nosuch"]).output().fails_with(&["does not exist"]);
    bundle.create();
    bundle.start();
    bundle.kill("KILL").ok();
    bundle.wait_stopped();
    bundle.kill("KILL").fails_with(&["container not running"]);
    bundle.delete().ok();
    let bundle = bundle.args(["nosuchprogram"]);
    bundle.try_create(&[]).fails_with(&["executable file not found in"]);
    let bundle = bundle.args(["/no/such"]);
    bundle.try_create(&[]).fails_with(&["no such file or directory"]);
    // podman makes 126 of it.
    let bundle = bundle.args(["/tmp"]);
    bundle.try_create(&[]).fails_with(&["permission denied"]);
    bundle.check_clean();
    orlop_only!("has its own words about the file");
    bundle.try_create(&[]).fails_with(&["/tmp is not a regular file"]);
    let bundle = running(Bundle::new());
    let out = bundle.call(["exec", &bundle.id, "/tmp"]).output();
    assert_eq!(out.code(), 255);
    out.fails_with(&["permission denied", "/tmp is not a regular file"]);
}

/// A header of an ELF file for another machine, or with an interpreter that is not there.
fn elf(machine: u16, interpreter: Option<&str>) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2_u16, machine] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for word in [0x40_0000_u64, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, u16::from(interpreter.is_some()), 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    if let Some(name) = interpreter {
        file.extend(3_u32.to_le_bytes());
        file.extend(4_u32.to_le_bytes());
        let length = u64::try_from(name.len() + 1).unwrap();
        for word in [120_u64, 0, 0, length, length, 1] {
            file.extend(word.to_le_bytes());
        }
        file.extend(name.as_bytes());
        file.push(0);
    }
    file
}

#[test]
fn a_program_that_execve_refuses_is_explained() {
    orlop_only!("the peers' start succeeds");
    let bundle = Bundle::new()
        .file("/missing-interpreter", "#!/no/interpreter -x\n", 0o755)
        .file("/crlf", "#!/probe\r\necho\r\n", 0o755)
        .file("/no-interpreter", "#!\n", 0o755)
        .file("/nested", "#!/missing-interpreter\n", 0o755)
        .file("/interpreter-mode", "#!/plain\n", 0o755)
        .file("/plain", "text", 0o644)
        .file("/empty", "", 0o755)
        .file("/text", "echo hello\n", 0o755);
    for (name, bytes) in [("foreign", elf(183, None)), ("loader", elf(62, Some("/lib/ld-nowhere.so.1")))] {
        fs::write(bundle.rootfs().join(name), bytes).unwrap();
        fs::set_permissions(bundle.rootfs().join(name), PermissionsExt::from_mode(0o755)).unwrap();
    }
    let missing = "no such file or directory";
    let cases: [(&str, &[&str]); 9] = [
        ("/missing-interpreter", &["its interpreter /no/interpreter is not in the root filesystem", missing]),
        ("/crlf", &["CR LF", missing, "hint: save it"]),
        ("/no-interpreter", &["names no interpreter", "exec format error"]),
        ("/nested", &["/missing-interpreter: its interpreter /no/interpreter", missing]),
        ("/interpreter-mode", &["/plain may not be executed: its mode is 0644", "permission denied"]),
        ("/empty", &["/empty is empty", "exec format error"]),
        ("/text", &["neither an ELF file nor a script", "exec format error"]),
        ("/foreign", &["a program for aarch64, this machine is", "exec format error"]),
        ("/loader", &["its interpreter /lib/ld-nowhere.so.1 is not in the root filesystem", missing]),
    ];
    for (program, words) in cases {
        let out = bundle.try_run([program]).fails_with(words);
        assert_eq!(out.code(), 1);
        bundle.check_clean();
    }
    // In a container without /proc, too, and of exec.
    let bundle = running(bundle.set("/mounts", json!([])));
    for (program, words) in cases {
        let out = bundle.call(["exec", &bundle.id, program]).output().fails_with(words);
        assert_eq!(out.code(), 255);
    }
}

#[test]
fn a_filter_that_kills_does_not_hide_why_a_program_is_refused() {
    orlop_only!("says so in its own words");
    // What init needs to say so. To look at the file it would need more, and end for it.
    let calls = ["execve", "execveat", "sendmsg", "exit", "exit_group", "brk", "mmap", "munmap", "close", "write"];
    let bundle = Bundle::new().file("/missing-interpreter", "#!/no/interpreter\n", 0o755);
    let bundle = bundle.set("/process/noNewPrivileges", json!(true)).set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_KILL_PROCESS", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": calls, "action": "SCMP_ACT_ALLOW"}]}),
    );
    bundle.try_run(["/missing-interpreter"]).fails_with(&["no such file or directory", "its interpreter"]);
}

#[test]
fn a_program_on_a_noexec_mount_is_explained() {
    let bundle = Bundle::new();
    let dir = bundle.dir.join("volume");
    fs::create_dir(&dir).unwrap();
    fs::hard_link(runtime::base().join("probe"), dir.join("program")).unwrap();
    let bundle = bundle.mount("/volume", "bind", dir.to_str().unwrap(), &["bind", "noexec"]);
    let out = bundle.try_run(["/volume/program"]).fails_with(&["permission denied"]);
    bundle.check_clean();
    if flavor() == Flavor::Orlop {
        out.fails_with(&["/volume/program is on a mount with noexec"]);
    }
}

#[test]
fn a_program_that_is_open_for_writing_is_explained() {
    orlop_only!("the peers' start succeeds");
    let bundle = Bundle::new();
    let program = bundle.rootfs().join("busy");
    runtime::copy_program(&runtime::base().join("probe"), &program);
    let open = fs::OpenOptions::new().append(true).open(&program).unwrap();
    bundle.try_run(["/busy"]).fails_with(&["/busy", "text file busy", "open for writing"]);
    drop(open);
    bundle.check_clean();
}

#[test]
fn a_script_that_only_root_may_read_is_explained_as_far_as_it_can_be() {
    orlop_only!("the peers' start succeeds");
    let bundle = Bundle::new()
        .file("/script", "#!/no/interpreter\n", 0o711)
        .set("/process/user", json!({"uid": 1000, "gid": 1000}));
    bundle.try_run(["/script"]).fails_with(&["/script", "no such file or directory", "its interpreter"]);
    bundle.check_clean();
}

#[test]
fn the_caller_s_processors_are_not_the_container_s() {
    peer_differs!("runc", "1.1.5 passes the affinity on");
    peer_differs!("crun", "1.8 passes the affinity on");
    let all = allowed(&fs::read_to_string("/proc/self/status").unwrap());
    let taskset = host::find_program("taskset");
    let (Some(taskset), true) = (taskset, all.contains(['-', ','])) else {
        crate::skip_expected!("no taskset(1), or one processor");
    };
    let first: String = all.chars().take_while(char::is_ascii_digit).collect();
    let bundle = Bundle::new().file("/status", "", 0o644).args(["/probe", "read", "/proc/self/status", ",", "wait"]);
    bundle.write_config();
    let bound = |words: &[&str]| {
        let (state, program) = (bundle.state_root(), runtime::program());
        runtime::Call::new(&taskset, &bundle.dir, bundle.layer)
            .env("ORLOP_IT", &bundle.id)
            .args(["-c", &first, program.to_str().unwrap(), "--root", state.to_str().unwrap()])
            .args(words)
    };
    let created = bound(&["run", "-d", "--bundle", bundle.dir.to_str().unwrap(), &bundle.id]).start();
    let path = created.stdout_path().to_path_buf();
    created.output().ok();
    eventually("the container has said it", || fs::read_to_string(&path).unwrap().lines().count() >= 2);
    let said = &runtime::lines(&fs::read_to_string(&path).unwrap())[0];
    assert_eq!(allowed(said["content"].as_str().unwrap()), all, "of init");
    let out = bound(&["exec", &bundle.id, "/probe", "read", "/proc/self/status"]).output().json();
    assert_eq!(allowed(out["content"].as_str().unwrap()), all, "of exec");
    bundle.delete_force().ok();
}

fn allowed(status: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    line.trim().to_string()
}

#[test]
fn exec_in_cgroups_of_some_controllers() {
    peer_differs!("crun", "has no controllers there");
    let hierarchies = host::v1_hierarchies();
    let find = |name: &str| hierarchies.iter().find(|(found, _)| found == name).map(|(_, path)| path.clone());
    let (Some(pids), Some(memory), false) = (find("pids"), find("memory"), host::is_v2()) else {
        crate::skip_expected!("no v1 hierarchies");
    };
    let bundle = running(Bundle::new());
    for (root, sub) in [(&pids, "a"), (&memory, "b")] {
        fs::create_dir(root.join(&bundle.id).join(sub)).unwrap();
    }
    let options = ["exec", "-d", "--cgroup", "pids:a", "--cgroup", "memory:b", &bundle.id, "/probe", "wait"];
    bundle.call(options).output().ok();
    let procs =
        |root: &Path, sub: &str| fs::read_to_string(root.join(&bundle.id).join(sub).join("cgroup.procs")).unwrap();
    assert_eq!(procs(&pids, "a").lines().count(), 1);
    assert_eq!(procs(&pids, "a"), procs(&memory, "b"));
    for wrong in [&["--cgroup", "pids:a", "--cgroup", "b"][..], &["--cgroup", "nosuch:a"], &["--cgroup", "pids:../x"]] {
        let words = ["exec"].iter().chain(wrong).copied().chain([bundle.id.as_str(), "/probe"]);
        bundle.call(words).output().fails();
    }
}

#[test]
fn completions_of_bash_complete() {
    orlop_only!("has completions");
    let script = |shell: &str| Bundle::new().call(["completions", shell]).output().ok().stdout;
    for (shell, check) in [("bash", "-n"), ("zsh", "-n"), ("fish", "-n")] {
        let text = script(shell);
        assert!(text.contains("orlop"));
        let Some(program) = host::find_program(shell) else { continue };
        let file = runtime::base().join(format!("completions.{shell}"));
        fs::write(&file, text).unwrap();
        let out = Command::new(program).arg(check).arg(&file).output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{shell}: {}", String::from_utf8_lossy(&out.stderr));
    }
    let Some(bash) = host::find_program("bash") else {
        crate::skip_expected!("no bash");
    };
    let file = runtime::base().join("completions.bash");
    let complete = |words: &[&str]| {
        let script = format!(
            "source {}; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _orlop 2>/dev/null; echo \"${{COMPREPLY[*]}}\"",
            file.display()
        );
        let out = Command::new(&bash).args(["-c", &script, "bash"]).args(words).output().unwrap();
        String::from_utf8(out.stdout).unwrap().trim().to_string()
    };
    assert_eq!(complete(&["orlop", "crea"]), "create");
    assert_eq!(complete(&["orlop", "--root", "create", "sta"]), "start state");
    assert_eq!(complete(&["orlop", "create", "--no-"]), "--no-pivot --no-new-keyring");
    assert_eq!(complete(&["orlop", "list", "--format", ""]), "table json");
    assert_eq!(complete(&["orlop", "seccomp", "com"]), "compile");
    assert_eq!(complete(&["orlop", "seccomp", "compile", "--form"]), "--format");
}

#[test]
fn info_says_what_the_host_keeps_from_us() {
    orlop_only!("has info");
    let bundle = Bundle::new();
    let info = bundle.call(["info", "--format", "json"]).output().json();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(info["kernel"], release.trim());
    assert_eq!(info["euid"], 0);
    assert!(info["namespaces"]["user"].is_u64() && info["seccompActions"].to_string().contains("errno"), "{info}");
    for ability in info["abilities"].as_array().unwrap() {
        let able = ability["able"].as_bool().unwrap();
        assert!(able || !ability["why"].as_str().unwrap().is_empty(), "no reason: {ability}");
    }
    let mut v2 = Bundle::v2();
    assert_eq!(v2.call(["info", "-f", "json"]).output().json()["cgroups"], "v2");
    v2.layer = runtime::Layer::Host;
    // Not a terminal: no colours.
    let text = bundle.call(["info"]).output().ok().stdout;
    assert!(text.contains("user namespaces") && !text.contains('\x1b'), "{text}");
    let Some(script) = host::find_program("script") else { return };
    let on_a_terminal = |variable: &str| {
        let command = format!("{variable} {} info", runtime::program().display());
        let log = bundle.dir.join("typescript");
        let call = runtime::Call::new(&script, &bundle.dir, bundle.layer);
        call.args(["-q", "-e", "-c", &command, log.to_str().unwrap()]).output().ok().stdout
    };
    assert!(on_a_terminal("").contains("\x1b[32myes"));
    assert!(!on_a_terminal("NO_COLOR=1").contains("\x1b[32m"));
}

#[test]
fn features_is_complete_and_true() {
    peer_differs!("crun", "1.8 has no features command");
    peer_differs!("runc", "1.1.5 has a features command of the older draft");
    let features = Bundle::new().call(["features"]).output().json();
    for (pointer, value) in [
        ("/linux/mountExtensions/idmap/enabled", json!(true)),
        ("/linux/cgroup/v1", json!(true)),
        ("/linux/cgroup/v2", json!(true)),
        ("/linux/apparmor/enabled", json!(true)),
        ("/linux/netDevices/enabled", json!(true)),
        ("/linux/intelRdt/enabled", json!(true)),
        ("/ociVersionMin", json!("1.0.0")),
    ] {
        assert_eq!(features.pointer(pointer), Some(&value), "{pointer}");
    }
    let array = |pointer: &str| features.pointer(pointer).unwrap().as_array().unwrap().clone();
    assert!(array("/potentiallyUnsafeConfigAnnotations").iter().all(Value::is_string));
    assert_eq!(array("/linux/memoryPolicy/modes").len(), 7);
    for pointer in ["/linux/seccomp/archs", "/linux/seccomp/actions", "/linux/seccomp/operators", "/linux/capabilities"]
    {
        assert!(array(pointer).len() >= 7, "{pointer}");
    }
    // Each option that is claimed is taken, and one that is not claimed is refused.
    let options = array("/mountOptions");
    let mut bundle = Bundle::new();
    let plan = |bundle: &Bundle| bundle.call(["plan", "--bundle", bundle.dir.to_str().unwrap()]).output();
    for option in &options {
        let kind = if option == "tmpcopyup" { "tmpfs" } else { "bind" };
        let kinds = if kind == "bind" { json!(["bind", option]) } else { json!([option]) };
        let mount = json!({"destination": "/mnt", "type": kind, "source": "/tmp", "options": kinds});
        bundle.config["mounts"] = json!([mount]);
        bundle.write_config();
        let out = plan(&bundle);
        assert!(out.status.success() || !out.stderr.contains("unknown"), "{option}: {out}");
    }
    bundle = bundle.set("/mounts/0/options", json!(["bind", "nosuchoption"]));
    bundle.write_config();
    plan(&bundle).fails_with(&["nosuchoption"]);
    // And what Debian's runc claims is there.
    let Some(runc) = host::find_program("runc") else { return };
    let theirs = Command::new(runc).arg("features").output().unwrap();
    let theirs: Value = serde_json::from_slice(&theirs.stdout).unwrap();
    for pointer in ["/mountOptions", "/hooks", "/linux/namespaces", "/linux/capabilities", "/linux/seccomp/operators"] {
        let ours = array(pointer);
        // Later versions of runc have dropped acl, and a mount that is being made cannot be made again.
        let dropped = ["acl", "noacl", "remount"];
        for word in theirs.pointer(pointer).unwrap().as_array().unwrap() {
            if dropped.iter().any(|dropped| word == dropped) {
                continue;
            }
            assert!(ours.contains(word), "{pointer}: {word}");
        }
    }
}

#[test]
fn list_goes_on_and_says_which_is_damaged() {
    peer_differs!("crun", "1.8 stops at the first");
    let bundle = Bundle::new().args(["/probe", "wait"]).remove("/linux/cgroupsPath");
    bundle.write_config();
    let dir = bundle.dir.to_str().unwrap();
    let ids: Vec<String> = ["a", "b", "c"].iter().map(|name| format!("{}-{name}", bundle.id)).collect();
    for id in &ids {
        bundle.call(["create", "--bundle", dir, id]).output().ok();
    }
    let state = bundle.state_root().join(&ids[1]).join("state.json");
    let whole = fs::read(&state).unwrap();
    // As half a write, and as none.
    for content in [&whole[..whole.len() / 2], &[]] {
        fs::write(&state, content).unwrap();
        let out = bundle.call(["list", "--format", "json"]).output().ok();
        let listed: Value = serde_json::from_str(out.stdout.trim()).unwrap();
        let listed: Vec<&str> = listed.as_array().unwrap().iter().map(|state| state["id"].as_str().unwrap()).collect();
        assert_eq!(listed, [&ids[0], &ids[2]]);
        if flavor() == Flavor::Orlop {
            assert!(out.stderr.contains(&ids[1]), "{out}");
        }
        for words in [&["state", &ids[1]][..], &["start", &ids[1]], &["kill", &ids[1], "KILL"], &["delete", &ids[1]]] {
            bundle.call(words).output().fails();
        }
    }
    // Nothing is lost: with its record it is a container again.
    fs::write(&state, whole).unwrap();
    for id in &ids {
        bundle.call(["delete", "--force", id]).output().ok();
    }
    bundle.check_clean();
}

#[test]
fn a_console_socket_whose_receiver_dies() {
    let bundle = Bundle::new().set("/process/terminal", true).args(["/probe", "wait"]);
    let path = bundle.dir.join("console.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let receiver = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        drop((stream, listener));
    });
    let out = bundle.try_create(&["--console-socket", path.to_str().unwrap()]);
    receiver.join().unwrap();
    // Whether the message was sent before the end is a race; but nothing is left of a failure.
    if out.status.success() {
        bundle.delete_force().ok();
    } else {
        out.fails();
    }
    bundle.check_clean();
    let bundle = running(Bundle::new());
    drop(fs::remove_file(&path));
    let options = ["exec", "-d", "-t", "--console-socket", path.to_str().unwrap(), &bundle.id, "/probe", "wait"];
    let out = bundle.call(options).output();
    assert_eq!(out.code(), if flavor() == Flavor::Crun { 1 } else { 255 });
    crate::exec::only_init_is_left(&bundle);
}

/// Sends SIGINT from `delay` on until the command ends, as someone who wants out does.
fn interrupted(call: runtime::Call, delay: std::time::Duration) -> Output {
    let running = call.start();
    std::thread::sleep(delay);
    let pid = running.pid();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !runtime::wait_for_end(pid, 20) && std::time::Instant::now() < end {
        // SAFETY: no pointers; the child has not been waited for.
        unsafe { libc::kill(pid, libc::SIGINT) };
    }
    running.output()
}

#[test]
fn an_interrupt_at_any_time_of_run_leaves_nothing() {
    peer_differs!("runc", "1.1.5 dies of a signal that comes early, and leaves the container");
    peer_differs!("crun", "1.8 dies of a signal that comes early, and leaves the container");
    let bundle = Bundle::new().args(["/probe", "catch"]);
    for step in 0..40 {
        let out = interrupted(bundle.call_new("run", &[]), std::time::Duration::from_micros(step * step * 25));
        match out.code() {
            // The program has caught it, in its own time.
            0 => assert!(out.stdout.contains("ready"), "{out}"),
            1 => assert!(out.stderr.contains("interrupted by SIGINT"), "{out}"),
            // Before it could be caught at all, nothing was there.
            130 => assert!(out.stdout.is_empty(), "{out}"),
            _ => panic!("{out}"),
        }
        bundle.check_clean();
    }
}

#[test]
fn an_interrupt_at_any_time_of_exec_leaves_the_container_alone() {
    let bundle = running(Bundle::new());
    for step in 0..30 {
        let call = bundle.call(["exec", &bundle.id, "/probe", "catch"]);
        let out = interrupted(call, std::time::Duration::from_micros(step * step * 25));
        assert!([0, 1, 130, 255].contains(&out.code()), "{out}");
        crate::exec::only_init_is_left(&bundle);
    }
    assert_eq!(bundle.state()["status"], "running");
}
