use proptest::prelude::*;

use super::*;
use crate::tests::{assert_close, numbers};

const ALL: [Activation; 4] = [
    Activation::Identity,
    Activation::Logistic,
    Activation::Relu,
    Activation::Tanh,
];

fn truth(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Identity => x,
        Activation::Logistic => 1.0 / (1.0 + libm::exp(-x)),
        Activation::Relu => x.max(0.0),
        Activation::Tanh => libm::tanh(x),
    }
}

/// A matrix of outputs × inputs, and the biases.
type Weights = (Vec<f32>, Vec<f32>);

/// Layers of these widths.
fn made_up(widths: &[usize], seed: u64) -> Vec<Weights> {
    let layer = |(index, pair): (usize, &[usize])| {
        let seed = seed ^ (index as u64) << 8;
        (numbers(pair[0] * pair[1], seed), numbers(pair[1], !seed))
    };
    widths.windows(2).enumerate().map(layer).collect()
}

fn network(weights: &[Weights], activation: Activation, softmax: bool) -> Perceptron {
    let layers = weights
        .iter()
        .map(|(matrix, bias)| Layer::new(matrix, bias, activation));
    Perceptron::new(layers.collect(), softmax)
}

/// What the network answers to a row, in 64-bit floats.
fn expected(weights: &[Weights], activation: Activation, softmax: bool, row: &[f32]) -> Vec<f64> {
    let mut x: Vec<f64> = row.iter().copied().map(f64::from).collect();
    for (matrix, bias) in weights {
        let rows = matrix.chunks(x.len()).zip(bias);
        let output = |(weights, bias): (&[f32], &f32)| {
            let products = weights.iter().zip(&x).map(|(w, x)| f64::from(*w) * x);
            truth(activation, f64::from(*bias) + products.sum::<f64>())
        };
        x = rows.map(output).collect();
    }
    if softmax {
        let sum: f64 = x.iter().map(|x| libm::exp(*x)).sum();
        for x in &mut x {
            *x = libm::exp(*x) / sum;
        }
    }
    x
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_network_is_its_formula_and_a_row_has_the_same_bits_alone_and_in_a_batch(
        widths in prop::collection::vec(1..40_usize, 2..5), count in 0..120_usize,
        activation in prop::sample::select(ALL.to_vec()), softmax: bool, seed: u64,
    ) {
        let weights = made_up(&widths, seed);
        let network = network(&weights, activation, softmax);
        let (inputs, outputs) = (widths[0], widths[widths.len() - 1]);
        prop_assert_eq!((network.inputs(), network.outputs()), (inputs, outputs));
        let rows = numbers(count * inputs, seed ^ 5);
        let answers = network.run(&rows);
        prop_assert_eq!(answers.len(), count * outputs);
        for (row, answer) in rows.chunks(inputs).zip(answers.chunks(outputs)) {
            // Sums of up to 40 numbers grow sevenfold a layer at most.
            let expected = expected(&weights, activation, softmax, row);
            assert_close(&[answer.to_vec()], &[expected], 5e-4);
            prop_assert_eq!(bits(&network.run(row)), bits(answer));
        }
        for rows in [&rows[..inputs * count.min(3)], &rows[..inputs * count.min(17)]] {
            prop_assert_eq!(bits(&network.run(rows)),
                bits(&answers[..rows.len() / inputs * outputs]));
        }
    }
}

#[test]
fn a_layer_tells_the_coefficients_that_it_was_made_of() {
    let (matrix, bias) = (numbers(37 * 5, 1), numbers(37, 2));
    let layer = Layer::new(&matrix, &bias, Activation::Identity);
    for output in 0..37 {
        let found: Vec<f32> = layer.coefficients(output).collect();
        assert_eq!(found[0].to_bits(), bias[output].to_bits());
        assert_eq!(bits(&found[1..]), bits(&matrix[output * 5..][..5]));
    }
}

#[test]
fn what_is_no_number_stays_none_and_touches_no_other_row() {
    let weights = made_up(&[3, 5, 2], 7);
    for activation in ALL {
        for softmax in [false, true] {
            for count in [2, 3, 50] {
                let network = network(&weights, activation, softmax);
                let mut rows = numbers(3 * count, 9);
                let before = network.run(&rows);
                rows[4] = f32::NAN;
                let after = network.run(&rows);
                assert!(after[2].is_nan() && after[3].is_nan(), "{activation:?}");
                assert_eq!(bits(&after[..2]), bits(&before[..2]));
                assert_eq!(bits(&after[4..]), bits(&before[4..]));
            }
        }
    }
}

#[test]
fn probabilities_of_the_least_scores_are_zero() {
    assert_eq!(softmax(&[0.0, -200.0, f32::NEG_INFINITY]), [1.0, 0.0, 0.0]);
    assert_eq!(softmax(&[3.0; 4]), [0.25; 4]);
    assert!(softmax(&[f32::INFINITY, 0.0]).iter().all(|x| x.is_nan()));
    assert!(softmax(&[]).is_empty());
}
