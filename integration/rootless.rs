// SPDX-License-Identifier: Apache-2.0
//! orlop called by an ordinary user, and by root of a user namespace. The user exists in a mount namespace of each call
//! only: nothing of the machine is changed.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::host::find_program;
use crate::harness::runtime::program;
use crate::harness::{Bundle, Call, Layer, own_ns};
use crate::orlop_only;

/// A uid and gid that no machine has.
const TESS: u32 = 54_321;
const FIRST: u32 = 7_000_000;

/// Covers files of the machine for one call, in a mount namespace of its own.
pub fn private_files(call: Call, files: &[(&Path, &str)]) -> Call {
    let name = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap();
    let pairs: Vec<(CString, CString)> = files.iter().map(|(from, to)| (name(from), name(Path::new(to)))).collect();
    // SAFETY: the closure makes only system calls, on strings that it owns.
    unsafe { call.pre_exec(move || cover(&pairs)) }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn cover(pairs: &[(CString, CString)]) -> io::Result<()> {
    let none = std::ptr::null();
    // SAFETY: system calls on strings that end with NUL.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, std::ptr::null()))?;
        for (from, to) in pairs {
            check(libc::mount(from.as_ptr(), to.as_ptr(), none, libc::MS_BIND, std::ptr::null()))?;
        }
    }
    Ok(())
}

/// The user, and one of his bundles.
struct Tess {
    bundle: Bundle,
    subids: String,
    path: String,
    groups: Vec<u32>,
    /// The cgroup.procs of the v2 cgroup that he is in; the call sees cgroup2 alone then.
    procs: Option<PathBuf>,
}

impl Tess {
    /// A bundle with a user namespace that belongs to the user with everything in it.
    fn new(map: &Value) -> Self {
        let bundle = Bundle::new().remove("/linux/cgroupsPath").push("/linux/namespaces", json!({"type": "user"}));
        let mut bundle = bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map.clone());
        // A hybrid machine lets nobody but root mount v1 hierarchies; the container has none.
        bundle.layer = Layer::Host;
        // Hard-linked, it would be everybody's.
        let probe = bundle.rootfs().join("probe");
        fs::remove_file(&probe).unwrap();
        copy(Path::new(env!("CARGO_BIN_EXE_probe")), &probe);
        // orlop itself must be in reach of the user.
        copy(&program(), &bundle.dir.join("orlop"));
        fs::set_permissions(bundle.dir.join("orlop"), PermissionsExt::from_mode(0o755)).unwrap();
        Self {
            bundle,
            subids: format!("tess:{FIRST}:65536\n"),
            path: "/usr/sbin:/usr/bin:/sbin:/bin".into(),
            groups: Vec::new(),
            procs: None,
        }
    }

    fn own() -> Self {
        Self::new(&own_only())
    }

    fn change(mut self, change: impl FnOnce(Bundle) -> Bundle) -> Self {
        self.bundle = change(self.bundle);
        self
    }

    fn program(&self) -> PathBuf {
        self.bundle.dir.join("orlop")
    }

    /// A call of orlop by the user.
    fn call(&self, words: &[&str]) -> Call {
        let dir = &self.bundle.dir;
        self.bundle.write_config();
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        fs::write(dir.join("passwd"), format!("{passwd}tess:x:{TESS}:{TESS}::/:/bin/sh\n")).unwrap();
        fs::write(dir.join("subid"), &self.subids).unwrap();
        own_by(dir, TESS);
        let subid = dir.join("subid");
        let layer = if self.procs.is_some() { Layer::V2 } else { Layer::Host };
        let call = Call::new(&self.program(), dir, layer).env("ORLOP_IT", &self.bundle.id).env("PATH", &self.path);
        let call = call.env("XDG_RUNTIME_DIR", dir.to_str().unwrap());
        let call = call.args(["--root", self.bundle.state_root().to_str().unwrap()]).args(words);
        let covers = [(dir.join("passwd"), "/etc/passwd"), (subid.clone(), "/etc/subuid"), (subid, "/etc/subgid")];
        let covers: Vec<(&Path, &str)> = covers.iter().map(|(from, to)| (from.as_path(), *to)).collect();
        let groups = self.groups.clone();
        let procs = self.procs.as_ref().map(|procs| fs::File::options().write(true).open(procs).unwrap());
        // SAFETY: the closure makes only system calls.
        unsafe {
            private_files(call, &covers).pre_exec(move || {
                if let Some(procs) = &procs {
                    io::Write::write_all(&mut &*procs, b"0")?;
                }
                become_tess(&groups)
            })
        }
    }

    fn new_container(&self, command: &str, options: &[&str]) -> Call {
        let (dir, pid) = (self.bundle.dir.to_str().unwrap(), self.bundle.pid_file());
        let mut words = options.to_vec();
        words.extend([command, "--bundle", dir, "--pid-file", pid.to_str().unwrap(), &self.bundle.id]);
        self.call(&words)
    }

    #[track_caller]
    fn run(&self) -> crate::harness::Output {
        self.new_container("run", &[]).output()
    }
}

