//! The evidence on a canary with weight: what each gate says of one look, and whether the counts
//! can be believed.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{
    context::{DecisionContext, signed},
    objective_record,
    objectives::{self, Terms, Uncounted},
};
use crate::{
    api::{CanaryVersion, Gate, GateRecord, OnFailure, Progress, Step, conditions::reasons},
    evidence::Cursors,
    gate::{Conclusion, GateVerdict},
    sentences::{Distrust, Statement},
};

/// A version's first answers say little about its latency: caches fill and code is compiled. For so
/// long after its first weight, or a fifth of that step where it is shorter, they are weighed as
/// one scrape.
const WARM_UP: Duration = Duration::from_secs(60);
/// A scrape may lie in the future by this much and an interval, as far as two machines' clocks may
/// differ.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);
/// Requests in a step from which the observed share of traffic must resemble the weight.
pub const SHARE_CHECK_REQUESTS: u64 = 200;
/// How many times off the weight the observed share may be before the counts are not believed.
pub const SHARE_TOLERANCE: f64 = 3.0;
/// Scrapes after which a step's own requests outweigh those that stable answered before it: its
/// first scrape counts whole.
pub const SHARE_SETTLES: u32 = 2;

/// What the evidence says at one look, over all gates.
pub(super) struct Analysis {
    /// Why the canary fails, if it does.
    pub(super) fail: Option<Statement>,
    /// Why it fails an objective whose failure waits for a person, if it does.
    pub(super) held: Option<Statement>,
    /// Why it fails where one scrape was so bad that no statistics and no person are waited for.
    pub(super) hard_failure: Option<Statement>,
    /// Why the counts cannot be believed, if so.
    pub(super) blind: Option<Distrust>,
    /// Whether every gate passes.
    pub(super) pass: bool,
    /// Whether some gate suspects the canary.
    pub(super) suspect: bool,
    /// What each gate says.
    pub(super) said: Vec<Statement>,
}

impl Analysis {
    /// Takes in what one gate says.
    fn add(&mut self, gate: &Gate, verdict: GateVerdict, guard: bool, conclusion: Conclusion) {
        let statement = Statement::Concluded(Box::new(conclusion));
        self.pass &= verdict == GateVerdict::Pass;
        if guard {
            self.hard_failure.get_or_insert(statement.clone());
        }
        if verdict == GateVerdict::Fail {
            let why = match gate.then() {
                OnFailure::Rollback => &mut self.fail,
                OnFailure::Hold => &mut self.held,
            };
            why.get_or_insert(statement.clone());
        }
        self.said.push(statement);
    }
}

