//! The invariants of the design, checked after every accepted write, and at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use serde_json::{Value, json};
use serin::router::envoy::RouterModel;

use crate::{
    faults::{Fault, Faults},
    kinds::Kind,
    model_ref::ModelRef,
    nodes,
    objects::{Change, Objects},
    request::Postmark,
    routers::{route_port, shares},
    story::{Behaviour, Story},
    traffic::SCRAPE_SECONDS,
    world::EPOCH_MS,
};

/// The invariants, by name.
#[rustfmt::skip]
pub const INVARIANTS: [(&str, &str); 21] = [
    ("declared-weights", "the canary's weight is 0 or that of a declared step, so that both \
        weights are from 0 to 100 and sum to 100"),
    ("capacity-first", "no version gets weight, or more of it, without Ready capacity for all of \
        the traffic, but the first one, which needs a pod"),
    ("stable-kept", "versions with traffic, and the old one until its time is over, are never \
        shrunk or deleted by Serin"),
    ("pods-outlast-weight", "no version loses all its pods to Serin while a router still sends it \
        requests"),
    ("ready-answers", "a model is called Ready only once every router takes its requests, or has \
        had 10 s to do so"),
    ("promoted-from-100", "a version becomes stable only from the last step, and the one before it \
        is kept as the way back"),
    ("back-if-proven", "a version becomes stable without steps only if it was stable before, and \
        was not rolled back since"),
    ("back-in-time", "such a version has all traffic 5 s after its pods are Ready, while nothing \
        is wrong"),
    ("refused-stays-refused", "a rolled-back version gets no weight under the same token"),
    ("converges-then-rests", "once faults stop, all is done within a bounded number of reconciles, \
        and then nothing is written"),
    ("breach-in-time", "a version that fails its objectives by far has no weight half a minute \
        later, while nothing else is wrong"),
    ("same-end", "the end is that of the same story without faults"),
    ("others-untouched", "fields that other managers own stay as they are"),
    ("unknown-never-promotes", "weight is raised only on metrics that could be believed"),
    ("bad-never-promoted", "a version that fails its objectives by far is never promoted"),
    ("steps-last", "no step is left before its time, by the world's clock"),
    ("advances", "a good version advances while nothing is wrong with its model, whatever happens \
        of others"),
    ("processes-live", "no operator ends by a panic"),
    ("one-leads", "no operator begins to lead while another still does, where the lease was not \
        taken from it by force"),
    ("leaders-write", "only an operator that leads writes"),
    ("some-leads", "there is a leader within half a minute, while only leaders fail"),
];

/// A breach may last this many seconds: the hard guard needs one whole scrape of the new weight,
/// the statistics three.
const BREACH_SECONDS: u64 = 30;
/// A version goes back in fewer seconds than these once its pods are Ready.
const BACK_SECONDS: u64 = 6;
/// Longest time of a step of 30 s, or of the start of pods within 11 s, in seconds.
const STEP_SECONDS: u64 = 90;
/// Milliseconds after which a router counts as reachable without an answer, less the rounding of a
/// timestamp.
const REACHABLE_AFTER_MS: i64 = 9_000;
/// Milliseconds from a decision's clock read to the request that persists it: metrics may take 5 s
/// twice, the API server longer.
const DECISION_MS: u64 = 13_000;

