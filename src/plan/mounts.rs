// SPDX-License-Identifier: Apache-2.0
//! `mounts[]` (config.md#mounts): in their order, each with its kind, its attributes and its file system's options.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::filesystem::{Facts, InRoot};
use super::idmap::{self, IdMap, MountMap};
use super::mount_options::{Attrs, Options, Propagation, attr};
use super::problem::Problems;

/// One mount of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Its index in `mounts[]`, for messages.
    pub index: usize,
    pub destination: InRoot,
    pub kind: Kind,
    /// The source as mountinfo shows it: a device, or any word. Of a bind mount, see [`Kind::Bind`].
    pub source: Option<String>,
    /// Changes of the mount itself.
    pub attrs: Attrs,
    /// Changes of the mount and of all mounts below it.
    pub recursive: Attrs,
    /// Changes of propagation, in order.
    pub propagation: Vec<Propagation>,
    /// Whether, and how, the ids of a bind mount are mapped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idmap: Option<MountMap>,
    /// Options for the file system: key, and value if the option has one.
    pub parameters: Vec<(String, Option<String>)>,
    /// Whether the mount becomes read-only only in the end, since mount points or devices are made inside it.
    pub read_only_at_end: bool,
}

impl Mount {
    /// How a message names it: `mounts[3] /sys`.
    pub fn name(&self) -> String {
        format!("mounts[{}] {}", self.index, self.destination)
    }

    /// What happens to the attributes of the mount itself.
    pub fn change(&self) -> Attrs {
        self.recursive.then(self.attrs)
    }
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A part of the host's tree; `source` is absolute.
    Bind {
        source: PathBuf,
        recursive: bool,
    },
    Proc,
    Sysfs,
    /// `copy_up`: filled with the contents of the directory that it hides.
    Tmpfs {
        copy_up: bool,
    },
    Devpts,
    Mqueue,
    /// Whatever the host has: cgroup2, or a tmpfs with the v1 hierarchies.
    Cgroup,
    /// Any other type that `fsopen(2)` knows.
    Other {
        fstype: String,
    },
    /// A change of what is mounted at the destination already. `of` is the place in the list of the entry that mounted
    /// it; without one the mount came with an `rbind`.
    Remount {
        of: Option<usize>,
    },
}

/// Files below /proc that may be covered: those which lxcfs and its like provide.
const COVERABLE: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// Whether a mount may go to `destination` although a procfs is there. A container that could cover any other file of
/// its /proc could make the runtime write to files of its choice (CVE-2019-16884, CVE-2019-19921).
pub fn may_cover_proc(destination: &InRoot) -> bool {
    destination.as_str() == "/proc" || COVERABLE.contains(&destination.as_str())
}

/// Plans `mounts[]`. Problems name `mounts[i]` and the field.
pub fn plan(mounts: &[oci_spec::runtime::Mount], bundle: &Path, facts: &Facts, problems: &mut Problems) -> Vec<Mount> {
    if !mounts.is_empty() && !facts.new_mount_ns {
        problems.error_hint(
            "mounts",
            "need a new mount namespace",
            "add {\"type\": \"mount\"} without a path to linux.namespaces, or remove the mounts",
        );
    }
    let mut planned: Vec<Mount> = Vec::with_capacity(mounts.len());
    for (i, mount) in mounts.iter().enumerate() {
        let one = plan_one(i, mount, bundle, facts, &planned, problems);
        planned.extend(one);
    }
    let at_end: Vec<bool> = (0..planned.len()).map(|i| read_only_at_end(&planned, i)).collect();
    for (mount, at_end) in planned.iter_mut().zip(at_end) {
        mount.read_only_at_end = at_end;
    }
    planned
}

