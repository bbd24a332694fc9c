//! The last phase: writes the status, then publishes what is new in it.

use std::time::Duration;

use kube::Resource;

use super::{
    applied::Applied,
    context::Context,
    error::StatusError,
    figures::is_due,
    prepare::Prepared,
    replace_status::replace_status,
    status::{SpecValidity, add_pending, becomes_ready, build_status},
};
use crate::{
    api::{
        DecisionRecord, ModelDeployment, Revision, State, TrialMemory, Verified, VersionSpec,
        conditions::{reasons, types},
    },
    observe::Refusal,
    rollout::Decision,
    router::{Reachability, ReachabilityQuery},
    sentences,
};

/// The outcome of writing a status.
pub(super) struct Saved {
    /// Whether it was written: it is where [`is_due`] says so.
    pub(super) written: bool,
    /// The state that is persisted now.
    pub(super) next: State,
    /// What the gates remember from now on.
    pub(super) memory: Option<TrialMemory>,
    /// When the decision wants another reconcile.
    pub(super) requeue: Option<Duration>,
    /// Whether the model's address answers, if that decides whether it is Ready; else `Answers`.
    pub(super) reachability: Reachability,
}

/// Writes the status if it is due, then publishes the decisions as Events and log lines.
pub(super) async fn write_status(
    applied: &Applied,
    decision: Decision,
    context: &Context,
) -> Result<Saved, StatusError> {
    let prepared = &*applied.prepared;
    let (model, validity) = (&prepared.model, &prepared.validity);
    let refused = &applied.refused()[..];
    let stable = decision
        .next
        .stable
        .as_ref()
        .and_then(|stable| prepared.children.health.get(&stable.revision).cloned())
        .unwrap_or_default();
    let now = context.clock.now();
    let build = |reachability| {
        let mut status = build_status(
            model,
            &decision.next,
            &stable,
            (validity, refused),
            reachability,
            now,
        );
        status.verified = verified(prepared, &decision.next, &context.defaults.serving_image);
        status
    };
    let mut status = build(Reachability::Answers);
    let mut reachability = Reachability::Answers;
    if let Some(available_since) = becomes_ready(model.status.as_ref(), &status) {
        // No move waits for an answer; and routers follow what is written, so that before it there
        // is none.
        let old = model.status.as_ref().map(|status| &status.state);
        let moves = old != Some(&decision.next);
        let query = ReachabilityQuery {
            stores: &context.stores,
            model,
            available_since,
            now,
            moves,
        };
        reachability = context.routers.of(&model.spec).reachability(query).await;
        status = build(reachability);
    }
    let in_force = &prepared.snapshot.router.in_force;
    let newly_pending = add_pending(&mut status, model.status.as_ref(), in_force, now);
    if !is_due(model.status.as_ref(), &status, now) {
        return Ok(Saved {
            written: false,
            next: decision.next,
            memory: decision.memory,
            requeue: decision.requeue,
            reachability,
        });
    }
    let problem = new_problem(model, &decision.next, validity, refused);
    let newly_ignored = newly_ignored(model, &decision.next);
    replace_status(&prepared.api, model, Some(status), context).await?;
    let about = model.object_ref(&());
    for record in &decision.records {
        log_decision(record, context);
        context.events.decision(&about, record).await;
    }
    if let Some(ignored) = newly_ignored {
        tracing::warn!(ignored, "an annotation cannot be parsed");
        let reason = reasons::COMMAND_IGNORED;
        context.events.problem(&about, reason, &ignored).await;
    }
    if let Some(text) = newly_pending {
        let reason = reasons::ROUTER_REFUSED;
        context.events.problem(&about, reason, &text).await;
    }
    if let Some((reason, text)) = problem {
        context.events.problem(&about, &reason, &text).await;
    }
    Ok(Saved {
        written: true,
        next: decision.next,
        memory: decision.memory,
        requeue: decision.requeue,
        reachability,
    })
}

/// What was verified of the versions in use. The spec's version may not be recorded yet.
fn verified(prepared: &Prepared, state: &State, bundled_image: &str) -> Option<Verified> {
    let desired = VersionSpec::of(&prepared.model.spec);
    let of = |revision: &Revision| {
        let known = prepared.children.known.get(revision);
        let spec = known.map(|known| &known.spec);
        let spec = spec.or_else(|| (desired.revision() == *revision).then_some(&desired));
        Some(spec?.verification(bundled_image))
    };
    let verified = Verified {
        stable: state
            .stable
            .as_ref()
            .and_then(|stable| of(&stable.revision)),
        canary: state
            .canary
            .as_ref()
            .and_then(|canary| of(&canary.revision)),
    };
    (verified != Verified::default()).then_some(verified)
}

/// A problem that the status did not show before, with its reason: what is wrong with this
/// generation of the spec, or an object that is refused.
fn new_problem(
    model: &ModelDeployment,
    next: &State,
    validity: &SpecValidity,
    refused: &[Refusal],
) -> Option<(String, String)> {
    let conditions = model.status.as_ref().map(|status| &status.conditions);
    let mut stalled = conditions
        .into_iter()
        .flatten()
        .filter(|old| old.type_ == types::STALLED);
    let shown = stalled.find(|old| old.status == "True");
    if let SpecValidity::Invalid(errors) = validity {
        let is_new = shown.is_none_or(|old| {
            old.reason != reasons::INVALID_SPEC
                || old.observed_generation != model.metadata.generation
        });
        return is_new.then(|| (reasons::INVALID_SPEC.to_owned(), sentences::invalid(errors)));
    }
    let refusal = Refusal::shown(refused, next).next()?;
    let is_new = shown.is_none_or(|old| old.reason != refusal.reason);
    is_new.then(|| (refusal.reason.clone(), refusal.to_string()))
}

/// What is wrong with annotations, if the old status did not say so.
fn newly_ignored(model: &ModelDeployment, next: &State) -> Option<String> {
    let before = model.status.as_ref();
    let before = before.map(|status| &status.state.invalid_annotations);
    let now = &next.invalid_annotations;
    (before != Some(now) && !now.is_empty()).then(|| sentences::ignored(now))
}

/// Writes the complete record to the log.
fn log_decision(record: &DecisionRecord, context: &Context) {
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
