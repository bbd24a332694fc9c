//! Tests of `report::explain::in_force`.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::api::VersionSpec;

fn model(spec: &Value) -> ModelDeployment {
    serde_json::from_value(json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
        "metadata": {"name": "churn", "namespace": "ml"}, "spec": spec,
    }))
    .unwrap()
}

/// A spec that chooses nothing.
fn minimal() -> Value {
    json!({
        "model": {"uri": "pvc://models/churn/2", "version": "2.1.0"},
        "objectives": [{"name": "errors", "errorRate": {"max": "1%"}}],
    })
}

/// A spec with an objective of each kind.
fn declared() -> Value {
    let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
    json!({
        "model": {"uri": "oci://registry.example.com/models/churn:2.1.0", "version": "2.1.0",
            "digest": digest},
        "replicas": 1,
        "serving": {
            "port": 8080,
            "template": {
                "metadata": {"labels": {"team": "risk"}},
                "spec": {
                    "nodeSelector": {}, "priorityClassName": "high",
                    "containers": [{"name": "server", "resources": {"limits": {"memory": "2Gi"}}}],
                },
            },
        },
        "service": {"ports": [{"name": "grpc", "port": 9000, "appProtocol": "kubernetes.io/h2c"}]},
        "objectives": [
            {"name": "latency", "latency": {"quantile": 0.99, "max": "250ms"}},
            {"name": "errors", "errorRate": {"max": "1%"}, "source": "Custom", "custom": {
                "requests": {"metric": "answers_total", "label": "code"},
                "latency": {"metric": "answer_seconds"},
            }},
            {"name": "beside-stable", "source": "Istio", "noWorseThanStable":
                {"latency": {"quantile": 0.5, "by": "20%"}, "errorRate": "0.5%"}},
            {"name": "drift", "predictionDrift": {}},
            {"name": "queue", "query": {"promql": "max(queue_length)", "max": 3}},
        ],
        "rollout": {
            "steps": [{"weight": 10, "pause": {}}, {"weight": 100, "minDuration": "90s"}],
            "bakeTime": "600s", "onMetricsOutage": {"then": "Rollback"}, "newer": {"a": 1},
        },
    })
}

/// A version's record, of an operator whose bundled image was `serve:1`, whose port 9090.
fn record(spec: &Value) -> KnownVersion {
    let mut version = VersionSpec::of(&model(spec).spec);
    version.serving.image = Some("serve:1".to_owned());
    version.serving.port.get_or_insert(9090);
    let mount = json!({"name": "model", "mountPath": "/models"});
    KnownVersion {
        number: 1,
        spec: version,
        template: json!({"spec": {"containers": [
            {"name": "server", "volumeMounts": [mount]},
        ]}}),
        reign: None,
        until: None,
        data: Value::Null,
    }
}

fn page(spec: &Value, record: Option<&KnownVersion>, width: usize) -> String {
    let mut page = Page::new(jiff::Timestamp::UNIX_EPOCH, width);
    write(&mut page, &model(spec), spec, record);
    page.text()
}

fn row(spec: &Value, record: Option<&KnownVersion>, path: &str) -> (Origin, String) {
    let rows = rows(&model(spec), spec, record);
    let found = rows.into_iter().find(|row| row.path == path);
    let found = found.unwrap_or_else(|| panic!("{path} has no value"));
    (found.origin, found.value)
}

#[test]
fn each_value_in_force_is_shown_with_its_origin() {
    insta::assert_snapshot!("declared", page(&declared(), None, 80));
    let minimal = minimal();
    insta::assert_snapshot!("minimal", page(&minimal, Some(&record(&minimal)), 80));
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    for width in [80, 100, 140] {
        let text = page(&declared(), None, width);
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(width), "{width}:\n{text}");
    }
}

/// Sets the value at a path of object fields.
fn set(spec: &mut Value, path: &str, value: Value) {
    let mut node = spec;
    for name in path.split('.') {
        node = &mut node[name];
    }
    *node = value;
}

/// The leaves of objects, by path.
fn leaves(value: &Value, path: &str, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                leaves(value, &join(path, name), found);
            }
        }
        leaf => found.push((path.to_owned(), leaf.clone())),
    }
}

