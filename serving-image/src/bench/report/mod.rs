//! The report of a load test: as text, as JSON, and as a page with graphs.

mod html;
mod svg;
mod text;

pub(super) use html::html;
pub(super) use text::text;

use super::Findings;
use super::stats::Step;

/// One JSON document.
pub(super) fn json(findings: &Findings) -> String {
    serde_json::to_string_pretty(findings).unwrap_or_default() // numbers and texts cannot fail
}

/// The model, its version and its digest, as the server reports them.
fn server(findings: &Findings) -> String {
    let Some(about) = &findings.server else {
        return "a server that does not say what it is (no /version)".to_owned();
    };
    let text = |name: &str| about[name].as_str().unwrap_or("?").to_owned();
    format!(
        "{} {}, {}",
        text("model"),
        text("model_version"),
        text("digest")
    )
}

/// What a reader has to know to judge the numbers.
fn caveats(findings: &Findings) -> Vec<String> {
    let mut caveats = Vec::new();
    if findings.same_machine {
        caveats.push(
            "The server runs on the machine of the load generator: they took CPU from each other."
                .to_owned(),
        );
    }
    for step in &findings.steps {
        if is_behind(step, findings.seconds) {
            caveats.push(format!(
                "At {}/s only {:.0} good answers came a second: more than this server, or {} \
                 connections, can do.",
                step.rate, step.good_per_second, findings.connections
            ));
        }
        let late = step.delay.at(99.0).unwrap_or_default();
        if late > 0.1 * step.latency.at(99.0).unwrap_or(f64::MAX) && late > 1.0 {
            caveats.push(format!(
                "At {}/s 1 % of the requests were sent {late:.1} ms late or later: they waited \
                 for a free connection or for the generator.",
                step.rate
            ));
        }
    }
    caveats
}

/// Whether good answers come clearly slower than requests were due.
fn is_behind(step: &Step, seconds: f64) -> bool {
    step.good_per_second * seconds < 0.95 * step.requests as f64
}
