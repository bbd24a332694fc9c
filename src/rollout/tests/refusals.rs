//! Objects that the API server refuses hold up moves forward, and nothing else.

use super::*;
use crate::{
    api::{CanaryVersion, commands::Command},
    rollout::{Unfit, withdraw_trial},
};

/// A Deployment of one version, or the model's own Service, that an admission webhook denies.
fn denied(version: Option<&str>) -> Refusal {
    Refusal {
        kind: if version.is_some() {
            "Deployment"
        } else {
            "Service"
        }
        .to_owned(),
        name: "iris".to_owned(),
        revision: version.map(|version| VersionSpec::of(&spec(version)).revision()),
        reason: reasons::ADMISSION_DENIED.to_owned(),
        words: "admission webhook \"w\" denied the request".to_owned(),
        transient: false,
    }
}

/// What the version on trial, the one in force and the model itself need.
const NEEDED: [Option<&str>; 3] = [Some("2"), Some("1"), None];

#[test]
fn the_first_version_waits_for_a_refused_object() {
    let mut world = World::with_stable_v1();
    world.state = State::default();
    world.look(None);
    for needed in [Some("1"), None] {
        world.refused = vec![denied(needed)];
        assert!(world.look(None).is_empty(), "{needed:?}");
        assert!(world.state.message.contains("has to be written first"));
    }
    world.refused.clear();
    assert_eq!(world.look(None), [reasons::PROMOTED]);
}

#[test]
fn no_weight_is_given_or_raised_while_a_needed_object_is_refused() {
    for needed in NEEDED {
        let mut world = World::with_stable_v1();
        world.spec = spec("2");
        world.look(None);
        world.set_ready("2");
        world.refused = vec![denied(needed)];
        assert!(world.look(None).is_empty(), "{needed:?}");
        assert_eq!(world.weight(), 0);
        world.refused.clear();
        assert_eq!(world.look(None), [reasons::CANARY_STARTED]);

        world.refused = vec![denied(needed)];
        assert!(world.serve(8, (100, 0), (900, 0)).is_empty(), "{needed:?}");
        assert!(world.state.message.contains("has to be written first"));
        world.refused.clear();
        assert_eq!(world.serve(1, (100, 0), (900, 0)), [reasons::STEP_ADVANCED]);

        world.serve(4, (500, 0), (500, 0));
        world.refused = vec![denied(needed)];
        assert!(world.serve(8, (1000, 0), (0, 0)).is_empty(), "{needed:?}");
        assert_eq!((world.weight(), world.stable()), (100, "1"));
        world.refused.clear();
        assert_eq!(world.serve(1, (1000, 0), (0, 0)), [reasons::PROMOTED]);
    }
}

#[test]
fn what_is_kept_of_an_older_version_holds_nothing_up() {
    let mut world = World::with_canary_v2();
    world.refused = vec![denied(Some("0.9"))];
    assert_eq!(world.serve(4, (100, 0), (900, 0)), [reasons::STEP_ADVANCED]);
}

#[test]
fn a_trial_ends_at_once_whatever_is_refused() {
    let revision = VersionSpec::of(&spec("2")).revision();
    for needed in NEEDED {
        let mut world = World::with_canary_v2();
        world.refused = vec![denied(needed)];
        let mut breaches = world.clone();
        assert_eq!(
            breaches.serve(1, (30, 30), (270, 0)),
            [reasons::ROLLED_BACK]
        );

        let mut aborted = world.clone();
        aborted.commands.asked = vec![Command::Abort(revision.clone())];
        assert_eq!(aborted.look(None), [reasons::ABORTED]);

        let mut reverted = world.clone();
        reverted.spec = spec("1");
        assert_eq!(reverted.look(None), [reasons::SUPERSEDED]);

        let mut superseded = world.clone();
        superseded.spec = spec("3");
        assert_eq!(superseded.look(None), [reasons::SUPERSEDED]);
        for world in [breaches, aborted, reverted, superseded] {
            assert_eq!((world.weight(), world.stable()), (0, "1"));
        }
    }
}

#[test]
fn a_trial_without_weight_ends_too_and_the_pods_of_the_one_before_go() {
    let mut world = World::with_stable_v1();
    world.spec = spec("2");
    world.look(None);
    for why in [Unfit::InvalidSpec, Unfit::Deleting] {
        let withdrawn = withdraw_trial(&world.spec, &world.snapshot(None), world.now, why);
        assert_eq!(withdrawn.next.canary, None::<CanaryVersion>);
        assert_eq!(withdrawn.next.phase, Phase::RollingBack);
        let mut later = world.clone();
        later.state = withdrawn.next;
        later.pass(61);
        let later = withdraw_trial(&later.spec, &later.snapshot(None), later.now, why);
        assert_eq!(
            (later.next.phase, later.next.retiring),
            (Phase::Stable, vec![])
        );
    }
}

#[test]
fn a_spec_that_cannot_be_used_takes_the_canarys_traffic_away() {
    let world = World::with_canary_v2();
    let snapshot = world.snapshot(None);
    let decision = withdraw_trial(&world.spec, &snapshot, world.now, Unfit::InvalidSpec);
    assert!(decision.next.canary.is_none());
    assert_eq!(decision.next.stable, world.state.stable);
}
