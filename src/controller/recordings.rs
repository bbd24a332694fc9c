//! The last decisions with their snapshots, kept in memory for
//! `GET /snapshots/{namespace}/{name}` and `serin-operator replay`.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use crate::rollout::Recording;

/// Recordings kept of one model.
const KEPT: usize = 20;
/// The last of them are kept whether they decided anything or not: they lead up to the next
/// decision.
const LATEST: usize = 8;
/// Bytes kept of all models together. A recording of two objectives takes about 10 KiB.
const LARGEST: usize = 16 * 1024 * 1024;

/// Recordings of every model on trial, as JSON.
#[derive(Debug, Default)]
pub struct Recordings {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    models: HashMap<String, VecDeque<Entry>>,
    /// Sum of all texts.
    bytes: usize,
    /// How many have been kept so far: the next one's number.
    count: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    /// Whether it decided anything but to wait.
    decided: bool,
    text: String,
}

impl Recordings {
    /// Keeps one.
    ///
    /// Of a model with more than 20, the oldest that decided nothing is dropped, but none of the
    /// last
    /// 8. If all before those decided something, the oldest is dropped. Above 16 MiB of all models
    /// together, the oldest of all is dropped.
    pub fn keep(&self, recording: &Recording) {
        let text = match serde_json::to_string(recording) {
            Ok(text) => text,
            Err(error) => {
                tracing::warn!(model = recording.model, %error, "a decision cannot be recorded");
                return;
            }
        };
        let decided = recording
            .decision
            .as_ref()
            .is_some_and(|decision| !decision.records.is_empty());
        self.kept.lock().keep(&recording.model, decided, text);
    }

    /// All recordings of a model, `<namespace>/<name>`, as a JSON array, oldest first. `None` if
    /// there are none.
    pub fn of(&self, model: &str) -> Option<String> {
        let kept = self.kept.lock();
        let texts: Vec<&str> = kept
            .models
            .get(model)?
            .iter()
            .map(|entry| entry.text.as_str())
            .collect();
        Some(format!("[\n{}\n]\n", texts.join(",\n")))
    }

    /// Forgets a model that is gone.
    pub fn forget(&self, model: &str) {
        let mut kept = self.kept.lock();
        let gone = kept.models.remove(model).unwrap_or_default();
        kept.bytes -= gone.iter().map(|entry| entry.text.len()).sum::<usize>();
    }
}

impl Kept {
    fn keep(&mut self, model: &str, decided: bool, text: String) {
        self.count += 1;
        self.bytes += text.len();
        let entries = self.models.entry(model.to_owned()).or_default();
        entries.push_back(Entry {
            number: self.count,
            decided,
            text,
        });
        if entries.len() > KEPT {
            let mut earlier = entries.iter().take(entries.len() - LATEST);
            let idle = earlier.position(|entry| !entry.decided);
            let gone = entries.remove(idle.unwrap_or(0));
            self.bytes -= gone.map_or(0, |entry| entry.text.len());
        }
        while self.bytes > LARGEST && self.drop_oldest() {}
    }

    /// Drops the oldest recording of all models. Returns whether there was one.
    fn drop_oldest(&mut self) -> bool {
        let oldest = self
            .models
            .iter()
            .filter_map(|(model, entries)| Some((entries.front()?.number, model.clone())))
            .min();
        let Some((_, model)) = oldest else {
            return false;
        };
        let Some(entries) = self.models.get_mut(&model) else {
            return false;
        };
        self.bytes -= entries.pop_front().map_or(0, |entry| entry.text.len());
        if entries.is_empty() {
            self.models.remove(&model);
        }
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn texts(recordings: &Recordings, model: &str) -> Vec<u64> {
        serde_json::from_str(&recordings.of(model).unwrap()).unwrap()
    }

    #[test]
    fn decisions_are_kept_longer_than_recordings_that_decided_nothing() {
        let recordings = Recordings::default();
        for number in 0..100 {
            let decided = number == 3 || number == 50;
            recordings
                .kept
                .lock()
                .keep("ml/churn", decided, number.to_string());
        }
        let mut expected = vec![3, 50];
        expected.extend(82..100);
        assert_eq!(texts(&recordings, "ml/churn"), expected);
        assert_eq!(recordings.of("ml/other"), None);
    }

    #[test]
    fn after_many_decisions_the_last_recordings_are_still_kept() {
        let recordings = Recordings::default();
        for number in 0..60 {
            let decided = number < 50;
            recordings
                .kept
                .lock()
                .keep("ml/churn", decided, number.to_string());
        }
        let expected: Vec<u64> = (38..50).chain(52..60).collect();
        assert_eq!(texts(&recordings, "ml/churn"), expected);
    }

    #[test]
    fn all_together_stay_within_16_mib() {
        let recordings = Recordings::default();
        let text = format!("\"{}\"", "x".repeat(1024 * 1024 - 2));
        for model in ["ml/a", "ml/b"] {
            for _ in 0..12 {
                recordings.kept.lock().keep(model, true, text.clone());
            }
        }
        let count = |model: &str| recordings.kept.lock().models[model].len();
        assert_eq!((count("ml/a"), count("ml/b")), (4, 12), "the oldest went");
        recordings.forget("ml/b");
        recordings.forget("ml/b");
        assert_eq!(recordings.kept.lock().bytes, 4 * 1024 * 1024);
    }
}
