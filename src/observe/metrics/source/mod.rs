//! Where the counters come from: one file a source.
//!
//! A source is a function from the two versions to a [`Template`], plain data that says which
//! series to read and what each of them means. To add one (a service mesh, another ingress), write
//! such a file and give it a variant of [`Source`].

mod envoy;
mod serving;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::promql::{Matcher, Pattern, Selector};

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
    /// Versions are told apart by pod name, since two revisions may serve one model version. The
    /// name of the ModelDeployment must have at most 48 characters: beyond that, Kubernetes cuts
    /// the revision out of the pod's name.
    Serving,
}

/// The two versions of one ModelDeployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Namespace of the ModelDeployment.
    pub namespace: String,
    /// Name of the ModelDeployment.
    pub name: String,
    /// Revision on trial.
    pub canary: String,
    /// Revision that it would replace.
    pub stable: String,
}

/// One of the two versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// The version on trial.
    Canary,
    /// The version that it would replace.
    Stable,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Canary => "canary",
            Self::Stable => "stable",
        })
    }
}

/// What a source's series are and mean, for two given versions.
#[derive(Clone, Debug)]
pub(super) struct Template {
    /// What all scrape targets of the source satisfy: conditions on target labels, so they hold for
    /// `up` too.
    pub targets: Vec<Matcher>,
    /// The label by which the two versions are told apart.
    pub version_label: &'static str,
    /// Its values for the canary.
    pub canary: Pattern,
    /// Its values for stable.
    pub stable: Pattern,
    /// Whether the version label is a target label, hence each target serves one version; else each
    /// target serves both.
    pub version_is_target: bool,
    /// Counters of answers by status.
    pub errors: Errors,
    /// Histogram of durations.
    pub latency: Latency,
}

/// Counters of answers by status.
#[derive(Clone, Debug)]
pub(super) struct Errors {
    /// Their names.
    pub metrics: &'static [&'static str],
    /// Conditions besides those on target and version. `up` must satisfy them, too.
    pub matchers: Vec<Matcher>,
    /// What an increase by one of the series with these labels adds.
    pub contribution: fn(&Labels) -> Contribution,
}

/// Histogram of durations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latency {
    /// Name of its `_bucket` series.
    pub buckets: &'static str,
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
    /// A request that says nothing.
    pub(super) const NONE: Self = Self {
        requests: 0,
        bad: 0,
    };
    /// A request that says nothing, though another series counts it as a good one.
    pub(super) const NOT_COUNTED_AFTER_ALL: Self = Self {
        requests: -1,
        bad: 0,
    };
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
        }
    }
}

impl Template {
    /// The series of `metrics` for both versions.
    pub(super) fn selector(&self, metrics: impl IntoIterator<Item = &'static str>) -> Selector {
        let versions = Matcher::AnyOf(self.version_label, self.versions());
        self.narrowed(Selector::of_metrics(metrics), versions)
    }

    /// The series of `metrics` for both versions, and `up` of the targets that they come from.
    ///
    /// Both in one selector, so that one answer shows them at one moment: had they been asked for
    /// one after the other, a scrape in between would look like a target that was up and had no
    /// such series.
    pub(super) fn selector_with_up(&self, metrics: &[&'static str]) -> Selector {
        let versions = if self.version_is_target {
            Matcher::AnyOf(self.version_label, self.versions())
        } else {
            Matcher::AnyOfOrAbsent(self.version_label, self.versions())
        };
        let metrics = metrics.iter().copied().chain(["up"]);
        self.narrowed(Selector::of_metrics(metrics), versions)
    }

    fn narrowed(&self, mut selector: Selector, versions: Matcher) -> Selector {
        selector.push(self.targets.iter().cloned());
        selector.push([versions]);
        selector
    }

    fn versions(&self) -> Vec<Pattern> {
        vec![self.canary.clone(), self.stable.clone()]
    }

    /// The version whose requests the series with these labels counts.
    pub(super) fn side(&self, labels: &Labels) -> Option<Side> {
        let version = labels.get(self.version_label)?;
        if self.canary.matches(version) {
            Some(Side::Canary)
        } else if self.stable.matches(version) {
            Some(Side::Stable)
        } else {
            None
        }
    }

    /// Whether the target with these labels would report requests of `side`.
    pub(super) fn target_serves(&self, labels: &Labels, side: Side) -> bool {
        !self.version_is_target || self.side(labels) == Some(side)
    }
}
