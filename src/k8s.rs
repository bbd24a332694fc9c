//! Kubernetes types that the `k8s-openapi` of this build does not have.

pub mod endpoint_slice;

pub use endpoint_slice::{EndpointSlice, SliceApi};
