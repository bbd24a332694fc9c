//! Pod settings of a version: invalid ones that a Deployment would refuse, and rare valid ones.

use serde_json::{Value, json};

use super::table::{
    By::{Rule, Schema},
    Wrong, rows,
};

/// Every wrong manifest of these.
pub fn table() -> Vec<Wrong> {
    let rows = rows! {
        Rule "/spec/serving" = json!({"image": "registry/Serve:1"}) => "serving.image";
        Rule "/spec/serving" = json!({"image": "serve 2:1"}) => "serving.image";
        Rule "/spec/serving" = json!({"image": "https://ghcr.io/serve:1"}) => "serving.image";
        Rule "/spec/serving" = json!({"image": "serve@sha256:12"}) => "serving.image";
        Schema "/spec/serving" = json!({"image": "a".repeat(513)}) => "serving.image";
        Rule "/spec/serving" = json!({"livenessPath": "livez"}) => "serving.livenessPath";
        Rule "/spec/serving" = json!({"serviceAccountName": "My_Account"}) => "serviceAccountName";
        Rule "/spec/serving" =
            json!({"imagePullSecrets": [{"name": "a"}, {"name": "B"}]})
            => "imagePullSecrets[1].name";
        Rule "/spec/serving" =
            json!({"imagePullSecrets": [{"name": "a"}, {"name": "a"}]})
            => "imagePullSecrets";
        Schema "/spec/serving" = json!({"imagePullSecrets": [{}]}) => "imagePullSecrets[0].name";
        Schema "/spec/serving" = json!({"args": vec!["a"; 65]}) => "serving.args";
        Rule "resources" = json!({"limits": {"cpu": "lots"}}) => "resources.limits[cpu]";
        Rule "resources" = json!({"limits": {"memory": "4GB"}}) => "resources.limits[memory]";
        Rule "resources" = json!({"limits": {"memory": "-1Gi"}}) => "resources.limits[memory]";
        Rule "resources" = json!({"requests": {"cpu": -1}}) => "resources.requests[cpu]";
        Rule "resources" = json!({"requests": {"cpu": ""}}) => "resources.requests[cpu]";
        Rule "resources" = json!({"limits": {"gpu": 1}}) => "resources.limits";
        Rule "resources" = json!({"limits": {"nvidia.com/gpu": "500m"}}) => "resources.limits";
        Rule "resources" =
            json!({"requests": {"cpu": 2}, "limits": {"cpu": "1500m"}})
            => "resources";
        Rule "resources" =
            json!({"requests": {"nvidia.com/gpu": 1}, "limits": {"nvidia.com/gpu": 2}})
            => "resources";
        Rule "resources" =
            json!({"requests": {"nvidia.com/gpu": 1}, "limits": {"cpu": 2}})
            => "resources";
        Rule "resources" = json!({"requests": {"nvidia.com/gpu": 1}}) => "resources";
        Schema "/spec/serving" =
            json!({"resources": {"limits": {"cpu": 0.5}}})
            => "resources.limits";
        Rule "env" =
            json!([{"name": "A", "value": "1"}, {"name": "A=B", "value": "1"}])
            => "env[1].name";
        Rule "env" = json!([{"name": ""}]) => "env[0].name";
        Rule "env" = json!([{"name": "Ä"}]) => "env[0].name";
        Rule "env" = json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]) => "env";
        Schema "env" = json!([{"value": "1"}]) => "env[0].name";
        Schema "env" = json!([{"name": "A", "value": 1}]) => "env[0].value";
        Rule "env" = json!([{"name": "A", "valueFrom": {}}]) => "env[0].valueFrom";
        Rule "env" =
            json!([{"name": "A", "value": "1",
                        "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}])
            => "env[0]";
        Rule "env" =
            json!([{"name": "A",
                        "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"},
                            "configMapKeyRef": {"name": "a", "key": "b"}}}])
            => "env[0].valueFrom";
        Rule "env" =
            json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "a", "key": "no key"}}}])
            => "env[0].valueFrom";
        Rule "env" =
            json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "-a", "key": "b"}}}])
            => "env[0].valueFrom";
        Rule "env" =
            json!([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.hostname"}}}])
            => "env[0].valueFrom.fieldRef";
        Rule "env" =
            json!([{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.gpu"}}}])
            => "env[0].valueFrom.resourceFieldRef";
        Rule "/spec/serving" = json!({"nodeSelector": {"gpu type": "a100"}}) => "nodeSelector";
        Rule "/spec/serving" = json!({"nodeSelector": {"gpu": "a 100"}}) => "nodeSelector[gpu]";
        Schema "/spec/serving" = json!({"nodeSelector": {"gpu": true}}) => "nodeSelector";
        Schema "tolerations" =
            json!([{"key": "gpu", "operator": "Is"}])
            => "tolerations[0].operator";
        Schema "tolerations" =
            json!([{"key": "gpu", "effect": "NoRun"}])
            => "tolerations[0].effect";
        Rule "tolerations" = json!([{"operator": "Equal", "value": "a"}]) => "tolerations[0]";
        Rule "tolerations" =
            json!([{"key": "gpu", "operator": "Exists", "value": "a"}])
            => "tolerations[0]";
        Rule "tolerations" =
            json!([{"key": "a gpu", "operator": "Exists"}])
            => "tolerations[0].key";
        Rule "tolerations" = json!([{"key": "gpu", "value": "a 100"}]) => "tolerations[0].value";
        Rule "tolerations" =
            json!([{"key": "gpu", "operator": "Exists", "effect": "NoSchedule",
                        "tolerationSeconds": 3}])
            => "tolerations[0]";
    };
    let of_serving = |row: Wrong| match row.pointer {
        "/spec/serving" => row,
        member => Wrong {
            pointer: "/spec/serving",
            value: json!({member: row.value}),
            ..row
        },
    };
    rows.into_iter().map(of_serving).collect()
}

/// Every field of the pods, with what is rare and right.
pub fn full() -> Value {
    let from = |source: &str, of: Value| json!({"name": source, "valueFrom": {source: of}});
    json!({
        "image": "Registry.example.com:5000/team/serve_llm--gpu:v1.0_a",
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{"name": "a.b"}, {"name": "c"}],
        "args": ["--flag", ""],
        "env": [
            {"name": "A"}, {"name": "B", "value": ""}, {"name": "a.b-c/d e", "value": "x=y"},
            from("secretKeyRef", json!({"name": "a", "key": ".b_C-1", "optional": true})),
            from("configMapKeyRef", json!({"name": "a", "key": "b"})),
            from("fieldRef",
                json!({"fieldPath": "metadata.labels['serin.dev/model']", "apiVersion": "v1"})),
            from("resourceFieldRef",
                json!({"resource": "limits.memory", "divisor": "1Mi", "containerName": "model"})),
        ],
        "resources": {
            "limits": {"cpu": 2, "memory": "4Gi", "nvidia.com/gpu": 1, "hugepages-2Mi": "64Mi"},
            "requests": {"cpu": "2000m", "memory": "4096Mi", "nvidia.com/gpu": "1",
                "ephemeral-storage": "1e9"},
        },
        "port": 1, "readinessPath": "/", "livenessPath": "/v2/health/live?x=1",
        "serviceAccountName": "models.reader",
        "nodeSelector": {"nvidia.com/gpu.product": "A100", "empty": ""},
        "tolerations": [
            {"operator": "Exists"}, {"key": "", "operator": "Exists", "effect": ""}, {"key": "gpu"},
            {"key": "nvidia.com/gpu", "operator": "Equal", "value": "a", "effect": "NoExecute",
                "tolerationSeconds": -1},
        ],
    })
}
