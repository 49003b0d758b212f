// SPDX-License-Identifier: Apache-2.0

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::decide::{Decision, Effective, Facts, Outcome, ProcessRules, apply, decide};
use super::mesos;
use super::model::{Policy, Profile};
use super::record::{Held, Kept, Record};
use crate::plan::capabilities::{Set, Sets, asked};
use crate::plan::config::{Process, Spec};

fn read(text: &str) -> Result<Policy, Vec<String>> {
    let mut faults = Vec::new();
    let mut policy = Policy::default();
    policy.add("p.toml", format!("version = 1\n{text}"), &mut faults);
    faults.extend(policy.contradictions());
    if faults.is_empty() { Ok(policy) } else { Err(faults.iter().map(ToString::to_string).collect()) }
}

fn config(edit: impl FnOnce(&mut Value)) -> Value {
    let mut config = json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/x"]},
        "mounts": [], "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]}
    });
    edit(&mut config);
    config
}

fn facts() -> Facts {
    Facts { kernel: (6, 1), bundle: "/b".into(), cwd: "/etc/cwd".into(), ..Facts::default() }
}

/// The decisions and the config that comes out; what comes out must be accepted without a change.
fn run_with(policy: &Policy, config: &Value, facts: &Facts) -> Result<(Value, Effective), Vec<Decision>> {
    let bytes = serde_json::to_vec(config).unwrap();
    let spec: Spec = serde_json::from_slice(&bytes).unwrap();
    let effective = decide(policy, &spec, facts)?;
    let bytes = apply(&effective.edits, &bytes).unwrap();
    let spec: Spec = serde_json::from_slice(&bytes).unwrap();
    let again = decide(policy, &spec, &Facts { decided_before: true, ..facts.clone() }).unwrap();
    assert_eq!(again.edits, [], "what a policy makes is not to its own liking");
    Ok((serde_json::from_slice(&bytes).unwrap(), effective))
}

fn run(policy: &str, config: &Value) -> Result<(Value, Effective), Vec<Decision>> {
    run_with(&read(policy).unwrap(), config, &facts())
}

/// `path policy` of each refusal.
fn refused(policy: &str, edit: impl FnOnce(&mut Value)) -> Vec<String> {
    let lines = |all: Vec<Decision>| {
        let refused = all.into_iter().filter(|d| d.outcome == Outcome::Refused);
        refused.map(|d| format!("{} {}", d.path, d.policy)).collect()
    };
    run(policy, &config(edit)).map_or_else(lines, |_| Vec::new())
}

fn changed(policy: &str, edit: impl FnOnce(&mut Value)) -> Value {
    run(policy, &config(edit)).unwrap().0
}

const KILL: u64 = 1 << 5;
const CHOWN: u64 = 1;
const RAW: u64 = 1 << 13;

/// E, P, B, I, A of the config that comes out; None without capabilities.
fn sets(config: &Value) -> Option<Sets> {
    let spec: Spec = serde_json::from_slice(&serde_json::to_vec(config).unwrap()).unwrap();
    asked(&spec.process.unwrap())
}

fn caps(names: &[&str]) -> Value {
    let full: Vec<String> = names.iter().map(|n| format!("CAP_{n}")).collect();
    json!({"bounding": full, "effective": full, "permitted": full})
}

