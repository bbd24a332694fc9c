//! `POST /explain`: how much each field or word contributed to an answer. Runs on a separate
//! thread, and yields to predictions.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use tracing::error;

use super::App;
use super::body::{read_object, refuse_unknown};
use super::infer::NOT_FINITE;
use super::problem::Problem;
use crate::artefact::{Kind, Manifest, Task};
use crate::explain::{Effort, ExplainError, Explainer, Explanation, Passage, Question};
use crate::json::integer;
use crate::metrics::Outcome;
use crate::model::Model;
use crate::preprocess::{FieldErrors, Location};

/// Most instances in one request.
const MAX_INSTANCES: usize = 64;
/// The same of texts: each costs about 16 texts, whatever time the request gives.
const MAX_TEXTS: usize = 8;
/// Time for the sampling of all instances of a request, in milliseconds, where the request names
/// none.
pub(super) const DEFAULT_TIME: u64 = 1_000;
/// Longest such time that a request may name.
pub(super) const MAX_TIME: u64 = 30_000;
/// Most random orders of the fields, where the request names no number.
const DEFAULT_PERMUTATIONS: u64 = 2_000;
/// Largest seed.
pub(super) const MAX_SEED: u64 = u32::MAX as u64;
/// Most random orders that a request may name.
pub(super) const MAX_PERMUTATIONS: u64 = 100_000;

/// The path of a model whose answers are explained, or one that says why they are not.
pub(super) fn routes(is_explained: bool) -> Router<Arc<App>> {
    let route = if is_explained {
        post(explain)
    } else {
        post(not_explained)
    };
    Router::new().route("/explain", route)
}

/// Most instances in one request about that model.
pub(super) fn max_instances(manifest: &Manifest) -> usize {
    match manifest.kind {
        Kind::Text | Kind::TextPair => MAX_TEXTS,
        _ => MAX_INSTANCES,
    }
}

async fn not_explained(State(app): State<Arc<App>>) -> Problem {
    let could_be = match app.kind {
        Kind::Tabular => true,
        Kind::Text | Kind::TextPair => app.task != Task::SentenceEmbedding,
        Kind::Tensor | Kind::Generation => false,
    };
    let detail = if could_be {
        "This model's manifest has no background, which explanations compare with"
    } else {
        "Only classes, numbers and scores are explained, by the fields of a table or the words of \
         a text; this model has other inputs or answers"
    };
    Problem::new(StatusCode::NOT_FOUND, "not-explained", detail)
}

/// The parameters of a validated request.
struct ExplainParams {
    instances: Vec<Value>,
    output: Option<usize>,
    permutations: u64,
    time: Duration,
    seed: u64,
}

