// SPDX-License-Identifier: Apache-2.0
//! `orlop policy`, and what the other commands do under a policy.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

use crate::cli::{Policy, PolicyCheck, PolicyImportMesos, PolicyShow, PolicyTest, TextFormat};
use crate::command::{bundle, print, print_json};
use crate::plan::capabilities::Set;
use crate::plan::config::{Process, Spec};
use crate::plan::problem::Problems;
use crate::policy::decide::{self, Decision, Edit, Facts, Outcome, ProcessRules, apply};
use crate::policy::model::Tables;
use crate::policy::record::{Held, Kept, POLICY, Record, with_config};
use crate::policy::{file, mesos, model};
use crate::spec::{self, Config};
use crate::state::{CONFIG, StateDir};
use crate::sys::call;

/// The status of `policy test` for a bundle that would run changed.
const CHANGED: u8 = 3;

/// Shows, tries and checks the operator's policy.
pub fn policy(command: &Policy, flag: Option<&Path>) -> Result<u8> {
    match command {
        Policy::Show(args) => show(args, flag).context("policy show"),
        Policy::Test(args) => test(args, flag).context("policy test"),
        Policy::Check(args) => check(args, flag).context("policy check"),
        Policy::ImportMesos(args) => import_mesos(args).context("policy import-mesos"),
    }
}

/// A config under the policies that hold.
#[derive(Debug)]
pub struct Governed {
    pub config: Config,
    /// None without a policy.
    pub record: Option<Record>,
    /// The record's stack, read.
    pub stack: Vec<LinuxSeccomp>,
}

/// Puts a config under the policies that hold. `leased`: `--userns=auto` was given. `event`: for the audit files, what is
/// done and for which container.
pub fn govern(
    flag: Option<&Path>,
    config: Config,
    bundle: &Path,
    leased: bool,
    event: Option<(&str, &str)>,
) -> Result<Governed> {
    let policies = file::load(flag)?;
    if policies.is_empty() {
        return Ok(Governed { config, record: None, stack: Vec::new() });
    }
    let (record, outcome) = under(&policies, config, bundle, leased)?;
    if let Some((event, id)) = event {
        audit(&record.audit, event, id, &record.decisions)?;
    }
    let config = outcome.map_err(|()| refusal(&record.decisions))?;
    for decision in &record.decisions {
        match decision.outcome {
            Outcome::Clamped | Outcome::Warned => crate::log::warn(&format!("config.json: {decision}")),
            Outcome::Set | Outcome::Refused => crate::log::debug(&format!("config.json: {decision}")),
        }
    }
    let stack = read_stack(&record.stack)?;
    Ok(Governed { config, record: Some(record), stack })
}

/// The record, and the config as it became, or Err if it was refused.
fn under(
    policies: &[model::Policy],
    config: Config,
    bundle: &Path,
    leased: bool,
) -> Result<(Record, Result<Config, ()>)> {
    let mut record = Record::default();
    let mut config = config;
    for (i, policy) in policies.iter().enumerate() {
        let facts = Facts { decided_before: i > 0, leased, ..file::facts(&config.spec, bundle)? };
        match decide::decide(policy, &config.spec, &facts) {
            Err(decisions) => {
                record.decisions.extend(decisions);
                record.audit.extend(decide::audit_file(policy, &config.spec, &facts));
                return Ok((record, Err(())));
            }
            Ok(effective) => {
                record.decisions.extend(effective.decisions);
                record.policies.push(Kept { sources: policy.sources.clone(), rules: effective.rules });
                record.stack.extend(effective.stack);
                record.stack_names.extend(effective.stack_names);
                record.audit.extend(effective.audit);
                record.lease = record.lease.max(effective.lease);
                config = edited(config, &effective.edits)?;
            }
        }
    }
    // A policy must have nothing to say to what it, or another after it, made: that the second only tightens is not
    // believed but seen.
    for policy in policies {
        let facts = Facts { decided_before: true, leased, ..file::facts(&config.spec, bundle)? };
        match decide::decide(policy, &config.spec, &facts) {
            Ok(effective) if effective.edits.is_empty() => {}
            Ok(effective) => {
                let decisions: Vec<String> = effective.decisions.iter().map(ToString::to_string).collect();
                bail!("the policies contradict each other: {}", decisions.join("; "));
            }
            Err(decisions) => {
                record.decisions.extend(decisions);
                return Ok((record, Err(())));
            }
        }
    }
    Ok((record, Ok(config)))
}

fn read_stack(stack: &[Value]) -> Result<Vec<LinuxSeccomp>> {
    let read = |value: &Value| Ok(serde_json::from_slice(&serde_json::to_vec(value)?)?);
    stack.iter().map(read).collect::<Result<_>>().context("a stacked seccomp profile")
}

