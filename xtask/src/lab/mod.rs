//! Rollouts on a real cluster under real traffic: the story of `cargo xtask demo`, and the faults of the end-to-end tests.
//!
//! `stage` prepares the cluster from outside; everything else runs inside its network, as a process of its own
//! (`cargo xtask lab NAME`), so that Services have their names.

mod account;
mod audit;
mod checks;
mod curtain;
mod faults;
mod forward;
mod grid;
mod held;
mod hpa;
mod inventory;
mod job;
mod load;
mod platform;
mod preflight;
mod registry;
mod sources;
pub mod stage;
mod story;
mod timeline;
mod upgraded;
mod words;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use kube_runtime::wait::await_condition;
use serin::{
    api::{DecisionRecord, ModelDeployment, State},
    runtime::leader::LEASE,
};

use self::forward::Forward;
use self::inventory::Inventory;
use self::load::Traffic;
use crate::{
    cluster::{Cluster, REGISTRY, ensure_packages},
    images::Registry,
    progress::Progress,
};

/// Label of the namespaces that are made, and removed, here.
const OURS: &str = "serin.dev/lab";

/// Arguments of `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Leave the cluster up afterwards
    #[arg(long)]
    keep: bool,
    /// Requests a second
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2000))]
    rate: u32,
    /// Then count the operator's API requests of so many idle minutes
    #[arg(long, default_value_t = 0)]
    idle_minutes: u32,
    /// Push the images to this registry, and let the cluster of `--context` pull them from there
    #[arg(long, value_name = "HOST/PATH")]
    registry: Option<Registry>,
}

/// Arguments of `cargo xtask play`.
#[derive(Debug, clap::Args)]
pub struct PlayArgs {
    /// Which.
    scenario: Scenario,
    /// Requests a second of the story
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2000))]
    rate: u32,
    /// Idle minutes after the story
    #[arg(long, default_value_t = 0)]
    idle_minutes: u32,
    /// Push the images to this registry, and let the cluster of `--context` pull them from there
    #[arg(long, value_name = "HOST/PATH")]
    registry: Option<Registry>,
    /// The release that `upgraded` upgrades from, as a revision of this clone
    #[arg(long, value_name = "REVISION", default_value = upgraded::FROM)]
    from: String,
    /// Events of the grid; all of them where none is named
    #[arg(long = "event")]
    events: Vec<grid::Event>,
}

/// Arguments of the hidden command that runs inside the cluster's network.
#[derive(Debug, clap::Args)]
pub struct LabArgs {
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

/// What can be played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// A good version promoted, two bad ones rolled back, one of them refused the second time.
    Story,
    /// Every operator killed in the middle of a canary.
    OperatorKilledInCanary,
    /// The leading operator killed in the moment of a rollback.
    LeaderKilledInRollback,
    /// Prometheus stopped in the middle of a canary, and started again.
    PrometheusStopped,
    /// Steps and a promotion agreed to, a rollout undone, aborted, retried, and promoted on a person's word.
    PeopleSpeak,
    /// Every router pod replaced by a new one in the middle of a canary.
    RoutersReplaced,
    /// Models out of a registry, one with a wrong digest; the serving pods restarted; a batch Job whose pod is deleted.
    ModelsFetched,
    /// A canary that turns bad, without and with a policy that denies every write of a Deployment.
    PolicyDenies,
    /// A spec that cannot be used, and then every router pod replaced.
    InvalidAndRoutersReplaced,
    /// A quota that denies the canary's pods, and then goes.
    QuotaDenies,
    /// The node drained under one of the canary's pods, and then back.
    NodeDrained,
    /// An autoscaler on CPU that goes up and down through a whole rollout.
    HpaScales,
    /// Operator, chart and CRD upgraded from an earlier release, with a model in each phase.
    Upgraded,
    /// A dozen states × all that a cluster does to them.
    Grid,
}

