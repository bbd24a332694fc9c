//! The first phase: a model as it is observed, with all that a decision may use.

use std::time::Duration;

use jiff::Timestamp;
use kube::{Api, ResourceExt};
use kube_runtime::controller::Action;

use super::{context::Context, status::SpecValidity};
use crate::{
    api::{
        Commands, ModelDeployment, ModelDeploymentSpec, State, VersionRef, VersionSpec,
        validate::validate,
    },
    k8s::{in_force, stable_before},
    observe::{self, Children, DryRunRefusal, ReadError, Snapshot},
    plan::draft,
    rollout::{self, Decision, Recording},
    router::{Report, unsupported},
};

/// Finalizers of a deletion in which the children are deleted, or lose their owner, before the
/// model goes.
const COLLECTING: [&str; 2] = ["foregroundDeletion", "orphan"];

/// What was observed.
pub(super) enum Found {
    /// A model to decide about.
    Model(Box<Prepared>),
    /// None: it is gone, its children are being deleted, or it was reconciled too often.
    Nothing(Action),
}

/// A model to decide about.
pub(super) struct Prepared {
    /// The model, read live.
    pub(super) model: ModelDeployment,
    /// The API by which its status is written.
    pub(super) api: Api<ModelDeployment>,
    /// Whether its spec can be used.
    pub(super) validity: SpecValidity,
    /// Its objects.
    pub(super) children: Children,
    /// What the decision sees.
    pub(super) snapshot: Snapshot,
    /// When it was observed.
    pub(super) now: Timestamp,
    /// The time until a Deployment that the API server would refuse is tried again.
    pub(super) tried_again: Option<Duration>,
}

/// Observes one model, by namespace and name.
///
/// # Errors
/// The model could not be read, or its history could not and its status names no version.
pub(super) async fn observe(
    key @ (namespace, name): &(String, String),
    context: &Context,
) -> Result<Found, ReadError> {
    if let Err(wait) = context.tracker.begin(key) {
        return Ok(Found::Nothing(Action::requeue(wait)));
    }
    let api: Api<ModelDeployment> = Api::namespaced(context.client.clone(), namespace);
    let Some(model) = observe::model(&api, &context.stores.models, namespace, name).await? else {
        context.recordings.forget(&format!("{namespace}/{name}"));
        return Ok(Found::Nothing(Action::await_change()));
    };
    let Some(mut validity) = validity(&model, context) else {
        // The garbage collector has its children.
        return Ok(Found::Nothing(Action::await_change()));
    };
    let now = context.clock.now();
    let mut children = observe::children(&context.stores, &model);
    let router = context.routers.of(&model.spec);
    let router = Report::of(router, &context.stores, &model, now);
    let known = &mut children.known;
    context.history.complete(&context.stores, &model, known);
    let is_nameless = names_no_version(&model);
    if is_nameless || validity == SpecValidity::Valid && wants_a_number(&model, &children) {
        let (client, known) = (&context.client, &mut children.known);
        match Box::pin(observe::history(client, &model, known)).await {
            Ok(()) => children.known_is_all = true,
            // Only the history says whether the spec's version is the first one.
            Err(error) if is_nameless => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "a new version waits until the history can be read");
            }
        }
    }
    let (mut desired_refused, mut tried_again) = (None, None);
    if validity == SpecValidity::Valid && children.known_is_all {
        let refused = Box::pin(try_desired(&model, &children, context)).await;
        tried_again = refused.as_ref().and_then(|_| context.dry_runs.next(key));
        match refused {
            Some(DryRunRefusal::Invalid(faults)) => validity = SpecValidity::Invalid(faults),
            Some(DryRunRefusal::Denied(refusal)) => desired_refused = Some(refusal),
            None => {}
        }
    }
    let mut snapshot = snapshot(&model, &children, router, &validity, context, now).await;
    snapshot.desired_refused = desired_refused;
    Ok(Found::Model(Box::new(Prepared {
        model,
        api,
        validity,
        children,
        snapshot,
        now,
        tried_again,
    })))
}

impl Prepared {
    /// The second phase: decides what comes next. Pure.
    pub(super) fn decide(&self, context: &Context) -> Decision {
        let (spec, snapshot) = (&self.model.spec, &self.snapshot);
        match self.validity.unfit() {
            Some(why) => rollout::withdraw_trial(spec, snapshot, self.now, why),
            None => rollout::decide(spec, snapshot, self.now, context.evidence.interval()),
        }
    }

    /// Keeps a decision about a trial, for `serin-operator replay`.
    pub(super) fn record(&self, decision: &Decision, context: &Context) {
        if self.snapshot.state.canary.is_none() && decision.records.is_empty() {
            return;
        }
        let (namespace, name) = self.model.key();
        context.recordings.keep(&Recording {
            model: format!("{namespace}/{name}"),
            now: self.now,
            interval: context.evidence.interval().into(),
            unfit: self.validity.unfit(),
            spec: Recording::spec(&self.model.spec),
            snapshot: self.snapshot.clone(),
            decision: Some(decision.clone()),
        });
    }
}

