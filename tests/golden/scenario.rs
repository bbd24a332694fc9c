//! A scripted rollout: one model, its pods, its traffic and a clock. Nothing is random, so a
//! scenario gives the same log on every machine.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use serin::{
    api::{
        Commands, Gate, GateKind, ModelDeploymentSpec, Revision, State, TrialMemory, VersionRef,
        VersionSpec, commands::Command,
    },
    evidence::{self, BlindReason, Classes, Cursors, Observation, Reading, Snapped, Tally, Window},
    k8s::StableBefore,
    observe::{PodProblem, Snapshot, VersionHealth},
    rollout::decide,
};

/// Time between two looks.
pub const INTERVAL: Duration = Duration::from_secs(15);
/// Longest line of a log.
const WIDTH: usize = 110;

/// The answers of one version.
#[derive(Clone, Copy)]
pub struct Answers {
    /// Share of them that fail.
    pub errors: f64,
    /// Share of them that take longer than the latency objective.
    pub slow: f64,
    /// Share of them that the model answers with the class `churns`, not `stays`.
    pub churns: f64,
    /// The value of the user's own query.
    pub value: f64,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            errors: 0.0,
            slow: 0.0,
            churns: 0.3,
            value: 1.0,
        }
    }
}

/// A scenario in the making.
pub struct Scenario {
    pub spec: ModelDeploymentSpec,
    /// Requests a second, both versions together.
    pub rate: f64,
    /// The answers of each version; healthy where absent.
    pub answers: BTreeMap<String, Answers>,
    /// Whether Prometheus answers.
    pub prometheus_is_up: bool,
    /// Commands of people.
    pub commands: Commands,
    pub state: State,
    memory: Option<TrialMemory>,
    /// When the spec's version was stable before.
    stable_before: Option<StableBefore>,
    health: BTreeMap<Revision, VersionHealth>,
    now: Timestamp,
    /// When requests were counted the last time.
    counted: Timestamp,
    /// Fractions of requests that are due: by version and kind, for whole counts without chance.
    due: BTreeMap<String, f64>,
    log: String,
}

impl Scenario {
    /// Makes a scenario with this title, for a model of two pods with these objectives and rollout.
    /// Version 1 serves already.
    pub fn new(title: &str, objectives: &Value, mut rollout: Value) -> Self {
        // The stories are about the steps; the watch after the last one would only make each
        // longer.
        if rollout.get("bakeTime").is_none() {
            rollout["bakeTime"] = json!("1m");
        }
        let spec = serde_json::from_value(json!({
            "model": {"uri": "file:///m", "version": "1", "digest": "sha256:0"},
            "replicas": 2,
            "objectives": objectives,
            "rollout": rollout,
        }))
        .unwrap();
        let mut scenario = Self {
            spec,
            rate: 20.0,
            answers: BTreeMap::new(),
            prometheus_is_up: true,
            commands: Commands::default(),
            state: State::default(),
            memory: None,
            stable_before: None,
            health: BTreeMap::new(),
            now: Timestamp::UNIX_EPOCH,
            counted: Timestamp::UNIX_EPOCH,
            due: BTreeMap::new(),
            log: String::new(),
        };
        scenario.look();
        scenario.pods("1", 2);
        scenario.look();
        scenario.log = format!("{title}\n");
        let _ = writeln!(
            scenario.log,
            "Two pods; a look every {INTERVAL:?}; version 1 serves.\n"
        );
        scenario
    }

    /// Writes an event from outside into the log.
    pub fn note(&mut self, what: &str) {
        let time = self.time();
        let _ = writeln!(self.log, "{time}  -- {what}");
    }

    /// The user applies a version.
    pub fn apply(&mut self, version: &str) {
        version.clone_into(&mut self.spec.model.as_mut().unwrap().version);
        self.note(&format!("The user applies version {version}."));
        self.look();
    }

    /// A version has so many Ready pods from now on; the others run, and do not get Ready.
    pub fn pods(&mut self, version: &str, ready: i32) {
        let health = VersionHealth {
            desired: 2,
            ready,
            endpoints: usize::try_from(ready).unwrap(),
            unready: 2 - ready,
            ..VersionHealth::default()
        };
        self.health.insert(self.revision(version), health);
    }

    /// None of a version's pods serves from now on, through no fault of its own.
    pub fn trouble(&mut self, version: &str, problem: PodProblem) {
        self.note(&format!("Of version {version}, {problem}."));
        let health = VersionHealth {
            desired: 2,
            trouble: Some(problem),
            ..VersionHealth::default()
        };
        self.health.insert(self.revision(version), health);
    }

