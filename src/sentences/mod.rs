//! What people read, rendered last: the only module that turns data into sentences.
//!
//! The words of an error stay with its type, by `thiserror`, as is Rust's convention.

mod conclusion;
mod conditions;
mod drift;
mod figures;
mod judgement;
mod notes;
mod numbers;
mod pods;
mod refusals;
mod routers;
mod statement;

use std::fmt::{self, Display, Formatter};

use self::pods::pods_of;
use crate::{
    api::{Revision, commands::APPROVE},
    evidence::BlindReason,
};

pub(crate) use conditions::{Message, ServingPods, invalid};
pub(crate) use figures::without_figures;
pub(crate) use notes::{ignored, note};
pub(crate) use statement::{
    Attempt, Distrust, FirstStepReason, HoldPolicy, PodTrouble, SkipObjection, Statement,
    Withdrawal,
};

/// How a moment is written in full.
const MOMENT: &str = "%F %H:%M:%SZ";
/// How a moment of the same day is written.
const TIME: &str = "%H:%M:%SZ";

/// The sentences of a message, each followed by a space but the last.
pub(crate) fn text(statements: &[Statement]) -> String {
    let sentences: Vec<_> = statements.iter().map(ToString::to_string).collect();
    sentences.join(" ")
}

/// How a version is named among others: with its revision, where another one carries the same
/// version, as after a change of `serving` alone.
pub(crate) fn named_among<'a>(
    all: impl IntoIterator<Item = (&'a Revision, &'a str)>,
    revision: &Revision,
    version: &str,
) -> String {
    let mut all = all.into_iter();
    if all.any(|(other, name)| name == version && other != revision) {
        format!("{version} ({revision})")
    } else {
        version.to_owned()
    }
}

/// Why nothing is known of an objective at one look; `None` if it was not read.
pub(crate) fn unread(blind: Option<&BlindReason>) -> String {
    blind.map_or_else(
        || "The metrics were not read.".to_owned(),
        |blind| format!("{blind}."),
    )
}

