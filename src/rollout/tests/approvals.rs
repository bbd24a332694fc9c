//! What waits for a person: steps with a pause, and promotions that need an approval.

use super::{
    verbs::{BY, canary_v2, serve_step},
    *,
};
use crate::api::{Approval, Pause, commands::Command};

#[test]
fn a_step_with_pause_waits_for_a_yes_and_the_yes_waits_for_the_evidence() {
    let pause = |rollout: &mut crate::api::Rollout| rollout.steps[0].pause = Some(Pause::default());
    let approve = || Command::Approve(World::revision("2"), 10);

    let mut world = canary_v2(pause);
    assert_eq!(serve_step(&mut world), [reasons::STEP_PAUSED]);
    assert_eq!(serve_step(&mut world), [""; 0], "recorded once");
    assert!(
        world.state.message.contains("serin.dev/approve"),
        "{}",
        world.state.message
    );
    world.say(approve());
    assert_eq!(
        world.serve(1, (100, 0), (900, 0)),
        [reasons::APPROVED, reasons::STEP_ADVANCED]
    );
    assert_eq!(world.by(reasons::APPROVED), Some(BY));
    assert_eq!(world.by(reasons::STEP_ADVANCED), Some(BY));
    assert_eq!(
        serve_step(&mut world),
        [reasons::STEP_ADVANCED],
        "50 % has no pause"
    );
    assert_eq!(world.by(reasons::STEP_ADVANCED), None);

    // Said early, it is heard at once, and waits.
    let mut world = canary_v2(pause);
    world.say(approve());
    assert_eq!(world.serve(1, (100, 0), (900, 0)), [reasons::APPROVED]);
    world.commands = Commands::default();
    assert_eq!(world.serve(2, (100, 0), (900, 0)), [""; 0]);
    assert_eq!(world.serve(1, (100, 0), (900, 0)), [reasons::STEP_ADVANCED]);
    assert_eq!(
        world.by(reasons::STEP_ADVANCED),
        Some(BY),
        "remembered, though the annotation is gone"
    );

    // For another step or another version, it is no yes.
    for other in [
        Command::Approve(World::revision("2"), 50),
        Command::Approve(World::revision("3"), 10),
    ] {
        let mut world = canary_v2(pause);
        world.say(other);
        assert_eq!(serve_step(&mut world), [reasons::STEP_PAUSED]);
    }
}

#[test]
fn where_a_step_proves_nothing_a_person_may_approve_it() {
    let lenient = |rollout: &mut crate::api::Rollout| {
        let policy = json!({"after": "5m", "then": "AwaitApproval"});
        rollout.on_insufficient_data = serde_json::from_value(policy).unwrap();
    };
    let approve = || Command::Approve(World::revision("2"), 10);

    let mut world = canary_v2(lenient);
    world.say(approve());
    assert_eq!(
        world.serve(19, (0, 0), (1, 0)),
        [""; 0],
        "there is nothing to approve yet"
    );
    assert_eq!(
        world.serve(1, (0, 0), (1, 0)),
        [reasons::APPROVED, reasons::STEP_ADVANCED],
    );
    assert_eq!(
        (world.weight(), world.by(reasons::STEP_ADVANCED)),
        (50, Some(BY))
    );

    // A suspect version stays; the approval counts once it is not suspect any more.
    let mut world = canary_v2(lenient);
    assert_eq!(
        world.serve(20, (1, 0), (9, 0)),
        [reasons::AWAITING_APPROVAL]
    );
    assert_eq!(world.serve(20, (0, 0), (1, 0)), [""; 0], "recorded once");
    assert!(
        world.state.message.contains("serin.dev/approve"),
        "{}",
        world.state.message
    );
    world.say(approve());
    let said = world.serve(1, (0, 0), (1, 0));
    assert_eq!(said, [reasons::APPROVED, reasons::STEP_ADVANCED]);

    // Of a step with a pause, an approval from before is one of the evidence alone.
    let mut world = canary_v2(|rollout| {
        lenient(rollout);
        rollout.steps[0].pause = Some(Pause::default());
    });
    world.say(approve());
    assert_eq!(world.serve(1, (1, 0), (9, 0)), [reasons::APPROVED]);
    assert_eq!(
        world.serve(20, (0, 0), (1, 0)),
        [reasons::AWAITING_APPROVAL]
    );
    assert_eq!(world.weight(), 10);
}

