//! One reconcile: observe, decide, plan, apply, status. The order of writes is the design:
//!
//! 1. a move back to stable is written before anything else; that one write *is* the move, since routers follow status;
//! 2. a move forward is written only after the cluster has what the state before it says;
//! 3. objects follow the state that is persisted, so a crash between any two writes re-applies and never skips;
//! 4. an object that the API server refuses holds up no look, no status and no other object, only moves forward;
//! 5. pods and objects are taken away only by a state that the API server has just confirmed to be the one in force.

pub mod apply;
pub mod clock;
pub mod events;
pub mod metrics;
mod persist;
pub mod recordings;
pub mod status;

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use kube::{Api, Client, ResourceExt};
use kube_runtime::{
    controller::{self, Action, Config, Controller},
    reflector::ObjectRef,
};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use self::persist::{persist, replace_status};
use crate::{
    api::{
        Commands, ModelDeployment, ModelDeploymentSpec, State, VersionRef, VersionSpec,
        validate::{Limits, validate},
    },
    controller::{
        apply::{Applier, ApplyError, Basis},
        clock::Clock,
        events::Events,
        metrics::Metrics,
        recordings::Recordings,
        status::Standing,
    },
    k8s::{Dirty, NoAnswer, Stores, in_force, is_code, words},
    observe::{self, Attention, Children, DryRuns, ReadError, Refused, Snapshot},
    plan::{Given, Site, draft, plan},
    rollout::{self, Decision, Recording},
    router::{Reachability, Report, Router, unsupported},
};

/// First pause after somebody else wrote first; each further one doubles it, up to [`FIRST_PAUSE`].
const CONFLICT_PAUSE: Duration = Duration::from_millis(50);
/// First pause after a failed reconcile; each further one doubles it, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause after failed reconciles. While a canary has weight this is the longest time without a look.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Pause before a model's address is asked again that did not answer.
const UNANSWERED_PAUSE: Duration = Duration::from_millis(200);
/// Finalizers of a deletion that concerns the children first: they are deleted, or lose their owner.
const COLLECTING: [&str; 2] = ["foregroundDeletion", "orphan"];

/// What every reconcile shares.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The time.
    pub clock: Clock,
    /// Caches of what exists.
    pub stores: Stores,
    /// Settings that shape objects.
    pub site: Site,
    /// What the operator's user allows.
    pub limits: Limits,
    /// Where the evidence is.
    pub evidence: observe::Evidence,
    /// Applies plans.
    pub applier: Applier,
    /// Places in the history of versions in use.
    pub history: observe::History,
    /// Tries what new versions would need.
    pub dry_runs: DryRuns,
    /// Publishes decisions.
    pub events: Events,
    /// Since when each model has been looked at.
    pub attention: Attention,
    /// The operator's own metrics.
    pub metrics: Arc<Metrics>,
    /// What moves traffic.
    pub router: Arc<dyn Router>,
    /// The last decisions, to be replayed.
    pub recordings: Arc<Recordings>,
    /// Failed reconciles in a row, by model.
    pub failures: Mutex<HashMap<(String, String), u32>>,
}

/// Why a reconcile failed; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// An object could not be brought about.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The ModelDeployment could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The status could not be written; a conflict means that somebody else wrote, and all is decided anew.
    #[error("cannot write the status: {}", words(.0))]
    Status(#[source] kube::Error),
    /// The API server did not answer in time.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// The reconcile panicked; other models are not concerned.
    #[error("the reconcile panicked: {0}")]
    Panic(String),
}

