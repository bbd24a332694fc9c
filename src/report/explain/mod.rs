//! The text of `kubectl serin explain`: the last decisions with their evidence, what comes next and
//! what the user can do. It reads the ModelDeployment and the versions that are kept.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::text::{count, declared, labelled, moment, percent, span};
use crate::{
    api::{
        CanaryVersion, DecisionRecord, ImageVerification, ModelDeployment, ModelDeploymentSpec,
        ModelDeploymentStatus, ModelVerification, ObjectiveRecord, OnDeadline, OnFailure, Phase,
        Progress, RefusedVersion, Revision, Rollout, State, Verdict, VersionSpec,
        conditions::reasons,
    },
    evidence::Tally,
    k8s::{KnownVersion, stable_before},
};

/// Returns the last decisions of one model as plain text of `width` columns. `known` are the
/// versions that are kept.
pub fn explain(
    model: &ModelDeployment,
    known: &BTreeMap<Revision, KnownVersion>,
    now: Timestamp,
    width: usize,
) -> String {
    let name = model.name_any();
    let mut page = Page {
        out: String::new(),
        now,
        width,
    };
    page.line(&format!("{}/{name}", model.namespace().unwrap_or_default()));
    let Some(status) = &model.status else {
        page.paragraph(
            "The operator has not reconciled it yet: is it running, and does it watch \
            this namespace?",
        );
        return page.out;
    };
    let state = &status.state;
    let desired = VersionSpec::of(&model.spec).revision();
    let refused = state
        .refused
        .iter()
        .find(|refused| refused.revision == desired);
    page.heading("Now");
    page.paragraph(&standing(state, &model.spec, now));
    page.paragraph(&state.message);
    for line in unverified(status, model.spec.serving.image.is_some()) {
        page.paragraph(&line);
    }
    for ignored in &state.invalid_annotations {
        page.paragraph(&format!("Ignored: {ignored}"));
    }
    page.heading("What comes next");
    for line in prospects(state, &model.spec.rollout, refused, now) {
        page.item(&line);
    }
    if state.stable.is_some() {
        page.item(&way_back(state, &model.spec, known, now));
    }
    page.heading("What you can do");
    let verbs = verbs(state, &model.spec.rollout, refused);
    let commands: Vec<String> = verbs
        .iter()
        .map(|(verb, _)| format!("kubectl serin {}", verb.replace("NAME", &name)))
        .collect();
    let column = commands.iter().map(String::len).max().unwrap_or(0) + 2;
    for (command, (_, effect)) in commands.iter().zip(&verbs) {
        page.labelled(2, &format!("{command:<column$}"), effect);
    }
    page.heading("Decisions, the newest first");
    if state.decisions.is_empty() {
        page.paragraph("None yet.");
    }
    for (index, record) in state.decisions.iter().enumerate().rev() {
        let before = index
            .checked_sub(1)
            .and_then(|before| state.decisions.get(before));
        page.decision(record, before);
    }
    page.out
}

