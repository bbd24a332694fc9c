//! The life of rollouts, step by step, and what holds in every life.

mod approvals;
mod asleep;
mod memory;
mod names;
mod objectives;
mod pods;
mod properties;
mod refusals;
mod rollback_window;
mod time;
mod verbs;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::{decide, failing_version};
use crate::{
    api::{
        Commands, GateMemory, ModelDeploymentSpec, Phase, Progress, Revision, State, TrialMemory,
        VersionRef, VersionSpec, conditions::reasons,
    },
    evidence::{BlindReason, Cursors, Observation, Reading, Tally, Window},
    k8s::StableBefore,
    observe::{PodProblem, Refusal, Snapshot, VersionHealth},
};

const INTERVAL: Duration = Duration::from_secs(15);

/// A small world: one model, its versions' pods, its traffic, and a clock that the test moves.
#[derive(Clone)]
struct World {
    spec: ModelDeploymentSpec,
    state: State,
    memory: Option<TrialMemory>,
    health: BTreeMap<Revision, VersionHealth>,
    commands: Commands,
    stable_rate: Option<Result<f64, BlindReason>>,
    stable_before: Option<StableBefore>,
    refused: Vec<Refusal>,
    attentive_since: Timestamp,
    now: Timestamp,
}

fn spec(version: &str) -> ModelDeploymentSpec {
    serde_json::from_value(json!({
        "model": {"uri": "file:///m", "version": version, "digest": "sha256:0"},
        "replicas": 2,
        "objectives": [{"name": "errors", "errorRate": {"max": "1%"}}],
        "rollout": {"steps": [
            {"weight": 10, "minDuration": "1m"},
            {"weight": 50, "minDuration": "1m"},
            {"weight": 100, "minDuration": "1m"},
        ], "bakeTime": "1m"},
    }))
    .unwrap()
}

/// None of two pods is Ready, and the version alone keeps them from it: they run, and they were
/// Ready.
fn silent() -> VersionHealth {
    VersionHealth {
        ready: 0,
        endpoints: 0,
        unready: 2,
        lost: true,
        ..ready()
    }
}

fn ready() -> VersionHealth {
    VersionHealth {
        desired: 2,
        ready: 2,
        endpoints: 2,
        ..VersionHealth::default()
    }
}

#[allow(clippy::unnecessary_wraps)] // a reading is what it stands for
fn reading(canary: (u64, u64), stable: (u64, u64)) -> Result<Reading, BlindReason> {
    Ok(Reading::Counts(Window {
        look: Observation {
            canary: Tally::new(canary.0, canary.1),
            stable: Tally::new(stable.0, stable.1),
        },
        cursors: Cursors::starting_at(0),
        newest_sample: Timestamp::UNIX_EPOCH,
        threshold: None,
        query: String::new(),
        replayed: None,
        lost: None,
    }))
}

/// The same, counted up to a scrape.
fn scraped(at: Timestamp, canary: (u64, u64), stable: (u64, u64)) -> Result<Reading, BlindReason> {
    let mut reading = reading(canary, stable);
    if let Ok(Reading::Counts(window)) = &mut reading {
        window.cursors = Cursors::starting_at(at.as_millisecond());
        window.newest_sample = at;
    }
    reading
}

fn blind() -> Result<Reading, BlindReason> {
    Err(BlindReason::Timeout {
        after: Duration::from_secs(5),
    })
}

impl World {
    /// A world in which version 1 serves and all is quiet.
    fn with_stable_v1() -> Self {
        let mut world = Self {
            spec: spec("1"),
            state: State::default(),
            memory: None,
            health: BTreeMap::new(),
            commands: Commands::default(),
            stable_rate: None,
            stable_before: None,
            refused: Vec::new(),
            attentive_since: Timestamp::UNIX_EPOCH,
            now: Timestamp::UNIX_EPOCH,
        };
        world.look(None);
        world.set_ready("1");
        world.look(None);
        assert_eq!((world.state.phase, world.stable()), (Phase::Stable, "1"));
        world
    }

