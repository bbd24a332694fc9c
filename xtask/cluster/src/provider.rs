//! Which cluster a command works on: the local one, or one that the caller has.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::flavour::Wanted;
use super::layout::Layout;
use super::{running, tools, up};
use crate::process;

/// A cluster to work on. All that differs between a local cluster and any other is behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cluster {
    /// The one of `cargo xtask cluster up`, of this kind.
    Local(Wanted),
    /// The one of this context of the caller's kubeconfig.
    Context(String),
}

impl Cluster {
    /// The cluster of `--context`, else the local one.
    pub fn new(context: Option<String>, wanted: Wanted) -> Self {
        context.map_or(Self::Local(wanted), Self::Context)
    }

    /// Whether it is the local one.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// The arguments with which another process of this program works on the same cluster.
    pub fn arguments(&self) -> Vec<String> {
        match self {
            Self::Local(wanted) => wanted.arguments(),
            Self::Context(name) => vec![format!("--context={name}")],
        }
    }

    /// Makes sure that the cluster is there: starts the local one, asks any other for its version.
    pub fn ensure(&self) -> Result<()> {
        match self {
            Self::Local(wanted) => up::up(&Layout::from_env()?, *wanted),
            Self::Context(name) => process::output(self.command("kubectl")?.arg("version"))
                .map(drop)
                .with_context(|| format!("the cluster of context {name} does not answer")),
        }
    }

    /// Ends the local cluster, or what a crash left of it. Any other belongs to the caller.
    pub fn end(&self) -> Result<()> {
        match self {
            Self::Local(_) => up::down(&Layout::from_env()?),
            Self::Context(name) => {
                bail!("the cluster of context {name} is yours: it is not ended from here")
            }
        }
    }

    /// A kubeconfig whose current context is this cluster. That of the local cluster works inside
    /// its network only.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        let layout = Layout::from_env()?;
        match self {
            Self::Local(_) => Ok(layout.state().kubeconfig("admin")),
            Self::Context(name) => {
                let config = process::output(Command::new(self.tool("kubectl")?).args([
                    "config",
                    "view",
                    "--minify",
                    "--flatten",
                    "--context",
                    name,
                ]))
                .with_context(|| format!("your kubeconfig has no context {name}"))?;
                let folder = layout.cached("contexts");
                fs::create_dir_all(&folder)?;
                let path = folder.join(name.replace('/', "_"));
                let _ = fs::remove_file(&path);
                fs::OpenOptions::new()
                    .create_new(true)
                    .write(true)
                    .mode(0o600) // it holds the caller's credentials
                    .open(&path)?
                    .write_all(config.as_bytes())?;
                Ok(path)
            }
        }
    }

    /// A program that reaches the cluster: `KUBECONFIG` set, our `kubectl` and `helm` first in
    /// `PATH`, and for the local cluster inside its network with its names, so that addresses of
    /// Services and pods work too.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = match self {
            Self::Local(_) => {
                running::enter_network(&Layout::from_env()?.state(), program.as_ref())?
            }
            Self::Context(_) => Command::new(program.as_ref()),
        };
        let mut path = Vec::new();
        let helm = Path::new(program.as_ref()).file_name() == Some(OsStr::new("helm"));
        // Helm is built when it is first run, which takes minutes.
        for name in ["kubectl", "helm"].into_iter().take(1 + usize::from(helm)) {
            if let Some(folder) = self
                .tool(name)?
                .parent()
                .filter(|folder| folder.is_absolute())
            {
                path.push(folder.to_owned());
            }
        }
        path.extend(std::env::split_paths(
            &std::env::var_os("PATH").unwrap_or_default(),
        ));
        command
            .env("KUBECONFIG", self.kubeconfig()?)
            .env("PATH", std::env::join_paths(path)?);
        Ok(command)
    }

    /// Whether it is there already, or at least a part of it. Any but the local one always is.
    pub fn is_up(&self) -> Result<bool> {
        match self {
            Self::Local(_) => Ok(!running::Holders::find(&Layout::from_env()?.state())?.is_none()),
            Self::Context(_) => Ok(true),
        }
    }

    /// The API server's audit log, where it lies on this machine.
    pub fn audit_log(&self) -> Result<Option<PathBuf>> {
        match self {
            Self::Local(_) => Ok(Some(Layout::from_env()?.state().audit_log())),
            Self::Context(_) => Ok(None),
        }
    }

    /// `kubectl` or `helm`: ours for the local cluster, for any other the caller's own where there
    /// is one.
    fn tool(&self, name: &str) -> Result<PathBuf> {
        match self {
            Self::Context(_) if process::is_installed(name) => Ok(name.into()),
            _ => tools::tool(name),
        }
    }

    /// Fails, with the remedy, where [`load`](Self::load) cannot work.
    pub fn can_load(&self) -> Result<()> {
        let Self::Context(name) = self else {
            return Ok(());
        };
        let command = loader(name)?;
        let program = command.get_program().to_string_lossy();
        if !process::is_installed(&program) {
            bail!(
                "`{program}` is not in PATH, which gives its nodes images: install it, or push \
                 them with --registry HOST/PATH"
            );
        }
        Ok(())
    }

    /// Gives the nodes an image from an archive in docker's or OCI's format.
    pub fn load(&self, archive: &Path) -> Result<()> {
        match self {
            Self::Local(_) => {
                println!("{}", up::import(&Layout::from_env()?, archive)?);
                Ok(())
            }
            Self::Context(name) => {
                let mut command = loader(name)?;
                process::run(command.arg(archive))
            }
        }
    }
}

