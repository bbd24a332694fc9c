//! A HorizontalPodAutoscaler on CPU that goes up, down and up again while a version is rolled out.
//!
//! The load changes, and with it what the autoscaler asks for. No version may shrink while another
//! is on trial: stable must be able to take all traffic back, and the canary answers its share.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::ListParams;
use kube::{Api, Resource};
use serde_json::{Value, json};
use serin::api::{ModelDeployment, Phase};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::checks::Checks;
use super::command_scenario::serves;
use super::demo::{V1, V2};
use super::faults::{Play, state, weight};
use super::platform_faults::create;
use super::situation::server;
use super::timeline::event;
use super::traffic::Answers;
use super::{Args, Lab};

/// CPU that a pod asks for. Small: the load of a machine with two cores must be several pods' work.
const CPU: &str = "20m";
/// Use of it, in percent, that the autoscaler aims at.
const TARGET: i32 = 50;
/// Pods that it may ask for.
const FEWEST: i32 = 2;
const MOST: i32 = 6;
/// Requests a second that need the fewest pods.
const CALM: u32 = 20;
/// Pods that the load of the rollout needs at least.
const BUSY: i32 = 4;
/// Between two looks at the pods.
const LOOK: Duration = Duration::from_secs(1);
/// How long pods are counted after the autoscaler has asked for fewer, and after the rollout.
const A_WHILE: Duration = Duration::from_secs(10);

/// Up before the trial, down in it, and up again before its end.
pub async fn hpa_scales(args: &Args) -> Result<()> {
    let lab = Lab::open("hpa", "iris").await?;
    lab.apply_object(scaled(V1)?).await?;
    let autoscalers: Api<HorizontalPodAutoscaler> =
        Api::namespaced(lab.client.clone(), &lab.namespace);
    create(&autoscalers, autoscaler()).await?;
    let mut play = Play::under(CALM, lab.clone()).await?;
    play.watch(|model| model.spec.replicas >= FEWEST).await?;
    let busy = args.rate.saturating_sub(CALM).max(1);
    let burst = lab.traffic(busy, false).await?;
    event(&format!("{busy} more requests a second"));
    play.watch(|model| model.spec.replicas >= BUSY && ready_replicas(model) >= BUSY)
        .await?;
    let started_with = ready(&lab, "1.0.0").await?;
    let watched = Watched::start(lab.clone(), autoscalers.clone());

    lab.apply_object(scaled(V2)?).await?;
    play.watch(|model| weight(model) >= 25).await?;
    let mut others = burst.finish().await;
    event("the load goes down");
    play.watch(|model| model.spec.replicas < started_with || state(model).canary.is_none())
        .await?;
    let went_down = lab.model().await?;
    play.hold(A_WHILE).await?;
    let burst = lab.traffic(busy, false).await?;
    event("and up again");
    let low = went_down.spec.replicas;
    play.watch(|model| model.spec.replicas > low).await?;
    play.watch(|model| serves(model, "2.0.0")).await?;
    play.hold(A_WHILE).await?;
    let answered = |model: &ModelDeployment| ready_replicas(model) >= model.spec.replicas;
    let last = play.watch(|model| answered(model)).await?;
    let looks = watched.end().await?;
    others.0.extend(burst.finish().await.0);

    let mut checks = Checks::default();
    let said = rescales(&lab).await?;
    checks.claim(
        ["above target", "below target"]
            .iter()
            .all(|why| said.iter().any(|message| message.ends_with(why))),
        "the autoscaler writes the scale subresource",
        said.join("; "),
    );
    checks.claim(
        low < started_with && state(&went_down).canary.is_some(),
        "the autoscaler asks for fewer pods while version 2.0.0 is on trial",
        format!("{low} instead of {started_with}"),
    );
    judge(&mut checks, &looks, started_with);
    checks.claim(
        answered(&last) && serves(&last, "2.0.0"),
        "after the promotion, Ready pods, and how many the autoscaler asks for",
        format!("{}, {}", ready_replicas(&last), last.spec.replicas),
    );
    failed(&mut checks, "failed requests of the changing load", &others);
    play.end(checks, |_| true).await
}

