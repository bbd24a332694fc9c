//! Pictures: from a file in base64 to levels of red, green and blue, with bounds on what that may
//! cost.
//!
//! A file says how large its picture is before it is decoded, and is refused by that: a few bytes
//! may stand for gigabytes. Metadata but the orientation, colour profiles and transparency are left
//! aside, as Pillow's `convert("RGB")` does.

#[cfg(test)]
mod fuzz_tests;
mod resize;
mod sample;
#[cfg(test)]
mod tests;

use std::io::Cursor;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use image::codecs::jpeg::JpegDecoder;
use image::codecs::png::PngDecoder;
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, GrayImage, ImageDecoder, ImageFormat, RgbImage};

use crate::compute::here;
pub use sample::sample;

/// Memory for each pixel while it is decoded: four channels of 16 bits.
const BYTES_PER_PIXEL: u64 = 8;

/// Longest side, which is also that of JPEG: the weights of resizing grow with it.
const MAX_SIDE: u32 = 65_535;

/// Levels from 0 to 255, row by row, the channels of a pixel side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels side by side; not 0.
    pub width: usize,
    /// Pixels one above the other; not 0.
    pub height: usize,
    /// 3 (red, green, blue), or 1 (brightness).
    pub channels: usize,
    /// As many as the product of the three.
    pub levels: Vec<u8>,
}

/// How a file is to be read.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Largest file, in bytes.
    pub max_bytes: usize,
    /// Most pixels, width × height.
    pub max_pixels: usize,
    /// Whether only the brightness is wanted.
    pub grey: bool,
    /// Whether it is turned as its EXIF data says.
    pub upright: bool,
}

/// Why a file is refused: what is expected instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is no text in base64.
    #[error("a JPEG or PNG picture in base64, padded, without line breaks")]
    NotBase64,
    /// The file is too long.
    #[error("a picture of at most {0} bytes")]
    Bytes(usize),
    /// It is another format, or none.
    #[error("a picture in JPEG or PNG")]
    Format,
    /// There are several pictures in one.
    #[error("a picture that is not animated")]
    Animated,
    /// The picture is too large, or empty.
    #[error("a picture of 1 to {0} pixels, no side longer than {MAX_SIDE}")]
    Pixels(usize),
    /// The file is broken, or ends early.
    #[error("a JPEG or PNG file that is whole")]
    Broken,
}

impl Picture {
    /// Reads a file in base64. An error where it is no base64, or for one of the reasons of
    /// [`Self::decode`].
    pub fn from_base64(text: &str, reading: Reading) -> Result<Self, Refused> {
        if text.len() > reading.max_bytes.div_ceil(3).saturating_mul(4) {
            return Err(Refused::Bytes(reading.max_bytes));
        }
        let file = BASE64_STANDARD.decode(text);
        Self::decode(&file.map_err(|_| Refused::NotBase64)?, reading)
    }

    /// Reads a file. An error where it is too large, of another format or damaged.
    pub fn decode(file: &[u8], reading: Reading) -> Result<Self, Refused> {
        if file.len() > reading.max_bytes {
            return Err(Refused::Bytes(reading.max_bytes));
        }
        // Decoders have panicked over broken files before.
        here(|| decode(file, reading)).unwrap_or(Err(Refused::Broken))
    }
}

fn decode(file: &[u8], reading: Reading) -> Result<Picture, Refused> {
    match image::guess_format(file) {
        Ok(ImageFormat::Jpeg) => {
            // The decoder would fill the missing part with grey.
            if !has_end(file) {
                return Err(Refused::Broken);
            }
            let decoder = JpegDecoder::new(Cursor::new(file)).map_err(|_| Refused::Broken)?;
            read(decoder, reading)
        }
        Ok(ImageFormat::Png) => {
            let mut limits = image::Limits::no_limits();
            limits.max_alloc = Some(reading.max_pixels as u64 * BYTES_PER_PIXEL);
            let decoder = PngDecoder::with_limits(Cursor::new(file), limits)
                .map_err(|_| too_large_or_broken(file, reading))?;
            if decoder.is_apng().unwrap_or(true) {
                return Err(Refused::Animated);
            }
            read(decoder, reading)
        }
        _ => Err(Refused::Format),
    }
}

