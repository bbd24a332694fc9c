//! Dense layers on rows of a table.
//!
//! Many rows lie in the lanes of registers, and four outputs are summed at a time; of few, the
//! lanes are one row's outputs. Either way an output is its bias, plus the products in the order of
//! the inputs, by the same operations: a row's answer has the same bits alone and in a batch.

#[cfg(test)]
mod tests;

use pulp::{Arch, Simd, WithSimd};

use crate::math::{exp_or_zero, logistic, multiply_add, registers, registers_mut, tanh};
use crate::{Aligned, Machine};

/// Outputs that are summed together for rows in the lanes: with 3 registers of rows, 12 sums hide
/// what a sum has to wait for.
const TILE: usize = 4;

/// Registers of rows, at most.
const VECTORS: usize = 3;

/// Numbers for which no buffer is allocated: enough for one row of most tables.
const SMALL: usize = 256;

/// What is applied to each output of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// `1 / (1 + exp(−x))`
    Logistic,
    /// The number, or 0 if it is less.
    Relu,
    /// The hyperbolic tangent.
    Tanh,
}

/// `σ(W x + b)`
#[derive(Debug)]
pub struct Layer {
    inputs: usize,
    outputs: usize,
    /// For every register of outputs the bias, then the weights of each input; zeros where there
    /// are fewer outputs.
    panels: Aligned,
    /// Outputs of a panel.
    width: usize,
    activation: Activation,
}

/// Layers, one after the other, and softmax after the last if wanted.
#[derive(Debug)]
pub struct Perceptron {
    layers: Vec<Layer>,
    softmax: bool,
}

/// Outputs of a panel: a register of them, and whole tiles.
#[inline(always)]
fn panel_width(lanes: usize) -> usize {
    lanes.max(TILE)
}

impl Layer {
    /// Packs a row-major matrix of outputs × inputs, with a bias for each output.
    ///
    /// # Panics
    /// Where the matrix has not as many rows as there are biases.
    pub fn new(matrix: &[f32], bias: &[f32], activation: Activation) -> Self {
        let outputs = bias.len();
        let inputs = matrix.len() / outputs.max(1);
        assert_eq!(matrix.len(), outputs * inputs, "the matrix's length");
        let width = panel_width(Machine::detect().lanes);
        let mut panels = Aligned::lasting(outputs.next_multiple_of(width) * (inputs + 1));
        let rows = (0..outputs).map(|output| &matrix[output * inputs..][..inputs]);
        for (output, (row, bias)) in rows.zip(bias).enumerate() {
            let panel = &mut panels[output / width * width * (inputs + 1)..];
            let column = panel.iter_mut().skip(output % width).step_by(width);
            for (place, value) in column.zip(std::iter::once(bias).chain(row)) {
                *place = *value;
            }
        }
        Self {
            inputs,
            outputs,
            panels,
            width,
            activation,
        }
    }

    /// Numbers that it takes.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Numbers that it gives.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The bias of an output, then the weight of each input.
    pub fn coefficients(&self, output: usize) -> impl Iterator<Item = f32> {
        let panel = &self.panels[output / self.width * self.width * (self.inputs + 1)..];
        let column = panel.iter().skip(output % self.width).step_by(self.width);
        column.take(self.inputs + 1).copied()
    }

    /// Each panel's biases, and its weights input by input.
    #[inline(always)]
    fn panels<S: Simd>(&self) -> impl Iterator<Item = (&[f32], &[f32])> {
        let width = panel_width(S::F32_LANES);
        let panels = self.panels.chunks_exact(width * (self.inputs + 1));
        panels.map(move |panel| panel.split_at(width))
    }

    /// Rows in the lanes of `V` registers: `x` and `y` hold them input by input, and output by
    /// output.
    #[inline(always)]
    fn many<S: Simd, const V: usize>(&self, simd: S, x: &[[S::f32s; V]], y: &mut [[S::f32s; V]]) {
        let width = panel_width(S::F32_LANES);
        let mut left = &mut y[..self.outputs.next_multiple_of(TILE)];
        for (bias, weights) in self.panels::<S>() {
            let (outputs, rest) = left.split_at_mut(left.len().min(width));
            left = rest;
            let (biases, weights) = (bias.as_chunks::<TILE>().0, weights.as_chunks::<TILE>().0);
            let tiles = outputs.as_chunks_mut::<TILE>().0.iter_mut();
            for (tile, (y, bias)) in tiles.zip(biases).enumerate() {
                let sums = bias.map(|bias| [simd.splat_f32s(bias); V]);
                let weights = weights.chunks_exact(width / TILE).map(|tiles| &tiles[tile]);
                *y = multiply_add(simd, weights, x, sums);
            }
        }
        let outputs = y[..self.outputs].as_flattened_mut();
        self.activation.apply(simd, outputs);
    }

