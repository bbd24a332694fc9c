//! A model in each phase that there is, held there by its spec or by the lack of a node.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use serin::api::conditions::reasons;
use serin::api::{ModelDeployment, Phase};

use super::faults::{state, weight};
use super::story::{V1, V2};
use super::{condition, is_ready};

/// How long a phase is held by its spec: the models reach their phases, and the upgrade runs and is
/// looked at, within this time.
pub const HOLD: Duration = Duration::from_secs(240);
/// Label of nodes that pods wait for, where a phase is held by the lack of a node.
pub const ROOM: &str = "serin.dev/lab-room";
/// The version that fails most requests.
pub const BAD: &str = "3.0.0";

/// What a model is doing when the operator changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Its first version waits for a node.
    Pending,
    Stable,
    /// Its second version waits for a node.
    Preparing,
    CanaryAt10,
    CanaryAt50,
    Paused,
    AwaitingApproval,
    /// At 100 %, watched.
    AtFull,
    /// Promoted, with the old version's pods still there.
    Promoting,
    /// Rolled back, with the bad version's pods still there.
    RollingBack,
    /// Rolled back some time ago.
    Refused,
    /// With a spec that cannot be used.
    InvalidSpec,
}

impl Held {
    /// Each of them.
    pub const ALL: [Self; 12] = [
        Self::Pending,
        Self::Stable,
        Self::Preparing,
        Self::CanaryAt10,
        Self::CanaryAt50,
        Self::Paused,
        Self::AwaitingApproval,
        Self::AtFull,
        Self::Promoting,
        Self::RollingBack,
        Self::Refused,
        Self::InvalidSpec,
    ];

    /// Where its model is.
    pub fn namespace(self) -> String {
        format!("upgraded-{self:?}").to_lowercase()
    }

    /// The first version's manifest.
    pub fn first(self) -> Result<Value> {
        let mut manifest = manifest(V1, &json!({}))?;
        if self == Self::Pending {
            manifest["spec"]["serving"]["nodeSelector"] = json!({ROOM: "true"});
        }
        Ok(manifest)
    }

    /// What follows it, if anything.
    pub fn second(self) -> Result<Option<Value>> {
        let hold = format!("{}s", HOLD.as_secs());
        let last = json!({"weight": 100, "minDuration": "5s"});
        let steps = |first: u8, time: &str| json!([{"weight": first, "minDuration": time}, last]);
        let short = steps(50, "5s");
        let rollout = match self {
            Self::Pending | Self::Stable => return Ok(None),
            Self::CanaryAt10 => json!({"steps": steps(10, &hold)}),
            Self::CanaryAt50 => json!({"steps": steps(50, &hold)}),
            Self::Paused => json!({"steps": steps(25, "60s")}),
            Self::AwaitingApproval => {
                let first = json!({"weight": 25, "minDuration": "5s", "pause": true});
                json!({"steps": [first, last]})
            }
            Self::AtFull => json!({"steps": short, "watch": hold}),
            Self::Promoting | Self::RollingBack => {
                json!({"steps": short, "scaleDownDelay": hold})
            }
            Self::Preparing | Self::Refused | Self::InvalidSpec => json!({"steps": short}),
        };
        let mut manifest = manifest(V2, &rollout)?;
        let spec = &mut manifest["spec"];
        match self {
            Self::Preparing => spec["serving"]["nodeSelector"] = json!({ROOM: "true"}),
            // A scheme that the operator of the demo does not allow.
            Self::InvalidSpec => spec["model"]["uri"] = "s3://models/iris".into(),
            Self::RollingBack | Self::Refused => {
                spec["model"]["version"] = BAD.into();
                spec["serving"]["env"] = json!([
                    {"name": "SERIN_SERVE_TEST_FAULTS", "value": "true"},
                    {"name": "SERIN_SERVE_TEST_ERROR_SHARE", "value": "0.6"},
                ]);
            }
            _ => {}
        }
        Ok(Some(manifest))
    }

    /// Whether the model is where it is to be held.
    pub fn is_reached(self, model: &ModelDeployment) -> bool {
        let at =
            |phase: Phase, percent: u8| state(model).phase == phase && weight(model) == percent;
        let answers = |reason: &str| condition(model, "Ready") == Some(("False", reason));
        match self {
            Self::Pending => at(Phase::Pending, 0),
            Self::Stable => at(Phase::Stable, 0) && is_ready(model),
            Self::Preparing => at(Phase::Preparing, 0),
            Self::CanaryAt10 => at(Phase::Canary, 10),
            Self::CanaryAt50 => at(Phase::Canary, 50),
            Self::Paused => at(Phase::Canary, 25) && answers(reasons::PAUSED),
            Self::AwaitingApproval => at(Phase::Canary, 25) && answers(reasons::AWAITING_APPROVAL),
            Self::AtFull => at(Phase::Canary, 100),
            Self::Promoting => at(Phase::Promoting, 0),
            Self::RollingBack => at(Phase::RollingBack, 0),
            Self::Refused => at(Phase::Stable, 0) && answers(reasons::ROLLED_BACK),
            Self::InvalidSpec => at(Phase::Stable, 0) && answers(reasons::INVALID_SPEC),
        }
    }

    /// Whether the rollout has ended as it would have without the upgrade.
    pub fn has_ended(self, model: &ModelDeployment) -> bool {
        match self {
            Self::Stable | Self::Refused | Self::InvalidSpec => self.is_reached(model),
            Self::RollingBack => Self::Refused.is_reached(model),
            _ => Self::Stable.is_reached(model),
        }
    }

    /// The version that serves in the end.
    pub fn in_the_end(self) -> &'static str {
        match self {
            Self::Pending
            | Self::Stable
            | Self::RollingBack
            | Self::Refused
            | Self::InvalidSpec => "1.0.0",
            _ => "2.0.0",
        }
    }
}

/// A manifest of the demo for one small pod, and few requests as evidence.
fn manifest(manifest: &str, rollout: &Value) -> Result<Value> {
    let mut manifest: Value = serde_norway::from_str(manifest)?;
    let spec = &mut manifest["spec"];
    spec["replicas"] = 1.into();
    spec["serving"]["resources"]["requests"]["cpu"] = "10m".into();
    spec["objectives"] = json!([{"errorRate": {"max": "10%"}}]);
    spec["rollout"] = json!({"watch": "5s", "scaleDownDelay": "5s"});
    for (name, value) in rollout.as_object().into_iter().flatten() {
        spec["rollout"][name] = value.clone();
    }
    Ok(manifest)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_was_just_made_is_in_no_phase_but_pending() {
        for held in Held::ALL {
            let second = held.second().unwrap();
            for mut manifest in second.into_iter().chain([held.first().unwrap()]) {
                manifest["metadata"] = json!({"name": "iris", "namespace": held.namespace()});
                let model: ModelDeployment = serde_json::from_value(manifest).unwrap();
                assert_eq!(held.is_reached(&model), held == Held::Pending, "{held:?}");
                assert!(!held.has_ended(&model), "{held:?}");
            }
        }
    }
}
