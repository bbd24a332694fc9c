//! Replicas of Prometheus that answer in turn: each request counts once, whichever answers.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::classes::classes;
use super::*;
use crate::evidence::{Classes, Observation, Tally};

/// The counters of one router pod: revision and class.
const COUNTERS: [(&str, &str); 4] = [
    ("cccccccc", "2"),
    ("cccccccc", "5"),
    ("55555555", "2"),
    ("55555555", "5"),
];
/// Router pods.
const TARGETS: usize = 2;
/// Scrapes of a target by one replica.
const SCRAPES: i64 = 16;
const INTERVAL_MS: i64 = 15_000;

/// One replica: when it scrapes, and when it fails to.
#[derive(Clone, Debug)]
struct Replica {
    /// When after the full interval it scrapes each target: ms.
    phase: [i64; TARGETS],
    /// How far its clock is ahead: ms.
    ahead_ms: i64,
    /// Whether its scrapes succeed, from the third on.
    up: Vec<bool>,
}

/// What happens to a target.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// It answers, and counts so with one of its counters.
    Request(usize),
    /// Its process restarts: nothing has been counted.
    Restart,
}

/// All events (time in ms, target), and the replicas that see them.
#[derive(Clone, Debug)]
struct World {
    events: Vec<(i64, usize, Event)>,
    replicas: [Replica; 2],
}

/// One query: when it is made, how much earlier its range ends (both ms), and who answers.
type Poll = (i64, i64, usize);

impl World {
    fn values(&self, target: usize, until_ms: i64) -> [u64; 4] {
        let mut values = [0; 4];
        for (ms, of, event) in &self.events {
            if *of == target && *ms <= until_ms {
                match event {
                    Event::Request(counter) => values[*counter] += 1,
                    Event::Restart => values = [0; 4],
                }
            }
        }
        values
    }

    fn truth(&self) -> Observation {
        let count = |wanted: &[usize]| {
            let events = self.events.iter();
            let is_wanted =
                |event: &Event| matches!(event, Event::Request(i) if wanted.contains(i));
            events.filter(|(_, _, event)| is_wanted(event)).count() as u64
        };
        Observation {
            canary: Tally::new(count(&[0, 1]), count(&[1])),
            stable: Tally::new(count(&[2, 3]), count(&[3])),
        }
    }

