//! What happens to the two versions, to the traffic and to Prometheus in one rollout.

use super::prometheus::BUCKETS;
use super::requests::{Request, mix, uniform};

/// Share of requests that a healthy version fails.
pub const HEALTHY_ERRORS: f64 = 0.001;
/// p99 of a healthy version, in milliseconds.
const HEALTHY_P99: f64 = 200.0;
/// Spread of latency: the standard deviation of its logarithm. 0.28 % of a healthy version's
/// requests take over 250 ms.
const LATENCY_SPREAD: f64 = 0.5;
/// The normal distribution's 99 % quantile.
const Z99: f64 = 2.326_347_874;

/// How often a burst comes: once in each stretch of so many seconds, at a hashed moment.
const BURST_EVERY: u32 = 300;

/// A while in which requests fail together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Burst {
    /// The share of requests that fail.
    pub errors: f64,
    /// How long it lasts.
    pub seconds: u32,
}

/// The burst of the design's tables.
const BURST: Burst = Burst {
    errors: 0.08,
    seconds: 30,
};

/// What a scenario's canary deserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deserves {
    /// It keeps its objectives, or is no worse than stable: it must not be rolled back.
    Trust,
    /// The same, but the objectives are broken for a while by the canary alone, so no guarantee
    /// covers it.
    Patience,
    /// It must be rolled back.
    Rollback,
    /// It lies at the objective's edge: neither is wrong.
    Either,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Story {
    /// Nothing.
    Healthy,
    /// Both versions fail 8 % for 30 s, every five minutes.
    SharedBursts,
    /// The canary alone fails so, every five minutes.
    CanaryBursts(Burst),
    /// Both versions fail this share, over the objective.
    BothFail(f64),
    /// The canary fails this share from a weight on.
    Fails { share: f64, from_weight: u8 },
    /// The canary takes this many times as long.
    Slow(f64),
    /// The canary's errors grow evenly up to a share, over so many seconds.
    Ramp { to: f64, seconds: u32 },
    /// The canary takes this many times as long in its first seconds.
    ColdStart { slowdown: f64, seconds: u32 },
    /// One of the canary's three pods fails all.
    OneBadPod,
    /// The canary fails all requests of this share of inputs.
    BadInputs(f64),
}

/// What goes wrong with Prometheus.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scraping {
    /// A scrape every 15 s.
    Steady,
    /// Each scrape up to 5 s early or late, one in ten lost.
    Ragged,
    /// Neither scrapes nor answers for a while from this second on.
    Away { from: u32, seconds: u32 },
}

/// How the traffic goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// The same all the time.
    Even,
    /// A day in two hours: from a fifth of the mean to nine fifths and back.
    Diurnal,
}

/// One scenario.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// As in the tables.
    pub name: &'static str,
    /// What the canary deserves.
    pub deserves: Deserves,
    /// What goes wrong.
    pub story: Story,
    /// What goes wrong with Prometheus.
    pub scraping: Scraping,
    /// How the traffic goes.
    pub traffic: Traffic,
    /// Requests a second of both versions together, for which it is played.
    pub rates: &'static [f64],
}

/// All rates of the first table.
pub const RATES: [f64; 4] = [0.2, 2.0, 20.0, 200.0];

const fn scenario(name: &'static str, deserves: Deserves, story: Story) -> Scenario {
    Scenario {
        name,
        deserves,
        story,
        scraping: Scraping::Steady,
        traffic: Traffic::Even,
        rates: &RATES,
    }
}

const fn regression(name: &'static str, story: Story, rates: &'static [f64]) -> Scenario {
    Scenario {
        rates,
        ..scenario(name, Deserves::Rollback, story)
    }
}

/// Bursts beyond the one of the first table: how long, and how bad, may they be?
const fn canary_bursts(name: &'static str, errors: f64, seconds: u32) -> Scenario {
    let story = Story::CanaryBursts(Burst { errors, seconds });
    Scenario {
        rates: &[20.0, 200.0],
        ..scenario(name, Deserves::Patience, story)
    }
}

const fn fails(share: f64) -> Story {
    Story::Fails {
        share,
        from_weight: 0,
    }
}

