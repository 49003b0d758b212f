// SPDX-License-Identifier: Apache-2.0
//! A runtime that is killed at any point, raced by itself, or handed broken state leaves something that one
//! `delete --force` clears. Labels like E07 are those of our list of failure modes.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Bundle, Flavor, Running, flavor, runtime};
use crate::{orlop_only, peer_differs};

#[test]
fn e07_of_eight_creates_of_one_id_exactly_one_wins() {
    peer_differs!("runc", "1.1.5 takes the id only late in create, and a loser may undo the winner");
    for _ in 0..3 {
        let bundle = Bundle::new().args(["/probe", "wait"]);
        bundle.write_config();
        let dir = bundle.dir.to_str().unwrap();
        let all: Vec<Running> = (0..8).map(|_| bundle.call(["create", "--bundle", dir, &bundle.id]).start()).collect();
        let outs: Vec<_> = all.into_iter().map(Running::output).collect();
        let won = outs.iter().filter(|o| o.status.success()).count();
        assert_eq!(won, 1, "{outs:#?}");
        assert_eq!(bundle.state()["status"], "created");
        bundle.start();
        bundle.delete_force().ok();
        bundle.check_clean();
    }
}

#[test]
fn e43_of_four_starts_exactly_one_wins() {
    peer_differs!("runc", "a loser may hang on the FIFO");
    peer_differs!("crun", "losers may succeed");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    let all: Vec<Running> = (0..4).map(|_| bundle.call(["start", &bundle.id]).start()).collect();
    let outs: Vec<_> = all.into_iter().map(Running::output).collect();
    assert_eq!(outs.iter().filter(|o| o.status.success()).count(), 1, "{outs:#?}");
    assert_eq!(bundle.state()["status"], "running");
}

#[test]
fn e10_a_create_killed_at_any_time_is_cleared_by_delete_force() {
    peer_differs!("runc", "1.1.5 leaves cgroups");
    peer_differs!("crun", "1.8 leaves cgroups and processes");
    // How long a create takes here, so that the kills spread over all of it.
    let bundle = Bundle::new().args(["/probe", "wait"]);
    let begin = std::time::Instant::now();
    bundle.create();
    let whole = begin.elapsed();
    bundle.delete_force().ok();
    for point in 0..25u32 {
        let running = bundle.call_new("create", &[]).start();
        thread::sleep(whole * point / 24);
        // SAFETY: no pointers; the child has not been waited for, so the pid is still its own.
        unsafe { libc::kill(running.pid(), libc::SIGKILL) };
        drop(running.output());
        bundle.delete_force().ok();
        bundle.check_clean();
    }
    // And the id is usable.
    bundle.create();
}

/// Runs `create` under strace, which kills whichever process of it makes the system call `name` for the `when`th time.
/// Returns once the runtime's own process has ended.
fn create_killed_at(bundle: &Bundle, strace: &std::path::Path, name: &str, when: u32) {
    bundle.write_config();
    let (root, dir) = (bundle.state_root(), bundle.dir.to_str().unwrap().to_string());
    let mut running = runtime::Call::new(strace, &bundle.dir, bundle.layer)
        .env("ORLOP_IT", &bundle.id)
        // -I2: it can be told to let go.
        .args(["-f", "-I2", "-o", "/dev/null", "-e", &format!("trace={name}")])
        .args(["-e", &format!("inject={name}:signal=KILL:when={when}")])
        .args([runtime::program().to_str().unwrap(), "--root", root.to_str().unwrap()])
        .args(["create", "--bundle", &dir, "--pid-file", bundle.pid_file().to_str().unwrap(), &bundle.id])
        .start();
    let tracer = running.pid();
    let mut main = None;
    crate::harness::eventually("the traced create ends", || {
        if running.child.try_wait().unwrap().is_some() {
            return true;
        }
        // strace also has short-lived children of its own.
        let children = fs::read_to_string(format!("/proc/{tracer}/task/{tracer}/children")).unwrap_or_default();
        let program = runtime::program();
        let runs_it = |pid: &i32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split(|b| *b == 0).next() == Some(program.to_str().unwrap().as_bytes())
        };
        main = main.or_else(|| children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(runs_it));
        // strace stays for a container that was made; then it is let go.
        main.is_some_and(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.is_empty() || status.contains("State:\tZ")
        })
    });
    if running.child.try_wait().unwrap().is_none() {
        // SAFETY: no pointers; the child has not been waited for.
        unsafe { libc::kill(tracer, libc::SIGTERM) };
    }
    drop(running.output());
}

