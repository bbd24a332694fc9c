//! Which routers are connected, and what each has acknowledged.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
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
    rejected: BTreeMap<(ResourceType, String), String>,
}

/// A resource that a router rejects.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rejection {
    /// The router's node id: the name of its pod.
    pub router: String,
    /// The type of the resource.
    pub kind: ResourceType,
    /// The name of the resource, which begins with the model's `<namespace>/<name>`.
    pub name: String,
    /// The router's message.
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

    /// The weights by which every connected router routes this model: the revisions that have
    /// weight, sorted. `None` if no router is connected, if one has acknowledged nothing for this
    /// model, or if they differ.
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

    /// Changes whenever a router connects, disconnects, acknowledges or rejects.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// What the connected routers reject at present.
    pub fn rejected(&self) -> Vec<Rejection> {
        let routers = self.shared.routers.lock();
        let rejections = routers.iter().flat_map(|(id, router)| {
            router
                .rejected
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

    /// How many responses were rejected since this process started.
    pub fn rejections(&self) -> u64 {
        self.shared.rejections.load(Ordering::Relaxed)
    }

    /// Registers the stream of a router. A router has one stream: a newer one replaces one that
    /// died unnoticed.
    pub(super) fn connect(&self, id: &str) -> Connection {
        let stream = self.shared.streams.fetch_add(1, Ordering::Relaxed);
        let router = Router {
            stream,
            routes: HashMap::new(),
            rejected: BTreeMap::new(),
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

/// The stream of one router. Dropping it removes the router from the list.
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

    /// Records what the session learned.
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
                        router.rejected.remove(&(kind, name));
                    }
                    Event::Rejected {
                        kind,
                        names,
                        message,
                    } => {
                        self.routers
                            .shared
                            .rejections
                            .fetch_add(1, Ordering::Relaxed);
                        // Several are sent again one by one, which shows the bad one.
                        if let [name] = &names[..] {
                            router.rejected.insert((kind, name.clone()), message);
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
