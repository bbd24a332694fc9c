//! Up to where requests have been counted, and how far back the next query must reach.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Side;

/// A query reaches back at least this many scrapes, so that one missed scrape hides nothing.
const LEAST_SCRAPES: u32 = 4;
/// A query reaches this many scrapes behind the last counted one, which is the baseline of the next
/// difference.
const OVERLAP_SCRAPES: u32 = 2;
/// A query never reaches back further: 2 h at 15 s are 480 samples a series.
const LONGEST_RANGE: Duration = Duration::from_secs(2 * 60 * 60);
/// Time for which a silent target keeps its cursor, by the samples' timestamps. If the target was
/// only unreachable, the requests of the gap are counted afterwards. A longer time would make every
/// query reach back to pods that are gone.
const KEEP: Duration = Duration::from_secs(10 * 60);
/// Most targets whose cursors are kept; bounds the size of status (256 × about 80 bytes a gate).
const MOST_TARGETS: usize = 256;

/// Up to which scrape the requests of each target have been counted: part of a gate's persisted
/// state.
///
/// A sample counts if and only if its timestamp is later than its target's cursor. All samples of
/// one scrape share one timestamp, and a target's scrapes become visible in order, so this counts
/// every scrape exactly once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cursors {
    /// Cursor of every target that has none of its own: Unix time in milliseconds.
    floor_ms: i64,
    /// Newest counted scrape of each target: its `instance` label, Unix time in milliseconds.
    #[serde(default)]
    targets: BTreeMap<String, i64>,
    /// The counters of each target at its cursor, where known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    counted: BTreeMap<String, Standing>,
    /// Bad requests that are not counted yet.
    #[serde(default, skip_serializing_if = "Surplus::is_none")]
    surplus: Surplus,
}

/// The counters of one target: the canary's and stable's.
pub(crate) type Standing = [Net; 2];

/// What a look passes to the next one, besides the cursors.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Carried<'a> {
    /// The counters of each target at its cursor, by `instance`.
    pub counted: BTreeMap<&'a str, Standing>,
    /// Bad requests without a request to count them in.
    pub surplus: Surplus,
}

/// Bad requests beyond the requests of a look. A stream counts as a request when it begins and as a
/// bad one when it breaks off, which may be looks later, so these count among the next requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Surplus {
    pub canary: u64,
    pub stable: u64,
}

impl Surplus {
    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde asks for a reference"
    )]
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Requests and bad requests, summed over counters of which some are subtracted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Net(pub i64, pub i64);

impl Net {
    /// The sum.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self(
            self.0.saturating_add(other.0),
            self.1.saturating_add(other.1),
        )
    }
}

/// The time that a query covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// How far back the query reaches: whole seconds.
    pub range: Duration,
    /// The time since the last count, where it is longer than a normal window.
    pub replayed: Option<Duration>,
    /// The part of `replayed` that lies further back than the longest range of 2 hours. Its
    /// requests still count if their target's counter has a sample at both ends of the range;
    /// otherwise they are lost.
    pub lost: Option<Duration>,
}

impl Cursors {
    /// Returns cursors of a gate that counts only scrapes after `ms`, Unix time in milliseconds.
    ///
    /// The first scrape after it counts whole, so up to one scrape interval of stable's earlier
    /// traffic is included.
    pub fn starting_at(ms: i64) -> Self {
        Self {
            floor_ms: ms,
            targets: BTreeMap::new(),
            counted: BTreeMap::new(),
            surplus: Surplus::default(),
        }
    }

    /// Returns the cursors without those later than `ms`, Unix time in milliseconds: a clock that
    /// was ahead has set them.
    #[must_use]
    pub fn not_after(mut self, ms: i64) -> Self {
        self.floor_ms = self.floor_ms.min(ms);
        self.targets.retain(|_, counted| *counted <= ms);
        self.forget_the_dropped();
        self
    }

    /// Returns the cursors without the counters' values, for a gate whose counters changed their
    /// meaning: the limit of a latency is at another edge.
    #[must_use]
    pub(crate) fn without_standings(mut self) -> Self {
        self.counted.clear();
        self
    }

    fn forget_the_dropped(&mut self) {
        let targets = &self.targets;
        self.counted
            .retain(|instance, _| targets.contains_key(instance));
    }