/// The cases of linux_capabilities_isolator_tests.cpp: what the agent's flags and the task's request come to, by way of
/// `import-mesos`.
#[test]
fn mesos_capabilities() {
    let none: Option<&[&str]> = None;
    // --effective_capabilities, --bounding_capabilities, request, uid; effective, bounding or the refused names.
    type Case<'a> =
        (Option<&'a [&'a str]>, Option<&'a [&'a str]>, Option<&'a [&'a str]>, u32, Result<(u64, u64), &'a str>);
    let cases: &[Case<'_>] = &[
        // No flags: every request is granted.
        (none, none, Some(&["KILL", "NET_RAW"]), 0, Ok((KILL | RAW, KILL | RAW))),
        // Default only.
        (Some(&["KILL"]), none, none, 0, Ok((KILL, KILL))),
        (Some(&["KILL"]), none, none, 1000, Ok((KILL, KILL))),
        (Some(&["KILL"]), none, Some(&["NET_RAW"]), 0, Ok((RAW, RAW))),
        (Some(&["KILL"]), none, Some(&[]), 0, Ok((0, 0))),
        // Empty default: everything is dropped, unless asked for.
        (Some(&[]), none, none, 0, Ok((0, 0))),
        (Some(&[]), none, Some(&["KILL"]), 0, Ok((KILL, KILL))),
        // Ceiling only: root gets it at execve, from the bounding set.
        (none, Some(&["KILL", "CHOWN"]), none, 0, Ok((0, KILL | CHOWN))),
        (none, Some(&["KILL", "CHOWN"]), Some(&["KILL"]), 0, Ok((KILL, KILL))),
        (none, Some(&["KILL", "CHOWN"]), Some(&["KILL", "NET_RAW"]), 0, Err("CAP_NET_RAW")),
        // Both.
        (Some(&["KILL"]), Some(&["KILL", "CHOWN"]), none, 0, Ok((KILL, KILL | CHOWN))),
        (Some(&["KILL"]), Some(&["KILL", "CHOWN"]), none, 1000, Ok((KILL, KILL | CHOWN))),
        (Some(&["KILL"]), Some(&["KILL", "CHOWN"]), Some(&["CHOWN"]), 0, Ok((CHOWN, CHOWN))),
        (
            Some(&["KILL"]),
            Some(&["KILL", "CHOWN"]),
            Some(&["NET_RAW", "SYS_ADMIN"]),
            0,
            Err("CAP_NET_RAW, CAP_SYS_ADMIN"),
        ),
        // Empty ceiling: nothing is allowed, and asking for nothing is fine.
        (none, Some(&[]), Some(&["KILL"]), 0, Err("CAP_KILL")),
        (none, Some(&[]), Some(&[]), 0, Ok((0, 0))),
        (Some(&[]), Some(&[]), none, 0, Ok((0, 0))),
    ];
    for case in cases {
        let (effective, bounding, request, uid, expected) = case;
        let json = |names: &Option<&[&str]>| names.map(|names| json!({"capabilities": names}).to_string());
        let flags = mesos::Flags { effective: json(effective), bounding: json(bounding), ..Default::default() };
        let text = mesos::import(&flags).unwrap().replace("version = 1\n", "");
        let config = config(|config| {
            config["process"]["user"]["uid"] = json!(uid);
            if let Some(names) = request {
                config["process"]["capabilities"] = caps(names);
            }
        });
        match (run(&text, &config), expected) {
            (Ok((config, _)), Ok((effective, bounding))) => {
                let sets = sets(&config).unwrap();
                assert_eq!((sets.effective, sets.bounding), (Set(*effective), Set(*bounding)), "{case:?}");
                let has_flags = !text.trim_end().ends_with("import-mesos.");
                // "finally inheritable := bounding always"; ambient is what makes users keep capabilities.
                assert_eq!(sets.inheritable.0, if has_flags { *bounding } else { 0 }, "{case:?}");
                assert_eq!(sets.ambient.0, if *uid != 0 { *effective } else { 0 }, "{case:?}");
            }
            (Err(decisions), Err(names)) => assert_eq!(decisions[0].asked, *names, "{case:?}"),
            (result, _) => panic!("{case:?}: {result:?}"),
        }
    }
    // Neither flag nor request: untouched.
    assert_eq!(sets(&changed("", |_| {})), None);
    // The agent does not start.
    let json = |name: &str| Some(json!({"capabilities": [name]}).to_string());
    let flags = mesos::Flags { effective: json("KILL"), bounding: json("CHOWN"), ..Default::default() };
    assert!(mesos::import(&flags).unwrap_err().contains("KILL"));
    let flags = mesos::Flags { effective: Some("[]".into()), ..Default::default() };
    assert!(mesos::import(&flags).unwrap_err().contains("--effective_capabilities"));
}

#[test]
fn excess_is_refused_clamped_or_warned_of() {
    let ask = |config: &mut Value| config["process"]["capabilities"] = caps(&["KILL", "SYS_ADMIN"]);
    let policy = |mode: &str| format!("[capabilities]\nceiling = [\"KILL\"]\n{mode}");
    for mode in ["", "on_excess = \"reject\""] {
        assert_eq!(refused(&policy(mode), ask), ["process.capabilities.bounding p.toml:3"]);
    }
    let clamped = sets(&changed(&policy("on_excess = \"clamp\""), ask)).unwrap();
    assert_eq!((clamped.bounding, clamped.effective, clamped.permitted), (Set(KILL), Set(KILL), Set(KILL)));
    let (config, effective) = run(&policy("on_excess = \"warn\""), &config(ask)).unwrap();
    assert_eq!(sets(&config).unwrap().bounding, Set(KILL | 1 << 21));
    assert_eq!(effective.decisions[0].outcome, Outcome::Warned);
    // What is only in the ambient set is seen, too.
    let ambient = |c: &mut Value| c["process"]["capabilities"] = json!({"ambient": ["CAP_SYS_ADMIN"]});
    assert_eq!(refused(&policy(""), ambient), ["process.capabilities.ambient p.toml:3"]);
}

