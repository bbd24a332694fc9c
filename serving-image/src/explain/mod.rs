//! Explains answers: how much each field of a table, or each word of a text, contributed to the
//! answer, compared with the manifest's background (Shapley values).
//!
//! ```text
//! linear network           ─► weight · (number − mean), exact
//! trees that take the row  ─► each leaf pays its features, exact
//! any other, few fields    ─► every coalition of fields, exact
//! any other                ─► random orders of the fields, with a standard error
//! texts                    ─► the last two, of words in place of fields, ever fewer words together
//! ```
//! The last two need only the model's answers, by the same preprocessing and forward pass as
//! predictions.

mod methods;
mod onnx;
mod shapley;
mod text;
mod tree;

use serde_json::Value;

use crate::artefact::{Artefact, Manifest, Task};
use crate::model::{LoadError, Model};
use crate::prediction::Prediction;
use crate::preprocess::{Batch, FieldErrors, Location, Rows};
use methods::Method;
use shapley::Shares;

/// The method that explains a model's answers. Built once, when the model is loaded.
#[derive(Debug)]
pub struct Explainer {
    /// The manifest's inputs, in their order.
    fields: Vec<String>,
    method: Method,
}

/// Why there is no explanation.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// An instance of the manifest's background is not valid.
    #[error("the background is refused by the manifest's own preprocessing: {0:?}")]
    Instance(FieldErrors),
    /// A masked text could become longer than the text.
    #[error("background.mask is {0} tokens, but must be one token")]
    Mask(usize),
    /// The model failed.
    #[error("the model failed: {0}")]
    Model(#[from] candle_core::Error),
    /// The client has gone.
    #[error("the client has gone")]
    Abandoned,
}

impl From<ExplainError> for LoadError {
    fn from(error: ExplainError) -> Self {
        Self::Background(error.to_string())
    }
}

/// Loads a model, and how its answers are explained: `None` where its manifest gives nothing to
/// compare with ([`Manifest::is_explained`]). An unusable background is an error.
pub fn load(artefact: Artefact) -> Result<(Model, Option<Explainer>), LoadError> {
    Model::load_and(artefact, |model, weights| {
        Ok(Explainer::new(model, weights)?)
    })
}

/// Bounds the work of an explanation.
pub trait Effort {
    /// Most pairs of random orders.
    fn pairs(&self) -> usize;
    /// The share of its time that is left, from 1 at the beginning to 0.
    fn time_left(&mut self) -> f64;
    /// Called before every few hundred evaluations. Yields to predictions; fails with
    /// [`ExplainError::Abandoned`] if the client has gone.
    fn proceed(&mut self) -> Result<(), ExplainError>;

    /// Whether sampling ends, which it does after two pairs of orders at the earliest.
    fn is_enough(&mut self, pairs: usize) -> bool {
        pairs >= self.pairs() || self.time_left() <= 0.0
    }
}

/// The answer to explain.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// A valid instance.
    pub instance: &'a Value,
    /// Index of the output to explain. Default: the likeliest class.
    pub output: Option<usize>,
    /// Where sampling starts: the same seed and number of orders give the same explanation.
    pub seed: u64,
}

/// An explained answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// Index of the output that is explained.
    pub output: usize,
    /// What the numbers are: `logit`, `probability` or `value`.
    pub scale: &'static str,
    /// The model's answer, on that scale.
    pub value: f64,
    /// The background's mean answer.
    pub base_value: f64,
    /// What each field added, in the manifest's order of inputs; or each passage, in the order of
    /// the text.
    pub contributions: Vec<f64>,
    /// The passages that the contributions belong to; `None` for tables.
    pub passages: Option<Vec<Passage>>,
    /// Standard error of each contribution; `None` if they are exact.
    pub standard_errors: Option<Vec<f64>>,
    /// How it was found: `linear`, `trees`, `coalitions` or `permutations`.
    pub method: &'static str,
    /// Orders that were drawn; 0 where the contributions are exact.
    pub permutations: usize,
}

/// A word of a text, or some neighbouring ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// Index of the manifest's input whose text it is from.
    pub input: usize,
    /// As the instance has it.
    pub text: String,
}

