//! The third phase: plan and apply.

use super::{
    apply::{ApplyError, Basis},
    context::Context,
    error::ReconcileError,
    prepare::Prepared,
    replace_status::replace_status,
    status::SpecValidity,
};
use crate::{
    api::State,
    observe::Refusal,
    plan::{PlanInput, plan},
    rollout::Decision,
};

/// A model whose persisted state has been brought about, as far as the API server takes it. A
/// status is written of this alone.
pub(super) struct Applied {
    /// The model as it was found, with what has been refused since.
    pub(super) prepared: Box<Prepared>,
    /// Whether that is news: the decision did not know of it.
    pub(super) is_news: bool,
}

impl Applied {
    /// Brings about what is persisted, unless the decision ends a trial or takes weight from it:
    /// that waits for no object.
    pub(super) async fn of(
        mut prepared: Box<Prepared>,
        decision: &Decision,
        context: &Context,
    ) -> Result<Self, ReconcileError> {
        if retreats(&prepared.snapshot.state, &decision.next) {
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

    /// Brings about a state that was just written on top of the one that was found.
    pub(super) async fn follow(&self, next: &State, context: &Context) -> Result<(), ApplyError> {
        if *next == self.prepared.snapshot.state {
            return Ok(());
        }
        bring_about(&self.prepared, next, Basis::Confirmed, context).await
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

/// Makes the objects of a state that was read. Before anything is taken away by it, the API server
/// has to confirm that it is still the one in force: a status that says nothing new is only
/// accepted on top of the newest version.
async fn catch_up(prepared: &Prepared, context: &Context) -> Result<(), ReconcileError> {
    let state = &prepared.snapshot.state;
    match bring_about(prepared, state, Basis::Read, context).await {
        Err(ApplyError::Unconfirmed { .. }) => {}
        result => return Ok(result?),
    }
    let model = &prepared.model;
    replace_status(&prepared.api, model, model.status.clone(), context).await?;
    bring_about(prepared, state, Basis::Confirmed, context).await?;
    Ok(())
}

/// Makes the objects that a state asks for.
async fn bring_about(
    prepared: &Prepared,
    state: &State,
    basis: Basis,
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
            basis,
            &context.metrics,
        )
        .await?;
    context.metrics.wrote(writes);
    Ok(())
}
