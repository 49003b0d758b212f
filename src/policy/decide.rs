// SPDX-License-Identifier: Apache-2.0
//! What a policy makes of a config: edits, or every reason why not. Pure: no system call, no file, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxCapabilities, LinuxSeccomp, Mount};
use serde::Serialize;
use serde_json::{Value, json};

use super::glob;
use super::model::{
    Access, Ambient, BundleProfile, Capabilities, CapabilitySet, DeviceRule, ExecCeiling, Inheritable, Map, NoNewPrivs,
    OnExcess, Policy, Profile, Require, Tables,
};
use super::read::{At, Sourced};
use crate::plan::capabilities::{self, Set, Sets};
use crate::plan::config::{Process, Spec};
use crate::plan::filesystem::InRoot;
use crate::plan::mounts::{layers, split};
use crate::plan::namespaces::Kind;
use crate::plan::problem::Problems;
use crate::seccomp::arch::Arch;
use crate::seccomp::docker::{self, Environment};

/// What a policy did about one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// No container starts.
    Refused,
    /// Less than was asked for.
    Clamped,
    /// The bundle did not say; the policy did, or insisted.
    Set,
    /// As asked, though the policy objects.
    Warned,
}

impl Outcome {
    pub fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Clamped => "clamped",
            Self::Set => "set",
            Self::Warned => "warned",
        }
    }
}

/// One decision. Nothing is decided silently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    pub outcome: Outcome,
    /// The JSON path in config.json.
    pub path: String,
    /// The line of the policy, `FILE:LINE`.
    pub policy: String,
    pub asked: String,
    pub allowed: String,
    /// What to change in the bundle, or in the policy.
    pub change: String,
}

impl std::fmt::Display for Decision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { outcome, path, policy, asked, allowed, .. } = self;
        write!(f, "{path}: {}: asked for {asked}, the policy allows {allowed} ({policy})", outcome.word())
    }
}

/// What `decide` has to know beside the config; the caller has looked.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The first two numbers of the kernel's version.
    pub kernel: (u32, u32),
    /// Absolute.
    pub bundle: PathBuf,
    /// The caller's directory, absolute: relative paths of file systems other than bind mounts lead from there.
    pub cwd: PathBuf,
    /// By JSON path, where the path that stands there leads to.
    pub real: BTreeMap<String, PathBuf>,
    /// The entries of `linux.namespaces` whose path is a namespace of the host.
    pub host_namespaces: BTreeSet<usize>,
    /// Another policy has decided before, so that the seccomp profile is no longer the bundle's.
    pub decided_before: bool,
    /// The caller asks for a user namespace with a lease, whatever the config says.
    pub leased: bool,
}

/// A change of config.json: a JSON pointer and the value that it gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit {
    pub pointer: String,
    pub value: Value,
}

/// What a policy makes of a config.
#[derive(Debug, Clone, Default)]
pub struct Effective {
    pub edits: Vec<Edit>,
    pub decisions: Vec<Decision>,
    /// Seccomp profiles beside `linux.seccomp`, resolved; the kernel's verdict is the strictest of all.
    pub stack: Vec<Value>,
    /// For each of them the line that names it, and its file.
    pub stack_names: Vec<String>,
    /// How many ids to lease for a user namespace of its own.
    pub lease: Option<u32>,
    /// The rules of the policy that select this container, by their places.
    pub rules: Vec<usize>,
    pub audit: Option<String>,
}

/// How many ids a lease has.
const LEASE: u32 = 65_536;

/// Decides. The error is every refusal, with the other decisions before them.
pub fn decide(policy: &Policy, spec: &Spec, facts: &Facts) -> Result<Effective, Vec<Decision>> {
    let rules = policy.selecting(spec, &facts.bundle.to_string_lossy());
    let tables = policy.with_rules(&rules);
    let audit = tables.audit.file.as_ref().map(|file| file.value.clone());
    let mut case = Case { tables: &tables, spec, facts, result: Effective { rules, audit, ..Effective::default() } };
    // Without these two the plan has nothing to run, and says so.
    if let (Some(process), Some(linux)) = (&spec.process, &spec.linux) {
        let bounding = case.process(process);
        case.seccomp(policy, linux, bounding);
        case.user_namespace(linux);
        case.namespaces(linux);
        case.mounts(linux);
        case.devices(linux);
        case.cgroups(linux);
        case.hooks();
        case.annotations();
    }
    let result = case.result;
    let refused = result.decisions.iter().any(|decision| decision.outcome == Outcome::Refused);
    if refused { Err(result.decisions) } else { Ok(result) }
}

/// Decides on the mounts of `spec` alone: those that a container which was allowed under `tables` is to get in addition.
pub fn decide_mounts(tables: &Tables, spec: &Spec, facts: &Facts) -> (Vec<Edit>, Vec<Decision>) {
    let mut case = Case { tables, spec, facts, result: Effective::default() };
    if let Some(linux) = &spec.linux {
        case.mounts(linux);
    }
    (case.result.edits, case.result.decisions)
}

/// What rules make of the limits and device rules of a config, as an update has changed them.
pub fn decide_update(tables: &Tables, spec: &Spec) -> (Vec<Edit>, Vec<Decision>) {
    let facts = Facts::default();
    let mut case = Case { tables, spec, facts: &facts, result: Effective::default() };
    if let Some(linux) = &spec.linux {
        case.devices(linux);
        case.cgroups(linux);
    }
    (case.result.edits, case.result.decisions)
}