impl Explanation {
    /// Of what was found by the model's answers alone.
    fn of_answers(model: &Model, output: usize, value: f64, shares: Shares) -> Self {
        Self {
            output,
            scale: own_scale(&model.manifest),
            value,
            base_value: shares.base,
            contributions: shares.values,
            passages: None,
            method: match shares.errors {
                None => "coalitions",
                Some(_) => "permutations",
            },
            standard_errors: shares.errors,
            permutations: shares.permutations,
        }
    }

    /// Whether all its numbers are: values without bounds in the manifest may overflow the model.
    pub fn is_finite(&self) -> bool {
        self.residual().is_finite()
            && self
                .standard_errors
                .iter()
                .flatten()
                .all(|error| error.is_finite())
    }

    /// `base_value + Σ contributions − value`: 0 up to rounding where the contributions are exact.
    pub fn residual(&self) -> f64 {
        self.base_value + self.contributions.iter().sum::<f64>() - self.value
    }
}

impl Explainer {
    /// How `model` is explained; `weights` are the bytes of its weights file. `None` if its
    /// manifest gives nothing to compare with ([`Manifest::is_explained`]). An error where the
    /// background does not fit the model.
    pub fn new(model: &Model, weights: &[u8]) -> Result<Option<Self>, ExplainError> {
        let manifest = &model.manifest;
        if !manifest.is_explained() {
            return Ok(None);
        }
        let fields = manifest.inputs.iter().map(|input| input.name.clone());
        Ok(Some(Self {
            fields: fields.collect(),
            method: Method::new(model, weights)?,
        }))
    }

    /// The fields that contributions are of, in their order.
    pub fn fields(&self) -> &[String] {
        &self.fields
    }

    /// Explains one output. Blocks. An error where the instance or the output is not one of the
    /// model, a prediction fails or the client has gone.
    pub fn explain(
        &self,
        model: &Model,
        question: &Question<'_>,
        effort: &mut impl Effort,
    ) -> Result<Explanation, ExplainError> {
        let mut predictions = predictions(model, std::slice::from_ref(question.instance))?;
        let prediction = predictions.pop().unwrap_or_default();
        let output = question.output.unwrap_or_else(|| prediction.class());
        match &self.method {
            Method::Linear(linear) => linear.explain(model, question, output),
            Method::Trees(trees) => trees.explain(model, question, output, effort),
            Method::Answers(sampled) => {
                let value = f64::from(prediction.output[output]);
                sampled.explain(model, question, (output, value), effort)
            }
            Method::Texts(texts) => texts.explain(model, question, (output, &prediction), effort),
        }
    }
}

/// The scale of a model's answers themselves.
fn own_scale(manifest: &Manifest) -> &'static str {
    if manifest.task == Task::Classification {
        "probability"
    } else {
        "value"
    }
}

/// The model's predictions.
fn predictions(model: &Model, instances: &[Value]) -> Result<Vec<Prediction>, ExplainError> {
    let mut predictions = Vec::with_capacity(instances.len());
    for part in instances.chunks(model.manifest.limits.max_instances) {
        predictions.extend(model.forward(&prepare(model, part)?)?);
    }
    Ok(predictions)
}

/// The numbers that they consist of.
fn answers(model: &Model, instances: &[Value]) -> Result<Vec<Vec<f32>>, ExplainError> {
    let predictions = predictions(model, instances)?.into_iter();
    Ok(predictions.map(|prediction| prediction.output).collect())
}

/// The prepared rows, one after the other.
fn rows(model: &Model, instances: &[Value]) -> Result<Vec<Vec<f32>>, ExplainError> {
    let mut all = Vec::with_capacity(instances.len());
    for part in instances.chunks(model.manifest.limits.max_instances) {
        let Batch::Features(Rows { width, values }) = prepare(model, part)? else {
            return Err(candle_core::Error::Msg("such instances have no rows".into()).into());
        };
        all.extend(values.chunks(width).map(<[f32]>::to_vec));
    }
    Ok(all)
}

fn prepare(model: &Model, instances: &[Value]) -> Result<Batch, ExplainError> {
    model
        .prepare(instances, Location::List("/background/instances"))
        .map_err(ExplainError::Instance)
}
