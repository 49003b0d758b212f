// SPDX-License-Identifier: Apache-2.0
//! checkpoint and restore, with the real criu. The machine's own is used if `criu check` finds that it works here;
//! otherwise the one of Debian sid is unpacked, which knows newer kernels. `CRIU=FILE` names another.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::harness::{Bundle, Call, Output, config, eventually, host, runtime};
use crate::tty::Receiver;
use crate::{orlop_only, skip_expected};

/// A directory for PATH with a criu that works here, or why there is none.
fn criu() -> Result<&'static Path, &'static str> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOUND.get_or_init(find_criu).as_ref().map(PathBuf::as_path).map_err(String::as_str)
}

fn find_criu() -> Result<PathBuf, String> {
    let directory = runtime::base().join("criu");
    fs::create_dir(&directory).unwrap();
    let own = std::env::var_os("CRIU").map(PathBuf::from).or_else(|| host::find_program("criu"));
    let mut why = "there is no criu".to_string();
    if let Some(own) = own {
        symlink(&own, directory.join("criu")).unwrap();
        match check(&directory) {
            Ok(()) => return Ok(directory),
            Err(said) => why = said,
        }
        fs::remove_file(directory.join("criu")).unwrap();
    }
    let tree = runtime::base().join("sid");
    let options =
        ["--variant=extract", "--include=criu,iptables", "--aptopt=Acquire::Check-Valid-Until \"false\"", "sid"];
    let made = Command::new("mmdebstrap").args(options).arg(&tree).stdin(Stdio::null()).output();
    match made {
        Err(e) => return Err(format!("{why}; mmdebstrap: {e}")),
        Ok(out) if !out.status.success() => {
            return Err(format!("{why}; mmdebstrap: {}", String::from_utf8_lossy(&out.stderr)));
        }
        Ok(_) => {}
    }
    let (tree, lib) = (tree.display(), "usr/lib/x86_64-linux-gnu");
    for (name, program) in [
        ("criu", "criu"),
        ("iptables-restore", "xtables-nft-multi iptables-restore"),
        ("ip6tables-restore", "xtables-nft-multi ip6tables-restore"),
    ] {
        let script = format!(
            "#!/bin/sh\nexport XTABLES_LIBDIR={tree}/{lib}/xtables\n\
             exec {tree}/{lib}/ld-linux-x86-64.so.2 --library-path {tree}/{lib} {tree}/usr/sbin/{program} \"$@\"\n"
        );
        // Another process writes it: see `copy_program`.
        let mut shell = Command::new("sh")
            .arg("-c")
            .arg("cat >\"$0\"")
            .arg(directory.join(name))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(shell.wait().unwrap().success());
        fs::set_permissions(directory.join(name), PermissionsExt::from_mode(0o755)).unwrap();
    }
    check(&directory).map(|()| directory).map_err(|newer| format!("{why}; that of Debian sid: {newer}"))
}

/// What `criu check` says.
fn check(directory: &Path) -> Result<(), String> {
    let out = Command::new(directory.join("criu")).arg("check").env("PATH", path(directory)).output().unwrap();
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    if out.status.success() { Ok(()) } else { Err(said) }
}

fn path(directory: &Path) -> String {
    format!("{}:{}", directory.display(), std::env::var("PATH").unwrap_or_default())
}

macro_rules! need_criu {
    () => {
        match criu() {
            Ok(directory) => directory,
            Err(why) => skip_expected!("criu does not work here: {why}"),
        }
    };
}

/// A container that counts in /tmp/count.
fn counter() -> Bundle {
    Bundle::new().args(["/probe", "count", "/tmp/count"])
}

