// SPDX-License-Identifier: Apache-2.0
//! How the host mounts cgroups(7), found out without a look at the mount table where v2 is alone.

use std::path::{Component, Path, PathBuf};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::host::{CgroupLayout, Hierarchy};
use crate::kernel::host_mounts::unescape;

/// Where every distribution mounts cgroups.
pub const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// Asks the host. Only mounts on `/sys/fs/cgroup` and directly below it count.
///
/// # Errors
/// If `/proc/self/cgroup` or `/proc/self/mountinfo` cannot be read.
pub fn detect() -> anyhow::Result<CgroupLayout> {
    let kind = match statfs(MOUNT_POINT) {
        Ok(stat) => stat.filesystem_type(),
        Err(Errno::ENOENT) => return Ok(CgroupLayout::None),
        Err(errno) => return Err(crate::sys::Error { call: format!("statfs({MOUNT_POINT:?})"), errno }.into()),
    };
    let own = own_cgroups(&read(Path::new("/proc/self/cgroup"))?);
    if kind == CGROUP2_SUPER_MAGIC {
        return Ok(CgroupLayout::Unified(unified(MOUNT_POINT.into(), Path::new("/"), &own)?));
    }
    let (mut hierarchies, mut v2) = (Vec::new(), None);
    for mount in mounts(&mount_table()?) {
        if mount.unified {
            v2 = Some(unified(mount.mount_point, &mount.root, &own)?);
        } else if let Some((controllers, path)) = own.iter().find(|(names, _)| names.iter().all(|n| mount.has(n)))
            && !controllers.is_empty()
        {
            let own = relative(path, &mount.root);
            hierarchies.push(Hierarchy { mount_point: mount.mount_point, controllers: controllers.clone(), own });
        }
    }
    match (hierarchies.is_empty(), v2) {
        (true, None) => Ok(CgroupLayout::None),
        (_, unified) => Ok(CgroupLayout::Legacy { hierarchies, unified }),
    }
}

/// The absolute path of the v2 cgroup of a process, from its `/proc/PID/cgroup`.
pub fn unified_of(text: &str) -> Option<PathBuf> {
    let (_, path) = own_cgroups(text).into_iter().find(|(names, _)| names.is_empty())?;
    Some(Path::new(MOUNT_POINT).join(path.strip_prefix("/").unwrap_or(&path)))
}

fn read(path: &Path) -> anyhow::Result<String> {
    let file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    super::fs::read_record(&file.into()).with_context(|| format!("read {}", path.display()))
}

/// Comes in pieces, unlike the files for [`read`].
fn mount_table() -> anyhow::Result<String> {
    std::fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")
}

fn unified(mount_point: PathBuf, root: &Path, own: &[(Vec<String>, PathBuf)]) -> anyhow::Result<Hierarchy> {
    let text = read(&mount_point.join("cgroup.controllers"))?;
    let controllers = text.split_whitespace().map(str::to_string).collect();
    let path = own.iter().find(|(names, _)| names.is_empty()).map_or(Path::new("/"), |(_, path)| path);
    Ok(Hierarchy { mount_point, controllers, own: relative(path, root) })
}

/// `/proc/self/cgroup`: controllers (none for v2) and path of each hierarchy, see cgroups(7).
fn own_cgroups(text: &str) -> Vec<(Vec<String>, PathBuf)> {
    let line = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let names = parts.next()?.split(',').filter(|name| !name.is_empty()).map(str::to_string).collect();
        Some((names, PathBuf::from(parts.next()?)))
    };
    text.lines().filter_map(line).collect()
}

/// A cgroup path as seen below a mount whose root is not the hierarchy's, as in a container that shows its own cgroup.
fn relative(path: &Path, root: &Path) -> PathBuf {
    // "/../x" is outside the caller's cgroup namespace, so nothing below the mount leads there.
    if path.components().any(|c| c == Component::ParentDir) {
        return "/".into();
    }
    path.strip_prefix(root).map_or_else(|_| path.to_path_buf(), |below| Path::new("/").join(below))
}

struct Mount {
    unified: bool,
    mount_point: PathBuf,
    root: PathBuf,
    options: Vec<String>,
}

impl Mount {
    fn has(&self, controller: &str) -> bool {
        self.options.iter().any(|option| option == controller)
    }
}

/// The cgroup mounts of `/proc/self/mountinfo` directly below [`MOUNT_POINT`], the first of each place.
fn mounts(text: &str) -> Vec<Mount> {
    let mut found: Vec<Mount> = Vec::new();
    for line in text.lines() {
        // proc_pid_mountinfo(5): ID PARENT MAJOR:MINOR ROOT MOUNT-POINT OPTIONS [FIELDS..] - TYPE SOURCE SUPER-OPTIONS
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut left = left.split(' ').skip(3);
        let (Some(root), Some(mount_point)) = (left.next(), left.next()) else { continue };
        let mut right = right.split(' ');
        let (Some(kind), _, Some(options)) = (right.next(), right.next(), right.next()) else { continue };
        let (Some(root), Some(mount_point)) = (unescape(root), unescape(mount_point)) else { continue };
        let here = mount_point.parent() == Some(Path::new(MOUNT_POINT));
        if !here || !matches!(kind, "cgroup" | "cgroup2") || found.iter().any(|m| m.mount_point == mount_point) {
            continue;
        }
        found.push(Mount {
            unified: kind == "cgroup2",
            mount_point,
            root,
            options: options.split(',').map(str::to_string).collect(),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cgroups_are_read_with_their_controllers() {
        let own = own_cgroups("9:name=systemd:/\n4:memory:/a:b/c\n2:cpu,cpuacct:/\n0::/x\n");
        assert_eq!(own[1], (vec!["memory".into()], "/a:b/c".into()));
        assert_eq!(own[2].0, ["cpu", "cpuacct"]);
        assert_eq!(own[3], (vec![], "/x".into()));
    }

    #[test]
    fn only_cgroup_mounts_directly_below_the_mount_point_count() {
        let found = mounts(
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
             32 31 0:29 /docker/x /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             33 31 0:29 / /mnt/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
             34 31 0:38 / /sys/fs/cgroup/a\\040b rw - cgroup2 none rw\n",
        );
        assert_eq!(found.len(), 2);
        assert!(found[0].has("cpuacct") && !found[0].unified && found[0].root == Path::new("/docker/x"));
        assert!(found[1].unified && found[1].mount_point.ends_with("a b"));
    }

    #[test]
    fn a_path_is_taken_relative_to_the_mount() {
        for (path, root, expected) in [
            ("/docker/x", "/docker/x", "/"),
            ("/docker/x/y", "/docker/x", "/y"),
            ("/a", "/", "/a"),
            ("/../b", "/", "/"),
        ] {
            assert_eq!(relative(Path::new(path), Path::new(root)), Path::new(expected));
        }
    }
}
