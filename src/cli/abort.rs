//! `abort`: the annotation `serin.dev/abort`.

use super::{
    CliError,
    change::{Change, trial},
};
use crate::api::{ModelDeployment, commands::Command};
use kube::ResourceExt;

/// Ends the trial.
pub(super) fn abort(model: &ModelDeployment) -> Result<Change, CliError> {
    let (canary, stable) = trial(model, "abort")?;
    let sentence = format!(
        "All traffic goes back to version {}. Version {} is refused until `kubectl serin \
         retry {}`.",
        stable.version,
        canary.version,
        model.name_any()
    );
    let command = Command::Abort(canary.revision.clone());
    Ok(Change::command(&command, sentence))
}
