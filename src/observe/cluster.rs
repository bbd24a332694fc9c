//! What the caches say about one model's versions.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::ControllerRevision, discovery::v1::EndpointSlice};
use kube::ResourceExt;
use kube_runtime::reflector::ObjectRef;

use super::{VersionHealth, health::health_of};
use crate::{
    api::{
        GROUP, MANAGED_BY_LABEL, MANAGER, MODEL_LABEL, ModelDeployment, Phase, REVISION_LABEL,
        RetiringVersion, Revision, State, VersionRef,
    },
    k8s::{ready_addresses, service_of},
    plan::{self, KnownVersion, router_slice_name, version_name},
    watch::Stores,
};

/// The children of one model, as the caches have them.
pub struct Children {
    /// Every version with a ControllerRevision.
    pub known: BTreeMap<Revision, KnownVersion>,
    /// Whether `known` was read live and is all there is.
    pub known_is_all: bool,
    /// What each version's pods are like.
    pub health: BTreeMap<Revision, VersionHealth>,
    /// Addresses of the ready routers.
    pub routers: BTreeSet<IpAddr>,
}

/// Reads the caches for one model.
pub fn children(stores: &Stores, model: &ModelDeployment) -> Children {
    let known = known_versions(stores, model);
    // A version in use counts by its pods, also where somebody has deleted its place in the history.
    let state = model.status.as_ref().map(|status| &status.state);
    let in_use = state.map(State::in_use).unwrap_or_default();
    let revisions: BTreeSet<&Revision> = known.keys().chain(&in_use).collect();
    let health = revisions
        .into_iter()
        .map(|revision| (revision.clone(), health(stores, model, revision)))
        .collect();
    let routers = stores
        .routers
        .state()
        .iter()
        .flat_map(|slice| ready_addresses(slice).collect::<Vec<_>>())
        .collect();
    Children {
        known,
        known_is_all: false,
        health,
        routers,
    }
}

/// Addresses that a router can send a version's requests to.
pub fn endpoints(
    stores: &Stores,
    namespace: &str,
    model: &str,
    revision: &Revision,
) -> BTreeSet<(IpAddr, u16)> {
    endpoints_of_service(stores, namespace, &version_name(model, revision))
}

/// Addresses that the requests to a Service are sent to.
pub fn endpoints_of_service(
    stores: &Stores,
    namespace: &str,
    service: &str,
) -> BTreeSet<(IpAddr, u16)> {
    let slices = stores.slices.state_filter(|slice| {
        service_of(slice) == Some(service) && slice.metadata.namespace.as_deref() == Some(namespace)
    });
    endpoints_of(slices.iter().map(|slice| &**slice))
}

/// The addresses that a Service's slices hold.
pub(super) fn endpoints_of<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
) -> BTreeSet<(IpAddr, u16)> {
    let mut found = BTreeSet::new();
    for slice in slices {
        let port = slice
            .ports
            .iter()
            .flatten()
            .next()
            .and_then(|port| port.port)
            .and_then(|port| u16::try_from(port).ok());
        let Some(port) = port else { continue };
        found.extend(ready_addresses(slice).map(|address| (address, port)));
    }
    found
}

/// The versions that this model's ControllerRevisions keep.
fn known_versions(stores: &Stores, model: &ModelDeployment) -> BTreeMap<Revision, KnownVersion> {
    let cached = stores.history.state();
    cached
        .iter()
        .filter_map(|object| known_version(object, model))
        .collect()
}

/// The version that a ControllerRevision of this model keeps; one that cannot be read is left alone and said.
pub(super) fn known_version(
    object: &ControllerRevision,
    model: &ModelDeployment,
) -> Option<(Revision, KnownVersion)> {
    if !is_child(object, model) {
        return None;
    }
    let revision = revision_of(object)?;
    match KnownVersion::read(object) {
        Ok(version) => Some((revision, version)),
        Err(error) => {
            tracing::warn!(name = object.name_any(), %error, "a ControllerRevision holds no version");
            None
        }
    }
}

/// The version in force, as the history names it.
pub fn in_force(known: &BTreeMap<Revision, KnownVersion>) -> Option<VersionRef> {
    let (revision, version) = plan::in_force(known)?;
    Some(VersionRef {
        revision: revision.clone(),
        version: version.spec.model.version.clone(),
    })
}

