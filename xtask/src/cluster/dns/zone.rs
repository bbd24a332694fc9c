//! What the cluster's names mean, by Kubernetes' DNS specification: a pure function of Services and Endpoints.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_server::proto::rr::rdata::{CNAME, PTR, SRV};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};

use crate::cluster::config::DOMAIN;

/// How long an answer may be kept, in seconds: as long as in other clusters.
pub const TTL: u32 = 5;

/// The longest chain of aliases that is followed.
const MAX_ALIASES: usize = 8;

/// What there is of a name.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// These records; an alias comes before what it stands for.
    Records(Vec<Record>),
    /// The name is there, with nothing of the type asked for.
    NoData,
    /// No such name.
    Unknown,
}

/// The objects that have names.
#[derive(Debug, Default)]
pub struct Zone {
    /// Every Service.
    pub services: Vec<Arc<Service>>,
    /// The Endpoints of every Service.
    pub endpoints: Vec<Arc<Endpoints>>,
}

impl Zone {
    /// The answer to one question. Names outside the cluster are unknown: nothing outside can be reached.
    pub fn answer(&self, name: &Name, kind: RecordType) -> Answer {
        let mut records = Vec::new();
        let mut current = name.clone();
        for _ in 0..MAX_ALIASES {
            let Some(all) = self.records(&current) else {
                // The alias of an unknown name is an answer still.
                return if records.is_empty() {
                    Answer::Unknown
                } else {
                    Answer::Records(records)
                };
            };
            let alias = all.iter().find_map(|data| match data {
                RData::CNAME(target) if kind != RecordType::CNAME => Some(target.0.clone()),
                _ => None,
            });
            records.extend(
                all.into_iter()
                    .filter(|data| {
                        kind == RecordType::ANY
                            || data.record_type() == kind
                            || data.record_type() == RecordType::CNAME
                    })
                    .map(|data| Record::from_rdata(current.clone(), TTL, data)),
            );
            match alias {
                Some(target) => current = target,
                None => break,
            }
        }
        if records.is_empty() {
            Answer::NoData
        } else {
            Answer::Records(records)
        }
    }

    /// Everything that there is of a name; `None` if there is no such name, nor one below it.
    fn records(&self, name: &Name) -> Option<Vec<RData>> {
        let text = name.to_lowercase().to_utf8();
        let text = text.trim_end_matches('.');
        if text.ends_with(".in-addr.arpa") || text.ends_with(".ip6.arpa") {
            let address = name.parse_arpa_name().ok()?.addr();
            let pointers = self.pointers(address);
            return (!pointers.is_empty()).then_some(pointers);
        }
        let labels: Vec<&str> = match text.strip_suffix(DOMAIN)? {
            "" => Vec::new(),
            below => below.strip_suffix('.')?.split('.').collect(),
        };
        match labels.as_slice() {
            [] | ["svc"] => Some(Vec::new()),
            [namespace, "svc"] => self
                .services
                .iter()
                .any(|service| service.metadata.namespace.as_deref() == Some(namespace))
                .then(Vec::new),
            [service, namespace, "svc"] => {
                Some(self.service_records(self.service(namespace, service)?))
            }
            ["_tcp" | "_udp", service, namespace, "svc"] => {
                self.service(namespace, service).map(|_| Vec::new())
            }
            [
                port,
                protocol @ ("_tcp" | "_udp"),
                service,
                namespace,
                "svc",
            ] => self.port_records(
                self.service(namespace, service)?,
                port.strip_prefix('_')?,
                &protocol[1..],
            ),
            [host, service, namespace, "svc"] => {
                let service = self.service(namespace, service)?;
                let found: Vec<RData> = self
                    .headless_addresses(service)
                    .filter(|address| host_name(address) == *host)
                    .filter_map(|address| address_record(&address.ip))
                    .collect();
                (!found.is_empty()).then_some(found)
            }
            _ => None,
        }
    }

    fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services
            .iter()
            .find(|service| {
                service.metadata.name.as_deref() == Some(name)
                    && service.metadata.namespace.as_deref() == Some(namespace)
            })
            .map(AsRef::as_ref)
    }

    fn service_records(&self, service: &Service) -> Vec<RData> {
        if let Some(target) = external_name(service) {
            return Name::from_utf8(format!("{}.", target.trim_end_matches('.')))
                .map(|name| vec![RData::CNAME(CNAME(name))])
                .unwrap_or_default();
        }
        let own: Vec<RData> = cluster_addresses(service)
            .filter_map(address_record)
            .collect();
        if !own.is_empty() {
            return own;
        }
        self.headless_addresses(service)
            .filter_map(|address| address_record(&address.ip))
            .collect()
    }

    /// `_http._tcp.web…`: where the port is served. A headless Service has one record a pod.
    fn port_records(&self, service: &Service, port: &str, protocol: &str) -> Option<Vec<RData>> {
        let found = service
            .spec
            .as_ref()?
            .ports
            .as_ref()?
            .iter()
            .find(|candidate| {
                candidate.name.as_deref() == Some(port)
                    && candidate
                        .protocol
                        .as_deref()
                        .unwrap_or("TCP")
                        .eq_ignore_ascii_case(protocol)
            })?;
        let name = service_name(service)?;
        if cluster_addresses(service).next().is_some() {
            return Some(vec![srv(found.port, name)]);
        }
        let records = self
            .endpoints_of(service)?
            .subsets
            .iter()
            .flatten()
            .flat_map(|subset| {
                let number = subset
                    .ports
                    .iter()
                    .flatten()
                    .find(|candidate| candidate.name.as_deref() == Some(port))
                    .map_or(found.port, |candidate| candidate.port);
                subset
                    .addresses
                    .iter()
                    .flatten()
                    .map(move |address| (number, address))
            })
            .filter_map(|(number, address)| Some(srv(number, endpoint_name(address, &name)?)))
            .collect();
        Some(records)
    }

    fn endpoints_of(&self, service: &Service) -> Option<&Endpoints> {
        self.endpoints
            .iter()
            .find(|endpoints| {
                endpoints.metadata.name == service.metadata.name
                    && endpoints.metadata.namespace == service.metadata.namespace
            })
            .map(AsRef::as_ref)
    }

    /// The ready addresses of a Service that has none of its own.
    fn headless_addresses<'a>(
        &'a self,
        service: &Service,
    ) -> impl Iterator<Item = &'a EndpointAddress> {
        let headless =
            external_name(service).is_none() && cluster_addresses(service).next().is_none();
        headless
            .then(|| self.endpoints_of(service))
            .flatten()
            .into_iter()
            .flat_map(|endpoints| endpoints.subsets.iter().flatten())
            .flat_map(|subset| subset.addresses.iter().flatten())
    }

    fn pointers(&self, address: IpAddr) -> Vec<RData> {
        let is_it = |text: &str| text.parse() == Ok(address);
        self.services
            .iter()
            .filter_map(|service| {
                let name = service_name(service)?;
                if cluster_addresses(service).any(is_it) {
                    return Some(name);
                }
                self.headless_addresses(service)
                    .find(|endpoint| is_it(&endpoint.ip))
                    .and_then(|endpoint| endpoint_name(endpoint, &name))
            })
            .map(|name| RData::PTR(PTR(name)))
            .collect()
    }
}

fn external_name(service: &Service) -> Option<&str> {
    let spec = service.spec.as_ref()?;
    (spec.type_.as_deref() == Some("ExternalName")).then_some(spec.external_name.as_deref()?)
}

/// The Service's own addresses; none if it is headless.
fn cluster_addresses(service: &Service) -> impl Iterator<Item = &str> {
    let spec = service.spec.as_ref();
    let all = spec.and_then(|spec| spec.cluster_ips.as_deref());
    let one = spec.and_then(|spec| spec.cluster_ip.as_ref());
    all.unwrap_or(one.map(std::slice::from_ref).unwrap_or_default())
        .iter()
        .map(String::as_str)
        .filter(|address| !address.is_empty() && *address != "None")
}

fn service_name(service: &Service) -> Option<Name> {
    let (name, namespace) = (
        service.metadata.name.as_ref()?,
        service.metadata.namespace.as_ref()?,
    );
    Name::from_utf8(format!("{name}.{namespace}.svc.{DOMAIN}.")).ok()
}

/// The name of one pod of a headless Service: its host name where it has one, else its address with dashes.
fn host_name(address: &EndpointAddress) -> String {
    address
        .hostname
        .clone()
        .unwrap_or_else(|| address.ip.replace(['.', ':'], "-"))
}

fn endpoint_name(address: &EndpointAddress, service: &Name) -> Option<Name> {
    Name::from_utf8(format!("{}.{service}", host_name(address))).ok()
}

fn address_record(address: &str) -> Option<RData> {
    Some(match address.parse().ok()? {
        IpAddr::V4(address) => RData::A(address.into()),
        IpAddr::V6(address) => RData::AAAA(address.into()),
    })
}

fn srv(port: i32, target: Name) -> RData {
    RData::SRV(SRV::new(
        0,
        100,
        u16::try_from(port).unwrap_or_default(),
        target,
    ))
}

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
