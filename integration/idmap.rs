// SPDX-License-Identifier: Apache-2.0
//! Idmapped mounts (config.md#linux-mount-options), and `--userns=auto`, which leases a range of ids and idmaps the root.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{Bundle, Call};
use crate::{orlop_only, peer_differs};

/// A directory beside the bundle's rootfs with a file of uid 5 and one of the host's root.
fn volume(bundle: &Bundle) -> PathBuf {
    let volume = bundle.dir.join("volume");
    fs::create_dir(&volume).unwrap();
    for (name, owner) in [("file", 5), ("root", 0)] {
        fs::write(volume.join(name), "data").unwrap();
        chown(volume.join(name), Some(owner), Some(owner)).unwrap();
    }
    volume
}

fn bind(source: &str, options: &[&str], map: Option<Value>) -> Value {
    let mut mount = json!({"destination": "/mnt", "type": "bind", "source": source, "options": options});
    if let Some(map) = map {
        mount["uidMappings"] = map.clone();
        mount["gidMappings"] = map;
    }
    mount
}

fn range(container: u32, host: u32, size: u32) -> Value {
    json!({"containerID": container, "hostID": host, "size": size})
}

#[test]
fn a_bind_mount_with_its_own_mappings() {
    peer_differs!("runc", "1.1.5 has no idmapped mounts");
    let bundle = Bundle::new();
    let volume = volume(&bundle);
    for options in [&["rbind", "idmap"][..], &["rbind"], &["bind", "ridmap"]] {
        let mount = bind(volume.to_str().unwrap(), options, Some(json!([range(0, 1000, 10)])));
        let out = Bundle::new().push("/mounts", mount).run(["/probe", "stat", "/mnt/file", ",", "stat", "/mnt/root"]);
        let seen = out.jsons();
        assert_eq!((&seen[0]["uid"], &seen[0]["gid"]), (&json!(1005), &json!(1005)), "{options:?}");
        assert_eq!(seen[1]["uid"], 1000);
    }
}

#[test]
fn idmap_alone_means_the_mapping_of_the_container() {
    peer_differs!("crun", "1.8 wants mappings with the option");
    peer_differs!("runc", "1.1.5 has no idmapped mounts");
    let bundle = Bundle::new().userns(0, 100_000, 65_536);
    let volume = volume(&bundle);
    let bundle = bundle.push("/mounts", bind(volume.to_str().unwrap(), &["rbind", "idmap"], None));
    let out = bundle.run([
        "/probe",
        "stat",
        "/mnt/file",
        ",",
        "stat",
        "/mnt/root",
        ",",
        "write",
        "/mnt/new",
        "x",
        ",",
        "stat",
        "/mnt/new",
    ]);
    let seen = out.jsons();
    assert_eq!([&seen[0]["uid"], &seen[1]["uid"], &seen[3]["uid"]], [5, 0, 0], "{out}");
    assert_eq!(fs::metadata(volume.join("new")).unwrap().uid(), 0, "made by the container's root, owned by root");
}

#[test]
fn several_mounts_with_equal_and_different_mappings() {
    orlop_only!("keeps one user namespace for each mapping");
    let bundle = Bundle::new().userns(0, 100_000, 65_536);
    let volume = volume(&bundle);
    let source = volume.to_str().unwrap();
    let mut bundle = bundle;
    for (at, map) in [("/a", None), ("/b", Some(json!([range(0, 100_000, 4), range(5, 100_007, 1)]))), ("/c", None)] {
        let mut mount = bind(source, &["bind", "idmap"], map);
        mount["destination"] = json!(at);
        bundle = bundle.dir_in_rootfs(at, 0o755).push("/mounts", mount);
    }
    let out = bundle.run(["/probe", "stat", "/a/file", ",", "stat", "/b/file", ",", "stat", "/c/file"]);
    let uids: Vec<Value> = out.jsons().iter().map(|seen| seen["uid"].clone()).collect();
    assert_eq!(uids, [5, 7, 5], "{out}");
}

#[test]
fn bad_mappings_of_a_mount_are_named() {
    orlop_only!("names the mapping");
    let many: Vec<Value> = (0..341).map(|i| range(i, 1000 + i, 1)).collect();
    for (map, word) in [
        (json!([range(0, 1000, 10), range(5, 5000, 10)]), "uidMappings[1].containerID"),
        (json!([range(0, 1000, 0)]), "uidMappings[0].size"),
        (json!([range(0, u32::MAX, 2)]), "uidMappings[0].hostID"),
        (json!(many), "at most 340"),
    ] {
        let bundle = Bundle::new().push("/mounts", bind("/tmp", &["bind", "idmap"], Some(map)));
        bundle.try_run(["/probe"]).fails_with(&[word]);
        bundle.check_clean();
    }
    let bundle = Bundle::new().push("/mounts", bind("/tmp", &["bind", "idmap"], None));
    bundle.try_run(["/probe"]).fails_with(&["mounts[3].options[1]", "no mapping to use", "hint"]);
}