fn count(bundle: &Bundle) -> u64 {
    fs::read_to_string(bundle.rootfs().join("tmp/count")).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[track_caller]
fn counts(bundle: &Bundle) -> u64 {
    let before = count(bundle);
    eventually("it counts", || count(bundle) > before + 3);
    before
}

#[track_caller]
fn run(bundle: &Bundle) {
    bundle.call_new("run", &["--detach"]).output().ok();
}

fn images(bundle: &Bundle) -> PathBuf {
    bundle.dir.join("images")
}

fn checkpoint(bundle: &Bundle, criu: &Path, options: &[&str]) -> Call {
    let images = images(bundle);
    let mut words = vec!["checkpoint", "--image-path", images.to_str().unwrap()];
    words.extend(options);
    words.push(&bundle.id);
    bundle.call(words).env("PATH", &path(criu))
}

/// `restore` of the same id, with a `--pid-file`. The configuration is written first.
fn restore(bundle: &Bundle, criu: &Path, options: &[&str]) -> Call {
    let images = images(bundle);
    let mut words = vec!["--image-path", images.to_str().unwrap()];
    words.extend(options);
    bundle.call_new("restore", &words).env("PATH", &path(criu))
}

/// Fails the test unless nothing is left of the container but the bundle and the images.
#[track_caller]
fn gone(bundle: &Bundle) {
    assert!(bundle.command("state").fails().stderr.contains("does not exist"));
    bundle.check_clean();
}

/// Checkpoints and restores, in the background, and gives what `restore` said.
#[track_caller]
fn there_and_back(bundle: &Bundle, criu: &Path) -> Output {
    checkpoint(bundle, criu, &[]).output().ok();
    gone(bundle);
    restore(bundle, criu, &["--detach"]).output().ok()
}

fn counting_goes_on(bundle: &Bundle) {
    let criu = need_criu!();
    run(bundle);
    counts(bundle);
    checkpoint(bundle, criu, &[]).output().ok();
    gone(bundle);
    let stopped_at = count(bundle);
    assert!(images(bundle).join("dump.log").exists());
    restore(bundle, criu, &["--detach"]).output().ok();
    assert!(counts(bundle) >= stopped_at, "it began anew");
    let state = bundle.state();
    assert_eq!((&state["status"], &state["pid"]), (&json!("running"), &json!(bundle.pid())));
    // It is in its cgroups, or these could not end it.
    bundle.call(["kill", "--all", &bundle.id, "KILL"]).output().ok();
    bundle.wait_stopped();
    bundle.delete().ok();
    gone(bundle);
}

#[test]
fn a_restored_container_goes_on_where_it_was() {
    orlop_only!("takes a file of the host as a standard stream");
    counting_goes_on(&counter());
}

#[test]
fn a_restored_container_goes_on_where_it_was_on_cgroup2() {
    orlop_only!("takes a file of the host as a standard stream");
    let mut bundle = counter();
    bundle.layer = runtime::Layer::V2;
    counting_goes_on(&bundle);
}

#[test]
fn exec_works_in_a_restored_container() {
    orlop_only!("takes a file of the host as a standard stream");
    let criu = need_criu!();
    let bundle = counter();
    run(&bundle);
    counts(&bundle);
    there_and_back(&bundle, criu);
    let out = bundle.call(["exec", &bundle.id, "/probe", "echo", "hi"]).output().ok();
    assert_eq!(out.json()["echo"], json!(["hi"]));
    let seen = bundle.call(["exec", &bundle.id, "/probe"]).output().ok().json();
    assert_ne!(seen["ns"]["pid"], json!(crate::harness::own_ns("pid")));
}

#[test]
fn a_restored_container_can_be_checkpointed_again() {
    orlop_only!("takes a file of the host as a standard stream");
    let criu = need_criu!();
    let bundle = counter();
    run(&bundle);
    for _ in 0..2 {
        let before = counts(&bundle);
        there_and_back(&bundle, criu);
        assert!(counts(&bundle) >= before);
        fs::remove_dir_all(images(&bundle)).unwrap();
    }
}

#[test]
fn a_container_that_is_left_running_goes_on() {
    orlop_only!("takes a file of the host as a standard stream");
    let criu = need_criu!();
    let bundle = counter();
    run(&bundle);
    counts(&bundle);
    checkpoint(&bundle, criu, &["--leave-running"]).output().ok();
    assert_eq!(bundle.state()["status"], "running");
    counts(&bundle);
    bundle.delete_force().ok();
    let before = count(&bundle);
    restore(&bundle, criu, &["--detach"]).output().ok();
    // It goes on from the checkpoint, not from where the other one came to.
    eventually("it counts", || count(&bundle) != before);
}

#[test]
fn a_restored_foreground_container_gives_its_exit_status() {
    let criu = need_criu!();
    let bundle = Bundle::new().args(["/probe", "repeat", ",", "exit", "7"]);
    let (running, _input, _output) = with_pipes(bundle.call_new("run", &["--detach"]));
    running.output().ok();
    checkpoint(&bundle, criu, &[]).output().ok();
    let (running, input, mut output) = with_pipes(restore(&bundle, criu, &[]));
    drop(input);
    let out = running.output();
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(out.code(), 7, "{out} {text}");
    assert!(text.contains("\"ended\":true"), "{text}");
    gone(&bundle);
}

#[test]
fn a_restored_foreground_container_gets_signals() {
    let criu = need_criu!();
    let bundle = Bundle::new().args(["/probe", "catch"]);
    let (running, _input, mut output) = with_pipes(bundle.call_new("run", &["--detach"]));
    running.output().ok();
    let mut first = [0; 8];
    output.read_exact(&mut first).unwrap();
    checkpoint(&bundle, criu, &[]).output().ok();
    let (running, _input, mut output) = with_pipes(restore(&bundle, criu, &[]));
    eventually("it is restored", || bundle.command("state").stdout.contains("\"running\""));
    // SAFETY: no pointers; the child has not been waited for.
    unsafe { libc::kill(running.pid(), libc::SIGUSR2) };
    assert_eq!(running.output().code(), 0);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(runtime::lines(&text)[0]["signal"], libc::SIGUSR2, "{text}");
}

/// Starts a call with pipes for standard streams, and gives our ends of them.
fn with_pipes(call: Call) -> (crate::harness::Running, std::io::PipeWriter, std::io::PipeReader) {
    let (theirs, input) = std::io::pipe().unwrap();
    let (output, out) = std::io::pipe().unwrap();
    let running = call.stdin(theirs).fd(&out, 1).fd(&out, 2).start();
    (running, input, output)
}

#[test]
fn pipes_are_exchanged() {
    let criu = need_criu!();
    let bundle = Bundle::new().args(["/probe", "repeat"]);
    let line = |output: &mut std::io::PipeReader| -> Value {
        let mut text = String::new();
        let mut byte = [0];
        while !text.ends_with('\n') && output.read(&mut byte).unwrap() == 1 {
            text.push(byte[0].into());
        }
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text:?}"))
    };
    let (running, mut input, mut output) = with_pipes(bundle.call_new("run", &["--detach"]));
    running.output().ok();
    assert_eq!(line(&mut output)["ready"], true);
    writeln!(input, "one").unwrap();
    assert_eq!(line(&mut output)["line"], "one");
    checkpoint(&bundle, criu, &[]).output().ok();
    let (running, mut input, mut output) = with_pipes(restore(&bundle, criu, &["--detach"]));
    running.output().ok();
    writeln!(input, "two").unwrap();
    assert_eq!(line(&mut output)["line"], "two");
    drop(input);
    assert_eq!(line(&mut output)["ended"], true);
    bundle.wait_stopped();
}

