//! ingress-nginx: one Ingress with the ModelDeployment's name, and a canary Ingress beside it.
//!
//! Its series carry the Ingress' own `namespace`, so the controller has to be scraped with
//! `honorLabels: true`, as its Helm chart's ServiceMonitor does. Requests that the canary answered
//! name its upstream, `<namespace>-<service>-<port>`, in the label `canary`; the others leave it
//! empty. Durations include the time that a client takes to send and receive.

use super::super::promql::{Matcher, Pattern};
use super::{Errors, Labels, Latency, Outcome, Proof, Template, by_code};
use crate::evidence::Versions;

/// Series of the Ingress `<name>`.
pub(super) fn template(versions: &Versions) -> Template {
    let Versions {
        namespace,
        name,
        canary,
        ..
    } = versions;
    Template {
        targets: Vec::new(),
        series: vec![
            Matcher::equal("namespace", namespace.clone()),
            Matcher::equal("ingress", name.clone()),
        ],
        version_label: "canary".into(),
        canary: Pattern::PortOf(format!("{namespace}-{name}-{canary}")),
        stable: Pattern::Absent,
        proof: Proof::Samples,
        errors: Some(Errors {
            metrics: vec!["nginx_ingress_controller_requests".to_owned()],
            matchers: Vec::new(),
            outcome: Outcome::Known(|labels: &Labels| {
                by_code(labels.get("status").map_or("", String::as_str))
            }),
        }),
        latency: Some(Latency {
            buckets: "nginx_ingress_controller_request_duration_seconds_bucket".to_owned(),
            per_second: 1.0,
        }),
    }
}
