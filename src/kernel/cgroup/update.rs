// SPDX-License-Identifier: Apache-2.0
//! New limits for a container that runs: all of them, or none.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};
use nix::errno::Errno;

use super::create::{holds, load, refused};
use super::fs;
use super::handle::Directory;
use super::{Existing, Handle};
use crate::error::{ResultExt, one_line};
use crate::plan::cgroup::update::Update;
use crate::plan::cgroup::{Missing, Place, Version, Write};
use crate::plan::device_filter::{self, Rule};
use crate::sys::{self, bpf};

const DEVICES: &str = "linux.resources.devices";

/// Puts the paths that were recorded at create in the place of those of the plan: the caller's own cgroup, below which
/// they may lie, can be another by now. A place that is gone is left out.
pub fn recorded(places: &[Place], paths: &[PathBuf]) -> Vec<Place> {
    let of = |place: &Place| {
        let below = |path: &PathBuf| path.strip_prefix(&place.mount_point).ok().map(std::path::Path::to_path_buf);
        let path = paths.iter().filter_map(below).find(|path| *path == place.path).or(paths.iter().find_map(below))?;
        Some(Place { path, ..place.clone() })
    };
    places.iter().filter_map(of).collect()
}

/// Carries an update out. If the kernel refuses a part, what has been written before is taken back.
///
/// # Errors
/// What the kernel refused, with the JSON path of the limit.
pub fn update(places: &[Place], update: &Update) -> anyhow::Result<()> {
    let mut handle = Handle::default();
    let mut present = Vec::new();
    for place in places {
        let path = place.mount_point.join(&place.path);
        let found = Existing::open(std::slice::from_ref(&path))?.handle(&[])?;
        if !found.directories.is_empty() {
            present.push(place);
            handle.directories.extend(found.directories);
        }
    }
    let target = |write: &Write| -> anyhow::Result<&Directory> {
        let index = present.iter().position(|place| holds(place, write));
        index.and_then(|index| handle.directories.get(index)).with_context(|| {
            format!("{}: the container has no cgroup of the {} controller", write.field, write.controller)
        })
    };
    if let Some(limit) = update.not_below_usage {
        let memory = update.writes.iter().find(|write| write.controller == "memory").map(&target).transpose()?;
        if let Some(memory) = memory {
            refuse_below_usage(memory, limit)?;
        }
    }
    let writes = update.writes.iter().map(|write| Ok((target(write)?, write))).collect::<anyhow::Result<Vec<_>>>()?;
    let mut done = Done::default();
    let mut result = Ok(());
    let mut postponed = Vec::new();
    for (directory, write) in writes {
        match done.write(directory, write) {
            // One of two that bound each other: the other has to go first.
            Err(e) if e.errno == Errno::EINVAL => postponed.push((directory, write)),
            Err(e) => {
                result = Err((directory, write, e));
                break;
            }
            Ok(()) => {}
        }
    }
    for (directory, write) in postponed {
        if result.is_ok() {
            result = done.write(directory, write).map_err(|e| (directory, write, e));
        }
    }
    let result = match result {
        Err((directory, write, e)) => Err(explained(directory, write, e)),
        Ok(()) => match &update.devices {
            Some((old, new)) => replace_devices(old, new, &handle),
            None => Ok(()),
        },
    };
    if result.is_err() {
        done.take_back();
        if done.devices {
            for write in &update.old_devices {
                let undone =
                    target(write).and_then(|directory| Ok(fs::write(directory.fd.as_fd(), &write.file, &write.value)?));
                if let Err(e) = undone {
                    crate::log::warn(&format!("taking the device list back: {}", one_line(&e)));
                }
            }
        }
    }
    result
}

/// What has been written: the directory, the file, and what it takes to have it as before.
#[derive(Default)]
struct Done<'a> {
    list: Vec<(&'a Directory, String, String)>,
    devices: bool,
}

