//! `cargo xtask demo`: the scenario on a cluster, and afterwards only what the caller wants to
//! keep.

use std::process::Command;

use anyhow::Result;
use cluster::Cluster;

use crate::inventory::Inventory;
use crate::play::Options;
use crate::{preflight, supervise};

/// Arguments of `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Leave the cluster up afterwards
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    options: Options,
}

/// Plays the demo and ends the cluster that it started, also when it fails or is interrupted.
pub fn demo(args: &DemoArgs, cluster: &Cluster) -> Result<()> {
    preflight::check(cluster, args.options.registry.as_ref())?;
    let was_up = cluster.is_up()?;
    let before = match Inventory::of(cluster) {
        Ok(before) => before,
        // It is started later.
        Err(_) if cluster.is_local() => Inventory::default(),
        Err(error) => return Err(error),
    };
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(cluster.arguments())
        .args(["play", "demo"])
        .args(args.options.arguments());
    let played = supervise::run(command);
    if cluster.is_local() && !args.keep && !was_up {
        let ended = cluster.end();
        return played.and(ended);
    }
    // Why the demo failed matters more than an inventory that fails, too.
    match Inventory::of(cluster) {
        Ok(now) => print_hints(cluster, was_up, &before, &now),
        Err(error) => eprintln!("cannot say what the demo left on the cluster: {error:#}"),
    }
    played
}

/// What is left on a cluster that stays, and how to remove it.
fn print_hints(cluster: &Cluster, was_up: bool, before: &Inventory, now: &Inventory) {
    let (exec, whose) = match cluster {
        Cluster::Local(_) => ("cargo xtask cluster exec -- ", ""),
        Cluster::Context(_) => ("", " that you have"),
    };
    let why = if was_up { ", as it was before" } else { "" };
    println!("The cluster{whose} is still up{why}.");
    let show = |command: &str| println!("  {exec}{}", on(cluster, command));
    if now.has_models() {
        println!("To look around:");
        show("kubectl describe mdep -n demo iris");
    }
    let removal = now.removal(before);
    if !removal.is_empty() {
        println!("To remove what the demo brought:");
        removal.into_iter().for_each(show);
    }
    if cluster.is_local() {
        println!("To end all of it:\n  cargo xtask cluster down");
    }
}

/// A command of kubectl or helm that names the cluster, whatever the caller's current context is.
fn on(cluster: &Cluster, command: &str) -> String {
    let Cluster::Context(name) = cluster else {
        return command.to_owned();
    };
    match command.split_once(' ') {
        Some(("helm", rest)) => format!("helm --kube-context {name} {rest}"),
        Some((program, rest)) => format!("{program} --context {name} {rest}"),
        None => command.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_name_the_cluster_that_they_are_for() {
        let elsewhere = Cluster::Context("kind-a".into());
        let (get, uninstall) = ("kubectl get pods", "helm uninstall serin");
        let local = Cluster::new(None, cluster::Wanted::default());
        assert_eq!(on(&local, get), get);
        assert_eq!(on(&elsewhere, get), "kubectl --context kind-a get pods");
        assert_eq!(
            on(&elsewhere, uninstall),
            "helm --kube-context kind-a uninstall serin"
        );
    }
}
