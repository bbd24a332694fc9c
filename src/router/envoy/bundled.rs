//! The bundled router as every stage sees it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{Json, routing::get};
use futures::future::BoxFuture;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube_runtime::reflector::Store;
use tokio::task::JoinSet;

use super::{
    ControlPlane, Prober,
    ports::{Ports, is_taken},
    rejections::{self, Rejections},
    routes::{listener_port, publish},
    service::{router_slices, stable_service},
};
use crate::{
    api::{EvidenceSource, ModelDeployment, ModelDeploymentSpec, State},
    k8s::{
        Concerned, Intent, ListenError, Object, Pace, SERVICE_NAME_LABEL, Stores, Watches, listen,
        ready_addresses, targets::Target,
    },
    router::{
        Capability, Connections, Host, InForce, Reachability, ReachabilityQuery, Route, Router,
        Setup,
    },
};

/// Time for routers to come back to an operator that was away. Until then they send requests by
/// what they had. By the chart they try at least every 2 s, and give each try 2 s.
const RECONNECTED_WITHIN: Duration = Duration::from_secs(10);

/// The Service whose name has the addresses of all operators.
const PEERS: &str = "serin-operator-metrics";

/// The port of a router's metrics, and their path there.
const METRICS_PORT: u16 = 9902;
const METRICS_PATH: &str = "/stats/prometheus";

const DEFAULT_SERVICE: &str = "serin-router";
const DEFAULT_XDS_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 18_000);

/// Flags of the bundled router.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Flags {
    /// The name that the router's Service and Deployment share.
    #[arg(long = "router-service", env = "SERIN_ROUTER_SERVICE", default_value = DEFAULT_SERVICE)]
    pub service: String,

    /// Address on which routers get their configuration (Envoy's delta ADS over gRPC). `[::]` is
    /// every address of both families, or of IPv4 where the kernel has no IPv6.
    #[arg(long, env = "SERIN_XDS_ADDRESS", default_value_t = DEFAULT_XDS_ADDRESS)]
    pub xds_address: SocketAddr,
}

impl Default for Flags {
    fn default() -> Self {
        Self {
            service: DEFAULT_SERVICE.to_owned(),
            xds_address: DEFAULT_XDS_ADDRESS,
        }
    }
}

/// The bundled Envoy. It follows the persisted state by itself (see [`publish`]), so that objects
/// carry no weight. A model has a port of every router, and its Service leads there.
pub struct Envoy {
    setup: Setup,
    ports: Ports,
    prober: Prober,
    plane: ControlPlane,
    rejections: Rejections,
    /// Endpoints of the routers, once they are watched.
    endpoints: OnceLock<Store<EndpointSlice>>,
}

impl Envoy {
    /// With what asks whether a model's address answers.
    pub fn new(setup: &Setup, prober: Prober) -> Self {
        Self {
            setup: setup.clone(),
            ports: Ports::default(),
            prober,
            plane: ControlPlane::new(),
            rejections: Rejections::default(),
            endpoints: OnceLock::new(),
        }
    }

    /// The EndpointSlices of the routers.
    fn slices(&self) -> Vec<Arc<EndpointSlice>> {
        self.endpoints.get().map(Store::state).unwrap_or_default()
    }

    fn ready_routers(&self) -> BTreeSet<IpAddr> {
        let slices = self.slices();
        let slices = slices.iter().map(|slice| &**slice);
        slices.flat_map(ready_addresses).collect()
    }
}

