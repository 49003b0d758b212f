// SPDX-License-Identifier: Apache-2.0
//! `orlop state`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::command::print_json;
use crate::kernel::procfs::Proc;
use crate::state::{Root, State, StateDir, Status};

/// A container in the JSON of `state` and `list`: runc's members in runc's order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub oci_version: String,
    pub id: String,
    /// 0 when the container has stopped.
    pub pid: i32,
    pub status: &'static str,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The name of the user who created it; empty in `state`.
    pub owner: String,
    #[serde(skip)]
    pub owner_id: u32,
}

/// Prints the state of a container.
pub fn state(root: &Root, id: &str) -> Result<u8> {
    let read = || report(&root.container(id)?, &Proc::open()?);
    print_json(&read().with_context(|| format!("state {id}"))?)?;
    Ok(0)
}

/// Reads the state of a container and asks the kernel what it is doing.
pub fn report(dir: &StateDir, proc: &Proc) -> Result<Report> {
    let from = |state: State, status: Status| Report {
        oci_version: state.oci_version,
        id: state.id,
        pid: if status == Status::Stopped { 0 } else { state.init.pid },
        status: status.word(),
        bundle: state.bundle,
        rootfs: state.rootfs,
        created: state.created,
        annotations: state.annotations,
        owner: String::new(),
        owner_id: state.owner,
    };
    if let Some(state) = dir.state()? {
        let status = state.status(proc)?;
        return Ok(from(state, status));
    }
    // Only the intent is there: a create is under way, or has died.
    let intent = dir.intent()?.with_context(|| format!("container {} is not completely created", dir.id))?;
    let alive = proc.find(&intent.creator)?.is_some_and(|found| !found.stat.has_ended());
    let status = if alive { Status::Creating } else { Status::Stopped };
    Ok(Report {
        oci_version: crate::spec::OCI_VERSION.into(),
        id: intent.id,
        pid: 0,
        status: status.word(),
        bundle: intent.bundle,
        rootfs: PathBuf::new(),
        created: String::new(),
        annotations: BTreeMap::new(),
        owner: String::new(),
        owner_id: 0,
    })
}
