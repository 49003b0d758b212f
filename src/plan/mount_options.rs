// SPDX-License-Identifier: Apache-2.0
//! The words of `mounts[].options` (config.md#linux-mount-options): what each changes, as data.

use serde::{Serialize, Serializer};

/// `MOUNT_ATTR_*` of `mount_setattr(2)`.
pub mod attr {
    pub const RDONLY: u64 = 0x1;
    pub const NOSUID: u64 = 0x2;
    pub const NODEV: u64 = 0x4;
    pub const NOEXEC: u64 = 0x8;
    /// The mask of the three access time modes, of which relatime is 0.
    pub const ATIME: u64 = 0x70;
    pub const RELATIME: u64 = 0;
    pub const NOATIME: u64 = 0x10;
    pub const STRICTATIME: u64 = 0x20;
    pub const NODIRATIME: u64 = 0x80;
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

const NAMES: [(u64, &str); 8] = [
    (attr::RDONLY, "ro"),
    (attr::NOSUID, "nosuid"),
    (attr::NODEV, "nodev"),
    (attr::NOEXEC, "noexec"),
    (attr::NOATIME, "noatime"),
    (attr::STRICTATIME, "strictatime"),
    (attr::NODIRATIME, "nodiratime"),
    (attr::NOSYMFOLLOW, "nosymfollow"),
];

/// The option words for the attribute bits, e.g. `["ro", "nosuid"]`.
pub fn names(bits: u64) -> Vec<&'static str> {
    NAMES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect()
}

/// A change of mount attributes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Attrs {
    /// Bits to set, without the access time mode.
    #[serde(serialize_with = "as_names")]
    pub set: u64,
    /// Bits to clear, without the access time mode.
    #[serde(serialize_with = "as_names")]
    pub clear: u64,
    /// The access time mode to change to: RELATIME, NOATIME or STRICTATIME of [`attr`].
    pub atime: Option<u64>,
}

fn as_names<S: Serializer>(bits: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    names(*bits).serialize(serializer)
}

impl Attrs {
    /// The `attr_set` of `mount_setattr(2)`.
    pub fn to_set(self) -> u64 {
        self.set | self.atime.unwrap_or(0)
    }

    /// The `attr_clr` of `mount_setattr(2)`, which must hold the whole mask if the access time mode changes.
    pub fn to_clear(self) -> u64 {
        self.clear | if self.atime.is_some() { attr::ATIME } else { 0 }
    }

    /// Whether there is nothing to change.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// `self`, then `later`, as one change.
    pub fn then(self, later: Self) -> Self {
        Self {
            set: (self.set & !later.clear) | later.set,
            clear: (self.clear & !later.set) | later.clear,
            atime: later.atime.or(self.atime),
        }
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Set(bit) => *self = self.then(Self { set: bit, ..Self::default() }),
            Change::Clear(bit) => *self = self.then(Self { clear: bit, ..Self::default() }),
            Change::Atime(mode) => self.atime = Some(mode),
            // `noatime,nostrictatime` stays noatime; alone, the word means the kernel's default mode.
            Change::NotAtime(mode) if self.atime.is_none_or(|m| m == mode) => self.atime = Some(attr::RELATIME),
            Change::NotAtime(_) => {}
        }
    }
}

/// A propagation type of mount_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PropagationType {
    Private,
    Slave,
    Shared,
    Unbindable,
}

/// A change of propagation; `recursive` for the words with an `r`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Propagation {
    pub to: PropagationType,
    pub recursive: bool,
}