#[test]
fn e10_a_create_killed_at_a_system_call_is_cleared_by_delete_force() {
    peer_differs!("runc", "1.1.5 leaves cgroups");
    peer_differs!("crun", "1.8 leaves cgroups and processes");
    let Some(strace) = crate::harness::host::find_program("strace") else {
        crate::skip!("strace is not installed");
    };
    let points = [
        ("mkdirat", 1),
        ("mkdirat", 2),
        ("mkdir", 1),
        ("renameat", 1),
        ("renameat", 2),
        ("fsync", 1),
        ("clone3", 1),
        ("write", 1),
        ("write", 3),
        ("sendto", 1),
        ("sendmsg", 1),
        ("sendmsg", 3),
        ("recvmsg", 2),
        ("unshare", 1),
        ("open_tree", 2),
        ("fsmount", 1),
        ("fsmount", 3),
        ("move_mount", 1),
        ("move_mount", 4),
        ("mount_setattr", 2),
        ("mknodat", 1),
        ("symlinkat", 1),
        ("pivot_root", 1),
        ("umount2", 1),
        ("capset", 1),
        ("setresuid", 1),
        ("close_range", 2),
        ("close_range", 3),
        ("unlinkat", 1),
        ("prctl", 5),
        ("accept4", 1),
    ];
    let bundle = Bundle::new().args(["/probe", "wait"]);
    let mut hits = 0;
    for (name, when) in points {
        create_killed_at(&bundle, &strace, name, when);
        let state = bundle.command("state");
        hits += u32::from(!state.status.success() || state.json()["status"] != "created");
        let out = bundle.delete_force();
        assert!(out.status.success(), "{name} {when}: {out}");
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while !bundle.leftovers().is_empty() && std::time::Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
        assert!(bundle.leftovers().is_empty(), "killed at {name} {when}, deleted, and left: {:#?}", bundle.leftovers());
    }
    assert!(hits >= 10, "only {hits} of the kills hit anything: the list of system calls has aged");
    bundle.create();
}

/// A bundle whose create is held at a known point, with init waiting: by a hook, once the file is there. `timeout`: in
/// seconds.
fn with_a_hook_that_hangs(timeout: Option<u32>) -> (Bundle, PathBuf) {
    let bundle = Bundle::new().args(["/probe", "wait"]);
    let hold = bundle.dir.join("held");
    let probe = runtime::base().join("probe");
    let mut hook = json!({"path": probe.to_str().unwrap(), "args": ["hold", "hook", hold.to_str().unwrap(), "hang"],
        "env": [format!("ORLOP_IT={}", bundle.id)]});
    if let Some(timeout) = timeout {
        hook["timeout"] = json!(timeout);
    }
    (bundle.push("/hooks/createRuntime", hook), hold)
}

#[test]
fn e11_the_init_of_a_killed_create_does_not_live_on() {
    orlop_only!("ties the half-made container to its maker");
    let (bundle, hold) = with_a_hook_that_hangs(Some(600));
    let running = bundle.call_new("create", &[]).start();
    crate::harness::eventually("the hook runs", || hold.exists());
    // SAFETY: no pointers; the child has not been waited for.
    unsafe { libc::kill(running.pid(), libc::SIGKILL) };
    drop(running.output());
    bundle.delete_force().ok();
    // The hook too: nobody is left to hold it to its timeout.
    bundle.check_clean();
}

#[test]
fn e42_a_terminated_create_cleans_up() {
    peer_differs!("runc", "1.1.5 may leave the cgroup");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    for delay in [0, 2, 5, 10, 20] {
        let running = bundle.call_new("create", &[]).start();
        thread::sleep(Duration::from_millis(delay));
        // SAFETY: no pointers; the child has not been waited for.
        unsafe { libc::kill(running.pid(), libc::SIGTERM) };
        let out = running.output();
        if flavor() == Flavor::Orlop && !out.status.success() {
            bundle.check_clean();
        }
        bundle.delete_force().ok();
        bundle.check_clean();
    }
}

#[test]
fn e09_create_and_delete_over_and_over() {
    let bundle = Bundle::new().args(["/probe", "wait"]);
    for round in 0..15 {
        bundle.create();
        if round % 2 == 0 {
            bundle.start();
        }
        bundle.delete_force().ok();
    }
    bundle.check_clean();
}

#[test]
fn e39_a_stale_empty_state_directory_is_removed_by_force() {
    let bundle = Bundle::new();
    fs::create_dir(bundle.state_root().join(&bundle.id)).unwrap();
    bundle.delete_force().ok();
    bundle.check_clean();
    bundle.run(["/probe", "echo", "x"]).ok();
}

