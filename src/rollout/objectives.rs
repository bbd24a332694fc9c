//! Which gate judges which objective, and what its evidence says.

use std::time::Duration;

use crate::{
    api::{Gate, GateKind, GateMemory, ModelDeploymentSpec},
    evidence::{
        DriftState, GateState, MarginState, Memory, Observation, Reading, Snapped, ValueState,
    },
    gate::{Conclusion, Criterion, GatePolicy, GateVerdict, Judgement, Limits},
};

/// Requests of both versions from which a gate that counts none has no metric.
const ENOUGH_TO_TELL: u64 = 200;

/// What a gate is judged by, besides its memory.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// What it judges.
    pub gate: &'a Gate,
    /// How sure it has to be.
    pub policy: GatePolicy,
    /// The latency threshold in use, where it has one.
    pub threshold: Option<&'a Snapped>,
    /// The weight that the canary asks for, in percent; `None` where it asks to be promoted.
    pub next_weight: Option<u8>,
    /// The time in which the step's requests were counted, once it is long enough for their
    /// rate.
    pub counted_for: Option<Duration>,
}

/// What a gate says.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What to do.
    pub verdict: GateVerdict,
    /// Whether the canary may be bad, though it is not proven.
    pub suspect: bool,
    /// Whether one scrape was so bad that nothing more is waited for.
    pub guard: bool,
    /// What the verdict rests on.
    pub conclusion: Conclusion,
    /// Requests since the step began, and since the rollout began, where requests are counted.
    pub counts: Option<(Observation, Observation)>,
    /// The last value, where a value is measured.
    pub value: Option<f64>,
    /// Upper confidence bound on the canary's bad share, and what the next weight needs it to be.
    pub bound: Option<(f64, f64)>,
}

/// The certainty that a gate needs: all gates of the spec share the chances of error.
pub(super) fn policy(
    spec: &ModelDeploymentSpec,
    gate: &Gate,
    gates: usize,
    step: usize,
) -> GatePolicy {
    let budget = match &gate.kind {
        GateKind::Latency { quantile, .. } | GateKind::LatencyOfStable { quantile, .. } => {
            1.0 - quantile
        }
        GateKind::ErrorRate { max } => *max,
        GateKind::ErrorRateOfStable { margin } => *margin,
        GateKind::PredictionDrift(drift) => drift.max,
        GateKind::Query(_) => 0.0, // counts nothing
    };
    let few = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let min_requests = spec.rollout.steps.get(step);
    let min_requests = min_requests.map_or(0, |step| step.min_requests);
    GatePolicy {
        min_requests: u64::try_from(min_requests).unwrap_or(0),
        ..GatePolicy::new(budget, few(gates), few(spec.rollout.steps.len()))
    }
}

/// The objective that counts nothing while another one counts many requests of the same traffic:
/// its metric is not there. A name misspelt, or a server that exports no histogram, would otherwise
/// look like a model without requests.
pub(super) fn uncounted(gates: &[Gate], records: &[GateMemory]) -> Option<Uncounted> {
    let counted = |record: &GateMemory| record.evidence.rollout().map_or(0, Observation::requests);
    let busiest = records.iter().max_by_key(|record| counted(record))?;
    if counted(busiest) < ENOUGH_TO_TELL {
        return None;
    }
    let silent = gates.iter().zip(records).find(|(gate, record)| {
        let is_silent = match &record.evidence {
            Memory::Requests(_) | Memory::Margin(_) => counted(record) == 0,
            Memory::Drift(state) => state.is_empty(),
            Memory::Value(_) => false,
        };
        // Until stable's quantile is known, there is no threshold to count by.
        let awaits_threshold =
            matches!(gate.kind, GateKind::LatencyOfStable { .. }) && record.threshold.is_none();
        is_silent && !awaits_threshold && !record.evidence.warms_up()
    });
    let (_, silent) = silent?;
    Some(Uncounted {
        silent: silent.objective.clone(),
        busiest: busiest.objective.clone(),
        requests: counted(busiest),
    })
}

