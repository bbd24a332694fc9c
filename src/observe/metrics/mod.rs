//! One window of evidence from Prometheus, read into counts.
//!
//! ```text
//! Cursors ─► Span ─► PromQL ─► Client ─► Matrix ─► counts per version ─► Window { look, … }
//! (what was counted)          (I/O)                (pure)
//! ```
//!
//! Three ideas carry this module:
//!
//! - **Samples, not rates.** The query is a raw range selector sent as an instant query
//!   (`metric{…}[61s]` at a `time`), so the answer holds the samples as they were scraped. `rate()`
//!   and `increase()` need two samples, so they lose the first 5xx of a new series, and they
//!   extrapolate to the edges of the window; we difference the counters ourselves (`count.rs`).
//! - **Exactly once.** All samples of one scrape of one target share one timestamp. [`Cursors`]
//!   remembers per target up to which timestamp scrapes have been counted, so polls may be
//!   repeated, split, late, or in another order, and an outage of Prometheus or of the operator is
//!   replayed, yet no request counts twice. It also remembers what the counters stood at, so
//!   replicas of Prometheus, which scrape at different times, may take turns (`replicas.rs`).
//! - **Absence must be proven.** Each query reads `up` along with the counters, in the same answer.
//!   A series that is missing while its target was scraped means zero requests; missing without a
//!   scraped target means [`BlindReason`].
//!
//! What counts: every answered request except 1xx (not final) and 429. A 429 is shed load: neither
//! good (a version that turns all traffic away must not look healthy and be promoted) nor bad (a
//! quota may be what it has to enforce). 5xx is bad; the other 4xx are the client's fault and
//! thus good answers. So is, at the bundled router, an answer that breaks off after its headers.
//!
//! Prometheus must keep the target labels `namespace`, `pod` and `instance` on what it scrapes,
//! `honor_labels` off (the default), so that no pod can pass off its numbers as another's. A store
//! that ingests the series of one scrape at different times (sharded remote write) must be read
//! with an `at` that lies far enough in the past for scrapes to be complete.

mod answer;
mod classes;
mod client;
mod count;
mod edges;
mod preflight;
mod promql;
mod query;
mod replicas;
mod source;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use classes::read_classes;
pub use client::{Client, ClientError, Transport};
pub use count::STALE_SCRAPES;
pub use preflight::{preflight, preflight_classes, preflight_query};
pub use query::read_value;
pub use source::Source;

use crate::evidence::{BlindReason, Cursors, Snapped, Span, Versions, Window};
use answer::{Matrix, Values, Vector};
use promql::Selector;
use source::Template;

/// How far back stable's histogram is read for "no slower than stable".
const STABLES_PAST: Duration = Duration::from_secs(60 * 60);

/// What one gate asks of Prometheus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// Whose counters are read.
    pub source: Source,
    /// Which two versions are compared.
    pub versions: Versions,
    /// Which requests are bad.
    pub objective: Objective,
    /// How often Prometheus scrapes the source's targets.
    pub scrape_interval: Duration,
}

/// Which requests are bad. How many of them may be is the gate's business.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Objective {
    /// A request is bad when it was answered with 5xx.
    ErrorRate,
    /// A request is bad when it took longer than `max`, snapped down to a bucket edge (see
    /// [`Snapped`]). `p99 ≤ max` is the same as "at most 1 % of the requests are bad".
    Latency {
        /// The longest a good request may take.
        max: Duration,
    },
    /// A request is bad when it took longer than stable's `quantile` of the last hour and `by`
    /// more, snapped down to a bucket edge. Once known, the threshold stays for the whole rollout.
    LatencyOfStable {
        /// The quantile, 0 to 1.
        quantile: f64,
        /// How much longer than stable's, 0.2 for 20 %.
        by: f64,
    },
}

/// Reads the evidence that `cursors` has not counted yet, as of `at`. `known` is the threshold that
/// earlier windows of the rollout used, if they had one.
///
/// On [`BlindReason`] the caller keeps its cursors; what was missed is then read by a later call.
pub async fn read(
    client: &Client,
    question: &Question,
    cursors: &Cursors,
    known: Option<&Snapped>,
    at: Timestamp,
) -> Result<Window, BlindReason> {
    let plan = Plan::new(question, cursors, at);
    let threshold = match (plan.threshold_query(known)?, question.objective) {
        (None, _) => known.cloned(),
        (Some(query), objective) => {
            let reply = client.query(&query, at).await?;
            reply.check_clock(at, question.scrape_interval)?;
            plan.threshold(objective, &reply.body)?
        }
    };
    let query = plan.counts_query(threshold.as_ref())?;
    let reply = client.query(&query, at).await?;
    reply.check_clock(at, question.scrape_interval)?;
    let cursors = if known == threshold.as_ref() {
        cursors
    } else {
        &cursors.clone().without_standings()
    };
    plan.window(&reply.body, threshold, query, cursors, at)
}

