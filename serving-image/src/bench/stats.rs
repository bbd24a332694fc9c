//! The statistics of a load test.
//!
//! A latency runs from when its request was *due*, so that a server that stalls is charged for all
//! requests that had to wait meanwhile (no coordinated omission). It counts for a good answer, and
//! for a request that was given up, with the time until then. Quick refusals are counted as errors,
//! and do not make the latencies look better.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::target::Outcome;

/// Percentiles that reports show, in per cent.
pub(super) const PERCENTILES: [f64; 6] = [50.0, 90.0, 95.0, 99.0, 99.9, 99.99];

/// Samples that must lie beyond a percentile for it to be reported; with fewer it is chance.
const BEYOND: f64 = 10.0;

/// Points of a graph over time, at most.
const MAX_POINTS: f64 = 300.0;

/// One request. Times run from the start of its rate, warm-up included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub due: Duration,
    /// `None` if it was given up before a connection was free.
    pub sent: Option<Duration>,
    pub done: Duration,
    pub outcome: Outcome,
}

/// Gathers the samples of one rate.
#[derive(Debug)]
pub(super) struct Gatherer {
    rate: f64,
    warm_up: Duration,
    duration: Duration,
    latency: Histogram<u64>,
    service: Histogram<u64>,
    delay: Histogram<u64>,
    outcomes: BTreeMap<String, u64>,
    good: u64,
    total: u64,
    end: Duration,
    points: Vec<Point>,
    interval: Duration,
    current: Histogram<u64>,
    current_errors: u64,
    current_index: u32,
}

/// One rate's result.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Step {
    /// Requests a second that were due.
    pub rate: f64,
    /// Requests that were due in the counted time.
    pub requests: u64,
    /// Good answers a second.
    pub good_per_second: f64,
    /// Those without a good answer.
    pub errors: u64,
    /// Their share.
    pub error_rate: f64,
    /// By status code, or what happened instead.
    pub outcomes: BTreeMap<String, u64>,
    /// From when a request was due.
    pub latency: Latency,
    /// From when it was sent: what a closed loop would report.
    pub service: Latency,
    /// From due to sent: the generator's own lateness, and the wait for a free connection.
    pub delay: Latency,
    /// Over time.
    pub points: Vec<Point>,
    /// Latency in ms by percentile, for graphs.
    #[serde(skip)]
    pub curve: Vec<(f64, f64)>,
}

/// A distribution of times, in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Latency {
    /// Samples.
    pub count: u64,
    /// Mean.
    pub mean_ms: f64,
    /// By percentile; `None` if fewer than 10 samples lie beyond it.
    pub percentiles_ms: BTreeMap<String, Option<f64>>,
    /// The longest.
    pub max_ms: f64,
}

/// A moment of a graph over time.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Point {
    /// Seconds from the first counted request.
    pub at_s: f64,
    /// Median in ms of what was done since the point before.
    pub p50_ms: f64,
    /// 99th percentile in ms.
    pub p99_ms: f64,
    /// Good answers.
    pub good: u64,
    /// Others.
    pub errors: u64,
}

impl Gatherer {
    pub(super) fn new(
        rate: f64,
        warm_up: Duration,
        duration: Duration,
    ) -> Result<Self, hdrhistogram::CreationError> {
        // Nanoseconds from 1 µs to 1 h, three digits: 250 KiB each.
        let histogram = || Histogram::new_with_bounds(1_000, 3_600_000_000_000, 3);
        Ok(Self {
            rate,
            warm_up,
            duration,
            latency: histogram()?,
            service: histogram()?,
            delay: histogram()?,
            outcomes: BTreeMap::new(),
            good: 0,
            total: 0,
            end: Duration::ZERO,
            points: Vec::new(),
            interval: Duration::from_secs_f64((duration.as_secs_f64() / MAX_POINTS).max(1.0)),
            current: histogram()?,
            current_errors: 0,
            current_index: 0,
        })
    }

    pub(super) fn add(&mut self, sample: Sample) {
        let Some(due) = sample.due.checked_sub(self.warm_up) else {
            return;
        };
        let done = sample.done.saturating_sub(self.warm_up);
        let index = (done.as_secs_f64() / self.interval.as_secs_f64()) as u32;
        if index > self.current_index {
            self.close_point();
            self.current_index = index;
        }
        self.total += 1;
        *self.outcomes.entry(sample.outcome.name()).or_default() += 1;
        let latency = nanoseconds(done.saturating_sub(due));
        if let Some(sent) = sample.sent {
            self.delay
                .saturating_record(nanoseconds(sent.saturating_sub(sample.due)));
        }
        if sample.outcome.is_good() {
            self.good += 1;
            self.end = self.end.max(done);
            let sent = sample.sent.unwrap_or(sample.due);
            self.service
                .saturating_record(nanoseconds(sample.done.saturating_sub(sent)));
        } else {
            self.current_errors += 1;
        }
        if sample.outcome.is_good() || sample.outcome == Outcome::TimedOut {
            self.latency.saturating_record(latency);
            self.current.saturating_record(latency);
        }
    }

    fn close_point(&mut self) {
        let at = self.interval * (self.current_index + 1);
        let milliseconds = |quantile| self.current.value_at_quantile(quantile) as f64 / 1e6;
        self.points.push(Point {
            at_s: at.min(self.duration.max(self.end)).as_secs_f64(),
            p50_ms: milliseconds(0.5),
            p99_ms: milliseconds(0.99),
            good: self.current.len(),
            errors: self.current_errors,
        });
        self.current.reset();
        self.current_errors = 0;
    }

