// SPDX-License-Identifier: Apache-2.0
//! `linux.cgroupsPath`: cleaned by name alone, so that it cannot leave the hierarchy (crun 1.28 made `/tmp/x` from
//! `../../../tmp/x`).

use std::path::{Component, Path, PathBuf};

use super::Problems;

const FIELD: &str = "linux.cgroupsPath";

/// Where config.json puts the cgroup.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// Below the mount point.
    Absolute(PathBuf),
    /// Relative to the runtime's own cgroup, see [`Location::beside`] and [`Location::below`].
    Relative(PathBuf),
}

impl Location {
    /// Reads `cgroupsPath`, or takes `id` for a relative path. After an error the result is a stand-in, never used.
    pub(super) fn parse(path: Option<&Path>, id: &str, problems: &mut Problems) -> Location {
        let path = path.filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(id));
        let text = path.to_string_lossy();
        if path.is_relative() && text.matches(':').count() == 2 {
            problems.error_hint(
                FIELD,
                format!("{text:?} has the form slice:prefix:name of the systemd cgroup driver, which is not in use"),
                "give a path such as /pod/name, or set the engine's cgroup manager to cgroupfs",
            );
        }
        if text.contains(['\n', '\0']) {
            problems.error(FIELD, "contains a line break or a NUL byte");
        }
        let clean: PathBuf = path.components().filter(|c| matches!(c, Component::Normal(_))).collect();
        if path.components().any(|c| c == Component::ParentDir) {
            problems.error(FIELD, format!("{text:?} contains \"..\""));
        } else if clean.as_os_str().is_empty() {
            problems.error(FIELD, "names the root of the cgroup hierarchy, which cannot be the container's own");
        }
        if path.is_absolute() { Location::Absolute(clean) } else { Location::Relative(clean) }
    }

    /// On v2: a relative path begins at the parent of the runtime's own cgroup `own`, because `own` holds processes,
    /// and a cgroup with processes cannot pass controllers on (cgroups(7), "no internal processes").
    pub(super) fn beside(&self, own: &Path) -> PathBuf {
        self.join(own.parent().unwrap_or(Path::new("/")))
    }

    /// On v1, and on the v2 hierarchy of the hybrid layout: a relative path begins at the runtime's own cgroup.
    pub(super) fn below(&self, own: &Path) -> PathBuf {
        self.join(own)
    }

    fn join(&self, base: &Path) -> PathBuf {
        match self {
            Location::Absolute(path) => path.clone(),
            Location::Relative(path) => {
                // A cgroup outside the cgroup namespace reads "/../x" (cgroup_namespaces(7)): begin at its root then.
                let outside = base.components().any(|c| c == Component::ParentDir);
                let base = if outside { Path::new("") } else { base.strip_prefix("/").unwrap_or(base) };
                base.join(path)
            }
        }
    }
}
