// SPDX-License-Identifier: Apache-2.0
//! Whether init is in its cgroups, the limits in their files, and the device rules.

use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::unistd::Pid;

use super::values::{Asked, is_in_force, merge};
use super::{Report, Subject};
use crate::kernel::cgroup::Existing;
use crate::plan::cgroup::{Missing, Place, Version, Write};
use crate::plan::device_filter::{self, Rule};
use crate::sys::bpf;

const DEVICES: &str = "linux.resources.devices";

pub fn audit(subject: &Subject<'_>, report: &mut Report) -> Result<()> {
    let plan = &subject.plan.cgroup;
    // Recorded at create: the caller's own cgroup, below which it may lie, can be another by now.
    let recorded = |place: &Place| {
        let exact = place.mount_point.join(&place.path);
        let all = subject.cgroups.iter();
        all.clone()
            .find(|path| **path == exact)
            .or_else(|| all.clone().find(|path| path.starts_with(&place.mount_point)))
    };
    for place in &plan.places {
        let Some(path) = recorded(place) else { continue };
        let existing = Existing::open(std::slice::from_ref(path))?;
        if existing.is_empty() {
            report.judge(false, path.display().to_string(), "linux.cgroupsPath", "a cgroup", "it is gone");
            continue;
        }
        let inside = existing.pids()?.contains(&Pid::from_raw(subject.init.pid));
        let what = format!("{}/cgroup.procs", path.display());
        report.judge(inside, what, "linux.cgroupsPath", format!("{} in it", subject.init.pid), "it is elsewhere");
        let own: Vec<&Write> = plan.writes.iter().filter(|write| holds(place, write)).collect();
        files(&own, path, &existing, report)?;
        if place.version == Version::V1 && place.controllers.iter().any(|c| c == "devices") {
            device_list(&own, path, &existing, report)?;
        }
        if place.version == Version::V2
            && !subject.plan.ordinary_user
            && (!plan.devices.is_empty() || !has_v1_devices(&plan.places))
        {
            let alone = plan.driver.unit().is_none();
            device_program(&plan.devices, alone, path, &existing, report)?;
        }
    }
    Ok(())
}

fn holds(place: &Place, write: &Write) -> bool {
    place.controllers.contains(&write.controller) || write.controller == "cgroup" && place.version == Version::V2
}

fn has_v1_devices(places: &[Place]) -> bool {
    places.iter().any(|place| place.version == Version::V1 && place.controllers.iter().any(|c| c == "devices"))
}

fn files(writes: &[&Write], path: &Path, existing: &Existing, report: &mut Report) -> Result<()> {
    let asked = writes.iter().filter(|write| write.controller != "devices").map(|write| {
        let (file, value) = (write.file.as_str(), write.value.as_str());
        Asked { path: &write.field, file, value, missing: &write.missing }
    });
    for asked in merge(asked) {
        let read = |file: &str| match existing.read(file) {
            Err(e) if e.errno == Errno::ENOENT => Ok(None),
            text => text.map(Some),
        };
        let (file, value, text) = match (read(asked.file)?, asked.missing) {
            (Some(text), _) => (asked.file, asked.value, Some(text)),
            (None, Missing::Skip) => continue,
            (None, Missing::Instead { file, value }) => (file.as_str(), value.as_str(), read(file)?),
            (None, Missing::Fail) => (asked.file, asked.value, None),
        };
        let what = format!("{}/{file}", path.display());
        match text {
            None => report.judge(false, what, asked.path, value, "there is no such file"),
            Some(text) => {
                let now = text.trim().replace('\n', ", ");
                report.judge(is_in_force(file, value, &text), what, asked.path, value, now);
            }
        }
    }
    Ok(())
}

/// cgroup v1: `devices.list` has the exceptions of a list that denies, and `a *:* rwm` for one that allows; what such a
/// one denies the kernel does not show.
fn device_list(writes: &[&Write], path: &Path, existing: &Existing, report: &mut Report) -> Result<()> {
    let devices: Vec<&&Write> = writes.iter().filter(|write| write.controller == "devices").collect();
    let denies = devices.first().is_some_and(|first| first.file == "devices.deny" && first.value == "a");
    let mut asked: Vec<&str> =
        if denies { devices.iter().skip(1).map(|write| write.value.as_str()).collect() } else { vec!["a *:* rwm"] };
    let text = existing.read("devices.list")?;
    let mut now: Vec<&str> = text.lines().map(str::trim).collect();
    asked.sort_unstable();
    now.sort_unstable();
    let without = |these: &[&str], those: &[&str]| {
        these.iter().filter(|rule| !those.contains(rule)).copied().collect::<Vec<_>>().join(", ")
    };
    let (lost, more) = (without(&asked, &now), without(&now, &asked));
    let word = |text: String| if text.is_empty() { "nothing else".to_string() } else { text };
    let what = format!("{}/devices.list", path.display());
    report.judge(lost.is_empty() && more.is_empty(), what, DEVICES, word(lost), word(more));
    Ok(())
}

/// cgroup v2: the program attached is the one that the rules become, which the kernel's tag of it tells. `alone`: there is
/// none of systemd's beside it, which could only deny more.
fn device_program(rules: &[Rule], alone: bool, path: &Path, existing: &Existing, report: &mut Report) -> Result<()> {
    let what = format!("device program of {}", path.display());
    let dir = existing.directory().context("the cgroup is gone")?;
    // The file is opened for its kind of descriptor: bpf(2) takes no O_PATH one on older kernels.
    let attached = match bpf::attached_device_programs(dir.as_fd()) {
        Err(e) if matches!(e.errno, Errno::EPERM | Errno::EINVAL) => {
            report.note(format!("{what}: not compared: {e}"));
            return Ok(());
        }
        attached => attached?,
    };
    let mut tags = Vec::new();
    for id in &attached {
        tags.push(bpf::program_tag(bpf::program_by_id(*id)?.as_fd())?);
    }
    let name = |tag: &[u8; 8]| tag.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let all = |tags: &[[u8; 8]]| {
        if tags.is_empty() { "none".to_string() } else { tags.iter().map(name).collect::<Vec<_>>().join(", ") }
    };
    let asked = if rules.is_empty() {
        Vec::new()
    } else {
        let program = device_filter::program(rules).context("too many rules")?;
        // Loaded and let go at once: it is attached to nothing.
        vec![bpf::program_tag(bpf::load_device_program(&program)?.as_fd())?]
    };
    let own: Vec<_> = tags.iter().filter(|tag| alone || asked.contains(tag)).copied().collect();
    report.compare(what, DEVICES, all(&asked), all(if own.is_empty() { &tags } else { &own }));
    Ok(())
}
