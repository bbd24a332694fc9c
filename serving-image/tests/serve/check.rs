//! `serin-serve check`: the errors of a directory, and the measures of a sound one.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::artefact::{copy_of_iris, edit};
use crate::support::{Server, iris, serin_serve};

/// The report, and the exit code.
fn check(directory: &Path, args: &[&str]) -> (Value, Option<i32>) {
    let ended = serin_serve(&["check", "--output", "json"])
        .args(args)
        .arg(directory)
        .output()
        .unwrap();
    (
        serde_json::from_slice(&ended.stdout).unwrap(),
        ended.status.code(),
    )
}

/// Severity and problem of each finding; each must have a remedy.
fn findings(report: &Value) -> Vec<(String, String)> {
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap();
    assert!(
        findings
            .iter()
            .all(|finding| !text(finding, "remedy").is_empty()),
        "{findings:?}"
    );
    findings
        .iter()
        .map(|finding| (text(finding, "severity"), text(finding, "problem")))
        .collect()
}

/// Checks that are expected to end with 1, and whose errors contain these, in this order.
fn refused(directory: &Path, args: &[&str], expected: &[&str]) {
    let (report, code) = check(directory, args);
    let errors: Vec<String> = findings(&report)
        .into_iter()
        .filter(|finding| finding.0 == "error")
        .map(|finding| finding.1)
        .collect();
    assert_eq!(
        (code, &report["servable"]),
        (Some(1), &json!(false)),
        "{errors:?}"
    );
    assert_eq!(errors.len(), expected.len(), "{errors:?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.contains(expected), "{expected:?} is not in {error:?}");
    }
}

#[test]
fn a_sound_directory_is_described_and_measured() {
    let (report, code) = check(&iris("2.0.0"), &[]);
    assert_eq!(
        (code, &report["servable"], findings(&report)),
        (Some(0), &json!(true), vec![])
    );
    assert_eq!(report["model"]["architecture"], "mlp");
    assert_eq!(
        (&report["model"]["kind"], &report["model"]["task"]),
        (&json!("tabular"), &json!("classification"))
    );
    assert_eq!(
        (&report["golden_reproduced"], &report["model"]["golden"]),
        (&json!(5), &json!(5))
    );
    let size = fs::metadata(iris("2.0.0").join("model.safetensors"))
        .unwrap()
        .len();
    assert_eq!(report["size"], json!({"files": 1, "bytes": size}));
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64).unwrap();
    assert!(number("/memory_bytes/peak") >= number("/memory_bytes/resident"));
    assert!(number("/load_ms") > 0.0);
    let sizes: Vec<_> = report["speed"]["batches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|batch| &batch["instances"])
        .collect();
    assert_eq!(sizes, [1, 32, 1024]);
    let (median, rate) = (
        number("/speed/batches/2/p50_ms"),
        number("/speed/batches/2/instances_per_second"),
    );
    assert!(
        (rate * median / 1e3 - 1024.0).abs() < 0.1,
        "{rate} a second in {median} ms"
    );
    assert!(number("/speed/instances_per_second") > 0.0);

    // It serves what it says.
    let server = Server::start(&iris("2.0.0"), &[]);
    let document = server.get("/openapi.json").json();
    let said: Vec<&str> = report["serves"]
        .as_array()
        .unwrap()
        .iter()
        .map(|route| route["path"].as_str().unwrap())
        .collect();
    assert!(
        report["serves"]
            .as_array()
            .unwrap()
            .iter()
            .all(|route| ["GET", "POST"].map(Value::from).contains(&route["method"]))
    );
    for path in document["paths"].as_object().unwrap().keys() {
        assert!(said.contains(&path.as_str()), "{path} is not in {said:?}");
    }
}

