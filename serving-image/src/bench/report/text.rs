//! A table for people.

use std::fmt::Write as _;

use super::super::Findings;
use super::super::stats::PERCENTILES;
use super::{caveats, server};

/// The report as text.
pub(in crate::bench) fn text(findings: &Findings) -> String {
    let mut text = format!(
        "{} ({})\n{}\n{}; {} arrivals, at most {} connections, {} s a rate, seed {}\n\n",
        findings.url,
        findings.address,
        server(findings),
        findings.requests,
        findings.arrivals,
        findings.connections,
        findings.seconds,
        findings.seed,
    );
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "{:>9} {:>9} {:>9} {:>8}",
        "rate/s", "requests", "good/s", "errors"
    );
    for percent in PERCENTILES {
        let _ = write!(text, " {:>8}", format!("p{percent}"));
    }
    let _ = writeln!(text, " {:>8}   ms from when due", "max");
    for step in &findings.steps {
        let _ = write!(
            text,
            "{:>9} {:>9} {:>9.1} {:>8}",
            step.rate, step.requests, step.good_per_second, step.errors
        );
        for percent in PERCENTILES {
            let cell = step
                .latency
                .at(percent)
                .map_or("–".to_owned(), |ms| format!("{ms:.2}"));
            let _ = write!(text, " {cell:>8}");
        }
        let _ = writeln!(text, " {:>8.2}", step.latency.max_ms);
    }
    text += "– : fewer than 10 samples lie beyond that percentile\n";
    for step in findings.steps.iter().filter(|step| step.errors > 0) {
        let outcomes: Vec<String> = step
            .outcomes
            .iter()
            .map(|(name, count)| format!("{name}: {count}"))
            .collect();
        let _ = writeln!(text, "answers at {}/s: {}", step.rate, outcomes.join(", "));
    }
    if let Some(memory) = &findings.memory {
        let _ = match &memory.growth {
            Some(growth) => writeln!(
                text,
                "resident memory: {:.1} MiB in the first quarter, {:.1} MiB in the last: {:+.2} \
                 %, {:+.2} MiB an hour ({} samples)",
                growth.first_quarter / f64::from(1 << 20),
                growth.last_quarter / f64::from(1 << 20),
                growth.share * 100.0,
                growth.bytes_per_hour / f64::from(1 << 20),
                memory.samples.len(),
            ),
            None => writeln!(
                text,
                "resident memory: {} samples tell no trend",
                memory.samples.len()
            ),
        };
    }
    for objective in &findings.objectives {
        let verdict = if objective.held { "held  " } else { "MISSED" };
        let _ = writeln!(text, "{verdict} {}: {}", objective.name, objective.found);
    }
    for caveat in caveats(findings) {
        let _ = writeln!(text, "note: {caveat}");
    }
    text
}
