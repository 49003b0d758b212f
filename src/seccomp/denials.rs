// SPDX-License-Identifier: Apache-2.0
//! What a supervisor that watches a container answers for its profiles, and what it tells of the calls they refuse.

use std::fmt::Write;

use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

use super::arch::{Arch, X32_BIT};
use super::policy::{Action, Data, Reason};
use super::{Compiled, Examined, FilterFlag, Instruction, examine, notifies, simulate, words};
use crate::plan::problem::Problems;

/// Profiles that hold together, the first one loaded first, the last one the bundle's.
#[derive(Debug)]
pub struct Stack {
    native: Arch,
    members: Vec<(LinuxSeccomp, Examined)>,
    names: Vec<String>,
}

/// The verdict on a call, and which profile is to thank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub action: Action,
    /// The profile's number in the stack.
    pub member: usize,
    pub reason: Reason,
}

impl Stack {
    /// None if one of the profiles has faults. `names`: where the user finds them; the last one is `linux.seccomp`.
    pub fn new(native: Arch, profiles: &[&LinuxSeccomp], names: &[String]) -> Option<Self> {
        let member =
            |profile: &&LinuxSeccomp| Some(((*profile).clone(), examine(native, profile, &mut Problems::default())?));
        Some(Self { native, members: profiles.iter().map(member).collect::<Option<_>>()?, names: names.to_vec() })
    }

    /// What the profiles say together, see [`super::compile_stacked`].
    pub fn decide(&self, data: &Data) -> Verdict {
        let mut verdict = Verdict { action: Action::Allow, member: 0, reason: Reason::Default };
        // As the kernel: from the newest on, and an older one only if it is stricter.
        for (member, (_, examined)) in self.members.iter().enumerate().rev() {
            let (action, reason) = examined.apart.explain(data);
            if member + 1 == self.members.len() || action.beats(verdict.action) {
                verdict = Verdict { action, member, reason };
            }
        }
        verdict
    }

    /// What decided, as the user finds it.
    pub fn path(&self, verdict: &Verdict) -> String {
        let profile = self.prefix(verdict.member);
        match verdict.reason {
            Reason::Entry(entry) => format!("{profile}.syscalls[{entry}]"),
            Reason::Default => format!("{profile}.defaultAction"),
            Reason::Newer => format!("{profile}: ENOSYS, newer than every call that it names"),
            Reason::Unlisted => format!("{profile}.architectures: not in the list"),
            Reason::Skipped => format!("{profile}.defaultAction: the number is -1"),
        }
    }

    fn prefix(&self, member: usize) -> String {
        match self.names.get(member) {
            // A policy's profile may be the last if the bundle has none.
            Some(name) => format!("{name}: profile"),
            None if member + 1 == self.members.len() => "linux.seccomp".into(),
            None => format!("stack[{member}]"),
        }
    }

    /// The arguments that one of the profiles tests for this call. Calls that differ in others only are alike.
    pub fn tested(&self, data: &Data) -> Vec<(u8, u64)> {
        let conditions =
            self.members.iter().filter_map(|(_, examined)| examined.apart.decision(data.arch, data.number));
        let mut indices: Vec<u8> = conditions
            .flat_map(|decision| decision.chains().into_iter().flat_map(|chain| &chain.rules).collect::<Vec<_>>())
            .flat_map(|rule| rule.conditions.iter().map(|condition| condition.index))
            .collect();
        indices.sort_unstable();
        indices.dedup();
        let value = |index: u8| data.args.get(usize::from(index)).copied().unwrap_or(0);
        indices.into_iter().map(|index| (index, value(index))).collect()
    }

    /// The smallest changes (JSON Patch, RFC 6902) after which each profile allows the call, with the profile's name.
    /// Each has been tried.
    pub fn patches(&self, data: &Data) -> Vec<(String, Value)> {
        let mut patches = Vec::new();
        for (member, (section, examined)) in self.members.iter().enumerate() {
            let (action, reason) = examined.apart.explain(data);
            if matches!(action, Action::Allow | Action::Log) {
                continue;
            }
            if let Some(patch) = self.patch(section, data, reason) {
                patches.push((self.prefix(member), patch));
            }
        }
        patches
    }

