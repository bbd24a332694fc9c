//! Checks that the parts of a manifest fit together. Reports all contradictions at once, each with
//! its place in the manifest.

mod image;
mod reference;
mod tabular;

use std::collections::BTreeSet;
use std::path::{Component, Path};

use super::{Head, Holds, Input, InputType, Kind, Manifest, Network, SCHEMA_VERSION, Step, Task};
use image::check_tensor;
use reference::check_reference;
use tabular::Tabular;

/// Most elements of one tensor, 16 Mi: what an instance may cost, also that of the warm-up.
const MAX_ELEMENTS: usize = 1 << 24;

/// Everything that is wrong with a manifest; empty for a sound one.
pub(super) fn contradictions(manifest: &Manifest) -> Vec<String> {
    let mut problems = Problems::default();
    check_head(manifest, &mut problems);
    for input in &manifest.inputs {
        check_input(input, &mut problems);
    }
    match manifest.kind {
        Kind::Tabular => Tabular::new(manifest).check(&mut problems),
        Kind::Text | Kind::TextPair => check_text(manifest, &mut problems),
        Kind::Tensor => check_tensor(manifest, &mut problems),
        Kind::Generation => check_generation(manifest, &mut problems),
    }
    check_outputs(manifest, &mut problems);
    check_reference(manifest, &mut problems);
    problems.0
}

/// Collects errors.
#[derive(Debug, Default)]
struct Problems(Vec<String>);

impl Problems {
    fn check(&mut self, holds: bool, problem: impl Into<String>) {
        if !holds {
            self.0.push(problem.into());
        }
    }
}

fn check_head(manifest: &Manifest, problems: &mut Problems) {
    problems.check(
        manifest.schema_version == SCHEMA_VERSION,
        format!("schemaVersion must be {SCHEMA_VERSION}"),
    );
    problems.check(!manifest.name.is_empty(), "name is empty");
    problems.check(!manifest.version.is_empty(), "version is empty");
    let limits = &manifest.limits;
    for (name, limit) in [
        ("maxInstances", Some(limits.max_instances)),
        ("maxTokens", limits.max_tokens),
        ("maxPromptTokens", limits.max_prompt_tokens),
    ] {
        problems.check(limit != Some(0), format!("limits.{name} is 0"));
    }
    let generates = manifest.kind == Kind::Generation;
    problems.check(
        generates || (limits.max_tokens.is_none() && limits.max_prompt_tokens.is_none()),
        "limits.maxTokens and limits.maxPromptTokens are for generation",
    );
    problems.check(
        manifest.takes_images()
            || (limits.max_image_bytes.is_none() && limits.max_image_pixels.is_none()),
        "limits.maxImageBytes and limits.maxImagePixels are for images",
    );
    problems.check(
        limits.image_bytes() >= 1024 && limits.image_pixels() >= 64,
        "limits.maxImageBytes is at least 1024, and limits.maxImagePixels at least 64",
    );
    problems.check(generates || !manifest.inputs.is_empty(), "inputs is empty");
    let names: BTreeSet<&str> = manifest.inputs.iter().map(|i| i.name.as_str()).collect();
    problems.check(
        names.len() == manifest.inputs.len(),
        "two inputs share a name",
    );
    for (index, golden) in manifest.golden.iter().enumerate() {
        problems.check(
            golden.text.is_some() == generates && golden.output.is_empty() == generates,
            format!(
                "golden[{index}]: {} is what is known of this kind's answer",
                if generates { "text" } else { "output" }
            ),
        );
    }
    for entry in &manifest.files {
        problems.check(
            is_inside(&entry.path),
            format!(
                "file {}: only relative paths without `..` are allowed",
                entry.path
            ),
        );
    }
}

/// Whether a listed path stays inside the artefact directory.
fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
}

fn check_input(input: &Input, problems: &mut Problems) {
    let at = format!("input {}", input.name);
    let mut check = |holds: bool, problem: &str| problems.check(holds, format!("{at}: {problem}"));
    check(!input.name.is_empty(), "its name is empty");
    if let (Some(min), Some(max)) = (input.min, input.max) {
        check(min <= max, "min is above max");
    }
    let [is_text, is_tensor, is_image] =
        [InputType::String, InputType::Tensor, InputType::Image].map(|kind| input.kind == kind);
    let bounded = input.min.is_some() || input.max.is_some();
    check(
        !bounded || !(is_text || is_image || input.kind == InputType::Boolean),
        "min and max are for numbers",
    );
    check(
        input.max_length.is_none() || is_text,
        "maxLength is for strings",
    );
    let axes = input.shape.iter().flatten();
    let elements = axes.fold(1, |product: usize, axis| {
        product.saturating_mul(axis.unwrap_or(1))
    });
    check(
        elements <= MAX_ELEMENTS,
        &format!("its shape has more than {MAX_ELEMENTS} elements"),
    );
    check(
        input.dtype.is_some() == is_tensor && input.shape.is_some() == is_tensor,
        "dtype and shape belong to a tensor, and a tensor needs both",
    );
    check(!is_tensor || !input.nullable, "a tensor cannot be nullable");
    check(!is_image || !input.nullable, "an image cannot be nullable");
    check(
        input.allowed.iter().all(|value| value.is_a(input.kind)),
        "allowed has a value of another type",
    );
    check(
        input.allowed.is_empty()
            || matches!(
                input.kind,
                InputType::String | InputType::Number | InputType::Integer
            ),
        "allowed is for strings and numbers",
    );
}

