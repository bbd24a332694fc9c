//! Resizing, equal to Pillow's (4 to 12) to the bit: weights in fixed point, first along the rows,
//! then along the columns. Pillow 13 begins with the columns where that is less work, and some
//! levels are then other by one.
//!
//! Models are trained on what Pillow makes of pictures; a resizer that rounds otherwise is off by a
//! level here and there. Unlike Pillow this one computes only the part that is wanted, and keeps no
//! picture between the two passes: the row that was made last is added to each row of the result
//! that it is a part of. What it takes is the result's size, and the weights, which are at most 24
//! bytes for each pixel of a side.

use std::ops::Range;

use super::Picture;
use crate::artefact::Filter;

/// Bits behind the point: 32 less those of a level and two for sums beyond it.
const PRECISION: u32 = 22;

/// One half, which is added before the bits behind the point are cut off.
const HALF: i32 = 1 << (PRECISION - 1);

impl Picture {
    /// The part of `columns` and `rows` of what the picture is when it has been brought to `width`
    /// × `height`, by a filter that is stretched where that is smaller, if `antialias`.
    #[must_use]
    pub fn resized(
        &self,
        (width, height): (usize, usize),
        columns: Range<usize>,
        rows: Range<usize>,
        filter: Filter,
        antialias: bool,
    ) -> Self {
        let (wide, high) = (columns.len(), rows.len());
        let columns = Axis::new(self.width, width, columns, (filter, antialias));
        let rows = Axis::new(self.height, height, rows, (filter, antialias));
        let levels = match self.channels {
            1 => resample::<1>(self, &columns, &rows),
            _ => resample::<3>(self, &columns, &rows),
        };
        Self {
            width: wide,
            height: high,
            channels: self.channels,
            levels,
        }
    }
}

/// How the places on one axis of the result are made of those of the original.
struct Axis {
    /// For each place of the result.
    taps: Vec<Taps>,
    weights: Vec<i32>,
}

/// The original's places that one of the result is made of.
struct Taps {
    /// The first of them.
    first: usize,
    /// Their weights' places.
    weights: Range<usize>,
}

impl Taps {
    /// One after the last place of the original.
    fn end(&self) -> usize {
        self.first + self.weights.len()
    }
}

impl Axis {
    /// From `from` places to `to`, of which the `wanted` ones.
    fn new(
        from: usize,
        to: usize,
        wanted: Range<usize>,
        (filter, antialias): (Filter, bool),
    ) -> Self {
        let scale = from as f64 / to as f64;
        let stretch = if antialias { scale.max(1.0) } else { 1.0 };
        let support = support(filter) * stretch;
        let shrink = 1.0 / stretch; // multiplied by, as Pillow does
        let mut axis = Self {
            taps: Vec::with_capacity(wanted.len()),
            weights: Vec::with_capacity(wanted.len() * (2 * support.ceil() as usize + 1)),
        };
        let mut exact = Vec::new();
        for place in wanted {
            let center = (place as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            exact.clear();
            exact.extend((first..end).map(|tap| {
                let distance = (tap as f64 - center + 0.5) * shrink;
                weight(filter, distance)
            }));
            let sum: f64 = exact.iter().sum();
            let start = axis.weights.len();
            // Rust's and C's conversion cut off what is behind the point, towards 0.
            let fixed = |weight: &f64| {
                let weight = if sum == 0.0 { *weight } else { weight / sum };
                (weight * f64::from(1 << PRECISION) + 0.5_f64.copysign(weight)) as i32
            };
            axis.weights.extend(exact.iter().map(fixed));
            axis.taps.push(Taps {
                first,
                weights: start..axis.weights.len(),
            });
        }
        axis
    }

    fn weights(&self, taps: &Taps) -> &[i32] {
        &self.weights[taps.weights.clone()]
    }
}

/// How far from its middle a filter reaches, in pixels.
fn support(filter: Filter) -> f64 {
    match filter {
        Filter::Bilinear => 1.0,
        Filter::Bicubic => 2.0,
        Filter::Lanczos => 3.0,
    }
}

fn weight(filter: Filter, distance: f64) -> f64 {
    let x = distance.abs();
    match filter {
        Filter::Bilinear => (1.0 - x).max(0.0),
        Filter::Bicubic => {
            const A: f64 = -0.5;
            if x < 1.0 {
                ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
            } else if x < 2.0 {
                (((x - 5.0) * x + 8.0) * x - 4.0) * A
            } else {
                0.0
            }
        }
        Filter::Lanczos if x < 3.0 => sinc(x) * sinc(x / 3.0),
        Filter::Lanczos => 0.0,
    }
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x == 0.0 { 1.0 } else { x.sin() / x }
}

fn resample<const CHANNELS: usize>(picture: &Picture, columns: &Axis, rows: &Axis) -> Vec<u8> {
    let length = columns.taps.len() * CHANNELS;
    let mut line = vec![0; length];
    let mut sums = vec![HALF; rows.taps.len() * length];
    // Rows of the result before this one are complete.
    let mut open = 0;
    let sources = picture.levels.chunks_exact(picture.width * CHANNELS);
    for (y, source) in sources.enumerate() {
        while rows.taps.get(open).is_some_and(|taps| taps.end() <= y) {
            open += 1;
        }
        let parts = rows.taps[open..].iter().take_while(|taps| taps.first <= y);
        let mut parts = parts
            .zip(sums[open * length..].chunks_exact_mut(length))
            .peekable();
        if parts.peek().is_some() {
            along_row::<CHANNELS>(source, columns, &mut line);
        }
        for (taps, sum) in parts {
            let weight = rows.weights(taps)[y - taps.first];
            for (sum, level) in sum.iter_mut().zip(&line) {
                *sum += i32::from(*level) * weight;
            }
        }
    }
    sums.into_iter().map(level).collect()
}

fn along_row<const CHANNELS: usize>(source: &[u8], columns: &Axis, line: &mut [u8]) {
    let (source, _) = source.as_chunks::<CHANNELS>();
    let (line, _) = line.as_chunks_mut::<CHANNELS>();
    for (taps, pixel) in columns.taps.iter().zip(line) {
        let mut sums = [HALF; CHANNELS];
        let weights = columns.weights(taps);
        for (weight, levels) in weights.iter().zip(&source[taps.first..]) {
            for (sum, level) in sums.iter_mut().zip(levels) {
                *sum += i32::from(*level) * weight;
            }
        }
        *pixel = sums.map(level);
    }
}

/// The level of a sum, within what a level can be.
fn level(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}
