//! Whose the Service is that clients use, and how one that its owner hands over is taken over.
//!
//! The owner consents by the annotation [`ADOPT_ANNOTATION`]. Until the routers answer for the
//! model the Service keeps its selector and its endpoints. Then the routers become endpoints beside
//! the old ones, then the Service loses its selector, and last the old endpoints go: no connection
//! is refused in between, and address and name of the Service stay. A Service of an earlier name is
//! deleted here as well.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{Endpoints, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};

use super::{ApplyError, Subject, Target, Written};
use crate::{
    api::{ADOPT_ANNOTATION, MANAGER, ModelDeployment},
    k8s::{SERVICE_NAME_LABEL, Stores, is_child, is_code, timely},
};

/// Marks a Service that was taken over and whose old endpoints are not deleted yet, so that a crash
/// leaves none behind.
const OLD_ENDPOINTS: &str = "serin.dev/old-endpoints";

/// Whose a Service is.
pub(super) enum Claim {
    /// The model's own, or it does not exist.
    Own,
    /// Another owner's. Noted as a refusal.
    Foreign,
    /// It is handed over, and no router answers for the model yet.
    Awaited,
    /// It is handed over, as it was read.
    HandedOver(Box<Service>),
}

impl Target<'_> {
    /// Whose a Service is that is to lead to the routers. `may_adopt` says whether they answer for
    /// the model.
    pub(super) async fn claim(&self, stores: &Stores, name: &str, may_adopt: bool) -> Claim {
        let subject = Subject {
            kind: "Service",
            name,
            revision: None,
            carries_traffic: true,
        };
        let unread = Value::Null;
        if self.memory.refusals.waits(&self.key(), subject, &unread) {
            return Claim::Foreign;
        }
        let api = self.api::<Service>();
        let Err(error) = self.find(&api, name, &stores.services).await else {
            return Claim::Own;
        };
        if let ApplyError::NameTaken { .. } = error
            && let Ok(Ok(Some(live))) = timely(api.get_opt(name)).await
            && is_handed_over(&live, self.model)
        {
            self.memory.refusals.clear(&self.key(), subject);
            if may_adopt {
                return Claim::HandedOver(Box::new(live));
            }
            self.memory.awaits.lock().insert(self.key());
            return Claim::Awaited;
        }
        self.note(subject, unread, &error);
        Claim::Foreign
    }

    /// Takes over a Service that is handed over.
    pub(super) async fn adopt(
        &self,
        live: &Service,
        wanted: &Service,
        stores: &Stores,
    ) -> Result<Written, ApplyError> {
        let name = wanted.name_any();
        let subject = Subject {
            kind: "Service",
            name: &name,
            revision: None,
            carries_traffic: true,
        };
        match self.take_over(live, wanted).await {
            Ok(()) => {
                self.put(&wanted.metadata, wanted, &stores.services, "handed over")
                    .await
            }
            Err(error @ ApplyError::Unconfirmed { .. }) => Err(error),
            Err(error) => {
                self.note(subject, Value::Null, &error);
                Ok(Written::Refused)
            }
        }
    }

    /// Makes a Service that is handed over the model's own: it loses its selector and gets the
    /// wanted ports, labels and owner in one write. The routers are among its endpoints already.
    async fn take_over(&self, live: &Service, wanted: &Service) -> Result<(), ApplyError> {
        let name = wanted.name_any();
        let refused = |source| ApplyError::refused("Service", &name, source);
        self.must_live(&format!("Service/{name}")).await?;
        let patch = adopted(live, wanted);
        let (api, params) = (self.api::<Service>(), by_serin());
        timely(api.patch(&name, &params, &Patch::Merge(&patch)))
            .await?
            .map_err(refused)?;
        tracing::info!(service = name, "took over a Service that was handed over");
        Ok(())
    }

    /// Deletes the endpoints that a Service had before it was taken over, if any are left.
    pub(super) async fn clear_old_endpoints(&self, stores: &Stores, name: &str) {
        let (namespace, _) = self.key();
        let key = kube_runtime::reflector::ObjectRef::new(name).within(&namespace);
        let service = stores.services.get(&key);
        let is_marked = |service: &Service| service.annotations().contains_key(OLD_ENDPOINTS);
        if !service.is_some_and(|service| is_marked(&service)) {
            return;
        }
        if let Err(error) = self.delete_old_endpoints(name).await {
            tracing::warn!(%error, service = name, "old endpoints are left; trying again");
            self.memory.awaits.lock().insert(self.key());
        }
    }

    async fn delete_old_endpoints(&self, name: &str) -> Result<(), ApplyError> {
        let refused = |kind: &'static str| move |source| ApplyError::refused(kind, name, source);
        let slices = self.api::<EndpointSlice>();
        let of_service = ListParams::default().labels(&format!("{SERVICE_NAME_LABEL}={name}"));
        let found = timely(slices.list(&of_service)).await?;
        for slice in found.map_err(refused("EndpointSlice"))? {
            if is_child(&slice, self.model) {
                continue;
            }
            let params = DeleteParams::background().preconditions(Preconditions {
                uid: slice.uid(),
                resource_version: None,
            });
            gone(timely(slices.delete(&slice.name_any(), &params)).await?)
                .map_err(refused("EndpointSlice"))?;
        }
        // Kubernetes mirrors it into slices, now that the Service has no selector.
        let endpoints: Api<Endpoints> = Api::namespaced(self.client.clone(), &self.key().0);
        gone(timely(endpoints.delete(name, &DeleteParams::background())).await?)
            .map_err(refused("Endpoints"))?;
        let done = json!({"metadata": {"annotations": {OLD_ENDPOINTS: null}}});
        let (api, params) = (self.api::<Service>(), by_serin());
        let done = timely(api.patch(name, &params, &Patch::Merge(&done))).await?;
        done.map_err(refused("Service"))?;
        Ok(())
    }

    /// Deletes the EndpointSlices of a Service of an earlier name, then the Service. What cannot be
    /// deleted is tried again with the next reconcile.
    pub(super) async fn retire(&self, stores: &Stores, service: &str) -> Result<usize, ApplyError> {
        let deleted = async {
            // A live list: the cache may not have yet what was written a moment ago.
            let of_service =
                ListParams::default().labels(&format!("{SERVICE_NAME_LABEL}={service}"));
            let slices = timely(self.api::<EndpointSlice>().list(&of_service)).await?;
            let slices = slices
                .map_err(|source| ApplyError::refused("EndpointSlice", service, source))?
                .items;
            for slice in &slices {
                self.delete(&stores.slices, &slice.name_any()).await?;
            }
            // Last, since the name is known by it: after a crash the deletion can be repeated.
            self.delete(&stores.services, service).await?;
            Ok(1 + slices.len())
        };
        match deleted.await {
            Err(error @ ApplyError::Unconfirmed { .. }) => Err(error),
            Err(error) => {
                tracing::warn!(%error, service, "cannot delete the Service of an earlier name");
                Ok(0)
            }
            Ok(writes) => {
                tracing::info!(service, "deleted the Service of an earlier name");
                Ok(writes)
            }
        }
    }
}

