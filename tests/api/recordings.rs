//! Recordings of a running operator, fetched over HTTP and replayed.

use serin::{api::Verdict, report::replay};

use crate::{
    objects::world,
    world::{MODEL, World},
};

#[tokio::test]
async fn a_rollback_is_recorded_with_its_evidence_and_replays_to_the_same_decisions() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    world.turn_bad_at_half("2").await;
    let status = world.until_reason("RolledBack").await;

    let decisions = &status.state.decisions;
    let rolled_back = decisions
        .iter()
        .find(|record| record.action == "RolledBack")
        .unwrap();
    assert_eq!(rolled_back.verdict, Some(Verdict::Fail));
    let evidence = &rolled_back.evidence[0];
    assert_eq!(evidence.verdict, Verdict::Fail);
    assert!(evidence.query.contains("envoy_cluster_upstream_rq_xx"));
    assert!(evidence.window_seconds >= 4, "four scrapes of a second");
    let step = evidence.step.unwrap();
    assert!(step.canary.bad >= 5, "{step:?}");
    assert!(step.canary.requests <= evidence.rollout.unwrap().canary.requests);
    let with_evidence = decisions
        .iter()
        .filter(|record| !record.evidence.is_empty());
    let with_evidence = with_evidence.count();
    assert!((2..=3).contains(&with_evidence), "{with_evidence}");

    let explained = world.kubectl_serin(&["explain", MODEL]).await.unwrap();
    println!("{explained}");
    for words in [
        "RolledBack: version 2, 50 % to 0 %, fails",
        "asked    {__name__=~\"envoy_cluster_upstream_rq_xx",
        "kubectl serin retry iris",
    ] {
        assert!(explained.contains(words), "{words}: {explained}");
    }

    let (code, text) = world.ask_operator("iris").await;
    assert_eq!(code, 200, "{text}");
    if let Some(file) = std::env::var_os("SERIN_KEEP_RECORDINGS") {
        std::fs::write(file, &text).unwrap();
    }
    let recordings = replay::parse(&text).unwrap();
    let replayed = replay::replay(&recordings);
    println!("{}", replayed.text);
    assert_eq!(replayed.differing, 0, "{}", replayed.text);
    for action in [
        "PreparingVersion",
        "CanaryStarted",
        "StepAdvanced",
        "RolledBack",
    ] {
        assert!(
            replayed.text.contains(action),
            "{action}: {}",
            replayed.text
        );
    }

    let (code, _) = world.ask_operator("unknown").await;
    assert_eq!(code, 404);
}
