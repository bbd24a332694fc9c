//! The faults and their windows, drawn from the seed before the world begins, with their numbers in
//! faults.md.

use std::{sync::atomic::Ordering, time::Duration};

use crate::{
    kinds::Kind,
    model_ref::{IRIS, ModelRef},
    prometheus::Illness,
    request::{Request, Verb},
    rng::Rng,
    watches::WatchFate,
    wire::{Fate, Process},
};

/// How long the machine of the operator stands still, in seconds.
pub const FROZEN_SECONDS: u64 = 30 * 60;

/// One fault, active while its window is open. Chances are per mille.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 1: killed at a write, before or after it.
    Kill(u64),
    /// 1: killed at the write of this number, before or after it, and away for at least this many
    /// seconds.
    KillAt { write: u64, after: bool, away: u64 },
    /// 2: writes are done, their answers lost.
    LostAnswers(u64),
    /// 3: the reconcile of one model panics.
    Panic(u64),
    /// 4: SIGTERM, and started again.
    Sigterm,
    /// 5: killed while listing.
    KillListing,
    /// 6: killed, and restarted on an API server that lags by this many writes.
    Behind(u64),
    /// 8: events of one object are merged.
    Merge,
    /// 9: writes are answered 409.
    Conflicts(u64),
    /// 10: requests are answered with this code.
    Errors { code: u16, chance: u64 },
    /// 10: requests are never answered.
    Timeouts(u64),
    /// 10: connections break.
    Broken(u64),
    /// 11: watches end with 410.
    Gone(u64),
    /// 12: watches go silent.
    HalfOpen(u64),
    /// 8: watches end.
    Closed(u64),
    /// 13: one kind's watch lags.
    Lag { kind: Kind, ms: u64 },
    /// 6: all watches lag.
    LagAll(u64),
    /// 14: nothing of a kind may be written.
    Forbidden(Kind),
    /// 15: an admission webhook denies, or times out.
    Denied { kind: Kind, times_out: bool },
    /// 16: writes arrive late, even when their sender is long gone.
    Late { chance: u64, seconds: u64 },
    /// 16: the same for applies alone, always.
    LateApplies(u64),
    /// 16, 17: a second operator acts beside the first.
    TwoLeaders,
    /// 17: there is no leader.
    NoLeader,
    /// 17: the leader dies after its clock was off by this many seconds.
    Dies(i64),
    /// 17: the leader and the API server cannot reach each other.
    CutOff,
    /// 17: those that do not lead, and the API server, cannot reach each other.
    StandbyCutOff,
    /// 17: the lease is deleted.
    LeaseDeleted,
    /// 18: a newer operator takes over.
    Upgrade,
    /// 36 to 38, 40, 42, 43: Prometheus is ill.
    Ill(Illness),
    /// 39: a router restarts, and so do its counters.
    RouterRestart,
    /// A ready pod is not ready for this many seconds.
    Trip(u64),
    /// 44: the operator's clock is off by this many seconds.
    Clock(i64),
    /// 45: the operator is frozen for 30 minutes.
    Freeze,
    /// An event of the grid, which may block a rollout.
    Cell,
    /// The same, and routers are replaced.
    CellOfRouters,
}

impl Fault {
    /// Its number in faults.md; 0 for none of them.
    pub fn number(self) -> u8 {
        match self {
            Self::Kill(_) | Self::KillAt { .. } => 1,
            Self::LostAnswers(_) => 2,
            Self::Panic(_) => 3,
            Self::Sigterm => 4,
            Self::KillListing => 5,
            Self::Behind(_) | Self::LagAll(_) => 6,
            Self::Merge | Self::Closed(_) => 8,
            Self::Conflicts(_) => 9,
            Self::Errors { .. } | Self::Timeouts(_) | Self::Broken(_) => 10,
            Self::Gone(_) => 11,
            Self::HalfOpen(_) => 12,
            Self::Lag { .. } => 13,
            Self::Forbidden(_) => 14,
            Self::Denied { .. } => 15,
            Self::Late { .. } | Self::LateApplies(_) | Self::TwoLeaders => 16,
            Self::NoLeader
            | Self::Dies(_)
            | Self::CutOff
            | Self::StandbyCutOff
            | Self::LeaseDeleted => 17,
            Self::Upgrade => 18,
            Self::Ill(illness) => match illness {
                Illness::Down | Illness::Slow(_) | Illness::Hanging | Illness::Endless => 36,
                Illness::NotANumber(_)
                | Illness::Empty
                | Illness::WrongType(_)
                | Illness::Stale
                | Illness::Html => 37,
                Illness::Twice => 38,
                Illness::Warns => 40,
                Illness::Status(_) => 42,
                Illness::OneUnknown => 43,
            },
            Self::RouterRestart => 39,
            Self::Trip(_) | Self::Cell | Self::CellOfRouters => 0,
            Self::Clock(_) => 44,
            Self::Freeze => 45,
        }
    }

