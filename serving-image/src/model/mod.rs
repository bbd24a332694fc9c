//! A loaded model: its preprocessing and its network, warm and checked against its golden examples.

mod bert;
mod dense;
#[cfg(test)]
pub(crate) mod examples;
#[cfg(test)]
mod fuzz_tests;
pub(crate) mod graph;
pub mod llama;
mod onnx;
mod tensors;

use candle_core::safetensors::SliceSafetensors;
use serde_json::Value;

use crate::array::Outline;
use crate::artefact::{Artefact, ArtefactError, Digest, Files, Golden, Manifest, Network};
use crate::prediction::Prediction;
use crate::preprocess::{Batch, FieldErrors, Location, PreprocessError, Preprocessor};
use bert::Bert;
use dense::Dense;
pub use dense::Linear;
use onnx::Onnx;
pub use onnx::{OnnxError, use_library};

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The artefact's files are not those that its manifest lists.
    #[error(transparent)]
    Artefact(#[from] ArtefactError),
    /// The preprocessing cannot be built.
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
    /// The manifest is sound, but asks for something that this build cannot compute.
    #[error("this build has no engine for {0}")]
    NoEngine(String),
    /// The weights do not fit the network.
    #[error("the weights do not fit the manifest's network: {0}")]
    Weights(#[from] candle_core::Error),
    /// The graph cannot be computed.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The encoder's configuration is unusable.
    #[error("{0}: {1}")]
    Config(String, String),
    /// The manifest's background, which explanations compare with, is unusable. Holds the reason.
    #[error("{0}")]
    Background(String),
    /// A golden example is no valid instance.
    #[error("golden example {index} is refused by the manifest's own preprocessing: {errors:?}")]
    GoldenInstance {
        /// Its place in the manifest.
        index: usize,
        /// The errors.
        errors: FieldErrors,
    },
    /// The model does not reproduce a golden example.
    #[error(
        "golden example {index}: output {position} differs by {difference:e}, more than the \
         tolerance {tolerance:e}"
    )]
    GoldenOutput {
        /// Its place in the manifest.
        index: usize,
        /// The output's index.
        position: usize,
        /// Absolute difference; not a number where a length differs.
        difference: f32,
        /// What the manifest allows.
        tolerance: f32,
    },
}

/// Tokens of the warm-up: those of a batch, by the default of `--batch-tokens`.
const WARM_UP_TOKENS: usize = 1024;

/// One model version, ready to predict.
#[derive(Debug)]
pub struct Model {
    /// The manifest it was built from.
    pub manifest: Manifest,
    /// The artefact's digest.
    pub digest: Digest,
    preprocessor: Preprocessor,
    engine: Engine,
}

/// The engine that computes; one file or folder each.
#[derive(Debug)]
enum Engine {
    Dense(Dense),
    Bert(Bert),
    Onnx(Onnx),
}

impl Engine {
    /// Reads the network's weights, and what other files it has.
    fn load(manifest: &Manifest, weights: &[u8], files: &mut Files) -> Result<Self, LoadError> {
        let tensors = || SliceSafetensors::new(weights);
        Ok(match &manifest.network {
            Network::Linear { .. } => Self::Dense(Dense::load(&tensors()?, None, manifest)?),
            Network::Mlp { activation, .. } => {
                Self::Dense(Dense::load(&tensors()?, Some(*activation), manifest)?)
            }
            Network::Bert { config, .. } => {
                let bytes = files.take(config)?;
                let config = serde_json::from_slice(&bytes)
                    .map_err(|error| LoadError::Config(config.clone(), error.to_string()))?;
                Self::Bert(Bert::load(&tensors()?, &config, manifest)?)
            }
            Network::Onnx { .. } => Self::Onnx(Onnx::load(weights, manifest, files)?),
            Network::Gguf { .. } => return Err(no_engine(manifest)),
        })
    }
}

/// Multiplications that take about 10 µs on one core without wide registers.
const INSTANT: usize = 20_000;

/// What reading, checking and preparing one field costs, in multiplications.
const INSTANT_PER_FIELD: usize = 200;

impl Model {
    /// Verifies the artefact's files, builds the model from them, reproduces its golden examples
    /// and makes a warm-up prediction. An error where one of these steps fails.
    pub fn load(artefact: Artefact) -> Result<Self, LoadError> {
        Self::load_and(artefact, |_, _| Ok(())).map(|(model, ())| model)
    }

    /// Loads a model as [`Self::load`] does, and builds `part` from it and the bytes of its weights
    /// file before the warm-up: the bytes and the warm-up's buffers are never in memory together.
    /// An error where one of the steps or `part` fails.
    pub fn load_and<T>(
        artefact: Artefact,
        part: impl FnOnce(&Self, &[u8]) -> Result<T, LoadError>,
    ) -> Result<(Self, T), LoadError> {
        if !has_engine(&artefact.manifest) {
            return Err(no_engine(&artefact.manifest));
        }
        let mut files = artefact.read_files()?;
        let manifest = artefact.manifest;
        let tokenizer = manifest.tokenizer().map(|path| files.take(path));
        let preprocessor = Preprocessor::new(&manifest, tokenizer.transpose()?.as_deref())?;
        let weights = files.take(manifest.network.weights())?;
        let engine = Engine::load(&manifest, &weights, &mut files)?;
        let model = Self {
            manifest,
            digest: artefact.digest,
            preprocessor,
            engine,
        };
        model.check_golden()?;
        let part = part(&model, &weights)?;
        drop(weights);
        model.warm_up()?;
        Ok((model, part))
    }