/// The port on which routers listen for a model, as the way to them has it.
pub fn router_port(stores: &Stores, model: &ModelDeployment) -> Option<u16> {
    let namespace = model.namespace().unwrap_or_default();
    let name = router_slice_name(&model.name_any());
    let names = [format!("{name}-ipv6"), name];
    let mut slices = names
        .iter()
        .filter_map(|name| stores.slices.get(&ObjectRef::new(name).within(&namespace)));
    let slice = slices.find(|slice| is_child(&**slice, model))?;
    let port = slice.ports.as_ref()?.first()?.port?;
    u16::try_from(port).ok()
}

/// What is left of a state that was lost: the version in force has all traffic. Requests that the others have end in
/// peace. `None` where nothing says that there was one.
pub fn remains(stores: &Stores, model: &ModelDeployment) -> Option<State> {
    let known = known_versions(stores, model);
    let stable = in_force(&known)?;
    let router_port = Some(router_port(stores, model)?);
    let others = known.into_keys().filter(|other| *other != stable.revision);
    let retiring = others.map(|revision| RetiringVersion {
        revision,
        scale_down_at: jiff::Timestamp::MAX,
    });
    Some(State {
        phase: Phase::Stable,
        retiring: retiring.collect(),
        stable: Some(stable),
        router_port,
        ..State::default()
    })
}

fn health(stores: &Stores, model: &ModelDeployment, revision: &Revision) -> VersionHealth {
    let (name, namespace) = (model.name_any(), model.namespace().unwrap_or_default());
    let deployment_name = version_name(&name, revision);
    let deployment = stores
        .deployments
        .find(|deployment| deployment.name_any() == deployment_name && is_child(deployment, model));
    let pods = stores.pods.state_filter(|pod| {
        pod.namespace().as_deref() == Some(&namespace)
            && pod.labels().get(MODEL_LABEL) == Some(&name)
            && pod
                .labels()
                .get(REVISION_LABEL)
                .is_some_and(|label| *label == revision.0)
    });
    let reachable = endpoints(stores, &namespace, &name, revision).len();
    let since = trial_since(model, revision);
    health_of(deployment.as_deref(), pods, reachable, since)
}

/// When the version's trial began, where it is on trial.
pub(super) fn trial_since(model: &ModelDeployment, revision: &Revision) -> Option<Timestamp> {
    let canary = model.status.as_ref()?.state.canary.as_ref()?;
    (canary.revision == *revision).then_some(canary.since)
}

/// Whose an object is, as a model sees it that needs the object's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinship {
    /// The model's own.
    Own,
    /// It bears the model's labels and has no owner: left by a model that was deleted without its children.
    Orphan,
    /// It belongs to an earlier ModelDeployment of this name, and is deleted with it.
    Former,
    /// Somebody else's.
    Foreign,
}

/// Whose an object is.
pub fn kinship<K: ResourceExt>(object: &K, model: &ModelDeployment) -> Kinship {
    if object.namespace() != model.namespace() {
        return Kinship::Foreign;
    }
    let (name, uid) = (model.name_any(), model.uid().unwrap_or_default());
    let owners = object.owner_references();
    if owners.iter().any(|owner| owner.uid == uid) {
        return Kinship::Own;
    }
    let is_model = |api_version: &str| api_version.split('/').next() == Some(GROUP);
    if owners.iter().any(|owner| {
        is_model(&owner.api_version) && owner.kind == "ModelDeployment" && owner.name == name
    }) {
        return Kinship::Former;
    }
    let has = |label, value: &str| object.labels().get(label).is_some_and(|own| own == value);
    let labelled = has(MANAGED_BY_LABEL, MANAGER) && has(MODEL_LABEL, &name);
    if labelled && owners.iter().all(|owner| owner.controller != Some(true)) {
        Kinship::Orphan
    } else {
        Kinship::Foreign
    }
}

/// Whether an object is this very model's, or an orphan that it adopts.
pub fn is_child<K: ResourceExt>(object: &K, model: &ModelDeployment) -> bool {
    matches!(kinship(object, model), Kinship::Own | Kinship::Orphan)
}

fn revision_of<K: ResourceExt>(object: &K) -> Option<Revision> {
    object
        .labels()
        .get(REVISION_LABEL)
        .map(|label| Revision(label.clone()))
}