#[test]
fn people_get_a_summary() {
    let ended = serin_serve(&["check"]).arg(iris("1.0.0")).output().unwrap();
    let text = String::from_utf8(ended.stdout).unwrap();
    for expected in [
        "iris 1.0.0: tabular classification, linear\nsha256:",
        ": servable\n",
        "golden   5 of 5 examples reproduced",
        "memory   ",
        "ready    ",
        "instances/s on ",
        "serves   ",
        "POST /predict\n",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    let ended = serin_serve(&["check", "/no/such/directory"])
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let text = String::from_utf8(ended.stdout).unwrap();
    assert!(
        text.contains(
            "/no/such/directory: NOT SERVABLE\n\nerror   /no/such/directory is not \
                           a directory\n     → give the directory"
        ),
        "{text}"
    );
    assert!(
        String::from_utf8(ended.stderr)
            .unwrap()
            .contains("/no/such/directory is not servable: 1 error")
    );
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    // No manifest.
    let empty = tempfile::tempdir().unwrap();
    fs::write(empty.path().join("model.pkl"), "x").unwrap();
    refused(
        empty.path(),
        &[],
        &["serin-model.json is missing; there is model.pkl"],
    );

    // A manifest with two contradictions.
    let broken = copy_of_iris();
    edit(broken.path(), |manifest| {
        manifest["schemaVersion"] = json!(7);
        manifest["limits"] = json!({"maxInstances": 0});
    });
    refused(
        broken.path(),
        &[],
        &["schemaVersion must be 1", "limits.maxInstances is 0"],
    );

    // Another digest, and a manifest that is no JSON.
    let zeros = format!("sha256:{}", "0".repeat(64));
    refused(broken.path(), &["--digest", &zeros], &["digest mismatch"]);
    fs::write(
        broken.path().join("serin-model.json"),
        "{\"schemaVersion\": 1,",
    )
    .unwrap();
    refused(
        broken.path(),
        &[],
        &["is not a manifest: EOF while parsing"],
    );

    // Three files that are missing, too long, and other than listed.
    let files = copy_of_iris();
    fs::write(files.path().join("long"), "abc").unwrap();
    edit(files.path(), |manifest| {
        let listed = manifest["files"].as_array_mut().unwrap();
        listed[0]["sha256"] = json!("0".repeat(64));
        listed.push(json!({"path": "gone", "size": 1, "sha256": "0".repeat(64)}));
        listed.push(json!({"path": "long", "size": 2, "sha256": "0".repeat(64)}));
    });
    refused(
        files.path(),
        &[],
        &["sha256 mismatch", "gone: No such file", "size mismatch"],
    );
}

#[test]
fn every_golden_example_that_is_off_is_told() {
    let directory = copy_of_iris();
    edit(directory.path(), |manifest| {
        manifest["golden"][1]["output"][0] = json!(0.5);
        manifest["golden"][2]["instance"]["petal_width"] = json!(-1);
        manifest["golden"][4]["output"] = json!([1.0]);
    });
    refused(
        directory.path(),
        &[],
        &[
            "golden example 1: output 0 differs",
            "golden example 2 is refused",
            "golden example 4: output 1 differs",
        ],
    );
}

#[test]
fn what_could_be_better_is_a_warning() {
    let directory = copy_of_iris();
    fs::write(directory.path().join("notes.txt"), "x").unwrap();
    edit(directory.path(), |manifest| {
        let manifest = manifest.as_object_mut().unwrap();
        manifest.remove("golden");
        manifest.remove("licence");
    });
    let (report, code) = check(directory.path(), &["--quick"]);
    assert_eq!(
        (code, &report["servable"], &report["speed"]),
        (Some(0), &json!(true), &Value::Null)
    );
    let findings = findings(&report);
    assert!(
        findings.iter().all(|finding| finding.0 == "warning"),
        "{findings:?}"
    );
    for (finding, expected) in
        findings
            .iter()
            .zip(["no golden example", "licence", "does not list notes.txt"])
    {
        assert!(finding.1.contains(expected), "{finding:?}");
    }
    assert_eq!(findings.len(), 3);
    // Without golden examples, speed is measured with what the contract allows.
    let (report, code) = check(directory.path(), &[]);
    assert!(
        code == Some(0) && report["speed"]["batches"].as_array().unwrap().len() == 3,
        "{report}"
    );
}
