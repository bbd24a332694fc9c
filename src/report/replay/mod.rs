//! Replays recorded decisions. A decision is a pure function of its recorded input, so a difference
//! is a bug.

use std::fmt::Write as _;

use serde_json::Value;

use crate::{
    api::{DecisionRecord, State},
    evidence::Reading,
    rollout::{Decision, Recording},
};

/// Most differences shown of one replay.
const DIFFERENCES_SHOWN: usize = 20;

/// Why a file of recordings cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file holds no recording of a decision.
    #[error(
        "not a recording of a decision: {0}. Expected the answer of GET \
         /snapshots/<namespace>/<name> of the operator, or one of its entries"
    )]
    Parse(#[from] serde_json::Error),
    /// The file is empty.
    #[error("the file holds no recording")]
    Empty,
}

/// Reads the recordings in a text: one, several as JSON lines, or an array of them. An error where
/// the text is not JSON of that shape.
pub fn parse(text: &str) -> Result<Vec<Recording>, ReplayError> {
    let mut recordings = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        match value? {
            Value::Array(list) => {
                for entry in list {
                    recordings.push(serde_json::from_value(entry)?);
                }
            }
            one => recordings.push(serde_json::from_value(one)?),
        }
    }
    if recordings.is_empty() {
        return Err(ReplayError::Empty);
    }
    Ok(recordings)
}

/// The result of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Each decision as text, compared with the recorded one.
    pub text: String,
    /// Number of decisions that differ from the recorded ones.
    pub differing: usize,
}

/// Replays each recording, in the given order.
pub fn replay(recordings: &[Recording]) -> Replayed {
    let mut replayed = Replayed {
        text: String::new(),
        differing: 0,
    };
    for recording in recordings {
        let decision = recording.replay();
        let text = &mut replayed.text;
        describe(text, recording, &decision);
        // Writing into a String cannot fail, here and below.
        let _ = match &recording.decision {
            None => writeln!(text, "  (no decision was recorded to compare with)"),
            Some(recorded) if *recorded == decision => {
                writeln!(text, "  Equal to the recorded decision.")
            }
            Some(recorded) => {
                replayed.differing += 1;
                let _ = writeln!(text, "  DIFFERS from the recorded decision:");
                write_differences(text, recorded, &decision);
                Ok(())
            }
        };
        replayed.text.push('\n');
    }
    replayed
}

fn describe(text: &mut String, recording: &Recording, decision: &Decision) {
    let state = &recording.snapshot.state;
    let _ = writeln!(
        text,
        "{}  {}  {}",
        recording.now.strftime("%F %T%.3fZ"),
        recording.model,
        standing(state)
    );
    let gates = recording.spec.gates();
    for (gate, reading) in gates.iter().zip(&recording.snapshot.readings) {
        let read = match reading {
            Ok(Reading::Counts(window)) => {
                let (canary, stable) = (window.look.canary, window.look.stable);
                format!(
                    "canary {} bad of {}, stable {} bad of {}",
                    canary.bad, canary.requests, stable.bad, stable.requests
                )
            }
            Ok(Reading::Value(value)) => value.value.to_string(),
            Ok(Reading::Classes(classes)) => format!(
                "predictions: canary {}, stable {}",
                classes.canary.values().sum::<u64>(),
                classes.stable.values().sum::<u64>()
            ),
            Err(blind) => format!("unreadable: {blind}"),
        };
        let _ = writeln!(text, "  Read     {:<14} {read}", gate.name);
    }
    if decision.records.is_empty() {
        let _ = writeln!(text, "  Decided  nothing new. {}", decision.next.message);
    }
    for DecisionRecord {
        action,
        version,
        weight,
        verdict,
        sentence,
        by,
        ..
    } in &decision.records
    {
        let verdict = verdict
            .map(|verdict| format!(", {verdict:?}"))
            .unwrap_or_default();
        let by = by
            .as_ref()
            .map(|by| format!(", by {by}"))
            .unwrap_or_default();
        let _ = writeln!(
            text,
            "  Decided  {action} ({version} at {weight} %{verdict}{by})\n           {sentence}"
        );
    }
    let look = match decision.requeue {
        Some(std::time::Duration::ZERO) => "another look at once".to_owned(),
        Some(after) => format!("a look in {after:?}"),
        None => "a look when something changes".to_owned(),
    };
    let _ = writeln!(text, "  Next     {}; {look}", standing(&decision.next));
}

/// "Canary: 2 at 10 % beside 1"
fn standing(state: &State) -> String {
    let mut text = format!("{:?}", state.phase);
    if let Some(canary) = &state.canary {
        let _ = write!(text, ": {} at {} %", canary.version, canary.weight);
    }
    if let Some(stable) = &state.stable {
        let beside = if state.canary.is_some() {
            " beside"
        } else {
            ":"
        };
        let _ = write!(text, "{beside} {}", stable.version);
    }
    text
}

fn write_differences(text: &mut String, recorded: &Decision, replayed: &Decision) {
    let json = |decision: &Decision| serde_json::to_value(decision).unwrap_or_default();
    let mut found = Vec::new();
    differences(&json(recorded), &json(replayed), "decision", &mut found);
    for line in found.iter().take(DIFFERENCES_SHOWN) {
        let _ = writeln!(text, "    {line}");
    }
    if found.len() > DIFFERENCES_SHOWN {
        let _ = writeln!(text, "    … and {} more", found.len() - DIFFERENCES_SHOWN);
    }
}

/// Collects the differences of two values: path, recorded and replayed value.
fn differences(recorded: &Value, replayed: &Value, path: &str, found: &mut Vec<String>) {
    match (recorded, replayed) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let of = |map: &serde_json::Map<_, _>| map.get(key).cloned().unwrap_or_default();
                differences(&of(a), &of(b), &format!("{path}.{key}"), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differences(a, b, &format!("{path}[{index}]"), found);
            }
        }
        (a, b) if a != b => found.push(format!("{path}: recorded {a}, replayed {b}")),
        _ => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
