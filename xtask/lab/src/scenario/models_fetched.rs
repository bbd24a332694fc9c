//! Models out of a registry: served, refused by a wrong digest, rolled out, restarted, and used by
//! a batch Job.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster::{process, repository};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use serin::api::{MODEL_LABEL, Phase};
use serin::plan::VERSION_ANNOTATION;

use super::checks::Checks;
use super::command_scenario::serves;
use super::faults::{Play, processes, state};
use super::registry::Registry;
use super::situation::server;
use super::timeline::event;
use super::{Lab, batch_job};

const MANIFEST: &str = include_str!("../../../../examples/from-registry.yaml");
const NAMESPACE: &str = "models";
const PROGRAM: &str = "/usr/local/bin/serin-serve";
/// How long every answer of version 2.0.0 takes: some are always under way, also at SIGTERM.
const SLOWLY: &str = "--test-latency=300ms";

/// All of it, on one model under traffic.
pub async fn models_fetched() -> Result<()> {
    let lab = Lab::open(NAMESPACE, "iris").await?;
    let registry = Registry::start().await?;
    for version in ["1.0.0", "2.0.0"] {
        registry.push("iris", version, &artefact(version)).await?;
    }
    registry.expose(&lab.client, NAMESPACE).await?;
    lab.apply(MANIFEST).await?;
    let client = lab.client.clone();
    let mut play = Play::on(lab).await?;
    let mut checks = Checks::default();
    confined(&play, &mut checks).await?;

    // They have nothing to do with each other, but that both wait most of the time.
    let rolled = async {
        wrong_digest(&mut play, &mut checks).await?;
        rollout(&mut play, &mut checks).await?;
        restart(&mut play, &mut checks).await
    };
    let (outcome, ()) = tokio::try_join!(batch_job::run(&client, NAMESPACE), rolled)?;
    checks.claim(
        outcome.pods >= 2,
        "batch Job, its pods, the first of which was deleted",
        format!("{} (after {} rows)", outcome.pods, outcome.rows_before),
    );
    checks.note(
        "batch Job, rows in its output, each once and in order",
        outcome.rows,
    );
    play.end(checks, |_| true).await
}

/// What the server's containers may do: nothing but serve.
async fn confined(play: &Play, checks: &mut Checks) -> Result<()> {
    let mut seen = BTreeSet::new();
    // One of an earlier scenario may end while it is looked at.
    let found = processes("serin-serve")?;
    seen.extend(found.iter().filter_map(|process| confinement(process).ok()));
    checks.claim(
        seen.iter()
            .eq(["user 65532, capabilities 0000000000000000, no new privileges 1, root ro"]),
        "the serving processes, as the kernel sees them",
        format!("{seen:?}"),
    );
    let pods = play.lab.pods_of("1.0.0").await?;
    let pod = pods.first().context("version 1.0.0 has no pod")?.name_any();
    let said = exec(&pod, &[PROGRAM, "healthcheck"], "healthy").await;
    checks.claim(
        said == "healthy",
        "`serin-serve healthcheck` inside the container",
        said,
    );
    let none = "executable file not found";
    let said = exec(&pod, &["sh", "-c", "true"], none).await;
    checks.claim(
        said.contains(none),
        "a shell inside the container",
        said.rsplit("exec: ").next().unwrap_or_default(),
    );
    Ok(())
}

/// User, capabilities, privileges and root of a process.
fn confinement(process: &Path) -> Result<String> {
    let status = fs::read_to_string(process.join("status"))?;
    let field = |name: &str| {
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value
            .and_then(|value| value.split_whitespace().next())
            .unwrap_or_default()
            .to_owned()
    };
    let mounts = fs::read_to_string(process.join("mountinfo"))?;
    let root = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|words| words.get(4) == Some(&"/"));
    let options = root.and_then(|words| words.get(5).copied());
    let options = options.context("a process without a root")?;
    Ok(format!(
        "user {}, capabilities {}, no new privileges {}, root {}",
        field("Uid"),
        field("CapEff"),
        field("NoNewPrivs"),
        options.split(',').next().unwrap_or_default()
    ))
}

