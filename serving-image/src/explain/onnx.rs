//! The tree ensemble inside an ONNX graph (`ai.onnx.ml`, as skl2onnx and onnxmltools write it).
//!
//! Only graphs whose trees take the prepared row itself are read: features that a graph computes
//! have no names. All other graphs are explained by their answers.

use std::collections::BTreeMap;

use prost::Message as _;

use super::tree::{Ensemble, Node, Rule, Tree};
use crate::model::graph::{Attributes, ModelProto};

/// How the ensemble's sum becomes the model's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// The sum is the answer.
    Identity,
    /// Two classes, one sum: the second class has the logistic function of it.
    Logistic,
    /// The answer is the softmax of the sums.
    Softmax,
}

/// The trees of a graph.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Trees {
    /// Their sum has one number for each output of the model; for two classes with one sum, the
    /// second's, the first is 0 (logistic) or what is missing to 1 (identity).
    pub ensemble: Ensemble,
    pub scale: Scale,
}

/// Reads the ensemble of a graph with `outputs` outputs on rows of `features` numbers; `None` if
/// the graph has other operations or is not sound.
pub(super) fn read(bytes: &[u8], features: usize, outputs: usize) -> Option<Trees> {
    let graph = ModelProto::decode(bytes).ok()?.graph?;
    let mut ensembles = graph.node.iter().filter(|node| {
        matches!(
            node.op_type.as_str(),
            "TreeEnsembleClassifier" | "TreeEnsembleRegressor"
        )
    });
    let node = ensembles.next().filter(|_| graph.input.len() == 1)?;
    let takes_the_row = node.input.first() == graph.input.first().map(|input| &input.name);
    if ensembles.next().is_some() || !takes_the_row {
        return None;
    }
    let of = Attributes(node);
    let prefix = if node.op_type == "TreeEnsembleClassifier" {
        "class"
    } else {
        "target"
    };
    let leaves = Leaves::read(&of, prefix)?;
    // With a single sum for two classes, the sum is the second class's.
    let single =
        prefix == "class" && outputs == 2 && leaves.outputs().all(|id| id == leaves.first());
    let place = |id: i64| {
        if single {
            Some(1)
        } else {
            usize::try_from(id).ok()
        }
    };
    let trees = read_trees(&of, &leaves, place, features, outputs)?;
    let scale = match of.text("post_transform").unwrap_or("NONE") {
        "NONE" => Scale::Identity,
        "LOGISTIC" if single => Scale::Logistic,
        "SOFTMAX" if !single => Scale::Softmax,
        _ => return None,
    };
    let mut base = vec![0.0; outputs];
    let given = of.floats("base_values");
    if single && !given.is_empty() {
        base[1] = f64::from(given[given.len() - 1]);
    } else if given.len() == outputs {
        base = given.iter().copied().map(f64::from).collect();
    } else if !given.is_empty() {
        return None;
    }
    let mut ensemble = Ensemble { trees, base };
    match of.text("aggregate_function").unwrap_or("SUM") {
        "SUM" => {}
        "AVERAGE" => ensemble.divide_by(ensemble.trees.len() as f64),
        _ => return None,
    }
    if single && scale == Scale::Identity {
        ensemble.mirror();
    }
    Some(Trees { ensemble, scale })
}

impl Trees {
    /// The model's answer from the ensemble's sums.
    pub fn answer(&self, sums: &[f64]) -> Vec<f64> {
        match self.scale {
            Scale::Identity => sums.to_vec(),
            Scale::Logistic => {
                let second = 1.0 / (1.0 + (-sums[1]).exp());
                vec![1.0 - second, second]
            }
            Scale::Softmax => {
                let largest = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let powers: Vec<f64> = sums.iter().map(|sum| (sum - largest).exp()).collect();
                let total: f64 = powers.iter().sum();
                powers.iter().map(|power| power / total).collect()
            }
        }
    }
}

/// What leaves add, by tree and node.
struct Leaves {
    weights: BTreeMap<(i64, i64), Vec<(i64, f64)>>,
}