#[test]
fn a_terminal_is_handed_to_the_console_socket_again() {
    let criu = need_criu!();
    let bundle = Bundle::new().set("/process/terminal", true).args(["/probe", "repeat"]);
    let receiver = Receiver::new(&bundle);
    bundle.try_create(&["--console-socket", &receiver.path]).ok();
    let (master, _) = receiver.receive();
    bundle.start();
    let said = |master: &mut fs::File, words: &str| {
        let mut text = String::new();
        let mut block = [0; 256];
        while !text.contains(words) {
            let n = master.read(&mut block).unwrap_or_else(|e| panic!("{e}, so far {text:?}"));
            text.push_str(&String::from_utf8_lossy(&block[..n]));
        }
    };
    let mut master = fs::File::from(master);
    said(&mut master, "ready");
    checkpoint(&bundle, criu, &[]).output().ok();
    drop(master);
    let detached = restore(&bundle, criu, &["--detach"]).output();
    detached.fails_with(&["cannot allocate tty"]);
    restore(&bundle, criu, &["--detach", "--console-socket", &receiver.path]).output().ok();
    let (master, _) = receiver.receive();
    let mut master = fs::File::from(master);
    writeln!(master, "again").unwrap();
    said(&mut master, "{\"line\":\"again\"}");
}

