//! Everything up to the first ModelDeployment: cluster, images, operator, routers, Prometheus.

use std::process::Command;

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::images::{self, Image, repository_root};
use crate::process;
use crate::progress::Progress;

/// Namespace of the operator.
pub const NAMESPACE: &str = "serin-system";

/// Brings everything about; what is there already is left as it is.
pub fn set(cluster: &Cluster) -> Result<()> {
    let progress = Progress::new("stage");
    cluster.ensure()?;
    progress.say("images: built from their Dockerfiles where their sources have changed");
    let built = images::build(&Image::CLUSTER)?;
    for image in &built {
        if !is_loaded(cluster, image)? {
            cluster.load(&image.archive)?;
            mark_loaded(cluster, image)?;
        }
    }
    progress.say("installing charts/serin with helm");
    let chart = repository_root().join("charts/serin");
    let values = chart.join("values-local.yaml");
    let mut helm = cluster.command("helm")?;
    helm.args(["upgrade", "--install", "serin"])
        .arg(&chart)
        .arg("--values")
        .arg(&values);
    // Servers before 1.25 refuse CEL rules by server-side apply, and drop them from a create.
    helm.args([
        "--namespace",
        NAMESPACE,
        "--create-namespace",
        "--server-side=false",
        "--wait",
        "--timeout",
        "3m",
    ]);
    if let Some(operator) = built.first() {
        // The tag stays the same when the operator changes; its pods must not.
        helm.arg("--set").arg(format!(
            "operator.podAnnotations.archive={}",
            archive_name(operator)
        ));
    }
    process::run(&mut helm).context("helm cannot install the chart")?;
    progress.say("operator, routers and Prometheus are ready");
    Ok(())
}

/// The cluster remembers in a ConfigMap which archives its node was given.
fn is_loaded(cluster: &Cluster, image: &images::BuiltImage) -> Result<bool> {
    let known = process::output(
        kubectl(cluster)?
            .args(["get", "configmap", "serin-images", "--ignore-not-found"])
            .args(["-n", "kube-system", "-o", "jsonpath={.data}"]),
    )?;
    Ok(known.contains(&archive_name(image)))
}

fn mark_loaded(cluster: &Cluster, image: &images::BuiltImage) -> Result<()> {
    let name = image.reference.replace(['/', ':'], "_");
    let patch = serde_json::json!({"data": {name: archive_name(image)}}).to_string();
    // It may exist already, which is as good.
    let _ = process::run(kubectl(cluster)?.args([
        "create",
        "configmap",
        "serin-images",
        "-n",
        "kube-system",
    ]));
    process::run(kubectl(cluster)?.args([
        "patch",
        "configmap",
        "serin-images",
        "-n",
        "kube-system",
        "--type=merge",
        "-p",
        &patch,
    ]))
}

fn archive_name(image: &images::BuiltImage) -> String {
    image
        .archive
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn kubectl(cluster: &Cluster) -> Result<Command> {
    cluster.command("kubectl")
}
