//! What keeps a pod from serving, as data.

use serde::{Deserialize, Serialize};

/// What keeps a pod from serving: a fact with the words of the scheduler, the kubelet or the API
/// server. A message of theirs is kept up to 400 characters.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum PodProblem {
    /// Its artefact cannot be fetched, and another try would not change that.
    CannotFetch {
        /// The pod's name.
        pod: String,
        /// How the fetch ended.
        end: ContainerEnd,
    },
    /// Its artefact cannot be fetched for now.
    NotFetchedYet {
        /// How the last fetch ended.
        end: ContainerEnd,
    },
    /// Its image cannot be pulled.
    NotPulled {
        /// The pod's name.
        pod: String,
        /// The kubelet's message.
        words: String,
    },
    /// A container waits.
    Waits {
        /// The pod's name.
        pod: String,
        /// The container's name; absent for the one that serves.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        container: Option<String>,
        /// The kubelet's reason, such as `CrashLoopBackOff`.
        reason: String,
        /// The kubelet's message.
        words: String,
        /// How the container ended before, where it is the version's own fault.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_end: Option<ContainerEnd>,
    },
    /// Its server was restarted too often.
    Restarted {
        /// The pod's name.
        pod: String,
        /// How often.
        times: i32,
        /// How the server ended before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_end: Option<ContainerEnd>,
    },
    /// The API server takes no pod of the version, or no ReplicaSet.
    NotCreated {
        /// The API server's message.
        words: String,
    },
    /// No node takes the pod.
    NotScheduled {
        /// The scheduler's message.
        words: String,
    },
    /// Its server is Ready, and the pod is not.
    ServerAloneIsReady {
        /// The pod's name.
        pod: String,
        /// A condition that does not hold; absent where only `Ready` does not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        condition: Option<UnmetCondition>,
    },
    /// It is being deleted.
    Deleted {
        /// The pod's name.
        pod: String,
        /// Why, in the words of what deletes it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        words: Option<String>,
    },
    /// It has ended.
    Ended {
        /// The pod's name.
        pod: String,
        /// The kubelet's reason, such as `Evicted`, or the pod's phase.
        reason: String,
        /// The message of what ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        words: Option<String>,
    },
    /// A sentence, as recordings have it that were made before these facts.
    #[serde(untagged)]
    Text(String),
}

/// How a container ended.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ContainerEnd {
    /// Its exit code.
    pub exit_code: i32,
    /// Its termination message, if it left one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<String>,
}

/// A condition of a pod that does not hold.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct UnmetCondition {
    /// Its type.
    pub name: String,
    /// The message of the controller that sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<String>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_recording_made_before_these_facts_is_read_and_new_ones_come_back() {
        let text = PodProblem::Text("pod churn-1 is in CrashLoopBackOff: ".to_owned());
        let scheduled = PodProblem::NotScheduled {
            words: "0/3 nodes are available".to_owned(),
        };
        for (problem, recorded) in [
            (text, json!("pod churn-1 is in CrashLoopBackOff: ")),
            (
                scheduled,
                json!({"notScheduled": {"words": "0/3 nodes are available"}}),
            ),
        ] {
            assert_eq!(serde_json::to_value(&problem).unwrap(), recorded);
            let read: PodProblem = serde_json::from_value(recorded).unwrap();
            assert_eq!(read, problem);
        }
    }
}
