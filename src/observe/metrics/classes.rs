//! Predictions by class.
//!
//! They are counted by the serving pods themselves, whatever routes to them:
//! `model_predictions_total` with a label `class`, one a class, as the bundled serving image
//! exports it. A server of one's own takes part by exporting the same.

use std::time::Duration;

use jiff::Timestamp;

use super::Client;
use super::answer::Matrix;
use super::count::Scraped;
use super::source::{Source, Template};
use crate::evidence::{BlindReason, Classes, Cursors, Span, Versions};

const METRIC: &str = "model_predictions_total";
const CLASS: &str = "class";

/// Reads the predictions that `cursors` has not counted yet, as of `at`. The error says why nothing
/// can be counted now; the caller keeps its cursors.
pub async fn read_classes(
    client: &Client,
    versions: &Versions,
    scrape_interval: Duration,
    cursors: &Cursors,
    at: Timestamp,
) -> Result<Classes, BlindReason> {
    let template = Source::Serving.template(versions);
    let span = cursors.span(at, scrape_interval);
    let query = template.selector_with_up([METRIC]).range(span.range);
    let reply = client.query(&query, at).await?;
    reply.check_clock(at, scrape_interval)?;
    classes(
        &reply.body,
        &template,
        span,
        query,
        cursors,
        at,
        scrape_interval,
    )
}

/// What the answer `body` to the query says.
pub(super) fn classes(
    body: &[u8],
    template: &Template,
    span: Span,
    query: String,
    cursors: &Cursors,
    at: Timestamp,
    scrape_interval: Duration,
) -> Result<Classes, BlindReason> {
    let scraped = Scraped::from_matrix(Matrix::parse(body)?, template.proof)?;
    let newest_sample = scraped
        .newest_sample(template, at, scrape_interval)
        .map_err(|reason| scraped.or_of_another_replica(reason, cursors, span, at))?;
    let ([canary, stable], carried) = scraped.count_by(template, cursors, scrape_interval, CLASS);
    Ok(Classes {
        canary,
        stable,
        cursors: cursors.advanced(&scraped.newest_by_instance(), &carried, scrape_interval),
        newest_sample,
        query,
        replayed: span.replayed,
        lost: span.lost,
    })
}