/// `cargo xtask demo`: the story, and afterwards nothing of the cluster, also when it fails or is interrupted.
pub fn demo(args: &DemoArgs, cluster: &Cluster) -> Result<()> {
    preflight::check(cluster, args.registry.as_ref())?;
    let was_up = cluster.is_up()?;
    let before = match Inventory::of(cluster) {
        Ok(before) => before,
        // It is started, or started anew, in a moment.
        Err(_) if cluster.is_local() => Inventory::default(),
        Err(error) => return Err(error),
    };
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(cluster.arguments())
        .args(["play", "story"])
        .args(["--rate", &args.rate.to_string()])
        .args(["--idle-minutes", &args.idle_minutes.to_string()]);
    if let Some(registry) = &args.registry {
        command.args(["--registry", &registry.to_string()]);
    }
    let played = curtain::run(command);
    if cluster.is_local() && !args.keep && !was_up {
        let ended = cluster.end();
        return played.and(ended);
    }
    // What the cluster does not answer is no news beside why the story failed.
    match Inventory::of(cluster) {
        Ok(now) => print_hints(cluster, was_up, &before, &now),
        Err(error) => eprintln!("cannot say what the demo left on the cluster: {error:#}"),
    }
    played
}

/// What is left on a cluster that stays, and how to remove it.
fn print_hints(cluster: &Cluster, was_up: bool, before: &Inventory, now: &Inventory) {
    let (exec, whose) = match cluster {
        Cluster::Local(_) => ("cargo xtask cluster exec -- ", ""),
        Cluster::Context(_) => ("", " that you have"),
    };
    let why = if was_up { ", as it was before" } else { "" };
    println!("The cluster{whose} is still up{why}.");
    let show = |command: &str| println!("  {exec}{}", on(cluster, command));
    if now.has_models() {
        println!("To look around:");
        show("kubectl describe mdep -n demo iris");
    }
    let removal = now.removal(before);
    if !removal.is_empty() {
        println!("To remove what the demo brought:");
        removal.into_iter().for_each(show);
    }
    if cluster.is_local() {
        println!("To end all of it:\n  cargo xtask cluster down");
    }
}

/// A command of kubectl or helm that names the cluster, whatever the caller's current context is.
fn on(cluster: &Cluster, command: &str) -> String {
    let Cluster::Context(name) = cluster else {
        return command.to_owned();
    };
    match command.split_once(' ') {
        Some(("helm", rest)) => format!("helm --kube-context {name} {rest}"),
        Some((program, rest)) => format!("{program} --context {name} {rest}"),
        None => command.to_owned(),
    }
}

/// `cargo xtask play`: sets the stage, then plays a scenario inside the cluster's network, with this process's output.
pub fn play(args: &PlayArgs, cluster: &Cluster) -> Result<()> {
    let mut upgrade = Vec::new();
    if args.scenario == Scenario::Upgraded {
        upgrade = upgraded::set_stage(cluster, &args.from)?;
    } else {
        stage::set(cluster, args.registry.as_ref())?;
    }
    if args.scenario == Scenario::ModelsFetched {
        ensure_packages(REGISTRY, &Progress::new("stage"))?;
    }
    let name = args
        .scenario
        .to_possible_value()
        .context("every scenario has a name")?;
    let mut command = cluster.command(std::env::current_exe()?)?;
    command
        .arg("lab")
        .arg(name.get_name())
        .args(["--rate", &args.rate.to_string()])
        .args(["--idle-minutes", &args.idle_minutes.to_string()]);
    for event in args.events.iter().filter_map(ValueEnum::to_possible_value) {
        command.args(["--event", event.get_name()]);
    }
    if matches!(cluster, Cluster::Context(_)) {
        command.arg("--through-port-forward");
    }
    if let Some(log) = cluster.audit_log()? {
        command.arg("--audit-log").arg(log);
    }
    if !upgrade.is_empty() {
        command.arg("--").args(upgrade);
    }
    crate::process::run_visibly(&mut command)
}

