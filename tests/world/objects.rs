//! The API server's store: objects, their versions, and the history of changes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    apply,
    kinds::{Key, Kind},
};

/// An error of the API server.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
}

impl ApiError {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
        }
    }

    pub fn not_found(key: &Key) -> Self {
        Self::new(404, "NotFound", format!("{key} not found"))
    }

    fn conflict(key: &Key) -> Self {
        let text = format!("Operation cannot be fulfilled on {key}: the object has been modified");
        Self::new(409, "Conflict", text)
    }

    /// The body of the answer.
    pub fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        })
    }
}

/// One change of one object.
#[derive(Clone, Debug)]
pub struct Change {
    /// The version of the store from this change on.
    pub version: u64,
    /// When: milliseconds since the world began.
    pub at_ms: u64,
    /// Who made it.
    pub by: String,
    pub key: Key,
    /// The object before; `None` where it is new.
    pub before: Option<Arc<Value>>,
    /// The object after, or as it was last where it is gone.
    pub after: Arc<Value>,
    pub deleted: bool,
}

/// The objects.
#[derive(Default)]
pub struct Objects {
    live: BTreeMap<Key, Arc<Value>>,
    /// What each manager applied last, by manager.
    applied: BTreeMap<(Key, String), Value>,
    history: Vec<Change>,
    /// Watches cannot start at an older version.
    pub oldest: u64,
    version: u64,
    made: u64,
    /// How often the leader's lease was written.
    renewals: u64,
    /// The time of writes, to be kept up to date by the owner.
    pub now_ms: u64,
    /// `now_ms` as a timestamp.
    pub now_text: String,
    /// Who writes.
    pub actor: String,
    /// Serialised objects, by version: a status is in the answer to its write, in an event and in
    /// the next read.
    texts: HashMap<String, Bytes>,
}