/// By another process: a fork of a test beside this one would hold a program open for writing that is to be executed.
fn copy(from: &Path, to: &Path) {
    assert!(std::process::Command::new("cp").arg(from).arg(to).status().unwrap().success());
}

fn become_tess(groups: &[u32]) -> io::Result<()> {
    // SAFETY: system calls on a slice that lives through them. The raw ones: libc's would signal other threads.
    unsafe {
        let call = |result: libc::c_long| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        call(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        call(libc::syscall(libc::SYS_setresgid, TESS, TESS, TESS))?;
        call(libc::syscall(libc::SYS_setresuid, TESS, TESS, TESS))
    }
}

/// Gives all of the tree that is root's to `uid`.
fn own_by(path: &Path, uid: u32) {
    let found = fs::symlink_metadata(path).unwrap();
    if found.uid() == 0 && found.nlink() < 2 || found.is_dir() {
        lchown(path, Some(uid), Some(uid)).unwrap();
    }
    if found.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| own_by(&entry.unwrap().path(), uid));
    }
}

fn range(container: u32, host: u32, size: u32) -> Value {
    json!({"containerID": container, "hostID": host, "size": size})
}

fn own_only() -> Value {
    json!([range(0, TESS, 1)])
}

fn with_ranges() -> Value {
    json!([range(0, TESS, 1), range(1, FIRST, 65_536)])
}

macro_rules! needs_newuidmap {
    () => {
        orlop_only!("is called as an ordinary user here");
        if find_program("newuidmap").is_none() {
            crate::skip!("newuidmap is not installed (package uidmap)");
        }
    };
}

#[test]
fn his_own_id_alone_needs_nobody_s_help() {
    orlop_only!("is called as an ordinary user here");
    let mut tess = Tess::own().change(|b| b.args(["/probe", "write", "/tmp/new", "x", ",", "report"]));
    tess.path = "/nowhere".into();
    tess.groups = vec![54_322];
    let out = tess.run().ok();
    let seen = &out.jsons()[1];
    assert_eq!(seen["uid_map"], json!([[0, TESS, 1]]));
    assert_eq!(seen["gid_map"], json!([[0, TESS, 1]]));
    assert_eq!(seen["setgroups"], "deny");
    assert_eq!((&seen["uid"][1], &seen["gid"][1]), (&json!(0), &json!(0)));
    assert_eq!(seen["caps"]["effective"], "0000000020000420");
    assert_eq!(seen["dev"]["null"]["rdev"], "1:3");
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        assert_ne!(seen["ns"][kind], own_ns(kind).as_str(), "{kind}");
    }
    let made = fs::metadata(tess.bundle.rootfs().join("tmp/new")).unwrap();
    assert_eq!((made.uid(), made.gid()), (TESS, TESS));
    tess.bundle.check_clean();
}

