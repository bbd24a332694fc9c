//! Traefik: the Services of the versions, whichever of its Kubernetes providers routes to them.
//!
//! It names a service `<namespace>-<service>-<port>@<provider>`. Its default bucket edges are 0.1,
//! 0.3, 1.2 and 5 s (`--metrics.prometheus.buckets`).

use super::super::promql::Pattern;
use super::{Errors, Labels, Latency, Outcome, Proof, Template, by_code};
use crate::evidence::Versions;

/// Series of the Services `<name>-<revision>`.
pub(super) fn template(versions: &Versions) -> Template {
    let service = |revision: &str| {
        Pattern::TraefikPortOf(format!(
            "{}-{}-{revision}",
            versions.namespace, versions.name
        ))
    };
    Template {
        targets: Vec::new(),
        series: Vec::new(),
        version_label: "service".into(),
        canary: service(&versions.canary),
        stable: service(&versions.stable),
        proof: Proof::Samples,
        errors: Some(Errors {
            metrics: vec!["traefik_service_requests_total".to_owned()],
            matchers: Vec::new(),
            outcome: Outcome::Known(|labels: &Labels| {
                by_code(labels.get("code").map_or("", String::as_str))
            }),
        }),
        latency: Some(Latency {
            buckets: "traefik_service_request_duration_seconds_bucket".to_owned(),
            per_second: 1.0,
        }),
    }
}