    /// Returns the newest counted scrape of `instance`, Unix time in milliseconds.
    pub(crate) fn of(&self, instance: &str) -> Option<i64> {
        self.targets.get(instance).copied()
    }

    /// Returns the counters of `instance` at its cursor, where known.
    pub(crate) fn counted(&self, instance: &str, side: Side) -> Option<Net> {
        Some(self.counted.get(instance)?[side as usize])
    }

    /// Returns the newest counted scrape, at or after `since_ms`, that an answer lacks, with its
    /// target. `newest` holds the newest scrapes of the answer.
    pub(crate) fn unseen(
        &self,
        newest: &BTreeMap<&str, i64>,
        since_ms: i64,
    ) -> Option<(&str, i64)> {
        let is_unseen = |instance: &str, ms: i64| {
            let seen = newest.get(instance);
            ms >= since_ms && seen.is_none_or(|seen| *seen < ms)
        };
        self.targets
            .iter()
            .filter(|(instance, ms)| is_unseen(instance, **ms))
            .max_by_key(|(_, ms)| **ms)
            .map(|(instance, ms)| (instance.as_str(), *ms))
    }

    /// Whether a sample of `instance`, scraped at `ms`, has not been counted yet.
    pub(crate) fn is_new(&self, instance: &str, ms: i64) -> bool {
        ms > *self.targets.get(instance).unwrap_or(&self.floor_ms)
    }

    /// Returns the bad requests that no look has counted yet.
    pub(crate) fn surplus(&self) -> Surplus {
        self.surplus
    }

    /// Returns the newest counted scrape, or the time from which scrapes count where none has been
    /// counted.
    pub fn newest(&self) -> Timestamp {
        let newest = self.targets.values().max().unwrap_or(&self.floor_ms);
        Timestamp::from_millisecond(*newest).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Returns the time that a query sent at `at` must cover.
    pub fn span(&self, at: Timestamp, scrape: Duration) -> Span {
        let since = |ms: i64| {
            Duration::from_millis(u64::try_from(at.as_millisecond() - ms).unwrap_or_default())
        };
        let oldest = self.targets.values().min().unwrap_or(&self.floor_ms);
        let newest = self.targets.values().max().unwrap_or(&self.floor_ms);
        let least = scrape * LEAST_SCRAPES;
        let range = (since(*oldest) + scrape * OVERLAP_SCRAPES)
            .max(least)
            .min(LONGEST_RANGE);
        let gap = since(*newest);
        Span {
            range: Duration::from_secs(range.as_millis().div_ceil(1000) as u64),
            replayed: (gap > least).then_some(gap),
            lost: gap
                .checked_sub(LONGEST_RANGE)
                .filter(|lost| !lost.is_zero()),
        }
    }

    /// Returns the cursors after the scrapes in `newest` (instance → Unix ms) have been counted.
    ///
    /// A cursor is dropped when its target has been silent for 10 minutes, or when there are more
    /// than 256. The floor then rises to it, so the counting of a target that returns continues
    /// from there, and nothing is counted twice.
    pub(crate) fn advanced(
        &self,
        newest: &BTreeMap<&str, i64>,
        carried: &Carried<'_>,
        scrape: Duration,
    ) -> Self {
        let mut next = self.clone();
        next.surplus = carried.surplus;
        for (&instance, &ms) in newest {
            if self.is_new(instance, ms) {
                next.targets.insert(instance.to_owned(), ms);
                match carried.counted.get(instance) {
                    Some(standing) => next.counted.insert(instance.to_owned(), *standing),
                    None => next.counted.remove(instance),
                };
            }
        }
        let Some(&latest) = next.targets.values().max() else {
            return next;
        };
        let keep = i64::try_from(KEEP.max(scrape * LEAST_SCRAPES).as_millis()).unwrap_or(i64::MAX);
        let mut by_age: Vec<i64> = next.targets.values().copied().collect();
        by_age.sort_unstable_by(|a, b| b.cmp(a));
        let too_many = by_age.get(MOST_TARGETS).copied().unwrap_or(i64::MIN);
        let drop_up_to = too_many.max(latest.saturating_sub(keep));
        let dropped = by_age.into_iter().find(|ms| *ms <= drop_up_to);
        if let Some(highest_dropped) = dropped {
            next.floor_ms = next.floor_ms.max(highest_dropped);
            next.targets.retain(|_, ms| *ms > drop_up_to);
            next.forget_the_dropped();
        }
        next
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