#[test]
fn a_life_with_subordinate_ids() {
    needs_newuidmap!();
    let args = ["/probe", "write", "/tmp/root", "x", ",", "wait"];
    let tess = Tess::new(&with_ranges()).change(|b| {
        b.args(args).set("/process/oomScoreAdj", 300).set("/process/user/additionalGids", json!([7])).mount(
            "/mnt",
            "bind",
            "volume",
            &["rbind", "ro"],
        )
    });
    fs::create_dir(tess.bundle.dir.join("volume")).unwrap();
    fs::write(tess.bundle.dir.join("volume/file"), "data").unwrap();
    let id = tess.bundle.id.as_str();
    let running = tess.new_container("create", &[]).start();
    let printed = running.stdout_path().to_path_buf();
    running.output().ok();
    assert_eq!(tess.call(&["state", id]).output().json()["status"], "created");
    tess.call(&["start", id]).output().ok();
    crate::harness::eventually("the program runs", || fs::read_to_string(&printed).unwrap().contains("ready"));
    assert_eq!(fs::metadata(tess.bundle.rootfs().join("tmp/root")).unwrap().uid(), TESS);

    let report = tess.call(&["exec", id, "/probe"]).output().json();
    assert_eq!(report["uid_map"], json!([[0, TESS, 1], [1, FIRST, 65_536]]));
    assert_eq!((&report["uid"][1], &report["groups"]), (&json!(0), &json!([7])));
    assert_eq!(report["oom_score_adj"], "300");
    // As another user, whose files are those of a mapped id outside.
    fs::set_permissions(tess.bundle.rootfs().join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
    let words = ["exec", "--user", "1000:1000", id, "/probe", "write", "/tmp/user", "x", ",", "read", "/mnt/file"];
    let out = tess.call(&words).output().ok();
    assert_eq!(out.jsons()[1]["content"], "data");
    assert_eq!(fs::metadata(tess.bundle.rootfs().join("tmp/user")).unwrap().uid(), FIRST + 999);
    let out = tess.call(&["exec", id, "/probe", "write", "/mnt/file", "x"]).output();
    assert_eq!(out.json()["errno"], libc::EROFS);

    let namespaces = |pid: i32| {
        ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"]
            .map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap())
    };
    let pid_file = tess.bundle.dir.join("exec-pid");
    let words = ["exec", "--detach", "--pid-file", pid_file.to_str().unwrap(), id, "/probe", "sleep", "100"];
    tess.call(&words).output().ok();
    let second: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    assert_eq!(namespaces(second), namespaces(tess.bundle.pid()));
    let listed: Vec<i32> = serde_json::from_value(tess.call(&["ps", "--format", "json", id]).output().json()).unwrap();
    assert!(listed.contains(&second) && listed.contains(&tess.bundle.pid()), "{listed:?}");

    let list = tess.call(&["list"]).output().ok();
    assert!(list.stdout.contains("tess") && list.stdout.contains("running"), "{list}");
    tess.call(&["delete", id]).output().fails_with(&["not stopped"]);
    tess.call(&["kill", id, "KILL"]).output().ok();
    crate::harness::eventually("it has stopped", || tess.call(&["state", id]).output().json()["status"] == "stopped");
    tess.call(&["delete", id]).output().ok();
    tess.bundle.check_clean();
}

#[test]
fn exec_before_start_says_why_not() {
    orlop_only!("is called as an ordinary user here");
    let tess = Tess::own();
    tess.new_container("create", &[]).output().ok();
    let id = tess.bundle.id.as_str();
    tess.call(&["exec", id, "/probe"]).output().fails_with(&["EPERM", "not before orlop start"]);
    tess.call(&["delete", "--force", id]).output().ok();
}

