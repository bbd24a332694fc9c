//! What the gates of each trial remember: in this process, and from time to time on the
//! ControllerRevision of the version on trial, for the process after this one.
//!
//! It is written after the status, and may be older than it or lost: the next process reads again
//! from Prometheus what its cursors have not counted. So no decision waits for a write here, and a
//! write that is refused costs a longer query after a restart, no more.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use kube_runtime::reflector::ObjectRef;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    api::{ModelDeployment, Revision, State, TrialMemory},
    k8s::{Stores, is_child, timely, version_name, words},
};

/// Annotation of the ControllerRevision of a version on trial, with a [`TrialMemory`] as JSON.
pub const MEMORY_ANNOTATION: &str = "serin.dev/trial-memory";
/// Field manager of the annotation; the other fields belong to the manager of the plan.
const MANAGER: &str = "serin-memory";
/// Time between two writes within a step. A process that takes over then reads at most as much
/// again, where every scrape (15 s) would cost a write.
const SAVED_EVERY: SignedDuration = SignedDuration::from_secs(60);

/// The memories of all trials, by namespace and name of the model.
#[derive(Default)]
pub struct TrialMemories(Mutex<HashMap<(String, String), Kept>>);

/// A memory in this process.
struct Kept {
    memory: TrialMemory,
    /// The beginning of the step that was written last, and when it was written.
    saved: Option<(Timestamp, Timestamp)>,
}

impl TrialMemories {
    /// The memory of the trial that a state is in: this process's, else what the version's
    /// ControllerRevision keeps. `None` where there is none of this trial.
    pub(super) fn of(
        &self,
        model: &ModelDeployment,
        state: &State,
        stores: &Stores,
    ) -> Option<TrialMemory> {
        let canary = state.canary.as_ref()?;
        let is_of_trial = |memory: &TrialMemory| {
            (&memory.revision, memory.since) == (&canary.revision, canary.since)
        };
        if let Some(kept) = self.0.lock().get(&model.key())
            && is_of_trial(&kept.memory)
        {
            return Some(kept.memory.clone());
        }
        let (namespace, name) = model.key();
        let object = ObjectRef::new(&version_name(&name, &canary.revision)).within(&namespace);
        let object = stores.history.get(&object)?;
        let text = object.annotations().get(MEMORY_ANNOTATION)?;
        let read = serde_json::from_str(text).inspect_err(|error| {
            tracing::warn!(%error, "the annotation {MEMORY_ANNOTATION} cannot be read");
        });
        read.ok()
            .filter(is_of_trial)
            .filter(|_| is_child(&*object, model))
    }

    /// Keeps a memory, and writes it where a step has begun or the last write is long ago. `None`
    /// ends the trial.
    pub(super) async fn keep(
        &self,
        client: &Client,
        model: &ModelDeployment,
        memory: Option<&TrialMemory>,
        now: Timestamp,
    ) {
        let Some((revision, memory)) = self.take_in(model, memory, now) else {
            return;
        };
        let (namespace, name) = model.key();
        let api: Api<ControllerRevision> = Api::namespaced(client.clone(), &namespace);
        let patch = json!({"metadata": {"annotations": {MEMORY_ANNOTATION: memory}}});
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let name = version_name(&name, &revision);
        let written = timely(api.patch_metadata(&name, &params, &Patch::Merge(&patch))).await;
        let why = match written {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => words(&error),
            Err(late) => late.to_string(),
        };
        tracing::warn!(name, why, "what the gates remember cannot be written");
    }

    /// Keeps a memory in this process. Returns the revision and the value to write, if one is due:
    /// a null removes the annotation.
    fn take_in(
        &self,
        model: &ModelDeployment,
        memory: Option<&TrialMemory>,
        now: Timestamp,
    ) -> Option<(Revision, Value)> {
        let mut all = self.0.lock();
        let Some(memory) = memory else {
            let ended = all.remove(&model.key())?;
            ended.saved?;
            return Some((ended.memory.revision, Value::Null));
        };
        let last = all.get(&model.key()).filter(|kept| {
            (&kept.memory.revision, kept.memory.since) == (&memory.revision, memory.since)
        });
        let saved = last.and_then(|kept| kept.saved);
        let is_due = saved.is_none_or(|(step_since, at)| {
            step_since != memory.step_since || now.duration_since(at).abs() >= SAVED_EVERY
        });
        let saved = if is_due {
            Some((memory.step_since, now))
        } else {
            saved
        };
        let memory = memory.clone();
        let text = is_due
            .then(|| serde_json::to_string(&memory).ok())
            .flatten();
        let revision = memory.revision.clone();
        all.insert(model.key(), Kept { memory, saved });
        Some((revision, Value::String(text?)))
    }

    /// Drops the memory of a model that is gone.
    pub(super) fn forget(&self, key: &(String, String)) {
        self.0.lock().remove(key);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{api::GateMemory, rollout};

    fn model() -> ModelDeployment {
        serde_json::from_value(json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "churn", "namespace": "ml", "uid": "1"},
            "spec": {
                "model": {"uri": "file:///m", "version": "2", "digest": "sha256:0"},
                "objectives": [{"name": "errors", "errorRate": {"max": "1%"}}],
            },
        }))
        .unwrap()
    }

    fn memory(step_since: i64) -> TrialMemory {
        let gates = model().spec.gates();
        let gates: Vec<GateMemory> = gates
            .iter()
            .map(|gate| rollout::begun(gate, Timestamp::UNIX_EPOCH))
            .collect();
        TrialMemory {
            revision: Revision("00000002".to_owned()),
            since: Timestamp::UNIX_EPOCH,
            step_since: Timestamp::from_second(step_since).unwrap(),
            gates,
        }
    }

    #[test]
    fn a_memory_is_written_at_each_step_once_a_minute_and_removed_at_the_end() {
        let memories = TrialMemories::default();
        let mut writes = Vec::new();
        for (second, step_since) in [
            (0, 0),
            (15, 0),
            (59, 0),
            (60, 0),
            (75, 75),
            (90, 75),
            (136, 75),
        ] {
            let now = Timestamp::from_second(second).unwrap();
            let memory = memory(step_since);
            if let Some((_, written)) = memories.take_in(&model(), Some(&memory), now) {
                let written: TrialMemory = serde_json::from_str(written.as_str().unwrap()).unwrap();
                assert_eq!(written, memory, "what is read is what was kept");
                writes.push(second);
            }
        }
        assert_eq!(writes, [0, 60, 75, 136]);
        let now = Timestamp::from_second(140).unwrap();
        let removed = memories.take_in(&model(), None, now);
        assert_eq!(
            removed,
            Some((Revision("00000002".to_owned()), Value::Null))
        );
        assert_eq!(memories.take_in(&model(), None, now), None);
    }
}
