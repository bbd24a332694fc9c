//! From persisted states and live endpoints to the routes of every model.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use kube::ResourceExt;
use kube_runtime::reflector::ObjectRef;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Backend, ControlPlane, ModelRoute, RouteKey, RouterModel};
use crate::{
    api::{ModelDeployment, Phase, RetiringVersion, Revision, State},
    k8s::{Stores, endpoints, in_force, is_child, known_versions},
    router::weights,
};

/// Changes that come together are published together.
const GATHER: Duration = Duration::from_millis(10);

/// Publishes the routes again after every change of the caches, until `stop`.
///
/// Every replica does so: the routes are a function of what is persisted, so all replicas publish
/// the same.
pub(super) async fn publish(
    stores: Stores,
    mut changes: watch::Receiver<u64>,
    plane: ControlPlane,
    stop: CancellationToken,
) {
    let mut published: Option<RouterModel> = None;
    changes.mark_changed();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            change = changes.changed() => {
                if change.is_err() {
                    return;
                }
                tokio::time::sleep(GATHER).await;
                changes.mark_unchanged();
                let model = routes(&stores);
                if published.as_ref() != Some(&model) {
                    plane.publish(&model);
                    published = Some(model);
                }
            }
        }
    }
}

/// The routes of all models that have a port and a version to send requests to.
pub fn routes(stores: &Stores) -> RouterModel {
    let models = stores.models.state();
    let mut routes = BTreeMap::new();
    for model in &models {
        let (namespace, name) = model.key();
        let found = |revision: &Revision| {
            endpoints(stores, &namespace, &name, revision)
                .into_iter()
                .map(SocketAddr::from)
                .collect()
        };
        let state = state_of(stores, model);
        if let Some(route) = state.and_then(|state| route(model, &state, found)) {
            routes.insert(RouteKey::new(namespace.clone(), name.clone()), route);
        }
    }
    RouterModel { routes }
}

/// The state that the route of a model follows: the persisted one. If the status was lost, the
/// state that can be rebuilt, so that the address keeps answering until the status is restored.
fn state_of(stores: &Stores, model: &ModelDeployment) -> Option<State> {
    let persisted = model.status.as_ref().map(|status| &status.state);
    let names_one = |state: &&State| state.stable.is_some() || state.phase.is_without_traffic();
    match persisted.filter(names_one) {
        Some(state) => Some(state.clone()),
        None => remains(stores, model),
    }
}

/// Name of the EndpointSlice by which a Service leads to the routers.
pub(super) fn router_slice_name(service: &str) -> String {
    format!("{service}-router")
}

/// The port on which routers listen for a model, by its EndpointSlice.
pub(super) fn listener_port(stores: &Stores, model: &ModelDeployment) -> Option<u16> {
    let namespace = model.namespace().unwrap_or_default();
    let names = [model.service_name(), model.name_any()].map(|service| {
        let name = router_slice_name(&service);
        [format!("{name}-ipv6"), name]
    });
    let mut slices = names
        .iter()
        .flatten()
        .filter_map(|name| stores.slices.get(&ObjectRef::new(name).within(&namespace)));
    let slice = slices.find(|slice| is_child(&**slice, model))?;
    let port = slice.ports.as_ref()?.first()?.port?;
    u16::try_from(port).ok()
}

/// A state rebuilt from the history and the EndpointSlice after the status was lost: the version in
/// force has all traffic, and the others stay without weight, so that their requests complete.
/// `None` where there is no trace of an earlier state.
fn remains(stores: &Stores, model: &ModelDeployment) -> Option<State> {
    let known = known_versions(stores, model);
    let stable = in_force(&known)?;
    let listener_port = Some(listener_port(stores, model)?);
    let others = known.into_keys().filter(|other| *other != stable.revision);
    let retiring = others.map(|revision| RetiringVersion {
        revision,
        scale_down_at: jiff::Timestamp::MAX,
        stable_until: None,
    });
    Some(State {
        phase: Phase::Stable,
        retiring: retiring.collect(),
        stable: Some(stable),
        listener_port,
        ..State::default()
    })
}

