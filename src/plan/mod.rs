//! From the persisted state to the objects that should exist. Pure, so planning twice is planning once.

mod artefact;
mod security;
mod service;
mod version;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{api::apps::v1::Deployment, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{Resource, ResourceExt};

pub use version::VERSION_ANNOTATION;

use crate::{
    api::{Fetch, ModelDeployment, Revision, State, VersionSpec, validate::is_fetched},
    k8s::{Intent, KnownVersion, Object, in_force},
    router::{Report, Route, Router},
};

/// Settings of the operator that shape objects.
#[derive(Clone, Debug)]
pub struct PlatformDefaults {
    /// The serving image of versions that name none.
    pub serving_image: String,
    /// How pods fetch artefacts that are not mounted.
    pub fetch: Fetch,
}

/// The objects that should exist, in the order in which they are applied, and those that should not.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Name of the model's Service. While somebody else's Service has it, no EndpointSlice is applied: it would feed whatever
    /// Service bears its label.
    pub name: String,
    /// To be applied.
    pub apply: Vec<Intent>,
    /// Versions beyond the history limit: their Deployment, Service and ControllerRevision go.
    pub forget: Vec<Revision>,
}

/// Everything that a plan is made from, besides the model itself.
#[derive(Clone)]
pub struct PlanInput<'a> {
    /// The state as persisted.
    pub state: &'a State,
    /// Every version that has a ControllerRevision.
    pub known: &'a BTreeMap<Revision, KnownVersion>,
    /// Whether that is all there is. Else a new version waits: its number would be another's.
    pub known_is_all: bool,
    /// Whether the spec can be used. Else no version is recorded from it, and none is forgotten by its limit.
    pub usable: bool,
    /// The router that moves the model's traffic.
    pub router: &'a dyn Router,
    /// What is known of it.
    pub report: &'a Report,
    /// The operator's settings.
    pub defaults: &'a PlatformDefaults,
}

