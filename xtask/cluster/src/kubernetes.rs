//! The cluster's programs, built once and kept in the cache.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::flavour::Minor;
use super::gomodule::{CONTAINERD, Program};
use super::layout::Layout;
use super::tools;
use crate::progress::Progress;

const KUBE_APISERVER: Program =
    Program::new("k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver");
const KUBERNETES_PROGRAMS: [Program; 5] = [
    KUBE_APISERVER,
    Program::new(
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        "kube-controller-manager",
    ),
    Program::new("k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler"),
    Program::new("k8s.io/kubernetes/cmd/kubelet", "kubelet"),
    Program::new("k8s.io/kubernetes/cmd/kube-proxy", "kube-proxy"),
];

const ETCD: Program = Program::new("go.etcd.io/etcd/server/v3", "etcd");
/// What is built with the default's Kubernetes, for clusters of every minor version.
const SHARED_PROGRAMS: [Program; 3] = [
    ETCD,
    Program::new(
        "sigs.k8s.io/metrics-server/cmd/metrics-server",
        "metrics-server",
    ),
    Program::new("./cmd/coredns", "coredns"),
];

const CONTAINERD_PROGRAMS: [Program; 3] = [
    Program::new(
        "github.com/containerd/containerd/v2/cmd/containerd",
        "containerd",
    ),
    Program::new(
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        "containerd-shim-runc-v2",
    ),
    Program::new("github.com/containerd/containerd/v2/cmd/ctr", "ctr"),
];

/// The folders of a cluster's programs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// kube-apiserver, kube-controller-manager, kube-scheduler, kubelet and kube-proxy.
    pub kubernetes: PathBuf,
    /// etcd, metrics-server and CoreDNS.
    pub shared: PathBuf,
    /// containerd, its shim and ctr.
    pub containerd: PathBuf,
}

impl Programs {
    /// Where they are, once they are built.
    pub fn of(layout: &Layout, minor: Minor) -> Result<Self> {
        Ok(Self {
            kubernetes: layout.kubernetes(minor)?.join("bin"),
            shared: layout.kubernetes(Minor::default())?.join("bin"),
            containerd: layout.containerd()?.join("bin"),
        })
    }
}

/// The programs of a whole cluster, built where they are missing: 12 CPU-minutes for the default,
/// once.
pub fn ensure(layout: &Layout, minor: Minor, progress: &Progress) -> Result<Programs> {
    if minor == Minor::default() {
        let all = [&KUBERNETES_PROGRAMS[..], &SHARED_PROGRAMS[..]].concat();
        build(layout, minor, &all, progress)?;
    } else {
        build(layout, minor, &KUBERNETES_PROGRAMS, progress)?;
        build(layout, Minor::default(), &SHARED_PROGRAMS, progress)?;
    }
    CONTAINERD.ensure(&layout.containerd()?, &CONTAINERD_PROGRAMS, progress)?;
    Programs::of(layout, minor)
}

fn build(
    layout: &Layout,
    minor: Minor,
    programs: &[Program],
    progress: &Progress,
) -> Result<PathBuf> {
    minor
        .module()
        .ensure(&layout.kubernetes(minor)?, programs, progress)
}

/// A folder with `etcd`, `kube-apiserver` and `kubectl`, as envtest wants it: `KUBEBUILDER_ASSETS`
/// where that is set and no minor version is asked for, else what is built here.
pub fn assets(layout: &Layout, minor: Option<Minor>, progress: &Progress) -> Result<PathBuf> {
    let given = std::env::var_os("KUBEBUILDER_ASSETS").filter(|value| !value.is_empty());
    if let (Some(given), None) = (given, minor) {
        return Ok(given.into());
    }
    let minor = minor.unwrap_or_default();
    let apiserver = build(layout, minor, &[KUBE_APISERVER], progress)?;
    let etcd = build(layout, Minor::default(), &[ETCD], progress)?;
    let folder = layout.cached("assets").join(minor.to_string());
    fs::create_dir_all(&folder)?;
    for (name, target) in [
        ("etcd", etcd.join("etcd")),
        ("kube-apiserver", apiserver.join("kube-apiserver")),
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