/// Whether the tmpfs at `i`, or a remount of it, makes it read-only although something may have to be made inside: on
/// /dev, and wherever a mount follows, since a link of the image (/var/run) can lead any of them into it.
fn read_only_at_end(mounts: &[Mount], i: usize) -> bool {
    let Some((mount, later)) = mounts.get(i..).and_then(<[Mount]>::split_first) else { return false };
    if !matches!(mount.kind, Kind::Tmpfs { .. }) {
        return false;
    }
    change_of(mounts, i).set & attr::RDONLY != 0
        && (mount.destination.as_str() == "/dev" || later.iter().any(|m| !matches!(m.kind, Kind::Remount { .. })))
}

/// What happens to the attributes of the mount at `i`, by itself and by its remounts.
pub fn change_of(mounts: &[Mount], i: usize) -> Attrs {
    let own = mounts.get(i).map(Mount::change).unwrap_or_default();
    let is_change = |m: &&Mount| m.kind == Kind::Remount { of: Some(i) };
    mounts.iter().filter(is_change).fold(own, |change, m| change.then(m.change()))
}

fn plan_one(
    i: usize,
    mount: &oci_spec::runtime::Mount,
    bundle: &Path,
    facts: &Facts,
    earlier: &[Mount],
    problems: &mut Problems,
) -> Option<Mount> {
    let at = |field: &str| format!("mounts[{i}].{field}");
    let options = Options::parse(mount.options().as_deref().unwrap_or_default());
    let destination = destination(&at("destination"), mount.destination(), problems);
    let source = match mount.source() {
        Some(source) => {
            let source = source.to_string_lossy().into_owned();
            problems.no_nul(at("source"), &source).then_some(source)
        }
        None => None,
    };
    let kind = match (options.remount, &destination) {
        (true, Some(at)) => Kind::Remount {
            of: earlier.iter().rposition(|m| m.destination == *at && !matches!(m.kind, Kind::Remount { .. })),
        },
        _ => kind(i, mount.typ().as_deref().unwrap_or_default(), source.as_deref(), &options, bundle, problems)?,
    };
    let file_system = match &kind {
        Kind::Bind { .. } => None,
        // One that is certainly the container's own: the host's must not change.
        Kind::Remount { of: Some(of) } if options.bind.is_none() => {
            earlier.get(*of).map(|m| &m.kind).filter(|kind| is_private(kind))
        }
        Kind::Remount { .. } => None,
        kind => Some(kind),
    };
    let mut parameters = parameters(i, &kind, file_system, &options, problems);
    let has_tree = matches!(kind, Kind::Bind { .. } | Kind::Remount { .. });
    // Of a tree the recursive changes come first, too.
    let attrs = if has_tree { options.attrs } else { options.recursive.then(options.attrs) };
    if let Kind::Remount { of: Some(of) } = kind
        && attrs.clear & attr::RDONLY != 0
        && earlier.get(of).is_some_and(|m| m.parameters.iter().any(|(key, _)| key == "ro"))
    {
        problems.error(at("options"), "the file system itself was mounted ro before, which a remount does not change");
    }
    let is_other = matches!(kind, Kind::Other { .. });
    if is_other && attrs.set & attr::RDONLY != 0 {
        // A file system on a device must know, so that it opens the device read-only too.
        parameters.push(("ro".to_string(), None));
    }
    let destination = destination?;
    check_proc(i, &destination, &kind, problems);
    let bind = matches!(kind, Kind::Bind { .. });
    Some(Mount {
        index: i,
        destination,
        source: source.filter(|s| !has_tree && !s.is_empty()),
        kind,
        attrs,
        recursive: if has_tree { options.recursive } else { Attrs::default() },
        idmap: idmap(i, mount, &options, bind, facts, problems),
        propagation: options.propagation,
        parameters,
        read_only_at_end: false,
    })
}

