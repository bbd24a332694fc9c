//! `cargo xtask chart`: what the chart renders, checked with the programs that will read it.
//!
//! helm lints and renders the chart with each set of values below; Envoy validates the routers'
//! bootstrap, promtool Prometheus' configuration; every pod must meet the `restricted` Pod Security
//! Standard.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use cluster::{process, repository};
use serde::Deserialize;
use serde_json::Value;

/// Values that must render, as arguments of `helm template`, with `KIND/NAME` of objects that must
/// and must not be there.
const ACCEPTED: &[(&str, &[&str], &[&str])] = &[
    (
        "",
        &[
            "ClusterRole/serin-operator-models",
            "PodDisruptionBudget/serin-operator",
            "PodDisruptionBudget/serin-router",
            "Deployment/serin-prometheus",
        ],
        &[],
    ),
    (
        "--values values-local.yaml",
        &["Deployment/serin-operator", "Deployment/serin-router"],
        &[],
    ),
    (
        "--set operator.watchNamespace=ml",
        &["Role/serin-operator-models"],
        &["ClusterRole/serin-operator-models"],
    ),
    (
        "--set operator.replicas=1,router.replicas=1",
        &[],
        &[
            "PodDisruptionBudget/serin-operator",
            "PodDisruptionBudget/serin-router",
        ],
    ),
    (
        "--set prometheus.enabled=false,prometheus.url=http://p:9090,prometheus.headersSecret=h",
        &[],
        &["Deployment/serin-prometheus"],
    ),
    (
        "--set rbac.aggregateToDefaultRoles=false",
        &[],
        &["ClusterRole/serin-view", "ClusterRole/serin-edit"],
    ),
    (
        "--set imagePullSecrets[0].name=s,operator.podLabels.a=b,operator.podAnnotations.c=d,\
         operator.nodeSelector.e=f,router.podLabels.a=b,router.podAnnotations.c=d,\
         router.tolerations[0].key=k,prometheus.nodeSelector.e=f",
        &["Deployment/serin-operator"],
        &[],
    ),
];

/// Values that must be refused, with a part of the message.
const REFUSED: &[(&str, &str)] = &[
    ("--set bogus=1", "'bogus' not allowed"),
    ("--set operator.bogus=1", "at '/operator'"),
    (
        "--set operator.allowedModelSchemes={http}",
        "at '/operator/allowedModelSchemes/0'",
    ),
    (
        "--set operator.allowedModelHosts={https://ghcr.io}",
        "at '/operator/allowedModelHosts/0'",
    ),
    (
        "--set operator.modelCache=/var/cache",
        "at '/operator/modelCache'",
    ),
    (
        "--set operator.leaseDuration=15",
        "at '/operator/leaseDuration'",
    ),
    ("--set prometheus.enabled=false", "set prometheus.url"),
    (
        "--set prometheus.url=http://p:9090/",
        "at '/prometheus/url'",
    ),
    (
        "--set serving.image=registry.example.com/serve",
        "at '/serving/image'",
    ),
    (
        "--set serving.image=registry.example.com/serve:latest",
        "at '/serving/image'",
    ),
    ("--set router.replicas=0", "at '/router/replicas'"),
];

/// Checks the chart; says what it checked.
pub fn check() -> Result<()> {
    let chart = Chart::new()?;
    process::run(&mut chart.helm("lint", "--strict")).context("helm lint")?;
    for (values, present, absent) in ACCEPTED {
        let objects = chart.render(values)?;
        let names: Vec<String> = objects.iter().map(Object::name).collect();
        for name in *present {
            ensure!(
                names.iter().any(|found| found == name),
                "{values}: {name} is missing"
            );
        }
        for name in *absent {
            ensure!(
                !names.iter().any(|found| found == name),
                "{values}: {name} must not be there"
            );
        }
        for object in &objects {
            object
                .check_restricted()
                .with_context(|| format!("{values}: {}", object.name()))?;
        }
        check_configurations(&objects).with_context(|| format!("values: {values}"))?;
    }
    for (values, message) in REFUSED {
        match chart.render(values) {
            Ok(_) => bail!("{values}: must be refused"),
            Err(error) => ensure!(
                format!("{error:#}").contains(message),
                "{values}: {error:#}"
            ),
        }
    }
    println!(
        "chart: {} sets of values render and validate, {} are refused",
        ACCEPTED.len(),
        REFUSED.len()
    );
    Ok(())
}

