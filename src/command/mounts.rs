// SPDX-License-Identifier: Apache-2.0
//! `orlop mounts`.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cli::{Format, Mounts, MountsAdd, MountsList, MountsRemove};
use crate::command::list::columns;
use crate::command::policy::govern_mounts;
use crate::command::{print, print_json};
use crate::error::ResultExt;
use crate::host::Host;
use crate::kernel::mount::MountId;
use crate::kernel::procfs::Proc;
use crate::plan::filesystem::InRoot;
use crate::plan::problem::Problems;
use crate::plan::{Plan, Request};
use crate::process::mounts::{self, Target, not_to_be_added};
use crate::spec;
use crate::state::{Lock, Root, State, StateDir, Status};

/// What was added, in the state directory.
const FILE: &str = "mounts.json";

/// A mount on record. It is recorded before it is attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    destination: String,
    /// As it was asked for.
    mount: Value,
    #[serde(flatten)]
    id: MountId,
}

/// Mounts into a container, takes that back, and lists it.
pub fn mounts(root: &Root, command: &Mounts) -> Result<u8> {
    match command {
        Mounts::Add(args) => add(root, args).with_context(|| format!("mounts add {}", args.id.id)),
        Mounts::Remove(args) => remove(root, args).with_context(|| format!("mounts remove {}", args.id.id)),
        Mounts::List(args) => list(root, args).with_context(|| format!("mounts list {}", args.id.id)),
    }?;
    Ok(0)
}

/// A container whose directory is locked.
struct Container {
    dir: StateDir,
    lock: Lock,
    state: State,
    proc: Proc,
}

impl Container {
    /// One that lives: created, running or paused.
    fn open(root: &Root, id: &str) -> Result<Self> {
        let dir = root.container(id)?;
        let lock = dir.lock()?;
        if !dir.exists()? {
            bail!("container {id} does not exist");
        }
        let (state, proc) = (dir.complete_state()?, Proc::open()?);
        if state.status(&proc)? == Status::Stopped {
            return Err(anyhow!("container {id} has stopped")).hint("its mounts ended with it");
        }
        if !nix::unistd::geteuid().is_root() {
            return Err(anyhow!("only root can mount into a container that exists"))
                .hint("an ordinary user's mounts go into config.json");
        }
        Ok(Self { dir, lock, state, proc })
    }

    /// The plan of the container, with `mounts` as its mounts.
    fn plan(&self, mounts: &[Value]) -> Result<Plan> {
        let old = self.dir.config()?;
        let mut config: Value = serde_json::from_slice(&old).context("the container's config")?;
        if let Some(config) = config.as_object_mut() {
            config.insert("mounts".into(), json!(mounts));
        }
        let bytes = serde_json::to_vec(&config)?;
        let config = match mounts {
            [] => spec::parse(bytes)?,
            _ => govern_mounts(&self.dir, &old, bytes, &self.state.bundle)?,
        };
        let request = Request { idmap_all: crate::lease::is_held(&self.dir)?, ..self.state.request() };
        let (plan, mut problems) = Plan::from_spec(&config.spec, &Host::detect()?, &request);
        for (i, mount) in plan.iter().flat_map(|plan| plan.filesystem.mounts.iter().enumerate()) {
            if let Some((member, why)) = not_to_be_added(&mount.kind) {
                problems.error(format!("mounts[{i}].{member}"), why);
            }
        }
        // What is odd in the rest of the config was said at create.
        for warning in config.warnings.warnings.iter().chain(&problems.warnings) {
            if warning.path.starts_with("mounts") {
                crate::log::warn(&warning.to_string());
            }
        }
        plan.filter(|_| problems.errors.is_empty()).ok_or_else(|| Problems { warnings: Vec::new(), ..problems }.into())
    }

    fn target<'a>(&'a self, plan: &'a Plan) -> Target<'a> {
        let parents = [self.lock.raw_fd()].into_iter().chain(self.dir.raw_fds()).collect();
        Target { proc: &self.proc, plan, state: &self.state, parents }
    }

    fn save(&self, records: &[Record]) -> Result<()> {
        self.dir.save(FILE, &serde_json::to_vec(records)?)
    }
}

fn records(dir: &StateDir) -> Result<Vec<Record>> {
    let Some(bytes) = dir.load_bytes(FILE)? else { return Ok(Vec::new()) };
    serde_json::from_slice(&bytes).with_context(|| format!("{:?} is damaged", dir.path.join(FILE)))
}

fn add(root: &Root, args: &MountsAdd) -> Result<()> {
    let asked = asked(args)?;
    if asked.is_empty() {
        bail!("no mount is given: pass --bind, --mount or a FILE");
    }
    let container = Container::open(root, &args.id.id)?;
    let plan = container.plan(&asked)?;
    let before = records(&container.dir)?;
    let mut now = before.clone();
    let added = mounts::add(&container.target(&plan), |i, id| {
        let destination =
            plan.filesystem.mounts.get(i).context("more mounts than were asked for")?.destination.to_string();
        now.push(Record { destination, mount: asked.get(i).cloned().unwrap_or_default(), id });
        container.save(&now)
    });
    if added.is_err() && now != before {
        container.save(&before)?;
    }
    added
}