impl Propagation {
    /// The word of `mounts[].options` or `linux.rootfsPropagation`, if it is one.
    pub fn parse(word: &str) -> Option<Self> {
        match action(word) {
            Some(Action::Propagation(propagation)) => Some(propagation),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Set(u64),
    Clear(u64),
    Atime(u64),
    NotAtime(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Nothing to do: the default, or only about the kernel's log.
    Nothing,
    Attr(Change),
    RecursiveAttr(Change),
    Propagation(Propagation),
    /// A flag of the superblock, passed to `fsconfig(2)`.
    Superblock(&'static str),
    Bind {
        recursive: bool,
    },
    CopyUp,
    Idmap {
        recursive: bool,
    },
    Remount,
}

use Action::{Attr, Bind, CopyUp, Idmap, Nothing, RecursiveAttr, Remount, Superblock};
use Change::{Atime, Clear, NotAtime, Set};

/// Every word, sorted.
const TABLE: [(&str, Action); 62] = [
    ("async", Superblock("async")),
    ("atime", Attr(NotAtime(attr::NOATIME))),
    ("bind", Bind { recursive: false }),
    ("defaults", Nothing),
    ("dev", Attr(Clear(attr::NODEV))),
    ("diratime", Attr(Clear(attr::NODIRATIME))),
    ("dirsync", Superblock("dirsync")),
    ("exec", Attr(Clear(attr::NOEXEC))),
    ("idmap", Idmap { recursive: false }),
    ("iversion", Superblock("iversion")),
    ("lazytime", Superblock("lazytime")),
    ("loud", Nothing),
    ("mand", Superblock("mand")),
    ("noatime", Attr(Atime(attr::NOATIME))),
    ("nodev", Attr(Set(attr::NODEV))),
    ("nodiratime", Attr(Set(attr::NODIRATIME))),
    ("noexec", Attr(Set(attr::NOEXEC))),
    ("noiversion", Nothing),
    ("nolazytime", Superblock("nolazytime")),
    ("nomand", Superblock("nomand")),
    // Without strictatime the kernel makes every mount relatime, so that clearing it changes nothing.
    ("norelatime", Nothing),
    ("nostrictatime", Attr(NotAtime(attr::STRICTATIME))),
    ("nosuid", Attr(Set(attr::NOSUID))),
    ("nosymfollow", Attr(Set(attr::NOSYMFOLLOW))),
    ("private", propagation(PropagationType::Private, false)),
    ("ratime", RecursiveAttr(NotAtime(attr::NOATIME))),
    ("rbind", Bind { recursive: true }),
    ("rdev", RecursiveAttr(Clear(attr::NODEV))),
    ("rdiratime", RecursiveAttr(Clear(attr::NODIRATIME))),
    ("relatime", Attr(Atime(attr::RELATIME))),
    ("remount", Remount),
    ("rexec", RecursiveAttr(Clear(attr::NOEXEC))),
    ("ridmap", Idmap { recursive: true }),
    ("rnoatime", RecursiveAttr(Atime(attr::NOATIME))),
    ("rnodev", RecursiveAttr(Set(attr::NODEV))),
    ("rnodiratime", RecursiveAttr(Set(attr::NODIRATIME))),
    ("rnoexec", RecursiveAttr(Set(attr::NOEXEC))),
    ("rnorelatime", Nothing),
    ("rnostrictatime", RecursiveAttr(NotAtime(attr::STRICTATIME))),
    ("rnosuid", RecursiveAttr(Set(attr::NOSUID))),
    ("rnosymfollow", RecursiveAttr(Set(attr::NOSYMFOLLOW))),
    ("ro", Attr(Set(attr::RDONLY))),
    ("rprivate", propagation(PropagationType::Private, true)),
    ("rrelatime", RecursiveAttr(Atime(attr::RELATIME))),
    ("rro", RecursiveAttr(Set(attr::RDONLY))),
    ("rrw", RecursiveAttr(Clear(attr::RDONLY))),
    ("rshared", propagation(PropagationType::Shared, true)),
    ("rslave", propagation(PropagationType::Slave, true)),
    ("rstrictatime", RecursiveAttr(Atime(attr::STRICTATIME))),
    ("rsuid", RecursiveAttr(Clear(attr::NOSUID))),
    ("rsymfollow", RecursiveAttr(Clear(attr::NOSYMFOLLOW))),
    ("runbindable", propagation(PropagationType::Unbindable, true)),
    ("rw", Attr(Clear(attr::RDONLY))),
    ("shared", propagation(PropagationType::Shared, false)),
    ("silent", Nothing),
    ("slave", propagation(PropagationType::Slave, false)),
    ("strictatime", Attr(Atime(attr::STRICTATIME))),
    ("suid", Attr(Clear(attr::NOSUID))),
    ("symfollow", Attr(Clear(attr::NOSYMFOLLOW))),
    ("sync", Superblock("sync")),
    ("tmpcopyup", CopyUp),
    ("unbindable", propagation(PropagationType::Unbindable, false)),
];

const fn propagation(to: PropagationType, recursive: bool) -> Action {
    Action::Propagation(Propagation { to, recursive })
}

fn action(word: &str) -> Option<Action> {
    TABLE.iter().find(|(name, _)| *name == word).map(|(_, action)| *action)
}

/// The words that orlop carries out, for the `features` command (features.md#mount-options).
pub fn words() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(name, _)| *name)
}

/// `mounts[].options`, sorted by what they change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The recursion of a bind mount, if it is one.
    pub bind: Option<bool>,
    /// Changes of the mount itself.
    pub attrs: Attrs,
    /// Changes of the mount and of all mounts below it.
    pub recursive: Attrs,
    /// Changes of propagation, in order; `slave` then `shared` gives both.
    pub propagation: Vec<Propagation>,
    /// Flags of the superblock, each with its index.
    pub superblock: Vec<(usize, &'static str)>,
    /// `tmpcopyup`, with its index.
    pub copy_up: Option<usize>,
    /// `idmap` or `ridmap`: its index, and whether it is recursive.
    pub idmap: Option<(usize, bool)>,
    /// Words for the file system, each with its index.
    pub data: Vec<(usize, String)>,
    /// `remount`: change what an earlier entry mounted, instead of mounting something.
    pub remount: bool,
}

impl Options {
    /// Sorts the words; later ones win over earlier ones, as with mount(8). A word that is not in the table is data.
    pub fn parse(words: &[String]) -> Self {
        let mut options = Self::default();
        for (i, word) in words.iter().enumerate() {
            match action(word) {
                Some(Nothing) => {}
                Some(Attr(change)) => options.attrs.apply(change),
                Some(RecursiveAttr(change)) => options.recursive.apply(change),
                Some(Action::Propagation(propagation)) => options.propagation.push(propagation),
                Some(Superblock(flag)) => options.superblock.push((i, flag)),
                Some(Bind { recursive }) => options.bind = Some(recursive || options.bind == Some(true)),
                Some(CopyUp) => options.copy_up = Some(i),
                Some(Idmap { recursive }) => {
                    options.idmap = Some((i, recursive || options.idmap.is_some_and(|(_, r)| r)));
                }
                Some(Remount) => options.remount = true,
                None if word.is_empty() => {}
                None => options.data.push((i, word.clone())),
            }
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Options {
        Options::parse(&words.split(' ').map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn words_sort_by_what_they_change() {
        let options = parse("rbind ro nosuid rro rshared size=1k sync tmpcopyup idmap defaults");
        assert_eq!(options.bind, Some(true));
        assert_eq!(options.attrs, Attrs { set: attr::RDONLY | attr::NOSUID, clear: 0, atime: None });
        assert_eq!(options.recursive, Attrs { set: attr::RDONLY, clear: 0, atime: None });
        assert_eq!(options.propagation, [Propagation { to: PropagationType::Shared, recursive: true }]);
        assert_eq!(options.data, [(5, "size=1k".to_string())]);
        assert_eq!(options.superblock, [(6, "sync")]);
        assert_eq!(options.copy_up, Some(7));
        assert_eq!(options.idmap, Some((8, false)));
    }

    #[test]
    fn the_last_word_of_a_pair_wins() {
        for (words, set, clear) in [
            ("ro rw", 0, attr::RDONLY),
            ("rw ro", attr::RDONLY, 0),
            ("nosuid suid nodev", attr::NODEV, attr::NOSUID),
            ("noexec exec noexec", attr::NOEXEC, 0),
            ("nosymfollow symfollow", 0, attr::NOSYMFOLLOW),
            ("nodiratime diratime", 0, attr::NODIRATIME),
        ] {
            let attrs = parse(words).attrs;
            assert_eq!((attrs.set, attrs.clear), (set, clear), "{words}");
        }
    }

    #[test]
    fn an_access_time_mode_clears_the_whole_mask() {
        for (words, set, clear) in [
            ("noatime", attr::NOATIME, attr::ATIME),
            ("strictatime", attr::STRICTATIME, attr::ATIME),
            ("relatime", 0, attr::ATIME),
            ("atime", 0, attr::ATIME),
            ("noatime atime", 0, attr::ATIME),
            ("noatime nostrictatime", attr::NOATIME, attr::ATIME),
            ("strictatime nostrictatime", 0, attr::ATIME),
            ("norelatime", 0, 0),
        ] {
            let attrs = parse(words).attrs;
            assert_eq!((attrs.to_set(), attrs.to_clear()), (set, clear), "{words}");
            let recursive: Vec<String> = words.split(' ').map(|word| format!("r{word}")).collect();
            let attrs = Options::parse(&recursive).recursive;
            assert_eq!((attrs.to_set(), attrs.to_clear()), (set, clear), "r: {words}");
        }
    }

    #[test]
    fn every_word_that_the_specification_requires_is_known() {
        // config.md#linux-mount-options, and tmpcopyup, which runc added.
        let required = "async atime bind defaults dev diratime dirsync exec idmap iversion lazytime loud mand noatime nodev \
            nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime \
            rbind rdev rdiratime relatime remount rexec ridmap rnoatime rnodev rnodiratime rnoexec rnorelatime \
            rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid \
            rsymfollow runbindable rw shared silent slave strictatime suid symfollow sync tmpcopyup unbindable";
        for word in required.split_whitespace() {
            assert!(words().any(|w| w == word), "{word}");
        }
        assert!(parse("remount").remount && !parse("ro").remount);
        assert!(parse("acl").data.len() == 1, "acl is the file system's");
    }

    #[test]
    fn the_table_is_sorted_as_features_lists_it() {
        assert!(TABLE.is_sorted_by_key(|(word, _)| word));
    }

    #[test]
    fn slave_then_shared_keeps_both() {
        assert_eq!(parse("rslave shared").propagation.len(), 2);
        assert_eq!(Propagation::parse("rslave"), Some(Propagation { to: PropagationType::Slave, recursive: true }));
        assert_eq!(Propagation::parse("ro"), None);
    }
}
