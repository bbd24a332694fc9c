//! A version that was promoted before goes straight back to all traffic.

use super::*;
use crate::api::{RollbackWindow, commands::Command};

/// A change of the world before it is looked at.
type Edit = Box<dyn Fn(&mut World)>;

/// Version 2 was promoted a minute ago, and the spec asks for version 1 again.
fn back_to_v1() -> World {
    let mut world = World::with_canary_v2();
    world.serve(4, (100, 0), (900, 0));
    world.serve(4, (500, 0), (500, 0));
    assert_eq!(world.serve(4, (1000, 0), (0, 0)), [reasons::PROMOTED]);
    let promoted = world.now;
    assert_eq!(world.state.retiring[0].stable_until, Some(promoted));
    world.stable_before = Some(StableBefore {
        back: 1,
        until: promoted,
    });
    world.pass(60);
    world.spec = spec("1");
    world
}

#[test]
fn it_gets_all_traffic_as_soon_as_its_pods_are_ready() {
    let mut world = back_to_v1();
    let gone = VersionHealth {
        ready: 0,
        endpoints: 0,
        ..ready()
    };
    world.set_health("1", gone);
    assert_eq!(world.look(None), [reasons::FAST_ROLLBACK_STARTED]);
    assert_eq!((world.state.phase, world.stable()), (Phase::Preparing, "2"));
    assert_eq!(world.look(None), [""; 0], "it waits for its pods");
    // It waits for nothing else: nobody reads the evidence, and a pause holds only new versions.
    world.spec.rollout.paused = true;
    world.look(None);
    world.set_health("1", ready());
    world.set_health("2", silent());
    assert_eq!(world.look(None), [reasons::FAST_ROLLBACK]);
    assert_eq!((world.state.phase, world.stable()), (Phase::Promoting, "1"));
    let retiring = &world.state.retiring[0];
    assert_eq!(retiring.revision, World::revision("2"));
    let delay = retiring.scale_down_at.duration_since(world.now);
    assert_eq!(
        delay,
        SignedDuration::from_mins(10),
        "the way forward stays warm"
    );
    assert_eq!(world.look(None), [""; 0]);
}

#[test]
fn while_its_pods_are_still_there_the_second_look_ends_it() {
    let mut world = back_to_v1();
    let said = [world.look(None), world.look(None)].concat();
    assert_eq!(
        said,
        [reasons::FAST_ROLLBACK_STARTED, reasons::FAST_ROLLBACK]
    );
}

#[test]
fn any_other_version_takes_the_steps() {
    let week = SignedDuration::from_hours(168);
    let before = |back, ago| {
        move |world: &mut World| {
            let until = world.now - ago;
            world.stable_before = Some(StableBefore { back, until });
        }
    };
    let edits: [(&str, Edit); 5] = [
        (
            "it never was promoted",
            Box::new(|world: &mut World| world.stable_before = None),
        ),
        (
            "it is too many promotions back",
            Box::new(before(4, SignedDuration::ZERO)),
        ),
        (
            "it was stable too long ago",
            Box::new(before(1, week + SignedDuration::from_secs(1))),
        ),
        (
            "there is no window",
            Box::new(|world: &mut World| {
                world.spec.rollout.rollback_window = RollbackWindow {
                    revisions: 0,
                    ..RollbackWindow::default()
                };
            }),
        ),
        (
            "it was refused, and may be tried again",
            Box::new(|world: &mut World| {
                world.state.refused = serde_json::from_value(json!([{
                    "revision": World::revision("1"), "version": "1",
                    "at": "1970-01-01T00:00:00Z", "reason": "It failed.",
                }]))
                .unwrap();
                world.spec.rollout.retry_token = Some("again".to_owned());
            }),
        ),
    ];
    for (why, edit) in edits {
        let mut world = back_to_v1();
        edit(&mut world);
        assert_eq!(world.look(None), [reasons::PREPARING], "{why}");
        assert_eq!(world.look(None), [reasons::CANARY_STARTED], "{why}");
    }
    for edit in [before(3, SignedDuration::ZERO), before(1, week)] {
        let mut world = back_to_v1();
        edit(&mut world);
        assert_eq!(
            world.look(None),
            [reasons::FAST_ROLLBACK_STARTED],
            "just within"
        );
    }
}

#[test]
fn a_version_that_cannot_start_again_is_refused_and_one_is_not_that_a_person_stops() {
    let mut world = back_to_v1();
    world.look(None);
    let broken = VersionHealth {
        failure: Some(PodProblem::Text("pod x is in CrashLoopBackOff".to_owned())),
        ..silent()
    };
    world.set_health("1", broken);
    assert_eq!(world.look(None), [reasons::ROLLED_BACK]);
    assert_eq!(
        (world.stable(), world.state.refused[0].version.as_str()),
        ("2", "1")
    );

    // An abort refuses, as everywhere; the spec on the stable version again does not.
    let mut world = back_to_v1();
    world.look(None);
    world
        .commands
        .asked
        .push(Command::Abort(World::revision("1")));
    assert_eq!(world.look(None), [reasons::ABORTED]);
    let mut world = back_to_v1();
    world.look(None);
    world.spec = spec("2");
    assert_eq!(world.look(None), [reasons::SUPERSEDED]);
    assert_eq!(world.state.refused, []);
}
