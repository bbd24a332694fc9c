//! `serin-serve batch`: a file in, a file out, as the process that a Job runs.

mod formats;
mod killed;
mod refused;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{fixture, iris, serin_serve};

/// A directory with an input file.
struct Job {
    directory: TempDir,
    input: PathBuf,
    model: PathBuf,
}

impl Job {
    fn new(input: &str, content: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let input = directory.path().join(input);
        std::fs::write(&input, content).unwrap();
        Self {
            directory,
            input,
            model: iris("1.0.0"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn command(&self, output: &str, args: &[&str]) -> Command {
        let mut command = serin_serve(&["batch", "--model-dir"]);
        command
            .arg(&self.model)
            .arg("--input")
            .arg(&self.input)
            .arg("--output")
            .arg(self.path(output))
            .args(args);
        command
    }

    /// Runs to the end, which must be a good one, and gives the log.
    fn run(&self, output: &str, args: &[&str]) -> Vec<Value> {
        let ended = self.command(output, args).output().unwrap();
        let said = log(&ended);
        assert_eq!(ended.status.code(), Some(0), "{said:?}");
        said
    }

    /// Runs to an end with this exit code, and gives what was said about it.
    fn fails(&self, output: &str, args: &[&str], code: i32) -> String {
        let ended = self.command(output, args).output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(code), "{said}");
        said.lines().last().unwrap_or_default().to_owned()
    }

    /// Names of the files that lie there beside the input.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !self.input.ends_with(name))
            .collect();
        names.sort();
        names
    }
}

fn log(ended: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&ended.stderr)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| line.into()))
        .collect()
}

/// The log's last line.
fn done(log: &[Value]) -> &Value {
    let last = log.last().unwrap();
    assert_eq!(last["message"], "done", "{last}");
    last
}

const FIELDS: [&str; 4] = ["sepal_length", "sepal_width", "petal_length", "petal_width"];

/// The 150 irises.
fn flowers() -> Vec<Value> {
    fixture("iris-1.0.0.json")["instances"]
        .as_array()
        .unwrap()
        .clone()
}

/// So many irises as CSV, with an id and a column that is not the model's.
fn csv(rows: usize) -> String {
    let flowers = flowers();
    let mut csv = "id,sepal_length,sepal_width,note,petal_length,petal_width\n".to_owned();
    for row in 0..rows {
        let flower = &flowers[row % flowers.len()];
        let [a, b, c, d] = FIELDS.map(|name| flower[name].to_string());
        writeln!(csv, "f{row},{a},{b},\"x, \"\"y\"\"\",{c},{d}").unwrap();
    }
    csv
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn fixture_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}
