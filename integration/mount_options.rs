// SPDX-License-Identifier: Apache-2.0
//! Every word of `mounts[].options`: what it does, read back inside the container with statmount(2) and mountinfo.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Bundle, Call, Flavor, Output, eventually, flavor};

/// What is mounted with the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    /// A new tmpfs.
    Tmpfs,
    /// The volume of [`with_shared_volume`] without, or with, the mount below it.
    Bind,
    Rbind,
    /// The same with mappings of its own.
    Mapped,
    /// A tmpfs that an entry before has mounted.
    Again,
}

use On::{Again, Bind, Mapped, Rbind, Tmpfs};

/// The word; what it is used on; words before it; what is then to be seen. A word after `!` must not be seen, one after
/// `sub/` is about the mount below.
const ROWS: [(&str, On, &str, &str); 63] = [
    ("async", Tmpfs, "sync", "!sb:sync"),
    ("atime", Tmpfs, "noatime", "relatime"),
    ("bind", Bind, "", "has:file !sub/"),
    ("defaults", Tmpfs, "", "relatime !ro !nosuid !nodev !noexec private"),
    ("dev", Tmpfs, "nodev", "!nodev"),
    ("diratime", Tmpfs, "nodiratime", "!nodiratime"),
    ("dirsync", Tmpfs, "", "sb:dirsync"),
    ("exec", Tmpfs, "noexec", "!noexec"),
    ("idmap", Mapped, "rbind", "idmapped !sub/idmapped"),
    // A tmpfs keeps inode versions with or without it.
    ("iversion", Tmpfs, "", "relatime"),
    ("lazytime", Tmpfs, "", "sb:lazytime"),
    ("loud", Tmpfs, "silent", "relatime"),
    ("mand", Tmpfs, "", "info:mand"),
    ("noatime", Tmpfs, "", "noatime !relatime"),
    ("nodev", Tmpfs, "", "nodev"),
    ("nodiratime", Tmpfs, "", "nodiratime"),
    ("noexec", Tmpfs, "", "noexec"),
    ("noiversion", Tmpfs, "iversion", "relatime"),
    ("nolazytime", Tmpfs, "lazytime", "!sb:lazytime"),
    ("nomand", Tmpfs, "mand", "!info:mand"),
    ("norelatime", Tmpfs, "", "relatime"),
    ("nostrictatime", Tmpfs, "strictatime", "relatime !strictatime"),
    ("nosuid", Tmpfs, "", "nosuid"),
    ("nosymfollow", Tmpfs, "", "nosymfollow"),
    ("private", Rbind, "rshared", "private sub/shared"),
    ("ratime", Rbind, "rnoatime", "relatime sub/relatime"),
    ("rbind", Rbind, "", "has:file sub/relatime"),
    ("rdev", Rbind, "rnodev", "!nodev !sub/nodev"),
    ("rdiratime", Rbind, "rnodiratime", "!nodiratime !sub/nodiratime"),
    ("relatime", Tmpfs, "noatime", "relatime !noatime"),
    ("remount", Again, "ro", "ro"),
    ("rexec", Rbind, "rnoexec", "!noexec !sub/noexec"),
    ("ridmap", Mapped, "rbind", "idmapped sub/idmapped"),
    ("rnoatime", Rbind, "", "noatime sub/noatime"),
    ("rnodev", Rbind, "", "nodev sub/nodev"),
    ("rnodiratime", Rbind, "", "nodiratime sub/nodiratime"),
    ("rnoexec", Rbind, "", "noexec sub/noexec"),
    ("rnorelatime", Rbind, "", "relatime sub/relatime"),
    ("rnostrictatime", Rbind, "rstrictatime", "relatime sub/relatime"),
    ("rnosuid", Rbind, "", "nosuid sub/nosuid"),
    ("rnosymfollow", Rbind, "", "nosymfollow sub/nosymfollow"),
    ("ro", Tmpfs, "", "ro"),
    // Of a bind mount only itself, and not what is below.
    ("ro", Rbind, "", "ro !sub/ro"),
    ("rprivate", Rbind, "rshared", "private sub/private"),
    ("rrelatime", Rbind, "rnoatime", "relatime sub/relatime"),
    ("rro", Rbind, "", "ro sub/ro"),
    ("rrw", Rbind, "rro", "!ro !sub/ro"),
    ("rshared", Rbind, "", "shared sub/shared"),
    ("rslave", Rbind, "", "slave sub/slave !shared !sub/shared"),
    ("rstrictatime", Rbind, "", "strictatime sub/strictatime"),
    ("rsuid", Rbind, "rnosuid", "!nosuid !sub/nosuid"),
    ("rsymfollow", Rbind, "rnosymfollow", "!nosymfollow !sub/nosymfollow"),
    ("runbindable", Rbind, "", "unbindable sub/unbindable"),
    ("rw", Tmpfs, "ro", "!ro"),
    ("shared", Tmpfs, "", "shared"),
    ("silent", Tmpfs, "", "relatime"),
    ("slave", Rbind, "", "slave !shared"),
    ("strictatime", Tmpfs, "", "strictatime"),
    ("suid", Tmpfs, "nosuid", "!nosuid"),
    ("symfollow", Tmpfs, "nosymfollow", "!nosymfollow"),
    ("sync", Tmpfs, "", "sb:sync"),
    ("tmpcopyup", Tmpfs, "", "has:copied"),
    ("unbindable", Tmpfs, "", "unbindable"),
];

