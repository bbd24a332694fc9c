//! Commands of people about a trial. They are annotations, so that `kubectl annotate`, `kubectl
//! serin` and Git can all give them.
//!
//! Each names its trial by the version's revision and has no effect on any other. Each is obeyed
//! once: the state then remembers it as *spent* while the annotation is unchanged, so the command
//! of one trial neither approves nor aborts the next trial of the same version.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::Revision;

/// `<revision>@<weight>`: approves leaving that step once its evidence passes; at 100, the
/// promotion.
pub const APPROVE: &str = "serin.dev/approve";
/// `<revision>@<weight>`: leave that step now, without waiting for its evidence. Has no effect
/// while the evidence fails.
pub const SKIP: &str = "serin.dev/skip";
/// `<revision>`: promote the version now.
pub const PROMOTE_FULL: &str = "serin.dev/promote-full";
/// `<revision>`: take the version's traffic away, and refuse it until `spec.rollout.retryToken`
/// changes.
pub const ABORT: &str = "serin.dev/abort";
/// Who gives the command: free text that is recorded with the decision.
pub const REQUESTED_BY: &str = "serin.dev/requested-by";

/// The annotations that hold commands.
pub const VERBS: [&str; 4] = [APPROVE, SKIP, PROMOTE_FULL, ABORT];

/// Longest name of a person that is kept, in characters.
const LONGEST_NAME: usize = 128;
/// Longest part of a malformed value that is repeated to the user, in characters.
const LONGEST_QUOTE: usize = 40;

/// The commands of a resource, who gave them, and the annotations that could not be read.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Commands {
    /// The commands.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<Command>,
    /// The person who gives them, where named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// What is wrong with annotations that cannot be read, and what to write instead. They are
    /// ignored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub malformed: Vec<String>,
}

/// One command.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Command {
    /// Approves leaving the step of this weight once its evidence passes.
    Approve(Revision, u8),
    /// Leave the step of this weight without waiting for its evidence.
    Skip(Revision, u8),
    /// Promote the version now.
    PromoteFull(Revision),
    /// Take the version's traffic away and refuse it.
    Abort(Revision),
}

impl Command {
    /// The command that an annotation holds, if it holds one.
    fn read(annotation: &str, value: &str) -> Option<Self> {
        Some(match annotation {
            APPROVE => {
                let (revision, weight) = step(value)?;
                Self::Approve(revision, weight)
            }
            SKIP => {
                let (revision, weight) = step(value)?;
                Self::Skip(revision, weight)
            }
            PROMOTE_FULL => Self::PromoteFull(revision(value)?),
            ABORT => Self::Abort(revision(value)?),
            _ => return None,
        })
    }

    /// The name of its annotation.
    pub fn annotation(&self) -> &'static str {
        match self {
            Self::Approve(..) => APPROVE,
            Self::Skip(..) => SKIP,
            Self::PromoteFull(_) => PROMOTE_FULL,
            Self::Abort(_) => ABORT,
        }
    }

    /// The value of its annotation.
    pub fn value(&self) -> String {
        match self {
            Self::Approve(revision, weight) | Self::Skip(revision, weight) => {
                format!("{revision}@{weight}")
            }
            Self::PromoteFull(revision) | Self::Abort(revision) => revision.to_string(),
        }
    }

    /// The version whose trial it is for.
    pub fn revision(&self) -> &Revision {
        match self {
            Self::Approve(revision, _)
            | Self::Skip(revision, _)
            | Self::PromoteFull(revision)
            | Self::Abort(revision) => revision,
        }
    }
}

/// The form in which state remembers a spent command: `serin.dev/abort=1a2b3c4d`.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.annotation(), self.value())
    }
}

impl Commands {
    /// Reads a resource's annotations. Never fails: what cannot be read is in `malformed`.
    pub fn read(annotations: &BTreeMap<String, String>) -> Self {
        let mut commands = Self {
            by: annotations.get(REQUESTED_BY).and_then(|name| person(name)),
            ..Self::default()
        };
        for annotation in VERBS {
            let Some(value) = annotations.get(annotation) else {
                continue;
            };
            match Command::read(annotation, value) {
                Some(command) => commands.asked.push(command),
                None => commands.malformed.push(remedy(annotation, value)),
            }
        }
        commands
    }

    /// Whether exactly this command is given.
    pub fn ask(&self, command: &Command) -> bool {
        self.asked.contains(command)
    }

    /// The same without spent commands.
    #[must_use]
    pub fn without(mut self, spent: &[String]) -> Self {
        self.asked
            .retain(|command| !spent.contains(&command.to_string()));
        self
    }
}

