//! The checks of every cell, besides the invariants of every world: while the version in force has
//! a Ready pod, the model's address answers; the status names what blocks a rollout; no version is
//! scaled down during a trial; no request is counted twice.

use serde_json::Value;
use serin::router::envoy::RouteKey;

use super::{event::Event, happening::Happening};
use crate::{
    hpa::{Hpa, POD_CARRIES, is_ready},
    kinds::{Key, Kind},
    model_ref::IRIS,
    objects::{Change, Objects, label, owners},
    routers::shares,
    world::State,
};

/// Longest time without answers, in seconds: a killed operator is back after at most 12 s, and then
/// lists everything.
const SILENCE: u64 = 20;
/// Seconds within which the status names what blocks a rollout: a look comes every 5 s, and a write
/// may be retried after a pause.
const REPORTED_WITHIN: u64 = 15;

#[derive(Default)]
pub struct Oracle {
    pub findings: Vec<String>,
    /// Changes up to this version have been looked at.
    seen: u64,
    /// For how many seconds the address has not answered in full.
    silent: u64,
    /// The version in force, and the model's UID: it stays in force while the status is away.
    in_force: Option<(String, String)>,
    /// Events that the status has named.
    reported: Vec<Event>,
    /// Webhooks changed templates; a write without the webhooks changes them back.
    mutated: bool,
    /// The most seconds that the address was silent.
    pub longest: u64,
}

impl Oracle {
    fn finds(&mut self, what: &str, state: &State) {
        let name = what.split(':').next().unwrap_or_default().to_owned();
        // Each kind of finding once a cell.
        if !self.findings.iter().any(|known| known.starts_with(&name)) {
            self.findings
                .push(format!("{what} (at {} s)", state.objects.now_ms / 1000));
        }
    }

    /// Each second.
    pub fn second(&mut self, state: &State, happenings: &[Happening], second: u64) {
        self.remember(&state.objects);
        self.address(state, happenings);
        self.changes(state, happenings);
        for happening in happenings {
            self.words(state, happening, second);
        }
        if happenings.iter().any(|one| one.event == Event::HpaDown) {
            self.load(state);
        }
    }

    fn remember(&mut self, objects: &Objects) {
        let Some(model) = IRIS.of(objects) else {
            self.in_force = None;
            return;
        };
        let uid = text(&model["metadata"]["uid"]);
        if let Some((_, of)) = &self.in_force
            && of != uid
        {
            self.in_force = None;
        }
        if let Some(revision) = model["status"]["stable"]["revision"].as_str() {
            self.in_force = Some((revision.to_owned(), uid.to_owned()));
        }
    }

    fn address(&mut self, state: &State, happenings: &[Happening]) {
        // Without its Service or endpoints no request arrives, and only the end of the denial
        // helps.
        let is_denied = |kind: Kind| {
            happenings
                .iter()
                .any(|one| one.event.denies().contains(&kind))
        };
        let excused = happenings.iter().any(|one| {
            let taken = one.event.takes_from_the_way();
            one.event.denies_the_way() || taken.is_some_and(is_denied)
        });
        let answered = self.answered(state);
        if excused || answered.is_none_or(|part| part > 0.99) {
            self.silent = 0;
            return;
        }
        self.silent += 1;
        self.longest = self.longest.max(self.silent);
        if self.silent == SILENCE {
            let part = answered.unwrap_or_default() * 100.0;
            let what =
                format!("address-answers: {part:.0} % of requests are answered for {SILENCE} s");
            self.finds(&what, state);
        }
    }