/// Words that runc 1.1.5 does not know or takes for data; and it lets none of the recursive words undo an earlier one.
const RUNC_DIFFERS: &str = "defaults idmap ratime rdev rdiratime relatime rexec ridmap rnostrictatime rrelatime rrw \
    rsuid rsymfollow";

/// What `nsenter` into the mount namespace of `pid` makes of a command.
fn in_namespace_of(pid: i32, command: &[&str]) {
    let status = Command::new("nsenter").args(["-m", "-t", &pid.to_string()]).args(command).status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

/// Runs the bundle where its `volume` directory is a shared mount with another, `volume/sub`, below it. The host's own
/// table does not change.
fn with_shared_volume(bundle: &Bundle, args: &[String]) -> Output {
    with_volume(bundle, args, 0)
}

/// The same with these `MS_*` flags on both mounts.
fn with_volume(bundle: &Bundle, args: &[String], flags: libc::c_ulong) -> Output {
    call_with_volume(bundle, args, flags).output()
}

fn call_with_volume(bundle: &Bundle, args: &[String], flags: libc::c_ulong) -> Call {
    let volume = bundle.dir.join("volume");
    fs::create_dir_all(&volume).unwrap();
    let c = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap();
    let (top, file, sub) = (c(&volume), c(&volume.join("file")), c(&volume.join("sub")));
    let mut bundle_config = bundle.config.clone();
    bundle_config["process"]["args"] = json!(args);
    fs::write(bundle.dir.join("config.json"), bundle_config.to_string()).unwrap();
    let dir = bundle.dir.to_str().unwrap();
    let call: Call = bundle.call(["run", "--bundle", dir, &bundle.id]);
    // SAFETY: system calls on strings that were made before.
    unsafe {
        call.pre_exec(move || {
            let (none, tmpfs) = (std::ptr::null(), c"tmpfs".as_ptr());
            let shared = libc::MS_SHARED;
            let done = libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) == 0
                && libc::mount(tmpfs, top.as_ptr(), tmpfs, 0, none.cast()) == 0
                && libc::mount(none, top.as_ptr(), none, shared, none.cast()) == 0
                && libc::mknod(file.as_ptr(), libc::S_IFREG | 0o644, 0) == 0
                && libc::mkdir(sub.as_ptr(), 0o755) == 0
                && libc::mount(tmpfs, sub.as_ptr(), tmpfs, flags, none.cast()) == 0
                && libc::mount(none, top.as_ptr(), none, libc::MS_REMOUNT | libc::MS_BIND | flags, none.cast()) == 0;
            if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        })
    }
}

