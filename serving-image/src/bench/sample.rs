//! Values that a JSON schema allows, for bodies that a server takes.

use serde_json::{Map, Value, json};

use super::schedule::Random;
use crate::picture;

/// Deepest nesting that is followed; a schema that refers to itself ends there.
const MAX_DEPTH: usize = 16;

/// Most values that one sample is made of: what a server's contract asks for beyond that stays
/// null.
const MAX_VALUES: usize = 1 << 20;

/// Width of made-up pictures, in pixels.
const PICTURE_WIDTH: u32 = 640;

/// Words of made-up texts.
const WORDS: [&str; 16] = [
    "the", "canary", "sings", "while", "a", "small", "finch", "watches", "over", "every", "road",
    "to", "green", "harbour", "lights", "tonight",
];

/// A value of `schema`; `document` is where its references point into. Arrays get `length` elements
/// where they may.
pub(super) fn sample(
    schema: &Value,
    document: &Value,
    length: usize,
    random: &mut Random,
) -> Value {
    Sampler {
        document,
        length,
        left: MAX_VALUES,
        random,
    }
    .value(schema, 0)
}

struct Sampler<'a> {
    document: &'a Value,
    length: usize,
    /// Values that may still be made.
    left: usize,
    random: &'a mut Random,
}

impl Sampler<'_> {
    fn value(&mut self, schema: &Value, depth: usize) -> Value {
        if depth > MAX_DEPTH || self.left == 0 {
            return Value::Null;
        }
        self.left -= 1;
        let reference = schema["$ref"]
            .as_str()
            .and_then(|path| path.strip_prefix('#'));
        if let Some(target) = reference.and_then(|path| self.document.pointer(path)) {
            return self.value(target, depth + 1);
        }
        if let Some(constant) = schema.get("const") {
            return constant.clone();
        }
        if let Some(choices) = schema["enum"]
            .as_array()
            .filter(|choices| !choices.is_empty())
        {
            return choices[self.random.below(choices.len())].clone();
        }
        if is_picture(schema) {
            return self.picture(schema).into();
        }
        for union in ["oneOf", "anyOf"] {
            if let Some(first) = schema[union].as_array().and_then(|members| members.first()) {
                return self.value(first, depth + 1);
            }
        }
        let kind = match &schema["type"] {
            Value::Array(kinds) => kinds.iter().find(|kind| *kind != "null"),
            kind => Some(kind),
        };
        match kind.and_then(Value::as_str) {
            Some("object") => self.object(schema, depth),
            Some("array") => self.array(schema, depth),
            Some("boolean") => (self.random.below(2) == 1).into(),
            Some("integer") => json!(
                self.number(schema, 1.0)
                    .floor()
                    .max(bound(schema, "minimum").ceil()) as i64
            ),
            Some("number") => json!((self.number(schema, 0.0) * 1e4).round() / 1e4),
            Some("string") => self.text(schema).into(),
            _ => Value::Null,
        }
    }

    /// What must be there: a field that may be missing is one more thing that can be refused.
    fn object(&mut self, schema: &Value, depth: usize) -> Value {
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        let mut object = Map::new();
        for name in required.iter().filter_map(Value::as_str) {
            let value = self.value(&schema["properties"][name], depth + 1);
            object.insert(name.to_owned(), value);
        }
        object.into()
    }

    fn array(&mut self, schema: &Value, depth: usize) -> Value {
        let limit = |name: &str| schema[name].as_u64().map(|limit| limit as usize);
        let length = self
            .length
            .max(limit("minItems").unwrap_or(0))
            .min(limit("maxItems").unwrap_or(usize::MAX))
            .min(self.left);
        (0..length)
            .map(|_| self.value(&schema["items"], depth + 1))
            .collect()
    }

    /// Evenly from the allowed range, or from 0 to 1 if it is open; `beyond` is added to its
    /// end.
    fn number(&mut self, schema: &Value, beyond: f64) -> f64 {
        let (minimum, maximum) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
        let low = minimum
            .or(maximum.map(|maximum| maximum.min(0.0)))
            .unwrap_or(0.0);
        let high = maximum.unwrap_or(low.max(0.0) + 1.0);
        (low + self.random.share() * (high - low + beyond)).min(high)
    }

    /// As large as a small photograph, or as it may be.
    fn picture(&mut self, schema: &Value) -> String {
        let mut width = PICTURE_WIDTH;
        loop {
            let text = picture::sample(width, || self.random.share());
            if text.len() <= longest(schema) || width == 1 {
                return text;
            }
            width /= 2;
        }
    }

    fn text(&mut self, schema: &Value) -> String {
        let words: Vec<&str> = (0..4 + self.random.below(24))
            .map(|_| WORDS[self.random.below(WORDS.len())])
            .collect();
        words.join(" ").chars().take(longest(schema)).collect()
    }
}