/// What was seen, held against what the load needs.
fn judge(checks: &mut Checks, looks: &[Look], started_with: i32) {
    let at = |parts: &[Part]| -> Vec<&Look> {
        let is_at = |look: &&Look| look.part.is_some_and(|part| parts.contains(&part));
        looks.iter().filter(is_at).collect()
    };
    let trial = at(&[Part::Unweighted, Part::Weighted]);
    let asked: Vec<i32> = changes(trial.iter().map(|look| look.asked));
    checks.claim(
        asked.len() >= 2,
        "what the autoscaler asked for during the trial",
        format!("{asked:?} pods"),
    );
    let of = |version: &str, looks: &[&Look]| looks.iter().map(|look| look.ready(version)).min();
    let stable = of("1.0.0", &trial);
    checks.claim(
        stable.is_some_and(|fewest| fewest >= started_with),
        format!(
            "fewest Ready pods of stable in {} looks at the trial ({started_with} at its start)",
            trial.len()
        ),
        shown(stable),
    );
    let both = at(&[Part::Weighted, Part::Promoted]);
    let canary = of("2.0.0", &both);
    checks.claim(
        canary.is_some_and(|fewest| fewest >= started_with),
        format!(
            "fewest Ready pods of version 2.0.0 in {} looks, from its first weight to the end of \
             the old pods",
            both.len()
        ),
        shown(canary),
    );
    let alone = at(&[Part::Alone]);
    let asked = alone.iter().map(|look| look.asked).min().unwrap_or(0);
    let needed = asked.min(started_with);
    let fewest = of("2.0.0", &alone);
    checks.claim(
        fewest.is_some_and(|fewest| fewest >= needed),
        format!(
            "fewest Ready pods of version 2.0.0 in {} looks after the old pods ({needed} needed)",
            alone.len()
        ),
        shown(fewest),
    );
    let steps: BTreeSet<_> = looks.iter().filter_map(|look| look.step).collect();
    let numbers: BTreeSet<u32> = steps.iter().map(|(number, _)| *number).collect();
    checks.claim(
        steps.len() == numbers.len() && !steps.is_empty(),
        "steps that were seen, and how often one began again",
        format!("{}, {}", numbers.len(), steps.len() - numbers.len()),
    );
    let inactive = looks.iter().filter(|look| !look.active).count();
    checks.claim(
        inactive == 0 && !looks.is_empty(),
        format!(
            "looks of {} at which the autoscaler was not ScalingActive",
            looks.len()
        ),
        inactive,
    );
}

fn failed(checks: &mut Checks, what: &str, answers: &Answers) {
    checks.claim(
        answers.failed() == 0 && answers.count() > 0,
        what,
        format!(
            "{} of {} {:?}",
            answers.failed(),
            answers.count(),
            answers.failures()
        ),
    );
}

/// A manifest of the demo as one writes it for an autoscaler: without `replicas`.
fn scaled(manifest: &str) -> Result<Value> {
    let mut manifest: Value = serde_norway::from_str(manifest)?;
    server(&mut manifest["spec"])["resources"]["requests"]["cpu"] = CPU.into();
    let spec = manifest["spec"].as_object_mut().context("no spec")?;
    spec.remove("replicas");
    // How fast a machine of two cores answers under such a load is no matter of this scenario.
    spec["objectives"] = json!([{"name": "errors", "errorRate": {"max": "1%"}}]);
    spec.insert(
        "rollout".to_owned(),
        json!({
            "steps": [
                {"weight": 10, "minDuration": "10s"},
                {"weight": 25, "minDuration": "75s"},
                {"weight": 50, "minDuration": "15s"},
                {"weight": 100, "minDuration": "10s"},
            ],
            "bakeTime": "10s",
            "scaleDownDelay": "10s",
        }),
    );
    Ok(manifest)
}

fn autoscaler() -> Value {
    let at_once = json!({"stabilizationWindowSeconds": 0});
    json!({
        "metadata": {"name": "iris"},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": ModelDeployment::api_version(&()),
                "kind": ModelDeployment::kind(&()),
                "name": "iris",
            },
            "minReplicas": FEWEST,
            "maxReplicas": MOST,
            "metrics": [{"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": TARGET},
            }}],
            "behavior": {"scaleUp": at_once, "scaleDown": at_once},
        },
    })
}

/// What the autoscaler said of each write that succeeded, such as "New size: 4; reason: cpu
/// resource utilization (percentage of request) above target".
async fn rescales(lab: &Lab) -> Result<Vec<String>> {
    let events: Api<Event> = Api::namespaced(lab.client.clone(), &lab.namespace);
    let rescales = ListParams::default().fields("reason=SuccessfulRescale");
    let found = events.list(&rescales).await?;
    Ok(found
        .into_iter()
        .filter_map(|event| event.message)
        .collect())
}

fn ready_replicas(model: &ModelDeployment) -> i32 {
    model
        .status
        .as_ref()
        .map_or(0, |status| status.ready_replicas)
}

async fn ready(lab: &Lab, version: &str) -> Result<i32> {
    let is_ready = |pod: &Pod| {
        let conditions = pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
        ready.any(|condition| condition.status == "True")
    };
    let pods = lab.pods_of(version).await?;
    let ready = pods.iter().filter(|pod| is_ready(pod)).count();
    Ok(i32::try_from(ready)?)
}