fn check_text(manifest: &Manifest, problems: &mut Problems) {
    let (of_kind, texts, tasks) = if manifest.kind == Kind::Text {
        let tasks: &[Task] = &[Task::SentenceEmbedding, Task::Classification];
        ("a text model", 1, tasks)
    } else {
        let tasks: &[Task] = &[Task::Reranking, Task::Classification];
        ("a text-pair model", 2, tasks)
    };
    problems.check(
        tasks.contains(&manifest.task),
        if texts == 1 {
            "a text model's task must be sentence-embedding or classification"
        } else {
            "a text-pair model's task must be reranking or classification"
        },
    );
    match &manifest.network {
        Network::Bert { head, .. } => problems.check(
            (*head == Head::None) == (manifest.task == Task::SentenceEmbedding),
            "network.head must be none for sentence-embedding, and classifier for any other task",
        ),
        network => problems.check(
            matches!(network, Network::Onnx { .. }),
            format!("{of_kind}'s architecture must be bert or onnx"),
        ),
    }
    let sound = |input: &Input| input.kind == InputType::String && !input.nullable;
    problems.check(
        manifest.inputs.len() == texts && manifest.inputs.iter().all(sound),
        format!("{of_kind} takes exactly {texts} string input(s), not nullable"),
    );
    problems.check(
        matches!(manifest.preprocessing.as_slice(), [Step::Tokenize { .. }]),
        format!("{of_kind}'s preprocessing is exactly one tokenize step"),
    );
}

fn check_generation(manifest: &Manifest, problems: &mut Problems) {
    problems.check(
        manifest.task == Task::TextGeneration,
        "a generation model's task must be text-generation",
    );
    problems.check(
        matches!(manifest.network, Network::Gguf { .. }),
        "a generation model's architecture must be gguf",
    );
    problems.check(
        manifest.inputs.is_empty() && manifest.preprocessing.is_empty(),
        "a generation model has neither inputs nor preprocessing: its tokeniser and template are \
         in the weights file",
    );
}

fn check_outputs(manifest: &Manifest, problems: &mut Problems) {
    let outputs = &manifest.outputs;
    let distinct = |names: &[String]| names.iter().collect::<BTreeSet<_>>().len() == names.len();
    let classifies = manifest.task == Task::Classification;
    problems.check(
        !classifies || outputs.labels.len() >= 2,
        "outputs.labels needs at least 2 labels",
    );
    problems.check(
        classifies || outputs.labels.is_empty(),
        "outputs.labels is for classification",
    );
    problems.check(distinct(&outputs.labels), "two labels are the same");
    let embeds = manifest.task == Task::SentenceEmbedding;
    problems.check(
        outputs.dimensions.is_some_and(|length| length > 0) == embeds,
        if embeds {
            "outputs.dimensions is missing"
        } else {
            "outputs.dimensions is for sentence-embedding"
        },
    );
    let regresses = manifest.task == Task::Regression;
    problems.check(
        regresses || (outputs.names.is_empty() && outputs.unit.is_none()),
        "outputs.names and outputs.unit are for regression",
    );
    problems.check(distinct(&outputs.names), "two outputs share a name");
    if let Network::Onnx { outputs, .. } = &manifest.network {
        problems.check(
            manifest.task == Task::Raw || outputs.len() == 1,
            "network.outputs must name the one output of the graph that is the answer",
        );
        for output in outputs {
            let fits = match manifest.task {
                Task::Classification => matches!(
                    output.holds,
                    Holds::Probabilities | Holds::Logits | Holds::Label
                ),
                Task::SentenceEmbedding => {
                    matches!(output.holds, Holds::Values | Holds::TokenVectors)
                }
                Task::Reranking => matches!(output.holds, Holds::Values | Holds::Logits),
                _ => output.holds == Holds::Values,
            };
            problems.check(
                fits,
                format!(
                    "network.outputs {}: this is no answer of the task",
                    output.name
                ),
            );
        }
    }
    check_background(manifest, problems);
}

/// What a table's own checks do not see.
fn check_background(manifest: &Manifest, problems: &mut Problems) {
    let Some(background) = &manifest.background else {
        return;
    };
    if manifest.kind == Kind::Tabular {
        problems.check(background.mask.is_none(), "background.mask is for texts");
        return;
    }
    let of_texts = matches!(manifest.kind, Kind::Text | Kind::TextPair)
        && manifest.task != Task::SentenceEmbedding;
    problems.check(
        of_texts,
        "background is for tabular models, and for classes and scores of texts",
    );
    let is_word = |mask: &String| !mask.is_empty() && !mask.contains(char::is_whitespace);
    problems.check(
        background.mask.as_ref().is_some_and(is_word)
            && background.means.is_empty()
            && background.instances.is_empty(),
        "the background of texts is background.mask alone, a token without white space",
    );
}