async fn explain(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let model = app.lifecycle.model().ok_or_else(Problem::loading)?;
    let body = read_object(request, &app).await?;
    let params = read(model, body).map_err(Problem::invalid)?;
    // Dropped with this future, when the client closes its connection.
    let caller = Arc::new(());
    let work = {
        let (app, model, caller) = (Arc::clone(&app), Arc::clone(model), Arc::downgrade(&caller));
        move || answer(&app, &model, &params, &caller)
    };
    let body = app.explanations.run(work).await??;
    drop(caller);
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// `{"instances": […], "output": "setosa", "permutations": 2000, "time_limit_ms": 1000, "seed":
/// 0}`, all but the first optional.
fn read(model: &Model, mut body: Map<String, Value>) -> Result<ExplainParams, FieldErrors> {
    let mut errors = FieldErrors::default();
    let most = max_instances(&model.manifest);
    let instances = match body.remove("instances") {
        Some(Value::Array(instances)) if (1..=most).contains(&instances.len()) => instances,
        _ => {
            let expected = format!("an array of 1 to {most} instances (required)");
            errors.push(|| "/instances".into(), expected);
            Vec::new()
        }
    };
    let outputs = &model.manifest.outputs;
    let names = if outputs.labels.is_empty() {
        &outputs.names
    } else {
        &outputs.labels
    };
    let output = body.remove("output").and_then(|given| {
        let index = given
            .as_str()
            .and_then(|given| names.iter().position(|name| name == given));
        if index.is_none() {
            let expected = match names.as_slice() {
                [] => "nothing: the model has one output".to_owned(),
                names => format!("one of {}, or nothing", names.join(", ")),
            };
            errors.push(|| "/output".into(), expected);
        }
        index
    });
    let mut whole = |name: &str, from: u64, to: u64, default: u64| match body.remove(name) {
        None => default,
        Some(given) => {
            let number = integer(&given).and_then(|number| u64::try_from(number).ok());
            let number = number.filter(|number| (from..=to).contains(number));
            number.unwrap_or_else(|| {
                let expected = format!("a whole number from {from} to {to}, or nothing");
                errors.push(|| format!("/{name}"), expected);
                default
            })
        }
    };
    let permutations = whole("permutations", 4, MAX_PERMUTATIONS, DEFAULT_PERMUTATIONS);
    let time = whole("time_limit_ms", 1, MAX_TIME, DEFAULT_TIME);
    let seed = whole("seed", 0, MAX_SEED, 0);
    refuse_unknown(
        &body,
        "instances, output, permutations, time_limit_ms, seed",
        &mut errors,
    );
    if let Err(more) = model.prepare(&instances, Location::List("/instances"))
        && !instances.is_empty()
    {
        errors.append(more);
    }
    if errors.total > 0 {
        return Err(errors);
    }
    Ok(ExplainParams {
        instances,
        output,
        permutations,
        time: Duration::from_millis(time),
        seed,
    })
}

/// The body of the answer.
fn answer(
    app: &App,
    model: &Model,
    params: &ExplainParams,
    caller: &Weak<()>,
) -> Result<Vec<u8>, Problem> {
    let explainer = app.lifecycle.explainer();
    let explainer = explainer.ok_or_else(Problem::internal)?;
    let running = app.metrics.explanations().begin();
    let found = explanations(app, model, explainer, params, caller);
    running.end(match &found {
        Ok(_) => Outcome::Answered,
        Err(ExplainError::Abandoned) => Outcome::Abandoned,
        Err(_) => Outcome::Failed,
    });
    let explanations = found.map_err(|reason| {
        if !matches!(reason, ExplainError::Abandoned) {
            error!(%reason, "the explanation failed");
        }
        Problem::internal()
    })?;
    let mut errors = FieldErrors::default();
    for (index, explanation) in explanations.iter().enumerate() {
        if !explanation.is_finite() {
            let field = || Location::List("/instances").pointer(index);
            errors.push(field, NOT_FINITE);
        }
    }
    if errors.total > 0 {
        return Err(Problem::invalid(errors));
    }
    let answer = Answer {
        model: &app.name,
        model_version: &app.version,
        explanations: explanations
            .iter()
            .map(|explanation| NamedExplanation::new(model, explainer, explanation))
            .collect(),
    };
    serde_json::to_vec(&answer).map_err(|reason| {
        error!(%reason, "the answer could not be written");
        Problem::internal()
    })
}

fn explanations(
    app: &App,
    model: &Model,
    explainer: &Explainer,
    params: &ExplainParams,
    caller: &Weak<()>,
) -> Result<Vec<Explanation>, ExplainError> {
    let started = Instant::now();
    let count = params.instances.len() as u32;
    let explanations = (1..).zip(&params.instances).map(|(index, instance)| {
        let begun = Instant::now();
        let deadline = started + params.time * index / count;
        let mut budget = Budget {
            app,
            caller,
            begun,
            time: deadline.saturating_duration_since(begun),
            pairs: (params.permutations / 2) as usize,
            worked_since: begun,
        };
        let question = Question {
            instance,
            output: params.output,
            seed: params.seed,
        };
        explainer.explain(model, &question, &mut budget)
    });
    explanations.collect()
}

/// While predictions run, an explanation pauses for this many times the time that it computed: a
/// busy server explains at a fifth of its speed.
const RESTS: u32 = 4;

/// Longest rest.
const LONGEST_REST: Duration = Duration::from_millis(100);

/// Interval of the check whether predictions still run.
const BLINK: Duration = Duration::from_millis(1);

/// Bounds an explanation: by its pairs of orders, by its time, and by the client's connection.
struct Budget<'a> {
    app: &'a App,
    caller: &'a Weak<()>,
    begun: Instant,
    time: Duration,
    pairs: usize,
    worked_since: Instant,
}

