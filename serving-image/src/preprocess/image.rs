//! The `image` step: turns a picture, or a tensor of levels, into an array.

use std::ops::Range;

use serde_json::Value;

use crate::array::{Array, Elements};
use crate::artefact::{Channels, ImageDtype, ImageStep, Layout, Limits, Mode, Orientation, Resize};
use crate::picture::{Picture, Reading, Refused};

/// An `image` step, resolved.
#[derive(Debug)]
pub(crate) struct Image {
    step: ImageStep,
    reading: Reading,
}

impl Image {
    pub(crate) fn new(step: &ImageStep, limits: &Limits) -> Self {
        Self {
            step: step.clone(),
            reading: Reading {
                max_bytes: limits.image_bytes(),
                max_pixels: limits.image_pixels(),
                grey: step.channels == Channels::Grey,
                upright: step.orientation == Orientation::Exif,
            },
        }
    }

    /// The array of a picture in base64, or what is expected.
    pub(crate) fn read(&self, value: &Value) -> Result<Array, String> {
        let text = value.as_str().ok_or(Refused::NotBase64);
        let picture = text.and_then(|text| Picture::from_base64(text, self.reading));
        let picture = picture.map_err(|refused| refused.to_string())?;
        let Some(resize) = &self.step.resize else {
            return Err("nothing: the manifest has no size for pictures".into());
        };
        let place = Placement::new(resize, picture.width, picture.height);
        let (columns, rows) = (place.columns(resize), place.rows(resize));
        let part = picture.resized(
            (place.width, place.height),
            columns,
            rows,
            resize.filter,
            resize.antialias,
        );
        let black = vec![0.0; part.channels];
        let fill = if resize.fill.is_empty() {
            &black
        } else {
            &resize.fill
        };
        let level = |channel: usize, y: usize, x: usize| {
            let (x, y) = (x.wrapping_sub(place.x), y.wrapping_sub(place.y));
            if x >= part.width || y >= part.height {
                return fill[channel];
            }
            let channel = match self.step.channels {
                Channels::Bgr => 2 - channel,
                Channels::Rgb | Channels::Grey => channel,
            };
            part.levels[(y * part.width + x) * part.channels + channel].into()
        };
        let size = [resize.height, resize.width, part.channels];
        Ok(match self.step.dtype {
            ImageDtype::Float32 => self.scaled(size, level),
            // Whole numbers from 0 to 255 all of them, those of fill by the manifest's check.
            ImageDtype::Uint8 => {
                let (shape, levels) = self.lay_out(size, |c, y, x| level(c, y, x) as u8);
                Array {
                    shape,
                    elements: Elements::Uint8(levels),
                }
            }
        })
    }

    /// Of a tensor of height × width × channels.
    pub(super) fn transform(&self, image: &Array) -> Array {
        let levels = image.elements.to_f32();
        let size = [image.shape[0], image.shape[1], image.shape[2]];
        let [_, width, channels] = size;
        let level = |channel, y, x| f64::from(levels[(y * width + x) * channels + channel]);
        self.scaled(size, level)
    }

    /// The scaled levels; `level` is asked for channel, row and column.
    fn scaled(&self, size: [usize; 3], level: impl Fn(usize, usize, usize) -> f64) -> Array {
        let ImageStep { mean, std, .. } = &self.step;
        let rescale = self.step.rescale.unwrap_or(1.0);
        let (shape, values) = self.lay_out(size, |channel, y, x| {
            ((level(channel, y, x) * rescale - mean[channel]) / std[channel]) as f32
        });
        Array {
            shape,
            elements: Elements::Float32(values),
        }
    }

    /// Numbers of height × width × channels in the step's layout, with the shape that they have in
    /// it; `number` is asked for channel, row and column.
    fn lay_out<T>(
        &self,
        size: [usize; 3],
        number: impl Fn(usize, usize, usize) -> T,
    ) -> (Vec<usize>, Vec<T>) {
        let [height, width, channels] = size;
        let mut numbers = Vec::with_capacity(channels * height * width);
        match self.step.layout {
            Layout::ChannelsFirst => {
                for channel in 0..channels {
                    for y in 0..height {
                        numbers.extend((0..width).map(|x| number(channel, y, x)));
                    }
                }
            }
            Layout::ChannelsLast => {
                for y in 0..height {
                    for x in 0..width {
                        numbers.extend((0..channels).map(|channel| number(channel, y, x)));
                    }
                }
            }
        }
        (self.step.layout.shape(size).to_vec(), numbers)
    }
}

/// The size that a picture is brought to, and where in the result it is.
#[derive(Debug, PartialEq, Eq)]
struct Placement {
    width: usize,
    height: usize,
    /// Columns that are cut off at its left.
    left: usize,
    /// Rows that are cut off above it.
    top: usize,
    /// Columns of the result at its left.
    x: usize,
    /// Rows of the result above it.
    y: usize,
}

impl Placement {
    /// Rounded as Pillow, torchvision and PaddleOCR do it, each in its way.
    fn new(resize: &Resize, width: usize, height: usize) -> Self {
        let (wide, high) = (resize.width, resize.height);
        let mut place = Self {
            width: wide,
            height: high,
            left: 0,
            top: 0,
            x: 0,
            y: 0,
        };
        let (across, down) = (width as f64, height as f64);
        match resize.mode {
            Mode::Exact => {}
            Mode::Crop => {
                let shortest = resize.shortest_edge.unwrap_or(wide.max(high));
                let longest = |long: usize, short: usize| shortest.saturating_mul(long) / short;
                (place.width, place.height) = if width <= height {
                    (shortest, longest(height, width))
                } else {
                    (longest(width, height), shortest)
                };
                place.left = half(place.width - wide);
                place.top = half(place.height - high);
            }
            Mode::Pad => {
                let (own, wanted) = (across / down, wide as f64 / high as f64);
                if own > wanted {
                    place.height = round(down / across * wide as f64).clamp(1, high);
                } else if own < wanted {
                    place.width = round(across / down * high as f64).clamp(1, wide);
                }
                place.x = half(wide - place.width);
                place.y = half(high - place.height);
            }
            Mode::Line => {
                let width = (high as f64 * (across / down)).ceil();
                place.width = (width as usize).clamp(1, wide);
            }
        }
        place
    }

    fn columns(&self, resize: &Resize) -> Range<usize> {
        self.left..self.left + self.width.min(resize.width)
    }

    fn rows(&self, resize: &Resize) -> Range<usize> {
        self.top..self.top + self.height.min(resize.height)
    }
}

/// As Python rounds: a half to the even neighbour.
fn round(number: f64) -> usize {
    number.round_ties_even() as usize
}

fn half(number: usize) -> usize {
    round(number as f64 / 2.0)
}
