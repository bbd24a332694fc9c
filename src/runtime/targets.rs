//! What Prometheus scrapes, in the form of its HTTP service discovery.
//!
//! The bundled Prometheus asks the operator, so it needs no access to the API server, and finds a new version's pods as
//! soon as the operator knows them. While the operator is away, Prometheus keeps the targets that it has.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;

use crate::api::REVISION_LABEL;

/// The path under which the operator serves its targets.
pub const PATH: &str = "/targets";

/// The container port of a version's metrics.
const SERVING_PORT: &str = "http";
/// The port of a router's metrics, and their path there.
const ROUTER_PORT: u16 = 9902;
const ROUTER_PATH: &str = "/stats/prometheus";

/// One process to scrape: an element of the list that Prometheus reads.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
pub struct Target {
    targets: [String; 1],
    labels: BTreeMap<&'static str, String>,
}

impl Target {
    /// A router: a pod of `namespace` behind the router's Service.
    pub fn router(namespace: &str, pod: &str, ip: &str) -> Self {
        Self::new("serin-router", namespace, pod, ip, ROUTER_PORT)
            .with("__metrics_path__", ROUTER_PATH)
    }

    /// A pod of a version; `None` while it does not run, or if it has no port for metrics.
    pub fn serving(pod: &Pod) -> Option<Self> {
        let metadata = &pod.metadata;
        let status = pod.status.as_ref()?;
        if status.phase.as_deref() != Some("Running") {
            return None;
        }
        let ip = status.pod_ip.as_deref()?;
        let containers = &pod.spec.as_ref()?.containers;
        let port = containers
            .iter()
            .flat_map(|container| container.ports.iter().flatten())
            .find(|port| port.name.as_deref() == Some(SERVING_PORT))?;
        let port = u16::try_from(port.container_port).ok()?;
        let namespace = metadata.namespace.as_deref()?;
        let name = metadata.name.as_deref()?;
        let revision = metadata.labels.as_ref()?.get(REVISION_LABEL)?;
        Some(Self::new("serin-serving", namespace, name, ip, port).with("revision", revision))
    }

    fn new(job: &str, namespace: &str, pod: &str, ip: &str, port: u16) -> Self {
        // An IPv6 address is told from its port by brackets.
        let address = if ip.contains(':') {
            format!("[{ip}]:{port}")
        } else {
            format!("{ip}:{port}")
        };
        Self {
            targets: [address],
            labels: BTreeMap::new(),
        }
        .with("job", job)
        .with("namespace", namespace)
        .with("pod", pod)
    }

    fn with(mut self, label: &'static str, value: &str) -> Self {
        self.labels.insert(label, value.to_owned());
        self
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    fn pod(phase: &str) -> Pod {
        from_value(json!({
            "metadata": {"namespace": "ml", "name": "iris-1a2b3c4d-x", "labels": {"serin.dev/revision": "1a2b3c4d"}},
            "spec": {"containers": [
                {"name": "proxy"},
                {"name": "model", "ports": [{"name": "http", "containerPort": 8080}]},
            ]},
            "status": {"phase": phase, "podIP": "10.244.0.7"},
        }))
        .unwrap()
    }

    #[test]
    fn a_running_pod_is_scraped_with_its_revision() {
        let target = Target::serving(&pod("Running")).unwrap();
        let expected = json!({
            "targets": ["10.244.0.7:8080"],
            "labels": {"job": "serin-serving", "namespace": "ml", "pod": "iris-1a2b3c4d-x", "revision": "1a2b3c4d"},
        });
        assert_eq!(to_value(target).unwrap(), expected);
    }

    #[test]
    fn a_pod_that_does_not_run_is_not_scraped() {
        for phase in ["Pending", "Succeeded", "Failed"] {
            assert_eq!(Target::serving(&pod(phase)), None, "{phase}");
        }
    }

    #[test]
    fn a_router_is_scraped_at_envoys_path() {
        let target = Target::router("serin-system", "serin-router-x", "fd00::7");
        let expected = json!({
            "targets": ["[fd00::7]:9902"],
            "labels": {
                "__metrics_path__": "/stats/prometheus",
                "job": "serin-router", "namespace": "serin-system", "pod": "serin-router-x",
            },
        });
        assert_eq!(to_value(target).unwrap(), expected);
    }
}
