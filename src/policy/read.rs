// SPDX-License-Identifier: Apache-2.0
//! TOML to typed values, every fault with the line it stands at. Pure.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use serde::Serialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::model::{
    Access, CapabilitySet, DeviceRule, Devices, ExecCeiling, IdRanges, Kinds, LimitNames, Limits, MountOptions, Paths,
};
use crate::plan::capabilities::{self, Set};
use crate::plan::namespaces::Kind;

/// A place in a policy file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    pub file: Rc<str>,
    pub line: usize,
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            // Not a file.
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

impl Serialize for At {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A value of a policy and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sourced<T> {
    pub value: T,
    pub at: At,
}

/// What is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub at: At,
    pub message: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.at, self.message)
    }
}

/// Reads one file and collects its faults.
#[derive(Debug)]
pub struct Reader<'a> {
    file: Rc<str>,
    text: &'a str,
    pub faults: Vec<Fault>,
}

pub type Node<'a> = Spanned<DeValue<'a>>;

impl<'a> Reader<'a> {
    pub fn new(file: &str, text: &'a str) -> Self {
        Self { file: file.into(), text, faults: Vec::new() }
    }

    /// The place of a span.
    pub fn at(&self, span: Range<usize>) -> At {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        At { file: self.file.clone(), line: before.iter().filter(|b| **b == b'\n').count() + 1 }
    }

    pub fn fault(&mut self, span: Range<usize>, message: impl Into<String>) {
        let at = self.at(span);
        self.faults.push(Fault { at, message: message.into() });
    }

    /// The file's top table.
    pub fn parse(&mut self) -> Option<DeTable<'a>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let end = self.text.len();
            self.fault(error.span().unwrap_or(end..end), error.message());
        }
        errors.is_empty().then(|| table.into_inner())
    }

    pub fn table<'v, 't>(&mut self, name: &str, node: &'v Node<'t>) -> Option<&'v DeTable<'t>> {
        let table = node.get_ref().as_table();
        if table.is_none() {
            self.fault(node.span(), format!("{name}: expected a table, found {}", node.get_ref().type_str()));
        }
        table
    }

    pub fn unknown(&mut self, span: Range<usize>, table: &str, key: &str, known: &[&str]) {
        let dot = if table.is_empty() { "" } else { "." };
        let near = nearest(key, known).map(|near| format!(", did you mean {near}?")).unwrap_or_default();
        self.fault(span, format!("{table}{dot}{key}: unknown key{near}"));
    }

    fn wrong(&mut self, node: &Node<'_>, expected: &str) {
        self.fault(node.span(), format!("expected {expected}, found {}", node.get_ref().type_str()));
    }

    fn text(&mut self, node: &Node<'_>) -> Option<String> {
        let text = node.get_ref().as_str().map(str::to_string);
        if text.is_none() {
            self.wrong(node, "a string");
        }
        text
    }

    fn strings(&mut self, node: &Node<'_>) -> Option<Vec<(String, Range<usize>)>> {
        let Some(array) = node.get_ref().as_array() else {
            self.wrong(node, "an array of strings");
            return None;
        };
        let texts: Vec<_> = array.iter().map(|node| Some((self.text(node)?, node.span()))).collect();
        texts.into_iter().collect()
    }

    /// One of some words.
    pub fn word<T: Copy>(&mut self, node: &Node<'_>, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(node)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let all: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.fault(node.span(), format!("unknown value {text:?}, expected {}", all.join(" or ")));
        }
        found
    }

    fn integer(&mut self, node: &Node<'_>) -> Option<u64> {
        let number = node.get_ref().as_integer().and_then(|i| u64::from_str_radix(i.as_str(), i.radix()).ok());
        if number.is_none() {
            self.wrong(node, "a number that is not negative");
        }
        number
    }

    fn set(&mut self, node: &Node<'_>) -> Option<Set> {
        let mut set = Set(0);
        for (name, span) in self.strings(node)? {
            let (minus, name) = name.strip_prefix('-').map_or((false, name.as_str()), |name| (true, name));
            let bits = match name {
                "@all" => Some(ALL.0),
                "@docker-default" => Some(DOCKER.iter().filter_map(|n| capabilities::parse(n)).fold(0, |a, b| a | b.0)),
                name => capabilities::parse(name).map(|set| set.0),
            };
            let Some(bits) = bits else {
                self.fault(span, format!("no such capability: {name:?}, expected a name of capabilities(7)"));
                return None;
            };
            set = if minus { Set(set.0 & !bits) } else { Set(set.0 | bits) };
        }
        Some(set)
    }
}

