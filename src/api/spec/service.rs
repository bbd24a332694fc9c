//! The Service under which clients call a model.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The Service under which clients call the model, from the first version to the last.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ModelService {
    /// Its name, a DNS label of at most 63 characters that starts with a letter; the
    /// ModelDeployment's where absent. After a change, the Service of the old name is deleted 30
    /// seconds after the new one has taken its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("spec.service.name: expected at most 63 small letters, digits and dashes, a \
            letter first and no dash last"))]
    pub name: Option<String>,

    /// Its ports, 1 to 8. All of them lead to the same router. One port `http`, 80, where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    #[x_kube(validation = Rule::new("self.all(a, self.filter(b, b.name == a.name).size() == 1)")
        .message("spec.service.ports: two ports have the same name; rename one"))]
    #[x_kube(validation = Rule::new("self.all(a, self.filter(b, b.port == a.port).size() == 1)")
        .message("spec.service.ports: two ports have the same number; change one"))]
    pub ports: Vec<ModelServicePort>,
}

/// One port of the model's Service.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ModelServicePort {
    /// Its name, unique within the Service: a DNS label of at most 63 characters.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("spec.service.ports[].name: expected at most 63 small letters, digits and \
            dashes, with a letter or digit at both ends"))]
    pub name: String,

    /// Its number, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// The protocol that clients speak, for gateways and meshes: `kubernetes.io/h2c` for gRPC and
    /// HTTP/2 without TLS, `kubernetes.io/ws`, or another one that they know. HTTP/1.1 where
    /// absent, as far as they ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^([a-z0-9]([-.a-z0-9]*[a-z0-9])?/)\
        ?[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$')")
        .message("spec.service.ports[].appProtocol: expected a protocol such as \
            kubernetes.io/h2c or http"))]
    pub app_protocol: Option<String>,
}

impl ModelService {
    /// The ports in force.
    pub fn ports(&self) -> Vec<ModelServicePort> {
        if self.ports.is_empty() {
            return vec![ModelServicePort {
                name: "http".to_owned(),
                port: 80,
                app_protocol: None,
            }];
        }
        self.ports.clone()
    }
}
