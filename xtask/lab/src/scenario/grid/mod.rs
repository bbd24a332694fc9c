//! The grid on a real cluster: every state × every event, under traffic.
//!
//! A round brings one model into each state, all at once and each in a namespace of its own, lets
//! one event happen to all of them, and sees every one to its end. A cell passes only if its state
//! was reached and the event took effect in it.

mod cell;
mod event;
mod states;

use std::future::Future;

use anyhow::{Context, Result};
use clap::ValueEnum;

use self::cell::Cell;
pub use self::event::Event;
use super::checks::Checks;
use super::situation::Situation;
use super::timeline::{self, headline};

/// Plays a round of each event; all events where none is named.
pub async fn play(events: &[Event]) -> Result<()> {
    let events = if events.is_empty() {
        Event::value_variants()
    } else {
        events
    };
    let mut checks = Checks::default();
    for event in events {
        Box::pin(round(*event, &mut checks)).await?;
    }
    checks.note(
        "situations × events",
        format!("{} × {}", states::ALL.len(), events.len()),
    );
    checks.finish()
}

async fn round(event: Event, checks: &mut Checks) -> Result<()> {
    headline(&format!("{event:?}"));
    let reached = Box::pin(all(
        states::ALL.map(|situation| Cell::reach(situation, event))
    ))
    .await?;
    let mut cells = Vec::new();
    for (situation, cell) in states::ALL.into_iter().zip(reached) {
        match cell {
            Ok(cell) => cells.push(cell),
            Err(error) => claim(checks, event, situation, &Err(error)),
        }
    }
    timeline::event(&format!("{} situations are reached", cells.len()));
    let labs: Vec<_> = cells.iter().map(|cell| cell.lab.clone()).collect();
    let begun = event.begin(&labs).await;
    // Whatever comes of it, what was done to the cluster is undone.
    let watched = match begun {
        Ok(trouble) => {
            let cells = cells.into_iter().map(|cell| cell.watch(event));
            let (effect, cells) = tokio::join!(trouble.took_effect(&labs), all(cells));
            effect.map(|words| timeline::event(&words)).and(cells)
        }
        Err(error) => Err(error),
    };
    event.end().await?;
    timeline::event("it is over");
    for (situation, outcome) in all(watched?.into_iter().map(|cell| cell.finish(event))).await? {
        claim(checks, event, situation, &outcome);
    }
    Ok(())
}

/// One cell's outcome: what was seen, or what is wrong.
fn claim(checks: &mut Checks, event: Event, situation: Situation, outcome: &Result<String>) {
    let name = format!("{event:?} × {situation:?}");
    let words = match outcome {
        Ok(words) => words.clone(),
        Err(error) => format!("{error:#}"),
    };
    let mark = if outcome.is_ok() { '✓' } else { '✗' };
    println!("          {mark} {name}: {words}");
    checks.claim(outcome.is_ok(), name, words);
}

/// Runs them side by side. Returns what each came to, in their order.
async fn all<F>(futures: impl IntoIterator<Item = F>) -> Result<Vec<F::Output>>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let tasks: Vec<_> = futures.into_iter().map(tokio::spawn).collect();
    let mut outputs = Vec::with_capacity(tasks.len());
    for task in tasks {
        outputs.push(task.await.context("a cell panicked")?);
    }
    Ok(outputs)
}
