//! The checks of the schema and of its CEL rules, repeated: the API server does not check objects
//! again that were stored before an upgrade of the CRD. Each error names the field and the remedy.

mod objectives;
mod service;
mod template;

use super::{
    Duration, ModelDeployment, ModelDeploymentSpec, RollbackWindow, Rollout, StartAt,
    spec::POSITIVE_REMEDY, version::is_version,
};

/// Schemes of `spec.model.uri` that this build supports.
pub const SCHEMES: [&str; 6] = ["pvc", "oci", "s3", "https", "hf", "file"];

/// Whether artefacts of a scheme are fetched into the pod, by an init container.
pub fn is_fetched(uri: &str) -> bool {
    !uri.starts_with("pvc://") && !uri.starts_with("file://")
}

/// Names that move and so cannot be versions.
const MOVING: [&str; 9] = [
    "latest", "main", "master", "head", "dev", "nightly", "stable", "current", "newest",
];

/// What the operator's settings allow.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Allowed schemes of `spec.model.uri`, a subset of [`SCHEMES`].
    pub allowed_schemes: Vec<String>,
    /// The bundled serving image.
    pub bundled_image: String,
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

/// Returns all errors of a ModelDeployment; empty where it can be used.
pub fn validate(model: &ModelDeployment, limits: &Limits) -> Vec<Invalid> {
    let name = model.metadata.name.as_deref().unwrap_or_default();
    let mut errors = Vec::new();
    if name.len() > 48 || !is_service_name(name) {
        errors.push(invalid(
            "metadata.name",
            "at most 48 characters, a DNS label that starts with a letter, since \
             `<name>-<revision>` names a Service",
        ));
    }
    check_model(&model.spec, limits, &mut errors);
    template::check_serving(&model.spec.serving, limits, &mut errors);
    if model.spec.replicas < 0 {
        errors.push(invalid("spec.replicas", "at least 0, which is asleep"));
    }
    let envoy = model.spec.traffic.envoy.unwrap_or_default();
    if !is_positive(envoy.timeout) {
        errors.push(invalid("spec.traffic.envoy.timeout", POSITIVE_REMEDY));
    }
    service::check_service(model, &mut errors);
    objectives::check_objectives(&model.spec, &mut errors);
    check_rollout(&model.spec.rollout, &mut errors);
    check_window(&model.spec, &mut errors);
    errors
}

fn check_model(spec: &ModelDeploymentSpec, limits: &Limits, errors: &mut Vec<Invalid>) {
    let Some(model) = &spec.model else {
        let image = spec.serving.image.as_deref();
        if !image.is_some_and(|image| image.contains("@sha256:")) {
            errors.push(invalid(
                "spec.model",
                "name a model, or an image that holds one, pinned by its digest: \
                 spec.serving.image: HOST/REPOSITORY:TAG@sha256:…",
            ));
        }
        return;
    };
    check_uri(&model.uri, limits, errors);
    if let Some(secret) = &model.credentials {
        if !is_object_name(secret) {
            errors.push(invalid(
                "spec.model.credentials",
                "expected the name of a Secret in this namespace",
            ));
        } else if !is_fetched(&model.uri) {
            errors.push(invalid(
                "spec.model.credentials",
                "pvc:// and file:// are not fetched and take none; remove it",
            ));
        }
    }
    if MOVING.contains(&model.version.to_ascii_lowercase().as_str()) {
        errors.push(invalid(
            "spec.model.version",
            "name one fixed version such as 2.3.1, not a name that moves",
        ));
    } else if !is_version(&model.version) {
        errors.push(invalid(
            "spec.model.version",
            "1 to 63 letters, digits, dots, dashes and underscores, starting and ending with a \
             letter or digit",
        ));
    }
    match &model.digest {
        Some(digest) => {
            let hex = digest.strip_prefix("sha256:").unwrap_or_default();
            if !is_sha256(hex) {
                errors.push(invalid(
                    "spec.model.digest",
                    "expected sha256: and 64 hex digits in lower case",
                ));
            }
        }
        None if is_fetched(&model.uri) && !is_pinned(&model.uri) => errors.push(invalid(
            "spec.model.digest",
            "needed for what is fetched, unless the URI is pinned: \
             oci://HOST/REPOSITORY@sha256:…",
        )),
        None => {}
    }
}

/// Whether an address holds the digest of a registry's manifest.
fn is_pinned(uri: &str) -> bool {
    uri.starts_with("oci://") && uri.contains("@sha256:")
}

