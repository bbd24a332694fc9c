//! The routers: each is configured by one operator, and keeps its configuration while that operator
//! is away.

use serde_json::{Value, json};
use serin::router::envoy::{RouteKey, RouterModel};

use crate::{
    kinds::{Key, Kind},
    model_ref::ModelRef,
    nodes::ROUTERS,
    objects::Objects,
    operator::Operator,
    rng::Rng,
};

/// How many routers run.
pub const ROUTER_COUNT: usize = 2;

/// A router's pod.
#[derive(Clone, Debug)]
pub struct RouterPod {
    pub name: String,
    pub address: String,
    /// Whether it is among the endpoints of the routers' Service. A new one is not, before an
    /// operator configured it.
    pub is_ready: bool,
}

impl RouterPod {
    /// The pods that a world begins with.
    pub fn first() -> Vec<Self> {
        let pod = |(name, address): (&str, &str)| Self {
            name: format!("serin-router-6d9f7c5b8-{name}"),
            address: address.to_owned(),
            is_ready: true,
        };
        [("aaaaa", "10.244.9.1"), ("bbbbb", "10.244.9.2")]
            .map(pod)
            .into()
    }

    /// The one that takes the place of router `index`, the `number`th that ever did.
    pub fn newer(index: usize, number: u64) -> Self {
        Self {
            name: format!("serin-router-6d9f7c5b8-n{number:04}"),
            address: format!(
                "10.244.{}.{}",
                10 + number / 100,
                10 * (index as u64 + 1) + number % 100
            ),
            is_ready: false,
        }
    }
}

/// The key of the EndpointSlice of the routers' Service.
pub fn slice_key() -> Key {
    Key::new(Kind::Slice, ROUTERS, "serin-router-x1")
}

/// Publishes the routers' endpoints.
pub fn publish_endpoints(objects: &mut Objects, pods: &[RouterPod]) {
    let ready = pods.iter().filter(|pod| pod.is_ready);
    let endpoints: Value = ready
        .map(|pod| json!({"addresses": [pod.address], "conditions": {"ready": true}}))
        .collect();
    let slice = json!({
        "metadata": {
            "namespace": ROUTERS, "name": "serin-router-x1",
            "labels": {"kubernetes.io/service-name": "serin-router"},
        },
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    });
    if objects.get(&slice_key()).is_none() {
        let _ = objects.create(&slice_key(), slice);
    } else {
        objects.edit(&slice_key(), |live| {
            live["endpoints"] = slice["endpoints"].clone();
        });
    }
}

/// A router that lost its operator is configured by another one after 1 to this many seconds: with
/// the chart's settings it retries after at most 2 s, and each attempt takes at most 2 s.
const RETURN_SECONDS: u64 = 4;

/// The operator and the last configuration of each router.
pub struct Routers {
    rng: Rng,
    asked: Vec<Asked>,
}

#[derive(Default)]
struct Asked {
    /// The name of its operator.
    operator: Option<String>,
    /// When it finds another one: second.
    again_at: u64,
    configured: RouterModel,
}

impl Routers {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed, "routers"),
            asked: (0..ROUTER_COUNT).map(|_| Asked::default()).collect(),
        }
    }

    /// Replaces a router by a new pod, which has no configuration and finds an operator after a
    /// while.
    pub fn replace(&mut self, index: usize, second: u64) {
        self.asked[index] = Asked {
            again_at: second + self.rng.between(1, RETURN_SECONDS),
            ..Asked::default()
        };
    }

    /// Whether an operator has configured a router.
    pub fn is_configured(&self, index: usize) -> bool {
        self.asked[index].operator.is_some()
    }

    /// Once a second: returns each router's configuration.
    pub fn ask(&mut self, second: u64, running: &[Operator]) -> Vec<RouterModel> {
        let all: Vec<(&str, RouterModel)> = running
            .iter()
            .filter(|operator| !operator.is_over())
            .filter_map(|operator| Some((operator.name(), operator.routes()?)))
            .collect();
        for router in &mut self.asked {
            let its = |name: &str| all.iter().find(|(other, _)| *other == name);
            if let Some((_, routes)) = router.operator.as_deref().and_then(its) {
                routes.clone_into(&mut router.configured);
                continue;
            }
            if router.operator.take().is_some() {
                router.again_at = second + self.rng.between(1, RETURN_SECONDS);
            }
            if second >= router.again_at && !all.is_empty() {
                let (name, routes) = &all[self.rng.between(0, all.len() as u64 - 1) as usize];
                router.operator = Some((*name).to_owned());
                routes.clone_into(&mut router.configured);
            }
        }
        self.asked
            .iter()
            .map(|router| router.configured.clone())
            .collect()
    }
}

/// The port on which a router takes a model's requests.
pub fn route_port(router: &RouterModel, model: ModelRef) -> Option<u64> {
    let key = RouteKey::new(model.namespace, model.name);
    router.routes.get(&key).map(|route| u64::from(route.port))
}

/// Each version of a model that a router knows, with its share of the requests in percent.
pub fn shares(router: &RouterModel, model: ModelRef) -> impl Iterator<Item = (&str, u64)> {
    let key = RouteKey::new(model.namespace, model.name);
    let route = router.routes.get(&key);
    let backends = route.into_iter().flat_map(|route| &route.backends);
    backends.map(|backend| (backend.revision.as_str(), u64::from(backend.weight)))
}
