//! The labels that a classifier inside a graph knows (`classlabels_*` of `ai.onnx.ml`), against
//! those of the manifest: an answer under another label is wrong in a way that no later check sees.

use ort::value::{Outlet, TensorElementType, ValueType};
use prost::Message as _;

use super::OnnxError;
use crate::artefact::{Holds, Manifest, Network, Task};
use crate::model::graph::{Attributes, Graph, ModelProto};

/// Labels that an error lists; of more, it tells how many there are.
const MAX_LISTED: usize = 20;

/// What leaves labels, and the order of columns, as they are.
const TRANSPARENT: [&str; 8] = [
    "Cast",
    "Flatten",
    "Identity",
    "Normalizer",
    "Reshape",
    "Softmax",
    "Squeeze",
    "Unsqueeze",
];

/// The labels of a classifier, in its order.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    Texts(Vec<String>),
    /// Numbers of classes, which stand for places among the manifest's labels.
    Numbers(Vec<i64>),
}

/// Holds the labels behind the graph's answer to the manifest's. A graph that does not say its
/// labels passes.
pub(super) fn check(
    bytes: &[u8],
    manifest: &Manifest,
    outlets: &[Outlet],
) -> Result<(), OnnxError> {
    let Network::Onnx { outputs, .. } = &manifest.network else {
        return Ok(());
    };
    let ([output], Task::Classification) = (outputs.as_slice(), manifest.task) else {
        return Ok(());
    };
    let graph = ModelProto::decode(bytes).ok().and_then(|model| model.graph);
    let outlet = outlets.iter().find(|outlet| outlet.name() == output.name);
    let (Some(graph), Some(outlet)) = (graph, outlet) else {
        return Ok(());
    };
    let Some(known) = behind(&graph, &output.name) else {
        return Ok(());
    };
    let by_name = matches!(outlet.dtype(), ValueType::Sequence(_))
        || outlet.dtype().tensor_type() == Some(TensorElementType::String);
    contradiction(&known, output.holds, by_name, &manifest.outputs.labels).map_or(
        Ok(()),
        |problem| {
            Err(OnnxError::Binding(format!(
                "output {}: {problem}",
                output.name
            )))
        },
    )
}

/// The labels of the classifier whose answer an output is, where nothing in between changes it.
fn behind(graph: &Graph, output: &str) -> Option<Known> {
    let mut name = output;
    // At most so many steps, should the graph be a circle.
    for _ in &graph.node {
        let gives = |given: &String| given == name;
        let node = graph
            .node
            .iter()
            .find(|node| node.output.iter().any(gives))?;
        let of = Attributes(node);
        let texts = of.texts("classlabels_strings");
        if !texts.is_empty() {
            let text = |text: &Vec<u8>| String::from_utf8_lossy(text).into_owned();
            return Some(Known::Texts(texts.iter().map(text).collect()));
        }
        // Linear classifiers and support vector machines have the shorter name.
        for attribute in ["classlabels_int64s", "classlabels_ints"] {
            let numbers = of.ints(attribute);
            if !numbers.is_empty() {
                return Some(Known::Numbers(numbers.to_vec()));
            }
        }
        if !TRANSPARENT.contains(&node.op_type.as_str()) {
            return None;
        }
        name = node.input.first()?;
    }
    None
}

/// How the graph's labels contradict the manifest's; `by_name` where the answer itself has labels
/// as texts, or maps.
fn contradiction(known: &Known, holds: Holds, by_name: bool, labels: &[String]) -> Option<String> {
    let sorted = |labels: &[String]| {
        let mut labels = labels.to_vec();
        labels.sort();
        labels
    };
    match known {
        Known::Texts(texts) if by_name => (sorted(texts) != sorted(labels)).then(|| {
            let (graph, manifest) = (list(texts), list(labels));
            format!("the graph's labels are {graph}, but the manifest's {manifest}")
        }),
        // Texts that became numbers on the way are not known.
        Known::Texts(_) if holds == Holds::Label => None,
        Known::Texts(texts) => (texts != labels).then(|| {
            let (graph, manifest) = (list(texts), list(labels));
            format!(
                "the graph's labels in the order of its numbers are {graph}, but the \
                     manifest's {manifest}"
            )
        }),
        Known::Numbers(numbers) => {
            let mut places = numbers.clone();
            places.sort_unstable();
            // Only the label itself is taken for a place; probabilities are in the order of the
            // numbers.
            let are_places =
                holds != Holds::Label || (0..).zip(&places).all(|(place, number)| place == *number);
            (places.len() != labels.len() || !are_places).then(|| {
                let (graph, manifest) = (list(numbers), list(labels));
                format!(
                    "the graph's labels are the numbers {graph}, but the manifest's, which \
                         they are to be the places of from 0 on, {manifest}"
                )
            })
        }
    }
}

