//! Serin's own gate: [`serin::gate`] as it is, moved by the rules of `src/rollout/analysis.rs`.
//!
//! The rules are written again here because a whole decision, with its state and its sentences,
//! costs ten times as much as the gate. So that they are the same, every n-th rollout is also
//! played by the real [`serin::rollout::decide`] (`decide.rs`), and the two must end alike, to the
//! second.

use serin::{
    evidence::{GateState, MarginState, Observation, Tally},
    gate::{GatePolicy, GateVerdict},
    observe::metrics::STALE_SCRAPES,
    rollout::{HIGHEST_START, SHARE_CHECK_REQUESTS, SHARE_SETTLES, SHARE_TOLERANCE},
};

use super::gate::{Gate, Move, SCRAPE, STEPS};
use super::prometheus::{Counters, Prometheus, Sample};

/// "At most 1 % errors" and "p99 ≤ 250 ms": both allow 1 % of requests to be bad.
pub const BUDGET: f64 = 0.01;
/// `noWorseThanStable: {errorRate: 0.5%}`.
pub const MARGIN: f64 = 0.005;
/// The number of objectives.
pub const GATES: u32 = 2;
/// The latency objective's place among them.
const LATENCY: usize = 1;
/// Shortest time at a weight.
const MIN_DURATION: u32 = 300;
/// Seconds during which the canary's latency is that of a version warming up.
const WARM_UP: u32 = 60;
/// `onMetricsOutage.hold`.
const HOLD: u32 = 600;
/// `onInsufficientData.after`.
const PATIENCE: u32 = 1_800;
/// A sample as old as this is stale.
const STALE: u32 = STALE_SCRAPES * SCRAPE;

/// How Serin is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// As it is without a word: it waits for the proof.
    Plain,
    /// `onInsufficientData: {after: 30m, then: Advance}`: takes the step then, unless the canary is
    /// suspect.
    Advance,
    /// `startAt: ByTraffic`: with little traffic it starts at a higher step.
    Adaptive,
    /// `noWorseThanStable: {errorRate: 0.5%}` instead of `errorRate: 1%`.
    BesideStable,
}

/// What one gate sees: the look at the errors and the look at the latency.
pub type Looks = [Observation; GATES as usize];

/// What each gate has not counted yet, or nothing where the metrics cannot be trusted.
#[derive(Debug, Default)]
pub struct Reader {
    counted: (Counters, Counters),
}

impl Reader {
    /// Reads what was scraped since the last time.
    pub fn read(&mut self, now: u32, prometheus: &Prometheus) -> Option<Looks> {
        let newest = prometheus.newest().filter(|_| !prometheus.away)?;
        if now - newest.at > STALE {
            return None;
        }
        let Sample { canary, stable, .. } = *newest;
        let before = std::mem::replace(&mut self.counted, (canary, stable));
        let look = |bad: fn(&Counters) -> u64| {
            let tally = |now: &Counters, before: &Counters| {
                Tally::new(now.requests - before.requests, bad(now) - bad(before))
            };
            Observation {
                canary: tally(&canary, &before.0),
                stable: tally(&stable, &before.1),
            }
        };
        Some([look(|counters| counters.errors), look(Counters::slow)])
    }
}

/// What judges one objective.
#[derive(Debug)]
struct Judge {
    policy: GatePolicy,
    memory: Memory,
}

/// The memory of an objective of its own, or of one beside stable.
#[derive(Debug)]
enum Memory {
    Requests(GateState),
    Margin(MarginState),
}

impl Judge {
    fn requests() -> Self {
        Self {
            policy: GatePolicy::new(BUDGET, GATES, STEPS.len() as u32),
            memory: Memory::Requests(GateState::new()),
        }
    }

    fn margin() -> Self {
        Self {
            policy: GatePolicy::new(MARGIN, GATES, STEPS.len() as u32),
            memory: Memory::Margin(MarginState::new()),
        }
    }

    fn begin_step(&mut self, weight: u8) {
        match &mut self.memory {
            Memory::Requests(gate) => gate.begin_step(weight),
            Memory::Margin(gate) => gate.begin_step(weight),
        }
    }

    fn step(&self) -> &Observation {
        match &self.memory {
            Memory::Requests(gate) => gate.step(),
            Memory::Margin(gate) => gate.step(),
        }
    }

    fn observe(&mut self, look: &Observation, warms_up: bool) {
        match &mut self.memory {
            Memory::Requests(gate) if warms_up && gate.is_new() => gate.warm_up(look, &self.policy),
            Memory::Requests(gate) => gate.observe(look, &self.policy),
            Memory::Margin(gate) => gate.observe(look, &self.policy),
        }
    }

    /// The verdict, and whether the canary is suspect.
    fn verdict(&self, next: Option<u8>) -> (GateVerdict, bool) {
        match &self.memory {
            Memory::Requests(gate) => (gate.verdict(&self.policy, next), gate.is_suspect()),
            Memory::Margin(gate) => (gate.verdict(&self.policy, next), gate.is_suspect()),
        }
    }