/// The audit file of a policy for a config that it refused.
pub fn audit_file(policy: &Policy, spec: &Spec, facts: &Facts) -> Option<String> {
    policy.with_rules(&policy.selecting(spec, &facts.bundle.to_string_lossy())).audit.file.map(|file| file.value)
}

/// Carries the edits out on the text of a config.
///
/// # Errors
/// The text is no JSON object.
pub fn apply(edits: &[Edit], bytes: &[u8]) -> Result<Vec<u8>, String> {
    if edits.is_empty() {
        return Ok(bytes.to_vec());
    }
    let mut config: Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    for edit in edits {
        let mut at = &mut config;
        for key in edit.pointer.split('/').skip(1) {
            // A null on the way reads as absent.
            let index = if at.is_array() { key.parse::<usize>().ok() } else { None };
            at = match index {
                Some(index) => match at.as_array_mut().and_then(|array| array.get_mut(index)) {
                    Some(element) => element,
                    None => return Err(format!("{}: no such element", edit.pointer)),
                },
                None => {
                    if at.is_null() {
                        *at = json!({});
                    }
                    let Some(object) = at.as_object_mut() else {
                        return Err(format!("{}: not an object", edit.pointer));
                    };
                    object.entry(key).or_insert(Value::Null)
                }
            };
        }
        *at = edit.value.clone();
    }
    serde_json::to_vec_pretty(&config).map_err(|e| e.to_string())
}

/// The rules for a process, init or one of `exec`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessRules {
    capabilities: Capabilities,
    no_new_privs: NoNewPrivs,
}

fn set_names(set: Set) -> Vec<String> {
    set.numbers().map(capabilities::name).collect()
}

impl From<&Tables> for ProcessRules {
    fn from(tables: &Tables) -> Self {
        Self { capabilities: tables.capabilities.clone(), no_new_privs: tables.no_new_privs.clone() }
    }
}

impl ProcessRules {
    /// The rules for a further process of a container: no more than its bounding set, nor than `exec_ceiling`.
    #[must_use]
    pub fn for_exec(&self, container: Set) -> Self {
        let mut rules = self.clone();
        let caps = &mut rules.capabilities;
        let (set, at) = match &caps.exec_ceiling {
            Some(Sourced { value: ExecCeiling::List(list), at }) => (list.intersection(container), at.clone()),
            _ => (container, At { file: "the container's bounding set".into(), line: 0 }),
        };
        caps.ceiling = Some(Sourced { value: CapabilitySet(set), at });
        // What was only warned of at create is in the container's set; more than that a process never gets.
        if let Some(mode) = caps.on_excess.as_mut().filter(|mode| mode.value == OnExcess::Warn) {
            mode.value = OnExcess::Reject;
        }
        caps.default = None;
        rules
    }

    /// Decides on a process: changes its capabilities and `noNewPrivileges`.
    pub fn decide(&self, process: &mut Process, decisions: &mut Vec<Decision>) {
        if let Some(force) = self.no_new_privs.force.as_ref().filter(|force| force.value)
            && process.no_new_privileges != Some(true)
        {
            process.no_new_privileges = Some(true);
            decisions.push(Decision {
                outcome: Outcome::Set,
                path: "process.noNewPrivileges".into(),
                policy: force.at.to_string(),
                asked: "false".into(),
                allowed: "true".into(),
                change: "set process.noNewPrivileges to true".into(),
            });
        }
        let asked = capabilities::asked(process);
        let sets = self.capabilities(asked, process.user.uid(), decisions);
        if let Some(sets) = sets.filter(|_| sets != asked) {
            process.capabilities = Some(typed(&sets));
        }
    }

