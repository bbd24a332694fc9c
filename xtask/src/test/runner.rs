//! Running a test runner: its output passes through as it comes, and its summary is kept for the
//! end.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::ops::AddAssign;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};

use super::{Lane, Stage};

/// How nextest's summary begins.
const NEXTEST: &str = "Summary [";

/// Lines of each of its outputs that are repeated of a runner that failed: the assertion, or the
/// claims, and the summary.
const LAST_LINES: usize = 40;

/// Tests by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// What a runner said of its tests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    summaries: Vec<String>,
    /// Reasons of tests that ended early: to their runner they passed.
    skips: Vec<String>,
    counted: Counts,
    /// nextest sums up what each test's process says for itself.
    by_nextest: bool,
}

impl Report {
    /// Takes in one line of a runner's output.
    fn read(&mut self, line: &str) {
        let line = line.trim();
        if let Some(counts) = summary(line) {
            let by_nextest = line.starts_with(NEXTEST);
            if by_nextest && !self.by_nextest {
                *self = Self {
                    skips: std::mem::take(&mut self.skips),
                    by_nextest,
                    ..Self::default()
                };
            }
            if by_nextest == self.by_nextest {
                self.counted += counts;
                self.summaries.push(line.to_owned());
            }
        } else if line.starts_with("skipped: ") {
            self.skips.push(line.to_owned());
        }
    }

    /// The same with a line that the reader of the summary should see.
    pub fn with_note(mut self, note: &str) -> Self {
        self.summaries.push(note.to_owned());
        self
    }

    /// The runner's summaries, and each reason for which tests were skipped.
    pub fn lines(&self) -> Vec<String> {
        let mut reasons = self.skips.clone();
        reasons.sort();
        reasons.dedup();
        [self.summaries.as_slice(), &reasons].concat()
    }

    /// All tests that it ran.
    pub fn counts(&self) -> Counts {
        let skipped = self.skips.len() as u64;
        Counts {
            passed: self.counted.passed.saturating_sub(skipped),
            skipped: self.counted.skipped + skipped,
            ..self.counted
        }
    }
}

/// Runs `command`; both its outputs go to stderr line by line, behind the name of a stage that does
/// not run alone.
pub fn run(stage: Stage, command: &mut Command) -> Result<Report> {
    let mut report = Report::default();
    for line in lines(stage, command)? {
        report.read(&line);
    }
    Ok(report)
}

/// As [`run`], for a command that is no test runner: the last line of its stdout says how it went.
pub fn run_to_its_last_line(stage: Stage, command: &mut Command) -> Result<Report> {
    let last = lines(stage, command)?.pop().unwrap_or_default();
    Ok(Report::default().with_note(last.trim()))
}

/// Runs `command` and returns its output, what it wrote to stdout last.
fn lines(stage: Stage, command: &mut Command) -> Result<Vec<String>> {
    let prefix = match stage.lane() {
        Lane::First => String::new(),
        _ => format!("{:<10} | ", stage.to_string()),
    };
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let stderr = child
        .stderr
        .take()
        .map(|output| read_along(output, prefix.clone()));
    let stdout = child.stdout.take().map(|output| read_along(output, prefix));
    let readers = [stderr, stdout].into_iter().flatten();
    let outputs: Vec<Vec<String>> = readers
        .map(|reader| reader.join().unwrap_or_default())
        .collect();
    let status = child.wait()?;
    if !status.success() {
        let last_words: Vec<&str> = outputs.iter().flat_map(|output| last_of(output)).collect();
        bail!(
            "{program} ended with {status}; its last words:\n{}",
            last_words.join("\n")
        );
    }
    Ok(outputs.concat())
}

/// The last lines that are not empty.
fn last_of(lines: &[String]) -> Vec<&str> {
    let filled = lines.iter().map(|line| line.trim_end());
    let filled: Vec<&str> = filled.filter(|line| !line.is_empty()).collect();
    let first = filled.len().saturating_sub(LAST_LINES);
    filled[first..].to_vec()
}

