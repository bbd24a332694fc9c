//! Kubernetes types that the `k8s-openapi` of this build does not have.

pub mod endpoint_slice;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use endpoint_slice::{EndpointSlice, SliceApi};

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
