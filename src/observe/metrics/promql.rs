//! Building PromQL out of parts that cannot break out of their quotes.
//!
//! A string of the resource can enter a query in three ways only: as a [`LabelName`], as a
//! [`Matcher::Equal`] value or inside a [`Pattern`]. All are made harmless here, and nothing else
//! in this module takes text from outside.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

/// How Traefik names the providers whose services are Kubernetes Services: ingresses, its own
/// resources, and routes of the Gateway API.
const TRAEFIK_PROVIDERS: [&str; 3] = ["@kubernetes", "@kubernetescrd", "@kubernetesgateway"];

/// The name of a label: letters, digits and underscores, no digit first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LabelName(Cow<'static, str>);

impl LabelName {
    /// The name as it is where it can be one, else with an underscore for each wrong character.
    pub(super) fn of(name: &str) -> Self {
        let harmless = name
            .chars()
            .enumerate()
            .map(|(index, c)| {
                let fits = c == '_' || c.is_ascii_alphabetic() || (index > 0 && c.is_ascii_digit());
                if fits { c } else { '_' }
            })
            .collect::<String>();
        if harmless.is_empty() {
            return Self::from("_");
        }
        Self(Cow::Owned(harmless))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&'static str> for LabelName {
    /// A name that this program wrote.
    fn from(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }
}

impl fmt::Display for LabelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Matches the values of one label that belong to one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// This value and no other.
    Literal(String),
    /// The name of a pod of this Deployment: `<deployment>-<hash>-<suffix>`. Pod names are cut to
    /// 58 characters before the suffix of 5, so the hash may be cut short and its dash missing.
    PodsOf(String),
    /// A port of this Service, as ingress-nginx names an upstream: `<service>-<port>`.
    PortOf(String),
    /// The same, as Traefik names a service: `<service>-<port>@<provider>`.
    TraefikPortOf(String),
    /// The label is absent, which is the same as empty.
    Absent,
}

impl Pattern {
    /// Whether the label value `value` is meant: the same answer that [`Self::regex`] gives in
    /// Prometheus.
    pub(super) fn matches(&self, value: &str) -> bool {
        match self {
            Self::Literal(literal) => value == literal,
            Self::Absent => value.is_empty(),
            Self::PortOf(service) => is_port_of(value, service),
            Self::TraefikPortOf(service) => TRAEFIK_PROVIDERS.iter().any(|provider| {
                value
                    .strip_suffix(provider)
                    .is_some_and(|value| is_port_of(value, service))
            }),
            Self::PodsOf(deployment) => value
                .strip_prefix(deployment.as_str())
                .and_then(|rest| rest.strip_prefix('-'))
                .is_some_and(|rest| {
                    let segments: Vec<&str> = rest.split('-').collect();
                    segments.len() <= 2
                        && segments.iter().all(|segment| {
                            !segment.is_empty() && segment.bytes().all(is_lower_alphanumeric)
                        })
                }),
        }
    }

    /// As a regular expression (RE2; Prometheus anchors it at both ends).
    fn regex(&self) -> String {
        match self {
            Self::Literal(literal) => escape_regex(literal),
            Self::Absent => String::new(),
            Self::PortOf(service) => format!("{}-[a-z0-9]+", escape_regex(service)),
            Self::TraefikPortOf(service) => {
                let providers = TRAEFIK_PROVIDERS.join("|");
                format!("{}-[a-z0-9]+({providers})", escape_regex(service))
            }
            Self::PodsOf(deployment) => {
                format!("{}-[a-z0-9]+(-[a-z0-9]+)?", escape_regex(deployment))
            }
        }
    }
}

/// Whether `value` is `<service>-<port>`, the port a number or a name without dashes.
fn is_port_of(value: &str, service: &str) -> bool {
    value
        .strip_prefix(service)
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|port| !port.is_empty() && port.bytes().all(is_lower_alphanumeric))
}

