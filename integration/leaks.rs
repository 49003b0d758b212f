// SPDX-License-Identifier: Apache-2.0
//! Nothing is left by a container that has run, by an `exec`, and by a `create`, `run` or `exec` that fails in whatever
//! phase. The matrix runs in a process of its own, with PID, mount and network namespaces that nobody else is in.

use std::fs;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::leaks::{Census, bpf_programs};
use crate::harness::{Bundle, Layer, eventually, host, runtime};
use crate::{orlop_only, skip_expected};

/// The first id of the user namespaces here; no other test has it, so that the keys of its user are ours.
const UID: u32 = 777_000_000;
/// The same for the other test, which runs beside it.
const NOTICING_UID: u32 = UID + 1;

/// Runs the ignored test `name` of this module in new namespaces, of which it is the init.
fn apart(name: &str) {
    let mut command = Command::new(host::find_program("unshare").expect("unshare(1) of util-linux"));
    command.args(["--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]);
    command.arg(std::env::current_exe().unwrap());
    command.args([&format!("leaks::{name}"), "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
    let summary = text.lines().filter_map(|line| Some(format!("{}\n", &line[line.find("leaks: ")?..])));
    drop(std::io::Write::write_all(&mut std::io::stderr(), summary.collect::<String>().as_bytes()));
}

fn is_apart() -> bool {
    std::process::id() == 1
}

#[test]
fn commands_and_their_failures_leave_nothing() {
    orlop_only!("promises it for every failure");
    apart("matrix");
}

#[test]
fn the_census_notices_each_kind() {
    orlop_only!("is what it is made for; the census does not depend on the runtime");
    apart("noticing");
}

#[test]
#[ignore = "run by the_census_notices_each_kind"]
fn noticing() {
    if !is_apart() {
        skip_expected!("needs namespaces of its own");
    }
    let bundle = Bundle::new();
    let before = Census::take(&bundle, NOTICING_UID);
    assert_eq!(Census::take(&bundle, NOTICING_UID), before);
    let notices = |word: &str| {
        eventually(word, || format!("{:?}", Census::changes_now(&before, &bundle, NOTICING_UID)).contains(word));
    };
    let file = fs::File::create(bundle.state_root().join("x")).unwrap();
    notices("descriptor ");
    drop(file);
    notices("state/x");
    fs::remove_file(bundle.state_root().join("x")).unwrap();
    let cgroups: Vec<_> = host::v1_hierarchies().into_iter().map(|(_, path)| path).chain(host::v2_root()).collect();
    for hierarchy in cgroups {
        let cgroup = hierarchy.join(&bundle.id);
        fs::create_dir(&cgroup).unwrap();
        notices("+ cgroup /");
        fs::remove_dir(cgroup).unwrap();
    }
    let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(bundle.rootfs().join("mnt")).status();
    assert!(mounted.unwrap().success());
    notices("rootfs/mnt rw");
    assert!(Command::new("umount").arg(bundle.rootfs().join("mnt")).status().unwrap().success());
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    notices("sleep 1000");
    child.kill().unwrap();
    child.wait().unwrap();
    let name = std::ffi::CString::new(format!("_ses.{}", bundle.id)).unwrap();
    for uid in [0, NOTICING_UID] {
        let name = name.clone();
        let mut command = Command::new("sleep");
        command.arg("1000");
        // SAFETY: system calls on a string that the closure owns.
        unsafe {
            command.pre_exec(move || {
                libc::setuid(uid);
                libc::syscall(libc::SYS_keyctl, 1, name.as_ptr());
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap();
        notices(if uid == 0 { "_ses." } else { "keys of 777000001:" });
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(Census::changes(&before, &bundle, NOTICING_UID), [""; 0]);
}

/// A way to fail, or not: its name, what it changes of a bundle, and the options of the command.
type Case = (&'static str, fn(Bundle) -> Bundle, &'static [&'static str]);

fn hook(bundle: Bundle, kind: &str, args: &[&str]) -> Bundle {
    let probe = runtime::base().join("probe");
    let path = if kind == "startContainer" { "/probe" } else { probe.to_str().unwrap() };
    let args: Vec<&str> = ["x"].iter().chain(args).copied().collect();
    bundle.push(&format!("/hooks/{kind}"), json!({"path": path, "args": args, "timeout": 1}))
}

/// Failures of `create`, and of `run`, in the order of the phases in which they come.
const CASES: &[Case] = &[
    ("no fault", |b| b, &[]),
    ("no fault, user namespace", |b| b.userns(0, UID, 65_536), &[]),
    ("no keyring", |b| b, &["--no-new-keyring"]),
    ("config: no JSON", |b| b.raw_config("{"), &[]),
    ("config: unknown word", |b| b.push("/linux/namespaces", json!({"type": "x"})), &[]),
    ("config: not carried out", |b| b.set("/linux/intelRdt", json!({"closID": "x"})), &[]),
    ("seccomp: unknown action", |b| b.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_X"})), &[]),
    ("seccomp: no listener", |b| seccomp(b, "SCMP_ACT_NOTIFY"), &[]),
    ("seccomp: kills init", |b| seccomp(b, "SCMP_ACT_KILL_PROCESS"), &[]),
    ("descriptor that is not there", |b| b, &["--preserve-fds", "3"]),
    ("lease without a pool, or of the pool", |b| b.without_ns("user"), &["--userns=auto"]),
    ("console: no socket", |b| b.set("/process/terminal", true), &["--console-socket", "/no/such/socket"]),
    ("console: not asked for", |b| b.set("/process/terminal", true), &[]),
    ("root: missing", |b| b.set("/root/path", "nowhere"), &[]),
    ("root: a file", |b| b.set("/root/path", "rootfs/probe"), &[]),
    ("namespace: no path", |b| b.join_ns("network", "/no/such/ns"), &[]),
    ("namespace: another kind", |b| b.join_ns("network", "/proc/self/ns/uts"), &[]),
    ("cgroup: outside", |b| b.set("/linux/cgroupsPath", "/../../x"), &[]),
    ("cgroup: refused value", |b| b.set("/linux/resources", json!({"cpu": {"cpus": "9999"}})), &[]),
    (
        "cgroup: refused limit",
        |b| b.set("/linux/resources", json!({"hugepageLimits": [{"pageSize": "3KB", "limit": 1}]})),
        &[],
    ),
    ("device rules", |b| b.set("/linux/resources", json!({"devices": [{"allow": false, "access": "rwm"}]})), &[]),
    (
        "map: twice",
        |b| b.userns(0, UID, 10).push("/linux/uidMappings", json!({"containerID": 5, "hostID": 1, "size": 9})),
        &[],
    ),
    ("map: nobody", |b| b.userns(0, UID, 10).set("/process/user", json!({"uid": 20, "gid": 0})), &[]),
    ("map: more than the kernel takes", |b| b.userns(0, u32::MAX - 5, 10), &[]),
    ("mount: no source", |b| b.mount("/mnt", "bind", "/no/such/source", &["rbind"]), &[]),
    ("mount: no file system", |b| b.mount("/mnt", "nosuchfs", "x", &[]), &[]),
    ("mount: bad option", |b| b.mount("/mnt", "tmpfs", "tmpfs", &["size=much"]), &[]),
    (
        "mount: last of many",
        |b| (0..40).fold(b, |b, _| b.mount("/mnt", "tmpfs", "tmpfs", &[])).mount("/mnt", "tmpfs", "tmpfs", &["mode=9"]),
        &[],
    ),
    (
        "mount: a link in circles",
        |b| b.link_in_rootfs("/a", "/b").link_in_rootfs("/b", "/a").mount("/a/x", "tmpfs", "x", &[]),
        &[],
    ),
    ("mount: cannot be idmapped", |b| b.userns(0, UID, 10).mount("/mnt", "bind", "/proc", &["rbind", "ridmap"]), &[]),
    (
        "mount: proc is a link",
        |b| {
            let rootfs = b.rootfs();
            fs::remove_dir(rootfs.join("proc")).unwrap();
            b.link_in_rootfs("/proc", "tmp")
        },
        &[],
    ),
    ("device: no number", |b| b.set("/linux/devices", json!([{"path": "/dev/x", "type": "c"}])), &[]),
    (
        "device: in a file",
        |b| b.set("/linux/devices", json!([{"path": "/probe/x", "type": "c", "major": 1, "minor": 3}])),
        &[],
    ),
    ("sysctl: unknown", |b| b.set("/linux/sysctl", json!({"net.no.such": "1"})), &[]),
    ("sysctl: refused", |b| b.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "many"})), &[]),
    (
        "rlimit: above the hard one",
        |b| b.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 1_u64 << 40}])),
        &[],
    ),
    (
        "rlimit: soft above hard",
        |b| b.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 1}])),
        &[],
    ),
    ("label: no such module", |b| b.set("/process/apparmorProfile", "no-such-profile"), &[]),
    (
        "scheduler: refused",
        |b| b.set("/process/scheduler", json!({"policy": "SCHED_DEADLINE", "runtime": 9, "deadline": 1, "period": 1})),
        &[],
    ),
    ("cwd: a file", |b| b.set("/process/cwd", "/probe"), &[]),
    ("capability: not to be had", |b| b.set("/process/capabilities/ambient", json!(["CAP_SYS_ADMIN"])), &[]),
    ("program: missing", |b| b.args(["/no/such/program"]), &[]),
    ("program: no program", |b| b.file("/text", "\u{1}", 0o755).args(["/text"]), &[]),
    ("hook: prestart", |b| hook(b, "prestart", &["exit", "3"]), &[]),
    ("hook: createRuntime", |b| hook(b, "createRuntime", &["exit", "3"]), &[]),
    ("hook: createRuntime hangs", |b| hook(b, "createRuntime", &["wait"]), &[]),
    ("hook: createContainer", |b| hook(b, "createContainer", &["exit", "3"]), &[]),
    ("hook: startContainer", |b| hook(b, "startContainer", &["exit", "3"]), &[]),
    ("hook: poststart", |b| hook(b, "poststart", &["exit", "3"]), &[]),
    ("hook: poststop", |b| hook(b, "poststop", &["exit", "3"]), &[]),
    ("hook: missing", |b| b.push("/hooks/createRuntime", json!({"path": "/no/such/hook"})), &[]),
    (
        "the late hook fails in a user namespace with a time namespace",
        |b| {
            let b = b.userns(0, UID, 10).push("/linux/namespaces", json!({"type": "time"}));
            hook(b, "createContainer", &["exit", "3"])
        },
        &[],
    ),
    ("pid file: no directory", |b| b, &["--pid-file", "/no/such/dir/pid"]),
    ("pidfd: no socket", |b| b, &["--pidfd-socket", "/no/such/socket"]),
];

