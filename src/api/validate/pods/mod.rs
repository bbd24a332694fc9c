//! Checks of a version's pod settings, for objects that were stored before the schema had these
//! rules.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{EnvVar, ResourceRequirements, Toleration},
    apimachinery::pkg::api::resource::Quantity,
};

use super::{Invalid, invalid, is_object_name};
use crate::api::Serving;

const OBJECT: &str = "expected the name of an object of this namespace: small letters, digits, - \
                      and ., a letter or digit at both ends";
const AMOUNT: &str = "expected a quantity from 0 on, such as 500m, 2 or 4Gi";
const DATA_KEY: &str = "expected a key: letters, digits, -, _ and .";
const KEY: &str = "expected a key: at most 63 letters, digits, -, _ and ., after DOMAIN/ or not";
const VALUE: &str =
    "expected a value: at most 63 letters, digits, -, _ and ., a letter or digit at both ends";

/// Checks what goes into pods.
pub(super) fn check_pods(serving: &Serving, errors: &mut Vec<Invalid>) {
    let mut wrong = |field: &str, remedy: &str| {
        errors.push(invalid(format!("spec.serving.{field}"), remedy));
    };
    if serving
        .image
        .as_deref()
        .is_some_and(|image| !is_image(image))
    {
        wrong(
            "image",
            "expected [HOST[:PORT]/]REPOSITORY:TAG or @sha256: and 64 hex digits, the repository \
             in small letters",
        );
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    if serving
        .image_pull_policy
        .as_deref()
        .is_some_and(|policy| !policies.contains(&policy))
    {
        wrong("imagePullPolicy", "expected Always, IfNotPresent or Never");
    }
    if serving
        .service_account_name
        .as_deref()
        .is_some_and(|name| !is_object_name(name))
    {
        wrong("serviceAccountName", OBJECT);
    }
    let secrets = serving
        .image_pull_secrets
        .iter()
        .map(|secret| &*secret.name);
    for (index, secret) in secrets.clone().enumerate() {
        if !is_object_name(secret) {
            wrong(&format!("imagePullSecrets[{index}].name"), OBJECT);
        }
    }
    if let Some(name) = twice(secrets) {
        wrong(
            "imagePullSecrets",
            &format!("{name} is named twice; keep one"),
        );
    }
    for (index, variable) in serving.env.iter().enumerate() {
        if let Some((member, remedy)) = wrong_variable(variable) {
            wrong(&format!("env[{index}]{member}"), remedy);
        }
    }
    if let Some(name) = twice(serving.env.iter().map(|variable| &*variable.name)) {
        wrong(
            "env",
            &format!("the variable {name} is set twice; keep one"),
        );
    }
    if let Some(resources) = &serving.resources {
        check_resources(resources, &mut wrong);
    }
    for (key, value) in &serving.node_selector {
        if !is_qualified(key) {
            wrong(&format!("nodeSelector[{key}]"), KEY);
        }
        if !is_label_value(value) {
            wrong(&format!("nodeSelector[{key}]"), VALUE);
        }
    }
    for (index, toleration) in serving.tolerations.iter().enumerate() {
        if let Some((member, remedy)) = wrong_toleration(toleration) {
            wrong(&format!("tolerations[{index}]{member}"), remedy);
        }
    }
}

fn twice<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = BTreeSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

fn wrong_variable(variable: &EnvVar) -> Option<(&'static str, &'static str)> {
    let printable = |b: u8| (b' '..=b'~').contains(&b) && b != b'=';
    if variable.name.is_empty() || !variable.name.bytes().all(printable) {
        return Some((
            ".name",
            "expected the name of a variable: printable ASCII characters without =",
        ));
    }
    let from = variable.value_from.as_ref()?;
    if variable
        .value
        .as_deref()
        .is_some_and(|value| !value.is_empty())
    {
        return Some(("", "a variable has either a value or valueFrom; remove one"));
    }
    let sources = [
        from.secret_key_ref.is_some(),
        from.config_map_key_ref.is_some(),
        from.field_ref.is_some(),
        from.resource_field_ref.is_some(),
    ];
    if sources.into_iter().filter(|set| *set).count() != 1 {
        return Some((
            ".valueFrom",
            "set exactly one of secretKeyRef, configMapKeyRef, fieldRef and resourceFieldRef",
        ));
    }
    let field = from.field_ref.as_ref().map(|field| &*field.field_path);
    if field.is_some_and(|field| !is_pod_field(field)) {
        return Some((
            ".valueFrom.fieldRef.fieldPath",
            "expected a field that variables can have, such as metadata.name or status.podIP",
        ));
    }
    if let Some(resource) = &from.resource_field_ref {
        if !is_resource_field(&resource.resource) {
            return Some((
                ".valueFrom.resourceFieldRef.resource",
                "expected limits or requests of cpu, memory, ephemeral-storage or hugepages-SIZE",
            ));
        }
        let divisor = resource.divisor.as_ref();
        if divisor.is_some_and(|divisor| amount(&divisor.0).is_none()) {
            return Some((".valueFrom.resourceFieldRef.divisor", AMOUNT));
        }
    }
    let is_key = |key: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        (1..=253).contains(&key.len()) && key.bytes().all(fits)
    };
    if let Some(secret) = &from.secret_key_ref {
        if !is_object_name(&secret.name) {
            return Some((".valueFrom.secretKeyRef.name", OBJECT));
        }
        if !is_key(&secret.key) {
            return Some((".valueFrom.secretKeyRef.key", DATA_KEY));
        }
    }
    if let Some(map) = &from.config_map_key_ref {
        if !is_object_name(&map.name) {
            return Some((".valueFrom.configMapKeyRef.name", OBJECT));
        }
        if !is_key(&map.key) {
            return Some((".valueFrom.configMapKeyRef.key", DATA_KEY));
        }
    }
    None
}

