//! The planned objects, brought about by server-side apply; only where something differs. One that the API server refuses
//! holds up no other.

mod error;
mod refusals;

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Debug,
    time::Duration,
};

use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    core::NamespaceResourceScope,
};
use kube_runtime::reflector::{Lookup, ObjectRef, Store};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

pub use self::error::ApplyError;
use self::refusals::{Refusals, Subject};
use crate::{
    api::{MANAGER, ModelDeployment, REVISION_LABEL, Revision},
    controller::metrics::Metrics,
    k8s::{Intent, Kinship, Object, Stores, is_child, is_code, kinship, timely, version_name},
    observe::Refusal,
    plan::Plan,
};

/// What is known of the state that a plan was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// It was read; an API server that lags may have answered with one of long ago.
    Read,
    /// The API server has just accepted a write on top of it, so it was the newest one.
    Confirmed,
}

/// Applies plans, and remembers what it applied so that nothing is written twice.
#[derive(Default)]
pub struct Applier {
    /// Of each model, by namespace and name: what its objects, by kind and name, looked like when they were last applied,
    /// and the version that the server then gave them.
    applied: Mutex<HashMap<(String, String), HashMap<String, Applied>>>,
    /// What the API server refused.
    refusals: Refusals,
}

/// An object as it was sent, and the version that came back.
type Applied = (Value, Option<String>);

impl Applier {
    /// How many models' objects are remembered.
    pub fn remembered(&self) -> usize {
        self.applied.lock().len()
    }

    /// Lets go of a model that is gone: an operator of a year's age remembers what exists, not what ever existed.
    pub fn forget(&self, model: &(String, String)) {
        self.applied.lock().remove(model);
        self.refusals.forget(model);
    }

    /// What the API server refused to write for a model, and has not accepted since.
    pub fn refused(&self, model: &(String, String)) -> Vec<Refusal> {
        self.refusals.of(model)
    }

    /// The time until a refused object is tried again.
    pub fn next_attempt(&self, model: &(String, String)) -> Option<Duration> {
        self.refusals.next_attempt(model)
    }

    /// Applies a plan in its order, then forgets the versions that it lets go of. Returns the number of writes.
    ///
    /// An object that is refused is noted (see [`Self::refused`]), and the others follow all the same, but for what makes no
    /// sense without it: a version without its place in the history, and the way from a name that is somebody else's.
    ///
    /// Pods and objects are only taken away on a confirmed basis, and only if nobody has written to them since they were
    /// seen: else a request from an old state, or one that arrives late, would take them from a version with traffic.
    ///
    /// # Errors
    /// [`ApplyError::Unconfirmed`] alone: then the state has to be confirmed, and the plan applied again.
    pub async fn apply(
        &self,
        client: &Client,
        stores: &Stores,
        model: &ModelDeployment,
        plan: &Plan,
        basis: Basis,
        metrics: &Metrics,
    ) -> Result<usize, ApplyError> {
        let target = Target {
            client,
            model,
            memory: self,
            basis,
            metrics,
        };
        self.refusals.keep_only(&target.key(), &plan.keys());
        let mut writes = 0;
        let mut without_history = BTreeSet::new();
        let mut name_is_ours = true;
        for Intent { object, reason } in &plan.apply {
            let revision = object.revision();
            if revision
                .as_ref()
                .is_some_and(|of| without_history.contains(of))
            {
                continue;
            }
            let written = match object {
                Object::ControllerRevision(object) => {
                    target.put(object, &stores.history, reason).await
                }
                Object::Service(object) => {
                    if revision.is_none() && !name_is_ours {
                        continue;
                    }
                    target.put(object, &stores.services, reason).await
                }
                Object::Deployment(object) => target.put(object, &stores.deployments, reason).await,
                // It feeds whatever Service has the model's name.
                Object::EndpointSlice(object) => {
                    name_is_ours = target.name_is_ours(stores, &plan.name).await;
                    if !name_is_ours {
                        continue;
                    }
                    target.put(object, &stores.slices, reason).await
                }
            }?;
            writes += usize::from(written == Written::Anew);
            if written == Written::Refused
                && let Object::ControllerRevision(_) = object
            {
                without_history.extend(revision);
            }
        }
        for revision in &plan.forget {
            writes += target.forget(stores, revision).await?;
        }
        Ok(writes)
    }
}