fn seccomp(bundle: Bundle, action: &str) -> Bundle {
    let mut profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["prctl", "getppid", "execve", "execveat"],
        "action": action}]});
    if action.ends_with("NOTIFY") {
        profile["listenerPath"] = json!("/no/such/listener");
    }
    bundle.set("/linux/seccomp", profile)
}

/// Fails with what `act` has left, by name.
#[derive(Default)]
struct Matrix {
    cases: usize,
    failed: usize,
    bad: Vec<String>,
}

impl Matrix {
    /// `act` tells whether the command succeeded; what it has made then it has deleted, too.
    fn case(&mut self, name: &str, bundle: &Bundle, act: impl FnOnce(&Bundle) -> bool) {
        let before = Census::take(bundle, UID);
        let succeeded = act(bundle);
        self.cases += 1;
        self.failed += usize::from(!succeeded);
        assert!(succeeded || !name.contains("no fault"), "{name}: fails");
        let changes = Census::changes(&before, bundle, UID);
        if !changes.is_empty() {
            self.bad.push(format!("{name} (success: {succeeded}): {changes:#?}"));
        }
    }
}

#[test]
#[ignore = "run by commands_and_their_failures_leave_nothing"]
fn matrix() {
    if !is_apart() {
        skip_expected!("needs namespaces of its own");
    }
    let programs = bpf_programs();
    let mut matrix = Matrix::default();
    for layer in [Layer::Host, Layer::V2] {
        for (name, change, options) in CASES {
            let mut bundle = change(Bundle::new().args(["/probe", "echo", "x"]));
            bundle.layer = layer;
            matrix.case(&format!("create {name} {layer:?}"), &bundle, |bundle| create_to_delete(bundle, options));
            if layer == Layer::Host {
                matrix.case(&format!("run {name} {layer:?}"), &bundle, |bundle| {
                    let succeeded = call_new(bundle, "run", options);
                    drop(fs::remove_file(bundle.pid_file()));
                    succeeded
                });
            }
        }
        console(&mut matrix, layer);
        state_roots(&mut matrix, layer);
        execs(&mut matrix, layer);
    }
    println!("leaks: {} cases, {} of them failures, {} bad", matrix.cases, matrix.failed, matrix.bad.len());
    assert!(matrix.failed * 2 > matrix.cases, "the cases are to fail");
    assert!(matrix.bad.is_empty(), "{}", matrix.bad.join("\n"));
    if let (Some(before), Some(mut left)) = (programs, bpf_programs()) {
        // Those of others, who run at the same time, go with their containers.
        let end = Instant::now() + Duration::from_secs(60);
        left.retain(|id| !before.contains(id));
        while !left.is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
            let now = bpf_programs().unwrap();
            left.retain(|id| now.contains(id));
        }
        assert!(left.is_empty(), "BPF programs are left: {left:?}");
    }
}