fn check_resources(resources: &ResourceRequirements, wrong: &mut impl FnMut(&str, &str)) {
    type Amounts = Option<BTreeMap<String, Quantity>>;
    let check = |member: &str, amounts: &Amounts, wrong: &mut dyn FnMut(&str, &str)| {
        for (name, quantity) in amounts.iter().flatten() {
            let field = format!("resources.{member}[{name}]");
            if !is_resource(name) {
                wrong(
                    &field,
                    "expected cpu, memory, ephemeral-storage, hugepages-SIZE or DOMAIN/NAME such \
                     as nvidia.com/gpu",
                );
            }
            match amount(&quantity.0) {
                None => wrong(&field, AMOUNT),
                Some(amount) if name.contains('/') && amount.fract() > 0.0 => {
                    wrong(
                        &field,
                        "expected a whole number, since devices are not divided",
                    );
                }
                Some(_) => {}
            }
        }
    };
    check("limits", &resources.limits, wrong);
    check("requests", &resources.requests, wrong);
    for (name, requested) in resources.requests.iter().flatten() {
        let field = format!("resources.requests[{name}]");
        let limit = resources
            .limits
            .as_ref()
            .and_then(|limits| limits.get(name));
        let limit = limit.and_then(|limit| amount(&limit.0));
        let Some(requested) = amount(&requested.0) else {
            continue;
        };
        let is_device = name.contains('/');
        // Exact comparison is safe, since both are parsed the same way.
        #[allow(clippy::float_cmp)]
        if is_device && limit != Some(requested) {
            wrong(
                &field,
                "differs from the limit, and devices are not overcommitted; set both to the \
                 same number",
            );
        } else if limit.is_some_and(|limit| requested > limit) {
            wrong(&field, "is above the limit; lower it, or raise the limit");
        }
    }
}

