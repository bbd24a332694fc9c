//! Stories: what users do to a model, and how its versions behave. Each deed waits for a status,
//! not for a time, so that a story can be played with and without faults and must end the same.

use serde_json::{Value, json};

use serin::api::{ModelDeploymentSpec, VersionSpec};

use crate::{
    kinds::{Key, Kind},
    model_ref::{IRIS, ModelRef, NEIGHBOURS},
    objects::{Objects, owners},
    rng::Rng,
};

/// A foreign finalizer.
const FINALIZER: &str = "example.com/somebody-else";

/// How a version's pods start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Ready,
    /// After this many seconds.
    After(u64),
    Never,
    Crashing,
}

/// How a version behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaviour {
    pub start: Start,
    pub errors_per_mille: u64,
    pub slow_per_mille: u64,
    /// It answers well below this weight.
    pub from_weight: u64,
}

impl Behaviour {
    pub const HEALTHY: Self = Self {
        start: Start::Ready,
        errors_per_mille: 0,
        slow_per_mille: 0,
        from_weight: 0,
    };

    pub const fn failing(errors_per_mille: u64, from_weight: u64) -> Self {
        Self {
            errors_per_mille,
            from_weight,
            ..Self::HEALTHY
        }
    }

    /// The same at a weight.
    pub fn at(self, weight: u64) -> Self {
        if weight < self.from_weight {
            Self::HEALTHY
        } else {
            self
        }
    }

    /// Whether it breaks its objectives, and by far.
    pub fn is_bad(self) -> bool {
        self.errors_per_mille >= 200 || self.slow_per_mille >= 200
    }
}

