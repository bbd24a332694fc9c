//! One cell of the grid, from the world's first second to its last.

use std::{fmt, sync::Arc, time::Duration};

use serde_json::{Value, json};
use serin::observe::MOST_IN_A_SECOND;
use tokio::time::Instant;

use super::{
    event::Event,
    happening::{Happening, serving},
    oracle::Oracle,
    place::{Place, is_condition},
};
use crate::{
    faults::{Fault, Faults},
    kinds::{Key, Kind},
    model_ref::IRIS,
    objects::Objects,
    replicas::Replicas,
    rng::Rng,
    routers::{ROUTER_COUNT, shares},
    story::{Behaviour, Deed},
    world::{State, World},
};

/// Longest time to reach a state, and to complete a cell, in seconds: each trial may be tried again
/// once, after a minute.
const REACHED_WITHIN: u64 = 400;
const DONE_WITHIN: u64 = 1_200;
/// Seconds after all is done for delayed writes to arrive, and then as many without any write.
const REST: u64 = 60;
/// Seconds from an effect to the end of the trial.
const LEAVES_AFTER: u64 = 3;
/// The same where the effect is on a version that is being created.
const GIVES_UP_AFTER: u64 = 20;
/// Seconds from an effect to the replacement of all routers.
const PROBED_AFTER: u64 = 8;
/// Seconds between two of them.
const ROUTER_PAUSE: u64 = 8;
/// Seconds within which a version's traffic is back on stable: a command takes one look, a breach
/// three scrapes.
const LEFT_WITHIN: [u64; 2] = [12, 30];

/// How the trial ends while the event lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// The trial is not ended.
    GoesOn,
    /// The user asks for the version in force again.
    SpecBack,
    /// The version on trial begins to fail.
    Breach,
    /// A person aborts it.
    Abort,
}

/// A state, and the events in it.
#[derive(Clone, Debug)]
pub struct Cell {
    pub place: Place,
    pub events: Vec<Event>,
    pub leave: Leave,
    pub seed: u64,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.place)?;
        for event in &self.events {
            write!(f, "/{event:?}")?;
        }
        write!(f, "/{:?}", self.leave)
    }
}

/// The result of a cell.
pub struct Report {
    /// Broken invariants; also states that were not reached and events without effect.
    pub findings: Vec<String>,
    pub journal: Vec<String>,
    /// The longest time without all answers, in seconds.
    pub silent: u64,
    /// Its length, in seconds.
    pub seconds: u64,
}

/// Plays a cell on a runtime of its own, whose time is paused.
pub fn play(cell: &Cell) -> Report {
    fastrand::seed(cell.seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let replicas = if cell.events.contains(&Event::HpaDown) {
        4
    } else {
        2
    };
    // One of two pods.
    let min_ready = if cell.events.contains(&Event::OnePodFits) {
        "50%"
    } else {
        "100%"
    };
    let story = cell.place.story(replicas, min_ready);
    let world = runtime.block_on(async { World::new(cell.seed, [story], Faults::none(cell.seed)) });
    runtime.block_on(live(cell, &world))
}

/// The stage of a cell, with the second of its start.
enum Stage {
    Reaching,
    Lasting(u64),
    Ending(u64),
    /// Since when, with the writes and the looks of the models until the first half was over.
    Resting(u64, (u64, u64)),
}

struct Run<'a> {
    cell: &'a Cell,
    world: &'a Arc<World>,
    replicas: Replicas,
    rng: Rng,
    stage: Stage,
    happenings: Vec<Happening>,
    oracle: Oracle,
    /// When the trial was ended, and the version that was on trial.
    left: Option<(u64, String)>,
    /// Whether that was too late, or not possible.
    stays: bool,
    /// The second of the first replacement of routers that is not an event.
    probed: Option<u64>,
    /// The expected stable and refused versions at the end.
    end: (String, Option<String>),
}

