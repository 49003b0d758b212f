// SPDX-License-Identifier: Apache-2.0
//! Reading a bundle's config.json: faults of syntax and type with line, column and a caret; unknown words with their JSON
//! path and what was expected.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use oci_spec::runtime::LinuxSeccomp;
use serde_json::Value;

use crate::error::ResultExt;
use crate::plan::capabilities;
use crate::plan::config::{Process, Spec};
use crate::plan::problem::Problems;
use crate::seccomp::arch::Arch;
use crate::seccomp::docker::{self, Environment};
use crate::spec::position::Positions;

pub mod examine;
mod position;
mod shape;
pub mod suggest;

/// The version of the runtime specification that orlop implements.
pub const OCI_VERSION: &str = "1.3.0";
/// A config larger than this is refused.
pub const SIZE_LIMIT: u64 = 16 << 20;

/// A config as it was read.
#[derive(Debug)]
pub struct Config {
    pub spec: Spec,
    /// The file's bytes, kept with the container.
    pub bytes: Vec<u8>,
    /// The bytes before a seccomp profile in Docker's format was resolved for the bounding set, if there was one.
    pub unresolved: Option<Vec<u8>>,
    /// Oddities that the specification tells a runtime to accept, such as unknown capability names.
    pub warnings: Problems,
}

/// Reads `BUNDLE/config.json`.
pub fn load(bundle: &Path) -> Result<Config> {
    let path = bundle.join("config.json");
    let bytes = read(&path)
        .map_err(|e| anyhow!("{}: {}", path.display(), crate::sys::describe_io(&e)))
        .hint("a bundle is a directory with config.json; orlop spec writes one to begin with")?;
    if bytes.len() as u64 > SIZE_LIMIT {
        bail!("{}: larger than {SIZE_LIMIT} bytes", path.display());
    }
    parse(bytes)
}

