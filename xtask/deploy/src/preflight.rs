//! Checks of a cluster other than the local one, before the demo builds anything for it.

use anyhow::{Context, Result, bail, ensure};
use cluster::{Cluster, process, repository};
use serde::Deserialize;

use crate::OURS;
use crate::images::Registry;
use crate::install::NAMESPACE;
use crate::inventory::Inventory;

/// The architecture of the images.
const ARCHITECTURE: &str = "amd64";

/// What the chart, the images' ConfigMap and the demo's model need, as (verb, resource, namespace).
const RIGHTS: [(&str, &str, &str); 16] = [
    ("list", "nodes", ""),
    ("create", "namespaces", ""),
    (
        "create",
        "customresourcedefinitions.apiextensions.k8s.io",
        "",
    ),
    ("create", "clusterroles.rbac.authorization.k8s.io", ""),
    (
        "create",
        "clusterrolebindings.rbac.authorization.k8s.io",
        "",
    ),
    ("create", "roles.rbac.authorization.k8s.io", NAMESPACE),
    (
        "create",
        "rolebindings.rbac.authorization.k8s.io",
        NAMESPACE,
    ),
    ("create", "serviceaccounts", NAMESPACE),
    ("create", "configmaps", NAMESPACE),
    ("create", "secrets", NAMESPACE), // helm's own records
    ("list", "secrets", NAMESPACE),
    ("create", "services", NAMESPACE),
    ("create", "deployments.apps", NAMESPACE),
    ("create", "pods/portforward", NAMESPACE),
    ("create", "configmaps", "kube-system"),
    ("create", "modeldeployments.serin.dev", "demo"),
];

/// Fails with every reason why `demo` cannot work on this cluster. The local cluster always passes.
pub fn check(cluster: &Cluster, registry: Option<&Registry>) -> Result<()> {
    let Cluster::Context(context) = cluster else {
        ensure!(
            registry.is_none(),
            "--registry is for other clusters (--context NAME): the local one is given its images"
        );
        return Ok(());
    };
    // Without an answer there is nothing else to ask.
    let version = version(cluster)
        .with_context(|| format!("the cluster of context {context} does not answer"))?;
    let mut problems: Vec<String> = [
        delivery(cluster, registry),
        old(version, chart_minimum()?),
        rights(cluster)?,
    ]
    .into_iter()
    .flatten()
    .collect();
    // A missing right to list nodes or Secrets is among the problems already.
    if problems.is_empty() {
        problems.extend(architecture(cluster)?);
        problems.extend(foreign_release(cluster)?);
    }
    if problems.is_empty() {
        return Ok(());
    }
    bail!(
        "the demo cannot run on the cluster of context {context}:\n  - {}",
        problems.join("\n  - ")
    )
}

/// Why images cannot get to the nodes, if so.
fn delivery(cluster: &Cluster, registry: Option<&Registry>) -> Option<String> {
    if registry.is_some() {
        return None;
    }
    cluster.can_load().err().map(|error| error.to_string())
}

/// Major and minor version of a server.
type Version = (u32, u32);

fn version(cluster: &Cluster) -> Result<Version> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Server {
        git_version: String,
    }
    let server: Server = serde_json::from_str(&get(cluster, "/version")?)?;
    parse_version(&server.git_version)
}

/// Of `v1.36.3`, `v1.33.5-gke.1080000` or `>=1.34.0-0`.
fn parse_version(text: &str) -> Result<Version> {
    let digits = text.trim_start_matches(|letter: char| !letter.is_ascii_digit());
    let mut parts = digits.split('.').map(str::parse);
    let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
        bail!("{text:?} is no version of Kubernetes");
    };
    Ok((major, minor))
}

/// The oldest Kubernetes that the chart takes.
fn chart_minimum() -> Result<Version> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Chart {
        kube_version: String,
    }
    let text = std::fs::read_to_string(repository::root().join("charts/serin/Chart.yaml"))?;
    let chart: Chart = serde_norway::from_str(&text)?;
    parse_version(&chart.kube_version)
}

fn old(version: Version, minimum: Version) -> Option<String> {
    (version < minimum).then(|| {
        format!(
            "it runs Kubernetes {}.{}; Serin needs {}.{} or newer",
            version.0, version.1, minimum.0, minimum.1
        )
    })
}

/// Which rights are missing, if any.
fn rights(cluster: &Cluster) -> Result<Option<String>> {
    let mut missing = Vec::new();
    for (verb, resource, namespace) in RIGHTS {
        let mut kubectl = cluster.command("kubectl")?;
        kubectl.args(["auth", "can-i", "--quiet", verb, resource]);
        if !namespace.is_empty() {
            kubectl.args(["--namespace", namespace]);
        }
        // It warns of kinds that the server does not know yet, such as ours.
        let answer = kubectl.output().context("cannot start kubectl")?;
        if !answer.status.success() {
            let place = if namespace.is_empty() {
                String::new()
            } else {
                format!(" in {namespace}")
            };
            missing.push(format!("{verb} {resource}{place}"));
        }
    }
    Ok((!missing.is_empty()).then(|| {
        format!(
            "its user may not: {}. Use a context whose user may install charts (cluster-admin)",
            missing.join(", ")
        )
    }))
}