/// The program that gives a cluster's nodes images from archives. kind and k3d name contexts after
/// their clusters, minikube calls its own `minikube` by default.
fn loader(context: &str) -> Result<Command> {
    let (program, args) = if let Some(name) = context.strip_prefix("kind-") {
        ("kind", ["load", "image-archive", "--name", name])
    } else if let Some(name) = context.strip_prefix("k3d-") {
        ("k3d", ["image", "import", "--cluster", name])
    } else if context == "minikube" {
        ("minikube", ["image", "load", "--profile", context])
    } else {
        bail!(
            "its nodes get images from a registry that they reach: name one to push to with \
             --registry HOST/PATH (the clusters of kind, k3d and minikube are given archives; \
             their contexts are kind-NAME, k3d-NAME, minikube)"
        );
    };
    let mut command = Command::new(program);
    command.args(args);
    Ok(command)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_preferred_to_the_local_cluster() {
        let new = |context: Option<&str>| Cluster::new(context.map(Into::into), Wanted::default());
        assert_eq!(new(None), Cluster::Local(Wanted::default()));
        let other = new(Some("kind-a"));
        assert_eq!(other, Cluster::Context("kind-a".into()));
        assert_eq!(other.arguments(), ["--context=kind-a"]);
    }

    #[test]
    fn images_go_to_kind_k3d_and_minikube_by_their_own_commands() {
        assert_eq!(loader("kind-a").unwrap().get_program(), "kind");
        assert_eq!(loader("k3d-a").unwrap().get_program(), "k3d");
        assert_eq!(loader("minikube").unwrap().get_program(), "minikube");
        assert!(
            loader("production")
                .unwrap_err()
                .to_string()
                .contains("--registry")
        );
    }

    #[test]
    fn a_cluster_whose_loader_is_missing_is_told_from_one_that_has_none() {
        let refusal = |name: &str| {
            Cluster::Context(name.into())
                .can_load()
                .unwrap_err()
                .to_string()
        };
        assert!(refusal("production").contains("HOST/PATH"));
        if !process::is_installed("k3d") {
            assert!(refusal("k3d-a").contains("`k3d` is not in PATH"));
        }
        assert!(Cluster::Local(Wanted::default()).can_load().is_ok());
    }
}