    fn capabilities(&self, asked: Option<Sets>, uid: u32, decisions: &mut Vec<Decision>) -> Option<Sets> {
        const PATH: &str = "process.capabilities";
        let rules = &self.capabilities;
        let mut say = |outcome, path: String, from: &At, asked: String, allowed: String, change: String| {
            decisions.push(Decision { outcome, path, policy: from.to_string(), asked, allowed, change });
        };
        let mut sets = match (asked, &rules.default) {
            (Some(sets), _) => sets,
            (None, None) => return None,
            (None, Some(default)) => {
                let set = default.value.0;
                let bounding = rules.default_bounding.as_ref().map_or(set, |found| found.value.0);
                let change = "name the capabilities in the bundle to have others".to_string();
                say(Outcome::Set, PATH.into(), &default.at, "nothing".into(), listed(set), change);
                Sets { bounding, effective: set, permitted: set, inheritable: Set(0), ambient: Set(0) }
            }
        };
        if let Some(ceiling) = &rules.ceiling {
            let allowed = ceiling.value.0;
            let mode = rules.on_excess.as_ref().map_or(OnExcess::Reject, |mode| mode.value);
            let outcome = match mode {
                OnExcess::Reject => Outcome::Refused,
                OnExcess::Clamp => Outcome::Clamped,
                OnExcess::Warn => Outcome::Warned,
            };
            let mut said = Set(0);
            for (name, set) in named(&mut sets) {
                let excess = set.without(allowed);
                let news = excess.without(said);
                if !news.is_empty() {
                    let change = format!("remove {} from {PATH}.{name}, or add it to the ceiling", news.names());
                    say(outcome, format!("{PATH}.{name}"), &ceiling.at, news.names(), listed(allowed), change);
                    said = Set(said.0 | news.0);
                }
                if mode != OnExcess::Warn {
                    *set = set.intersection(allowed);
                }
            }
        }
        if let Some(drop) = &rules.required_drop {
            let mut dropped = Set(0);
            for (_, set) in named(&mut sets) {
                let found = set.intersection(drop.value.0);
                dropped = Set(dropped.0 | found.0);
                *set = set.without(found);
            }
            if !dropped.is_empty() {
                let change = format!("remove {} from {PATH}", dropped.names());
                say(Outcome::Clamped, PATH.into(), &drop.at, dropped.names(), "none of them".into(), change);
            }
        }
        let before = sets;
        if let Some(mode) = &rules.ambient {
            match mode.value {
                Ambient::NonRoot if uid != 0 => {
                    sets.ambient = sets.effective.intersection(sets.permitted);
                    sets.inheritable = Set(sets.inheritable.0 | sets.ambient.0);
                }
                Ambient::Never => sets.ambient = Set(0),
                Ambient::NonRoot | Ambient::Explicit => {}
            }
            if sets.ambient != before.ambient {
                let clamped = !before.ambient.without(sets.ambient).is_empty();
                let outcome = if clamped { Outcome::Clamped } else { Outcome::Set };
                let change = format!("set {PATH}.ambient to this");
                let (asked, allowed) = (listed(before.ambient), listed(sets.ambient));
                say(outcome, format!("{PATH}.ambient"), &mode.at, asked, allowed, change);
            }
        }
        if let Some(mode) = &rules.inheritable {
            sets.inheritable = match mode.value {
                Inheritable::Explicit => sets.inheritable,
                // Ambient capabilities are inheritable ones, or the kernel refuses them.
                Inheritable::Empty => sets.ambient,
                Inheritable::Bounding => sets.bounding,
            };
            if sets.inheritable != before.inheritable {
                let clamped = !before.inheritable.without(sets.inheritable).is_empty();
                let outcome = if clamped { Outcome::Clamped } else { Outcome::Set };
                let change = format!("set {PATH}.inheritable to this");
                let (asked, allowed) = (listed(before.inheritable), listed(sets.inheritable));
                say(outcome, format!("{PATH}.inheritable"), &mode.at, asked, allowed, change);
            }
        }
        Some(sets)
    }
}

fn listed(set: Set) -> String {
    if set.is_empty() { "none".into() } else { set.names() }
}

/// The bounding set first: what is above the ceiling there is above it in the others too.
fn named(sets: &mut Sets) -> [(&'static str, &mut Set); 5] {
    let Sets { bounding, effective, permitted, inheritable, ambient } = sets;
    [
        ("bounding", bounding),
        ("permitted", permitted),
        ("effective", effective),
        ("inheritable", inheritable),
        ("ambient", ambient),
    ]
}

fn capabilities_json(sets: &Sets) -> Value {
    json!({
        "bounding": set_names(sets.bounding),
        "effective": set_names(sets.effective),
        "permitted": set_names(sets.permitted),
        "inheritable": set_names(sets.inheritable),
        "ambient": set_names(sets.ambient),
    })
}

fn typed(sets: &Sets) -> LinuxCapabilities {
    let list = |set: Set| {
        let parsed = set.numbers().filter_map(|n| capabilities::name(n).trim_start_matches("CAP_").parse().ok());
        Some(parsed.collect::<oci_spec::runtime::Capabilities>())
    };
    let mut typed = LinuxCapabilities::default();
    typed
        .set_bounding(list(sets.bounding))
        .set_effective(list(sets.effective))
        .set_permitted(list(sets.permitted))
        .set_inheritable(list(sets.inheritable))
        .set_ambient(list(sets.ambient));
    typed
}

/// One config under one policy.
struct Case<'a> {
    tables: &'a Tables,
    spec: &'a Spec,
    facts: &'a Facts,
    result: Effective,
}

