//! Where the counters come from: one file a source.
//!
//! A source is a function from the two versions to a [`Template`], plain data that says which
//! series to read and what each of them means. To add one (a service mesh, another ingress), write
//! such a file and give it a variant of [`Source`].

mod custom;
mod envoy;
mod ingress_nginx;
mod istio;
mod linkerd;
mod serving;
mod traefik;
mod triton;
mod vllm;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::promql::{LabelName, Matcher, Pattern, Selector};
use crate::{
    api::CustomEvidence,
    evidence::{BlindReason, Side, Versions},
};

/// The labels of one series.
pub(super) type Labels = BTreeMap<String, String>;

/// Whose counters are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// The bundled router: its Envoy pods count each version's requests as one cluster, named
    /// `<namespace>/<name>/<revision>`. They see what callers see, connection failures included.
    Envoy {
        /// Namespace of the router's pods.
        namespace: String,
        /// Name of the router's Deployment.
        deployment: String,
    },
    /// The serving pods' own counters, for routers that report none. A pod that cannot be reached
    /// counts nothing.
    ///
    /// Versions are distinguished by pod name, since two revisions may serve one model version. The
    /// name of the ModelDeployment must have at most 48 characters: beyond that, Kubernetes cuts
    /// the revision out of the pod's name.
    Serving,
    /// Istio's proxies: the callers' sidecars and gateways, or the waypoint in ambient mode.
    Istio {
        /// Whether the waypoint reports (ambient mode), not the callers' sidecars.
        waypoint: bool,
    },
    /// Linkerd's proxies beside the serving pods.
    Linkerd,
    /// ingress-nginx: the Ingress that has the ModelDeployment's name, and its canary.
    IngressNginx,
    /// Traefik: the Services of the versions.
    Traefik,
    /// vLLM's own counters in the serving pods. Its latency is the time to the first token.
    Vllm,
    /// Triton's own counters in the serving pods. Its latency is the time to the first response.
    Triton,
    /// Counters that the user names.
    Custom(CustomEvidence),
}

/// What a source's series are and mean, for two given versions.
#[derive(Clone, Debug)]
pub(super) struct Template {
    /// What all scrape targets of the source satisfy: conditions on target labels, so they hold for
    /// `up` too.
    pub targets: Vec<Matcher>,
    /// What all series satisfy besides. Where `up` is read along, it must satisfy them, too.
    pub series: Vec<Matcher>,
    /// The label that distinguishes the two versions.
    pub version_label: LabelName,
    /// Its values for the canary.
    pub canary: Pattern,
    /// Its values for stable.
    pub stable: Pattern,
    /// What proves that a target was scraped.
    pub proof: Proof,
    /// Counters of answers by status, where the source has any.
    pub errors: Option<Errors>,
    /// Histogram of durations, where the source has one.
    pub latency: Option<Latency>,
}

/// What proves that a target was scraped, so that a missing series means no requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// `up` of the versions' own pods: the version label is a target label, so each target serves
    /// one version.
    OwnUp,
    /// `up` of a router, whose targets serve both versions.
    RouterUp,
    /// Any sample of either version. For proxies that serve others as well (all callers of a mesh,
    /// an ingress controller), so that no `up` belongs to this model alone. They report both
    /// versions, so a sample of the one proves that a missing one of the other means no requests.
    Samples,
}

/// Counters of answers by status.
#[derive(Clone, Debug)]
pub(super) struct Errors {
    /// Their names.
    pub metrics: Vec<String>,
    /// Conditions besides those on target, series and version. `up` must satisfy them, too.
    pub matchers: Vec<Matcher>,
    /// What an increase by one of the series with these labels adds.
    pub outcome: Outcome,
}

/// How the labels give the outcome of a request.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// By rules of the source.
    Known(fn(&Labels) -> Contribution),
    /// By rules of the user.
    Declared(custom::Rules),
}

/// Histogram of durations.
#[derive(Clone, Debug)]
pub(super) struct Latency {
    /// Name of its `_bucket` series.
    pub buckets: String,
    /// The unit of `le`: how many of it make a second.
    pub per_second: f64,
}

/// What an increase of a counter by one adds to its version's tally. Parts may be negative: "of
/// these, so many were not bad".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Contribution {
    /// To the requests.
    pub requests: i64,
    /// To the bad ones.
    pub bad: i64,
}

impl Contribution {
    /// One request, answered well.
    pub(super) const GOOD: Self = Self {
        requests: 1,
        bad: 0,
    };
    /// One request, answered badly.
    pub(super) const BAD: Self = Self {
        requests: 1,
        bad: 1,
    };
    /// A request that does not count.
    pub(super) const NONE: Self = Self {
        requests: 0,
        bad: 0,
    };
    /// A request that does not count, though another series counts it as a good one.
    pub(super) const NOT_COUNTED_AFTER_ALL: Self = Self {
        requests: -1,
        bad: 0,
    };
    /// A request that turned out bad, which another series counts as a good one.
    pub(super) const BAD_AFTER_ALL: Self = Self {
        requests: 0,
        bad: 1,
    };
}

/// The outcome of a request by its HTTP status code: 5xx is bad. 429 (shed load) and 1xx (not
/// final) do not count.
fn by_code(code: &str) -> Contribution {
    match code.as_bytes() {
        b"429" => Contribution::NONE,
        [b'2'..=b'4', _, _] => Contribution::GOOD,
        [b'5', _, _] => Contribution::BAD,
        _ => Contribution::NONE,
    }
}

