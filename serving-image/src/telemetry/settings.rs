//! Settings from OpenTelemetry's standard variables. A wrong value is logged and does not prevent
//! serving.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::sampler::Sampler;

/// Where spans go, and which.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    /// Takes the messages.
    pub(super) endpoint: Url,
    /// Of each message, such as the collector's credentials.
    pub(super) headers: HeaderMap,
    /// Longest time for one attempt.
    pub(super) timeout: Duration,
    /// Whether messages are compressed by gzip.
    pub(super) gzip: bool,
    /// Authorities in PEM that are trusted besides the system's.
    pub(super) certificate: Option<PathBuf>,
    pub(super) sampler: Sampler,
    /// The resource attributes besides the model's name and version.
    pub(super) resource: Vec<(String, String)>,
    pub(super) limits: Limits,
}

/// Bounds of the queue, and of what leaves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Most spans that wait; more are dropped and counted.
    pub(super) waiting: usize,
    /// A message is sent when there are so many spans,
    pub(super) message: usize,
    /// or the first has waited so long.
    pub(super) delay: Duration,
    /// Longest time for all attempts to send one message.
    pub(super) export_timeout: Duration,
}

/// What the variables come to.
#[derive(Debug, PartialEq)]
pub(super) enum Choice {
    /// No endpoint is set: no spans are exported.
    Off,
    /// Somebody did.
    On(Box<Settings>),
    /// Somebody did, in a way that cannot be.
    Impossible(String),
}

/// Reads the variables; tells also what is wrong in those that are passed over.
pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> (Choice, Vec<String>) {
    let mut read = Read {
        variable,
        complaints: Vec::new(),
    };
    let choice = read.choice().unwrap_or_else(Choice::Impossible);
    (choice, read.complaints)
}

struct Read<V> {
    variable: V,
    complaints: Vec<String>,
}

