//! The path of explanations.

use serde_json::{Map, Value, json};

use super::Contract;
use super::schema::{self, object, page};
use crate::artefact::Kind;
use crate::http::explain::{MAX_PERMUTATIONS, MAX_SEED, MAX_TIME, max_instances};

/// None where the model is not explained.
pub(super) fn paths(contract: &Contract<'_>) -> Map<String, Value> {
    let manifest = contract.manifest;
    let mut paths = Map::new();
    if !manifest.is_explained() {
        return paths;
    }
    let mut request = object(&json!({
        "instances": {
            "type": "array", "items": schema::instance(manifest),
            "minItems": 1, "maxItems": max_instances(manifest).min(manifest.limits.max_instances),
        }
    }));
    let whole = |from: u64, to: u64, why: &str| {
        json!({"type": "integer", "minimum": from,
        "maximum": to, "description": why})
    };
    let names = [&manifest.outputs.labels, &manifest.outputs.names];
    if let Some(names) = names.into_iter().find(|names| !names.is_empty()) {
        request["properties"]["output"] =
            json!({"enum": names, "description": "What to explain; the predicted class if absent"});
    }
    request["properties"]["permutations"] = whole(
        4,
        MAX_PERMUTATIONS,
        "Most random orders of the fields or words, where sampling is needed",
    );
    request["properties"]["time_limit_ms"] = whole(1, MAX_TIME, "Time for sampling");
    request["properties"]["seed"] = whole(0, MAX_SEED, "Where sampling starts");
    if let Some(golden) = manifest.golden.first() {
        request["example"] = json!({"instances": [golden.instance]});
    }
    let number = json!({"type": "number"});
    let of_texts = matches!(manifest.kind, Kind::Text | Kind::TextPair);
    let names = || manifest.inputs.iter().map(|input| input.name.clone());
    let contributions = if of_texts {
        let mut passage = object(&json!({"text": {"type": "string"}, "contribution": number}));
        passage["properties"]["standard_error"] = number.clone();
        if manifest.kind == Kind::TextPair {
            passage["properties"]["input"] = json!({"enum": names().collect::<Vec<_>>()});
        }
        json!({"type": "array", "items": passage})
    } else {
        let fields: Map<String, Value> = names().map(|name| (name, number.clone())).collect();
        object(&fields.into())
    };
    let mut explanation = object(&json!({
        "scale": {"enum": ["logit", "probability", "value"]},
        "value": number,
        "base_value": number,
        "contributions": contributions,
        "method": {"enum": ["linear", "trees", "coalitions", "permutations"]},
        "exact": {"type": "boolean"},
        "residual": number,
    }));
    explanation["properties"]["output"] = json!({"type": "string"});
    if !of_texts {
        explanation["properties"]["standard_errors"] = contributions;
    }
    explanation["properties"]["permutations"] = json!({"type": "integer"});
    let answer = page(json!({"explanations": {"type": "array", "items": explanation}}));
    let summary = if of_texts {
        "Explain predictions: what each word added, compared with a mask in its place"
    } else {
        "Explain predictions: what each field added, compared with the training data"
    };
    paths.insert("/explain".into(), contract.post(summary, &request, &answer));
    paths
}
