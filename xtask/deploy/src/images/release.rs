//! An earlier release: its tree out of git, and its operator's image by its own Dockerfile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use cluster::progress::Progress;
use cluster::{Layout, process, repository};

use super::buildah::{self, Recipe};
use super::{BuiltImage, cache_dir, lock};

/// Digits that name a commit.
const SHORT: usize = 12;

/// The tree of an earlier commit, kept below the cache.
#[derive(Debug)]
pub struct Release {
    commit: String,
    tree: PathBuf,
}

impl Release {
    /// The release of a revision of this clone.
    pub fn of(revision: &str) -> Result<Self> {
        let repository = repository::root();
        let git = || {
            let mut git = Command::new("git");
            git.arg("-C").arg(&repository);
            git
        };
        let commit = format!("{revision}^{{commit}}");
        let commit = process::output(git().args(["rev-parse", "--verify", "--quiet", &commit]))
            .with_context(|| {
                format!(
                    "this clone has no commit {revision} (if it is shallow: git fetch --unshallow)"
                )
            })?;
        let commit: String = commit.trim().chars().take(SHORT).collect();
        let tree = Layout::from_env()?.cached(&format!("releases/{commit}"));
        if !tree.exists() {
            // What is cut off leaves only the partial name behind.
            let partial = tree.with_extension("partial");
            if partial.exists() {
                fs::remove_dir_all(&partial)?;
            }
            fs::create_dir_all(&partial)?;
            let archive = partial.join("tree.tar");
            process::run(
                git()
                    .arg("archive")
                    .arg("--output")
                    .arg(&archive)
                    .arg(&commit),
            )?;
            process::run(
                Command::new("tar")
                    .arg("-xf")
                    .arg(&archive)
                    .arg("-C")
                    .arg(&partial),
            )?;
            fs::remove_file(&archive)?;
            fs::rename(&partial, &tree)?;
        }
        Ok(Self { commit, tree })
    }

    /// Its chart.
    pub fn chart(&self) -> PathBuf {
        self.tree.join("charts/serin")
    }

    /// The tag of its operator's image.
    pub fn tag(&self) -> &str {
        &self.commit
    }

    /// Its operator's image, compiled where that has not been done: minutes.
    pub fn operator(&self) -> Result<BuiltImage> {
        let cache = cache_dir()?;
        let _lock = lock(&cache)?;
        let reference = format!("localhost/serin-operator:{}", self.commit);
        let archive = cache.join(format!("release-operator-{}.tar", self.commit));
        let rebuilt = !archive.exists();
        if rebuilt {
            self.build(&cache, &reference, &archive)?;
        }
        Ok(BuiltImage {
            reference,
            archive,
            rebuilt,
        })
    }

    fn build(&self, cache: &Path, reference: &str, archive: &Path) -> Result<()> {
        let progress = Progress::new("images");
        progress.say(format!("building {reference}, minutes at first"));
        buildah::ensure_installed(&progress)?;
        let store = buildah::Store::open(cache)?;
        let toolchain = repository::root().join("xtask/images/toolchain.Dockerfile");
        let recipe = Recipe {
            dockerfile: self.tree.join("xtask/images/operator.Dockerfile"),
            context: self.tree.clone(),
            target: None,
            contexts: Vec::new(),
            build_args: vec![("VERSION".to_owned(), self.commit.clone())],
            toolchain: Some(toolchain),
        };
        let log = cache.join("release-operator.log");
        store.build(&recipe, reference, &log, &progress)?;
        let partial = archive.with_extension("tar.partial");
        store.export(reference, &partial)?;
        fs::rename(&partial, archive)?;
        Ok(())
    }
}
