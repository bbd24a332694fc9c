//! Named arrays of numbers, and pictures, which become such.

use serde_json::Value;

use super::errors::{FieldErrors, Location};
use super::field::{Field, read_object};
use super::image::Image;
use crate::array::{Array, Elements};
use crate::artefact::{Dtype, Input, InputType, Manifest};

/// The arrays of a tensor model.
#[derive(Debug)]
pub(super) struct Tensors {
    pub(super) fields: Vec<Field>,
    /// For each input, what becomes of its image.
    images: Vec<Option<Image>>,
}

impl Tensors {
    pub(super) fn new(manifest: &Manifest) -> Self {
        let image = |input: &Input| {
            let step = manifest.image_step(&input.name)?;
            Some(Image::new(step, &manifest.limits))
        };
        Self {
            fields: Field::all(manifest),
            images: manifest.inputs.iter().map(image).collect(),
        }
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
            let mut images = self.images.iter();
            read_object(&self.fields, instance, pointer, errors, |field, value| {
                let image = images.next().and_then(Option::as_ref);
                let value = value.ok_or_else(|| format!("{} (required)", field.expected))?;
                arrays.push(array(field, image, value)?);
                Ok(())
            });
            prepared.push(arrays);
        }
        prepared
    }
}

/// The array that a value becomes, or what is expected in its place.
fn array(field: &Field, image: Option<&Image>, value: &Value) -> Result<Array, String> {
    match image {
        Some(image) if field.input.kind == InputType::Image => image.read(value),
        image => {
            let array = read(field, value).ok_or_else(|| field.expected.clone())?;
            Ok(match image {
                Some(image) => image.transform(&array),
                None => array,
            })
        }
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
