//! Debian packages, installed when something of theirs is missing.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;
use crate::progress::Progress;

/// A package and a file whose presence shows that it is installed.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    name: &'static str,
    proof: &'static str,
}

const fn package(name: &'static str, proof: &'static str) -> Package {
    Package { name, proof }
}

/// What a running cluster needs.
pub const CLUSTER: &[Package] = &[
    package("runc", "/usr/sbin/runc"),
    package("containernetworking-plugins", "/usr/lib/cni/bridge"),
    package("iptables", "/usr/sbin/iptables"),
    package("iproute2", "/usr/sbin/ip"),
    package("util-linux", "/usr/bin/nsenter"),
    package("openssl", "/usr/bin/openssl"),
    package("gcc", "/usr/bin/gcc"),
    package("libc6-dev", "/usr/include/stdlib.h"),
];

/// Prometheus.
pub const PROMETHEUS: &[Package] = &[package("prometheus", "/usr/bin/prometheus")];

/// What builds images.
pub const BUILDAH: &[Package] = &[package("buildah", "/usr/bin/buildah")];

/// A registry, and what makes certificates: sources for `serin-serve fetch` in the tests of the
/// serving image.
pub const REGISTRY: &[Package] = &[
    package("docker-registry", "/usr/bin/docker-registry"),
    package("openssl", "/usr/bin/openssl"),
];

/// Services that these packages would start, now and at each boot; none is wanted.
const SERVICES: &[&str] = &["prometheus", "docker-registry"];

/// Installs what is missing of `packages`, without starting any service of theirs. Two calls at the
/// same time, also of two processes, take turns: the hook that keeps services off is one for the
/// whole machine.
pub fn ensure(packages: &[Package], progress: &Progress) -> Result<()> {
    if missing(packages).is_empty() {
        return Ok(());
    }
    let lock = fs::File::create(LOCK).with_context(|| format!("cannot write {LOCK}"))?;
    lock.lock()
        .context("cannot wait for the other installation")?;
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    progress.say(format!("installing Debian packages: {}", missing.join(" ")));
    let _quiet = ServicesStayOff::new()?;
    process::run(apt_get().arg("update")).context("cannot refresh the list of Debian packages")?;
    process::run(
        apt_get()
            .args(["install", "-y", "--no-install-recommends"])
            .args(&missing),
    )
    .context("cannot install Debian packages")?;
    if process::is_installed("systemctl") {
        for service in SERVICES
            .iter()
            .filter(|service| missing.iter().any(|name| name.starts_with(*service)))
        {
            // A unit that is not there, or a machine that systemd did not boot, is as good as a
            // disabled one.
            let _ = process::run(Command::new("systemctl").args(["disable", service]));
        }
    }
    Ok(())
}

fn missing(packages: &[Package]) -> Vec<&'static str> {
    let missing = packages
        .iter()
        .filter(|package| !Path::new(package.proof).exists());
    missing.map(|package| package.name).collect()
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-q", "-o", "DPkg::Lock::Timeout=600"]);
    command
}

/// Held while packages are installed.
const LOCK: &str = "/run/lock/serin-packages";

const POLICY: &str = "/usr/sbin/policy-rc.d";
const OUR_POLICY: &str =
    "#!/bin/sh\n# Written by serin for the time of one installation.\nexit 101\n";

/// While it lives, Debian's own policy hook refuses to start services of packages.
struct ServicesStayOff;

impl ServicesStayOff {
    fn new() -> Result<Self> {
        if !Path::new(POLICY).exists() {
            fs::write(POLICY, OUR_POLICY).with_context(|| format!("cannot write {POLICY}"))?;
            process::run(Command::new("chmod").args(["755", POLICY]))?;
        }
        Ok(Self)
    }
}

impl Drop for ServicesStayOff {
    fn drop(&mut self) {
        forget_policy();
    }
}

/// Removes the policy hook if it is ours, also one that an interrupted installation left.
pub fn forget_policy() {
    if fs::read_to_string(POLICY).is_ok_and(|text| text == OUR_POLICY) {
        let _ = fs::remove_file(POLICY);
    }
}
