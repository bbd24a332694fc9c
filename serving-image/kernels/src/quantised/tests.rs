#![allow(clippy::float_cmp)] // what is compared so is exact
use super::*;

/// Numbers without a pattern, from −1 to 1, the same in every run.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

const FORMATS: [BlockFormat; 3] = [BlockFormat::Q4_0, BlockFormat::Q4_1, BlockFormat::Q8_0];

/// A matrix of any quants, with scales around 1/16 and, where there are any, offsets around −1/2; and its floats.
fn matrix(format: BlockFormat, rows: usize, columns: usize) -> (Packed, Vec<f32>) {
    let blocks = rows * columns / BLOCK;
    let numbers = noise(blocks * (BLOCK + 2), 1);
    let mut bytes = Vec::new();
    for block in numbers.chunks_exact(BLOCK + 2) {
        bytes.extend(f16::from_f32(0.06 + block[0] / 50.0).to_le_bytes());
        if format == BlockFormat::Q4_1 {
            bytes.extend(f16::from_f32(block[1] / 10.0 - 0.5).to_le_bytes());
        }
        let quants = format.bytes() - if format == BlockFormat::Q4_1 { 4 } else { 2 };
        bytes.extend(
            block[2..2 + quants]
                .iter()
                .map(|number| (number * 127.0) as i8 as u8),
        );
    }
    let mut packed = Packed::new(format, columns);
    packed.reserve(rows);
    packed.extend(format, &bytes);
    assert_eq!((packed.rows(), packed.columns()), (rows, columns));
    let floats = (0..rows).flat_map(|row| {
        let mut floats = vec![0.0; columns];
        packed.dequantise_row(row, &mut floats);
        floats
    });
    let floats = floats.collect();
    (packed, floats)
}

#[test]
fn a_block_stands_for_the_numbers_that_ggml_says() {
    let two = f16::from_f32(2.0).to_le_bytes();
    let half = f16::from_f32(0.5).to_le_bytes();
    let mut nibbles = [0_u8; 16];
    nibbles[0] = 0xf1; // weight 0 is 1, weight 16 is 15
    let mut bytes = [0_u8; 32];
    bytes[31] = 0xff; // −1
    for (format, block, expected) in [
        (
            BlockFormat::Q4_0,
            [&two[..], &nibbles].concat(),
            [-14.0, 14.0, -16.0],
        ),
        (
            BlockFormat::Q4_1,
            [&two[..], &half, &nibbles].concat(),
            [2.5, 30.5, 0.5],
        ),
        (
            BlockFormat::Q8_0,
            [&two[..], &bytes].concat(),
            [0.0, 0.0, -2.0],
        ),
    ] {
        let mut packed = Packed::new(format, BLOCK);
        packed.extend(format, &block);
        let mut row = [0.0; BLOCK];
        packed.dequantise_row(0, &mut row);
        assert_eq!([row[0], row[16], row[31]], expected, "{format:?}");
    }
}

#[test]
fn products_are_those_of_the_floats_up_to_the_rounding_of_the_values() {
    let (rows, columns) = (37, 160); // neither a multiple of a tile
    for format in FORMATS {
        let (packed, weights) = matrix(format, rows, columns);
        for vectors in [1, 3, 4, 9] {
            let values = noise(vectors * columns, 2);
            let mut activations = Activations::default();
            activations.quantise(&values, columns);
            let mut output = vec![0.0; (rows - 5) * vectors];
            packed.multiply(&activations, 5, &mut output);
            for (index, found) in output.iter().enumerate() {
                let (row, vector) = (5 + index / vectors, index % vectors);
                let weights = &weights[row * columns..][..columns];
                let values = &values[vector * columns..][..columns];
                let expected: f32 = weights.iter().zip(values).map(|(w, x)| w * x).sum();
                // A value is off by 1/254 at most, and errors add up like a random walk.
                let norm = weights.iter().map(|w| w * w).sum::<f32>().sqrt();
                assert!(
                    (found - expected).abs() < 0.02 * norm,
                    "{format:?}: {found} for {expected}"
                );
            }
        }
    }
}

#[test]
fn both_kernels_agree_and_a_vector_does_not_feel_its_neighbours() {
    let (rows, columns) = (18, 96);
    for format in FORMATS {
        let (packed, _) = matrix(format, rows, columns);
        let values = noise(7 * columns, 3);
        let mut all = Activations::default();
        all.quantise(&values, columns);
        let mut together = vec![0.0; rows * 7];
        packed.multiply(&all, 0, &mut together);
        let mut portable = vec![0.0; rows * 7];
        packed.multiply_portably(&all, 0, &mut portable);
        for vector in 0..7 {
            let mut one = Activations::default();
            one.quantise(&values[vector * columns..][..columns], columns);
            let mut alone = vec![0.0; rows];
            packed.multiply(&one, 0, &mut alone);
            for row in 0..rows {
                assert_eq!(alone[row].to_bits(), together[row * 7 + vector].to_bits());
                let difference = (alone[row] - portable[row * 7 + vector]).abs();
                assert!(difference < 1e-3, "{format:?}: {difference}");
            }
        }
    }
}

#[test]
fn the_smallest_signed_byte_does_not_overflow() {
    let mut packed = Packed::new(BlockFormat::Q8_0, BLOCK);
    let mut block = f16::ONE.to_le_bytes().to_vec();
    block.extend([0x80; BLOCK]); // −128
    packed.extend(BlockFormat::Q8_0, &block);
    for (value, expected) in [(1.0, -4096.0), (-1.0, 4096.0)] {
        let mut activations = Activations::default();
        activations.quantise(&[value; BLOCK], BLOCK);
        let mut output = [0.0];
        packed.multiply(&activations, 0, &mut output);
        assert!((output[0] - expected).abs() < 1e-2, "{}", output[0]);
    }
}

#[test]
fn matrices_of_one_width_become_one() {
    let (mut first, floats) = matrix(BlockFormat::Q4_0, 2, 64);
    let (second, more) = matrix(BlockFormat::Q4_1, 3, 64);
    let (other, _) = matrix(BlockFormat::Q8_0, 1, 64);
    assert!(first.append(second).is_none());
    assert_eq!(first.append(other).map(|other| other.rows()), Some(1));
    assert_eq!(first.rows(), 5);
    let mut row = [0.0; 64];
    for (index, expected) in floats
        .chunks_exact(64)
        .chain(more.chunks_exact(64))
        .enumerate()
    {
        first.dequantise_row(index, &mut row);
        assert_eq!(row, expected);
    }
}