/// The invariants of one model.
#[derive(Default)]
pub struct Invariants {
    /// Broken invariants.
    pub findings: Vec<String>,
    /// Number of checked writes.
    pub checked: u64,
    /// The knowledge of the present change's writer.
    pub sent: Postmark,
    /// By process and kind of query: whether the last answer could be believed, and when it came.
    readings: BTreeMap<(String, &'static str), (bool, u64)>,
    /// When a version last had all its capacity, by the name of its objects.
    capable: BTreeMap<String, u64>,
    /// When a version last had a pod that serves.
    serving: BTreeMap<String, u64>,
    /// Revisions that were rolled back, with the token of that time.
    refused: BTreeMap<String, Value>,
    /// Revisions that have been stable.
    proven: BTreeSet<String>,
    /// For how many seconds a version that goes back has had all its pods, and not all traffic.
    waiting_seconds: u64,
    /// When the weight of today was decided on.
    weighed_ms: u64,
    breach_seconds: u64,
    /// The place of the version on trial, and the seconds without progress or excuse.
    place: (String, u64),
    /// Whether a router has sent other shares at that place than it should.
    strayed: bool,
    now_ms: u64,
}

impl Invariants {
    /// Records a broken invariant.
    pub fn finds(&mut self, invariant: &str, detail: &str) {
        let (_, sentence) = INVARIANTS
            .iter()
            .find(|(name, _)| *name == invariant)
            .unwrap();
        let seconds = self.now_ms as f64 / 1000.0;
        self.findings
            .push(format!("{invariant} ({sentence}) at {seconds} s: {detail}"));
    }

    /// Forgets a deleted model: the next one of its name is another.
    pub fn forget(&mut self) {
        self.refused.clear();
        self.proven.clear();
    }

    /// A process got an answer to a query.
    pub fn queried(&mut self, process: &str, query: &str, believable: bool, now_ms: u64) {
        let kind = if query.starts_with("count by") {
            "edges"
        } else if query.contains("_bucket") {
            "latencies"
        } else {
            "errors"
        };
        self.readings
            .insert((process.to_owned(), kind), (believable, now_ms));
    }

    /// Whether a process may believe what it read last.
    pub fn believes(&self, process: &str, now_ms: u64) -> bool {
        let mut all = self
            .readings
            .iter()
            .filter(|((of, _), _)| of == process)
            .map(|(_, (believable, ms))| *believable && now_ms - ms < 15_000)
            .peekable();
        all.peek().is_some() && all.all(|believed| believed)
    }

    /// A second has passed.
    pub fn second(
        &mut self,
        objects: &Objects,
        routers: &[RouterModel],
        faults: &Faults,
        story: &Story,
    ) {
        self.now_ms = objects.now_ms;
        self.remember_capacity(objects, story.model);
        let nothing = Arc::new(Value::Null);
        let model = story.model.of(objects).unwrap_or(&nothing);
        let is_deleted = !model["metadata"]["deletionTimestamp"].is_null();
        self.check_progress(model, routers, faults, story);
        self.check_way_back(model, faults, story);
        // Nothing is compared with a stable version that turns bad.
        let stable = text(&model["status"]["stable"]["revision"]);
        let is_bad = |(revision, weight): &(&str, u64)| {
            let behaviour = story.behaviour(story.model.version_of(revision, objects));
            *weight > 0 && *revision != stable && behaviour.at(*weight).is_bad()
        };
        let mut sent = routers
            .iter()
            .flat_map(|router| shares(router, story.model));
        let breach = sent.find(is_bad);
        // After a fault the operator may still wait to try again: 15 s of its own, 30 s of its
        // watches.
        let excused = is_deleted || faults.within(60_000, story.model);
        let Some((revision, weight)) = breach.filter(|_| !excused) else {
            self.breach_seconds = 0;
            return;
        };
        self.breach_seconds += 1;
        if self.breach_seconds == BREACH_SECONDS {
            let detail = format!("a router still sends {weight} % to {revision}");
            self.finds("breach-in-time", &detail);
        }
    }

    /// A version that goes back gets all traffic as soon as its pods are Ready.
    fn check_way_back(&mut self, model: &Value, faults: &Faults, story: &Story) {
        let canary = &model["status"]["canary"];
        let name = story.model.version(text(&canary["revision"]));
        let is_ready = self.capable.get(&name) == Some(&self.now_ms);
        let is_held = !model["metadata"]["deletionTimestamp"].is_null()
            || faults.within(60_000, story.model)
            || faults.clock_was_ahead();
        if canary["rollback"] != true || !is_ready || is_held {
            self.waiting_seconds = 0;
            return;
        }
        self.waiting_seconds += 1;
        if self.waiting_seconds == BACK_SECONDS {
            self.finds("back-in-time", &name);
        }
    }

