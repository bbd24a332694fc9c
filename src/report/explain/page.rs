//! The lines of the text, and what a decision looks like.

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{DecisionRecord, ObjectiveRecord, Verdict},
    evidence::Tally,
    report::text::{count, labelled, moment, percent, span, wrapped},
};

/// Columns before a value in force that stands below its path.
const VALUE_INDENT: usize = 13;
/// Fewest columns of such a value.
const NARROWEST_VALUE: usize = 24;

/// Builder of the text.
pub(super) struct Page {
    out: String,
    now: Timestamp,
    width: usize,
}

impl Page {
    pub(super) fn new(now: Timestamp, width: usize) -> Self {
        Self {
            out: String::new(),
            now,
            width,
        }
    }

    pub(super) fn text(self) -> String {
        self.out
    }

    pub(super) fn line(&mut self, text: &str) {
        self.out.push_str(text.trim_end());
        self.out.push('\n');
    }

    pub(super) fn heading(&mut self, text: &str) {
        if !self.out.ends_with("\n\n") {
            self.line("");
        }
        self.line(text);
    }

    pub(super) fn labelled(&mut self, indent: usize, label: &str, text: &str) {
        labelled(&mut self.out, indent, label, text, self.width);
    }

    pub(super) fn paragraph(&mut self, text: &str) {
        if !text.is_empty() {
            self.labelled(2, "", text);
        }
    }

    pub(super) fn item(&mut self, text: &str) {
        self.labelled(2, "- ", text);
    }

    /// A value in force: its origin, its path and itself, below them where it does not fit beside.
    pub(super) fn value(&mut self, origin: &str, path: &str, value: &str) {
        let label = format!("  {origin:<9}{path:<33} ");
        if label.chars().count() + value.chars().count() <= self.width {
            return self.line(&format!("{label}{value}"));
        }
        self.line(&label);
        let room = self.width.saturating_sub(VALUE_INDENT).max(NARROWEST_VALUE);
        for line in wrapped(&broken(value, room), room) {
            self.line(&format!("{:VALUE_INDENT$}{line}", ""));
        }
    }

    pub(super) fn decision(&mut self, record: &DecisionRecord, before: Option<&DecisionRecord>) {
        let from = before
            .filter(|before| before.version == record.version)
            .map(|before| before.weight);
        let weight = match from {
            Some(from) if from != record.weight => format!("{from} % to {} %", record.weight),
            _ => format!("{} %", record.weight),
        };
        let verdict = record
            .verdict
            .map(|verdict| format!(", {}", meaning(verdict)));
        let by = record.by.as_ref().map(|by| format!(", requested by {by}"));
        let label = format!("{}  ", moment(record.at, self.now));
        let title = format!(
            "{}: version {}, {weight}{}{}",
            record.action,
            record.version,
            verdict.unwrap_or_default(),
            by.unwrap_or_default()
        );
        self.labelled(2, &label, &title);
        self.labelled(4, "", &record.sentence);
        for objective in &record.evidence {
            self.objective(objective);
        }
        if let Some(next) = record.next_check {
            let text = match next.duration_since(record.at) {
                SignedDuration::ZERO => "at once".to_owned(),
                later => format!("{} later", span(later)),
            };
            self.labelled(4, "next look  ", &text);
        }
        self.line("");
    }

    fn objective(&mut self, objective: &ObjectiveRecord) {
        self.labelled(
            4,
            &format!("{}  ", objective.objective),
            &format!(
                "{}; limit {}",
                meaning(objective.verdict),
                objective.threshold
            ),
        );
        if !objective.query.is_empty() {
            self.labelled(6, "asked    ", &objective.query);
        }
        self.labelled(
            6,
            "window   ",
            &format!(
                "the last {} s, of which only scrapes not counted before add to the counts",
                objective.window_seconds
            ),
        );
        if let Some(value) = objective.value {
            self.labelled(6, "measured ", &format!("{value}"));
        }
        if objective.step.is_some() || objective.rollout.is_some() {
            self.line(&format!(
                "      {:<17} {:>12} {:>10} {:>9}",
                "counted", "requests", "bad", "share"
            ));
        }
        for (label, look) in [("step", objective.step), ("rollout", objective.rollout)] {
            if let Some(look) = look {
                self.tally(label, "canary", look.canary);
                self.tally("", "stable", look.stable);
            }
        }
        if let (Some(bound), Some(needed)) = (objective.upper_bound, objective.bound_needed) {
            let known = if bound >= 1.0 {
                "the canary's true share may be 100 %".to_owned()
            } else {
                format!("the canary's true share is below {}", percent(bound))
            };
            self.labelled(
                6,
                "bound    ",
                &format!("{known}; the next move needs it below {}", percent(needed)),
            );
        }
        if objective.verdict == Verdict::NoMetrics {
            self.labelled(6, "why      ", &objective.sentence);
        }
    }

    fn tally(&mut self, label: &str, side: &str, tally: Tally) {
        self.line(&format!(
            "      {label:<8} {side:<8} {:>12} {:>10} {:>9}",
            count(tally.requests),
            count(tally.bad),
            percent(tally.bad_share())
        ));
    }
}

/// The text with words of at most `room` characters: an image or a digest goes on in the next line.
fn broken(text: &str, room: usize) -> String {
    let mut out = String::new();
    let mut length = 0;
    for letter in text.chars() {
        length = if letter == ' ' { 0 } else { length + 1 };
        if length > room {
            out.push(' ');
            length = 1;
        }
        out.push(letter);
    }
    out
}

/// A verdict as text.
fn meaning(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "passes",
        Verdict::Fail => "fails",
        Verdict::NeedMoreData => "not proven yet",
        Verdict::NoMetrics => "cannot be trusted",
    }
}
