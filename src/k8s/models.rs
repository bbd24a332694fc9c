//! The ModelDeployments as this process knows them.

use std::sync::Arc;

use kube::{Resource, ResourceExt};
use kube_runtime::reflector::{ObjectRef, Store};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{api::ModelDeployment, k8s::is_older};

/// What their watch has told, and what the API server has answered to this process's own reads and writes, each model as it is
/// newest.
///
/// A watch may go silent and be believed for a minute. A rollback that is written meanwhile must reach the routers of the one
/// who wrote it all the same.
#[derive(Clone)]
pub struct Models {
    told: Store<ModelDeployment>,
    /// Answers that were newer than what was told; few, and at most one of each model.
    answers: Arc<Mutex<Vec<Arc<ModelDeployment>>>>,
    news: Arc<watch::Sender<u64>>,
}

impl Models {
    /// Those of a watch; `news` counts every change.
    /// A cache that a watch fills; `news` counts its changes.
    pub fn new(told: Store<ModelDeployment>, news: Arc<watch::Sender<u64>>) -> Self {
        Self {
            told,
            answers: Arc::default(),
            news,
        }
    }

    /// The watch's cache alone.
    pub fn told(&self) -> &Store<ModelDeployment> {
        &self.told
    }

    /// Takes in an answer of the API server; nothing, where the watch has told as much.
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
            self.news.send_modify(|count| *count += 1);
        }
    }

    /// A model.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<ModelDeployment>> {
        let told = self.told.get(&ObjectRef::new(name).within(namespace))?;
        let answers = self.answers.lock();
        let newer = answers.iter().find(|answer| is_newer(answer, &told));
        Some(newer.cloned().unwrap_or(told))
    }

    /// All models. Forgets answers that the watch has caught up with, or whose model is gone.
    pub fn state(&self) -> Vec<Arc<ModelDeployment>> {
        let mut answers = self.answers.lock();
        let mut models = self.told.state();
        answers.retain(|answer| {
            let older = models.iter_mut().find(|told| is_newer(answer, told));
            older.map(|told| told.clone_from(answer)).is_some()
        });
        models
    }
}

/// Whether both are the same model, not one of its name, and the first is newer.
fn is_newer(answer: &ModelDeployment, told: &ModelDeployment) -> bool {
    answer.uid() == told.uid() && is_older(told.meta(), answer.meta())
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
            "metadata": {"name": "churn", "namespace": "ml", "uid": uid, "resourceVersion": version.to_string()},
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
        let (sender, news) = watch::channel(0);
        let models = Models::new(watch.as_reader(), Arc::new(sender));
        let now = |uid: &str, version: &str| vec![(uid.to_owned(), version.to_owned())];
        models.answered(&model("a", 9));
        assert_eq!(known(&models), [], "the watch tells which there are");
        watch.apply_watcher_event(&Event::Apply(model("a", 9)));
        assert_eq!(known(&models), now("a", "9"));

        models.answered(&model("a", 10));
        models.answered(&model("a", 8));
        assert_eq!(known(&models), now("a", "10"), "numbers, not texts");
        assert_eq!(*news.borrow(), 1, "routers are told at once, and once");
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
