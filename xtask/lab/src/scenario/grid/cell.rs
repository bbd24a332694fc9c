//! One model in one state, and what it and its clients see of one event.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum;
use serin::api::conditions::reasons;

use super::super::faults::{state, weight};
use super::super::load::Traffic;
use super::super::{Lab, condition, decision, is_ready};
use super::event::Event;
use super::place::{Place, first};

/// Requests a second to each of a dozen models, and to the one that turns bad.
const RATE: u32 = 12;
const RATE_OF_A_BAD_ONE: u32 = 24;
/// Longest time to a first version: a dozen models start side by side.
const FIRST_VERSION: Duration = Duration::from_secs(400);
/// How long an event is borne at the least.
const BORNE: Duration = Duration::from_secs(20);
/// Longest time from the first request of a bad version to all traffic on stable: evidence for it
/// comes at one request in a second or two, and a dozen models share two cores.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at the model.
const LOOK: Duration = Duration::from_millis(500);

/// One model.
pub struct Cell {
    place: Place,
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
    /// Brings a model into the state, under traffic.
    pub async fn reach(place: Place, event: Event) -> Result<Self> {
        let name = |value: Option<clap::builder::PossibleValue>| {
            value.map_or_else(String::new, |value| value.get_name().to_owned())
        };
        let namespace = format!("grid-{}-{place:?}", name(event.to_possible_value()));
        let lab = Lab::open(&namespace.to_lowercase(), "iris").await?;
        lab.apply_object(first()?).await?;
        lab.wait("Ready", FIRST_VERSION, is_ready).await?;
        let traffic = match place {
            Place::TurningBad => None,
            _ => Some(lab.traffic(RATE, false).await?),
        };
        place.reach(&lab).await?;
        let (weight, pods) = (weight(&lab.model().await?), lab.pods("1.0.0").await?);
        Ok(Self {
            place,
            lab,
            traffic,
            weight,
            pods,
            findings: Vec::new(),
            seen: Vec::new(),
        })
    }

    /// Sees the event through: no weight is raised, and a bad version is taken back in the midst.
    pub async fn bear(mut self, event: Event) -> Self {
        if let Err(error) = self.look_on(event).await {
            self.find(format!("{error:#}"));
        }
        self
    }

    async fn look_on(&mut self, event: Event) -> Result<()> {
        if self.traffic.is_none() {
            self.traffic = Some(self.lab.traffic(RATE_OF_A_BAD_ONE, false).await?);
        }
        let began = std::time::Instant::now();
        let must_go_back = self.place == Place::TurningBad && !event.blinds();
        let mut back = None;
        while began.elapsed() < BORNE
            || (must_go_back && back.is_none() && began.elapsed() < BACK_WITHIN)
        {
            let model = self.lab.model().await?;
            let now = weight(&model);
            if now > self.weight && !event.forgets(self.place) {
                self.find(format!("its weight rose from {} to {now} %", self.weight));
            }
            let available = condition(&model, "Available");
            if let Some((status, reason)) = available
                && status != "True"
            {
                self.find(format!("Available={status} {reason}"));
            }
            let rolled_back = decision(&state(&model), reasons::ROLLED_BACK, "3.0.0").is_some();
            if self.place == Place::TurningBad && now == 0 && rolled_back {
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

    /// Sees the model to its end. Returns what was seen, or what is wrong.
    pub async fn leave(mut self, event: Event) -> (Place, Result<String>) {
        let outcome = self.see_out(event).await;
        (self.place, outcome)
    }

    async fn see_out(&mut self, event: Event) -> Result<String> {
        let mut traffic = self.traffic.take();
        if self.place == Place::Deleting {
            // Its address goes with it.
            self.count(traffic.take()).await;
        }
        self.place.let_go(&self.lab).await?;
        let ended = self.place.end(&self.lab).await;
        self.count(traffic).await;
        ended?;
        self.lab.close().await?;
        if !self.findings.is_empty() {
            bail!("{}", self.findings.join("; "));
        }
        if event.blinds() && self.place == Place::TurningBad {
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
