//! The generated CRD is what the types say, and its number says which schema it is.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use serde_json::Value;
use serin::api::{SCHEMA, crd, kustomize_openapi};
use sha2::{Digest, Sha256};

/// The number of the schema, and the SHA-256 of that schema without its descriptions.
const RECORDED: (u32, &str) = (
    4,
    "5e093a130bd42033542a3d1739bbe47271d2f6c56b59433492f848a704fd7315",
);

#[test]
fn the_crd_in_the_repository_is_generated_from_the_types() {
    let generated = serde_norway::to_string(&crd().unwrap()).unwrap();
    for path in [
        "crds/serin.dev_modeldeployments.yaml",
        "charts/serin/crds/serin.dev_modeldeployments.yaml",
    ] {
        let full = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let kept = std::fs::read_to_string(&full).unwrap_or_default();
        let (first, body) = kept.split_once('\n').unwrap();
        assert!(
            first.starts_with("# Generated"),
            "{path} does not say that it is generated"
        );
        assert!(
            body == generated,
            "{path} is out of date: run `cargo xtask crds`"
        );
    }
}

#[test]
fn the_merge_keys_of_the_example_for_kustomize_are_those_of_the_crd() {
    let path = "examples/kustomize/production/serin-openapi.json";
    let full = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let kept: Value = serde_json::from_slice(&std::fs::read(full).unwrap()).unwrap();
    let generated = kustomize_openapi(&crd().unwrap()).unwrap();
    assert!(
        kept == generated,
        "{path} is out of date: run `cargo xtask crds`"
    );
    let spec =
        &generated["definitions"]["serin.dev.v1alpha1.ModelDeployment"]["properties"]["spec"];
    assert_eq!(
        spec["properties"]["objectives"]["x-kubernetes-patch-merge-key"],
        "name"
    );
}

/// An operator upgrades a CRD of a lower number only: a schema that changes under its number stays
/// as it was in clusters, and the API server prunes the new fields.
#[test]
fn another_schema_has_another_number() {
    let crd = serde_json::to_value(crd().unwrap()).unwrap();
    let schema = without_descriptions(&crd["spec"]["versions"]);
    let digest = format!("{:x}", Sha256::digest(schema.to_string()));
    assert_eq!(
        (SCHEMA, &digest[..]),
        RECORDED,
        "the CRD's schema has changed: raise SCHEMA in src/api/crd.rs by 1 if main or a release \
         had the old schema, then write the number and the digest on the left into RECORDED"
    );
}

/// The same, with the keys of every object in order. A property may be called `description`, too:
/// only texts go.
fn without_descriptions(node: &Value) -> Value {
    match node {
        Value::Object(map) => {
            let kept = map
                .iter()
                .filter(|(key, value)| *key != "description" || !value.is_string());
            let kept: BTreeMap<_, _> = kept
                .map(|(key, value)| (key.clone(), without_descriptions(value)))
                .collect();
            Value::Object(kept.into_iter().collect())
        }
        Value::Array(list) => list.iter().map(without_descriptions).collect(),
        other => other.clone(),
    }
}

/// A field of the schema.
struct Field<'a> {
    path: String,
    schema: &'a Value,
    /// The object that it is a member of.
    parent: &'a Value,
}

impl Field<'_> {
    fn description(&self) -> String {
        let text = self.schema["description"].as_str().unwrap_or_default();
        text.replace('\n', " ")
    }

    fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap().trim_end_matches("{}")
    }

    fn is_required(&self) -> bool {
        let required = self.parent["required"].as_array();
        required.is_some_and(|names| names.iter().any(|name| name == self.name()))
    }

    /// The CEL rules of a schema.
    fn rules(schema: &Value) -> Vec<&str> {
        let rules = schema["x-kubernetes-validations"].as_array();
        let rules = rules.into_iter().flatten();
        rules.map(|rule| rule["rule"].as_str().unwrap()).collect()
    }
}

