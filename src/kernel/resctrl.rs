// SPDX-License-Identifier: Apache-2.0
//! The resctrl file system: a directory for each class of service, and in it one for each monitoring group
//! (Documentation/filesystems/resctrl.rst). The paths are the administrator's; nothing of a container is in them.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use super::host_mounts::unescape;
use super::procfs::Proc;
use crate::error::ResultExt;
use crate::plan::resctrl::{Resctrl, differing};
use crate::sys::call;

/// Where the file system is mounted for the caller.
///
/// # Errors
/// It is not.
pub fn mount_point(proc: &Proc) -> Result<PathBuf> {
    let table = proc.read(&format!("{}/mountinfo", Pid::this()))?;
    find(&table).ok_or_else(|| anyhow!("no resctrl file system is mounted")).hint(
        "mount -t resctrl resctrl /sys/fs/resctrl does it if the CPU has RDT or the like and the kernel \
         CONFIG_X86_CPU_RESCTRL",
    )
}

fn find(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (fields, filesystem) = line.split_once(" - ")?;
        let is_it = filesystem.split(' ').next() == Some("resctrl");
        is_it.then(|| fields.split(' ').nth(4)).flatten().and_then(unescape)
    })
}

/// The directories that [`create`] is going to make, outermost first.
pub fn missing(root: &Path, plan: &Resctrl) -> Vec<PathBuf> {
    let group = root.join(&plan.group);
    let monitoring = plan.monitoring.as_ref().map(|name| group.join("mon_groups").join(name));
    [Some(group), monitoring].into_iter().flatten().filter(|directory| !directory.exists()).collect()
}

/// Makes the `missing` directories, and gives the group its schemata or makes sure that it has them. `made` gets what is
/// there to [`remove`], after a failure too.
pub fn create(root: &Path, plan: &Resctrl, missing: &[PathBuf], made: &mut Vec<PathBuf>) -> Result<()> {
    let group = root.join(&plan.group);
    let is_new = missing.contains(&group);
    if is_new && plan.must_exist {
        return Err(anyhow!("linux.intelRdt.closID: there is no {}", group.display()))
            .hint("a class that is to be made needs schemata, l3CacheSchema or memBwSchema");
    }
    if is_new {
        make(&group, made).hint_if(Errno::ENOSPC, "the hardware has no class of service left (info/L3/num_closids)")?;
    }
    let schemata = group.join("schemata");
    if is_new && !plan.schemata.is_empty() {
        let text = format!("{}\n", plan.schemata.join("\n"));
        write(&schemata, &text).with_context(|| format!("linux.intelRdt: {}", status(root)))?;
    } else if !plan.schemata.is_empty() {
        let current = std::fs::read_to_string(&schemata).with_context(|| schemata.display().to_string())?;
        if let Some(line) = differing(&current, &plan.schemata) {
            return Err(anyhow!("linux.intelRdt: {} exists, and does not say {line}", schemata.display()))
                .hint("leave the schemata out to use the class as it is, or name another closID");
        }
    }
    if let Some(name) = &plan.monitoring {
        make(&group.join("mon_groups").join(name), made)
            .hint_if(Errno::ENOSPC, "the hardware has no monitoring id left (info/L3_MON/num_rmids)")?;
    }
    Ok(())
}

/// Gives a group other schemata. Returns what they were, which undoes it; on failure they are that still.
pub fn change(root: &Path, plan: &Resctrl) -> Result<Vec<String>> {
    let schemata = root.join(&plan.group).join("schemata");
    let before = std::fs::read_to_string(&schemata).with_context(|| schemata.display().to_string())?;
    // The kernel pads the names, and does not take them so.
    let before: Vec<String> = before.lines().map(|line| line.trim_start().to_string()).collect();
    if let Err(e) = write(&schemata, &format!("{}\n", plan.schemata.join("\n"))) {
        let said = status(root);
        // The lines before the one that was refused are in force.
        drop(write(&schemata, &format!("{}\n", before.join("\n"))));
        return Err(e).with_context(|| format!("linux.intelRdt: {said}"));
    }
    Ok(before)
}

/// Puts a process, and what it forks from then on, into the groups.
pub fn join(root: &Path, plan: &Resctrl, pid: Pid) -> Result<()> {
    let group = root.join(&plan.group);
    let monitoring = plan.monitoring.as_ref().map(|name| group.join("mon_groups").join(name));
    // A monitoring group takes only what is in its class.
    for directory in [Some(group), monitoring].into_iter().flatten() {
        write(&directory.join("tasks"), &pid.to_string()).context("linux.intelRdt")?;
    }
    Ok(())
}