/// A file's content; if it is larger than [`SIZE_LIMIT`], no more of it than shows that.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = std::fs::File::open(path)?;
    let mut bytes = Vec::with_capacity(usize::try_from(file.metadata()?.len()).unwrap_or(0).min(1 << 20));
    file.take(SIZE_LIMIT + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A `process` object of its own, for `exec --process`.
pub fn parse_process(bytes: &[u8]) -> Result<Process> {
    let mut value: Value = serde_json::from_slice(bytes).map_err(|e| cite("", bytes, &e))?;
    // The words are those of config.json: look at them there.
    let mut config = serde_json::json!({ "process": value.take() });
    let mut problems = Problems::default();
    remove_unknown_capabilities(&mut config, &mut problems);
    find_unknown_words(&config, &mut problems);
    if !problems.errors.is_empty() {
        return Err(problems.into());
    }
    for warning in &problems.warnings {
        crate::log::warn(&warning.to_string());
    }
    let process = config.get_mut("process").map(Value::take).unwrap_or_default();
    shape::check_process(bytes).map_err(|e| cite("", bytes, &e))?;
    serde_json::from_slice(&serde_json::to_vec(&process)?).map_err(|_| {
        // The position in the user's own text is the one to cite.
        match serde_json::from_slice::<Process>(bytes) {
            Err(e) => cite("", bytes, &e),
            Ok(_) => anyhow!("is no process object"),
        }
    })
}

/// A `linux.resources` object of its own, for `update`. The null members are taken out.
pub fn parse_resources(bytes: &[u8]) -> Result<Value> {
    let mut value: Value = serde_json::from_slice(bytes).map_err(|e| cite("", bytes, &e))?;
    if !value.is_object() {
        bail!("is no object like linux.resources");
    }
    remove_nulls(&mut value);
    // The words are those of config.json: look at them there.
    let config = serde_json::json!({"linux": {"resources": value}});
    let mut problems = Problems::default();
    find_unknown_words(&config, &mut problems);
    if !problems.errors.is_empty() {
        return Err(problems.into());
    }
    let whole = serde_json::to_vec(&config)?;
    if let Err(e) = serde_json::from_slice::<oci_spec::runtime::LinuxResources>(bytes) {
        return Err(cite("", bytes, &e));
    }
    // Its place would be one in a text that nobody has written.
    shape::check(&whole).map_err(|e| anyhow!("{}", e.to_string().split(" at line ").next().unwrap_or_default()))?;
    Ok(value)
}

fn remove_nulls(value: &mut Value) {
    if let Some(members) = value.as_object_mut() {
        members.retain(|_, member| !member.is_null());
        members.values_mut().for_each(remove_nulls);
    }
}

/// Reads a config.json.
pub fn parse(bytes: Vec<u8>) -> Result<Config> {
    match serde_json::from_slice::<Spec>(&bytes) {
        Ok(mut spec) => {
            // serde passes over the bytes of what it ignores. Later readers do not, those of the copy that is kept.
            if std::str::from_utf8(&bytes).is_err()
                && let Err(e) = serde_json::from_slice::<Value>(&bytes)
            {
                return Err(cite("config.json:", &bytes, &e));
            }
            let seen = shape::check(&bytes).map_err(|e| cite("config.json:", &bytes, &e))?;
            seen_in(&mut spec, &seen);
            if seen.docker()
                && let Some(resolved) = with_resolved_profile(&bytes)?
            {
                return Ok(Config { unresolved: Some(bytes), ..parse(resolved)? });
            }
            if crate::log::debugging() {
                report_unknown_members(&bytes);
            }
            Ok(Config { spec, bytes, unresolved: None, warnings: Problems::default() })
        }
        Err(error) => explain(bytes, &error),
    }
}

/// Mends what the types of oci-spec lose: `pids` without a limit would be one of no processes.
fn seen_in(spec: &mut Spec, seen: &shape::Seen) {
    if seen.pids_without_limit()
        && let Some(resources) = spec.linux.as_mut().and_then(|linux| linux.resources_mut().as_mut())
    {
        resources.set_pids(None);
    }
}

/// The config with its seccomp profile resolved for its bounding set and this host, if that is in Docker's format: as
/// `linux.seccomp` every entry that Docker ties to a capability would hold without it.
fn with_resolved_profile(bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    // What is no JSON at all is cited by the caller.
    let Ok(mut config) = serde_json::from_slice::<Value>(bytes) else { return Ok(None) };
    let Some(profile) = config.pointer("/linux/seccomp").filter(|profile| docker::is_docker(profile)) else {
        return Ok(None);
    };
    let bounding = config.pointer("/process/capabilities/bounding").and_then(Value::as_array);
    let capabilities = bounding.into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect();
    let environment = Environment { capabilities, arch: Arch::NATIVE, kernel: kernel_version()? };
    let mut problems = Problems::default();
    let section = docker::resolve(profile, &environment, &mut problems).section;
    if !problems.errors.is_empty() {
        return Err(problems.into());
    }
    if let Some(profile) = config.pointer_mut("/linux/seccomp") {
        *profile = section;
    }
    Ok(Some(serde_json::to_vec_pretty(&config)?))
}

/// The first two numbers of the running kernel's version.
pub fn kernel_version() -> Result<(u32, u32)> {
    let name = nix::sys::utsname::uname().context("uname")?;
    let release = name.release().to_string_lossy();
    docker::version(&release).with_context(|| format!("the kernel's release {release:?} is no version"))
}

/// A seccomp profile by itself, as it was read.
#[derive(Debug)]
pub struct ProfileFile {
    pub section: LinuxSeccomp,
    /// Some if the file was in Docker's format.
    pub resolved: Option<docker::Resolved>,
}

/// Reads the file of a seccomp profile: `linux.seccomp`, or Docker's format, which is resolved for an environment. None,
/// with the faults in `problems`, if it is JSON but no profile.
pub fn load_profile(path: &Path, environment: &Environment, problems: &mut Problems) -> Result<Option<ProfileFile>> {
    let name = path.display().to_string();
    let mut bytes = read(path).map_err(|e| anyhow!("{name}: {}", crate::sys::describe_io(&e)))?;
    if bytes.len() as u64 > SIZE_LIMIT {
        bail!("{name}: larger than {SIZE_LIMIT} bytes");
    }
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| cite(&format!("{name}:"), &bytes, &e))?;
    if value.get("linux").is_some() && value.get("defaultAction").is_none() {
        let refused: Result<_> = Err(anyhow!("{name}: is a config.json, not a seccomp profile"));
        return refused.hint("--bundle DIR reads the profile of a bundle");
    }
    let before = problems.errors.len();
    let resolved = docker::is_docker(&value).then(|| docker::resolve(&value, environment, problems));
    if let Some(resolved) = &resolved {
        bytes = serde_json::to_vec(&resolved.section)?;
    }
    let section = serde_json::from_slice::<LinuxSeccomp>(&bytes);
    let fault = match (section, shape::check_seccomp(&bytes)) {
        (Ok(section), Ok(())) if problems.errors.len() == before => return Ok(Some(ProfileFile { section, resolved })),
        (section, shape) => section.err().or(shape.err()),
    };
    let section = serde_json::from_slice::<Value>(&bytes)?;
    find_unknown_words(&serde_json::json!({"linux": {"seccomp": section}}), problems);
    match fault {
        // A line of what was resolved would be none of the file's.
        Some(e) if problems.errors.len() == before && resolved.is_some() => Err(anyhow!("{name}: {e} (as resolved)")),
        Some(e) if problems.errors.len() == before => Err(cite(&format!("{name}:"), &bytes, &e)),
        _ => Ok(None),
    }
}

