//! Counting on from where another replica of Prometheus ended.
//!
//! Replicas behind one Service scrape the same targets, each at its own times. A cursor that one of
//! them set lies between two scrapes of the other, so part of the rise from the one to the other
//! has been counted already. How much follows from what the counters stood at when they were
//! counted, since they are the same counters:
//!
//! ```text
//! replica A     100 ········ 110, the cursor
//! replica B          104 ········ 117: a rise of 13, of which 110 − 104 = 6 are counted
//! ```
//!
//! A replica made the scrape at the cursor if it has one of exactly that time; all of its rises
//! after the cursor count then. So do those of a replica that has nothing from before the cursor,
//! because it failed to scrape or lost its data.

use std::time::Duration;

use super::source::{Contribution, Labels};
use crate::evidence::Net;

/// A target that was not scraped for more than this many scrapes may be another one at the same
/// address.
const SAME_SCRAPES: u32 = 4;

impl Net {
    /// Adds what `times` requests of one kind contribute.
    pub(super) fn add(&mut self, times: u64, each: Contribution) {
        let times = i64::try_from(times).unwrap_or(i64::MAX);
        *self = self.plus(Self(
            times.saturating_mul(each.requests),
            times.saturating_mul(each.bad),
        ));
    }
}

/// The scrapes of one target around its cursor: Unix ms.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    /// The cursor, where the target has one of its own.
    cursor: Option<i64>,
    /// This replica's last scrape up to it.
    last: Option<i64>,
    /// The one after that.
    next: Option<i64>,
    /// Whether that one follows soon enough for the target to be the same.
    is_soon: bool,
    /// The newest.
    newest: i64,
}

impl Position {
    /// Where the `scrapes` of a target, oldest first, stand to its cursor. `None` without scrapes.
    pub(super) fn of(scrapes: &[i64], cursor: Option<i64>, scrape: Duration) -> Option<Self> {
        let soon = i64::try_from((scrape * SAME_SCRAPES).as_millis()).unwrap_or(i64::MAX);
        let after = scrapes.partition_point(|ms| cursor.is_some_and(|cursor| *ms <= cursor));
        Some(Self {
            cursor,
            last: after.checked_sub(1).map(|last| scrapes[last]),
            next: scrapes.get(after).copied(),
            is_soon: scrapes
                .get(after)
                .zip(cursor)
                .is_some_and(|(next, cursor)| next.saturating_sub(cursor) <= soon),
            newest: *scrapes.last()?,
        })
    }

    /// Whether the scrape at the cursor is this replica's own.
    fn is_own(&self) -> bool {
        self.cursor == self.last
    }
}

/// What the counters of one version on one target say.
#[derive(Debug, Default)]
pub(super) struct Rise<'a> {
    /// By how much each counter rose after the cursor.
    pub counters: Vec<(&'a Labels, u64)>,
    /// The same, added up.
    fresh: Net,
    /// By how much they rose in all of the answer.
    answered: Net,
    /// By how much they rose in the last scrape up to the cursor.
    last: Net,
    /// What they stood at then.
    at_last: Net,
    /// What they stand at in the scrape after that.
    at_next: Net,
    /// What they stand at in the newest scrape.
    at_newest: Net,
    /// Whether one of them fell, or was gone, in the scrape after.
    fell: bool,
}

impl<'a> Rise<'a> {
    /// Takes in a counter: its `samples` and `increases`, both by scrape (Unix ms).
    pub(super) fn take_in(
        &mut self,
        labels: &'a Labels,
        samples: &[(i64, u64)],
        increases: impl Iterator<Item = (i64, u64)>,
        position: &Position,
        is_new: impl Fn(i64) -> bool,
        each: Contribution,
    ) {
        let mut fresh = 0_u64;
        for (ms, increase) in increases {
            self.answered.add(increase, each);
            if is_new(ms) {
                fresh = fresh.saturating_add(increase);
            } else if Some(ms) == position.last {
                self.last.add(increase, each);
            }
        }
        self.fresh.add(fresh, each);
        self.counters.push((labels, fresh));

        let value_at = |ms: i64| {
            let index = samples.binary_search_by_key(&ms, |(ms, _)| *ms).ok()?;
            Some(samples[index].1)
        };
        if let Some(value) = position.last.and_then(value_at) {
            self.at_last.add(value, each);
            let next = position.next.map(|next| value_at(next).unwrap_or_default());
            self.fell |= next.is_some_and(|next| next < value);
        }
        if let Some(value) = position.next.and_then(value_at) {
            self.at_next.add(value, each);
        }
        if let Some(value) = value_at(position.newest) {
            self.at_newest.add(value, each);
        }
    }

    /// What counts, and what the counters are then counted up to. `before` is what they were
    /// counted up to at the cursor, if that is known.
    pub(super) fn counted(&self, before: Option<Net>, position: &Position) -> (Net, Net) {
        let before = before.filter(|_| position.next.is_some());
        let Some(before) = before else {
            return (self.fresh, self.at_newest);
        };
        if position.last.is_none() {
            let Net(requests, bad) = self.at_next;
            let rose = Net(
                requests.saturating_sub(before.0),
                bad.saturating_sub(before.1),
            );
            let is_same = position.is_soon && rose.0 >= 0 && rose.1 >= 0;
            let rose = if is_same { rose } else { Net::default() };
            return (self.fresh.plus(rose), self.at_newest);
        }
        let own = position.is_own();
        let part = |of: fn(Net) -> i64| {
            let (fresh, newest) = (of(self.fresh), of(self.at_newest));
            let overlap = of(before).saturating_sub(of(self.at_last));
            if self.fell {
                // The process restarted about the cursor. What its counters show may have been
                // counted, though not more than all that was.
                let overlap = if own { 0 } else { of(before).max(0) };
                (without(fresh, overlap), newest)
            } else if overlap > of(self.answered) {
                // More than the counters rose by: another process was counted.
                (fresh, newest)
            } else if overlap > 0 {
                // What this replica has not seen yet, its clock being ahead, stays counted.
                let unseen = overlap.saturating_sub(fresh).max(0);
                (without(fresh, overlap), newest.saturating_add(unseen))
            } else if own {
                (fresh, newest)
            } else {
                // Its clock is behind: what it read before the cursor happened after it.
                let missed = overlap.saturating_neg().min(of(self.last).max(0));
                (fresh.saturating_add(missed), newest)
            }
        };
        let (requests, bad) = (part(|net| net.0), part(|net| net.1));
        (Net(requests.0, bad.0), Net(requests.1, bad.1))
    }
}

/// A rise without the part that has been counted. A rise below 0 (counters read a request apart)
/// stays.
fn without(fresh: i64, overlap: i64) -> i64 {
    fresh.saturating_sub(overlap).max(fresh.min(0))
}

/// Parts of `all` in the proportion of `shares`, rounded so that they add up to it.
pub(super) fn apportioned(
    all: u64,
    shares: impl Iterator<Item = u64>,
) -> impl Iterator<Item = u64> {
    let shares: Vec<u64> = shares.collect();
    let whole: u128 = shares.iter().copied().map(u128::from).sum();
    let mut seen = 0_u128;
    let mut given = 0_u64;
    shares.into_iter().map(move |share| {
        seen += u128::from(share);
        let due = (u128::from(all) * seen)
            .checked_div(whole)
            .unwrap_or_default();
        let part = u64::try_from(due).unwrap_or(u64::MAX) - given;
        given += part;
        part
    })
}
