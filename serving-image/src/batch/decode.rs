//! Turns a row of the file into an instance, as a request would carry it.
//!
//! Nothing is prepared here: the instance goes through
//! [`Model::prepare`](crate::model::Model::prepare), as that of a request does. What is done here
//! is only what a format needs: CSV has no types, so that the manifest's decide.

use serde_json::{Map, Number, Value};

use super::source::{Columns, Raw};
use crate::artefact::{InputType, Kind, Manifest};
use crate::json;
use crate::preprocess::{FieldError, FieldErrors, pointer};

/// One row, understood.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    /// The instance, or what was expected in place of the row.
    pub instance: Result<Value, FieldError>,
    /// Carried over to the output.
    pub kept: Vec<Value>,
}

/// Turns rows into instances.
#[derive(Debug)]
pub(super) struct Decoder {
    inputs: Vec<Input>,
    /// The instance is the only input's value, not an object of fields.
    bare: bool,
    keep: Vec<String>,
    missing: Vec<Vec<u8>>,
    columns: Columns,
}

#[derive(Debug)]
struct Input {
    name: String,
    kind: InputType,
}

impl Decoder {
    pub(super) fn new(
        manifest: &Manifest,
        keep: &[String],
        missing: &[String],
        columns: Columns,
    ) -> Self {
        let input = |input: &crate::artefact::Input| Input {
            name: input.name.clone(),
            kind: input.kind,
        };
        Self {
            inputs: manifest.inputs.iter().map(input).collect(),
            bare: is_bare(manifest),
            keep: keep.to_vec(),
            missing: missing
                .iter()
                .map(|text| text.as_bytes().to_vec())
                .collect(),
            columns,
        }
    }

    /// Understands every row; those that cannot be are to be rejected.
    pub(super) fn decode(&self, raw: Raw) -> Vec<Record> {
        match raw {
            Raw::Csv(records) => records.iter().map(|record| self.csv(record)).collect(),
            Raw::Jsonl(lines) => lines.iter().map(|line| self.jsonl(line)).collect(),
            #[cfg(feature = "batch-parquet")]
            Raw::Parquet(rows) => rows.into_iter().map(|row| self.parquet(row)).collect(),
        }
    }

    fn csv(&self, record: &csv::ByteRecord) -> Record {
        if record.len() != self.columns.total {
            return Record {
                instance: Err(whole_row(format!(
                    "{} cells, as in the header",
                    self.columns.total
                ))),
                kept: vec![Value::Null; self.keep.len()],
            };
        }
        let cell = |place: usize| record.get(place).unwrap_or_default();
        let is_missing = |cell: &[u8]| cell.is_empty() || self.missing.iter().any(|m| m == cell);
        let places = self.inputs.iter().zip(&self.columns.inputs);
        let instance = self.instance(places.map(|(input, place)| {
            let value = place
                .map(cell)
                .filter(|cell| !is_missing(cell))
                .map(|cell| match std::str::from_utf8(cell) {
                    Ok(text) => Ok(typed(input.kind, text)),
                    Err(_) => Err(FieldError {
                        field: pointer("", &input.name),
                        expected: "a text in UTF-8".into(),
                    }),
                });
            Ok((input, value.transpose()?))
        }));
        let keep = |place: &usize| match cell(*place) {
            [] => Value::Null,
            cell => String::from_utf8_lossy(cell).into_owned().into(),
        };
        Record {
            instance,
            kept: self.columns.keep.iter().map(keep).collect(),
        }
    }

    fn jsonl(&self, line: &[u8]) -> Record {
        let nothing = || vec![Value::Null; self.keep.len()];
        let mut duplicates = FieldErrors::default();
        let value = json::parse(line, &mut duplicates);
        if let Some(error) = duplicates.listed.pop() {
            return Record {
                instance: Err(error),
                kept: nothing(),
            };
        }
        match value {
            Ok(Value::Object(mut fields)) => {
                let kept = self.keep.iter().map(|name| match fields.get(name) {
                    Some(value) => value.clone(),
                    None => Value::Null,
                });
                let kept = kept.collect();
                let values = self.inputs.iter().map(|input| {
                    let value = fields.remove(&input.name);
                    Ok((input, value.filter(|value| !value.is_null())))
                });
                Record {
                    instance: self.instance(values),
                    kept,
                }
            }
            // The instance itself, such as a text; whether it is one is the manifest's business.
            Ok(value) => Record {
                instance: Ok(value),
                kept: nothing(),
            },
            Err(_) => Record {
                instance: Err(whole_row("a JSON value".into())),
                kept: nothing(),
            },
        }
    }