impl Leaves {
    fn read(of: &Attributes<'_>, prefix: &str) -> Option<Self> {
        let list = |name: &str| of.ints(&format!("{prefix}_{name}"));
        let (trees, nodes, ids) = (list("treeids"), list("nodeids"), list("ids"));
        let values = of.floats(&format!("{prefix}_weights"));
        if [nodes.len(), ids.len(), values.len()] != [trees.len(); 3] || trees.is_empty() {
            return None;
        }
        let mut weights: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (((tree, node), id), value) in trees.iter().zip(nodes).zip(ids).zip(values) {
            let leaf = weights.entry((*tree, *node)).or_default();
            leaf.push((*id, f64::from(*value)));
        }
        Some(Self { weights })
    }

    fn outputs(&self) -> impl Iterator<Item = i64> {
        self.weights.values().flatten().map(|(id, _)| *id)
    }

    fn first(&self) -> i64 {
        self.outputs().next().unwrap_or_default()
    }
}

fn read_trees(
    of: &Attributes<'_>,
    leaves: &Leaves,
    place: impl Fn(i64) -> Option<usize>,
    features: usize,
    outputs: usize,
) -> Option<Vec<Tree>> {
    let (trees, nodes) = (of.ints("nodes_treeids"), of.ints("nodes_nodeids"));
    let (then, otherwise) = (of.ints("nodes_truenodeids"), of.ints("nodes_falsenodeids"));
    let (columns, thresholds) = (of.ints("nodes_featureids"), of.floats("nodes_values"));
    let (modes, missing) = (
        of.texts("nodes_modes"),
        of.ints("nodes_missing_value_tracks_true"),
    );
    let lengths = [nodes, then, otherwise, columns].map(<[i64]>::len);
    if lengths != [trees.len(); 4] || [thresholds.len(), modes.len()] != [trees.len(); 2] {
        return None;
    }
    // The nodes of a tree, in the order of the file: the first is the root. Ids become places in
    // that order.
    let mut by_tree: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (row, tree) in trees.iter().enumerate() {
        by_tree.entry(*tree).or_default().push(row);
    }
    by_tree
        .iter()
        .map(|(tree, rows)| {
            let places: BTreeMap<i64, usize> = rows
                .iter()
                .enumerate()
                .map(|(at, row)| (nodes[*row], at))
                .collect();
            let node = |row: &usize| {
                let row = *row;
                if modes[row] == b"LEAF" {
                    let weights = leaves.weights.get(&(*tree, nodes[row]));
                    let pairs = weights.into_iter().flatten();
                    let pairs = pairs.map(|(id, weight)| Some((place(*id)?, *weight)));
                    return Some(Node::Leaf(pairs.collect::<Option<_>>()?));
                }
                Some(Node::Split {
                    feature: usize::try_from(columns[row]).ok()?,
                    threshold: thresholds[row],
                    rule: rule(&modes[row])?,
                    missing_holds: missing.get(row).is_some_and(|tracks| *tracks != 0),
                    then: *places.get(&then[row])?,
                    otherwise: *places.get(&otherwise[row])?,
                })
            };
            Tree::new(
                rows.iter().map(node).collect::<Option<_>>()?,
                features,
                outputs,
            )
        })
        .collect()
}