impl Case<'_> {
    fn say(
        &mut self,
        outcome: Outcome,
        path: impl Into<String>,
        at: &At,
        asked: impl Into<String>,
        allowed: impl Into<String>,
        change: impl Into<String>,
    ) {
        let (path, policy, asked, allowed, change) =
            (path.into(), at.to_string(), asked.into(), allowed.into(), change.into());
        self.result.decisions.push(Decision { outcome, path, policy, asked, allowed, change });
    }

    fn edit(&mut self, pointer: impl Into<String>, value: impl Into<Value>) {
        self.result.edits.push(Edit { pointer: pointer.into(), value: value.into() });
    }

    /// Gives the bounding set that comes out.
    fn process(&mut self, process: &Process) -> Set {
        let mut changed = process.clone();
        ProcessRules::from(self.tables).decide(&mut changed, &mut self.result.decisions);
        if changed.no_new_privileges != process.no_new_privileges {
            self.edit("/process/noNewPrivileges", true);
        }
        let sets = capabilities::asked(&changed);
        if let Some(sets) = sets.filter(|_| sets != capabilities::asked(process)) {
            self.edit("/process/capabilities", capabilities_json(&sets));
        }
        sets.unwrap_or_default().bounding
    }

    fn seccomp(&mut self, policy: &Policy, linux: &Linux, bounding: Set) {
        let rules = &self.tables.seccomp;
        let bundle = linux.seccomp().as_ref();
        if !self.facts.decided_before
            && let (Some(BundleProfile::Forbid), Some(mode), true) =
                (rules.bundle_profile.as_ref().map(|m| m.value), &rules.bundle_profile, bundle.is_some())
        {
            let change = "remove linux.seccomp";
            self.say(Outcome::Refused, "linux.seccomp", &mode.at, "a profile of its own", "none", change);
        }
        let mode = match &rules.bundle_profile {
            // It may be the profile of the policy before: that stays, and this one's comes on top.
            _ if self.facts.decided_before => BundleProfile::Stack,
            Some(mode) => mode.value,
            None => BundleProfile::Replace,
        };
        let dir = rules.config_dir.as_ref().map(|dir| dir.value.clone()).unwrap_or_default();
        let profile = |name: &String| policy.profiles.get(&(dir.clone(), name.clone()));
        let default = rules.default.as_ref().and_then(|found| Some((&found.at, profile(&found.value)?)));
        let mut chosen: Vec<(&At, &Profile)> = Vec::new();
        let keep_bundle = bundle.is_some() && mode != BundleProfile::Ignore;
        if !keep_bundle || mode == BundleProfile::Stack {
            chosen.extend(default);
        }
        if let Some(stack) = &rules.stack {
            chosen.extend(stack.value.iter().filter_map(profile).map(|profile| (&stack.at, profile)));
        }
        let environment = Environment {
            capabilities: set_names(bounding).into_iter().collect(),
            arch: Arch::NATIVE,
            kernel: self.facts.kernel,
        };
        let (mut sections, mut names) = (Vec::new(), Vec::new());
        for (at, profile) in &chosen {
            match resolve(profile, &environment) {
                Ok(section) => {
                    sections.push(section);
                    names.push(format!("{at}, {}", profile.path));
                }
                Err(fault) => {
                    let change = format!("correct {}", profile.path);
                    self.say(Outcome::Refused, "linux.seccomp", at, "a profile of the policy", fault, change);
                }
            }
        }
        let ignored = bundle.is_some() && !keep_bundle;
        if !keep_bundle {
            if sections.is_empty() {
                if ignored {
                    self.edit("/linux/seccomp", Value::Null);
                }
            } else {
                let section = sections.remove(0);
                names.remove(0);
                self.edit("/linux/seccomp", section);
            }
        }
        self.result.stack = sections;
        self.result.stack_names = names;
        if let (Some((at, _)), true) = (chosen.first(), !chosen.is_empty()) {
            let paths: Vec<&str> = chosen.iter().map(|(_, profile)| profile.path.as_str()).collect();
            let (asked, outcome) = match (bundle.is_some(), ignored) {
                (false, _) => ("no profile", Outcome::Set),
                (true, true) => ("its own profile", Outcome::Clamped),
                (true, false) => ("its own profile only", Outcome::Clamped),
            };
            let kept = if keep_bundle { "it together with " } else { "" };
            let allowed = format!("{kept}{}", paths.join(" and "));
            self.say(outcome, "linux.seccomp", at, asked, allowed, "nothing: the policy adds it");
        } else if let (true, Some(mode)) = (ignored, &rules.bundle_profile) {
            self.say(Outcome::Clamped, "linux.seccomp", &mode.at, "its own profile", "none", "remove linux.seccomp");
        }
        let confined = !chosen.is_empty() || (keep_bundle && bundle.is_some_and(confines));
        if let Some(allow) = rules.allow_unconfined.as_ref().filter(|allow| !allow.value && !confined) {
            let change = "add a profile to linux.seccomp, or seccomp.default to the policy";
            self.say(
                Outcome::Refused,
                "linux.seccomp",
                &allow.at,
                "every system call",
                "no unconfined container",
                change,
            );
        }
        if let Some(section) = bundle.filter(|_| keep_bundle) {
            self.seccomp_actions(section);
        }
    }

    fn seccomp_actions(&mut self, section: &LinuxSeccomp) {
        let rules = &self.tables.seccomp;
        if let Some(forbidden) = &rules.forbid_actions {
            let plain = |action: &str| action.trim_start_matches("SCMP_ACT_").to_string();
            let names: Vec<String> = forbidden.value.iter().map(|action| plain(action)).collect();
            let entries = section.syscalls().iter().flatten().enumerate();
            let actions =
                std::iter::once(("linux.seccomp.defaultAction".to_string(), section.default_action().to_string()))
                    .chain(
                        entries.map(|(i, entry)| {
                            (format!("linux.seccomp.syscalls[{i}].action"), entry.action().to_string())
                        }),
                    );
            let found: Vec<_> = actions.filter(|(_, action)| names.contains(&plain(action))).collect();
            for (path, action) in found {
                let allowed = format!("anything but {}", names.join(", "));
                self.say(Outcome::Refused, path, &forbidden.at, action, allowed, "use another action");
            }
        }
        if let (Some(allow), Some(path)) = (&rules.allow_listener, section.listener_path()) {
            let path = path.to_string_lossy();
            if !any_matches(&allow.value, &path) {
                let allowed = any_of(&allow.value);
                let change = "use a listener that the policy names";
                self.say(Outcome::Refused, "linux.seccomp.listenerPath", &allow.at, path, allowed, change);
            }
        }
    }

    fn user_namespace(&mut self, linux: &Linux) {
        let rules = &self.tables.user_namespace;
        let entries = linux.namespaces().iter().flatten().enumerate();
        let own = entries.into_iter().find(|(_, entry)| Kind::from(entry.typ()) == Kind::User);
        let own = own.map(|(i, entry)| (i, entry.path().clone().filter(|path| !path.as_os_str().is_empty())));
        match (&rules.require, own) {
            (Some(require), None) if self.facts.leased && require.value == Require::Never => {
                let change = "leave --userns out";
                self.say(Outcome::Refused, "linux.namespaces", &require.at, "--userns=auto", "none", change);
            }
            (Some(_), None) if self.facts.leased => {}
            (Some(require), Some((i, _))) if require.value == Require::Never => {
                let path = format!("linux.namespaces[{i}]");
                self.say(Outcome::Refused, path, &require.at, "a user namespace", "none", "remove the \"user\" entry");
            }
            // Which ids a namespace maps that exists already cannot be seen from its path.
            (Some(require), Some((i, Some(path))))
                if require.value == Require::Always && self.tables.namespaces.allow_paths.is_none() =>
            {
                let asked = format!("the user namespace {}", path.display());
                let change = "leave the path out, or have the policy name it in namespaces.allow_paths";
                let at = format!("linux.namespaces[{i}].path");
                self.say(Outcome::Refused, at, &require.at, asked, "a new user namespace", change);
            }
            (Some(require), None) if require.value == Require::Always => {
                let map = rules.map.as_ref().filter(|map| map.value == Map::SubidAuto);
                if let Some(map) = map {
                    let size = rules.size.as_ref().map_or(LEASE, |size| size.value);
                    self.result.lease = Some(size);
                    let allowed = format!("one with {size} ids of /etc/subuid that no other container has");
                    let change = "nothing: the policy adds it";
                    self.say(Outcome::Set, "linux.namespaces", &map.at, "no user namespace", allowed, change);
                } else {
                    let change = "add {\"type\": \"user\"} and mappings, or map = \"subid:auto\" to the policy";
                    let allowed = "a container with a user namespace";
                    self.say(Outcome::Refused, "linux.namespaces", &require.at, "no user namespace", allowed, change);
                }
            }
            _ => {}
        }
        let Some(forbidden) = &rules.forbid_host_ids else { return };
        for (name, ranges) in [("uidMappings", linux.uid_mappings()), ("gidMappings", linux.gid_mappings())] {
            for (i, range) in ranges.iter().flatten().enumerate() {
                if let Some((first, last)) = forbidden.value.meeting(range.host_id(), range.size()) {
                    let asked = format!("{} ids of the host from {} on", range.size(), range.host_id());
                    let allowed = format!("none of {first} to {last}");
                    let path = format!("linux.{name}[{i}].hostID");
                    self.say(Outcome::Refused, path, &forbidden.at, asked, allowed, "map to other ids of the host");
                }
            }
        }
    }

    fn namespaces(&mut self, linux: &Linux) {
        let rules = &self.tables.namespaces;
        let mut found: Vec<(Kind, usize, Option<String>)> = Vec::new();
        for (i, entry) in linux.namespaces().iter().flatten().enumerate() {
            let path = entry.path().as_ref().map(|path| path.to_string_lossy().into_owned());
            found.push((entry.typ().into(), i, path.filter(|path| !path.is_empty())));
        }
        let leased = self.result.lease.is_some() || self.facts.leased;
        let leased = |kind| kind == Kind::User && leased;
        let mut refused = Vec::new();
        for (required, must_be_new) in [(&rules.require, true), (&rules.forbid_host, false)] {
            let Some(kinds) = required else { continue };
            for kind in kinds.value.0.iter().copied().filter(|kind| !leased(*kind)) {
                let name = kind.name();
                match found.iter().find(|(other, ..)| *other == kind) {
                    None => refused.push((
                        &kinds.at,
                        "linux.namespaces".to_string(),
                        format!("the host's {name} namespace"),
                    )),
                    Some((_, i, Some(path))) if must_be_new || self.facts.host_namespaces.contains(i) => {
                        refused.push((&kinds.at, format!("linux.namespaces[{i}].path"), format!("{path:?}")));
                    }
                    Some(_) => {}
                }
            }
        }
        for (at, path, asked) in refused {
            let change = "add the type to linux.namespaces, without a path";
            self.say(Outcome::Refused, path, at, asked, "a namespace of its own", change);
        }
        let Some(allow) = &rules.allow_paths else { return };
        for (_, i, path) in found {
            if let Some(path) = path.filter(|path| !any_matches(&allow.value, path) || has_dots(path)) {
                let at = format!("linux.namespaces[{i}].path");
                let allowed = any_of(&allow.value);
                self.say(Outcome::Refused, at, &allow.at, path, allowed, "join another namespace, or make a new one");
            }
        }
    }

    fn mounts(&mut self, linux: &Linux) {
        let rules = &self.tables.mounts;
        if let Some(forbidden) = &rules.forbid_sources {
            let list = forbidden.value.expanded(false);
            for (path, source) in sources(self.spec, self.facts) {
                let real = self.facts.real.get(&path).cloned().unwrap_or(source.clone());
                if let Some(entry) = list.iter().find(|entry| is_within_reach(Path::new(entry), &real)) {
                    let path = path.split('#').next().unwrap_or_default();
                    let leads = if real == source { String::new() } else { format!(", which is {}", real.display()) };
                    let asked = format!("{}{leads}", source.display());
                    let allowed = format!("nothing of {entry}, and nothing that holds it");
                    self.say(Outcome::Refused, path, &forbidden.at, asked, allowed, "use another source");
                }
            }
        }
        if let Some(required) = &rules.require_options {
            let mounts = self.spec.mounts.as_deref().unwrap_or_default();
            for (i, mount) in mounts.iter().enumerate() {
                let mut options: Vec<String> = mount.options().clone().unwrap_or_default();
                let wanted = required.value.0.get(kind(mounts, i)).map(Vec::as_slice).unwrap_or_default();
                // A remount leaves what it does not name.
                let before = |option: &String| if is_remount(mount) { vec![option.clone()] } else { Vec::new() };
                let holds = |option: &&String| in_force(&[before(option), options.clone()].concat(), option);
                let missing: Vec<&String> = wanted.iter().filter(|option| !holds(option)).collect();
                if missing.is_empty() {
                    continue;
                }
                options.retain(|word| !missing.iter().any(|option| plain_opposite(option).is_some_and(|o| o == *word)));
                let names = missing.iter().map(|option| option.as_str()).collect::<Vec<_>>().join(", ");
                let asked = format!("{} without {names}", mount.destination().display());
                options.extend(missing.into_iter().cloned());
                self.edit(format!("/mounts/{i}/options"), json!(options));
                let path = format!("mounts[{i}].options");
                let change = format!("add {names}");
                self.say(Outcome::Clamped, path, &required.at, asked, format!("it with {names}"), change);
            }
        }
        for (name, minimum, own, read_only) in [
            ("maskedPaths", &rules.masked_paths_min, linux.masked_paths(), false),
            ("readonlyPaths", &rules.readonly_paths_min, linux.readonly_paths(), true),
        ] {
            let Some(minimum) = minimum else { continue };
            let mut paths: Vec<String> = own.clone().unwrap_or_default();
            let missing: Vec<String> =
                minimum.value.expanded(read_only).into_iter().filter(|path| !paths.contains(path)).collect();
            if missing.is_empty() {
                continue;
            }
            let names = missing.join(", ");
            paths.extend(missing);
            self.edit(format!("/linux/{name}"), json!(paths));
            let asked = format!("no mask of {names}");
            let change = format!("add them to linux.{name}");
            self.say(Outcome::Clamped, format!("linux.{name}"), &minimum.at, asked, "these masked", change);
        }
    }

    fn devices(&mut self, linux: &Linux) {
        let Some(allow) = &self.tables.devices.allow else { return };
        let mut refused = Vec::new();
        for (i, device) in linux.devices().iter().flatten().enumerate() {
            let kind = match device.typ().as_str() {
                "p" => continue,
                "b" => 'b',
                _ => 'c',
            };
            let (major, minor) = (number(Some(device.major())), number(Some(device.minor())));
            if !allow.value.0.iter().any(|rule| covers(rule, kind, major, minor, None)) {
                let asked = format!("{} ({kind} {}:{})", device.path().display(), device.major(), device.minor());
                refused.push((format!("linux.devices[{i}]"), asked));
            }
        }
        let rules = linux.resources().as_ref().and_then(|resources| resources.devices().as_ref());
        for (i, rule) in rules.into_iter().flatten().enumerate().filter(|(_, rule)| rule.allow()) {
            let kind = rule.typ().map_or('a', |typ| match typ.as_str() {
                "b" => 'b',
                "c" | "u" => 'c',
                _ => 'a',
            });
            let (major, minor) = (number(rule.major()), number(rule.minor()));
            let access = rule.access().as_deref().filter(|access| !access.is_empty()).unwrap_or("rwm");
            let parsed = Access::parse(access).unwrap_or(Access { read: true, write: true, mknod: true });
            if !allow.value.0.iter().any(|allowed| covers(allowed, kind, major, minor, Some(parsed))) {
                let show = |number: Option<i64>| number.filter(|n| *n >= 0).map_or("*".into(), |n| n.to_string());
                let asked = format!("{kind} {}:{} {access}", show(rule.major()), show(rule.minor()));
                refused.push((format!("linux.resources.devices[{i}]"), asked));
            }
        }
        let texts: Vec<String> = allow.value.0.iter().map(|rule| rule.text.clone()).collect();
        for (path, asked) in refused {
            let change = "remove it, or add a line to devices.allow";
            self.say(Outcome::Refused, path, &allow.at, asked, any_of(&texts), change);
        }
    }

    fn cgroups(&mut self, linux: &Linux) {
        let rules = &self.tables.cgroups;
        let resources = linux.resources().as_ref();
        let above = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
        let cpu = resources.and_then(|r| r.cpu().as_ref());
        let period = cpu.and_then(oci_spec::runtime::LinuxCpu::period).filter(|p| *p > 0).unwrap_or(100_000);
        let memory = resources.and_then(|r| r.memory().as_ref()).and_then(|m| m.limit()).and_then(above);
        let pids = resources.and_then(|r| r.pids().as_ref()).and_then(|p| above(p.limit()));
        let quota = cpu.and_then(oci_spec::runtime::LinuxCpu::quota).and_then(above);
        let cpu = quota.map(|quota| quota.saturating_mul(1000).div_ceil(period));
        for (name, path, asked) in [
            ("memory", "linux.resources.memory.limit", memory),
            ("pids", "linux.resources.pids.limit", pids),
            ("cpu", "linux.resources.cpu.quota", cpu),
        ] {
            let ceiling = rules.ceilings.as_ref().and_then(|c| Some((c.value.get(name)?, &c.at)));
            let default = rules.defaults.as_ref().and_then(|d| Some((d.value.get(name)?, &d.at)));
            let required =
                rules.require_limits.as_ref().filter(|limits| limits.value.0.iter().any(|limit| limit == name));
            if ceiling.is_none() && default.is_none() && required.is_none() {
                continue;
            }
            let shown = |amount: u64| if name == "cpu" { format!("{amount}m") } else { amount.to_string() };
            let new = match (asked, ceiling, default.or(ceiling), required) {
                (Some(asked), Some((ceiling, at)), ..) if asked > ceiling => {
                    let clamp = rules.on_excess.as_ref().map_or(OnExcess::Reject, |mode| mode.value);
                    let outcome = match clamp {
                        OnExcess::Reject => Outcome::Refused,
                        OnExcess::Clamp => Outcome::Clamped,
                        OnExcess::Warn => Outcome::Warned,
                    };
                    let change = format!("lower {path} to {}", shown(ceiling));
                    self.say(outcome, path, at, shown(asked), format!("up to {}", shown(ceiling)), change);
                    (clamp == OnExcess::Clamp).then_some(ceiling)
                }
                (None, _, Some((value, at)), _) => {
                    self.say(Outcome::Set, path, at, "no limit", shown(value), format!("set {path}"));
                    Some(value)
                }
                (None, None, None, Some(required)) => {
                    let allowed = format!("a container with a limit of {name}");
                    self.say(Outcome::Refused, path, &required.at, "no limit", allowed, format!("set {path}"));
                    None
                }
                _ => None,
            };
            match new {
                None => {}
                Some(milli) if name == "cpu" => {
                    self.edit("/linux/resources/cpu/period", period);
                    self.edit("/linux/resources/cpu/quota", (milli.saturating_mul(period) / 1000).max(1000));
                }
                Some(value) => self.edit(format!("/{}", path.replace('.', "/")), value),
            }
            // The same limit by the name of its file would win.
            let at = ceiling.or(default).map(|(_, at)| at).or(required.map(|required| &required.at));
            let unified = resources.and_then(|r| r.unified().as_ref());
            let key = format!("{name}.max");
            if let (Some(at), Some(value)) = (at, unified.and_then(|unified| unified.get(&key))) {
                let at_path = format!("linux.resources.unified.{key}");
                let change = format!("give the limit as {path}");
                self.say(Outcome::Refused, at_path, at, format!("{value:?}"), format!("{path} only"), change);
            }
        }
    }

    fn hooks(&mut self) {
        let (Some(allow), Some(hooks)) = (&self.tables.hooks.allow, &self.spec.hooks) else { return };
        for (name, list) in crate::plan::hooks::lists(hooks) {
            for (i, hook) in list.iter().flatten().enumerate() {
                let program = hook.path().to_string_lossy();
                if !any_matches(&allow.value, &program) || has_dots(&program) {
                    let path = format!("hooks.{name}[{i}].path");
                    self.say(Outcome::Refused, path, &allow.at, program, any_of(&allow.value), "remove the hook");
                }
            }
        }
    }

    fn annotations(&mut self) {
        let rules = &self.tables.annotations;
        let mut keys: Vec<&String> = self.spec.annotations.iter().flatten().map(|(key, _)| key).collect();
        keys.sort_unstable();
        for key in keys {
            let begins = |prefixes: &[String]| prefixes.iter().any(|prefix| key.starts_with(prefix));
            let path = format!("annotations.{key}");
            if let Some(deny) = rules.deny_prefix.as_ref().filter(|deny| begins(&deny.value)) {
                let allowed = format!("none that begins with {}", deny.value.join(" or "));
                self.say(Outcome::Refused, path, &deny.at, key, allowed, "remove the annotation");
            } else if let Some(allow) = rules.allow_prefix.as_ref().filter(|allow| !begins(&allow.value)) {
                let allowed = format!("those that begin with {}", any_of(&allow.value));
                self.say(Outcome::Refused, path, &allow.at, key, allowed, "remove the annotation");
            }
        }
    }
}

