// SPDX-License-Identifier: Apache-2.0
//! The least profile with which a program runs, from the calls that it was seen to make.

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompOperator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::arch::Arch;
use super::denials::{Answer, arch_of};
use super::policy::Data;

/// What is in every profile, seen or not: the end of a process and what the kernel itself makes of a signal; and for the
/// runtime, behind the load of the filter, the execve and the message that says why it failed.
const BASE: [&str; 6] = ["execve", "exit", "exit_group", "restart_syscall", "rt_sigreturn", "sendmsg"];

/// Calls that are recorded with the values of one argument, which tells apart what is harmless from what is not. All are
/// ints or flags, so that the lower 32 bits count.
const BY_ARGUMENT: [(&str, usize); 3] = [("personality", 0), ("prctl", 0), ("socket", 0)];

const EPERM: u16 = 1;
const LOW: u64 = 0xffff_ffff;

/// The calls of one run or of several.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// By name; the values of the argument in [`BY_ARGUMENT`], or none if every value is allowed.
    program: BTreeMap<String, BTreeSet<u64>>,
    /// Of the runtime, between the load of the filter and its execve.
    runtime: BTreeSet<String>,
    /// What the bundle's own profile refused, with the errors; they are kept, since a program may depend on them.
    refused: BTreeMap<String, u16>,
    arches: BTreeSet<String>,
    /// Numbers without names, which no profile can have.
    unknown: BTreeSet<u32>,
    /// How many calls there were.
    pub calls: u64,
}

impl Recording {
    /// Adds a call; `runtime`: of the process that has yet to become the program.
    pub fn add(&mut self, data: &Data, answer: Answer, runtime: bool) {
        self.calls += 1;
        let call = arch_of(data).and_then(|arch| Some((arch, arch.call(data.number)?.name())));
        let Some((arch, name)) = call else {
            self.unknown.insert(data.number);
            return;
        };
        if !self.arches.contains(arch.name()) {
            self.arches.insert(arch.name().into());
        }
        match answer {
            Answer::Errno(errno) => drop(self.refused.insert(name.into(), errno)),
            Answer::Continue if runtime => drop(self.runtime.insert(name.into())),
            Answer::Continue => {
                let value = tested(name).and_then(|index| data.args.get(index)).map(|arg| arg & LOW);
                match self.program.get_mut(name) {
                    Some(values) => values.extend(value),
                    None => drop(self.program.insert(name.into(), value.into_iter().collect())),
                }
            }
        }
    }

    /// Adds what another run made.
    pub fn merge(&mut self, other: Recording) {
        for (name, values) in other.program {
            match self.program.get_mut(&name) {
                // No values are all of them.
                Some(own) if own.is_empty() || values.is_empty() => own.clear(),
                Some(own) => own.extend(values),
                None => drop(self.program.insert(name, values)),
            }
        }
        self.runtime.extend(other.runtime);
        self.refused.extend(other.refused);
        self.arches.extend(other.arches);
        self.unknown.extend(other.unknown);
        self.calls += other.calls;
    }

    /// The calls of a profile that was recorded. The error names what no recording has.
    pub fn of_profile(profile: &LinuxSeccomp) -> Result<Recording, String> {
        let mut recording = Recording::default();
        for arch in profile.architectures().iter().flatten().filter_map(|arch| Arch::from_oci(*arch)) {
            recording.arches.insert(arch.name().into());
        }
        if profile.default_action() != LinuxSeccompAction::ScmpActErrno {
            return Err("its default action is not SCMP_ACT_ERRNO".into());
        }
        for (i, entry) in profile.syscalls().iter().flatten().enumerate() {
            let args = entry.args().as_deref().unwrap_or_default();
            for name in entry.names() {
                let values = match (entry.action(), args) {
                    (LinuxSeccompAction::ScmpActErrno, []) => {
                        let errno = entry.errno_ret().and_then(|errno| u16::try_from(errno).ok()).unwrap_or(EPERM);
                        recording.refused.insert(name.clone(), errno);
                        continue;
                    }
                    (LinuxSeccompAction::ScmpActAllow, []) => BTreeSet::new(),
                    (LinuxSeccompAction::ScmpActAllow, [arg])
                        if Some(arg.index()) == tested(name)
                            && arg.op() == LinuxSeccompOperator::ScmpCmpMaskedEq
                            && arg.value() == LOW =>
                    {
                        BTreeSet::from([arg.value_two().unwrap_or(0)])
                    }
                    _ => return Err(format!("syscalls[{i}] is none that was recorded")),
                };
                let mut one = Recording::default();
                one.program.insert(name.clone(), values);
                recording.merge(one);
            }
        }
        Ok(recording)
    }

    /// How many system calls there are, the base not counted.
    pub fn distinct(&self) -> usize {
        self.program.len()
    }

    /// Numbers that no profile can name.
    pub fn unknown(&self) -> impl Iterator<Item = &u32> {
        self.unknown.iter()
    }

