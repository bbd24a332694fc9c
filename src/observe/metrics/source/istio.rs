//! Istio's standard metrics, of sidecars and of waypoints.
//!
//! The reporter is the caller's side (`source`), or in ambient mode the waypoint: both see what
//! callers see, connection failures included. A caller that went away before the answer has code 0
//! and says nothing. Whoever may export metrics anywhere in the mesh can name any destination, as
//! with all of Istio's telemetry; Prometheus must scrape proxies only.

use super::super::promql::{Matcher, Pattern};
use super::{Errors, Labels, Latency, Outcome, Proof, Template, by_code};
use crate::evidence::Versions;

/// Series of requests to the workloads `<name>-<revision>`.
pub(super) fn template(waypoint: bool, versions: &Versions) -> Template {
    let workload = |revision: &str| Pattern::Literal(format!("{}-{revision}", versions.name));
    let reporter = if waypoint { "waypoint" } else { "source" };
    Template {
        targets: Vec::new(),
        series: vec![
            Matcher::equal("reporter", reporter),
            Matcher::equal("destination_workload_namespace", versions.namespace.clone()),
        ],
        version_label: "destination_workload".into(),
        canary: workload(&versions.canary),
        stable: workload(&versions.stable),
        proof: Proof::Samples,
        errors: Some(Errors {
            metrics: vec!["istio_requests_total".to_owned()],
            matchers: Vec::new(),
            outcome: Outcome::Known(|labels: &Labels| {
                by_code(labels.get("response_code").map_or("", String::as_str))
            }),
        }),
        latency: Some(Latency {
            buckets: "istio_request_duration_milliseconds_bucket".to_owned(),
            per_second: 1000.0,
        }),
    }
}
