//! One weight matrix of a GGUF file, whichever way it is computed.

use std::io::Read;
use std::sync::Arc;

use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module as _, Result, Tensor};
use rayon::prelude::*;
use serin_kernels::quantised::{Activations, BlockFormat, GROUP, Packed};

use super::gguf::TensorInfo;

/// Bytes of a tensor that are in memory in the file's form while it is read into ours.
const PIECE: usize = 1 << 20;

/// Products of a weight and a value that are worth a task of their own: 1 to 3 µs. With fewer,
/// handing them out costs more than it saves.
const TASK_PRODUCTS: usize = 1 << 17;

/// A tensor as it is kept.
#[derive(Debug)]
pub enum Loaded {
    /// One number for each column: a norm's weights, or a bias.
    Vector(Vec<f32>),
    /// Rows of weights.
    Matrix(Matrix),
}

/// Rows of weights, each giving one output.
#[derive(Debug)]
pub enum Matrix {
    /// In the formats that have kernels here.
    Packed(Packed),
    /// In any other format, computed by candle.
    Candle {
        /// The weights as they were in the file.
        weights: Arc<QTensor>,
        /// How candle multiplies them.
        product: QMatMul,
    },
}

/// Vectors that are about to be multiplied with weights.
#[derive(Debug, Default)]
pub struct Input {
    columns: usize,
    values: Vec<f32>,
    activations: Activations,
}

impl Input {
    /// A copy of these rows, in both forms.
    pub fn set(&mut self, rows: &[f32], columns: usize) {
        self.columns = columns;
        self.values.clear();
        self.values.extend_from_slice(rows);
        self.activations.quantise(rows, columns);
    }

    fn rows(&self) -> usize {
        self.values.len() / self.columns
    }
}

impl Loaded {
    /// Reads a tensor of one or two dimensions from where `source` stands. An error where it has
    /// other dimensions, an unknown type or too few bytes.
    pub fn read(info: &TensorInfo, source: &mut impl Read) -> Result<Self> {
        match *info.shape.as_slice() {
            [columns] => {
                let tensor = read_whole(info, source, vec![columns])?;
                let values = tensor.dequantize(&Device::Cpu)?.to_vec1()?;
                Ok(Self::Vector(values))
            }
            [rows, columns] => match block_format(info.dtype) {
                Some(format) => read_packed(info, source, format).map(Matrix::Packed),
                None => read_whole(info, source, vec![rows, columns]).and_then(Matrix::candle),
            }
            .map(Self::Matrix),
            _ => candle_core::bail!("tensor {}: not one or two dimensions", info.name),
        }
    }
}

fn read_whole(info: &TensorInfo, source: &mut impl Read, shape: Vec<usize>) -> Result<QTensor> {
    // no more than the file has: the header's reader saw to it
    let mut bytes = vec![0; info.size as usize];
    source.read_exact(&mut bytes)?;
    qtensor_from_ggml(info.dtype, &bytes, shape, &Device::Cpu)
}

fn read_packed(info: &TensorInfo, source: &mut impl Read, format: BlockFormat) -> Result<Packed> {
    let [rows, columns] = *info.shape.as_slice() else {
        candle_core::bail!("tensor {}: not two dimensions", info.name);
    };
    let mut packed = Packed::new(format, columns);
    packed.reserve(format, rows);
    let mut piece = vec![0; PIECE / format.bytes() * format.bytes()];
    let mut left = info.size as usize;
    while left > 0 {
        let end = left.min(piece.len());
        source.read_exact(&mut piece[..end])?;
        packed.extend(format, &piece[..end]);
        left -= end;
    }
    Ok(packed)
}

/// The formats that have kernels here; candle computes the others.
fn block_format(dtype: GgmlDType) -> Option<BlockFormat> {
    match dtype {
        GgmlDType::Q4_0 => Some(BlockFormat::Q4_0),
        GgmlDType::Q4_1 => Some(BlockFormat::Q4_1),
        GgmlDType::Q5_0 => Some(BlockFormat::Q5_0),
        GgmlDType::Q5_1 => Some(BlockFormat::Q5_1),
        GgmlDType::Q4K => Some(BlockFormat::Q4K),
        GgmlDType::Q5K => Some(BlockFormat::Q5K),
        GgmlDType::Q8_0 => Some(BlockFormat::Q8_0),
        _ => None,
    }
}

impl Matrix {
    fn candle(weights: QTensor) -> Result<Self> {
        let weights = Arc::new(weights);
        let product = QMatMul::from_arc(Arc::clone(&weights))?;
        Ok(Self::Candle { weights, product })
    }