/// `idmap`, `ridmap` and the mount's own mappings (config.md#linux-mount-options). As with runc, mappings alone mean
/// `idmap`, and the words alone the mappings of the container's user namespace.
fn idmap(
    i: usize,
    mount: &oci_spec::runtime::Mount,
    options: &Options,
    bind: bool,
    facts: &Facts,
    problems: &mut Problems,
) -> Option<MountMap> {
    let uid = mount.uid_mappings().as_deref().unwrap_or_default();
    let gid = mount.gid_mappings().as_deref().unwrap_or_default();
    let at = match options.idmap {
        Some((j, _)) => format!("mounts[{i}].options[{j}]"),
        None if uid.is_empty() && gid.is_empty() => return implied_idmap(options, bind, facts),
        None => format!("mounts[{i}].{}", if uid.is_empty() { "gidMappings" } else { "uidMappings" }),
    };
    if !bind {
        problems.error(&at, "only a bind mount can be idmapped; add the option bind or rbind");
    }
    if facts.ordinary_user {
        problems.error_hint(
            &at,
            "an ordinary user cannot idmap a mount",
            "the kernel wants CAP_SYS_ADMIN over the file system, which only the host's root has",
        );
    }
    let own = match (uid.is_empty(), gid.is_empty()) {
        (true, true) => {
            if !facts.new_user_ns && !facts.joined_user_ns {
                problems.error_hint(
                    &at,
                    "there is no mapping to use: neither the mount nor the container has one",
                    "give the mount uidMappings and gidMappings, or the container a user namespace",
                );
            }
            None
        }
        (uid_missing, gid_missing) => {
            for (missing, name, other) in
                [(uid_missing, "uidMappings", "gidMappings"), (gid_missing, "gidMappings", "uidMappings")]
            {
                if missing {
                    problems.error(format!("mounts[{i}].{name}"), format!("is missing, but {other} is there"));
                }
            }
            Some(IdMap {
                uid: idmap::ranges(&format!("mounts[{i}].uidMappings"), uid, problems),
                gid: idmap::ranges(&format!("mounts[{i}].gidMappings"), gid, problems),
            })
        }
    };
    Some(MountMap { own, recursive: options.idmap.is_some_and(|(_, recursive)| recursive), lenient: false })
}

/// With `--userns=auto` the host's files belong to ids that the leased range does not have: every bind mount gets the
/// container's mapping.
fn implied_idmap(options: &Options, bind: bool, facts: &Facts) -> Option<MountMap> {
    (bind && facts.idmap_all).then_some(MountMap { own: None, recursive: options.bind == Some(true), lenient: true })
}

fn destination(at: &str, destination: &Path, problems: &mut Problems) -> Option<InRoot> {
    let text = destination.to_string_lossy();
    if text.is_empty() {
        problems.error(at, "is missing or empty");
        return None;
    }
    if !text.starts_with('/') {
        problems.warn(at, format!("{text:?} is relative, which the specification forbids; taken as /{text}"));
    }
    let path = InRoot::new(at, &text, problems)?;
    if path.is_root() {
        problems.error(at, format!("{text:?} is the root file system itself"));
        return None;
    }
    Some(path)
}

fn kind(
    i: usize,
    fstype: &str,
    source: Option<&str>,
    options: &Options,
    bundle: &Path,
    problems: &mut Problems,
) -> Option<Kind> {
    problems.no_nul(format!("mounts[{i}].type"), fstype).then_some(())?;
    let bind = match (options.bind, fstype) {
        (None, "bind" | "rbind") => {
            problems.warn(format!("mounts[{i}].type"), "is not what makes a bind mount; add the option bind or rbind");
            Some(fstype == "rbind")
        }
        (bind, _) => bind,
    };
    if let Some(recursive) = bind {
        let Some(source) = source.filter(|s| !s.is_empty()) else {
            problems.error(format!("mounts[{i}].source"), "a bind mount needs a source");
            return None;
        };
        return Some(Kind::Bind { source: bundle.join(source), recursive });
    }
    Some(match fstype {
        "" => {
            problems.error_hint(
                format!("mounts[{i}].type"),
                "is missing",
                "for a bind mount, give the option bind or rbind",
            );
            return None;
        }
        "proc" => Kind::Proc,
        "sysfs" => Kind::Sysfs,
        "tmpfs" => Kind::Tmpfs { copy_up: options.copy_up.is_some() },
        "devpts" => Kind::Devpts,
        "mqueue" => Kind::Mqueue,
        "cgroup" => Kind::Cgroup,
        other => Kind::Other { fstype: other.to_string() },
    })
}

