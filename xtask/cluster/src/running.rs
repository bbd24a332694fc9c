//! Finding the running cluster, going inside, and ending it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::INIT_COMMAND;
use super::layout::State;

const CGROUPS: &str = "/sys/fs/cgroup";

/// The processes that hold a cluster up, seen from the host.
///
/// They are found by their command line, which names the cluster's folder: no file can be missing,
/// stale or be written too late, and no process number can have been given to another process.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// `unshare`, which takes process 1 with it when it ends.
    pub keepers: Vec<i32>,
    /// Process 1 of the namespaces.
    pub init: Option<i32>,
}

impl Holders {
    /// Looks through the processes of this machine.
    pub fn find(state: &State) -> Result<Self> {
        let mut found = Self::default();
        for entry in fs::read_dir("/proc")?.filter_map(Result::ok) {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            // A process that ended meanwhile, or a zombie, has no command line.
            let Ok(line) = fs::read(entry.path().join("cmdline")) else {
                continue;
            };
            match role(&line, state.dir()) {
                Some(Role::Keeper) => found.keepers.push(pid),
                Some(Role::Init) => {
                    let status = fs::read_to_string(entry.path().join("status"));
                    if status.is_ok_and(|status| is_first(&status)) {
                        found.init = Some(pid);
                    }
                }
                None => {}
            }
        }
        Ok(found)
    }

    /// Whether nothing of the cluster is there.
    pub fn is_none(&self) -> bool {
        self.init.is_none() && self.keepers.is_empty()
    }
}

/// Whether a process is the first of its pid namespace, by its status. A child that process 1
/// starts has its command line, too, until it runs its own program.
fn is_first(status: &str) -> bool {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.and_then(|numbers| numbers.split_whitespace().last()) == Some("1")
}

#[derive(Debug, PartialEq, Eq)]
enum Role {
    Keeper,
    Init,
}

fn role(command_line: &[u8], dir: &Path) -> Option<Role> {
    let words: Vec<&[u8]> = command_line
        .strip_suffix(b"\0")?
        .split(|byte| *byte == 0)
        .collect();
    let [first, .., command, folder] = words.as_slice() else {
        return None;
    };
    if *command != INIT_COMMAND.as_bytes() || *folder != dir.as_os_str().as_bytes() {
        return None;
    }
    let is_init = words.len() == 3
        && Path::new(OsStr::from_bytes(first)).file_name() != Some(OsStr::new("unshare"));
    Some(if is_init { Role::Init } else { Role::Keeper })
}

/// Process 1 of the running cluster, seen from the host.
pub fn init_pid(state: &State) -> Result<i32> {
    Holders::find(state)?
        .init
        .context("no local cluster is up: `cargo xtask cluster up` starts one")
}

/// `program` inside the cluster's network, with the cluster's names and the host's files, processes
/// and folder.
pub fn enter_network(state: &State, program: &OsStr) -> Result<Command> {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/proc/{}/ns/net", init_pid(state)?))
        // The resolver's file is the only one that differs, in a mount namespace that ends with the
        // command.
        .args(["unshare", "--mount", "sh", "-c"])
        .arg(r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#)
        .arg(state.resolv_conf())
        .arg(program);
    Ok(command)
}

/// `program` inside all of the cluster's namespaces, in `/`, as a component sees the machine.
pub fn enter_all(state: &State, program: &Path) -> Result<Command> {
    let mut command = Command::new("nsenter");
    command
        .arg("--target")
        .arg(init_pid(state)?.to_string())
        .args(["--net", "--mount", "--pid"])
        .arg(program);
    Ok(command)
}

/// Whether a process still runs, or still ends: a zombie does neither.
fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .is_ok_and(|status| !status.contains("State:\tZ"))
}

/// Ends every process of the cluster and waits until none is left.
pub fn kill(state: &State) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    // A process that was killed loses its command line at once, and process 1 then waits for all
    // others of its namespace.
    let mut killed = BTreeSet::new();
    loop {
        let holders = Holders::find(state)?;
        if holders.is_none() && !killed.iter().any(|pid| is_alive(*pid)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the cluster's processes do not end: {holders:?}");
        }
        // Process 1 first: the keeper then sees it end and reaps it.
        for pid in holders.init.into_iter().chain(holders.keepers) {
            killed.insert(pid);
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Makes the cgroup of the pods in every hierarchy: kubelet does not make its root itself.
pub fn create_cgroups(state: &State) -> Result<()> {
    for hierarchy in hierarchies() {
        let group = hierarchy.join(state.cgroup());
        if !group.exists() {
            fs::create_dir(&group)
                .with_context(|| format!("cannot make the cgroup {}", group.display()))?;
        }
        // Version 2 only: what the children may control.
        if let Ok(controllers) = fs::read_to_string(hierarchy.join("cgroup.controllers")) {
            let wanted = controllers
                .split_whitespace()
                .map(|name| format!("+{name}"))
                .collect::<Vec<_>>()
                .join(" ");
            let _ = fs::write(hierarchy.join("cgroup.subtree_control"), &wanted);
            let _ = fs::write(group.join("cgroup.subtree_control"), &wanted);
        }
    }
    Ok(())
}

/// Removes the cgroups of the pods. Their processes must be dead.
pub fn remove_cgroups(state: &State) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    for group in hierarchies()
        .into_iter()
        .map(|hierarchy| hierarchy.join(state.cgroup()))
    {
        while group.exists() {
            // A process that is still on its way out keeps its group busy for a moment.
            match remove_tree(&group) {
                Ok(()) => {}
                Err(error) if Instant::now() > deadline => {
                    return Err(error)
                        .with_context(|| format!("cannot remove the cgroup {}", group.display()));
                }
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }
    Ok(())
}

/// Removes a cgroup and those below; their files go by themselves.
fn remove_tree(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

/// Version 2 is one hierarchy; version 1 has one a controller, of which some share a folder by
/// links.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(CGROUPS);
    if root.join("cgroup.procs").exists() {
        return vec![root.into()];
    }
    let Ok(entries) = fs::read_dir(root) else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .filter(|path| path.join("cgroup.procs").exists())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_processes_of_this_cluster_are_taken_for_it() {
        let dir = Path::new("/c/cluster");
        let role = |line: &str| role(line.replace(' ', "\0").as_bytes(), dir);
        assert_eq!(role("/t/xtask cluster-init /c/cluster "), Some(Role::Init));
        assert_eq!(
            role("unshare --net --fork -- /t/xtask cluster-init /c/cluster "),
            Some(Role::Keeper)
        );
        assert_eq!(role("/t/xtask cluster-init /other/cluster "), None);
        assert_eq!(role("vim cluster-init "), None);
        assert_eq!(role(""), None);
    }

    #[test]
    fn a_child_that_process_1_is_about_to_start_is_not_taken_for_it() {
        assert!(is_first("Name:\txtask\nPid:\t6500\nNSpid:\t6500\t1\n"));
        assert!(!is_first("Name:\txtask\nPid:\t6517\nNSpid:\t6517\t17\n"));
        assert!(!is_first(""));
    }
}