/// The options of a case after the usual ones; a `--pid-file` among them is the last and counts.
fn call_new(bundle: &Bundle, command: &str, options: &[&str]) -> bool {
    bundle.write_config();
    let pid_file = bundle.pid_file();
    let mut args = vec![command, "--bundle", bundle.dir.to_str().unwrap()];
    if !options.contains(&"--pid-file") {
        args.extend(["--pid-file", pid_file.to_str().unwrap()]);
    }
    args.extend(options);
    args.push(&bundle.id);
    orderly(bundle.call(args).output())
}

/// Whether it succeeded; an abort or a panic is neither.
fn orderly(out: runtime::Output) -> bool {
    assert!(!out.stderr.contains("panicked at") && out.code() < 129, "{out}");
    out.status.success()
}

/// `create`, and if that succeeds `start` and `delete --force`. True if all of them succeed.
fn create_to_delete(bundle: &Bundle, options: &[&str]) -> bool {
    if !call_new(bundle, "create", options) {
        return false;
    }
    let started = orderly(bundle.command("start"));
    bundle.delete_force().ok();
    drop(fs::remove_file(bundle.pid_file()));
    started
}

/// A receiver that hangs up.
fn console(matrix: &mut Matrix, layer: Layer) {
    let mut bundle = Bundle::new().set("/process/terminal", true);
    bundle.layer = layer;
    let path = bundle.dir.join("console");
    for listens in [true, false] {
        // Where nobody listens any more, connect(2) fails; where nobody accepts, the terminal is left in the queue.
        let listener = UnixListener::bind(&path).unwrap();
        let mut listener = listens.then_some(listener);
        fs::rename(&path, bundle.dir.join("config.json.socket")).unwrap();
        matrix.case(&format!("console: listens {listens} {layer:?}"), &bundle, |bundle| {
            let socket = bundle.dir.join("config.json.socket");
            let succeeded = create_to_delete(bundle, &["--console-socket", socket.to_str().unwrap()]);
            // What was sent to it keeps the terminal, and with it the keys of whoever opened that.
            drop(listener.take());
            succeeded
        });
    }
}

