//! The world: everything outside the operator, behind one lock and with one clock.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use jiff::Timestamp;
use serde_json::Value;
use serin::router::envoy::RouterModel;
use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

use crate::{
    admission::Admission,
    endings,
    faults::Faults,
    hpa::Hpa,
    invariants::Invariants,
    kinds::{Key, Kind},
    nodes::Nodes,
    objects::{ApiError, Change, Objects},
    operator::Routing,
    request::{Postmark, Request, Verb},
    routers::{self, RouterPod},
    story::{Behaviour, Deed, Story},
    traffic::{Share, Traffic},
    wire::Process,
    written::Written,
};

/// When the world begins: 2026-01-01T00:00:00Z, in Unix milliseconds.
pub const EPOCH_MS: i64 = 1_767_225_600_000;

/// A shared world.
pub struct World {
    /// What moves traffic.
    pub routing: Routing,
    state: Mutex<State>,
    changed: Notify,
    begin: Instant,
}

/// Its state.
pub struct State {
    pub objects: Objects,
    pub nodes: Nodes,
    pub traffic: Traffic,
    /// The last configuration of each router.
    pub routers: Vec<RouterModel>,
    /// The pods that they run in.
    pub router_pods: Vec<RouterPod>,
    /// How often operators listed the models.
    pub lists_of_models: u64,
    /// Routers that were replaced so far.
    replaced: u64,
    /// What the API server refuses and changes.
    pub admission: Admission,
    /// The autoscaler of the first model, where there is one.
    pub hpa: Option<Hpa>,
    pub faults: Faults,
    /// The models, each with its story.
    pub tales: Vec<Tale>,
    /// What happened, for people to read.
    pub journal: Vec<String>,
    pub counts: Counts,
    /// Statuses and memories of gates that operators wrote.
    pub written: Vec<Written>,
    /// The operators that believe they lead; always empty without elections.
    pub leaders: Vec<String>,
    /// Lines of the journal are printed as they come (`SERIN_WORLD_ALOUD`): for a world that does
    /// not end.
    aloud: bool,
    /// Changes up to this version have been looked at.
    seen: u64,
    /// How far the world is ahead of the frozen operators' time, in milliseconds.
    ahead_ms: u64,
}

/// A model with its story and its invariants.
pub struct Tale {
    pub story: Story,
    pub invariants: Invariants,
    /// How often operators looked at the model: each reconcile begins with a read of it.
    pub looks: u64,
}

/// What operators asked of the API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reconciles: each begins with a read of the model.
    pub reconciles: u64,
    /// Writes sent, whatever their outcome.
    pub writes: u64,
    /// Writes that changed something.
    pub accepted: u64,
}

impl World {
    /// A world with the bundled router.
    pub fn new(seed: u64, stories: impl IntoIterator<Item = Story>, faults: Faults) -> Arc<Self> {
        Self::routed(Routing::ENVOY, seed, stories, faults)
    }

    pub fn routed(
        routing: Routing,
        seed: u64,
        stories: impl IntoIterator<Item = Story>,
        faults: Faults,
    ) -> Arc<Self> {
        let mut objects = Objects::default();
        objects.now_text = timestamp(0);
        let router_pods = RouterPod::first();
        routers::publish_endpoints(&mut objects, &router_pods);
        let tale = |story| Tale {
            story,
            invariants: Invariants::default(),
            looks: 0,
        };
        let state = State {
            objects,
            nodes: Nodes::new(seed),
            traffic: Traffic::new(seed),
            routers: Vec::new(),
            router_pods,
            lists_of_models: 0,
            replaced: 0,
            admission: Admission::default(),
            hpa: None,
            faults,
            tales: stories.into_iter().map(tale).collect(),
            journal: Vec::new(),
            counts: Counts::default(),
            written: Vec::new(),
            leaders: Vec::new(),
            aloud: std::env::var_os("SERIN_WORLD_ALOUD").is_some(),
            seen: 0,
            ahead_ms: 0,
        };
        Arc::new(Self {
            routing,
            state: Mutex::new(state),
            changed: Notify::new(),
            begin: Instant::now(),
        })
    }

    /// Changes the world, then passes the changes to [`State::settle`].
    pub fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap();
        let now_ms = self.begin.elapsed().as_millis() as u64 + state.ahead_ms;
        if state.objects.now_ms / 1000 != now_ms / 1000 {
            state.objects.now_text = timestamp(now_ms);
        }
        state.objects.now_ms = now_ms;
        state.faults.now_ms = now_ms;
        let before = state.objects.version();
        let result = act(&mut state);
        state.settle();
        let changed = state.objects.version() != before;
        drop(state);
        if changed {
            self.changed.notify_waiters();
        }
        result
    }

    /// Advances only the world, second by second, from `second`; then the operators' time follows
    /// at once.
    pub async fn outruns_the_operators(
        &self,
        second: u64,
        seconds: u64,
        mut each: impl FnMut(&mut State, u64),
    ) {
        let is_ahead = |ms: u64| self.state.lock().unwrap().ahead_ms = ms;
        for ahead in 1..=seconds {
            is_ahead(ahead * 1000);
            self.with(|state| each(state, second + ahead));
        }
        is_ahead(0);
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    /// Resolves with the next change of any object.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// What an operator's clock says.
    pub fn time_of(&self, process: &Process) -> Timestamp {
        let off_ms = self.with(|state| state.faults.clock_off_ms())
            + process.clock_off.load(Ordering::Relaxed) * 1000;
        let now_ms = self.begin.elapsed().as_millis() as i64;
        Timestamp::from_millisecond(EPOCH_MS + now_ms + off_ms).unwrap()
    }
}

