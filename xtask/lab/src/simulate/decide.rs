//! Serin's whole decision, as the operator takes it: the real [`serin::rollout::decide`] on
//! snapshots.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use serin::{
    api::{ModelDeploymentSpec, State, TrialMemory, VersionRef, VersionSpec},
    evidence::{BlindReason, Cursors, Observation, Reading, Window},
    observe::{Snapshot, VersionHealth},
    rollout::decide,
};

use super::gate::{Gate, Move, SCRAPE, STEPS};
use super::prometheus::Prometheus;
use super::serin::{Reader, Setting};

/// One rollout of version 2 beside version 1, decided by the operator's own code.
pub struct Decided {
    spec: ModelDeploymentSpec,
    state: State,
    memory: Option<TrialMemory>,
    reader: Reader,
    /// When the canary got its first weight.
    began: Timestamp,
    first_weight: u8,
    /// Requests a second that stable had before.
    stable_rate: f64,
}

impl Decided {
    /// A rollout whose canary has just got its first weight, beside a stable version that has had
    /// so many requests a second.
    pub fn new(setting: Setting, rate: f64) -> Result<Self> {
        let mut rollout = Self {
            spec: spec("1", setting)?,
            state: State::default(),
            memory: None,
            reader: Reader::default(),
            began: Timestamp::UNIX_EPOCH,
            first_weight: 0,
            stable_rate: rate,
        };
        // Version 1 starts and serves; version 2 starts beside it and gets the first step's weight.
        for version in ["1", "1", "2", "2"] {
            rollout.spec = spec(version, setting)?;
            rollout.decide(0, Vec::new());
        }
        rollout.first_weight = rollout
            .weight()
            .filter(|weight| STEPS.contains(weight))
            .context("the canary has no first weight")?;
        Ok(rollout)
    }

    /// The persisted state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What the gates remember; `None` while no canary has weight.
    pub fn memory(&self) -> Option<&TrialMemory> {
        self.memory.as_ref()
    }

    fn weight(&self) -> Option<u8> {
        self.state.canary.as_ref().map(|canary| canary.weight)
    }

    fn decide(&mut self, second: u32, readings: Vec<Result<Reading, BlindReason>>) {
        let snapshot = Snapshot {
            desired: VersionRef {
                revision: VersionSpec::of(&self.spec).revision(),
                version: self.spec.version_name(),
            },
            state: self.state.clone(),
            memory: self.memory.clone(),
            router: serin::router::Report::default(),
            free_port: None,
            versions: self.all_ready(),
            readings,
            commands: serin::api::Commands::default(),
            unmeasurable: Vec::new(),
            refused: Vec::new(),
            stable_rate: Some(Ok(self.stable_rate)),
            attentive_since: Timestamp::UNIX_EPOCH,
            here_since: Timestamp::UNIX_EPOCH,
            in_force: None,
            stable_before: None,
            desired_refused: None,
        };
        let now = self.began + SignedDuration::from_secs(second.into());
        let interval = Duration::from_secs(SCRAPE.into());
        let decision = decide(&self.spec, &snapshot, now, interval);
        (self.state, self.memory) = (decision.next, decision.memory);
    }

    /// Each version has all its pods.
    fn all_ready(&self) -> BTreeMap<serin::api::Revision, VersionHealth> {
        let ready = VersionHealth {
            desired: 1,
            ready: 1,
            endpoints: 1,
            ..VersionHealth::default()
        };
        let mut versions =
            BTreeMap::from([(VersionSpec::of(&self.spec).revision(), ready.clone())]);
        if let Some(stable) = &self.state.stable {
            versions.insert(stable.revision.clone(), ready);
        }
        versions
    }
}

impl Gate for Decided {
    fn first_weight(&self) -> u8 {
        self.first_weight
    }

    fn evaluate(&mut self, now: u32, prometheus: &Prometheus) -> Move {
        let before = self.weight();
        let stable = self.state.stable.clone();
        let readings = match self.reader.read(now, prometheus) {
            Some(looks) => looks
                .iter()
                .map(|look| Ok(Reading::Counts(window(*look))))
                .collect(),
            None => vec![Err(blind()), Err(blind())],
        };
        self.decide(now, readings);
        match self.weight() {
            Some(weight) if Some(weight) != before => Move::Weight(weight),
            Some(_) => Move::Stay,
            None if self.state.stable == stable => Move::RollBack,
            None => Move::Promote,
        }
    }
}

fn spec(version: &str, setting: Setting) -> Result<ModelDeploymentSpec> {
    let then = match setting {
        Setting::Advance => "Advance",
        _ => "Hold",
    };
    let start_at = match setting {
        Setting::Adaptive => "ByTraffic",
        _ => "FirstStep",
    };
    let errors = match setting {
        Setting::BesideStable => {
            json!({"name": "beside-stable", "noWorseThanStable": {"errorRate": "0.5%"}})
        }
        _ => json!({"name": "errors", "errorRate": {"max": "1%"}}),
    };
    let spec = json!({
        "model": {"uri": "https://models.example.com/m", "version": version, "digest": "sha256:0"},
        "replicas": 1,
        "objectives": [errors, {"name": "latency", "latency": {"quantile": 0.99, "max": "250ms"}}],
        "rollout": {
            "steps": STEPS.map(|weight| json!({"weight": weight, "minDuration": "5m"})),
            "startAt": start_at,
            "bakeTime": "5m",
            "onInsufficientData": {"after": "30m", "then": then},
        },
    });
    serde_json::from_value(spec).context("the simulated rollout's spec")
}

fn window(look: Observation) -> Window {
    Window {
        look,
        cursors: Cursors::starting_at(0),
        newest_sample: Timestamp::UNIX_EPOCH,
        threshold: None,
        query: String::new(),
        replayed: None,
        lost: None,
    }
}

fn blind() -> BlindReason {
    BlindReason::Timeout {
        after: Duration::from_secs(5),
    }
}
