// SPDX-License-Identifier: Apache-2.0
//! A policy as typed values: every key that exists, whether it is there, and where. Pure. A key that is absent leaves its
//! matter to the bundle; an empty list allows, or adds, nothing.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use serde_json::Value;
use toml::de::DeTable;

use super::glob;
use super::read::{At, Fault, Node, Read, Reader, Sourced};
use crate::plan::capabilities::Set;
use crate::plan::config::Spec;
use crate::plan::namespaces::Kind;

/// A value of one of some words.
macro_rules! words {
    ($($(#[$doc:meta])* $Type:ident { $($word:literal => $Variant:ident,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        pub enum $Type { $(#[serde(rename = $word)] $Variant,)* }

        impl Read for $Type {
            fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
                reader.word(node, &[$(($word, Self::$Variant),)*])
            }
        }
    )*};
}

words! {
    /// What becomes of a request above the ceiling.
    OnExcess { "reject" => Reject, "clamp" => Clamp, "warn" => Warn, }
    /// Whether ambient capabilities are as the bundle says, all of the effective ones for a user other than root, or none.
    Ambient { "explicit" => Explicit, "non-root" => NonRoot, "never" => Never, }
    /// The inheritable set: as the bundle says, empty, or the bounding set.
    Inheritable { "explicit" => Explicit, "empty" => Empty, "bounding" => Bounding, }
    /// What the bundle's own seccomp profile is worth.
    BundleProfile { "stack" => Stack, "replace" => Replace, "ignore" => Ignore, "forbid" => Forbid, }
    /// Whether a container has a user namespace of its own.
    Require { "always" => Always, "never" => Never, "optional" => Optional, }
    /// Where the mappings of a container come from that has none.
    Map { "subid:auto" => SubidAuto, "bundle" => Bundle, }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CapabilitySet(pub Set);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecCeiling {
    Container,
    List(Set),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Paths {
    #[serde(rename = "@docker")]
    Docker,
    #[serde(untagged)]
    List(Vec<String>),
}

/// Ranges of ids, both ends included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IdRanges(pub Vec<(u32, u32)>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kinds(pub Vec<Kind>);

/// By type of mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MountOptions(pub BTreeMap<String, Vec<String>>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devices(pub Vec<DeviceRule>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRule {
    pub kind: char,
    /// First and last.
    pub major: (u32, u32),
    pub minor: (u32, u32),
    pub access: Access,
    pub text: String,
}

impl Serialize for Devices {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|rule| &rule.text))
    }
}

/// Reading, writing, mknod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    pub read: bool,
    pub write: bool,
    pub mknod: bool,
}

impl Access {
    pub fn parse(text: &str) -> Option<Self> {
        let has = |letter| text.contains(letter);
        let known = !text.is_empty() && text.chars().all(|c| "rwm".contains(c));
        known.then(|| Self { read: has('r'), write: has('w'), mknod: has('m') })
    }

    pub fn covers(self, other: Self) -> bool {
        (self.read || !other.read) && (self.write || !other.write) && (self.mknod || !other.mknod)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LimitNames(pub Vec<String>);

/// Bytes, processes, thousandths of a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u64>,
}

impl Limits {
    pub fn get(&self, name: &str) -> Option<u64> {
        match name {
            "memory" => self.memory,
            "pids" => self.pids,
            _ => self.cpu,
        }
    }
}

/// A value of the policy as `show` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct Shown {
    pub key: String,
    pub value: Value,
    pub from: At,
}

