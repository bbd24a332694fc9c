//! The situations in which an upgrade or a fault meets a model.

use anyhow::Result;
use serde_json::{Value, json};
use serin::api::conditions::reasons;
use serin::api::{ModelDeployment, Phase};

use super::command_scenario::serves;
use super::condition;
use super::faults::{state, weight};

/// What a model is doing when something happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Situation {
    /// The pods of the first version cannot start yet.
    Pending,
    Stable,
    /// The pods of the second version cannot start yet.
    Preparing,
    Canary10,
    Canary25,
    Canary50,
    /// At 100 %, watched.
    Canary100,
    Paused,
    AwaitingApproval,
    /// A bad version has 25 %, and its first request comes with the event.
    TurningBad,
    /// Promoted, while the pods of the old version are still there.
    Promoting,
    /// Rolled back, while the pods of the bad version are still there.
    RollingBack,
    /// Rolled back some time ago; the spec still asks for the bad version.
    Refused,
    /// The spec turned invalid at rest.
    InvalidSpec,
    /// The spec turned invalid during a trial.
    InvalidInTrial,
    /// Deleted during a trial, kept by the finalizer of another controller.
    Deleting,
}

impl Situation {
    /// Whether the model is in it.
    pub fn is_reached(self, model: &ModelDeployment) -> bool {
        let at =
            |phase: Phase, percent: u8| state(model).phase == phase && weight(model) == percent;
        let not_ready = |reason: &str| condition(model, "Ready") == Some(("False", reason));
        match self {
            Self::Pending => at(Phase::Pending, 0),
            Self::Stable => serves(model, "1.0.0"),
            Self::Preparing => at(Phase::Preparing, 0),
            Self::Canary10 => at(Phase::Canary, 10),
            Self::Canary25 | Self::TurningBad => at(Phase::Canary, 25),
            Self::Canary50 => at(Phase::Canary, 50),
            Self::Canary100 => at(Phase::Canary, 100),
            Self::Paused => at(Phase::Canary, 25) && not_ready(reasons::PAUSED),
            Self::AwaitingApproval => at(Phase::Canary, 25) && not_ready(reasons::STEP_PAUSED),
            Self::Promoting => at(Phase::Promoting, 0),
            Self::RollingBack => at(Phase::RollingBack, 0),
            Self::Refused => {
                let stable = state(model).stable;
                at(Phase::Stable, 0)
                    && (not_ready(reasons::ROLLED_BACK) || not_ready(reasons::REFUSED))
                    && stable.is_some_and(|stable| stable.version == "1.0.0")
            }
            Self::InvalidSpec => at(Phase::Stable, 0) && not_ready(reasons::INVALID_SPEC),
            Self::InvalidInTrial => not_ready(reasons::INVALID_SPEC),
            Self::Deleting => model.metadata.deletion_timestamp.is_some(),
        }
    }
}

/// A manifest of the demo for a dozen models that share one machine of two cores: pods that ask for
/// little CPU, an objective that few requests can prove, and this rollout, with short times at its
/// end.
pub fn small(manifest: &str, max_errors: &str, rollout: &Value) -> Result<Value> {
    let mut manifest: Value = serde_norway::from_str(manifest)?;
    let spec = &mut manifest["spec"];
    server(spec)["resources"]["requests"]["cpu"] = "10m".into();
    spec["objectives"] = json!([{"name": "errors", "errorRate": {"max": max_errors}}]);
    spec["rollout"] = json!({"bakeTime": "5s", "scaleDownDelay": "5s"});
    for (name, value) in rollout.as_object().into_iter().flatten() {
        spec["rollout"][name] = value.clone();
    }
    Ok(manifest)
}

/// The server's container in the pod template of a manifest of the demo.
pub fn server(spec: &mut Value) -> &mut Value {
    &mut spec["serving"]["template"]["spec"]["containers"][0]
}

/// Asks for a model from a place that the demo's operator does not allow.
pub fn invalidate(manifest: &mut Value) {
    manifest["spec"]["model"]["uri"] = "s3://models/iris".into();
}
