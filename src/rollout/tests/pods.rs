//! Whose fault it is that pods do not serve: what is remembered against a version, and what is
//! tried again.

use super::*;

const NO_ROOM: &str = "the scheduler says: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.";

/// None of two pods is Ready, and the platform says why.
fn troubled() -> VersionHealth {
    VersionHealth {
        trouble: Some(PodProblem::Text(NO_ROOM.to_owned())),
        ..missing()
    }
}

/// None of two pods is Ready, and nothing says why.
fn missing() -> VersionHealth {
    VersionHealth {
        ready: 0,
        endpoints: 0,
        ..ready()
    }
}

/// Two pods run since then, and are not Ready.
fn running_since(since: Timestamp) -> VersionHealth {
    VersionHealth {
        unready: 2,
        unready_since: Some(since),
        ..missing()
    }
}

/// Version 2 is asked for, and its pods are like this.
fn preparing(health: VersionHealth) -> World {
    let mut world = World::with_stable_v1();
    world.spec = spec("2");
    world.look(None);
    world.set_health("2", health);
    world
}

/// How long a version waits until it is tried again, in minutes.
fn pause(world: &World) -> i64 {
    let postponed = world.state.postponed.as_ref().unwrap();
    postponed.retry_at.duration_since(world.now).as_mins()
}

/// Lets the deadline of a version without weight pass, and the pause after it.
fn fail_to_start(world: &mut World) -> i64 {
    world.pass(900);
    assert_eq!(world.look(None), [reasons::PLATFORM_TROUBLE]);
    let minutes = pause(world);
    world.pass(minutes * 60 - 1);
    assert_eq!(world.look(None), [""; 0]);
    world.pass(1);
    assert_eq!(world.look(None), [reasons::PREPARING]);
    minutes
}

#[test]
fn a_cluster_without_room_is_told_at_once_and_the_version_is_tried_again() {
    let mut world = preparing(troubled());
    world.look(None);
    let message = &world.state.message;
    assert!(
        message.contains("0 of 2 pods are Ready: the scheduler says: 0/3"),
        "{message}"
    );
    world.pass(899);
    assert_eq!(world.look(None), [""; 0]);
    world.pass(1);
    assert_eq!(world.look(None), [reasons::PLATFORM_TROUBLE]);
    assert_eq!(world.state.refused, []);
    assert_eq!((world.stable(), world.weight()), ("1", 0));
    assert_eq!(world.state.retiring.len(), 1, "its pods go");
    let message = &world.state.message;
    assert!(message.contains("Insufficient nvidia.com/gpu"), "{message}");
    assert!(
        message.contains("Nothing is held against version 2"),
        "{message}"
    );

    world.pass(59);
    assert_eq!(world.look(None), [""; 0]);
    let message = &world.state.message;
    assert!(message.contains("Insufficient nvidia.com/gpu"), "{message}");
    assert!(
        message.contains("tried again at 1970-01-01 00:16:00Z"),
        "{message}"
    );
    world.pass(1);
    assert_eq!(world.look(None), [reasons::PREPARING]);
    assert!(
        world.state.message.contains("again (attempt 2)"),
        "{}",
        world.state.message
    );
    world.set_ready("2");
    assert_eq!(world.look(None), [reasons::CANARY_STARTED]);
}

