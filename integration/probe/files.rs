// SPDX-License-Identifier: Apache-2.0
//! Commands that try something on a path.

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use crate::act::{done, failed, outcome};
use crate::report;

/// Runs a command of this module; `None` if it is not one.
pub fn run(words: &[&str]) -> Option<Value> {
    Some(match words {
        ["stat", path] => report::entry(Path::new(path), true),
        ["lstat", path] => report::entry(Path::new(path), false),
        ["ls", path] => report::directory(path),
        ["open", path] => open(path, "r"),
        ["open", path, mode] => open(path, mode),
        ["read", path] => match read_some(path) {
            Ok(text) => json!({"content": text}),
            Err(e) => failed(&e),
        },
        ["write", path, content] => {
            let write = OpenOptions::new().write(true).create(true).truncate(true).open(path);
            done(write.and_then(|mut f| f.write_all(content.as_bytes())))
        }
        // Without O_CREAT and O_TRUNC: for files of procfs, sysfs and cgroupfs.
        ["set", path, content] => {
            done(OpenOptions::new().write(true).open(path).and_then(|mut f| f.write_all(content.as_bytes())))
        }
        ["mkdir", path] => done(fs::create_dir(path)),
        ["unlink", path] => done(fs::remove_file(path)),
        ["symlink", target, path] => done(symlink(target, path)),
        ["readlink", path] => match fs::read_link(path) {
            Ok(target) => json!({"target": target.display().to_string()}),
            Err(e) => failed(&e),
        },
        ["chmod", mode, path] => {
            let mode = u32::from_str_radix(mode, 8).unwrap();
            done(fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)))
        }
        ["mknod", path, kind, major, minor] => mknod(path, kind, number(major), number(minor)),
        ["mount", source, target, kind, flags] => mount(source, target, kind, flags),
        ["umount", target] => {
            let target = text(target);
            // SAFETY: a NUL-terminated string.
            outcome(i64::from(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }))
        }
        ["connect", path] => done(UnixStream::connect(path).map(drop)),
        ["find-devices", path] => find_devices(Path::new(path)),
        ["statfs", path] => statfs(path),
        ["statmount", path] => statmount(path),
        _ => return None,
    })
}

pub fn text(s: &str) -> CString {
    CString::new(s).unwrap()
}

fn number(s: &str) -> u32 {
    s.parse().unwrap()
}

fn open(path: &str, mode: &str) -> Value {
    let mut options = OpenOptions::new();
    options.read(mode.contains('r')).write(mode.contains('w'));
    done(options.open(path).map(drop))
}

/// The first 64 KiB: some files of /dev never end.
fn read_some(path: &str) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(65_536).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn mknod(path: &str, kind: &str, major: u32, minor: u32) -> Value {
    let kind = match kind {
        "c" => libc::S_IFCHR,
        "b" => libc::S_IFBLK,
        _ => libc::S_IFIFO,
    };
    let path = text(path);
    // SAFETY: a NUL-terminated string.
    outcome(i64::from(unsafe { libc::mknod(path.as_ptr(), kind | 0o666, libc::makedev(major, minor)) }))
}

fn mount(source: &str, target: &str, kind: &str, flags: &str) -> Value {
    let (source, target, kind) = (text(source), text(target), text(kind));
    let mut bits = 0;
    for flag in flags.split(',') {
        bits |= match flag {
            "bind" => libc::MS_BIND,
            "ro" => libc::MS_RDONLY,
            "remount" => libc::MS_REMOUNT,
            _ => 0,
        };
    }
    // SAFETY: three NUL-terminated strings and no data.
    let result = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), bits, std::ptr::null()) };
    outcome(i64::from(result))
}

fn statfs(path: &str) -> Value {
    let path = text(path);
    // SAFETY: a NUL-terminated string and a place for the answer.
    unsafe {
        let mut fs: libc::statfs = std::mem::zeroed();
        match libc::statfs(path.as_ptr(), &raw mut fs) {
            0 => json!({"type": format!("{:#x}", fs.f_type), "size": fs.f_blocks * fs.f_bsize as u64}),
            e => outcome(i64::from(e)),
        }
    }
}

/// Block and character devices below `path` that can be opened, other than the usual ones of /dev.
fn find_devices(path: &Path) -> Value {
    let mut found = Vec::new();
    let mut todo = vec![path.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                todo.push(entry.path());
            } else if meta.file_type().is_block_device() || meta.file_type().is_char_device() {
                let rdev = meta.rdev();
                found.push(format!("{} {}:{}", entry.path().display(), libc::major(rdev), libc::minor(rdev)));
            }
        }
    }
    json!(found)
}

/// What `statmount(2)` (Linux 6.8) says of the mount at `path`, in the words of mount options; flags of the superblock
/// after `sb:`. And the names in the directory.
fn statmount(path: &str) -> Value {
    const MNT_ID_UNIQUE: u32 = 0x4000;
    const SB_BASIC_AND_MNT_BASIC: u64 = 3;
    const SYS_STATMOUNT: libc::c_long = 457;
    let entries: Vec<String> = fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    let path = text(path);
    let mut answer = [0_u64; 128];
    // SAFETY: a NUL-terminated string, and places for the answers with their sizes.
    let result = unsafe {
        let mut found: libc::statx = std::mem::zeroed();
        if libc::statx(libc::AT_FDCWD, path.as_ptr(), 0, MNT_ID_UNIQUE, &raw mut found) < 0 {
            return outcome(-1);
        }
        // struct mnt_id_req: size and spare, id, what to tell.
        let request: [u64; 3] = [24, found.stx_mnt_id, SB_BASIC_AND_MNT_BASIC];
        let at = answer.as_mut_ptr();
        libc::syscall(SYS_STATMOUNT, request.as_ptr(), at, size_of_val(&answer), 0)
    };
    if result < 0 {
        let mut failed = outcome(result);
        failed["entries"] = json!(entries);
        return failed;
    }
    // struct statmount: sb_flags is the lower half of the fifth word.
    let (sb_flags, attributes, propagation) = (answer[4] & 0xffff_ffff, answer[8], answer[9]);
    let mut words: Vec<&str> = Vec::new();
    for (bits, bit, word) in [
        (sb_flags, libc::MS_RDONLY, "sb:ro"),
        (sb_flags, libc::MS_SYNCHRONOUS, "sb:sync"),
        (sb_flags, libc::MS_DIRSYNC, "sb:dirsync"),
        (sb_flags, libc::MS_LAZYTIME, "sb:lazytime"),
        (attributes, 0x1, "ro"),
        (attributes, 0x2, "nosuid"),
        (attributes, 0x4, "nodev"),
        (attributes, 0x8, "noexec"),
        (attributes, 0x80, "nodiratime"),
        (attributes, 0x10_0000, "idmapped"),
        (attributes, 0x20_0000, "nosymfollow"),
        (propagation, libc::MS_SHARED, "shared"),
        (propagation, libc::MS_SLAVE, "slave"),
        (propagation, libc::MS_PRIVATE, "private"),
        (propagation, libc::MS_UNBINDABLE, "unbindable"),
    ] {
        if bits & bit != 0 {
            words.push(word);
        }
    }
    words.push(match attributes & 0x70 {
        0 => "relatime",
        0x10 => "noatime",
        _ => "strictatime",
    });
    json!({"words": words, "entries": entries})
}
