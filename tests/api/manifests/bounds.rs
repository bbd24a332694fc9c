//! What exceeds a single bound of the schema, or lacks a single field that it requires: each row
//! breaks one rule that no other row breaks.

use serde_json::{Value, json};

use super::table::{
    By::{Rule, Schema},
    Wrong, rows,
};

/// A duration that is right but for its length of 40 characters.
pub const LONG: &str = "9h9h9h9h9h9h9h9h9h9h9h9h9h9h9h9h9h9h9h9h";

fn letters(count: usize) -> String {
    "a".repeat(count)
}

fn objective(objective: &Value) -> Value {
    json!([objective])
}

fn query(name: &str, promql: &str) -> Value {
    objective(&json!({"name": name, "query": {"promql": promql, "max": 1.5}}))
}

fn no_slower(latency: &Value) -> Value {
    objective(&json!({"name": "a", "noWorseThanStable": {"latency": latency}}))
}

fn custom(custom: &Value) -> Value {
    objective(&json!({
        "name": "a", "errorRate": {"max": "1%"}, "source": "Custom", "custom": custom,
    }))
}

fn requests(requests: &Value) -> Value {
    custom(&json!({"requests": requests}))
}

/// What counts as bad or is ignored, in a list that is else right.
fn classes(list: &str, classes: &Value) -> Value {
    requests(&json!({"metric": "a", "label": "b", list: classes}))
}

fn version(label: &str, value: &str) -> Value {
    custom(&json!({
        "requests": {"metric": "a", "label": "b"},
        "version": {"label": label, "value": value},
    }))
}

fn latency(latency: &Value) -> Value {
    custom(&json!({"requests": {"metric": "a", "label": "b"}, "latency": latency}))
}

fn labels(labels: impl Iterator<Item = (String, String)>) -> Value {
    let labels: Value = labels.map(|(key, value)| (key, json!(value))).collect();
    custom(&json!({"requests": {"metric": "a", "label": "b"}, "labels": labels}))
}

/// Every one of them.
pub fn table() -> Vec<Wrong> {
    let mut table = of_the_model();
    table.extend(of_the_rollout());
    table.extend(of_the_pods());
    table.extend(of_the_evidence());
    table.extend(of_the_service());
    table
}

fn of_the_model() -> Vec<Wrong> {
    rows! {
        Schema "/spec" = Value::Null => "spec";
        Rule "/spec/model" = Value::Null => "spec.model";
        Schema "/spec/model/uri" = Value::Null => "spec.model.uri";
        Schema "/spec/model/credentials" = json!(letters(254)) => "spec.model.credentials";
        Schema "/spec/model/digest" =
            json!(format!("sha256:{}", letters(65)))
            => "spec.model.digest";
        Schema "/spec/objectives" =
            objective(&json!({"name": "errors", "errorRate": {}}))
            => "errorRate.max";
        Schema "/spec/objectives" =
            objective(&json!({"name": "latency", "latency": {"max": "1s"}}))
            => "latency.quantile";
        Rule "/spec/objectives" =
            objective(&json!({"name": "a", "noWorseThanStable": {"errorRate": "0.5"}}))
            => "noWorseThanStable.errorRate";
        Schema "/spec/objectives" =
            no_slower(&json!({"quantile": 0.99}))
            => "noWorseThanStable.latency.by";
        Schema "/spec/objectives" =
            no_slower(&json!({"by": "20%"}))
            => "noWorseThanStable.latency.quantile";
        Schema "/spec/objectives" =
            objective(&json!({"name": "a", "query": {"max": 1.5}}))
            => "query.promql";
        Schema "/spec/objectives" = query(&letters(41), "a") => "spec.objectives[0].name";
        Schema "/spec/objectives" = query("a", "") => "query.promql";
        Schema "/spec/objectives" = query("a", &letters(2049)) => "query.promql";
        Schema "/spec/objectives" =
            objective(&json!({"name": "a", "query": {"promql": "a", "max": 1.5, "then": "Stop"}}))
            => "query.then";
    }
}