async fn live(cell: &Cell, world: &Arc<World>) -> Report {
    world.with(|state| {
        state.note("", &cell.to_string());
        if cell.events.contains(&Event::PrometheusSwitches) {
            state.traffic.has_two_replicas();
        }
    });
    let (serves, refused) = cell.place.end();
    let mut run = Run {
        cell,
        world,
        replicas: Replicas::new(world.clone(), cell.seed),
        rng: Rng::new(cell.seed, "cell"),
        stage: Stage::Reaching,
        happenings: Vec::new(),
        oracle: Oracle::default(),
        left: None,
        stays: false,
        probed: None,
        end: (serves.to_owned(), refused.map(str::to_owned)),
    };
    let begin = Instant::now();
    let mut second = 0;
    loop {
        world.with(|state| state.step(second));
        let begins = run.second(second);
        run.replicas.look(second, &begins);
        if run.is_over(second) {
            break;
        }
        second = begin.elapsed().as_secs() + 1;
        tokio::time::sleep_until(begin + Duration::from_secs(second)).await;
    }
    let Run {
        oracle, replicas, ..
    } = run;
    drop(replicas);
    world.with(|state| Report {
        findings: [
            oracle.findings.clone(),
            state.tales[0].invariants.findings.clone(),
        ]
        .concat(),
        journal: std::mem::take(&mut state.journal),
        silent: oracle.longest,
        seconds: second,
    })
}

