//! The situations that a model is held in through an upgrade, by its spec or by the lack of a node.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use serin::api::ModelDeployment;

use super::super::command_scenario::serves;
use super::super::demo::{V1, V2};
use super::super::situation::{Situation, invalidate, server, small};

/// How long a situation is held by the spec: the models reach it, and the upgrade runs and is
/// looked at, within this time.
pub const HOLD: Duration = Duration::from_secs(240);
/// Label of nodes that pods wait for, where a situation is held by the lack of a node.
pub const ROOM: &str = "serin.dev/lab-room";
/// The version that fails most requests.
pub const BAD: &str = "3.0.0";

/// One model each.
pub const ALL: [Situation; 12] = [
    Situation::Pending,
    Situation::Stable,
    Situation::Preparing,
    Situation::Canary10,
    Situation::Canary50,
    Situation::Paused,
    Situation::AwaitingApproval,
    Situation::Canary100,
    Situation::Promoting,
    Situation::RollingBack,
    Situation::Refused,
    Situation::InvalidSpec,
];

/// The namespace of a model.
pub fn namespace(situation: Situation) -> String {
    format!("upgraded-{situation:?}").to_lowercase()
}

/// The manifest of the first version.
pub fn first(situation: Situation) -> Result<Value> {
    let mut manifest = one_pod(V1, &json!({}))?;
    if situation == Situation::Pending {
        manifest["spec"]["serving"]["template"]["spec"]["nodeSelector"] = json!({ROOM: "true"});
    }
    Ok(manifest)
}

/// The manifest that follows it, if any.
pub fn second(situation: Situation) -> Result<Option<Value>> {
    let hold = format!("{}s", HOLD.as_secs());
    let last = json!({"weight": 100, "minDuration": "5s"});
    let steps = |first: u8, time: &str| json!([{"weight": first, "minDuration": time}, last]);
    let short = steps(50, "5s");
    let rollout = match situation {
        Situation::Pending | Situation::Stable => return Ok(None),
        Situation::Canary10 => json!({"steps": steps(10, &hold)}),
        Situation::Canary50 => json!({"steps": steps(50, &hold)}),
        Situation::Paused => json!({"steps": steps(25, "60s")}),
        Situation::AwaitingApproval => {
            let first = json!({"weight": 25, "minDuration": "5s", "pause": {}});
            json!({"steps": [first, last]})
        }
        Situation::Canary100 => json!({"steps": short, "bakeTime": hold}),
        Situation::Promoting => json!({"steps": short, "scaleDownDelay": hold}),
        _ => json!({"steps": short}),
    };
    let mut manifest = one_pod(V2, &rollout)?;
    match situation {
        Situation::Preparing => {
            manifest["spec"]["serving"]["template"]["spec"]["nodeSelector"] = json!({ROOM: "true"});
        }
        Situation::InvalidSpec => invalidate(&mut manifest),
        Situation::RollingBack | Situation::Refused => {
            let spec = &mut manifest["spec"];
            spec["model"]["version"] = BAD.into();
            if situation == Situation::RollingBack {
                // A version whose trial has ended keeps its pods for this long.
                spec["traffic"] = json!({"envoy": {"timeout": hold}});
            }
            server(spec)["env"] = json!([
                {"name": "SERIN_SERVE_TEST_FAULTS", "value": "true"},
                {"name": "SERIN_SERVE_TEST_ERROR_SHARE", "value": "0.6"},
            ]);
        }
        _ => {}
    }
    Ok(Some(manifest))
}

/// Whether the rollout has ended as it would have without the upgrade.
pub fn has_ended(situation: Situation, model: &ModelDeployment) -> bool {
    match situation {
        Situation::Stable | Situation::Refused | Situation::InvalidSpec => {
            situation.is_reached(model)
        }
        Situation::RollingBack => Situation::Refused.is_reached(model),
        _ => serves(model, final_version(situation)),
    }
}

/// The version that serves in the end.
pub fn final_version(situation: Situation) -> &'static str {
    match situation {
        Situation::Pending
        | Situation::Stable
        | Situation::RollingBack
        | Situation::Refused
        | Situation::InvalidSpec => "1.0.0",
        _ => "2.0.0",
    }
}

fn one_pod(manifest: &str, rollout: &Value) -> Result<Value> {
    let mut manifest = small(manifest, "10%", rollout)?;
    manifest["spec"]["replicas"] = 1.into();
    Ok(manifest)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_was_just_made_is_in_no_situation_but_pending() {
        for situation in ALL {
            let second = second(situation).unwrap();
            for mut manifest in second.into_iter().chain([first(situation).unwrap()]) {
                let namespace = namespace(situation);
                manifest["metadata"] = json!({"name": "iris", "namespace": namespace});
                let model: ModelDeployment = serde_json::from_value(manifest).unwrap();
                let pending = situation == Situation::Pending;
                assert_eq!(situation.is_reached(&model), pending, "{situation:?}");
                assert!(!has_ended(situation, &model), "{situation:?}");
            }
        }
    }
}