/// Whether the spec can be used. `None` where the model's children are being deleted or lose their
/// owner.
fn validity(model: &ModelDeployment, context: &Context) -> Option<SpecValidity> {
    if model.metadata.deletion_timestamp.is_some() {
        let collects = |finalizer: &String| COLLECTING.contains(&finalizer.as_str());
        let collected = model.finalizers().iter().any(collects);
        return (!collected).then_some(SpecValidity::Deleting);
    }
    let mut errors = validate(model, &context.limits);
    errors.extend(context.routers.ambiguity(&model.spec));
    errors.extend(unsupported(context.routers.of(&model.spec), model));
    Some(if errors.is_empty() {
        SpecValidity::Valid
    } else {
        SpecValidity::Invalid(errors)
    })
}

/// Everything that the decision may use.
async fn snapshot(
    model: &ModelDeployment,
    children: &Children,
    router: Report,
    validity: &SpecValidity,
    context: &Context,
    now: Timestamp,
) -> Snapshot {
    let valid = *validity == SpecValidity::Valid;
    let mut state = model
        .status
        .as_ref()
        .map(|status| status.state.clone())
        .unwrap_or_default();
    let in_force = match state.stable {
        Some(_) => None,
        None => in_force(&children.known),
    };
    let (stores, was_lost) = (&context.stores, in_force.is_some());
    let free_port = context
        .routers
        .of(&model.spec)
        .port(stores, model, &mut state, was_lost);
    let memory = context.memories.of(model, &state, stores);
    let readings = if valid {
        let gates = rollout::resume(&model.spec, &state, memory.as_ref(), now);
        context.evidence.read(model, &state, &gates, now).await
    } else {
        Vec::new()
    };
    for reading in &readings {
        context.metrics.looked(reading.is_ok());
    }
    // A version that goes back within the window is not judged.
    let judged = valid && !state.canary.as_ref().is_some_and(|canary| canary.rollback);
    let stable_rate = if judged && ready_to_start(model, &state, children) {
        context.evidence.stable_rate(model, &state, now).await
    } else {
        None
    };
    let unmeasurable = if judged {
        context.evidence.preflight(model, &state, now).await
    } else {
        Vec::new()
    };
    let attentive_since = context
        .tracker
        .track(&model.key(), now, state.observed_time);
    let here_since = context.tracker.here_since(&model.key(), now);
    let desired = desired(&model.spec);
    let mut snapshot = Snapshot {
        stable_before: stable_before(&children.known, &state, &desired.revision),
        desired,
        commands: Commands::read(model.annotations()),
        state,
        memory,
        in_force,
        desired_refused: None,
        free_port,
        router,
        versions: children.health.clone(),
        readings,
        unmeasurable,
        refused: context.applier.refused(&model.key()),
        stable_rate,
        attentive_since,
        here_since,
    };
    if let Some(failing) = rollout::failing_version(&model.spec, &snapshot, now).cloned() {
        let cached = snapshot.health(&failing);
        let (client, stores) = (&context.client, &context.stores);
        let read = observe::health(client, stores, model, &failing, cached);
        let health = Box::pin(read).await; // rarely needed, and large
        snapshot.versions.insert(failing, health);
    }
    snapshot
}

/// Whether the canary has all its pods and no weight yet.
fn ready_to_start(model: &ModelDeployment, state: &State, children: &Children) -> bool {
    state.canary.as_ref().is_some_and(|canary| {
        let health = children.health.get(&canary.revision);
        canary.progress.is_none()
            && health.is_some_and(|health| health.has_capacity(model.spec.pods_needed()))
    })
}

/// Whether the spec's version may be about to be recorded in the history. A canary with weight is
/// judged first.
fn wants_a_number(model: &ModelDeployment, children: &Children) -> bool {
    let status = model.status.as_ref();
    let canary = status.and_then(|status| status.state.canary.as_ref());
    canary.is_none_or(|canary| canary.weight == 0)
        && !children.known.contains_key(&desired(&model.spec).revision)
}

/// Why the API server would refuse the Deployment of the spec's version. Only a version that is not
/// recorded yet is tried.
async fn try_desired(
    model: &ModelDeployment,
    children: &Children,
    context: &Context,
) -> Option<DryRunRefusal> {
    let (revision, deployment) = draft(model, &context.defaults)?;
    if children.known.contains_key(&revision) {
        return None;
    }
    let (client, dry_runs) = (&context.client, &context.dry_runs);
    dry_runs
        .refused(client, model, &revision, &deployment)
        .await
}

/// Whether the status names no version: the model is new, or its status was lost.
fn names_no_version(model: &ModelDeployment) -> bool {
    let state = model.status.as_ref().map(|status| &status.state);
    state.is_none_or(|state| state.stable.is_none() && state.canary.is_none())
}

fn desired(spec: &ModelDeploymentSpec) -> VersionRef {
    VersionRef {
        revision: VersionSpec::of(spec).revision(),
        version: spec.version_name(),
    }
}
