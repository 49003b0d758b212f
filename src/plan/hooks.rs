// SPDX-License-Identifier: Apache-2.0
//! `hooks`: six lists of programs and their limits (config.md#posix-platform-hooks).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::config::Spec;
use super::problem::Problems;

/// A program that runs at a point of the life cycle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Absolute; for startContainer inside the container, else on the host.
    pub path: PathBuf,
    /// argv including argv[0]; the path alone if config.json has none.
    pub args: Vec<String>,
    /// The whole environment: nothing is inherited from the caller or taken from `process.env`.
    pub env: Vec<String>,
    /// Seconds after which the hook is killed and counts as failed.
    pub timeout: Option<u64>,
}

/// The six lists, each in the order of config.json.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hooks {
    pub prestart: Vec<Hook>,
    pub create_runtime: Vec<Hook>,
    pub create_container: Vec<Hook>,
    pub start_container: Vec<Hook>,
    pub poststart: Vec<Hook>,
    pub poststop: Vec<Hook>,
}

/// The six lists of config.json by their names there.
pub fn lists(hooks: &oci_spec::runtime::Hooks) -> [(&'static str, &Option<Vec<oci_spec::runtime::Hook>>); 6] {
    #[allow(deprecated, reason = "prestart is deprecated in the spec, not gone: podman and the NVIDIA toolkit use it")]
    let prestart = hooks.prestart();
    [
        ("prestart", prestart),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ]
}

/// Reads `hooks`.
pub fn from_spec(spec: &Spec, problems: &mut Problems) -> Hooks {
    let Some(hooks) = &spec.hooks else { return Hooks::default() };
    let [prestart, create_runtime, create_container, start_container, poststart, poststop] =
        lists(hooks).map(|(kind, hooks)| -> Vec<Hook> {
            let hooks = hooks.iter().flatten().enumerate();
            hooks.map(|(i, hook)| read(&format!("hooks.{kind}[{i}]"), hook, problems)).collect()
        });
    Hooks { prestart, create_runtime, create_container, start_container, poststart, poststop }
}

fn read(at: &str, hook: &oci_spec::runtime::Hook, problems: &mut Problems) -> Hook {
    let path = hook.path().clone();
    if !path.is_absolute() {
        problems.error(format!("{at}.path"), format!("must be absolute, is {path:?}"));
    }
    problems.no_nul(format!("{at}.path"), &path.to_string_lossy());
    let strings = |member: &str, values: &Option<Vec<String>>, problems: &mut Problems| {
        let values = values.clone().unwrap_or_default();
        for (i, value) in values.iter().enumerate() {
            problems.no_nul(format!("{at}.{member}[{i}]"), value);
        }
        values
    };
    let mut args = strings("args", hook.args(), problems);
    if args.is_empty() {
        args.push(path.to_string_lossy().into_owned());
    }
    let env = strings("env", hook.env(), problems);
    for (i, entry) in env.iter().enumerate() {
        if !entry.contains('=') {
            problems.error(format!("{at}.env[{i}]"), format!("must be NAME=VALUE, is {entry:?}"));
        }
    }
    let timeout = hook.timeout().and_then(|seconds| {
        let positive = u64::try_from(seconds).ok().filter(|s| *s > 0);
        if positive.is_none() {
            problems.error(format!("{at}.timeout"), format!("must be greater than 0, is {seconds}"));
        }
        positive
    });
    Hook { path, args, env, timeout }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_the_hook() {
        let spec: Spec = serde_json::from_value(serde_json::json!({"ociVersion": "1.0.0", "hooks": {
            "poststop": [{"path": "/ok"}, {"path": "rel", "timeout": 0, "env": ["NOVALUE"]}]
        }}))
        .unwrap();
        let mut problems = Problems::default();
        let hooks = from_spec(&spec, &mut problems);
        assert_eq!(hooks.poststop[0].args, ["/ok"]);
        let paths: Vec<_> = problems.errors.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(paths, ["hooks.poststop[1].path", "hooks.poststop[1].env[0]", "hooks.poststop[1].timeout"]);
    }
}
