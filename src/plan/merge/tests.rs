//! Tests of `plan::merge`, against what `kubectl patch --type strategic` makes of the same.

use k8s_openapi::{DeepMerge, api::core::v1::PodTemplateSpec};
use serde_json::{Value, json};

use super::*;

fn merged(mut onto: Value, template: &Value) -> Value {
    merge(&mut onto, template.as_object().unwrap());
    onto
}

fn spec(spec: &Value) -> Value {
    json!({"spec": spec})
}

fn server(fields: &Value) -> Value {
    let mut server = json!({"name": "server"});
    server
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    spec(&json!({"containers": [server]}))
}

/// Each row: what is rendered, the template, and the result.
#[test]
fn lists_are_merged_by_the_keys_that_kubernetes_declares() {
    let probe = |handler: &Value| server(&json!({"readinessProbe": handler}));
    let rows = [
        // Containers by name; the new one comes last.
        (
            spec(&json!({"containers": [{"name": "server", "image": "a"}]})),
            spec(&json!({"containers": [{"name": "proxy"}, {"name": "server", "tty": true}]})),
            spec(&json!({"containers": [
                {"name": "server", "image": "a", "tty": true}, {"name": "proxy"},
            ]})),
        ),
        (
            spec(&json!({"initContainers": [{"name": "fetch", "image": "a"}]})),
            spec(&json!({"initContainers": [{"name": "wait", "env": [{"name": "A"}]}]})),
            spec(&json!({"initContainers": [
                {"name": "fetch", "image": "a"}, {"name": "wait", "env": [{"name": "A"}]},
            ]})),
        ),
        // Variables by name; another source replaces the value.
        (
            server(&json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]})),
            server(&json!({"env": [{"name": "C"}, {"name": "A", "valueFrom": {"x": 1}}]})),
            server(&json!({"env": [
                {"name": "A", "valueFrom": {"x": 1}}, {"name": "B", "value": "2"}, {"name": "C"},
            ]})),
        ),
        // Ports by number and protocol.
        (
            server(&json!({"ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}]})),
            server(&json!({"ports": [
                {"containerPort": 80, "name": "web"}, {"containerPort": 80, "protocol": "UDP"},
            ]})),
            server(&json!({"ports": [
                {"containerPort": 80, "protocol": "TCP", "name": "web"},
                {"containerPort": 80, "protocol": "UDP"},
            ]})),
        ),
        // Mounts by path, devices by theirs.
        (
            server(
                &json!({"volumeMounts": [{"mountPath": "/m", "name": "model"}],
                "volumeDevices": [{"devicePath": "/d", "name": "a"}]}),
            ),
            server(
                &json!({"volumeMounts": [{"mountPath": "/m", "subPath": "a"}],
                "volumeDevices": [{"devicePath": "/e", "name": "a"}]}),
            ),
            server(&json!({
                "volumeMounts": [{"mountPath": "/m", "name": "model", "subPath": "a"}],
                "volumeDevices": [
                    {"devicePath": "/d", "name": "a"}, {"devicePath": "/e", "name": "a"},
                ],
            })),
        ),
        // A probe of the same kind is merged, one of another kind replaces ours.
        (
            probe(&json!({"httpGet": {"path": "/readyz", "port": 80}, "periodSeconds": 2})),
            probe(&json!({"httpGet": {"path": "/health"}})),
            probe(&json!({"httpGet": {"path": "/health", "port": 80}, "periodSeconds": 2})),
        ),
        (
            probe(&json!({"httpGet": {"path": "/readyz", "port": 80}, "periodSeconds": 2})),
            probe(&json!({"grpc": {"port": 81}, "periodSeconds": 5})),
            probe(&json!({"grpc": {"port": 81}, "periodSeconds": 5})),
        ),
        // Lists without a merge key are replaced, by an empty one as well.
        (
            spec(&json!({"tolerations": [{"key": "a"}]})),
            spec(&json!({"tolerations": [{"key": "b"}]})),
            spec(&json!({"tolerations": [{"key": "b"}]})),
        ),
        (
            server(
                &json!({"securityContext": {"capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": true}}),
            ),
            server(&json!({"securityContext": {"capabilities": {"drop": []}}})),
            server(&json!({"securityContext": {"capabilities": {"drop": []},
                "readOnlyRootFilesystem": true}})),
        ),
        // By keys of other names.
        (
            spec(
                &json!({"topologySpreadConstraints": [{"topologyKey": "host", "maxSkew": 1}],
                "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["a"]}],
                "imagePullSecrets": [{"name": "a"}], "volumes": [{"name": "model"}],
                "resourceClaims": [{"name": "a"}], "schedulingGates": [{"name": "a"}]}),
            ),
            spec(
                &json!({"topologySpreadConstraints": [{"topologyKey": "host", "maxSkew": 2},
                    {"topologyKey": "zone"}],
                "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["b"]}],
                "imagePullSecrets": [{"name": "a"}, {"name": "b"}], "volumes": [{"name": "b"}],
                "resourceClaims": [{"name": "b"}], "schedulingGates": [{"name": "b"}]}),
            ),
            spec(
                &json!({"topologySpreadConstraints": [{"topologyKey": "host", "maxSkew": 2},
                    {"topologyKey": "zone"}],
                "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["b"]}],
                "imagePullSecrets": [{"name": "a"}, {"name": "b"}],
                "volumes": [{"name": "model"}, {"name": "b"}],
                "resourceClaims": [{"name": "a"}, {"name": "b"}],
                "schedulingGates": [{"name": "a"}, {"name": "b"}]}),
            ),
        ),
        // Maps by key; a field that no release knows is kept.
        (
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {"labels": {"b": "2"}}, "spec": {"newerThanUs": {"a": [1]}}}),
            json!({"metadata": {"labels": {"a": "1", "b": "2"}},
                "spec": {"newerThanUs": {"a": [1]}}}),
        ),
    ];
    for (onto, template, expected) in rows {
        assert_eq!(merged(onto, &template), expected, "{template}");
    }
}

