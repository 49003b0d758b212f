// SPDX-License-Identifier: Apache-2.0
//! cgroups, v1 on the machine as it is and v2 in a layer of its own: placement, limits, devices, removal.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::harness::{Bundle, Flavor, Layer, flavor, host};
use crate::peer_differs;

/// The container's directory in the v1 hierarchy of `controller`.
fn v1(bundle: &Bundle, controller: &str) -> PathBuf {
    let (_, root) = host::v1_hierarchies().into_iter().find(|(name, _)| name == controller).unwrap();
    root.join(&bundle.id)
}

fn v2(bundle: &Bundle) -> PathBuf {
    host::v2_root().unwrap().join(&bundle.id)
}

macro_rules! requires_v1 {
    () => {
        if host::is_v2() || flavor() == Flavor::Crun {
            crate::skip_expected!("no v1 hierarchies in this layer");
        }
    };
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_string()
}

#[test]
fn v1_the_process_sits_in_its_own_group_of_every_hierarchy() {
    requires_v1!();
    let bundle = Bundle::new().args(["/probe", "wait"]);
    bundle.create();
    let table = fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).unwrap();
    for controller in ["pids", "memory", "devices", "freezer", "cpu", "cpuset"] {
        let line = table.lines().find(|l| l.split(':').nth(1).unwrap().split(',').any(|c| c == controller));
        let Some(line) = line else { continue };
        assert!(line.ends_with(&format!(":/{}", bundle.id)), "{table}");
    }
    bundle.delete_force().ok();
    bundle.check_clean();
}

#[test]
fn v1_limits_can_be_read_back() {
    requires_v1!();
    let bundle = Bundle::new().args(["/probe", "wait"]).set(
        "/linux/resources",
        json!({
            "pids": {"limit": 33},
            "memory": {"limit": 67108864, "reservation": 33554432},
            "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"}
        }),
    );
    bundle.create();
    assert_eq!(read(v1(&bundle, "pids").join("pids.max")), "33");
    assert_eq!(read(v1(&bundle, "memory").join("memory.limit_in_bytes")), "67108864");
    assert_eq!(read(v1(&bundle, "memory").join("memory.soft_limit_in_bytes")), "33554432");
    let cpu = v1(&bundle, "cpu");
    assert_eq!(read(cpu.join("cpu.shares")), "512");
    if cpu.join("cpu.cfs_quota_us").exists() {
        assert_eq!(read(cpu.join("cpu.cfs_quota_us")), "50000");
        assert_eq!(read(cpu.join("cpu.cfs_period_us")), "100000");
    }
    assert_eq!(read(v1(&bundle, "cpuset").join("cpuset.cpus")), "0");
}

#[test]
fn v1_the_pids_limit_is_in_force() {
    requires_v1!();
    let bundle = Bundle::new().set("/linux/resources", json!({"pids": {"limit": 10}}));
    let seen = bundle.run(["/probe", "fork", "50"]).json();
    assert_eq!(seen["errno"], libc::EAGAIN, "{seen}");
    assert!(seen["made"].as_i64().unwrap() < 10, "{seen}");
}

#[test]
fn v1_the_memory_limit_kills() {
    requires_v1!();
    let bundle = Bundle::new().set("/linux/resources", json!({"memory": {"limit": 16777216, "swap": 16777216}}));
    let out = bundle.try_run(["/probe", "allocate", "64"]);
    if out.stderr.contains("memsw") {
        crate::skip_expected!("the kernel accounts no swap: {}", out.stderr.trim());
    }
    assert_eq!(out.code(), 137, "{out}");
}

#[test]
fn v1_devices_are_denied_and_allowed() {
    requires_v1!();
    devices(Bundle::new());
}

#[test]
fn v2_devices_are_denied_and_allowed() {
    if flavor() == Flavor::Crun && !host::has_capability(24) {
        crate::skip_expected!("crun differs: 1.8 raises RLIMIT_MEMLOCK for it, which needs CAP_SYS_RESOURCE");
    }
    devices(Bundle::v2());
}

