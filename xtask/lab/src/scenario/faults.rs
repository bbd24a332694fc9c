//! What a rollout must survive, seen by clients: each scenario ends as it would have without the
//! fault.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cluster::Layout;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use serin::api::conditions::reasons;
use serin::api::{ModelDeployment, Phase, State};

use super::checks::Checks;
use super::demo::{V1, V2, V3};
use super::timeline::{Timeline, event};
use super::traffic::Traffic;
use super::{Lab, condition, decision, is_ready};

const RATE: u32 = 100;
/// Longest time for a first version, which has nothing to wait for but its pods.
const FIRST_VERSION: Duration = Duration::from_secs(180);
/// Longest time for a whole rollout of the demo's manifests, a restart of the operator included.
pub const ROLLOUT: Duration = Duration::from_secs(300);
/// How long Prometheus is away: longer than three scrapes, after which samples are not believed.
const OUTAGE: Duration = Duration::from_secs(15);
/// The operator's process.
pub const OPERATOR: &str = "serin-operator";
/// Time for routers whose operator has just died to ask another one. By the chart they try again
/// after 0.1 s, then up to 2 s apart, and until the node has noticed the death, every second time
/// they are led to the one that is dead.
const TAKEN_OVER: Duration = Duration::from_secs(5);

/// The demo's second version with less time at every weight but 25 %, where the faults happen: a
/// minute less for a rollout, and still more than the evidence needs at these rates.
pub fn second_version() -> Result<Value> {
    let mut manifest: Value = serde_norway::from_str(V2)?;
    let rollout = &mut manifest["spec"]["rollout"];
    for (step, time) in [(0, "5s"), (2, "10s"), (3, "5s")] {
        rollout["steps"][step]["minDuration"] = time.into();
    }
    rollout["bakeTime"] = "5s".into();
    Ok(manifest)
}

/// `kill -9` of every operator while the canary has a quarter of the traffic: promoted all the
/// same.
pub async fn operator_killed_in_canary() -> Result<()> {
    let mut play = Play::begin("fault-canary").await?;
    play.lab.apply_object(second_version()?).await?;
    play.watch(|model| weight(model) >= 25).await?;
    signal(&processes(OPERATOR)?, Signal::KILL)?;
    event("kill -9 of every operator");
    let model = play.watch(has_settled).await?;
    let mut checks = Checks::default();
    let steps: Vec<u8> = state(&model)
        .decisions
        .iter()
        .filter(|record| record.version == "2.0.0")
        .map(|record| record.weight)
        .collect();
    checks.claim(
        steps == [0, 10, 25, 50, 100, 100],
        "every step once, in order",
        format!("{steps:?}"),
    );
    play.end(checks, |_| true).await
}

/// `kill -9` of the leader in the moment in which a rollback is written, before any router can know
/// of it: the other operator tells them, and the version is refused and scaled down all the same.
pub async fn leader_killed_in_rollback() -> Result<()> {
    let mut play = Play::begin("fault-rollback").await?;
    play.lab.apply(V3).await?;
    play.watch(|model| weight(model) > 0).await?;
    let leader = processes_in(OPERATOR, &play.lab.leader().await?)?;
    let rolled_back = play
        .lab
        .at_once(ROLLOUT, |model| state(model).phase == Phase::RollingBack);
    let model = rolled_back.await?;
    signal(&leader, Signal::KILL)?;
    event("kill -9 of the leader");
    let back = decision(&state(&model), reasons::ROLLED_BACK, "3.0.0")
        .context("no rollback was recorded")?
        .at;
    play.watch(was_rolled_back).await?;
    let mut checks = Checks::default();
    // The kubelet takes its time under load.
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    let mut left = play.lab.pods("3.0.0").await?;
    while !left.is_empty() && std::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_secs(1)).await;
        left = play.lab.pods("3.0.0").await?;
    }
    checks.claim(
        left.is_empty(),
        "pods of the refused version that are left",
        left.len(),
    );
    let back = play.traffic.at(back);
    let answers = play.traffic.settled().await;
    let last = answers.of("3.0.0").0.iter().map(|answer| answer.sent).max();
    checks.note(
        "from the rollback to the last request that the refused version got",
        format!(
            "{} ms",
            last.unwrap_or(back).saturating_sub(back).as_millis()
        ),
    );
    play.end(checks, |answer| answer.sent >= back + TAKEN_OVER)
        .await
}

