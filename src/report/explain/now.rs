//! Where the rollout stands.

use jiff::Timestamp;

use crate::{
    api::{
        ImageVerification, ModelDeploymentSpec, ModelDeploymentStatus, ModelVerification, Phase,
        State,
    },
    report::text::{declared, moment},
};

/// The state of the rollout.
pub(super) fn standing(state: &State, spec: &ModelDeploymentSpec, now: Timestamp) -> String {
    let Some(canary) = &state.canary else {
        return match (&state.stable, state.phase) {
            (_, Phase::Asleep) => "Asleep (spec.replicas is 0): no version has pods, and the \
                 address answers 503."
                .to_owned(),
            (Some(stable), Phase::Waking) => format!(
                "Waking up: the address answers 503 until a pod of version {} is Ready.",
                stable.version
            ),
            (Some(stable), Phase::RollingBack) => format!(
                "All traffic is back on version {}. The version that was taken back keeps its pods \
                 until its last requests are answered.",
                stable.version
            ),
            (Some(stable), Phase::Promoting) => format!(
                "Version {} serves all traffic. The version before it keeps its pods for {}, so \
                 that the way back stays warm.",
                stable.version,
                declared(spec.scale_down_delay())
            ),
            (Some(stable), _) => {
                format!(
                    "No rollout is under way. Version {} is the stable one.",
                    stable.version
                )
            }
            (None, _) => "No version serves yet.".to_owned(),
        };
    };
    let rest = state.stable.as_ref().map_or_else(
        || "No version serves yet.".to_owned(),
        |stable| match canary.weight {
            0 => format!("Version {} serves all traffic.", stable.version),
            100 => format!(
                "Version {} keeps all its pods, so that it can take it back.",
                stable.version
            ),
            weight => format!(
                "Version {} serves the other {} %.",
                stable.version,
                100 - weight
            ),
        },
    );
    match &canary.progress {
        None => format!(
            "Version {} has no traffic; its pods have been starting since {}. {rest}",
            canary.version,
            moment(canary.since, now)
        ),
        Some(progress) => format!(
            "Version {} is on trial with {} % of the traffic: step {} of {}, since {}. {rest}",
            canary.version,
            canary.weight,
            progress.step + 1,
            spec.rollout.steps.len(),
            moment(progress.step_since, now)
        ),
    }
}

/// What could not be verified of the versions in use, and the remedy. The bundled image is the
/// platform's affair.
pub(super) fn unverified(status: &ModelDeploymentStatus, own_image: bool) -> Vec<String> {
    let verified = status.verified.clone().unwrap_or_default();
    let stable = status.state.stable.as_ref();
    let canary = status.state.canary.as_ref();
    let versions = [
        stable.map(|stable| &stable.version).zip(verified.stable),
        canary.map(|canary| &canary.version).zip(verified.canary),
    ];
    let mut lines = Vec::new();
    for (version, verification) in versions.into_iter().flatten() {
        if verification.model == ModelVerification::Unverified {
            lines.push(format!(
                "Not verified: the model of version {version} is mounted as it is. Set \
                 spec.model.digest, which the bundled image checks."
            ));
        }
        if own_image && verification.image == ImageVerification::Tag {
            lines.push(format!(
                "Not verified: the image of version {version} is named by a tag, which can move. \
                 Add its digest: spec.serving.image: …@sha256:…"
            ));
        }
    }
    lines
}