    /// A good version must advance while nothing is wrong.
    fn check_progress(
        &mut self,
        model: &Value,
        routers: &[RouterModel],
        faults: &Faults,
        story: &Story,
    ) {
        let (status, canary) = (&model["status"], &model["status"]["canary"]);
        let at = format!("{} at {}", text(&canary["version"]), canary["weight"]);
        let behaviour = story.behaviour(text(&canary["version"]));
        let is_held = canary.is_null()
            || behaviour != Behaviour::HEALTHY
            || status["observedGeneration"] != model["metadata"]["generation"]
            || model["spec"]["rollout"]["paused"] == true
            || !model["metadata"]["deletionTimestamp"].is_null()
            || faults.within(60_000, story.model)
            || faults.clock_was_ahead();
        // Counts of a step in which routers had other weights are not believed until they are few
        // among the others.
        let wanted = (text(&canary["revision"]), weight(status));
        let has_wanted = |router| shares(router, story.model).any(|share| share == wanted);
        let strays = faults.hide_what_is_new() && !routers.iter().all(has_wanted);
        self.strayed = strays || (self.strayed && self.place.0 == at);
        if is_held || self.place.0 != at {
            self.place = (at, 0);
            return;
        }
        self.place.1 += 1;
        if self.place.1 == STEP_SECONDS && !self.strayed {
            self.finds("advances", &format!("version {at} %"));
        }
    }

    /// Checks one change.
    pub fn change(
        &mut self,
        change: &Change,
        objects: &Objects,
        routers: &[RouterModel],
        faults: &Faults,
        story: &Story,
    ) {
        self.now_ms = objects.now_ms;
        if !story.model.owns(&change.key, &change.after) {
            return;
        }
        self.checked += 1;
        self.remember_capacity(objects, story.model);
        if !change.by.starts_with("op-") {
            return;
        }
        match change.key.kind {
            Kind::Model if !change.deleted => {
                self.status(change, objects, faults, story);
                if !faults.hide_what_is_new() {
                    self.answers(change, routers, story.model);
                }
            }
            Kind::Deployment => {
                if !faults.hide_what_is_new() {
                    self.outlasts(change, routers, story.model);
                }
                self.deployment(change, objects, story.model);
            }
            _ => {}
        }
        self.others(change);
    }

    fn remember_capacity(&mut self, objects: &Objects, model: ModelRef) {
        let Some(live) = model.of(objects) else {
            return;
        };
        let wanted = needed(live);
        for (key, _) in model.deployments(objects) {
            let (ready, endpoints) = nodes::capacity(objects, &key.namespace, &key.name);
            if ready.min(endpoints) >= wanted {
                self.capable.insert(key.name.clone(), objects.now_ms);
            }
            if ready.min(endpoints) > 0 {
                self.serving.insert(key.name.clone(), objects.now_ms);
            }
        }
    }

