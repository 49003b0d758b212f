// SPDX-License-Identifier: Apache-2.0
//! Mapping subordinate ids (subuid(5), subgid(5)) for a caller who is not root, by newuidmap(1) and newgidmap(1), which
//! are set-user-ID root and know who may have which.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::Pid;

use crate::error::ResultExt;
use crate::plan::idmap::Range;
use crate::plan::lease::{covers, spans};

/// Where programs are looked for without PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One of the two maps, with the names that belong to it.
#[derive(Debug, Clone, Copy)]
pub struct Side {
    /// The field of config.json.
    pub field: &'static str,
    program: &'static str,
    file: &'static str,
}

pub const UID: Side = Side { field: "linux.uidMappings", program: "newuidmap", file: "/etc/subuid" };
pub const GID: Side = Side { field: "linux.gidMappings", program: "newgidmap", file: "/etc/subgid" };

/// The login name of `uid` in /etc/passwd, without NSS, which a static binary cannot load.
pub fn login_name(uid: u32) -> Option<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_string())
    })
}

impl Side {
    /// Finds the program, and makes sure that the caller may have every range, whose own id is `own` here: both are
    /// known before any process exists.
    pub fn check(self, ranges: &[Range], euid: u32, own: u32) -> Result<PathBuf> {
        let program = self.find().context(self.field)?;
        if names_come_from_elsewhere() {
            return Ok(program);
        }
        let text = match std::fs::read_to_string(self.file) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.with_context(|| self.file.to_string())?,
        };
        let (name, number) = (login_name(euid), euid.to_string());
        let user = name.as_deref().unwrap_or(&number);
        let allowed = spans(&text, &[user, &number]);
        for (i, range) in ranges.iter().enumerate() {
            let itself = range.size == 1 && range.host == own;
            if itself || covers(&allowed, range.host, range.size) {
                continue;
            }
            let Range { host, size, .. } = *range;
            let has = if allowed.is_empty() {
                "has none".to_string()
            } else {
                let ranges: Vec<_> =
                    allowed.iter().map(|s| format!("{} to {}", s.first, s.first + s.size - 1)).collect();
                format!("has {}", ranges.join(", "))
            };
            let last = u64::from(host) + u64::from(size) - 1;
            return Err(anyhow!("{}[{i}]: {host} to {last} are not ids that {user} may map: {user} {has}", self.field))
                .hint(format!("map what {} gives, or let root add the line {user}:{host}:{size} to it", self.file));
        }
        Ok(program)
    }

    fn find(self) -> Result<PathBuf> {
        let path = std::env::var_os("PATH").filter(|path| !path.is_empty()).unwrap_or_else(|| DEFAULT_PATH.into());
        let runs = |file: &PathBuf| {
            std::fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        };
        std::env::split_paths(&path)
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join(self.program))
            .find(runs)
            .ok_or_else(|| anyhow!("{} is not on PATH", self.program))
            .hint("it is in the package uidmap or shadow-utils; without it an ordinary user can map his own id alone")
    }

    /// Runs the program on the waiting process `pid`.
    pub fn write(self, program: &PathBuf, pid: Pid, ranges: &[Range]) -> Result<()> {
        let numbers = ranges.iter().flat_map(|r| [r.container, r.host, r.size]).map(|n| n.to_string());
        let arguments: Vec<String> = std::iter::once(pid.to_string()).chain(numbers).collect();
        crate::log::debug(&format!("{} {}", program.display(), arguments.join(" ")));
        let output = Command::new(program)
            .args(&arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("execve({program:?})"))
            .context(self.field)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let failed: Result<()> = (|| bail!("{} {}: {}", program.display(), output.status, said.trim()))();
        failed
            .hint(format!(
                "{} must be set-user-ID root (or have the file capability), not be on a nosuid mount, nor be called with \
                 no_new_privs set; and {} must give the ranges to the caller",
                self.program, self.file
            ))
            .context(self.field)
    }
}

/// shadow can look subordinate ids up elsewhere than in the two files: what those say is not the whole truth then.
fn names_come_from_elsewhere() -> bool {
    let text = std::fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
    let sources = text.lines().find_map(|line| line.trim().strip_prefix("subid:"));
    sources.is_some_and(|sources| sources.split_whitespace().any(|source| source != "files"))
}
