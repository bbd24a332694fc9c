//! Every format, in and out, against what the server answers.

use std::fs::File;
use std::path::Path;

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::RowAccessor as _;
use serde_json::{Value, json};

use super::{FIELDS, Job, csv, done, fixture_path, flowers, lines};
use crate::support::{Server, fixture, iris};

/// What `/predict` answers to these instances, in requests of so many.
fn answers(model: &Path, instances: &[Value], chunk: usize) -> Vec<Value> {
    let server = Server::start(model, &[]);
    let answer = |instances: &[Value]| {
        let answer = server.post("/predict", &json!({"instances": instances}));
        answer.json()["predictions"].as_array().unwrap().clone()
    };
    instances.chunks(chunk).flat_map(answer).collect()
}

/// A line of the output without what `/predict` says elsewhere.
fn prediction(mut line: Value) -> Value {
    let line = line.as_object_mut().unwrap();
    for name in ["row", "id", "model", "model_version"] {
        line.remove(name);
    }
    Value::Object(std::mem::take(line))
}

/// Numbers are compared as the shortest decimals of their 32 bits, so that equal means equal to the
/// bit.
#[test]
fn a_batch_answers_what_predict_answers_bit_for_bit() {
    let flowers = flowers();
    let as_lines = flowers.iter().map(Value::to_string).collect::<Vec<_>>();
    let as_lines = as_lines.join("\n");
    for version in ["1.0.0", "2.0.0"] {
        for chunk in [1, 7, 150] {
            let expected = answers(&iris(version), &flowers, chunk);
            for (name, content) in [("in.csv", csv(150)), ("in.jsonl", as_lines.clone())] {
                let mut job = Job::new(name, &content);
                job.model = iris(version);
                job.run("out.jsonl", &["--chunk-rows", &chunk.to_string()]);
                let found: Vec<Value> = lines(&job.read("out.jsonl"))
                    .into_iter()
                    .map(prediction)
                    .collect();
                assert_eq!(found, expected, "iris {version} from {name} by {chunk}");
            }
        }
    }
}

/// Categories, integers, missing values and a regression: what CSV has no types for.
#[test]
fn every_type_of_field_is_the_same_from_csv_and_from_json() {
    for name in ["passengers-logistic", "diabetes-ridge"] {
        let model = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/models")
            .join(name);
        let instances = fixture(&format!("{name}.json"))["instances"]
            .as_array()
            .unwrap()
            .clone();
        let fields: Vec<&String> = instances[0].as_object().unwrap().keys().collect();
        let mut csv = csv::Writer::from_writer(Vec::new());
        csv.write_record(&fields).unwrap();
        for instance in &instances {
            csv.write_record(fields.iter().map(|field| match &instance[field.as_str()] {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                number => number.to_string(),
            }))
            .unwrap();
        }
        let csv = String::from_utf8(csv.into_inner().unwrap()).unwrap();
        let expected = answers(&model, &instances, 50);
        let mut job = Job::new("in.csv", &csv);
        job.model = model;
        job.run("out.jsonl", &["--chunk-rows", "50"]);
        let found: Vec<Value> = lines(&job.read("out.jsonl"))
            .into_iter()
            .map(prediction)
            .collect();
        assert_eq!(found, expected, "{name}");

        // The same columns again in the other formats.
        job.run("out.csv", &["--chunk-rows", "50"]);
        job.run("out.parquet", &["--chunk-rows", "50"]);
        let answer = if name == "diabetes-ridge" {
            "value"
        } else {
            "label"
        };
        let text = job.read("out.csv");
        assert!(text.starts_with(&format!("row,{answer}")), "{text}");
        let reader =
            SerializedFileReader::new(File::open(job.path("out.parquet")).unwrap()).unwrap();
        let rows: Vec<_> = reader
            .get_row_iter(None)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(rows.len(), instances.len());
        for (row, expected) in rows.iter().zip(&expected) {
            match answer {
                "value" => assert_eq!(
                    row.get_float(1).ok(),
                    expected["value"].to_string().parse().ok()
                ),
                _ => assert_eq!(
                    row.get_string(1).unwrap(),
                    expected["label"].as_str().unwrap()
                ),
            }
        }
    }
}

#[test]
fn csv_output_has_the_same_numbers_in_columns() {
    let job = Job::new("in.csv", &csv(150));
    job.run("out.jsonl", &["--keep", "id"]);
    job.run(
        "out.csv",
        &[
            "--keep",
            "id,note",
            "--model-name",
            "flowers",
            "--model-version",
            "7",
        ],
    );
    let mut reader = csv::Reader::from_path(job.path("out.csv")).unwrap();
    let header = reader.headers().unwrap().clone();
    assert_eq!(
        header.iter().collect::<Vec<_>>().join(" "),
        "row id note label probability_setosa probability_versicolor probability_virginica model \
         model_version"
    );
    let expected = lines(&job.read("out.jsonl"));
    let records: Vec<_> = reader.records().map(Result::unwrap).collect();
    assert_eq!(records.len(), 150);
    for (record, expected) in records.iter().zip(expected) {
        assert_eq!(record[0], expected["row"].to_string());
        assert_eq!(
            (&record[1], &record[2]),
            (expected["id"].as_str().unwrap(), "x, \"y\"")
        );
        assert_eq!(record[3], *expected["label"].as_str().unwrap());
        for (place, label) in ["setosa", "versicolor", "virginica"].iter().enumerate() {
            let probability = &expected["probabilities"][label];
            assert_eq!(record[4 + place].parse().ok(), probability.as_f64());
        }
        assert_eq!((&record[7], &record[8]), ("flowers", "7"));
    }
}

