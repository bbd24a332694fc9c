//! The course of an event: its start, its effect, its end.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    event::Event,
    place::{Place, is_condition},
};
use crate::{
    admission::{Denial, HUGE_PAGES, Manner, QUOTA},
    faults::Fault,
    hpa::Hpa,
    kinds::{Key, Kind},
    model_ref::IRIS,
    objects::Objects,
    prometheus::Illness,
    replicas::Replicas,
    routers::ROUTER_COUNT,
    story::Deed,
    world::{State, World},
};

const WEBHOOK: &str = "the change freeze is on";
const POLICY: &str = "Services need an owner";
const RBAC: &str = "the role was narrowed";
const LABEL: &str = "the label team is required";
const TIMEOUT: &str = "context deadline exceeded";
const POD_QUOTA: &str = "exceeded quota: compute, requested: pods=1";
const SECURITY: &str = "violates PodSecurity \"restricted:latest\"";
const SCHEDULER: &str = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu";
const DRAINED: &str = "0/2 nodes are available: 1 node(s) were unschedulable, 1 Insufficient cpu";

/// Seconds between the replacements of two routers: the first one is ready by then.
const ROUTER_PAUSE: u64 = 8;
/// Seconds for which evicted pods find no node after a drain.
const DRAIN_PAUSE: u64 = 10;
/// Seconds between two switches of the replica that queries get to.
const SWITCH_PAUSE: u64 = 7;

/// An event in progress.
pub struct Happening {
    pub event: Event,
    /// Seconds of the world.
    pub since: u64,
    /// When it took effect.
    pub effect: Option<u64>,
    /// The world's counters at its start.
    before: Counted,
    /// The version that the user asked for before.
    asked: String,
    went_back: bool,
}

#[derive(Clone, Default)]
struct Counted {
    refused: usize,
    /// The weight of the version that the spec asks for; 101 once it is in force.
    weight: u64,
    mutated: u64,
    denied: u64,
    unplaced: u64,
    ended: u64,
    answered: [u64; 2],
    lists: u64,
    gone: usize,
}

impl Counted {
    fn now(state: &State, replicas: &Replicas) -> Self {
        Self {
            refused: state.admission.refused.len(),
            weight: trial_weight(&state.objects),
            mutated: state.admission.mutated,
            denied: state.nodes.denied,
            unplaced: state.nodes.unplaced,
            ended: replicas.ended(),
            answered: state.traffic.answered,
            lists: state.lists_of_models,
            gone: 0,
        }
    }
}

impl Happening {
    /// It begins.
    pub fn begin(event: Event, world: &Arc<World>, replicas: &mut Replicas, second: u64) -> Self {
        let mut this = Self {
            event,
            since: second,
            effect: None,
            before: world.with(|state| Counted::now(state, replicas)),
            asked: String::new(),
            went_back: false,
        };
        world.with(|state| {
            state.note("event", &format!("{event:?} begins"));
            this.happens(state);
        });
        this.proceed(world, replicas, second);
        this
    }

