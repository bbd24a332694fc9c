//! Reads the header of an untrusted GGUF file.
//!
//! A number in the file never decides alone how much memory is taken: the header as a whole may
//! have [`MAX_HEADER`] bytes, every count is checked against what is left of it, and what this
//! build has no use for is read over. One pass, no seek: the caller hashes the bytes as they go by.

use std::collections::BTreeMap;
use std::io::{self, Read};

use candle_core::quantized::GgmlDType;

/// Longest header in bytes. The vocabulary is nearly all of it: 1.8 MB for 49,152 tokens, 8 MB for
/// Llama 3's 128,256. Kept values take at most three times their bytes (an empty string: 8 in the
/// file, 24 here).
const MAX_HEADER: u64 = 64 << 20;

/// Most tensors. Llama 3 405B has 1,138.
const MAX_TENSORS: u64 = 16_384;

/// Most dimensions of a tensor, as in ggml.
const MAX_DIMENSIONS: u32 = 4;

/// Tensor data starts at a multiple of this many bytes where the header does not say otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;

/// Why a GGUF file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// It ends before its header or a tensor does, or the system cannot read it.
    #[error("the GGUF file cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is no GGUF file, or of a version that this build does not read.
    #[error("no GGUF file of version 2 or 3")]
    Magic,
    /// The header contradicts the format.
    #[error("the GGUF header is malformed: {0}")]
    Malformed(String),
    /// A tensor is in a format that this build does not compute.
    #[error(
        "tensor {name} is {format}, which this build does not compute; it does F32, F16, BF16, \
         Q4_0, Q4_1, Q5_0, Q5_1, \
         Q8_0 and Q2_K to Q6_K"
    )]
    Format {
        /// The tensor.
        name: String,
        /// The format's name, or ggml's number of it.
        format: String,
    },
    /// A key that the model needs is not there.
    #[error("the GGUF header has no {0}")]
    Missing(String),
    /// A key has a value that this build cannot use.
    #[error("the GGUF header's {key} must be {expected}")]
    Unusable {
        /// The key.
        key: String,
        /// What this build can use.
        expected: String,
    },
}

/// A value of the header. Arrays of other types than these are read over.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any integer type, or a boolean as 0 or 1.
    Integer(i64),
    /// `f32` or `f64`.
    Float(f64),
    /// UTF-8; invalid bytes become U+FFFD.
    String(String),
    /// An array of strings.
    Strings(Vec<String>),
    /// An array of 32-bit integers.
    Integers(Vec<i32>),
    /// An array that this build does not use.
    Skipped,
}

/// Where a tensor lies, and what it looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Its quantisation.
    pub dtype: GgmlDType,
    /// Rows and columns, outermost first: the other way round than in the file.
    pub shape: Vec<usize>,
    /// Bytes from the start of the tensor data.
    pub offset: u64,
    /// Length in bytes.
    pub size: u64,
}

/// What stands before the tensors.
#[derive(Debug)]
pub struct Header {
    metadata: BTreeMap<String, Value>,
    /// In the order of their place in the file; none overlaps another.
    pub tensors: Vec<TensorInfo>,
    /// Bytes between the end of the header and the start of the tensor data.
    pub padding: u64,
}

