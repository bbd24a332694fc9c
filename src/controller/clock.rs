//! The clock is injected, so that a test can play an hour in a millisecond.

use std::{fmt, sync::Arc};

use jiff::Timestamp;

/// The wall clock, whose time stands in decisions and statuses. Cheap to clone.
///
/// Waiting uses Tokio's clock, which a test can pause.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self::reading(Timestamp::now)
    }

    /// A clock that returns what `now` does.
    pub fn reading(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self { now: Arc::new(now) }
    }

    /// Returns the current time.
    pub fn now(&self) -> Timestamp {
        (self.now)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
