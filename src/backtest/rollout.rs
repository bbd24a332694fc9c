//! Simulates one rollout: the operator's decisions on requests dealt out between two versions.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{deal::Dealer, past::PastLook};
use crate::{
    api::{
        CanaryVersion, Commands, ModelDeploymentSpec, Phase, Revision, State, Verdict, VersionRef,
        conditions::reasons,
    },
    evidence::{BlindReason, Reading},
    observe::{Snapshot, VersionHealth},
    rollout::decide,
};

/// Looks before a rollout's start from which the rate of requests is taken.
const RATE_LOOKS: usize = 5;

/// How a rollout ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// The version was promoted, which is right: it is as good as the serving one.
    Promoted,
    /// The version was rolled back, which is wrong.
    RolledBack {
        /// The verdict.
        verdict: Option<Verdict>,
        /// The decision's sentence.
        sentence: String,
    },
    /// The data ended before the rollout did.
    Unfinished,
}

/// One simulated rollout.
#[derive(Clone, Debug)]
pub struct Simulated {
    /// When the canary got its first weight.
    pub started: Timestamp,
    /// Time to its end, or to the end of the data.
    pub took: SignedDuration,
    /// How it ended.
    pub end: End,
    /// Time at each weight that was followed by a higher one or by promotion.
    pub steps: Vec<(u8, SignedDuration)>,
    /// Whether a step stayed inconclusive for longer than `onInsufficientData.after`.
    pub lacked_data: bool,
}

/// Simulates the rollout of a version exactly as good as the serving one, from the look with index
/// `start`.
pub fn simulate(
    spec: &ModelDeploymentSpec,
    looks: &[PastLook],
    start: usize,
    interval: Duration,
    seed: u64,
) -> Simulated {
    let (stable, canary) = (version("00000000", "serving"), version("11111111", "twin"));
    let started = looks
        .get(start)
        .map_or(Timestamp::UNIX_EPOCH, |look| look.at);
    let mut state = about_to_start(&stable, &canary, started);
    let mut memory = None;
    let mut rollout = Simulated {
        started,
        took: SignedDuration::ZERO,
        end: End::Unfinished,
        steps: Vec::new(),
        lacked_data: false,
    };
    let (mut weight, mut since) = (0, started);
    for (index, look) in looks.iter().enumerate().skip(start) {
        let readings = look.readings.iter().enumerate();
        let dealt = readings.map(|(objective, reading)| {
            let path = [start as u64, index as u64, objective as u64];
            let reading = reading.as_ref().map_err(Clone::clone)?;
            Ok(Dealer::new(seed, path).deal(reading, weight))
        });
        let snapshot = Snapshot {
            desired: canary.clone(),
            readings: if weight == 0 {
                Vec::new()
            } else {
                dealt.collect()
            },
            versions: healthy(spec, [&stable, &canary]),
            state,
            memory,
            router: crate::router::Report::default(),
            free_port: None,
            commands: Commands::default(),
            unmeasurable: Vec::new(),
            refused: Vec::new(),
            stable_rate: rate_before(looks, start, interval).map(Ok),
            attentive_since: Timestamp::UNIX_EPOCH,
            here_since: Timestamp::UNIX_EPOCH,
            in_force: None,
            stable_before: None,
            desired_refused: None,
        };
        let decision = decide(spec, &snapshot, look.at, interval);
        rollout.took = look.at.duration_since(started);
        for record in &decision.records {
            rollout.lacked_data |= record.action == reasons::INSUFFICIENT_DATA;
            let moved_on = record.action == reasons::PROMOTED || record.weight > weight;
            if moved_on && weight > 0 {
                rollout.steps.push((weight, look.at.duration_since(since)));
            }
            if record.weight != weight {
                (weight, since) = (record.weight, look.at);
            }
        }
        (state, memory) = (decision.next, decision.memory);
        if state.canary.is_none() {
            rollout.end = if state.stable.as_ref() == Some(&canary) {
                End::Promoted
            } else {
                let last = decision.records.last();
                End::RolledBack {
                    verdict: last.and_then(|record| record.verdict),
                    sentence: last
                        .map(|record| record.sentence.clone())
                        .unwrap_or_default(),
                }
            };
            break;
        }
    }
    rollout
}

/// Requests per second in the looks before a rollout's start (75 s at 15 s intervals), for
/// `startAt: ByTraffic`.
fn rate_before(looks: &[PastLook], start: usize, interval: Duration) -> Option<f64> {
    let before = looks.get(start.saturating_sub(RATE_LOOKS)..start)?;
    let requests: Vec<u64> = before
        .iter()
        .filter_map(|look| look.readings.iter().find_map(counted))
        .collect();
    let seconds = interval.as_secs_f64() * requests.len() as f64;
    (!requests.is_empty()).then(|| requests.iter().sum::<u64>() as f64 / seconds)
}

fn counted(reading: &Result<Reading, BlindReason>) -> Option<u64> {
    match reading {
        Ok(Reading::Counts(window)) => Some(window.look.canary.requests),
        _ => None,
    }
}

fn version(revision: &str, version: &str) -> VersionRef {
    VersionRef {
        revision: Revision(revision.to_owned()),
        version: version.to_owned(),
    }
}

/// The state in which the canary's pods are Ready, and it has no weight yet.
fn about_to_start(stable: &VersionRef, canary: &VersionRef, now: Timestamp) -> State {
    State {
        phase: Phase::Preparing,
        stable: Some(stable.clone()),
        canary: Some(CanaryVersion {
            revision: canary.revision.clone(),
            version: canary.version.clone(),
            weight: 0,
            since: now,
            rollback: false,
            progress: None,
        }),
        listener_port: Some(20_000),
        ..State::default()
    }
}

/// Health in which all pods of both versions are Ready: a backtest is about metrics only.
fn healthy(
    spec: &ModelDeploymentSpec,
    versions: [&VersionRef; 2],
) -> BTreeMap<Revision, VersionHealth> {
    let health = VersionHealth {
        desired: spec.replicas,
        ready: spec.replicas,
        endpoints: usize::try_from(spec.replicas).unwrap_or(0),
        ..VersionHealth::default()
    };
    versions
        .map(|version| (version.revision.clone(), health.clone()))
        .into()
}
