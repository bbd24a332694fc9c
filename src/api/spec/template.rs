//! `spec.serving.template`: a PodTemplateSpec that is kept as it was written, so that a field which
//! is newer than the operator reaches the API server.

use schemars::{Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use super::pods;

/// Name of the container that serves the model.
pub const SERVER: &str = "server";
/// Name of the init container that fetches the model.
pub const FETCH: &str = "fetch";
/// Names of the volumes that Serin adds to a pod.
pub const VOLUMES: [&str; 3] = ["model", "credentials", "cache"];
/// Those of [`VOLUMES`] that only the init container mounts.
pub const FETCH_VOLUMES: [&str; 2] = ["credentials", "cache"];
/// Variables that Serin sets for the bundled image.
pub const VARIABLES: [&str; 5] = [
    "SERIN_SERVE_ADDRESS",
    "SERIN_SERVE_DIGEST",
    "SERIN_SERVE_MODEL_DIR",
    "SERIN_SERVE_MODEL_NAME",
    "SERIN_SERVE_MODEL_VERSION",
];
/// Probes of a container.
pub const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// The remedies of fields that Serin owns in the template. The schema and `validate` share them.
pub mod remedies {
    /// `metadata.name`.
    pub const NAME: &str = "the Deployment names its pods; remove it";
    /// `metadata.namespace`.
    pub const NAMESPACE: &str = "pods are in the namespace of their model; remove it";
    /// A key of labels or annotations that Serin sets.
    pub const KEY: &str = "Serin sets serin.dev/* and app.kubernetes.io/managed-by; remove it";
    /// `restartPolicy`.
    pub const RESTART: &str = "a Deployment's pods have Always; remove it";
    /// `hostNetwork`.
    pub const HOST_NETWORK: &str =
        "two versions on one node would need the same port of it; remove it";
    /// `image` of the server.
    pub const IMAGE: &str = "spec.serving.image names the server's image; remove it here";
    /// `name` of an init container.
    pub const FETCH: &str = "Serin's own init container is named fetch; choose another name";
    /// `name` of a volume.
    pub const VOLUME: &str =
        "Serin's own volumes are named model, credentials and cache; choose another name";
    /// `name` in `volumeMounts`.
    pub const MOUNT: &str = "only Serin's init container mounts credentials and cache; remove it";
    /// `ports` of the bundled server.
    pub const PORTS: &str = "spec.serving.template.spec.containers[server].ports: \
        spec.serving.port is the bundled image's port; remove it";
    /// Probes of the bundled server.
    pub const PROBES: &str = "spec.serving.template.spec.containers[server]: Serin sets the \
        bundled image's probes; remove livenessProbe, readinessProbe and startupProbe, or name an \
        image of your own in spec.serving.image";
    /// Variables of the bundled server.
    pub const VARIABLES: &str = "spec.serving.template.spec.containers[server].env: Serin sets \
        SERIN_SERVE_ADDRESS, _DIGEST, _MODEL_DIR, _MODEL_NAME and _MODEL_VERSION of the bundled \
        image; remove them";
}

/// Fields that mean the same where they are empty as where they are absent. Others are kept: an
/// empty `labelSelector` selects all pods, an absent one none.
const EMPTY_IS_ABSENT: [&str; 30] = [
    "affinity",
    "annotations",
    "args",
    "claims",
    "command",
    "containers",
    "dnsConfig",
    "env",
    "envFrom",
    "hostAliases",
    "imagePullSecrets",
    "initContainers",
    "labels",
    "lifecycle",
    "limits",
    "metadata",
    "nodeSelector",
    "ports",
    "readinessGates",
    "requests",
    "resourceClaims",
    "resources",
    "schedulingGates",
    "securityContext",
    "spec",
    "tolerations",
    "topologySpreadConstraints",
    "volumeDevices",
    "volumeMounts",
    "volumes",
];

/// A PodTemplateSpec as JSON, in normal form: without nulls, and without what means the same where
/// it is absent. Keys are sorted. Templates that differ only in that are equal, and the same
/// version.
#[derive(Serialize, Clone, Debug, Default, PartialEq)]
#[serde(transparent)]
pub struct PodTemplate(Map<String, Value>);

impl PodTemplate {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its fields.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }
}