impl Header {
    /// Reads the header of a file of `length` bytes; `source` then stands at its end. An error
    /// where it is no GGUF 2 or 3, is cut off or exceeds a limit.
    pub fn read(source: &mut impl Read, length: u64) -> Result<Self, GgufError> {
        let mut reader = Reader {
            left: length.min(MAX_HEADER),
            source,
            position: 0,
        };
        if &reader.array::<4>()? != b"GGUF" || !matches!(reader.u32()?, 2 | 3) {
            return Err(GgufError::Magic);
        }
        let (tensors, entries) = (reader.u64()?, reader.u64()?);
        if tensors > MAX_TENSORS {
            return Err(malformed(format!("{tensors} tensors are too many")));
        }
        let mut metadata = BTreeMap::new();
        for _ in 0..entries {
            let key = reader.string()?;
            let kind = reader.u32()?;
            let value = reader.value(kind)?;
            metadata.insert(key, value);
        }
        let mut tensors = (0..tensors)
            .map(|_| reader.tensor())
            .collect::<Result<Vec<_>, _>>()?;
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(Value::Integer(bytes @ 1..=65_536)) => bytes.unsigned_abs(),
            Some(_) => return Err(malformed("general.alignment is out of range")),
        };
        let start = reader.position.next_multiple_of(alignment);
        tensors.sort_by_key(|tensor| tensor.offset);
        let mut end = start;
        for tensor in &tensors {
            let from = start.checked_add(tensor.offset).filter(|from| *from >= end);
            end = from
                .and_then(|from| from.checked_add(tensor.size))
                .filter(|end| *end <= length)
                .ok_or_else(|| {
                    let name = &tensor.name;
                    malformed(format!("tensor {name} overlaps another or the file's end"))
                })?;
        }
        Ok(Self {
            metadata,
            padding: start - reader.position,
            tensors,
        })
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// A whole number from 0 up to `most`. `None` where the key is absent, an error where the value
    /// is another one.
    pub fn number(&self, key: &str, most: usize) -> Result<Option<usize>, GgufError> {
        let in_range = |value: &Value| match value {
            Value::Integer(number) => usize::try_from(*number).ok().filter(|n| *n <= most),
            _ => None,
        };
        let unusable = || unusable(key, format!("a whole number from 0 to {most}"));
        self.get(key)
            .map(|value| in_range(value).ok_or_else(unusable))
            .transpose()
    }

    /// A finite number. `None` where the key is absent, an error where the value is another one.
    pub fn float(&self, key: &str) -> Result<Option<f32>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(number)) if (*number as f32).is_finite() => Ok(Some(*number as f32)),
            Some(_) => Err(unusable(key, "a finite number")),
        }
    }

    /// A boolean. `None` where the key is absent, an error where the value is another one.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, GgufError> {
        Ok(self.number(key, 1)?.map(|number| number == 1))
    }

    /// A text. `None` where the key is absent, an error where the value is another one.
    pub fn text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(unusable(key, "a string")),
        }
    }

    /// An array of texts. An error where the key is absent or the value is another one.
    pub fn texts(&self, key: &str) -> Result<&[String], GgufError> {
        match self.get(key) {
            None => Err(GgufError::Missing(key.to_owned())),
            Some(Value::Strings(texts)) => Ok(texts),
            Some(_) => Err(unusable(key, "an array of strings")),
        }
    }
}

/// `value`, or an error that names the key that is missing.
pub fn required<T>(key: &str, value: Option<T>) -> Result<T, GgufError> {
    value.ok_or_else(|| GgufError::Missing(key.to_owned()))
}

/// An error that names the key and says what this build can use.
pub fn unusable(key: &str, expected: impl Into<String>) -> GgufError {
    GgufError::Unusable {
        key: key.to_owned(),
        expected: expected.into(),
    }
}

fn malformed(what: impl Into<String>) -> GgufError {
    GgufError::Malformed(what.into())
}

/// Little-endian fields, never past the bytes that are left.
struct Reader<'a, R> {
    source: &'a mut R,
    /// Bytes that may still be read.
    left: u64,
    /// Bytes read so far.
    position: u64,
}

