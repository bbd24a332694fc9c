//! The requests that routers send by their configuration, their counters, and Prometheus' scrapes
//! of them.

use std::collections::BTreeMap;

use crate::{
    nodes::ROUTERS,
    promql::{Labels, Series},
    rng::Rng,
    routers::{ROUTER_COUNT, RouterPod},
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

/// What one replica of Prometheus scraped.
#[derive(Default)]
struct Scraped {
    series: Vec<Series>,
    known: BTreeMap<String, usize>,
}

/// Requests, counters and samples.
pub struct Traffic {
    rng: Rng,
    /// Requests a second.
    pub rate: u64,
    counters: BTreeMap<(usize, String), Counts>,
    /// All requests that each version was ever sent.
    sent: BTreeMap<String, u64>,
    /// One a replica of Prometheus; each scrapes at moments of its own.
    replicas: Vec<Scraped>,
    /// The one that queries get to.
    pub asked: usize,
    /// How many queries each has answered.
    pub answered: [u64; 2],
    /// Prometheus' scrapes fail.
    pub scrapes_fail: bool,
}

impl Traffic {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed, "traffic"),
            rate: 200,
            counters: BTreeMap::new(),
            sent: BTreeMap::new(),
            replicas: vec![Scraped::default()],
            asked: 0,
            answered: [0; 2],
            scrapes_fail: false,
        }
    }

    /// A second replica of Prometheus scrapes the same routers, from the beginning on.
    pub fn has_two_replicas(&mut self) {
        self.replicas.push(Scraped::default());
    }

    /// What the replica that queries get to now has scraped.
    pub fn series(&self) -> &[Series] {
        &self.replicas[self.asked].series
    }

    /// Requests that a version was sent so far.
    pub fn sent_to(&self, cluster: &str) -> u64 {
        self.sent.get(cluster).copied().unwrap_or(0)
    }

    /// One second of a router's requests.
    pub fn step(&mut self, router: usize, shares: &[Share]) {
        for share in shares {
            let all = self.rate * share.weight / 100;
            let requests = (all + router as u64) / ROUTER_COUNT as u64;
            let bad = self.part(requests, share.behaviour.errors_per_mille);
            let slow = self.part(requests, share.behaviour.slow_per_mille);
            *self.sent.entry(share.cluster.clone()).or_default() += requests;
            let counters = &mut self.counters;
            let counts = counters.entry((router, share.cluster.clone())).or_default();
            counts.good += requests - bad;
            counts.bad += bad;
            counts.fast += requests - slow;
            counts.slow += slow;
        }
    }

    /// A scrape of each router whose turn it is: each target has its own moment within the
    /// interval.
    pub fn scrape(&mut self, second: u64, routers: &[RouterPod]) {
        for replica in 0..self.replicas.len() {
            for (index, pod) in routers.iter().enumerate() {
                if second % SCRAPE_SECONDS == (index + 2 * replica) as u64 {
                    self.scrape_router(replica, index, pod, second);
                }
            }
        }
    }

    /// A share of requests, rounded by chance.
    fn part(&mut self, requests: u64, per_mille: u64) -> u64 {
        let exact = requests * per_mille;
        exact / 1000 + u64::from(self.rng.chance(exact % 1000))
    }

    /// Restarts a router: its counters begin at zero.
    pub fn restart_router(&mut self, router: usize) {
        for ((of, _), counts) in &mut self.counters {
            if *of == router {
                *counts = Counts::default();
            }
        }
    }

    /// Replaces a router by another pod, whose counters begin at zero under a new name.
    pub fn replace_router(&mut self, router: usize) {
        self.counters.retain(|(of, _), _| *of != router);
    }

    fn scrape_router(&mut self, replica: usize, router: usize, pod: &RouterPod, second: u64) {
        let phase = 137 * (router as i64 + 1) + 61 * replica as i64;
        let ms = EPOCH_MS + second as i64 * 1000 + phase;
        let target: Labels = [
            ("job", "serin-router"),
            ("namespace", ROUTERS),
            ("pod", &pod.name),
            ("instance", &format!("{}:9902", pod.address)),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let up = if self.scrapes_fail { 0.0 } else { 1.0 };
        self.replicas[replica].sample(&target, "up", &[], ms, up);
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
                    self.replicas[replica].sample(
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
                self.replicas[replica].sample(&target, bucket, &labels, ms, count as f64);
            }
        }
        // Series of other models: another namespace, an unknown revision. All their requests fail.
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
            self.replicas[replica].sample(
                &target,
                "envoy_cluster_upstream_rq_xx",
                &labels,
                ms,
                count,
            );
        }
    }
}

impl Scraped {
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