fn by_serin() -> PatchParams {
    PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

/// The outcome of a deletion; what is gone already is deleted.
fn gone<T>(deleted: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match deleted {
        Err(error) if !is_code(&error, 404) => Err(error),
        _ => Ok(()),
    }
}

/// Who owns an object, in words.
pub(super) fn owner_of<K: ResourceExt>(object: Option<&K>) -> String {
    let owners = object.map_or(&[][..], |object| object.owner_references());
    let controller = owners.iter().find(|owner| owner.controller == Some(true));
    let owner = controller.or(owners.first());
    owner.map_or_else(
        || "another owner".to_owned(),
        |owner| format!("{} {}", owner.kind, owner.name),
    )
}

/// Whether the owner of a Service hands it over to a model: by the annotation, and no controller
/// would make it its own again.
fn is_handed_over(service: &Service, model: &ModelDeployment) -> bool {
    let mut owners = service.owner_references().iter();
    service.annotations().get(ADOPT_ANNOTATION) == Some(&model.name_any())
        && owners.all(|owner| owner.controller != Some(true))
}

/// The merge patch that makes a Service the model's own.
fn adopted(live: &Service, wanted: &Service) -> Value {
    let owners = live.owner_references().iter();
    let owners: Vec<&OwnerReference> = owners.chain(wanted.owner_references()).collect();
    let labels: &BTreeMap<String, String> = wanted.labels();
    let ports = wanted.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    json!({
        "metadata": {
            "resourceVersion": live.meta().resource_version,
            "labels": labels,
            "ownerReferences": owners,
            "annotations": {OLD_ENDPOINTS: "to be deleted"},
        },
        "spec": {"selector": null, "ports": ports},
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_a_service_whose_owner_consents_and_that_no_controller_keeps_is_handed_over() {
        let model = serde_json::from_value(json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "churn", "namespace": "ml", "uid": "u"},
            "spec": {
                "model": {"uri": "file:///m", "version": "1", "digest": "sha256:0"},
                "objectives": [{"name": "errors", "errorRate": {"max": "1%"}}],
            },
        }));
        let model: ModelDeployment = model.unwrap();
        let handed_over = |adopt: Value, controller: Value| {
            let service: Service = serde_json::from_value(json!({
                "metadata": {"name": "api", "annotations": adopt, "ownerReferences": [{
                    "apiVersion": "v1", "kind": "Route", "name": "a", "uid": "b",
                    "controller": controller,
                }]},
            }))
            .unwrap();
            is_handed_over(&service, &model)
        };
        let to = |model: &str| json!({ADOPT_ANNOTATION: model});
        assert!(handed_over(to("churn"), json!(false)));
        assert!(!handed_over(to("fraud"), json!(false)));
        assert!(!handed_over(json!({}), json!(false)));
        assert!(!handed_over(to("churn"), json!(true)));
    }
}
