//! The values that are in force where a spec leaves a field out.

use super::{ModelDeployment, ModelDeploymentSpec, ModelService, Serving};

/// Port of a serving container that declares none.
const DEFAULT_PORT: i32 = 8080;
/// Where an image of the user's own finds the model, where no path is declared.
pub(super) const MOUNT_PATH: &str = "/mnt/models";

impl Serving {
    /// Port on which the container answers HTTP.
    pub fn port(&self) -> i32 {
        self.port.unwrap_or(DEFAULT_PORT)
    }
}

impl ModelDeployment {
    /// Returns the spec with the operator's defaults written out. What only the installation knows
    /// stays absent: the bundled image, and whether an image is it, which decides on the model's
    /// path.
    pub fn spec_in_force(&self) -> ModelDeploymentSpec {
        let mut spec = self.spec.clone();
        spec.serving.port = Some(spec.serving.port());
        spec.service = ModelService {
            name: Some(self.service_name()),
            ports: spec.service.ports(),
        };
        spec.traffic.envoy.get_or_insert_default();
        for objective in &mut spec.objectives {
            let gates = objective.gates();
            if gates.iter().any(|gate| gate.kind.counts_requests()) {
                objective.source.get_or_insert_default();
            }
        }
        spec
    }
}