impl<V: Fn(&str) -> Option<String>> Read<V> {
    fn choice(&mut self) -> Result<Choice, String> {
        let exporter = self.value("OTEL_TRACES_EXPORTER");
        let disabled = self.value("OTEL_SDK_DISABLED");
        let disabled = disabled.is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let asked = exporter.as_deref() == Some("otlp")
            || self.value("OTEL_EXPORTER_OTLP_ENDPOINT").is_some()
            || self.value("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").is_some();
        if !asked || disabled || exporter.as_deref() == Some("none") {
            return Ok(Choice::Off);
        }
        if exporter.is_some_and(|exporter| exporter != "otlp") {
            return Err("OTEL_TRACES_EXPORTER: only otlp and none are offered".into());
        }
        if let Some((name, protocol)) = self.of_traces("PROTOCOL")
            && protocol != "http/protobuf"
        {
            return Err(format!("{name}: only http/protobuf is spoken"));
        }
        Ok(Choice::On(Box::new(Settings {
            endpoint: self.endpoint()?,
            headers: self.headers()?,
            timeout: self.milliseconds_of_traces("TIMEOUT", 10_000),
            gzip: match self.of_traces("COMPRESSION") {
                None => false,
                Some((_, compression)) if compression == "none" => false,
                Some((_, compression)) if compression == "gzip" => true,
                Some((name, _)) => return Err(format!("{name}: only gzip and none are offered")),
            },
            certificate: self.of_traces("CERTIFICATE").map(|(_, path)| path.into()),
            sampler: self.sampler(),
            resource: self.resource(),
            limits: Limits {
                waiting: self.number("OTEL_BSP_MAX_QUEUE_SIZE", 2048),
                message: self.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512),
                delay: Duration::from_millis(self.number("OTEL_BSP_SCHEDULE_DELAY", 5_000)),
                export_timeout: Duration::from_millis(
                    self.number("OTEL_BSP_EXPORT_TIMEOUT", 30_000),
                ),
            },
        })))
    }

    /// A variable's value; one that is empty counts as unset.
    fn value(&self, name: &str) -> Option<String> {
        let value = (self.variable)(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// What is set for traces, or else for all signals; with the variable's name.
    fn of_traces(&self, what: &str) -> Option<(String, String)> {
        ["TRACES_", ""].into_iter().find_map(|signal| {
            let name = format!("OTEL_EXPORTER_OTLP_{signal}{what}");
            self.value(&name).map(|value| (name, value))
        })
    }

    /// The address for traces as it is, or the one for all signals with the path of traces.
    fn endpoint(&self) -> Result<Url, String> {
        let (name, text) = match self.value("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
            Some(own) => ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", own),
            None => ("OTEL_EXPORTER_OTLP_ENDPOINT", self.of_all_signals()),
        };
        let url = Url::parse(&text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https") && url.has_host() && url.username().is_empty()
        });
        // Never the value: it may hold a secret.
        url.ok_or_else(|| format!("{name}: expected a URL such as http://collector:4318"))
    }

    fn of_all_signals(&self) -> String {
        let base = self.value("OTEL_EXPORTER_OTLP_ENDPOINT");
        let base = base.unwrap_or_else(|| "http://localhost:4318".into());
        format!("{}/v1/traces", base.trim_end_matches('/'))
    }

    fn headers(&self) -> Result<HeaderMap, String> {
        let Some((name, text)) = self.of_traces("HEADERS") else {
            return Ok(HeaderMap::new());
        };
        let header = |(key, value): (String, String)| {
            let mut value = HeaderValue::try_from(value).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::try_from(key).ok()?, value))
        };
        let headers = pairs(&text).and_then(|pairs| pairs.into_iter().map(header).collect());
        headers.ok_or_else(|| format!("{name}: expected name=value,name=value"))
    }

    fn sampler(&mut self) -> Sampler {
        let Some(name) = self.value("OTEL_TRACES_SAMPLER") else {
            return Sampler::default();
        };
        let ratio = match self.value("OTEL_TRACES_SAMPLER_ARG") {
            None => 1.0,
            Some(text) => {
                let ratio = text.parse().ok();
                let ratio = ratio.filter(|ratio| (0.0..=1.0).contains(ratio));
                ratio.unwrap_or_else(|| {
                    let wrong = "OTEL_TRACES_SAMPLER_ARG: expected a share from 0 to 1; taking 1";
                    self.complaints.push(wrong.into());
                    1.0
                })
            }
        };
        Sampler::named(&name, ratio).unwrap_or_else(|| {
            let wrong = "OTEL_TRACES_SAMPLER: no such sampler here; taking parentbased_always_on";
            self.complaints.push(wrong.into());
            Sampler::default()
        })
    }

    /// `OTEL_RESOURCE_ATTRIBUTES`, and `OTEL_SERVICE_NAME`, which has the last word.
    fn resource(&mut self) -> Vec<(String, String)> {
        let mut attributes = match self.value("OTEL_RESOURCE_ATTRIBUTES") {
            None => Vec::new(),
            Some(text) => pairs(&text).unwrap_or_else(|| {
                let wrong =
                    "OTEL_RESOURCE_ATTRIBUTES: expected name=value,name=value; leaving it out";
                self.complaints.push(wrong.into());
                Vec::new()
            }),
        };
        if let Some(name) = self.value("OTEL_SERVICE_NAME") {
            attributes.retain(|(key, _)| key != "service.name");
            attributes.push(("service.name".into(), name));
        }
        attributes
    }

    fn milliseconds_of_traces(&mut self, what: &str, default: u64) -> Duration {
        let name = self.of_traces(what).map(|(name, _)| name);
        let milliseconds = name.map_or(default, |name| self.number(&name, default));
        Duration::from_millis(milliseconds)
    }

    /// A whole number above 0.
    fn number<N: FromStr + PartialOrd + From<u8>>(&mut self, name: &str, default: N) -> N {
        let Some(text) = self.value(name) else {
            return default;
        };
        let number = text.parse().ok().filter(|number| *number > N::from(0));
        number.unwrap_or_else(|| {
            let wrong = "expected a whole number above 0; taking the default";
            self.complaints.push(format!("{name}: {wrong}"));
            default
        })
    }
}

/// `name=value,name=value`, the values percent-encoded where they need it. None where it is
/// anything else.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let entries = text
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty());
    let pair = |entry: &str| {
        let (name, value) = entry.split_once('=')?;
        let name = name.trim();
        (!name.is_empty()).then_some(())?;
        Some((name.to_owned(), decoded(value.trim())?))
    };
    entries.map(pair).collect()
}

