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
use serin::api::Phase;
use serin::api::conditions::reasons;

use super::checks::Checks;
use super::held::{HOLD, Held};
use super::load::Traffic;
use super::{Lab, has_ended};

/// A model that is held in a phase.
pub struct Subject {
    pub held: Held,
    pub lab: Lab,
    /// None while no version serves.
    pub traffic: Option<Traffic>,
}

/// What must be the same before and after.
#[derive(Debug, PartialEq)]
struct Account {
    phase: Phase,
    weight: u8,
    /// Index of the step, and since when it lasts.
    step: Option<(u32, Timestamp)>,
    stable: Option<String>,
    refused: Vec<String>,
    router_port: Option<u16>,
}

/// Pods by UID, with version and restarts.
type Pods = BTreeMap<String, (String, i32)>;

/// All that is looked at of one model.
pub struct Found {
    account: Account,
    pods: Pods,
    /// ControllerRevisions by name, with UID, number and data.
    history: BTreeMap<String, (Option<String>, i64, Value)>,
    decisions: Vec<(Timestamp, String)>,
}

/// All models.
pub async fn look(subjects: &[Subject]) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for subject in subjects {
        found.push(subject.look().await?);
    }
    Ok(found)
}

impl Subject {
    async fn look(&self) -> Result<Found> {
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
        Ok(Found {
            account: Account {
                phase: state.phase,
                weight: state.canary.as_ref().map_or(0, |canary| canary.weight),
                step: progress.map(|progress| (progress.step, progress.step_since)),
                stable: state.stable.map(|stable| stable.version),
                refused: state.refused.into_iter().map(|one| one.version).collect(),
                router_port: state.router_port,
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
        .list(&ListParams::default().labels("serin.dev/model"))
        .await?;
    let alive = list.into_iter().filter(|pod| !has_ended(pod));
    Ok(alive
        .map(|pod| {
            let version = pod.annotations().get("serin.dev/version").cloned();
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

/// What a person would see: nothing.
pub fn compare(subjects: &[Subject], before: &[Found], after: &[Found], checks: &mut Checks) {
    let all = || subjects.iter().zip(before).zip(after);
    let count: usize = before.iter().map(|found| found.pods.len()).sum();
    let replaced: Vec<String> = all()
        .filter(|((_, before), after)| before.pods != after.pods)
        .map(|((subject, before), after)| {
            format!("{:?}: {:?}, {:?}", subject.held, before.pods, after.pods)
        })
        .collect();
    checks.claim(
        replaced.is_empty() && count > subjects.len(),
        format!("of {count} pods of models, those that were restarted or replaced"),
        shown(&replaced),
    );
    let moved: Vec<String> = all()
        .filter(|((_, before), after)| before.account != after.account)
        .map(|((subject, before), after)| {
            format!(
                "{:?}: {:?}, {:?}",
                subject.held, before.account, after.account
            )
        })
        .collect();
    let phases: Vec<String> = all()
        .map(|((subject, _), after)| {
            format!(
                "{:?} {:?} {} %",
                subject.held, after.account.phase, after.account.weight
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
    let rewritten: Vec<Held> = all()
        .filter(|((_, before), after)| before.history != after.history || before.history.is_empty())
        .map(|((subject, _), _)| subject.held)
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
            ];
            let more: Vec<_> = news
                .filter(|(_, action)| !outage.contains(&action.as_str()))
                .collect();
            (!kept || !more.is_empty()).then(|| format!("{:?}: {kept} {more:?}", subject.held))
        })
        .collect();
    checks.claim(
        decided.is_empty(),
        "models whose decisions were lost, or about which more than a metrics outage was decided",
        shown(&decided),
    );
}

/// The version in force, its pods, and how long the steps took.
pub fn judge_end(subjects: &[Subject], after: &[Found], last: &[Found], checks: &mut Checks) {
    let all = || subjects.iter().zip(after).zip(last);
    let other: Vec<String> = all()
        .filter(|((subject, _), last)| {
            last.account.stable.as_deref() != Some(subject.held.in_the_end())
        })
        .map(|((subject, _), last)| format!("{:?}: {:?}", subject.held, last.account.stable))
        .collect();
    checks.claim(
        other.is_empty(),
        "models with another version in force than was to be",
        shown(&other),
    );
    let replaced: Vec<Held> = all()
        .filter(|((_, after), last)| {
            last.pods
                .iter()
                .any(|(uid, pod)| after.pods.get(uid) != Some(pod))
        })
        .map(|((subject, _), _)| subject.held)
        .collect();
    checks.claim(
        replaced.is_empty(),
        "models whose pods in the end are not those from before the upgrade",
        shown(&replaced),
    );
    for ((subject, after), last) in all() {
        let held = matches!(
            subject.held,
            Held::CanaryAt10 | Held::CanaryAt50 | Held::AtFull
        );
        if !held {
            continue;
        }
        let since = after.account.step.map(|(_, since)| since);
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
                subject.held,
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