/// An objective that counts nothing, and another one that does.
pub(super) struct Uncounted {
    /// The objective that counts nothing.
    pub(super) silent: String,
    /// The one that counts most requests.
    pub(super) busiest: String,
    /// How many it counts.
    pub(super) requests: u64,
}

impl GateMemory {
    /// Takes in one reading. False where it is of another kind than the gate judges.
    pub(super) fn take_in(
        &mut self,
        reading: &Reading,
        gate: &Gate,
        policy: GatePolicy,
        interval: Duration,
        warming_up: bool,
    ) -> bool {
        let evidence = &mut self.evidence;
        if !evidence.warm_up(reading, gate, &policy, warming_up)
            && !evidence.observe(reading, gate, &policy, interval)
        {
            return false;
        }
        match reading {
            Reading::Counts(window) => {
                self.cursors.clone_from(&window.cursors);
                self.threshold.clone_from(&window.threshold);
            }
            Reading::Classes(classes) => self.cursors.clone_from(&classes.cursors),
            Reading::Value(_) => {}
        }
        true
    }
}

impl Memory {
    /// The memory of a gate that has seen nothing.
    pub fn new(gate: &Gate) -> Self {
        match &gate.kind {
            GateKind::Latency { .. }
            | GateKind::ErrorRate { .. }
            | GateKind::LatencyOfStable { .. } => Self::Requests(GateState::new()),
            GateKind::ErrorRateOfStable { .. } => Self::Margin(MarginState::new()),
            GateKind::PredictionDrift(_) => Self::Drift(DriftState::new()),
            GateKind::Query(_) => Self::Value(ValueState::new()),
        }
    }

    /// Begins a step with `weight` percent of the traffic on the canary.
    pub fn begin_step(&mut self, weight: u8) {
        match self {
            Self::Requests(state) => state.begin_step(weight),
            Self::Margin(state) => state.begin_step(weight),
            Self::Drift(state) => state.begin_step(weight),
            Self::Value(state) => state.begin_step(),
        }
    }

    /// Requests since the step began, where requests are counted.
    pub fn step(&self) -> Option<&Observation> {
        match self {
            Self::Requests(state) => Some(state.step()),
            Self::Margin(state) => Some(state.step()),
            Self::Drift(_) | Self::Value(_) => None,
        }
    }

    /// Requests since the rollout began, where requests are counted.
    pub fn rollout(&self) -> Option<&Observation> {
        match self {
            Self::Requests(state) => Some(state.rollout()),
            Self::Margin(state) => Some(state.rollout()),
            Self::Drift(_) | Self::Value(_) => None,
        }
    }

    /// How many more clean requests would let the canary pass, where requests are counted:
    /// `Some(None)` if more than a billion are.
    pub fn clean_requests_needed(
        &self,
        policy: &GatePolicy,
        next: Option<u8>,
    ) -> Option<Option<u64>> {
        match self {
            Self::Requests(state) => Some(state.judge(policy, next).clean_requests_needed),
            Self::Margin(state) => Some(state.judge(policy, next).clean_requests_needed),
            Self::Drift(_) | Self::Value(_) => None,
        }
    }

    /// Whether all that has been taken in so far is a version's first answers.
    pub fn warms_up(&self) -> bool {
        matches!(self, Self::Requests(state) if state.warms_up())
    }

    /// Takes in one reading as a version's first answers, which say little about its latency. False
    /// where they are none.
    fn warm_up(
        &mut self,
        reading: &Reading,
        gate: &Gate,
        policy: &GatePolicy,
        warming_up: bool,
    ) -> bool {
        match (self, reading, &gate.kind) {
            (
                Self::Requests(state),
                Reading::Counts(window),
                GateKind::Latency { .. } | GateKind::LatencyOfStable { .. },
            ) if warming_up && state.is_new() => {
                state.warm_up(&window.look, policy);
                true
            }
            _ => false,
        }
    }

