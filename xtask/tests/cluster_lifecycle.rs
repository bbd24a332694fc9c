//! The local cluster comes and goes without a trace, also when it or its start is killed.
//!
//! Starts real clusters in a cache of its own, beside any other: as root on Debian 12, about two
//! minutes. `cargo test -p xtask --test cluster_lifecycle -- --ignored`
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// A cache that borrows what is slow to make from the caller's.
struct Cache {
    base: PathBuf,
}

impl Cache {
    fn new() -> Self {
        let home = std::env::var_os("XDG_CACHE_HOME").map_or_else(
            || Path::new(&std::env::var_os("HOME").unwrap()).join(".cache"),
            PathBuf::from,
        );
        let real = home.join("serin");
        let base = std::env::temp_dir().join(format!("serin-lifecycle-{}", std::process::id()));
        fs::create_dir_all(base.join("serin")).unwrap();
        for entry in fs::read_dir(&real).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let built = ["kubernetes-", "containerd-", "tools", "pause-"];
            if built.iter().any(|prefix| name.starts_with(prefix)) {
                symlink(entry.path(), base.join("serin").join(name)).unwrap();
            }
        }
        Self { base }
    }

    fn cluster(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .arg("cluster")
            .args(args)
            .env("XDG_CACHE_HOME", &self.base)
            .stdin(Stdio::null());
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.cluster(args).output().unwrap()
    }

    fn succeed(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{args:?}: {text}");
        text
    }

    /// `up` in a process group of its own, as a shell starts it.
    fn start_up(&self) -> Child {
        self.cluster(&["up"])
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap()
    }

    /// The processes that name this cache on their command line, or live in the namespaces of one
    /// that does.
    fn processes(&self) -> BTreeSet<u32> {
        let all = all_processes();
        let named = |pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                String::from_utf8_lossy(&line).contains(self.base.to_str().unwrap())
            })
        };
        let ours: BTreeSet<u32> = all.iter().copied().filter(named).collect();
        let own_namespaces = namespaces("self");
        let spaces: BTreeSet<PathBuf> = ours
            .iter()
            .flat_map(|pid| namespaces(&pid.to_string()))
            .filter(|space| !own_namespaces.contains(space))
            .collect();
        let mut found: BTreeSet<u32> = all
            .iter()
            .copied()
            .filter(|pid| {
                ours.contains(pid)
                    || namespaces(&pid.to_string())
                        .iter()
                        .any(|space| spaces.contains(space))
            })
            .collect();
        // Containers have namespaces of their own again: they are found by their parents.
        loop {
            let more: Vec<u32> = all
                .iter()
                .copied()
                .filter(|pid| {
                    !found.contains(pid)
                        && parent(*pid).is_some_and(|parent| found.contains(&parent))
                })
                .collect();
            if more.is_empty() {
                return found;
            }
            found.extend(more);
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let _ = self.cluster(&["down"]).output();
        let _ = fs::remove_dir_all(&self.base);
    }
}

fn all_processes() -> BTreeSet<u32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))?
        .trim()
        .parse()
        .ok()
}

fn namespaces(pid: &str) -> Vec<PathBuf> {
    ["net", "mnt", "pid"]
        .iter()
        .filter_map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok())
        .collect()
}

/// What a cluster could leave on the machine, apart from its processes.
#[derive(Debug, PartialEq)]
struct Traces {
    interfaces: BTreeSet<String>,
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
    folders: Vec<&'static str>,
    settings: Vec<String>,
    forwarding: String,
}