/// Whether a file system of this kind belongs to the container alone.
fn is_private(kind: &Kind) -> bool {
    matches!(kind, Kind::Proc | Kind::Tmpfs { .. } | Kind::Devpts)
}

/// The options for the file system, if there is one to configure. For a bind mount, or the remount of one, all of them
/// are problems, as the kernel would drop them or apply them to the host's mounts.
fn parameters(
    i: usize,
    kind: &Kind,
    file_system: Option<&Kind>,
    options: &Options,
    problems: &mut Problems,
) -> Vec<(String, Option<String>)> {
    if let (Some(j), false) = (options.copy_up, matches!(kind, Kind::Tmpfs { .. })) {
        problems.error(format!("mounts[{i}].options[{j}]"), "tmpcopyup is for type tmpfs only");
    }
    let mut parameters = Vec::new();
    for (j, flag) in &options.superblock {
        match file_system {
            None => problems.warn(format!("mounts[{i}].options[{j}]"), format!("{flag} does nothing on a bind mount")),
            Some(_) => parameters.push(((*flag).to_string(), None)),
        }
    }
    for (j, word) in &options.data {
        let at = format!("mounts[{i}].options[{j}]");
        if file_system.is_none() {
            problems.error_hint(
                at,
                format!("{word:?} is not an option of a bind mount"),
                "of its own file systems a container can remount tmpfs, proc and devpts with other options",
            );
        } else if problems.no_nul(at, word) {
            parameters.extend(split(word).into_iter().map(|part| match part.split_once('=') {
                Some((key, value)) => (key.to_string(), Some(unquoted(key, value).to_string())),
                None => (part.to_string(), None),
            }));
        }
    }
    parameters
}

/// Splits at commas as the file systems do: not inside of quotes (SELinux contexts) and not after a backslash (overlay).
pub fn split(word: &str) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    word.split(move |letter| {
        let ends = letter == ',' && !quoted && !escaped;
        quoted ^= letter == '"';
        escaped = letter == '\\' && !escaped;
        ends
    })
    .filter(|part| !part.is_empty())
    .collect()
}

/// The layers of an overlay's `lowerdir`, each with whether it holds data only. In the list a backslash takes a colon's
/// meaning away, and two colons begin the layers that hold data only.
pub fn layers(list: &str) -> Vec<(bool, String)> {
    let (mut layer, mut data) = (String::new(), false);
    let mut layers = Vec::new();
    let mut letters = list.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => layer.extend(letters.next()),
            ':' => {
                layers.push((data, std::mem::take(&mut layer)));
                data |= letters.next_if_eq(&':').is_some();
            }
            letter => layer.push(letter),
        }
    }
    layers.push((data, layer));
    layers
}

/// An SELinux context without the quotes that kept its commas together in the list.
fn unquoted<'a>(key: &str, value: &'a str) -> &'a str {
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.filter(|_| key.ends_with("context")).unwrap_or(value)
}