fn add(bundle: Bundle, at: &str, (word, on, before, _): (&str, On, &str, &str)) -> Bundle {
    let volume = bundle.dir.join("volume");
    let volume = volume.to_str().unwrap();
    let mut words: Vec<&str> = before.split_whitespace().chain([word]).collect();
    match on {
        Tmpfs => bundle.mount(at, "tmpfs", "tmpfs", &words),
        Bind => bundle.mount(at, "", volume, &words),
        Rbind => {
            words.insert(0, "rbind");
            bundle.mount(at, "", volume, &words)
        }
        Mapped => {
            let map = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
            bundle.push(
                "/mounts",
                json!({"destination": at, "source": volume, "options": words, "uidMappings": map, "gidMappings": map}),
            )
        }
        Again => bundle.mount(at, "tmpfs", "tmpfs", &[]).mount(at, "tmpfs", "tmpfs", &words),
    }
}

/// The words for the mount at `at` by mountinfo; none if nothing is mounted there.
fn listed(mounts: &Value, at: &str) -> Option<BTreeSet<String>> {
    let mount = mounts.as_array().unwrap().iter().rev().find(|m| m["dest"] == at)?;
    let strings = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|w| w.as_str().unwrap().to_string()).collect()
    };
    let mut words: BTreeSet<String> = strings(&mount["options"]).into_iter().filter(|w| w != "rw").collect();
    if !words.contains("noatime") && !words.contains("relatime") {
        words.insert("strictatime".into());
    }
    for flag in strings(&mount["super"]) {
        if ["ro", "sync", "dirsync", "lazytime"].contains(&flag.as_str()) {
            words.insert(format!("sb:{flag}"));
        } else if flag == "mand" {
            words.insert("info:mand".into());
        }
    }
    let propagation = strings(&mount["propagation"]);
    for word in &propagation {
        words.insert(match word.split(':').next().unwrap() {
            "master" => "slave".into(),
            other => other.to_string(),
        });
    }
    if propagation.is_empty() {
        words.insert("private".into());
    }
    Some(words)
}

/// What is wrong with one expectation.
fn fault(want: &str, top: &BTreeSet<String>, sub: Option<&BTreeSet<String>>) -> Option<String> {
    let (absent, word) = want.strip_prefix('!').map_or((false, want), |word| (true, word));
    let found = match word.strip_prefix("sub/") {
        Some("") => sub.is_some(),
        Some(word) => sub.is_some_and(|words| words.contains(word)),
        None => top.contains(word),
    };
    (found == absent).then(|| format!("{want}, but there is {top:?}, below {sub:?}"))
}

