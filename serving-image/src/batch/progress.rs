//! The progress of the job: a bar on a terminal, else a log line from time to time.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use tracing::info;

/// Between two log lines.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// Between two states of the bar.
const DRAW_EVERY: Duration = Duration::from_millis(200);
/// Cells of the bar.
const WIDTH: usize = 24;

/// Reports the progress of the job: as a bar on a terminal, else as log lines.
#[derive(Debug)]
pub(super) struct Meter {
    terminal: bool,
    started: Instant,
    reported: Instant,
    /// Rows and input offset at the start, which an earlier run has paid for.
    before: (u64, u64),
    end: u64,
}

/// The progress that is reported.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pace {
    share: f64,
    rows_per_second: f64,
    left: Option<Duration>,
}

impl Meter {
    pub(super) fn start(rows: u64, offset: u64, end: u64) -> Self {
        let now = Instant::now();
        Self {
            terminal: io::stderr().is_terminal(),
            started: now,
            reported: now,
            before: (rows, offset),
            end,
        }
    }

    /// Reports the progress if a report is due.
    pub(super) fn tick(&mut self, rows: u64, rejected: u64, offset: u64) {
        let every = if self.terminal { DRAW_EVERY } else { LOG_EVERY };
        if self.reported.elapsed() < every {
            return;
        }
        self.reported = Instant::now();
        let pace = self.pace(rows, offset, self.started.elapsed());
        if self.terminal {
            eprint!("\r\x1b[2K{}", bar(rows, rejected, pace));
            let _ = io::stderr().flush(); // a bar that is not drawn is harmless
        } else {
            info!(
                rows,
                rejected,
                percent = (pace.share * 100.0).round(),
                rows_per_second = pace.rows_per_second.round(),
                eta_s = pace.left.map(|left| left.as_secs()),
                "predicting"
            );
        }
    }

    /// Takes the bar away, and gives the rows of this run and their rate.
    pub(super) fn end(self, rows: u64) -> (u64, f64) {
        if self.terminal {
            eprint!("\r\x1b[2K");
        }
        let pace = self.pace(rows, self.end, self.started.elapsed());
        (rows - self.before.0, pace.rows_per_second)
    }

    fn pace(&self, rows: u64, offset: u64, elapsed: Duration) -> Pace {
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let (rows_before, offset_before) = self.before;
        let speed = offset.saturating_sub(offset_before) as f64 / seconds;
        let left = self.end.saturating_sub(offset) as f64;
        Pace {
            share: if self.end == 0 {
                1.0
            } else {
                offset as f64 / self.end as f64
            },
            rows_per_second: rows.saturating_sub(rows_before) as f64 / seconds,
            left: Duration::try_from_secs_f64(left / speed).ok(), // not while nothing is done
        }
    }
}

fn bar(rows: u64, rejected: u64, pace: Pace) -> String {
    let done = ((pace.share * WIDTH as f64) as usize).min(WIDTH);
    let left = pace.left.map_or("–".to_owned(), |left| {
        let seconds = left.as_secs();
        format!(
            "{}:{:02}:{:02}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        )
    });
    let rejected = if rejected == 0 {
        String::new()
    } else {
        format!(" · {rejected} rejected")
    };
    format!(
        "[{}{}] {:3.0} % · {rows} rows{rejected} · {:.0} rows/s · {left} left",
        "█".repeat(done),
        "·".repeat(WIDTH - done),
        pace.share * 100.0,
        pace.rows_per_second,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_of_this_run() {
        let meter = Meter {
            before: (1_000, 5_000),
            ..Meter::start(0, 0, 20_000)
        };
        let pace = meter.pace(3_000, 10_000, Duration::from_secs(4));
        assert_eq!(
            pace,
            Pace {
                share: 0.5,
                rows_per_second: 500.0,
                left: Some(Duration::from_secs(8))
            }
        );
        assert_eq!(
            bar(3_000, 2, pace),
            "[████████████············]  50 % · 3000 rows · 2 rejected · 500 rows/s · 0:00:08 left"
        );
        let start = meter.pace(1_000, 5_000, Duration::ZERO);
        assert_eq!(start.left, None);
        assert!(bar(1_000, 0, start).ends_with("1000 rows · 0 rows/s · – left"));
    }
}
