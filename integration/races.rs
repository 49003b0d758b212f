// SPDX-License-Identifier: Apache-2.0
//! Another process changes the root filesystem while the container is made, as one does that shares a volume with it:
//! a directory and a link to the canary outside swap places, as fast as they can. Nothing outside may ever be touched.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::json;

use crate::harness::{Bundle, Flavor, flavor, host};

/// Two entries of one directory, which is held open: a name could lead the attacker himself astray.
struct Pair {
    directory: fs::File,
    names: [CString; 2],
}

/// Runs `work` while the entries of each pair swap places; returns how many swaps there were.
fn while_swapping(pairs: &[Pair], work: impl FnOnce()) -> u64 {
    let (stop, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for Pair { directory, names: [a, b] } in pairs {
                    let fd = directory.as_raw_fd();
                    // SAFETY: two NUL-terminated strings.
                    let result = unsafe {
                        libc::syscall(libc::SYS_renameat2, fd, a.as_ptr(), fd, b.as_ptr(), libc::RENAME_EXCHANGE)
                    };
                    swaps.fetch_add(u64::from(result == 0), Ordering::Relaxed);
                }
            }
        });
        // The other thread has to end even if this one fails.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    swaps.load(Ordering::Relaxed)
}

/// Creates the container and deletes it `count` times while `names` of its rootfs swap places with links to the canary.
fn race(bundle: Bundle, names: &[&str], count: u32) {
    let canary = bundle.canary();
    // What the links lead to holds what a container would use: it may be used by nobody.
    for dir in ["made", "sub", "pts", "self", "sys"] {
        fs::create_dir(canary.join(dir)).unwrap();
    }
    for file in ["null", "console", "ptmx", "secret"] {
        fs::write(canary.join(file), "untouched").unwrap();
    }
    let before = snapshot(&canary);
    let rootfs = bundle.rootfs();
    let pairs: Vec<_> = names
        .iter()
        .map(|name| {
            let there = rootfs.join(name);
            fs::create_dir_all(&there).unwrap();
            let (parent, name) = (there.parent().unwrap(), there.file_name().unwrap().to_str().unwrap());
            let link = format!("link-{name}");
            symlink(&canary, parent.join(&link)).unwrap();
            let names = [name, &link].map(|name| CString::new(name).unwrap());
            Pair { directory: fs::File::open(parent).unwrap(), names }
        })
        .collect();
    let bundle = bundle.args(["/probe", "wait"]);
    bundle.write_config();
    let mut made = 0;
    let swaps = while_swapping(&pairs, || {
        for _ in 0..count {
            made += u32::from(
                bundle.call(["create", "--bundle", bundle.dir.to_str().unwrap(), &bundle.id]).output().status.success(),
            );
            bundle.delete_force().ok();
        }
    });
    let after = snapshot(&canary);
    let changes: Vec<_> = after.iter().filter(|entry| !before.contains(entry)).collect();
    assert!(changes.is_empty(), "outside the rootfs there is now: {changes:#?}");
    assert_eq!(after.len(), before.len(), "something outside the rootfs is gone");
    assert!(swaps > u64::from(count), "only {swaps} swaps during {count} creates");
    println!("{names:?}: {made} of {count} creates succeeded during {swaps} swaps");
    if flavor() == Flavor::Crun {
        // Its failed creates leave cgroups.
        for left in host::cgroups_named(&bundle.id) {
            drop(fs::remove_dir(left));
        }
    }
    if flavor() == Flavor::Orlop {
        bundle.check_clean();
    }
}

/// Every name below `dir`, with what tells a change: type, mode, owner, size, modification and change time.
fn snapshot(dir: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut all = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let (mtime, ctime) = ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
        all.push(format!(
            "{path:?} {:o} {} {} {mtime:?} {ctime:?} {}",
            meta.mode(),
            meta.uid(),
            meta.size(),
            meta.ino()
        ));
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    all.sort();
    all
}

/// 2,000 creates for all variants together. The peers, which are slower, get fewer.
fn count(share: u32) -> u32 {
    if flavor() == Flavor::Orlop { share } else { share / 20 }
}

#[test]
fn a13_the_destination_of_a_mount_and_its_parent_change() {
    crate::peer_differs!("runc", "1.1.5 is before the fix of CVE-2024-45310");
    let bundle = Bundle::new()
        .mount("/volume/a", "tmpfs", "tmpfs", &[])
        .mount("/volume/a/made", "tmpfs", "tmpfs", &[])
        .mount("/parent/sub/new/deep", "tmpfs", "tmpfs", &[])
        .mount("/parent/sub/file", "bind", "/dev/null", &["bind"]);
    race(bundle, &["volume", "parent", "parent/sub"], count(500));
}

#[test]
fn a13_dev_changes_and_nothing_is_mounted_there() {
    crate::peer_differs!("runc", "1.1.5 is before the fix of CVE-2026-41579");
    crate::peer_differs!("crun", "1.8 is before the fix of CVE-2026-47766");
    let bundle = Bundle::new()
        .remove("/mounts/2")
        .remove("/mounts/1")
        .push("/linux/devices", json!({"path": "/dev/mine", "type": "c", "major": 1, "minor": 3}));
    race(bundle, &["dev"], count(300));
}

#[test]
fn a13_proc_and_dev_change_and_are_mounted_on() {
    race(Bundle::new().set("/linux/sysctl", json!({"kernel.msgmax": "4444"})), &["proc", "dev"], count(500));
}

#[test]
fn a13_the_working_directory_changes() {
    crate::peer_differs!("runc", "1.1.5 is before the fix of CVE-2024-45310");
    race(Bundle::new().set("/process/cwd", "/work/sub/made/here"), &["work", "work/sub"], count(300));
}

#[test]
fn a13_masked_and_read_only_paths_change() {
    let bundle = Bundle::new()
        .set("/linux/maskedPaths", json!(["/hidden", "/hidden/secret", "/hidden/sub"]))
        .set("/linux/readonlyPaths", json!(["/fixed", "/fixed/made"]));
    race(bundle, &["hidden", "fixed"], count(400));
}
