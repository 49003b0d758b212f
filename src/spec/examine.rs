// SPDX-License-Identifier: Apache-2.0
//! Every fault of a config.json at once, each with its place in the text. What is at fault is taken out, or the closest
//! word put in its place, and the reading goes on: so that the fifth fault is found beside the first, and no fault is
//! reported again for what its cure has left behind.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde::Serialize;
use serde_json::{Value, json};

use super::position::Positions;
use super::{WORDS, collect_unknown, find_unknown_words, known_members, shape, suggest};
use crate::plan::config::Spec;
use crate::plan::problem::{Problem, Problems};
use crate::plan::{capabilities, mount_options};
use crate::seccomp::arch::Arch;
use crate::seccomp::docker::{self, Environment};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// No container can be made of the bundle.
    Error,
    /// It works, but is probably not meant.
    Warning,
}

/// One fault or warning with its place in config.json.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// The JSON path; empty for the file as a whole.
    pub path: String,
    pub line: usize,
    pub column: usize,
    pub message: String,
    pub hint: Option<String>,
}

/// A config.json under examination.
pub struct Examination<'a> {
    /// As it was given; null if it is no JSON.
    pub given: Value,
    /// What remains when all that is at fault has been taken out.
    pub spec: Option<Spec>,
    positions: Option<Positions<'a>>,
    findings: Vec<Finding>,
    /// Paths of what was taken out or made up: nothing more is said of them.
    silenced: BTreeSet<String>,
    /// Of each array that elements were taken out of, their indices in the text, ascending.
    taken: BTreeMap<String, Vec<usize>>,
    /// For a seccomp profile that was resolved from Docker's format: the index in the text of each entry.
    origins: Option<Vec<usize>>,
}

/// A config with more faults of type than this is something else.
const MOST_FAULTS: usize = 500;

impl<'a> Examination<'a> {
    /// Reads the text. `environment` is what a seccomp profile in Docker's format is resolved for, without the
    /// capabilities, which are the config's.
    pub fn new(bytes: &'a [u8], kernel: (u32, u32)) -> Result<Self> {
        let mut examination = Self {
            given: Value::Null,
            spec: None,
            positions: None,
            findings: Vec::new(),
            silenced: BTreeSet::new(),
            taken: BTreeMap::new(),
            origins: None,
        };
        match serde_json::from_slice::<Value>(bytes) {
            Ok(value) => {
                examination.positions = Positions::parse(bytes);
                examination.given = value.clone();
                examination.read(value, kernel)?;
            }
            Err(e) => examination.findings.push(Finding {
                severity: Severity::Error,
                path: String::new(),
                line: e.line(),
                column: e.column(),
                message: without_place(&e),
                hint: None,
            }),
        }
        Ok(examination)
    }

    /// Adds what a later look at `spec` has found, unless it follows from what is known already.
    pub fn add(&mut self, problems: Problems) {
        for (severity, list) in [(Severity::Error, problems.errors), (Severity::Warning, problems.warnings)] {
            for problem in list {
                let path = self.original(&problem.path);
                if !self.is_silenced(&path) {
                    self.push(severity, Problem { path, ..problem });
                }
            }
        }
    }

    /// All findings in the order of the text.
    pub fn finish(mut self) -> Vec<Finding> {
        self.findings
            .sort_by(|a, b| (a.line, a.column, a.severity, &a.path).cmp(&(b.line, b.column, b.severity, &b.path)));
        self.findings
    }

    /// Records a finding at a path of the text, once.
    fn push(&mut self, severity: Severity, problem: Problem) {
        let Problem { path, message, hint } = problem;
        if self.findings.iter().any(|f| f.path == path && f.message == message) {
            return;
        }
        let (line, column) = self.positions.as_ref().map_or((1, 1), |positions| positions.of(&path));
        let hint = hint.or_else(|| self.suggestion(&path, &message));
        self.findings.push(Finding { severity, path, line, column, message, hint });
    }

