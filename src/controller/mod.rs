//! One reconcile: observe, decide, plan, apply, status. The writes have an order:
//!
//! 1. A move back to stable is written before anything else. That one write *is* the move, since
//!    routers follow the status.
//! 2. A move forward is written only after the cluster has what the state before it asks for.
//! 3. Objects follow the persisted state, so a crash between two writes repeats writes and skips
//!    none.
//! 4. An object that the API server refuses delays moves forward, and nothing else: no observation,
//!    no status, no other object.
//! 5. Pods and objects are removed only by a state that the API server has just confirmed.

mod applied;
pub mod apply;
pub mod clock;
mod context;
mod error;
pub mod events;
mod figures;
mod memories;
pub mod metrics;
mod prepare;
pub mod recordings;
mod replace_status;
pub mod status;
mod status_writer;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt};
use kube_runtime::{
    controller::{self, Action, Config, Controller},
    reflector::ObjectRef,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use self::{
    applied::Applied,
    prepare::{Found, Prepared, observe},
    status_writer::{Saved, write_status},
};
use crate::{api::ModelDeployment, k8s::Dirty, observe::ReadError, router::Reachability};

pub use context::Context;
pub use error::{CatchUpError, ReconcileError, StatusError};
pub use memories::{MEMORY_ANNOTATION, TrialMemories};

/// First pause after a conflict. Each further one doubles it, up to [`FIRST_PAUSE`].
const CONFLICT_PAUSE: Duration = Duration::from_millis(50);
/// First pause after a failed reconcile. Each further one doubles it, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause after failed reconciles. While a canary has weight, this is the longest time
/// without a reconcile.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Pause before a model's address that did not answer is probed again.
const UNANSWERED_PAUSE: Duration = Duration::from_millis(200);

/// Reconciles every model once, then those that are `dirty`, until `stop`. At most `concurrency`
/// reconciles run at once.
pub async fn run(context: Arc<Context>, dirty: Dirty, concurrency: u16, stop: CancellationToken) {
    // Before the list of all models is made, so that no change is lost.
    let marked = dirty.listen();
    let models = context.stores.models.store().clone();
    let all: Vec<_> = models
        .state()
        .iter()
        .map(|model| ObjectRef::from_obj(&**model))
        .collect();
    let triggers = futures::stream::iter(all).chain(marked);
    let forgetting = context.clone();
    Controller::for_stream(futures::stream::pending(), models)
        .reconcile_on(triggers)
        .with_config(Config::default().concurrency(concurrency))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, retry, context)
        .for_each(|result| {
            // The cache does not have the model: it was deleted.
            if let Err(controller::Error::ObjectNotFound(gone)) = result {
                forgetting.forget(&gone);
            }
            std::future::ready(())
        })
        .await;
}

/// One reconcile, in a span of its own. A panic becomes an error.
async fn reconcile(
    model: Arc<ModelDeployment>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let key = model.key();
    let span = tracing::info_span!("reconcile", namespace = key.0, name = key.1);
    let started = Instant::now();
    // Boxed: the future is large, and each concurrent reconcile holds one.
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

/// The phases of one reconcile.
async fn steps(key: &(String, String), context: &Context) -> Result<Action, ReconcileError> {
    // 1. Observe: the model live, its children from the caches, the evidence since the last time.
    let prepared = match observe(key, context).await? {
        Found::Model(prepared) => prepared,
        Found::Nothing(action) => return Ok(action),
    };
    // 2. Decide.
    let mut decision = prepared.decide(context);
    // 3. Plan and apply what is persisted. A move back to stable waits for no object.
    let applied = Applied::of(prepared, &decision, context).await?;
    // 4. Decide again if the API server refused an object meanwhile.
    if applied.is_news {
        decision = applied.prepared.decide(context);
    }
    applied.prepared.record(&decision, context);
    // 5. Write the status. From now on the decision is the state, and routers follow it.
    let saved = write_status(&applied, decision, context).await?;
    // 6. Plan and apply what was written.
    if saved.written {
        applied.follow(&saved.next, context).await?;
    }
    // 7. Keep what the gates remember. The move goes first: what is lost is read again.
    let model = &applied.prepared.model;
    let memory = saved.memory.as_ref();
    context
        .memories
        .keep(&context.client, model, memory, context.clock.now())
        .await;
    // 8. Reconcile again when the earliest timer is due.
    Ok(next_reconcile(key, &applied, &saved, context))
}

/// When a model is reconciled again if nothing changes.
fn next_reconcile(
    key: &(String, String),
    applied: &Applied,
    saved: &Saved,
    context: &Context,
) -> Action {
    let prepared = &applied.prepared;
    let is_news = context.applier.refused(key) != prepared.snapshot.refused;
    let pauses = [
        saved.requeue,
        context.applier.next_attempt(key),
        prepared.tried_again,
        services_replaced_in(prepared),
        (saved.reachability == Reachability::Silent).then_some(UNANSWERED_PAUSE),
        is_news.then_some(Duration::ZERO), // so that the status shows it at once
    ];
    let pause = pauses.into_iter().flatten().min();
    pause.map_or_else(Action::await_change, Action::requeue)
}

/// The time until the Services of earlier names can be deleted, while it has not come.
fn services_replaced_in(prepared: &Prepared) -> Option<Duration> {
    let left = prepared.snapshot.router.services.replaced_in;
    left.filter(|left| !left.is_zero())
}

/// When to try again after a failure. Each failure in a row doubles the pause. A conflict is no
/// failure and starts with a tenth of it. Conflicts in a row mean an API server whose reads lag,
/// and more requests do not help it.
#[allow(clippy::needless_pass_by_value)] // the signature that Controller::run asks for
fn retry(model: Arc<ModelDeployment>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let (namespace, name) = model.key();
    let mut failures = context.failures.lock();
    let count = failures
        .entry((namespace.clone(), name.clone()))
        .or_default();
    *count = count.saturating_add(1);
    let conflict = error.is_conflict();
    let (first, longest) = match error {
        _ if conflict => (CONFLICT_PAUSE, FIRST_PAUSE),
        // Most often a watch event has overtaken an answer that was under way.
        ReconcileError::Observe(ReadError::Stale { .. }) => (CONFLICT_PAUSE, LONGEST_PAUSE),
        _ => (FIRST_PAUSE, LONGEST_PAUSE),
    };
    let pause = first.saturating_mul(1 << (*count - 1).min(10)).min(longest);
    let pause_ms = pause.as_millis() as u64;
    if conflict {
        tracing::debug!(
            namespace,
            name,
            pause_ms,
            "another writer was first; reconciling again"
        );
    } else {
        tracing::warn!(namespace, name, %error, attempt = *count, pause_ms, "reconcile failed");
    }
    Action::requeue(pause)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
