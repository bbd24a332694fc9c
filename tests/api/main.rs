//! The operator against a real API server: etcd and kube-apiserver, and nothing else of Kubernetes.
//!
//! The tests simulate the rest of a cluster: the Deployment and EndpointSlice controllers and the
//! kubelet ([`player`]), and the routers' counters ([`traffic`]). The operator runs in this
//! process, in a runtime of its own that can end as abruptly as a killed process does. Each test
//! has a namespace of its own.
//!
//! Needs `etcd` and `kube-apiserver`, and `kubectl` for one test, in `KUBEBUILDER_ASSETS`, else in
//! the cache of `cargo xtask cluster assets`, and Prometheus for some. Without them a test prints
//! why and passes.
#![allow(clippy::unwrap_used)]

mod defaults;
mod faults;
mod grants;
mod kustomize;
mod life;
mod manifests;
mod objectives;
mod objects;
mod operator;
mod player;
mod prometheus;
mod record;
mod recordings;
mod refusals;
mod rollouts;
mod server;
mod service;
mod traffic;
mod upgrade;
mod verbs;
mod world;
