//! buildah, with a store that lives as long as one build.
//!
//! The `vfs` driver and `chroot` isolation need neither overlayfs nor a container runtime, so this
//! works inside a container too. `docker` format because OCI's has no HEALTHCHECK.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use cluster::progress::Progress;
use cluster::{BUILDAH, process};

use super::logged;
use super::publish::Place;

/// The arguments of one `buildah bud`.
#[derive(Debug)]
pub struct Recipe {
    /// The Dockerfile.
    pub dockerfile: PathBuf,
    /// The folder that COPY lines read from.
    pub context: PathBuf,
    /// The stage that is built, where it is not the last one.
    pub target: Option<&'static str>,
    /// Further folders that COPY lines name, as (name, folder).
    pub contexts: Vec<(&'static str, PathBuf)>,
    /// `--build-arg`, as (name, value).
    pub build_args: Vec<(String, String)>,
    /// For RUN lines that compile: the Dockerfile of the stand-in for the public `rust` image, into
    /// which this machine's toolchain is mounted.
    pub toolchain: Option<PathBuf>,
}

/// Installs Debian's buildah if it is not there.
pub fn ensure_installed(progress: &Progress) -> Result<()> {
    if process::is_installed("buildah") {
        return Ok(());
    }
    cluster::ensure_packages(BUILDAH, progress).context(
        "buildah is missing: install it, or build with docker (each Dockerfile names its command)",
    )
}

/// A store of layers under the image cache, emptied when it is opened and when it is dropped.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// Holds buildah's `--mount=type=cache` folders, which outlive the store: the warm target
    /// folders of cargo.
    tmp: PathBuf,
}

impl Store {
    /// Opens an empty store below `cache`.
    pub fn open(cache: &Path) -> Result<Self> {
        let store = Self {
            root: cache.join("store"),
            tmp: cache.join("tmp"),
        };
        store.clear()?;
        fs::create_dir_all(&store.tmp)?;
        Ok(store)
    }

    /// Takes the image of an archive into the store, so that a `FROM` line finds it.
    pub fn import(&self, archive: &Path) -> Result<()> {
        process::run(
            self.buildah("pull")
                .arg("--quiet")
                .arg(format!("docker-archive:{}", archive.display())),
        )
    }

    /// Builds `recipe` as `reference`, with all output in `log`.
    pub fn build(
        &self,
        recipe: &Recipe,
        reference: &str,
        log: &Path,
        progress: &Progress,
    ) -> Result<()> {
        let mut command = self.bud();
        if let Some(toolchain) = &recipe.toolchain {
            self.build_toolchain_image(toolchain)?;
            command.args(["--build-arg", &format!("BUILD_IMAGE={TOOLCHAIN_IMAGE}")]);
            for (source, target, mode) in toolchain_mounts()? {
                command
                    .arg("--volume")
                    .arg(format!("{}:{target}:{mode}", source.display()));
            }
        }
        for (name, value) in &recipe.build_args {
            command.arg("--build-arg").arg(format!("{name}={value}"));
        }
        for (name, folder) in &recipe.contexts {
            let context = format!("{name}={}", folder.display());
            command.args(["--build-context", &context]);
        }
        if let Some(target) = recipe.target {
            command.args(["--target", target]);
        }
        command
            .args(["--tag", reference, "--file"])
            .arg(&recipe.dockerfile)
            .arg(&recipe.context);
        logged::run(progress, reference, &mut command, log)
    }

    /// Writes `reference` as an archive that `docker load` and `ctr images import` read.
    pub fn export(&self, reference: &str, archive: &Path) -> Result<()> {
        // docker-archive never overwrites.
        if archive.exists() {
            fs::remove_file(archive)?;
        }
        let target = format!("docker-archive:{}:{reference}", archive.display());
        process::run(self.buildah("push").args(["--quiet", reference, &target]))
    }

    /// Pushes `reference` to its place in a registry.
    pub fn push(&self, reference: &str, place: &Place, plain_http: bool) -> Result<()> {
        let mut push = self.buildah("push");
        push.arg("--quiet");
        if plain_http {
            push.arg("--tls-verify=false");
        }
        process::run(push.arg(reference).arg(format!("docker://{place}")))
    }

    /// The image of mount points that stands in for the public `rust` image.
    fn build_toolchain_image(&self, dockerfile: &Path) -> Result<()> {
        let context = self.root.join("toolchain");
        let rootfs = context.join("rootfs");
        for folder in [
            "usr",
            "etc/ssl",
            "etc/alternatives",
            "toolchain",
            "cargo",
            "target",
            "tmp",
            "root",
        ] {
            fs::create_dir_all(rootfs.join(folder))?;
        }
        // Debian's merged /usr.
        for link in ["bin", "sbin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{link}"), rootfs.join(link))?;
        }
        process::run(
            self.bud()
                .args(["--quiet", "--tag", TOOLCHAIN_IMAGE, "--file"])
                .arg(dockerfile)
                .arg(context),
        )
    }

    fn bud(&self) -> Command {
        let mut command = self.buildah("bud");
        command.args(["--isolation", "chroot", "--format", "docker"]);
        command
    }

    fn buildah(&self, verb: &str) -> Command {
        let mut command = Command::new("buildah");
        command
            .env("TMPDIR", &self.tmp)
            .arg("--root")
            .arg(self.root.join("layers"))
            .arg("--runroot")
            .arg(self.root.join("run"))
            .args(["--storage-driver", "vfs", verb]);
        command
    }

    fn clear(&self) -> Result<()> {
        if !self.root.exists() {
            return Ok(());
        }
        // The build binds the crate cache into its container. Should a mount ever be left below the
        // store, emptying the store would empty what is mounted there.
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let root = fs::canonicalize(&self.root)?;
        let below = |line: &str| {
            line.split(' ')
                .nth(4)
                .is_some_and(|point| Path::new(point).starts_with(&root))
        };
        if mounts.lines().any(below) {
            bail!(
                "something is mounted below {}: unmount it first",
                root.display()
            );
        }
        fs::remove_dir_all(&self.root)
            .with_context(|| format!("cannot empty {}", self.root.display()))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            eprintln!("images: {error:#}");
        }
    }
}

const TOOLCHAIN_IMAGE: &str = "localhost/serin-toolchain:dev";

/// What of this machine a compilation sees, as (source, target, mode). Everything but the crate
/// cache is read-only.
fn toolchain_mounts() -> Result<Vec<(PathBuf, &'static str, &'static str)>> {
    let sysroot = process::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let cargo_home = match std::env::var_os("CARGO_HOME").filter(|value| !value.is_empty()) {
        Some(path) => path.into(),
        None => std::env::home_dir()
            .context("neither CARGO_HOME nor HOME is set")?
            .join(".cargo"),
    };
    Ok(vec![
        ("/usr".into(), "/usr", "ro"),
        ("/etc/ssl".into(), "/etc/ssl", "ro"),
        ("/etc/alternatives".into(), "/etc/alternatives", "ro"),
        (sysroot.trim().into(), "/toolchain", "ro"),
        (cargo_home, "/cargo", "rw"),
    ])
}