#[test]
fn the_usual_mounts_work() {
    needs_newuidmap!();
    let tess = Tess::new(&with_ranges()).change(|b| {
        b.mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
            .mount("/dev/shm", "tmpfs", "shm", &["nosuid", "mode=1777"])
            .mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid"])
            .mount("/run", "tmpfs", "tmpfs", &["ro"])
            .set("/linux/maskedPaths", json!(["/proc/kcore", "/proc/timer_list", "/proc/acpi"]))
            .set("/linux/readonlyPaths", json!(["/proc/sys"]))
            .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}))
            .set("/root/readonly", true)
            .set("/hostname", "tess")
            .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}]))
    });
    let seen = tess.run().json();
    for (dest, fstype) in [("/sys", "sysfs"), ("/dev/shm", "tmpfs"), ("/dev/mqueue", "mqueue"), ("/dev/pts", "devpts")]
    {
        assert_eq!(crate::harness::mount_at(&seen, dest)["fstype"], fstype, "{dest}");
    }
    assert_eq!(seen["rlimits"]["RLIMIT_NOFILE"], json!([64, 128]));
    tess.bundle.check_clean();
}

#[test]
fn a_terminal_and_hooks() {
    needs_newuidmap!();
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", "id -u >&2; exit 3"]}]);
    let tess = Tess::new(&with_ranges()).change(|b| b.set("/hooks/createRuntime", hook));
    tess.run().fails_with(&["createRuntime hook #0", "exit status 3", &TESS.to_string()]);
    tess.bundle.check_clean();
}

#[test]
fn what_he_may_not_map_is_named_before_anything_exists() {
    needs_newuidmap!();
    // No entry at all, one for another user, and a range that is only partly his.
    for subids in ["", "alice:7000000:65536\n"] {
        let mut tess = Tess::new(&with_ranges());
        tess.subids = subids.into();
        tess.run().fails_with(&[
            "linux.uidMappings[1]",
            "7000000 to 7065535",
            "tess has none",
            "/etc/subuid",
            "the line tess:7000000:65536",
        ]);
        tess.bundle.check_clean();
    }
    let mut tess = Tess::new(&with_ranges());
    tess.subids = "tess:7000000:1000\n".into();
    tess.run().fails_with(&["linux.uidMappings[1]", "tess has 7000000 to 7000999"]);
    tess.bundle.check_clean();
    // By number the entry is as good.
    let mut tess = Tess::new(&with_ranges());
    tess.subids = format!("{TESS}:{FIRST}:65536\n");
    tess.run().ok();
    // Somebody else's id.
    let tess = Tess::new(&json!([range(0, 0, 1)]));
    tess.run().fails_with(&["linux.uidMappings[0]", "0 to 0 are not ids that tess may map"]);
    tess.bundle.check_clean();
}

#[test]
fn a_missing_or_powerless_newuidmap_is_named() {
    orlop_only!("is called as an ordinary user here");
    let mut tess = Tess::new(&with_ranges());
    tess.path = "/nowhere".into();
    tess.run().fails_with(&["linux.uidMappings", "newuidmap is not on PATH", "package uidmap"]);
    tess.bundle.check_clean();
    // One that fails: what it says is part of the error.
    let mut tess = Tess::new(&with_ranges());
    let bin = tess.bundle.dir.join("bin");
    fs::create_dir(&bin).unwrap();
    for name in ["newuidmap", "newgidmap"] {
        fs::write(bin.join(name), "#!/bin/sh\necho no such luck >&2\nexit 7\n").unwrap();
        fs::set_permissions(bin.join(name), PermissionsExt::from_mode(0o755)).unwrap();
    }
    tess.path = format!("{}:/usr/bin:/bin", bin.display());
    tess.run().fails_with(&["linux.gidMappings", "newgidmap", "no such luck", "set-user-ID"]);
    tess.bundle.check_clean();
}

