// SPDX-License-Identifier: Apache-2.0
//! `orlop update`.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};

use crate::cli::{Limits, Update};
use crate::command::policy::{govern_update, keep_update};
use crate::error::ResultExt;
use crate::host::{CgroupLayout, Host};
use crate::kernel::cgroup::update as kernel;
use crate::kernel::procfs::Proc;
use crate::kernel::{resctrl, systemd};
use crate::plan::cgroup::{Cgroup, Version, Write, update as plan};
use crate::plan::config::Spec;
use crate::plan::problem::Problems;
use crate::plan::resctrl::{self as plan_resctrl, Resctrl};
use crate::plan::systemd::{Property, Remembered};
use crate::spec;
use crate::state::{CONFIG, Root, State, StateDir, Status};

/// Changes the limits of a container that has not stopped: all that are asked for, or none. The config that is kept with
/// the container follows.
pub fn update(root: &Root, args: &Update) -> Result<u8> {
    let id = args.id.id.as_str();
    let updated = || -> Result<()> {
        // Standard input first: no lock is held while somebody writes to it.
        let asked = match &args.resources {
            Some(path) => read(path)?,
            None => from_flags(&args.limits)?,
        };
        let dir = root.container(id)?;
        let _lock = dir.lock()?;
        if !dir.exists()? {
            bail!("container {id} does not exist");
        }
        let state = dir.complete_state()?;
        if state.status(&Proc::open()?)? == Status::Stopped {
            bail!("container not running");
        }
        apply(&dir, &state, &asked, &args.limits)
    };
    updated().with_context(|| format!("update {id}"))?;
    Ok(0)
}

fn read(path: &Path) -> Result<Value> {
    let mut bytes = Vec::new();
    let (name, read) = if path == Path::new("-") {
        ("--resources -".to_string(), std::io::stdin().take(spec::SIZE_LIMIT).read_to_end(&mut bytes))
    } else {
        let open = std::fs::File::open(path);
        (format!("--resources {path:?}"), open.and_then(|file| file.take(spec::SIZE_LIMIT).read_to_end(&mut bytes)))
    };
    read.with_context(|| name.clone())?;
    spec::parse_resources(&bytes).context(name)
}

/// The flags as `linux.resources`.
fn from_flags(limits: &Limits) -> Result<Value> {
    let bytes = |flag: &str, text: &Option<String>| -> Result<Option<i64>> {
        let Some(text) = text.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
        let number = plan::bytes(text).ok_or_else(|| anyhow!("invalid value for {flag}: {text:?}"));
        number.map(Some).hint("a number of bytes, or with a unit as 64M or 1.5g, or -1 for no limit")
    };
    for (flag, text) in [("kernel-memory", &limits.kernel_memory), ("kernel-memory-tcp", &limits.kernel_memory_tcp)] {
        if bytes(flag, text)?.is_some_and(|number| number != 0) {
            crate::log::warn(&format!("--{flag} is ignored: the kernel no longer limits kernel memory apart"));
        }
    }
    if limits.cpu_idle.is_some_and(|idle| !matches!(idle, 0 | 1)) {
        bail!("invalid value for cpu-idle: expected 0 or 1");
    }
    let mut asked = json!({
        "blockIO": {"weight": limits.blkio_weight},
        "cpu": {
            "shares": limits.cpu_share,
            "quota": limits.cpu_quota,
            "period": limits.cpu_period,
            "burst": limits.cpu_burst,
            "realtimePeriod": limits.cpu_rt_period,
            "realtimeRuntime": limits.cpu_rt_runtime,
            "cpus": limits.cpuset_cpus,
            "mems": limits.cpuset_mems,
            "idle": limits.cpu_idle,
        },
        "memory": {
            "limit": bytes("memory", &limits.memory)?,
            "reservation": bytes("memory-reservation", &limits.memory_reservation)?,
            "swap": bytes("memory-swap", &limits.memory_swap)?,
        },
        "pids": {"limit": limits.pids_limit},
    });
    // What no flag asks for is not there at all.
    let sections = asked.as_object_mut().into_iter().flat_map(Map::values_mut);
    sections.filter_map(Value::as_object_mut).for_each(|section| section.retain(|_, value| !value.is_null()));
    Ok(asked)
}