impl Router for Envoy {
    fn member(&self) -> &'static str {
        "envoy"
    }

    fn is_chosen(&self, spec: &ModelDeploymentSpec) -> bool {
        spec.traffic.envoy.is_some()
    }

    fn objects(&self, route: &Route<'_>) -> Vec<Intent> {
        let Some(port) = route.state.listener_port else {
            return Vec::new();
        };
        if route.report.addresses.is_empty() {
            return Vec::new();
        }
        // Endpoints first: kube-proxy rejects clients of a Service without endpoints, and applies
        // what changes within a second of that up to a second later.
        let slices = router_slices(route, port).into_iter().map(|slice| Intent {
            object: Object::EndpointSlice(slice),
            reason: "the way from the model's name to the routers",
        });
        let service = Intent {
            object: Object::Service(stable_service(route)),
            reason: "the model's stable name",
        };
        slices.chain([service]).collect()
    }

    fn in_force(&self, _: &Stores, model: &ModelDeployment) -> InForce {
        let status = model.status.as_ref();
        let port = status.and_then(|status| status.state.listener_port);
        let rejections = self.rejections.of(&model.key());
        if !rejections.is_empty() {
            let why = rejections::pending(&rejections, port);
            return InForce::Pending { why };
        }
        let generation = status.and_then(|status| status.observed_generation);
        match (port, generation) {
            (Some(_), Some(generation)) if !self.ready_routers().is_empty() => {
                InForce::Applied { generation }
            }
            _ => InForce::Absent,
        }
    }

    fn evidence(&self) -> &[EvidenceSource] {
        // The bundled router stands behind whatever leads to the Service, so the counters of a
        // mesh or an ingress can be read as well.
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

    /// The ready routers, except those that reject something of the model.
    fn addresses(&self, _: &Stores, model: &ModelDeployment) -> BTreeSet<IpAddr> {
        let mut routers = self.ready_routers();
        let rejections = self.rejections.of(&model.key());
        rejections::leave_out(&mut routers, &self.slices(), &rejections);
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
            .listener_port
            .take_if(|port| is_taken(*port, model, &models()));
        if state.listener_port.is_some() {
            return None;
        }
        // Where the state was lost, the EndpointSlice still has the port.
        let kept = was_lost.then(|| listener_port(stores, model)).flatten();
        kept.filter(|port| !is_taken(*port, model, &models()))
            .or_else(|| self.ports.free(model, models))
    }

    fn reachability<'a>(&'a self, query: ReachabilityQuery<'a>) -> BoxFuture<'a, Reachability> {
        Box::pin(self.prober.probe(query))
    }

    fn forget(&self, model: &(String, String)) {
        self.ports.forget(model);
    }

    /// The routers' endpoints, which are in every model's EndpointSlice.
    fn watch(&self, watches: &mut Watches) {
        let api = Api::namespaced(watches.client().clone(), &self.setup.namespace);
        let selector = format!("{SERVICE_NAME_LABEL}={}", self.setup.flags.envoy.service);
        let store = watches.watch(api, Pace::CALM, Some(&selector), |_: &EndpointSlice| {
            Concerned::All
        });
        let _ = self.endpoints.set(store);
    }

    fn serve(&self, host: Host) -> BoxFuture<'_, Result<JoinSet<()>, ListenError>> {
        let Host {
            stores,
            changes,
            dirty,
            stop,
        } = host;
        Box::pin(async move {
            let mut tasks = JoinSet::new();
            tasks.spawn(publish(stores, changes, self.plane.clone(), stop.clone()));
            let listener = listen(self.setup.flags.envoy.xds_address).await?;
            let serving = self.plane.clone().serve(listener, stop.clone());
            tasks.spawn(async move {
                if let Err(error) = serving.await {
                    tracing::error!(%error, "routers get no configuration from this operator");
                }
            });
            let (rejections, routers) = (self.rejections.clone(), self.plane.routers());
            let (namespace, port) = (&self.setup.namespace, self.setup.http_port);
            let peers = format!("{PEERS}.{namespace}.svc:{port}");
            tasks.spawn(async move { rejections.gather(&routers, &peers, &dirty, &stop).await });
            Ok(tasks)
        })
    }

    fn connections(&self) -> Connections {
        let routers = self.plane.routers();
        Connections {
            connected: routers.connected().len(),
            rejections: routers.rejections(),
        }
    }

    fn scrape_targets(&self) -> Vec<Target> {
        let slices = self.slices();
        let endpoints = slices.iter().flat_map(|slice| {
            let endpoints = slice.endpoints.iter().flatten();
            endpoints.map(move |endpoint| (slice, endpoint))
        });
        let targets = endpoints.filter_map(|(slice, endpoint)| {
            let pod = endpoint.target_ref.as_ref()?;
            Some(target(
                slice.metadata.namespace.as_deref()?,
                pod.name.as_deref()?,
                endpoint.addresses.first()?,
            ))
        });
        targets.collect()
    }

    /// What the routers of this process reject, for the other operators.
    fn http(&self) -> axum::Router {
        let routers = self.plane.routers();
        let rejected = move || async move { Json(routers.rejected()) };
        axum::Router::new().route(rejections::PATH, get(rejected))
    }
}

/// A router that Prometheus scrapes.
fn target(namespace: &str, pod: &str, ip: &str) -> Target {
    Target::new("serin-router", namespace, pod, ip, METRICS_PORT)
        .with("__metrics_path__", METRICS_PATH)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{json, to_value};

    use super::*;

    #[test]
    fn a_router_is_scraped_at_envoys_path() {
        let target = target("serin-system", "serin-router-x", "fd00::7");
        let expected = json!({
            "targets": ["[fd00::7]:9902"],
            "labels": {
                "__metrics_path__": "/stats/prometheus",
                "job": "serin-router", "namespace": "serin-system", "pod": "serin-router-x",
            },
        });
        assert_eq!(to_value(target).unwrap(), expected);
    }
}