#[test]
fn what_needs_root_is_refused_by_name() {
    orlop_only!("is called as an ordinary user here");
    let tess = Tess::own().change(|b| b.without_ns("user").remove("/linux/uidMappings").remove("/linux/gidMappings"));
    tess.run().fails_with(&["linux.namespaces", "an ordinary user", "\"user\"", "orlop spec --rootless"]);
    let tess = Tess::own().change(|b| b.set("/process/user/additionalGids", json!([5])));
    tess.run().fails_with(&["process.user.additionalGids"]);
    let tess = Tess::own().change(|b| b.set("/process/oomScoreAdj", -900));
    tess.run().fails_with(&["process.oomScoreAdj", "CAP_SYS_RESOURCE"]);
    tess.bundle.check_clean();
    let tess = Tess::own().change(|b| b.mount("/mnt", "bind", "/tmp", &["bind", "idmap"]));
    tess.run().fails_with(&["mounts[3].options[1]", "an ordinary user cannot idmap"]);
    let notify = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/nowhere.sock",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
    let tess = Tess::own().change(|b| b.set("/linux/seccomp", notify));
    tess.run().fails_with(&["linux.seccomp.listenerPath", "an ordinary user"]);
    let tess = Tess::own().change(|b| b.join_ns("network", "/proc/1/ns/net"));
    tess.run().fails_with(&["linux.namespaces", "network namespace /proc/1/ns/net"]);
    let tess = Tess::own();
    let dir = tess.bundle.dir.to_str().unwrap();
    let out = tess.call(&["run", "--userns=auto", "--bundle", dir, &tess.bundle.id]).output();
    out.fails_with(&["--userns=auto"]);
    tess.bundle.check_clean();
}

#[test]
fn a_cgroup_that_he_may_not_make() {
    orlop_only!("is called as an ordinary user here");
    let path = |b: Bundle| {
        let path = format!("/{}", b.id);
        b.set("/linux/cgroupsPath", path)
    };
    // Asked for by name, or by a limit: an error, unless --rootless=true.
    let tess = Tess::own().change(path);
    tess.run().fails_with(&["cgroup", "EACCES"]);
    tess.bundle.check_clean();
    let out = tess.new_container("run", &["--rootless=true"]).output().ok();
    assert_eq!(out.json()["uid"][1], 0);
    tess.bundle.check_clean();
    let tess = Tess::own().change(|b| b.set("/linux/resources/pids/limit", 100));
    tess.run().fails_with(&["cgroup", "EACCES"]);
    let out = tess.new_container("run", &["--rootless=true"]).output().ok();
    assert!(out.stderr.contains("no limit holds"), "{out}");
    // Not asked for: done without, unless --rootless=false.
    let tess = Tess::own();
    tess.new_container("run", &["--rootless=false"]).output().fails_with(&["cgroup", "EACCES"]);
    tess.bundle.check_clean();
}

#[test]
fn the_state_root_of_a_user() {
    orlop_only!("is called as an ordinary user here");
    let tess = Tess::own();
    let xdg = tess.bundle.dir.join("xdg");
    fs::create_dir(&xdg).unwrap();
    own_by(&tess.bundle.dir, TESS);
    let call = |xdg: &str| {
        let call = Call::new(&tess.program(), &tess.bundle.dir, Layer::Host).env("XDG_RUNTIME_DIR", xdg).args(["list"]);
        // SAFETY: the closure makes only system calls.
        unsafe { call.pre_exec(|| become_tess(&[])) }
    };
    call(xdg.to_str().unwrap()).output().ok();
    call("").output().fails_with(&["XDG_RUNTIME_DIR is not set", "--root"]);
}