    /// Takes in one reading. False where it is of another kind than the gate judges, and so says
    /// nothing.
    fn observe(
        &mut self,
        reading: &Reading,
        gate: &Gate,
        policy: &GatePolicy,
        interval: Duration,
    ) -> bool {
        match (self, reading) {
            (Self::Requests(state), Reading::Counts(window)) => {
                state.observe(&window.look, policy);
            }
            (Self::Margin(state), Reading::Counts(window)) => {
                state.observe(&window.look, policy);
            }
            (Self::Drift(state), Reading::Classes(classes)) => {
                state.observe(&classes.canary, &classes.stable, policy);
            }
            (Self::Value(state), Reading::Value(value)) => {
                state.observe(value.value, value.at, limits(gate), interval);
            }
            _ => return false,
        }
        true
    }

    /// What the evidence so far says.
    pub fn judge(&self, terms: &Terms<'_>) -> Finding {
        let policy = &terms.policy;
        match self {
            Self::Requests(state) => terms.finding(&state.judge(policy, terms.next_weight)),
            Self::Margin(state) => terms.finding(&state.judge(policy, terms.next_weight)),
            Self::Drift(state) => {
                let judged = state.judge(policy);
                Finding {
                    verdict: judged.verdict,
                    suspect: judged.suspect,
                    guard: false,
                    counts: None,
                    value: judged.compared.as_ref().map(|distance| distance.psi),
                    bound: None,
                    conclusion: Conclusion::Drift(judged),
                }
            }
            Self::Value(state) => Finding {
                verdict: state.verdict(),
                suspect: state.is_suspect(),
                guard: false,
                counts: None,
                value: state.last(),
                bound: None,
                conclusion: Conclusion::Value {
                    state: state.clone(),
                    limits: limits(terms.gate),
                },
            },
        }
    }
}

impl Terms<'_> {
    /// What a judgement on counted requests comes to.
    fn finding(&self, judged: &Judgement) -> Finding {
        let awaited = match (&self.gate.kind, self.threshold) {
            (GateKind::LatencyOfStable { quantile, by }, None) => Some((*quantile, *by)),
            _ => None,
        };
        let conclusion = match awaited {
            Some((quantile, by)) => Conclusion::AwaitsQuantile { quantile, by },
            None => Conclusion::Requests {
                judged: *judged,
                criterion: self.criterion(),
                rate: self.rate(&judged.step),
                asked: self.asked(),
            },
        };
        Finding {
            verdict: awaited.map_or(judged.verdict, |_| GateVerdict::NeedMoreData),
            suspect: judged.suspect,
            guard: judged.guard.is_some(),
            conclusion,
            counts: Some((judged.step, judged.rollout)),
            value: None,
            bound: Some((judged.upper_bound.clamp(0.0, 1.0), judged.bound_needed)),
        }
    }

    /// The canary's requests a second in this step.
    fn rate(&self, step: &Observation) -> Option<f64> {
        let seconds = self.counted_for?.as_secs_f64();
        Some(step.canary.requests as f64 / seconds)
    }

    /// The latency asked for, where it is no bucket edge.
    fn asked(&self) -> Option<Duration> {
        let snapped = self.threshold?;
        (snapped.edge < snapped.asked).then_some(snapped.asked)
    }

    /// What makes a request bad. A latency limit is the histogram edge that it was snapped to,
    /// where known.
    fn criterion(&self) -> Criterion {
        let edge = self.threshold.map(|snapped| snapped.edge);
        match &self.gate.kind {
            GateKind::Latency { quantile, max } => Criterion::Latency {
                quantile: *quantile,
                max: edge.unwrap_or_else(|| (*max).into()),
            },
            GateKind::LatencyOfStable { quantile, .. } => Criterion::Latency {
                quantile: *quantile,
                max: edge.unwrap_or_default(),
            },
            GateKind::ErrorRateOfStable { margin } => Criterion::Margin { margin: *margin },
            _ => Criterion::ErrorRate {
                max: self.policy.budget,
            },
        }
    }
}

/// The limits of a query's value.
fn limits(gate: &Gate) -> Limits {
    match &gate.kind {
        GateKind::Query(query) => Limits {
            min: query.min,
            max: query.max,
        },
        _ => Limits {
            min: None,
            max: None,
        },
    }
}
