// SPDX-License-Identifier: Apache-2.0
//! serde reads a struct from an array too, member by member, and an empty array as a struct without members. For a config
//! that is a fault of type, and one that could hide: `"resources": []` would be a container without limits. And oci-spec
//! takes a number that is left out for 0, where the specification requires it: a mapping to the host's root, or a limit of 0.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// An object of config.json, or an array of such objects.
struct Node {
    name: &'static str,
    array: bool,
    members: &'static [Node],
    /// The members that have to be there.
    required: &'static [&'static str],
}

/// What Docker's format has and `linux.seccomp` has not.
const DOCKER: [&str; 5] = ["archMap", "includes", "excludes", "minKernel", "name"];

/// The name for every member of a map.
const ANY: &str = "*";

const fn object(name: &'static str, members: &'static [Node]) -> Node {
    Node { name, array: false, members, required: &[] }
}

const fn objects(name: &'static str, members: &'static [Node]) -> Node {
    Node { name, array: true, members, required: &[] }
}

const fn complete(name: &'static str, required: &'static [&'static str]) -> Node {
    Node { name, array: true, members: &[], required }
}

/// config-linux.md#user-namespace-mappings
const MAPPING: &[&str] = &["containerID", "hostID", "size"];

const ID_MAPPINGS: [Node; 2] = [complete("uidMappings", MAPPING), complete("gidMappings", MAPPING)];

/// config-linux.md#devices: a FIFO needs no [`NUMBERS`].
const DEVICE: &[&str] = &["type", "path", "major", "minor"];
const NUMBERS: [&str; 2] = ["major", "minor"];

const SECCOMP: Node = object("seccomp", &[objects("syscalls", &[objects("args", &[])])]);

const PROCESS: Node = object(
    "process",
    &[
        object("consoleSize", &[]),
        object("user", &[]),
        object("capabilities", &[]),
        object("scheduler", &[]),
        object("ioPriority", &[]),
        object("execCPUAffinity", &[]),
        complete("rlimits", &["type", "soft", "hard"]),
    ],
);

const CONFIG: Node = object(
    "",
    &[
        object("root", &[]),
        PROCESS,
        objects("mounts", &ID_MAPPINGS),
        object(
            "hooks",
            &[
                objects("prestart", &[]),
                objects("createRuntime", &[]),
                objects("createContainer", &[]),
                objects("startContainer", &[]),
                objects("poststart", &[]),
                objects("poststop", &[]),
            ],
        ),
        object(
            "linux",
            &[
                complete("uidMappings", MAPPING),
                complete("gidMappings", MAPPING),
                objects("namespaces", &[]),
                complete("devices", DEVICE),
                SECCOMP,
                object("timeOffsets", &[object(ANY, &[])]),
                object("netDevices", &[object(ANY, &[])]),
                object("personality", &[]),
                object("memoryPolicy", &[]),
                object("intelRdt", &[]),
                object(
                    "resources",
                    &[
                        objects("devices", &[]),
                        object("memory", &[]),
                        object("cpu", &[]),
                        object("pids", &[]),
                        object(
                            "blockIO",
                            &[
                                objects("weightDevice", &[]),
                                objects("throttleReadBpsDevice", &[]),
                                objects("throttleWriteBpsDevice", &[]),
                                objects("throttleReadIOPSDevice", &[]),
                                objects("throttleWriteIOPSDevice", &[]),
                            ],
                        ),
                        objects("hugepageLimits", &[]),
                        object("rdma", &[object(ANY, &[])]),
                        object("network", &[objects("priorities", &[])]),
                    ],
                ),
            ],
        ),
    ],
);

/// What the types of a config do not tell.
#[derive(Default)]
pub struct Seen {
    /// The seccomp profile has a member of Docker's format.
    docker: Cell<bool>,
    /// `linux.resources.pids` has no limit, which reads as one of 0.
    pids_without_limit: Cell<bool>,
}

impl Seen {
    pub fn docker(&self) -> bool {
        self.docker.get()
    }

    pub fn pids_without_limit(&self) -> bool {
        self.pids_without_limit.get()
    }
}

/// Fails at the first array that stands where config.json has an object, or object that lacks what it must have.
pub fn check(json: &[u8]) -> Result<Seen, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let seen = Seen::default();
    Expect { node: &CONFIG, array: false, seen: &seen }.deserialize(&mut deserializer)?;
    Ok(seen)
}

/// [`check`] for the value of `linux.seccomp` alone.
pub fn check_seccomp(json: &[u8]) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Expect { node: &SECCOMP, array: false, seen: &Seen::default() }.deserialize(&mut deserializer)
}

/// [`check`] for the value of `process` alone.
pub fn check_process(json: &[u8]) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Expect { node: &PROCESS, array: false, seen: &Seen::default() }.deserialize(&mut deserializer)
}

/// What the next value must be.
struct Expect<'a> {
    node: &'static Node,
    array: bool,
    seen: &'a Seen,
}

impl<'de> DeserializeSeed<'de> for Expect<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Expect<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.array { "an array" } else { "an object" })
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut limit = self.node.name != "pids";
        let required = self.node.required;
        // A bit for each of them that is there.
        let mut present = 0_u32;
        let mut is_fifo = false;
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            limit = limit || name == "limit";
            if let Some(at) = required.iter().position(|member| *member == name) {
                present |= 1 << at;
                if name == "type" {
                    is_fifo = map.next_value::<serde_json::Value>()? == "p";
                    continue;
                }
            }
            match self.node.members.iter().find(|member| member.name == name || member.name == ANY) {
                // oci-spec knows these two by other names, so that it would pass them over.
                None if self.node.name == "intelRdt" && matches!(name.as_ref(), "enableCMT" | "enableMBM") => {
                    if map.next_value::<Option<bool>>()? == Some(true) {
                        return Err(A::Error::custom(format_args!("{name} is not carried out, use enableMonitoring")));
                    }
                }
                Some(node) => map.next_value_seed(Expect { node, array: node.array, seen: self.seen })?,
                None => {
                    if matches!(self.node.name, "seccomp" | "syscalls") && DOCKER.contains(&name.as_ref()) {
                        self.seen.docker.set(true);
                    }
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if !limit {
            self.seen.pids_without_limit.set(true);
        }
        for (at, name) in required.iter().enumerate() {
            if present >> at & 1 == 0 && !(is_fifo && NUMBERS.contains(name)) {
                return Err(A::Error::missing_field(name));
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        if !self.array {
            return Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &self));
        }
        while elements.next_element_seed(Expect { node: self.node, array: false, seen: self.seen })?.is_some() {}
        Ok(())
    }
}