/// The tables of a policy. One key that is read nowhere cannot exist: the list of keys is the list of fields.
macro_rules! tables {
    ($($table:ident: $Table:ident { $($key:ident: $Type:ty,)* })*) => {
        $(
            #[derive(Debug, Clone, Default, PartialEq, Eq)]
            pub struct $Table { $(pub $key: Option<Sourced<$Type>>,)* }

            impl $Table {
                const KEYS: &[&str] = &[$(stringify!($key)),*];

                fn read(&mut self, node: &Node<'_>, reader: &mut Reader<'_>) {
                    let name = stringify!($table);
                    let Some(table) = reader.table(name, node) else { return };
                    for (key, node) in table {
                        let at = reader.at(key.span());
                        match &**key.get_ref() {
                            $(stringify!($key) => {
                                let value = <$Type>::read(node, reader);
                                self.$key = value.map(|value| Sourced { value, at });
                            })*
                            other => reader.unknown(key.span(), name, other, Self::KEYS),
                        }
                    }
                }
            }
        )*

        /// All tables that a rule may override.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Tables { $(pub $table: $Table,)* }

        impl Tables {
            const NAMES: &[&str] = &[$(stringify!($table)),*];
            /// How many keys there are.
            pub const COUNT: usize = 0 $(+ $Table::KEYS.len())*;

            /// Reads a table if it is one of these.
            fn read(&mut self, name: &str, node: &Node<'_>, reader: &mut Reader<'_>) -> bool {
                match name {
                    $(stringify!($table) => self.$table.read(node, reader),)*
                    _ => return false,
                }
                true
            }

            /// Takes every key that `other` has.
            pub fn overlay(&mut self, other: &Self) {
                $($(if other.$table.$key.is_some() {
                    self.$table.$key.clone_from(&other.$table.$key);
                })*)*
            }

            /// Every key that is there.
            pub fn shown(&self) -> Vec<Shown> {
                let mut shown = Vec::new();
                $($(if let Some(found) = &self.$table.$key {
                    shown.push(Shown {
                        key: concat!(stringify!($table), ".", stringify!($key)).to_string(),
                        value: serde_json::to_value(&found.value).unwrap_or_default(),
                        from: found.at.clone(),
                    });
                })*)*
                shown
            }
        }
    };
}

tables! {
    capabilities: Capabilities {
        ceiling: CapabilitySet,
        default: CapabilitySet,
        default_bounding: CapabilitySet,
        required_drop: CapabilitySet,
        on_excess: OnExcess,
        ambient: Ambient,
        inheritable: Inheritable,
        exec_ceiling: ExecCeiling,
    }
    no_new_privs: NoNewPrivs { force: bool, }
    seccomp: Seccomp {
        config_dir: String,
        default: String,
        stack: Vec<String>,
        allow_unconfined: bool,
        bundle_profile: BundleProfile,
        forbid_actions: Vec<String>,
        allow_listener: Vec<String>,
    }
    user_namespace: UserNamespace { require: Require, map: Map, size: u32, forbid_host_ids: IdRanges, }
    namespaces: Namespaces { require: Kinds, forbid_host: Kinds, allow_paths: Vec<String>, }
    mounts: Mounts {
        forbid_sources: Paths,
        require_options: MountOptions,
        masked_paths_min: Paths,
        readonly_paths_min: Paths,
    }
    devices: DeviceTable { allow: Devices, }
    cgroups: Cgroups { require_limits: LimitNames, ceilings: Limits, defaults: Limits, on_excess: OnExcess, }
    hooks: Hooks { allow: Vec<String>, }
    annotations: Annotations { allow_prefix: Vec<String>, deny_prefix: Vec<String>, }
    audit: Audit { file: String, }
}

/// Which containers a rule is for: all that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct When {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotation: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<String>,
    /// The user of the bundle's process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<IdRanges>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
}

impl When {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Self {
        let mut when = Self::default();
        let Some(table) = reader.table("rule.when", node) else { return when };
        for (key, node) in table {
            match &**key.get_ref() {
                "bundle" => when.bundle = String::read(node, reader),
                "cgroup" => when.cgroup = String::read(node, reader),
                "uid" => when.uid = IdRanges::read(node, reader),
                "annotation" => {
                    let Some(table) = reader.table("rule.when.annotation", node) else { continue };
                    for (key, node) in table {
                        if let Some(pattern) = String::read(node, reader) {
                            when.annotation.insert(key.get_ref().to_string(), pattern);
                        }
                    }
                }
                other => reader.unknown(key.span(), "rule.when", other, &["annotation", "bundle", "cgroup", "uid"]),
            }
        }
        if when == Self::default() {
            reader.fault(node.span(), "rule.when: has no condition; put what holds for all containers in the tables");
        }
        when
    }

    fn holds(&self, spec: &Spec, bundle: &str) -> bool {
        let annotation = |key: &str| spec.annotations.as_ref().and_then(|all| all.get(key));
        let uid = spec.process.as_ref().map(|process| process.user.uid());
        let cgroup = spec.linux.as_ref().and_then(|linux| linux.cgroups_path().as_ref());
        self.annotation.iter().all(|(key, pattern)| annotation(key).is_some_and(|value| glob::matches(pattern, value)))
            && self.bundle.as_ref().is_none_or(|pattern| glob::matches(pattern, bundle))
            && self.uid.as_ref().is_none_or(|ranges| uid.is_some_and(|uid| ranges.contain(uid)))
            && self
                .cgroup
                .as_ref()
                .is_none_or(|pattern| cgroup.is_some_and(|path| glob::matches(pattern, &path.to_string_lossy())))
    }
}