/// One model's route: its weights as persisted. A canary without endpoints gets none.
fn route(
    model: &ModelDeployment,
    state: &State,
    endpoints: impl Fn(&Revision) -> Vec<SocketAddr>,
) -> Option<ModelRoute> {
    if state.stable.is_none() && !state.phase.is_without_traffic() {
        return None;
    }
    let has_endpoints = |revision: &Revision| !endpoints(revision).is_empty();
    let backends = weights(state, has_endpoints).into_iter();
    let backends = backends.map(|(revision, weight)| Backend {
        endpoints: endpoints(&revision),
        revision: revision.to_string(),
        weight,
    });
    Some(ModelRoute {
        port: state.listener_port?,
        backends: backends.collect(),
        timeout: model.spec.traffic.envoy.unwrap_or_default().timeout.into(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn model(canary: Option<u8>) -> ModelDeployment {
        let canary = canary.map(|weight| {
            json!({
                "revision": "cccccccc", "version": "2", "weight": weight,
                "since": "2026-01-01T00:00:00Z",
            })
        });
        serde_json::from_value(json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "churn", "namespace": "ml"},
            "spec": {
                "model": {"uri": "file:///m", "version": "1", "digest": "sha256:0"},
                "objectives": [{"name": "errors", "errorRate": {"max": "1%"}}],
            },
            "status": {
                "phase": "Canary", "listenerPort": 20001,
                "stable": {"revision": "aaaaaaaa", "version": "1"},
                "canary": canary,
                "retiring": [{"revision": "dddddddd", "scaleDownAt": "2026-01-01T00:00:00Z"}],
            },
        }))
        .unwrap()
    }

    fn weights(canary: Option<u8>, canary_has_endpoints: bool) -> Vec<(String, u8)> {
        let endpoints = |revision: &Revision| {
            if revision.0 == "cccccccc" && !canary_has_endpoints {
                Vec::new()
            } else {
                vec!["10.0.0.1:8080".parse().unwrap()]
            }
        };
        let model = model(canary);
        let state = &model.status.as_ref().unwrap().state;
        let route = route(&model, state, endpoints).unwrap();
        route
            .backends
            .into_iter()
            .map(|backend| (backend.revision, backend.weight))
            .collect()
    }

    #[test]
    fn weights_are_the_persisted_ones_and_sum_to_100() {
        let pair = |revision: &str, weight| (revision.to_owned(), weight);
        assert_eq!(
            weights(Some(25), true),
            [
                pair("cccccccc", 25),
                pair("aaaaaaaa", 75),
                pair("dddddddd", 0)
            ]
        );
        assert_eq!(
            weights(None, true),
            [pair("aaaaaaaa", 100), pair("dddddddd", 0)]
        );
    }

    #[test]
    fn asleep_no_version_has_weight() {
        let mut model = model(None);
        let endpoints = |_: &Revision| vec!["10.0.0.1:8080".parse().unwrap()];
        for phase in [Phase::Asleep, Phase::Waking] {
            let state = &mut model.status.as_mut().unwrap().state;
            state.phase = phase;
            let state = state.clone();
            let route = route(&model, &state, endpoints).unwrap();
            assert!(route.backends.iter().all(|backend| backend.weight == 0));
        }
        // The address answers before any version has served.
        let state = &mut model.status.as_mut().unwrap().state;
        state.stable = None;
        let state = state.clone();
        assert_eq!(route(&model, &state, endpoints).unwrap().backends, []);
    }

    #[test]
    fn a_canary_without_endpoints_gets_nothing_whatever_its_weight() {
        assert_eq!(
            weights(Some(25), false)[..2],
            [("cccccccc".to_owned(), 0), ("aaaaaaaa".to_owned(), 100)]
        );
    }
}
