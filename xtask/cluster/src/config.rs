//! The configuration files and command lines of the components.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};

use super::flavour::{Family, IpFamilies};
use super::kubernetes::Programs;
use super::layout::State;
use super::pause;
use super::pki::FRONT_PROXY;

/// The node's name.
pub const NODE: &str = "node1";
/// The domain of the cluster's names.
pub const DOMAIN: &str = "cluster.local";
/// Where metrics-server listens, on the node's address.
pub const METRICS_PORT: u16 = 4443;

/// A client of the API server. Each has a name, so that the audit log distinguishes them.
#[derive(Debug)]
pub struct User {
    /// Name of the kubeconfig.
    pub file: &'static str,
    name: &'static str,
    group: &'static str,
}

/// All clients that get a kubeconfig.
pub const USERS: &[User] = &[
    user("admin", "admin", "system:masters"),
    user("init", "serin:cluster-init", "system:masters"),
    user("coredns", "serin:coredns", "system:masters"),
    user("metrics-server", "serin:metrics-server", "system:masters"),
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
pub fn first_components(
    state: &State,
    programs: &Programs,
    ip_families: IpFamilies,
) -> Vec<Component> {
    let pki = |name: &str| state.path("pki").join(name).display().to_string();
    let path = |name: &str| state.path(name).display().to_string();
    let any = match ip_families {
        IpFamilies::Ipv4 => "0.0.0.0",
        IpFamilies::Ipv6 | IpFamilies::Dual => "::",
    };
    vec![
        Component::new(
            "etcd",
            programs.shared.join("etcd"),
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
            programs.containerd.join("containerd"),
            &["--config".into(), path("containerd.toml")],
        ),
        Component::new(
            "kube-apiserver",
            programs.kubernetes.join("kube-apiserver"),
            &[
                "--etcd-servers=http://127.0.0.1:2379".into(),
                format!("--advertise-address={}", ip_families.primary().node),
                format!("--bind-address={any}"),
                "--secure-port=6443".into(),
                format!("--tls-cert-file={}", pki("apiserver.crt")),
                format!("--tls-private-key-file={}", pki("apiserver.key")),
                format!("--cert-dir={}", path("pki")),
                format!(
                    "--service-cluster-ip-range={}",
                    ip_families.list(|family| family.services)
                ),
                format!("--service-account-key-file={}", pki("sa.pub")),
                format!("--service-account-signing-key-file={}", pki("sa.key")),
                "--service-account-issuer=https://kubernetes.default.svc".into(),
                format!("--token-auth-file={}", pki("tokens.csv")),
                "--authorization-mode=Node,RBAC".into(),
                "--allow-privileged=true".into(),
                // The node's name is in no name server; `kubectl logs` and `exec` go through its
                // address.
                "--kubelet-preferred-address-types=InternalIP".into(),
                format!("--audit-policy-file={}", path("audit-policy.json")),
                format!("--audit-log-path={}", state.audit_log().display()),
                "--audit-log-maxsize=2000".into(),
                // Who asks metrics-server, and how it knows.
                format!("--requestheader-client-ca-file={}", pki("ca.crt")),
                format!("--requestheader-allowed-names={FRONT_PROXY}"),
                "--requestheader-username-headers=X-Remote-User".into(),
                "--requestheader-group-headers=X-Remote-Group".into(),
                "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
                format!("--proxy-client-cert-file={}", pki("front-proxy.crt")),
                format!("--proxy-client-key-file={}", pki("front-proxy.key")),
                "--enable-aggregator-routing=true".into(),
            ],
        ),
    ]
}

/// What wants a ready API server.
pub fn second_components(
    state: &State,
    programs: &Programs,
    ip_families: IpFamilies,
) -> Vec<Component> {
    let path = |name: &str| state.path(name).display().to_string();
    let pki = |name: &str| state.path("pki").join(name).display().to_string();
    let kubeconfig = |user: &str| format!("--kubeconfig={}", state.kubeconfig(user).display());
    let kubernetes = &programs.kubernetes;
    let pods = ip_families.list(|family| family.pods);
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
                format!("--cluster-cidr={pods}"),
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
                format!("--hostname-override={NODE}"),
                // Without it kubelet waits for cloud metadata and name servers.
                format!("--node-ip={}", ip_families.list(|family| family.node)),
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
                "--proxy-mode=iptables".into(),
                format!("--cluster-cidr={pods}"),
                // These limits belong to the whole machine: left alone.
                "--conntrack-max-per-core=0".into(),
                "--conntrack-tcp-timeout-established=0".into(),
                "--conntrack-tcp-timeout-close-wait=0".into(),
            ],
        ),
        Component::new(
            "coredns",
            programs.shared.join("coredns"),
            &["-conf".into(), path("Corefile")],
        ),
        Component::new(
            "metrics-server",
            programs.shared.join("metrics-server"),
            &[
                kubeconfig("metrics-server"),
                format!(
                    "--authentication-kubeconfig={}",
                    state.kubeconfig("metrics-server").display()
                ),
                format!(
                    "--authorization-kubeconfig={}",
                    state.kubeconfig("metrics-server").display()
                ),
                format!("--bind-address={}", ip_families.primary().node),
                format!("--secure-port={METRICS_PORT}"),
                format!("--cert-dir={}", path("metrics-server-pki")),
                "--kubelet-insecure-tls".into(),
                "--kubelet-preferred-address-types=InternalIP".into(),
                // The shortest that it accepts is 10 s; an HPA looks each 15 s.
                "--metric-resolution=15s".into(),
            ],
        ),
    ]
}

