// SPDX-License-Identifier: Apache-2.0
//! `orlop exec`.

use std::path::{Component, Path};

use anyhow::{Context, Result, anyhow, bail};

use crate::cli::Exec;
use crate::command::create::{listen_fds, wishes};
use crate::command::policy::govern_exec;
use crate::error::{ResultExt, report};
use crate::host::Host;
use crate::kernel::cgroup::SubCgroup;
use crate::kernel::procfs::Proc;
use crate::plan::config::Process;
use crate::plan::problem::Problems;
use crate::plan::{Plan, Request, capabilities};
use crate::process::{exec, foreground};
use crate::spec;
use crate::state::{Root, State, StateDir, Status};
use crate::trace::{Phase, mark};

/// The exit status of an `exec` that fails before its program runs, as runc's.
const FAILED: u8 = 255;

/// Runs a process in a container. In the foreground the exit status is the program's.
pub fn exec(root: &Root, args: &Exec) -> Result<u8> {
    let id = &args.id.id;
    Ok(run(root, args).unwrap_or_else(|e| failed(id, e)))
}

/// Reports the failure of an `exec` whose program did not run, and gives its exit status.
pub fn failed(id: &str, error: anyhow::Error) -> u8 {
    report(&error.context(format!("exec {id}")));
    FAILED
}

fn run(root: &Root, args: &Exec) -> Result<u8> {
    mark(Phase::FindContainer);
    let dir = root.container(&args.id.id)?;
    let state = dir.complete_state()?;
    let proc = Proc::open()?;
    match state.status(&proc)? {
        Status::Stopped => bail!("cannot exec in a stopped container"),
        Status::Paused if !args.ignore_paused => {
            bail!("cannot exec in a paused container (use --ignore-paused to override)")
        }
        _ => {}
    }
    mark(Phase::Host);
    let host = Host::detect()?;
    mark(Phase::Plan);
    let sub = sub_cgroups(&args.cgroup)?;
    let plan = plan(&dir, &state, &host, args)?;
    let wishes = wishes(&plan, &args.receivers, args.detach)?;
    let found = proc.find(&state.init)?.context("cannot exec in a stopped container")?;
    let executed = exec::exec(&plan, &host, &state, &found, &wishes, &sub, !args.detach)?;
    if args.detach {
        return Ok(0);
    }
    Ok(foreground::wait(&executed.child, executed.master.as_ref(), &executed.signals, None)?.status())
}

/// The plan of the container, from the config as it was at create, with another process.
fn plan(dir: &StateDir, state: &State, host: &Host, args: &Exec) -> Result<Plan> {
    let mut config = spec::parse(dir.config()?)?;
    let mut request = Request { preserve_fds: args.preserve_fds, listen_fds: listen_fds(), ..state.request() };
    let container = config.spec.process.take().context("the container's config has no process")?;
    let ceiling = capabilities::bounding(&container);
    let mut process = match &args.process {
        Some(path) => whole(path, &container, args.tty)?,
        None => changed(container, args)?,
    };
    let read = config.unresolved.as_ref().unwrap_or(&config.bytes);
    request.extra_seccomp = govern_exec(dir, read, &mut process, ceiling)?;
    config.spec.process = Some(process);
    let (plan, problems) = Plan::from_spec(&config.spec, host, &request);
    // What is odd in the container's own config was said at create, and a program's output belongs on stderr alone.
    for warning in &problems.warnings {
        crate::log::debug(&warning.to_string());
    }
    let plan = plan.ok_or(Problems { warnings: Vec::new(), ..problems })?;
    let sets = plan.process.capabilities;
    for (name, set) in [("bounding", sets.bounding), ("permitted", sets.permitted), ("inheritable", sets.inheritable)] {
        let excess = set.without(ceiling);
        if !excess.is_empty() {
            let refused: Result<Plan> =
                Err(anyhow!("process.capabilities.{name}: {} not in the container's bounding set", excess.names()));
            return refused.hint("a process of a container may have what its config allows, and no more");
        }
    }
    Ok(plan)
}

/// `--process FILE`. What the file leaves out is as init has it; and what confines init confines this process whatever the
/// file says.
fn whole(path: &Path, container: &Process, tty: bool) -> Result<Process> {
    let bytes = std::fs::read(path).with_context(|| format!("--process {path:?}"))?;
    let mut process: Process = spec::parse_process(&bytes).with_context(|| format!("--process {path:?}"))?;
    let init = container.clone();
    // conmon passes --tty beside a file that says so, too.
    process.terminal = Some(process.terminal == Some(true) || tty);
    process.env = process.env.or(init.env);
    process.no_new_privileges = Some(process.no_new_privileges == Some(true) || init.no_new_privileges == Some(true));
    process.capabilities = process.capabilities.or(init.capabilities);
    process.apparmor_profile = process.apparmor_profile.filter(|p| !p.is_empty()).or(init.apparmor_profile);
    process.selinux_label = process.selinux_label.filter(|l| !l.is_empty()).or(init.selinux_label);
    process.rlimits = process.rlimits.or(init.rlimits);
    process.oom_score_adj = process.oom_score_adj.or(init.oom_score_adj);
    process.scheduler = process.scheduler.or(init.scheduler);
    process.io_priority = process.io_priority.or(init.io_priority);
    process.exec_cpu_affinity = process.exec_cpu_affinity.or(init.exec_cpu_affinity);
    if process.user.umask().is_none() {
        process.user.set_umask(init.user.umask());
    }
    Ok(process)
}