impl Display for Statement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serves { version } => write!(f, "Version {version} serves all traffic."),
            Self::FirstStarts { version } => write!(
                f,
                "Starting the first version, {version}; it gets all traffic once a pod of it is \
                 Ready."
            ),
            Self::FirstServes { version, pods } => {
                write!(
                    f,
                    "The first version, {version}, is Ready and serves all traffic"
                )?;
                match pods {
                    Some((ready, wanted)) => write!(f, " with {ready} of {wanted} pods."),
                    None => f.write_str("."),
                }
            }
            Self::FirstCannotStart { version, failure } => {
                write!(f, "The first version, {version}, cannot start: {failure}")
            }
            Self::Starts {
                version,
                stable,
                pods,
                attempt,
            } => {
                match attempt {
                    Attempt::First => write!(f, "Starting version {version}"),
                    Attempt::AfterTrouble(number) => {
                        write!(f, "Trying version {version} again (attempt {number})")
                    }
                    Attempt::WithNewToken => write!(
                        f,
                        "spec.rollout.retryToken has changed: trying version {version} again"
                    ),
                }?;
                write!(
                    f,
                    " beside {stable}, without traffic until {pods} pods are Ready."
                )
            }
            Self::GoesBack {
                version,
                stable,
                pods,
                until,
            } => write!(
                f,
                "Going back from version {stable} to {version}, which was stable until {} \
                 (spec.rollout.rollbackWindow): it gets all traffic once {pods} pods are Ready.",
                until.strftime(MOMENT)
            ),
            Self::WentBack {
                version,
                stable,
                delay,
            } => write!(
                f,
                "Version {version} is Ready and serves all traffic again \
                 (spec.rollout.rollbackWindow); {stable} keeps its pods for {delay}."
            ),
            Self::Denied { version, refusal } => {
                write!(f, "Version {version} does not begin. {refusal}")
            }
            Self::Pods {
                version,
                health,
                replicas,
            } => f.write_str(&pods_of(version, health, *replicas)),
            // The condition has the API server's message.
            Self::Unwritten(refusal) => write!(
                f,
                "{} {} has to be written first.",
                refusal.kind, refusal.name
            ),
            Self::Restored { version } => write!(
                f,
                "The status was lost: version {version}, the one in force by the history, has all \
                 traffic."
            ),
            Self::Asleep { waiting } => {
                f.write_str(
                    "Asleep (spec.replicas is 0): no version has pods, and the address answers \
                     503.",
                )?;
                match waiting {
                    Some(version) => write!(f, " Version {version} waits in the spec."),
                    None => Ok(()),
                }
            }
            Self::Waking => f.write_str("Waking up (spec.replicas is no longer 0)."),
            Self::Paused => f.write_str(
                "Paused (spec.rollout.paused): no weight is raised until it is resumed; a breach \
                 still rolls back.",
            ),
            Self::Resumed => f.write_str("Resumed (spec.rollout.paused is false)."),
            Self::StaysRefused {
                version,
                refused,
                stable,
            } => write!(
                f,
                "Version {version} was rolled back at {}: {} Set spec.rollout.retryToken to \
                 another value to try it again. Version {stable} serves all traffic.",
                refused.at.strftime(MOMENT),
                refused.reason
            ),
            Self::Earlier(reason) => f.write_str(reason),
            Self::RetriedAt { version, at } => write!(
                f,
                "Version {version} is tried again at {}.",
                at.strftime(MOMENT)
            ),
            Self::Withdrawn {
                why,
                canary,
                stable,
            } => withdrawn(f, why, canary, stable),
            Self::PausedBeforeWeight { version } => {
                write!(f, "Paused: version {version} is Ready and has no traffic.")
            }
            Self::IsReady { version } => write!(f, "Version {version} is Ready."),
            Self::NotMeasurable { version } => write!(
                f,
                "Version {version} is Ready and gets no traffic: what it must hold cannot be \
                 measured."
            ),
            Self::NotMeasuredYet => f.write_str("What it must hold cannot be measured yet."),
            Self::NotAllMeasuredYet => f.write_str("Not everything can be measured yet."),
            Self::Unmeasured(it) => write!(f, "{}: {}.", it.objective, it.message),
            Self::FirstWeight {
                version,
                weight,
                why,
            } => write!(
                f,
                "Version {version} is Ready, verified and warm: it gets {weight} % of the \
                 traffic{why}."
            ),
            Self::NoWayBack => {
                f.write_str("It must be able to take all traffic back before another gets more.")
            }
            Self::AllTrafficBack { version } => {
                write!(f, "All traffic is back on version {version}.")
            }
            Self::Postponed {
                stable,
                version,
                retry_at,
            } => write!(
                f,
                "All traffic is on version {stable}. Nothing is held against version {version}: it \
                 is tried again at {}.",
                retry_at.strftime(MOMENT)
            ),
            Self::StartsOver { weight, version } => write!(
                f,
                "No step of spec.rollout.steps is as low as {weight} % any more: version {version} \
                 starts over, all traffic is on stable."
            ),
            Self::StepLowered { from, to, version } => write!(
                f,
                "{from} % is no step of spec.rollout.steps any more: version {version} goes back \
                 to {to} %."
            ),
            Self::Concluded(conclusion) => f.write_str(&conclusion.sentence()),
            Self::HeldForPerson { weight, policy } => write!(
                f,
                "Held at {weight} % ({policy}) until a person aborts it or promotes it in full."
            ),
            Self::NotSkipped(why) => write!(f, "The step is not skipped: {why}."),
            Self::HeldBlind { weight, why } => write!(
                f,
                "Holding at {weight} %: the metrics cannot be trusted. {why}."
            ),
            Self::BlindTooLong { hold, why } => write!(
                f,
                "The metrics could not be trusted for {hold} (spec.rollout.onMetricsOutage): {why}."
            ),
            Self::MetricsBack { seconds } => write!(
                f,
                "The metrics can be trusted again after {seconds} s; what was counted meanwhile is \
                 taken in."
            ),
            Self::PausedAt { weight } => write!(f, "Paused at {weight} %."),
            Self::Skipped { by, weight } => {
                write!(f, "{} skips the step of {weight} %.", person(by.as_deref()))
            }
            Self::StepLasts { until } => {
                write!(
                    f,
                    "This step lasts until {} at least.",
                    until.strftime(TIME)
                )
            }
            Self::NoProof { after } => write!(
                f,
                "No proof within {after} (spec.rollout.onInsufficientData)."
            ),
            Self::StepPaused {
                until,
                version,
                revision,
                weight,
            } => {
                write!(
                    f,
                    "The step's pause holds version {version} at {weight} % until "
                )?;
                if let Some(until) = until {
                    write!(f, "{}, or until ", until.strftime(MOMENT))?;
                }
                write!(
                    f,
                    "a person ends it: the annotation {APPROVE}={revision}@{weight}."
                )
            }
            Self::AwaitsApproval {
                next,
                version,
                revision,
                weight,
            } => {
                match next {
                    Some(next) => write!(f, "Before getting {next} %"),
                    None => f.write_str("Before being promoted"),
                }?;
                write!(
                    f,
                    ", version {version} waits for a person's yes: the annotation \
                     {APPROVE}={revision}@{weight}."
                )
            }
            Self::Holding { weight } => write!(f, "Holding at {weight} %."),
            Self::Promoted { version } => write!(f, "Version {version} is promoted."),
            Self::MovesTo { weight } => write!(f, "Moving to {weight} %."),
            Self::StableAnswers => f.write_str("Stable answers its share meanwhile."),
            Self::CannotRun { version, failure } => {
                write!(f, "Version {version} cannot run: {failure}")
            }
            Self::NotReadyInTime {
                version,
                ready,
                wanted,
                deadline,
                cause,
            } => {
                write!(
                    f,
                    "{ready} of {wanted} pods of version {version} were Ready within {deadline} \
                     (spec.rollout.progressDeadline)"
                )?;
                end(f, cause.as_ref())
            }
            Self::NoPodForDeadline {
                version,
                deadline,
                cause,
            } => {
                write!(
                    f,
                    "Version {version} has had no Ready pod for {deadline} \
                     (spec.rollout.progressDeadline)"
                )?;
                end(f, cause.as_ref())
            }
            Self::SilentFor { version, seconds } => {
                write!(f, "Version {version} has had no Ready pod for {seconds} s.")
            }
            Self::Unconfirmed { why } => write!(
                f,
                "That is what a cache says, and it is not confirmed: {why}."
            ),
            Self::Aborted {
                by,
                version,
                weight,
            } => write!(
                f,
                "{} aborted the rollout of version {version} at {weight} %.",
                person(by.as_deref())
            ),
            Self::PromotedInFull {
                by,
                version,
                weight,
            } => write!(
                f,
                "{} promoted version {version} from {weight} % without waiting for its evidence.",
                person(by.as_deref())
            ),
            Self::Approved {
                by,
                version,
                weight,
                without_proof,
            } => {
                let person = person(by.as_deref());
                write!(f, "{person} approved version {version}: ")?;
                if *weight == 100 {
                    f.write_str("its promotion")?;
                } else {
                    write!(f, "leaving {weight} %")?;
                }
                f.write_str(if *without_proof {
                    " does not wait for proof, unless the version is suspect."
                } else {
                    " now waits for the evidence alone."
                })
            }
        }
    }
}

