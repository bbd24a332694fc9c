//! One reconcile: observe, decide, plan, apply, status. The order of writes is the design:
//!
//! 1. a move back to stable is written before anything else; that one write *is* the move, since routers follow status;
//! 2. a move forward is written only after the cluster has what the state before it says;
//! 3. objects follow the state that is persisted, so a crash between any two writes re-applies and never skips;
//! 4. pods and objects are taken away only by a state that the API server has just confirmed to be the one in force.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use kube::{Api, Client, Resource, ResourceExt, api::PostParams};
use kube_runtime::{
    controller::{self, Action, Config, Controller},
    reflector::ObjectRef,
};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{
    api::{
        Commands, DecisionRecord, ModelDeployment, ModelDeploymentSpec, ModelDeploymentStatus,
        State, VersionRef, VersionSpec,
        conditions::reasons,
        validate::{Limits, validate},
    },
    apply::{Applier, ApplyError, Basis, timely, words},
    clock::Clock,
    events::Events,
    k8s::is_code,
    metrics::Metrics,
    observe::{self, Attention, Children, ReadError, Snapshot},
    plan::{Given, Site, plan},
    recordings::Recordings,
    replay::Recording,
    rollout::{self, Decision},
    status::{Standing, account, becomes_ready, says_nothing_new},
    traffic::{
        Front, Reach,
        ports::{self, Ports},
    },
    watch::Stores,
};

/// First pause after somebody else wrote first; each further one doubles it, up to [`FIRST_PAUSE`].
const CONFLICT_PAUSE: Duration = Duration::from_millis(50);
/// First pause after a failed reconcile; each further one doubles it, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause after failed reconciles. While a canary has weight this is the longest time without a look.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Pause before a model's address is asked again that did not answer.
const UNANSWERED_PAUSE: Duration = Duration::from_millis(200);
/// Pause after something that a person has to mend; a change of the objects concerned comes sooner.
const BLOCKED_PAUSE: Duration = Duration::from_secs(30);

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
    /// Publishes decisions.
    pub events: Events,
    /// Since when each model has been looked at.
    pub attention: Attention,
    /// The operator's own metrics.
    pub metrics: Arc<Metrics>,
    /// Asks at a model's address.
    pub reach: Reach,
    /// The last decisions, to be replayed.
    pub recordings: Arc<Recordings>,
    /// Whose port of the routers is which.
    pub ports: Ports,
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
    /// The reconcile panicked; other models are not concerned.
    #[error("the reconcile panicked: {0}")]
    Panic(String),
}

/// Reconciles the models that `queue` names, until `stop`.
pub async fn run(
    context: Arc<Context>,
    queue: mpsc::UnboundedReceiver<ObjectRef<ModelDeployment>>,
    concurrency: u16,
    stop: CancellationToken,
) {
    let models = context.stores.models.told().clone();
    let everyone: Vec<_> = models
        .state()
        .iter()
        .map(|model| ObjectRef::from_obj(&**model))
        .collect();
    let triggers = futures::stream::iter(everyone).chain(UnboundedReceiverStream::new(queue));
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
    let run = AssertUnwindSafe(steps(&key, &context))
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
    if model.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change()); // its children go with it
    }
    let now = context.clock.now();
    let mut children = observe::children(&context.stores, &model);
    let errors = validate(&model, &context.limits);
    if errors.is_empty() && wants_a_number(&model, &children) {
        let (client, known) = (&context.client, &mut children.known);
        children.known_is_all = Box::pin(observe::history(client, &model, known)).await;
    }
    let snapshot = observe(&model, &children, errors.is_empty(), context, now).await;

    // decide
    if !errors.is_empty() {
        let decision = rollout::retreat(&model.spec, &snapshot, now);
        record(&model, &snapshot, now, false, &decision, context);
        persist(
            &api,
            &model,
            &children,
            decision,
            &Standing::Invalid(errors),
            context,
        )
        .await?;
        return Ok(Action::await_change());
    }
    let decision = rollout::decide(&model.spec, &snapshot, now, context.evidence.interval());
    let requeue = decision.requeue;
    record(&model, &snapshot, now, true, &decision, context);

    // plan and apply what is persisted, unless traffic has to move back first
    if !moves_back(&snapshot.state, &decision.next)
        && let Err(error) = catch_up(&api, &model, &children, &snapshot.state, context).await
    {
        let ReconcileError::Apply(ApplyError::NameTaken { .. }) = error else {
            return Err(error);
        };
        let unchanged = Decision {
            next: snapshot.state.clone(),
            records: Vec::new(),
            requeue: None,
        };
        persist(
            &api,
            &model,
            &children,
            unchanged,
            &Standing::Blocked(error.to_string()),
            context,
        )
        .await?;
        return Ok(Action::requeue(BLOCKED_PAUSE));
    }

    // status, then what follows from it
    let next = decision.next.clone();
    let saved = persist(&api, &model, &children, decision, &Standing::Valid, context).await?;
    if saved.written && next != snapshot.state {
        bring_about(&model, &children, &next, Basis::Confirmed, context).await?;
    }
    let unanswered = (saved.front == Front::Silent).then_some(UNANSWERED_PAUSE);
    let pause = requeue.into_iter().chain(unanswered).min();
    Ok(pause.map_or_else(Action::await_change, Action::requeue))
}

