//! Tests of `report::replay`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::{
    api::{Commands, ModelDeploymentSpec, Revision, VersionRef},
    evidence::{BlindReason, Cursors, Observation, Tally, Window},
    observe::{Snapshot, VersionHealth},
    rollout::decide,
};

const INTERVAL: std::time::Duration = std::time::Duration::from_secs(15);

fn spec() -> ModelDeploymentSpec {
    serde_json::from_value(json!({
        "model": {"uri": "file:///m", "version": "2", "digest": "sha256:0"},
        "serving": {"template": {"spec": {"containers": [
            {"name": "server", "env": [{"name": "TOKEN", "value": "hunter2"}]},
        ]}}},
        "objectives": [{"name": "errors", "errorRate": {"max": "1%"}},
            {"name": "latency", "latency": {"quantile": 0.99, "max": "250ms"}}],
    }))
    .unwrap()
}

fn window(canary: Tally, stable: Tally) -> Reading {
    Reading::Counts(Window {
        look: Observation { canary, stable },
        cursors: Cursors::starting_at(0),
        newest_sample: Timestamp::UNIX_EPOCH,
        threshold: None,
        query: r#"{__name__=~"requests|up"}[60s]"#.to_owned(),
        replayed: None,
        lost: None,
    })
}

/// All decisions of a rollout that is rolled back on its third look, as JSON lines.
fn recorded() -> (String, usize) {
    let version = |revision: &str, version: &str| VersionRef {
        revision: Revision(revision.to_owned()),
        version: version.to_owned(),
    };
    let (stable, canary) = (version("aaaaaaaa", "1"), version("bbbbbbbb", "2"));
    let ready = VersionHealth {
        desired: 1,
        ready: 1,
        endpoints: 1,
        ..VersionHealth::default()
    };
    let mut state = State {
        stable: Some(stable.clone()),
        ..State::default()
    };
    let good = window(Tally::new(30, 0), Tally::new(270, 0));
    let bad = window(Tally::new(30, 30), Tally::new(270, 0));
    let blind = BlindReason::Timeout {
        after: std::time::Duration::from_secs(5),
    };
    let looks = [
        vec![],
        vec![],
        vec![Ok(good.clone()), Ok(good.clone())],
        vec![Ok(good.clone()), Err(blind)],
        vec![Ok(bad), Ok(good)],
    ];
    let count = looks.len();
    let mut now: Timestamp = "2026-11-21T03:00:00.123456789Z".parse().unwrap();
    let mut text = String::new();
    let mut memory = None;
    for readings in looks {
        let snapshot = Snapshot {
            desired: canary.clone(),
            state,
            memory,
            router: crate::router::Report::default(),
            free_port: Some(20_000),
            versions: BTreeMap::from([
                (stable.revision.clone(), ready.clone()),
                (canary.revision.clone(), ready.clone()),
            ]),
            readings,
            commands: Commands::default(),
            unmeasurable: Vec::new(),
            refused: Vec::new(),
            stable_rate: None,
            attentive_since: Timestamp::UNIX_EPOCH,
            here_since: Timestamp::UNIX_EPOCH,
            in_force: None,
            stable_before: None,
            desired_refused: None,
        };
        let spec = spec();
        let decision = decide(&spec, &snapshot, now, INTERVAL);
        (state, memory) = (decision.next.clone(), decision.memory.clone());
        let recording = Recording {
            model: "ml/churn".to_owned(),
            now,
            interval: INTERVAL.into(),
            unfit: None,
            spec: Recording::spec(&spec),
            snapshot,
            decision: Some(decision),
        };
        text += &serde_json::to_string(&recording).unwrap();
        text.push('\n');
        now += INTERVAL;
    }
    assert_eq!(state.canary, None, "{}", state.message);
    (text, count)
}

#[test]
fn a_recorded_rollout_replays_to_the_same_decisions() {
    let (text, count) = recorded();
    let recordings = parse(&text).unwrap();
    assert_eq!(recordings.len(), count);
    let again = replay(&recordings);
    assert_eq!(again.differing, 0, "{}", again.text);
    for words in [
        "PreparingVersion",
        "MetricsOutage",
        "RolledBack",
        "30 bad of 30",
    ] {
        assert!(again.text.contains(words), "{words}: {}", again.text);
    }
    let array = format!("[{}]", text.trim_end().replace('\n', ","));
    assert_eq!(parse(&array).unwrap(), recordings);
}

#[test]
fn values_of_environment_variables_are_not_recorded() {
    assert!(!recorded().0.contains("hunter2"));
}

#[test]
fn a_difference_is_shown_with_its_path() {
    let (text, _) = recorded();
    let mut recordings = parse(&text).unwrap();
    recordings[1].decision.as_mut().unwrap().next.message = "something else".to_owned();
    let again = replay(&recordings);
    assert_eq!(again.differing, 1);
    let expected =
        r#"decision.next.message: recorded "something else", replayed "Version 2 is Ready"#;
    assert!(again.text.contains(expected), "{}", again.text);
}

#[test]
fn other_files_are_refused_with_a_remedy() {
    for text in ["", "[]", "{}", "not JSON", r#"[{"now": 1}]"#] {
        assert!(parse(text).is_err(), "{text:?}");
    }
    let error = parse("{}").unwrap_err().to_string();
    assert!(error.contains("GET /snapshots"), "{error}");
}
