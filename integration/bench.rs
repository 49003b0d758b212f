// SPDX-License-Identifier: Apache-2.0
//! How long orlop, crun and runc take to create, start, run and delete a container, and how much CPU they use for it; what
//! bind mounts cost, and that orlop seals its own binary.
//!
//! ```text
//! cargo bench --features integration --bench runtimes [-- ROUNDS]
//! ```
//! Needs root. The three are interleaved A B C A B C, so that a change of the machine's speed meets them all; they run
//! in a private mount namespace with cgroup2 alone, which all of them support. `ORLOP`, `CRUN` and `RUNC` name other
//! binaries. CPU is user and system time of the runtime's process, what it reaped, and what it left to be reaped; for
//! `create` also that of the container's init so far, since some runtimes do the work there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a measuring program fails by panicking and works on its own directory"
)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const BUNDLES: [(&str, &str); 2] =
    [("default", include_str!("bundles/default.json")), ("docker", include_str!("bundles/docker.json"))];
/// Further bundles: `default` with so many bind mounts.
const BINDS: [usize; 3] = [10, 100, 500];
const COMMANDS: [&str; 4] = ["create", "start", "run", "delete"];

/// One measurement.
#[derive(Clone, Copy)]
struct Sample {
    wall: Duration,
    cpu: Duration,
}

/// A runtime and what was measured of it, by command.
struct Contender {
    name: &'static str,
    program: PathBuf,
    samples: [Vec<Sample>; 4],
}

