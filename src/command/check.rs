// SPDX-License-Identifier: Apache-2.0
//! `orlop check`.

mod host;
mod options;

use anyhow::{Context, Result, anyhow, bail};

use crate::cli::{CheckArgs, TextFormat};
use crate::command::{bundle, print, print_json};
use crate::error::ResultExt;
use crate::host::Host;
use crate::kernel::systemd;
use crate::plan::problem::Problems;
use crate::plan::{Plan, Request};
use crate::spec::examine::{Examination, Finding, Severity};
use crate::spec::{self, kernel_version};

/// Prints every fault and every warning of a bundle on this host, and changes nothing. Exit status 1 if there are faults.
pub fn check(args: &CheckArgs, systemd_cgroup: bool) -> Result<u8> {
    let mut findings = find(args, systemd_cgroup).context("check")?;
    if args.strict {
        findings.iter_mut().for_each(|finding| finding.severity = Severity::Error);
    }
    match args.format {
        TextFormat::Json => print_json(&findings)?,
        TextFormat::Text => print(&text(&findings)),
    }
    Ok(u8::from(findings.iter().any(|finding| finding.severity == Severity::Error)))
}

fn find(args: &CheckArgs, systemd_cgroup: bool) -> Result<Vec<Finding>> {
    if args.bundle.is_some() && args.directory.is_some() {
        bail!("--bundle and BUNDLE are the same: give one of them");
    }
    let bundle = bundle(args.bundle.as_deref().or(args.directory.as_deref()))?;
    let path = bundle.join("config.json");
    let bytes = std::fs::read(&path)
        .map_err(|e| anyhow!("{}: {}", path.display(), crate::sys::describe_io(&e)))
        .hint("a bundle is a directory with config.json; orlop spec writes one to begin with")?;
    if bytes.len() as u64 > spec::SIZE_LIMIT {
        bail!("{}: larger than {} bytes", path.display(), spec::SIZE_LIMIT);
    }
    let host = Host::detect()?;
    let mut examination = Examination::new(&bytes, kernel_version()?)?;
    if let Some(spec) = examination.spec.clone() {
        let systemd = if systemd_cgroup { Some(systemd::manager().context("--systemd-cgroup")?) } else { None };
        let request = Request { id: "check".into(), bundle: bundle.clone(), systemd, ..Request::default() };
        let (plan, problems) = Plan::from_spec(&spec, &host, &request);
        examination.add(problems);
        let mut problems = Problems::default();
        options::check(&spec, &mut problems);
        host::check(&spec, plan.as_ref(), &bundle, &host, &mut problems)?;
        examination.add(problems);
    }
    Ok(examination.finish())
}

fn text(findings: &[Finding]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for finding in findings {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let Finding { line, column, path, message, hint, .. } = finding;
        let colon = if path.is_empty() { "" } else { ": " };
        lines.push(format!("config.json:{line}:{column}: {severity}: {path}{colon}{message}"));
        lines.extend(hint.as_ref().map(|hint| format!("  hint: {hint}")));
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let words = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    lines.push(format!("{}, {}", words(count(Severity::Error), "error"), words(count(Severity::Warning), "warning")));
    lines.join("\n")
}