/// Everything that the decision may use, in one value.
async fn observe(
    model: &ModelDeployment,
    children: &Children,
    valid: bool,
    context: &Context,
    now: Timestamp,
) -> Snapshot {
    let mut state = model
        .status
        .as_ref()
        .map(|status| status.state.clone())
        .unwrap_or_default();
    let models = || context.stores.models.state();
    state
        .router_port
        .take_if(|port| ports::is_taken(*port, model, &models()));
    let free_port = match state.router_port {
        Some(_) => None,
        None => context.ports.free(model, models),
    };
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
    let mut snapshot = Snapshot {
        desired: desired(&model.spec),
        commands: Commands::read(model.annotations()),
        state,
        free_port,
        versions: children.health.clone(),
        readings,
        unmeasurable,
        stable_rate,
        attentive_since,
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
    usable: bool,
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
        spec_is_unusable: !usable,
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
            && health.is_some_and(|health| health.has_capacity(model.spec.replicas))
    })
}

/// Whether the spec's version may be about to get its place in the history. A canary with weight is judged first.
fn wants_a_number(model: &ModelDeployment, children: &Children) -> bool {
    let status = model.status.as_ref();
    let canary = status.and_then(|status| status.state.canary.as_ref());
    canary.is_none_or(|canary| canary.weight == 0)
        && !children.known.contains_key(&desired(&model.spec).revision)
}

fn desired(spec: &ModelDeploymentSpec) -> VersionRef {
    VersionRef {
        revision: VersionSpec::of(spec).revision(),
        version: spec.model.version.clone(),
    }
}

/// Whether the canary loses weight.
fn moves_back(old: &State, new: &State) -> bool {
    let weight = |state: &State| state.canary.as_ref().map_or(0, |canary| canary.weight);
    let promoted = old.stable != new.stable;
    weight(new) < weight(old) && !promoted
}

/// Makes the objects of a state that was read. Before anything is taken away by it, the API server has to confirm that it
/// is still the one in force: a status that says nothing new is only accepted on top of the newest version.
async fn catch_up(
    api: &Api<ModelDeployment>,
    model: &ModelDeployment,
    children: &Children,
    state: &State,
    context: &Context,
) -> Result<(), ReconcileError> {
    match bring_about(model, children, state, Basis::Read, context).await {
        Err(ApplyError::Unconfirmed { .. }) => {}
        result => return Ok(result?),
    }
    replace_status(api, model, model.status.clone(), context).await?;
    bring_about(model, children, state, Basis::Confirmed, context).await?;
    Ok(())
}

/// Makes the objects that a state asks for.
async fn bring_about(
    model: &ModelDeployment,
    children: &Children,
    state: &State,
    basis: Basis,
    context: &Context,
) -> Result<(), ApplyError> {
    let given = Given {
        state,
        known: &children.known,
        known_is_all: children.known_is_all,
        routers: &children.routers,
        site: &context.site,
    };
    let plan = plan(model, &given);
    let writes = context
        .applier
        .apply(&context.client, &context.stores, model, &plan, basis)
        .await?;
    context.metrics.wrote(writes);
    Ok(())
}

/// Writes a status, guarded by the version of the model that was read. Routers hear of it at once.
async fn replace_status(
    api: &Api<ModelDeployment>,
    model: &ModelDeployment,
    status: Option<ModelDeploymentStatus>,
    context: &Context,
) -> Result<(), ReconcileError> {
    let mut wanted = model.clone();
    wanted.metadata.managed_fields = None;
    wanted.status = status;
    let written =
        timely(api.replace_status(&model.name_any(), &PostParams::default(), &wanted)).await?;
    let written = written.map_err(ReconcileError::Status)?;
    context.stores.models.answered(&written);
    Ok(())
}