impl<'de> Deserialize<'de> for PodTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Option::<Map<String, Value>>::deserialize(deserializer)?;
        Ok(Self(normal(fields.unwrap_or_default())))
    }
}

fn normal(fields: Map<String, Value>) -> Map<String, Value> {
    let fields = fields
        .into_iter()
        .map(|(key, value)| (key, normal_value(value)));
    let mut fields: Vec<_> = fields
        .filter(|(key, value)| says_something(key, value))
        .collect();
    // Sorted whether or not serde_json keeps the order of keys.
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    fields.into_iter().collect()
}

fn normal_value(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(normal(fields)),
        Value::Array(items) => items.into_iter().map(normal_value).collect(),
        plain => plain,
    }
}

fn says_something(key: &str, value: &Value) -> bool {
    let is_empty = match value {
        Value::Null => return false,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    !(is_empty && EMPTY_IS_ABSENT.contains(&key))
}

/// The schema of the template: what Serin has rules about, and every other field as it is.
pub(super) fn schema(_: &mut SchemaGenerator) -> Schema {
    let keys = |what: &str| {
        json!({
            "description": format!("{what} of the pods, beside Serin's own."),
            "type": "object", "maxProperties": 64,
            "additionalProperties": {"type": "string", "maxLength": 65536},
            "x-kubernetes-validations": [{
                "rule": "!self.exists(k, k.startsWith('serin.dev/') || \
                    k == 'app.kubernetes.io/managed-by')",
                "message": remedies::KEY,
            }],
        })
    };
    let never = |remedy: &str| {
        json!({
            "description": format!("Refused: {remedy}."),
            "type": "string", "maxLength": 253,
            "x-kubernetes-validations": [{"rule": "false", "message": remedy}],
        })
    };
    let of_init = "Containers that end before the others start, by name.";
    let init_containers = containers(
        of_init,
        &json!([{
            "rule": format!("self.name != '{FETCH}'"), "message": remedies::FETCH,
            "fieldPath": ".name",
        }]),
    );
    let of_pod = "The pod's containers, by name. `server` serves the model.";
    let containers = containers(
        of_pod,
        &json!([{
            "rule": format!("self.name != '{SERVER}' || !has(self.image)"),
            "message": remedies::IMAGE, "fieldPath": ".image",
        }]),
    );
    pods::schema(json!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": {
            "metadata": {
                "description": "Labels and annotations of the pods.",
                "type": "object",
                "properties": {
                    "labels": keys("Labels"), "annotations": keys("Annotations"),
                    "name": never(remedies::NAME), "namespace": never(remedies::NAMESPACE),
                },
            },
            "spec": {
                "description": "A PodSpec: any field of Kubernetes', also one that is newer than \
                    Serin. What Serin has rules about is listed here.",
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": true,
                "properties": {
                    "restartPolicy": {
                        "description": "`Always`, the only one that a Deployment's pods may have.",
                        "type": "string", "maxLength": 16,
                        "x-kubernetes-validations":
                            [{"rule": "self == 'Always'", "message": remedies::RESTART}],
                    },
                    "hostNetwork": {
                        "description": "`false`: two versions on one node would need the same \
                            port of it.",
                        "type": "boolean",
                        "x-kubernetes-validations":
                            [{"rule": "!self", "message": remedies::HOST_NETWORK}],
                    },
                    "containers": containers,
                    "initContainers": init_containers,
                    "volumes": named("Volumes beside Serin's own, by name.", 32, &json!([{
                        "rule": format!("!(self.name in {VOLUMES:?})").replace('"', "'"),
                        "message": remedies::VOLUME, "fieldPath": ".name",
                    }])),
                    "imagePullSecrets":
                        named("Secrets with credentials for the images, by name.", 16, &json!([])),
                },
            },
        },
    }))
}

/// A list of objects with names, which several writers can share.
fn named(what: &str, longest: u32, rules: &Value) -> Value {
    list(what, longest, "name", rules, &json!({}))
}