impl Source {
    /// The series of these versions.
    pub(super) fn template(&self, versions: &Versions) -> Template {
        match self {
            Self::Envoy {
                namespace,
                deployment,
            } => envoy::template(namespace, deployment, versions),
            Self::Serving => serving::template(versions),
            Self::Istio { waypoint } => istio::template(*waypoint, versions),
            Self::Linkerd => linkerd::template(versions),
            Self::IngressNginx => ingress_nginx::template(versions),
            Self::Traefik => traefik::template(versions),
            Self::Vllm => vllm::template(versions),
            Self::Triton => triton::template(versions),
            Self::Custom(custom) => custom::template(custom, versions),
        }
    }
}

impl Outcome {
    /// What an increase by one of the series with these labels adds.
    pub(super) fn of(&self, labels: &Labels) -> Contribution {
        match self {
            Self::Known(contribution) => contribution(labels),
            Self::Declared(rules) => rules.contribution(labels),
        }
    }
}

impl Template {
    /// A template of the pods of the Deployments `<name>-<revision>`, without any counters yet.
    fn of_pods(versions: &Versions) -> Self {
        let pods = |revision: &str| Pattern::PodsOf(format!("{}-{revision}", versions.name));
        Self {
            targets: vec![Matcher::equal("namespace", versions.namespace.clone())],
            series: Vec::new(),
            version_label: "pod".into(),
            canary: pods(&versions.canary),
            stable: pods(&versions.stable),
            proof: Proof::OwnUp,
            errors: None,
            latency: None,
        }
    }

    /// The counters of answers, if the source has any.
    pub(super) fn errors(&self) -> Result<&Errors, BlindReason> {
        self.errors.as_ref().ok_or(BlindReason::SourceLacks {
            what: "counter of answers".to_owned(),
            setting: "requests".to_owned(),
        })
    }

    /// The histogram of durations, if the source has one.
    pub(super) fn latency(&self) -> Result<&Latency, BlindReason> {
        self.latency.as_ref().ok_or(BlindReason::SourceLacks {
            what: "histogram of durations".to_owned(),
            setting: "latency".to_owned(),
        })
    }

    /// The series of `metrics` for both versions.
    pub(super) fn selector<'a>(&self, metrics: impl IntoIterator<Item = &'a str>) -> Selector {
        let versions = vec![self.canary.clone(), self.stable.clone()];
        let versions = Matcher::AnyOf(self.version_label.clone(), versions);
        self.narrowed(Selector::of_metrics(metrics), versions)
    }

    /// The series of `metrics` for stable alone.
    pub(super) fn selector_of_stable<'a>(
        &self,
        metrics: impl IntoIterator<Item = &'a str>,
    ) -> Selector {
        let stable = Matcher::AnyOf(self.version_label.clone(), vec![self.stable.clone()]);
        self.narrowed(Selector::of_metrics(metrics), stable)
    }

    /// The series of `metrics` for both versions, and `up` of the targets that they come from,
    /// where that is their [`Proof`].
    ///
    /// Both in one selector, so that one answer shows them at one moment: had they been asked for
    /// one after the other, a scrape in between would look like a target that was up and had no
    /// such series.
    pub(super) fn selector_with_up<'a>(
        &self,
        metrics: impl IntoIterator<Item = &'a str>,
    ) -> Selector {
        if self.proof == Proof::Samples {
            return self.selector(metrics);
        }
        let versions = vec![self.canary.clone(), self.stable.clone()];
        let label = self.version_label.clone();
        let versions = match self.proof {
            Proof::RouterUp => Matcher::AnyOfOrAbsent(label, versions),
            Proof::OwnUp | Proof::Samples => Matcher::AnyOf(label, versions),
        };
        self.narrowed(
            Selector::of_metrics(metrics.into_iter().chain(["up"])),
            versions,
        )
    }

    fn narrowed(&self, mut selector: Selector, versions: Matcher) -> Selector {
        selector.push(self.targets.iter().cloned());
        selector.push([versions]);
        selector.push(self.series.iter().cloned());
        selector
    }

    /// The value of the version label, `""` where it is absent.
    pub(super) fn version<'a>(&self, labels: &'a Labels) -> &'a str {
        labels
            .get(self.version_label.as_str())
            .map_or("", String::as_str)
    }

    /// The version whose requests the series with these labels counts.
    ///
    /// Where `up` is read along, the query lets series pass that lack a label of [`Self::series`]
    /// altogether. A counter must have them all.
    pub(super) fn side(&self, labels: &Labels) -> Option<Side> {
        let is_meant = self.series.iter().all(|matcher| matcher.holds(labels));
        let sides = [Side::Canary, Side::Stable];
        let side = sides.into_iter().find(|side| self.is_of(labels, *side));
        side.filter(|_| is_meant)
    }

    /// Whether the target with these labels would report requests of `side`.
    pub(super) fn target_serves(&self, labels: &Labels, side: Side) -> bool {
        self.proof != Proof::OwnUp || self.is_of(labels, side)
    }

    /// Whether these labels name the version of `side`. Before a trial, and in a backtest, both
    /// sides are one version.
    pub(super) fn is_of(&self, labels: &Labels, side: Side) -> bool {
        let pattern = match side {
            Side::Canary => &self.canary,
            Side::Stable => &self.stable,
        };
        pattern.matches(self.version(labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_by_code() {
        for (code, expected) in [
            ("100", Contribution::NONE),
            ("200", Contribution::GOOD),
            ("302", Contribution::GOOD),
            ("404", Contribution::GOOD),
            ("429", Contribution::NONE),
            ("500", Contribution::BAD),
            ("504", Contribution::BAD),
            ("5", Contribution::NONE),
            ("0", Contribution::NONE),
            ("", Contribution::NONE),
        ] {
            assert_eq!(by_code(code), expected, "{code}");
        }
    }
}
