//! All rollouts of all scenarios, over all cores.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Result, bail};

use super::decide::Decided;
use super::gate::Contender;
use super::play::{End, Outcome, play};
use super::requests::mix;
use super::scenario::{Deserves, SCENARIOS, Scenario, Story};

/// One rollout in so many is also decided by the operator's own code.
const DECIDED_EVERY: u64 = 25;
/// Rollouts that a thread plays before it takes the next ones.
const CHUNK: u64 = 10;

/// How much is simulated.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Rollouts a cell.
    pub runs: u64,
    /// Whether rollouts that decide nothing are given up sooner.
    pub short: bool,
}

impl Scale {
    /// Rollouts of a cell: in the short form a fifth where there are 200 requests a second, of
    /// which nothing differs but the cost. Where a false rollback is rare and its bound near, more:
    /// ten times as many rollouts at low rates, and at high ones no fewer.
    fn runs(self, scenario: &Scenario, rate: f64) -> u64 {
        match scenario.story {
            Story::BothFail(_) if rate < 10.0 && !self.short => self.runs * 10,
            Story::CanaryBursts(_) if scenario.has_all_rates() => self.runs,
            _ if self.short && rate > 100.0 => (self.runs / 5).max(1),
            _ => self.runs,
        }
    }

    /// Seconds after which a rollout counts as held: time for about twice what a proof takes at
    /// this rate.
    fn horizon(self, scenario: &Scenario, rate: f64) -> u32 {
        let hours = match rate {
            ..1.0 => 24.0,
            ..10.0 => 8.0,
            ..100.0 => 3.0,
            _ => 1.0,
        };
        // A canary that deserves neither may be held for as long as one looks.
        let patience = match scenario.deserves {
            Deserves::Either => 0.25,
            _ if self.short => 0.5,
            _ => 1.0,
        };
        (hours * patience * 3_600.0) as u32
    }
}

/// All rollouts of one scenario at one rate.
#[derive(Debug)]
pub struct Cell {
    /// What was played.
    pub scenario: &'static Scenario,
    /// Requests a second of both versions together.
    pub rate: f64,
    /// By gate, as in [`Contender::ALL`]; then by run.
    outcomes: [Vec<Outcome>; Contender::ALL.len()],
    /// Rollouts that were also decided by the operator's own code.
    pub decided: usize,
}

impl Cell {
    /// The scenario and the rate, as in the tables.
    pub fn name(&self) -> String {
        format!("{}, {} rps", self.scenario.name, self.rate)
    }

    /// One gate's rollouts.
    pub fn of(&self, gate: Contender) -> Outcomes<'_> {
        Outcomes(&self.outcomes[gate.place()])
    }
}

/// The rollouts of one gate in one cell.
#[derive(Debug, Clone, Copy)]
pub struct Outcomes<'a>(&'a [Outcome]);

impl Outcomes<'_> {
    /// How many rollouts there were.
    pub fn runs(&self) -> usize {
        self.0.len()
    }

    /// How many ended so.
    pub fn count(&self, end: End) -> usize {
        self.0.iter().filter(|outcome| outcome.end == end).count()
    }

    /// The share that ended so.
    pub fn share(&self, end: End) -> f64 {
        self.count(end) as f64 / self.runs().max(1) as f64
    }

    /// A quantile of the seconds to rollback over all rollouts; none where fewer were rolled back.
    pub fn rollback_after(&self, quantile: f64) -> Option<u32> {
        let seconds =
            |outcome: &Outcome| (outcome.end == End::RolledBack).then_some(outcome.seconds);
        self.quantile(quantile, seconds)
    }

    /// A quantile of the seconds until the canary has all traffic; none where fewer got so far.
    pub fn full_after(&self, quantile: f64) -> Option<u32> {
        self.quantile(quantile, |outcome| outcome.full_at)
    }

    /// The median of the bad answers that users got from the canary.
    pub fn bad_answers(&self) -> u64 {
        let mut bad: Vec<u64> = self.0.iter().map(|outcome| outcome.bad).collect();
        bad.sort_unstable();
        bad.get(bad.len() / 2).copied().unwrap_or_default()
    }

    fn quantile(&self, quantile: f64, value: impl Fn(&Outcome) -> Option<u32>) -> Option<u32> {
        let mut values: Vec<u32> = self.0.iter().filter_map(value).collect();
        values.sort_unstable();
        let place = (quantile * self.runs() as f64).ceil() as usize;
        values.get(place.max(1) - 1).copied()
    }
}

