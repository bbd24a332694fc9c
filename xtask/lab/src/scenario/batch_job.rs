//! The Job of `examples/batch-job.yaml`, whose pod is deleted in the middle of its work.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cluster::Layout;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};

use super::timeline::event;

const MANIFESTS: &str = include_str!("../../../../examples/batch-job.yaml");
/// The name that the Job and its claim have there.
const NAME: &str = "iris-batch";
/// User and group of the pod.
const USER: u32 = 65532;
/// Rows of the input.
const ROWS: u64 = 500_000;
/// Each row of this many is one that the model does not take.
const WRONG: u64 = 20_000;
/// All rows are 0.7 s of a core, which leaves at least 7 s in which its pod can be deleted.
const CPU: &str = "100m";
/// Checkpoints come more often than the default, for the same reason.
const CHECKPOINTS: &str = "--checkpoint-every=200ms";
/// Longest time for each of its parts: they share two cores with everything else.
const PATIENCE: Duration = Duration::from_secs(240);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// What became of it.
pub struct Outcome {
    /// Rows that were done when its pod was deleted.
    pub rows_before: u64,
    /// Pods that it had.
    pub pods: usize,
    /// Rows of the output.
    pub rows: u64,
}

/// What is read of a checkpoint.
#[derive(Deserialize)]
struct Checkpoint {
    progress: Progress,
}

#[derive(Deserialize)]
struct Progress {
    rows: u64,
    complete: bool,
}

/// Runs the Job, deletes its pod once, and reads what it leaves: an error unless every row is there
/// once.
pub async fn run(client: &Client, namespace: &str) -> Result<Outcome> {
    let folder = Layout::from_env()?.state().path("volumes").join(NAME);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    chown(&folder, Some(USER), Some(USER))?;
    fs::write(folder.join("in.csv"), input())?;
    create(client, namespace, &folder).await?;

    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let checkpoint = folder.join("predictions.csv.batch.json");
    let rows_before = begun(&checkpoint).await?;
    let first = running(&pods).await?;
    pods.delete(&first, &DeleteParams::default()).await?;
    event(&format!(
        "the pod of the batch Job is deleted, after {rows_before} of {ROWS} rows"
    ));
    let mut seen = vec![first];
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    let deadline = Instant::now() + PATIENCE;
    loop {
        for pod in pods.list(&of_the_job()).await? {
            if !seen.contains(&pod.name_any()) {
                seen.push(pod.name_any());
            }
        }
        let status = jobs.get(NAME).await?.status.unwrap_or_default();
        if status.succeeded == Some(1) {
            break;
        }
        if Instant::now() > deadline {
            bail!(
                "the batch Job does not end within {} s: {status:?}",
                PATIENCE.as_secs()
            );
        }
        tokio::time::sleep(LOOK).await;
    }
    let rows = read(&folder)?;
    event(&format!("the batch Job has ended, {rows} rows"));
    Ok(Outcome {
        rows_before,
        pods: seen.len(),
        rows,
    })
}

/// The volume, then what the example holds.
async fn create(client: &Client, namespace: &str, folder: &Path) -> Result<()> {
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let new = PostParams::default();
    if volumes.get_opt(NAME).await?.is_some() {
        volumes.delete(NAME, &DeleteParams::default()).await?;
        let deadline = Instant::now() + PATIENCE;
        while volumes.get_opt(NAME).await?.is_some() {
            ensure!(
                Instant::now() < deadline,
                "the volume of an earlier run does not go"
            );
            tokio::time::sleep(LOOK).await;
        }
    }
    let volume = serde_json::from_value(json!({
        "metadata": {"name": NAME},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": namespace, "name": NAME},
            "hostPath": {"path": folder},
        },
    }))?;
    volumes.create(&new, &volume).await?;
    for document in serde_norway::Deserializer::from_str(MANIFESTS) {
        let mut object = Value::deserialize(document)?;
        if object["kind"] == "Job" {
            let container = &mut object["spec"]["template"]["spec"]["containers"][0];
            container["resources"]["requests"]["cpu"] = CPU.into();
            container["resources"]["limits"]["cpu"] = CPU.into();
            let args = container["args"].as_array_mut();
            args.context("the batch container has no arguments")?
                .push(CHECKPOINTS.into());
            let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
            jobs.create(&new, &serde_json::from_value(object)?).await?;
        } else {
            let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
            claims
                .create(&new, &serde_json::from_value(object)?)
                .await?;
        }
    }
    Ok(())
}

/// Waits for the first checkpoint. Returns how many rows it promises.
async fn begun(checkpoint: &PathBuf) -> Result<u64> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(bytes) = fs::read(checkpoint) {
            let read: Checkpoint = serde_json::from_slice(&bytes)?;
            ensure!(
                !read.progress.complete,
                "the batch Job was done before its pod could be deleted"
            );
            if read.progress.rows > 0 {
                return Ok(read.progress.rows);
            }
        }
        ensure!(
            Instant::now() < deadline,
            "the batch Job does not begin within {} s",
            PATIENCE.as_secs()
        );
        tokio::time::sleep(LOOK).await;
    }
}

/// The Job's one pod.
async fn running(pods: &Api<Pod>) -> Result<String> {
    let found = pods.list(&of_the_job()).await?;
    let pod = found.items.first().context("the batch Job has no pod")?;
    Ok(pod.name_any())
}

fn of_the_job() -> ListParams {
    ListParams::default().labels(&format!("job-name={NAME}"))
}

/// The input, with a wrong width every now and then.
fn input() -> String {
    let mut text = String::from("id,sepal_length,sepal_width,petal_length,petal_width\n");
    for row in 1..=ROWS {
        let width = if row % WRONG == 0 { "99" } else { "0.2" };
        // Writing into a String never fails.
        let _ = writeln!(text, "f{row},5.1,3.5,1.4,{width}");
    }
    text
}

/// Holds the output to the input: every row that is not wrong once, in order, under its own number
/// and id, and every wrong one rejected once. Returns how many rows there are.
fn read(folder: &Path) -> Result<u64> {
    let output = fs::read_to_string(folder.join("predictions.csv"))?;
    let mut lines = output.lines();
    ensure!(
        lines
            .next()
            .is_some_and(|header| header.starts_with("row,id,label,")),
        "the output has another header"
    );
    let mut rows = 0;
    for row in (1..=ROWS).filter(|row| row % WRONG != 0) {
        let line = lines.next().unwrap_or_default();
        ensure!(
            line.starts_with(&format!("{row},f{row},setosa,")),
            "row {row} is {line:?}"
        );
        rows += 1;
    }
    ensure!(lines.next().is_none(), "there are more rows than went in");
    let rejects = fs::read_to_string(folder.join("rejects.jsonl"))?;
    let mut rejected = Vec::new();
    for line in rejects.lines() {
        let reject: Value = serde_json::from_str(line)?;
        rejected.push(reject["row"].as_u64().unwrap_or_default());
    }
    let wrong: Vec<u64> = (1..=ROWS).filter(|row| row % WRONG == 0).collect();
    ensure!(rejected == wrong, "rejected are the rows {rejected:?}");
    Ok(rows)
}