/// Every refusal, a line each.
fn refusal(decisions: &[Decision]) -> anyhow::Error {
    let mut problems = Problems::default();
    for decision in decisions.iter().filter(|decision| decision.outcome == Outcome::Refused) {
        let Decision { path, policy, asked, allowed, change, .. } = decision;
        let message = format!("refused by the policy: asked for {asked}, allowed is {allowed} ({policy})");
        problems.error_hint(path, message, change);
    }
    problems.into()
}

/// Appends a line for each decision, or one that says that there was none. What cannot be audited does not happen.
fn audit(files: &[String], event: &str, id: &str, decisions: &[Decision]) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let head = json!({
        "time": crate::time::rfc3339(crate::time::now()),
        "event": event,
        "id": id,
        "caller": nix::unistd::getuid().as_raw(),
    });
    let line = |decision: Option<&Decision>| -> Result<String> {
        let mut line = head.clone();
        let more = match decision {
            Some(decision) => serde_json::to_value(decision)?,
            None => json!({"outcome": "accepted"}),
        };
        if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
            line.extend(more);
        }
        Ok(format!("{line}\n"))
    };
    let mut text = String::new();
    for decision in decisions {
        text.push_str(&line(Some(decision))?);
    }
    if decisions.is_empty() {
        text = line(None)?;
    }
    let mut files = files.to_vec();
    files.sort_unstable();
    files.dedup();
    for file in &files {
        let flags = OFlag::O_WRONLY
            | OFlag::O_APPEND
            | OFlag::O_CREAT
            | OFlag::O_NOFOLLOW
            | OFlag::O_NOCTTY
            | OFlag::O_NONBLOCK
            | OFlag::O_CLOEXEC;
        let opened = call!("open({file:?})" => open(file.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR));
        // One write, so that lines of several callers do not mix.
        std::fs::File::from(opened.context("the audit file")?)
            .write_all(text.as_bytes())
            .with_context(|| format!("write {file:?}"))?;
    }
    Ok(())
}

/// Audits the decisions on a container that exists. A refusal among them is an error.
fn settle(files: &[String], event: &str, id: &str, decisions: &[Decision]) -> Result<()> {
    audit(files, event, id, decisions)?;
    if decisions.iter().any(|decision| decision.outcome == Outcome::Refused) {
        return Err(refusal(decisions));
    }
    Ok(())
}

/// Keeps the record with a container, and in it the digest of the effective `config`.
pub fn keep(dir: &StateDir, record: Option<&Record>, config: &[u8]) -> Result<()> {
    match record {
        Some(record) => dir.save(POLICY, &record.to_json(config)?),
        None => Ok(()),
    }
}

/// The policy that a container was made under. `config`: the container's, as the caller has read it and goes by it.
fn held(dir: &StateDir, config: &[u8]) -> Result<Option<Held>> {
    let Some(bytes) = dir.load_bytes(POLICY)? else { return Ok(None) };
    let held = Held::read(&bytes).ok_or_else(|| anyhow!("{:?} is damaged", dir.path.join(POLICY)))?;
    if !held.allows(config) {
        bail!("{:?} is not the config that the policy has allowed: its digest has changed", dir.path.join(CONFIG));
    }
    Ok(Some(held))
}

/// Puts further mounts of a container under the rules that the container was made under. `old`: the config that the
/// container has. `new`: the same with these mounts in the place of its own; it comes back with the options that the policy
/// adds.
pub fn govern_mounts(dir: &StateDir, old: &[u8], new: Vec<u8>, bundle: &Path) -> Result<Config> {
    let decide = |tables: &Tables, spec: &Spec| Ok(decide::decide_mounts(tables, spec, &file::facts(spec, bundle)?));
    govern_change(dir, "mounts add", old, new, &decide)
}

/// Puts new limits of a container under the rules that the container was made under: gives the config as it may be.
/// `old` is the config that the container has.
pub fn govern_update(dir: &StateDir, old: &[u8], new: Vec<u8>) -> Result<Config> {
    govern_change(dir, "update", old, new, &|tables, spec| Ok(decide::decide_update(tables, spec)))
}

type Decide<'a> = &'a dyn Fn(&Tables, &Spec) -> Result<(Vec<Edit>, Vec<Decision>)>;

fn govern_change(dir: &StateDir, event: &str, old: &[u8], new: Vec<u8>, decide: Decide<'_>) -> Result<Config> {
    let mut config = spec::parse(new)?;
    let Some(held) = held(dir, old)? else { return Ok(config) };
    let mut decisions = Vec::new();
    for tables in &held.tables {
        let (edits, more) = decide(tables, &config.spec)?;
        decisions.extend(more);
        config = edited(config, &edits)?;
    }
    settle(&held.audit, event, &dir.id, &decisions)?;
    for decision in &decisions {
        crate::log::warn(&decision.to_string());
    }
    Ok(config)
}

/// The config with what a policy changes in it.
fn edited(config: Config, edits: &[Edit]) -> Result<Config> {
    if edits.is_empty() {
        return Ok(config);
    }
    let text = config.unresolved.as_ref().unwrap_or(&config.bytes);
    let changed = apply(edits, text).map_err(|e| anyhow!("config.json: {e}"))?;
    let changed = spec::parse(changed).context("the config under the policy")?;
    // What is odd in the bundle's own text is said once.
    Ok(Config { warnings: config.warnings, ..changed })
}

