//! Commands and settings of people: when each has its effect, and when it has none.

use super::*;
use crate::{
    api::{OnFailure, Pause, StartAt, commands::Command},
    rollout::Decision,
};

pub(super) const BY: &str = "ada@example.com";

impl World {
    /// A person sets an annotation.
    pub(super) fn say(&mut self, command: Command) {
        self.commands.by = Some(BY.to_owned());
        self.commands.asked.push(command);
    }

    pub(super) fn revision(version: &str) -> Revision {
        VersionSpec::of(&spec(version)).revision()
    }

    /// Who is named by the last record of this action.
    pub(super) fn by(&self, action: &str) -> Option<&str> {
        let mut records = self.state.decisions.iter().rev();
        records
            .find(|record| record.action == action)?
            .by
            .as_deref()
    }

    pub(super) fn decision(&self, reading: Option<Result<Reading, BlindReason>>) -> Decision {
        decide(&self.spec, &self.snapshot(reading), self.now, INTERVAL)
    }
}

/// Version 2 at its first step, with a spec that was edited before it started.
pub(super) fn canary_v2(edit: impl Fn(&mut crate::api::Rollout)) -> World {
    let mut world = World::with_stable_v1();
    world.spec = spec("2");
    edit(&mut world.spec.rollout);
    world.look(None);
    world.set_ready("2");
    world.look(None);
    world
}

pub(super) fn good(weight: u64) -> ((u64, u64), (u64, u64)) {
    ((weight * 10, 0), (1000 - weight * 10, 0))
}

/// Four good looks: as long as a step lasts here.
pub(super) fn serve_step(world: &mut World) -> Vec<String> {
    let (canary, stable) = good(world.weight().into());
    world.serve(4, canary, stable)
}

#[test]
fn a_skipped_step_is_left_at_once_and_only_that_step() {
    let mut world = canary_v2(|rollout| rollout.steps[0].pause = Some(Pause::default()));
    world.say(Command::Skip(World::revision("2"), 10));
    assert_eq!(world.serve(1, (1, 0), (9, 0)), [reasons::STEP_ADVANCED]);
    assert_eq!(
        (world.weight(), world.by(reasons::STEP_ADVANCED)),
        (50, Some(BY))
    );
    assert_eq!(
        world.serve(3, (5, 0), (5, 0)),
        [""; 0],
        "50 % needs its evidence"
    );
}

#[test]
fn no_step_is_skipped_against_the_evidence_or_without_any() {
    let skip = || Command::Skip(World::revision("2"), 10);
    let mut blind_world = World::with_canary_v2();
    blind_world.say(skip());
    blind_world.pass(15);
    assert_eq!(blind_world.look(Some(blind())), [reasons::METRICS_OUTAGE]);

    let mut suspect = World::with_canary_v2();
    // Far over the budget of 1 %, though hardly worse than stable: suspect, and no failure.
    suspect.serve(2, (40, 6), (360, 40));
    suspect.say(skip());
    assert_eq!(suspect.serve(1, (40, 6), (360, 40)), [""; 0]);

    let mut failing = canary_v2(|rollout| rollout.on_failure = OnFailure::Hold);
    assert_eq!(
        failing.serve(3, (100, 20), (900, 0)),
        [reasons::FAILURE_HELD]
    );
    failing.say(skip());
    failing.serve(1, (100, 0), (900, 0));

    let mut paused = World::with_canary_v2();
    paused.spec.rollout.paused = true;
    paused.say(skip());
    paused.serve(1, (100, 0), (900, 0));

    for world in [&blind_world, &suspect, &failing, &paused] {
        assert_eq!(world.weight(), 10);
        let message = &world.state.message;
        assert!(message.contains("not skipped"), "{message}");
    }
}

