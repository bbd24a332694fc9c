//! Whether an objective can be measured at all, asked before a version gets traffic: of the series
//! of the version that serves, since the new one has none yet.

use std::time::Duration;

use jiff::Timestamp;

use super::query::read_value;
use super::{Client, Question, read, read_classes};
use crate::evidence::{BlindReason, Cursors, Side, Versions};

/// How far back requests of stable are looked for.
const LOOK_BACK: Duration = Duration::from_secs(10 * 60);

/// Tries what a gate that counts requests will read. The error says why it could not.
pub async fn preflight(
    client: &Client,
    question: &Question,
    at: Timestamp,
) -> Result<(), BlindReason> {
    let question = Question {
        versions: stable_alone(&question.versions),
        ..question.clone()
    };
    let template = question.source.template(&question.versions);
    let window = read(client, &question, &since(at), None, at).await;
    let window = window.map_err(of_stable)?;
    if window.look.requests() > 0 || window.threshold.is_some() {
        return Ok(());
    }
    Err(BlindReason::NothingCounted {
        metric: match question.objective {
            super::Objective::ErrorRate => template.errors()?.metrics.join(" or "),
            _ => template.latency()?.buckets.clone(),
        },
        within: LOOK_BACK,
    })
}

/// Tries what a gate that compares predictions will read. The error says why it could not.
pub async fn preflight_classes(
    client: &Client,
    versions: &Versions,
    scrape_interval: Duration,
    at: Timestamp,
) -> Result<(), BlindReason> {
    let versions = stable_alone(versions);
    let classes = read_classes(client, &versions, scrape_interval, &since(at), at).await;
    if classes.map_err(of_stable)?.canary.is_empty() {
        return Err(BlindReason::NothingCounted {
            metric: "model_predictions_total".to_owned(),
            within: LOOK_BACK,
        });
    }
    Ok(())
}

/// Tries a query of the user's. That it gives no value, or several, may change once the new version
/// has traffic; what Prometheus refuses, and the type of the answer, will not.
pub async fn preflight_query(
    client: &Client,
    versions: &Versions,
    promql: &str,
    scrape_interval: Duration,
    at: Timestamp,
) -> Result<(), BlindReason> {
    match read_value(client, versions, promql, scrape_interval, at).await {
        Err(
            BlindReason::QueryGaveNothing
            | BlindReason::QueryGaveSeveral { .. }
            | BlindReason::QueryGaveNotFinite { .. },
        )
        | Ok(_) => Ok(()),
        Err(reason) => Err(reason),
    }
}

/// Both versions are the one that serves, so that nothing is asked about the other.
fn stable_alone(versions: &Versions) -> Versions {
    Versions {
        canary: versions.stable.clone(),
        ..versions.clone()
    }
}

fn since(at: Timestamp) -> Cursors {
    let ms = i64::try_from(LOOK_BACK.as_millis()).unwrap_or(i64::MAX);
    Cursors::starting_at(at.as_millisecond().saturating_sub(ms))
}

/// What was found of "the canary" was found of stable.
fn of_stable(reason: BlindReason) -> BlindReason {
    let side = Side::Stable;
    match reason {
        BlindReason::NoTarget { .. } => BlindReason::NoTarget { side },
        BlindReason::Stale { age, limit, .. } => BlindReason::Stale { side, age, limit },
        other => other,
    }
}
