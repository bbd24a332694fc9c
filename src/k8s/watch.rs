//! Watches: each keeps a cache of one kind, and says which models a change concerns.
//!
//! A watch event only enqueues. No decision is taken from it.

use std::{fmt::Debug, sync::Arc, time::Duration};

use futures::{
    StreamExt,
    future::{BoxFuture, FutureExt, try_join_all},
};
use kube::{Api, Client, Resource, ResourceExt};
use kube_runtime::{
    WatchStreamExt,
    reflector::{
        Lookup, ObjectRef, Store,
        store::{Writer, WriterDropped},
    },
    watcher::{self, DefaultBackoff, watcher},
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, task::JoinSet};

use super::Dirty;
use crate::api::{MODEL_LABEL, ModelDeployment};

/// How soon a connection that died unnoticed is noticed and tried again.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Seconds after which the server ends a watch and it is opened again. If the server does not
    /// end it, the client does 5 s later.
    watch_seconds: u32,
    /// Longest pause after failures.
    longest_pause: Duration,
}

impl Pace {
    /// For most kinds: noticed after 60 s, tried again at least every 30 s.
    pub const CALM: Self = Self {
        watch_seconds: 60,
        longest_pause: Duration::from_secs(30),
    };
    /// For what routers follow: noticed after 15 s, tried again at least every 5 s. A version
    /// without weight keeps its pods for 30 s by default, so routers learn of it before they go.
    pub const ROUTED: Self = Self {
        watch_seconds: 15,
        longest_pause: Duration::from_secs(5),
    };
}

/// The models that a change concerns.
#[derive(Clone, Debug)]
pub enum Concerned {
    /// One model.
    Model(ObjectRef<ModelDeployment>),
    /// Every model.
    All,
    /// No model.
    None,
}

impl Concerned {
    /// The model that a child was made for, by its label. Whether the child is really the model's
    /// is checked later, by its owner.
    pub fn by_label<K: ResourceExt>(child: &K) -> Self {
        let name = child.labels().get(MODEL_LABEL).zip(child.namespace());
        name.map_or(Self::None, |(name, namespace)| {
            Self::Model(ObjectRef::new(name).within(&namespace))
        })
    }
}

/// Marks models as due, and counts all changes. Clones share both.
#[derive(Clone)]
struct Notifier {
    models: Store<ModelDeployment>,
    dirty: Dirty,
    changes: Arc<watch::Sender<u64>>,
}

impl Notifier {
    fn notify(&self, concerned: Concerned) {
        let mark = |model: ObjectRef<ModelDeployment>| {
            self.dirty
                .mark(&model.namespace.unwrap_or_default(), &model.name);
        };
        match concerned {
            Concerned::Model(model) => mark(model),
            Concerned::All => {
                for model in self.models.state() {
                    mark(ObjectRef::from_obj(&*model));
                }
            }
            Concerned::None => {}
        }
        self.changes.send_modify(|count| *count += 1);
    }
}

/// A kind that can be watched.
pub trait Watched:
    Resource<DynamicType = ()>
    + Lookup<DynamicType = ()>
    + Clone
    + DeserializeOwned
    + Debug
    + Send
    + Sync
    + 'static
{
}

impl<K> Watched for K where
    K: Resource<DynamicType = ()>
        + Lookup<DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static
{
}

/// The watches of this process. They end when this is dropped.
pub struct Watches {
    client: Client,
    notifier: Notifier,
    tasks: JoinSet<()>,
    complete: Vec<BoxFuture<'static, Result<(), WriterDropped>>>,
}

impl Watches {
    /// Begins with the watch of the models.
    pub fn of_models(client: Client, api: Api<ModelDeployment>) -> Self {
        let writer = Writer::default();
        let mut watches = Self {
            client,
            notifier: Notifier {
                models: writer.as_reader(),
                dirty: Dirty::default(),
                changes: Arc::new(watch::Sender::new(0)),
            },
            tasks: JoinSet::new(),
            complete: Vec::new(),
        };
        let concerned = |model: &ModelDeployment| Concerned::Model(ObjectRef::from_obj(model));
        watches.fill(writer, api, Pace::ROUTED, None, concerned);
        watches
    }

    /// Watches one kind into a cache: the objects with these labels, or all.
    pub fn watch<K: Watched>(
        &mut self,
        api: Api<K>,
        pace: Pace,
        labels: Option<&str>,
        concerned: impl Fn(&K) -> Concerned + Send + 'static,
    ) -> Store<K> {
        let writer = Writer::default();
        let store = writer.as_reader();
        self.fill(writer, api, pace, labels, concerned);
        store
    }

    fn fill<K: Watched>(
        &mut self,
        writer: Writer<K>,
        api: Api<K>,
        pace: Pace,
        labels: Option<&str>,
        concerned: impl Fn(&K) -> Concerned + Send + 'static,
    ) {
        let store = writer.as_reader();
        let complete = async move { store.wait_until_ready().await };
        self.complete.push(complete.boxed());
        let notifier = self.notifier.clone();
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
        self.tasks.spawn(stream.for_each(move |result| {
            match result {
                Ok(object) => notifier.notify(concerned(&object)),
                Err(error) => tracing::warn!(%error, "a watch failed; it is opened again"),
            }
            std::future::ready(())
        }));
    }

    /// Resolves once every cache has seen everything that exists.
    ///
    /// # Errors
    /// A watch has ended.
    pub async fn synced(&mut self) -> Result<(), WriterDropped> {
        try_join_all(self.complete.drain(..)).await.map(drop)
    }

    /// The API server.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The cache of the models.
    pub fn models(&self) -> &Store<ModelDeployment> {
        &self.notifier.models
    }

    /// The models that are due.
    pub fn dirty(&self) -> &Dirty {
        &self.notifier.dirty
    }

    /// Counts the changes of all caches.
    pub fn changes(&self) -> &Arc<watch::Sender<u64>> {
        &self.notifier.changes
    }
}

/// The usual pauses after failures, up to a limit.
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
