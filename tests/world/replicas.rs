//! The operator's replicas, which are started and replaced as by a Deployment.

use std::sync::{Arc, atomic::Ordering};

use crate::{faults::Fault, operator::Operator, rng::Rng, routers::Routers, world::World};

/// Longest time without a leader, in seconds: 15 until the lease of a dead leader ends, 2.5 until
/// the others notice, and 10 for an attempt whose answer is lost.
const LONGEST_VACANCY: u64 = 30;

/// The operators.
pub struct Replicas {
    world: Arc<World>,
    running: Vec<Operator>,
    routers: Routers,
    started: u64,
    /// Operators that ran at some time in the last second.
    present: usize,
    /// When the next one starts, if one is missing: second.
    start_at: u64,
    image: String,
    rng: Rng,
    /// Whether the operators elect their leader. If not, a single operator leads.
    elects: bool,
    /// Names of pods whose process ended, and is started again in the same pod.
    pods: Vec<String>,
    /// The operator that will die, and the second.
    doomed: Option<(String, u64)>,
    /// Seconds without a leader so far.
    vacant: u64,
}

impl Replicas {
    pub fn new(world: Arc<World>, seed: u64) -> Self {
        let elects = world.with(|state| state.faults.have_elections());
        Self {
            world,
            running: Vec::new(),
            routers: Routers::new(seed),
            started: 0,
            present: 0,
            start_at: 0,
            image: "registry.example.com/serve:1".to_owned(),
            rng: Rng::new(seed, "staff"),
            elects,
            pods: Vec::new(),
            doomed: None,
            vacant: 0,
        }
    }

    /// Processes that have ended so far.
    pub fn ended(&self) -> u64 {
        self.started - self.running.len() as u64
    }

    /// Whether an operator runs whose caches are complete.
    pub fn is_complete(&self) -> bool {
        let mut running = self.running.iter();
        running.any(|operator| !operator.is_over() && operator.routes().is_some())
    }

    /// All operators are killed.
    pub fn kill(&self) {
        for operator in &self.running {
            operator.kill();
        }
    }

    /// A new pod takes the place of a router.
    pub fn replace_router(&mut self, index: usize, second: u64) {
        self.routers.replace(index, second);
        self.world.with(|state| state.replace_router(index));
    }

    /// Operators that ran at some time in the last second.
    pub fn present(&self) -> usize {
        self.present
    }

    fn start(&mut self) {
        self.started += 1;
        let name = format!("op-{}", self.started);
        let pod = self.elects.then(|| {
            let same = self.pods.pop();
            same.unwrap_or_else(|| format!("pod-{}", self.started))
        });
        self.world.with(|state| state.note(&name, "starts"));
        self.running
            .push(Operator::start(&self.world, &name, pod, &self.image));
    }

    /// Once a second: replaces operators that ended, and starts faults of processes.
    pub fn look(&mut self, second: u64, begins: &[Fault]) {
        self.present = self.running.len();
        self.bury(second);
        for fault in begins {
            self.suffer(*fault, second);
        }
        if let Some((name, _)) = self.doomed.take_if(|(_, at)| second >= *at) {
            let mut running = self.running.iter_mut();
            if let Some(operator) = running.find(|operator| operator.name() == name) {
                operator.pod = None; // with all of its node
                operator.kill();
            }
        }
        let (vacant, single) = self.world.with(|state| {
            let faults = &state.faults;
            (
                faults.is_active(|fault| fault == Fault::NoLeader),
                !faults.is_active(|fault| fault == Fault::TwoLeaders),
            )
        });
        let wanted = if self.elects { 2 } else { 1 };
        if single && !self.elects && self.running.len() > 1 {
            // The older one notices that it no longer leads, and ends at once.
            self.running.remove(0);
        }
        if self.running.len() < wanted && !vacant && second >= self.start_at {
            self.start();
        }
        if self.elects {
            self.count_vacancy();
        }
        let routes = self.routers.ask(second, &self.running);
        self.world.with(|state| {
            state.routers = routes;
            for index in 0..state.router_pods.len() {
                if !state.router_pods[index].is_ready && self.routers.is_configured(index) {
                    state.router_pods[index].is_ready = true;
                    state.publish_routers();
                }
            }
        });
    }

    /// Removes operators that ended; others start a while later.
    fn bury(&mut self, second: u64) {
        let (ended, running): (Vec<_>, _) = std::mem::take(&mut self.running)
            .into_iter()
            .partition(Operator::is_over);
        self.running = running;
        for operator in ended {
            self.world.with(|state| {
                state.note(operator.name(), "has ended");
                if operator.has_panicked() {
                    state.finds("processes-live", operator.name());
                }
            });
            if self.elects || self.running.is_empty() {
                let away = self.world.with(|state| state.faults.away());
                self.start_at = second + self.rng.between(0, 12).max(away);
            }
            if self.rng.chance(500) {
                self.pods.extend(operator.pod.clone());
            }
        }
    }

    fn suffer(&mut self, fault: Fault, second: u64) {
        match fault {
            Fault::Upgrade => {
                "registry.example.com/serve:2".clone_into(&mut self.image);
                self.start();
                let old = self.running.len() - 1;
                for operator in &self.running[..old] {
                    operator.ask_to_stop();
                }
            }
            Fault::Sigterm => {
                if let Some(oldest) = self.running.first() {
                    oldest.ask_to_stop();
                }
            }
            Fault::Behind(_) | Fault::NoLeader => {
                for operator in &self.running {
                    operator.kill();
                }
            }
            Fault::TwoLeaders => self.start(),
            Fault::CutOff => {
                if let Some(leader) = self.leader() {
                    leader.process.cut_off.store(true, Ordering::Relaxed);
                }
            }
            Fault::StandbyCutOff => {
                // Without a leader there is no standby.
                let Some(leader) = self.leader().map(Operator::name) else {
                    return;
                };
                let others = self.running.iter().filter(|other| other.name() != leader);
                for operator in others {
                    operator.process.cut_off.store(true, Ordering::Relaxed);
                }
            }
            Fault::Dies(clock_off) => {
                let at = second + self.rng.between(6, 40); // a renewal later
                if let Some(leader) = self.leader() {
                    let process = &leader.process;
                    process.clock_off.store(clock_off, Ordering::Relaxed);
                    self.doomed = Some((process.name.clone(), at));
                }
            }
            _ => {}
        }
    }

    fn leader(&self) -> Option<&Operator> {
        let leaders = self.world.with(|state| state.leaders.clone());
        let mut running = self.running.iter();
        running.find(|operator| leaders.iter().any(|leader| leader == operator.name()))
    }

    fn count_vacancy(&mut self) {
        self.world.with(|state| {
            let is_excused = !state.leaders.is_empty() || state.faults.hinder_elections();
            self.vacant = if is_excused { 0 } else { self.vacant + 1 };
            if self.vacant == LONGEST_VACANCY {
                state.finds("some-leads", "there is no leader");
            }
        });
    }
}
