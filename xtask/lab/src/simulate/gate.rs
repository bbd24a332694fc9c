//! What the simulator asks of a gate: a move, each time it may look at the metrics.

use super::argo::{Argo, Condition};
use super::flagger::Flagger;
use super::kayenta::Kayenta;
use super::prometheus::Prometheus;
use super::scenario::{Scenario, Scraping, Story, Traffic};
use super::serin::{Serin, Setting};

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

/// The judge of one rollout.
pub trait Gate {
    /// The weight that the rollout begins with: the first step's.
    fn first_weight(&self) -> u8 {
        STEPS[0]
    }

    /// Called each 15 s, `now` seconds after the rollout began.
    fn evaluate(&mut self, now: u32, prometheus: &Prometheus) -> Move;
}

/// Seconds between two scrapes, and between two evaluations of a gate.
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
    /// Serin with `startAt: ByTraffic`.
    SerinAdaptive,
    /// Serin with `noWorseThanStable: {errorRate: 0.5%}` instead of `errorRate: 1%`.
    SerinBesideStable,
}

impl Contender {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Flagger,
        Self::Argo,
        Self::ArgoMissingPasses,
        Self::Kayenta,
        Self::Serin,
        Self::SerinPatient,
        Self::SerinAdaptive,
        Self::SerinBesideStable,
    ];
    /// Those of the tables' columns.
    pub const COLUMNS: [Self; 6] = [
        Self::Flagger,
        Self::Argo,
        Self::ArgoMissingPasses,
        Self::Kayenta,
        Self::Serin,
        Self::SerinPatient,
    ];
    /// Serin, set in one way or another: the columns of a table of its own.
    pub const SETTINGS: [Self; 3] = [Self::Serin, Self::SerinAdaptive, Self::SerinBesideStable];

    /// As in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flagger => "Flagger",
            Self::Argo => "Argo Rollouts",
            Self::ArgoMissingPasses => "Argo, NaN passes",
            Self::Kayenta => "Kayenta",
            Self::Serin => "Serin",
            Self::SerinPatient => "Serin, 30 min",
            Self::SerinAdaptive => "`startAt: ByTraffic`",
            Self::SerinBesideStable => "`noWorseThanStable: {errorRate: 0.5%}`",
        }
    }

    /// Its place among all.
    pub fn place(self) -> usize {
        let is_it = |other: &Self| *other == self;
        Self::ALL.iter().position(is_it).unwrap_or_default()
    }

    /// Whether it is Serin, whichever way it is set.
    pub fn is_serin(self) -> bool {
        self.setting().is_some()
    }

    /// How it is set, if it is Serin.
    pub fn setting(self) -> Option<Setting> {
        match self {
            Self::Serin => Some(Setting::Plain),
            Self::SerinPatient => Some(Setting::Advance),
            Self::SerinAdaptive => Some(Setting::Adaptive),
            Self::SerinBesideStable => Some(Setting::BesideStable),
            Self::Flagger | Self::Argo | Self::ArgoMissingPasses | Self::Kayenta => None,
        }
    }

    /// Whether it plays a scenario: what is compared with Serin alone, those where it makes a
    /// difference.
    pub fn plays(self, scenario: &Scenario) -> bool {
        match self {
            Self::SerinAdaptive | Self::SerinBesideStable => {
                let differs = matches!(
                    scenario.story,
                    Story::Healthy
                        | Story::SharedBursts
                        | Story::BothFail(_)
                        | Story::Fails { from_weight: 0, .. }
                );
                differs
                    && scenario.scraping == Scraping::Steady
                    && scenario.traffic == Traffic::Even
            }
            _ => true,
        }
    }

    /// A judge for one rollout at a rate.
    pub fn gate(self, rate: f64) -> Box<dyn Gate> {
        if let Some(setting) = self.setting() {
            return Box::new(Serin::new(setting, rate));
        }
        match self {
            Self::Flagger => Box::new(Flagger::default()),
            Self::Argo => Box::new(Argo::new(Condition::Plain)),
            Self::ArgoMissingPasses => Box::new(Argo::new(Condition::MissingPasses)),
            _ => Box::new(Kayenta::default()),
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
            let next = gate.evaluate(second, &prometheus);
            if matches!(next, Move::Promote | Move::RollBack) {
                return (next, second);
            }
        }
        (Move::Stay, 7_200)
    }

    /// A scrape after which both versions have answered so many requests more, the canary with
    /// errors.
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
