// SPDX-License-Identifier: Apache-2.0
//! The charts of docs/performance.md, as SVG.

use serde_json::Value;

const COLOURS: [&str; 5] = ["#2f6f4f", "#c98b2b", "#8a4b7a", "#4a6fa5", "#999999"];

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn document(width: f64, height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

/// Horizontal bars: groups with a value for each name, in milliseconds.
pub fn bars(title: &str, groups: &[(String, Vec<(String, f64)>)]) -> String {
    let largest = groups.iter().flat_map(|(_, bars)| bars.iter().map(|(_, v)| *v)).fold(0.001, f64::max);
    let mut body = format!("<text x=\"10\" y=\"20\" font-size=\"15\">{}</text>\n", escape(title));
    let mut names: Vec<&String> = Vec::new();
    let mut y = 40.0;
    for (group, bars) in groups {
        body += &format!("<text x=\"10\" y=\"{}\">{}</text>\n", y + 11.0, escape(group));
        for (name, value) in bars {
            let known = names.iter().position(|n| *n == name);
            let which = known.unwrap_or_else(|| {
                names.push(name);
                names.len() - 1
            });
            let width = value / largest * 430.0;
            let colour = COLOURS[which % COLOURS.len()];
            body += &format!("<rect x=\"150\" y=\"{y}\" width=\"{width:.1}\" height=\"13\" fill=\"{colour}\"/>\n");
            let x = 155.0 + width;
            body += &format!("<text x=\"{x:.1}\" y=\"{}\">{} {value:.2}</text>\n", y + 11.0, escape(name));
            y += 15.0;
        }
        y += 9.0;
    }
    document(720.0, y + 10.0, &body)
}

/// A trace as `--trace` writes it: a bar for each phase, one line for each, the processes below one another.
pub fn timeline(title: &str, trace: &Value) -> String {
    let events: Vec<&Value> = trace["traceEvents"].as_array().unwrap().iter().filter(|e| e["ph"] == "X").collect();
    let number = |event: &Value, name: &str| event[name].as_f64().unwrap_or(0.0);
    let end = events.iter().map(|e| number(e, "ts") + number(e, "dur")).fold(1.0, f64::max);
    let parent = &events[0]["pid"];
    let mut body = format!("<text x=\"10\" y=\"20\" font-size=\"15\">{}</text>\n", escape(title));
    let mut y = 36.0;
    for (is_parent, name, colour) in [(true, "orlop", COLOURS[0]), (false, "the container's process", COLOURS[1])] {
        body += &format!("<text x=\"10\" y=\"{}\" font-weight=\"bold\">{name}</text>\n", y + 12.0);
        y += 18.0;
        for event in events.iter().filter(|e| (e["tid"] == *parent) == is_parent && number(e, "dur") >= 1.0) {
            let scale = 560.0 / end;
            let (x, width) = (330.0 + number(event, "ts") * scale, (number(event, "dur") * scale).max(0.7));
            let waits = event["name"].as_str().is_some_and(|n| n.starts_with("wait") || n == "the program runs");
            let colour = if waits { "#cccccc" } else { colour };
            body += &format!(
                "<text x=\"320\" y=\"{}\" text-anchor=\"end\">{} {:.0} µs</text>\n\
                 <rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"11\" fill=\"{colour}\"/>\n",
                y + 10.0,
                escape(event["name"].as_str().unwrap_or("")),
                number(event, "dur"),
            );
            y += 15.0;
        }
        y += 8.0;
    }
    body += &format!("<text x=\"330\" y=\"{}\">0 to {:.2} ms; grey: waiting</text>\n", y + 12.0, end / 1000.0);
    document(900.0, y + 24.0, &body)
}
