//! Exact Shapley values of decision trees.
//!
//! For one instance and one background instance a tree's answer is one leaf, whichever fields are
//! whose: at a node where both go the same way nothing is decided, elsewhere the node's feature
//! decides. So each leaf that can be reached needs some features to be the instance's and some to
//! be the background's, and pays each of them by the number of the others (interventional TreeSHAP;
//! Lundberg et al. 2020, algorithm 3).

/// A tree's node, by its index in the tree; the root is 0.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// Goes one way or the other.
    Split {
        /// Index in the prepared row.
        feature: usize,
        /// What the feature is compared with, in 32 bits, as the runtime does.
        threshold: f32,
        /// The comparison.
        rule: Rule,
        /// Where a missing value (NaN) goes: to `then` if true.
        missing_holds: bool,
        /// Next node where the comparison holds.
        then: usize,
        /// Next node where it does not.
        otherwise: usize,
    },
    /// Adds to outputs: pairs of output and weight.
    Leaf(Vec<(usize, f64)>),
}

/// How a node compares; the names are ONNX's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    LessOrEqual,
    Less,
    GreaterOrEqual,
    Greater,
    Equal,
    NotEqual,
}

impl Rule {
    fn holds(self, value: f32, threshold: f32) -> bool {
        match self {
            Self::LessOrEqual => value <= threshold,
            Self::Less => value < threshold,
            Self::GreaterOrEqual => value >= threshold,
            Self::Greater => value > threshold,
            #[expect(clippy::float_cmp, reason = "ONNX's BRANCH_EQ is exact")]
            Self::Equal => value == threshold,
            #[expect(clippy::float_cmp, reason = "ONNX's BRANCH_NEQ is exact")]
            Self::NotEqual => value != threshold,
        }
    }
}

/// Deepest tree that is read; one level is one call of the walk.
const MAX_DEPTH: usize = 256;

/// One tree. Its nodes are checked by [`Tree::new`]: every way from the root ends in a leaf.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tree(Vec<Node>);

/// The sum of several trees and a constant, before any transformation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ensemble {
    /// The trees.
    pub trees: Vec<Tree>,
    /// Added to each output.
    pub base: Vec<f64>,
}

impl Tree {
    /// A tree of these nodes, the root first; none if a node is missing, shared, below itself or
    /// more than 256 levels down, or if a feature or output is out of range.
    pub fn new(nodes: Vec<Node>, features: usize, outputs: usize) -> Option<Self> {
        let mut seen = vec![false; nodes.len()];
        let mut open = vec![(0, 0)];
        while let Some((index, depth)) = open.pop() {
            if std::mem::replace(seen.get_mut(index)?, true) || depth > MAX_DEPTH {
                return None;
            }
            match &nodes[index] {
                Node::Split {
                    feature,
                    then,
                    otherwise,
                    ..
                } => {
                    (*feature < features).then_some(())?;
                    open.extend([(*then, depth + 1), (*otherwise, depth + 1)]);
                }
                Node::Leaf(weights) => weights
                    .iter()
                    .all(|(output, _)| *output < outputs)
                    .then_some(())?,
            }
        }
        Some(Self(nodes))
    }

    /// Where `row` goes at a split.
    fn next(node: &Node, row: &[f32]) -> Option<usize> {
        match node {
            Node::Leaf(_) => None,
            Node::Split {
                feature,
                threshold,
                rule,
                missing_holds,
                then,
                otherwise,
            } => {
                let value = row[*feature];
                let holds = if value.is_nan() {
                    *missing_holds
                } else {
                    rule.holds(value, *threshold)
                };
                Some(if holds { *then } else { *otherwise })
            }
        }
    }
}

impl Ensemble {
    /// Divides all that the trees add, not the constants: the mean of the trees instead of their
    /// sum.
    pub fn divide_by(&mut self, count: f64) {
        self.change_leaves(|weights| weights.iter_mut().for_each(|(_, weight)| *weight /= count));
    }

    /// Two classes of which only the second has a sum: the first has what is missing to 1.
    pub fn mirror(&mut self) {
        self.base[0] = 1.0 - self.base[1];
        self.change_leaves(|weights| {
            let first: f64 = weights.iter().map(|(_, weight)| -weight).sum();
            weights.push((0, first));
        });
    }

    fn change_leaves(&mut self, change: impl Fn(&mut Vec<(usize, f64)>)) {
        for node in self.trees.iter_mut().flat_map(|Tree(nodes)| nodes) {
            if let Node::Leaf(weights) = node {
                change(weights);
            }
        }
    }

    /// The sum of what the trees answer, for each output.
    pub fn evaluate(&self, row: &[f32]) -> Vec<f64> {
        let mut sum = self.base.clone();
        for Tree(nodes) in &self.trees {
            let mut node = &nodes[0];
            while let Some(next) = Tree::next(node, row) {
                node = &nodes[next];
            }
            if let Node::Leaf(weights) = node {
                for (output, weight) in weights {
                    sum[*output] += weight;
                }
            }
        }
        sum
    }

    /// Each feature's value for one output, against one background row: they add up to the
    /// difference of the two answers.
    pub fn shares(&self, row: &[f32], background: &[f32], output: usize) -> Vec<f64> {
        let mut walk = Walk {
            row,
            background,
            output,
            owner: vec![Owner::Neither; row.len()],
            path: Vec::new(),
            shares: vec![0.0; row.len()],
        };
        for tree in &self.trees {
            walk.below(&tree.0, 0);
        }
        walk.shares
    }
}

/// Whose feature must be, for the walk to be where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Neither,
    Instance,
    Background,
}

struct Walk<'a> {
    row: &'a [f32],
    background: &'a [f32],
    output: usize,
    owner: Vec<Owner>,
    /// Features that have an owner.
    path: Vec<usize>,
    shares: Vec<f64>,
}