impl<'a> Done<'a> {
    fn write(&mut self, directory: &'a Directory, write: &Write) -> sys::Result<()> {
        let dir = directory.fd.as_fd();
        if write.controller == "devices" {
            // The files can only be written.
            self.devices = true;
            return fs::write(dir, &write.file, &write.value);
        }
        let missing = |e: &sys::Error| e.errno == Errno::ENOENT;
        let (file, value, before) = match (fs::read(dir, &write.file), &write.missing) {
            (Err(e), Missing::Skip) if missing(&e) => return Ok(()),
            (Err(e), Missing::Instead { file, value }) if missing(&e) => (file, value, fs::read(dir, file)?),
            (text, _) => (&write.file, &write.value, text?),
        };
        fs::write(dir, file, value)?;
        if let Some(before) = restoring(file, value, &before) {
            self.list.push((directory, file.clone(), before));
        }
        Ok(())
    }

    fn take_back(&self) {
        // Twice, since of two limits that bound each other either may have to go first.
        let mut left: Vec<_> = self.list.iter().rev().collect();
        for last in [false, true] {
            left.retain(|(directory, file, value)| match fs::write(directory.fd.as_fd(), file, value) {
                Ok(()) => false,
                Err(e) => {
                    if last {
                        crate::log::warn(&format!("taking back cgroup {}: {e}", directory.path.display()));
                    }
                    true
                }
            });
        }
    }
}

/// What to write to a file that read `before` to undo a write of `value`. None if nothing does.
fn restoring(file: &str, value: &str, before: &str) -> Option<String> {
    let before = before.trim();
    let mut words = value.split_whitespace();
    let (first, second) = (words.next().unwrap_or_default(), words.next());
    let is_device = first.contains(':') || matches!(file, "rdma.max" | "net_prio.ifpriomap");
    if let (Some(setting), true) = (second, is_device) {
        // A line for each device; one without a line has no limit.
        if let Some(line) = before.lines().find(|line| line.split_whitespace().next() == Some(first)) {
            return Some(line.to_string());
        }
        return Some(match setting.split_once('=') {
            Some((name, _)) => format!("{first} {name}=max"),
            None if file.ends_with("weight") => format!("{first} default"),
            None => format!("{first} 0"),
        });
    }
    match file {
        "memory.oom_control" => Some(fs::keyed(before, "oom_kill_disable")?.to_string()),
        // Written as changes of a set.
        "cgroup.subtree_control" => {
            let had = |word: &str| before.split_whitespace().any(|name| name == word);
            let undo = |word: &str| {
                let name = word.trim_start_matches(['+', '-']);
                format!("{}{name}", if had(name) { '+' } else { '-' })
            };
            Some(value.split_whitespace().map(undo).collect::<Vec<_>>().join(" "))
        }
        "io.weight" | "io.bfq.weight" => before.lines().find(|line| line.starts_with("default")).map(str::to_string),
        "cgroup.type" => None,
        _ => Some(before.lines().next().unwrap_or_default().to_string()),
    }
}

fn usage(directory: &Directory) -> (String, String) {
    let read = |v1: &str, v2: &str| {
        let file = if directory.version == Version::V1 { v1 } else { v2 };
        fs::read(directory.fd.as_fd(), file).map_or("?".into(), |text| text.trim().to_string())
    };
    (read("memory.usage_in_bytes", "memory.current"), read("memory.max_usage_in_bytes", "memory.peak"))
}

/// On v2 the kernel would make room by killing.
fn refuse_below_usage(directory: &Directory, limit: u64) -> anyhow::Result<()> {
    let (current, _) = usage(directory);
    if current.parse::<u64>().is_ok_and(|current| current > limit) {
        let refused: anyhow::Result<()> = Err(anyhow!(
            "linux.resources.memory.limit: {limit} bytes are fewer than cgroup {} uses now, {current}",
            directory.path.display()
        ));
        return refused.hint("without memory.checkBeforeUpdate the kernel would kill processes to get there");
    }
    Ok(())
}