impl Traces {
    fn now(cache: &Cache) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let ours = |line: &&str| {
            line.contains(cache.base.to_str().unwrap())
                || line.contains("nsfs")
                || line.contains("kubelet")
        };
        Self {
            interfaces: fs::read_dir("/sys/class/net")
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect(),
            mounts: mounts.lines().filter(ours).map(String::from).collect(),
            cgroups: cgroups(cache),
            folders: [
                "/var/lib/kubelet",
                "/var/lib/cni",
                "/etc/cni",
                "/opt/containerd",
                "/var/log/pods",
                "/run/netns",
            ]
            .into_iter()
            .filter(|folder| Path::new(folder).exists())
            .collect(),
            settings: [
                "vm/overcommit_memory",
                "kernel/panic",
                "kernel/panic_on_oops",
            ]
            .iter()
            .map(|name| fs::read_to_string(format!("/proc/sys/{name}")).unwrap())
            .collect(),
            forwarding: fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(),
        }
    }
}

/// This cache's cgroups: clusters that others run at the same time have names of their own.
fn cgroups(cache: &Cache) -> BTreeSet<PathBuf> {
    let folder = cache.base.join("serin/cluster");
    let digest = Sha256::digest(folder.as_os_str().as_bytes());
    let name = format!(
        "serin-cluster-{:02x}{:02x}{:02x}{:02x}",
        digest[0], digest[1], digest[2], digest[3]
    );
    let root = Path::new("/sys/fs/cgroup");
    fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .chain([root.into()])
        .flat_map(|hierarchy| [hierarchy.join(&name), hierarchy.join("kubepods")])
        .filter(|group| group.exists())
        .collect()
}

/// A process with its parent, its state and its command line.
fn described(pid: u32) -> String {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let status = read("status");
    let state = status.lines().find(|line| line.starts_with("State:"));
    let line = read("cmdline").replace('\0', " ");
    format!(
        "{pid} of {:?}, {}: {line}",
        parent(pid),
        state.unwrap_or_default()
    )
}

fn assert_gone(cache: &Cache, held: &BTreeSet<u32>, before: &Traces, case: &str) {
    let left: Vec<_> = cache.processes().into_iter().map(described).collect();
    assert!(left.is_empty(), "processes after {case}: {left:#?}");
    let alive: Vec<_> = held
        .iter()
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/status"))
                .is_ok_and(|text| !text.contains("State:\tZ"))
        })
        .collect();
    assert!(alive.is_empty(), "alive after {case}: {alive:?}");
    assert_eq!(Traces::now(cache), *before, "after {case}");
    let left: Vec<_> = fs::read_dir(cache.base.join("serin/cluster"))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        left.iter().all(|name| name == "logs"),
        "files after {case}: {left:?}"
    );
}

fn signal(signal: &str, pid: &str) {
    assert!(
        Command::new("kill")
            .args([signal, "--", pid])
            .status()
            .unwrap()
            .success()
    );
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within 60 s");
        thread::sleep(Duration::from_millis(100));
    }
}

/// A cluster with IPv4 and IPv6: a Service and a pod have an address of each, and names are
/// answered over both.
fn both_families(cache: &Cache) {
    cache.succeed(&["up", "--ip-families=dual"]);
    let kubectl = |args: &[&str]| cache.succeed(&[&["exec", "--", "kubectl"], args].concat());
    kubectl(&["run", "web", "--image=localhost/pause:3.9"]);
    kubectl(&["expose", "pod", "web", "--port=80"]);
    let both = r#"{"spec": {"ipFamilyPolicy": "RequireDualStack"}}"#;
    kubectl(&["patch", "service", "web", "--patch", both]);
    kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "pod/web"]);
    let pod = kubectl(&["get", "pod", "web", "-o=jsonpath={.status.podIPs[*].ip}"]);
    assert!(
        pod.contains("10.244.0.") && pod.contains("fd00:10:244::"),
        "{pod}"
    );
    for (database, network) in [("ahostsv4", "10.96."), ("ahostsv6", "fd00:10:96::")] {
        let name = "web.default.svc.cluster.local";
        let address = cache.succeed(&["exec", "--", "getent", database, name]);
        assert!(address.starts_with(network), "{database}: {address}");
    }
}

