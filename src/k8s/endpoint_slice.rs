//! EndpointSlices of `discovery.k8s.io/v1` and, before Kubernetes 1.21, `v1beta1`: the fields that both share.

use std::{borrow::Cow, net::IpAddr};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Client, Resource};
use serde::{Deserialize, Serialize};

/// Label by which a slice names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Label by which a slice names the controller that keeps it.
pub const SLICE_MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";

/// The API version of EndpointSlices that the server has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SliceApi {
    /// `discovery.k8s.io/v1`, since Kubernetes 1.21.
    #[default]
    V1,
    /// `discovery.k8s.io/v1beta1`, until Kubernetes 1.24.
    V1Beta1,
}

impl SliceApi {
    /// Asks the API server.
    pub async fn discover(client: &Client) -> Result<Self, kube::Error> {
        let groups = client.list_api_groups().await?;
        let discovery = groups
            .groups
            .iter()
            .find(|group| group.name == "discovery.k8s.io");
        let has_v1 = discovery
            .is_none_or(|group| group.versions.iter().any(|version| version.version == "v1"));
        Ok(if has_v1 { Self::V1 } else { Self::V1Beta1 })
    }

    /// The version's name within the group.
    pub fn version(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1Beta1 => "v1beta1",
        }
    }

    /// The `apiVersion` of an object.
    pub fn api_version(self) -> String {
        format!("discovery.k8s.io/{}", self.version())
    }
}

/// Where a Service's traffic can go.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// `discovery.k8s.io/v1` or `/v1beta1`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// `EndpointSlice`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Name, labels, owner.
    pub metadata: ObjectMeta,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: String,
    /// The endpoints; the API server leaves an empty list out.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub endpoints: Vec<Endpoint>,
    /// The ports of every endpoint.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub ports: Vec<EndpointPort>,
}

/// One endpoint.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Addresses, all of the same endpoint; the first counts.
    pub addresses: Vec<String>,
    /// Its readiness.
    #[serde(default)]
    pub conditions: EndpointConditions,
    /// The pod behind it, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<EndpointTarget>,
}

/// The object behind an endpoint.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointTarget {
    /// Its name.
    #[serde(default)]
    pub name: String,
}

/// An endpoint's readiness.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointConditions {
    /// Whether it takes traffic; absent means yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
}

/// One port.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointPort {
    /// The Service port's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    /// `TCP` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

impl EndpointSlice {
    /// The Service that it belongs to.
    pub fn service(&self) -> Option<&str> {
        self.metadata
            .labels
            .as_ref()?
            .get(SERVICE_NAME_LABEL)
            .map(String::as_str)
    }

    /// Addresses of the endpoints that take traffic.
    pub fn ready_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let ready = |endpoint: &&Endpoint| endpoint.conditions.ready != Some(false);
        self.endpoints
            .iter()
            .filter(ready)
            .filter_map(|endpoint| endpoint.addresses.first()?.parse().ok())
    }
}

impl Resource for EndpointSlice {
    type DynamicType = SliceApi;
    type Scope = kube::core::DynamicResourceScope;

    fn kind(_: &SliceApi) -> Cow<'_, str> {
        "EndpointSlice".into()
    }
    fn group(_: &SliceApi) -> Cow<'_, str> {
        "discovery.k8s.io".into()
    }
    fn version(api: &SliceApi) -> Cow<'_, str> {
        api.version().into()
    }
    fn plural(_: &SliceApi) -> Cow<'_, str> {
        "endpointslices".into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

fn null_as_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
