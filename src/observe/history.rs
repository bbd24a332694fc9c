//! ControllerRevisions of versions in use, kept as they were last seen. One that is deleted is
//! written again: without it a version can be neither scaled nor repaired once the spec asks for
//! another one.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::ResourceExt;
use kube_runtime::reflector::ObjectRef;
use parking_lot::Mutex;

use crate::{
    api::{ModelDeployment, Revision, State},
    k8s::{KnownVersion, Stores, known_version, version_name},
};

/// The ControllerRevisions of one model's versions in use.
type OfModel = BTreeMap<Revision, Arc<ControllerRevision>>;

/// The ControllerRevisions of versions in use, by model and revision. The objects are shared with
/// the cache as long as it has them.
#[derive(Default)]
pub struct History(Mutex<HashMap<(String, String), OfModel>>);

impl History {
    /// Adds to a model's known versions those in use whose ControllerRevision has been deleted
    /// since the last reconcile.
    pub fn complete(
        &self,
        stores: &Stores,
        model: &ModelDeployment,
        known: &mut BTreeMap<Revision, KnownVersion>,
    ) {
        let state = model.status.as_ref().map(|status| &status.state);
        let in_use: BTreeSet<Revision> = state.map(State::in_use).unwrap_or_default();
        let key = model.key();
        let mut models = self.0.lock();
        let kept = models.entry(key.clone()).or_default();
        kept.retain(|revision, _| in_use.contains(revision));
        for revision in in_use {
            let name = version_name(&model.name_any(), &revision);
            let cached = stores.history.get(&ObjectRef::new(&name).within(&key.0));
            if known.contains_key(&revision) {
                kept.extend(cached.map(|cached| (revision, cached)));
            } else if let Some(lost) = kept.get(&revision) {
                known.extend(known_version(lost, model));
            }
        }
        if kept.is_empty() {
            models.remove(&key);
        }
    }

    /// Forgets a model that is gone.
    pub fn forget(&self, model: &(String, String)) {
        self.0.lock().remove(model);
    }
}