    fn read(&mut self, mut value: Value, kernel: (u32, u32)) -> Result<()> {
        self.unknown_members();
        self.resolve_profile(&mut value, kernel);
        let mut problems = Problems::default();
        super::remove_unknown_capabilities(&mut value, &mut problems);
        find_unknown_words(&value, &mut problems);
        let unknown: Vec<String> = problems.errors.iter().map(|problem| problem.path.clone()).collect();
        self.add(problems);
        for path in unknown {
            // What the user meant, most likely: so that nothing is reported that follows from the word alone.
            let meant = get(&value, &path).and_then(Value::as_str).and_then(|word| nearest_word(&path, word));
            match meant {
                Some(word) => drop(put(&mut value, &path, Some(json!(word)))),
                None => self.take_out(&mut value, &path),
            }
        }
        self.read_types(value)
    }

    /// Reads the types over and over, each time without the last fault.
    fn read_types(&mut self, mut value: Value) -> Result<()> {
        // What was made up for a missing member, and which of the guesses is tried.
        let guesses = [json!(0), json!("/"), json!([]), json!({})];
        let mut guessed: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..MOST_FAULTS {
            let text = serde_json::to_vec_pretty(&value)?;
            let (error, of_array) = match (shape::check(&text), serde_json::from_slice::<Spec>(&text)) {
                (Err(e), _) => (e, true),
                (Ok(_), Err(e)) => (e, false),
                (Ok(seen), Ok(mut spec)) => {
                    super::seen_in(&mut spec, &seen);
                    self.spec = Some(spec);
                    return Ok(());
                }
            };
            let at = Positions::parse(&text)
                .map(|positions| positions.path_at(error.line(), error.column(), of_array))
                .unwrap_or_default();
            let message = without_place(&error);
            let lacks = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
            if let Some(name) = lacks {
                let (path, here) = (join(&self.original(&at), name), join(&at, name));
                if !self.is_silenced(&path) {
                    let position = self.original(&at);
                    self.fault_at(&position, &path, "is missing");
                }
                self.silenced.insert(path.clone());
                guessed.insert(path, 0);
                put(&mut value, &here, guesses.first().cloned());
                continue;
            }
            let path = self.original(&at);
            if let Some(tried) = guessed.get_mut(&path) {
                *tried += 1;
                match guesses.get(*tried) {
                    Some(guess) => drop(put(&mut value, &at, Some(guess.clone()))),
                    // Nothing fits: what lacks it goes as a whole.
                    None => {
                        guessed.remove(&path);
                        self.take_out(&mut value, parent(&at));
                    }
                }
                continue;
            }
            if let Some(name) = message.strip_prefix("duplicate field `").and_then(|rest| rest.strip_suffix('`')) {
                // Not in text that was made of a map; kept for a change of serde_json.
                self.fault_at(&path, &path, &format!("has {name:?} twice"));
            } else if !self.is_silenced(&path) {
                self.fault_at(&path, &path, &message);
            }
            if at.is_empty() {
                return Ok(());
            }
            self.take_out(&mut value, &at);
        }
        Ok(())
    }

    /// A fault of `path`, shown where `position` is.
    fn fault_at(&mut self, position: &str, path: &str, message: &str) {
        let (line, column) = self.positions.as_ref().map_or((1, 1), |positions| positions.of(position));
        let (path, message) = (path.to_string(), message.to_string());
        self.findings.push(Finding { severity: Severity::Error, path, line, column, message, hint: None });
    }

