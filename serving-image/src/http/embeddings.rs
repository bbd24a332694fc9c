//! `POST /v1/embeddings`: the request and answer of OpenAI's API, for clients that speak it; and
//! `POST /embed`, those of text-embeddings-inference.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::post;
use base64::Engine as _;
use serde::Serialize;
use serde_json::Value;

use super::App;
use super::body::{read_object, refuse_unknown};
use super::infer::{Instances, Render, infer};
use super::problem::Problem;
use crate::json::integer;
use crate::model::Model;
use crate::prediction::Prediction;
use crate::preprocess::{FieldErrors, Location};

/// What a request may have beside the texts.
const OPTIONAL: [&str; 4] = ["model", "dimensions", "encoding_format", "user"];

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/embeddings", post(embeddings))
        .route("/embed", post(embed))
}

/// Text-embeddings-inference's own path.
async fn embed(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let model = app.lifecycle.model().ok_or_else(Problem::loading)?;
    let mut body = read_object(request, &app).await?;
    let mut errors = FieldErrors::default();
    let (values, location) = match body.remove("inputs") {
        Some(Value::Array(texts)) => (Some(texts), Location::List("/inputs")),
        Some(text @ Value::String(_)) => (Some(vec![text]), Location::Single("/inputs")),
        _ => {
            let expected = "a text, or an array of texts (required)";
            errors.push(|| "/inputs".into(), expected);
            (None, Location::List("/inputs"))
        }
    };
    for (name, only) in [("normalize", true), ("truncate", false)] {
        let given = body.remove(name).filter(|given| !given.is_null());
        if given.is_some_and(|given| given != only) {
            let expected = format!("{only}, or nothing: the model's manifest decides");
            errors.push(|| format!("/{name}"), expected);
        }
    }
    refuse_unknown(&body, "inputs, normalize, truncate", &mut errors);
    let request = Instances {
        values,
        location,
        errors,
        places: None,
    };
    infer(&app, model, request, render_vectors as Render).await
}

fn render_vectors(_: &App, _: &Model, predictions: &[Prediction]) -> serde_json::Result<Vec<u8>> {
    let vectors: Vec<&[f32]> = predictions.iter().map(|one| &one.output[..]).collect();
    serde_json::to_vec(&vectors)
}

async fn embeddings(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let model = app.lifecycle.model().ok_or_else(Problem::loading)?;
    let mut body = read_object(request, &app).await?;
    // Clients send `null` for what they were not told.
    body.retain(|name, value| !OPTIONAL.contains(&name.as_str()) || !value.is_null());
    app.check_model(body.get("model"))?;
    let mut errors = FieldErrors::default();
    let mut expect = |holds: bool, field: &str, expected: String| {
        if !holds {
            errors.push(|| field.to_owned(), expected);
        }
    };
    let (values, location) = match body.remove("input") {
        Some(Value::Array(texts)) => (Some(texts), Location::List("/input")),
        Some(text @ Value::String(_)) => (Some(vec![text]), Location::Single("/input")),
        _ => {
            expect(
                false,
                "/input",
                "a text, or an array of texts (required)".into(),
            );
            (None, Location::List("/input"))
        }
    };
    let name = body.remove("model");
    expect(
        name.is_none_or(|name| name == app.name.as_str()),
        "/model",
        format!("{:?}, or nothing", app.name),
    );
    let dimensions = model.manifest.outputs.dimensions.unwrap_or_default();
    let given = body.remove("dimensions");
    expect(
        given.is_none_or(|given| {
            integer(&given).is_some_and(|given| usize::try_from(given) == Ok(dimensions))
        }),
        "/dimensions",
        format!("{dimensions}, or nothing"),
    );
    let format = body.remove("encoding_format");
    let render: Render = match format.as_ref().map(Value::as_str) {
        None | Some(Some("float")) => render_openai_floats,
        Some(Some("base64")) => render_openai_base64,
        _ => {
            expect(false, "/encoding_format", "\"float\" or \"base64\"".into());
            render_openai_floats
        }
    };
    body.remove("user"); // an end user's id, which a server may ignore
    refuse_unknown(
        &body,
        "input, model, dimensions, encoding_format, user",
        &mut errors,
    );
    infer(
        &app,
        model,
        Instances {
            values,
            location,
            errors,
            places: None,
        },
        render,
    )
    .await
}

#[derive(Serialize)]
struct OpenAi<'a, E> {
    object: &'static str,
    data: Vec<OpenAiDatum<E>>,
    model: &'a str,
    model_version: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct OpenAiDatum<E> {
    object: &'static str,
    index: usize,
    embedding: E,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

fn render_openai_floats(
    app: &App,
    _: &Model,
    predictions: &[Prediction],
) -> serde_json::Result<Vec<u8>> {
    render_openai(app, predictions, |vector| vector)
}

/// Little-endian 32-bit floats in base64: what OpenAI's Python client asks for by default.
fn render_openai_base64(
    app: &App,
    _: &Model,
    predictions: &[Prediction],
) -> serde_json::Result<Vec<u8>> {
    render_openai(app, predictions, |vector| {
        let bytes: Vec<u8> = vector
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        base64::engine::general_purpose::STANDARD.encode(bytes)
    })
}

fn render_openai<'a, E: Serialize>(
    app: &App,
    predictions: &'a [Prediction],
    encode: impl Fn(&'a [f32]) -> E,
) -> serde_json::Result<Vec<u8>> {
    let datum = |(index, prediction): (usize, &'a Prediction)| OpenAiDatum {
        object: "embedding",
        index,
        embedding: encode(&prediction.output),
    };
    let tokens = predictions.iter().map(|prediction| prediction.tokens).sum();
    serde_json::to_vec(&OpenAi {
        object: "list",
        data: predictions.iter().enumerate().map(datum).collect(),
        model: &app.name,
        model_version: &app.version,
        usage: Usage {
            prompt_tokens: tokens,
            total_tokens: tokens,
        },
    })
}
