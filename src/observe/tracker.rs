//! When each model was reconciled: since when without a break, and how often.
//!
//! A timeout counts only time in which the model was observed: not a freeze, an outage of the API
//! server or a jump of the clock. And two writers that answer each other, such as two leaders with
//! different caches, must not cause a storm of writes.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::api::ObservedTime;

/// The longest time between two reconciles without a break. While pods start or a canary has
/// weight, there is one at least every 15 s, or every 30 s if the API server does not answer.
const LONGEST_BREAK: Duration = Duration::from_secs(60);
/// By how much the wall clock may differ from the monotonic one between two reconciles.
const TOLERANCE: Duration = Duration::from_secs(5);

/// Most reconciles of one model within a second. A dozen of its objects may change together.
pub const MOST_IN_A_SECOND: usize = 20;

/// When each model was last reconciled, and since when without a break. By namespace and name.
#[derive(Debug, Default)]
pub struct ReconcileTracker {
    models: Mutex<HashMap<(String, String), Watch>>,
    /// When the last 20 reconciles of each model began.
    begun: Mutex<HashMap<(String, String), VecDeque<Instant>>>,
}

#[derive(Clone, Copy, Debug)]
struct Watch {
    since: Timestamp,
    /// The same for this process alone.
    here_since: Timestamp,
    last: Timestamp,
    /// `last` by the monotonic clock.
    last_instant: Instant,
}

impl ReconcileTracker {
    /// Begins a reconcile.
    ///
    /// # Errors
    /// The time to wait, if there were 20 within the last second.
    pub fn begin(&self, model: &(String, String)) -> Result<(), Duration> {
        let now = Instant::now();
        let mut begun = self.begun.lock();
        let begun = begun.entry(model.clone()).or_default();
        if begun.len() == MOST_IN_A_SECOND
            && let Some(oldest) = begun.front()
        {
            let wait = (*oldest + Duration::from_secs(1)).saturating_duration_since(now);
            if !wait.is_zero() {
                return Err(wait);
            }
            begun.pop_front();
        }
        begun.push_back(now);
        Ok(())
    }

    /// Notes a reconcile, and returns since when there was no break: `now` for the first one. The
    /// first one of a process continues what another process has `noted` in the status, if it comes
    /// within 60 s.
    pub fn track(
        &self,
        model: &(String, String),
        now: Timestamp,
        noted: Option<ObservedTime>,
    ) -> Timestamp {
        let instant = Instant::now();
        let mut models = self.models.lock();
        let before = match models.get(model) {
            Some(watch) => watch.is_unbroken(now, instant).then_some(watch.since),
            None => noted
                .filter(|noted| is_soon(now.duration_since(noted.until)))
                .map(|noted| noted.since),
        };
        let since = before.unwrap_or(now);
        let here = models
            .get(model)
            .filter(|watch| watch.is_unbroken(now, instant));
        let watch = Watch {
            since,
            here_since: here.map_or(now, |watch| watch.here_since),
            last: now,
            last_instant: instant,
        };
        models.insert(model.clone(), watch);
        since
    }

    /// Since when this process has reconciled the model without a break. `now` if it has not yet.
    pub fn here_since(&self, model: &(String, String), now: Timestamp) -> Timestamp {
        let models = self.models.lock();
        models.get(model).map_or(now, |watch| watch.here_since)
    }

    /// Forgets a model that is gone.
    pub fn forget(&self, model: &(String, String)) {
        self.models.lock().remove(model);
        self.begun.lock().remove(model);
    }
}

impl Watch {
    /// Whether there is no break since the last reconcile: it was recent, and the clock was not set
    /// in between.
    fn is_unbroken(&self, now: Timestamp, instant: Instant) -> bool {
        let passed = instant.duration_since(self.last_instant);
        let by_the_clock = now.duration_since(self.last);
        let difference = (by_the_clock.as_secs_f64() - passed.as_secs_f64()).abs();
        passed <= LONGEST_BREAK && difference <= TOLERANCE.as_secs_f64()
    }
}

/// Whether a reconcile of another process so much later comes without a break. Only the wall clock
/// measures the time between two processes, so a jump of less than a minute is not noticed.
fn is_soon(later: SignedDuration) -> bool {
    !later.is_negative() && later <= SignedDuration::try_from(LONGEST_BREAK).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn there_are_at_most_20_reconciles_within_any_second() {
        let tracker = ReconcileTracker::default();
        let model = ("ml".to_owned(), "churn".to_owned());
        let pass = |ms| tokio::time::advance(Duration::from_millis(ms));
        for _ in 0..10 {
            assert_eq!(tracker.begin(&model), Ok(()));
        }
        pass(400).await;
        for _ in 0..10 {
            assert_eq!(tracker.begin(&model), Ok(()));
        }
        assert_eq!(tracker.begin(&model), Err(Duration::from_millis(600)));
        pass(600).await;
        for _ in 0..10 {
            assert_eq!(tracker.begin(&model), Ok(()));
        }
        assert_eq!(tracker.begin(&model), Err(Duration::from_millis(400)));
        let other = ("ml".to_owned(), "fraud".to_owned());
        assert_eq!(tracker.begin(&other), Ok(()));
    }

    /// Reconciles after so many seconds by the wall clock, and after so many real ones. Returns the
    /// seconds without a break.
    async fn after(
        tracker: &ReconcileTracker,
        clock: &mut Timestamp,
        shown: i64,
        real: u64,
    ) -> i64 {
        tokio::time::advance(Duration::from_secs(real)).await;
        *clock += SignedDuration::from_secs(shown);
        let since = tracker.track(&("ml".to_owned(), "churn".to_owned()), *clock, None);
        clock.duration_since(since).as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn only_time_without_a_break_and_by_a_steady_clock_counts() {
        let tracker = ReconcileTracker::default();
        let clock = &mut Timestamp::default();
        assert_eq!(after(&tracker, clock, 0, 0).await, 0);
        assert_eq!(after(&tracker, clock, 15, 15).await, 15);
        assert_eq!(after(&tracker, clock, 60, 60).await, 75);
        assert_eq!(after(&tracker, clock, 1800, 1800).await, 0, "a freeze");
        assert_eq!(after(&tracker, clock, 15, 15).await, 15);
        assert_eq!(after(&tracker, clock, 3615, 15).await, 0, "a jump");
        assert_eq!(after(&tracker, clock, -3585, 15).await, 0, "and back");
        assert_eq!(after(&tracker, clock, 15, 15).await, 15);
        assert_eq!(after(&tracker, clock, 1800, 0).await, 0, "suspended");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_reconcile_of_a_process_continues_anothers_if_it_comes_soon() {
        let model = ("ml".to_owned(), "churn".to_owned());
        let at = |second| Timestamp::from_second(second).unwrap_or_default();
        let noted = ObservedTime {
            since: at(100),
            until: at(900),
        };
        for (now, since) in [(900, 100), (960, 100), (961, 961), (899, 899), (4500, 4500)] {
            let tracker = ReconcileTracker::default();
            let first = tracker.track(&model, at(now), Some(noted));
            assert_eq!(first, at(since), "started at {now} s");
            // What the process itself has seen counts from then on.
            tokio::time::advance(Duration::from_secs(1800)).await;
            let frozen = tracker.track(&model, at(now + 1), Some(noted));
            assert_eq!(frozen, at(now + 1));
        }
    }
}
