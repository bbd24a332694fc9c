//! One self-contained page: no external script, font or image.

use std::fmt::Write as _;

use super::super::Findings;
use super::super::stats::PERCENTILES;
use super::svg::{Graph, Line};
use super::{caveats, server};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem \
                     auto;padding:0 1rem;color:#222}\
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem \
.7rem;text-align:right;border-bottom:1px solid #ddd}\
td:first-child,th:first-child{text-align:left}figure{margin:1.5rem \
0}figcaption{font-weight:600}svg{width:100%;height:auto}\
svg text{font-size:11px;fill:#555}.grid{stroke:#e4e4e4}polyline{fill:none;stroke-width:1.8}\
.legend span{margin-right:1rem}.legend \
i{display:inline-block;width:1rem;height:.25rem;margin-right:.3rem;vertical-align:middle}\
.missed{color:#b00020;font-weight:600}.held{color:#00693e}.note{background:#fff7e0;padding:.4rem \
.8rem}\
@media(prefers-color-scheme:dark){body{background:#161616;color:#ddd}td,th{border-color:#333}svg \
text{fill:#aaa}.grid{stroke:#333}.note{background:#332b10}}";

/// The report as a page.
pub(in crate::bench) fn html(findings: &Findings) -> String {
    let url = escape(&findings.url);
    // Writing to a String cannot fail.
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\">\
         <title>Load test of {url}</title><style>{STYLE}</style><h1>Load test</h1>\
         <p><code>{url}</code> ({}): {}.<br>{}; {} arrivals, at most {} connections, {} s a rate, \
         seed {}. \
         Latencies run from when a request was due.</p>",
        escape(&findings.address),
        escape(&server(findings)),
        escape(&findings.requests),
        findings.arrivals,
        findings.connections,
        findings.seconds,
        findings.seed,
    );
    for caveat in caveats(findings) {
        let _ = write!(page, "<p class=\"note\">{}</p>", escape(&caveat));
    }
    objectives(&mut page, findings);
    latencies(&mut page, findings);
    page += &by_percentile(findings).draw();
    for step in &findings.steps {
        let points = |value: fn(&crate::bench::stats::Point) -> f64| {
            step.points
                .iter()
                .map(|point| (point.at_s, value(point)))
                .collect()
        };
        let title = format!("Latency over time at {}/s", step.rate);
        page += &over_time(
            &title,
            "ms",
            vec![
                Line {
                    name: "p99".into(),
                    points: points(|point| point.p99_ms),
                },
                Line {
                    name: "p50".into(),
                    points: points(|point| point.p50_ms),
                },
            ],
        );
        if step.errors > 0 {
            let title = format!("Requests without a good answer at {}/s", step.rate);
            let line = Line {
                name: "errors".into(),
                points: points(|point| point.errors as f64),
            };
            page += &over_time(&title, "requests", vec![line]);
        }
    }
    if let Some(memory) = &findings.memory {
        let mebibytes = |(at, bytes): &(f64, f64)| (*at, bytes / f64::from(1 << 20));
        let line = Line {
            name: "resident".into(),
            points: memory.samples.iter().map(mebibytes).collect(),
        };
        page += &over_time("The server's resident memory", "MiB", vec![line]);
        if let Some(growth) = memory.growth {
            let _ = write!(
                page,
                "<p>From the first quarter to the last: {:+.2} %.</p>",
                growth.share * 100.0
            );
        }
    }
    page + "</html>\n"
}

fn objectives(page: &mut String, findings: &Findings) {
    if findings.objectives.is_empty() {
        return;
    }
    *page += "<h2>Objectives</h2><table>";
    for objective in &findings.objectives {
        let verdict = if objective.held { "held" } else { "missed" };
        let _ = write!(
            page,
            "<tr><td>{}<td>{}<td class=\"{verdict}\">{verdict}",
            escape(&objective.name),
            escape(&objective.found)
        );
    }
    *page += "</table>";
}

fn latencies(page: &mut String, findings: &Findings) {
    *page += "<h2>Latencies in ms</h2><table><tr><th>rate/s<th>requests<th>good/s<th>errors";
    for percent in PERCENTILES {
        let _ = write!(page, "<th>p{percent}");
    }
    *page += "<th>max";
    for step in &findings.steps {
        let _ = write!(
            page,
            "<tr><td>{}<td>{}<td>{:.1}<td>{}",
            step.rate, step.requests, step.good_per_second, step.errors
        );
        for percent in PERCENTILES {
            let _ = match step.latency.at(percent) {
                Some(ms) => write!(page, "<td>{ms:.2}"),
                None => write!(page, "<td>–"),
            };
        }
        let _ = write!(page, "<td>{:.2}", step.latency.max_ms);
    }
    *page += "</table><p>– : fewer than 10 samples lie beyond that percentile.</p>";
    for step in findings.steps.iter().filter(|step| step.errors > 0) {
        let outcomes: Vec<String> = step
            .outcomes
            .iter()
            .map(|(name, count)| format!("{name}: {count}"))
            .collect();
        let _ = write!(
            page,
            "<p>Answers at {}/s: {}.</p>",
            step.rate,
            escape(&outcomes.join(", "))
        );
    }
}

/// On the axis, each further nine takes the same room.
fn by_percentile(findings: &Findings) -> Graph<'static> {
    let place = |percent: f64| -(1.0 - percent / 100.0).log10();
    let line = |step: &crate::bench::stats::Step| Line {
        name: format!("{}/s", step.rate),
        points: step
            .curve
            .iter()
            .map(|(percent, ms)| (place(*percent), *ms))
            .collect(),
    };
    let lines: Vec<Line> = findings.steps.iter().map(line).collect();
    let end = lines
        .iter()
        .flat_map(|line| &line.points)
        .map(|point| point.0)
        .fold(0.0, f64::max);
    let marks = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999];
    let shown = marks
        .into_iter()
        .filter(|percent| place(*percent) <= end + 1e-9);
    Graph {
        title: "Latency by percentile",
        x: "percentile",
        y: "ms",
        marks: shown
            .map(|percent| (place(percent), format!("{percent} %")))
            .collect(),
        lines,
    }
}

fn over_time(title: &str, y: &str, lines: Vec<Line>) -> String {
    let end = lines
        .iter()
        .flat_map(|line| &line.points)
        .map(|point| point.0)
        .fold(0.0, f64::max);
    let marks = (0..=4).map(|step| {
        let at = end * f64::from(step) / 4.0;
        (at, format!("{at:.0}"))
    });
    Graph {
        title,
        x: "s",
        y,
        marks: marks.collect(),
        lines,
    }
    .draw()
}

/// Text as HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
