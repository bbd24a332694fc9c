//! Programs built from the small Go modules in `xtask/cluster/go`, each pinned by its `go.sum`, and
//! kept in the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::tools;
use crate::process;
use crate::progress::Progress;

/// A Go module of ours: it holds nothing but the versions of what it builds, and a main of ours
/// where one is needed.
#[derive(Debug)]
pub struct Module {
    /// Its folder in `xtask/cluster/go`.
    pub name: &'static str,
    /// Path below the folder, and text.
    files: &'static [(&'static str, &'static str)],
    /// Build tags.
    tags: &'static str,
    /// Modules whose version is compiled into variables: the module and the variables.
    stamps: &'static [(&'static str, &'static [&'static str])],
}

macro_rules! module {
    ($name:literal, [$($file:literal),*], $tags:literal, $stamps:expr) => {
        Module {
            name: $name,
            files: &[
                ("go.mod", include_str!(concat!("../go/", $name, "/go.mod"))),
                ("go.sum", include_str!(concat!("../go/", $name, "/go.sum"))),
                $(($file, include_str!(concat!("../go/", $name, "/", $file))),)*
            ],
            tags: $tags,
            stamps: $stamps,
        }
    };
}

/// Without these variables clients see v0.0.0.
const KUBERNETES_STAMPS: &[(&str, &[&str])] = &[(
    KUBERNETES,
    &[
        "k8s.io/component-base/version.gitVersion",
        "k8s.io/client-go/pkg/version.gitVersion",
    ],
)];

/// The module path whose version a cluster is named after.
pub const KUBERNETES: &str = "k8s.io/kubernetes";

/// Kubernetes 1.34.
pub const KUBERNETES_1_34: Module = module!("kubernetes-1.34", [], "", KUBERNETES_STAMPS);
/// Kubernetes 1.35.
pub const KUBERNETES_1_35: Module = module!("kubernetes-1.35", [], "", KUBERNETES_STAMPS);
/// Kubernetes 1.36, and what clusters of all versions share: etcd, metrics-server and CoreDNS.
pub const KUBERNETES_1_36: Module = module!(
    "kubernetes-1.36",
    ["cmd/coredns/main.go"],
    "",
    KUBERNETES_STAMPS
);
/// Kubernetes 1.37.
pub const KUBERNETES_1_37: Module = module!("kubernetes-1.37", [], "", KUBERNETES_STAMPS);
/// containerd without the file systems that need headers of C.
pub const CONTAINERD: Module = module!(
    "containerd",
    [],
    "no_btrfs,no_zfs,no_devmapper",
    &[(
        "github.com/containerd/containerd/v2",
        &["github.com/containerd/containerd/v2/version.Version"]
    )]
);
/// Helm 3 and Helm 4.
pub const HELM: Module = module!(
    "helm",
    [],
    "",
    &[
        (
            "helm.sh/helm/v3",
            &["helm.sh/helm/v3/internal/version.version"]
        ),
        (
            "helm.sh/helm/v4",
            &["helm.sh/helm/v4/internal/version.version"]
        ),
    ]
);

/// A program of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// Its Go package.
    package: &'static str,
    /// What it is called here.
    name: &'static str,
}

impl Program {
    /// A package, and the name that its program gets.
    pub const fn new(package: &'static str, name: &'static str) -> Self {
        Self { package, name }
    }

    /// What `go build` calls it: the last part of its path that is no version.
    fn built_as(self) -> &'static str {
        let version = |part: &&str| {
            let digits = part.strip_prefix('v').unwrap_or_default();
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        };
        let mut parts = self.package.rsplit('/');
        parts.find(|part| !version(part)).unwrap_or(self.name)
    }
}