impl IdRanges {
    fn contain(&self, id: u32) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&id))
    }

    /// A range of these that meets the `size` ids from `first` on.
    pub fn meeting(&self, first: u32, size: u32) -> Option<(u32, u32)> {
        let end = u64::from(first) + u64::from(size);
        self.0.iter().find(|(low, high)| u64::from(*low) < end && u64::from(*high) >= u64::from(first)).copied()
    }
}

/// Tables for some containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub at: At,
    pub when: When,
    pub tables: Tables,
}

/// A file of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Source {
    pub path: String,
    pub text: String,
}

/// A seccomp profile that the policy names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    pub path: String,
    pub value: Value,
}

/// A policy: one or more files.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    pub sources: Vec<Source>,
    pub tables: Tables,
    pub rules: Vec<Rule>,
    /// By directory and name.
    pub profiles: BTreeMap<(String, String), Profile>,
}

impl Policy {
    /// Takes a further file: its keys win over those before, its rules come after.
    pub fn add(&mut self, path: &str, text: String, faults: &mut Vec<Fault>) {
        let mut reader = Reader::new(path, &text);
        if let Some(table) = reader.parse() {
            self.read(&table, &mut reader);
        }
        faults.append(&mut reader.faults);
        self.sources.push(Source { path: path.to_string(), text });
    }

    fn read(&mut self, table: &DeTable<'_>, reader: &mut Reader<'_>) {
        let mut tables = Tables::default();
        let known: Vec<&str> = Tables::NAMES.iter().copied().chain(["version", "rule"]).collect();
        let mut version = None;
        for (key, node) in table {
            match &**key.get_ref() {
                "version" => {
                    version = Some(u32::read(node, reader).filter(|version| *version == 1).or_else(|| {
                        reader.fault(node.span(), "version: this orlop knows version 1 only");
                        None
                    }))
                }
                "rule" => self.read_rules(node, reader),
                name => {
                    if !tables.read(name, node, reader) {
                        reader.unknown(key.span(), "", name, &known);
                    }
                }
            }
        }
        if version.is_none() {
            reader.fault(0..0, "version: is missing, expected version = 1");
        }
        self.tables.overlay(&tables);
    }

    fn read_rules(&mut self, node: &Node<'_>, reader: &mut Reader<'_>) {
        let Some(array) = node.get_ref().as_array() else {
            reader.fault(node.span(), "rule: expected [[rule]]");
            return;
        };
        let known: Vec<&str> = Tables::NAMES.iter().copied().chain(["when"]).collect();
        for node in array {
            let Some(table) = reader.table("rule", node) else { continue };
            let mut rule = Rule { at: reader.at(node.span()), when: When::default(), tables: Tables::default() };
            let mut selects = false;
            for (key, node) in table {
                match &**key.get_ref() {
                    "when" => {
                        rule.when = When::read(node, reader);
                        selects = true;
                    }
                    name => {
                        if !rule.tables.read(name, node, reader) {
                            reader.unknown(key.span(), "rule", name, &known);
                        }
                    }
                }
            }
            if !selects {
                reader.fault(node.span(), "rule: when is missing");
            }
            self.rules.push(rule);
        }
    }

    /// The rules that select a container, by their places.
    pub fn selecting(&self, spec: &Spec, bundle: &str) -> Vec<usize> {
        let selects = |(i, rule): (usize, &Rule)| rule.when.holds(spec, bundle).then_some(i);
        self.rules.iter().enumerate().filter_map(selects).collect()
    }

    /// What holds for a container: the tables, and over them the rules that select it, in order.
    pub fn with_rules(&self, rules: &[usize]) -> Tables {
        let mut tables = self.tables.clone();
        for rule in rules.iter().filter_map(|i| self.rules.get(*i)) {
            tables.overlay(&rule.tables);
        }
        tables
    }

    /// The tables alone, and with each of the rules: everything that has to make sense.
    pub fn variants(&self) -> Vec<Tables> {
        let mut all = vec![self.tables.clone()];
        for rule in &self.rules {
            let mut tables = self.tables.clone();
            tables.overlay(&rule.tables);
            all.push(tables);
        }
        all
    }

    /// What contradicts itself.
    pub fn contradictions(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for tables in self.variants() {
            for fault in tables.contradictions() {
                if !faults.contains(&fault) {
                    faults.push(fault);
                }
            }
        }
        faults
    }
}

