// SPDX-License-Identifier: Apache-2.0
//! What a process can see of its own confinement. What cannot be read is `null`: a container without /proc is one of
//! the cases to look at.

use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Map, Value, json};

/// The whole report.
pub fn all() -> Value {
    let status = fs::read_to_string("/proc/self/status").ok();
    let field = |name: &str| -> Value {
        let text = status.as_deref().unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')));
        line.map_or(Value::Null, |l| json!(l.trim()))
    };
    let number = |name: &str| field(name).as_str().and_then(|s| s.parse::<i64>().ok()).map_or(Value::Null, Value::from);
    let numbers = |name: &str| -> Value {
        let value = field(name);
        value.as_str().map_or(Value::Null, |s| s.split_whitespace().filter_map(|w| w.parse::<i64>().ok()).collect())
    };
    let mut report = json!({
        "uid": numbers("Uid"), "gid": numbers("Gid"), "groups": numbers("Groups"), "umask": field("Umask"),
        "caps": {"inheritable": field("CapInh"), "permitted": field("CapPrm"), "effective": field("CapEff"),
                 "bounding": field("CapBnd"), "ambient": field("CapAmb")},
        "no_new_privs": number("NoNewPrivs"), "seccomp": number("Seccomp"),
        "seccomp_filters": number("Seccomp_filters"), "threads": number("Threads"),
        "sigblk": field("SigBlk"), "sigign": field("SigIgn"), "sigcgt": field("SigCgt"), "sigpnd": field("SigPnd"),
        "cpus": field("Cpus_allowed_list"),
        "uid_map": id_map("/proc/self/uid_map"), "gid_map": id_map("/proc/self/gid_map"),
        "setgroups": text("/proc/self/setgroups"), "oom_score_adj": text("/proc/self/oom_score_adj"),
        "cgroup": text("/proc/self/cgroup").as_str().map(|t| t.lines().map(Value::from).collect::<Vec<_>>()),
        "ns": namespaces(), "mounts": mounts(), "rlimits": rlimits(), "fds": descriptors(),
        "env": std::env::vars_os().map(|(k, v)| format!("{}={}", k.to_string_lossy(), v.to_string_lossy()))
            .collect::<Vec<_>>(),
        "args": std::env::args().collect::<Vec<_>>(),
        "cwd": std::env::current_dir().map(|p| p.display().to_string()).ok(),
        "timens": text("/proc/self/timens_offsets"), "dev": directory("/dev"),
        "ids_by_call": ids_by_call(),
    });
    let more = report.as_object_mut().unwrap();
    names(more);
    session(more);
    report
}

fn text(path: &str) -> Value {
    fs::read_to_string(path).map_or(Value::Null, |t| json!(t.trim_end()))
}

fn id_map(path: &str) -> Value {
    let Ok(text) = fs::read_to_string(path) else { return Value::Null };
    text.lines().map(|l| l.split_whitespace().map(|w| w.parse::<i64>().unwrap()).collect::<Vec<_>>()).collect()
}

fn namespaces() -> Value {
    let mut all = Map::new();
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
        let link = fs::read_link(Path::new("/proc/self/ns").join(kind));
        all.insert(kind.into(), link.map_or(Value::Null, |l| json!(l.display().to_string())));
    }
    Value::Object(all)
}

/// mountinfo, parsed: `id parent dev root dest options [propagation..] - fstype source super`.
fn mounts() -> Value {
    let Ok(text) = fs::read_to_string("/proc/self/mountinfo") else { return Value::Null };
    let words = |s: &str| s.split(',').map(String::from).collect::<Vec<_>>();
    text.lines()
        .map(|line| {
            let (left, right) = line.split_once(" - ").unwrap();
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.splitn(3, ' ').collect();
            json!({"id": left[0], "parent": left[1], "dev": left[2], "root": left[3], "dest": left[4],
                "options": words(left[5]), "propagation": &left[6..], "fstype": right[0], "source": right[1],
                "super": words(right.get(2).copied().unwrap_or(""))})
        })
        .collect()
}

fn rlimits() -> Value {
    let kinds = [
        ("AS", libc::RLIMIT_AS),
        ("CORE", libc::RLIMIT_CORE),
        ("CPU", libc::RLIMIT_CPU),
        ("DATA", libc::RLIMIT_DATA),
        ("FSIZE", libc::RLIMIT_FSIZE),
        ("LOCKS", libc::RLIMIT_LOCKS),
        ("MEMLOCK", libc::RLIMIT_MEMLOCK),
        ("MSGQUEUE", libc::RLIMIT_MSGQUEUE),
        ("NICE", libc::RLIMIT_NICE),
        ("NOFILE", libc::RLIMIT_NOFILE),
        ("NPROC", libc::RLIMIT_NPROC),
        ("RSS", libc::RLIMIT_RSS),
        ("RTPRIO", libc::RLIMIT_RTPRIO),
        ("RTTIME", libc::RLIMIT_RTTIME),
        ("SIGPENDING", libc::RLIMIT_SIGPENDING),
        ("STACK", libc::RLIMIT_STACK),
    ];
    let mut all = Map::new();
    for (name, kind) in kinds {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a valid place for the answer.
        if unsafe { libc::getrlimit(kind, &raw mut limit) } == 0 {
            all.insert(format!("RLIMIT_{name}"), json!([limit.rlim_cur, limit.rlim_max]));
        }
    }
    Value::Object(all)
}

