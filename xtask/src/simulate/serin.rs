//! Serin's own gate: [`serin::rollout::gate`] as it is, moved by the rules of `src/rollout/trial.rs`.
//!
//! The rules are written again here because a whole decision, with its state and its sentences, costs ten times as
//! much as the gate. So that they are the same, every n-th rollout is also played by the real
//! [`serin::rollout::decide`] (`decide.rs`), and the two must end alike, to the second.

use serin::rollout::gate::{GatePolicy, GateState, GateVerdict, Look, Tally};

use super::gate::{Gate, Move, SCRAPE, STEPS};
use super::prometheus::{Counters, Prometheus, Sample};

/// "At most 1 % errors" and "p99 ≤ 250 ms": both allow 1 % of requests to be bad.
pub const BUDGET: f64 = 0.01;
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
const STALE: u32 = 3 * SCRAPE;
/// The share of traffic is compared with the weight from so many requests on…
const SHARE_CHECK_REQUESTS: u64 = 200;
/// …and may be so many times off.
const SHARE_TOLERANCE: f64 = 3.0;

/// `onInsufficientData.then`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Waits for the proof.
    Pause,
    /// Takes the step unless the canary is suspect.
    Advance,
}

/// What one gate sees: the look at the errors and the look at the latency.
pub type Looks = [Look; GATES as usize];

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
            Look {
                canary: tally(&canary, &before.0),
                stable: tally(&stable, &before.1),
            }
        };
        Some([look(|counters| counters.errors), look(Counters::slow)])
    }
}

/// One rollout by Serin.
#[derive(Debug)]
pub struct Serin {
    patience: Patience,
    reader: Reader,
    policy: GatePolicy,
    gates: [GateState; GATES as usize],
    step: usize,
    step_since: u32,
    /// Blind seconds in this step, the present ones left out.
    blind: u32,
    blind_since: Option<u32>,
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
    /// A rollout with this patience.
    pub fn new(patience: Patience) -> Self {
        let gate = || {
            let mut gate = GateState::new();
            gate.begin_step(STEPS[0]);
            gate
        };
        Self {
            patience,
            reader: Reader::default(),
            policy: GatePolicy::new(BUDGET, GATES, STEPS.len() as u32),
            gates: [gate(), gate()],
            step: 0,
            step_since: 0,
            blind: 0,
            blind_since: None,
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
                let warms_up = index == LATENCY && now <= WARM_UP && gate.is_new();
                if warms_up {
                    gate.warm_up(&looks[index], &self.policy);
                } else {
                    gate.observe(&looks[index], &self.policy);
                }
            }
            let verdict = gate.verdict(&self.policy, next);
            said.fail |= verdict == GateVerdict::Fail;
            said.pass &= verdict == GateVerdict::Pass;
            said.suspect |= gate.is_suspect();
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
        let settled = now - self.step_since >= 2 * SCRAPE;
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
        self.blind_since = None;
        self.said = None;
        Move::Weight(*weight)
    }
}

impl Gate for Serin {
    fn turn(&mut self, now: u32, prometheus: &Prometheus) -> Move {
        let looks = self.reader.read(now, prometheus);
        let said = self.judge(now, looks.as_ref());
        if said.fail {
            return Move::RollBack;
        }
        if looks.is_none() || self.share_is_off(now) {
            let since = *self.blind_since.get_or_insert(now);
            return if now - since >= HOLD {
                Move::RollBack
            } else {
                Move::Stay
            };
        }
        if let Some(since) = self.blind_since.take() {
            self.blind += now - since;
        }
        let baked = now - self.step_since - self.blind;
        let patient = baked >= PATIENCE && self.patience == Patience::Advance;
        if said.pass && baked >= MIN_DURATION || !said.pass && patient && !said.suspect {
            return self.advance(now);
        }
        Move::Stay
    }
}