/// Removes directories that were made, the innermost first. What is missing counts as removed.
pub fn remove(made: &[PathBuf]) -> Result<()> {
    for directory in made.iter().rev() {
        match std::fs::remove_dir(directory) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("linux.intelRdt: remove {}", directory.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn make(directory: &Path, made: &mut Vec<PathBuf>) -> Result<()> {
    call!("mkdir({directory:?})" => nix::unistd::mkdir(directory, Mode::from_bits_truncate(0o755)))
        .context("linux.intelRdt")?;
    made.push(directory.to_path_buf());
    Ok(())
}

/// In one write(2).
fn write(file: &Path, text: &str) -> Result<()> {
    let written =
        std::fs::OpenOptions::new().write(true).open(file).and_then(|mut file| file.write_all(text.as_bytes()));
    call!("write({file:?}, {text:?})" => written.map_err(crate::sys::errno)).map_err(Into::into)
}

/// What the kernel has to say about the last failure.
fn status(root: &Path) -> String {
    let text = std::fs::read_to_string(root.join("info/last_cmd_status")).unwrap_or_default();
    if text.trim().is_empty() { "the schemata are refused".into() } else { text.trim().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A directory in the place of the file system, which makes files with its directories.
    struct Fake(PathBuf);

    impl Fake {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("orlop-resctrl-{}-{name}", std::process::id()));
            fs::create_dir(&root).unwrap();
            Self(root)
        }

        /// The files of a group that the kernel would make.
        fn fill(&self, group: &str, schemata: &str) {
            fs::create_dir(self.0.join(group)).unwrap();
            fs::create_dir(self.0.join(group).join("mon_groups")).unwrap();
            fs::write(self.0.join(group).join("schemata"), schemata).unwrap();
            fs::write(self.0.join(group).join("tasks"), "").unwrap();
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.0.join(path)).unwrap()
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            #[allow(clippy::disallowed_methods, reason = "a test's own directory")]
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn plan(group: &str, schemata: &[&str], monitoring: bool) -> Resctrl {
        Resctrl {
            group: group.into(),
            must_exist: schemata.is_empty(),
            schemata: schemata.iter().map(ToString::to_string).collect(),
            monitoring: monitoring.then(|| "web".into()),
        }
    }

    #[test]
    fn the_file_system_is_found_in_mountinfo() {
        let line = "44 25 0:39 / /sys/fs/resctrl rw,relatime shared:9 - resctrl resctrl rw,mba_MBps\n";
        let others = "22 27 0:21 / /proc rw shared:1 - proc proc rw\n23 27 0:2 / /resctrl rw - tmpfs resctrl rw\n";
        assert_eq!(find(&format!("{others}{line}")), Some("/sys/fs/resctrl".into()));
        assert_eq!(find(others), None);
        assert_eq!(find(&line.replace("/sys/fs/resctrl", "/my\\040rdt")), Some("/my rdt".into()));
    }

    #[test]
    fn schemata_are_changed_and_what_they_were_is_known() {
        let fake = Fake::new("change");
        fake.fill("web", "    L3:0=0ff\n    MB:0=100\n");
        assert_eq!(change(&fake.0, &plan("web", &["L3:0=f"], false)).unwrap(), ["L3:0=0ff", "MB:0=100"]);
        assert!(fake.read("web/schemata").starts_with("L3:0=f\n"));
        let error = change(&fake.0, &plan("none", &["L3:0=f"], false)).unwrap_err();
        assert!(error.to_string().contains("none/schemata"), "{error}");
    }

    #[test]
    fn a_class_that_exists_is_used_and_stays() {
        let fake = Fake::new("existing");
        fake.fill("gold", "L3:0=0ff\n");
        let plan = plan("gold", &["L3:0=ff"], true);
        let made = missing(&fake.0, &plan);
        assert_eq!(made, [fake.0.join("gold/mon_groups/web")]);
        let mut now = Vec::new();
        create(&fake.0, &plan, &made, &mut now).unwrap();
        assert_eq!(now, made);
        fs::write(fake.0.join("gold/mon_groups/web/tasks"), "").unwrap();
        join(&fake.0, &plan, Pid::from_raw(42)).unwrap();
        assert_eq!((fake.read("gold/tasks"), fake.read("gold/mon_groups/web/tasks")), ("42".into(), "42".into()));
        assert_eq!(fake.read("gold/schemata"), "L3:0=0ff\n", "compared, not written");
        fs::remove_file(fake.0.join("gold/mon_groups/web/tasks")).unwrap();
        remove(&made).unwrap();
        remove(&made).unwrap();
        assert!(fake.0.join("gold").exists() && !fake.0.join("gold/mon_groups/web").exists());
        let other = Resctrl { schemata: vec!["L3:0=f".into()], ..plan };
        let error = create(&fake.0, &other, &[], &mut now).unwrap_err();
        assert!(error.to_string().contains("does not say L3:0=f"), "{error}");
    }

    #[test]
    fn a_new_class_gets_its_schemata_and_a_missing_one_without_any_is_an_error() {
        let fake = Fake::new("new");
        let made = missing(&fake.0, &plan("silver", &["L3:0=f", "MB:0=50"], false));
        assert_eq!(made, [fake.0.join("silver")]);
        let mut now = Vec::new();
        let error = create(&fake.0, &plan("silver", &[], false), &made, &mut now).unwrap_err();
        assert!(error.to_string().contains("linux.intelRdt.closID: there is no"), "{error}");
        assert!(!fake.0.join("silver").exists());
        // This directory makes no files, so that writing fails; what was made is known and removed.
        assert!(create(&fake.0, &plan("silver", &["L3:0=f", "MB:0=50"], false), &made, &mut now).is_err());
        assert_eq!(now, made);
        // Another one has made it meanwhile: it is not to be removed.
        let mut second = Vec::new();
        assert!(create(&fake.0, &plan("silver", &["L3:0=f"], false), &made, &mut second).is_err() && second.is_empty());
        remove(&now).unwrap();
        assert!(!fake.0.join("silver").exists());
        fake.fill("bronze", "");
        write(&fake.0.join("bronze/schemata"), "L3:0=f\nMB:0=50\n").unwrap();
        assert_eq!(fake.read("bronze/schemata"), "L3:0=f\nMB:0=50\n");
    }
}
