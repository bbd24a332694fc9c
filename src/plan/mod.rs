//! Computes the objects that should exist from the persisted state. Pure, so applying a plan twice
//! is harmless.

mod artefact;
mod merge;
mod security;
mod service;
mod version;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;

pub use version::VERSION_ANNOTATION;

use crate::{
    api::{Fetch, ModelDeployment, Revision, State, VersionSpec, validate::is_fetched},
    k8s::{Intent, KnownVersion, Object, VersionDeployment, in_force, service_of},
    router::{Report, Route, Router},
};

/// Settings of the operator that are used where a version declares none.
#[derive(Clone, Debug)]
pub struct PlatformDefaults {
    /// The serving image of versions that declare none.
    pub serving_image: String,
    /// How pods fetch artefacts that are not mounted.
    pub fetch: Fetch,
}

/// The objects to apply, in order, and the versions to delete.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Name of the Service that clients use.
    pub service: String,
    /// Objects to apply.
    pub apply: Vec<Intent>,
    /// Versions beyond the history limit: their Deployment, Service and ControllerRevision are
    /// deleted.
    pub forget: Vec<Revision>,
    /// Services that clients used under an earlier name: they are deleted with their
    /// EndpointSlices.
    pub retire: Vec<String>,
    /// Whether the routers answer for the model, so that a Service that is handed over to it can be
    /// taken over.
    pub may_adopt: bool,
}

/// The input of a plan, besides the model.
#[derive(Clone)]
pub struct PlanInput<'a> {
    /// The state as persisted.
    pub state: &'a State,
    /// Every version that has a ControllerRevision.
    pub known: &'a BTreeMap<Revision, KnownVersion>,
    /// Whether `known` is complete. If not, no new version is recorded: its number could be taken.
    pub known_is_all: bool,
    /// Whether the spec is valid. If not, no version is recorded from it, and its history limit
    /// deletes none.
    pub usable: bool,
    /// The router that moves the model's traffic.
    pub router: &'a dyn Router,
    /// The router's last report.
    pub report: &'a Report,
    /// Settings used where a version declares none.
    pub defaults: &'a PlatformDefaults,
}

/// Plans the objects of one model.
pub fn plan(model: &ModelDeployment, input: &PlanInput<'_>) -> Plan {
    let mut plan = Plan {
        service: model.service_name(),
        ..Plan::default()
    };
    let Some(owner) = model.controller_owner_ref(&()) else {
        return plan;
    };
    if input.state.stable.is_none() && in_force(input.known).is_some() {
        return plan; // the state was lost: until it is restored, take nothing away
    }
    let builder = ObjectBuilder {
        model,
        owner,
        defaults: input.defaults,
        // At least one: a version that has pods is not asleep, whatever the spec says already.
        replicas: input
            .state
            .replicas_floor
            .unwrap_or(1)
            .max(model.spec.replicas)
            .max(1),
    };
    if let Some(mut route) = Route::new(model, input.state, input.report) {
        if !input.usable {
            route = route.of_invalid_spec();
        }
        route.service().clone_into(&mut plan.service);
        plan.apply.extend(input.router.objects(&route));
    }
    if input.usable {
        plan.retire = replaced(&plan, input.report);
        plan.apply.retain(|intent| match &intent.object {
            Object::EndpointSlice(slice) => {
                let service = service_of(slice).unwrap_or_default();
                plan.retire.iter().all(|retired| retired != service)
            }
            _ => true,
        });
        plan.may_adopt = input.report.services.answered;
    }
    let live = input.state.in_use();
    if live.is_empty() {
        return plan; // a new state: take nothing from orphaned versions before it names one
    }
    let with_pods = input.state.with_pods();
    let versions = versions(&builder, input);
    for (revision, version) in &versions {
        let has_pods = with_pods.contains(revision);
        let standing = Standing {
            reign: reign(input.state, &versions, revision),
            until: until(input.state, version, revision),
        };
        plan.push(
            "the version's record in the history",
            Object::ControllerRevision(builder.history(revision, version, &standing)),
        );
        let reason = if has_pods {
            "a version in use"
        } else {
            "a version kept for undo, or asleep"
        };
        plan.push(
            "the version's Service",
            Object::Service(builder.version_service(revision, &version.spec)),
        );
        plan.push(
            reason,
            Object::Deployment(builder.deployment(revision, version, has_pods)),
        );
    }
    if input.usable {
        plan.forget = beyond_history(model, input.known, &live);
    }
    let forgotten: BTreeSet<&Revision> = plan.forget.iter().collect();
    plan.apply.retain(|intent| {
        intent
            .object
            .revision()
            .is_none_or(|revision| !forgotten.contains(&revision))
    });
    plan
}

/// Returns the Deployment that the spec's version would get, for a dry run before the version is
/// recorded.
pub fn draft(
    model: &ModelDeployment,
    defaults: &PlatformDefaults,
) -> Option<(Revision, VersionDeployment)> {
    let owner = model.controller_owner_ref(&())?;
    let builder = ObjectBuilder {
        model,
        owner,
        defaults,
        replicas: model.spec.replicas,
    };
    let spec = VersionSpec::of(&model.spec);
    let revision = spec.revision();
    let version = builder.new_version(&revision, 0, pin(spec, defaults));
    let deployment = builder.deployment(&revision, &version, true);
    Some((revision, deployment))
}

impl Plan {
    /// Returns kind and name of every object in the plan, such as `Service/churn`.
    pub fn keys(&self) -> BTreeSet<String> {
        let objects = self.apply.iter().map(|intent| intent.object.key());
        objects
            .chain([format!("Service/{}", self.service)])
            .collect()
    }

