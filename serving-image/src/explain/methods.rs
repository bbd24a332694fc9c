//! The methods of explaining, each with the data that it keeps of the model and the background.

use serde_json::Value;

use super::onnx::{self, Scale, Trees};
use super::shapley::{self, Hybrid, Sample};
use super::text::OfTexts;
use super::{Effort, ExplainError, Explanation, Question, answers, own_scale, rows};
use crate::artefact::{Background, Manifest, Network, Task};
use crate::model::{Linear, Model};

/// Largest difference between what the trees of a graph add up to and what the runtime answers, for
/// the trees to be believed.
const TREE_TOLERANCE: f64 = 1e-4;

/// Evaluations between two rests.
const STRIDE: usize = 256;

/// A way to explain.
#[derive(Debug)]
pub(super) enum Method {
    Linear(OfWeights),
    Trees(OfTrees),
    Answers(OfAnswers),
    Texts(OfTexts),
}

impl Method {
    /// The most exact way that the model has. An error where the manifest's background does not fit
    /// the model.
    pub fn new(model: &Model, weights: &[u8]) -> Result<Self, ExplainError> {
        let background = model.manifest.background.as_ref();
        if let Some(mask) = background.and_then(|background| background.mask.as_deref()) {
            return Ok(Self::Texts(OfTexts::new(model, mask)?));
        }
        if let Some(linear) = model.linear() {
            return Ok(Self::Linear(OfWeights::new(model, linear)?));
        }
        let of_answers = OfAnswers::new(model)?;
        let trees = OfTrees::new(model, weights, &of_answers)?;
        Ok(trees.map_or(Self::Answers(of_answers), Self::Trees))
    }
}

/// The field of each number of a prepared row: a one-hot field has several.
#[derive(Debug)]
struct Columns {
    fields: usize,
    field: Vec<usize>,
}

impl Columns {
    /// Of the numbers that these fields become.
    fn new(manifest: &Manifest, fields: &[String]) -> Self {
        let place = |name: &String| manifest.inputs.iter().position(|input| input.name == *name);
        let field = fields.iter().flat_map(|name| {
            std::iter::repeat_n(place(name).unwrap_or_default(), manifest.columns(name))
        });
        Self {
            fields: manifest.inputs.len(),
            field: field.collect(),
        }
    }

    /// Adds up what the numbers of each field contribute.
    fn by_field(&self, parts: impl Iterator<Item = f64>) -> Vec<f64> {
        let mut contributions = vec![0.0; self.fields];
        for (field, part) in self.field.iter().zip(parts) {
            contributions[*field] += part;
        }
        contributions
    }
}

/// A linear network: a number contributes its weight times its distance from the mean.
#[derive(Debug)]
pub(super) struct OfWeights {
    linear: Linear,
    means: Vec<f64>,
    columns: Columns,
}

impl OfWeights {
    fn new(model: &Model, linear: Linear) -> Result<Self, ExplainError> {
        let manifest = &model.manifest;
        let background = manifest.background.as_ref();
        let instances = background.map_or_else(Vec::new, Background::values);
        let means = if instances.is_empty() {
            let mean = |name: &String| background?.means.get(name).copied();
            let features = manifest.features();
            features
                .iter()
                .map(|name| mean(name).unwrap_or_default())
                .collect()
        } else {
            let rows = rows(model, &instances)?;
            let column = |index: usize| rows.iter().map(move |row| f64::from(row[index]));
            let mean = |index: usize| shapley::mean(&column(index).collect::<Vec<_>>());
            (0..rows[0].len()).map(mean).collect()
        };
        Ok(Self {
            linear,
            means,
            columns: Columns::new(manifest, manifest.order().unwrap_or_default()),
        })
    }

    /// On the scale of the last layer's sums. A binary model has one sum, the log odds of its
    /// second class. An error where the instance cannot be prepared.
    pub fn explain(
        &self,
        model: &Model,
        question: &Question<'_>,
        output: usize,
    ) -> Result<Explanation, ExplainError> {
        let row = &rows(model, std::slice::from_ref(question.instance))?[0];
        let (weights, bias) = self.linear.output(output);
        let sum = |numbers: &mut dyn Iterator<Item = f64>| -> f64 {
            numbers
                .zip(weights)
                .map(|(x, weight)| x * weight)
                .sum::<f64>()
                + bias
        };
        let numbers = || row.iter().copied().map(f64::from);
        let distances = numbers().zip(&self.means).map(|(x, mean)| x - mean);
        let parts = distances
            .zip(weights)
            .map(|(distance, weight)| distance * weight);
        Ok(Explanation {
            output,
            scale: match model.manifest.task {
                Task::Classification => "logit",
                _ => "value",
            },
            value: sum(&mut numbers()),
            base_value: sum(&mut self.means.iter().copied()),
            contributions: self.columns.by_field(parts),
            passages: None,
            standard_errors: None,
            method: "linear",
            permutations: 0,
        })
    }
}

/// Trees that take the prepared row without further steps.
#[derive(Debug)]
pub(super) struct OfTrees {
    trees: Trees,
    /// The background's rows.
    rows: Vec<Vec<f32>>,
    columns: Columns,
}