/// What came of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// It was written.
    Anew,
    /// It is as wanted already.
    Before,
    /// It was refused, now or a moment ago.
    Refused,
}

/// A kind of objects that Serin makes.
trait Child:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Lookup<DynamicType = ()>
    + Clone
    + DeserializeOwned
    + Debug
{
}

impl<K> Child for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Lookup<DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Debug
{
}

/// One model's objects.
struct Target<'a> {
    client: &'a Client,
    model: &'a ModelDeployment,
    memory: &'a Applier,
    basis: Basis,
    metrics: &'a Metrics,
}

impl Target<'_> {
    /// Namespace and name of the model.
    fn key(&self) -> (String, String) {
        let namespace = ResourceExt::namespace(self.model).unwrap_or_default();
        (namespace, self.model.name_any())
    }

    /// The API of one kind, in the model's namespace.
    fn api<K: Child>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.key().0)
    }

    /// Whether the model's address depends on the objects of a version, or of none.
    fn carries_traffic(&self, revision: Option<&Revision>) -> bool {
        let status = self.model.status.as_ref();
        let stable = status.and_then(|status| status.state.stable.as_ref());
        revision.is_none() || revision == stable.map(|stable| &stable.revision)
    }

    /// Applies one object, unless it is as wanted already or its pause after a refusal is not over.
    async fn put<K: Child + Serialize>(
        &self,
        wanted: &K,
        store: &Store<K>,
        reason: &str,
    ) -> Result<Written, ApplyError> {
        let name = wanted.name_any();
        let kind = <K as Resource>::kind(&()).into_owned();
        let revision = revision_of(wanted);
        let subject = Subject {
            kind: &kind,
            name: &name,
            revision: revision.as_ref(),
            carries_traffic: self.carries_traffic(revision.as_ref()),
        };
        let mut body = serde_json::to_value(wanted)
            .map_err(|error| ApplyError::refused(&kind, &name, kube::Error::SerdeError(error)))?;
        body["apiVersion"] = Value::from(<K as Resource>::api_version(&()).into_owned());
        body["kind"] = Value::from(kind.clone());
        if self.memory.refusals.waits(&self.key(), subject, &body) {
            return Ok(Written::Refused);
        }
        match self.put_body(subject, &body, store, reason).await {
            Ok(written) => {
                self.memory.refusals.clear(&self.key(), subject);
                Ok(written)
            }
            Err(error @ ApplyError::Unconfirmed { .. }) => Err(error),
            Err(error) => {
                self.note(subject, body, &error);
                Ok(Written::Refused)
            }
        }
    }

    /// Notes a refusal, in the log and on `/metrics`, too.
    fn note(&self, subject: Subject<'_>, body: Value, error: &ApplyError) {
        let refusal = self.memory.refusals.note(&self.key(), subject, body, error);
        self.metrics.refused(&refusal.kind, &refusal.reason);
        tracing::warn!(reason = refusal.reason, "{refusal}");
    }

    /// Whether it is known that the Service of the model's name is the model's own, or that there is none.
    async fn name_is_ours(&self, stores: &Stores, name: &str) -> bool {
        let subject = Subject {
            kind: "Service",
            name,
            revision: None,
            carries_traffic: true,
        };
        let unread = Value::Null;
        if self.memory.refusals.waits(&self.key(), subject, &unread) {
            return false;
        }
        match self
            .find(&self.api::<Service>(), name, &stores.services)
            .await
        {
            Ok(_) => true,
            Err(error) => {
                self.note(subject, unread, &error);
                false
            }
        }
    }

    async fn put_body<K: Child + Serialize>(
        &self,
        Subject {
            kind: kind_name,
            name,
            ..
        }: Subject<'_>,
        body: &Value,
        store: &Store<K>,
        reason: &str,
    ) -> Result<Written, ApplyError> {
        let api = &self.api::<K>();
        let refused = |source| ApplyError::refused(kind_name, name, source);
        let key = format!("{kind_name}/{name}");
        let mut live = self.find(api, name, store).await?;
        let params = PatchParams::apply(MANAGER).force();
        let mut looked_again = false;
        let applied = loop {
            let mut guarded = body.clone();
            if let Some(live) = &live {
                if self.is_as_wanted(&key, body, live) {
                    return Ok(Written::Before);
                }
                if takes_pods(body, live) {
                    self.must_be_confirmed(&key)?;
                }
                if kinship(live, self.model) == Kinship::Orphan {
                    self.must_live(&key).await?;
                }
                // A request may arrive long after its sender gave it up, or lost the lease: it must not undo what was
                // done since, such as shrink a version that has traffic again.
                guarded["metadata"]["resourceVersion"] = Value::from(live.resource_version());
            }
            match timely(api.patch(name, &params, &Patch::Apply(&guarded))).await? {
                Ok(applied) => break applied,
                Err(error) if is_code(&error, 409) && !looked_again => {
                    // Most often it is the cache that is a moment behind.
                    looked_again = true;
                    live = self.look(api, kind_name, name).await?;
                }
                Err(source) => return Err(refused(source)),
            }
        };
        tracing::debug!(kind = kind_name, name, reason, "applied");
        let mut memory = self.memory.applied.lock();
        let of_model = memory.entry(self.key()).or_default();
        of_model.insert(key, (body.clone(), version_of(&applied)));
        Ok(Written::Anew)
    }

    /// The object of this name as it was last seen, if there is one; an error if it is somebody else's.
    async fn find<K>(
        &self,
        api: &Api<K>,
        name: &str,
        store: &Store<K>,
    ) -> Result<Option<K>, ApplyError>
    where
        K: Child,
    {
        let kind_name = <K as Resource>::kind(&()).into_owned();
        let (namespace, _) = self.key();
        match store.get(&ObjectRef::new(name).within(&namespace)) {
            Some(cached) if is_child(&*cached, self.model) => Ok(Some((*cached).clone())),
            // Not in the cache of our own objects: nobody's yet, or somebody else's.
            _ => self.look(api, &kind_name, name).await,
        }
    }

    /// The same, asked of the API server.
    async fn look<K>(&self, api: &Api<K>, kind: &str, name: &str) -> Result<Option<K>, ApplyError>
    where
        K: Resource + Clone + DeserializeOwned + Debug,
    {
        let found = timely(api.get_opt(name)).await?;
        let found = found.map_err(|source| ApplyError::refused(kind, name, source))?;
        let (kind, name) = (kind.to_owned(), name.to_owned());
        match found.as_ref().map(|found| kinship(found, self.model)) {
            Some(Kinship::Former) => Err(ApplyError::AwaitingDeletion { kind, name }),
            Some(Kinship::Foreign) => Err(ApplyError::NameTaken { kind, name }),
            Some(Kinship::Own | Kinship::Orphan) | None => Ok(found),
        }
    }

    /// Objects without an owner are adopted by a model that lives, not by one that is being deleted
    /// without them: they would be deleted after it.
    async fn must_live(&self, what: &str) -> Result<(), ApplyError> {
        let (namespace, name) = self.key();
        let api: Api<ModelDeployment> = Api::namespaced(self.client.clone(), &namespace);
        let kind = "ModelDeployment";
        let found = timely(api.get_opt(&name)).await?;
        let found = found.map_err(|source| ApplyError::refused(kind, &name, source))?;
        let is_it = |found: &ModelDeployment| {
            let metadata = &found.metadata;
            metadata.uid == self.model.metadata.uid && metadata.deletion_timestamp.is_none()
        };
        if found.as_ref().is_some_and(is_it) {
            return Ok(());
        }
        Err(ApplyError::Unconfirmed {
            what: what.to_owned(),
        })
    }

    /// Whether the live object has all that is wanted, or is as the server made it of the very same request.
    fn is_as_wanted<K: Resource + Serialize>(&self, key: &str, wanted: &Value, live: &K) -> bool {
        let memory = self.memory.applied.lock();
        let of_model = memory.get(&self.key());
        if let Some((body, version)) = of_model.and_then(|objects| objects.get(key))
            && body == wanted
            && *version == version_of(live)
        {
            return true;
        }
        serde_json::to_value(live).is_ok_and(|mut live| {
            live["apiVersion"] = wanted["apiVersion"].clone();
            live["kind"] = wanted["kind"].clone();
            contains(&live, wanted)
        })
    }

    /// Deletes what belongs to a version that is beyond the history limit. What cannot be deleted is tried again with the
    /// next look at the model.
    async fn forget(&self, stores: &Stores, revision: &Revision) -> Result<usize, ApplyError> {
        let name = version_name(&self.model.name_any(), revision);
        let deleted = async {
            self.delete(&stores.deployments, &name).await?;
            self.delete(&stores.services, &name).await?;
            // Last, since it is what the version is known by: a crash before it leaves something to go on from.
            self.delete(&stores.history, &name).await
        };
        match deleted.await {
            Ok(()) => {}
            Err(error @ ApplyError::Unconfirmed { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, %revision, "cannot delete a version beyond the history limit");
                return Ok(0);
            }
        }
        if let Some(objects) = self.memory.applied.lock().get_mut(&self.key()) {
            objects.retain(|object, _| object.split_once('/').is_none_or(|(_, of)| of != name));
        }
        Ok(3)
    }

    /// Deletes an object of this model's, as it was seen: a request that arrives late finds another version, and fails.
    async fn delete<K>(&self, store: &Store<K>, name: &str) -> Result<(), ApplyError>
    where
        K: Child,
    {
        let kind = <K as Resource>::kind(&()).into_owned();
        let refused = |source| ApplyError::refused(&kind, name, source);
        self.must_be_confirmed(&format!("{kind}/{name}"))?;
        let (namespace, _) = self.key();
        let api = self.api::<K>();
        let live = match store.get(&ObjectRef::new(name).within(&namespace)) {
            Some(live) => (*live).clone(),
            None => match timely(api.get_opt(name)).await?.map_err(refused)? {
                Some(live) => live,
                None => return Ok(()),
            },
        };
        if !is_child(&live, self.model) {
            return Ok(());
        }
        let as_seen = Preconditions {
            uid: live.meta().uid.clone(),
            resource_version: live.meta().resource_version.clone(),
        };
        let params = DeleteParams::background().preconditions(as_seen);
        match timely(api.delete(name, &params)).await? {
            Ok(_) => Ok(()),
            Err(error) if is_code(&error, 404) => Ok(()),
            Err(source) => Err(refused(source)),
        }
    }

    fn must_be_confirmed(&self, what: &str) -> Result<(), ApplyError> {
        match self.basis {
            Basis::Confirmed => Ok(()),
            Basis::Read => Err(ApplyError::Unconfirmed {
                what: what.to_owned(),
            }),
        }
    }
}