impl Run<'_> {
    fn finds(&mut self, what: String) {
        self.oracle.findings.push(what);
    }

    /// Plays one second. Returns the faults of operators that begin in it.
    fn second(&mut self, second: u64) -> Vec<Fault> {
        let mut begins = Vec::new();
        if matches!(self.stage, Stage::Reaching) {
            let place = self.cell.place;
            if !self.world.with(|state| place.is_reached(&state.objects)) {
                return begins;
            }
            self.world.with(|state| {
                state.note("event", &format!("{place:?} is reached"));
                let now_ms = state.objects.now_ms;
                state.faults.begin(Fault::Cell, now_ms);
                if self
                    .cell
                    .events
                    .iter()
                    .any(|event| event.asks_for_another())
                {
                    "3".clone_into(&mut self.end.0);
                }
            });
            self.stage = Stage::Lasting(second);
            self.happens(self.cell.events[0], second);
        }
        if let Stage::Lasting(since) = self.stage {
            let mut later = self.cell.events[1..].iter();
            let due = |rng: &mut Rng| second >= since + rng.clone().between(1, 20);
            if let Some(event) = later.find(|event| !self.is_under_way(**event))
                && due(&mut self.rng)
            {
                self.happens(*event, second);
            }
            for happening in &mut self.happenings {
                if second > happening.since {
                    begins.extend(happening.proceed(self.world, &mut self.replicas, second));
                }
            }
            self.leave(second);
            self.probe(second);
        }
        let (oracle, happenings) = (&mut self.oracle, &self.happenings);
        self.world
            .with(|state| oracle.second(state, happenings, second));
        self.has_left(second);
        self.follows_scale(second);
        begins
    }

    fn is_under_way(&self, event: Event) -> bool {
        self.happenings.iter().any(|one| one.event == event)
    }

    fn happens(&mut self, event: Event, second: u64) {
        if event == Event::RoutersReplaced {
            self.routers_go();
        }
        let happening = Happening::begin(event, self.world, &mut self.replicas, second);
        self.happenings.push(happening);
    }

    /// Routers are replaced from now on.
    fn routers_go(&self) {
        self.world.with(|state| {
            let now_ms = state.objects.now_ms;
            state.faults.begin(Fault::CellOfRouters, now_ms);
        });
    }

    /// The second at which the last event took effect, once all did.
    fn all_took_effect(&self) -> Option<u64> {
        let all_began = self.happenings.len() == self.cell.events.len();
        let effects = self.happenings.iter().map(|one| one.effect);
        let last = effects.collect::<Option<Vec<u64>>>()?.into_iter().max()?;
        all_began.then_some(last)
    }

    /// Ends the trial during the event.
    fn leave(&mut self, second: u64) {
        if self.left.is_some() || self.stays || self.cell.leave == Leave::GoesOn {
            return;
        }
        let makes = self
            .cell
            .events
            .iter()
            .any(|event| event.asks_for_another());
        let after = if makes { GIVES_UP_AFTER } else { LEAVES_AFTER };
        if self.all_took_effect().is_none_or(|at| second < at + after) {
            return;
        }
        let leave = self.cell.leave;
        let left = self.world.with(|state| leave_trial(state, leave));
        let Some((version, back_to)) = left else {
            self.stays = true;
            return;
        };
        self.end.0 = back_to;
        if leave != Leave::SpecBack {
            self.end.1 = Some(version.clone());
        }
        self.left = Some((second, version));
    }

    /// The version that was on trial has no traffic, and is on trial no more.
    fn has_left(&mut self, second: u64) {
        let Some((since, version)) = &self.left else {
            return;
        };
        let limit = LEFT_WITHIN[usize::from(self.cell.leave == Leave::Breach)];
        if second != since + limit {
            return;
        }
        let version = version.clone();
        let why = self.world.with(|state| {
            let model = IRIS.of(&state.objects)?;
            let canary = &model["status"]["canary"];
            let mut sent = state.routers.iter().flat_map(|router| shares(router, IRIS));
            let is_it = |revision: &str| IRIS.version_of(revision, &state.objects) == version;
            if canary["version"] == *version {
                return Some(format!("is still on trial at {} %", canary["weight"]));
            }
            let (_, weight) = sent.find(|(revision, weight)| *weight > 0 && is_it(revision))?;
            Some(format!("still gets {weight} % of some router"))
        });
        if let Some(why) = why {
            let leave = self.cell.leave;
            self.finds(format!(
                "back-in-time: {limit} s after {leave:?} version {version} {why}"
            ));
        }
    }

    /// Replaces all routers, one after the other, while the event lasts.
    fn probe(&mut self, second: u64) {
        let mut events = self.cell.events.iter();
        if events.any(|event| event.denies_the_way() || *event == Event::RoutersReplaced) {
            return;
        }
        if let Some(at) = self.all_took_effect()
            && self.probed.is_none()
            && second >= at + PROBED_AFTER
        {
            self.probed = Some(second);
            self.routers_go();
        }
        let Some(since) = self.probed else { return };
        let age = second - since;
        if age.is_multiple_of(ROUTER_PAUSE) && age / ROUTER_PAUSE < ROUTER_COUNT as u64 {
            let index = (age / ROUTER_PAUSE) as usize;
            self.replicas.replace_router(index, second);
        }
    }

    /// The version in force has the pods that the autoscaler asked for a while ago.
    fn follows_scale(&mut self, second: u64) {
        let scales = |one: &&Happening| one.event == Event::HpaUp;
        let mut happenings = self.happenings.iter();
        let took_effect = happenings.find(scales).and_then(|one| one.effect);
        if took_effect.is_none_or(|at| second != at + 12) {
            return;
        }
        let lags = self.world.with(|state| {
            let wanted = IRIS.of(&state.objects)?["spec"]["replicas"].as_u64()?;
            let key = Key::new(Kind::Deployment, IRIS.namespace, &serving(&state.objects)?);
            let has = state.objects.get(&key)?["spec"]["replicas"].as_u64()?;
            // Scaled once more within this time, it may be one behind.
            let asked = state.hpa.as_ref()?.scaled.first()?.1;
            (has < asked.min(wanted)).then(|| format!("{has} of {wanted}"))
        });
        let denies = self.cell.events.iter().any(|event| {
            matches!(
                event,
                Event::DeploymentsDenied | Event::WebhookTimesOut | Event::LabelsRequired
            )
        });
        if let Some(lags) = lags.filter(|_| !denies) {
            self.finds(format!(
                "follows-the-scale: the version in force has {lags}"
            ));
        }
    }

    fn is_over(&mut self, second: u64) -> bool {
        let looks = self
            .world
            .with(|state| std::mem::take(&mut state.tales[0].looks));
        if looks > (MOST_IN_A_SECOND * self.replicas.present().max(1)) as u64 {
            self.finds(format!("busy: {looks} reconciles within a second"));
            return true;
        }
        match self.stage {
            Stage::Reaching if second > REACHED_WITHIN => {
                self.finds(format!("reached: {:?} is not reached", self.cell.place));
                return true;
            }
            Stage::Reaching => {}
            Stage::Lasting(since) => {
                let lasts = self.cell.events.iter().map(|event| event.lasts()).max();
                let is_probed = self.probed.is_none_or(|at| second > at + 30);
                let end = since + lasts.unwrap_or(0);
                if (second >= end && is_probed) || second > end + 60 {
                    self.ends(second);
                }
            }
            Stage::Ending(since) => {
                if self.is_done() {
                    self.stage = Stage::Resting(second, (0, 0));
                } else if second > since + DONE_WITHIN {
                    let status = self.world.with(|state| {
                        let model = IRIS.of(&state.objects);
                        model
                            .map(|model| short(&model["status"]))
                            .unwrap_or_default()
                    });
                    let end = &self.end;
                    let what =
                        format!("done: {end:?} is not the end after {DONE_WITHIN} s: {status}");
                    self.finds(what);
                    return true;
                }
            }
            Stage::Resting(since, (writes, before)) => {
                let counts = self.world.with(|state| state.counts);
                let (sent, looks) = (counts.writes, counts.reconciles);
                if second == since + REST {
                    self.stage = Stage::Resting(since, (sent, looks));
                } else if second == since + 2 * REST {
                    if sent != writes {
                        self.finds(format!("rests: {} writes at rest", sent - writes));
                    }
                    if looks - before > REST {
                        self.finds(format!("rests: {} looks at rest", looks - before));
                    }
                    if !self.is_done() {
                        self.finds("rests: what was done is undone".to_owned());
                    }
                    return true;
                }
            }
        }
        false
    }

    /// Ends all events, and what holds the model in its state.
    fn ends(&mut self, second: u64) {
        for index in 0..self.cell.events.len() {
            let event = self.cell.events[index];
            let took_effect = |one: &Happening| one.event == event && one.effect.is_some();
            if !self.happenings.iter().any(took_effect) {
                self.finds(format!("took-effect: {event:?} did not"));
            }
        }
        self.serves_with_one_pod();
        self.moves_with_enough_pods();
        for happening in &mut self.happenings {
            happening.end(self.world);
        }
        self.happenings.clear();
        let way_out = self.cell.place.way_out();
        self.world.with(|state| {
            if let Some(deed) = way_out {
                state.act(0, deed);
            }
            state.faults.end(Fault::Cell);
            state.faults.end(Fault::CellOfRouters);
        });
        self.stage = Stage::Ending(second);
    }

    /// A first version that has one Ready pod serves, though others cannot be made or placed.
    fn serves_with_one_pod(&mut self) {
        let lacks = self
            .cell
            .events
            .iter()
            .all(|event| event.is_about_capacity());
        if self.cell.place != Place::Pending || !lacks {
            return;
        }
        let serves = self.world.with(|state| {
            let model = IRIS.of(&state.objects)?;
            model["status"]["stable"]["version"]
                .as_str()
                .map(str::to_owned)
        });
        if serves.is_none() {
            self.finds("one-pod-serves: the first version has one, and no traffic".to_owned());
        }
    }

    /// A version moves on with as many Ready pods as `minReady` asks for.
    fn moves_with_enough_pods(&mut self) {
        let [happening] = &self.happenings[..] else {
            return; // another event may hold it up
        };
        let place = self.cell.place;
        let falls_short = self
            .world
            .with(|state| happening.falls_short(place, &state.objects));
        if falls_short && self.cell.leave == Leave::GoesOn {
            self.finds("enough-pods: nothing moves on, or is called Ready".to_owned());
        }
    }

    fn is_done(&self) -> bool {
        let (serves, refused) = &self.end;
        self.world.with(|state| {
            let objects = &state.objects;
            if self.cell.place == Place::Deleting {
                let mut all = objects.all();
                return !all.any(|(key, object)| key.kind != Kind::Event && IRIS.owns(key, object));
            }
            // Refusals are lost with the status.
            let may_be_lost = self.cell.events.contains(&Event::StatusDeleted);
            is_at_rest(objects, serves, refused.as_deref(), may_be_lost).unwrap_or(false)
        })
    }
}