    /// The same, with version 2 at its first step.
    fn with_canary_v2() -> Self {
        let mut world = Self::with_stable_v1();
        world.spec = spec("2");
        world.look(None);
        assert_eq!((world.state.phase, world.weight()), (Phase::Preparing, 0));
        world.set_ready("2");
        world.look(None);
        assert_eq!((world.state.phase, world.weight()), (Phase::Canary, 10));
        world
    }

    fn set_ready(&mut self, version: &str) {
        self.set_health(version, ready());
    }

    fn set_health(&mut self, version: &str, health: VersionHealth) {
        self.health
            .insert(VersionSpec::of(&spec(version)).revision(), health);
    }

    fn snapshot(&self, reading: Option<Result<Reading, BlindReason>>) -> Snapshot {
        Snapshot {
            desired: VersionRef {
                revision: VersionSpec::of(&self.spec).revision(),
                version: self.spec.version_name(),
            },
            state: self.state.clone(),
            memory: self.memory.clone(),
            commands: self.commands.clone(),
            router: serde_json::from_value(json!({})).unwrap(),
            free_port: Some(20_000),
            versions: self.health.clone(),
            readings: reading.into_iter().collect(),
            unmeasurable: Vec::new(),
            refused: self.refused.clone(),
            stable_rate: self.stable_rate.clone(),
            attentive_since: self.attentive_since,
            here_since: self.attentive_since,
            in_force: None,
            stable_before: self.stable_before,
            desired_refused: None,
        }
    }

    /// One look: decides, and takes the decision over. Returns what was decided.
    fn look(&mut self, reading: Option<Result<Reading, BlindReason>>) -> Vec<String> {
        self.take(&self.snapshot(reading))
    }

    /// Decides on a snapshot, and takes the decision over. A restart in between loses nothing.
    fn take(&mut self, snapshot: &Snapshot) -> Vec<String> {
        let decision = decide(&self.spec, snapshot, self.now, INTERVAL);
        let text = serde_json::to_string(&decision.next).unwrap();
        self.state = serde_json::from_str(&text).unwrap();
        assert_eq!(self.state, decision.next);
        let text = serde_json::to_string(&decision.memory).unwrap();
        self.memory = serde_json::from_str(&text).unwrap();
        assert_eq!(self.memory, decision.memory);
        let records = decision.records.into_iter();
        records.map(|record| record.action).collect()
    }

    fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    /// Looks every 15 s for a while, with as many requests at each.
    fn serve(&mut self, looks: u32, canary: (u64, u64), stable: (u64, u64)) -> Vec<String> {
        let mut actions = Vec::new();
        for _ in 0..looks {
            self.pass(15);
            actions.extend(self.look(Some(reading(canary, stable))));
        }
        actions
    }

    fn stable(&self) -> &str {
        self.state
            .stable
            .as_ref()
            .map_or("", |stable| &stable.version)
    }

    fn weight(&self) -> u8 {
        self.state.canary.as_ref().map_or(0, |canary| canary.weight)
    }

    /// What the gates remember.
    fn gates(&self) -> &[GateMemory] {
        &self.memory.as_ref().unwrap().gates
    }

    /// Where the canary is, which has weight.
    fn progress(&self) -> &Progress {
        let canary = self.state.canary.as_ref().unwrap();
        canary.progress.as_ref().unwrap()
    }
}

#[test]
fn the_first_version_gets_everything_once_it_is_ready_and_not_before() {
    let mut world = World {
        spec: spec("1"),
        state: State::default(),
        memory: None,
        health: BTreeMap::new(),
        commands: Commands::default(),
        stable_rate: None,
        stable_before: None,
        refused: Vec::new(),
        attentive_since: Timestamp::UNIX_EPOCH,
        now: Timestamp::UNIX_EPOCH,
    };
    assert_eq!(world.look(None), [reasons::FIRST_VERSION]);
    let one = |endpoints| VersionHealth {
        ready: 1,
        endpoints,
        ..ready()
    };
    world.set_health("1", one(0));
    assert!(world.look(None).is_empty(), "no router can reach it");
    assert_eq!(world.state.phase, Phase::Pending);
    world.set_health("1", one(1));
    assert_eq!(world.look(None), [reasons::PROMOTED], "one pod serves");
    let message = &world.state.message;
    assert!(message.contains("with 1 of 2 pods"), "{message}");
    assert_eq!(world.state.phase, Phase::Stable);
    assert!(
        world.look(None).is_empty(),
        "a model at rest decides nothing"
    );
}

