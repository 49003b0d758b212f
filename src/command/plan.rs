// SPDX-License-Identifier: Apache-2.0
//! `orlop plan`.

use std::path::Path;

use anyhow::{Context, Result};

use crate::cli::PlanArgs;
use crate::command::policy::govern;
use crate::command::{bundle, make_plan, print_json};
use crate::host::Host;
use crate::kernel::systemd;
use crate::plan::Request;
use crate::spec;

/// Prints what `create` would do, and does nothing.
pub fn plan(args: &PlanArgs, policy: Option<&Path>, systemd_cgroup: bool) -> Result<u8> {
    let planned = || -> Result<()> {
        crate::state::check_id(&args.id)?;
        let bundle = bundle(args.bundle.as_deref())?;
        let governed = govern(policy, spec::load(&bundle)?, &bundle, false, None)?;
        let extra_seccomp = governed.stack;
        let request = Request {
            id: args.id.clone(),
            bundle,
            no_pivot: args.no_pivot,
            systemd: if systemd_cgroup { Some(systemd::manager().context("--systemd-cgroup")?) } else { None },
            extra_seccomp,
            ..Request::default()
        };
        print_json(&make_plan(&governed.config, &Host::detect()?, &request)?)
    };
    planned().context("plan")?;
    Ok(0)
}