#[test]
fn capability_sets_add_and_subtract() {
    let policy = read("[capabilities]\nceiling = [\"@docker-default\", \"-cap_net_raw\", \"SYS_PTRACE\"]").unwrap();
    let set = policy.tables.capabilities.ceiling.unwrap().value.0;
    assert_eq!(set.numbers().count(), 14);
    assert!(set.0 & RAW == 0 && set.0 & 1 << 19 != 0);
}

#[test]
fn dropping_and_lifting() {
    let ask = |uid: u32| {
        move |config: &mut Value| {
            config["process"]["user"]["uid"] = json!(uid);
            config["process"]["capabilities"] = caps(&["KILL", "NET_RAW"]);
        }
    };
    let after =
        sets(&changed("[capabilities]\nrequired_drop = [\"NET_RAW\"]\nambient = \"non-root\"", ask(5))).unwrap();
    assert_eq!((after.bounding, after.ambient, after.inheritable), (Set(KILL), Set(KILL), Set(KILL)));
    let after = sets(&changed("[capabilities]\nambient = \"non-root\"", ask(0))).unwrap();
    assert_eq!(after.ambient, Set(0));
    let after = sets(&changed("[capabilities]\nambient = \"never\"\ninheritable = \"empty\"", |c| {
        ask(5)(c);
        c["process"]["capabilities"]["ambient"] = json!(["CAP_KILL"]);
        c["process"]["capabilities"]["inheritable"] = json!(["CAP_KILL"]);
    }))
    .unwrap();
    assert_eq!((after.ambient, after.inheritable), (Set(0), Set(0)));
}

#[test]
fn exec_stays_below_its_container() {
    let held = |text: &str| {
        let policy = read(text).unwrap();
        let kept = Kept { sources: policy.sources, rules: Vec::new() };
        let record = Record { policies: vec![kept], ..Record::default() };
        let held = Held::read(&record.to_json(b"{}").unwrap()).unwrap();
        assert_eq!(held.tables[0], policy.tables);
        ProcessRules::from(&held.tables[0])
    };
    let process = || -> Process {
        serde_json::from_value(
            json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "capabilities": caps(&["KILL", "CHOWN"])}),
        )
        .unwrap()
    };
    let rules =
        held("[capabilities]\nceiling = [\"KILL\", \"CHOWN\"]\nexec_ceiling = [\"KILL\"]\non_excess = \"clamp\"");
    let mut clamped = process();
    rules.for_exec(Set(KILL | CHOWN)).decide(&mut clamped, &mut Vec::new());
    assert_eq!(asked(&clamped).unwrap().bounding, Set(KILL));
    // Without a list: what the container has, whatever the policy would have warned of only.
    let mut decisions = Vec::new();
    held("[capabilities]\non_excess = \"warn\"").for_exec(Set(CHOWN)).decide(&mut process(), &mut decisions);
    assert_eq!((decisions[0].outcome, decisions[0].asked.as_str()), (Outcome::Refused, "CAP_KILL"));
    assert_eq!(decisions[0].policy, "the container's bounding set");
}

#[test]
fn no_new_privs_is_forced() {
    let after = changed("[no_new_privs]\nforce = true", |_| {});
    assert_eq!(after["process"]["noNewPrivileges"], true);
    assert!(changed("[no_new_privs]\nforce = false", |_| {})["process"].get("noNewPrivileges").is_none());
}

fn seccomp(policy: &str, bundle: Option<Value>, before: bool) -> Result<(Value, usize), Vec<Decision>> {
    let mut policy = read(&format!("[seccomp]\nconfig_dir = \"/s\"\n{policy}")).unwrap();
    for name in ["a", "b", "docker"] {
        let mut value =
            json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": [name], "action": "SCMP_ACT_ALLOW"}]});
        if name == "docker" {
            value["syscalls"][0]["includes"] = json!({"caps": ["CAP_KILL"]});
        }
        policy.profiles.insert(("/s".into(), name.into()), Profile { path: format!("/s/{name}"), value });
    }
    let config = config(|config| {
        if let Some(profile) = bundle {
            config["linux"]["seccomp"] = profile;
        }
    });
    let (config, effective) = run_with(&policy, &config, &Facts { decided_before: before, ..facts() })?;
    Ok((config["linux"]["seccomp"].clone(), effective.stack.len()))
}

