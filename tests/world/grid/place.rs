//! The states in which events happen, and the stories that lead to them.

use serde_json::{Value, json};

use crate::{
    kinds::Kind,
    model_ref::IRIS,
    objects::{Objects, label},
    story::{
        Behaviour, Deed, Start, Story,
        When::{self, After, Invalid, Now, Prepares, Refused, Serves, Weighs},
        holds, steps,
    },
};

/// A state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first version is being started.
    Pending,
    Stable,
    /// A new version is being started.
    Preparing,
    Canary10,
    Canary50,
    Canary100,
    Promoting,
    RollingBack,
    /// A version was rolled back, and the spec still asks for it.
    Refused,
    /// The spec turned invalid at rest.
    InvalidSpec,
    /// The spec turned invalid in mid-trial.
    InvalidInTrial,
    /// A foreign object has the name of the new version.
    Blocked,
    Paused,
    AwaitingApproval,
    /// Deleted during a trial, with a foreign finalizer.
    Deleting,
    /// Deleted without its children and made again.
    Orphaned,
}

impl Place {
    pub const ALL: [Self; 16] = [
        Self::Pending,
        Self::Stable,
        Self::Preparing,
        Self::Canary10,
        Self::Canary50,
        Self::Canary100,
        Self::Promoting,
        Self::RollingBack,
        Self::Refused,
        Self::InvalidSpec,
        Self::InvalidInTrial,
        Self::Blocked,
        Self::Paused,
        Self::AwaitingApproval,
        Self::Deleting,
        Self::Orphaned,
    ];

    /// The story that leads to it. `minReady` is the share of Ready pods that a forward move needs.
    pub fn story(self, replicas: u64, min_ready: &str) -> Story {
        use Deed::{Apply, Bind, Delete, Orphan, Pause, Spoil, Squat};
        const SLOW_START: Behaviour = Behaviour {
            start: Start::After(20),
            ..Behaviour::HEALTHY
        };
        const BROKEN: Behaviour = Behaviour::failing(1000, 0);
        let second = [(Now, Apply("1")), (Serves("1"), Apply("2"))];
        let then = |when, deed| [&second[..], &[(when, deed)]].concat();
        let chapters: Vec<(When, Deed)> = match self {
            Self::Pending | Self::Stable => vec![(Now, Apply("1"))],
            Self::Preparing
            | Self::Canary10
            | Self::Canary50
            | Self::Canary100
            | Self::Promoting
            | Self::RollingBack
            | Self::Refused
            | Self::AwaitingApproval => second.to_vec(),
            Self::InvalidSpec => vec![(Now, Apply("1")), (Serves("1"), Spoil)],
            Self::InvalidInTrial => then(Weighs("2", 50), Spoil),
            Self::Blocked => vec![
                (Now, Apply("1")),
                (Serves("1"), Squat("2")),
                (Now, Apply("2")),
            ],
            Self::Paused => then(Weighs("2", 10), Pause(true)),
            Self::Deleting => [&then(Weighs("2", 10), Bind)[..], &[(Now, Delete)]].concat(),
            // Created again at the start of a second, so that the event finds orphaned children.
            Self::Orphaned => vec![
                (Now, Apply("1")),
                (Serves("1"), Pause(false)),
                (After(3), Orphan),
                (After(3), Apply("1")),
            ],
        };
        let behaviours = match self {
            Self::Pending => vec![("1", SLOW_START)],
            Self::Preparing => vec![("2", SLOW_START)],
            Self::RollingBack | Self::Refused => vec![("2", BROKEN)],
            _ => Vec::new(),
        };
        Story::of("a cell of the grid", &chapters, &behaviours, |spec| {
            spec["replicas"] = json!(replicas);
            let rollout = &mut spec["rollout"];
            rollout["steps"] = steps(&[10, 50, 100]);
            rollout["minReady"] = json!(min_ready);
            rollout["scaleDownDelay"] = json!("30s");
            rollout["progressDeadline"] = json!("60s");
            if self == Self::AwaitingApproval {
                rollout["steps"][0]["pause"] = json!({});
            }
        })
    }

    /// Whether the model is in it.
    pub fn is_reached(self, objects: &Objects) -> bool {
        let Some(model) = IRIS.of(objects) else {
            return false;
        };
        let status = &model["status"];
        let at = |when| holds(when, IRIS, objects, 0);
        let weighs = |weight: u64| {
            status["canary"]["version"] == "2" && status["canary"]["weight"] == weight
        };
        match self {
            Self::Pending => {
                status["phase"] == "Pending"
                    && status["canary"]["version"] == "1"
                    && has_pods(objects, status)
            }
            Self::Stable => at(Serves("1")) && is_condition(status, "Ready"),
            Self::Preparing => {
                at(Prepares("2")) && status["phase"] == "Preparing" && has_pods(objects, status)
            }
            Self::Canary10 => weighs(10),
            Self::Canary50 => weighs(50),
            Self::Canary100 => weighs(100),
            Self::Promoting => status["phase"] == "Promoting",
            Self::RollingBack => status["phase"] == "RollingBack",
            Self::Refused => at(Refused("2")) && status["phase"] == "Stable",
            Self::InvalidSpec => at(Invalid) && status["stable"]["version"] == "1",
            Self::InvalidInTrial => at(Invalid) && status["retiring"].is_array(),
            Self::Blocked => has_reason(status, "NameTaken"),
            Self::Paused => status["paused"] == true && weighs(10),
            Self::AwaitingApproval => weighs(10) && has_reason(status, "StepPaused"),
            Self::Deleting => !model["metadata"]["deletionTimestamp"].is_null(),
            Self::Orphaned => {
                let mut changes = objects.since(0).iter();
                changes.any(|change| change.deleted && change.key == IRIS.key())
            }
        }
    }

    /// Whether a version is on trial with weight.
    pub fn has_weight(self) -> bool {
        matches!(
            self,
            Self::Canary10
                | Self::Canary50
                | Self::Canary100
                | Self::Paused
                | Self::AwaitingApproval
        )
    }

    /// The deed that takes the model out of it, where it does not leave by itself.
    pub fn way_out(self) -> Option<Deed> {
        match self {
            Self::InvalidSpec | Self::InvalidInTrial => Some(Deed::Fix),
            Self::Blocked => Some(Deed::Unsquat("2")),
            Self::Paused => Some(Deed::Pause(false)),
            Self::AwaitingApproval => Some(Deed::Steps(&[10, 50, 100])),
            Self::Deleting => Some(Deed::Unbind),
            _ => None,
        }
    }

    /// The stable version and the refused version at the end, without an event.
    pub fn end(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Pending | Self::Stable | Self::InvalidSpec | Self::Orphaned => ("1", None),
            Self::RollingBack | Self::Refused => ("1", Some("2")),
            _ => ("2", None),
        }
    }
}

/// Whether the version on trial has pods, in whatever state.
fn has_pods(objects: &Objects, status: &Value) -> bool {
    let revision = status["canary"]["revision"].as_str().unwrap_or_default();
    let mut pods = objects.of(Kind::Pod);
    pods.any(|(_, pod)| label(pod, "serin.dev/revision") == Some(revision))
}

/// Whether a condition of a status holds.
pub fn is_condition(status: &Value, name: &str) -> bool {
    let conditions = status["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|one| one["type"] == name && one["status"] == "True")
}

fn has_reason(status: &Value, reason: &str) -> bool {
    let conditions = status["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|one| one["reason"] == reason)
}