impl State {
    /// Whether a router takes connections there.
    pub fn takes_connections(&self, address: SocketAddr) -> bool {
        let pods = self.router_pods.iter().zip(&self.routers);
        let mut is_there = pods.filter(|(pod, _)| pod.address.parse() == Ok(address.ip()));
        is_there.any(|(_, router)| {
            let mut routes = router.routes.values();
            routes.any(|route| route.port == address.port())
        })
    }

    /// Replaces a router by a new pod with another address. It gets no clients before it is ready.
    pub fn replace_router(&mut self, index: usize) {
        self.replaced += 1;
        let newer = RouterPod::newer(index, self.replaced);
        self.note(
            "cluster",
            &format!(
                "router {} at {} takes the place of another",
                newer.name, newer.address
            ),
        );
        self.router_pods[index] = newer;
        self.traffic.replace_router(index);
        self.publish_routers();
    }

    /// The endpoint controller publishes the routers' addresses.
    pub fn publish_routers(&mut self) {
        "cluster".clone_into(&mut self.objects.actor);
        routers::publish_endpoints(&mut self.objects, &self.router_pods);
    }

    /// Plays one second of everything but the operator.
    pub fn step(&mut self, second: u64) {
        let now_ms = second * 1000;
        "cluster".clone_into(&mut self.objects.actor);
        let tales = &self.tales;
        let behaviour = |key: &Key, deployment: &Value, version: &str| {
            let its = tales
                .iter()
                .find(|tale| tale.story.model.owns(key, deployment));
            its.map_or(Behaviour::HEALTHY, |tale| tale.story.behaviour(version))
        };
        self.nodes.step(&mut self.objects, now_ms, behaviour);
        self.traffic.scrapes_fail =
            self.faults.illness() == Some(crate::prometheus::Illness::Stale);
        for (index, router) in self.routers.iter().enumerate() {
            let tales = self.tales.iter();
            let shares = tales.flat_map(|tale| shares(&tale.story, router, &self.objects));
            self.traffic.step(index, &shares.collect::<Vec<_>>());
        }
        self.traffic.scrape(second, &self.router_pods);
        if let Some(hpa) = &mut self.hpa {
            let rate = self.traffic.rate;
            hpa.step(&mut self.objects, &self.routers, rate, now_ms);
        }
        for Tale {
            story, invariants, ..
        } in &mut self.tales
        {
            invariants.second(&self.objects, &self.routers, &self.faults, story);
        }
        self.settle();
    }

    /// Passes each new change to the invariants, the journal and the stories.
    pub fn settle(&mut self) {
        loop {
            while let Some(change) = self.objects.since(self.seen).first().cloned() {
                self.seen = change.version;
                for Tale {
                    story, invariants, ..
                } in &mut self.tales
                {
                    invariants.change(&change, &self.objects, &self.routers, &self.faults, story);
                }
                if let Some(line) = description(&change) {
                    self.note(&change.by, &line);
                }
            }
            let objects = &self.objects;
            let mut deeds = self.tales.iter_mut().enumerate();
            let next = deeds.find_map(|(index, tale)| Some((index, tale.story.next(objects)?)));
            let Some((index, deed)) = next else {
                return;
            };
            self.act(index, deed);
        }
    }

    /// The user of a model does something.
    pub fn act(&mut self, index: usize, deed: Deed) {
        let model = self.tales[index].story.model;
        self.note("user", &format!("{model}: {deed:?}"));
        "user".clone_into(&mut self.objects.actor);
        let Tale {
            story, invariants, ..
        } = &mut self.tales[index];
        story.act(deed, &mut self.objects);
        match deed {
            Deed::Delete | Deed::Orphan => invariants.forget(),
            Deed::Behave(..) => self.nodes.look_again(),
            _ => {}
        }
    }

    /// What a request is sent with.
    pub fn postmark(&self, process: &str, request: &Request) -> Postmark {
        let now_ms = self.objects.now_ms;
        let mut tales = self.tales.iter();
        let its = tales.find(|tale| tale.story.model.key() == request.key());
        Postmark {
            at_ms: now_ms,
            believed: its.is_some_and(|tale| tale.invariants.believes(process, now_ms)),
        }
    }

    /// An operator got an answer to a query.
    pub fn queried(&mut self, process: &str, query: &str, believable: bool) {
        let now_ms = self.objects.now_ms;
        for Tale {
            story, invariants, ..
        } in &mut self.tales
        {
            if story.model.is_asked_for(query) {
                invariants.queried(process, query, believable, now_ms);
            }
        }
    }

