//! Commands of people, by `kubectl serin` or by an annotation, and their effects.

use std::time::Duration;

use serde_json::{Value, json};
use serin::api::ModelDeployment;

use crate::{
    objects::world,
    world::{A_WHILE, MODEL, World, canary, condition, decision, stable},
};

/// Applies version 2 with one field changed, and waits until it has weight.
async fn canary_v2(world: &World, pointer: &str, value: Value) {
    world.change("2", pointer, value).await;
    world
        .until("version 2 has weight", |status| {
            canary(status).is_some_and(|(version, weight)| version == "2" && weight > 0)
        })
        .await;
}

/// Version 2 stays at its first step for as long as a test takes.
async fn canary_v2_at_ten(world: &World) {
    canary_v2(world, "/spec/rollout/steps/0/minDuration", json!("1h")).await;
}

#[tokio::test]
async fn a_paused_version_keeps_its_weight_until_it_is_resumed() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    canary_v2_at_ten(&world).await;
    let said = world.kubectl_serin(&["pause", MODEL]).await.unwrap();
    assert!(said.contains("Version 2 stays at 10 %"), "{said}");
    world.until_reason("Paused").await;
    world.event("Paused").await;
    world.roll_out("2").await; // by steps of a second: nothing but the pause holds it
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(canary(&world.status().await), Some(("2", 10)));
    let said = world.kubectl_serin(&["pause", MODEL]).await.unwrap();
    assert!(said.contains("already"), "{said}");

    world.kubectl_serin(&["resume", MODEL]).await.unwrap();
    world.until_serves("2").await;
    world.event("Resumed").await;
    assert_eq!(world.weights("2"), [0, 10, 50, 100]);
}

#[tokio::test]
async fn a_breach_while_paused_is_still_rolled_back() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    canary_v2_at_ten(&world).await;
    world.kubectl_serin(&["pause", MODEL]).await.unwrap();
    world.until_reason("Paused").await;
    world.fail("2", 0.2);
    world.until_rolled_back().await;
}

#[tokio::test]
async fn a_step_with_pause_is_left_when_a_person_agrees_and_who_it_was_is_recorded() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    canary_v2(&world, "/spec/rollout/steps/0/pause", json!({})).await;
    world.until_reason("StepPaused").await;
    world.event("StepPaused").await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(canary(&world.status().await), Some(("2", 10)));

    let said = world.kubectl_serin(&["promote", MODEL]).await.unwrap();
    assert!(said.contains("version 2 gets 50 %"), "{said}");
    world.until_serves("2").await;
    let status = world.status().await;
    assert_eq!(decision(&status, "Approved").by.as_deref(), Some("ada"));
    assert!(world.event("Approved").await.contains("ada approved"));
    assert_eq!(
        decision(&status, "Promoted").by,
        None,
        "the evidence decided this"
    );
}

#[tokio::test]
async fn with_approval_the_promotion_waits_for_a_person_who_is_recorded() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    canary_v2(&world, "/spec/rollout/approval", json!("BeforePromotion")).await;
    world
        .until("it waits at 100 %", |status| {
            canary(status) == Some(("2", 100))
                && condition(status, "Ready").reason == "AwaitingApproval"
        })
        .await;
    tokio::time::sleep(A_WHILE).await;
    let status = world.status().await;
    assert_eq!(stable(&status), Some("1"));
    assert_eq!(
        world.replicas(&status.state.stable.unwrap().revision).await,
        2,
        "the way back is kept for as long as it waits"
    );
    // As Git would say it.
    let revision = status.state.canary.unwrap().revision;
    let yes = json!({"serin.dev/approve": format!("{revision}@100"),
            "serin.dev/requested-by": "the release team"});
    world.annotate(yes).await;
    world.until_serves("2").await;
    let status = world.status().await;
    let by = &decision(&status, "Promoted").by;
    assert_eq!(by.as_deref(), Some("the release team"));
}

#[tokio::test]
async fn a_skipped_step_is_left_without_its_evidence() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    canary_v2_at_ten(&world).await;
    let said = world
        .kubectl_serin(&["promote", MODEL, "--skip-step"])
        .await
        .unwrap();
    assert!(said.contains("gets 50 % now"), "{said}");
    world.until_serves("2").await;
    assert_eq!(world.weights("2"), [0, 10, 50, 100]);
    let status = world.status().await;
    assert_eq!(decision(&status, "StepAdvanced").weight, 100);
    let skipped = status.state.decisions.iter();
    let skipped = skipped
        .filter(|record| record.by.is_some())
        .collect::<Vec<_>>();
    assert_eq!(skipped.len(), 1, "{skipped:?}");
    assert_eq!(
        (skipped[0].weight, skipped[0].by.as_deref()),
        (50, Some("ada"))
    );
}