impl Effort for Budget<'_> {
    fn pairs(&self) -> usize {
        self.pairs
    }

    fn time_left(&mut self) -> f64 {
        let left = self.time.saturating_sub(self.begun.elapsed());
        // Of no time at all, nothing is left.
        left.as_secs_f64() / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    fn proceed(&mut self) -> Result<(), ExplainError> {
        let mut rest = (self.worked_since.elapsed() * RESTS).min(LONGEST_REST);
        while !rest.is_zero() && self.app.metrics.is_predicting() && self.caller.strong_count() > 0
        {
            let blink = rest.min(BLINK);
            std::thread::sleep(blink);
            rest -= blink;
        }
        self.worked_since = Instant::now();
        if self.caller.strong_count() == 0 {
            return Err(ExplainError::Abandoned);
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    model: &'a str,
    model_version: &'a str,
    explanations: Vec<NamedExplanation<'a>>,
}

#[derive(Serialize)]
struct NamedExplanation<'a> {
    /// The label or name of the output that is explained.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a str>,
    scale: &'static str,
    value: f64,
    base_value: f64,
    contributions: Contributions<'a>,
    method: &'static str,
    exact: bool,
    residual: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    standard_errors: Option<Named<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    permutations: Option<usize>,
}

impl<'a> NamedExplanation<'a> {
    fn new(model: &'a Model, explainer: &'a Explainer, explanation: &'a Explanation) -> Self {
        let outputs = &model.manifest.outputs;
        let name = |names: &'a [String]| names.get(explanation.output).map(String::as_str);
        let errors = explanation.standard_errors.as_deref();
        let (contributions, standard_errors) = match &explanation.passages {
            None => {
                let named = |values| Named(explainer.fields(), values);
                let of_fields = named(explanation.contributions.as_slice());
                (Contributions::OfFields(of_fields), errors.map(named))
            }
            Some(passages) => {
                let passage = |(index, passage): (usize, &'a Passage)| WordedPassage {
                    input: (explainer.fields().len() > 1)
                        .then(|| explainer.fields()[passage.input].as_str()),
                    text: &passage.text,
                    contribution: explanation.contributions[index],
                    standard_error: errors.map(|errors| errors[index]),
                };
                let passages = passages.iter().enumerate().map(passage);
                (Contributions::OfPassages(passages.collect()), None)
            }
        };
        Self {
            output: name(&outputs.labels).or_else(|| name(&outputs.names)),
            scale: explanation.scale,
            value: explanation.value,
            base_value: explanation.base_value,
            contributions,
            method: explanation.method,
            exact: explanation.standard_errors.is_none(),
            residual: explanation.residual(),
            standard_errors,
            permutations: (explanation.permutations > 0).then_some(explanation.permutations),
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Contributions<'a> {
    OfFields(Named<'a>),
    /// In the order of the text.
    OfPassages(Vec<WordedPassage<'a>>),
}

#[derive(Serialize)]
struct WordedPassage<'a> {
    /// Which text of a pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<&'a str>,
    text: &'a str,
    contribution: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    standard_error: Option<f64>,
}

/// `{"petal_length": 0.41, …}`, in the manifest's order of inputs.
struct Named<'a>(&'a [String], &'a [f64]);

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().zip(self.1))
    }
}
