//! The routers' ports: each model has one, from its first status until it is deleted.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
    sync::Arc,
};

use kube::ResourceExt;
use parking_lot::Mutex;

use crate::api::ModelDeployment;

/// Ports that routers listen on. Linux uses 32768–60999 for outgoing connections: one of a router
/// could take the port of a model. Below the range are the ports of Envoy itself (9901, 9902) and
/// of Istio's sidecar (15000–15090). A model whose port is from an older release (20000–59999)
/// keeps it: a move would refuse connections for a moment.
const PORTS: Range<u16> = 16_000..32_000;

/// Allocates ports. A status is authoritative; this remembers ports that the caches do not show
/// yet.
#[derive(Debug, Default)]
pub struct Ports {
    given: Mutex<HashMap<(String, String), u16>>,
}

impl Ports {
    /// A port that no other of the `models` has: the one that the name hashes to, or the next free
    /// one. `None` if all 16,000 are taken. `models` is called under the lock, so that each port is
    /// either in a status or remembered here.
    pub fn free(
        &self,
        model: &ModelDeployment,
        models: impl FnOnce() -> Vec<Arc<ModelDeployment>>,
    ) -> Option<u16> {
        let key = model.key();
        let mut given = self.given.lock();
        let models = models();
        given.retain(|name, _| {
            models
                .iter()
                .any(|other| other.key() == *name && port_of(other).is_none())
        });
        let persisted = models
            .iter()
            .filter(|other| other.key() != key)
            .filter_map(|other| port_of(other));
        let promised = given.iter().filter(|(name, _)| **name != key);
        let used: HashSet<u16> = persisted.chain(promised.map(|(_, port)| *port)).collect();
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let start = PORTS.start + (hasher.finish() % (PORTS.len() as u64)) as u16;
        let port = (start..PORTS.end)
            .chain(PORTS.start..start)
            .find(|port| !used.contains(port))?;
        given.insert(key, port);
        Some(port)
    }

    /// Forgets a model that is gone.
    pub fn forget(&self, model: &(String, String)) {
        self.given.lock().remove(model);
    }
}

/// Whether an older one of the `models` has the same port, since two leaders allocated it at the
/// same time. The younger model moves.
pub fn is_taken(port: u16, model: &ModelDeployment, models: &[Arc<ModelDeployment>]) -> bool {
    let age = |model: &ModelDeployment| (model.creation_timestamp(), model.uid());
    models.iter().any(|other| {
        other.uid() != model.uid() && port_of(other) == Some(port) && age(other) < age(model)
    })
}

fn port_of(model: &ModelDeployment) -> Option<u16> {
    model.status.as_ref()?.state.listener_port
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn model(name: &str, port: Option<u16>, created: &str) -> Arc<ModelDeployment> {
        let mut model: ModelDeployment = serde_json::from_value(json!({
            "apiVersion": "serin.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {
                "name": name, "namespace": "ml", "uid": name, "creationTimestamp": created,
            },
            "spec": {
                "model": {
                    "uri": "pvc://models/m", "version": "1", "digest": format!("sha256:{:064}", 1),
                },
                "objectives": [{"name": "errors", "errorRate": {"max": "1%"}}],
            },
        }))
        .unwrap();
        if let Some(port) = port {
            model.status.get_or_insert_default().state.listener_port = Some(port);
        }
        Arc::new(model)
    }

    fn young(name: &str, port: Option<u16>) -> Arc<ModelDeployment> {
        model(name, port, "2026-11-02T00:00:00Z")
    }

    #[test]
    fn a_name_has_its_port_and_a_later_one_the_next() {
        let churn = young("churn", None);
        let port = Ports::default()
            .free(&churn, || vec![churn.clone()])
            .unwrap();
        assert!(PORTS.contains(&port));
        let again = Ports::default()
            .free(&churn, || vec![churn.clone()])
            .unwrap();
        assert_eq!(again, port);
        let other = young("other", Some(port));
        let next = Ports::default().free(&churn, || vec![churn.clone(), other]);
        assert_eq!(
            next,
            Some(if port + 1 < PORTS.end {
                port + 1
            } else {
                PORTS.start
            })
        );
    }

    #[test]
    fn a_port_is_remembered_until_the_status_has_one_or_the_model_is_gone() {
        let churn = young("churn", None);
        let is_promised_beside = |models: &[Arc<ModelDeployment>]| {
            let (ports, other) = (Ports::default(), young("other", None));
            ports.free(&churn, || vec![churn.clone()]).unwrap();
            let all = [models, std::slice::from_ref(&other)].concat();
            ports.free(&other, || all).unwrap();
            ports.given.lock().contains_key(&churn.key())
        };
        assert!(is_promised_beside(std::slice::from_ref(&churn)));
        assert!(!is_promised_beside(&[young("churn", Some(16_000))]));
        assert!(!is_promised_beside(&[]));
    }

    #[test]
    fn no_model_gets_a_port_of_outgoing_connections() {
        let all = (0..400).map(|number| young(&format!("m{number}"), None));
        let (ports, all) = (Ports::default(), all.collect::<Vec<_>>());
        let given: HashSet<u16> = all
            .iter()
            .map(|model| ports.free(model, || all.clone()).unwrap())
            .collect();
        assert_eq!(given.len(), all.len());
        assert!(given.iter().all(|port| *port < 32_768), "{given:?}");
    }

    #[test]
    fn of_two_models_with_one_port_the_younger_moves() {
        let old = model("old", Some(20_001), "2026-11-01T00:00:00Z");
        let young = young("young", Some(20_001));
        let models = [old.clone(), young.clone()];
        assert!(is_taken(20_001, &young, &models));
        assert!(!is_taken(20_001, &old, &models));
        assert!(!is_taken(20_002, &young, &models));
    }
}
