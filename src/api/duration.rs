//! Durations as the spec writes them: those of Gateway API (GEP-2257).

use std::{fmt, str::FromStr, time::Duration as StdDuration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration of the spec: one to four whole numbers of at most five digits, each with its unit,
/// `h`, `m`, `s` or `ms`. It has no sign, no decimals and no days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(StdDuration);

/// Why a text is no [`Duration`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a duration of whole h, m, s or ms, such as 1h30m, 10m or 90s")]
pub struct NoDuration;

/// Most parts of a duration.
const MOST_PARTS: usize = 4;
/// Most digits of a part.
const MOST_DIGITS: usize = 5;

impl From<StdDuration> for Duration {
    fn from(duration: StdDuration) -> Self {
        Self(duration)
    }
}

impl From<Duration> for StdDuration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl FromStr for Duration {
    type Err = NoDuration;

    fn from_str(text: &str) -> Result<Self, NoDuration> {
        let (mut rest, mut total, mut parts) = (text, StdDuration::ZERO, 0);
        while !rest.is_empty() || parts == 0 {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, then) = rest.split_at(digits);
            let unit = then.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, then) = then.split_at(unit);
            parts += 1;
            if digits > MOST_DIGITS || parts > MOST_PARTS {
                return Err(NoDuration);
            }
            let number: u64 = number.parse().map_err(|_| NoDuration)?;
            total += match unit {
                "h" => StdDuration::from_secs(3_600 * number),
                "m" => StdDuration::from_secs(60 * number),
                "s" => StdDuration::from_secs(number),
                "ms" => StdDuration::from_millis(number),
                _ => return Err(NoDuration),
            };
            rest = then;
        }
        Ok(Self(total))
    }
}

/// The longest units first: 90 s are `1m30s`. What is below a millisecond is left out.
impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let parts = [
            (seconds / 3_600, "h"),
            (seconds / 60 % 60, "m"),
            (seconds % 60, "s"),
            (u64::from(self.0.subsec_millis()), "ms"),
        ];
        if parts.iter().all(|(number, _)| *number == 0) {
            return f.write_str("0s");
        }
        for (number, unit) in parts {
            if number > 0 {
                write!(f, "{number}{unit}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_read_and_written_as_gateway_api_has_it() {
        for (text, millis, written) in [
            ("90s", 90_000, "1m30s"),
            ("1h30m", 5_400_000, "1h30m"),
            ("10m", 600_000, "10m"),
            ("250ms", 250, "250ms"),
            ("0s", 0, "0s"),
            ("168h", 604_800_000, "168h"),
            ("1h1m1s1ms", 3_661_001, "1h1m1s1ms"),
            ("1500ms", 1_500, "1s500ms"),
        ] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(
                StdDuration::from(duration),
                StdDuration::from_millis(millis)
            );
            assert_eq!(duration.to_string(), written);
            assert_eq!(written.parse(), Ok(duration));
        }
    }

    #[test]
    fn any_other_form_is_refused() {
        for text in [
            "",
            "90",
            "1d",
            "1.5m",
            "-1s",
            "+1s",
            "s",
            "1 s",
            "1us",
            "1ns",
            "123456s",
            "1h1h1h1h1h",
            "1mm",
            "1s.",
            "ms",
        ] {
            assert_eq!(text.parse::<Duration>(), Err(NoDuration), "{text}");
        }
    }
}
