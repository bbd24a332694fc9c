//! However polls cut a stream of scrapes, each request counts once.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::evidence::{Observation, Tally};

/// The counters of one router pod: revision and class.
const COUNTERS: [(&str, &str); 4] = [
    ("cccccccc", "2"),
    ("cccccccc", "5"),
    ("55555555", "2"),
    ("55555555", "5"),
];
/// Scrapes of the longest-lived target.
const SCRAPES: usize = 24;

/// What happens at one scrape of one target.
#[derive(Clone, Debug)]
struct Tick {
    /// Whether the scrape succeeds.
    up: bool,
    /// Whether the process restarted before it.
    restarted: bool,
    /// How much later than its time it is made: ms.
    jitter: u16,
    /// How much later than that it becomes visible: ms.
    late: u16,
    /// Requests since the last scrape, per counter.
    requests: [u8; 4],
}

/// A scrape, as Prometheus stores it.
struct Scrape {
    target: usize,
    ms: i64,
    visible_ms: i64,
    up: bool,
    /// Absent until the first request that they count.
    values: [Option<u64>; 4],
}

/// All scrapes, and the tallies that a perfect reader finds.
#[derive(Default)]
struct World {
    scrapes: Vec<Scrape>,
    truth: Observation,
}

impl World {
    /// One target, scraped from its `first` scrape on.
    fn run(&mut self, target: usize, first: usize, ticks: &[Tick]) {
        let mut seen = [0_u64; 4];
        let mut value = [0_u64; 4];
        let mut reset = [false; 4];
        let mut scraped_before = false;
        for (index, tick) in ticks.iter().enumerate() {
            if tick.restarted {
                value = [0; 4];
                reset = [true; 4];
            }
            for i in 0..4 {
                value[i] += u64::from(tick.requests[i]);
                // A restart between two scrapes shows only while the counter is below its old
                // value.
                if reset[i] && seen[i] > 0 {
                    value[i] = value[i].min(seen[i] - 1);
                }
            }
            let scrape_ms = ((first + index) as i64) * 15_000 + 4_000 * target as i64;
            let ms = ms(0.0) + scrape_ms + i64::from(tick.jitter);
            if tick.up {
                for i in (0..4).filter(|i| value[*i] > 0) {
                    let before = if reset[i] { 0 } else { seen[i] };
                    if scraped_before {
                        self.add(i, value[i] - before);
                    }
                    seen[i] = value[i];
                    reset[i] = false;
                }
                // Seen to be absent: whatever it says next has risen from 0.
                for i in (0..4).filter(|i| value[*i] == 0) {
                    seen[i] = 0;
                }
                scraped_before = true;
            }
            self.scrapes.push(Scrape {
                target,
                ms,
                visible_ms: ms + i64::from(tick.late),
                up: tick.up,
                values: value.map(|v| (tick.up && v > 0).then_some(v)),
            });
        }
    }

    fn add(&mut self, counter: usize, requests: u64) {
        let (revision, class) = COUNTERS[counter];
        let tally = if revision == "cccccccc" {
            &mut self.truth.canary
        } else {
            &mut self.truth.stable
        };
        tally.requests += requests;
        tally.bad += if class == "5" { requests } else { 0 };
    }

    /// What Prometheus answers at `now` to a range that ends at `end` (ms).
    fn answer(&self, now_ms: i64, end_ms: i64, range: Duration) -> Vec<Value> {
        let mut series: BTreeMap<(usize, Option<usize>), Vec<Value>> = BTreeMap::new();
        let start_ms = end_ms - range.as_millis() as i64;
        for scrape in &self.scrapes {
            if scrape.visible_ms > now_ms || !(start_ms..=end_ms).contains(&scrape.ms) {
                continue;
            }
            let time = scrape.ms as f64 / 1000.0;
            let mut push = |counter: Option<usize>, value: u64| {
                let sample = json!([time, value.to_string()]);
                series
                    .entry((scrape.target, counter))
                    .or_default()
                    .push(sample);
            };
            push(None, u64::from(scrape.up));
            for (i, value) in scrape.values.iter().enumerate() {
                if let Some(value) = value {
                    push(Some(i), *value);
                }
            }
        }
        series
            .into_iter()
            .map(|((target, counter), values)| {
                let mut labels = json!({
                    "__name__": "up", "instance": format!("10.0.0.{target}:9902"),
                    "namespace": "serin-system", "pod": format!("serin-router-abc-{target}")});
                if let Some(counter) = counter {
                    let (revision, class) = COUNTERS[counter];
                    labels["__name__"] = json!("envoy_cluster_upstream_rq_xx");
                    labels["envoy_cluster_name"] = json!(format!("ml/churn/{revision}"));
                    labels["envoy_response_code_class"] = json!(class);
                }
                json!({"metric": labels, "values": values})
            })
            .collect()
    }

