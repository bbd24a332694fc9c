//! `spec.replicas` is 0.

use super::*;

fn gone() -> VersionHealth {
    VersionHealth {
        desired: 0,
        ready: 0,
        endpoints: 0,
        ..ready()
    }
}

/// Version 1 serves, and the spec asks for no pods.
fn asleep() -> World {
    let mut world = World::with_stable_v1();
    world.spec.replicas = 0;
    assert_eq!(world.look(None), [reasons::ASLEEP]);
    world
}

#[test]
fn a_model_falls_asleep_once_its_last_requests_are_answered() {
    let mut world = asleep();
    assert_eq!((world.state.phase, world.stable()), (Phase::Asleep, "1"));
    let one = World::revision("1");
    assert_eq!(
        world.state.with_pods(),
        [one.clone()].into(),
        "it has requests"
    );
    assert_eq!(world.state.replicas_floor, Some(2), "as many as there were");
    assert_eq!(world.look(None), [""; 0]);
    world.pass(60);
    world.look(None);
    assert_eq!(world.state.with_pods(), BTreeSet::new());
    assert_eq!(world.state.in_use(), [one].into(), "it is kept");
    assert_eq!(
        (world.state.phase, world.state.replicas_floor),
        (Phase::Asleep, None)
    );
    assert_eq!(world.look(None), [""; 0], "asleep, nothing is decided");
}

#[test]
fn the_stable_version_wakes_up_first() {
    let mut world = asleep();
    world.pass(60);
    world.look(None);
    world.set_health("1", gone());
    world.spec = spec("2");
    world.spec.replicas = 0;
    assert_eq!(world.look(None), [""; 0], "a new version waits");
    let message = &world.state.message;
    assert!(message.contains("Version 2 waits in the spec"), "{message}");

    world.spec.replicas = 2;
    assert_eq!(world.look(None), [reasons::WAKING]);
    assert_eq!(world.look(None), [""; 0]);
    assert_eq!((world.state.phase, world.stable()), (Phase::Waking, "1"));
    assert_eq!(world.state.with_pods(), [World::revision("1")].into());
    let one = VersionHealth {
        ready: 1,
        endpoints: 1,
        ..ready()
    };
    world.set_health("1", one);
    assert_eq!(
        world.look(None),
        [reasons::PREPARING],
        "it answers: now the new one"
    );

    // One that cannot start does not keep a repaired version from its trial.
    let mut world = asleep();
    world.set_health("1", gone());
    world.spec = spec("2");
    assert_eq!(world.look(None), [reasons::WAKING]);
    let broken = VersionHealth {
        failure: Some(PodProblem::Text("pod x is in CrashLoopBackOff".to_owned())),
        ..silent()
    };
    world.set_health("1", broken);
    assert_eq!(world.look(None), [reasons::PREPARING]);
}

#[test]
fn a_model_that_is_woken_up_at_once_keeps_its_pods() {
    let mut world = asleep();
    world.spec.replicas = 2;
    assert_eq!(world.look(None), [reasons::WAKING]);
    assert_eq!(world.state.retiring, []);
    assert_eq!(world.look(None), [""; 0]);
    assert_eq!(world.state.phase, Phase::Stable);
}

#[test]
fn a_trial_ends_without_blame_when_the_model_falls_asleep() {
    let mut world = World::with_canary_v2();
    world.spec.replicas = 0;
    assert_eq!(world.look(None), [reasons::SUPERSEDED, reasons::ASLEEP]);
    assert_eq!((world.state.phase, world.stable()), (Phase::Asleep, "1"));
    assert_eq!((world.weight(), world.state.refused.len()), (0, 0));
    world.spec.replicas = 2;
    let said: Vec<_> = (0..3).flat_map(|_| world.look(None)).collect();
    assert_eq!(
        said,
        [reasons::WAKING, reasons::PREPARING, reasons::CANARY_STARTED]
    );
}

#[test]
fn a_model_that_never_served_sleeps_too() {
    let mut world = asleep();
    world.state = State::default();
    assert_eq!(world.look(None), [reasons::ASLEEP]);
    assert_eq!(
        (world.state.phase, world.state.in_use().len()),
        (Phase::Asleep, 0)
    );
    assert_eq!(
        world.state.listener_port,
        Some(20_000),
        "its address answers"
    );
    world.spec.replicas = 1;
    assert_eq!(world.look(None), [reasons::WAKING, reasons::FIRST_VERSION]);
    assert_eq!(world.look(None), [reasons::PROMOTED]);
}