fn apply(dir: &StateDir, state: &State, asked: &Value, limits: &Limits) -> Result<()> {
    let host = Host::detect()?;
    let version = if matches!(host.cgroups, CgroupLayout::Legacy { .. }) { Version::V1 } else { Version::V2 };
    let old_bytes = dir.load_bytes(CONFIG)?.context("the state directory has lost the container's config")?;
    let mut config: Value = serde_json::from_slice(&old_bytes)?;
    let old = cgroup(&spec::parse(old_bytes.clone())?.spec, state, &host, false)?;

    let resources = config.pointer("/linux/resources").cloned().unwrap_or_default();
    let (mut resources, paths) = plan::merge(&resources, asked, version);
    if resources.get("unified").is_some() {
        let alone = serde_json::to_vec(&json!({"linux": {"resources": asked}}))?;
        // What is at fault in it is said of the whole.
        let alone = writes_of(&alone, state, &host).unwrap_or_default();
        plan::drop_overruled(&mut resources, &alone, &paths);
    }
    let Some(linux) = config.get_mut("linux").and_then(Value::as_object_mut) else {
        bail!("the container's config has no section linux")
    };
    linux.insert("resources".into(), resources);
    let rdt = [("l3CacheSchema", &limits.l3_cache_schema), ("memBwSchema", &limits.mem_bw_schema)];
    let asks_rdt = rdt.iter().any(|(_, schema)| schema.is_some());
    if asks_rdt {
        let Some(section) = linux.get_mut("intelRdt").and_then(Value::as_object_mut) else {
            let refused: Result<()> = Err(anyhow!("--l3-cache-schema, --mem-bw-schema: Intel RDT is not enabled"));
            return refused.hint("the container's config has no linux.intelRdt, so that it is in no class of its own");
        };
        for (member, schema) in rdt.into_iter().filter_map(|(member, schema)| Some((member, schema.as_ref()?))) {
            section.insert(member.into(), json!(schema));
        }
    }

    let config = govern_update(dir, &old_bytes, serde_json::to_vec_pretty(&config)?)?;
    let new = cgroup(&config.spec, state, &host, true)?;
    let places = kernel::recorded(&new.places, &state.cgroups);
    let mut update = plan::difference(&old, &new, &paths);
    let unit = Unit::of(state, &old, &new);
    if unit.is_some() && !update.writes.is_empty() {
        // systemd writes all that it knows of the unit, and what it does not know of it sets back.
        update.writes.clone_from(&new.writes);
    }
    let memory = config.spec.linux.as_ref().and_then(|l| l.resources().as_ref()).and_then(|r| r.memory().as_ref());
    update.not_below_usage = memory
        .filter(|memory| memory.check_before_update() == Some(true))
        .and_then(|memory| u64::try_from(memory.limit()?).ok())
        .filter(|limit| *limit > 0);
    if places.is_empty() && update != plan::Update::default() {
        let refused: Result<()> = Err(anyhow!("the container has no cgroup, which could be limited"));
        return refused.hint("an ordinary user needs a cgroup that is delegated to him");
    }
    // A record that cannot be written is known before the kernel is asked.
    keep_update(dir, &old_bytes, &config.bytes)?;
    let changed = || -> Result<()> {
        let mut undo = None;
        if asks_rdt && let Some(class) = class(&config.spec, &state.id)? {
            let root = resctrl::mount_point(&Proc::open()?)?;
            undo = Some((resctrl::change(&root, &class)?, root, class));
        }
        let limited = unit.as_ref().map_or(Ok(()), |unit| systemd::set(unit.of, &unit.new)).and_then(|()| {
            kernel::update(&places, &update).inspect_err(|_| {
                if let Some(Err(e)) = unit.as_ref().map(|unit| systemd::set(unit.of, &unit.old)) {
                    crate::log::warn(&format!("taking properties of the unit back: {}", crate::error::one_line(&e)));
                }
            })
        });
        limited.inspect_err(|_| {
            if let Some((before, root, class)) = undo {
                // The error that is reported is the one that led here.
                drop(resctrl::change(&root, &Resctrl { schemata: before, ..class }));
            }
        })
    };
    changed().inspect_err(|_| {
        if let Err(e) = keep_update(dir, &config.bytes, &old_bytes) {
            crate::log::warn(&format!("taking the kept config back: {}", crate::error::one_line(&e)));
        }
    })
}

