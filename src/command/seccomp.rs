// SPDX-License-Identifier: Apache-2.0
//! `orlop seccomp`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use oci_spec::runtime::{LinuxSeccomp, LinuxSyscall};
use serde_json::{Value, json};

use crate::cli::{
    ProgramFormat, Seccomp, SeccompCompile, SeccompDiff, SeccompExplain, SeccompLint, SeccompProfile, SeccompResolve,
    TextFormat,
};
use crate::command::{bundle, print, print_json};
use crate::error::{ResultExt, report};
use crate::plan::capabilities;
use crate::plan::problem::{Problem, Problems};
use crate::seccomp::arch::Arch;
use crate::seccomp::diff::{self, Difference};
use crate::seccomp::docker::{self, Environment, LeftOut};
use crate::seccomp::explain::{self, Explanation};
use crate::seccomp::policy::{Action, Bound, Reason};
use crate::seccomp::{self, Examined, cells, lint, listing, words};
use crate::spec;
use crate::state::Root;

/// Answers questions about profiles, without a container.
pub fn seccomp(
    root: &Root,
    command: &Seccomp,
    policy: Option<&Path>,
    tolerate_cgroups: Option<bool>,
    systemd_cgroup: bool,
) -> Result<u8> {
    match command {
        Seccomp::Explain(args) => explain(args).context("seccomp explain"),
        Seccomp::Compile(args) => compile(args).context("seccomp compile"),
        Seccomp::Lint(args) => lint(args).context("seccomp lint"),
        Seccomp::Record(args) => {
            super::record::record(root, args, policy, tolerate_cgroups, systemd_cgroup).context("seccomp record")
        }
        // As diff(1), which keeps 1 for "they differ".
        Seccomp::Diff(args) => diff(args).context("seccomp diff").or_else(|e| {
            report(&e);
            Ok(2)
        }),
    }
}

/// A profile and where it came from, so that messages name what the user wrote.
struct Source {
    /// The file.
    name: String,
    /// How its members begin in messages; a profile's own file has them at the top.
    prefix: &'static str,
    /// None if the file has faults, which are among the problems.
    section: Option<LinuxSeccomp>,
    /// For entries of a resolved profile, the indices in the file.
    origins: Option<Vec<usize>>,
    left_out: Vec<LeftOut>,
}

impl Source {
    fn load(profile: &SeccompProfile, kernel: Arch, problems: &mut Problems) -> Result<Self> {
        let bundle = profile.bundle.as_deref().map(|dir| bundle(Some(dir))).transpose()?;
        match (&profile.profile, bundle) {
            (Some(file), dir) => Self::from_file(file, dir.as_deref(), &profile.resolve, kernel, problems),
            (None, Some(dir)) => Self::from_bundle(&dir, problems),
            (None, None) => bail!("needs --profile or --bundle"),
        }
    }

    fn from_bundle(dir: &Path, problems: &mut Problems) -> Result<Self> {
        let name = dir.join("config.json").display().to_string();
        let config = spec::load(dir)?;
        problems.warnings.extend(config.warnings.warnings);
        let section = config.spec.linux.as_ref().and_then(|linux| linux.seccomp().clone());
        let section = section.ok_or_else(|| anyhow!("{name}: has no linux.seccomp, so every call is allowed"))?;
        Ok(Self { name, prefix: "linux.seccomp.", section: Some(section), origins: None, left_out: Vec::new() })
    }

    fn from_file(
        file: &Path,
        bundle: Option<&Path>,
        resolve: &SeccompResolve,
        kernel: Arch,
        problems: &mut Problems,
    ) -> Result<Self> {
        let environment = environment(resolve, bundle, kernel)?;
        let name = file.display().to_string();
        let mut source = Self { name, prefix: "", section: None, origins: None, left_out: Vec::new() };
        if let Some(profile) = spec::load_profile(file, &environment, problems)? {
            source.section = Some(profile.section);
            if let Some(resolved) = profile.resolved {
                source.origins = Some(resolved.origins);
                source.left_out = resolved.left_out;
            }
        }
        Ok(source)
    }

    /// The profile compiled, its faults as an error.
    fn examine(&self, kernel: Arch, problems: &mut Problems) -> Result<Examined> {
        let before = (problems.errors.len(), problems.warnings.len());
        let examined = self.section.as_ref().and_then(|section| seccomp::examine(kernel, section, problems));
        self.renumber_all(problems, before);
        examined.ok_or_else(|| {
            let lines: Vec<String> = problems.errors.iter().map(|problem| self.problem(problem)).collect();
            anyhow!("{}", lines.join("\n"))
        })
    }

