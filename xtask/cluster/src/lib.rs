//! A real Kubernetes on one Debian 12 machine, without Docker, without a registry and without
//! traces.
//!
//! etcd, the API server, controller manager, scheduler, kubelet, kube-proxy, containerd, CoreDNS
//! and metrics-server, built from the Go modules in `xtask/cluster/go`, run in network, mount and
//! pid namespaces of their own, whose process 1 is this program. The host's network, firewall,
//! mounts and settings stay untouched, and the end of that one process is the end of all of them.
//! Only two things lie outside: the folder `~/.cache/serin/cluster`, and the pods' cgroup
//! `serin-cluster-…`; `down` removes both (logs stay).

mod config;
mod flavour;
mod gomodule;
mod init;
mod kubernetes;
mod layout;
mod packages;
mod pause;
mod pki;
pub mod process;
pub mod progress;
mod provider;
pub mod repository;
mod running;
mod tools;
mod up;

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

pub use self::flavour::{Flavour, Minor, Wanted};
pub use self::layout::{Layout, State};
pub use self::packages::{BUILDAH, CLUSTER, REGISTRY, ensure as ensure_packages};
use self::progress::Progress;
pub use self::provider::Cluster;
pub use self::tools::tool;

/// The hidden command that runs as process 1 of the namespaces.
pub const INIT_COMMAND: &str = "cluster-init";

/// What can be done with a cluster.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start it, installing and building what is missing (12 CPU-minutes at first, 12 seconds
    /// later).
    Up,
    /// End it, or what a crash left of it; only its logs stay.
    Down,
    /// Show whether it and each of its components run.
    Status,
    /// Print the path of its kubeconfig, which works inside its network (`exec`).
    Kubeconfig,
    /// Run a command inside its network, with KUBECONFIG set and its names resolved.
    Exec {
        /// The command and its arguments; kubectl and helm need not be installed.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Give it an image from an archive (docker-archive or oci-archive).
    Load {
        /// The archive.
        archive: PathBuf,
    },
    /// Print a folder with etcd, kube-apiserver and kubectl, as envtest wants it
    /// (KUBEBUILDER_ASSETS if that is set).
    Assets,
    /// Print the path of a tool (kubectl, helm, helm3, helm4, envoy, prometheus and more), fetched
    /// or built if need be.
    Tool {
        /// Its name.
        name: String,
    },
}

/// Arguments of process 1.
#[derive(Debug, Args)]
pub struct InitArgs {
    folder: PathBuf,
}

/// Runs one command of `cargo xtask cluster`.
pub fn run(command: Command, cluster: &Cluster) -> Result<()> {
    let layout = Layout::from_env()?;
    match command {
        Command::Up => cluster.ensure(),
        Command::Down => cluster.end(),
        Command::Status => match cluster {
            Cluster::Local(_) => up::print_status(&layout),
            Cluster::Context(_) => exec(
                cluster,
                OsStr::new("kubectl"),
                &["get".into(), "nodes".into()],
            ),
        },
        Command::Kubeconfig => {
            println!("{}", cluster.kubeconfig()?.display());
            Ok(())
        }
        Command::Exec { command } => match command.split_first() {
            Some((program, args)) => exec(cluster, program, args),
            None => bail!("no command given"),
        },
        Command::Load { archive } => cluster.load(&archive),
        Command::Assets => {
            let minor = match cluster {
                Cluster::Local(wanted) => wanted.kubernetes,
                Cluster::Context(_) => None,
            };
            println!("{}", assets(minor)?.display());
            Ok(())
        }
        Command::Tool { name } => {
            println!("{}", tool(&name)?.display());
            Ok(())
        }
    }
}

/// A folder with `etcd`, `kube-apiserver` and `kubectl`, built and fetched if need be.
pub fn assets(minor: Option<Minor>) -> Result<PathBuf> {
    kubernetes::assets(&Layout::from_env()?, minor, &Progress::new("assets"))
}

/// Builds the programs of a cluster where they are not there.
pub fn ensure_kubernetes(minor: Minor) -> Result<()> {
    let layout = Layout::from_env()?;
    kubernetes::ensure(&layout, minor, &Progress::new("kubernetes")).map(drop)
}

/// Becomes the command: its signals and exit status are the caller's.
fn exec(cluster: &Cluster, program: &OsStr, args: &[OsString]) -> Result<()> {
    Err(cluster.command(program)?.args(args).exec().into())
}

/// Runs as process 1 of the cluster's namespaces.
pub fn init(args: &InitArgs) -> Result<()> {
    init::run(&State::at(&args.folder))
}
