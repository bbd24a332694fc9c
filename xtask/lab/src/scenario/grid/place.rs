//! The states that a model can be in when something happens to it, and the way there and out.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use serin::api::conditions::reasons;
use serin::api::{ModelDeployment, Phase};

use super::super::faults::{ROLLOUT, state, weight};
use super::super::platform::{all_messages, create};
use super::super::story::{V1, V2, V3};
use super::super::words::serves;
use super::super::{Lab, condition};

/// Longest time to a state: a dozen models start side by side.
const REACHED: Duration = Duration::from_secs(400);
/// A step that does not end by itself while a round lasts.
const HELD: &str = "60m";
/// Somebody else's finalizer.
const FINALIZER: &str = "example.com/kept";
/// The Secret that the pods of [`Place::Preparing`] wait for.
const SECRET: &str = "comes-late";

/// A state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Stable,
    /// A new version's pods wait for a Secret.
    Preparing,
    Canary25,
    Canary50,
    Canary100,
    Paused,
    AwaitingApproval,
    /// A bad version has 25 %, and its first request comes with the event.
    TurningBad,
    /// A bad version was rolled back, and the spec still asks for it.
    Refused,
    /// The spec turned invalid at rest.
    InvalidSpec,
    /// The spec turned invalid in mid-trial.
    InvalidInTrial,
    /// Deleted in mid-trial, behind somebody else's finalizer.
    Deleting,
}

impl Place {
    pub const ALL: [Self; 12] = [
        Self::Stable,
        Self::Preparing,
        Self::Canary25,
        Self::Canary50,
        Self::Canary100,
        Self::Paused,
        Self::AwaitingApproval,
        Self::TurningBad,
        Self::Refused,
        Self::InvalidSpec,
        Self::InvalidInTrial,
        Self::Deleting,
    ];

    /// Brings a model that serves version 1.0.0 there.
    pub async fn reach(self, lab: &Lab) -> Result<()> {
        let at = |weight: u8| steps(&[(weight, HELD), (100, "5s")]);
        let apply = |object| lab.apply_object(object);
        match self {
            Self::Stable => {}
            Self::Preparing => {
                let mut spec = second(&short())?;
                spec["spec"]["serving"]["env"] = json!([{
                    "name": "LATE",
                    "valueFrom": {"secretKeyRef": {"name": SECRET, "key": "value"}},
                }]);
                apply(spec).await?;
            }
            Self::Canary25 | Self::Deleting => apply(second(&at(25))?).await?,
            Self::Canary50 => apply(second(&at(50))?).await?,
            Self::Canary100 => apply(second(&steps(&[(50, "5s"), (100, HELD)]))?).await?,
            Self::Paused => {
                apply(second(&short())?).await?;
                self.wait_for(lab, |model| weight(model) == 25).await?;
                let mut spec = second(&short())?;
                spec["spec"]["rollout"]["paused"] = true.into();
                apply(spec).await?;
            }
            Self::AwaitingApproval => {
                let mut steps = short();
                steps[0]["pause"] = true.into();
                apply(second(&steps)?).await?;
            }
            Self::TurningBad => apply(manifest(V3, &at(25))?).await?,
            Self::Refused => apply(manifest(V3, &short())?).await?,
            Self::InvalidSpec => apply(invalid()?).await?,
            Self::InvalidInTrial => {
                apply(second(&at(50))?).await?;
                self.wait_for(lab, |model| weight(model) == 50).await?;
                apply(invalid()?).await?;
            }
        }
        if self == Self::Deleting {
            self.wait_for(lab, |model| weight(model) == 25).await?;
            finalize(lab, &json!([FINALIZER])).await?;
            let params = DeleteParams::default();
            lab.models().delete(&lab.name, &params).await?;
        }
        self.wait_for(lab, |model| self.is_reached(model)).await
    }

    async fn wait_for(self, lab: &Lab, wanted: impl Fn(&ModelDeployment) -> bool) -> Result<()> {
        lab.wait(&format!("on the way to {self:?}"), REACHED, wanted)
            .await?;
        Ok(())
    }