#[tokio::test]
async fn no_step_is_skipped_without_metrics_but_a_full_promotion_is_allowed() {
    let world = world!(World::new()).with_stable("1").await; // without any metrics
    canary_v2_at_ten(&world).await;
    world.until_reason("MetricsOutage").await;
    world
        .kubectl_serin(&["promote", MODEL, "--skip-step"])
        .await
        .unwrap();
    world
        .until("why it is not skipped", |status| {
            let message = &condition(status, "Ready").message;
            message.contains("not skipped: the metrics cannot be trusted")
        })
        .await;
    assert_eq!(canary(&world.status().await), Some(("2", 10)));

    let said = world
        .kubectl_serin(&["promote", MODEL, "--full"])
        .await
        .unwrap();
    assert!(said.contains("whatever its evidence says"), "{said}");
    world.until_serves("2").await;
    assert_eq!(world.weights("2"), [0, 10], "and then all, as stable");
    let status = world.status().await;
    assert_eq!(decision(&status, "Promoted").by.as_deref(), Some("ada"));
}

#[tokio::test]
async fn a_full_promotion_waits_for_ready_pods() {
    let world = world!(World::new()).with_stable("1").await;
    world.hold("2");
    world.roll_out("2").await;
    world.until_canary("2", 0).await;
    world
        .kubectl_serin(&["promote", MODEL, "--full"])
        .await
        .unwrap();
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(stable(&world.status().await), Some("1"));
    world.release("2");
    world.until_serves("2").await;
    assert_eq!(world.weights("2"), [0]);
}

#[tokio::test]
async fn an_abort_refuses_the_version_until_retry_and_is_obeyed_once() {
    let world = world!(World::new()).with_stable("1").await;
    canary_v2_at_ten(&world).await;
    let said = world.kubectl_serin(&["abort", MODEL]).await.unwrap();
    assert!(said.contains("kubectl serin retry iris"), "{said}");
    let status = world
        .until("all is back", |status| canary(status).is_none())
        .await;
    assert_eq!(decision(&status, "Aborted").by.as_deref(), Some("ada"));
    assert!(
        world
            .event("Aborted")
            .await
            .contains("ada aborted the rollout")
    );
    world.until_reason("RolledBack").await;

    // Git changes only the token; the annotation is still there.
    let token = json!({"spec": {"rollout": {"retryToken": "1"}}});
    let models: kube::Api<ModelDeployment> = world.api();
    let patch = kube::api::Patch::Merge(token);
    models
        .patch(MODEL, &kube::api::PatchParams::default(), &patch)
        .await
        .unwrap();
    world.until_canary("2", 10).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(canary(&world.status().await), Some(("2", 10)));
}

#[tokio::test]
async fn a_retry_tries_again_and_makes_room_for_another_abort() {
    let world = world!(World::new()).with_stable("1").await;
    canary_v2_at_ten(&world).await;
    for _ in 0..2 {
        world.kubectl_serin(&["abort", MODEL]).await.unwrap();
        world.until_reason("RolledBack").await;
        let said = world.kubectl_serin(&["retry", MODEL]).await.unwrap();
        assert!(said.contains("Version 2 is tried again"), "{said}");
        world.until_canary("2", 10).await;
        tokio::time::sleep(Duration::from_secs(1)).await; // another second, another token
    }
    let error = world.kubectl_serin(&["retry", MODEL]).await.unwrap_err();
    assert!(error.contains("version 2 is on trial"), "{error}");
}

#[tokio::test]
async fn an_undo_goes_back_at_once_while_a_version_is_on_trial() {
    let world = world!(World::new()).with_stable("1").await;
    canary_v2_at_ten(&world).await;
    let revision = world.status().await.state.stable.unwrap().revision;
    let said = world.kubectl_serin(&["undo", MODEL]).await.unwrap();
    assert!(said.contains("at once"), "{said}");
    let status = world
        .until("all is back", |status| canary(status).is_none())
        .await;
    assert_eq!(status.state.stable.unwrap().revision, revision);
    world.until_reason("Promoted").await;
    assert_eq!(world.status().await.state.refused, []);
}