impl Objects {
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.live.get(key)
    }

    /// An object as JSON.
    pub fn text(&mut self, object: &Value) -> Bytes {
        let write = || Bytes::from(serde_json::to_vec(object).unwrap());
        let Some(version) = object["metadata"]["resourceVersion"].as_str() else {
            return write();
        };
        if let Some(known) = self.texts.get(version) {
            return known.clone();
        }
        let text = write();
        self.texts.insert(version.to_owned(), text.clone());
        text
    }

    /// All objects of a kind.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.live.iter().filter(move |(key, _)| key.kind == kind)
    }

    /// All objects.
    pub fn all(&self) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.live.iter()
    }

    /// Changes after a version, oldest first.
    pub fn since(&self, version: u64) -> &[Change] {
        let start = self
            .history
            .partition_point(|change| change.version <= version);
        &self.history[start..]
    }

    /// The objects as they were at a version.
    pub fn as_of(&self, version: u64) -> BTreeMap<Key, Arc<Value>> {
        let mut then = self.live.clone();
        for change in self.since(version).iter().rev() {
            match &change.before {
                Some(before) => then.insert(change.key.clone(), before.clone()),
                None => then.remove(&change.key),
            };
        }
        then
    }

    /// Creates an object.
    pub fn create(&mut self, key: &Key, object: Value) -> Result<Arc<Value>, ApiError> {
        if self.live.contains_key(key) {
            return Err(ApiError::new(
                409,
                "AlreadyExists",
                format!("{key} already exists"),
            ));
        }
        Ok(self.commit(key, object))
    }

    /// Server-side apply, always forced. What `admit` makes of the object is kept; a dry run keeps
    /// nothing.
    pub fn apply(
        &mut self,
        key: &Key,
        manager: &str,
        wanted: &Value,
        dry_run: bool,
        admit: impl FnOnce(&mut Value),
    ) -> Result<Arc<Value>, ApiError> {
        let live = self.live.get(key).cloned();
        if let Some(asked) = wanted["metadata"]["resourceVersion"].as_str() {
            let matches = live
                .as_ref()
                .is_some_and(|live| live["metadata"]["resourceVersion"] == asked);
            if !matches {
                return Err(ApiError::conflict(key));
            }
        }
        let mut wanted = wanted.clone();
        if let Some(metadata) = wanted["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
            metadata.remove("managedFields");
        }
        let owner = (key.clone(), manager.to_owned());
        let before = self.applied.get(&owner);
        let others: Vec<&Value> = self
            .applied
            .iter()
            .filter(|((of, by), _)| of == key && by != manager)
            .map(|(_, applied)| applied)
            .collect();
        let mut next = live.map_or_else(
            || json!({"metadata": {"namespace": key.namespace, "name": key.name}}),
            |live| (*live).clone(),
        );
        if let Some(before) = before {
            apply::withdraw(&mut next, before, &wanted, &others);
        }
        apply::merge(&mut next, &wanted);
        apply::set_defaults(key.kind, &mut next);
        admit(&mut next);
        if dry_run {
            return Ok(Arc::new(next));
        }
        self.applied.insert(owner, wanted);
        Ok(self.commit(key, next))
    }

    /// Replaces an object, if it is still the one that was read.
    pub fn replace(&mut self, key: &Key, body: &Value) -> Result<Arc<Value>, ApiError> {
        let live = self.live.get(key);
        let live = live.ok_or_else(|| ApiError::not_found(key))?;
        if body["metadata"]["resourceVersion"] != live["metadata"]["resourceVersion"] {
            return Err(ApiError::conflict(key));
        }
        Ok(self.commit(key, body.clone()))
    }

    /// Replaces the status alone, if the object is still the one that was read.
    pub fn replace_status(&mut self, key: &Key, body: &Value) -> Result<Arc<Value>, ApiError> {
        let live = self
            .live
            .get(key)
            .cloned()
            .ok_or_else(|| ApiError::not_found(key))?;
        let same_uid = body["metadata"]["uid"] == live["metadata"]["uid"];
        if !same_uid || body["metadata"]["resourceVersion"] != live["metadata"]["resourceVersion"] {
            return Err(ApiError::conflict(key));
        }
        let mut next = (*live).clone();
        next["status"] = body["status"].clone();
        Ok(self.commit(key, next))
    }

    /// Changes an object in place, as a controller of Kubernetes or a person does.
    pub fn edit(&mut self, key: &Key, change: impl FnOnce(&mut Value)) -> Option<Arc<Value>> {
        let mut next = (**self.live.get(key)?).clone();
        change(&mut next);
        Some(self.commit(key, next))
    }

    /// Deletes an object if it is still the one that was seen, as the request's body says it.
    pub fn delete_as_seen(&mut self, key: &Key, body: &Value) -> Result<Arc<Value>, ApiError> {
        let live = self.live.get(key);
        let live = live.ok_or_else(|| ApiError::not_found(key))?;
        for field in ["uid", "resourceVersion"] {
            let seen = &body["preconditions"][field];
            if !seen.is_null() && live["metadata"][field] != *seen {
                return Err(ApiError::conflict(key));
            }
        }
        self.delete(key)
    }

    /// Deletes an object; one with finalizers is only marked.
    pub fn delete(&mut self, key: &Key) -> Result<Arc<Value>, ApiError> {
        let live = self
            .live
            .get(key)
            .cloned()
            .ok_or_else(|| ApiError::not_found(key))?;
        if has_finalizers(&live) {
            let mut next = (*live).clone();
            next["metadata"]["deletionTimestamp"] = json!(self.now_text);
            return Ok(self.commit(key, next));
        }
        Ok(self.remove(key, &live))
    }

    fn remove(&mut self, key: &Key, live: &Arc<Value>) -> Arc<Value> {
        self.live.remove(key);
        self.applied.retain(|(of, _), _| of != key);
        self.version += 1;
        let mut last = (**live).clone();
        last["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let last = Arc::new(last);
        self.history.push(Change {
            version: self.version,
            at_ms: self.now_ms,
            by: self.actor.clone(),
            key: key.clone(),
            before: Some(live.clone()),
            after: last.clone(),
            deleted: true,
        });
        last
    }

    /// Makes `next` the object: a new version, unless nothing changed.
    fn commit(&mut self, key: &Key, mut next: Value) -> Arc<Value> {
        let before = self.live.get(key).cloned();
        next["apiVersion"] = json!(key.kind.api_version());
        next["kind"] = json!(key.kind.name());
        if let Some(before) = &before {
            for fixed in ["uid", "creationTimestamp", "generation", "resourceVersion"] {
                if let Some(value) = before["metadata"].get(fixed) {
                    next["metadata"][fixed] = value.clone();
                }
            }
            if **before == next {
                return before.clone();
            }
            if before["metadata"].get("deletionTimestamp").is_some() && !has_finalizers(&next) {
                return self.remove(key, before);
            }
        } else {
            self.made += 1;
            next["metadata"]["uid"] = json!(format!("uid-{:05}", self.made));
            next["metadata"]["creationTimestamp"] = json!(self.now_text);
        }
        let spec_changed = before
            .as_ref()
            .is_none_or(|before| before["spec"] != next["spec"]);
        if spec_changed && matches!(key.kind, Kind::Model | Kind::Deployment) {
            let generation = next["metadata"]["generation"].as_i64().unwrap_or(0);
            next["metadata"]["generation"] = json!(generation + 1);
        }
        if key.kind == Kind::Lease {
            // It is not watched, and reads of it never lag, so it is not part of the history.
            self.renewals += 1;
            next["metadata"]["resourceVersion"] = json!(format!("renewal-{}", self.renewals));
            let next = Arc::new(next);
            self.live.insert(key.clone(), next.clone());
            return next;
        }
        self.version += 1;
        next["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let next = Arc::new(next);
        self.live.insert(key.clone(), next.clone());
        self.history.push(Change {
            version: self.version,
            at_ms: self.now_ms,
            by: self.actor.clone(),
            key: key.clone(),
            before,
            after: next.clone(),
            deleted: false,
        });
        next
    }
}

fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|list| !list.is_empty())
}