fn main() {
    let rounds = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(30);
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("bench: needs root");
        std::process::exit(2);
    }
    enter_layer().expect("a private mount namespace with cgroup2");
    let dir = std::env::temp_dir().join(format!("orlop-bench-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    let rootfs = dir.join("rootfs");
    let made = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/make-rootfs")).arg(&rootfs).status();
    assert!(made.unwrap().success(), "make-rootfs");
    for (name, config) in BUNDLES {
        let mut config: Value = serde_json::from_str(config).unwrap();
        // crun 1.8 knows no version after 1.0.
        config["ociVersion"] = json!("1.0.2");
        config["root"]["path"] = json!(rootfs.to_str().unwrap());
        let bundle = dir.join(name);
        fs::create_dir(&bundle).unwrap();
        measure(name, &bundle, config, contenders(), rounds);
    }
    let base = || -> Value {
        let mut config: Value = serde_json::from_str(BUNDLES[0].1).unwrap();
        config["ociVersion"] = json!("1.0.2");
        config["root"]["path"] = json!(rootfs.to_str().unwrap());
        config
    };
    for count in BINDS {
        let mut config = base();
        for i in 0..count {
            // The runtimes are not to make the directories.
            let target = format!("/binds/{i}");
            fs::create_dir_all(rootfs.join(&target[1..])).unwrap();
            let mount =
                json!({"destination": target, "type": "bind", "source": "/usr", "options": ["bind", "ro", "nosuid"]});
            config["mounts"].as_array_mut().unwrap().push(mount);
        }
        let bundle = dir.join(format!("binds-{count}"));
        fs::create_dir(&bundle).unwrap();
        measure(&format!("{count} bind mounts"), &bundle, config, contenders(), rounds.min(15));
    }
    sealing(&dir, base(), rounds);
    fs::remove_dir_all(&dir).unwrap();
}

/// What it costs that orlop executes itself from a read-only clone of its mount: a binary that is on a read-only mount does
/// not do so.
fn sealing(dir: &Path, config: Value, rounds: u32) {
    let (bundle, target) = (dir.join("sealing"), dir.join("read-only"));
    fs::create_dir(&bundle).unwrap();
    fs::create_dir(&target).unwrap();
    let Some(orlop) = contenders().into_iter().find(|c| c.name == "orlop") else { return };
    fs::copy(&orlop.program, target.join("orlop")).unwrap();
    let mounted = Command::new("mount").args(["--bind", "-o", "ro"]).arg(&target).arg(&target).status().unwrap();
    assert!(mounted.success(), "mount {target:?}");
    let unsealed =
        Contender { name: "on a read-only mount", program: target.join("orlop"), samples: Default::default() };
    measure("sealing", &bundle, config, vec![orlop, unsealed], rounds);
    assert!(Command::new("umount").arg(&target).status().unwrap().success());
}

/// The runtimes that are there.
fn contenders() -> Vec<Contender> {
    let path = |name: &'static str, variable: &str, usual: &[&str]| {
        let chosen = std::env::var_os(variable).map(PathBuf::from);
        let program = chosen.or_else(|| usual.iter().map(PathBuf::from).find(|p| p.exists()))?;
        Some(Contender { name, program, samples: Default::default() })
    };
    [
        path("orlop", "ORLOP", &[env!("CARGO_BIN_EXE_orlop")]),
        path("crun", "CRUN", &["/usr/local/bin/crun", "/usr/bin/crun"]),
        path("runc", "RUNC", &["/usr/local/sbin/runc", "/usr/sbin/runc", "/usr/bin/runc"]),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Measures one bundle and prints a table.
fn measure(name: &str, bundle: &Path, mut config: Value, mut all: Vec<Contender>, rounds: u32) {
    let write = |config: &Value| fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    write(&config);
    let mut fits: Vec<bool> = all.iter().map(|c| fit(c, bundle).is_ok()).collect();
    if fits.iter().any(|fit| !fit) && config["linux"]["resources"].get("devices").is_some() {
        // crun 1.8 raises RLIMIT_MEMLOCK for the device program, which needs CAP_SYS_RESOURCE: without it none gets
        // device rules, so that all are asked for the same.
        config["linux"]["resources"].as_object_mut().unwrap().remove("devices");
        write(&config);
        let again: Vec<bool> = all.iter().map(|c| fit(c, bundle).is_ok()).collect();
        if again.iter().filter(|f| **f).count() > fits.iter().filter(|f| **f).count() {
            println!("{name}: device rules left out, since not every runtime can set them here");
            fits = again;
        }
    }
    for (contender, fit) in all.iter().zip(&fits) {
        if !fit {
            println!("{name}: {} is left out: {}", contender.name, self::fit(contender, bundle).unwrap_err());
        }
    }
    let mut keep = fits.iter();
    all.retain(|_| *keep.next().unwrap());
    for _ in 0..rounds {
        for contender in &mut all {
            round(contender, bundle).unwrap();
        }
    }
    print(name, &all, rounds);
}

/// Whether the runtime can do it at all; also warms the caches.
fn fit(contender: &Contender, bundle: &Path) -> Result<(), String> {
    let mut trial = Contender { name: contender.name, program: contender.program.clone(), samples: Default::default() };
    round(&mut trial, bundle)
}

/// One container by hand and one by `run`.
fn round(contender: &mut Contender, bundle: &Path) -> Result<(), String> {
    let id = format!("orlop-bench-{}", std::process::id());
    let pid_file = bundle.join("pid");
    let (dir, pid) = (bundle.to_str().unwrap(), pid_file.to_str().unwrap());
    let mut samples = Vec::new();
    let outcome = (|| {
        let create = call(contender, bundle, &["create", "--bundle", dir, "--pid-file", pid, &id])?;
        let init: i32 = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        samples.push((0, Sample { cpu: create.cpu + cpu_so_far(init), ..create }));
        samples.push((1, call(contender, bundle, &["start", &id])?));
        reap(Some(init));
        samples.push((3, call(contender, bundle, &["delete", &id])?));
        samples.push((2, call(contender, bundle, &["run", "--bundle", dir, &id])?));
        Ok(())
    })();
    if outcome.is_err() {
        drop(call(contender, bundle, &["delete", "--force", &id]));
        reap(None);
    }
    for (command, sample) in samples {
        contender.samples[command].push(sample);
    }
    outcome
}

/// Runs one command to its end.
fn call(contender: &Contender, bundle: &Path, args: &[&str]) -> Result<Sample, String> {
    let root = bundle.join(format!("state-{}", contender.name));
    let errors = bundle.join("errors");
    let begin = Instant::now();
    let child = Command::new(&contender.program)
        .arg("--root")
        .arg(&root)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&errors).unwrap())
        .spawn()
        .map_err(|e| format!("{}: {e}", contender.program.display()))?;
    let (code, cpu) = wait4(i32::try_from(child.id()).unwrap(), 0).expect("the runtime's end");
    let wall = begin.elapsed();
    let sample = Sample { wall, cpu: cpu + reap(None) };
    if code == 0 {
        return Ok(sample);
    }
    Err(format!("{} {}: {}", contender.name, args[0], fs::read_to_string(&errors).unwrap_or_default().trim()))
}

