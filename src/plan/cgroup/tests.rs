// SPDX-License-Identifier: Apache-2.0
use super::*;

fn hierarchy(mount_point: &str, controllers: &[&str], own: &str) -> Hierarchy {
    let controllers = controllers.iter().map(ToString::to_string).collect();
    Hierarchy { mount_point: mount_point.into(), controllers, own: own.into() }
}

fn host(cgroups: CgroupLayout) -> Host {
    Host {
        euid: 0,
        egid: 0,
        initial_user_namespace: true,
        may_set_groups: true,
        may_clone_mounts: true,
        permitted: 0,
        bounding: 0,
        ignored_signals: 0,
        cgroups,
    }
}

fn v2() -> Host {
    let all = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma"];
    host(CgroupLayout::Unified(hierarchy("/sys/fs/cgroup", &all, "/user.slice/session.scope")))
}

fn v1() -> Host {
    host(CgroupLayout::Legacy {
        hierarchies: vec![
            hierarchy("/sys/fs/cgroup/cpu,cpuacct", &["cpu", "cpuacct"], "/"),
            hierarchy("/sys/fs/cgroup/cpuset", &["cpuset"], "/"),
            hierarchy("/sys/fs/cgroup/memory", &["memory"], "/own"),
            hierarchy("/sys/fs/cgroup/devices", &["devices"], "/"),
            hierarchy("/sys/fs/cgroup/blkio", &["blkio"], "/"),
            hierarchy("/sys/fs/cgroup/pids", &["pids"], "/"),
            hierarchy("/sys/fs/cgroup/net_cls", &["net_cls", "net_prio"], "/"),
            hierarchy("/sys/fs/cgroup/systemd", &["name=systemd"], "/"),
        ],
        unified: Some(hierarchy("/sys/fs/cgroup/unified", &["hugetlb"], "/")),
    })
}

/// Plans `{"resources": json}`; `json` may go on with other members of `linux`.
fn plan(host: &Host, json: &str) -> (Cgroup, Problems) {
    let linux: Linux = serde_json::from_str(&format!("{{\"resources\": {json}}}")).unwrap();
    let mut problems = Problems::default();
    let cgroup = Cgroup::from_spec(&linux, "web", host, &mut problems);
    (cgroup, problems)
}

/// `file=value` of every write but those of devices.
fn writes(host: &Host, json: &str) -> Vec<String> {
    let (cgroup, problems) = plan(host, json);
    assert_eq!(problems.errors, [], "{json}");
    let limits = cgroup.writes.iter().filter(|w| w.controller != "devices");
    limits.map(|w| format!("{}={}", w.file, w.value)).collect()
}

fn error_paths(host: &Host, json: &str) -> Vec<String> {
    plan(host, json).1.errors.into_iter().map(|e| e.path).collect()
}

fn paths(host: &Host, cgroups_path: &str) -> Vec<String> {
    let (cgroup, problems) = plan(host, &format!("{{}}, \"cgroupsPath\": {cgroups_path:?}"));
    assert_eq!(problems.errors, [], "{cgroups_path}");
    cgroup.places.iter().map(|p| p.mount_point.join(&p.path).display().to_string()).collect()
}

