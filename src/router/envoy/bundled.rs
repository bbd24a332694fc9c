//! The bundled router as every stage sees it.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use futures::future::BoxFuture;

use super::{
    Prober,
    ports::{Ports, is_taken},
    refusals::{self, Refusals},
    router_port,
    service::{router_slices, stable_service},
};
use crate::{
    api::{EvidenceSource, ModelDeployment, State},
    k8s::{Intent, Object, Stores, ready_addresses},
    router::{Asked, Capability, InForce, Reachability, Route, Router},
};

/// Time for routers to come back to an operator that was away: until then they send requests by
/// what they had. By the chart they try at least every 2 s, and give each try 2 s.
const RECONNECTED_WITHIN: Duration = Duration::from_secs(10);

/// The bundled Envoy: it follows the persisted state by itself (see [`super::publish`]), so that
/// objects carry no weight. A model has a port of every router, and its Service leads there.
pub struct Envoy {
    ports: Ports,
    prober: Prober,
    refusals: Refusals,
}

impl Envoy {
    /// With what routers refuse, kept up to date elsewhere (see [`Refusals::gather`]).
    pub fn new(prober: Prober, refusals: Refusals) -> Self {
        Self {
            ports: Ports::default(),
            prober,
            refusals,
        }
    }
}

impl Router for Envoy {
    fn objects(&self, route: &Route<'_>) -> Vec<Intent> {
        let Some(port) = route.state.router_port else {
            return Vec::new();
        };
        if route.report.addresses.is_empty() {
            return Vec::new();
        }
        // In this order: kube-proxy turns clients of a Service without endpoints away, and what
        // changes within a second of that may wait for the next second.
        let slices = router_slices(route, port).map(|slice| Intent {
            object: Object::EndpointSlice(slice),
            reason: "the way from the model's name to the routers",
        });
        let service = Intent {
            object: Object::Service(stable_service(route)),
            reason: "the model's stable name",
        };
        slices.chain([service]).collect()
    }

    fn in_force(&self, stores: &Stores, model: &ModelDeployment) -> InForce {
        let status = model.status.as_ref();
        let port = status.and_then(|status| status.state.router_port);
        let refusals = self.refusals.of(&model.key());
        if !refusals.is_empty() {
            let why = refusals::sentence(&refusals, port);
            return InForce::Pending { why };
        }
        let generation = status.and_then(|status| status.observed_generation);
        match (port, generation) {
            (Some(_), Some(generation)) if !ready_routers(stores).is_empty() => {
                InForce::Applied { generation }
            }
            _ => InForce::Absent,
        }
    }

    fn evidence(&self) -> &[EvidenceSource] {
        // The bundled router stands behind whatever leads to the Service, so a mesh's or an
        // ingress' counters are believed, too.
        &[
            EvidenceSource::Envoy,
            EvidenceSource::Istio,
            EvidenceSource::IstioAmbient,
            EvidenceSource::Linkerd,
            EvidenceSource::IngressNginx,
            EvidenceSource::Traefik,
        ]
    }

    fn capabilities(&self) -> &[Capability] {
        &[Capability::Weights]
    }

    fn settle(&self) -> Duration {
        RECONNECTED_WITHIN
    }

    /// The ready routers, but for those that refuse something of the model.
    fn addresses(&self, stores: &Stores, model: &ModelDeployment) -> BTreeSet<IpAddr> {
        let mut routers = ready_routers(stores);
        let refusals = self.refusals.of(&model.key());
        refusals::leave_out(&mut routers, stores, &refusals);
        routers
    }

    fn port(
        &self,
        stores: &Stores,
        model: &ModelDeployment,
        state: &mut State,
        was_lost: bool,
    ) -> Option<u16> {
        let models = || stores.models.state();
        state
            .router_port
            .take_if(|port| is_taken(*port, model, &models()));
        if state.router_port.is_some() {
            return None;
        }
        // Where the state was lost, the way to the routers still has the port.
        let kept = was_lost.then(|| router_port(stores, model)).flatten();
        kept.filter(|port| !is_taken(*port, model, &models()))
            .or_else(|| self.ports.free(model, models))
    }

    fn reachability<'a>(&'a self, asked: Asked<'a>) -> BoxFuture<'a, Reachability> {
        Box::pin(self.prober.probe(asked))
    }

    fn forget(&self, model: &(String, String)) {
        self.ports.forget(model);
    }
}

fn ready_routers(stores: &Stores) -> BTreeSet<IpAddr> {
    let slices = stores.routers.state();
    slices
        .iter()
        .flat_map(|slice| ready_addresses(slice).collect::<Vec<_>>())
        .collect()
}