fn explained(directory: &Directory, write: &Write, error: sys::Error) -> anyhow::Error {
    if error.errno == Errno::EBUSY && write.controller == "memory" {
        let (current, peak) = usage(directory);
        let text = format!(
            "{}: unable to set memory limit to {} (current usage: {current}, peak usage: {peak})",
            write.field, write.value
        );
        return anyhow::Error::new(error).context(text);
    }
    refused(Err(error), write, directory).err().unwrap_or_else(|| anyhow!("{}", write.field))
}

/// Puts one device program in the place of another. At no moment is there none, or are there both.
fn replace_devices(old: &[Rule], new: &[Rule], handle: &Handle) -> anyhow::Result<()> {
    let new = if new.is_empty() { None } else { Some(load(new)?) };
    for directory in handle.directories.iter().filter(|d| d.version == Version::V2) {
        let replaced = || -> anyhow::Result<()> {
            let ours = attached(old, directory.fd.as_fd())?;
            match (&new, ours) {
                (Some(new), ours) => {
                    bpf::attach_device_program(new.as_fd(), directory.fd.as_fd(), ours.as_ref().map(AsFd::as_fd))?;
                }
                (None, Some(ours)) => bpf::detach_device_program(ours.as_fd(), directory.fd.as_fd())?,
                (None, None) => {}
            }
            Ok(())
        };
        replaced().with_context(|| format!("{DEVICES}: cgroup {}", directory.path.display()))?;
    }
    Ok(())
}

/// The program that enforces `rules`, or the only one there is: a tool may have replaced ours to let a device in.
fn attached(rules: &[Rule], dir: BorrowedFd<'_>) -> anyhow::Result<Option<std::os::fd::OwnedFd>> {
    let mut found = Vec::new();
    for id in bpf::attached_device_programs(dir)? {
        found.push(bpf::program_by_id(id)?);
    }
    if rules.is_empty() {
        return Ok(None);
    }
    if found.len() > 1 {
        let program = device_filter::program(rules).context("too many rules")?;
        let tag = bpf::program_tag(bpf::load_device_program(&program)?.as_fd())?;
        for program in found {
            if bpf::program_tag(program.as_fd())? == tag {
                return Ok(Some(program));
            }
        }
        bail!("several device programs are attached, and none of them is the one that orlop has made");
    }
    Ok(found.pop())
}

#[cfg(test)]
mod tests {
    use super::restoring;

    #[test]
    fn a_write_can_be_undone() {
        for (file, value, before, expected) in [
            ("pids.max", "5", "max\n", "max"),
            ("cpu.max", "1 2", "max 100000\n", "max 100000"),
            ("cpuset.cpus", "0", "\n", ""),
            (
                "io.max",
                "8:0 rbps=5",
                "8:0 rbps=7 wbps=max riops=max wiops=max\n",
                "8:0 rbps=7 wbps=max riops=max wiops=max",
            ),
            ("io.max", "8:0 rbps=5", "9:0 rbps=7\n", "8:0 rbps=max"),
            ("blkio.throttle.read_bps_device", "8:0 5", "", "8:0 0"),
            ("io.bfq.weight", "500", "default 100\n", "default 100"),
            ("io.bfq.weight", "8:0 500", "default 100\n", "8:0 default"),
            ("memory.oom_control", "1", "oom_kill_disable 0\nunder_oom 0\n", "0"),
            (
                "rdma.max",
                "mlx5 hca_handle=3",
                "mlx5 hca_handle=max hca_object=max",
                "mlx5 hca_handle=max hca_object=max",
            ),
            ("cgroup.subtree_control", "+pids -cpu", "cpu", "-pids +cpu"),
        ] {
            assert_eq!(restoring(file, value, before).as_deref(), Some(expected), "{file} {value}");
        }
    }
}
