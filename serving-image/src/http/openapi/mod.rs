//! `/openapi.json`, the contract of requests and answers, generated from the manifest.
//!
//! Each endpoint of the router has its paths here; a test sends thousands of requests made from the
//! document, and what they get must be in it.

mod explain;
mod generate;
mod models;
mod rerank;
mod schema;
mod v2;

use serde_json::{Map, Value, json};

use super::predict::v1_path;
use crate::artefact::{Kind, Manifest, Task};
use schema::{object, page};

/// What the document is made from.
pub(super) struct Contract<'a> {
    pub manifest: &'a Manifest,
    /// The name it is served under.
    pub name: &'a str,
    /// The version it is served under.
    pub version: &'a str,
    /// Largest body in bytes.
    pub max_body: usize,
}

impl Contract<'_> {
    /// The OpenAPI 3.1 document.
    pub(super) fn document(&self) -> Value {
        let manifest = self.manifest;
        let mut paths = about();
        if manifest.kind != Kind::Generation {
            paths.insert("/predict".into(), self.predict());
            paths.insert(v1_path(self.name), models::predict(self));
        }
        if manifest.task == Task::SentenceEmbedding {
            paths.insert("/v1/embeddings".into(), self.embeddings());
            paths.insert("/embed".into(), rerank::embed(self));
        }
        if manifest.kind == Kind::Generation {
            paths.extend(generate::paths(self));
        }
        if manifest.task == Task::Reranking && manifest.kind == Kind::TextPair {
            paths.extend(rerank::paths(self));
        }
        paths.extend(models::paths(self));
        paths.extend(v2::paths(self));
        paths.extend(explain::paths(self));
        json!({
            "openapi": "3.1.0",
            "info": {"title": self.name, "version": self.version,
            "description": manifest.description},
            "paths": paths,
            "components": {"schemas": {
                "Problem": schema::problem(), "V2Error": v2::error(),
                "OpenAiError": models::error(), "RerankError": rerank::error(),
            }},
        })
    }

    fn predict(&self) -> Value {
        let manifest = self.manifest;
        let mut request = object(&json!({
            "instances": {
                "type": "array", "items": schema::instance(manifest),
                "minItems": 1, "maxItems": manifest.limits.max_instances,
            }
        }));
        if let Some(golden) = manifest.golden.first() {
            request["example"] = json!({"instances": [golden.instance]});
        }
        let predictions = json!({"type": "array", "items": schema::prediction(manifest)});
        let answer = page(json!({"predictions": predictions}));
        self.post("Predict", &request, &answer)
    }

    fn embeddings(&self) -> Value {
        let manifest = self.manifest;
        let text = schema::instance(manifest);
        let most = manifest.limits.max_instances;
        let texts = json!({"type": "array", "items": text, "minItems": 1, "maxItems": most});
        let mut request = object(&json!({"input": {"oneOf": [text, texts]}}));
        request["properties"]["model"] = json!({"enum": [self.name, null]});
        request["properties"]["dimensions"] = json!({"enum": [manifest.outputs.dimensions, null]});
        request["properties"]["encoding_format"] =
            json!({"enum": ["float", "base64", null], "default": "float"});
        request["properties"]["user"] = json!({"description": "Ignored"});
        if let Some(golden) = manifest.golden.first() {
            request["example"] = json!({"input": golden.instance});
        }
        let base64 = json!({"type": "string", "contentEncoding": "base64"});
        let datum = object(&json!({
            "object": {"const": "embedding"},
            "index": {"type": "integer"},
            "embedding": {"oneOf": [schema::vector(manifest), base64]},
        }));
        let count = json!({"type": "integer"});
        let answer = page(json!({
            "object": {"const": "list"},
            "data": {"type": "array", "items": datum},
            "usage": object(&json!({"prompt_tokens": count, "total_tokens": count})),
        }));
        self.post_openai("Embed, as OpenAI's API does", &request, &answer)
    }

    /// A path that predicts.
    fn post(&self, summary: &str, request: &Value, answer: &Value) -> Value {
        let answers = self.refusals().into_iter();
        let answers = answers.map(|(status, why)| (status.to_owned(), problem(&why)));
        Self::post_with(summary, request, answer, answers.collect())
    }

    /// A path that predicts, with OpenAI's errors.
    fn post_openai(&self, summary: &str, request: &Value, answer: &Value) -> Value {
        let mut answers = self.refusals_with_400("OpenAiError");
        answers.insert("404".into(), failure("Another model", "OpenAiError"));
        Self::post_with(summary, request, answer, answers)
    }

    /// The refusals of a protocol that has 400 for wrong fields, by the name of its error's schema.
    fn refusals_with_400(&self, error: &str) -> Map<String, Value> {
        let others = self
            .refusals()
            .into_iter()
            .filter(|(status, _)| !["400", "422"].contains(status));
        let wrong = "Not JSON, or fields that are not as expected";
        others
            .map(|(status, why)| (status.to_owned(), failure(&why, error)))
            .chain([("400".to_owned(), failure(wrong, error))])
            .collect()
    }

    fn post_with(
        summary: &str,
        request: &Value,
        answer: &Value,
        mut answers: Map<String, Value>,
    ) -> Value {
        answers.insert("200".into(), ok(answer));
        json!({"post": {
            "summary": summary,
            "requestBody": {"required": true, "content": {"application/json": {"schema": request}}},
            "responses": answers,
        }})
    }

    /// Why a prediction may be refused, by status.
    fn refusals(&self) -> [(&'static str, String); 10] {
        let too_large = format!("A body of more than {} bytes", self.max_body);
        [
            ("400", "Not JSON".into()),
            ("405", "Another method".into()),
            ("408", "The body came too slowly".into()),
            ("413", too_large),
            ("415", "Not application/json, or compressed".into()),
            ("422", "Fields that are not as expected, all of them".into()),
            ("429", "Overloaded; try again later".into()),
            ("500", "The prediction failed".into()),
            ("503", "Loading".into()),
            ("504", "The deadline is over".into()),
        ]
    }
}