    #[allow(clippy::too_many_lines)]
    fn happens(&mut self, state: &mut State) {
        "others".clone_into(&mut state.objects.actor);
        let asked = IRIS.of(&state.objects);
        let asked = asked.map(|model| model["spec"]["model"]["version"].clone());
        if let Some(Value::String(version)) = asked {
            self.asked = version;
        }
        let deny = |manner, words| Denial {
            kinds: self.event.denies(),
            manner,
            words,
        };
        let own = serving(&state.objects);
        let mut denial = None;
        match self.event {
            Event::DeploymentsDenied | Event::SlicesDenied => {
                denial = Some(deny(Manner::Webhook, WEBHOOK));
            }
            Event::ServicesDenied | Event::EventsDenied => {
                denial = Some(deny(Manner::Policy, POLICY));
            }
            Event::HistoryDenied => denial = Some(deny(Manner::Rbac, RBAC)),
            Event::WebhookTimesOut => denial = Some(deny(Manner::Timeout, TIMEOUT)),
            Event::LabelsRequired => denial = Some(deny(Manner::Policy, LABEL)),
            Event::DeploymentQuota => state.admission.deployments = Some(0),
            Event::Mutated => state.admission.mutates = true,
            Event::Unschedulable => state.nodes.set_full(Some(SCHEDULER.to_owned())),
            Event::OnePodFits => {
                state.nodes.set_full(Some(SCHEDULER.to_owned()));
                state.nodes.one_fits = true;
                for name in [on_trial(&state.objects), own.clone()].iter().flatten() {
                    state.nodes.evict_one(name, &mut state.objects);
                }
            }
            Event::PodQuota => state.nodes.set_pod_limit(Some((0, POD_QUOTA.to_owned()))),
            Event::NamespaceRelabelled => {
                state.nodes.set_pod_limit(Some((0, SECURITY.to_owned())));
            }
            Event::NodeDrained => {
                state.nodes.set_full(Some(DRAINED.to_owned()));
                self.before.gone = state.nodes.drain(0, &mut state.objects);
            }
            Event::PodEvicted => {
                self.before.gone = own.as_deref().map_or(0, |name| {
                    usize::from(state.nodes.evict_one(name, &mut state.objects))
                });
            }
            Event::HpaUp | Event::HpaDown => {
                state.hpa = Some(Hpa::new(IRIS));
                if self.event == Event::HpaUp {
                    state.traffic.rate = 500;
                }
            }
            Event::DeploymentDeleted => self.take(state, Kind::Deployment, own.as_deref()),
            Event::ServiceDeleted => self.take(state, Kind::Service, Some(IRIS.name)),
            Event::VersionServiceDeleted => self.take(state, Kind::Service, own.as_deref()),
            Event::SliceDeleted => self.take(state, Kind::Slice, Some("iris-router")),
            Event::HistoryDeleted => self.take(state, Kind::History, own.as_deref()),
            Event::PrometheusDown => Self::blind(state),
            Event::CrdUpgraded => {
                // The storage migration writes the new default, and every watch of the kind ends.
                state.objects.edit(&IRIS.key(), |model| {
                    model["spec"]["rollout"]["newerDefault"] = json!("from a newer CRD");
                });
                state.objects.oldest = state.objects.version();
            }
            Event::SpecEditedAndBack => state.act(0, Deed::Apply("3")),
            Event::SpecRefused => {
                edit_spec(state, |spec| {
                    let resources = json!({"limits": {"hugepages-2Mi": "2Mi"}});
                    let server = json!({"name": "server", "resources": resources});
                    spec["serving"]["template"] = json!({"spec": {"containers": [server]}});
                });
                state.act(0, Deed::Apply("3"));
            }
            Event::StatusDeleted => {
                // Refusals are lost with it.
                state.tales[0].invariants.forget();
                state.objects.edit(&IRIS.key(), |model| {
                    model.as_object_mut().unwrap().remove("status");
                });
            }
            _ => {}
        }
        // Makes the operator write, so that the denial takes effect.
        match self.event {
            Event::DeploymentsDenied
            | Event::WebhookTimesOut
            | Event::LabelsRequired
            | Event::Mutated
            | Event::ScaledByHand => {
                // Another event may have done it already.
                self.before.gone = edit(state, Kind::Deployment, own.as_deref(), |live| {
                    live["spec"]["replicas"] = json!(1);
                });
            }
            Event::ServicesDenied | Event::ServiceEdited => {
                self.before.gone = edit(state, Kind::Service, Some(IRIS.name), |live| {
                    live["spec"]["ports"][0]["targetPort"] = json!(81);
                });
            }
            Event::SlicesDenied => {
                edit(state, Kind::Slice, Some("iris-router"), |live| {
                    let label = "endpointslice.kubernetes.io/managed-by";
                    live["metadata"]["labels"][label] = json!("another manager");
                });
            }
            Event::Unschedulable | Event::PodQuota | Event::NamespaceRelabelled => {
                let names = [on_trial(&state.objects), own];
                let mut names = names.iter().flatten();
                names.any(|name| state.nodes.evict_one(name, &mut state.objects));
            }
            Event::HistoryDenied | Event::DeploymentQuota | Event::EventsDenied => {
                state.act(0, Deed::Apply("3"));
            }
            _ => {}
        }
        state.admission.denials.extend(denial);
    }

    /// Deletes one of the model's objects.
    fn take(&mut self, state: &mut State, kind: Kind, name: Option<&str>) {
        let Some(name) = name else { return };
        let key = Key::new(kind, IRIS.namespace, name);
        self.before.gone = usize::from(state.objects.delete(&key).is_ok());
    }

    fn blind(state: &mut State) {
        let from_ms = state.objects.now_ms;
        state.faults.begin(Fault::Ill(Illness::Down), from_ms);
    }

