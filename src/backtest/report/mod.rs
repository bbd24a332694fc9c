//! The report of a backtest.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{
    past::PastLook,
    rollout::{End, Simulated},
};
use crate::{
    api::{Gate, GateKind, ModelDeploymentSpec},
    evidence::{BlindReason, Reading, Snapped, Tally},
    report::text::{count, declared, labelled, percent, span},
};

/// Columns of the report.
const WIDTH: usize = 110;
/// Requests that an hour needs to be considered for the worst hour.
const FEWEST_OF_AN_HOUR: u64 = 100;
/// A step that takes more than this many times its `minDuration` is reported as slow.
const SLOW_STEP: f64 = 1.5;
/// Most examples of one kind.
const EXAMPLES: usize = 3;
/// Confidence level of bounds.
const CERTAINTY: f64 = 0.95;

/// The results of a backtest.
pub struct Findings<'a> {
    /// The model, `<namespace>/<name>`, and the revision that served.
    pub title: String,
    /// The policy.
    pub spec: &'a ModelDeploymentSpec,
    /// Whether the policy also waits for people, who are assumed to agree at once.
    pub attended: bool,
    /// The past.
    pub looks: &'a [PastLook],
    /// The simulated rollouts.
    pub rollouts: &'a [Simulated],
    /// Time between two looks.
    pub interval: Duration,
}

/// The past of one objective.
#[derive(Default)]
struct Past {
    all: Tally,
    hours: BTreeMap<i64, Tally>,
    threshold: Option<Snapped>,
    /// Reasons why it could not be read, each with its number of looks.
    blind: BTreeMap<String, usize>,
    /// Looks that gave a value instead of requests.
    values: usize,
}

impl Past {
    fn of(looks: &[PastLook], objective: usize) -> Self {
        let mut past = Self::default();
        for look in looks {
            match look.readings.get(objective) {
                Some(Ok(Reading::Counts(window))) => {
                    let tally = window.look.canary;
                    add(&mut past.all, tally);
                    add(past.hours.entry(hour(look.at)).or_default(), tally);
                    if window.threshold.is_some() {
                        past.threshold.clone_from(&window.threshold);
                    }
                }
                Some(Ok(_)) => past.values += 1,
                Some(Err(blind)) => *past.blind.entry(kind(blind)).or_default() += 1,
                None => {}
            }
        }
        past
    }

    /// The worst hour among those with enough requests: its start, and its share of bad requests.
    fn worst_hour(&self) -> Option<(Timestamp, f64)> {
        let hours = self
            .hours
            .iter()
            .filter(|(_, tally)| tally.requests >= FEWEST_OF_AN_HOUR);
        let (hour, tally) = hours.max_by(|a, b| a.1.bad_share().total_cmp(&b.1.bad_share()))?;
        Some((
            Timestamp::from_second(hour * 3_600).ok()?,
            tally.bad_share(),
        ))
    }
}