    /// What a replica answers at `now` to a range that ends at `end`.
    fn answer(&self, replica: &Replica, now_ms: i64, end_ms: i64, range: Duration) -> Vec<Value> {
        let start_ms = end_ms - range.as_millis() as i64;
        let mut series: BTreeMap<(usize, Option<usize>), Vec<Value>> = BTreeMap::new();
        for target in 0..TARGETS {
            for scrape in 0..SCRAPES {
                let real_ms = scrape * INTERVAL_MS + replica.phase[target];
                let label_ms = real_ms + replica.ahead_ms;
                if real_ms > now_ms || label_ms < start_ms || label_ms > end_ms {
                    continue;
                }
                let up = scrape < 2 || replica.up[scrape as usize];
                let mut push = |counter: Option<usize>, value: u64| {
                    let sample = json!([(ms(0.0) + label_ms) as f64 / 1000.0, value.to_string()]);
                    series.entry((target, counter)).or_default().push(sample);
                };
                push(None, u64::from(up));
                let values = self.values(target, real_ms);
                for (i, value) in values.into_iter().enumerate().filter(|(_, v)| up && *v > 0) {
                    push(Some(i), value);
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

    /// The sum of what these polls count.
    fn polled(&self, polls: &[Poll]) -> Observation {
        let question = question(envoy(), Objective::ErrorRate);
        let mut cursors = Cursors::starting_at(ms(-10.0));
        let mut sum = Observation::default();
        for (now_ms, lag_ms, replica) in polls {
            let end_ms = now_ms - lag_ms;
            let end = Timestamp::from_millisecond(ms(0.0) + end_ms).unwrap();
            let range = cursors.span(end, SCRAPE).range;
            let answer = self.answer(&self.replicas[*replica], *now_ms, end_ms, range);
            if let Ok(window) = window(&question, &answer, None, &cursors, end) {
                for (sum, part) in [
                    (&mut sum.canary, window.look.canary),
                    (&mut sum.stable, window.look.stable),
                ] {
                    sum.requests += part.requests;
                    sum.bad += part.bad;
                }
                let status = serde_json::to_string(&window.cursors).unwrap();
                cursors = serde_json::from_str(&status).unwrap();
            }
        }
        sum
    }
}

fn replica() -> impl Strategy<Value = Replica> {
    let phase = prop::array::uniform2(0..INTERVAL_MS);
    let up = vec(prop::bool::weighted(0.9), SCRAPES as usize);
    (phase, up).prop_map(|(phase, mut up)| {
        // No more than two in a row fail, as in a target that serves.
        for i in 2..up.len() {
            up[i] |= !up[i - 1] && !up[i - 2];
        }
        if let Some(last) = up.last_mut() {
            *last = true;
        }
        Replica {
            phase,
            ahead_ms: 0,
            up,
        }
    })
}

/// Requests come when both replicas have scraped each target once, and end before their last
/// scrapes.
fn world(restarts: f64) -> impl Strategy<Value = World> {
    let event = prop::bool::weighted(restarts).prop_flat_map(|restarts| {
        (0..4_usize).prop_map(move |i| {
            if restarts {
                Event::Restart
            } else {
                Event::Request(i)
            }
        })
    });
    let time = INTERVAL_MS..(SCRAPES - 1) * INTERVAL_MS;
    let events = vec((time, 0..TARGETS, event), 0..150);
    (events, prop::array::uniform2(replica())).prop_map(|(mut events, replicas)| {
        events.sort_by_key(|(ms, _, _)| *ms);
        World { events, replicas }
    })
}

/// Polls at any times, of any replica; one of each at the end.
fn polls() -> impl Strategy<Value = Vec<Poll>> {
    let end = SCRAPES * INTERVAL_MS;
    vec((0..end, 0..20_000_i64, 0..2_usize), 0..40).prop_map(move |mut polls| {
        polls.sort_unstable();
        polls.extend([(end, 0, 0), (end, 0, 1)]);
        polls
    })
}

proptest! {
    #[test]
    fn each_request_counts_once_whichever_replica_answers(world in world(0.0), polls in polls()) {
        prop_assert_eq!(world.polled(&polls), world.truth());
    }

    #[test]
    fn a_process_that_restarts_between_two_replicas_counts_nothing_twice(
        world in world(0.05),
        polls in polls(),
    ) {
        let (seen, truth) = (world.polled(&polls), world.truth());
        prop_assert!(seen.canary.requests <= truth.canary.requests, "{seen:?} {truth:?}");
        prop_assert!(seen.canary.bad <= truth.canary.bad, "{seen:?} {truth:?}");
        prop_assert!(seen.stable.requests <= truth.stable.requests, "{seen:?} {truth:?}");
    }
}

#[test]
fn replicas_whose_clocks_differ_count_each_request_once() {
    // A request each 100 ms; polls in turn, of replicas whose clocks are up to 3 s apart.
    for ahead_ms in [-3_000, -400, -1, 1, 400, 3_000] {
        for phase in [0, 100, 7_000, 14_800] {
            let replica = |phase, ahead_ms| Replica {
                phase: [phase; TARGETS],
                ahead_ms,
                up: vec![true; SCRAPES as usize],
            };
            let times = (2 * INTERVAL_MS..(SCRAPES - 2) * INTERVAL_MS).step_by(100);
            let world = World {
                events: times
                    .enumerate()
                    .map(|(i, ms)| (ms, i % TARGETS, Event::Request(i % 4)))
                    .collect(),
                replicas: [replica(300, 0), replica(phase, ahead_ms)],
            };
            let end = SCRAPES * INTERVAL_MS;
            let polls: Vec<Poll> = (0..end / 7_000)
                .map(|i| (i * 7_000, 0, i as usize % 2))
                .chain([(end, 0, 0), (end, 0, 1)])
                .collect();
            assert_eq!(world.polled(&polls), world.truth(), "{ahead_ms} {phase}");
        }
    }
}

/// Scrapes of one router at the given moments, with the value of one counter at each.
fn scraped(class: &str, samples: &[(f64, &str)]) -> Vec<Value> {
    let mut labels = json!({"__name__": "up", "instance": "10.0.0.1:9902",
        "namespace": "serin-system", "pod": "serin-router-abc-1"});
    let ups: Vec<(f64, &str)> = samples.iter().map(|(seconds, _)| (*seconds, "1")).collect();
    let up = series(&labels, &ups);
    labels["__name__"] = json!("envoy_cluster_upstream_rq_xx");
    labels["envoy_cluster_name"] = json!("ml/churn/cccccccc");
    labels["envoy_response_code_class"] = json!(class);
    vec![up, series(&labels, samples)]
}

fn read_at(cursors: &Cursors, seconds: f64, series: &[Value]) -> Result<Window, BlindReason> {
    let question = question(envoy(), Objective::ErrorRate);
    window(&question, series, None, cursors, at(seconds))
}

#[test]
fn what_one_replica_counted_the_other_leaves_out() {
    let start = Cursors::starting_at(ms(-1.0));
    let a = scraped("2", &[(0.0, "100"), (15.0, "110")]);
    let first = read_at(&start, 16.0, &a).unwrap();
    assert_eq!(first.look.canary.requests, 10);
    let b = scraped("2", &[(-8.0, "98"), (7.0, "104"), (22.0, "117")]);
    let second = read_at(&first.cursors, 23.0, &b).unwrap();
    assert_eq!(second.look.canary.requests, 7);
    let a = scraped("2", &[(0.0, "100"), (15.0, "110"), (30.0, "121")]);
    let third = read_at(&second.cursors, 31.0, &a).unwrap();
    assert_eq!(third.look.canary.requests, 4);
}

#[test]
fn a_replica_that_lost_its_data_counts_on_unless_the_process_restarted() {
    let start = Cursors::starting_at(ms(-1.0));
    let a = scraped("2", &[(0.0, "100"), (15.0, "110")]);
    let first = read_at(&start, 16.0, &a).unwrap();
    let same = scraped("2", &[(22.0, "117"), (37.0, "118")]);
    let seen = read_at(&first.cursors, 38.0, &same).unwrap();
    assert_eq!(seen.look.canary.requests, 8);
    let restarted = scraped("2", &[(22.0, "50"), (37.0, "51")]);
    let seen = read_at(&first.cursors, 38.0, &restarted).unwrap();
    assert_eq!(seen.look.canary.requests, 1);
    // After a minute another process may have the address.
    let late = scraped("2", &[(76.0, "117"), (91.0, "118")]);
    let seen = read_at(&first.cursors, 92.0, &late).unwrap();
    assert_eq!(seen.look.canary.requests, 1);
}

#[test]
fn a_replica_that_is_behind_or_lacks_the_target_is_named_with_the_other() {
    let start = Cursors::starting_at(ms(-1.0));
    let a = scraped("2", &[(105.0, "100"), (120.0, "110")]);
    let first = read_at(&start, 121.0, &a).unwrap();
    let late = scraped("2", &[(37.0, "40"), (52.0, "50")]);
    let blind = |newest| BlindReason::ReplicasDiffer {
        instance: "10.0.0.1:9902".into(),
        counted: at(120.0),
        newest,
    };
    let behind = read_at(&first.cursors, 122.0, &late).unwrap_err();
    assert_eq!(behind, blind(Some(at(52.0))));
    let lacking = read_at(&first.cursors, 122.0, &[]).unwrap_err();
    assert_eq!(lacking, blind(None));
    assert_eq!(
        lacking.to_string(),
        "two replicas of Prometheus answer, and they differ: \
         one scraped 10.0.0.1:9902 at 2023-11-14T22:15:20Z, \
         this one never did: see on the targets page of each which is behind or lacks the target, \
         or give --prometheus-url the address of the other alone"
    );
    // One Prometheus that stopped to scrape still shows what it has scraped.
    let stale = read_at(&first.cursors, 200.0, &a).unwrap_err();
    assert!(matches!(stale, BlindReason::Stale { .. }), "{stale}");
}

#[test]
fn predictions_that_one_replica_counted_the_other_leaves_out() {
    let template = Source::Serving.template(&versions());
    let read = |cursors: &Cursors, seconds: f64, samples: [(f64, &str, &str); 2]| {
        let mut all = Vec::new();
        for revision in ["cccccccc", "55555555"] {
            let pod = format!("churn-{revision}-6d9f7c5b8-aaaaa");
            let labels = |name: &str| {
                json!({
                    "__name__": name, "instance": pod, "namespace": "ml", "pod": pod,
                })
            };
            let ups = samples.map(|(seconds, _, _)| (seconds, "1"));
            all.push(series(&labels("up"), &ups));
            for (class, values) in [
                ("stay", samples.map(|(seconds, stay, _)| (seconds, stay))),
                ("leave", samples.map(|(seconds, _, leave)| (seconds, leave))),
            ] {
                let mut labels = labels("model_predictions_total");
                labels["class"] = json!(class);
                all.push(series(&labels, &values));
            }
        }
        let span = cursors.span(at(seconds), SCRAPE);
        classes(
            &body(&all),
            &template,
            span,
            String::new(),
            cursors,
            at(seconds),
            SCRAPE,
        )
        .unwrap()
    };
    let start = Cursors::starting_at(ms(-1.0));
    let first = read(&start, 16.0, [(0.0, "100", "50"), (15.0, "110", "60")]);
    let all = |classes: &Classes| classes.canary.values().sum::<u64>();
    assert_eq!(all(&first), 20);
    // Of the 28 in 15 s, 8 were counted.
    let second = read(
        &first.cursors,
        23.0,
        [(7.0, "108", "54"), (22.0, "122", "68")],
    );
    assert_eq!(all(&second), 20);
    assert_eq!(second.canary["stay"], 10);
}
