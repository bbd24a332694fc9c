//! Checks of the Service under which clients call a model.

use super::{Invalid, invalid, is_label, is_service_name};
use crate::api::{ModelDeployment, ModelServicePort};

/// Checks name and ports of the Service.
pub(super) fn check_service(model: &ModelDeployment, errors: &mut Vec<Invalid>) {
    let service = &model.spec.service;
    if let Some(name) = &service.name {
        if name.len() > 63 || !is_service_name(name) {
            errors.push(invalid(
                "spec.service.name",
                "expected at most 63 small letters, digits and dashes, a letter first and no dash \
                 last",
            ));
        } else if is_of_a_version(name, model.metadata.name.as_deref().unwrap_or_default()) {
            errors.push(invalid(
                "spec.service.name",
                "`<name>-<8 hex digits>` is the name of a version's Service; choose another",
            ));
        }
    }
    let ports = &service.ports;
    if ports.len() > 8 {
        errors.push(invalid("spec.service.ports", "expected 1 to 8 ports"));
    }
    let is_twice = |same: fn(&ModelServicePort, &ModelServicePort) -> bool| {
        let pairs = ports.iter().enumerate();
        pairs
            .into_iter()
            .any(|(index, port)| ports[..index].iter().any(|other| same(port, other)))
    };
    if is_twice(|port, other| port.name == other.name) {
        errors.push(invalid(
            "spec.service.ports",
            "two ports have the same name; rename one",
        ));
    }
    if is_twice(|port, other| port.port == other.port) {
        errors.push(invalid(
            "spec.service.ports",
            "two ports have the same number; change one",
        ));
    }
    for (index, port) in ports.iter().enumerate() {
        let mut wrong = |member: &str, remedy: &str| {
            errors.push(invalid(
                format!("spec.service.ports[{index}].{member}"),
                remedy,
            ));
        };
        if port.name.len() > 63 || !is_label(&port.name) {
            wrong(
                "name",
                "expected at most 63 small letters, digits and dashes, with a letter or digit at \
                 both ends",
            );
        }
        if !(1..=65535).contains(&port.port) {
            wrong("port", "expected a port from 1 to 65535");
        }
        if port
            .app_protocol
            .as_deref()
            .is_some_and(|protocol| !is_protocol(protocol))
        {
            wrong(
                "appProtocol",
                "expected a protocol such as kubernetes.io/h2c or http",
            );
        }
    }
}

/// Whether a name is that of a Service of one of the model's versions.
fn is_of_a_version(name: &str, model: &str) -> bool {
    let revision = name
        .strip_prefix(model)
        .and_then(|rest| rest.strip_prefix('-'));
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    revision.is_some_and(|revision| revision.len() == 8 && revision.bytes().all(hex))
}

/// Whether a text can be an `appProtocol`: a name of at most 63 characters, after DOMAIN/ or not.
fn is_protocol(protocol: &str) -> bool {
    let (domain, name) = match protocol.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, protocol),
    };
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    protocol.len() <= 253
        && name.len() <= 63
        && name.bytes().all(inner)
        && edge(name.chars().next())
        && edge(name.chars().last())
        && domain.is_none_or(super::is_object_name)
}