/// Reconciles every model once, then those that are `dirty`, until `stop`.
pub async fn run(context: Arc<Context>, dirty: Dirty, concurrency: u16, stop: CancellationToken) {
    // Before all are listed: what changes meanwhile is marked.
    let marked = dirty.listen();
    let models = context.stores.models.told().clone();
    let everyone: Vec<_> = models
        .state()
        .iter()
        .map(|model| ObjectRef::from_obj(&**model))
        .collect();
    let triggers = futures::stream::iter(everyone).chain(marked);
    let forgetting = context.clone();
    Controller::for_stream(futures::stream::pending(), models)
        .reconcile_on(triggers)
        .with_config(Config::default().concurrency(concurrency))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, retry, context)
        .for_each(|result| {
            // Asked for a model that the cache does not have: it was deleted.
            if let Err(controller::Error::ObjectNotFound(gone)) = result {
                forgetting.forget(&gone);
            }
            std::future::ready(())
        })
        .await;
}

/// One reconcile, bounded by its own span; a panic in it is an error like any other.
async fn reconcile(
    model: Arc<ModelDeployment>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let key = model.key();
    let span = tracing::info_span!("reconcile", namespace = key.0, name = key.1);
    let started = Instant::now();
    // Boxed: a reconcile is large, and each model under way holds one.
    let run = AssertUnwindSafe(Box::pin(steps(&key, &context)))
        .catch_unwind()
        .instrument(span);
    let result = run
        .await
        .unwrap_or_else(|panic| Err(ReconcileError::Panic(panic_text(&*panic))));
    context
        .metrics
        .reconciled(result.is_ok(), started.elapsed().as_secs_f64());
    if result.is_ok() {
        context.failures.lock().remove(&key);
    }
    result
}

async fn steps(
    key @ (namespace, name): &(String, String),
    context: &Context,
) -> Result<Action, ReconcileError> {
    // observe
    if let Err(wait) = context.attention.begin(key) {
        return Ok(Action::requeue(wait));
    }
    let api: Api<ModelDeployment> = Api::namespaced(context.client.clone(), namespace);
    let Some(model) = observe::model(&api, &context.stores.models, namespace, name).await? else {
        context.recordings.forget(&format!("{namespace}/{name}"));
        return Ok(Action::await_change());
    };
    let Some(mut standing) = standing(&model, context) else {
        return Ok(Action::await_change()); // its children are the garbage collector's
    };
    let now = context.clock.now();
    let mut children = observe::children(&context.stores, &model);
    let router = Report::of(&*context.router, &context.stores, &model);
    let known = &mut children.known;
    context.history.complete(&context.stores, &model, known);
    let is_nameless = names_no_version(&model);
    if is_nameless || standing == Standing::Valid && wants_a_number(&model, &children) {
        let (client, known) = (&context.client, &mut children.known);
        match Box::pin(observe::history(client, &model, known)).await {
            Ok(()) => children.known_is_all = true,
            // Whether there is a version in force decides whether the spec's is the first one.
            Err(error) if is_nameless => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "a new version waits for its place in the history");
            }
        }
    }
    let (mut desired_refused, mut tried_again) = (None, None);
    if standing == Standing::Valid && children.known_is_all {
        let refused = Box::pin(try_desired(&model, &children, context)).await;
        tried_again = refused.as_ref().and_then(|_| context.dry_runs.next(key));
        match refused {
            Some(Refused::Invalid(faults)) => standing = Standing::Invalid(faults),
            Some(Refused::Denied(refusal)) => desired_refused = Some(refusal),
            None => {}
        }
    }
    let mut snapshot = observe(&model, &children, router, &standing, context, now).await;
    snapshot.desired_refused = desired_refused;

    // decide
    let mut decision = decide(&model, &snapshot, &standing, context, now);

    // plan and apply what is persisted, unless a trial ends or loses weight: that waits for no object
    if !retreats(&snapshot.state, &decision.next) {
        catch_up(&api, &model, &children, &snapshot, &standing, context).await?;
        let refused = context.applier.refused(key);
        if refused != snapshot.refused {
            snapshot.refused = refused;
            decision = decide(&model, &snapshot, &standing, context, now);
        }
    }
    record(&model, &snapshot, now, &standing, &decision, context);

    // status, then what follows from it
    let (next, requeue) = (decision.next.clone(), decision.requeue);
    let desired_refused = snapshot.desired_refused.iter();
    let refused: Vec<_> = desired_refused.chain(&snapshot.refused).cloned().collect();
    let saved = persist(
        &api,
        &model,
        &children,
        decision,
        &snapshot,
        (&standing, &refused),
        context,
    )
    .await?;
    if saved.written && next != snapshot.state {
        let basis = Basis::Confirmed;
        let route = (&next, &snapshot.router);
        bring_about(&model, &children, route, &standing, basis, context).await?;
    }
    let news = context.applier.refused(key) != snapshot.refused;
    let pauses = [
        requeue,
        context.applier.next_attempt(key),
        tried_again,
        (saved.reachability == Reachability::Silent).then_some(UNANSWERED_PAUSE),
        news.then_some(Duration::ZERO), // the status shows it within one look
    ];
    let pause = pauses.into_iter().flatten().min();
    Ok(pause.map_or_else(Action::await_change, Action::requeue))
}