impl Findings<'_> {
    /// Returns the report as text.
    pub fn text(&self) -> String {
        let mut page = String::new();
        self.title(&mut page);
        let pasts: Vec<Past> = (0..self.spec.gates().len())
            .map(|objective| Past::of(self.looks, objective))
            .collect();
        self.past(&mut page, &pasts);
        self.rollouts(&mut page);
        heading(&mut page, "What limits it");
        let limits = self.limits(&pasts);
        if limits.is_empty() {
            item(&mut page, "Nothing that this period shows.");
        }
        for limit in limits {
            item(&mut page, &limit);
        }
        page
    }

    fn title(&self, page: &mut String) {
        let ends = (self.looks.first(), self.looks.last());
        let (Some(first), Some(last)) = ends else {
            let _ = writeln!(page, "{}: no looks", self.title);
            return;
        };
        let weights: Vec<String> = self
            .spec
            .rollout
            .steps
            .iter()
            .map(|step| step.weight.to_string())
            .collect();
        let _ = writeln!(page, "{}", self.title);
        row(
            page,
            "period",
            &format!(
                "{} to {}, a look every {:?}",
                first.at.strftime("%F %TZ"),
                last.at.strftime("%F %TZ"),
                self.interval
            ),
        );
        let mut steps = format!("{} %", weights.join(", "));
        if self.attended {
            steps += "; approvals are given at once, and failures are rolled back instead of held";
        }
        row(page, "steps", &steps);
    }

    fn past(&self, page: &mut String, pasts: &[Past]) {
        heading(page, "What was served");
        let seconds = self.interval.as_secs_f64() * self.looks.len() as f64;
        for (gate, past) in self.spec.gates().iter().zip(pasts) {
            let mut text = format!(
                "{} requests ({:.1} a second), {} bad ({})",
                count(past.all.requests),
                past.all.requests as f64 / seconds.max(1.0),
                count(past.all.bad),
                percent(past.all.bad_share()),
            );
            if past.values > 0 && past.all.requests == 0 {
                text = format!("measured {} times", count(past.values as u64));
            }
            if let Some(budget) = budget(gate) {
                let _ = write!(text, "; allowed: {}", percent(budget));
            }
            if let Some((at, share)) = past.worst_hour() {
                let _ = write!(
                    text,
                    "; worst hour: {} from {}",
                    percent(share),
                    at.strftime("%F %H:%MZ")
                );
            }
            row(page, &gate.name, &text);
        }
        let blind = self
            .looks
            .iter()
            .filter(|look| look.readings.iter().any(Result::is_err));
        let (blind, all) = (blind.count(), self.looks.len());
        row(
            page,
            "blind",
            &format!(
                "{} of {} looks ({}) had an objective that could not be read",
                count(blind as u64),
                count(all as u64),
                percent(blind as f64 / all.max(1) as f64)
            ),
        );
    }

    fn rollouts(&self, page: &mut String) {
        heading(
            page,
            "Rollouts of a version exactly as good as the one that served: its own requests, dealt \
             out by weight",
        );
        let all = self.rollouts.len() as u64;
        let apart = self.apart();
        row(
            page,
            "simulated",
            &format!("{all}, of which {apart} do not overlap in time"),
        );
        let promoted = self.times(|end| *end == End::Promoted);
        let unfinished = self.times(|end| *end == End::Unfinished);
        let mut text = count(promoted.len() as u64);
        if let (Some(median), Some(high)) = (
            time_until(&promoted, &unfinished, 0.5),
            time_until(&promoted, &unfinished, 0.95),
        ) {
            let _ = write!(text, "; half within {median}, 95 % within {high}");
        }
        row(page, "promoted", &text);
        let false_ones = all - promoted.len() as u64 - unfinished.len() as u64;
        let bound = |n: u64| percent(upper_bound(false_ones.min(n), n, CERTAINTY));
        row(
            page,
            "rolled back",
            &format!(
                "{false_ones} ({}), each one falsely. With 95 % certainty the true share is below \
                 {}, if what happens to one rollout says nothing about the next; by those alone \
                 that do not overlap, below {}",
                percent(false_ones as f64 / all.max(1) as f64),
                bound(all),
                bound(apart),
            ),
        );
        row(
            page,
            "unfinished",
            &format!("{} when the data ended", unfinished.len()),
        );
    }

    /// Number of rollouts that do not overlap in time.
    fn apart(&self) -> u64 {
        let mut free_from = Timestamp::MIN;
        let mut apart = 0;
        for rollout in self.rollouts {
            if rollout.started >= free_from && rollout.end != End::Unfinished {
                apart += 1;
                free_from = rollout.started + rollout.took;
            }
        }
        apart
    }

    fn times(&self, which: impl Fn(&End) -> bool) -> Vec<SignedDuration> {
        let chosen = self.rollouts.iter().filter(|rollout| which(&rollout.end));
        let mut times: Vec<_> = chosen.map(|rollout| rollout.took).collect();
        times.sort_unstable();
        times
    }

    fn limits(&self, pasts: &[Past]) -> Vec<String> {
        let mut limits = Vec::new();
        for (gate, past) in self.spec.gates().iter().zip(pasts) {
            self.limits_of(gate, past, &mut limits);
        }
        self.slow_steps(pasts, &mut limits);
        self.short_period(&mut limits);
        let lacking = self.rollouts.iter().filter(|rollout| rollout.lacked_data);
        let lacking = lacking.count();
        if lacking > 0 {
            limits.push(format!(
                "Traffic: {lacking} of {} rollouts had a step without proof within {} \
                 (spec.rollout.onInsufficientData).",
                self.rollouts.len(),
                declared(self.spec.rollout.on_insufficient_data.after)
            ));
        }
        let rolled_back = self
            .rollouts
            .iter()
            .filter_map(|rollout| match &rollout.end {
                End::RolledBack { verdict, sentence } => Some((rollout, verdict, sentence)),
                _ => None,
            });
        for (rollout, verdict, sentence) in rolled_back.take(EXAMPLES) {
            limits.push(format!(
                "Rolled back, started {}, after {} ({}): {sentence}",
                rollout.started.strftime("%F %TZ"),
                span(rollout.took),
                verdict.map_or_else(|| "no verdict".to_owned(), |verdict| format!("{verdict:?}")),
            ));
        }
        limits
    }

    fn limits_of(&self, gate: &Gate, past: &Past, limits: &mut Vec<String>) {
        let name = &gate.name;
        let read = past.blind.values().sum::<usize>() < self.looks.len();
        if read && past.all.requests == 0 && past.values == 0 {
            limits.push(format!(
                "{name}: not one request was counted. Did this revision serve in that period, and \
                 is {} the right source (spec.objectives[].source)? --revision names another \
                 revision.",
                gate.source
            ));
        }
        let mut blind: Vec<_> = past.blind.iter().collect();
        blind.sort_by_key(|(_, looks)| std::cmp::Reverse(**looks));
        for (reason, looks) in blind.into_iter().take(EXAMPLES) {
            limits.push(format!("{name}: blind in {looks} looks: {reason}."));
        }
        if let Some(budget) = budget(gate)
            && past.all.bad_share() > budget
        {
            limits.push(format!(
                "{name}: the version that served broke this objective itself ({} bad, allowed {}). \
                 A version as good as it is held back, however long it is looked at: raise the \
                 objective, or fix the serving version.",
                percent(past.all.bad_share()),
                percent(budget)
            ));
        }
        if let Some(Snapped { asked, edge, .. }) = &past.threshold
            && asked != edge
        {
            limits.push(format!(
                "{name}: {asked:?} is no edge of the histogram; {edge:?} is judged instead, which \
                 is stricter. Add a bucket at {asked:?}, or name one that exists."
            ));
        }
    }

    /// Reports a period in which no rollout ended.
    fn short_period(&self, limits: &mut Vec<String>) {
        let unfinished = self.times(|end| *end == End::Unfinished);
        if unfinished.is_empty() || unfinished.len() < self.rollouts.len() {
            return;
        }
        let steps = 0..self.spec.rollout.steps.len();
        let least: Duration = steps.map(|step| self.spec.rollout.least_time(step)).sum();
        limits.push(format!(
            "Period: no rollout came to an end in it. The steps alone ask for {}, and the period \
             has {}: begin earlier (--from).",
            declared(least.into()),
            declared((self.interval * self.looks.len() as u32).into()),
        ));
    }

    /// Reports steps that take much longer than `minDuration`.
    fn slow_steps(&self, pasts: &[Past], limits: &mut Vec<String>) {
        let requests = pasts.iter().map(|past| past.all.requests).max();
        let seconds = self.interval.as_secs_f64() * self.looks.len() as f64;
        for (index, step) in self.spec.rollout.steps.iter().enumerate() {
            let spent = self.rollouts.iter().flat_map(|rollout| &rollout.steps);
            let mut times: Vec<SignedDuration> = spent
                .filter(|(weight, _)| *weight == step.weight)
                .map(|(_, time)| *time)
                .collect();
            times.sort_unstable();
            let Some(median) = times.get(times.len() / 2) else {
                continue;
            };
            let asked = self.spec.rollout.least_time(index);
            let at_least = asked.max(self.interval).as_secs_f64();
            if median.as_secs_f64() > at_least * SLOW_STEP {
                let rate = requests.unwrap_or(0) as f64 / seconds.max(1.0) * 60.0;
                limits.push(format!(
                    "Traffic: the step at {} % takes {} (median) where {} are asked for: at {:.1} \
                     requests a minute, its proof takes that long.",
                    step.weight,
                    span(*median),
                    declared(asked.into()),
                    rate * f64::from(step.weight) / 100.0,
                ));
            }
        }
    }
}

