//! The images, and what each is made from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use cluster::process;

use super::buildah::Recipe;
use super::content_key::Input;
use super::host_files;

/// An image of the local cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Image {
    /// The operator
    Operator,
    /// The inference server
    Serve,
    /// The inference server with ONNX Runtime's library
    ServeOnnx,
    /// The inference server with the example models under /models/NAME/VERSION
    ServeExamples,
    /// Envoy, from the Python wheel
    Envoy,
    /// Prometheus, from Debian
    Prometheus,
}

/// Manifests that cargo reads whichever package it builds.
const MANIFESTS: [&str; 9] = [
    "Cargo.toml",
    "Cargo.lock",
    "serving-image/Cargo.toml",
    "serving-image/kernels/Cargo.toml",
    "tests/testkit/Cargo.toml",
    "xtask/Cargo.toml",
    "xtask/cluster/Cargo.toml",
    "xtask/deploy/Cargo.toml",
    "xtask/lab/Cargo.toml",
];

/// The same for all images that are compiled: 553 crates and build scripts instead of 778.
const ONE_COMPILATION: [(&str, &str); 2] = [
    ("TARGET_CPU", "x86-64-v3"),
    (
        "BUILD",
        "--package serin --bin serin-operator --package serin-serve --bin serin-serve",
    ),
];

impl Image {
    /// Every image, each after those that it rests on.
    pub const ALL: [Self; 6] = [
        Self::Operator,
        Self::Serve,
        Self::ServeOnnx,
        Self::ServeExamples,
        Self::Envoy,
        Self::Prometheus,
    ];

    /// What the local cluster runs.
    pub const CLUSTER: [Self; 5] = [
        Self::Operator,
        Self::Serve,
        Self::ServeExamples,
        Self::Envoy,
        Self::Prometheus,
    ];