#[test]
fn a_good_version_goes_through_every_step_and_the_old_one_stays_warm() {
    let mut world = World::with_canary_v2();
    assert_eq!(world.serve(4, (100, 0), (900, 0)), [reasons::STEP_ADVANCED]);
    assert_eq!(world.weight(), 50);
    assert_eq!(world.serve(4, (500, 0), (500, 0)), [reasons::STEP_ADVANCED]);
    assert_eq!(world.weight(), 100);
    assert_eq!(world.serve(4, (1000, 0), (0, 0)), [reasons::PROMOTED]);
    assert_eq!((world.state.phase, world.stable()), (Phase::Promoting, "2"));
    assert_eq!(world.state.retiring.len(), 1, "version 1 keeps its pods");
    world.pass(601);
    world.look(None);
    assert_eq!(
        (world.state.phase, world.state.retiring.len()),
        (Phase::Stable, 0)
    );
}

#[test]
fn a_step_lasts_its_time_however_good_the_evidence_is() {
    let mut world = World::with_canary_v2();
    assert!(world.serve(3, (10_000, 0), (90_000, 0)).is_empty());
    assert_eq!(world.weight(), 10);
}

#[test]
fn a_bad_version_loses_all_weight_and_is_not_tried_again_without_a_token() {
    let mut world = World::with_canary_v2();
    assert_eq!(world.serve(1, (30, 30), (270, 0)), [reasons::ROLLED_BACK]);
    assert_eq!(
        (world.state.phase, world.weight(), world.stable()),
        (Phase::RollingBack, 0, "1")
    );
    assert_eq!(world.state.refused[0].version, "2");
    world.pass(60);
    world.look(None);
    assert_eq!(world.state.phase, Phase::Stable);

    // Something else, then the same again: refused, and recorded once.
    world.spec = spec("1");
    world.look(None);
    world.spec = spec("2");
    let recorded: Vec<_> = (0..3).flat_map(|_| world.look(None)).collect();
    assert!(recorded.len() <= 1, "{recorded:?}");
    assert!(world.state.canary.is_none());
    assert!(
        world.state.message.contains("retryToken"),
        "{}",
        world.state.message
    );

    world.spec.rollout.retry_token = Some("again".to_owned());
    assert_eq!(world.look(None), [reasons::PREPARING]);
}

#[test]
fn a_version_that_cannot_run_is_rolled_back_whatever_the_metrics_say() {
    let mut world = World::with_canary_v2();
    world.set_health(
        "2",
        VersionHealth {
            failure: Some(PodProblem::Text("pod x is in CrashLoopBackOff".to_owned())),
            ..ready()
        },
    );
    world.pass(15);
    assert_eq!(world.look(Some(blind())), [reasons::ROLLED_BACK]);
    assert_eq!(world.weight(), 0);
}

#[test]
fn a_version_that_is_not_ready_in_time_is_rolled_back() {
    let mut world = World::with_stable_v1();
    world.spec = spec("2");
    world.look(None);
    world.set_health("2", silent());
    world.pass(899);
    assert!(world.look(None).is_empty());
    world.pass(1);
    assert_eq!(world.look(None), [reasons::ROLLED_BACK]);
}

#[test]
fn a_canary_whose_pods_die_waits_for_them_a_minute() {
    let mut world = World::with_canary_v2();
    world.set_health("2", silent());
    assert!(world.serve(4, (0, 0), (900, 0)).is_empty());
    assert_eq!(world.serve(1, (0, 0), (900, 0)), [reasons::ROLLED_BACK]);
}

#[test]
fn a_canary_whose_pods_come_back_begins_its_step_anew() {
    let mut world = World::with_canary_v2();
    world.serve(2, (100, 0), (900, 0));
    world.set_health("2", silent());
    assert!(world.serve(3, (0, 0), (1000, 0)).is_empty());
    world.set_ready("2");
    assert!(
        world.serve(4, (100, 0), (900, 0)).is_empty(),
        "neither a step nor a distrust of the counts"
    );
    assert_eq!(world.serve(1, (100, 0), (900, 0)), [reasons::STEP_ADVANCED]);
}

