//! The program `lab`, which is made of the operator's own code.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use cluster::repository;
use serde::Deserialize;

/// What is read of cargo's messages.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
}

/// Compiles the program where it is not current, and returns its path.
///
/// The same selection of packages as the tests': nothing is compiled twice.
pub fn program() -> Result<PathBuf> {
    let mut build = repository::cargo(
        &repository::root(),
        &[
            "build",
            "--quiet",
            "--workspace",
            "--locked",
            "--bin",
            "lab",
        ],
    );
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let output = build
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "cargo cannot build the lab, which is made of the operator's own code: the reason is above"
    );
    executable(&String::from_utf8_lossy(&output.stdout))
        .context("cargo names no program for the lab")
}

/// Runs one command of the program, with this process's output.
pub fn run(
    command: &str,
    args: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>,
) -> Result<()> {
    let mut lab = Command::new(program()?);
    cluster::process::run_visibly(lab.arg(command).args(args))
}

/// The last program that cargo's messages name.
fn executable(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok()?.executable)
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_the_one_that_cargo_names() {
        let messages = r#"{"reason":"compiler-artifact","executable":null}
{"reason":"compiler-artifact","executable":"/target/debug/lab"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages), Some("/target/debug/lab".into()));
        assert_eq!(executable(""), None);
    }
}
