//! `POST /rerank`, as Cohere's and Jina's clients send it (`documents`) and as those of Hugging
//! Face's text-embeddings-inference do (`texts`): each is answered in its own shape.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::post;
use serde_json::{Map, Value, json};

use super::App;
use super::body::{read_object, refuse_unknown};
use super::infer::{Instances, Page, Renderer, infer};
use super::problem::Problem;
use crate::artefact::Manifest;
use crate::json::integer;
use crate::model::Model;
use crate::prediction::Prediction;
use crate::preprocess::{FieldErrors, Location};

/// The path of text-embeddings-inference and Jina, and Cohere's two.
pub(super) const PATHS: [&str; 3] = ["/rerank", "/v1/rerank", "/v2/rerank"];

/// The paths of a model that scores pairs of texts.
pub(super) fn routes() -> Router<Arc<App>> {
    let paths = PATHS.into_iter();
    paths.fold(Router::new(), |routes, path| {
        routes.route(path, post(rerank))
    })
}

async fn rerank(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let model = app.lifecycle.model().ok_or_else(Problem::loading)?;
    let mut body = read_object(request, &app).await?;
    body.retain(|name, value| !OPTIONAL.contains(&name.as_str()) || !value.is_null());
    app.check_model(body.get("model"))?;
    let (instances, ranking) = read(body, &model.manifest, &app.name);
    infer(&app, model, instances, ranking).await
}

/// What a request may have beside the texts.
const OPTIONAL: [&str; 7] = [
    "model",
    "top_n",
    "return_documents",
    "return_text",
    "raw_scores",
    "truncate",
    "max_tokens_per_doc",
];

/// How a request wants its answer.
struct Ranking {
    /// The documents as they were sent, where they are to be given back.
    documents: Option<Vec<Value>>,
    /// Most results; none for all.
    most: Option<usize>,
    /// Whether the request came as text-embeddings-inference has it.
    is_tei: bool,
}

fn read(mut body: Map<String, Value>, manifest: &Manifest, model: &str) -> (Instances, Ranking) {
    let mut errors = FieldErrors::default();
    let mut expect = |holds: bool, field: &str, expected: &str| {
        if !holds {
            errors.push(|| field.to_owned(), expected);
        }
    };
    let is_tei = body.contains_key("texts");
    let list = if is_tei { "texts" } else { "documents" };
    let query = body.remove("query").filter(Value::is_string);
    expect(query.is_some(), "/query", "a text (required)");
    let documents = match body.remove(list) {
        Some(Value::Array(documents)) if !documents.is_empty() => Some(documents),
        _ => None,
    };
    let expected = "an array of texts (required)";
    expect(documents.is_some(), &format!("/{list}"), expected);
    let most = body.remove("top_n");
    let number = most.as_ref().and_then(integer).filter(|most| *most >= 1);
    let expected = "an integer of at least 1";
    expect(most.is_none() || number.is_some(), "/top_n", expected);
    let name = body.remove("model");
    let expected = format!("{model:?}, or nothing");
    expect(name.is_none_or(|name| name == model), "/model", &expected);
    let mut flag = |name: &str| {
        let given = body.remove(name);
        let flag = given.as_ref().and_then(Value::as_bool);
        let holds = given.is_none() || flag.is_some();
        expect(holds, &format!("/{name}"), "true or false");
        flag.unwrap_or(false)
    };
    let give_back = flag(if is_tei {
        "return_text"
    } else {
        "return_documents"
    });
    let raw = flag("raw_scores");
    let truncate = flag("truncate");
    expect(
        !raw,
        "/raw_scores",
        "false, or nothing: scores are from 0 to 1",
    );
    let expected = "false, or nothing: the model's manifest says whether texts are cut";
    expect(!truncate, "/truncate", expected);
    let fields = "query, documents or texts, top_n, model, return_documents or return_text, \
                  raw_scores, truncate";
    refuse_unknown(&body, fields, &mut errors);

    let ranking = Ranking {
        documents: documents.clone().filter(|_| give_back),
        most: number.and_then(|most| usize::try_from(most).ok()),
        is_tei,
    };
    let names: Vec<String> = manifest
        .inputs
        .iter()
        .map(|input| input.name.clone())
        .collect();
    let pair = |document: Value| {
        let document = match document {
            Value::Object(mut document) if !is_tei => document.remove("text").unwrap_or_default(),
            document => document,
        };
        let values = [query.clone().unwrap_or_default(), document];
        names.iter().cloned().zip(values).collect()
    };
    // Without a query, each pair would only tell that once more.
    let documents = documents.filter(|_| query.is_some());
    let values = documents.map(|documents| documents.into_iter().map(pair).collect());
    let first = names.first().map(|name| crate::preprocess::escape(name));
    let instances = Instances {
        values,
        location: Location::List(""),
        errors,
        places: Some(Box::new(move |pointer| {
            place(pointer, list, first.as_deref())
        })),
    };
    (instances, ranking)
}

/// The pointer into the request of what is `/row` or `/row/field` in the pairs.
fn place(pointer: &str, list: &str, query: Option<&str>) -> String {
    let mut parts = pointer.split('/').skip(1);
    match (parts.next(), parts.next()) {
        (_, field @ Some(_)) if field == query => "/query".to_owned(),
        (Some(row), _) => format!("/{list}/{row}"),
        (None, _) => format!("/{list}"),
    }
}

impl Renderer for Ranking {
    fn render(&self, app: &App, _: &Model, predictions: &[Prediction]) -> serde_json::Result<Page> {
        let score = |one: &Prediction| one.output.first().copied().unwrap_or_default();
        let mut ranks: Vec<(usize, f32)> = predictions.iter().map(score).enumerate().collect();
        ranks.sort_by(|left, right| right.1.total_cmp(&left.1)); // of one score the first
        ranks.truncate(self.most.unwrap_or(ranks.len()));
        let result = |(index, score): (usize, f32)| {
            let key = if self.is_tei {
                "score"
            } else {
                "relevance_score"
            };
            let mut result = json!({"index": index, key: score});
            if let Some(document) = self.documents.as_ref().map(|all| all[index].clone()) {
                match (self.is_tei, document) {
                    (true, text) => result["text"] = text,
                    (false, text @ Value::String(_)) => result["document"] = json!({"text": text}),
                    (false, document) => result["document"] = document,
                }
            }
            result
        };
        let results: Vec<Value> = ranks.into_iter().map(result).collect();
        if self.is_tei {
            return serde_json::to_vec(&results).map(Page::from);
        }
        let tokens: usize = predictions.iter().map(|one| one.tokens).sum();
        let body = json!({
            "results": results,
            "model": app.name,
            "model_version": app.version,
            "usage": {"total_tokens": tokens},
            "meta": {"api_version": {"version": "2"}},
        });
        serde_json::to_vec(&body).map(Page::from)
    }
}