/// The owners' UIDs.
pub fn owners(object: &Value) -> impl Iterator<Item = &str> {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners
        .into_iter()
        .flatten()
        .filter_map(|owner| owner["uid"].as_str())
}

/// The value of a label.
pub fn label<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["labels"].get(name)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(spec: &Value) -> (Objects, Key) {
        let mut objects = Objects::default();
        let key = Key::new(Kind::Model, "ml", "iris");
        objects
            .create(&key, json!({"metadata": {"name": "iris"}, "spec": spec}))
            .unwrap();
        (objects, key)
    }

    #[test]
    fn a_status_is_replaced_only_at_the_newest_version() {
        let (mut objects, key) = model(&json!({"replicas": 1}));
        let mut body = (**objects.get(&key).unwrap()).clone();
        body["status"] = json!({"phase": "Stable"});
        body["spec"] = json!({"replicas": 9});
        let written = objects.replace_status(&key, &body).unwrap();
        assert_eq!(written["spec"]["replicas"], 1);
        assert_eq!(written["metadata"]["generation"], 1);
        assert_eq!(objects.replace_status(&key, &body).unwrap_err().code, 409);
    }

    #[test]
    fn an_apply_keeps_foreign_fields_and_removes_its_own_old_ones() {
        let mut objects = Objects::default();
        let key = Key::new(Kind::Deployment, "ml", "iris-1");
        let body =
            json!({"metadata": {"labels": {"a": "1"}}, "spec": {"replicas": 2, "paused": true}});
        objects.apply(&key, "serin", &body, false, |_| {}).unwrap();
        objects.edit(&key, |object| {
            object["metadata"]["labels"]["foreign"] = json!("kept");
        });
        let body = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"replicas": 3}});
        let live = objects.apply(&key, "serin", &body, false, |_| {}).unwrap();
        assert_eq!(
            live["metadata"]["labels"],
            json!({"a": "1", "foreign": "kept"})
        );
        assert_eq!(live["spec"]["replicas"], 3);
        assert!(live["spec"].get("paused").is_none());
        assert_eq!(live["metadata"]["generation"], 2);
        let version = objects.version();
        objects.apply(&key, "serin", &body, false, |_| {}).unwrap();
        assert_eq!(
            objects.version(),
            version,
            "the same once more changes nothing"
        );
    }

    #[test]
    fn an_apply_with_a_version_is_a_compare_and_swap() {
        let mut objects = Objects::default();
        let key = Key::new(Kind::Deployment, "ml", "iris-1");
        let first = objects
            .apply(
                &key,
                "serin",
                &json!({"spec": {"replicas": 1}}),
                false,
                |_| {},
            )
            .unwrap();
        objects.edit(&key, |object| {
            object["status"] = json!({"readyReplicas": 1});
        });
        let body = json!({"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]},
                "spec": {"replicas": 0}});
        assert_eq!(
            objects
                .apply(&key, "serin", &body, false, |_| {})
                .unwrap_err()
                .code,
            409
        );
    }

    #[test]
    fn a_finalizer_holds_a_deleted_object_until_it_is_removed() {
        let (mut objects, key) = model(&json!({}));
        objects.edit(&key, |object| {
            object["metadata"]["finalizers"] = json!(["x"]);
        });
        objects.delete(&key).unwrap();
        assert!(objects.get(&key).is_some());
        objects.edit(&key, |object| object["metadata"]["finalizers"] = json!([]));
        assert!(objects.get(&key).is_none());
        let past = objects.as_of(1);
        assert!(past.contains_key(&key), "yet the past is remembered");
    }
}
