//! The record of a decision: the question, the counts and the conclusion. Its size is bounded, so
//! that status stays small.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    conditions::reasons,
    status::{optional_time_schema, time_schema},
};
use crate::evidence::Observation;

/// Decisions kept in status.
const DECISIONS_KEPT: usize = 10;
/// Decisions whose evidence is kept in status, of those that have any.
const EVIDENCE_KEPT: usize = 3;
/// Objectives whose evidence a record in status keeps.
const OBJECTIVES_KEPT: usize = 16;
/// Longest sentence in status, in characters. A gate's sentence has about 150, so all eight fit.
const LONGEST_SENTENCE: usize = 1_500;
/// Longest sentence of one objective, in characters.
const LONGEST_PART: usize = 400;
/// Longest query in status, in characters. Queries that Serin builds stay below 450 with names of
/// usual length.
const LONGEST_QUERY: usize = 600;
/// Longest name in status, in characters: of a person, an objective, a version or a limit.
const LONGEST_NAME: usize = 128;

/// The verdict on the evidence.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The objectives hold, and would at the next weight.
    Pass,
    /// The canary breaks an objective and is worse than stable, or its pods fail.
    Fail,
    /// Nothing is proven yet.
    NeedMoreData,
    /// The metrics cannot be trusted. Never promotes.
    NoMetrics,
}

/// One decision, with all that a reader needs to understand it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DecisionRecord {
    /// When it was taken.
    #[schemars(schema_with = "time_schema")]
    pub at: Timestamp,
    /// What was decided: an event's reason, such as `StepAdvanced` or `RolledBack`.
    pub action: String,
    /// The version it is about.
    pub version: String,
    /// The canary's weight from now on, in percent.
    pub weight: u8,
    /// The verdict, where the decision was one on evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The decision in plain words, with the numbers.
    pub sentence: String,
    /// The person who asked for it; absent where Serin decided by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The evidence for each objective at that time; empty where the decision was not one on
    /// evidence. Status keeps it for the newest three such decisions; the log has all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<ObjectiveRecord>,
    /// When the next look was due; absent where only a change could bring one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time_schema")]
    pub next_check: Option<Timestamp>,
}

/// The question, the counts and the conclusion of one objective.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ObjectiveRecord {
    /// The name of the objective.
    pub objective: String,
    /// The verdict on its evidence.
    pub verdict: Verdict,
    /// The limit in words, such as `p99 ≤ 250 ms (share over 250 ms ≤ 1 %)`.
    pub threshold: String,
    /// The PromQL whose answer was counted, for a person to repeat; empty where there was no
    /// answer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub query: String,
    /// How far back that query reached, in seconds.
    pub window_seconds: u64,
    /// Requests of both versions since the step began; absent where the objective counts none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Observation>,
    /// Requests of both versions since the rollout began; absent where the objective counts none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Observation>,
    /// What was measured, where the objective measures a value instead of counting requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// The canary's true share of bad requests is below this (0 to 1), by the whole rollout's
    /// counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper_bound: Option<f64>,
    /// What `upperBound` must be at or below for the next weight (0 to 1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_needed: Option<f64>,
    /// The conclusion in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sentence: String,
}

impl DecisionRecord {
    /// Whether it is a decision about a version; to pause, resume, sleep and wake up decides
    /// nothing about one.
    pub fn is_move(&self) -> bool {
        let others = [
            reasons::PAUSED,
            reasons::RESUMED,
            reasons::ASLEEP,
            reasons::WAKING,
        ];
        !others.contains(&self.action.as_str())
    }

    /// The record as status keeps it: long texts are shortened.
    fn bounded(mut self) -> Self {
        shorten(&mut self.version, LONGEST_NAME);
        shorten(&mut self.sentence, LONGEST_SENTENCE);
        if let Some(by) = &mut self.by {
            shorten(by, LONGEST_NAME);
        }
        self.evidence.truncate(OBJECTIVES_KEPT);
        for objective in &mut self.evidence {
            shorten(&mut objective.objective, LONGEST_NAME);
            shorten(&mut objective.threshold, LONGEST_NAME);
            shorten(&mut objective.query, LONGEST_QUERY);
            shorten(&mut objective.sentence, LONGEST_PART);
        }
        self
    }
}