fn is_lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Matcher {
    /// The label has this value.
    Equal(LabelName, String),
    /// The label matches one of the patterns.
    AnyOf(LabelName, Vec<Pattern>),
    /// The label matches one of the patterns, or the series does not carry it.
    AnyOfOrAbsent(LabelName, Vec<Pattern>),
}

impl Matcher {
    /// The label `name` is `value`.
    pub(super) fn equal(name: impl Into<LabelName>, value: impl Into<String>) -> Self {
        Self::Equal(name.into(), value.into())
    }

    /// Whether the labels have what is asked for; where they may lack it, they must have it all the
    /// same.
    pub(super) fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Equal(name, value) => labels.get(name.as_str()) == Some(value),
            Self::AnyOf(name, patterns) | Self::AnyOfOrAbsent(name, patterns) => labels
                .get(name.as_str())
                .is_some_and(|value| patterns.iter().any(|pattern| pattern.matches(value))),
        }
    }

    /// The label `name` is `value`, or the series does not carry it.
    pub(super) fn equal_or_absent(name: impl Into<LabelName>, value: impl Into<String>) -> Self {
        Self::AnyOfOrAbsent(name.into(), vec![Pattern::Literal(value.into())])
    }
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
    pub(super) fn of_metrics<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let names = names
            .into_iter()
            .map(|name| Pattern::Literal(name.to_owned()));
        Self(vec![Matcher::AnyOf("__name__".into(), names.collect())])
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
            let matcher = Matcher::equal("namespace", text.clone()).to_string();
            let (value, rest) = unquote(matcher.strip_prefix("namespace=").unwrap()).unwrap();
            prop_assert_eq!(value, text);
            prop_assert_eq!(rest, "");
        }

        #[test]
        fn no_text_becomes_a_pattern(text in any::<String>()) {
            let pattern = Pattern::Literal(text.clone());
            let matcher = Matcher::AnyOf("pod".into(), vec![pattern]).to_string();
            let (regex, rest) = unquote(matcher.strip_prefix("pod=~").unwrap()).unwrap();
            prop_assert_eq!(literal_of(&regex), Some(text));
            prop_assert_eq!(rest, "");
        }
    }

    #[test]
    fn an_injection_stays_a_value() {
        let mut selector = Selector::of_metrics(["up"]);
        selector.push([Matcher::equal("namespace", r#""} or vector(0) #"#)]);
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
    #[test]
    fn ports_of_a_service_are_told_from_other_services() {
        let nginx = Pattern::PortOf("ml-churn-0a1b2c3d".to_owned());
        let traefik = Pattern::TraefikPortOf("ml-churn-0a1b2c3d".to_owned());
        for (value, belongs) in [
            ("ml-churn-0a1b2c3d-8080", true),
            ("ml-churn-0a1b2c3d-http", true),
            ("ml-churn-0a1b2c3d", false),
            ("ml-churn-0a1b2c3d-", false),
            ("ml-churn-ffffffff-8080", false),
            ("ml-churn-0a1b2c3d-ffffffff-8080", false),
            ("x-ml-churn-0a1b2c3d-8080", false),
            ("", false),
        ] {
            assert_eq!(nginx.matches(value), belongs, "{value}");
            for provider in TRAEFIK_PROVIDERS {
                assert_eq!(traefik.matches(&format!("{value}{provider}")), belongs);
            }
            assert!(!traefik.matches(value), "{value}");
            assert!(!traefik.matches(&format!("{value}@docker")), "{value}");
        }
        assert!(Pattern::Absent.matches(""));
    }

    #[test]
    fn no_text_becomes_more_than_the_name_of_a_label() {
        for (text, name) in [
            ("code", "code"),
            ("_9", "_9"),
            ("9a", "_a"),
            (r#"a="",b"#, "a____b"),
            ("é", "_"),
            ("", "_"),
        ] {
            assert_eq!(LabelName::of(text).as_str(), name);
        }
    }
}
