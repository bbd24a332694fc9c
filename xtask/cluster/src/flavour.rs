//! Which local cluster: the minor version of Kubernetes, and the IP families of pods and Services.

use std::fmt;
use std::fs;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::gomodule::{self, KUBERNETES, Module};
use super::layout::State;

/// What a caller asks of the local cluster. Without a value: as in the cluster that is up,
/// else the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::Args)]
pub struct Wanted {
    /// Kubernetes of the local cluster and of the API-level tests; 1.36 by default.
    #[arg(long, global = true, value_name = "MINOR", env = "SERIN_KUBERNETES")]
    pub kubernetes: Option<Minor>,
    /// IP families of the local cluster's pods and Services; ipv4 by default.
    #[arg(
        long,
        global = true,
        value_name = "FAMILIES",
        env = "SERIN_IP_FAMILIES"
    )]
    pub ip_families: Option<IpFamilies>,
}

impl Wanted {
    /// The cluster to start.
    pub fn flavour(self) -> Flavour {
        Flavour {
            kubernetes: self.kubernetes.unwrap_or_default(),
            ip_families: self.ip_families.unwrap_or_default(),
        }
    }

    /// Fails unless the cluster that is up is one that was asked for.
    pub fn check(self, up: Flavour) -> Result<()> {
        let other_minor = self.kubernetes.is_some_and(|minor| minor != up.kubernetes);
        let other_families = self
            .ip_families
            .is_some_and(|families| families != up.ip_families);
        if other_minor || other_families {
            bail!("another cluster is up, of {up}: end it with `cargo xtask cluster down` first");
        }
        Ok(())
    }

    /// The arguments that say the same to another process of this program.
    pub fn arguments(self) -> Vec<String> {
        let kubernetes = self.kubernetes.map(|minor| format!("--kubernetes={minor}"));
        let families = self
            .ip_families
            .map(|families| format!("--ip-families={families}"));
        kubernetes.into_iter().chain(families).collect()
    }
}

/// What a local cluster is; written into its folder at its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flavour {
    /// Of the five programs of Kubernetes.
    pub kubernetes: Minor,
    /// Of pods, Services and the node.
    pub ip_families: IpFamilies,
}

impl Flavour {
    /// That of the cluster that was started last.
    pub fn read(state: &State) -> Result<Self> {
        let text = fs::read_to_string(state.path("flavour.json"))
            .context("the cluster's folder does not say what it is")?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Written before process 1 starts.
    pub fn write(self, state: &State) -> Result<()> {
        Ok(fs::write(
            state.path("flavour.json"),
            serde_json::to_string(&self)?,
        )?)
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Kubernetes {} with {}",
            self.kubernetes, self.ip_families
        )
    }
}

/// A minor version of Kubernetes that is built here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Minor {
    /// The oldest.
    #[value(name = "1.34")]
    V34,
    /// Between the oldest and the default.
    #[value(name = "1.35")]
    V35,
    /// What CI runs.
    #[default]
    #[value(name = "1.36")]
    V36,
    /// The newest.
    #[value(name = "1.37")]
    V37,
}

impl Minor {
    /// The Go module that holds it.
    pub fn module(self) -> &'static Module {
        match self {
            Self::V34 => &gomodule::KUBERNETES_1_34,
            Self::V35 => &gomodule::KUBERNETES_1_35,
            Self::V36 => &gomodule::KUBERNETES_1_36,
            Self::V37 => &gomodule::KUBERNETES_1_37,
        }
    }

    /// The release, as `1.36.3`.
    pub fn release(self) -> Result<&'static str> {
        let version = self.module().version(KUBERNETES)?;
        Ok(version.trim_start_matches('v'))
    }
}

impl fmt::Display for Minor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display(self, f)
    }
}

/// The IP families of a cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum IpFamilies {
    /// IPv4 alone.
    #[default]
    Ipv4,
    /// IPv6 alone.
    Ipv6,
    /// Both; Services are IPv4 unless they ask for more.
    Dual,
}