/// What a deed waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Now,
    /// The version serves all traffic and nothing is on trial.
    Serves(&'static str),
    /// The version is being started.
    Prepares(&'static str),
    /// The version is on trial with at least this weight.
    Weighs(&'static str, u64),
    /// The version is refused and nothing is on trial.
    Refused(&'static str),
    /// The status reports the spec as invalid.
    Invalid,
    /// The model and all that was made for it is gone.
    Gone,
    /// This many seconds after the previous deed.
    After(u64),
}

/// A deed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Apply(&'static str),
    Pause(bool),
    /// Other steps.
    Steps(&'static [u64]),
    Replicas(u64),
    Retry(&'static str),
    Behave(&'static str, Behaviour),
    Delete,
    /// An invalid spec that passed admission.
    Spoil,
    Fix,
    /// A child's owner is taken away, or given back.
    Disown,
    Adopt,
    /// A foreign finalizer is added or removed.
    Bind,
    Unbind,
    /// A foreign Deployment takes the name of a version's, or is deleted.
    Squat(&'static str),
    Unsquat(&'static str),
    /// The model is deleted without its children, which then have no owner.
    Orphan,
}

/// A story and its progress.
#[derive(Clone, Debug)]
pub struct Story {
    pub name: &'static str,
    pub model: ModelRef,
    chapters: Vec<(When, Deed)>,
    done: usize,
    since_ms: u64,
    spec: Value,
    behaviours: Vec<(&'static str, Behaviour)>,
    /// The owners that were taken away.
    disowned: Option<(Key, Value)>,
}

/// Deeds, each with what it waits for.
type Chapters = &'static [(When, Deed)];
/// The behaviour of versions that are not healthy.
type Behaviours = &'static [(&'static str, Behaviour)];

/// The number of plain stories, which are first in the list.
const PLAIN: u64 = 5;

/// The stories, with their numbers in faults.md and the versions that are not healthy.
#[rustfmt::skip]
const STORIES: &[(&str, Chapters, Behaviours)] = {
    use Deed::*;
    use When::*;
    const BROKEN: Behaviour = Behaviour::failing(1000, 0);
    const BAD: Behaviour = Behaviour::failing(300, 0);
    const BAD_AT_50: Behaviour = Behaviour::failing(400, 50);
    const SLOW: Behaviour = Behaviour { slow_per_mille: 400, ..Behaviour::HEALTHY };
    const CRASHING: Behaviour = Behaviour { start: Start::Crashing, ..Behaviour::HEALTHY };
    const NEVER: Behaviour = Behaviour { start: Start::Never, ..Behaviour::HEALTHY };
    &[
        ("a version is promoted",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Serves("2"), Pause(false))], &[]),
        ("a version that fails is rolled back",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Refused("2"), Pause(false))],
            &[("2", BROKEN)]),
        ("a version that fails a third is rolled back",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Refused("2"), Pause(false))],
            &[("2", BAD)]),
        ("a version that fails from 50 % on is rolled back",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Refused("2"), Pause(false))],
            &[("2", BAD_AT_50)]),
        ("a slow version is rolled back",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Refused("2"), Pause(false))],
            &[("2", SLOW)]),
        ("a version that crashes is rolled back",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Refused("2"), Pause(false))],
            &[("2", CRASHING)]),
        ("a version that never starts is rolled back",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Refused("2"), Pause(false))],
            &[("2", NEVER)]),
        ("19: a new version while one is prepared",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Prepares("2"), Apply("3")),
              (Serves("3"), Pause(false))], &[]),
        ("19: a new version at 10 %",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Weighs("2", 10), Apply("3")),
              (Serves("3"), Pause(false))], &[]),
        ("19: a new version at 50 %",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Weighs("2", 50), Apply("3")),
              (Serves("3"), Pause(false))], &[]),
        ("19: a new version at 100 %, which fails",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Weighs("2", 100), Apply("3")),
              (Refused("3"), Pause(false))], &[("3", BROKEN)]),
        ("20: back to stable while prepared",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Prepares("2"), Apply("1")),
              (Serves("1"), Pause(false))], &[]),
        ("20: back to stable at 10 %",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Weighs("2", 10), Apply("1")),
              (Serves("1"), Pause(false))], &[]),
        ("20: back to stable at 100 %",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Weighs("2", 100), Apply("1")),
              (Serves("1"), Pause(false))], &[]),
        ("20: back to stable and forth again",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Weighs("2", 50), Apply("1")),
              (Serves("1"), Apply("2")), (Serves("2"), Pause(false))], &[]),
        ("21: paused, then failing",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Weighs("2", 10), Pause(true)),
              (After(30), Behave("2", BROKEN)), (Refused("2"), Pause(false))], &[]),
        ("21: paused and resumed",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Weighs("2", 50), Pause(true)),
              (After(90), Pause(false)), (Serves("2"), Pause(false))], &[]),
        ("22: deleted while prepared",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Prepares("2"), Delete)], &[]),
        ("22: deleted at 10 %",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Weighs("2", 10), Delete)], &[]),
        ("22: deleted at 100 %",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Weighs("2", 100), Delete)], &[]),
        ("23: steps shortened below 50 %",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Weighs("2", 50), Steps(&[10, 100])),
              (Serves("2"), Pause(false))], &[]),
        ("23: steps shortened to one",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Weighs("2", 10), Steps(&[100])),
              (Serves("2"), Pause(false))], &[]),
        ("23: steps added below",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")),
              (Weighs("2", 50), Steps(&[5, 20, 75, 100])), (Serves("2"), Pause(false))], &[]),
        ("24: invalid at 10 %, then fixed",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Weighs("2", 10), Spoil),
              (Invalid, Fix), (Serves("2"), Pause(false))], &[]),
        ("24: invalid at rest, then fixed",
            &[(Now, Apply("1")), (Serves("1"), Spoil), (Invalid, Fix),
              (Serves("1"), Pause(false))], &[]),
        ("7, 25: deleted and made again at once",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Weighs("2", 10), Delete),
              (Now, Apply("1")), (Serves("1"), Pause(false))], &[]),
        ("7, 25: deleted and made again as another version",
            &[(Now, Apply("1")), (Serves("1"), Delete), (Now, Apply("2")),
              (Serves("2"), Pause(false))], &[]),
        ("25: deleted, gone, made again",
            &[(Now, Apply("1")), (Serves("1"), Delete), (Gone, Apply("2")),
              (Serves("2"), Pause(false))], &[]),
        ("a refused version is retried",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")),
              (Refused("2"), Behave("2", Behaviour::HEALTHY)), (After(60), Retry("again")),
              (Serves("2"), Pause(false))], &[("2", BROKEN)]),
        ("a refused version is asked for again in vain",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Refused("2"), Apply("1")),
              (Serves("1"), Behave("2", Behaviour::HEALTHY)), (Now, Apply("2")),
              (After(120), Pause(false))], &[("2", BROKEN)]),
        ("more replicas in mid-rollout",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Weighs("2", 10), Replicas(3)),
              (Serves("2"), Pause(false))], &[]),
        ("fewer replicas in mid-rollout",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Weighs("2", 50), Replicas(1)),
              (Serves("2"), Pause(false))], &[]),
        ("fewer replicas and more again in mid-rollout",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Weighs("2", 10), Replicas(1)),
              (After(20), Replicas(2)), (Serves("2"), Pause(false))], &[]),
        ("46: all pods of a version are lost at 50 %",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Weighs("2", 50), Behave("2", NEVER)),
              (Refused("2"), Pause(false))], &[]),
        ("49: a child's owner is taken away",
            &[(Now, Apply("1")), (Serves("1"), Disown), (After(40), Apply("2")),
              (After(60), Adopt), (Serves("2"), Pause(false))], &[]),
        ("49: a finalizer is stuck at 10 %",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Weighs("2", 10), Bind), (Now, Delete),
              (After(120), Unbind)], &[]),
        ("one version after the other",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Serves("2"), Apply("3")),
              (Serves("3"), Apply("1")), (Serves("1"), Pause(false))], &[]),
        ("back from a version whose every answer is an error",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Serves("2"), Behave("2", BROKEN)),
              (After(30), Apply("1")), (Serves("1"), Pause(false))], &[]),
        ("back to a promoted version that has no pods any more",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Serves("2"), Behave("2", BROKEN)),
              (After(120), Apply("1")), (Serves("1"), Pause(false))], &[]),
        ("never back to a refused version without steps",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Refused("2"), Apply("3")),
              (Serves("3"), Behave("2", Behaviour::HEALTHY)), (Now, Retry("again")),
              (Now, Apply("2")), (Serves("2"), Pause(false))], &[("2", BROKEN)]),
        ("asleep, with a new version that waits",
            &[(Now, Apply("1")), (Serves("1"), Replicas(0)), (After(90), Apply("2")),
              (After(30), Replicas(2)), (Serves("2"), Pause(false))], &[]),
        ("asleep in mid-rollout",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Weighs("2", 50), Replicas(0)),
              (After(90), Replicas(2)), (Serves("2"), Pause(false))], &[]),
        ("woken up before its pods are gone",
            &[(Now, Apply("1")), (Serves("1"), Replicas(0)), (After(10), Replicas(1)),
              (After(60), Pause(false))], &[]),
        ("asleep before it has served",
            &[(Now, Replicas(0)), (Now, Apply("1")), (After(60), Replicas(2)),
              (Serves("1"), Pause(false))], &[]),
        ("never back to an unproven version without steps",
            &[(Now, Apply("1")), (Serves("1"), Apply("2")), (Weighs("2", 50), Apply("3")),
              (Serves("3"), Apply("2")), (Serves("2"), Pause(false))], &[]),
    ]
};