    /// A version's pods fail for a permanent reason.
    pub fn crash(&mut self, version: &str, failure: PodProblem) {
        self.pods(version, 0);
        let health = self.health.entry(self.revision(version)).or_default();
        health.failure = Some(failure);
    }

    /// What requests to a version come to from now on.
    pub fn answer(&mut self, version: &str, answers: Answers) {
        self.answers.insert(version.to_owned(), answers);
    }

    /// Applies a version, whose pods are Ready after 30 s.
    pub fn roll_out(&mut self, version: &str) {
        self.apply(version);
        self.pass(30);
        self.pods(version, 2);
        self.look();
    }

    /// A person asks for something about the version under trial, at its weight.
    pub fn ask(&mut self, who: &str, command: impl FnOnce(Revision, u8) -> Command) {
        let Some(canary) = &self.state.canary else {
            return;
        };
        let command = command(canary.revision.clone(), canary.weight);
        self.note(&format!("{who} annotates: {}", command.annotation()));
        self.commands = Commands {
            asked: vec![command],
            by: Some(who.to_owned()),
            malformed: Vec::new(),
        };
        self.look();
    }

    /// Lets time pass, with a look every 15 s, until it is over or nothing is on trial any more.
    pub fn play(&mut self, seconds: i64) {
        let end = self.now + SignedDuration::from_secs(seconds);
        while self.now < end && self.state.canary.is_some() {
            self.pass(15);
            self.look();
        }
    }

    /// The same where nothing is on trial, while a version waits for its next one.
    pub fn wait(&mut self, seconds: i64) {
        for _ in 0..seconds / 15 {
            self.pass(15);
            self.look();
        }
    }

    /// The version that the spec will ask for was stable until the last promotion.
    pub fn was_stable(&mut self, back: u32) {
        let retiring = self.state.retiring.last();
        let until = retiring.and_then(|retiring| retiring.stable_until);
        self.stable_before = until.map(|until| StableBefore { back, until });
    }

    /// Lets time pass without a look.
    pub fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    /// One look: decides, logs the decision, and takes over the next state.
    pub fn look(&mut self) {
        let snapshot = Snapshot {
            desired: VersionRef {
                revision: self.revision(&self.spec.version_name()),
                version: self.spec.version_name(),
            },
            state: self.state.clone(),
            memory: self.memory.clone(),
            router: serin::router::Report::default(),
            free_port: Some(20_000),
            versions: self.health.clone(),
            readings: self.read(),
            commands: self.commands.clone(),
            unmeasurable: Vec::new(),
            refused: Vec::new(),
            stable_rate: Some(Ok(self.rate)),
            attentive_since: Timestamp::UNIX_EPOCH,
            here_since: Timestamp::UNIX_EPOCH,
            in_force: None,
            stable_before: self.stable_before,
            desired_refused: None,
        };
        let before = self.weight();
        let decision = decide(&self.spec, &snapshot, self.now, INTERVAL);
        let mut weight = before;
        for record in &decision.records {
            let verdict = record
                .verdict
                .map_or_else(String::new, |verdict| format!("{verdict:?}"));
            let by = record
                .by
                .as_ref()
                .map_or_else(String::new, |by| format!("  by {by}"));
            let time = self.time();
            let line = format!(
                "{time}  {:<22} {:<4} {weight:>3} → {:>3} %  {verdict}{by}",
                record.action, record.version, record.weight
            );
            let _ = writeln!(self.log, "{}", line.trim_end());
            self.wrap(&record.sentence);
            weight = record.weight;
        }
        (self.state, self.memory) = (decision.next, decision.memory);
        self.counted = self.now;
    }

    /// The log, and what status says at the end of it.
    pub fn end(mut self) -> String {
        let time = self.time();
        let stable = self.state.stable.clone().map(|stable| stable.version);
        let _ = writeln!(
            self.log,
            "\n{time}  The end: {:?}, version {} has {} %.",
            self.state.phase,
            stable.unwrap_or_default(),
            100 - self.weight()
        );
        let message = self.state.message.clone();
        self.wrap(&message);
        self.log
    }

    /// The share of traffic that the version under trial has.
    pub fn weight(&self) -> u8 {
        self.state.canary.as_ref().map_or(0, |canary| canary.weight)
    }

    fn revision(&self, version: &str) -> Revision {
        let mut spec = VersionSpec::of(&self.spec);
        version.clone_into(&mut spec.model.as_mut().unwrap().version);
        spec.revision()
    }