fn wrong_toleration(toleration: &Toleration) -> Option<(&'static str, &'static str)> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (key, value) = (text(&toleration.key), text(&toleration.value));
    let (operator, effect) = (text(&toleration.operator), text(&toleration.effect));
    if !["", "Exists", "Equal"].contains(&&*operator) {
        return Some((".operator", "expected Exists or Equal"));
    }
    if !["", "NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&&*effect) {
        let remedy = "expected NoSchedule, PreferNoSchedule, NoExecute, or nothing for all of them";
        return Some((".effect", remedy));
    }
    if key.is_empty() && operator != "Exists" {
        let remedy = "name the key of a taint; or set operator: Exists to tolerate every taint";
        return Some(("", remedy));
    }
    if !key.is_empty() && !is_qualified(&key) {
        return Some((".key", KEY));
    }
    if operator == "Exists" && !value.is_empty() {
        return Some(("", "operator: Exists takes no value; remove one"));
    }
    if !is_label_value(&value) {
        return Some((".value", VALUE));
    }
    (toleration.toleration_seconds.is_some() && effect != "NoExecute")
        .then_some(("", "tolerationSeconds needs effect: NoExecute"))
}

/// Whether a text can be an image reference. `check_serving` checks its tag.
fn is_image(image: &str) -> bool {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let pinned = |digest: &str| digest.strip_prefix("sha256:").is_some_and(super::is_sha256);
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let repository = match path.split_once('/') {
        Some((host, rest))
            if host.contains(['.', ':']) || host.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            rest
        }
        _ => path,
    };
    let small = |b: u8| word(b) && !b.is_ascii_uppercase() || b == b'/';
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    image.len() <= 512
        && digest.is_none_or(pinned)
        && tag.is_none_or(|tag| !tag.is_empty() && tag.len() <= 128 && tag.bytes().all(word))
        && repository.bytes().all(small)
        && edge(repository.as_bytes().first())
        && edge(repository.as_bytes().last())
}

fn is_pod_field(field: &str) -> bool {
    let plain = [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    let of_map = |map: &str| {
        let key = field.strip_prefix(map);
        key.is_some_and(|key| key.starts_with("['") && key.ends_with("']"))
    };
    plain.contains(&field) || of_map("metadata.labels") || of_map("metadata.annotations")
}

fn is_resource_field(field: &str) -> bool {
    let of_resources = ["limits.", "requests."];
    let name = of_resources
        .iter()
        .find_map(|side| field.strip_prefix(side));
    name.is_some_and(|name| is_resource(name) && !name.contains('/'))
}

fn is_resource(name: &str) -> bool {
    let own = ["cpu", "memory", "ephemeral-storage"];
    own.contains(&name)
        || name.starts_with("hugepages-")
        || (name.contains('/') && is_qualified(name))
}

/// `DOMAIN/NAME`, or only the name.
fn is_qualified(key: &str) -> bool {
    let (domain, name) = match key.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, key),
    };
    !name.is_empty() && is_label_value(name) && domain.is_none_or(is_object_name)
}

fn is_label_value(value: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edge = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    value.len() <= 63
        && value.bytes().all(inner)
        && edge(value.as_bytes().first())
        && edge(value.as_bytes().last())
}

/// A quantity as a number; `None` where it is malformed or negative. Sub-units are divided, so that
/// 300m equals 0.3.
fn amount(quantity: &str) -> Option<f64> {
    let end = quantity
        .find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+' | '-'))
        .unwrap_or(quantity.len());
    let (number, suffix) = quantity.split_at(end);
    let number: f64 = number.parse().ok()?;
    let scaled = match suffix {
        "" => number,
        "n" => number / 1e9,
        "u" => number / 1e6,
        "m" => number / 1e3,
        "k" => number * 1e3,
        "M" => number * 1e6,
        "G" => number * 1e9,
        "T" => number * 1e12,
        "P" => number * 1e15,
        "E" => number * 1e18,
        "Ki" => number * 1024_f64,
        "Mi" => number * 1024_f64.powi(2),
        "Gi" => number * 1024_f64.powi(3),
        "Ti" => number * 1024_f64.powi(4),
        "Pi" => number * 1024_f64.powi(5),
        "Ei" => number * 1024_f64.powi(6),
        _ => {
            let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            number * 10_f64.powi(power)
        }
    };
    (scaled >= 0.0).then_some(scaled)
}

#[cfg(test)]
mod tests;
