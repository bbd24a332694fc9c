//! The third phase: plan and apply.

use super::{
    apply::{ApplyError, Freshness},
    context::Context,
    error::CatchUpError,
    prepare::Prepared,
    replace_status::replace_status,
    status::SpecValidity,
};
use crate::{
    api::{Phase, State},
    observe::Refusal,
    plan::{PlanInput, plan},
    rollout::Decision,
};

/// A model whose persisted state has been applied, except what the API server refused. A status is
/// written only of this.
pub(super) struct Applied {
    /// The model as it was observed, with what has been refused since.
    pub(super) prepared: Box<Prepared>,
    /// Whether the refusals differ from those that the decision saw.
    pub(super) is_news: bool,
}

impl Applied {
    /// Applies what is persisted, unless the decision ends a trial or takes weight from it, or puts
    /// the model to sleep: that waits for no object.
    ///
    /// # Errors
    /// A plan that removes something was not confirmed. Refused objects are no error.
    pub(super) async fn of(
        mut prepared: Box<Prepared>,
        decision: &Decision,
        context: &Context,
    ) -> Result<Self, CatchUpError> {
        let (old, new) = (&prepared.snapshot.state, &decision.next);
        let falls_asleep = new.phase == Phase::Asleep && old.phase != Phase::Asleep;
        if falls_asleep || retreats(old, new) {
            let is_news = false;
            return Ok(Self { prepared, is_news });
        }
        catch_up(&prepared, context).await?;
        let refused = context.applier.refused(&prepared.model.key());
        let is_news = refused != prepared.snapshot.refused;
        prepared.snapshot.refused = refused;
        Ok(Self { prepared, is_news })
    }

    /// All that the API server refuses of the model, its next version included.
    pub(super) fn refused(&self) -> Vec<Refusal> {
        let snapshot = &self.prepared.snapshot;
        let desired = snapshot.desired_refused.iter();
        desired.chain(&snapshot.refused).cloned().collect()
    }

    /// Applies a state that was just written on top of the one that was observed.
    pub(super) async fn follow(&self, next: &State, context: &Context) -> Result<(), ApplyError> {
        if *next == self.prepared.snapshot.state {
            return Ok(());
        }
        bring_about(&self.prepared, next, Freshness::Confirmed, context).await
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

/// Applies a state that was read. Before the plan removes anything, the API server has to confirm
/// that the state is still in force: it accepts an unchanged status only on top of the newest
/// version of the object.
async fn catch_up(prepared: &Prepared, context: &Context) -> Result<(), CatchUpError> {
    let state = &prepared.snapshot.state;
    match bring_about(prepared, state, Freshness::Read, context).await {
        Err(ApplyError::Unconfirmed { .. }) => {}
        result => return Ok(result?),
    }
    let model = &prepared.model;
    replace_status(&prepared.api, model, model.status.clone(), context).await?;
    bring_about(prepared, state, Freshness::Confirmed, context).await?;
    Ok(())
}

/// Applies the objects that a state asks for.
async fn bring_about(
    prepared: &Prepared,
    state: &State,
    freshness: Freshness,
    context: &Context,
) -> Result<(), ApplyError> {
    let input = PlanInput {
        state,
        known: &prepared.children.known,
        known_is_all: prepared.children.known_is_all,
        usable: prepared.validity == SpecValidity::Valid,
        router: context.routers.of(&prepared.model.spec),
        report: &prepared.snapshot.router,
        defaults: &context.defaults,
    };
    let plan = plan(&prepared.model, &input);
    let writes = context
        .applier
        .apply(
            &context.client,
            &context.stores,
            &prepared.model,
            &plan,
            freshness,
            &context.metrics,
        )
        .await?;
    context.metrics.wrote(writes);
    Ok(())
}