    /// The index that an entry has in the file.
    fn origin(&self, entry: usize) -> usize {
        self.origins.as_ref().and_then(|origins| origins.get(entry)).copied().unwrap_or(entry)
    }

    /// Puts the file's indices in the place of those of the resolved profile.
    fn renumber(&self, text: &str) -> String {
        let mut parts = text.split("syscalls[");
        let mut renumbered = parts.next().unwrap_or_default().to_string();
        for part in parts {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            let (index, rest) = part.split_at(digits);
            match index.parse().map(|index| self.origin(index)) {
                Ok(index) => renumbered.push_str(&format!("syscalls[{index}{rest}")),
                Err(_) => renumbered.push_str(&format!("syscalls[{part}")),
            }
        }
        renumbered
    }

    /// A JSON path as the file has it.
    fn path(&self, problem: &Problem) -> String {
        let path = match problem.path.strip_prefix("linux.seccomp") {
            Some(rest) if self.prefix.is_empty() => rest.trim_start_matches('.'),
            _ => &problem.path,
        };
        path.to_string()
    }

    fn problem(&self, problem: &Problem) -> String {
        let path = self.path(problem);
        let colon = if path.is_empty() { "" } else { ": " };
        let hint = problem.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("{}: {path}{colon}{}{hint}", self.name, problem.message)
    }

    /// Renumbers the problems from `from` on, which are about the resolved profile.
    fn renumber_all(&self, problems: &mut Problems, from: (usize, usize)) {
        let Problems { errors, warnings } = problems;
        for problem in errors.iter_mut().skip(from.0).chain(warnings.iter_mut().skip(from.1)) {
            problem.path = self.renumber(&problem.path);
            problem.message = self.renumber(&problem.message);
        }
    }

    /// What decided, in the file's words.
    fn reason(&self, reason: Reason) -> String {
        match reason {
            Reason::Entry(entry) => format!("{}syscalls[{}]", self.prefix, self.origin(entry)),
            Reason::Default => format!("{}defaultAction", self.prefix),
            Reason::Newer => "ENOSYS: newer than every syscall the profile names".into(),
            Reason::Unlisted => "architecture not in the profile".into(),
            Reason::Skipped => format!("{}defaultAction: -1 is no call, but what a tracer leaves", self.prefix),
        }
    }

    /// The entries that are left out here and name the call.
    fn left_out<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a LeftOut> {
        self.left_out.iter().filter(move |left_out| left_out.names.iter().any(|known| known == name))
    }

    fn syscall(&self, entry: usize) -> Option<&LinuxSyscall> {
        self.section.as_ref()?.syscalls().as_ref()?.get(entry)
    }

    /// How many calls an entry names.
    fn names(&self, entry: usize) -> usize {
        self.syscall(entry).map_or(0, |entry| entry.names().len())
    }

    /// The entry that decided, for JSON.
    fn entry(&self, reason: Reason) -> Value {
        let Reason::Entry(entry) = reason else { return Value::Null };
        let text = self.syscall(entry).map(|e| {
            json!({
                "index": self.origin(entry),
                "names": e.names(),
                "action": e.action(),
                "errnoRet": e.errno_ret(),
                "args": e.args(),
            })
        });
        text.unwrap_or(Value::Null)
    }
}

/// What profiles in Docker's format are resolved for.
pub(super) fn environment(resolve: &SeccompResolve, bundle: Option<&Path>, arch: Arch) -> Result<Environment> {
    let full = |name: &str| if name.starts_with("CAP_") { name.to_string() } else { format!("CAP_{name}") };
    let mut set = BTreeSet::new();
    for name in &resolve.cap {
        match name.to_ascii_uppercase().as_str() {
            "ALL" => set.extend((0..=40).map(capabilities::name)),
            name if capabilities::is_known(name) => drop(set.insert(full(name))),
            name => bail!("--cap {name}: no such capability"),
        }
    }
    if let (Some(dir), true) = (bundle, resolve.cap.is_empty()) {
        let process = spec::load(dir)?.spec.process;
        let bounding = process.and_then(|process| process.capabilities).and_then(|caps| caps.bounding().clone());
        set.extend(bounding.into_iter().flatten().map(|cap| full(&cap.to_string())));
    }
    let release = match &resolve.kernel {
        Some(version) => version.clone(),
        None => nix::sys::utsname::uname().context("uname")?.release().to_string_lossy().into_owned(),
    };
    let kernel = docker::version(&release).ok_or_else(|| anyhow!("--kernel {release}: expected a version like 6.1"))?;
    Ok(Environment { capabilities: set, arch, kernel })
}