#[test]
fn profiles_are_added_and_replaced() {
    let own = || Some(json!({"defaultAction": "SCMP_ACT_KILL"}));
    let first = |found: &Value| found["syscalls"][0]["names"][0].as_str().unwrap_or("own").to_string();
    for (policy, bundle, expected, stack) in [
        ("default = \"a\"", None, "a", 0),
        ("default = \"a\"", own(), "own", 0),
        ("default = \"a\"\nbundle_profile = \"replace\"", own(), "own", 0),
        ("default = \"a\"\nbundle_profile = \"stack\"", own(), "own", 1),
        ("default = \"a\"\nbundle_profile = \"stack\"", None, "a", 0),
        ("default = \"a\"\nbundle_profile = \"ignore\"", own(), "a", 0),
        ("default = \"a\"\nbundle_profile = \"forbid\"", None, "a", 0),
        ("stack = [\"a\", \"b\"]", None, "a", 1),
        ("stack = [\"a\", \"b\"]", own(), "own", 2),
        ("default = \"a\"\nstack = [\"b\"]", None, "a", 1),
        ("stack = []", None, "own", 0),
    ] {
        let (found, extra) = seccomp(policy, bundle, false).unwrap();
        assert_eq!((first(&found).as_str(), extra), (expected, stack), "{policy}");
    }
    // A second policy adds to what the first decided, and never takes its profile away.
    let (found, extra) = seccomp("default = \"a\"\nbundle_profile = \"ignore\"", own(), true).unwrap();
    assert_eq!((first(&found).as_str(), extra), ("own", 1));
    // Docker's conditions hold for the bounding set that comes out, which is empty here.
    assert_eq!(seccomp("default = \"docker\"", None, false).unwrap().0["syscalls"], json!([]));
}

#[test]
fn profiles_are_refused() {
    let paths = |policy: &str, bundle: Option<Value>| -> Vec<String> {
        seccomp(policy, bundle, false).map_or_else(|all| all.into_iter().map(|d| d.path).collect(), |_| Vec::new())
    };
    let allow_all = || Some(json!({"defaultAction": "SCMP_ACT_ALLOW"}));
    assert_eq!(paths("allow_unconfined = false", None), ["linux.seccomp"]);
    assert_eq!(paths("allow_unconfined = false", allow_all()), ["linux.seccomp"]);
    assert_eq!(paths("allow_unconfined = true", None), [""; 0]);
    assert_eq!(paths("allow_unconfined = false\ndefault = \"a\"", None), [""; 0]);
    assert_eq!(paths("bundle_profile = \"forbid\"", allow_all()), ["linux.seccomp"]);
    let notify = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x.sock",
        "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}]
    });
    assert_eq!(paths("forbid_actions = [\"NOTIFY\"]", Some(notify.clone())), ["linux.seccomp.syscalls[0].action"]);
    assert_eq!(paths("allow_listener = [\"/run/agent/*\"]", Some(notify.clone())), ["linux.seccomp.listenerPath"]);
    assert_eq!(paths("allow_listener = [\"/run/*\"]", Some(notify)), [""; 0]);
}

#[test]
fn user_namespaces() {
    let own = |c: &mut Value| {
        c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        c["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
    };
    let joined = |c: &mut Value| {
        c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user", "path": "/proc/1/ns/user"}));
    };
    let always = "[user_namespace]\nrequire = \"always\"";
    let auto = "[user_namespace]\nrequire = \"always\"\nmap = \"subid:auto\"\nsize = 1000";
    assert_eq!(refused(always, |_| {}), ["linux.namespaces p.toml:3"]);
    assert_eq!(refused(always, own), [""; 0]);
    assert_eq!(refused(always, joined), ["linux.namespaces[2].path p.toml:3"]);
    assert_eq!(run(auto, &config(|_| {})).unwrap().1.lease, Some(1000));
    assert_eq!(run(auto, &config(own)).unwrap().1.lease, None);
    assert_eq!(refused("[user_namespace]\nrequire = \"never\"", own), ["linux.namespaces[2] p.toml:3"]);
    let ids = |list: &str| format!("[user_namespace]\nforbid_host_ids = {list}");
    assert_eq!(refused(&ids("[0, \"900-1005\"]"), own), ["linux.uidMappings[0].hostID p.toml:3"]);
    assert_eq!(refused(&ids("[0, \"900-999\", 1010]"), own), [""; 0]);
}

#[test]
fn namespaces_of_the_host() {
    let policy = "[namespaces]\nrequire = [\"mount\"]\nforbid_host = [\"network\"]\nallow_paths = [\"/run/netns/*\"]";
    let net = |path: &'static str| {
        move |c: &mut Value| {
            c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "network", "path": path}));
        }
    };
    assert_eq!(refused(policy, |_| {}), ["linux.namespaces p.toml:4"]);
    assert_eq!(refused(policy, net("/run/netns/a")), [""; 0]);
    assert_eq!(refused(policy, net("")), [""; 0]);
    assert_eq!(refused(policy, net("/proc/9/ns/net")), ["linux.namespaces[2].path p.toml:5"]);
    assert_eq!(refused(policy, net("/run/netns/..")), ["linux.namespaces[2].path p.toml:5"]);
    let host = Facts { host_namespaces: BTreeSet::from([2]), ..facts() };
    assert!(run_with(&read(policy).unwrap(), &config(net("/run/netns/a")), &host).is_err());
}