/// A part of the rollout of version 2.0.0.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// On trial, without requests.
    Unweighted,
    /// On trial, with requests.
    Weighted,
    /// Promoted, while version 1.0.0 keeps its pods.
    Promoted,
    /// It serves, and version 1.0.0's pods are deleted.
    Alone,
}

impl Part {
    fn of(model: &ModelDeployment) -> Option<Self> {
        let state = state(model);
        match state.canary {
            Some(canary) if canary.weight == 0 => Some(Self::Unweighted),
            Some(_) => Some(Self::Weighted),
            None if state.phase == Phase::Promoting => Some(Self::Promoted),
            None => serves(model, "2.0.0").then_some(Self::Alone),
        }
    }
}

/// One look at the model, its pods and its autoscaler.
struct Look {
    /// `spec.replicas`.
    asked: i32,
    part: Option<Part>,
    /// The step, and since when it lasts.
    step: Option<(u32, Timestamp)>,
    ready: BTreeMap<&'static str, i32>,
    active: bool,
}

impl Look {
    /// The pods are counted between two looks at the model, and the part is what both saw.
    async fn at(lab: &Lab, autoscalers: &Api<HorizontalPodAutoscaler>) -> Result<Self> {
        let before = lab.model().await?;
        let mut pods = BTreeMap::new();
        for version in ["1.0.0", "2.0.0"] {
            pods.insert(version, ready(lab, version).await?);
        }
        let after = lab.model().await?;
        let autoscaler = autoscalers.get("iris").await?.status;
        let conditions = autoscaler.and_then(|status| status.conditions);
        let mut active = conditions
            .iter()
            .flatten()
            .filter(|one| one.type_ == "ScalingActive");
        let canary = state(&after).canary.and_then(|canary| canary.progress);
        let part = Part::of(&after).filter(|part| Part::of(&before) == Some(*part));
        Ok(Self {
            asked: after.spec.replicas,
            part,
            step: canary.map(|progress| (progress.step, progress.step_since)),
            ready: pods,
            active: active.any(|one| one.status == "True"),
        })
    }

    fn ready(&self, version: &str) -> i32 {
        self.ready.get(version).copied().unwrap_or_default()
    }
}

/// Looks, one a second, until it is ended.
struct Watched {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<Vec<Look>>>,
}

impl Watched {
    fn start(lab: Lab, autoscalers: Api<HorizontalPodAutoscaler>) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut looks = Vec::new();
            loop {
                looks.push(Look::at(&lab, &autoscalers).await?);
                tokio::select! {
                    _ = &mut stopped => return Ok(looks),
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        });
        Self { stop, task }
    }

    async fn end(self) -> Result<Vec<Look>> {
        // A task that has failed says so itself.
        let _ = self.stop.send(());
        self.task.await?
    }
}

/// Each value once for as long as it stays.
fn changes(values: impl Iterator<Item = i32>) -> Vec<i32> {
    let mut changes: Vec<i32> = values.collect();
    changes.dedup();
    changes
}

fn shown(fewest: Option<i32>) -> String {
    fewest.map_or_else(|| "none was seen".to_owned(), |fewest| fewest.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(asked: i32, part: Part, stable: i32, canary: i32) -> Look {
        Look {
            asked,
            part: Some(part),
            step: (part == Part::Weighted).then_some((0, Timestamp::UNIX_EPOCH)),
            ready: BTreeMap::from([("1.0.0", stable), ("2.0.0", canary)]),
            active: true,
        }
    }

    #[test]
    fn a_version_that_shrinks_in_the_trial_breaks_a_claim() {
        let kept = |looks: &[Look]| {
            let mut checks = Checks::default();
            judge(&mut checks, looks, 4);
            checks.finish().is_ok()
        };
        let good = || {
            vec![
                look(4, Part::Weighted, 4, 4),
                look(2, Part::Weighted, 4, 4),
                look(5, Part::Alone, 0, 5),
            ]
        };
        assert!(kept(&good()));
        let changed: [fn(&mut Look); 5] = [
            |look| look.ready = BTreeMap::from([("1.0.0", 3), ("2.0.0", 4)]),
            |look| look.ready = BTreeMap::from([("1.0.0", 4), ("2.0.0", 2)]),
            |look| look.active = false,
            |look| look.step = Some((0, Timestamp::MAX)),
            |look| look.asked = 4, // the autoscaler never moved
        ];
        for change in changed {
            let mut looks = good();
            change(&mut looks[1]);
            assert!(!kept(&looks));
        }
        let mut looks = good();
        looks[2].ready.insert("2.0.0", 3);
        assert!(!kept(&looks), "fewer than the load needs");
    }
}
