//! What one decision is taken from, and the state as it takes shape. Everything that a decision
//! says is collected as data and put into words at its end.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{decision::Decision, memory::resume};
use crate::{
    api::{
        CanaryVersion, Commands, DecisionRecord, GateMemory, ModelDeploymentSpec, ObjectiveRecord,
        ObservedTime, RefusedVersion, Revision, State, TrialMemory, UnmeasuredObjective, Verdict,
        VersionRef, remember,
    },
    evidence::BlindReason,
    observe::{Snapshot, VersionHealth},
    sentences::{self, Statement},
};

/// How often pods that are starting are checked, besides at each change that the API server
/// reports.
pub(super) const STARTING_INTERVAL: Duration = Duration::from_secs(5);

/// How often status notes that the trial is looked at. A process that starts within 30 s of
/// another's end continues its deadlines.
const NOTED_EVERY: Duration = Duration::from_secs(30);

/// The inputs of one decision, and its outcome so far.
pub(super) struct DecisionContext<'a> {
    pub(super) spec: &'a ModelDeploymentSpec,
    pub(super) snapshot: &'a Snapshot,
    pub(super) now: Timestamp,
    /// Time between two looks at the metrics.
    pub(super) interval: Duration,
    /// The state from now on.
    pub(super) next: State,
    /// What each gate remembers, in the order of the spec's gates. Empty while no canary has
    /// weight.
    pub(super) gates: Vec<GateMemory>,
    /// Commands of people that have not had their effect yet.
    pub(super) commands: Commands,
    /// The person whose command is carried out; goes into every record from then on.
    pub(super) by: Option<String>,
    /// What is known of each objective, once the evidence was evaluated; goes into every record of
    /// a decision on it.
    pub(super) evidence: Vec<ObjectiveRecord>,
    /// What is decided, without words yet.
    records: Vec<(DecisionRecord, Vec<Statement>)>,
    /// What the status says; its last message stays where this is empty.
    message: Vec<Statement>,
}

impl<'a> DecisionContext<'a> {
    pub(super) fn new(
        spec: &'a ModelDeploymentSpec,
        snapshot: &'a Snapshot,
        now: Timestamp,
        interval: Duration,
    ) -> Self {
        let mut next = snapshot.state.clone();
        // A command stays spent for as long as its annotation stays; after that it can be given
        // again.
        next.handled_commands.retain(|spent| {
            let asked = &snapshot.commands.asked;
            asked.iter().any(|command| command.to_string() == *spent)
        });
        next.invalid_annotations
            .clone_from(&snapshot.commands.malformed);
        next.unmeasured.clear();
        let token = &spec.rollout.retry_token;
        next.postponed = next.postponed.filter(|postponed| {
            postponed.revision == snapshot.desired.revision && postponed.retry_token == *token
        });
        let commands = snapshot.commands.clone().without(&next.handled_commands);
        let gates = resume(spec, &next, snapshot.memory.as_ref(), now);
        Self {
            spec,
            snapshot,
            now,
            interval,
            gates,
            next,
            commands,
            by: None,
            evidence: Vec::new(),
            records: Vec::new(),
            message: Vec::new(),
        }
    }

    /// The decision. `requeue` is the time until the next look; only now is it known for the
    /// records.
    pub(super) fn decided(mut self, requeue: Option<Duration>) -> Decision {
        self.note_attention();
        self.keep_replicas();
        let next_check = requeue.and_then(|after| self.now.checked_add(after).ok());
        let mut records = Vec::new();
        for (mut record, statements) in self.records {
            record.sentence = sentences::text(&statements);
            record.next_check = next_check;
            remember(&mut self.next.decisions, record.clone());
            records.push(record);
        }
        if !self.message.is_empty() {
            self.next.message = sentences::text(&self.message);
        }
        let memory = memory(&self.next, self.gates);
        Decision {
            next: self.next,
            memory,
            records,
            requeue,
        }
    }

    /// Notes that the trial is looked at, for a process that may start at any time: while pods or
    /// metrics are waited for, only time that some process has seen counts towards a deadline.
    fn note_attention(&mut self) {
        let waits = |canary: &CanaryVersion| {
            let progress = canary.progress.as_ref();
            progress
                .is_none_or(|at| at.unready_since.is_some() || at.metrics_outage_since.is_some())
        };
        let on_trial = self
            .next
            .canary
            .as_ref()
            .filter(|_| self.next.stable.is_some());
        if !on_trial.is_some_and(waits) {
            self.next.observed_time = None;
            return;
        }
        let since = self.snapshot.attentive_since;
        let is_recent = |noted: &ObservedTime| {
            noted.since == since && self.now.duration_since(noted.until) < signed(NOTED_EVERY)
        };
        if !self.next.observed_time.as_ref().is_some_and(is_recent) {
            self.next.observed_time = Some(ObservedTime {
                since,
                until: self.now,
            });
        }
    }

    /// While a rollout is under way, or its old version still has its pods, no version has fewer
    /// than it had: at 100 % an autoscaler sees an idle stable version, which must be able to take
    /// all traffic back.
    fn keep_replicas(&mut self) {
        let on_trial = self.next.stable.is_some() && self.next.canary.is_some();
        let replicas = self.spec.replicas;
        let floor = self
            .next
            .replicas_floor
            .map_or(replicas, |floor| floor.max(replicas));
        let is_under_way = on_trial || !self.next.retiring.is_empty();
        self.next.replicas_floor = is_under_way.then_some(floor);
    }

    /// What the cluster says of a version.
    pub(super) fn health(&self, revision: &Revision) -> VersionHealth {
        self.snapshot.health(revision)
    }