/// One piece of work: some runs of one cell.
struct Chunk {
    cell: usize,
    first: u64,
    runs: u64,
}

/// Plays all cells.
pub fn play_all(scale: Scale, wanted: impl Fn(&Scenario) -> bool) -> Result<Vec<Cell>> {
    let mut cells: Vec<Cell> = SCENARIOS
        .iter()
        .filter(|scenario| wanted(scenario))
        .flat_map(|scenario| {
            scenario.rates.iter().map(move |rate| Cell {
                scenario,
                rate: *rate,
                outcomes: Default::default(),
                decided: 0,
            })
        })
        .collect();
    let mut chunks = Vec::new();
    for (index, cell) in cells.iter().enumerate() {
        let runs = scale.runs(cell.scenario, cell.rate);
        for first in (0..runs).step_by(CHUNK as usize) {
            let runs = CHUNK.min(runs - first);
            chunks.push(Chunk {
                cell: index,
                first,
                runs,
            });
        }
    }
    // The dearest first, so that no thread is left alone with one at the end.
    chunks.sort_by(|a, b| cells[b.cell].rate.total_cmp(&cells[a.cell].rate));

    let next = AtomicUsize::new(0);
    let played = Mutex::new(Vec::new());
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| -> Result<()> {
        let work = || -> Result<()> {
            while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                let outcomes = play_chunk(&cells[chunk.cell], chunk, scale)?;
                played
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .push((chunk, outcomes));
            }
            Ok(())
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            match worker.join() {
                Ok(result) => result?,
                Err(_) => bail!("a thread of the simulation panicked; its message is above"),
            }
        }
        Ok(())
    })?;

    let mut played = played
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    played.sort_by_key(|(chunk, _)| (chunk.cell, chunk.first));
    for (chunk, runs) in played {
        let cell = &mut cells[chunk.cell];
        let decided = (chunk.first..chunk.first + chunk.runs)
            .filter(|run| run.is_multiple_of(DECIDED_EVERY))
            .count();
        let settings = players(cell.scenario).filter(|gate| gate.is_serin());
        cell.decided += decided * settings.count();
        for outcomes in runs {
            for (gate, outcome) in players(cell.scenario).zip(outcomes) {
                cell.outcomes[gate.place()].push(outcome);
            }
        }
    }
    Ok(cells)
}

fn play_chunk(cell: &Cell, chunk: &Chunk, scale: Scale) -> Result<Vec<Vec<Outcome>>> {
    (chunk.first..chunk.first + chunk.runs)
        .map(|run| play_run(cell, run, scale))
        .collect()
}

/// The gates that play a scenario.
fn players(scenario: &Scenario) -> impl Iterator<Item = Contender> {
    let all = Contender::ALL.into_iter();
    all.filter(|gate| gate.plays(scenario))
}

/// One run of all gates; the same requests in each scenario, so that cells may be compared.
fn play_run(cell: &Cell, run: u64, scale: Scale) -> Result<Vec<Outcome>> {
    let players: Vec<_> = players(cell.scenario).collect();
    let mut gates: Vec<_> = players.iter().map(|gate| gate.gate(cell.rate)).collect();
    let decided = run.is_multiple_of(DECIDED_EVERY);
    if decided {
        for setting in players.iter().filter_map(|gate| gate.setting()) {
            gates.push(Box::new(Decided::new(setting, cell.rate)?));
        }
    }
    let horizon = scale.horizon(cell.scenario, cell.rate);
    let mut outcomes = play(cell.scenario, cell.rate, mix(run), horizon, gates);
    let by_operator = outcomes.split_off(players.len());
    let by_rules: Vec<_> = players
        .iter()
        .zip(&outcomes)
        .filter_map(|(gate, outcome)| gate.is_serin().then_some(*outcome))
        .collect();
    if decided && by_operator != by_rules {
        bail!(
            "run {run} of \"{}\" at {} requests a second: the operator's own decisions end in \
             {by_operator:?}, the simulated rules in {by_rules:?}",
            cell.scenario.name,
            cell.rate
        );
    }
    Ok(outcomes)
}
