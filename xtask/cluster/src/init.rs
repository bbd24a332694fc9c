//! Process 1 of the cluster's namespaces: sets up mounts and network, starts the components,
//! watches them.
//!
//! Its end is the end of the whole cluster: the kernel kills every process of a pid namespace with
//! its first one, and mounts, interfaces and firewall rules go with the last process that uses
//! them. That is why nothing here cleans up.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, Config, ResourceExt};
use rustix::process::{WaitOptions, WaitStatus};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::{self, Component, NODE};
use super::flavour::{Family, Flavour, IpFamilies};
use super::kubernetes::Programs;
use super::layout::{Layout, State};
use crate::process;

/// The program search path of every component behind containerd's own folder, where its shim is:
/// host-local, iptables and runc lie in the administrator's folders.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Settings of the whole machine that kubelet insists on. Files with these values are laid over the
/// real ones, which kubelet then finds in order and leaves alone.
const SHIELDED_SYSCTLS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// What process 1 says about the cluster, in a file that others read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// When process 1 started, in seconds since 1970.
    pub started: u64,
    /// How far the start is.
    pub phase: Phase,
    /// Every component started so far.
    pub components: Vec<ComponentStatus>,
}

/// How far the start of the cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// etcd, containerd and the API server are starting.
    Starting,
    /// The API server answers; the rest is starting.
    ApiReady,
    /// The node is Ready, names are answered, pods can be made.
    Ready,
}

/// One component.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ComponentStatus {
    /// Its name, also that of its log.
    pub name: String,
    /// Its process in the cluster's pid namespace.
    pub pid: i32,
    /// How it ended, if it did. No component ends by itself, and none is started again: its death
    /// is a finding.
    pub ended: Option<String>,
}

impl Status {
    /// Reads what process 1 last wrote.
    pub fn read(state: &State) -> Result<Self> {
        let text =
            fs::read_to_string(state.status()).context("the cluster has not written its status")?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The first component that died.
    pub fn dead(&self) -> Option<&ComponentStatus> {
        self.components
            .iter()
            .find(|component| component.ended.is_some())
    }
}

/// Runs as process 1 and does not return while the cluster lives.
pub fn run(state: &State) -> Result<()> {
    if std::process::id() != 1 {
        bail!("this is process 1 of the cluster's namespaces: use `cargo xtask cluster up`");
    }
    let flavour = Flavour::read(state)?;
    let programs = Programs::of(&Layout::from_env()?, flavour.kubernetes)?;
    mounts(state).context("cannot set up the mounts")?;
    network(flavour.ip_families).context("cannot set up the network")?;

    let supervisor = Arc::new(Supervisor::new(state.clone(), flavour, programs));
    for component in config::first_components(state, &supervisor.programs, flavour.ip_families) {
        supervisor.start(&component)?;
    }
    let starter = Arc::clone(&supervisor);
    thread::spawn(move || {
        // The components are children of process 1, not of this thread: they stay.
        if let Err(error) = starter.start_the_rest() {
            eprintln!("cannot start the cluster: {error:#}");
            std::process::exit(1);
        }
    });
    supervisor.reap()
}

fn mounts(state: &State) -> Result<()> {
    let mount = |args: &[&str]| process::run(Command::new("mount").args(args));
    mount(&["--make-rprivate", "/"])?;
    mount(&["-t", "proc", "proc", "/proc"])?;
    mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])?;
    for (ours, theirs) in [("var-lib", "/var/lib"), ("var-log", "/var/log")] {
        mount(&["--bind", &state.path(ours).to_string_lossy(), theirs])?;
    }
    for (name, value) in SHIELDED_SYSCTLS {
        let (ours, theirs) = (
            state.path("sysctl").join(name.replace('/', ".")),
            format!("/proc/sys/{name}"),
        );
        if Path::new(&theirs).exists() {
            fs::write(&ours, format!("{value}\n"))?;
            mount(&["--bind", &ours.to_string_lossy(), &theirs])?;
        }
    }
    // It may be a link into /run, which is empty now.
    let resolv_conf = Path::new("/etc/resolv.conf");
    if let Ok(target) = fs::read_link(resolv_conf)
        && !resolv_conf.exists()
    {
        let target = Path::new("/etc").join(target);
        fs::create_dir_all(target.parent().context("/etc/resolv.conf points nowhere")?)?;
        fs::write(&target, "")?;
    }
    mount(&[
        "--bind",
        &state.resolv_conf().to_string_lossy(),
        "/etc/resolv.conf",
    ])
}

fn network(ip_families: IpFamilies) -> Result<()> {
    let ip = |line: &str| process::run(Command::new("ip").args(line.split_whitespace()));
    ip("link set lo up")?;
    // The node's addresses lie on a bridge without ports: not every kernel has the dummy device.
    ip("link add node0 type bridge")?;
    ip("link set node0 up")?;
    for Family {
        node_network,
        gateway,
        everywhere,
        forwarding,
        ..
    } in ip_families.families()
    {
        // No other machine can have the address: duplicates of IPv6 are not looked for.
        let at_once = if everywhere.contains(':') {
            "nodad"
        } else {
            ""
        };
        ip(&format!("address add {node_network} dev node0 {at_once}"))?;
        // kubelet wants a default route. No one is there: nothing outside can be reached.
        ip(&format!("route add {everywhere} via {gateway} dev node0"))?;
        fs::write(forwarding, "1\n").context("cannot turn on forwarding")?;
    }
    // Else kubelet waits 45 s for the metadata service of a cloud.
    ip("route add prohibit 169.254.0.0/16")
}