impl Walk<'_> {
    fn below(&mut self, nodes: &[Node], index: usize) {
        let node = &nodes[index];
        let (Some(own), Some(other)) = (
            Tree::next(node, self.row),
            Tree::next(node, self.background),
        ) else {
            return self.pay(node);
        };
        let Node::Split { feature, .. } = node else {
            return;
        };
        if own == other {
            return self.below(nodes, own);
        }
        match self.owner[*feature] {
            Owner::Instance => self.below(nodes, own),
            Owner::Background => self.below(nodes, other),
            Owner::Neither => {
                self.path.push(*feature);
                for (owner, next) in [(Owner::Instance, own), (Owner::Background, other)] {
                    self.owner[*feature] = owner;
                    self.below(nodes, next);
                }
                self.owner[*feature] = Owner::Neither;
                self.path.pop();
            }
        }
    }

    /// A leaf that is reached if `a` features are the instance's and `b` the background's is worth
    /// `(a − 1)! b! / (a + b)!` to each of the former, and costs each of the latter `a! (b − 1)! /
    /// (a + b)!`.
    fn pay(&mut self, leaf: &Node) {
        let Node::Leaf(weights) = leaf else { return };
        let of_output = weights.iter().filter(|(output, _)| *output == self.output);
        let worth: f64 = of_output.map(|(_, weight)| weight).sum();
        let ours = self
            .path
            .iter()
            .filter(|feature| self.owner[**feature] == Owner::Instance)
            .count();
        let theirs = self.path.len() - ours;
        // (a − 1)! b! / (a + b)! = 1 / (a · C(a + b, a))
        let ways = binomial(ours + theirs, ours);
        for feature in &self.path {
            self.shares[*feature] += match self.owner[*feature] {
                Owner::Instance => worth / (ours as f64 * ways),
                _ => -worth / (theirs as f64 * ways),
            };
        }
    }
}

fn binomial(of: usize, choose: usize) -> f64 {
    (0..choose).fold(1.0, |product, index| {
        product * (of - index) as f64 / (index + 1) as f64
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::super::shapley::{self, Hybrid};
    use super::*;

    fn split(feature: usize, threshold: f32, then: usize, otherwise: usize) -> Node {
        Node::Split {
            feature,
            threshold,
            rule: Rule::LessOrEqual,
            missing_holds: false,
            then,
            otherwise,
        }
    }

    /// A full tree of that depth, features, thresholds and leaves drawn.
    fn tree(depth: u32, features: usize) -> impl Strategy<Value = Tree> {
        let splits = (1usize << depth) - 1;
        let split_values = prop::collection::vec((0..features, -1.0..1.0f32), splits);
        let leaves = prop::collection::vec(-2.0..2.0f64, splits + 1);
        (split_values, leaves).prop_map(move |(values, leaves)| {
            let splits_of = values.iter().enumerate();
            let inner = splits_of.map(|(index, (feature, threshold))| {
                split(*feature, *threshold, 2 * index + 1, 2 * index + 2)
            });
            let leaves = leaves.iter().map(|leaf| Node::Leaf(vec![(0, *leaf)]));
            Tree::new(inner.chain(leaves).collect(), features, 1).unwrap()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// The walk finds what trying all coalitions finds, also where a feature decides twice on
        /// one way down.
        #[test]
        fn the_values_are_those_of_all_coalitions(
            trees in prop::collection::vec(tree(4, 5), 1..4),
            row in prop::collection::vec(-1.0..1.0f32, 5),
            background in prop::collection::vec(-1.0..1.0f32, 5),
        ) {
            let ensemble = Ensemble { trees, base: vec![0.25] };
            let answer = |hybrids: &[Hybrid]| -> Result<Vec<f64>, Infallible> {
                let mixed = |hybrid: &Hybrid| {
                    let field = |field: usize| {
                        if hybrid.own[field] { row[field] } else { background[field] }
                    };
                    ensemble.evaluate(&(0..5).map(field).collect::<Vec<_>>())[0]
                };
                Ok(hybrids.iter().map(mixed).collect())
            };
            let Ok(expected) = shapley::exact(5, 1, answer);
            let found = ensemble.shares(&row, &background, 0);
            for (found, expected) in found.iter().zip(&expected.values) {
                prop_assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
            }
        }
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        let leaf = || Node::Leaf(vec![(0, 1.0)]);
        assert!(Tree::new(vec![split(0, 0.0, 1, 2), leaf(), leaf()], 1, 1).is_some());
        for nodes in [
            vec![],
            vec![split(0, 0.0, 1, 2), leaf()],
            vec![split(0, 0.0, 1, 1), leaf()],
            vec![split(0, 0.0, 0, 1), leaf()],
            vec![split(1, 0.0, 1, 2), leaf(), leaf()],
            vec![Node::Leaf(vec![(1, 1.0)])],
        ] {
            assert!(Tree::new(nodes.clone(), 1, 1).is_none(), "{nodes:?}");
        }
    }

    #[test]
    fn a_missing_value_goes_where_the_node_says() {
        let mut root = split(0, 0.0, 1, 2);
        let leaves = [Node::Leaf(vec![(0, 1.0)]), Node::Leaf(vec![(0, 2.0)])];
        for (goes, expected) in [(true, 1.0), (false, 2.0)] {
            if let Node::Split { missing_holds, .. } = &mut root {
                *missing_holds = goes;
            }
            let nodes = [vec![root.clone()], leaves.to_vec()].concat();
            let ensemble = Ensemble {
                trees: vec![Tree::new(nodes, 1, 1).unwrap()],
                base: vec![0.0],
            };
            assert_eq!(ensemble.evaluate(&[f32::NAN]), [expected]);
        }
    }
}
