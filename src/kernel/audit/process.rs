// SPDX-License-Identifier: Apache-2.0
//! Ids, capabilities, filters, limits, namespaces and names of init.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, stat};

use super::{Report, Subject};
use crate::kernel::procfs::Proc;
use crate::plan::capabilities::Set;
use crate::plan::idmap::{Range, render, to_host};
use crate::plan::namespaces::{Kind, Namespace};
use crate::sys::call;
use crate::sys::clone::setns;

/// /proc/PID/status (proc_pid_status(5)).
struct Status {
    name: String,
    text: String,
}

impl Status {
    fn read(proc: &Proc, pid: i32) -> Result<Self> {
        let name = format!("{pid}/status");
        Ok(Self { text: proc.read(&name)?, name: format!("/proc/{name}") })
    }

    fn field(&self, name: &str) -> &str {
        let found = self.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.map(str::trim).unwrap_or_default()
    }

    fn what(&self, field: &str) -> String {
        format!("{} {field}", self.name)
    }
}

/// What /proc/PID/status says.
pub fn credentials(subject: &Subject<'_>, proc: &Proc, report: &mut Report) -> Result<()> {
    let pid = subject.init.pid;
    let (plan, process) = (subject.plan, &subject.plan.process);
    let status = Status::read(proc, pid)?;
    let own = Status::read(proc, nix::unistd::Pid::this().as_raw())?;
    let (uids, gids) = if plan.namespaces.is_separate(Kind::User) {
        (Map::read(proc, pid, "uid_map")?, Map::read(proc, pid, "gid_map")?)
    } else {
        (Map::identity(), Map::identity())
    };
    for (field, path, id) in
        [("Uid", "process.user.uid", uids.host(process.uid)), ("Gid", "process.user.gid", gids.host(process.gid))]
    {
        // Real, effective, saved and of the file system.
        let now = status.field(field).split_whitespace().collect::<Vec<_>>().join(" ");
        report.compare(status.what(field), path, format!("{id} {id} {id} {id}"), now);
    }
    groups(subject, &status, &gids, report);
    let sets = process.capabilities_after_execve;
    for (field, name, set) in [
        ("CapBnd", "bounding", sets.bounding),
        ("CapPrm", "permitted", sets.permitted),
        ("CapEff", "effective", sets.effective),
        ("CapInh", "inheritable", sets.inheritable),
        ("CapAmb", "ambient", sets.ambient),
    ] {
        let now = Set(u64::from_str_radix(status.field(field), 16).unwrap_or(u64::MAX));
        let words = |set: Set| if set.is_empty() { "none".to_string() } else { set.names() };
        report.compare(status.what(field), &format!("process.capabilities.{name}"), words(set), words(now));
    }
    let asked = i32::from(process.no_new_privileges).to_string();
    // What the caller has set cannot be unset, and is handed on.
    let asked = if own.field("NoNewPrivs") == "1" { "1".to_string() } else { asked };
    report.compare(status.what("NoNewPrivs"), "process.noNewPrivileges", asked, status.field("NoNewPrivs"));
    let inherited: u32 = own.field("Seccomp_filters").parse().unwrap_or(0);
    let filters = inherited + u32::from(plan.seccomp.is_some());
    let mode = if filters > 0 { "2" } else { "0" };
    report.compare(status.what("Seccomp"), "linux.seccomp", mode, status.field("Seccomp"));
    // Linux 5.9.
    if !own.field("Seccomp_filters").is_empty() {
        let now = status.field("Seccomp_filters");
        report.compare(status.what("Seccomp_filters"), "linux.seccomp", filters.to_string(), now);
    }
    if let Some(score) = process.oom_score_adj {
        let now = proc.read(&format!("{pid}/oom_score_adj"))?;
        report.compare(
            format!("/proc/{pid}/oom_score_adj"),
            "process.oomScoreAdj",
            score.to_string(),
            now.trim().to_string(),
        );
    }
    Ok(())
}

/// Additional groups, unless they were the caller's and the kernel forbade to change them.
fn groups(subject: &Subject<'_>, status: &Status, gids: &Map, report: &mut Report) {
    let process = &subject.plan.process;
    let own_alone = subject.plan.ordinary_user && process.additional_gids.is_empty();
    if process.keeps_groups || own_alone {
        return;
    }
    let asked: BTreeSet<u32> = process.additional_gids.iter().map(|gid| gids.host(*gid)).collect();
    let now: BTreeSet<u32> = status.field("Groups").split_whitespace().filter_map(|gid| gid.parse().ok()).collect();
    let words = |set: &BTreeSet<u32>| set.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    report.compare(status.what("Groups"), "process.user.additionalGids", words(&asked), words(&now));
}

/// The id map of a process.
struct Map(Vec<Range>);

impl Map {
    fn identity() -> Self {
        Self(vec![Range { container: 0, host: 0, size: u32::MAX }])
    }

    fn read(proc: &Proc, pid: i32, file: &str) -> Result<Self> {
        let text = proc.read(&format!("{pid}/{file}"))?;
        let range = |line: &str| {
            let mut numbers = line.split_whitespace().map_while(|word| word.parse().ok());
            Some(Range { container: numbers.next()?, host: numbers.next()?, size: numbers.next()? })
        };
        Ok(Self(text.lines().filter_map(range).collect()))
    }

    /// The kernel's overflow id stands for one that is not mapped.
    fn host(&self, id: u32) -> u32 {
        to_host(&self.0, id).unwrap_or(65534)
    }
}

