//! Pods in words: how many are Ready, and what keeps the others from serving.

use std::fmt::{self, Display, Formatter};

use crate::observe::{ContainerEnd, PodProblem, UnmetCondition, VersionHealth};

/// How many pods of a version are Ready, and what the others wait for, as a sentence.
pub(super) fn pods_of(version: &str, health: &VersionHealth, replicas: i32) -> String {
    let all = health.desired.max(replicas);
    let why = health.failure.as_ref().or(health.trouble.as_ref());
    let why = why.map_or_else(String::new, |why| {
        format!(": {}", why.to_string().trim_end_matches('.'))
    });
    let ready = health.ready;
    format!("Version {version}: {ready} of {all} pods are Ready{why}.")
}

impl Display for PodProblem {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::CannotFetch { pod, end } => {
                write!(f, "pod {pod} cannot fetch its artefact{}", ended(Some(end)))
            }
            Self::NotFetchedYet { end } => {
                write!(f, "the artefact cannot be fetched yet{}", ended(Some(end)))
            }
            Self::NotPulled { pod, words } => write!(f, "pod {pod} cannot pull its image: {words}"),
            Self::Waits {
                pod,
                container,
                reason,
                words,
                last_end,
            } => {
                if let Some(container) = container {
                    write!(f, "container {container} of ")?;
                }
                let end = ended(last_end.as_ref());
                write!(f, "pod {pod} is in {reason}: {words}{end}")
            }
            Self::Restarted {
                pod,
                times,
                last_end,
            } => {
                let end = ended(last_end.as_ref());
                write!(f, "pod {pod} was restarted {times} times{end}")
            }
            Self::NotCreated { words } => write!(f, "the API server says: {words}"),
            Self::NotScheduled { words } => write!(f, "the scheduler says: {words}"),
            Self::ServerAloneIsReady { pod, condition } => {
                write!(f, "the server in pod {pod} is ready, the pod is not: ")?;
                match condition {
                    Some(UnmetCondition { name, words }) => {
                        write!(f, "{name} {}", words.as_deref().unwrap_or("is False"))
                    }
                    None => f.write_str("is its node away?"),
                }
            }
            Self::Deleted { pod, words } => {
                write!(f, "pod {pod} is being deleted{}", aside(words.as_deref()))
            }
            Self::Ended { pod, reason, words } => {
                write!(
                    f,
                    "pod {pod} has ended: {reason}{}",
                    aside(words.as_deref())
                )
            }
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// " (it ended with exit code 1: no such model)"
fn ended(end: Option<&ContainerEnd>) -> String {
    let Some(ContainerEnd { exit_code, words }) = end else {
        return String::new();
    };
    let words = words.as_ref().map(|words| format!(": {words}"));
    let words = words.unwrap_or_default();
    format!(" (it ended with exit code {exit_code}{words})")
}

/// " (The node was low on resource: memory.)"
fn aside(words: Option<&str>) -> String {
    words.map_or_else(String::new, |words| format!(" ({words})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_others_wait_for_ends_the_sentence() {
        let words = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.";
        let health = VersionHealth {
            desired: 1,
            trouble: Some(PodProblem::NotScheduled {
                words: words.to_owned(),
            }),
            ..VersionHealth::default()
        };
        assert_eq!(
            pods_of("2", &health, 3),
            format!("Version 2: 0 of 3 pods are Ready: the scheduler says: {words}")
        );
    }
}