/// A default that changes is seen by the objects that store none, since nothing but the operator
/// has it; an object that stores the value keeps it.
#[test]
fn a_value_is_a_default_until_the_user_writes_it() {
    let minimal = minimal();
    let before = rows(&model(&minimal), &minimal, None);
    let mut found = Vec::new();
    let in_force = in_force(&model(&minimal), None);
    leaves(&in_force, "", &mut found);
    found.retain(|(path, _)| {
        !path.starts_with("model.") && path != "objectives" && path != "serving.image"
    });
    assert!(found.len() > 20, "{found:?}");
    for (path, value) in found {
        let of = |row: &&Row| row.path == path || row.path.starts_with(&format!("{path}["));
        assert!(before.iter().any(|row| of(&row)), "{path} is not shown");
        for row in before.iter().filter(of) {
            assert_eq!(row.origin, Origin::Default, "{path}");
        }
        let mut written = minimal.clone();
        set(&mut written, &path, value);
        let after = rows(&model(&written), &written, None);
        for row in after.iter().filter(of) {
            assert_eq!(row.origin, Origin::Spec, "{path}");
        }
        let others = |rows: &[Row]| -> Vec<String> {
            let others = rows.iter().filter(|row| !of(row));
            others.map(|row| format!("{row:?}")).collect()
        };
        assert_eq!(others(&after), others(&before), "{path}");
    }
}

/// Fields that mean nothing where they are absent.
const NOTHING: [&str; 8] = [
    "model.credentials",
    "objectives[].custom.labels",
    "objectives[].custom.version",
    "objectives[].query.min",
    "rollout.retryToken",
    "rollout.steps[].pause.duration",
    "service.ports[].appProtocol",
    "serving.template",
];

/// The paths of the schema's fields, and those of a value's leaves.
fn paths(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    if NOTHING.contains(&path) {
        return;
    }
    let items = &schema["items"];
    if items["properties"].is_object() {
        return paths(items, &format!("{path}[]"), found);
    }
    match schema["properties"].as_object() {
        Some(fields) if !fields.is_empty() => {
            for (name, schema) in fields {
                paths(schema, &join(path, name), found);
            }
        }
        _ => {
            found.insert(path.to_owned());
        }
    }
}

fn shown(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                shown(value, &join(path, name), found);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for item in items {
                shown(item, &format!("{path}[]"), found);
            }
        }
        _ => {
            found.insert(path.to_owned());
        }
    }
}

#[test]
fn every_field_of_the_schema_has_a_value_in_force() {
    let crd = serde_json::to_value(crd().unwrap()).unwrap();
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let (mut fields, mut found) = (BTreeSet::new(), BTreeSet::new());
    paths(crd.pointer(spec).unwrap(), "", &mut fields);
    let mut declared = declared();
    declared["rollout"]["steps"][0]["pause"] = json!({"duration": "1m"});
    shown(&in_force(&model(&declared), None), "", &mut found);
    let missing: Vec<_> = fields.difference(&found).collect();
    assert!(
        missing.is_empty(),
        "write their defaults out in ModelDeployment::spec_in_force, or name them in NOTHING: \
         {missing:?}"
    );
}

#[test]
fn what_the_installation_decides_is_read_from_the_versions_record_or_said_to_be_unknown() {
    let minimal = minimal();
    let (origin, value) = row(&minimal, None, "serving.image");
    assert_eq!(origin, Origin::Operator);
    assert!(value.contains("chart: serving.image"), "{value}");
    let recorded = record(&minimal);
    let image = row(&minimal, Some(&recorded), "serving.image");
    assert_eq!(image, (Origin::Operator, "serve:1".to_owned()));
    let port = row(&minimal, Some(&recorded), "serving.port");
    assert_eq!(port, (Origin::Default, "9090".to_owned()), "not today's");
    let path = row(&minimal, Some(&recorded), "serving.modelMountPath");
    assert_eq!(path, (Origin::Default, "/models".to_owned()));

    let mut own = minimal;
    own["serving"] = json!({"image": "vllm:1"});
    let image = row(&own, None, "serving.image");
    assert_eq!(image, (Origin::Spec, "vllm:1".to_owned()));
    let (_, path) = row(&own, None, "serving.modelMountPath");
    assert!(
        path.contains("unless the image is the bundled one"),
        "{path}"
    );
}

#[test]
fn a_value_that_the_crd_may_have_written_is_not_taken_for_the_users() {
    for (replicas, is_doubtful) in [(1, true), (3, false)] {
        let mut spec = minimal();
        spec["replicas"] = json!(replicas);
        let (origin, value) = row(&spec, None, "replicas");
        assert_eq!(origin, Origin::Spec);
        assert_eq!(
            value.contains("where you wrote none"),
            is_doubtful,
            "{value}"
        );
    }
}
