//! What gates remember is no part of the state: it may be older than the state, or lost.

use super::*;
use crate::evidence::Observation;

fn at_25() -> World {
    let mut world = World::with_stable_v1();
    world.spec = spec("2");
    world.spec.rollout.steps = serde_json::from_value(json!([
        {"weight": 10, "minDuration": "60s"}, {"weight": 25, "minDuration": "600s"},
        {"weight": 100, "minDuration": "60s"},
    ]))
    .unwrap();
    world.look(None);
    world.set_ready("2");
    world.look(None);
    assert_eq!(world.weight(), 10);
    world.serve(4, (400, 0), (3600, 0));
    assert_eq!(world.weight(), 25);
    world
}

fn counts(world: &World) -> (u64, u64) {
    let evidence = &world.gates()[0].evidence;
    let requests = |counts: Option<&Observation>| counts.map_or(0, |it| it.canary.requests);
    (requests(evidence.step()), requests(evidence.rollout()))
}

#[test]
fn a_lost_memory_counts_the_step_again_from_its_beginning() {
    let mut world = at_25();
    world.serve(2, (100, 0), (300, 0));
    assert_eq!(counts(&world), (200, 1800));
    let began = world.progress().step_since;
    world.memory = None;
    world.look(Some(blind()));
    assert_eq!(counts(&world), (0, 0));
    assert_eq!(
        world.gates()[0].cursors,
        Cursors::starting_at(began.as_millisecond())
    );
    assert_eq!(world.weight(), 25);
    // What the query then brings is judged as if nothing had been lost.
    world.pass(15);
    assert_eq!(
        world.look(Some(reading((300, 300), (900, 0)))),
        [reasons::METRICS_BACK, reasons::ROLLED_BACK][1..]
    );
}

#[test]
fn a_memory_from_before_the_step_begins_the_step_and_keeps_the_rollout() {
    let mut world = World::with_canary_v2();
    world.serve(3, (100, 0), (900, 0));
    let before = world.memory.clone();
    assert_eq!(counts(&world), (300, 300));
    assert_eq!(world.serve(1, (100, 0), (900, 0)), [reasons::STEP_ADVANCED]);
    // The status was written, the memory was not.
    world.memory = before;
    world.serve(1, (50, 0), (450, 0));
    assert_eq!(counts(&world), (50, 350));
}

#[test]
fn a_memory_of_another_trial_is_not_used() {
    for spoil in [
        (|memory: &mut TrialMemory| memory.revision = Revision("0".repeat(8))) as fn(&mut _),
        |memory: &mut TrialMemory| memory.since += SignedDuration::from_secs(1),
    ] {
        let mut world = World::with_canary_v2();
        world.serve(2, (100, 0), (900, 0));
        spoil(world.memory.as_mut().unwrap());
        world.serve(1, (10, 0), (90, 0));
        assert_eq!(counts(&world), (10, 10));
    }
}

#[test]
fn no_memory_outlives_its_trial() {
    let mut world = World::with_canary_v2();
    assert_eq!(world.serve(1, (30, 30), (270, 0)), [reasons::ROLLED_BACK]);
    assert_eq!(world.memory, None);
}
