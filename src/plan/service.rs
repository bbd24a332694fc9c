//! The Service of each version.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use kube::ResourceExt;

use super::ObjectBuilder;
use crate::{
    api::{Revision, VersionSpec},
    k8s::{HTTP_PORT_NAME, owned, version_labels, version_name, version_selector},
};

impl ObjectBuilder<'_> {
    /// Builds a version's Service. It is headless: the router and people who debug need only its
    /// endpoints.
    pub(super) fn version_service(&self, revision: &Revision, version: &VersionSpec) -> Service {
        let model = self.model.name_any();
        let port = version.serving.port();
        Service {
            metadata: self.metadata(
                version_name(&model, revision),
                version_labels(&model, revision),
            ),
            spec: Some(ServiceSpec {
                cluster_ip: Some("None".to_owned()),
                selector: Some(version_selector(&model, revision)),
                ports: Some(vec![ServicePort {
                    name: Some(HTTP_PORT_NAME.to_owned()),
                    port,
                    protocol: Some("TCP".to_owned()),
                    target_port: Some(IntOrString::Int(port)),
                    ..ServicePort::default()
                }]),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        }
    }

    /// Name, namespace, labels and owner, whose deletion deletes the object.
    pub(super) fn metadata(&self, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
        owned(self.model, &self.owner, name, labels)
    }
}