fn of_the_rollout() -> Vec<Wrong> {
    rows! {
        Schema "/spec/revisionHistoryLimit" = json!(101) => "spec.revisionHistoryLimit";
        Schema "/spec/rollout/minReady" = json!("99.000000%") => "spec.rollout.minReady";
        Rule "/spec/rollout/minReady" = json!("half") => "spec.rollout.minReady";
        Schema "/spec/rollout/onInsufficientData" =
            json!({"then": "Advance", "after": LONG})
            => "onInsufficientData.after";
        Rule "/spec/rollout/onInsufficientData" =
            json!({"then": "Advance", "after": "soon"})
            => "onInsufficientData.after";
        Schema "/spec/rollout/onMetricsOutage" =
            json!({"then": "Rollback", "hold": LONG})
            => "onMetricsOutage.hold";
        Rule "/spec/rollout/onMetricsOutage" =
            json!({"then": "Rollback", "hold": "soon"})
            => "onMetricsOutage.hold";
        Schema "/spec/rollout/retryToken" = json!(letters(254)) => "spec.rollout.retryToken";
        Schema "/spec/rollout/scaleDownDelay" = json!(LONG) => "spec.rollout.scaleDownDelay";
        Rule "/spec/rollout/scaleDownDelay" = json!("soon") => "spec.rollout.scaleDownDelay";
        Schema "/spec/rollout/steps/0/minRequests" = json!(1_000_000_001) => "minRequests";
        Schema "/spec/rollout/bakeTime" = json!(LONG) => "spec.rollout.bakeTime";
        Schema "/spec/traffic" = json!({"envoy": {"timeout": LONG}}) => "traffic.envoy.timeout";
    }
}

fn of_the_pods() -> Vec<Wrong> {
    let template = |spec: Value| json!({"template": {"spec": spec}});
    let server = |fields: Value| {
        let mut server = json!({"name": "server"});
        let members = server.as_object_mut().unwrap();
        members.extend(fields.as_object().unwrap().clone());
        template(json!({"containers": [server]}))
    };
    let labels: Value = (0..65).map(|n| (format!("l{n}"), json!("a"))).collect();
    rows! {
        Schema "/spec/serving" = json!({"image": ""}) => "spec.serving.image";
        Schema "/spec/serving" =
            json!({"template": {"metadata": {"labels": labels}}})
            => "spec.serving.template.metadata.labels";
        Schema "/spec/serving" =
            template(json!({"containers": vec![json!({"name": "a"}); 17]}))
            => "spec.serving.template.spec.containers";
        Schema "/spec/serving" =
            template(json!({"containers": [{"image": "a:1"}]}))
            => "spec.serving.template.spec.containers[0].name";
        Schema "/spec/serving" =
            template(json!({"volumes": [{"emptyDir": {}}]}))
            => "spec.serving.template.spec.volumes[0].name";
        Schema "/spec/serving" =
            template(json!({"imagePullSecrets": [{}]}))
            => "spec.serving.template.spec.imagePullSecrets[0].name";
        Schema "/spec/serving" =
            server(json!({"env": [{"value": "1"}]}))
            => "spec.serving.template.spec.containers[0].env[0].name";
        Schema "/spec/serving" =
            server(json!({"volumeMounts": [{"name": "a"}]}))
            => "spec.serving.template.spec.containers[0].volumeMounts[0].mountPath";
    }
}

