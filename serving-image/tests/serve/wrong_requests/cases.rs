//! The table of wrong requests, each with its expected answer.

/// Never to be found in an answer.
pub const SECRET: &str = "secret-4711";

/// Most bytes of a body, on the server of this table.
pub const MAX_BODY: usize = 3_000;

/// How an answer tells what is wrong.
pub enum Expected {
    /// RFC 9457, with this type and these fields, in this order.
    Problem(&'static str, Vec<String>),
    /// `{"error": …}`, whose text has these parts.
    V2(Vec<String>),
    /// OpenAI's error object, with this code.
    OpenAi(&'static str),
    /// No body: HTTP itself was not understood.
    Bare,
}

pub struct Case {
    pub name: &'static str,
    pub request: String,
    pub status: u16,
    pub expected: Expected,
}

pub fn cases() -> Vec<Case> {
    let groups = [
        paths(),
        media(),
        bodies(),
        json(),
        instances(),
        v2(),
        http(),
    ];
    groups.into_iter().flatten().collect()
}

pub(super) fn problem(
    name: &'static str,
    request: String,
    status: u16,
    kind: &'static str,
) -> Case {
    let expected = Expected::Problem(kind, Vec::new());
    Case {
        name,
        request,
        status,
        expected,
    }
}

pub(super) fn invalid(name: &'static str, request: String, fields: &[&str]) -> Case {
    let fields = fields.iter().map(ToString::to_string).collect();
    let expected = Expected::Problem("invalid-input", fields);
    Case {
        name,
        request,
        status: 422,
        expected,
    }
}

pub(super) fn bare(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n")
}

/// A body with these headers.
pub(super) fn with(path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: h\r\n{headers}content-length: {length}\r\n\r\n{body}")
}

fn typed(content_type: &str) -> String {
    with(
        "/predict",
        &format!("content-type: {content_type}\r\n"),
        SECRET,
    )
}

pub(super) fn predict(body: &str) -> String {
    with("/predict", "content-type: application/json\r\n", body)
}

pub(super) fn infer(body: &str) -> String {
    with(
        "/v2/models/iris/infer",
        "content-type: application/json\r\n",
        body,
    )
}

fn paths() -> Vec<Case> {
    let (no, not) = ("not-found", "method-not-allowed");
    vec![
        problem("unknown path", bare("GET", "/secret-4711"), 404, no),
        problem(
            "a path below a path",
            bare("POST", "/predict/secret-4711"),
            404,
            no,
        ),
        problem("a slash too many", bare("POST", "/predict/"), 404, no),
        problem("another case", bare("POST", "/Predict"), 404, no),
        problem("a path up", bare("GET", "/docs/../../etc/passwd"), 404, no),
        problem("bytes that are no text", bare("GET", "/%ff%00"), 404, no),
        Case {
            name: "embeddings of a tabular model",
            request: bare("POST", "/v1/embeddings"),
            status: 404,
            expected: Expected::OpenAi("not_found"),
        },
        problem("GET of a prediction", bare("GET", "/predict"), 405, not),
        problem("PUT of a prediction", bare("PUT", "/predict"), 405, not),
        problem(
            "DELETE of a prediction",
            bare("DELETE", "/predict"),
            405,
            not,
        ),
        problem("POST of a probe", bare("POST", "/readyz"), 405, not),
        problem("POST of the series", bare("POST", "/metrics"), 405, not),
        problem(
            "OPTIONS of the contract",
            bare("OPTIONS", "/openapi.json"),
            405,
            not,
        ),
        problem(
            "a method of one's own",
            bare("SECRET", "/predict"),
            405,
            not,
        ),
    ]
}

fn media() -> Vec<Case> {
    let case = |name, request| problem(name, request, 415, "unsupported-media-type");
    let coded = |coding: &str| {
        let headers = format!("content-type: application/json\r\ncontent-encoding: {coding}\r\n");
        with("/predict", &headers, "{}")
    };
    let encoded = |name, coding| problem(name, coded(coding), 415, "unsupported-encoding");
    let two = "content-type: application/json\r\ncontent-type: text/plain\r\n";
    vec![
        case("no media type", with("/predict", "", "{}")),
        case("a form", typed("application/x-www-form-urlencoded")),
        case("several parts", typed("multipart/form-data; boundary=x")),
        case("plain text", typed("text/plain")),
        case("another family's JSON", typed("text/json")),
        case("JSON lines", typed("application/jsonl")),
        case("another charset", typed("application/json; charset=latin1")),
        case("UTF-16", typed("application/json; charset=utf-16")),
        case("a list of types", typed("application/json, text/plain")),
        case("two media types", with("/predict", two, "{}")),
        case("bytes that are no text", typed("application/\u{e9}")),
        encoded("gzip", "gzip"),
        encoded("brotli", "br"),
        encoded("compressed twice", "gzip, deflate"),
        encoded("a coding of one's own", "secret-4711"),
    ]
}

fn bodies() -> Vec<Case> {
    let large = " ".repeat(MAX_BODY + 1);
    let chunked = format!(
        "POST /predict HTTP/1.1\r\nhost: h\r\ncontent-type: \
         application/json\r\ntransfer-encoding: chunked\r\n\r\n\
         {:x}\r\n{large}\r\n0\r\n\r\n",
        large.len()
    );
    // The length alone is refused: not a byte of the body is sent.
    let announced = "POST /predict HTTP/1.1\r\nhost: h\r\ncontent-type: \
                     application/json\r\ncontent-length: 99999999999\r\n\r\n";
    let slow = predict("{}").replace("length: 2", "length: 3");
    vec![
        problem("too large", predict(&large), 413, "too-large"),
        problem("too large, in chunks", chunked, 413, "too-large"),
        problem("100 GB announced", announced.to_owned(), 413, "too-large"),
        problem("too slow", slow, 408, "body-timeout"),
    ]
}

fn json() -> Vec<Case> {
    let case = |name, body: &str| problem(name, predict(body), 400, "malformed-json");
    let deep = format!(r#"{{"instances": {}{}}}"#, "[".repeat(200), "]".repeat(200));
    let value = |value: &str| format!(r#"{{"instances": [{{"sepal_length": {value}}}]}}"#);
    let twice = r#"{"instances": [{"sepal_length": 1, "sepal_length": 2}], "instances": []}"#;
    vec![
        case("an empty body", ""),
        case("a body cut short", r#"{"instances": ["secret-4711"#),
        case("no JSON", SECRET),
        case("two documents", "{} {}"),
        case("a comma too many", r#"{"instances": [1,]}"#),
        case("a comment", "{} // secret-4711"),
        case("names without quotes", "{instances: []}"),
        case("single quotes", "{'instances': []}"),
        case("a byte-order mark", "\u{feff}{}"),
        case("not a number", &value("NaN")),
        case("infinity", &value("-Infinity")),
        case("a number beyond 64-bit floats", &value("1e999")),
        case("a leading zero", &value("007")),
        case("a hexadecimal number", &value("0x4711")),
        case("half a surrogate pair", &value(r#""\ud83d""#)),
        case("the other half", &value(r#""\udc00 secret-4711""#)),
        case("an unknown escape", &value(r#""\x41""#)),
        case("a bare control character", &value("\"\u{1}\"")),
        case("deeper than 128 levels", &deep),
        invalid(
            "names given twice",
            predict(twice),
            &["/instances/0/sepal_length", "/instances"],
        ),
    ]
}

/// One instance that is right but for this field.
fn instance(field: &str, value: &str) -> String {
    let right = [
        ("sepal_length", "5.1"),
        ("sepal_width", "3"),
        ("petal_length", "1.4"),
        ("petal_width", "true"),
    ];
    let fields = right.map(|(name, own)| {
        let value = if name == field { value } else { own };
        format!("{name:?}: {value}")
    });
    predict(&format!(r#"{{"instances": [{{{}}}]}}"#, fields.join(", ")))
}

fn instances() -> Vec<Case> {
    let all = |body: &str| predict(&format!(r#"{{"instances": {body}}}"#));
    let number = |name, value| {
        invalid(
            name,
            instance("sepal_length", value),
            &["/instances/0/sepal_length"],
        )
    };
    let integer = |name, value| {
        invalid(
            name,
            instance("sepal_width", value),
            &["/instances/0/sepal_width"],
        )
    };
    let truth = |name, value| {
        invalid(
            name,
            instance("petal_width", value),
            &["/instances/0/petal_width"],
        )
    };
    let whole = ["/instances"];
    let every = [
        "/instances/0/sepal_length",
        "/instances/0/sepal_width",
        "/instances/0/petal_length",
        "/instances/0/petal_width",
        "/instances/0/colour",
    ];
    let wrong = r#"[{"sepal_length": null, "sepal_width": "secret-4711",
        "petal_length": 30.001, "petal_width": -1, "colour": "secret-4711"}]"#;
    let second = r#"{"instances": [{"sepal_length": 5, "sepal_width": 3, "petal_width": true},
        {"sepal_length": 5, "sepal_width": 3, "petal_length": true, "petal_width": true}],
        "a/b~c": 1}"#;
    let long = format!(r#"{{"{}": 1}}"#, "x".repeat(500));
    let shortened = format!("/{}…", "x".repeat(64));
    vec![
        invalid("an array as the body", predict(r#"["secret-4711"]"#), &[""]),
        invalid("null as the body", predict("null"), &[""]),
        invalid("no instances", predict("{}"), &whole),
        invalid(
            "another name for them",
            predict(r#"{"inputs": []}"#),
            &["/instances", "/inputs"],
        ),
        invalid(
            "a name of 500 letters",
            predict(&long),
            &["/instances", &shortened],
        ),
        invalid("instances of another type", all(r#""secret-4711""#), &whole),
        invalid("null for the instances", all("null"), &whole),
        invalid(
            "one instance without its array",
            all(r#"{"sepal_length": 5}"#),
            &whole,
        ),
        invalid("no instance in the array", all("[]"), &whole),
        invalid(
            "too many instances",
            all(&format!("[1{}]", ",1".repeat(900))),
            &whole,
        ),
        invalid(
            "a text as an instance",
            all(r#"["secret-4711"]"#),
            &["/instances/0"],
        ),
        invalid(
            "an array as an instance",
            all("[[5.1, 3, 1.4, 1]]"),
            &["/instances/0"],
        ),
        invalid("null as an instance", all("[null]"), &["/instances/0"]),
        invalid(
            "fields that are missing",
            all("[{}]"),
            &[every[0], every[1], every[3]],
        ),
        invalid("everything at once", all(wrong), &every),
        invalid(
            "the second instance, and a name",
            predict(second),
            &["/a~1b~0c", "/instances/1/petal_length"],
        ),
        number("null for a required number", "null"),
        number("a number as a text", r#""4711""#),
        number("true for a number", "true"),
        number("an array for a number", "[4711]"),
        number("an object for a number", r#"{"secret-4711": 1}"#),
        number("a number below its range", "-0.001"),
        number("a number above its range", "4711"),
        number("a huge number", "1e300"),
        number("an integer beyond 64 bits", &"9".repeat(40)),
        integer("a fraction for an integer", "3.5"),
        integer("an integer above its range", "4711"),
        truth("1 for true", "1"),
        truth("a text for true", r#""true""#),
        truth("null for true", "null"),
    ]
}

fn v2() -> Vec<Case> {
    let case = |name, request, status, parts: &[&str]| {
        let parts = parts.iter().map(ToString::to_string).collect();
        Case {
            name,
            request,
            status,
            expected: Expected::V2(parts),
        }
    };
    let tensor = |name: &str, shape: &str, datatype: &str, data: &str| {
        infer(&format!(
            r#"{{"inputs": [{{"name": "{name}", "shape": {shape},
                "datatype": "{datatype}", "data": {data}}}]}}"#
        ))
    };
    let path = "/v2/models/iris/infer";
    let binary = "content-type: application/json\r\ninference-header-content-length: 2\r\n";
    vec![
        case(
            "V2: unknown model",
            bare("GET", "/v2/models/secret-4711"),
            404,
            &["Served here"],
        ),
        case(
            "V2: unknown version",
            bare("GET", "/v2/models/iris/versions/4711/ready"),
            404,
            &["Served here"],
        ),
        case(
            "V2: unknown path",
            bare("GET", "/v2/secret-4711"),
            404,
            &["No such path"],
        ),
        case(
            "V2: GET of a prediction",
            bare("GET", path),
            405,
            &["another method"],
        ),
        case(
            "V2: plain text",
            with(path, "content-type: text/plain\r\n", "{}"),
            415,
            &["application/json"],
        ),
        case(
            "V2: JSON longer than the body",
            with(path, binary, "{"),
            400,
            &["within the body"],
        ),
        case(
            "V2: bytes of no tensor",
            with(path, binary, "{}4711"),
            400,
            &["/inputs: expected an array"],
        ),
        case(
            "V2: too large",
            infer(&" ".repeat(MAX_BODY + 1)),
            413,
            &["bytes at most"],
        ),
        case("V2: no JSON", infer(SECRET), 400, &["is not JSON"]),
        case(
            "V2: no tensors",
            infer("{}"),
            400,
            &["/inputs: expected an array"],
        ),
        case(
            "V2: no object as a tensor",
            infer(r#"{"inputs": [4711]}"#),
            400,
            &["/inputs/0: expected an object"],
        ),
        case(
            "V2: an unknown tensor",
            tensor(SECRET, "[1]", "FP32", "[1]"),
            400,
            &["/inputs/0/name: expected one of"],
        ),
        case(
            "V2: an unknown type",
            tensor("sepal_length", "[1]", "FLOAT", "[1]"),
            400,
            &["/inputs/0/datatype"],
        ),
        case(
            "V2: a type that does not fit",
            tensor("petal_width", "[1]", "FP32", "[1]"),
            400,
            &["/inputs/0/datatype: expected BOOL"],
        ),
        case(
            "V2: a negative length",
            tensor("sepal_length", "[-1]", "FP32", "[1]"),
            400,
            &["/inputs/0/shape"],
        ),
        case(
            "V2: nine axes",
            tensor("sepal_length", "[1,1,1,1,1,1,1,1,1]", "FP32", "[1]"),
            400,
            &["/inputs/0/shape"],
        ),
        case(
            "V2: more shape than data",
            tensor("sepal_length", "[4294967295, 4294967295]", "FP32", "[1]"),
            400,
            &["/inputs/0/data: expected as many"],
        ),
        case(
            "V2: rows of different lengths",
            tensor("x", "[2, 2]", "FP32", "[[1, 2], [4711]]"),
            400,
            &["/inputs/0/data: expected as many"],
        ),
        case(
            "V2: an element of another type",
            tensor("sepal_length", "[2]", "FP32", r#"[1, "secret-4711"]"#),
            400,
            &["/inputs/0/data/1: expected an element of FP32"],
        ),
        case(
            "V2: an element beyond its type",
            tensor("sepal_width", "[1]", "UINT8", "[4711]"),
            400,
            &["/inputs/0/data/0: expected an element of UINT8"],
        ),
        case(
            "V2: an unknown output",
            infer(r#"{"inputs": [{}], "outputs": [{"name": "secret-4711"}]}"#),
            400,
            &["/outputs/0/name: expected one of label"],
        ),
    ]
}

fn http() -> Vec<Case> {
    let case = |name, request: String, status| Case {
        name,
        request,
        status,
        expected: Expected::Bare,
    };
    let headers: String = (0..120).map(|_| "x-many: 4711\r\n").collect();
    let body = "content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}";
    vec![
        case(
            "HTTP: no request line",
            "secret-4711\r\n\r\n".to_owned(),
            400,
        ),
        case(
            "HTTP: a header without a colon",
            "GET /livez HTTP/1.1\r\nsecret-4711\r\n\r\n".to_owned(),
            400,
        ),
        case(
            "HTTP: a length that is no number",
            "POST /predict HTTP/1.1\r\ncontent-length: x\r\n\r\n".to_owned(),
            400,
        ),
        case(
            "HTTP: two lengths",
            format!("POST /predict HTTP/1.1\r\ncontent-length: 3\r\n{body}"),
            400,
        ),
        case(
            "HTTP: more than 100 headers",
            format!("GET /livez HTTP/1.1\r\n{headers}\r\n"),
            431,
        ),
        case(
            "HTTP: a path of 70,000 bytes",
            format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000)),
            414,
        ),
    ]
}