#[test]
fn e14_corrupt_state_is_an_error_and_force_removes_it() {
    peer_differs!("runc", "1.1.5 cannot remove it");
    for content in ["", "{", "null", "[]", "{\"pid\": \"x\"}", "\u{0}\u{0}\u{0}"] {
        let bundle = Bundle::new().args(["/probe", "wait"]);
        bundle.create();
        let pid = bundle.pid();
        let state = bundle.state_root().join(&bundle.id);
        for entry in fs::read_dir(&state).unwrap().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_file() && (name == "status" || name == "state.json") {
                fs::write(&path, content).unwrap();
            }
        }
        let out = bundle.command("state");
        assert!(out.code() < 128 && !out.stderr.contains("panicked"), "{out}");
        drop(bundle.call(["list"]).output());
        bundle.delete_force().ok();
        if flavor() == Flavor::Crun {
            // Without its state it cannot know the process and the cgroup.
            // SAFETY: no pointers; the pid is of this test's container.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            runtime::wait_for_end(pid, runtime::patience_ms());
            for left in crate::harness::host::cgroups_named(&bundle.id) {
                crate::harness::eventually("the cgroup empties", || fs::remove_dir(&left).is_ok());
            }
        }
        bundle.check_clean();
    }
}

#[test]
fn e15_a_reused_pid_is_never_signalled() {
    orlop_only!("records enough of the process; the peers' files have other layouts");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    let old = bundle.pid();
    // SAFETY: no pointers; the pid is of this test's container.
    unsafe { libc::kill(old, libc::SIGKILL) };
    bundle.wait_stopped();
    // An innocent process gets the recorded number by an edit of the state, which stands for a reuse.
    let mut innocent = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let state = bundle.state_root().join(&bundle.id);
    let mut edited = 0;
    for entry in fs::read_dir(&state).unwrap().flatten().filter(|e| e.path().is_file()) {
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        if text.contains(&format!("\"pid\":{old}")) || text.contains(&format!("\"pid\": {old}")) {
            let new = innocent.id();
            let text = text.replace(&format!("\"pid\":{old}"), &format!("\"pid\":{new}"));
            fs::write(entry.path(), text.replace(&format!("\"pid\": {old}"), &format!("\"pid\": {new}"))).unwrap();
            edited += 1;
        }
    }
    assert!(edited > 0, "the state records the pid in some file");
    assert_eq!(bundle.state()["status"], "stopped");
    bundle.kill("KILL").fails();
    bundle.delete_force().ok();
    let alive = innocent.try_wait().unwrap().is_none();
    drop(innocent.kill());
    drop(innocent.wait());
    assert!(alive, "an innocent process was killed");
}

#[test]
fn e12_start_does_not_hang_on_a_dead_init() {
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    // SAFETY: no pointers; the pid is of this test's container.
    unsafe { libc::kill(bundle.pid(), libc::SIGKILL) };
    // Not waited for: start races with the death.
    bundle.command("start").fails();
}

#[test]
fn e38_state_does_not_depend_on_the_number_of_containers() {
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    for i in 0..500 {
        fs::create_dir(bundle.state_root().join(format!("other-{i}"))).unwrap();
    }
    assert_eq!(bundle.state()["status"], "created");
    for i in 0..500 {
        fs::remove_dir(bundle.state_root().join(format!("other-{i}"))).unwrap();
    }
}

#[test]
fn e44_few_descriptors_are_an_error_not_a_leak() {
    peer_differs!("crun", "1.8 does not clean up after this failure");
    peer_differs!("runc", "the Go runtime needs more to report anything");
    for limit in [4, 5, 6, 8, 12, 16] {
        let bundle = Bundle::new().args(["/probe", "echo", "x"]);
        // SAFETY: setrlimit is async-signal-safe and gets a valid pointer.
        let call = unsafe {
            bundle.call_new("run", &[]).pre_exec(move || {
                let value = libc::rlimit { rlim_cur: limit, rlim_max: limit };
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const value);
                Ok(())
            })
        };
        let out = call.output();
        assert!(out.code() < 128 && !out.stderr.contains("panicked"), "{limit}: {out}");
        bundle.delete_force().ok();
        bundle.check_clean();
    }
}

#[test]
fn e34_many_signals_do_not_lose_the_status() {
    let bundle = Bundle::new().args(["/probe", "wait", ",", "exit", "0"]).without_ns("pid");
    let running = bundle.call_new("run", &[]).start();
    let path = running.stdout_path().to_path_buf();
    crate::harness::eventually("the container is ready", || fs::read_to_string(&path).unwrap().contains("ready"));
    for _ in 0..200 {
        // SIGWINCH is forwarded or handled, and ends nobody.
        // SAFETY: no pointers; the child has not been waited for.
        unsafe { libc::kill(running.pid(), libc::SIGWINCH) };
    }
    // SAFETY: as above.
    unsafe { libc::kill(running.pid(), libc::SIGTERM) };
    assert_eq!(running.output().code(), 128 + libc::SIGTERM);
}

#[test]
fn delete_works_from_another_working_directory_and_without_the_bundle() {
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    fs::remove_file(bundle.dir.join("config.json")).unwrap();
    bundle.start();
    bundle.kill("KILL").ok();
    bundle.wait_stopped();
    bundle.delete().ok();
    bundle.check_clean();
}

