//! The delta xDS protocol with one router, as a state machine without I/O.
//!
//! The server feeds it the router's requests and the newest [`Resources`], and sends what
//! [`Session::next_response`] returns until it returns `None`. Of each type at most one response is
//! in flight: what changes meanwhile goes into the next one.
//!
//! # Make before break
//! No resource may refer to one that a router does not have:
//! - Endpoints are sent after their cluster, and again whenever their cluster is sent: Envoy warms
//!   a changed cluster again. It acknowledges clusters only when all of them are warm, so endpoints
//!   are never held back. An Envoy that waits for endpoints of a version that is gone gets an empty
//!   list: without an answer none of its clusters could change.
//! - Routes are sent when the router has acknowledged every cluster that they name, *with* its
//!   endpoints. Envoy would accept them sooner, and answer 503 until the cluster is warm.
//! - A cluster is removed when the router has acknowledged routes without it, or has dropped the
//!   model's listener.
//!
//! # A rejected response (NACK)
//! The router keeps what it had. If several resources were rejected together, each is sent again by
//! itself, so that a bad one does not delay the good ones. A single one that is rejected waits for
//! [`Session::retry_rejected`] or for its next version.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    model::route_name,
    proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryResource},
    resources::{Resource, ResourceType, Resources},
};

const WILDCARD: &str = "*";
/// Key in a router's metadata of the address on which it listens: `::`, or `0.0.0.0` if its kernel
/// has no IPv6. A router of an older release has no such key and keeps its address.
const LISTENS_ON: &str = "serin.dev/listens-on";

/// What a session learned about its router.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The router routes by this route configuration.
    RouteTaken(Arc<Resource>),
    /// The router no longer uses the route configuration of that name.
    RouteLeft(String),
    /// The router rejected resources and keeps what it had.
    Rejected {
        /// Their type.
        kind: ResourceType,
        /// Their names.
        names: Vec<String>,
        /// The router's message.
        message: String,
    },
    /// The router accepted a resource that it had rejected before, or the resource is gone.
    Recovered {
        /// Its type.
        kind: ResourceType,
        /// Its name.
        name: String,
    },
}

/// The state of one router's stream.
#[derive(Debug, Default)]
pub struct Session {
    resources: Option<Arc<Resources>>,
    /// The router's kernel has IPv6, so its listeners take both families.
    has_ipv6: bool,
    types: [TypeState; 4],
    /// Routes that a reconnected router has, of which only the version is known.
    unrecognised: BTreeSet<String>,
    last_nonce: u64,
    events: Vec<Event>,
}

#[derive(Debug, Default)]
struct TypeState {
    /// The router has asked for this type.
    asked: bool,
    /// A response of this type was sent.
    answered: bool,
    /// The router wants every resource of this type …
    wildcard: bool,
    /// … or these.
    subscribed: BTreeSet<String>,
    /// Asked for and not answered yet. The router needs an answer even if there is no such
    /// resource.
    unanswered: BTreeSet<String>,
    /// What the router has: version by name.
    held: BTreeMap<String, String>,
    in_flight: Option<InFlight>,
    /// What the router rejected: version by name.
    rejected: BTreeMap<String, String>,
    /// Rejected together with others. Each is to be sent again by itself.
    suspects: BTreeSet<String>,
}

#[derive(Debug)]
struct InFlight {
    nonce: String,
    resources: Vec<Arc<Resource>>,
    removed: Vec<String>,
}

impl Session {
    /// Replaces what the router should have.
    pub fn set_resources(&mut self, resources: Arc<Resources>) {
        for kind in ResourceType::ALL {
            let wanted = resources.for_router(kind, self.has_ipv6);
            let state = &mut self.types[kind as usize];
            state.rejected.retain(|name, _| {
                let stays = wanted.contains_key(name);
                if !stays {
                    let name = name.clone();
                    self.events.push(Event::Recovered { kind, name });
                }
                stays
            });
        }
        self.resources = Some(resources);
        self.recognise_routes();
    }

    /// Takes in a request: subscriptions, and the ACK or NACK of a response. Types that Serin does
    /// not serve are ignored.
    pub fn handle(&mut self, request: &DeltaDiscoveryRequest) {
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else {
            return;
        };
        // Only the first request has it.
        if let Some(metadata) = request
            .node
            .as_ref()
            .and_then(|node| node.metadata.as_ref())
        {
            let listens_on = metadata.fields.get(LISTENS_ON);
            let any = listens_on.and_then(|text| text.string_value.as_deref());
            self.has_ipv6 = any == Some("::");
        }
        let first = self.subscribe(kind, request);
        if !request.response_nonce.is_empty() {
            self.conclude(kind, request);
        }
        if first && kind == ResourceType::Route {
            self.unrecognised = self.state(kind).held.keys().cloned().collect();
            self.recognise_routes();
        }
    }