impl Story {
    /// How many there are.
    pub fn count() -> usize {
        STORIES.len()
    }

    /// The story of a number, from its beginning.
    pub fn number(index: usize) -> Self {
        let (name, chapters, behaviours) = STORIES[index];
        Self::of(name, chapters, behaviours, |_| {})
    }

    /// A story of another model, with the common first spec changed by `edit`.
    pub fn of(
        name: &'static str,
        chapters: &[(When, Deed)],
        behaviours: &[(&'static str, Behaviour)],
        edit: impl FnOnce(&mut Value),
    ) -> Self {
        let mut story = Self {
            name,
            model: IRIS,
            chapters: chapters.to_vec(),
            done: 0,
            since_ms: 0,
            spec: spec(),
            behaviours: behaviours.to_vec(),
            disowned: None,
        };
        edit(&mut story.spec);
        story
    }

    /// The user's spec is otherwise, from the next time on that it is applied.
    pub fn rewrite(&mut self, change: impl FnOnce(&mut Value)) {
        change(&mut self.spec);
    }

    /// The name of a version's objects, where the spec is otherwise as it is.
    fn objects_of(&self, version: &str) -> String {
        let mut story = self.clone();
        story.asks_for(version);
        let spec: ModelDeploymentSpec = serde_json::from_value(story.spec).unwrap();
        let revision = VersionSpec::of(&spec).revision();
        self.model.version(&revision.to_string())
    }

    fn asks_for(&mut self, version: &str) {
        let name = self.model.name;
        self.spec["model"] = json!({
            "uri": format!("file:///models/{name}/{version}"), "version": version,
            "digest": format!("sha256:{}", "ab".repeat(32)),
        });
    }

    /// One of them.
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed, "story");
        Self::number(rng.below(STORIES.len() as u64) as usize)
    }