    /// Each second: continues the event, and checks whether it took effect.
    pub fn proceed(
        &mut self,
        world: &Arc<World>,
        replicas: &mut Replicas,
        second: u64,
    ) -> Vec<Fault> {
        let age = second - self.since;
        let mut begins = Vec::new();
        match self.event {
            Event::RoutersReplaced
                if age.is_multiple_of(ROUTER_PAUSE) && age / ROUTER_PAUSE < ROUTER_COUNT as u64 =>
            {
                replicas.replace_router((age / ROUTER_PAUSE) as usize, second);
            }
            Event::OperatorReplaced if age == 1 => begins.push(Fault::Sigterm),
            Event::OperatorUpgraded if age == 1 => begins.push(Fault::Upgrade),
            Event::OperatorKilled if age == 1 => replicas.kill(),
            Event::NodeDrained if age == DRAIN_PAUSE => {
                world.with(|state| state.nodes.set_full(None));
            }
            Event::PrometheusSwitches => world.with(|state| {
                state.traffic.asked = ((age / SWITCH_PAUSE + 1) % 2) as usize;
            }),
            Event::SpecEditedAndBack => world.with(|state| self.goes_back(state, 0)),
            Event::SpecRefused => world.with(|state| self.goes_back(state, 30)),
            _ => {}
        }
        if self.effect.is_none() && world.with(|state| self.took_effect(state, replicas, age)) {
            self.effect = Some(second);
            world.with(|state| state.note("event", &format!("{:?} took effect", self.event)));
        }
        begins
    }

    /// Seconds after the operator has seen the edit until the spec is edited back.
    fn goes_back(&mut self, state: &mut State, seconds: u64) {
        let seen = IRIS.of(&state.objects).is_some_and(|model| {
            model["status"]["observedGeneration"] == model["metadata"]["generation"]
        });
        let age_ms = state.objects.now_ms - self.since * 1000;
        let is_late = age_ms >= 40_000;
        if self.went_back || age_ms < seconds * 1000 || !(seen || is_late) {
            return;
        }
        self.went_back = true;
        self.restore(state);
    }

    fn restore(&self, state: &mut State) {
        if self.event == Event::SpecRefused {
            edit_spec(state, |spec| {
                spec.as_object_mut().unwrap().remove("serving");
            });
        }
        for version in ["1", "2", "3"] {
            if self.asked == version {
                state.act(0, Deed::Apply(version));
            }
        }
    }

    fn took_effect(&self, state: &State, replicas: &Replicas, age: u64) -> bool {
        let now = Counted::now(state, replicas);
        let then = &self.before;
        match self.event {
            Event::RoutersReplaced => {
                let is_new = |name: &str| name.contains("-n");
                let mut pods = state.router_pods.iter();
                age > 0 && pods.all(|pod| is_new(&pod.name) && pod.is_ready)
            }
            Event::OperatorReplaced | Event::OperatorKilled | Event::OperatorUpgraded => {
                now.ended > then.ended && replicas.is_complete()
            }
            Event::Unschedulable | Event::OnePodFits => now.unplaced > then.unplaced,
            Event::PodQuota | Event::NamespaceRelabelled => now.denied > then.denied,
            Event::DeploymentsDenied
            | Event::ServicesDenied
            | Event::HistoryDenied
            | Event::SlicesDenied
            | Event::EventsDenied
            | Event::WebhookTimesOut
            | Event::LabelsRequired
            | Event::DeploymentQuota
            | Event::SpecRefused => {
                let mut refused = state.admission.refused[then.refused..].iter();
                let wanted = self.words().unwrap_or_default();
                refused.any(|(.., words)| words.contains(wanted))
            }
            Event::Mutated => now.mutated > then.mutated,
            Event::HpaUp => {
                let scaled = state.hpa.iter().flat_map(|hpa| &hpa.scaled);
                scaled.clone().any(|(before, after)| after > before)
            }
            Event::HpaDown => {
                let scaled = state.hpa.iter().flat_map(|hpa| &hpa.scaled);
                scaled.clone().any(|(before, after)| after < before)
            }
            Event::NodeDrained
            | Event::PodEvicted
            | Event::DeploymentDeleted
            | Event::ServiceDeleted
            | Event::VersionServiceDeleted
            | Event::SliceDeleted
            | Event::HistoryDeleted
            | Event::ScaledByHand
            | Event::ServiceEdited => then.gone > 0,
            Event::PrometheusSwitches => (0..2).all(|one| now.answered[one] > then.answered[one]),
            Event::PrometheusDown => state.faults.illness() == Some(Illness::Down) && age > 5,
            Event::CrdUpgraded => now.lists > then.lists,
            Event::SpecEditedAndBack => self.went_back,
            Event::StatusDeleted => IRIS
                .of(&state.objects)
                .is_some_and(|model| !model["status"].is_null()),
        }
    }

