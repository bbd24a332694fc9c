//! `cargo xtask bench decide`: what one decision costs, in time and in bytes of status.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result};
use serin::{
    evidence::{GateState, Observation, Tally},
    gate::GatePolicy,
};

use super::decide::Decided;
use super::gate::{Gate, Move, SCRAPE, STEPS};
use super::prometheus::{Counters, Prometheus, Sample};
use super::serin::{BUDGET, GATES, Setting};

/// Decisions that are timed: a day of looks.
const LOOKS: u32 = 5_760;
/// Stable's requests in one look; the canary has a ninth of that.
const REQUESTS: u64 = 270;

/// Measures, and prints.
pub fn decide() -> Result<()> {
    let build = if cfg!(debug_assertions) {
        "unoptimised build"
    } else {
        "optimised build"
    };
    println!(
        "one gate, a look taken in and its verdict: {:.2} µs",
        gate(false)
    );
    println!(
        "one gate, the same with the numbers of its sentence: {:.2} µs",
        gate(true)
    );
    let (micros, decided) = decision()?;
    println!("one decision with {GATES} gates, snapshot and sentences: {micros:.1} µs");
    println!("({build}; means of {LOOKS} looks in one thread)");

    let state = decided.state();
    let memory = decided.memory().context("the canary is still on trial")?;
    for gate in &memory.gates {
        println!(
            "{}: {} bytes of memory, {} of them evidence",
            gate.objective,
            serde_json::to_string(gate)?.len(),
            serde_json::to_string(&gate.evidence)?.len()
        );
    }
    println!(
        "the whole state of the rollout: {} bytes of status, {} of memory",
        serde_json::to_string(state)?.len(),
        serde_json::to_string(memory)?.len()
    );
    Ok(())
}

/// Microseconds a look of one gate.
fn gate(all_numbers: bool) -> f64 {
    let policy = GatePolicy::new(BUDGET, GATES, STEPS.len() as u32);
    let mut state = GateState::new();
    state.begin_step(STEPS[0]);
    let started = Instant::now();
    for second in 0..LOOKS {
        let bad = u64::from(second.is_multiple_of(40));
        let look = Observation {
            canary: Tally::new(REQUESTS / 9, bad),
            stable: Tally::new(REQUESTS, bad),
        };
        state.observe(black_box(&look), &policy);
        if all_numbers {
            black_box(state.judge(&policy, Some(STEPS[1])));
        } else {
            black_box(state.verdict(&policy, Some(STEPS[1])));
        }
    }
    started.elapsed().as_secs_f64() * 1e6 / f64::from(LOOKS)
}

/// Microseconds a decision, and the rollout after the last of them: both versions fail 3 %, so the
/// canary is held.
fn decision() -> Result<(f64, Decided)> {
    let mut rollout = Decided::new(Setting::Plain, 20.0)?;
    let mut prometheus = Prometheus::default();
    let (mut canary, mut stable) = (Counters::default(), Counters::default());
    let mut spent = 0.0;
    for look in 1..=LOOKS {
        for request in 0..REQUESTS {
            stable.count(request % 33 == 0, 4);
        }
        for request in 0..REQUESTS / 9 {
            canary.count(request == 0, 4);
        }
        let second = look * SCRAPE;
        prometheus.scrape(Sample {
            at: second,
            canary,
            stable,
        });
        let started = Instant::now();
        let moved = black_box(rollout.evaluate(second, &prometheus));
        spent += started.elapsed().as_secs_f64();
        anyhow::ensure!(
            moved == Move::Stay,
            "the canary is to be held, not {moved:?}"
        );
    }
    Ok((spent * 1e6 / f64::from(LOOKS), rollout))
}