    fn status(&mut self, change: &Change, objects: &Objects, faults: &Faults, story: &Story) {
        let nothing = json!({});
        let old = change.before.as_deref().map_or(&nothing, |b| &b["status"]);
        let model = &*change.after;
        let new = &model["status"];
        let steps = model["spec"]["rollout"]["steps"].as_array();
        let steps: Vec<&Value> = steps.into_iter().flatten().collect();
        let (was, is) = (weight(old), weight(new));
        let canary = text(&new["canary"]["version"]);
        if is > 0 && !steps.iter().any(|step| step["weight"] == is) {
            self.finds("declared-weights", &format!("{is} is no step's weight"));
        }

        let revision = text(&new["canary"]["revision"]).to_owned();
        let same_trial = old["canary"]["revision"] == new["canary"]["revision"];
        let raised = is > if same_trial { was } else { 0 };
        let promoted = !new["stable"].is_null()
            && text(&old["stable"]["revision"]) != text(&new["stable"]["revision"]);
        let first = old["stable"].is_null();
        if raised || promoted {
            let grown = if promoted {
                text(&new["stable"]["revision"])
            } else {
                &revision
            };
            self.has_capacity(story.model, grown, objects, faults, first);
        }
        let back = promoted && old["canary"]["rollback"] == true;
        let onward = (raised && was > 0) || (promoted && !first && !back);
        if onward && !self.sent.believed {
            self.finds("unknown-never-promotes", &format!("from {was} to {is} %"));
        }
        if onward {
            let minimum = steps
                .iter()
                .find(|step| step["weight"] == was)
                .and_then(|step| {
                    text(&step["minDuration"])
                        .trim_end_matches('s')
                        .parse()
                        .ok()
                })
                .unwrap_or(0_u64);
            let lasted = self.sent.at_ms.saturating_sub(self.weighed_ms);
            if lasted + DECISION_MS < minimum * 1000 {
                let detail = format!("{was} % lasted {lasted} ms of {minimum} s");
                self.finds("steps-last", &detail);
            }
        }
        if raised || (is != was) {
            self.weighed_ms = self.sent.at_ms;
        }
        if promoted && !first {
            let version = text(&new["stable"]["version"]);
            let revision = text(&new["stable"]["revision"]);
            let is_proven = self.proven.contains(revision) && !self.refused.contains_key(revision);
            if back && !is_proven {
                self.finds("back-if-proven", &format!("version {version}"));
            }
            let from = if back { 0 } else { 100 };
            if was != from || old["canary"]["revision"] != new["stable"]["revision"] {
                self.finds(
                    "promoted-from-100",
                    &format!("version {version} came from {was} %"),
                );
            }
            let kept = new["retiring"].as_array().is_some_and(|list| {
                list.iter()
                    .any(|retiring| retiring["revision"] == old["stable"]["revision"])
            });
            if !kept {
                self.finds("promoted-from-100", "the version before it is not kept");
            }
            if story.behaviour(version).is_bad() {
                self.finds("bad-never-promoted", &format!("version {version}"));
            }
        }

        if promoted {
            let revision = text(&new["stable"]["revision"]);
            self.refused.remove(revision);
            self.proven.insert(revision.to_owned());
        }
        let token = &model["spec"]["rollout"]["retryToken"];
        for refused in new["refused"].as_array().into_iter().flatten() {
            let token = refused["retryToken"].clone();
            self.refused
                .insert(text(&refused["revision"]).to_owned(), token);
        }
        if is > 0 && self.refused.get(&revision) == Some(token) {
            self.finds(
                "refused-stays-refused",
                &format!("version {canary} has {is} %"),
            );
        }
    }

    /// The first version serves with one pod; later ones need capacity for all of the traffic, or
    /// for the share of `minReady`.
    fn has_capacity(
        &mut self,
        model: ModelRef,
        revision: &str,
        objects: &Objects,
        faults: &Faults,
        first: bool,
    ) {
        let name = model.version(revision);
        let capable = if first { &self.serving } else { &self.capable };
        let seen = capable.get(&name).copied();
        let recently = seen.is_some_and(|ms| ms + faults.staleness_ms() >= objects.now_ms);
        if !recently {
            let (ready, endpoints) = nodes::capacity(objects, model.namespace, &name);
            let detail = format!(
                "{name} has {ready} ready pods and {endpoints} endpoints, and had all of them at \
                 {seen:?} ms"
            );
            self.finds("capacity-first", &detail);
        }
    }

    /// A write of Serin's on the status, as the routers have it.
    fn answers(&mut self, change: &Change, routers: &[RouterModel], model: ModelRef) {
        let nothing = json!({});
        let old = change.before.as_deref().unwrap_or(&nothing);
        if change.after["status"]["phase"] == "Asleep" {
            return; // ready, and not available
        }
        if holds_since(old, "Ready").is_some() || holds_since(&change.after, "Ready").is_none() {
            return;
        }
        let available = holds_since(&change.after, "Available").unwrap_or_default();
        let waited = self.now_ms as i64 - available;
        // Ignores a time that was written by a clock that was ahead.
        let is_believed = !(0..REACHABLE_AFTER_MS).contains(&waited);
        let port = change.after["status"]["listenerPort"].as_u64();
        let takes_them = |router: &RouterModel| route_port(router, model) == port;
        if !is_believed && !routers.iter().all(takes_them) {
            self.finds("ready-answers", &format!("{waited} ms after its pods"));
        }
    }

