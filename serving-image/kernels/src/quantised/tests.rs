#![allow(clippy::float_cmp)] // what is compared so is exact
use half::f16;

use super::machine::{Machine, Portable};
use super::product::{On, Task};
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

const FORMATS: [BlockFormat; 7] = [
    BlockFormat::Q4_0,
    BlockFormat::Q4_1,
    BlockFormat::Q5_0,
    BlockFormat::Q5_1,
    BlockFormat::Q8_0,
    BlockFormat::Q4K,
    BlockFormat::Q5K,
];

/// A matrix of any quants, with scales around 1/16 and, where there are any, offsets around −1/2;
/// and its floats.
fn matrix(format: BlockFormat, rows: usize, columns: usize) -> (Packed, Vec<f32>) {
    let large = matches!(format, BlockFormat::Q4K | BlockFormat::Q5K);
    let block = if large { 256 } else { BLOCK };
    let (scale, offset) = if large { (0.002, 0.015) } else { (0.06, -0.5) };
    let mut bytes = Vec::new();
    for numbers in noise(rows * columns / block * 256, 1).chunks_exact(256) {
        bytes.extend(f16::from_f32(scale * (1.0 + numbers[0] / 3.0)).to_le_bytes());
        let has_offset = !matches!(
            format,
            BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::Q8_0
        );
        if has_offset {
            bytes.extend(f16::from_f32(offset * (1.0 + numbers[1] / 5.0)).to_le_bytes());
        }
        let quants = format.bytes() - if has_offset { 4 } else { 2 };
        let any = |number: &f32| (number * 128.0) as i8 as u8;
        bytes.extend(numbers[2..2 + quants].iter().map(any));
    }
    let mut packed = Packed::new(format, columns);
    packed.reserve(format, rows);
    // As from a file: in pieces that end anywhere between two blocks.
    let piece = format.bytes() * 3;
    bytes
        .chunks(piece)
        .for_each(|bytes| packed.extend(format, bytes));
    assert_eq!((packed.rows(), packed.columns()), (rows, columns));
    let floats = (0..rows).flat_map(|row| {
        let mut floats = vec![0.0; columns];
        packed.dequantise_row(row, &mut floats);
        floats
    });
    let floats = floats.collect();
    (packed, floats)
}

/// All outputs: `[vector][row]`.
fn product(packed: &Packed, activations: &Activations, vectors: usize) -> Vec<Vec<f32>> {
    let mut output = vec![f32::NAN; packed.rows().next_multiple_of(GROUP) * vectors];
    packed.multiply(activations, 0, &mut output);
    by_vector(packed, &output, vectors)
}

fn by_vector(packed: &Packed, output: &[f32], vectors: usize) -> Vec<Vec<f32>> {
    let at =
        |vector: usize, row: usize| output[(row / GROUP * vectors + vector) * GROUP + row % GROUP];
    (0..vectors)
        .map(|vector| (0..packed.rows()).map(|row| at(vector, row)).collect())
        .collect()
}