    /// Whether it may affect a model.
    fn concerns(self, model: ModelRef) -> bool {
        !matches!(self, Self::Panic(_)) || model == IRIS
    }

    /// Whether it is about leadership: in such a world replicas elect their leader.
    pub fn is_about_leaders(self) -> bool {
        matches!(
            self,
            Self::Dies(_) | Self::CutOff | Self::StandbyCutOff | Self::LeaseDeleted
        )
    }

    /// Whether an election of a leader may take long because of it: too few operators live, or the
    /// API server does not answer.
    fn hinders_elections(self) -> bool {
        let is_elsewhere = matches!(
            self,
            Self::Panic(_)
                | Self::Merge
                | Self::Ill(_)
                | Self::RouterRestart
                | Self::Trip(_)
                | Self::Clock(_)
        );
        !is_elsewhere && !self.is_about_leaders()
    }

    /// Whether the API server answers every operator with stale data, or not at all.
    fn hides_what_is_new(self) -> bool {
        matches!(
            self,
            Self::Behind(_)
                | Self::LagAll(_)
                | Self::Lag { .. }
                | Self::Errors { .. }
                | Self::Timeouts(_)
                | Self::Broken(_)
                | Self::CellOfRouters
        )
    }

    /// Whether the operator's caches may be stale because of it.
    fn blurs(self) -> bool {
        matches!(
            self,
            Self::Behind(_)
                | Self::LagAll(_)
                | Self::Lag { .. }
                | Self::HalfOpen(_)
                | Self::Closed(_)
                | Self::Gone(_)
                | Self::Errors { .. }
                | Self::Timeouts(_)
                | Self::Broken(_)
                | Self::LostAnswers(_)
                | Self::Late { .. }
                | Self::LateApplies(_)
                | Self::Freeze
        )
    }
}

/// A fault and its window, in milliseconds.
#[derive(Clone, Debug)]
pub struct Window {
    pub fault: Fault,
    pub from_ms: u64,
    pub to_ms: u64,
}

/// All faults of one world.
pub struct Faults {
    pub windows: Vec<Window>,
    rng: Rng,
    /// The time, kept up to date by the owner.
    pub now_ms: u64,
    /// Writes that operators have tried.
    pub writes: u64,
    /// When the last write that is on its way for long will have arrived.
    last_arrival_ms: Option<u64>,
}

impl Faults {
    /// The same world without faults.
    pub fn none(seed: u64) -> Self {
        Self::of(seed, Vec::new())
    }

    pub fn of(seed: u64, mut windows: Vec<Window>) -> Self {
        for window in &mut windows {
            if window.fault == Fault::Freeze {
                window.to_ms = window.from_ms + FROZEN_SECONDS * 1000;
            }
        }
        Self {
            windows,
            rng: Rng::new(seed, "faults"),
            now_ms: 0,
            writes: 0,
            last_arrival_ms: None,
        }
    }

