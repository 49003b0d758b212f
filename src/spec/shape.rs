// SPDX-License-Identifier: Apache-2.0
//! serde reads a struct from an array too, member by member, and an empty array as a struct without members. For a config
//! that is a fault of type, and one that could hide: `"resources": []` would be a container without limits.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// An object of config.json, or an array of such objects.
struct Node {
    name: &'static str,
    array: bool,
    members: &'static [Node],
}

/// What Docker's format has and `linux.seccomp` has not.
const DOCKER: [&str; 5] = ["archMap", "includes", "excludes", "minKernel", "name"];

/// The name for every member of a map.
const ANY: &str = "*";

const fn object(name: &'static str, members: &'static [Node]) -> Node {
    Node { name, array: false, members }
}

const fn objects(name: &'static str, members: &'static [Node]) -> Node {
    Node { name, array: true, members }
}

const ID_MAPPINGS: [Node; 2] = [objects("uidMappings", &[]), objects("gidMappings", &[])];

const SECCOMP: Node = object("seccomp", &[objects("syscalls", &[objects("args", &[])])]);

const CONFIG: Node = object(
    "",
    &[
        object("root", &[]),
        object(
            "process",
            &[
                object("consoleSize", &[]),
                object("user", &[]),
                object("capabilities", &[]),
                object("scheduler", &[]),
                object("ioPriority", &[]),
                object("execCPUAffinity", &[]),
                objects("rlimits", &[]),
            ],
        ),
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
                objects("uidMappings", &[]),
                objects("gidMappings", &[]),
                objects("namespaces", &[]),
                objects("devices", &[]),
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

/// Fails at the first array that stands where config.json has an object.
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
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            limit = limit || name == "limit";
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