    fn push(&mut self, reason: &'static str, object: Object) {
        self.apply.push(Intent { object, reason });
    }
}

/// The Services of earlier names, once the one of the spec's name has replaced them.
fn replaced(plan: &Plan, report: &Report) -> Vec<String> {
    let services = &report.services;
    let planned = plan.keys();
    let is_planned = |name: &str| planned.contains(&format!("Service/{name}"));
    let applied = plan.apply.iter().map(|intent| intent.object.key());
    let key = format!("Service/{}", plan.service);
    if services.replaced_in != Some(Duration::ZERO) || !applied.into_iter().any(|it| it == key) {
        return Vec::new();
    }
    let earlier = services.known.keys().chain(&services.missing);
    earlier.filter(|name| !is_planned(name)).cloned().collect()
}

/// Builds the objects of one model.
struct ObjectBuilder<'a> {
    model: &'a ModelDeployment,
    owner: OwnerReference,
    defaults: &'a PlatformDefaults,
    /// Pods of each version in use. Never lowered while a rollout is under way.
    replicas: i32,
}

/// What a ControllerRevision keeps of its version besides the data.
struct Standing {
    /// Its number among the versions that have been stable, if it has one.
    reign: Option<i64>,
    /// Until when it was the stable one.
    until: Option<Timestamp>,
}

/// Whether a version is stable or the canary. A version withdrawn before it was recorded is
/// neither.
fn is_in_force_or_on_trial(state: &State, revision: &Revision) -> bool {
    let stable = state.stable.as_ref().map(|version| &version.revision);
    let canary = state.canary.as_ref().map(|version| &version.revision);
    [stable, canary].contains(&Some(revision))
}

/// A version's number among those that have been stable. The stable version has the highest: if its
/// recorded number is not, it was promoted since, and gets the next one. One write a promotion;
/// repeated after a crash, it gives the same number.
fn reign(
    state: &State,
    versions: &BTreeMap<Revision, KnownVersion>,
    revision: &Revision,
) -> Option<i64> {
    let own = versions.get(revision).and_then(|version| version.reign);
    if !is_stable(state, revision) {
        return own.filter(|_| !is_refused(state, revision));
    }
    let others = versions.iter().filter(|(other, _)| *other != revision);
    let highest = others.filter_map(|(_, version)| version.reign).max();
    let highest = highest.unwrap_or(0);
    own.filter(|own| *own > highest).or(Some(highest + 1))
}

/// Until when a version was the stable one, where it is known to have been.
fn until(state: &State, version: &KnownVersion, revision: &Revision) -> Option<Timestamp> {
    if is_stable(state, revision) || is_refused(state, revision) {
        return None;
    }
    let mut retiring = state.retiring.iter();
    let retiring = retiring.find(|retiring| retiring.revision == *revision);
    let until = retiring.and_then(|retiring| retiring.stable_until);
    until.or(version.until)
}

fn is_stable(state: &State, revision: &Revision) -> bool {
    let stable = state.stable.as_ref();
    stable.is_some_and(|stable| stable.revision == *revision)
}

/// Whether a version was rolled back. It is unproven from then on, also where the status is lost.
fn is_refused(state: &State, revision: &Revision) -> bool {
    let mut refused = state.refused.iter();
    refused.any(|refused| refused.revision == *revision)
}

/// Returns every version that can be built: those of the history, and the spec's if it is in use,
/// not recorded yet, and can be numbered.
fn versions(
    builder: &ObjectBuilder<'_>,
    input: &PlanInput<'_>,
) -> BTreeMap<Revision, KnownVersion> {
    let mut versions = input.known.clone();
    let wanted = VersionSpec::of(&builder.model.spec);
    let revision = wanted.revision();
    let is_new =
        !versions.contains_key(&revision) && is_in_force_or_on_trial(input.state, &revision);
    if is_new && input.usable && input.known_is_all {
        let number = versions
            .values()
            .map(|version| version.number)
            .max()
            .unwrap_or(0)
            + 1;
        let version = builder.new_version(&revision, number, pin(wanted, input.defaults));
        versions.insert(revision, version);
    }
    versions
}

/// Fills in the platform's present settings and the operator's defaults that are read after the
/// version was recorded, so that later ones leave this version alone. The port is one: the
/// version's Service names it on every look, and the pods listen on what their recorded template
/// says.
fn pin(mut version: VersionSpec, defaults: &PlatformDefaults) -> VersionSpec {
    let serving = &mut version.serving;
    serving
        .image
        .get_or_insert_with(|| defaults.serving_image.clone());
    serving.port = Some(serving.port());
    let model = version.model.as_ref();
    if model.is_some_and(|model| is_fetched(&model.uri)) {
        version.fetch = Some(defaults.fetch.clone());
    }
    version
}

/// Returns the oldest versions without pods, beyond `spec.revisionHistoryLimit`.
fn beyond_history(
    model: &ModelDeployment,
    known: &BTreeMap<Revision, KnownVersion>,
    live: &BTreeSet<Revision>,
) -> Vec<Revision> {
    let mut idle: Vec<_> = known
        .iter()
        .filter(|(revision, _)| !live.contains(revision))
        .collect();
    idle.sort_by_key(|(_, version)| version.number);
    let limit = usize::try_from(model.spec.revision_history_limit).unwrap_or(0);
    let excess = idle.len().saturating_sub(limit);
    idle.into_iter()
        .take(excess)
        .map(|(revision, _)| revision.clone())
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