#[test]
fn bind_mounts_come_from_the_config() {
    orlop_only!("takes a file of the host as a standard stream");
    let criu = need_criu!();
    let bundle = Bundle::new();
    let (first, second) = (bundle.dir.join("first"), bundle.dir.join("second"));
    for directory in [&first, &second] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(first.join("file"), "x").unwrap();
    // Names that CRIU must not take apart, and a link that leads to where the mount really is.
    let odd = "/mnt/a] [m1:b ü";
    let mut bundle = bundle
        .link_in_rootfs("/link", "/mnt/real")
        .dir_in_rootfs("/mnt/real", 0o755)
        .mount(odd, "bind", first.to_str().unwrap(), &["bind"])
        .mount("/link", "bind", first.to_str().unwrap(), &["bind"])
        .mount("/mnt/file", "bind", first.join("file").to_str().unwrap(), &["bind", "ro"])
        .set("/linux/maskedPaths", json!(["/proc/keys", "/proc/timer_list", "/proc/scsi"]))
        .set("/linux/readonlyPaths", json!(["/proc/sys"]))
        .args(["/probe", "count", &format!("{odd}/count")]);
    run(&bundle);
    eventually("it counts", || first.join("count").exists());
    checkpoint(&bundle, criu, &[]).output().ok();
    let kept: Value = serde_json::from_slice(&fs::read(images(&bundle).join("orlop.json")).unwrap()).unwrap();
    let key = |path: &str| kept.as_array().unwrap().iter().find(|p| p["path"] == path).unwrap()["key"].clone();
    assert_eq!((key(odd), key("/mnt/real"), key("/mnt/file")), (json!("m3"), json!("m4"), json!("m5")));
    let dumped = fs::read_dir(images(&bundle))
        .unwrap()
        .flatten()
        .find(|e| e.file_name().to_string_lossy().starts_with("mountpoints-"))
        .unwrap();
    let dumped = fs::read(dumped.path()).unwrap();
    assert!(["m3", "m4", "m5"].iter().all(|key| dumped.windows(2).any(|w| w == key.as_bytes())));
    // Another order and another source: what counts is the destination.
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    let moved = mounts.remove(3);
    mounts.push(moved);
    mounts[5]["source"] = json!(second.to_str().unwrap());
    restore(&bundle, criu, &["--detach"]).output().ok();
    eventually("it counts in the other directory", || second.join("count").exists());
    let seen =
        bundle.call(["exec", &bundle.id, "/probe", "stat", "/mnt/real/file", ",", "read", "/proc/keys"]).output().ok();
    assert_eq!(seen.jsons()[1]["content"], "", "{seen}");
}

#[test]
fn a_mount_point_that_would_confuse_criu_is_refused() {
    orlop_only!("refuses it");
    let criu = need_criu!();
    let bundle = counter();
    let canary = bundle.canary();
    let bundle = bundle.mount("/mnt/x]:/etc", "bind", canary.to_str().unwrap(), &["bind"]);
    run(&bundle);
    counts(&bundle);
    checkpoint(&bundle, criu, &[]).output().fails_with(&["/mnt/x]:/etc", "cannot be checkpointed"]);
    assert_eq!(bundle.state()["status"], "running");
    counts(&bundle);
    bundle.check_canary();
}

