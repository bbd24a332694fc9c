//! Long commands: output into a log, a sign of life on the terminal, the log's end when it fails.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Pause between two looks at the command, and between two lines on the terminal.
const LOOK: Duration = Duration::from_millis(200);
const REPORT: Duration = Duration::from_secs(10);

/// Runs `command` with its output in `log`; every 10 s the last line of the log is shown.
pub fn run_logged(label: &str, command: &mut Command, log: &Path) -> Result<()> {
    let output =
        fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let started = Instant::now();
    let mut next_report = REPORT;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        thread::sleep(LOOK);
        if started.elapsed() >= next_report {
            next_report += REPORT;
            eprintln!(
                "images: {label}, {:.0?}: {}",
                started.elapsed(),
                last_lines(log, 1)
            );
        }
    };
    if status.success() {
        return Ok(());
    }
    bail!(
        "{label}: {status}\n{}\n(whole log: {})",
        last_lines(log, 30),
        log.display()
    )
}

/// Runs a short command; its output is the error's text if it fails.
pub fn run_quiet(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!(
            "{program}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn last_lines(log: &Path, count: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