impl DecisionContext<'_> {
    /// Feeds each gate what was read for it. A gate whose reading is blind stays as it was.
    pub(super) fn evaluate(&mut self, progress: &mut Progress, next: Option<&Step>) -> Analysis {
        let mut analysis = Analysis {
            fail: None,
            held: None,
            hard_failure: None,
            blind: None,
            pass: true,
            suspect: false,
            said: Vec::new(),
        };
        let (spec, snapshot) = (self.spec, self.snapshot);
        let gates = spec.gates();
        let warming_up = self.warms_up(progress);
        let mut memories = std::mem::take(&mut self.gates);
        let mut records = std::mem::take(&mut progress.gates);
        let judged = gates.iter().zip(&mut memories).zip(&mut records);
        for (index, ((gate, memory), record)) in judged.enumerate() {
            let policy = objectives::policy(spec, gate, gates.len(), progress.step as usize);
            let window = memory.cursors.span(self.now, self.interval).range;
            let reading = snapshot.readings.get(index);
            let objective = || record.objective.clone();
            let distrust = match reading {
                Some(Err(blind)) => {
                    let unmeasured = self.unmeasured(&record.objective, blind);
                    Some(Distrust::Unmeasured(unmeasured))
                }
                None => Some(Distrust::NotRead {
                    objective: objective(),
                }),
                Some(Ok(reading)) => {
                    let other = Distrust::OtherKind {
                        objective: objective(),
                    };
                    let taken = memory.take_in(reading, gate, policy, self.interval, warming_up);
                    (!taken).then_some(other)
                }
            };
            analysis.blind = distrust.or(analysis.blind);
            // The counts are those up to the newest scrape, and so is the time in which they came:
            // a look between two scrapes says nothing else than the one before it. The first scrape
            // may have counted requests from before the step.
            let scraped = memory.cursors.newest().min(self.now);
            let counted_for = Duration::try_from(time_in_step(progress, scraped))
                .ok()
                .filter(|time| *time >= self.interval);
            let finding = memory.evidence.judge(&Terms {
                gate,
                policy,
                threshold: memory.threshold.as_ref(),
                next_weight: next.map(|step| step.weight),
                counted_for,
            });
            record.sentence = finding.conclusion.sentence();
            record.rollout = memory.evidence.rollout().copied();
            let evidence = objective_record::record(record, &finding, reading, window);
            self.evidence.push(evidence);
            analysis.suspect |= finding.suspect;
            analysis.add(gate, finding.verdict, finding.guard, finding.conclusion);
        }
        (self.gates, progress.gates) = (memories, records);
        if analysis.blind.is_none() {
            let uncounted = objectives::uncounted(&gates, &self.gates);
            analysis.blind = uncounted.map(Distrust::from);
        }
        if analysis.blind.is_none() {
            self.set_cursors_back();
        }
        analysis
    }

    /// Counting that begins in the future was begun by a clock that was ahead: it begins now, or a
    /// breach would go unseen until that time has come. Only called where Prometheus' clock agrees
    /// with this machine's.
    fn set_cursors_back(&mut self) {
        let allowed = signed(self.interval + CLOCK_TOLERANCE);
        for gate in &mut self.gates {
            if gate.cursors.newest().duration_since(self.now) > allowed {
                let cursors = std::mem::replace(&mut gate.cursors, Cursors::starting_at(0));
                gate.cursors = cursors.not_after(self.now.as_millisecond());
            }
        }
    }

    /// Whether the step has only just begun. Each gate knows whether it is the version's first.
    fn warms_up(&self, progress: &Progress) -> bool {
        let step = self.spec.rollout.steps.get(progress.step as usize);
        let fifth = step.map_or(Duration::ZERO, |step| Duration::from(step.min_duration) / 5);
        let lasted = self.now.duration_since(progress.step_since);
        // A step that began by a clock that was ahead does not warm up until its beginning has
        // come.
        lasted >= -signed(self.interval + CLOCK_TOLERANCE) && lasted <= signed(WARM_UP.min(fifth))
    }

    /// Fits the trial to steps and objectives that may have been edited since. The step is the
    /// highest one declared that is not above the weight; a weight never rises by an edit. Returns
    /// whether there is one; else even the first is higher.
    pub(super) fn realign(&mut self, canary: &mut CanaryVersion, progress: &mut Progress) -> bool {
        let steps = &self.spec.rollout.steps;
        let index = steps.iter().rposition(|step| step.weight <= canary.weight);
        let Some((index, weight)) = index.and_then(|index| Some((index, steps.get(index)?.weight)))
        else {
            return false;
        };
        let old = std::mem::take(&mut progress.gates);
        for gate in self.spec.gates() {
            let known = old.iter().find(|record| record.is_of(&gate));
            let unjudged = || GateRecord::of(&gate);
            progress.gates.push(known.cloned().unwrap_or_else(unjudged));
        }
        progress.step = u32::try_from(index).unwrap_or(u32::MAX);
        if weight < canary.weight {
            let said = Statement::StepLowered {
                from: canary.weight,
                to: weight,
                version: self.name(&canary.revision, &canary.version),
            };
            canary.weight = weight;
            self.begin_step(progress, weight);
            self.record(reasons::STEPS_CHANGED, weight, None, [said]);
        }
        true
    }

    /// A canary share of requests far from the weight means that the counts are not of this
    /// traffic. Each source is asked once, by the first gate that counts its requests.
    pub(super) fn share_is_off(
        &self,
        canary: &CanaryVersion,
        progress: &Progress,
    ) -> Option<Distrust> {
        if progress.unready_since.is_some() {
            return None; // stable answers the canary's share
        }
        let weight = f64::from(canary.weight) / 100.0;
        let settled =
            self.now.duration_since(progress.step_since) >= signed(self.interval * SHARE_SETTLES);
        let gates = self.spec.gates();
        let mut asked = Vec::new();
        for (gate, memory) in gates.iter().zip(&self.gates) {
            let Some(step) = memory.evidence.step() else {
                continue;
            };
            let source = (gate.source, &gate.custom);
            if asked.contains(&source) {
                continue;
            }
            asked.push(source);
            if step.requests() < SHARE_CHECK_REQUESTS {
                continue;
            }
            let share = step.canary.requests as f64 / step.requests() as f64;
            if share > weight * SHARE_TOLERANCE || (settled && share < weight / SHARE_TOLERANCE) {
                return Some(Distrust::ShareOff {
                    objective: gate.name.clone(),
                    share,
                    requests: step.requests(),
                    weight: canary.weight,
                });
            }
        }
        None
    }
}

impl From<Uncounted> for Distrust {
    fn from(uncounted: Uncounted) -> Self {
        let Uncounted {
            silent,
            busiest,
            requests,
        } = uncounted;
        Self::Uncounted {
            silent,
            busiest,
            requests,
        }
    }
}

/// Time in this step, up to a moment, during which the metrics could be trusted. An outage takes
/// its time away and never adds any, even where the clock was set back meanwhile.
pub(super) fn time_in_step(progress: &Progress, until: Timestamp) -> SignedDuration {
    let blind = progress
        .metrics_outage_since
        .map_or(SignedDuration::ZERO, |since| outage(progress, since, until));
    until.duration_since(progress.step_since)
        - SignedDuration::from_millis(progress.metrics_outage_ms)
        - blind
}

/// How much of the step an outage has lasted: one that began before it was noted by a clock that
/// was behind.
pub(super) fn outage(progress: &Progress, since: Timestamp, until: Timestamp) -> SignedDuration {
    let since = since.max(progress.step_since);
    until.duration_since(since).max(SignedDuration::ZERO)
}
