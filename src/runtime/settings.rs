//! The operator's flags. Each has an environment variable of the same meaning, so a chart can use
//! either.

use std::{net::SocketAddr, time::Duration};

use clap::{Parser, ValueEnum, builder::PossibleValuesParser};
use http::{HeaderMap, HeaderName, HeaderValue};
use kube::core::Duration as KubeDuration;

use crate::{
    api::{Cache, Fetch, validate::SCHEMES},
    router,
};

/// Rolls machine-learning models out as canaries.
///
/// Watches ModelDeployments (serin.dev/v1alpha1), runs each version as a Deployment of its own,
/// moves traffic between versions through the bundled Envoy routers, and judges new versions on
/// what Prometheus counted.
#[derive(Parser, Clone, Debug)]
#[command(
    version,
    max_term_width = 110,
    after_help = "Besides operating: `serin-operator replay --help`, \
                  `serin-operator backtest --help`."
)]
pub struct Settings {
    /// Base URL of the Prometheus that scrapes routers and models, without a trailing slash.
    ///
    /// Example: http://prometheus.serin-system.svc:9090. It is the operator's alone: no
    /// ModelDeployment can name another.
    #[arg(long, env = "SERIN_PROMETHEUS_URL", value_parser = base_url)]
    pub prometheus_url: String,

    /// A header of every request to that Prometheus, such as `X-Scope-OrgID: ml` or `Authorization:
    /// Bearer …`.
    ///
    /// May be given several times; in the environment, one a line (from a Secret).
    #[arg(
        long = "prometheus-header",
        env = "SERIN_PROMETHEUS_HEADERS",
        hide_env_values = true,
        value_delimiter = '\n',
        value_parser = header
    )]
    pub prometheus_header: Vec<(HeaderName, HeaderValue)>,

    /// How often that Prometheus scrapes. Evidence is read as often, and is stale after three
    /// intervals.
    #[arg(long, env = "SERIN_SCRAPE_INTERVAL", default_value = "15s", value_parser = duration)]
    pub scrape_interval: Duration,

    /// Serving image of versions that name none: a tag other than `latest`, or a digest.
    #[arg(long, env = "SERIN_SERVING_IMAGE")]
    pub serving_image: String,

    /// Schemes that `spec.model.uri` may use.
    ///
    /// pvc: a directory on a PersistentVolumeClaim. oci, s3, https, hf: fetched by an init
    /// container, from the hosts of
    /// --allowed-model-hosts. file: a directory inside the serving image, for development.
    #[arg(
        long,
        env = "SERIN_ALLOWED_MODEL_SCHEMES",
        default_value = "pvc",
        value_delimiter = ',',
        value_parser = PossibleValuesParser::new(SCHEMES)
    )]
    pub allowed_model_schemes: Vec<String>,

    /// Hosts that pods may fetch artefacts from: HOST[:PORT], *.SUFFIX, * (all, over TLS),
    /// http://HOST[:PORT] (without TLS), and CIDRs for private addresses. None where absent.
    ///
    /// Example: ghcr.io,*.githubusercontent.com,http://registry.models.svc:5000,10.96.0.0/12.
    /// Loopback, link-local and metadata addresses are refused whatever it says. A change of these
    /// settings is for new versions; running ones keep theirs.
    #[arg(long, env = "SERIN_ALLOWED_MODEL_HOSTS", value_delimiter = ',')]
    pub allowed_model_hosts: Vec<String>,

    /// Largest artefact that a pod may fetch, such as 20Gi.
    #[arg(long, env = "SERIN_MODEL_MAX_SIZE", default_value = "20Gi", value_parser = size)]
    pub model_max_size: u64,

    /// Where pods keep fetched artefacts for each other: claim:NAME, a PersistentVolumeClaim of the
    /// model's namespace, or hostPath:/PATH, a directory of the node. Nowhere where absent: each
    /// pod fetches its own.
    #[arg(long, env = "SERIN_MODEL_CACHE", value_parser = cache)]
    pub model_cache: Option<Cache>,

    /// Most that such a cache keeps, such as 100Gi; what was not used for longest goes first. No
    /// limit where absent.
    #[arg(long, env = "SERIN_MODEL_CACHE_LIMIT", value_parser = size, requires = "model_cache")]
    pub model_cache_limit: Option<u64>,

    /// Namespace of this operator and its routers.
    #[arg(long, env = "POD_NAMESPACE", default_value = "serin-system")]
    pub namespace: String,

    /// Name of this operator's pod: its identity in the leader's lease.
    #[arg(long, env = "POD_NAME", default_value = "serin-operator")]
    pub pod_name: String,

    /// Look after the ModelDeployments of this namespace only. All namespaces where absent.
    #[arg(long, env = "SERIN_WATCH_NAMESPACE")]
    pub watch_namespace: Option<String>,

    /// Flags of routers.
    #[command(flatten)]
    pub routers: router::Flags,

    /// Address of /metrics, /livez and /readyz.
    #[arg(long, env = "SERIN_HTTP_ADDRESS", default_value = "[::]:8080")]
    pub http_address: SocketAddr,

    /// Whether this operator brings the CRD of the cluster up to date when it starts.
    #[arg(long, env = "SERIN_UPGRADE_CRD", default_value_t = true, action = clap::ArgAction::Set)]
    pub upgrade_crd: bool,

    /// Form of the log.
    #[arg(long, env = "SERIN_LOG_FORMAT", default_value = "json", value_enum)]
    pub log_format: LogFormat,

    /// What is logged: a level, or directives such as info,serin=debug.
    #[arg(long, env = "SERIN_LOG_LEVEL", default_value = "info")]
    pub log_level: String,

    /// How many models are reconciled at the same time.
    #[arg(
        long,
        env = "SERIN_CONCURRENCY",
        default_value_t = 16,
        value_parser = clap::value_parser!(u16).range(1..=256)
    )]
    pub concurrency: u16,

    /// How long a leader that went silent keeps its lease, at least 5s.
    #[arg(long, env = "SERIN_LEASE_DURATION", default_value = "15s", value_parser = lease_duration)]
    pub lease_duration: Duration,
}