    /// One to four faults, which begin within the first four minutes.
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed, "plan");
        let count = rng.between(1, 4);
        let windows = (0..count).map(|_| {
            let from_ms = rng.between(0, 240) * 1000;
            Window {
                fault: draw_one(&mut rng),
                from_ms,
                to_ms: from_ms + rng.between(10, 300) * 1000,
            }
        });
        let mut windows: Vec<Window> = windows.collect();
        if rng.chance(125) {
            let from_ms = rng.between(5, 180) * 1000;
            windows.retain(|window| window.fault != Fault::TwoLeaders); // what an election prevents
            windows.push(Window {
                fault: match rng.below(6) {
                    0 | 1 => Fault::CutOff,
                    2 | 3 => Fault::Dies(*rng.pick(&[-3600, 0, 3600])),
                    4 => Fault::LeaseDeleted,
                    _ => Fault::StandbyCutOff,
                },
                from_ms,
                to_ms: from_ms + rng.between(10, 90) * 1000,
            });
        }
        Self::of(seed, windows)
    }

    /// Whether the operators elect their leader.
    pub fn have_elections(&self) -> bool {
        let mut windows = self.windows.iter();
        windows.any(|window| window.fault.is_about_leaders())
    }

    /// Whether elections are hindered now, or were within the last minute.
    pub fn hinder_elections(&self) -> bool {
        self.lately(60_000, Fault::hinders_elections)
    }

    /// Whether the lease was deleted a moment ago: until its next renewal its holder does not know.
    pub fn lease_is_lost(&self) -> bool {
        self.windows
            .iter()
            .filter(|window| window.fault == Fault::LeaseDeleted)
            .any(|window| window.from_ms <= self.now_ms && self.now_ms < window.from_ms + 15_000)
    }

    /// Whether no fault will begin any more.
    pub fn are_over(&self) -> bool {
        let ends = self.windows.iter().map(|window| window.to_ms);
        ends.chain(self.last_arrival_ms)
            .all(|end| end < self.now_ms)
    }

    /// Whether a fault affects a model now, or did within the last `ms` milliseconds.
    pub fn within(&self, ms: u64, model: ModelRef) -> bool {
        self.lately(ms, |fault| fault.concerns(model))
    }

    /// Whether no operator can configure routers now, or none could within the last minute.
    pub fn hide_what_is_new(&self) -> bool {
        self.lately(60_000, Fault::hides_what_is_new)
    }

    /// Whether such a fault is active, or was within the last `ms` milliseconds.
    fn lately(&self, ms: u64, which: impl Fn(Fault) -> bool) -> bool {
        let mut windows = self.windows.iter().filter(|window| which(window.fault));
        windows.any(|window| window.from_ms <= self.now_ms && self.now_ms < window.to_ms + ms)
    }

    /// How old the operator's picture of the pods may be, in milliseconds.
    pub fn staleness_ms(&self) -> u64 {
        let blurred = self
            .windows
            .iter()
            .any(|window| window.fault.blurs() && window.from_ms <= self.now_ms);
        // A silent watch is noticed after 65 s, and its backoff may be 30 s.
        if blurred { 600_000 } else { 15_000 }
    }

    fn active(&self) -> impl Iterator<Item = Fault> + '_ {
        self.windows
            .iter()
            .filter(|window| window.from_ms <= self.now_ms && self.now_ms < window.to_ms)
            .map(|window| window.fault)
    }

    /// Faults whose window opened within the last second: what happens once.
    pub fn beginning(&self) -> Vec<Fault> {
        self.windows
            .iter()
            .filter(|window| window.from_ms <= self.now_ms && self.now_ms < window.from_ms + 1000)
            .map(|window| window.fault)
            .collect()
    }

    /// For how many seconds an operator that was killed is away at least.
    pub fn away(&self) -> u64 {
        let away = self.active().map(|fault| match fault {
            Fault::KillAt { away, .. } => away,
            _ => 0,
        });
        away.max().unwrap_or(0)
    }

    /// Whether a fault of this kind is there.
    pub fn is_active(&self, which: impl Fn(Fault) -> bool) -> bool {
        self.active().any(which)
    }

    /// How long a request or an answer is on its way.
    pub fn latency(&mut self) -> Duration {
        Duration::from_millis(self.rng.between(1, 4))
    }

    /// What becomes of a request.
    pub fn fate(&mut self, process: &Process, request: &Request) -> Fate {
        let writes = request.verb.writes();
        self.writes += u64::from(request.acts());
        let about_events = request.kind == Kind::Event;
        let active: Vec<Fault> = self.active().collect();
        for fault in active {
            let rng = &mut self.rng;
            match fault {
                Fault::Kill(chance) if writes && rng.chance(chance) => {
                    return if rng.chance(500) {
                        Fate::KilledBefore
                    } else {
                        Fate::KilledAfter
                    };
                }
                Fault::CutOff | Fault::StandbyCutOff if process.is_cut_off() => return Fate::Lost,
                Fault::KillAt { write, after, .. } if request.acts() && write == self.writes => {
                    return if after {
                        Fate::KilledAfter
                    } else {
                        Fate::KilledBefore
                    };
                }
                Fault::KillListing
                    if request.verb == Verb::List
                        && process.lists.load(Ordering::Relaxed) == 4
                        && rng.chance(700) =>
                {
                    return Fate::KilledBefore;
                }
                Fault::LostAnswers(chance) if writes && rng.chance(chance) => {
                    return if rng.chance(500) {
                        Fate::AnswerLost
                    } else {
                        Fate::AnswerBroken
                    };
                }
                Fault::Conflicts(chance) if writes && !about_events && rng.chance(chance) => {
                    return refused(409, "Conflict", "the object has been modified");
                }
                Fault::Errors { code, chance } if rng.chance(chance) => {
                    return answer_with(code, rng);
                }
                Fault::Timeouts(chance) if rng.chance(chance) => return Fate::Lost,
                Fault::Broken(chance) if rng.chance(chance) => return Fate::Unreachable,
                Fault::Forbidden(kind) if writes && kind == request.kind => {
                    return refused(403, "Forbidden", "is forbidden: User cannot write here");
                }
                Fault::Denied { kind, times_out } if writes && kind == request.kind => {
                    return if times_out {
                        refused(
                            500,
                            "InternalError",
                            "failed calling webhook: context deadline exceeded",
                        )
                    } else {
                        refused(
                            403,
                            "Forbidden",
                            "admission webhook denied the request: not today",
                        )
                    };
                }
                Fault::LateApplies(seconds) if request.verb == Verb::Apply => {
                    return self.late(seconds);
                }
                Fault::Late { chance, seconds }
                    if writes && !about_events && rng.chance(chance) =>
                {
                    return self.late(seconds);
                }
                _ => {}
            }
        }
        Fate::Delivered
    }

    fn late(&mut self, seconds: u64) -> Fate {
        let arrival_ms = self.now_ms + seconds * 1000 + 10;
        self.last_arrival_ms = self.last_arrival_ms.max(Some(arrival_ms));
        Fate::Late(seconds)
    }

    /// How many writes the API server lags.
    pub fn behind(&self, _: &Process) -> u64 {
        self.active()
            .filter_map(|fault| match fault {
                Fault::Behind(writes) => Some(writes),
                _ => None,
            })
            .max()
            .unwrap_or(0)
    }

    /// The outcome of a watch, asked at each look for changes.
    pub fn watch_fate(&mut self, process: &Process, _: Kind) -> WatchFate {
        let active: Vec<Fault> = self.active().collect();
        for fault in active {
            match fault {
                Fault::CutOff | Fault::StandbyCutOff if process.is_cut_off() => {
                    return WatchFate::HalfOpen;
                }
                Fault::Gone(chance) if self.rng.chance(chance) => return WatchFate::Gone,
                Fault::HalfOpen(chance) if self.rng.chance(chance) => return WatchFate::HalfOpen,
                Fault::Closed(chance) if self.rng.chance(chance) => return WatchFate::Closed,
                _ => {}
            }
        }
        WatchFate::Open
    }

    /// The delay of a watch's events, in milliseconds.
    pub fn lag_ms(&self, _: &Process, kind: Kind) -> u64 {
        self.active()
            .filter_map(|fault| match fault {
                Fault::Lag { kind: lagging, ms } if lagging == kind => Some(ms),
                Fault::LagAll(ms) => Some(ms),
                _ => None,
            })
            .max()
            .unwrap_or(1)
    }

    pub fn merges(&self) -> bool {
        self.is_active(|fault| fault == Fault::Merge)
    }

    pub fn illness(&self) -> Option<Illness> {
        self.active().find_map(|fault| match fault {
            Fault::Ill(illness) => Some(illness),
            _ => None,
        })
    }

    pub fn panics(&mut self) -> bool {
        let chances: Vec<u64> = self
            .active()
            .filter_map(|fault| match fault {
                Fault::Panic(chance) => Some(chance),
                _ => None,
            })
            .collect();
        chances.into_iter().any(|chance| self.rng.chance(chance))
    }

    /// Whether the clock was ahead once. A step that began then waits until its recorded start: a
    /// start in the future looks like a clock that is behind.
    pub fn clock_was_ahead(&self) -> bool {
        let ahead =
            |fault| matches!(fault, Fault::Clock(seconds) | Fault::Dies(seconds) if seconds > 0);
        self.windows
            .iter()
            .any(|window| ahead(window.fault) && window.from_ms <= self.now_ms)
    }

    /// By how much the operator's clock is off, in milliseconds.
    pub fn clock_off_ms(&self) -> i64 {
        self.active()
            .map(|fault| match fault {
                Fault::Clock(seconds) => seconds * 1000,
                _ => 0,
            })
            .sum()
    }
}

