//! The answer of a network to one instance: plain data for the modules that render, count or
//! explain it.

use crate::array::NamedArray;

/// The network's answer to one instance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prediction {
    /// Probabilities in the order of the labels, or the numbers, or the vector, or all arrays one
    /// after the other.
    pub output: Vec<f32>,
    /// The graph's own tensors (the task `raw`).
    pub arrays: Vec<NamedArray>,
    /// Tokens that were computed, special ones included (texts).
    pub tokens: usize,
    /// Whether the text was cut.
    pub truncated: bool,
}

impl Prediction {
    /// Index of the largest output: the class of a classifier.
    pub fn class(&self) -> usize {
        let largest = |best: usize, index: usize| {
            if self.output[index] > self.output[best] {
                index
            } else {
                best
            }
        };
        (0..self.output.len()).fold(0, largest)
    }
}
