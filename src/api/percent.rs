//! Shares written as percentages: `1%`, `0.5%`.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What the API server accepts as a percentage: up to four decimals, from 0 to 100.
const RULE: &str = "self.matches('^(100([.]0{1,4})?|[0-9]{1,2}([.][0-9]{1,4})?)%$')";

/// A share of a whole, written as a percentage.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percent(f64);

/// A text is not a percentage.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected a percentage from 0% to 100%, such as 1% or 0.5%")]
pub struct NotAPercent;

impl Percent {
    /// All of it.
    pub const WHOLE: Self = Self(100.0);

    /// The percentage as a share between 0 and 1.
    pub fn share(self) -> f64 {
        self.0 / 100.0
    }
}

impl FromStr for Percent {
    type Err = NotAPercent;

    fn from_str(text: &str) -> Result<Self, NotAPercent> {
        let number = text.strip_suffix('%').ok_or(NotAPercent)?;
        let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let value: f64 = number.parse().map_err(|_| NotAPercent)?;
        if plain && (0.0..=100.0).contains(&value) {
            Ok(Self(value))
        } else {
            Err(NotAPercent)
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string", "maxLength": 9,
            "x-kubernetes-validations": [{"rule": RULE, "message": NotAPercent.to_string()}],
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_reads_as_a_share_and_prints_as_written() {
        for (text, share) in [("1%", 0.01), ("0.5%", 0.005), ("100%", 1.0), ("0%", 0.0)] {
            let percent: Percent = text.parse().unwrap();
            assert!((percent.share() - share).abs() < 1e-12);
            assert_eq!(percent.to_string(), text);
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "1", "", "%", "-1%", "101%", "NaN%", "inf%", "1e1%", "1 %", "+1%",
        ] {
            assert_eq!(text.parse::<Percent>(), Err(NotAPercent), "{text}");
        }
    }
}
