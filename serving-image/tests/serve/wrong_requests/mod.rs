//! Wrong requests, each with its expected answer. `docs/bad-requests.md` is written from the
//! answers.

mod cases;
mod situations;

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Client, Response, Server, iris};
use cases::{Case, Expected, MAX_BODY, SECRET, cases};

/// Iris' weights behind fields of every type: a number, an integer, a number that may be missing, a
/// truth value.
fn model(directory: &Path) {
    let manifest = std::fs::read(iris("1.0.0").join("serin-model.json")).unwrap();
    let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
    manifest["limits"]["maxInstances"] = json!(900); // so that too many fit the body
    manifest["inputs"][1]["type"] = json!("integer");
    manifest["inputs"][2]["nullable"] = json!(true);
    let petal_width = &mut manifest["inputs"][3];
    *petal_width = json!({"name": "petal_width", "type": "boolean"});
    let impute = json!({"step": "impute", "values": {"petal_length": 4.35}});
    let steps = manifest["preprocessing"].as_array_mut().unwrap();
    steps.insert(0, impute);
    manifest["golden"] = json!([]);
    let file = directory.join("serin-model.json");
    std::fs::write(file, manifest.to_string()).unwrap();
    let weights = "model.safetensors";
    std::fs::copy(iris("1.0.0").join(weights), directory.join(weights)).unwrap();
}

#[test]
fn each_wrong_request_gets_its_answer() {
    let directory = tempfile::tempdir().unwrap();
    model(directory.path());
    let bytes = MAX_BODY.to_string();
    let bounds = ["--max-body-bytes", &bytes, "--body-timeout", "300ms"];
    let server = Server::start(directory.path(), &bounds);
    let cases = cases();
    let rows: String = cases.iter().map(|case| row(&server, case)).collect();
    // After all of them the server serves as before.
    let good = json!({"instances": [{"sepal_length": 5.1, "sepal_width": 3, "petal_width": true}]});
    assert_eq!(server.post("/predict", &good).status, 200);
    println!(
        "{} wrong requests, each answered as the table says",
        cases.len()
    );
    assert!(cases.len() >= 60);
    let more = situations::rows();
    compare_with_the_document(&rows, &more);
}

/// Sends a case's request, and words the answer as a row of the document.
fn row(server: &Server, case: &Case) -> String {
    let mut client = Client::new(server.address);
    let response = client.raw(case.request.as_bytes()).unwrap();
    let answer = check(case, &response);
    format!("| {} | {} | {answer} |\n", case.name, case.status)
}

/// Holds an answer to its case, and words it for the document.
fn check(case: &Case, response: &Response) -> String {
    let name = case.name;
    let text = response.text();
    assert_eq!(response.status, case.status, "{name}: {text}");
    // The request's id is random: its digits may be any.
    let id = response.header("x-request-id").unwrap_or_default();
    let without_id = text.replace(id, "");
    for part in [SECRET, "4711"] {
        let is_repeated = without_id.contains(part);
        assert!(!is_repeated, "{name} repeats what was sent: {text}");
    }
    if case.status == 405 {
        assert!(response.header("allow").is_some(), "{name}");
    }
    if case.status == 415 {
        assert_eq!(response.header("accept-encoding"), Some("identity"));
    }
    if [429, 503].contains(&case.status) {
        assert_eq!(response.header("retry-after"), Some("1"), "{name}");
    }
    match &case.expected {
        Expected::Bare => {
            assert!(text.is_empty(), "{name}: {text}");
            "no body".to_owned()
        }
        Expected::V2(parts) => {
            let body = response.json();
            let error = body["error"].as_str().unwrap();
            for part in parts {
                assert!(error.contains(part), "{name}: {error}");
            }
            assert_eq!(response.header("content-type"), Some("application/json"));
            escape(error)
        }
        Expected::OpenAi(code) => {
            let error = &response.json()["error"];
            assert_eq!(error["code"], *code, "{name}: {text}");
            assert_eq!(response.header("content-type"), Some("application/json"));
            escape(error["message"].as_str().unwrap())
        }
        Expected::Problem(kind, fields) => {
            let body = response.json();
            let content_type = response.header("content-type");
            assert_eq!(content_type, Some("application/problem+json"), "{name}");
            assert_eq!(body["status"], case.status, "{name}");
            assert_eq!(body["type"], format!("urn:serin:problem:{kind}"), "{name}");
            let id = response.header("x-request-id").unwrap();
            assert_eq!(body["request_id"], id, "{name}");
            let errors = body["errors"].as_array().cloned().unwrap_or_default();
            let text = |error: &Value, key: &str| error[key].as_str().unwrap().to_owned();
            let named: Vec<String> = errors.iter().map(|error| text(error, "field")).collect();
            assert_eq!(named, *fields, "{name}: {body}");
            let detail = body["detail"].as_str().unwrap();
            let mut answer = format!("**{kind}** {detail}");
            for error in &errors {
                let (field, expected) = (text(error, "field"), text(error, "expected"));
                write!(answer, "; `{field}`: {expected}").unwrap();
            }
            escape(&answer)
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('|', "\\|")
}

/// Writes the document with `SERIN_WRITE_DOCS=1`; otherwise compares it with the answers.
fn compare_with_the_document(rows: &str, more: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/bad-requests.md");
    let count = rows.lines().count() + more.lines().count();
    let document = format!(
        "# {count} wrong requests, and the answer to each\n\n\
         The test `wrong_requests` writes this page from the answers of a server:\n\
         `SERIN_WRITE_DOCS=1 cargo test -p serin-serve --test serve wrong_requests`.\n\
         The model takes `sepal_length` (a number), `sepal_width` (an integer), `petal_length`\n\
         (a number that may be missing) and `petal_width` (true or false). A body may have\n\
         {MAX_BODY} bytes and 300 ms. An answer lists every wrong field, and repeats no value.\n\n\
         | request | status | answer |\n|---|---|---|\n{rows}\n\
         ## Other servers\n\n\
         Answers for categories, and answers that are not the request's fault. Those with 429 and\n\
         503 have `Retry-After: 1`.\n\n\
         | request | status | answer |\n|---|---|---|\n{more}"
    );
    if std::env::var_os("SERIN_WRITE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, document).unwrap();
    } else {
        let written = std::fs::read_to_string(&path).unwrap();
        assert!(
            written == document,
            "{} is not what the server answers; write it anew with SERIN_WRITE_DOCS=1",
            path.display()
        );
    }
}

#[test]
fn values_that_overflow_the_model_are_refused_and_not_answered_with_null() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models");
    let model = models.join("diabetes-ridge");
    let manifest = std::fs::read(model.join("serin-model.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let good = manifest["golden"][0]["instance"].clone();
    let mut huge = good.clone();
    huge["bmi"] = json!(1e300);
    let server = Server::start(&model, &[]);
    let answer = server.post("/predict", &json!({"instances": [good, huge]}));
    assert_eq!(answer.status, 422, "{}", answer.text());
    let errors = answer.json()["errors"].clone();
    assert_eq!(errors[0]["field"], "/instances/1", "{errors}");
    assert_eq!(errors.as_array().unwrap().len(), 1);
}