/// The slow path: the config does not fit the types. Unknown words of enumerations are found with their paths; unknown
/// capabilities are taken out with a warning (config.md: a runtime SHOULD NOT fail for them); anything else is shown
/// where serde met it.
fn explain(bytes: Vec<u8>, error: &serde_json::Error) -> Result<Config> {
    let Ok(mut value) = serde_json::from_slice::<Value>(&bytes) else {
        return Err(cite("config.json:", &bytes, error));
    };
    if let Some(resolved) = with_resolved_profile(&bytes)? {
        return Ok(Config { unresolved: Some(bytes), ..parse(resolved)? });
    }
    let mut problems = Problems::default();
    remove_unknown_capabilities(&mut value, &mut problems);
    find_unknown_words(&value, &mut problems);
    if !problems.errors.is_empty() {
        return Err(problems.into());
    }
    // By way of text: the code that reads a Spec from a Value would be there a second time.
    match serde_json::from_slice::<Spec>(&serde_json::to_vec(&value)?) {
        Ok(mut spec) if !problems.warnings.is_empty() => {
            seen_in(&mut spec, &shape::check(&bytes).map_err(|e| cite("config.json:", &bytes, &e))?);
            Ok(Config { spec, bytes, unresolved: None, warnings: problems })
        }
        _ => Err(cite("config.json:", &bytes, error)),
    }
}

/// `config.json:12:7: invalid type: string "x", expected u32`, the line and a caret.
fn cite(file: &str, bytes: &[u8], error: &serde_json::Error) -> anyhow::Error {
    let (line, column) = (error.line(), error.column());
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
    // The bracket that is pointed at does not say whose it is. Only a Value is sure to be of a depth that can be walked.
    let lacks = message.starts_with("missing field") && serde_json::from_slice::<Value>(bytes).is_ok();
    let all = if lacks { Positions::parse(bytes) } else { None };
    let at = all.map(|all| all.path_at(line, column, true)).unwrap_or_default();
    let separator = if at.is_empty() { "" } else { ": " };
    let mut text = format!("{file}{line}:{column}: {at}{separator}{message}");
    let source = bytes.split(|b| *b == b'\n').nth(line.saturating_sub(1)).unwrap_or_default();
    let source = String::from_utf8_lossy(source);
    // A config on one line is cited around the fault only.
    let from = column.saturating_sub(60);
    let shown: String = source.trim_end().chars().skip(from).take(100).collect();
    if !shown.trim().is_empty() {
        let caret = " ".repeat(column.saturating_sub(from).saturating_sub(1));
        // Writing to a String cannot fail.
        let _infallible = write!(text, "\n  {shown}\n  {caret}^");
    }
    anyhow!(text)
}