impl Tables {
    fn contradictions(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault = |at: &At, message: String| faults.push(Fault { at: at.clone(), message });
        let caps = &self.capabilities;
        let ceiling = caps.ceiling.as_ref();
        let exec = caps.exec_ceiling.as_ref().and_then(|found| match found.value {
            ExecCeiling::List(set) => Some((set, &found.at)),
            ExecCeiling::Container => None,
        });
        let default = caps.default.as_ref().map(|found| (found.value.0, &found.at));
        let bounding = caps.default_bounding.as_ref().map(|found| (found.value.0, &found.at));
        for (name, found) in [("default", default), ("default_bounding", bounding), ("exec_ceiling", exec)] {
            let Some((set, at)) = found else { continue };
            if let Some(ceiling) = ceiling {
                let excess = set.without(ceiling.value.0);
                if !excess.is_empty() {
                    let names = excess.names();
                    fault(at, format!("capabilities.{name}: {names} not in capabilities.ceiling ({})", ceiling.at));
                }
            }
            if let Some(drop) = &caps.required_drop {
                let both = set.intersection(drop.value.0);
                if !both.is_empty() {
                    let names = both.names();
                    fault(at, format!("capabilities.{name}: {names} in capabilities.required_drop ({})", drop.at));
                }
            }
        }
        match (default, bounding) {
            (Some((default, at)), Some((bounding, _))) if !default.without(bounding).is_empty() => {
                let names = default.without(bounding).names();
                fault(at, format!("capabilities.default: {names} not in capabilities.default_bounding"));
            }
            (None, Some((_, at))) => fault(at, "capabilities.default_bounding: needs capabilities.default".into()),
            _ => {}
        }
        let seccomp = &self.seccomp;
        let named = seccomp.stack.as_ref().filter(|stack| !stack.value.is_empty()).map(|stack| &stack.at);
        if let (Some(at), None) = (seccomp.default.as_ref().map(|d| &d.at).or(named), &seccomp.config_dir) {
            fault(at, "seccomp: a profile is named, and seccomp.config_dir is missing".into());
        }
        if let Some(dir) = seccomp.config_dir.as_ref().filter(|dir| !dir.value.starts_with('/')) {
            fault(&dir.at, format!("seccomp.config_dir: must be absolute, is {:?}", dir.value));
        }
        if let (Some(mode), Some(allow), None, None) =
            (&seccomp.bundle_profile, &seccomp.allow_unconfined, &seccomp.default, named)
            && matches!(mode.value, BundleProfile::Ignore | BundleProfile::Forbid)
            && !allow.value
        {
            fault(
                &mode.at,
                "seccomp: no container could start: no profile of the bundle's, no default, none unconfined".into(),
            );
        }
        for action in seccomp.forbid_actions.iter().flat_map(|found| &found.value) {
            const ACTIONS: [&str; 9] =
                ["ALLOW", "LOG", "TRACE", "NOTIFY", "ERRNO", "TRAP", "KILL", "KILL_THREAD", "KILL_PROCESS"];
            if !ACTIONS.contains(&action.trim_start_matches("SCMP_ACT_"))
                && let Some(found) = &seccomp.forbid_actions
            {
                fault(&found.at, format!("seccomp.forbid_actions: no such action: {action:?}"));
            }
        }
        let users = &self.user_namespace;
        if let (Some(require), Some(map)) = (&users.require, &users.map)
            && require.value == Require::Never
            && map.value == Map::SubidAuto
        {
            fault(&map.at, "user_namespace.map: \"subid:auto\" and require = \"never\" exclude each other".into());
        }
        if let (Some(size), false) = (&users.size, users.map.as_ref().is_some_and(|map| map.value == Map::SubidAuto)) {
            fault(&size.at, "user_namespace.size: needs map = \"subid:auto\"".into());
        }
        if let (Some(defaults), Some(ceilings)) = (&self.cgroups.defaults, &self.cgroups.ceilings) {
            for name in ["memory", "pids", "cpu"] {
                if let (Some(default), Some(ceiling)) = (defaults.value.get(name), ceilings.value.get(name))
                    && default > ceiling
                {
                    fault(&defaults.at, format!("cgroups.defaults.{name}: {default} is above the ceiling {ceiling}"));
                }
            }
        }
        if let Some(file) = self.audit.file.as_ref().filter(|file| !file.value.starts_with('/')) {
            fault(&file.at, format!("audit.file: must be absolute, is {:?}", file.value));
        }
        faults
    }
}
