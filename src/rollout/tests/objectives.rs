//! Objectives that are judged beside stable, by class or by a query; and those that cannot be
//! measured.

use super::*;
use crate::{evidence, observe::Unmeasurable};

/// Version 2 at its first step, held to these objectives.
fn canary_v2(objectives: serde_json::Value) -> World {
    let mut world = World::with_stable_v1();
    world.spec = spec("2");
    world.spec.objectives = serde_json::from_value(objectives).unwrap();
    world.look(None);
    world.set_ready("2");
    world.look(None);
    assert_eq!(world.weight(), 10);
    world
}

impl World {
    /// One look at several gates, 15 s after the last.
    fn look_at(&mut self, readings: Vec<Result<Reading, BlindReason>>) -> Vec<String> {
        self.pass(15);
        let mut snapshot = self.snapshot(None);
        snapshot.readings = readings;
        self.take(&snapshot)
    }

    /// One look before the first weight, at which these objectives cannot be measured.
    fn look_before(&mut self, unmeasurable: &[Unmeasurable]) -> Vec<String> {
        self.pass(15);
        let mut snapshot = self.snapshot(None);
        snapshot.unmeasurable = unmeasurable.to_vec();
        self.take(&snapshot)
    }

    #[allow(clippy::unnecessary_wraps)] // a reading is what it stands for
    fn value(&self, value: f64) -> Result<Reading, BlindReason> {
        Ok(Reading::Value(evidence::Value {
            value,
            at: self.now + SignedDuration::from_secs(15),
            query: "max(gpu_memory{namespace=\"ml\"})".to_owned(),
        }))
    }
}

#[allow(clippy::unnecessary_wraps)] // a reading is what it stands for
fn classes(canary: &[(&str, u64)], stable: &[(&str, u64)]) -> Result<Reading, BlindReason> {
    let counts = |counts: &[(&str, u64)]| -> BTreeMap<String, u64> {
        let owned = |(class, count): &(&str, u64)| ((*class).to_owned(), *count);
        counts.iter().map(owned).collect()
    };
    Ok(Reading::Classes(evidence::Classes {
        canary: counts(canary),
        stable: counts(stable),
        cursors: Cursors::starting_at(0),
        newest_sample: Timestamp::UNIX_EPOCH,
        query: String::new(),
        replayed: None,
        lost: None,
    }))
}

#[test]
fn a_version_as_bad_as_stable_goes_on_and_a_worse_one_is_rolled_back() {
    let objectives = json!([{"name": "beside-stable", "noWorseThanStable": {"errorRate": "2%"}}]);
    let mut world = canary_v2(objectives.clone());
    let mut looks = 0;
    while world.weight() == 10 && looks < 12 {
        world.serve(1, (100, 3), (900, 27));
        looks += 1;
    }
    assert_eq!(world.weight(), 50, "{}", world.state.message);

    let mut world = canary_v2(objectives);
    let actions = world.serve(12, (100, 15), (900, 27));
    assert_eq!(actions, [reasons::ROLLED_BACK]);
    let reason = &world.state.refused[0].reason;
    assert!(
        reason.contains("canary requests failed (15 %), stable"),
        "{reason}"
    );
    assert!(
        reason.contains("worse by more than 2 percentage points"),
        "{reason}"
    );
}

#[test]
fn a_query_beyond_its_limit_for_three_scrapes_rolls_back_or_waits_for_a_person() {
    let query =
        |then: &str| json!([{"name": "memory", "query": {"promql": "x", "max": 3, "then": then}}]);
    let mut world = canary_v2(query("Rollback"));
    for expected in [&[][..], &[], &[reasons::ROLLED_BACK]] {
        let reading = world.value(4.5);
        assert_eq!(world.look_at(vec![reading]), expected);
    }
    let reason = &world.state.refused[0].reason;
    assert!(
        reason.contains("The value is 4.5, expected at most 3, for 3 scrapes in a row."),
        "{reason}"
    );

    let mut world = canary_v2(query("Hold"));
    for expected in [&[][..], &[], &[reasons::FAILURE_HELD], &[]] {
        let reading = world.value(4.5);
        assert_eq!(world.look_at(vec![reading]), expected);
    }
    // It recovers, and still it is a person who decides.
    for _ in 0..20 {
        let reading = world.value(1.0);
        assert!(world.look_at(vec![reading]).is_empty());
    }
    assert_eq!(world.weight(), 10);
    assert!(
        world.state.message.contains("`then` is Hold"),
        "{}",
        world.state.message
    );
}