fn list(what: &str, longest: u32, key: &str, rules: &Value, more: &Value) -> Value {
    let mut items = json!({
        "type": "object", "x-kubernetes-preserve-unknown-fields": true, "required": [key],
        "properties": {key: text("Unique within the list, and the key of its merge.", 253)},
    });
    if rules.as_array().is_some_and(|rules| !rules.is_empty()) {
        items["x-kubernetes-validations"] = rules.clone();
    }
    for (name, schema) in more.as_object().into_iter().flatten() {
        items["properties"][name] = schema.clone();
    }
    json!({
        "description": what, "type": "array", "maxItems": longest, "items": items,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key],
    })
}

fn text(what: &str, longest: u32) -> Value {
    json!({"description": what, "type": "string", "maxLength": longest})
}

fn containers(what: &str, rules: &Value) -> Value {
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let mounts = json!([{
        "rule": format!("!has(self.name) || !(self.name in {FETCH_VOLUMES:?})").replace('"', "'"),
        "message": remedies::MOUNT, "fieldPath": ".name",
    }]);
    let name = json!({"name": text("The volume's name.", 253)});
    let mut mounts = list("Mounts, by path.", 32, "mountPath", &mounts, &name);
    mounts["items"]["properties"]["mountPath"]["maxLength"] = 1024.into();
    let ports = json!({
        "description": "Ports, merged by number. Atomic for server-side apply, since a number may \
            occur once for each protocol.",
        "type": "array", "maxItems": 32, "items": any,
    });
    let mut more = json!({
        "image": text("The container's image. `spec.serving.image` is that of `server`.", 512),
        "env": named("Variables, by name.", 128, &json!([])),
        "ports": ports, "volumeMounts": mounts,
    });
    for probe in PROBES {
        more[probe] = any.clone();
        more[probe]["description"] = "A Probe. Serin sets those of its bundled server.".into();
    }
    list(what, 16, "name", rules, &more)
}

/// The CEL rule, on `spec.serving`, that the bundled server's container sets no ports.
pub(super) fn bundled_ports() -> String {
    bundled("!has(c.ports)")
}

/// The same of its probes.
pub(super) fn bundled_probes() -> String {
    bundled(&PROBES.map(|probe| format!("!has(c.{probe})")).join(" && "))
}

/// The same of the variables that Serin sets.
pub(super) fn bundled_variables() -> String {
    let names = format!("{VARIABLES:?}").replace('"', "'");
    bundled(&format!(
        "!has(c.env) || !c.env.exists(v, v.name in {names})"
    ))
}

/// The CEL rule that the server's container meets a condition, where no image is named.
fn bundled(condition: &str) -> String {
    format!(
        "has(self.image) || !has(self.template) || !has(self.template.spec) || \
         !has(self.template.spec.containers) || self.template.spec.containers.all(c, \
         c.name != '{SERVER}' || ({condition}))"
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn template(value: Value) -> PodTemplate {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn templates_that_mean_the_same_are_equal() {
        let plain = template(json!({"spec": {"containers": [
            {"name": "server", "resources": {"limits": {"cpu": 1}}},
        ]}}));
        let padded: PodTemplate = serde_json::from_str(
            r#"{"metadata": {"labels": {}, "creationTimestamp": null}, "spec": {
                "tolerations": [], "containers": [{"resources": {"requests": {},
                "limits": {"cpu": 1}}, "name": "server", "env": null}]}}"#,
        )
        .unwrap();
        assert_eq!(plain, padded);
        let text = |template: &PodTemplate| serde_json::to_string(template).unwrap();
        assert_eq!(text(&plain), text(&padded));
        assert!(template(Value::Null).is_empty());
        assert!(template(json!({"spec": {}})).is_empty());
    }

    #[test]
    fn what_is_empty_on_purpose_is_kept() {
        for kept in [
            json!({"spec": {"volumes": [{"name": "a", "emptyDir": {}}]}}),
            json!({"spec": {"containers": [{"name": "server",
                "securityContext": {"capabilities": {"drop": []}}}]}}),
            json!({"spec": {"topologySpreadConstraints": [{"labelSelector": {}}]}}),
            json!({"spec": {"newField": {}}}),
        ] {
            assert_eq!(serde_json::to_value(template(kept.clone())).unwrap(), kept);
        }
    }
}