    /// Ends the event: denied writes are allowed again.
    pub fn end(&mut self, world: &Arc<World>) {
        world.with(|state| {
            state.note("event", &format!("{:?} ends", self.event));
            match self.event {
                Event::Unschedulable | Event::NodeDrained | Event::OnePodFits => {
                    state.nodes.set_full(None);
                    state.nodes.one_fits = false;
                }
                Event::PodQuota | Event::NamespaceRelabelled => state.nodes.set_pod_limit(None),
                Event::DeploymentQuota => state.admission.deployments = None,
                Event::PrometheusDown => state.faults.end(Fault::Ill(Illness::Down)),
                Event::PrometheusSwitches => state.traffic.asked = 0,
                Event::SpecEditedAndBack | Event::SpecRefused if !self.went_back => {
                    self.went_back = true;
                    self.restore(state);
                }
                _ => {}
            }
            if let Some(words) = self.words() {
                let denials = &mut state.admission.denials;
                denials.retain(|denial| denial.words != words);
            }
        });
    }

    /// What one Ready pod is enough for has not come, where it is alone in the way.
    pub fn falls_short(&self, place: Place, objects: &Objects) -> bool {
        if self.event != Event::OnePodFits {
            return false;
        }
        match place {
            Place::Pending | Place::Stable => {
                let ready = IRIS
                    .of(objects)
                    .map(|model| is_condition(&model["status"], "Ready"));
                ready != Some(true)
            }
            Place::Preparing | Place::Canary10 | Place::Canary50 | Place::Canary100 => {
                trial_weight(objects) <= self.before.weight
            }
            _ => false,
        }
    }

    /// What the status must say while it holds something up: part of the message of the denial.
    pub fn words(&self) -> Option<&'static str> {
        Some(match self.event {
            Event::DeploymentsDenied | Event::SlicesDenied => WEBHOOK,
            Event::ServicesDenied | Event::EventsDenied => POLICY,
            Event::HistoryDenied => RBAC,
            Event::WebhookTimesOut => TIMEOUT,
            Event::LabelsRequired => LABEL,
            Event::DeploymentQuota => QUOTA,
            Event::PodQuota => POD_QUOTA,
            Event::NamespaceRelabelled => SECURITY,
            Event::Unschedulable => SCHEDULER,
            Event::SpecRefused => HUGE_PAGES,
            _ => return None,
        })
    }
}

/// Returns the name of the stable version's objects, else of the first version's, else of any.
pub fn serving(objects: &Objects) -> Option<String> {
    let status = &IRIS.of(objects)?["status"];
    let stable = status["stable"]["revision"].as_str();
    let is_there = |name: &String| {
        let key = Key::new(Kind::Deployment, IRIS.namespace, name);
        objects.get(&key).is_some()
    };
    let first = || on_trial(objects).filter(is_there);
    let named = stable.map(|revision| IRIS.version(revision)).or_else(first);
    named.or_else(|| {
        let asked = &IRIS.of(objects)?["spec"]["model"]["version"];
        let is_asked =
            |object: &Value| object["metadata"]["annotations"]["serin.dev/version"] == *asked;
        let all: Vec<_> = IRIS.deployments(objects).collect();
        let found = all.iter().find(|(_, object)| is_asked(object));
        found.or(all.first()).map(|(key, _)| key.name.clone())
    })
}

/// The weight of the version that the spec asks for; 101 once it is in force.
fn trial_weight(objects: &Objects) -> u64 {
    let Some(model) = IRIS.of(objects) else {
        return 0;
    };
    let status = &model["status"];
    if status["stable"]["version"] == model["spec"]["model"]["version"] {
        return 101;
    }
    status["canary"]["weight"].as_u64().unwrap_or(0)
}

/// The name of the objects of the version on trial.
fn on_trial(objects: &Objects) -> Option<String> {
    let canary = &IRIS.of(objects)?["status"]["canary"];
    canary["revision"]
        .as_str()
        .map(|revision| IRIS.version(revision))
}

/// Edits one of the model's objects as a foreign manager. Returns how many there were.
fn edit(
    state: &mut State,
    kind: Kind,
    name: Option<&str>,
    change: impl FnOnce(&mut Value),
) -> usize {
    let key = name.map(|name| Key::new(kind, IRIS.namespace, name));
    let edited = key.and_then(|key| state.objects.edit(&key, change));
    usize::from(edited.is_some())
}

/// Changes the user's spec from the next write on.
fn edit_spec(state: &mut State, change: impl FnOnce(&mut Value)) {
    state.tales[0].story.rewrite(change);
}