#[test]
fn mount_sources() {
    let policy = "[mounts]\nforbid_sources = [\"/etc\", \"/\", \"/run/docker.sock\"]";
    let mount = |kind: &'static str, source: &'static str, options: &'static [&'static str]| {
        move |c: &mut Value| {
            c["mounts"] = json!([{"destination": "/m", "type": kind, "source": source, "options": options}]);
        }
    };
    for (kind, source, options, fine) in [
        ("bind", "/etc", &[][..], false),
        ("none", "/etc/passwd", &["rbind"][..], false),
        ("", "/etc", &["bind"][..], false),
        ("bind", "/", &[][..], false),
        ("bind", "/run", &[][..], false),
        ("bind", "/usr", &[][..], true),
        ("bind", "/etcetera", &[][..], true),
        ("proc", "/etc", &[][..], true),
        ("overlay", "overlay", &["lowerdir=/a:/etc/x", "upperdir=/u"][..], false),
        ("overlay", "overlay", &["lowerdir=/a"][..], true),
        ("overlay", "overlay", &["metacopy=off,lowerdir=/etc:/x"][..], false),
        ("overlay", "overlay", &["lowerdir=/a,upperdir=/etc/x"][..], false),
        ("overlay", "overlay", &[r"lowerdir=/et\c:/x"][..], false),
        ("overlay", "overlay", &[r"lowerdir=/a,workdir=/et\c"][..], false),
        ("overlay", "overlay", &["lowerdir+=/etc"][..], false),
        ("overlay", "overlay", &["lowerdir=/a::/etc"][..], false),
        ("overlay", "overlay", &[r"lowerdir=/x\:/etc"][..], true),
        ("overlay", "overlay", &["redirect_dir=on"][..], true),
        ("overlay", "overlay", &["lowerdir=/a:b"][..], false),
        ("ext4", "disk", &[][..], false),
        ("ext4", "", &[][..], true),
        ("ext4", "", &["source=/etc/disk"][..], false),
        ("ext4", "/d", &["noload,journal_path=/etc/disk"][..], false),
        ("ext4", "/d", &["noload,journal_path=/dev/d"][..], true),
        ("bind", "data", &[][..], true),
    ] {
        assert_eq!(refused(policy, mount(kind, source, options)).is_empty(), fine, "{kind} {source} {options:?}");
    }
    // A link in the bundle, followed.
    let mut leads = facts();
    leads.real.insert("mounts[0].source".into(), PathBuf::from("/etc"));
    for kind in ["bind", "rbind"] {
        assert!(run_with(&read(policy).unwrap(), &config(mount(kind, "link", &[])), &leads).is_err(), "{kind}");
    }
    assert_eq!(refused(policy, |c| c["root"]["path"] = json!("/")), ["root.path p.toml:3"]);
}

