//! Running a part of this program such that the caller can clean up, whatever ends that part.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::signal::unix::{SignalKind, signal};

/// Time from SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// Runs `command` with this process's output until it ends; an interruption of this process ends
/// it, and is an error.
///
/// It gets a process group of its own: Ctrl-C reaches this process alone, which then ends the whole
/// group.
pub fn run(mut command: Command) -> Result<()> {
    command.stdin(Stdio::null()).process_group(0);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut child = tokio::process::Command::from(command)
            .spawn()
            .context("cannot start this program once more")?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        tokio::select! {
            status = child.wait() => return verdict(status?),
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        eprintln!("\ninterrupted: ending what was started");
        if let Some(group) = group {
            // An error means that the group has ended already.
            let _ = kill_process_group(group, Signal::TERM);
            let _ = tokio::time::timeout(GRACE, child.wait()).await;
            let _ = kill_process_group(group, Signal::KILL);
        }
        child.wait().await?;
        bail!("interrupted")
    })
}

fn verdict(status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("the demo failed ({status}); the reason is above");
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_part_is_the_verdict() {
        assert!(run(Command::new("true")).is_ok());
        let error = run(Command::new("false")).unwrap_err();
        assert!(error.to_string().contains("exit status: 1"), "{error}");
    }
}
