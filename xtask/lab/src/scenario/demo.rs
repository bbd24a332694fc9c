//! What `cargo xtask demo` shows, and every claim that it makes.

use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serin::{
    api::{ModelDeployment, Verdict, conditions::reasons},
    evidence::GateState,
    gate::{GatePolicy, GateVerdict},
};

use super::audit::Requests;
use super::checks::Checks;
use super::command_scenario::serves;
use super::faults::was_rolled_back;
use super::timeline::{Timeline, headline};
use super::traffic::{Answer, Answers, Traffic};
use super::{Args, Lab, condition, decision, is_ready};

pub const V1: &str = include_str!("../../../../examples/demo/v1.yaml");
pub const V2: &str = include_str!("../../../../examples/demo/v2.yaml");
pub const V3: &str = include_str!("../../../../examples/demo/v3.yaml");
pub const V4: &str = include_str!("../../../../examples/demo/v4.yaml");

/// How often the demo's Prometheus scrapes (`charts/serin/values-local.yaml`).
const SCRAPE: Duration = Duration::from_secs(2);
/// Into how many offsets a scrape's interval is divided where it is not known when scrapes fall.
const SCRAPE_OFFSETS: u32 = 8;
/// From evidence that suffices to the last request of a bad version: two scrapes and two seconds.
pub const BACK_WITHIN: Duration = Duration::from_secs(6);
/// The latency objective of the manifests.
const SLOW: Duration = Duration::from_millis(250);
/// Requests under way when a weight changes arrive within this time.
const SETTLED: Duration = Duration::from_millis(500);
/// Longest time until deleted pods have gone: 30 s of grace, and as long for a slow
/// node to notice.
const PODS_GO_WITHIN: Duration = Duration::from_secs(60);
/// Between two questions about pods.
const PAUSE: Duration = Duration::from_secs(1);

/// Plays it.
pub async fn play(args: &Args) -> Result<()> {
    let lab = Lab::open("demo", "iris").await?;
    let mut timeline = Timeline::default();
    let mut checks = Checks::default();

    headline("Version 1.0.0, the first: all traffic once it is Ready");
    lab.apply(V1).await?;
    lab.wait("Ready", Duration::from_secs(90), is_ready).await?;
    let traffic = lab.traffic(args.rate, args.through_port_forward).await?;
    timeline
        .linger(&lab, &traffic, Duration::from_secs(4))
        .await?;

    headline("Version 2.0.0, a good one: promoted step by step");
    let (began, began_at) = (traffic.now(), Timestamp::now());
    lab.apply(V2).await?;
    let promoted = |model: &ModelDeployment| serves(model, "2.0.0");
    let model = timeline
        .watch(&lab, &traffic, Duration::from_secs(300), promoted)
        .await?;
    let ended_at = Timestamp::now();
    // The old version's pods are deleted; the rollout's requests count until the last of
    // them has gone.
    let deadline = traffic.now() + PODS_GO_WITHIN;
    while traffic.now() < deadline && !lab.pods("1.0.0").await?.is_empty() {
        timeline.linger(&lab, &traffic, PAUSE).await?;
    }
    timeline.linger(&lab, &traffic, PAUSE).await?;
    let until = traffic.now();
    let good = traffic.settled().await.within(began, until);
    let rate = good.count() as f64 / until.saturating_sub(began).as_secs_f64();
    checks.claim(
        good.failed() == 0 && rate >= f64::from(args.rate) * 0.98,
        "good rollout, failed requests (start of pods, each weight, promotion, end of the old \
         pods)",
        format!(
            "{} of {} at {rate:.0}/s {}",
            good.failed(),
            good.count(),
            kinds(&good)
        ),
    );
    let weights = weights(&model, "2.0.0");
    checks.claim(
        weights == [0, 10, 25, 50, 100, 100],
        "good rollout, its weights from the start of its pods to its promotion",
        format!("{weights:?} %"),
    );
    let left = lab.pods("1.0.0").await?.len();
    checks.claim(
        left == 0,
        "good rollout, pods of version 1.0.0 that are left",
        left,
    );
    shares(&mut checks, &model, &good, &traffic);
    if let Some(log) = &args.audit_log {
        let requests = Requests::between(log, &audit_time(began_at), &audit_time(ended_at))?;
        checks.note("good rollout, the operator's API requests", &requests);
    }

    headline("Version 3.0.0: one answer in five fails");
    bad(
        &lab,
        &mut timeline,
        &mut checks,
        &traffic,
        V3,
        "3.0.0",
        |answer| !answer.is_ok(),
    )
    .await?;

    headline("Version 4.0.0: every answer takes 300 ms longer");
    bad(
        &lab,
        &mut timeline,
        &mut checks,
        &traffic,
        V4,
        "4.0.0",
        |answer| answer.latency() > SLOW,
    )
    .await?;

    headline("Version 3.0.0 again: refused");
    let again = traffic.now();
    lab.apply(V3).await?;
    let refused =
        |model: &ModelDeployment| condition(model, "Ready") == Some(("False", reasons::REFUSED));
    timeline
        .watch(&lab, &traffic, Duration::from_secs(20), refused)
        .await?;
    timeline
        .linger(&lab, &traffic, Duration::from_secs(6))
        .await?;
    let until = traffic.now();
    let second = traffic.settled().await.within(again, until);
    checks.claim(
        second.of("3.0.0").count() == 0 && second.failed() == 0,
        "version 3.0.0 applied again, its requests",
        format!("{} of {}", second.of("3.0.0").count(), second.count()),
    );
    let all = traffic.finish().await;
    summary(&all);
    let own = all.of("3.0.0").failed();
    checks.claim(
        all.failed() == own,
        "the whole demo, failed requests that were not version 3.0.0's own errors",
        format!("{} of {} {}", all.failed() - own, all.count(), kinds(&all)),
    );
    idle(args, &mut checks).await?;
    checks.finish()
}

