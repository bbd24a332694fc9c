//! `cargo xtask images check`: what is promised of the serving images, held against the images
//! themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use cluster::progress::Progress;
use cluster::{process, repository};
use serde::Deserialize;

use super::{BuiltImage, Image, build, cache_dir};

/// Runs the unpacked image: see there.
const RUN_IMAGE: &str = include_str!("run-image.sh");
/// The one program inside.
const PROGRAM: &str = "/usr/local/bin/serin-serve";
/// Whom it runs as.
const USER: &str = "65532:65532";
/// Bound on the resident memory of an idle server with a model of a few hundred bytes, in KiB.
const IDLE_KIB: u64 = 30 * 1024;
/// Where each image says what it is made from.
const SBOM: &str = "usr/share/sbom";

/// What one image must keep.
struct Promise {
    image: Image,
    /// Most that its layers hold, in bytes.
    size: u64,
    /// A model that it serves.
    model: &'static str,
    /// Idle memory is bounded where no other library is loaded.
    idle_kib: Option<u64>,
    /// What its SBOM must name, whatever else.
    components: &'static [&'static str],
}

const PROMISES: [Promise; 2] = [
    Promise {
        image: Image::Serve,
        size: 40_000_000,
        model: "examples/models/iris/1.0.0",
        idle_kib: Some(IDLE_KIB),
        components: &["serin-kernels", "candle-core", "libc6"],
    },
    Promise {
        image: Image::ServeOnnx,
        size: 80_000_000,
        model: "serving-image/tests/models/iris-forest",
        idle_kib: None,
        components: &["serin-kernels", "candle-core", "libc6", "onnxruntime"],
    },
];

/// Brings the images of the cluster and the serving images up to date, then checks and runs the
/// latter.
pub fn run() -> Result<()> {
    let progress = Progress::new("images");
    // Not in one call: a process that waits for the cluster's images does not wait for the others.
    build(&Image::CLUSTER)?;
    cluster::ensure_packages(cluster::CLUSTER, &progress)?; // `ip`
    for promise in PROMISES {
        for image in build(&[promise.image])? {
            progress.say(promise.check(&image)?);
        }
    }
    Ok(())
}

impl Promise {
    /// One line of figures; an error if anything is not as promised.
    fn check(&self, image: &BuiltImage) -> Result<String> {
        let context = || format!("{} is not as promised", image.reference);
        let unpacked = Unpacked::new(&image.archive, self.image)?;
        let config = unpacked.config().with_context(context)?;
        let size = unpacked.size().with_context(context)?;
        config.check().with_context(context)?;
        ensure!(
            size <= self.size,
            "{}: {size} bytes, but at most {} are promised",
            image.reference,
            self.size
        );
        let programs = programs(&unpacked.root())?;
        ensure!(
            programs == [PROGRAM.trim_start_matches('/')],
            "{} has other programs: {programs:?}",
            image.reference
        );
        let components = self.components(&unpacked.root()).with_context(context)?;
        let started = run_image(&unpacked, &repository::root().join(self.model), &config.env)
            .with_context(context)?;
        if let Some(most) = self.idle_kib {
            ensure!(
                started.kib <= most,
                "{}: {} KiB resident and idle, but at most {most} are promised",
                image.reference,
                started.kib
            );
        }
        Ok(format!(
            "{}: {:.1} MB, {components} components, no shell; run with a read-only root: ready in \
             {} ms, {:.1} MiB resident",
            image.reference,
            size as f64 / 1e6,
            started.ready_ms,
            started.kib as f64 / 1024.0
        ))
    }

    /// How many components the SBOMs list, each with licence and package URL, crates of a registry
    /// with their sha256 too.
    fn components(&self, root: &Path) -> Result<usize> {
        let mut names = Vec::new();
        for entry in fs::read_dir(root.join(SBOM)).context("no SBOM")? {
            let path = entry?.path();
            let sbom: Sbom = serde_json::from_slice(&fs::read(&path)?)
                .with_context(|| format!("{} is no SBOM", path.display()))?;
            ensure!(
                sbom.format == "CycloneDX",
                "{} is no CycloneDX",
                path.display()
            );
            for component in sbom.components {
                ensure!(
                    component.purl.starts_with("pkg:") && !component.licenses.is_empty(),
                    "{} has no package URL or no licence",
                    component.name
                );
                let is_from_a_registry = component.purl.starts_with("pkg:cargo/")
                    && !component.purl.starts_with("pkg:cargo/serin-");
                ensure!(
                    !is_from_a_registry || !component.hashes.is_empty(),
                    "{} has no sha256",
                    component.name
                );
                names.push(component.name);
            }
        }
        for wanted in self.components {
            ensure!(
                names.iter().any(|name| name == wanted),
                "no SBOM names {wanted}"
            );
        }
        Ok(names.len())
    }
}