/// A device that the list allows opens and another does not, though root has the capability to make both.
fn devices(bundle: Bundle) {
    let bundle = ["bounding", "permitted", "effective"]
        .iter()
        .fold(bundle, |b, set| b.push(&format!("/process/capabilities/{set}"), "CAP_MKNOD"));
    let bundle = bundle.set(
        "/linux/resources",
        json!({"devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 77, "minor": 1, "access": "r"}
        ]}),
    );
    // No driver has these numbers: the list decides first (EPERM), then the driver is missed (ENXIO).
    let out = bundle.run([
        "/probe",
        "mknod",
        "/tmp/a",
        "c",
        "77",
        "1",
        ",",
        "open",
        "/tmp/a",
        "r",
        ",",
        "open",
        "/tmp/a",
        "w",
        ",",
        "mknod",
        "/tmp/b",
        "c",
        "77",
        "2",
        ",",
        "open",
        "/tmp/b",
        "r",
        ",",
        "open",
        "/dev/null",
        "rw",
        ",",
        "open",
        "/dev/zero",
        "rw",
        ",",
        "open",
        "/dev/ptmx",
        "rw",
    ]);
    let all = out.jsons();
    // Nodes may be made (a rule that every runtime adds); opening is what the list is about.
    assert_eq!(all[1]["errno"], libc::ENXIO, "{out}");
    assert_eq!(all[2]["errno"], libc::EPERM, "{out}");
    assert_eq!(all[4]["errno"], libc::EPERM, "{out}");
    for (index, name) in [(5, "null"), (6, "zero"), (7, "ptmx")] {
        assert_eq!(all[index]["ok"], true, "{name}: {out}");
    }
}

#[test]
fn v2_the_process_sits_in_its_own_group() {
    let bundle = Bundle::v2().args(["/probe", "wait"]);
    bundle.create();
    let table = fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).unwrap();
    let line = table.lines().find(|l| l.starts_with("0::")).unwrap();
    assert_eq!(line, format!("0::/{}", bundle.id));
    bundle.start();
    bundle.delete_force().ok();
    assert!(!v2(&bundle).exists());
    bundle.check_clean();
}

#[test]
fn v2_a_missing_controller_is_named() {
    let root = host::v2_root().unwrap();
    if read(root.join("cgroup.controllers")).split(' ').any(|c| c == "pids") {
        crate::skip_expected!("the pids controller is on v2 here");
    }
    peer_differs!("crun", "1.8 reports the file that it could not open and does not clean up");
    let bundle = Bundle::v2().set("/linux/resources", json!({"pids": {"limit": 10}}));
    bundle.try_run(["/probe"]).fails_with(&["pids"]);
    bundle.check_clean();
}

#[test]
fn v2_the_unified_map_is_written() {
    let root = host::v2_root().unwrap();
    if !read(root.join("cgroup.controllers")).split(' ').any(|c| c == "hugetlb") {
        crate::skip_expected!("no hugetlb controller on v2 here");
    }
    let bundle = Bundle::v2()
        .args(["/probe", "wait"])
        .set("/linux/resources", json!({"unified": {"hugetlb.2MB.max": "4194304", "cgroup.max.descendants": "3"}}));
    let out = bundle.try_create(&[]);
    if flavor() == Flavor::Crun && !out.status.success() {
        crate::skip_expected!("crun differs: 1.8 does not write this one: {}", out.stderr.trim());
    }
    out.ok();
    assert_eq!(read(v2(&bundle).join("hugetlb.2MB.max")), "4194304");
    assert_eq!(read(v2(&bundle).join("cgroup.max.descendants")), "3");
}

#[test]
fn without_a_path_the_container_still_has_its_own_group() {
    let bundle = Bundle::new().remove("/linux/cgroupsPath").args(["/probe", "wait"]);
    bundle.create();
    let table = fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).unwrap();
    assert!(table.contains(&bundle.id), "{table}");
    let own: Vec<PathBuf> = table
        .lines()
        .filter(|l| l.contains(&bundle.id))
        .filter_map(|l| {
            let mut words = l.splitn(3, ':');
            let (_, controllers, path) = (words.next(), words.next().unwrap(), words.next().unwrap());
            let root = match controllers {
                "" => host::v2_root()?,
                list => host::v1_hierarchies().into_iter().find(|(name, _)| list.split(',').any(|c| c == name))?.1,
            };
            Some(root.join(path.trim_start_matches('/')))
        })
        .collect();
    assert!(!own.is_empty(), "{table}");
    for dir in &own {
        assert!(dir.exists(), "{}", dir.display());
    }
    bundle.delete_force().ok();
    for dir in &own {
        assert!(!dir.exists(), "left behind: {}", dir.display());
    }
}

