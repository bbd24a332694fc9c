//! A stable version of which every answer is an error, and the way back to the version before.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use serin::api::DecisionRecord;
use serin::api::conditions::reasons;

use super::checks::Checks;
use super::command_scenario::{kubectl_serin, serves};
use super::decision;
use super::demo::{V1, V2};
use super::faults::{Play, ROLLOUT, state, weight};
use super::situation::server;
use super::timeline::event;

const NAMESPACE: &str = "wedged";
/// Longest time from Ready pods of the version before until it has all traffic.
const BACK_WITHIN: Duration = Duration::from_secs(5);
/// How long the wedged version is left alone.
const WEDGED_FOR: Duration = Duration::from_secs(5);
/// Longest time until the pods of a version that is not in use have ended.
const SCALED_DOWN: Duration = Duration::from_secs(90);

/// The second version is promoted on a person's word, and fails every request. The pods of the
/// first one are gone. Then the spec asks for the first one again, as a revert in Git does.
pub async fn stable_wedged() -> Result<()> {
    let mut play = Play::begin(NAMESPACE).await?;
    let mut checks = Checks::default();
    play.lab.apply_object(wedged()?).await?;
    play.watch(|model| weight(model) == 10).await?;
    kubectl_serin(NAMESPACE, &["promote", "--full", "iris"]).await?;
    play.watch(|model| serves(model, "2.0.0")).await?;
    let deadline = Instant::now() + SCALED_DOWN;
    while !play.lab.pods_of("1.0.0").await?.is_empty() {
        if Instant::now() > deadline {
            bail!("the pods of the version before do not end");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let wedged_at = play.traffic.now();
    play.hold(WEDGED_FOR).await?;

    let (reverted, reverted_at) = (play.traffic.now(), Timestamp::now());
    let answers = play.traffic.answers().within(wedged_at, reverted);
    checks.claim(
        answers.count() > 0 && answers.failed() == answers.count(),
        "answers of the wedged version, and how many of them are errors",
        format!("{}, {}", answers.count(), answers.failed()),
    );
    event("the spec asks for version 1.0.0 again");
    play.lab.apply(V1).await?;
    let is_back = |model: &_| decision(&state(model), reasons::FAST_ROLLBACK, "1.0.0").is_some();
    let model = play.lab.at_once(ROLLOUT, is_back).await?;
    let back = decision(&state(&model), reasons::FAST_ROLLBACK, "1.0.0")
        .context("the way back was not recorded")?
        .clone();
    let pods = play.lab.pods_of("1.0.0").await?;
    let ready_at = pods.iter().filter_map(ready_since).max();
    let ready_at = ready_at.context("no pod of the version before is Ready")?;
    let model = play.watch(|model| serves(model, "1.0.0")).await?;
    checks.note("the decision", &back.sentence);

    let ready = seconds(reverted_at, ready_at).max(0.0);
    let decided = seconds(reverted_at, back.at);
    checks.claim(
        decided <= ready + BACK_WITHIN.as_secs_f64(),
        format!(
            "seconds from the revert to Ready pods (to the second), and to 100 % (at most {} s \
             later)",
            BACK_WITHIN.as_secs()
        ),
        format!("{ready:.1}, {decided:.1}"),
    );
    let from = play.traffic.at(back.at) + BACK_WITHIN;
    play.hold(BACK_WITHIN).await?;
    let steps = [reasons::CANARY_STARTED, reasons::STEP_ADVANCED];
    let since = |record: &&DecisionRecord| record.at > reverted_at;
    let state = state(&model);
    let taken: Vec<_> = state
        .decisions
        .iter()
        .filter(since)
        .map(|it| &it.action)
        .collect();
    checks.claim(
        !taken.iter().any(|action| steps.contains(&action.as_str())),
        "steps on the way back: none among its decisions",
        format!("{taken:?}"),
    );
    // What was wedged failed by itself; what follows the way back must not.
    play.end(checks, |answer| answer.sent > from).await
}

/// A second version that fails every request, and whose predecessor keeps no pods.
fn wedged() -> Result<Value> {
    let mut manifest: Value = serde_norway::from_str(V2)?;
    let spec = &mut manifest["spec"];
    // No objective sees what is wrong: nothing rolls it back.
    spec["objectives"] = json!([{"name": "latency", "latency": {"quantile": 0.5, "max": "10s"}}]);
    spec["traffic"] = json!({"envoy": {"timeout": "5s"}});
    spec["rollout"]["scaleDownDelay"] = "5s".into();
    server(spec)["env"] = json!([
        {"name": "SERIN_SERVE_TEST_FAULTS", "value": "true"},
        {"name": "SERIN_SERVE_TEST_ERROR_SHARE", "value": "1"},
    ]);
    Ok(manifest)
}

/// Since when a pod has been Ready, to the second.
fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions
        .iter()
        .find(|it| it.type_ == "Ready" && it.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}
