//! What each component is told: configuration files and command lines.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use super::DNS_COMMAND;
use super::layout::State;
use super::pause;

/// The node's name.
pub const NODE: &str = "node1";
/// The node's address; the API server and the name server answer on it, also to pods.
pub const NODE_ADDRESS: &str = "172.31.255.1";
/// The domain of the cluster's names.
pub const DOMAIN: &str = "cluster.local";

/// Someone who speaks to the API server. Each has a name of its own, so that the audit log tells them apart.
#[derive(Debug)]
pub struct User {
    /// Name of the kubeconfig.
    pub file: &'static str,
    name: &'static str,
    group: &'static str,
}

/// Everyone who gets a kubeconfig.
pub const USERS: &[User] = &[
    user("admin", "admin", "system:masters"),
    user("init", "serin:cluster-init", "system:masters"),
    user("dns", "serin:cluster-dns", "system:masters"),
    user("kubelet", "system:node:node1", "system:nodes"),
    user("kube-proxy", "system:kube-proxy", "system:node-proxier"),
    user(
        "kube-scheduler",
        "system:kube-scheduler",
        "system:authenticated",
    ),
    user(
        "kube-controller-manager",
        "system:kube-controller-manager",
        "system:authenticated",
    ),
];

const fn user(file: &'static str, name: &'static str, group: &'static str) -> User {
    User { file, name, group }
}

/// A program that process 1 starts and watches.
#[derive(Debug)]
pub struct Component {
    /// Its name in the status and the name of its log.
    pub name: &'static str,
    /// What to run.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
}

impl Component {
    fn new(name: &'static str, program: impl Into<PathBuf>, args: &[String]) -> Self {
        Self {
            name,
            program: program.into(),
            args: args.to_vec(),
        }
    }
}

/// What can start at once: etcd, containerd and the API server, which waits for etcd by itself.
pub fn first_components(state: &State, kubernetes: &Path) -> Vec<Component> {
    let pki = |name: &str| state.path("pki").join(name).display().to_string();
    let path = |name: &str| state.path(name).display().to_string();
    vec![
        Component::new(
            "etcd",
            "/usr/bin/etcd",
            &[
                format!("--data-dir={}", path("etcd")),
                "--unsafe-no-fsync".into(),
                "--listen-client-urls=http://127.0.0.1:2379".into(),
                "--advertise-client-urls=http://127.0.0.1:2379".into(),
                "--listen-peer-urls=http://127.0.0.1:2380".into(),
            ],
        ),
        Component::new(
            "containerd",
            "/usr/bin/containerd",
            &["--config".into(), path("containerd.toml")],
        ),
        Component::new(
            "kube-apiserver",
            kubernetes.join("kube-apiserver"),
            &[
                "--etcd-servers=http://127.0.0.1:2379".into(),
                format!("--advertise-address={NODE_ADDRESS}"),
                "--bind-address=0.0.0.0".into(),
                "--secure-port=6443".into(),
                format!("--tls-cert-file={}", pki("apiserver.crt")),
                format!("--tls-private-key-file={}", pki("apiserver.key")),
                format!("--cert-dir={}", path("pki")),
                "--service-cluster-ip-range=10.96.0.0/16".into(),
                format!("--service-account-key-file={}", pki("sa.pub")),
                format!("--service-account-signing-key-file={}", pki("sa.key")),
                "--service-account-issuer=https://kubernetes.default.svc".into(),
                format!("--token-auth-file={}", pki("tokens.csv")),
                "--authorization-mode=Node,RBAC".into(),
                "--allow-privileged=true".into(),
                // The node's name is in no name server; `kubectl logs` and `exec` go through its address.
                "--kubelet-preferred-address-types=InternalIP".into(),
                format!("--audit-policy-file={}", path("audit-policy.json")),
                format!("--audit-log-path={}", state.audit_log().display()),
                "--audit-log-maxsize=2000".into(),
            ],
        ),
    ]
}

/// What wants a ready API server.
pub fn second_components(state: &State, kubernetes: &Path) -> Vec<Component> {
    let path = |name: &str| state.path(name).display().to_string();
    let pki = |name: &str| state.path("pki").join(name).display().to_string();
    let kubeconfig = |user: &str| format!("--kubeconfig={}", state.kubeconfig(user).display());
    vec![
        Component::new(
            "kube-controller-manager",
            kubernetes.join("kube-controller-manager"),
            &[
                kubeconfig("kube-controller-manager"),
                "--use-service-account-credentials=true".into(),
                format!("--service-account-private-key-file={}", pki("sa.key")),
                format!("--root-ca-file={}", pki("ca.crt")),
                format!("--cert-dir={}", path("pki")),
                "--cluster-cidr=10.244.0.0/16".into(),
                "--leader-elect=false".into(),
            ],
        ),
        Component::new(
            "kube-scheduler",
            kubernetes.join("kube-scheduler"),
            &[
                kubeconfig("kube-scheduler"),
                format!("--cert-dir={}", path("pki")),
                "--leader-elect=false".into(),
            ],
        ),
        Component::new(
            "kubelet",
            kubernetes.join("kubelet"),
            &[
                kubeconfig("kubelet"),
                format!("--config={}", path("kubelet.json")),
                "--container-runtime=remote".into(),
                "--container-runtime-endpoint=unix:///run/containerd/containerd.sock".into(),
                format!("--hostname-override={NODE}"),
                format!("--node-ip={NODE_ADDRESS}"),
                format!("--root-dir={}", path("kubelet")),
                format!("--cert-dir={}", path("kubelet-pki")),
            ],
        ),
        Component::new(
            "kube-proxy",
            kubernetes.join("kube-proxy"),
            &[
                kubeconfig("kube-proxy"),
                format!("--hostname-override={NODE}"),
                "--cluster-cidr=10.244.0.0/16".into(),
                // These limits belong to the whole machine: left alone.
                "--conntrack-max-per-core=0".into(),
                "--conntrack-tcp-timeout-established=0".into(),
                "--conntrack-tcp-timeout-close-wait=0".into(),
            ],
        ),
        // Our own program, also when a build has replaced its file meanwhile.
        Component::new(
            "dns",
            "/proc/self/exe",
            &[DNS_COMMAND.into(), state.dir().display().to_string()],
        ),
    ]
}

