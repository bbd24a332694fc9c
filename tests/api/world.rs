//! A namespace for each test, with an operator, simulated pods, and a record of every status that
//! was written.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Parser;
use futures::StreamExt;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Event, Namespace},
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, Resource,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use kube_runtime::{WatchStreamExt, watcher};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use serin::{
    api::{DecisionRecord, ModelDeployment, ModelDeploymentStatus, Phase, Revision, State},
    cli::{Arguments, Session},
};

use crate::{
    operator::{FIRST, Operator},
    player::{self, Held},
    server::{ADA, Request, Server, TEST, server},
    traffic::Metrics,
};

/// Long enough for a busy machine of two cores; normally nothing takes a tenth of it.
pub const TIMEOUT: Duration = Duration::from_secs(60);
/// Long enough for three looks at the metrics, within which any move would have happened.
pub const A_WHILE: Duration = Duration::from_secs(4);
/// Nothing listens there.
const NO_PROMETHEUS: &str = "http://127.0.0.1:1";
/// The one model of a test.
pub const MODEL: &str = "iris";

/// What a test works in.
pub struct World {
    pub server: &'static Server,
    pub namespace: String,
    pub client: Client,
    pub metrics: Option<Metrics>,
    held: Held,
    latest: Arc<Mutex<State>>,
    received: Arc<Mutex<Received>>,
    operator: Option<Operator>,
    /// The bundled image of operators that are started from now on.
    pub serving_image: &'static str,
    /// No router runs here: whether the operator's probe finds one at its address.
    pub routers_answer: Arc<AtomicBool>,
}

/// Every status that was written, so that none is too short to be seen.
#[derive(Default)]
struct Received {
    models: Vec<ModelDeployment>,
    /// The status that a test waited for last; the next one is that one or a later one.
    reached: usize,
}

/// A status as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    pub phase: Phase,
    pub stable: Option<String>,
    pub canary: Option<(String, u8)>,
}

impl World {
    /// A world with a running operator and without metrics. `None` where there is no API server.
    pub async fn new() -> Option<Self> {
        let mut world = Self::without_operator().await?;
        world.start_operator();
        Some(world)
    }

    /// The same with traffic, and a Prometheus that knows of it.
    pub async fn with_metrics() -> Option<Self> {
        let mut world = Self::without_operator().await?;
        world.metrics = Some(Metrics::start(&world.namespace, world.latest.clone()).await?);
        world.start_operator();
        Some(world)
    }

    /// A world without an operator.
    pub async fn without_operator() -> Option<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let server = server()?;
        let client = server.client(TEST);
        let namespace = format!("world-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let body = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
        Api::<Namespace>::all(client.clone())
            .create(&PostParams::default(), &body)
            .await
            .unwrap();
        let router_labels = json!({"kubernetes.io/service-name": "serin-router"});
        let router = player::slice(
            "serin-router-x1",
            &router_labels,
            &["10.244.9.9".to_owned()],
        );
        assert!(player::apply_slice(&client, &namespace, &router).await);
        let world = Self {
            server,
            client: client.clone(),
            metrics: None,
            held: Held::default(),
            latest: Arc::default(),
            received: Arc::default(),
            operator: None,
            serving_image: "localhost/serin-serve:1",
            routers_answer: Arc::new(AtomicBool::new(true)),
            namespace: namespace.clone(),
        };
        tokio::spawn(player::play(client, namespace, world.held.clone()));
        world.keep_told();
        Some(world)
    }

    /// Follows every status that is written.
    fn keep_told(&self) {
        let (latest, received) = (self.latest.clone(), self.received.clone());
        let models: Api<ModelDeployment> = self.api();
        tokio::spawn(
            watcher(models, watcher::Config::default())
                .applied_objects()
                .for_each(move |model| {
                    if let Ok(model) = model
                        && let Some(status) = &model.status
                    {
                        latest.lock().unwrap().clone_from(&status.state);
                        received.lock().unwrap().models.push(model);
                    }
                    std::future::ready(())
                }),
        );
    }