/// Waits for a process: its exit status word and the CPU time of it and of what it waited for.
fn wait4(pid: i32, flags: i32) -> Option<(i32, Duration)> {
    let mut status = 0;
    // SAFETY: rusage is plain numbers; both places are valid.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::wait4(pid, &raw mut status, flags, &raw mut usage) <= 0 {
            return None;
        }
        let time = |t: libc::timeval| {
            Duration::from_micros(u64::try_from(t.tv_sec).unwrap() * 1_000_000 + u64::try_from(t.tv_usec).unwrap())
        };
        Some((status, time(usage.ru_utime) + time(usage.ru_stime)))
    }
}

/// Reaps what was left to this process, waiting for `init` if given; returns the CPU time of all of them but `init`.
fn reap(init: Option<i32>) -> Duration {
    init.and_then(|init| wait4(init, 0));
    let mut sum = Duration::ZERO;
    while let Some((_, cpu)) = wait4(-1, libc::WNOHANG) {
        sum += cpu;
    }
    sum
}

/// The CPU time of a living process, which schedstat gives in nanoseconds.
fn cpu_so_far(pid: i32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|w| w.parse().ok()).unwrap_or(0))
}

/// cgroup2 alone on /sys/fs/cgroup, seen by this process and its children; and what they leave comes to this process.
fn enter_layer() -> io::Result<()> {
    let check = |result: i32| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // SAFETY: system calls on constant strings.
    unsafe {
        let none = std::ptr::null();
        check(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1))?;
        check(libc::unshare(libc::CLONE_NEWNS))?;
        check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, std::ptr::null()))?;
        let (fs, at) = (c"cgroup2".as_ptr(), c"/sys/fs/cgroup".as_ptr());
        check(libc::mount(fs, at, fs, 0, std::ptr::null()))
    }
}

/// The middle value, in milliseconds.
fn median(samples: &[Sample], of: fn(&Sample) -> Duration) -> f64 {
    let mut all: Vec<Duration> = samples.iter().map(of).collect();
    all.sort();
    all.get(all.len() / 2).map_or(f64::NAN, |d| d.as_secs_f64() * 1000.0)
}

/// The smallest value, in milliseconds: what is left when nothing else runs on the machine.
fn minimum(samples: &[Sample], of: fn(&Sample) -> Duration) -> f64 {
    samples.iter().map(of).min().map_or(f64::NAN, |d| d.as_secs_f64() * 1000.0)
}

/// What becomes of a measure of all samples.
type Statistic = fn(&[Sample], fn(&Sample) -> Duration) -> f64;

/// One line a command: medians and minima of each, and how many times orlop's the others take.
fn print(name: &str, all: &[Contender], rounds: u32) {
    println!("\nbundle {name}, {rounds} rounds, milliseconds (and times orlop's)");
    let (wall, cpu) = ((|s| s.wall) as fn(&Sample) -> Duration, (|s| s.cpu) as fn(&Sample) -> Duration);
    let statistics: [(&str, Statistic); 2] = [("median", median), ("minimum", minimum)];
    for (kind, of) in [("wall", wall), ("cpu", cpu)] {
        for (statistic, value_of) in statistics {
            let names: String = all.iter().map(|c| format!("{:>24}", c.name)).collect();
            println!("  {:<13}{names}", format!("{kind} {statistic}"));
            for (index, command) in COMMANDS.iter().enumerate() {
                let own = all.iter().find(|c| c.name == "orlop").map(|c| value_of(&c.samples[index], of));
                let cells = all.iter().map(|c| {
                    let value = value_of(&c.samples[index], of);
                    let ratio = own.map_or(String::new(), |own| format!("({:.2}x)", value / own));
                    format!("{value:>15.2} {ratio:>8}")
                });
                println!("  {command:<13}{}", cells.collect::<String>());
            }
        }
    }
}