#[test]
fn every_option_has_its_effect() {
    crate::peer_differs!("crun", "1.8 knows half of the words, and lets none undo an earlier one");
    let differs = if flavor() == Flavor::Runc { RUNC_DIFFERS } else { "" };
    let rows: Vec<_> = ROWS.into_iter().filter(|row| !differs.split(' ').any(|word| word == row.0)).collect();
    // A peer fails with the first word that it does not know; each gets a container of its own.
    let at_once = if flavor() == Flavor::Orlop { rows.len() } else { 1 };
    let mut faults = Vec::new();
    for rows in rows.chunks(at_once) {
        let at = |i: usize| format!("/mnt/{i}-{}", rows[i].0);
        let mut bundle = Bundle::new();
        let mut args = vec!["/probe".to_string(), "report".into()];
        for (i, row) in rows.iter().enumerate() {
            bundle = add(bundle.file(&format!("{}/copied", at(i)), "", 0o644), &at(i), *row);
            for path in [at(i), format!("{}/sub", at(i))] {
                args.extend([",".to_string(), "statmount".into(), path]);
            }
        }
        let out = with_shared_volume(&bundle, &args);
        if !out.status.success() {
            faults.push(format!("{}: {}", rows[0].0, out.stderr));
            continue;
        }
        let told = out.jsons();
        for (i, (word, _, _, wants)) in rows.iter().enumerate() {
            let entries = told[1 + 2 * i]["entries"].as_array().unwrap().clone();
            let names = entries.iter().map(|name| format!("has:{}", name.as_str().unwrap()));
            let mut top = listed(&told[0]["mounts"], &at(i)).unwrap_or_else(|| panic!("{word}: nothing is mounted"));
            let sub = listed(&told[0]["mounts"], &format!("{}/sub", at(i)));
            // The two sources of the kernel agree.
            for (listed, answer) in [(Some(&top), &told[1 + 2 * i]), (sub.as_ref(), &told[2 + 2 * i])] {
                let (Some(listed), Some(words)) = (listed, answer["words"].as_array()) else { continue };
                let words: BTreeSet<String> = words.iter().map(|w| w.as_str().unwrap().to_string()).collect();
                let mut listed = listed.clone();
                listed.remove("info:mand");
                if words != listed {
                    faults.push(format!("{word}: statmount has {words:?}, mountinfo {listed:?}"));
                }
            }
            top.extend(names);
            let wrong = wants.split(' ').filter_map(|want| fault(want, &top, sub.as_ref()));
            faults.extend(wrong.map(|fault| format!("{word}: {fault}")));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_table_of_effects_has_a_row_for_every_option() {
    crate::orlop_only!("lists its own options");
    let known: BTreeSet<&str> = ROWS.iter().map(|row| row.0).collect();
    let features = Bundle::new().call(["features"]).output().json();
    let listed = features["mountOptions"].as_array().unwrap().clone();
    let listed: BTreeSet<&str> = listed.iter().map(|w| w.as_str().unwrap()).collect();
    assert_eq!(known, listed);
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_string()).collect()
}

#[test]
fn later_mounts_of_the_host_reach_what_is_slave_or_shared() {
    crate::peer_differs!("crun", "1.8 makes the host's mounts private first");
    let bundle = Bundle::new().dir_in_rootfs("/mnt", 0o755);
    let volume = bundle.dir.join("volume");
    let volume = volume.to_str().unwrap();
    let bundle = ["rslave", "rprivate", "rshared", "slave", "private", "unbindable"]
        .iter()
        .fold(bundle, |bundle, word| bundle.mount(&format!("/mnt/{word}"), "", volume, &["rbind", word]));
    let running = call_with_volume(&bundle, &words(&["/probe", "wait"]), 0).start();
    eventually("the container runs", || fs::read_to_string(running.stdout_path()).is_ok_and(|t| t.contains("ready")));
    let make = format!("mkdir {volume}/late && mount -t tmpfs late {volume}/late && echo > {volume}/late/seen");
    in_namespace_of(running.pid(), &["sh", "-c", &make]);
    let seen = |word: &str| {
        let out = bundle.call(["exec", &bundle.id, "/probe", "ls", &format!("/mnt/{word}/late")]).output();
        out.json().get("seen").is_some()
    };
    for (word, reached) in
        [("rslave", true), ("slave", true), ("rprivate", false), ("private", false), ("unbindable", false)]
    {
        assert_eq!(seen(word), reached, "{word}");
    }
    let rshared = seen("rshared");
    bundle.delete_force().ok();
    running.output();
    // It is the host's peer only if the whole tree is asked to be: here it becomes a slave first.
    assert!(rshared);
}

#[test]
fn a_remount_adds_to_the_attributes() {
    crate::peer_differs!("runc", "1.1.5 drops the attributes that the remount does not name");
    crate::peer_differs!("crun", "1.8 wants a source for it");
    let bundle = Bundle::new();
    let volume = bundle.dir.join("volume");
    let bundle = bundle
        .mount("/mnt/a", "", volume.to_str().unwrap(), &["rbind", "nosuid"])
        .mount("/mnt/a", "", "", &["remount", "bind", "ro", "nodev"])
        // The mount that came with the rbind, by its own name.
        .mount("/mnt/a/sub", "", "", &["remount", "bind", "noexec"])
        .mount("/mnt/b", "tmpfs", "tmpfs", &["size=64k", "ro"])
        .mount("/mnt/b", "tmpfs", "tmpfs", &["remount", "rw", "size=128k", "sync"])
        .mount("/mnt/c", "tmpfs", "tmpfs", &["size=64k"])
        .mount("/mnt/c", "tmpfs", "tmpfs", &["remount", "ro"])
        .mount("/mnt/c/inner", "tmpfs", "tmpfs", &["size=64k"]);
    let out = with_shared_volume(
        &bundle,
        &words(&["/probe", "report", ",", "write", "/mnt/a/x", "y", ",", "write", "/mnt/b/x", "y"]),
    );
    let told = out.jsons();
    assert!(out.status.success(), "{out}");
    let at = |at: &str| listed(&told[0]["mounts"], at).unwrap();
    let has = |at: &BTreeSet<String>, words: &str| words.split(' ').all(|word| at.contains(word));
    assert!(has(&at("/mnt/a"), "ro nosuid nodev") && !has(&at("/mnt/a"), "noexec"), "{:?}", at("/mnt/a"));
    assert!(has(&at("/mnt/a/sub"), "noexec") && !has(&at("/mnt/a/sub"), "ro"), "{:?}", at("/mnt/a/sub"));
    assert!(has(&at("/mnt/b"), "sb:sync") && !has(&at("/mnt/b"), "ro"), "{:?}", at("/mnt/b"));
    assert!(crate::harness::has(&crate::harness::mount_at(&told[0], "/mnt/b")["super"], "size=128k"), "{out}");
    assert!(has(&at("/mnt/c"), "ro") && !has(&at("/mnt/c/inner"), "ro"), "{out}");
    assert_eq!(told[1]["errno"], libc::EROFS, "{out}");
    assert_eq!(told[2]["ok"], true, "{out}");
}

#[test]
fn a_remount_in_a_user_namespace_keeps_what_the_host_locked() {
    crate::peer_differs!("runc", "1.1.5 wants the locked flags to be named");
    crate::peer_differs!("crun", "1.8 wants the locked flags to be named");
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let bundle = || Bundle::new().userns(0, 100_000, 65_536);
    let with = |options: &[&str], after: &[&str]| {
        let bundle = bundle();
        let volume = bundle.dir.join("volume");
        let volume = volume.to_str().unwrap();
        let bundle = bundle.mount("/mnt", "bind", volume, options).mount("/mnt", "bind", volume, after);
        let out = with_volume(&bundle, &words(&["/probe"]), flags);
        bundle.check_clean();
        out
    };
    let out = with(&["rbind"], &["remount", "bind", "ro"]);
    let seen = listed(&out.json()["mounts"], "/mnt").unwrap();
    for word in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(seen.contains(word), "{word}: {out}");
    }
    crate::orlop_only!("names the flag");
    with(&["rbind"], &["remount", "bind", "ro", "exec"]).fails_with(&["mounts[3]", "noexec", "cannot undo"]);
}

#[test]
fn a_remount_of_nothing_or_of_the_host_s_file_system_is_refused() {
    let bundle = Bundle::new().dir_in_rootfs("/mnt/x", 0o755).mount("/mnt/x", "tmpfs", "tmpfs", &["remount", "ro"]);
    bundle.try_run(["/probe"]).fails();
    bundle.check_clean();
    crate::orlop_only!("tells whose file system it is, and follows no link to it");
    bundle.try_run(["/probe"]).fails_with(&["mounts[3] /mnt/x", "nothing is mounted there"]);
    let bundle = Bundle::new().link_in_rootfs("/mnt/x", "/proc").mount("/mnt/x", "", "", &["remount", "ro"]);
    bundle.try_run(["/probe"]).fails_with(&["mounts[3] /mnt/x", "without links"]);
    bundle.check_clean();
    let bundle = Bundle::new();
    let volume = bundle.canary();
    let bundle = bundle.mount("/mnt", "bind", volume.to_str().unwrap(), &["bind"]).mount(
        "/mnt",
        "ext4",
        "none",
        &["remount", "errors=continue"],
    );
    bundle.try_run(["/probe"]).fails_with(&["mounts[4].options[1]", "errors=continue"]);
    bundle.check_clean();
}

/// Directories whose names make a list that is much longer than 255 bytes, each with a file of its own; one name has a
/// colon.
fn layers(bundle: &Bundle, count: usize) -> Vec<String> {
    (0..count)
        .map(|i| {
            let name = if i == 3 { format!("layer:{i}") } else { format!("a-layer-with-a-rather-long-name-{i}") };
            let dir = bundle.dir.join("layers").join(name);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(format!("file-{i}")), "").unwrap();
            dir.to_str().unwrap().replace(':', "\\:")
        })
        .collect()
}