/// CVE-2026-119101 and its like: what is in the root filesystem at a mount point of the checkpoint leads elsewhere.
#[test]
fn a_link_at_a_mount_point_is_not_followed() {
    orlop_only!("refuses it");
    let criu = need_criu!();
    let bundle = counter();
    let canary = bundle.canary();
    let source = bundle.dir.join("volume");
    fs::create_dir_all(source.join("inner")).unwrap();
    let inner = bundle.dir.join("inner");
    fs::create_dir(&inner).unwrap();
    let bundle = bundle.mount("/mnt/a/data", "bind", source.to_str().unwrap(), &["bind"]).mount(
        "/mnt/a/data/inner",
        "bind",
        inner.to_str().unwrap(),
        &["bind"],
    );
    run(&bundle);
    counts(&bundle);
    checkpoint(&bundle, criu, &[]).output().ok();
    fs::remove_file(bundle.pid_file()).unwrap();
    let place = bundle.rootfs().join("mnt/a");
    let aside = bundle.dir.join("aside");
    let refused = |what: &str| {
        let out = restore(&bundle, criu, &["--detach"]).output().fails_with(&["/mnt/a/data", what]);
        assert!(!bundle.pid_file().exists(), "{out}");
        gone(&bundle);
        bundle.check_canary();
    };
    fs::rename(place.join("data"), &aside).unwrap();
    for target in [canary.to_str().unwrap(), "../../../canary", "/nowhere"] {
        symlink(target, place.join("data")).unwrap();
        refused("ELOOP");
        fs::remove_file(place.join("data")).unwrap();
    }
    fs::write(place.join("data"), "").unwrap();
    refused("was a directory");
    fs::remove_file(place.join("data")).unwrap();
    fs::rename(&place, bundle.dir.join("aside2")).unwrap();
    symlink(&canary, &place).unwrap();
    refused("ELOOP");
    fs::remove_file(&place).unwrap();
    // In a volume, too. And what is missing is made.
    fs::remove_dir(source.join("inner")).unwrap();
    symlink(&canary, source.join("inner")).unwrap();
    refused("ELOOP");
    fs::remove_file(source.join("inner")).unwrap();
    restore(&bundle, criu, &["--detach"]).output().ok();
    counts(&bundle);
}

#[test]
fn an_image_cannot_choose_sources() {
    orlop_only!("has orlop.json");
    let criu = need_criu!();
    let bundle = counter();
    let volume = bundle.dir.join("volume");
    fs::create_dir(&volume).unwrap();
    let mut bundle = bundle.mount("/mnt", "bind", volume.to_str().unwrap(), &["bind"]);
    run(&bundle);
    counts(&bundle);
    checkpoint(&bundle, criu, &[]).output().ok();
    let file = images(&bundle).join("orlop.json");
    let good: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let place = good.as_array().unwrap().iter().position(|p| p["path"] == "/mnt").unwrap();
    for (member, value, words) in [
        ("key", "m3]:/etc", "not a key"),
        ("key", "/etc", "not a key"),
        ("destination", "/etc", "that config.json has not"),
        ("path", "/mnt/../../etc", "not the path of a mount"),
    ] {
        let mut bad = good.clone();
        bad[place][member] = json!(value);
        fs::write(&file, bad.to_string()).unwrap();
        restore(&bundle, criu, &["--detach"]).output().fails_with(&[words]);
        gone(&bundle);
    }
    fs::write(&file, "{").unwrap();
    restore(&bundle, criu, &["--detach"]).output().fails_with(&["orlop.json", "damaged"]);
    fs::write(&file, good.to_string()).unwrap();
    config::remove(&mut bundle.config, "/mounts/3");
    restore(&bundle, criu, &["--detach"]).output().fails_with(&["/mnt", "that config.json has not"]);
    gone(&bundle);
}