#[tokio::test]
async fn an_undo_to_a_promoted_version_takes_no_steps_and_the_way_forth_takes_them() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    let first = world.status().await.state.stable.unwrap().revision;
    world.roll_out("2").await;
    world.until_serves("2").await;
    let history = world.kubectl_serin(&["history", MODEL]).await.unwrap();
    let lines: Vec<_> = history.lines().collect();
    assert_eq!(lines.len(), 3, "{history}");
    assert!(lines[1].starts_with("1 "), "{history}");
    assert!(lines[2].ends_with("serves"), "{history}");

    let arguments = ["undo", MODEL, "--to-revision", "1"];
    let said = world.kubectl_serin(&arguments).await.unwrap();
    assert!(said.contains("without steps"), "{said}");
    world.until_serves("1").await;
    let status = world.status().await;
    assert_eq!(
        status.state.stable.unwrap().revision,
        first,
        "the same version, not a copy of it"
    );
    assert_eq!(world.weights("1"), [0]);
    world.event("FastRollback").await;
    // Without a revision: to the other one, which is newer.
    let said = world.kubectl_serin(&["undo", MODEL]).await.unwrap();
    assert!(said.contains("rolled out again"), "{said}");
    world.until_serves("2").await;
    assert!(
        world.weights("2").ends_with(&[0, 10, 50, 100]),
        "on its evidence"
    );
}

#[tokio::test]
async fn with_on_failure_pause_a_failing_version_is_held_for_a_person() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    world.fail("2", 0.2);
    canary_v2(&world, "/spec/rollout/onFailure", json!("Hold")).await;
    world.until_reason("FailureHeld").await;
    world.event("FailureHeld").await;
    assert_eq!(
        condition(&world.status().await, "Stalled").status,
        "True",
        "a person is needed"
    );
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(canary(&world.status().await), Some(("2", 10)));
    for refused in [
        &["promote", MODEL][..],
        &["promote", MODEL, "--skip-step"][..],
    ] {
        let error = world.kubectl_serin(refused).await.unwrap_err();
        assert!(error.contains("kubectl serin abort"), "{error}");
    }
    world.kubectl_serin(&["abort", MODEL]).await.unwrap();
    let status = world
        .until("all is back", |status| canary(status).is_none())
        .await;
    assert_eq!(stable(&status), Some("1"));
}

#[tokio::test]
async fn malformed_commands_are_reported_and_ignored() {
    let world = world!(World::new()).with_stable("1").await;
    canary_v2_at_ten(&world).await;
    let wrong = json!({"serin.dev/abort": "now!", "serin.dev/approve": "\u{202e}@\n",
            "serin.dev/requested-by": ""});
    world.annotate(wrong).await;
    let status = world
        .until("it is reported", |status| {
            condition(status, "Ready")
                .message
                .contains("Ignored: serin.dev/approve")
        })
        .await;
    let message = &condition(&status, "Ready").message;
    assert!(
        message.contains("expected a revision, 8 hex digits"),
        "{message}"
    );
    world.event("CommandIgnored").await;
    assert_eq!(canary(&status), Some(("2", 10)));
    let gone =
        json!({"serin.dev/abort": null, "serin.dev/approve": null, "serin.dev/requested-by": null});
    world.annotate(gone).await;
    world
        .until("it is fixed", |status| {
            !condition(status, "Ready").message.contains("Ignored")
        })
        .await;
}

#[tokio::test]
async fn a_verb_without_a_trial_says_what_to_do_instead() {
    let world = world!(World::new()).with_stable("1").await;
    for verb in [
        &["promote", MODEL][..],
        &["promote", MODEL, "--skip-step"][..],
        &["promote", MODEL, "--full"][..],
        &["abort", MODEL][..],
    ] {
        let error = world.kubectl_serin(verb).await.unwrap_err();
        assert!(error.contains("change spec.model"), "{verb:?}: {error}");
    }
    let error = world
        .kubectl_serin(&["promote", "absent"])
        .await
        .unwrap_err();
    assert!(error.contains("no ModelDeployment absent"), "{error}");
    let error = world.kubectl_serin(&["undo", MODEL]).await.unwrap_err();
    assert!(error.contains("no earlier version"), "{error}");
}