/// What became of a status.
struct Saved {
    /// Whether it said anything new.
    written: bool,
    /// How the model's address was found, where that decides whether it is Ready.
    front: Front,
}

/// Writes the status if it says anything new, then tells the decisions.
async fn persist(
    api: &Api<ModelDeployment>,
    model: &ModelDeployment,
    children: &Children,
    decision: Decision,
    standing: &Standing,
    context: &Context,
) -> Result<Saved, ReconcileError> {
    let stable = decision
        .next
        .stable
        .as_ref()
        .and_then(|stable| children.health.get(&stable.revision).cloned())
        .unwrap_or_default();
    let now = context.clock.now();
    let account = |front| account(model, &decision.next, &stable, standing, front, now);
    let mut status = account(Front::Answers);
    let mut front = Front::Answers;
    if let Some(available_since) = becomes_ready(model.status.as_ref(), &status) {
        // No move waits for an answer; and routers follow what is written, so that before it there is none.
        let old = model.status.as_ref().map(|status| &status.state);
        let moves = old != Some(&decision.next);
        let (stores, reach) = (&context.stores, &context.reach);
        front = Box::pin(reach.front(stores, model, available_since, now, moves)).await;
        status = account(front);
    }
    if let Some(old) = &model.status
        && says_nothing_new(old, &status)
    {
        return Ok(Saved {
            written: false,
            front,
        });
    }
    let newly_stuck = is_newly_stuck(model, standing);
    let newly_ignored = newly_ignored(model, &decision.next);
    replace_status(api, model, Some(status), context).await?;
    let about = model.object_ref(&());
    for record in &decision.records {
        tell(record, context);
        context.events.decision(&about, record).await;
    }
    if let Some(ignored) = newly_ignored {
        tracing::warn!(ignored, "an annotation cannot be understood");
        let reason = reasons::COMMAND_IGNORED;
        context.events.problem(&about, reason, &ignored).await;
    }
    match standing {
        Standing::Invalid(errors) if newly_stuck => {
            let text = errors
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; ");
            context
                .events
                .problem(&about, reasons::INVALID_SPEC, &text)
                .await;
        }
        Standing::Blocked(why) if newly_stuck => {
            context
                .events
                .problem(&about, reasons::NAME_TAKEN, why)
                .await;
        }
        _ => {}
    }
    Ok(Saved {
        written: true,
        front,
    })
}

/// Whether this generation of the spec has not been told to be unusable yet.
fn is_newly_stuck(model: &ModelDeployment, standing: &Standing) -> bool {
    let reason = match standing {
        Standing::Valid => return false,
        Standing::Invalid(_) => reasons::INVALID_SPEC,
        Standing::Blocked(_) => reasons::NAME_TAKEN,
    };
    let conditions = model
        .status
        .as_ref()
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    !conditions
        .iter()
        .any(|old| old.reason == reason && old.observed_generation == model.metadata.generation)
}

/// What is wrong with annotations, where the status did not say so before.
fn newly_ignored(model: &ModelDeployment, next: &State) -> Option<String> {
    let before = model.status.as_ref().map(|status| &status.state.ignored);
    let changed = before != Some(&next.ignored) && !next.ignored.is_empty();
    changed.then(|| next.ignored.join(" "))
}

/// The complete record, in the log.
fn tell(record: &DecisionRecord, context: &Context) {
    context.metrics.decided(&record.action);
    let verdict = record.verdict.map(|verdict| format!("{verdict:?}"));
    let evidence = (!record.evidence.is_empty())
        .then(|| serde_json::to_string(&record.evidence).unwrap_or_default());
    let next_check = record.next_check.map(|at| at.to_string());
    tracing::info!(
        action = record.action,
        version = record.version,
        weight = record.weight,
        verdict,
        by = record.by,
        next_check,
        evidence_json = evidence,
        "{}",
        record.sentence
    );
}

impl Context {
    /// Lets go of everything remembered about a model that is gone.
    fn forget(&self, gone: &ObjectRef<kube::core::DynamicObject>) {
        let key = (
            gone.namespace.clone().unwrap_or_default(),
            gone.name.clone(),
        );
        self.applier.forget(&key);
        self.attention.forget(&key);
        self.failures.lock().remove(&key);
        self.ports.forget(&key);
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