/// As the containers of a pod do.
#[test]
fn a_second_container_in_the_user_namespace_of_the_first() {
    needs_newuidmap!();
    let first = Tess::new(&with_ranges()).change(|b| b.args(["/probe", "wait"]));
    first.new_container("create", &[]).output().ok();
    let id = first.bundle.id.as_str();
    first.call(&["start", id]).output().ok();
    let pid = first.bundle.pid();
    let second = Tess::own().change(|b| {
        ["user", "network", "ipc", "pid"]
            .into_iter()
            .zip(["user", "net", "ipc", "pid"])
            .fold(b, |b, (kind, file)| b.join_ns(kind, &format!("/proc/{pid}/ns/{file}")))
            .remove("/linux/uidMappings")
            .remove("/linux/gidMappings")
    });
    let seen = second.run().json();
    assert_eq!(seen["uid_map"], json!([[0, TESS, 1], [1, FIRST, 65_536]]));
    for kind in ["user", "net", "ipc", "pid"] {
        let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_eq!(seen["ns"][kind], link.to_str().unwrap(), "{kind}");
    }
    first.call(&["delete", "--force", id]).output().ok();
}

/// A cgroup v2 that the administrator, or systemd, has given to the user.
#[test]
fn a_cgroup_that_is_delegated_to_him() {
    orlop_only!("is called as an ordinary user here");
    let Some(root) = crate::harness::host::v2_root() else { crate::skip!("there is no cgroup2") };
    let tess = Tess::own().change(|b| b.args(["/probe", "wait"]));
    let id = tess.bundle.id.clone();
    let dir = root.join(format!("{id}-user"));
    for cgroup in [dir.clone(), dir.join("own")] {
        fs::create_dir(&cgroup).unwrap();
        for path in [cgroup.clone(), cgroup.join("cgroup.procs"), cgroup.join("cgroup.subtree_control")] {
            chown(path, Some(TESS), Some(TESS)).unwrap();
        }
    }
    let inside = dir.join("container");
    let mut tess = tess.change(|b| b.set("/linux/cgroupsPath", format!("/{id}-user/container")));
    tess.procs = Some(dir.join("own/cgroup.procs"));
    tess.new_container("create", &[]).output().ok();
    tess.call(&["start", &id]).output().ok();
    let procs = fs::read_to_string(inside.join("cgroup.procs")).unwrap();
    assert_eq!(procs.trim(), tess.bundle.pid().to_string());
    let out = tess.call(&["exec", &id, "/probe"]).output().json();
    assert_eq!(out["cgroup"].as_array().unwrap().last().unwrap(), "0::/");
    let listed = tess.call(&["ps", "--format", "json", &id]).output().json();
    assert_eq!(listed, json!([tess.bundle.pid()]));
    tess.call(&["delete", "--force", &id]).output().ok();
    assert!(!inside.exists());
    tess.bundle.check_clean();
    fs::remove_dir(dir.join("own")).unwrap();
    fs::remove_dir(dir).unwrap();
}

/// Root of a user namespace: with a mount namespace that belongs to it, or without.
#[test]
fn root_of_a_user_namespace() {
    orlop_only!("is called in a user namespace here");
    let Some(unshare) = find_program("unshare") else { crate::skip!("unshare is not installed") };
    for flags in [&["-Urm"][..], &["-Ur"]] {
        let tess = Tess::own();
        let mut bundle = tess.bundle.without_ns("user").remove("/linux/uidMappings").remove("/linux/gidMappings");
        bundle = bundle.args(["/probe", "write", "/tmp/new", "x", ",", "report"]);
        bundle.write_config();
        own_by(&bundle.dir, TESS);
        let dir = bundle.dir.to_str().unwrap();
        let call = Call::new(&unshare, &bundle.dir, Layer::Host).env("ORLOP_IT", &bundle.id).args(flags);
        let call =
            call.args([bundle.dir.join("orlop").to_str().unwrap(), "--root", bundle.state_root().to_str().unwrap()]);
        let call = call.args(["run", "--bundle", dir, &bundle.id]);
        // SAFETY: the closure makes only system calls.
        let out = unsafe { call.pre_exec(|| become_tess(&[54_322])) }.output().ok();
        assert_eq!(out.jsons()[1]["uid_map"], json!([[0, TESS, 1]]), "{flags:?}");
        assert_eq!(fs::metadata(bundle.rootfs().join("tmp/new")).unwrap().uid(), TESS);
        bundle.check_clean();
    }
}