    /// Number of outputs and inputs.
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Self::Packed(packed) => (packed.rows(), packed.columns()),
            Self::Candle { weights, .. } => match *weights.shape().dims() {
                [rows, columns] => (rows, columns),
                _ => (0, 0),
            },
        }
    }

    /// One row as floats.
    fn row(&self, row: usize, output: &mut [f32]) -> Result<()> {
        match self {
            Self::Packed(packed) => packed.dequantise_row(row, output),
            Self::Candle { weights, .. } => {
                let size =
                    weights.dtype().type_size() * output.len() / weights.dtype().block_size();
                let data = weights.data()?;
                let Some(bytes) = data.get(row * size..(row + 1) * size) else {
                    candle_core::bail!("there is no row {row}");
                };
                let shape = vec![output.len()];
                let row = qtensor_from_ggml(weights.dtype(), bytes, shape, &Device::Cpu)?;
                output.copy_from_slice(&row.dequantize(&Device::Cpu)?.to_vec1::<f32>()?);
            }
        }
        Ok(())
    }

    /// `output[vector][at + row] = weights[row] · input[vector]`, on the threads of the current
    /// pool, where each vector has `outputs` outputs. `scratch` is any buffer.
    fn multiply(
        &self,
        input: &Input,
        scratch: &mut Vec<f32>,
        output: &mut [f32],
        (at, outputs): (usize, usize),
    ) -> Result<()> {
        let (rows, columns) = self.shape();
        let vectors = input.rows();
        match self {
            Self::Packed(packed) => {
                let group = GROUP * vectors;
                scratch.resize(rows.div_ceil(GROUP) * group, 0.0);
                scratch
                    .par_chunks_exact_mut(group)
                    .with_min_len(TASK_PRODUCTS / (group * columns).max(1))
                    .enumerate()
                    .for_each(|(first, group)| {
                        packed.multiply(&input.activations, first, group);
                    });
                for (vector, output) in output.chunks_exact_mut(outputs).enumerate() {
                    let groups = output[at..at + rows].chunks_mut(GROUP);
                    for (output, group) in groups.zip(scratch.chunks_exact(group)) {
                        output.copy_from_slice(&group[vector * GROUP..][..output.len()]);
                    }
                }
            }
            Self::Candle { product, .. } => {
                let shape = (vectors, columns);
                let values = Tensor::from_slice(&input.values, shape, &Device::Cpu)?;
                let product: Vec<f32> = product.forward(&values)?.flatten_all()?.to_vec1()?;
                let products = product.chunks_exact(rows);
                for (output, product) in output.chunks_exact_mut(outputs).zip(products) {
                    output[at..at + rows].copy_from_slice(product);
                }
            }
        }
        Ok(())
    }
}

/// Matrices that take the same input, with their outputs one after the other.
#[derive(Debug)]
pub struct Projection {
    parts: Vec<Matrix>,
    bias: Option<Vec<f32>>,
    outputs: usize,
}

impl Projection {
    /// Neighbours in one format become one matrix: fewer, longer products.
    pub fn new(matrices: Vec<Matrix>, bias: Option<Vec<f32>>) -> Self {
        let outputs = matrices.iter().map(|matrix| matrix.shape().0).sum();
        let mut parts: Vec<Matrix> = Vec::new();
        for matrix in matrices {
            let left_over = match (parts.last_mut(), matrix) {
                (Some(Matrix::Packed(last)), Matrix::Packed(packed)) => {
                    last.append(packed).map(Matrix::Packed)
                }
                (_, matrix) => Some(matrix),
            };
            parts.extend(left_over);
        }
        Self {
            parts,
            bias,
            outputs,
        }
    }

    /// Numbers that each vector becomes.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// One row of the first matrix as floats. An error where there is no such row.
    pub fn row(&self, row: usize, output: &mut [f32]) -> Result<()> {
        match self.parts.first() {
            Some(matrix) => matrix.row(row, output),
            None => candle_core::bail!("there is no row {row}"),
        }
    }

    /// `output[vector][…]` of all parts; `scratch` is any buffer. An error where a product fails.
    pub fn forward(
        &self,
        input: &Input,
        scratch: &mut Vec<f32>,
        output: &mut Vec<f32>,
    ) -> Result<()> {
        output.resize(self.outputs * input.rows(), 0.0);
        let mut at = 0;
        for part in &self.parts {
            part.multiply(input, scratch, output, (at, self.outputs))?;
            at += part.shape().0;
        }
        if let Some(bias) = &self.bias {
            for row in output.chunks_exact_mut(self.outputs) {
                for (value, bias) in row.iter_mut().zip(bias) {
                    *value += bias;
                }
            }
        }
        Ok(())
    }
}