/// The state of the rollout.
fn standing(state: &State, spec: &ModelDeploymentSpec, now: Timestamp) -> String {
    let Some(canary) = &state.canary else {
        return match (&state.stable, state.phase) {
            (_, Phase::Asleep) => "Asleep (spec.replicas is 0): no version has pods, and the \
                 address answers 503."
                .to_owned(),
            (Some(stable), Phase::Waking) => format!(
                "Waking up: the address answers 503 until a pod of version {} is Ready.",
                stable.version
            ),
            (Some(stable), Phase::RollingBack) => format!(
                "All traffic is back on version {}. The version that was taken back keeps its pods \
                 until its last requests are answered.",
                stable.version
            ),
            (Some(stable), Phase::Promoting) => format!(
                "Version {} serves all traffic. The version before it keeps its pods for {}, so \
                 that the way back stays warm.",
                stable.version,
                declared(spec.scale_down_delay())
            ),
            (Some(stable), _) => {
                format!(
                    "No rollout is under way. Version {} is the stable one.",
                    stable.version
                )
            }
            (None, _) => "No version serves yet.".to_owned(),
        };
    };
    let rest = state.stable.as_ref().map_or_else(
        || "No version serves yet.".to_owned(),
        |stable| match canary.weight {
            0 => format!("Version {} serves all traffic.", stable.version),
            100 => format!(
                "Version {} keeps all its pods, so that it can take it back.",
                stable.version
            ),
            weight => format!(
                "Version {} serves the other {} %.",
                stable.version,
                100 - weight
            ),
        },
    );
    match &canary.progress {
        None => format!(
            "Version {} has no traffic; its pods have been starting since {}. {rest}",
            canary.version,
            moment(canary.since, now)
        ),
        Some(progress) => format!(
            "Version {} is on trial with {} % of the traffic: step {} of {}, since {}. {rest}",
            canary.version,
            canary.weight,
            progress.step + 1,
            spec.rollout.steps.len(),
            moment(progress.step_since, now)
        ),
    }
}

/// What could not be verified of the versions in use, and the remedy. The bundled image is the
/// platform's affair.
fn unverified(status: &ModelDeploymentStatus, own_image: bool) -> Vec<String> {
    let verified = status.verified.clone().unwrap_or_default();
    let stable = status.state.stable.as_ref();
    let canary = status.state.canary.as_ref();
    let versions = [
        stable.map(|stable| &stable.version).zip(verified.stable),
        canary.map(|canary| &canary.version).zip(verified.canary),
    ];
    let mut lines = Vec::new();
    for (version, verification) in versions.into_iter().flatten() {
        if verification.model == ModelVerification::Unverified {
            lines.push(format!(
                "Not verified: the model of version {version} is mounted as it is. Set \
                 spec.model.digest, which the bundled image checks."
            ));
        }
        if own_image && verification.image == ImageVerification::Tag {
            lines.push(format!(
                "Not verified: the image of version {version} is named by a tag, which can move. \
                 Add its digest: spec.serving.image: …@sha256:…"
            ));
        }
    }
    lines
}

/// The conditions of the next move.
fn prospects(
    state: &State,
    rollout: &Rollout,
    refused: Option<&RefusedVersion>,
    now: Timestamp,
) -> Vec<String> {
    let mut lines = Vec::new();
    match &state.canary {
        Some(CanaryVersion {
            progress: Some(progress),
            version,
            ..
        }) => {
            let held = state
                .last_move()
                .is_some_and(|last| last.action == reasons::FAILURE_HELD);
            if held {
                lines.push(
                    "It failed and is held for you: its weight stays until you abort it or promote \
                     it in full."
                        .to_owned(),
                );
            } else {
                lines.push(forward(progress, rollout, version, now));
            }
            lines.push(backward(rollout).to_owned());
            lines.push(without_proof(progress, rollout, now));
            lines.push(without_metrics(progress, rollout, now));
        }
        Some(canary) if canary.rollback => lines.push(format!(
            "All traffic once its pods are Ready (spec.rollout.rollbackWindow); not if they are \
             not by {} (spec.rollout.progressDeadline), or cannot run.",
            moment(after(canary.since, rollout.progress_deadline.into()), now)
        )),
        Some(canary) if state.stable.is_some() => lines.push(format!(
            "Its first {} % of the traffic once its pods are Ready; its trial ends if they are not \
             by {} (spec.rollout.progressDeadline), or at once if they cannot run.",
            rollout.steps.first().map_or(0, |step| step.weight),
            moment(after(canary.since, rollout.progress_deadline.into()), now)
        )),
        Some(_) => lines.push(
            "All traffic once a pod of it is Ready: there is nothing to compare it with."
                .to_owned(),
        ),
        None if state.postponed.is_some() => {
            lines.extend(state.postponed.iter().map(|postponed| {
                format!(
                    "Version {} is tried again at {} (attempt {}), or at once if \
                     spec.rollout.retryToken changes. {}",
                    postponed.version,
                    moment(postponed.retry_at, now),
                    postponed.attempts.saturating_add(1),
                    postponed.reason
                )
            }));
        }
        None if state.phase == Phase::Asleep => lines.push(
            "Nothing, until spec.replicas is above 0. Then the stable version comes back first, \
             and the spec's version, if it is another one, is put on trial after it."
                .to_owned(),
        ),
        None if refused.is_none() => {
            lines.push("Nothing, until the spec asks for another version.".to_owned());
        }
        None => lines.push(
            "Nothing, until the spec asks for a version that was not rolled back, or \
             spec.rollout.retryToken changes."
                .to_owned(),
        ),
    }
    lines
}