/// Prometheus frozen while the canary has weight: nothing moves; thawed: the rollout continues, and
/// nothing was lost.
pub async fn prometheus_stopped() -> Result<()> {
    let mut play = Play::begin("fault-metrics").await?;
    play.lab.apply_object(second_version()?).await?;
    let model = play.watch(|model| weight(model) >= 25).await?;
    // A decision bears the time at which its look began. The look that finds Prometheus gone may
    // have begun before the stop.
    let before = state(&model).decisions.last().map(|record| record.at);
    let prometheus = processes("prometheus")?;
    signal(&prometheus, Signal::STOP)?;
    event("Prometheus is stopped");
    let held = play.hold(OUTAGE).await;
    signal(&prometheus, Signal::CONT)?;
    event("Prometheus runs again");
    let held = held?;
    let mut checks = Checks::default();
    checks.claim(
        held.0 == held.1,
        "weight before and after the outage",
        format!("{} %, {} %", held.0, held.1),
    );
    // All that was answered before Prometheus ran again must be counted in the end, and before the
    // next weight.
    let answered = play.traffic.settled().await.of("2.0.0").count() as u64;
    let model = play
        .watch(|model| weight(model) > held.1 || counted(model) >= answered)
        .await?;
    let seen = state(&model);
    let recorded =
        |action: &str| decision(&seen, action, "2.0.0").filter(|record| Some(record.at) > before);
    let outage = recorded(reasons::METRICS_OUTAGE);
    checks.claim(
        outage.is_some() && recorded(reasons::METRICS_BACK).is_some(),
        "the outage and its end were recorded",
        outage.map_or("", |record| &record.sentence),
    );
    let so_far = play.traffic.settled().await.of("2.0.0").count() as u64;
    checks.claim(
        (answered..=so_far).contains(&counted(&model)),
        format!(
            "canary requests counted after the outage (the {answered} before its end, and none \
             twice)"
        ),
        format!("{} of {so_far}", counted(&model)),
    );
    play.watch(has_settled).await?;
    play.end(checks, |_| true).await
}

/// Every router pod replaced while the canary has a quarter of the traffic: no client notices.
pub async fn routers_replaced() -> Result<()> {
    let mut play = Play::begin("fault-routers").await?;
    play.lab.apply_object(second_version()?).await?;
    play.watch(|model| weight(model) >= 25).await?;
    let old = play.lab.replace_routers().await?;
    event("every router pod is being replaced");
    play.watch(has_settled).await?;
    let left = play.until_gone(&old).await?;
    let mut checks = Checks::default();
    checks.claim(
        !old.is_empty() && left == 0,
        "router pods from before, and how many of them are left",
        format!("{}, {left}", old.len()),
    );
    play.end(checks, |_| true).await
}

/// One model under traffic, version 1.0.0 serving.
pub struct Play {
    pub lab: Lab,
    pub traffic: Traffic,
    timeline: Timeline,
}

impl Play {
    /// Version 1.0.0 under traffic in a namespace of its own.
    pub async fn begin(namespace: &str) -> Result<Self> {
        Self::begin_at(namespace, RATE).await
    }

    /// The same with so many requests a second.
    pub async fn begin_at(namespace: &str, rate: u32) -> Result<Self> {
        let lab = Lab::open(namespace, "iris").await?;
        lab.apply(V1).await?;
        Self::under(rate, lab).await
    }

    /// The version that was applied, under traffic once it is Ready.
    pub async fn on(lab: Lab) -> Result<Self> {
        Self::under(RATE, lab).await
    }