#[test]
fn an_overlay_may_have_a_long_list_of_layers() {
    let bundle = Bundle::new();
    let list = format!("lowerdir={}", layers(&bundle, 20).join(":"));
    let mount = bundle.mount("/mnt", "overlay", "overlay", &[&list]);
    let seen = mount.run(["/probe", "ls", "/mnt"]).json();
    assert!((0..20).all(|i| seen.get(format!("file-{i}")).is_some()), "{seen}");
    // After two colons come layers that hold data only: their names are not to be seen.
    let bundle = Bundle::new();
    let all = layers(&bundle, 20);
    let (data, names) = all.split_last().unwrap();
    let list = format!("lowerdir={}::{data}", names.join(":"));
    let mount = bundle.mount("/mnt", "overlay", "overlay", &["metacopy=on", &list]);
    let seen = mount.run(["/probe", "ls", "/mnt"]).json();
    assert!(seen.get("file-18").is_some() && seen.get("file-19").is_none(), "{seen}");
}

#[test]
fn a_value_that_the_kernel_cannot_take_is_named() {
    crate::orlop_only!("configures file systems with fsconfig(2)");
    let bundle = Bundle::new();
    let deep = "d".repeat(200);
    let long = bundle.dir.join(&deep).join(&deep);
    fs::create_dir_all(&long).unwrap();
    let long = long.to_str().unwrap();
    let options = [format!("lowerdir={long}:{long}"), format!("upperdir={long}")];
    for (options, words) in [
        (vec![options[0].as_str()], ["mounts[3] /mnt", "lowerdir: layer"]),
        (vec!["lowerdir=/tmp", options[1].as_str()], ["mounts[3] /mnt", "option upperdir"]),
    ] {
        let bundle = Bundle::new().mount("/mnt", "overlay", "overlay", &options);
        bundle.try_run(["/probe"]).fails_with(&words).fails_with(&["255 bytes"]);
        bundle.check_clean();
    }
}

#[test]
fn a_mount_label_without_selinux_is_refused_by_name() {
    if fs::read_to_string("/proc/filesystems").unwrap().contains("selinuxfs") {
        crate::skip_expected!("the host has SELinux");
    }
    crate::peer_differs!("crun", "1.8 ignores the label where there is no SELinux");
    let bundle = Bundle::new().set("/linux/mountLabel", "system_u:object_r:container_file_t:s0:c1,c2");
    let out = bundle.try_run(["/probe"]).fails();
    bundle.check_clean();
    crate::peer_differs!("runc", "1.1.5 shows the kernel's error only");
    out.fails_with(&["linux.mountLabel", "selinux is not enabled"]);
    let out = bundle.call(["check", bundle.dir.to_str().unwrap()]).output();
    assert!(out.stdout.contains("linux.mountLabel") && out.code() == 1, "{out}");
}