    pub(super) fn finish(mut self) -> Step {
        if !self.current.is_empty() || self.current_errors > 0 {
            self.close_point();
        }
        let errors = self.total - self.good;
        Step {
            rate: self.rate,
            requests: self.total,
            good_per_second: self.good as f64 / self.duration.max(self.end).as_secs_f64(),
            errors,
            error_rate: if self.total == 0 {
                0.0
            } else {
                errors as f64 / self.total as f64
            },
            outcomes: self.outcomes,
            curve: curve(&self.latency),
            latency: Latency::of(&self.latency),
            service: Latency::of(&self.service),
            delay: Latency::of(&self.delay),
            points: self.points,
        }
    }
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let count = histogram.len();
        let percentile = |percent: f64| {
            let beyond = count as f64 * (1.0 - percent / 100.0);
            (beyond >= BEYOND - 1e-6).then(|| histogram.value_at_percentile(percent) as f64 / 1e6)
        };
        let named = PERCENTILES.map(|percent| (format!("p{percent}"), percentile(percent)));
        Self {
            count,
            mean_ms: if count == 0 {
                0.0
            } else {
                histogram.mean() / 1e6
            },
            percentiles_ms: named.into(),
            max_ms: histogram.max() as f64 / 1e6,
        }
    }

    /// A percentile in ms; `None` where too few samples lie beyond it.
    pub(super) fn at(&self, percent: f64) -> Option<f64> {
        self.percentiles_ms
            .get(&format!("p{percent}"))
            .copied()
            .flatten()
    }
}

/// Latency in ms by percentile, as far as samples carry it, at even steps of the logarithm of what
/// lies beyond.
fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let end = (histogram.len() as f64 / BEYOND).log10();
    let steps = (end * 20.0).floor().max(0.0) as u32;
    (0..=steps)
        .map(|step| {
            let beyond = 10_f64.powf(-f64::from(step) / 20.0);
            let percent = 100.0 * (1.0 - beyond);
            (percent, histogram.value_at_percentile(percent) as f64 / 1e6)
        })
        .collect()
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::http::StatusCode;

    const SECOND: Duration = Duration::from_secs(1);

    fn sample(due_ms: u64, sent_ms: u64, done_ms: u64, outcome: Outcome) -> Sample {
        let [due, sent, done] = [due_ms, sent_ms, done_ms].map(Duration::from_millis);
        Sample {
            due,
            sent: Some(sent),
            done,
            outcome,
        }
    }

    /// 100 requests, one every 10 ms, to a server that stalls for the first half second and answers
    /// in 1 ms after it.
    #[test]
    fn a_stall_is_charged_to_all_that_had_to_wait() {
        let mut gatherer = Gatherer::new(100.0, Duration::ZERO, SECOND).unwrap();
        for request in 0..100 {
            let (due, sent) = (request * 10, (request * 10).max(500));
            gatherer.add(sample(
                due,
                sent,
                sent + 1,
                Outcome::Answered(StatusCode::OK),
            ));
        }
        let step = gatherer.finish();
        // A closed loop would say that all took 1 ms. Half of them waited up to half a second.
        assert!((step.service.at(90.0).unwrap() - 1.0).abs() < 0.01);
        assert!(
            (step.latency.at(90.0).unwrap() - 401.0).abs() < 11.0,
            "{:?}",
            step.latency
        );
        assert!((step.delay.at(90.0).unwrap() - 400.0).abs() < 11.0);
        assert!((step.good_per_second - 100.0).abs() < 1.0);
        assert_eq!((step.requests, step.errors), (100, 0));
    }

    #[test]
    fn refusals_do_not_make_latencies_look_better_and_what_was_given_up_counts() {
        let mut gatherer = Gatherer::new(100.0, SECOND, SECOND).unwrap();
        gatherer.add(sample(999, 999, 1_500, Outcome::Lost)); // warm-up
        for _ in 0..100 {
            gatherer.add(sample(
                1_100,
                1_100,
                1_101,
                Outcome::Answered(StatusCode::TOO_MANY_REQUESTS),
            ));
            gatherer.add(sample(
                1_100,
                1_100,
                1_200,
                Outcome::Answered(StatusCode::OK),
            ));
            gatherer.add(sample(1_100, 1_100, 2_100, Outcome::TimedOut));
        }
        let step = gatherer.finish();
        assert_eq!((step.requests, step.errors), (300, 200));
        assert!((step.error_rate - 2.0 / 3.0).abs() < 1e-9);
        assert_eq!(
            step.outcomes,
            BTreeMap::from([
                ("200".into(), 100),
                ("429".into(), 100),
                ("timed out".into(), 100)
            ])
        );
        assert_eq!(step.latency.count, 200);
        assert!((step.latency.at(50.0).unwrap() - 100.0).abs() < 0.2);
        assert!((step.latency.at(95.0).unwrap() - 1_000.0).abs() < 1.0);
        assert_eq!(step.latency.at(99.0), None, "2 samples beyond are luck");
    }

    #[test]
    fn a_percentile_is_told_only_where_ten_samples_lie_beyond() {
        let mut gatherer = Gatherer::new(1_000.0, Duration::ZERO, SECOND).unwrap();
        for request in 0..1_000 {
            gatherer.add(sample(
                request,
                request,
                request + 2,
                Outcome::Answered(StatusCode::OK),
            ));
        }
        let step = gatherer.finish();
        assert!(step.latency.at(99.0).is_some() && step.latency.at(99.9).is_none());
        let last = step.curve.last().unwrap();
        assert!((last.0 - 99.0).abs() < 0.01, "{last:?}");
        assert_eq!(
            step.points.iter().map(|point| point.good).sum::<u64>(),
            1_000
        );
    }
}