impl Module {
    /// The version of a module that this one requires, with its `v`.
    pub fn version(&self, path: &str) -> Result<&'static str> {
        self.word_after(path)
            .with_context(|| format!("{} requires no {path}", self.name))
    }

    /// The oldest Go that builds it.
    fn go(&self) -> Result<&'static str> {
        self.word_after("go")
            .with_context(|| format!("{} names no version of Go", self.name))
    }

    fn word_after(&self, word: &str) -> Option<&'static str> {
        let (_, text) = self.files.iter().find(|(name, _)| *name == "go.mod")?;
        let lines = text.lines().filter(|line| !line.contains("=>"));
        lines
            .map(|line| line.trim_start_matches("require ").split_whitespace())
            .find_map(|mut words| (words.next() == Some(word)).then(|| words.next())?)
    }

    /// What is built: the same text is the same programs.
    fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for (name, text) in self.files {
            hash.update(name);
            hash.update(text);
        }
        format!("{:x}\n", hash.finalize())
    }

    fn linker_flags(&self) -> Result<String> {
        let mut flags = String::from("-s -w");
        for (path, variables) in self.stamps {
            let version = self.version(path)?;
            for variable in *variables {
                flags.extend([" -X ", variable, "=", version]);
            }
        }
        Ok(flags)
    }

    /// Makes sure that `home/bin` has these programs of this very module, building those that it
    /// lacks, and returns it.
    pub fn ensure(
        &self,
        home: &Path,
        programs: &[Program],
        progress: &Progress,
    ) -> Result<PathBuf> {
        let bin = home.join("bin");
        let fingerprint = self.fingerprint();
        let stamp = home.join("module.sha256");
        let missing = || -> Vec<Program> {
            let current = fs::read_to_string(&stamp).is_ok_and(|text| text == fingerprint);
            let there = |program: &Program| current && bin.join(program.name).is_file();
            programs
                .iter()
                .copied()
                .filter(|program| !there(program))
                .collect()
        };
        if missing().is_empty() {
            return Ok(bin);
        }
        fs::create_dir_all(home)?;
        let lock = fs::File::create(beside(home, "lock"))?;
        if lock.try_lock().is_err() {
            progress.say(format!("waiting for another build of {}", self.name));
            lock.lock()?;
        }
        let missing = missing();
        if missing.is_empty() {
            return Ok(bin);
        }
        if !fs::read_to_string(&stamp).is_ok_and(|text| text == fingerprint) {
            let _ = fs::remove_dir_all(home);
        }
        let work = beside(home, "build");
        let built = self
            .build(&work, &missing, progress)
            .with_context(|| format!("cannot build xtask/cluster/go/{}", self.name))?;
        fs::create_dir_all(&bin)?;
        fs::write(&stamp, &fingerprint)?;
        for program in missing {
            fs::rename(built.join(program.built_as()), bin.join(program.name))?;
        }
        fs::remove_dir_all(&work)?;
        Ok(bin)
    }

    fn build(&self, work: &Path, programs: &[Program], progress: &Progress) -> Result<PathBuf> {
        let _ = fs::remove_dir_all(work);
        let source = work.join("source");
        for (name, text) in self.files {
            let path = source.join(name);
            fs::create_dir_all(path.parent().unwrap_or(&source))?;
            fs::write(path, text)?;
        }
        let built = work.join("bin");
        fs::create_dir_all(&built)?;
        let go = tools::go(self.go()?)?;
        let log = work.join("build.log");
        let output = fs::File::create(&log)?;
        let mut command = process::killed_with_parent("nice");
        command
            .args(["-n", "5"])
            .arg(&go)
            .args(["build", "-trimpath", "-buildvcs=false", "-tags", self.tags])
            .args(["-ldflags", &self.linker_flags()?])
            .arg("-o")
            .arg(&built)
            .args(programs.iter().map(|program| program.package))
            .current_dir(&source)
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-mod=readonly")
            .env("GOTOOLCHAIN", "local")
            .env("GOWORK", "off")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let names: Vec<&str> = programs.iter().map(|program| program.name).collect();
        let what = format!("building {} of {}", names.join(", "), self.name);
        progress.say(format!("{what} (minutes, once)"));
        let mut child = command.spawn().context("cannot start go build")?;
        wait(&mut child, &what, progress, &log)?;
        Ok(built)
    }
}

/// Waits for a build, and reports every 30 s.
fn wait(child: &mut Child, what: &str, progress: &Progress, log: &Path) -> Result<()> {
    let started = Instant::now();
    let mut next_line_at = Duration::from_secs(30);
    loop {
        if let Some(status) = child.try_wait()? {
            if !status.success() {
                bail!(
                    "go build ended with {status}:\n{}",
                    process::log_tail(log, 20)
                );
            }
            progress.say(format!("built in {} s", started.elapsed().as_secs()));
            return Ok(());
        }
        if started.elapsed() > next_line_at {
            progress.say(format!("{what}, {} s so far", next_line_at.as_secs()));
            next_line_at += Duration::from_secs(30);
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// `folder.SUFFIX`: a version's last part is no extension.
fn beside(folder: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}.{suffix}", folder.display()))
}

/// The Go on `PATH`, if it is this new.
pub fn installed_go(oldest: &str) -> Option<PathBuf> {
    let output = Command::new("go")
        .args(["env", "GOVERSION"])
        .env("GOTOOLCHAIN", "local")
        .current_dir("/")
        .output()
        .ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    (number(version.trim().strip_prefix("go")?)? >= number(oldest)?).then(|| "go".into())
}

/// A release of Go as numbers: `1.26.4`, `1.26`; `None` for anything else, such as a release
/// candidate.
fn number(version: &str) -> Option<[u32; 3]> {
    let mut numbers = [0; 3];
    let mut parts = version.split('.');
    for (number, part) in numbers.iter_mut().zip(&mut parts) {
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_modules_versions_are_those_of_its_go_mod() {
        assert!(
            KUBERNETES_1_36
                .version(KUBERNETES)
                .unwrap()
                .starts_with("v1.36.")
        );
        assert!(
            KUBERNETES_1_36
                .version("go.etcd.io/etcd/server/v3")
                .unwrap()
                .starts_with("v3.6.")
        );
        assert!(HELM.version("helm.sh/helm/v3").unwrap().starts_with("v3."));
        assert!(HELM.version("helm.sh/helm/v2").is_err());
        for module in [
            KUBERNETES_1_34,
            KUBERNETES_1_35,
            KUBERNETES_1_36,
            KUBERNETES_1_37,
        ] {
            assert!(number(module.go().unwrap()).unwrap() >= [1, 24, 0]);
            assert!(module.linker_flags().unwrap().contains("gitVersion=v1.3"));
        }
    }

    #[test]
    fn a_program_is_called_after_the_last_part_of_its_path() {
        let name = |package| Program::new(package, "x").built_as();
        assert_eq!(name("go.etcd.io/etcd/server/v3"), "server");
        assert_eq!(name("helm.sh/helm/v4/cmd/helm"), "helm");
        assert_eq!(
            name("a/cmd/containerd-shim-runc-v2"),
            "containerd-shim-runc-v2"
        );
    }

    #[test]
    fn versions_of_go_are_compared_as_numbers() {
        assert!(number("1.26.8") > number("1.26.4"));
        assert!(number("1.26.10") > number("1.26.4"));
        assert!(number("1.26.8") < number("1.27"));
        assert_eq!(number("1.27rc1"), None);
    }

    #[test]
    fn another_module_is_another_fingerprint() {
        assert_ne!(KUBERNETES_1_36.fingerprint(), KUBERNETES_1_37.fingerprint());
        assert_eq!(KUBERNETES_1_36.fingerprint(), KUBERNETES_1_36.fingerprint());
    }
}