#[test]
fn a_file_system_that_cannot_be_idmapped_is_named() {
    orlop_only!("names the file system");
    let map = json!([range(0, 1000, 10)]);
    let bundle = Bundle::new().push("/mounts", bind("/sys/kernel", &["bind", "idmap"], Some(map)));
    bundle.try_run(["/probe"]).fails_with(&["mounts[3].source /sys/kernel", "sysfs", "cannot be idmapped", "5.12"]);
    bundle.check_clean();
}

/// /etc/subuid and /etc/subgid of the machine, covered with others for one call of the runtime.
fn with_subids(bundle: &Bundle, call: Call, text: &str) -> Call {
    let path = bundle.dir.join("subid");
    fs::write(&path, text).unwrap();
    crate::rootless::private_files(call, &[(&path, "/etc/subuid"), (&path, "/etc/subgid")])
}

fn auto(bundle: &Bundle, userns: &str, subids: &str) -> Call {
    with_subids(bundle, bundle.call_new("create", &[userns]), subids)
}

fn maps_of(bundle: &Bundle) -> (u32, u32) {
    let text = fs::read_to_string(format!("/proc/{}/uid_map", bundle.pid())).unwrap();
    let words: Vec<u32> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert_eq!((words.len(), words[0]), (3, 0), "{text}");
    (words[1], words[2])
}

const TWO: &str = "containers:3000000:131072\n";

#[test]
fn two_containers_of_one_tree_get_disjoint_ranges_and_see_root_s_files() {
    orlop_only!("has --userns=auto");
    let args = ["/probe", "stat", "/probe", ",", "write", "/tmp/new", "x", ",", "stat", "/tmp/new", ",", "wait"];
    let mut first = Bundle::new().args(args);
    let mut second = Bundle::new().args(args);
    let rootfs = first.rootfs();
    let volume = volume(&first);
    // One state root, one tree, one volume.
    first = first.push("/mounts", bind(volume.to_str().unwrap(), &["rbind"], None));
    second = second.set("/root/path", rootfs.to_str().unwrap());
    let state = first.state_root();
    let here = |bundle: &Bundle, words: &[&str]| {
        let call = Call::new(&crate::harness::runtime::program(), &bundle.dir, bundle.layer);
        call.env("ORLOP_IT", &bundle.id).args(["--root", state.to_str().unwrap()]).args(words)
    };
    let create = |bundle: &Bundle| {
        bundle.write_config();
        let (dir, pid) = (bundle.dir.to_str().unwrap().to_string(), bundle.pid_file());
        let words = ["create", "--userns=auto", "--bundle", &dir, "--pid-file", pid.to_str().unwrap(), &bundle.id];
        let running = with_subids(bundle, here(bundle, &words), TWO).start();
        let printed = running.stdout_path().to_path_buf();
        running.output().ok();
        printed
    };
    let printed = [create(&first), create(&second)];
    let (a, b) = (maps_of(&first), maps_of(&second));
    assert_eq!((a, b), ((3_000_000, 65_536), (3_065_536, 65_536)));
    let leases = |bundle: &Bundle| state.join(&bundle.id).join("lease.json").exists();
    assert!(leases(&first) && leases(&second));
    // A third finds nothing left, and leaves nothing.
    let third = Bundle::new();
    third.write_config();
    let words = ["create", "--userns=auto", "--bundle", third.dir.to_str().unwrap(), &third.id];
    with_subids(&third, here(&third, &words), TWO).output().fails_with(&[
        "--userns=auto",
        "/etc/subuid gives 131072 ids to containers",
        "0 are free",
        "hint: add a line",
    ]);
    assert!(!state.join(&third.id).exists());
    for (bundle, printed) in [(&first, &printed[0]), (&second, &printed[1])] {
        here(bundle, &["start", &bundle.id]).output().ok();
        let ready = || fs::read_to_string(printed).unwrap().contains("ready");
        crate::harness::eventually("the container runs", ready);
        let seen = crate::harness::runtime::lines(&fs::read_to_string(printed).unwrap());
        assert_eq!((&seen[0]["uid"], &seen[2]["uid"]), (&json!(0), &json!(0)), "{seen:?}");
        assert_eq!(fs::metadata(rootfs.join("tmp/new")).unwrap().uid(), 0);
        fs::remove_file(rootfs.join("tmp/new")).unwrap();
        // exec goes by the config with the lease.
        let report = here(bundle, &["exec", &bundle.id, "/probe"]).output().json();
        assert_eq!(report["uid_map"], json!([[0, maps_of(bundle).0, 65_536]]));
        assert_eq!(report["uid"][0], 0);
    }
    let volume_seen = here(&first, &["exec", &first.id, "/probe", "stat", "/mnt/file"]).output().json();
    assert_eq!(volume_seen["uid"], 5, "bind mounts are idmapped too");
    for bundle in [&first, &second] {
        here(bundle, &["delete", "--force", &bundle.id]).output().ok();
        assert!(!state.join(&bundle.id).exists(), "the lease is gone");
    }
}

