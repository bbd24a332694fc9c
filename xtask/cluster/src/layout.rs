//! Where everything of the local cluster lies.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::flavour::Minor;
use super::gomodule::CONTAINERD;

/// The folders of the cache: `$XDG_CACHE_HOME/serin`, by default `~/.cache/serin`.
#[derive(Debug, Clone)]
pub struct Layout {
    cache: PathBuf,
}

impl Layout {
    /// The layout of the caller's environment.
    pub fn from_env() -> Result<Self> {
        let base = match std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
            Some(folder) => PathBuf::from(folder),
            None => Path::new(&std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
        };
        Self::under(&base)
    }

    fn under(base: &Path) -> Result<Self> {
        // Inside the cluster's mount namespace these folders are covered by others.
        for covered in ["/run", "/var/run", "/var/lib", "/var/log", "/proc"] {
            if base.starts_with(covered) {
                bail!("the cache cannot lie under {covered}: set XDG_CACHE_HOME to another folder");
            }
        }
        if !base.is_absolute() {
            bail!(
                "XDG_CACHE_HOME must be an absolute path, not {}",
                base.display()
            );
        }
        Ok(Self {
            cache: base.join("serin"),
        })
    }

    /// Where the programs and files of one version of something are kept.
    pub fn cached(&self, name: &str) -> PathBuf {
        self.cache.join(name)
    }

    /// The build of a Kubernetes; its programs are in `bin` below.
    pub fn kubernetes(&self, minor: Minor) -> Result<PathBuf> {
        Ok(self.cached(&format!("kubernetes-{}", minor.release()?)))
    }

    /// The build of containerd, likewise.
    pub fn containerd(&self) -> Result<PathBuf> {
        let version = CONTAINERD.version("github.com/containerd/containerd/v2")?;
        Ok(self.cached(&format!("containerd-{}", version.trim_start_matches('v'))))
    }

    /// What belongs to the running cluster: configuration, logs and data.
    pub fn state(&self) -> State {
        State {
            dir: self.cache.join("cluster"),
        }
    }

    /// Held by the process that changes the cluster.
    pub fn lock(&self) -> PathBuf {
        self.cache.join("cluster.lock")
    }
}

/// The folder of one running cluster.
#[derive(Debug, Clone)]
pub struct State {
    dir: PathBuf,
}

impl State {
    /// The cluster of this folder, for its own components: their environment says nothing of the
    /// caller's cache.
    pub fn at(folder: &Path) -> Self {
        Self { dir: folder.into() }
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file or folder of the cluster.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The log of one component.
    pub fn log(&self, component: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{component}.log"))
    }

    /// The API server's audit log: one JSON object a line, level Metadata.
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join("logs/audit.log")
    }

    /// Credentials of `user`, one of [`super::config::USERS`].
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.dir.join("kubeconfigs").join(user)
    }

    /// What process 1 says about itself and its components.
    pub fn status(&self) -> PathBuf {
        self.dir.join("status.json")
    }

    /// The cgroup of all pods, in every hierarchy: another for each folder, so that clusters of
    /// several caches (of several users, of tests) leave each other's pods alone.
    pub fn cgroup(&self) -> String {
        let digest = Sha256::digest(self.dir.as_os_str().as_bytes());
        format!(
            "serin-cluster-{:02x}{:02x}{:02x}{:02x}",
            digest[0], digest[1], digest[2], digest[3]
        )
    }

    /// The cluster's `/etc/resolv.conf`.
    pub fn resolv_conf(&self) -> PathBuf {
        self.dir.join("resolv.conf")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_part_of_the_paths() {
        let layout = Layout::under(Path::new("/c")).unwrap();
        assert_eq!(
            layout.kubernetes(Minor::V34).unwrap(),
            Path::new("/c/serin/kubernetes-1.34.4")
        );
        let containerd = layout.containerd().unwrap();
        assert!(containerd.starts_with("/c/serin"));
        assert!(containerd.to_string_lossy().contains("/containerd-2."));
        assert_eq!(
            layout.state().log("etcd"),
            Path::new("/c/serin/cluster/logs/etcd.log")
        );
    }

    #[test]
    fn clusters_of_different_caches_share_no_cgroup() {
        let [a, b] =
            ["/a", "/b"].map(|base| Layout::under(Path::new(base)).unwrap().state().cgroup());
        assert_ne!(a, b);
        assert_eq!(a.len(), "serin-cluster-01234567".len());
    }

    #[test]
    fn a_cache_that_the_namespace_would_cover_is_refused() {
        assert!(Layout::under(Path::new("/run/user/0")).is_err());
        assert!(Layout::under(Path::new("relative")).is_err());
    }
}
