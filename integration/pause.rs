// SPDX-License-Identifier: Apache-2.0
//! `pause` and `resume`: nothing runs in a paused container, and what the other commands make of one.

use std::time::Duration;

use crate::harness::{Bundle, Flavor, eventually, flavor};
use crate::peer_differs;

/// Both layers, with a program that waits.
fn running() -> Vec<Bundle> {
    let mut bundles = vec![Bundle::new(), Bundle::v2()];
    if flavor() == Flavor::Crun {
        bundles.remove(0);
    }
    let run = |bundle: Bundle| {
        let bundle = bundle.args(["/probe", "wait"]);
        bundle.create();
        bundle.start();
        bundle
    };
    bundles.into_iter().map(run).collect()
}

/// Ticks of processor time that a process has used.
fn ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_paused_container_does_nothing_until_it_is_resumed() {
    for bundle in [Bundle::new(), Bundle::v2()] {
        if flavor() == Flavor::Crun && bundle.layer != crate::harness::Layer::V2 {
            continue;
        }
        // A program that works all the time: no clock has to be trusted to see it stop.
        let bundle = bundle.args(["/probe", "spin"]);
        bundle.create();
        bundle.start();
        let pid = bundle.pid();
        eventually("the program works", || ticks(pid) > 2);
        bundle.command("pause").ok();
        assert_eq!(bundle.state()["status"], "paused");
        let list = bundle.call(["list", "--format", "json"]).output().json();
        assert_eq!(list[0]["status"], "paused", "{list}");
        let before = ticks(pid);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(ticks(pid), before, "it has worked on");
        bundle.command("resume").ok();
        assert_eq!(bundle.state()["status"], "running");
        eventually("the program works again", || ticks(pid) > before);
        bundle.delete_force().ok();
        bundle.check_clean();
    }
}

#[test]
fn a_created_container_can_be_paused_but_not_started_then() {
    peer_differs!("crun", "1.8 calls it created still");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    bundle.command("pause").ok();
    assert_eq!(bundle.state()["status"], "paused");
    bundle.command("start").fails_with(&["paused"]);
    bundle.command("resume").ok();
    assert_eq!(bundle.state()["status"], "created");
    bundle.start();
}

#[test]
fn pause_and_resume_in_the_wrong_state_say_so() {
    peer_differs!("crun", "1.8 has other words");
    for bundle in running() {
        bundle.command("resume").fails_with(&["container not paused"]);
        bundle.command("pause").ok();
        bundle.command("pause").fails_with(&["container not running"]);
        bundle.command("resume").ok();
        bundle.kill("KILL").ok();
        bundle.wait_stopped();
        bundle.command("pause").fails_with(&["container not running"]);
        bundle.command("resume").fails_with(&["container not paused"]);
        bundle.delete().ok();
        for command in ["pause", "resume"] {
            bundle.command(command).fails_with(&["does not exist"]);
        }
    }
}

#[test]
fn exec_in_a_paused_container_is_refused_or_waits() {
    peer_differs!("crun", "has no --ignore-paused");
    for bundle in running() {
        bundle.command("pause").ok();
        let out = bundle.call(["exec", &bundle.id, "/probe", "echo", "x"]).output();
        out.fails_with(&["cannot exec in a paused container (use --ignore-paused to override)"]);
        let waiting = bundle.call(["exec", "--ignore-paused", &bundle.id, "/probe", "echo", "x"]).start();
        std::thread::sleep(Duration::from_millis(200));
        bundle.command("resume").ok();
        let out = waiting.output().ok();
        assert!(out.stdout.contains("\"x\""), "{out}");
    }
}

#[test]
fn a_paused_container_can_be_killed_and_deleted() {
    peer_differs!("crun", "1.8 has other words");
    for bundle in running() {
        bundle.command("pause").ok();
        bundle.delete().fails_with(&["paused"]);
        assert_eq!(bundle.state()["status"], "paused", "a refused delete has let it go");
        bundle.kill("KILL").ok();
        bundle.wait_stopped();
        bundle.delete().ok();
        bundle.check_clean();
    }
    for bundle in running() {
        bundle.command("pause").ok();
        bundle.delete_force().ok();
        bundle.check_clean();
    }
}

#[test]
fn a_signal_waits_in_a_paused_container() {
    let bundle = Bundle::new().args(["/probe", "catch"]);
    bundle.create();
    bundle.start();
    bundle.wait_printed(1);
    bundle.command("pause").ok();
    bundle.kill("TERM").ok();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(bundle.printed().lines().count(), 1, "{}", bundle.printed());
    bundle.command("resume").ok();
    bundle.wait_printed(2);
}