#[test]
fn e22_a_frozen_container_is_killed_and_deleted() {
    peer_differs!("runc", "1.1.5 may leave it frozen");
    peer_differs!("crun", "1.8 may leave it frozen");
    let freeze = |bundle: &Bundle| {
        let cgroups = crate::harness::host::cgroups_named(&bundle.id);
        let files = cgroups.iter().flat_map(|c| [(c.join("freezer.state"), "FROZEN"), (c.join("cgroup.freeze"), "1")]);
        let (file, word) = files.into_iter().find(|(file, _)| file.exists()).unwrap();
        fs::write(file, word).unwrap();
        crate::harness::eventually("it is paused", || bundle.state()["status"] == "paused");
    };
    for bundle in [Bundle::new(), Bundle::v2()] {
        let bundle = bundle.args(["/probe", "wait"]);
        bundle.create();
        bundle.start();
        freeze(&bundle);
        bundle.delete_force().ok();
        bundle.check_clean();
        bundle.create();
        bundle.start();
        freeze(&bundle);
        bundle.kill("KILL").ok();
        bundle.wait_stopped();
        bundle.delete().ok();
    }
}

#[test]
fn a_create_that_runs_out_of_descriptors_clears_up_by_itself() {
    orlop_only!("needs no more descriptors to clear up than it had");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    for limit in 4..64 {
        // SAFETY: setrlimit is async-signal-safe and gets a valid pointer.
        let call = unsafe {
            bundle.call_new("create", &[]).pre_exec(move || {
                let value = libc::rlimit { rlim_cur: limit, rlim_max: limit };
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const value);
                Ok(())
            })
        };
        let out = call.output();
        if out.status.success() {
            return;
        }
        out.fails();
        bundle.check_clean();
    }
    panic!("a create needs more than 64 descriptors");
}

#[test]
fn a_signal_ends_a_create_whose_hook_hangs() {
    orlop_only!("1.1.5 and 1.8 of the peers die and leave the rest to delete");
    let (bundle, hold) = with_a_hook_that_hangs(None);
    let running = bundle.call_new("create", &[]).start();
    crate::harness::eventually("the hook runs", || hold.exists());
    // Not the second signal either may end it before it has cleared up.
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: no pointers; the child has not been waited for, so the pid is still its own.
        unsafe { libc::kill(running.pid(), signal) };
    }
    running.output().fails_with(&["interrupted by SIG"]);
    assert!(!bundle.pid_file().exists());
    bundle.check_clean();
}

#[test]
fn a_forced_delete_does_not_wait_for_ever_for_a_create_that_hangs() {
    orlop_only!("locks its state directory");
    let (bundle, hold) = with_a_hook_that_hangs(None);
    // One that hears the signal, and one that cannot.
    for stopped in [false, true] {
        let running = bundle.call_new("create", &[]).start();
        crate::harness::eventually("the hook runs", || hold.exists());
        if stopped {
            // SAFETY: no pointers; the child has not been waited for.
            unsafe { libc::kill(running.pid(), libc::SIGSTOP) };
        }
        bundle.delete_force().ok();
        assert!(!running.output().status.success());
        bundle.check_clean();
        fs::remove_file(&hold).unwrap();
    }
}

#[test]
fn a_container_that_lost_its_records_is_found_by_its_kept_config() {
    orlop_only!("keeps the config");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    let state = bundle.state_root().join(&bundle.id);
    for name in ["state.json", "intent.json"] {
        fs::write(state.join(name), "").unwrap();
    }
    bundle.delete_force().ok();
    bundle.check_clean();
}

#[test]
fn creates_and_forced_deletes_of_one_id_do_not_break_each_other() {
    orlop_only!("locks its state directory");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.write_config();
    let dir = bundle.dir.to_str().unwrap();
    for _ in 0..8 {
        let creates: Vec<Running> =
            (0..3).map(|_| bundle.call(["create", "--bundle", dir, &bundle.id]).start()).collect();
        let deletes: Vec<Running> = (0..3).map(|_| bundle.call(["delete", "--force", &bundle.id]).start()).collect();
        for delete in deletes {
            delete.output().ok();
        }
        for create in creates {
            let out = create.output();
            assert!(out.code() <= 1, "{out}");
        }
        bundle.delete_force().ok();
        bundle.check_clean();
    }
}

#[test]
fn what_is_no_container_is_not_deleted_in_silence() {
    orlop_only!("says so");
    let bundle = Bundle::new();
    let file = bundle.state_root().join(&bundle.id);
    fs::write(&file, "").unwrap();
    bundle.delete_force().fails_with(&["not a directory"]);
    fs::remove_file(&file).unwrap();
}
