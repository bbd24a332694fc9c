//! `retry`: sets a new `spec.rollout.retryToken`.

use kube::ResourceExt;
use serde_json::json;

use super::{
    CliError,
    change::{Change, state},
};
use crate::api::{Commands, ModelDeployment, VersionSpec};

/// Tries the spec's version again: one that was rolled back, or that waits for its next trial.
/// Removes the commands of its last trial.
pub(super) fn retry(model: &ModelDeployment, token: &str) -> Result<Change, CliError> {
    let name = model.name_any();
    let state = state(model)?;
    let desired = VersionSpec::of(&model.spec).revision();
    let version = model.spec.version_name();
    let on_trial = state.canary.as_ref();
    if on_trial.is_some_and(|canary| canary.revision == desired) {
        return Err(CliError::Pointless(format!(
            "nothing to retry: version {version} is on trial; `kubectl serin status {name}` \
             shows how far"
        )));
    }
    let refused = |revision| {
        let token = &model.spec.rollout.retry_token;
        let mut refused = state.refused.iter();
        refused.any(|refused| refused.revision == revision && refused.retry_token == *token)
    };
    let is_postponed = state
        .postponed
        .as_ref()
        .is_some_and(|postponed| postponed.revision == desired);
    if !is_postponed && !refused(desired.clone()) {
        let another = state.refused.last().map(|refused| {
            let others = state.versions().chain([(&desired, version.as_str())]);
            let is_shared = others
                .chain(
                    state
                        .refused
                        .iter()
                        .map(|it| (&it.revision, it.version.as_str())),
                )
                .any(|(revision, name)| name == refused.version && *revision != refused.revision);
            let to = if is_shared {
                &refused.revision.0
            } else {
                &refused.version
            };
            format!(
                "; to try version {} again: `kubectl serin undo {name} --to-revision {to}`, then \
                 retry",
                refused.version
            )
        });
        return Err(CliError::Pointless(format!(
            "nothing to retry: version {version}, which the spec asks for, was not rolled back{}",
            another.unwrap_or_default()
        )));
    }
    let sentence = format!(
        "Version {version} is tried again from the start (spec.rollout.retryToken: {token})."
    );
    let patch = json!({"rollout": {"retryToken": token}});
    let change = Change::spec(patch, sentence);
    let said = Commands::read(model.annotations()).asked;
    let about_it = said.iter().filter(|said| *said.revision() == desired);
    Ok(about_it.fold(change, |change, said| change.removing(said.annotation())))
}