/// A unit whose properties change.
struct Unit<'a> {
    of: &'a Remembered,
    old: Vec<Property>,
    new: Vec<Property>,
}

impl Unit<'_> {
    fn of<'a>(state: &'a State, old: &Cgroup, new: &Cgroup) -> Option<Unit<'a>> {
        let (of, old, new) = (state.systemd.as_ref()?, old.driver.unit()?, new.driver.unit()?);
        Some(Unit { of, old: old.changes(new), new: new.changes(old) })
    }
}

/// The container's class of service.
fn class(spec: &Spec, id: &str) -> Result<Option<Resctrl>> {
    let mut problems = Problems::default();
    let class = spec.linux.as_ref().and_then(|linux| plan_resctrl::from_spec(linux, id, &mut problems));
    if problems.errors.is_empty() { Ok(class) } else { Err(Problems { warnings: Vec::new(), ..problems }.into()) }
}

/// The cgroup's plan; `warn` of what is ignored.
fn cgroup(spec: &Spec, state: &State, host: &Host, warn: bool) -> Result<Cgroup> {
    let mut problems = Problems::default();
    let linux = spec.linux.clone().unwrap_or_default();
    let planned = match &state.systemd {
        Some(unit) => {
            let annotations = state.annotations.clone();
            crate::plan::systemd::plan(&linux, &annotations, &state.id, host, &unit.manager, &mut problems)
        }
        None => Cgroup::from_spec(&linux, &state.id, host, &mut problems),
    };
    for warning in problems.warnings.iter().filter(|_| warn) {
        crate::log::warn(&warning.to_string());
    }
    if problems.errors.is_empty() { Ok(planned) } else { Err(Problems { warnings: Vec::new(), ..problems }.into()) }
}

fn writes_of(config: &[u8], state: &State, host: &Host) -> Result<Vec<Write>> {
    let spec: Spec = serde_json::from_slice(config)?;
    Ok(cgroup(&spec, state, host, false)?.writes)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn asked(flags: &[&str]) -> Result<Value> {
        let words = ["orlop", "update"].iter().chain(flags).chain(&["web"]);
        match Cli::try_parse_from(words).unwrap().command {
            Some(Command::Update(update)) => from_flags(&update.limits),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_become_resources() {
        let flags =
            ["--memory", "64M", "--memory-swap=-1", "--cpu-quota", "-1", "--cpuset-cpus", "0-1", "--pids-limit", "0"];
        assert_eq!(
            asked(&flags).unwrap(),
            json!({"blockIO": {}, "cpu": {"quota": -1, "cpus": "0-1"}, "memory": {"limit": 67108864, "swap": -1},
                "pids": {"limit": 0}})
        );
        for (flags, word) in [
            (["--memory", "64X"], "invalid value for memory"),
            (["--memory-swap", "-2"], "invalid value for memory-swap"),
            (["--cpu-idle", "2"], "invalid value for cpu-idle"),
        ] {
            assert!(asked(&flags).unwrap_err().to_string().contains(word), "{flags:?}");
        }
    }
}
