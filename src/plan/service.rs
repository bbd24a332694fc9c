//! The model's one stable name, and the way from it to the routers.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::{
    api::{
        core::v1::{Service, ServicePort, ServiceSpec},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use kube::ResourceExt;

use super::{
    Maker, model_labels,
    names::{router_slice_name, version_labels, version_name, version_selector},
    version::HTTP_PORT_NAME,
};
use crate::{
    api::{Revision, VersionSpec},
    k8s::{SERVICE_NAME_LABEL, SLICE_MANAGED_BY_LABEL},
};

/// Port of the model's stable Service.
const STABLE_PORT: i32 = 80;

impl Maker<'_> {
    /// The Service that clients use from the first version to the last. It selects no pods: its endpoints are the
    /// routers, in another namespace, on the port that they keep for this model.
    pub(super) fn stable_service(&self) -> Service {
        let name = self.model.name_any();
        Service {
            metadata: self.metadata(name.clone(), model_labels(&name)),
            spec: Some(ServiceSpec {
                ports: Some(vec![ServicePort {
                    name: Some(HTTP_PORT_NAME.to_owned()),
                    port: STABLE_PORT,
                    protocol: Some("TCP".to_owned()),
                    target_port: Some(IntOrString::Int(STABLE_PORT)),
                    ..ServicePort::default()
                }]),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        }
    }

    /// The stable Service's endpoints; `None` while no router is ready: the last ones are better than none.
    pub(super) fn router_slice(
        &self,
        port: u16,
        routers: &BTreeSet<IpAddr>,
    ) -> Option<EndpointSlice> {
        let name = self.model.name_any();
        let ipv4: Vec<_> = routers.iter().filter(|address| address.is_ipv4()).collect();
        let (address_type, addresses) = if ipv4.is_empty() {
            ("IPv6", routers.iter().collect())
        } else {
            ("IPv4", ipv4)
        };
        if addresses.is_empty() {
            return None;
        }
        let mut labels = model_labels(&name);
        labels.insert(SERVICE_NAME_LABEL.to_owned(), name.clone());
        labels.insert(
            SLICE_MANAGED_BY_LABEL.to_owned(),
            crate::api::GROUP.to_owned(),
        );
        let endpoints = addresses.into_iter().map(|address| Endpoint {
            addresses: vec![address.to_string()],
            conditions: Some(EndpointConditions {
                ready: Some(true),
                ..EndpointConditions::default()
            }),
            ..Endpoint::default()
        });
        Some(EndpointSlice {
            metadata: self.metadata(router_slice_name(&name), labels),
            address_type: address_type.to_owned(),
            endpoints: Some(endpoints.collect()),
            ports: Some(vec![EndpointPort {
                name: Some(HTTP_PORT_NAME.to_owned()),
                port: Some(i32::from(port)),
                protocol: Some("TCP".to_owned()),
                ..EndpointPort::default()
            }]),
        })
    }

    /// A version's own Service: headless, since only its endpoints are wanted, by the router and by people who debug.
    pub(super) fn version_service(&self, revision: &Revision, version: &VersionSpec) -> Service {
        let model = self.model.name_any();
        let port = version.serving.port.unwrap_or(super::version::DEFAULT_PORT);
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

    /// Name, namespace, labels, and the owner whose deletion takes the object along.
    pub(super) fn metadata(
        &self,
        name: String,
        labels: std::collections::BTreeMap<String, String>,
    ) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: self.model.namespace(),
            labels: Some(labels),
            owner_references: Some(vec![self.owner.clone()]),
            ..ObjectMeta::default()
        }
    }
}
