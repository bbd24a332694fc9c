//! The findings and measures, for people and for machines.

use std::fmt::Write as _;

use super::Report;
use super::findings::Severity;
use super::measure::Speed;

/// One JSON document.
pub(super) fn json(report: &Report) -> String {
    serde_json::to_string_pretty(report).unwrap_or_default() // numbers and texts cannot fail
}

/// A summary. Writing to a String cannot fail.
pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    if let Some(model) = &report.model {
        let _ = writeln!(
            text,
            "{} {}: {} {}, {}\n{}",
            model.name, model.version, model.kind, model.task, model.architecture, model.digest
        );
    }
    let verdict = if report.servable {
        "servable"
    } else {
        "NOT SERVABLE"
    };
    let _ = writeln!(text, "{}: {verdict}", report.directory.display());
    for finding in &report.findings {
        let severity = match finding.severity {
            Severity::Error => "error  ",
            Severity::Warning => "warning",
        };
        let _ = writeln!(
            text,
            "\n{severity} {}\n     → {}",
            finding.problem, finding.remedy
        );
    }
    text.push('\n');
    if let Some(size) = &report.size {
        let _ = writeln!(
            text,
            "size     {}, {}",
            files(size.files),
            bytes(size.bytes)
        );
    }
    if let (Some(model), Some(_)) = (&report.model, report.load_ms) {
        let _ = writeln!(
            text,
            "golden   {} of {} examples reproduced",
            report.golden_reproduced, model.golden
        );
    }
    if let Some(memory) = &report.memory_bytes {
        let _ = writeln!(
            text,
            "memory   {} for the model, {} in all, {} at most",
            bytes(memory.model),
            bytes(memory.resident),
            bytes(memory.peak)
        );
    }
    if let Some(ms) = report.load_ms {
        let _ = writeln!(
            text,
            "ready    {ms:.1} ms after its start, files in the page cache"
        );
    }
    if let Some(speed) = &report.speed {
        speeds(&mut text, speed);
    }
    if report.servable {
        for (index, route) in report.serves.iter().enumerate() {
            let head = if index == 0 { "serves" } else { "" };
            let _ = writeln!(text, "{head:<8} {:<4} {}", route.method, route.path);
        }
    }
    text
}

fn speeds(text: &mut String, speed: &Speed) {
    let _ = write!(text, "speed    without HTTP");
    let _ = match speed.mean_tokens {
        Some(tokens) => writeln!(text, ", {tokens:.1} tokens an instance"),
        None => writeln!(text),
    };
    let _ = writeln!(
        text,
        "         {:>9} {:>10} {:>10} {:>13}",
        "instances", "p50 ms", "p99 ms", "instances/s"
    );
    for batch in &speed.batches {
        let p99 = batch.p99_ms.map_or("–".to_owned(), |ms| format!("{ms:.3}"));
        let _ = writeln!(
            text,
            "         {:>9} {:>10.3} {p99:>10} {:>13.0}",
            batch.instances, batch.p50_ms, batch.instances_per_second
        );
    }
    let _ = writeln!(
        text,
        "         {:.0} instances/s on {} threads, 32 together",
        speed.instances_per_second, speed.threads
    );
}

fn files(files: usize) -> String {
    if files == 1 {
        "1 file".to_owned()
    } else {
        format!("{files} files")
    }
}

fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_readable() {
        assert_eq!(
            [0, 1023, 1024, 95_300_000].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "90.9 MiB"]
        );
    }
}