    fn patch(&self, section: &LinuxSeccomp, data: &Data, reason: Reason) -> Option<Value> {
        let name = arch_of(data).and_then(|arch| arch.call(data.number))?.name();
        let args: Vec<Value> = self
            .tested(data)
            .into_iter()
            .map(|(index, value)| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"}))
            .collect();
        let exact = json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": args});
        let whole = json!({"names": [name], "action": "SCMP_ACT_ALLOW"});
        let add = |entry: &Value| json!({"op": "add", "path": "/linux/seccomp/syscalls/-", "value": entry});
        let mut candidates: Vec<Vec<Value>> = Vec::new();
        if !args.is_empty() {
            candidates.push(vec![add(&exact)]);
        }
        candidates.push(vec![add(&whole)]);
        if let Reason::Entry(entry) = reason
            && let Some(named) = section.syscalls().as_ref().and_then(|entries| entries.get(entry))
        {
            // An entry's own names first; behind a removed one the others keep their places.
            let at = named.names().iter().position(|other| other == name);
            let path = match at {
                Some(at) if named.names().len() > 1 => format!("/linux/seccomp/syscalls/{entry}/names/{at}"),
                _ => format!("/linux/seccomp/syscalls/{entry}"),
            };
            let remove = json!({"op": "remove", "path": path});
            candidates.push(vec![remove.clone()]);
            if !args.is_empty() {
                candidates.push(vec![remove.clone(), add(&exact)]);
            }
            candidates.push(vec![remove, add(&whole)]);
        }
        candidates.into_iter().find(|patch| self.allows(section, patch, data)).map(Value::Array)
    }

    /// Whether a profile allows the call when it is patched.
    fn allows(&self, section: &LinuxSeccomp, patch: &[Value], data: &Data) -> bool {
        let Ok(mut changed) = serde_json::to_value(section) else { return false };
        for step in patch {
            let path = step.get("path").and_then(Value::as_str).and_then(|path| path.strip_prefix("/linux/seccomp"));
            let Some((parent, last)) = path.and_then(|path| path.rsplit_once('/')) else { return false };
            let Some(list) = changed.pointer_mut(parent).and_then(Value::as_array_mut) else { return false };
            match (step.get("value"), last.parse::<usize>()) {
                (Some(value), _) => list.push(value.clone()),
                (None, Ok(index)) if index < list.len() => drop(list.remove(index)),
                _ => return false,
            }
        }
        let Ok(changed) = serde_json::from_value::<LinuxSeccomp>(changed) else { return false };
        examine(self.native, &changed, &mut Problems::default())
            .is_some_and(|examined| matches!(examined.apart.decide(data), Action::Allow | Action::Log))
    }
}

/// The architecture of a call.
pub fn arch_of(data: &Data) -> Option<Arch> {
    let x32 = data.number & X32_BIT != 0 && data.number != u32::MAX;
    Arch::ALL
        .into_iter()
        .find(|arch| arch.audit() == data.arch && (*arch == Arch::X32) == (x32 && data.arch == Arch::X86_64.audit()))
}

/// A program for a process that is watched, and the one whose verdicts the watcher passes on.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Notifies, and has no listener of its own: the runtime keeps it.
    pub filter: Compiled,
    original: Vec<Instruction>,
}

/// What a watcher answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The call goes on.
    Continue,
    /// It fails with that number; 0: it returns 0.
    Errno(u16),
}

