//! JSON without surprises: a name that an object gives twice is an error, not the last value.
//!
//! Parsers differ in which of two values they take (RFC 8259, section 4), so a gateway may have
//! checked another one than the model gets. What is deeper than 128 levels, a number beyond the
//! range of 64-bit floats, and half a surrogate pair are refused by the parser itself.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::preprocess::{self, FieldErrors};

/// Reads one document, and notes each name that is given twice in `duplicates`, by its JSON
/// pointer. An error where it is no valid JSON, or more follows it.
pub fn parse(bytes: &[u8], duplicates: &mut FieldErrors) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let node = Node {
        place: &Place::Root,
        duplicates,
    };
    let value = node.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// A whole number, as JSON Schema has it: 6.0 is one, too.
pub fn integer(value: &Value) -> Option<i64> {
    /// Up to here a float is the number that was written: what is beyond 64 bits is read as one
    /// near by.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let float = value.as_f64();
    let whole = float.filter(|float| float.fract() == 0.0 && float.abs() < EXACT);
    value.as_i64().or(whole.map(|float| float as i64))
}

/// Where a value is: a list on the stack, from which a pointer is only made for an error.
enum Place<'a> {
    Root,
    Name(&'a Place<'a>, &'a str),
    Index(&'a Place<'a>, usize),
}

impl Place<'_> {
    fn pointer(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Name(parent, name) => preprocess::pointer(&parent.pointer(), name),
            Self::Index(parent, index) => format!("{}/{index}", parent.pointer()),
        }
    }
}

/// One value that is to be read.
struct Node<'a> {
    place: &'a Place<'a>,
    duplicates: &'a mut FieldErrors,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(value) = elements.next_element_seed(Node {
            place: &Place::Index(self.place, array.len()),
            duplicates: &mut *self.duplicates,
        })? {
            array.push(value);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let place = Place::Name(self.place, &name);
            let value = entries.next_value_seed(Node {
                place: &place,
                duplicates: &mut *self.duplicates,
            })?;
            if object.contains_key(&name) {
                let twice = "one value; the name is there twice";
                self.duplicates.push(|| place.pointer(), twice);
            } else {
                object.insert(name, value);
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn duplicates(text: &str) -> Vec<String> {
        let mut duplicates = FieldErrors::default();
        parse(text.as_bytes(), &mut duplicates).unwrap();
        duplicates.listed.into_iter().map(|e| e.field).collect()
    }

    #[test]
    fn what_is_given_once_is_read_as_serde_json_reads_it() {
        let text = r#"{"a": [1, -2, 3.5, 1e300, true, null, {"b": "\ud83d\ude00"}], "c": {},
                       "d": 18446744073709551615}"#;
        let mut none = FieldErrors::default();
        let value = parse(text.as_bytes(), &mut none).unwrap();
        assert_eq!(value, serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(none.total, 0);
    }

    #[test]
    fn a_name_that_is_there_twice_is_told_by_its_pointer() {
        assert_eq!(
            duplicates(r#"{"a": 1, "b": [{"c/d": 1}, {"c/d": 1, "c/d": 2}], "a": 1}"#),
            ["/b/1/c~1d", "/a"]
        );
        // The same name once an escape is resolved.
        assert_eq!(duplicates(r#"{"a": 1, "\u0061": 1}"#), ["/a"]);
        assert!(duplicates(r#"[{"a": 1}, {"a": 1}]"#).is_empty());
    }

    #[test]
    fn a_whole_number_may_be_written_as_a_float() {
        let whole = |text: &str| integer(&serde_json::from_str(text).unwrap());
        assert_eq!(whole("6.0"), Some(6));
        assert_eq!(whole("-1e3"), Some(-1000));
        assert_eq!(whole("9223372036854775807"), Some(i64::MAX));
        assert_eq!(whole("-9223372036854775808"), Some(i64::MIN));
        for other in [
            "6.5",
            "9223372036854775808",
            "-9223372036854775809",
            "1e300",
            "\"6\"",
            "true",
            "null",
            "[6]",
        ] {
            assert_eq!(whole(other), None, "{other}");
        }
    }

    #[test]
    fn what_cannot_be_held_is_refused() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for (text, reason) in [
            (deep.as_str(), "recursion limit"),
            ("[1e999]", "number out of range"),
            (r#"["\ud800"]"#, "unexpected end of hex escape"),
            ("[NaN]", "expected value"),
            ("{} {}", "trailing characters"),
            ("", "EOF"),
        ] {
            let error = parse(text.as_bytes(), &mut FieldErrors::default()).unwrap_err();
            assert!(error.to_string().contains(reason), "{text}: {error}");
        }
        assert!(parse(b"[\"\xff\"]", &mut FieldErrors::default()).is_err());
    }
}
