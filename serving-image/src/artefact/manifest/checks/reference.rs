//! Checks of the distributions of training.

use super::Problems;
use crate::artefact::manifest::{Distribution, InputType, Manifest, Task};

/// Most bounds between the bins of a reference distribution: what its series may cost a Prometheus.
const MAX_EDGES: usize = 11;

pub(super) fn check_reference(manifest: &Manifest, problems: &mut Problems) {
    let Some(reference) = &manifest.reference else {
        return;
    };
    for (name, distribution) in &reference.inputs {
        let at = format!("reference.inputs.{name}");
        let input = manifest.input(name);
        problems.check(input.is_some(), format!("{at} is not an input"));
        problems.check(
            input.is_none_or(|input| input.kind != InputType::Image),
            format!("{at}: nothing is counted of an image"),
        );
        let numeric = input.is_some_and(|input| input.kind != InputType::String);
        problems.check(
            numeric || matches!(distribution, Distribution::Categories { .. }),
            format!("{at}: a string has no edges"),
        );
        check_distribution(&at, distribution, problems);
    }
    if let Some(distribution) = &reference.outputs {
        let at = "reference.outputs";
        let fits = match distribution {
            Distribution::Categories { shares } => shares
                .keys()
                .all(|label| manifest.outputs.labels.contains(label)),
            Distribution::Bins { .. } => manifest.task == Task::Regression,
        };
        problems.check(
            fits,
            format!("{at}: needs the shares of the labels (classification) or bins (regression)"),
        );
        check_distribution(at, distribution, problems);
    }
}

fn check_distribution(at: &str, distribution: &Distribution, problems: &mut Problems) {
    let (shares, whole): (Vec<f64>, _) = match distribution {
        Distribution::Bins { edges, shares } => {
            problems.check(
                edges.len() <= MAX_EDGES && edges.windows(2).all(|pair| pair[0] < pair[1]),
                format!("{at}: edges must be at most {MAX_EDGES} and rise"),
            );
            problems.check(
                shares.len() == edges.len() + 1,
                format!("{at}: shares must be one more than edges"),
            );
            (shares.clone(), true)
        }
        Distribution::Categories { shares } => (shares.values().copied().collect(), false),
    };
    let sum: f64 = shares.iter().sum();
    let sound = shares.iter().all(|share| (0.0..=1.0).contains(share))
        && sum < 1.001
        && (!whole || sum > 0.999);
    problems.check(
        sound,
        format!("{at}: shares are from 0 to 1, and their sum is 1"),
    );
}