    /// The share of requests to the model's address that reach a Ready pod; nothing where no
    /// version is in force, or has no Ready pod.
    fn answered(&self, state: &State) -> Option<f64> {
        let (revision, _) = self.in_force.as_ref()?;
        let objects = &state.objects;
        let pods: Vec<&Value> = objects
            .of(Kind::Pod)
            .filter(|(key, _)| key.namespace == IRIS.namespace)
            .map(|(_, pod)| &**pod)
            .filter(|pod| is_ready(pod))
            .collect();
        let of_version = |pod: &&Value| label(pod, "serin.dev/revision") == Some(revision);
        if !pods.iter().any(of_version) {
            return None;
        }
        let ready: Vec<&str> = pods
            .iter()
            .map(|pod| text(&pod["status"]["podIP"]))
            .collect();
        let service = Key::new(Kind::Service, IRIS.namespace, IRIS.name);
        if objects.get(&service).is_none() {
            return Some(0.0);
        }
        let mut ways = Vec::new();
        for (key, slice) in objects.of(Kind::Slice) {
            let of_service = label(slice, "kubernetes.io/service-name") == Some(IRIS.name);
            if key.namespace != IRIS.namespace || !of_service {
                continue;
            }
            let port = slice["ports"][0]["port"].as_u64();
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                let address = text(&endpoint["addresses"][0]);
                ways.push(port.map_or(0.0, |port| through(state, address, port, &ready)));
            }
        }
        let sum: f64 = ways.iter().sum();
        Some(sum / ways.len().max(1) as f64)
    }

    /// Looks at every change that it has not seen yet.
    fn changes(&mut self, state: &State, happenings: &[Happening]) {
        let new: Vec<Change> = state.objects.since(self.seen).to_vec();
        for change in new {
            self.seen = change.version;
            if !change.by.starts_with("op-") || !IRIS.owns(&change.key, &change.after) {
                continue;
            }
            self.adoption(&change, state);
            match change.key.kind {
                Kind::Deployment if !change.deleted => self.deployment(&change, state, happenings),
                Kind::Model if !change.deleted => self.counts(&change, state),
                _ => {}
            }
        }
    }

    /// Orphaned children are adopted only by a live model.
    fn adoption(&mut self, change: &Change, state: &State) {
        let is_free = |object: &Value| owners(object).next().is_none();
        let was_free = change.before.as_deref().is_some_and(is_free);
        if change.key.kind == Kind::Model || !was_free || is_free(&change.after) {
            return;
        }
        let uid = IRIS
            .of(&state.objects)
            .map(|model| text(&model["metadata"]["uid"]));
        let mut its = owners(&change.after);
        if !its.any(|owner| Some(owner) == uid) {
            let what = format!(
                "set-free: {} is adopted by a model that is gone",
                change.key
            );
            self.finds(&what, state);
        }
    }

    fn deployment(&mut self, change: &Change, state: &State, happenings: &[Happening]) {
        let Some(before) = &change.before else { return };
        let name = &change.key.name;
        self.mutated |= happenings.iter().any(|one| one.event == Event::Mutated);
        if !self.mutated && before["spec"]["template"] != change.after["spec"]["template"] {
            self.finds(&format!("pods-kept: the template of {name} changes"), state);
        }
        let Some(model) = IRIS.of(&state.objects) else {
            return;
        };
        let status = &model["status"];
        let is = |version: &Value| {
            version["revision"]
                .as_str()
                .is_some_and(|revision| *name == IRIS.version(revision))
        };
        let on_trial = !status["canary"].is_null() && !status["stable"].is_null();
        let (was, is_now) = (replicas(before), replicas(&change.after));
        // A write planned from a status that was just deleted may be under way.
        let is_lost = happenings
            .iter()
            .any(|one| one.event == Event::StatusDeleted);
        let names_none = status["canary"].is_null() && status["stable"].is_null();
        if names_none && !is_lost && is_now < was {
            let what = format!("unknown-takes-nothing: {name} from {was} to {is_now}");
            self.finds(&what, state);
        }
        if on_trial && is_now < was && (is(&status["stable"]) || is(&status["canary"])) {
            let what = format!("no-shrinking-in-a-trial: {name} from {was} to {is_now}");
            self.finds(&what, state);
        }
    }

    /// No more requests are counted than were sent.
    fn counts(&mut self, change: &Change, state: &State) {
        let status = &change.after["status"];
        let Some(record) = status["decisions"].as_array().and_then(|all| all.last()) else {
            return;
        };
        let revision = text(&status["canary"]["revision"]);
        if revision.is_empty() || record["version"] != status["canary"]["version"] {
            return;
        }
        let sent = state.traffic.sent_to(&IRIS.cluster(revision));
        for objective in record["evidence"].as_array().into_iter().flatten() {
            let counted = objective["rollout"]["canary"]["requests"]
                .as_u64()
                .unwrap_or(0);
            if counted > sent {
                let what = format!(
                    "counted-once: {} counts {counted} requests of version {}, which was \
                     sent {sent}",
                    text(&objective["objective"]),
                    text(&record["version"])
                );
                self.finds(&what, state);
            }
        }
    }

    /// Every version has the pods that its share of the load needs, and stable those for the way
    /// back.
    fn load(&mut self, state: &State) {
        let rate = state.traffic.rate;
        let objects = &state.objects;
        let Some(model) = IRIS.of(objects) else {
            return;
        };
        let status = &model["status"];
        let pods = |revision: &str| {
            let key = Key::new(Kind::Deployment, IRIS.namespace, &IRIS.version(revision));
            let pods = objects.get(&key).map(|live| replicas(live) as u64);
            pods.filter(|_| scaled_by_serin(objects, &key))
        };
        let mut wanted: Vec<(String, u64)> = state
            .routers
            .iter()
            .flat_map(|router| shares(router, IRIS))
            .filter(|(_, weight)| *weight > 0)
            .map(|(revision, weight)| (revision.to_owned(), rate * weight / 100))
            .collect();
        if let Some(stable) = status["stable"]["revision"].as_str() {
            wanted.push((stable.to_owned(), rate));
        }
        for (revision, load) in wanted {
            if let Some(pods) = pods(&revision)
                && pods < Hpa::needed(load)
            {
                let what = format!(
                    "carries-the-load: {revision} has {pods} pods, each for {POD_CARRIES} requests \
                     a second, and may get {load}"
                );
                self.finds(&what, state);
            }
        }
    }

    fn words(&mut self, state: &State, happening: &Happening, second: u64) {
        let Some(words) = happening.words() else {
            return;
        };
        let event = happening.event;
        let Some(model) = IRIS.of(&state.objects) else {
            return;
        };
        if says(&model["status"], words) && !self.reported.contains(&event) {
            self.reported.push(event);
        }
        let Some(since) = happening.effect else {
            return;
        };
        // Events are published with best effort.
        let excused = event == Event::EventsDenied
            || (event.is_about_capacity() && model["status"]["canary"].is_null());
        if second == since + REPORTED_WITHIN && !self.reported.contains(&event) && !excused {
            let status = &model["status"];
            let what = format!(
                "words-in-status: nothing says \"{words}\", but: {} {}",
                text(&status["message"]),
                status["conditions"][0]["message"]
            );
            self.finds(&what, state);
        }
    }
}