fn remove_unknown_capabilities(value: &mut Value, problems: &mut Problems) {
    let Some(sets) = value.pointer_mut("/process/capabilities").and_then(Value::as_object_mut) else { return };
    for (set, names) in sets {
        let Some(names) = names.as_array_mut() else { continue };
        let mut i = 0;
        names.retain(|name| {
            let at = format!("process.capabilities.{set}[{i}]");
            i += 1;
            match name.as_str() {
                Some(name) if !capabilities::is_known(name) => {
                    let hint =
                        if capabilities::is_known(&name.to_uppercase()) { ", write it in upper case" } else { "" };
                    problems.warn(at, format!("unknown capability {name:?} is ignored{hint}"));
                    false
                }
                _ => true,
            }
        });
    }
}

/// The words that config.json may use where the specification enumerates them.
const WORDS: [(&[&str], &[&str]); 12] = [
    (&["linux", "namespaces", "*", "type"], &["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"]),
    (
        &["process", "rlimits", "*", "type"],
        &[
            "RLIMIT_AS",
            "RLIMIT_CORE",
            "RLIMIT_CPU",
            "RLIMIT_DATA",
            "RLIMIT_FSIZE",
            "RLIMIT_LOCKS",
            "RLIMIT_MEMLOCK",
            "RLIMIT_MSGQUEUE",
            "RLIMIT_NICE",
            "RLIMIT_NOFILE",
            "RLIMIT_NPROC",
            "RLIMIT_RSS",
            "RLIMIT_RTPRIO",
            "RLIMIT_RTTIME",
            "RLIMIT_SIGPENDING",
            "RLIMIT_STACK",
        ],
    ),
    (&["process", "ioPriority", "class"], &["IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"]),
    (&["linux", "personality", "domain"], &["LINUX", "LINUX32"]),
    (
        &["linux", "memoryPolicy", "mode"],
        &[
            "MPOL_DEFAULT",
            "MPOL_BIND",
            "MPOL_INTERLEAVE",
            "MPOL_WEIGHTED_INTERLEAVE",
            "MPOL_PREFERRED",
            "MPOL_PREFERRED_MANY",
            "MPOL_LOCAL",
        ],
    ),
    (
        &["linux", "memoryPolicy", "flags", "*"],
        &["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"],
    ),
    (&["linux", "devices", "*", "type"], &["a", "b", "c", "u", "p"]),
    (&["linux", "seccomp", "defaultAction"], ACTIONS),
    (&["linux", "seccomp", "syscalls", "*", "action"], ACTIONS),
    (
        &["linux", "seccomp", "syscalls", "*", "args", "*", "op"],
        &[
            "SCMP_CMP_NE",
            "SCMP_CMP_LT",
            "SCMP_CMP_LE",
            "SCMP_CMP_EQ",
            "SCMP_CMP_GE",
            "SCMP_CMP_GT",
            "SCMP_CMP_MASKED_EQ",
        ],
    ),
    (&["linux", "seccomp", "architectures", "*"], ARCHITECTURES),
    (
        &["linux", "seccomp", "flags", "*"],
        &[
            "SECCOMP_FILTER_FLAG_TSYNC",
            "SECCOMP_FILTER_FLAG_LOG",
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        ],
    ),
];

const ACTIONS: &[&str] = &[
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
];

