//! Plain progress lines: the same on a terminal and in a CI log.

use std::time::Instant;

/// Reports progress on stderr; stdout carries only results.
#[derive(Debug)]
pub struct Progress {
    topic: &'static str,
    started: Instant,
}

impl Progress {
    /// Starts the clock; `topic` opens each line.
    pub fn new(topic: &'static str) -> Self {
        Self {
            topic,
            started: Instant::now(),
        }
    }

    /// One line: topic, seconds since the start, text.
    pub fn say(&self, text: impl AsRef<str>) {
        let seconds = self.started.elapsed().as_secs_f32();
        eprintln!("{} {seconds:6.1} s  {}", self.topic, text.as_ref());
    }
}
