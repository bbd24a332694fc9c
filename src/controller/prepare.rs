//! The first phase: a model as it is found, with all that a decision may use.

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
    k8s::in_force,
    observe::{self, Children, ReadError, Refused, Snapshot},
    plan::draft,
    rollout::{self, Decision, Recording},
    router::{Report, unsupported},
};

/// Finalizers of a deletion that concerns the children first: they are deleted, or lose their
/// owner.
const COLLECTING: [&str; 2] = ["foregroundDeletion", "orphan"];

/// What a look found.
pub(super) enum Found {
    /// A model that something has to be decided about.
    Model(Box<Prepared>),
    /// None: it is gone, it is being collected, or it was looked at too often.
    Nothing(Action),
}

/// A model that something has to be decided about.
pub(super) struct Prepared {
    /// The model, read live.
    pub(super) model: ModelDeployment,
    /// Where its status is written.
    pub(super) api: Api<ModelDeployment>,
    /// Where its spec stands.
    pub(super) validity: SpecValidity,
    /// What exists of it.
    pub(super) children: Children,
    /// What the decision sees.
    pub(super) snapshot: Snapshot,
    /// When it was looked at.
    pub(super) now: Timestamp,
    /// When a version that the API server would refuse is tried again.
    pub(super) tried_again: Option<Duration>,
}

/// Looks at one model, by namespace and name.
pub(super) async fn observe(
    key @ (namespace, name): &(String, String),
    context: &Context,
) -> Result<Found, ReadError> {
    if let Err(wait) = context.attention.begin(key) {
        return Ok(Found::Nothing(Action::requeue(wait)));
    }
    let api: Api<ModelDeployment> = Api::namespaced(context.client.clone(), namespace);
    let Some(model) = observe::model(&api, &context.stores.models, namespace, name).await? else {
        context.recordings.forget(&format!("{namespace}/{name}"));
        return Ok(Found::Nothing(Action::await_change()));
    };
    let Some(mut validity) = validity(&model, context) else {
        // Its children are the garbage collector's.
        return Ok(Found::Nothing(Action::await_change()));
    };
    let now = context.clock.now();
    let mut children = observe::children(&context.stores, &model);
    let router = context.routers.of(&model.spec);
    let router = Report::of(router, &context.stores, &model);
    let known = &mut children.known;
    context.history.complete(&context.stores, &model, known);
    let is_nameless = names_no_version(&model);
    if is_nameless || validity == SpecValidity::Valid && wants_a_number(&model, &children) {
        let (client, known) = (&context.client, &mut children.known);
        match Box::pin(observe::history(client, &model, known)).await {
            Ok(()) => children.known_is_all = true,
            // Whether there is a version in force decides whether the spec's is the first one.
            Err(error) if is_nameless => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "a new version waits for its place in the history");
            }
        }
    }
    let (mut desired_refused, mut tried_again) = (None, None);
    if validity == SpecValidity::Valid && children.known_is_all {
        let refused = Box::pin(try_desired(&model, &children, context)).await;
        tried_again = refused.as_ref().and_then(|_| context.dry_runs.next(key));
        match refused {
            Some(Refused::Invalid(faults)) => validity = SpecValidity::Invalid(faults),
            Some(Refused::Denied(refusal)) => desired_refused = Some(refusal),
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
    /// The second phase: what comes next. Pure.
    pub(super) fn decide(&self, context: &Context) -> Decision {
        let (spec, snapshot) = (&self.model.spec, &self.snapshot);
        match self.validity.unfit() {
            Some(why) => rollout::withdraw_trial(spec, snapshot, self.now, why),
            None => rollout::decide(spec, snapshot, self.now, context.evidence.interval()),
        }
    }

    /// Keeps what was decided about a model on trial, to be replayed.
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

/// Where the spec stands; none where the model's children are being deleted or set free.
fn validity(model: &ModelDeployment, context: &Context) -> Option<SpecValidity> {
    if model.metadata.deletion_timestamp.is_some() {
        let collects = |finalizer: &String| COLLECTING.contains(&finalizer.as_str());
        let collected = model.finalizers().iter().any(collects);
        return (!collected).then_some(SpecValidity::Deleting);
    }
    let mut errors = validate(model, &context.limits);
    errors.extend(unsupported(context.routers.of(&model.spec), model));
    Some(if errors.is_empty() {
        SpecValidity::Valid
    } else {
        SpecValidity::Invalid(errors)
    })
}

/// Everything that the decision may use, in one value.
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
    let readings = if valid {
        context.evidence.read(model, &state, now).await
    } else {
        Vec::new()
    };
    for reading in &readings {
        context.metrics.looked(reading.is_ok());
    }
    let stable_rate = if valid && ready_to_start(model, &state, children) {
        context.evidence.stable_rate(model, &state, now).await
    } else {
        None
    };
    let unmeasurable = if valid {
        context.evidence.preflight(model, &state, now).await
    } else {
        Vec::new()
    };
    let attentive_since = context.attention.look(&model.key(), now, state.attended);
    let here_since = context.attention.here_since(&model.key(), now);
    let mut snapshot = Snapshot {
        desired: desired(&model.spec),
        commands: Commands::read(model.annotations()),
        state,
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
        let asked = observe::health(client, stores, model, &failing, cached);
        let health = Box::pin(asked).await; // rarely needed, and large
        snapshot.versions.insert(failing, health);
    }
    snapshot
}

/// Whether the canary's pods are there and it has no weight yet.
fn ready_to_start(model: &ModelDeployment, state: &State, children: &Children) -> bool {
    state.canary.as_ref().is_some_and(|canary| {
        let health = children.health.get(&canary.revision);
        canary.progress.is_none()
            && health.is_some_and(|health| health.has_capacity(model.spec.pods_needed()))
    })
}

/// Whether the spec's version may be about to get its place in the history. A canary with weight is
/// judged first.
fn wants_a_number(model: &ModelDeployment, children: &Children) -> bool {
    let status = model.status.as_ref();
    let canary = status.and_then(|status| status.state.canary.as_ref());
    canary.is_none_or(|canary| canary.weight == 0)
        && !children.known.contains_key(&desired(&model.spec).revision)
}

/// Why the API server would refuse the spec's version, where that is not recorded yet.
async fn try_desired(
    model: &ModelDeployment,
    children: &Children,
    context: &Context,
) -> Option<Refused> {
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
        version: spec.model.version.clone(),
    }
}
