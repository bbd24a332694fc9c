//! What a rollout costs those who watch models: how often its status is written, and how many bytes
//! of it. The tests print the figures (`-- written --nocapture`).

use std::fmt;

use serde_json::{Value, json};
use serin::controller::MEMORY_ANNOTATION;

use crate::{
    faults::Faults,
    kinds::Kind,
    request::{Request, Verb},
    run::play,
    story::{
        Behaviour,
        Deed::{self, Apply, Pause},
        Story,
        When::{self, Now, Refused, Serves},
    },
};

/// A write of a status, or of what gates remember.
#[derive(Clone, Debug)]
pub struct Written {
    /// The weight of the canary in a status, 0 without one; `None` for a memory.
    weight: Option<u64>,
    /// The version on trial in a status.
    on_trial: String,
    /// Its length as JSON.
    bytes: usize,
}

impl Written {
    /// What a request writes, if it is one of the two.
    pub fn of(request: &Request) -> Option<Self> {
        let status = &request.body["status"];
        let memory = &request.body["metadata"]["annotations"][MEMORY_ANNOTATION];
        let (weight, text) = match (request.kind, request.verb) {
            (Kind::Model, Verb::ReplaceStatus) => {
                let weight = status["canary"]["weight"].as_u64().unwrap_or(0);
                (Some(weight), status.to_string())
            }
            (Kind::History, Verb::Merge) => (None, memory.as_str()?.to_owned()),
            _ => return None,
        };
        let on_trial = status["canary"]["version"].as_str().unwrap_or_default();
        Some(Self {
            weight,
            on_trial: on_trial.to_owned(),
            bytes: text.len(),
        })
    }
}

/// Writes of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    writes: usize,
    bytes: usize,
}

impl Sum {
    fn of<'a>(written: impl IntoIterator<Item = &'a Written>) -> Self {
        let mut sum = Self::default();
        for one in written {
            sum.writes += 1;
            sum.bytes += one.bytes;
        }
        sum
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} writes, {} bytes", self.writes, self.bytes)
    }
}

/// The rollout of version 2 with steps of 5 minutes and a bake time of 10, as in the README.
fn rollout(ends: (When, Deed), behaviour: Behaviour) -> Vec<Written> {
    let chapters = [(Now, Apply("1")), (Serves("1"), Apply("2")), ends];
    let story = Story::of(
        "written",
        &chapters,
        &[("2", behaviour)],
        |spec: &mut Value| {
            let step = |weight: u64| json!({"weight": weight, "minDuration": "5m"});
            spec["rollout"]["steps"] = [10, 25, 50, 100].map(step).into();
            spec["rollout"]["bakeTime"] = json!("10m");
        },
    );
    let outcome = play(1, [story], Faults::none(1));
    let mut findings = outcome.findings;
    // It expects the steps of 30 seconds that other stories have.
    findings.retain(|finding| !finding.starts_with("advances"));
    assert_eq!(findings, Vec::<String>::new());
    let written = outcome.written.into_iter();
    written.skip_while(|one| one.on_trial != "2").collect()
}

/// Prints the sums of a rollout, and returns that of its statuses.
fn report(what: &str, written: &[Written]) -> Sum {
    let sum = |of_status| {
        let of_it = |one: &&Written| one.weight.is_some() == of_status;
        Sum::of(written.iter().filter(of_it))
    };
    println!("{what}: {} of status", sum(true));
    println!("{what}: {} of what gates remember", sum(false));
    sum(true)
}

#[test]
fn a_status_is_written_about_once_a_minute_of_a_step() {
    let written = rollout((Serves("2"), Pause(false)), Behaviour::HEALTHY);
    report("a promotion", &written);
    for (weight, minutes) in [(10, 5), (25, 5), (50, 5), (100, 10)] {
        let step = written.iter().filter(|one| one.weight == Some(weight));
        let sum = Sum::of(step);
        println!("its {minutes} minutes at {weight} %: {sum} of status");
        // One at its beginning, one a minute, and some for what else changes in it.
        let expected = minutes..=minutes + 4;
        assert!(expected.contains(&sum.writes), "{weight} %: {sum}");
    }
}

#[test]
fn a_rollback_costs_few_writes() {
    let written = rollout((Refused("2"), Pause(false)), Behaviour::failing(300, 0));
    let sum = report("a rollback", &written);
    assert!(sum.writes <= 12, "{sum}");
}
