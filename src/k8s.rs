//! Kubernetes types that the `k8s-openapi` of this build does not have.

pub mod endpoint_slice;

pub use endpoint_slice::{EndpointSlice, SliceApi};

/// Whether the API server refused a request with this HTTP status code.
pub fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}
