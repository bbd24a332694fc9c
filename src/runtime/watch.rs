//! The first stage: watches keep caches of what exists, and say which model has to be looked at again.
//!
//! A watch event only enqueues. Every operator replica watches, since each serves the router's configuration; only the
//! leader acts on what is enqueued.

use std::{fmt::Debug, sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client, Resource, ResourceExt};
use kube_runtime::{
    WatchStreamExt,
    reflector::{self, Lookup, ObjectRef, Store},
    watcher::{self, DefaultBackoff, watcher},
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    api::{MANAGED_BY_LABEL, MANAGER, MODEL_LABEL, ModelDeployment},
    k8s::{Dirty, Models, SERVICE_NAME_LABEL, Stores},
};

/// How soon a connection that died unnoticed is noticed, and tried again.
#[derive(Clone, Copy)]
struct Pace {
    /// After this time, in seconds, the server ends a watch and it is opened anew; if it does not, the client does 5 s later.
    watch_seconds: u32,
    /// Longest pause after failures.
    longest_pause: Duration,
}

/// Of most kinds.
const CALM: Pace = Pace {
    watch_seconds: 60,
    longest_pause: Duration::from_secs(30),
};
/// Of what routers follow: a version without weight keeps its pods for 30 s by default, so that routers know of it before they go.
const ROUTED: Pace = Pace {
    watch_seconds: 15,
    longest_pause: Duration::from_secs(5),
};

/// What is watched.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The namespace whose models are looked after; all where `None`.
    pub watch_namespace: Option<String>,
    /// The namespace of the operator and its routers.
    pub own_namespace: String,
    /// The Service that selects the routers.
    pub router_service: String,
}

/// The caches' news.
pub struct News {
    /// Models to look at again.
    pub models: Dirty,
    /// Counts every change: whoever builds on all caches builds again.
    pub any: watch::Receiver<u64>,
    /// The watches themselves; they end when this is dropped.
    pub watches: JoinSet<()>,
}

/// Where a watch tells its news.
#[derive(Clone)]
struct Bell {
    models: Dirty,
    any: Arc<watch::Sender<u64>>,
}

impl Bell {
    fn ring(&self, model: Option<ObjectRef<ModelDeployment>>) {
        if let Some(model) = model {
            self.models
                .mark(&model.namespace.unwrap_or_default(), &model.name);
        }
        self.any.send_modify(|count| *count += 1);
    }
}

/// Starts all watches; they run until [`News::watches`] is dropped.
pub fn start(client: &Client, scope: &Scope) -> (Stores, News) {
    let (any_bell, any_news) = watch::channel(0);
    let dirty = Dirty::default();
    let bell = Bell {
        models: dirty.clone(),
        any: Arc::new(any_bell),
    };
    let ours = format!("{MANAGED_BY_LABEL}={MANAGER},{MODEL_LABEL}");
    let ours = Some(ours.as_str());
    let mut watches = JoinSet::new();

    let models = run(
        &mut watches,
        api(client, scope),
        (ROUTED, None),
        &bell,
        |model: &ModelDeployment| Some(ObjectRef::from_obj(model)),
    );
    let routers = {
        let api = Api::namespaced(client.clone(), &scope.own_namespace);
        let selector = format!("{SERVICE_NAME_LABEL}={}", scope.router_service);
        let (everyone, bell) = (models.clone(), bell.clone());
        run(
            &mut watches,
            api,
            (CALM, Some(&selector)),
            &bell.clone(),
            move |_: &EndpointSlice| {
                for model in everyone.state() {
                    bell.ring(Some(ObjectRef::from_obj(&*model)));
                }
                None
            },
        )
    };
    let stores = Stores {
        deployments: run(
            &mut watches,
            api(client, scope),
            (CALM, ours),
            &bell,
            model_of,
        ),
        services: run(
            &mut watches,
            api(client, scope),
            (CALM, ours),
            &bell,
            model_of,
        ),
        history: run(
            &mut watches,
            api(client, scope),
            (CALM, ours),
            &bell,
            model_of,
        ),
        slices: run(
            &mut watches,
            api(client, scope),
            (ROUTED, ours),
            &bell,
            model_of,
        ),
        pods: run(
            &mut watches,
            api(client, scope),
            (CALM, ours),
            &bell,
            model_of,
        ),
        models: Models::new(models, bell.any),
        routers,
    };
    (
        stores,
        News {
            models: dirty,
            any: any_news,
            watches,
        },
    )
}

/// Watches one kind, those with some labels or all, into a cache of its own.
fn run<K>(
    watches: &mut JoinSet<()>,
    api: Api<K>,
    (pace, labels): (Pace, Option<&str>),
    bell: &Bell,
    model: impl Fn(&K) -> Option<ObjectRef<ModelDeployment>> + Send + 'static,
) -> Store<K>
where
    K: Resource<DynamicType = ()>
        + Lookup<DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    let writer = reflector::store::Writer::default();
    let store = writer.as_reader();
    let bell = bell.clone();
    let mut config = watcher::Config::default().timeout(pace.watch_seconds);
    config.label_selector = labels.map(str::to_owned);
    let stream = watcher(api, config)
        .backoff(Backoff {
            usual: DefaultBackoff::default(),
            longest: pace.longest_pause,
        })
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer)
        .touched_objects();
    watches.spawn(stream.for_each(move |result| {
        match result {
            Ok(object) => bell.ring(model(&object)),
            Err(error) => tracing::warn!(%error, "a watch failed; it is opened again"),
        }
        std::future::ready(())
    }));
    store
}

/// The usual pauses after failures, but none longer than so.
struct Backoff {
    usual: DefaultBackoff,
    longest: Duration,
}

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.usual.next().map(|pause| pause.min(self.longest))
    }
}

impl kube_runtime::utils::Backoff for Backoff {
    fn reset(&mut self) {
        self.usual.reset();
    }
}

/// The model that a child was made for, by its label. A child is only believed to be ours later, by its owner.
fn model_of<K: ResourceExt>(child: &K) -> Option<ObjectRef<ModelDeployment>> {
    let name = child.labels().get(MODEL_LABEL)?;
    Some(ObjectRef::new(name).within(&child.namespace()?))
}

/// The API of one kind, in the namespaces that are watched.
fn api<K>(client: &Client, scope: &Scope) -> Api<K>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
{
    match &scope.watch_namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}
