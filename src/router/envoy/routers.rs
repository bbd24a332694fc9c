//! Which routers are connected, and what each has acknowledged.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    model::RouteKey,
    resources::{Resource, ResourceType},
    session::Event,
};

/// A view of all connected routers; clones see the same.
#[derive(Clone, Debug, Default)]
pub struct Routers {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    routers: Mutex<BTreeMap<String, Router>>,
    streams: AtomicU64,
    rejections: AtomicU64,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Router {
    stream: u64,
    routes: HashMap<String, Arc<Resource>>,
    refused: BTreeMap<(ResourceType, String), String>,
}

/// A resource that a router does not accept.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rejection {
    /// The router's node id: the name of its pod.
    pub router: String,
    /// The type of the resource.
    pub kind: ResourceType,
    /// The name of the resource, which begins with the model's `<namespace>/<name>`.
    pub name: String,
    /// The router's words.
    pub message: String,
}

impl Rejection {
    /// Namespace and name of the model that the resource was made for.
    pub fn model(&self) -> Option<(String, String)> {
        let (namespace, rest) = self.name.split_once('/')?;
        let name = rest.split('/').next().unwrap_or(rest);
        Some((namespace.to_owned(), name.to_owned()))
    }
}

impl Routers {
    /// The node ids (pod names) of the routers whose stream is open, sorted.
    pub fn connected(&self) -> Vec<String> {
        self.shared.routers.lock().keys().cloned().collect()
    }

    /// The weights by which every connected router routes this model: each revision that has weight, with it, sorted by
    /// revision. `None` if no router is connected, if one has not acknowledged anything for this model, or if they differ.
    pub fn acknowledged(&self, key: &RouteKey) -> Option<Vec<(String, u8)>> {
        let name = key.to_string();
        let routers = self.shared.routers.lock();
        let mut weights = routers
            .values()
            .map(|router| router.routes.get(&name).map(|route| &route.weights));
        let first = weights.next()??;
        weights
            .all(|other| other == Some(first))
            .then(|| first.clone())
    }

    /// Waits until every connected router has acknowledged `weights` (as [`Routers::acknowledged`] gives them) for this
    /// model, at most for `limit`; returns whether they have.
    pub async fn wait_acknowledged(
        &self,
        key: &RouteKey,
        weights: &[(String, u8)],
        limit: Duration,
    ) -> bool {
        let mut changes = self.changes();
        let agreed = changes.wait_for(|_| self.acknowledged(key).as_deref() == Some(weights));
        matches!(tokio::time::timeout(limit, agreed).await, Ok(Ok(_)))
    }

    /// Changes whenever a router comes, goes, acknowledges or refuses.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// What the connected routers refuse at present.
    pub fn rejected(&self) -> Vec<Rejection> {
        let routers = self.shared.routers.lock();
        let rejections = routers.iter().flat_map(|(id, router)| {
            router
                .refused
                .iter()
                .map(|((kind, name), message)| Rejection {
                    router: id.clone(),
                    kind: *kind,
                    name: name.clone(),
                    message: message.clone(),
                })
        });
        rejections.collect()
    }

    /// How many responses were refused since this process started.
    pub fn rejections(&self) -> u64 {
        self.shared.rejections.load(Ordering::Relaxed)
    }

    /// Registers the stream of a router. A router has one stream: a newer one takes the place of one that died unnoticed.
    pub(super) fn connect(&self, id: &str) -> Connection {
        let stream = self.shared.streams.fetch_add(1, Ordering::Relaxed);
        let router = Router {
            stream,
            routes: HashMap::new(),
            refused: BTreeMap::new(),
        };
        self.shared.routers.lock().insert(id.to_owned(), router);
        self.changed();
        Connection {
            routers: self.clone(),
            id: id.to_owned(),
            stream,
        }
    }

    fn changed(&self) {
        self.shared.changes.send_modify(|count| *count += 1);
    }
}

/// The stream of one router; dropping it takes the router off the list.
#[derive(Debug)]
pub(super) struct Connection {
    routers: Routers,
    id: String,
    stream: u64,
}

impl Connection {
    /// The router's node id.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Takes down what the session learned.
    pub(super) fn record(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        if let Some(router) = self.routers.shared.routers.lock().get_mut(&self.id)
            && router.stream == self.stream
        {
            for event in events {
                match event {
                    Event::RouteTaken(route) => {
                        router.routes.insert(route.name.clone(), route);
                    }
                    Event::RouteLeft(name) => {
                        router.routes.remove(&name);
                    }
                    Event::Recovered { kind, name } => {
                        router.refused.remove(&(kind, name));
                    }
                    Event::Refused {
                        kind,
                        names,
                        message,
                    } => {
                        self.routers
                            .shared
                            .rejections
                            .fetch_add(1, Ordering::Relaxed);
                        // Several are sent again each by itself: which of them is bad is known then.
                        if let [name] = &names[..] {
                            router.refused.insert((kind, name.clone()), message);
                        }
                    }
                }
            }
        }
        self.routers.changed();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut routers = self.routers.shared.routers.lock();
        if routers
            .get(&self.id)
            .is_some_and(|router| router.stream == self.stream)
        {
            routers.remove(&self.id);
        }
        drop(routers);
        self.routers.changed();
    }
}
