//! SmolLM2-135M-Instruct with its real weights, against what llama.cpp makes of the same file.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use serin_serve::generate::{ChatTemplate, Message, Vocabulary};
use serin_serve::model::llama::gguf::Header;
use serin_serve::model::llama::{Llama, Piece, Scratch};

use crate::support::{Client, Response, Server, TIMEOUT, fixture};

/// The artefact that `serving-image/scripts/fetch_smollm2.py` lays out, if it has been.
pub fn smollm2() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let directory = cache?.join("serin/models/smollm2-135m-instruct/1.0.0");
    if directory.join("serin-model.json").is_file() {
        return Some(directory);
    }
    // Where the weights are promised (SERIN_REQUIRE_MODELS=1), their absence is a failure, not a
    // skip.
    let required = std::env::var_os("SERIN_REQUIRE_MODELS").is_some();
    assert!(!required, "{} is missing", directory.display());
    println!(
        "SKIPPED: no {}; run `python3 serving-image/scripts/fetch_smollm2.py`",
        directory.display()
    );
    None
}

fn reference() -> Value {
    fixture("smollm2-135m-instruct.json")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

/// A stream that is being read.
pub struct Stream(BufReader<TcpStream>);

impl Stream {
    /// Sends a request and reads the head of its answer.
    pub fn open(address: SocketAddr, path: &str, body: &Value) -> (u16, Self) {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let body = body.to_string();
        let length = body.len();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: \
             application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut stream = Self(BufReader::new(stream));
        let status = stream.line().split(' ').nth(1).unwrap().parse().unwrap();
        while !stream.line().is_empty() {}
        (status, stream)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The next chunk, which is one event; None at the end.
    pub fn event(&mut self) -> Option<String> {
        let size = usize::from_str_radix(&self.line(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        self.0.read_exact(&mut chunk).unwrap();
        let text = String::from_utf8(chunk).unwrap();
        let data = text.strip_prefix("data: ")?;
        Some(data.strip_suffix("\n\n\r\n").unwrap().to_owned())
    }

    /// All that is left: the parts, and whether the last word was `[DONE]`.
    pub fn rest(mut self) -> (Vec<Value>, bool) {
        let mut parts = Vec::new();
        let mut done = false;
        while let Some(event) = self.event() {
            assert!(!done, "something after [DONE]");
            done = event == "[DONE]";
            if !done {
                parts.push(serde_json::from_str(&event).unwrap());
            }
        }
        (parts, done)
    }
}

fn post(address: SocketAddr, body: &Value) -> Response {
    let mut client = Client::new(address);
    client.post("/v1/completions", body).unwrap()
}

fn complete(address: SocketAddr, body: &Value) -> Value {
    let response = post(address, body);
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().unwrap()
}

/// The value of a series of one line.
pub fn metric(server: &Server, series: &str) -> f64 {
    let metrics = server.get("/metrics");
    let line = metrics.text().lines().find(|line| line.starts_with(series));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value.map_or(0.0, |value| value.parse().unwrap())
}

/// Waits until the series has that value.
pub fn await_metric(server: &Server, series: &str, expected: f64) {
    let deadline = Instant::now() + TIMEOUT;
    while (metric(server, series) - expected).abs() > f64::EPSILON {
        assert!(
            Instant::now() < deadline,
            "{series} is {}",
            metric(server, series)
        );
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn tokens_and_prompts_are_llama_cpps() {
    let Some(directory) = smollm2() else { return };
    let path = directory.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let mut file = std::fs::File::open(&path).unwrap();
    let length = file.metadata().unwrap().len();
    let header = Header::read(&mut BufReader::new(&mut file), length).unwrap();
    let vocabulary = Vocabulary::read(&header).unwrap();
    let reference = reference();
    for case in list(&reference["tokens"]) {
        let text = case["text"].as_str().unwrap();
        let expected: Vec<u64> = list(&case["ids"])
            .iter()
            .map(|id| id.as_u64().unwrap())
            .collect();
        let found: Vec<u64> = vocabulary
            .encode(text)
            .unwrap()
            .into_iter()
            .map(u64::from)
            .collect();
        assert_eq!(found, expected, "{text:?}");
    }
    let source = header.text("tokenizer.chat_template").unwrap().unwrap();
    let template =
        ChatTemplate::new(source, vocabulary.begin_name(), vocabulary.end_name()).unwrap();
    for case in list(&reference["conversations"]) {
        let message = |message: &Value| Message {
            role: message["role"].as_str().unwrap().to_owned(),
            content: message["content"].as_str().unwrap().to_owned(),
        };
        let messages: Vec<Message> = list(&case["messages"]).iter().map(message).collect();
        assert_eq!(
            template.render(&messages, &serde_json::Map::new()).unwrap(),
            case["prompt"].as_str().unwrap()
        );
    }
}

/// Scores are 10 to 30 in 64-bit floats without rounding. Rounding activations to 8 bits, as
/// llama.cpp does too, moves all of a prompt's together by up to 0.5, which changes no probability,
/// and each by less than this.
const SCORE_TOLERANCE: f32 = 0.4;

#[test]
fn the_scores_are_those_of_exact_arithmetic() {
    let Some(directory) = smollm2() else { return };
    let path = directory.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let mut file = BufReader::new(std::fs::File::open(&path).unwrap());
    let length = std::fs::metadata(&path).unwrap().len();
    let (model, header) = Llama::read(&mut file, length).unwrap();
    let vocabulary = Vocabulary::read(&header).unwrap();
    let mut scratch = Scratch::default();
    let mut worst = 0.0_f32;
    for case in list(&reference()["scores"]) {
        let tokens = vocabulary.encode(case["prompt"].as_str().unwrap()).unwrap();
        let mut cache = model.cache(tokens.len());
        // The prompt in two pieces: the second looks back at the first.
        let (first, second) = tokens.split_at(tokens.len() / 2);
        for (tokens, scores) in [(first, false), (second, true)] {
            let piece = Piece {
                cache: &mut cache,
                tokens,
                scores,
            };
            model.forward(&mut [piece], &mut scratch).unwrap();
        }
        let scores = scratch.scores(0, model.vocabulary());
        let difference = |best: &Value| {
            let found = scores[usize::try_from(best[0].as_u64().unwrap()).unwrap()];
            found - best[1].as_f64().unwrap() as f32
        };
        let differences: Vec<f32> = list(&case["best"]).iter().map(difference).collect();
        let shift = differences.iter().sum::<f32>() / differences.len() as f32;
        worst = differences.iter().fold(worst, |worst, difference| {
            worst.max((difference - shift).abs())
        });
    }
    println!("largest difference of a score: {worst}");
    assert!(worst < SCORE_TOLERANCE, "{worst}");
}

/// Below this, llama.cpp's rounding and ours may choose differently.
const NEAR_TIE: f64 = 0.25;

#[test]
fn the_likeliest_texts_are_llama_cpps_up_to_near_ties_also_when_written_together() {
    let Some(directory) = smollm2() else { return };
    let server = Server::start(&directory, &[]);
    let reference = reference();
    thread::scope(|scope| {
        for case in list(&reference["greedy"]) {
            let address = server.address;
            scope.spawn(move || {
                let body = json!({"prompt": case["prompt"], "max_tokens": 24, "temperature": 0});
                let answer = complete(address, &body);
                let sure = list(&case["steps"])
                    .iter()
                    .take_while(|step| step[1].as_f64().unwrap() >= NEAR_TIE);
                let expected: String = sure.map(|step| step[0].as_str().unwrap()).collect();
                assert!(text(&answer).starts_with(&expected), "{answer}: {expected}");
                assert_eq!(answer["usage"]["completion_tokens"], 24);
                assert_eq!(answer["choices"][0]["finish_reason"], "length");
            });
        }
    });
    let count = list(&reference["greedy"]).len();
    let series =
        r#"model_completion_tokens_total{model="smollm2-135m-instruct",model_version="1.0.0"}"#;
    assert!((metric(&server, series) - 24.0 * count as f64).abs() < 0.5);
}

#[test]
fn a_stream_says_what_the_whole_answer_says() {
    let Some(directory) = smollm2() else { return };
    let server = Server::start(&directory, &[]);
    let mut body = json!({
        "messages": [{"role": "user", "content": [{"type": "text", "text": "What is 2 + 2?"}]}],
        "max_completion_tokens": 12, "temperature": 0,
    });
    let whole = server.post("/v1/chat/completions", &body).json();
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["choices"][0]["message"]["role"], "assistant");
    let content = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(!content.is_empty());

    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    let (status, stream) = Stream::open(server.address, "/v1/chat/completions", &body);
    assert_eq!(status, 200);
    let (parts, done) = stream.rest();
    assert!(done);
    let [first, .., last, counts] = parts.as_slice() else {
        panic!("too few parts: {parts:?}");
    };
    assert!(
        parts
            .iter()
            .all(|part| part["object"] == "chat.completion.chunk" && part["id"] == first["id"])
    );
    assert_eq!(first["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(
        last["choices"][0]["finish_reason"],
        whole["choices"][0]["finish_reason"]
    );
    assert_eq!(last["usage"], Value::Null);
    assert_eq!(
        (&counts["choices"], &counts["usage"]),
        (&json!([]), &whole["usage"])
    );
    let said: String = parts
        .iter()
        .filter_map(|part| part["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(said, content);
}

#[test]
fn the_seed_decides_whoever_else_is_served() {
    let Some(directory) = smollm2() else { return };
    let server = Server::start(&directory, &[]);
    let body = |seed: u64| {
        json!({"prompt": "My favourite", "max_tokens": 20, "seed": seed,
        "top_p": 0.95})
    };
    let alone = complete(server.address, &body(1));
    let together = thread::scope(|scope| {
        let others = (2..5).map(|seed| {
            scope.spawn({
                let address = server.address;
                move || complete(address, &body(seed))
            })
        });
        let others: Vec<_> = others.collect();
        let again = complete(server.address, &body(1));
        let mut texts: Vec<String> = others
            .into_iter()
            .map(|other| text(&other.join().unwrap()).to_owned())
            .collect();
        texts.push(text(&again).to_owned());
        texts
    });
    assert_eq!(together.last().map(String::as_str), Some(text(&alone)));
    assert!(
        together[..3].iter().all(|other| other != text(&alone)),
        "{together:?}"
    );
}

#[test]
fn a_stop_string_ends_the_text_across_tokens() {
    let Some(directory) = smollm2() else { return };
    let server = Server::start(&directory, &[]);
    // It continues " Paris.\n\nThe United States": " Paris" and "." are two tokens.
    let body = json!({
        "prompt": "The capital of France is", "max_tokens": 24, "temperature": 0,
        "stop": ["London", "ris."],
    });
    let answer = complete(server.address, &body);
    assert_eq!(text(&answer), " Pa");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["usage"]["completion_tokens"], 2);
}

#[test]
fn a_short_text_overtakes_a_long_one() {
    let Some(directory) = smollm2() else { return };
    let server = Server::start(&directory, &[]);
    let long =
        json!({"prompt": "Once upon a time", "max_tokens": 400, "temperature": 0, "stream": true});
    let (_, mut stream) = Stream::open(server.address, "/v1/completions", &long);
    stream.event().unwrap();
    complete(
        server.address,
        &json!({"prompt": "Water boils at", "max_tokens": 5}),
    );
    let series =
        r#"model_texts_total{model="smollm2-135m-instruct",model_version="1.0.0",reason="length"}"#;
    assert!(
        (metric(&server, series) - 1.0).abs() < 0.5,
        "the long text is not done yet"
    );
    let (_, done) = stream.rest();
    assert!(done);
}

#[test]
fn a_client_that_goes_away_stops_its_text() {
    let Some(directory) = smollm2() else { return };
    let server = Server::start(&directory, &[]);
    let body =
        json!({"prompt": "Once upon a time", "max_tokens": 2000, "temperature": 0, "stream": true});
    let (_, mut stream) = Stream::open(server.address, "/v1/completions", &body);
    stream.event().unwrap();
    assert!((metric(&server, "model_texts_in_progress") - 1.0).abs() < 0.5);
    drop(stream);
    let abandoned = "model_texts_total{model=\"smollm2-135m-instruct\",\
                     model_version=\"1.0.0\",reason=\"abandoned\"}";
    await_metric(&server, abandoned, 1.0);
    await_metric(&server, "model_texts_in_progress", 0.0);
    await_metric(&server, "model_tokens_in_flight", 0.0);
    await_metric(&server, "model_requests_in_flight", 0.0);
    let closed =
        r#"model_requests_total{model="smollm2-135m-instruct",model_version="1.0.0",code="499"}"#;
    await_metric(&server, closed, 1.0);
}

#[test]
fn more_than_the_queue_holds_is_refused_at_once() {
    let Some(directory) = smollm2() else { return };
    let server = Server::start(&directory, &["--generation-slots", "1", "--queue", "1"]);
    let long =
        json!({"prompt": "Once upon a time", "max_tokens": 2000, "temperature": 0, "stream": true});
    let (_, mut writing) = Stream::open(server.address, "/v1/completions", &long);
    writing.event().unwrap();
    let short = json!({"prompt": "Once upon a time", "max_tokens": 1});
    let address = server.address;
    thread::scope(|scope| {
        // The second waits in the queue's only place; of the two after it, one is refused.
        let others: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| post(address, &short)))
            .collect();
        let refused = "model_requests_total{model=\"smollm2-135m-instruct\",\
                       model_version=\"1.0.0\",code=\"429\"}";
        await_metric(&server, refused, 2.0);
        drop(writing);
        let mut answers: Vec<u16> = others
            .into_iter()
            .map(|other| other.join().unwrap().status)
            .collect();
        answers.sort_unstable();
        assert_eq!(answers, [200, 429, 429]);
    });
}

#[test]
fn the_time_for_a_text_is_bounded() {
    let Some(directory) = smollm2() else { return };
    let server = Server::start(&directory, &["--generation-timeout", "2s"]);
    let mut body = json!({"prompt": "Once upon a time", "max_tokens": 2000, "temperature": 0});
    let response = server.post("/v1/completions", &body);
    assert_eq!(response.status, 504, "{}", response.text());
    body["stream"] = true.into();
    let (status, stream) = Stream::open(server.address, "/v1/completions", &body);
    assert_eq!(status, 200);
    let (parts, done) = stream.rest();
    assert_eq!(parts.last().unwrap()["error"]["code"], 504);
    assert!(!done);
    let late =
        r#"model_requests_total{model="smollm2-135m-instruct",model_version="1.0.0",code="504"}"#;
    await_metric(&server, late, 2.0);
}

#[test]
fn a_stream_in_flight_is_finished_after_sigterm() {
    let Some(directory) = smollm2() else { return };
    let server = Server::start(&directory, &["--drain-delay", "0s"]);
    let body =
        json!({"prompt": "Once upon a time", "max_tokens": 100, "temperature": 0, "stream": true});
    let (_, mut stream) = Stream::open(server.address, "/v1/completions", &body);
    stream.event().unwrap();
    server.terminate();
    let (_, done) = stream.rest();
    assert!(done);
    let (status, log) = server.wait();
    assert!(status.success());
    let line = log
        .iter()
        .find(|line| line.contains("/v1/completions"))
        .unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(
        (&line["prompt_tokens"], &line["completion_tokens"]),
        (&json!(4), &json!(100))
    );
    assert!(
        !log.iter().any(|line| line.contains("Once upon")),
        "no payload in the log"
    );
}