    /// `linux.seccomp`; for `docker` in Docker's format, with comments.
    pub fn profile(&self, docker: bool) -> Value {
        let entry = |value: Value, comment: &str| {
            let mut entry = value;
            if let (true, Some(members)) = (docker, entry.as_object_mut()) {
                members.insert("comment".into(), json!(comment));
            }
            entry
        };
        let allow = |names: &BTreeSet<&str>| json!({"names": names, "action": "SCMP_ACT_ALLOW"});
        let program: BTreeSet<&str> =
            self.program.iter().filter(|(_, values)| values.is_empty()).map(|(name, _)| name.as_str()).collect();
        let base: BTreeSet<&str> = BASE.into_iter().chain(self.runtime.iter().map(String::as_str)).collect();
        // With conditions of their own, the runtime's use of these calls is bound too; it has none of them.
        let base: BTreeSet<&str> = base.difference(&program).copied().collect();
        let mut entries = Vec::new();
        if !base.is_empty() {
            entries.push(entry(allow(&base), "what orlop needs to execute the program, and the end of a process"));
        }
        if !program.is_empty() {
            entries.push(entry(allow(&program), "what the program was seen to call"));
        }
        for (name, values) in self.program.iter().filter(|(name, _)| !base.contains(name.as_str())) {
            for value in values {
                let arg = json!({"index": tested(name).unwrap_or(0), "value": LOW, "valueTwo": value,
                    "op": "SCMP_CMP_MASKED_EQ"});
                let allowed = json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [arg]});
                entries.push(entry(allowed, "what the program was seen to call, by its argument"));
            }
        }
        let mut errors: BTreeMap<u16, BTreeSet<&str>> = BTreeMap::new();
        for (name, errno) in &self.refused {
            let allowed = self.program.contains_key(name) || base.contains(name.as_str());
            if *errno != EPERM && !allowed {
                errors.entry(*errno).or_default().insert(name);
            }
        }
        for (errno, names) in errors {
            let refused = json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno});
            entries.push(entry(refused, "what the profile of the recorded bundle refused with this error"));
        }
        let mut arches: Vec<Arch> = self.arches.iter().filter_map(|name| Arch::parse(name)).collect();
        if !arches.contains(&Arch::NATIVE) {
            arches.push(Arch::NATIVE);
        }
        arches.sort_by_key(|arch| (*arch != Arch::NATIVE, *arch as usize));
        let names: Vec<String> =
            arches.iter().map(|arch| format!("SCMP_ARCH_{}", arch.name().to_ascii_uppercase())).collect();
        let mut profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": EPERM});
        if let Some(members) = profile.as_object_mut() {
            match names.split_first() {
                Some((native, others)) if docker => {
                    members.insert("archMap".into(), json!([{"architecture": native, "subArchitectures": others}]))
                }
                _ => members.insert("architectures".into(), json!(names)),
            };
            members.insert("syscalls".into(), Value::Array(entries));
        }
        profile
    }
}

fn tested(name: &str) -> Option<usize> {
    BY_ARGUMENT.iter().find(|(known, _)| *known == name).map(|(_, index)| *index)
}

#[cfg(test)]
mod tests {
    use super::super::arch::Call;
    use super::*;
    use crate::plan::problem::Problems;
    use crate::seccomp;

    fn data(name: &str, arg: u64) -> Data {
        let number = Arch::X86_64.number(Call::find(name).unwrap()).unwrap();
        Data { arch: Arch::X86_64.audit(), number, args: [arg, 0, 0, 0, 0, 0] }
    }

    fn recorded() -> Recording {
        let mut recording = Recording::default();
        recording.add(&data("execve", 1), Answer::Continue, true);
        recording.add(&data("setresuid", 1), Answer::Continue, true);
        for (name, arg) in [("read", 0), ("write", 1), ("socket", 1), ("socket", 2), ("prctl", (7 << 32) | 15)] {
            recording.add(&data(name, arg), Answer::Continue, false);
        }
        recording.add(&data("clone3", 1), Answer::Errno(38), false);
        recording.add(&data("keyctl", 1), Answer::Errno(1), false);
        recording
    }

    #[test]
    fn a_profile_allows_what_was_seen_and_no_more() {
        let section: LinuxSeccomp = serde_json::from_value(recorded().profile(false)).unwrap();
        let mut problems = Problems::default();
        let examined = seccomp::examine(Arch::X86_64, &section, &mut problems).unwrap();
        assert_eq!(problems, Problems::default());
        for (name, arg, code) in [
            ("read", 9, libc::SECCOMP_RET_ALLOW),
            ("setresuid", 0, libc::SECCOMP_RET_ALLOW),
            ("exit_group", 0, libc::SECCOMP_RET_ALLOW),
            ("socket", 2, libc::SECCOMP_RET_ALLOW),
            ("socket", 40, libc::SECCOMP_RET_ERRNO | 1),
            ("prctl", 15, libc::SECCOMP_RET_ALLOW),
            ("prctl", 4, libc::SECCOMP_RET_ERRNO | 1),
            ("clone3", 0, libc::SECCOMP_RET_ERRNO | 38),
            ("keyctl", 0, libc::SECCOMP_RET_ERRNO | 1),
            ("open", 0, libc::SECCOMP_RET_ERRNO | 1),
        ] {
            let outcome = seccomp::simulate::run(&examined.program, &data(name, arg)).unwrap();
            assert_eq!(outcome.code, code, "{name}({arg})");
        }
    }

    #[test]
    fn recordings_are_merged_from_their_profiles() {
        let section: LinuxSeccomp = serde_json::from_value(recorded().profile(false)).unwrap();
        let mut merged = Recording::of_profile(&section).unwrap();
        assert_eq!(merged.profile(false)["syscalls"].as_array().unwrap().len(), 5);
        let mut second = Recording::default();
        second.add(&data("socket", 16), Answer::Continue, false);
        second.add(&data("clone3", 0), Answer::Continue, false);
        merged.merge(second);
        let profile = merged.profile(true).to_string();
        assert!(profile.contains("\"valueTwo\":16") && profile.contains("\"valueTwo\":2"), "{profile}");
        assert!(!profile.contains("\"errnoRet\":38") && profile.contains("clone3"), "{profile}");
        let foreign = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW"});
        assert!(Recording::of_profile(&serde_json::from_value(foreign).unwrap()).is_err());
    }
}