/// A version that must be rolled back, and everything that is promised about it.
async fn bad(
    lab: &Lab,
    timeline: &mut Timeline,
    checks: &mut Checks,
    traffic: &Traffic,
    manifest: &str,
    version: &str,
    is_bad: impl Fn(&Answer) -> bool + Copy,
) -> Result<()> {
    let pods_before = lab.pods("2.0.0").await?;
    let began = traffic.now();
    lab.apply(manifest).await?;
    let model = timeline
        .watch(lab, traffic, Duration::from_secs(180), was_rolled_back)
        .await?;
    timeline
        .linger(lab, traffic, Duration::from_secs(3))
        .await?;
    let state = model.status.unwrap_or_default().state;
    let started =
        decision(&state, reasons::CANARY_STARTED, version).context("the canary never started")?;
    let rolled_back =
        decision(&state, reasons::ROLLED_BACK, version).context("it was never rolled back")?;
    let (started, decided) = (traffic.at(started.at), traffic.at(rolled_back.at));

    let until = traffic.now();
    let answers = traffic.settled().await.within(began, until);
    let of_version = answers.of(version);
    let last = of_version
        .0
        .iter()
        .map(|answer| answer.sent)
        .max()
        .unwrap_or_default();
    let sufficed = sufficed(
        crossing(&answers, version, "2.0.0", started, is_bad),
        decided,
    );
    let served = of_version.0.iter().filter(|answer| is_bad(answer)).count();
    checks.claim(
        rolled_back
            .evidence
            .iter()
            .any(|objective| objective.verdict == Verdict::Fail),
        format!("version {version}, rolled back because an objective failed"),
        &rolled_back.sentence,
    );
    checks.claim(
        last.saturating_sub(sufficed) <= BACK_WITHIN,
        format!(
            "version {version}, from evidence that suffices to 100 % on stable (bound {} s)",
            BACK_WITHIN.as_secs()
        ),
        format!(
            "{:.1} s; from the decision {:.0} ms; from the first weight {:.1} s",
            last.as_secs_f64() - sufficed.as_secs_f64(),
            (last.as_secs_f64() - decided.as_secs_f64()) * 1000.0,
            last.as_secs_f64() - started.as_secs_f64()
        ),
    );
    checks.note(
        format!("version {version}, bad answers served"),
        format!("{served} of its {}", of_version.count()),
    );
    let after = answers.within(decided + SETTLED, until);
    checks.claim(
        after.failed() == 0 && after.of(version).count() == 0,
        format!("version {version}, failed requests after the rollback"),
        format!("{} of {} {}", after.failed(), after.count(), kinds(&after)),
    );
    let pods_after = lab.pods("2.0.0").await?;
    checks.claim(
        !pods_before.is_empty()
            && pods_before == pods_after
            && pods_after.iter().all(|(_, restarts)| *restarts == 0),
        format!("version {version}, pods of version 2.0.0 that were replaced or restarted"),
        pods_before
            .iter()
            .filter(|pod| !pods_after.contains(pod))
            .count(),
    );
    Ok(())
}

/// When the evidence sufficed: once the client's counts did, or once the operator decided,
/// whichever was first.
///
/// The operator's scrapes begin at other moments than the client's, so it may decide on bad answers
/// that the client counts one scrape later. The canary then gets no more traffic, and the client's
/// counts may never suffice.
pub fn sufficed(crossed: Option<Duration>, decided: Duration) -> Duration {
    crossed.map_or(decided, |crossed| crossed.min(decided))
}

/// The scrape at which a client that saw every answer would have had evidence enough, wherever the
/// scrapes fall: the gate judges by batches, and Prometheus alone decides where one ends.
pub fn crossing(
    answers: &Answers,
    canary: &str,
    stable: &str,
    from: Duration,
    is_bad: impl Fn(&Answer) -> bool + Copy,
) -> Option<Duration> {
    let policy = GatePolicy::new(0.01, 2, 4);
    let crossed_from = |first: Duration| {
        let mut gate = GateState::new();
        gate.begin_step(10);
        (0..60)
            .map(|scrape| first + SCRAPE * scrape)
            .find_map(|start| {
                let end = start + SCRAPE;
                gate.observe(
                    &answers.within(start, end).look(canary, stable, is_bad),
                    &policy,
                );
                (gate.judge(&policy, Some(25)).verdict == GateVerdict::Fail).then_some(end)
            })
    };
    let crossed: Option<Vec<Duration>> = (0..SCRAPE_OFFSETS)
        .map(|offset| crossed_from(from + SCRAPE * offset / SCRAPE_OFFSETS))
        .collect();
    crossed.and_then(|crossed| crossed.into_iter().max())
}