#[test]
fn mount_options_and_masks() {
    let policy = "[mounts]\nrequire_options = {bind = [\"nosuid\", \"nodev\"]}\nmasked_paths_min = [\"/proc/keys\"]\n\
        readonly_paths_min = \"@docker\"";
    let after = changed(policy, |c| {
        c["mounts"] = json!([
            {"destination": "/a", "type": "bind", "source": "/a", "options": ["bind", "nosuid", "suid", "nodev"]},
            {"destination": "/b", "type": "bind", "source": "/a"},
            {"destination": "/t", "type": "tmpfs"},
            {"destination": "/r", "type": "rbind", "source": "/a"},
        ]);
        c["linux"]["maskedPaths"] = json!(["/x"]);
    });
    assert_eq!(after["mounts"][0]["options"], json!(["bind", "nosuid", "suid", "nodev", "nosuid"]));
    assert_eq!(after["mounts"][1]["options"], json!(["nosuid", "nodev"]));
    assert!(after["mounts"][2].get("options").is_none());
    assert_eq!(after["mounts"][3]["options"], json!(["nosuid", "nodev"]));
    assert_eq!(after["linux"]["maskedPaths"], json!(["/x", "/proc/keys"]));
    assert_eq!(after["linux"]["readonlyPaths"].as_array().unwrap().len(), 5);
}

#[test]
fn a_required_option_is_not_undone_by_another_form_or_by_a_remount() {
    let policy = "[mounts]\nrequire_options = {bind = [\"rnosuid\", \"rro\"], tmpfs = [\"nodev\"]}\n";
    let options = |mounts: Value| -> Vec<Value> {
        let after = changed(policy, |c| c["mounts"] = mounts);
        after["mounts"].as_array().unwrap().iter().map(|m| m["options"].clone()).collect()
    };
    let after = options(json!([
        {"destination": "/a", "source": "/a", "options": ["rbind", "suid", "rnosuid", "rro", "rw"]},
        {"destination": "/t", "type": "tmpfs", "options": ["nodev", "rdev"]},
        {"destination": "/x/../t/", "options": ["remount", "bind", "dev"]},
        {"destination": "/t", "type": "bind", "options": ["remount", "noexec"]},
        {"destination": "/a/below", "type": "tmpfs", "options": ["remount", "rrw"]},
    ]));
    assert_eq!(after[0], json!(["rbind", "rnosuid", "rro", "rnosuid", "rro"]));
    assert_eq!(after[1], json!(["nodev", "rdev"]), "the plain word is applied last");
    assert_eq!(after[2], json!(["remount", "bind", "dev", "nodev"]));
    assert_eq!(after[3], json!(["remount", "noexec"]));
    assert_eq!(after[4], json!(["remount", "rrw", "rro"]));
}

#[test]
fn devices() {
    let policy = "[devices]\nallow = [\"c 1:3-5\", \"c 5:* rw\", \"b *:* m\"]";
    let rule = |value: Value| move |c: &mut Value| c["linux"]["resources"] = json!({"devices": [value]});
    for (value, fine) in [
        (json!({"allow": false, "access": "rwm"}), true),
        (json!({"allow": true, "access": "rwm"}), false),
        (json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}), true),
        (json!({"allow": true, "type": "c", "major": 1, "minor": 6, "access": "r"}), false),
        (json!({"allow": true, "type": "c", "major": 1, "access": "r"}), false),
        (json!({"allow": true, "type": "c", "major": 5, "minor": 1, "access": "rw"}), true),
        (json!({"allow": true, "type": "c", "major": 5, "minor": 1, "access": "m"}), false),
        (json!({"allow": true, "type": "c", "major": 5, "minor": 1}), false),
        (json!({"allow": true, "type": "b", "access": "m"}), true),
    ] {
        assert_eq!(refused(policy, rule(value.clone())).is_empty(), fine, "{value}");
    }
    let node = |c: &mut Value| c["linux"]["devices"] = json!([{"path": "/dev/m", "type": "c", "major": 1, "minor": 1}]);
    assert_eq!(refused(policy, node), ["linux.devices[0] p.toml:3"]);
    assert_eq!(refused("[devices]\nallow = []", |_| {}), [""; 0]);
}

#[test]
fn limits() {
    let policy = "[cgroups]\nrequire_limits = [\"pids\"]\nceilings = {memory = \"1G\", cpu = \"1500m\"}\n";
    let ask = |c: &mut Value| {
        c["linux"]["resources"] = json!({
            "memory": {"limit": 2_147_483_648_u64}, "cpu": {"quota": 40_000, "period": 20_000}, "pids": {"limit": 5}
        });
    };
    let paths = ["linux.resources.memory.limit p.toml:4", "linux.resources.cpu.quota p.toml:4"];
    assert_eq!(refused(policy, ask), paths);
    let after = changed(&format!("{policy}on_excess = \"clamp\""), ask);
    assert_eq!(after["linux"]["resources"]["memory"]["limit"], 1 << 30);
    assert_eq!(after["linux"]["resources"]["cpu"], json!({"quota": 30_000, "period": 20_000}));
    assert_eq!(refused(policy, |_| {}), ["linux.resources.pids.limit p.toml:3"]);
    // No limit is above any ceiling; a default comes before it.
    let after = changed("[cgroups]\nceilings = {memory = 100, pids = 9}\ndefaults = {pids = 7}", |c| {
        c["linux"]["resources"] = json!({"memory": {"limit": -1}});
    });
    assert_eq!(after["linux"]["resources"]["memory"]["limit"], 100);
    assert_eq!(after["linux"]["resources"]["pids"]["limit"], 7);
    let unified = |c: &mut Value| {
        ask(c);
        c["linux"]["resources"]["unified"] = json!({"memory.max": "max"});
    };
    assert!(refused(policy, unified).contains(&"linux.resources.unified.memory.max p.toml:4".to_string()));
}

