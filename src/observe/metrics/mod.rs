//! One window of evidence from Prometheus, read into counts.
//!
//! ```text
//! Cursors ─► Span ─► PromQL ─► Client ─► Matrix ─► counts per version ─► Window { look, cursors, … }
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
//!   replayed, yet no request counts twice.
//! - **Absence must be proven.** Each query reads `up` along with the counters, in the same answer.
//!   A series that is missing while its target was scraped means zero requests; missing without a
//!   scraped target means [`BlindReason`].
//!
//! What counts: every answered request except 1xx (not final) and 429. A 429 is shed load: neither
//! good (a version that turns all traffic away must not look healthy and be promoted) nor bad (a
//! quota may be what it was told to enforce). 5xx is bad; the other 4xx are the client's fault and
//! thus good answers.
//!
//! Prometheus must keep the target labels `namespace`, `pod` and `instance` on what it scrapes,
//! `honor_labels` off (the default), so that no pod can pass off its numbers as another's. A store
//! that ingests the series of one scrape at different times (sharded remote write) must be read
//! with an `at` that lies far enough in the past for scrapes to be complete.

mod answer;
mod blind;
mod client;
mod count;
mod cursors;
mod edges;
mod promql;
mod reading;
mod source;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use blind::BlindReason;
pub use client::{Client, ClientError, Transport};
pub use cursors::{Cursors, Span};
pub use edges::Snapped;
pub use reading::{Classes, Reading, Value};
pub use source::{Side, Source, Versions};

use crate::rollout::gate::Look;
use answer::{Matrix, Vector};
use promql::Selector;
use source::Template;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Objective {
    /// A request is bad when it was answered with 5xx.
    ErrorRate,
    /// A request is bad when it took longer than `max`, snapped down to a bucket edge (see
    /// [`Snapped`]). `p99 ≤ max` is the same as "at most 1 % of the requests are bad".
    Latency {
        /// The longest a good request may take.
        max: Duration,
    },
}

/// One window of evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// The requests that no earlier window has counted. Zeros mean that none came, not that none
    /// was seen.
    pub look: Look,
    /// To be kept, and given to the next reading. Losing it loses or repeats evidence.
    pub cursors: Cursors,
    /// The scrape up to which both versions were seen: the older of the two versions' newest.
    pub newest_sample: Timestamp,
    /// The latency threshold really used. `None` for an error rate, and while no request has been
    /// timed yet.
    pub threshold: Option<Snapped>,
    /// The PromQL whose answer was counted, for people to repeat.
    pub query: String,
    /// How far back evidence was fetched after an outage of Prometheus or of the operator; `None`
    /// in the normal course.
    pub replayed: Option<Duration>,
    /// How much of an outage was too long ago to be fetched (see [`Span::lost`]).
    pub lost: Option<Duration>,
}

/// Reads the evidence that `cursors` has not counted yet, as of `at`.
///
/// On [`BlindReason`] the caller keeps its cursors; what was missed is then read by a later call.
pub async fn read(
    client: &Client,
    question: &Question,
    cursors: &Cursors,
    at: Timestamp,
) -> Result<Window, BlindReason> {
    let plan = Plan::new(question, cursors, at);
    let threshold = match (plan.edges_query(), question.objective) {
        (Some(query), Objective::Latency { max }) => {
            let reply = client.query(&query, at).await?;
            reply.check_clock(at, question.scrape_interval)?;
            edges::snap(&Vector::parse(&reply.body)?, &plan.template, max)?
        }
        _ => None,
    };
    let query = plan.counts_query(threshold.as_ref());
    let reply = client.query(&query, at).await?;
    reply.check_clock(at, question.scrape_interval)?;
    plan.window(&reply.body, threshold, query, cursors, at)
}

/// The PromQL that [`read`] sends at `at`, in order. For a latency objective the second query
/// depends on the first one's answer; it is included when `threshold` holds that answer.
pub fn plan_queries(
    question: &Question,
    cursors: &Cursors,
    at: Timestamp,
    threshold: Option<&Snapped>,
) -> Vec<String> {
    let plan = Plan::new(question, cursors, at);
    match plan.edges_query() {
        None => vec![plan.counts_query(None)],
        Some(edges) => std::iter::once(edges)
            .chain(threshold.map(|t| plan.counts_query(Some(t))))
            .collect(),
    }
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

    /// Asks for the bucket edges of a latency objective.
    fn edges_query(&self) -> Option<String> {
        let Objective::Latency { .. } = self.question.objective else {
            return None;
        };
        let buckets = self.template.selector([self.template.latency.buckets]);
        Some(format!(
            "count by (le,{}) (last_over_time({}))",
            self.template.version_label,
            buckets.range(self.span.range)
        ))
    }

    /// Asks for the samples to count, and for `up`, in one answer.
    fn counts_query(&self, threshold: Option<&Snapped>) -> String {
        self.counts_selector(threshold).range(self.span.range)
    }

    fn counts_selector(&self, threshold: Option<&Snapped>) -> Selector {
        match self.question.objective {
            Objective::ErrorRate => {
                let mut selector = self.template.selector_with_up(self.template.errors.metrics);
                selector.push(self.template.errors.matchers.iter().cloned());
                selector
            }
            Objective::Latency { .. } => {
                let mut selector = self
                    .template
                    .selector_with_up(&[self.template.latency.buckets]);
                selector.push([edges::matcher(threshold)]);
                selector
            }
        }
    }

    fn window(
        &self,
        body: &[u8],
        threshold: Option<Snapped>,
        query: String,
        cursors: &Cursors,
        at: Timestamp,
    ) -> Result<Window, BlindReason> {
        let scrape = self.question.scrape_interval;
        let scraped = count::Scraped::from_matrix(Matrix::parse(body)?)?;
        let newest_sample = scraped.newest_sample(&self.template, at, scrape)?;
        let look = match self.question.objective {
            Objective::ErrorRate => {
                scraped.count(&self.template, cursors, self.template.errors.contribution)
            }
            Objective::Latency { .. } => {
                scraped.require_edges(&self.template, threshold.as_ref())?;
                scraped.count(
                    &self.template,
                    cursors,
                    edges::contribution(threshold.as_ref()),
                )
            }
        };
        Ok(Window {
            look,
            cursors: cursors.advanced(&scraped.newest_by_instance(), scrape),
            newest_sample,
            threshold,
            query,
            replayed: self.span.replayed,
            lost: self.span.lost,
        })
    }
}
