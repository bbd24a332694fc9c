//! The rollout as it happens, for a person to watch: where it stands, who answers how, and each decision as it falls.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use serin::api::{ModelDeployment, State};

use super::Lab;
use super::load::{Answers, Traffic};

/// Width of the bar that shows the weight.
const BAR: usize = 20;

/// A headline between two parts of a story.
pub fn headline(text: &str) {
    println!("\n── {text} ──");
}

/// Prints what is new since the last line.
#[derive(Default)]
pub struct Timeline {
    decision: Option<Timestamp>,
    line: Duration,
    weight: Option<u8>,
}

impl Timeline {
    /// Watches until the model is as wanted; the error says how it was instead.
    pub async fn watch(
        &mut self,
        lab: &Lab,
        traffic: &Traffic,
        limit: Duration,
        wanted: impl Fn(&ModelDeployment) -> bool,
    ) -> Result<ModelDeployment> {
        let deadline = traffic.now() + limit;
        loop {
            let model = lab.model().await?;
            let state = model.status.clone().unwrap_or_default().state;
            self.show(&state, traffic);
            if wanted(&model) {
                return Ok(model);
            }
            if traffic.now() > deadline {
                anyhow::bail!(
                    "not as expected within {} s:\n{}",
                    limit.as_secs(),
                    serin::report::report(&model)
                );
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Watches for a while, whatever happens.
    pub async fn linger(&mut self, lab: &Lab, traffic: &Traffic, time: Duration) -> Result<()> {
        let end = traffic.now() + time;
        while traffic.now() < end {
            self.show(&lab.state().await?, traffic);
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        Ok(())
    }

    fn show(&mut self, state: &State, traffic: &Traffic) {
        let now = traffic.now();
        let known = self.decision;
        for record in state
            .decisions
            .iter()
            .filter(|record| known < Some(record.at))
        {
            println!(
                "{:>7.1}s  ▸ {}: {}",
                now.as_secs_f64(),
                record.action,
                record.sentence
            );
        }
        self.decision = state.decisions.last().map(|record| record.at).or(known);
        let weight = state.canary.as_ref().map(|canary| canary.weight);
        let due = now.saturating_sub(self.line) >= Duration::from_secs(2);
        if due || weight != self.weight {
            println!("{}", line(now, state, &traffic.answers(), self.line));
            self.line = now;
            self.weight = weight;
        }
    }
}

/// One line: time, phase, weight, then each version's rate, failures and p99 since the last line.
fn line(now: Duration, state: &State, answers: &Answers, since: Duration) -> String {
    let weight = state.canary.as_ref().map(|canary| canary.weight);
    let filled = usize::from(weight.unwrap_or(0)) * BAR / 100;
    let weight = weight.map_or_else(|| "     ".to_owned(), |weight| format!("{weight:>3} %"));
    let bar = format!("{}{}", "█".repeat(filled), "░".repeat(BAR - filled));
    let recent = answers.within(since, now);
    let seconds = now.saturating_sub(since).as_secs_f64().max(0.001);
    let mut versions = BTreeMap::new();
    for version in recent.versions().into_keys() {
        let of_version = recent.of(&version);
        let rate = of_version.count() as f64 / seconds;
        let (failed, p99) = (of_version.failed(), of_version.p99().as_secs_f64() * 1000.0);
        let failed = if failed == 0 {
            String::new()
        } else {
            format!(" {failed} FAILED")
        };
        versions.insert(
            version.clone(),
            format!("{version}: {rate:.0}/s{failed} p99 {p99:.0} ms"),
        );
    }
    let lost = recent
        .0
        .iter()
        .filter(|answer| answer.version.is_none())
        .count();
    if lost > 0 {
        versions.insert("~".to_owned(), format!("no version: {lost} FAILED"));
    }
    let versions: Vec<String> = versions.into_values().collect();
    format!(
        "{:>7.1}s  {:<11} {bar} {weight}  {}",
        now.as_secs_f64(),
        format!("{:?}", state.phase),
        versions.join("   ")
    )
}