#[test]
fn promoted_in_full_it_serves_all_at_once_whatever_is_known_of_it() {
    let promote = || Command::PromoteFull(World::revision("2"));
    let word_of = |mut world: World, reading| {
        world.say(promote());
        world.pass(15);
        let actions = world.look(Some(reading));
        (world, actions)
    };
    let paused = canary_v2(|rollout| rollout.on_failure = OnFailure::Hold);
    for (world, reading) in [
        (World::with_canary_v2(), reading((1, 0), (9, 0))),
        (World::with_canary_v2(), blind()),
        (paused, reading((100, 20), (900, 0))),
    ] {
        let (mut world, actions) = word_of(world, reading);
        assert_eq!(actions.last().map(String::as_str), Some(reasons::PROMOTED));
        assert_eq!((world.stable(), world.weight()), ("2", 0));
        assert_eq!(world.by(reasons::PROMOTED), Some(BY));
        assert_eq!(world.state.retiring.len(), 1, "the way back stays warm");
        assert_eq!(world.look(None), [""; 0]);
    }
}

#[test]
fn promoted_in_full_it_still_needs_its_pods_and_gets_nothing_if_they_fail() {
    let mut world = World::with_canary_v2();
    world.say(Command::PromoteFull(World::revision("2")));
    let one = VersionHealth {
        ready: 1,
        endpoints: 1,
        ..ready()
    };
    world.set_health("2", one);
    assert_eq!(world.serve(1, (1, 0), (9, 0)), [""; 0]);
    assert_eq!(world.stable(), "1");
    // Half of the answers bad in one look is no matter of opinion.
    world.set_ready("2");
    assert_eq!(world.serve(1, (30, 30), (270, 0)), [reasons::ROLLED_BACK]);

    // While it is being prepared, it waits for its pods and then goes straight to all.
    let mut world = World::with_stable_v1();
    world.spec = spec("2");
    world.say(Command::PromoteFull(World::revision("2")));
    assert_eq!(world.look(None), [reasons::PREPARING]);
    assert_eq!(world.look(None), [""; 0]);
    world.set_ready("2");
    assert_eq!(world.look(None), [reasons::PROMOTED]);
    assert_eq!(world.stable(), "2");
}

#[test]
fn aborted_at_any_step_all_is_back_and_the_version_is_refused() {
    for steps in 0..4 {
        let mut world = if steps == 0 {
            let mut world = World::with_stable_v1();
            world.spec = spec("2");
            world.look(None);
            world
        } else {
            World::with_canary_v2()
        };
        for _ in 1..steps {
            serve_step(&mut world);
        }
        let weight = world.weight();
        world.say(Command::Abort(World::revision("2")));
        world.pass(15);
        assert_eq!(
            world.look(Some(blind())),
            [reasons::ABORTED],
            "at {weight} %"
        );
        assert_eq!((world.weight(), world.stable()), (0, "1"));
        assert_eq!(world.by(reasons::ABORTED), Some(BY));
        assert!(world.state.refused[0].reason.contains(BY));
        world.pass(60);
        assert_eq!(world.look(None), [""; 0], "recorded once");
        assert!(world.state.canary.is_none());
    }
}

#[test]
fn what_was_said_about_one_trial_means_nothing_to_the_next_of_the_same_version() {
    let mut world = World::with_canary_v2();
    world.say(Command::Abort(World::revision("2")));
    world.say(Command::Approve(World::revision("2"), 50));
    world.say(Command::PromoteFull(World::revision("2")));
    world.pass(15);
    assert_eq!(world.look(Some(blind())), [reasons::ABORTED]);

    // The annotations stand there still.
    world.spec.rollout.retry_token = Some("again".to_owned());
    world.pass(60);
    assert_eq!(world.look(None), [reasons::PREPARING]);
    assert_eq!(world.look(None), [reasons::CANARY_STARTED]);
    assert_eq!(world.serve(2, (100, 0), (900, 0)), [""; 0]);
    assert_eq!(world.weight(), 10);

    // Taken away and set again, they mean this trial.
    world.commands = Commands::default();
    world.serve(1, (100, 0), (900, 0));
    assert_eq!(world.state.handled_commands, [""; 0]);
    world.say(Command::Abort(World::revision("2")));
    assert_eq!(world.serve(1, (100, 0), (900, 0)), [reasons::ABORTED]);
}