/// Where all fields are known, and none is a union, the typed merge says the same.
#[test]
fn the_table_agrees_with_the_typed_merge_of_k8s_openapi() {
    let ours = json!({
        "metadata": {"labels": {"a": "1"}},
        "spec": {
            "containers": [{"name": "server", "args": ["a"],
                "env": [{"name": "A", "value": "1"}],
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "volumeMounts": [{"name": "model", "mountPath": "/m", "readOnly": true}],
                "resources": {"requests": {"cpu": "1"}}}],
            "initContainers": [{"name": "fetch"}],
            "volumes": [{"name": "model"}],
            "tolerations": [{"key": "a"}],
            "topologySpreadConstraints": [
                {"topologyKey": "host", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"},
            ],
        },
    });
    let template = json!({
        "metadata": {"labels": {"b": "2"}},
        "spec": {
            "containers": [
                {"name": "server", "args": ["b"],
                    "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "3"}],
                    "ports": [{"containerPort": 81, "protocol": "TCP"}],
                    "volumeMounts": [{"name": "b", "mountPath": "/b"}],
                    "resources": {"requests": {"memory": "1Gi"}, "limits": {"cpu": "2"}}},
                {"name": "proxy", "image": "p:1"},
            ],
            "initContainers": [{"name": "wait"}],
            "volumes": [{"name": "b"}],
            "tolerations": [{"key": "b"}],
            "priorityClassName": "high",
            "topologySpreadConstraints": [
                {"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"},
            ],
        },
    });
    let mut typed: PodTemplateSpec = serde_json::from_value(ours.clone()).unwrap();
    typed.merge_from(serde_json::from_value(template.clone()).unwrap());
    let merged: PodTemplateSpec = serde_json::from_value(merged(ours, &template)).unwrap();
    assert_eq!(merged, typed);
}
