//! The pause image: the process that holds a pod's namespaces.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::layout::Layout;
use crate::process;
use crate::progress::Progress;

/// The name that containerd looks for.
pub const IMAGE: &str = "localhost/pause:3.9";

/// Sleeps until SIGTERM, and reaps what a pod with a shared pid namespace leaves to it.
const SOURCE: &str = r"
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int signal) { _exit(0); }
static void reap(int signal) { while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) {
  signal(SIGINT, end);
  signal(SIGTERM, end);
  signal(SIGCHLD, reap);
  for (;;) pause();
}
";

/// The image as an archive in docker's format, built if it is not in the cache.
pub fn ensure(layout: &Layout, progress: &Progress) -> Result<PathBuf> {
    let archive = layout.cached("pause-3.9.tar");
    if archive.is_file() {
        return Ok(archive);
    }
    progress.say("building the pause image");
    let work = layout.cached(&format!("pause-{}.build", std::process::id()));
    let (root, image) = (work.join("root"), work.join("image"));
    fs::create_dir_all(&root)?;
    fs::create_dir_all(&image)?;

    let source = work.join("pause.c");
    fs::write(&source, SOURCE)?;
    process::run(
        Command::new("gcc")
            .args(["-Os", "-static", "-s", "-o"])
            .arg(root.join("pause"))
            .arg(&source),
    )
    .context("cannot compile the pause program")?;
    let layer = image.join("layer.tar");
    process::run(
        Command::new("tar")
            .args(["--create", "--owner=0", "--group=0", "--file"])
            .arg(&layer)
            .arg("--directory")
            .arg(&root)
            .arg("pause"),
    )?;

    let digest = Sha256::digest(fs::read(&layer)?)
        .iter()
        .fold(String::from("sha256:"), |text, byte| {
            format!("{text}{byte:02x}")
        });
    let architecture = if std::env::consts::ARCH == "aarch64" {
        "arm64"
    } else {
        "amd64"
    };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    fs::write(image.join("config.json"), config.to_string())?;
    fs::write(image.join("manifest.json"), manifest.to_string())?;
    let staged = work.join("image.tar");
    process::run(
        Command::new("tar")
            .arg("--create")
            .arg("--file")
            .arg(&staged)
            .arg("--directory")
            .arg(&image)
            .args(["manifest.json", "config.json", "layer.tar"]),
    )?;
    fs::rename(&staged, &archive)?;
    fs::remove_dir_all(&work)?;
    Ok(archive)
}