/// The time within which a share of the rollouts was promoted, of those not rolled back. Rollouts
/// cut off by the end of the data are censored (Kaplan and Meier 1958).
fn time_until(
    promoted: &[SignedDuration],
    unfinished: &[SignedDuration],
    share: f64,
) -> Option<String> {
    if promoted.is_empty() {
        return None;
    }
    let mut waiting = 1.0;
    for (index, time) in promoted.iter().enumerate() {
        let gone = index + unfinished.partition_point(|cut| cut < time);
        let at_risk = promoted.len() + unfinished.len() - gone;
        waiting *= 1.0 - 1.0 / at_risk as f64;
        if waiting <= 1.0 - share + 1e-9 {
            return Some(span(*time));
        }
    }
    Some("more than this period shows".to_owned())
}

/// The upper confidence bound of a probability after `hits` of `tries` (Clopper and Pearson 1934,
/// one-sided).
fn upper_bound(hits: u64, tries: u64, certainty: f64) -> f64 {
    if hits >= tries {
        return 1.0;
    }
    let (mut possible, mut excluded) = (hits as f64 / tries as f64, 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(possible, excluded);
        if at_most(hits, tries, middle) < 1.0 - certainty {
            excluded = middle;
        } else {
            possible = middle;
        }
    }
    excluded
}

