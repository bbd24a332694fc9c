//! Addresses behind Services.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

use super::{Stores, version_name};
use crate::api::Revision;

/// Label by which an EndpointSlice names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Label by which an EndpointSlice names the controller that keeps it.
pub const SLICE_MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";

/// The Service that an EndpointSlice belongs to.
pub fn service_of(slice: &EndpointSlice) -> Option<&str> {
    slice.labels().get(SERVICE_NAME_LABEL).map(String::as_str)
}

/// Addresses of the ready endpoints, the first one of each. An endpoint without readiness counts as
/// ready.
pub fn ready_addresses(slice: &EndpointSlice) -> impl Iterator<Item = IpAddr> + '_ {
    let is_ready = |ready: Option<bool>| ready != Some(false);
    slice
        .endpoints
        .iter()
        .flatten()
        .filter(move |endpoint| is_ready(endpoint.conditions.as_ref().and_then(|at| at.ready)))
        .filter_map(|endpoint| endpoint.addresses.first()?.parse().ok())
}

/// Addresses that a router can send a version's requests to.
pub fn endpoints(
    stores: &Stores,
    namespace: &str,
    model: &str,
    revision: &Revision,
) -> BTreeSet<(IpAddr, u16)> {
    endpoints_of_service(stores, namespace, &version_name(model, revision))
}

/// Addresses that the requests to a Service are sent to.
pub fn endpoints_of_service(
    stores: &Stores,
    namespace: &str,
    service: &str,
) -> BTreeSet<(IpAddr, u16)> {
    let slices = stores.slices.state_filter(|slice| {
        service_of(slice) == Some(service) && slice.metadata.namespace.as_deref() == Some(namespace)
    });
    endpoints_of(slices.iter().map(|slice| &**slice))
}

/// The addresses that a Service's slices hold.
pub fn endpoints_of<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
) -> BTreeSet<(IpAddr, u16)> {
    let mut found = BTreeSet::new();
    for slice in slices {
        let port = slice
            .ports
            .iter()
            .flatten()
            .next()
            .and_then(|port| port.port)
            .and_then(|port| u16::try_from(port).ok());
        let Some(port) = port else { continue };
        found.extend(ready_addresses(slice).map(|address| (address, port)));
    }
    found
}