#[test]
fn each_further_trial_waits_twice_as_long_up_to_an_hour() {
    let mut world = preparing(troubled());
    let minutes: Vec<i64> = (0..8).map(|_| fail_to_start(&mut world)).collect();
    assert_eq!(minutes, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(world.state.refused, []);
}

#[test]
fn a_version_that_is_on_its_way_counts_its_attempts_anew_only_after_its_end() {
    // Another spec, or another token: at once, and from one minute on.
    let mut world = preparing(troubled());
    fail_to_start(&mut world);
    world.pass(900);
    world.look(None);
    world.spec.rollout.retry_token = Some("again".to_owned());
    assert_eq!(world.look(None), [reasons::PREPARING], "at once");
    assert_eq!(fail_to_start(&mut world), 1);

    let mut world = preparing(troubled());
    fail_to_start(&mut world);
    world.pass(900);
    world.look(None);
    world.spec = spec("3");
    assert_eq!(world.look(None), [reasons::PREPARING], "at once");
    world.spec = spec("2");
    assert_eq!(world.look(None), [reasons::SUPERSEDED]);
    assert_eq!(world.look(None), [reasons::PREPARING]);
    assert_eq!(fail_to_start(&mut world), 1);

    // Its end, one way or the other.
    for (bad, end) in [(0, reasons::PROMOTED), (90, reasons::ROLLED_BACK)] {
        let mut world = preparing(troubled());
        fail_to_start(&mut world);
        world.set_ready("2");
        world.look(None);
        assert_eq!(world.state.postponed.as_ref().unwrap().attempts, 1);
        let mut actions = world.serve(4, (100, bad), (900, 0));
        while world.state.canary.is_some() {
            actions.extend(world.serve(4, (500, 0), (500, 0)));
        }
        assert_eq!(actions.last().map(String::as_str), Some(end));
        assert_eq!(world.state.postponed, None);
    }
}

#[test]
fn a_pause_that_a_clock_began_which_was_ahead_is_over() {
    let mut world = preparing(troubled());
    world.pass(900);
    world.look(None);
    world.pass(-7200);
    world.attentive_since = world.now;
    assert_eq!(world.look(None), [reasons::PREPARING]);
}

#[test]
fn pods_that_nothing_is_known_of_are_not_held_against_a_version() {
    let mut world = preparing(missing());
    world.pass(900);
    assert_eq!(world.look(None), [reasons::PLATFORM_TROUBLE]);
    let message = &world.state.message;
    assert!(message.contains("they have not been started"), "{message}");
}

#[test]
fn pods_that_run_and_do_not_get_ready_are_the_versions_fault() {
    let mut world = preparing(running_since(Timestamp::UNIX_EPOCH));
    world.pass(900);
    assert_eq!(world.look(None), [reasons::ROLLED_BACK]);
    assert_eq!(
        (world.state.refused.len(), &world.state.postponed),
        (1, &None)
    );
}

#[test]
fn a_server_that_was_started_late_has_its_own_time() {
    let started = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(600);
    let mut world = preparing(running_since(started));
    world.pass(1499);
    assert_eq!(world.look(None), [""; 0], "899 s");
    world.pass(1);
    assert_eq!(world.look(None), [reasons::ROLLED_BACK]);

    // Pods that are replaced again and again do not hold it up for ever.
    let mut world = preparing(missing());
    for _ in 0..3 {
        world.pass(599);
        world.set_health("2", running_since(world.now));
        assert_eq!(world.look(None), [""; 0]);
    }
    world.pass(3);
    assert_eq!(world.look(None), [reasons::PLATFORM_TROUBLE]);
}

#[test]
fn a_canary_whose_node_is_drained_keeps_its_weight_until_its_pods_are_back() {
    let mut world = World::with_canary_v2();
    world.spec.rollout.on_metrics_outage =
        serde_json::from_value(json!({"hold": "1m", "then": "Rollback"})).unwrap();
    world.serve(2, (100, 0), (900, 0));
    world.set_health("2", troubled());
    for _ in 0..40 {
        world.pass(15);
        assert_eq!(
            world.look(Some(blind())),
            [""; 0],
            "no pods, no metrics, no outage"
        );
        assert_eq!(world.weight(), 10);
        let message = &world.state.message;
        assert!(
            message.contains("Holding at 10 %") && message.contains(NO_ROOM),
            "{message}"
        );
    }
    // The new pod starts, which takes longer than a minute.
    for _ in 0..10 {
        world.pass(15);
        let started = running_since(world.now - SignedDuration::from_secs(60));
        world.set_health("2", started);
        assert_eq!(world.look(Some(blind())), [""; 0]);
    }
    world.set_ready("2");
    assert_eq!(
        world.serve(4, (100, 0), (900, 0)),
        [""; 0],
        "the step begins anew"
    );
    assert_eq!(world.serve(1, (100, 0), (900, 0)), [reasons::STEP_ADVANCED]);
}

#[test]
fn a_canary_without_pods_beyond_the_deadline_is_tried_again() {
    let mut world = World::with_canary_v2();
    world.set_health("2", troubled());
    assert_eq!(world.serve(60, (0, 0), (900, 0)), [""; 0]);
    assert_eq!(
        world.serve(1, (0, 0), (900, 0)),
        [reasons::PLATFORM_TROUBLE]
    );
    assert_eq!((world.weight(), world.stable(), pause(&world)), (0, "1", 1));
    assert_eq!(world.state.refused, []);
    world.pass(60);
    assert_eq!(world.look(None), [reasons::PREPARING]);
    world.set_ready("2");
    assert_eq!(
        world.look(None),
        [reasons::CANARY_STARTED],
        "from the first step"
    );
}

#[test]
fn a_policy_on_missing_data_waits_for_pods_that_are_away() {
    let mut world = World::with_canary_v2();
    world.spec.rollout.on_insufficient_data =
        serde_json::from_value(json!({"after": "2m", "then": "Rollback"})).unwrap();
    world.set_health("2", troubled());
    assert_eq!(world.serve(40, (0, 0), (900, 0)), [""; 0]);
    assert_eq!(world.weight(), 10);
}

#[test]
fn a_canary_with_some_of_its_pods_says_what_the_others_lack() {
    let mut world = World::with_canary_v2();
    let half = VersionHealth {
        ready: 1,
        endpoints: 1,
        ..troubled()
    };
    world.set_health("2", half);
    world.serve(1, (100, 0), (900, 0));
    let message = &world.state.message;
    assert!(
        message.contains("1 of 2 pods are Ready: the scheduler"),
        "{message}"
    );
    assert_eq!(
        world.serve(8, (100, 0), (900, 0)),
        [""; 0],
        "no forward move"
    );
    let message = &world.state.message;
    assert!(message.contains("Holding at 10 %"), "{message}");
    assert_eq!(message.matches("the scheduler").count(), 1, "{message}");
}

#[test]
fn trouble_that_only_a_cache_speaks_of_ends_no_trial() {
    for (mut world, seen) in [
        (preparing(troubled()), None),
        (World::with_canary_v2(), Some(reading((0, 0), (0, 0)))),
    ] {
        let doubted = VersionHealth {
            unconfirmed: Some("no answer within 3 s".to_owned()),
            ..troubled()
        };
        world.set_health("2", doubted);
        world.look(seen.clone());
        world.pass(900);
        let snapshot = world.snapshot(None);
        assert!(failing_version(&world.spec, &snapshot, world.now).is_some());
        assert_eq!(world.look(seen.clone()), [""; 0]);
        assert!(world.state.message.contains("no answer within 3 s"));
        world.set_health("2", troubled());
        assert_eq!(world.look(seen), [reasons::PLATFORM_TROUBLE]);
    }
}

#[test]
fn forward_moves_need_as_many_pods_as_min_ready_says() {
    let one = VersionHealth {
        ready: 1,
        endpoints: 1,
        ..ready()
    };
    for (min_ready, goes_on) in [("50%", true), ("51%", false), ("1%", true), ("100%", false)] {
        let mut world = World::with_stable_v1();
        world.spec = spec("2");
        world.spec.rollout.min_ready = min_ready.parse().unwrap();
        world.look(None);
        for version in ["1", "2"] {
            world.set_health(version, one.clone());
        }
        let started = world.look(None) == [reasons::CANARY_STARTED];
        assert_eq!(started, goes_on, "{min_ready}");
        if !goes_on {
            // Stable needs as many for the way back.
            world.set_ready("2");
            assert_eq!(world.look(None), [""; 0]);
            assert!(world.state.message.contains("take all traffic back"));
            world.set_ready("1");
            world.look(None);
            world.set_health("2", one.clone());
        }
        let moved = world.serve(4, (100, 0), (900, 0)) == [reasons::STEP_ADVANCED];
        assert_eq!(moved, goes_on, "{min_ready}");
    }
    let needed = |replicas, share: &str| {
        let mut spec = spec("1");
        spec.replicas = replicas;
        spec.rollout.min_ready = share.parse().unwrap();
        spec.pods_needed()
    };
    assert_eq!(
        (needed(100, "7%"), needed(10, "91%"), needed(3, "0%")),
        (7, 10, 1)
    );
}

#[test]
fn metrics_that_are_away_end_no_trial_by_default() {
    let mut world = World::with_canary_v2();
    let mut actions = Vec::new();
    for _ in 0..400 {
        world.pass(15);
        actions.extend(world.look(Some(blind())));
    }
    assert_eq!(actions, [reasons::METRICS_OUTAGE]);
    assert_eq!(world.weight(), 10);
}

#[test]
fn no_version_is_asked_to_have_fewer_pods_while_a_rollout_is_under_way() {
    let mut world = World::with_stable_v1();
    assert_eq!(world.state.replicas_floor, None, "at rest");
    world.spec = spec("2");
    world.look(None);
    assert_eq!(world.state.replicas_floor, Some(2));
    world.set_ready("2");
    world.look(None);
    // An autoscaler goes up and down.
    for (replicas, floor) in [(5, 5), (1, 5), (7, 7), (2, 7)] {
        world.spec.replicas = replicas;
        world.serve(1, (0, 0), (9, 0));
        assert_eq!(world.state.replicas_floor, Some(floor));
    }
    world.spec.replicas = 1;
    assert_eq!(world.serve(1, (100, 90), (900, 0)), [reasons::ROLLED_BACK]);
    assert_eq!(
        world.state.replicas_floor,
        Some(7),
        "the old version still stands"
    );
    world.pass(61);
    world.look(None);
    assert_eq!(world.state.replicas_floor, None);
}

#[test]
fn a_lost_state_gives_the_version_in_force_all_traffic_and_leaves_it_its_pods() {
    for asked in ["1", "2"] {
        let mut world = World::with_canary_v2();
        world.spec = spec(asked);
        let stable = world.state.stable.take();
        world.state = State::default();
        let more = VersionHealth {
            desired: 4,
            ..ready()
        };
        world.set_health("1", more);
        let snapshot = Snapshot {
            in_force: stable,
            ..world.snapshot(None)
        };
        let decision = decide(&world.spec, &snapshot, world.now, INTERVAL);
        assert_eq!(decision.records[0].action, reasons::RESTORED);
        world.state = decision.next;
        assert_eq!((world.stable(), world.weight()), ("1", 0), "{asked}");
        assert_eq!(world.state.replicas_floor, Some(4), "an autoscaler's word");
    }
}

#[test]
fn a_status_of_the_release_before_is_read() {
    let old: State = serde_json::from_value(json!({
        "phase": "Canary",
        "stable": {"revision": "aaaaaaaa", "version": "1"},
        "canary": {
            "revision": "bbbbbbbb", "version": "2", "weight": 10, "since": "1970-01-01T00:00:00Z",
            "progress": {"step": 0, "stepSince": "1970-01-01T00:00:00Z", "gates": []},
        },
        "retiring": [], "listenerPort": 20000, "message": "",
    }))
    .unwrap();
    assert_eq!((old.postponed.as_ref(), old.replicas_floor), (None, None));
    let text = serde_json::to_string(&old).unwrap();
    assert!(
        !text.contains("postponed") && !text.contains("replicasFloor"),
        "{text}"
    );
}

#[test]
fn a_step_goes_on_while_an_autoscaler_asks_for_more_pods() {
    let mut world = World::with_canary_v2();
    world.serve(1, (100, 0), (900, 0));
    world.spec.replicas = 4;
    for version in ["1", "2"] {
        let unanswered = VersionHealth {
            desired: 4,
            unanswered: true,
            ..ready()
        };
        world.set_health(version, unanswered);
    }
    assert_eq!(world.serve(2, (100, 0), (900, 0)), [""; 0]);
    assert_eq!(world.weight(), 10);
    let more = VersionHealth {
        desired: 4,
        ready: 4,
        endpoints: 4,
        ..ready()
    };
    for version in ["1", "2"] {
        world.set_health(version, more.clone());
    }
    let moved = world.serve(1, (100, 0), (900, 0));
    assert_eq!(moved, [reasons::STEP_ADVANCED], "its minute counted on");
}
