//! `promote`: the annotations `serin.dev/approve`, `serin.dev/skip` and `serin.dev/promote-full`.

use kube::ResourceExt;

use super::{
    CliError,
    change::{Change, state, trial},
};
use crate::api::{
    CanaryVersion, ModelDeployment, OnDeadline, Progress, Verdict, commands::Command,
    conditions::reasons,
};

/// Approves that the version leaves its step once its evidence passes.
pub(super) fn approve(model: &ModelDeployment) -> Result<Change, CliError> {
    let name = model.name_any();
    let (canary, _) = trial(model, "promote")?;
    let progress = progress(canary, &name)?;
    refuse_failing(model, canary)?;
    let step = progress.step as usize;
    let lacks_proof = lacks_proof(model)?;
    if !lacks_proof && !model.spec.rollout.takes_approval(step) {
        return Err(CliError::Pointless(format!(
            "nothing to approve: version {} at {} % advances by itself once its evidence passes. \
             To leave the step without it: `kubectl serin promote {name} --skip-step`; to promote \
             the version now: `--full`",
            canary.version, canary.weight
        )));
    }
    if let Some(approved) = &progress.approved {
        let by = approved.by.as_deref().unwrap_or("another person");
        return Ok(Change::nothing(format!(
            "{by} approved it already, at {}; it waits for its evidence alone.",
            approved.at.strftime("%F %TZ")
        )));
    }
    let condition = if lacks_proof {
        "without proof, unless it is suspect"
    } else {
        "once its evidence passes"
    };
    let sentence = format!(
        "Approved: version {} {} {condition}.{}",
        canary.version,
        what_follows(model, step),
        if_paused(model)
    );
    let command = Command::Approve(canary.revision.clone(), canary.weight);
    Ok(Change::command(&command, sentence))
}

/// Leaves the step without waiting for its evidence.
pub(super) fn skip_step(model: &ModelDeployment) -> Result<Change, CliError> {
    let (canary, _) = trial(model, "skip")?;
    let progress = progress(canary, &model.name_any())?;
    refuse_failing(model, canary)?;
    let sentence = format!(
        "Version {} {} now, without the evidence of its step of {} %, unless the evidence fails.{}",
        canary.version,
        what_follows(model, progress.step as usize),
        canary.weight,
        if_paused(model)
    );
    let command = Command::Skip(canary.revision.clone(), canary.weight);
    Ok(Change::command(&command, sentence))
}

/// Promotes the version now.
pub(super) fn full(model: &ModelDeployment) -> Result<Change, CliError> {
    let (canary, stable) = trial(model, "promote")?;
    let sentence = format!(
        "Version {} gets all traffic and is promoted as soon as its pods are Ready, whatever its \
         evidence says. Version {} keeps its pods for {} more; `kubectl serin undo {}` goes back \
         to it.",
        canary.version,
        stable.version,
        model.spec.scale_down_delay(),
        model.name_any()
    );
    let command = Command::PromoteFull(canary.revision.clone());
    Ok(Change::command(&command, sentence))
}

fn progress<'a>(canary: &'a CanaryVersion, name: &str) -> Result<&'a Progress, CliError> {
    canary.progress.as_ref().ok_or_else(|| {
        CliError::Pointless(format!(
            "version {} has no traffic yet, so there is no step to leave: it starts once its pods \
             are Ready. To promote it then without any evidence: `kubectl serin promote {name} \
             --full`",
            canary.version
        ))
    })
}

/// Fails while a failure is held, which only `--full` or an abort ends.
fn refuse_failing(model: &ModelDeployment, canary: &CanaryVersion) -> Result<(), CliError> {
    let last = state(model)?.last_move();
    if last.is_none_or(|last| last.action != reasons::FAILURE_HELD) {
        return Ok(());
    }
    let name = model.name_any();
    Err(CliError::Pointless(format!(
        "version {} fails its objectives at {} % and is held there (spec.rollout.onFailure: \
         Hold). Either `kubectl serin abort {name}`, or, against the evidence, `kubectl serin \
         promote {name} --full`",
        canary.version, canary.weight
    )))
}

/// Whether the step proves nothing, and a person's approval counts in place of proof.
fn lacks_proof(model: &ModelDeployment) -> Result<bool, CliError> {
    let last = state(model)?.last_move();
    let waits = last.is_some_and(|last| {
        last.action == reasons::AWAITING_APPROVAL && last.verdict == Some(Verdict::NeedMoreData)
    });
    let then = model.spec.rollout.on_insufficient_data.then;
    Ok(waits && then == OnDeadline::AwaitApproval)
}

fn what_follows(model: &ModelDeployment, step: usize) -> String {
    let next = model.spec.rollout.steps.get(step + 1);
    next.map_or_else(
        || "is promoted".to_owned(),
        |next| format!("gets {} %", next.weight),
    )
}

fn if_paused(model: &ModelDeployment) -> String {
    if model.spec.rollout.paused {
        let name = model.name_any();
        format!(" The rollout is paused, so nothing moves before `kubectl serin resume {name}`.")
    } else {
        String::new()
    }
}
