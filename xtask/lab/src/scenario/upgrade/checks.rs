//! What is known of models before and after an upgrade, and what must be the same.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::Value;
use serin::api::conditions::reasons;
use serin::api::{MODEL_LABEL, Phase};
use serin::plan::VERSION_ANNOTATION;

use super::super::checks::Checks;
use super::super::situation::Situation;
use super::super::traffic::Traffic;
use super::super::{Lab, has_ended};
use super::states::{HOLD, final_version};

/// A model that is held in a situation.
pub struct Subject {
    pub situation: Situation,
    pub lab: Lab,
    /// None while no version serves.
    pub traffic: Option<Traffic>,
}

/// What must be the same before and after.
#[derive(Debug, PartialEq)]
struct Preserved {
    phase: Phase,
    weight: u8,
    /// Index of the step, and since when it lasts.
    step: Option<(u32, Timestamp)>,
    stable: Option<String>,
    refused: Vec<String>,
    listener_port: Option<u16>,
}

/// Pods by UID, with version and restarts.
type Pods = BTreeMap<String, (String, i32)>;

/// All that is compared of one model.
pub struct Observed {
    preserved: Preserved,
    pods: Pods,
    /// ControllerRevisions by name, with UID, number and data.
    history: BTreeMap<String, (Option<String>, i64, Value)>,
    decisions: Vec<(Timestamp, String)>,
}

/// Reads all models.
pub async fn observe(subjects: &[Subject]) -> Result<Vec<Observed>> {
    let mut found = Vec::new();
    for subject in subjects {
        found.push(subject.observe().await?);
    }
    Ok(found)
}

impl Subject {
    async fn observe(&self) -> Result<Observed> {
        let lab = &self.lab;
        let state = lab.state().await?;
        let progress = state
            .canary
            .as_ref()
            .and_then(|canary| canary.progress.as_ref());
        let revisions: Api<ControllerRevision> =
            Api::namespaced(lab.client.clone(), &lab.namespace);
        let revisions = revisions.list(&ListParams::default()).await?;
        let history = revisions.into_iter().map(|one| {
            let entry = (
                one.uid(),
                one.revision.unwrap_or_default(),
                one.data.0.clone(),
            );
            (one.name_any(), entry)
        });
        Ok(Observed {
            preserved: Preserved {
                phase: state.phase,
                weight: state.canary.as_ref().map_or(0, |canary| canary.weight),
                step: progress.map(|progress| (progress.step, progress.step_since)),
                stable: state.stable.map(|stable| stable.version),
                refused: state.refused.into_iter().map(|one| one.version).collect(),
                listener_port: state.listener_port,
            },
            pods: pods(lab).await?,
            history: history.collect(),
            decisions: state
                .decisions
                .into_iter()
                .map(|one| (one.at, one.action))
                .collect(),
        })
    }
}

/// Every pod of the model that still has a process, or never had one.
async fn pods(lab: &Lab) -> Result<Pods> {
    let pods: Api<Pod> = Api::namespaced(lab.client.clone(), &lab.namespace);
    let list = pods
        .list(&ListParams::default().labels(MODEL_LABEL))
        .await?;
    let alive = list.into_iter().filter(|pod| !has_ended(pod));
    Ok(alive
        .map(|pod| {
            let version = pod.annotations().get(VERSION_ANNOTATION).cloned();
            let statuses = pod
                .status
                .iter()
                .flat_map(|status| status.container_statuses.iter().flatten());
            let restarts = statuses.map(|status| status.restart_count).sum();
            (
                pod.uid().unwrap_or_default(),
                (version.unwrap_or_default(), restarts),
            )
        })
        .collect())
}