/// A state root that is full at one point or another, one that is read-only, and one that is a file.
fn state_roots(matrix: &mut Matrix, layer: Layer) {
    let mut bundle = Bundle::new().args(["/probe", "echo", "x"]);
    bundle.layer = layer;
    let root = bundle.state_root();
    let mount = |options: &str| {
        let made = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(&root).status();
        assert!(made.unwrap().success());
    };
    for options in
        ["ro", "nr_inodes=1", "nr_inodes=2", "nr_inodes=3", "nr_inodes=4", "nr_inodes=5", "size=4k", "size=8k"]
    {
        mount(options);
        matrix.case(&format!("state root: {options} {layer:?}"), &bundle, |bundle| create_to_delete(bundle, &[]));
        assert!(Command::new("umount").arg(&root).status().unwrap().success());
    }
    fs::remove_dir(&root).unwrap();
    fs::write(&root, "").unwrap();
    matrix.case(&format!("state root: a file {layer:?}"), &bundle, |bundle| call_new(bundle, "create", &[]));
    fs::remove_file(&root).unwrap();
    fs::create_dir(&root).unwrap();
    for limit in [4, 6, 8, 10, 12, 16] {
        matrix.case(&format!("descriptors: {limit} {layer:?}"), &bundle, |bundle| {
            let call = bundle.call_new("create", &[]);
            let bound = libc::rlimit { rlim_cur: limit, rlim_max: limit };
            // SAFETY: one system call on plain data.
            let call = unsafe {
                call.pre_exec(move || {
                    libc::setrlimit(libc::RLIMIT_NOFILE, &raw const bound);
                    Ok(())
                })
            };
            let created = orderly(call.output());
            if created {
                bundle.delete_force().ok();
                fs::remove_file(bundle.pid_file()).unwrap();
            }
            created
        });
    }
}