    /// How sentences name a version.
    pub(super) fn name(&self, revision: &Revision, version: &str) -> String {
        named(self.snapshot, revision, version)
    }

    /// How many pods of a version are Ready, and what the others wait for.
    pub(super) fn pods(&self, version: &VersionRef) -> Statement {
        Statement::Pods {
            version: self.name(&version.revision, &version.version),
            health: Box::new(self.health(&version.revision)),
            replicas: self.spec.replicas,
        }
    }

    /// How long something has lasted in time that some process has seen.
    pub(super) fn witnessed(&self, since: Timestamp) -> SignedDuration {
        self.snapshot.witnessed(since, self.now)
    }

    /// Why stable could not take all traffic back right now. While there is a reason, no weight is
    /// raised.
    pub(super) fn no_way_back(&self, stable: &VersionRef) -> Option<[Statement; 2]> {
        let health = self.health(&stable.revision);
        (!health.has_capacity(self.spec.pods_needed()))
            .then(|| [self.pods(stable), Statement::NoWayBack])
    }

    /// The object without which no weight may be raised, where one is missing.
    pub(super) fn unwritten(&self) -> Option<Statement> {
        self.snapshot.missing().cloned().map(Statement::Unwritten)
    }

    /// Whether the spec's version was rolled back under the token that is in force.
    pub(super) fn refusal(&self, revision: &Revision) -> Option<&RefusedVersion> {
        self.next.refused.iter().find(|refused| {
            refused.revision == *revision && refused.retry_token == self.spec.rollout.retry_token
        })
    }

    /// Why an objective cannot be measured. A reason whose figure is another one at each look, such
    /// as the age of a sample, keeps the words of the first look: written anew, the status would
    /// wake the loop, which would find the next figure, a hundred times a second.
    pub(super) fn unmeasured(&self, objective: &str, blind: &BlindReason) -> UnmeasuredObjective {
        let before = self.snapshot.state.unmeasured.iter().find(|before| {
            let is_same = before.objective == objective && before.reason == blind.code();
            is_same && blind.has_moving_figure()
        });
        before.cloned().unwrap_or_else(|| UnmeasuredObjective {
            objective: objective.to_owned(),
            reason: blind.code().to_owned(),
            message: blind.to_string(),
        })
    }

    /// What the status says from now on.
    pub(super) fn say(&mut self, message: impl IntoIterator<Item = Statement>) {
        self.message = message.into_iter().collect();
    }

    /// Adds to what the status says.
    pub(super) fn add(&mut self, statement: Statement) {
        self.message.push(statement);
    }

    /// The last decision about a version, those of this look included.
    pub(super) fn last_move(&self) -> Option<&DecisionRecord> {
        let new = self.records.iter().rev().map(|(record, _)| record);
        let mut moves = new.filter(|record| record.is_move());
        moves.next().or_else(|| self.next.last_move())
    }

    /// Records a decision about the canary, or about stable where none is on trial.
    pub(super) fn record(
        &mut self,
        action: &str,
        weight: u8,
        verdict: Option<Verdict>,
        said: impl IntoIterator<Item = Statement>,
    ) {
        let canary = self.next.canary.as_ref().map(|canary| &canary.version);
        let stable = || self.next.stable.as_ref().map(|stable| &stable.version);
        let version = canary.or_else(stable);
        let version = version.unwrap_or(&self.snapshot.desired.version).clone();
        self.record_for(&version, action, weight, verdict, said);
    }

    /// Records a decision to wait once; at the looks after that only the message changes.
    pub(super) fn record_waiting(
        &mut self,
        action: &str,
        weight: u8,
        verdict: Verdict,
        said: impl IntoIterator<Item = Statement>,
    ) {
        let is_same = |last: &DecisionRecord| last.action == action && last.weight == weight;
        if self.last_move().is_some_and(is_same) {
            self.say(said);
        } else {
            self.record(action, weight, Some(verdict), said);
        }
    }

    /// Records a decision about a version.
    pub(super) fn record_for(
        &mut self,
        version: &str,
        action: &str,
        weight: u8,
        verdict: Option<Verdict>,
        said: impl IntoIterator<Item = Statement>,
    ) {
        let record = DecisionRecord {
            at: self.now,
            action: action.to_owned(),
            version: version.to_owned(),
            weight,
            verdict,
            sentence: String::new(), // rendered at the end
            by: self.by.clone(),
            evidence: if verdict.is_some() || self.by.is_some() {
                self.evidence.clone()
            } else {
                Vec::new() // decided on something else
            },
            next_check: None,
        };
        if record.is_move() {
            self.next.refusal_closed = false;
        }
        self.say(said);
        self.records.push((record, self.message.clone()));
    }
}

/// How sentences name a version, among those of the rollout.
pub(super) fn named(snapshot: &Snapshot, revision: &Revision, version: &str) -> String {
    let Snapshot { desired, state, .. } = snapshot;
    let desired = (&desired.revision, desired.version.as_str());
    let all = state.versions().chain([desired]);
    sentences::named_among(all, revision, version)
}

/// The time from `now` until `then`; zero if it has passed.
pub(super) fn until(now: Timestamp, then: Timestamp) -> Duration {
    then.duration_since(now)
        .try_into()
        .unwrap_or(Duration::ZERO)
}

/// A duration that can be added to a timestamp.
pub(super) fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// The memory of a trial in a state; `None` while no canary has weight.
fn memory(state: &State, gates: Vec<GateMemory>) -> Option<TrialMemory> {
    let canary = state.canary.as_ref()?;
    let progress = canary.progress.as_ref()?;
    Some(TrialMemory {
        revision: canary.revision.clone(),
        since: canary.since,
        step_since: progress.step_since,
        gates,
    })
}
