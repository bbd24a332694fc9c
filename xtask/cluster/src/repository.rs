//! The clone that the commands work on, and cargo in it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the workspace.
pub fn root() -> PathBuf {
    // Cargo names the package that it runs. The one compiled in may be of another clone that shares
    // the target folder.
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let workspace = package
        .ancestors()
        .find(|folder| folder.join("Cargo.lock").is_file());
    workspace.unwrap_or(&package).to_path_buf()
}

/// `cargo` in that folder, as a shell would start it, without a progress bar.
pub fn cargo(repository: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command
        .current_dir(repository)
        .env("CARGO_TERM_PROGRESS_WHEN", "never")
        .args(args);
    // What `cargo xtask` sets for its own package: where these differ from the last time, ring is
    // compiled again, and all that rests on it.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_the_folder_with_the_lock_file() {
        assert!(root().join("xtask/cluster/src/repository.rs").is_file());
    }
}