#[test]
fn a_look_between_two_scrapes_says_nothing_new() {
    let mut world = World::with_canary_v2();
    world.pass(20);
    let scrape = world.now - SignedDuration::from_secs(2);
    world.look(Some(scraped(scrape, (50, 0), (450, 0))));
    let before = world.state.clone();
    let message = &before.message;
    assert!(message.contains("at this traffic"), "{message}");
    for _ in 0..10 {
        world.pass(1);
        world.look(Some(scraped(scrape, (0, 0), (0, 0))));
        assert_eq!(world.state, before);
    }
}

#[test]
fn pods_that_only_a_cache_speaks_against_end_no_trial() {
    let away = Some("cannot read the Deployment: no answer within 3 s".to_owned());
    let unready = silent();
    let crashing = VersionHealth {
        failure: Some(PodProblem::Text(
            "pod churn-1 is in CrashLoopBackOff".to_owned(),
        )),
        ..ready()
    };
    let mut starting = World::with_stable_v1();
    starting.spec = spec("2");
    starting.look(None);
    for (mut world, health, seen, patience) in [
        (starting.clone(), unready.clone(), None, 900),
        (starting, crashing.clone(), None, 0),
        (
            World::with_canary_v2(),
            unready,
            Some(reading((0, 0), (0, 0))),
            60,
        ),
        (
            World::with_canary_v2(),
            crashing,
            Some(reading((0, 0), (0, 0))),
            0,
        ),
    ] {
        let convicted = |world: &World| {
            let snapshot = world.snapshot(None);
            failing_version(&world.spec, &snapshot, world.now).cloned()
        };
        world.set_health("2", health.clone());
        if patience > 0 {
            assert_eq!(convicted(&world), None, "it still has time");
            world.look(seen.clone());
            world.pass(patience);
        }
        assert_eq!(
            convicted(&world),
            Some(world.snapshot(None).desired.revision)
        );
        let doubted = VersionHealth {
            unconfirmed: away.clone(),
            ..health.clone()
        };
        world.set_health("2", doubted);
        assert!(world.look(seen.clone()).is_empty());
        assert!(
            world.state.message.contains("no answer within 3 s"),
            "{}",
            world.state.message
        );
        world.set_health("2", health);
        assert_eq!(world.look(seen), [reasons::ROLLED_BACK], "confirmed");
    }
}

#[test]
fn evidence_against_a_version_waits_for_no_word_on_its_pods() {
    let mut world = World::with_canary_v2();
    world.pass(15);
    world.set_health(
        "2",
        VersionHealth {
            failure: Some(PodProblem::Text(
                "pod churn-1 is in CrashLoopBackOff".to_owned(),
            )),
            unconfirmed: Some("cannot read the pods".to_owned()),
            ..ready()
        },
    );
    let failing = reading((100, 100), (900, 0));
    assert_eq!(world.look(Some(failing)), [reasons::ROLLED_BACK]);
}

#[test]
fn nothing_moves_without_metrics_and_the_outage_is_no_baking_time() {
    let mut world = World::with_canary_v2();
    world.serve(2, (300, 0), (2700, 0));
    world.pass(15);
    assert_eq!(world.look(Some(blind())), [reasons::METRICS_OUTAGE]);
    for _ in 0..20 {
        world.pass(15);
        assert!(world.look(Some(blind())).is_empty());
        assert_eq!(world.weight(), 10);
    }
    assert_eq!(
        world.serve(1, (3000, 0), (27_000, 0)),
        [reasons::METRICS_BACK]
    );
    assert_eq!(
        world.weight(),
        10,
        "45 s until the outage was seen, and none of its 315 s, are baked"
    );
    assert_eq!(
        world.serve(1, (300, 0), (2700, 0)),
        [reasons::STEP_ADVANCED]
    );
}