    /// Clean requests that a version without history needs before the next step.
    fn clean_requests_needed(&self, next: Option<u8>) -> u64 {
        let judged = match &self.memory {
            Memory::Requests(gate) => gate.judge(&self.policy, next),
            Memory::Margin(gate) => gate.judge(&self.policy, next),
        };
        judged.clean_requests_needed.unwrap_or(u64::MAX)
    }
}

/// One rollout by Serin.
#[derive(Debug)]
pub struct Serin {
    setting: Setting,
    reader: Reader,
    gates: [Judge; GATES as usize],
    step: usize,
    step_since: u32,
    /// Blind seconds in this step, the present ones left out.
    blind: u32,
    metrics_outage_since: Option<u32>,
    /// What the gates said when they last saw a request or a new step.
    said: Option<Said>,
}

/// All gates' verdicts together.
#[derive(Debug, Clone, Copy)]
struct Said {
    fail: bool,
    pass: bool,
    suspect: bool,
}

impl Serin {
    /// A rollout beside a stable version that has had so many requests a second.
    pub fn new(setting: Setting, rate: f64) -> Self {
        let errors = match setting {
            Setting::BesideStable => Judge::margin(),
            _ => Judge::requests(),
        };
        let mut gates = [errors, Judge::requests()];
        let step = match setting {
            Setting::Adaptive => adapted(&gates, rate),
            _ => 0,
        };
        for gate in &mut gates {
            gate.begin_step(STEPS[step]);
        }
        Self {
            setting,
            reader: Reader::default(),
            gates,
            step,
            step_since: 0,
            blind: 0,
            metrics_outage_since: None,
            said: None,
        }
    }

    fn judge(&mut self, now: u32, looks: Option<&Looks>) -> Said {
        let looks = looks.filter(|looks| looks.iter().any(|look| look.requests() > 0));
        if let (Some(said), None) = (self.said, looks) {
            return said;
        }
        let next = STEPS.get(self.step + 1).copied();
        let mut said = Said {
            fail: false,
            pass: true,
            suspect: false,
        };
        for (index, gate) in self.gates.iter_mut().enumerate() {
            if let Some(looks) = looks {
                gate.observe(&looks[index], index == LATENCY && now <= WARM_UP);
            }
            let (verdict, suspect) = gate.verdict(next);
            said.fail |= verdict == GateVerdict::Fail;
            said.pass &= verdict == GateVerdict::Pass;
            said.suspect |= suspect;
        }
        self.said = Some(said);
        said
    }

    fn share_is_off(&self, now: u32) -> bool {
        let step = self.gates[0].step();
        if step.requests() < SHARE_CHECK_REQUESTS {
            return false;
        }
        let share = step.canary.requests as f64 / step.requests() as f64;
        let weight = f64::from(STEPS[self.step]) / 100.0;
        let settled = now - self.step_since >= SHARE_SETTLES * SCRAPE;
        share > weight * SHARE_TOLERANCE || (settled && share < weight / SHARE_TOLERANCE)
    }

    fn advance(&mut self, now: u32) -> Move {
        self.step += 1;
        let Some(weight) = STEPS.get(self.step) else {
            return Move::Promote;
        };
        for gate in &mut self.gates {
            gate.begin_step(*weight);
        }
        self.step_since = now;
        self.blind = 0;
        self.metrics_outage_since = None;
        self.said = None;
        Move::Weight(*weight)
    }
}

/// Where `startAt: ByTraffic` starts: `src/rollout/first_step.rs`.
fn adapted(gates: &[Judge], rate: f64) -> usize {
    let candidates = STEPS
        .iter()
        .take_while(|weight| **weight <= HIGHEST_START)
        .count();
    (0..candidates)
        .find(|step| {
            let expected = rate * f64::from(STEPS[*step]) / 100.0 * f64::from(MIN_DURATION);
            let next = STEPS.get(step + 1).copied();
            let needed = gates.iter().map(|gate| gate.clean_requests_needed(next));
            expected >= needed.max().unwrap_or_default() as f64
        })
        .unwrap_or(candidates - 1)
}

impl Gate for Serin {
    fn first_weight(&self) -> u8 {
        STEPS[self.step]
    }

    fn evaluate(&mut self, now: u32, prometheus: &Prometheus) -> Move {
        let looks = self.reader.read(now, prometheus);
        let said = self.judge(now, looks.as_ref());
        if said.fail {
            return Move::RollBack;
        }
        if looks.is_none() || self.share_is_off(now) {
            let since = *self.metrics_outage_since.get_or_insert(now);
            return if now - since >= HOLD {
                Move::RollBack
            } else {
                Move::Stay
            };
        }
        if let Some(since) = self.metrics_outage_since.take() {
            self.blind += now - since;
        }
        let time_in_step = now - self.step_since - self.blind;
        let patient = time_in_step >= PATIENCE && self.setting == Setting::Advance;
        if said.pass && time_in_step >= MIN_DURATION || !said.pass && patient && !said.suspect {
            return self.advance(now);
        }
        Move::Stay
    }
}