/// Whether a version serves all traffic with all its pods, and nothing is under way.
fn is_at_rest(
    objects: &Objects,
    serves: &str,
    refused: Option<&str>,
    may_be_lost: bool,
) -> Option<bool> {
    let model = IRIS.of(objects)?;
    let status = &model["status"];
    let all: Vec<&Value> = status["refused"].as_array().into_iter().flatten().collect();
    let as_meant = match refused {
        // Unless the spec asks for the version, which is then tried, and refused, anew.
        Some(version) if may_be_lost && model["spec"]["model"]["version"] != *version => true,
        Some(version) => all.iter().any(|one| one["version"] == version),
        None => all.is_empty(),
    };
    let deployment = objects.get(&Key::new(
        Kind::Deployment,
        IRIS.namespace,
        &serving(objects)?,
    ))?;
    let replicas = &model["spec"]["replicas"];
    let asks_for_it = model["spec"]["model"]["version"] == *serves;
    Some(
        as_meant
            && status["observedGeneration"] == model["metadata"]["generation"]
            && status["phase"] == "Stable"
            && status["stable"]["version"] == *serves
            && status["canary"].is_null()
            && status["retiring"].is_null()
            && deployment["spec"]["replicas"] == *replicas
            && deployment["status"]["readyReplicas"] == *replicas
            && is_condition(status, "Ready") == asks_for_it,
    )
}

