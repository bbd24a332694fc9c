//! Which router moves the traffic of which model.

use std::sync::Arc;

use super::Router;
use crate::api::{ModelDeploymentSpec, validate::Invalid};

/// The routers of this operator. Clones are the same.
#[derive(Clone)]
pub struct Registry {
    default: Arc<dyn Router>,
    others: Arc<[Arc<dyn Router>]>,
}

impl Registry {
    /// A default router, and others that a spec may choose.
    pub fn new(default: Arc<dyn Router>, others: Vec<Arc<dyn Router>>) -> Self {
        Self {
            default,
            others: others.into(),
        }
    }

    /// The router of a model with this spec: the first that the spec chooses, else the default.
    pub fn of(&self, spec: &ModelDeploymentSpec) -> &dyn Router {
        let chosen = self.others.iter().find(|router| router.is_chosen(spec));
        &**chosen.unwrap_or(&self.default)
    }

    /// The error of a spec that chooses several routers. The schema refuses it, too.
    pub fn ambiguity(&self, spec: &ModelDeploymentSpec) -> Option<Invalid> {
        let chosen = self.all().filter(|router| router.is_chosen(spec));
        let chosen: Vec<_> = chosen.map(Router::member).collect();
        (chosen.len() > 1).then(|| Invalid {
            field: "spec.traffic".to_owned(),
            remedy: format!(
                "names more than one router ({}); keep one",
                chosen.join(", ")
            ),
        })
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &dyn Router> {
        let others = self.others.iter();
        std::iter::once(&*self.default).chain(others.map(|router| &**router))
    }
}