/// A version whose digest is wrong: the status says so, and clients notice nothing.
async fn wrong_digest(play: &mut Play, checks: &mut Checks) -> Result<()> {
    let mut wrong = version_2()?;
    wrong["spec"]["model"]["digest"] = format!("sha256:{}", "0".repeat(64)).into();
    play.lab.apply_object(wrong).await?;
    event("version 2.0.0 is applied with a wrong digest");
    let refused = |sentence: &str| {
        sentence.contains("cannot fetch its artefact") && sentence.contains("digest mismatch")
    };
    let model = play
        .watch(|model| {
            let state = state(model);
            state.phase == Phase::Stable
                && state
                    .decisions
                    .iter()
                    .any(|record| refused(&record.sentence))
        })
        .await?;
    let state = state(&model);
    let record = state
        .decisions
        .iter()
        .find(|record| refused(&record.sentence));
    checks.claim(
        state.stable.is_some_and(|stable| stable.version == "1.0.0"),
        "a wrong digest, as the status tells it",
        record.map_or("", |record| &record.sentence),
    );
    let answered = play.traffic.settled().await;
    checks.claim(
        answered.count() > 0 && answered.of("1.0.0").count() == answered.count(),
        "requests meanwhile that version 1.0.0 answered",
        format!("{} of {}", answered.of("1.0.0").count(), answered.count()),
    );
    Ok(())
}

/// The second version, with the right digest.
async fn rollout(play: &mut Play, checks: &mut Checks) -> Result<()> {
    play.lab.apply_object(version_2()?).await?;
    event("version 2.0.0 is applied with its own digest");
    let model = play.watch(|model| serves(model, "2.0.0")).await?;
    let sentence = state(&model).decisions.last().cloned();
    checks.note(
        "version 2.0.0 out of the registry",
        sentence.map_or_else(String::new, |record| record.sentence),
    );
    Ok(())
}

/// `kubectl rollout restart` of the version that serves.
async fn restart(play: &mut Play, checks: &mut Checks) -> Result<()> {
    let before = play.lab.pods("2.0.0").await?;
    let deployments: Api<Deployment> = Api::namespaced(play.lab.client.clone(), NAMESPACE);
    let labels = ListParams::default().labels(MODEL_LABEL);
    let found = deployments.list(&labels).await?;
    let deployment = found
        .iter()
        .find(|deployment| {
            let version = deployment.annotations().get(VERSION_ANNOTATION);
            version.is_some_and(|version| version == "2.0.0") && deployment.spec.replicas != Some(0)
        })
        .context("version 2.0.0 has no Deployment")?
        .name_any();
    let began = play.traffic.now();
    deployments.restart(&deployment).await?;
    event(&format!("kubectl rollout restart deployment {deployment}"));
    let mut in_flight = 0;
    let deadline = began + Duration::from_secs(240); // two pods, one after the other, each drained
    loop {
        in_flight = in_flight.max(play.traffic.open());
        let now = play.lab.pods("2.0.0").await?;
        let left = now.iter().filter(|pod| before.contains(pod)).count();
        if left == 0 && now.len() == before.len() {
            break;
        }
        ensure!(
            play.traffic.now() < deadline,
            "{left} pods from before the restart are left"
        );
        play.hold(Duration::from_millis(500)).await?;
    }
    play.hold(Duration::from_secs(2)).await?;
    let until = play.traffic.now();
    let meanwhile = play.traffic.settled().await.within(began, until);
    checks.claim(
        !before.is_empty() && meanwhile.failed() == 0 && in_flight > 0,
        format!(
            "failed requests while {} pods were replaced (300 ms each, up to {in_flight} at once)",
            before.len()
        ),
        format!(
            "{} of {} {:?}",
            meanwhile.failed(),
            meanwhile.count(),
            meanwhile.failures()
        ),
    );
    Ok(())
}

/// The example's manifest with the second artefact, served slowly.
fn version_2() -> Result<Value> {
    let manifest = fs::read(artefact("2.0.0").join("serin-model.json"))?;
    let mut object: Value = serde_norway::from_str(MANIFEST)?;
    object["spec"]["model"]["uri"] = "oci://registry.models.svc:5000/iris:2.0.0".into();
    object["spec"]["model"]["version"] = "2.0.0".into();
    object["spec"]["model"]["digest"] = super::registry::digest(&manifest).into();
    server(&mut object["spec"])["args"] = json!(["serve", "--test-faults", SLOWLY]);
    Ok(object)
}

fn artefact(version: &str) -> PathBuf {
    repository::root()
        .join("examples/models/iris")
        .join(version)
}

/// Runs a program in the server's container of a pod, and tells the error, or that it is `healthy`.
/// A kubelet that is busy is asked again, until it says what is expected.
async fn exec(pod: &str, program: &[&str], expected: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut kubectl = Command::new("kubectl");
        kubectl
            .args(["exec", "-n", NAMESPACE, pod, "-c", "server", "--"])
            .args(program);
        let said = process::run(&mut kubectl)
            .map_or_else(|error| error.to_string(), |()| "healthy".to_owned());
        if said.contains(expected) || Instant::now() > deadline {
            return said;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
