// SPDX-License-Identifier: Apache-2.0
//! systemd's manager over D-Bus (org.freedesktop.systemd1(5)): makes the unit whose cgroup is the container's, changes it and
//! removes it. Nothing here runs without `--systemd-cgroup`.
//!
//! A scope is made of a process. That is not the container's: a placeholder, which does nothing, holds the scope open until
//! limits are set and init has been born in it (`CLONE_INTO_CGROUP`), so that nothing of the container is ever outside its
//! limits, and no other step of `create` knows who made the cgroup.

mod bus;

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::Pid;

use self::bus::{Answer, Bus, Call, Refusal};
use crate::error::{ResultExt, one_line};
use crate::plan::systemd::{Manager, Property, Remembered, Unit, Variant};
use crate::sys::clone::{Child, Clone, clone3, exit};
use crate::sys::fd::close_range;
use crate::sys::process::{pidfd_send_signal, set_parent_death_signal, wait};

const SERVICE: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// How long systemd may take for an answer, and for a job.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How often a unit is tried again whose predecessor of the same name is about to be forgotten.
const TRIES: u32 = 6;

/// Asks the systemd that is in charge of the caller what it is: a user's own, unless the caller is root where systemd runs.
pub fn manager() -> Result<Manager> {
    let user = !nix::unistd::geteuid().is_root() || !shares_user_namespace_of_pid_1();
    let mut bus = connect(user)?;
    let version = property(&mut bus, "Version")?;
    let number: String = version.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    let control_group = property(&mut bus, "ControlGroup")?;
    Ok(Manager {
        version: number.parse().with_context(|| format!("systemd has the version {version:?}"))?,
        user,
        control_group: control_group.trim_matches('/').into(),
    })
}

/// Root of a user namespace has a systemd of its own only if PID 1 is in that too, as in a system container.
fn shares_user_namespace_of_pid_1() -> bool {
    let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user"));
    matches!((of("1"), of("self")), (Ok(one), Ok(own)) if one == own)
}

fn connect(user: bool) -> Result<Bus> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (address, private) = if user {
        let directory = variable("XDG_RUNTIME_DIR");
        let below = |name: &str| directory.as_ref().map(|directory| format!("unix:path={directory}/{name}"));
        (variable("DBUS_SESSION_BUS_ADDRESS").or_else(|| below("bus")), below("systemd/private"))
    } else {
        let usual = || "unix:path=/run/dbus/system_bus_socket".to_string();
        let given = variable("DBUS_SYSTEM_BUS_ADDRESS");
        // Who names a bus means that one.
        let private = given.is_none().then(|| "unix:path=/run/systemd/private".to_string());
        (Some(given.unwrap_or_else(usual)), private)
    };
    let Some(address) = address else {
        let missing: Result<Bus> = Err(anyhow!("the user's systemd cannot be reached: XDG_RUNTIME_DIR is not set"));
        return missing.hint("log in by a session of pam_systemd(8), or set DBUS_SESSION_BUS_ADDRESS");
    };
    bus::connect(&address, false, TIMEOUT).or_else(|e| {
        // systemd's own socket, as systemctl(1) has it where there is no bus.
        let private = private.and_then(|private| bus::connect(&private, true, TIMEOUT).ok());
        private.ok_or(e).context("systemd cannot be reached").hint(if user {
            "needs the user's own systemd: loginctl enable-linger USER starts it without a session; or do without --systemd-cgroup"
        } else {
            "is systemd running on this host? if not, do without --systemd-cgroup: orlop then makes cgroups itself"
        })
    })
}

fn property(bus: &mut Bus, name: &str) -> Result<String> {
    let call = Call {
        destination: SERVICE,
        path: OBJECT,
        interface: "org.freedesktop.DBus.Properties",
        member: "Get",
        arguments: &[Variant::text(MANAGER), Variant::text(name)],
    };
    let mut body = explained(bus.call(&call)?).with_context(|| format!("property {name} of systemd"))?;
    body.signature()?;
    body.text()
}