#[test]
fn a_joined_network_namespace_is_joined_again() {
    orlop_only!("takes a file of the host as a standard stream");
    let criu = need_criu!();
    let mut holder = Command::new("unshare").args(["--net", "sleep", "600"]).spawn().unwrap();
    let of_holder = format!("/proc/{}/ns/net", holder.id());
    eventually("it has its namespace", || {
        fs::read_link(&of_holder).is_ok_and(|ns| ns.to_str().unwrap() != crate::harness::own_ns("net"))
    });
    let bundle = counter().join_ns("network", &of_holder);
    run(&bundle);
    counts(&bundle);
    there_and_back(&bundle, criu);
    assert_eq!(fs::read_link(format!("/proc/{}/ns/net", bundle.pid())).unwrap(), fs::read_link(&of_holder).unwrap());
    counts(&bundle);
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn a_container_in_a_user_namespace_is_restored() {
    orlop_only!("takes a file of the host as a standard stream");
    let criu = need_criu!();
    let bundle = counter().userns(0, 100_000, 65_536);
    let volume = bundle.dir.join("volume");
    fs::create_dir(&volume).unwrap();
    let bundle = bundle.mount("/mnt", "bind", volume.to_str().unwrap(), &["bind"]);
    let (running, _input, _output) = with_pipes(bundle.call_new("run", &["--detach"]));
    running.output().ok();
    counts(&bundle);
    checkpoint(&bundle, criu, &[]).output().ok();
    let before = fs::metadata(images(&bundle)).unwrap();
    let (running, _input, mut output) = with_pipes(restore(&bundle, criu, &["--detach"]));
    let out = running.output();
    if !out.status.success() {
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        panic!("{out} {text}");
    }
    let after = fs::metadata(images(&bundle)).unwrap();
    assert_eq!((before.mode(), before.gid()), (after.mode(), after.gid()));
    counts(&bundle);
    let map = fs::read_to_string(format!("/proc/{}/uid_map", bundle.pid())).unwrap();
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536"]);
}

#[test]
fn hooks_run_at_restore() {
    orlop_only!("takes a file of the host as a standard stream");
    let criu = need_criu!();
    let bundle = counter();
    let log = bundle.dir.join("hooks");
    let hook =
        |name: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo {name} >>{}", log.display())]}]);
    let bundle = bundle
        .set("/hooks/prestart", hook("prestart"))
        .set("/hooks/createRuntime", hook("createRuntime"))
        .set("/hooks/poststop", hook("poststop"));
    run(&bundle);
    counts(&bundle);
    checkpoint(&bundle, criu, &[]).output().ok();
    assert_eq!(fs::read_to_string(&log).unwrap(), "prestart\ncreateRuntime\npoststop\n");
    fs::remove_file(&log).unwrap();
    restore(&bundle, criu, &["--detach"]).output().ok();
    assert_eq!(fs::read_to_string(&log).unwrap(), "prestart\ncreateRuntime\n");
    bundle.delete_force().ok();
    let bundle = bundle.set("/hooks/createRuntime", json!([{"path": "/bin/false"}]));
    restore(&bundle, criu, &["--detach"]).output().fails_with(&["createRuntime hook #0"]);
    gone(&bundle);
}

#[test]
fn memory_can_be_dumped_beforehand() {
    orlop_only!("takes a file of the host as a standard stream");
    let criu = need_criu!();
    let bundle = counter();
    run(&bundle);
    counts(&bundle);
    let parent = bundle.dir.join("parent");
    let out = bundle
        .call(["checkpoint", "--pre-dump", "--image-path", parent.to_str().unwrap(), &bundle.id])
        .env("PATH", &path(criu))
        .output();
    assert_eq!(bundle.state()["status"], "running");
    counts(&bundle);
    if out.stderr.contains("criu check --feature") {
        out.fails_with(&["--pre-dump: the kernel or criu cannot do that"]);
        let said = Command::new(criu.join("criu")).args(["check", "--feature", "mem_dirty_track"]).output().unwrap();
        assert!(!said.status.success(), "criu can do it");
        skip_expected!("criu cannot: {}", String::from_utf8_lossy(&said.stderr));
    }
    out.ok();
    checkpoint(&bundle, criu, &["--parent-path", "../parent"]).output().ok();
    let before = count(&bundle);
    restore(&bundle, criu, &["--detach"]).output().ok();
    assert!(counts(&bundle) >= before);
}

#[test]
fn a_dump_that_fails_leaves_the_container_running() {
    orlop_only!("takes a file of the host as a standard stream");
    let criu = need_criu!();
    let bundle = counter();
    run(&bundle);
    counts(&bundle);
    // Nobody listens there.
    let out = checkpoint(&bundle, criu, &["--page-server", "127.0.0.1:1"]).output();
    out.fails_with(&["criu failed: dump", "dump.log", "Error ("]);
    assert_eq!(bundle.state()["status"], "running");
    counts(&bundle);
    for (options, words) in [
        (["--page-server", "nowhere"], "expected ADDRESS:PORT"),
        (["--parent-path", "/tmp"], "must be relative"),
        (["--parent-path", "../missing"], "is not a directory"),
        (["--manage-cgroups-mode", "odd"], "invalid value 'odd'"),
        (["--empty-ns", "pid"], "invalid value 'pid'"),
    ] {
        checkpoint(&bundle, criu, &options).output().fails_with(&[words]);
    }
    let broken = bundle.dir.join("broken");
    fs::create_dir(&broken).unwrap();
    fs::copy("/bin/false", broken.join("criu")).unwrap();
    checkpoint(&bundle, &broken, &[]).output().fails_with(&["criu has died"]);
    assert_eq!(bundle.state()["status"], "running");
    counts(&bundle);
}

#[test]
fn a_restore_that_fails_leaves_nothing() {
    orlop_only!("takes a file of the host as a standard stream");
    let criu = need_criu!();
    let bundle = counter();
    restore(&bundle, criu, &["--detach"]).output().fails_with(&["--image-path", "ENOENT"]);
    gone(&bundle);
    fs::create_dir(images(&bundle)).unwrap();
    restore(&bundle, criu, &["--detach"]).output().fails_with(&["orlop.json", "ENOENT"]);
    gone(&bundle);
    run(&bundle);
    counts(&bundle);
    checkpoint(&bundle, criu, &["--leave-running"]).output().ok();
    restore(&bundle, criu, &["--detach"]).output().fails_with(&["already exists"]);
    counts(&bundle);
    bundle.delete_force().ok();
    fs::remove_file(images(&bundle).join("inventory.img")).unwrap();
    fs::remove_file(bundle.pid_file()).unwrap();
    restore(&bundle, criu, &["--detach"]).output().fails_with(&["criu failed: restore", "restore.log"]);
    assert!(!bundle.pid_file().exists());
    gone(&bundle);
}

#[test]
fn an_interrupted_restore_leaves_nothing() {
    orlop_only!("takes a file of the host as a standard stream");
    let criu = need_criu!();
    let bundle = counter();
    run(&bundle);
    counts(&bundle);
    checkpoint(&bundle, criu, &[]).output().ok();
    let mark = bundle.dir.join("in the hook");
    let script = format!("touch '{}'; sleep 600", mark.display());
    let bundle = bundle.set("/hooks/createRuntime", json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]));
    let running = restore(&bundle, criu, &["--detach"]).start();
    eventually("the hook runs", || mark.exists());
    // SAFETY: no pointers; the child has not been waited for.
    unsafe { libc::kill(running.pid(), libc::SIGTERM) };
    running.output().fails_with(&["interrupted by SIGTERM"]);
    gone(&bundle);
}

