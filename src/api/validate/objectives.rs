//! Checks of the objectives, and of the evidence source that they need.

use std::collections::BTreeSet;

use super::{Invalid, invalid, is_positive};
use crate::api::{
    CustomEvidence, EvidenceSource, Gate, GateKind, ModelDeploymentSpec, Objective, QueryObjective,
    promql, spec::POSITIVE_REMEDY, variables,
};

const QUANTILE: &str = "expected a number between 0 and 1 (both excluded), such as 0.99";
const METRIC: &str = "expected the name of a metric: letters, digits, _ and :, no digit first";
const LABEL: &str = "expected the name of a label: letters, digits and _, no digit first";

/// Checks the objectives.
pub(super) fn check_objectives(spec: &ModelDeploymentSpec, errors: &mut Vec<Invalid>) {
    let objectives = &spec.objectives;
    if objectives.is_empty() || objectives.len() > 8 {
        errors.push(invalid(
            "spec.objectives",
            "expected 1 to 8; without one nothing could be judged",
        ));
    }
    for (index, objective) in objectives.iter().enumerate() {
        check_objective(&format!("spec.objectives[{index}]"), objective, errors);
    }
    let gates = spec.gates();
    check_names(objectives, &gates, errors);
    check_kinds(&gates, errors);
}

/// Refuses a name that two objectives share, or an objective and a gate of `noWorseThanStable`.
fn check_names(objectives: &[Objective], gates: &[Gate], errors: &mut Vec<Invalid>) {
    if let Some(name) = twice(objectives.iter().map(|objective| &*objective.name)) {
        errors.push(invalid(
            "spec.objectives",
            format!("two objectives have the same name, {name}; rename one"),
        ));
    } else if let Some(name) = twice(gates.iter().map(|gate| &*gate.name)) {
        errors.push(invalid(
            "spec.objectives",
            format!(
                "{name} is also the name of a gate of noWorseThanStable (NAME-latency, \
                 NAME-error-rate); rename one"
            ),
        ));
    }
}

/// Refuses two gates that measure the same: one of their limits has no effect, and both share the
/// chances of error. Queries are excepted, since each measures what it asks for.
fn check_kinds(gates: &[Gate], errors: &mut Vec<Invalid>) {
    let measured = gates
        .iter()
        .filter(|gate| !matches!(gate.kind, GateKind::Query(_)))
        .map(Gate::measures);
    if let Some(measured) = twice(measured) {
        errors.push(invalid(
            "spec.objectives",
            format!("{measured} is declared twice; keep one"),
        ));
    }
}

/// The first value that comes a second time.
fn twice<T: Ord + Clone>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut seen = BTreeSet::new();
    values.into_iter().find(|value| !seen.insert(value.clone()))
}

fn check_objective(field: &str, objective: &Objective, errors: &mut Vec<Invalid>) {
    let mut wrong = |member: &str, remedy: &str| {
        errors.push(invalid(format!("{field}{member}"), remedy));
    };
    if !super::is_label(&objective.name) || objective.name.len() > 40 {
        wrong(
            ".name",
            "expected at most 40 small letters, digits and dashes, with a letter or digit at both \
             ends",
        );
    }
    check_source(objective, &mut wrong);
    let set = [
        objective.latency.is_some(),
        objective.error_rate.is_some(),
        objective.no_worse_than_stable.is_some(),
        objective.prediction_drift.is_some(),
        objective.query.is_some(),
    ];
    if set.into_iter().filter(|set| *set).count() != 1 {
        wrong(
            "",
            "each entry sets exactly one of latency, errorRate, noWorseThanStable, predictionDrift \
             and query",
        );
        return;
    }
    if let Some(latency) = &objective.latency {
        if !is_quantile(latency.quantile) {
            wrong(".latency.quantile", QUANTILE);
        }
        if !is_positive(latency.max) {
            wrong(".latency.max", POSITIVE_REMEDY);
        }
    }
    if let Some(of_errors) = &objective.error_rate
        && !is_open_share(of_errors.max.share())
    {
        wrong(
            ".errorRate.max",
            "above 0% and below 100%; an objective of 0% could never be shown to hold",
        );
    }
    if let Some(no_worse) = &objective.no_worse_than_stable {
        if no_worse.latency.is_none() && no_worse.error_rate.is_none() {
            wrong(".noWorseThanStable", "set latency, errorRate or both");
        }
        if let Some(latency) = &no_worse.latency
            && !is_quantile(latency.quantile)
        {
            wrong(".noWorseThanStable.latency.quantile", QUANTILE);
        }
        if let Some(margin) = no_worse.error_rate
            && !is_open_share(margin.share())
        {
            wrong(
                ".noWorseThanStable.errorRate",
                "above 0% and below 100%; that two versions are exactly alike could never be shown",
            );
        }
    }
    if let Some(drift) = &objective.prediction_drift
        && !(drift.max > 0.0 && drift.max <= 10.0)
    {
        wrong(
            ".predictionDrift.max",
            "expected a population stability index above 0, such as 0.2",
        );
    }
    if let Some(query) = &objective.query {
        check_query(query, &mut wrong);
    }
}