/// A profile without conditions.
///
/// # Errors
/// Its faults.
pub fn resolve(profile: &Profile, environment: &Environment) -> Result<Value, String> {
    if !docker::is_docker(&profile.value) {
        return Ok(profile.value.clone());
    }
    let mut problems = Problems::default();
    let section = docker::resolve(&profile.value, environment, &mut problems).section;
    match problems.errors.first() {
        None => Ok(section),
        Some(fault) => Err(format!("{}: {}: {}", profile.path, fault.path, fault.message)),
    }
}

/// Whether a profile refuses, or reports, any call.
fn confines(section: &LinuxSeccomp) -> bool {
    let allows = |action: String| action == "SCMP_ACT_ALLOW" || action == "SCMP_ACT_LOG";
    !allows(section.default_action().to_string())
        || section.syscalls().iter().flatten().any(|entry| !allows(entry.action().to_string()))
}

fn any_matches(patterns: &[String], text: &str) -> bool {
    patterns.iter().any(|pattern| glob::matches(pattern, text))
}

fn any_of(words: &[String]) -> String {
    if words.is_empty() { "none".into() } else { words.join(" or ") }
}

/// A path with `..` may match a pattern and lead elsewhere.
fn has_dots(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

/// As [`crate::plan::mounts::plan`] has it.
fn is_bind(mount: &Mount) -> bool {
    mount.typ().iter().chain(mount.options().iter().flatten()).any(|word| word == "bind" || word == "rbind")
}

fn is_remount(mount: &Mount) -> bool {
    mount.options().iter().flatten().any(|option| option == "remount")
}

/// The type of `mounts[i]` for the policy. A remount has that of the mount it changes; one that no entry made came with
/// an rbind.
fn kind(mounts: &[Mount], i: usize) -> &str {
    let at = |mount: &Mount| InRoot::new("", &mount.destination().to_string_lossy(), &mut Problems::default());
    let Some(mut mount) = mounts.get(i) else { return "" };
    if is_remount(mount) {
        let earlier = mounts.iter().take(i).rfind(|earlier| !is_remount(earlier) && at(earlier) == at(mount));
        let Some(earlier) = earlier else { return "bind" };
        mount = earlier;
    }
    if is_bind(mount) { "bind" } else { mount.typ().as_deref().unwrap_or_default() }
}

/// File systems that show nothing of the host's files.
const PSEUDO: [&str; 10] =
    ["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "ramfs", "securityfs", "debugfs"];

/// Every path of the host that the container would see, with its JSON path; `#n` tells several at one apart.
pub fn sources(spec: &Spec, facts: &Facts) -> Vec<(String, PathBuf)> {
    let bundle = &facts.bundle;
    let mut sources = Vec::new();
    if let Some(root) = &spec.root {
        sources.push(("root.path".to_string(), bundle.join(root.path())));
    }
    for (i, mount) in spec.mounts.iter().flatten().enumerate() {
        let kind = mount.typ().as_deref().unwrap_or_default();
        if !is_bind(mount) && PSEUDO.contains(&kind) {
            continue;
        }
        let from = if is_bind(mount) { bundle } else { &facts.cwd };
        // That of an overlay is a name.
        let is_path = |source: &&PathBuf| is_bind(mount) || kind != "overlay" && !source.as_os_str().is_empty();
        if let Some(source) = mount.source().as_ref().filter(is_path) {
            sources.push((format!("mounts[{i}].source"), from.join(source)));
        }
        // What else is mounted, such as the directories of an overlay, is in the options: several in a word perhaps.
        let options = mount.options().iter().flatten().enumerate().filter(|_| !is_bind(mount));
        for (j, option) in options {
            let paths = split(option).into_iter().filter_map(|part| part.split_once('=')).flat_map(paths);
            for (k, path) in paths.filter(|path| !path.is_empty()).enumerate() {
                sources.push((format!("mounts[{i}].options[{j}]#{k}"), from.join(path)));
            }
        }
    }
    sources
}

/// The paths of the host that an option of a file system names.
fn paths((key, value): (&str, &str)) -> Vec<String> {
    match key {
        "redirect_dir" => Vec::new(),
        "lowerdir" => layers(value).into_iter().map(|(_, path)| path).collect(),
        // Whether the kernel takes backslashes away is up to its version.
        key if key.trim_end_matches('+').ends_with("dir") || PATHS.contains(&key) => {
            let mut escaped = false;
            let mut stays = |letter: &char| {
                escaped = *letter == '\\' && !escaped;
                !escaped
            };
            vec![value.to_string(), value.chars().filter(|letter| stays(letter)).collect()]
        }
        _ => Vec::new(),
    }
}

/// Options of file systems whose values are devices (ext4(5), xfs(5), btrfs(5)).
const PATHS: [&str; 5] = ["source", "device", "journal_path", "logdev", "rtdev"];

/// Whether `source` is `entry`, holds it, or is in it. Everything is in `/`, so that `/` stands for itself only.
fn is_within_reach(entry: &Path, source: &Path) -> bool {
    if entry == Path::new("/") { source == entry } else { source.starts_with(entry) || entry.starts_with(source) }
}

/// Whether of an option and those that undo it this one is the last.
fn in_force(options: &[String], option: &str) -> bool {
    const PROPAGATION: [&str; 8] =
        ["shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable", "runbindable"];
    let opposite = match option {
        "ro" => "rw".to_string(),
        "rro" => "rrw".to_string(),
        other => other.replacen("no", "", 1),
    };
    let last = options.iter().rev().find(|word| {
        let word = word.as_str();
        word == option || word == opposite || (PROPAGATION.contains(&option) && PROPAGATION.contains(&word))
    });
    last.is_some_and(|word| word == option)
        && plain_opposite(option).is_none_or(|opposite| !options.iter().any(|word| word == opposite))
}

/// Of a recursive option the word that undoes it for the uppermost mount, wherever it stands: `suid` of `rnosuid`.
fn plain_opposite(option: &str) -> Option<&str> {
    match option {
        "rro" => Some("rw"),
        other => other.strip_prefix("rno"),
    }
}

/// A device number as a range.
fn number(number: Option<i64>) -> (u32, u32) {
    match number.map(u32::try_from) {
        Some(Ok(number)) => (number, number),
        _ => (0, u32::MAX),
    }
}

fn covers(rule: &DeviceRule, kind: char, major: (u32, u32), minor: (u32, u32), access: Option<Access>) -> bool {
    let holds = |outer: (u32, u32), inner: (u32, u32)| outer.0 <= inner.0 && inner.1 <= outer.1;
    (rule.kind == 'a' || rule.kind == kind)
        && holds(rule.major, major)
        && holds(rule.minor, minor)
        && access.is_none_or(|access| rule.access.covers(access))
}