/// The mounts of the command line, then those of the file.
fn asked(args: &MountsAdd) -> Result<Vec<Value>> {
    let mut mounts = Vec::new();
    for text in &args.bind {
        mounts.push(bind(text).with_context(|| format!("--bind {text:?}"))?);
    }
    for text in &args.mount {
        mounts.push(serde_json::from_str(text).with_context(|| format!("--mount {text:?}"))?);
    }
    if let Some(path) = &args.file {
        let read = || -> Result<Vec<Value>> {
            let mut bytes = Vec::new();
            match path == Path::new("-") {
                true => std::io::stdin().read_to_end(&mut bytes)?,
                false => std::fs::File::open(path)?.read_to_end(&mut bytes)?,
            };
            Ok(serde_json::from_slice(&bytes)?)
        };
        let hint = "expected an array of mounts, as config.json has it";
        mounts.extend(read().with_context(|| format!("{}", path.display())).hint(hint)?);
    }
    // The whole config is read later, where a message would give a place that nobody knows.
    for (i, mount) in mounts.iter().enumerate() {
        let read: Result<oci_spec::runtime::Mount, _> = match mount.is_object() {
            true => serde_json::from_value(mount.clone()),
            false => Err(serde::de::Error::custom("expected an object")),
        };
        read.with_context(|| format!("mounts[{i}]"))?;
    }
    Ok(mounts)
}

/// `SOURCE:DESTINATION[:OPTIONS]`. Unlike that of a bundle's, the source is relative to the current directory.
fn bind(text: &str) -> Result<Value> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, words) = match parts.as_slice() {
        [source, destination] => (*source, *destination, ""),
        [source, destination, options] => (*source, *destination, *options),
        _ => return Err(anyhow!("expected SOURCE:DESTINATION[:OPTIONS]")).hint("a path with a colon needs --mount"),
    };
    if source.is_empty() || !destination.starts_with('/') {
        bail!("expected SOURCE:DESTINATION[:OPTIONS] with an absolute destination");
    }
    let mut options: Vec<&str> = words.split(',').filter(|word| !word.is_empty()).collect();
    if !options.iter().any(|word| matches!(*word, "bind" | "rbind")) {
        options.insert(0, "rbind");
    }
    let source = std::path::absolute(source)?;
    Ok(json!({"destination": destination, "type": "bind", "source": source, "options": options}))
}

fn remove(root: &Root, args: &MountsRemove) -> Result<()> {
    let container = Container::open(root, &args.id.id)?;
    let mut left = records(&container.dir)?;
    let mut problems = Problems::default();
    let mut going: Vec<(InRoot, MountId)> = Vec::new();
    for text in &args.destinations {
        let Some(destination) = InRoot::new("DESTINATION", text, &mut problems) else { continue };
        // Of several at one place the last is on top.
        let Some(i) = left.iter().rposition(|record| record.destination == destination.as_str()) else {
            return Err(anyhow!("{text}: mounts add has mounted nothing there")).hint(
                "only what mounts add has mounted can be removed: masks and read-only paths are mounts, too; orlop mounts \
                 list shows it",
            );
        };
        going.push((destination, left.remove(i).id));
    }
    if !problems.errors.is_empty() {
        return Err(problems.into());
    }
    let plan = container.plan(&[])?;
    let others = mounts::remove(&container.target(&plan), &going)?;
    let table = container.proc.read(&format!("{}/mountinfo", container.state.init.pid))?;
    let is_there = |id: &MountId| table.lines().any(|line| line.split(' ').next() == Some(id.id.to_string().as_str()));
    let mut hidden = Vec::new();
    for (destination, id) in going.iter().filter(|(_, id)| others.contains(id)) {
        if is_there(id) {
            hidden.push((destination, id));
        } else {
            crate::log::warn(&format!("{destination}: the container had unmounted it"));
        }
    }
    // What could not be removed stays on record.
    let kept: Vec<Record> = records(&container.dir)?
        .into_iter()
        .filter(|record| left.contains(record) || hidden.iter().any(|(_, id)| **id == record.id))
        .collect();
    container.save(&kept)?;
    match hidden.first() {
        None => Ok(()),
        Some((destination, _)) => Err(anyhow!("{destination}: the mount that was added is there no more"))
            .hint("the container has mounted over it, has moved it, or a link now leads elsewhere"),
    }
}

fn list(root: &Root, args: &MountsList) -> Result<()> {
    let records = records(&root.container(&args.id.id)?)?;
    if args.format == Format::Json {
        let mounts: Vec<&Value> = records.iter().map(|record| &record.mount).collect();
        return print_json(&mounts);
    }
    let mut rows = vec![["DESTINATION", "TYPE", "SOURCE", "OPTIONS"].map(String::from)];
    for record in &records {
        let word = |name: &str| record.mount.get(name).and_then(Value::as_str).unwrap_or("-").to_string();
        let options = record.mount.get("options").and_then(Value::as_array).into_iter().flatten();
        let options: Vec<&str> = options.filter_map(Value::as_str).collect();
        rows.push([record.destination.clone(), word("type"), word("source"), options.join(",")]);
    }
    print(&columns(&rows));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_in_short() {
        assert_eq!(
            bind("/a:/b").unwrap(),
            json!({"destination": "/b", "type": "bind", "source": "/a", "options": ["rbind"]})
        );
        assert_eq!(bind("/a:/b:ro,bind").unwrap()["options"], json!(["ro", "bind"]));
        assert!(bind("a:/b").unwrap()["source"].as_str().unwrap().starts_with('/'));
        for text in ["", "/a", "/a:b", ":/b", "/a:/b:ro:x"] {
            assert!(bind(text).is_err(), "{text}");
        }
    }
}