fn call(bus: &mut Bus, member: &str, arguments: &[Variant]) -> Result<Answer> {
    bus.call(&Call { destination: SERVICE, path: OBJECT, interface: MANAGER, member, arguments })
}

/// Adds what to do about a refusal.
fn explained(answer: Answer) -> Result<bus::Body> {
    let refusal = match answer {
        Ok(body) => return Ok(body),
        Err(refusal) => refusal,
    };
    let hint = match refusal.name.rsplit('.').next().unwrap_or_default() {
        "ServiceUnknown" | "NameHasNoOwner" => "there is a bus, but no systemd on it: do without --systemd-cgroup",
        "AccessDenied" | "InteractiveAuthorizationRequired" => "only root may ask the system's systemd",
        "UnitExists" => {
            "another container uses the unit: give another linux.cgroupsPath, or stop it with systemctl stop"
        }
        "PropertyReadOnly" | "UnknownProperty" | "InvalidArgs" => {
            "a property that this systemd does not take: see linux.resources and the annotations org.systemd.property.*"
        }
        _ => return Err(refusal.into()),
    };
    Err(refusal).hint(hint)
}

fn is(refusal: &Refusal, last: &str) -> bool {
    refusal.name.rsplit('.').next() == Some(last)
}

/// Properties as an argument: `a(sv)`.
fn properties<'a>(list: impl Iterator<Item = &'a Property>) -> Variant {
    let pair = |property: &Property| {
        Variant::Tuple(vec![Variant::text(&property.name), Variant::Boxed(Box::new(property.value.clone()))])
    };
    Variant::Array("(sv)".into(), list.map(pair).collect())
}

/// A unit that has been started, until a process of the container is in it.
#[derive(Debug)]
pub struct Started {
    bus: Bus,
    unit: String,
    placeholder: Option<Placeholder>,
}

/// Starts the unit and waits until it is there.
///
/// # Errors
/// If there is such a unit already, if systemd refuses a property, or does not answer. Nothing is left then.
pub fn start(unit: &Unit) -> Result<Started> {
    let mut bus = connect(unit.manager.user)?;
    let placeholder = if unit.is_scope() { Some(Placeholder::new()?) } else { None };
    let mut all: Vec<Property> = unit.properties.iter().chain(&unit.limits).cloned().collect();
    if let Some(placeholder) = &placeholder {
        let pid = Variant::u32(placeholder.0.pid.as_raw().unsigned_abs());
        all.push(Property::new("PIDs", Variant::Array("u".into(), vec![pid])));
    }
    let context = || format!("start {}", unit.name);
    let none = Variant::Array("(sa(sv))".into(), Vec::new());
    let arguments = [Variant::text(&unit.name), Variant::text("replace"), properties(all.iter()), none];
    let mut tries = 0;
    let answer = loop {
        match call(&mut bus, "StartTransientUnit", &arguments).with_context(context)? {
            // One that has failed is kept to be looked at, and one that has ended for a moment.
            Err(refusal) if is(&refusal, "UnitExists") && tries < TRIES => {
                drop(call(&mut bus, "ResetFailedUnit", &[Variant::text(&unit.name)])?);
                std::thread::sleep(Duration::from_millis(5 << tries));
                tries += 1;
            }
            answer => break answer,
        }
    };
    // A unit that exists is someone else's: nothing is taken back.
    let mut body = explained(answer).with_context(context)?;
    let ended = body.text().and_then(|job| bus.wait_for_job(&job)).and_then(|result| match result.as_str() {
        "done" => Ok(()),
        _ => Err(anyhow!("systemd could not start it: {result}"))
            .hint(format!("journalctl --unit {} says more", unit.name)),
    });
    let started = Started { bus, unit: unit.name.clone(), placeholder };
    match ended {
        Ok(()) => Ok(started),
        Err(e) => {
            started.take_back();
            Err(e).with_context(context)
        }
    }
}

impl Started {
    /// Moves a process into the unit: where the caller may not clone one into it, because the cgroup above both belongs to
    /// someone else (cgroups(7), "Delegation Containment Rules").
    pub fn attach(&mut self, pid: Pid) -> Result<()> {
        attach_on(&mut self.bus, &self.unit, "", pid)
    }