/// `--arch`.
fn arch(flag: Option<&String>) -> Result<Arch> {
    let Some(name) = flag else { return Ok(Arch::NATIVE) };
    let all = || Arch::ALL.map(Arch::name).join(", ");
    Arch::parse(name).ok_or_else(|| anyhow!("--arch {name}: expected one of {}", all()))
}

fn warn(source: &Source, problems: &Problems) {
    for warning in &problems.warnings {
        crate::log::warn(&source.problem(warning));
    }
}

fn explain(args: &SeccompExplain) -> Result<u8> {
    let arch = arch(args.arch.as_ref())?;
    let mut words = args.call.iter();
    let call = args.syscall.as_ref().or_else(|| words.next());
    let call =
        call.ok_or_else(|| anyhow!("needs --syscall")).hint("e.g. orlop seccomp explain -p FILE socket AF_VSOCK")?;
    let number = arch.number_of(call).map_err(|e| anyhow!(e))?;
    let name = arch.call(number).map_or("", |call| call.name());
    let given = words.chain(&args.arg).chain(&args.args).map(String::as_str);
    let values = words::arguments(name, given).map_err(|e| anyhow!(e))?;

    let kernel = arch.kernel();
    let bundle = args.profile.bundle.as_deref().map(|dir| bundle(Some(dir))).transpose()?;
    let mut explained: Vec<(Source, Explanation)> = Vec::new();
    let files = args.stack.iter().map(Some).chain([None]);
    for file in files {
        let mut problems = Problems::default();
        let source = match file {
            Some(file) => Source::from_file(file, bundle.as_deref(), &args.profile.resolve, kernel, &mut problems)?,
            None => Source::load(&args.profile, kernel, &mut problems)?,
        };
        let examined = source.examine(kernel, &mut problems)?;
        let explanation = explain::explain(&examined, arch, number, values)
            .ok_or_else(|| anyhow!("the compiled program does not answer, a bug"))?;
        explained.push((source, explanation));
    }
    if let [(source, explanation)] = explained.as_slice() {
        match args.format {
            TextFormat::Text => print(explanation_text(source, explanation).trim_end()),
            TextFormat::Json => print_json(&explanation_json(source, explanation))?,
        }
        return Ok(0);
    }
    // As the kernel: from the newest on, and an older one only if it is stricter.
    let deciding =
        explained.iter().rev().reduce(|newer, older| if older.1.action.beats(newer.1.action) { older } else { newer });
    let (source, explanation) = deciding.context("no profile")?;
    match args.format {
        TextFormat::Text => {
            print(&format!("together:   {}, by {}", explanation.action.text(), source.name));
            for (source, explanation) in &explained {
                print(&format!("\n{}:\n{}", source.name, explanation_text(source, explanation).trim_end()));
            }
        }
        TextFormat::Json => {
            let rows = explained.iter().map(|(source, explanation)| {
                let mut row = explanation_json(source, explanation);
                if let Some(members) = row.as_object_mut() {
                    members.insert("profile".into(), json!(source.name));
                }
                row
            });
            print_json(&json!({
                "verdict": explanation.action.text(),
                "profile": source.name,
                "decidedBy": source.reason(explanation.reason),
                "stack": rows.collect::<Vec<_>>(),
            }))?;
        }
    }
    Ok(0)
}

/// `socket(0x28, 0x0)`, without the zeros at the end.
fn call_text(arch: Arch, number: u32, args: &[u64; 6]) -> String {
    let name = arch.call(number).map_or_else(|| number_text(number), |call| call.name().to_string());
    let count = args.iter().rposition(|&arg| arg != 0).map_or(0, |last| last + 1);
    let args: Vec<String> = args.iter().take(count).map(|arg| format!("{arg:#x}")).collect();
    format!("{name}({})", args.join(", "))
}

fn number_text(number: u32) -> String {
    if number == u32::MAX { "-1".into() } else { number.to_string() }
}

fn rule_text(source: &Source, rule: &Bound) -> String {
    let entry = source.reason(Reason::Entry(rule.origin));
    format!("{} if {} ({entry})", rule.action.text(), rule.conditions_text())
}