    /// Members that the specification does not define are allowed (config.md#extensibility), but most are misspelt; and
    /// of two members with one name serde_json takes the last.
    fn unknown_members(&mut self) {
        let known = known_members();
        let mut unknown = Vec::new();
        collect_unknown(&self.given, "", "", &known, &mut unknown);
        let docker = self.given.pointer("/linux/seccomp").is_some_and(docker::is_docker);
        for path in unknown.into_iter().filter(|path| !(docker && path.starts_with("linux.seccomp."))) {
            let (above, name) = path.rsplit_once('.').unwrap_or(("", &path));
            let pattern = without_indices(above);
            let siblings = known.iter().filter_map(|field| match field.rsplit_once('.') {
                Some((parent, name)) => (parent == pattern).then_some(name),
                None => pattern.is_empty().then_some(*field),
            });
            let elsewhere = || {
                let place = known.iter().find(|field| field.rsplit_once('.').is_some_and(|(_, last)| last == name))?;
                Some(format!("the specification has a member of that name: {place}"))
            };
            let hint =
                suggest::nearest(name, siblings).map(|meant| format!("did you mean {meant:?}?")).or_else(elsewhere);
            let (line, column) = self.positions.as_ref().map_or((1, 1), |positions| positions.of_name(&path));
            let message = "unknown member is ignored".to_string();
            self.findings.push(Finding { severity: Severity::Warning, path, line, column, message, hint });
        }
        let mut twice = Vec::new();
        if let Some(positions) = &self.positions {
            positions.duplicates(&mut |path, line, column| twice.push((path, line, column)));
        }
        for (path, line, column) in twice {
            let message = "is there twice; the last one would be taken".to_string();
            self.findings.push(Finding { severity: Severity::Error, path, line, column, message, hint: None });
        }
    }

    /// Docker's format becomes `linux.seccomp` as it does at `create`.
    fn resolve_profile(&mut self, value: &mut Value, kernel: (u32, u32)) {
        let Some(profile) = value.pointer("/linux/seccomp").filter(|profile| docker::is_docker(profile)) else {
            return;
        };
        let bounding = value.pointer("/process/capabilities/bounding").and_then(Value::as_array);
        let capabilities = bounding.into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect();
        let mut problems = Problems::default();
        let resolved =
            docker::resolve(profile, &Environment { capabilities, arch: Arch::NATIVE, kernel }, &mut problems);
        let broken = !problems.errors.is_empty();
        self.add(problems);
        if broken {
            self.take_out(value, "linux.seccomp");
        } else {
            put(value, "linux.seccomp", Some(resolved.section));
            self.origins = Some(resolved.origins);
        }
    }

    /// Removes the value at a path of what is left of the config.
    fn take_out(&mut self, value: &mut Value, path: &str) {
        let original = self.original(path);
        put(value, path, None);
        if let Some((array, index)) = original.strip_suffix(']').and_then(|path| path.rsplit_once('['))
            && let Ok(index) = index.parse()
        {
            let indices = self.taken.entry(array.to_string()).or_default();
            indices.push(index);
            indices.sort_unstable();
        }
        self.silenced.insert(original);
    }

    /// The path in the text for one in what is left of it.
    fn original(&self, path: &str) -> String {
        let mut parts = path.split('[');
        let mut original = parts.next().unwrap_or_default().to_string();
        for part in parts {
            let numbered = part.split_once(']').and_then(|(index, rest)| Some((index.parse::<usize>().ok()?, rest)));
            let Some((mut index, rest)) = numbered else {
                original.push('[');
                original.push_str(part);
                continue;
            };
            for taken in self.taken.get(&original).into_iter().flatten() {
                index += usize::from(*taken <= index);
            }
            if original == "linux.seccomp.syscalls" {
                index = self.origins.as_ref().and_then(|origins| origins.get(index)).copied().unwrap_or(index);
            }
            original.push_str(&format!("[{index}]{rest}"));
        }
        original
    }

