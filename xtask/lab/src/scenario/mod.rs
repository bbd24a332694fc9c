//! Rollouts on a real cluster under real traffic: what `cargo xtask demo` shows, and the faults of
//! the end-to-end tests.
//!
//! `cargo xtask play` prepares the cluster from outside. This runs inside its network, so that
//! Services have their names.

mod audit;
mod batch_job;
mod checks;
mod command_scenario;
mod demo;
mod faults;
mod grid;
mod hpa;
mod models_fetched;
mod platform_faults;
mod port_forward;
mod registry;
mod situation;
mod stable_wedged;
mod timeline;
mod traffic;
mod upgrade;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use deploy::{NAMESPACE, OURS, Scenario};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use kube_runtime::wait::await_condition;
use serin::{
    api::{DecisionRecord, MODEL_LABEL, ModelDeployment, State},
    plan::VERSION_ANNOTATION,
    runtime::leader::LEASE,
};

use self::port_forward::Forward;
use self::traffic::Traffic;

/// Arguments of `lab scenario`.
#[derive(Debug, clap::Args)]
pub struct Args {
    scenario: Scenario,
    #[arg(long, default_value_t = 200)]
    rate: u32,
    #[arg(long, default_value_t = 0)]
    idle_minutes: u32,
    #[arg(long = "event")]
    events: Vec<grid::Event>,
    /// The API server's audit log, where it can be read
    #[arg(long)]
    audit_log: Option<PathBuf>,
    /// Reach one router by `kubectl port-forward`, where Services cannot be reached from here
    #[arg(long)]
    through_port_forward: bool,
    /// The command that upgrades Serin to this release
    #[arg(last = true)]
    upgrade: Vec<OsString>,
}

/// Plays one scenario.
pub fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        match args.scenario {
            Scenario::Demo => demo::play(args).await,
            Scenario::OperatorKilledInCanary => faults::operator_killed_in_canary().await,
            Scenario::LeaderKilledInRollback => faults::leader_killed_in_rollback().await,
            Scenario::PrometheusStopped => faults::prometheus_stopped().await,
            Scenario::Commands => Box::pin(command_scenario::commands()).await,
            Scenario::StableWedged => stable_wedged::stable_wedged().await,
            Scenario::RoutersReplaced => faults::routers_replaced().await,
            Scenario::ModelsFetched => models_fetched::models_fetched().await,
            Scenario::PolicyDenies => platform_faults::policy_denies().await,
            Scenario::InvalidAndRoutersReplaced => {
                platform_faults::invalid_and_routers_replaced().await
            }
            Scenario::QuotaDenies => platform_faults::quota_denies().await,
            Scenario::NodeDrained => platform_faults::node_drained().await,
            Scenario::HpaScales => hpa::hpa_scales(args).await,
            Scenario::Upgraded => upgrade::upgraded(&args.upgrade).await,
            Scenario::Grid => Box::pin(grid::play(&args.events)).await,
        }
    })
}

/// One model on the cluster.
#[derive(Clone)]
pub struct Lab {
    client: Client,
    namespace: String,
    name: String,
}

impl Lab {
    /// A namespace of its own for one model, empty.
    pub async fn open(namespace: &str, name: &str) -> Result<Self> {
        Self::open_in("true", namespace, name).await
    }