/// Claims that the upgrade changed nothing.
pub fn compare(subjects: &[Subject], before: &[Observed], after: &[Observed], checks: &mut Checks) {
    let all = || subjects.iter().zip(before).zip(after);
    let count: usize = before.iter().map(|found| found.pods.len()).sum();
    let replaced: Vec<String> = all()
        .filter(|((_, before), after)| before.pods != after.pods)
        .map(|((subject, before), after)| {
            format!(
                "{:?}: {:?}, {:?}",
                subject.situation, before.pods, after.pods
            )
        })
        .collect();
    checks.claim(
        replaced.is_empty() && count > subjects.len(),
        format!("of {count} pods of models, those that were restarted or replaced"),
        shown(&replaced),
    );
    let moved: Vec<String> = all()
        .filter(|((_, before), after)| before.preserved != after.preserved)
        .map(|((subject, before), after)| {
            format!(
                "{:?}: {:?}, {:?}",
                subject.situation, before.preserved, after.preserved
            )
        })
        .collect();
    let phases: Vec<String> = all()
        .map(|((subject, _), after)| {
            format!(
                "{:?} {:?} {} %",
                subject.situation, after.preserved.phase, after.preserved.weight
            )
        })
        .collect();
    checks.claim(
        moved.is_empty(),
        format!(
            "models with another phase, weight, step, stable version, refusal or port ({})",
            phases.join(", ")
        ),
        shown(&moved),
    );
    let rewritten: Vec<Situation> = all()
        .filter(|((_, before), after)| before.history != after.history || before.history.is_empty())
        .map(|((subject, _), _)| subject.situation)
        .collect();
    checks.claim(
        rewritten.is_empty(),
        "models with another history (ControllerRevisions by name, UID, number and data)",
        shown(&rewritten),
    );
    let decided: Vec<String> = all()
        .filter_map(|((subject, before), after)| {
            let kept = after.decisions.starts_with(&before.decisions);
            let news = after.decisions.iter().skip(before.decisions.len());
            // The bundled Prometheus is replaced, too. After an outage it is said again what is
            // waited for.
            let outage = [
                reasons::METRICS_OUTAGE,
                reasons::METRICS_BACK,
                reasons::AWAITING_APPROVAL,
                reasons::STEP_PAUSED,
            ];
            let more: Vec<_> = news
                .filter(|(_, action)| !outage.contains(&action.as_str()))
                .collect();
            (!kept || !more.is_empty()).then(|| format!("{:?}: {kept} {more:?}", subject.situation))
        })
        .collect();
    checks.claim(
        decided.is_empty(),
        "models whose decisions were lost, or about which more than a metrics outage was decided",
        shown(&decided),
    );
}

/// The version in force, its pods, and how long the steps took.
pub fn judge_end(subjects: &[Subject], after: &[Observed], last: &[Observed], checks: &mut Checks) {
    let all = || subjects.iter().zip(after).zip(last);
    let other: Vec<String> = all()
        .filter(|((subject, _), last)| {
            last.preserved.stable.as_deref() != Some(final_version(subject.situation))
        })
        .map(|((subject, _), last)| format!("{:?}: {:?}", subject.situation, last.preserved.stable))
        .collect();
    checks.claim(
        other.is_empty(),
        "models with another version in force than was to be",
        shown(&other),
    );
    let replaced: Vec<Situation> = all()
        .filter(|((_, after), last)| {
            last.pods
                .iter()
                .any(|(uid, pod)| after.pods.get(uid) != Some(pod))
        })
        .map(|((subject, _), _)| subject.situation)
        .collect();
    checks.claim(
        replaced.is_empty(),
        "models whose pods in the end are not those from before the upgrade",
        shown(&replaced),
    );
    for ((subject, after), last) in all() {
        let held = matches!(
            subject.situation,
            Situation::Canary10 | Situation::Canary50 | Situation::Canary100
        );
        if !held {
            continue;
        }
        let since = after.preserved.step.map(|(_, since)| since);
        let moved = last.decisions.iter().find(|(at, action)| {
            let moves = [reasons::STEP_ADVANCED, reasons::PROMOTED];
            since.is_some_and(|since| *at > since) && moves.contains(&action.as_str())
        });
        let took = since
            .zip(moved)
            .map(|(since, (at, _))| at.duration_since(since));
        checks.claim(
            took.and_then(|took| Duration::try_from(took).ok())
                .is_some_and(|took| took >= HOLD),
            format!(
                "{:?}: time in its step, begun before the upgrade and of at least {} s",
                subject.situation,
                HOLD.as_secs()
            ),
            took.map_or_else(
                || "it did not end".to_owned(),
                |took| format!("{} s", took.as_secs()),
            ),
        );
    }
}

/// A list in words.
pub fn shown<T: std::fmt::Debug>(list: &[T]) -> String {
    if list.is_empty() {
        "none".to_owned()
    } else {
        format!("{list:?}")
    }
}
