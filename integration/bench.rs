// SPDX-License-Identifier: Apache-2.0
//! What orlop, crun and runc cost, and what the kernel alone would: time, CPU time, memory and system calls of each
//! command, and how that grows.
//!
//! ```text
//! integration/bench [ROUNDS] [--write] [--youki] [--tree DIR]
//! ```
//! Needs root. The programs are interleaved A B C A B C, so that a change of the machine's speed meets them all; they run
//! in a private mount namespace with cgroup2 alone, which all of them support, with their state on a tmpfs. `ORLOP`, `CRUN`,
//! `RUNC` and `YOUKI` name other binaries. CPU is user and system time of the runtime's process, what it reaped, and what
//! it left to be reaped; for `create` also that of the container's init so far, since some runtimes do the work there. The
//! last line is the result as JSON; `--write` puts table, JSON and charts into docs/ instead.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a measuring program fails by panicking and works on its own directory"
)]

#[path = "measure/call.rs"]
mod call;
#[path = "measure/chart.rs"]
mod chart;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use call::{Contender, Memory, Sample, call, command, cpu_so_far, enter_layer, reap, system_calls};

const BUNDLES: [(&str, &str); 5] = [
    ("minimal", include_str!("bundles/minimal.json")),
    ("default", include_str!("bundles/default.json")),
    ("docker", include_str!("bundles/docker.json")),
    ("docker-nnp", include_str!("bundles/docker-nnp.json")),
    ("userns", include_str!("bundles/userns.json")),
];
/// Further bundles: `default` with so many bind mounts.
const BINDS: [usize; 3] = [10, 100, 500];
/// So many containers are there already.
const EXISTING: [usize; 3] = [10, 1000, 5000];
/// So many `run` at once.
const PARALLEL: [usize; 4] = [1, 2, 8, 32];

/// What was measured of one command of one program.
struct Row {
    bundle: String,
    command: &'static str,
    program: &'static str,
    samples: Vec<Sample>,
}

struct Bench {
    dir: PathBuf,
    states: PathBuf,
    rootfs: PathBuf,
    orlop: PathBuf,
    floor: Contender,
    all: Vec<Contender>,
    rows: Vec<Row>,
    /// Lines that are no table: what was left out, and why.
    notes: Vec<String>,
    /// Sections of the table beside the rows.
    extra: Vec<(String, Value)>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rounds = arguments.iter().find_map(|a| a.parse().ok()).unwrap_or(20);
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("bench: needs root");
        std::process::exit(2);
    }
    enter_layer().expect("a private mount namespace with cgroup2");
    let mut bench = Bench::new();
    for (name, config) in BUNDLES {
        bench.bundle(name, config, rounds);
    }
    for count in BINDS {
        bench.binds(count, rounds.min(10));
    }
    bench.existing(rounds.min(8));
    bench.parallel(3);
    bench.sealing(rounds);
    bench.count_calls();
    let trace = bench.trace();
    bench.finish(&trace, rounds, arguments.iter().any(|a| a == "--write"));
}