/// Every capability that has a name.
pub const ALL: Set = Set((1 << 41) - 1);

/// What Docker gives a container.
const DOCKER: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// What Docker and Podman mask, and make read-only.
const DOCKER_MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/firmware",
];
const DOCKER_READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The known word that differs in the fewest letters, if it is close.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |a: &str, b: &str| {
        let mut row: Vec<usize> = (0..=b.len()).collect();
        for (i, x) in a.bytes().enumerate() {
            let mut corner = i;
            let mut left = i + 1;
            for (y, above) in b.bytes().zip(row.iter_mut().skip(1)) {
                let here = (corner + usize::from(x != y)).min(left + 1).min(*above + 1);
                corner = std::mem::replace(above, here);
                left = here;
            }
            if let Some(first) = row.first_mut() {
                *first = i + 1;
            }
        }
        row.last().copied().unwrap_or(0)
    };
    known.iter().map(|k| (distance(word, k), *k)).filter(|(d, k)| *d <= 2.max(k.len() / 3)).min().map(|(_, k)| k)
}

/// A type of value that a key may have. A fault has been recorded where None is returned.
pub trait Read: Sized {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self>;
}

impl Read for bool {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let value = node.get_ref().as_bool();
        if value.is_none() {
            reader.wrong(node, "true or false");
        }
        value
    }
}

impl Read for u32 {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let number = reader.integer(node)?;
        let fits = u32::try_from(number).ok().filter(|n| *n > 0);
        if fits.is_none() {
            reader.fault(node.span(), "must be 1 to 4294967295");
        }
        fits
    }
}

impl Read for String {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        reader.text(node)
    }
}

impl Read for Vec<String> {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        Some(reader.strings(node)?.into_iter().map(|(text, _)| text).collect())
    }
}

impl Read for CapabilitySet {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        reader.set(node).map(CapabilitySet)
    }
}

impl Read for ExecCeiling {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        if node.get_ref().is_str() {
            return reader.word(node, &[("container", ExecCeiling::Container)]);
        }
        reader.set(node).map(ExecCeiling::List)
    }
}

impl Read for Paths {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        if let Some(word) = node.get_ref().as_str() {
            if word == "@docker" {
                return Some(Paths::Docker);
            }
            reader.fault(node.span(), format!("unknown value {word:?}, expected \"@docker\" or an array of paths"));
            return None;
        }
        let mut paths = Vec::new();
        for (path, span) in reader.strings(node)? {
            if !path.starts_with('/') {
                reader.fault(span, format!("must be absolute, is {path:?}"));
                return None;
            }
            paths.push(if path == "/" { path } else { path.trim_end_matches('/').to_string() });
        }
        Some(Paths::List(paths))
    }
}

impl Paths {
    /// The paths, with `@docker` for what is masked or for what is read-only.
    pub fn expanded(&self, read_only: bool) -> Vec<String> {
        let docker: &[&str] = if read_only { &DOCKER_READ_ONLY } else { &DOCKER_MASKED };
        match self {
            Paths::Docker => docker.iter().map(ToString::to_string).collect(),
            Paths::List(paths) => paths.clone(),
        }
    }
}

impl Read for IdRanges {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(array) = node.get_ref().as_array() else {
            reader.wrong(node, "an array of ids and ranges such as \"0-999\"");
            return None;
        };
        let mut ranges = Vec::new();
        for node in array {
            let range = match node.get_ref().as_str() {
                Some(text) => {
                    let (first, last) = text.split_once('-').unwrap_or((text, text));
                    first.parse().ok().zip(last.parse().ok())
                }
                None => reader.integer(node).and_then(|id| u32::try_from(id).ok()).map(|id| (id, id)),
            };
            match range.filter(|(first, last)| first <= last) {
                Some(range) => ranges.push(range),
                None => {
                    reader.fault(node.span(), "expected an id or a range such as \"0-999\"");
                    return None;
                }
            }
        }
        Some(IdRanges(ranges))
    }
}

