//! Operator, chart and CRD of an earlier release are upgraded to this one while a model is in each
//! phase that there is, all under traffic: no pod of a model notices, and no state is lost.
//!
//! The earlier operator is compiled from that commit by its own Dockerfile. The serving image is
//! this tree's before and after: versions keep the one that they were made with.

mod checks;
mod states;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use deploy::NAMESPACE;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, CustomResourceExt, ResourceExt};
use serde_json::{Value, json};
use serin::api::{ModelDeployment, SCHEMA, SCHEMA_ANNOTATION};
use tokio::task::JoinSet;

use self::checks::{Subject, compare, judge_end, observe, shown};
use self::states::{BAD, HOLD, ROOM};
use super::checks::Checks;
use super::command_scenario::kubectl_serin;
use super::faults::{ROLLOUT, state, weight};
use super::situation::Situation;
use super::timeline::{event, headline};
use super::traffic::Traffic;
use super::{Lab, has_ended, is_ready, leader};

/// Requests a second to each model.
const RATE: u32 = 10;
/// Longest time from the upgrade until the new operator has read each spec.
const TAKEN_OVER: Duration = Duration::from_secs(90);
/// Longest time until the pods that the chart replaced have gone: routers drain for up to 60 s.
const REPLACED: Duration = Duration::from_secs(120);
/// Between two looks at all models.
const LOOK: Duration = Duration::from_secs(1);
/// Every phase, the upgrade, and the end of every rollout.
pub async fn upgraded(upgrade: &[OsString]) -> Result<()> {
    let client = Client::try_default().await?;
    give_room(&client, false).await?;
    headline("Models of the earlier release, one in each phase");
    let mut subjects = begin().await?;
    let began = Instant::now();
    follow(&subjects, began).await?;
    let before = observe(&subjects).await?;
    let old = Parts::of(&client).await?;
    ensure!(
        old.schema <= SCHEMA,
        "the CRD is a newer release's: it would not be upgraded"
    );

    headline("helm upgrade");
    let upgraded_at = Timestamp::now();
    run(upgrade).await?;
    event("helm has upgraded the chart");
    let new = Parts::replaced(&client, &old).await?;
    let unread = unread(&subjects).await?;
    let after = observe(&subjects).await?;
    ensure!(
        began.elapsed() < HOLD,
        "reaching the situations and the upgrade took longer than the {} s for which they are held",
        HOLD.as_secs()
    );
    let mut checks = Checks::default();
    old.judge(&new, &mut checks);
    checks.claim(
        unread.is_empty(),
        "models whose spec the new operator has not read",
        shown(&unread),
    );
    compare(&subjects, &before, &after, &mut checks);

    headline("Every rollout ends");
    release(&client, &mut subjects).await?;
    let ended = end(&subjects).await?;
    checks.claim(
        ended.is_empty(),
        "rollouts that did not end as they would have",
        shown(&ended),
    );
    let last = observe(&subjects).await?;
    judge_end(&subjects, &after, &last, &mut checks);
    give_room(&client, false).await?;
    judge_answers(subjects, upgraded_at, &mut checks).await;
    checks.finish()
}

/// Counts the failures of all models.
async fn judge_answers(subjects: Vec<Subject>, upgraded_at: Timestamp, checks: &mut Checks) {
    let (mut all, mut failed) = (0, Vec::new());
    for Subject {
        situation, traffic, ..
    } in subjects
    {
        let Some(traffic) = traffic else { continue };
        for answer in traffic.settled().await.0 {
            // The bad version's own errors are why it was rolled back.
            if answer.version.as_deref() == Some(BAD) {
                continue;
            }
            all += 1;
            let due = traffic.moment(answer.sent);
            if answer.is_ok() {
                continue;
            }
            let seconds = due.duration_since(upgraded_at).as_secs_f64();
            let after = answer.latency().as_millis();
            failed.push(format!(
                "{situation:?} at {seconds:.1} s after {after} ms: {:?}",
                answer.status
            ));
        }
        traffic.finish().await;
    }
    checks.claim(
        failed.is_empty(),
        format!(
            "of {all} requests to all models, until the end of each rollout, those that failed"
        ),
        shown(&failed),
    );
}

