//! What the simulator asks of a gate: a move, each time it may look at the metrics.

use super::argo::{Argo, Condition};
use super::flagger::Flagger;
use super::kayenta::Kayenta;
use super::prometheus::Prometheus;
use super::serin::{Patience, Serin};

/// The steps of every rollout; each lasts at least five minutes.
pub const STEPS: [u8; 4] = [10, 25, 50, 100];

/// What a gate does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Nothing.
    Stay,
    /// Gives the canary this weight.
    Weight(u8),
    /// Ends the rollout: the canary is the stable version now.
    Promote,
    /// Ends the rollout: all traffic is back on the stable version.
    RollBack,
}

/// The judge of one rollout. The rollout begins with the first step's weight.
pub trait Gate {
    /// Called each 15 s, `now` seconds after the rollout began.
    fn turn(&mut self, now: u32, prometheus: &Prometheus) -> Move;
}

/// Seconds between two scrapes, and between two turns of a gate.
pub const SCRAPE: u32 = 15;

/// The gates that are compared, in the tables' order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// Flagger.
    Flagger,
    /// Argo Rollouts with plain conditions.
    Argo,
    /// Argo Rollouts where NaN and empty answers pass.
    ArgoMissingPasses,
    /// Kayenta.
    Kayenta,
    /// Serin, which proves each step.
    Serin,
    /// Serin with `onInsufficientData: {after: 30m, then: Advance}`.
    SerinPatient,
}

impl Contender {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Flagger,
        Self::Argo,
        Self::ArgoMissingPasses,
        Self::Kayenta,
        Self::Serin,
        Self::SerinPatient,
    ];

    /// As in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flagger => "Flagger",
            Self::Argo => "Argo Rollouts",
            Self::ArgoMissingPasses => "Argo, NaN passes",
            Self::Kayenta => "Kayenta",
            Self::Serin => "Serin",
            Self::SerinPatient => "Serin, 30 min",
        }
    }

    /// Whether it is Serin, whichever way it is set.
    pub fn is_serin(self) -> bool {
        matches!(self, Self::Serin | Self::SerinPatient)
    }

    /// A judge for one rollout.
    pub fn gate(self) -> Box<dyn Gate> {
        match self {
            Self::Flagger => Box::new(Flagger::default()),
            Self::Argo => Box::new(Argo::new(Condition::Plain)),
            Self::ArgoMissingPasses => Box::new(Argo::new(Condition::MissingPasses)),
            Self::Kayenta => Box::new(Kayenta::default()),
            Self::Serin => Box::new(Serin::new(Patience::Pause)),
            Self::SerinPatient => Box::new(Serin::new(Patience::Advance)),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::prometheus::{Counters, Sample};
    use super::*;

    /// How a rollout ends, and when, if each 15 s `world` happens first.
    pub fn end(gate: &mut dyn Gate, mut world: impl FnMut(u32, &mut Prometheus)) -> (Move, u32) {
        let mut prometheus = Prometheus::default();
        for second in (SCRAPE..=7_200).step_by(SCRAPE as usize) {
            world(second, &mut prometheus);
            let next = gate.turn(second, &prometheus);
            if matches!(next, Move::Promote | Move::RollBack) {
                return (next, second);
            }
        }
        (Move::Stay, 7_200)
    }

    /// A scrape after which both versions have answered so many requests more, the canary with errors.
    pub fn looks(prometheus: &mut Prometheus, second: u32, requests: u64, errors: u64) {
        let (mut canary, mut stable) = prometheus.newest().map_or_else(
            || (Counters::default(), Counters::default()),
            |sample| (sample.canary, sample.stable),
        );
        for index in 0..requests {
            canary.count(index < errors, 4);
            stable.count(false, 4);
        }
        prometheus.scrape(Sample {
            at: second,
            canary,
            stable,
        });
    }
}