#[test]
fn hooks_and_annotations() {
    let hook = |path: &'static str| move |c: &mut Value| c["hooks"] = json!({"poststop": [{"path": path}]});
    let policy = "[hooks]\nallow = [\"/usr/libexec/hooks/*\"]";
    assert_eq!(refused(policy, hook("/usr/libexec/hooks/a")), [""; 0]);
    assert_eq!(refused(policy, hook("/tmp/a")), ["hooks.poststop[0].path p.toml:3"]);
    assert_eq!(refused("[hooks]\nallow = [\"/a/**\"]", hook("/a/../b")), ["hooks.poststop[0].path p.toml:3"]);
    assert_eq!(refused("[hooks]\nallow = []", hook("/a")), ["hooks.poststop[0].path p.toml:3"]);
    let annotation = |key: &'static str| move |c: &mut Value| c["annotations"] = json!({key: "1"});
    let policy = "[annotations]\nallow_prefix = [\"io.\"]\ndeny_prefix = [\"io.bad\"]";
    assert_eq!(refused(policy, annotation("io.x")), [""; 0]);
    assert_eq!(refused(policy, annotation("io.bad.x")), ["annotations.io.bad.x p.toml:4"]);
    assert_eq!(refused(policy, annotation("run.x")), ["annotations.run.x p.toml:3"]);
}

#[test]
fn rules_select_and_override() {
    let policy = "[no_new_privs]\nforce = true\n[[rule]]\nwhen = {annotation = {\"kind\" = \"sand*\"}, uid = [\"0-9\"]}\n\
        no_new_privs.force = false\n[[rule]]\nwhen.bundle = \"/b\"\nhooks.allow = []\n[[rule]]\nwhen.cgroup = \"/x/**\"\n\
        user_namespace.require = \"always\"";
    let nnp = |edit: fn(&mut Value)| changed(policy, edit)["process"]["noNewPrivileges"] == true;
    assert!(nnp(|_| {}));
    assert!(!nnp(|c| c["annotations"] = json!({"kind": "sandbox"})));
    assert!(nnp(|c| {
        c["annotations"] = json!({"kind": "sandbox"});
        c["process"]["user"]["uid"] = json!(10);
    }));
    let hook = |c: &mut Value| c["hooks"] = json!({"poststop": [{"path": "/a"}]});
    assert_eq!(refused(policy, hook), ["hooks.poststop[0].path p.toml:9"]);
    assert_eq!(refused(policy, |c| c["linux"]["cgroupsPath"] = json!("/x/y/z")), ["linux.namespaces p.toml:12"]);
}

#[test]
fn later_files_win_key_by_key() {
    let mut policy = read("[capabilities]\nceiling = []\nambient = \"never\"").unwrap();
    policy.add("q.toml", "version = 1\ncapabilities.ceiling = [\"KILL\"]".into(), &mut Vec::new());
    let shown: Vec<String> =
        policy.tables.shown().iter().map(|key| format!("{} {} {}", key.key, key.value, key.from)).collect();
    assert_eq!(shown, ["capabilities.ceiling [\"CAP_KILL\"] q.toml:2", "capabilities.ambient \"never\" p.toml:4"]);
}