/// Which nodes could get pods that they cannot run, if any.
fn architecture(cluster: &Cluster) -> Result<Option<String>> {
    unfit_nodes(&get(cluster, "/api/v1/nodes")?)
}

/// The server's own answer.
fn get(cluster: &Cluster, path: &str) -> Result<String> {
    process::output(cluster.command("kubectl")?.args(["get", "--raw", path]))
}

fn unfit_nodes(nodes: &str) -> Result<Option<String>> {
    use k8s_openapi::List;
    use k8s_openapi::api::core::v1::Node;

    let nodes: List<Node> = serde_json::from_str(nodes)?;
    let takes_pods = |node: &&Node| {
        let spec = node.spec.clone().unwrap_or_default();
        let taints = spec.taints.unwrap_or_default();
        !spec.unschedulable.unwrap_or_default()
            && !taints
                .iter()
                .any(|taint| taint.effect != "PreferNoSchedule")
    };
    let nodes: Vec<(String, String)> = nodes
        .items
        .iter()
        .filter(takes_pods)
        .map(|node| {
            let info = node
                .status
                .as_ref()
                .and_then(|status| status.node_info.as_ref());
            let kind = info.map(|info| format!("{}/{}", info.operating_system, info.architecture));
            let name = node.metadata.name.clone().unwrap_or_default();
            (name, kind.unwrap_or_default())
        })
        .collect();
    if nodes.is_empty() {
        return Ok(Some(
            "no node takes pods: all are cordoned or tainted".to_owned(),
        ));
    }
    let wanted = format!("linux/{ARCHITECTURE}");
    let unfit: Vec<String> = nodes
        .iter()
        .filter(|(_, kind)| *kind != wanted)
        .map(|(name, kind)| format!("{name} ({kind})"))
        .collect();
    Ok((!unfit.is_empty()).then(|| {
        format!(
            "the images are for {wanted}, and pods may land on {}: cordon these nodes, \
             or use another cluster",
            unfit.join(", ")
        )
    }))
}

/// Serin is there, and the demo did not install it: its values would be replaced.
fn foreign_release(cluster: &Cluster) -> Result<Option<String>> {
    if !Inventory::of(cluster)?.has_release() {
        return Ok(None);
    }
    let labels = process::output(cluster.command("kubectl")?.args([
        "get",
        "namespace",
        NAMESPACE,
        "-o",
        "jsonpath={.metadata.labels}",
    ]))?;
    Ok((!labels.contains(OURS)).then(|| {
        format!(
            "the release serin in {NAMESPACE} is not from an earlier demo, and this one would \
             change its values: use another cluster"
        )
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_of_servers_and_charts_are_compared() {
        assert_eq!(parse_version("v1.36.3").unwrap(), (1, 36));
        assert_eq!(parse_version("v1.33.5-gke.1080000").unwrap(), (1, 33));
        assert_eq!(parse_version(">=1.34.0-0").unwrap(), (1, 34));
        assert!(parse_version("latest").is_err());
        assert_eq!(old((1, 36), (1, 34)), None);
        assert_eq!(old((1, 34), (1, 34)), None);
        let problem = old((1, 9), (1, 34)).unwrap();
        assert!(
            problem.contains("1.9") && problem.contains("1.34"),
            "{problem}"
        );
        assert!(chart_minimum().unwrap() >= (1, 20));
    }

    fn node(name: &str, system: &str, architecture: &str) -> serde_json::Value {
        json!({"metadata": {"name": name}, "status": {"nodeInfo": {
            "architecture": architecture, "operatingSystem": system, "bootID": "",
            "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "",
            "kubeletVersion": "", "machineID": "", "osImage": "", "systemUUID": "",
        }}})
    }

    fn unfit(nodes: &[serde_json::Value]) -> Option<String> {
        let list = json!({"apiVersion": "v1", "kind": "NodeList", "items": nodes});
        unfit_nodes(&list.to_string()).unwrap()
    }

    #[test]
    fn a_node_that_takes_pods_must_be_able_to_run_the_images() {
        let good = node("a", "linux", "amd64");
        let mut arm = node("b", "linux", "arm64");
        assert_eq!(unfit(std::slice::from_ref(&good)), None);
        let problem = unfit(&[good.clone(), arm.clone()]).unwrap();
        assert!(
            problem.contains("b (linux/arm64)") && !problem.contains("a ("),
            "{problem}"
        );
        assert!(unfit(&[node("w", "windows", "amd64")]).is_some());

        arm["spec"] = json!({"taints": [{"key": "arch", "effect": "NoSchedule"}]});
        assert_eq!(unfit(&[good.clone(), arm.clone()]), None);
        assert!(unfit(&[arm.clone()]).unwrap().contains("no node"));
        arm["spec"] = json!({"unschedulable": true});
        assert_eq!(unfit(&[good, arm]), None);
    }
}
