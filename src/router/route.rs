//! What a router makes objects from.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};

use super::Report;
use crate::{
    api::{ModelDeployment, Revision, State},
    k8s::owned,
};

/// One model's route.
pub struct Route<'a> {
    /// The model.
    pub model: &'a ModelDeployment,
    /// The state as persisted: the versions and their weights.
    pub state: &'a State,
    /// What is known of the router.
    pub report: &'a Report,
    service: String,
    owner: OwnerReference,
}

impl<'a> Route<'a> {
    /// The route of a model. `None` if the API server has not created the model yet.
    pub fn new(model: &'a ModelDeployment, state: &'a State, report: &'a Report) -> Option<Self> {
        Some(Self {
            model,
            state,
            report,
            service: model.service_name(),
            owner: model.controller_owner_ref(&())?,
        })
    }

    /// The name of the model.
    pub fn name(&self) -> String {
        self.model.name_any()
    }

    /// The name of the Service that clients use.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The same while the spec is invalid: if the model has a Service, the spec gives it no other
    /// name.
    #[must_use]
    pub fn of_invalid_spec(mut self) -> Self {
        let known = &self.report.services.known;
        if !known.contains_key(&self.service)
            && let Some(name) = known.keys().next()
        {
            self.service.clone_from(name);
        }
        self
    }

    /// Metadata with this name and these labels, in the model's namespace, owned by the model.
    pub fn metadata(&self, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
        owned(self.model, &self.owner, name, labels)
    }
}

/// The versions of a state and their shares of the requests in percent, canary first.
///
/// A canary without endpoints gets 0. Versions that retire are listed with 0, so that requests
/// under way complete. All have 0 while the model is asleep. Empty where no version serves.
pub fn weights(
    state: &State,
    has_endpoints: impl FnOnce(&Revision) -> bool,
) -> Vec<(Revision, u8)> {
    let Some(stable) = &state.stable else {
        return Vec::new();
    };
    let mut weights = Vec::new();
    let mut left = if state.phase.is_without_traffic() {
        0
    } else {
        100_u8
    };
    if let Some(canary) = &state.canary {
        let weight = if has_endpoints(&canary.revision) {
            canary.weight
        } else {
            0
        };
        left = left.saturating_sub(weight);
        weights.push((canary.revision.clone(), weight));
    }
    weights.push((stable.revision.clone(), left));
    for version in &state.retiring {
        if weights.iter().all(|(known, _)| *known != version.revision) {
            weights.push((version.revision.clone(), 0));
        }
    }
    weights
}
