//! Which histogram bucket stands for a latency objective.

use std::collections::BTreeMap;
use std::time::Duration;

use super::answer::Vector;
use super::promql::{Matcher, Pattern};
use super::source::{Contribution, Labels, Latency, Template};
use crate::evidence::{BlindReason, Snapped};

/// Two edges are the same when they differ by less than this share: `le` is printed decimal,
/// thresholds are binary.
const SAME: f64 = 1e-9;
const INFINITE: &str = "+Inf";
/// Stable's quantile is known once so many requests are expected above it: 500 requests for p99.
const LEAST_SLOW_REQUESTS: f64 = 5.0;

/// The largest edge at or below `max` that every pod or cluster in `series` has. `None` when no
/// series exists yet.
pub(super) fn snap(
    series: &Vector,
    template: &Template,
    max: Duration,
) -> Result<Option<Snapped>, BlindReason> {
    let latency = template.latency()?;
    let mut edges_of: BTreeMap<&str, Vec<(f64, &str)>> = BTreeMap::new();
    for labels in &series.0 {
        let edges = edges_of.entry(template.version(labels)).or_default();
        if let Some(le) = labels.get("le") {
            let edge = seconds(le, latency)?;
            if edge.is_finite() {
                edges.push((edge, le));
            }
        }
    }
    let Some(any) = edges_of.values().next() else {
        return Ok(None);
    };
    let shared = |edge: f64| {
        edges_of
            .values()
            .all(|edges| edges.iter().any(|(other, _)| same(edge, *other)))
    };
    let candidates = || {
        any.iter()
            .map(|(edge, _)| *edge)
            .filter(|edge| shared(*edge))
    };
    let limit = max.as_secs_f64() * (1.0 + SAME);
    let Some(edge) = candidates()
        .filter(|edge| *edge <= limit)
        .max_by(f64::total_cmp)
    else {
        return Err(BlindReason::NoBucketEdge {
            metric: latency.buckets.clone(),
            max,
            smallest: candidates().min_by(f64::total_cmp).and_then(duration),
        });
    };
    let mut spellings: Vec<String> = edges_of
        .values()
        .flatten()
        .filter(|(other, _)| same(edge, *other))
        .map(|(_, le)| (*le).to_owned())
        .collect();
    spellings.sort_unstable();
    spellings.dedup();
    Ok(Some(Snapped {
        asked: max,
        edge: duration(edge).unwrap_or_default(),
        spellings,
    }))
}

/// The threshold of "no slower than stable": the largest edge at or below stable's quantile and
/// `by` (0.2 for 20 %) more. `buckets` are stable's requests of late, by `le`.
///
/// Stable's quantile is only known up to a bucket, and taken as that bucket's upper edge: the
/// smallest one with a share of at most `1 − quantile` above it. `None` while stable has answered
/// too few requests for it, fewer than `5 / (1 − quantile)`.
pub(super) fn snap_to_stable(
    buckets: &[(Labels, f64)],
    template: &Template,
    quantile: f64,
    by: f64,
) -> Result<Option<Snapped>, BlindReason> {
    let latency = template.latency()?;
    let mut edges = Vec::new();
    let mut all = 0.0;
    for (labels, requests) in buckets {
        let le = labels.get("le").map_or("", String::as_str);
        let edge = seconds(le, latency)?;
        if edge.is_finite() {
            edges.push((edge, *requests, le));
        } else {
            all += *requests;
        }
    }
    let budget = 1.0 - quantile;
    if all < LEAST_SLOW_REQUESTS / budget {
        return Ok(None);
    }
    // One edge may have two spellings, each with requests of its own.
    let up_to = |edge: f64| -> f64 {
        let of_edge = edges.iter().filter(|(other, ..)| same(edge, *other));
        of_edge.map(|(_, requests, _)| requests).sum()
    };
    let holds = |edge: f64| all - up_to(edge) <= budget * all * (1.0 + SAME);
    let finite = || edges.iter().map(|(edge, ..)| *edge);
    let Some(stable) = finite().filter(|edge| holds(*edge)).min_by(f64::total_cmp) else {
        return Err(BlindReason::QuantileAboveEdges {
            metric: latency.buckets.clone(),
            quantile: format!("p{}", (quantile * 1e6).round() / 1e4),
            highest: finite()
                .max_by(f64::total_cmp)
                .and_then(duration)
                .unwrap_or_default(),
        });
    };
    let limit = stable * (1.0 + by);
    let edge = finite()
        .filter(|edge| *edge <= limit * (1.0 + SAME))
        .max_by(f64::total_cmp)
        .unwrap_or(stable);
    let mut spellings: Vec<String> = edges
        .iter()
        .filter(|(other, ..)| same(edge, *other))
        .map(|(_, _, le)| (*le).to_owned())
        .collect();
    spellings.sort_unstable();
    spellings.dedup();
    Ok(Some(Snapped {
        asked: duration(limit).unwrap_or_default(),
        edge: duration(edge).unwrap_or_default(),
        spellings,
    }))
}

