//! The part of Prometheus that the gates read: counters as they were scraped, and `rate` over them
//! as Prometheus computes it (`extrapolatedRate` in its `promql/functions.go`).

use std::collections::VecDeque;

/// Upper edges of the latency histogram in milliseconds: the client libraries' defaults.
pub const BUCKETS: [f64; 11] = [
    5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0,
];
/// Buckets above the objective's 250 ms.
const FIRST_SLOW_BUCKET: usize = 6;
/// Seconds that the peers' queries look back: `[1m]`.
const RANGE: f64 = 60.0;
/// Samples kept; a range of a minute holds five at most.
const KEPT: usize = 8;

/// What one version has answered since the rollout began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// All requests.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// By latency; the last bucket has no edge.
    pub buckets: [u64; BUCKETS.len() + 1],
}

impl Counters {
    /// Counts one request.
    pub fn count(&mut self, failed: bool, bucket: usize) {
        self.requests += 1;
        self.errors += u64::from(failed);
        self.buckets[bucket] += 1;
    }

    /// Requests over 250 ms.
    pub fn slow(&self) -> u64 {
        self.buckets[FIRST_SLOW_BUCKET..].iter().sum()
    }

    /// Requests up to the bucket's edge.
    fn up_to(&self, bucket: usize) -> u64 {
        self.buckets[..=bucket].iter().sum()
    }
}

/// One scrape of the router's counters.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// When, in seconds since the rollout began.
    pub at: u32,
    /// The canary's counters.
    pub canary: Counters,
    /// The stable version's.
    pub stable: Counters,
}

/// What a query answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Answer {
    /// One series with a value, which may be NaN.
    Value(f64),
    /// No series.
    Empty,
    /// No answer: Prometheus is away.
    Unreachable,
}

/// One rollout's Prometheus.
#[derive(Debug, Default)]
pub struct Prometheus {
    samples: VecDeque<Sample>,
    /// Neither scrapes nor answers.
    pub away: bool,
}

