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

/// Fails at the first array that stands where config.json has an object.
///
/// True if the seccomp profile has a member of Docker's format.
pub fn check(json: &[u8]) -> Result<bool, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let docker = Cell::new(false);
    Expect { node: &CONFIG, array: false, docker: &docker }.deserialize(&mut deserializer)?;
    Ok(docker.get())
}

/// [`check`] for the value of `linux.seccomp` alone.
pub fn check_seccomp(json: &[u8]) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Expect { node: &SECCOMP, array: false, docker: &Cell::new(false) }.deserialize(&mut deserializer)
}

/// What the next value must be.
struct Expect<'a> {
    node: &'static Node,
    array: bool,
    docker: &'a Cell<bool>,
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
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match self.node.members.iter().find(|member| member.name == name || member.name == ANY) {
                // oci-spec knows these two by other names, so that it would pass them over.
                None if self.node.name == "intelRdt" && matches!(name.as_ref(), "enableCMT" | "enableMBM") => {
                    if map.next_value::<Option<bool>>()? == Some(true) {
                        return Err(A::Error::custom(format_args!("{name} is not carried out, use enableMonitoring")));
                    }
                }
                Some(node) => map.next_value_seed(Expect { node, array: node.array, docker: self.docker })?,
                None => {
                    if matches!(self.node.name, "seccomp" | "syscalls") && DOCKER.contains(&name.as_ref()) {
                        self.docker.set(true);
                    }
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        if !self.array {
            return Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &self));
        }
        while elements.next_element_seed(Expect { node: self.node, array: false, docker: self.docker })?.is_some() {}
        Ok(())
    }
}