#[test]
fn a_nested_path_is_made_and_removed() {
    let bundle = Bundle::new();
    let path = format!("/{}/inner/leaf", bundle.id);
    let bundle = bundle.set("/linux/cgroupsPath", path.clone()).args(["/probe", "wait"]);
    bundle.create();
    let table = fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).unwrap();
    assert!(table.contains(&path), "{table}");
    bundle.delete_force().ok();
    for root in host::cgroups_named(&bundle.id) {
        assert!(!root.join("inner/leaf").exists(), "{}", root.display());
        // The parents are nobody's in particular; remove them so that the next check is about the container.
        drop(fs::remove_dir(root.join("inner")));
        drop(fs::remove_dir(root));
    }
}

#[test]
fn dots_in_the_path_cannot_leave_the_hierarchy() {
    // B15, E18.
    peer_differs!("crun", "1.8 has another policy here");
    let bundle = Bundle::new();
    let target = bundle.dir.join("outside");
    let up = "../".repeat(12);
    let path = format!("/{up}{}", target.display());
    let bundle = bundle.set("/linux/cgroupsPath", path);
    let out = bundle.try_run(["/probe", "echo", "x"]);
    assert!(!target.exists(), "a directory outside the cgroup filesystem: {out}");
    if flavor() == Flavor::Orlop {
        out.fails_with(&["linux.cgroupsPath", ".."]);
    }
    // runc takes the path as below its root, with the name of a host directory in it.
    let first = target.components().nth(1).unwrap().as_os_str().to_str().unwrap().to_string();
    for left in host::cgroups_named(&first) {
        let mut dir = left.join(target.strip_prefix("/").unwrap().strip_prefix(&first).unwrap());
        while dir.starts_with(&left) {
            drop(fs::remove_dir(&dir));
            dir.pop();
        }
    }
}

#[test]
fn subgroups_that_the_container_made_are_removed() {
    // E23.
    let mut bundle = Bundle::new();
    bundle.layer = Layer::V2;
    let bundle = bundle
        .mount("/sys", "sysfs", "sysfs", &["ro"])
        .mount("/sys/fs/cgroup", "cgroup", "cgroup", &[])
        .args(["/probe", "mkdir", "/sys/fs/cgroup/a", ",", "mkdir", "/sys/fs/cgroup/a/b", ",", "wait"]);
    bundle.create();
    bundle.start();
    let said = bundle.wait_printed(3);
    assert_eq!(said[1]["ok"], true, "{said:?}");
    bundle.delete_force().ok();
    bundle.check_clean();
}

#[test]
fn a_group_that_is_not_empty_is_refused_or_shared_but_never_killed() {
    // Another process already sits in the configured group: it is not the container's to kill.
    let bundle = Bundle::v2();
    let group = v2(&bundle);
    fs::create_dir(&group).unwrap();
    let mut guest = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(group.join("cgroup.procs"), guest.id().to_string()).unwrap();
    let out = bundle.try_run(["/probe", "echo", "x"]);
    let alive = guest.try_wait().unwrap().is_none();
    drop(guest.kill());
    drop(guest.wait());
    drop(fs::remove_dir(&group));
    if flavor() == Flavor::Orlop {
        assert!(!out.status.success(), "{out}");
        assert!(alive, "an innocent process was killed: {out}");
    }
}

#[test]
fn v2_a_frozen_group_is_refused() {
    peer_differs!("crun", "1.8 waits for ever");
    let bundle = Bundle::v2().args(["/probe", "wait"]);
    let group = v2(&bundle);
    fs::create_dir(&group).unwrap();
    fs::write(group.join("cgroup.freeze"), "1").unwrap();
    let out = bundle.try_create(&[]);
    drop(fs::remove_dir(&group));
    out.fails_with(&["container's cgroup unexpectedly frozen"]);
}