impl<R: Read> Reader<'_, R> {
    fn claim(&mut self, bytes: u64) -> Result<(), GgufError> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            malformed("it is longer than the file, or than this build reads (64 MiB)")
        })?;
        self.position += bytes;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        self.claim(N as u64)?;
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        self.array().map(u64::from_le_bytes)
    }

    fn string(&mut self) -> Result<String, GgufError> {
        let length = self.u64()?;
        self.claim(length)?; // at most 64 MiB from here on
        let mut bytes = vec![0; length as usize];
        self.source.read_exact(&mut bytes)?;
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn skip(&mut self, bytes: u64) -> Result<(), GgufError> {
        self.claim(bytes)?;
        let skipped = io::copy(&mut self.source.by_ref().take(bytes), &mut io::sink())?;
        if skipped < bytes {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(())
    }

    fn value(&mut self, kind: u32) -> Result<Value, GgufError> {
        Ok(match kind {
            0 => Value::Integer(self.array::<1>()?[0].into()),
            1 => Value::Integer(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => match self.array::<1>()?[0] {
                truth @ 0..=1 => Value::Integer(truth.into()),
                _ => return Err(malformed("a boolean is neither 0 nor 1")),
            },
            8 => Value::String(self.string()?),
            9 => self.list()?,
            10 => Value::Integer(
                i64::try_from(self.u64()?).map_err(|_| malformed("a number above 2^63"))?,
            ),
            11 => Value::Integer(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            _ => return Err(malformed(format!("there is no value type {kind}"))),
        })
    }

    fn list(&mut self) -> Result<Value, GgufError> {
        let (kind, length) = (self.u32()?, self.u64()?);
        // Memory grows with the bytes that are really there, not with the length that is claimed.
        Ok(match kind {
            8 => Value::Strings(
                (0..length)
                    .map(|_| self.string())
                    .collect::<Result<_, _>>()?,
            ),
            4 | 5 => Value::Integers(
                (0..length)
                    .map(|_| self.array().map(i32::from_le_bytes))
                    .collect::<Result<_, _>>()?,
            ),
            _ => {
                let width: u64 = match kind {
                    0 | 1 | 7 => 1,
                    2 | 3 => 2,
                    6 => 4,
                    10..=12 => 8,
                    _ => return Err(malformed(format!("an array of value type {kind}"))),
                };
                self.skip(length.saturating_mul(width))?;
                Value::Skipped
            }
        })
    }

    fn tensor(&mut self) -> Result<TensorInfo, GgufError> {
        let name = self.string()?;
        let dimensions = self.u32()?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(malformed(format!("tensor {name}: {dimensions} dimensions")));
        }
        let mut shape = (0..dimensions)
            .map(|_| self.u64())
            .collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        let kind = self.u32()?;
        let Some(dtype) = dtype(kind) else {
            let format = refused_format(kind);
            return Err(GgufError::Format { name, format });
        };
        let offset = self.u64()?;
        let block = dtype.block_size() as u64;
        let size = shape
            .iter()
            .try_fold(1_u64, |product, length| product.checked_mul(*length))
            .filter(|elements| {
                // None at all: candle would take a slice from where nothing is.
                *elements > 0
                    && shape
                        .last()
                        .is_some_and(|columns| columns.is_multiple_of(block))
            })
            .and_then(|elements| (elements / block).checked_mul(dtype.type_size() as u64))
            .ok_or_else(|| malformed(format!("tensor {name}: an impossible shape")))?;
        let shape = shape
            .into_iter()
            .map(|length| usize::try_from(length).map_err(|_| malformed("an impossible shape")))
            .collect::<Result<_, _>>()?;
        Ok(TensorInfo {
            name,
            dtype,
            shape,
            offset,
            size,
        })
    }
}

/// ggml's number of a quantisation.
fn dtype(kind: u32) -> Option<GgmlDType> {
    Some(match kind {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}

/// How ggml calls a format that [`dtype`] does not know.
fn refused_format(kind: u32) -> String {
    let name = match kind {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("of ggml's type {kind}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::examples::{ARRAY, F32, Parts, STRING, U32, array, text};
    use super::*;
    use crate::fuzzing::{bounded, cases};
    use proptest::prelude::*;

    /// A header with one key of each kind that is kept, and two tensors.
    fn sample() -> Vec<u8> {
        let strings = array(STRING, &[text("a"), text("b")]);
        let floats = array(F32, &[vec![0; 4], vec![0; 4]]);
        let shape = [32, 2]; // Q4_1: 20 bytes for 32 weights
        Parts::default()
            .key("general.architecture", STRING, text("llama"))
            .key("llama.block_count", U32, 30_u32.to_le_bytes())
            .key("eps", F32, 0.5_f32.to_le_bytes())
            .key("tokens", ARRAY, strings)
            .key("scores", ARRAY, floats)
            .tensor("second", 3, &shape, 64)
            .tensor("first", 3, &shape, 0)
            .header()
    }

    fn file() -> Vec<u8> {
        let mut bytes = sample();
        let start = bytes.len().next_multiple_of(32);
        bytes.resize(start + 104, 7);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Header, GgufError> {
        Header::read(&mut &bytes[..], bytes.len() as u64)
    }

    #[test]
    fn what_a_header_says_is_read() {
        let header = read(&file()).unwrap();
        assert_eq!(header.text("general.architecture").unwrap(), Some("llama"));
        assert_eq!(header.number("llama.block_count", 99).unwrap(), Some(30));
        assert_eq!(header.float("eps").unwrap(), Some(0.5));
        assert_eq!(header.texts("tokens").unwrap(), ["a", "b"]);
        assert_eq!(header.get("scores"), Some(&Value::Skipped));
        let tensors: Vec<_> = header
            .tensors
            .iter()
            .map(|t| (t.name.as_str(), t.size))
            .collect();
        assert_eq!(tensors, [("first", 40), ("second", 40)]);
        assert_eq!(header.tensors[0].shape, [2, 32]);
    }

    #[test]
    fn a_wrong_value_is_named() {
        let header = read(&file()).unwrap();
        let error = header.number("llama.block_count", 29).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the GGUF header's llama.block_count must be a whole number from 0 to 29"
        );
        let error = header.texts("merges").unwrap_err();
        assert_eq!(error.to_string(), "the GGUF header has no merges");
    }

    #[test]
    fn a_tensor_past_the_end_is_refused() {
        let mut bytes = file();
        bytes.pop();
        assert!(read(&bytes).unwrap_err().to_string().contains("second"));
    }

    #[test]
    fn a_tensor_without_numbers_is_refused() {
        let parts = Parts::default().tensor("empty", 0, &[32, 0], 0);
        let error = read(&parts.header()).unwrap_err();
        assert!(error.to_string().contains("empty"), "{error}");
    }

    #[test]
    fn an_alignment_of_nought_divides_nothing() {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(0_u64.to_le_bytes());
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend(17_u64.to_le_bytes());
        bytes.extend(b"general.alignment");
        bytes.extend(4_u32.to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        assert!(matches!(read(&bytes), Err(GgufError::Malformed(_))));
    }

    #[test]
    fn a_claimed_length_takes_no_memory() {
        for kind in [5_u32, 8] {
            let mut bytes = b"GGUF\x03\0\0\0".to_vec();
            bytes.extend(0_u64.to_le_bytes());
            bytes.extend(1_u64.to_le_bytes());
            bytes.extend(1_u64.to_le_bytes());
            bytes.extend(b"a");
            bytes.extend(9_u32.to_le_bytes());
            bytes.extend(kind.to_le_bytes());
            bytes.extend(u64::MAX.to_le_bytes());
            assert!(read(&bytes).is_err());
        }
    }

    proptest! {
        #![proptest_config(cases(1_000))]

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = bounded(bytes.len(), || read(&bytes));
        }

        #[test]
        fn a_damaged_header_is_read_or_refused(
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            end in any::<prop::sample::Index>(),
        ) {
            let mut bytes = file();
            for (place, byte) in damage {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            for bytes in [&bytes, &bytes[..end.index(bytes.len())]] {
                let _ = bounded(bytes.len(), || read(bytes));
            }
        }
    }
}