/// The objects through which the API server finds metrics-server, which is no pod.
pub fn metrics_objects(family: &Family) -> [Value; 3] {
    [
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "metrics-server", "namespace": "kube-system"},
            "spec": {"ports": [{"name": "https", "port": 443, "targetPort": METRICS_PORT}]},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "metrics-server", "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": "metrics-server"},
            },
            "addressType": family.name,
            "ports": [{"name": "https", "port": METRICS_PORT, "protocol": "TCP"}],
            "endpoints": [{"addresses": [family.node], "conditions": {"ready": true}}],
        }),
        json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": "v1beta1.metrics.k8s.io"},
            "spec": {
                "group": "metrics.k8s.io", "version": "v1beta1",
                "groupPriorityMinimum": 100, "versionPriority": 100,
                "insecureSkipTLSVerify": true, // it signs its certificate itself
                "service": {"name": "metrics-server", "namespace": "kube-system"},
            },
        }),
    ]
}

/// Writes all configuration files. `pki` must hold the certificates by now.
pub fn write(
    state: &State,
    tokens: &BTreeMap<&'static str, String>,
    ip_families: IpFamilies,
) -> Result<()> {
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
    let name_server = ip_families.primary().node;
    let text = pretty(&cni(ip_families));
    fs::write(state.path("cni/10-bridge.conflist"), text)?;
    fs::write(
        state.path("kubelet.json"),
        pretty(&kubelet(state, name_server)),
    )?;
    fs::write(state.path("audit-policy.json"), pretty(&audit_policy()))?;
    fs::write(state.path("Corefile"), corefile(state, ip_families))?;
    fs::write(
        state.path("node-resolv.conf"),
        format!("nameserver {name_server}\n"),
    )?;
    fs::write(
        state.resolv_conf(),
        format!(
            "nameserver {name_server}\nsearch default.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}\n\
             options ndots:5\n"
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
        r#"version = 3
root = "{root}/containerd"
state = "/run/containerd"

[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{image}"

[plugins."io.containerd.cri.v1.runtime"]
  # Root without CAP_SYS_RESOURCE may not lower a score; without this every pod sandbox dies there
  # with "can't get final child's PID from pipe: EOF".
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "{root}/cni"
"#
    )
}

fn cni(ip_families: IpFamilies) -> Value {
    let families = ip_families.families().iter();
    let ranges: Vec<Value> = families
        .clone()
        .map(|family| json!([{"subnet": family.node_pods}]))
        .collect();
    let routes: Vec<Value> = families
        .map(|family| json!({"dst": family.everywhere}))
        .collect();
    json!({
        "cniVersion": "0.4.0",
        "name": "bridge",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "ipMasq": true,
                "hairpinMode": true,
                "ipam": {"type": "host-local", "ranges": ranges, "routes": routes},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// Names outside the cluster are unknown: nothing outside can be reached. Nothing is cached: an
/// answer is what the API server said last.
fn corefile(state: &State, ip_families: IpFamilies) -> String {
    let addresses: Vec<_> = ip_families
        .families()
        .iter()
        .map(|family| family.node)
        .collect();
    let (addresses, kubeconfig) = (addresses.join(" "), state.kubeconfig("coredns"));
    let kubeconfig = kubeconfig.display();
    format!(
        "\
.:53 {{
    bind {addresses}
    errors
    kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
    }}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"
    )
}

fn kubelet(state: &State, name_server: &str) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        // Many machines still have version 1.
        "failCgroupV1": false,
        "cgroupRoot": format!("/{}", state.cgroup()),
        "failSwapOn": false,
        "enforceNodeAllocatable": [],
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "clusterDomain": DOMAIN,
        "clusterDNS": [name_server],
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
    use crate::flavour::Minor;
    use crate::layout::Layout;

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
        let layout = Layout::from_env().unwrap();
        let state = layout.state();
        let programs = Programs::of(&layout, Minor::default()).unwrap();
        let known: Vec<String> = USERS
            .iter()
            .map(|user| state.kubeconfig(user.file).display().to_string())
            .collect();
        let given: Vec<String> = first_components(&state, &programs, IpFamilies::Dual)
            .into_iter()
            .chain(second_components(&state, &programs, IpFamilies::Dual))
            .flat_map(|component| component.args)
            .filter_map(|argument| Some(argument.split_once("kubeconfig=")?.1.to_owned()))
            .collect();
        assert_eq!(given.len(), 7);
        assert!(
            given.iter().all(|argument| known.contains(argument)),
            "{given:?}"
        );
    }

    #[test]
    fn nothing_of_the_cluster_is_written_outside_its_folder() {
        let state = Layout::from_env().unwrap().state();
        let text = containerd(&state) + &kubelet(&state, "192.0.2.1").to_string();
        assert!(text.contains(&format!("conf_dir = \"{}/cni\"", state.dir().display())));
        assert!(!text.contains("/etc/"), "{text}");
    }

    #[test]
    fn a_cluster_of_one_family_names_no_address_of_the_other() {
        let layout = Layout::from_env().unwrap();
        let state = layout.state();
        let programs = Programs::of(&layout, Minor::default()).unwrap();
        let text = |families: IpFamilies| {
            let first = first_components(&state, &programs, families);
            let second = second_components(&state, &programs, families);
            let all = first.into_iter().chain(second);
            let arguments: Vec<String> = all.flat_map(|component| component.args).collect();
            arguments.join(" ") + &cni(families).to_string() + &corefile(&state, families)
        };
        for (families, v4, v6) in [
            (IpFamilies::Ipv4, true, false),
            (IpFamilies::Ipv6, false, true),
            (IpFamilies::Dual, true, true),
        ] {
            let text = text(families);
            assert_eq!(
                text.contains("172.31.") && text.contains("10.96."),
                v4,
                "{text}"
            );
            assert_eq!(text.contains("fd00:"), v6, "{text}");
        }
    }
}
