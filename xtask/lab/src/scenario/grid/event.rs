//! What a cluster does to all models at once, and how it is seen to have done so.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use kube::api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::super::faults::{OPERATOR, processes, signal};
use super::super::platform_faults::{create, freeze_deployments, is_counted, thaw_deployments};
use super::super::situation::Situation;
use super::super::{Lab, OURS};
use super::all;

/// Longest time until what was done takes effect; router pods drain one after the other.
const EFFECT: Duration = Duration::from_secs(240);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// The grid's own namespaces.
pub const GROUP: &str = "grid";
const WEBHOOK: &str = "serin-lab-silent";
const QUOTA: &str = "full";

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Event {
    /// Every router pod replaced.
    RoutersReplaced,
    /// `kill -9` of every operator.
    OperatorsKilled,
    /// A policy denies every write of a Deployment.
    DeploymentsDenied,
    /// A webhook for Deployments and Services takes calls and does not answer.
    WebhookTimesOut,
    /// A pod of each version evicted, as a drain does.
    PodsEvicted,
    /// A quota without room, and then a pod of the newest version evicted.
    NoNewPods,
    /// The status of every model deleted.
    StatusDeleted,
    /// Prometheus stopped.
    PrometheusStopped,
}

/// What an event has begun, to be seen to take effect.
pub enum Trouble {
    /// Router pods of before, by their UIDs.
    Routers(Vec<String>),
    /// Processes of before, as folders of `/proc`.
    Processes(Vec<PathBuf>),
    /// Pods of before, by namespace and name.
    Pods(Vec<(Lab, String)>),
    /// Writes of Deployments are refused in these words, as long as the socket lives.
    Refusal(&'static str, Option<TcpListener>),
    /// It was seen already; what was.
    Seen(String),
}

impl Event {
    /// Whether no evidence can be had meanwhile.
    pub fn blinds(self) -> bool {
        self == Self::PrometheusStopped
    }

    /// Whether it takes away what is known of a version that was rolled back: the spec asks for it,
    /// so it is tried and rolled back once more.
    pub fn forgets(self, situation: Situation) -> bool {
        self == Self::StatusDeleted && situation == Situation::Refused
    }

    /// Whether pods of models end by it.
    pub fn takes_pods(self) -> bool {
        matches!(self, Self::PodsEvicted | Self::NoNewPods)
    }

    /// Lets it happen to all models.
    pub async fn begin(self, labs: &[Lab]) -> Result<Trouble> {
        let lab = labs.first().context("no state was reached")?;
        Ok(match self {
            Self::RoutersReplaced => Trouble::Routers(lab.replace_routers().await?),
            Self::OperatorsKilled => {
                let operators = processes(OPERATOR)?;
                signal(&operators, Signal::KILL)?;
                Trouble::Processes(operators)
            }
            Self::DeploymentsDenied => {
                let words = freeze_deployments(&lab.client, &ours()).await?;
                Trouble::Refusal(words, None)
            }
            Self::WebhookTimesOut => {
                let silent = TcpListener::bind("127.0.0.1:0").await?;
                let url = format!("https://{}/", silent.local_addr()?);
                let webhooks: Api<ValidatingWebhookConfiguration> = Api::all(lab.client.clone());
                create(&webhooks, webhook(&url)).await?;
                Trouble::Refusal("failed calling webhook", Some(silent))
            }
            Self::PodsEvicted => {
                let mut evicted = Vec::new();
                for lab in labs {
                    for version in ["1.0.0", "2.0.0", "3.0.0"] {
                        evicted.extend(evict_one(lab, version).await?);
                    }
                }
                Trouble::Pods(evicted)
            }
            Self::NoNewPods => {
                let filled = all(labs.iter().cloned().map(fill)).await?;
                filled.into_iter().collect::<Result<()>>()?;
                let mut evicted = Vec::new();
                for lab in labs {
                    for version in ["3.0.0", "2.0.0", "1.0.0"] {
                        let pod = evict_one(lab, version).await?;
                        let is_done = pod.is_some();
                        evicted.extend(pod);
                        if is_done {
                            break;
                        }
                    }
                }
                Trouble::Pods(evicted)
            }
            Self::StatusDeleted => {
                let empty = json!({"status": null});
                let params = PatchParams::default();
                for lab in labs {
                    let models = lab.models();
                    let model = models
                        .patch_status(&lab.name, &params, &Patch::Merge(&empty))
                        .await?;
                    if model
                        .status
                        .is_some_and(|status| status.state.stable.is_some())
                    {
                        bail!("{}: the status is still there", lab.namespace);
                    }
                }
                Trouble::Seen(format!("{} statuses were deleted", labs.len()))
            }
            Self::PrometheusStopped => {
                let prometheus = processes("prometheus")?;
                signal(&prometheus, Signal::STOP)?;
                let deadline = Instant::now() + EFFECT;
                for process in &prometheus {
                    let stat = process.join("stat");
                    while !std::fs::read_to_string(&stat)?.contains(") T ") {
                        pause(deadline, "Prometheus still runs").await?;
                    }
                }
                Trouble::Seen("Prometheus is stopped".to_owned())
            }
        })
    }