#[test]
fn the_network_can_be_left_open() {
    orlop_only!("has --network-lock");
    let criu = need_criu!();
    let bundle = counter();
    run(&bundle);
    counts(&bundle);
    // No iptables-restore there.
    let alone = bundle.dir.join("alone");
    fs::create_dir(&alone).unwrap();
    symlink(fs::canonicalize(criu.join("criu")).unwrap(), alone.join("criu")).unwrap();
    for tool in ["sh", "tar", "gzip", "ip"] {
        symlink(host::find_program(tool).unwrap(), alone.join(tool)).unwrap();
    }
    let images = images(&bundle);
    let lock = |how: &str| {
        let words = ["checkpoint", "--leave-running", "--network-lock", how, "--image-path", images.to_str().unwrap()];
        bundle.call(words.into_iter().chain([bundle.id.as_str()])).env("PATH", alone.to_str().unwrap()).output()
    };
    lock("iptables").fails_with(&["tables-restore"]);
    lock("skip").ok();
    counts(&bundle);
}

#[test]
fn only_a_running_container_can_be_checkpointed() {
    let criu = need_criu!();
    let bundle = counter();
    checkpoint(&bundle, criu, &[]).output().fails_with(&["does not exist"]);
    bundle.create();
    checkpoint(&bundle, criu, &[]).output().fails_with(&["cannot be checkpointed in created state"]);
    bundle.start();
    bundle.kill("KILL").ok();
    bundle.wait_stopped();
    checkpoint(&bundle, criu, &[]).output().fails_with(&["cannot be checkpointed in stopped state"]);
}

