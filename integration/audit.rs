// SPDX-License-Identifier: Apache-2.0
//! `orlop audit`: a healthy container is as it was asked for, and what is changed from outside or by the payload shows.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use orlop::sys::bpf;
use serde_json::{Value, json};

use crate::harness::{Bundle, Output, eventually, host};
use crate::orlop_only;

/// A container whose program runs and waits.
fn running(bundle: Bundle) -> Bundle {
    let bundle = bundle.args(["/probe", "wait"]);
    bundle.create();
    bundle.start();
    eventually("the program runs", || bundle.state()["status"] == "running");
    bundle
}

fn audit(bundle: &Bundle) -> Output {
    bundle.command("audit")
}

/// What `audit --format json` says has drifted: `path: asked, now`.
fn drift(bundle: &Bundle) -> Vec<String> {
    let out = bundle.call(["audit", "--format", "json", &bundle.id]).output();
    assert_eq!(out.code(), 2, "{out}");
    let report: Value = serde_json::from_str(&out.stdout).unwrap();
    let word = |drift: &Value, name: &str| drift[name].as_str().unwrap().to_string();
    let line = |d: &Value| format!("{}: {}, {}", word(d, "path"), word(d, "asked"), word(d, "now"));
    report["drift"].as_array().unwrap().iter().map(line).collect()
}

#[test]
fn a_healthy_container_has_not_drifted() {
    orlop_only!("has audit");
    for text in [
        include_str!("bundles/default.json"),
        include_str!("bundles/docker.json"),
        include_str!("bundles/docker-nnp.json"),
        include_str!("bundles/userns.json"),
        include_str!("bundles/minimal.json"),
    ] {
        for bundle in [Bundle::new(), Bundle::v2()] {
            let bundle = running(bundle.with_config(text));
            let out = audit(&bundle).ok();
            assert!(out.stdout.contains(": no drift, "), "{out}");
            assert!(!out.stdout.contains("note:"), "{out}");
        }
    }
}

#[test]
fn a_container_of_many_wishes_has_not_drifted() {
    orlop_only!("has audit");
    for bundle in [Bundle::new(), Bundle::v2()] {
        let data = bundle.canary();
        let bundle = bundle
            .set("/hostname", "audited")
            .set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [7, 5, 1002]}))
            .set("/process/oomScoreAdj", 100)
            .set(
                "/process/rlimits",
                json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                                            {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]),
            )
            .set("/linux/maskedPaths", json!(["/proc/kcore", "/proc/keys", "/nowhere", "/mnt"]))
            .set("/linux/readonlyPaths", json!(["/proc/sys", "/run"]))
            .set("/root/readonly", true)
            .mount("/tmp", "tmpfs", "tmpfs", &["nosuid", "nodev", "noexec", "size=1m"])
            .mount("/data", "", data.to_str().unwrap(), &["rbind", "ro", "nodev", "rnosuid"])
            .mount("/tmp", "", data.to_str().unwrap(), &["bind", "rw"])
            .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]);
        let bundle = running(bundle.dir_in_rootfs("/data", 0o755).dir_in_rootfs("/sys/fs/cgroup", 0o755));
        let out = audit(&bundle).ok();
        assert!(out.stdout.contains(": no drift, "), "{out}");
    }
}

#[test]
fn a_container_that_joins_and_inherits_namespaces_has_not_drifted() {
    orlop_only!("has audit");
    let own = format!("/proc/{}/ns/ipc", std::process::id());
    let bundle = Bundle::new().without_ns("network").without_ns("cgroup").join_ns("ipc", &own);
    audit(&running(bundle)).ok();
}

#[test]
fn a_created_container_is_compared_as_far_as_it_goes() {
    orlop_only!("has audit");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    let out = audit(&bundle).ok();
    assert!(out.stdout.contains("note: the program has not been started"), "{out}");
    bundle.kill("KILL").ok();
    bundle.wait_stopped();
    audit(&bundle).fails_with(&["audit", "stopped"]);
    bundle.delete().ok();
    audit(&bundle).fails_with(&["does not exist"]);
}

#[test]
fn changed_limits_show() {
    orlop_only!("has audit");
    if host::is_v2() {
        crate::skip_expected!("no v1 hierarchies in this layer");
    }
    let resources = json!({"pids": {"limit": 100}, "memory": {"limit": 67_108_865}});
    let bundle = running(Bundle::new().set("/linux/resources", resources));
    audit(&bundle).ok();
    let hierarchy = |name: &str| -> PathBuf {
        let (_, path) = host::v1_hierarchies().into_iter().find(|(controller, _)| controller == name).unwrap();
        path.join(&bundle.id)
    };
    fs::write(hierarchy("pids").join("pids.max"), "max").unwrap();
    fs::write(hierarchy("memory").join("memory.limit_in_bytes"), "134217728").unwrap();
    fs::write(hierarchy("devices").join("devices.allow"), "b 7:* rwm").unwrap();
    let mut found = drift(&bundle);
    found.sort();
    assert_eq!(
        found,
        [
            "linux.resources.devices: nothing else, b 7:* rwm",
            "linux.resources.memory.limit: 67108865, 134217728",
            "linux.resources.pids.limit: 100, max",
        ]
    );
    let out = audit(&bundle);
    assert!(out.stdout.contains("/pids.max: linux.resources.pids.limit\n  asked: 100\n  now:   max\n"), "{out}");
    assert!(out.stdout.contains(": 3 of "), "{out}");
}

