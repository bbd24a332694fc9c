//! The manifests: invalid ones, and unusual valid ones.

use By::{Operator, Rule, Schema};
use serde_json::{Value, json};

use super::{
    bounds::{self, LONG},
    pods,
};
use crate::world::{manifest, with};

/// Which check refuses a manifest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Schema,
    Rule,
    Operator,
    /// The API server, by the dry run of the version's Deployment.
    ApiServer,
}

/// One invalid manifest: pointer and value, the check that refuses it, and the field that the error
/// names.
pub struct Wrong {
    pub pointer: &'static str,
    pub value: Value,
    pub by: By,
    pub field: &'static str,
}

/// Rows of a table: `BY POINTER = VALUE => FIELD;`.
macro_rules! rows {
    ($($by:ident $pointer:literal = $value:expr => $field:literal;)*) => {
        vec![$(Wrong { pointer: $pointer, value: $value, by: $by, field: $field }),*]
    };
}
pub(super) use rows;

/// The spec with two fields changed.
fn two(one: (&str, Value), other: (&str, Value)) -> Value {
    let mut manifest = manifest("1");
    for (field, value) in [one, other] {
        manifest = with(manifest, &format!("/spec/{field}"), value);
    }
    manifest["spec"].take()
}

/// Every wrong manifest.
pub fn table() -> Vec<Wrong> {
    let errors = |max: &str| json!([{"name": "errors", "errorRate": {"max": max}}]);
    let latency_at = |quantile: Value, max: &str| -> Value {
        json!([{"name": "latency", "latency": {"quantile": quantile, "max": max}}])
    };
    let latency = |quantile: f64, max: &str| latency_at(json!(quantile), max);
    let weights = |weights: &[i32]| -> Value {
        weights
            .iter()
            .map(|weight| json!({"weight": weight}))
            .collect()
    };
    let named = |name: &str, max: &str| json!({"name": name, "errorRate": {"max": max}});
    let slow =
        |name: &str, max: &str| json!({"name": name, "latency": {"quantile": 0.99, "max": max}});
    let both = json!([{
        "name": "errors", "errorRate": {"max": "1%"}, "latency": {"quantile": 0.99, "max": "1s"},
    }]);
    let no_worse =
        |no_worse: Value| json!([{"name": "beside-stable", "noWorseThanStable": no_worse}]);
    let two_gates = json!({"errorRate": "1%", "latency": {"quantile": 0.99, "by": "20%"}});
    let query = |promql: &str, limits: Value| {
        let mut query = json!({"promql": promql});
        let members = query.as_object_mut().unwrap();
        members.extend(limits.as_object().unwrap().clone());
        json!({"name": "a", "query": query})
    };
    let judged_by = |kind: &str, what: Value, source: &str, custom: Value| -> Value {
        with(
            json!([{"name": "a", kind: what, "source": source, "custom": custom}]),
            "/0/custom",
            custom,
        )
    };
    let errors_by =
        |source: &str, custom: Value| judged_by("errorRate", json!({"max": "1%"}), source, custom);
    let custom = |custom: Value| errors_by("Custom", custom);
    let counter = || json!({"requests": {"metric": "a", "label": "b"}});
    let without_model = |serving: Value| two(("serving", serving), ("model", Value::Null));
    let limited = |window: Value| {
        let rollout = json!({"rollbackWindow": window});
        two(("rollout", rollout), ("revisionHistoryLimit", json!(2)))
    };
    let port = |name: &str, port: i32, protocol: &str| -> Value {
        json!({"ports": [{"name": name, "port": port, "appProtocol": protocol}]})
    };
    let mut table = rows! {
        // What is judged beside stable, by class and by query.
        Rule "/spec/objectives" = no_worse(json!({})) => "noWorseThanStable";
        Rule "/spec/objectives" =
            no_worse(json!({"errorRate": "0%"}))
            => "noWorseThanStable.errorRate";
        Rule "/spec/objectives" =
            no_worse(json!({"errorRate": "100%"}))
            => "noWorseThanStable.errorRate";
        Rule "/spec/objectives" =
            no_worse(json!({"latency": {"quantile": 99.5, "by": "20%"}}))
            => "noWorseThanStable.latency.quantile";
        Rule "/spec/objectives" =
            no_worse(json!({"latency": {"quantile": 0.99, "by": "1.2"}}))
            => "noWorseThanStable.latency.by";
        Rule "/spec/objectives" =
            json!([{"name": "drift", "predictionDrift": {"max": 0.0}}])
            => "predictionDrift.max";
        Schema "/spec/objectives" =
            json!([{"name": "drift", "predictionDrift": {"then": "Promote"}}])
            => "predictionDrift.then";
        Rule "/spec/objectives" =
            json!([{"name": "a", "predictionDrift": {}}, {"name": "b", "predictionDrift": {}}])
            => "spec.objectives";
        Rule "/spec/objectives" = json!([query("a", json!({}))]) => "query";
        Rule "/spec/objectives" = json!([query("a", json!({"min": 2.5, "max": 1.5}))]) => "query";
        Rule "/spec/objectives" =
            json!([query("a", json!({"max": 1.5})), query("b", json!({"max": 1.5}))])
            => "spec.objectives";
        Rule "/spec/objectives" =
            json!([named("No Name", "1%")])
            => "spec.objectives[0].name";
        Rule "/spec/objectives" = json!([named("a-", "1%")]) => "spec.objectives[0].name";
        Schema "/spec/objectives" = json!([named("", "1%")]) => "spec.objectives[0].name";
        Schema "/spec/objectives" =
            json!([{"errorRate": {"max": "1%"}}])
            => "spec.objectives[0].name";
        Rule "/spec/objectives" =
            json!([named("a-latency", "1%"), {"name": "a", "noWorseThanStable": two_gates}])
            => "spec.objectives";
        Operator "/spec/objectives" = json!([query("sum(", json!({"max": 1.5}))]) => "query.promql";
        Operator "/spec/objectives" =
            json!([query("{\"a\", \"b} or c{d\"=\"e\"}", json!({"max": 1.5}))])
            => "query.promql";
        Operator "/spec/objectives" =
            json!([query("up{pod=\"{{pod}}\"}", json!({"max": 1.5}))])
            => "query.promql";
        // Whose counters judge it.
        Schema "/spec/objectives" =
            errors_by("Haproxy", Value::Null)
            => "spec.objectives[0].source";
        Rule "/spec/objectives" = errors_by("Custom", Value::Null) => "custom";
        Rule "/spec/objectives" = errors_by("Istio", counter()) => "custom";
        Rule "/spec/objectives" =
            json!([{"name": "a", "errorRate": {"max": "1%"}, "custom": counter()}])
            => "custom";
        Rule "/spec/objectives" =
            judged_by("predictionDrift", json!({}), "Serving", Value::Null)
            => "source";
        Rule "/spec/objectives" =
            judged_by("query", json!({"promql": "a", "max": 1.5}), "Istio", Value::Null)
            => "source";
        Rule "/spec/objectives" =
            judged_by("latency", json!({"quantile": 0.99, "max": "1s"}), "Custom", counter())
            => "custom.latency";
        Rule "/spec/objectives" =
            judged_by(
                "noWorseThanStable",
                json!({"latency": {"quantile": 0.99, "by": "1%"}}),
                "Custom",
                counter(),
            )
            => "custom.latency";
        Rule "/spec/objectives" =
            judged_by(
                "noWorseThanStable",
                json!({"errorRate": "1%"}),
                "Custom",
                json!({"latency": {"metric": "a"}}),
            )
            => "custom.requests";
        Rule "/spec/objectives" =
            json!([
                {"name": "a", "errorRate": {"max": "1%"}, "source": "Istio"},
                {"name": "b", "errorRate": {"max": "2%"}, "source": "Istio"},
            ])
            => "spec.objectives";
        Operator "/spec/objectives" =
            json!([
                {"name": "a", "errorRate": {"max": "1%"}, "source": "Custom", "custom": counter()},
                {"name": "b", "errorRate": {"max": "2%"}, "source": "Custom", "custom": counter()},
            ])
            => "spec.objectives";
        Rule "/spec/objectives" = custom(json!({})) => "custom";
        Rule "/spec/objectives" =
            custom(json!({"requests": {"metric": "a{} or b", "label": "code"}}))
            => "custom.requests.metric";
        Rule "/spec/objectives" =
            custom(json!({"requests": {"metric": "a", "label": "code=\"\",x"}}))
            => "custom.requests.label";
        Rule "/spec/objectives" =
            custom(json!({"requests": {"metric": "a", "label": "code"},
                        "latency": {"metric": "a_bucket"}}))
            => "custom.latency.metric";
        Rule "/spec/objectives" =
            custom(json!({"requests": {"metric": "a", "label": "code"},
                        "version": {"label": "v", "value": "{{name}}"}}))
            => "custom.version.value";
        Operator "/spec/objectives" =
            custom(json!({"requests": {"metric": "a", "label": "code"},
                        "version": {"label": "v", "value": "{{revision}}-{{pod}}"}}))
            => "custom.version.value";
        Rule "/spec/objectives" =
            custom(json!({"requests": {"metric": "a", "label": "code"},
                        "labels": {"namespace": "other"}}))
            => "custom.labels";
        Rule "/spec/objectives" = custom(json!({"latency": {"metric": "a"}})) => "custom.requests";
        // The model.
        Schema "/spec/model/version" = Value::Null => "spec.model.version";
        Schema "/spec/model/version" = json!("") => "spec.model.version";
        Rule "/spec/model/version" = json!("2 beta") => "spec.model.version";
        Schema "/spec/model/version" = json!("2".repeat(64)) => "spec.model.version";
        Schema "/spec/model/version" = json!(2) => "spec.model.version";
        Rule "/spec/model/version" = json!("latest") => "spec.model.version";
        Rule "/spec/model/version" = json!("Main") => "spec.model.version";
        Rule "/spec/model" =
            json!({"uri": "https://example.com/m", "version": "1"})
            => "spec.model.digest";
        Rule "/spec/model" =
            json!({"uri": "oci://example.com/m:1", "version": "1"})
            => "spec.model.digest";
        Rule "/spec/model/digest" = json!("sha256:AB") => "spec.model.digest";
        Rule "/spec/model/digest" = json!("md5:0123") => "spec.model.digest";
        Operator "/spec/model/uri" = json!("https://example.com/m") => "spec.model.uri";
        Operator "/spec/model/uri" = json!("s3://bucket/m") => "spec.model.uri";
        Rule "/spec/model/uri" = json!("ftp://example.com/m") => "spec.model.uri";
        Rule "/spec/model/uri" = json!("https://example.com") => "spec.model.uri";
        Rule "/spec/model/uri" = json!("https://user:pw@example.com/m") => "spec.model.uri";
        Rule "/spec/model/uri" = json!("https://example.com/m?signature=x") => "spec.model.uri";
        Rule "/spec/model/uri" = json!("oci://example.com/m") => "spec.model.uri";
        Rule "/spec/model/uri" = json!("oci://example.com/M:1") => "spec.model.uri";
        Rule "/spec/model/uri" = json!("oci://example.com/m@sha256:0") => "spec.model.uri";
        Rule "/spec/model/uri" = json!("s3://bucket") => "spec.model.uri";
        Rule "/spec/model/uri" = json!("hf://owner/model") => "spec.model.uri";
        Rule "/spec/model/uri" = json!("hf://owner@main") => "spec.model.uri";
        Rule "/spec/model/uri" = json!("hf://owner/model:a@b") => "spec.model.uri";
        Rule "/spec/model/uri" = json!("oci://example.com/../m:1") => "spec.model.uri";
        Rule "/spec/model/credentials" = json!("secret") => "spec.model.credentials";
        Rule "/spec/model/credentials" = json!("no_name") => "spec.model.credentials";
        Rule "/spec/model/uri" = json!("file:///m/../../etc/shadow") => "spec.model.uri";
        Rule "/spec/model/uri" = json!("file://etc/shadow") => "spec.model.uri";
        Rule "/spec/model/uri" = json!("pvc://claim") => "spec.model.uri";
        Rule "/spec/model/uri" = json!("pvc://a-.b/m") => "spec.model.uri";
        Operator "/spec/model/uri" = json!("pvc://claim/m") => "spec.model.uri";
        // Serving.
        Rule "/spec/serving" = json!({"image": "serve"}) => "spec.serving.image";
        Rule "/spec/serving" = json!({"image": "registry:5000/serve"}) => "spec.serving.image";
        Rule "/spec/serving" = json!({"image": "serve:latest"}) => "spec.serving.image";
        Schema "/spec/serving" = json!({"port": 0}) => "spec.serving.port";
        Schema "/spec/serving" = json!({"port": 70_000}) => "spec.serving.port";
        Schema "/spec/replicas" = json!(-1) => "spec.replicas";
        Schema "/spec/replicas" = json!(1001) => "spec.replicas";
        Schema "/spec/revisionHistoryLimit" = json!(-1) => "spec.revisionHistoryLimit";
        Rule "/spec/traffic" = json!({"envoy": {"timeout": "0s"}}) => "spec.traffic.envoy.timeout";
        Rule "/spec/traffic" = json!({"envoy": {"timeout": "-1s"}}) => "spec.traffic.envoy.timeout";
        // Numbers and lengths that a rule could stumble over.
        Rule "/spec/objectives" = latency_at(json!(1), "1s") => "quantile";
        Schema "/spec/objectives" = latency_at(json!("0.99"), "1s") => "quantile";
        Schema "/spec/objectives" =
            json!([{"name": "latency", "latency": {"quantile": 0.99}}])
            => "latency.max";
        Rule "/spec/objectives" =
            json!([{"name": "drift", "predictionDrift": {"max": 11}}])
            => "predictionDrift.max";
        Schema "/spec/objectives" =
            json!([{"name": "errors", "errorRate": null}])
            => "spec.objectives";
        Rule "/spec/rollout/progressDeadline" = json!("-1h") => "spec.rollout.progressDeadline";
        Schema "/spec/rollout/progressDeadline" =
            json!("9h".repeat(20))
            => "spec.rollout.progressDeadline";
        Schema "/spec/rollout/steps" = json!([{"minRequests": 5}]) => "spec.rollout.steps";
        // Objectives.
        Schema "/spec/objectives" = Value::Null => "spec.objectives";
        Schema "/spec/objectives" = json!([]) => "spec.objectives";
        Rule "/spec/objectives" = json!([{"name": "a"}]) => "spec.objectives";
        Rule "/spec/objectives" = both => "spec.objectives";
        Rule "/spec/objectives" =
            json!([named("errors", "1%"), slow("errors", "1s")])
            => "spec.objectives";
        Rule "/spec/objectives" =
            json!([named("a", "1%"), named("b", "2%")])
            => "spec.objectives";
        Rule "/spec/objectives" =
            json!([slow("a", "1s"), slow("b", "2s")])
            => "spec.objectives";
        Rule "/spec/objectives" = latency(1.0, "250ms") => "quantile";
        Rule "/spec/objectives" = latency(0.0, "250ms") => "quantile";
        Rule "/spec/objectives" = latency(99.0, "250ms") => "quantile";
        Rule "/spec/objectives" = latency(0.99, "0s") => "latency.max";
        Rule "/spec/objectives" = latency(0.99, "fast") => "latency.max";
        Rule "/spec/objectives" = errors("0%") => "errorRate.max";
        Rule "/spec/objectives" = errors("0.00%") => "errorRate.max";
        Rule "/spec/objectives" = errors("100%") => "errorRate.max";
        Rule "/spec/objectives" = errors("0.01") => "errorRate.max";
        // The Service.
        Rule "/spec/service" = json!({"name": "1a"}) => "spec.service.name";
        Rule "/spec/service" = json!({"name": "a-"}) => "spec.service.name";
        Rule "/spec/service" = json!({"name": "a.b"}) => "spec.service.name";
        Rule "/spec/service" = json!({"name": "iris-0123abcd"}) => "spec.service.name";
        Rule "/spec/service" = port("A", 80, "http") => "spec.service.ports[0].name";
        Rule "/spec/service" = port("a", 80, "a b") => "spec.service.ports[0].appProtocol";
        Rule "/spec/service" =
            json!({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]})
            => "spec.service.ports";
        Rule "/spec/service" =
            json!({"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 81}]})
            => "spec.service.ports";
        // The rollout.
        Schema "/spec/rollout/steps" = json!([]) => "spec.rollout.steps";
        Rule "/spec/rollout/steps" = weights(&[50, 10, 100]) => "spec.rollout.steps";
        Rule "/spec/rollout/steps" = weights(&[10, 10, 100]) => "spec.rollout.steps";
        Rule "/spec/rollout/steps" = weights(&[10, 50]) => "spec.rollout.steps";
        Schema "/spec/rollout/steps" = weights(&[0, 100]) => "weight";
        Schema "/spec/rollout/steps" = weights(&[10, 101]) => "weight";
        Schema "/spec/rollout/steps/0/minRequests" = json!(0) => "minRequests";
        Rule "/spec/rollout/steps/0/minDuration" = json!("1 day") => "minDuration";
        Schema "/spec/rollout/onMetricsOutage" =
            json!({"then": "Advance"})
            => "onMetricsOutage.then";
        Schema "/spec/rollout/onInsufficientData" =
            json!({"then": "Promote"})
            => "onInsufficientData.then";
        Rule "/spec/rollout/progressDeadline" = json!("soon") => "spec.rollout.progressDeadline";
        Schema "/spec/rollout/paused" = json!("yes") => "spec.rollout.paused";
        Schema "/spec/rollout/steps/0/pause" = json!(true) => "pause";
        Rule "/spec/rollout/steps/0/pause" = json!({"duration": "0s"}) => "pause.duration";
        Rule "/spec/rollout/steps/0/pause" = json!({"duration": "1d"}) => "pause.duration";
        Rule "/spec/rollout/bakeTime" = json!("a while") => "spec.rollout.bakeTime";
        // A window that no version meets.
        Rule "/spec/rollout/rollbackWindow" =
            json!({"revisions": 11})
            => "spec.rollout.rollbackWindow.revisions";
        Rule "/spec" =
            limited(json!({"revisions": 4}))
            => "spec.rollout.rollbackWindow.revisions";
        Rule "/spec/rollout/rollbackWindow" =
            json!({"within": "0s"})
            => "rollbackWindow.within";
        Rule "/spec/rollout/rollbackWindow" =
            json!({"within": "7d"})
            => "rollbackWindow.within";
        Schema "/spec/rollout/rollbackWindow" =
            json!({"within": LONG})
            => "rollbackWindow.within";
        Schema "/spec/rollout/rollbackWindow" =
            json!({"revisions": 101})
            => "rollbackWindow.revisions";
        Schema "/spec/rollout/rollbackWindow" =
            json!({"revisions": -1})
            => "rollbackWindow.revisions";
        // An image that is not pinned, or is the operator's own, and no model.
        Rule "/spec" = without_model(json!({"image": "ghcr.io/team/churn:2.3.1"})) => "spec.model";
        Rule "/spec" = without_model(json!({"port": 9000})) => "spec.model";
        // Durations are those of GEP-2257: no decimals, no days, no number without a unit.
        Rule "/spec/rollout/bakeTime" = json!("1.5m") => "spec.rollout.bakeTime";
        Rule "/spec/rollout/bakeTime" = json!("1d") => "spec.rollout.bakeTime";
        Rule "/spec/rollout/bakeTime" = json!("90") => "spec.rollout.bakeTime";
        Schema "/spec/rollout/bakeTime" = json!(90) => "spec.rollout.bakeTime";
        Rule "/spec/traffic" = json!({"envoy": {"timeout": "0.5s"}}) => "traffic.envoy.timeout";
        // Shares without %.
        Rule "/spec/rollout/minReady" = json!("0.9") => "spec.rollout.minReady";
        Schema "/spec/rollout/minReady" = json!(90) => "spec.rollout.minReady";
        Schema "/spec/objectives" =
            json!([{"name": "errors", "errorRate": {"max": 0.01}}])
            => "errorRate.max";
        Schema "/spec/rollout/approval" = json!("Always") => "spec.rollout.approval";
        Schema "/spec/rollout/onFailure" = json!("Promote") => "spec.rollout.onFailure";
        Schema "/spec/rollout/startAt" = json!("Fast") => "spec.rollout.startAt";
        Rule "/spec/rollout" =
            json!({"startAt": "ByTraffic", "steps": [{"weight": 60}, {"weight": 100}]})
            => "spec.rollout.startAt";
        // Its name names a Service.
        Rule "/metadata/name" = json!("a".repeat(49)) => "metadata.name";
        Rule "/metadata/name" = json!("1iris") => "metadata.name";
        Rule "/metadata/name" = json!("iris.v2") => "metadata.name";
    };
    table.extend(pods::table());
    table.extend(bounds::table());
    table
}

/// Manifests that look odd and are right.
pub fn right() -> Vec<Value> {
    let uri = |uri: &str| with(manifest("1"), "/spec/model/uri", json!(uri));
    let image = |image: &str| with(manifest("1"), "/spec/serving", json!({"image": image}));
    let digest = format!("registry:5000/serve@sha256:{}", "0".repeat(64));
    let minimal = with(manifest("1"), "/spec/rollout", Value::Null);
    vec![
        manifest("1"),
        with(minimal, "/spec/replicas", Value::Null),
        with(manifest("1"), "/metadata/name", json!("a".repeat(48))),
        with(
            manifest("1"),
            "/spec/model/version",
            json!("main-2026.11.21"),
        ),
        uri("pvc://models/iris/1"),
        uri("oci://registry.models.svc:5000/team/iris:1.0.0"),
        uri(&format!(
            "oci://ghcr.io/team/iris@sha256:{}",
            "0".repeat(64)
        )),
        uri(&format!("oci://ghcr.io/iris:1@sha256:{}", "0".repeat(64))),
        uri("s3://bucket/iris/1.tar.gz"),
        uri("https://example.com:8443/iris/1"),
        uri("http://example.com/iris.tar"),
        uri("hf://owner/model@v1.0/folder"),
        uri("hf://owner/model:v1.0"),
        with(
            manifest("1"),
            "/spec/model",
            json!({"version": "1", "uri": format!("oci://ghcr.io/iris@sha256:{}", "0".repeat(64))}),
        ),
        with(
            manifest("1"),
            "/spec/model",
            json!({"version": "1", "uri": "pvc://models/iris"}),
        ),
        with(image(&digest), "/spec/model", Value::Null),
        with(
            uri("oci://ghcr.io/team/iris:1.0.0"),
            "/spec/model/credentials",
            json!("ghcr"),
        ),
        image("registry:5000/serve:1"),
        image(&digest),
        with(manifest("1"), "/spec/serving", pods::full()),
        with(
            manifest("1"),
            "/spec/objectives",
            json!([{"name": "errors", "errorRate": {"max": "0.0001%"}}]),
        ),
        with(
            manifest("1"),
            "/spec/objectives",
            json!([{"name": "errors", "errorRate": {"max": "99.9%"}}]),
        ),
        with(
            manifest("1"),
            "/spec/objectives",
            json!([
                {"name": "median", "latency": {"quantile": 0.5, "max": "1h30m"}},
                {"name": "latency", "latency": {"quantile": 0.99, "max": "5ms"}},
            ]),
        ),
        with(
            manifest("1"),
            "/spec/objectives",
            json!([
                {"name": "beside-stable", "noWorseThanStable":
                    {"latency": {"quantile": 0.99, "by": "0%"}, "errorRate": "0.5%"}},
                {"name": "drift", "predictionDrift": {}},
                {"name": "a", "query": {"promql": "max(a{pod=~\"{{name}}-{{ canary \
                    }}-.*\"}) > 0", "min": -1.5, "max": -1.5}},
                {"name": "b", "query": {"promql": "vector(1)", "min": 0.5, "then": "Hold"}},
            ]),
        ),
        // The default of 3 revisions asks for no more than are kept.
        with(
            with(
                manifest("1"),
                "/spec/rollout/rollbackWindow",
                json!({"within": "24h"}),
            ),
            "/spec/revisionHistoryLimit",
            json!(2),
        ),
        with(manifest("1"), "/spec/service", json!({})),
        with(
            manifest("1"),
            "/spec/service",
            json!({"name": "a".repeat(63), "ports": [
                {"name": "http", "port": 80},
                {"name": "grpc", "port": 9000, "appProtocol": "kubernetes.io/h2c"},
                {"name": "x", "port": 65535, "appProtocol": "example.com/x.y"},
            ]}),
        ),
        with(
            manifest("1"),
            "/spec/service",
            json!({"name": "iris-0123abc"}),
        ),
        with(manifest("1"), "/spec/traffic", json!({})),
        with(manifest("1"), "/spec/traffic", json!({"envoy": {}})),
        with(
            manifest("1"),
            "/spec/objectives",
            json!([
                {"name": "by-mesh", "errorRate": {"max": "1%"}, "source": "Istio"},
                {"name": "by-router", "errorRate": {"max": "1%"}},
                {"name": "first-token", "latency": {"quantile": 0.99, "max": "1s"},
                    "source": "VLLM"},
                {"name": "by-name", "errorRate": {"max": "1%"}, "source": "Custom", "custom": {
                    "requests": {"metric": "http:requests_total", "label": "status",
                        "bad": ["5xx"], "ignored": []},
                    "latency": {"metric": "http_seconds", "unit": "Milliseconds"},
                    "version": {"label": "service", "value": "{{name}}-{{revision}}"},
                    "labels": {"route": "/predict"},
                }},
                {"name": "by-other-name", "errorRate": {"max": "2%"}, "source": "Custom",
                    "custom": {"requests": {"metric": "answers_total", "label": "code"}}},
            ]),
        ),
        with(
            manifest("1"),
            "/spec/rollout/steps",
            json!([{"weight": 100}]),
        ),
        with(
            manifest("1"),
            "/spec/rollout",
            json!({"startAt": "ByTraffic", "approval": "BeforePromotion", "onFailure": "Hold",
                    "bakeTime": "0s"}),
        ),
    ]
}