/// The probability of at most `hits` of `tries`, each with probability `p` in (0, 1).
fn at_most(hits: u64, tries: u64, p: f64) -> f64 {
    let ln_choose = |k: u64| {
        let (n, k) = (tries as f64, k as f64);
        libm::lgamma(n + 1.0) - libm::lgamma(k + 1.0) - libm::lgamma(n - k + 1.0)
    };
    (0..=hits)
        .map(|k| (ln_choose(k) + k as f64 * p.ln() + (tries - k) as f64 * (-p).ln_1p()).exp())
        .sum()
}

/// A reason without the parts that change from look to look.
fn kind(blind: &BlindReason) -> String {
    if let BlindReason::Stale { .. } = blind {
        return "the serving version had not been scraped for over three intervals".to_owned();
    }
    // The serving version is read as both versions.
    let text = blind.to_string();
    ["canary", "stable"].iter().fold(text, |text, side| {
        text.replace(&format!("the {side} version"), "the serving version")
    })
}

/// The share of bad requests that a gate allows; `None` where it has no such limit.
fn budget(gate: &Gate) -> Option<f64> {
    match &gate.kind {
        GateKind::ErrorRate { max } => Some(*max),
        GateKind::Latency { quantile, .. } | GateKind::LatencyOfStable { quantile, .. } => {
            Some(1.0 - quantile)
        }
        GateKind::ErrorRateOfStable { .. } | GateKind::PredictionDrift(_) | GateKind::Query(_) => {
            None
        }
    }
}

fn add(sum: &mut Tally, tally: Tally) {
    sum.requests = sum.requests.saturating_add(tally.requests);
    sum.bad = sum.bad.saturating_add(tally.bad);
}

fn hour(at: Timestamp) -> i64 {
    at.as_second().div_euclid(3_600)
}

fn heading(page: &mut String, text: &str) {
    page.push('\n');
    page.push_str(text);
    page.push('\n');
}

fn row(page: &mut String, label: &str, text: &str) {
    labelled(page, 2, &format!("{label:<14} "), text, WIDTH);
}

fn item(page: &mut String, text: &str) {
    labelled(page, 2, "- ", text, WIDTH);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