    /// A process of the container is in the unit.
    pub fn hold_no_more(&mut self) {
        self.placeholder = None;
    }

    /// Stops the unit, after a failure, which is the error to report.
    pub fn take_back(mut self) {
        self.placeholder = None;
        if let Err(e) = stop_on(&mut self.bus, &self.unit) {
            crate::log::warn(&format!("clearing up after the failure: {}", one_line(&e)));
        }
    }

    /// What a clone must not keep.
    pub fn raw_fds(&self) -> Vec<RawFd> {
        let pidfd = self.placeholder.as_ref().map(|placeholder| placeholder.0.pidfd.as_raw_fd());
        pidfd.into_iter().chain([self.bus.stream().as_raw_fd()]).collect()
    }
}

/// [`Started::attach`] for a container that exists; with `sub`, into a cgroup below the unit's.
pub fn attach(remembered: &Remembered, sub: Option<&Path>, pid: Pid) -> Result<()> {
    let sub = sub.map(|sub| format!("/{}", sub.display())).unwrap_or_default();
    attach_on(&mut connect(remembered.manager.user)?, &remembered.unit, &sub, pid)
}

fn attach_on(bus: &mut Bus, unit: &str, sub: &str, pid: Pid) -> Result<()> {
    let pids = Variant::Array("u".into(), vec![Variant::u32(pid.as_raw().unsigned_abs())]);
    let answer = call(bus, "AttachProcessesToUnit", &[Variant::text(unit), Variant::text(sub), pids])?;
    explained(answer).map(drop).with_context(|| format!("move process {pid} into {unit}"))
}

/// Changes properties of a unit that runs, until it ends.
pub fn set(remembered: &Remembered, changed: &[Property]) -> Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let mut bus = connect(remembered.manager.user)?;
    let arguments = [Variant::text(&remembered.unit), Variant::bool(true), properties(changed.iter())];
    let answer = call(&mut bus, "SetUnitProperties", &arguments)?;
    explained(answer).map(drop).with_context(|| format!("change {}", remembered.unit))
}

/// Stops a unit and makes systemd forget it. One that is gone is fine.
pub fn stop(remembered: &Remembered) -> Result<()> {
    stop_on(&mut connect(remembered.manager.user)?, &remembered.unit)
}

fn stop_on(bus: &mut Bus, unit: &str) -> Result<()> {
    let mut stopped = || -> Result<()> {
        match call(bus, "StopUnit", &[Variant::text(unit), Variant::text("replace")])? {
            Ok(mut body) => {
                let job = body.text()?;
                let result = bus.wait_for_job(&job)?;
                if result != "done" {
                    bail!("systemd could not stop it: {result}");
                }
            }
            Err(refusal) if is(&refusal, "NoSuchUnit") => return Ok(()),
            Err(refusal) => return explained(Err(refusal)).map(drop),
        }
        // It fails unless the unit has failed, which is what makes systemd keep it.
        drop(call(bus, "ResetFailedUnit", &[Variant::text(unit)])?);
        Ok(())
    };
    stopped().with_context(|| format!("stop {unit}"))
}

/// A process that is there and nothing else. It ends with its parent.
#[derive(Debug)]
struct Placeholder(Child);

impl Placeholder {
    fn new() -> Result<Placeholder> {
        let parent = Pid::this();
        match clone3(0, None).context("clone a process to begin the scope with")? {
            Clone::Parent(child) => Ok(Placeholder(child)),
            Clone::Child => {
                // The parent's locks and sockets among them.
                drop(close_range(0, u32::MAX));
                if set_parent_death_signal(libc::SIGKILL).is_err() || Pid::parent() != parent {
                    exit(1);
                }
                loop {
                    nix::unistd::pause();
                }
            }
        }
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        // Dead already is as good.
        drop(pidfd_send_signal(self.0.pidfd.as_fd(), libc::SIGKILL));
        drop(wait(self.0.pidfd.as_fd(), true));
    }
}