/// All scenarios, in the tables' order.
pub const SCENARIOS: [Scenario; 23] = [
    scenario("healthy", Deserves::Trust, Story::Healthy),
    scenario(
        "bursts that hit both versions (8 %, 30 s)",
        Deserves::Trust,
        Story::SharedBursts,
    ),
    scenario(
        "bursts that hit the canary only",
        Deserves::Patience,
        Story::CanaryBursts(BURST),
    ),
    Scenario {
        scraping: Scraping::Away {
            from: 420,
            seconds: 600,
        },
        ..scenario(
            "10 minutes without Prometheus",
            Deserves::Trust,
            Story::Healthy,
        )
    },
    scenario(
        "both versions at 3 %",
        Deserves::Trust,
        Story::BothFail(0.03),
    ),
    Scenario {
        scraping: Scraping::Ragged,
        ..scenario(
            "scrapes that jitter and get lost",
            Deserves::Trust,
            Story::Healthy,
        )
    },
    Scenario {
        traffic: Traffic::Diurnal,
        ..scenario("diurnal traffic", Deserves::Trust, Story::Healthy)
    },
    scenario(
        "cold start: three times as slow for 60 s",
        Deserves::Patience,
        Story::ColdStart {
            slowdown: 3.0,
            seconds: 60,
        },
    ),
    scenario(
        "fails 1 % of inputs only",
        Deserves::Either,
        Story::BadInputs(0.01),
    ),
    canary_bursts("4 % for 60 s", 0.04, 60),
    canary_bursts("16 % for 15 s", 0.16, 15),
    canary_bursts("8 % for 60 s", 0.08, 60),
    canary_bursts("20 % for 30 s", 0.2, 30),
    regression("100 % errors", fails(1.0), &[2.0, 20.0]),
    regression("20 %", fails(0.2), &RATES),
    regression("p99 doubles", Story::Slow(2.0), &[2.0, 20.0, 200.0]),
    regression("2 % (twice the budget)", fails(0.02), &[2.0, 20.0, 200.0]),
    regression("5 %", fails(0.05), &[2.0, 20.0]),
    regression(
        "20 % only from 50 % weight on",
        Story::Fails {
            share: 0.2,
            from_weight: 50,
        },
        &[20.0],
    ),
    regression(
        "errors grow to 20 % in 30 min",
        Story::Ramp {
            to: 0.2,
            seconds: 1_800,
        },
        &[2.0, 20.0],
    ),
    regression("one bad pod of three", Story::OneBadPod, &[2.0, 20.0]),
    Scenario {
        scraping: Scraping::Ragged,
        ..regression("20 %, scrapes jitter and get lost", fails(0.2), &[20.0])
    },
    Scenario {
        scraping: Scraping::Away {
            from: 420,
            seconds: 600,
        },
        ..regression(
            "20 % from 25 % weight on, 10 minutes without Prometheus",
            Story::Fails {
                share: 0.2,
                from_weight: 25,
            },
            &[20.0],
        )
    },
];

impl Scenario {
    /// Whether it is played at all rates of the first table.
    pub fn has_all_rates(&self) -> bool {
        self.rates.len() == RATES.len()
    }

    /// Times the mean rate at a moment, in seconds.
    pub fn load(&self, second: u32) -> f64 {
        match self.traffic {
            Traffic::Even => 1.0,
            Traffic::Diurnal => {
                let turn = f64::from(second) / 7_200.0 * std::f64::consts::TAU;
                1.0 - 0.8 * turn.cos()
            }
        }
    }

    /// How the canary answers at a moment and a weight.
    pub fn canary(&self, seed: u64, second: u32, weight: u8) -> Behaviour {
        let healthy = Behaviour::HEALTHY;
        match self.story {
            Story::SharedBursts => BURST.at(seed, second),
            Story::CanaryBursts(burst) => burst.at(seed, second),
            Story::BothFail(share) => Behaviour::failing(share),
            Story::Fails { share, from_weight } if weight >= from_weight => {
                Behaviour::failing(share)
            }
            Story::Slow(slowdown) => Behaviour {
                slowdown,
                ..healthy
            },
            Story::ColdStart { slowdown, seconds } if second < seconds => Behaviour {
                slowdown,
                ..healthy
            },
            Story::Ramp { to, seconds } => {
                let done = f64::from(second.min(seconds)) / f64::from(seconds);
                Behaviour::failing(HEALTHY_ERRORS + done * (to - HEALTHY_ERRORS))
            }
            Story::OneBadPod => Behaviour {
                broken: Broken::Pod,
                ..healthy
            },
            Story::BadInputs(share) => Behaviour {
                broken: Broken::Inputs(share),
                ..healthy
            },
            Story::Healthy | Story::Fails { .. } | Story::ColdStart { .. } => healthy,
        }
    }

    /// How the stable version answers at a moment.
    pub fn stable(&self, seed: u64, second: u32) -> Behaviour {
        match self.story {
            Story::SharedBursts => BURST.at(seed, second),
            Story::BothFail(share) => Behaviour::failing(share),
            _ => Behaviour::HEALTHY,
        }
    }
}