const ARCHITECTURES: &[&str] = &[
    "SCMP_ARCH_NATIVE",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
];

fn find_unknown_words(value: &Value, problems: &mut Problems) {
    for (pattern, words) in WORDS {
        walk(value, pattern, &mut String::new(), &mut |at, found| {
            if let Some(found) = found.as_str()
                && !words.contains(&found)
            {
                let expected = if words.len() > 10 { nearest(found, words) } else { words.join(", ") };
                problems.error(at, format!("unknown value {found:?}, expected {expected}"));
            }
        });
    }
}

/// Of a long list, the words that begin like the one found.
fn nearest(found: &str, words: &[&str]) -> String {
    let common = |word: &&&str| word.bytes().zip(found.bytes()).take_while(|(a, b)| a == b).count();
    let mut sorted: Vec<&&str> = words.iter().collect();
    sorted.sort_by_key(|word| std::cmp::Reverse(common(word)));
    let few: Vec<&str> = sorted.into_iter().take(4).copied().collect();
    format!("{} or another of its kind", few.join(", "))
}

/// Calls `visit` with the JSON path of every value that `pattern` names; `*` stands for each element of an array.
fn walk(value: &Value, pattern: &[&str], at: &mut String, visit: &mut dyn FnMut(&str, &Value)) {
    let Some((first, rest)) = pattern.split_first() else { return visit(at, value) };
    let length = at.len();
    if *first == "*" {
        for (i, element) in value.as_array().into_iter().flatten().enumerate() {
            at.push_str(&format!("[{i}]"));
            walk(element, rest, at, visit);
            at.truncate(length);
        }
    } else if let Some(member) = value.get(first) {
        at.push_str(if at.is_empty() { "" } else { "." });
        at.push_str(first);
        walk(member, rest, at, visit);
        at.truncate(length);
    }
}

/// Every member of the specification, one a row: `JSON path, since, handling, ..`.
const FIELDS: &str = include_str!("../specs/fields.tsv");

/// Members that the specification does not define are allowed (config.md#extensibility); --debug names them, since most
/// are misspelt.
fn report_unknown_members(bytes: &[u8]) {
    let Ok(given) = serde_json::from_slice::<Value>(bytes) else { return };
    let mut unknown = Vec::new();
    collect_unknown(&given, "", "", &known_members(), &mut unknown);
    for path in unknown {
        crate::log::debug(&format!("config.json: {path}: unknown member is ignored"));
    }
}

fn known_members() -> BTreeSet<&'static str> {
    FIELDS.lines().skip(1).filter_map(|line| line.split('\t').next()).collect()
}

