//! Small questions about Kubernetes objects and answers, asked in several stages.

use std::net::IpAddr;

use k8s_openapi::{
    api::discovery::v1::EndpointSlice, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;

/// Label by which an EndpointSlice names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Label by which an EndpointSlice names the controller that keeps it.
pub const SLICE_MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";

/// The Service that an EndpointSlice belongs to.
pub fn service_of(slice: &EndpointSlice) -> Option<&str> {
    slice.labels().get(SERVICE_NAME_LABEL).map(String::as_str)
}

/// Addresses of the endpoints that take traffic: the first one of each, and readiness that is absent means yes.
pub fn ready_addresses(slice: &EndpointSlice) -> impl Iterator<Item = IpAddr> + '_ {
    let is_ready = |ready: Option<bool>| ready != Some(false);
    slice
        .endpoints
        .iter()
        .flatten()
        .filter(move |endpoint| is_ready(endpoint.conditions.as_ref().and_then(|at| at.ready)))
        .filter_map(|endpoint| endpoint.addresses.first()?.parse().ok())
}

/// Whether the API server refused a request with this HTTP status code.
pub fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Whether the first of two states of one object is from before the other. Resource versions of one kind are numbers in the
/// order of their writes; where a server's are not, nothing is said.
pub fn is_older(one: &ObjectMeta, other: &ObjectMeta) -> bool {
    let number = |meta: &ObjectMeta| meta.resource_version.as_ref()?.parse::<u64>().ok();
    let numbers = number(one).zip(number(other));
    numbers.is_some_and(|(one, other)| one < other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_numbers() {
        let of = |version: &str| ObjectMeta {
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        };
        assert!(is_older(&of("99"), &of("100")), "numbers, not texts");
        assert!(!is_older(&of("100"), &of("100")));
        assert!(!is_older(&of("101"), &of("100")));
        assert!(!is_older(&of("a"), &of("b")));
    }
}
