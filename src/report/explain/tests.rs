//! Tests of `report::explain`.

use serde_json::json;

use super::*;

const NOW: &str = "2026-11-21T03:14:30Z";

fn spec() -> Value {
    json!({
        "model": {"uri": "file:///m", "version": "2.1.0", "digest": "sha256:0"},
        "objectives": [{"name": "errors", "errorRate": {"max": "1%"}}],
    })
}

fn model(status: Value) -> ModelDeployment {
    let mut model = json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
        "metadata": {"name": "churn", "namespace": "ml"}, "spec": spec(),
    });
    model["status"] = status;
    serde_json::from_value(model).unwrap()
}

fn evidence(verdict: &str, canary: (u64, u64), stable: (u64, u64)) -> Value {
    let tally = |(requests, bad)| json!({"requests": requests, "bad": bad});
    let look = json!({"canary": tally(canary), "stable": tally(stable)});
    json!([{
        "objective": "errors", "verdict": verdict, "threshold": "1 %", "windowSeconds": 60,
        "query": concat!(
            r#"{__name__=~"envoy_cluster_upstream_rq_xx|envoy_cluster_upstream_rq|up","#,
            r#"namespace="serin-system",pod=~"serin-router-[a-z0-9]+(-[a-z0-9]+)?","#,
            r#"envoy_cluster_name=~"|ml/churn/bbbbbbbb|ml/churn/aaaaaaaa"}[60s]"#,
        ),
        "step": look, "rollout": look, "upperBound": 0.0312, "boundNeeded": 0.02,
        "sentence": "0 errors.",
    }])
}

fn on_trial() -> Value {
    json!({
        "phase": "Canary",
        "stable": {"revision": "aaaaaaaa", "version": "2.0.0"},
        "canary": {
            "revision": "bbbbbbbb", "version": "2.1.0", "weight": 25,
            "since": "2026-11-21T03:05:00Z",
            "progress": {"step": 1, "stepSince": "2026-11-21T03:11:00Z", "gates": []},
        },
        "message": "0 errors in 140 canary requests (stable 0 of 1,260): the rate is below 3.1 \
            %; moving to 50 % needs below 2 %, about 86 more clean requests (≈ 4 min at this \
            traffic).",
        "decisions": [
            {
                "at": "2026-11-21T03:06:00Z", "action": "CanaryStarted", "version": "2.1.0",
                "weight": 10,
                "sentence": "Version 2.1.0 is Ready, verified and warm: it gets 10 % of the \
                    traffic.",
                "nextCheck": "2026-11-21T03:06:15Z",
            },
            {
                "at": "2026-11-21T03:11:00Z", "action": "StepAdvanced", "version": "2.1.0",
                "weight": 25,
                "verdict": "Pass", "by": "ada@example.com",
                "sentence": "0 errors in 120 canary requests (stable 0 of 1,080): the rate is \
                    below 3.6 %; moving to 25 % needs below 4 %. Moving to 25 %.",
                "evidence": evidence("Pass", (120, 0), (1_080, 2)),
                "nextCheck": "2026-11-21T03:11:15Z",
            },
        ],
    })
}

fn explained(status: Value, width: usize) -> String {
    explain(
        &model(status),
        &spec(),
        &BTreeMap::new(),
        NOW.parse().unwrap(),
        width,
    )
}

#[test]
fn a_rollout_under_way_is_explained() {
    insta::assert_snapshot!(explained(on_trial(), 100));
}

#[test]
fn a_rollback_is_explained() {
    let status = json!({
        "phase": "RollingBack",
        "stable": {"revision": "aaaaaaaa", "version": "2.0.0"},
        "refused": [{
            "revision": VersionSpec::of(&model(Value::Null).spec).revision(),
            "version": "2.1.0", "at": "2026-11-21T03:14:00Z",
            "reason": "30 of 30 canary requests failed in one scrape.",
        }],
        "message": "30 of 30 canary requests failed in one scrape. All traffic is back on \
            version 2.0.0.",
        "decisions": [{
            "at": "2026-11-21T03:14:00Z", "action": "RolledBack", "version": "2.1.0",
            "weight": 0, "verdict": "Fail",
            "sentence": "30 of 30 canary requests failed in one scrape (100 %, objective 1 %); \
                stable 0 of 270. All traffic is back on version 2.0.0.",
            "evidence": evidence("Fail", (30, 30), (270, 0)),
        }],
    });
    insta::assert_snapshot!(explained(status, 100));
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    // Below 90 columns, the names of the router's metrics do not fit.
    for width in [90, 100, 140] {
        let text = explained(on_trial(), width);
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(width), "{width}:\n{text}");
    }
}

#[test]
fn a_model_without_status_says_so() {
    let text = explained(Value::Null, 100);
    assert!(text.contains("has not reconciled it yet"), "{text}");
    let text = explained(json!({}), 100);
    assert!(text.contains("None yet."), "{text}");
}