fn refused(code: u16, reason: &'static str, message: &'static str) -> Fate {
    Fate::Refused {
        code,
        reason,
        message,
        retry_after: None,
    }
}

fn answer_with(code: u16, rng: &mut Rng) -> Fate {
    match code {
        429 => Fate::Refused {
            code,
            reason: "TooManyRequests",
            message: "please try again later",
            retry_after: Some(rng.between(1, 3)),
        },
        503 => refused(503, "ServiceUnavailable", "apiserver not ready"),
        504 => refused(504, "Timeout", "etcdserver: request timed out"),
        code => refused(code, "InternalError", "etcdserver: leader changed"),
    }
}

fn draw_one(rng: &mut Rng) -> Fault {
    let child =
        |rng: &mut Rng| *rng.pick(&[Kind::Deployment, Kind::Service, Kind::History, Kind::Slice]);
    match rng.below(29) {
        0 => Fault::Kill(rng.between(50, 300)),
        1 => Fault::LostAnswers(rng.between(50, 500)),
        2 => Fault::Panic(rng.between(100, 1000)),
        3 => Fault::Sigterm,
        4 => Fault::KillListing,
        5 => Fault::Behind(rng.between(1, 40)),
        6 => Fault::LagAll(rng.between(1, 60) * 1000),
        7 => Fault::Merge,
        8 => Fault::Conflicts(rng.between(50, 600)),
        9 => Fault::Errors {
            code: *rng.pick(&[429, 500, 503, 504]),
            chance: rng.between(10, 500),
        },
        10 => Fault::Timeouts(rng.between(10, 300)),
        11 => Fault::Broken(rng.between(10, 500)),
        12 => Fault::Gone(rng.between(20, 300)),
        13 => Fault::HalfOpen(rng.between(20, 300)),
        14 => Fault::Closed(rng.between(20, 300)),
        15 => Fault::Lag {
            kind: *rng.pick(&Kind::ALL),
            ms: rng.between(1, 120) * 1000,
        },
        16 => Fault::Forbidden(*rng.pick(&Kind::ALL)),
        17 => Fault::Denied {
            kind: child(rng),
            times_out: rng.chance(500),
        },
        18 => Fault::Late {
            chance: rng.between(50, 400),
            seconds: rng.between(2, 120),
        },
        19 => Fault::TwoLeaders,
        20 => Fault::LateApplies(rng.between(11, 120)),
        21 => Fault::NoLeader,
        22 => Fault::Upgrade,
        23 => Fault::Ill(*rng.pick(&Illness::ALL)),
        24 => Fault::Ill(*rng.pick(&Illness::MORE)),
        25 => Fault::RouterRestart,
        26 => Fault::Trip(rng.between(5, 40)),
        27 => Fault::Clock(*rng.pick(&[-3600, -60, 60, 3600])),
        _ => Fault::Freeze,
    }
}