    /// Records a broken invariant of the whole world.
    pub fn finds(&mut self, invariant: &str, detail: &str) {
        self.tales[0].invariants.finds(invariant, detail);
    }

    /// Records a bug of the world itself.
    pub fn is_broken(&mut self, detail: String) {
        self.tales[0].invariants.findings.push(detail);
    }

    /// Whether the stories are complete and nothing is left to be done.
    pub fn is_done(&self) -> bool {
        let is_done = |tale: &Tale| endings::is_done(&self.objects, &tale.story);
        self.tales.iter().all(is_done)
    }

    /// A write of an operator has arrived.
    pub fn wrote<T>(&mut self, process: &str, request: &Request, done: &Result<T, ApiError>) {
        match done {
            Ok(_) => {
                self.counts.accepted += 1;
                self.written.extend(Written::of(request));
                for tale in &mut self.tales {
                    tale.invariants.sent = request.sent;
                }
                if request.kind == Kind::Event {
                    let body = &request.body;
                    let (reason, note) = (text(&body["reason"]), text(&body["note"]));
                    let about = text(&body["regarding"]["name"]);
                    self.note(process, &format!("Event {reason} of {about}: {note}"));
                } else if request.verb != Verb::ReplaceStatus {
                    self.note(process, &request.to_string());
                }
            }
            Err(refused) => {
                let line = format!("{request}: {} {}", refused.code, refused.message);
                self.note(process, &line);
            }
        }
    }

    /// An operator starts or stops leading.
    pub fn leads(&mut self, process: &str, leads: bool) {
        let led = self.leaders.iter().any(|leader| leader == process);
        if led == leads {
            return;
        }
        self.note(process, if leads { "leads" } else { "leads no more" });
        if !leads {
            self.leaders.retain(|leader| leader != process);
            return;
        }
        if !self.leaders.is_empty() && !self.faults.lease_is_lost() {
            let detail = format!("{process} beside {:?}", self.leaders);
            self.finds("one-leads", &detail);
        }
        self.leaders.push(process.to_owned());
    }

    /// An operator sends a write.
    pub fn acts(&mut self, process: &str, request: &Request) {
        let may = self.leaders.iter().any(|leader| leader == process);
        if self.faults.have_elections() && !may {
            self.finds("leaders-write", &format!("{process}: {request}"));
        }
    }

    /// An operator looked at a model.
    pub fn read(&mut self, request: &Request) {
        for tale in &mut self.tales {
            let is_look = request.key() == tale.story.model.key();
            tale.looks += u64::from(is_look);
            self.counts.reconciles += u64::from(is_look);
        }
    }

    /// Writes a line into the journal.
    pub fn note(&mut self, who: &str, what: &str) {
        let seconds = self.objects.now_ms as f64 / 1000.0;
        let line = format!("{seconds:>9.3}  {who:<8} {what}");
        if self.aloud {
            eprintln!("{line}");
        }
        self.journal.push(line);
    }
}

/// What a router sends to which version of a model.
fn shares(story: &Story, router: &RouterModel, objects: &Objects) -> Vec<Share> {
    let model = story.model;
    let share = |(revision, weight)| Share {
        cluster: model.cluster(revision),
        weight,
        behaviour: story
            .behaviour(model.version_of(revision, objects))
            .at(weight),
    };
    routers::shares(router, model).map(share).collect()
}

/// Describes a change for the journal, where it is relevant.
fn description(change: &Change) -> Option<String> {
    let before = change.before.as_deref().unwrap_or(&Value::Null);
    let after = &*change.after;
    let key = &change.key;
    if change.deleted {
        return (key.kind != Kind::Pod).then(|| format!("{key} is gone"));
    }
    match key.kind {
        Kind::Model if before["status"] != after["status"] => {
            let status = &after["status"];
            let canary = &status["canary"];
            let canary = if canary.is_null() {
                "no canary".to_owned()
            } else {
                format!(
                    "canary {} at {} %",
                    text(&canary["version"]),
                    canary["weight"]
                )
            };
            Some(format!(
                "{}/{}: status {}: stable {}, {canary}. {}",
                key.namespace,
                key.name,
                text(&status["phase"]),
                text(&status["stable"]["version"]),
                text(&status["message"])
            ))
        }
        Kind::Model => Some(format!(
            "{}/{}: spec: version {}, generation {}",
            key.namespace,
            key.name,
            text(&after["spec"]["model"]["version"]),
            after["metadata"]["generation"]
        )),
        Kind::Deployment => {
            let counts = |object: &Value| {
                let (spec, status) = (&object["spec"], &object["status"]);
                (spec["replicas"].clone(), status["readyReplicas"].clone())
            };
            let (was, is) = (counts(before), counts(after));
            (was != is).then(|| format!("{key}: {} replicas, {} ready", is.0, is.1))
        }
        _ => None,
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Formats a time of this world as the API server does.
fn timestamp(now_ms: u64) -> String {
    let seconds = EPOCH_MS / 1000 + (now_ms / 1000) as i64;
    Timestamp::from_second(seconds).unwrap().to_string()
}
