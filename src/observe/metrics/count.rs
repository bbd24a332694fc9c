//! From samples to counts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::answer::{Matrix, Series};
use super::edges::{is_edge, is_infinite};
use super::replicas::{Position, Rise, apportioned};
use super::source::{Contribution, Labels, Proof, Template};
use crate::evidence::{
    BlindReason, Carried, Cursors, Net, Observation, Side, Snapped, Span, Standing, Surplus, Tally,
};

/// Evidence whose newest scrape is more than this many scrapes old is stale.
pub const STALE_SCRAPES: u32 = 3;

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
    /// Rejects values that no counter can have, and targets that cannot be distinguished.
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

    /// What is to be said instead of `reason` where `cursors` counted scrapes of the last `span`
    /// that this answer does not show: it comes from another replica of Prometheus, which lacks
    /// them.
    pub(super) fn or_of_another_replica(
        &self,
        reason: BlindReason,
        cursors: &Cursors,
        span: Span,
        at: Timestamp,
    ) -> BlindReason {
        let newest = self.newest_by_instance();
        let range = i64::try_from(span.range.as_millis()).unwrap_or(i64::MAX);
        let since = at.as_millisecond().saturating_sub(range);
        let Some((instance, counted)) = cursors.unseen(&newest, since) else {
            return reason;
        };
        let time = |ms: i64| Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
        BlindReason::ReplicasDiffer {
            instance: instance.to_owned(),
            counted: time(counted),
            newest: newest.get(instance).copied().map(time),
        }
    }

    /// The newest scrape of each instance: Unix ms.
    ///
    /// Failed scrapes do not move it, so that the last values before a gap stay in the window and
    /// the gap's requests count.
    pub(super) fn newest_by_instance(&self) -> BTreeMap<&str, i64> {
        let scrapes = self.scrapes_by_instance();
        let newest = scrapes.into_iter().filter_map(|(instance, scrapes)| {
            let newest = scrapes.last().copied()?;
            Some((instance, newest))
        });
        newest.collect()
    }

    /// The successful scrapes of each instance: Unix ms, oldest first.
    fn scrapes_by_instance(&self) -> BTreeMap<&str, Vec<i64>> {
        let mut scrapes: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for target in &self.targets {
            let of_instance = scrapes.entry(&target.instance).or_default();
            of_instance.extend(&target.scrapes);
        }
        for counter in &self.counters {
            let of_instance = scrapes.entry(&counter.instance).or_default();
            of_instance.extend(counter.samples.iter().map(|(ms, _)| *ms));
        }
        for of_instance in scrapes.values_mut() {
            of_instance.sort_unstable();
            of_instance.dedup();
        }
        scrapes
    }

    /// Sums the increases that `cursors` has not counted, each as `contribution` says. Bad requests
    /// beyond the requests are left for the next look.
    pub(super) fn count(
        &self,
        template: &Template,
        cursors: &Cursors,
        scrape: Duration,
        contribution: impl Fn(&Labels) -> Contribution,
    ) -> (Observation, Carried<'_>) {
        let mut sums = [Net::default(); 2];
        let counted = self.each_target(template, cursors, scrape, contribution, |side, net, _| {
            let sum = &mut sums[side as usize];
            *sum = sum.plus(net);
        });
        let before = cursors.surplus();
        let (canary, canary_surplus) = tally(sums[Side::Canary as usize], before.canary);
        let (stable, stable_surplus) = tally(sums[Side::Stable as usize], before.stable);
        let surplus = Surplus {
            canary: canary_surplus,
            stable: stable_surplus,
        };
        (Observation { canary, stable }, Carried { counted, surplus })
    }

    /// The same by the values of one label, for the canary and for stable.
    pub(super) fn count_by(
        &self,
        template: &Template,
        cursors: &Cursors,
        scrape: Duration,
        label: &str,
    ) -> ([BTreeMap<String, u64>; 2], Carried<'_>) {
        let mut counts = [BTreeMap::new(), BTreeMap::new()];
        let every_one = |_: &Labels| Contribution::GOOD;
        let counted = self.each_target(
            template,
            cursors,
            scrape,
            every_one,
            |side, net, counters| {
                // Of which value those were that another replica has counted cannot be known.
                let all = u64::try_from(net.0).unwrap_or_default();
                let rises = apportioned(all, counters.iter().map(|(_, rise)| *rise));
                for ((labels, _), rise) in counters.iter().zip(rises).filter(|(_, rise)| *rise > 0)
                {
                    let value = labels.get(label).cloned().unwrap_or_default();
                    let count: &mut u64 = counts[side as usize].entry(value).or_default();
                    *count = count.saturating_add(rise);
                }
            },
        );
        let surplus = cursors.surplus();
        (counts, Carried { counted, surplus })
    }

    /// Gives `take` what counts of each target's counters of each version, and the counters with
    /// their own rises. Says what they have then been counted up to.
    fn each_target<'a>(
        &'a self,
        template: &Template,
        cursors: &Cursors,
        scrape: Duration,
        contribution: impl Fn(&Labels) -> Contribution,
        mut take: impl FnMut(Side, Net, &[(&Labels, u64)]),
    ) -> BTreeMap<&'a str, Standing> {
        let targets = self.targets_by_instance();
        let mut rises: BTreeMap<&str, (Position, [Rise<'_>; 2])> = BTreeMap::new();
        for (instance, scrapes) in self.scrapes_by_instance() {
            if let Some(position) = Position::of(&scrapes, cursors.of(instance), scrape) {
                rises.insert(instance, (position, Default::default()));
            }
        }
        for counter in &self.counters {
            let instance = counter.instance.as_str();
            let side = template.side(&counter.labels);
            let (Some(side), Some((position, rises))) = (side, rises.get_mut(instance)) else {
                continue;
            };
            let target = targets
                .get(instance)
                .and_then(|candidates| counter.scraped_from(candidates));
            rises[side as usize].take_in(
                &counter.labels,
                &counter.samples,
                counter.increases(target),
                position,
                |ms| cursors.is_new(instance, ms),
                contribution(&counter.labels),
            );
        }
        let counted = rises.into_iter().map(|(instance, (position, rises))| {
            let standing = [Side::Canary, Side::Stable].map(|side| {
                let rise = &rises[side as usize];
                let (net, standing) = rise.counted(cursors.counted(instance, side), &position);
                take(side, net, &rise.counters);
                standing
            });
            (instance, standing)
        });
        counted.collect()
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
    /// - First sample of a target that was not scraped before: it is unknown since when it rose, so
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

/// The tally with the `surplus` of earlier looks, and the surplus that it leaves.
///
/// Two counters read in one scrape may still be a request apart, so either part of `sum` may be
/// slightly below 0.
fn tally(sum: Net, surplus: u64) -> (Tally, u64) {
    let whole = |sum: i64| u64::try_from(sum).unwrap_or_default();
    let bad = whole(sum.1).saturating_add(surplus);
    let tally = Tally::new(whole(sum.0), bad);
    (tally, bad - tally.bad)
}