/// Init's process with the changes of the command line.
fn changed(mut process: Process, args: &Exec) -> Result<Process> {
    if args.command.is_empty() {
        bail!("a program is missing: name one, or pass --process FILE");
    }
    process.args = Some(args.command.clone());
    process.terminal = Some(args.tty);
    if let Some(cwd) = &args.cwd {
        process.cwd.clone_from(cwd);
    }
    process.env.get_or_insert_default().extend(args.env.iter().cloned());
    if let Some(user) = &args.user {
        let (uid, gid) = parse_user(user)?;
        process.user.set_uid(uid);
        if let Some(gid) = gid {
            process.user.set_gid(gid);
        }
    }
    if !args.additional_gids.is_empty() {
        let mut groups = process.user.additional_gids().clone().unwrap_or_default();
        groups.extend(&args.additional_gids);
        process.user.set_additional_gids(Some(groups));
    }
    if args.no_new_privs {
        process.no_new_privileges = Some(true);
    }
    process.selinux_label = args.process_label.clone().or(process.selinux_label);
    process.apparmor_profile = args.apparmor.clone().or(process.apparmor_profile);
    capabilities::add(&mut process, &args.cap).map_err(|name| anyhow!("--cap {name}: unknown capability"))?;
    Ok(process)
}

/// `UID[:GID]`, digits only: a name would have to be looked up in a file of the container's (CVE-2016-3697).
fn parse_user(text: &str) -> Result<(u32, Option<u32>)> {
    let number = |part: &str| {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<u32>().ok().filter(|id| digits && *id != u32::MAX)
    };
    let parsed = match text.split_once(':') {
        None => number(text).map(|uid| (uid, None)),
        Some((uid, gid)) => number(uid).zip(number(gid)).map(|(uid, gid)| (uid, Some(gid))),
    };
    parsed.ok_or_else(|| anyhow!("--user {text:?}: expected UID or UID:GID in digits"))
}

/// `--cgroup`, as runc has it: one path for every hierarchy, or one for each of some v1 controllers.
fn sub_cgroups(words: &[String]) -> Result<Vec<SubCgroup>> {
    let mut all: Vec<SubCgroup> = Vec::new();
    for word in words {
        let (controllers, path) = word.split_once(':').unwrap_or(("", word));
        let controllers: Vec<String> = controllers.split(',').filter(|c| !c.is_empty()).map(str::to_string).collect();
        if controllers.is_empty() && (words.len() > 1 || word.contains(':')) {
            bail!("--cgroup {word:?}: missing <controller>: prefix");
        }
        if let Some(twice) = controllers.iter().find(|c| all.iter().any(|sub| sub.controllers.contains(c))) {
            bail!("--cgroup {word:?}: controller {twice} specified multiple times");
        }
        let relative = Path::new(path.strip_prefix('/').unwrap_or(path));
        let plain = relative.components().all(|c| matches!(c, Component::Normal(_)));
        if !plain || relative.as_os_str().is_empty() || path.contains(':') {
            bail!("--cgroup {word:?}: bad sub cgroup path, expected one below the container's cgroup");
        }
        all.push(SubCgroup { controllers, path: relative.to_path_buf() });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers() {
        assert_eq!(parse_user("1000").unwrap(), (1000, None));
        assert_eq!(parse_user("0:5").unwrap(), (0, Some(5)));
        for text in ["", "root", "1:", ":1", "+1", "1:2:3", "4294967295", "-1"] {
            assert!(parse_user(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_sub_cgroup_stays_below() {
        let subs = |words: &[&str]| sub_cgroups(&words.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(subs(&["/a/b"]).unwrap()[0].path, Path::new("a/b"));
        assert_eq!(subs(&["cpu,cpuacct:a", "pids:b"]).unwrap()[1].controllers, ["pids"]);
        for words in [
            &[""][..],
            &["/"],
            &["../x"],
            &["a/../b"],
            &["cpu:../x"],
            &["cpu:a:b"],
            &[":a"],
            &["a", "b"],
            &["cpu:a", "memory,cpu:b"],
        ] {
            assert!(subs(words).is_err(), "{words:?}");
        }
    }
}
