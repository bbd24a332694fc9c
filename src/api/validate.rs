//! The checks of the schema and of its CEL rules, once more: API servers before 1.25 know no CEL, and objects from
//! before an upgrade of the CRD are never checked again. Each error names the field and the remedy.

mod objectives;

use kube::core::Duration;

use super::{FirstStep, ModelDeployment, ModelDeploymentSpec, Rollout};

/// Model schemes that this build can serve.
pub const SCHEMES: [&str; 2] = ["pvc", "file"];

/// Names that move, and so name no version.
const MOVING: [&str; 9] = [
    "latest", "main", "master", "head", "dev", "nightly", "stable", "current", "newest",
];

/// What the operator's user allows.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Schemes of `spec.model.uri` that may be used, of [`SCHEMES`].
    pub allowed_schemes: Vec<String>,
}

/// One thing wrong with a spec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {remedy}")]
pub struct Invalid {
    /// The path of the field.
    pub field: String,
    /// What is wrong, and what to write instead.
    pub remedy: String,
}

fn invalid(field: impl Into<String>, remedy: impl Into<String>) -> Invalid {
    Invalid {
        field: field.into(),
        remedy: remedy.into(),
    }
}

/// All that is wrong with a ModelDeployment; nothing where it can be used.
pub fn validate(model: &ModelDeployment, limits: &Limits) -> Vec<Invalid> {
    let name = model.metadata.name.as_deref().unwrap_or_default();
    let mut errors = Vec::new();
    if name.len() > 48 || !is_service_name(name) {
        errors.push(invalid(
            "metadata.name",
            "at most 48 characters, a DNS label that starts with a letter, since `<name>-<revision>` names a Service",
        ));
    }
    check_model(&model.spec, limits, &mut errors);
    check_serving(&model.spec, &mut errors);
    if model.spec.replicas < 1 {
        errors.push(invalid(
            "spec.replicas",
            "at least 1; delete the ModelDeployment to stop serving",
        ));
    }
    if !is_positive(model.spec.traffic.envoy.timeout) {
        errors.push(invalid(
            "spec.traffic.envoy.timeout",
            "expected a duration above zero, such as 60s",
        ));
    }
    objectives::check_objectives(&model.spec, &mut errors);
    check_rollout(&model.spec.rollout, &mut errors);
    errors
}

fn check_model(spec: &ModelDeploymentSpec, limits: &Limits, errors: &mut Vec<Invalid>) {
    let model = &spec.model;
    let scheme = model.uri.split_once("://").map_or("", |(scheme, _)| scheme);
    let path = model.uri.split_once("://").map_or("", |(_, path)| path);
    let shaped = match scheme {
        "file" => path.starts_with('/') && path.len() > 1 && !path.starts_with("//"),
        "pvc" => path.split_once('/').is_some_and(|(claim, rest)| {
            is_object_name(claim) && !rest.is_empty() && !rest.starts_with('/')
        }),
        _ => false,
    };
    if !shaped || path.contains("..") {
        errors.push(invalid(
            "spec.model.uri",
            "expected pvc://CLAIM/PATH or file:///PATH, without `..`",
        ));
    } else if !limits
        .allowed_schemes
        .iter()
        .any(|allowed| allowed == scheme)
    {
        errors.push(invalid(
            "spec.model.uri",
            format!(
                "the scheme {scheme}:// is not allowed here; allowed: {}. The operator's user decides, by --allowed-model-schemes",
                limits.allowed_schemes.join(", ")
            ),
        ));
    }
    if MOVING.contains(&model.version.to_ascii_lowercase().as_str()) {
        errors.push(invalid(
            "spec.model.version",
            "name one fixed version such as 2.3.1, not a name that moves",
        ));
    } else if !is_version(&model.version) {
        errors.push(invalid(
            "spec.model.version",
            "1 to 63 letters, digits, dots, dashes and underscores, starting and ending with a letter or digit",
        ));
    }
    let hex = model.digest.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        errors.push(invalid(
            "spec.model.digest",
            "expected sha256: and 64 hex digits in lower case",
        ));
    }
}

fn check_serving(spec: &ModelDeploymentSpec, errors: &mut Vec<Invalid>) {
    let serving = &spec.serving;
    if let Some(image) = &serving.image {
        let tag = image
            .rsplit_once(':')
            .map(|(_, tag)| tag)
            .filter(|tag| !tag.is_empty() && !tag.contains('/'));
        if !image.contains("@sha256:") && tag.is_none_or(|tag| tag == "latest") {
            errors.push(invalid(
                "spec.serving.image",
                "name a tag other than `latest`, or a digest",
            ));
        }
    }
    for (field, path) in [
        ("readinessPath", &serving.readiness_path),
        ("livenessPath", &serving.liveness_path),
    ] {
        if path.as_ref().is_some_and(|path| !path.starts_with('/')) {
            errors.push(invalid(
                format!("spec.serving.{field}"),
                "expected a path that starts with /",
            ));
        }
    }
    if serving
        .port
        .is_some_and(|port| !(1..=65535).contains(&port))
    {
        errors.push(invalid(
            "spec.serving.port",
            "expected a port from 1 to 65535",
        ));
    }
}

fn check_rollout(rollout: &Rollout, errors: &mut Vec<Invalid>) {
    let steps = &rollout.steps;
    if steps.is_empty() || steps.len() > 20 {
        errors.push(invalid("spec.rollout.steps", "expected 1 to 20 steps"));
    }
    if steps.last().is_some_and(|step| step.weight != 100) {
        errors.push(invalid(
            "spec.rollout.steps",
            "the last step's weight must be 100",
        ));
    }
    if steps
        .windows(2)
        .any(|pair| pair[0].weight >= pair[1].weight)
    {
        errors.push(invalid("spec.rollout.steps", "weights must ascend"));
    }
    if rollout.first_step == FirstStep::Adaptive && steps.iter().all(|step| step.weight > 50) {
        errors.push(invalid(
            "spec.rollout.firstStep",
            "Adaptive needs a step of at most 50 % to start at; declare one, or set Declared",
        ));
    }
    for (index, step) in steps.iter().enumerate() {
        if !(1..=100).contains(&step.weight) {
            errors.push(invalid(
                format!("spec.rollout.steps[{index}].weight"),
                "expected 1 to 100",
            ));
        }
        if step.min_requests < 1 {
            errors.push(invalid(
                format!("spec.rollout.steps[{index}].minRequests"),
                "expected at least 1",
            ));
        }
    }
}

fn is_positive(duration: Duration) -> bool {
    !duration.is_negative() && std::time::Duration::from(duration) > std::time::Duration::ZERO
}

fn is_service_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase()) && is_label(name)
}

fn is_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty() && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

fn is_object_name(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}

fn is_version(version: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    version.len() <= 63
        && edge(version.chars().next())
        && edge(version.chars().last())
        && version
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}
