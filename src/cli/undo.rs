//! `undo`: sets `spec.model` and `spec.serving` to those of an earlier version.

use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;

use super::{
    CliError,
    change::{Change, difference, state},
    history::{Entry, known, standing},
};
use crate::{
    api::{ModelDeployment, Revision, State, VersionSpec},
    k8s::stable_before,
};

/// Goes back to an earlier version: the named one, else the stable one if another is on trial, else
/// the previous one.
pub(super) fn undo(
    model: &ModelDeployment,
    entries: &[Entry],
    to: Option<&str>,
    now: Timestamp,
) -> Result<Change, CliError> {
    let name = model.name_any();
    let state = state(model)?;
    let desired = VersionSpec::of(&model.spec);
    let entry = match to {
        Some(to) => named(entries, state, to, &name)?,
        None => before(entries, state, &desired, &name)?,
    };
    let version = entry.name(entries);
    if entry.declared == desired {
        return Err(CliError::Pointless(format!(
            "nothing to undo: the spec asks for version {version} already; `kubectl serin history \
             {name}` lists the others"
        )));
    }
    let serves = state.stable.as_ref();
    let refused = state.refused.iter().find(|refused| {
        refused.revision == entry.revision && refused.retry_token == model.spec.rollout.retry_token
    });
    let sentence = if serves.is_some_and(|stable| stable.revision == entry.revision) {
        match &state.canary {
            Some(canary) => format!(
                "All traffic goes back to version {version} at once; version {} is withdrawn.",
                canary.version
            ),
            None => format!("The spec asks for version {version} again, which serves all traffic."),
        }
    } else if let Some(refused) = refused {
        format!(
            "The spec asks for version {version} again. It was rolled back at {}, so it starts \
             only after `kubectl serin retry {name}`.",
            refused.at.strftime("%F %TZ")
        )
    } else if takes(model, state, entries, &entry.revision, now) {
        format!(
            "Version {version} gets all traffic as soon as its pods are Ready, without steps: it \
             was promoted before (spec.rollout.rollbackWindow)."
        )
    } else {
        format!(
            "Version {version} is rolled out again, step by step on its evidence; `kubectl serin \
             promote {name} --full` brings it at once."
        )
    };
    let patch = json!({
        "model": difference(&serde_json::to_value(&desired.model)?,
            &serde_json::to_value(&entry.declared.model)?),
        "serving": difference(&serde_json::to_value(&desired.serving)?,
            &serde_json::to_value(&entry.declared.serving)?),
    });
    Ok(Change::spec(patch, sentence))
}

/// Whether a version goes straight back to all traffic.
fn takes(
    model: &ModelDeployment,
    state: &State,
    entries: &[Entry],
    revision: &Revision,
    now: Timestamp,
) -> bool {
    let window = &model.spec.rollout.rollback_window;
    let before = stable_before(&known(entries), state, revision);
    before.is_some_and(|before| window.takes(before.back, before.until, now))
}

/// Finds the only entry with this version or revision.
fn named<'a>(
    entries: &'a [Entry],
    state: &State,
    to: &str,
    name: &str,
) -> Result<&'a Entry, CliError> {
    let called: Vec<_> = entries.iter().filter(|entry| entry.is_called(to)).collect();
    match called.as_slice() {
        [one] => Ok(one),
        [] => Err(CliError::Pointless(format!(
            "there is no version {to} of {name}; `kubectl serin history {name}` lists those that \
             are kept (spec.revisionHistoryLimit)"
        ))),
        several => {
            let each = several.iter().map(|entry| {
                let standing = standing(state, &entry.revision);
                format!("--to-revision {} ({standing})", entry.revision)
            });
            Err(CliError::Pointless(format!(
                "several versions of {name} are called {to}; name one by its revision: {}",
                each.collect::<Vec<_>>().join(", ")
            )))
        }
    }
}

/// Finds the entry to go back to where none is named.
fn before<'a>(
    entries: &'a [Entry],
    state: &State,
    desired: &VersionSpec,
    name: &str,
) -> Result<&'a Entry, CliError> {
    let serving = state.stable.as_ref().map(|stable| &stable.revision);
    let desired = desired.revision();
    let found = if serving == Some(&desired) {
        let refused = |entry: &&Entry| {
            let mut refused = state.refused.iter();
            refused.any(|refused| refused.revision == entry.revision)
        };
        let mut newest_first = entries.iter().rev();
        newest_first.find(|entry| entry.revision != desired && !refused(entry))
    } else {
        // Another version is on trial, or was refused: go back to the stable one.
        entries
            .iter()
            .find(|entry| Some(&entry.revision) == serving)
    };
    found.ok_or_else(|| {
        CliError::Pointless(format!(
            "nothing to undo: no earlier version is kept that was not rolled back; `kubectl serin \
             history {name}` lists all"
        ))
    })
}
