//! From samples to counts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::Cursors;
use super::answer::{Matrix, Series};
use super::blind::BlindReason;
use super::cursors::Surplus;
use super::edges::Snapped;
use super::edges::{is_edge, is_infinite};
use super::source::{Contribution, Labels, Proof, Side, Template};
use crate::rollout::gate::{Look, Tally};

/// Evidence whose newest scrape is more than this many scrapes old is stale.
const STALE_SCRAPES: u32 = 3;

/// What one answer shows: scrape targets, and the counters scraped from them.
#[derive(Debug)]
pub(super) struct Scraped {
    targets: Vec<Target>,
    counters: Vec<Counter>,
}

/// A scrape target: one series of `up`, or what the samples of its counters prove of it.
#[derive(Debug)]
struct Target {
    /// Its target labels, without `__name__`. All of its counters carry them too. Empty where there
    /// is no `up`.
    labels: Labels,
    instance: String,
    /// First and last sample, successful or not: Unix ms.
    first_ms: i64,
    last_ms: i64,
    /// Its successful scrapes: Unix ms, oldest first.
    scrapes: Vec<i64>,
}

/// One counter.
#[derive(Debug)]
struct Counter {
    labels: Labels,
    instance: String,
    /// Scrape (Unix ms) and value, oldest first.
    samples: Vec<(i64, u64)>,
}

impl Scraped {
    /// Refuses what no counter can be, and targets that cannot be told apart.
    pub(super) fn from_matrix(matrix: Matrix, proof: Proof) -> Result<Self, BlindReason> {
        let mut scraped = Self {
            targets: Vec::new(),
            counters: Vec::new(),
        };
        for series in matrix.0 {
            let instance = series.labels.get("instance").cloned().ok_or_else(|| {
                BlindReason::bad_answer(&format!("{} has no label instance", series.name()))
            })?;
            if series.name() == "up" {
                scraped.targets.extend(Target::new(series, instance));
            } else {
                scraped.counters.push(Counter::new(series, instance)?);
            }
        }
        if proof == Proof::Samples {
            scraped.targets = scraped.proven_by_samples()?;
        }
        scraped.refuse_double_scrapes()?;
        Ok(scraped)
    }

    /// The targets that the samples prove: whenever one counter of an instance was scraped, all of
    /// its counters were.
    fn proven_by_samples(&self) -> Result<Vec<Target>, BlindReason> {
        let mut scrapes: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
        let mut jobs: BTreeMap<&str, Option<&String>> = BTreeMap::new();
        for counter in &self.counters {
            let job = counter.labels.get("job");
            if *jobs.entry(&counter.instance).or_insert(job) != job {
                return Err(BlindReason::ScrapedTwice {
                    instance: counter.instance.clone(),
                });
            }
            let of_instance = scrapes.entry(&counter.instance).or_default();
            of_instance.extend(counter.samples.iter().map(|(ms, _)| *ms));
        }
        let targets = scrapes.into_iter().filter_map(|(instance, scrapes)| {
            Some(Target {
                labels: Labels::new(),
                instance: instance.to_owned(),
                first_ms: *scrapes.first()?,
                last_ms: *scrapes.last()?,
                scrapes: scrapes.into_iter().collect(),
            })
        });
        Ok(targets.collect())
    }

    /// One target may follow another of the same instance (its labels were changed); it may not run
    /// beside it.
    fn refuse_double_scrapes(&self) -> Result<(), BlindReason> {
        let mut by_start: Vec<&Target> = self.targets.iter().collect();
        by_start.sort_by_key(|target| (&target.instance, target.first_ms));
        for pair in by_start.windows(2) {
            if pair[0].instance == pair[1].instance && pair[0].last_ms >= pair[1].first_ms {
                return Err(BlindReason::ScrapedTwice {
                    instance: pair[0].instance.clone(),
                });
            }
        }
        Ok(())
    }

    /// The newest scrape of the version that was scraped less recently, if that is recent enough.
    pub(super) fn newest_sample(
        &self,
        template: &Template,
        at: Timestamp,
        scrape: Duration,
    ) -> Result<Timestamp, BlindReason> {
        let canary = self.newest_of(Side::Canary, template, at, scrape)?;
        let stable = self.newest_of(Side::Stable, template, at, scrape)?;
        Ok(canary.min(stable))
    }

