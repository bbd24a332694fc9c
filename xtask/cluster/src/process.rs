//! Runs other programs; their errors carry the end of the output.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs `command` to its end, its input closed; the error carries the last of its output.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// As [`run`], and returns what the command wrote to stdout.
pub fn output(command: &mut Command) -> Result<String> {
    let line = describe(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        let text = String::from_utf8_lossy(&text);
        bail!("`{line}` ended with {}: {}", output.status, tail(&text, 15));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `command` with the caller's output, for long steps that report on their own progress.
pub fn run_visibly(command: &mut Command) -> Result<()> {
    let line = describe(command);
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

/// A command that ends, with all its descendants, when this process ends, however that ends.
///
/// It gets a pid namespace whose keeper is killed with its parent, which takes the namespace with
/// it. Call it from the main thread: the kernel watches the thread that started it.
pub fn killed_with_parent(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "unshare", "--pid", "--fork"])
        .args(["--kill-child", "--"])
        .arg(program);
    command
}

/// Whether `program` is in one of the folders of `PATH` or, as for `iptables`, in `/usr/sbin`.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}

/// The last `lines` lines of a log, or why it cannot be read.
pub fn log_tail(log: &Path, lines: usize) -> String {
    match std::fs::read(log) {
        Ok(bytes) => tail(&String::from_utf8_lossy(&bytes), lines),
        Err(error) => format!("({}: {error})", log.display()),
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Program and arguments; a long argument (a script) is cut.
fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| {
            let word = word.to_string_lossy();
            match word.lines().next() {
                Some(first) if first.len() < word.len() => format!("{first}…"),
                _ => word.into_owned(),
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_is_named_with_its_last_words() {
        let error =
            run(Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3"), "{text}");
        assert!(text.contains("one\ntwo"), "{text}");
    }

    #[test]
    fn the_tail_is_the_end_of_the_text() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
    }
}