    /// The same with so many requests a second.
    pub async fn under(rate: u32, lab: Lab) -> Result<Self> {
        lab.wait("Ready", FIRST_VERSION, is_ready).await?;
        let traffic = lab.traffic(rate, false).await?;
        Ok(Self {
            lab,
            traffic,
            timeline: Timeline::default(),
        })
    }

    /// Shows the rollout until it is as wanted.
    pub async fn watch(
        &mut self,
        wanted: impl Fn(&ModelDeployment) -> bool,
    ) -> Result<ModelDeployment> {
        self.timeline
            .watch(&self.lab, &self.traffic, ROLLOUT, wanted)
            .await
    }

    /// Watches for a while. Returns the weight before and after.
    pub async fn hold(&mut self, time: Duration) -> Result<(u8, u8)> {
        let before = weight(&self.lab.model().await?);
        self.timeline.linger(&self.lab, &self.traffic, time).await?;
        Ok((before, weight(&self.lab.model().await?)))
    }

    /// Counts the failures among the answers that must all be good, then tells all claims.
    pub async fn end(
        self,
        mut checks: Checks,
        must_be_good: impl Fn(&super::traffic::Answer) -> bool,
    ) -> Result<()> {
        let answers = self.traffic.finish().await;
        let judged = super::traffic::Answers(answers.0.into_iter().filter(must_be_good).collect());
        checks.claim(
            judged.failed() == 0,
            "failed requests",
            format!(
                "{} of {} {:?}",
                judged.failed(),
                judged.count(),
                judged.failures()
            ),
        );
        checks.finish()
    }
}

/// Sends a signal to processes.
pub fn signal(processes: &[PathBuf], signal: Signal) -> Result<()> {
    for process in processes {
        let pid = process
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        let pid = pid.and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, signal)?;
    }
    Ok(())
}

/// Every process of this name in the local cluster's pods, as its folder below `/proc`; an error if
/// there is none.
pub fn processes(name: &str) -> Result<Vec<PathBuf>> {
    processes_in(name, "")
}

/// The same in one pod, by its UID.
fn processes_in(name: &str, pod: &str) -> Result<Vec<PathBuf>> {
    // Other processes of that name, of another cluster or of this machine's own Prometheus, are
    // none of our business.
    let pods = format!("/{}/", Layout::from_env()?.state().cgroup());
    let is_wanted = |process: &Path| {
        let text = |file| std::fs::read_to_string(process.join(file));
        let is_ours = |groups: String| groups.contains(&pods) && groups.contains(pod);
        text("comm").is_ok_and(|comm| comm.trim() == name) && text("cgroup").is_ok_and(is_ours)
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        if is_wanted(&path) {
            found.push(path);
        }
    }
    if found.is_empty() {
        bail!("no process {name} is to be seen: this scenario needs the local cluster");
    }
    Ok(found)
}

/// The rollout's state.
pub fn state(model: &ModelDeployment) -> State {
    model.status.clone().unwrap_or_default().state
}

/// Whether a rollout has ended with the version that the spec asks for.
pub fn has_settled(model: &ModelDeployment) -> bool {
    is_ready(model) && state(model).phase == Phase::Stable
}

/// Whether a rollout has ended with a rollback.
pub fn was_rolled_back(model: &ModelDeployment) -> bool {
    condition(model, "Ready") == Some(("False", reasons::ROLLED_BACK))
        && state(model).phase == Phase::Stable
}

/// Requests of the canary that its first gate has counted.
fn counted(model: &ModelDeployment) -> u64 {
    let gates = state(model)
        .canary
        .and_then(|canary| canary.progress)
        .map(|progress| progress.gates);
    gates
        .iter()
        .flatten()
        .next()
        .and_then(|gate| gate.rollout.as_ref())
        .map_or(0, |look| look.canary.requests)
}

/// The canary's share of traffic, in percent.
pub fn weight(model: &ModelDeployment) -> u8 {
    state(model).canary.map_or(0, |canary| canary.weight)
}
