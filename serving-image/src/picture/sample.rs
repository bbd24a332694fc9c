//! Generated pictures, for the requests of `bench` and for the warm-up.

use std::io::Cursor;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use image::{ImageFormat, Rgb, RgbImage};

/// A JPEG in base64, three quarters as high as it is wide. `random` gives numbers from 0 to 1.
pub fn sample(width: u32, mut random: impl FnMut() -> f64) -> String {
    let height = (width * 3 / 4).max(1);
    let corners: [[f64; 3]; 4] = std::array::from_fn(|_| std::array::from_fn(|_| random() * 255.0));
    let slope = random() * 8.0;
    let picture = RgbImage::from_fn(width, height, |x, y| {
        let (right, down) = (
            f64::from(x) / f64::from(width),
            f64::from(y) / f64::from(height),
        );
        // A colour in each corner, and waves across them: neither flat nor noise, as photographs
        // are.
        let wave = 30.0 * (40.0 * (right * right + slope * down)).sin();
        Rgb(std::array::from_fn(|channel| {
            let at = |corner: usize| corners[corner][channel];
            let above = at(0) * (1.0 - right) + at(1) * right;
            let below = at(2) * (1.0 - right) + at(3) * right;
            (above * (1.0 - down) + below * down + wave).clamp(0.0, 255.0) as u8
        }))
    });
    let mut file = Cursor::new(Vec::new());
    // Writing a picture of sound size to memory does not fail; if it did, the text would be refused
    // like any other.
    let _ = picture.write_to(&mut file, ImageFormat::Jpeg);
    BASE64_STANDARD.encode(file.into_inner())
}