fn repository() -> PathBuf {
    std::env::var_os("REPOSITORY").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

fn id() -> String {
    format!("orlop-bench-{}", std::process::id())
}

impl Bench {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("orlop-bench-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let (states, rootfs) = (dir.join("states"), dir.join("rootfs"));
        fs::create_dir(&states).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&states).status().unwrap();
        assert!(mounted.success(), "mount a tmpfs");
        match std::env::var_os("ROOTFS") {
            Some(made) => assert!(Command::new("cp").arg("-a").arg(made).arg(&rootfs).status().unwrap().success()),
            None => {
                let made = Command::new(repository().join("examples/make-rootfs")).arg(&rootfs).status();
                assert!(made.unwrap().success(), "make-rootfs");
            }
        }
        let path = |name: &'static str, variable: &str, usual: &[&str]| {
            let chosen = std::env::var_os(variable).map(PathBuf::from);
            let program = chosen.or_else(|| usual.iter().map(PathBuf::from).find(|p| p.exists()))?;
            Some(Contender { name, program })
        };
        let floor = path("floor", "FLOOR", &[env!("CARGO_BIN_EXE_floor")]).expect("the floor program");
        let all: Vec<Contender> = [
            path("orlop", "ORLOP", &[env!("CARGO_BIN_EXE_orlop")]),
            path("crun", "CRUN", &["/usr/local/bin/crun", "/usr/bin/crun"]),
            path("runc", "RUNC", &["/usr/local/sbin/runc", "/usr/sbin/runc", "/usr/bin/runc"]),
            path("youki", "YOUKI", &[]),
        ]
        .into_iter()
        .flatten()
        .collect();
        let orlop = all[0].program.clone();
        Self { dir, states, rootfs, orlop, floor, all, rows: Vec::new(), notes: Vec::new(), extra: Vec::new() }
    }

    fn note(&mut self, text: String) {
        eprintln!("{text}");
        self.notes.push(text);
    }

    fn push(&mut self, bundle: &str, command: &'static str, program: &'static str, sample: Sample) {
        let known = self.rows.iter_mut().find(|r| r.bundle == bundle && r.command == command && r.program == program);
        match known {
            Some(row) => row.samples.push(sample),
            None => self.rows.push(Row { bundle: bundle.into(), command, program, samples: vec![sample] }),
        }
    }

    /// A config for the benchmark: without device rules, which need CAP_SYS_RESOURCE in some runtimes, so that all are
    /// asked for the same.
    fn config(&self, text: &str) -> Value {
        let mut config: Value = serde_json::from_str(text).unwrap();
        // crun 1.8 knows no version after 1.0.
        config["ociVersion"] = json!("1.0.2");
        config["root"]["path"] = json!(self.rootfs.to_str().unwrap());
        if let Some(resources) = config["linux"]["resources"].as_object_mut() {
            resources.remove("devices");
        }
        config
    }

    fn directory(&self, name: &str, config: &Value) -> String {
        let bundle = self.dir.join(name);
        fs::create_dir(&bundle).unwrap();
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        bundle.to_str().unwrap().into()
    }

    /// Those that can do it at all; also warms the caches.
    fn fit(&mut self, name: &str, run: &str) -> Vec<Contender> {
        let mut fit = Vec::new();
        for contender in self.all.clone() {
            match call(&contender, &self.states, &["run", "--bundle", run, &id()]) {
                Ok(_) => fit.push(contender),
                Err(e) => {
                    drop(call(&contender, &self.states, &["delete", "--force", &id()]));
                    reap(None);
                    self.note(format!("{name}: {} is left out: {e}", contender.name));
                }
            }
        }
        fit
    }

    fn bundle(&mut self, name: &'static str, text: &str, rounds: u32) {
        eprintln!("bundle {name}");
        let mut config = self.config(text);
        config["process"]["args"] = json!(["/bin/true"]);
        let run = self.directory(name, &config);
        config["process"]["args"] = json!(["/bin/sleep", "1000"]);
        let life = self.directory(&format!("{name}-life"), &config);
        let fit = self.fit(name, &run);
        let filter = self.filter(name);
        let kind = if name.starts_with("docker") { "docker" } else { name };
        let mut memory: Vec<(&str, Vec<Memory>)> = fit.iter().map(|c| (c.name, Vec::new())).collect();
        for _ in 0..rounds {
            match self.floor_run(kind, filter.as_deref(), 0) {
                Ok(sample) => self.push(name, "run", "floor", sample),
                Err(e) => self.note(format!("{name}: {e}")),
            }
            for (at, contender) in fit.iter().enumerate() {
                let sample = call(contender, &self.states, &["run", "--bundle", &run, &id()]).unwrap();
                self.push(name, "run", contender.name, sample);
                memory[at].1.push(self.life(name, contender, &life).unwrap());
            }
        }
        for (program, all) in memory {
            let middle = |of: fn(&Memory) -> u64| {
                let mut values: Vec<u64> = all.iter().map(of).collect();
                values.sort_unstable();
                values.get(values.len() / 2).copied().unwrap_or(0)
            };
            let value = json!({"bundle": name, "program": program, "resident_kb": middle(|m| m.resident),
                "proportional_kb": middle(|m| m.proportional), "anonymous_kb": middle(|m| m.anonymous)});
            self.extra.push(("memory".into(), value));
        }
    }

    /// The compiled profile of the bundle for the floor program, which has no compiler.
    fn filter(&self, name: &str) -> Option<String> {
        name.starts_with("docker").then(|| {
            let bundle = self.dir.join(name);
            let args = ["seccomp", "compile", "--format", "raw", "--bundle", bundle.to_str().unwrap()];
            let out = Command::new(&self.orlop).args(args).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            let file = self.states.join(format!("{name}.bpf"));
            fs::write(&file, &out.stdout).unwrap();
            file.to_str().unwrap().to_string()
        })
    }

    fn floor_words(&self, kind: &str, filter: Option<&str>, serial: usize) -> Vec<String> {
        let state = self.states.join(format!("floor-{serial}"));
        let mut words = vec![
            kind.to_string(),
            self.rootfs.to_str().unwrap().into(),
            format!("/sys/fs/cgroup/{}-{serial}", id()),
            state.to_str().unwrap().into(),
            state.join("state").to_str().unwrap().into(),
        ];
        words.extend(filter.map(str::to_string));
        words
    }

    fn floor_run(&self, kind: &str, filter: Option<&str>, serial: usize) -> Result<Sample, String> {
        let words = self.floor_words(kind, filter, serial);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        call(&self.floor, &self.states, &words).inspect_err(|_| {
            // It does not clear up after itself.
            drop(fs::remove_dir(words[2]));
            drop(fs::remove_dir_all(words[3]));
        })
    }

    /// A container by hand; the memory of its init while it waits for start.
    fn life(&mut self, name: &str, contender: &Contender, bundle: &str) -> Result<Memory, String> {
        let id = id();
        let pid_file = self.states.join("pid");
        let pid = pid_file.to_str().unwrap();
        let states = self.states.clone();
        let mut make = |command: &'static str, args: &[&str], init: Option<i32>| -> Result<(), String> {
            let mut sample = call(contender, &states, args)?;
            if command == "create" {
                let init = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
                sample.cpu += cpu_so_far(init);
            }
            reap(init);
            self.push(name, command, contender.name, sample);
            Ok(())
        };
        make("create", &["create", "--bundle", bundle, "--pid-file", pid, &id], None)?;
        let init: i32 = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        // Init may give memory back after create has returned.
        std::thread::sleep(Duration::from_millis(20));
        let memory = Memory::of(init);
        make("state", &["state", &id], None)?;
        make("start", &["start", &id], None)?;
        make("exec", &["exec", &id, "/bin/true"], None)?;
        make("kill", &["kill", &id, "KILL"], Some(init))?;
        make("delete", &["delete", &id], None)?;
        Ok(memory)
    }

    fn binds(&mut self, count: usize, rounds: u32) {
        eprintln!("{count} bind mounts");
        let mut config = self.config(BUNDLES[1].1);
        config["process"]["args"] = json!(["/bin/true"]);
        for i in 0..count {
            // The runtimes are not to make the directories.
            let target = format!("/binds/{i}");
            fs::create_dir_all(self.rootfs.join(&target[1..])).unwrap();
            let mount =
                json!({"destination": target, "type": "bind", "source": "/usr", "options": ["bind", "ro", "nosuid"]});
            config["mounts"].as_array_mut().unwrap().push(mount);
        }
        let name = format!("{count} bind mounts");
        let run = self.directory(&format!("binds-{count}"), &config);
        let fit = self.fit(&name, &run);
        for _ in 0..rounds {
            for contender in &fit {
                let sample = call(contender, &self.states, &["run", "--bundle", &run, &id()]).unwrap();
                self.push(&name, "run", contender.name, sample);
            }
        }
    }

    /// `list` and `state` beside many others: copies of the record of one container that waits for start.
    fn existing(&mut self, rounds: u32) {
        let bundle = self.dir.join("default-life").to_str().unwrap().to_string();
        // A cgroup of its own for each: newer versions of runc take none that has processes.
        let id_of = |contender: &Contender| format!("{}-{}", id(), contender.name);
        let pid_file = self.states.join("pid");
        let mut inits = Vec::new();
        for contender in self.all.clone() {
            let id = id_of(&contender);
            let args = ["create", "--bundle", &bundle, "--pid-file", pid_file.to_str().unwrap(), &id];
            call(&contender, &self.states, &args).unwrap();
            inits.push(fs::read_to_string(&pid_file).unwrap().trim().parse::<i32>().unwrap());
        }
        let mut there = 1;
        for count in EXISTING {
            eprintln!("{count} containers");
            for contender in &self.all {
                let id = id_of(contender);
                let from = self.states.join(contender.name).join(&id);
                for serial in there..count {
                    copy_record(&from, &id, &format!("{id}-{serial}"));
                }
            }
            there = count;
            let name = format!("{count} containers");
            for _ in 0..rounds {
                for contender in self.all.clone() {
                    let id = id_of(&contender);
                    for (command, args) in [("list", &["list"][..]), ("state", &["state", &id])] {
                        match call(&contender, &self.states, args) {
                            Ok(sample) => self.push(&name, command, contender.name, sample),
                            Err(e) => self.note(format!("{name}: {e}")),
                        }
                    }
                }
            }
        }
        for (contender, init) in self.all.clone().iter().zip(inits) {
            let id = id_of(contender);
            drop(call(contender, &self.states, &["kill", &id, "KILL"]));
            reap(Some(init));
            call(contender, &self.states, &["delete", &id]).unwrap();
            fs::remove_dir_all(self.states.join(contender.name)).unwrap();
        }
    }

    /// Containers per second, of so many `run` at once.
    fn parallel(&mut self, repeats: usize) {
        for bundle in ["default", "docker-nnp"] {
            let run = self.dir.join(bundle).to_str().unwrap().to_string();
            let filter = self.filter(bundle);
            let kind = if filter.is_some() { "docker" } else { "default" };
            for at_once in PARALLEL {
                eprintln!("{bundle}: {at_once} at once");
                let mut all = vec![self.floor.clone()];
                all.extend(self.all.iter().cloned());
                let mut rates: Vec<Vec<f64>> = vec![Vec::new(); all.len()];
                for _ in 0..repeats {
                    for (contender, rates) in all.iter().zip(&mut rates) {
                        let start = |serial: usize| {
                            let floor = self.floor_words(kind, filter.as_deref(), serial);
                            let id = format!("{}-{serial}", id());
                            let words: Vec<&str> = match contender.name {
                                "floor" => floor.iter().map(String::as_str).collect(),
                                _ => vec!["run", "--bundle", &run, &id],
                            };
                            let mut command = command(contender, &self.states, &words);
                            command.stderr(std::process::Stdio::null()).spawn().unwrap()
                        };
                        rates.push(rate(at_once, 48.max(at_once * 2), start));
                    }
                }
                for (contender, mut rates) in all.iter().zip(rates) {
                    rates.sort_by(f64::total_cmp);
                    let (middle, best) = (rates[rates.len() / 2], rates[rates.len() - 1]);
                    let value = json!({"bundle": bundle, "at_once": at_once, "program": contender.name,
                        "per_second": middle.round(), "best": best.round()});
                    self.extra.push(("parallel".into(), value));
                }
            }
        }
    }

    /// What it costs that orlop executes itself from a read-only clone of its mount: two commands that do nothing else,
    /// one of which is sealed.
    fn sealing(&mut self, rounds: u32) {
        eprintln!("sealing");
        let bundle = self.dir.join("default").to_str().unwrap().to_string();
        let orlop = self.all[0].clone();
        for _ in 0..rounds {
            for (command, args) in [
                ("not sealed", &["--version"][..]),
                ("sealed", &["exec", "--help"]),
                ("run", &["run", "-b", &bundle, &id()]),
            ] {
                let sample = call(&orlop, &self.states, args).unwrap();
                self.push("sealing", command, "orlop", sample);
            }
        }
    }

    fn count_calls(&mut self) {
        let id = id();
        for bundle in ["default", "docker"] {
            let path = |name: String| self.dir.join(name).to_str().unwrap().to_string();
            let (run, life) = (path(bundle.into()), path(format!("{bundle}-life")));
            let filter = self.filter(bundle);
            let kind = if filter.is_some() { "docker" } else { "default" };
            let words = self.floor_words(kind, filter.as_deref(), 0);
            let floor = system_calls(&self.floor, &self.states, &words.iter().map(String::as_str).collect::<Vec<_>>());
            let mut counted = vec![("floor", "run", floor)];
            for contender in self.all.clone() {
                let mut count = |command, args: &[&str]| {
                    counted.push((contender.name, command, system_calls(&contender, &self.states, args)));
                };
                count("run", &["run", "--bundle", &run, &id]);
                // strace waits for what it follows, so that a created container is made without it.
                if call(&contender, &self.states, &["create", "--bundle", &life, &id]).is_ok() {
                    count("state", &["state", &id]);
                    count("start", &["start", &id]);
                    count("exec", &["exec", &id, "/bin/true"]);
                    count("kill", &["kill", &id, "KILL"]);
                    std::thread::sleep(Duration::from_millis(100));
                    reap(None);
                    count("delete", &["delete", &id]);
                }
            }
            for (program, command, calls) in counted {
                let value = json!({"bundle": bundle, "program": program, "command": command, "calls": calls});
                self.extra.push(("calls".into(), value));
            }
        }
    }

    /// The quickest of some runs of `docker`.
    fn trace(&self) -> Value {
        let run = self.dir.join("docker").to_str().unwrap().to_string();
        let file = self.states.join("trace.json");
        let mut best: Option<(f64, Value)> = None;
        for _ in 0..15 {
            let args = ["--trace", file.to_str().unwrap(), "run", "--bundle", &run, &id()];
            call(&self.all[0], &self.states, &args).unwrap();
            let trace: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
            let end = |e: &Value| e["ts"].as_f64().unwrap_or(0.0) + e["dur"].as_f64().unwrap_or(0.0);
            let end = trace["traceEvents"].as_array().unwrap().iter().map(end).fold(0.0, f64::max);
            if best.as_ref().is_none_or(|(least, _)| end < *least) {
                best = Some((end, trace));
            }
        }
        best.unwrap().1
    }

    fn finish(self, trace: &Value, rounds: u32, write: bool) {
        let machine = machine(&self);
        let tables = self.tables(rounds, &machine);
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        let extra: Vec<Value> =
            self.extra.iter().map(|(section, v)| json!({"section": section, "result": v})).collect();
        let result = json!({"machine": machine, "rounds": rounds, "notes": self.notes, "rows": rows, "others": extra});
        let groups: Vec<(String, Vec<(String, f64)>)> = [
            ("default", "run"),
            ("docker-nnp", "run"),
            ("userns", "run"),
            ("default", "create"),
            ("default", "exec"),
            ("default", "start"),
            ("default", "state"),
            ("default", "delete"),
        ]
        .iter()
        .map(|(bundle, command)| {
            let own = self.rows.iter().filter(|r| r.bundle == *bundle && r.command == *command);
            (format!("{command}, {bundle}"), own.map(|r| (r.program.to_string(), r.median(cpu))).collect())
        })
        .collect();
        let bars = chart::bars("CPU time, median, in milliseconds", &groups);
        let timeline = chart::timeline("orlop run, bundle docker", trace);
        println!("{tables}");
        if write {
            let docs = repository().join("docs");
            fs::write(docs.join("performance.json"), serde_json::to_string_pretty(&result).unwrap() + "\n").unwrap();
            fs::write(docs.join("performance.svg"), bars).unwrap();
            fs::write(docs.join("trace.svg"), timeline).unwrap();
            fs::write(docs.join("trace.json"), trace.to_string() + "\n").unwrap();
            let page = docs.join("performance.md");
            let text = fs::read_to_string(&page).unwrap();
            let (before, rest) =
                text.split_once("<!-- begin of what integration/bench writes -->\n").expect("the mark");
            let (_, after) = rest.split_once("<!-- end -->").expect("the other mark");
            let new = format!("{before}<!-- begin of what integration/bench writes -->\n{tables}<!-- end -->{after}");
            fs::write(page, new).unwrap();
        } else {
            println!("{result}");
        }
        assert!(Command::new("umount").arg(&self.states).status().unwrap().success());
        fs::remove_dir_all(&self.dir).unwrap();
    }

    fn tables(&self, rounds: u32, machine: &Value) -> String {
        let mut out = String::new();
        for (name, value) in machine.as_object().unwrap() {
            writeln!(out, "* {name}: {}", value.as_str().unwrap_or_default()).unwrap();
        }
        writeln!(out, "* rounds: {rounds}").unwrap();
        for note in &self.notes {
            writeln!(out, "* {note}").unwrap();
        }
        let mut bundles: Vec<&str> = self.rows.iter().map(|r| r.bundle.as_str()).collect();
        bundles.dedup();
        let mut done = Vec::new();
        for bundle in bundles {
            if done.contains(&bundle) {
                continue;
            }
            done.push(bundle);
            writeln!(out, "\n### {bundle}\n\n| command | program | CPU ms: median (least) | x orlop | x floor | elapsed ms: median (least) | x orlop | peak RSS, KB |\n|---|---|---|---|---|---|---|---|").unwrap();
            let mut own: Vec<&Row> = self.rows.iter().filter(|r| r.bundle == bundle).collect();
            own.sort_by_key(|r| r.command);
            for row in &own {
                let beside = |program: &str| own.iter().find(|o| o.command == row.command && o.program == program);
                let times = |other: Option<&&Row>, of: fn(&Sample) -> Duration| {
                    other.map_or("-".into(), |o| format!("{:.2}", row.median(of) / o.median(of)))
                };
                writeln!(
                    out,
                    "| {} | {} | {:.2} ({:.2}) | {} | {} | {:.2} ({:.2}) | {} | {} |",
                    row.command,
                    row.program,
                    row.median(cpu),
                    row.least(cpu),
                    times(beside("orlop"), cpu),
                    times(beside("floor"), cpu),
                    row.median(wall),
                    row.least(wall),
                    times(beside("orlop"), wall),
                    row.memory()
                )
                .unwrap();
            }
        }
        for (section, title) in [
            ("memory", "The init that waits for start"),
            ("parallel", "Containers per second"),
            ("calls", "System calls, with those of the container's process"),
        ] {
            let own: Vec<&Value> = self.extra.iter().filter(|(s, _)| s == section).map(|(_, v)| v).collect();
            let Some(first) = own.first().and_then(|v| v.as_object()) else { continue };
            let names: Vec<&str> = first.keys().map(String::as_str).collect();
            writeln!(
                out,
                "\n### {title}\n\n| {} |\n|{}",
                names.join(" | ").replace('_', " "),
                "---|".repeat(names.len())
            )
            .unwrap();
            for value in own {
                let cells: Vec<String> = names.iter().map(|n| value[*n].to_string().replace('"', "")).collect();
                writeln!(out, "| {} |", cells.join(" | ")).unwrap();
            }
        }
        out
    }
}