    pub fn start_operator(&mut self) {
        self.operator = Some(self.operator_named(FIRST));
    }

    /// Another operator for the same namespace.
    pub fn operator_named(&self, pod: &'static str) -> Operator {
        let url = self
            .metrics
            .as_ref()
            .map_or(NO_PROMETHEUS, |metrics| &metrics.url);
        let routers_answer = self.routers_answer.clone();
        let image = self.serving_image;
        Operator::start(
            self.server,
            pod,
            &self.namespace,
            url,
            image,
            routers_answer,
        )
    }

    /// What the operator recorded of a model's decisions: the answer's status code and body.
    pub async fn ask_operator(&self, model: &str) -> (u16, String) {
        let address = self.operator.as_ref().unwrap().http;
        let url = format!("http://{address}/snapshots/{}/{model}", self.namespace);
        let answer = reqwest::get(url).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// As `kill -9`.
    pub fn kill_operator(&mut self) {
        self.operator = None;
    }

    /// The pods of this version do not become Ready, or are not any more.
    pub fn hold(&self, version: &str) {
        self.held.lock().unwrap().insert(version.to_owned());
    }

    pub fn release(&self, version: &str) {
        self.held.lock().unwrap().remove(version);
    }

    /// From now on this share of the version's answers is 5xx.
    pub fn fail(&self, version: &str, share: f64) {
        let metrics = self.metrics.as_ref().unwrap();
        metrics
            .traffic
            .lock()
            .unwrap()
            .errors
            .insert(version.to_owned(), share);
    }

    /// The API of a kind in this world's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Applies a manifest as a user does.
    pub async fn apply(&self, manifest: &Value) -> Result<ModelDeployment, kube::Error> {
        let name = manifest["metadata"]["name"].as_str().unwrap();
        let params = PatchParams::apply("user").force();
        self.api()
            .patch(name, &params, &Patch::Apply(manifest))
            .await
    }

    /// Applies a version of the model.
    pub async fn roll_out(&self, version: &str) {
        self.apply(&manifest(version)).await.unwrap();
    }

    /// Applies a version of the model with one field changed.
    pub async fn change(&self, version: &str, pointer: &str, value: Value) {
        let changed = with(manifest(version), pointer, value);
        self.apply(&changed).await.unwrap();
    }

    /// Rolls a version out, lets it stay at half the traffic, and has half of its answers fail from
    /// there on.
    pub async fn turn_bad_at_half(&self, version: &str) {
        let stays = json!("1h");
        self.change(version, "/spec/rollout/steps/1/minDuration", stays)
            .await;
        self.until_canary(version, 50).await;
        self.fail(version, 0.5);
    }

    /// The first version, serving.
    pub async fn with_stable(self, version: &str) -> Self {
        self.roll_out(version).await;
        self.until_serves(version).await;
        self
    }

    /// The status as it is now.
    pub async fn status(&self) -> ModelDeploymentStatus {
        let model: ModelDeployment = self.api().get(MODEL).await.unwrap();
        model.status.unwrap_or_default()
    }

    /// Runs `kubectl serin` as the API server's user `ada`, and returns its output.
    pub async fn kubectl_serin(&self, arguments: &[&str]) -> Result<String, String> {
        let words = ["kubectl serin"].iter().chain(arguments);
        let arguments = Arguments::try_parse_from(words).unwrap();
        let user = Some("her kubeconfig's user".to_owned());
        let session = Session::new(self.server.client(ADA), self.namespace.clone(), user);
        let said = session.perform(&arguments.verb).await;
        said.map_err(|error| error.to_string())
    }

    /// Sets or removes annotations, as `kubectl annotate` does.
    pub async fn annotate(&self, annotations: Value) {
        let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
        let models: Api<ModelDeployment> = self.api();
        let params = PatchParams::default();
        models.patch(MODEL, &params, &patch).await.unwrap();
    }

    /// Waits for an Event of this reason, and gives its text.
    pub async fn event(&self, reason: &str) -> String {
        let events: Api<Event> = self.api();
        let mut note = None;
        wait(&format!("an Event {reason}"), async || {
            let all = events.list(&ListParams::default()).await.unwrap();
            let mut found = all.items.into_iter();
            note = found
                .find(|event| event.reason.as_deref() == Some(reason))
                .and_then(|event| event.message);
            note.is_some()
        })
        .await;
        note.unwrap()
    }

    /// The pods that the version's Deployment asks for.
    pub async fn replicas(&self, revision: &Revision) -> i32 {
        let deployments: Api<Deployment> = self.api();
        let deployment = deployments
            .get(&format!("{MODEL}-{revision}"))
            .await
            .unwrap();
        deployment.spec.replicas.unwrap()
    }

    /// Waits until a status that answers the newest spec is as expected, and gives it.
    ///
    /// However short it was: statuses are taken from a watch, none before the one that was waited
    /// for last.
    pub async fn until(
        &self,
        what: &str,
        mut holds: impl FnMut(&ModelDeploymentStatus) -> bool,
    ) -> ModelDeploymentStatus {
        let start = Instant::now();
        let asked: ModelDeployment = self.api().get(MODEL).await.unwrap();
        let mut next = self.received.lock().unwrap().reached;
        loop {
            let model = self.received.lock().unwrap().models.get(next).cloned();
            if let Some(model) = model {
                let answers = model.metadata.uid == asked.metadata.uid
                    && model.metadata.generation == asked.metadata.generation;
                let status = model.status.unwrap_or_default();
                let answers = answers && status.observed_generation == asked.metadata.generation;
                if answers && holds(&status) {
                    self.received.lock().unwrap().reached = next;
                    return status;
                }
                next += 1;
                continue;
            }
            assert!(
                start.elapsed() < TIMEOUT,
                "never came true: {what}\n{:#?}\nhistory: {:#?}",
                self.status().await,
                self.history()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until this version serves.
    pub async fn until_serves(&self, version: &str) -> ModelDeploymentStatus {
        let what = format!("version {version} serves");
        self.until(&what, |status| stable(status) == Some(version))
            .await
    }

    /// Waits until this version is on trial with `weight` percent of the traffic.
    pub async fn until_canary(&self, version: &str, weight: u8) -> ModelDeploymentStatus {
        let what = format!("version {version} has {weight} %");
        self.until(&what, |status| canary(status) == Some((version, weight)))
            .await
    }

    /// Waits until the rollout is in this phase, its canary with `weight` percent of the traffic; 0
    /// without a canary.
    pub async fn until_phase(&self, phase: Phase, weight: u8) -> ModelDeploymentStatus {
        self.until("the moment has come", |status| {
            let now = canary(status).map_or(0, |(_, weight)| weight);
            status.state.phase == phase && now == weight
        })
        .await
    }

    /// Waits until the condition `Ready` has this reason.
    pub async fn until_reason(&self, reason: &str) -> ModelDeploymentStatus {
        self.until(reason, |status| condition(status, "Ready").reason == reason)
            .await
    }

    /// Waits until the newest decision is of this kind.
    pub async fn until_decided(&self, action: &str) -> ModelDeploymentStatus {
        self.until(action, |status| {
            let newest = status.state.decisions.last();
            newest.is_some_and(|newest| newest.action == action)
        })
        .await
    }

    /// Waits until the canary is rolled back, and version 1 has all traffic.
    pub async fn until_rolled_back(&self) -> ModelDeploymentStatus {
        let status = self.until_reason("RolledBack").await;
        assert_eq!((stable(&status), canary(&status)), (Some("1"), None));
        status
    }

    /// What an operator has written to the API server so far, its lease aside.
    pub fn writes(&self, pod: &str) -> usize {
        let all = self.server.requests(pod, &self.namespace);
        let write = |request: &Request| request.is_write() && request.resource != "leases";
        all.into_iter().filter(write).count()
    }

    /// Every status that was written and differs from the one before.
    pub fn history(&self) -> Vec<Moment> {
        let received = self.received.lock().unwrap();
        let statuses = received
            .models
            .iter()
            .filter_map(|model| model.status.as_ref());
        let mut moments: Vec<Moment> = statuses.map(|status| Moment::of(&status.state)).collect();
        moments.dedup();
        moments
    }

    /// The weights that a version ever had, in order.
    pub fn weights(&self, version: &str) -> Vec<u8> {
        let mut weights: Vec<u8> = self
            .history()
            .into_iter()
            .filter_map(|moment| moment.canary)
            .filter(|(canary, _)| canary == version)
            .map(|(_, weight)| weight)
            .collect();
        weights.dedup();
        weights
    }

    /// An object, if it exists.
    pub async fn get<K>(&self, name: &str) -> Option<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        self.api::<K>().get_opt(name).await.unwrap()
    }
}

impl Moment {
    fn of(state: &State) -> Self {
        Self {
            phase: state.phase,
            stable: state.stable.as_ref().map(|stable| stable.version.clone()),
            canary: state
                .canary
                .as_ref()
                .map(|canary| (canary.version.clone(), canary.weight)),
        }
    }
}

/// Waits until a condition holds. Fails the test after [`TIMEOUT`].
pub async fn wait(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < TIMEOUT, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The version that serves.
pub fn stable(status: &ModelDeploymentStatus) -> Option<&str> {
    status
        .state
        .stable
        .as_ref()
        .map(|stable| stable.version.as_str())
}

/// The version on trial and its weight.
pub fn canary(status: &ModelDeploymentStatus) -> Option<(&str, u8)> {
    let canary = status.state.canary.as_ref()?;
    Some((canary.version.as_str(), canary.weight))
}

/// The newest decision of this kind.
pub fn decision<'a>(status: &'a ModelDeploymentStatus, action: &str) -> &'a DecisionRecord {
    let mut newest_first = status.state.decisions.iter().rev();
    let found = newest_first.find(|record| record.action == action);
    found.unwrap_or_else(|| panic!("no decision {action} in {status:#?}"))
}

pub fn condition<'a>(status: &'a ModelDeploymentStatus, type_: &str) -> &'a Condition {
    let found = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_);
    found.unwrap_or_else(|| panic!("no condition {type_} in {status:#?}"))
}

/// A ModelDeployment with quick steps.
pub fn manifest(version: &str) -> Value {
    let step = |weight| json!({"weight": weight, "minDuration": "1s", "minRequests": 20});
    json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
        "metadata": {"name": MODEL},
        "spec": {
            "model": {
                "uri": format!("file:///models/iris/{version}"),
                "version": version,
                "digest": format!("sha256:{}", "ab".repeat(32)),
            },
            "replicas": 2,
            "objectives": [{"name": "errors", "errorRate": {"max": "1%"}}],
            "rollout": {"steps": [step(10), step(50), step(100)], "bakeTime": "1s",
                "scaleDownDelay": "1s"},
            "traffic": {"envoy": {"timeout": "1s"}},
        },
    })
}

/// The same manifest with one field changed; `null` removes it.
pub fn with(mut manifest: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = manifest.pointer_mut(parent).unwrap();
    match (parent, value) {
        (Value::Object(map), Value::Null) => {
            map.remove(field);
        }
        (Value::Object(map), value) => {
            map.insert(field.to_owned(), value);
        }
        (Value::Array(list), value) => list[field.parse::<usize>().unwrap()] = value,
        (other, _) => panic!("{pointer}: no field can be set in {other}"),
    }
    manifest
}