#[test]
fn what_cannot_be_understood_is_said_and_asks_for_nothing() {
    let mut world = World::with_canary_v2();
    let wrong = [("serin.dev/abort".to_owned(), "yes please".to_owned())];
    world.commands = Commands::read(&wrong.into());
    assert_eq!(world.serve(1, (100, 0), (900, 0)), [""; 0]);
    assert_eq!(world.weight(), 10);
    assert!(world.state.invalid_annotations[0].contains("8 hex digits"));
    world.commands = Commands::default();
    world.serve(1, (100, 0), (900, 0));
    assert_eq!(world.state.invalid_annotations, [""; 0]);
}

#[test]
fn pausing_and_resuming_is_told_and_no_more_than_that() {
    let mut world = World::with_canary_v2();
    serve_step(&mut world);
    world.spec.rollout.paused = true;
    assert_eq!(serve_step(&mut world), [reasons::PAUSED]);
    assert_eq!(serve_step(&mut world), [""; 0]);
    assert_eq!(world.weight(), 50);
    world.spec.rollout.paused = false;
    assert_eq!(
        world.serve(1, (500, 0), (500, 0)),
        [reasons::RESUMED, reasons::STEP_ADVANCED]
    );
}

#[test]
fn a_paused_version_without_traffic_outlasts_its_deadline() {
    let mut world = World::with_stable_v1();
    world.spec = spec("2");
    world.spec.rollout.paused = true;
    world.look(None);
    world.set_health("2", silent());
    world.pass(1000);
    assert_eq!(world.look(None), [""; 0]);
    world.spec.rollout.paused = false;
    assert_eq!(world.look(None), [reasons::RESUMED, reasons::ROLLED_BACK]);
}

#[test]
fn at_all_traffic_it_is_watched_and_a_breach_still_rolls_back() {
    let watched = |rollout: &mut crate::api::Rollout| {
        rollout.bake_time = Duration::from_secs(600).into();
    };
    let mut world = canary_v2(watched);
    serve_step(&mut world);
    serve_step(&mut world);
    assert_eq!(world.weight(), 100);
    assert_eq!(world.serve(39, (1000, 0), (0, 0)), [""; 0]);
    assert_eq!(world.state.retiring, [], "version 1 has all its pods");
    assert_eq!(world.serve(1, (1000, 0), (0, 0)), [reasons::PROMOTED]);

    let mut world = canary_v2(watched);
    serve_step(&mut world);
    serve_step(&mut world);
    world.serve(20, (1000, 0), (0, 0));
    assert_eq!(world.serve(1, (1000, 900), (0, 0)), [reasons::ROLLED_BACK]);
    assert_eq!(world.stable(), "1");
}

#[test]
fn with_on_failure_pause_a_person_decides() {
    let pause = |rollout: &mut crate::api::Rollout| rollout.on_failure = OnFailure::Hold;
    let failing = || {
        let mut world = canary_v2(pause);
        let actions = world.serve(8, (100, 20), (900, 0));
        assert_eq!(actions, [reasons::FAILURE_HELD], "held, and recorded once");
        assert_eq!(world.weight(), 10);
        world
    };
    let mut world = failing();
    assert_eq!(world.serve(8, (100, 0), (900, 0)), [""; 0], "it stays so");
    world.say(Command::Abort(World::revision("2")));
    assert_eq!(world.serve(1, (100, 0), (900, 0)), [reasons::ABORTED]);

    let mut world = failing();
    world.say(Command::PromoteFull(World::revision("2")));
    assert_eq!(world.serve(1, (100, 0), (900, 0)), [reasons::PROMOTED]);

    // What no person has to judge does not wait for one.
    let mut world = canary_v2(pause);
    assert_eq!(world.serve(1, (100, 90), (900, 0)), [reasons::ROLLED_BACK]);
    let mut world = canary_v2(pause);
    let crashing = VersionHealth {
        failure: Some(PodProblem::Text("pod x is in CrashLoopBackOff".to_owned())),
        ..ready()
    };
    world.set_health("2", crashing);
    assert_eq!(world.serve(1, (0, 0), (900, 0)), [reasons::ROLLED_BACK]);
}

