// SPDX-License-Identifier: Apache-2.0
//! `linux.intelRdt` (config-linux.md#intelrdt): which group of the resctrl file system the container is in, and what is
//! written there.

use oci_spec::runtime::Linux;
use serde::Serialize;

use super::problem::Problems;

/// What is done in the resctrl file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resctrl {
    /// The directory of the class of service: `closID`, or the container's id.
    pub group: String,
    /// Whether the group must exist: there is a `closID` and nothing that it could be made with.
    pub must_exist: bool,
    /// The lines for the group's `schemata`.
    pub schemata: Vec<String>,
    /// The directory of a monitoring group in the group, if the container gets one.
    pub monitoring: Option<String>,
}

/// Names in the root of a resctrl file system that are no groups.
const RESERVED: [&str; 5] = [".", "..", "info", "mon_groups", "mon_data"];

/// Reads `linux.intelRdt`. `id`: the container's.
pub fn from_spec(linux: &Linux, id: &str, problems: &mut Problems) -> Option<Resctrl> {
    let rdt = linux.intel_rdt().as_ref()?;
    let clos = rdt.clos_id().as_ref().filter(|clos| !clos.is_empty());
    if let Some(clos) = clos
        && (clos.contains(['/', '\0', '\n']) || RESERVED.contains(&clos.as_str()))
    {
        problems.error("linux.intelRdt.closID", format!("{clos:?} is not the name of a group"));
    }
    let l3 = rdt.l3_cache_schema().as_deref().unwrap_or_default();
    let bandwidth = rdt.mem_bw_schema().as_deref().unwrap_or_default();
    if !bandwidth.is_empty() && (!bandwidth.starts_with("MB:") || bandwidth.contains('\n')) {
        problems
            .error("linux.intelRdt.memBwSchema", format!("expected one line that begins with MB:, not {bandwidth:?}"));
    }
    for (at, text) in [("l3CacheSchema", l3), ("memBwSchema", bandwidth)] {
        problems.no_nul(format!("linux.intelRdt.{at}"), text);
    }
    // The bandwidth has a field of its own, which wins.
    let l3 = l3.split('\n').filter(|line| !line.is_empty() && (bandwidth.is_empty() || !line.starts_with("MB:")));
    let mut schemata: Vec<String> = l3.map(str::to_string).collect();
    schemata.extend((!bandwidth.is_empty()).then(|| bandwidth.to_string()));
    // Last, so that these lines win over the others.
    for (i, line) in rdt.schemata().iter().flatten().enumerate() {
        let at = format!("linux.intelRdt.schemata[{i}]");
        if line.contains('\n') {
            problems.error(&at, "must be one line");
        }
        problems.no_nul(at, line);
        schemata.push(line.clone());
    }
    Some(Resctrl {
        group: clos.cloned().unwrap_or_else(|| id.to_string()),
        must_exist: clos.is_some() && schemata.is_empty(),
        schemata,
        monitoring: (*rdt.enable_monitoring() == Some(true)).then(|| id.to_string()),
    })
}

/// Whether a group whose `schemata` file reads `current` has what `wanted` asks for; else the line that differs.
pub fn differing<'a>(current: &str, wanted: &'a [String]) -> Option<&'a str> {
    let current: Vec<(&str, Vec<(&str, &str)>)> = current.lines().filter_map(parse).collect();
    let holds = |line: &str| {
        let Some((resource, domains)) = parse(line) else { return false };
        let Some((_, found)) = current.iter().find(|(name, _)| *name == resource) else { return false };
        domains.iter().all(|domain| found.contains(domain))
    };
    // Of several lines for one resource the last counts.
    let last = |i: usize, line: &str| {
        let name = |line: &str| line.split(':').next().unwrap_or_default().trim().to_string();
        wanted.iter().skip(i + 1).all(|later| name(later) != name(line))
    };
    wanted.iter().enumerate().find(|(i, line)| last(*i, line) && !holds(line)).map(|(_, line)| line.as_str())
}

/// `L3:0=0ff;1=f` as resource and domains with values; the kernel pads both with blanks, and values with zeros.
fn parse(line: &str) -> Option<(&str, Vec<(&str, &str)>)> {
    let (resource, rest) = line.split_once(':')?;
    let domains = rest.split(';').map(|part| {
        let (domain, value) = part.split_once('=')?;
        Some((domain.trim(), value.trim().trim_start_matches('0')))
    });
    Some((resource.trim(), domains.collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn planned(rdt: Value) -> (Option<Resctrl>, Vec<String>) {
        let linux: Linux = serde_json::from_value(json!({"intelRdt": rdt})).unwrap();
        let mut problems = Problems::default();
        let plan = from_spec(&linux, "web", &mut problems);
        (plan, problems.errors.iter().map(|problem| problem.path.clone()).collect())
    }

    #[test]
    fn the_group_is_named_by_clos_id_or_by_the_container() {
        let plan = planned(json!({})).0.unwrap();
        assert_eq!((plan.group.as_str(), plan.must_exist, plan.monitoring), ("web", false, None));
        let plan = planned(json!({"closID": "gold", "enableMonitoring": true})).0.unwrap();
        assert_eq!((plan.group.as_str(), plan.must_exist, plan.monitoring.as_deref()), ("gold", true, Some("web")));
    }

    #[test]
    fn the_lines_are_in_the_order_of_the_specification() {
        let lines = |rdt| planned(rdt).0.unwrap().schemata;
        assert_eq!(
            lines(json!({"closID": "x", "l3CacheSchema": "L3:0=f\nMB:0=1", "memBwSchema": "MB:0=50",
                "schemata": ["L2:0=3", "L3:0=1"]})),
            ["L3:0=f", "MB:0=50", "L2:0=3", "L3:0=1"]
        );
        assert_eq!(lines(json!({"l3CacheSchema": "L3:0=f\nMB:0=1"})), ["L3:0=f", "MB:0=1"]);
    }

    #[test]
    fn faults_are_named_by_their_path() {
        for (rdt, path) in [
            (json!({"closID": "a/b"}), "linux.intelRdt.closID"),
            (json!({"closID": ".."}), "linux.intelRdt.closID"),
            (json!({"closID": "info"}), "linux.intelRdt.closID"),
            (json!({"memBwSchema": "L3:0=f"}), "linux.intelRdt.memBwSchema"),
            (json!({"memBwSchema": "MB:0=1\nL3:0=f"}), "linux.intelRdt.memBwSchema"),
            (json!({"schemata": ["L3:0=f", "a\nb"]}), "linux.intelRdt.schemata[1]"),
            (json!({"l3CacheSchema": "L3:\0"}), "linux.intelRdt.l3CacheSchema"),
        ] {
            assert_eq!(planned(rdt).1, [path]);
        }
    }

    #[test]
    fn an_existing_group_is_compared_and_not_changed() {
        let current = "    MB:0=100;1= 50\n    L3:0=00000ff;1=000000f\n";
        let lines = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
        for fine in [&["L3:0=ff;1=f"][..], &["L3:1=f"], &["MB:1=50", "L3:0=ff"], &["L3:0=1", "L3:0=ff"], &[]] {
            assert_eq!(differing(current, &lines(fine)), None, "{fine:?}");
        }
        for (wanted, says) in [
            (&["L3:0=f"][..], "L3:0=f"),
            (&["L3:2=f"], "L3:2=f"),
            (&["L2:0=f"], "L2:0=f"),
            (&["MB:0=100", "nonsense"], "nonsense"),
        ] {
            assert_eq!(differing(current, &lines(wanted)), Some(says));
        }
    }
}