/// BPF_PROG_DETACH of linux/bpf.h.
fn detach(cgroup: &impl AsRawFd, program: &impl AsRawFd) {
    let attributes = [cgroup.as_raw_fd(), program.as_raw_fd(), 6, 0];
    // SAFETY: the first 16 bytes of union bpf_attr, which the kernel reads.
    let value = unsafe { libc::syscall(libc::SYS_bpf, 9, attributes.as_ptr(), size_of_val(&attributes)) };
    assert_eq!(value, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_device_program_that_is_gone_or_replaced_shows() {
    orlop_only!("has audit");
    let bundle = running(Bundle::v2());
    audit(&bundle).ok();
    let cgroup = fs::File::open(host::v2_root().unwrap().join(&bundle.id)).unwrap();
    let ids = bpf::attached_device_programs(cgroup.as_fd()).unwrap();
    assert_eq!(ids.len(), 1);
    let program = bpf::program_by_id(ids[0]).unwrap();
    let tag = |program: &std::os::fd::OwnedFd| {
        bpf::program_tag(program.as_fd()).unwrap().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    detach(&cgroup, &program);
    assert_eq!(drift(&bundle), [format!("linux.resources.devices: {}, none", tag(&program))]);
    // Allows everything: r0 = 1; exit.
    let other = bpf::load_device_program(&[[0xb7, 0, 0, 0, 1, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]]).unwrap();
    bpf::attach_device_program(other.as_fd(), cgroup.as_fd(), None).unwrap();
    assert_eq!(drift(&bundle), [format!("linux.resources.devices: {}, {}", tag(&program), tag(&other))]);
    detach(&cgroup, &other);
    bpf::attach_device_program(program.as_fd(), cgroup.as_fd(), None).unwrap();
    audit(&bundle).ok();
}

#[test]
fn changes_of_the_process_and_its_mounts_show() {
    orlop_only!("has audit");
    let bundle = Bundle::new()
        .set("/process/oomScoreAdj", 100)
        .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]))
        .set("/linux/maskedPaths", json!(["/run"]))
        .mount("/mnt", "tmpfs", "tmpfs", &["nosuid", "nodev", "ro"])
        .mount("/tmp", "tmpfs", "tmpfs", &["nosuid", "nodev"])
        .mount("/tmp", "tmpfs", "tmpfs", &["remount", "suid", "noexec"]);
    let bundle = running(bundle.set("/hostname", "audited"));
    audit(&bundle).ok();
    let pid = bundle.pid();
    fs::write(format!("/proc/{pid}/oom_score_adj"), "200").unwrap();
    let limit = libc::rlimit64 { rlim_cur: 50, rlim_max: 200 };
    // SAFETY: limit is a valid rlimit64, and the old one is not asked for.
    assert_eq!(unsafe { libc::prlimit64(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) }, 0);
    // As an administrator with nsenter(1) would, whose programs are not in the container's root.
    // SAFETY: pidfd_open takes no pointers.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let mut inside = std::process::Command::new("/nothing/to/execute");
    // SAFETY: the closure makes only system calls, on constants.
    unsafe { inside.pre_exec(move || change_inside(libc::c_int::try_from(pidfd).unwrap_or(-1))) };
    assert_eq!(inside.spawn().unwrap_err().raw_os_error(), Some(libc::EALREADY), "not all changes were made");
    let mut found = drift(&bundle);
    found.sort();
    assert_eq!(
        found,
        [
            "hostname: audited, other",
            "linux.maskedPaths[0]: masked, in view",
            "mounts[3]: tmpfs ro nosuid nodev, tmpfs nosuid nodev",
            "mounts[4]: tmpfs nodev noexec, tmpfs noexec",
            "process.oomScoreAdj: 100, 200",
            "process.rlimits[0]: 100 200, 50 200",
        ]
    );
}

fn change_inside(pidfd: libc::c_int) -> std::io::Result<()> {
    let check = |value| if value < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) };
    let none = std::ptr::null();
    let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_NOSUID | libc::MS_NODEV;
    // SAFETY: system calls on constant strings.
    unsafe {
        check(libc::setns(pidfd, libc::CLONE_NEWNS | libc::CLONE_NEWUTS))?;
        check(libc::umount2(c"/run".as_ptr(), libc::MNT_DETACH))?;
        check(libc::mount(none, c"/mnt".as_ptr(), none, flags, std::ptr::null()))?;
        let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_NOEXEC;
        check(libc::mount(none, c"/tmp".as_ptr(), none, flags, std::ptr::null()))?;
        check(libc::sethostname(c"other".as_ptr(), 5))?;
    }
    // There is nothing to execute.
    Err(std::io::Error::from_raw_os_error(libc::EALREADY))
}