fn check_query(query: &QueryObjective, wrong: &mut impl FnMut(&str, &str)) {
    match (query.min, query.max) {
        (None, None) => wrong(".query", "set min, max or both"),
        (Some(min), Some(max)) if min > max => wrong(".query", "min is above max"),
        _ => {}
    }
    if query.promql.len() > 2048 {
        wrong(".query.promql", "expected at most 2048 characters");
    } else if let Err(refused) = promql::check(&query.promql) {
        wrong(".query.promql", &refused.to_string());
    }
}

/// Checks whose counters an objective reads, and that they count what it needs.
fn check_source(objective: &Objective, wrong: &mut impl FnMut(&str, &str)) {
    let reads_own = objective.prediction_drift.is_some() || objective.query.is_some();
    if reads_own && objective.source.is_some() {
        wrong(
            ".source",
            "predictionDrift reads the serving pods and a query names its own metrics; remove it",
        );
    }
    let is_custom = objective.source == Some(EvidenceSource::Custom);
    if objective.custom.is_some() != is_custom {
        wrong(
            ".custom",
            "set it together with source: Custom, and only then",
        );
    }
    let Some(custom) = &objective.custom else {
        return;
    };
    check_custom(custom, wrong);
    let gates = objective.gates();
    let counts_errors = |gate: &Gate| gate.kind.counts_errors();
    let times_answers = |gate: &Gate| gate.kind.counts_requests() && !gate.kind.counts_errors();
    if custom.requests.is_none() && gates.iter().any(counts_errors) {
        wrong(
            ".custom.requests",
            "an error rate needs a counter of answers; name one",
        );
    }
    if custom.latency.is_none() && gates.iter().any(times_answers) {
        wrong(
            ".custom.latency",
            "a latency needs a histogram of durations; name one",
        );
    }
}

fn check_custom(custom: &CustomEvidence, of_objective: &mut impl FnMut(&str, &str)) {
    let mut wrong = |member: &str, remedy: &str| of_objective(&format!(".custom{member}"), remedy);
    if custom.requests.is_none() && custom.latency.is_none() {
        wrong("", "name requests, latency or both");
    }
    if let Some(requests) = &custom.requests {
        if !is_metric(&requests.metric) {
            wrong(".requests.metric", METRIC);
        }
        if !is_label_name(&requests.label) {
            wrong(".requests.label", LABEL);
        }
        if requests.bad.is_empty() {
            wrong(".requests.bad", "name at least one value, such as \"5*\"");
        }
    }
    if let Some(latency) = &custom.latency {
        if !is_metric(&latency.metric) {
            wrong(".latency.metric", METRIC);
        } else if latency.metric.ends_with("_bucket") {
            wrong(
                ".latency.metric",
                "name the histogram without its ending _bucket",
            );
        }
    }
    if let Some(version) = &custom.version {
        if !is_label_name(&version.label) {
            wrong(".version.label", LABEL);
        }
        let known = ["name", "namespace", "revision"];
        if let Some(variable) = variables::unknown(&version.value, &known) {
            wrong(
                ".version.value",
                &format!(
                    "there is no variable {{{{{variable}}}}}; there are name, namespace and \
                     revision"
                ),
            );
        }
        let of = |revision| variables::filled(&version.value, &[("revision", revision)]);
        if of("0") == of("1") {
            wrong(
                ".version.value",
                "without {{revision}} the two versions cannot be told apart",
            );
        }
    }
    for label in custom.labels.keys() {
        if !is_label_name(label) || ["namespace", "le"].contains(&label.as_str()) {
            wrong(
                ".labels",
                "a label's name is letters, digits and _, and neither namespace nor le",
            );
        }
    }
}

fn is_quantile(quantile: f64) -> bool {
    quantile > 0.0 && quantile < 1.0
}

fn is_open_share(share: f64) -> bool {
    share > 0.0 && share < 1.0
}

fn is_metric(name: &str) -> bool {
    is_identifier(name, ":") && name.len() <= 200
}

fn is_label_name(name: &str) -> bool {
    is_identifier(name, "") && name.len() <= 100
}

fn is_identifier(name: &str, besides: &str) -> bool {
    let fits = |c: char| c == '_' || c.is_ascii_alphanumeric() || besides.contains(c);
    name.starts_with(|c: char| !c.is_ascii_digit()) && name.chars().all(fits)
}
