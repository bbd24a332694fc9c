//! Starting the cluster, ending it, and its status.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use super::flavour::{Flavour, Wanted};
use super::init::{Phase, Status};
use super::kubernetes::Programs;
use super::layout::{Layout, State};
use super::{Cluster, INIT_COMMAND, config, kubernetes, packages, pause, pki, running, tools};
use crate::process;
use crate::progress::Progress;

/// The longest that a start may take on a slow machine; 12 s are usual.
const START_TIMEOUT: Duration = Duration::from_secs(180);

/// Fails where the local cluster cannot run; the error names the alternative.
pub fn check_machine() -> Result<()> {
    let other = "use a cluster you have instead: --context NAME (a context of your kubeconfig)";
    if !rustix::process::geteuid().is_root() {
        bail!("the local cluster needs root; {other}");
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !is_debian_12(&release) {
        bail!("the local cluster needs Debian 12, from whose packages it is made; {other}");
    }
    Ok(())
}

fn is_debian_12(release: &str) -> bool {
    let has = |line: &str| release.lines().any(|other| other.replace('"', "") == line);
    has("ID=debian") && has("VERSION_ID=12")
}

/// Starts the cluster and returns when its node is Ready. A cluster that is up is left as it is;
/// one whose start was interrupted is waited for. It is an error if the cluster that is up is not
/// as `wanted`.
pub fn up(layout: &Layout, wanted: Wanted) -> Result<()> {
    check_machine()?;
    let progress = Progress::new("cluster");
    let _lock = lock(layout, &progress)?;
    let state = layout.state();

    let holders = running::Holders::find(&state)?;
    if holders.init.is_some() {
        wanted.check(Flavour::read(&state)?)?;
    }
    if holders.init.is_some()
        && Status::read(&state).is_ok_and(|status| status.phase == Phase::Ready)
    {
        let status = Status::read(&state)?;
        if let Some(dead) = status.dead() {
            bail!(
                "the cluster is up but its {} died: `cargo xtask cluster status` says more",
                dead.name
            );
        }
        if state.path("complete").exists() {
            progress.say("already up");
            return Ok(());
        }
    }
    if holders.init.is_some() {
        progress.say("a start was interrupted: continuing it");
    } else {
        clear(&state)?;
        packages::ensure(packages::CLUSTER, &progress)?;
        let flavour = wanted.flavour();
        kubernetes::ensure(layout, flavour.kubernetes, &progress)?;
        tools::tool("kubectl")?;
        pause::ensure(layout, &progress)?;
        progress.say(format!(
            "starting Kubernetes {} with {} in namespaces of its own",
            flavour.kubernetes.release()?,
            flavour.ip_families
        ));
        start(&state, flavour)?;
    }
    wait_for(&state, &progress, Phase::ApiReady)?;
    progress.say("the API server answers");
    import(layout, &pause::ensure(layout, &progress)?)?;
    wait_for(&state, &progress, Phase::Ready)?;
    fs::write(state.path("complete"), "")?;
    progress.say("node Ready");
    progress.say("try: cargo xtask cluster exec -- kubectl get nodes");
    Ok(())
}

/// Ends the cluster, or what is left of one, and removes everything of it but its logs.
pub fn down(layout: &Layout) -> Result<()> {
    let progress = Progress::new("cluster");
    let _lock = lock(layout, &progress)?;
    let state = layout.state();
    let was_up = !running::Holders::find(&state)?.is_none();
    clear(&state)?;
    packages::forget_policy();
    progress.say(if was_up { "down" } else { "was not up" });
    Ok(())
}

/// One command at a time changes the cluster. The lock goes with the process that holds it.
fn lock(layout: &Layout, progress: &Progress) -> Result<fs::File> {
    let path = layout.lock();
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    if file.try_lock().is_err() {
        progress.say("waiting for another `cargo xtask cluster` to finish");
        file.lock()?;
    }
    Ok(file)
}

fn clear(state: &State) -> Result<()> {
    running::kill(state)?;
    running::remove_cgroups(state)?;
    let Ok(entries) = fs::read_dir(state.dir()) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry?.path();
        if path.ends_with("logs") {
            continue;
        }
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

fn start(state: &State, flavour: Flavour) -> Result<()> {
    let _ = fs::remove_dir_all(state.path("logs"));
    fs::create_dir_all(state.dir())?;
    flavour.write(state)?;
    let families = flavour.ip_families;
    pki::create(&state.path("pki"), families).context("cannot make certificates")?;
    config::write(state, &pki::tokens()?, families)
        .context("cannot write the cluster's configuration")?;
    running::create_cgroups(state)?;

    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(state.log("init"))?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    Command::new("setsid")
        .args([
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--",
        ])
        .arg(program)
        .arg(INIT_COMMAND)
        .arg(state.dir())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start the cluster's namespaces")?;
    Ok(())
}

fn wait_for(state: &State, progress: &Progress, phase: Phase) -> Result<()> {
    let started = Instant::now();
    let mut next_line_at = Duration::from_secs(15);
    loop {
        let status = Status::read(state);
        if let Ok(status) = &status {
            if let Some(dead) = status.dead() {
                bail!(
                    "{} ended with {}:\n{}",
                    dead.name,
                    dead.ended.as_deref().unwrap_or_default(),
                    process::log_tail(&state.log(&dead.name), 15)
                );
            }
            if status.phase >= phase {
                return Ok(());
            }
        }
        // Process 1 appears a few milliseconds after `setsid`.
        if started.elapsed() > Duration::from_secs(2) && running::Holders::find(state)?.is_none() {
            bail!(
                "process 1 of the cluster ended:\n{}",
                process::log_tail(&state.log("init"), 15)
            );
        }
        if started.elapsed() > START_TIMEOUT {
            bail!(
                "not ready after {} s: the logs are in {}",
                START_TIMEOUT.as_secs(),
                state.path("logs").display()
            );
        }
        if started.elapsed() > next_line_at {
            progress.say(format!("still waiting: {}", waiting_for(phase)));
            next_line_at += Duration::from_secs(15);
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn waiting_for(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "process 1",
        Phase::ApiReady => "the API server",
        Phase::Ready => "the node, its accounts and names",
    }
}

/// Imports an image archive (of docker or OCI) into containerd and returns what containerd says of
/// it.
pub fn import(layout: &Layout, archive: &Path) -> Result<String> {
    let file =
        fs::File::open(archive).with_context(|| format!("cannot open {}", archive.display()))?;
    // Through stdin: not every folder of the host is seen inside.
    let state = layout.state();
    let programs = Programs::of(layout, Flavour::read(&state)?.kubernetes)?;
    let output = running::enter_all(&state, &programs.containerd.join("ctr"))?
        .args(["--namespace", "k8s.io", "images", "import", "-"])
        .stdin(file)
        .output()
        .context("cannot start ctr")?;
    if !output.status.success() {
        bail!(
            "containerd refuses {}: {}",
            archive.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Prints the status of the cluster. An error where it is not up or a component died.
pub fn print_status(layout: &Layout) -> Result<()> {
    let state = layout.state();
    running::init_pid(&state)?;
    let (status, flavour) = (Status::read(&state)?, Flavour::read(&state)?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let word = match status.phase {
        Phase::Starting | Phase::ApiReady => "starting",
        Phase::Ready => "up",
    };
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "cluster     {word} for {} s, Kubernetes {} with {}",
        now.saturating_sub(status.started),
        flavour.kubernetes.release()?,
        flavour.ip_families
    )?;
    writeln!(out, "kubeconfig  {}", state.kubeconfig("admin").display())?;
    writeln!(out, "logs        {}", state.path("logs").display())?;
    for component in &status.components {
        let word = component
            .ended
            .as_ref()
            .map_or("running".into(), |end| format!("DIED: {end}"));
        writeln!(
            out,
            "  {:<24} pid {:<6} {word}",
            component.name, component.pid
        )?;
    }
    if let Some(dead) = status.dead() {
        bail!("{} died: {}", dead.name, state.log(&dead.name).display());
    }
    if status.phase == Phase::Ready {
        let mut kubectl = Cluster::Local(Wanted::default()).command("kubectl")?;
        let nodes = process::output(kubectl.args(["get", "nodes", "--no-headers"]))?;
        let node: Vec<_> = nodes.split_whitespace().take(2).collect();
        writeln!(out, "node        {}", node.join(" "))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debian_12_is_debian_12() {
        assert!(is_debian_12("ID=debian\nVERSION_ID=\"12\"\n"));
        assert!(!is_debian_12("ID=debian\nVERSION_ID=\"13\"\n"));
        assert!(!is_debian_12("ID=ubuntu\nVERSION_ID=\"12\"\n"));
    }
}