fn list<T: ToString>(labels: &[T]) -> String {
    let listed = labels.iter().take(MAX_LISTED).map(ToString::to_string);
    let listed = listed.collect::<Vec<_>>().join(", ");
    if labels.len() > MAX_LISTED {
        format!("{listed}, … ({})", labels.len())
    } else {
        listed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::graph::{Attribute, NodeProto};

    fn node(operator: &str, input: &str, output: &str, attribute: Vec<Attribute>) -> NodeProto {
        NodeProto {
            input: vec![input.into()],
            output: vec!["other".into(), output.into()],
            op_type: operator.into(),
            attribute,
        }
    }

    fn texts(labels: &[&str]) -> Attribute {
        Attribute {
            name: "classlabels_strings".into(),
            strings: labels
                .iter()
                .map(|label| label.as_bytes().to_vec())
                .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn labels_are_found_behind_what_leaves_them_as_they_are() {
        let graph = |between: &str| Graph {
            node: vec![
                node(between, "scores", "Y", Vec::new()),
                node("SVMClassifier", "X", "scores", vec![texts(&["no", "yes"])]),
                node("Identity", "circle", "circle", Vec::new()),
            ],
            input: Vec::new(),
        };
        let found = Some(Known::Texts(vec!["no".into(), "yes".into()]));
        assert_eq!(behind(&graph("Normalizer"), "Y"), found);
        assert_eq!(behind(&graph("Normalizer"), "scores"), found);
        assert_eq!(behind(&graph("ArgMax"), "Y"), None);
        assert_eq!(behind(&graph("Cast"), "circle"), None);
        assert_eq!(behind(&graph("Cast"), "X"), None);
    }

    #[test]
    fn a_contradiction_names_both_lists() {
        let owned = |labels: &[&str]| {
            labels
                .iter()
                .map(|label| (*label).to_owned())
                .collect::<Vec<_>>()
        };
        let found = |known: Known, holds, by_name, labels: &[&str]| {
            contradiction(&known, holds, by_name, &owned(labels))
        };
        let no_yes = || Known::Texts(owned(&["no", "yes"]));
        let (label, probabilities) = (Holds::Label, Holds::Probabilities);
        for (known, holds, by_name, labels) in [
            (no_yes(), label, true, &["yes", "no"][..]),
            (no_yes(), label, false, &["a", "b"]),
            (no_yes(), probabilities, false, &["no", "yes"]),
            (no_yes(), probabilities, true, &["yes", "no"]),
            (Known::Numbers(vec![0, 1]), label, false, &["a", "b"]),
            (
                Known::Numbers(vec![3, 7]),
                probabilities,
                false,
                &["3", "7"],
            ),
        ] {
            assert_eq!(found(known, holds, by_name, labels), None, "{labels:?}");
        }
        for (known, holds, by_name, labels, words) in [
            (
                no_yes(),
                label,
                true,
                &["no", "maybe"][..],
                "are no, yes, but the manifest's no, maybe",
            ),
            (
                no_yes(),
                label,
                true,
                &["no", "yes", "maybe"],
                "no, yes, but the manifest's no, yes, maybe",
            ),
            (
                no_yes(),
                probabilities,
                true,
                &["no"],
                "are no, yes, but the manifest's no",
            ),
            (
                no_yes(),
                probabilities,
                false,
                &["yes", "no"],
                "order of its numbers are no, yes, but the manifest's yes, no",
            ),
            (
                Known::Numbers(vec![3, 7]),
                label,
                false,
                &["3", "7"],
                "the numbers 3, 7, but the manifest's",
            ),
            (
                Known::Numbers(vec![0, 1, 2]),
                probabilities,
                false,
                &["a", "b"],
                "numbers 0, 1, 2",
            ),
            (
                Known::Numbers((0..30).collect()),
                label,
                false,
                &["a"],
                "18, 19, … (30)",
            ),
        ] {
            let found = found(known, holds, by_name, labels).unwrap_or_default();
            assert!(found.contains(words), "{found:?}, not {words:?}");
        }
    }
}
