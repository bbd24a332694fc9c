//! Checks of `spec.serving`: what Serin owns in the template is refused by its name. The API server
//! checks the rest, by a dry run of the version's Deployment.

use serde_json::{Map, Value};

use super::{Invalid, Limits, invalid, is_sha256};
use crate::api::{
    MANAGED_BY_LABEL, Serving,
    spec::template::{FETCH, FETCH_VOLUMES, PROBES, SERVER, VARIABLES, VOLUMES, remedies},
};

const TEMPLATE: &str = "spec.serving.template";

/// Checks how pods serve the model.
pub(super) fn check_serving(serving: &Serving, limits: &Limits, errors: &mut Vec<Invalid>) {
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
        if !is_image(image) {
            errors.push(invalid(
                "spec.serving.image",
                "expected [HOST[:PORT]/]REPOSITORY:TAG or @sha256: and 64 hex digits, the \
                 repository in small letters",
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
    let path = serving.model_mount_path.as_deref();
    let is_path = |path: &str| {
        path.starts_with('/') && (2..=255).contains(&path.len()) && !path.contains([':'])
    };
    if path.is_some_and(|path| !is_path(path) || path.contains("..")) {
        errors.push(invalid(
            "spec.serving.modelMountPath",
            "expected a path from the root on, such as /mnt/models, without `:` and `..`",
        ));
    }
    let template = serving.template.fields();
    let mut refuse = |field: &str, remedy: &str| {
        errors.push(invalid(format!("{TEMPLATE}{field}"), remedy));
    };
    if let Some(field) = directive(template, "") {
        refuse(
            &field,
            "the template is merged and holds no directives of a patch; write the value, or leave \
             it out",
        );
    }
    check_metadata(template, &mut refuse);
    let Some(pod) = template.get("spec") else {
        return;
    };
    if !pod.is_object() {
        refuse(".spec", "expected the fields of a PodSpec");
    }
    if pod
        .get("restartPolicy")
        .is_some_and(|policy| policy != "Always")
    {
        refuse(".spec.restartPolicy", remedies::RESTART);
    }
    if pod.get("hostNetwork").is_some_and(|host| host != false) {
        refuse(".spec.hostNetwork", remedies::HOST_NETWORK);
    }
    for (index, volume) in items(pod, "volumes").enumerate() {
        if VOLUMES.contains(&name(volume)) {
            refuse(&format!(".spec.volumes[{index}].name"), remedies::VOLUME);
        }
    }
    let models = serving
        .mount_path(&limits.bundled_image)
        .unwrap_or("/models");
    for list in ["containers", "initContainers"] {
        for (index, container) in items(pod, list).enumerate() {
            let field = format!(".spec.{list}[{index}]");
            if list == "initContainers" && name(container) == FETCH {
                refuse(&format!("{field}.name"), remedies::FETCH);
            }
            for (index, mount) in items(container, "volumeMounts").enumerate() {
                let mount_field = format!("{field}.volumeMounts[{index}]");
                if FETCH_VOLUMES.contains(&name(mount)) {
                    refuse(&format!("{mount_field}.name"), remedies::MOUNT);
                }
                let path = mount.get("mountPath").and_then(Value::as_str);
                let is_models = path.is_some_and(|path| path.trim_end_matches('/') == models);
                if is_models && list == "containers" && name(container) == SERVER {
                    refuse(
                        &format!("{mount_field}.mountPath"),
                        "Serin mounts the model there; choose another path, or move the model \
                         (spec.serving.modelMountPath)",
                    );
                }
            }
            if list == "containers" && name(container) == SERVER {
                if container.get("image").is_some() {
                    refuse(&format!("{field}.image"), remedies::IMAGE);
                }
                if serving.is_bundled(&limits.bundled_image) {
                    for (field, remedy) in bundled(container) {
                        refuse(field, remedy);
                    }
                }
            }
        }
    }
}

fn check_metadata(template: &Map<String, Value>, refuse: &mut impl FnMut(&str, &str)) {
    let fields = template.get("metadata").and_then(Value::as_object);
    for (field, value) in fields.into_iter().flatten() {
        let path = format!(".metadata.{field}");
        match field.as_str() {
            "labels" | "annotations" => {
                let is_ours =
                    |key: &&String| key.starts_with("serin.dev/") || *key == MANAGED_BY_LABEL;
                let keys = value.as_object().into_iter().flat_map(Map::keys);
                for _ in keys.filter(is_ours) {
                    refuse(&path, remedies::KEY);
                }
            }
            "name" => refuse(&path, remedies::NAME),
            "namespace" => refuse(&path, remedies::NAMESPACE),
            _ => refuse(
                &path,
                "a template has labels and annotations only; remove it",
            ),
        }
    }
}

/// What the container of the bundled server must not set: field and remedy.
fn bundled(server: &Value) -> impl Iterator<Item = (&'static str, &'static str)> {
    let sets = |field: &str| server.get(field).is_some();
    let wrong = [
        (sets("ports"), remedies::PORTS),
        (PROBES.into_iter().any(sets), remedies::PROBES),
        (
            items(server, "env").any(|variable| VARIABLES.contains(&name(variable))),
            remedies::VARIABLES,
        ),
    ];
    let wrong = wrong.into_iter().filter(|(is_wrong, _)| *is_wrong);
    // The sentences name the field, since a rule of the whole of `spec.serving` says them as well.
    wrong.filter_map(|(_, remedy)| remedy.strip_prefix(TEMPLATE)?.split_once(": "))
}

fn items<'a>(of: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    of.get(list).and_then(Value::as_array).into_iter().flatten()
}

fn name(of: &Value) -> &str {
    of.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// The path of the first key that is a directive of a strategic merge patch, such as `$patch`.
fn directive(fields: &Map<String, Value>, at: &str) -> Option<String> {
    fields.iter().find_map(|(key, value)| {
        let path = format!("{at}.{key}");
        if key.starts_with('$') {
            return Some(path);
        }
        match value {
            Value::Object(fields) => directive(fields, &path),
            Value::Array(items) => items.iter().enumerate().find_map(|(index, item)| {
                directive(item.as_object()?, &format!("{path}[{index}]"))
            }),
            _ => None,
        }
    })
}

/// Whether a text can be an image reference.
fn is_image(image: &str) -> bool {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let pinned = |digest: &str| digest.strip_prefix("sha256:").is_some_and(is_sha256);
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn errors(serving: &Value) -> Vec<String> {
        let serving = serde_json::from_value(serving.clone()).unwrap();
        let limits = Limits {
            allowed_schemes: Vec::new(),
            bundled_image: "r:5000/serin-serve:1".to_owned(),
        };
        let mut errors = Vec::new();
        check_serving(&serving, &limits, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ports_and_probes_belong_to_the_bundled_image_and_to_no_other() {
        let server = json!({"name": "server", "ports": [{"containerPort": 1}],
            "livenessProbe": {"exec": {"command": ["a"]}},
            "env": [{"name": "SERIN_SERVE_DIGEST"}, {"name": "SERIN_SERVE_THREADS"}]});
        let serving =
            |image: Value| json!({"image": image, "template": {"spec": {"containers": [server]}}});
        let digest = format!("r:5000/serin-serve@sha256:{:064}", 1);
        for bundled in [json!(null), json!("r:5000/serin-serve:2"), json!(digest)] {
            let errors = errors(&serving(bundled.clone()));
            assert_eq!(errors.len(), 3, "{bundled}: {errors:?}");
            assert_eq!(errors[0], remedies::PORTS);
            assert_eq!(errors[1], remedies::PROBES);
            assert_eq!(errors[2], remedies::VARIABLES);
        }
        assert_eq!(errors(&serving(json!("vllm:1"))), Vec::<String>::new());
        // A sidecar's are its own.
        let sidecar = json!({"name": "proxy", "ports": [], "startupProbe": {}, "image": "a:1"});
        let beside = json!({"template": {"spec": {"containers": [sidecar]}}});
        assert_eq!(errors(&beside), Vec::<String>::new());
    }

    #[test]
    fn a_directive_of_a_patch_is_refused_where_it_stands() {
        let containers = json!([{"name": "a"}, {"name": "b", "$patch": "delete"}]);
        let errors = errors(&json!({"template": {"spec": {"containers": containers}}}));
        let start = "spec.serving.template.spec.containers[1].$patch: the template is merged";
        assert!(
            errors.len() == 1 && errors[0].starts_with(start),
            "{errors:?}"
        );
    }

    #[test]
    fn images_are_parsed_like_container_runtimes_do() {
        let pinned = format!("ghcr.io/team/serve@sha256:{:064}", 1);
        for image in [
            "serve:1",
            "registry:5000/a/b_c:v1.0",
            "Host.example.com/a:1",
            "a/b:1",
            &pinned,
        ] {
            assert!(is_image(image), "{image}");
        }
        for image in [
            "a b:1",
            "ghcr.io/Team/serve:1",
            "a@sha256:1",
            "https://ghcr.io/a:1",
            "a/:1",
            ":1",
        ] {
            assert!(!is_image(image), "{image}");
        }
    }
}
