// SPDX-License-Identifier: Apache-2.0
//! Which devices the container may use: an ordered list of rules in which, for each kind of access, the last match
//! wins (config-linux.md#allowed-device-list); what no rule matches is denied. Turned into a program for cgroup v2
//! ([`program`]) or into a default with exceptions for cgroup v1 ([`exceptions`]).

mod program;

use std::fmt;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use serde::{Serialize, Serializer};

use super::problem::Problems;
pub use program::{Instruction, program};

/// Major and minor numbers fit the immediate of an eBPF instruction; the kernel has 12 and 20 bits for them.
const LARGEST_NUMBER: i64 = i32::MAX as i64;

/// One rule. Serialised, as on cgroup v1: `c 1:3 rwm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub allow: bool,
    pub node: Node,
    pub access: Access,
}

/// A set of device nodes; `None` stands for any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    pub kind: Kind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Any,
    Block,
    Character,
}

/// A set of `r`, `w` and `m` (mknod), with the bits of `BPF_DEVCG_ACC_*` (linux/bpf.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access(u8);

impl Access {
    pub const MKNOD: Access = Access(1);
    pub const READ: Access = Access(2);
    pub const WRITE: Access = Access(4);
    pub const ALL: Access = Access(7);

    /// The bits, for a program.
    pub fn bits(self) -> u8 {
        self.0
    }

    fn with(self, other: Access) -> Access {
        Access(self.0 | other.0)
    }