impl Read for Kinds {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let mut kinds = Vec::new();
        for (name, span) in reader.strings(node)? {
            match Kind::ALL.into_iter().find(|kind| kind.name() == name) {
                Some(kind) => kinds.push(kind),
                None => {
                    let all = Kind::ALL.map(Kind::name).join(", ");
                    reader.fault(span, format!("no such namespace: {name:?}, expected one of {all}"));
                    return None;
                }
            }
        }
        Some(Kinds(kinds))
    }
}

/// Options that only take something away.
const TIGHTENING: [&str; 12] = [
    "nodev",
    "noexec",
    "nosuid",
    "nosymfollow",
    "ro",
    "rnodev",
    "rnoexec",
    "rnosuid",
    "rnosymfollow",
    "rro",
    "rprivate",
    "rslave",
];

impl Read for MountOptions {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let table = reader.table("mounts.require_options", node)?;
        let mut all = BTreeMap::new();
        for (kind, node) in table {
            let mut options = Vec::new();
            for (option, span) in reader.strings(node)? {
                if !TIGHTENING.contains(&option.as_str()) {
                    let known = TIGHTENING.join(", ");
                    reader.fault(span, format!("{option:?} cannot be required, expected one of {known}"));
                    return None;
                }
                options.push(option);
            }
            all.insert(kind.get_ref().to_string(), options);
        }
        Some(MountOptions(all))
    }
}

impl Read for Devices {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let mut rules = Vec::new();
        for (text, span) in reader.strings(node)? {
            match device(&text) {
                Some(rule) => rules.push(rule),
                None => {
                    let expected = "\"c 1:3\", \"c 5:0-2 rw\" or \"b *:* m\"";
                    reader.fault(span, format!("{text:?} is no device rule, expected one such as {expected}"));
                    return None;
                }
            }
        }
        Some(Devices(rules))
    }
}

fn device(text: &str) -> Option<DeviceRule> {
    let mut words = text.split_whitespace();
    let kind = words.next().filter(|kind| ["a", "b", "c"].contains(kind))?.chars().next()?;
    let (major, minor) = words.next()?.split_once(':')?;
    let span = |text: &str| -> Option<(u32, u32)> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        if text == "*" { Some((0, u32::MAX)) } else { first.parse().ok().zip(last.parse().ok()) }
    };
    let access = Access::parse(words.next().unwrap_or("rwm"))?;
    let rule = DeviceRule { kind, major: span(major)?, minor: span(minor)?, access, text: text.to_string() };
    words.next().is_none().then_some(rule)
}

const LIMITS: [&str; 3] = ["cpu", "memory", "pids"];

impl Read for LimitNames {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let mut names = Vec::new();
        for (name, span) in reader.strings(node)? {
            if !LIMITS.contains(&name.as_str()) {
                reader.fault(span, format!("no such limit: {name:?}, expected one of {}", LIMITS.join(", ")));
                return None;
            }
            names.push(name);
        }
        Some(LimitNames(names))
    }
}

impl Read for Limits {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let table = reader.table("limits", node)?;
        let mut limits = Limits::default();
        for (key, node) in table {
            let factor = match &**key.get_ref() {
                "memory" | "pids" => 1,
                "cpu" => 1000,
                other => {
                    reader.unknown(key.span(), "cgroups.*", other, &LIMITS);
                    continue;
                }
            };
            let value = match node.get_ref().as_str() {
                Some(text) => amount(key.get_ref(), text),
                None => reader.integer(node)?.checked_mul(factor),
            };
            let Some(value) = value.filter(|value| *value > 0 && i64::try_from(*value).is_ok()) else {
                reader
                    .fault(node.span(), "expected a number above 0, for memory also \"512M\", for cpu also \"1500m\"");
                return None;
            };
            match &**key.get_ref() {
                "memory" => limits.memory = Some(value),
                "pids" => limits.pids = Some(value),
                _ => limits.cpu = Some(value),
            }
        }
        Some(limits)
    }
}

/// `8G` of memory, or `1500m` of a processor as thousandths.
fn amount(key: &str, text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: u64 = match (key, unit) {
        ("memory", "") | ("cpu", "m") => 1,
        ("memory", "K") => 1 << 10,
        ("memory", "M") => 1 << 20,
        ("memory", "G") => 1 << 30,
        ("memory", "T") => 1 << 40,
        ("cpu", "") => 1000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}