#[test]
fn a_pause_with_a_duration_ends_by_itself_or_when_a_person_ends_it() {
    let pause = |rollout: &mut crate::api::Rollout| {
        let pause = json!({"duration": "2m"});
        rollout.steps[0].pause = serde_json::from_value(pause).unwrap();
    };
    let paused_since = |world: &World| {
        let canary = world.state.canary.as_ref();
        canary.unwrap().progress.as_ref().unwrap().paused_since
    };
    let look = |world: &mut World| world.serve(1, (100, 0), (900, 0));

    // It begins once the evidence passes, and two minutes are eight looks.
    let mut world = canary_v2(pause);
    assert_eq!(serve_step(&mut world), [reasons::STEP_PAUSED]);
    let began = world.now;
    assert_eq!(paused_since(&world), Some(began));
    let until = (began + SignedDuration::from_mins(2))
        .strftime("%H:%M:%SZ")
        .to_string();
    assert!(
        world.state.message.contains(&until),
        "{}",
        world.state.message
    );
    assert_eq!(world.serve(7, (100, 0), (900, 0)), [""; 0]);
    assert_eq!(paused_since(&world), Some(began));
    assert_eq!(look(&mut world), [reasons::STEP_ADVANCED]);
    assert_eq!(
        (world.weight(), world.by(reasons::STEP_ADVANCED)),
        (50, None)
    );
    assert_eq!(paused_since(&world), None);

    // A person ends it earlier.
    let mut world = canary_v2(pause);
    serve_step(&mut world);
    world.say(Command::Approve(World::revision("2"), 10));
    assert_eq!(
        look(&mut world),
        [reasons::APPROVED, reasons::STEP_ADVANCED]
    );
    assert_eq!(world.by(reasons::STEP_ADVANCED), Some(BY));

    // A breach ends the trial.
    let mut world = canary_v2(pause);
    serve_step(&mut world);
    assert_eq!(world.serve(1, (100, 50), (900, 0)), [reasons::ROLLED_BACK]);

    // A status that is lost in between only begins it again; a clock that is set back does not
    // make it longer.
    let mut world = canary_v2(pause);
    serve_step(&mut world);
    let hour = SignedDuration::from_hours(1);
    let canary = world.state.canary.as_mut().unwrap();
    canary.progress.as_mut().unwrap().paused_since = Some(world.now + hour);
    assert_eq!(world.serve(8, (100, 0), (900, 0)), [""; 0]);
    assert_eq!(look(&mut world), [reasons::STEP_ADVANCED]);

    // At 100 %, the promotion needs a person all the same where the spec asks for one.
    let mut world = canary_v2(|rollout| {
        rollout.steps.drain(..2);
        rollout.approval = Approval::BeforePromotion;
        pause(rollout);
    });
    assert_eq!(world.serve(4, (1000, 0), (0, 0)), [reasons::STEP_PAUSED]);
    assert_eq!(
        world.serve(8, (1000, 0), (0, 0)),
        [reasons::AWAITING_APPROVAL]
    );
    world.say(Command::Approve(World::revision("2"), 100));
    assert_eq!(
        world.serve(1, (1000, 0), (0, 0)),
        [reasons::APPROVED, reasons::PROMOTED]
    );
}

#[test]
fn with_approval_a_promotion_waits_for_a_yes() {
    let mut world = canary_v2(|rollout| rollout.approval = Approval::BeforePromotion);
    serve_step(&mut world);
    serve_step(&mut world);
    assert_eq!(serve_step(&mut world), [reasons::AWAITING_APPROVAL]);
    assert_eq!((world.weight(), world.stable()), (100, "1"));
    world.say(Command::Approve(World::revision("2"), 100));
    assert_eq!(
        world.serve(1, (1000, 0), (0, 0)),
        [reasons::APPROVED, reasons::PROMOTED]
    );
    assert_eq!(
        (world.stable(), world.by(reasons::PROMOTED)),
        ("2", Some(BY))
    );
}

#[test]
fn a_policy_that_advances_without_proof_waits_for_the_yes_all_the_same() {
    let mut world = canary_v2(|rollout| {
        rollout.steps[0].pause = Some(Pause::default());
        rollout.on_insufficient_data =
            serde_json::from_value(json!({"after": "5m", "then": "Advance"})).unwrap();
    });
    assert_eq!(world.serve(40, (0, 0), (1, 0)), [reasons::STEP_PAUSED]);
    world.say(Command::Approve(World::revision("2"), 10));
    assert_eq!(
        world.serve(1, (0, 0), (1, 0)),
        [reasons::APPROVED, reasons::STEP_ADVANCED]
    );
}