    /// What happened since the last call, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Lets rejected resources be sent once more: the reason, e.g. a port in use, may be gone.
    pub fn retry_rejected(&mut self) {
        for state in &mut self.types {
            let rejected = std::mem::take(&mut state.rejected);
            state.suspects.extend(rejected.into_keys());
        }
    }

    /// The next response to send, if one is due.
    pub fn next_response(&mut self) -> Option<DeltaDiscoveryResponse> {
        let resources = Arc::clone(self.resources.as_ref()?);
        ResourceType::ALL
            .into_iter()
            .find_map(|kind| self.respond(kind, &resources))
    }

    fn state(&self, kind: ResourceType) -> &TypeState {
        &self.types[kind as usize]
    }

    fn state_mut(&mut self, kind: ResourceType) -> &mut TypeState {
        &mut self.types[kind as usize]
    }

    /// Returns whether this was the first request of its type.
    fn subscribe(&mut self, kind: ResourceType, request: &DeltaDiscoveryRequest) -> bool {
        let state = &mut self.types[kind as usize];
        let first = !std::mem::replace(&mut state.asked, true);
        // Endpoints are always sent again to a router that reconnects: one of its clusters may wait
        // for them.
        if first && kind != ResourceType::Endpoints {
            state.held = request
                .initial_resource_versions
                .clone()
                .into_iter()
                .collect();
        }
        let by_name = matches!(kind, ResourceType::Endpoints | ResourceType::Route);
        if first && request.resource_names_subscribe.is_empty() && !by_name {
            state.wildcard = true;
        }
        for name in &request.resource_names_subscribe {
            if name == WILDCARD {
                state.wildcard = true;
                continue;
            }
            if !(first && request.initial_resource_versions.contains_key(name)) {
                // A router that asks again has lost it. The answer is due even if nothing has
                // changed.
                state.forget(name);
                state.unanswered.insert(name.clone());
            }
            state.subscribed.insert(name.clone());
        }
        for name in &request.resource_names_unsubscribe {
            if name == WILDCARD {
                state.wildcard = false;
                continue;
            }
            state.subscribed.remove(name);
            state.unanswered.remove(name);
            state.forget(name);
            if kind == ResourceType::Route {
                self.events.push(Event::RouteLeft(name.clone()));
            }
        }
        first
    }

    /// Takes in the ACK or NACK of the response in flight. One of an older response is ignored.
    fn conclude(&mut self, kind: ResourceType, request: &DeltaDiscoveryRequest) {
        let state = &mut self.types[kind as usize];
        let Some(answered) = state
            .in_flight
            .take_if(|in_flight| in_flight.nonce == request.response_nonce)
        else {
            return;
        };
        for name in &answered.removed {
            state.held.remove(name);
        }
        match &request.error_detail {
            None => {
                for resource in answered.resources {
                    let suspected = state.suspects.remove(&resource.name);
                    if suspected | state.rejected.remove(&resource.name).is_some() {
                        let name = resource.name.clone();
                        self.events.push(Event::Recovered { kind, name });
                    }
                    state
                        .held
                        .insert(resource.name.clone(), resource.version.clone());
                    if kind == ResourceType::Route {
                        self.unrecognised.remove(&resource.name);
                        self.events.push(Event::RouteTaken(resource));
                    }
                }
            }
            Some(error) => {
                let alone = answered.resources.len() == 1;
                for resource in &answered.resources {
                    let name = resource.name.clone();
                    if alone {
                        state.suspects.remove(&name);
                        state.rejected.insert(name, resource.version.clone());
                    } else {
                        state.suspects.insert(name);
                    }
                }
                self.events.push(Event::Rejected {
                    kind,
                    names: answered.resources.iter().map(|r| r.name.clone()).collect(),
                    message: error.message.clone(),
                });
            }
        }
        if kind == ResourceType::Route {
            self.events
                .extend(answered.removed.into_iter().map(Event::RouteLeft));
        }
    }

    /// A router that reconnects says which versions it has. The weights of current versions are
    /// known at once.
    fn recognise_routes(&mut self) {
        let Some(resources) = &self.resources else {
            return;
        };
        let held = &self.types[ResourceType::Route as usize].held;
        let events = &mut self.events;
        self.unrecognised.retain(|name| {
            let Some(version) = held.get(name) else {
                return false;
            };
            let route = resources.of(ResourceType::Route).get(name);
            let Some(route) = route.filter(|route| route.version == *version) else {
                return true;
            };
            events.push(Event::RouteTaken(Arc::clone(route)));
            false
        });
    }