    /// Whether the path, or what it is in, was taken out; or it is the list that an element was taken out of.
    fn is_silenced(&self, path: &str) -> bool {
        self.taken.contains_key(path)
            || self.silenced.iter().any(|silent| {
                path.strip_prefix(silent.as_str())
                    .is_some_and(|rest| silent.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
            })
    }

    /// The word that was meant at `path`, for a message that says that the one there is none.
    fn suggestion(&self, path: &str, message: &str) -> Option<String> {
        if !message.contains("unknown") && !message.contains("is not an option") {
            return None;
        }
        let word = get(&self.given, path)?.as_str()?;
        nearest_word(path, word).filter(|meant| *meant != word).map(|meant| format!("did you mean {meant:?}?"))
    }
}

/// The word closest to `word` of those that may stand at `path`.
fn nearest_word(path: &str, word: &str) -> Option<String> {
    let pattern = without_indices(path);
    if let Some((_, words)) = WORDS.iter().find(|(segments, _)| pattern_of(segments) == pattern) {
        return suggest::nearest(word, words.iter().copied()).map(str::to_string);
    }
    if pattern.starts_with("process.capabilities.") {
        let names: Vec<String> = (0..64).map(capabilities::name).filter(|name| capabilities::is_known(name)).collect();
        return suggest::nearest(word, names.iter().map(String::as_str)).map(str::to_string);
    }
    if pattern == "mounts[].options[]" {
        return suggest::nearest(word, mount_options::words()).map(str::to_string);
    }
    None
}

fn pattern_of(segments: &[&str]) -> String {
    segments.iter().fold(String::new(), |pattern, segment| match *segment {
        "*" => pattern + "[]",
        name => join(&pattern, name),
    })
}

/// `mounts[3].options[0]` as specs/fields.tsv has it: `mounts[].options[]`.
fn without_indices(path: &str) -> String {
    let mut parts = path.split('[');
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |pattern, part| pattern + "[]" + part.split_once(']').map_or(part, |(_, rest)| rest))
}

fn join(base: &str, name: &str) -> String {
    if base.is_empty() { name.to_string() } else { format!("{base}.{name}") }
}

/// The path of what holds the value at `path`.
fn parent(path: &str) -> &str {
    path.rfind(['.', '[']).and_then(|at| path.get(..at)).unwrap_or("")
}

/// serde_json's words without its ` at line 1 column 2`.
fn without_place(error: &serde_json::Error) -> String {
    let message = error.to_string();
    message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message).to_string()
}

/// The first member of the path by the longest name that fits, as [`Positions`] takes it, and the rest of the path.
fn split(names: impl Iterator<Item = String>, path: &str) -> Option<(String, &str)> {
    let word = path.strip_prefix('.').unwrap_or(path);
    let fits = |name: String| {
        let rest = word.strip_prefix(name.as_str()).filter(|_| !name.is_empty())?;
        (rest.is_empty() || rest.starts_with(['.', '['])).then_some((name, rest))
    };
    names.filter_map(fits).max_by_key(|(name, _)| name.len())
}

fn split_index(path: &str) -> Option<(usize, &str)> {
    let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
    Some((index.parse().ok()?, rest))
}

/// The value at a path.
pub fn get<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    if path.is_empty() {
        return Some(value);
    }
    match value {
        Value::Object(members) => {
            let (name, rest) = split(members.keys().cloned(), path)?;
            get(members.get(&name)?, rest)
        }
        Value::Array(elements) => {
            let (index, rest) = split_index(path)?;
            get(elements.get(index)?, rest)
        }
        _ => None,
    }
}

/// Sets the value at a path, or removes it; a member that is not there is made.
fn put(value: &mut Value, path: &str, new: Option<Value>) -> Option<()> {
    match value {
        Value::Object(members) => match (split(members.keys().cloned(), path), new) {
            (Some((name, "")), Some(new)) => drop(members.insert(name, new)),
            (Some((name, "")), None) => drop(members.remove(&name)),
            (Some((name, rest)), new) => return put(members.get_mut(&name)?, rest, new),
            (None, Some(new)) => drop(members.insert(path.strip_prefix('.').unwrap_or(path).to_string(), new)),
            (None, None) => {}
        },
        Value::Array(elements) => match (split_index(path)?, new) {
            ((index, ""), Some(new)) => *elements.get_mut(index)? = new,
            ((index, ""), None) if index < elements.len() => drop(elements.remove(index)),
            ((index, rest), new) => return put(elements.get_mut(index)?, rest, new),
        },
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests;