#[test]
fn no_weight_is_raised_while_stable_could_not_take_it_back() {
    let scaled_down = || VersionHealth {
        desired: 1,
        ready: 1,
        endpoints: 1,
        ..ready()
    };
    // Not the first weight.
    let mut world = World::with_stable_v1();
    world.spec = spec("2");
    world.look(None);
    world.set_ready("2");
    world.set_health("1", scaled_down());
    assert_eq!(world.look(None), [""; 0]);
    assert_eq!(world.weight(), 0);
    assert!(
        world.state.message.contains("take all traffic back"),
        "{}",
        world.state.message
    );
    world.set_ready("1");
    assert_eq!(world.look(None), [reasons::CANARY_STARTED]);

    // Not the next, not by a skip; and the way back lands on what is there.
    world.set_health("1", scaled_down());
    assert_eq!(serve_step(&mut world), [""; 0]);
    world.say(Command::Skip(World::revision("2"), 10));
    assert_eq!(world.serve(1, (100, 0), (900, 0)), [""; 0]);
    assert_eq!(world.weight(), 10);
    assert_eq!(world.serve(1, (100, 90), (900, 0)), [reasons::ROLLED_BACK]);
    assert_eq!(world.weight(), 0);
}

#[test]
fn an_adaptive_start_is_as_high_as_traffic_is_low() {
    let start = |rate: Option<f64>, weights: &[u8]| {
        let mut world = World::with_stable_v1();
        world.spec = spec("2");
        let steps: Vec<_> = weights
            .iter()
            .map(|weight| json!({"weight": weight, "minDuration": "5m"}))
            .collect();
        world.spec.rollout.steps = serde_json::from_value(json!(steps)).unwrap();
        world.spec.rollout.start_at = StartAt::ByTraffic;
        world.stable_rate = Some(rate.ok_or(BlindReason::Timeout {
            after: Duration::from_secs(5),
        }));
        world.look(None);
        world.set_ready("2");
        let decision = world.decision(None);
        let record = decision.records.last().unwrap();
        assert_eq!(record.action, reasons::CANARY_STARTED);
        let step = decision.next.canary.unwrap().progress.unwrap().step;
        assert_eq!(weights[step as usize], record.weight);
        (record.weight, record.sentence.clone())
    };
    // One gate: 25 % asks for 87 clean requests, 50 % for 175, 100 % for 351; five minutes have 300
    // s.
    let usual = [10, 25, 50, 100];
    assert_eq!(start(Some(2.91), &usual).0, 10);
    assert_eq!(start(Some(2.89), &usual).0, 25);
    assert_eq!(start(Some(2.34), &usual).0, 25);
    assert_eq!(start(Some(2.33), &usual).0, 50);
    assert_eq!(start(Some(0.0), &usual).0, 50, "never above half");
    assert_eq!(start(None, &usual).0, 10, "not measured");
    assert_eq!(start(Some(0.1), &[20, 40, 60, 100]).0, 40);
    let (_, sentence) = start(Some(2.86), &usual);
    assert!(
        sentence.contains("2.9 requests/s") && sentence.contains("175"),
        "{sentence}"
    );
}

#[test]
fn a_version_tried_again_says_so() {
    let mut world = World::with_canary_v2();
    world.serve(1, (30, 30), (270, 0));
    world.pass(60);
    world.look(None);
    world.spec.rollout.retry_token = Some("2".to_owned());
    let decision = world.decision(None);
    let sentence = &decision.records[0].sentence;
    assert!(sentence.contains("retryToken"), "{sentence}");
}

#[test]
fn a_retry_that_is_taken_back_ends() {
    let mut world = World::with_canary_v2();
    world.serve(1, (30, 30), (270, 0));
    world.pass(60);
    world.look(None);
    world.spec.rollout.retry_token = Some("again".to_owned());
    assert_eq!(world.look(None), [reasons::PREPARING]);
    assert_eq!(world.look(None), [reasons::CANARY_STARTED]);
    world.spec.rollout.retry_token = None;
    world.pass(15);
    assert_eq!(world.look(Some(blind())), [reasons::SUPERSEDED]);
    assert_eq!(world.look(None), [reasons::REFUSED]);
    assert_eq!(world.weight(), 0);
}
