//! The `image` step, which turns a picture into an array of numbers.

use serde::{Deserialize, Serialize};

/// How an input is prepared. A picture is decoded, resized, and its levels are scaled, channel by
/// channel: `(level · rescale − mean) / std`; for a graph that takes bytes they stay unscaled. A
/// tensor of height × width × channels is only scaled.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageStep {
    /// The input of this step: an image, or a tensor of three axes.
    pub input: String,
    /// Whether a picture is turned as its EXIF data says, as viewers do (images). Default `exif`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub orientation: Orientation,
    /// Colours, in their order (images). Default `rgb`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub channels: Channels,
    /// The size that a picture is brought to; an image needs it, a tensor has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<Resize>,
    /// The type that the graph takes: scaled levels, or unscaled ones (images). Default `float32`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dtype: ImageDtype,
    /// Factor for each level, such as 1/255 (`float32`, which needs it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescale: Option<f64>,
    /// Subtracted, channel by channel (`float32`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mean: Vec<f64>,
    /// Divisors, channel by channel; none is zero (`float32`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub std: Vec<f64>,
    /// Where the channels are in the result. Default `channelsFirst`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub layout: Layout,
}

impl ImageStep {
    /// The shape of the array that a picture becomes; `None` for tensors, which have no size here.
    pub fn shape(&self) -> Option<[usize; 3]> {
        let Resize { width, height, .. } = *self.resize.as_ref()?;
        Some(self.layout.shape([height, width, self.channels.count()]))
    }
}

/// How a picture is resized to the size that the network takes. The levels equal those of Pillow up
/// to 12, to the bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resize {
    /// Pixels side by side.
    pub width: usize,
    /// Pixels one above the other.
    pub height: usize,
    /// How a picture of other proportions is fitted.
    pub mode: Mode,
    /// The length that the shortest edge has before the middle is cut out (`crop`). Default: the
    /// longer one of width and height.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortest_edge: Option<usize>,
    /// The level around the picture, from 0 to 255, channel by channel in the order of `channels`
    /// (`pad`, `line`). Default: black.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fill: Vec<f64>,
    /// How pixels are weighed. Default `bilinear`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub filter: Filter,
    /// Whether the filter is stretched for a smaller result, so that every pixel counts. `false`
    /// needs `bilinear` and gives OpenCV's `INTER_LINEAR`, within one level. Default true.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub antialias: bool,
}

/// How a picture is fitted whose proportions differ from those that the network takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// They change, as Pillow's `resize` does it.
    Exact,
    /// The shortest edge gets its length, then the middle is cut out, as torchvision's `Resize` and
    /// `CenterCrop` do it.
    Crop,
    /// The whole picture is in the middle, and filled around, as Pillow's `ImageOps.pad` does it.
    Pad,
    /// To the full height, as wide as keeps the proportions but no wider than the width, and filled
    /// at the right: lines of text, as PaddleOCR takes them.
    Line,
}

/// How the pixels of the original are weighed for one of the result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Filter {
    /// A triangle.
    #[default]
    Bilinear,
    /// Cubic, with a = −0.5.
    Bicubic,
    /// Three lobes of a windowed sinc.
    Lanczos,
}

/// Colours, in their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Channels {
    /// Red, green, blue.
    #[default]
    Rgb,
    /// Blue, green, red, as OpenCV reads pictures.
    Bgr,
    /// Brightness alone, as Pillow's mode `L`.
    Grey,
}

impl Channels {
    /// How many there are.
    pub fn count(self) -> usize {
        match self {
            Self::Rgb | Self::Bgr => 3,
            Self::Grey => 1,
        }
    }
}

/// Type of the numbers that an image becomes, by numpy's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageDtype {
    /// Scaled levels: PyTorch, Paddle.
    #[default]
    Float32,
    /// Unscaled levels from 0 to 255, for graphs that scale them: TensorFlow's detectors.
    Uint8,
}

/// Whether a picture is turned as its EXIF data says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Orientation {
    /// It is: a photograph stands as it was seen.
    #[default]
    Exif,
    /// It is not, as where Pillow's `Image.open` made the training data.
    AsStored,
}

/// Where the channels are in an array.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Layout {
    /// Channels × height × width: PyTorch, Paddle.
    #[default]
    ChannelsFirst,
    /// Height × width × channels: TensorFlow.
    ChannelsLast,
}

impl Layout {
    /// The shape of an array of height × width × channels that is laid out so.
    pub fn shape(self, [height, width, channels]: [usize; 3]) -> [usize; 3] {
        match self {
            Self::ChannelsFirst => [channels, height, width],
            Self::ChannelsLast => [height, width, channels],
        }
    }
}

fn yes() -> bool {
    true
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