    /// A plain story of another model, which begins later: a version is promoted, or fails and is
    /// rolled back.
    pub fn of_a_neighbour(seed: u64) -> Self {
        let mut rng = Rng::new(seed, "neighbour");
        let mut story = Self::number(rng.below(PLAIN) as usize);
        story.model = *rng.pick(&NEIGHBOURS);
        story.chapters[0].0 = When::After(rng.between(1, 90));
        story
    }

    /// Whether all deeds are done.
    pub fn is_complete(&self) -> bool {
        self.done == self.chapters.len()
    }

    /// How a version behaves.
    pub fn behaviour(&self, version: &str) -> Behaviour {
        let found = self.behaviours.iter().find(|(name, _)| *name == version);
        found.map_or(Behaviour::HEALTHY, |(_, behaviour)| *behaviour)
    }

    /// Whether the model should exist now.
    pub fn ends_with_nothing(&self) -> bool {
        let last = |deed: &(When, Deed)| matches!(deed.1, Deed::Apply(_) | Deed::Delete);
        self.chapters[..self.done]
            .iter()
            .rfind(|chapter| last(chapter))
            .is_some_and(|chapter| chapter.1 == Deed::Delete)
    }

    /// The next deed whose time has come.
    pub fn next(&mut self, objects: &Objects) -> Option<Deed> {
        let (when, deed) = *self.chapters.get(self.done)?;
        if !holds(when, self.model, objects, objects.now_ms - self.since_ms) {
            return None;
        }
        self.done += 1;
        self.since_ms = objects.now_ms;
        Some(deed)
    }