    /// The same, of a group of namespaces: the value of their label [`OURS`].
    pub async fn open_in(group: &str, namespace: &str, name: &str) -> Result<Self> {
        let client = Client::try_default()
            .await
            .context("KUBECONFIG names no cluster")?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let lab = Self {
            client,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        if let Some(found) = namespaces.get_opt(namespace).await? {
            if !found.labels().contains_key(OURS) {
                bail!(
                    "the cluster has a namespace {namespace} that is not from an earlier run (it \
                     lacks the label {OURS}): it is left alone"
                );
            }
            namespaces
                .delete(namespace, &DeleteParams::default())
                .await?;
            let deadline = Instant::now() + Duration::from_secs(90);
            while namespaces.get_opt(namespace).await?.is_some() {
                if Instant::now() > deadline {
                    bail!("the namespace {namespace} of an earlier run does not end");
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
        let object = serde_json::from_value(serde_json::json!({
            "metadata": {"name": namespace, "labels": {OURS: group}},
        }))?;
        namespaces.create(&PostParams::default(), &object).await?;
        Ok(lab)
    }

    /// Ends the namespace; what is in it goes in its own time.
    pub async fn close(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let params = DeleteParams::default();
        namespaces.delete(&self.namespace, &params).await?;
        Ok(())
    }

    /// The namespace's model under traffic: by its Service, or by a way to one router where
    /// Services cannot be reached.
    pub async fn traffic(&self, rate: u32, forwarded: bool) -> Result<Traffic> {
        if !forwarded {
            return Traffic::start(&self.url(), rate, None);
        }
        let port = self.state().await?.listener_port;
        let way = Forward::open(port.context("the model has no router port yet")?).await?;
        println!(
            "          (through kubectl port-forward to one router pod, \
             not through the model's Service)"
        );
        Traffic::start(&way.url(), rate, Some(way))
    }

    /// The address that clients use from the first version to the last.
    fn url(&self) -> String {
        format!(
            "http://{}.{}.svc.cluster.local/predict",
            self.name, self.namespace
        )
    }

    fn models(&self) -> Api<ModelDeployment> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Applies a manifest as a user would.
    pub async fn apply(&self, manifest: &str) -> Result<()> {
        self.apply_object(serde_norway::from_str(manifest)?).await
    }

    /// The same of a manifest that was changed.
    pub async fn apply_object(&self, mut object: serde_json::Value) -> Result<()> {
        object["metadata"] = serde_json::json!({"name": self.name, "namespace": self.namespace});
        let params = PatchParams::apply("lab").force();
        self.models()
            .patch(&self.name, &params, &Patch::Apply(&object))
            .await?;
        Ok(())
    }

    /// The model as it is now.
    pub async fn model(&self) -> Result<ModelDeployment> {
        Ok(self.models().get(&self.name).await?)
    }

    /// The rollout's state as it is now.
    pub async fn state(&self) -> Result<State> {
        Ok(self.model().await?.status.unwrap_or_default().state)
    }

    /// Waits until the model is as wanted; the error says how it was instead.
    pub async fn wait(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&ModelDeployment) -> bool,
    ) -> Result<ModelDeployment> {
        let deadline = Instant::now() + limit;
        loop {
            let model = self.model().await?;
            if wanted(&model) {
                return Ok(model);
            }
            if Instant::now() > deadline {
                bail!(
                    "not {what} within {} s:\n{}",
                    limit.as_secs(),
                    serin::report::report(&model)
                );
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The model as soon as it is as wanted: within milliseconds of the write that makes it so.
    pub async fn at_once(
        &self,
        limit: Duration,
        wanted: impl Fn(&ModelDeployment) -> bool,
    ) -> Result<ModelDeployment> {
        let condition = |model: Option<&ModelDeployment>| model.is_some_and(&wanted);
        let seen = await_condition(self.models(), &self.name, condition);
        let seen = tokio::time::timeout(limit, seen).await;
        let model =
            seen.with_context(|| format!("not as expected within {} s", limit.as_secs()))??;
        model.context("the model is gone")
    }

    /// The UID of the pod that leads.
    pub async fn leader(&self) -> Result<String> {
        leader(&self.client).await
    }

    /// Replaces every router pod by a new one, as an update of the chart does. Returns the UIDs of
    /// those that go.
    pub async fn replace_routers(&self) -> Result<Vec<String>> {
        let old = self.routers().await?;
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), NAMESPACE);
        deployments.restart("serin-router").await?;
        Ok(old)
    }

    /// The UIDs of all router pods that still have a process.
    pub async fn routers(&self) -> Result<Vec<String>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let labels = ListParams::default().labels("app.kubernetes.io/name=serin-router");
        let alive = pods.list(&labels).await?.items.into_iter();
        Ok(alive
            .filter(|pod| !has_ended(pod))
            .filter_map(|pod| pod.uid())
            .collect())
    }

    /// Every pod of a version that still has a process: its UID, and how often its container was
    /// restarted.
    pub async fn pods(&self, version: &str) -> Result<Vec<(String, i32)>> {
        let pods = self.pods_of(version).await?;
        let mut found: Vec<(String, i32)> = pods
            .iter()
            .map(|pod| {
                let statuses = pod
                    .status
                    .iter()
                    .flat_map(|status| status.container_statuses.iter().flatten());
                (
                    pod.uid().unwrap_or_default(),
                    statuses.map(|status| status.restart_count).sum(),
                )
            })
            .collect();
        found.sort();
        Ok(found)
    }

    /// Every pod of a version that still has a process.
    pub async fn pods_of(&self, version: &str) -> Result<Vec<Pod>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let list = pods
            .list(&ListParams::default().labels(MODEL_LABEL))
            .await?;
        let is_of_version = |pod: &Pod| {
            let other = pod.annotations().get(VERSION_ANNOTATION);
            other.is_some_and(|other| other == version)
        };
        let mut found = list.items;
        found.retain(|pod| is_of_version(pod) && !has_ended(pod));
        Ok(found)
    }
}

/// The UID of the operator's pod that leads.
pub async fn leader(client: &Client) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let lease = leases.get(LEASE).await?;
    let holder = lease.spec.and_then(|spec| spec.holder_identity);
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let pod = pods.get(&holder.context("no operator leads")?).await?;
    pod.uid().context("a pod has a UID")
}

/// Whether a deleted pod runs no container any more: kubelet keeps its object for up to
/// a minute longer.
fn has_ended(pod: &Pod) -> bool {
    let mut statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let ended = statuses.all(|status| {
        let state = status.state.as_ref();
        state.is_some_and(|state| state.running.is_none())
    });
    pod.metadata.deletion_timestamp.is_some() && ended
}

/// Whether the model answers its spec: every controller has seen it, and the spec's version has all
/// traffic.
pub fn is_ready(model: &ModelDeployment) -> bool {
    condition(model, "Ready").is_some_and(|(status, _)| status == "True")
}

/// Status and reason of a condition of the current generation.
pub fn condition<'a>(model: &'a ModelDeployment, kind: &str) -> Option<(&'a str, &'a str)> {
    let conditions = &model.status.as_ref()?.conditions;
    let found = conditions
        .iter()
        .find(|condition| condition.type_ == kind)?;
    (found.observed_generation == model.metadata.generation)
        .then_some((found.status.as_str(), found.reason.as_str()))
}

/// The last decision of a kind about a version.
pub fn decision<'a>(state: &'a State, action: &str, version: &str) -> Option<&'a DecisionRecord> {
    state
        .decisions
        .iter()
        .rev()
        .find(|record| record.action == action && record.version == version)
}