    /// The name on the command line and in the archive's file name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Serve => "serve",
            Self::ServeOnnx => "serve-onnx",
            Self::ServeExamples => "serve-examples",
            Self::Envoy => "envoy",
            Self::Prometheus => "prometheus",
        }
    }

    /// The name and tag that manifests use.
    pub fn reference(self) -> &'static str {
        match self {
            Self::Operator => "localhost/serin-operator:dev",
            Self::Serve => "localhost/serin-serve:dev",
            Self::ServeOnnx => "localhost/serin-serve-onnx:dev",
            Self::ServeExamples => "localhost/serin-serve-examples:dev",
            Self::Envoy => "localhost/envoy:1.40",
            Self::Prometheus => "localhost/prometheus:2.42",
        }
    }

    /// The image that this one's `FROM` names, if it is ours.
    pub(super) fn base(self) -> Option<Self> {
        (self == Self::ServeExamples).then_some(Self::Serve)
    }

    /// Everything that decides what the image holds.
    pub(super) fn inputs(self, repository: &Path) -> Result<Vec<Input>> {
        let mut inputs = vec![Input::Path(self.dockerfile(repository))];
        match self {
            Self::Operator | Self::Serve | Self::ServeOnnx => {
                let sources: &[&str] = if self == Self::Operator {
                    &["src"]
                } else {
                    &[
                        "serving-image/src",
                        "serving-image/kernels/src",
                        "serving-image/sbom.sh",
                        "serving-image/sbom-crates.sh",
                    ]
                };
                inputs.extend(
                    MANIFESTS
                        .iter()
                        .chain(sources)
                        .map(|path| Input::Path(repository.join(path))),
                );
                inputs.push(Input::Value(process::output(
                    Command::new("rustc").arg("-vV"),
                )?));
                if self == Self::ServeOnnx {
                    inputs.push(Input::Path(repository.join(FETCH_ONNXRUNTIME)));
                }
            }
            Self::ServeExamples => {
                for model in models(repository)? {
                    inputs.push(Input::Value(format!("{}/{}", model.name, model.version)));
                    inputs.push(Input::Path(model.folder));
                }
            }
            Self::Envoy | Self::Prometheus => {
                inputs.extend(
                    self.programs()?
                        .into_iter()
                        .map(|(from, _)| Input::Installed(from)),
                );
            }
        }
        Ok(inputs)
    }

    /// Makes the folder that COPY lines read from, and returns it.
    pub(super) fn stage_context(self, repository: &Path, scratch: &Path) -> Result<PathBuf> {
        if self.is_compiled() {
            return Ok(repository.to_owned());
        }
        if scratch.exists() {
            fs::remove_dir_all(scratch)?;
        }
        fs::create_dir_all(scratch)?;
        if self == Self::ServeExamples {
            for model in models(repository)? {
                copy_folder(
                    &model.folder,
                    &scratch.join("models").join(model.name).join(model.version),
                )?;
            }
        } else {
            host_files::stage(&scratch.join("rootfs"), &self.programs()?)?;
        }
        Ok(scratch.to_owned())
    }

    /// The arguments of buildah, once the context is there.
    pub(super) fn recipe(self, repository: &Path, context: PathBuf) -> Result<Recipe> {
        let version = match self {
            Self::Operator | Self::Serve | Self::ServeOnnx | Self::ServeExamples => {
                env!("CARGO_PKG_VERSION")
            }
            Self::Envoy => "1.40.0",
            Self::Prometheus => "2.42.0",
        };
        let mut contexts = Vec::new();
        if self == Self::ServeOnnx {
            contexts.push(("onnxruntime", fetch_onnxruntime(repository)?));
        }
        let mut build_args = vec![("VERSION".to_owned(), version.to_owned())];
        if self.is_compiled() {
            build_args
                .extend(ONE_COMPILATION.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        Ok(Recipe {
            dockerfile: self.dockerfile(repository),
            context,
            target: matches!(self, Self::Serve | Self::ServeOnnx).then_some(self.name()),
            contexts,
            build_args,
            toolchain: self
                .is_compiled()
                .then(|| repository.join("xtask/images/toolchain.Dockerfile")),
        })
    }

    /// Whether it is compiled from this repository.
    fn is_compiled(self) -> bool {
        matches!(self, Self::Operator | Self::Serve | Self::ServeOnnx)
    }

    fn dockerfile(self, repository: &Path) -> PathBuf {
        match self {
            Self::Serve | Self::ServeOnnx => repository.join("serving-image/Dockerfile"),
            _ => repository.join(format!("xtask/images/{}.Dockerfile", self.name())),
        }
    }

    /// This machine's programs that the image carries, as (from, place in the image).
    fn programs(self) -> Result<Vec<(PathBuf, &'static str)>> {
        Ok(match self {
            Self::Envoy => vec![
                (cluster::tool("envoy")?, "usr/local/bin/envoy"),
                (PathBuf::from("/usr/bin/bash"), "usr/bin/bash"),
                (PathBuf::from("/usr/bin/sleep"), "usr/bin/sleep"),
            ],
            Self::Prometheus => vec![(cluster::tool("prometheus")?, "usr/local/bin/prometheus")],
            Self::Operator | Self::Serve | Self::ServeOnnx | Self::ServeExamples => Vec::new(),
        })
    }
}

/// Fetches ONNX Runtime's library, and pins its version and sha256.
const FETCH_ONNXRUNTIME: &str = "serving-image/scripts/fetch_onnxruntime.py";

/// The folder that holds ONNX Runtime's library, and nothing else but its licences.
fn fetch_onnxruntime(repository: &Path) -> Result<PathBuf> {
    let folder = cluster::Layout::from_env()?.cached("images/onnxruntime");
    let mut fetch = Command::new("python3");
    fetch.arg(repository.join(FETCH_ONNXRUNTIME)).arg(&folder);
    process::run(&mut fetch)?;
    Ok(folder)
}

/// An artefact directory, ready to be copied into an image.
#[derive(Debug)]
struct Model {
    name: String,
    version: String,
    folder: PathBuf,
}

/// The manifest that makes a folder an artefact directory.
const MODEL_MANIFEST: &str = "serin-model.json";

/// The models of the repository, as `NAME/VERSION` folders.
fn models(repository: &Path) -> Result<Vec<Model>> {
    let mut models = Vec::new();
    for name in folders(&repository.join("examples/models"))? {
        for folder in folders(&name)? {
            if folder.join(MODEL_MANIFEST).is_file() {
                models.push(Model {
                    name: file_name(&name),
                    version: file_name(&folder),
                    folder,
                });
            }
        }
    }
    if models.is_empty() {
        bail!("no model found below examples/models");
    }
    Ok(models)
}

fn folders(root: &Path) -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(root) else {
        return Ok(Vec::new());
    };
    let mut found: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    found.retain(|path| path.is_dir());
    found.sort();
    Ok(found)
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