#[test]
fn every_limit_of_v2() {
    for (json, expected) in [
        ("{}", &[][..]),
        (
            r#"{"memory":{"limit":1000,"swap":1500,"reservation":500}}"#,
            &["memory.swap.max=500", "memory.max=1000", "memory.low=500"],
        ),
        (r#"{"memory":{"limit":1000,"swap":1000}}"#, &["memory.swap.max=0", "memory.max=1000"]),
        (r#"{"memory":{"limit":-1}}"#, &["memory.swap.max=max", "memory.max=max"]),
        (r#"{"memory":{"limit":0,"kernel":0}}"#, &[]),
        (
            r#"{"cpu":{"shares":1024,"quota":50000,"period":200000,"burst":7,"cpus":"0-1","mems":"0"}}"#,
            &["cpu.weight=100", "cpu.max=50000 200000", "cpu.max.burst=7", "cpuset.cpus=0-1", "cpuset.mems=0"],
        ),
        (r#"{"cpu":{"quota":-1}}"#, &["cpu.max=max 100000"]),
        (r#"{"cpu":{"period":50000}}"#, &["cpu.max=max 50000"]),
        (r#"{"cpu":{"idle":1,"shares":512}}"#, &["cpu.idle=1"]),
        (r#"{"pids":{"limit":0}}"#, &["pids.max=1"]),
        (r#"{"pids":{"limit":-1}}"#, &["pids.max=max"]),
        (r#"{"pids":{"limit":9}}"#, &["pids.max=9"]),
        (
            r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":10}],
             "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":5}],"throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":0}]}}"#,
            &["io.bfq.weight=500", "io.bfq.weight=8:0 10", "io.max=8:0 rbps=5", "io.max=8:0 wiops=max"],
        ),
        (
            r#"{"blockIO":{"throttleWriteBpsDevice":[{"major":8,"minor":1,"rate":6}],"throttleReadIOPSDevice":[{"major":8,"minor":2,"rate":7}]}}"#,
            &["io.max=8:1 wbps=6", "io.max=8:2 riops=7"],
        ),
        (
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4096}]}"#,
            &["hugetlb.2MB.max=4096", "hugetlb.2MB.rsvd.max=4096"],
        ),
        (
            r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10000},"a":{}}}"#,
            &["rdma.max=mlx5_1 hca_handle=3 hca_object=10000"],
        ),
        (
            r#"{"unified":{"memory.high":"7","io.max":"8:0 rbps=1\n8:1 rbps=2\n","cgroup.max.depth":"3"},"pids":{"limit":9}}"#,
            &["pids.max=9", "cgroup.max.depth=3", "io.max=8:0 rbps=1", "io.max=8:1 rbps=2", "memory.high=7"],
        ),
        (r#"{"network":{}}"#, &[]),
    ] {
        assert_eq!(writes(&v2(), json), expected, "{json}");
    }
}