    fn respond(
        &mut self,
        kind: ResourceType,
        resources: &Resources,
    ) -> Option<DeltaDiscoveryResponse> {
        let state = self.state(kind);
        if !state.asked || state.in_flight.is_some() {
            return None;
        }
        let wanted = resources.for_router(kind, self.has_ipv6);
        // All in one response: a new Envoy counts as configured after its first response of a type.
        let (suspects, mut due): (Vec<_>, Vec<_>) = wanted
            .values()
            .filter(|resource| state.lacks(resource) && self.may_send(kind, resource))
            .cloned()
            .partition(|resource| state.suspects.contains(&resource.name));
        if due.is_empty() {
            due.extend(suspects.into_iter().next());
        }
        if kind == ResourceType::Endpoints {
            let gone = state
                .unanswered
                .iter()
                .filter(|name| !wanted.contains_key(*name));
            due.extend(gone.map(|name| Resource::no_endpoints(name)));
        }
        let removed: BTreeSet<String> = state
            .held
            .keys()
            .chain(&state.unanswered)
            .filter(|name| !wanted.contains_key(*name) && self.may_remove(kind, name, resources))
            .cloned()
            .collect();

        // What exists is due by now. What does not exist is answered as removed, unless it is in
        // use and may not be removed yet.
        self.state_mut(kind).unanswered.retain(|name| {
            kind != ResourceType::Endpoints && !wanted.contains_key(name) && !removed.contains(name)
        });
        if due.is_empty() && removed.is_empty() && !self.state(kind).awaits_first() {
            return None;
        }
        if kind == ResourceType::Cluster {
            for cluster in &due {
                self.state_mut(ResourceType::Endpoints)
                    .forget(&cluster.name);
            }
        }
        Some(self.send(kind, due, removed.into_iter().collect()))
    }

    fn send(
        &mut self,
        kind: ResourceType,
        due: Vec<Arc<Resource>>,
        removed: Vec<String>,
    ) -> DeltaDiscoveryResponse {
        self.last_nonce += 1;
        let nonce = self.last_nonce.to_string();
        let response = DeltaDiscoveryResponse {
            type_url: kind.type_url().to_owned(),
            nonce: nonce.clone(),
            removed_resources: removed.clone(),
            resources: due
                .iter()
                .map(|resource| DiscoveryResource {
                    name: resource.name.clone(),
                    version: resource.version.clone(),
                    resource: Some(resource.body.clone()),
                })
                .collect(),
        };
        let state = self.state_mut(kind);
        state.answered = true;
        state.in_flight = Some(InFlight {
            nonce,
            resources: due,
            removed,
        });
        response
    }

    /// Whether the router has what `resource` refers to.
    fn may_send(&self, kind: ResourceType, resource: &Resource) -> bool {
        match kind {
            ResourceType::Cluster | ResourceType::Endpoints | ResourceType::Listener => true,
            ResourceType::Route => resource.weights.iter().all(|(revision, _)| {
                let cluster = format!("{}/{revision}", resource.name);
                self.state(ResourceType::Cluster)
                    .held
                    .contains_key(&cluster)
                    && self
                        .state(ResourceType::Endpoints)
                        .held
                        .contains_key(&cluster)
            }),
        }
    }

    /// Whether nothing that the router has refers to the resource of this name.
    fn may_remove(&self, kind: ResourceType, name: &str, resources: &Resources) -> bool {
        let listens = |route: &str| self.state(ResourceType::Listener).held.contains_key(route);
        match kind {
            ResourceType::Listener => true,
            ResourceType::Route => !listens(name),
            // Envoy unsubscribes from them when their cluster goes.
            ResourceType::Endpoints => false,
            ResourceType::Cluster => {
                let route = route_name(name);
                if !listens(route) {
                    return true;
                }
                let held = self.state(ResourceType::Route).held.get(route);
                let wanted = resources.of(ResourceType::Route).get(route);
                wanted.is_some_and(|wanted| held == Some(&wanted.version))
            }
        }
    }
}

impl TypeState {
    /// Whether the router wants this resource and has another version or none.
    fn lacks(&self, resource: &Resource) -> bool {
        (self.wildcard || self.subscribed.contains(&resource.name))
            && self.held.get(&resource.name) != Some(&resource.version)
            && self.rejected.get(&resource.name) != Some(&resource.version)
    }

    /// Whether this is a new router that needs an empty response: without one it never gets ready.
    fn awaits_first(&self) -> bool {
        self.wildcard && !self.answered && self.held.is_empty()
    }

    /// The router no longer has this resource, although it was sent.
    fn forget(&mut self, name: &str) {
        self.held.remove(name);
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.resources.retain(|resource| resource.name != name);
        }
    }
}

#[cfg(test)]
mod tests;
