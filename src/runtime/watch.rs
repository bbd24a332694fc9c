//! The first stage: which kinds are watched.
//!
//! Every operator replica watches, since each serves the routers' configuration. Only the leader
//! acts on what is enqueued.

use kube::{Api, Client, Resource, core::NamespaceResourceScope};

use crate::{
    api::{MANAGED_BY_LABEL, MANAGER, MODEL_LABEL},
    k8s::{Concerned, Models, Pace, Stores, Watches},
    router::Registry,
};

/// Starts all watches: those of the models and their objects, in one namespace or in all, and those
/// of the routers.
pub fn start(client: &Client, namespace: Option<&str>, routers: &Registry) -> (Stores, Watches) {
    let ours = format!("{MANAGED_BY_LABEL}={MANAGER},{MODEL_LABEL}");
    let ours = Some(ours.as_str());
    let mut watches = Watches::of_models(client.clone(), api(client, namespace));
    for router in routers.all() {
        router.watch(&mut watches);
    }
    let stores = Stores {
        deployments: watches.watch(
            api(client, namespace),
            Pace::CALM,
            ours,
            Concerned::by_label,
        ),
        services: watches.watch(
            api(client, namespace),
            Pace::CALM,
            ours,
            Concerned::by_label,
        ),
        history: watches.watch(
            api(client, namespace),
            Pace::CALM,
            ours,
            Concerned::by_label,
        ),
        slices: watches.watch(
            api(client, namespace),
            Pace::ROUTED,
            ours,
            Concerned::by_label,
        ),
        pods: watches.watch(
            api(client, namespace),
            Pace::CALM,
            ours,
            Concerned::by_label,
        ),
        models: Models::new(watches.models().clone(), watches.changes().clone()),
    };
    (stores, watches)
}

/// The API of one kind, in the namespaces that are watched.
fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}
