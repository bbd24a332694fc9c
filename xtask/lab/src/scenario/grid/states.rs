//! The situations of the grid, and the way into each of them and out.

use std::time::Duration;

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use serin::api::ModelDeployment;

use super::super::Lab;
use super::super::command_scenario::serves;
use super::super::demo::{V1, V2, V3};
use super::super::faults::{ROLLOUT, weight};
use super::super::platform_faults::{all_messages, create};
use super::super::situation::{Situation, invalidate, server, small};

/// Longest time to a situation: a dozen models start side by side.
const REACHED: Duration = Duration::from_secs(400);
/// A step that does not end by itself while a round lasts.
const HELD: &str = "60m";
/// The finalizer of another controller.
const FINALIZER: &str = "example.com/kept";
/// The Secret that the pods of [`Situation::Preparing`] wait for.
const SECRET: &str = "comes-late";

/// One model each.
pub const ALL: [Situation; 12] = [
    Situation::Stable,
    Situation::Preparing,
    Situation::Canary25,
    Situation::Canary50,
    Situation::Canary100,
    Situation::Paused,
    Situation::AwaitingApproval,
    Situation::TurningBad,
    Situation::Refused,
    Situation::InvalidSpec,
    Situation::InvalidInTrial,
    Situation::Deleting,
];

/// Brings a model that serves version 1.0.0 into a situation.
pub async fn reach(situation: Situation, lab: &Lab) -> Result<()> {
    let at = |weight: u8| steps(&[(weight, HELD), (100, "5s")]);
    let apply = |object| lab.apply_object(object);
    match situation {
        Situation::Stable => {}
        Situation::Preparing => {
            let mut spec = second(&short())?;
            server(&mut spec["spec"])["env"] = json!([{
                "name": "LATE",
                "valueFrom": {"secretKeyRef": {"name": SECRET, "key": "value"}},
            }]);
            apply(spec).await?;
        }
        Situation::Canary25 | Situation::Deleting => apply(second(&at(25))?).await?,
        Situation::Canary50 => apply(second(&at(50))?).await?,
        Situation::Canary100 => apply(second(&steps(&[(50, "5s"), (100, HELD)]))?).await?,
        Situation::Paused => {
            apply(second(&short())?).await?;
            wait_for(situation, lab, |model| weight(model) == 25).await?;
            let mut spec = second(&short())?;
            spec["spec"]["rollout"]["paused"] = true.into();
            apply(spec).await?;
        }
        Situation::AwaitingApproval => {
            let mut steps = short();
            steps[0]["pause"] = json!({});
            apply(second(&steps)?).await?;
        }
        Situation::TurningBad => apply(manifest(V3, &at(25))?).await?,
        Situation::Refused => apply(manifest(V3, &short())?).await?,
        Situation::InvalidSpec => apply(invalid()?).await?,
        Situation::InvalidInTrial => {
            apply(second(&at(50))?).await?;
            wait_for(situation, lab, |model| weight(model) == 50).await?;
            apply(invalid()?).await?;
        }
        Situation::Pending
        | Situation::Canary10
        | Situation::Promoting
        | Situation::RollingBack => bail!("{situation:?} is not in the grid"),
    }
    if situation == Situation::Deleting {
        wait_for(situation, lab, |model| weight(model) == 25).await?;
        finalize(lab, &json!([FINALIZER])).await?;
        let params = DeleteParams::default();
        lab.models().delete(&lab.name, &params).await?;
    }
    wait_for(situation, lab, |model| {
        // Other reasons than the missing Secret come first.
        let is_held = situation != Situation::Preparing || all_messages(model).contains(SECRET);
        is_held && situation.is_reached(model)
    })
    .await
}

async fn wait_for(
    situation: Situation,
    lab: &Lab,
    wanted: impl Fn(&ModelDeployment) -> bool,
) -> Result<()> {
    lab.wait(&format!("on the way to {situation:?}"), REACHED, wanted)
        .await?;
    Ok(())
}

/// Does what a person does to let the rollout continue, once the event is over.
pub async fn release(situation: Situation, lab: &Lab) -> Result<()> {
    match situation {
        Situation::Stable | Situation::TurningBad | Situation::Refused => Ok(()),
        Situation::Preparing => {
            let secrets: Api<Secret> = Api::namespaced(lab.client.clone(), &lab.namespace);
            let secret = json!({"metadata": {"name": SECRET}, "stringData": {"value": "1"}});
            create(&secrets, secret).await
        }
        Situation::Canary50 | Situation::Canary100 => {
            let steps = steps(&[(50, "5s"), (100, "5s")]);
            lab.apply_object(second(&steps)?).await
        }
        Situation::Deleting => finalize(lab, &json!([])).await,
        _ => lab.apply_object(second(&short())?).await,
    }
}

/// Waits for the end that the model has without the event.
pub async fn end(situation: Situation, lab: &Lab) -> Result<()> {
    if situation != Situation::Deleting {
        lab.wait("at its end", ROLLOUT, |model| has_ended(situation, model))
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

fn has_ended(situation: Situation, model: &ModelDeployment) -> bool {
    match situation {
        Situation::Stable => serves(model, "1.0.0"),
        Situation::TurningBad | Situation::Refused => Situation::Refused.is_reached(model),
        _ => serves(model, "2.0.0"),
    }
}

/// The first version, with the grid's objectives.
pub fn first() -> Result<Value> {
    manifest(V1, &short())
}

fn second(steps: &Value) -> Result<Value> {
    manifest(V2, steps)
}

/// The second version, invalid.
fn invalid() -> Result<Value> {
    let mut spec = second(&short())?;
    invalidate(&mut spec);
    Ok(spec)
}

fn short() -> Value {
    steps(&[(25, "5s"), (50, "5s"), (100, "5s")])
}

fn steps(steps: &[(u8, &str)]) -> Value {
    let step = |(weight, time): &(u8, &str)| json!({"weight": weight, "minDuration": time});
    steps.iter().map(step).collect()
}

/// The errors that the few requests of one of a dozen models can prove. Latency is no objective:
/// one machine is busy with all of them.
fn manifest(text: &str, steps: &Value) -> Result<Value> {
    small(text, "5%", &json!({"steps": steps}))
}

async fn finalize(lab: &Lab, finalizers: &Value) -> Result<()> {
    let patch = json!({"metadata": {"finalizers": finalizers}});
    let params = PatchParams::default();
    lab.models()
        .patch(&lab.name, &params, &Patch::Merge(&patch))
        .await?;
    Ok(())
}
