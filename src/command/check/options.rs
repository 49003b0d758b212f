// SPDX-License-Identifier: Apache-2.0
//! Words of `mounts[].options` that the file system does not know: at `create` the kernel would refuse them one by one.

use crate::plan::config::Spec;
use crate::plan::mount_options::{Options, words};
use crate::plan::problem::Problems;
use crate::spec::suggest::nearest;

/// The options of file systems in which nothing else is possible: tmpfs(5) and the kernel's fs/proc/root.c,
/// fs/devpts/inode.c, fs/sysfs/mount.c and ipc/mqueue.c.
const KNOWN: [(&str, &[&str]); 5] = [
    ("proc", &["hidepid", "gid", "subset"]),
    ("sysfs", &[]),
    ("mqueue", &[]),
    ("devpts", &["newinstance", "ptmxmode", "mode", "uid", "gid", "max"]),
    (
        "tmpfs",
        &[
            "size",
            "nr_blocks",
            "nr_inodes",
            "mode",
            "uid",
            "gid",
            "huge",
            "mpol",
            "noswap",
            "inode32",
            "inode64",
            "quota",
            "usrquota",
            "grpquota",
            "usrquota_block_hardlimit",
            "usrquota_inode_hardlimit",
            "grpquota_block_hardlimit",
            "grpquota_inode_hardlimit",
            "casefold",
            "strict_encoding",
            "acl",
            "noacl",
        ],
    ),
];

/// An unknown word is a fault where all are known, and a warning where one is much like a word of the specification.
pub fn check(spec: &Spec, problems: &mut Problems) {
    for (i, mount) in spec.mounts.iter().flatten().enumerate() {
        let options = Options::parse(mount.options().as_deref().unwrap_or_default());
        let fstype = mount.typ().as_deref().unwrap_or_default();
        if options.bind.is_some() || fstype.is_empty() {
            continue;
        }
        let known = KNOWN.iter().find(|(name, _)| *name == fstype).map(|(_, known)| *known);
        for (j, word) in &options.data {
            for part in word.split(',').filter(|part| !part.is_empty()) {
                let key = part.split('=').next().unwrap_or_default();
                let at = format!("mounts[{i}].options[{j}]");
                let meant = nearest(key, words().chain(known.unwrap_or_default().iter().copied()));
                let hint = meant.map(|meant| format!("did you mean {meant:?}?"));
                match (known, hint) {
                    (Some(known), _) if known.contains(&key) => {}
                    (Some(_), Some(hint)) => problems.error_hint(at, format!("{fstype} has no option {key:?}"), hint),
                    (Some(_), None) => problems.error(at, format!("{fstype} has no option {key:?}")),
                    (None, Some(hint)) if !part.contains('=') => {
                        problems.warn(at, format!("{key:?} is passed to {fstype} as an option of its own; {hint}"));
                    }
                    (None, _) => {}
                }
            }
        }
    }
}