    /// Undoes what lasts.
    pub async fn end(self) -> Result<()> {
        let client = Client::try_default().await?;
        let params = DeleteParams::default();
        match self {
            Self::DeploymentsDenied => thaw_deployments(&client).await?,
            Self::WebhookTimesOut => {
                let webhooks: Api<ValidatingWebhookConfiguration> = Api::all(client);
                webhooks.delete(WEBHOOK, &params).await?;
            }
            Self::NoNewPods => {
                let quotas: Api<ResourceQuota> = Api::all(client.clone());
                for quota in quotas.list(&ListParams::default()).await? {
                    let namespace = quota.namespace().unwrap_or_default();
                    let its: Api<ResourceQuota> = Api::namespaced(client.clone(), &namespace);
                    if quota.name_any() == QUOTA && namespace.starts_with("grid-") {
                        its.delete(QUOTA, &params).await?;
                    }
                }
            }
            Self::PrometheusStopped => signal(&processes("prometheus")?, Signal::CONT)?,
            _ => {}
        }
        Ok(())
    }
}

impl Trouble {
    /// Waits until it has taken effect on all models. Returns what was seen.
    pub async fn took_effect(self, labs: &[Lab]) -> Result<String> {
        let deadline = Instant::now() + EFFECT;
        match self {
            Self::Seen(words) => Ok(words),
            Self::Routers(old) => {
                let lab = labs.first().context("no state was reached")?;
                while lab
                    .routers()
                    .await?
                    .iter()
                    .any(|router| old.contains(router))
                {
                    pause(deadline, "router pods of before are left").await?;
                }
                Ok(format!("{} router pods were replaced", old.len()))
            }
            Self::Processes(old) => {
                while old.iter().any(|process| process.exists()) {
                    pause(deadline, "processes that were killed are left").await?;
                }
                while processes(OPERATOR).is_err() {
                    pause(deadline, "no operator comes back").await?;
                }
                Ok(format!("{} operators were killed", old.len()))
            }
            Self::Pods(pods) => {
                for (lab, name) in &pods {
                    while is_running(lab, name).await? {
                        pause(deadline, "a pod that was evicted is left").await?;
                    }
                }
                Ok(format!("{} pods were evicted", pods.len()))
            }
            Self::Refusal(words, _silent) => {
                let denied = labs.iter().cloned();
                let denied = all(denied.map(|lab| async move { lab.until_refused(words).await }));
                denied.await?.into_iter().collect::<Result<Vec<_>>>()?;
                Ok(format!(
                    "writes are refused to {} models: {words}",
                    labs.len()
                ))
            }
        }
    }
}

/// Waits for the next look.
async fn pause(deadline: Instant, what: &str) -> Result<()> {
    if Instant::now() > deadline {
        bail!("{what} after {} s", EFFECT.as_secs());
    }
    tokio::time::sleep(LOOK).await;
    Ok(())
}

/// Selects the grid's namespaces.
fn ours() -> Value {
    json!({"matchLabels": {OURS: GROUP}})
}

/// For all writes of Deployments and Services.
fn webhook(url: &str) -> Value {
    json!({"metadata": {"name": WEBHOOK}, "webhooks": [{
        "name": "silent.serin.dev",
        "clientConfig": {"url": url},
        "rules": [{
            "apiGroups": ["apps", ""], "apiVersions": ["v1"],
            "resources": ["deployments", "services"], "operations": ["CREATE", "UPDATE", "DELETE"],
        }],
        "namespaceSelector": ours(),
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 10,
    }]})
}

/// Evicts a pod of a version, as far as it has one.
async fn evict_one(lab: &Lab, version: &str) -> Result<Option<(Lab, String)>> {
    let pods: Api<Pod> = Api::namespaced(lab.client.clone(), &lab.namespace);
    let Some(pod) = lab
        .pods_of(version)
        .await?
        .first()
        .map(ResourceExt::name_any)
    else {
        return Ok(None);
    };
    pods.evict(&pod, &EvictParams::default()).await?;
    Ok(Some((lab.clone(), pod)))
}

/// Whether a pod is there and is not being deleted.
async fn is_running(lab: &Lab, name: &str) -> Result<bool> {
    let pods: Api<Pod> = Api::namespaced(lab.client.clone(), &lab.namespace);
    let pod = pods.get_opt(name).await?;
    Ok(pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none()))
}

/// A quota that has room for no more pods than there are; returns when a pod was refused.
async fn fill(lab: Lab) -> Result<()> {
    let quotas: Api<ResourceQuota> = Api::namespaced(lab.client.clone(), &lab.namespace);
    create(
        &quotas,
        json!({"metadata": {"name": QUOTA}, "spec": {"hard": {"pods": "1"}}}),
    )
    .await?;
    let deadline = Instant::now() + EFFECT;
    while !is_counted(&quotas.get(QUOTA).await?) {
        pause(deadline, "the quota does not count").await?;
    }
    let pods: Api<Pod> = Api::namespaced(lab.client.clone(), &lab.namespace);
    let probe = json!({
        "metadata": {"name": "probe"},
        "spec": {"containers": [{"name": "probe", "image": "probe"}]},
    });
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    match pods.create(&params, &serde_json::from_value(probe)?).await {
        Err(error) if error.to_string().contains("exceeded quota") => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => bail!("{}: the quota takes a pod more", lab.namespace),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_knows_every_event() {
        let names: Vec<String> = Event::value_variants()
            .iter()
            .filter_map(|event| Some(event.to_possible_value()?.get_name().to_owned()))
            .collect();
        assert_eq!(names, deploy::EVENTS);
    }
}