    /// A write of Serin's on a version's pods, as the routers have it.
    fn outlasts(&mut self, change: &Change, routers: &[RouterModel], model: ModelRef) {
        let Some(before) = &change.before else { return };
        let all_go = change.deleted || replicas(&change.after) == 0 && replicas(before) > 0;
        let sends = |(revision, weight): (&str, u64)| {
            weight > 0 && model.version(revision) == change.key.name
        };
        let mut sent = routers.iter().flat_map(|router| shares(router, model));
        if all_go && sent.any(sends) {
            self.finds("pods-outlast-weight", &change.key.to_string());
        }
    }

    /// A write of Serin's on a version's pods.
    fn deployment(&mut self, change: &Change, objects: &Objects, model: ModelRef) {
        let Some(live) = model.of(objects) else {
            return;
        };
        let Some(before) = &change.before else { return };
        let status = &live["status"];
        let name = &change.key.name;
        let is_of = |version: &Value| *name == model.version(text(&version["revision"]));
        let is_asleep = status["phase"] == "Asleep";
        let serves = is_of(&status["stable"]) || (weight(status) > 0 && is_of(&status["canary"]));
        let retiring = status["retiring"].as_array();
        let is_kept = retiring.is_some_and(|list| list.iter().any(is_of));
        if (!serves || is_asleep) && !is_kept {
            return;
        }
        // Independent of the spec: during a rollout, and until the previous version is gone.
        let is_under_way = !status["stable"].is_null() && !status["canary"].is_null();
        let wanted = if is_under_way || retiring.is_some_and(|list| !list.is_empty()) {
            i64::MAX
        } else {
            replicas(live)
        };
        if change.deleted {
            self.finds("stable-kept", &format!("{name} is deleted"));
        } else if replicas(&change.after) < replicas(before).min(wanted) {
            let detail = format!(
                "{name} is shrunk from {} to {}",
                replicas(before),
                replicas(&change.after)
            );
            self.finds("stable-kept", &detail);
        }
    }

    /// Foreign labels and annotations must survive every write of Serin.
    fn others(&mut self, change: &Change) {
        let Some(before) = &change.before else { return };
        if change.deleted {
            return;
        }
        for field in ["labels", "annotations"] {
            let foreign = &before["metadata"][field]["example.com/foreign"];
            if !foreign.is_null()
                && change.after["metadata"][field]["example.com/foreign"] != *foreign
            {
                self.finds("others-untouched", &format!("{} of {}", field, change.key));
            }
        }
    }
}

/// Returns since when a condition of a model is True, by its writer's clock: milliseconds of the
/// world.
fn holds_since(model: &Value, wanted: &str) -> Option<i64> {
    let mut conditions = model["status"]["conditions"].as_array()?.iter();
    let found = conditions.find(|c| c["type"] == wanted && c["status"] == "True")?;
    let at: Timestamp = text(&found["lastTransitionTime"]).parse().ok()?;
    Some(at.as_millisecond() - EPOCH_MS)
}

/// Pods of a version that must be Ready for a forward move.
fn needed(model: &Value) -> i64 {
    let part = text(&model["spec"]["rollout"]["minReady"]);
    let part: i64 = part.trim_end_matches('%').parse().unwrap_or(100);
    ((replicas(model) * part + 99) / 100).max(1)
}

fn replicas(object: &Value) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(1)
}

fn weight(status: &Value) -> u64 {
    status["canary"]["weight"].as_u64().unwrap_or(0)
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Whether the evidence is still fresh although scrapes fail.
pub fn is_fresh(faults: &Faults) -> bool {
    faults.windows.iter().all(|window| {
        let age_ms = faults.now_ms.saturating_sub(window.from_ms);
        window.fault != Fault::Ill(crate::prometheus::Illness::Stale)
            || faults.now_ms < window.from_ms
            || faults.now_ms >= window.to_ms
            || age_ms < (4 * SCRAPE_SECONDS + 2) * 1000
    })
}