/// A bucket edge in seconds.
fn seconds(le: &str, latency: &Latency) -> Result<f64, BlindReason> {
    let edge: f64 = le
        .parse()
        .map_err(|_| BlindReason::bad_answer(&format!("the bucket edge le={le:?} is no number")))?;
    Ok(edge / latency.per_second)
}

/// The buckets to read: the one at the threshold, and all requests.
pub(super) fn matcher(threshold: Option<&Snapped>) -> Matcher {
    let spellings = threshold.map_or(&[][..], |t| &t.spellings);
    let edges = spellings.iter().map(String::as_str).chain([INFINITE]);
    let edges = edges.map(|le| Pattern::Literal(le.to_owned())).collect();
    // `up` has no `le`.
    Matcher::AnyOfOrAbsent("le".into(), edges)
}

/// Buckets are cumulative: `+Inf` counts all requests, each bad until the bucket at the threshold
/// shows that it was fast.
pub(super) fn contribution(threshold: Option<&Snapped>) -> impl Fn(&Labels) -> Contribution {
    move |labels| {
        if is_infinite(labels) {
            Contribution::BAD
        } else if is_edge(labels, threshold) {
            Contribution {
                requests: 0,
                bad: -1,
            }
        } else {
            Contribution::NONE
        }
    }
}

/// Whether this is the bucket of all requests.
pub(super) fn is_infinite(labels: &Labels) -> bool {
    labels.get("le").is_some_and(|le| le == INFINITE)
}

/// Whether this is the bucket at the threshold.
pub(super) fn is_edge(labels: &Labels, threshold: Option<&Snapped>) -> bool {
    match (labels.get("le"), threshold) {
        (Some(le), Some(threshold)) => threshold.spellings.contains(le),
        _ => false,
    }
}

fn same(a: f64, b: f64) -> bool {
    (a - b).abs() <= SAME * a.abs().max(b.abs())
}

