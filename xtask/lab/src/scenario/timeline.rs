//! The rollout as it happens, for a person to watch: where it stands, who answers how, and each
//! decision as it falls.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use serin::api::{ModelDeployment, State};

use super::Lab;
use super::traffic::{Answers, Traffic};

/// Width of the bar that shows the weight.
const BAR: usize = 20;

/// Time between two lines.
const LINE: Duration = Duration::from_secs(2);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// Characters after which a sentence is wrapped.
const WIDTH: usize = 96;
/// Where a sentence begins.
const INDENT: &str = "            ";

const BOLD: &str = "1";
const RED: &str = "31";
const CYAN: &str = "36";

/// A headline between two parts of a scenario.
pub fn headline(text: &str) {
    println!("\n{}", paint(BOLD, &format!("── {text} ──")));
}

/// Something that is done to the cluster.
pub fn event(text: &str) {
    clear();
    println!("          ✸ {text}");
}

/// Coloured on a terminal, plain in a log.
fn paint(colour: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() {
        format!("\x1b[{colour}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Prints what is new since the last line. On a terminal the line under way is seen as it grows.
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
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Watches for a while, whatever happens.
    pub async fn linger(&mut self, lab: &Lab, traffic: &Traffic, time: Duration) -> Result<()> {
        let end = traffic.now() + time;
        while traffic.now() < end {
            self.show(&lab.state().await?, traffic);
            tokio::time::sleep(LOOK).await;
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
            clear();
            let action = paint(BOLD, &format!("▸ {}", record.action));
            println!("{:>7.1}s  {action}", now.as_secs_f64());
            for words in wrapped(&record.sentence, WIDTH) {
                println!("{INDENT}{words}");
            }
        }
        self.decision = state.decisions.last().map(|record| record.at).or(known);
        let weight = state.canary.as_ref().map(|canary| canary.weight);
        let due = now.saturating_sub(self.line) >= LINE || weight != self.weight;
        let live = std::io::stdout().is_terminal();
        if due || live {
            clear();
            print!("{}", line(now, state, &traffic.answers(), self.line));
        }
        if due {
            println!();
            self.line = now;
            self.weight = weight;
        } else if live {
            // Without the end of a line it would stay in the buffer.
            let _ = std::io::stdout().flush();
        }
    }
}

/// Takes the line under way off the terminal.
fn clear() {
    if std::io::stdout().is_terminal() {
        print!("\r\x1b[2K");
    }
}

/// A text in lines of at most `width` characters, as far as its words allow.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// One line: time, phase, weight, then each version's rate, failures and p99 since the last line.
fn line(now: Duration, state: &State, answers: &Answers, since: Duration) -> String {
    let weight = state.canary.as_ref().map(|canary| canary.weight);
    let filled = usize::from(weight.unwrap_or(0)) * BAR / 100;
    let weight = weight.map_or_else(|| "     ".to_owned(), |weight| format!("{weight:>3} %"));
    let bar = paint(CYAN, &"█".repeat(filled)) + &"░".repeat(BAR - filled);
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
            paint(RED, &format!(" {failed} FAILED"))
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
        let lost = paint(RED, &format!("no version: {lost} FAILED"));
        versions.insert("~".to_owned(), lost);
    }
    let versions: Vec<String> = versions.into_values().collect();
    format!(
        "{:>7.1}s  {:<11} {bar} {weight}  {}",
        now.as_secs_f64(),
        format!("{:?}", state.phase),
        versions.join("   ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_sentence_is_wrapped() {
        assert_eq!(wrapped("1 of 20 ≈ 5 %", 7), ["1 of 20", "≈ 5 %"]);
        assert_eq!(wrapped("unbreakable word", 4), ["unbreakable", "word"]);
    }
}