/// Writes all configuration files. `pki` must hold the certificates by now.
pub fn write(state: &State, tokens: &BTreeMap<&'static str, String>) -> Result<()> {
    for folder in [
        "logs",
        "kubeconfigs",
        "cni",
        "tmp",
        "var-lib",
        "var-log",
        "sysctl",
    ] {
        fs::create_dir_all(state.path(folder))?;
    }
    let authority = fs::read(state.path("pki/ca.crt"))?;
    let mut table = String::new();
    for User { file, name, group } in USERS {
        let token = &tokens[file];
        writeln!(table, "{token},{name},{name},{group}")?;
        fs::write(
            state.kubeconfig(file),
            pretty(&kubeconfig(&authority, token)?),
        )?;
    }
    fs::write(state.path("pki/tokens.csv"), table)?;
    fs::write(state.path("containerd.toml"), containerd(state))?;
    fs::write(state.path("cni/10-bridge.conflist"), pretty(&cni()))?;
    fs::write(state.path("kubelet.json"), pretty(&kubelet(state)))?;
    fs::write(state.path("audit-policy.json"), pretty(&audit_policy()))?;
    fs::write(
        state.path("node-resolv.conf"),
        format!("nameserver {NODE_ADDRESS}\n"),
    )?;
    fs::write(
        state.resolv_conf(),
        format!(
            "nameserver {NODE_ADDRESS}\nsearch default.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}\noptions ndots:5\n"
        ),
    )?;
    Ok(())
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn kubeconfig(authority: &[u8], token: &str) -> Result<Value> {
    // ByteString is base64 in JSON, as kubeconfig wants it.
    let authority = serde_json::to_value(k8s_openapi::ByteString(authority.to_vec()))?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "serin", "cluster": {
            "server": "https://127.0.0.1:6443",
            "certificate-authority-data": authority,
        }}],
        "users": [{"name": "serin", "user": {"token": token}}],
        "contexts": [{"name": "serin", "context": {"cluster": "serin", "user": "serin"}}],
        "current-context": "serin",
    }))
}

fn containerd(state: &State) -> String {
    let (root, image) = (state.dir().display(), pause::IMAGE);
    format!(
        r#"version = 2
root = "{root}/containerd"
state = "/run/containerd"
# No service of this machine asks for them, and each costs start-up time.
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]

[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"

[plugins."io.containerd.grpc.v1.cri"]
  # Root without CAP_SYS_RESOURCE may not lower a score; without this every pod sandbox dies there with
  # "can't get final child's PID from pipe: EOF".
  restrict_oom_score_adj = true
  sandbox_image = "{image}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{root}/cni"
"#
    )
}

fn cni() -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "bridge",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": "10.244.0.0/24"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn kubelet(state: &State) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", state.cgroup()),
        "failSwapOn": false,
        "enforceNodeAllocatable": [],
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "clusterDomain": DOMAIN,
        "clusterDNS": [NODE_ADDRESS],
        "resolvConf": state.path("node-resolv.conf"),
        "volumePluginDir": state.path("kubelet/plugins"),
        // By default a node's first report of being ready waits for 10 s.
        "nodeStatusUpdateFrequency": "1s",
        "nodeStatusReportFrequency": "10s",
        // A pod whose end was missed is looked at again so often; after a minute by default.
        "syncFrequency": "10s",
        // By default probes and starts queue behind 5 requests a second.
        "kubeAPIQPS": 50,
        "kubeAPIBurst": 100,
    })
}

fn audit_policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata"}],
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cluster::layout::Layout;

    #[test]
    fn the_kubeconfig_is_one_that_clients_read() {
        let value = kubeconfig(b"certificate", "secret").unwrap();
        let config: kube::config::Kubeconfig = serde_json::from_value(value).unwrap();
        let cluster = config.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(
            cluster.certificate_authority_data.as_deref(),
            Some("Y2VydGlmaWNhdGU=")
        );
        assert_eq!(config.current_context.as_deref(), Some("serin"));
    }

    #[test]
    fn every_kubeconfig_that_a_component_is_given_is_written() {
        let state = Layout::from_env().unwrap().state();
        let known: Vec<String> = USERS
            .iter()
            .map(|user| format!("--kubeconfig={}", state.kubeconfig(user.file).display()))
            .collect();
        let given: Vec<String> = first_components(&state, Path::new("/k"))
            .into_iter()
            .chain(second_components(&state, Path::new("/k")))
            .flat_map(|component| component.args)
            .filter(|argument| argument.starts_with("--kubeconfig="))
            .collect();
        assert_eq!(given.len(), 4);
        assert!(
            given.iter().all(|argument| known.contains(argument)),
            "{given:?}"
        );
    }

    #[test]
    fn nothing_of_the_cluster_is_written_outside_its_folder() {
        let state = Layout::from_env().unwrap().state();
        let text = containerd(&state) + &kubelet(&state).to_string();
        assert!(text.contains(&format!("conf_dir = \"{}/cni\"", state.dir().display())));
        assert!(!text.contains("/etc/"), "{text}");
    }
}