struct Supervisor {
    state: State,
    flavour: Flavour,
    programs: Programs,
    status: Mutex<Status>,
}

impl Supervisor {
    fn new(state: State, flavour: Flavour, programs: Programs) -> Self {
        let started = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        Self {
            state,
            flavour,
            programs,
            status: Mutex::new(Status {
                started,
                phase: Phase::Starting,
                components: Vec::new(),
            }),
        }
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the status and writes it for others, in one rename.
    fn update(&self, status: &mut Status, change: impl FnOnce(&mut Status)) {
        change(status);
        let written = serde_json::to_vec_pretty(&*status)
            .map_err(anyhow::Error::from)
            .and_then(|text| {
                let staged = self.state.status().with_extension("new");
                fs::write(&staged, text)?;
                Ok(fs::rename(&staged, self.state.status())?)
            });
        if let Err(error) = written {
            eprintln!("cannot write the status: {error:#}");
        }
    }

    fn start(&self, component: &Component) -> Result<()> {
        let log = fs::File::create(self.state.log(component.name))?;
        // Held over the start: the reaper must not see the end of a process that is not yet in the
        // list.
        let mut status = self.status();
        let child = Command::new(&component.program)
            .args(&component.args)
            .env_clear()
            .env(
                "PATH",
                format!("{}:{PATH}", self.programs.containerd.display()),
            )
            .env("HOME", self.state.path("tmp"))
            .env("TMPDIR", self.state.path("tmp"))
            .current_dir(self.state.dir())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", component.name))?;
        let entry = ComponentStatus {
            name: component.name.into(),
            pid: i32::try_from(child.id())?,
            ended: None,
        };
        self.update(&mut status, |status| status.components.push(entry));
        Ok(())
    }

    #[tokio::main(flavor = "current_thread")]
    async fn start_the_rest(&self) -> Result<()> {
        let kubeconfig = Kubeconfig::read_from(self.state.kubeconfig("init"))?;
        let config =
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;

        while !is_ready(&client).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (version, release) = (
            client.apiserver_version().await?.git_version,
            self.flavour.kubernetes.release()?,
        );
        if version != format!("v{release}") {
            bail!("the API server is of {version}, not of the v{release} that was to be built");
        }
        self.update(&mut self.status(), |status| status.phase = Phase::ApiReady);
        let families = self.flavour.ip_families;
        for component in config::second_components(&self.state, &self.programs, families) {
            self.start(&component)?;
        }
        for object in config::metrics_objects(families.primary()) {
            create(&client, object).await?;
        }
        while !can_run_pods(&client, families.primary()).await {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.update(&mut self.status(), |status| status.phase = Phase::Ready);
        Ok(())
    }

    /// Reaps children for ever: components, and orphans that process 1 inherits.
    fn reap(&self) -> Result<()> {
        loop {
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some((pid, end))) => {
                    let pid = pid.as_raw_nonzero().get();
                    let mut status = self.status();
                    let component = status
                        .components
                        .iter()
                        .position(|component| component.pid == pid);
                    if let Some(index) = component {
                        self.update(&mut status, |status| {
                            status.components[index].ended = Some(describe(end));
                        });
                    }
                }
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                // All components are dead. The namespaces stay, to be looked at.
                Err(rustix::io::Errno::CHILD) => thread::sleep(Duration::from_secs(1)),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn describe(end: WaitStatus) -> String {
    match (end.exit_status(), end.terminating_signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => format!("{end:?}"),
    }
}

/// Creates an object as it is written.
async fn create(client: &Client, object: Value) -> Result<()> {
    let object: DynamicObject = serde_json::from_value(object)?;
    let types = object.types.as_ref().context("an object without a kind")?;
    let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(types)?);
    let api = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    loop {
        match api.create(&PostParams::default(), &object).await {
            // The API server makes its own namespaces just after it is ready.
            Err(kube::Error::Api(status)) if status.code == 404 => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            created => {
                return created.map(drop).with_context(|| {
                    format!("cannot create {} {}", types.kind, object.name_any())
                });
            }
        }
    }
}

async fn is_ready(client: &Client) -> bool {
    let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else {
        return false;
    };
    client
        .request_text(request)
        .await
        .is_ok_and(|answer| answer == "ok")
}

/// The node is Ready, pods have the account they run under, and the name server listens.
async fn can_run_pods(client: &Client, family: &Family) -> bool {
    let node = Api::<Node>::all(client.clone()).get_opt(NODE).await;
    let ready = node
        .ok()
        .flatten()
        .and_then(|node| node.status?.conditions)
        .is_some_and(|conditions| {
            conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        });
    ready
        && Api::<ServiceAccount>::namespaced(client.clone(), "default")
            .get_opt("default")
            .await
            .is_ok_and(|account| account.is_some())
        && TcpStream::connect((family.node, 53)).is_ok()
}