/// Row groups of 40 rows in zstd, and 32-bit floats in snappy, both by pyarrow.
#[test]
fn parquet_of_pyarrow_is_read_and_ours_has_the_same_rows() {
    let plain = Job::new("in.csv", &csv(150));
    plain.run("out.jsonl", &[]);
    let expected: Vec<Value> = lines(&plain.read("out.jsonl"))
        .into_iter()
        .map(prediction)
        .collect();

    let mut job = Job::new("unused", "");
    job.input = fixture_path("iris-zstd.parquet");
    job.run("out.jsonl", &["--keep", "id", "--chunk-rows", "17"]);
    let found = lines(&job.read("out.jsonl"));
    assert_eq!(
        (&found[7]["id"], &found[8]["id"]),
        (&Value::Null, &json!(1008))
    );
    let found: Vec<Value> = found.into_iter().map(prediction).collect();
    assert_eq!(found, expected);

    let log = job.run(
        "out.parquet",
        &[
            "--keep",
            "id",
            "--chunk-rows",
            "17",
            "--row-group-rows",
            "50",
        ],
    );
    assert_eq!(done(&log)["rows"], 150);
    let reader = SerializedFileReader::new(File::open(job.path("out.parquet")).unwrap()).unwrap();
    let groups: Vec<i64> = reader
        .metadata()
        .row_groups()
        .iter()
        .map(parquet::file::metadata::RowGroupMetaData::num_rows)
        .collect();
    assert_eq!(groups, [51, 51, 48]); // whole chunks
    for ((place, expected), row) in (0..).zip(&expected).zip(reader.get_row_iter(None).unwrap()) {
        let row = row.unwrap();
        assert_eq!(row.get_long(0).unwrap(), 1 + place);
        assert_eq!(row.get_long(1).ok(), (place != 7).then_some(1000 + place));
        assert_eq!(
            row.get_string(2).unwrap(),
            expected["label"].as_str().unwrap()
        );
        for (column, label) in ["setosa", "versicolor", "virginica"].iter().enumerate() {
            let probability = expected["probabilities"][label].to_string();
            assert_eq!(row.get_float(3 + column).ok(), probability.parse().ok());
        }
        assert_eq!(row.get_string(6).unwrap(), "iris");
        assert_eq!(row.get_string(7).unwrap(), "1.0.0");
    }

    job.input = fixture_path("iris-snappy.parquet");
    let log = job.run("narrow.jsonl", &[]);
    assert!(log.iter().any(|line| line["columns"] == "seen"), "{log:?}");
    // 5.1 in 32 bits is another number than 5.1 in 64: what is in the file is what is predicted.
    let narrow: Vec<Value> = flowers()
        .into_iter()
        .map(|mut flower| {
            for name in FIELDS {
                let value = flower[name].as_f64().unwrap() as f32;
                flower[name] = json!(f64::from(value));
            }
            flower
        })
        .collect();
    let found: Vec<Value> = lines(&job.read("narrow.jsonl"))
        .into_iter()
        .map(prediction)
        .collect();
    assert_eq!(found, answers(&iris("1.0.0"), &narrow, 150));
}

#[test]
fn memory_does_not_grow_with_the_file() {
    let peak = |rows: usize| {
        let job = Job::new("in.csv", &csv(rows));
        let log = job.run("out.jsonl", &["--chunk-rows", "128"]);
        assert_eq!(done(&log)["rows"], rows);
        done(&log)["peak_memory_mib"].as_u64().unwrap()
    };
    let (small, large) = (peak(2_000), peak(120_000));
    println!("peak memory: {small} MiB for 2,000 rows, {large} MiB for 120,000");
    // The rows alone, as JSON values, take some 60 MiB.
    assert!(
        large <= small + 8,
        "{small} MiB for 2,000 rows, but {large} MiB for 120,000"
    );
}

#[test]
fn cells_that_mean_missing_and_another_delimiter_are_taken() {
    let text =
        "sepal_length;sepal_width;petal_length;petal_width\nNA;3.5;1.4;0.2\n5.1; 3.5 ;1.4;+.2\n";
    let job = Job::new("in.csv", text);
    let args = ["--delimiter", ";", "--missing", "NA,null", "--rejects"];
    let rejects = job.path("rejects.jsonl");
    let args = [&args[..], &[rejects.to_str().unwrap()]].concat();
    job.run("out.csv", &args);
    assert!(
        job.read("out.csv")
            .starts_with("row;label;probability_setosa;")
    );
    assert!(job.read("out.csv").contains("\n2;setosa;"));
    assert_eq!(
        lines(&job.read("rejects.jsonl")),
        [json!({"row": 1, "field": "sepal_length",
                "expected": "a number from 0 to 30 cm (required)"})]
    );
}
