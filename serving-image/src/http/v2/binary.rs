//! Binary tensors, by the protocol's extension: elements row by row, little-endian, a text behind
//! its length in 4 bytes.

use serde_json::{Number, Value};

use super::datatype::Datatype;

/// The elements of an input. NaN is a missing value, as numpy and pandas have it. None where the
/// bytes are not whole elements, a number is infinite, or a text is not UTF-8.
pub(super) fn elements(datatype: Datatype, bytes: &[u8]) -> Option<Vec<Value>> {
    match datatype {
        Datatype::Bool => numbers(bytes, |[byte]| match byte {
            0 | 1 => Some(Value::from(byte == 1)),
            _ => None,
        }),
        Datatype::Unsigned(8) => numbers(bytes, |[byte]| Some(byte.into())),
        Datatype::Unsigned(16) => numbers(bytes, |two| Some(u16::from_le_bytes(two).into())),
        Datatype::Unsigned(32) => numbers(bytes, |four| Some(u32::from_le_bytes(four).into())),
        Datatype::Unsigned(_) => numbers(bytes, |eight| Some(u64::from_le_bytes(eight).into())),
        Datatype::Signed(8) => numbers(bytes, |one| Some(i8::from_le_bytes(one).into())),
        Datatype::Signed(16) => numbers(bytes, |two| Some(i16::from_le_bytes(two).into())),
        Datatype::Signed(32) => numbers(bytes, |four| Some(i32::from_le_bytes(four).into())),
        Datatype::Signed(_) => numbers(bytes, |eight| Some(i64::from_le_bytes(eight).into())),
        Datatype::Float(16) => numbers(bytes, |two| float(half::f16::from_le_bytes(two).into())),
        Datatype::Float(32) => numbers(bytes, |four| float(f32::from_le_bytes(four).into())),
        Datatype::Float(_) => numbers(bytes, |eight| float(f64::from_le_bytes(eight))),
        Datatype::Bytes => texts(bytes),
    }
}

fn numbers<const N: usize>(
    bytes: &[u8],
    read: impl Fn([u8; N]) -> Option<Value>,
) -> Option<Vec<Value>> {
    let (elements, rest) = bytes.as_chunks::<N>();
    let elements = elements.iter().map(|element| read(*element));
    rest.is_empty().then(|| elements.collect())?
}

fn float(number: f64) -> Option<Value> {
    if number.is_nan() {
        return Some(Value::Null);
    }
    Number::from_f64(number).map(Value::Number)
}

fn texts(mut bytes: &[u8]) -> Option<Vec<Value>> {
    let mut texts = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        let (text, rest) = rest.split_at_checked(length)?;
        texts.push(std::str::from_utf8(text).ok()?.into());
        bytes = rest;
    }
    Some(texts)
}

/// Appends a text.
pub(super) fn push_text(text: &str, bytes: &mut Vec<u8>) {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX); // an answer is far shorter
    bytes.extend(length.to_le_bytes());
    bytes.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn read(name: &str, bytes: &[u8]) -> Option<Value> {
        elements(Datatype::parse(name).unwrap(), bytes).map(Value::from)
    }

    #[test]
    fn each_type_is_read_little_endian() {
        for (name, bytes, expected) in [
            ("BOOL", &[0, 1][..], json!([false, true])),
            ("UINT8", &[255, 0], json!([255, 0])),
            ("INT8", &[255, 1], json!([-1, 1])),
            ("UINT16", &[1, 2], json!([513])),
            ("INT16", &[254, 255], json!([-2])),
            ("UINT32", &[0, 0, 0, 128], json!([2_147_483_648_u32])),
            ("INT32", &[0, 0, 0, 128], json!([-2_147_483_648])),
            ("UINT64", &[255; 8], json!([u64::MAX])),
            ("INT64", &[255; 8], json!([-1])),
            ("FP16", &[0, 0x3e], json!([1.5])),
            (
                "FP32",
                &[0, 0, 0xc0, 0x7f, 0, 0, 0xc0, 0x3f],
                json!([null, 1.5]),
            ),
            ("FP64", &[0, 0, 0, 0, 0, 0, 0xf8, 0x3f], json!([1.5])),
            (
                "BYTES",
                &[2, 0, 0, 0, b'o', b'k', 0, 0, 0, 0],
                json!(["ok", ""]),
            ),
        ] {
            assert_eq!(read(name, bytes), Some(expected), "{name}");
        }
    }

    #[test]
    fn what_is_no_whole_element_is_refused() {
        for (name, bytes) in [
            ("BOOL", &[2][..]),
            ("INT32", &[0, 0, 0]),
            ("FP32", &[0, 0, 0x80, 0x7f]), // infinite
            ("BYTES", &[3, 0, 0, 0, b'o', b'k']),
            ("BYTES", &[255, 255, 255, 255]),
            ("BYTES", &[1, 0, 0]),
            ("BYTES", &[1, 0, 0, 0, 0xff]),
        ] {
            assert_eq!(read(name, bytes), None, "{name} {bytes:?}");
        }
    }
}