    /// Whether so many instances take only microseconds, less than the way to another thread and
    /// back.
    pub fn is_instant(&self, instances: usize) -> bool {
        match &self.engine {
            Engine::Dense(dense) => {
                let fields = self.manifest.inputs.len() * INSTANT_PER_FIELD;
                instances.saturating_mul(dense.weights() + fields) <= INSTANT
            }
            _ => false,
        }
    }

    /// Validates and prepares instances. Blocks: call it on the compute pool. The error names every
    /// field that is wrong.
    pub fn prepare(&self, instances: &[Value], location: Location) -> Result<Batch, FieldErrors> {
        self.preprocessor.prepare(instances, location)
    }

    /// Predicts. Blocks: call it on the compute pool. An error where the engine fails; a valid
    /// batch gives it no reason to.
    pub fn forward(&self, batch: &Batch) -> candle_core::Result<Vec<Prediction>> {
        match (&self.engine, batch) {
            (Engine::Dense(dense), Batch::Features(rows)) => Ok(dense.forward(rows)),
            (Engine::Bert(bert), Batch::Tokens(texts)) => bert.predict(texts),
            (Engine::Onnx(onnx), batch) => onnx.forward(batch),
            _ => candle_core::bail!("the network does not take what the preprocessing makes"),
        }
    }

    /// The weights of a linear network.
    pub fn linear(&self) -> Option<Linear> {
        match &self.engine {
            Engine::Dense(dense) => dense.linear(),
            _ => None,
        }
    }

    /// The types and shapes of the graph's own tensors, for the task `raw`; empty for others.
    pub fn outlines(&self) -> &[Outline] {
        match &self.engine {
            Engine::Onnx(onnx) => onnx.outlines(),
            _ => &[],
        }
    }

    fn check_golden(&self) -> Result<(), LoadError> {
        let mut golden = self.manifest.golden.iter().enumerate();
        golden.try_for_each(|(index, golden)| self.reproduces(index, golden))
    }

    /// Predicts a golden example, the `index`th, and holds the output to the one that it should
    /// have. An error where it differs by more than the example's tolerance.
    pub fn reproduces(&self, index: usize, golden: &Golden) -> Result<(), LoadError> {
        let instance = std::slice::from_ref(&golden.instance);
        let batch = self
            .preprocessor
            .prepare(instance, Location::List("/golden"))
            .map_err(|errors| LoadError::GoldenInstance { index, errors })?;
        let output = self
            .forward(&batch)?
            .pop()
            .map(|prediction| prediction.output)
            .unwrap_or_default();
        let tolerance = golden.tolerance;
        let differs = |position, difference| LoadError::GoldenOutput {
            index,
            position,
            difference,
            tolerance,
        };
        if output.len() != golden.output.len() {
            return Err(differs(output.len().min(golden.output.len()), f32::NAN));
        }
        for (position, (found, expected)) in output.iter().zip(&golden.output).enumerate() {
            let difference = (found - expected).abs();
            // Written so that a NaN, which compares false with everything, is refused too.
            if difference.is_nan() || difference > tolerance {
                return Err(differs(position, difference));
            }
        }
        Ok(())
    }

    /// Predicts a batch of full size, which pays for page faults and thread pools before a client
    /// would.
    fn warm_up(&self) -> Result<(), LoadError> {
        let example = [self.preprocessor.example()];
        let mut batch = self
            .preprocessor
            .prepare(&example, Location::List("/example"))
            .map_err(|errors| LoadError::GoldenInstance { index: 0, errors })?;
        if let Batch::Tokens(texts) = &mut batch {
            let tokens = texts.iter().map(|text| text.ids.len()).sum::<usize>();
            let copies = WARM_UP_TOKENS.div_ceil(tokens.max(1));
            *texts = vec![std::mem::take(texts); copies].concat();
        }
        let predictions = self.forward(&batch)?;
        let sound = predictions
            .iter()
            .all(|p| p.output.iter().all(|value| value.is_finite()));
        if sound {
            Ok(())
        } else {
            Err(candle_core::Error::Msg("the warm-up prediction is not finite".into()).into())
        }
    }
}

/// Whether this build can compute what the manifest describes.
fn has_engine(manifest: &Manifest) -> bool {
    match &manifest.network {
        Network::Linear { .. }
        | Network::Mlp { .. }
        | Network::Bert { .. }
        | Network::Onnx { .. } => true,
        Network::Gguf { .. } => false,
    }
}

fn no_engine(manifest: &Manifest) -> LoadError {
    let architecture = manifest.network.architecture();
    LoadError::NoEngine(format!(
        "the architecture {architecture} with kind {:?} and task {:?}",
        manifest.kind, manifest.task
    ))
}