fn rule(mode: &[u8]) -> Option<Rule> {
    match mode {
        b"BRANCH_LEQ" => Some(Rule::LessOrEqual),
        b"BRANCH_LT" => Some(Rule::Less),
        b"BRANCH_GTE" => Some(Rule::GreaterOrEqual),
        b"BRANCH_GT" => Some(Rule::Greater),
        b"BRANCH_EQ" => Some(Rule::Equal),
        b"BRANCH_NEQ" => Some(Rule::NotEqual),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::fuzzing::{bounded, cases};
    use crate::model::graph::{Attribute, Graph, NodeProto, ValueInfo};

    fn ints(name: &str, ints: &[i64]) -> Attribute {
        Attribute {
            name: name.into(),
            ints: ints.to_vec(),
            ..Default::default()
        }
    }

    fn floats(name: &str, floats: &[f32]) -> Attribute {
        Attribute {
            name: name.into(),
            floats: floats.to_vec(),
            ..Default::default()
        }
    }

    fn text(name: &str, text: &str) -> Attribute {
        Attribute {
            name: name.into(),
            s: text.into(),
            ..Default::default()
        }
    }

    /// One stump on the second of two features: `x[1] ≤ 0.5` adds 1, else −1, to the class of that
    /// id.
    fn stump(class: i64, transform: &str) -> ModelProto {
        let modes = ["BRANCH_LEQ", "LEAF", "LEAF"].map(|mode| mode.as_bytes().to_vec());
        let attribute = vec![
            ints("nodes_treeids", &[0, 0, 0]),
            ints("nodes_nodeids", &[0, 1, 2]),
            ints("nodes_featureids", &[1, 0, 0]),
            ints("nodes_truenodeids", &[1, 0, 0]),
            ints("nodes_falsenodeids", &[2, 0, 0]),
            floats("nodes_values", &[0.5, 0.0, 0.0]),
            Attribute {
                name: "nodes_modes".into(),
                strings: modes.to_vec(),
                ..Default::default()
            },
            ints("class_treeids", &[0, 0]),
            ints("class_nodeids", &[1, 2]),
            ints("class_ids", &[class, class]),
            floats("class_weights", &[1.0, -1.0]),
            floats("base_values", &[0.25]),
            text("post_transform", transform),
        ];
        let node = NodeProto {
            input: vec!["X".into()],
            output: vec!["Y".into()],
            op_type: "TreeEnsembleClassifier".into(),
            attribute,
        };
        ModelProto {
            graph: Some(Graph {
                node: vec![node],
                input: vec![ValueInfo { name: "X".into() }],
            }),
        }
    }

    #[test]
    fn one_sum_for_two_classes_is_the_seconds() {
        for class in [0, 1] {
            let trees = read(&stump(class, "LOGISTIC").encode_to_vec(), 2, 2).unwrap();
            assert_eq!(trees.ensemble.evaluate(&[9.0, 0.5]), [0.0, 1.25]);
            let answer = trees.answer(&trees.ensemble.evaluate(&[0.0, 0.6]));
            assert!((answer[1] - 1.0 / (1.0 + 0.75_f64.exp())).abs() < 1e-12);
            assert!((answer[0] + answer[1] - 1.0).abs() < 1e-12);
        }
        let trees = read(&stump(1, "NONE").encode_to_vec(), 2, 2).unwrap();
        assert_eq!(trees.ensemble.evaluate(&[9.0, 0.5]), [-0.25, 1.25]);
        assert_eq!(
            trees.ensemble.shares(&[0.0, 0.5], &[0.0, 0.6], 0),
            [0.0, -2.0]
        );
        assert_eq!(
            trees.ensemble.shares(&[0.0, 0.5], &[0.0, 0.6], 1),
            [0.0, 2.0]
        );
    }

    #[test]
    fn another_graph_is_not_read() {
        let changed = |change: fn(&mut Graph)| {
            let mut model = stump(1, "LOGISTIC");
            change(model.graph.as_mut().unwrap());
            read(&model.encode_to_vec(), 2, 2)
        };
        assert!(changed(|_| {}).is_some());
        assert!(changed(|graph| graph.node[0].input[0] = "scaled".into()).is_none());
        assert!(changed(|graph| graph.node.push(graph.node[0].clone())).is_none());
        assert!(changed(|graph| graph.input.push(graph.input[0].clone())).is_none());
        assert!(changed(|graph| graph.node[0].attribute.truncate(6)).is_none());
        assert!(changed(|graph| graph.node[0].attribute[2].ints[0] = 2).is_none());
        assert!(changed(|graph| graph.node[0].attribute[3].ints[0] = 0).is_none());
        assert!(read(&stump(1, "PROBIT").encode_to_vec(), 2, 2).is_none());
        assert!(read(b"no protobuf", 2, 2).is_none());
    }

    proptest! {
        #![proptest_config(cases(1_000))]

        /// Whatever a file holds, it is read or refused.
        #[test]
        fn a_broken_file_is_refused_without_a_panic(
            at in 0..4096usize, with: u8, length in 0..4096usize,
        ) {
            let mut bytes = stump(1, "LOGISTIC").encode_to_vec();
            let place = at % bytes.len();
            bytes[place] = with;
            bytes.truncate(length.max(1));
            if let Some(trees) = bounded(bytes.len(), || read(&bytes, 2, 2)) {
                prop_assert_eq!(trees.ensemble.evaluate(&[0.0, 0.0]).len(), 2);
            }
        }
    }
}