/// Ends the trial that is under way. Returns the version that was on trial, and the one that serves
/// on.
fn leave_trial(state: &mut State, leave: Leave) -> Option<(String, String)> {
    let status = IRIS.of(&state.objects)?["status"].clone();
    let stable = status["stable"]["version"].as_str()?.to_owned();
    let asked = IRIS.of(&state.objects)?["spec"]["model"]["version"].clone();
    let canary = &status["canary"];
    let version = canary["version"].as_str().or(asked.as_str())?.to_owned();
    if version == stable {
        return None;
    }
    let known = |version: &str| ["1", "2", "3"].into_iter().find(|known| *known == version);
    match leave {
        Leave::GoesOn => return None,
        Leave::SpecBack => state.act(0, Deed::Apply(known(&stable)?)),
        Leave::Breach => {
            if canary["weight"].as_u64().unwrap_or(0) == 0 {
                return None;
            }
            let bad = Behaviour::failing(250, 0);
            state.act(0, Deed::Behave(known(&version)?, bad));
        }
        Leave::Abort => {
            let revision = canary["revision"].as_str()?.to_owned();
            state.note("user", &format!("aborts version {version}"));
            "user".clone_into(&mut state.objects.actor);
            state.objects.edit(&IRIS.key(), |model| {
                model["metadata"]["annotations"]["serin.dev/abort"] = json!(revision);
            });
        }
    }
    Some((version, stable))
}

/// The part of a status that is compared.
fn short(status: &Value) -> String {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let conditions: Vec<String> = conditions
        .map(|one| format!("{}={}/{}", one["type"], one["status"], one["reason"]))
        .collect();
    let refused = status["refused"].as_array().into_iter().flatten();
    let refused: Vec<&Value> = refused.map(|one| &one["version"]).collect();
    format!(
        "phase {}, stable {}, canary {} at {}, refused {refused:?}, {conditions:?}: {}",
        status["phase"],
        status["stable"]["version"],
        status["canary"]["version"],
        status["canary"]["weight"],
        status["message"]
    )
}