/// Starts `total` with at most `at_once` at a time: how many end per second.
fn rate(at_once: usize, total: usize, start: impl Fn(usize) -> std::process::Child) -> f64 {
    let begin = Instant::now();
    let (mut running, mut started) = (Vec::new(), 0);
    let (mut ended, mut failed) = (0, 0);
    while ended < total {
        while running.len() < at_once && started < total {
            running.push(start(started));
            started += 1;
        }
        let mut status = 0;
        // SAFETY: the place is valid.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        let before = running.len();
        running.retain(|child| i32::try_from(child.id()).unwrap() != pid);
        // What a runtime left behind is reaped here too.
        if running.len() < before {
            ended += 1;
            failed += usize::from(status != 0);
        }
    }
    let rate = total as f64 / begin.elapsed().as_secs_f64();
    reap(None);
    if failed > 0 { f64::NAN } else { rate }
}

/// Copies the record of a container under another id.
fn copy_record(from: &Path, id: &str, new: &str) {
    let to = from.with_file_name(new);
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten().filter(|e| e.file_type().unwrap().is_file()) {
        let text = fs::read_to_string(entry.path()).unwrap();
        let new_text = text.replace(&format!("\"{id}\""), &format!("\"{new}\""));
        fs::write(to.join(entry.file_name()), new_text).unwrap();
    }
}