fn check_uri(uri: &str, limits: &Limits, errors: &mut Vec<Invalid>) {
    let (scheme, path) = uri.split_once("://").unwrap_or_default();
    // `http` is allowed with `https`; the platform's list of hosts decides where it may be used.
    let scheme = if scheme == "http" { "https" } else { scheme };
    if !is_shaped(scheme, path) || path.contains("..") {
        errors.push(invalid(
            "spec.model.uri",
            "expected pvc://CLAIM/PATH, oci://HOST/REPOSITORY:TAG, s3://BUCKET/PREFIX, \
             https://HOST/PATH, hf://OWNER/REPOSITORY@REVISION or file:///PATH, without `..`, \
             user, query or fragment",
        ));
    } else if !limits
        .allowed_schemes
        .iter()
        .any(|allowed| allowed == scheme)
    {
        errors.push(invalid(
            "spec.model.uri",
            format!(
                "the scheme {scheme}:// is not allowed here; allowed: {}. The operator's user \
                 decides, by --allowed-model-schemes",
                limits.allowed_schemes.join(", ")
            ),
        ));
    }
}

/// Whether an address has the parts that its scheme needs. `serin-serve fetch` checks it in detail.
fn is_shaped(scheme: &str, path: &str) -> bool {
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    let word = |text: &str| {
        let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        !text.is_empty() && text.bytes().all(letter)
    };
    let plain = !path.contains(['?', '#']);
    match scheme {
        "file" => path.starts_with('/') && path.len() > 1 && !path.starts_with("//"),
        "pvc" => is_object_name(first) && !rest.is_empty() && !rest.starts_with('/'),
        "s3" => plain && word(first) && !rest.is_empty() && !rest.starts_with('/'),
        "https" => plain && !first.is_empty() && !first.contains('@') && !rest.is_empty(),
        "oci" => {
            let (name, digest) = rest.split_once('@').unwrap_or((rest, ""));
            let (repository, tag) = name.split_once(':').unwrap_or((name, ""));
            let pinned = digest.strip_prefix("sha256:").is_some_and(is_sha256);
            let (host, port) = first.split_once(':').unwrap_or((first, "443"));
            word(host)
                && port.parse::<u16>().is_ok()
                && repository.split('/').all(word)
                && repository == repository.to_ascii_lowercase()
                && (tag.is_empty() || word(tag))
                && (digest.is_empty() || pinned)
                && !(tag.is_empty() && digest.is_empty())
                && !name.ends_with(':')
        }
        "hf" => {
            let (name, folder) = rest.split_once('/').unwrap_or((rest, ""));
            let (repository, revision) = name.split_once(['@', ':']).unwrap_or((name, ""));
            plain && word(first) && word(repository) && word(revision) && !folder.starts_with('/')
        }
        _ => false,
    }
}

fn is_sha256(hex: &str) -> bool {
    hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
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
    if rollout.start_at == StartAt::ByTraffic && steps.iter().all(|step| step.weight > 50) {
        errors.push(invalid(
            "spec.rollout.startAt",
            "ByTraffic needs a step of at most 50 % to start at; declare one, or set FirstStep",
        ));
    }
    for (index, step) in steps.iter().enumerate() {
        if !(1..=100).contains(&step.weight) {
            errors.push(invalid(
                format!("spec.rollout.steps[{index}].weight"),
                "expected 1 to 100",
            ));
        }
        let pause = step.pause.as_ref().and_then(|pause| pause.duration);
        if pause.is_some_and(|duration| !is_positive(duration)) {
            errors.push(invalid(
                format!("spec.rollout.steps[{index}].pause.duration"),
                POSITIVE_REMEDY,
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

fn check_window(spec: &ModelDeploymentSpec, errors: &mut Vec<Invalid>) {
    let window = &spec.rollout.rollback_window;
    let kept = u32::try_from(spec.revision_history_limit).unwrap_or(0);
    // The default number asks for no more versions than there are.
    if window.revisions > kept && window.revisions != RollbackWindow::default().revisions {
        errors.push(invalid(
            "spec.rollout.rollbackWindow.revisions",
            "spec.revisionHistoryLimit keeps fewer versions; lower it, or raise the limit",
        ));
    }
    if !is_positive(window.within) {
        errors.push(invalid(
            "spec.rollout.rollbackWindow.within",
            POSITIVE_REMEDY,
        ));
    }
}

fn is_positive(duration: Duration) -> bool {
    duration > Duration::default()
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
