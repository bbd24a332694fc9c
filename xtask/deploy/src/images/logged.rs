//! A long command: output into a log, a sign of life on the terminal, the log's end when it fails.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cluster::process::log_tail;
use cluster::progress::Progress;

/// Pause between two looks at the command, and between two lines on the terminal.
const LOOK: Duration = Duration::from_millis(200);
const REPORT: Duration = Duration::from_secs(10);

/// Runs `command` with its output in `log`; every 10 s the last line of the log is shown.
pub fn run(progress: &Progress, label: &str, command: &mut Command, log: &Path) -> Result<()> {
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
            progress.say(format!("{label}: {}", log_tail(log, 1).trim_start()));
        }
    };
    if status.success() {
        return Ok(());
    }
    bail!(
        "{label}: {status}\n{}\n(whole log: {})",
        log_tail(log, 30),
        log.display()
    )
}
