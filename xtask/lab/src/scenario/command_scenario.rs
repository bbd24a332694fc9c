//! What people say about a rollout, by the plug-in that they say it with, under traffic.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use serin::api::conditions::reasons;
use serin::api::{ModelDeployment, Phase};
use serin::cli;

use super::checks::Checks;
use super::faults::{Play, has_settled, state, weight};
use super::timeline::event;
use super::{condition, decision};

const V2_WITH_APPROVAL: &str = include_str!("../../../../examples/demo/v2-with-approval.yaml");
const NAMESPACE: &str = "commands";
/// Longest time until each router answers for a model that woke up.
const AWAKE_WITHIN: Duration = Duration::from_secs(2);

/// A step and the promotion agreed to; undone; asked for again; aborted; retried; promoted on a
/// person's word alone; put to sleep and woken up.
pub async fn commands() -> Result<()> {
    let mut play = Play::begin(NAMESPACE).await?;
    let mut checks = Checks::default();

    play.lab.apply(V2_WITH_APPROVAL).await?;
    play.watch(|model| waits(model) && weight(model) == 25)
        .await?;
    kubectl_serin(NAMESPACE, &["explain", "iris"]).await?;
    kubectl_serin(NAMESPACE, &["promote", "iris"]).await?;
    play.watch(|model| waits(model) && weight(model) == 100)
        .await?;
    kubectl_serin(NAMESPACE, &["promote", "iris"]).await?;
    let model = play.watch(|model| serves(model, "2.0.0")).await?;
    let who: Vec<_> = state(&model)
        .decisions
        .iter()
        .filter(|record| record.action == reasons::APPROVED)
        .map(|record| (record.weight, record.by.clone().unwrap_or_default()))
        .collect();
    checks.claim(
        who.iter().map(|(weight, _)| *weight).eq([25, 100])
            && who.iter().all(|(_, by)| !by.is_empty()),
        "approvals, and by whom",
        format!("{who:?}"),
    );

    kubectl_serin(NAMESPACE, &["undo", "iris"]).await?;
    let model = play.watch(|model| serves(model, "1.0.0")).await?;
    let back = decision(&state(&model), reasons::FAST_ROLLBACK, "1.0.0")
        .context("the way back was not recorded")?
        .clone();
    checks.claim(back.weight == 100, "undone, without steps", back.sentence);
    kubectl_serin(NAMESPACE, &["explain", "iris"]).await?;

    // The way forth takes the steps.
    play.lab.apply(V2_WITH_APPROVAL).await?;
    play.watch(|model| weight(model) == 25).await?;
    kubectl_serin(NAMESPACE, &["abort", "iris"]).await?;
    let model = play
        .watch(|model| state(model).phase == Phase::Stable && state(model).canary.is_none())
        .await?;
    let aborted = decision(&state(&model), reasons::ABORTED, "2.0.0")
        .context("the abort was not recorded")?
        .clone();
    checks.claim(
        condition(&model, "Stalled").is_some_and(|(status, _)| status == "True"),
        "aborted, and refused since",
        aborted.sentence,
    );

    kubectl_serin(NAMESPACE, &["retry", "iris"]).await?;
    play.watch(|model| weight(model) == 25).await?;
    kubectl_serin(NAMESPACE, &["promote", "--full", "iris"]).await?;
    let model = play.watch(|model| serves(model, "2.0.0")).await?;
    let promoted = decision(&state(&model), reasons::PROMOTED, "2.0.0")
        .context("the promotion was not recorded")?
        .clone();
    checks.claim(
        promoted.by.is_some(),
        "promoted on a person's word",
        promoted.sentence,
    );
    kubectl_serin(NAMESPACE, &["history", "iris"]).await?;

    let asleep = sleep(&mut play, &mut checks).await?;
    play.end(checks, |answer| !asleep.contains(&answer.sent))
        .await
}

/// Puts the model to sleep and wakes it up. Returns the span in which its address answers 503.
async fn sleep(play: &mut Play, checks: &mut Checks) -> Result<Range<Duration>> {
    let models = play.lab.models();
    let scale = async |replicas: i32| {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        models.patch("iris", &PatchParams::default(), &patch).await
    };
    let from = play.traffic.now();
    event("spec.replicas is 0");
    scale(0).await?;
    let model = play
        .watch(|model| state(model).phase == Phase::Asleep)
        .await?;
    play.hold(Duration::from_secs(2)).await?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let answer = client.post(play.lab.url()).send().await?;
    let retry_after = answer.headers().get("retry-after").cloned();
    checks.claim(
        answer.status() == 503 && retry_after.is_some(),
        "asleep: the answer at its address, and its Retry-After",
        format!("{}, {retry_after:?}", answer.status()),
    );
    checks.claim(
        condition(&model, "Ready") == Some(("True", reasons::ASLEEP)),
        "Ready while asleep",
        format!("{:?}", condition(&model, "Ready")),
    );
    kubectl_serin(NAMESPACE, &["explain", "iris"]).await?;
    event("spec.replicas is 2");
    scale(2).await?;
    play.watch(|model| serves(model, "2.0.0")).await?;
    let until = play.traffic.now() + AWAKE_WITHIN;
    play.hold(AWAKE_WITHIN * 2).await?;
    let after = play.traffic.answers().within(until, play.traffic.now());
    checks.claim(after.count() > 0, "answers since it woke up", after.count());
    Ok(from..until)
}

/// Runs the plug-in as its user does, and shows what it answers.
pub async fn kubectl_serin(namespace: &str, words: &[&str]) -> Result<()> {
    event(&format!("kubectl serin {}", words.join(" ")));
    let line = ["kubectl-serin", "--namespace", namespace];
    let arguments = cli::Arguments::try_parse_from(line.iter().chain(words))?;
    let answer = cli::run(arguments)
        .await
        .map_err(|error| anyhow!("{error}"))?;
    for line in answer.lines() {
        println!("            {line}");
    }
    Ok(())
}

fn waits(model: &ModelDeployment) -> bool {
    let waiting = [reasons::STEP_PAUSED, reasons::AWAITING_APPROVAL];
    condition(model, "Ready").is_some_and(|(_, reason)| waiting.contains(&reason))
}

/// Whether a version has all traffic, and is what the spec asks for.
pub fn serves(model: &ModelDeployment, version: &str) -> bool {
    let stable = state(model).stable;
    has_settled(model) && stable.is_some_and(|stable| stable.version == version)
}
