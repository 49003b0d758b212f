// SPDX-License-Identifier: Apache-2.0
//! `orlop plan`.

use anyhow::{Context, Result};

use crate::cli::PlanArgs;
use crate::command::{bundle, make_plan, print_json};
use crate::host::Host;
use crate::plan::Request;
use crate::spec;

/// Prints what `create` would do, and does nothing.
pub fn plan(args: &PlanArgs) -> Result<u8> {
    let planned = || -> Result<()> {
        crate::state::check_id(&args.id)?;
        let bundle = bundle(args.bundle.as_deref())?;
        let config = spec::load(&bundle)?;
        let request = Request { id: args.id.clone(), bundle, no_pivot: args.no_pivot, ..Request::default() };
        print_json(&make_plan(&config, &Host::detect()?, &request)?)
    };
    planned().context("plan")?;
    Ok(0)
}
