//! The routers: each asks one operator, and keeps what it was told while that one is away.

use serin::traffic::envoy::{RouteKey, RouterModel};

use crate::{dice::Dice, model::Model, nodes::ROUTER_PODS, operator::Operator};

/// A router that has lost its operator is told by another one after 1 to so many seconds: by the chart it tries again at most
/// 2 s later, and gives each try 2 s.
const RETURN_SECONDS: u64 = 4;

/// Which operator each router asks, and what it was told last.
pub struct Routers {
    dice: Dice,
    asked: Vec<Asked>,
}

#[derive(Default)]
struct Asked {
    /// The name of its operator.
    operator: Option<String>,
    /// When it finds another one: second.
    again_at: u64,
    told: RouterModel,
}

impl Routers {
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed, "routers"),
            asked: ROUTER_PODS.iter().map(|_| Asked::default()).collect(),
        }
    }

    /// Once a second: what each router does from now on.
    pub fn ask(&mut self, second: u64, running: &[Operator]) -> Vec<RouterModel> {
        let all: Vec<(&str, RouterModel)> = running
            .iter()
            .filter(|operator| !operator.is_over())
            .filter_map(|operator| Some((operator.name(), operator.routes()?)))
            .collect();
        for router in &mut self.asked {
            let its = |name: &str| all.iter().find(|(other, _)| *other == name);
            if let Some((_, told)) = router.operator.as_deref().and_then(its) {
                told.clone_into(&mut router.told);
                continue;
            }
            if router.operator.take().is_some() {
                router.again_at = second + self.dice.between(1, RETURN_SECONDS);
            }
            if second >= router.again_at && !all.is_empty() {
                let (name, told) = &all[self.dice.between(0, all.len() as u64 - 1) as usize];
                router.operator = Some((*name).to_owned());
                told.clone_into(&mut router.told);
            }
        }
        self.asked
            .iter()
            .map(|router| router.told.clone())
            .collect()
    }
}

/// The port on which a router takes a model's requests.
pub fn route_port(router: &RouterModel, model: Model) -> Option<u64> {
    let key = RouteKey::new(model.namespace, model.name);
    router.routes.get(&key).map(|route| u64::from(route.port))
}

/// Each version of a model that a router knows, with its share of the requests in percent.
pub fn shares(router: &RouterModel, model: Model) -> impl Iterator<Item = (&str, u64)> {
    let key = RouteKey::new(model.namespace, model.name);
    let route = router.routes.get(&key);
    let backends = route.into_iter().flat_map(|route| &route.backends);
    backends.map(|backend| (backend.revision.as_str(), u64::from(backend.weight)))
}