    /// The sum of what these polls count; each is (when it is made, how much earlier its range
    /// ends), in ms.
    fn polled(&self, polls: &[(i64, i64)]) -> Observation {
        let question = question(envoy(), Objective::ErrorRate);
        let mut cursors = Cursors::starting_at(ms(-1.0));
        let mut sum = Observation::default();
        for (now_ms, lag_ms) in polls {
            let end_ms = now_ms - lag_ms;
            let end = Timestamp::from_millisecond(end_ms).unwrap();
            let range = cursors.span(end, SCRAPE).range;
            let answer = self.answer(*now_ms, end_ms, range);
            // Blind polls count nothing and move nothing.
            if let Ok(window) = window(&question, &answer, None, &cursors, end) {
                add(&mut sum.canary, window.look.canary);
                add(&mut sum.stable, window.look.stable);
                cursors = window.cursors;
            }
        }
        sum
    }
}

fn add(sum: &mut Tally, part: Tally) {
    sum.requests += part.requests;
    sum.bad += part.bad;
}

fn tick() -> impl Strategy<Value = Tick> {
    (
        prop::bool::weighted(0.9),
        prop::bool::weighted(0.1),
        0..1_000_u16,
        0..8_000_u16,
        prop::array::uniform4(prop_oneof![Just(0_u8), any::<u8>()]),
    )
        .prop_map(|(up, restarted, jitter, late, requests)| Tick {
            up,
            restarted,
            jitter,
            late,
            requests,
        })
}

/// Router pods that come and go beside one that stays.
fn world() -> impl Strategy<Value = World> {
    let staying = vec(tick(), SCRAPES);
    let passing = vec((0..SCRAPES / 2, vec(tick(), 1..SCRAPES / 2)), 0..3);
    (staying, passing).prop_map(|(mut staying, passing)| {
        if let Some(last) = staying.last_mut() {
            last.up = true;
        }
        let mut world = World::default();
        world.run(0, 0, &staying);
        for (i, (first, ticks)) in passing.iter().enumerate() {
            world.run(i + 1, *first, ticks);
        }
        world
    })
}

/// When everything is visible, and the last scrape still fresh.
fn end_ms() -> i64 {
    ms(SCRAPES as f64 * 15.0)
}

/// Polls at any times, some of them repeated, some for a range that ends in the past; and one at
/// the end.
fn polls() -> impl Strategy<Value = Vec<(i64, i64)>> {
    vec(
        (0..(SCRAPES as i64 * 15_000), 0..40_000_i64, 1..3_usize),
        0..30,
    )
    .prop_map(|mut polls| {
        polls.sort_unstable();
        polls
            .into_iter()
            .flat_map(|(now, lag, times)| std::iter::repeat_n((ms(0.0) + now, lag), times))
            .chain([(end_ms(), 0)])
            .collect()
    })
}

proptest! {
    #[test]
    fn one_poll_finds_the_truth(world in world()) {
        prop_assert_eq!(world.polled(&[(end_ms(), 0)]), world.truth);
    }

    #[test]
    fn split_repeated_late_and_reordered_polls_find_the_same(world in world(), polls in polls()) {
        prop_assert_eq!(world.polled(&polls), world.truth);
    }

    #[test]
    fn no_poll_before_the_end_finds_more_than_the_truth(world in world(), polls in polls()) {
        let seen = world.polled(&polls[..polls.len() - 1]);
        prop_assert!(seen.canary.bad <= world.truth.canary.bad);
        prop_assert!(seen.stable.requests <= world.truth.stable.requests);
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "truth: {:?}", self.truth)?;
        for s in &self.scrapes {
            writeln!(
                f,
                "target {} at {:.3} visible {:.3} up {} {:?}",
                s.target,
                (s.ms - ms(0.0)) as f64 / 1000.0,
                (s.visible_ms - ms(0.0)) as f64 / 1000.0,
                s.up,
                s.values
            )?;
        }
        Ok(())
    }
}
