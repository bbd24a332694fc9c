//! The requests that routers send by what they were told, as they count them and Prometheus scrapes them.

use std::collections::BTreeMap;

use crate::{
    dice::Dice,
    nodes::{ROUTER_PODS, ROUTERS},
    promql::{Labels, Series},
    story::Behaviour,
    world::EPOCH_MS,
};

/// Time between two scrapes, in seconds.
pub const SCRAPE_SECONDS: u64 = 5;
/// Edges of the latency histogram, in milliseconds.
const EDGES: [&str; 4] = ["25", "250", "1000", "+Inf"];

/// A share of a model's requests.
pub struct Share {
    /// `<namespace>/<model>/<revision>`.
    pub cluster: String,
    pub weight: u64,
    pub behaviour: Behaviour,
}

/// What one router counted of one version.
#[derive(Clone, Copy, Default)]
struct Counts {
    good: u64,
    bad: u64,
    /// Up to 25 ms, up to 250 ms, up to 1 s.
    fast: u64,
    slow: u64,
}

/// Requests, counters and samples.
pub struct Traffic {
    dice: Dice,
    /// Requests a second.
    rate: u64,
    counters: BTreeMap<(usize, String), Counts>,
    pub series: Vec<Series>,
    known: BTreeMap<String, usize>,
    /// Prometheus' scrapes fail.
    pub scrapes_fail: bool,
}

impl Traffic {
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed, "traffic"),
            rate: 200,
            counters: BTreeMap::new(),
            series: Vec::new(),
            known: BTreeMap::new(),
            scrapes_fail: false,
        }
    }

    /// One second of a router's requests.
    pub fn step(&mut self, router: usize, shares: &[Share]) {
        for share in shares {
            let all = self.rate * share.weight / 100;
            let requests = (all + router as u64) / ROUTER_PODS.len() as u64;
            let bad = self.part(requests, share.behaviour.errors_per_mille);
            let slow = self.part(requests, share.behaviour.slow_per_mille);
            let counters = &mut self.counters;
            let counts = counters.entry((router, share.cluster.clone())).or_default();
            counts.good += requests - bad;
            counts.bad += bad;
            counts.fast += requests - slow;
            counts.slow += slow;
        }
    }

    /// A scrape of each router whose turn it is: each target has its own moment within the interval.
    pub fn scrape(&mut self, second: u64) {
        for router in 0..ROUTER_PODS.len() {
            if second % SCRAPE_SECONDS == router as u64 {
                self.scrape_router(router, second);
            }
        }
    }

    /// A share of requests, rounded by chance.
    fn part(&mut self, requests: u64, per_mille: u64) -> u64 {
        let exact = requests * per_mille;
        exact / 1000 + u64::from(self.dice.chance(exact % 1000))
    }

    /// A router starts anew: its counters begin at zero.
    pub fn restart_router(&mut self, router: usize) {
        for ((of, _), counts) in &mut self.counters {
            if *of == router {
                *counts = Counts::default();
            }
        }
    }

    fn scrape_router(&mut self, router: usize, second: u64) {
        let ms = EPOCH_MS + second as i64 * 1000 + 137 * (router as i64 + 1);
        let (pod, address) = ROUTER_PODS[router];
        let target: Labels = [
            ("job", "serin-router"),
            ("namespace", ROUTERS),
            ("pod", pod),
            ("instance", &format!("{address}:9902")),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let up = if self.scrapes_fail { 0.0 } else { 1.0 };
        self.sample(&target, "up", &[], ms, up);
        if self.scrapes_fail {
            return;
        }
        let counters: Vec<(String, Counts)> = self
            .counters
            .iter()
            .filter(|((of, _), _)| *of == router)
            .map(|((_, cluster), counts)| (cluster.clone(), *counts))
            .collect();
        for (cluster, counts) in counters {
            let name = ("envoy_cluster_name", cluster.as_str());
            for (class, count) in [("2", counts.good), ("5", counts.bad)] {
                // Envoy makes a counter with its first request.
                if count > 0 {
                    let labels = [name, ("envoy_response_code_class", class)];
                    self.sample(
                        &target,
                        "envoy_cluster_upstream_rq_xx",
                        &labels,
                        ms,
                        count as f64,
                    );
                }
            }
            let all = counts.fast + counts.slow;
            for (edge, count) in EDGES
                .into_iter()
                .zip([counts.fast / 2, counts.fast, all, all])
            {
                let labels = [name, ("le", edge)];
                let bucket = "envoy_cluster_upstream_rq_time_bucket";
                self.sample(&target, bucket, &labels, ms, count as f64);
            }
        }
        // Namesakes that are nobody's business: another namespace's, and a revision that nobody knows. All of it fails.
        for cluster in [
            "other/iris/deadbeef",
            "ml/iris/deadbeef",
            "ml/iris-two/deadbeef",
        ] {
            let labels = [
                ("envoy_cluster_name", cluster),
                ("envoy_response_code_class", "5"),
            ];
            let count = (second * 1000) as f64;
            self.sample(&target, "envoy_cluster_upstream_rq_xx", &labels, ms, count);
        }
    }

    fn sample(
        &mut self,
        target: &Labels,
        name: &str,
        labels: &[(&str, &str)],
        ms: i64,
        value: f64,
    ) {
        let instance = &target["instance"];
        let mut key = [name, instance].join(" ");
        for (_, value) in labels {
            key.push(' ');
            key.push_str(value);
        }
        let index = *self.known.entry(key).or_insert_with(|| {
            let mut all = target.clone();
            let own = labels.iter().copied().chain([("__name__", name)]);
            all.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
            self.series.push(Series {
                labels: all,
                samples: Vec::new(),
            });
            self.series.len() - 1
        });
        self.series[index].samples.push((ms, value));
    }
}