/// The open descriptors and what they lead to, without the one that reads the directory.
fn descriptors() -> Value {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Value::Null };
    let numbers: Vec<String> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    let mut all = Map::new();
    for number in numbers {
        if let Ok(target) = fs::read_link(Path::new("/proc/self/fd").join(&number)) {
            all.insert(number, json!(target.display().to_string()));
        }
    }
    Value::Object(all)
}

/// The entries of a directory, each as [`entry`].
pub fn directory(path: &str) -> Value {
    let Ok(entries) = fs::read_dir(path) else { return Value::Null };
    let mut all = Map::new();
    for found in entries.flatten() {
        all.insert(found.file_name().to_string_lossy().into_owned(), entry(&found.path(), false));
    }
    Value::Object(all)
}

/// Type, permissions, owner, device and size of one file.
pub fn entry(path: &Path, follow: bool) -> Value {
    let meta = if follow { fs::metadata(path) } else { fs::symlink_metadata(path) };
    let meta = match meta {
        Ok(meta) => meta,
        Err(e) => return crate::act::failed(&e),
    };
    let kind = match meta.mode() & libc::S_IFMT {
        libc::S_IFCHR => "c",
        libc::S_IFBLK => "b",
        libc::S_IFDIR => "d",
        libc::S_IFLNK => "l",
        libc::S_IFIFO => "p",
        libc::S_IFSOCK => "s",
        _ => "f",
    };
    let mut value = json!({"type": kind, "mode": format!("{:04o}", meta.mode() & 0o7777), "uid": meta.uid(),
        "gid": meta.gid(), "size": meta.size(), "dev": meta.dev(), "ino": meta.ino()});
    if kind == "c" || kind == "b" {
        value["rdev"] = json!(format!("{}:{}", libc::major(meta.rdev()), libc::minor(meta.rdev())));
    }
    if kind == "l" {
        value["target"] = json!(fs::read_link(path).unwrap().display().to_string());
    }
    value
}

/// Ids as the system calls give them, for containers without /proc.
fn ids_by_call() -> Value {
    // SAFETY: no arguments.
    unsafe { json!([libc::getuid(), libc::geteuid(), libc::getgid(), libc::getegid()]) }
}

fn names(report: &mut Map<String, Value>) {
    // SAFETY: utsname is plain bytes; uname fills it with NUL-terminated strings.
    let (host, domain, machine) = unsafe {
        let mut uts: libc::utsname = std::mem::zeroed();
        libc::uname(&raw mut uts);
        let text = |field: *const libc::c_char| CStr::from_ptr(field).to_string_lossy().into_owned();
        (text(uts.nodename.as_ptr()), text(uts.domainname.as_ptr()), text(uts.machine.as_ptr()))
    };
    report.insert("hostname".into(), json!(host));
    report.insert("domainname".into(), json!(domain));
    report.insert("machine".into(), json!(machine));
}

fn session(report: &mut Map<String, Value>) {
    // SAFETY: plain getters; isatty and ioctl get descriptors that may be closed, which is an answer too.
    unsafe {
        report.insert("pid".into(), json!(libc::getpid()));
        report.insert("ppid".into(), json!(libc::getppid()));
        report.insert("sid".into(), json!(libc::getsid(0)));
        report.insert("pgid".into(), json!(libc::getpgid(0)));
        report.insert("dumpable".into(), json!(libc::prctl(libc::PR_GET_DUMPABLE)));
        report.insert("pdeathsig".into(), {
            let mut signal: libc::c_int = 0;
            libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut signal);
            json!(signal)
        });
        report.insert("keepcaps".into(), json!(libc::prctl(libc::PR_GET_KEEPCAPS)));
        report.insert("securebits".into(), json!(libc::prctl(libc::PR_GET_SECUREBITS)));
        report.insert("personality".into(), json!(libc::personality(0xffff_ffff)));
        report
            .insert("scheduler".into(), json!([libc::sched_getscheduler(0), libc::getpriority(libc::PRIO_PROCESS, 0)]));
        let (who_process, own) = (1, 0);
        report.insert("ioprio".into(), json!(libc::syscall(libc::SYS_ioprio_get, who_process, own)));
        let mut size: libc::winsize = std::mem::zeroed();
        let sized = libc::ioctl(0, libc::TIOCGWINSZ, &raw mut size) == 0;
        report.insert(
            "tty".into(),
            json!({
                "isatty": [libc::isatty(0) == 1, libc::isatty(1) == 1, libc::isatty(2) == 1],
                "rows": if sized { json!(size.ws_row) } else { Value::Null },
                "cols": if sized { json!(size.ws_col) } else { Value::Null },
                "foreground": libc::tcgetpgrp(0),
                "controlling": fs::File::open("/dev/tty").is_ok(),
            }),
        );
    }
}
