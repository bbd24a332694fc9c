//! Requests to every path that reads a body: an answer of the kind that the contract names, never a 5xx, whatever comes.

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

use super::{bounded, cases, json, replace};
use crate::artefact::{Artefact, InputType};
use crate::batching::{BatchMetrics, Batcher, Limits};
use crate::compute::ComputePool;
use crate::http::{App, Bounds, Workers, router};
use crate::json;
use crate::lifecycle::Engine;
use crate::model::Model;
use crate::preprocess::FieldErrors;

const NAME: &str = "passengers-logistic";

/// A served table of numbers, texts and missing values, which is explained too; without a network.
struct Server {
    runtime: Runtime,
    service: TowerToHyperService<Router>,
    /// Each path, and a request to it that is answered 200.
    good: Vec<(String, Value)>,
}

impl Server {
    fn start() -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/models")
            .join(NAME);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _guard = runtime.enter();
        let artefact = || Artefact::open(&directory, None).unwrap();
        let limits = Limits {
            tokens: 1024,
            texts: 64,
            requests: 16,
        };
        let workers = Workers {
            compute: ComputePool::start(1, 16).unwrap(),
            batcher: Batcher::start(limits, BatchMetrics::default()).unwrap(),
            explanations: ComputePool::start(1, 4).unwrap(),
        };
        let long = Duration::from_mins(10);
        let bounds = Bounds {
            body: 1 << 20,
            body_time: long,
            deadline: long,
        };
        let (name, version) = (NAME.to_owned(), "1.0.0".to_owned());
        let app = App::new(&artefact(), name, version, workers, None, bounds, &[0.1]).unwrap();
        let model = Model::load(artefact()).unwrap();
        let instance = model.manifest.golden[0].instance.clone();
        let tensors = model.manifest.inputs.iter().map(|input| {
            let datatype = match input.kind {
                InputType::String => "BYTES",
                InputType::Integer => "INT64",
                _ => "FP64",
            };
            json!({"name": input.name, "shape": [1], "datatype": datatype, "data": [instance[&input.name]]})
        });
        let tensors: Vec<Value> = tensors.collect();
        let good = vec![
            (
                "/predict".to_owned(),
                json!({"instances": [instance, instance]}),
            ),
            (
                format!("/v2/models/{NAME}/infer"),
                json!({"id": "a", "inputs": tensors}),
            ),
            (
                "/explain".to_owned(),
                json!({"instances": [instance], "output": "yes", "permutations": 4, "time_limit_ms": 1, "seed": 1}),
            ),
        ];
        app.ready(Engine::Model(Arc::new(model)), Duration::ZERO);
        let service = TowerToHyperService::new(router(Arc::new(app)));
        Self {
            runtime,
            service,
            good,
        }
    }

    fn post(&self, path: &str, body: Vec<u8>) -> (StatusCode, Value) {
        let request = Request::post(path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .unwrap();
        self.runtime.block_on(async {
            let answer = self.service.call(request).await.unwrap();
            let status = answer.status();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            (status, serde_json::from_slice(&body).unwrap())
        })
    }
}

thread_local! {
    /// One for all cases of a test.
    static SERVER: Server = Server::start();
}

#[test]
fn the_requests_that_are_changed_are_good_ones() {
    SERVER.with(|server| {
        for (path, body) in &server.good {
            let (status, answer) = server.post(path, body.to_string().into_bytes());
            assert_eq!(status, 200, "{path}: {answer}");
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
            let (path, good) = which.get(&server.good);
            let mut body = good.clone();
            replace(&mut body, place, by);
            if let Some(twice) = twice {
                replace(&mut body, twice, again);
            }
            let (status, answer) = server.post(path, body.to_string().into_bytes());
            let status = status.as_u16();
            // V2 answers 400 and one sentence where the other faces answer 422 and all fields.
            if path.starts_with("/v2") {
                assert!(status == 200 || (status == 400 && answer["error"].is_string()), "{path} {body}: {status} {answer}");
            } else {
                let told = status == 422 && answer["errors"].as_array().is_some_and(|errors| !errors.is_empty());
                assert!(status == 200 || told, "{path} {body}: {status} {answer}");
            }
        });
    }

    #[test]
    fn any_bytes_are_answered_as_documented(which: Index, bytes in vec(any::<u8>(), 0..64)) {
        SERVER.with(|server| {
            let (path, _) = which.get(&server.good);
            let (status, answer) = server.post(path, bytes);
            assert!(matches!(status.as_u16(), 400 | 422), "{path}: {status} {answer}");
        });
    }

    #[test]
    fn any_text_is_json_or_an_error(text in "[\\[\\]{}\",:0-9a-z\\\\ .+-]{0,80}", value in json()) {
        for text in [text, value.to_string()] {
            let strict = bounded(text.len(), || json::parse(text.as_bytes(), &mut FieldErrors::default()));
            let usual = serde_json::from_str::<Value>(&text);
            assert_eq!(strict.is_ok(), usual.is_ok(), "{text}");
        }
    }
}
