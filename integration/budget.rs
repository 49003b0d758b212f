// SPDX-License-Identifier: Apache-2.0
//! What `create` and `start` may cost, in system calls, which the load of a machine does not change: `specs/budget.tsv` has
//! the numbers, and a command that needs more than a tenth more fails here.
//! `UPDATE_BUDGET=1 integration/run budget` writes them anew.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Bundle, eventually, host, runtime};
use crate::orlop_only;

const CONFIGS: [(&str, &str); 2] =
    [("default", include_str!("bundles/default.json")), ("docker-nnp", include_str!("bundles/docker-nnp.json"))];

/// Calls of the allocator and of the C library's start, and what only a debug build does (closing asks first whether the
/// descriptor is open): they do not say how much is done.
const NOT_COUNTED: [&str; 8] =
    ["brk(", "mmap(", "munmap(", "mprotect(", "madvise(", "getrandom(", "exit_group(", "rseq("];

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("specs/budget.tsv")
}

/// A call under strace, which writes to `log`.
fn under_strace(bundle: &Bundle, strace: &Path, log: &Path, words: &[&str]) -> runtime::Call {
    let root = bundle.state_root();
    runtime::Call::new(strace, &bundle.dir, bundle.layer)
        .env("ORLOP_IT", &bundle.id)
        .args(["-f", "-qq", "-o", log.to_str().unwrap(), runtime::program().to_str().unwrap()])
        .args(["--root", root.to_str().unwrap()])
        .args(words)
}

/// The pid and the call of each line that counts.
fn calls(log: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(log).unwrap();
    let split = text.lines().filter_map(|line| line.split_once(' ')).map(|(pid, call)| (pid, call.trim_start()));
    split
        .filter(|(_, call)| !["<...", "---", "+++"].iter().any(|mark| call.starts_with(mark)))
        .filter(|(_, call)| !NOT_COUNTED.iter().any(|other| call.starts_with(other)) && !call.contains("F_GETFD"))
        .map(|(pid, call)| (pid.to_string(), call.to_string()))
        .collect()
}

/// How many calls `create` and `start` make, with those of init for them.
fn count(bundle: &Bundle, strace: &Path) -> [usize; 2] {
    bundle.write_config();
    let (made, started) = (bundle.dir.join("calls-create"), bundle.dir.join("calls-start"));
    let pid_file = bundle.pid_file();
    let to = ["--bundle", bundle.dir.to_str().unwrap(), "--pid-file", pid_file.to_str().unwrap()];
    let words = [&["create"][..], &to, &[bundle.id.as_str()]].concat();
    // strace stays as long as init lives.
    let create = under_strace(bundle, strace, &made, &words).start();
    eventually("the container is created", || {
        bundle.pid_file().exists() && bundle.command("state").stdout.contains("\"created\"")
    });
    eventually("init waits", || calls(&made).iter().any(|(_, call)| call.starts_with("accept4(")));
    under_strace(bundle, strace, &started, &["start", &bundle.id]).output().ok();
    create.output().ok();
    let all = calls(&made);
    let waits = all.iter().position(|(_, call)| call.starts_with("accept4(")).expect("init waits for start");
    let init = all[waits].0.clone();
    let later: Vec<_> = all[waits..].iter().filter(|(pid, _)| *pid == init).collect();
    let program = later.iter().position(|(_, call)| call.starts_with("execve(")).expect("the program's execve");
    // create ends when init waits already, or a moment later.
    let rest = all[waits..].iter().filter(|(pid, _)| *pid != init).count();
    [waits + rest, calls(&started).len() + program]
}

#[test]
fn create_and_start_keep_to_their_budget_of_system_calls() {
    orlop_only!("is about orlop's own cost");
    let Some(strace) = host::find_program("strace") else { crate::skip!("strace is not installed") };
    let mut rows = vec!["# bundle\tcommand\tsystem calls".to_string()];
    for (name, config) in CONFIGS {
        let bundle = Bundle::v2().with_config(config).args(["/probe", "echo", "x"]).remove("/linux/resources");
        let counted = count(&bundle, &strace);
        rows.extend(["create", "start"].iter().zip(counted).map(|(command, n)| format!("{name}\t{command}\t{n}")));
        bundle.delete().ok();
    }
    if std::env::var_os("UPDATE_BUDGET").is_some() {
        fs::write(file(), rows.join("\n") + "\n").unwrap();
    }
    let text = fs::read_to_string(file()).unwrap();
    let number = |row: &str| row.rsplit_once('\t').and_then(|(_, n)| n.parse::<usize>().ok());
    for row in &rows[1..] {
        let (what, now) = (row.rsplit_once('\t').unwrap().0, number(row).unwrap());
        let allowed = text.lines().find(|line| line.starts_with(&format!("{what}\t"))).and_then(number);
        let allowed = allowed.unwrap_or_else(|| panic!("specs/budget.tsv has no row {what:?}"));
        println!("{what}: {now} of {allowed}");
        assert!(now * 10 <= allowed * 11, "{what:?} makes {now} system calls, the budget is {allowed} and a tenth");
    }
}
