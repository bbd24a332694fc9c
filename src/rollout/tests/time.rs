//! Time that no process has seen, and clocks that are set.

use super::*;

#[test]
fn no_patience_runs_out_while_nobody_looks() {
    let unready = silent();
    let mut starting = World::with_stable_v1();
    starting.spec = spec("2");
    starting.look(None);
    starting.set_health("2", unready.clone());
    let mut unready_with_weight = World::with_canary_v2();
    unready_with_weight.set_health("2", unready);
    unready_with_weight.look(Some(reading((0, 0), (0, 0))));
    let mut without_metrics = World::with_canary_v2();
    without_metrics.spec.rollout.on_metrics_outage =
        serde_json::from_value(json!({"hold": "10m", "then": "Rollback"})).unwrap();
    without_metrics.look(Some(blind()));
    for (mut world, seen, patience) in [
        (starting, None, 900),
        (unready_with_weight, Some(reading((0, 0), (0, 0))), 60),
        (without_metrics, Some(blind()), 600),
    ] {
        world.pass(1200);
        world.attentive_since = world.now;
        assert!(world.look(seen.clone()).is_empty(), "only just woken up");
        world.pass(patience - 1);
        assert!(world.look(seen.clone()).is_empty());
        world.pass(1);
        assert_eq!(world.look(seen), [reasons::ROLLED_BACK]);
    }
}

#[test]
fn what_is_noted_of_looks_stays_while_a_patience_runs_and_is_written_twice_a_minute_at_most() {
    let mut world = World::with_stable_v1();
    assert_eq!(world.state.observed_time, None, "at rest");
    world.spec = spec("2");
    world.attentive_since = world.now;
    world.look(None);
    let mut written = BTreeSet::new();
    for _ in 0..24 {
        world.pass(5);
        world.look(None);
        let attended = world.state.observed_time.unwrap();
        assert_eq!(attended.since, world.attentive_since);
        assert!(world.now.duration_since(attended.until).as_secs() < 30);
        written.insert(attended.until);
    }
    assert_eq!(written.len(), 5);
    world.set_ready("2");
    world.look(None);
    assert_eq!(world.weight(), 10);
    assert_eq!(world.state.observed_time, None, "nothing is waited for");
    world.look(Some(blind()));
    assert!(world.state.observed_time.is_some());
}

#[test]
fn counting_that_began_by_a_clock_that_was_ahead_begins_once_the_clocks_agree() {
    let mut world = World::with_stable_v1();
    world.spec = spec("2");
    world.look(None);
    world.set_ready("2");
    world.pass(3600);
    world.look(None);
    assert_eq!(world.weight(), 10);
    let ahead = world.gates()[0].cursors.newest();
    world.pass(-3600);
    world.look(Some(blind()));
    let counted = world.gates()[0].cursors.newest();
    assert_eq!(counted, ahead, "which clock is right is not known");
    world.look(Some(scraped(ahead, (0, 0), (0, 0))));
    assert_eq!(world.gates()[0].cursors.newest(), world.now);
}

#[test]
fn an_outage_that_was_noted_by_a_clock_that_was_behind_takes_no_more_than_the_step() {
    let mut world = World::with_canary_v2();
    let began = world.progress().step_since;
    world.pass(5 - 3600);
    world.look(Some(blind()));
    world.pass(3600 + 20);
    world.look(Some(reading((0, 0), (0, 0))));
    let lost = i128::from(world.progress().metrics_outage_ms);
    assert_eq!(lost, world.now.duration_since(began).as_millis());
    assert!(lost < 60_000, "{lost} ms");
}

#[test]
fn a_clock_that_is_set_back_in_an_outage_adds_nothing_to_the_step() {
    let mut world = World::with_canary_v2();
    world.serve(1, (100, 0), (900, 0));
    world.pass(5);
    world.look(Some(blind()));
    world.pass(-3600);
    assert_eq!(
        world.look(Some(reading((500, 0), (4500, 0)))),
        [reasons::METRICS_BACK]
    );
    world.pass(3600);
    assert!(
        world.serve(2, (100, 0), (900, 0)).is_empty(),
        "the step has lasted for 50 s"
    );
    assert_eq!(world.serve(1, (100, 0), (900, 0)), [reasons::STEP_ADVANCED]);
}

#[test]
fn a_version_keeps_its_pods_until_routers_had_time_to_come_back_to_an_operator_that_was_away() {
    let mut world = World::with_canary_v2();
    assert_eq!(world.serve(1, (30, 30), (270, 0)), [reasons::ROLLED_BACK]);
    world.pass(70);
    world.attentive_since = world.now; // killed before a router knew of it, and started again
    for _ in 0..10 {
        assert!(world.look(None).is_empty());
        assert_eq!(world.state.phase, Phase::RollingBack);
        assert_eq!(world.state.retiring.len(), 1);
        world.pass(1);
    }
    world.look(None);
    assert_eq!(
        (world.state.phase, world.state.retiring.len()),
        (Phase::Stable, 0)
    );
}