#[test]
fn an_outage_beyond_its_hold_does_what_the_policy_says() {
    for (then, action) in [("Rollback", Some(reasons::ROLLED_BACK)), ("Hold", None)] {
        let mut world = World::with_canary_v2();
        world.spec.rollout.on_metrics_outage =
            serde_json::from_value(json!({"hold": "1m", "then": then})).unwrap();
        let mut actions = Vec::new();
        for _ in 0..10 {
            world.pass(15);
            actions.extend(world.look(Some(blind())));
        }
        assert_eq!(
            actions.first().map(String::as_str),
            Some(reasons::METRICS_OUTAGE)
        );
        assert_eq!(actions.get(1).map(String::as_str), action, "{then}");
        assert_eq!(world.weight(), if then == "Hold" { 10 } else { 0 });
    }
}

#[test]
fn the_spec_back_at_stable_takes_the_weight_away_at_once_and_refuses_nothing() {
    let mut world = World::with_canary_v2();
    world.spec = spec("1");
    assert_eq!(world.look(Some(blind())), [reasons::SUPERSEDED]);
    assert_eq!((world.weight(), world.state.refused.len()), (0, 0));
}

#[test]
fn a_newer_version_starts_after_traffic_is_back_on_stable() {
    let mut world = World::with_canary_v2();
    world.spec = spec("3");
    assert_eq!(world.look(None), [reasons::SUPERSEDED]);
    assert_eq!(world.weight(), 0);
    assert_eq!(world.look(None), [reasons::PREPARING]);
    assert_eq!(world.state.canary.as_ref().unwrap().version, "3");
    assert_eq!(world.stable(), "1");
}

#[test]
fn paused_holds_the_weight_and_a_breach_still_rolls_back() {
    let mut world = World::with_canary_v2();
    world.spec.rollout.paused = true;
    assert_eq!(world.serve(8, (100, 0), (900, 0)), [reasons::PAUSED]);
    assert_eq!(world.weight(), 10);
    assert_eq!(world.serve(1, (30, 30), (270, 0)), [reasons::ROLLED_BACK]);
}

#[test]
fn a_share_of_requests_far_from_the_weight_is_not_believed() {
    let mut world = World::with_canary_v2();
    assert_eq!(
        world.serve(1, (500, 0), (500, 0)),
        [reasons::METRICS_OUTAGE]
    );
}

#[test]
fn stables_requests_from_before_a_step_are_no_reason_to_doubt_its_counts() {
    let mut world = World::with_canary_v2();
    assert!(world.serve(1, (5, 0), (196, 0)).is_empty());
    assert_eq!(world.serve(1, (5, 0), (196, 0)), [reasons::METRICS_OUTAGE]);
}

#[test]
fn without_enough_evidence_the_policy_applies() {
    for (then, action, weight) in [
        ("Hold", reasons::INSUFFICIENT_DATA, 10),
        ("AwaitApproval", reasons::AWAITING_APPROVAL, 10),
        ("Advance", reasons::STEP_ADVANCED, 50),
        ("Rollback", reasons::ROLLED_BACK, 0),
    ] {
        let mut world = World::with_canary_v2();
        world.spec.rollout.on_insufficient_data =
            serde_json::from_value(json!({"after": "5m", "then": then})).unwrap();
        assert_eq!(world.serve(20, (0, 0), (1, 0)), [action]);
        assert_eq!(world.weight(), weight);
    }
}

#[test]
fn steps_edited_in_mid_rollout_never_raise_the_weight() {
    let mut world = World::with_canary_v2();
    world.serve(4, (100, 0), (900, 0));
    assert_eq!(world.weight(), 50);
    let steps = |weights: &[u8]| {
        weights
            .iter()
            .map(|weight| json!({"weight": weight}))
            .collect::<Vec<_>>()
    };
    world.spec.rollout.steps = serde_json::from_value(json!(steps(&[20, 100]))).unwrap();
    world.serve(1, (100, 0), (900, 0));
    assert_eq!(world.weight(), 20);
    world.spec.rollout.steps = serde_json::from_value(json!(steps(&[40, 100]))).unwrap();
    world.serve(1, (100, 0), (900, 0));
    assert_eq!((world.weight(), world.state.phase), (0, Phase::Preparing));
}
