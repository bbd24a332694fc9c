//! An earlier release of Serin, installed from nothing, to be upgraded to this one.

use std::ffi::OsString;

use anyhow::{Context, Result, ensure};
use cluster::progress::Progress;
use cluster::{Cluster, process, tool};

use crate::images::Release;
use crate::install::{self, NAMESPACE};

/// The release before this one: the first of today's resource. Objects of earlier ones are not
/// read.
pub const FROM: &str = "e4350f6";
/// Routers serve on for as long as by the chart's default, not for the 5 s of the local values: two
/// routers and twelve models change at once, and kube-proxy was seen to take 6 s on a busy machine.
const DRAIN: [&str; 2] = ["--set", "router.drain.minSeconds=10"];

/// Installs the earlier release from nothing. Returns the command that upgrades it.
pub fn prepare(cluster: &Cluster, from: &str) -> Result<Vec<OsString>> {
    ensure!(
        cluster.is_local(),
        "an earlier CRD replaces the cluster's, and all models go with it: local cluster only"
    );
    let progress = Progress::new("stage");
    let release = Release::of(from)?;
    cluster.ensure()?;
    let values = install::deliver(cluster, None, &progress)?;
    install::load(cluster, &release.operator()?)?;
    progress.say("removing Serin, its CRD and all models");
    install::ensure_namespace(cluster)?;
    let uninstall = ["uninstall", "serin", "--ignore-not-found", "--wait"];
    let namespace = ["--namespace", NAMESPACE];
    process::run(cluster.command("helm")?.args(uninstall).args(namespace))?;
    let crd = ["delete", "crd", "modeldeployments.serin.dev"];
    process::run(
        cluster
            .command("kubectl")?
            .args(crd)
            .arg("--ignore-not-found"),
    )?;
    progress.say(format!("installing the chart of {from} with helm"));
    let tag = format!("operator.image.tag={}", release.tag());
    let mut helm = cluster.command("helm")?;
    helm.args(install::helm_arguments(&release.chart(), &[tag]))
        .args(DRAIN);
    process::run(&mut helm).with_context(|| format!("helm cannot install the chart of {from}"))?;
    let mut upgrade = vec![tool("helm")?.into_os_string()];
    upgrade.extend(install::helm_arguments(&install::chart(), &values));
    upgrade.extend(DRAIN.map(Into::into));
    Ok(upgrade)
}
