//! What the user can do.

use crate::api::{RefusedVersion, Rollout, State};

/// The plug-in's verbs that apply now, with their effects.
pub(super) fn verbs(
    state: &State,
    rollout: &Rollout,
    refused: Option<&RefusedVersion>,
) -> Vec<(&'static str, String)> {
    let mut verbs = Vec::new();
    let stable = state
        .stable
        .as_ref()
        .map_or("", |stable| stable.version.as_str());
    if let Some(canary) = &state.canary {
        let version = &canary.version;
        if !stable.is_empty() {
            verbs.push((
                "abort NAME",
                format!("all traffic back on {stable} now; {version} is refused from then on"),
            ));
            verbs.push(if rollout.paused {
                (
                    "resume NAME",
                    "let the evidence move the weight again".to_owned(),
                )
            } else {
                (
                    "pause NAME",
                    "hold the weight; a breach still rolls back".to_owned(),
                )
            });
        }
        if let Some(progress) = &canary.progress {
            let step = progress.step as usize;
            if rollout.takes_approval(step) && progress.approved.is_none() {
                verbs.push((
                    "promote NAME",
                    "approve the next move; the evidence must still pass".to_owned(),
                ));
            }
            verbs.push((
                "promote NAME --skip-step",
                "leave this step without its evidence; not while an objective fails or \
                 cannot be read"
                    .to_owned(),
            ));
            verbs.push((
                "promote NAME --full",
                format!("promote {version} to all traffic now, whatever the evidence says"),
            ));
        }
    } else if let Some(refused) = refused {
        verbs.push((
            "retry NAME",
            format!("try version {} again", refused.version),
        ));
    }
    if state.canary.is_none() && !stable.is_empty() {
        verbs.push((
            "undo NAME",
            "go back to an earlier version; see `history`".to_owned(),
        ));
    }
    verbs.push(("status NAME", "the present numbers of the gates".to_owned()));
    verbs
}