#[test]
fn every_limit_of_v1() {
    for (json, expected) in [
        (
            r#"{"memory":{"limit":1000,"swap":1500,"reservation":500,"swappiness":0,"disableOOMKiller":true}}"#,
            &[
                "memory.limit_in_bytes=1000",
                "memory.memsw.limit_in_bytes=1500",
                "memory.soft_limit_in_bytes=500",
                "memory.swappiness=0",
                "memory.oom_control=1",
            ][..],
        ),
        (r#"{"memory":{"limit":-1}}"#, &["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"]),
        (
            r#"{"cpu":{"shares":1024,"quota":-1,"period":200000,"cpus":"0","mems":"0","realtimeRuntime":0,"idle":0}}"#,
            &[
                "cpu.idle=0",
                "cpu.shares=1024",
                "cpu.cfs_period_us=200000",
                "cpu.cfs_quota_us=-1",
                "cpuset.cpus=0",
                "cpuset.mems=0",
            ],
        ),
        (r#"{"cpu":{"idle":1,"shares":512}}"#, &["cpu.idle=1"]),
        (r#"{"cpu":{"realtimeRuntime":100,"realtimePeriod":200}}"#, &["cpu.rt_period_us=200", "cpu.rt_runtime_us=100"]),
        (
            r#"{"blockIO":{"weight":500,"leafWeight":20,"throttleReadIOPSDevice":[{"major":8,"minor":0,"rate":5}]}}"#,
            &["blkio.weight=500", "blkio.leaf_weight=20", "blkio.throttle.read_iops_device=8:0 5"],
        ),
        (
            r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":10,"leafWeight":20}],
             "throttleReadBpsDevice":[{"major":8,"minor":1,"rate":6}],"throttleWriteBpsDevice":[{"major":8,"minor":2,"rate":7}],
             "throttleWriteIOPSDevice":[{"major":8,"minor":3,"rate":8}]}}"#,
            &[
                "blkio.weight_device=8:0 10",
                "blkio.leaf_weight_device=8:0 20",
                "blkio.throttle.read_bps_device=8:1 6",
                "blkio.throttle.write_bps_device=8:2 7",
                "blkio.throttle.write_iops_device=8:3 8",
            ],
        ),
        (
            r#"{"network":{"classID":1048577,"priorities":[{"name":"lo","priority":5}]}}"#,
            &["net_cls.classid=1048577", "net_prio.ifpriomap=lo 5"],
        ),
        (r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#, &["hugetlb.2MB.max=0", "hugetlb.2MB.rsvd.max=0"]),
        (r#"{"pids":{"limit":9}}"#, &["pids.max=9"]),
    ] {
        assert_eq!(writes(&v1(), json), expected, "{json}");
    }
}

#[test]
fn what_cannot_be_carried_out_is_an_error_at_its_path() {
    for (host, json, field) in [
        (v1(), r#"{"unified":{"memory.high":"1"}}"#, "unified"),
        (v1(), r#"{"rdma":{"mlx5":{"hcaHandles":1}}}"#, "rdma.mlx5"),
        (v1(), r#"{"memory":{"swappiness":101}}"#, "memory.swappiness"),
        (v2(), r#"{"cpu":{"realtimeRuntime":5}}"#, "cpu.realtimeRuntime"),
        (v2(), r#"{"network":{"classID":5}}"#, "network.classID"),
        (v2(), r#"{"blockIO":{"leafWeight":50}}"#, "blockIO.leafWeight"),
        (
            v2(),
            r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"leafWeight":50}]}}"#,
            "blockIO.weightDevice[0].leafWeight",
        ),
        (v2(), r#"{"blockIO":{"weight":5}}"#, "blockIO.weight"),
        (v2(), r#"{"memory":{"swap":5}}"#, "memory.swap"),
        (v2(), r#"{"memory":{"limit":10,"swap":5}}"#, "memory.swap"),
        (v1(), r#"{"memory":{"limit":-5}}"#, "memory.limit"),
        (v2(), r#"{"hugepageLimits":[{"pageSize":"2MB/../x","limit":1}]}"#, "hugepageLimits[0].pageSize"),
        (v2(), r#"{"unified":{"../memory.max":"1"}}"#, "unified.../memory.max"),
        (v2(), r#"{"unified":{"cgroup.procs":"1"}}"#, "unified.cgroup.procs"),
        (v2(), r#"{"unified":{"misc.max":"x 1"}}"#, "unified.misc.max"),
        (v2(), r#"{"cpu":{"cpus":"0\n1"}}"#, "cpu.cpus"),
        (
            v1(),
            r#"{"devices":[{"allow":true,"type":"c","access":"rwm"},{"allow":false,"type":"c","major":10,"access":"r"}]}"#,
            "devices[1]",
        ),
    ] {
        assert_eq!(error_paths(&host, json), [format!("linux.resources.{field}")], "{json}");
    }
    let (_, problems) = plan(&v1(), r#"{"rdma":{"mlx5":{"hcaHandles":1}}}"#);
    let message = problems.errors[0].message.as_str();
    assert_eq!(
        message,
        "needs the cgroup controller \"rdma\"; this host offers: cpu, cpuacct, cpuset, memory, devices, blkio, pids, \
         net_cls, net_prio, hugetlb"
    );
}

#[test]
fn dropped_fields_are_warnings() {
    let json = r#"{"memory":{"kernel":1,"kernelTCP":2,"swappiness":1,"disableOOMKiller":true,"useHierarchy":false}}"#;
    let (cgroup, problems) = plan(&v2(), json);
    assert_eq!((cgroup.writes.len(), problems.errors.len(), problems.warnings.len()), (0, 0, 5));
    assert_eq!(plan(&v2(), r#"{"memory":{"disableOOMKiller":false}}"#).1, Problems::default());
}

#[test]
fn the_path_begins_at_the_mount_the_own_cgroup_or_its_parent() {
    assert_eq!(paths(&v2(), "/pod/./web/"), ["/sys/fs/cgroup/pod/web"]);
    assert_eq!(paths(&v2(), "pod/web"), ["/sys/fs/cgroup/user.slice/pod/web"]);
    assert_eq!(paths(&v2(), ""), ["/sys/fs/cgroup/user.slice/web"]);
    assert_eq!(paths(&v2(), "/a:b:c"), ["/sys/fs/cgroup/a:b:c"]);
    let v1_paths = paths(&v1(), "pod/web");
    assert_eq!(v1_paths[0], "/sys/fs/cgroup/cpu,cpuacct/pod/web");
    assert_eq!(v1_paths[2], "/sys/fs/cgroup/memory/own/pod/web");
    assert_eq!(v1_paths.last().unwrap(), "/sys/fs/cgroup/unified/pod/web");
    let outside = host(CgroupLayout::Unified(hierarchy("/sys/fs/cgroup", &[], "/../other/x")));
    assert_eq!(paths(&outside, "web"), ["/sys/fs/cgroup/web"]);
}

#[test]
fn a_path_cannot_leave_the_hierarchy_or_name_a_slice() {
    for path in ["../../../tmp/x", "/a/../b", "..", "/", ".", "a\nb", "system.slice:orlop:web"] {
        let json = format!("{{}}, \"cgroupsPath\": {path:?}");
        let (cgroup, problems) = plan(&v2(), &json);
        assert_eq!(
            problems.errors.iter().map(|e| e.path.as_str()).collect::<Vec<_>>(),
            ["linux.cgroupsPath"],
            "{path}"
        );
        let outside = cgroup.places.iter().any(|p| p.path.is_absolute() || p.path.to_string_lossy().contains(".."));
        assert!(!outside, "{path}");
    }
}

#[test]
fn devices_are_restricted_unless_everything_is_allowed() {
    assert_eq!(plan(&v2(), "{}").0.devices, device_filter::default_rules());
    assert_eq!(plan(&v2(), r#"{"devices":[{"allow":true}]}"#).0.devices, []);
    let (cgroup, _) = plan(&v1(), "{}");
    let values: Vec<_> = cgroup.writes.iter().map(|w| format!("{}={}", w.file, w.value)).collect();
    assert_eq!(values[..3], ["devices.deny=a", "devices.allow=c *:* m", "devices.allow=b *:* m"]);
    assert_eq!(values.len(), 12);
    let allow_all = plan(&v1(), r#"{"devices":[{"allow":true}]}"#).0;
    assert_eq!(allow_all.writes, []);
}

#[test]
fn without_root_a_cgroup_is_optional_until_something_asks_for_it() {
    let rootless = Host { euid: 1000, ..v2() };
    assert!(plan(&rootless, "{}").0.optional);
    assert_eq!(plan(&rootless, "{}").0.devices, []);
    assert!(!plan(&rootless, r#"{"pids":{"limit":5}}"#).0.optional);
    assert!(!plan(&rootless, r#"{}, "cgroupsPath": "/x""#).0.optional);
    assert!(!plan(&v2(), "{}").0.optional);
}

#[test]
fn without_cgroups_everything_that_needs_them_is_an_error() {
    let none = host(CgroupLayout::None);
    assert_eq!(error_paths(&none, r#"{"devices":[{"allow":true}]}"#), Vec::<String>::new());
    assert_eq!(error_paths(&none, "{}"), ["linux.resources.devices"]);
    assert!(error_paths(&none, r#"{"pids":{"limit":5}}, "cgroupsPath": "/x""#).contains(&"linux.cgroupsPath".into()));
}

#[test]
fn shares_become_weights() {
    for (shares, weight) in
        [(1, 1), (2, 1), (3, 2), (512, 59), (1024, 100), (2048, 174), (262_144, 10_000), (u64::MAX, 10_000)]
    {
        assert_eq!(v2::weight_of_shares(shares), weight, "{shares}");
    }
    let weights: Vec<_> = (2..5000).map(v2::weight_of_shares).collect();
    assert!(weights.is_sorted());
    for (weight, io) in [(10, 1), (500, 4950), (1000, 10_000)] {
        assert_eq!(v2::io_weight(weight), io);
    }
}

#[test]
fn swap_is_counted_apart_on_v2() {
    for (limit, sum, expected) in [
        (0, 0, Ok(None)),
        (10, 0, Ok(None)),
        (-1, 0, Ok(Some(-1))),
        (10, -1, Ok(Some(-1))),
        (10, 10, Ok(Some(0))),
        (10, 15, Ok(Some(5))),
    ] {
        assert_eq!(swap_alone(limit, sum), expected);
    }
    assert!(swap_alone(0, 5).is_err() && swap_alone(-1, 5).is_err() && swap_alone(10, 5).is_err());
}