/// Which versions would go straight back to all traffic today.
fn way_back(
    state: &State,
    spec: &ModelDeploymentSpec,
    known: &BTreeMap<Revision, KnownVersion>,
    now: Timestamp,
) -> String {
    let window = &spec.rollout.rollback_window;
    if window.revisions == 0 {
        return "Back to an earlier version by the steps (spec.rollout.rollbackWindow.revisions is \
                0)."
            .to_owned();
    }
    let taken = known.iter().filter_map(|(revision, version)| {
        let before = stable_before(known, state, revision)?;
        let takes = window.takes(before.back, before.until, now);
        let name = format!("{} ({revision})", version.spec.name());
        takes.then_some((before.back, name))
    });
    let mut taken: Vec<_> = taken.collect();
    taken.sort();
    let names: Vec<_> = taken.into_iter().map(|(_, name)| name).collect();
    let which = match names.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    format!(
        "Without steps, should the spec ask for it (`undo`), goes back a version that was stable \
         at most {} promotions and {} ago (spec.rollout.rollbackWindow): today {which}.",
        window.revisions,
        declared(window.within)
    )
}

fn forward(progress: &Progress, rollout: &Rollout, version: &str, now: Timestamp) -> String {
    let index = progress.step as usize;
    let target = rollout.steps.get(index + 1).map_or_else(
        || format!("Version {version} is promoted"),
        |next| format!("On to {} %", next.weight),
    );
    if rollout.paused {
        return format!("{target} only after the rollout is resumed (spec.rollout.paused).");
    }
    let end = after(
        progress.step_since + SignedDuration::from_millis(progress.metrics_outage_ms),
        rollout.least_time(index),
    );
    let not_before = if end > now {
        format!(", not before {}", moment(end, now))
    } else {
        String::new()
    };
    let consent = match &progress.approved {
        Some(approved) => format!(
            " ({} agreed at {})",
            approved.by.as_deref().unwrap_or("a person"),
            moment(approved.at, now)
        ),
        None if rollout.needs_approval(index) => " and a person agrees".to_owned(),
        None => pause(progress, rollout, now),
    };
    format!("{target} at the first look in which every objective passes{consent}{not_before}.")
}

/// How the step's pause is over by itself.
fn pause(progress: &Progress, rollout: &Rollout, now: Timestamp) -> String {
    let pause = rollout.pause(progress.step as usize);
    let Some(duration) = pause.and_then(|pause| pause.duration) else {
        return String::new();
    };
    let over = match progress.paused_since {
        Some(since) => format!("at {}", moment(after(since, duration.into()), now)),
        None => format!("{} after that", declared(duration)),
    };
    format!(" and the step's pause is over, {over} or once a person ends it")
}

/// What follows failing evidence.
fn backward(rollout: &Rollout) -> &'static str {
    match rollout.on_failure {
        OnFailure::Rollback => {
            "Back to 0 % in the same look in which an objective is proven broken, a scrape is so \
             bad that no proof is needed, or its pods fail."
        }
        OnFailure::Hold => {
            "If an objective is proven broken, the weight is held for a person to decide \
             (spec.rollout.onFailure). Back to 0 % at once if a scrape is so bad that no proof is \
             needed, or its pods fail."
        }
    }
}