impl IpFamilies {
    /// The families, that of Services by default first.
    pub fn families(self) -> &'static [Family] {
        match self {
            Self::Ipv4 => &[IPV4],
            Self::Ipv6 => &[IPV6],
            Self::Dual => &[IPV4, IPV6],
        }
    }

    /// The family of Services by default.
    pub fn primary(self) -> &'static Family {
        &self.families()[0]
    }

    /// The words of all families, joined by commas.
    pub fn list(self, word: impl Fn(&Family) -> &'static str) -> String {
        let words: Vec<_> = self.families().iter().map(word).collect();
        words.join(",")
    }
}

impl fmt::Display for IpFamilies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display(self, f)
    }
}

fn display(value: &impl ValueEnum, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let value = value.to_possible_value();
    f.write_str(value.as_ref().map_or("", |value| value.get_name()))
}

/// The addresses of one IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// As EndpointSlices call it.
    pub name: &'static str,
    /// The node's address; the API server, the name server and metrics-server answer on it, also to
    /// pods.
    pub node: &'static str,
    /// The network of `node`.
    pub node_network: &'static str,
    /// Where all else is; no machine is there.
    pub gateway: &'static str,
    /// Any destination.
    pub everywhere: &'static str,
    /// Addresses of Services.
    pub services: &'static str,
    /// The Service `kubernetes`.
    pub api_server: &'static str,
    /// Addresses of pods.
    pub pods: &'static str,
    /// Addresses of the pods of the one node.
    pub node_pods: &'static str,
    /// Turns forwarding on.
    pub forwarding: &'static str,
}

const IPV4: Family = Family {
    name: "IPv4",
    node: "172.31.255.1",
    node_network: "172.31.255.1/24",
    gateway: "172.31.255.254",
    everywhere: "0.0.0.0/0",
    services: "10.96.0.0/16",
    api_server: "10.96.0.1",
    pods: "10.244.0.0/16",
    node_pods: "10.244.0.0/24",
    forwarding: "/proc/sys/net/ipv4/ip_forward",
};

const IPV6: Family = Family {
    name: "IPv6",
    node: "fd00:172:31:255::1",
    node_network: "fd00:172:31:255::1/64",
    gateway: "fd00:172:31:255::fe",
    everywhere: "::/0",
    services: "fd00:10:96::/112",
    api_server: "fd00:10:96::1",
    pods: "fd00:10:244::/56",
    node_pods: "fd00:10:244::/64",
    forwarding: "/proc/sys/net/ipv6/conf/all/forwarding",
};

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_as_the_cluster_is() {
        let up = Flavour {
            kubernetes: Minor::V34,
            ip_families: IpFamilies::Dual,
        };
        assert!(Wanted::default().check(up).is_ok());
        let wanted = |kubernetes, ip_families| Wanted {
            kubernetes,
            ip_families,
        };
        assert!(wanted(Some(Minor::V34), None).check(up).is_ok());
        assert!(wanted(Some(Minor::V36), None).check(up).is_err());
        let error = wanted(None, Some(IpFamilies::Ipv4)).check(up).unwrap_err();
        assert!(
            error.to_string().contains("Kubernetes 1.34 with dual"),
            "{error}"
        );
    }

    #[test]
    fn another_process_is_asked_for_the_same() {
        let wanted = Wanted {
            kubernetes: Some(Minor::V37),
            ip_families: Some(IpFamilies::Ipv6),
        };
        assert_eq!(
            wanted.arguments(),
            ["--kubernetes=1.37", "--ip-families=ipv6"]
        );
        assert!(Wanted::default().arguments().is_empty());
    }

    #[test]
    fn every_minor_is_a_release_of_its_own_name() {
        for minor in Minor::value_variants() {
            let release = minor.release().unwrap();
            assert!(
                release.starts_with(&format!("{minor}.")),
                "{minor}: {release}"
            );
        }
    }
}
