//! What Prometheus scrapes, in the form of its HTTP service discovery.
//!
//! The bundled Prometheus asks the operator, so it needs no access to the API server, and it finds
//! a new version's pods as soon as the operator knows them. While the operator is away, Prometheus
//! keeps the targets that it has.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;

use super::HTTP_PORT_NAME;
use crate::api::REVISION_LABEL;

/// The path under which the operator serves its targets.
pub const PATH: &str = "/targets";

/// One process to scrape: an element of the list that Prometheus reads.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
pub struct Target {
    targets: [String; 1],
    labels: BTreeMap<&'static str, String>,
}

impl Target {
    /// A pod of a version. `None` while it does not run, or if it has no port for metrics.
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
            .find(|port| port.name.as_deref() == Some(HTTP_PORT_NAME))?;
        let port = u16::try_from(port.container_port).ok()?;
        let namespace = metadata.namespace.as_deref()?;
        let name = metadata.name.as_deref()?;
        let revision = metadata.labels.as_ref()?.get(REVISION_LABEL)?;
        Some(Self::new("serin-serving", namespace, name, ip, port).with("revision", revision))
    }

    /// A pod that is scraped under the name of a job.
    pub fn new(job: &str, namespace: &str, pod: &str, ip: &str, port: u16) -> Self {
        // Brackets separate an IPv6 address from its port.
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

    /// The same with one label more. Labels that begin with `__` are Prometheus' own settings.
    #[must_use]
    pub fn with(mut self, label: &'static str, value: &str) -> Self {
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
            "metadata": {
                "namespace": "ml", "name": "iris-1a2b3c4d-x",
                "labels": {"serin.dev/revision": "1a2b3c4d"},
            },
            "spec": {"containers": [
                {"name": "proxy"},
                {"name": "server", "ports": [{"name": "http", "containerPort": 8080}]},
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
            "labels": {
                "job": "serin-serving",
                "namespace": "ml", "pod": "iris-1a2b3c4d-x", "revision": "1a2b3c4d",
            },
        });
        assert_eq!(to_value(target).unwrap(), expected);
    }

    #[test]
    fn a_pod_that_does_not_run_is_not_scraped() {
        for phase in ["Pending", "Succeeded", "Failed"] {
            assert_eq!(Target::serving(&pod(phase)), None, "{phase}");
        }
    }
}
