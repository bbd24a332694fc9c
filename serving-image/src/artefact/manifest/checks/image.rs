//! Checks of arrays and pictures, and of the `image` step.

use std::collections::BTreeSet;

use super::{MAX_ELEMENTS, Problems};
use crate::artefact::manifest::{
    Channels, Dtype, Filter, ImageDtype, ImageStep, Input, InputType, Manifest, Mode, Network,
    Orientation, Resize, Step, Task,
};

pub(super) fn check_tensor(manifest: &Manifest, problems: &mut Problems) {
    problems.check(
        matches!(
            manifest.task,
            Task::Classification | Task::Regression | Task::Raw
        ),
        "a tensor model's task must be classification, regression or raw",
    );
    problems.check(
        matches!(manifest.network, Network::Onnx { .. }),
        "a tensor model's architecture must be onnx",
    );
    let mut transformed = BTreeSet::new();
    for (index, step) in manifest.preprocessing.iter().enumerate() {
        let at = format!("preprocessing[{index}]");
        let Step::Image(step) = step else {
            problems.check(false, format!("{at}: {} is not for tensors", step.name()));
            continue;
        };
        problems.check(
            transformed.insert(step.input.as_str()),
            format!("{at}: a second step for {}", step.input),
        );
        check_step(&at, step, manifest.input(&step.input), problems);
    }
    for input in &manifest.inputs {
        let name = input.name.as_str();
        problems.check(
            matches!(input.kind, InputType::Tensor | InputType::Image),
            format!("input {name}: a tensor model takes tensors and images only"),
        );
        problems.check(
            input.kind != InputType::Image || transformed.contains(name),
            format!("input {name}: no image step says what becomes of the picture"),
        );
    }
}

fn check_step(at: &str, step: &ImageStep, input: Option<&Input>, problems: &mut Problems) {
    let name = &step.input;
    problems.check(
        step.std.iter().all(|divisor| *divisor != 0.0),
        format!("{at}: a std is 0"),
    );
    let is_scaled = step.dtype == ImageDtype::Float32;
    problems.check(
        !is_scaled || step.rescale.is_some(),
        format!("{at}: rescale is missing, the factor for each level"),
    );
    let of_each = |channels| step.mean.len() == channels && step.std.len() == channels;
    if input.is_some_and(|input| input.kind == InputType::Image) {
        let channels = step.channels.count();
        if is_scaled {
            problems.check(
                of_each(channels),
                format!("{at}: needs a mean and a std for each of {channels} channel(s)"),
            );
        } else {
            check_levels(at, step, problems);
        }
        match &step.resize {
            Some(resize) => check_resize(at, resize, channels, problems),
            None => problems.check(
                false,
                format!("{at}: an image needs resize, the size that the network takes"),
            ),
        }
        return;
    }
    problems.check(
        step.resize.is_none()
            && step.channels == Channels::default()
            && step.orientation == Orientation::default(),
        format!("{at}: resize, channels and orientation are for images, which {name} is not"),
    );
    problems.check(
        is_scaled,
        format!(
            "{at}: dtype is for images: a tensor of uint8 goes into the graph as it is, \
                 without a step"
        ),
    );
    let channels = input.and_then(|input| match input.shape.as_deref() {
        Some([_, _, Some(channels)]) if input.dtype != Some(Dtype::Bool) => Some(*channels),
        _ => None,
    });
    problems.check(
        !is_scaled || channels.is_some_and(of_each),
        format!(
            "{at}: {name} must be a tensor of numbers of height × width × channels, with a mean \
             and a std for each channel, or an image"
        ),
    );
}

/// Of a picture whose levels go into the graph as they are.
fn check_levels(at: &str, step: &ImageStep, problems: &mut Problems) {
    for (field, is_there) in [
        ("rescale", step.rescale.is_some()),
        ("mean", !step.mean.is_empty()),
        ("std", !step.std.is_empty()),
    ] {
        problems.check(
            !is_there,
            format!(
                "{at}: {field} is for float32: with dtype uint8 the levels stay as they are; \
                     leave out {field}, or dtype"
            ),
        );
    }
    let fill = step.resize.iter().flat_map(|resize| &resize.fill);
    problems.check(
        fill.clone().all(|level| level.fract() == 0.0),
        format!("{at}: resize: a level of fill is a whole number where dtype is uint8"),
    );
}

fn check_resize(at: &str, resize: &Resize, channels: usize, problems: &mut Problems) {
    let mut check = |holds: bool, problem: &str| {
        problems.check(holds, format!("{at}: resize: {problem}"));
    };
    let elements = resize
        .width
        .saturating_mul(resize.height)
        .saturating_mul(channels);
    check(
        (1..=MAX_ELEMENTS).contains(&elements),
        &format!("width × height × channels is from 1 to {MAX_ELEMENTS}"),
    );
    check(
        resize.shortest_edge.is_none() || resize.mode == Mode::Crop,
        "shortestEdge is for crop",
    );
    check(
        resize
            .shortest_edge
            .is_none_or(|edge| (resize.width.max(resize.height)..=MAX_ELEMENTS).contains(&edge)),
        &format!("shortestEdge is from the longer one of width and height to {MAX_ELEMENTS}"),
    );
    check(
        resize.antialias || resize.filter == Filter::Bilinear,
        "without antialias the filter is bilinear",
    );
    check(
        resize.fill.is_empty() || matches!(resize.mode, Mode::Pad | Mode::Line),
        "fill is for pad and line",
    );
    check(
        resize.fill.is_empty() || resize.fill.len() == channels,
        "fill needs a level for each channel",
    );
    check(
        resize
            .fill
            .iter()
            .all(|level| (0.0..=255.0).contains(level)),
        "a level of fill is from 0 to 255",
    );
}