    fn newest_of(
        &self,
        side: Side,
        template: &Template,
        at: Timestamp,
        scrape: Duration,
    ) -> Result<Timestamp, BlindReason> {
        let from_targets = self
            .targets
            .iter()
            .filter(|target| template.target_serves(&target.labels, side))
            .filter_map(|target| target.scrapes.last().copied());
        // A store that keeps no `up` still proves a scrape by its samples.
        let from_counters = self
            .counters
            .iter()
            .filter(|counter| template.is_of(&counter.labels, side))
            .filter_map(|counter| counter.samples.last().map(|(ms, _)| *ms));
        let newest = from_targets
            .chain(from_counters)
            .max()
            .and_then(|ms| Timestamp::from_millisecond(ms).ok())
            .ok_or(BlindReason::NoTarget { side })?;
        let age = Duration::try_from(at.duration_since(newest)).unwrap_or_default();
        let limit = scrape * STALE_SCRAPES;
        if age > limit {
            return Err(BlindReason::Stale { side, age, limit });
        }
        Ok(newest)
    }

    /// The newest scrape of each instance: Unix ms.
    ///
    /// Failed scrapes do not move it, so that the last values before a gap stay in the window and
    /// the gap's requests count.
    pub(super) fn newest_by_instance(&self) -> BTreeMap<&str, i64> {
        let scrapes = self.targets.iter().filter_map(|target| {
            target
                .scrapes
                .last()
                .map(|last| (target.instance.as_str(), *last))
        });
        let samples = self.counters.iter().filter_map(|counter| {
            let (ms, _) = counter.samples.last()?;
            Some((counter.instance.as_str(), *ms))
        });
        let mut newest = BTreeMap::new();
        for (instance, ms) in scrapes.chain(samples) {
            let entry = newest.entry(instance).or_insert(ms);
            *entry = ms.max(*entry);
        }
        newest
    }

    /// Sums the increases that `cursors` has not counted, each as `contribution` says. Bad requests
    /// beyond the requests are left for the next look.
    pub(super) fn count(
        &self,
        template: &Template,
        cursors: &Cursors,
        contribution: impl Fn(&Labels) -> Contribution,
    ) -> (Look, Surplus) {
        let mut canary = Sum::default();
        let mut stable = Sum::default();
        for (side, labels, increase) in self.new_increases(template, cursors) {
            let sum = match side {
                Side::Canary => &mut canary,
                Side::Stable => &mut stable,
            };
            sum.add(increase, contribution(labels));
        }
        let before = cursors.surplus();
        let (canary, canary_surplus) = canary.tally(before.canary);
        let (stable, stable_surplus) = stable.tally(before.stable);
        let surplus = Surplus {
            canary: canary_surplus,
            stable: stable_surplus,
        };
        (Look { canary, stable }, surplus)
    }

    /// The same by the values of one label, for the canary and for stable.
    pub(super) fn count_by(
        &self,
        template: &Template,
        cursors: &Cursors,
        label: &str,
    ) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
        let mut canary = BTreeMap::new();
        let mut stable = BTreeMap::new();
        for (side, labels, increase) in self.new_increases(template, cursors) {
            let counts = match side {
                Side::Canary => &mut canary,
                Side::Stable => &mut stable,
            };
            let value = labels.get(label).cloned().unwrap_or_default();
            if increase > 0 {
                let count: &mut u64 = counts.entry(value).or_default();
                *count = count.saturating_add(increase);
            }
        }
        (canary, stable)
    }

    /// By how much each counter of a version rose in the scrapes that `cursors` has not counted.
    fn new_increases<'a>(
        &'a self,
        template: &'a Template,
        cursors: &'a Cursors,
    ) -> impl Iterator<Item = (Side, &'a Labels, u64)> {
        let targets = self.targets_by_instance();
        self.counters.iter().filter_map(move |counter| {
            let side = template.side(&counter.labels)?;
            let target = targets
                .get(counter.instance.as_str())
                .and_then(|candidates| counter.scraped_from(candidates));
            let increase = counter
                .increases(target)
                .filter(|(ms, _)| cursors.is_new(&counter.instance, *ms))
                .fold(0_u64, |sum, (_, increase)| sum.saturating_add(increase));
            Some((side, &counter.labels, increase))
        })
    }

    /// Refuses a histogram that counts all requests, yet not those at the threshold: each would
    /// seem slow.
    pub(super) fn require_edges(
        &self,
        template: &Template,
        threshold: Option<&Snapped>,
    ) -> Result<(), BlindReason> {
        let key = |counter: &Counter| {
            (
                counter.instance.clone(),
                template.version(&counter.labels).to_owned(),
            )
        };
        let with_edge: BTreeSet<_> = self
            .counters
            .iter()
            .filter(|counter| is_edge(&counter.labels, threshold))
            .map(key)
            .collect();
        let complete = self
            .counters
            .iter()
            .filter(|counter| is_infinite(&counter.labels))
            .all(|counter| with_edge.contains(&key(counter)));
        complete.then_some(()).ok_or(BlindReason::BucketsChanged)
    }

    fn targets_by_instance(&self) -> BTreeMap<&str, Vec<&Target>> {
        let mut targets: BTreeMap<&str, Vec<&Target>> = BTreeMap::new();
        for target in &self.targets {
            targets.entry(&target.instance).or_default().push(target);
        }
        targets
    }
}