/// Adds a record to those in status. The last 10 are kept, with the evidence of the last 3 that
/// have any.
pub fn remember(decisions: &mut Vec<DecisionRecord>, record: DecisionRecord) {
    decisions.push(record.bounded());
    decisions.drain(..decisions.len().saturating_sub(DECISIONS_KEPT));
    decisions
        .iter_mut()
        .rev()
        .filter(|record| !record.evidence.is_empty())
        .skip(EVIDENCE_KEPT)
        .for_each(|record| record.evidence = Vec::new());
}

/// Cuts a text to at most `limit` characters. A text that was cut ends in `…`.
fn shorten(text: &mut String, limit: usize) {
    if let Some((end, _)) = text.char_indices().nth(limit) {
        let last = text[..end].char_indices().next_back();
        text.truncate(last.map_or(0, |(last, _)| last));
        text.push('…');
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::evidence::Tally;

    fn record(letters: usize, objectives: usize) -> DecisionRecord {
        let long = "é".repeat(letters);
        let look = Observation {
            canary: Tally::new(u64::MAX, u64::MAX),
            stable: Tally::new(u64::MAX, u64::MAX),
        };
        let evidence = ObjectiveRecord {
            objective: long.clone(),
            verdict: Verdict::NeedMoreData,
            threshold: long.clone(),
            query: long.clone(),
            window_seconds: 60,
            step: Some(look),
            rollout: Some(look),
            value: None,
            upper_bound: Some(0.1234),
            bound_needed: Some(0.1234),
            sentence: long.clone(),
        };
        DecisionRecord {
            at: Timestamp::UNIX_EPOCH,
            action: "StepAdvanced".to_owned(),
            version: "2".to_owned(),
            weight: 10,
            verdict: Some(Verdict::Pass),
            sentence: long.clone(),
            by: Some(long),
            evidence: vec![evidence; objectives],
            next_check: Some(Timestamp::UNIX_EPOCH),
        }
    }

    #[test]
    fn ten_decisions_are_kept_with_the_evidence_of_the_last_three() {
        let mut decisions = Vec::new();
        for number in 0..20 {
            let mut record = record(10, usize::from(number % 2 == 0));
            record.weight = number;
            remember(&mut decisions, record);
        }
        let weights: Vec<u8> = decisions.iter().map(|record| record.weight).collect();
        assert_eq!(weights, (10..20).collect::<Vec<u8>>());
        let with_evidence: Vec<u8> = decisions
            .iter()
            .filter(|record| !record.evidence.is_empty())
            .map(|record| record.weight)
            .collect();
        assert_eq!(with_evidence, [14, 16, 18]);
    }

    #[test]
    fn the_size_of_records_in_status_is_bounded() {
        let mut decisions = Vec::new();
        for _ in 0..20 {
            remember(&mut decisions, record(100_000, 100));
        }
        let bytes = serde_json::to_vec(&decisions).unwrap().len();
        // 3 records · 16 objectives · (1,256 characters of two bytes + 400 bytes of numbers), and
        // 10 sentences. etcd takes 1.5 MB an object.
        assert!(bytes < 200_000, "{bytes}");
        assert_eq!(decisions[0].sentence.chars().count(), LONGEST_SENTENCE);
        assert!(decisions[0].sentence.ends_with('…'));
    }

    #[test]
    fn a_record_of_an_older_operator_is_read() {
        let old = r#"{"at": "2026-01-01T00:00:00Z", "action": "Promoted", "version": "1",
            "weight": 0, "sentence": "It serves."}"#;
        let record: DecisionRecord = serde_json::from_str(old).unwrap();
        assert_eq!((record.by, record.evidence.len()), (None, 0));
    }
}
