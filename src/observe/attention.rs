//! How the operator looks at a model: since when without a break, and not too often.
//!
//! A patience that runs out needs a witness: after a freeze, an outage of the API server or a jump of the clock, the time of
//! which nobody knows what happened in it does not count. And whatever makes two writers answer each other, such as two
//! leaders with different caches, must not become a storm of writes.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::api::Attended;

/// The longest time between two looks that still follow each other: while pods are starting or a canary has weight there is
/// one at least every 15 s, and twice that where the API server answers none.
const LONGEST_BREAK: Duration = Duration::from_secs(60);
/// By how much the clock may differ from the time that has passed between two looks.
const TOLERANCE: Duration = Duration::from_secs(5);

/// The most looks at one model within a second; a dozen of its objects may change together.
pub const MOST_IN_A_SECOND: usize = 20;

/// Of each model, by namespace and name, when it was last looked at and since when it has been.
#[derive(Debug, Default)]
pub struct Attention {
    models: Mutex<HashMap<(String, String), Watch>>,
    /// When looks began, the last 20 of each model.
    begun: Mutex<HashMap<(String, String), VecDeque<Instant>>>,
}

#[derive(Clone, Copy, Debug)]
struct Watch {
    since: Timestamp,
    /// The same for this process alone.
    here_since: Timestamp,
    last: Timestamp,
    /// `last` by a clock that nobody sets.
    last_instant: Instant,
}

impl Attention {
    /// Begins a look, or says how long to wait where there were 20 within the last second.
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

    /// Notes a look, and says since when they have followed each other: `now`, where this is the first one. The first look
    /// of a process follows the last one that the status has `noted` of another, if it comes soon.
    pub fn look(
        &self,
        model: &(String, String),
        now: Timestamp,
        noted: Option<Attended>,
    ) -> Timestamp {
        let instant = Instant::now();
        let mut models = self.models.lock();
        let before = match models.get(model) {
            Some(watch) => watch.goes_on(now, instant).then_some(watch.since),
            None => noted
                .filter(|noted| is_soon(now.duration_since(noted.until)))
                .map(|noted| noted.since),
        };
        let since = before.unwrap_or(now);
        let here = models
            .get(model)
            .filter(|watch| watch.goes_on(now, instant));
        let watch = Watch {
            since,
            here_since: here.map_or(now, |watch| watch.here_since),
            last: now,
            last_instant: instant,
        };
        models.insert(model.clone(), watch);
        since
    }

    /// Since when this process has looked without a break; `now` where it has not looked yet.
    pub fn here_since(&self, model: &(String, String), now: Timestamp) -> Timestamp {
        let models = self.models.lock();
        models.get(model).map_or(now, |watch| watch.here_since)
    }

    /// Lets go of a model that is gone.
    pub fn forget(&self, model: &(String, String)) {
        self.models.lock().remove(model);
        self.begun.lock().remove(model);
    }
}

impl Watch {
    /// Whether a look follows the last one: soon, and by a clock that nobody has set in between.
    fn goes_on(&self, now: Timestamp, instant: Instant) -> bool {
        let passed = instant.duration_since(self.last_instant);
        let by_the_clock = now.duration_since(self.last);
        let difference = (by_the_clock.as_secs_f64() - passed.as_secs_f64()).abs();
        passed <= LONGEST_BREAK && difference <= TOLERANCE.as_secs_f64()
    }
}

/// Whether a look so much later still follows. Nobody has measured the time between two processes but the clock, so one
/// that is set in between by less than a minute goes unnoticed.
fn is_soon(later: SignedDuration) -> bool {
    !later.is_negative() && later <= SignedDuration::try_from(LONGEST_BREAK).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn there_are_at_most_20_looks_within_any_second() {
        let attention = Attention::default();
        let model = ("ml".to_owned(), "churn".to_owned());
        let pass = |ms| tokio::time::advance(Duration::from_millis(ms));
        for _ in 0..10 {
            assert_eq!(attention.begin(&model), Ok(()));
        }
        pass(400).await;
        for _ in 0..10 {
            assert_eq!(attention.begin(&model), Ok(()));
        }
        assert_eq!(attention.begin(&model), Err(Duration::from_millis(600)));
        pass(600).await;
        for _ in 0..10 {
            assert_eq!(attention.begin(&model), Ok(()));
        }
        assert_eq!(attention.begin(&model), Err(Duration::from_millis(400)));
        let other = ("ml".to_owned(), "fraud".to_owned());
        assert_eq!(attention.begin(&other), Ok(()));
    }

    /// Looks after so many seconds, by the clock and in truth. Returns for how long they have followed each other.
    async fn after(attention: &Attention, clock: &mut Timestamp, told: i64, true_: u64) -> i64 {
        tokio::time::advance(Duration::from_secs(true_)).await;
        *clock += SignedDuration::from_secs(told);
        let since = attention.look(&("ml".to_owned(), "churn".to_owned()), *clock, None);
        clock.duration_since(since).as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn only_looks_that_follow_each_other_by_a_steady_clock_count() {
        let attention = Attention::default();
        let clock = &mut Timestamp::default();
        assert_eq!(after(&attention, clock, 0, 0).await, 0);
        assert_eq!(after(&attention, clock, 15, 15).await, 15);
        assert_eq!(after(&attention, clock, 60, 60).await, 75);
        assert_eq!(after(&attention, clock, 1800, 1800).await, 0, "a freeze");
        assert_eq!(after(&attention, clock, 15, 15).await, 15);
        assert_eq!(after(&attention, clock, 3615, 15).await, 0, "a jump");
        assert_eq!(after(&attention, clock, -3585, 15).await, 0, "and back");
        assert_eq!(after(&attention, clock, 15, 15).await, 15);
        assert_eq!(after(&attention, clock, 1800, 0).await, 0, "suspended");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_look_of_a_process_follows_another_s_last_one_if_it_comes_soon() {
        let model = ("ml".to_owned(), "churn".to_owned());
        let at = |second| Timestamp::from_second(second).unwrap_or_default();
        let noted = Attended {
            since: at(100),
            until: at(900),
        };
        for (now, since) in [(900, 100), (960, 100), (961, 961), (899, 899), (4500, 4500)] {
            let attention = Attention::default();
            let first = attention.look(&model, at(now), Some(noted));
            assert_eq!(first, at(since), "started at {now} s");
            // What the process itself has seen counts from then on.
            tokio::time::advance(Duration::from_secs(1800)).await;
            let frozen = attention.look(&model, at(now + 1), Some(noted));
            assert_eq!(frozen, at(now + 1));
        }
    }
}