/// `exec` in a container that runs on.
fn execs(matrix: &mut Matrix, layer: Layer) {
    for user_namespace in [false, true] {
        let mut bundle = Bundle::new().args(["/probe", "wait"]);
        if user_namespace {
            bundle = bundle.userns(0, UID, 1000);
        }
        bundle.layer = layer;
        bundle.create();
        bundle.start();
        bundle.wait_printed(1);
        fs::write(bundle.dir.join("process.json"), "{\"args\": 3}").unwrap();
        let process = bundle.dir.join("process.json").to_str().unwrap().to_string();
        let cases: &[(&[&str], &[&str])] = &[
            (&[], &["/probe", "echo", "x"]),
            (&[], &["/probe", "exit", "7"]),
            (&[], &["/probe", "child-signal", "9"]),
            (&["--tty"], &["/probe", "echo", "x"]),
            (&[], &["/no/such/program"]),
            (&[], &["/tmp"]),
            (&[], &[]),
            (&["--cwd", "/probe"], &["/probe"]),
            (&["--user", "nobody"], &["/probe"]),
            (&["--user", "4000000000"], &["/probe"]),
            (&["--cap", "CAP_SYS_ADMIN"], &["/probe", "echo"]),
            (&["--cap", "CAP_X"], &["/probe"]),
            (&["--process", &process], &[]),
            (&["--process", "/no/such/file"], &[]),
            (&["--cgroup", "../x"], &["/probe"]),
            (&["--preserve-fds", "3"], &["/probe"]),
            (&["--apparmor", "no-such-profile"], &["/probe"]),
            (&["-d", "--pid-file", "/no/such/dir/pid"], &["/probe", "wait"]),
            (&["-d", "--tty", "--console-socket", "/no/such/socket"], &["/probe", "wait"]),
            (&["-d", "--pidfd-socket", "/no/such/socket"], &["/probe", "wait"]),
        ];
        for (options, program) in cases {
            let name = format!("exec {options:?} {program:?}, user namespace {user_namespace}, {layer:?}");
            matrix.case(&name, &bundle, |bundle| {
                let out = bundle.call([&["exec"], *options, &[bundle.id.as_str()], program].concat()).output();
                assert!(!out.stderr.contains("panicked at"), "{out}");
                out.status.success()
            });
        }
        matrix.case(&format!("exec -d that is killed {layer:?}"), &bundle, |bundle| {
            let pid_file = bundle.dir.join("exec.pid");
            let path = pid_file.to_str().unwrap();
            bundle.call(["exec", "-d", "--pid-file", path, &bundle.id, "/probe", "wait"]).output().ok();
            let pid: i32 = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
            // SAFETY: no pointers; this process is the only one that reaps it.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            fs::remove_file(Path::new(&pid_file)).unwrap();
            true
        });
        bundle.delete_force().ok();
    }
}