/// `seconds` to the microsecond, which hides the binary tail of a decimal edge.
fn duration(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64((seconds * 1e6).round() / 1e6).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::source::Source;
    use super::*;
    use crate::evidence::Versions;

    fn template(source: &Source) -> Template {
        source.template(&Versions {
            namespace: "ml".into(),
            name: "churn".into(),
            canary: "cccccccc".into(),
            stable: "55555555".into(),
        })
    }

    fn envoy() -> Template {
        template(&Source::Envoy {
            namespace: "serin-system".into(),
            deployment: "serin-router".into(),
        })
    }

    fn vector(label: &str, series: &[(&str, &[&str])]) -> Vector {
        let labels = series.iter().flat_map(|(version, edges)| {
            edges.iter().map(move |le| {
                Labels::from([
                    (label.into(), (*version).into()),
                    ("le".into(), (*le).into()),
                ])
            })
        });
        Vector(labels.collect())
    }

    #[test]
    fn the_threshold_snaps_down_to_an_edge() {
        let edges = vector("pod", &[("a", &["0.1", "0.25", "0.5", "+Inf"])]);
        let serving = template(&Source::Serving);
        for (asked, edge) in [(250, 250), (300, 250), (499, 250), (500, 500), (9_000, 500)] {
            let snapped = snap(&edges, &serving, Duration::from_millis(asked))
                .unwrap()
                .unwrap();
            assert_eq!(snapped.edge, Duration::from_millis(edge), "{asked} ms");
            assert_eq!(snapped.asked, Duration::from_millis(asked));
        }
    }

    #[test]
    fn envoy_counts_in_milliseconds() {
        let edges = vector(
            "envoy_cluster_name",
            &[("a", &["0.5", "1", "250", "500", "+Inf"])],
        );
        let snapped = snap(&edges, &envoy(), Duration::from_millis(300))
            .unwrap()
            .unwrap();
        assert_eq!(snapped.edge, Duration::from_millis(250));
        assert_eq!(snapped.spellings, ["250"]);
    }

    #[test]
    fn one_edge_may_have_two_spellings() {
        let edges = vector("pod", &[("a", &["1", "+Inf"]), ("b", &["1.0", "+Inf"])]);
        let snapped = snap(&edges, &template(&Source::Serving), Duration::from_secs(1))
            .unwrap()
            .unwrap();
        assert_eq!(snapped.spellings, ["1", "1.0"]);
        assert_eq!(
            matcher(Some(&snapped)).to_string(),
            r#"le=~"|1|1\\.0|\\+Inf""#
        );
    }

    #[test]
    fn both_versions_are_measured_at_an_edge_that_both_have() {
        let edges = vector(
            "pod",
            &[
                ("a", &["0.1", "0.25", "+Inf"]),
                ("b", &["0.1", "0.3", "+Inf"]),
            ],
        );
        let snapped = snap(&edges, &template(&Source::Serving), Duration::from_secs(1))
            .unwrap()
            .unwrap();
        assert_eq!(snapped.edge, Duration::from_millis(100));
    }

    #[test]
    fn without_an_edge_the_reason_says_the_smallest() {
        let edges = vector("pod", &[("a", &["0.1", "0.25", "+Inf"])]);
        let reason = snap(
            &edges,
            &template(&Source::Serving),
            Duration::from_millis(50),
        )
        .unwrap_err();
        assert_eq!(
            reason,
            BlindReason::NoBucketEdge {
                metric: "model_request_duration_seconds_bucket".into(),
                max: Duration::from_millis(50),
                smallest: Some(Duration::from_millis(100)),
            }
        );
    }

    fn buckets(counts: &[(&str, f64)]) -> Vec<(Labels, f64)> {
        let labels = |le: &str| Labels::from([("le".into(), le.into())]);
        counts.iter().map(|(le, n)| (labels(le), *n)).collect()
    }

    #[test]
    fn stables_quantile_and_its_margin_snap_down_to_an_edge() {
        let serving = template(&Source::Serving);
        let of_stable = buckets(&[
            ("0.1", 900.0),
            ("0.25", 991.0),
            ("0.3", 999.0),
            ("0.5", 1000.0),
            ("+Inf", 1000.0),
        ]);
        for (quantile, by, asked, edge) in [
            (0.99, 0.0, 250, 250),
            (0.99, 0.1, 275, 250),
            (0.99, 0.2, 300, 300),
            (0.9, 0.2, 120, 100),
            (0.999, 1.0, 600, 500),
        ] {
            let snapped = snap_to_stable(&of_stable, &serving, quantile, by);
            // 99.9 % needs 5,000 requests.
            let Some(snapped) = snapped.unwrap() else {
                assert!(quantile > 0.99);
                continue;
            };
            assert_eq!(snapped.asked, Duration::from_millis(asked), "{quantile}");
            assert_eq!(snapped.edge, Duration::from_millis(edge), "{quantile}");
        }
        let few = buckets(&[("0.1", 400.0), ("+Inf", 400.0)]);
        assert_eq!(snap_to_stable(&few, &serving, 0.99, 0.2), Ok(None));
        assert_eq!(snap_to_stable(&[], &serving, 0.99, 0.2), Ok(None));
    }

    #[test]
    fn a_quantile_above_all_edges_is_an_error() {
        let slow = buckets(&[("0.1", 10.0), ("0.5", 900.0), ("+Inf", 1000.0)]);
        assert_eq!(
            snap_to_stable(&slow, &template(&Source::Serving), 0.99, 0.2)
                .unwrap_err()
                .to_string(),
            "stable's p99 is above 500ms, \
             the highest bucket edge of model_request_duration_seconds_bucket: \
             add buckets above it, or declare the objective latency instead"
        );
    }

    #[test]
    fn no_series_is_no_threshold_yet() {
        let snapped = snap(&Vector(vec![]), &envoy(), Duration::from_secs(1)).unwrap();
        assert_eq!(snapped, None);
        assert_eq!(matcher(None).to_string(), r#"le=~"|\\+Inf""#);
    }
}
