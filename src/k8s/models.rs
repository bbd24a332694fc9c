//! The ModelDeployments as this process knows them.

use std::sync::Arc;

use kube::{Resource, ResourceExt};
use kube_runtime::reflector::{ObjectRef, Store};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{api::ModelDeployment, k8s::is_older};

/// The watch's cache and the API server's answers to this process's own reads and writes: of each
/// model the newer of both.
///
/// A watch may go silent for a minute before that is noticed. A rollback that this process writes
/// meanwhile must still reach the routers that it serves.
#[derive(Clone)]
pub struct Models {
    store: Store<ModelDeployment>,
    /// Answers that were newer than the cache. Few, and at most one of each model.
    answers: Arc<Mutex<Vec<Arc<ModelDeployment>>>>,
    changes: Arc<watch::Sender<u64>>,
}

impl Models {
    /// A cache that a watch fills. `changes` counts its changes.
    pub fn new(store: Store<ModelDeployment>, changes: Arc<watch::Sender<u64>>) -> Self {
        Self {
            store,
            answers: Arc::default(),
            changes,
        }
    }

    /// The watch's cache alone.
    pub fn store(&self) -> &Store<ModelDeployment> {
        &self.store
    }

    /// Takes in an answer of the API server, unless the watch has seen it already.
    pub fn answered(&self, answer: &ModelDeployment) {
        let (namespace, name) = answer.key();
        let known = self.get(&namespace, &name);
        if known.is_some_and(|known| is_newer(answer, &known)) {
            let mut answer = answer.clone();
            answer.metadata.managed_fields = None;
            let mut answers = self.answers.lock();
            answers.retain(|older| !is_newer(&answer, older));
            answers.push(Arc::new(answer));
            drop(answers);
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// A model.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<ModelDeployment>> {
        let cached = self.store.get(&ObjectRef::new(name).within(namespace))?;
        let answers = self.answers.lock();
        let newer = answers.iter().find(|answer| is_newer(answer, &cached));
        Some(newer.cloned().unwrap_or(cached))
    }

    /// All models. Forgets answers that the watch has caught up with, or whose model is gone.
    pub fn state(&self) -> Vec<Arc<ModelDeployment>> {
        let mut answers = self.answers.lock();
        let mut models = self.store.state();
        answers.retain(|answer| {
            let older = models.iter_mut().find(|cached| is_newer(answer, cached));
            older.map(|cached| cached.clone_from(answer)).is_some()
        });
        models
    }
}

/// Whether both are the same object, by UID, and the answer is newer.
fn is_newer(answer: &ModelDeployment, cached: &ModelDeployment) -> bool {
    answer.uid() == cached.uid() && is_older(cached.meta(), answer.meta())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use kube_runtime::{reflector::store::Writer, watcher::Event};
    use serde_json::json;

    use super::*;

    fn model(uid: &str, version: u64) -> ModelDeployment {
        serde_json::from_value(json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {
                "name": "churn", "namespace": "ml", "uid": uid,
                "resourceVersion": version.to_string(),
            },
            "spec": {
                "model": {"uri": "file:///m", "version": "1", "digest": "sha256:0"},
                "objectives": [{"name": "errors", "errorRate": {"max": "1%"}}],
            },
        }))
        .unwrap()
    }

    fn known(models: &Models) -> Vec<(String, String)> {
        let known = models.state().into_iter();
        known
            .map(|model| (model.uid().unwrap(), model.resource_version().unwrap()))
            .collect()
    }

    #[test]
    fn each_model_is_known_as_it_is_newest() {
        let mut watch = Writer::default();
        let (sender, changes) = watch::channel(0);
        let models = Models::new(watch.as_reader(), Arc::new(sender));
        let now = |uid: &str, version: &str| vec![(uid.to_owned(), version.to_owned())];
        models.answered(&model("a", 9));
        assert_eq!(known(&models), [], "the watch says which there are");
        watch.apply_watcher_event(&Event::Apply(model("a", 9)));
        assert_eq!(known(&models), now("a", "9"));

        models.answered(&model("a", 10));
        models.answered(&model("a", 8));
        assert_eq!(known(&models), now("a", "10"), "numbers, not texts");
        assert_eq!(
            *changes.borrow(),
            1,
            "routers learn of it at once, and once"
        );
        assert_eq!(
            models
                .get("ml", "churn")
                .unwrap()
                .resource_version()
                .unwrap(),
            "10"
        );
        assert!(models.get("lab", "churn").is_none());

        watch.apply_watcher_event(&Event::Apply(model("a", 11)));
        assert_eq!(known(&models), now("a", "11"));
        assert!(models.answers.lock().is_empty());

        models.answered(&model("a", 12));
        watch.apply_watcher_event(&Event::Delete(model("a", 13)));
        assert_eq!(known(&models), []);
        watch.apply_watcher_event(&Event::Apply(model("b", 14)));
        models.answered(&model("a", 15));
        assert_eq!(known(&models), now("b", "14"), "another one of its name");
    }
}