    fn is_reached(self, model: &ModelDeployment) -> bool {
        let not_ready = |reason| condition(model, "Ready") == Some(("False", reason));
        match self {
            Self::Stable => serves(model, "1.0.0"),
            Self::Preparing => {
                state(model).phase == Phase::Preparing && all_messages(model).contains(SECRET)
            }
            Self::Canary25 | Self::TurningBad => weight(model) == 25,
            Self::Canary50 => weight(model) == 50,
            Self::Canary100 => weight(model) == 100,
            Self::Paused => weight(model) == 25 && state(model).paused,
            Self::AwaitingApproval => not_ready(reasons::AWAITING_APPROVAL),
            Self::Refused => self.is_over(model),
            Self::InvalidSpec | Self::InvalidInTrial => not_ready(reasons::INVALID_SPEC),
            Self::Deleting => model.metadata.deletion_timestamp.is_some(),
        }
    }

    /// What a person does for the model to go on, once the event is over.
    pub async fn let_go(self, lab: &Lab) -> Result<()> {
        match self {
            Self::Stable | Self::TurningBad | Self::Refused => Ok(()),
            Self::Preparing => {
                let secrets: Api<Secret> = Api::namespaced(lab.client.clone(), &lab.namespace);
                let secret = json!({"metadata": {"name": SECRET}, "stringData": {"value": "1"}});
                create(&secrets, secret).await
            }
            Self::Canary50 | Self::Canary100 => {
                let steps = steps(&[(50, "5s"), (100, "5s")]);
                lab.apply_object(second(&steps)?).await
            }
            Self::Canary25
            | Self::Paused
            | Self::AwaitingApproval
            | Self::InvalidSpec
            | Self::InvalidInTrial => lab.apply_object(second(&short())?).await,
            Self::Deleting => finalize(lab, &json!([])).await,
        }
    }

    /// Waits for the end that the model has without the event.
    pub async fn end(self, lab: &Lab) -> Result<()> {
        if self != Self::Deleting {
            lab.wait("at its end", ROLLOUT, |model| self.is_over(model))
                .await?;
            return Ok(());
        }
        let gone = tokio::time::timeout(ROLLOUT, async {
            while lab.models().get_opt(&lab.name).await?.is_some() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            anyhow::Ok(())
        });
        gone.await?
    }

    fn is_over(self, model: &ModelDeployment) -> bool {
        match self {
            Self::Stable => serves(model, "1.0.0"),
            Self::TurningBad | Self::Refused => {
                let ready = condition(model, "Ready");
                let stable = state(model).stable;
                [reasons::ROLLED_BACK, reasons::REFUSED]
                    .iter()
                    .any(|reason| ready == Some(("False", *reason)))
                    && state(model).phase == Phase::Stable
                    && stable.is_some_and(|stable| stable.version == "1.0.0")
            }
            _ => serves(model, "2.0.0"),
        }
    }
}

/// The first version, with the grid's objectives.
pub fn first() -> Result<Value> {
    manifest(V1, &short())
}

fn second(steps: &Value) -> Result<Value> {
    manifest(V2, steps)
}

/// The second version from a place that the demo's operator does not allow.
fn invalid() -> Result<Value> {
    let mut spec = second(&short())?;
    spec["spec"]["model"]["uri"] = "s3://models/iris".into();
    Ok(spec)
}

fn short() -> Value {
    steps(&[(25, "5s"), (50, "5s"), (100, "5s")])
}

fn steps(steps: &[(u8, &str)]) -> Value {
    let step = |(weight, time): &(u8, &str)| json!({"weight": weight, "minDuration": time});
    steps.iter().map(step).collect()
}

/// A manifest of the demo with these steps, and with an objective that the few requests of one of a
/// dozen models can prove. Latency is none: one machine is busy with all of them.
fn manifest(text: &str, steps: &Value) -> Result<Value> {
    let mut manifest: Value = serde_norway::from_str(text)?;
    let spec = &mut manifest["spec"];
    // Four dozen pods find room on one node of two cores.
    spec["serving"]["resources"]["requests"]["cpu"] = "10m".into();
    spec["objectives"] = json!([{"errorRate": {"max": "5%"}}]);
    spec["rollout"] = json!({"steps": steps, "watch": "5s", "scaleDownDelay": "5s"});
    Ok(manifest)
}

async fn finalize(lab: &Lab, finalizers: &Value) -> Result<()> {
    let patch = json!({"metadata": {"finalizers": finalizers}});
    let params = PatchParams::default();
    lab.models()
        .patch(&lab.name, &params, &Patch::Merge(&patch))
        .await?;
    Ok(())
}