/// Where the spec stands; none where the model's children are being deleted or set free.
fn standing(model: &ModelDeployment, context: &Context) -> Option<Standing> {
    if model.metadata.deletion_timestamp.is_some() {
        let collects = |finalizer: &String| COLLECTING.contains(&finalizer.as_str());
        let collected = model.finalizers().iter().any(collects);
        return (!collected).then_some(Standing::Deleting);
    }
    let mut errors = validate(model, &context.limits);
    errors.extend(unsupported(&*context.router, model));
    Some(if errors.is_empty() {
        Standing::Valid
    } else {
        Standing::Invalid(errors)
    })
}

fn decide(
    model: &ModelDeployment,
    snapshot: &Snapshot,
    standing: &Standing,
    context: &Context,
    now: Timestamp,
) -> Decision {
    match standing.unfit() {
        Some(why) => rollout::withdraw_trial(&model.spec, snapshot, now, why),
        None => rollout::decide(&model.spec, snapshot, now, context.evidence.interval()),
    }
}

/// Everything that the decision may use, in one value.
async fn observe(
    model: &ModelDeployment,
    children: &Children,
    router: Report,
    standing: &Standing,
    context: &Context,
    now: Timestamp,
) -> Snapshot {
    let valid = *standing == Standing::Valid;
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
    let free_port = context.router.port(stores, model, &mut state, was_lost);
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
    if let Some(accused) = rollout::accused(&model.spec, &snapshot, now).cloned() {
        let cached = snapshot.health(&accused);
        let (client, stores) = (&context.client, &context.stores);
        let asked = observe::health(client, stores, model, &accused, cached);
        let health = Box::pin(asked).await; // rarely needed, and large
        snapshot.versions.insert(accused, health);
    }
    snapshot
}

/// Keeps what was decided about a model on trial, to be replayed.
fn record(
    model: &ModelDeployment,
    snapshot: &Snapshot,
    now: Timestamp,
    standing: &Standing,
    decision: &Decision,
    context: &Context,
) {
    if snapshot.state.canary.is_none() && decision.records.is_empty() {
        return;
    }
    let (namespace, name) = model.key();
    context.recordings.keep(&Recording {
        model: format!("{namespace}/{name}"),
        now,
        interval: context.evidence.interval().into(),
        unfit: standing.unfit(),
        spec: Recording::spec(&model.spec),
        snapshot: snapshot.clone(),
        decision: Some(decision.clone()),
    });
}

/// Whether the canary's pods are there and it has no weight yet.
fn ready_to_start(model: &ModelDeployment, state: &State, children: &Children) -> bool {
    state.canary.as_ref().is_some_and(|canary| {
        let health = children.health.get(&canary.revision);
        canary.progress.is_none()
            && health.is_some_and(|health| health.has_capacity(model.spec.pods_needed()))
    })
}

/// Whether the spec's version may be about to get its place in the history. A canary with weight is judged first.
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
    let (revision, deployment) = draft(model, &context.site)?;
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