    /// Hours, minutes and seconds of the scenario.
    fn time(&self) -> String {
        let seconds = self.now.as_second();
        format!(
            "{:02}:{:02}:{:02}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        )
    }

    fn wrap(&mut self, text: &str) {
        let mut line = String::new();
        // A number stays with its unit.
        let text = text.replace(" %", "\u{a0}%");
        for word in text.split(' ') {
            if line.chars().count() + word.chars().count() + 11 > WIDTH {
                let _ = writeln!(self.log, "         {line}");
                line.clear();
            }
            line.push(' ');
            line.push_str(&word.replace('\u{a0}', " "));
        }
        let _ = writeln!(self.log, "         {line}");
    }

    /// One reading an objective, of the requests since the look before.
    fn read(&mut self) -> Vec<Result<Reading, BlindReason>> {
        let (Some(canary), Some(stable)) = (self.state.canary.clone(), self.state.stable.clone())
        else {
            return Vec::new();
        };
        if canary.progress.is_none() {
            return Vec::new();
        }
        let share = f64::from(canary.weight) / 100.0;
        let ready = self
            .health
            .get(&canary.revision)
            .is_some_and(|health| health.ready > 0);
        let share = if ready { share } else { 0.0 };
        let mut readings = Vec::new();
        for gate in self.spec.gates() {
            let sides = [
                (canary.version.as_str(), share),
                (stable.version.as_str(), 1.0 - share),
            ];
            let reading = self.read_for(&gate, sides);
            readings.push(if self.prometheus_is_up {
                Ok(reading)
            } else {
                Err(BlindReason::Unreachable {
                    detail: "connection refused".to_owned(),
                })
            });
        }
        readings
    }

    /// What one gate would read of canary and stable: each its version, and its share of traffic.
    fn read_for(&mut self, gate: &Gate, [canary, stable]: [(&str, f64); 2]) -> Reading {
        match &gate.kind {
            GateKind::PredictionDrift(_) => Reading::Classes(Classes {
                canary: self.classes(canary),
                stable: self.classes(stable),
                cursors: Cursors::starting_at(0),
                newest_sample: self.now,
                query: String::new(),
                replayed: None,
                lost: None,
            }),
            GateKind::Query(_) => Reading::Value(evidence::Value {
                value: self.answers(canary.0).value,
                at: self.now,
                query: String::new(),
            }),
            counting => {
                let look = Observation {
                    canary: self.tally(gate, canary),
                    stable: self.tally(gate, stable),
                };
                let timed = matches!(
                    counting,
                    GateKind::Latency { .. } | GateKind::LatencyOfStable { .. }
                );
                Reading::Counts(window(look, timed))
            }
        }
    }

    fn answers(&self, version: &str) -> Answers {
        self.answers.get(version).copied().unwrap_or_default()
    }

    /// Requests to a version since the last look.
    fn arrived(&self, share: f64) -> f64 {
        self.rate * self.now.duration_since(self.counted).as_secs_f64() * share
    }

    /// A version's requests since the last readable look.
    fn tally(&mut self, gate: &Gate, (version, share): (&str, f64)) -> Tally {
        let (answers, arrived) = (self.answers(version), self.arrived(share));
        let bad_share = match &gate.kind {
            GateKind::Latency { .. } | GateKind::LatencyOfStable { .. } => answers.slow,
            _ => answers.errors,
        };
        let name = &gate.name;
        let requests = self.whole(version, name, "all", arrived);
        let bad = self.whole(version, name, "bad", arrived * bad_share);
        Tally::new(requests, bad)
    }

    /// A version's predictions since the last readable look.
    fn classes(&mut self, (version, share): (&str, f64)) -> BTreeMap<String, u64> {
        let (churns, arrived) = (self.answers(version).churns, self.arrived(share));
        [("churns", churns), ("stays", 1.0 - churns)]
            .map(|(class, of_all)| {
                let count = self.whole(version, "classes", class, arrived * of_all);
                (class.to_owned(), count)
            })
            .into()
    }

    /// So many more of something: its whole part; the fraction is due later, and so is all of it
    /// while it cannot be read.
    fn whole(&mut self, version: &str, of: &str, kind: &str, more: f64) -> u64 {
        let due = self
            .due
            .entry(format!("{version} {of} {kind}"))
            .or_default();
        *due += more;
        if !self.prometheus_is_up {
            return 0;
        }
        let count = (*due + 1e-9).floor();
        *due -= count;
        count as u64
    }
}

fn window(look: Observation, timed: bool) -> Window {
    Window {
        look,
        cursors: Cursors::starting_at(0),
        newest_sample: Timestamp::UNIX_EPOCH,
        threshold: timed.then(|| Snapped {
            asked: Duration::from_millis(250),
            edge: Duration::from_millis(250),
            spellings: vec!["250".to_owned()],
        }),
        query: String::new(),
        replayed: None,
        lost: None,
    }
}