/// The share that clients saw at each weight.
fn shares(checks: &mut Checks, model: &ModelDeployment, answers: &Answers, traffic: &Traffic) {
    let state = model.status.clone().unwrap_or_default().state;
    let steps: Vec<_> = state
        .decisions
        .iter()
        .filter(|record| record.version == "2.0.0")
        .collect();
    for pair in steps.windows(2) {
        let weight = pair[0].weight;
        if weight == 0 {
            continue; // its pods were starting
        }
        let span = answers.within(traffic.at(pair[0].at) + SETTLED, traffic.at(pair[1].at));
        let (share, declared) = (span.share("2.0.0") * 100.0, f64::from(weight));
        checks.claim(
            (share - declared).abs() <= 2.0 && span.count() >= 2000,
            format!(
                "share of traffic at weight {weight} % (within 2 points, over at least 2000 \
                 requests)"
            ),
            format!("{share:.2} % of {}", span.count()),
        );
    }
}

/// All answers of the whole demo, by version.
fn summary(all: &Answers) {
    println!("\n  version      requests    failed    p99");
    for version in all.versions().into_keys() {
        let of_version = all.of(&version);
        println!(
            "  {version:<10} {:>10} {:>9} {:>4.0} ms",
            of_version.count(),
            of_version.failed(),
            of_version.p99().as_secs_f64() * 1000.0
        );
    }
    let unnamed = all
        .0
        .iter()
        .filter(|answer| answer.version.is_none())
        .count();
    println!("  {:<10} {unnamed:>10} {unnamed:>9}", "none");
    println!("  {:<10} {:>10} {:>9}", "all", all.count(), all.failed());
}

/// What the operator asks of the API server while nothing happens.
async fn idle(args: &Args, checks: &mut Checks) -> Result<()> {
    let (Some(log), 1..) = (&args.audit_log, args.idle_minutes) else {
        return Ok(());
    };
    println!("\nCounting {} idle minutes …", args.idle_minutes);
    let from = Timestamp::now();
    tokio::time::sleep(Duration::from_secs(u64::from(args.idle_minutes) * 60)).await;
    let requests = Requests::between(log, &audit_time(from), &audit_time(Timestamp::now()))?;
    checks.note(
        format!(
            "{} idle minutes, the operator's API requests",
            args.idle_minutes
        ),
        &requests,
    );
    checks.claim(
        requests.writes() == 0,
        format!(
            "{} idle minutes, its writes besides the lease",
            args.idle_minutes
        ),
        requests.writes(),
    );
    Ok(())
}

fn kinds(answers: &Answers) -> String {
    let failures = answers.failures();
    if failures.is_empty() {
        String::new()
    } else {
        format!("{failures:?}")
    }
}

/// The weights that a version was given, decision by decision.
pub fn weights(model: &ModelDeployment, version: &str) -> Vec<u8> {
    let decisions = model
        .status
        .iter()
        .flat_map(|status| &status.state.decisions);
    decisions
        .filter(|record| record.version == version)
        .map(|record| record.weight)
        .collect()
}

fn audit_time(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn the_bound_counts_from_the_clients_counts_or_the_decision_whichever_is_first() {
        assert_eq!(sufficed(Some(S(4)), S(5)), S(4));
        assert_eq!(sufficed(Some(S(6)), S(5)), S(5));
        assert_eq!(sufficed(None, S(5)), S(5));
    }

    /// Four bad answers of eight by the time of the decision, eight good ones that were under way.
    #[test]
    fn a_rollback_before_the_clients_counts_suffice_breaks_no_claim() {
        let answer = |ms: u64, version: &str, status| Answer {
            sent: Duration::from_millis(ms),
            done: Duration::from_millis(ms + 5),
            status: Ok(status),
            version: Some(version.to_owned()),
        };
        let stable = (0..1000).map(|n| answer(n * 10, "2.0.0", 200));
        let canary = (0..16).map(|n| answer(n * 50, "3.0.0", if n < 4 { 500 } else { 200 }));
        let answers = Answers(stable.chain(canary).collect());
        let crossed = crossing(&answers, "3.0.0", "2.0.0", S(0), |answer| !answer.is_ok());
        assert_eq!(crossed, None, "the client never had evidence enough");
        let (decided, last) = (Duration::from_millis(400), Duration::from_millis(750));
        let since = sufficed(crossed, decided);
        assert!(last <= since + BACK_WITHIN);
        let too_late = decided + BACK_WITHIN + S(1);
        assert!(too_late > since + BACK_WITHIN);
    }
}