    /// Does a deed.
    pub fn act(&mut self, deed: Deed, objects: &mut Objects) {
        let ModelRef { namespace, name } = self.model;
        let key = self.model.key();
        match deed {
            Deed::Apply(version) => self.asks_for(version),
            Deed::Pause(paused) => self.spec["rollout"]["paused"] = json!(paused),
            Deed::Steps(weights) => self.spec["rollout"]["steps"] = steps(weights),
            Deed::Replicas(count) => self.spec["replicas"] = json!(count),
            Deed::Retry(token) => self.spec["rollout"]["retryToken"] = json!(token),
            Deed::Behave(version, behaviour) => {
                self.behaviours.retain(|(name, _)| *name != version);
                self.behaviours.push((version, behaviour));
                return;
            }
            Deed::Spoil => self.spec["rollout"]["steps"] = steps(&[10, 60]),
            Deed::Fix => self.spec["rollout"]["steps"] = steps(&[10, 50, 100]),
            Deed::Delete => {
                let _ = objects.delete(&key);
                return;
            }
            Deed::Disown => {
                let owned = self.model.deployments(objects).next();
                if let Some((child, object)) = owned {
                    let owners = object["metadata"]["ownerReferences"].clone();
                    let child = child.clone();
                    objects.edit(&child, |object| {
                        object["metadata"]["ownerReferences"] = json!([]);
                    });
                    self.disowned = Some((child, owners));
                }
                return;
            }
            Deed::Adopt => {
                if let Some((child, owners)) = self.disowned.take() {
                    objects.edit(&child, |object| {
                        object["metadata"]["ownerReferences"] = owners;
                    });
                }
                return;
            }
            Deed::Bind => {
                objects.edit(&key, |model| {
                    model["metadata"]["finalizers"] = json!([FINALIZER]);
                });
                return;
            }
            Deed::Unbind => {
                objects.edit(&key, |model| model["metadata"]["finalizers"] = json!([]));
                return;
            }
            Deed::Squat(version) => {
                let name = self.objects_of(version);
                let key = Key::new(Kind::Deployment, namespace, &name);
                let foreign = json!({
                    "metadata": {"namespace": namespace, "name": name},
                    "spec": {"replicas": 0, "template": {"metadata": {"labels": {"app": "other"}}}},
                });
                let _ = objects.create(&key, foreign);
                return;
            }
            Deed::Unsquat(version) => {
                let name = self.objects_of(version);
                let _ = objects.delete(&Key::new(Kind::Deployment, namespace, &name));
                return;
            }
            Deed::Orphan => {
                let uid = objects
                    .get(&key)
                    .map(|model| model["metadata"]["uid"].clone());
                let owned = objects.all().filter(|(_, object)| {
                    owners(object).any(|owner| uid.as_ref().is_some_and(|uid| uid == owner))
                });
                let owned: Vec<Key> = owned.map(|(key, _)| key.clone()).collect();
                for child in owned {
                    objects.edit(&child, |object| {
                        object["metadata"]["ownerReferences"] = json!([]);
                    });
                }
                let _ = objects.delete(&key);
                return;
            }
        }
        if let Some(live) = objects
            .get(&key)
            .filter(|_| !matches!(deed, Deed::Replicas(_)))
        {
            // An autoscaler owns the replicas.
            self.spec["replicas"] = live["spec"]["replicas"].clone();
        }
        if objects.get(&key).is_some() {
            objects.edit(&key, |model| model["spec"] = self.spec.clone());
        } else if matches!(deed, Deed::Apply(_)) {
            let model = json!({
                "metadata": {"namespace": namespace, "name": name}, "spec": self.spec,
            });
            let _ = objects.create(&key, model);
        }
    }
}

/// Whether the condition of a deed holds.
pub fn holds(when: When, model: ModelRef, objects: &Objects, waited_ms: u64) -> bool {
    let live = model.of(objects);
    let nothing = json!({});
    let status = live.map_or(&nothing, |model| &model["status"]);
    let canary = &status["canary"];
    let refused = |version: &str| {
        let list = status["refused"].as_array();
        list.is_some_and(|list| list.iter().any(|refused| refused["version"] == version))
    };
    match when {
        When::Now => true,
        When::Serves(version) => status["stable"]["version"] == version && canary.is_null(),
        // Only from its first object on is it part of the history.
        When::Prepares(version) => {
            let is_it =
                |object: &Value| object["metadata"]["annotations"]["serin.dev/version"] == version;
            let mut deployments = model.deployments(objects);
            canary["version"] == version && deployments.any(|(_, object)| is_it(object))
        }
        When::Weighs(version, weight) => {
            canary["version"] == version && canary["weight"].as_u64() >= Some(weight)
        }
        When::Refused(version) => refused(version) && canary.is_null(),
        When::Invalid => {
            let conditions = status["conditions"].as_array();
            conditions.is_some_and(|list| list.iter().any(|one| one["reason"] == "InvalidSpec"))
        }
        When::Gone => model.deployments(objects).next().is_none() && live.is_none(),
        When::After(seconds) => waited_ms >= seconds * 1000,
    }
}

pub fn steps(weights: &[u64]) -> Value {
    let steps = weights
        .iter()
        .map(|weight| json!({"weight": weight, "minDuration": "30s", "minRequests": 20}));
    steps.collect()
}

/// The spec that all stories begin with, but for the model.
fn spec() -> Value {
    json!({
        "replicas": 2,
        "traffic": {"envoy": {"timeout": "20s"}},
        "objectives": [
            {"name": "errors", "errorRate": {"max": "1%"}},
            {"name": "latency", "latency": {"quantile": 0.99, "max": "250ms"}},
        ],
        "rollout": {
            "steps": steps(&[10, 50, 100]),
            "bakeTime": "30s",
            "scaleDownDelay": "20s", // not below the timeout
            // Longer than any fault, so that effects of faults are undone before the end.
            "onMetricsOutage": {"hold": "2h", "then": "Rollback"},
        },
    })
}
