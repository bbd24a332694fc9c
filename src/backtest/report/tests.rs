//! Tests of `backtest::report`.

use super::*;

#[test]
fn the_bound_without_hits_is_the_rule_of_three() {
    let bound = upper_bound(0, 300, 0.95);
    assert!((bound - 0.00994).abs() < 1e-4, "{bound}");
    let bound = upper_bound(3, 200, 0.95);
    assert!((bound - 0.0383).abs() < 1e-3, "{bound}");
    assert!(upper_bound(5, 5, 0.95) >= 1.0);
}

#[test]
fn censored_rollouts_make_the_times_longer() {
    let minutes = |list: &[i64]| -> Vec<SignedDuration> {
        list.iter().map(|m| SignedDuration::from_mins(*m)).collect()
    };
    let promoted = minutes(&[10, 20, 30, 40]);
    let half = |unfinished: &[i64]| time_until(&promoted, &minutes(unfinished), 0.5).unwrap();
    assert_eq!(half(&[]), "20 min");
    assert_eq!(half(&[5, 5, 5]), "20 min");
    assert_eq!(half(&[60, 60]), "30 min");
    assert_eq!(half(&[60; 9]), "more than this period shows");
    assert_eq!(time_until(&[], &[], 0.5), None);
}

#[test]
fn a_period_without_a_finished_rollout_is_reported() {
    let spec: ModelDeploymentSpec = serde_json::from_value(serde_json::json!({
        "model": {"uri": "pvc://models/churn/1", "version": "1",
            "digest": format!("sha256:{:064}", 1)},
        "objectives": [{"name": "errors", "errorRate": {"max": "1%"}}],
    }))
    .unwrap();
    let rollout = |end| Simulated {
        started: Timestamp::UNIX_EPOCH,
        took: SignedDuration::from_mins(9),
        end,
        steps: Vec::new(),
        lacked_data: false,
    };
    let limits = |rollouts: &[Simulated]| {
        let findings = Findings {
            title: String::new(),
            spec: &spec,
            attended: false,
            looks: &[],
            rollouts,
            interval: Duration::from_secs(15),
        };
        findings.limits(&[])
    };
    let unfinished = [rollout(End::Unfinished), rollout(End::Unfinished)];
    let text = limits(&unfinished).join("\n");
    assert!(text.contains("The steps alone ask for 25 min"), "{text}");
    assert!(limits(&[rollout(End::Unfinished), rollout(End::Promoted)]).is_empty());
    assert!(limits(&[]).is_empty());
}