/// What is read of a CycloneDX document.
#[derive(Debug, Deserialize)]
struct Sbom {
    #[serde(rename = "bomFormat")]
    format: String,
    components: Vec<Component>,
}

#[derive(Debug, Deserialize)]
struct Component {
    name: String,
    purl: String,
    licenses: Vec<serde_json::Value>,
    #[serde(default)]
    hashes: Vec<serde_json::Value>,
}

/// An archive of docker's format, unpacked into a folder that goes with this.
struct Unpacked {
    folder: PathBuf,
}

/// The one entry of an archive's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Manifest {
    config: String,
    layers: Vec<String>,
}

/// What is read of an image's configuration.
#[derive(Debug, Deserialize)]
struct ImageConfig {
    config: Config,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    user: String,
    env: Vec<String>,
    entrypoint: Vec<String>,
    healthcheck: Option<Healthcheck>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Healthcheck {
    test: Vec<String>,
}

impl Config {
    /// Who runs what, and how it is asked for its health.
    fn check(&self) -> Result<()> {
        ensure!(self.user == USER, "it runs as {}", self.user);
        ensure!(
            self.entrypoint == [PROGRAM],
            "it runs {:?}",
            self.entrypoint
        );
        let Some(healthcheck) = &self.healthcheck else {
            bail!("it has no HEALTHCHECK");
        };
        ensure!(
            healthcheck.test == ["CMD", PROGRAM, "healthcheck"],
            "its HEALTHCHECK is {:?}",
            healthcheck.test
        );
        Ok(())
    }
}

impl Unpacked {
    fn new(archive: &Path, image: Image) -> Result<Self> {
        let name = format!("unpacked-{}-{}", image.name(), std::process::id());
        let unpacked = Self {
            folder: cache_dir()?.join(name),
        };
        fs::create_dir_all(unpacked.root())?;
        let untar = |file: &Path, into: &Path| {
            let mut tar = Command::new("tar");
            process::run(tar.arg("-xf").arg(file).arg("-C").arg(into))
        };
        untar(archive, &unpacked.folder)?;
        for layer in unpacked.manifest()?.layers {
            untar(&unpacked.folder.join(layer), &unpacked.root())?;
        }
        Ok(unpacked)
    }

    fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    fn manifest(&self) -> Result<Manifest> {
        let manifests: [Manifest; 1] = self.read("manifest.json")?;
        let [manifest] = manifests;
        Ok(manifest)
    }

    fn config(&self) -> Result<Config> {
        let image: ImageConfig = self.read(&self.manifest()?.config)?;
        Ok(image.config)
    }

    fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        let bytes = fs::read(self.folder.join(name))?;
        serde_json::from_slice(&bytes).with_context(|| format!("cannot read {name}"))
    }

    /// What its layers hold, in bytes.
    fn size(&self) -> Result<u64> {
        let layers = self.manifest()?.layers.into_iter();
        layers
            .map(|layer| Ok(fs::metadata(self.folder.join(layer))?.len()))
            .sum()
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("images: cannot remove {}: {error}", self.folder.display());
        }
    }
}

/// Every file below the folders where programs lie, by its path in the image.
fn programs(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for folder in [
        "bin",
        "sbin",
        "usr/bin",
        "usr/sbin",
        "usr/local/bin",
        "usr/local/sbin",
    ] {
        let Ok(entries) = fs::read_dir(root.join(folder)) else {
            continue;
        };
        for entry in entries {
            found.push(format!("{folder}/{}", entry?.file_name().to_string_lossy()));
        }
    }
    Ok(found)
}

/// A server as it was when it was ready.
struct Started {
    /// From its start, by its own log.
    ready_ms: String,
    /// Resident memory.
    kib: u64,
}

/// Runs the image with a model, asks for its health, and ends it.
fn run_image(unpacked: &Unpacked, model: &Path, environment: &[String]) -> Result<Started> {
    let mut command = process::killed_with_parent("unshare");
    command
        .args(["--mount", "--net", "sh", "-c", RUN_IMAGE, "run-image"])
        .arg(unpacked.root())
        .arg(model)
        .args(environment);
    let said = process::output(&mut command)?;
    let mut lines = said.lines();
    let ready: serde_json::Value = serde_json::from_str(lines.next().unwrap_or_default())
        .context("it did not say that it is ready")?;
    let ms = ready["ms"].as_str().context("how long did it take?")?;
    let kib = lines.next().unwrap_or_default();
    Ok(Started {
        ready_ms: ms.to_owned(),
        kib: kib.parse().context("how much memory does it have?")?,
    })
}
