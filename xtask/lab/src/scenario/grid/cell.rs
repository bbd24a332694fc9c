//! One model in one situation, and what it and its clients see of one event.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum;
use serin::api::conditions::reasons;

use super::super::faults::{state, weight};
use super::super::situation::Situation;
use super::super::traffic::Traffic;
use super::super::{Lab, condition, decision, is_ready};
use super::event::{Event, GROUP};
use super::states::{self, first};

/// Requests a second to each of a dozen models, and to the one that turns bad.
const RATE: u32 = 12;
const RATE_OF_A_BAD_ONE: u32 = 24;
/// Longest time to a first version: a dozen models start side by side.
const FIRST_VERSION: Duration = Duration::from_secs(400);
/// Shortest time that an event lasts.
const EVENT_LASTS: Duration = Duration::from_secs(20);
/// Longest time from the first request of a bad version to all traffic on stable: evidence for it
/// comes at one request in a second or two, and a dozen models share two cores.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at the model.
const LOOK: Duration = Duration::from_millis(500);

/// One model.
pub struct Cell {
    situation: Situation,
    pub lab: Lab,
    traffic: Option<Traffic>,
    /// The canary's share before the event, in percent.
    weight: u8,
    /// Version 1.0.0's pods before the event, each with its restarts.
    pods: Vec<(String, i32)>,
    findings: Vec<String>,
    seen: Vec<String>,
}

impl Cell {
    /// Brings a model into the situation, under traffic.
    pub async fn reach(situation: Situation, event: Event) -> Result<Self> {
        let name = |value: Option<clap::builder::PossibleValue>| {
            value.map_or_else(String::new, |value| value.get_name().to_owned())
        };
        let namespace = format!("grid-{}-{situation:?}", name(event.to_possible_value()));
        let lab = Lab::open_in(GROUP, &namespace.to_lowercase(), "iris").await?;
        lab.apply_object(first()?).await?;
        lab.wait("Ready", FIRST_VERSION, is_ready).await?;
        let traffic = match situation {
            Situation::TurningBad => None,
            _ => Some(lab.traffic(RATE, false).await?),
        };
        states::reach(situation, &lab).await?;
        let (weight, pods) = (weight(&lab.model().await?), lab.pods("1.0.0").await?);
        Ok(Self {
            situation,
            lab,
            traffic,
            weight,
            pods,
            findings: Vec::new(),
            seen: Vec::new(),
        })
    }

    /// Watches the model through the event: no weight is raised, and a bad version is rolled back.
    pub async fn watch(mut self, event: Event) -> Self {
        if let Err(error) = self.watch_event(event).await {
            self.find(format!("{error:#}"));
        }
        self
    }

    async fn watch_event(&mut self, event: Event) -> Result<()> {
        if self.traffic.is_none() {
            self.traffic = Some(self.lab.traffic(RATE_OF_A_BAD_ONE, false).await?);
        }
        let began = std::time::Instant::now();
        let must_go_back = self.situation == Situation::TurningBad && !event.blinds();
        let mut back = None;
        while began.elapsed() < EVENT_LASTS
            || (must_go_back && back.is_none() && began.elapsed() < BACK_WITHIN)
        {
            let model = self.lab.model().await?;
            let now = weight(&model);
            if now > self.weight && !event.forgets(self.situation) {
                self.find(format!("its weight rose from {} to {now} %", self.weight));
            }
            let available = condition(&model, "Available");
            if let Some((status, reason)) = available
                && status != "True"
            {
                self.find(format!("Available={status} {reason}"));
            }
            let rolled_back = decision(&state(&model), reasons::ROLLED_BACK, "3.0.0").is_some();
            if self.situation == Situation::TurningBad && now == 0 && rolled_back {
                back = back.or(Some(began.elapsed()));
            }
            tokio::time::sleep(LOOK).await;
        }
        match back {
            Some(back) if event.blinds() => self.find(format!(
                "rolled back after {:.1} s without evidence",
                back.as_secs_f64()
            )),
            Some(back) => self.seen.push(format!(
                "rolled back {:.1} s after its first request",
                back.as_secs_f64()
            )),
            None if must_go_back => self.find(format!(
                "not rolled back within {} s of the event",
                BACK_WITHIN.as_secs()
            )),
            None => {}
        }
        if !event.takes_pods() && self.lab.pods("1.0.0").await? != self.pods {
            self.find("pods of version 1.0.0 were replaced or restarted".to_owned());
        }
        Ok(())
    }

    /// Waits for the end of the rollout. Returns what was seen, or what is wrong.
    pub async fn finish(mut self, event: Event) -> (Situation, Result<String>) {
        let outcome = self.try_finish(event).await;
        (self.situation, outcome)
    }

    async fn try_finish(&mut self, event: Event) -> Result<String> {
        let mut traffic = self.traffic.take();
        if self.situation == Situation::Deleting {
            // Its address goes with it.
            self.count(traffic.take()).await;
        }
        states::release(self.situation, &self.lab).await?;
        let ended = states::end(self.situation, &self.lab).await;
        self.count(traffic).await;
        ended?;
        self.lab.close().await?;
        if !self.findings.is_empty() {
            bail!("{}", self.findings.join("; "));
        }
        if event.blinds() && self.situation == Situation::TurningBad {
            self.seen
                .push("rolled back once there was evidence".to_owned());
        }
        Ok(self.seen.join("; "))
    }

    /// Counts the failures that are not the bad version's own.
    async fn count(&mut self, traffic: Option<Traffic>) {
        let Some(traffic) = traffic else { return };
        let mut answers = traffic.finish().await;
        let all = answers.count();
        let is_own = |version: &Option<String>| version.as_deref() == Some("3.0.0");
        answers.0.retain(|answer| !is_own(&answer.version));
        let (failed, failures) = (answers.failed(), answers.failures());
        let bad = answers.0.iter().filter(|answer| !answer.is_ok());
        let sent = bad.map(|answer| answer.sent);
        let (first, last) = (sent.clone().min(), sent.max());
        if let (Some(first), Some(last)) = (first, last) {
            self.find(format!(
                "{failed} of {all} requests failed, {:.1} to {:.1} s after the first: {failures:?}",
                first.as_secs_f64(),
                last.as_secs_f64()
            ));
        }
        self.seen.push(format!("{failed} of {all} requests failed"));
    }

    /// Notes what is wrong, once.
    fn find(&mut self, finding: String) {
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }
}