    fn without(self, other: Access) -> Access {
        Access(self.0 & !other.0)
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn parse(text: &str) -> Option<Access> {
        text.chars().try_fold(Access(0), |access, letter| match letter {
            'r' => Some(access.with(Access::READ)),
            'w' => Some(access.with(Access::WRITE)),
            'm' => Some(access.with(Access::MKNOD)),
            _ => None,
        })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(Access::READ, 'r'), (Access::WRITE, 'w'), (Access::MKNOD, 'm')] {
            if self.0 & bit.0 != 0 {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

impl Node {
    const ANY: Node = Node { kind: Kind::Any, major: None, minor: None };

    fn new(kind: Kind, major: Option<u32>, minor: Option<u32>) -> Node {
        Node { kind, major, minor }
    }

    /// Whether every node of `other` is one of these.
    fn covers(&self, other: &Node) -> bool {
        let number = |mine: Option<u32>, theirs| mine.is_none() || mine == theirs;
        (self.kind == Kind::Any || self.kind == other.kind)
            && number(self.major, other.major)
            && number(self.minor, other.minor)
    }

    /// Whether some node is in both.
    fn meets(&self, other: &Node) -> bool {
        let number = |mine: Option<u32>, theirs: Option<u32>| mine.is_none() || theirs.is_none() || mine == theirs;
        (self.kind == Kind::Any || other.kind == Kind::Any || self.kind == other.kind)
            && number(self.major, other.major)
            && number(self.minor, other.minor)
    }
}

impl fmt::Display for Node {
    /// As the devices controller of cgroup v1 writes it: `c 136:*`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Any => 'a',
            Kind::Block => 'b',
            Kind::Character => 'c',
        };
        let number = |n: Option<u32>| n.map_or("*".to_string(), |n| n.to_string());
        write!(f, "{kind} {}:{}", number(self.major), number(self.minor))
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let verdict = if self.allow { "allow" } else { "deny" };
        serializer.collect_str(&format_args!("{verdict} {} {}", self.node, self.access))
    }
}

impl Rule {
    fn allow(kind: Kind, major: Option<u32>, minor: Option<u32>, access: Access) -> Rule {
        Rule { allow: true, node: Node::new(kind, major, minor), access }
    }

    /// Reads one entry of `linux.resources.devices`, which stands at the JSON path `at`. What is left out means
    /// everything; so does -1, which engines send for a number.
    pub fn from_spec(rule: &LinuxDeviceCgroup, at: &str, problems: &mut Problems) -> Option<Rule> {
        let kind = match rule.typ() {
            None | Some(LinuxDeviceType::A) => Kind::Any,
            Some(LinuxDeviceType::B) => Kind::Block,
            Some(LinuxDeviceType::C) => Kind::Character,
            Some(LinuxDeviceType::U | LinuxDeviceType::P) => {
                problems.error(format!("{at}.type"), "is none of \"a\", \"b\" and \"c\"");
                return None;
            }
        };
        let mut number = |name: &str, value: Option<i64>| match value {
            None | Some(-1) => Some(None),
            Some(n @ 0..=LARGEST_NUMBER) => Some(u32::try_from(n).ok()),
            Some(n) => {
                problems.error(format!("{at}.{name}"), format!("{n} is not a device number"));
                None
            }
        };
        let (major, minor) = (number("major", rule.major()), number("minor", rule.minor()));
        // Docker sends an empty string where it means nothing in particular, and runc takes that for everything.
        let text = rule.access().as_deref().filter(|text| !text.is_empty()).unwrap_or("rwm");
        let Some(access) = Access::parse(text) else {
            problems.error(format!("{at}.access"), format!("{text:?} holds a letter other than r, w and m"));
            return None;
        };
        Some(Rule { allow: rule.allow(), node: Node::new(kind, major?, minor?), access })
    }

    /// Decides every access to every device.
    fn is_total(&self) -> bool {
        self.node == Node::ANY && self.access == Access::ALL
    }
}

/// What every container may use, last and so whatever the configuration denies: images and engines rely on it that
/// "deny everything" leaves these, since runc has always appended them. To make any device node (which does not open
/// it), the default devices, pseudo-terminals, and TUN/TAP.
pub fn default_rules() -> Vec<Rule> {
    let character = |major, minor| Rule::allow(Kind::Character, Some(major), minor, Access::ALL);
    vec![
        Rule::allow(Kind::Character, None, None, Access::MKNOD),
        Rule::allow(Kind::Block, None, None, Access::MKNOD),
        character(1, Some(3)),    // null
        character(1, Some(5)),    // zero
        character(1, Some(7)),    // full
        character(1, Some(8)),    // random
        character(1, Some(9)),    // urandom
        character(5, Some(0)),    // tty
        character(5, Some(2)),    // ptmx
        character(136, None),     // pts/*
        character(10, Some(200)), // net/tun
    ]
}

/// The rules that count: those before a rule for every access to every device are overruled by it.
fn effective(rules: &[Rule]) -> &[Rule] {
    let start = rules.iter().rposition(Rule::is_total).unwrap_or(0);
    rules.get(start..).unwrap_or_default()
}

/// Whether the rules deny nothing, so that no program is needed.
pub fn allows_everything(rules: &[Rule]) -> bool {
    let rules = effective(rules);
    rules.first().is_some_and(Rule::is_total) && rules.iter().all(|rule| rule.allow)
}

/// The rules as cgroup v1 takes them.
#[derive(Debug, PartialEq, Eq)]
pub struct Exceptions {
    /// What holds for a device that no exception matches.
    pub allow: bool,
    /// `c 1:3 rwm`: allowed if the default denies, denied if it allows.
    pub exceptions: Vec<String>,
}

/// Rules that v1 cannot express: an exception inside an exception. The kernel would ignore it silently.
#[derive(Debug, PartialEq, Eq)]
pub struct Hole {
    /// Index of the rule.
    pub rule: usize,
    /// Its verdict.
    pub allow: bool,
    pub wanted: String,
    /// The wider exception it would cut into.
    pub inside: String,
}

/// Folds the rules into a default and exceptions of it.
pub fn exceptions(rules: &[Rule]) -> Result<Exceptions, Hole> {
    let mut allow = false;
    let mut list: Vec<(Node, Access)> = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        if rule.is_total() {
            allow = rule.allow;
            list.clear();
            continue;
        }
        // The kernel reads "a" as everything, whatever follows it.
        let kinds: &[Kind] =
            if rule.node.kind == Kind::Any { &[Kind::Block, Kind::Character] } else { &[rule.node.kind] };
        for &kind in kinds {
            let node = Node { kind, ..rule.node };
            if rule.allow != allow {
                match list.iter_mut().find(|(n, _)| *n == node) {
                    Some((_, access)) => *access = access.with(rule.access),
                    None => list.push((node, rule.access)),
                }
                continue;
            }
            for (exception, access) in &mut list {
                if node.covers(exception) {
                    *access = access.without(rule.access);
                } else if node.meets(exception) && access.0 & rule.access.0 != 0 {
                    return Err(Hole {
                        rule: index,
                        allow: rule.allow,
                        wanted: format!("{node} {}", rule.access),
                        inside: format!("{exception} {access}"),
                    });
                }
            }
            list.retain(|(_, access)| !access.is_empty());
        }
    }
    let exceptions = list.iter().map(|(node, access)| format!("{node} {access}")).collect();
    Ok(Exceptions { allow, exceptions })
}

#[cfg(test)]
mod tests;
