//! Why metrics gave no evidence.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Side;

/// Longest part of another program's message that is quoted, in characters.
const LONGEST_QUOTE: usize = 200;

/// Why there is no evidence about either version. Each message ends with the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum BlindReason {
    /// No connection, or a broken one.
    #[error(
        "Prometheus cannot be reached ({detail}): check that it runs and that --prometheus-url \
         is right"
    )]
    Unreachable {
        /// The innermost cause.
        detail: String,
    },
    /// An answer other than 200.
    #[error("Prometheus answered {code} ({message}): {}", status_remedy(*code))]
    Status {
        /// HTTP status code.
        code: u16,
        /// What the answer says, shortened.
        message: String,
    },
    /// No whole answer in time.
    #[error(
        "Prometheus did not answer within {after:?}: check its load, or whether something \
         between stalls"
    )]
    Timeout {
        /// The time given.
        after: Duration,
    },
    /// An answer of more bytes than are ever read.
    #[error(
        "Prometheus' answer is longer than {limit_mib} MiB: check that its scrape interval is no \
         shorter than --scrape-interval"
    )]
    TooLarge {
        /// The cap, MiB.
        limit_mib: u64,
    },
    /// Status 200 with warnings: the data may be partial.
    #[error("Prometheus answered with a warning, so data may be missing ({first}): fix its cause")]
    Warnings {
        /// The first warning, shortened.
        first: String,
    },
    /// A counter that is NaN, infinite or negative.
    #[error("{series} has the value {value}, which no counter can have: fix its exporter")]
    NotFinite {
        /// Name of the series.
        series: String,
        /// The offending value.
        value: String,
    },
    /// The targets were scraped, but not lately.
    #[error(
        "the {side} version was last scraped {age:?} ago (limit {limit:?}, 3 scrapes): check \
         Prometheus' targets page, and that --scrape-interval is its scrape interval"
    )]
    Stale {
        /// The version concerned.
        side: Side,
        /// Age of the newest scrape.
        age: Duration,
        /// The oldest age accepted.
        limit: Duration,
    },
    /// No scraped target in the window.
    #[error(
        "Prometheus has no scraped target for the {side} version: add a scrape job that keeps the \
         labels namespace, pod and instance, or see on its targets page why the scrapes fail"
    )]
    NoTarget {
        /// The version concerned.
        side: Side,
    },
    /// An answer lacks scrapes that an earlier answer had, and has no newer ones.
    #[error(
        "two replicas of Prometheus answer, and they differ: one scraped {instance} at {counted}, \
         this one {}: see on the targets page of each which is behind or lacks the target, \
         or give --prometheus-url the address of the other alone",
        newest.map_or_else(|| "never did".to_owned(), |newest| format!("last at {newest}"))
    )]
    ReplicasDiffer {
        /// The target, by its `instance` label.
        instance: String,
        /// Its newest scrape in the earlier answer.
        counted: Timestamp,
        /// Its newest scrape in this answer, if there is any.
        newest: Option<Timestamp>,
    },
    /// Two targets share one `instance` label at the same time.
    #[error(
        "two scrape targets share instance=\"{instance}\", so requests may count twice: scrape \
         each pod in one job only (deduplicate replicas of Prometheus)"
    )]
    ScrapedTwice {
        /// The shared label.
        instance: String,
    },
    /// No bucket edge at or below the latency objective in every series.
    #[error(
        "{metric} has no bucket edge at or below {max:?} that all pods share ({}): raise the \
         objective, or add a bucket at it",
        smallest_edge(*smallest)
    )]
    NoBucketEdge {
        /// The histogram.
        metric: String,
        /// The objective.
        max: Duration,
        /// The smallest edge that all pods share, if any.
        smallest: Option<Duration>,
    },
    /// A quantile of stable above all finite bucket edges.
    #[error(
        "stable's {quantile} is above {highest:?}, the highest bucket edge of {metric}: add \
         buckets above it, or declare the objective latency instead"
    )]
    QuantileAboveEdges {
        /// The histogram.
        metric: String,
        /// The quantile, such as `p99`.
        quantile: String,
        /// The highest finite edge.
        highest: Duration,
    },
    /// The evidence source has no metric of this kind.
    #[error(
        "the objective's source has no {what}: name one in its custom.{setting}, name another \
         source, or remove the objective"
    )]
    SourceLacks {
        /// What is lacking.
        what: String,
        /// Where it is declared.
        setting: String,
    },
    /// A metric counted no request of a version that serves.
    #[error(
        "{metric} counted nothing of the stable version within {within:?}: if it had requests, \
         export that metric, or name a source that counts them (spec.objectives[].source)"
    )]
    NothingCounted {
        /// The metric, or metrics.
        metric: String,
        /// How long.
        within: Duration,
    },
    /// A histogram series lacks the edge: it appeared between the two queries of a latency
    /// objective.
    #[error("the buckets of a latency histogram changed while being read: the next scrape will do")]
    BucketsChanged,
    /// A user's query that is not PromQL, or cannot be confined to the namespace.
    #[error("invalid query: {detail}; fix `promql`")]
    QueryRefused {
        /// Why.
        detail: String,
    },
    /// A user's query without an answer.
    #[error(
        "the query gave no value: check that its metric exists in this namespace and carries the \
         labels that it asks for"
    )]
    QueryGaveNothing,
    /// A user's query with more than one answer.
    #[error(
        "the query gave {count} values where one is due: aggregate them, with sum(…) or max(…) \
         for example"
    )]
    QueryGaveSeveral {
        /// How many.
        count: usize,
    },
    /// A user's query whose answer is NaN or infinite.
    #[error("the query gave {value}: guard what it divides by, with `… > 0` for example")]
    QueryGaveNotFinite {
        /// The value.
        value: String,
    },
    /// A user's query that gives something else than a vector.
    #[error(
        "the query gave a {found} where a vector of one value is due: wrap it, with vector(…) or \
         max(…) for example"
    )]
    QueryGaveType {
        /// What it gave.
        found: String,
    },
    /// The two clocks differ too much for timestamps to be compared.
    #[error("this machine's clock and Prometheus' differ by {by:?}: synchronise them (NTP)")]
    ClockSkew {
        /// By how much.
        by: Duration,
    },
    /// An answer of an unexpected shape.
    #[error(
        "Prometheus' answer makes no sense ({detail}): check that --prometheus-url leads to a \
         Prometheus API"
    )]
    BadAnswer {
        /// What is wrong with it.
        detail: String,
    },
}

