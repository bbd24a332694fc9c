//! The Service of a model's name, and the EndpointSlices that lead from it to the routers.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::{
    api::{
        core::v1::{Service, ServicePort, ServiceSpec},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::routes::router_slice_name;
use crate::{
    api::GROUP,
    k8s::{SERVICE_NAME_LABEL, SLICE_MANAGED_BY_LABEL, model_labels},
    router::Route,
};

/// The Service that clients use from the first version to the last. It has no selector: its
/// endpoints are the routers, in another namespace, on the port that they keep for this model.
pub(super) fn stable_service(route: &Route<'_>) -> Service {
    let routers = &route.report.addresses;
    let of_both = routers.iter().any(IpAddr::is_ipv4) && routers.iter().any(IpAddr::is_ipv6);
    let ports = route.model.spec.service.ports();
    let ports = ports.into_iter().map(|port| ServicePort {
        name: Some(port.name),
        port: port.port,
        app_protocol: port.app_protocol,
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::Int(port.port)),
        ..ServicePort::default()
    });
    Service {
        metadata: route.metadata(route.service().to_owned(), model_labels(&route.name())),
        spec: Some(ServiceSpec {
            ports: Some(ports.collect()),
            // A cluster IP of a family that no router has would refuse every connection.
            ip_family_policy: of_both.then(|| "PreferDualStack".to_owned()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// The endpoints of the model's Service, and of those of earlier names that still exist, by address
/// family. A family in which no router is ready gets no EndpointSlice here, so its last endpoints
/// stay.
pub(super) fn router_slices(route: &Route<'_>, port: u16) -> Vec<EndpointSlice> {
    let routers = &route.report.addresses;
    let (ipv4, ipv6): (Vec<_>, Vec<_>) = routers.iter().partition(|address| address.is_ipv4());
    let families = [("IPv4", "", ipv4), ("IPv6", "-ipv6", ipv6)];
    let mut slices = Vec::new();
    for (service, ports) in services(route) {
        for (family, suffix, addresses) in &families {
            if addresses.is_empty() {
                continue;
            }
            let ports = ports.iter().map(|name| EndpointPort {
                name: Some(name.clone()),
                port: Some(i32::from(port)),
                protocol: Some("TCP".to_owned()),
                ..EndpointPort::default()
            });
            let mut labels = model_labels(&route.name());
            labels.insert(SERVICE_NAME_LABEL.to_owned(), service.clone());
            labels.insert(SLICE_MANAGED_BY_LABEL.to_owned(), GROUP.to_owned());
            slices.push(EndpointSlice {
                metadata: route.metadata(router_slice_name(&service) + suffix, labels),
                address_type: (*family).to_owned(),
                endpoints: Some(addresses.iter().map(endpoint).collect()),
                ports: Some(ports.collect()),
            });
        }
    }
    slices
}

/// Name and port names of each Service that leads to the routers, the spec's first. A port is one
/// of them as long as the Service has it or is to have it: kube-proxy matches both by name.
fn services(route: &Route<'_>) -> Vec<(String, BTreeSet<String>)> {
    let mut known = route.report.services.known.clone();
    let mut ports = known.remove(route.service()).unwrap_or_default();
    let wanted = route.model.spec.service.ports().into_iter();
    ports.extend(wanted.map(|port| port.name));
    let wanted = (route.service().to_owned(), ports);
    std::iter::once(wanted).chain(known).collect()
}

fn endpoint(address: &IpAddr) -> Endpoint {
    Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(true),
            ..EndpointConditions::default()
        }),
        ..Endpoint::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::super::{Envoy, Prober};
    use crate::{
        api::State,
        k8s::Object,
        router::{Report, Route, Router, Setup},
    };

    /// The name, family and addresses of a slice.
    type Slice = (String, String, Vec<String>);

    /// The slices, and the Service's policy.
    fn planned(routers: &[&str]) -> (Vec<Slice>, Option<String>) {
        let model = serde_json::from_value(json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "churn", "namespace": "ml", "uid": "u"},
            "spec": {
                "model": {"uri": "file:///m", "version": "1", "digest": "sha256:0"},
                "objectives": [{"name": "errors", "errorRate": {"max": "1%"}}],
            },
        }))
        .unwrap();
        let state = State {
            listener_port: Some(16_001),
            ..State::default()
        };
        let report = Report {
            addresses: routers
                .iter()
                .map(|router| router.parse().unwrap())
                .collect(),
            ..Report::default()
        };
        let route = Route::new(&model, &state, &report).unwrap();
        let envoy = Envoy::new(&Setup::default(), Prober::by_tcp());
        let (mut slices, mut policy) = (Vec::new(), None);
        for intent in envoy.objects(&route) {
            match intent.object {
                Object::EndpointSlice(slice) => {
                    let endpoints = slice.endpoints.unwrap().into_iter();
                    let addresses = endpoints.flat_map(|endpoint| endpoint.addresses).collect();
                    slices.push((slice.metadata.name.unwrap(), slice.address_type, addresses));
                }
                Object::Service(service) => policy = service.spec.unwrap().ip_family_policy,
                _ => {}
            }
        }
        (slices, policy)
    }

    #[test]
    fn each_family_of_the_routers_has_a_slice_and_two_make_the_service_dual() {
        let slice = |name: &str, family: &str, addresses: &[&str]| {
            let addresses = addresses.iter().map(ToString::to_string).collect();
            (name.to_owned(), family.to_owned(), addresses)
        };
        let ipv4 = slice("churn-router", "IPv4", &["10.0.0.1", "10.0.0.2"]);
        let ipv6 = slice("churn-router-ipv6", "IPv6", &["fd00::1", "fd00::2"]);
        assert_eq!(
            planned(&["10.0.0.2", "10.0.0.1"]),
            (vec![ipv4.clone()], None)
        );
        assert_eq!(planned(&["fd00::1", "fd00::2"]), (vec![ipv6.clone()], None));
        let both = planned(&["10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2"]);
        assert_eq!(both, (vec![ipv4, ipv6], Some("PreferDualStack".to_owned())));
        assert_eq!(planned(&[]), (vec![], None));
    }
}