/// The hidden command `cargo xtask lab`.
pub fn run(args: &LabArgs) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        match args.scenario {
            Scenario::Story => story::play(args).await,
            Scenario::OperatorKilledInCanary => faults::operator_killed_in_canary().await,
            Scenario::LeaderKilledInRollback => faults::leader_killed_in_rollback().await,
            Scenario::PrometheusStopped => faults::prometheus_stopped().await,
            Scenario::PeopleSpeak => Box::pin(words::people_speak()).await,
            Scenario::RoutersReplaced => faults::routers_replaced().await,
            Scenario::ModelsFetched => sources::models_fetched().await,
            Scenario::PolicyDenies => platform::policy_denies().await,
            Scenario::InvalidAndRoutersReplaced => platform::invalid_and_routers_replaced().await,
            Scenario::QuotaDenies => platform::quota_denies().await,
            Scenario::NodeDrained => platform::node_drained().await,
            Scenario::HpaScales => hpa::hpa_scales(args).await,
            Scenario::Upgraded => upgraded::upgraded(&args.upgrade).await,
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
                    "the cluster has a namespace {namespace} that is not from an earlier run (it lacks the label {OURS}): it is left alone"
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
            "metadata": {"name": namespace, "labels": {OURS: "true"}},
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

    /// The namespace's model under traffic: by its Service, or by a way to one router where Services cannot be reached.
    pub async fn traffic(&self, rate: u32, forwarded: bool) -> Result<Traffic> {
        if !forwarded {
            return Traffic::start(&self.url(), rate, None);
        }
        let port = self.state().await?.router_port;
        let way = Forward::open(port.context("the model has no router port yet")?).await?;
        println!(
            "          (through kubectl port-forward to one router pod, not through the model's Service)"
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

    /// Replaces every router pod by a new one, as an update of the chart does. Returns the UIDs of those that go.
    pub async fn replace_routers(&self) -> Result<Vec<String>> {
        let old = self.routers().await?;
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), stage::NAMESPACE);
        deployments.restart("serin-router").await?;
        Ok(old)
    }

    /// The UIDs of all router pods that still have a process.
    pub async fn routers(&self) -> Result<Vec<String>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), stage::NAMESPACE);
        let labels = ListParams::default().labels("app.kubernetes.io/name=serin-router");
        let alive = pods.list(&labels).await?.items.into_iter();
        Ok(alive
            .filter(|pod| !has_ended(pod))
            .filter_map(|pod| pod.uid())
            .collect())
    }

    /// Every pod of a version that still has a process: its UID, and how often its container was restarted.
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
            .list(&ListParams::default().labels("serin.dev/model"))
            .await?;
        let is_of_version = |pod: &Pod| {
            let other = pod.annotations().get("serin.dev/version");
            other.is_some_and(|other| other == version)
        };
        let mut found = list.items;
        found.retain(|pod| is_of_version(pod) && !has_ended(pod));
        Ok(found)
    }
}

/// The UID of the operator's pod that leads.
pub async fn leader(client: &Client) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), stage::NAMESPACE);
    let lease = leases.get(LEASE).await?;
    let holder = lease.spec.and_then(|spec| spec.holder_identity);
    let pods: Api<Pod> = Api::namespaced(client.clone(), stage::NAMESPACE);
    let pod = pods.get(&holder.context("no operator leads")?).await?;
    pod.uid().context("a pod has a UID")
}

/// Whether a pod that was told to go runs no container any more: kubelet keeps its object for up to a minute longer.
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

/// Whether the model answers its spec: every controller has seen it, and the spec's version has all traffic.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_name_the_cluster_that_they_are_for() {
        let elsewhere = Cluster::Context("kind-a".into());
        let (get, uninstall) = ("kubectl get pods", "helm uninstall serin");
        let local = Cluster::new(None, crate::cluster::Wanted::default());
        assert_eq!(on(&local, get), get);
        assert_eq!(on(&elsewhere, get), "kubectl --context kind-a get pods");
        assert_eq!(
            on(&elsewhere, uninstall),
            "helm --kube-context kind-a uninstall serin"
        );
    }
}