fn explanation_text(source: &Source, e: &Explanation) -> String {
    let mut text = String::new();
    let mut line = |line: String| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{line}");
    };
    let name = e.call.map_or_else(|| number_text(e.number), |call| call.name().to_string());
    line(format!("{}, number {} on {}", call_text(e.arch, e.number, &e.args), number_text(e.number), e.arch.name()));
    line(format!("verdict:    {}", e.action.text()));
    let mut decided = source.reason(e.reason);
    match e.reason {
        Reason::Entry(entry) => {
            if let Some(rule) = e.rules.iter().find(|rule| rule.origin == entry) {
                decided = format!("{decided}: {} if {}", rule.action.text(), rule.conditions_text());
            } else {
                let others = match source.names(entry).saturating_sub(1) {
                    0 => String::new(),
                    others => format!(" and {others} other calls"),
                };
                decided = format!("{decided}: {} for {name}{others}, whatever the arguments are", e.action.text());
            }
        }
        Reason::Default if !e.rules.is_empty() => decided += ": no entry matches these arguments",
        Reason::Default => decided = format!("{decided}: no entry decides {name}"),
        Reason::Newer => {
            if let Some((number, newest)) = e.newest {
                decided = format!("{decided} (the newest is {newest}, {number})");
            }
        }
        Reason::Unlisted | Reason::Skipped => {}
    }
    line(format!("decided by: {decided}"));
    line(format!(
        "depends on the arguments: {}",
        if e.rules.is_empty() { "no" } else { "yes, the first that holds decides" }
    ));
    for rule in &e.rules {
        line(format!("  {}", rule_text(source, rule)));
    }
    if !e.rules.is_empty() {
        line(format!("  {} otherwise ({})", e.otherwise.text(), source.reason(Reason::Default)));
    }
    for entry in &e.ineffective {
        line(format!(
            "note: {} names it, but says nothing: its action is the default one",
            source.reason(Reason::Entry(*entry))
        ));
    }
    for left_out in source.left_out(&name) {
        line(format!("note: syscalls[{}] names it too, but holds {}", left_out.entry, left_out.holds));
    }
    line(format!("program:    executes {} of {} instructions", e.executed, e.instructions));
    line(format!(
        "in the kernel's allow bitmap: {}",
        if e.bitmap { "yes, so that it executes none (Linux 5.11)" } else { "no" }
    ));
    text
}

fn explanation_json(source: &Source, e: &Explanation) -> Value {
    let rule = |rule: &Bound| {
        json!({
            "entry": source.origin(rule.origin),
            "conditions": rule.conditions.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "action": rule.action.text(),
        })
    };
    json!({
        "arch": e.arch.name(),
        "number": e.number,
        "syscall": e.call.map(|call| call.name()),
        "args": e.args,
        "verdict": e.action.text(),
        "decidedBy": source.reason(e.reason),
        "entry": source.entry(e.reason),
        "dependsOnArguments": !e.rules.is_empty(),
        "rules": e.rules.iter().map(rule).collect::<Vec<_>>(),
        "otherwise": e.otherwise.text(),
        "leftOut": source.left_out(e.call.map_or("", |call| call.name()))
            .map(|left_out| json!({"entry": left_out.entry, "holds": left_out.holds})).collect::<Vec<_>>(),
        "executed": e.executed,
        "instructions": e.instructions,
        "inAllowBitmap": e.bitmap,
    })
}

fn compile(args: &SeccompCompile) -> Result<u8> {
    let kernel = arch(args.arch.as_ref())?;
    let mut problems = Problems::default();
    let source = Source::load(&args.profile, kernel, &mut problems)?;
    let examined = source.examine(kernel, &mut problems)?;
    warn(&source, &problems);
    match args.format {
        ProgramFormat::Listing => print(listing::listing(&examined.program).trim_end()),
        ProgramFormat::Raw => {
            let mut bytes = Vec::with_capacity(examined.program.len() * 8);
            for i in &examined.program {
                bytes.extend(i.code.to_le_bytes());
                bytes.extend([i.jt, i.jf]);
                bytes.extend(i.k.to_le_bytes());
            }
            // Flushed here: the program has no exit of Rust's that would do it, and stdout keeps what follows the last newline.
            let mut stdout = std::io::stdout();
            stdout.write_all(&bytes).and_then(|()| stdout.flush()).context("stdout")?;
        }
        ProgramFormat::Json => {
            let program: Vec<Value> =
                examined.program.iter().map(|i| json!({"code": i.code, "jt": i.jt, "jf": i.jf, "k": i.k})).collect();
            print_json(&json!({
                "arches": examined.profile.arches.iter().map(|arch| arch.name()).collect::<Vec<_>>(),
                "flags": examined.profile.flags,
                "instructions": program.len(),
                "program": program,
            }))?;
        }
    }
    Ok(0)
}