/// Most characters of a text.
fn longest(schema: &Value) -> usize {
    let longest = schema["maxLength"].as_u64();
    longest.map_or(usize::MAX, |longest| longest as usize)
}

/// Whether a schema says that a text is a picture's file.
fn is_picture(schema: &Value) -> bool {
    let is_jpeg = |schema: &Value| schema["contentMediaType"] == "image/jpeg";
    let mut choices = schema["anyOf"].as_array().into_iter().flatten();
    schema["contentEncoding"] == "base64" && (is_jpeg(schema) || choices.any(is_jpeg))
}

fn bound(schema: &Value, name: &str) -> f64 {
    schema[name].as_f64().unwrap_or(f64::MIN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;
    use crate::fuzzing::{bounded, cases, json, replace};

    #[test]
    fn samples_keep_to_their_schema() {
        let document = json!({"components": {"schemas": {
            "Age": {"type": ["integer", "null"], "minimum": 3, "maximum": 5},
            "Loop": {"type": "object", "required": ["next"],
            "properties": {"next": {"$ref": "#/components/schemas/Loop"}}},
        }}});
        let schema = json!({
            "type": "object", "required": ["age", "height", "colour", "list", "name", "yes",
            "pick"],
            "properties": {
                "age": {"$ref": "#/components/schemas/Age"},
                "height": {"type": "number", "minimum": 1.5},
                "colour": {"enum": ["red", "green"]},
                "list": {"type": "array", "items": {"const": 7}, "minItems": 2, "maxItems": 4},
                "name": {"type": "string", "minLength": 1, "maxLength": 10},
                "yes": {"type": "boolean"},
                "pick": {"oneOf": [{"type": "integer", "maximum": -2}, {"type": "string"}]},
                "optional": {"type": "string"},
            }
        });
        let mut random = Random::new(3);
        let mut ages = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let value = sample(&schema, &document, 9, &mut random);
            ages.insert(value["age"].as_i64());
            assert!(
                value["height"]
                    .as_f64()
                    .is_some_and(|height| (1.5..=2.5).contains(&height)),
                "{value}"
            );
            assert!(["red", "green"].map(Value::from).contains(&value["colour"]));
            assert_eq!(value["list"], json!([7, 7, 7, 7]));
            assert!(
                value["name"]
                    .as_str()
                    .is_some_and(|name| (1..=10).contains(&name.len()))
            );
            assert!(value["yes"].is_boolean() && value.get("optional").is_none());
            assert_eq!(value["pick"], json!(-2));
        }
        assert_eq!(ages, [Some(3), Some(4), Some(5)].into());
        let endless = sample(
            &document["components"]["schemas"]["Loop"],
            &document,
            1,
            &mut random,
        );
        assert!(endless.is_object());
    }

    #[test]
    fn a_picture_is_a_file_that_is_not_too_long() {
        let kinds = json!([{"contentMediaType": "image/png"}, {"contentMediaType": "image/jpeg"}]);
        let schema = json!({"type": "string", "contentEncoding": "base64", "anyOf": kinds,
            "maxLength": 12_000});
        let mut random = Random::new(3);
        let samples: Vec<Value> = (0..2)
            .map(|_| sample(&schema, &Value::Null, 1, &mut random))
            .collect();
        assert_ne!(samples[0], samples[1]);
        let reading = picture::Reading {
            max_bytes: 9_000,
            max_pixels: 1 << 20,
            grey: false,
            upright: true,
        };
        for text in &samples {
            let picture = picture::Picture::from_base64(text.as_str().unwrap_or_default(), reading);
            let size = picture.map(|picture| (picture.width, picture.height));
            assert!(matches!(size, Ok((80.., 60..))), "{size:?}");
        }
    }

    #[test]
    fn a_list_without_end_ends() {
        let schema = json!({"type": "array", "minItems": u64::MAX, "items": {"type": "array",
            "minItems": u64::MAX}});
        let value = sample(&schema, &Value::Null, 1, &mut Random::new(1));
        assert!(value.as_array().is_some_and(|rows| rows.len() < MAX_VALUES));
    }

    proptest! {
        #![proptest_config(cases(500))]

        #[test]
        fn any_schema_makes_a_value(place: Index, by in json(), again in json()) {
            let mut document = json!({
                "schema": {
                    "type": "object", "required": ["a", "b", "c"], "properties": {
                        "a": {"type": "integer", "minimum": 1, "maximum": 2, "enum": [1, 2]},
                        "b": {"$ref": "#/other"},
                        "c": {"type": "string", "minLength": 1, "maxLength": 3},
                    },
                },
                "other": {"type": ["array", "null"], "minItems": 1, "maxItems": 3,
                "items": {"oneOf": [{"type": "number"}]}},
            });
            replace(&mut document, place, by);
            replace(&mut document, place, again);
            let schema = document["schema"].clone();
            // A list of a million nulls is 32 MB.
            bounded(1 << 20, || sample(&schema, &document, 4, &mut Random::new(1)));
        }
    }
}
