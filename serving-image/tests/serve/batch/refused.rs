//! Inputs that a job refuses, and the exit code of each.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Job, csv, lines};

const SECRET: &str = "secret-4242";

fn with_wrong_rows() -> Job {
    let rows = [
        &format!("id,{SECRET},1,,31,1\n"), // row 11: two fields
        "short\n",
        "id,5.1,3.5,,1.4,0.2\n",
        &format!("id,5.1,3.5,,1.4,{SECRET}\n"), // row 14
    ];
    Job::new("in.csv", &(csv(10) + &rows.concat()))
}

#[test]
fn wrong_rows_are_told_with_what_was_expected_and_never_with_what_was_there() {
    let job = with_wrong_rows();
    let rejects = job.path("rejects.jsonl");
    let log = job.run(
        "out.csv",
        &["--rejects", rejects.to_str().unwrap(), "--chunk-rows", "4"],
    );
    assert_eq!(log.last().unwrap()["rejected"], 3);
    let number = "a number from 0 to 30 cm";
    assert_eq!(
        lines(&job.read("rejects.jsonl")),
        [
            json!({"row": 11, "field": "sepal_length", "expected": number}),
            json!({"row": 11, "field": "petal_length", "expected": number}),
            json!({"row": 12, "field": "", "expected": "6 cells, as in the header"}),
            json!({"row": 14, "field": "petal_width", "expected": number}),
        ]
    );
    let rows: Vec<String> = job
        .read("out.csv")
        .lines()
        .skip(1)
        .map(|line| line.split(',').next().unwrap().to_owned())
        .collect();
    assert_eq!(rows.join(" "), "1 2 3 4 5 6 7 8 9 10 13");
    for text in [
        job.read("rejects.jsonl"),
        job.read("out.csv"),
        format!("{log:?}"),
    ] {
        assert!(
            !text.contains(SECRET),
            "a value of the input is shown: {text}"
        );
    }
}

#[test]
fn too_many_wrong_rows_end_the_job_with_code_3_and_more_patience_goes_on_from_there() {
    let job = with_wrong_rows();
    let said = job.fails("out.csv", &[], 3);
    assert!(
        said.contains("1 rows are rejected, more than --max-rejects 0")
            || said.contains("3 rows are rejected"),
        "{said}"
    );
    assert!(!said.contains(SECRET), "{said}");
    assert!(!job.path("out.csv").exists());

    let rejects = job.path("rejects.jsonl");
    let args = [
        "--rejects",
        rejects.to_str().unwrap(),
        "--chunk-rows",
        "2",
        "--checkpoint-every",
        "0ms",
    ];
    let job = with_wrong_rows();
    let said = job.fails("out.csv", &[&args[..], &["--max-rejects", "1"]].concat(), 3);
    assert!(
        said.contains(
            "2 rows are rejected, more than --max-rejects 1; the last one is row 12: 6 cells"
        ),
        "{said}"
    );
    assert!(
        fs::read_to_string(&rejects).unwrap().contains("\"row\":12"),
        "the reason is not to be seen"
    );
    let log = job.run("out.csv", &[&args[..], &["--max-rejects", "3"]].concat());
    assert!(
        log.iter()
            .any(|line| line["message"] == "going on after the last checkpoint"),
        "{log:?}"
    );
    assert_eq!(fs::read_to_string(&rejects).unwrap().lines().count(), 4);
}

#[test]
fn what_cannot_be_begun_says_why_in_its_exit_code() {
    let job = Job::new("in.csv", &csv(3));
    // 2: the command line.
    assert!(
        job.fails("out.txt", &[], 2)
            .contains("--output-format csv, jsonl or parquet")
    );
    assert!(
        job.fails("out.csv", &["--keep", "label"], 2)
            .contains("--keep label")
    );
    // 2: a model that has no rows; its weights are not even looked for.
    let mut text = Job::new("in.csv", &csv(3));
    text.model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/smollm2-135m-instruct");
    assert!(
        text.fails("out.csv", &[], 2)
            .contains("a model that generates text predicts no rows")
    );
    // 1: the model.
    let mut other = Job::new("in.csv", &csv(3));
    other.model = other.path("nowhere");
    assert!(
        other
            .fails("out.csv", &[], 1)
            .contains("serin-model.json: No such file")
    );
    // 4: the input.
    assert!(
        job.fails("out.csv", &["--keep", "name"], 4)
            .contains("no column name; its columns are id, ")
    );
    for (name, content, expected) in [
        (
            "in.csv",
            "sepal_length,sepal_width,petal_length\n1,1,1\n",
            "no column petal_width",
        ),
        ("in.csv", "", "a CSV file starts with a header"),
        (
            "in.parquet",
            "PAR1 is not enough PAR1",
            "cannot be read as Parquet",
        ),
    ] {
        let said = Job::new(name, content).fails("out.csv", &[], 4);
        assert!(said.contains(expected), "{said}");
    }
    let missing = Job::new("in.csv", "");
    fs::remove_file(&missing.input).unwrap();
    assert!(missing.fails("out.csv", &[], 4).contains("No such file"));
    // 5: the output.
    assert!(
        job.fails("no/such/out.csv", &[], 5)
            .contains("No such file")
    );
}

#[test]
fn what_lies_there_is_never_overwritten_unasked() {
    let job = Job::new("in.csv", &csv(200));
    fs::write(job.path("out.csv"), "precious").unwrap();
    assert!(job.fails("out.csv", &[], 2).contains("out.csv exists"));
    assert_eq!(job.read("out.csv"), "precious");
    job.run("out.csv", &["--overwrite"]);

    // The input has changed since: neither mixed with the old rows nor taken for done.
    fs::write(&job.input, csv(201)).unwrap();
    let said = job.fails("out.csv", &[], 2);
    assert!(
        said.contains("is of another job: input differ; --overwrite begins anew"),
        "{said}"
    );
    let log = job.run("out.csv", &["--overwrite", "--keep", "id"]);
    assert_eq!(log.last().unwrap()["rows"], 201);
}

#[test]
fn two_processes_never_write_one_output() {
    let job = Job::new("in.csv", &csv(20_000));
    let args = ["--chunk-rows", "8"];
    let mut first = job
        .command("out.csv", &args)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !job.path("out.csv.partial").exists() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    let said = job.fails("out.csv", &args, 5);
    assert!(said.contains("another process is writing"), "{said}");
    assert!(first.wait().unwrap().success());
    assert_eq!(job.read("out.csv").lines().count(), 20_001);
    assert_eq!(job.files(), ["out.csv", "out.csv.batch.json"]);
}