fn lint(args: &SeccompLint) -> Result<u8> {
    let kernel = arch(args.arch.as_ref())?;
    let mut problems = Problems::default();
    let source = Source::load(&args.profile, kernel, &mut problems)?;
    let before = (problems.errors.len(), problems.warnings.len());
    let examined = source.section.as_ref().and_then(|section| seccomp::examine(kernel, section, &mut problems));
    if let Some(examined) = examined {
        lint::lint(&examined, &mut problems);
    }
    source.renumber_all(&mut problems, before);
    let faults = problems.errors.len() + if args.strict { problems.warnings.len() } else { 0 };
    let all = problems.errors.iter().map(|p| ("error", p)).chain(problems.warnings.iter().map(|p| ("warning", p)));
    match args.format {
        TextFormat::Text => {
            for (kind, problem) in all {
                print(&format!("{kind}: {}", source.problem(problem)));
            }
        }
        TextFormat::Json => {
            let rows = all.map(|(kind, problem)| {
                json!({"kind": kind, "path": source.path(problem), "message": problem.message, "hint": problem.hint})
            });
            print_json(&rows.collect::<Vec<_>>())?;
        }
    }
    Ok(u8::from(faults > 0))
}

fn diff(args: &SeccompDiff) -> Result<u8> {
    let only = args.arch.as_ref().map(|name| arch(Some(name))).transpose()?;
    let kernel = only.map_or(Arch::NATIVE, Arch::kernel);
    let load = |path: &Path| -> Result<(Source, Examined)> {
        let mut problems = Problems::default();
        let source = if path.is_dir() {
            Source::from_bundle(&bundle(Some(path))?, &mut problems)?
        } else {
            Source::from_file(path, None, &args.resolve, kernel, &mut problems)?
        };
        let examined = source.examine(kernel, &mut problems)?;
        Ok((source, examined))
    };
    let ((a, in_a), (b, in_b)) = (load(&args.a)?, load(&args.b)?);
    let found = diff::diff(&in_a.apart, &in_b.apart, only);
    match args.format {
        TextFormat::Text => {
            for difference in &found.differences {
                print(&difference_text(&a, &b, difference));
            }
            for (arch, number) in &found.unknown {
                let call = call_text(*arch, *number, &[0; 6]);
                print(&format!(
                    "{}: {call}: unknown, the conditions make more than {} cases",
                    arch.name(),
                    cells::MOST
                ));
            }
            if in_a.profile.flags != in_b.profile.flags {
                print(&format!("note: the flags differ: {:?}, {:?}", in_a.profile.flags, in_b.profile.flags));
            }
            if in_a.profile.listener != in_b.profile.listener {
                print("note: the listeners differ");
            }
            if found.differences.is_empty() && found.unknown.is_empty() {
                print("equal");
            }
        }
        TextFormat::Json => print_json(&json!({
            "differences": found.differences.iter().map(|d| difference_json(&a, &b, d)).collect::<Vec<_>>(),
            "unknown": found.unknown.iter().map(|(arch, number)| json!({
                "arch": arch.name(), "number": number, "syscall": arch.call(*number).map(|call| call.name()),
            })).collect::<Vec<_>>(),
            "flags": [in_a.profile.flags, in_b.profile.flags],
        }))?,
    }
    Ok(match (found.differences.is_empty(), found.unknown.is_empty()) {
        (false, _) => 1,
        (true, false) => 2,
        (true, true) => 0,
    })
}

fn difference_text(a: &Source, b: &Source, d: &Difference) -> String {
    let call = call_text(d.arch, d.first, &d.args);
    let region = if d.last == d.first {
        String::new()
    } else if d.a.1 == Reason::Unlisted || d.b.1 == Reason::Unlisted {
        " and others of this architecture".into()
    } else {
        format!(" to {}", number_text(d.last))
    };
    let side =
        |source: &Source, (action, reason): (Action, Reason)| format!("{} ({})", action.text(), source.reason(reason));
    format!("{}: {call}{region}: {} in A, {} in B", d.arch.name(), side(a, d.a), side(b, d.b))
}

fn difference_json(a: &Source, b: &Source, d: &Difference) -> Value {
    let side = |source: &Source, (action, reason): (Action, Reason)| json!({"verdict": action.text(), "decidedBy": source.reason(reason), "entry": source.entry(reason)});
    json!({
        "arch": d.arch.name(),
        "number": d.first,
        "lastNumber": d.last,
        "syscall": d.arch.call(d.first).map(|call| call.name()),
        "args": d.args,
        "dependsOnArguments": d.by_arguments,
        "a": side(a, d.a),
        "b": side(b, d.b),
    })
}
