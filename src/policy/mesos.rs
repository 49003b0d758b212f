// SPDX-License-Identifier: Apache-2.0
//! A policy that behaves as the flags of a Mesos agent do (src/slave/flags.cpp). Pure.

use std::fmt::Write;

use serde_json::Value;

use crate::plan::capabilities;

/// The flags, as given.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    pub effective: Option<String>,
    pub bounding: Option<String>,
    pub config_dir: Option<String>,
    pub profile_name: Option<String>,
}

/// The text of the policy file.
///
/// # Errors
/// What is wrong with a flag.
pub fn import(flags: &Flags) -> Result<String, String> {
    let set = |flag: &str, text: &Option<String>| -> Result<Option<Vec<String>>, String> {
        text.as_ref().map(|text| names(text).map_err(|e| format!("{flag}: {e}"))).transpose()
    };
    let effective = set("--effective_capabilities", &flags.effective)?;
    let bounding = set("--bounding_capabilities", &flags.bounding)?;
    if let (Some(effective), Some(bounding)) = (&effective, &bounding)
        && let Some(excess) = effective.iter().find(|name| !bounding.contains(name))
    {
        // The agent does not start either.
        return Err(format!("--effective_capabilities: {excess} is not in --bounding_capabilities"));
    }
    let mut text = String::from("# From the flags of a Mesos agent, by orlop policy import-mesos.\nversion = 1\n");
    let mut line = |line: String| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{line}");
    };
    if effective.is_some() || bounding.is_some() {
        line("\n[capabilities]".into());
        if let Some(bounding) = &bounding {
            line(format!("ceiling = {}", list(bounding)));
        }
        // With a ceiling alone a Mesos task that asks for nothing is root with all of it, or a user with nothing: what
        // an empty default with this bounding set gives.
        line(format!("default = {}", list(effective.as_deref().unwrap_or_default())));
        if let Some(bounding) = &bounding {
            line(format!("default_bounding = {}", list(bounding)));
        }
        line("on_excess = \"reject\"".into());
        line("# Mesos makes the effective set ambient, and the bounding set inheritable.".into());
        line("ambient = \"non-root\"\ninheritable = \"bounding\"".into());
    }
    match (&flags.config_dir, &flags.profile_name) {
        (None, Some(_)) => return Err("--seccomp_profile_name: needs --seccomp_config_dir".into()),
        (None, None) => {}
        (Some(dir), name) => {
            line(format!("\n[seccomp]\nconfig_dir = {}", quoted(dir)));
            if let Some(name) = name {
                line(format!("default = {}", quoted(name)));
            }
            line("# A task's own profile takes the place of the default, and none are stacked.".into());
            line("bundle_profile = \"replace\"\nallow_unconfined = true".into());
        }
    }
    Ok(text)
}

/// `{"capabilities": ["NET_RAW"]}`.
fn names(text: &str) -> Result<Vec<String>, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let Some(members) = value.as_object().filter(|members| members.keys().all(|key| key == "capabilities")) else {
        return Err("expected {\"capabilities\": [...]}".into());
    };
    let Some(list) = members.get("capabilities") else { return Ok(Vec::new()) };
    let list = list.as_array().ok_or("capabilities: expected an array of names")?;
    list.iter()
        .map(|name| match name.as_str() {
            Some(name) if capabilities::parse(name).is_some() => Ok(name.trim_start_matches("CAP_").to_string()),
            _ => Err(format!("no such capability: {name}")),
        })
        .collect()
}

fn list(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    format!("[{}]", quoted.join(", "))
}

/// A basic string of TOML, which has the escapes of JSON.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
