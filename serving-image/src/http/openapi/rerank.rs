//! The paths of Cohere's API and of text-embeddings-inference.

use serde_json::{Map, Value, json};

use super::schema::{self, object};
use super::{Contract, failure};
use crate::http::rerank::PATHS;

/// The schema of an error of these paths.
pub(super) fn error() -> Value {
    let text = json!({"type": "string"});
    object(&json!({"message": text, "error": text, "error_type": text}))
}

pub(super) fn paths(contract: &Contract) -> Map<String, Value> {
    let path = path(contract);
    let each = PATHS.into_iter();
    each.map(|name| (name.to_owned(), path.clone())).collect()
}

/// `/embed`.
pub(super) fn embed(contract: &Contract) -> Value {
    let text = schema::instance(contract.manifest);
    let most = contract.manifest.limits.max_instances;
    let texts = json!({"type": "array", "items": text, "minItems": 1, "maxItems": most});
    let mut request = object(&json!({"inputs": {"oneOf": [text, texts]}}));
    request["properties"]["normalize"] = json!({"enum": [true, null]});
    request["properties"]["truncate"] = json!({"enum": [false, null]});
    let answer = json!({"type": "array", "items": schema::vector(contract.manifest)});
    Contract::post_with(
        "Embed, as TEI has it",
        &request,
        &answer,
        refusals(contract),
    )
}

fn refusals(contract: &Contract) -> Map<String, Value> {
    let answers = contract.refusals().into_iter();
    let failed = |why: &str| failure(why, "RerankError");
    answers
        .map(|(status, why)| (status.to_owned(), failed(&why)))
        .collect()
}

fn path(contract: &Contract) -> Value {
    let fields = schema::fields(contract.manifest);
    let [query, document] = fields.as_slice() else {
        return json!({}); // a pair has two
    };
    let flag = json!({"type": ["boolean", "null"]});
    let no = json!({"enum": [false, null]});
    let with_documents = |list: &str, give_back: &str, item: &Value| {
        let most = contract.manifest.limits.max_instances;
        let list_schema = json!({"type": "array", "items": item, "minItems": 1, "maxItems": most});
        let mut request = object(&json!({"query": query, list: list_schema}));
        for (name, schema) in [
            (give_back, flag.clone()),
            (
                "top_n",
                json!({"type": ["integer", "null"], "minimum": 1, "maximum": i64::MAX}),
            ),
            ("model", json!({"enum": [contract.name, null]})),
            ("raw_scores", no.clone()),
            ("truncate", no.clone()),
            ("max_tokens_per_doc", json!({"type": "null"})),
        ] {
            request["properties"][name] = schema;
        }
        request
    };
    let object_of_text = json!({"type": "object", "properties": {"text": document},
        "required": ["text"]});
    let cohere = json!({"anyOf": [document, object_of_text]});
    let request = json!({"oneOf": [
        with_documents("documents", "return_documents", &cohere),
        with_documents("texts", "return_text", document),
    ]});
    let index = json!({"type": "integer", "minimum": 0});
    let score = json!({"type": "number"});
    let text = json!({"type": "string"});
    let mut ranked = object(&json!({"index": index, "relevance_score": score}));
    ranked["properties"]["document"] = json!({"type": "object"});
    let mut scored = object(&json!({"index": index, "score": score}));
    scored["properties"]["text"] = text.clone();
    let answer = json!({"oneOf": [
        object(&json!({
            "results": {"type": "array", "items": ranked}, "model": text, "model_version": text,
            "usage": {"type": "object"}, "meta": {"type": "object"},
        })),
        {"type": "array", "items": scored},
    ]});
    let mut answers = refusals(contract);
    answers.insert("404".into(), failure("Another model", "RerankError"));
    Contract::post_with(
        "Rank documents, as Cohere and TEI have it",
        &request,
        &answer,
        answers,
    )
}