#[test]
fn faults_are_named_with_their_line() {
    for (text, expected) in [
        ("[capabilities\n", "p.toml:2: unclosed table"),
        ("x = 1", "p.toml:2: x: unknown key"),
        ("[capabilites]", "p.toml:2: capabilites: unknown key, did you mean capabilities?"),
        ("[capabilities]\n\nceilin = []", "p.toml:4: capabilities.ceilin: unknown key, did you mean ceiling?"),
        ("[capabilities]\nceiling = \"ALL\"", "p.toml:3: expected an array"),
        ("[capabilities]\nceiling = [\"FLY\"]", "p.toml:3: no such capability: \"FLY\""),
        (
            "[capabilities]\non_excess = \"maybe\"",
            "p.toml:3: unknown value \"maybe\", expected \"reject\" or \"clamp\"",
        ),
        ("[capabilities]\nceiling = []\ndefault = [\"KILL\"]", "p.toml:4: capabilities.default: CAP_KILL not in"),
        (
            "[capabilities]\ndefault = [\"KILL\"]\nrequired_drop = [\"KILL\"]",
            "p.toml:3: capabilities.default: CAP_KILL in capabilities.required_drop",
        ),
        ("[capabilities]\ndefault_bounding = []", "p.toml:3: capabilities.default_bounding: needs"),
        ("[capabilities]\ndefault = [\"KILL\"]\ndefault_bounding = []", "p.toml:3: capabilities.default: CAP_KILL not"),
        ("[capabilities]\nceiling = []\nceiling = []", "p.toml:4: duplicate key"),
        ("[seccomp]\ndefault = \"x\"", "p.toml:3: seccomp: a profile is named"),
        ("[seccomp]\nconfig_dir = \"x\"", "p.toml:3: seccomp.config_dir: must be absolute"),
        ("[seccomp]\nforbid_actions = [\"FLY\"]", "p.toml:3: seccomp.forbid_actions: no such action"),
        (
            "[seccomp]\nallow_unconfined = false\nbundle_profile = \"forbid\"",
            "p.toml:4: seccomp: no container could start",
        ),
        ("[user_namespace]\nrequire = \"never\"\nmap = \"subid:auto\"", "p.toml:4: user_namespace.map"),
        ("[user_namespace]\nsize = 5", "p.toml:3: user_namespace.size: needs map"),
        ("[user_namespace]\nforbid_host_ids = [\"9-1\"]", "p.toml:3: expected an id or a range"),
        ("[namespaces]\nrequire = [\"net\"]", "p.toml:3: no such namespace: \"net\""),
        ("[mounts]\nforbid_sources = [\"etc\"]", "p.toml:3: must be absolute"),
        ("[mounts]\nrequire_options = {bind = [\"suid\"]}", "p.toml:3: \"suid\" cannot be required"),
        ("[devices]\nallow = [\"c 1\"]", "p.toml:3: \"c 1\" is no device rule"),
        ("[cgroups]\nceilings = {memory = \"8X\"}", "p.toml:3: expected a number above 0"),
        ("[cgroups]\nceilings = {swap = 1}", "p.toml:3: cgroups.*.swap: unknown key"),
        ("[cgroups]\nceilings = {pids = 1}\ndefaults = {pids = 2}", "p.toml:4: cgroups.defaults.pids: 2 is above"),
        ("[[rule]]\nhooks.allow = []", "p.toml:2: rule: when is missing"),
        ("[[rule]]\nwhen = {}", "p.toml:3: rule.when: has no condition"),
        ("[[rule]]\nwhen.image = \"x\"", "p.toml:3: rule.when.image: unknown key"),
        (
            "[[rule]]\nwhen.bundle = \"x\"\ncapabilities.default = []\ncapabilities.default_bounding = [\"FLY\"]",
            "p.toml:5",
        ),
        ("[audit]\nfile = \"x\"", "p.toml:3: audit.file: must be absolute"),
        ("[no_new_privs]\nforce = \"yes\"", "p.toml:3: expected true or false"),
    ] {
        let faults = read(text).unwrap_err();
        assert!(faults.iter().any(|fault| fault.starts_with(expected)), "{text}: {faults:?}");
    }
    for (text, expected) in [("", "version: is missing"), ("version = 2", "version: this orlop knows version 1 only")] {
        let mut faults = Vec::new();
        Policy::default().add("p.toml", text.into(), &mut faults);
        assert!(faults[0].message.starts_with(expected), "{faults:?}");
    }
}

/// The example of the manual is a policy, and every key is in it.
#[test]
fn the_documented_example_is_complete() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/policy.md")).unwrap();
    let example = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let mut faults = Vec::new();
    let mut policy = Policy::default();
    policy.add("policy.md", example.into(), &mut faults);
    faults.extend(policy.contradictions());
    assert_eq!(faults, []);
    let keys = policy.tables.shown().len();
    assert_eq!(keys, super::model::Tables::COUNT, "{:?}", policy.tables.shown());
    assert!(!policy.rules.is_empty());
}