impl Prometheus {
    /// Takes in a scrape.
    pub fn scrape(&mut self, sample: Sample) {
        if self.samples.len() == KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// The newest sample.
    pub fn newest(&self) -> Option<&Sample> {
        self.samples.back()
    }

    /// `sum(rate(requests{code!~"5.."}[1m])) / sum(rate(requests[1m]))`, the success rate of
    /// Flagger's and Argo Rollouts' documentation.
    pub fn success_rate(&self, now: u32, of: fn(&Sample) -> &Counters) -> Answer {
        if self.away {
            return Answer::Unreachable;
        }
        let good = self.rate(now, |sample| {
            let counters = of(sample);
            // A code's series begins with the first answer that has the code.
            (counters.requests > counters.errors).then(|| counters.requests - counters.errors)
        });
        let bad = self.rate(now, |sample| {
            let errors = of(sample).errors;
            (errors > 0).then_some(errors)
        });
        match (good, bad) {
            (Some(good), bad) => Answer::Value(good / (good + bad.unwrap_or(0.0))),
            (None, _) => Answer::Empty,
        }
    }

    /// `histogram_quantile(0.99, sum by (le) (rate(duration_bucket[1m])))`, in milliseconds.
    pub fn p99(&self, now: u32, of: fn(&Sample) -> &Counters) -> Answer {
        if self.away {
            return Answer::Unreachable;
        }
        let mut cumulative = [0.0; BUCKETS.len() + 1];
        for (bucket, rate) in cumulative.iter_mut().enumerate() {
            let seen = self.rate(now, |sample| {
                let counters = of(sample);
                (counters.requests > 0).then(|| counters.up_to(bucket))
            });
            match seen {
                Some(seen) => *rate = seen,
                None => return Answer::Empty,
            }
        }
        Answer::Value(quantile(0.99, &cumulative))
    }

    /// `rate(series[1m])` per second at `now`; none where the range holds fewer than two samples of
    /// the series.
    fn rate(&self, now: u32, value: impl Fn(&Sample) -> Option<u64>) -> Option<f64> {
        let end = f64::from(now);
        let start = end - RANGE;
        let mut range = self
            .samples
            .iter()
            .filter(|sample| f64::from(sample.at) > start && sample.at <= now)
            .filter_map(|sample| Some((f64::from(sample.at), value(sample)? as f64)));
        let (first_at, first) = range.next()?;
        let mut count = 1.0;
        let (mut last_at, mut last) = (first_at, first);
        for (at, value) in range {
            (last_at, last) = (at, value);
            count += 1.0;
        }
        if count < 2.0 {
            return None;
        }
        let sampled = last_at - first_at;
        let between = sampled / (count - 1.0);
        let increase = last - first;
        // Extrapolated to the range's edges, if a sample lies near them, and not below zero.
        let near = |gap: f64| {
            if gap < between * 1.1 {
                gap
            } else {
                between / 2.0
            }
        };
        let mut before = near(first_at - start);
        if increase > 0.0 {
            before = before.min(sampled * first / increase);
        }
        let extrapolated = sampled + before + near(end - last_at);
        Some(increase * extrapolated / sampled / RANGE)
    }
}

/// `histogram_quantile` over cumulative rates: straight lines between a bucket's edges, NaN without
/// observations, the highest edge beyond it.
fn quantile(q: f64, cumulative: &[f64; BUCKETS.len() + 1]) -> f64 {
    let all = cumulative[BUCKETS.len()];
    if all <= 0.0 {
        return f64::NAN;
    }
    let rank = q * all;
    let bucket = cumulative.iter().take_while(|seen| **seen < rank).count();
    if bucket >= BUCKETS.len() {
        return BUCKETS[BUCKETS.len() - 1];
    }
    let (lower, before) = match bucket.checked_sub(1) {
        Some(below) => (BUCKETS[below], cumulative[below]),
        None => (0.0, 0.0),
    };
    lower + (BUCKETS[bucket] - lower) * (rank - before) / (cumulative[bucket] - before)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canary(sample: &Sample) -> &Counters {
        &sample.canary
    }

    fn scraped(samples: &[(u32, u64, u64)]) -> Prometheus {
        let mut prometheus = Prometheus::default();
        for (at, requests, errors) in samples {
            let mut counters = Counters::default();
            for index in 0..*requests {
                counters.count(index < *errors, 4);
            }
            prometheus.scrape(Sample {
                at: *at,
                canary: counters,
                stable: Counters::default(),
            });
        }
        prometheus
    }

    #[test]
    fn a_rate_is_extrapolated_to_the_edges_of_its_range() {
        // 30 requests each 15 s: 2 a second. The range holds the samples at 45, 60, 75, 90.
        let steady = scraped(&[
            (30, 60, 0),
            (45, 90, 0),
            (60, 120, 0),
            (75, 150, 0),
            (90, 180, 0),
        ]);
        let rate = steady.rate(90, |sample| Some(sample.canary.requests));
        assert_eq!(rate, Some(2.0));
        // A counter that began within the range is not extrapolated to before its zero.
        let young = scraped(&[(75, 5, 0), (90, 35, 0)]);
        let rate = young
            .rate(90, |sample| Some(sample.canary.requests))
            .map(|rate| rate * 60.0);
        assert_eq!(rate, Some(30.0 * (15.0 + 2.5) / 15.0));
    }

    #[test]
    fn the_first_errors_of_a_new_series_are_lost_and_nothing_but_errors_is_an_empty_answer() {
        let first = scraped(&[(15, 30, 0), (30, 60, 30)]);
        let answer = first.success_rate(30, canary);
        // 30 good requests at 15 s and still 30 at 30 s, and one sample of the errors: zero over
        // zero.
        assert!(
            matches!(answer, Answer::Value(rate) if rate.is_nan()),
            "{answer:?}"
        );
        let only_errors = scraped(&[(15, 30, 30), (30, 60, 60)]);
        assert_eq!(only_errors.success_rate(30, canary), Answer::Empty);
        let fifth = scraped(&[(15, 30, 6), (30, 60, 12)]);
        let Answer::Value(rate) = fifth.success_rate(30, canary) else {
            panic!("no value");
        };
        assert!((rate - 0.8).abs() < 0.02, "{rate}");
    }

    #[test]
    fn quantiles_are_interpolated_like_prometheus_does_it() {
        let mut cumulative = [100.0; 12];
        cumulative[..5].copy_from_slice(&[0.0, 0.0, 5.0, 35.0, 82.6]);
        cumulative[5] = 99.72;
        let p99 = quantile(0.99, &cumulative);
        assert!((p99 - 243.7).abs() < 0.1, "{p99}");
        assert!(quantile(0.99, &[0.0; 12]).is_nan());
    }
}
