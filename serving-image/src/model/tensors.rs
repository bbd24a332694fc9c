//! Weights by name.

use candle_core::safetensors::{Load as _, SliceSafetensors};
use candle_core::{DType, Device, Error, Result, Tensor};
use safetensors::Dtype;

/// Where a network's weights come from.
///
/// Each is read when it is asked for, so that an engine can pack it and let go of it: with all of
/// them at once, MiniLM takes 30 MiB more while it is loaded.
pub(super) trait Tensors {
    /// The tensor as stored. A missing name is an error.
    fn stored(&self, name: &str) -> Result<Tensor>;

    /// Whether there is one of that name.
    fn contains(&self, name: &str) -> bool;

    /// The tensor as 32-bit floats, or an error that names it.
    fn tensor(&self, name: &str) -> Result<Tensor> {
        if !self.contains(name) {
            return Err(Error::Msg(format!("there is no tensor {name}")));
        }
        self.stored(name)?.to_dtype(DType::F32)
    }

    /// The tensor's shape, and its numbers, row after row.
    fn numbers(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        numbers(&self.tensor(name)?)
    }
}

fn numbers(tensor: &Tensor) -> Result<(Vec<usize>, Vec<f32>)> {
    Ok((tensor.dims().to_vec(), tensor.flatten_all()?.to_vec1()?))
}

/// Of a safetensors file.
impl Tensors for SliceSafetensors<'_> {
    fn stored(&self, name: &str) -> Result<Tensor> {
        self.get(name)?.load(&Device::Cpu)
    }

    fn contains(&self, name: &str) -> bool {
        self.get(name).is_ok()
    }

    fn numbers(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        match self.get(name) {
            // No tensor between: it would be one copy more.
            Ok(stored) if stored.dtype() == Dtype::F32 => {
                let bytes = stored.data().as_chunks().0.iter();
                let numbers = bytes.map(|bytes| f32::from_le_bytes(*bytes));
                Ok((stored.shape().to_vec(), numbers.collect()))
            }
            _ => numbers(&self.tensor(name)?),
        }
    }
}

/// Made up by a test.
#[cfg(test)]
impl Tensors for std::collections::HashMap<String, Tensor> {
    fn stored(&self, name: &str) -> Result<Tensor> {
        Ok(self[name].clone())
    }

    fn contains(&self, name: &str) -> bool {
        self.contains_key(name)
    }
}
