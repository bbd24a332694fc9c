//! The protocol's datatypes, and which of them each field of a manifest accepts.

use serde_json::Value;

use crate::artefact::{Dtype, Input, InputType};

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Datatype {
    Bool,
    /// With its number of bits.
    Unsigned(u32),
    /// With its number of bits.
    Signed(u32),
    /// With its number of bits.
    Float(u32),
    Bytes,
}

impl Datatype {
    /// The type of that name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "BOOL" => Self::Bool,
            "UINT8" => Self::Unsigned(8),
            "UINT16" => Self::Unsigned(16),
            "UINT32" => Self::Unsigned(32),
            "UINT64" => Self::Unsigned(64),
            "INT8" => Self::Signed(8),
            "INT16" => Self::Signed(16),
            "INT32" => Self::Signed(32),
            "INT64" => Self::Signed(64),
            "FP16" => Self::Float(16),
            "FP32" => Self::Float(32),
            "FP64" => Self::Float(64),
            "BYTES" => Self::Bytes,
            _ => return None,
        })
    }

    /// Its name in the protocol.
    pub(super) fn name(self) -> String {
        match self {
            Self::Bool => "BOOL".into(),
            Self::Unsigned(bits) => format!("UINT{bits}"),
            Self::Signed(bits) => format!("INT{bits}"),
            Self::Float(bits) => format!("FP{bits}"),
            Self::Bytes => "BYTES".into(),
        }
    }

    /// What a field is declared as.
    pub(super) fn of(input: &Input) -> Self {
        match input.kind {
            InputType::Number => Self::Float(64),
            InputType::Integer => Self::Signed(64),
            InputType::Boolean => Self::Bool,
            InputType::String | InputType::Image => Self::Bytes,
            InputType::Tensor => match input.dtype {
                Some(Dtype::Float64) => Self::Float(64),
                Some(Dtype::Int32) => Self::Signed(32),
                Some(Dtype::Int64) => Self::Signed(64),
                Some(Dtype::Uint8) => Self::Unsigned(8),
                Some(Dtype::Bool) => Self::Bool,
                Some(Dtype::Float32) | None => Self::Float(32),
            },
        }
    }

    /// Whether a field may be sent as this type: a number as any numeric one, an integer as any of
    /// integers.
    pub(super) fn fits(self, input: &Input) -> bool {
        match input.kind {
            InputType::Number => !matches!(self, Self::Bool | Self::Bytes),
            InputType::Integer => matches!(self, Self::Signed(_) | Self::Unsigned(_)),
            InputType::Boolean | InputType::String | InputType::Tensor | InputType::Image => {
                self == Self::of(input)
            }
        }
    }

    /// Whether a JSON value is an element of this type.
    pub(super) fn holds(self, value: &Value) -> bool {
        // 2^64 is a power of two, and so exact as a float.
        let whole = |low: f64, end: f64| {
            value
                .as_f64()
                .is_some_and(|number| number.fract() == 0.0 && number >= low && number < end)
        };
        match self {
            Self::Bool => value.is_boolean(),
            Self::Unsigned(bits) => whole(0.0, 2_f64.powi(bits.cast_signed())),
            Self::Signed(bits) => {
                let end = 2_f64.powi(bits.cast_signed() - 1);
                whole(-end, end)
            }
            Self::Float(_) => value.is_number(),
            Self::Bytes => value.is_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn an_element_is_within_its_type() {
        for (name, good, wrong) in [
            ("BOOL", json!([true, false]), json!([1, "true", null])),
            ("UINT8", json!([0, 255, 7.0]), json!([-1, 256, 1.5, true])),
            ("INT8", json!([-128, 127]), json!([-129, 128])),
            ("INT64", json!([i64::MIN, 0]), json!([1e300, 0.5])),
            ("UINT64", json!([0, 1e19]), json!([-1, 1e20])),
            ("FP32", json!([0, -1.5, 1e300]), json!(["1", null, true])),
            ("BYTES", json!(["", "a"]), json!([1, null])),
        ] {
            let datatype = Datatype::parse(name).unwrap();
            assert_eq!(datatype.name(), name);
            for value in good.as_array().unwrap() {
                assert!(datatype.holds(value), "{name} {value}");
            }
            for value in wrong.as_array().unwrap() {
                assert!(!datatype.holds(value), "{name} {value}");
            }
        }
        assert_eq!(Datatype::parse("FLOAT"), None);
    }
}