/// The PromQL that [`read`] sends at `at`, in order. For a latency objective the second query
/// depends on the first one's answer; it is included when `threshold` holds that answer. An error
/// where the objective cannot be expressed with this source.
pub fn plan_queries(
    question: &Question,
    cursors: &Cursors,
    at: Timestamp,
    threshold: Option<&Snapped>,
) -> Result<Vec<String>, BlindReason> {
    let plan = Plan::new(question, cursors, at);
    let first = plan.threshold_query(None)?;
    let second = match (&first, threshold) {
        (Some(_), None) => None,
        _ => Some(plan.counts_query(threshold)?),
    };
    Ok(first.into_iter().chain(second).collect())
}

/// The pure part of a reading: which queries to send, and what their answers mean.
struct Plan<'a> {
    question: &'a Question,
    template: Template,
    span: Span,
}

impl<'a> Plan<'a> {
    fn new(question: &'a Question, cursors: &Cursors, at: Timestamp) -> Self {
        Self {
            question,
            template: question.source.template(&question.versions),
            span: cursors.span(at, question.scrape_interval),
        }
    }

    /// Asks for what the threshold of a latency objective follows from: the bucket edges, or
    /// stable's histogram of the last hour. `None` where none is needed.
    fn threshold_query(&self, known: Option<&Snapped>) -> Result<Option<String>, BlindReason> {
        let template = &self.template;
        Ok(match self.question.objective {
            Objective::ErrorRate => None,
            Objective::Latency { .. } => {
                let buckets = template.selector([template.latency()?.buckets.as_str()]);
                Some(format!(
                    "count by (le,{}) (last_over_time({}))",
                    template.version_label,
                    buckets.range(self.span.range)
                ))
            }
            Objective::LatencyOfStable { .. } if known.is_some() => None,
            Objective::LatencyOfStable { .. } => {
                let buckets = template.selector_of_stable([template.latency()?.buckets.as_str()]);
                Some(format!(
                    "sum by (le) (increase({}))",
                    buckets.range(STABLES_PAST)
                ))
            }
        })
    }

    /// What the answer to [`Self::threshold_query`] says.
    fn threshold(&self, objective: Objective, body: &[u8]) -> Result<Option<Snapped>, BlindReason> {
        match objective {
            Objective::ErrorRate => Ok(None),
            Objective::Latency { max } => edges::snap(&Vector::parse(body)?, &self.template, max),
            Objective::LatencyOfStable { quantile, by } => {
                edges::snap_to_stable(&Values::parse(body)?.0, &self.template, quantile, by)
            }
        }
    }

    /// Asks for the samples to count, and for `up`, in one answer.
    fn counts_query(&self, threshold: Option<&Snapped>) -> Result<String, BlindReason> {
        Ok(self.counts_selector(threshold)?.range(self.span.range))
    }

    fn counts_selector(&self, threshold: Option<&Snapped>) -> Result<Selector, BlindReason> {
        let template = &self.template;
        Ok(match self.question.objective {
            Objective::ErrorRate => {
                let errors = template.errors()?;
                let metrics = errors.metrics.iter().map(String::as_str);
                let mut selector = template.selector_with_up(metrics);
                selector.push(errors.matchers.iter().cloned());
                selector
            }
            Objective::Latency { .. } | Objective::LatencyOfStable { .. } => {
                let mut selector =
                    template.selector_with_up([template.latency()?.buckets.as_str()]);
                selector.push([edges::matcher(threshold)]);
                selector
            }
        })
    }

    fn window(
        &self,
        body: &[u8],
        threshold: Option<Snapped>,
        query: String,
        cursors: &Cursors,
        at: Timestamp,
    ) -> Result<Window, BlindReason> {
        let template = &self.template;
        let scrape = self.question.scrape_interval;
        let scraped = count::Scraped::from_matrix(Matrix::parse(body)?, template.proof)?;
        let newest_sample = scraped
            .newest_sample(template, at, scrape)
            .map_err(|reason| scraped.or_of_another_replica(reason, cursors, self.span, at))?;
        let counted = match (self.question.objective, &threshold) {
            (Objective::ErrorRate, _) => {
                let errors = template.errors()?;
                let outcome = |labels: &source::Labels| errors.outcome.of(labels);
                Some(scraped.count(template, cursors, scrape, outcome))
            }
            // Nothing can be counted yet, so nothing counts as counted.
            (Objective::LatencyOfStable { .. }, None) => None,
            (_, threshold) => {
                scraped.require_edges(template, threshold.as_ref())?;
                let contribution = edges::contribution(threshold.as_ref());
                Some(scraped.count(template, cursors, scrape, contribution))
            }
        };
        let look = counted.as_ref().map(|(look, _)| *look).unwrap_or_default();
        Ok(Window {
            cursors: match counted {
                Some((_, carried)) => {
                    cursors.advanced(&scraped.newest_by_instance(), &carried, scrape)
                }
                None => cursors.clone(),
            },
            look,
            newest_sample,
            threshold,
            query,
            replayed: self.span.replayed,
            lost: self.span.lost,
        })
    }
}