#[test]
fn without_criu_the_error_says_so() {
    orlop_only!("says so in these words");
    let bundle = Bundle::new().args(["/probe", "wait"]);
    run(&bundle);
    let empty = bundle.dir.join("empty");
    fs::create_dir(&empty).unwrap();
    let nowhere = empty.to_str().unwrap();
    let out = bundle.call(["checkpoint", "--image-path", nowhere, &bundle.id]).env("PATH", nowhere).output();
    out.fails_with(&["criu is not on PATH", "hint:"]);
    assert_eq!(bundle.state()["status"], "running");
}

#[test]
fn podman_finds_the_flags() {
    let bundle = Bundle::new();
    bundle.call(["checkpoint", "--help"]).output().ok();
    let out = bundle.call(["restore", "--lsm-mount-context"]).output().fails();
    assert!(out.stderr.contains("flag needs an argument") || out.stderr.contains("requires an argument"), "{out}");
}

#[test]
fn a_policy_lets_nothing_be_restored() {
    orlop_only!("has a policy");
    let criu = need_criu!();
    let bundle = counter();
    run(&bundle);
    counts(&bundle);
    checkpoint(&bundle, criu, &[]).output().ok();
    let policy = bundle.dir.join("policy.toml");
    fs::write(&policy, "version = 1\n").unwrap();
    bundle.write_config();
    let images = images(&bundle);
    let words = ["--policy", policy.to_str().unwrap(), "restore", "--detach", "--bundle", bundle.dir.to_str().unwrap()];
    let out = bundle
        .call(words.into_iter().chain(["--image-path", images.to_str().unwrap(), &bundle.id]))
        .env("PATH", &path(criu))
        .output();
    out.fails_with(&["under a policy cannot be restored"]);
    gone(&bundle);
}

#[test]
fn an_idmapped_mount_is_refused() {
    orlop_only!("refuses it");
    let criu = need_criu!();
    let bundle = counter();
    let volume = bundle.dir.join("volume");
    fs::create_dir(&volume).unwrap();
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    let bundle = bundle.push(
        "/mounts",
        json!({"destination": "/mnt", "source": volume, "options": ["bind"], "uidMappings": map, "gidMappings": map}),
    );
    run(&bundle);
    checkpoint(&bundle, criu, &[]).output().fails_with(&["mounts[3] /mnt", "idmapped"]);
    assert_eq!(bundle.state()["status"], "running");
}