#[test]
fn leases_come_back_and_their_faults_are_named() {
    orlop_only!("has --userns=auto");
    let bundle = Bundle::new();
    // The directory of a create that was killed holds its lease until it is deleted.
    let dead = bundle.state_root().join("dead");
    fs::create_dir(&dead).unwrap();
    let lease = json!({"uid": {"first": 3_000_000, "size": 65_536}, "gid": {"first": 3_000_000, "size": 65_536}});
    fs::write(dead.join("lease.json"), lease.to_string()).unwrap();
    auto(&bundle, "--userns=auto", TWO).output().ok();
    assert_eq!(maps_of(&bundle), (3_065_536, 65_536));
    bundle.delete_force().ok();
    bundle.call(["delete", "--force", "dead"]).output().ok();
    auto(&bundle, "--userns=auto:size=1000", TWO).output().ok();
    assert_eq!(maps_of(&bundle), (3_000_000, 1000));
    bundle.delete_force().ok();
    auto(&bundle, "--userns=auto", "root:100000:65536\n").output().ok();
    assert_eq!(maps_of(&bundle).0, 100_000, "root's entries, if there is no user containers");
    bundle.delete_force().ok();
    for (subids, words) in [
        ("alice:1:65536\n", &["/etc/subuid has no entry", "containers", "hint: add a line"][..]),
        ("containers:5000000:60000\n", &["no free range of 65536 ids", "60000 in one", "hint"]),
    ] {
        auto(&bundle, "--userns=auto", subids).output().fails_with(words);
        bundle.check_clean();
    }
    // A fault of the config, and one that shows when the mounts are made: both give the lease back.
    let bad = Bundle::new().set("/process/cwd", "relative");
    auto(&bad, "--userns=auto", TWO).output().fails_with(&["process.cwd"]);
    bad.check_clean();
    let bad = Bundle::new().set("/root/path", "/proc/sys");
    auto(&bad, "--userns=auto", TWO).output().fails_with(&["root.path /proc/sys", "proc", "cannot be idmapped"]);
    bad.check_clean();
    let mapped = Bundle::new().userns(0, 100_000, 65_536);
    auto(&mapped, "--userns=auto", TWO).output().fails_with(&["linux.uidMappings", "of its own"]);
    mapped.check_clean();
}

#[test]
fn leases_taken_at_the_same_time_are_disjoint() {
    orlop_only!("has --userns=auto");
    let first = Bundle::new();
    let (rootfs, state) = (first.rootfs(), first.state_root());
    let bundles: Vec<Bundle> =
        (0..6).map(|_| Bundle::new().set("/root/path", rootfs.to_str().unwrap()).args(["/probe", "wait"])).collect();
    let call = |bundle: &Bundle, words: &[&str]| {
        let call = Call::new(&crate::harness::runtime::program(), &bundle.dir, bundle.layer);
        call.env("ORLOP_IT", &bundle.id).args(["--root", state.to_str().unwrap()]).args(words)
    };
    let running: Vec<_> = bundles
        .iter()
        .map(|bundle| {
            bundle.write_config();
            let (dir, pid) = (bundle.dir.to_str().unwrap(), bundle.pid_file());
            let words = ["create", "--userns=auto:size=1000", "--bundle", dir, "--pid-file", pid.to_str().unwrap()];
            let call = call(bundle, &words).args([&bundle.id]);
            with_subids(bundle, call, "containers:3000000:6000\n").start()
        })
        .collect();
    for running in running {
        running.output().ok();
    }
    let mut firsts: Vec<u32> = bundles.iter().map(|bundle| maps_of(bundle).0).collect();
    firsts.sort_unstable();
    assert_eq!(firsts, [3_000_000, 3_001_000, 3_002_000, 3_003_000, 3_004_000, 3_005_000]);
    for bundle in &bundles {
        call(bundle, &["delete", "--force", &bundle.id]).output().ok();
    }
}