    #[cfg(feature = "batch-parquet")]
    fn parquet(&self, row: parquet::record::Row) -> Record {
        let mut values: Vec<Value> = row
            .into_columns()
            .into_iter()
            .map(|(_, field)| from_parquet(field))
            .collect();
        let keep = |place: &usize| values.get(*place).cloned().unwrap_or_default();
        let kept = self.columns.keep.iter().map(keep).collect();
        let places = self.inputs.iter().zip(&self.columns.inputs);
        let instance = self.instance(places.map(|(input, place)| {
            let value = place
                .and_then(|place| values.get_mut(place))
                .map(Value::take);
            let value = value.filter(|value| !value.is_null());
            Ok((input, value))
        }));
        Record { instance, kept }
    }

    fn instance<'a>(
        &'a self,
        mut values: impl Iterator<Item = Result<(&'a Input, Option<Value>), FieldError>>,
    ) -> Result<Value, FieldError> {
        if self.bare {
            let first = values.next().transpose()?;
            return Ok(first.and_then(|(_, value)| value).unwrap_or_default());
        }
        // A missing field is left out, which the manifest takes for null.
        let present =
            |(input, value): (&'a Input, Option<Value>)| Some((input.name.clone(), value?));
        let fields = values
            .filter_map(|value| value.map(present).transpose())
            .collect::<Result<Map<_, _>, _>>()?;
        Ok(Value::Object(fields))
    }
}

/// Whether an instance of this model is a value and not an object of fields.
pub(super) fn is_bare(manifest: &Manifest) -> bool {
    manifest.kind == Kind::Text
}

/// An error that is about no field in particular.
fn whole_row(expected: String) -> FieldError {
    FieldError {
        field: String::new(),
        expected,
    }
}

/// What a cell of CSV stands for. One that is not of its input's type stays a text, which the
/// manifest then refuses.
fn typed(kind: InputType, cell: &str) -> Value {
    let text = || Value::from(cell);
    match kind {
        InputType::Number | InputType::Integer => number(cell.trim()).unwrap_or_else(text),
        InputType::Boolean => match cell.trim().to_ascii_lowercase().as_str() {
            "true" | "t" | "1" => true.into(),
            "false" | "f" | "0" => false.into(),
            _ => text(),
        },
        InputType::String | InputType::Image => text(),
        // nested arrays, as JSON
        InputType::Tensor => serde_json::from_str(cell).unwrap_or_else(|_| text()),
    }
}

/// Reads what JSON allows by the parser that reads requests, so that both get the same bits; then
/// `+1`, `.5` and `1.`.
fn number(cell: &str) -> Option<Value> {
    serde_json::from_str::<Number>(cell)
        .ok()
        .or_else(|| Number::from_f64(cell.parse().ok()?))
        .map(Value::Number)
}

/// A Parquet value as JSON. NaN is a missing value: pandas writes both as NaN.
#[cfg(feature = "batch-parquet")]
fn from_parquet(field: parquet::record::Field) -> Value {
    use parquet::record::Field;
    let real = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => value.into(),
        Field::Byte(value) => value.into(),
        Field::Short(value) => value.into(),
        Field::Int(value) => value.into(),
        Field::Long(value) => value.into(),
        Field::UByte(value) => value.into(),
        Field::UShort(value) => value.into(),
        Field::UInt(value) => value.into(),
        Field::ULong(value) => value.into(),
        Field::Float16(value) => real(value.into()),
        Field::Float(value) => real(value.into()),
        Field::Double(value) => real(value),
        Field::Str(text) => text.into(),
        Field::Bytes(bytes) => String::from_utf8_lossy(bytes.data()).into_owned().into(),
        Field::Group(row) => row
            .into_columns()
            .into_iter()
            .map(|(name, field)| (name, from_parquet(field)))
            .collect(),
        Field::ListInternal(list) => list.elements().iter().cloned().map(from_parquet).collect(),
        Field::Decimal(_) => number(&field.to_string()).unwrap_or_default(),
        other => other.to_string().into(), // dates, times, maps
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn decoder(missing: &[&str]) -> Decoder {
        let manifest = json!({
            "schemaVersion": 1, "name": "m", "version": "1", "kind": "tabular",
            "task": "classification",
            "inputs": [{"name": "a", "type": "number"}, {"name": "b", "type": "boolean"}],
            "preprocessing": [{"step": "order", "features": ["a", "b"]}],
            "network": {"architecture": "linear", "weights": "w"},
            "outputs": {"labels": ["x", "y"]}
        });
        let manifest = Manifest::parse(manifest.to_string().as_bytes()).unwrap();
        let columns = Columns {
            total: 3,
            inputs: vec![Some(1), Some(2)],
            keep: vec![0],
            ..Columns::default()
        };
        let missing: Vec<String> = missing.iter().map(|text| (*text).to_owned()).collect();
        Decoder::new(&manifest, &["id".to_owned()], &missing, columns)
    }

    fn csv(decoder: &Decoder, cells: &[&str]) -> Record {
        let records = vec![csv::ByteRecord::from(cells.to_vec())];
        decoder.decode(Raw::Csv(records)).pop().unwrap()
    }

    #[test]
    fn cells_are_typed_by_the_manifest() {
        let decoder = decoder(&["NA"]);
        for (cells, expected) in [
            (["7", "1.5", "true"], json!({"a": 1.5, "b": true})),
            (["7", " 2 ", "False"], json!({"a": 2, "b": false})),
            (["7", "+.5", "1"], json!({"a": 0.5, "b": true})),
            (["7", "1e3", "f"], json!({"a": 1000.0, "b": false})),
            (["7", "", "NA"], json!({})),
            // Left as they are, for the manifest to refuse.
            (["7", "nan", "yes"], json!({"a": "nan", "b": "yes"})),
            (["7", "1,5", "2"], json!({"a": "1,5", "b": "2"})),
        ] {
            let record = csv(&decoder, &cells);
            assert_eq!(record.instance, Ok(expected));
            assert_eq!(record.kept, [json!("7")]);
        }
    }

    #[test]
    fn a_row_that_is_none_says_what_was_expected() {
        let decoder = decoder(&[]);
        let short = csv(&decoder, &["7", "1"]);
        assert_eq!(
            short.instance,
            Err(whole_row("3 cells, as in the header".into()))
        );
        assert_eq!(short.kept, [Value::Null]);
        let lines = vec![
            b"{\"a\": 1,".to_vec(),
            b"{\"id\": [1], \"a\": 1, \"z\": 2}".to_vec(),
        ];
        let records = decoder.decode(Raw::Jsonl(lines));
        assert_eq!(records[0].instance, Err(whole_row("a JSON value".into())));
        assert_eq!(records[1].instance, Ok(json!({"a": 1})));
        assert_eq!(records[1].kept, [json!([1])]);
        let latin = csv::ByteRecord::from(vec![&b"7"[..], b"\xe9", b"1"]);
        let record = decoder.decode(Raw::Csv(vec![latin])).pop().unwrap();
        let expected = FieldError {
            field: "/a".into(),
            expected: "a text in UTF-8".into(),
        };
        assert_eq!(record.instance, Err(expected));
    }

    #[test]
    fn a_number_has_the_bits_that_a_request_gives_it() {
        for text in [
            "5.1",
            "0.1",
            "1e-7",
            "123456789.123456789",
            "18446744073709551615",
            "-0",
        ] {
            let in_request: Value = serde_json::from_str(text).unwrap();
            assert_eq!(number(text), Some(in_request), "{text}");
        }
    }
}
