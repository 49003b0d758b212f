// SPDX-License-Identifier: Apache-2.0
//! Idmapped mounts (config.md#linux-mount-options), and `--userns=auto`, which leases a range of ids and idmaps the root.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::Bundle;
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