/// Reading a PNG's header takes a row's memory, which may be too much already.
fn too_large_or_broken(file: &[u8], reading: Reading) -> Refused {
    let side = |at: usize| {
        let bytes: [u8; 4] = file.get(at..at + 4)?.try_into().ok()?;
        Some(u64::from(u32::from_be_bytes(bytes)))
    };
    match (side(16), side(20)) {
        (Some(width), Some(height)) if width * height > reading.max_pixels as u64 => {
            Refused::Pixels(reading.max_pixels)
        }
        _ => Refused::Broken,
    }
}

/// Whether a JPEG's last scan ends: its end is marked by bytes that no scan has inside.
fn has_end(file: &[u8]) -> bool {
    let last = |marker: [u8; 2]| file.windows(2).rposition(|pair| pair == marker);
    last([0xff, 0xda]) < last([0xff, 0xd9])
}

fn read(mut decoder: impl ImageDecoder, reading: Reading) -> Result<Picture, Refused> {
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > reading.max_pixels as u64 || width.max(height) > MAX_SIDE {
        return Err(Refused::Pixels(reading.max_pixels));
    }
    let orientation = if reading.upright {
        // EXIF data that is broken is none.
        decoder.orientation().unwrap_or(Orientation::NoTransforms)
    } else {
        Orientation::NoTransforms
    };
    let colours = decoder.color_type();
    let bytes = usize::try_from(decoder.total_bytes()).map_err(|_| Refused::Broken)?;
    let mut samples = vec![0; bytes];
    decoder
        .read_image(&mut samples)
        .map_err(|_| Refused::Broken)?;
    let levels = levels(samples, colours, reading.grey).ok_or(Refused::Broken)?;
    let image = if reading.grey {
        GrayImage::from_raw(width, height, levels).map(DynamicImage::from)
    } else {
        RgbImage::from_raw(width, height, levels).map(DynamicImage::from)
    };
    let mut image = image.ok_or(Refused::Broken)?;
    image.apply_orientation(orientation);
    Ok(Picture {
        width: image.width() as usize,
        height: image.height() as usize,
        channels: if reading.grey { 1 } else { 3 },
        levels: image.into_bytes(),
    })
}

/// Red, green and blue, or brightness alone, of samples of whatever kind, as Pillow computes them:
/// of 16 bits the upper 8.
fn levels(samples: Vec<u8>, colours: ColorType, grey: bool) -> Option<Vec<u8>> {
    use ColorType as C;
    let (channels, is_wide) = match colours {
        C::L8 => (1, false),
        C::La8 => (2, false),
        C::Rgb8 => (3, false),
        C::Rgba8 => (4, false),
        C::L16 => (1, true),
        C::La16 => (2, true),
        C::Rgb16 => (3, true),
        C::Rgba16 => (4, true),
        _ => return None,
    };
    let samples = if is_wide {
        let upper = |pair: &[u8; 2]| (u16::from_ne_bytes(*pair) >> 8) as u8;
        samples.as_chunks().0.iter().map(upper).collect()
    } else {
        samples
    };
    let pixels = samples.chunks_exact(channels);
    Some(match (grey, channels) {
        (true, 1) | (false, 3) => samples,
        (true, 2) => pixels.map(|pixel| pixel[0]).collect(),
        (true, _) => pixels.map(brightness).collect(),
        (false, 1 | 2) => pixels.flat_map(|pixel| [pixel[0]; 3]).collect(),
        (false, _) => pixels
            .flat_map(|pixel| [pixel[0], pixel[1], pixel[2]])
            .collect(),
    })
}

/// ITU-R 601-2, in 16 bits, as Pillow's.
fn brightness(pixel: &[u8]) -> u8 {
    let [red, green, blue] = [0, 1, 2].map(|channel| u32::from(pixel[channel]));
    ((red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16) as u8
}
