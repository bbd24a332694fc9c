//! Named arrays of numbers, with the transform of images.

use serde_json::Value;

use super::errors::{FieldErrors, Location};
use super::field::{Field, read_object};
use crate::array::{Array, Elements};
use crate::artefact::{Dtype, Manifest, Step};

/// The arrays of a tensor model.
#[derive(Debug)]
pub(super) struct Tensors {
    pub(super) fields: Vec<Field>,
    /// For each input, what turns its image into channels.
    images: Vec<Option<Image>>,
}

/// `(x · rescale − mean) / std`, channel by channel.
#[derive(Debug, Clone)]
struct Image {
    rescale: f64,
    mean: Vec<f64>,
    std: Vec<f64>,
}

impl Tensors {
    pub(super) fn new(manifest: &Manifest) -> Self {
        let image = |name: &str| {
            manifest.preprocessing.iter().find_map(|step| match step {
                Step::Image {
                    input,
                    rescale,
                    mean,
                    std,
                } if input == name => Some(Image {
                    rescale: *rescale,
                    mean: mean.clone(),
                    std: std.clone(),
                }),
                _ => None,
            })
        };
        let fields = Field::all(manifest);
        let images = fields
            .iter()
            .map(|field| image(&field.input.name))
            .collect();
        Self { fields, images }
    }

    /// The arrays of every instance that has no error, in the order of the inputs.
    pub(super) fn prepare(
        &self,
        instances: &[Value],
        location: Location,
        errors: &mut FieldErrors,
    ) -> Vec<Vec<Array>> {
        let mut prepared = Vec::with_capacity(instances.len());
        for (index, instance) in instances.iter().enumerate() {
            let mut arrays = Vec::with_capacity(self.fields.len());
            let pointer = || location.pointer(index);
            read_object(&self.fields, instance, pointer, errors, |field, value| {
                let array = value.and_then(|value| read(field, value));
                let required = if value.is_none() { " (required)" } else { "" };
                arrays.push(array.ok_or_else(|| format!("{}{required}", field.expected))?);
                Ok(())
            });
            let images = self.images.iter().zip(arrays);
            prepared.push(
                images
                    .map(|(image, array)| match image {
                        Some(image) => image.transform(&array),
                        None => array,
                    })
                    .collect(),
            );
        }
        prepared
    }
}

/// The value as an array of the input's type and shape, or none.
fn read(field: &Field, value: &Value) -> Option<Array> {
    let dtype = field.input.dtype?;
    let mut reader = Reader {
        field,
        dtype,
        shape: field.input.shape.clone()?,
        elements: Elements::empty(dtype),
    };
    reader.read(0, value)?;
    Some(Array {
        // An axis of any length inside one of length 0 has not been seen.
        shape: reader.shape.iter().map(|axis| axis.unwrap_or(0)).collect(),
        elements: reader.elements,
    })
}

/// Reads nested arrays into a flat one.
struct Reader<'a> {
    field: &'a Field,
    dtype: Dtype,
    /// An axis of any length gets that of the first array on it, which all others then must have.
    shape: Vec<Option<usize>>,
    elements: Elements,
}

impl Reader<'_> {
    fn read(&mut self, axis: usize, value: &Value) -> Option<()> {
        if axis == self.shape.len() {
            let number = self.number(value)?;
            self.elements.push(number);
            return Some(());
        }
        let Value::Array(values) = value else {
            return None;
        };
        if *self.shape[axis].get_or_insert(values.len()) != values.len() {
            return None;
        }
        values
            .iter()
            .try_for_each(|value| self.read(axis + 1, value))
    }

    fn number(&self, value: &Value) -> Option<f64> {
        if self.dtype == Dtype::Bool {
            return value.as_bool().map(|truth| f64::from(u8::from(truth)));
        }
        let number = value.as_f64()?;
        let fits = match self.dtype.range() {
            Some((min, max)) => number.fract() == 0.0 && (min..=max).contains(&number),
            // A double beyond the largest float would become infinite.
            None => self.dtype == Dtype::Float64 || (number as f32).is_finite(),
        };
        (fits && self.field.is_in_range(number)).then_some(number)
    }
}

impl Image {
    /// Height × width × channels to channels × height × width.
    fn transform(&self, image: &Array) -> Array {
        let pixels = image.elements.to_f32();
        let channels = self.mean.len();
        let mut planes = Vec::with_capacity(pixels.len());
        for channel in 0..channels {
            let (mean, std) = (self.mean[channel], self.std[channel]);
            let plane = pixels.iter().skip(channel).step_by(channels);
            planes.extend(plane.map(|x| ((f64::from(*x) * self.rescale - mean) / std) as f32));
        }
        Array {
            shape: vec![channels, image.shape[0], image.shape[1]],
            elements: Elements::Float32(planes),
        }
    }
}
