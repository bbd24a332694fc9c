//! `/explain` against what the Python package `shap` says of the same models.

use serde_json::{Value, json};

use crate::support::{Server, cached, explained, fixture, iris, one_flower};

/// Where the library of onnxruntime is, below the cache.
const ONNXRUNTIME: &str = "onnxruntime/1.31.1/libonnxruntime.so.1.31.1";

fn manifest(name: &str) -> Value {
    let path = explained(name).join("serin-model.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Contributions and base values, all outputs of all instances: the largest difference from the
/// fixture.
fn worst_difference(name: &str, args: &[&str], method: &str, scale: &str) -> f64 {
    let server = Server::start(&explained(name), args);
    let manifest = manifest(name);
    let labels = manifest["outputs"]["labels"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let cases = fixture(&format!("explained-{name}.json"));
    let cases = cases.as_array().unwrap();
    let instances: Vec<&Value> = cases.iter().map(|case| &case["instance"]).collect();
    let outputs = cases[0]["outputs"].as_array().unwrap().len();
    let mut worst = 0.0_f64;
    for output in 0..outputs {
        let mut request = json!({"instances": instances});
        // With two classes and one sum, `shap` explains the second class.
        if let Some(label) = labels.get(if outputs == 1 { 1 } else { output }) {
            request["output"] = label.clone();
        }
        let answer = server.post("/explain", &request);
        assert_eq!(answer.status, 200, "{}", answer.text());
        for (case, found) in cases
            .iter()
            .zip(answer.json()["explanations"].as_array().unwrap())
        {
            assert_eq!(
                (&found["method"], &found["scale"]),
                (&json!(method), &json!(scale))
            );
            assert_eq!(found["exact"], true);
            let residual = found["residual"].as_f64().unwrap();
            assert!(
                residual.abs() < 2e-6 * found["value"].as_f64().unwrap().abs().max(1.0),
                "{found}"
            );
            let expected = &case["outputs"][output];
            let mut hold = |found: &Value, expected: &Value| {
                let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
                worst = worst.max((found - expected).abs() / expected.abs().max(1.0));
            };
            hold(&found["base_value"], &expected["base"]);
            let contributions = found["contributions"].as_object().unwrap();
            let fields = manifest["inputs"].as_array().unwrap();
            for (field, expected) in fields
                .iter()
                .zip(expected["contributions"].as_array().unwrap())
            {
                hold(&contributions[field["name"].as_str().unwrap()], expected);
            }
        }
    }
    println!("{name}: {method}, at most {worst:.1e} from shap");
    worst
}

#[test]
fn linear_models_are_explained_as_shap_does() {
    assert!(worst_difference("iris-logistic", &[], "linear", "logit") < 1e-5);
    assert!(worst_difference("diabetes-linear", &[], "linear", "value") < 1e-5);
}

#[test]
fn few_fields_are_explained_by_every_coalition_as_shap_does() {
    assert!(worst_difference("iris-perceptron", &[], "coalitions", "probability") < 1e-5);
}

#[test]
fn trees_are_explained_as_shap_does() {
    let Some(library) = cached(ONNXRUNTIME, "fetch_onnxruntime.py") else {
        return;
    };
    let library = ["--onnxruntime", library.to_str().unwrap()];
    for (name, scale) in [
        ("iris-forest", "probability"),
        ("diabetes-forest", "value"),
        ("breast-boosted", "logit"),
        ("wine-boosted", "logit"),
    ] {
        assert!(worst_difference(name, &library, "trees", scale) < 1e-5);
    }
}

#[test]
fn many_fields_are_sampled_with_an_honest_error() {
    let server = Server::start(&explained("wine-perceptron"), &[]);
    let manifest = manifest("wine-perceptron");
    let cases = fixture("explained-wine-perceptron.json");
    let (mut within, mut all) = (0, 0);
    for case in cases.as_array().unwrap() {
        for (output, expected) in case["outputs"].as_array().unwrap().iter().enumerate() {
            let request = json!({
                "instances": [case["instance"]], "output": format!("class_{output}"),
                "permutations": 400, "time_limit_ms": 30_000, "seed": 7,
            });
            let answer = server.post("/explain", &request);
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(
                answer.json(),
                server.post("/explain", &request).json(),
                "the same seed and number of orders, the same answer"
            );
            let found = answer.json()["explanations"][0].clone();
            assert_eq!(
                (&found["method"], &found["exact"]),
                (&json!("permutations"), &json!(false))
            );
            assert_eq!(found["permutations"], 400);
            let base = found["base_value"].as_f64().unwrap();
            assert!((base - expected["base"].as_f64().unwrap()).abs() < 1e-5);
            let named = |key: &str| found[key].as_object().unwrap().clone();
            let (values, errors) = (named("contributions"), named("standard_errors"));
            let fields = case["instance"].as_object().unwrap().keys();
            let expected = expected["contributions"].as_array().unwrap();
            // Both maps are read in the order of their keys, the fixture's list has the manifest's
            // order.
            let inputs = manifest["inputs"].as_array().unwrap();
            for field in fields {
                let place = inputs.iter().position(|input| input["name"] == *field);
                let expected = expected[place.unwrap()].as_f64().unwrap();
                let (value, error) = (
                    values[field].as_f64().unwrap(),
                    errors[field].as_f64().unwrap(),
                );
                all += 1;
                within += usize::from((value - expected).abs() <= 2.0 * error + 1e-6);
            }
        }
    }
    println!("{within} of {all} contributions are within two of their standard errors");
    assert!(within as f64 >= 0.9 * f64::from(all), "{within} of {all}");
}

#[test]
fn without_a_background_there_is_no_explanation() {
    let server = Server::start(&iris("1.0.0"), &[]);
    let answer = server.post("/explain", &one_flower());
    assert_eq!(answer.status, 404);
    assert_eq!(answer.json()["type"], "urn:serin:problem:not-explained");
    assert!(server.get("/openapi.json").json()["paths"]["/explain"].is_null());
}

#[test]
fn wrong_questions_name_their_fields() {
    let server = Server::start(&explained("iris-logistic"), &[]);
    let case = fixture("explained-iris-logistic.json")[0]["instance"].clone();
    let refused = |request: &Value| {
        let answer = server.post("/explain", request);
        assert_eq!(answer.status, 422, "{request}: {}", answer.text());
        let errors = answer.json()["errors"].as_array().unwrap().clone();
        errors
            .iter()
            .map(|error| error["field"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let mut wrong = case.clone();
    wrong["petal_length"] = json!("secret");
    assert_eq!(
        refused(&json!({
            "instances": [case, wrong], "output": "rose", "permutations": 3, "time_limit_ms": 0.5,
            "seed": -1, "budget": 1,
        })),
        [
            "/output",
            "/permutations",
            "/time_limit_ms",
            "/seed",
            "/budget",
            "/instances/1/petal_length"
        ]
    );
    assert_eq!(refused(&json!({})), ["/instances"]);
    assert_eq!(
        refused(&json!({"instances": vec![case.clone(); 65]})),
        ["/instances"]
    );
    assert!(server.get("/openapi.json").json()["paths"]["/explain"].is_object());
}

/// Three words, so eight texts: `/predict` answers each, and the values follow by the definition.
#[test]
fn words_are_explained_by_the_answers_to_masked_texts() {
    let script = "fetch_trained.py";
    let Some(model) = cached("models/minilm-sentiment/1.0.0", script) else {
        return;
    };
    let server = Server::start(&model, &[]);
    let words = ["Dull", "but", "charming."];
    let text = |own: usize| {
        let word = |(place, word): (usize, &&'static str)| {
            let is_own = own >> place & 1 == 1;
            if is_own { *word } else { "[MASK]" }
        };
        let words: Vec<&str> = words.iter().enumerate().map(word).collect();
        words.join(" ")
    };
    let texts: Vec<String> = (0..8).map(text).collect();
    let predicted = server.post("/predict", &json!({"instances": texts})).json();
    let worth = |own: usize| {
        let probabilities = &predicted["predictions"][own]["probabilities"];
        probabilities["positive"].as_f64().unwrap()
    };
    let request = json!({"instances": [texts[7]], "output": "positive"});
    let answer = server.post("/explain", &request);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let found = &answer.json()["explanations"][0];
    assert_eq!(
        (&found["method"], &found["exact"], &found["output"]),
        (&json!("coalitions"), &json!(true), &json!("positive"))
    );
    let close = |found: &Value, expected: f64| {
        let found = found.as_f64().unwrap();
        assert!((found - expected).abs() < 1e-5, "{found}, not {expected}");
    };
    close(&found["base_value"], worth(0));
    close(&found["value"], worth(7));
    for (place, word) in words.iter().enumerate() {
        let adds = |own: usize| worth(own | 1 << place) - worth(own);
        let [one, other] = [1 << ((place + 1) % 3), 1 << ((place + 2) % 3)];
        let expected = (2.0 * adds(0) + adds(one) + adds(other) + 2.0 * adds(one | other)) / 6.0;
        let passage = &found["contributions"][place];
        assert_eq!(passage["text"], **word);
        close(&passage["contribution"], expected);
    }
}
