//! The Kubernetes programs, built once and kept in the cache.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::layout::Layout;
use super::{packages, tools};
use crate::process;
use crate::progress::Progress;

const BUILD_SCRIPT: &str = include_str!("build-kubernetes.sh");
const PROGRAMS: [&str; 5] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
];

/// The folder of the programs, which are built if they are not there: 12 CPU minutes, once.
pub fn ensure(layout: &Layout, progress: &Progress) -> Result<PathBuf> {
    let home = layout.kubernetes();
    let bin = home.join("bin");
    if PROGRAMS.iter().all(|program| bin.join(program).is_file()) {
        return Ok(bin);
    }
    packages::ensure(packages::BUILD, progress)?;
    process::run_visibly(
        process::leashed("bash")
            .args(["-c", BUILD_SCRIPT, "build-kubernetes"])
            .arg(&home),
    )
    .context("cannot build Kubernetes")?;
    Ok(bin)
}

/// A folder with `etcd`, `kube-apiserver` and `kubectl`, as envtest wants it: `KUBEBUILDER_ASSETS` where that is set,
/// else what is built here.
pub fn assets(layout: &Layout, progress: &Progress) -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("KUBEBUILDER_ASSETS").filter(|value| !value.is_empty()) {
        return Ok(given.into());
    }
    packages::ensure(packages::ETCD, progress)?;
    let bin = ensure(layout, progress)?;
    let folder = layout.kubernetes().join("assets");
    fs::create_dir_all(&folder)?;
    for (name, target) in [
        ("etcd", PathBuf::from("/usr/bin/etcd")),
        ("kube-apiserver", bin.join("kube-apiserver")),
        ("kubectl", tools::tool("kubectl")?),
    ] {
        let link = folder.join(name);
        if fs::read_link(&link).is_ok_and(|current| current == target) {
            continue;
        }
        let _ = fs::remove_file(&link);
        symlink(&target, &link).with_context(|| format!("cannot link {}", link.display()))?;
    }
    Ok(folder)
}