struct Chart {
    helm: PathBuf,
    folder: PathBuf,
}

impl Chart {
    fn new() -> Result<Self> {
        let folder = repository::root().join("charts/serin");
        Ok(Self {
            helm: cluster::tool("helm")?,
            folder,
        })
    }

    fn helm(&self, verb: &str, arguments: &str) -> Command {
        let mut command = Command::new(&self.helm);
        command
            .current_dir(&self.folder)
            .args([verb, "."])
            .args(arguments.split_whitespace());
        command
    }

    fn render(&self, values: &str) -> Result<Vec<Object>> {
        let text = process::output(
            self.helm("template", values)
                .args(["--namespace", "serin-system"]),
        )?;
        serde_norway::Deserializer::from_str(&text)
            .map(|document| Ok(Object(Value::deserialize(document)?)))
            .filter(|object| !object.as_ref().is_ok_and(|Object(value)| value.is_null()))
            .collect()
    }
}

/// A rendered object.
struct Object(Value);

impl Object {
    fn name(&self) -> String {
        let text = |path| {
            self.0
                .pointer(path)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        format!("{}/{}", text("/kind"), text("/metadata/name"))
    }

    /// A file of a ConfigMap.
    fn file(&self, name: &str) -> Option<&str> {
        self.0.get("data")?.get(name)?.as_str()
    }

    /// What the `restricted` standard asks, and a read-only root besides; nothing to check without
    /// a pod template.
    fn check_restricted(&self) -> Result<()> {
        let Some(pod) = self.0.pointer("/spec/template/spec") else {
            return Ok(());
        };
        ensure!(
            pod.pointer("/securityContext/runAsNonRoot") == Some(&Value::Bool(true)),
            "may run as root"
        );
        ensure!(
            pod.pointer("/securityContext/seccompProfile/type") == Some(&"RuntimeDefault".into()),
            "no seccomp profile"
        );
        for container in pod["containers"].as_array().into_iter().flatten() {
            let context = &container["securityContext"];
            ensure!(
                context["allowPrivilegeEscalation"] == false,
                "may gain privileges"
            );
            ensure!(
                context["readOnlyRootFilesystem"] == true,
                "may write to its root file system"
            );
            ensure!(
                context["capabilities"]["drop"] == serde_json::json!(["ALL"]),
                "keeps capabilities"
            );
        }
        Ok(())
    }
}

/// Lets Envoy and promtool read what the pods will read.
fn check_configurations(objects: &[Object]) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("serin-chart-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let result = check_configurations_in(&folder, objects);
    fs::remove_dir_all(&folder)?;
    result
}

fn check_configurations_in(folder: &Path, objects: &[Object]) -> Result<()> {
    for object in objects {
        if let Some(text) = object.file("envoy.yaml") {
            let path = folder.join("envoy.yaml");
            fs::write(&path, text)?;
            let node = ["--service-node", "pod", "--service-cluster", "serin-router"];
            process::output(
                Command::new(cluster::tool("envoy")?)
                    .args(["--mode", "validate", "--config-path"])
                    .arg(&path)
                    .args(node),
            )
            .context("Envoy refuses its bootstrap")?;
        }
        for script in ["drain.sh", "start.sh"] {
            if let Some(text) = object.file(script) {
                process::output(Command::new("bash").args(["-n", "-c", text]))
                    .with_context(|| format!("bash refuses {script}"))?;
            }
        }
        if let Some(text) = object.file("prometheus.yaml") {
            let path = folder.join("prometheus.yaml");
            fs::write(&path, text)?;
            let promtool = cluster::tool("prometheus")?.with_file_name("promtool");
            process::output(
                Command::new(promtool)
                    .args(["check", "config", "--syntax-only"])
                    .arg(&path),
            )
            .context("Prometheus refuses its configuration")?;
        }
    }
    Ok(())
}