impl Target {
    fn new(series: Series, instance: String) -> Option<Self> {
        let mut labels = series.labels;
        labels.remove("__name__");
        let successful = series.samples.iter().filter(|sample| sample.value > 0.0);
        Some(Self {
            instance,
            first_ms: series.samples.first()?.ms,
            last_ms: series.samples.last()?.ms,
            scrapes: successful.map(|sample| sample.ms).collect(),
            labels,
        })
    }

    /// Whether a scrape succeeded after the one moment and before the other (Unix ms, both
    /// exclusive).
    fn scraped_between(&self, after_ms: i64, before_ms: i64) -> bool {
        let next = self.scrapes.partition_point(|ms| *ms <= after_ms);
        self.scrapes.get(next).is_some_and(|ms| *ms < before_ms)
    }
}

impl Counter {
    fn new(series: Series, instance: String) -> Result<Self, BlindReason> {
        let samples = series
            .samples
            .iter()
            .map(|sample| {
                if sample.value.is_finite() && sample.value >= 0.0 {
                    // Whole requests, so that the sum does not depend on where polls split it.
                    Ok((sample.ms, sample.value as u64))
                } else {
                    Err(BlindReason::NotFinite {
                        series: series.name().to_owned(),
                        value: sample.value.to_string(),
                    })
                }
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            labels: series.labels,
            instance,
            samples,
        })
    }

    /// The target that this counter was scraped from: the one with the most labels, all of which
    /// the counter carries.
    fn scraped_from<'a>(&self, candidates: &[&'a Target]) -> Option<&'a Target> {
        candidates
            .iter()
            .copied()
            .filter(|target| {
                target
                    .labels
                    .iter()
                    .all(|(label, value)| self.labels.get(label) == Some(value))
            })
            .max_by_key(|target| target.labels.len())
    }

    /// By how much the counter rose up to each of its scrapes.
    ///
    /// - It fell: its process restarted, and it rose from 0.
    /// - Its target was scraped without it right before: it is new, or new again after a restart,
    ///   and rose from 0.
    /// - First sample of a target that was not scraped before: nobody knows since when it rose, so
    ///   it only sets the baseline.
    fn increases(&self, target: Option<&Target>) -> impl Iterator<Item = (i64, u64)> {
        let mut previous: Option<(i64, u64)> = None;
        self.samples.iter().filter_map(move |&(ms, now)| {
            let after = previous.map_or(i64::MIN, |(ms, _)| ms);
            let absent_before = target.is_some_and(|target| target.scraped_between(after, ms));
            let increase = match previous {
                _ if absent_before => Some(now),
                Some((_, before)) => Some(now.checked_sub(before).unwrap_or(now)),
                None => None,
            };
            previous = Some((ms, now));
            increase.map(|increase| (ms, increase))
        })
    }
}

/// A tally in the making, whose parts may be subtracted.
#[derive(Default)]
struct Sum {
    requests: i64,
    bad: i64,
}

impl Sum {
    fn add(&mut self, increase: u64, each: Contribution) {
        let increase = i64::try_from(increase).unwrap_or(i64::MAX);
        let add =
            |sum: &mut i64, each: i64| *sum = sum.saturating_add(increase.saturating_mul(each));
        add(&mut self.requests, each.requests);
        add(&mut self.bad, each.bad);
    }

    /// The tally with the `surplus` of earlier looks, and the surplus that it leaves.
    ///
    /// Two counters read in one scrape may still be a request apart, so either part may be slightly
    /// below 0.
    fn tally(&self, surplus: u64) -> (Tally, u64) {
        let whole = |sum: i64| u64::try_from(sum).unwrap_or_default();
        let bad = whole(self.bad).saturating_add(surplus);
        let tally = Tally::new(whole(self.requests), bad);
        (tally, bad - tally.bad)
    }
}
