//! Random requests to every path that reads a body: the answer is of a kind that the contract
//! names, and never a 5xx.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::artefact::{Artefact, InputType};
use crate::batching::{Batcher, Limits};
use crate::compute::ComputePool;
use crate::explain::{self, Explainer};
use crate::fuzzing::{bounded, cases, json, replace};
use crate::http::{App, Bounds, Executors, contract, router};
use crate::json;
use crate::lifecycle::Engine;
use crate::metrics::BatchMetrics;
use crate::model::{Model, examples};
use crate::preprocess::FieldErrors;

/// Served models, without a network.
struct Server {
    runtime: Runtime,
    /// Each path of a model, with a request to it that is answered 200.
    good: Vec<Good>,
}

struct Good {
    service: TowerToHyperService<Router>,
    path: String,
    body: Value,
}

impl Server {
    /// A table of numbers, texts and missing values, and pairs of texts. Both are explained.
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let guard = runtime.enter();
        let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/passengers-logistic");
        let model = explain::load(Artefact::open(&table, None).unwrap()).unwrap();
        let instance = model.0.manifest.golden[0].instance.clone();
        let output = json!("yes");
        let mut good = serve(&table, model, &instance, Some(&output));
        let pairs = tempfile::tempdir().unwrap();
        examples::write_reranker(pairs.path(), json!({"mask": "[MASK]"}));
        let model = explain::load(Artefact::open(pairs.path(), None).unwrap()).unwrap();
        let instance = json!({"text": "the film", "pair": "not too bad"});
        good.extend(serve(pairs.path(), model, &instance, None));
        drop(guard);
        Self { runtime, good }
    }

    fn post(&self, to: &Good, body: Vec<u8>) -> (StatusCode, Value) {
        let request = Request::post(&to.path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .unwrap();
        self.runtime.block_on(async {
            let answer = to.service.call(request).await.unwrap();
            let status = answer.status();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            (status, serde_json::from_slice(&body).unwrap())
        })
    }
}

/// The paths of one model, each with a good request.
fn serve(
    directory: &Path,
    (model, explainer): (Model, Option<Explainer>),
    instance: &Value,
    output: Option<&Value>,
) -> Vec<Good> {
    let artefact = Artefact::open(directory, None).unwrap();
    let limits = Limits {
        tokens: 1024,
        texts: 64,
        requests: 16,
    };
    let executors = Executors {
        compute: ComputePool::start(1, 16).unwrap(),
        batcher: Batcher::start(limits, BatchMetrics::default()).unwrap(),
        explanations: ComputePool::start_apart(4).unwrap(),
    };
    let long = Duration::from_mins(10);
    let bounds = Bounds {
        body: 1 << 20,
        body_time: long,
        deadline: long,
    };
    let (name, version) = (model.manifest.name.clone(), "1.0.0".to_owned());
    let app = App::new(
        &artefact,
        name.clone(),
        version,
        executors,
        None,
        bounds,
        &[0.1],
    )
    .unwrap();
    let tensors = model.manifest.inputs.iter().map(|input| {
        let datatype = match input.kind {
            InputType::String => "BYTES",
            InputType::Integer => "INT64",
            _ => "FP64",
        };
        json!({"name": input.name, "shape": [1], "datatype": datatype,
            "data": [instance[&input.name]]})
    });
    let tensors: Vec<Value> = tensors.collect();
    let mut explain =
        json!({"instances": [instance], "permutations": 4, "time_limit_ms": 1, "seed": 1});
    if let Some(output) = output {
        explain["output"] = output.clone();
    }
    app.ready(Engine::Model(Arc::new(model), explainer), Duration::ZERO);
    let service = TowerToHyperService::new(router(Arc::new(app)));
    let mut requests = vec![
        (
            "/predict".to_owned(),
            json!({"instances": [instance, instance]}),
        ),
        (
            format!("/v1/models/{name}:predict"),
            json!({"instances": [instance]}),
        ),
        (
            format!("/v2/models/{name}/infer"),
            json!({"id": "a", "inputs": tensors}),
        ),
        ("/explain".to_owned(), explain),
    ];
    if output.is_none() {
        let body = json!({"query": instance["text"], "documents": [instance["pair"]]});
        requests.push(("/rerank".to_owned(), body));
    }
    let requests = requests.into_iter();
    requests
        .map(|(path, body)| Good {
            service: service.clone(),
            path,
            body,
        })
        .collect()
}

thread_local! {
    /// One for all cases of a test.
    static SERVER: Server = Server::start();
}