fn of_the_evidence() -> Vec<Wrong> {
    let many = || (0..9).map(|number| (format!("l{number}"), "a".to_owned()));
    let one = |value: String| [("l".to_owned(), value)].into_iter();
    let thirty_three = || json!(vec!["5xx"; 33]);
    rows! {
        Schema "/spec/objectives" = labels(many()) => "custom.labels";
        Schema "/spec/objectives" = labels(one(letters(201))) => "custom.labels.l";
        Schema "/spec/objectives" = latency(&json!({})) => "custom.latency.metric";
        Schema "/spec/objectives" =
            latency(&json!({"metric": letters(201)}))
            => "custom.latency.metric";
        Rule "/spec/objectives" = latency(&json!({"metric": "a b"})) => "custom.latency.metric";
        Schema "/spec/objectives" =
            latency(&json!({"metric": "a", "unit": "Minutes"}))
            => "custom.latency.unit";
        Schema "/spec/objectives" = requests(&json!({"metric": "a"})) => "custom.requests.label";
        Schema "/spec/objectives" = requests(&json!({"label": "a"})) => "custom.requests.metric";
        Schema "/spec/objectives" =
            requests(&json!({"metric": letters(201), "label": "a"}))
            => "custom.requests.metric";
        Schema "/spec/objectives" =
            requests(&json!({"metric": "a", "label": letters(101)}))
            => "custom.requests.label";
        Schema "/spec/objectives" = classes("bad", &json!([])) => "custom.requests.bad";
        Schema "/spec/objectives" = classes("bad", &thirty_three()) => "custom.requests.bad";
        Schema "/spec/objectives" = classes("bad", &json!([""])) => "custom.requests.bad[0]";
        Schema "/spec/objectives" =
            classes("bad", &json!([letters(65)]))
            => "custom.requests.bad[0]";
        Schema "/spec/objectives" =
            classes("ignored", &thirty_three())
            => "custom.requests.ignored";
        Schema "/spec/objectives" =
            classes("ignored", &json!([""]))
            => "custom.requests.ignored[0]";
        Schema "/spec/objectives" =
            classes("ignored", &json!([letters(65)]))
            => "custom.requests.ignored[0]";
        Schema "/spec/objectives" =
            custom(&json!({"requests": {"metric": "a", "label": "b"}, "version": {"value": "a"}}))
            => "custom.version.label";
        Schema "/spec/objectives" =
            custom(&json!({"requests": {"metric": "a", "label": "b"}, "version": {"label": "a"}}))
            => "custom.version.value";
        Schema "/spec/objectives" = version(&letters(101), "a") => "custom.version.label";
        Rule "/spec/objectives" = version("a-b", "{{revision}}") => "custom.version.label";
        Schema "/spec/objectives" = version("a", "") => "custom.version.value";
        Schema "/spec/objectives" = version("a", &letters(201)) => "custom.version.value";
    }
}

fn of_the_service() -> Vec<Wrong> {
    let ports = |ports: Value| json!({"ports": ports});
    let many = || (1..=9).map(|port| json!({"name": format!("p{port}"), "port": port}));
    rows! {
        Schema "/spec/service" = json!({"name": ""}) => "spec.service.name";
        Schema "/spec/service" = json!({"name": letters(64)}) => "spec.service.name";
        Schema "/spec/service" = ports(json!([])) => "spec.service.ports";
        Schema "/spec/service" = ports(many().collect()) => "spec.service.ports";
        Schema "/spec/service" = ports(json!([{"port": 80}])) => "ports[0].name";
        Schema "/spec/service" = ports(json!([{"name": "a"}])) => "ports[0].port";
        Schema "/spec/service" = ports(json!([{"name": "", "port": 80}])) => "ports[0].name";
        Schema "/spec/service" =
            ports(json!([{"name": letters(64), "port": 80}]))
            => "ports[0].name";
        Schema "/spec/service" = ports(json!([{"name": "a", "port": 0}])) => "ports[0].port";
        Schema "/spec/service" = ports(json!([{"name": "a", "port": 65536}])) => "ports[0].port";
        Schema "/spec/service" =
            ports(json!([{"name": "a", "port": 80, "appProtocol": ""}]))
            => "ports[0].appProtocol";
        Schema "/spec/service" =
            ports(json!([{"name": "a", "port": 80, "appProtocol": letters(254)}]))
            => "ports[0].appProtocol";
    }
}