impl Watched {
    /// For every call that the filter refuses, or for `all` that do not kill, trap or go to a tracer.
    ///
    /// The error says why this filter cannot be watched.
    pub fn new(compiled: &Compiled, all: bool) -> Result<Self, &'static str> {
        if compiled.notifies || notifies(&compiled.program) {
            return Err("the profile has SCMP_ACT_NOTIFY, and a process can have one supervisor only");
        }
        if !compiled.before.is_empty() {
            return Err("the stacked profiles are too long for one filter");
        }
        let mut filter = compiled.clone();
        for instruction in filter.program.iter_mut().filter(|i| i.code == simulate::RETURN) {
            let action = instruction.k & libc::SECCOMP_RET_ACTION_FULL;
            let passes = action == libc::SECCOMP_RET_ALLOW || action == libc::SECCOMP_RET_LOG;
            if action == libc::SECCOMP_RET_ERRNO || all && passes {
                instruction.k = libc::SECCOMP_RET_USER_NOTIF;
            }
        }
        filter.listener = None;
        filter.notifies = notifies(&filter.program);
        if filter.notifies {
            // A signal must not turn the error of a call that was refused into EINTR.
            filter.flags.retain(|flag| *flag != FilterFlag::Tsync);
            if !filter.flags.contains(&FilterFlag::WaitKillableRecv) {
                filter.flags.push(FilterFlag::WaitKillableRecv);
            }
        }
        Ok(Self { filter, original: compiled.program.clone() })
    }

    /// For every call of a process without a profile.
    pub fn everything() -> Self {
        let answer = |k| vec![Instruction { code: simulate::RETURN, jt: 0, jf: 0, k }];
        Self {
            filter: Compiled {
                program: answer(libc::SECCOMP_RET_USER_NOTIF),
                before: Vec::new(),
                flags: vec![FilterFlag::SpecAllow, FilterFlag::WaitKillableRecv],
                listener: None,
                notifies: true,
            },
            original: answer(libc::SECCOMP_RET_ALLOW),
        }
    }

    /// The answer to a call that was notified.
    pub fn answer(&self, data: &Data) -> Answer {
        let code = simulate::run(&self.original, data).map_or(libc::SECCOMP_RET_KILL_PROCESS, |outcome| outcome.code);
        match code & libc::SECCOMP_RET_ACTION_FULL {
            libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG => Answer::Continue,
            libc::SECCOMP_RET_ERRNO => {
                Answer::Errno(u16::try_from(code & libc::SECCOMP_RET_DATA).unwrap_or(libc_enosys()))
            }
            // No other is notified.
            _ => Answer::Errno(libc_enosys()),
        }
    }
}

/// ENOSYS, the kernel's own answer when nobody can give one.
fn libc_enosys() -> u16 {
    38
}

/// Who made a call.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    pub pid: i32,
    pub command: String,
    /// Where its program is in the container; empty if that is unknown.
    pub program: String,
}

/// The report on a refused call: who, what, why, and how it would be allowed.
pub fn report(stack: &Stack, data: &Data, caller: &Caller) -> String {
    let verdict = stack.decide(data);
    let call = arch_of(data).and_then(|arch| arch.call(data.number));
    let name = call.map_or_else(|| data.number.cast_signed().to_string(), |call| call.name().to_string());
    let program = if caller.program.is_empty() { String::new() } else { format!(", {}", caller.program) };
    let foreign = arch_of(data).filter(|arch| *arch != stack.native);
    let foreign = foreign.map(|arch| format!(" on {}", arch.name())).unwrap_or_default();
    let mut text = format!(
        "denied: {}{foreign} = {}, pid {} ({}{program})\n  decided by: {}",
        words::call(&name, &data.args),
        verdict.action.text(),
        caller.pid,
        caller.command,
        stack.path(&verdict)
    );
    let patches = stack.patches(data);
    for (profile, patch) in &patches {
        let of = if profile == "linux.seccomp" { String::new() } else { format!(" (in {profile})") };
        // Writing to a String cannot fail.
        let _infallible = write!(text, "\n  to allow it{of}: {patch}");
    }
    if patches.is_empty() {
        text.push_str("\n  to allow it: no single change of one entry does; see orlop seccomp explain");
    }
    text
}