/// config-linux.md#cgroup-ownership.
#[test]
fn v2_a_container_that_mounts_its_cgroup_to_write_owns_it() {
    use std::os::unix::fs::MetadataExt;
    peer_differs!("runc", "1.1 delegates with the systemd driver only");
    peer_differs!("crun", "1.8 delegates with the systemd driver only");
    let owners = |bundle: &Bundle| {
        bundle.create();
        let owner = |file: &str| fs::metadata(v2(bundle).join(file)).unwrap().uid();
        let found = [owner(""), owner("cgroup.procs"), owner("cgroup.subtree_control"), owner("cgroup.max.depth")];
        bundle.start();
        found
    };
    let inside =
        ["/probe", "mkdir", "/sys/fs/cgroup/a", ",", "write", "/sys/fs/cgroup/a/cgroup.procs", "0", ",", "wait"];
    let bundle = || Bundle::v2().userns(0, 100_000, 65_536).mount("/sys", "sysfs", "sysfs", &["ro"]).args(inside);
    let writable = bundle().mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid"]);
    assert_eq!(owners(&writable), [100_000, 100_000, 100_000, 0]);
    let said = writable.wait_printed(2);
    assert!(said[0]["ok"] == true && said[1]["ok"] == true, "{said:?}");
    writable.delete_force().ok();
    writable.check_clean();
    let user = bundle().set("/process/user", json!({"uid": 7, "gid": 7}));
    assert_eq!(owners(&user.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw"]))[..2], [100_007, 100_007]);
    let read_only = bundle().mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro"]);
    assert_eq!(owners(&read_only), [0; 4]);
    let said = read_only.wait_printed(1);
    assert_eq!(said[0]["errno"], libc::EROFS, "{said:?}");
    // Of the words the recursive ones come first; a remount has the last; a bind is no cgroup mount.
    for (options, remount, owner) in [
        (&["rw", "rro"][..], None, 100_000),
        (&["ro", "rrw"], None, 0),
        (&[], Some("ro"), 0),
        (&["ro"], Some("rw"), 100_000),
        (&["bind"], None, 0),
    ] {
        let bundle = bundle();
        let directory = bundle.canary();
        let source = if options == ["bind"] { directory.to_str().unwrap() } else { "cgroup" };
        let mut bundle = bundle.mount("/sys/fs/cgroup", "cgroup", source, options);
        if let Some(word) = remount {
            bundle = bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["remount", word]);
        }
        assert_eq!(owners(&bundle)[0], owner, "{options:?} {remount:?}");
        let said = bundle.wait_printed(1);
        assert_eq!(said[0]["ok"] == true, owner != 0, "{options:?} {remount:?}: {said:?}");
    }
    // Without a cgroup namespace it would be the host's tree.
    let shared = bundle().without_ns("cgroup").mount("/sys/fs/cgroup", "cgroup", "cgroup", &[]);
    assert_eq!(owners(&shared), [0; 4]);
}

#[test]
fn v2_below_a_threaded_group_the_containers_is_threaded() {
    peer_differs!("crun", "1.8 has another way");
    let bundle = Bundle::v2();
    let parent = v2(&bundle);
    fs::create_dir(&parent).unwrap();
    fs::create_dir(parent.join("other")).unwrap();
    fs::write(parent.join("other/cgroup.type"), "threaded").unwrap();
    let path = format!("/{}/leaf", bundle.id);
    let bundle = bundle.set("/linux/cgroupsPath", path).args(["/probe", "wait"]);
    let out = bundle.try_create(&[]);
    let (kind, started, pids) = if out.status.success() {
        let kind = fs::read_to_string(parent.join("leaf/cgroup.type")).unwrap_or_default();
        let started = bundle.command("start");
        (kind, started.status.success(), bundle.call(["ps", "--format", "json", &bundle.id]).output().stdout)
    } else {
        (String::new(), false, String::new())
    };
    let pid = fs::read_to_string(bundle.pid_file()).unwrap_or_default();
    drop(bundle.delete_force());
    let gone = !parent.join("leaf").exists();
    // A limit that needs more than threads.
    let limited = bundle.set("/linux/resources", json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]}));
    let refused = limited.try_create(&[]);
    let left = parent.join("leaf").exists();
    for dir in ["leaf", "other", ""] {
        drop(fs::remove_dir(parent.join(dir)));
    }
    out.ok();
    assert_eq!((kind.trim(), started, gone, left), ("threaded", true, true, false), "{refused}");
    if flavor() == Flavor::Orlop {
        assert_eq!(pids.trim(), format!("[{pid}]"));
        refused.fails_with(&["linux.resources.hugepageLimits[0].limit", "domain invalid"]);
    }
}

#[test]
fn bad_limits_are_refused_and_nothing_is_left() {
    requires_v1!();
    let bundle = Bundle::new().set("/linux/resources", json!({"cpu": {"cpus": "99999"}}));
    bundle.try_run(["/probe"]).fails_with(&["cpuset.cpus"]);
    bundle.check_clean();
    let bundle = Bundle::new().set("/linux/resources", json!({"memory": {"limit": 4096}}));
    bundle.try_run(["/probe"]).fails();
    bundle.check_clean();
}