    /// One row: its outputs lie in the lanes of `y`. Only where a panel is a register.
    #[inline(always)]
    fn one<S: Simd>(&self, simd: S, x: &[f32], y: &mut [f32]) {
        let y = &mut registers_mut::<S, 1>(y)[..self.outputs.div_ceil(S::F32_LANES)];
        for (y, (bias, weights)) in y.iter_mut().zip(self.panels::<S>()) {
            let mut sum = registers::<S, 1>(bias)[0][0];
            for ([weights], x) in registers::<S, 1>(weights).iter().zip(x) {
                sum = simd.mul_add_e_f32s(*weights, simd.splat_f32s(*x), sum);
            }
            *y = [sum];
        }
        self.activation.apply(simd, y.as_flattened_mut());
    }
}

impl Activation {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, values: &mut [S::f32s]) {
        match self {
            Self::Identity => {}
            Self::Logistic => {
                for x in values {
                    *x = logistic(simd, *x);
                }
            }
            Self::Relu => {
                let zero = simd.splat_f32s(0.0);
                for x in values {
                    // Not `max`: NaN is to stay NaN, on all machines.
                    *x = simd.select_f32s(simd.less_than_f32s(*x, zero), zero, *x);
                }
            }
            Self::Tanh => {
                for x in values {
                    *x = tanh(simd, *x);
                }
            }
        }
    }
}

impl Perceptron {
    /// A network of these layers; with `softmax`, the outputs of the last become probabilities.
    ///
    /// # Panics
    /// Where there is no layer, or one takes another number of inputs than the one before gives.
    pub fn new(layers: Vec<Layer>, softmax: bool) -> Self {
        assert!(!layers.is_empty(), "no layer");
        let mut pairs = layers.iter().zip(&layers[1..]);
        assert!(pairs.all(|(before, after)| before.outputs == after.inputs));
        Self { layers, softmax }
    }

    /// Its layers.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Numbers in a row.
    pub fn inputs(&self) -> usize {
        self.layers.first().map_or(0, Layer::inputs)
    }

    /// Numbers in an answer.
    pub fn outputs(&self) -> usize {
        self.layers.last().map_or(0, Layer::outputs)
    }

    /// The answers to these rows, one after the other.
    ///
    /// # Panics
    /// Where `rows` are no whole rows.
    pub fn run(&self, rows: &[f32]) -> Vec<f32> {
        let inputs = self.inputs().max(1);
        assert_eq!(rows.len() % inputs, 0, "the rows' length");
        let length = rows.len() / inputs * self.outputs();
        // Not `vec![0.0; …]`: glibc's calloc takes 30 ns more than malloc and a few zeros.
        let mut answers = Vec::with_capacity(length);
        answers.resize(length, 0.0);
        Arch::new().dispatch(Run {
            network: self,
            rows,
            answers: &mut answers,
        });
        answers
    }

    /// Numbers that the widest layer takes or gives, in whole panels.
    #[inline(always)]
    fn widest<S: Simd>(&self) -> usize {
        let outputs = self.layers.iter().map(Layer::outputs).max();
        let widest = self.inputs().max(outputs.unwrap_or(0));
        widest.next_multiple_of(panel_width(S::F32_LANES))
    }
}

struct Run<'a> {
    network: &'a Perceptron,
    rows: &'a [f32],
    answers: &'a mut [f32],
}

impl WithSimd for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (inputs, outputs) = (self.network.inputs(), self.network.outputs());
        let full = VECTORS * S::F32_LANES;
        let mut room = self.network.widest::<S>();
        if !is_few::<S>(self.rows.len() / inputs) {
            room *= full;
        }
        let (mut small, mut large);
        let buffers: &mut [f32] = if 2 * room <= SMALL {
            small = [0.0; SMALL];
            &mut small
        } else {
            large = Aligned::zeros(2 * room);
            &mut large
        };
        let (x, y) = buffers.split_at_mut(room);
        let chunks = self.rows.chunks(full * inputs);
        for (rows, answers) in chunks.zip(self.answers.chunks_mut(full * outputs)) {
            let count = rows.len() / inputs;
            let chunk = Run {
                network: self.network,
                rows,
                answers,
            };
            match count.div_ceil(S::F32_LANES) {
                _ if is_few::<S>(count) => chunk.one_by_one(simd, x, &mut y[..room]),
                1 => chunk.together::<S, 1>(simd, x, y),
                2 => chunk.together::<S, 2>(simd, x, y),
                _ => chunk.together::<S, VECTORS>(simd, x, y),
            }
        }
    }
}

