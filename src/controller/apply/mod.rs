//! Applies the planned objects by server-side apply, and writes only what differs. An object that
//! the API server refuses delays no other.

mod error;
mod handover;
mod refusals;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::Debug,
    time::Duration,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
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
use self::{
    handover::{Claim, owner_of},
    refusals::{Refusals, Subject},
};
use crate::{
    api::{ADOPT_ANNOTATION, MANAGER, ModelDeployment, REVISION_LABEL, Revision},
    controller::metrics::Metrics,
    k8s::{
        Intent, Kinship, Object, Stores, body, is_child, is_code, kinship, service_of, timely,
        version_name,
    },
    observe::Refusal,
    plan::Plan,
};

/// Pause before the next look at whether a Service can be taken over, or at what is left of it.
const HANDOVER_PAUSE: Duration = Duration::from_secs(1);

/// How fresh the state is that a plan was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It was read. An API server that lags may have answered with an old one.
    Read,
    /// It is the newest: the API server has just accepted a write on top of it.
    Confirmed,
}

/// Applies plans, and remembers what it applied, so that nothing is written twice.
#[derive(Default)]
pub struct Applier {
    /// By namespace and name of the model, and by kind and name of the object: what was last
    /// applied, and the version that the server then gave it.
    applied: Mutex<HashMap<(String, String), HashMap<String, Applied>>>,
    /// What the API server refused.
    refusals: Refusals,
    /// The models that wait for their routers before they take over a Service, or that have old
    /// endpoints left to delete.
    awaits: Mutex<HashSet<(String, String)>>,
}

/// An object as it was sent, and the version that came back.
type Applied = (Value, Option<String>);

impl Applier {
    /// Forgets a model that is gone, which bounds memory to live models.
    pub fn forget(&self, model: &(String, String)) {
        self.applied.lock().remove(model);
        self.refusals.forget(model);
        self.awaits.lock().remove(model);
    }

    /// What the API server refused to write for a model and has not accepted since.
    pub fn refused(&self, model: &(String, String)) -> Vec<Refusal> {
        self.refusals.of(model)
    }

    /// The time until a refused object is tried again, or a Service that is handed over.
    pub fn next_attempt(&self, model: &(String, String)) -> Option<Duration> {
        let awaits = self.awaits.lock().contains(model);
        let refused = self.refusals.next_attempt(model);
        refused
            .into_iter()
            .chain(awaits.then_some(HANDOVER_PAUSE))
            .min()
    }