/// `1a2b3c4d@25`
fn step(value: &str) -> Option<(Revision, u8)> {
    let (name, weight) = value.trim().split_once('@')?;
    let weight = weight
        .parse()
        .ok()
        .filter(|weight| (1..=100).contains(weight))?;
    Some((revision(name)?, weight))
}

/// `1a2b3c4d`
fn revision(value: &str) -> Option<Revision> {
    let value = value.trim();
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (value.len() == 8 && value.bytes().all(hex)).then(|| Revision(value.to_owned()))
}

/// A name without control characters, at most [`LONGEST_NAME`] characters long.
fn person(name: &str) -> Option<String> {
    let name: String = name
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(LONGEST_NAME)
        .collect();
    (!name.is_empty()).then_some(name)
}

fn remedy(annotation: &str, value: &str) -> String {
    let expected = if [APPROVE, SKIP].contains(&annotation) {
        "expected <revision>@<weight>, such as 1a2b3c4d@25"
    } else {
        "expected a revision, 8 hex digits such as 1a2b3c4d"
    };
    let mut quote: String = value.chars().take(LONGEST_QUOTE).collect();
    if quote.len() < value.len() {
        quote.push('…');
    }
    format!("{annotation} is {quote:?}: {expected}.")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(annotations: &[(&str, &str)]) -> Commands {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Commands::read(&annotations.iter().map(own).collect())
    }

    #[test]
    fn each_annotation_is_parsed_as_its_command() {
        let revision = || Revision("1a2b3c4d".to_owned());
        let commands = read(&[
            (APPROVE, "1a2b3c4d@25"),
            (SKIP, " 1a2b3c4d@100 "),
            (PROMOTE_FULL, "1a2b3c4d"),
            (ABORT, "1a2b3c4d\n"),
            (REQUESTED_BY, "ada@example.com"),
            ("team", "ml"),
        ]);
        let expected = [
            Command::Approve(revision(), 25),
            Command::Skip(revision(), 100),
            Command::PromoteFull(revision()),
            Command::Abort(revision()),
        ];
        assert_eq!(commands.asked, expected);
        assert_eq!(commands.by.as_deref(), Some("ada@example.com"));
        assert_eq!(commands.malformed, Vec::<String>::new());
        for command in &commands.asked {
            let again = read(&[(command.annotation(), &command.value())]);
            assert_eq!(again.asked, std::slice::from_ref(command));
        }
    }

    #[test]
    fn malformed_annotations_are_ignored_and_reported_with_a_remedy() {
        for (annotation, value) in [
            (APPROVE, ""),
            (APPROVE, "yes"),
            (APPROVE, "1a2b3c4d"),
            (APPROVE, "1a2b3c4d@0"),
            (APPROVE, "1a2b3c4d@101"),
            (APPROVE, "1a2b3c4d@ten"),
            (SKIP, "@25"),
            (SKIP, "1A2B3C4D@25"),
            (PROMOTE_FULL, "true"),
            (PROMOTE_FULL, "1a2b3c4"),
            (ABORT, "1a2b3c4d5"),
            (ABORT, "ümlaut-ü"),
        ] {
            let commands = read(&[(annotation, value)]);
            assert_eq!(commands.asked, [], "{annotation}: {value}");
            let [message] = commands.malformed.as_slice() else {
                panic!("{annotation}: {value}: {:?}", commands.malformed)
            };
            assert!(
                message.contains(annotation) && message.contains("expected"),
                "{message}"
            );
        }
    }

    #[test]
    fn spent_commands_are_left_out() {
        let commands = read(&[(APPROVE, "1a2b3c4d@25"), (ABORT, "1a2b3c4d")]);
        let left = commands.without(&["serin.dev/abort=1a2b3c4d".to_owned()]);
        let approve = Command::Approve(Revision("1a2b3c4d".to_owned()), 25);
        assert_eq!(left.asked, [approve]);
    }

    proptest! {
        /// Whoever may edit the resource can set annotations (CVE-2026-40886: one crash-looped a
        /// controller).
        #[test]
        fn no_annotation_panics_or_floods_the_status(
            value in "\\PC{0,300}|[0-9a-f@\\n]{0,12}",
            name in "\\PC{0,400}",
        ) {
            for annotation in VERBS {
                let commands = read(&[(annotation, &value), (REQUESTED_BY, &name)]);
                prop_assert_eq!(commands.asked.len() + commands.malformed.len(), 1);
                prop_assert!(commands.malformed.iter().all(|m| m.chars().count() < 500));
                prop_assert!(commands.by.is_none_or(|by| by.chars().count() <= LONGEST_NAME));
            }
        }
    }
}
