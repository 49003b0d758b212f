// SPDX-License-Identifier: Apache-2.0
//! `orlop list`.

use anyhow::{Result, bail};

use crate::cli::{Format, List};
use crate::command::print;
use crate::command::state::{Report, report};
use crate::kernel::procfs::Proc;
use crate::state::Root;

/// Lists the containers of the root. One that cannot be read is named on stderr, and the list goes on.
pub fn list(root: &Root, explicit_root: bool, args: &List) -> Result<u8> {
    let ids = match root.ids()? {
        Some(ids) => ids,
        None if explicit_root => bail!("list: --root {:?} does not exist", root.path),
        None => Vec::new(),
    };
    if args.quiet {
        ids.iter().for_each(|id| print(id));
        return Ok(0);
    }
    let proc = Proc::open()?;
    let mut reports: Vec<Report> = Vec::with_capacity(ids.len());
    for id in &ids {
        match root.container(id).and_then(|dir| report(&dir, &proc)) {
            Ok(mut found) => {
                found.owner = user_name(found.owner_id);
                reports.push(found);
            }
            Err(e) => crate::log::warn(&format!("list: {id}: {}", crate::error::one_line(&e))),
        }
    }
    match args.format {
        Format::Json => print(&serde_json::to_string(&reports)?),
        Format::Table => table(&reports),
    }
    Ok(0)
}

/// `#UID` for an unknown one, as runc prints.
fn user_name(uid: u32) -> String {
    crate::kernel::subid::login_name(uid).unwrap_or_else(|| format!("#{uid}"))
}

fn table(reports: &[Report]) {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(String::from)];
    rows.extend(reports.iter().map(|r| {
        let bundle = r.bundle.display().to_string();
        [r.id.clone(), r.pid.to_string(), r.status.into(), bundle, r.created.clone(), r.owner.clone()]
    }));
    print(&columns(&rows));
}

/// Rows with each column as wide as its widest cell (at least 12) and three blanks between, as runc's tabwriter sets
/// them.
pub fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [12; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count() + 3);
        }
    }
    let line = |row: &[String; N]| {
        let padded: String = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.trim_end().to_string()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