/// First versions in force and under traffic, then the second ones.
async fn begin() -> Result<Vec<Subject>> {
    let mut opened = JoinSet::new();
    for situation in states::ALL {
        opened.spawn(async move {
            let lab = Lab::open(&states::namespace(situation), "iris").await?;
            lab.apply_object(states::first(situation)?).await?;
            anyhow::Ok((situation, lab))
        });
    }
    let mut subjects = Vec::new();
    for opened in opened.join_all().await {
        let (situation, lab) = opened?;
        let mut traffic = None;
        if situation != Situation::Pending {
            lab.wait("Ready", ROLLOUT, is_ready).await?;
            traffic = Some(Traffic::start_slow(&lab.url(), RATE)?);
        }
        subjects.push(Subject {
            situation,
            lab,
            traffic,
        });
    }
    subjects.sort_by_key(|subject| subject.situation as u8);
    for subject in &subjects {
        if let Some(second) = states::second(subject.situation)? {
            subject.lab.apply_object(second).await?;
        }
    }
    Ok(subjects)
}

/// Waits until each model is where it is to be held.
async fn follow(subjects: &[Subject], began: Instant) -> Result<()> {
    let deadline = began + ROLLOUT;
    let mut open: Vec<&Subject> = subjects.iter().collect();
    while !open.is_empty() {
        let mut left = Vec::new();
        for subject in open {
            let (situation, lab) = (subject.situation, &subject.lab);
            let model = lab.model().await?;
            let pauses = situation == Situation::Paused && !model.spec.rollout.paused;
            if pauses && weight(&model) == 25 {
                kubectl_serin(&states::namespace(situation), &["pause", "iris"]).await?;
            }
            let bad = situation == Situation::Refused && !lab.pods_of(BAD).await?.is_empty();
            if situation.is_reached(&model) && !bad {
                println!("{:>7.1}s  {situation:?}", began.elapsed().as_secs_f64());
            } else if Instant::now() > deadline {
                bail!(
                    "{situation:?} is not reached:\n{}",
                    serin::report::report(&model)
                );
            } else {
                left.push(subject);
            }
        }
        open = left;
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Serin's own parts.
struct Parts {
    operators: BTreeSet<String>,
    routers: BTreeSet<String>,
    leader: String,
    /// The CRD's.
    schema: u32,
}

impl Parts {
    async fn of(client: &Client) -> Result<Self> {
        let of = |name: &'static str| async move {
            let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
            let labels = format!("app.kubernetes.io/name={name}");
            let list = pods.list(&ListParams::default().labels(&labels)).await?;
            let alive = list.into_iter().filter(|pod| !has_ended(pod));
            anyhow::Ok(alive.filter_map(|pod| pod.uid()).collect())
        };
        let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
        let crd = crds.get(ModelDeployment::crd_name()).await?;
        let schema = crd.annotations().get(SCHEMA_ANNOTATION);
        Ok(Self {
            operators: of("serin-operator").await?,
            routers: of("serin-router").await?,
            leader: leader(client).await.unwrap_or_default(),
            schema: schema.and_then(|schema| schema.parse().ok()).unwrap_or(1),
        })
    }

    /// The parts once those that the chart replaces have gone and a new operator leads, or as they
    /// are after 2 minutes.
    async fn replaced(client: &Client, old: &Self) -> Result<Self> {
        let deadline = Instant::now() + REPLACED;
        loop {
            let new = Self::of(client).await?;
            let leads = new.operators.contains(&new.leader);
            if (old.is_replaced_by(&new) && leads) || Instant::now() > deadline {
                return Ok(new);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether all operators are others, and the routers too or, where the chart changes nothing
    /// of theirs, none.
    fn is_replaced_by(&self, new: &Self) -> bool {
        let operators_left = self.operators.intersection(&new.operators).count();
        let routers_left = self.routers.intersection(&new.routers).count();
        operators_left == 0 && (routers_left == 0 || self.routers == new.routers)
    }

    /// Claims that the upgrade took place.
    fn judge(&self, new: &Self, checks: &mut Checks) {
        checks.claim(
            !self.operators.is_empty() && !self.routers.is_empty() && self.is_replaced_by(new),
            "operators and routers of the earlier release, and how many of them are left",
            format!(
                "{} and {}, {} and {}",
                self.operators.len(),
                self.routers.len(),
                self.operators.intersection(&new.operators).count(),
                self.routers.intersection(&new.routers).count()
            ),
        );
        checks.claim(
            new.operators.contains(&new.leader),
            "an operator of this release leads",
            format!("{} of {}", new.leader, new.operators.len()),
        );
        checks.claim(
            self.schema <= SCHEMA && new.schema == SCHEMA,
            "the CRD's schema before and after",
            format!("{}, {}", self.schema, new.schema),
        );
    }
}

/// Changes something in each spec that is no part of a version, and waits until the new operator
/// has read it. Returns the models where it has not.
async fn unread(subjects: &[Subject]) -> Result<Vec<Situation>> {
    for subject in subjects {
        let lab = &subject.lab;
        let change = Patch::Merge(json!({"spec": {"revisionHistoryLimit": 9}}));
        let params = PatchParams::default();
        lab.models().patch(&lab.name, &params, &change).await?;
    }
    let deadline = Instant::now() + TAKEN_OVER;
    loop {
        let mut open = Vec::new();
        for subject in subjects {
            let model = subject.lab.model().await?;
            let read = model
                .status
                .as_ref()
                .and_then(|status| status.observed_generation);
            if read != model.metadata.generation {
                open.push(subject.situation);
            }
        }
        if open.is_empty() || Instant::now() > deadline {
            return Ok(open);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Ends what a person or a node holds up.
async fn release(client: &Client, subjects: &mut [Subject]) -> Result<()> {
    give_room(client, true).await?;
    for subject in subjects {
        let namespace = states::namespace(subject.situation);
        match subject.situation {
            Situation::Paused => kubectl_serin(&namespace, &["resume", "iris"]).await?,
            Situation::AwaitingApproval => kubectl_serin(&namespace, &["promote", "iris"]).await?,
            Situation::Pending => {
                subject.lab.wait("Ready", ROLLOUT, is_ready).await?;
                subject.traffic = Some(Traffic::start_slow(&subject.lab.url(), RATE)?);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Waits until each rollout has ended. Returns those that have not.
async fn end(subjects: &[Subject]) -> Result<Vec<String>> {
    let began = Instant::now();
    let deadline = began + HOLD + ROLLOUT;
    let mut open: Vec<&Subject> = subjects.iter().collect();
    while !open.is_empty() && Instant::now() < deadline {
        let mut left = Vec::new();
        for subject in open {
            let model = subject.lab.model().await?;
            if states::has_ended(subject.situation, &model) {
                let stable = state(&model)
                    .stable
                    .map(|stable| stable.version)
                    .unwrap_or_default();
                println!(
                    "{:>7.1}s  {:?}: {stable}",
                    began.elapsed().as_secs_f64(),
                    subject.situation
                );
            } else {
                left.push(subject);
            }
        }
        open = left;
        tokio::time::sleep(LOOK).await;
    }
    let mut words = Vec::new();
    for subject in open {
        words.push(format!(
            "{:?}: {}",
            subject.situation,
            serin::report::report(&subject.lab.model().await?)
        ));
    }
    Ok(words)
}

/// Whether nodes have the label that pods wait for.
async fn give_room(client: &Client, given: bool) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let value = if given { json!("true") } else { Value::Null };
    let patch = json!({"metadata": {"labels": {ROOM: value}}});
    for node in nodes.list(&ListParams::default()).await? {
        nodes
            .patch(
                &node.name_any(),
                &PatchParams::default(),
                &Patch::Merge(&patch),
            )
            .await?;
    }
    Ok(())
}

/// Runs a command to its end.
async fn run(command: &[OsString]) -> Result<()> {
    let (program, arguments) = command.split_first().context("no command upgrades Serin")?;
    let output = tokio::process::Command::new(program)
        .args(arguments)
        .output()
        .await?;
    if !output.status.success() {
        bail!(
            "helm cannot upgrade: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
