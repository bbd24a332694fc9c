//! `serin-serve check`: whether a directory is servable, and the memory and speed of serving it.
//!
//! ```text
//! findings  directory ─► manifest ─► digest ─► files ─► weights and steps ─► golden examples
//! measures  size ─► memory ─► time to load ─► latency and rate    (if there is no error)
//! ```
//! The code of `serve` itself finds the errors: the checks are those before readiness.

mod findings;
mod measure;
mod report;

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;

use crate::artefact::{Artefact, Digest, Golden, Kind};
use crate::bench::sample_instances;
use crate::explain;
use crate::generate::{Generator, Settings};
use crate::http::contract;
use crate::metrics::GenerationMetrics;
use findings::Finding;
use measure::{Memory, Speed};

/// Flags of `check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// The artefact directory
    pub directory: PathBuf,
    /// The digest it must have
    #[arg(long)]
    pub digest: Option<Digest>,
    /// Do not measure speed, which takes some seconds
    #[arg(long)]
    pub quick: bool,
    /// Form of the output
    #[arg(long, default_value = "text")]
    pub output: CheckOutput,
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckOutput {
    /// A summary for people.
    Text,
    /// One JSON document.
    Json,
}

/// The directory cannot be served. Its errors are already printed.
#[derive(Debug, thiserror::Error)]
#[error("{} is not servable: {errors} {}", directory.display(),
    if *errors == 1 { "error" } else { "errors" })]
pub struct NotServable {
    /// The directory.
    pub directory: PathBuf,
    /// How many errors were found.
    pub errors: usize,
}

/// All that was found out.
#[derive(Debug, Default, Serialize)]
struct Report {
    directory: PathBuf,
    servable: bool,
    findings: Vec<Finding>,
    model: Option<About>,
    size: Option<Size>,
    golden_reproduced: usize,
    memory_bytes: Option<Memory>,
    load_ms: Option<f64>,
    speed: Option<Speed>,
    serves: Vec<Route>,
}

/// The model, by its manifest.
#[derive(Debug, Serialize)]
struct About {
    name: String,
    version: String,
    digest: String,
    kind: String,
    task: String,
    architecture: &'static str,
    max_instances: usize,
    golden: usize,
}

/// The directory's size.
#[derive(Debug, Serialize)]
struct Size {
    files: usize,
    bytes: u64,
}

/// A path that is answered.
#[derive(Debug, Serialize)]
struct Route {
    method: String,
    path: String,
    summary: String,
}

/// Checks, measures and prints. An error where the artefact cannot be served; the report has said
/// why.
pub fn run(args: &CheckArgs) -> Result<(), NotServable> {
    let report = examine(args);
    match args.output {
        CheckOutput::Text => print!("{}", report::text(&report)),
        CheckOutput::Json => println!("{}", report::json(&report)),
    }
    if report.servable {
        return Ok(());
    }
    Err(NotServable {
        directory: report.directory,
        errors: report
            .findings
            .iter()
            .filter(|finding| finding.is_error())
            .count(),
    })
}

fn examine(args: &CheckArgs) -> Report {
    let mut report = Report {
        directory: args.directory.clone(),
        ..Report::default()
    };
    let artefact = match Artefact::open(&args.directory, args.digest) {
        Ok(artefact) => artefact,
        Err(error) => {
            report.findings = findings::of_manifest(&args.directory, &error);
            return report;
        }
    };
    report.describe(&artefact);
    report
        .findings
        .extend(findings::of_listing(&args.directory, &artefact.manifest));
    report
        .findings
        .extend(artefact.wrong_files().iter().map(findings::of_file));
    if report.is_sound() {
        report.load(artefact, args.quick);
    }
    report.servable = report.is_sound();
    report
}

impl Report {
    fn is_sound(&self) -> bool {
        !self.findings.iter().any(Finding::is_error)
    }

    fn describe(&mut self, artefact: &Artefact) {
        let manifest = &artefact.manifest;
        self.model = Some(About {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            digest: artefact.digest.to_string(),
            kind: word(manifest.kind),
            task: word(manifest.task),
            architecture: manifest.network.architecture(),
            max_instances: manifest.limits.max_instances,
            golden: manifest.golden.len(),
        });
        self.size = Some(Size {
            files: manifest.files.len(),
            bytes: manifest.files.iter().map(|file| file.size).sum(),
        });
        self.serves = routes(&contract(manifest));
    }

    /// Loads a language model as `serve` does. How fast it writes is not measured here: it depends
    /// on the prompt.
    fn load_generator(&mut self, artefact: &Artefact) {
        let before = Memory::before();
        let started = Instant::now();
        match Generator::load(artefact, Settings::default(), GenerationMetrics::default()) {
            Ok(generator) => {
                self.golden_reproduced = generator.manifest.golden.len();
                self.load_ms = Some(started.elapsed().as_secs_f64() * 1e3);
                self.memory_bytes = before.and_then(Memory::since);
            }
            Err(error) => self.findings.push(findings::of_generator(&error)),
        }
    }

    /// Loads the model as `serve` does, but checks all golden examples, where `serve` stops at the
    /// first that differs.
    fn load(&mut self, mut artefact: Artefact, quick: bool) {
        if artefact.manifest.kind == Kind::Generation {
            return self.load_generator(&artefact);
        }
        // Loading without the examples reports what is wrong with the weights; the loop below then
        // reports each example that differs.
        let golden = std::mem::take(&mut artefact.manifest.golden);
        let contract = contract(&artefact.manifest);
        let before = Memory::before();
        let started = Instant::now();
        let (model, _explainer) = match explain::load(artefact) {
            Ok(loaded) => loaded,
            Err(error) => {
                self.findings.push(findings::of_load(&error));
                return;
            }
        };
        for (index, golden) in golden.iter().enumerate() {
            match model.reproduces(index, golden) {
                Ok(()) => self.golden_reproduced += 1,
                Err(error) => self.findings.push(findings::of_load(&error)),
            }
        }
        self.load_ms = Some(started.elapsed().as_secs_f64() * 1e3);
        if self.is_sound() {
            if !quick {
                let instances = instances(&golden, &contract);
                match measure::speed(&model, &instances) {
                    Ok(speed) => self.speed = Some(speed),
                    Err(reason) => self.findings.push(findings::of_speed(&reason)),
                }
            }
            self.memory_bytes = before.and_then(Memory::since);
        }
    }
}

/// An enum of the manifest, as the manifest spells it.
fn word(value: impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

/// What speed is measured with: what the model's author found typical, or else what its contract
/// allows.
fn instances(golden: &[Golden], contract: &Value) -> Vec<Value> {
    if golden.is_empty() {
        sample_instances(contract)
    } else {
        golden
            .iter()
            .map(|golden| golden.instance.clone())
            .collect()
    }
}

fn routes(contract: &Value) -> Vec<Route> {
    let mut routes = Vec::new();
    let paths = contract["paths"].as_object().into_iter().flatten();
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().into_iter().flatten() {
            if !matches!(method.as_str(), "get" | "post") {
                continue; // what all methods of the path have in common
            }
            routes.push(Route {
                method: method.to_ascii_uppercase(),
                path: path.clone(),
                summary: operation["summary"].as_str().unwrap_or_default().to_owned(),
            });
        }
    }
    routes
}