#[test]
#[ignore = "starts real clusters: root, Debian 12, two minutes"]
fn a_cluster_leaves_no_trace_however_it_ends() {
    let cache = Cache::new();
    let before = Traces::now(&cache);

    // A whole life, with pods, names and a second `up`.
    cache.succeed(&["up", "--ip-families=ipv4"]);
    assert!(cache.succeed(&["up"]).contains("already up"));
    let other = cache.output(&["up", "--ip-families=ipv6"]);
    assert!(!other.status.success(), "another kind of cluster is up");
    let minor = std::env::var("SERIN_KUBERNETES").unwrap_or_else(|_| "1.36".into());
    let version = cache.succeed(&["exec", "--", "kubectl", "get", "--raw", "/version"]);
    assert!(version.contains(&format!("\"v{minor}.")), "{version}");
    cache.succeed(&[
        "exec",
        "--",
        "kubectl",
        "create",
        "deployment",
        "web",
        "--image=localhost/pause:3.9",
        "--replicas=3",
    ]);
    cache.succeed(&[
        "exec",
        "--",
        "kubectl",
        "expose",
        "deployment",
        "web",
        "--port=80",
    ]);
    cache.succeed(&[
        "exec",
        "--",
        "kubectl",
        "wait",
        "--for=condition=Available",
        "--timeout=60s",
        "deployment/web",
    ]);
    let address = cache.succeed(&[
        "exec",
        "--",
        "getent",
        "hosts",
        "web.default.svc.cluster.local",
    ]);
    assert!(address.starts_with("10.96."), "{address}");
    let held = cache.processes();
    // Keeper, process 1, nine components, and for each of three pods a shim, its pause and its
    // container.
    assert!(held.len() >= 2 + 9 + 3 * 3, "{held:?}");
    assert_ne!(Traces::now(&cache).cgroups, before.cgroups);

    // A component that dies is noticed.
    let scheduler = held
        .iter()
        .find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.trim() == "kube-scheduler")
        })
        .unwrap();
    signal("-KILL", &scheduler.to_string());
    eventually("status notices a dead component", || {
        let status = cache.output(&["status"]);
        !status.status.success()
            && String::from_utf8_lossy(&status.stdout).contains("DIED: signal 9")
    });
    cache.succeed(&["down"]);
    assert_gone(&cache, &held, &before, "down");
    assert!(!cache.output(&["status"]).status.success());

    both_families(&cache);
    let held = cache.processes();
    cache.succeed(&["down"]);
    assert_gone(&cache, &held, &before, "a cluster of both families");

    // `up` is killed, or interrupted as by Ctrl-C, at several moments of its work.
    for (name, milliseconds) in [
        ("-KILL", 50),
        ("-INT", 400),
        ("-KILL", 1500),
        ("-INT", 5000),
    ] {
        let mut up = cache.start_up();
        thread::sleep(Duration::from_millis(milliseconds));
        signal(name, &format!("-{}", up.id()));
        up.wait().unwrap();
        let held = cache.processes();
        cache.succeed(&["down"]);
        assert_gone(
            &cache,
            &held,
            &before,
            &format!("{name} of `up` after {milliseconds} ms"),
        );
    }

    // An interrupted `up` is finished by the next one.
    let mut up = cache.start_up();
    thread::sleep(Duration::from_millis(1500));
    signal("-KILL", &format!("-{}", up.id()));
    up.wait().unwrap();
    cache.succeed(&["up"]);
    cache.succeed(&["status"]);

    // A crash: the keeper of the namespaces is killed, and no `down` comes before the next `up`.
    let held = cache.processes();
    let keeper = held
        .iter()
        .find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.trim() == "unshare")
        })
        .unwrap();
    signal("-KILL", &keeper.to_string());
    eventually("the kernel ends the cluster", || {
        cache.processes().is_empty()
    });
    cache.succeed(&["up"]);
    cache.succeed(&["down"]);
    assert_gone(&cache, &held, &before, "a crash");
}
