//! The errors and warnings of a directory, each with its remedy.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::artefact::{ArtefactError, MANIFEST_FILE, Manifest, ManifestError};
use crate::generate::LoadGeneratorError;
use crate::model::{LoadError, OnnxError};

/// One thing that is wrong, or could be better.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub severity: Severity,
    pub problem: String,
    pub remedy: String,
}

/// Whether it can be served nevertheless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    Error,
    Warning,
}

const AGAIN: &str = "fetch the artefact again; if the change is meant, `serin-serve manifest DIR` \
                     lists the files anew, under a new digest";

const FIT: &str = "make the manifest's network, inputs and labels fit the file's content";

impl Finding {
    pub(super) fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    fn error(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    fn warning(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(problem, remedy)
        }
    }
}

/// Why there is no manifest to go on with.
pub(super) fn of_manifest(directory: &Path, error: &ArtefactError) -> Vec<Finding> {
    let place = directory.display();
    match error {
        _ if !directory.is_dir() => vec![Finding::error(
            format!("{place} is not a directory"),
            format!("give the directory that holds {MANIFEST_FILE}"),
        )],
        ArtefactError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            let found = fs::read_dir(directory).into_iter().flatten().flatten();
            let mut found: Vec<String> = found
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            found.sort();
            vec![Finding::error(
                format!("{MANIFEST_FILE} is missing; there is {}", listed(&found)),
                "write one that says what the model takes and answers (README, \"The artefact\"), \
                 without `files`; `serin-serve manifest DIR` fills them in",
            )]
        }
        ArtefactError::Manifest {
            source: ManifestError::Contradiction(problems),
            ..
        } => problems
            .iter()
            .map(|problem| {
                Finding::error(
                    format!("{MANIFEST_FILE}: {problem}"),
                    "make the manifest's parts fit together",
                )
            })
            .collect(),
        ArtefactError::Manifest { source, .. } => {
            vec![Finding::error(
                source.to_string(),
                "correct the manifest at that place",
            )]
        }
        ArtefactError::ManifestSize(_) => vec![Finding::error(
            error.to_string(),
            "shorten its lists, such as golden examples and background",
        )],
        ArtefactError::Digest { .. } => vec![Finding::error(
            error.to_string(),
            "fetch the artefact of that digest, or give the digest that this one has",
        )],
        other => vec![Finding::error(
            other.to_string(),
            "make it readable for this user",
        )],
    }
}

/// Warnings: what the manifest lacks, and files of the directory that it does not list.
pub(super) fn of_listing(directory: &Path, manifest: &Manifest) -> Vec<Finding> {
    let mut findings = Vec::new();
    if manifest.golden.is_empty() {
        findings.push(Finding::warning(
            "there is no golden example: nothing proves that the model answers as it did where it \
             was trained",
            "add some instances with their outputs to `golden`",
        ));
    }
    if manifest.licence.is_empty() {
        findings.push(Finding::warning(
            "the manifest names no licence",
            "add its SPDX expression as `licence`",
        ));
    }
    let listed_paths: BTreeSet<&str> = manifest
        .files
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    let mut there = Vec::new();
    below(directory, "", &mut there);
    let strays: Vec<String> = there
        .into_iter()
        .filter(|path| !listed_paths.contains(path.as_str()))
        .collect();
    if !strays.is_empty() {
        findings.push(Finding::warning(
            format!(
                "the manifest does not list {}, which is never read",
                listed(&strays)
            ),
            "take it away, or list it with `serin-serve manifest DIR`",
        ));
    }
    findings
}

/// A listed file that is not as the manifest says.
pub(super) fn of_file(error: &ArtefactError) -> Finding {
    let remedy = match error {
        ArtefactError::Io { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            "make it readable for this user"
        }
        _ => AGAIN,
    };
    Finding::error(error.to_string(), remedy)
}

/// Why the model cannot be built, or does not answer as it should.
pub(super) fn of_load(error: &LoadError) -> Finding {
    let remedy = match error {
        LoadError::Artefact(error) => of_artefact(error),
        LoadError::NoEngine(_) => {
            "export the model to one of the networks in README, or use a build that has the engine"
        }
        LoadError::Onnx(OnnxError::Weights(_)) => {
            "`onnx.save(onnx.load(\"model.onnx\"), \"one.onnx\")` writes a graph with its weights \
             inside"
        }
        LoadError::Onnx(OnnxError::Library { .. }) => {
            "install ONNX Runtime's library (`pip download onnxruntime` has it) and name it, or \
             use the image serve-onnx"
        }
        LoadError::GoldenInstance { .. } => "correct the example, or the inputs' types and bounds",
        LoadError::GoldenOutput { .. } => {
            "compare preprocessing and weights with the training; record the output anew only if \
             it is the one that is wrong"
        }
        _ => FIT,
    };
    Finding::error(error.to_string(), remedy)
}

/// Why a language model cannot be built, or does not write the text that it should.
pub(super) fn of_generator(error: &LoadGeneratorError) -> Finding {
    let remedy = match error {
        LoadGeneratorError::Artefact(error) => of_artefact(error),
        _ => FIT,
    };
    Finding::error(error.to_string(), remedy)
}

/// The remedy for an artefact that is not as its manifest says.
fn of_artefact(error: &ArtefactError) -> &'static str {
    match error {
        ArtefactError::Unlisted(_) => "`serin-serve manifest DIR` lists what lies there",
        _ => AGAIN,
    }
}

/// Why a prediction fails that should not.
pub(super) fn of_speed(reason: &str) -> Finding {
    Finding::error(
        format!("a batch of valid instances cannot be predicted: {reason}"),
        "lower limits.maxInstances, or look at what the network says",
    )
}

/// Regular files below `directory`, but for the manifest.
fn below(root: &Path, prefix: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(root.join(prefix))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            below(root, &format!("{name}/"), found);
        } else if name != MANIFEST_FILE {
            found.push(name);
        }
    }
    found.sort();
}

/// A few names, and how many more there are.
fn listed(names: &[String]) -> String {
    match names {
        [] => "nothing".to_owned(),
        [some @ .., _] if names.len() > 5 => {
            format!("{} and {} more", some[..4].join(", "), names.len() - 4)
        }
        all => all.join(", "),
    }
}