/// The share of the requests to a router that reach a Ready pod.
fn through(state: &State, address: &str, port: u64, ready: &[&str]) -> f64 {
    let found = state
        .router_pods
        .iter()
        .position(|pod| pod.address == address);
    let router = found.and_then(|index| state.routers.get(index));
    let key = RouteKey::new(IRIS.namespace, IRIS.name);
    let Some(route) = router.and_then(|router| router.routes.get(&key)) else {
        return 0.0;
    };
    if u64::from(route.port) != port {
        return 0.0;
    }
    let reaches = |backend: &&serin::router::envoy::Backend| {
        let mut endpoints = backend.endpoints.iter();
        endpoints.any(|endpoint| ready.contains(&&*endpoint.ip().to_string()))
    };
    let backends = route.backends.iter().filter(reaches);
    backends
        .map(|backend| f64::from(backend.weight) / 100.0)
        .sum()
}

/// Whether a status says something, in its message or a condition.
pub fn says(status: &Value, words: &str) -> bool {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let mut texts = conditions
        .map(|one| &one["message"])
        .chain([&status["message"]]);
    texts.any(|message| text(message).contains(words))
}

/// Whether an operator was the last to scale a Deployment.
fn scaled_by_serin(objects: &Objects, key: &Key) -> bool {
    let mut changes = objects.since(0).iter().rev();
    let scaled = changes.find(|change| {
        let before = change.before.as_deref();
        let is_scaled = before.is_none_or(|before| replicas(before) != replicas(&change.after));
        change.key == *key && !change.deleted && is_scaled
    });
    scaled.is_some_and(|change| change.by.starts_with("op-"))
}

fn replicas(object: &Value) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(1)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