impl Settings {
    /// Headers of every request to Prometheus.
    pub fn prometheus_headers(&self) -> HeaderMap {
        self.prometheus_header.iter().cloned().collect()
    }

    /// What routers are made from.
    pub fn router_setup(&self) -> router::Setup {
        router::Setup {
            namespace: self.namespace.clone(),
            http_port: self.http_address.port(),
            flags: self.routers.clone(),
        }
    }

    /// How pods of new versions fetch their artefacts.
    pub fn fetch(&self) -> Fetch {
        let hosts = self.allowed_model_hosts.iter();
        Fetch {
            image: self.serving_image.clone(),
            hosts: hosts.filter(|host| !host.is_empty()).cloned().collect(),
            max_size: self.model_max_size,
            cache: self.model_cache.clone(),
            cache_limit: self.model_cache_limit,
        }
    }
}

/// Form of the log.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed: KubeDuration = text
        .parse()
        .map_err(|error| format!("{error}; expected a duration such as 15s"))?;
    let value = Duration::from(parsed);
    if parsed.is_negative() || value < Duration::from_millis(100) {
        return Err("expected at least 100ms".to_owned());
    }
    Ok(value)
}

fn lease_duration(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|value| {
        if value < Duration::from_secs(5) {
            Err("expected at least 5s".to_owned())
        } else {
            Ok(value)
        }
    })
}

fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => Some(1),
        "Ki" => Some(1 << 10),
        "Mi" => Some(1 << 20),
        "Gi" => Some(1 << 30),
        "Ti" => Some(1_u64 << 40),
        _ => None,
    };
    unit.zip(digits.parse::<u64>().ok())
        .and_then(|(unit, number)| number.checked_mul(unit))
        // Twice of it is a volume's size.
        .filter(|size| (1..=1 << 50).contains(size))
        .ok_or_else(|| {
            "expected bytes, as a number or with Ki, Mi, Gi or Ti, such as 20Gi".to_owned()
        })
}

fn cache(text: &str) -> Result<Cache, String> {
    match text.split_once(':') {
        Some(("claim", name)) if !name.is_empty() => Ok(Cache::Claim(name.to_owned())),
        Some(("hostPath", path)) if path.len() > 1 && path.starts_with('/') => {
            Ok(Cache::HostPath(path.to_owned()))
        }
        _ => Err("expected claim:NAME or hostPath:/PATH".to_owned()),
    }
}

pub(crate) fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let expected = || "expected `Name: value`".to_owned();
    let (name, value) = text.split_once(':').ok_or_else(expected)?;
    let mut value: HeaderValue = value.trim().parse().map_err(|_| expected())?;
    value.set_sensitive(true);
    Ok((name.trim().parse().map_err(|_| expected())?, value))
}

pub(crate) fn base_url(text: &str) -> Result<String, String> {
    let known = text.starts_with("http://") || text.starts_with("https://");
    if !known || text.ends_with('/') {
        return Err("expected http://… or https://… without a trailing slash".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    fn parse(extra: &[&str]) -> Result<Settings, clap::Error> {
        let base = [
            "serin-operator",
            "--prometheus-url",
            "http://p:9090",
            "--serving-image",
            "serve:1",
        ];
        Settings::try_parse_from(base.iter().chain(extra))
    }

    #[test]
    fn the_flags_are_consistent() {
        Settings::command().debug_assert();
        assert_eq!(parse(&[]).unwrap().scrape_interval, Duration::from_secs(15));
        assert_eq!(
            parse(&["--allowed-model-schemes", "pvc,file"])
                .unwrap()
                .allowed_model_schemes,
            ["pvc", "file"]
        );
    }

    #[test]
    fn how_artefacts_are_fetched_is_the_platforms_to_say() {
        let given = parse(&[
            "--allowed-model-hosts",
            "ghcr.io,10.0.0.0/8",
            "--model-cache",
            "claim:models",
            "--model-cache-limit",
            "1Gi",
        ]);
        let fetch = given.unwrap().fetch();
        assert_eq!(fetch.hosts, ["ghcr.io", "10.0.0.0/8"]);
        assert_eq!(
            (fetch.image.as_str(), fetch.max_size),
            ("serve:1", 20 << 30)
        );
        assert_eq!(fetch.cache, Some(Cache::Claim("models".to_owned())));
        assert_eq!(fetch.cache_limit, Some(1 << 30));
        assert!(parse(&[]).unwrap().fetch().hosts.is_empty());
    }

    #[test]
    fn a_wrong_flag_is_refused() {
        for wrong in [
            ["--prometheus-url", "p:9090"],
            ["--prometheus-url", "http://p:9090/"],
            ["--prometheus-header", "no colon"],
            ["--prometheus-header", "bad name: x"],
            ["--scrape-interval", "-1s"],
            ["--scrape-interval", "soon"],
            ["--lease-duration", "1s"],
            ["--allowed-model-schemes", "ftp"],
            ["--model-max-size", "20G"],
            ["--model-max-size", "0"],
            ["--model-cache", "/var/cache"],
            ["--model-cache", "hostPath:var"],
            ["--model-cache", "claim:"],
            ["--model-cache-limit", "1Gi"],
            ["--concurrency", "0"],
        ] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
    }
}