/// `at` is the path as the user reads it, `pattern` the one of the table: `[]` for each element of an array, `*` for each
/// member of a map.
fn collect_unknown(value: &Value, at: &str, pattern: &str, known: &BTreeSet<&str>, unknown: &mut Vec<String>) {
    let join = |base: &str, name: &str| if base.is_empty() { name.to_string() } else { format!("{base}.{name}") };
    let has_members = |pattern: &str| {
        known.range(pattern..).nth(1).is_some_and(|next| {
            next.strip_prefix(pattern).is_some_and(|rest| rest.starts_with('.') || rest.starts_with('['))
        })
    };
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let path = join(at, name);
                let exact = join(pattern, name);
                let any = join(pattern, "*");
                let found = [exact, any].into_iter().find(|pattern| known.contains(pattern.as_str()));
                match found {
                    Some(pattern) if has_members(&pattern) => collect_unknown(member, &path, &pattern, known, unknown),
                    Some(_) => {}
                    None => unknown.push(path),
                }
            }
        }
        Value::Array(elements) => {
            for (i, element) in elements.iter().enumerate() {
                collect_unknown(element, &format!("{at}[{i}]"), &format!("{pattern}[]"), known, unknown);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(text: &str) -> String {
        format!("{:#}", parse(text.as_bytes().to_vec()).unwrap_err())
    }

    #[test]
    fn a_config_is_utf_8_also_where_it_is_ignored() {
        let error = parse(b"{\"ociVersion\": \"1.2.0\",\n \"x\": \"\xff\"}".to_vec()).unwrap_err().to_string();
        assert!(error.starts_with("config.json:2:"), "{error}");
        assert!(parse("{\"ociVersion\": \"1.2.0\", \"x\": \"\u{e9}\"}".into()).is_ok());
    }

    #[test]
    fn a_fault_of_type_is_cited_with_a_caret() {
        let text = "{\n  \"ociVersion\": \"1.0.0\",\n  \"root\": {\"path\": 7}\n}";
        assert_eq!(
            fails(text),
            "config.json:3:20: invalid type: integer `7`, expected path string\n    \"root\": {\"path\": 7}\n                     ^"
        );
        assert!(fails("{\"a\": ").starts_with("config.json:1:6: EOF while parsing"));
        assert!(fails("").starts_with("config.json:1:0: EOF"));
    }

    #[test]
    fn pids_without_a_limit_are_not_limited() {
        let pids = |text: &str| {
            let config = parse(format!(r#"{{"linux": {{"resources": {{"pids": {text}}}}}}}"#).into_bytes()).unwrap();
            config.spec.linux.unwrap().resources().as_ref().unwrap().pids().map(|pids| pids.limit())
        };
        assert_eq!([pids("{}"), pids("null"), pids(r#"{"limit": 0}"#)], [None, None, Some(0)]);
        assert_eq!(pids(r#"{"limit": 5}"#), Some(5));
    }

    #[test]
    fn resources_by_themselves_are_checked() {
        let value = parse_resources(br#"{"memory": {"limit": 5, "swap": null}, "cpu": null}"#).unwrap();
        assert_eq!(value, serde_json::json!({"memory": {"limit": 5}}));
        for (text, word) in [
            ("[]", "no object"),
            ("{", "EOF"),
            (r#"{"memory": {"limit": "5"}}"#, "1:24: invalid type"),
            (r#"{"memory": []}"#, "1:13: invalid length 0"),
            (r#"{"memory": [1, 2, 3, 4, 5, 6, true, true, true]}"#, "invalid type: sequence, expected an object"),
        ] {
            let error = parse_resources(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn an_array_in_the_place_of_an_object_is_a_fault() {
        let text = fails("{\"ociVersion\": \"1.0.0\",\n \"linux\": {\"resources\": []}}");
        assert!(text.starts_with("config.json:2:26: invalid type: sequence, expected an object"), "{text}");
        let text = fails(r#"{"ociVersion": "1.0.0", "mounts": [["/x"]]}"#);
        assert!(text.contains("invalid type: sequence"), "{text}");
        let text = fails(
            r#"{"ociVersion": "1.0.0", "linux": {"resources": []}, "process": {"cwd": "/", "user": {"uid": 0, "gid": 0},
                "capabilities": {"bounding": ["CAP_TELEPORT"]}}}"#,
        );
        assert!(text.contains("invalid type: sequence"), "on the path of unknown words too: {text}");
        assert!(parse(br#"{"ociVersion": "1.0.0", "linux": {"resources": null, "devices": null}}"#.to_vec()).is_ok());
    }

    #[test]
    fn monitoring_by_its_older_names_is_not_passed_over() {
        for name in ["enableCMT", "enableMBM"] {
            let config = |value: bool| {
                let rdt = format!(r#"{{"ociVersion": "1.2.0", "linux": {{"intelRdt": {{"{name}": {value}}}}}}}"#);
                parse(rdt.into_bytes())
            };
            let error = crate::error::one_line(&config(true).unwrap_err());
            assert!(error.contains(&format!("{name} is not carried out, use enableMonitoring")), "{error}");
            assert!(config(false).is_ok());
        }
    }

    #[test]
    fn a_profile_in_docker_s_format_is_resolved_for_the_bounding_set() {
        let config = |capability: &str| {
            let text = format!(
                r#"{{"ociVersion": "1.0.0", "process": {{"cwd": "/", "user": {{"uid": 0, "gid": 0}},
                    "capabilities": {{"bounding": ["{capability}"]}}}},
                    "linux": {{"seccomp": {{"defaultAction": "SCMP_ACT_ERRNO", "archMap": [], "syscalls": [
                        {{"names": ["read"], "action": "SCMP_ACT_ALLOW"}},
                        {{"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {{"caps": ["CAP_SYS_ADMIN"]}}}}]}}}}}}"#
            );
            let spec = parse(text.into_bytes()).unwrap().spec;
            let section = spec.linux.unwrap().seccomp().clone().unwrap();
            let names = section.syscalls().iter().flatten().flat_map(|s| s.names().clone());
            names.collect::<Vec<_>>()
        };
        assert_eq!(config("CAP_KILL"), ["read"]);
        assert_eq!(config("CAP_SYS_ADMIN"), ["read", "mount"]);
    }

    #[test]
    fn unknown_words_are_found_all_at_once_by_path() {
        let text = fails(
            r#"{"ociVersion": "1.0.0", "linux": {
                "namespaces": [{"type": "pid"}, {"type": "net"}],
                "seccomp": {"defaultAction": "SCMP_ACT_DENY", "architectures": ["SCMP_ARCH_X86_65"],
                            "syscalls": [{"names": ["x"], "action": "ALLOW", "args": [{"index": 0, "value": 1, "op": "EQ"}]}]}}}"#,
        );
        for line in [
            "config.json: linux.namespaces[1].type: unknown value \"net\", expected pid, network,",
            "config.json: linux.seccomp.defaultAction: unknown value \"SCMP_ACT_DENY\", expected SCMP_ACT_KILL",
            "config.json: linux.seccomp.architectures[0]: unknown value \"SCMP_ARCH_X86_65\", expected SCMP_ARCH_X86_64",
            "config.json: linux.seccomp.syscalls[0].action: unknown value \"ALLOW\"",
            "config.json: linux.seccomp.syscalls[0].args[0].op: unknown value \"EQ\"",
        ] {
            assert!(text.lines().any(|l| l.starts_with(line)), "{line} in\n{text}");
        }
    }

    #[test]
    fn unknown_capabilities_are_warned_of_and_left_out() {
        let config = parse(
            br#"{"ociVersion": "1.0.0", "process": {"cwd": "/", "user": {"uid": 0, "gid": 0},
                "capabilities": {"bounding": ["CAP_KILL", "CAP_TELEPORT", "cap_chown"]}}}"#
                .to_vec(),
        )
        .unwrap();
        let lines: Vec<_> = config.warnings.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "config.json: process.capabilities.bounding[1]: unknown capability \"CAP_TELEPORT\" is ignored",
                "config.json: process.capabilities.bounding[2]: unknown capability \"cap_chown\" is ignored, write it in upper case",
            ]
        );
        let process = config.spec.process.as_ref().unwrap();
        assert_eq!(process.capabilities.as_ref().unwrap().bounding().as_ref().unwrap().len(), 1);
    }

    #[test]
    fn unknown_members_are_allowed_and_can_be_named() {
        let text = r#"{"ociVersion": "1.0.0", "future": 1, "annotations": {"x": "y"},
            "linux": {"devices": [{"type": "c", "path": "/dev/x", "x": 1}], "sysctl": {"net.x": "1"}}}"#;
        assert!(serde_json::from_str::<Spec>(text).is_ok());
        let mut unknown = Vec::new();
        collect_unknown(&serde_json::from_str(text).unwrap(), "", "", &known_members(), &mut unknown);
        unknown.sort();
        assert_eq!(unknown, ["future", "linux.devices[0].x"]);
    }
}