/// Puts a further process of a container under the rules that the container was made under. Gives the profiles that its
/// filter has beside `linux.seccomp`. `config`: the container's, as it was read.
pub fn govern_exec(dir: &StateDir, config: &[u8], process: &mut Process, ceiling: Set) -> Result<Vec<LinuxSeccomp>> {
    let Some(held) = held(dir, config)? else { return Ok(Vec::new()) };
    let mut decisions = Vec::new();
    for tables in &held.tables {
        ProcessRules::from(tables).for_exec(ceiling).decide(process, &mut decisions);
    }
    settle(&held.audit, "exec", &dir.id, &decisions)?;
    for decision in decisions.iter().filter(|decision| decision.outcome == Outcome::Clamped) {
        crate::log::debug(&decision.to_string());
    }
    read_stack(&held.stack)
}

/// Keeps the config that an update has brought about, in the place of `old`.
pub fn keep_update(dir: &StateDir, old: &[u8], new: &[u8]) -> Result<()> {
    if let Some(bytes) = dir.load_bytes(POLICY)? {
        let record = with_config(&bytes, old, new);
        let record = record.with_context(|| format!("{:?} is damaged", dir.path.join(POLICY)))?;
        dir.save(POLICY, &record)?;
    }
    dir.save(CONFIG, new)
}

fn show(args: &PolicyShow, flag: Option<&Path>) -> Result<u8> {
    let policies = file::load(flag)?;
    let mut shown = Vec::new();
    for policy in &policies {
        let rules: Vec<Value> = policy
            .rules
            .iter()
            .map(|rule| json!({"from": rule.at, "when": rule.when, "keys": rule.tables.shown()}))
            .collect();
        let files: Vec<&String> = policy.sources.iter().map(|source| &source.path).collect();
        shown.push(json!({"files": files, "keys": policy.tables.shown(), "rules": rules}));
    }
    if args.format == TextFormat::Json {
        print_json(&shown)?;
        return Ok(0);
    }
    if policies.is_empty() {
        print(&format!("no policy: {}/policy.toml does not exist", file::SYSTEM));
    }
    for policy in &policies {
        let line =
            |key: &model::Shown, indent: &str| print(&format!("{indent}{} = {}  # {}", key.key, key.value, key.from));
        policy.tables.shown().iter().for_each(|key| line(key, ""));
        for rule in &policy.rules {
            print(&format!("when {}  # {}", serde_json::to_string(&rule.when)?, rule.at));
            rule.tables.shown().iter().for_each(|key| line(key, "  "));
        }
    }
    Ok(0)
}

fn test(args: &PolicyTest, flag: Option<&Path>) -> Result<u8> {
    let bundle = bundle(args.bundle.as_deref())?;
    let config = spec::load(&bundle)?;
    let policies = file::load(flag)?;
    let (record, outcome) = under(&policies, config, &bundle, false)?;
    let changes = |outcome| matches!(outcome, Outcome::Clamped | Outcome::Set);
    let (word, status) = match &outcome {
        Err(()) => ("refused", 1),
        Ok(_) if record.decisions.iter().any(|decision| changes(decision.outcome)) => ("changed", CHANGED),
        Ok(_) => ("accepted", 0),
    };
    match args.format {
        TextFormat::Json => {
            let effective = match &outcome {
                Ok(config) => serde_json::from_slice(&config.bytes)?,
                Err(()) => Value::Null,
            };
            let files: Vec<&String> =
                policies.iter().flat_map(|policy| &policy.sources).map(|source| &source.path).collect();
            print_json(&json!({
                "result": word, "policy": files, "decisions": record.decisions, "lease": record.lease,
                "stack": record.stack.len(), "effective": effective,
            }))?;
        }
        TextFormat::Text => {
            print(word);
            for decision in &record.decisions {
                print(&format!("  {decision}\n    {}", decision.change));
            }
        }
    }
    Ok(status)
}

fn check(args: &PolicyCheck, flag: Option<&Path>) -> Result<u8> {
    match file::check(args.file.as_deref().or(flag))? {
        Some(policy) => {
            let files: Vec<&str> = policy.sources.iter().map(|source| source.path.as_str()).collect();
            print(&format!("{}: no faults", files.join(", ")));
        }
        None => print(&format!("no policy: {}/policy.toml does not exist", file::SYSTEM)),
    }
    Ok(0)
}

fn import_mesos(args: &PolicyImportMesos) -> Result<u8> {
    let flags = mesos::Flags {
        effective: args.effective_capabilities.clone(),
        bounding: args.bounding_capabilities.clone(),
        config_dir: args.seccomp_config_dir.clone(),
        profile_name: args.seccomp_profile_name.clone(),
    };
    print(mesos::import(&flags).map_err(|e| anyhow!(e))?.trim_end());
    Ok(0)
}
