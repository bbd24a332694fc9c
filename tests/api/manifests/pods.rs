//! What Serin owns in a version's pods, and what is rare and right.

use serde_json::{Value, json};

use super::table::{
    By::{ApiServer, Operator, Rule, Schema},
    Wrong, rows,
};

fn template(template: &Value) -> Value {
    json!({"template": template})
}

fn pod(spec: &Value) -> Value {
    template(&json!({"spec": spec}))
}

/// The server's container with a field.
fn server(field: &str, value: &Value) -> Value {
    pod(&json!({"containers": [{"name": "a"}, {"name": "server", field: value}]}))
}

/// Each name that Serin owns, in each place where a template could use it.
fn owned_names() -> Vec<Wrong> {
    let wrong = |value: Value, field: &'static str| Wrong {
        pointer: "/spec/serving",
        value,
        by: Rule,
        field,
    };
    let volumes = ["model", "credentials", "cache"].map(|name| {
        let volumes = pod(&json!({"volumes": [{"name": name, "emptyDir": {}}]}));
        wrong(volumes, "spec.volumes[0].name")
    });
    let mounts = ["credentials", "cache"].map(|name| {
        let mount = json!([{"name": name, "mountPath": "/a"}]);
        let init = pod(&json!({"initContainers": [{"name": "a", "volumeMounts": mount}]}));
        wrong(init, "spec.initContainers[0].volumeMounts[0].name")
    });
    let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|probe| {
        let probe = server(probe, &json!({"exec": {"command": ["true"]}}));
        wrong(probe, "containers[server]")
    });
    let variables = [
        "ADDRESS",
        "DIGEST",
        "MODEL_DIR",
        "MODEL_NAME",
        "MODEL_VERSION",
    ];
    let variables = variables.map(|name| {
        let variable = json!({"name": format!("SERIN_SERVE_{name}"), "value": "a"});
        wrong(server("env", &json!([variable])), "containers[server].env")
    });
    let labels = ["serin.dev/model", "app.kubernetes.io/managed-by"].map(|key| {
        let labels = template(&json!({"metadata": {"labels": {key: "a"}}}));
        wrong(labels, "template.metadata.labels")
    });
    let all = volumes.into_iter().chain(mounts).chain(probes);
    all.chain(variables).chain(labels).collect()
}

/// Every wrong manifest of these.
pub fn table() -> Vec<Wrong> {
    let mut table = of_the_template();
    table.extend(owned_names());
    table
}

fn of_the_template() -> Vec<Wrong> {
    let metadata = |metadata: Value| template(&json!({"metadata": metadata}));
    rows! {
        Rule "/spec/serving" = json!({"image": "registry/Serve:1"}) => "serving.image";
        Rule "/spec/serving" = json!({"image": "serve 2:1"}) => "serving.image";
        Rule "/spec/serving" = json!({"image": "https://ghcr.io/serve:1"}) => "serving.image";
        Rule "/spec/serving" = json!({"image": "serve@sha256:12"}) => "serving.image";
        Schema "/spec/serving" = json!({"image": "a".repeat(513)}) => "serving.image";
        Schema "/spec/serving" = json!({"template": "a"}) => "spec.serving.template";
        Rule "/spec/serving" = json!({"modelMountPath": "models"}) => "serving.modelMountPath";
        Rule "/spec/serving" = json!({"modelMountPath": "/a/../b"}) => "serving.modelMountPath";
        Schema "/spec/serving" = json!({"modelMountPath": "/"}) => "serving.modelMountPath";
        Operator "/spec/serving" =
            server("volumeMounts", &json!([{"name": "a", "mountPath": "/models"}]))
            => "containers[1].volumeMounts[0].mountPath";
        Rule "/spec/serving" = metadata(json!({"name": "a"})) => "template.metadata.name";
        Rule "/spec/serving" = metadata(json!({"namespace": "a"})) => "template.metadata.namespace";
        Rule "/spec/serving" =
            metadata(json!({"annotations": {"app.kubernetes.io/managed-by": "me"}}))
            => "template.metadata.annotations";
        Rule "/spec/serving" = pod(&json!({"restartPolicy": "Never"})) => "spec.restartPolicy";
        Rule "/spec/serving" = pod(&json!({"hostNetwork": true})) => "spec.hostNetwork";
        Rule "/spec/serving" =
            pod(&json!({"initContainers": [{"name": "fetch"}]}))
            => "spec.initContainers[0].name";
        Rule "/spec/serving" =
            pod(&json!({"volumes": [{"name": "a"}, {"name": "cache"}]}))
            => "spec.volumes[1].name";
        Rule "/spec/serving" =
            pod(&json!({"containers": [{"name": "a", "volumeMounts": [
                {"name": "credentials", "mountPath": "/a"},
            ]}]}))
            => "spec.containers[0].volumeMounts[0].name";
        Rule "/spec/serving" = server("image", &json!("a:1")) => "containers[1].image";
        Rule "/spec/serving" =
            server("ports", &json!([{"containerPort": 9000}]))
            => "containers[server].ports";
        Operator "/spec/serving" =
            json!({"image": "localhost/serin-serve:2", "template": {"spec": {"containers": [
                {"name": "server", "livenessProbe": {"exec": {"command": ["true"]}}},
            ]}}})
            => "containers[server]";
        Operator "/spec/serving" =
            pod(&json!({"containers": [{"name": "a", "$patch": "delete"}]}))
            => "spec.containers[0].$patch";
        // What the API server says of the Deployment.
        ApiServer "/spec/serving" =
            server("resources", &json!({"limits": {"cpu": "lots"}}))
            => "spec.serving.template: quantities must match";
        ApiServer "/spec/serving" =
            pod(&json!({"tolerations": [{"operator": "Equal", "value": "a"}]}))
            => "spec.serving.template.spec.tolerations[0]";
        ApiServer "/spec/serving" =
            pod(&json!({"noSuchField": 1}))
            => "spec.serving.template.spec.noSuchField: field not declared in schema";
        ApiServer "/spec/serving" =
            pod(&json!({"containers": [{"name": "proxy"}]}))
            => "spec.serving.template.spec.containers[proxy].image";
    }
}

/// A template with what is rare and right, for an image of one's own.
pub fn full() -> Value {
    json!({
        "image": "Registry.example.com:5000/team/serve_llm--gpu:v1.0_a",
        "port": 1, "modelMountPath": "/data",
        "template": {
            "metadata": {"labels": {"team": "ml"}, "annotations": {"a.b/c": ""}},
            "spec": {
                "restartPolicy": "Always", "hostNetwork": false,
                "serviceAccountName": "models.reader", "automountServiceAccountToken": true,
                "imagePullSecrets": [{"name": "a.b"}],
                "tolerations": [{"operator": "Exists"}],
                "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
                "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
                "initContainers": [{"name": "wait", "image": "wait:1"}],
                "containers": [
                    {"name": "proxy", "image": "proxy:1", "ports": [{"containerPort": 2}],
                        "volumeMounts": [{"name": "model", "mountPath": "/m"}]},
                    {
                        "name": "server", "args": ["--flag", ""], "imagePullPolicy": "Always",
                        "env": [{"name": "SERIN_SERVE_DIGEST", "value": ""},
                            {"name": "B",
                             "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                        "resources": {"limits": {"nvidia.com/gpu": 1}, "claims": [{"name": "gpu"}]},
                        "ports": [{"containerPort": 9000, "name": "grpc"}],
                        "livenessProbe": {"grpc": {"port": 9000}},
                        "readinessProbe": {"httpGet": {"path": "/v2/health/ready"}},
                        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
                    },
                ],
            },
        },
    })
}