/// Every field below a schema. The elements of a list are `LIST[]`, the values of a map `MAP{}`.
fn fields<'a>(path: &str, parent: &'a Value, found: &mut Vec<Field<'a>>) {
    let members = parent["properties"].as_object().into_iter().flatten();
    let members = members.map(|(name, schema)| (format!("{path}.{name}"), schema));
    let values = parent.get("additionalProperties").into_iter();
    let values = values.map(|schema| (format!("{path}{{}}"), schema));
    for (path, schema) in members.chain(values) {
        let below = [
            (path.clone(), schema),
            (format!("{path}[]"), &schema["items"]),
        ];
        found.push(Field {
            path,
            schema,
            parent,
        });
        for (path, schema) in below {
            fields(&path, schema, found);
        }
    }
}

/// Collects the faults of all fields of `spec` and `status`, and fails with them.
fn check(fault: impl Fn(&Field) -> Option<&'static str>) {
    let crd = serde_json::to_value(crd().unwrap()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut found = Vec::new();
    for part in ["spec", "status"] {
        fields(part, &schema["properties"][part], &mut found);
    }
    assert!(found.len() > 200, "{}", found.len());
    let faults = found.iter().filter_map(|field| {
        let fault = fault(field)?;
        Some(format!("{} {fault}: {}", field.path, field.description()))
    });
    let faults: Vec<_> = faults.collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Whether a field is of the spec, and none of Kubernetes' own in the template.
fn is_our_own(field: &Field) -> bool {
    field.path.starts_with("spec.") && !field.path.starts_with("spec.serving.template.")
}

#[test]
fn every_field_is_described_and_none_has_a_default_that_is_stored() {
    check(|field| {
        let is_value_of_a_map = field.path.ends_with("{}");
        if field.description().is_empty() && !is_value_of_a_map {
            return Some("has no description");
        }
        // The scale subresource reads it: see `src/api/crd.rs`.
        if field.schema.get("default").is_some() && field.path != "spec.replicas" {
            return Some("has a default, which is written into every object");
        }
        // The API server warns about others on every apply.
        let known = [Value::Null]
            .into_iter()
            .chain(["int32", "int64", "double", "date-time"].map(Value::from));
        let format = &field.schema["format"];
        (!known.into_iter().any(|known| known == *format)).then_some("has an unknown format")
    });
}

#[test]
fn every_optional_field_says_what_its_absence_means() {
    check(|field| {
        let one_of = format!("`{}`", field.name());
        let parent = field.parent["description"].as_str().unwrap_or_default();
        // Of several members of which one is needed, any may be absent.
        let is_one_of = ["exactly one of", "at least one of", "at most one of"];
        let is_one_of = is_one_of.iter().any(|words| {
            let listed = parent.split_once(words);
            listed.is_some_and(|(_, listed)| listed.contains(&one_of))
        });
        let says = field.description().to_lowercase().contains("absent");
        let may_be_absent = is_our_own(field) && !field.is_required();
        let is_value_of_a_map = field.path.ends_with("{}");
        (may_be_absent && !is_value_of_a_map && !is_one_of && !says)
            .then_some("does not say what its absence means")
    });
}

/// The numbers of the spec, each with its unit as the description has it. A new one gets a line.
const NUMBERS: [(&str, &str); 12] = [
    ("spec.objectives[].latency.quantile", "between 0 and 1"),
    (
        "spec.objectives[].noWorseThanStable.latency.quantile",
        "between 0 and 1",
    ),
    ("spec.objectives[].predictionDrift.max", "index"),
    ("spec.objectives[].query.max", "in the unit of the query"),
    ("spec.objectives[].query.min", "in the unit of the query"),
    ("spec.replicas", "Pods"),
    ("spec.revisionHistoryLimit", "versions"),
    ("spec.rollout.rollbackWindow.revisions", "promotions"),
    ("spec.rollout.steps[].minRequests", "requests"),
    ("spec.rollout.steps[].weight", "in percent"),
    ("spec.service.ports[].port", "1 to 65535"),
    ("spec.serving.port", "Port"),
];

/// Units of the numbers of the status.
const UNITS: [&str; 13] = [
    "0 to 1",
    "Index",
    "Requests",
    "bad",
    "generation",
    "in milliseconds",
    "in percent",
    "in seconds",
    "measured",
    "pods",
    "port",
    "spec.replicas",
    "Trials",
];

#[test]
fn every_number_says_its_unit() {
    check(|field| {
        let is_number = ["integer", "number"]
            .iter()
            .any(|kind| field.schema["type"] == *kind);
        if !is_number {
            return None;
        }
        let description = field.description();
        if !field.path.starts_with("spec.") {
            let says = UNITS.iter().any(|unit| description.contains(unit));
            return (!says).then_some("does not say its unit");
        }
        let listed = NUMBERS.iter().find(|(path, _)| *path == field.path);
        match listed {
            None => Some("is a number without a unit in NUMBERS"),
            Some((_, unit)) => (!description.contains(unit)).then_some("does not say its unit"),
        }
    });
}

/// A duration as Gateway API has it (GEP-2257). Its unit stands in its value.
const DURATION: &str = "self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$')";
/// The same, above zero.
const POSITIVE: &str = "self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') && self.matches('[1-9]')";
/// A share.
const SHARE: &str = "self.matches('^(100([.]0{1,4})?|[0-9]{1,2}([.][0-9]{1,4})?)%$')";
/// A quantile, by the rule of the object that has it.
const QUANTILE: &str = "self.quantile > 0.0 && self.quantile < 1.0";

/// Texts of the spec that are neither a duration nor a share. A new one gets a line.
const TEXTS: [&str; 18] = [
    "spec.model.credentials",
    "spec.model.digest",
    "spec.model.uri",
    "spec.model.version",
    "spec.objectives[].custom.labels{}",
    "spec.objectives[].custom.latency.metric",
    "spec.objectives[].custom.requests.label",
    "spec.objectives[].custom.requests.metric",
    "spec.objectives[].custom.version.label",
    "spec.objectives[].custom.version.value",
    "spec.objectives[].name",
    "spec.objectives[].query.promql",
    "spec.rollout.retryToken",
    "spec.service.name",
    "spec.service.ports[].appProtocol",
    "spec.service.ports[].name",
    "spec.serving.image",
    "spec.serving.modelMountPath",
];

#[test]
fn shares_quantiles_and_durations_have_one_form_each() {
    check(|field| {
        if field.name() == "quantile" {
            let holds = Field::rules(field.parent).contains(&QUANTILE);
            let is_number = field.schema["type"] == "number";
            return (!holds || !is_number).then_some("is no quantile as the others are");
        }
        let is_text = field.schema["type"] == "string" && field.schema.get("enum").is_none();
        if !is_our_own(field) || !is_text || TEXTS.contains(&field.path.as_str()) {
            return None;
        }
        let is_one = match Field::rules(field.schema)[..] {
            [DURATION | POSITIVE] => field.schema["maxLength"] == 32,
            [SHARE] => field.schema["maxLength"] == 9,
            _ => false,
        };
        (!is_one).then_some("is neither a duration, nor a share, nor one of TEXTS")
    });
}

#[test]
fn every_list_of_the_spec_is_merged_by_a_key_or_says_why_not() {
    check(|field| {
        let is_list = field.schema["type"] == "array" && field.path.starts_with("spec.");
        let merged = match field.schema["x-kubernetes-list-type"].as_str() {
            Some("map") => field.schema["x-kubernetes-list-map-keys"] != Value::Null,
            Some("set") => true,
            _ => field.description().contains("Atomic"),
        };
        (is_list && !merged).then_some("is replaced as a whole, and does not say why")
    });
}

/// A rule without such bounds exceeds the API server's budget, and etcd takes 1.5 MiB an object.
#[test]
fn every_text_list_and_map_of_the_spec_is_bounded() {
    check(|field| {
        let schema = field.schema;
        let is_map = schema.get("additionalProperties").is_some();
        let bound = match schema["type"].as_str() {
            Some("string") if schema.get("enum").is_none() => "maxLength",
            Some("array") => "maxItems",
            Some("object") if is_map => "maxProperties",
            _ => return None,
        };
        let is_bounded = schema.get(bound).is_some();
        let of_items = &schema["items"];
        let items = of_items["type"] != "string" || of_items.get("maxLength").is_some();
        let is_spec = field.path.starts_with("spec.");
        (is_spec && !(is_bounded && items)).then_some("has no bound")
    });
}
