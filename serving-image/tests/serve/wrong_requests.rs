//! A table of wrong requests, each with the answer that it gets.

use serde_json::json;

use crate::support::{Client, Server, iris};

/// Never to be found in an answer.
const SECRET: &str = "secret-4711";

struct Case {
    name: &'static str,
    request: String,
    status: u16,
    kind: &'static str,
    /// The fields that the answer names, in its order.
    fields: &'static [&'static str],
}

fn post(content_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /predict HTTP/1.1\r\nhost: h\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn bare(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n")
}

fn cases() -> Vec<Case> {
    let case = |name, request, status, kind, fields| Case {
        name,
        request,
        status,
        kind,
        fields,
    };
    let json = |body: &str| post("application/json", body);
    let flower = |fields: &str| json(&format!(r#"{{"instances": [{{{fields}}}]}}"#));
    let chunked = format!(
        "POST /predict HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n\
         bb8\r\n{}\r\n0\r\n\r\n",
        " ".repeat(3000)
    );
    let invalid = "invalid-input";
    vec![
        case(
            "unknown path",
            bare("GET", "/secret-4711"),
            404,
            "not-found",
            &[],
        ),
        case(
            "embeddings of a tabular model",
            bare("POST", "/v1/embeddings"),
            404,
            "not-found",
            &[],
        ),
        case(
            "wrong method",
            bare("GET", "/predict"),
            405,
            "method-not-allowed",
            &[],
        ),
        case(
            "wrong method on a probe",
            bare("POST", "/readyz"),
            405,
            "method-not-allowed",
            &[],
        ),
        case(
            "no media type",
            bare("POST", "/predict"),
            415,
            "unsupported-media-type",
            &[],
        ),
        case(
            "a form",
            post("application/x-www-form-urlencoded", "a=secret-4711"),
            415,
            "unsupported-media-type",
            &[],
        ),
        case(
            "another charset",
            post("application/json; charset=latin1", "{}"),
            415,
            "unsupported-media-type",
            &[],
        ),
        case("an empty body", json(""), 400, "malformed-json", &[]),
        case(
            "a body cut short",
            json(r#"{"instances": ["secret-4711"#),
            400,
            "malformed-json",
            &[],
        ),
        case("no JSON", json("secret-4711"), 400, "malformed-json", &[]),
        case(
            "not UTF-8's JSON",
            json("{\"instances\": [NaN]}"),
            400,
            "malformed-json",
            &[],
        ),
        case("too large", json(&" ".repeat(3000)), 413, "too-large", &[]),
        case("too large, in chunks", chunked, 413, "too-large", &[]),
        case(
            "too slow",
            post("application/json", "{}").replace("length: 2", "length: 3"),
            408,
            "body-timeout",
            &[],
        ),
        case("no object", json(r#"["secret-4711"]"#), 422, invalid, &[""]),
        case("no instances", json("{}"), 422, invalid, &["/instances"]),
        case(
            "instances of another type",
            json(r#"{"instances": "secret-4711"}"#),
            422,
            invalid,
            &["/instances"],
        ),
        case(
            "no instance",
            json(r#"{"instances": []}"#),
            422,
            invalid,
            &["/instances"],
        ),
        case(
            "too many instances",
            json(&format!(r#"{{"instances": [1{}]}}"#, ",1".repeat(900))),
            422,
            invalid,
            &["/instances"],
        ),
        case(
            "no object as instance",
            json(r#"{"instances": ["secret-4711"]}"#),
            422,
            invalid,
            &["/instances/0"],
        ),
        case(
            "every field missing",
            flower(""),
            422,
            invalid,
            &[
                "/instances/0/sepal_length",
                "/instances/0/sepal_width",
                "/instances/0/petal_length",
                "/instances/0/petal_width",
            ],
        ),
        case(
            "null, a text, out of range, unknown",
            flower(
                r#""sepal_length": null, "sepal_width": "secret-4711", "petal_length": 30.001, "petal_width": -1, "colour": "secret-4711""#,
            ),
            422,
            invalid,
            &[
                "/instances/0/sepal_length",
                "/instances/0/sepal_width",
                "/instances/0/petal_length",
                "/instances/0/petal_width",
                "/instances/0/colour",
            ],
        ),
        case(
            "the second instance, and an unknown field beside them",
            json(
                r#"{"instances": [{"sepal_length": 5, "sepal_width": 3, "petal_length": 1, "petal_width": 1}, {"sepal_length": 5, "sepal_width": 3, "petal_length": true, "petal_width": 1}], "a/b": "secret-4711"}"#,
            ),
            422,
            invalid,
            &["/a~1b", "/instances/1/petal_length"],
        ),
    ]
}

#[test]
fn each_wrong_request_gets_its_answer() {
    let directory = tempfile::tempdir().unwrap();
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(iris("1.0.0").join("serin-model.json")).unwrap())
            .unwrap();
    manifest["limits"]["maxInstances"] = json!(900); // so that too many fit the body limit
    std::fs::write(
        directory.path().join("serin-model.json"),
        manifest.to_string(),
    )
    .unwrap();
    std::fs::copy(
        iris("1.0.0").join("model.safetensors"),
        directory.path().join("model.safetensors"),
    )
    .unwrap();
    let server = Server::start(
        directory.path(),
        &["--max-body-bytes", "2000", "--body-timeout", "300ms"],
    );

    let cases = cases();
    for Case {
        name,
        request,
        status,
        kind,
        fields,
    } in &cases
    {
        let response = Client::new(server.address).raw(request.as_bytes()).unwrap();
        let body = response.json();
        assert_eq!(response.status, *status, "{name}: {body}");
        assert_eq!(
            response.header("content-type"),
            Some("application/problem+json"),
            "{name}"
        );
        assert_eq!(body["status"], *status, "{name}");
        assert_eq!(body["type"], format!("urn:serin:problem:{kind}"), "{name}");
        assert_eq!(
            body["request_id"],
            response.header("x-request-id").unwrap(),
            "{name}"
        );
        let errors = body["errors"].as_array().cloned().unwrap_or_default();
        let named: Vec<_> = errors
            .iter()
            .map(|error| error["field"].as_str().unwrap())
            .collect();
        assert_eq!(named, *fields, "{name}: {body}");
        assert!(
            errors.iter().all(|error| error["expected"]
                .as_str()
                .is_some_and(|text| text.len() > 3)),
            "{name}"
        );
        assert!(
            !response.text().contains(SECRET),
            "{name} repeats what was sent: {body}"
        );
        if *status == 405 {
            assert!(response.header("allow").is_some(), "{name}");
        }
    }
    println!(
        "{} wrong requests, each answered as the table says",
        cases.len()
    );
    // After all of them the server serves as before.
    assert_eq!(
        server
            .post("/predict", &crate::support::one_flower())
            .status,
        200
    );
}
