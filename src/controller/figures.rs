//! When a status is written. Pure.
//!
//! While a version has weight, each look at its metrics changes the figures that the status shows:
//! counts in its message and in the records of the gates. A write goes into etcd and to every
//! client that watches models. So a status is written at once where more than figures has changed,
//! and with figures alone once in a while. No decision rests on them: what gates remember is kept
//! apart ([`super::memories`]), and a decision carries the figures of its own moment.

use jiff::{SignedDuration, Timestamp};

use crate::{api::ModelDeploymentStatus, sentences::without_figures};

/// Time between two writes of figures alone: a person who watches a rollout sees it move, and at a
/// look every 5 s a step has an eighth of the writes. As long as what gates remember may be behind.
const FIGURES_EVERY: SignedDuration = SignedDuration::from_secs(60);

/// Whether a status is written in place of the one that was read. Its time of writing is no
/// difference; by a clock that was set back, it is long ago.
pub(super) fn is_due(
    old: Option<&ModelDeploymentStatus>,
    new: &ModelDeploymentStatus,
    now: Timestamp,
) -> bool {
    let Some(old) = old else {
        return true;
    };
    let written = old.last_update_time;
    let new = ModelDeploymentStatus {
        last_update_time: written,
        ..new.clone()
    };
    if *old == new {
        return false;
    }
    let is_long_ago = |at: Timestamp| now.duration_since(at).abs() >= FIGURES_EVERY;
    written.is_none_or(is_long_ago) || in_words(old) != in_words(&new)
}

/// A status without the figures of the gates. Without a version that has weight, there are none.
fn in_words(status: &ModelDeploymentStatus) -> ModelDeploymentStatus {
    let mut status = status.clone();
    let canary = status.state.canary.as_mut();
    let Some(progress) = canary.and_then(|canary| canary.progress.as_mut()) else {
        return status;
    };
    for gate in &mut progress.gates {
        gate.sentence = without_figures(&gate.sentence);
        gate.rollout = None;
    }
    let message = std::mem::take(&mut status.state.message);
    if message.is_empty() {
        return status;
    }
    let words = without_figures(&message);
    for condition in &mut status.conditions {
        condition.message = condition.message.replace(&message, &words);
    }
    status.state.message = words;
    status
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status(edit: impl FnOnce(&mut Value)) -> ModelDeploymentStatus {
        let said = "0 errors in 40 canary requests (stable 0 of 360): the rate is below 9 %.";
        let condition = |type_, message| {
            json!({
                "type": type_, "status": "False", "reason": "GatheringEvidence",
                "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z",
            })
        };
        let mut status = json!({
            "phase": "Canary",
            "stable": {"revision": "aaaaaaaa", "version": "1"},
            "canary": {
                "revision": "bbbbbbbb", "version": "2", "weight": 10,
                "since": "2026-01-01T00:00:00Z",
                "progress": {
                    "step": 0, "stepSince": "2026-01-01T00:00:00Z",
                    "gates": [{
                        "objective": "errors", "measures": "error-rate", "sentence": said,
                        "rollout": {
                            "canary": {"requests": 40, "bad": 0},
                            "stable": {"requests": 360, "bad": 0},
                        },
                    }],
                },
            },
            "message": said,
            "conditions": [
                condition("Ready", format!("{said} Ignored: serin.dev/skip")),
                condition("Available", "Version 1: 3 of 3 pods are Ready.".to_owned()),
            ],
            "lastUpdateTime": "2026-01-01T00:00:00Z",
        });
        edit(&mut status);
        serde_json::from_value(status).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        let begin: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        begin + SignedDuration::from_secs(seconds)
    }

    /// The same after another look, in which nothing but figures has changed.
    fn counts_more(status: &mut Value) {
        let said =
            "0 errors in 1,040 canary requests (stable 0 of 9,360): the rate is below 0.3 %.";
        let progress = &mut status["canary"]["progress"];
        progress["gates"][0]["sentence"] = json!(said);
        progress["gates"][0]["rollout"]["canary"]["requests"] = json!(1040);
        status["message"] = json!(said);
        let message = format!("{said} Ignored: serin.dev/skip");
        status["conditions"][0]["message"] = json!(message);
        status["lastUpdateTime"] = json!("2026-01-01T00:00:05Z");
    }

    #[test]
    fn figures_alone_are_written_once_a_minute_and_only_where_they_change() {
        let old = status(|_| {});
        let new = status(counts_more);
        for (seconds, due) in [
            (5, false),
            (59, false),
            (60, true),
            (-59, false),
            (-60, true),
        ] {
            assert_eq!(
                is_due(Some(&old), &new, at(seconds)),
                due,
                "after {seconds} s"
            );
            assert!(
                !is_due(Some(&old), &old, at(seconds)),
                "nothing has changed"
            );
        }
        let never = status(|status| status["lastUpdateTime"] = Value::Null);
        assert!(
            is_due(Some(&never), &new, at(5)),
            "of an operator before this one"
        );
        assert!(is_due(None, &new, at(5)));
    }

    /// What changes, and the change.
    type Change = (&'static str, fn(&mut Value));

    #[test]
    fn whatever_else_changes_is_written_at_once() {
        let changes: [Change; 16] = [
            ("/phase", |status| status["phase"] = json!("Promoting")),
            ("weight", |status| status["canary"]["weight"] = json!(25)),
            ("version", |status| status["canary"]["version"] = json!("3")),
            ("stable", |status| status["stable"]["version"] = json!("0")),
            ("ready", |status| status["ready"] = json!("2/3")),
            ("readyReplicas", |status| status["readyReplicas"] = json!(2)),
            ("generation", |status| {
                status["observedGeneration"] = json!(2);
            }),
            ("reason", |status| {
                status["conditions"][0]["reason"] = json!("Paused");
            }),
            ("condition", |status| {
                status["conditions"][1]["status"] = json!("True");
            }),
            ("stable's pods", |status| {
                let pods = json!("Version 1: 2 of 3 pods are Ready.");
                status["conditions"][1]["message"] = pods;
            }),
            ("the canary's pods", |status| {
                status["message"] = json!("Version 2: 0 of 3 pods are Ready: no node.");
            }),
            ("what a gate says", |status| {
                let said = json!("1 of 40 canary requests failed. Suspect; holding.");
                status["canary"]["progress"]["gates"][0]["sentence"] = said;
            }),
            ("an outage", |status| {
                let since = json!("2026-01-01T00:00:03Z");
                status["canary"]["progress"]["metricsOutageSince"] = since;
            }),
            ("a pod is away", |status| {
                let since = json!("2026-01-01T00:00:03Z");
                status["canary"]["progress"]["unreadySince"] = since;
            }),
            ("looks", |status| {
                let at = "2026-01-01T00:00:03Z";
                status["observedTime"] = json!({"since": at, "until": at});
            }),
            ("a decision", |status| {
                status["decisions"] = json!([{
                    "at": "2026-01-01T00:00:03Z", "action": "Paused", "version": "2",
                    "weight": 10, "sentence": "Paused.",
                }]);
            }),
        ];
        let old = status(|_| {});
        for (what, change) in changes {
            let new = status(|status| {
                counts_more(status);
                change(status);
            });
            assert!(is_due(Some(&old), &new, at(5)), "{what}");
        }
    }

    #[test]
    fn without_a_version_that_has_weight_every_number_counts() {
        let starting = |ready| {
            status(|status| {
                status["canary"]["progress"] = Value::Null;
                status["message"] = json!(format!("{ready} of 3 are warm."));
            })
        };
        assert!(is_due(Some(&starting(0)), &starting(1), at(5)));
    }
}