/// The paths about the process.
fn about() -> Map<String, Value> {
    let text = json!({"type": "string"});
    let version = json!({
        "type": "object",
        "properties": {"model": text, "model_version": text, "digest": text, "serve_version": text},
        "required": ["model", "model_version", "digest", "serve_version"],
    });
    let document = json!({"type": "object", "required": ["openapi", "info", "paths"]});
    let metrics = crate::metrics::CONTENT_TYPE;
    let json = "application/json";
    let paths = [
        ("/livez", "Whether the process lives", "text/plain", &text),
        (
            "/readyz",
            "Whether it is for new requests",
            "text/plain",
            &text,
        ),
        ("/metrics", "Series for Prometheus", metrics, &text),
        ("/version", "What is served", json, &version),
        ("/openapi.json", "This document", json, &document),
        ("/docs", "This document for people", "text/html", &text),
    ];
    let describe = |(path, summary, content, schema): (&str, &str, &str, &Value)| {
        let mut get = json!({
            "summary": summary,
            "responses": {
                "200": {"description": "OK", "content": {content: {"schema": schema}}},
                "405": problem("Another method"),
            },
        });
        if path == "/readyz" {
            get["responses"]["503"] = problem("Loading or draining");
        }
        (path.to_owned(), json!({"get": get}))
    };
    paths.into_iter().map(describe).collect()
}

fn ok(answer: &Value) -> Value {
    let text = json!({"schema": {"type": "string"}});
    json!({
        "description": "OK",
        "headers": {
            "x-model-name": text, "x-model-version": text, "x-request-id": text,
            "traceresponse": text,
        },
        "content": {"application/json": {"schema": answer}},
    })
}

fn problem(description: &str) -> Value {
    let schema = json!({"$ref": "#/components/schemas/Problem"});
    json!({
        "description": description,
        "content": {"application/problem+json": {"schema": schema}},
    })
}

/// An error in the shape of a protocol, by its schema's name.
fn failure(description: &str, error: &str) -> Value {
    let schema = json!({"$ref": format!("#/components/schemas/{error}")});
    json!({"description": description, "content": {"application/json": {"schema": schema}}})
}