#[test]
fn a_query_within_its_limits_advances_and_one_without_a_value_never_does() {
    let objectives = json!([{"name": "memory", "query": {"promql": "x", "max": 3}}]);
    let mut world = canary_v2(objectives.clone());
    let mut actions = Vec::new();
    for _ in 0..4 {
        let reading = world.value(3.0);
        actions.extend(world.look_at(vec![reading]));
    }
    assert_eq!(actions, [reasons::STEP_ADVANCED]);

    let mut world = canary_v2(objectives);
    for _ in 0..39 {
        world.look_at(vec![Err(BlindReason::QueryGaveNothing)]);
        assert_eq!(world.weight(), 10);
    }
    assert!(
        world.state.message.contains("the query gave no value"),
        "{}",
        world.state.message
    );
}

#[test]
fn predictions_that_drift_wait_for_a_person() {
    let mut world = canary_v2(json!([{"name": "drift", "predictionDrift": {}}]));
    let mut actions = Vec::new();
    for _ in 0..8 {
        let drifted = classes(
            &[("fraud", 40), ("none", 60)],
            &[("fraud", 90), ("none", 810)],
        );
        actions.extend(world.look_at(vec![drifted]));
    }
    assert_eq!(actions, [reasons::FAILURE_HELD]);
    assert!(
        world
            .state
            .message
            .starts_with("The predictions drifted: class \"fraud\" is 40 %"),
        "{}",
        world.state.message
    );
    assert_eq!(world.weight(), 10);
}

#[test]
fn a_metric_that_is_not_there_does_not_look_like_a_model_that_nobody_asks() {
    let mut world = canary_v2(json!([
        {"name": "errors", "errorRate": {"max": "1%"}},
        {"name": "latency", "latency": {"quantile": 0.99, "max": "250ms"}},
    ]));
    let nothing = || reading((0, 0), (0, 0));
    assert!(
        world.look_at(vec![nothing(), nothing()]).is_empty(),
        "no requests"
    );
    let actions = world.look_at(vec![reading((30, 0), (270, 0)), nothing()]);
    assert_eq!(actions, [reasons::METRICS_OUTAGE]);
    let message = &world.state.message;
    assert!(
        message.contains("latency: nothing was counted, while errors counted 300 requests"),
        "{message}"
    );
}

#[test]
fn what_cannot_be_measured_is_told_before_any_traffic_moves() {
    let missing = Unmeasurable {
        objective: "errors".to_owned(),
        reason: BlindReason::NothingCounted {
            metric: "answers_total".to_owned(),
            within: Duration::from_secs(600),
        },
    };
    let below = Unmeasurable {
        objective: "latency".to_owned(),
        reason: BlindReason::NoBucketEdge {
            metric: "seconds_bucket".to_owned(),
            max: Duration::from_millis(3),
            smallest: Some(Duration::from_millis(5)),
        },
    };
    let mut world = World::with_stable_v1();
    world.spec = spec("2");
    world.look(None);
    // While its pods start, both are said.
    world.look_before(&[missing.clone(), below.clone()]);
    let message = &world.state.message;
    assert!(
        message.contains("errors: answers_total counted nothing"),
        "{message}"
    );
    assert!(message.contains("the smallest is 5ms"), "{message}");

    // What no waiting changes keeps the version from traffic, and is recorded once.
    world.set_ready("2");
    let both = [missing.clone(), below];
    assert_eq!(world.look_before(&both), [reasons::NOT_MEASURABLE]);
    for _ in 0..200 {
        assert!(world.look_before(&both).is_empty());
    }
    assert_eq!((world.weight(), world.stable()), (0, "1"));
    let message = &world.state.message;
    assert!(
        message.contains("raise the objective, or add a bucket at it"),
        "{message}"
    );

    // Once repaired, it starts; what traffic itself may bring about is said with it.
    assert_eq!(world.look_before(&[missing]), [reasons::CANARY_STARTED]);
    assert_eq!(world.weight(), 10);
    let message = &world.state.message;
    assert!(
        message.contains("Not everything can be measured yet. errors: answers_total"),
        "{message}"
    );
}

#[test]
fn an_outage_of_prometheus_keeps_nobody_from_starting() {
    let mut world = World::with_stable_v1();
    world.spec = spec("2");
    world.look(None);
    world.set_ready("2");
    let outage = Unmeasurable {
        objective: "errors".to_owned(),
        reason: BlindReason::Timeout {
            after: Duration::from_secs(5),
        },
    };
    assert_eq!(world.look_before(&[outage]), [reasons::CANARY_STARTED]);
}