fn without_proof(progress: &Progress, rollout: &Rollout, now: Timestamp) -> String {
    let policy = &rollout.on_insufficient_data;
    let since = progress.step_since + SignedDuration::from_millis(progress.metrics_outage_ms);
    let end = moment(after(since, policy.after.into()), now);
    let then = match policy.then {
        OnDeadline::Hold => "keep waiting",
        OnDeadline::AwaitApproval => "wait for a person's approval",
        OnDeadline::Advance => "take the next step, unless the version is suspect",
        OnDeadline::Rollback => "roll back",
    };
    format!("If still inconclusive at {end}: {then} (spec.rollout.onInsufficientData).")
}

fn without_metrics(progress: &Progress, rollout: &Rollout, now: Timestamp) -> String {
    let policy = &rollout.on_metrics_outage;
    let goes_back = policy.then == OnDeadline::Rollback;
    match progress.metrics_outage_since {
        None if goes_back => format!(
            "While the metrics cannot be trusted nothing moves; after {} of that all traffic goes \
             back (spec.rollout.onMetricsOutage).",
            declared(policy.hold)
        ),
        None => "While the metrics cannot be trusted nothing moves (spec.rollout.onMetricsOutage)."
            .to_owned(),
        Some(since) if goes_back => format!(
            "The metrics cannot be trusted since {}, so nothing moves; if that lasts until {}, all \
             traffic goes back (spec.rollout.onMetricsOutage).",
            moment(since, now),
            moment(after(since, policy.hold.into()), now)
        ),
        Some(since) => format!(
            "The metrics cannot be trusted since {}, so nothing moves until they can \
             (spec.rollout.onMetricsOutage).",
            moment(since, now)
        ),
    }
}

/// The plug-in's verbs that apply now, with their effects.
fn verbs(
    state: &State,
    rollout: &Rollout,
    refused: Option<&RefusedVersion>,
) -> Vec<(&'static str, String)> {
    let mut verbs = Vec::new();
    let stable = state
        .stable
        .as_ref()
        .map_or("", |stable| stable.version.as_str());
    if let Some(canary) = &state.canary {
        let version = &canary.version;
        if !stable.is_empty() {
            verbs.push((
                "abort NAME",
                format!("all traffic back on {stable} now; {version} is refused from then on"),
            ));
            verbs.push(if rollout.paused {
                (
                    "resume NAME",
                    "let the evidence move the weight again".to_owned(),
                )
            } else {
                (
                    "pause NAME",
                    "hold the weight; a breach still rolls back".to_owned(),
                )
            });
        }
        if let Some(progress) = &canary.progress {
            let step = progress.step as usize;
            if rollout.takes_approval(step) && progress.approved.is_none() {
                verbs.push((
                    "promote NAME",
                    "approve the next move; the evidence must still pass".to_owned(),
                ));
            }
            verbs.push((
                "promote NAME --skip-step",
                "leave this step without its evidence; not while an objective fails or \
                 cannot be read"
                    .to_owned(),
            ));
            verbs.push((
                "promote NAME --full",
                format!("promote {version} to all traffic now, whatever the evidence says"),
            ));
        }
    } else if let Some(refused) = refused {
        verbs.push((
            "retry NAME",
            format!("try version {} again", refused.version),
        ));
    }
    if state.canary.is_none() && !stable.is_empty() {
        verbs.push((
            "undo NAME",
            "go back to an earlier version; see `history`".to_owned(),
        ));
    }
    verbs.push(("status NAME", "the present numbers of the gates".to_owned()));
    verbs
}

fn after(since: Timestamp, time: std::time::Duration) -> Timestamp {
    since.checked_add(time).unwrap_or(Timestamp::MAX)
}

/// Builder of the text.
struct Page {
    out: String,
    now: Timestamp,
    width: usize,
}