/// orlop in a container of orlop's that has a range of ids: a container with a user namespace of its own in it.
#[test]
fn a_container_in_a_container() {
    needs_newuidmap!();
    let caps: Vec<String> = ["SYS_ADMIN", "SETUID", "SETGID", "SETPCAP", "NET_ADMIN", "KILL", "CHOWN", "DAC_OVERRIDE"]
        .iter()
        .chain(&["NET_BIND_SERVICE", "AUDIT_WRITE", "SYS_CHROOT", "SYS_PTRACE"])
        .map(|name| format!("CAP_{name}"))
        .collect();
    let inner = Bundle::new().remove("/linux/cgroupsPath").push("/linux/namespaces", json!({"type": "user"}));
    let map = json!([range(0, 1000, 500)]);
    let inner = inner.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    // proc and devpts only: a cgroup or sysfs of the inner one needs the outer one's to be in full view.
    let inner = inner.set("/root/path", "/").without_ns("cgroup");
    let words = ["/orlop", "--root", "/run/state", "run", "--bundle", "/inner", "inner"];
    let tess = Tess::new(&with_ranges()).change(|b| {
        let sets = json!({"bounding": caps, "permitted": caps, "effective": caps});
        let mut exec = vec!["/probe", "exec"];
        exec.extend(words);
        b.args(exec).set("/process/capabilities", sets).set("/process/noNewPrivileges", false)
    });
    let rootfs = tess.bundle.rootfs();
    copy(&program(), &rootfs.join("orlop"));
    fs::create_dir(rootfs.join("inner")).unwrap();
    fs::write(rootfs.join("inner/config.json"), inner.config.to_string()).unwrap();
    let seen = tess.run().json();
    assert_eq!(seen["uid_map"], json!([[0, 1000, 500]]));
    assert_eq!(seen["uid"][1], 0);
    tess.bundle.check_clean();
    let made = rootfs.join("run/state");
    drop(fs::remove_dir_all(made));
    chown(&rootfs, Some(0), Some(0)).unwrap();
}

#[test]
fn check_and_audit_serve_an_ordinary_user() {
    orlop_only!("is called as an ordinary user here");
    let tess = Tess::own().change(|b| b.args(["/probe", "wait"]));
    let dir = tess.bundle.dir.to_str().unwrap();
    let out = tess.call(&["check", dir]).output().ok();
    assert_eq!(out.stdout, "0 errors, 0 warnings\n", "{out}");
    tess.new_container("create", &[]).output().ok();
    tess.call(&["start", &tess.bundle.id]).output().ok();
    let running = || tess.call(&["state", &tess.bundle.id]).output().json()["status"] == "running";
    crate::harness::eventually("the program runs", running);
    let out = tess.call(&["audit", &tess.bundle.id]).output().ok();
    assert!(out.stdout.contains(": no drift, "), "{out}");
    tess.call(&["delete", "--force", &tess.bundle.id]).output().ok();
}

#[test]
fn check_names_ids_that_the_user_may_not_map() {
    needs_newuidmap!();
    let tess = Tess::new(&json!([range(0, TESS, 1), range(1, 999, 10)]));
    let out = tess.call(&["check", tess.bundle.dir.to_str().unwrap()]).output();
    assert_eq!(out.code(), 1, "{out}");
    for field in ["linux.uidMappings[1]: 999 to 1008", "linux.gidMappings[1]: 999 to 1008"] {
        assert!(out.stdout.contains(field), "{field}: {out}");
    }
    assert!(out.stdout.ends_with("2 errors, 0 warnings\n"), "{out}");
}