/// Plans the objects of one model.
pub fn plan(model: &ModelDeployment, input: &PlanInput<'_>) -> Plan {
    let mut plan = Plan {
        name: model.name_any(),
        ..Plan::default()
    };
    let Some(owner) = model.controller_owner_ref(&()) else {
        return plan;
    };
    if input.state.stable.is_none() && in_force(input.known).is_some() {
        return plan; // a state that was lost: until it is restored, nothing is taken away by it
    }
    let builder = ObjectBuilder {
        model,
        owner,
        defaults: input.defaults,
        replicas: input
            .state
            .replicas_floor
            .unwrap_or(0)
            .max(model.spec.replicas),
    };
    if let Some(route) = Route::new(model, input.state, input.report) {
        plan.apply.extend(input.router.objects(&route));
    }
    let live = input.state.in_use();
    if live.is_empty() {
        return plan; // a new state: what orphans have is not taken from them before a version is named
    }
    let versions = versions(&builder, input);
    for (revision, version) in &versions {
        let is_live = live.contains(revision);
        let reign = reign(input.state, &versions, revision);
        plan.push(
            "the version's place in the history",
            Object::ControllerRevision(builder.history(revision, version, reign)),
        );
        let reason = if is_live {
            "a version in use"
        } else {
            "a version kept for going back to"
        };
        plan.push(
            "the version's name",
            Object::Service(builder.version_service(revision, &version.spec)),
        );
        plan.push(
            reason,
            Object::Deployment(builder.deployment(revision, version, is_live)),
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

/// The Deployment that the spec's version would get, were it recorded now; to be tried before it is.
pub fn draft(
    model: &ModelDeployment,
    defaults: &PlatformDefaults,
) -> Option<(Revision, Deployment)> {
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
    /// Kind and name of every object in the plan.
    pub fn keys(&self) -> BTreeSet<String> {
        let objects = self.apply.iter().map(|intent| intent.object.key());
        objects.chain([format!("Service/{}", self.name)]).collect()
    }

    fn push(&mut self, reason: &'static str, object: Object) {
        self.apply.push(Intent { object, reason });
    }
}

/// What all objects of one model share.
struct ObjectBuilder<'a> {
    model: &'a ModelDeployment,
    owner: OwnerReference,
    defaults: &'a PlatformDefaults,
    /// Pods of each version in use: while a rollout is under way never fewer than they were.
    replicas: i32,
}

/// Whether a version has traffic or may get some. One that was withdrawn before it was recorded never is.
fn is_in_force_or_on_trial(state: &State, revision: &Revision) -> bool {
    let stable = state.stable.as_ref().map(|version| &version.revision);
    let canary = state.canary.as_ref().map(|version| &version.revision);
    [stable, canary].contains(&Some(revision))
}

/// A version's place among those that have been in force. The stable one's is the highest: where it is not, it has come
/// into force since that was written. One write a promotion, and after a crash the same one.
fn reign(
    state: &State,
    versions: &BTreeMap<Revision, KnownVersion>,
    revision: &Revision,
) -> Option<i64> {
    let own = versions.get(revision).and_then(|version| version.reign);
    let stable = state.stable.as_ref().map(|stable| &stable.revision);
    if stable != Some(revision) {
        return own;
    }
    let others = versions.iter().filter(|(other, _)| *other != revision);
    let highest = others.filter_map(|(_, version)| version.reign).max();
    let highest = highest.unwrap_or(0);
    own.filter(|own| *own > highest).or(Some(highest + 1))
}

/// Every version that can be built: those of the history, and the spec's if it is in use, not yet there, and can be numbered.
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

/// Fills in the platform's settings of today, so that tomorrow's leave this version alone.
fn pin(mut version: VersionSpec, defaults: &PlatformDefaults) -> VersionSpec {
    version
        .serving
        .image
        .get_or_insert_with(|| defaults.serving_image.clone());
    if is_fetched(&version.model.uri) {
        version.fetch = Some(defaults.fetch.clone());
    }
    version
}

/// The oldest versions without pods, beyond `spec.revisionHistoryLimit`.
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
mod tests {
    use serde_json::json;

    use super::*;
    use crate::router::envoy::{Envoy, Prober, refusals::Refusals};

    fn defaults() -> PlatformDefaults {
        let fetch = json!({"image": "serve:1", "hosts": [], "maxSize": 1});
        PlatformDefaults {
            serving_image: "serve:1".to_owned(),
            fetch: serde_json::from_value(fetch).unwrap(),
        }
    }

    #[test]
    fn no_version_in_use_has_fewer_pods_than_it_had_in_the_rollout() {
        let version = |version: &str| {
            let model = json!({"uri": "file:///m", "version": version, "digest": "sha256:0"});
            serde_json::from_value::<VersionSpec>(json!({"model": model, "serving": {}})).unwrap()
        };
        let known = |spec: VersionSpec, number| {
            let data = serde_json::to_value(&spec).unwrap();
            let version = KnownVersion {
                number,
                spec,
                template: None,
                reign: None,
                data,
            };
            (version.spec.revision(), version)
        };
        let known: BTreeMap<_, _> = (1..=4)
            .map(|number| known(version(&number.to_string()), number))
            .collect();
        let revision = |number: &str| version(number).revision().0;
        let defaults = defaults();
        let replicas = |wanted: i32, floor: Option<i32>| {
            let model: ModelDeployment = serde_json::from_value(json!({
                "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
                "metadata": {"name": "churn", "namespace": "ml", "uid": "u", "generation": 1},
                "spec": {
                    "model": {"uri": "file:///m", "version": "2", "digest": "sha256:0"},
                    "replicas": wanted, "objectives": [{"errorRate": {"max": "1%"}}],
                },
            }))
            .unwrap();
            let state: State = serde_json::from_value(json!({
                "phase": "Canary", "stable": {"revision": revision("1"), "version": "1"},
                "canary": {"revision": revision("2"), "version": "2", "weight": 10, "since": "1970-01-01T00:00:00Z"},
                "retiring": [{"revision": revision("3"), "scaleDownAt": "1970-01-01T00:00:00Z"}],
                "replicasFloor": floor,
            }))
            .unwrap();
            let input = PlanInput {
                state: &state,
                known: &known,
                known_is_all: true,
                usable: true,
                router: &Envoy::new(Prober::by_tcp(), Refusals::default()),
                report: &Report::default(),
                defaults: &defaults,
            };
            let plan = plan(&model, &input);
            let deployments = plan
                .apply
                .into_iter()
                .filter_map(|intent| match intent.object {
                    Object::Deployment(deployment) => Some(deployment),
                    _ => None,
                });
            let of = |deployment: Deployment| {
                let version = &deployment.metadata.annotations.unwrap()["serin.dev/version"];
                (version.clone(), deployment.spec.replicas.unwrap())
            };
            let mut replicas: Vec<_> = deployments.map(of).collect();
            replicas.sort();
            replicas
                .into_iter()
                .map(|(_, replicas)| replicas)
                .collect::<Vec<_>>()
        };
        assert_eq!(replicas(3, None), [3, 3, 3, 0]);
        assert_eq!(
            replicas(1, Some(5)),
            [5, 5, 5, 0],
            "an autoscaler goes down"
        );
        assert_eq!(replicas(7, Some(5)), [7, 7, 7, 0], "and up");
    }

    #[test]
    fn a_state_that_names_no_version_takes_no_pods_from_any() {
        let model: ModelDeployment = serde_json::from_value(json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "churn", "namespace": "ml", "uid": "u", "generation": 1},
            "spec": {
                "model": {"uri": "file:///m", "version": "1", "digest": "sha256:0"},
                "objectives": [{"errorRate": {"max": "1%"}}],
            },
        }))
        .unwrap();
        let spec = VersionSpec::of(&model.spec);
        let orphan = KnownVersion {
            number: 1,
            data: serde_json::to_value(&spec).unwrap(),
            spec,
            template: None,
            reign: None,
        };
        let of = |state: &State, orphan: &KnownVersion| {
            let input = PlanInput {
                state,
                known: &[(orphan.spec.revision(), orphan.clone())].into(),
                known_is_all: true,
                usable: true,
                router: &Envoy::new(Prober::by_tcp(), Refusals::default()),
                report: &Report::default(),
                defaults: &defaults(),
            };
            plan(&model, &input).apply.len()
        };
        assert_eq!(of(&State::default(), &orphan), 0);
        let on_trial: State = serde_json::from_value(json!({
            "phase": "Preparing",
            "canary": {"revision": "2", "version": "2", "weight": 0, "since": "1970-01-01T00:00:00Z"},
        }))
        .unwrap();
        let in_force = KnownVersion {
            reign: Some(1),
            ..orphan
        };
        assert_eq!(of(&on_trial, &in_force), 0, "a state that was lost");
    }
}