impl BlindReason {
    /// The reason as a code, such as `Unreachable` or `CanaryStale`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "Unreachable",
            Self::Status { .. } => "ErrorStatus",
            Self::Timeout { .. } => "Timeout",
            Self::TooLarge { .. } => "TooLarge",
            Self::Warnings { .. } => "Warnings",
            Self::NotFinite { .. } => "NotFinite",
            Self::Stale { side, .. } => match side {
                Side::Canary => "CanaryStale",
                Side::Stable => "StableStale",
            },
            Self::NoTarget { side } => match side {
                Side::Canary => "NoCanaryTarget",
                Side::Stable => "NoStableTarget",
            },
            Self::ReplicasDiffer { .. } => "ReplicasDiffer",
            Self::ScrapedTwice { .. } => "ScrapedTwice",
            Self::NoBucketEdge { .. } => "NoBucketEdge",
            Self::QuantileAboveEdges { .. } => "QuantileAboveEdges",
            Self::SourceLacks { .. } => "SourceLacks",
            Self::NothingCounted { .. } => "NothingCounted",
            Self::BucketsChanged => "BucketsChanged",
            Self::QueryRefused { .. } => "QueryRefused",
            Self::QueryGaveNothing => "QueryGaveNothing",
            Self::QueryGaveSeveral { .. } => "QueryGaveSeveral",
            Self::QueryGaveNotFinite { .. } => "QueryGaveNotFinite",
            Self::QueryGaveType { .. } => "QueryGaveType",
            Self::ClockSkew { .. } => "ClockSkew",
            Self::BadAnswer { .. } => "BadAnswer",
        }
    }

    /// Whether its sentence holds a figure that is another one at each look though nothing has
    /// changed: the age of a sample, or how far a clock is off.
    pub fn has_moving_figure(&self) -> bool {
        matches!(self, Self::Stale { .. } | Self::ClockSkew { .. })
    }

    /// Whether only a change of the resource or of the exporter helps. Such a reason is reported
    /// before a version gets traffic, instead of waited for.
    pub fn lasts(&self) -> bool {
        matches!(
            self,
            Self::NoBucketEdge { .. }
                | Self::QuantileAboveEdges { .. }
                | Self::SourceLacks { .. }
                | Self::QueryRefused { .. }
                | Self::QueryGaveType { .. }
                | Self::Status {
                    code: 400 | 422,
                    ..
                }
        )
    }

    /// Whether Prometheus or the network is at fault, not the query.
    pub fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Timeout { .. }
                | Self::Status { .. }
                | Self::Warnings { .. }
                | Self::ClockSkew { .. }
                | Self::BadAnswer { .. }
                | Self::ReplicasDiffer { .. }
                | Self::TooLarge { .. }
        )
    }

    /// An answer of an unexpected shape, with the parser's message.
    pub(crate) fn bad_answer(detail: &(impl ToString + ?Sized)) -> Self {
        Self::BadAnswer {
            detail: shortened(&detail.to_string()),
        }
    }
}

fn status_remedy(code: u16) -> &'static str {
    match code {
        300..=399 => "give --prometheus-url the address that this one redirects to",
        401 | 403 => "renew the credentials with which the operator asks",
        404 | 405 => "check the path of --prometheus-url",
        400 | 422 => "see Prometheus' limits on queries; if none was hit, report this as a bug",
        429 | 500..=599 => "check its load and its log",
        _ => "check that --prometheus-url leads to a Prometheus API",
    }
}

fn smallest_edge(smallest: Option<Duration>) -> String {
    smallest.map_or_else(
        || "they share none".to_owned(),
        |edge| format!("the smallest is {edge:?}"),
    )
}

/// Returns another program's `text` as a single line of at most [`LONGEST_QUOTE`] characters.
pub(crate) fn shortened(text: &str) -> String {
    let line: String = text
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST_QUOTE + 1)
        .collect();
    match line.char_indices().nth(LONGEST_QUOTE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests;