impl Page {
    fn line(&mut self, text: &str) {
        self.out.push_str(text.trim_end());
        self.out.push('\n');
    }

    fn heading(&mut self, text: &str) {
        self.line("");
        self.line(text);
    }

    fn labelled(&mut self, indent: usize, label: &str, text: &str) {
        labelled(&mut self.out, indent, label, text, self.width);
    }

    fn paragraph(&mut self, text: &str) {
        if !text.is_empty() {
            self.labelled(2, "", text);
        }
    }

    fn item(&mut self, text: &str) {
        self.labelled(2, "- ", text);
    }

    fn decision(&mut self, record: &DecisionRecord, before: Option<&DecisionRecord>) {
        let from = before
            .filter(|before| before.version == record.version)
            .map(|before| before.weight);
        let weight = match from {
            Some(from) if from != record.weight => format!("{from} % to {} %", record.weight),
            _ => format!("{} %", record.weight),
        };
        let verdict = record
            .verdict
            .map(|verdict| format!(", {}", meaning(verdict)));
        let by = record.by.as_ref().map(|by| format!(", requested by {by}"));
        let label = format!("{}  ", moment(record.at, self.now));
        let title = format!(
            "{}: version {}, {weight}{}{}",
            record.action,
            record.version,
            verdict.unwrap_or_default(),
            by.unwrap_or_default()
        );
        self.labelled(2, &label, &title);
        self.labelled(4, "", &record.sentence);
        for objective in &record.evidence {
            self.objective(objective);
        }
        if let Some(next) = record.next_check {
            let text = match next.duration_since(record.at) {
                SignedDuration::ZERO => "at once".to_owned(),
                later => format!("{} later", span(later)),
            };
            self.labelled(4, "next look  ", &text);
        }
        self.line("");
    }

    fn objective(&mut self, objective: &ObjectiveRecord) {
        self.labelled(
            4,
            &format!("{}  ", objective.objective),
            &format!(
                "{}; limit {}",
                meaning(objective.verdict),
                objective.threshold
            ),
        );
        if !objective.query.is_empty() {
            self.labelled(6, "asked    ", &objective.query);
        }
        self.labelled(
            6,
            "window   ",
            &format!(
                "the last {} s, of which only scrapes not counted before add to the counts",
                objective.window_seconds
            ),
        );
        if let Some(value) = objective.value {
            self.labelled(6, "measured ", &format!("{value}"));
        }
        if objective.step.is_some() || objective.rollout.is_some() {
            self.line(&format!(
                "      {:<17} {:>12} {:>10} {:>9}",
                "counted", "requests", "bad", "share"
            ));
        }
        for (label, look) in [("step", objective.step), ("rollout", objective.rollout)] {
            if let Some(look) = look {
                self.tally(label, "canary", look.canary);
                self.tally("", "stable", look.stable);
            }
        }
        if let (Some(bound), Some(needed)) = (objective.upper_bound, objective.bound_needed) {
            let known = if bound >= 1.0 {
                "the canary's true share may be 100 %".to_owned()
            } else {
                format!("the canary's true share is below {}", percent(bound))
            };
            self.labelled(
                6,
                "bound    ",
                &format!("{known}; the next move needs it below {}", percent(needed)),
            );
        }
        if objective.verdict == Verdict::NoMetrics {
            self.labelled(6, "why      ", &objective.sentence);
        }
    }

    fn tally(&mut self, label: &str, side: &str, tally: Tally) {
        self.line(&format!(
            "      {label:<8} {side:<8} {:>12} {:>10} {:>9}",
            count(tally.requests),
            count(tally.bad),
            percent(tally.bad_share())
        ));
    }
}

/// A verdict as text.
fn meaning(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "passes",
        Verdict::Fail => "fails",
        Verdict::NeedMoreData => "not proven yet",
        Verdict::NoMetrics => "cannot be trusted",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