fn wall(sample: &Sample) -> Duration {
    sample.wall
}

fn cpu(sample: &Sample) -> Duration {
    sample.cpu
}

impl Row {
    fn sorted(&self, of: fn(&Sample) -> Duration) -> Vec<f64> {
        let mut all: Vec<f64> = self.samples.iter().map(|s| of(s).as_secs_f64() * 1000.0).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    /// In milliseconds.
    fn median(&self, of: fn(&Sample) -> Duration) -> f64 {
        let all = self.sorted(of);
        all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// In milliseconds: what is left when nothing else runs on the machine.
    fn least(&self, of: fn(&Sample) -> Duration) -> f64 {
        self.sorted(of).first().copied().unwrap_or(f64::NAN)
    }

    fn memory(&self) -> i64 {
        self.samples.iter().map(|s| s.memory).max().unwrap_or(0)
    }

    fn json(&self) -> Value {
        let round = |value: f64| (value * 1000.0).round() / 1000.0;
        json!({"bundle": self.bundle, "command": self.command, "program": self.program, "rounds": self.samples.len(),
            "cpu_ms": {"median": round(self.median(cpu)), "least": round(self.least(cpu))},
            "wall_ms": {"median": round(self.median(wall)), "least": round(self.least(wall))},
            "peak_rss_kb": self.memory()})
    }
}

/// Where and with what was measured.
fn machine(bench: &Bench) -> Value {
    let output = |program: &Path, args: &[&str]| {
        let out = Command::new(program).args(args).output();
        out.map(|out| String::from_utf8_lossy(&out.stdout).lines().next().unwrap_or("").to_string()).unwrap_or_default()
    };
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("")
        .trim_start_matches([' ', '\t', ':']);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut facts = json!({
        "date": output(Path::new("date"), &["-u", "+%Y-%m-%d %H:%M UTC"]),
        "processor": format!("{model}, {} of them", cpus.matches("\nprocessor").count() + 1),
        "kernel": output(Path::new("uname"), &["-sr"]),
        "load at the end": load.split(' ').take(3).collect::<Vec<_>>().join(" "),
    });
    for contender in &bench.all {
        let size = fs::metadata(&contender.program).map_or(0, |m| m.len());
        facts[contender.name] = json!(format!("{}, {} KB", output(&contender.program, &["--version"]), size / 1024));
    }
    facts
}