#[test]
fn the_requests_that_are_changed_are_good_ones() {
    SERVER.with(|server| {
        for good in &server.good {
            let (status, answer) = server.post(good, good.body.to_string().into_bytes());
            assert_eq!(status, 200, "{}: {answer}", good.path);
        }
    });
}

/// Names of what an object must have and may have.
fn keys(schema: &Value) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let required = schema["required"].as_array().unwrap().iter();
    let known = schema["properties"].as_object().unwrap().keys();
    (
        required.map(|name| name.as_str().unwrap()).collect(),
        known.map(String::as_str).collect(),
    )
}

fn assert_fits(value: &Value, schema: &Value) {
    let (required, known) = keys(schema);
    let found: BTreeSet<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert!(
        found.is_superset(&required) && found.is_subset(&known),
        "{value}: {schema}"
    );
}

#[test]
fn an_explanation_of_texts_is_as_the_contract_says() {
    let directory = tempfile::tempdir().unwrap();
    examples::write_reranker(directory.path(), json!({"mask": "[MASK]"}));
    let manifest = Artefact::open(directory.path(), None).unwrap().manifest;
    let document = contract(&manifest);
    let answers = &document["paths"]["/explain"]["post"]["responses"]["200"]["content"];
    let explanation = &answers["application/json"]["schema"]["properties"]["explanations"]["items"];
    let passage = &explanation["properties"]["contributions"]["items"];
    let many = "a fine film . not too long the end not bad";
    SERVER.with(|server| {
        let explain = |good: &&Good| good.path == "/explain";
        let good = server.good.iter().rfind(explain).unwrap();
        for (pair, sampled) in [("not bad", false), (many, true)] {
            let body = json!({"instances": [{"text": "film", "pair": pair}], "permutations": 4});
            let (_, answer) = server.post(good, body.to_string().into_bytes());
            let found = &answer["explanations"][0];
            assert_fits(found, explanation);
            assert_eq!(found["exact"], !sampled, "{found}");
            let passages = found["contributions"].as_array().unwrap();
            assert_eq!(passages.len(), 1 + pair.split(' ').count());
            for (index, found) in passages.iter().enumerate() {
                assert_fits(found, passage);
                assert_eq!(found["input"], if index == 0 { "text" } else { "pair" });
                assert_eq!(found["standard_error"].is_number(), sampled);
            }
        }
    });
}

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn any_change_to_a_request_is_answered_as_documented(
        which: Index, place: Index, by in json(), twice in any::<Option<Index>>(), again in json(),
    ) {
        SERVER.with(|server| {
            let good = which.get(&server.good);
            let (path, mut body) = (&good.path, good.body.clone());
            replace(&mut body, place, by);
            if let Some(twice) = twice {
                replace(&mut body, twice, again);
            }
            let (status, answer) = server.post(good, body.to_string().into_bytes());
            let status = status.as_u16();
            // V1 and V2 answer 400 and one sentence where the others answer 422 and all fields.
            if path == "/rerank" {
                let refused = [404, 422].contains(&status) && answer["message"].is_string();
                assert!(status == 200 || refused, "{path} {body}: {status} {answer}");
            } else if path.starts_with("/v2") || path.starts_with("/v1") {
                assert!(status == 200 || (status == 400 && answer["error"].is_string()),
                    "{path} {body}: {status} {answer}");
            } else {
                let errors = answer["errors"].as_array();
                let is_refused = status == 422 && errors.is_some_and(|errors| !errors.is_empty());
                assert!(status == 200 || is_refused, "{path} {body}: {status} {answer}");
            }
        });
    }

    #[test]
    fn any_bytes_are_answered_as_documented(which: Index, bytes in vec(any::<u8>(), 0..64)) {
        SERVER.with(|server| {
            let good = which.get(&server.good);
            let (status, answer) = server.post(good, bytes);
            assert!(matches!(status.as_u16(), 400 | 422), "{}: {status} {answer}", good.path);
        });
    }

    #[test]
    fn any_text_is_json_or_an_error(text in "[\\[\\]{}\",:0-9a-z\\\\ .+-]{0,80}", value in json()) {
        for text in [text, value.to_string()] {
            let strict = bounded(text.len(), || json::parse(text.as_bytes(),
                &mut FieldErrors::default()));
            let usual = serde_json::from_str::<Value>(&text);
            assert_eq!(strict.is_ok(), usual.is_ok(), "{text}");
        }
    }
}
