//! Everything up to the first ModelDeployment: cluster, images, operator, routers, Prometheus.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use cluster::progress::Progress;
use cluster::{Cluster, process, repository};

use crate::images::{self, BuiltImage, Image, Registry};
use crate::{OURS, preflight};

/// Namespace of the operator.
pub const NAMESPACE: &str = "serin-system";

/// Starts the cluster, builds the images and installs the chart; what is there already stays as it
/// is. Images go to the nodes, or to `registry`.
pub fn install(cluster: &Cluster, registry: Option<&Registry>) -> Result<()> {
    let progress = Progress::new("stage");
    preflight::check(cluster, registry)?;
    cluster.ensure()?;
    let values = deliver(cluster, registry, &progress)?;
    progress.say("installing charts/serin with helm");
    ensure_namespace(cluster)?;
    let mut helm = cluster.command("helm")?;
    helm.args(helm_arguments(&chart(), &values));
    process::run(&mut helm).context("helm cannot install the chart")?;
    progress.say("operator, routers and Prometheus are ready");
    Ok(())
}

/// The chart of this tree.
pub fn chart() -> PathBuf {
    repository::root().join("charts/serin")
}

/// Builds the images and gives them to the nodes, or to `registry`. Returns the chart's values that
/// name them.
pub fn deliver(
    cluster: &Cluster,
    registry: Option<&Registry>,
    progress: &Progress,
) -> Result<Vec<String>> {
    progress.say("images: built from their Dockerfiles where their sources have changed");
    let built = images::build(&Image::CLUSTER)?;
    let mut values = Vec::new();
    if let Some(registry) = registry {
        for (image, built) in Image::CLUSTER.into_iter().zip(&built) {
            let named = pushed(image, built, registry)?;
            if !named.is_empty() {
                images::push(built, registry, progress)?;
            }
            values.extend(named);
        }
    } else {
        for image in &built {
            load(cluster, image)?;
        }
        if let Some(operator) = built.first() {
            // The tag stays the same when the operator changes; its pods must not.
            let archive = archive_name(operator);
            values.push(format!("operator.podAnnotations.archive={archive}"));
        }
    }
    Ok(values)
}

/// Gives the nodes an image, unless they have it.
pub fn load(cluster: &Cluster, image: &BuiltImage) -> Result<()> {
    if !is_loaded(cluster, image)? {
        cluster.load(&image.archive)?;
        mark_loaded(cluster, image)?;
    }
    Ok(())
}

/// The arguments of helm that install or upgrade a chart with these values; helm 3 and helm 4 both
/// know them.
pub fn helm_arguments(chart: &Path, values: &[String]) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["upgrade", "--install", "serin"].map(Into::into).to_vec();
    arguments.push(chart.into());
    arguments.push("--values".into());
    arguments.push(chart.join("values-local.yaml").into());
    arguments.extend(["--namespace", NAMESPACE, "--wait", "--timeout", "3m"].map(Into::into));
    for value in values {
        arguments.extend(["--set-string", value.as_str()].map(Into::into));
    }
    arguments
}

/// The chart's values that name a pushed image.
fn pushed(image: Image, built: &BuiltImage, registry: &Registry) -> Result<Vec<String>> {
    let place = registry.place(built)?;
    let of = |component: &str| {
        vec![
            format!("{component}.image.repository={}", place.repository),
            format!("{component}.image.tag={}", place.tag),
        ]
    };
    Ok(match image {
        Image::Operator => of("operator"),
        Image::Envoy => of("router"),
        Image::Prometheus => of("prometheus"),
        Image::ServeExamples => vec![format!("serving.image={place}")],
        Image::Serve | Image::ServeOnnx => Vec::new(), // the examples' image rests on it
    })
}

/// The operator's namespace, marked as ours where it is made here.
pub fn ensure_namespace(cluster: &Cluster) -> Result<()> {
    let known = process::output(kubectl(cluster)?.args([
        "get",
        "namespace",
        NAMESPACE,
        "--ignore-not-found",
        "-o",
        "name",
    ]))?;
    if !known.trim().is_empty() {
        return Ok(());
    }
    process::run(kubectl(cluster)?.args(["create", "namespace", NAMESPACE]))?;
    let label = format!("{OURS}=true");
    process::run(kubectl(cluster)?.args(["label", "namespace", NAMESPACE, &label]))
}

/// The cluster remembers in a ConfigMap which archives its node was given.
fn is_loaded(cluster: &Cluster, image: &BuiltImage) -> Result<bool> {
    let known = process::output(
        kubectl(cluster)?
            .args(["get", "configmap", "serin-images", "--ignore-not-found"])
            .args(["-n", "kube-system", "-o", "jsonpath={.data}"]),
    )?;
    Ok(known.contains(&archive_name(image)))
}

fn mark_loaded(cluster: &Cluster, image: &BuiltImage) -> Result<()> {
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

fn archive_name(image: &BuiltImage) -> String {
    image
        .archive
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// kubectl on that cluster.
pub fn kubectl(cluster: &Cluster) -> Result<Command> {
    cluster.command("kubectl")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_image_that_the_chart_names_is_named_in_the_registry() {
        let registry = "ghcr.io/acme".parse().unwrap();
        let values: Vec<String> = Image::CLUSTER
            .into_iter()
            .flat_map(|image| {
                let built = BuiltImage {
                    reference: image.reference().to_owned(),
                    archive: format!("/cache/{}-0123456789abcdef.tar", image.name()).into(),
                    rebuilt: false,
                };
                pushed(image, &built, &registry).unwrap()
            })
            .collect();
        assert_eq!(
            values,
            [
                "operator.image.repository=ghcr.io/acme/serin-operator",
                "operator.image.tag=0123456789abcdef",
                "serving.image=ghcr.io/acme/serin-serve-examples:0123456789abcdef",
                "router.image.repository=ghcr.io/acme/envoy",
                "router.image.tag=0123456789abcdef",
                "prometheus.image.repository=ghcr.io/acme/prometheus",
                "prometheus.image.tag=0123456789abcdef",
            ]
        );
    }
}