impl Burst {
    /// How a version answers that has it at a hashed moment of each five minutes.
    fn at(self, seed: u64, second: u32) -> Behaviour {
        let stretch = second / BURST_EVERY;
        let draw = uniform(mix(seed ^ mix(u64::from(stretch) + 0x0B)));
        let start = stretch * BURST_EVERY + (draw * f64::from(BURST_EVERY - self.seconds)) as u32;
        if (start..start + self.seconds).contains(&second) {
            Behaviour::failing(self.errors)
        } else {
            Behaviour::HEALTHY
        }
    }
}

/// How a version answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Behaviour {
    /// The share of requests that fail by chance.
    errors: f64,
    /// How many times as long as a healthy version it takes.
    slowdown: f64,
    /// Which requests fail for certain.
    broken: Broken,
}

/// Requests that fail for certain.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Broken {
    /// None.
    Nothing,
    /// All that the first of three pods answers.
    Pod,
    /// All with an input out of this share.
    Inputs(f64),
}

impl Behaviour {
    const HEALTHY: Self = Self::failing(HEALTHY_ERRORS);

    const fn failing(errors: f64) -> Self {
        Self {
            errors,
            slowdown: 1.0,
            broken: Broken::Nothing,
        }
    }
}

/// A behaviour made ready for comparing a request's draws with.
#[derive(Debug, Clone, Copy)]
pub struct Odds {
    /// A failure draw below it fails.
    errors: u64,
    /// A latency draw at or above the i-th is slower than the i-th bucket's edge.
    slower: [u64; BUCKETS.len()],
    slowdown: f64,
    broken: Broken,
}

impl Odds {
    /// The odds of a healthy version.
    pub fn healthy() -> Self {
        let mut odds = Self {
            errors: 0,
            slower: slower_than_edges(1.0),
            slowdown: 1.0,
            broken: Broken::Nothing,
        };
        odds.become_those_of(&Behaviour::HEALTHY);
        odds
    }

    /// Changes to another behaviour; the latencies, which are dear, only where they differ.
    pub fn become_those_of(&mut self, behaviour: &Behaviour) {
        self.errors = draws_below(behaviour.errors);
        self.broken = behaviour.broken;
        if (self.slowdown - behaviour.slowdown).abs() > f64::EPSILON {
            self.slowdown = behaviour.slowdown;
            self.slower = slower_than_edges(behaviour.slowdown);
        }
    }

    /// Whether the request fails.
    pub fn fails(&self, request: Request, draw: u64) -> bool {
        let certain = match self.broken {
            Broken::Nothing => false,
            Broken::Pod => request.pod(3) == 0,
            Broken::Inputs(share) => request.input() < share,
        };
        certain || draw < self.errors
    }

    /// The histogram bucket that it falls into; the last is the one without an edge.
    pub fn bucket(&self, draw: u64) -> usize {
        self.slower.iter().filter(|edge| draw >= **edge).count()
    }
}

/// Latency is log-normal: the share of requests at or below each edge, as a limit for draws below
/// 2³².
fn slower_than_edges(slowdown: f64) -> [u64; BUCKETS.len()] {
    let median = HEALTHY_P99 * slowdown / (Z99 * LATENCY_SPREAD).exp();
    BUCKETS.map(|edge| {
        let z = (edge / median).ln() / LATENCY_SPREAD;
        draws_below(0.5 * libm::erfc(-z / std::f64::consts::SQRT_2))
    })
}

fn draws_below(share: f64) -> u64 {
    (share * (1_u64 << 32) as f64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over_250_ms(slowdown: f64) -> f64 {
        1.0 - slower_than_edges(slowdown)[5] as f64 / (1_u64 << 32) as f64
    }

    #[test]
    fn a_healthy_version_keeps_its_latency_objective_and_one_twice_as_slow_does_not() {
        assert!((over_250_ms(1.0) - 0.0028).abs() < 1e-4);
        assert!((over_250_ms(2.0) - 0.083).abs() < 1e-3);
    }

    #[test]
    fn bursts_come_once_in_five_minutes_and_last_thirty_seconds() {
        for seed in 0..20 {
            for stretch in 0..4 {
                let burst = (stretch * 300..(stretch + 1) * 300)
                    .filter(|second| BURST.at(seed, *second).errors > 0.05)
                    .count();
                assert_eq!(burst, 30);
            }
        }
    }

    #[test]
    fn a_third_of_requests_meets_the_bad_pod() {
        let scenario = regression("", Story::OneBadPod, &RATES);
        let mut odds = Odds::healthy();
        odds.become_those_of(&scenario.canary(1, 0, 10));
        let mut requests = Vec::new();
        super::super::requests::Stream::new(3).take(30_000.0, &mut requests);
        let failed = requests
            .iter()
            .filter(|request| odds.fails(**request, u64::MAX))
            .count();
        let share = failed as f64 / requests.len() as f64;
        assert!((share - 1.0 / 3.0).abs() < 0.01, "{share}");
    }
}
