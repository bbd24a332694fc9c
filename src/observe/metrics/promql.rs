//! Building PromQL out of parts that cannot break out of their quotes.
//!
//! A string of the resource can enter a query in two ways only: as a [`Matcher::Equal`] value or
//! inside a [`Pattern`]. Both are escaped here, and nothing else in this module takes text from
//! outside.

use std::fmt::{self, Write};
use std::time::Duration;

/// Matches the values of one label that belong to one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// This value and no other.
    Literal(String),
    /// The name of a pod of this Deployment: `<deployment>-<hash>-<suffix>`. Pod names are cut to
    /// 58 characters before the suffix of 5, so the hash may be cut short and its dash missing.
    PodsOf(String),
}

impl Pattern {
    /// Whether the label value `value` is meant: the same answer that [`Self::regex`] gives in
    /// Prometheus.
    pub(super) fn matches(&self, value: &str) -> bool {
        match self {
            Self::Literal(literal) => value == literal,
            Self::PodsOf(deployment) => value
                .strip_prefix(deployment.as_str())
                .and_then(|rest| rest.strip_prefix('-'))
                .is_some_and(|rest| {
                    let segments: Vec<&str> = rest.split('-').collect();
                    segments.len() <= 2
                        && segments.iter().all(|segment| {
                            !segment.is_empty()
                                && segment
                                    .bytes()
                                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
                        })
                }),
        }
    }

    /// As a regular expression (RE2; Prometheus anchors it at both ends).
    fn regex(&self) -> String {
        match self {
            Self::Literal(literal) => escape_regex(literal),
            Self::PodsOf(deployment) => {
                format!("{}-[a-z0-9]+(-[a-z0-9]+)?", escape_regex(deployment))
            }
        }
    }
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Matcher {
    /// The label has this value.
    Equal(&'static str, String),
    /// The label matches one of the patterns.
    AnyOf(&'static str, Vec<Pattern>),
    /// The label matches one of the patterns, or the series does not carry it.
    AnyOfOrAbsent(&'static str, Vec<Pattern>),
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alternatives = |patterns: &[Pattern]| {
            let regexes: Vec<String> = patterns.iter().map(Pattern::regex).collect();
            regexes.join("|")
        };
        match self {
            Self::Equal(label, value) => write!(f, "{label}={}", quote(value)),
            Self::AnyOf(label, patterns) => {
                write!(f, "{label}=~{}", quote(&alternatives(patterns)))
            }
            Self::AnyOfOrAbsent(label, patterns) => {
                write!(
                    f,
                    "{label}=~{}",
                    quote(&format!("|{}", alternatives(patterns)))
                )
            }
        }
    }
}

/// A set of series: matchers that must all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selector(Vec<Matcher>);

impl Selector {
    /// The series of these metrics.
    pub(super) fn of_metrics(names: impl IntoIterator<Item = &'static str>) -> Self {
        let names = names
            .into_iter()
            .map(|name| Pattern::Literal(name.to_owned()));
        Self(vec![Matcher::AnyOf("__name__", names.collect())])
    }

    /// Narrows the selection.
    pub(super) fn push(&mut self, matchers: impl IntoIterator<Item = Matcher>) {
        self.0.extend(matchers);
    }

    /// The raw samples of the last `range`, whole seconds.
    pub(super) fn range(&self, range: Duration) -> String {
        let matchers: Vec<String> = self.0.iter().map(Matcher::to_string).collect();
        format!("{{{}}}[{}s]", matchers.join(","), range.as_secs())
    }
}

/// A PromQL string literal (double-quoted, escapes as in Go).
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(c);
            }
            c if c.is_control() => {
                // Infallible: writing to a String.
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A regular expression that matches exactly `text`.
fn escape_regex(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads one PromQL string literal at the start of `text`, as Prometheus does; gives its value
    /// and what follows.
    fn unquote(text: &str) -> Option<(String, &str)> {
        let mut value = String::new();
        let mut rest = text.strip_prefix('"')?.chars();
        loop {
            match rest.next()? {
                '"' => return Some((value, rest.as_str())),
                '\n' => return None,
                '\\' => match rest.next()? {
                    c @ ('"' | '\\') => value.push(c),
                    'u' => {
                        let hex: String = rest.by_ref().take(4).collect();
                        value.push(char::from_u32(u32::from_str_radix(&hex, 16).ok()?)?);
                    }
                    _ => return None,
                },
                c => value.push(c),
            }
        }
    }

    /// What a regular expression of literal characters matches, or `None` when it has an operator.
    fn literal_of(regex: &str) -> Option<String> {
        let mut value = String::new();
        let mut chars = regex.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => value.push(chars.next()?),
                c if r".+*?()|[]{}^$".contains(c) => return None,
                c => value.push(c),
            }
        }
        Some(value)
    }

    proptest! {
        #[test]
        fn no_text_breaks_out_of_its_quotes(text in any::<String>()) {
            let matcher = Matcher::Equal("namespace", text.clone()).to_string();
            let (value, rest) = unquote(matcher.strip_prefix("namespace=").unwrap()).unwrap();
            prop_assert_eq!(value, text);
            prop_assert_eq!(rest, "");
        }

        #[test]
        fn no_text_becomes_a_pattern(text in any::<String>()) {
            let matcher = Matcher::AnyOf("pod", vec![Pattern::Literal(text.clone())]).to_string();
            let (regex, rest) = unquote(matcher.strip_prefix("pod=~").unwrap()).unwrap();
            prop_assert_eq!(literal_of(&regex), Some(text));
            prop_assert_eq!(rest, "");
        }
    }

    #[test]
    fn an_injection_stays_a_value() {
        let mut selector = Selector::of_metrics(["up"]);
        selector.push([Matcher::Equal(
            "namespace",
            r#""} or vector(0) #"#.to_owned(),
        )]);
        assert_eq!(
            selector.range(Duration::from_secs(60)),
            r#"{__name__=~"up",namespace="\"} or vector(0) #"}[60s]"#
        );
    }

    #[test]
    fn pods_are_told_apart_by_their_whole_name() {
        let pods = Pattern::PodsOf("churn-0a1b2c3d".to_owned());
        for (pod, belongs) in [
            ("churn-0a1b2c3d-6d9f7c5b8-x7k2p", true),
            // Name cut to 58 characters: the dash is gone.
            ("churn-0a1b2c3d-6d9x7k2p", true),
            ("churn-0a1b2c3d", false),
            ("churn-0a1b2c3d-", false),
            ("churn-ffffffff-6d9f7c5b8-x7k2p", false),
            ("my-churn-0a1b2c3d-6d9f7c5b8-x7k2p", false),
            // A pod of a model that is called `churn-0a1b2c3d`.
            ("churn-0a1b2c3d-99999999-6d9f7c5b8-x7k2p", false),
        ] {
            assert_eq!(pods.matches(pod), belongs, "{pod}");
        }
    }
}