/// Whether rows one by one take less time than so many lanes without a row: never with 4 lanes or
/// fewer.
#[inline(always)]
fn is_few<S: Simd>(rows: usize) -> bool {
    rows < S::F32_LANES / 4
}

impl Run<'_> {
    /// Rows in the lanes of `V` registers.
    #[inline(always)]
    fn together<'a, S: Simd, const V: usize>(self, simd: S, x: &'a mut [f32], y: &'a mut [f32]) {
        let (inputs, outputs) = (self.network.inputs(), self.network.outputs());
        let width = V * S::F32_LANES;
        for (input, lanes) in x.chunks_exact_mut(width).take(inputs).enumerate() {
            for (lane, row) in lanes.iter_mut().zip(self.rows.chunks_exact(inputs)) {
                *lane = row[input];
            }
        }
        let (mut x, mut y) = (registers_mut::<S, V>(x), registers_mut::<S, V>(y));
        for layer in &self.network.layers {
            layer.many(simd, x, y);
            std::mem::swap(&mut x, &mut y);
        }
        if self.network.softmax {
            softmax_of_lanes(simd, &mut x[..outputs]);
        }
        let x: &[f32] = pulp::bytemuck::cast_slice(x.as_flattened());
        for (lane, answer) in self.answers.chunks_exact_mut(outputs).enumerate() {
            for (value, lanes) in answer.iter_mut().zip(x.chunks_exact(width)) {
                *value = lanes[lane];
            }
        }
    }

    #[inline(always)]
    fn one_by_one<'a, S: Simd>(self, simd: S, mut x: &'a mut [f32], mut y: &'a mut [f32]) {
        let (inputs, outputs) = (self.network.inputs(), self.network.outputs());
        let rows = self.rows.chunks_exact(inputs);
        for (row, answer) in rows.zip(self.answers.chunks_exact_mut(outputs)) {
            x[..inputs].copy_from_slice(row);
            for layer in &self.network.layers {
                layer.one(simd, x, y);
                std::mem::swap(&mut x, &mut y);
            }
            if self.network.softmax {
                softmax_of_one(simd, x, outputs);
            }
            answer.copy_from_slice(&x[..outputs]);
        }
    }
}

/// Turns the scores of each lane into probabilities.
#[inline(always)]
fn softmax_of_lanes<S: Simd, const V: usize>(simd: S, scores: &mut [[S::f32s; V]]) {
    for v in 0..V {
        let largest = simd.splat_f32s(f32::NEG_INFINITY);
        let largest = scores
            .iter()
            .fold(largest, |largest, scores| simd.max_f32s(largest, scores[v]));
        let mut sum = simd.splat_f32s(0.0);
        for scores in &mut *scores {
            scores[v] = exp_or_zero(simd, simd.sub_f32s(scores[v], largest));
            sum = simd.add_f32s(sum, scores[v]);
        }
        for scores in &mut *scores {
            scores[v] = simd.div_f32s(scores[v], sum);
        }
    }
}

/// Turns the first scores into probabilities. There is room for whole registers of them.
#[inline(always)]
fn softmax_of_one<S: Simd>(simd: S, scores: &mut [f32], count: usize) {
    let scores = &mut scores[..count.next_multiple_of(S::F32_LANES)];
    let first = scores[..count].iter().copied();
    let largest = simd.splat_f32s(first.fold(f32::NEG_INFINITY, f32::max));
    for score in S::as_mut_simd_f32s(scores).0 {
        *score = exp_or_zero(simd, simd.sub_f32s(*score, largest));
    }
    let sum = scores[..count].iter().fold(0.0, |sum, power| sum + power);
    let sum = simd.splat_f32s(sum);
    for power in S::as_mut_simd_f32s(scores).0 {
        *power = simd.div_f32s(*power, sum);
    }
}

/// The probabilities of scores: `exp(x) / Σ exp(x)`.
pub fn softmax(scores: &[f32]) -> Vec<f32> {
    struct Softmax<'a>(&'a [f32]);
    impl WithSimd for Softmax<'_> {
        type Output = Vec<f32>;
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
            let mut scores = self.0.to_vec();
            scores.resize(self.0.len().next_multiple_of(S::F32_LANES), 0.0);
            softmax_of_one(simd, &mut scores, self.0.len());
            scores.truncate(self.0.len());
            scores
        }
    }
    Arch::new().dispatch(Softmax(scores))
}