    /// Applies a plan in its order, then deletes the versions that it drops. Returns the number of
    /// writes.
    ///
    /// A refused object is noted (see [`Self::refused`]), and the others follow, except those that
    /// need it: a version needs its ControllerRevision, and EndpointSlices need a Service that is
    /// the model's own.
    ///
    /// Pods and objects are removed only if the state is confirmed, and with their version as
    /// precondition. Otherwise a request from an old state, or one that arrives late, would remove
    /// those of a version with traffic.
    ///
    /// # Errors
    /// [`ApplyError::Unconfirmed`] alone. The caller confirms the state and applies the plan again.
    pub async fn apply(
        &self,
        client: &Client,
        stores: &Stores,
        model: &ModelDeployment,
        plan: &Plan,
        freshness: Freshness,
        metrics: &Metrics,
    ) -> Result<usize, ApplyError> {
        let target = Target {
            client,
            model,
            memory: self,
            freshness,
            metrics,
        };
        self.refusals.keep_only(&target.key(), &plan.keys());
        let mut writes = 0;
        let mut without_history = BTreeSet::new();
        let mut claims: BTreeMap<String, Claim> = BTreeMap::new();
        self.awaits.lock().remove(&target.key());
        for Intent { object, reason } in &plan.apply {
            let revision = object.revision();
            if revision
                .as_ref()
                .is_some_and(|of| without_history.contains(of))
            {
                continue;
            }
            let meta = object.metadata();
            let written = match object {
                Object::ControllerRevision(object) => {
                    target.put(meta, object, &stores.history, reason).await
                }
                Object::Service(object) => match claims.get(&object.name_any()) {
                    Some(Claim::Foreign | Claim::Awaited) => continue,
                    Some(Claim::HandedOver(live)) => target.adopt(live, object, stores).await,
                    Some(Claim::Own) | None => {
                        target.put(meta, object, &stores.services, reason).await
                    }
                },
                Object::Deployment(object) => {
                    target.put(meta, object, &stores.deployments, reason).await
                }
                // It gives endpoints to any Service of that name, whoever owns it.
                Object::EndpointSlice(object) => {
                    let service = service_of(object).unwrap_or(&plan.service);
                    if !claims.contains_key(service) {
                        let claim = target.claim(stores, service, plan.may_adopt).await;
                        claims.insert(service.to_owned(), claim);
                    }
                    if let Some(Claim::Foreign | Claim::Awaited) = claims.get(service) {
                        continue;
                    }
                    target.put(meta, object, &stores.slices, reason).await
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
        target.clear_old_endpoints(stores, &plan.service).await;
        for service in &plan.retire {
            writes += target.retire(stores, service).await?;
        }
        Ok(writes)
    }
}

/// The outcome of one object.
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
    freshness: Freshness,
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

    /// Whether the model's address depends on the objects of a version. `None` stands for those of
    /// the model itself.
    fn carries_traffic(&self, revision: Option<&Revision>) -> bool {
        let status = self.model.status.as_ref();
        let stable = status.and_then(|status| status.state.stable.as_ref());
        revision.is_none() || revision == stable.map(|stable| &stable.revision)
    }

    /// Applies one object, unless it is already as wanted or its pause after a refusal is not over.
    async fn put<K: Child + Serialize>(
        &self,
        meta: &ObjectMeta,
        wanted: &impl Serialize,
        store: &Store<K>,
        reason: &str,
    ) -> Result<Written, ApplyError> {
        let name = meta.name.clone().unwrap_or_default();
        let kind = <K as Resource>::kind(&()).into_owned();
        let revision = revision_of(meta);
        let subject = Subject {
            kind: &kind,
            name: &name,
            revision: revision.as_ref(),
            carries_traffic: self.carries_traffic(revision.as_ref()),
        };
        let body = body::<K>(wanted)
            .map_err(|error| ApplyError::refused(&kind, &name, kube::Error::SerdeError(error)))?;
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

    /// Notes a refusal, also in the log and on `/metrics`.
    fn note(&self, subject: Subject<'_>, body: Value, error: &ApplyError) {
        let refusal = self.memory.refusals.note(&self.key(), subject, body, error);
        self.metrics.refused(&refusal.kind, &refusal.reason);
        tracing::warn!(reason = refusal.reason, "{refusal}");
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
        let mut retried = false;
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
                // A request may arrive long after its sender gave up or lost the lease. It must not
                // undo what was done since, e.g. shrink a version that has traffic again.
                guarded["metadata"]["resourceVersion"] = Value::from(live.resource_version());
            }
            match timely(api.patch(name, &params, &Patch::Apply(&guarded))).await? {
                Ok(applied) => break applied,
                Err(error) if is_code(&error, 409) && !retried => {
                    // Most often the cache lags.
                    retried = true;
                    live = self.read(api, kind_name, name).await?;
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

    /// The object of this name, by the cache or by a live read. An error if another owner has it.
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
            // Not in the cache of our own objects: absent, or another owner's.
            _ => self.read(api, &kind_name, name).await,
        }
    }

    /// The same by a live read.
    async fn read<K>(&self, api: &Api<K>, kind: &str, name: &str) -> Result<Option<K>, ApplyError>
    where
        K: Resource + Clone + DeserializeOwned + Debug,
    {
        let found = timely(api.get_opt(name)).await?;
        let found = found.map_err(|source| ApplyError::refused(kind, name, source))?;
        let (kind, name) = (kind.to_owned(), name.to_owned());
        match found.as_ref().map(|found| kinship(found, self.model)) {
            Some(Kinship::Former) => Err(ApplyError::AwaitingDeletion { kind, name }),
            Some(Kinship::Foreign) => Err(ApplyError::NameTaken {
                owner: owner_of(found.as_ref()),
                remedy: if kind == "Service" && name == self.model.service_name() {
                    format!(
                        "choose another spec.service.name, delete that Service, or hand it over \
                         by its annotation {ADOPT_ANNOTATION}: {}",
                        self.model.name_any()
                    )
                } else {
                    format!("rename the ModelDeployment, or delete that {kind}")
                },
                kind,
                name,
            }),
            Some(Kinship::Own | Kinship::Orphan) | None => Ok(found),
        }
    }

    /// Objects without an owner are adopted only by a model that is not being deleted: else they
    /// would be deleted with a model whose deletion was to leave them.
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

    /// Whether the live object has all wanted fields, or is what the server made of the same
    /// request.
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

    /// Deletes the objects of a version beyond the history limit. What cannot be deleted is tried
    /// again with the next reconcile.
    async fn forget(&self, stores: &Stores, revision: &Revision) -> Result<usize, ApplyError> {
        let name = version_name(&self.model.name_any(), revision);
        let deleted = async {
            self.delete(&stores.deployments, &name).await?;
            self.delete(&stores.services, &name).await?;
            // Last, since the version is known by it: after a crash the deletion can be repeated.
            self.delete(&stores.history, &name).await
        };
        match deleted.await {
            Ok(()) => {}
            Err(error @ ApplyError::Unconfirmed { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!(
                    %error, %revision, "cannot delete a version beyond the history limit"
                );
                return Ok(0);
            }
        }
        if let Some(objects) = self.memory.applied.lock().get_mut(&self.key()) {
            objects.retain(|object, _| object.split_once('/').is_none_or(|(_, of)| of != name));
        }
        Ok(3)
    }

    /// Deletes an object of this model with its version as precondition, so that a late request
    /// fails.
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
        match self.freshness {
            Freshness::Confirmed => Ok(()),
            Freshness::Read => Err(ApplyError::Unconfirmed {
                what: what.to_owned(),
            }),
        }
    }
}

/// The version that an object is for, by its label.
fn revision_of(meta: &ObjectMeta) -> Option<Revision> {
    let label = meta.labels.as_ref()?.get(REVISION_LABEL)?;
    Some(Revision(label.clone()))
}

/// Whether an apply would leave fewer pods than are asked for now.
fn takes_pods<K: Serialize>(wanted: &Value, live: &K) -> bool {
    let replicas = |object: &Value| object["spec"]["replicas"].as_i64();
    let live = serde_json::to_value(live).unwrap_or_default();
    replicas(wanted) < replicas(&live)
}

/// The generation, which changes only with the spec. The resource version of a kind without one.
fn version_of<K: Resource>(object: &K) -> Option<String> {
    let meta = object.meta();
    meta.generation
        .map(|generation| generation.to_string())
        .or_else(|| meta.resource_version.clone())
}

/// Whether `live` has every field of `wanted` with the same value. Fields that the server added are
/// ignored.
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
    fn forgetting_a_model_forgets_its_objects_and_no_others() {
        let applier = Applier::default();
        let model = |name: &str| ("ml".to_owned(), name.to_owned());
        for name in ["churn", "fraud"] {
            let object = ("Service/churn".to_owned(), (json!({}), None));
            applier.applied.lock().insert(model(name), [object].into());
        }
        applier.forget(&model("churn"));
        assert_eq!(applier.applied.lock().len(), 1);
        assert!(applier.applied.lock().contains_key(&model("fraud")));
    }

    #[test]
    fn a_changed_or_missing_field_differs_and_a_default_of_the_server_does_not() {
        let live = json!({"spec": {
            "replicas": 2, "strategy": {"type": "RollingUpdate"}, "list": [{"a": 1, "b": 2}],
        }});
        assert!(contains(
            &live,
            &json!({"spec": {"replicas": 2, "list": [{"a": 1}]}})
        ));
        assert!(!contains(&live, &json!({"spec": {"replicas": 3}})));
        assert!(!contains(&live, &json!({"spec": {"paused": true}})));
        assert!(!contains(&live, &json!({"spec": {"list": []}})));
    }
}