/// Prints the lines as they come, and returns them.
fn read_along(
    output: impl Read + Send + 'static,
    prefix: String,
) -> thread::JoinHandle<Vec<String>> {
    thread::spawn(move || {
        let lines = BufReader::new(output).split(b'\n').map_while(Result::ok);
        lines
            .map(|line| String::from_utf8_lossy(&line).into_owned())
            .inspect(|line| eprintln!("{prefix}{line}"))
            .collect()
    })
}

/// The counts of a summary line of nextest or of Rust's own runner:
/// `Summary [   3.1s] 320 tests run: 319 passed (1 slow), 1 failed, 2 skipped` or
/// `test result: ok. 25 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out`.
///
/// What nextest calls skipped is what its caller filtered out: another stage runs it.
fn summary(line: &str) -> Option<Counts> {
    let nextest = || Some(line.strip_prefix(NEXTEST)?.split_once(" run: ")?.1);
    let libtest = || Some(line.strip_prefix("test result: ")?.split_once(". ")?.1);
    let mut counts = Counts::default();
    for part in nextest().or_else(libtest)?.split([',', ';']) {
        let mut words = part.split_whitespace();
        let (Some(Ok(count)), Some(kind)) = (words.next().map(str::parse::<u64>), words.next())
        else {
            continue;
        };
        match kind {
            "passed" => counts.passed += count,
            "failed" => counts.failed += count,
            "ignored" => counts.skipped += count,
            _ => {}
        }
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passed: u64, failed: u64, skipped: u64) -> Counts {
        Counts {
            passed,
            failed,
            skipped,
        }
    }

    #[test]
    fn both_runners_summaries_are_understood() {
        let nextest =
            "Summary [   3.142s] 320 tests run: 319 passed (2 slow, 1 leaky), 1 failed, 7 skipped";
        assert_eq!(summary(nextest), Some(counts(319, 1, 0)));
        let libtest = "test result: ok. 25 passed; 0 failed; 1 ignored; 0 measured; \
            3 filtered out; finished in 9.00s";
        assert_eq!(summary(libtest), Some(counts(25, 0, 1)));
        assert_eq!(summary("Starting 320 tests across 9 binaries"), None);
    }

    #[test]
    fn a_test_that_says_that_it_was_skipped_has_not_passed() {
        let mut report = Report::default();
        report.read("skipped: needs Kubernetes >= 1.25");
        report.read("skipped: needs Kubernetes >= 1.25");
        report.read("test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!(report.lines().len(), 2);
        assert_eq!(report.counts(), counts(3, 0, 2));
    }

    #[test]
    fn what_nextest_sums_up_is_not_counted_twice() {
        let own = "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out";
        let sum = "Summary [  44.310s] 1 test run: 1 passed, 31 skipped";
        for lines in [[own, sum], [sum, own]] {
            let mut report = Report::default();
            for line in lines {
                report.read(line);
            }
            assert_eq!(report.lines(), [sum]);
            assert_eq!(report.counts(), counts(1, 0, 0));
        }
    }

    #[test]
    fn the_sum_reads_like_a_runners_own_summary() {
        let mut sum = counts(1, 0, 2);
        sum += counts(4, 0, 0);
        assert_eq!(sum.to_string(), "5 passed, 0 failed, 2 skipped");
    }

    #[test]
    fn a_runner_that_fails_fails_its_stage_with_its_last_words() {
        let script = "seq 100; echo 'why not' >&2; exit 3";
        let failed = run(Stage::Format, Command::new("sh").args(["-c", script]));
        let words = failed
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        let words: Vec<&str> = words.lines().collect();
        assert!(words[0].contains("exit status: 3"), "{words:?}");
        assert_eq!(words[1], "why not");
        assert_eq!(
            words[2..],
            (61..=100).map(|line| line.to_string()).collect::<Vec<_>>()
        );
    }
}
