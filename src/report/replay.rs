//! One decision, recorded with all that it was taken from, and taken again: the same on any machine, or there is a bug.

use std::fmt::Write as _;

use serde_json::Value;

use crate::{
    api::{DecisionRecord, State},
    evidence::Reading,
    rollout::{Decision, Recording},
};

/// Differences told of one replay.
const DIFFERENCES_TOLD: usize = 20;

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
    /// It holds something else.
    #[error(
        "no recording of a decision: {0}. Expected what GET /snapshots/<namespace>/<name> of the operator answers, or one of its entries"
    )]
    Parse(#[from] serde_json::Error),
    /// It holds nothing.
    #[error("the file holds no recording")]
    Empty,
}

/// The recordings in a text: one, several one after the other (JSON lines), or an array of them.
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

/// What came of replaying some recordings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Each decision in words, and how it compares with the recorded one.
    pub text: String,
    /// How many decisions differ from the recorded ones.
    pub differing: usize,
}

/// Replays each recording, oldest first as they stand.
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
                tell_differences(text, recorded, &decision);
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
        let _ = writeln!(text, "  Read     {:<14} {read}", gate.name());
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

fn tell_differences(text: &mut String, recorded: &Decision, replayed: &Decision) {
    let json = |decision: &Decision| serde_json::to_value(decision).unwrap_or_default();
    let mut found = Vec::new();
    differences(&json(recorded), &json(replayed), "decision", &mut found);
    for line in found.iter().take(DIFFERENCES_TOLD) {
        let _ = writeln!(text, "    {line}");
    }
    if found.len() > DIFFERENCES_TOLD {
        let _ = writeln!(text, "    … and {} more", found.len() - DIFFERENCES_TOLD);
    }
}

/// Where two values differ: the path, and both.
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
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::{
        api::{Commands, ModelDeploymentSpec, Revision, VersionRef},
        evidence::{BlindReason, Cursors, Look, Tally, Window},
        observe::{Snapshot, VersionHealth},
        rollout::decide,
    };

    const INTERVAL: std::time::Duration = std::time::Duration::from_secs(15);

    fn spec() -> ModelDeploymentSpec {
        serde_json::from_value(json!({
            "model": {"uri": "file:///m", "version": "2", "digest": "sha256:0"},
            "serving": {"env": [{"name": "TOKEN", "value": "hunter2"}]},
            "objectives": [{"errorRate": {"max": "1%"}}, {"latency": {"quantile": 0.99, "max": "250ms"}}],
        }))
        .unwrap()
    }

    fn window(canary: Tally, stable: Tally) -> Reading {
        Reading::Counts(Window {
            look: Look { canary, stable },
            cursors: Cursors::starting_at(0),
            newest_sample: Timestamp::UNIX_EPOCH,
            threshold: None,
            query: r#"{__name__=~"requests|up"}[60s]"#.to_owned(),
            replayed: None,
            lost: None,
        })
    }

    /// Every decision of a rollout that is rolled back on its third look, as JSON lines.
    fn recorded() -> (String, usize) {
        let version = |revision: &str, version: &str| VersionRef {
            revision: Revision(revision.to_owned()),
            version: version.to_owned(),
        };
        let (stable, canary) = (version("aaaaaaaa", "1"), version("bbbbbbbb", "2"));
        let ready = VersionHealth {
            desired: 1,
            ready: 1,
            endpoints: 1,
            ..VersionHealth::default()
        };
        let mut state = State {
            stable: Some(stable.clone()),
            ..State::default()
        };
        let good = window(Tally::new(30, 0), Tally::new(270, 0));
        let bad = window(Tally::new(30, 30), Tally::new(270, 0));
        let blind = BlindReason::Timeout {
            after: std::time::Duration::from_secs(5),
        };
        let looks = [
            vec![],
            vec![],
            vec![Ok(good.clone()), Ok(good.clone())],
            vec![Ok(good.clone()), Err(blind)],
            vec![Ok(bad), Ok(good)],
        ];
        let count = looks.len();
        let mut now: Timestamp = "2026-11-21T03:00:00.123456789Z".parse().unwrap();
        let mut text = String::new();
        for readings in looks {
            let snapshot = Snapshot {
                desired: canary.clone(),
                state,
                router: crate::router::Report::default(),
                free_port: Some(20_000),
                versions: BTreeMap::from([
                    (stable.revision.clone(), ready.clone()),
                    (canary.revision.clone(), ready.clone()),
                ]),
                readings,
                commands: Commands::default(),
                unmeasurable: Vec::new(),
                refused: Vec::new(),
                stable_rate: None,
                attentive_since: Timestamp::UNIX_EPOCH,
                here_since: Timestamp::UNIX_EPOCH,
                in_force: None,
                desired_refused: None,
            };
            let spec = spec();
            let decision = decide(&spec, &snapshot, now, INTERVAL);
            state = decision.next.clone();
            let recording = Recording {
                model: "ml/churn".to_owned(),
                now,
                interval: INTERVAL.into(),
                unfit: None,
                spec: Recording::spec(&spec),
                snapshot,
                decision: Some(decision),
            };
            text += &serde_json::to_string(&recording).unwrap();
            text.push('\n');
            now += INTERVAL;
        }
        assert_eq!(state.canary, None, "{}", state.message);
        (text, count)
    }

    #[test]
    fn a_recorded_rollout_is_decided_the_same_again() {
        let (text, count) = recorded();
        let recordings = parse(&text).unwrap();
        assert_eq!(recordings.len(), count);
        let again = replay(&recordings);
        assert_eq!(again.differing, 0, "{}", again.text);
        for words in [
            "PreparingVersion",
            "MetricsOutage",
            "RolledBack",
            "30 bad of 30",
        ] {
            assert!(again.text.contains(words), "{words}: {}", again.text);
        }
        let array = format!("[{}]", text.trim_end().replace('\n', ","));
        assert_eq!(parse(&array).unwrap(), recordings);
    }

    #[test]
    fn no_value_of_the_environment_is_recorded() {
        assert!(!recorded().0.contains("hunter2"));
    }

    #[test]
    fn a_decision_that_differs_is_told_with_where_it_differs() {
        let (text, _) = recorded();
        let mut recordings = parse(&text).unwrap();
        recordings[1].decision.as_mut().unwrap().next.message = "something else".to_owned();
        let again = replay(&recordings);
        assert_eq!(again.differing, 1);
        let told =
            r#"decision.next.message: recorded "something else", replayed "Version 2 is Ready"#;
        assert!(again.text.contains(told), "{}", again.text);
    }

    #[test]
    fn what_is_no_recording_is_refused_in_words() {
        for text in ["", "[]", "{}", "not JSON", r#"[{"now": 1}]"#] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        let error = parse("{}").unwrap_err().to_string();
        assert!(error.contains("GET /snapshots"), "{error}");
    }
}