/// The version that an object is for, by its label.
fn revision_of<K: ResourceExt>(object: &K) -> Option<Revision> {
    let label = object.labels().get(REVISION_LABEL)?;
    Some(Revision(label.clone()))
}

/// Whether an apply would leave fewer pods than are asked for now.
fn takes_pods<K: Serialize>(wanted: &Value, live: &K) -> bool {
    let replicas = |object: &Value| object["spec"]["replicas"].as_i64();
    let live = serde_json::to_value(live).unwrap_or_default();
    replicas(wanted) < replicas(&live)
}

/// The generation where the kind has one (it changes with the spec alone), else the resource version.
fn version_of<K: Resource>(object: &K) -> Option<String> {
    let meta = object.meta();
    meta.generation
        .map(|generation| generation.to_string())
        .or_else(|| meta.resource_version.clone())
}

/// Whether `live` has every field of `wanted` with the same value; defaults that the server added do not matter.
fn contains(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, value)| live.get(key).is_some_and(|live| contains(live, value))),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len()
                && live
                    .iter()
                    .zip(wanted)
                    .all(|(live, wanted)| contains(live, wanted))
        }
        (live, wanted) => live == wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Applier, contains};

    #[test]
    fn what_was_applied_for_a_model_is_forgotten_with_it_and_with_it_alone() {
        let applier = Applier::default();
        let model = |name: &str| ("ml".to_owned(), name.to_owned());
        for name in ["churn", "fraud"] {
            let object = ("Service/churn".to_owned(), (json!({}), None));
            applier.applied.lock().insert(model(name), [object].into());
        }
        applier.forget(&model("churn"));
        assert_eq!(applier.remembered(), 1);
        assert!(applier.applied.lock().contains_key(&model("fraud")));
    }

    #[test]
    fn defaults_of_the_server_are_no_difference_but_a_changed_or_missing_field_is() {
        let live = json!({"spec": {"replicas": 2, "strategy": {"type": "RollingUpdate"}, "list": [{"a": 1, "b": 2}]}});
        assert!(contains(
            &live,
            &json!({"spec": {"replicas": 2, "list": [{"a": 1}]}})
        ));
        assert!(!contains(&live, &json!({"spec": {"replicas": 3}})));
        assert!(!contains(&live, &json!({"spec": {"paused": true}})));
        assert!(!contains(&live, &json!({"spec": {"list": []}})));
    }
}