/// Whether a trial loses weight, or ends without a promotion.
fn retreats(old: &State, new: &State) -> bool {
    let Some(canary) = &old.canary else {
        return false;
    };
    let kept = new.canary.as_ref();
    let kept = kept.filter(|kept| kept.revision == canary.revision && kept.weight >= canary.weight);
    old.stable == new.stable && kept.is_none()
}

/// Makes the objects of a state that was read. Before anything is taken away by it, the API server has to confirm that it
/// is still the one in force: a status that says nothing new is only accepted on top of the newest version.
async fn catch_up(
    api: &Api<ModelDeployment>,
    model: &ModelDeployment,
    children: &Children,
    Snapshot { state, router, .. }: &Snapshot,
    standing: &Standing,
    context: &Context,
) -> Result<(), ReconcileError> {
    let route = (state, router);
    match bring_about(model, children, route, standing, Basis::Read, context).await {
        Err(ApplyError::Unconfirmed { .. }) => {}
        result => return Ok(result?),
    }
    replace_status(api, model, model.status.clone(), context).await?;
    bring_about(model, children, route, standing, Basis::Confirmed, context).await?;
    Ok(())
}

/// Makes the objects that a state asks for.
async fn bring_about(
    model: &ModelDeployment,
    children: &Children,
    (state, report): (&State, &Report),
    standing: &Standing,
    basis: Basis,
    context: &Context,
) -> Result<(), ApplyError> {
    let given = Given {
        state,
        known: &children.known,
        known_is_all: children.known_is_all,
        usable: *standing == Standing::Valid,
        router: &*context.router,
        report,
        site: &context.site,
    };
    let plan = plan(model, &given);
    let writes = context
        .applier
        .apply(
            &context.client,
            &context.stores,
            model,
            &plan,
            basis,
            &context.metrics,
        )
        .await?;
    context.metrics.wrote(writes);
    Ok(())
}

impl Context {
    /// Lets go of everything remembered about a model that is gone.
    fn forget(&self, gone: &ObjectRef<kube::core::DynamicObject>) {
        let key = (
            gone.namespace.clone().unwrap_or_default(),
            gone.name.clone(),
        );
        self.applier.forget(&key);
        self.history.forget(&key);
        self.dry_runs.forget(&key);
        self.attention.forget(&key);
        self.failures.lock().remove(&key);
        self.router.forget(&key);
    }
}

/// When to try again after a failure: each in a row doubles the pause. A conflict is nobody's failure and starts at a
/// fraction of it; in a row they mean an API server whose reads lag behind, which asking faster does not help.
#[allow(clippy::needless_pass_by_value)] // the signature that Controller::run asks for
fn retry(model: Arc<ModelDeployment>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let (namespace, name) = model.key();
    let mut failures = context.failures.lock();
    let count = failures
        .entry((namespace.clone(), name.clone()))
        .or_default();
    *count = count.saturating_add(1);
    let conflict = matches!(error, ReconcileError::Status(error) if is_code(error, 409));
    let (first, longest) = match error {
        _ if conflict => (CONFLICT_PAUSE, FIRST_PAUSE),
        // Most often the news of a change has overtaken an answer that was on its way.
        ReconcileError::Read(ReadError::Stale { .. }) => (CONFLICT_PAUSE, LONGEST_PAUSE),
        _ => (FIRST_PAUSE, LONGEST_PAUSE),
    };
    let pause = first.saturating_mul(1 << (*count - 1).min(10)).min(longest);
    let pause_ms = pause.as_millis() as u64;
    if conflict {
        tracing::debug!(
            namespace,
            name,
            pause_ms,
            "somebody else wrote first; deciding anew"
        );
    } else {
        tracing::warn!(namespace, name, %error, attempt = *count, pause_ms, "reconcile failed");
    }
    Action::requeue(pause)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without words".to_owned())
}