impl OfTrees {
    /// None where the graph is not just an ensemble of trees, or where its trees do not answer as
    /// the runtime does.
    fn new(
        model: &Model,
        graph: &[u8],
        background: &OfAnswers,
    ) -> Result<Option<Self>, ExplainError> {
        let (Network::Onnx { .. }, Some(fields)) =
            (&model.manifest.network, model.manifest.order())
        else {
            return Ok(None);
        };
        let columns = Columns::new(&model.manifest, fields);
        let width = background.answers[0].len();
        let Some(trees) = onnx::read(graph, columns.field.len(), width) else {
            return Ok(None);
        };
        let rows = rows(model, &background.instances)?;
        let agree = rows.iter().zip(&background.answers).all(|(row, expected)| {
            let found = trees.answer(&trees.ensemble.evaluate(row));
            let near = |(found, expected): (&f64, &f32)| {
                (found - f64::from(*expected)).abs() <= TREE_TOLERANCE * found.abs().max(1.0)
            };
            row.len() == columns.field.len() && found.iter().zip(expected).all(near)
        });
        Ok(agree.then_some(Self {
            trees,
            rows,
            columns,
        }))
    }

    /// Explains one output, from the trees. An error where the instance cannot be prepared or the
    /// client has gone.
    pub fn explain(
        &self,
        model: &Model,
        question: &Question<'_>,
        output: usize,
        effort: &mut impl Effort,
    ) -> Result<Explanation, ExplainError> {
        let row = &rows(model, std::slice::from_ref(question.instance))?[0];
        let ensemble = &self.trees.ensemble;
        let mut parts = vec![0.0; row.len()];
        let mut base_value = 0.0;
        for other in &self.rows {
            for (part, share) in parts.iter_mut().zip(ensemble.shares(row, other, output)) {
                *part += share;
            }
            base_value += ensemble.evaluate(other)[output];
            effort.proceed()?;
        }
        let count = self.rows.len() as f64;
        Ok(Explanation {
            output,
            scale: match self.trees.scale {
                Scale::Identity => own_scale(&model.manifest),
                Scale::Logistic | Scale::Softmax => "logit",
            },
            value: ensemble.evaluate(row)[output],
            base_value: base_value / count,
            contributions: self
                .columns
                .by_field(parts.into_iter().map(|part| part / count)),
            passages: None,
            standard_errors: None,
            method: "trees",
            permutations: 0,
        })
    }
}

/// Any model, by its answers alone.
#[derive(Debug)]
pub(super) struct OfAnswers {
    /// The manifest's inputs.
    fields: Vec<String>,
    /// The background.
    instances: Vec<Value>,
    /// The model's answers for it.
    answers: Vec<Vec<f32>>,
}

impl OfAnswers {
    fn new(model: &Model) -> Result<Self, ExplainError> {
        let background = model.manifest.background.as_ref();
        let instances = background.map_or_else(Vec::new, Background::values);
        let inputs = model.manifest.inputs.iter();
        Ok(Self {
            fields: inputs.map(|input| input.name.clone()).collect(),
            answers: answers(model, &instances)?,
            instances,
        })
    }

    /// Explains one output of any model, from predictions. An error where an instance cannot be
    /// prepared, a prediction fails or the client has gone.
    pub fn explain(
        &self,
        model: &Model,
        question: &Question<'_>,
        (output, value): (usize, f64),
        effort: &mut impl Effort,
    ) -> Result<Explanation, ExplainError> {
        let count = self.instances.len();
        let fields = self.fields.len();
        let is_exact = shapley::is_exact(fields, count);
        let shares = if is_exact {
            let mut since = 0;
            shapley::exact(fields, count, |hybrids| {
                since += hybrids.len();
                if since >= STRIDE {
                    since = 0;
                    effort.proceed()?;
                }
                self.mixed(model, question, hybrids, output)
            })?
        } else {
            let of_output = self.answers.iter().map(|answer| f64::from(answer[output]));
            let base = shapley::mean(&of_output.collect::<Vec<_>>());
            let mut sample = Sample::new(fields, question.seed);
            while sample.pairs() < Sample::LEAST || !effort.is_enough(sample.pairs()) {
                effort.proceed()?;
                let hybrids = sample.draw(count);
                sample.add(&self.mixed(model, question, &hybrids, output)?);
            }
            sample.shares(base)
        };
        Ok(Explanation::of_answers(model, output, value, shares))
    }

    /// One output for instances of which some fields are the background's.
    fn mixed(
        &self,
        model: &Model,
        question: &Question<'_>,
        hybrids: &[Hybrid],
        output: usize,
    ) -> Result<Vec<f64>, ExplainError> {
        let mix = |hybrid: &Hybrid| {
            let other = &self.instances[hybrid.background];
            let fields = self.fields.iter().zip(&hybrid.own);
            fields
                .filter_map(|(name, own)| {
                    let of = if *own { question.instance } else { other };
                    Some((name.clone(), of.get(name)?.clone()))
                })
                .collect()
        };
        let mixed: Vec<Value> = hybrids.iter().map(mix).collect();
        let answers = answers(model, &mixed)?;
        Ok(answers
            .iter()
            .map(|answer| f64::from(answer[output]))
            .collect())
    }
}