#[test]
fn a_block_stands_for_the_numbers_that_ggml_says() {
    let two = f16::from_f32(2.0).to_le_bytes();
    let half = f16::from_f32(0.5).to_le_bytes();
    let mut nibbles = [0_u8; 16];
    nibbles[0] = 0xf1; // weight 0 is 1, weight 16 is 15
    let fifth = [1, 0, 0, 0x80]; // of weights 0 and 31
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
            BlockFormat::Q5_0,
            [&two[..], &fifth, &nibbles].concat(),
            [2.0, -2.0, 0.0],
        ),
        (
            BlockFormat::Q5_1,
            [&two[..], &half, &fifth, &nibbles].concat(),
            [34.5, 30.5, 32.5],
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
fn a_large_block_has_eight_scales_and_offsets_of_six_bits() {
    let two = f16::from_f32(2.0).to_le_bytes();
    let half = f16::from_f32(0.5).to_le_bytes();
    // Part 1: scale 5, offset 63. Part 6: scale 0b11_0010, offset 0b01_1001.
    let mut scales = [0_u8; 12];
    scales[1] = 5;
    scales[5] = 63;
    scales[10] = 0b1001_0010;
    scales[2] = 0b1100_0000;
    scales[6] = 0b0100_0000;
    let mut nibbles = [0_u8; 128];
    nibbles[3] = 0x70; // part 1, weight 3 is 7
    nibbles[96 + 31] = 0x09; // part 6, weight 31 is 9
    let mut fifth = [0_u8; 32];
    fifth[3] = 1 << 1;
    fifth[31] = 1 << 6;
    let head = [&two[..], &half, &scales].concat();
    let offset = [-0.5 * 63.0, -0.5 * f32::from(0b01_1001_u8)];
    let scale = [2.0 * 5.0, 2.0 * f32::from(0b11_0010_u8)];
    for (format, block, quants) in [
        (BlockFormat::Q4K, [&head[..], &nibbles].concat(), [7.0, 9.0]),
        (
            BlockFormat::Q5K,
            [&head[..], &fifth, &nibbles].concat(),
            [23.0, 25.0],
        ),
    ] {
        let mut packed = Packed::new(format, 256);
        packed.extend(format, &block);
        let mut row = [0.0; 256];
        packed.dequantise_row(0, &mut row);
        let expected = [0, 1].map(|part| scale[part] * quants[part] + offset[part]);
        assert_eq!([row[32 + 3], row[6 * 32 + 31]], expected, "{format:?}");
        assert_eq!([row[32], row[6 * 32], row[0]], [offset[0], offset[1], 0.0]);
    }
}

#[test]
fn products_are_those_of_the_floats_up_to_the_rounding_of_the_values() {
    let (rows, columns) = (37, 256); // rows fill no group
    for format in FORMATS {
        let (packed, weights) = matrix(format, rows, columns);
        for vectors in [1, 3, 4, 15] {
            let values = noise(vectors * columns, 2);
            let mut activations = Activations::default();
            activations.quantise(&values, columns);
            let found = product(&packed, &activations, vectors);
            for (vector, row) in (0..vectors).flat_map(|v| (0..rows).map(move |row| (v, row))) {
                let weights = &weights[row * columns..][..columns];
                let values = &values[vector * columns..][..columns];
                let expected: f32 = weights.iter().zip(values).map(|(w, x)| w * x).sum();
                // A value is off by 1/254 at most, and errors add up like a random walk.
                let norm = weights.iter().map(|w| w * w).sum::<f32>().sqrt();
                let found = found[vector][row];
                assert!(
                    (found - expected).abs() < 0.02 * norm,
                    "{format:?}: {found} for {expected}"
                );
            }
        }
    }
}

#[test]
fn groups_can_be_computed_apart() {
    let (packed, _) = matrix(BlockFormat::Q4_1, 40, 64);
    let mut activations = Activations::default();
    activations.quantise(&noise(3 * 64, 3), 64);
    let mut whole = vec![0.0; 48 * 3];
    packed.multiply(&activations, 0, &mut whole);
    let mut last = vec![0.0; 2 * 16 * 3];
    packed.multiply(&activations, 1, &mut last);
    assert_eq!(whole[16 * 3..], last);
    let beyond = whole[2 * 16 * 3..].chunks_exact(GROUP);
    assert!(beyond.flat_map(|outputs| &outputs[8..]).all(|x| *x == 0.0));
}

/// What a machine computes.
fn on<M: Machine>(machine: M, packed: &Packed, activations: &Activations) -> Vec<f32> {
    let mut output = vec![0.0; packed.rows().next_multiple_of(GROUP) * activations.rows];
    let task = Task {
        weights: packed,
        activations,
        first: 0,
        output: &mut output,
    };
    pulp::NullaryFnOnce::call(On(machine, task));
    output
}

#[test]
fn all_machines_agree_to_the_bit_and_a_vector_does_not_feel_its_neighbours() {
    let (rows, columns) = (18, 256);
    for format in FORMATS {
        let (packed, _) = matrix(format, rows, columns);
        let values = noise(15 * columns, 3);
        let mut all = Activations::default();
        all.quantise(&values, columns);
        let portable = on(Portable, &packed, &all);
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(machine) = pulp::x86::V3::try_new() {
                assert_eq!(on(machine, &packed, &all), portable, "{format:?}");
            }
            if let Some(machine) = pulp::x86::V4::try_new() {
                assert_eq!(on(machine, &packed, &all), portable, "{format:?}");
            }
        }
        let together = by_vector(&packed, &portable, 15);
        for (vector, together) in together.iter().enumerate() {
            let mut one = Activations::default();
            one.quantise(&values[vector * columns..][..columns], columns);
            assert_eq!(product(&packed, &one, 1)[0], *together, "{format:?}");
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
        let found = product(&packed, &activations, 1)[0][0];
        assert!((found - expected).abs() < 1e-2, "{found}");
    }
}

#[test]
fn the_largest_nibbles_do_not_overflow() {
    let mut packed = Packed::new(BlockFormat::Q4_1, BLOCK);
    let mut block = [f16::ONE.to_le_bytes(), f16::ZERO.to_le_bytes()].concat();
    block.extend([0xff; BLOCK / 2]); // 15
    packed.extend(BlockFormat::Q4_1, &block);
    for value in [1.0, -1.0] {
        let mut activations = Activations::default();
        activations.quantise(&[value; BLOCK], BLOCK);
        let found = product(&packed, &activations, 1)[0][0];
        assert!((found - value * 480.0).abs() < 1e-2, "{found}");
    }
}

#[test]
fn matrices_that_are_laid_out_alike_become_one() {
    let (mut first, floats) = matrix(BlockFormat::Q4_0, 16, 64);
    let (second, more) = matrix(BlockFormat::Q4_1, 3, 64);
    let (other, _) = matrix(BlockFormat::Q8_0, 1, 64);
    assert!(first.append(second).is_none());
    assert_eq!(first.append(other).map(|other| other.rows()), Some(1));
    assert_eq!(first.rows(), 19);
    let (after, _) = matrix(BlockFormat::Q4_0, 1, 64);
    let left = first.append(after).map(|after| after.rows());
    assert_eq!(left, Some(1), "the last group is not full");
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