/// A text without its percent-encoding.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn choice(variables: &[(&str, &str)]) -> (Choice, Vec<String>) {
        read(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn settings(variables: &[(&str, &str)]) -> (Settings, Vec<String>) {
        match choice(variables) {
            (Choice::On(settings), complaints) => (*settings, complaints),
            (other, _) => panic!("{other:?}"),
        }
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");

    #[test]
    fn nothing_is_exported_unless_somebody_asks() {
        let off: [&[_]; 5] = [
            &[],
            &[
                ("OTEL_SERVICE_NAME", "x"),
                ("OTEL_TRACES_SAMPLER", "always_on"),
            ],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")],
            &[ENDPOINT, ("OTEL_SDK_DISABLED", "True")],
            &[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")],
        ];
        for variables in off {
            assert_eq!(
                choice(variables),
                (Choice::Off, Vec::new()),
                "{variables:?}"
            );
        }
    }

    #[test]
    fn an_address_is_for_all_signals_or_for_traces_alone() {
        let at = |variables: &[_]| settings(variables).0.endpoint.to_string();
        assert_eq!(at(&[ENDPOINT]), "http://collector:4318/v1/traces");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://other/in?x=1");
        assert_eq!(at(&[ENDPOINT, own]), "https://other/in?x=1");
        let default = ("OTEL_TRACES_EXPORTER", "otlp");
        assert_eq!(at(&[default]), "http://localhost:4318/v1/traces");
    }

    #[test]
    fn what_is_not_said_has_the_defaults_of_the_specification() {
        let (settings, complaints) = settings(&[ENDPOINT]);
        assert!(complaints.is_empty() && settings.headers.is_empty() && !settings.gzip);
        assert_eq!(settings.timeout, Duration::from_secs(10));
        assert_eq!(settings.sampler, Sampler::default());
        let limits = settings.limits;
        assert_eq!((limits.waiting, limits.message), (2048, 512));
        let times = (limits.delay, limits.export_timeout);
        assert_eq!(times, (Duration::from_secs(5), Duration::from_secs(30)));
    }

    #[test]
    fn what_is_said_is_taken() {
        let (settings, complaints) = settings(&[
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "Authorization=Bearer%20a%3Db, x-tenant = 7",
            ),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "700"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/etc/ca.pem"),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "service.name=a,k8s.pod.name=p%2C1",
            ),
            ("OTEL_SERVICE_NAME", "flowers"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.1"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "9"),
        ]);
        assert_eq!(complaints, [""; 0]);
        assert_eq!(settings.headers["authorization"], "Bearer a=b");
        assert_eq!(settings.headers["x-tenant"], "7");
        assert!(
            !format!("{settings:?}").contains("Bearer"),
            "a secret is shown"
        );
        assert_eq!(settings.timeout, Duration::from_millis(700));
        assert!(settings.gzip);
        assert_eq!(settings.certificate, Some("/etc/ca.pem".into()));
        let expected = [("k8s.pod.name", "p,1"), ("service.name", "flowers")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(settings.resource, expected);
        let sampler = Sampler::named("parentbased_traceidratio", 0.1);
        assert_eq!(Some(settings.sampler), sampler);
        assert_eq!(settings.limits.waiting, 9);
    }

    #[test]
    fn what_is_wrong_is_named_and_never_quoted() {
        let wrong = [
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "s3cret:4317"),
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "http://me:s3cret@collector",
            ),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "s3cret"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=%s3cret"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "s3cret"),
            ("OTEL_TRACES_EXPORTER", "s3cret"),
        ];
        for (name, value) in wrong {
            match choice(&[ENDPOINT, (name, value)]) {
                (Choice::Impossible(why), _) => {
                    assert!(why.starts_with(name) && !why.contains("s3cret"), "{why}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
        let passed_over = [
            ("OTEL_TRACES_SAMPLER", "s3cret"),
            ("OTEL_RESOURCE_ATTRIBUTES", "s3cret"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
            ("OTEL_BSP_SCHEDULE_DELAY", "0"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1s"),
        ];
        for (name, value) in passed_over {
            let (found, complaints) = settings(&[ENDPOINT, (name, value)]);
            assert_eq!(found, settings(&[ENDPOINT]).0, "{name}");
            let [complaint] = &complaints[..] else {
                panic!("{name}: {complaints:?}")
            };
            assert!(complaint.starts_with(name) && !complaint.contains("s3cret"));
        }
    }
}