fn withdrawn(f: &mut Formatter<'_>, why: &Withdrawal, canary: &str, stable: &str) -> fmt::Result {
    let ending = format!("version {canary} is withdrawn, all traffic is on {stable}.");
    match why {
        Withdrawal::InvalidSpec => write!(f, "The spec cannot be used any more: {ending}"),
        Withdrawal::Asleep => write!(f, "spec.replicas is 0: {ending}"),
        Withdrawal::Deleting => write!(f, "The model is being deleted: {ending}"),
        Withdrawal::Newer(version) => write!(f, "The spec asks for version {version}: {ending}"),
        Withdrawal::StableAgain => write!(
            f,
            "The spec asks for version {stable} again: all traffic is back on it; version {canary} \
             is withdrawn."
        ),
        Withdrawal::TokenAgain => write!(
            f,
            "spec.rollout.retryToken is again what it was when version {canary} was rolled back: \
             it is withdrawn, all traffic is on {stable}."
        ),
    }
}

/// The end of a sentence on pods that are not Ready.
fn end(f: &mut Formatter<'_>, cause: Option<&PodTrouble>) -> fmt::Result {
    match cause {
        None => f.write_str("."),
        Some(PodTrouble::Problem(problem)) => without_stop(f, &problem.to_string()),
        Some(PodTrouble::Unwritten(refusal)) => without_stop(f, &refusal.to_string()),
        Some(PodTrouble::NotStarted) => f.write_str(": they have not been started."),
        Some(PodTrouble::StartedLate) => f.write_str(": they were started too late."),
    }
}

/// The words of others at the end of a sentence, which has a full stop of its own.
fn without_stop(f: &mut Formatter<'_>, words: &str) -> fmt::Result {
    write!(f, ": {}.", words.trim_end_matches('.'))
}

/// The person who spoke, as the subject of a sentence.
fn person(by: Option<&str>) -> &str {
    by.unwrap_or("Somebody (serin.dev/requested-by is not set)")
}

impl Display for FirstStepReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Declared => Ok(()),
            Self::RateUnknown(blind) => write!(
                f,
                ", the first step, since stable's traffic is not known: {blind}"
            ),
            Self::Enough {
                rate,
                within,
                needed,
            } => write!(
                f,
                ", the lowest step at which stable's {rate:.1} requests/s would bring, within \
                 {within}, the {needed} clean ones that the next step asks for"
            ),
            Self::Highest { rate } => write!(
                f,
                ", the highest step to start at, since stable's {rate:.1} requests/s would at none \
                 bring the clean ones that the next step asks for"
            ),
        }
    }
}

impl Display for HoldPolicy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Objective => "the objective's `then` is Hold",
            Self::Rollout => "spec.rollout.onFailure is Hold",
        })
    }
}

impl Display for SkipObjection {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fails => "its evidence fails",
            Self::Blind => "the metrics cannot be trusted",
            Self::Paused => "the rollout is paused (spec.rollout.paused)",
            Self::Suspect => "the version is suspect",
            Self::NoPods => "none of its pods is Ready",
        })
    }
}

impl Display for Distrust {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unmeasured(it) => write!(f, "{}: {}", it.objective, it.message),
            Self::NotRead { objective } => write!(f, "{objective}: the metrics were not read"),
            Self::OtherKind { objective } => {
                write!(f, "{objective}: what was read is of another kind")
            }
            Self::Uncounted {
                silent,
                busiest,
                requests,
            } => write!(
                f,
                "{silent}: nothing was counted, while {busiest} counted {requests} requests: its \
                 metric is not exported, or under another name; make its source export it, name \
                 another source (spec.objectives[].source), or remove the objective"
            ),
            Self::ShareOff {
                objective,
                share,
                requests,
                weight,
            } => write!(
                f,
                "{objective}: the canary answered {:.1} % of {requests} requests in this step, its \
                 weight is {weight} %: the counts are not of this traffic",
                share * 100.0
            ),
        }
    }
}