#[test]
fn an_age_is_that_of_the_first_look_and_another_reason_is_said() {
    let mut world = World::with_canary_v2();
    let stale = |age| -> Result<Reading, BlindReason> {
        Err(BlindReason::Stale {
            side: evidence::Side::Canary,
            age: Duration::from_secs(age),
            limit: Duration::from_secs(45),
        })
    };
    let said = |world: &mut World, reading| {
        world.pass(15);
        world.look(Some(reading));
        let unmeasured = world.state.unmeasured.first();
        let reason = unmeasured.map(|it| it.reason.clone());
        (world.state.message.clone(), reason)
    };
    let first = said(&mut world, stale(48));
    assert!(first.0.contains("last scraped 48s ago"), "{}", first.0);
    assert_eq!(first.1.as_deref(), Some("CanaryStale"));
    assert_eq!(said(&mut world, stale(63)), first);
    let other = said(&mut world, blind());
    assert!(other.0.contains("did not answer within 5s"), "{}", other.0);
    assert_eq!(other.1.as_deref(), Some("Timeout"));
    let stale_again = said(&mut world, stale(93));
    assert!(stale_again.0.contains("last scraped 93s ago"));
    let back = said(&mut world, reading((10, 0), (90, 0)));
    assert_eq!(back.1, None);
}

#[test]
fn an_objective_that_measures_something_else_counts_anew_and_another_limit_keeps_its_counts() {
    let latency = |quantile: f64, max: &str| -> serde_json::Value {
        json!([{"name": "slow", "latency": {"quantile": quantile, "max": max}}])
    };
    let mut world = canary_v2(latency(0.99, "250ms"));
    world.look_at(vec![reading((10, 0), (90, 0))]);
    world.look_at(vec![reading((10, 0), (90, 0))]);
    let counted = |world: &World| {
        let canary = world.state.canary.as_ref().unwrap();
        let gate = &canary.progress.as_ref().unwrap().gates[0];
        assert_eq!(gate.objective, "slow");
        gate.rollout.as_ref().unwrap().requests()
    };
    let before = counted(&world);
    assert!(before >= 100, "{before}");
    world.spec.objectives = serde_json::from_value(latency(0.99, "300ms")).unwrap();
    world.look_at(vec![reading((10, 0), (90, 0))]);
    assert_eq!(counted(&world), before + 100);
    world.spec.objectives = serde_json::from_value(latency(0.9, "300ms")).unwrap();
    world.look_at(vec![reading((10, 0), (90, 0))]);
    assert_eq!(counted(&world), 100);
}

#[test]
fn each_source_must_show_the_canarys_share_and_the_one_that_does_not_is_named() {
    let objectives = json!([
        {"name": "errors", "errorRate": {"max": "1%"}},
        {"name": "in-mesh", "errorRate": {"max": "1%"}, "source": "Istio"},
    ]);
    let right = || reading((30, 0), (270, 0));
    let mut world = canary_v2(objectives.clone());
    world.look_at(vec![right(), right()]);
    assert!(!world.state.message.contains("cannot be trusted"));

    let mut world = canary_v2(objectives);
    let actions = world.look_at(vec![right(), reading((200, 0), (100, 0))]);
    assert_eq!(actions, [reasons::METRICS_OUTAGE]);
    let message = &world.state.message;
    assert!(
        message.contains("in-mesh: the canary answered 66.7 % of 300 requests"),
        "{message}"
    );
}

#[test]
fn an_objective_that_names_another_source_counts_anew() {
    let by = |source: &str| -> serde_json::Value {
        json!([{"name": "errors", "errorRate": {"max": "1%"}, "source": source}])
    };
    let mut world = canary_v2(by("Istio"));
    world.look_at(vec![reading((10, 0), (90, 0))]);
    world.look_at(vec![reading((10, 0), (90, 0))]);
    world.spec.objectives = serde_json::from_value(by("Linkerd")).unwrap();
    world.look_at(vec![reading((10, 0), (90, 0))]);
    let canary = world.state.canary.as_ref().unwrap();
    let gate = &canary.progress.as_ref().unwrap().gates[0];
    assert_eq!(gate.measures, "errorRate by Linkerd");
    assert_eq!(gate.rollout.as_ref().unwrap().requests(), 100);
}
