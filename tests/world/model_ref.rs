//! Identifies a model: a world may have two.

use std::{fmt, sync::Arc};

use serde_json::Value;

use crate::{
    kinds::{Key, Kind},
    objects::{Objects, label},
};

/// A ModelDeployment, by its namespace and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelRef {
    pub namespace: &'static str,
    pub name: &'static str,
}

/// The model that most faults are about.
pub const IRIS: ModelRef = ModelRef {
    namespace: "ml",
    name: "iris",
};

/// Models that may exist beside it: one in its namespace, one with its name in another.
pub const NEIGHBOURS: [ModelRef; 2] = [
    ModelRef {
        namespace: "ml",
        name: "wine",
    },
    ModelRef {
        namespace: "lab",
        name: "iris",
    },
];

impl ModelRef {
    pub fn key(self) -> Key {
        Key::new(Kind::Model, self.namespace, self.name)
    }

    /// The model itself, while it exists.
    pub fn of(self, objects: &Objects) -> Option<&Arc<Value>> {
        objects.get(&self.key())
    }

    /// Whether an object is the model, or was made for it.
    pub fn owns(self, key: &Key, object: &Value) -> bool {
        let is_it = key.kind == Kind::Model && key.name == self.name;
        key.namespace == self.namespace
            && (is_it || label(object, "serin.dev/model") == Some(self.name))
    }

    /// The Deployments of its versions.
    pub fn deployments(self, objects: &Objects) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        let all = objects.of(Kind::Deployment);
        all.filter(move |(key, object)| self.owns(key, object))
    }

    /// The name of a version's objects.
    pub fn version(self, revision: &str) -> String {
        format!("{}-{revision}", self.name)
    }

    /// The version of a revision that has objects; no name where it has none.
    pub fn version_of<'a>(self, revision: &str, objects: &'a Objects) -> &'a str {
        let key = Key::new(Kind::Deployment, self.namespace, &self.version(revision));
        let deployment = objects.get(&key);
        let version = deployment
            .and_then(|live| live["metadata"]["annotations"]["serin.dev/version"].as_str());
        version.unwrap_or_default()
    }

    /// What routers call a version's pods.
    pub fn cluster(self, revision: &str) -> String {
        format!("{self}/{revision}")
    }

    /// Whether a query asks about its versions.
    pub fn is_asked_for(self, query: &str) -> bool {
        query.contains(&self.cluster(""))
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