/// The maps of a user namespace that was made for the container.
pub fn maps(subject: &Subject<'_>, proc: &Proc, report: &mut Report) -> Result<()> {
    let Some(idmap) = &subject.plan.idmap else { return Ok(()) };
    for (file, path, asked) in
        [("uid_map", "linux.uidMappings", &idmap.uid), ("gid_map", "linux.gidMappings", &idmap.gid)]
    {
        // The kernel gives the ranges in an order of its own if there are more than five.
        let words = |ranges: &[Range]| {
            let mut ranges = ranges.to_vec();
            ranges.sort_by_key(|range| range.container);
            render(&ranges).trim_end().replace('\n', ", ")
        };
        let now = Map::read(proc, subject.init.pid, file)?;
        report.compare(format!("/proc/{}/{file}", subject.init.pid), path, words(asked), words(&now.0));
    }
    Ok(())
}

/// `process.rlimits`, in /proc/PID/limits by the kernel's names (fs/proc/base.c).
pub fn limits(subject: &Subject<'_>, proc: &Proc, report: &mut Report) -> Result<()> {
    const NAMES: [(&str, &str); 16] = [
        ("RLIMIT_CPU", "Max cpu time"),
        ("RLIMIT_FSIZE", "Max file size"),
        ("RLIMIT_DATA", "Max data size"),
        ("RLIMIT_STACK", "Max stack size"),
        ("RLIMIT_CORE", "Max core file size"),
        ("RLIMIT_RSS", "Max resident set"),
        ("RLIMIT_NPROC", "Max processes"),
        ("RLIMIT_NOFILE", "Max open files"),
        ("RLIMIT_MEMLOCK", "Max locked memory"),
        ("RLIMIT_AS", "Max address space"),
        ("RLIMIT_LOCKS", "Max file locks"),
        ("RLIMIT_SIGPENDING", "Max pending signals"),
        ("RLIMIT_MSGQUEUE", "Max msgqueue size"),
        ("RLIMIT_NICE", "Max nice priority"),
        ("RLIMIT_RTPRIO", "Max realtime priority"),
        ("RLIMIT_RTTIME", "Max realtime timeout"),
    ];
    if subject.plan.process.rlimits.is_empty() {
        return Ok(());
    }
    let name = format!("{}/limits", subject.init.pid);
    let text = proc.read(&name)?;
    for (i, limit) in subject.plan.process.rlimits.iter().enumerate() {
        let title = NAMES.iter().find(|(name, _)| *name == limit.name).map_or("", |(_, title)| title);
        let line = text.lines().find_map(|line| line.strip_prefix(title)).unwrap_or_default();
        let now = line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        let word = |value: u64| if value == u64::MAX { "unlimited".to_string() } else { value.to_string() };
        let asked = format!("{} {}", word(limit.soft), word(limit.hard));
        report.compare(format!("/proc/{name} {title}"), &format!("process.rlimits[{i}]"), asked, now);
    }
    Ok(())
}

/// The eight namespaces: the caller's, another, or the one at a path.
pub fn namespaces(subject: &Subject<'_>, report: &mut Report) -> Result<()> {
    let inode = |path: &str| -> Result<Option<(u64, u64)>> {
        match stat(path) {
            Ok(found) => Ok(Some((found.st_dev, found.st_ino))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => call!("stat({path:?})" => Err(errno)).map_err(Into::into),
        }
    };
    for (kind, asked) in subject.plan.namespaces.all() {
        let what = format!("/proc/{}/ns/{}", subject.init.pid, kind.file());
        let (now, own) = (inode(&what)?, inode(&format!("/proc/self/ns/{}", kind.file()))?);
        let (Some(now), Some(own)) = (now, own) else { continue };
        let path = "linux.namespaces";
        let name = kind.name();
        match asked {
            Namespace::New => {
                report.judge(now != own, what, path, format!("a {name} namespace of its own"), "that of the caller");
            }
            Namespace::Inherit => report.judge(
                now == own,
                what,
                path,
                format!("the {name} namespace of the caller"),
                format!("{name}:[{}]", now.1),
            ),
            Namespace::Join(file) => match inode(&file.to_string_lossy())? {
                Some(wanted) => report.judge(
                    now == wanted,
                    what,
                    path,
                    format!("{}, {name}:[{}]", file.display(), wanted.1),
                    format!("{name}:[{}]", now.1),
                ),
                None => report.note(format!("{} is gone: the {name} namespace is not compared", file.display())),
            },
        }
    }
    Ok(())
}

/// Host and domain name: they can be read from inside the UTS namespace only, so that this process goes there and back.
pub fn names(subject: &Subject<'_>, report: &mut Report) -> Result<()> {
    let plan = subject.plan;
    if plan.hostname.is_none() && plan.domainname.is_none() {
        return Ok(());
    }
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let own = call!("open(\"/proc/self/ns/uts\")" => open("/proc/self/ns/uts", flags, Mode::empty()))?;
    match setns(subject.found.pidfd.as_fd(), Kind::Uts.flag()) {
        Err(e) if e.errno == Errno::EPERM => {
            report.note("host and domain name are not compared: that takes CAP_SYS_ADMIN");
            return Ok(());
        }
        entered => entered?,
    }
    let names = nix::sys::utsname::uname();
    setns(own.as_fd(), Kind::Uts.flag())?;
    let names = names.context("uname")?;
    for (path, asked, now) in
        [("hostname", &plan.hostname, names.nodename()), ("domainname", &plan.domainname, names.domainname())]
    {
        if let Some(asked) = asked {
            report.compare(path, path, asked.clone(), now.to_string_lossy());
        }
    }
    Ok(())
}