fn check_proc(i: usize, destination: &InRoot, kind: &Kind, problems: &mut Problems) {
    let at = format!("mounts[{i}].destination");
    if destination.as_str() == "/proc" {
        // Whether the source of a bind is a procfs is seen when it is opened.
        if !matches!(kind, Kind::Proc | Kind::Bind { .. } | Kind::Remount { .. }) {
            problems.error(at, "only type proc, or a bind of a procfs, may be mounted on /proc");
        }
    } else if destination.as_str().starts_with("/proc/")
        && !(may_cover_proc(destination) && matches!(kind, Kind::Bind { .. }))
        && !matches!(kind, Kind::Remount { .. })
    {
        problems.error_hint(
            at,
            format!("{destination} is inside /proc"),
            format!("only files can be bound there, and only on {}", COVERABLE.join(", ")),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::mount_options::PropagationType;
    use serde_json::{Value, json};

    const FACTS: Facts = Facts {
        new_mount_ns: true,
        new_user_ns: false,
        joined_user_ns: false,
        new_net_ns: true,
        new_cgroup_ns: true,
        terminal: false,
        no_pivot: false,
        idmap_all: false,
        ordinary_user: false,
    };

    fn planned(mounts: Value) -> (Vec<Mount>, Problems) {
        let mounts: Vec<oci_spec::runtime::Mount> = serde_json::from_value(mounts).unwrap();
        let mut problems = Problems::default();
        let mounts = plan(&mounts, Path::new("/bundle"), &FACTS, &mut problems);
        (mounts, problems)
    }

    fn one(mount: Value) -> Mount {
        let (mut mounts, problems) = planned(json!([mount]));
        assert_eq!(problems.errors, []);
        mounts.remove(0)
    }

    fn refused(mount: Value) -> (String, String) {
        let (_, problems) = planned(json!([mount]));
        assert_eq!(problems.errors.len(), 1, "{problems:?}");
        (problems.errors[0].path.clone(), problems.errors[0].message.clone())
    }

    #[test]
    fn a_file_system_s_words_become_parameters() {
        let mount = one(json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=64k,nr_inodes=5"]}));
        assert_eq!(mount.kind, Kind::Tmpfs { copy_up: false });
        assert_eq!(mount.attrs, Attrs { set: attr::NOSUID, clear: 0, atime: Some(attr::STRICTATIME) });
        let parameter = |k: &str, v: &str| (k.to_string(), Some(v.to_string()));
        assert_eq!(mount.parameters, [parameter("mode", "755"), parameter("size", "64k"), parameter("nr_inodes", "5")]);
        assert_eq!(mount.source.as_deref(), Some("tmpfs"));
        assert_eq!(mount.name(), "mounts[0] /dev");
    }

    #[test]
    fn commas_in_quotes_and_after_a_backslash_do_not_split() {
        assert_eq!(split("a,,b=1,"), ["a", "b=1"]);
        assert_eq!(split(r"lowerdir=/a\,b:/c\\,x"), [r"lowerdir=/a\,b:/c\\", "x"]);
        let options = ["size=1k,context=\"u:r:t:s0:c1,c2\",mode=700"];
        let mount = one(json!({"destination": "/x", "type": "tmpfs", "options": options}));
        let keys: Vec<&str> = mount.parameters.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["size", "context", "mode"]);
        assert_eq!(mount.parameters[1].1.as_deref(), Some("u:r:t:s0:c1,c2"));
    }

    #[test]
    fn layers_are_parted_by_colons_that_have_no_backslash() {
        let data = |list: &str| -> Vec<String> {
            layers(list).into_iter().map(|(data, path)| format!("{}{path}", if data { "data " } else { "" })).collect()
        };
        assert_eq!(data(r"/et\c:/a\:b:/c\\d"), ["/etc", "/a:b", r"/c\d"]);
        assert_eq!(data("/a::/b:/c"), ["/a", "data /b", "data /c"]);
        assert_eq!(data("/a"), ["/a"]);
    }

    #[test]
    fn a_bind_is_one_by_its_option_and_its_source_is_relative_to_the_bundle() {
        let mount = one(json!({"destination": "/x", "type": "none", "source": "data",
            "options": ["rbind", "rro", "rprivate"]}));
        assert_eq!(mount.kind, Kind::Bind { source: "/bundle/data".into(), recursive: true });
        assert_eq!(mount.recursive.set, attr::RDONLY);
        assert!(mount.attrs.is_empty());
        assert_eq!(mount.propagation, [Propagation { to: PropagationType::Private, recursive: true }]);
        let (mounts, problems) = planned(json!([{"destination": "/x", "type": "bind", "source": "/a"}]));
        assert_eq!(mounts[0].kind, Kind::Bind { source: "/a".into(), recursive: false });
        assert_eq!(problems.warnings[0].path, "mounts[0].type");
    }

    #[test]
    fn faults_have_their_json_path() {
        for (mount, path, message) in [
            (json!({"destination": "", "type": "tmpfs"}), "mounts[0].destination", "missing or empty"),
            (json!({"destination": "/a/..", "type": "tmpfs"}), "mounts[0].destination", "root file system itself"),
            (json!({"destination": "/a\u{0}b", "type": "tmpfs"}), "mounts[0].destination", "NUL"),
            (json!({"destination": "/a"}), "mounts[0].type", "missing"),
            (json!({"destination": "/a", "options": ["bind"]}), "mounts[0].source", "needs a source"),
            (
                json!({"destination": "/a", "source": "/b", "options": ["bind", "size=1"]}),
                "mounts[0].options[1]",
                "not an option of a bind mount",
            ),
            (
                json!({"destination": "/a", "type": "tmpfs", "options": ["remount", "size=1m"]}),
                "mounts[0].options[1]",
                "not an option of a bind mount",
            ),
            (json!({"destination": "/a", "type": "proc", "options": ["tmpcopyup"]}), "mounts[0].options[0]", "tmpfs"),
            (
                json!({"destination": "/a", "source": "/b", "options": ["rbind", "ridmap"]}),
                "mounts[0].options[1]",
                "no mapping to use",
            ),
            (
                json!({"destination": "/a", "type": "tmpfs", "options": ["idmap"],
                    "uidMappings": [range()], "gidMappings": [range()]}),
                "mounts[0].options[0]",
                "only a bind mount",
            ),
            (
                json!({"destination": "/a", "source": "/b", "options": ["rbind"], "uidMappings": [range()]}),
                "mounts[0].gidMappings",
                "missing",
            ),
            (
                json!({"destination": "/a", "source": "/b", "options": ["rbind", "idmap"], "gidMappings": [range()],
                    "uidMappings": [range(), {"hostID": 5, "containerID": 0, "size": 1}]}),
                "mounts[0].uidMappings[1].containerID",
                "overlaps",
            ),
            (json!({"destination": "/proc", "type": "tmpfs"}), "mounts[0].destination", "only type proc"),
            (json!({"destination": "/proc/sys", "type": "tmpfs"}), "mounts[0].destination", "inside /proc"),
            (
                json!({"destination": "/x/../proc/self/attr", "source": "/a", "options": ["bind"]}),
                "mounts[0].destination",
                "inside /proc",
            ),
        ] {
            let (at, text) = refused(mount.clone());
            assert_eq!(at, path, "{mount}");
            assert!(text.contains(message), "{mount}: {text}");
        }
    }

    fn range() -> Value {
        json!({"hostID": 1000, "containerID": 0, "size": 1})
    }

    #[test]
    fn a_mount_s_own_mappings_imply_idmap_and_the_word_alone_means_the_container_s() {
        let own = json!({"destination": "/a", "source": "/b", "options": ["rbind"], "uidMappings": [range()],
            "gidMappings": [range()]});
        let map = one(own).idmap.unwrap();
        assert!(!map.recursive && map.own.unwrap().uid[0].host == 1000);
        let mounts = json!([{"destination": "/a", "source": "/b", "options": ["bind", "ridmap"]}]);
        let mounts: Vec<oci_spec::runtime::Mount> = serde_json::from_value(mounts).unwrap();
        let mut problems = Problems::default();
        let planned = plan(&mounts, Path::new("/"), &Facts { new_user_ns: true, ..FACTS }, &mut problems);
        assert_eq!(planned[0].idmap, Some(MountMap { own: None, recursive: true, lenient: false }));
        assert_eq!(problems, Problems::default());
        plan(&mounts, Path::new("/"), &Facts { new_user_ns: true, ordinary_user: true, ..FACTS }, &mut problems);
        assert!(problems.errors[0].message.contains("ordinary user"));
    }

    #[test]
    fn lxcfs_files_may_cover_proc() {
        one(json!({"destination": "/proc/meminfo", "source": "/a", "options": ["bind"]}));
    }

    #[test]
    fn a_relative_destination_is_relative_to_the_root_and_cannot_leave_it() {
        let (mounts, problems) = planned(json!([{"destination": "../../a//b/./c", "type": "tmpfs"}]));
        assert_eq!(mounts[0].destination.as_str(), "/a/b/c");
        assert_eq!(problems.warnings[0].path, "mounts[0].destination");
    }

    #[test]
    fn a_tmpfs_that_is_filled_later_becomes_read_only_at_the_end() {
        let (mounts, _) = planned(json!([
            {"destination": "/run", "type": "tmpfs", "options": ["ro"]},
            {"destination": "/run2", "type": "tmpfs", "options": ["ro"]},
            {"destination": "/run/x", "type": "tmpfs"},
            {"destination": "/dev", "type": "tmpfs", "options": ["rro"]},
            {"destination": "/sys", "type": "sysfs", "options": ["ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]},
        ]));
        let at_end: Vec<bool> = mounts.iter().map(|m| m.read_only_at_end).collect();
        assert_eq!(at_end, [true, true, false, true, false, false]);
        let (mounts, _) = planned(json!([{"destination": "/run", "type": "tmpfs", "options": ["ro"]}]));
        assert!(!mounts[0].read_only_at_end);
    }

    #[test]
    fn a_remount_is_of_the_last_entry_at_its_destination() {
        let (mounts, problems) = planned(json!([
            {"destination": "/a", "source": "/x", "options": ["bind"]},
            {"destination": "/a/", "type": "tmpfs", "options": ["ro"]},
            {"destination": "/b", "type": "tmpfs"},
            {"destination": "/a", "options": ["remount", "size=1m", "sync", "rw", "rnosuid"]},
            {"destination": "/a", "options": ["remount", "bind", "nodev"]},
            {"destination": "/c", "options": ["remount", "rro"]},
            {"destination": "/b", "options": ["remount", "ro"]},
            {"destination": "/d", "type": "tmpfs"},
        ]));
        assert_eq!(problems.errors, []);
        let of: Vec<&Kind> = mounts.iter().skip(3).map(|m| &m.kind).collect();
        assert_eq!(*of[0], Kind::Remount { of: Some(1) });
        assert_eq!(*of[1], Kind::Remount { of: Some(1) });
        assert_eq!(*of[2], Kind::Remount { of: None });
        assert_eq!(mounts[3].parameters.len(), 2);
        assert_eq!((mounts[3].attrs.clear, mounts[3].recursive.set), (attr::RDONLY, attr::NOSUID));
        assert!(!mounts[1].read_only_at_end, "the remount made it rw");
        assert!(mounts[2].read_only_at_end, "the remount made it ro, and a mount follows");
        let (_, problems) = planned(json!([
            {"destination": "/a", "type": "ext4", "source": "/dev/x", "options": ["ro"]},
            {"destination": "/a", "options": ["remount", "rw"]},
            {"destination": "/a", "options": ["remount", "errors=continue"]},
        ]));
        let at: Vec<&str> = problems.errors.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(at, ["mounts[1].options", "mounts[2].options[1]"]);
    }

    #[test]
    fn without_a_mount_namespace_mounts_are_refused() {
        let mounts: Vec<oci_spec::runtime::Mount> =
            serde_json::from_value(json!([{"destination": "/a", "type": "tmpfs"}])).unwrap();
        let mut problems = Problems::default();
        plan(&mounts, Path::new("/"), &Facts { new_mount_ns: false, ..FACTS }, &mut problems);
        assert_eq!(problems.errors[0].path, "mounts");
    }
}
